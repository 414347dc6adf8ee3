//! What a start finds on disk: messages with open recipients, how far they have come, events that
//! may not have been told, and damage.
//!
//! Recovery is global: records of all folders are gathered first, and only then given to homes.
//! The numbers of commits and events begin with the number of the start, and in one start only one
//! home writes about a batch, so they order all records about a batch, whichever folders they are
//! in. The copy of a message in the highest commit wins. Outcomes apply in the order of their
//! events, which is not that of their places in the log: what a failed commit held is written again
//! later. A copy tells the last event that it knows of. So it does not matter which shard wrote
//! what, and the number of shards may change at every start.
//!
//! The folder of a shard that no longer exists belongs to shard `folder % shards`, which moves what
//! is left in it to segments of its own and removes the old ones. If shards come back before that
//! is done, outcomes may lie in the folder of one home about a message of another: a segment with
//! such outcomes is held until the next start.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::map;
use crate::base::map::Map;
use crate::base::map::Set;
use crate::base::time::Wall;
use crate::log;
use crate::log::Fault;
use crate::log::SegmentFile;
use crate::log::SegmentKind;
use crate::log::format;
use crate::log::format::Place;
use crate::log::format::Position;
use crate::log::recover;
use crate::log::recover::Certainty;
use crate::log::recover::Cut;
use crate::log::recover::Evidence;
use crate::log::recover::FrameRef;
use crate::log::recover::RecoverError;
use crate::log::recover::Recovered;
use crate::log::recover::Tail;
use crate::types::id::BatchId;
use crate::types::id::ShardId;
use crate::types::message::Arrival;
use crate::types::message::Content;
use crate::types::message::Progress;
use crate::types::message::Recipient;
use crate::types::outcome::Outcome;

use super::index;
use super::index::Index;
use super::index::Segment;
use super::index::SegmentId;
use super::index::Segments;
use super::record;
use super::record::OutcomeHead;
use super::record::State;
use super::store::EventSeq;

/// Reads bytes of a file at an offset: exactly as many as asked for.
pub type ReadFn<'a> = &'a mut dyn FnMut(SegmentFile, u64, usize) -> Result<Vec<u8>, Fault>;

/// Why the process must not start with this spool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("{file}: log format {major} is newer than this program")]
    NewerFormat { file: SegmentFile, major: u16 },
}

/// What is wrong with a part of the spool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Problem {
    /// In the last commit, which was not confirmed: a torn write or damage.
    TornOrDamaged,
    /// It had been on disk and is wrong now.
    Damaged,
    /// The disk refuses to read the file, which is left alone.
    Unreadable,
    /// The file belongs to another spool or has been renamed; it is left alone.
    Foreign,
    /// The file is shorter than it was; with nothing of the log in what it lacks, if so.
    Short { unused: bool },
    /// The file tells of a message that no file holds, though it was not done with.
    Missing,
}

/// A report of damage. Everything else has been recovered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damaged {
    pub file: SegmentFile,
    pub offset: u32,
    /// Zero stands for the whole file.
    pub bytes: u32,
    pub problem: Problem,
    /// The message that was lost, where that can be told.
    pub batch: Option<BatchId>,
}

impl core::fmt::Display for Damaged {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Damaged {
            file,
            offset,
            bytes,
            ..
        } = self;
        match self.problem {
            Problem::Unreadable => write!(f, "{file}: the disk refuses to read it; left alone"),
            Problem::Foreign => write!(f, "{file}: belongs to another spool; left alone"),
            Problem::Damaged => write!(f, "{file}: {bytes} bytes at {offset} are damaged")
                .and_then(|()| self.write_batch(f)),
            Problem::TornOrDamaged => write!(
                f,
                "{file}: {bytes} bytes at {offset} of an unconfirmed commit are torn or damaged"
            )
            .and_then(|()| self.write_batch(f)),
            Problem::Short { unused } => {
                let mail = match unused {
                    true => "nothing lay there, all mail was recovered",
                    false => "mail that lay there is lost, everything else was recovered",
                };
                write!(
                    f,
                    "{file}: cut to {offset} bytes, the {bytes} bytes after them are missing; \
                     {mail}"
                )
            }
            Problem::Missing => {
                write!(f, "{file}: tells of a message whose own segment is missing")
                    .and_then(|()| self.write_batch(f))
            }
        }
    }
}

