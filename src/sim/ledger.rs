//! The truth about every message of a run: who handed it over, what was answered, what hosts got,
//! what events told. The checks of the invariants compare the engines with it.
//!
//! A recipient is *owed* an outcome from the moment its message was acknowledged, or its injection
//! event was read: an acknowledgement may be lost on its way to the client.

mod lives;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::base::time::Wall;
use crate::sim::counts::Check;
use crate::sim::counts::Counts;
use crate::sim::ledger::lives::Lives;
use crate::sim::scenario::Limits;
use crate::sim::scenario::SECOND;
use crate::types::id::BatchId;

/// Timers are as exact as this, microseconds.
const TIMER_SLACK_US: u64 = 2_000;

/// After an attempt has begun in an engine, its first recipient may be this late on the wire:
/// replies and stalls come in between.
const WIRE_SLACK_US: u64 = 90 * SECOND;

/// An invariant that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub check: Check,
    pub at_us: u64,
    pub text: String,
}

/// What the client knows of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Not handed over, or not whole: nobody may have it.
    Unsent,
    Accepted,
    /// Refused after its end.
    Refused {
        /// The disk had failed: a crash may bring it back.
        in_trouble: bool,
    },
    /// Handed over whole, and no answer came.
    Unknown,
}

/// How a recipient ended, as its event tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    pub outcome: String,
    pub timestamp: String,
}

pub struct Delivery {
    pub at_us: u64,
    pub conn: usize,
    pub life: u32,
    /// When the engine had the positive reply.
    pub reached_us: Option<u64>,
    pub lost: bool,
}

#[derive(Default)]
pub struct Recipient {
    pub address: String,
    pub owed: bool,
    pub deliveries: Vec<Delivery>,
    pub ended: Option<Ended>,
    ended_told: Option<Told>,
    /// The last life that found its end in the spool, with its event still to be told.
    found_ended_in: u32,
    /// A host has refused it for good.
    pub rejected: bool,
    attempts: u32,
    attempts_of_life: u32,
    attempt_life: u32,
    /// When the host heard of it last, answered or not.
    pending_us: u64,
    attempt_us: u64,
    due: Option<Due>,
    /// A reply was lost in this life, so an event must tell of a possible duplicate.
    lost_in: Option<u32>,
    possible_duplicate_told: bool,
}

/// The next attempt, as an event has told it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Wall,
    /// When the event was made.
    made: Wall,
    told: Told,
}

/// When an event came into the event log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    life: u32,
    at_us: u64,
}

impl Recipient {
    pub fn new(address: String) -> Recipient {
        Recipient {
            address,
            ..Recipient::default()
        }
    }
}

pub struct Message {
    pub sender: String,
    pub recipients: Vec<Recipient>,
    pub content: Vec<u8>,
    pub eight_bit: bool,
    pub standing: Standing,
    pub batch: Option<BatchId>,
    /// When it was accepted at the earliest and at the latest.
    offered_us: u64,
    accepted_us: u64,
}

impl Message {
    pub fn new(
        sender: String,
        recipients: Vec<Recipient>,
        content: Vec<u8>,
        eight_bit: bool,
    ) -> Message {
        Message {
            sender,
            recipients,
            content,
            eight_bit,
            standing: Standing::Unsent,
            batch: None,
            offered_us: 0,
            accepted_us: 0,
        }
    }
}

/// Numbers of a message and one of its recipients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Who {
    pub message: usize,
    pub recipient: usize,
}

impl Who {
    /// Reads `r2.m17@..`, the form of all simulated addresses.
    pub fn parse(address: &str) -> Option<Who> {
        let (local, _) = address.split_once('@')?;
        let (recipient, message) = local.split_once('.')?;
        Some(Who {
            recipient: recipient.strip_prefix('r')?.parse().ok()?,
            message: message.strip_prefix('m')?.parse().ok()?,
        })
    }
}

/// Distinct events by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    pub injections: u64,
    pub deliveries: u64,
    pub delays: u64,
    pub bounces: u64,
    pub expirations: u64,
}

pub struct Ledger {
    pub messages: Vec<Message>,
    pub lives: Lives,
    pub counts: Counts,
    pub events: EventCounts,
    /// Recipients that are owed an outcome and have none.
    pub open: u64,
    pub violation: Option<Violation>,
    /// Backwards jumps of the wall clock so far: wall times from before say nothing.
    pub wall_went_back: bool,
    /// What is delayed may be due before its time until this moment.
    pub flushed_until_us: u64,
    /// The same of what was delayed until this moment, however late its event came.
    pub flushed_until: Wall,
    limits: Limits,
    event_ids: BTreeSet<String>,
    receipts: Vec<Vec<(Who, usize)>>,
    now_us: u64,
}

