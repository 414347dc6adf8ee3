//! What the files of one shard's folder hold, each by itself.
//!
//! Files are read from the newest to the oldest, because a newer one says how much of the older
//! ones counts. The first few tell all that a home needs to take new mail ([`Scan::begin`]); the
//! rest can be read while it does: a home touches none of the files before it knows them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::map::Set;
use crate::base::time::Wall;
use crate::log::Fault;
use crate::log::SegmentFile;
use crate::log::SegmentKind;
use crate::log::format;
use crate::log::format::BadHeader;
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
use crate::types::flow::Flow;
use crate::types::flow::Flows;
use crate::types::id::BatchId;
use crate::types::id::MessageId;
use crate::types::id::ShardId;
use crate::types::message::Recipient;
use crate::types::outcome::Outcome;
use crate::types::sender::Sender;
use crate::types::sender::Senders;

use super::index::Segment;
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

/// Commit and offset: orders all records about one batch.
pub(super) type Key = (u64, u32);

/// The best copy of a message seen so far.
pub(super) struct Found {
    pub key: Key,
    /// The last event whose outcome the states include.
    pub known: EventSeq,
    pub segment: usize,
    pub message_bytes: u32,
    pub body_bytes: u32,
    pub received: Wall,
    pub size: u32,
    pub flow: Option<Arc<Flow>>,
    pub sender: Sender,
    pub recipients: Box<[(Recipient, State)]>,
}

pub(super) struct OutcomeFact {
    pub segment: usize,
    pub head: OutcomeHead,
}

pub(super) struct SegmentFact {
    pub segment: Segment,
    pub start: u32,
    pub sealed: bool,
    /// See [`Recovered::prior`].
    pub prior: Option<Position>,
}

#[derive(Default)]
pub(super) struct Folder {
    pub number_max: u64,
    /// Of its segments: one that is to be used again keeps its number, and has lost what it held.
    pub numbers: BTreeSet<u64>,
    pub good: Position,
    pub synced: Position,
    pub free: Vec<(SegmentFile, u64)>,
    /// Segments that were made and never written, with their sizes.
    pub blank: Vec<(SegmentFile, u64)>,
    /// Not sealed, so perhaps not synced.
    pub unsynced: Vec<SegmentFile>,
    pub torn_tails: u32,
}

/// What a home must know of its folder before its log goes on.
#[derive(Debug)]
pub struct Beginning {
    pub shard: ShardId,
    pub(super) next_segment: u64,
    /// The last commit had not been finished.
    pub torn: bool,
    /// There are segments before the next one.
    pub(super) goes_on: bool,
    pub(super) good: Position,
    pub(super) synced: Position,
    /// See [`log::Found::unsynced`]: those among the files that were read for this.
    pub(super) unsynced: Vec<SegmentFile>,
    pub(super) free: Vec<(SegmentFile, u64)>,
    /// Segments that were made and never written, with their sizes.
    pub(super) blank: Vec<(SegmentFile, u64)>,
}

impl Beginning {
    /// Of a shard that has never had a folder.
    pub(super) fn empty(shard: ShardId) -> Beginning {
        let (unsynced, free, blank) = Default::default();
        Beginning {
            shard,
            next_segment: 1,
            torn: false,
            goes_on: false,
            good: Position::default(),
            synced: Position::default(),
            unsynced,
            free,
            blank,
        }
    }
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

/// One folder. Folders can be scanned beside each other; a [`Recovery`](super::Recovery) puts the
/// scans together.
pub struct Scan {
    pub(super) spool_id: u64,
    pub(super) shard: ShardId,
    pub(super) folder: Folder,
    /// Segments that have not been read, the newest last.
    left: Vec<(SegmentFile, u64)>,
    /// What those that have been read say about the others.
    evidence: Evidence,
    pub(super) segments: Vec<SegmentFact>,
    /// All copies.
    pub(super) messages: Vec<(BatchId, Found)>,
    pub(super) outcomes: Vec<OutcomeFact>,
    /// Those among the outcomes that give a recipient to another binding.
    pub(super) rebounds: Vec<(EventSeq, MessageId, Arc<str>)>,
    pub(super) receptions: Vec<(EventSeq, usize, BatchId)>,
    pub(super) events: Vec<(EventSeq, usize, Outcome)>,
    /// The newest event mark.
    pub(super) mark: Option<EventSeq>,
    pub(super) starts: BTreeMap<u32, u16>,
    pub(super) damage: Vec<Damaged>,
    pub(super) names: Set<Arc<str>>,
    flows: Flows,
    senders: Senders,
}

impl Scan {
    /// All files of the folder with their sizes; those of kind `New` can be removed before.
    pub fn new(spool_id: u64, shard: ShardId, files: Vec<(SegmentFile, u64)>) -> Scan {
        let mut folder = Folder::default();
        let mut left = Vec::new();
        for (file, file_bytes) in files {
            folder.number_max = folder.number_max.max(file.number);
            match file.kind {
                SegmentKind::Live => {
                    folder.numbers.insert(file.number);
                    left.push((file, file_bytes));
                }
                SegmentKind::Free => folder.free.push((file, file_bytes)),
                SegmentKind::New | SegmentKind::Damaged => {}
            }
        }
        left.sort_by_key(|(file, _)| file.number);
        Scan {
            spool_id,
            shard,
            folder,
            left,
            evidence: Evidence::default(),
            segments: Vec::new(),
            messages: Vec::new(),
            outcomes: Vec::new(),
            rebounds: Vec::new(),
            receptions: Vec::new(),
            events: Vec::new(),
            mark: None,
            starts: BTreeMap::new(),
            damage: Vec::new(),
            names: Set::default(),
            flows: Flows::default(),
            senders: Senders::default(),
        }
    }

    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Segments that have not been read.
    pub fn left(&self) -> usize {
        self.left.len()
    }

