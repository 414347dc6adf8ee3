//! Names of domains: the set of `Relay_Domains`, and the regular expressions of `domain` and
//! `host` stanzas. A pattern has a bounded number of steps per name: no name can stall a shard.

use std::collections::BTreeSet;

use fancy_regex::Regex;
use fancy_regex::RegexBuilder;

/// Bytes of one pattern.
pub const PATTERN_BYTES_MAX: usize = 4_096;
/// Bytes of a name that is looked up; a longer one matches nothing (RFC 1035 allows 255).
pub const NAME_BYTES_MAX: usize = 255;
/// Steps of one match; about a millisecond. What needs more does not match.
const BACKTRACK_STEPS_MAX: usize = 20_000;
/// Bytes of a compiled pattern.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A compiled pattern: unanchored, blind to case.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles the text between the slashes. The error says what is wrong.
    pub fn new(source: &str) -> Result<Self, String> {
        if source.len() > PATTERN_BYTES_MAX {
            return Err(format!("longer than {PATTERN_BYTES_MAX} bytes"));
        }
        let regex = RegexBuilder::new(source)
            .case_insensitive(true)
            .backtrack_limit(BACKTRACK_STEPS_MAX)
            .delegate_size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| error.to_string().lines().collect::<Vec<_>>().join(" "))?;
        Ok(Pattern {
            source: source.to_string(),
            regex,
        })
    }

    /// The text between the slashes.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// True if some part of a text matches, which whoever has it keeps short; a match that needs
    /// too many steps does not.
    pub fn finds(&self, text: &str) -> bool {
        self.regex.is_match(text).unwrap_or(false)
    }

    /// True if some part of the name matches; a match that needs too many steps does not.
    pub fn matches(&self, name: &str) -> bool {
        name.len() <= NAME_BYTES_MAX && self.regex.is_match(name).unwrap_or(false)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

/// The text between the slashes of `/…/`, if it is one.
pub fn pattern_of(text: &str) -> Option<&str> {
    text.strip_prefix('/')?.strip_suffix('/')
}

/// The form in which names are compared: lower-case A-labels, without a final dot. A name that IDNA
/// refuses stays as it is, and so equals itself only.
pub fn normal(name: &str) -> String {
    let name = name
        .strip_suffix('.')
        .filter(|it| !it.is_empty())
        .unwrap_or(name);
    if !name.is_ascii()
        && let Ok(name) = idna::domain_to_ascii(name)
    {
        return name;
    }
    name.to_ascii_lowercase()
}

/// A set of domains: exact names, `*.name` for everything below a name, and `/patterns/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainSet {
    exact: BTreeSet<String>,
    parents: BTreeSet<String>,
    patterns: Vec<Pattern>,
    everything: bool,
}

impl DomainSet {
    /// Adds an item as the option writes it. The error says what is wrong.
    pub fn add(&mut self, item: &str) -> Result<(), String> {
        if let Some(source) = pattern_of(item) {
            self.patterns.push(Pattern::new(source)?);
        } else if item == "*" {
            self.everything = true;
        } else if let Some(parent) = item.strip_prefix("*.") {
            check_name(parent)?;
            self.parents.insert(normal(parent));
        } else {
            check_name(item)?;
            self.exact.insert(normal(item));
        }
        Ok(())
    }

    /// True if the set contains the domain.
    pub fn contains(&self, domain: &str) -> bool {
        if domain.is_empty() || domain.len() > NAME_BYTES_MAX {
            return false;
        }
        let domain = normal(domain);
        let below = || domain.match_indices('.').map(|(at, _)| &domain[at + 1..]);
        self.everything
            || self.exact.contains(&domain)
            || (!self.parents.is_empty() && below().any(|it| self.parents.contains(it)))
            || self.patterns.iter().any(|it| it.matches(&domain))
    }

    /// True if every domain is in the set by `*`.
    pub fn contains_everything(&self) -> bool {
        self.everything
    }

    /// The items in a fixed order, as the option writes them.
    pub fn items(&self) -> Vec<String> {
        let star = self.everything.then(|| "*".to_string());
        let parents = self.parents.iter().map(|it| format!("*.{it}"));
        let patterns = self.patterns.iter().map(|it| format!("/{}/", it.source));
        star.into_iter()
            .chain(self.exact.iter().cloned())
            .chain(parents)
            .chain(patterns)
            .collect()
    }
}

/// Refuses what can never be a domain in a message: the writer meant something else.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name == "." {
        return Err("the name is empty".to_string());
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("the name is longer than {NAME_BYTES_MAX} bytes"));
    }
    if !name.is_ascii() {
        return Err("the name must be in its ASCII form (xn--…)".to_string());
    }
    let bad = |it: char| it.is_whitespace() || it.is_control() || "@,;<>()\"\\/*".contains(it);
    if let Some(character) = name.chars().find(|it| bad(*it)) {
        return Err(format!("a name does not contain {character:?}"));
    }
    match name.starts_with('.') || name.contains("..") {
        true => Err("a label of the name is empty".to_string()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_set_knows_exact_names_names_below_and_patterns() {
        let mut set = DomainSet::default();
        for item in ["Example.com", "*.sub.example", "/^mx[0-9]+\\./"] {
            set.add(item).expect(item);
        }
        let cases = [
            ("example.com", true),
            ("EXAMPLE.COM.", true),
            ("a.example.com", false),
            ("sub.example", false),
            ("a.sub.example", true),
            ("a.b.SUB.example", true),
            ("asub.example", false),
            ("mx12.any", true),
            ("MX12.any", true),
            ("", false),
        ];
        for (domain, expected) in cases {
            assert_eq!(set.contains(domain), expected, "{domain}");
        }
        assert!(!set.contains(&"a.".repeat(200)));
        assert_eq!(
            set.items(),
            ["example.com", "*.sub.example", "/^mx[0-9]+\\./"]
        );
    }

    #[test]
    fn names_that_can_be_no_domain_are_refused() {
        for name in ["", ".", "a b", "a@b", ".a", "a..b", "ä.example", "a,b"] {
            assert!(DomainSet::default().add(name).is_err(), "{name}");
        }
        for name in [
            "a",
            "a.b",
            "[127.0.0.1]",
            "[ipv6:::1]",
            "#spe_relay",
            "_x.y",
        ] {
            assert!(DomainSet::default().add(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_pattern_that_would_run_for_ever_gives_up_and_does_not_match() {
        let pattern = Pattern::new(r"^(a|a|aa)+\1x$(?<=x)").expect("compiles");
        assert!(!pattern.matches(&"a".repeat(250)));
        assert!(Pattern::new("(").is_err());
        assert!(Pattern::new(&"a".repeat(PATTERN_BYTES_MAX + 1)).is_err());
        assert!(Pattern::new(&"(a{900}){900}".repeat(3)).is_err());
    }

    #[test]
    fn items_that_could_never_match_are_refused_and_a_runaway_pattern_matches_nothing() {
        for item in ["", "*.", "a b.example"] {
            assert!(DomainSet::default().add(item).is_err(), "{item}");
        }
        let mut set = DomainSet::default();
        set.add("/^(a|a|ab)*?(?=b)c/").unwrap();
        assert!(!set.contains(&"a".repeat(200)));
    }

    #[test]
    fn names_are_compared_as_a_labels() {
        let mut set = DomainSet::default();
        set.add("xn--bcher-kva.example").unwrap();
        assert!(set.contains("xn--bcher-kva.example") && set.contains("b\u{fc}cher.EXAMPLE."));
    }
}
