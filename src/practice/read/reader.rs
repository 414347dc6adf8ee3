//! Options and stanzas by name, with what is wrong about them.

use core::time::Duration;

use crate::base::throttle::Rate;
use crate::base::units;
use crate::config::Diagnostic;
use crate::config::Findings;
use crate::config::Item;
use crate::config::RawValue;
use crate::config::Severity;
use crate::config::Sources;
use crate::config::Span;
use crate::config::Word;
use crate::config::near_miss;
use crate::practice::HOUR;
use crate::practice::SECOND;

/// A value or name that cannot be meant, in a scenario.
const CODE: &str = "E090";
/// Something that is not there.
const MISSING: &str = "E091";

pub struct Reader {
    pub sources: Sources,
    pub findings: Findings,
    /// The end of the scenario, once it is known.
    pub ends_us: u64,
}

/// A stanza and what is in it.
pub struct Stanza<'a> {
    pub span: Span,
    pub instance: Option<&'a Word>,
    items: &'a [Item],
}

impl<'a> Stanza<'a> {
    /// The whole file.
    pub fn top(items: &'a [Item]) -> Stanza<'a> {
        let span = Span {
            file: 0,
            start: 0,
            end: 0,
        };
        Stanza {
            span,
            instance: None,
            items,
        }
    }

    pub fn stanzas(&self, wanted: &str) -> Vec<Stanza<'a>> {
        let found = self.items.iter().filter_map(|item| match item {
            Item::Stanza {
                name,
                instance,
                items,
            } if name.text.eq_ignore_ascii_case(wanted) => Some(Stanza {
                span: name.span,
                instance: instance.as_ref(),
                items,
            }),
            _ => None,
        });
        found.collect()
    }

    /// The last assignment of an option, as in the configuration.
    fn option(&self, wanted: &str) -> Option<&'a RawValue> {
        self.items.iter().rev().find_map(|item| match item {
            Item::Option { name, value } if name.text.eq_ignore_ascii_case(wanted) => Some(value),
            _ => None,
        })
    }

    pub fn has(&self, wanted: &str) -> bool {
        self.option(wanted).is_some()
    }

    pub fn span_of(&self, wanted: &str) -> Option<Span> {
        self.option(wanted).map(RawValue::span)
    }
}

impl Reader {
    /// Names that may stand in a stanza; others are told.
    pub fn names(&mut self, stanza: &Stanza<'_>, known: &[&str]) {
        for item in stanza.items {
            let (name, what) = match item {
                Item::Option { name, .. } => (name, "option"),
                Item::Stanza { name, .. } => (name, "stanza"),
                Item::Include { path, .. } => (path, "include"),
            };
            let is_known = known.iter().any(|it| it.eq_ignore_ascii_case(&name.text));
            if is_known && what != "include" {
                continue;
            }
            let message = match what {
                "include" => "a scenario includes no other files".to_string(),
                _ => format!("unknown {what} \"{}\"", name.text),
            };
            let expected = format!("one of {}", known.join(", "));
            let (sources, findings) = (&self.sources, &mut self.findings);
            let finding = findings.error(sources, CODE, name.span, message, expected);
            if let Some(finding) = finding {
                let meant = near_miss(&name.text, known.iter().copied());
                finding.suggestion = meant.map(str::to_string);
            }
        }
    }

    pub fn wrong(&mut self, span: Option<Span>, message: &str, expected: &str) {
        match span {
            Some(span) => {
                let sources = &self.sources;
                self.findings.error(sources, CODE, span, message, expected);
            }
            None => self.missing(message, expected),
        }
    }

    pub fn missing(&mut self, message: &str, expected: &str) {
        let finding = Diagnostic::whole(Severity::Error, MISSING, message);
        self.findings.whole(finding.expected(expected));
    }