impl Damaged {
    fn write_batch(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.batch {
            Some(batch) => write!(f, "; message {batch} is lost"),
            None => write!(f, "; what lay there is lost, everything else was recovered"),
        }
    }
}

/// What an event needs to know of its message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Its body is empty.
    pub content: Content,
    pub body_bytes: u32,
    pub recipients: Vec<Recipient>,
}

/// An event that may not be in the event log. To be written again; its id is the same as before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreported {
    pub batch: BatchId,
    pub event: UnreportedEvent,
    /// Nothing if the message's record can no longer be read.
    pub facts: Option<Arc<Facts>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnreportedEvent {
    Reception,
    Outcome(Outcome),
}

/// What one shard starts with.
#[derive(Debug)]
pub struct Home {
    pub shard: ShardId,
    /// Every open recipient, in the order of reception. To be taken by the engine.
    pub arrivals: Vec<Arrival>,
    /// In order. When they are durable in the event log, tell the spool its
    /// [`recovered_seq`](crate::spool::Spool::recovered_seq).
    pub unreported: Vec<Unreported>,
    pub damage: Vec<Damaged>,
    /// Commits that were cut because they had not been finished.
    pub torn_tails: u32,
    parts: HomeParts,
    free: Vec<(SegmentFile, u64)>,
}

/// What the home itself keeps.
#[derive(Debug, Default)]
pub(super) struct HomeParts {
    pub entries: Index,
    pub segments: Segments,
    pub next_segment: u64,
    pub found: log::Found,
    pub useless: Vec<SegmentFile>,
    /// Segments that were made and never written, with their sizes.
    pub blank: Vec<(SegmentFile, u64)>,
}

impl Home {
    /// The home of a shard that has never had a spool.
    pub fn empty(shard: ShardId) -> Home {
        let parts = HomeParts {
            next_segment: 1,
            ..HomeParts::default()
        };
        let (arrivals, unreported, damage, free) = Default::default();
        Home {
            shard,
            arrivals,
            unreported,
            damage,
            torn_tails: 0,
            parts,
            free,
        }
    }

    pub(super) fn take_parts(&mut self, segment_bytes: u64) -> HomeParts {
        let mut parts = core::mem::take(&mut self.parts);
        for (file, bytes) in core::mem::take(&mut self.free) {
            if bytes == segment_bytes && file.shard == self.shard {
                parts.found.free.push(file);
            } else {
                parts.useless.push(file);
            }
        }
        parts
    }
}

/// Commit and offset: orders all records about one batch.
type Key = (u64, u32);

/// The best copy of a message seen so far.
struct Found {
    key: Key,
    /// The last event whose outcome the states include.
    known: EventSeq,
    segment: usize,
    message_bytes: u32,
    body_bytes: u32,
    received: Wall,
    size: u32,
    recipients: Box<[(Recipient, State)]>,
}

struct OutcomeFact {
    segment: usize,
    head: OutcomeHead,
}

struct SegmentFact {
    segment: Segment,
    start: u32,
    sealed: bool,
    /// See [`Recovered::prior`].
    prior: Option<Position>,
}

#[derive(Default)]
struct Folder {
    number_max: u64,
    numbers: BTreeSet<u64>,
    good: Position,
    synced: Position,
    free: Vec<(SegmentFile, u64)>,
    /// See [`HomeParts::blank`].
    blank: Vec<(SegmentFile, u64)>,
    /// Not sealed, so perhaps not synced.
    unsynced: Vec<SegmentFile>,
    torn_tails: u32,
}

