//! The queues against a naive account of the same events: plain vectors, looked through whole.

use super::*;
use crate::base::map::Set;
use crate::base::prng::Prng;

const DOMAINS: [&str; 4] = [
    "one.example",
    "two.example",
    "three.example",
    "four.example",
];
const EXPIRATION_S: u64 = 20_000;

#[derive(Clone, Debug)]
struct Known {
    id: EntryId,
    batch: u64,
    recipient: u16,
    domain: usize,
    state: State,
    attempts: u16,
    due: Mono,
    born_us: i64,
    received: Wall,
}

/// In the order of arrival; the order within a queue is in `active`.
#[derive(Default)]
struct Model {
    known: Vec<Known>,
    active: [Vec<EntryId>; DOMAINS.len()],
    resting: [Option<Mono>; DOMAINS.len()],
    ended: u64,
}

struct Run {
    rig: Rig,
    model: Model,
    prng: Prng,
    now: Now,
    batches: u64,
    /// The wall clock is left alone, so that lateness can be held against the queues.
    steady: bool,
    seed: u64,
    never_attempt_expired: bool,
}

impl Known {
    fn is_expired(&self, now: Now) -> bool {
        let counted = self.born_us + (EXPIRATION_S * 1_000_000) as i64 <= now.mono.0 as i64;
        let shown = now.wall >= self.received + Duration::from_secs(EXPIRATION_S);
        counted && (shown || self.received > now.wall)
    }
}

impl Model {
    fn get(&mut self, id: EntryId) -> &mut Known {
        self.known
            .iter_mut()
            .find(|known| known.id == id)
            .expect("known")
    }

    fn count(&self, domain: usize, state: State) -> u32 {
        let of = |known: &&Known| known.domain == domain && known.state == state;
        self.known.iter().filter(of).count() as u32
    }
}

impl Run {
    fn new(seed: u64) -> Run {
        Run {
            rig: Rig::new(),
            model: Model::default(),
            prng: Prng::new(seed),
            now: at(100_000),
            batches: 0,
            steady: seed.is_multiple_of(2),
            never_attempt_expired: !seed.is_multiple_of(3),
            seed,
        }
    }

    fn queue(&mut self, domain: usize) -> QueueId {
        if let Some(queue) = self.rig.queues.find("a", DOMAINS[domain]) {
            return queue;
        }
        let settings = Settings {
            message_expiration: Duration::from_secs(EXPIRATION_S),
            max_retries: MaxRetries::Count(4),
            never_attempt_expired: self.never_attempt_expired,
            max_resident_active: [None, Some(0), Some(3), Some(30)][domain],
            ..Settings::default()
        };
        self.rig.queue(self.now, DOMAINS[domain], settings)
    }

    fn step(&mut self) {
        match self.prng.below(100) {
            0..30 => self.insert(),
            30..50 => self.take(),
            50..60 => self.fail(),
            60..75 => self.finish(),
            75..80 => self.give_back(),
            80..83 => self.rest(),
            83..85 => self.flush(),
            85..88 => self.attach(),
            88..89 => {
                let messages_max = self.prng.below(40) as usize;
                let bytes_max = self.prng.below(40_000);
                self.rig.queues.set_budget(Budget {
                    messages_max,
                    bytes_max,
                    ..Budget::default()
                });
            }
            _ => self.pass_time(),
        }
        self.check();
    }

    fn any_in(&mut self, states: &[State]) -> Option<EntryId> {
        let fits = |known: &&Known| states.contains(&known.state);
        let ids: Vec<_> = self
            .model
            .known
            .iter()
            .filter(fits)
            .map(|known| known.id)
            .collect();
        if ids.is_empty() {
            None
        } else {
            Some(*self.prng.pick(&ids))
        }
    }

