//! Compares what a generator was told with what a sink received. The file of acknowledged
//! messages has one line a message, `RUN-NUMBER SIZE RECIPIENT[,RECIPIENT...]`; the capture file is
//! the sink's. Everything is counted per delivery, which is one message to one recipient.

use std::io;
use std::io::BufRead;

use serde::Serialize;

use super::content::BlastId;
use super::content::Checked;
use super::content::Content;
use crate::base::map::Map;
use crate::base::map::Set;
use crate::base::prng::hash_bytes;
use crate::rig::base64;
use crate::rig::sink::capture::Record;

/// Examples of each kind of fault in a report.
pub const EXAMPLES_MAX: usize = 20;

/// The outcome of a comparison (`pelton-blast verify --json`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    pub schema: &'static str,
    /// Messages that the generator was told `250` for.
    pub acknowledged_messages: u64,
    /// Deliveries that follow from them: one for every accepted recipient.
    pub acknowledged: u64,
    /// Messages in the capture file.
    pub captured_messages: u64,
    /// Acknowledged deliveries that arrived and were answered.
    pub delivered: u64,
    /// Acknowledged deliveries that never arrived with an answer.
    pub lost: u64,
    /// Those among the lost that arrived, but were dropped without a final reply on purpose.
    pub lost_unconfirmed: u64,
    /// Further arrivals of a delivery that had arrived and been answered before.
    pub duplicated: u64,
    /// Arrivals without a final reply, which a sender is right to repeat.
    pub unconfirmed: u64,
    /// Deliveries that arrived although no `250` for them reached the generator: allowed.
    pub unacknowledged_delivered: u64,
    /// Messages that no run in the acknowledged file sent.
    pub foreign: u64,
    /// Messages with an identity whose bytes differ from what was sent.
    pub corrupt: u64,
    /// Last lines that were cut off when their writer was killed; not counted above.
    pub torn_lines: u64,
    pub lost_examples: Vec<String>,
    pub duplicated_examples: Vec<String>,
    pub corrupt_examples: Vec<String>,
    pub foreign_examples: Vec<String>,
}

impl Verification {
    /// Nothing lost, foreign or corrupt, and no more duplicates than allowed.
    pub fn is_clean(&self, duplicates_max: u64) -> bool {
        self.lost == 0
            && self.foreign == 0
            && self.corrupt == 0
            && self.duplicated <= duplicates_max
    }
}

/// What is known of one delivery.
#[derive(Debug, Clone, Copy, Default)]
struct Delivery {
    acknowledged: bool,
    confirmed: u32,
    unconfirmed: u32,
}

/// The address stands for itself by its hash: a million addresses are too many to keep.
type DeliveryKey = (BlastId, u64);

struct Comparison {
    content: Content,
    scratch: Vec<u8>,
    runs: Set<u32>,
    deliveries: Map<DeliveryKey, Delivery>,
    result: Verification,
}

/// Reads both files to their ends and compares. An error is one of reading, or a line that is
/// neither whole nor the last.
pub fn verify(acked: impl BufRead, capture: impl BufRead) -> io::Result<Verification> {
    verify_runs(acked, capture, &[])
}

/// The same where messages of these runs are expected too, though perhaps none of them was
/// acknowledged.
pub fn verify_runs(
    acked: impl BufRead,
    capture: impl BufRead,
    runs: &[u32],
) -> io::Result<Verification> {
    let mut comparison = Comparison {
        content: Content::new(),
        scratch: Vec::new(),
        runs: runs.iter().copied().collect(),
        deliveries: Map::default(),
        result: Verification {
            schema: "pelton-blast.verify/1",
            ..Verification::default()
        },
    };
    let torn = each_line(acked, "acknowledged", |line| comparison.acknowledged(line))?;
    let torn = torn + each_line(capture, "capture", |line| comparison.captured(line))?;
    comparison.result.torn_lines = torn;
    Ok(comparison.conclude())
}

/// Calls `take` with every whole line; returns 1 if the last line was cut off, else 0.
fn each_line(
    mut file: impl BufRead,
    name: &str,
    mut take: impl FnMut(&[u8]) -> bool,
) -> io::Result<u64> {
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        line.clear();
        file.read_until(b'\n', &mut line)?;
        number += 1;
        match line.strip_suffix(b"\n") {
            None => return Ok(u64::from(!line.is_empty())),
            Some(whole) if take(whole) => {}
            Some(_) => {
                let reason = format!("line {number} of the {name} file makes no sense");
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
        }
    }
}

impl Comparison {
    fn acknowledged(&mut self, line: &[u8]) -> bool {
        let mut words = line.split(|byte| *byte == b' ');
        let id = words.next().and_then(BlastId::parse);
        let (Some(id), Some(_size), Some(recipients)) = (id, words.next(), words.next()) else {
            return false;
        };
        self.runs.insert(id.run);
        self.result.acknowledged_messages += 1;
        for recipient in recipients.split(|byte| *byte == b',') {
            self.delivery(id, recipient).acknowledged = true;
        }
        true
    }

    fn captured(&mut self, line: &[u8]) -> bool {
        let Ok(record) = serde_json::from_slice::<Record>(line) else {
            return false;
        };
        let Some(message) = base64::decode(record.body.as_bytes()) else {
            return false;
        };
        self.result.captured_messages += 1;
        let id = match self.content.check(&message, &mut self.scratch) {
            Checked::Whole(id) => id,
            Checked::Corrupt { id, at } => {
                self.result.corrupt += 1;
                let example = format!("{id} to {}: byte {at}", record.rcpts.join(","));
                keep(&mut self.result.corrupt_examples, || example);
                id
            }
            Checked::Foreign => return self.foreign(&record),
        };
        if !self.runs.contains(&id.run) {
            return self.foreign(&record);
        }
        for recipient in &record.rcpts {
            let delivery = self.delivery(id, recipient.as_bytes());
            if !record.final_reply {
                delivery.unconfirmed += 1;
                self.result.unconfirmed += 1;
                continue;
            }
            delivery.confirmed += 1;
            if delivery.confirmed > 1 {
                self.result.duplicated += 1;
                let example = || format!("{id} to {recipient}");
                keep(&mut self.result.duplicated_examples, example);
            }
        }
        true
    }

