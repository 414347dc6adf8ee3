//! What the home keeps in memory of each message, and of each segment. A message with one recipient
//! takes 24 bytes, and about one to be found; bodies and addresses are not kept.
//!
//! When a segment may be reclaimed is decided here. A record of the log may vanish only when
//! nothing older on disk needs it any more: an outcome must outlive every copy of the message that
//! it settles, else a restart would bring that message back. So each segment knows the older ones
//! that its outcomes (and moved messages) refer to, and waits for all of them to be gone.
//! References only ever point to segments that are older, so the oldest never waits, and
//! compaction, which empties the oldest first, sets the others free.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::id_map;
use crate::base::id_map::IdMap;
use crate::base::map::Map;
use crate::base::time::Wall;
use crate::log::CommitId;
use crate::log::SegmentFile;
use crate::types::id::BatchId;
use crate::types::id::MessageId;
use crate::types::id::ShardId;
use crate::types::message::Progress;

use super::record::State;
use super::store::EventSeq;

/// Names a segment inside one home. A smaller one is older.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct SegmentId(pub u32);

/// Where a message lies and how far it has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub segment: SegmentId,
    /// Of the message frame; the body frame follows it.
    pub offset: u32,
    /// Of the message frame.
    pub message_bytes: u32,
    /// Of the body frame.
    pub body_bytes: u32,
    /// Set by the index.
    recipients: Recipients,
}

impl Entry {
    pub fn new(segment: SegmentId, offset: u32, message_bytes: u32, body_bytes: u32) -> Entry {
        Entry {
            segment,
            offset,
            message_bytes,
            body_bytes,
            recipients: Recipients(0),
        }
    }

    pub fn bytes(&self) -> u32 {
        self.message_bytes.saturating_add(self.body_bytes)
    }
}

/// The messages of one home.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: IdMap<BatchId, Entry>,
    /// Those that lie in each segment.
    held: Map<SegmentId, Held>,
    /// The states of messages with more than one recipient.
    many: Vec<Many>,
    /// Places in `many` that are vacant.
    vacant: Vec<u32>,
    /// Open recipients that have another binding now than their record may say.
    rebound: Map<MessageId, Arc<str>>,
}

/// The messages of one segment. They came in the order of their ids or nearly so; 64 of them that
/// did take no more room than one that was moved here alone.
#[derive(Debug, Default)]
struct Held {
    messages: u32,
    /// Groups of ids, see [`IdMap::group`], in which some were; there may be none left.
    groups: BTreeSet<u64>,
}

/// How far the recipients of a message have come: the only one in 64 bits, or where in
/// [`Index::many`] they stand.
///
/// | bits | one | many |
/// |---|---|---|
/// | 63 | 0 | 1 |
/// | 62 | settled | |
/// | 46 to 61 | attempts | |
/// | 0 to 45 | due, milliseconds | 0 to 31: place |
#[derive(Clone, Copy, Debug)]
struct Recipients(u64);

const MANY: u64 = 1 << 63;
const SETTLED: u64 = 1 << 62;
const DUE_BITS: u32 = 46;
const DUE_MAX: u64 = (1 << DUE_BITS) - 1;

#[derive(Debug, Default)]
struct Many {
    open: u16,
    states: Box<[State]>,
}

const _: () = assert!(
    size_of::<Entry>() <= 24,
    "ten million messages are 240 MB here, and 10 more for finding them"
);

impl Recipients {
    fn one(state: State) -> Recipients {
        match state {
            State::Settled => Recipients(SETTLED),
            State::Open(Progress { attempts, due }) => {
                // A millisecond late at most, and never early.
                let due_ms = due.0.div_ceil(1_000).min(DUE_MAX);
                Recipients(u64::from(attempts) << DUE_BITS | due_ms)
            }
        }
    }

    fn place(self) -> Option<usize> {
        (self.0 & MANY != 0).then_some(self.0 as u32 as usize)
    }

    fn only(self) -> State {
        if self.0 & SETTLED != 0 {
            return State::Settled;
        }
        State::Open(Progress {
            attempts: (self.0 >> DUE_BITS) as u16,
            due: Wall((self.0 & DUE_MAX) * 1_000),
        })
    }
}

impl Index {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn get(&self, batch: BatchId) -> Option<&Entry> {
        self.entries.get(batch)
    }

    /// The first group of ids, from `group` on, of which a message was put into a segment that
    /// still holds any.
    pub fn group_in(&self, segment: SegmentId, group: u64) -> Option<u64> {
        let groups = &self.held.get(&segment)?.groups;
        groups.range(group..).next().copied()
    }

