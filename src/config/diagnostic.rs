//! What is said about a configuration: errors, warnings and notes with place, offending line,
//! expectation and suggestion. Codes are stable: documentation and scripts may rely on them.

use core::fmt;

/// Findings of one severity kept for one load; what comes after is only counted.
pub const ERRORS_MAX: usize = 50;
/// Columns of a source line that are shown; a longer line is cut around the caret.
const SOURCE_COLUMNS_MAX: usize = 120;

/// How much a diagnostic matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is accepted; the operator should know.
    Warning,
    /// A property of this version that `pelton check` always prints.
    Note,
}

impl Severity {
    /// The word printed before the message, and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// A place in a source file, as an editor counts it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The name of the source file.
    pub file: String,
    /// 1-based line.
    pub line: u32,
    /// 1-based column in characters.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// The line a diagnostic points at, and which part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The whole source line, without its line end.
    pub line: String,
    /// Characters of the offending part, at least 1.
    pub width: u32,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable: `E0xx`, `W0xx`, `N0xx`.
    pub code: &'static str,
    /// Where; none when it concerns the configuration as a whole.
    pub place: Option<Place>,
    /// The offending line.
    pub excerpt: Option<Excerpt>,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What would have been right: follows the word `expected`.
    pub expected: Option<String>,
    /// A name the writer may have meant.
    pub suggestion: Option<String>,
}

impl Diagnostic {
    /// A finding without a place.
    pub fn whole(severity: Severity, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Diagnostic {
            severity,
            code,
            place: None,
            excerpt: None,
            message,
            expected: None,
            suggestion: None,
        }
    }

    /// Adds what would have been right.
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// Adds a name that may have been meant.
    pub fn suggest(mut self, suggestion: Option<impl Into<String>>) -> Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }

    /// The order in which findings are shown: by file, line, column; errors before warnings.
    pub fn sort(findings: &mut [Diagnostic], file_order: impl Fn(&str) -> usize) {
        findings.sort_by(|a, b| {
            let key = |it: &Diagnostic| match &it.place {
                Some(place) => (0, file_order(&place.file), place.line, place.column),
                None => (1, 0, 0, 0),
            };
            (key(a), a.severity, a.code).cmp(&(key(b), b.severity, b.code))
        });
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(
            f,
            "{}: {} {}",
            self.severity.word(),
            self.code,
            printable(&self.message)
        )?;
        if let (Some(place), Some(excerpt)) = (&self.place, &self.excerpt) {
            write_excerpt(f, place, excerpt)?;
        }
        if let Some(expected) = &self.expected {
            write!(f, "\n  expected {}", printable(expected))?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "\n  did you mean \"{}\"?", printable(suggestion))?;
        }
        Ok(())
    }
}

fn write_excerpt(f: &mut fmt::Formatter<'_>, place: &Place, excerpt: &Excerpt) -> fmt::Result {
    let column = place.column as usize - 1;
    let skip = (column + 20).saturating_sub(SOURCE_COLUMNS_MAX);
    let shown: String = excerpt
        .line
        .chars()
        .skip(skip)
        .take(SOURCE_COLUMNS_MAX)
        .collect();
    let shown = printable(shown.trim_end());
    let number = place.line.to_string();
    let room = SOURCE_COLUMNS_MAX - (column - skip);
    let carets = "^".repeat((excerpt.width as usize).clamp(1, room.max(1)));
    let margin = " ".repeat(number.len());
    let indent = " ".repeat(column - skip);
    write!(f, "\n  {number} | {shown}")?;
    write!(f, "\n  {margin} | {indent}{carets}")
}

/// One column per character: controls and tabs become a space, so that a hostile file cannot drive
/// the terminal and the caret stays below its character.
fn printable(text: &str) -> String {
    text.chars()
        .map(|it| if it.is_control() { ' ' } else { it })
        .collect()
}

/// The name within two edits of `wrong`, nearest first, ties in the order given. Short names must
/// be nearer, or every three-letter word would suggest every other.
pub fn near_miss<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let distance_max = if wrong.chars().count() <= 4 { 1 } else { 2 };
    let mut best: Option<(usize, &str)> = None;
    for name in names {
        if name.len().abs_diff(wrong.len()) > 8 {
            continue;
        }
        let distance = strsim::osa_distance(&wrong, &name.to_lowercase());
        if distance <= distance_max && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, name));
        }
    }
    best.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(line: &str, column: u32, width: u32) -> Diagnostic {
        let mut it = Diagnostic::whole(Severity::Error, "E011", "unknown option \"max_retris\"");
        it.place = Some(Place {
            file: "a.conf".to_string(),
            line: 12,
            column,
        });
        it.excerpt = Some(Excerpt {
            line: line.to_string(),
            width,
        });
        it.expected("an option of the global scope")
            .suggest(Some("max_retries"))
    }

    #[test]
    fn a_finding_shows_place_line_caret_expectation_and_suggestion() {
        let text = sample("\tmax_retris = 3", 2, 10).to_string();
        let expected = "a.conf:12:2: error: E011 unknown option \"max_retris\"\n  \
            12 |  max_retris = 3\n     |  ^^^^^^^^^^\n  expected an option of the global scope\n  \
            did you mean \"max_retries\"?";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret_and_controls_do_not_reach_the_terminal() {
        let line = format!("{}\u{1b}[31mX{}", "a".repeat(5_000), "b".repeat(5_000));
        let text = sample(&line, 5_006, 90_000).to_string();
        assert!(!text.contains('\u{1b}'));
        assert!(
            text.lines()
                .all(|it| it.chars().count() <= SOURCE_COLUMNS_MAX + 10),
            "{text}"
        );
        let lines: Vec<&str> = text.lines().collect();
        let caret = lines[2].find('^').expect("a caret");
        assert_eq!(&lines[1][caret..=caret], "X");
    }

    #[test]
    fn near_misses_are_within_two_edits_and_short_names_within_one() {
        let names = ["retry_interval", "max_retries", "tls", "gateway"];
        let cases = [
            ("retry_intervall", Some("retry_interval")),
            ("RETRY_INTERVAL", Some("retry_interval")),
            ("max_rteries", Some("max_retries")),
            ("gatways", Some("gateway")),
            ("tsl", Some("tls")),
            ("abc", None),
            ("max_outbound", None),
        ];
        for (wrong, expected) in cases {
            assert_eq!(near_miss(wrong, names.into_iter()), expected, "{wrong}");
        }
    }
}