impl Folder {
    /// What the next start's marks will say is what the newest segment says.
    fn counts(&mut self, segment: u64, good: u32, sure: u32) {
        if segment > self.good.segment {
            self.good = Position {
                segment,
                offset: good,
            };
            self.synced = Position {
                segment,
                offset: sure,
            };
        }
    }
}

/// What the files of one shard's folder hold, each by itself. Folders can be scanned beside each
/// other; a [`Recovery`] puts the scans together.
pub struct Scan {
    spool_id: u64,
    shard: ShardId,
    folder: Folder,
    segments: Vec<SegmentFact>,
    /// All copies.
    messages: Vec<(BatchId, Found)>,
    outcomes: Vec<OutcomeFact>,
    receptions: Vec<(EventSeq, usize, BatchId)>,
    events: Vec<(EventSeq, usize, Outcome)>,
    /// The newest event mark.
    mark: Option<EventSeq>,
    starts: BTreeMap<u32, u16>,
    damage: Vec<Damaged>,
    names: Set<Arc<str>>,
}

/// Rebuilds the homes of all shards: [`Recovery::take`] per folder, then [`Recovery::finish`].
pub struct Recovery {
    spool_id: u64,
    shards: u16,
    folders: BTreeMap<ShardId, Folder>,
    segments: Vec<SegmentFact>,
    messages: Map<BatchId, Found>,
    /// Other copies than the best, and which segments they are in.
    copies: Vec<(BatchId, EventSeq, usize)>,
    outcomes: Vec<OutcomeFact>,
    receptions: Vec<(EventSeq, usize, BatchId)>,
    events: Vec<(EventSeq, usize, Outcome)>,
    /// The newest event mark of each folder.
    marks: BTreeMap<ShardId, EventSeq>,
    /// How many shards each start had.
    starts: BTreeMap<u32, u16>,
    damage: Vec<Damaged>,
    names: Set<Arc<str>>,
}

impl Scan {
    /// All files of one shard's folder with their sizes; those of kind `New` can be removed before.
    pub fn folder(
        spool_id: u64,
        shard: ShardId,
        mut files: Vec<(SegmentFile, u64)>,
        read: ReadFn<'_>,
    ) -> Result<Scan, RecoveryError> {
        // Newest first: it says how much of the older ones counts.
        files.sort_by_key(|(file, _)| core::cmp::Reverse(file.number));
        let mut scan = Scan {
            spool_id,
            shard,
            folder: Folder::default(),
            segments: Vec::new(),
            messages: Vec::new(),
            outcomes: Vec::new(),
            receptions: Vec::new(),
            events: Vec::new(),
            mark: None,
            starts: BTreeMap::new(),
            damage: Vec::new(),
            names: Set::default(),
        };
        let mut evidence = Evidence::default();
        for (file, file_bytes) in files {
            let folder = &mut scan.folder;
            folder.number_max = folder.number_max.max(file.number);
            folder.numbers.insert(file.number);
            match file.kind {
                SegmentKind::Live => {}
                SegmentKind::Free => folder.free.push((file, file_bytes)),
                SegmentKind::New | SegmentKind::Damaged => {}
            }
            if file.kind == SegmentKind::Live {
                scan.read_segment(&mut evidence, file, file_bytes, read)?;
            }
        }
        Ok(scan)
    }

