//! The books of the demo. What became of every recipient is put together from files that four
//! parties wrote without knowing of each other: the load generator (what it was told `250` for),
//! the engine (its event log), the receiving hosts (what they were sent) and, at the end, the
//! counters of the engine. The rule that all of it is held against: every accepted recipient has
//! exactly one outcome, and it is the one that its host saw.

use std::borrow::Cow;
use std::fs;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;

use crate::base::map::Map;
use crate::base::map::Set;
use crate::base::units;
use crate::base::units::grouped;
use crate::engine::stats::Counters;
use crate::rig::base64;
use crate::rig::blast::content::BlastId;
use crate::rig::blast::content::Checked;
use crate::rig::blast::content::Content;
use crate::rig::sink::capture::Record;

/// Examples named with each fault.
const EXAMPLES_MAX: usize = 3;

/// Different refusals kept with their count; those beyond are not shown.
const REFUSALS_MAX: usize = 64;

/// How a recipient ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    Delivered,
    Bounced,
    Expired,
    Discarded,
}

/// What all parties together know of one recipient.
#[derive(Clone, Debug, Default)]
pub struct Recipient {
    /// The generator was told `250` for it.
    acknowledged: bool,
    /// Injection events.
    accepted: u32,
    /// The first terminal event, and how many there are.
    pub ending: Option<Ending>,
    endings: u32,
    /// Failed attempts after which there was another.
    pub delays: u32,
    possible_duplicate: bool,
    /// Arrivals that a host answered with 2xx.
    arrived: u32,
    /// Arrivals that a host left without an answer on purpose.
    unconfirmed: u32,
}

/// One line of the table at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueTotals {
    pub accepted: u64,
    pub delivered: u64,
    /// Among the delivered: at the first attempt.
    pub at_once: u64,
    pub delayed_attempts: u64,
    pub bounced: u64,
    pub expired: u64,
}

/// A reply with which mail was refused for good.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct Refusal {
    pub domain: String,
    /// Code and text as the receiving host, or the engine, put it.
    pub words: String,
}

/// See the head of this file.
#[derive(Default)]
pub struct Ledger {
    pub recipients: Map<Box<str>, Recipient>,
    /// By binding and domain.
    pub queues: Map<(String, String), QueueTotals>,
    pub refusals: Map<Refusal, u64>,
    /// Milliseconds from acceptance to delivery at the first attempt, sorted once all are read.
    pub first_delivery_ms: Vec<u64>,
    /// Delay events.
    pub delayed_attempts: u64,
    /// Attempts that may have delivered although nobody heard so.
    pub possible_duplicates: u64,
    event_ids: Set<Box<str>>,
    /// Events that were told again, with the id they had before.
    pub repeated_events: u64,
    corrupt: Vec<String>,
    foreign: u64,
}

/// The members of an event that the books need.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(borrow)]
    rcpt_to: Option<Cow<'a, str>>,
    #[serde(borrow)]
    recipient_domain: Option<Cow<'a, str>>,
    #[serde(borrow)]
    binding: Option<Cow<'a, str>>,
    #[serde(borrow)]
    outcome: Option<Cow<'a, str>>,
    queue_time: Option<u64>,
    num_retries: Option<u64>,
    #[serde(borrow)]
    error_code: Option<Cow<'a, str>>,
    #[serde(borrow)]
    enhanced_code: Option<Cow<'a, str>>,
    #[serde(borrow)]
    raw_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    possible_duplicate: bool,
}

/// What the parties counted while it ran.
pub struct Counted {
    /// Of the engine, when its queues were empty.
    pub engine: Counters,
    /// Recipients that the hosts answered with 2xx.
    pub received: u64,
    /// Messages sent whole for which the generator never heard a reply.
    pub unanswered: u64,
}

