//! Several homes on one disk, and a model of what has been promised to whom.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::base::histogram::Histogram;
use crate::log;
use crate::log::CommitId;
use crate::log::DiskOp;
use crate::log::test_disk::TestDisk;
use crate::types::message::Arrival;

use super::super::*;
use super::*;

pub(super) const SPOOL: u64 = 0xfeed_beef;
pub(super) const SEGMENT_BYTES: u64 = 32 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Put into a commit of that shard that has not ended yet.
    Waiting(usize, CommitId),
    Accepted,
    /// Never acknowledged, but there after a crash. Until that shard has made a commit a power cut
    /// may take it away.
    Found(usize),
    /// Refused, but there after a crash that came before the refusal was on disk. After a failed
    /// sync the system may show bytes that never got to disk, so it may vanish again.
    Ghost,
    /// In a commit that failed; until the next one of the same start is durable a crash may bring
    /// it back.
    Refused {
        certain: bool,
    },
}

#[derive(Debug)]
struct Mail {
    content: Content,
    recipients: Vec<Recipient>,
    fate: Fate,
    states: Vec<Known>,
}

/// What is known of one recipient: all progress that was made, and how much is surely on disk.
#[derive(Clone, Debug, Default)]
struct Known {
    steps: Vec<Outcome>,
    /// This many of the steps are on disk.
    durable: usize,
    /// Found after a crash, but perhaps only in memory.
    shaky: bool,
    /// The binding that it had before the steps, if not the one of its reception.
    binding: Option<Arc<str>>,
}

impl Known {
    fn settled(&self) -> bool {
        self.steps.last().is_some_and(|it| it.kind.is_terminal())
    }

    /// Its binding after so many of the steps.
    fn binding_after<'a>(&'a self, steps: usize, first: &'a Arc<str>) -> &'a Arc<str> {
        let rebound = self.steps[..steps]
            .iter()
            .rev()
            .find_map(|it| match &it.kind {
                OutcomeKind::Rebound { to, .. } => Some(to),
                _ => None,
            });
        rebound.or(self.binding.as_ref()).unwrap_or(first)
    }

    fn surely_settled(&self) -> bool {
        self.durable == self.steps.len() && self.settled() && !self.shaky
    }
}

pub(super) struct World {
    pub disk: TestDisk,
    pub prng: Prng,
    pub spools: Vec<Spool>,
    pub start: u32,
    pub ms: u64,
    pub sync: SyncMode,
    mail: BTreeMap<BatchId, Mail>,
    counters: Vec<u32>,
    in_flight: Vec<(usize, DiskOp)>,
    /// Events by shard that were given to the event log, and how far that is durable.
    events: BTreeMap<(usize, EventSeq), (BatchId, Option<Outcome>)>,
    told: BTreeSet<(BatchId, u16, u16)>,
    pub counts: BTreeMap<&'static str, u64>,
    /// Turns the checks of promises off, for the control that shows that they can fail.
    pub lost_is_fine: bool,
    /// After failed syncs the system shows bytes that are not on disk: finding them gone later is
    /// damage.
    pub damage_is_fine: bool,
    pub lost: u64,
    power_was_cut: bool,
    /// Shards may take mail before they know what they have.
    pub adopts_late: bool,
    /// What each shard has not been told of yet.
    late: Vec<Option<Home>>,
}

