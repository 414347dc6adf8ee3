//! Throttles: never more than so many starts in any window of so much time, over all shards
//! together. A burst may take all of a window at once; then start i+N is no earlier than the
//! window's length after start i.
//!
//! Two rings of moments, one value for each of the last N starts. `started` is what has happened,
//! and alone decides whether one more may. `booked` says when those who ask will have their turn:
//! who cannot start now is given a moment of its own, N behind the one that it follows, and sleeps
//! until then. So nobody wakes in vain with others, and whoever asks once per start is served in
//! the order of asking, on whatever shard. A turn that is given back goes to the next who asks, or
//! to one who waits and looks whether he can move up.
//!
//! A ring has at most [`SLOTS_MAX`] places: with a larger N neighbouring starts share one, which
//! counts from the latest of them. The promise stays exact, and less than 1/[`SLOTS_MAX`] unused.
//!
//! What has started counts after a restart too: see [`keep`].

pub mod keep;

use core::fmt;
use core::sync::atomic::AtomicBool;
use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::map::Map;
use crate::base::time::{Mono, Now};
use crate::base::units;

use keep::{Grants, Keep, Kept};

/// Places of a ring.
pub const SLOTS_MAX: u32 = 4_096;

/// Turns that were given back and wait for the next who asks; further ones are not used.
const RETURNED_MAX: usize = 65_536;

/// Throttles of former configurations that are kept at least.
const KEPT_MIN: usize = 64;

/// So many in any window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// More than nothing.
    pub window: Duration,
}

impl Rate {
    /// `"N"` is N in a second, `"N/W"` is N in W seconds, or in W with a unit.
    pub fn parse(text: &str) -> Option<Option<Rate>> {
        let (count, window) = match text.split_once('/') {
            Some((count, window)) => (count, units::parse_duration(window.trim())?),
            None => (text, Duration::from_secs(1)),
        };
        let count = count.trim().parse().ok()?;
        if window.is_zero() {
            return None;
        }
        Some((count > 0).then_some(Rate { count, window }))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rate { count, window } = self;
        match (window.as_secs(), window.subsec_millis()) {
            (1, 0) => write!(f, "{count}"),
            (seconds, 0) => write!(f, "{count}/{seconds}"),
            _ => write!(f, "{count}/{}ms", window.as_millis()),
        }
    }
}

/// When one start is due. To be used at that moment or soon after, or given back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Booking {
    pub at: Mono,
    number: u64,
}

/// See the module's head.
#[derive(Debug)]
pub struct Throttle {
    /// What it belongs to, for whoever asks why he waits.
    name: Box<str>,
    /// Whoever keeps it has something to do; see [`Throttle::asks`].
    asks: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rate: Rate,
    /// Of the configuration that has set the rate.
    generation: u64,
    started: Ring,
    booked: Ring,
    returned: BTreeSet<Booking>,
    keep: Keep,
    /// What earlier processes have started.
    resumed: u64,
    /// Nothing if no disk has to know before one starts.
    grants: Option<Grants>,
}

/// Moments in the order of their numbers, which never go back.
#[derive(Debug)]
struct Ring {
    slots: Vec<Mono>,
    slots_max: usize,
    per_slot: u64,
    next: u64,
}

/// A place of a ring whose numbers are not known to have started: they limit nothing.
const NEVER: Mono = Mono::MAX;

impl Ring {
    fn new(rate: Rate) -> Ring {
        let per_slot = u64::from(rate.count.div_ceil(SLOTS_MAX));
        Ring {
            slots: Vec::new(),
            slots_max: (u64::from(rate.count) / per_slot) as usize,
            per_slot,
            next: 0,
        }
    }