    fn insert(&mut self) {
        let domain = self.prng.below(DOMAINS.len() as u64) as usize;
        let queue = self.queue(domain);
        if self.batches == 0 || self.prng.chance(1, 2) {
            self.batches += 1;
        }
        let batch = self.batches;
        let here = self.model.known.iter().filter(|known| known.batch == batch);
        let (received, born_us) = match here.clone().next() {
            Some(known) => (known.received, known.born_us),
            None => {
                let age = self.prng.below(EXPIRATION_S + 500) * self.prng.below(2);
                let received = self.now.wall - Duration::from_secs(age);
                (received, self.now.mono.0 as i64 - (age * 1_000_000) as i64)
            }
        };
        let recipient = here.map(|known| known.recipient + 1).max().unwrap_or(0);
        let mut arrival = self
            .rig
            .arrival(self.now, batch, recipient, DOMAINS[domain]);
        arrival.received = received;
        let mut due = self.now.mono;
        if self.prng.chance(1, 4) {
            let wait = Duration::from_secs(self.prng.below(3_000) + 1);
            arrival.progress = Progress {
                attempts: 1,
                due: self.now.wall + wait,
            };
            due = self.now.mono + wait;
        }
        let attempts = arrival.progress.attempts;
        let body = self.prng.chance(3, 4).then(|| content(batch, 500));
        let inserted = self.rig.queues.insert(self.now, queue, arrival, body);
        let id = inserted.entry;
        let state = if due > self.now.mono {
            State::Delayed
        } else {
            State::Active
        };
        let resting = self.model.resting[domain].is_some();
        assert_eq!(inserted.ready, state == State::Active && !resting);
        if state == State::Active {
            self.model.active[domain].push(id);
        }
        let known = Known {
            id,
            batch,
            recipient,
            domain,
            state,
            attempts,
            due,
            born_us,
            received,
        };
        self.model.known.push(known);
    }

    fn take(&mut self) {
        let domain = self.prng.below(DOMAINS.len() as u64) as usize;
        let queue = self.queue(domain);
        let max = self.prng.between(1, 4) as usize;
        let taken = self.rig.queues.take(self.now, queue, max);
        if let Some(until) = self.model.resting[domain] {
            return assert_eq!(taken, Taken::Resting { until });
        }
        let active = self.model.active[domain].clone();
        let mut expired = Vec::new();
        let mut lead = Vec::new();
        for id in active {
            let known = self.model.get(id).clone();
            let ends = self.never_attempt_expired && known.is_expired(self.now);
            let first = lead.first().map(|id| self.model.get(*id).batch);
            if ends && lead.is_empty() && expired.len() < max {
                expired.push(id);
            } else if expired.is_empty()
                && lead.len() < max
                && first.is_none_or(|b| b == known.batch)
            {
                lead.push(id);
            } else {
                break;
            }
        }
        let (ids, state) = match &taken {
            Taken::Batch(batch) => {
                let ids: Vec<_> = batch.recipients.iter().map(|(id, _)| *id).collect();
                assert_eq!(ids, lead, "seed {}", self.seed);
                (ids, State::InFlight)
            }
            Taken::Expired(ids) => {
                assert_eq!(*ids, expired, "seed {}", self.seed);
                (ids.clone(), State::Ending)
            }
            Taken::Empty => {
                assert!(lead.is_empty() && expired.is_empty(), "seed {}", self.seed);
                (Vec::new(), State::InFlight)
            }
            Taken::Resting { .. } => panic!("seed {}: it does not rest", self.seed),
        };
        self.model.active[domain].retain(|id| !ids.contains(id));
        for id in ids {
            self.model.get(id).state = state;
        }
    }

    fn fail(&mut self) {
        let Some(id) = self.any_in(&[State::InFlight]) else {
            return;
        };
        let now = self.now;
        let known = self.model.get(id);
        known.attempts += 1;
        let attempts = known.attempts;
        let expected = if known.is_expired(now) {
            Failed::GivenUp {
                why: GiveUp::Expired,
                attempts,
            }
        } else if attempts > 4 {
            Failed::GivenUp {
                why: GiveUp::MaxRetries,
                attempts,
            }
        } else {
            let delay = Duration::from_secs(1_200 * (1 << (attempts - 1)));
            known.due = now.mono + delay;
            Failed::Delayed {
                due: now.wall + delay,
                attempts,
            }
        };
        let delayed = matches!(expected, Failed::Delayed { .. });
        known.state = if delayed {
            State::Delayed
        } else {
            State::Ending
        };
        assert_eq!(
            self.rig.queues.fail(now, id),
            Some(expected),
            "seed {}",
            self.seed
        );
    }

    fn finish(&mut self) {
        let Some(id) = self.any_in(&[State::InFlight, State::Ending, State::Delayed]) else {
            return;
        };
        let known = self.model.get(id).clone();
        let finished = self
            .rig
            .queues
            .finish(self.now, id, Ending::Delivered)
            .expect("there");
        let recipient = known.recipient;
        assert_eq!(
            finished.message,
            MessageId {
                batch: BatchId(known.batch),
                recipient
            }
        );
        assert_eq!(finished.attempts, known.attempts);
        self.model.known.retain(|known| known.id != id);
        let left = self
            .model
            .known
            .iter()
            .any(|other| other.domain == known.domain);
        assert_eq!(finished.queue_empty, !left);
        self.model.ended += 1;
    }

