//! Moves the messages that are left in old segments to the open one, so that the space of the dead
//! ones around them comes back, and everything that waits for those segments with it.
//!
//! One read at a time; moved messages join the commits of the traffic, a bounded number of them.
//! The old copy counts until the new one is durable. When both are on disk, the one of the later
//! commit wins; an outcome applies to either.

use core::time::Duration;
use std::collections::BTreeSet;

use bytes::Bytes;

use crate::base::id_map::GROUP;
use crate::base::map::Set;
use crate::base::time::Mono;
use crate::base::time::Now;
use crate::log::CommitId;
use crate::log::Completion;
use crate::log::DiskOp;
use crate::log::OpId;
use crate::log::SegmentFile;
use crate::log::format;
use crate::types::id::BatchId;
use crate::types::id::MessageId;
use crate::types::message::Content;

use super::index::Entry;
use super::index::Segment;
use super::index::SegmentId;
use super::record;
use super::store::BodyAt;
use super::store::Completed;
use super::store::Spool;
use super::store::decode_record;
use super::store::message_frames;

/// Below this many segments nothing is moved: there is little to win.
const QUIET_SEGMENTS: usize = 4;
/// A segment is moved early when less than one part in this many of it is alive.
const SPARSE_PARTS: u64 = 4;
/// Messages on their way to the disk at a time.
const MOVES_MAX: usize = 64;
/// And their bytes; one larger message is moved alone.
const MOVE_BYTES_MAX: u64 = 4 << 20;
/// Groups of ids looked at per poll while searching for the messages of a segment.
const GROUPS_SLICE: usize = 64;
/// Between looks for a segment worth emptying, which cost time in proportion to their number.
const LOOK_DELAY: Duration = Duration::from_millis(100);
/// Between slices, and when the log is busy, traffic goes first for this long.
const YIELD: Duration = Duration::from_millis(1);

/// A copy on its way.
#[derive(Debug)]
struct Move {
    batch: BatchId,
    commit: CommitId,
    from: SegmentId,
    to: SegmentId,
    to_file: SegmentFile,
    offset: u32,
    message_bytes: u32,
    body_bytes: u32,
}

#[derive(Debug, Default)]
pub(super) struct Compaction {
    victim: Option<SegmentId>,
    /// Where among the victim's messages the search goes on: a group of ids, and a place in it.
    cursor: (u64, u64),
    reading: Option<(OpId, BatchId, BodyAt)>,
    moves: Vec<Move>,
    /// Could not be read; left alone until they are settled.
    unreadable: Set<BatchId>,
    again_at: Option<Mono>,
    /// No look for another segment before this.
    look_at: Mono,
    pub moved_messages: u64,
}

impl Compaction {
    pub fn awaits(&self, op: OpId) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.0 == op)
    }

    pub fn is_idle(&self) -> bool {
        self.reading.is_none()
    }

    pub fn next_wakeup(&self) -> Option<Mono> {
        self.again_at
    }

    /// The segment that a copy of the message is on its way to.
    pub fn destination(&self, batch: BatchId) -> Option<SegmentId> {
        self.moves
            .iter()
            .find(|it| it.batch == batch)
            .map(|it| it.to)
    }

    /// Segments that copies are on their way to.
    pub fn destinations(&self) -> BTreeSet<SegmentFile> {
        self.moves.iter().map(|it| it.to_file).collect()
    }

    /// The message has no open recipients any more.
    pub fn settled(&mut self, batch: BatchId) {
        self.unreadable.swap_remove(&batch);
    }

    /// The copies of this commit do not exist.
    pub fn failed(&mut self, commit: CommitId) {
        self.moves.retain(|it| it.commit != commit);
        self.cursor = (0, 0);
    }

    fn moving_bytes(&self) -> u64 {
        self.moves
            .iter()
            .map(|it| u64::from(it.message_bytes + it.body_bytes))
            .sum()
    }

    fn busy_with(&self, batch: &BatchId) -> bool {
        self.moves.iter().any(|it| it.batch == *batch) || self.unreadable.contains(batch)
    }
}