    fn foreign(&mut self, record: &Record) -> bool {
        self.result.foreign += 1;
        let example = || format!("from {} to {}", record.mail_from, record.rcpts.join(","));
        keep(&mut self.result.foreign_examples, example);
        true
    }

    fn delivery(&mut self, id: BlastId, recipient: &[u8]) -> &mut Delivery {
        // Domains may change their case on the way; the generator never writes two users or
        // domains that differ in case only.
        let key = (id, hash_bytes(&recipient.to_ascii_lowercase()));
        self.deliveries.entry(key).or_default()
    }

    fn conclude(mut self) -> Verification {
        let result = &mut self.result;
        for ((id, _), delivery) in &self.deliveries {
            if !delivery.acknowledged {
                result.unacknowledged_delivered += u64::from(delivery.confirmed > 0);
                continue;
            }
            result.acknowledged += 1;
            if delivery.confirmed > 0 {
                result.delivered += 1;
                continue;
            }
            result.lost += 1;
            result.lost_unconfirmed += u64::from(delivery.unconfirmed > 0);
            keep(&mut result.lost_examples, || id.to_string());
        }
        self.result
    }
}

fn keep(examples: &mut Vec<String>, example: impl FnOnce() -> String) {
    if examples.len() < EXAMPLES_MAX {
        examples.push(example());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(numbers: &[u64]) -> String {
        let line = |number: &u64| {
            format!(
                "{} 600 u{number}@d.example\n",
                BlastId {
                    run: 5,
                    number: *number
                }
            )
        };
        numbers.iter().map(line).collect()
    }

    fn captured(number: u64, final_reply: bool, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut message = b"Received: by x\r\n".to_vec();
        Content::new().append(BlastId { run: 5, number }, 600, &mut message);
        change(&mut message);
        let mut body = Vec::new();
        base64::encode_into(&message, &mut body);
        let record = serde_json::json!({
            "received_us": 1, "peer": "127.0.0.1:1", "local": "127.0.0.1:2", "helo": "h",
            "mail_from": "s@x.example", "rcpts": [format!("u{number}@D.example")],
            "final_reply": final_reply, "size": message.len(),
            "body": String::from_utf8_lossy(&body),
        });
        format!("{record}\n")
    }

    fn check(acked: &str, capture: &str) -> Verification {
        verify(acked.as_bytes(), capture.as_bytes()).expect("both files are readable")
    }

    #[test]
    fn all_that_was_acknowledged_and_arrived_once_is_clean() {
        let capture = captured(1, true, |_| ()) + &captured(2, true, |_| ());
        let seen = check(&acked(&[1, 2]), &capture);
        assert_eq!((seen.acknowledged, seen.delivered), (2, 2));
        assert!(seen.is_clean(0));
    }

    #[test]
    fn each_planted_fault_is_found_and_named() {
        let good = captured(1, true, |_| ());
        let lost = check(&acked(&[1, 2]), &good);
        assert_eq!(
            (lost.lost, &lost.lost_examples[..]),
            (1, &["00000005-000000000002".into()][..])
        );
        let twice = check(&acked(&[1]), &good.repeat(3));
        assert_eq!((twice.duplicated, twice.delivered), (2, 1));
        assert!(!twice.is_clean(1) && twice.is_clean(2));
        let flipped = captured(1, true, |message| message[500] ^= 4);
        let corrupt = check(&acked(&[1]), &flipped);
        assert_eq!((corrupt.corrupt, corrupt.lost), (1, 0));
        let foreign = check(
            &acked(&[1]),
            &(good.clone() + &captured(2, true, Vec::clear)),
        );
        assert_eq!((foreign.foreign, foreign.lost), (1, 0));
        for faulty in [lost, corrupt, foreign] {
            assert!(!faulty.is_clean(0), "{faulty:?}");
        }
    }

    #[test]
    fn a_copy_without_a_final_reply_is_neither_a_delivery_nor_a_duplicate() {
        let unanswered = captured(1, false, |_| ());
        let repeated = check(
            &acked(&[1]),
            &(unanswered.clone() + &captured(1, true, |_| ())),
        );
        assert_eq!(
            (
                repeated.delivered,
                repeated.unconfirmed,
                repeated.duplicated
            ),
            (1, 1, 0)
        );
        assert!(repeated.is_clean(0));
        let only = check(&acked(&[1]), &unanswered);
        assert_eq!((only.lost, only.lost_unconfirmed), (1, 1));
    }

    #[test]
    fn what_arrived_without_an_acknowledgement_is_allowed_and_counted() {
        let seen = check(
            &acked(&[1]),
            &(captured(1, true, |_| ()) + &captured(9, true, |_| ())),
        );
        assert_eq!(seen.unacknowledged_delivered, 1);
        assert!(seen.is_clean(0));
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_bad_line_is_an_error() {
        let torn = acked(&[1]) + "00000005-0000";
        let seen = check(&torn, &captured(1, true, |_| ()));
        assert_eq!((seen.torn_lines, seen.lost), (1, 0));
        assert!(verify(&b"nonsense\n"[..], &b""[..]).is_err());
        assert!(verify(&b""[..], &b"{}\n"[..]).is_err());
    }
}
