//! The zone of the responder: records and misbehaviour by name, read from lines of text.

use core::net::Ipv4Addr;
use core::net::Ipv6Addr;
use core::time::Duration;

use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::AAAA;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::rdata::MX;
use hickory_proto::rr::rdata::TXT;

use crate::base::map::Map;
use crate::base::units;

/// Records and marks of one zone.
pub const ENTRIES_MAX: usize = 1_000_000;

/// The format of a zone file, for `--help`.
pub const FORMAT: &str = "\
ZONE FILE
  One record a line, `#` or `;` begins a comment. A name that begins with `*.` stands for every
  name below that has no line of its own. A name without any line does not exist (NXDOMAIN).

    NAME  MX        PREFERENCE HOST     `0 .` is a null MX
    NAME  A         IPv4
    NAME  AAAA      IPv6
    NAME  CNAME     NAME
    NAME  TXT       text to the end of the line
    NAME  NXDOMAIN                      does not exist, although a wildcard would match
    NAME  SERVFAIL                      every question fails; so does REFUSED
    NAME  SILENT                        no answer at all
    NAME  DELAY     DURATION            answers after this long
    $TTL  SECONDS                       of the lines that follow; at first 60
";

/// How a name answers apart from its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mark {
    #[default]
    None,
    NxDomain,
    ServFail,
    Refused,
    Silent,
}

/// What the zone says of one name.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    pub mark: Mark,
    pub delay: Duration,
    /// Time to live in seconds, and the record.
    pub records: Vec<(u32, RData)>,
}

/// Names and what is said of them. Names are lower case, without the last dot.
#[derive(Debug, Clone)]
pub struct Zone {
    entries: Map<String, Entry>,
    count: usize,
    ttl_s: u32,
}

/// A line of a zone file that cannot be meant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("zone line {line}: {what}")]
pub struct ZoneError {
    pub line: usize,
    pub what: String,
}

impl Default for Zone {
    fn default() -> Zone {
        Zone {
            entries: Map::default(),
            count: 0,
            ttl_s: 60,
        }
    }
}

impl Zone {
    /// Reads the lines of a zone file (see [`FORMAT`]).
    pub fn parse(text: &str) -> Result<Zone, ZoneError> {
        let mut zone = Zone::default();
        for (index, line) in text.lines().enumerate() {
            zone.line(line).map_err(|what| ZoneError {
                line: index + 1,
                what,
            })?;
        }
        Ok(zone)
    }

    /// What is said of a lower-case name without its last dot: by its own lines, or by those of
    /// the closest wildcard above it.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        if let Some(entry) = self.entries.get(name) {
            return Some(entry);
        }
        let mut rest = name;
        loop {
            rest = rest.split_once('.').map_or("", |(_, parent)| parent);
            let wildcard = if rest.is_empty() {
                "*".to_owned()
            } else {
                format!("*.{rest}")
            };
            if let Some(entry) = self.entries.get(&wildcard) {
                return Some(entry);
            }
            if rest.is_empty() {
                return None;
            }
        }
    }

    /// Seconds for which a client may remember that something does not exist.
    pub fn negative_ttl_s(&self) -> u32 {
        self.ttl_s
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let line = line.split(['#', ';']).next().unwrap_or_default().trim();
        let (name, rest) = split_word(line);
        if name.is_empty() {
            return Ok(());
        }
        if name.eq_ignore_ascii_case("$ttl") {
            self.ttl_s = rest
                .parse()
                .map_err(|_| format!("`{rest}` is not a number of seconds"))?;
            return Ok(());
        }
        if self.count == ENTRIES_MAX {
            return Err(format!("more than {ENTRIES_MAX} lines"));
        }
        let (kind, value) = split_word(rest);
        let change = Change::parse(&kind.to_ascii_uppercase(), value)?;
        Name::from_ascii(name.trim_start_matches("*."))
            .map_err(|_| format!("`{name}`: no name"))?;
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.count += 1;
        let ttl_s = self.ttl_s;
        let entry = self.entries.entry(name).or_default();
        match change {
            Change::Mark(mark) => entry.mark = mark,
            Change::Delay(delay) => entry.delay = delay,
            Change::Record(record) => entry.records.push((ttl_s, record)),
        }
        Ok(())
    }
}