impl World {
    pub fn new(seed: u64, shards: u16) -> World {
        let mut world = World {
            disk: TestDisk::new(seed),
            prng: Prng::stream(seed, "world"),
            spools: Vec::new(),
            start: 0,
            ms: 0,
            sync: SyncMode::Commit,
            mail: BTreeMap::new(),
            counters: Vec::new(),
            in_flight: Vec::new(),
            events: BTreeMap::new(),
            told: BTreeSet::new(),
            counts: BTreeMap::new(),
            lost_is_fine: false,
            damage_is_fine: false,
            lost: 0,
            power_was_cut: true,
            adopts_late: false,
            late: Vec::new(),
        };
        world.boot(shards);
        world
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn at(&self) -> Now {
        now(self.ms)
    }

    /// Reads the disk as a start does, checks what is found, and begins anew.
    pub fn boot(&mut self, shards: u16) {
        self.start += 1;
        self.disk.remove_new();
        let mut homes = self.recover(shards);
        self.check(&homes);
        let config = |shard: ShardId| Config {
            log: log::Config {
                segment_bytes: SEGMENT_BYTES,
                sync: self.sync,
                ..log::Config::new(SPOOL, shard, self.start, shards)
            },
            segments_max: 10_000,
        };
        let begin = |home: &mut Home| Spool::new(config(home.shard), home.begin());
        self.spools = homes.iter_mut().map(begin).collect();
        self.counters = vec![0; usize::from(shards)];
        self.events.clear();
        self.late = homes.into_iter().map(Some).collect();
        if !self.adopts_late || self.prng.chance(1, 3) {
            self.adopt_all();
        }
    }

    fn adopt_all(&mut self) {
        (0..self.spools.len()).for_each(|shard| self.adopt(shard));
    }

    fn adopt(&mut self, shard: usize) {
        let Some(mut home) = self.late[shard].take() else {
            return;
        };
        for lost in &home.unreported {
            self.tell(lost.batch, &lost.event);
        }
        self.spools[shard].adopt(&mut home);
        self.spools[shard].recovered_told();
        self.count("adoptions");
    }

    /// What a start would find.
    pub fn recover(&self, shards: u16) -> Vec<Home> {
        let mut recovery = Recovery::new(SPOOL, shards);
        let disk = &self.disk;
        let mut read = |file, at, bytes| disk.read(file, at, bytes);
        for folder in disk.folders() {
            recovery
                .folder(folder, disk.list(folder), &mut read)
                .expect("our format");
        }
        recovery.finish(&mut read)
    }

    fn tell(&mut self, batch: BatchId, event: &UnreportedEvent) {
        if let UnreportedEvent::Outcome(it) = event {
            self.told.insert((batch, it.message.recipient, it.attempts));
        }
    }

    /// Everything promised is there, byte for byte, and nothing that was refused.
    fn check(&mut self, homes: &[Home]) {
        let mut arrivals: BTreeMap<BatchId, Vec<&Arrival>> = BTreeMap::new();
        let mut place: BTreeMap<BatchId, usize> = BTreeMap::new();
        for home in homes {
            assert!(
                self.damage_is_fine
                    || home
                        .damage
                        .iter()
                        .all(|it| it.problem == Problem::TornOrDamaged),
                "nothing that was synced is damaged: {:?}",
                home.damage
            );
            for arrival in &home.arrivals {
                assert_eq!(arrival.home, home.shard);
                let others = arrivals.entry(arrival.batch).or_default();
                assert!(
                    others.iter().all(|it| it.recipient != arrival.recipient),
                    "queued twice"
                );
                others.push(arrival);
                place.insert(arrival.batch, home.shard.index());
            }
        }
        let mut mail = core::mem::take(&mut self.mail);
        for (batch, it) in &mut mail {
            let found = arrivals.remove(batch).unwrap_or_default();
            if it.fate == (Fate::Refused { certain: true }) {
                assert!(found.is_empty(), "{batch} was refused and is back");
            }
            self.check_states(*batch, it, &found, homes);
            if it.fate != Fate::Accepted && found.is_empty() && it.fate != Fate::Ghost {
                let certain = self.power_was_cut;
                it.fate = Fate::Refused { certain };
            }
            let Some(first) = found.first() else { continue };
            let home = place[&first.batch];
            self.check_content(&homes[home], it, &found);
            it.fate = match it.fate {
                Fate::Accepted => Fate::Accepted,
                Fate::Refused { .. } | Fate::Ghost => Fate::Ghost,
                Fate::Waiting(..) | Fate::Found(_) => Fate::Found(home),
            };
        }
        assert!(arrivals.is_empty(), "mail that nobody sent: {arrivals:?}");
        self.mail = mail;
    }

    /// Every recipient of one message is where it should be, and its events are told.
    fn check_states(&mut self, batch: BatchId, it: &mut Mail, found: &[&Arrival], homes: &[Home]) {
        let accepted = it.fate == Fate::Accepted;
        let certain = self.power_was_cut;
        let reported = |step: &Outcome| {
            let event = UnreportedEvent::Outcome(step.clone());
            homes.iter().any(|home| {
                home.unreported
                    .iter()
                    .any(|it| it.batch == batch && it.event == event)
            })
        };
        for (index, known) in it.states.iter_mut().enumerate() {
            let arrival = found.iter().find(|it| usize::from(it.recipient) == index);
            if accepted && !known.settled() && arrival.is_none() {
                assert!(
                    self.lost_is_fine,
                    "{batch}-{index} was accepted and is lost"
                );
                self.lost += 1;
            }
            if !self.lost_is_fine {
                let first = &it.recipients[index].binding;
                check_recipient((batch, index), known, arrival, first);
            }
            for step in &known.steps[..known.durable] {
                let key = (batch, index as u16, step.attempts);
                let told = self.told.contains(&key) || reported(step);
                assert!(
                    told || self.lost_is_fine,
                    "an event of {batch} is lost: {step:?}"
                );
            }
            if found.is_empty() && !accepted {
                // Nobody was promised anything: it may have vanished with its outcomes.
                *known = Known::default();
            }
            // Of a torn commit some outcomes may be left and others not.
            for step in known.steps.iter().rev().skip(1) {
                self.told.insert((batch, index as u16, step.attempts));
            }
            restart_from(known, arrival, certain);
            known.shaky |= self.damage_is_fine && known.durable < known.steps.len();
        }
    }

    fn check_content(&self, home: &Home, it: &Mail, found: &[&Arrival]) {
        let at = home
            .locate(it.content.batch)
            .expect("what is queued can be located");
        let bytes = self
            .disk
            .read(at.file, at.offset, at.bytes as usize)
            .expect("and be read");
        let stored = inspect::message(SPOOL, at, &Bytes::from(bytes)).expect("and be decoded");
        let inspect::Stored {
            content,
            recipients,
            ..
        } = stored;
        assert_eq!(content, it.content);
        let addresses = |all: &[Recipient]| Vec::from_iter(all.iter().map(|it| it.address.clone()));
        assert_eq!(addresses(&recipients), addresses(&it.recipients));
        for arrival in found {
            let recipient = &it.recipients[usize::from(arrival.recipient)];
            assert_eq!(arrival.address, recipient.address);
            assert_eq!(arrival.size as usize, content.body.len());
            assert_eq!(arrival.received, content.received);
        }
    }

    /// Puts a message to a random shard.
    pub fn store(&mut self, body_bytes_max: u64) {
        let shard = self.prng.below(self.spools.len() as u64) as usize;
        let batch = BatchId::new(self.start, ShardId(shard as u8), self.counters[shard]);
        self.counters[shard] += 1;
        let bytes = self.prng.below(body_bytes_max) as usize;
        let (content, recipients) = message(&mut self.prng, batch, bytes);
        match self.spools[shard].store(&content, &recipients) {
            Ok(stored) => {
                self.count("stored");
                self.events.insert((shard, stored.event), (batch, None));
                let fate = Fate::Waiting(shard, stored.commit);
                let states = vec![Known::default(); recipients.len()];
                self.mail.insert(
                    batch,
                    Mail {
                        content,
                        recipients,
                        fate,
                        states,
                    },
                );
            }
            Err(_) => self.count("refused at once"),
        }
    }

    /// An outcome for a random recipient that is open.
    pub fn settle(&mut self, terminal_in_8: u64) {
        let open: Vec<BatchId> = self
            .mail
            .iter()
            .filter(|(_, it)| it.is_here())
            .map(|(batch, _)| *batch)
            .collect();
        if open.is_empty() {
            return;
        }
        let batch = *self.prng.pick(&open);
        self.settle_batch(batch, terminal_in_8);
    }

    pub fn settle_batch(&mut self, batch: BatchId, terminal_in_8: u64) {
        let Some(shard) = self.spools.iter().position(|it| it.locate(batch).is_some()) else {
            return;
        };
        let at = self.at();
        let Some(it) = self.mail.get_mut(&batch) else {
            return;
        };
        let index = self.prng.below(it.states.len() as u64) as usize;
        if it.states[index].settled() {
            return;
        }
        let attempts = it.states[index].steps.last().map_or(0, |it| it.attempts) + 1;
        let terminal = self.prng.chance(terminal_in_8, 8);
        let id = MessageId {
            batch,
            recipient: index as u16,
        };
        let step = outcome(&mut self.prng, id, attempts, terminal);
        it.states[index].steps.push(step.clone());
        let (event, _) = self.spools[shard].settle(at, &step);
        self.events.insert((shard, event), (batch, Some(step)));
        self.count("settled");
    }

    /// The event log of one shard has got further.
    pub fn report(&mut self, all: bool) {
        for shard in 0..self.spools.len() {
            let mine: Vec<EventSeq> = self
                .events
                .keys()
                .filter(|it| it.0 == shard)
                .map(|it| it.1)
                .collect();
            if mine.is_empty() {
                continue;
            }
            let upto = if all {
                mine[mine.len() - 1]
            } else {
                *self.prng.pick(&mine)
            };
            for event in mine.into_iter().filter(|it| *it <= upto) {
                if let Some((batch, Some(step))) = self.events.remove(&(shard, event)) {
                    self.told
                        .insert((batch, step.message.recipient, step.attempts));
                }
            }
            self.spools[shard].events_durable(upto);
        }
    }

    pub fn wait(&mut self, ms: u64) {
        self.ms += ms;
    }

    /// Starts what is due, ends some of what is under way.
    pub fn turn(&mut self) {
        for shard in 0..self.spools.len() {
            let calm = self.in_flight.iter().all(|(its, _)| *its != shard);
            if calm && self.prng.chance(1, 8) {
                self.adopt(shard);
            }
            let at = self.at();
            while let Some(op) = self.spools[shard].poll(at) {
                self.in_flight.push((shard, op));
            }
            let next = self.spools[shard].next_wakeup();
            assert!(
                next.is_none_or(|it| it > at.mono),
                "nothing was done, so no hurry: {next:?}"
            );
        }
        let count = self.prng.below(self.in_flight.len() as u64 + 1);
        for _ in 0..count {
            let index = self.prng.below(self.in_flight.len() as u64) as usize;
            let (shard, op) = self.in_flight.swap_remove(index);
            self.end(shard, op);
        }
    }

    fn end(&mut self, shard: usize, op: DiskOp) {
        let at = self.at();
        let sync = matches!(op, DiskOp::Sync { .. });
        let completion = self.disk.run(op);
        if sync && completion.result.is_err() {
            for it in self
                .mail
                .values_mut()
                .filter(|it| it.fate == Fate::Found(shard))
            {
                it.fate = Fate::Ghost;
            }
        }
        match self.spools[shard].completed(at, completion) {
            Completed::Nothing => {}
            Completed::Durable(durable) => {
                self.count("commits");
                for it in self.mail.values_mut() {
                    match it.fate {
                        Fate::Waiting(its, commit) if its == shard && durable.covers(commit) => {
                            it.fate = Fate::Accepted;
                        }
                        // What is adopted is synced before the next commit.
                        Fate::Found(home) if home == shard && self.late[shard].is_none() => {
                            it.fate = Fate::Accepted;
                        }
                        Fate::Refused { .. }
                            if it.content.batch.shard().index() == shard
                                && it.content.batch.start() == self.start =>
                        {
                            it.fate = Fate::Refused { certain: true };
                        }
                        _ => {}
                    }
                }
            }
            Completed::Failed(failed) => {
                self.count("commits failed");
                for it in self.mail.values_mut() {
                    if let Fate::Waiting(its, commit) = it.fate
                        && its == shard
                        && failed.covers(commit)
                    {
                        it.fate = Fate::Refused { certain: false };
                    }
                }
            }
            Completed::Unreadable(_) => self.count("unreadable"),
        }
    }

    /// Lets everything come to rest; then all outcomes are on disk.
    pub fn quiesce(&mut self) {
        let faults = core::mem::take(&mut self.disk.faults);
        self.disk.fail_in = None;
        self.adopt_all();
        let (mut calm, mut rounds) = (0, 0);
        loop {
            let at = self.at();
            for spool in &mut self.spools {
                spool.flush(at);
            }
            self.turn();
            if self.in_flight.is_empty() {
                self.turn();
            }
            if self.in_flight.is_empty() {
                let idle = self.spools.iter().all(|it| it.is_idle());
                let next = self.spools.iter().filter_map(Spool::next_wakeup).min();
                calm = if idle { calm + 1 } else { 0 };
                if idle && (next.is_none() || calm > 20) {
                    break;
                }
                self.ms = self.ms.max(next.map_or(0, |it| it.0.div_ceil(1_000)));
            }
            rounds += 1;
            assert!(
                rounds < 20_000,
                "it comes to rest {} {:?} {:?} IF {:?} W {:?}",
                self.ms,
                self.spools[0].next_wakeup(),
                self.spools[0].compaction,
                self.in_flight.len(),
                self.spools
                    .iter()
                    .map(|s| (s.stats(), s.is_idle()))
                    .collect::<Vec<_>>()
            );
        }
        for (index, spool) in self.spools.iter().enumerate() {
            assert!(
                spool.is_idle() && spool.stats().backlog_outcomes == 0,
                "shard {index} rests"
            );
        }
        for known in self.mail.values_mut().flat_map(|it| &mut it.states) {
            known.durable = known.steps.len();
        }
        for it in self.mail.values() {
            assert!(
                !matches!(it.fate, Fate::Waiting(..)),
                "everybody got an answer"
            );
        }
        self.disk.faults = faults;
        self.count("rests");
    }

    /// The process is gone; what was under way happened in part.
    pub fn crash(&mut self, power_cut: bool) {
        for (_, op) in core::mem::take(&mut self.in_flight) {
            if self.disk.prng.chance(2, 3) {
                self.disk.partly(&op, false);
            } else {
                self.disk.faults = Default::default();
                self.disk.run(op);
            }
        }
        if self.late.iter().any(Option::is_some) {
            self.count("crashes before all is known");
        }
        self.power_was_cut = power_cut;
        if power_cut {
            self.disk.cut_power();
        }
        self.count(if power_cut { "power cuts" } else { "kills" });
    }

    pub fn latencies(&self) -> Histogram {
        self.spools[0].stats().log.commit_latency.clone()
    }

    pub fn open_batches(&self) -> Vec<BatchId> {
        let open = |it: &&Mail| it.is_here() && it.states.iter().any(|k| !k.settled());
        self.mail
            .values()
            .filter(open)
            .map(|it| it.content.batch)
            .collect()
    }
}

impl Mail {
    fn is_here(&self) -> bool {
        matches!(self.fate, Fate::Accepted | Fate::Found(_) | Fate::Ghost)
    }
}

fn check_recipient(
    (batch, index): (BatchId, usize),
    known: &Known,
    arrival: Option<&&Arrival>,
    first: &Arc<str>,
) {
    let Some(arrival) = arrival.filter(|_| !known.shaky) else {
        return;
    };
    assert!(
        !known.surely_settled(),
        "{batch}-{index} was settled on disk and is back"
    );
    let progress = |step: &Outcome| match step.kind {
        OutcomeKind::Delayed { due } | OutcomeKind::Rebound { due, .. } => Progress {
            attempts: step.attempts,
            due,
        },
        _ => Progress::default(),
    };
    let mut possible = vec![];
    if known.durable == 0 {
        possible.push((Progress::default(), known.binding_after(0, first)));
    }
    let from = known.durable.saturating_sub(1);
    let steps = known.steps.iter().enumerate().skip(from);
    possible.extend(
        steps
            .filter(|(_, it)| !it.kind.is_terminal())
            .map(|(at, it)| (progress(it), known.binding_after(at + 1, first))),
    );
    assert!(
        possible.contains(&(arrival.progress, &arrival.binding)),
        "{batch}-{index}: {arrival:?} not {possible:?}"
    );
}

/// What recovery found is the truth from here on. Of a commit that was torn some outcomes may be
/// left and others not; only the last one is sure to be there.
fn restart_from(known: &mut Known, arrival: Option<&&Arrival>, certain: bool) {
    let binding = arrival.map(|it| it.binding.clone());
    match arrival {
        Some(arrival) => {
            let attempts = arrival.progress.attempts;
            known
                .steps
                .retain(|it| it.attempts <= attempts && !it.kind.is_terminal());
        }
        None if known.settled() => {}
        None => known.steps.clear(),
    }
    known.durable = known.durable.min(known.steps.len());
    if certain && known.durable < known.steps.len() {
        known.steps.drain(..known.steps.len() - 1);
        known.durable = known.steps.len();
        known.binding = binding;
    }
}