impl Ledger {
    pub fn new(limits: Limits) -> Ledger {
        Ledger {
            messages: Vec::new(),
            lives: Lives::default(),
            counts: Counts::default(),
            events: EventCounts::default(),
            open: 0,
            violation: None,
            wall_went_back: false,
            flushed_until_us: 0,
            flushed_until: Wall(0),
            limits,
            event_ids: BTreeSet::new(),
            receipts: Vec::new(),
            now_us: 0,
        }
    }

    pub fn set_now(&mut self, now_us: u64) {
        self.now_us = now_us;
    }

    /// Counts a check, and notes the first one that fails.
    pub fn check(&mut self, check: Check, holds: bool, text: impl FnOnce() -> String) {
        self.counts.check(check);
        if !holds {
            self.fail(check, text());
        }
    }

    fn fail(&mut self, check: Check, text: String) {
        let at_us = self.now_us;
        let found = Violation { check, at_us, text };
        self.violation.get_or_insert(found);
    }

    pub fn recipient(&mut self, who: Who) -> Option<&mut Recipient> {
        let message = self.messages.get_mut(who.message)?;
        message.recipients.get_mut(who.recipient)
    }

    /// A client begins to hand over a message.
    pub fn offered(&mut self, message: usize) {
        self.messages[message].offered_us = self.now_us;
    }

    /// The client has read `250` and the batch id.
    pub fn accepted(&mut self, message: usize, recipients: &[usize], batch: BatchId) {
        self.counts.recipients += recipients.len() as u64;
        let it = &mut self.messages[message];
        it.standing = Standing::Accepted;
        it.batch = Some(batch);
        it.accepted_us = self.now_us;
        for recipient in recipients {
            self.owe(Who {
                message,
                recipient: *recipient,
            });
        }
    }

    fn owe(&mut self, who: Who) {
        if let Some(it) = self.recipient(who)
            && !it.owed
        {
            it.owed = true;
            if it.ended.is_none() {
                self.open += 1;
            }
        }
    }

    /// The first recipient that is owed an outcome.
    pub fn first_open(&self) -> Option<Who> {
        let mut all = self.messages.iter().enumerate();
        all.find_map(|(message, it)| {
            let is_open = |it: &Recipient| it.owed && it.ended.is_none();
            let recipient = it.recipients.iter().position(is_open)?;
            Some(Who { message, recipient })
        })
    }

    /// A host has been told of a recipient: an attempt.
    pub fn attempted(&mut self, who: Who, wall: Wall) {
        let life = self.lives.current();
        let (now_us, limits) = (self.now_us, self.limits.clone());
        let went_back = self.wall_went_back;
        let flushed_until_us = self.flushed_until_us;
        let Some(message) = self.messages.get_mut(who.message) else {
            return;
        };
        let known_us = match message.accepted_us {
            0 => self.now_us,
            accepted_us => accepted_us,
        };
        let Some(it) = message.recipients.get_mut(who.recipient) else {
            return;
        };
        let again = it.attempt_life == life && it.attempts_of_life > 0;
        let (before_us, attempts) = (it.attempt_us, it.attempts_of_life);
        let due = it.due.take();
        it.attempts += 1;
        it.pending_us = now_us;
        if again {
            let doubled = limits.retry_s << (attempts - 1).min(16);
            let delay = doubled.clamp(1, limits.retry_max_s.max(1)) * SECOND;
            let flushed = flushed_until_us >= before_us;
            let early = !flushed && now_us + TIMER_SLACK_US < before_us + delay;
            self.check(Check::NotBeforeDue, !early, || {
                let waited = (now_us - before_us) / 1_000;
                format!("{who:?}: attempt {attempts} was {waited} ms ago, the next is here")
            });
        } else if let Some(due) = due
            && !went_back
        {
            let flushed = flushed_until_us >= due.told.at_us || self.flushed_until >= due.made;
            let forgotten = flushed || self.is_record_lost(due.told);
            self.check(
                Check::NotBeforeDueRestart,
                wall >= due.at || forgotten,
                || {
                    format!(
                        "{who:?} is tried after a restart at {}, due at {}",
                        wall.rfc3339(),
                        due.at.rfc3339()
                    )
                },
            );
        }
        if !went_back {
            let end_us = known_us + limits.expiration_s * SECOND + WIRE_SLACK_US;
            self.check(Check::NotExpired, now_us <= end_us, || {
                let age = (now_us - known_us) / SECOND;
                format!("{who:?} is tried at the age of {age} s")
            });
        }
    }

    /// Whether a start may know nothing of an outcome that was told at that moment.
    fn is_record_lost(&self, told: Told) -> bool {
        self.lives.may_have_lost_record(told.life, told.at_us)
    }

    /// The engine has heard what a host says to an attempt, so it counts: one that found the
    /// connection dead may be made again at once.
    pub fn attempt_answered(&mut self, who: Who) {
        let life = self.lives.current();
        if let Some(it) = self.recipient(who) {
            let again = it.attempt_life == life;
            it.attempts_of_life = if again { it.attempts_of_life + 1 } else { 1 };
            it.attempt_life = life;
            it.attempt_us = it.pending_us;
        }
    }