    /// The messages of a group of ids, wherever they lie.
    pub fn group(&self, group: u64) -> impl Iterator<Item = (BatchId, &Entry)> {
        let messages = self.entries.group(group);
        messages.map(|(id, entry)| (BatchId(id), entry))
    }

    /// Adds a message that is not here.
    pub fn insert(
        &mut self,
        batch: BatchId,
        mut entry: Entry,
        states: impl ExactSizeIterator<Item = State>,
    ) {
        let mut states = states;
        entry.recipients = if states.len() == 1 {
            Recipients::one(states.next().unwrap_or(State::Settled))
        } else {
            let states: Box<[State]> = states.collect();
            let open = states.iter().filter(|it| **it != State::Settled).count() as u16;
            let many = Many { open, states };
            let place = match self.vacant.pop() {
                Some(place) => {
                    self.many[place as usize] = many;
                    place
                }
                None => {
                    self.many.push(many);
                    (self.many.len() - 1) as u32
                }
            };
            Recipients(MANY | u64::from(place))
        };
        self.hold(entry.segment, batch);
        let before = self.entries.insert(batch, entry);
        assert!(before.is_none(), "a batch id names one message");
    }

    /// Takes over messages of earlier starts.
    pub fn adopt(&mut self, mut found: Index) {
        // The larger part stays where it is.
        core::mem::swap(self, &mut found);
        if self.len() < found.len() {
            core::mem::swap(self, &mut found);
        }
        self.rebound.append(&mut found.rebound);
        for (id, entry) in found.entries.iter() {
            let batch = BatchId(id);
            match entry.recipients.place() {
                None => self.insert(batch, *entry, [entry.recipients.only()].into_iter()),
                Some(place) => {
                    let states = found.many[place].states.iter().copied();
                    self.insert(batch, *entry, states);
                }
            }
        }
    }

    /// A recipient has another binding from now on.
    pub fn rebind(&mut self, message: MessageId, to: &Arc<str>) {
        self.rebound.insert(message, to.clone());
    }

    /// The binding of an open recipient, where its record may be out of date.
    pub fn binding(&self, message: MessageId) -> Option<&Arc<str>> {
        self.rebound.get(&message)
    }

    pub fn remove(&mut self, batch: BatchId) -> Option<Entry> {
        let entry = self.entries.remove(batch)?;
        self.let_go(entry.segment);
        if let Some(place) = entry.recipients.place() {
            self.many[place] = Many::default();
            self.vacant.push(place as u32);
        }
        Some(entry)
    }

    /// The message lies elsewhere now.
    pub fn move_to(&mut self, batch: BatchId, to: Entry) {
        if let Some(entry) = self.entries.get_mut(batch) {
            let Entry {
                segment: from,
                recipients,
                ..
            } = *entry;
            *entry = Entry { recipients, ..to };
            self.let_go(from);
            self.hold(to.segment, batch);
        }
    }

    fn hold(&mut self, segment: SegmentId, batch: BatchId) {
        let held = self.held.entry(segment).or_default();
        held.messages += 1;
        let group = id_map::group_of(batch.0);
        if held.groups.last() != Some(&group) {
            held.groups.insert(group);
        }
    }

    fn let_go(&mut self, segment: SegmentId) {
        let Some(held) = self.held.get_mut(&segment) else {
            return;
        };
        held.messages -= 1;
        if held.messages == 0 {
            self.held.swap_remove(&segment);
        }
    }

    pub fn state(&self, entry: &Entry, recipient: usize) -> State {
        match entry.recipients.place() {
            Some(place) => {
                let states = &self.many[place].states;
                states.get(recipient).copied().unwrap_or(State::Settled)
            }
            None if recipient == 0 => entry.recipients.only(),
            None => State::Settled,
        }
    }

    /// Nothing if there is no such recipient or it is settled already; else the entry, and whether
    /// a recipient is still open.
    pub fn set(&mut self, batch: BatchId, recipient: usize, state: State) -> Option<(Entry, bool)> {
        if state == State::Settled && !self.rebound.is_empty() {
            let recipient = recipient as u16;
            self.rebound.swap_remove(&MessageId { batch, recipient });
        }
        let entry = self.entries.get_mut(batch)?;
        let Some(place) = entry.recipients.place() else {
            if recipient > 0 || entry.recipients.only() == State::Settled {
                return None;
            }
            entry.recipients = Recipients::one(state);
            return Some((*entry, state != State::Settled));
        };
        let many = &mut self.many[place];
        let known = many.states.get_mut(recipient)?;
        if *known == State::Settled {
            return None;
        }
        *known = state;
        many.open -= u16::from(state == State::Settled);
        Some((*entry, many.open > 0))
    }
}

