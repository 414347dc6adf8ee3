//! The home of one shard's messages.

use core::ops::Range;
use core::time::Duration;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::time::Mono;
use crate::base::time::Now;
use crate::log;
use crate::log::CommitId;
use crate::log::Completion;
use crate::log::DiskOp;
use crate::log::Durable;
use crate::log::FailedCommits;
use crate::log::SegmentFile;
use crate::log::Writer;
use crate::log::format;
use crate::log::format::Frame;
use crate::log::format::Place;
use crate::types::id::BatchId;
use crate::types::message::Content;
use crate::types::message::Recipient;
use crate::types::outcome::Outcome;
use crate::types::outcome::OutcomeKind;

use super::compaction::Compaction;
use super::index::Entry;
use super::index::Index;
use super::index::SegmentId;
use super::index::Segments;
use super::record;
use super::record::Message;
use super::record::State;
use super::recovery::Home;
use super::scan::Beginning;

/// Outcomes kept in memory while the disk fails; beyond it they are dropped and counted.
const BACKLOG_BYTES_MAX: usize = 64 << 20;
/// Between looks for segments to reclaim, which cost time in proportion to their number.
const RECLAIM_DELAY: Duration = Duration::from_millis(10);
/// Segments that only outcomes may still use, so that a full spool can empty itself.
const SEGMENTS_RESERVED: u32 = 2;

/// What a spool is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The log's part: spool id, shard, start number, segment size, sync mode.
    pub log: log::Config,
    /// Segments in use at most, which bounds the disk space of this shard.
    pub segments_max: u32,
}

/// Numbers the events of one shard in the order of the records that carry them: a message's
/// reception and every outcome. Grows over restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct EventSeq(pub u64);

impl EventSeq {
    /// The events of a start are numbered above this; everything before it is below or equal.
    pub(super) fn base(start: u32) -> EventSeq {
        EventSeq(format::first_commit(start) - 1)
    }

    pub(super) fn start(self) -> u32 {
        format::start_of(self.0)
    }
}

/// A message that has been put into the gathering commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Answer `250` when a [`Durable`] covers this commit, `451` or `452` when it has failed.
    pub commit: CommitId,
    /// Of the reception event.
    pub event: EventSeq,
}

/// Why a message was not taken. Nothing of it is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// `452 4.3.1`: the disk or the space allotted to the spool is full; heals by itself.
    #[error("the spool has no space")]
    NoSpace,
    /// `451 4.3.0`: the disk fails; heals by itself.
    #[error("the spool cannot be written")]
    Failing,
    /// `451 4.3.2`: more waits to be written than the log may hold in memory.
    #[error("the spool is behind")]
    Busy,
    /// `552 5.3.4`: larger than any segment could hold.
    #[error("the message is too large for the spool")]
    TooLarge,
}

impl From<log::Refused> for Refused {
    fn from(refused: log::Refused) -> Refused {
        match refused {
            log::Refused::TooLarge => Refused::TooLarge,
            log::Refused::Busy => Refused::Busy,
            log::Refused::Stopped(log::Fault::NoSpace) => Refused::NoSpace,
            log::Refused::Stopped(log::Fault::Io) => Refused::Failing,
        }
    }
}

/// What a completion has brought about.
#[derive(Debug)]
pub enum Completed {
    /// Nothing the engine has to act on.
    Nothing,
    /// A commit is durable; it may hold no message at all.
    Durable(Durable),
    /// These commits failed: refuse every message waiting for one of them. The spool has forgotten
    /// those messages; outcomes are written again by the spool itself.
    Failed(FailedCommits),
    /// The record of a queued message cannot be read. It stays until the engine settles its open
    /// recipients.
    Unreadable(BatchId),
}

/// Where a message lies: one read of `bytes` at `offset` brings envelopes and body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyAt {
    pub file: SegmentFile,
    pub offset: u64,
    pub bytes: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// The message lies elsewhere by now: locate and read again.
    #[error("the message has moved meanwhile")]
    Moved,
    /// All its recipients are settled.
    #[error("the message is no longer in the spool")]
    Gone,
    /// Checksums or structure are wrong: the disk has damaged it.
    #[error("the record of the message is damaged")]
    Damaged,
}