impl Ledger {
    /// Reads what all parties have written, to the ends.
    pub fn read(acked: &Path, events: &Path, capture: &Path) -> io::Result<Ledger> {
        let mut ledger = Ledger::default();
        let mut files: Vec<_> = fs::read_dir(events)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        files.sort();
        for file in files {
            each_line(&file, |line| ledger.event(line))?;
        }
        each_line(acked, |line| ledger.acknowledged(line))?;
        let content = Content::new();
        let mut scratch = Vec::new();
        each_line(capture, |line| {
            ledger.captured(line, &content, &mut scratch)
        })?;
        ledger.event_ids = Set::default();
        ledger.first_delivery_ms.sort_unstable();
        Ok(ledger)
    }

    fn event(&mut self, line: &[u8]) -> Option<()> {
        let event: Event<'_> = serde_json::from_slice(line).ok()?;
        if event.kind == "policy_rejection" {
            return Some(());
        }
        if !self.event_ids.insert(event.event_id.as_ref().into()) {
            self.repeated_events += 1;
            return Some(());
        }
        let domain = event.recipient_domain.as_deref().unwrap_or_default();
        let binding = event.binding.as_deref().unwrap_or_default();
        let key = (binding.to_owned(), domain.to_owned());
        let totals = self.queues.entry(key).or_default();
        let recipient = self.recipients.entry(event.rcpt_to.as_deref()?.into());
        let recipient = recipient.or_default();
        recipient.possible_duplicate |= event.possible_duplicate;
        self.possible_duplicates += u64::from(event.possible_duplicate);
        let ending = match (event.kind.as_ref(), event.outcome.as_deref()) {
            ("injection", _) => {
                totals.accepted += 1;
                recipient.accepted += 1;
                return Some(());
            }
            ("delay", _) => {
                totals.delayed_attempts += 1;
                recipient.delays += 1;
                self.delayed_attempts += 1;
                return Some(());
            }
            ("delivery", _) => Ending::Delivered,
            ("bounce", Some("bounced")) => Ending::Bounced,
            ("bounce", Some("expired")) => Ending::Expired,
            ("bounce", Some("discarded")) => Ending::Discarded,
            _ => return None,
        };
        recipient.endings += 1;
        recipient.ending.get_or_insert(ending);
        match ending {
            Ending::Delivered => {
                totals.delivered += 1;
                if event.num_retries == Some(0) {
                    totals.at_once += 1;
                    self.first_delivery_ms.extend(event.queue_time);
                }
            }
            Ending::Expired => totals.expired += 1,
            Ending::Bounced | Ending::Discarded => {
                totals.bounced += 1;
                self.refused(&event);
            }
        }
        Some(())
    }

    fn refused(&mut self, event: &Event<'_>) {
        let part = |text: &Option<Cow<'_, str>>| text.as_deref().unwrap_or_default().to_owned();
        let words = [
            part(&event.error_code),
            part(&event.enhanced_code),
            part(&event.raw_reason),
        ];
        let words: Vec<_> = words.into_iter().filter(|it| !it.is_empty()).collect();
        let refusal = Refusal {
            domain: part(&event.recipient_domain),
            words: words.join(" "),
        };
        if self.refusals.len() < REFUSALS_MAX || self.refusals.contains_key(&refusal) {
            *self.refusals.entry(refusal).or_default() += 1;
        }
    }

    fn acknowledged(&mut self, line: &[u8]) -> Option<()> {
        let line = str::from_utf8(line).ok()?;
        for recipient in line.split(' ').nth(2)?.split(',') {
            self.recipient(recipient).acknowledged = true;
        }
        Some(())
    }

    fn captured(&mut self, line: &[u8], content: &Content, scratch: &mut Vec<u8>) -> Option<()> {
        let record: Record = serde_json::from_slice(line).ok()?;
        let message = base64::decode(record.body.as_bytes())?;
        match content.check(&message, scratch) {
            Checked::Whole(id) => self.check_addressee(id, &record),
            Checked::Corrupt { id, .. } => self.corrupt.push(id.to_string()),
            Checked::Foreign => self.foreign += 1,
        }
        for recipient in &record.rcpts {
            let recipient = self.recipient(recipient);
            match record.final_reply {
                true => recipient.arrived += 1,
                false => recipient.unconfirmed += 1,
            }
        }
        Some(())
    }