impl Spool {
    /// The read of the next message to be moved, if one should be.
    pub(super) fn poll_compaction(&mut self, now: Now) -> Option<DiskOp> {
        let state = &self.compaction;
        let room = state.moves.len() < MOVES_MAX && state.moving_bytes() < MOVE_BYTES_MAX;
        let waits = state.again_at.is_some_and(|at| at > now.mono);
        if state.reading.is_some() || !room || waits {
            return None;
        }
        self.compaction.again_at = None;
        if !self.writer.takes_moves() {
            return None;
        }
        let victim = self.victim(now)?;
        let batch = self.next_of(now, victim)?;
        let at = self.locate(batch)?;
        let op = self.writer.next_op();
        self.compaction.reading = Some((op, batch, at));
        let BodyAt {
            file,
            offset,
            bytes,
        } = at;
        Some(DiskOp::Read {
            op,
            file,
            offset,
            bytes,
        })
    }

    /// The segment to empty: one of a shard that no longer exists, else the oldest if too much
    /// space is used or it is nearly empty.
    fn victim(&mut self, now: Now) -> Option<SegmentId> {
        let shard = self.config.log.shard;
        let writer = &self.writer;
        let foreign = |it: &Segment| it.file.shard != shard;
        let closed = |it: &Segment| !writer.uses(it.file);
        let eligible = |it: &Segment| it.live_messages > 0 && !it.stuck && closed(it);
        if let Some(victim) = self.compaction.victim {
            if self.segments.get(victim).is_some_and(eligible) {
                return Some(victim);
            }
            self.compaction.victim = None;
        }
        let crowded = self.segments.used_bytes() > self.space_bound();
        if self.compaction.look_at > now.mono {
            self.compaction.again_at = crowded.then_some(self.compaction.look_at);
            return None;
        }
        let adopted = self
            .segments
            .iter()
            .find(|(_, it)| foreign(it) && eligible(it));
        let found = adopted.or_else(|| self.crowding()).map(|(id, _)| id);
        self.compaction.victim = found;
        self.compaction.cursor = (0, 0);
        if found.is_none() {
            let again = now.mono + LOOK_DELAY;
            self.compaction.look_at = again;
            self.compaction.again_at = crowded.then_some(again);
        }
        found
    }

    /// Twice what lives, and room for what is being written and reclaimed: moving everything
    /// always gets below it, so this comes to an end.
    fn space_bound(&self) -> u64 {
        let room = (QUIET_SEGMENTS as u64 - 1) * self.config.log.segment_bytes;
        2 * self.segments.live_bytes() + room
    }

    /// The oldest segment with anything alive, if that is little or much space is used in all.
    fn crowding(&self) -> Option<(SegmentId, &Segment)> {
        if self.segments.len() <= QUIET_SEGMENTS {
            return None;
        }
        let bound = self.space_bound();
        let crowded = self.segments.used_bytes() > bound
            && self.segments.movable_bytes(self.told_events()) > bound;
        let sparse = |it: &Segment| it.live_bytes < it.file_bytes / SPARSE_PARTS;
        let oldest = self
            .segments
            .iter()
            .find(|(_, it)| it.live_messages > 0 && !it.stuck);
        oldest.filter(|(_, it)| !self.writer.uses(it.file) && (crowded || sparse(it)))
    }

    /// The next message of the segment that is not yet on its way. What this costs is in
    /// proportion to what was written to the segment, whatever else there is.
    fn next_of(&mut self, now: Now, victim: SegmentId) -> Option<BatchId> {
        let state = &mut self.compaction;
        for _ in 0..GROUPS_SLICE {
            let (from, place) = state.cursor;
            let Some(group) = self.entries.group_in(victim, from) else {
                self.pass_over(now, victim);
                return None;
            };
            let place = if group == from { place } else { 0 };
            let found = self.entries.group(group).find(|(batch, entry)| {
                let ahead = entry.segment == victim && batch.0 % GROUP >= place;
                ahead && !state.busy_with(batch)
            });
            if let Some((batch, _)) = found {
                state.cursor = (group, batch.0 % GROUP + 1);
                return Some(batch);
            }
            state.cursor = (group + 1, 0);
        }
        state.again_at = Some(now.mono + YIELD);
        None
    }

