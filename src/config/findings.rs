//! The findings of one load, bounded: a hostile file makes neither a long list nor a slow one.

use crate::base::units::are;
use crate::base::units::counted;

use super::diagnostic::Diagnostic;
use super::diagnostic::ERRORS_MAX;
use super::diagnostic::Severity;
use super::source::Sources;
use super::source::Span;

/// What was found so far.
#[derive(Debug, Default)]
pub struct Findings {
    errors: Vec<Diagnostic>,
    advice: Vec<Diagnostic>,
    errors_dropped: usize,
    advice_dropped: usize,
}

impl Findings {
    /// Adds an error at a span. The result takes a suggestion; none when the list is full, before
    /// any work is done for the finding.
    pub fn error(
        &mut self,
        sources: &Sources,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) -> Option<&mut Diagnostic> {
        if self.errors.len() == ERRORS_MAX {
            self.errors_dropped += 1;
            return None;
        }
        let finding = placed(sources, Severity::Error, code, span, message.into());
        self.errors.push(finding.expected(expected));
        self.errors.last_mut()
    }

    /// Adds a warning at a span.
    pub fn warning(
        &mut self,
        sources: &Sources,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) {
        if self.advice.len() == ERRORS_MAX {
            self.advice_dropped += 1;
            return;
        }
        let finding = placed(sources, Severity::Warning, code, span, message.into());
        self.advice.push(finding.expected(expected));
    }

    /// Adds a finding without a place.
    pub fn whole(&mut self, finding: Diagnostic) {
        match finding.severity {
            Severity::Error => self.errors.push(finding),
            Severity::Warning | Severity::Note => self.advice.push(finding),
        }
    }

    /// True if the configuration is refused.
    pub fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Errors and warnings in the order of the files, and a last line for those not kept.
    pub fn into_sorted(mut self, sources: &Sources) -> Vec<Diagnostic> {
        let mut all = self.errors;
        all.append(&mut self.advice);
        Diagnostic::sort(&mut all, |name| sources.order(name));
        let dropped = [
            (self.errors_dropped, Severity::Error, "E000", "error"),
            (self.advice_dropped, Severity::Warning, "W000", "warning"),
        ];
        for (count, severity, code, what) in dropped {
            if count > 0 {
                let count = count as u64;
                let more = counted(count, &format!("more {what}"));
                let message = format!("{more} {} not shown", are(count));
                all.push(Diagnostic::whole(severity, code, message));
            }
        }
        all
    }
}

fn placed(
    sources: &Sources,
    severity: Severity,
    code: &'static str,
    span: Span,
    message: String,
) -> Diagnostic {
    let mut finding = Diagnostic::whole(severity, code, message);
    finding.place = Some(sources.place(span));
    finding.excerpt = Some(sources.excerpt(span));
    finding
}