    /// A message names its number, and so does its recipient: they belong together.
    fn check_addressee(&mut self, id: BlastId, record: &Record) {
        let expected = format!("u{}@", id.number);
        if !record.rcpts.iter().all(|it| it.starts_with(&expected)) {
            self.corrupt
                .push(format!("{id} to {}", record.rcpts.join(",")));
        }
    }

    fn recipient(&mut self, address: &str) -> &mut Recipient {
        self.recipients.entry(address.into()).or_default()
    }

    pub fn totals(&self) -> QueueTotals {
        let mut sum = QueueTotals::default();
        for totals in self.queues.values() {
            sum.accepted += totals.accepted;
            sum.delivered += totals.delivered;
            sum.at_once += totals.at_once;
            sum.delayed_attempts += totals.delayed_attempts;
            sum.bounced += totals.bounced;
            sum.expired += totals.expired;
        }
        sum
    }

    /// Recipients that the generator was told `250` for.
    pub fn acknowledged_count(&self) -> u64 {
        self.count(|it| it.acknowledged)
    }

    /// Recipients that a host answered with 2xx, once or more often.
    pub fn arrived_count(&self) -> u64 {
        self.count(|it| it.arrived > 0)
    }

    /// Arrivals beyond the first, marked as possible by the engine or not.
    pub fn duplicates(&self) -> u64 {
        let beyond = |it: &Recipient| u64::from((it.arrived + it.unconfirmed).saturating_sub(1));
        self.recipients.values().map(beyond).sum()
    }

    fn count(&self, wanted: impl Fn(&Recipient) -> bool) -> u64 {
        self.recipients.values().filter(|it| wanted(it)).count() as u64
    }

    /// Recipients delivered after `delays` failed attempts, from 0 on.
    pub fn delivered_after(&self) -> Vec<u64> {
        let mut after = Vec::new();
        for it in self.recipients.values() {
            if it.ending != Some(Ending::Delivered) {
                continue;
            }
            let delays = it.delays as usize;
            if after.len() <= delays {
                after.resize(delays + 1, 0);
            }
            after[delays] += 1;
        }
        after
    }

    /// What is off, a sentence each; empty if every accepted message reached exactly one outcome.
    pub fn faults(&self, counted: &Counted) -> Vec<String> {
        let mut faults = Vec::new();
        self.compare_parties(counted, &mut faults);
        self.compare_counters(counted, &mut faults);
        if !self.corrupt.is_empty() {
            let examples = self.corrupt.iter().map(String::as_str);
            faults.push(sentence(examples, "arrived changed"));
        }
        if self.foreign > 0 {
            let foreign = units::counted(self.foreign, "message");
            faults.push(format!("{foreign} arrived that nobody had sent"));
        }
        faults
    }

    fn compare_parties(&self, counted: &Counted, faults: &mut Vec<String>) {
        type Test = fn(&Recipient) -> bool;
        let delivered = |it: &Recipient| it.ending == Some(Ending::Delivered);
        let tests: [(&str, Test); 8] = [
            ("were acknowledged and are not in the event log", |it| {
                it.acknowledged && it.accepted == 0
            }),
            ("were accepted more than once", |it| it.accepted > 1),
            ("were accepted and have no outcome", |it| {
                it.accepted > 0 && it.endings == 0
            }),
            ("have more than one outcome", |it| it.endings > 1),
            ("have an outcome and were never accepted", |it| {
                it.accepted == 0 && it.endings > 0
            }),
            ("arrived and were never accepted", |it| {
                it.accepted == 0 && it.arrived + it.unconfirmed > 0
            }),
            (
                "arrived more than once and are not marked as possible duplicates",
                |it| it.arrived + it.unconfirmed > 1 && !it.possible_duplicate,
            ),
            ("arrived, although they are said to have failed", |it| {
                let failed = it.ending.is_some_and(|it| it != Ending::Delivered);
                failed && it.arrived > 0 && !it.possible_duplicate
            }),
        ];
        for (what, test) in tests {
            faults.extend(self.fault(what, test));
        }
        let what = "are said to be delivered and never arrived";
        faults.extend(self.fault(what, |it| delivered(it) && it.arrived == 0));
        let unheard = self.count(|it| it.accepted > 0 && !it.acknowledged);
        if unheard > counted.unanswered {
            faults.push(format!(
                "{} in the event log without an acknowledgement, {} at most can be",
                units::counted(unheard, "recipient"),
                grouped(counted.unanswered)
            ));
        }
    }