    /// All of the victim's messages have been gone through. If none is on its way and some are
    /// left, they cannot be read.
    fn pass_over(&mut self, now: Now, victim: SegmentId) {
        let state = &mut self.compaction;
        state.cursor = (0, 0);
        if !state.moves.is_empty() {
            return;
        }
        state.again_at = Some(now.mono + YIELD);
        if let Some(segment) = self.segments.get_mut(victim) {
            segment.stuck = segment.live_messages as usize <= state.unreadable.len();
        }
    }

    /// The record to be moved has been read: write it again, as far as it has come.
    pub(super) fn move_read(&mut self, now: Now, completion: Completion) -> Completed {
        let Some((_, batch, at)) = self.compaction.reading.take() else {
            return Completed::Nothing;
        };
        if self.locate(batch) != Some(at) {
            return Completed::Nothing;
        }
        let bytes = match completion.result {
            Ok(()) => Bytes::from(completion.buffer),
            Err(_) => Bytes::new(),
        };
        let mut intern = |name: &str| name.into();
        let record = decode_record(self.place(at.file), at.offset, &bytes, &mut intern);
        let Some((message, body)) = record.filter(|(it, _)| it.content.batch == batch) else {
            self.compaction.unreadable.insert(batch);
            return Completed::Unreadable(batch);
        };
        let Some(entry) = self.entries.get(batch) else {
            return Completed::Nothing;
        };
        let from = entry.segment;
        let content = Content {
            body: bytes.slice(body),
            ..message.content
        };
        let mut recipients: Vec<_> = message.recipients.into_iter().map(|it| it.0).collect();
        for (index, recipient) in recipients.iter_mut().enumerate() {
            let recipient_id = MessageId {
                batch,
                recipient: index as u16,
            };
            if let Some(binding) = self.entries.binding(recipient_id) {
                recipient.binding = binding.clone();
            }
        }
        let state = |index: usize| self.entries.state(entry, index);
        let written = record::Written {
            event: message.event,
            known: self.last_event(),
            moved: true,
        };
        record::encode_message(&mut self.scratch, written, &content, &recipients, &state);
        let message_bytes = format::frame_bytes(self.scratch.len()) as u32;
        let (head, body): ([&[u8]; 1], [&[u8]; 1]) = ([&self.scratch], [&content.body]);
        let frames = message_frames(&head, &body);
        let Ok(at) = self.writer.append_lazy(now, &frames) else {
            self.compaction.again_at = Some(now.mono + YIELD);
            return Completed::Nothing;
        };
        let to = self.own_segment(at.segment);
        let to_file = SegmentFile::live(self.config.log.shard, at.segment);
        self.segments.refer(to, from);
        let (commit, offset) = (at.commit, at.offset);
        let body_bytes = at.bytes - message_bytes;
        let it = Move {
            batch,
            commit,
            from,
            to,
            to_file,
            offset,
            message_bytes,
            body_bytes,
        };
        self.compaction.moves.push(it);
        Completed::Nothing
    }

    /// The copies of this commit count from now on.
    pub(super) fn moves_durable(&mut self, commit: CommitId) {
        let (done, rest): (Vec<Move>, Vec<Move>) = self
            .compaction
            .moves
            .drain(..)
            .partition(|it| it.commit == commit);
        self.compaction.moves = rest;
        if !done.is_empty() {
            // Copies in the last commit before a crash do not count: the originals stay until a
            // later commit proves that this one succeeded.
            self.writer.confirm();
        }
        for it in done {
            let Some(entry) = self.entries.get(it.batch) else {
                continue;
            };
            if entry.segment != it.from {
                continue;
            }
            let before = entry.bytes();
            let moved = Entry::new(it.to, it.offset, it.message_bytes, it.body_bytes);
            let after = moved.bytes();
            self.entries.move_to(it.batch, moved);
            self.segments.drop_live(it.from, before);
            self.segments.add_live(it.to, after);
            if let Some(segment) = self.segments.get_mut(it.from) {
                segment.settled = segment.settled.max(CommitId(commit.0 + 1));
            }
            self.compaction.moved_messages += 1;
        }
    }
}