    fn read_segment(
        &mut self,
        evidence: &mut Evidence,
        file: SegmentFile,
        file_bytes: u64,
        read: ReadFn<'_>,
    ) -> Result<(), RecoveryError> {
        let place = Place {
            spool_id: self.spool_id,
            segment: file.number,
        };
        let mut part = |offset, bytes| read(file, offset, bytes);
        let problem = match recover::read_segment(place, file_bytes, *evidence, &mut part) {
            // What was kept for outcomes on a full disk is what the next start begins with.
            Ok(recovered) if recovered.is_blank() => {
                self.folder.blank.push((file, file_bytes));
                return Ok(());
            }
            Ok(recovered) => {
                if recovered.good_offset as usize > format::HEADER_BYTES {
                    self.folder
                        .counts(file.number, recovered.good_offset, recovered.sure_offset);
                }
                self.folder.torn_tails += u32::from(recovered.tail != Tail::Clean);
                *evidence = recovered.evidence;
                if recovered.complete {
                    self.folder.unsynced.push(file);
                }
                self.take_segment(file, file_bytes, &recovered);
                return Ok(());
            }
            Err(RecoverError::NewerFormat(major)) => {
                return Err(RecoveryError::NewerFormat { file, major });
            }
            Err(RecoverError::Foreign) => Problem::Foreign,
            Err(RecoverError::Unreadable(_)) => Problem::Unreadable,
        };
        // It stays where it is, and nothing that is written from now on may rule it out.
        self.folder.counts(file.number, Position::UNKNOWN_OFFSET, 0);
        self.damage.push(Damaged {
            file,
            offset: 0,
            bytes: 0,
            problem,
            batch: None,
        });
        Ok(())
    }

    fn take_segment(&mut self, file: SegmentFile, file_bytes: u64, recovered: &Recovered) {
        let start = recovered.start.unwrap_or(0);
        if let Some(shards) = recovered.shards {
            self.starts.insert(start, shards);
        }
        let index = self.segments.len();
        let segment = Segment::new(file, file_bytes);
        let (sealed, prior) = (!recovered.complete, recovered.prior);
        self.segments.push(SegmentFact {
            segment,
            start,
            sealed,
            prior,
        });
        // The marks first: what they cover needs no second look.
        for frame in recovered
            .frames
            .iter()
            .filter(|it| it.kind == record::KIND_EVENT_MARK)
        {
            if let Some(upto) = record::decode_event_mark(recovered.payload(frame)) {
                self.mark = self.mark.max(Some(upto));
            }
        }
        let mut lost = Vec::new();
        for (position, frame) in recovered.frames.iter().enumerate() {
            let payload = recovered.payload(frame);
            let sound = match frame.kind {
                record::KIND_MESSAGE => {
                    let body = recovered.frames.get(position + 1);
                    let sure = frame.offset < recovered.sure_offset;
                    let body = (body, recovered.complete);
                    self.take_message(index, frame, payload, body, sure)
                }
                record::KIND_OUTCOME => self.take_outcome(index, payload),
                _ => true,
            };
            if !sound {
                lost.push((frame.offset, frame.frame_bytes(), payload));
            }
        }
        self.report(index, recovered, &lost);
    }

    fn take_message(
        &mut self,
        segment: usize,
        frame: &FrameRef,
        payload: &[u8],
        (body, complete): (Option<&FrameRef>, bool),
        sure: bool,
    ) -> bool {
        let names = &mut self.names;
        let mut intern = |name: &str| intern(names, name);
        let Some(head) = record::decode_message_head(payload) else {
            return false;
        };
        let Some(recipients) = record::decode_recipients(payload, &mut intern) else {
            return false;
        };
        let adjacent = |body: &&FrameRef| {
            body.kind == record::KIND_BODY
                && body.offset == frame.offset + frame.frame_bytes()
                && body.commit == frame.commit
                && body.payload_bytes == head.body_bytes
        };
        if complete && body.filter(adjacent).is_none() {
            return false;
        }
        if head.moved && !sure {
            // A copy in the last commit before a crash: that commit may have failed, or not be
            // whole, and the original is still there. It must not count at later starts either.
            return true;
        }
        self.event_of(segment, head.event);
        self.receptions.push((head.event, segment, head.batch));
        let found = Found {
            key: (frame.commit, frame.offset),
            known: head.known,
            segment,
            message_bytes: frame.frame_bytes(),
            body_bytes: format::frame_bytes(head.body_bytes as usize) as u32,
            received: head.received,
            size: head.body_bytes,
            recipients: recipients.into_boxed_slice(),
        };
        self.messages.push((head.batch, found));
        true
    }