/// Figures for metrics and status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub log: log::WriterStats,
    /// Messages with at least one open recipient.
    pub messages: u64,
    /// Bytes of their records.
    pub live_bytes: u64,
    /// Segments that hold records, the open one included.
    pub segments_used: u64,
    /// Segments that hold no record and wait to be used again.
    pub segments_free: u64,
    /// `segments_used` in bytes.
    pub used_bytes: u64,
    /// Messages moved by compaction.
    pub moved_messages: u64,
    /// Segments reclaimed.
    pub reclaimed_segments: u64,
    /// Outcomes that wait for the disk to work again.
    pub backlog_outcomes: u64,
    /// Outcomes that were given up because too many waited: after a restart those recipients may
    /// be tried again.
    pub dropped_outcomes: u64,
}

/// Outcomes that the log could not take, oldest first.
#[derive(Debug, Default)]
struct Backlog {
    payloads: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// Segments that the outcomes may be about, to be referred to wherever they get written.
    refers: BTreeSet<SegmentId>,
    dropped: u64,
}

impl Backlog {
    fn push(&mut self, payload: &[u8]) {
        if self.bytes + payload.len() > BACKLOG_BYTES_MAX {
            self.dropped += 1;
            return;
        }
        self.bytes += payload.len();
        self.payloads.push_back(payload.into());
    }
}

/// The home of one shard's messages. See the module's head for how it is used.
#[derive(Debug)]
pub struct Spool {
    pub(super) config: Config,
    pub(super) writer: Writer,
    pub(super) entries: Index,
    pub(super) segments: Segments,
    pub(super) compaction: Compaction,
    pub(super) scratch: Vec<u8>,
    next_event: u64,
    /// What earlier starts have left is known: before that nothing is reclaimed or moved.
    adopted: bool,
    events_durable: EventSeq,
    /// The same, but for the events of earlier starts that are to be told again.
    events_seen: EventSeq,
    /// The events of earlier starts are durable in the event log.
    recovered_told: bool,
    /// The newest event mark in the log.
    events_marked: EventSeq,
    durable: CommitId,
    /// The last commit that holds an outcome.
    outcomes: CommitId,
    backlog: Backlog,
    /// Something has happened that may let a segment be reclaimed.
    reclaim_due: bool,
    reclaim_at: Mono,
    reclaimed_segments: u64,
    noted_segment: u64,
}

impl Spool {
    /// A home that goes on where its log ended. It hears of the mail of earlier starts by
    /// [`Self::adopt`].
    pub fn new(config: Config, beginning: Beginning) -> Spool {
        let segment_bytes = config.log.segment_bytes;
        let fits = |(_, bytes): &(SegmentFile, u64)| *bytes == segment_bytes;
        let (free, useless): (Vec<_>, Vec<_>) = beginning.free.into_iter().partition(fits);
        let found = log::Found {
            good: beginning.good,
            synced: beginning.synced,
            free: free.into_iter().map(|(file, _)| file).collect(),
            unsynced: beginning.unsynced,
        };
        let mut writer = Writer::new(config.log.clone(), beginning.next_segment, found);
        for (file, _) in useless {
            writer.discard(file);
        }
        for (file, file_bytes) in beginning.blank {
            writer.reclaim(file, file_bytes, false);
        }
        if beginning.goes_on {
            // Makes what recovery decides hold at all later starts.
            writer.confirm();
        }
        let base = EventSeq::base(config.log.start);
        Spool {
            config,
            writer,
            entries: Index::default(),
            segments: Segments::newer_than_found(),
            compaction: Compaction::default(),
            scratch: Vec::new(),
            next_event: base.0 + 1,
            adopted: false,
            events_durable: EventSeq(0),
            events_seen: base,
            recovered_told: false,
            events_marked: EventSeq(0),
            durable: CommitId(0),
            outcomes: CommitId(0),
            backlog: Backlog::default(),
            reclaim_due: true,
            reclaim_at: Mono(0),
            reclaimed_segments: 0,
            noted_segment: 0,
        }
    }

    /// A home that knows from the first moment what earlier starts have left.
    pub fn whole(config: Config, home: &mut Home) -> Spool {
        let mut spool = Spool::new(config, home.begin());
        spool.adopt(home);
        spool
    }