enum Change {
    Mark(Mark),
    Delay(Duration),
    Record(RData),
}

impl Change {
    fn parse(kind: &str, value: &str) -> Result<Change, String> {
        let bad = || format!("`{value}` is not what {kind} takes");
        let name = |text: &str| Name::from_ascii(absolute(text)).map_err(|_| bad());
        let mark = |mark| match value {
            "" => Ok(Change::Mark(mark)),
            _ => Err(bad()),
        };
        Ok(Change::Record(match kind {
            "NXDOMAIN" => return mark(Mark::NxDomain),
            "SERVFAIL" => return mark(Mark::ServFail),
            "REFUSED" => return mark(Mark::Refused),
            "SILENT" => return mark(Mark::Silent),
            "DELAY" => {
                return units::parse_duration(value)
                    .map(Change::Delay)
                    .ok_or_else(bad);
            }
            "MX" => {
                let (preference, host) = split_word(value);
                let preference = preference.parse().map_err(|_| bad())?;
                if host.is_empty() {
                    return Err(bad());
                }
                RData::MX(MX::new(preference, name(host)?))
            }
            "A" => RData::A(A(value.parse::<Ipv4Addr>().map_err(|_| bad())?)),
            "AAAA" => RData::AAAA(AAAA(value.parse::<Ipv6Addr>().map_err(|_| bad())?)),
            "CNAME" if !value.is_empty() => RData::CNAME(CNAME(name(value)?)),
            "TXT" => {
                let chunks = value.as_bytes().chunks(255);
                RData::TXT(TXT::from_bytes(chunks.collect()))
            }
            _ => return Err(format!("`{kind}`: unknown, or without its value")),
        }))
    }
}

fn absolute(name: &str) -> String {
    match name.ends_with('.') {
        true => name.to_owned(),
        false => format!("{name}."),
    }
}

fn split_word(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim()),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_by_its_own_lines_or_by_the_closest_wildcard() {
        let zone = Zone::parse(
            "# all kinds\n$TTL 5\nA.example. MX 10 mx.a.example\n*.example A 127.0.0.9 ; all\n\
             x.b.example NXDOMAIN\n*.b.example SERVFAIL\nmx.a.example AAAA ::1\n",
        )
        .expect("a good zone");
        let mark = |name: &str| zone.entry(name).map(|entry| entry.mark);
        assert_eq!(
            zone.entry("a.example").map(|entry| entry.records[0].0),
            Some(5)
        );
        assert_eq!(mark("other.example"), Some(Mark::None));
        assert_eq!(mark("x.b.example"), Some(Mark::NxDomain));
        assert_eq!(mark("y.b.example"), Some(Mark::ServFail));
        assert!(zone.entry("example").is_none());
        assert!(zone.entry("a.test").is_none());
        assert!(
            Zone::parse("* A 127.0.0.1")
                .expect("good")
                .entry("anything.test")
                .is_some()
        );
    }

    #[test]
    fn a_line_that_cannot_be_meant_is_named() {
        let lines = [
            "a.example",
            "a.example PTR x",
            "a.example MX 10",
            "a.example MX ten mx.example",
            "a.example A ::1",
            "a.example AAAA 127.0.0.1",
            "a.example CNAME",
            "a.example SILENT please",
            "a.example DELAY soon",
            "$TTL long",
            "a..example A 127.0.0.1",
        ];
        for line in lines {
            let error = Zone::parse(&format!("\n{line}\n")).expect_err(line);
            assert_eq!(error.line, 2, "{line}");
        }
    }
}
