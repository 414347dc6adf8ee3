//! The event log as a place to look things up: scans its files, the newest first, for the events
//! of one message, one batch or one recipient. Bounded in time by `since` and in bytes; a scan that
//! was cut short says so.

use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use crate::base::map::Set;
use crate::base::time::Wall;
use crate::engine::query::TraceTarget;
use crate::hose::FileName;
use crate::hose::LINE_BYTES_MAX;

/// Bytes one scan reads: some seconds from a fast disk, and more than a day of ten million
/// messages keeps hot.
pub const SCAN_BYTES_MAX: u64 = 8 << 30;

/// Events one scan keeps.
pub const EVENTS_MAX: usize = 20_000;

const BUFFER_BYTES: usize = 1 << 20;

/// What a scan found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Found {
    /// By time; each `event_id` once.
    pub events: Vec<Value>,
    pub files_read: usize,
    /// Why there may be more than is here.
    pub cut_short: Option<String>,
}

/// Bounds of a scan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Files that ended before are not read.
    pub since: Wall,
    pub bytes_max: u64,
    pub events_max: usize,
}

pub fn scan(folder: &Path, target: &TraceTarget, bounds: Bounds) -> io::Result<Found> {
    let mut scan = Scan {
        target,
        needle: needle(target),
        bounds,
        bytes: 0,
        injected_at: None,
        seen: Set::default(),
        found: Found::default(),
    };
    for file in files(folder)? {
        if file.modified < bounds.since {
            continue;
        }
        // Nothing of a message is older than its injection.
        if scan
            .injected_at
            .is_some_and(|injected| file.modified < injected)
        {
            break;
        }
        if !scan.read(&file.path)? {
            break;
        }
    }
    let time = |event: &Value| event["timestamp"].as_str().unwrap_or_default().to_owned();
    scan.found.events.sort_by_cached_key(time);
    Ok(scan.found)
}

struct LogFile {
    name: FileName,
    path: PathBuf,
    modified: Wall,
}

/// The files of the event log, the newest first.
fn files(folder: &Path) -> io::Result<Vec<LogFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(FileName::parse) else {
            continue;
        };
        // Retention may remove a file between the listing and this.
        let Ok(modified) = entry.metadata().and_then(|found| found.modified()) else {
            continue;
        };
        let since = modified
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let modified = Wall(u64::try_from(since.as_micros()).unwrap_or(u64::MAX));
        files.push(LogFile {
            name,
            path: entry.path(),
            modified,
        });
    }
    files.sort_by(|a, b| b.name.age_key().cmp(&a.name.age_key()));
    Ok(files)
}

/// Bytes that every line of interest holds; what holds them by chance is sorted out later.
fn needle(target: &TraceTarget) -> Vec<u8> {
    match target {
        TraceTarget::Batch(id) | TraceTarget::Message(id) => id.as_bytes().to_vec(),
        // A domain has no character that JSON would escape; a local part may.
        TraceTarget::Recipient(address) => {
            let domain = address
                .rsplit_once('@')
                .map_or(address.as_str(), |(_, domain)| domain);
            domain.as_bytes().to_vec()
        }
    }
}

struct Scan<'a> {
    target: &'a TraceTarget,
    needle: Vec<u8>,
    bounds: Bounds,
    bytes: u64,
    /// When the one message that is looked for was injected, once that is known.
    injected_at: Option<Wall>,
    seen: Set<String>,
    found: Found,
}