    fn take_outcome(&mut self, segment: usize, payload: &[u8]) -> bool {
        let Some(head) = record::decode_outcome_head(payload) else {
            return false;
        };
        self.event_of(segment, head.event);
        self.outcomes.push(OutcomeFact { segment, head });
        if self.mark.is_some_and(|mark| head.event <= mark) {
            return true;
        }
        match record::decode_outcome(payload) {
            Some(outcome) => self.events.push((head.event, segment, outcome)),
            None => return false,
        }
        true
    }

    fn event_of(&mut self, segment: usize, event: EventSeq) {
        let segment = &mut self.segments[segment].segment;
        segment.events = segment.events.max(event);
    }

    /// Reports damage; a part of a message whose envelope is left is reported by its name.
    fn report(&mut self, index: usize, recovered: &Recovered, lost: &[(u32, u32, &[u8])]) {
        let segment = &mut self.segments[index].segment;
        let file = segment.file;
        for (offset, bytes, payload) in lost {
            let head = record::decode_message_head(payload);
            let body = head
                .as_ref()
                .map_or(0, |it| format::frame_bytes(it.body_bytes as usize));
            let bytes = bytes + body as u32;
            let within = |it: &&recover::Damage| (*offset..offset + bytes).contains(&it.offset);
            let unconfirmed = recovered.damage.iter().find(within).map(|it| it.certainty);
            let problem = problem(unconfirmed.unwrap_or(Certainty::Damaged));
            let batch = head.map(|it| it.batch);
            self.damage.push(Damaged {
                file,
                offset: *offset,
                bytes,
                problem,
                batch,
            });
        }
        for damage in &recovered.damage {
            let cut = recovered.cut.filter(|it| it.offset == damage.offset);
            let told = |(offset, bytes, payload): &(u32, u32, &[u8])| {
                let head = record::decode_message_head(payload);
                let body = head.map_or(0, |it| format::frame_bytes(it.body_bytes as usize) as u32);
                (*offset..offset + bytes + body).contains(&damage.offset)
            };
            if cut.is_some() || !lost.iter().any(told) {
                let recover::Damage {
                    offset,
                    bytes,
                    certainty,
                } = *damage;
                let problem = match cut {
                    Some(Cut { unused, .. }) => Problem::Short { unused },
                    None => problem(certainty),
                };
                self.damage.push(Damaged {
                    file,
                    offset,
                    bytes,
                    problem,
                    batch: None,
                });
            }
        }
        segment.damaged = !lost.is_empty() || !recovered.damage.is_empty();
    }
}

impl Recovery {
    /// `shards` is the number of shards from now on.
    pub fn new(spool_id: u64, shards: u16) -> Recovery {
        assert!(shards > 0, "somebody must take the mail");
        Recovery {
            spool_id,
            shards,
            folders: BTreeMap::new(),
            segments: Vec::new(),
            messages: Map::default(),
            copies: Vec::new(),
            outcomes: Vec::new(),
            receptions: Vec::new(),
            events: Vec::new(),
            marks: BTreeMap::new(),
            starts: BTreeMap::new(),
            damage: Vec::new(),
            names: Set::default(),
        }
    }

    /// Scans a folder and takes what was found.
    pub fn folder(
        &mut self,
        shard: ShardId,
        files: Vec<(SegmentFile, u64)>,
        read: ReadFn<'_>,
    ) -> Result<(), RecoveryError> {
        self.take(Scan::folder(self.spool_id, shard, files, read)?);
        Ok(())
    }

