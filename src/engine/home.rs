//! The home's half of an engine: what its shard has accepted is stored, acknowledged when it is
//! durable, and handed to the owners of its queues; what becomes of each recipient is written down
//! and told as an event.
//!
//! Invariants: a session hears of success only with the proof from the log in hand; an event is
//! released to the event log only when the record that it tells of is durable, or when the disk
//! refuses the record and the spool keeps it to try again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::map::Map;
use crate::base::slab::Key;
use crate::base::time::{Mono, Wall};
use crate::base::units;
use crate::deliver::classify;
use crate::engine::Turn;
use crate::engine::gather::{Gather, Start};
use crate::engine::io::{Action, Level, Settled, ToControl, Unread};
use crate::hose;
use crate::hose::{AdaptiveFacts, EventFacts, Hose, RejectionFacts};
use crate::inject::Ticket;
use crate::log::{CommitId, Completion, DiskOp, Durable, FailedCommits, Fault, OpId, Space};
use crate::queue::Departed;
use crate::spool;
use crate::spool::{
    BodyAt, Completed, EventSeq, ReadError, Refused, Spool, Unreported, UnreportedEvent,
};
use crate::types::id::{BatchId, MessageId, ShardId};
use crate::types::message::{Arrival, Content, Method, Origin, Progress, Recipient};
use crate::types::outcome::OutcomeKind;
use crate::types::replies::{self, Canned};
use crate::types::sender::{Sender, SenderHash};

/// Reads of bodies from the disk under way at a time; more wait their turn.
const READS_MAX: usize = 64;

/// Events told again come as fast as the event log takes them: so much of it may wait there, a
/// part of what it keeps for a disk that is slow.
const RETOLD_BYTES_MAX: u64 = 16 << 20;

/// A whole message that a session offers.
pub struct Offer {
    pub conn: Key,
    pub ticket: Ticket,
    pub content: Arc<Content>,
    pub recipients: Vec<Recipient>,
    pub began: Mono,
}

/// What the engine has to pass on after a commit.
pub enum Told {
    /// Acknowledge with the proof, then give the entries to their owners.
    Stored(Offer, Durable),
    Refused(Key, Ticket, &'static Canned),
}

/// Who wants a body.
enum Reader {
    Owner(ShardId),
    /// An outcome whose event needs the facts of its message.
    Event(Box<Settled>),
}

struct Reading {
    batch: BatchId,
    at: BodyAt,
}

/// An owner waits for what it has sent here until now to be durable.
struct Barrier {
    owner: ShardId,
    order: u64,
    /// The commit that it waits for, once that is known.
    commit: Option<CommitId>,
}

pub struct Home {
    spool: Spool,
    hose: Hose,
    /// Messages whose commit is not durable yet, in the order of their commits.
    waiting: VecDeque<(CommitId, Offer)>,
    /// The newest event of each commit, so that the spool hears what the event log has.
    events: VecDeque<(u64, EventSeq)>,
    /// The newest event of an outcome that waits for the disk, so that it has no commit to be
    /// known by. It is in the event log when one that came later is, or when nothing waits there.
    late: Option<EventSeq>,
    /// Events of earlier starts that the event log has yet to be given.
    untold: std::vec::IntoIter<Unreported>,
    /// The last commit that the event log had heard of when it was given the last of them, until
    /// they are durable there.
    retold: Option<u64>,
    /// Entries of earlier starts that wait to be handed to their owners.
    returning: std::vec::IntoIter<Arrival>,
    readers: Map<BatchId, Vec<Reader>>,
    reads: Map<u64, Reading>,
    reads_waiting: VecDeque<BatchId>,
    next_read: u64,
    /// When the commit in flight was given to the disk, and how many messages wait for it.
    commit: Option<(OpId, Mono)>,
    gather: Gather,
    /// For the engine, once it has the turn again.
    pub told: Vec<Told>,
    pub bodies: Vec<(ShardId, BatchId, Result<Arc<Content>, Unread>)>,
    /// Entries that have left a queue, for the owners of those that they go to.
    pub onward: Vec<Departed>,
    stopped: Option<Refused>,
    barriers: Vec<Barrier>,
}

impl Home {
    pub fn new(spool: Spool, hose: Hose) -> Home {
        Home {
            spool,
            hose,
            waiting: VecDeque::new(),
            events: VecDeque::new(),
            late: None,
            untold: Vec::new().into_iter(),
            retold: None,
            returning: Vec::new().into_iter(),
            readers: Map::default(),
            reads: Map::default(),
            reads_waiting: VecDeque::new(),
            next_read: 0,
            commit: None,
            gather: Gather::default(),
            told: Vec::new(),
            bodies: Vec::new(),
            onward: Vec::new(),
            stopped: None,
            barriers: Vec::new(),
        }
    }