impl Scan<'_> {
    /// False when a bound is reached.
    fn read(&mut self, path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            file => file?,
        };
        self.found.files_read += 1;
        let finder = memchr::memmem::Finder::new(&self.needle).into_owned();
        let mut input = BufReader::with_capacity(BUFFER_BYTES, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let bytes = (&mut input)
                .take(LINE_BYTES_MAX as u64)
                .read_until(b'\n', &mut line)?;
            if bytes == 0 {
                return Ok(true);
            }
            self.bytes += bytes as u64;
            if finder.find(&line).is_some() {
                self.line(&line);
            }
            if self.bytes > self.bounds.bytes_max || self.seen.len() >= self.bounds.events_max {
                let name = path.display();
                let reason =
                    format!("the search ended in {name} at its bound: narrow it by --since");
                self.found.cut_short = Some(reason);
                return Ok(false);
            }
        }
    }

    /// Keeps the event if it is one that is looked for. A torn or damaged line is none.
    fn line(&mut self, line: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Value>(line) else {
            return;
        };
        let (member, wanted) = match self.target {
            TraceTarget::Batch(id) => ("batch_id", id),
            TraceTarget::Message(id) => ("message_id", id),
            TraceTarget::Recipient(address) => ("rcpt_to", address),
        };
        let is_wanted = event[member].as_str() == Some(wanted);
        let id = event["event_id"].as_str().unwrap_or_default();
        if !is_wanted || !self.seen.insert(id.to_owned()) {
            return;
        }
        if event["type"] == "injection" && matches!(self.target, TraceTarget::Message(_)) {
            let at = event["timestamp"]
                .as_str()
                .and_then(crate::cli::output::parse_time);
            self.injected_at = at;
        }
        self.found.events.push(event);
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    const ALL: Bounds = Bounds {
        since: Wall(0),
        bytes_max: u64::MAX,
        events_max: 100,
    };

    fn event(kind: &str, batch: u32, to: &str, second: u32) -> String {
        format!(
            "{{\"type\":\"{kind}\",\"event_id\":\"B{batch}-0-{kind}{second}\",\
             \"timestamp\":\"2026-01-01T00:00:{second:02}.000Z\",\"message_id\":\"B{batch}-0\",\
             \"batch_id\":\"B{batch}\",\"rcpt_to\":{}}}",
            serde_json::to_string(to).unwrap()
        )
    }

    fn ids(found: &Found) -> Vec<&str> {
        found
            .events
            .iter()
            .map(|event| event["event_id"].as_str().unwrap())
            .collect()
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |shard: u8, number: u32, text: &str| {
            let name = format!("events-{shard:02}-20260101T0000{number:02}-{number:04}.jsonl");
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        let mut old = event("injection", 1, "\"a b\"@x.example", 1) + "\n";
        writeln!(old, "{}", event("delay", 1, "\"a b\"@x.example", 2)).unwrap();
        writeln!(old, "{}", event("injection", 2, "c@x.example", 3)).unwrap();
        write(0, 1, &old);
        let mut new = event("delay", 1, "\"a b\"@x.example", 2) + "\n";
        writeln!(
            new,
            "{}\n\0\0\0\nB1-0 x.example",
            event("delivery", 1, "\"a b\"@x.example", 9)
        )
        .unwrap();
        new.push_str(&event("delivery", 11, "c@x.example", 8)[..60]);
        write(0, 2, &new);
        std::fs::write(folder.path().join("events.txt"), &old).unwrap();
        folder
    }

    #[test]
    fn events_are_found_once_in_the_order_of_time_whatever_else_is_there() {
        let folder = folder();
        let of = |target| scan(folder.path(), &target, ALL).unwrap();
        let message = of(TraceTarget::Message("B1-0".into()));
        let expected = ["B1-0-injection1", "B1-0-delay2", "B1-0-delivery9"];
        assert_eq!(ids(&message), expected);
        assert_eq!(ids(&of(TraceTarget::Batch("B1".into()))), expected);
        assert_eq!(
            ids(&of(TraceTarget::Recipient("\"a b\"@x.example".into()))),
            expected
        );
        assert_eq!(
            ids(&of(TraceTarget::Recipient("c@x.example".into()))),
            ["B2-0-injection3"]
        );
        assert_eq!(message.cut_short, None);
        assert_eq!(message.files_read, 2);
    }

    #[test]
    fn a_scan_ends_at_its_bounds_and_says_so() {
        let folder = folder();
        let target = TraceTarget::Message("B1-0".into());
        let few = Bounds {
            events_max: 1,
            ..ALL
        };
        let found = scan(folder.path(), &target, few).unwrap();
        assert_eq!((found.events.len(), found.files_read), (1, 1));
        assert!(found.cut_short.is_some());
        let short = Bounds {
            bytes_max: 10,
            ..ALL
        };
        assert!(
            scan(folder.path(), &target, short)
                .unwrap()
                .cut_short
                .is_some()
        );
        let late = Bounds {
            since: Wall::MAX,
            ..ALL
        };
        assert_eq!(
            scan(folder.path(), &target, late).unwrap(),
            Found::default()
        );
        assert!(scan(&folder.path().join("none"), &target, ALL).is_err());
    }
}