    /// The ring of another rate that goes on with `next`, and remembers of this one what both have
    /// places for.
    fn resized(&self, rate: Rate, next: u64) -> Ring {
        let mut ring = Ring::new(rate);
        ring.slots = vec![NEVER; ring.slots_max];
        ring.next = next;
        let known = self.places().min(ring.places());
        let remembered = known.min(self.next).min(next);
        // The latest first: it is what a place that numbers share counts from.
        for back in 1..=remembered {
            let moment = self.slots[self.slot_of(self.next - back)];
            let slot = ring.slot_of(next - back);
            if ring.slots[slot] == NEVER {
                ring.slots[slot] = moment;
            }
        }
        ring
    }

    fn slot_of(&self, number: u64) -> usize {
        ((number / self.per_slot) % self.slots_max as u64) as usize
    }

    /// The earliest moment that the next number may have.
    fn earliest(&self, window: Duration) -> Mono {
        let begins_slot = self.next.is_multiple_of(self.per_slot);
        match self.slots.get(self.slot_of(self.next)) {
            Some(last) if begins_slot && *last != NEVER => *last + window,
            _ => Mono(0),
        }
    }

    fn latest(&self) -> Mono {
        match self.next.checked_sub(1) {
            Some(number) => match self.slots[self.slot_of(number)] {
                NEVER => Mono(0),
                latest => latest,
            },
            None => Mono(0),
        }
    }

    /// Gives the next number its moment, or the latest one if that is later.
    fn push(&mut self, at: Mono) -> u64 {
        let at = at.max(self.latest());
        let (number, slot) = (self.next, self.slot_of(self.next));
        match self.slots.get_mut(slot) {
            Some(place) => *place = at,
            None => self.slots.push(at),
        }
        self.next += 1;
        number
    }

    /// The same moment for so many numbers.
    fn push_many(&mut self, at: Mono, count: u64) {
        // Of more than all places the last ones count.
        let mut left = count.min(self.places());
        while left > 0 {
            let number = self.push(at);
            let more = (self.per_slot - 1 - number % self.per_slot).min(left - 1);
            self.next += more;
            left -= 1 + more;
        }
    }

    fn places(&self) -> u64 {
        self.slots_max as u64 * self.per_slot
    }

    /// The moments of the last numbers with how many have each, the first ones first.
    fn moments(&self) -> impl Iterator<Item = (Mono, u64)> + '_ {
        let (whole, rest) = (self.next / self.per_slot, self.next % self.per_slot);
        let places = self.slots_max as u64 - u64::from(rest > 0);
        let whole = (whole - whole.min(places)..whole).map(|it| (it, self.per_slot));
        let rest = (rest > 0).then_some((self.next / self.per_slot, rest));
        let of = |(place, count)| (self.slots[(place % self.slots_max as u64) as usize], count);
        let all = whole.chain(rest).map(of);
        all.filter(|(moment, _)| *moment != NEVER)
    }

    /// A number has come later than it was to, which moves those that are N behind it.
    fn moved(&mut self, number: u64, at: Mono) {
        if self.next - number <= self.places() {
            let slot = self.slot_of(number);
            self.slots[slot] = match self.slots[slot] {
                NEVER => at,
                known => known.max(at),
            };
        }
    }
}

impl State {
    fn set_rate(&mut self, rate: Rate) {
        assert!(rate.count > 0, "a rate of nothing is no limit, not this");
        if self.rate == rate {
            return;
        }
        let (started, booked) = (self.started.next, self.booked.next);
        self.booked = self.started.resized(rate, booked);
        self.started = self.started.resized(rate, started);
        self.rate = rate;
        self.returned.clear();
        self.grants = Grants::of(self.keep, rate, started);
    }
}

impl Throttle {
    pub fn new(name: &str, rate: Rate) -> Throttle {
        assert!(rate.count > 0, "a rate of nothing is no limit, not this");
        Throttle::with(name, rate, Keep::Never)
    }