    /// Takes over what recovery has found. Arrivals, unreported events and damage stay in `home`
    /// for the engine.
    pub fn adopt(&mut self, home: &mut Home) {
        assert!(!self.adopted, "there is one past");
        let parts = home.take_parts();
        for file in parts.useless {
            self.writer.discard(file);
        }
        for (file, file_bytes) in parts.blank {
            self.writer.reclaim(file, file_bytes, false);
        }
        let own = self.config.log.shard;
        if parts.segments.iter().any(|(_, it)| it.file.shard != own) {
            self.writer.confirm();
        }
        // One that cannot be synced counts by the word of those that came after it.
        let since: Vec<SegmentId> = self.segments.iter().map(|(id, _)| id).collect();
        self.segments.adopt(parts.segments);
        for file in &parts.unsynced {
            let Some(to) = self.segments.find(*file) else {
                continue;
            };
            since.iter().for_each(|from| self.segments.refer(*from, to));
        }
        self.writer.sync_found(parts.unsynced);
        self.entries.adopt(parts.entries);
        self.adopted = true;
        self.reclaim_due = true;
        if home.unreported.is_empty() {
            self.recovered_told();
        }
    }

    /// Whether a message would be taken now. To be asked before its data is received.
    pub fn admission(&self) -> Result<(), Refused> {
        let used = u32::try_from(self.segments.len()).unwrap_or(u32::MAX);
        if used.saturating_add(SEGMENTS_RESERVED) > self.config.segments_max {
            return Err(Refused::NoSpace);
        }
        Ok(self.writer.admission()?)
    }

    /// See [`Writer::set_space`].
    pub fn set_space(&mut self, space: log::Space) {
        self.writer.set_space(space);
    }

    /// Puts a message into the gathering commit. `recipients` must not be empty, and the batch id
    /// must be new.
    pub fn store(
        &mut self,
        content: &Content,
        recipients: &[Recipient],
    ) -> Result<Stored, Refused> {
        assert!(!recipients.is_empty(), "a message has a recipient");
        if recipients.len() > record::RECORD_RECIPIENTS_MAX {
            return Err(Refused::TooLarge);
        }
        self.admission()?;
        let event = EventSeq(self.next_event);
        let state = |_| State::NEW;
        let written = record::Written {
            event,
            known: event,
            moved: false,
        };
        record::encode_message(&mut self.scratch, written, content, recipients, &state);
        let (head, body): ([&[u8]; 1], [&[u8]; 1]) = ([&self.scratch], [&content.body]);
        let frames = message_frames(&head, &body);
        let at = self.writer.append(&frames)?;
        self.next_event += 1;
        let segment = self.own_segment(at.segment);
        let message_bytes = format::frame_bytes(self.scratch.len()) as u32;
        let body_bytes = at.bytes - message_bytes;
        let entry = Entry::new(segment, at.offset, message_bytes, body_bytes);
        let states = recipients.iter().map(|_| State::NEW);
        self.entries.insert(content.batch, entry, states);
        self.segments.add_live(segment, at.bytes);
        self.event_in(segment, event);
        Ok(Stored {
            commit: at.commit,
            event,
        })
    }

    /// Takes note of an outcome, which gets to disk with the next commit, at most 50 ms from now
    /// if the disk works. An outcome of a recipient that is not open changes nothing.
    ///
    /// Tells the number of its event, and the commit that makes it durable; none if the outcome
    /// changes nothing or waits for the disk to work again.
    pub fn settle(&mut self, now: Now, outcome: &Outcome) -> (EventSeq, Option<CommitId>) {
        let event = EventSeq(self.next_event);
        self.next_event += 1;
        let batch = outcome.message.batch;
        let recipient = usize::from(outcome.message.recipient);
        let state = record::state_after(outcome);
        let Some((entry, open)) = self.entries.set(batch, recipient, state) else {
            return (event, None);
        };
        if let OutcomeKind::Rebound { to, .. } = &outcome.kind {
            self.entries.rebind(outcome.message, to);
        }
        let (home, bytes) = (entry.segment, entry.bytes());
        self.event_in(home, event);
        record::encode_outcome(&mut self.scratch, event, outcome);
        let written = self.log_outcome(now);
        let about = [Some(home), self.compaction.destination(batch)];
        match written {
            Some((segment, commit)) => {
                self.event_in(segment, event);
                for to in about.into_iter().flatten() {
                    self.segments.refer(segment, to);
                }
                if let Some(segment) = self.segments.get_mut(home) {
                    segment.settled = segment.settled.max(commit);
                }
            }
            None => {
                self.backlog.refers.extend(about.into_iter().flatten());
                self.backlog.push(&self.scratch);
            }
        }
        if !open {
            self.entries.remove(batch);
            self.segments.drop_live(home, bytes);
            self.compaction.settled(batch);
            self.reclaim_due = true;
        }
        (event, written.map(|(_, commit)| commit))
    }

