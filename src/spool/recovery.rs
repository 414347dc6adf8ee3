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
use crate::log::SegmentFile;
use crate::log::format;
use crate::log::format::Place;
use crate::types::id::BatchId;
use crate::types::id::MessageId;
use crate::types::id::ShardId;
use crate::types::message::Arrival;
use crate::types::message::Content;
use crate::types::message::Progress;
use crate::types::message::Recipient;
use crate::types::outcome::Outcome;

use super::index;
use super::index::Index;
use super::index::SegmentId;
use super::index::Segments;
use super::record;
use super::record::State;
use super::scan::Beginning;
use super::scan::Damaged;
use super::scan::Folder;
use super::scan::Found;
use super::scan::OutcomeFact;
use super::scan::Problem;
use super::scan::ReadFn;
use super::scan::RecoveryError;
use super::scan::Scan;
use super::scan::SegmentFact;
use super::scan::intern;
use super::store::BodyAt;
use super::store::EventSeq;
use super::store::locate;

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
    /// The binding of the recipient of an outcome, if it had been given another one by then.
    pub binding: Option<Arc<str>>,
    /// Nothing if the message's record can no longer be read.
    pub facts: Option<Arc<Facts>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnreportedEvent {
    Reception,
    Outcome(Outcome),
}

/// What a shard gets back from before.
#[derive(Debug)]
pub struct Home {
    pub shard: ShardId,
    /// Every open recipient, in the order of reception. To be taken by the engine.
    pub arrivals: Vec<Arrival>,
    /// In order. When they are durable in the event log, say so to the spool by
    /// [`recovered_told`](crate::spool::Spool::recovered_told).
    pub unreported: Vec<Unreported>,
    pub damage: Vec<Damaged>,
    /// Commits that were cut because they had not been finished.
    pub torn_tails: u32,
    /// Where the log goes on, unless that was asked of the scan already.
    beginning: Option<Beginning>,
    parts: HomeParts,
}

/// What the home itself keeps.
#[derive(Debug, Default)]
pub(super) struct HomeParts {
    pub entries: Index,
    pub segments: Segments,
    /// See [`log::Found::unsynced`](crate::log::Found).
    pub unsynced: Vec<SegmentFile>,
    /// Files of no use.
    pub useless: Vec<SegmentFile>,
    /// Segments that were made and never written, with their sizes.
    pub blank: Vec<(SegmentFile, u64)>,
}

impl Home {
    fn empty(shard: ShardId) -> Home {
        let (arrivals, unreported, damage, parts) = Default::default();
        Home {
            shard,
            arrivals,
            unreported,
            damage,
            torn_tails: 0,
            beginning: None,
            parts,
        }
    }

    /// This is where the log goes on, asked of the scan before.
    pub fn goes_on(&mut self, beginning: Beginning) {
        self.beginning = Some(beginning);
    }

    /// What [`Spool::new`](crate::spool::Spool::new) wants; asked once.
    pub fn begin(&mut self) -> Beginning {
        let beginning = self.beginning.take();
        beginning.unwrap_or_else(|| Beginning::empty(self.shard))
    }

    /// Where a message lies, if it has open recipients.
    pub fn locate(&self, batch: BatchId) -> Option<BodyAt> {
        locate(&self.parts.entries, &self.parts.segments, batch)
    }

    pub(super) fn take_parts(&mut self) -> HomeParts {
        core::mem::take(&mut self.parts)
    }
}

/// Rebuilds the homes of all shards: [`Recovery::take`] per folder, then [`Recovery::finish`].
pub struct Recovery {
    spool_id: u64,
    shards: u16,
    folders: BTreeMap<ShardId, Folder>,
    /// Of folders that were scanned here.
    beginnings: Vec<Beginning>,
    segments: Vec<SegmentFact>,
    messages: Map<BatchId, Found>,
    /// Other copies than the best, and which segments they are in.
    copies: Vec<(BatchId, EventSeq, usize)>,
    outcomes: Vec<OutcomeFact>,
    /// Which outcomes give a recipient to which binding, in order once they are applied.
    rebounds: Vec<(EventSeq, MessageId, Arc<str>)>,
    /// Recipients whose binding is one of those.
    rebound: Set<MessageId>,
    receptions: Vec<(EventSeq, usize, BatchId)>,
    events: Vec<(EventSeq, usize, Outcome)>,
    /// The newest event mark of each folder.
    marks: BTreeMap<ShardId, EventSeq>,
    /// How many shards each start had.
    starts: BTreeMap<u32, u16>,
    damage: Vec<Damaged>,
    names: Set<Arc<str>>,
}