    fn with(name: &str, rate: Rate, keep: Keep) -> Throttle {
        Throttle {
            name: name.into(),
            asks: AtomicBool::new(false),
            state: Mutex::new(State {
                rate,
                generation: 0,
                started: Ring::new(rate),
                booked: Ring::new(rate),
                returned: BTreeSet::new(),
                keep,
                resumed: 0,
                grants: Grants::of(keep, rate, 0),
            }),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn rate(&self) -> Rate {
        self.state().rate
    }

    /// Another rate from now on, to which what has started counts as far as it is known: as much
    /// of it as the former rate looked back on. Turns that were booked are of no more use: who
    /// waits books anew, and the order of those who do is theirs.
    pub fn set_rate(&self, rate: Rate) {
        self.state().set_rate(rate);
    }

    /// The turn of one start. If it is now, [`Self::start`] is to be called at once.
    pub fn book(&self, now: Mono) -> Booking {
        let mut state = self.state();
        if let Some(booking) = state.returned.pop_first() {
            let at = booking.at.max(now);
            return Booking { at, ..booking };
        }
        let at = now.max(state.booked.earliest(state.rate.window));
        let number = state.booked.push(at);
        // Never before those who asked first.
        let at = state.booked.latest();
        Booking { at, number }
    }

    /// Who waits takes a turn that was given back before his own, if there is one, and gives his.
    pub fn move_up(&self, booking: Booking) -> Booking {
        let mut state = self.state();
        let Some(first) = state.returned.pop_first() else {
            return booking;
        };
        let (sooner, later) = (first.min(booking), first.max(booking));
        state.returned.insert(later);
        sooner
    }

    /// When somebody who asked now would have his turn.
    pub fn opens_at(&self) -> Mono {
        let state = self.state();
        let started = state.started.earliest(state.rate.window);
        let returned = state.returned.first().map(|it| it.at);
        let booked = state
            .booked
            .earliest(state.rate.window)
            .max(state.booked.latest());
        started.max(returned.map_or(booked, |it| it.min(booked)))
    }

    /// Starts one, whose turn has come. If those before it were late, it is too: the turn then is
    /// at another moment. If that is not later than now, the disk has to know first: see
    /// [`Self::is_granted`].
    pub fn start(&self, now: Mono, booking: Booking) -> Result<(), Booking> {
        let mut state = self.state();
        let at = booking.at.max(state.started.earliest(state.rate.window));
        if now < at || !self.may_be_next(&mut state) {
            return Err(Booking { at, ..booking });
        }
        state.started.push(now);
        state.booked.moved(booking.number, now);
        self.spent(&mut state);
        Ok(())
    }

    /// Starts one if that may be at this moment, ahead of nobody who waits.
    pub fn try_start(&self, now: Mono) -> bool {
        let booking = self.book(now);
        let started = booking.at <= now && self.start(now, booking).is_ok();
        if !started {
            self.give_back(booking);
        }
        started
    }

    /// How many have started in the window that ends now.
    pub fn used(&self, now: Mono) -> u64 {
        self.state().recent(now)
    }

    /// How many have started in this process.
    pub fn started(&self) -> u64 {
        let state = self.state();
        state.started.next - state.resumed
    }

    /// When a turn really comes: later than booked if those before it were late.
    pub fn due(&self, booking: Booking) -> Booking {
        let state = self.state();
        let at = state.started.earliest(state.rate.window);
        Booking {
            at: booking.at.max(at),
            ..booking
        }
    }

    /// The same, and whether the disk knows of one more if the turn is now: see
    /// [`Self::is_granted`].
    pub fn turn(&self, now: Mono, booking: Booking) -> (Booking, bool) {
        let mut state = self.state();
        let at = booking.at.max(state.started.earliest(state.rate.window));
        let granted = at > now || self.may_be_next(&mut state);
        (Booking { at, ..booking }, granted)
    }

    /// Who booked has no use for its turn.
    pub fn give_back(&self, booking: Booking) {
        let mut state = self.state();
        if state.returned.len() < RETURNED_MAX {
            state.returned.insert(booking);
        }
    }

    /// Nothing that has started limits what comes.
    fn is_clear(&self, now: Mono) -> bool {
        let state = self.state();
        let last = state.started.latest().max(state.booked.latest());
        state.started.next == 0 || last + state.rate.window <= now
    }

    /// Held for some tens of instructions. A panic in them would have left whole numbers behind.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All throttles of a process, by what they belong to.
#[derive(Debug, Default)]
pub struct Throttles {
    /// By the stanza that sets them and the option that it sets.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_name: Map<Box<str>, Arc<Throttle>>,
    /// When so many are known, those that nobody has and that limit nothing are forgotten.
    forget_at: usize,
    /// What the last run has left of those that nobody has asked for yet.
    left: Kept,
}

/// What somebody needs a throttle for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The stanza that sets it and the option that it sets.
    pub name: &'a str,
    pub rate: Rate,
    /// The number of the configuration that says so: an older one changes nothing any more.
    pub generation: u64,
    pub keep: Keep,
}

impl Throttles {
    /// Those that are known, each once.
    pub fn all(&self) -> Vec<Arc<Throttle>> {
        self.known().by_name.values().cloned().collect()
    }

    /// What the last run has left. Before anybody has a throttle.
    pub fn restore(&self, left: Kept) {
        self.known().left = left;
    }

    /// The throttle of a stanza: the same one whatever its rate becomes, with what has started.
    pub fn get(&self, now: Now, wanted: Wanted<'_>) -> Arc<Throttle> {
        let Wanted { name, rate, .. } = wanted;
        let mut known = self.known();
        if let Some(found) = known.by_name.get(name) {
            found.follow(rate, wanted.generation);
            return found.clone();
        }
        if known.by_name.len() >= known.forget_at.max(KEPT_MIN) {
            let is_used = |it: &Arc<Throttle>| Arc::strong_count(it) > 1 || !it.is_clear(now.mono);
            known.by_name.retain(|_, it| is_used(it));
            known.forget_at = known.by_name.len() * 2;
        }
        let made = Arc::new(Throttle::with(name, rate, wanted.keep));
        made.state().generation = wanted.generation;
        if wanted.keep != Keep::Never {
            made.resume(now, &mut known.left);
        }
        known.by_name.insert(name.into(), made.clone());
        made
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    const MS: u64 = 1_000;

    fn rate(text: &str) -> Rate {
        Rate::parse(text).unwrap().unwrap()
    }

    #[test]
    fn rates_are_read_and_shown() {
        let read = |text| Rate::parse(text).map(|it| it.map(|it| it.to_string()));
        for (text, shown) in [("10", "10"), ("60/3", "60/3"), ("8/3600", "8/3600")] {
            assert_eq!(read(text), Some(Some(shown.to_string())));
        }
        assert_eq!(read("5/1m"), Some(Some("5/60".into())));
        assert_eq!(read("0"), Some(None));
        assert_eq!(read("0/60"), Some(None));
        for text in ["", "x", "-1", "1/0", "1/", "/1", "1/x", "99999999999"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn another_rate_counts_what_has_started() {
        let throttle = Throttle::new("t", rate("5/10"));
        let start = |now: u64| {
            let now = Mono(now * MS);
            let booking = throttle.due(throttle.book(now));
            throttle.start(now, booking).map_err(|it| {
                throttle.give_back(it);
                it.at.0 / MS
            })
        };
        for second in 0..5 {
            assert_eq!(start(1_000 + second), Ok(()));
        }
        assert_eq!(start(2_000), Err(11_000));
        throttle.set_rate(rate("2/10"));
        assert_eq!(start(11_002), Err(11_003), "two of the five count");
        assert_eq!(start(11_003), Ok(()));
        throttle.set_rate(rate("8/10"));
        for _ in 0..6 {
            assert_eq!(start(11_003), Ok(()));
        }
        assert_eq!(start(11_003), Err(11_004), "one of before, one and six");
        throttle.set_rate(rate("1/1"));
        assert_eq!(start(11_500), Err(12_003));
        assert_eq!(start(12_003), Ok(()));
    }

    #[test]
    fn rates_that_change_at_random_are_kept_in_between() {
        for seed in 0..30 {
            let mut prng = Prng::new(seed);
            let throttle = Throttle::new("t", rate("3/1"));
            let mut now = Mono(prng.below(1_000_000));
            let mut starts = Vec::new();
            for round in 0..20 {
                let most = if round % 10 == 0 { 9_000 } else { 50 };
                let count = 1 + prng.below(most) as u32;
                let window = Duration::from_millis(1 + prng.below(2_000));
                let rate = Rate { count, window };
                throttle.set_rate(rate);
                starts.clear();
                for _ in 0..prng.below(3 * u64::from(count)) {
                    let booking = throttle.due(throttle.book(now));
                    now = now.max(booking.at) + Duration::from_micros(prng.below(300));
                    if throttle.start(now, throttle.due(booking)).is_ok() {
                        starts.push(now);
                    }
                }
                if starts.len() > count as usize {
                    assert_kept(rate, &starts);
                }
            }
        }
    }

    /// Windows that carry more than they may.
    fn assert_kept(rate: Rate, starts: &[Mono]) {
        for pair in starts.windows(rate.count as usize + 1) {
            let (first, last) = (pair[0], pair[rate.count as usize]);
            assert!(last >= first + rate.window, "{rate}: {first:?} to {last:?}");
        }
    }

    #[test]
    fn a_window_may_be_taken_at_once_and_then_waits() {
        let throttle = Throttle::new("t", rate("1000/3600"));
        let now = Mono(5);
        for _ in 0..1_000 {
            let turn = throttle.book(now);
            assert_eq!(turn.at, now);
            throttle.start(now, turn).unwrap();
        }
        assert_eq!(throttle.book(now).at, now + Duration::from_secs(3_600));
    }

    /// Customers of one throttle, each with so many starts to make, who come late now and then.
    struct Crowd {
        throttle: Throttle,
        waiting: Vec<(Option<Booking>, u32)>,
        starts: Vec<Mono>,
        prng: Prng,
    }

    impl Crowd {
        fn new(rate: Rate, each: &[u32], seed: u64) -> Crowd {
            Crowd {
                throttle: Throttle::new("t", rate),
                waiting: each.iter().map(|count| (None, *count)).collect(),
                starts: Vec::new(),
                prng: Prng::new(seed),
            }
        }

        fn run(&mut self, late_us: u64) {
            let mut now = Mono(0);
            while self.waiting.iter().any(|(_, left)| *left > 0) {
                for customer in &mut self.waiting {
                    while customer.1 > 0 {
                        let turn = customer.0.unwrap_or_else(|| self.throttle.book(now));
                        customer.0 = Some(turn);
                        if turn.at > now {
                            break;
                        }
                        match self.throttle.start(now, turn) {
                            Ok(()) => {
                                self.starts.push(now);
                                *customer = (None, customer.1 - 1);
                            }
                            Err(later) => customer.0 = Some(later),
                        }
                    }
                }
                let next = self.waiting.iter().filter(|it| it.1 > 0);
                let next = next.filter_map(|it| it.0).map(|turn| turn.at).min();
                let late = self.prng.below(late_us + 1);
                now = next.unwrap_or(now).max(now) + Duration::from_micros(late);
            }
        }
    }

    #[test]
    fn no_window_is_ever_over_and_little_is_left_unused() {
        let mut prng = Prng::new(7);
        for seed in 0..300 {
            let count = 1 + prng.below(if seed % 3 == 0 { 9_000 } else { 40 }) as u32;
            let rate = Rate {
                count,
                window: Duration::from_millis(50 + prng.below(3_000)),
            };
            let customers = 1 + prng.below(20);
            let each: Vec<u32> = (0..customers)
                .map(|_| 1 + prng.below(u64::from(count) * 6 / customers + 2) as u32)
                .collect();
            let mut crowd = Crowd::new(rate, &each, seed);
            crowd.run(MS / 2);
            assert_kept(rate, &crowd.starts);
            let all = crowd.starts.len() as u64;
            let windows = all.div_ceil(u64::from(count)) - 1;
            let least = rate.window * windows as u32;
            let took = crowd.starts.last().unwrap().since(Mono(0));
            let allowed = least.mul_f64(1.05) + Duration::from_millis(2);
            assert!(
                took <= allowed,
                "{rate}: {took:?} for {all}, at best {least:?}"
            );
        }
    }

    #[test]
    fn who_waits_is_served_in_the_order_of_asking() {
        let throttle = Throttle::new("t", rate("2"));
        let now = Mono(0);
        let turns: Vec<Booking> = (0..7).map(|_| throttle.book(now)).collect();
        let at: Vec<u64> = turns.iter().map(|turn| turn.at.0 / 1_000_000).collect();
        assert_eq!(at, [0, 0, 1, 1, 2, 2, 3]);
        // One that comes later stands behind, and takes the place of one that leaves.
        assert_eq!(throttle.book(Mono(500)).at.0 / 1_000_000, 3);
        throttle.give_back(turns[3]);
        assert_eq!(throttle.book(Mono(600)).at, turns[3].at);
    }

    #[test]
    fn who_waits_moves_up_into_what_is_given_back() {
        let throttle = Throttle::new("t", rate("1/10"));
        let turns: Vec<Booking> = (0..30).map(|_| throttle.book(Mono(0))).collect();
        let last = throttle.book(Mono(0));
        assert_eq!(last.at, Mono(300_000 * MS));
        turns[1..].iter().for_each(|turn| throttle.give_back(*turn));
        throttle.start(Mono(0), turns[0]).unwrap();
        let moved = throttle.move_up(last);
        assert_eq!(moved, turns[1]);
        assert_eq!(throttle.move_up(moved), moved, "there is none before it");
        assert_eq!(throttle.due(moved).at, Mono(10_000 * MS));
        assert_eq!(
            throttle.book(Mono(0)),
            turns[2],
            "its own is there for others"
        );
    }

    #[test]
    fn who_starts_late_moves_those_behind() {
        let throttle = Throttle::new("t", rate("1"));
        let first = throttle.book(Mono(0));
        let second = throttle.book(Mono(0));
        throttle.start(Mono(300 * MS), first).unwrap();
        let moved = throttle.start(Mono(1_000 * MS), second).unwrap_err();
        assert_eq!(moved.at, Mono(1_300 * MS));
        throttle.start(Mono(1_300 * MS), moved).unwrap();
        assert_eq!(throttle.book(Mono(1_400 * MS)).at, Mono(2_300 * MS));
    }

    fn wanted(name: &str, text: &str, generation: u64) -> Wanted<'static> {
        Wanted {
            name: name.to_string().leak(),
            rate: rate(text),
            generation,
            keep: Keep::Never,
        }
    }

    #[test]
    fn a_throttle_lives_as_long_as_its_stanza_and_follows_the_newest_configuration() {
        let all = Throttles::default();
        let now = Now::default();
        let one = all.get(now, wanted("binding a", "1/60", 1));
        one.start(Mono(0), one.book(Mono(0))).unwrap();
        let same = all.get(now, wanted("binding a", "2/60", 2));
        assert!(Arc::ptr_eq(&one, &same));
        assert!(same.try_start(Mono(1)) && !same.try_start(Mono(2)));
        // A shard that has yet to hear of the second configuration.
        let late = all.get(now, wanted("binding a", "1/60", 1));
        assert_eq!(late.rate().to_string(), "2/60");
        let other = all.get(now, wanted("binding b", "1/60", 1));
        assert!(!Arc::ptr_eq(&one, &other));
    }
}