    /// The only stanza of that name.
    pub fn only<'a>(&mut self, stanza: &Stanza<'a>, name: &str) -> Option<Stanza<'a>> {
        let mut found = stanza.stanzas(name);
        if let Some(second) = found.get(1) {
            let span = Some(second.span);
            self.wrong(span, &format!("{name} is there twice"), "one of them");
        }
        found.truncate(1);
        found.pop()
    }

    /// The name of a stanza that has to have one.
    pub fn name(&mut self, stanza: &Stanza<'_>, expected: &str) -> Option<String> {
        let good = |word: &&Word| {
            let fits = |it: char| it.is_ascii_alphanumeric() || "-_.".contains(it);
            (1..=63).contains(&word.text.len()) && word.text.chars().all(fits)
        };
        if let Some(word) = stanza.instance.filter(good) {
            return Some(word.text.clone());
        }
        let span = stanza.instance.map_or(stanza.span, |word| word.span);
        let expected = format!("{expected}: 1 to 63 letters, digits, `-`, `_` and `.`");
        self.wrong(Some(span), "this stanza needs a name", &expected);
        None
    }

    /// The words of an option, one or a list of them.
    pub fn words(&mut self, stanza: &Stanza<'_>, name: &str) -> Vec<Word> {
        match stanza.option(name) {
            None => Vec::new(),
            Some(RawValue::Word(word)) => vec![word.clone()],
            Some(RawValue::List(items, _)) => {
                let mut words = Vec::new();
                for item in items {
                    match item {
                        RawValue::Word(word) => words.push(word.clone()),
                        other => {
                            let span = Some(other.span());
                            self.wrong(span, "a list in a list", "words or numbers");
                        }
                    }
                }
                words
            }
            Some(other) => {
                let span = Some(other.span());
                self.wrong(
                    span,
                    &format!("{name} is no dictionary"),
                    "a value or a list",
                );
                Vec::new()
            }
        }
    }

    /// The one word of an option.
    pub fn word(&mut self, stanza: &Stanza<'_>, name: &str) -> Option<Word> {
        let mut words = self.words(stanza, name);
        if words.len() > 1 || (words.is_empty() && stanza.has(name)) {
            let span = stanza.span_of(name);
            self.wrong(span, &format!("{name} has one value"), "one value, no list");
        }
        words.truncate(1);
        words.pop()
    }

    pub fn number(&mut self, stanza: &Stanza<'_>, name: &str, low: u64, high: u64) -> Option<u64> {
        let word = self.word(stanza, name)?;
        self.number_of(&word, low, high)
    }

    pub fn number_of(&mut self, word: &Word, low: u64, high: u64) -> Option<u64> {
        let number = word.text.parse().ok();
        let found = number.filter(|it| (low..=high).contains(it));
        let expected = format!("a whole number from {low} to {high}");
        self.or_wrong(word, found, &expected)
    }

    pub fn size_of(&mut self, word: &Word, (low, high): (u64, u64)) -> Option<u64> {
        let found = units::parse_size(&word.text).filter(|it| (low..=high).contains(it));
        let expected = format!("a size from {} to {}", units::size(low), units::size(high));
        self.or_wrong(word, found, &expected)
    }

    pub fn duration(&mut self, stanza: &Stanza<'_>, name: &str) -> Option<u64> {
        let word = self.word(stanza, name)?;
        self.duration_of(&word)
    }

    pub fn duration_of(&mut self, word: &Word) -> Option<u64> {
        let found = units::parse_duration(&word.text);
        let found = found.map(|it| u64::try_from(it.as_micros()).unwrap_or(u64::MAX));
        self.or_wrong(word, found, "a duration such as 40ms, 30s or 1h30m")
    }

    pub fn moment(&mut self, stanza: &Stanza<'_>, name: &str) -> Option<u64> {
        let word = self.word(stanza, name)?;
        self.moment_of(&word)
    }

    /// A time since the start: of the clock, the first day beginning at 00:00, or a duration.
    pub fn moment_of(&mut self, word: &Word) -> Option<u64> {
        let expected = "a time such as 02:00, 26:30:00 or 90m after the start";
        let found = match word.text.contains(':') {
            true => clock(&word.text),
            false => units::parse_duration(&word.text).map(|it| it.as_micros() as u64),
        };
        self.or_wrong(word, found, expected)
    }

    /// A moment at which something begins: before the end, or nobody would ever see it.
    pub fn beginning_of(&mut self, word: &Word) -> Option<u64> {
        let at_us = self.moment_of(word)?;
        if at_us < self.ends_us {
            return Some(at_us);
        }
        let length = Duration::from_micros(self.ends_us);
        let expected = format!(
            "a time before the end: the scenario takes {}",
            units::duration(length)
        );
        let message = format!("\"{}\" is after the end of the scenario", word.text);
        self.wrong(Some(word.span), &message, &expected);
        None
    }

    pub fn rates(&mut self, stanza: &Stanza<'_>, name: &str) -> Vec<Rate> {
        let mut rates = Vec::new();
        for word in self.words(stanza, name) {
            let found = Rate::parse(&word.text).filter(|rate| {
                let holds = |it: &Rate| it.count <= 10_000_000 && it.window.as_secs() <= 86_400;
                rate.as_ref().is_none_or(holds)
            });
            let expected = "N, N/SECONDS or N/1h: at most 10000000 in at most a day, 0 for none";
            rates.extend(self.or_wrong(&word, found, expected).flatten());
        }
        rates
    }

    fn or_wrong<T>(&mut self, word: &Word, found: Option<T>, expected: &str) -> Option<T> {
        if found.is_none() {
            let message = format!("\"{}\" cannot be meant here", word.text);
            self.wrong(Some(word.span), &message, expected);
        }
        found
    }
}

/// `HH:MM` or `HH:MM:SS`; hours go on after 24.
fn clock(text: &str) -> Option<u64> {
    let mut parts = text.split(':').map(|part| part.parse::<u64>().ok());
    let (hours, minutes) = (parts.next()??, parts.next()??);
    let seconds = match parts.next() {
        None => 0,
        Some(seconds) => seconds?,
    };
    let fits = hours <= 24 * 366 && minutes < 60 && seconds < 60 && parts.next().is_none();
    fits.then_some(hours * HOUR + (minutes * 60 + seconds) * SECOND)
}