impl Recovery {
    /// `shards` is the number of shards from now on.
    pub fn new(spool_id: u64, shards: u16) -> Recovery {
        assert!(shards > 0, "somebody must take the mail");
        Recovery {
            spool_id,
            shards,
            folders: BTreeMap::new(),
            beginnings: Vec::new(),
            segments: Vec::new(),
            messages: Map::default(),
            copies: Vec::new(),
            outcomes: Vec::new(),
            rebounds: Vec::new(),
            rebound: Set::default(),
            receptions: Vec::new(),
            events: Vec::new(),
            marks: BTreeMap::new(),
            starts: BTreeMap::new(),
            damage: Vec::new(),
            names: Set::default(),
        }
    }

    /// Scans a folder whole and takes what was found.
    pub fn folder(
        &mut self,
        shard: ShardId,
        files: Vec<(SegmentFile, u64)>,
        read: ReadFn<'_>,
    ) -> Result<(), RecoveryError> {
        let mut scan = Scan::new(self.spool_id, shard, files);
        if shard.index() < usize::from(self.shards) {
            self.beginnings.push(scan.begin(read)?);
        }
        while scan.step(read)? {}
        self.take(scan);
        Ok(())
    }

    /// Adds what a folder holds to what others do. The scan has nothing left.
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
        self.rebounds.extend(scan.rebounds);
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
        self.apply_rebounds();
        self.report_missing();
        let mut homes: Vec<Home> = (0..self.shards)
            .map(|shard| Home::empty(ShardId(shard as u8)))
            .collect();
        self.give_unreported(&mut homes, read);
        self.give_segments(&mut homes, order);
        for (shard, folder) in core::mem::take(&mut self.folders) {
            let home = &mut homes[self.home_of(shard)];
            home.torn_tails += folder.torn_tails;
            let free = folder.free.into_iter().map(|(file, _)| file);
            home.parts.useless.extend(free);
            home.parts.blank.extend(folder.blank);
            home.parts.unsynced.extend(folder.unsynced);
        }
        for beginning in core::mem::take(&mut self.beginnings) {
            let home = beginning.shard.index();
            homes[home].beginning = Some(beginning);
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

    /// The last one that a copy does not know of yet counts.
    fn apply_rebounds(&mut self) {
        self.rebounds.sort_by_key(|(event, ..)| *event);
        for (event, message, to) in &self.rebounds {
            let Some(found) = self.messages.get_mut(&message.batch) else {
                continue;
            };
            let known = found.known;
            let recipient = found.recipients.get_mut(usize::from(message.recipient));
            if let Some((recipient, _)) = recipient.filter(|_| *event > known) {
                recipient.binding = to.clone();
                self.rebound.insert(*message);
            }
        }
    }

    /// The binding that a recipient had at an event, where its record may not say.
    fn binding_at(&self, event: EventSeq, message: MessageId) -> Option<Arc<str>> {
        let before = self.rebounds.partition_point(|(at, ..)| *at < event);
        let mut of_it = self.rebounds[..before].iter().rev();
        let found = of_it.find(|(_, it, _)| *it == message)?;
        Some(found.2.clone())
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
        // Damage that is told of already is nothing that is missing.
        let told: BTreeSet<BatchId> = self.damage.iter().filter_map(|it| it.batch).collect();
        let known = |batch: &BatchId| self.messages.contains_key(batch) || told.contains(batch);
        let lost = last.into_iter().filter(|(batch, _)| !known(batch));
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
                (batch, found),
                &self.rebound,
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
        for (number, shard, batch, event) in all {
            let known = facts.get(&batch).cloned();
            let facts_of = known.unwrap_or_else(|| {
                let read_now = self.read_facts(batch, read);
                facts.insert(batch, read_now.clone());
                read_now
            });
            let home = self.home_of(shard);
            let binding = match &event {
                UnreportedEvent::Outcome(outcome) => self.binding_at(number, outcome.message),
                UnreportedEvent::Reception => None,
            };
            homes[home].unreported.push(Unreported {
                batch,
                binding,
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

fn give_message(
    home: &mut Home,
    segment: SegmentId,
    (batch, found): (BatchId, Found),
    rebound: &Set<MessageId>,
) {
    let Found {
        key,
        message_bytes,
        body_bytes,
        received,
        size,
        flow,
        sender,
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
        let message = MessageId {
            batch,
            recipient: index as u16,
        };
        if rebound.contains(&message) {
            home.parts.entries.rebind(message, &recipient.binding);
        }
        home.arrivals.push(Arrival {
            batch,
            recipient: index as u16,
            home: shard,
            address: recipient.address,
            binding: recipient.binding,
            received,
            size,
            flow: flow.clone(),
            sender: sender.clone(),
            progress: Progress { attempts, due },
            moved: None,
            in_doubt: false,
        });
    }
}