/// One segment that is on disk, or about to be.
#[derive(Debug)]
pub(super) struct Segment {
    pub file: SegmentFile,
    pub file_bytes: u64,
    /// Messages whose valid copy lies here and that have open recipients.
    pub live_messages: u32,
    pub live_bytes: u64,
    /// The last event that needs a record of this segment to be told.
    pub events: EventSeq,
    /// The last commit that settled a message of this segment.
    pub settled: CommitId,
    /// Older segments to which records of this one refer.
    pub refers: BTreeSet<SegmentId>,
    /// It holds outcomes of messages that another home took over: kept until the next start.
    pub held: bool,
    /// Recovery found damage in it: the file is kept for the operator when it is reclaimed.
    pub damaged: bool,
    /// Compaction has tried in vain to read what is left in it.
    pub stuck: bool,
    reclaiming: bool,
}

impl Segment {
    pub fn new(file: SegmentFile, file_bytes: u64) -> Segment {
        Segment {
            file,
            file_bytes,
            live_messages: 0,
            live_bytes: 0,
            events: EventSeq(0),
            settled: CommitId(0),
            refers: BTreeSet::new(),
            held: false,
            damaged: false,
            stuck: false,
            reclaiming: false,
        }
    }
}

/// The segments of one home, by age.
#[derive(Debug, Default)]
pub(super) struct Segments {
    by_id: BTreeMap<SegmentId, Segment>,
    by_file: Map<(ShardId, u64), SegmentId>,
    next: u32,
    live_bytes: u64,
    used_bytes: u64,
    /// Those without live messages, to be looked at when something has changed.
    empty: BTreeSet<SegmentId>,
}

/// The first number of a segment of this start.
const FIRST_OF_START: u32 = 1 << 31;

impl Segments {
    /// None yet; those that are added are newer than those that are [adopted](Self::adopt).
    pub fn newer_than_found() -> Segments {
        Segments {
            next: FIRST_OF_START,
            ..Segments::default()
        }
    }

    /// Takes over segments of earlier starts.
    pub fn adopt(&mut self, mut found: Segments) {
        assert!(found.next < FIRST_OF_START, "there is memory for fewer");
        self.by_id.append(&mut found.by_id);
        self.by_file.extend(found.by_file);
        self.live_bytes += found.live_bytes;
        self.used_bytes += found.used_bytes;
        self.empty.append(&mut found.empty);
    }

    /// Adds a segment that is newer than all others.
    pub fn push(&mut self, segment: Segment) -> SegmentId {
        let id = SegmentId(self.next);
        self.next += 1;
        if segment.live_messages == 0 {
            self.empty.insert(id);
        }
        self.live_bytes += segment.live_bytes;
        self.used_bytes += segment.file_bytes;
        self.by_file
            .insert((segment.file.shard, segment.file.number), id);
        self.by_id.insert(id, segment);
        id
    }

    /// The segment with this file; a new one if it is not known.
    pub fn open(&mut self, file: SegmentFile, file_bytes: u64) -> SegmentId {
        match self.find(file) {
            Some(id) => id,
            None => self.push(Segment::new(file, file_bytes)),
        }
    }

    pub fn find(&self, file: SegmentFile) -> Option<SegmentId> {
        self.by_file.get(&(file.shard, file.number)).copied()
    }

    pub fn get(&self, id: SegmentId) -> Option<&Segment> {
        self.by_id.get(&id)
    }