    fn give_back(&mut self) {
        let Some(id) = self.any_in(&[State::InFlight]) else {
            return;
        };
        let Known { batch, domain, .. } = *self.model.get(id);
        let same = |known: &&Known| {
            known.state == State::InFlight && known.batch == batch && known.domain == domain
        };
        let ids: Vec<_> = self
            .model
            .known
            .iter()
            .filter(same)
            .map(|known| known.id)
            .collect();
        self.rig.queues.give_back(self.now, &ids);
        for id in ids.iter().rev() {
            self.model.get(*id).state = State::Active;
            self.model.active[domain].insert(0, *id);
        }
    }

    fn rest(&mut self) {
        let domain = self.prng.below(DOMAINS.len() as u64) as usize;
        let queue = self.queue(domain);
        if self.prng.chance(1, 3) {
            self.rig.queues.resume(queue);
            self.model.resting[domain] = None;
        } else {
            let until = self.now.mono + Duration::from_secs(self.prng.below(2_000));
            self.rig.queues.rest(self.now, queue, until);
            self.model.resting[domain] = (until > self.now.mono).then_some(until);
        }
    }

    fn flush(&mut self) {
        let domain = self.prng.below(DOMAINS.len() as u64) as usize;
        let queue = self.queue(domain);
        let before = self
            .rig
            .queues
            .entries(queue, State::Delayed, None, 2)
            .expect("there");
        self.rig.queues.flush(self.now, queue, 2);
        for id in before {
            self.model.get(id).state = State::Active;
            self.model.active[domain].push(id);
        }
    }

    fn attach(&mut self) {
        if let Some(id) = self.any_in(&State::ALL) {
            let batch = self.model.get(id).batch;
            self.rig.queues.attach(content(batch, 500));
        }
    }

    fn pass_time(&mut self) {
        let reach = 1 << self.prng.between(10, 34);
        let passed = Duration::from_micros(self.prng.below(reach));
        self.now = later(self.now, passed);
        if !self.steady && self.prng.chance(1, 10) {
            let jump = self.prng.below(40_000_000_000) as i64 - 20_000_000_000;
            self.now.wall = Wall(self.now.wall.0.saturating_add_signed(jump));
        }
        let wakes = self.rig.advance(self.now);
        for domain in 0..DOMAINS.len() {
            let resting = &mut self.model.resting[domain];
            // The timer of a rest fires with its next millisecond.
            if resting.is_some_and(|until| until.0.div_ceil(1_000) <= self.now.mono.0 / 1_000) {
                *resting = None;
            }
        }
        self.adopt(&wakes);
    }

    /// What time did must be what it could do, and all that it had to do.
    fn adopt(&mut self, wakes: &[Wake]) {
        let (now, seed) = (self.now, self.seed);
        for index in 0..self.model.known.len() {
            let known = self.model.known[index].clone();
            let state = self
                .rig
                .state(known.id)
                .expect("only the caller ends entries");
            let told = wakes.contains(&Wake::Expired(known.id));
            assert_eq!(told, state == State::Ending && known.state != State::Ending);
            match (known.state, state) {
                (State::Active | State::Delayed, State::Ending) => {
                    assert!(self.never_attempt_expired, "seed {seed}");
                    assert!(known.is_expired(now), "seed {seed}: early {known:?}");
                    self.model.active[known.domain].retain(|id| *id != known.id);
                }
                (State::Delayed, State::Active) => {
                    let last = !self.never_attempt_expired && known.is_expired(now);
                    assert!(
                        known.due <= now.mono || last,
                        "seed {seed}: early {known:?}"
                    );
                }
                (was, is) => {
                    assert_eq!(was, is, "seed {seed}");
                    self.must_wait(&known);
                }
            }
            self.model.known[index].state = state;
        }
        for (domain, name) in DOMAINS.iter().enumerate() {
            let queue = self.rig.queues.find("a", name);
            let list = |queue| {
                self.rig
                    .queues
                    .entries(queue, State::Active, None, usize::MAX)
            };
            let real = queue.and_then(list).unwrap_or_default();
            let model = &mut self.model.active[domain];
            assert_eq!(
                real[..model.len()],
                model[..],
                "seed {seed}: the order of {name}"
            );
            let woken = queue.is_some_and(|queue| wakes.contains(&Wake::Active(queue)));
            let resting = self.model.resting[domain].is_some();
            assert!(
                woken || resting || real.len() == model.len(),
                "seed {seed}: not woken"
            );
            *model = real;
        }
    }