    /// Looks whether this program can read all that is left.
    pub fn check_formats(&self, read: ReadFn<'_>) -> Result<(), RecoveryError> {
        for (file, _) in &self.left {
            let header = read(*file, 0, format::HEADER_BYTES).unwrap_or_default();
            if let Err(BadHeader::NewerFormat(major)) = format::decode_header(&header) {
                return Err(RecoveryError::NewerFormat { file: *file, major });
            }
        }
        Ok(())
    }

    /// Reads as much as tells where the log goes on. To be called before all else, if the log of
    /// this folder does go on: a shard that runs no more has no use for it.
    pub fn begin(&mut self, read: ReadFn<'_>) -> Result<Beginning, RecoveryError> {
        let goes_on = !self.left.is_empty();
        while self.folder.good == Position::default() && self.step(read)? {}
        let folder = &mut self.folder;
        Ok(Beginning {
            shard: self.shard,
            next_segment: folder.number_max + 1,
            torn: folder.torn_tails > 0,
            goes_on,
            good: folder.good,
            synced: folder.synced,
            unsynced: core::mem::take(&mut folder.unsynced),
            free: core::mem::take(&mut folder.free),
            blank: core::mem::take(&mut folder.blank),
        })
    }

    /// Reads the newest segment of those that are left. False if there is none.
    pub fn step(&mut self, read: ReadFn<'_>) -> Result<bool, RecoveryError> {
        match self.left.pop() {
            Some((file, file_bytes)) => self.read_segment(file, file_bytes, read).map(|()| true),
            None => Ok(false),
        }
    }

    fn read_segment(
        &mut self,
        file: SegmentFile,
        file_bytes: u64,
        read: ReadFn<'_>,
    ) -> Result<(), RecoveryError> {
        let place = Place {
            spool_id: self.spool_id,
            segment: file.number,
        };
        let mut part = |offset, bytes| read(file, offset, bytes);
        let problem = match recover::read_segment(place, file_bytes, self.evidence, &mut part) {
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
                self.evidence = recovered.evidence;
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
        let flow = match head.has_flow() {
            true => record::decode_flow(payload).and_then(|names| self.flows.get(names)),
            false => None,
        };
        let Some(sender) = record::decode_sender(payload) else {
            return false;
        };
        let sender = self.senders.get(sender);
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
            body_bytes: body_frame_bytes(&head),
            received: head.received,
            size: head.body_bytes,
            flow,
            sender,
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
        if let Some(to) = record::decode_rebound(payload) {
            let to = intern(&mut self.names, &to);
            self.rebounds.push((head.event, head.message, to));
        }
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
            let bytes = bytes.saturating_add(head.as_ref().map_or(0, body_frame_bytes));
            let end = offset.saturating_add(bytes);
            let within = |it: &&recover::Damage| (*offset..end).contains(&it.offset);
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
                let body = head.as_ref().map_or(0, body_frame_bytes);
                let end = offset.saturating_add(*bytes).saturating_add(body);
                (*offset..end).contains(&damage.offset)
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

/// What the body of a message takes, by the word of a head that nobody has checked against it.
pub(super) fn body_frame_bytes(head: &record::MessageHead) -> u32 {
    u32::try_from(format::frame_bytes(head.body_bytes as usize)).unwrap_or(u32::MAX)
}

fn problem(certainty: Certainty) -> Problem {
    match certainty {
        Certainty::TornOrDamaged => Problem::TornOrDamaged,
        Certainty::Damaged => Problem::Damaged,
    }
}

pub(super) fn intern(names: &mut Set<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = names.get(name) {
        return known.clone();
    }
    let name: Arc<str> = name.into();
    names.insert(name.clone());
    name
}