    /// Puts a message into the gathering commit. The answer comes through `told`.
    pub fn store(&mut self, turn: &mut Turn<'_>, offer: Offer) -> Result<(), &'static Canned> {
        match self.spool.store(&offer.content, &offer.recipients) {
            Ok(stored) => {
                self.note_event(stored.commit.0, stored.event);
                self.waiting.push_back((stored.commit, offer));
                self.gather.joined();
                self.note_stopped(turn, None);
                Ok(())
            }
            Err(refused) => {
                self.note_stopped(turn, Some(refused));
                Err(reply_to(refused))
            }
        }
    }

    /// Whether the spool takes mail now.
    pub fn is_stopped(&self) -> bool {
        matches!(self.spool.admission(), Err(Refused::Failing))
    }

    pub fn refusal(&self) -> Option<Refused> {
        self.spool.admission().err()
    }

    /// An operator hears once that the spool refuses mail, and once that it takes mail again.
    fn note_stopped(&mut self, turn: &mut Turn<'_>, refused: Option<Refused>) {
        if self.stopped == refused {
            return;
        }
        match refused {
            Some(refused) => turn.notice(
                Level::Error,
                format!(
                    "E201 new mail is refused: {refused}. Mail that was accepted is delivered; \
                     acceptance goes on by itself when the disk does"
                ),
            ),
            None => turn.notice(Level::Info, "the spool takes mail again".to_string()),
        }
        self.stopped = refused;
    }

    fn note_event(&mut self, commit: u64, event: EventSeq) {
        match self.events.back_mut() {
            Some((last, newest)) if *last >= commit => *newest = (*newest).max(event),
            _ => self.events.push_back((commit, event)),
        }
    }

    /// Writes down what became of a recipient, and tells it.
    pub fn settle(&mut self, turn: &mut Turn<'_>, settled: Settled) {
        let batch = settled.outcome.message.batch;
        if settled.content.is_none()
            && settled.outcome.kind.is_terminal()
            && self.spool.locate(batch).is_some()
        {
            self.read(turn, batch, Reader::Event(Box::new(settled)));
            return;
        }
        self.settle_now(turn, settled);
    }

    fn settle_now(&mut self, turn: &mut Turn<'_>, settled: Settled) {
        let Settled {
            outcome,
            recipient,
            binding,
            content,
            onward,
            ..
        } = settled;
        if let Some(arrival) = onward {
            let (arrival, content) = (*arrival, content.clone());
            self.onward.push(Departed { arrival, content });
        }
        let (event, commit) = self.spool.settle(turn.now, &outcome);
        match commit {
            Some(commit) => self.note_event(commit.0, event),
            None => self.late = Some(event),
        }
        let commit = commit.map_or(0, |commit| commit.0);
        let placeholder;
        let content = match &content {
            Some(content) => content,
            None => {
                placeholder = unknown_content(outcome.message.batch, outcome.at);
                &placeholder
            }
        };
        let facts = facts(turn, content, outcome.message, &recipient, &binding);
        let class = match outcome.kind {
            OutcomeKind::Delivered | OutcomeKind::Rebound { .. } => 0,
            _ => u16::from(classify::bounce_class(outcome.stage, &outcome.reply).number()),
        };
        self.hose.outcome(commit, &facts, &outcome, class);
    }

    /// All that an owner has sent until now is for an order: control hears when it is durable.
    pub fn barrier(&mut self, owner: ShardId, order: u64) {
        self.barriers.push(Barrier {
            owner,
            order,
            commit: None,
        });
    }

    fn pass_barriers(&mut self, turn: &mut Turn<'_>) {
        let mut readers = self.readers.values().flatten();
        let settles = !readers.any(|it| matches!(it, Reader::Event(_)));
        let spool = &self.spool;
        self.barriers.retain_mut(|barrier| {
            if barrier.commit.is_none() && settles {
                barrier.commit = spool.outcomes_by();
            }
            let passed = barrier.commit.is_some_and(|it| spool.is_durable(it));
            if passed {
                let (home, owner) = (turn.common.shard, barrier.owner);
                let order = barrier.order;
                let settled = ToControl::Settled { home, owner, order };
                turn.out.push(Action::Control(settled));
            }
            !passed
        });
    }

    pub fn rejected(&mut self, facts: &RejectionFacts<'_>) {
        self.hose.rejection(facts);
    }

    /// A limit has changed.
    pub fn adapted(&mut self, facts: &AdaptiveFacts<'_>) {
        self.hose.adaptive(facts);
    }

    /// Takes over what earlier starts have left. Its events are to be told again, under the same
    /// ids, as far as the last run may not have got them into the event log.
    pub fn adopt(&mut self, mut found: spool::Home) {
        self.spool.adopt(&mut found);
        self.returning = found.arrivals.into_iter();
        self.untold = found.unreported.into_iter();
    }

    /// Events of earlier starts wait to be told again, what they tell of is there to stay, and the
    /// event log has room for some.
    pub fn is_retelling(&self) -> bool {
        self.untold.len() > 0
            && !self.spool.syncs_found()
            && self.hose.stats().backlog_bytes < RETOLD_BYTES_MAX
    }

    pub fn untold_left(&self) -> usize {
        self.untold.len()
    }

    /// Tells so many of them again, at most.
    pub fn retell(&mut self, turn: &mut Turn<'_>, count_max: usize) {
        let released = self.hose.released();
        for _ in 0..count_max {
            match self.untold.next() {
                Some(lost) => self.report_one(turn, released, &lost),
                None => break,
            }
        }
        if self.untold.len() == 0 {
            // An iterator that is through keeps its memory.
            self.untold = Vec::new().into_iter();
            self.retold = Some(released);
        }
    }

    /// Entries of earlier starts that their owners do not know of yet, so many at most.
    pub fn returning(&mut self, count_max: usize) -> Vec<Arrival> {
        let arrivals = self.returning.by_ref().take(count_max).collect();
        if self.returning.len() == 0 {
            // An iterator that is through keeps its memory.
            self.returning = Vec::new().into_iter();
        }
        arrivals
    }

    /// How many such entries there are.
    pub fn returning_left(&self) -> usize {
        self.returning.len()
    }

    fn report_one(&mut self, turn: &mut Turn<'_>, released: u64, lost: &Unreported) {
        let Some(known) = &lost.facts else {
            let text = format!(
                "an event of message {} is lost: its record is damaged",
                lost.batch
            );
            return turn.notice(Level::Warn, text);
        };
        let only = match &lost.event {
            UnreportedEvent::Reception => None,
            UnreportedEvent::Outcome(outcome) => Some(outcome),
        };
        for (index, recipient) in known.recipients.iter().enumerate() {
            let message = MessageId {
                batch: lost.batch,
                recipient: index as u16,
            };
            if only.is_some_and(|outcome| outcome.message != message) {
                continue;
            }
            let address = &recipient.address;
            let binding = lost.binding.as_ref().unwrap_or(&recipient.binding);
            let mut facts = facts(turn, &known.content, message, address, binding);
            facts.size = known.body_bytes.into();
            match only {
                None => self.hose.injection(released, &facts),
                Some(outcome) => {
                    let class = classify::bounce_class(outcome.stage, &outcome.reply).number();
                    self.hose.outcome(released, &facts, outcome, class.into());
                }
            }
        }
    }

    /// An owner wants a body that has left memory.
    pub fn fetch(&mut self, turn: &mut Turn<'_>, owner: ShardId, batch: BatchId) {
        self.read(turn, batch, Reader::Owner(owner));
    }

    fn read(&mut self, turn: &mut Turn<'_>, batch: BatchId, reader: Reader) {
        let readers = self.readers.entry(batch).or_default();
        readers.push(reader);
        if readers.len() == 1 {
            self.reads_waiting.push_back(batch);
            self.start_reads(turn);
        }
    }

    fn start_reads(&mut self, turn: &mut Turn<'_>) {
        while self.reads.len() < READS_MAX {
            let Some(batch) = self.reads_waiting.pop_front() else {
                return;
            };
            let Some(at) = self.spool.locate(batch) else {
                self.give_body(turn, batch, Err(Unread::Never));
                continue;
            };
            self.next_read += 1;
            let read = self.next_read;
            self.reads.insert(read, Reading { batch, at });
            turn.common.stats.counters.body_reads += 1;
            turn.out.push(Action::Read { read, at });
        }
    }

    /// The end of a `Read`.
    pub fn read_done(&mut self, turn: &mut Turn<'_>, read: u64, result: Result<Vec<u8>, Fault>) {
        let Some(Reading { batch, at }) = self.reads.swap_remove(&read) else {
            return;
        };
        let Ok(bytes) = result else {
            // No proof of damage: the disk may answer again, or the process have descriptors.
            let text = format!(
                "E205 a message in {} cannot be read now; its recipients are tried again later",
                at.file
            );
            turn.notice(Level::Error, text);
            self.give_body(turn, batch, Err(Unread::NotNow));
            return self.start_reads(turn);
        };
        match self.spool.decode_read(batch, at, &Bytes::from(bytes)) {
            Ok((content, _)) => self.give_body(turn, batch, Ok(Arc::new(content))),
            Err(ReadError::Moved) => self.reads_waiting.push_back(batch),
            Err(ReadError::Gone) => self.give_body(turn, batch, Err(Unread::Never)),
            Err(ReadError::Damaged) => {
                let text = format!(
                    "E202 message {batch} in {} at {} is damaged on disk; its recipients bounce",
                    at.file, at.offset
                );
                turn.notice(Level::Error, text);
                self.give_body(turn, batch, Err(Unread::Never));
            }
        }
        self.start_reads(turn);
    }

    fn give_body(
        &mut self,
        turn: &mut Turn<'_>,
        batch: BatchId,
        content: Result<Arc<Content>, Unread>,
    ) {
        for reader in self.readers.swap_remove(&batch).unwrap_or_default() {
            match reader {
                Reader::Owner(owner) => self.bodies.push((owner, batch, content.clone())),
                Reader::Event(settled) => {
                    self.settle_now(
                        turn,
                        Settled {
                            content: content.clone().ok(),
                            ..*settled
                        },
                    );
                }
            }
        }
    }

    /// The end of a spool operation.
    pub fn spool_done(&mut self, turn: &mut Turn<'_>, completion: Completion) {
        if let Some((op, began)) = self.commit
            && op == completion.op
        {
            let took = turn.now.mono.since(began);
            turn.common.stats.commit_latency.record(took);
            self.gather.committed(took);
            self.commit = None;
        }
        match self.spool.completed(turn.now, completion) {
            Completed::Nothing => {}
            Completed::Durable(durable) => self.durable(turn, durable),
            Completed::Failed(failed) => self.failed(turn, failed),
            Completed::Unreadable(batch) => {
                turn.notice(
                    Level::Error,
                    format!("E202 message {batch} is damaged on disk; its recipients will bounce"),
                );
            }
        }
    }

    fn durable(&mut self, turn: &mut Turn<'_>, durable: Durable) {
        let mut messages = 0;
        while let Some((commit, _)) = self.waiting.front() {
            if *commit > durable.commit() {
                break;
            }
            let Some((_, offer)) = self.waiting.pop_front() else {
                break;
            };
            messages += 1;
            let counters = &mut turn.common.stats.counters;
            counters.transactions_accepted += 1;
            counters.messages_injected += offer.recipients.len() as u64;
            counters.bytes_injected += offer.content.body.len() as u64;
            for (index, recipient) in offer.recipients.iter().enumerate() {
                let batch = offer.content.batch;
                let message = MessageId {
                    batch,
                    recipient: index as u16,
                };
                let content = &offer.content;
                let facts = facts(
                    turn,
                    content,
                    message,
                    &recipient.address,
                    &recipient.binding,
                );
                self.hose.injection(durable.commit().0, &facts);
            }
            self.told.push(Told::Stored(offer, durable));
        }
        turn.common.stats.counters.spool_commit_messages += messages;
        self.hose.release(durable.commit().0);
    }

    fn failed(&mut self, turn: &mut Turn<'_>, failed: FailedCommits) {
        turn.common.stats.counters.spool_commit_failures += 1;
        // What was in these commits is written again.
        for barrier in &mut self.barriers {
            barrier.commit = None;
        }
        let canned = match failed.fault {
            Fault::NoSpace => &replies::DISK,
            Fault::Io => &replies::SPOOL_FAILED,
        };
        while let Some((commit, _)) = self.waiting.front() {
            if *commit > failed.last {
                break;
            }
            let Some((_, offer)) = self.waiting.pop_front() else {
                break;
            };
            turn.common.stats.counters.messages_rejected += offer.recipients.len() as u64;
            self.told
                .push(Told::Refused(offer.conn, offer.ticket, canned));
        }
        // The outcomes among them are kept by the spool; their events are true all the same.
        self.hose.release(failed.last.0);
        let text = format!(
            "E203 a commit of the spool failed ({:?}); its messages were refused, nothing that was \
             acknowledged is touched; the segment is given up and another one begun",
            failed.fault
        );
        turn.notice(Level::Error, text);
    }

    pub fn hose_done(&mut self, turn: &mut Turn<'_>, op: u64, result: Result<(), hose::Fault>) {
        self.hose.completed(turn.now, op, result);
    }

    /// Whether the commit that gathers should start now. `open` counts the sessions that are in
    /// the middle of a message: it may wait a moment for them. Asked before every `pump`, which is
    /// left out while it waits.
    pub fn start_commit(&mut self, now: Mono, open: usize) -> Start {
        if self.spool.could_commit() {
            return self.gather.start(now, open);
        }
        self.gather.stop();
        Start::Now
    }

    /// Starts what the disk should do next. Called at the end of every turn.
    pub fn pump(&mut self, turn: &mut Turn<'_>) {
        let keep = turn.common.generation.config.global().min_free_space;
        let disk_free = &turn.common.cells.disk_free;
        let free = disk_free.get();
        self.spool.set_space(Space { free, keep });
        while let Some(op) = self.spool.poll(turn.now) {
            match &op {
                DiskOp::Commit { op, .. } => self.commit = Some((*op, turn.now.mono)),
                // The other shards must not count on it until control has looked again.
                DiskOp::Prepare {
                    recycle: None,
                    file_bytes,
                    ..
                } => disk_free.set(disk_free.get().saturating_sub(*file_bytes)),
                _ => {}
            }
            turn.out.push(Action::Spool(op));
        }
        while let Some(op) = self.hose.poll(turn.now) {
            turn.out.push(Action::Hose(op));
        }
        if !self.barriers.is_empty() {
            self.pass_barriers(turn);
        }
        let written = self.hose.durable_upto();
        while let Some((commit, event)) = self.events.front() {
            if *commit > written {
                break;
            }
            self.spool.events_durable(*event);
            self.events.pop_front();
        }
        if let Some(released) = self.retold
            && (written > released || self.hose.is_flushed())
        {
            self.retold = None;
            self.spool.recovered_told();
        }
        if self.events.is_empty()
            && self.hose.is_flushed()
            && let Some(event) = self.late.take()
        {
            self.spool.events_durable(event);
        }
        for text in self.hose.take_notices() {
            turn.notice(Level::Warn, text);
        }
    }

    /// See [`Spool::could_commit`]; not while that waits for sessions.
    pub fn could_commit(&self) -> bool {
        self.gather.waits_until().is_none() && self.spool.could_commit()
    }

    pub fn next_wakeup(&self) -> Option<Mono> {
        // All else that is due for the disk waits with the commit.
        let due = || [self.spool.next_wakeup(), self.hose.next_wakeup()];
        let next = || due().into_iter().flatten().min();
        self.gather.waits_until().or_else(next)
    }

    /// No message waits for its commit and no body for its read.
    pub fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.readers.is_empty()
    }