    /// Appends the outcome in `scratch`, unless others must go first or the log refuses.
    fn log_outcome(&mut self, now: Now) -> Option<(SegmentId, CommitId)> {
        if !self.backlog.payloads.is_empty() {
            return None;
        }
        let parts: &[&[u8]] = &[&self.scratch];
        let frame = Frame {
            kind: record::KIND_OUTCOME,
            index: true,
            parts,
        };
        let at = self.writer.append_lazy(now, &[frame]).ok()?;
        self.outcomes = at.commit;
        Some((self.own_segment(at.segment), at.commit))
    }

    /// The commit that makes all outcomes so far durable; none while some wait for the disk.
    pub fn outcomes_by(&self) -> Option<CommitId> {
        self.backlog.payloads.is_empty().then_some(self.outcomes)
    }

    /// Whether a commit is durable, and all before it.
    pub fn is_durable(&self, commit: CommitId) -> bool {
        self.durable >= commit
    }

    /// All events of this start up to this one are durable in the event log.
    pub fn events_durable(&mut self, upto: EventSeq) {
        self.events_seen = self.events_seen.max(upto);
        if self.recovered_told && self.events_seen > self.events_durable {
            self.events_durable = self.events_seen;
            self.reclaim_due = true;
        }
    }

    /// The events that recovery found unreported are durable in the event log as well. Until this
    /// is said the log does not tell that any are.
    pub fn recovered_told(&mut self) {
        self.recovered_told = true;
        self.events_durable(EventSeq(0));
    }

    /// The next operation to start, if there is one. Call until there is none.
    pub fn poll(&mut self, now: Now) -> Option<DiskOp> {
        self.drain_backlog(now);
        if self.writer.is_gathering() {
            self.mark_events(now);
        }
        let op = self.writer.poll(now);
        self.note_segment();
        if op.is_some() {
            return op;
        }
        self.reclaim(now);
        let op = self.writer.poll(now);
        if op.is_some() || !self.adopted {
            return op;
        }
        self.poll_compaction(now)
    }

    /// See [`Writer::could_start`].
    pub fn could_commit(&self) -> bool {
        self.writer.could_start()
    }

    /// Takes note of how an operation ended.
    pub fn completed(&mut self, now: Now, completion: Completion) -> Completed {
        if self.compaction.awaits(completion.op) {
            return self.move_read(now, completion);
        }
        let completed = self.writer.completed(now, completion);
        self.note_segment();
        match completed {
            log::Completed::Nothing => {
                self.reclaim_due = true;
                Completed::Nothing
            }
            log::Completed::Durable(durable) => {
                self.durable = durable.commit();
                self.moves_durable(durable.commit());
                self.reclaim_due = true;
                Completed::Durable(durable)
            }
            log::Completed::Failed(failed) => {
                self.absorb_failed();
                Completed::Failed(failed)
            }
            log::Completed::Reclaimed(file) => {
                if self.segments.remove(file) {
                    self.reclaimed_segments += 1;
                }
                self.reclaim_due = true;
                Completed::Nothing
            }
        }
    }

    /// When to poll again although nothing has happened.
    pub fn next_wakeup(&self) -> Option<Mono> {
        let held = self.durable == CommitId(0) || self.reclaim_is_held();
        let reclaim = self.reclaim_due && !held;
        let reclaim = reclaim.then_some(self.reclaim_at);
        let wakeups = [
            self.writer.next_wakeup(),
            self.compaction.next_wakeup(),
            reclaim,
        ];
        wakeups.into_iter().flatten().min()
    }

    /// Makes the next polls commit what has gathered, for a shutdown.
    pub fn flush(&mut self, now: Now) {
        self.mark_events(now);
        self.writer.flush();
    }

    /// Nothing gathers and nothing is under way. Asked after `poll` had nothing to say.
    pub fn is_idle(&self) -> bool {
        self.writer.is_idle() && self.backlog.payloads.is_empty() && self.compaction.is_idle()
    }

    /// Whether a power cut could still take something of what earlier starts have left.
    pub fn syncs_found(&self) -> bool {
        self.writer.syncs_found()
    }

    /// Where a message lies, if it has open recipients.
    pub fn locate(&self, batch: BatchId) -> Option<BodyAt> {
        locate(&self.entries, &self.segments, batch)
    }