    /// Adds what a folder holds to what others do.
    pub fn take(&mut self, scan: Scan) {
        let first = self.segments.len();
        self.segments.extend(scan.segments);
        self.messages.reserve(scan.messages.len());
        for (batch, mut found) in scan.messages {
            found.segment += first;
            let best = match self.messages.entry(batch) {
                map::Entry::Vacant(place) => {
                    place.insert(found);
                    continue;
                }
                map::Entry::Occupied(place) => place.into_mut(),
            };
            if best.key < found.key {
                core::mem::swap(best, &mut found);
            }
            self.copies.push((batch, found.known, found.segment));
        }
        let outcomes = scan.outcomes.into_iter();
        self.outcomes.extend(outcomes.map(|it| OutcomeFact {
            segment: it.segment + first,
            ..it
        }));
        let receptions = scan.receptions.into_iter();
        self.receptions
            .extend(receptions.map(|(event, segment, batch)| (event, segment + first, batch)));
        let events = scan.events.into_iter();
        self.events
            .extend(events.map(|(event, segment, outcome)| (event, segment + first, outcome)));
        if let Some(mark) = scan.mark {
            self.marks.insert(scan.shard, mark);
        }
        self.starts.extend(scan.starts);
        self.damage.extend(scan.damage);
        self.folders.insert(scan.shard, scan.folder);
    }

    /// One home per shard. Messages of events that may not have been told are read again.
    pub fn finish(mut self, read: ReadFn<'_>) -> Vec<Home> {
        let order = self.sort_segments();
        self.apply_outcomes();
        self.report_missing();
        let mut homes: Vec<Home> = (0..self.shards)
            .map(|shard| Home::empty(ShardId(shard as u8)))
            .collect();
        self.give_unreported(&mut homes, read);
        self.give_segments(&mut homes, order);
        for (shard, folder) in core::mem::take(&mut self.folders) {
            let home = &mut homes[self.home_of(shard)];
            home.torn_tails += folder.torn_tails;
            home.free.extend(folder.free);
            home.parts.blank.extend(folder.blank);
            home.parts.found.unsynced.extend(folder.unsynced);
            if home.shard == shard {
                home.parts.next_segment = folder.number_max + 1;
                home.parts.found.good = folder.good;
                home.parts.found.synced = folder.synced;
            }
        }
        for damaged in core::mem::take(&mut self.damage) {
            homes[self.home_of(damaged.file.shard)].damage.push(damaged);
        }
        homes
    }

    fn home_of(&self, folder: ShardId) -> usize {
        home_of(folder, self.shards)
    }