    fn compare_counters(&self, counted: &Counted, faults: &mut Vec<String>) {
        let engine = &counted.engine;
        let ended = |wanted: Ending| self.count(|it| it.ending == Some(wanted));
        let arrivals = self.recipients.values().map(|it| u64::from(it.arrived));
        let pairs = [
            ("accepted", engine.messages_injected, self.totals().accepted),
            (
                "delivered",
                engine.messages_delivered,
                ended(Ending::Delivered),
            ),
            ("delayed", engine.messages_delayed, self.delayed_attempts),
            ("bounced", engine.messages_bounced, ended(Ending::Bounced)),
            ("expired", engine.messages_expired, ended(Ending::Expired)),
            (
                "discarded",
                engine.messages_discarded,
                ended(Ending::Discarded),
            ),
        ];
        for (name, counter, events) in pairs.into_iter().filter(|(_, a, b)| a != b) {
            faults.push(format!(
                "the engine counted {} {name}, its event log has {}",
                grouped(counter),
                grouped(events)
            ));
        }
        let doubts = (engine.possible_duplicates, self.possible_duplicates);
        if doubts.0 != doubts.1 {
            faults.push(format!(
                "the engine counted {}, its event log has {}",
                units::counted(doubts.0, "possible duplicate"),
                grouped(doubts.1)
            ));
        }
        let arrived: u64 = arrivals.sum();
        if arrived != counted.received {
            faults.push(format!(
                "the hosts counted {}, their capture file has {}",
                units::counted(counted.received, "recipient"),
                grouped(arrived)
            ));
        }
    }

    fn fault(&self, what: &str, wanted: impl Fn(&Recipient) -> bool) -> Option<String> {
        let found = self.recipients.iter().filter(|(_, it)| wanted(it));
        let mut found = found.map(|(name, _)| name.as_ref()).peekable();
        found.peek()?;
        Some(sentence(found, what))
    }
}

/// `recipients that have no outcome: 12, as u1@a.example, u7@b.example, ..`
fn sentence<'a>(mut names: impl Iterator<Item = &'a str>, what: &str) -> String {
    let examples: Vec<_> = names.by_ref().take(EXAMPLES_MAX).collect();
    let rest = names.count();
    let count = grouped((examples.len() + rest) as u64);
    let more = if rest > 0 { ", .." } else { "" };
    let examples = examples.join(", ");
    format!("recipients that {what}: {count}, as {examples}{more}")
}