    /// Makes a message out of what was read at `at`. The body shares the memory of `bytes`.
    pub fn decode_read(
        &self,
        batch: BatchId,
        at: BodyAt,
        bytes: &Bytes,
    ) -> Result<(Content, Vec<Recipient>), ReadError> {
        let place = self.place(at.file);
        let mut intern = |name: &str| Arc::from(name);
        match decode_record(place, at.offset, bytes, &mut intern) {
            Some((message, body)) if message.content.batch == batch => {
                let content = Content {
                    body: bytes.slice(body),
                    ..message.content
                };
                Ok((
                    content,
                    message.recipients.into_iter().map(|it| it.0).collect(),
                ))
            }
            _ => Err(match self.locate(batch) {
                None => ReadError::Gone,
                Some(now_at) if now_at != at => ReadError::Moved,
                Some(_) => ReadError::Damaged,
            }),
        }
    }

    pub fn stats(&self) -> Stats {
        Stats {
            log: self.writer.stats().clone(),
            messages: self.entries.len() as u64,
            live_bytes: self.segments.live_bytes(),
            segments_used: self.segments.len() as u64,
            segments_free: self.writer.free_segments() as u64,
            used_bytes: self.segments.used_bytes(),
            moved_messages: self.compaction.moved_messages,
            reclaimed_segments: self.reclaimed_segments,
            backlog_outcomes: self.backlog.payloads.len() as u64,
            dropped_outcomes: self.backlog.dropped,
        }
    }

    pub(super) fn place(&self, file: SegmentFile) -> Place {
        Place {
            spool_id: self.config.log.spool_id,
            segment: file.number,
        }
    }

    pub(super) fn own_segment(&mut self, number: u64) -> SegmentId {
        let file = SegmentFile::live(self.config.log.shard, number);
        self.segments.open(file, self.config.log.segment_bytes)
    }

    /// A record of this segment is needed until that event is durable.
    pub(super) fn event_in(&mut self, segment: SegmentId, event: EventSeq) {
        if let Some(segment) = self.segments.get_mut(segment) {
            segment.events = segment.events.max(event);
        }
    }

    /// A segment may get nothing but commit marks; it is on disk all the same.
    fn note_segment(&mut self) {
        let current = self.writer.current_segment();
        if current != self.noted_segment {
            self.noted_segment = current;
            let id = self.own_segment(current);
            let writer = &self.writer;
            let suspects: Vec<SegmentId> = self
                .segments
                .iter()
                .filter(|(it, segment)| *it < id && writer.is_suspect(segment.file))
                .map(|(it, _)| it)
                .collect();
            for it in suspects {
                self.segments.refer(id, it);
            }
            self.reclaim_due = true;
        }
    }

    /// The last event that was given a number.
    pub(super) fn last_event(&self) -> EventSeq {
        EventSeq(self.next_event - 1)
    }

    pub(super) fn told_events(&self) -> EventSeq {
        self.events_durable
    }

    fn mark_events(&mut self, now: Now) {
        if self.events_durable <= self.events_marked {
            return;
        }
        let payload = record::encode_event_mark(self.events_durable);
        let parts: &[&[u8]] = &[&payload];
        let frame = Frame {
            kind: record::KIND_EVENT_MARK,
            index: true,
            parts,
        };
        // Refused means that events are told again after a crash, with the same ids.
        if let Ok(at) = self.writer.append_lazy(now, &[frame]) {
            self.own_segment(at.segment);
            self.events_marked = self.events_durable;
        }
    }

    fn reclaim(&mut self, now: Now) {
        // While outcomes wait in memory nobody knows yet which segments they will refer to.
        // Before the first commit of this start only what is surely on disk counts.
        let first = self.durable == CommitId(0);
        let waits = first && !self.writer.found_is_synced()
            || self.reclaim_at > now.mono
            || self.reclaim_is_held();
        if !self.reclaim_due || waits {
            return;
        }
        self.reclaim_due = false;
        self.reclaim_at = now.mono + RECLAIM_DELAY;
        let own = self.config.log.shard;
        let writer = &self.writer;
        let moving = self.compaction.destinations();
        // That the newest one is there is what makes the others sure, until a commit says so. A
        // full disk may have to give back the others before there is room for that commit.
        let own_files = self.segments.iter().map(|(_, it)| it.file);
        let newest = own_files.filter(|it| it.shard == own).max();
        let needed = |file: &SegmentFile| first && (file.shard != own || Some(*file) == newest);
        let in_use =
            |file: &SegmentFile| writer.uses(*file) || moving.contains(file) || needed(file);
        let found = self
            .segments
            .reclaimable(own, self.events_durable, self.durable, &in_use);
        for (file, file_bytes, damaged) in found {
            self.writer.reclaim(file, file_bytes, damaged);
        }
    }