    /// Brings everything to disk for the end. True when there is nothing left to do.
    pub fn flush(&mut self, turn: &mut Turn<'_>) -> bool {
        self.spool.flush(turn.now);
        self.hose.flush();
        self.gather.stop();
        self.pump(turn);
        self.is_quiet() && self.spool.is_idle() && self.hose.is_flushed()
    }

    /// Says what the end of the process leaves unwritten.
    pub fn note_left(&self, turn: &mut Turn<'_>) {
        let left = self.hose.stats().backlog_bytes;
        if left > 0 {
            let text = format!(
                "{} of events could not be written to the event log; what the spool has of them is \
                 told at the next start",
                units::size(left)
            );
            turn.notice(Level::Error, text);
        }
    }

    /// Messages that wait for their commit.
    pub fn commits_pending(&self) -> u64 {
        self.waiting.len() as u64
    }

    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    pub fn hose(&self) -> &Hose {
        &self.hose
    }
}

/// The entries of a message that has just become durable.
pub fn arrivals(
    home: ShardId,
    content: &Content,
    recipients: Vec<Recipient>,
) -> impl Iterator<Item = Arrival> {
    let (batch, received) = (content.batch, content.received);
    let size = u32::try_from(content.body.len()).unwrap_or(u32::MAX);
    let flow = content.flow.clone();
    let sender = SenderHash::of(content.sender_text());
    recipients
        .into_iter()
        .enumerate()
        .map(move |(index, recipient)| Arrival {
            batch,
            recipient: index as u16,
            home,
            address: recipient.address,
            binding: recipient.binding,
            received,
            size,
            flow: flow.clone(),
            sender: Sender::Hash(sender),
            progress: Progress::default(),
            moved: None,
            in_doubt: false,
        })
}

fn facts<'a>(
    turn: &'a Turn<'_>,
    content: &'a Content,
    message: MessageId,
    recipient: &'a crate::types::address::Address,
    binding: &'a str,
) -> EventFacts<'a> {
    let config = &turn.common.generation.config;
    let group = config
        .binding_by_name(binding)
        .and_then(|index| config.binding_settings(index).group.as_deref());
    EventFacts {
        content,
        size: content.body.len() as u64,
        message,
        recipient,
        binding,
        binding_group: group,
    }
}

/// Stands in for a message whose record can no longer be read: its event still tells what became
/// of it.
fn unknown_content(batch: BatchId, at: Wall) -> Arc<Content> {
    let unspecified = core::net::IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED);
    let origin = Origin {
        peer: unspecified,
        helo: "".into(),
        method: Method::Esmtp,
    };
    Arc::new(Content {
        batch,
        received: at,
        origin,
        sender: None,
        eight_bit: false,
        smtputf8: false,
        subject: "".into(),
        friendly_from: "".into(),
        flow: None,
        body: Bytes::new(),
    })
}

fn reply_to(refused: Refused) -> &'static Canned {
    match refused {
        Refused::NoSpace => &replies::DISK,
        Refused::Failing => &replies::SPOOL_FAILED,
        Refused::Busy => &replies::SPOOL_BUSY,
        Refused::TooLarge => &replies::MESSAGE_TOO_BIG,
    }
}
