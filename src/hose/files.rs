//! Names of event log files, `events-SS-YYYYMMDDTHHMMSS-NNNN.jsonl`: shard, UTC time of creation,
//! and a number that no other file of the shard has. They sort in the order of their making.

use core::fmt;

use crate::base::time::Wall;
use crate::types::id::ShardId;

const PREFIX: &str = "events-";
const SUFFIX: &str = ".jsonl";
const STAMP_BYTES: usize = 15;

/// The parts of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileName {
    pub shard: ShardId,
    /// `YYYYMMDDTHHMMSS`, UTC.
    pub stamp: String,
    pub number: u32,
}

impl FileName {
    pub fn new(shard: ShardId, at: Wall, number: u32) -> FileName {
        let mut stamp = at.rfc3339().to_string();
        stamp.retain(|c| c != '-' && c != ':');
        stamp.truncate(STAMP_BYTES);
        FileName {
            shard,
            stamp,
            number,
        }
    }

    /// Nothing if the file is not one of the event log.
    pub fn parse(name: &str) -> Option<FileName> {
        let parts = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let mut parts = parts.splitn(3, '-');
        let shard = number(parts.next()?)?;
        let stamp = parts.next()?;
        let number = number(parts.next()?)?;
        let digit = |(at, byte): (usize, u8)| {
            (byte == b'T') == (at == 8) && (at == 8 || byte.is_ascii_digit())
        };
        if stamp.len() != STAMP_BYTES || !stamp.bytes().enumerate().all(digit) {
            return None;
        }
        Some(FileName {
            shard: ShardId(u8::try_from(shard).ok()?),
            stamp: stamp.to_owned(),
            number,
        })
    }

    /// What orders files over all shards by age.
    pub fn age_key(&self) -> (&str, u32) {
        (&self.stamp, self.number)
    }
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PREFIX}{:02}-{}-{:04}{SUFFIX}",
            self.shard.0, self.stamp, self.number
        )
    }
}

/// Bytes of `tail` up to and with its last line end: what a reader may see.
pub fn whole_lines(tail: &[u8]) -> usize {
    memchr::memrchr(b'\n', tail).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_shard_time_and_number_and_sort_by_age() {
        let name = FileName::new(ShardId(3), Wall::from_secs(951_826_155), 12);
        assert_eq!(name.to_string(), "events-03-20000229T120915-0012.jsonl");
        assert_eq!(FileName::parse(&name.to_string()), Some(name.clone()));
        let later = FileName::new(ShardId(3), Wall::from_secs(951_826_156), 11);
        assert!(later.age_key() > name.age_key());
    }

    #[test]
    fn other_files_are_not_taken_for_ours() {
        let names = [
            "",
            "events-.jsonl",
            "events-00-20000229T120915-0012.jsonl.gz",
            "events-00-20000229T120915.jsonl",
            "events-00-200002291120915-0012.jsonl",
            "events-00-20000229T12091x-0012.jsonl",
            "events-300-20000229T120915-0012.jsonl",
            "events-+1-20000229T120915-0012.jsonl",
            "events-00-20000229T120915-00/2.jsonl",
        ];
        for name in names {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_torn_line_is_no_line() {
        for (tail, whole) in [
            ("", 0),
            ("{}", 0),
            ("{}\n", 3),
            ("{}\n{", 3),
            ("{}\n{}\n", 6),
        ] {
            assert_eq!(whole_lines(tail.as_bytes()), whole, "{tail:?}");
        }
    }
}