    /// Where each segment comes by age.
    fn sort_segments(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.segments.len()).collect();
        order.sort_by_key(|index| {
            let fact = &self.segments[*index];
            (
                fact.start,
                fact.segment.file.shard,
                fact.segment.file.number,
            )
        });
        order
    }

    fn apply_outcomes(&mut self) {
        self.outcomes.sort_by_key(|it| it.head.event);
        for OutcomeFact { head, .. } in &self.outcomes {
            let Some(found) = self.messages.get_mut(&head.message.batch) else {
                continue;
            };
            let recipient = found
                .recipients
                .get_mut(usize::from(head.message.recipient));
            let Some((_, state)) = recipient else {
                continue;
            };
            // A copy was written with what was known then; only later attempts change it.
            let applies = head.state == State::Settled || head.event > found.known;
            if *state != State::Settled && applies {
                *state = head.state;
            }
        }
    }

    /// Messages that outcomes tell of and no segment holds. That is as it should be once a later
    /// outcome has settled the message, and the segment with that outcome may be gone as well: so
    /// it is damage only where no segment can have gone since.
    fn report_missing(&mut self) {
        let mut last: BTreeMap<BatchId, Option<&OutcomeFact>> = BTreeMap::new();
        for outcome in &self.outcomes {
            let (batch, state) = (outcome.head.message.batch, outcome.head.state);
            let open = last.entry(batch).or_insert(Some(outcome));
            // They come in the order of their events.
            *open = open.and((state != State::Settled).then_some(outcome));
        }
        let holds = |batch: &BatchId| self.messages.contains_key(batch);
        let lost = last.into_iter().filter(|(batch, _)| !holds(batch));
        let lost = lost.filter_map(|(batch, open)| Some((batch, open?)));
        for (batch, outcome) in lost {
            let fact = &self.segments[outcome.segment];
            let file = fact.segment.file;
            let shards = |(_, shards): (&u32, &u16)| *shards == self.shards;
            let same_home = self.starts.range(fact.start..).all(shards);
            let whole = self.folders.get(&file.shard).is_some_and(|folder| {
                let later = folder.numbers.range(file.number..).count() as u64;
                later == folder.number_max - file.number + 1
            });
            if same_home && whole {
                let (offset, bytes, problem) = (0, 0, Problem::Missing);
                self.damage.push(Damaged {
                    file,
                    offset,
                    bytes,
                    problem,
                    batch: Some(batch),
                });
            }
        }
    }

    fn give_segments(&mut self, homes: &mut [Home], order: Vec<usize>) {
        let links = self.links();
        let mut ids = vec![SegmentId(0); order.len()];
        let mut holders: Vec<usize> = vec![0; order.len()];
        let mut facts: Vec<Option<SegmentFact>> = core::mem::take(&mut self.segments)
            .into_iter()
            .map(Some)
            .collect();
        for index in order {
            let Some(fact) = facts[index].take() else {
                continue;
            };
            holders[index] = self.home_of(fact.segment.file.shard);
            ids[index] = homes[holders[index]].parts.segments.push(fact.segment);
        }
        for (from, to) in links {
            let segments = &mut homes[holders[from]].parts.segments;
            if holders[from] == holders[to] {
                segments.refer(ids[from], ids[to]);
            } else if let Some(segment) = segments.get_mut(ids[from]) {
                segment.held = true;
            }
        }
        let mut messages: Vec<_> = core::mem::take(&mut self.messages).into_iter().collect();
        messages.sort_by_key(|(batch, found)| (found.received, *batch));
        for (batch, found) in messages {
            give_message(
                &mut homes[holders[found.segment]],
                ids[found.segment],
                batch,
                found,
            );
        }
    }

    /// Which segments hold records about messages of which others. A copy that was written after an
    /// outcome knows of it, and does not need it.
    fn links(&self) -> BTreeSet<(usize, usize)> {
        let mut copies: Map<BatchId, Vec<(EventSeq, usize)>> = Map::default();
        for (batch, known, segment) in &self.copies {
            copies.entry(*batch).or_default().push((*known, *segment));
        }
        let mut links = BTreeSet::new();
        for OutcomeFact { segment, head } in &self.outcomes {
            let batch = head.message.batch;
            let best = self
                .messages
                .get(&batch)
                .map(|found| (found.known, found.segment));
            let others = copies.get(&batch).into_iter().flatten().copied();
            let older = best
                .into_iter()
                .chain(others)
                .filter(|(known, _)| *known < head.event);
            links.extend(older.map(|(_, to)| (*segment, to)));
        }
        for (batch, others) in &copies {
            let Some(best) = self.messages.get(batch) else {
                continue;
            };
            links.extend(others.iter().map(|(_, to)| (best.segment, *to)));
        }
        links.extend(self.evidence_links());
        links.retain(|(from, to)| from != to);
        links
    }

    /// A segment says of the ones right before it how much of them counts. If such a one has no
    /// trailer that says so itself, it needs the newer one as long as it exists.
    fn evidence_links(&self) -> Vec<(usize, usize)> {
        let mut unsealed: BTreeMap<(ShardId, u64), usize> = BTreeMap::new();
        for (index, fact) in self.segments.iter().enumerate() {
            let SegmentFile { shard, number, .. } = fact.segment.file;
            if !fact.sealed {
                unsealed.insert((shard, number), index);
            }
        }
        let mut links = Vec::new();
        for (from, newer) in self.segments.iter().enumerate() {
            let SegmentFile { shard, number, .. } = newer.segment.file;
            let Some(prior) = newer.prior.filter(|it| it.segment < number) else {
                continue;
            };
            let covered = unsealed.range((shard, prior.segment)..(shard, number));
            links.extend(covered.map(|(_, to)| (from, *to)));
        }
        links
    }

    /// Up to where the events of a folder are known to be in the event log. A mark of a later
    /// start covers all that its home had taken over, since those events came first.
    fn told(&self, folder: ShardId) -> EventSeq {
        let mut told = self.marks.get(&folder).copied().unwrap_or_default();
        for (by, mark) in &self.marks {
            let shards = self.starts.get(&mark.start()).copied().unwrap_or(0);
            if shards > 0 && home_of(folder, shards) == by.index() {
                told = told.max(EventSeq::base(mark.start()).min(*mark));
            }
        }
        told
    }

    fn give_unreported(&mut self, homes: &mut [Home], read: ReadFn<'_>) {
        let mut facts: Map<BatchId, Option<Arc<Facts>>> = Map::default();
        let mut all = Vec::new();
        let mut seen: Set<BatchId> = Set::default();
        for (event, segment, batch) in core::mem::take(&mut self.receptions) {
            let shard = self.segments[segment].segment.file.shard;
            if event > self.told(shard) && seen.insert(batch) {
                all.push((event, shard, batch, UnreportedEvent::Reception));
            }
        }
        for (event, segment, outcome) in core::mem::take(&mut self.events) {
            let shard = self.segments[segment].segment.file.shard;
            if event > self.told(shard) {
                let batch = outcome.message.batch;
                all.push((event, shard, batch, UnreportedEvent::Outcome(outcome)));
            }
        }
        all.sort_by_key(|(event, shard, ..)| (*event, *shard));
        for (_, shard, batch, event) in all {
            let known = facts.get(&batch).cloned();
            let facts_of = known.unwrap_or_else(|| {
                let read_now = self.read_facts(batch, read);
                facts.insert(batch, read_now.clone());
                read_now
            });
            let home = self.home_of(shard);
            homes[home].unreported.push(Unreported {
                batch,
                event,
                facts: facts_of,
            });
        }
    }

    fn read_facts(&mut self, batch: BatchId, read: ReadFn<'_>) -> Option<Arc<Facts>> {
        let found = self.messages.get(&batch)?;
        let file = self.segments[found.segment].segment.file;
        let offset = u64::from(found.key.1);
        let bytes = read(file, offset, found.message_bytes as usize).ok()?;
        let place = Place {
            spool_id: self.spool_id,
            segment: file.number,
        };
        let header = format::decode_frame_header(place, offset, &bytes)?;
        let payload = format::decode_payload(place, offset, &header, &bytes)?;
        let names = &mut self.names;
        let message = record::decode_message(payload, &mut |name| intern(names, name))?;
        let recipients = message.recipients.into_iter().map(|it| it.0).collect();
        let (content, body_bytes) = (message.content, message.body_bytes);
        Some(Arc::new(Facts {
            content,
            body_bytes,
            recipients,
        }))
    }
}