/// Calls `take` with every line. A line that makes no sense, or is cut off, is an error.
fn each_line(path: &Path, mut take: impl FnMut(&[u8]) -> Option<()>) -> io::Result<()> {
    let mut file = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        number += 1;
        let whole = line.strip_suffix(b"\n");
        if whole.and_then(&mut take).is_none() {
            let place = format!("{}:{number}", path.display());
            let reason = format!("{place}: a line that makes no sense");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of one recipient, by a word each.
    fn event(word: &str) -> String {
        let (kind, id, rest) = match word {
            "injected" => ("injection", "A1-i", ""),
            "delayed" => ("delay", "A1-d1", r#","outcome":"delayed","num_retries":0"#),
            "delivered" => (
                "delivery",
                "A1-t",
                r#","outcome":"delivered","num_retries":1,"queue_time":900"#,
            ),
            "bounced" => (
                "bounce",
                "A1-t2",
                r#","outcome":"bounced","error_code":"550","raw_reason":"no such user""#,
            ),
            other => panic!("no event {other}"),
        };
        format!(
            r#"{{"type":"{kind}","event_id":"{id}","rcpt_to":"u1@d.example",
            "recipient_domain":"d.example","binding":"a"{rest}}}"#
        )
    }

    /// Books of one acknowledged recipient that arrived as often as `arrived` says.
    fn ledger(events: &[&str], arrived: u32) -> Ledger {
        let mut ledger = Ledger::default();
        for word in events {
            ledger.event(event(word).as_bytes()).expect("an event");
        }
        ledger
            .acknowledged(b"00000001-000000000001 600 u1@d.example")
            .expect("a line");
        ledger.recipient("u1@d.example").arrived = arrived;
        ledger
    }

    fn counted(ledger: &Ledger) -> Counted {
        let totals = ledger.totals();
        Counted {
            engine: Counters {
                messages_injected: totals.accepted,
                messages_delivered: totals.delivered,
                messages_delayed: totals.delayed_attempts,
                messages_bounced: totals.bounced,
                ..Counters::default()
            },
            received: u64::from(ledger.recipients["u1@d.example"].arrived),
            unanswered: 0,
        }
    }

    #[test]
    fn books_that_agree_have_no_faults_and_tell_retries_apart() {
        let ledger = ledger(
            &["injected", "injected", "delayed", "delivered", "delivered"],
            1,
        );
        assert_eq!(ledger.faults(&counted(&ledger)), [""; 0]);
        assert_eq!(ledger.delivered_after(), [0, 1]);
        assert_eq!(ledger.repeated_events, 2);
        let expected = QueueTotals {
            accepted: 1,
            delivered: 1,
            delayed_attempts: 1,
            ..QueueTotals::default()
        };
        assert_eq!(ledger.totals(), expected);
    }

    #[test]
    fn whatever_is_off_is_named_with_its_recipient() {
        let cases: [(&[&str], u32, &str); 7] = [
            (&[], 0, "acknowledged and are not in the event log"),
            (&["injected"], 0, "accepted and have no outcome"),
            (&["injected", "delivered"], 0, "never arrived"),
            (&["injected", "delivered"], 2, "arrived more than once"),
            (
                &["injected", "delivered", "bounced"],
                1,
                "more than one outcome",
            ),
            (&["injected", "bounced"], 1, "said to have failed"),
            (&["delivered"], 1, "never accepted"),
        ];
        for (events, arrived, what) in cases {
            let ledger = ledger(events, arrived);
            let faults = ledger.faults(&counted(&ledger));
            let named = |it: &String| it.contains(what) && it.contains("u1@d.example");
            assert!(faults.iter().any(named), "{what}: {faults:?}");
        }
    }

    #[test]
    fn counters_that_differ_from_the_events_are_a_fault() {
        let ledger = ledger(&["injected", "delayed", "delivered"], 1);
        let mut counted = counted(&ledger);
        counted.engine.messages_delivered += 1;
        counted.received += 1;
        let faults = ledger.faults(&counted);
        assert_eq!(
            faults,
            [
                "the engine counted 2 delivered, its event log has 1",
                "the hosts counted 2 recipients, their capture file has 1"
            ]
        );
    }

    #[test]
    fn refusals_are_kept_in_the_words_of_the_receiver() {
        let ledger = ledger(&["injected", "bounced"], 0);
        let refusal = Refusal {
            domain: "d.example".to_owned(),
            words: "550 no such user".to_owned(),
        };
        assert_eq!(ledger.refusals.get(&refusal), Some(&1));
    }
}