    /// Until that is over, whose end is seen to by whoever brings it about.
    fn reclaim_is_held(&self) -> bool {
        !self.adopted || self.writer.syncs_found() || !self.backlog.payloads.is_empty()
    }

    /// Takes back what was in commits that failed: messages are forgotten, outcomes kept.
    fn absorb_failed(&mut self) {
        let mut waiting = core::mem::take(&mut self.backlog.payloads);
        self.backlog.bytes = 0;
        for batch in self.writer.take_failed() {
            let segment = self.own_segment(batch.segment);
            if let Some(it) = self.segments.get(segment) {
                self.backlog.refers.extend(it.refers.iter().copied());
            }
            self.backlog.refers.insert(segment);
            for (header, offset, payload) in batch.frames() {
                match header.kind {
                    record::KIND_MESSAGE => self.forget(segment, offset as u32, payload),
                    record::KIND_OUTCOME => self.backlog.push(payload),
                    record::KIND_EVENT_MARK => self.events_marked = EventSeq(0),
                    _ => {}
                }
            }
            self.compaction.failed(batch.commit);
        }
        for payload in waiting.drain(..) {
            self.backlog.push(&payload);
        }
        self.reclaim_due = true;
    }

    /// A message did not get to disk, or its copy did not.
    fn forget(&mut self, segment: SegmentId, offset: u32, payload: &[u8]) {
        let Some(head) = record::decode_message_head(payload) else {
            return;
        };
        let lies_here = |entry: &&Entry| entry.segment == segment && entry.offset == offset;
        if let Some(entry) = self.entries.get(head.batch).filter(lies_here) {
            let bytes = entry.bytes();
            self.entries.remove(head.batch);
            self.segments.drop_live(segment, bytes);
        }
    }

    fn drain_backlog(&mut self, now: Now) {
        while let Some(payload) = self.backlog.payloads.front() {
            let parts: &[&[u8]] = &[payload];
            let frame = Frame {
                kind: record::KIND_OUTCOME,
                index: true,
                parts,
            };
            let Ok(at) = self.writer.append_lazy(now, &[frame]) else {
                return;
            };
            let event = record::decode_outcome_head(payload).map(|it| it.event);
            self.backlog.bytes -= payload.len();
            self.backlog.payloads.pop_front();
            let segment = self.own_segment(at.segment);
            self.event_in(segment, event.unwrap_or_default());
            for to in &self.backlog.refers {
                self.segments.refer(segment, *to);
                // What it settles may go only when this commit is on disk, as with any outcome.
                if let Some(home) = self.segments.get_mut(*to) {
                    home.settled = home.settled.max(at.commit);
                }
            }
        }
        self.backlog.refers.clear();
    }
}

pub(super) fn locate(entries: &Index, segments: &Segments, batch: BatchId) -> Option<BodyAt> {
    let entry = entries.get(batch)?;
    let file = segments.get(entry.segment)?.file;
    Some(BodyAt {
        file,
        offset: u64::from(entry.offset),
        bytes: entry.bytes(),
    })
}

/// A message and its body, as they stand next to each other.
pub(super) fn message_frames<'a>(message: &'a [&'a [u8]], body: &'a [&'a [u8]]) -> [Frame<'a>; 2] {
    [
        Frame {
            kind: record::KIND_MESSAGE,
            index: true,
            parts: message,
        },
        Frame {
            kind: record::KIND_BODY,
            index: false,
            parts: body,
        },
    ]
}

/// A message out of its two frames, and where in `bytes` the body is.
pub(super) fn decode_record(
    place: Place,
    offset: u64,
    bytes: &[u8],
    intern: record::Intern<'_>,
) -> Option<(Message, Range<usize>)> {
    let first = format::decode_frame_header(place, offset, bytes)?;
    let payload = format::decode_payload(place, offset, &first, bytes)?;
    let message = record::decode_message(payload, intern)?;
    let at = first.frame_bytes();
    let rest = bytes.get(at..)?;
    let second = format::decode_frame_header(place, offset + at as u64, rest)?;
    let body = format::decode_payload(place, offset + at as u64, &second, rest)?;
    let kinds = first.kind == record::KIND_MESSAGE && second.kind == record::KIND_BODY;
    let same = first.commit == second.commit && body.len() == message.body_bytes as usize;
    let start = at + format::FRAME_HEADER_BYTES;
    (kinds && same).then_some((message, start..start + body.len()))
}