fn home_of(folder: ShardId, shards: u16) -> usize {
    folder.index() % usize::from(shards)
}

fn problem(certainty: Certainty) -> Problem {
    match certainty {
        Certainty::TornOrDamaged => Problem::TornOrDamaged,
        Certainty::Damaged => Problem::Damaged,
    }
}

fn intern(names: &mut Set<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = names.get(name) {
        return known.clone();
    }
    let name: Arc<str> = name.into();
    names.insert(name.clone());
    name
}

fn give_message(home: &mut Home, segment: SegmentId, batch: BatchId, found: Found) {
    let Found {
        key,
        message_bytes,
        body_bytes,
        received,
        size,
        recipients,
        ..
    } = found;
    let states = recipients.iter().map(|it| it.1);
    if states.clone().all(|state| state == State::Settled) {
        return;
    }
    let entry = index::Entry::new(segment, key.1, message_bytes, body_bytes);
    home.parts.segments.add_live(segment, entry.bytes());
    home.parts.entries.insert(batch, entry, states);
    let shard = home.shard;
    for (index, (recipient, state)) in recipients.into_iter().enumerate() {
        let State::Open(progress) = state else {
            continue;
        };
        let Progress { attempts, due } = progress;
        home.arrivals.push(Arrival {
            batch,
            recipient: index as u16,
            home: shard,
            address: recipient.address,
            binding: recipient.binding,
            received,
            size,
            progress: Progress { attempts, due },
            in_doubt: false,
        });
    }
}