    /// Empty for the null reverse-path.
    pub fn sender(&self, who: Who) -> Option<&str> {
        Some(&self.messages.get(who.message)?.sender)
    }

    /// When its client knew that it was accepted, if it did.
    pub fn accepted_us(&self, who: Who) -> Option<u64> {
        let message = self.messages.get(who.message)?;
        Some(message.accepted_us).filter(|at| *at > 0)
    }

    pub fn is_first_attempt(&self, who: Who) -> bool {
        let message = self.messages.get(who.message);
        message
            .and_then(|it| it.recipients.get(who.recipient))
            .is_some_and(|it| it.attempts <= 1)
    }

    /// A host has taken a message whole. The receipt goes with the bytes of its reply.
    pub fn delivered(
        &mut self,
        conn: usize,
        all: &[Who],
        is_live: &dyn Fn(usize) -> bool,
    ) -> usize {
        let life = self.lives.current();
        let mut receipt = Vec::new();
        for who in all {
            self.counts.deliveries += 1;
            self.check_duplicate(*who, is_live);
            let at_us = self.now_us;
            let Some(it) = self.recipient(*who) else {
                continue;
            };
            receipt.push((*who, it.deliveries.len()));
            it.deliveries.push(Delivery {
                at_us,
                conn,
                life,
                reached_us: None,
                lost: false,
            });
        }
        self.receipts.push(receipt);
        self.receipts.len() - 1
    }

    fn check_duplicate(&mut self, who: Who, is_live: &dyn Fn(usize) -> bool) {
        let life = self.lives.current();
        let Some(message) = self.messages.get(who.message) else {
            return;
        };
        let may_exist = match message.standing {
            Standing::Accepted | Standing::Unknown => true,
            Standing::Refused { in_trouble } => in_trouble && life > 1,
            Standing::Unsent => false,
        };
        self.check(Check::EventIsTrue, may_exist, || {
            format!("{who:?} was delivered, and its client was never told that it was taken")
        });
        let Some(it) = self.messages[who.message].recipients.get(who.recipient) else {
            return;
        };
        let mut lost_now = false;
        let mut without_excuse = None;
        for before in &it.deliveries {
            let excused = match before.reached_us {
                None if before.life == life => {
                    lost_now = true;
                    !is_live(before.conn)
                }
                None => true,
                Some(reached_us) => self.lives.may_have_forgotten(before.life, reached_us),
            };
            if !excused {
                without_excuse = Some((before.at_us, before.life, before.reached_us));
            }
        }
        if it.deliveries.is_empty() {
            return;
        }
        self.counts.duplicates += 1;
        self.check(Check::Duplicate, without_excuse.is_none(), || {
            let ends = self_describe(without_excuse);
            format!("{who:?} is delivered again in life {life}; before: {ends}")
        });
        if let Some(it) = self.recipient(who)
            && lost_now
        {
            it.lost_in = Some(life);
        }
    }

    /// The engine has read the reply that belongs to this receipt.
    pub fn receipt_reached(&mut self, receipt: usize) {
        let now_us = self.now_us;
        for (who, index) in self.receipts[receipt].clone() {
            if let Some(it) = self.recipient(who)
                && let Some(delivery) = it.deliveries.get_mut(index)
            {
                delivery.reached_us = Some(now_us);
            }
        }
    }

    /// The host had taken it and will not get to say so.
    pub fn receipt_lost(&mut self, receipt: usize) {
        for (who, index) in self.receipts[receipt].clone() {
            if let Some(it) = self.recipient(who)
                && let Some(delivery) = it.deliveries.get_mut(index)
            {
                delivery.lost = true;
            }
        }
    }

    /// What a body that was accepted looks like later: one trace field, then what the client sent.
    pub fn check_body(&mut self, check: Check, message: usize, body: &[u8]) {
        let content = match self.messages.get(message) {
            Some(it) => &it.content[..],
            None => &[],
        };
        let holds = body.strip_suffix(content).is_some_and(is_one_trace_field);
        self.check(check, holds, || {
            let shown = String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned();
            format!(
                "message {message}: a body of {} bytes is not the one accepted: {shown:?}",
                body.len()
            )
        });
    }
}

fn self_describe(before: Option<(u64, u32, Option<u64>)>) -> String {
    match before {
        Some((at_us, life, reached_us)) => {
            format!("at {at_us} us in life {life}, reply there at {reached_us:?}")
        }
        None => "excused".to_string(),
    }
}

/// `Received:`, folded lines and all, and nothing else.
fn is_one_trace_field(head: &[u8]) -> bool {
    let Some(lines) = head.strip_suffix(b"\r\n") else {
        return false;
    };
    let mut lines = lines.split(|byte| *byte == b'\n');
    let first = lines
        .next()
        .is_some_and(|line| line.starts_with(b"Received: "));
    first && lines.all(|line| line.starts_with(b"\t") || line.starts_with(b" "))
}