    /// It was left where it was: then it has not been due, or expired, for long.
    fn must_wait(&self, known: &Known) {
        if !self.steady || self.now.mono.0 < LATE_MAX.as_micros() as u64 {
            return;
        }
        let grace = LATE_MAX + Duration::from_millis(1);
        let before = Now {
            mono: Mono(self.now.mono.0 - grace.as_micros() as u64),
            wall: self.now.wall - grace,
        };
        let late = match known.state {
            State::Active => self.never_attempt_expired && known.is_expired(before),
            State::Delayed => known.due <= before.mono || known.is_expired(before),
            State::InFlight | State::Ending => false,
        };
        assert!(
            !late,
            "seed {}: late {known:?} at {:?}",
            self.seed, self.now
        );
    }

    fn check(&mut self) {
        let queues = &self.rig.queues;
        let mut totals = Totals::default();
        for (domain, name) in DOMAINS.iter().enumerate() {
            let counts = State::ALL.map(|state| self.model.count(domain, state));
            let [active, delayed, in_flight, ending] = counts.map(u64::from);
            totals.in_flight += in_flight;
            totals.ending += ending;
            totals.delayed += delayed;
            match self.model.resting[domain] {
                Some(_) => totals.delayed += active,
                None => totals.active += active,
            }
            let Some(queue) = queues.find("a", name) else {
                assert_eq!(counts, [0; 4]);
                continue;
            };
            let view = queues.view(queue).expect("found");
            assert_eq!(State::ALL.map(|state| view.count(state)), counts);
            let of = self
                .model
                .known
                .iter()
                .filter(|known| known.domain == domain);
            let oldest = of.map(|known| known.born_us.div_euclid(1_000_000)).min();
            let age = view.oldest_age(self.now).map(|age| age.as_micros() as i64);
            let second = age.map(|age| (self.now.mono.0 as i64 - age) / 1_000_000);
            assert_eq!(second, oldest);
        }
        assert_eq!(queues.totals(), totals, "seed {}", self.seed);
        assert_eq!(queues.len(), self.model.known.len());
        self.check_bodies();
    }

    fn check_bodies(&self) {
        let queues = &self.rig.queues;
        let (mut batches, mut resident, mut bytes) = (Set::default(), 0, 0);
        for known in &self.model.known {
            let entry = queues.entry(known.id).expect("known");
            assert_eq!(entry.attempts(), known.attempts);
            if let Some(content) = entry.content()
                && batches.insert(known.batch)
            {
                resident += 1;
                bytes += content.body.len() as u64 + 512;
            }
        }
        assert_eq!(queues.resident_messages(), resident, "seed {}", self.seed);
        assert_eq!(queues.resident_bytes(), bytes, "seed {}", self.seed);
    }

    /// In the end everything can be ended, and nothing is left behind.
    fn drain(&mut self) {
        for known in core::mem::take(&mut self.model.known) {
            let finished = self
                .rig
                .queues
                .finish(self.now, known.id, Ending::Withdrawn);
            assert!(finished.is_some());
        }
        let queues = &mut self.rig.queues;
        assert!(queues.is_empty() && queues.messages.len() == 0);
        assert_eq!(queues.messages.len(), 0);
        assert_eq!(queues.deadlines.next(), None);
        assert_eq!(
            (queues.resident_messages(), queues.resident_bytes()),
            (0, 0)
        );
        assert_eq!(queues.totals(), Totals::default());
        self.now = later(self.now, QUEUE_KEEP + Duration::from_secs(3_000));
        self.rig.advance(self.now);
        assert_eq!(
            (self.rig.queues.queues_len(), self.rig.queues.next_wakeup()),
            (0, None)
        );
    }
}

#[test]
fn they_agree_with_a_naive_account_of_the_same_events() {
    let mut ended = 0;
    for seed in 0..30 {
        let mut run = Run::new(seed);
        for _ in 0..1_500 {
            run.step();
        }
        run.drain();
        ended += run.model.ended;
    }
    assert!(ended > 1_000, "the runs did something: {ended}");
}

#[test]
fn the_same_events_give_the_same_wakes() {
    let trace = |seed| {
        let mut run = Run::new(seed);
        for _ in 0..500 {
            run.step();
        }
        let known = run.model.known.iter();
        known
            .map(|known| (known.id, known.state, known.attempts))
            .collect::<Vec<_>>()
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