    pub fn get_mut(&mut self, id: SegmentId) -> Option<&mut Segment> {
        self.by_id.get_mut(&id)
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Bytes that compaction may do something about: of segments with something alive, and of
    /// empty ones that wait for such a segment and for nothing else. Other empty ones come back by
    /// themselves, or wait for the event log, a restart, or a message that cannot be read.
    pub fn movable_bytes(&self, events: EventSeq) -> u64 {
        let mut movable = BTreeSet::new();
        let mut stuck = BTreeSet::new();
        let mut bytes = 0;
        for (id, segment) in &self.by_id {
            let waits_for = |set: &BTreeSet<SegmentId>| !segment.refers.is_disjoint(set);
            let empty = segment.live_messages == 0;
            let waits = segment.held || segment.events > events || waits_for(&stuck);
            if segment.stuck || empty && waits {
                stuck.insert(*id);
            } else if !empty || waits_for(&movable) {
                movable.insert(*id);
                bytes += segment.file_bytes;
            }
        }
        bytes
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (SegmentId, &Segment)> {
        self.by_id.iter().map(|(id, segment)| (*id, segment))
    }

    /// A message has come to lie in a segment.
    pub fn add_live(&mut self, id: SegmentId, bytes: u32) {
        let Some(segment) = self.by_id.get_mut(&id) else {
            return;
        };
        segment.live_messages += 1;
        segment.live_bytes += u64::from(bytes);
        self.live_bytes += u64::from(bytes);
        self.empty.remove(&id);
    }

    /// A message of a segment was settled, has moved away, or never got to disk.
    pub fn drop_live(&mut self, id: SegmentId, bytes: u32) {
        let Some(segment) = self.by_id.get_mut(&id) else {
            return;
        };
        segment.live_messages -= 1;
        segment.live_bytes -= u64::from(bytes);
        self.live_bytes -= u64::from(bytes);
        if segment.live_messages == 0 {
            self.empty.insert(id);
        }
    }

    /// `from` holds a record about a message that lies in `to`. Records are about older messages;
    /// one that is not was never written by this program, and must not make two segments wait for
    /// each other.
    pub fn refer(&mut self, from: SegmentId, to: SegmentId) {
        if to < from && self.by_id.contains_key(&to) {
            let Some(segment) = self.by_id.get_mut(&from) else {
                return;
            };
            segment.refers.insert(to);
        }
    }

    /// Finds the segments that may be reclaimed now, and marks them as being reclaimed. What a
    /// shard that is gone has left is reclaimed when all of it has moved: nothing in this log says
    /// how much of those segments counts, so until then originals and copies stay together.
    pub fn reclaimable(
        &mut self,
        own: ShardId,
        events: EventSeq,
        durable: CommitId,
        in_use: &dyn Fn(&SegmentFile) -> bool,
    ) -> Vec<(SegmentFile, u64, bool)> {
        let mut found = Vec::new();
        let adopted = |it: &&Segment| it.file.shard != own && it.live_messages > 0;
        let moving: BTreeSet<ShardId> = self
            .by_id
            .values()
            .filter(adopted)
            .map(|it| it.file.shard)
            .collect();
        let ids: Vec<SegmentId> = self.empty.iter().copied().collect();
        for id in ids {
            let by_id = &self.by_id;
            let Some(segment) = by_id.get(&id) else {
                continue;
            };
            let told = segment.events <= events && segment.settled <= durable;
            let together = moving.contains(&segment.file.shard);
            if segment.reclaiming || segment.held || !told || in_use(&segment.file) || together {
                continue;
            }
            if segment.refers.iter().any(|it| by_id.contains_key(it)) {
                continue;
            }
            found.push((segment.file, segment.file_bytes, segment.damaged));
            if let Some(segment) = self.by_id.get_mut(&id) {
                segment.reclaiming = true;
            }
        }
        found
    }

    /// The file is gone from the disk.
    pub fn remove(&mut self, file: SegmentFile) -> bool {
        let Some(id) = self.by_file.swap_remove(&(file.shard, file.number)) else {
            return false;
        };
        self.empty.remove(&id);
        let Some(segment) = self.by_id.remove(&id) else {
            return false;
        };
        self.used_bytes -= segment.file_bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(index: &Index, segment: SegmentId) -> Vec<u64> {
        let mut groups = Vec::new();
        let mut from = 0;
        while let Some(group) = index.group_in(segment, from) {
            groups.push(group);
            from = group + 1;
        }
        groups
    }

    #[test]
    fn the_messages_of_a_segment_are_found_without_those_of_others() {
        let mut index = Index::default();
        for id in 0..10_000 {
            let entry = Entry::new(SegmentId(id as u32 / 1_000), 0, 1, 1);
            index.insert(BatchId(id), entry, [State::NEW].into_iter());
        }
        assert_eq!(
            groups(&index, SegmentId(3)),
            Vec::from_iter(3_000 / 64..=3_999 / 64)
        );
        let moved = Entry::new(SegmentId(10), 0, 1, 1);
        index.move_to(BatchId(3_500), moved);
        assert_eq!(groups(&index, SegmentId(10)), [3_500 / 64]);
        let mut found: Vec<u64> = Vec::new();
        for group in groups(&index, SegmentId(3)) {
            let of_group = index.group(group);
            let here = of_group.filter(|(_, entry)| entry.segment == SegmentId(3));
            found.extend(here.map(|(batch, _)| batch.0));
        }
        let expected: Vec<u64> = (3_000..4_000).filter(|id| *id != 3_500).collect();
        assert_eq!(found, expected);
        for id in expected {
            index.remove(BatchId(id));
        }
        assert!(groups(&index, SegmentId(3)).is_empty());
    }
}
