//! Limits on how many of something may exist at once, over all shards together, and who waits for
//! a place under one. A place that becomes free is handed to the first in line, on whatever shard
//! he is, before anybody else can take it; he who comes while others wait stands behind them.
//!
//! Who has none and waits makes the one who has most give a place up, or of equals the one who has
//! had his longest, so that nobody waits for those who never end. So does who has few, if another
//! has at least two more. Whoever is asked gives up when he can; if that takes him long, the next
//! is asked too. When there are more places than there may be, since a limit has become lower,
//! those who have most are asked for what is over. Nobody is asked for more than that, and than
//! others wait for.
//!
//! Invariants: nobody stands in line while there is a place that he may have; what is handed over
//! counts as used until it is taken or left.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::map::Map;

/// Limits of former configurations that are kept at least.
const KEPT_MIN: usize = 64;

/// Whoever has places or waits for one: a queue of a shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Customer {
    pub shard: u8,
    pub queue: u64,
}

/// How many there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    pub max: u32,
    /// So many more, for customers that have none at all.
    pub reserve: u32,
}

/// What others have to hear of after a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// A place has been handed to him, who takes or leaves it.
    Place(Customer),
    /// He is to give a place up when he can.
    GiveUp(Customer),
}

/// How a place that was in use comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Back {
    Unasked,
    /// [`Limit::gives_up`] had said so for it.
    GivenUp,
    /// The same, and [`Limit::takes_long`] after it.
    Late,
}

/// See the module's head.
#[derive(Debug)]
pub struct Limit {
    /// What it belongs to, for whoever asks why he waits.
    name: Box<str>,
    state: Mutex<State>,
    /// All who wait, under this limit and under all others.
    waiting_here: AtomicU64,
    waiting: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    bounds: Bounds,
    /// Of the configuration that says so.
    generation: u64,
    used: u32,
    /// In the order of their tickets.
    line: BTreeMap<u64, Waiter>,
    /// Those in line who have no place under this limit.
    needy: BTreeSet<u64>,
    /// Who has been handed a place and has not come for it.
    handed: BTreeMap<u64, Customer>,
    holders: Map<Customer, Holder>,
    /// Who is asked next is the last: the most places, then had for longest.
    by_share: BTreeSet<Share>,
    /// Places that somebody in line may ask for, and those that are asked for or on their way.
    wanted: u32,
    asked: u32,
    /// Places in use, and those of them that are given up and take long.
    held: u32,
    late: u32,
    moves: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    who: Customer,
    asks: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Holder {
    places: u32,
    /// Asked of him, being given up, and being given up for long.
    asked: u32,
    leaving: u32,
    late: u32,
    /// When his places last became more.
    since: u64,
}

impl Holder {
    /// What he has beside what he is asked for.
    fn share(self) -> u32 {
        self.places
            .saturating_sub(self.asked + self.leaving + self.late)
    }
}

/// By the places kept, then by how long they have been had.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Share {
    share: u32,
    until: u64,
    who: Customer,
}

impl Share {
    fn of(who: Customer, holder: Holder) -> Share {
        Share {
            share: holder.share(),
            until: u64::MAX - holder.since,
            who,
        }
    }
}

impl State {
    /// Changes what is known of a holder.
    fn holder(&mut self, who: Customer, change: impl FnOnce(&mut Holder)) {
        let holder = self.holders.entry(who).or_default();
        self.by_share.remove(&Share::of(who, *holder));
        change(holder);
        if holder.places == 0 {
            self.holders.swap_remove(&who);
        } else {
            self.by_share.insert(Share::of(who, *holder));
        }
    }

    /// Places that he has, and those of them that he is not giving up.
    fn places_of(&self, who: Customer) -> (u32, u32) {
        let holder = self.holders.get(&who);
        holder.map_or((0, 0), |it| (it.places, it.places - it.leaving - it.late))
    }

    fn has_room_for(&self, needy: bool) -> bool {
        let reserve = if needy { self.bounds.reserve } else { 0 };
        self.used < self.bounds.max.saturating_add(reserve)
    }

    fn next_in_line(&self) -> Option<u64> {
        match self.has_room_for(false) {
            true => self.line.first_key_value().map(|(ticket, _)| *ticket),
            false => self
                .needy
                .first()
                .copied()
                .filter(|_| self.has_room_for(true)),
        }
    }

    fn leave_line(&mut self, ticket: u64) -> Option<Waiter> {
        let waiter = self.line.remove(&ticket)?;
        self.needy.remove(&ticket);
        self.wanted -= u32::from(waiter.asks);
        Some(waiter)
    }

    fn stand(&mut self, who: Customer, ticket: u64) {
        self.leave_line(ticket);
        let (places, kept) = self.places_of(who);
        let most = self.by_share.last().map_or(0, |it| it.share);
        let asks = kept == 0 || most >= kept.saturating_add(2);
        self.line.insert(ticket, Waiter { who, asks });
        self.wanted += u32::from(asks);
        if places == 0 {
            self.needy.insert(ticket);
        }
    }

    /// Places in use beyond what there may be. Each of the reserve is the only one of somebody who
    /// had none, beside those who had all others: so many are never over.
    fn over(&self) -> u32 {
        let others = (self.holders.len() as u32).saturating_sub(1);
        let beyond = self.bounds.reserve.min(others);
        let most = self.bounds.max.saturating_add(beyond);
        self.held.saturating_sub(most)
    }

    /// Places that have to be given up. Who waits does not wait for those that take long.
    fn due(&self) -> u32 {
        match self.wanted {
            0 => self.over().saturating_sub(self.late),
            wanted => self.over().saturating_add(wanted),
        }
    }

    /// Hands places to those who wait, and asks for as many as are wanted.
    fn serve(&mut self, told: &mut Vec<Told>) {
        while let Some(ticket) = self.next_in_line() {
            let Some(waiter) = self.leave_line(ticket) else {
                break;
            };
            self.used += 1;
            self.handed.insert(ticket, waiter.who);
            told.push(Told::Place(waiter.who));
        }
        while self.asked < self.due()
            && let Some(Share { who, .. }) = self.by_share.last().filter(|it| it.share > 0).copied()
        {
            self.asked += 1;
            self.holder(who, |it| it.asked += 1);
            told.push(Told::GiveUp(who));
        }
    }
}

impl Limit {
    fn new(name: &str, generation: u64, bounds: Bounds, waiting: Arc<AtomicU64>) -> Limit {
        Limit {
            name: name.into(),
            state: Mutex::new(State {
                bounds,
                generation,
                used: 0,
                line: BTreeMap::new(),
                needy: BTreeSet::new(),
                handed: BTreeMap::new(),
                holders: Map::default(),
                by_share: BTreeSet::new(),
                wanted: 0,
                asked: 0,
                held: 0,
                late: 0,
                moves: 0,
            }),
            waiting_here: AtomicU64::new(0),
            waiting,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn bounds(&self) -> Bounds {
        self.state().bounds
    }

    /// Places taken or handed over.
    pub fn used(&self) -> u32 {
        self.state().used
    }

    /// What the configuration of this generation says, unless a later one has spoken already.
    pub fn set(&self, generation: u64, bounds: Bounds, told: &mut Vec<Told>) {
        self.change(told, |state, told| {
            if generation >= state.generation {
                (state.generation, state.bounds) = (generation, bounds);
                state.serve(told);
            }
        });
    }

    /// Whether [`Self::take`] would succeed at this moment.
    pub fn has_room(&self, who: Customer, ticket: u64) -> bool {
        let state = self.state();
        state.handed.contains_key(&ticket) || state.has_room_for(state.places_of(who).0 == 0)
    }

    /// A place, which the caller owes a [`Self::release`] for; otherwise he stands in line.
    pub fn take(&self, who: Customer, ticket: u64, told: &mut Vec<Told>) -> bool {
        self.change(told, |state, told| {
            if state.handed.remove(&ticket).is_some() {
                return true;
            }
            let (places, _) = state.places_of(who);
            if state.has_room_for(places == 0) {
                state.leave_line(ticket);
                state.used += 1;
                return true;
            }
            state.stand(who, ticket);
            state.serve(told);
            false
        })
    }

    /// Stands in line, even if a place is free: he is told of that as of any other.
    pub fn join(&self, who: Customer, ticket: u64, told: &mut Vec<Told>) {
        self.change(told, |state, told| {
            if !state.handed.contains_key(&ticket) {
                state.stand(who, ticket);
                state.serve(told);
            }
        });
    }

    /// Waits no longer: what has been handed over goes to the next.
    pub fn leave(&self, ticket: u64, told: &mut Vec<Told>) {
        self.change(told, |state, told| {
            state.leave_line(ticket);
            if state.handed.remove(&ticket).is_some() {
                state.used -= 1;
                state.serve(told);
            }
        });
    }

    /// A place that was taken is in use by this customer from now on.
    pub fn hold(&self, who: Customer, told: &mut Vec<Told>) {
        self.change(told, |state, told| {
            state.moves += 1;
            state.held += 1;
            let since = state.moves;
            state.holder(who, |it| {
                it.places += 1;
                it.since = since;
            });
            state.serve(told);
        });
    }

    /// Counts a place that is in use already, even if there are more than there may be then.
    pub fn count(&self, who: Customer, told: &mut Vec<Told>) {
        self.change(told, |state, _| state.used += 1);
        self.hold(who, told);
    }

    /// Gives back a place that was not in use.
    pub fn release(&self, told: &mut Vec<Told>) {
        self.change(told, |state, told| {
            assert!(state.used > 0, "released more than was taken");
            state.used -= 1;
            state.serve(told);
        });
    }

    /// Gives back a place that was in use.
    pub fn end(&self, who: Customer, how: Back, told: &mut Vec<Told>) {
        self.change(told, |state, told| {
            assert!(state.used > 0, "released more than was taken");
            state.used -= 1;
            state.held -= 1;
            let (given_up, late) = (
                u32::from(how == Back::GivenUp),
                u32::from(how == Back::Late),
            );
            let mut settled = given_up;
            state.late -= late;
            state.holder(who, |it| {
                it.places = it.places.saturating_sub(1);
                it.leaving -= given_up;
                it.late -= late;
                let surplus = (it.asked + it.leaving + it.late).saturating_sub(it.places);
                it.asked -= surplus;
                settled += surplus;
            });
            state.asked -= settled;
            state.serve(told);
        });
    }

    /// Whether this customer gives up a place now, which is still asked for.
    pub fn gives_up(&self, who: Customer) -> bool {
        let mut state = self.state();
        while state.holders.get(&who).is_some_and(|it| it.asked > 0) {
            if state.asked <= state.due() {
                state.holder(who, |it| {
                    it.asked -= 1;
                    it.leaving += 1;
                });
                return true;
            }
            state.asked -= 1;
            state.holder(who, |it| it.asked -= 1);
        }
        false
    }

    /// What this customer gives up is long in coming: those who wait ask somebody else too.
    pub fn takes_long(&self, who: Customer, told: &mut Vec<Told>) {
        self.change(told, |state, told| {
            state.holder(who, |it| {
                it.leaving -= 1;
                it.late += 1;
            });
            state.asked -= 1;
            state.late += 1;
            state.serve(told);
        });
    }

    /// Places that this customer is asked for and has not begun to give up.
    pub fn asked_of(&self, who: Customer) -> u32 {
        self.state().holders.get(&who).map_or(0, |it| it.asked)
    }

    /// A place in use goes from one customer to another of the same shard.
    pub fn pass(&self, from: Customer, to: Customer, told: &mut Vec<Told>) {
        self.change(told, |state, _| state.used += 1);
        self.end(from, Back::Unasked, told);
        self.hold(to, told);
    }

    /// Somebody waits.
    pub fn is_waited_for(&self) -> bool {
        self.waiting_here.load(Ordering::Relaxed) > 0
    }

    /// Who waits, with his ticket, and whether a place has been handed to him.
    pub fn waiting(&self) -> Vec<(u64, Customer, bool)> {
        let state = self.state();
        let in_line = state.line.iter().map(|(at, it)| (*at, it.who, false));
        let handed = state.handed.iter().map(|(at, who)| (*at, *who, true));
        in_line.chain(handed).collect()
    }

    /// Customers that are asked for places.
    pub fn asked(&self) -> Vec<Customer> {
        let state = self.state();
        let asked = state.holders.iter().filter(|(_, it)| it.asked > 0);
        asked.map(|(who, _)| *who).collect()
    }

    /// What is against the invariants, if anything is.
    pub fn fault(&self) -> Option<String> {
        let state = self.state();
        let name = &self.name;
        if let Some(ticket) = state.next_in_line() {
            return Some(format!("{name}: ticket {ticket} waits, and there is room"));
        }
        let beyond = state.bounds.max.saturating_add(state.bounds.reserve);
        let used = state.used;
        let unused = state.handed.len() as u32;
        if state.generation <= 1 && used > beyond {
            return Some(format!("{name}: {used} places are used of {beyond}"));
        }
        let places: u32 = state.holders.values().map(|it| it.places).sum();
        if places != state.held {
            return Some(format!(
                "{name}: {places} places are held, not {}",
                state.held
            ));
        }
        let (asked, due) = (state.asked, state.due());
        if asked < due && state.by_share.last().is_some_and(|it| it.share > 0) {
            return Some(format!(
                "{name}: {asked} places are asked for, {due} are due"
            ));
        }
        if places + unused > used {
            return Some(format!("{name}: {places} places are held of {used} used"));
        }
        None
    }

    /// Lets something happen, and counts who waits after it.
    fn change<T>(
        &self,
        told: &mut Vec<Told>,
        act: impl FnOnce(&mut State, &mut Vec<Told>) -> T,
    ) -> T {
        let mut state = self.state();
        let result = act(&mut state, told);
        let waiting = (state.line.len() + state.handed.len()) as u64;
        let before = self.waiting_here.load(Ordering::Relaxed);
        if waiting != before {
            self.waiting_here.store(waiting, Ordering::Relaxed);
            // Wraps around when it becomes less.
            self.waiting
                .fetch_add(waiting.wrapping_sub(before), Ordering::Relaxed);
        }
        result
    }

    /// Held for some hundreds of instructions. A panic in them would have left whole numbers.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All limits of a process, by what they belong to.
#[derive(Debug, Default)]
pub struct Limits {
    known: Mutex<Known>,
    waiting: Arc<AtomicU64>,
    tickets: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    by_name: Map<Box<str>, Arc<Limit>>,
    /// When so many are known, those that nobody has any more are forgotten.
    forget_at: usize,
}

impl Limits {
    /// The limit of a stanza, or of what a stanza counts one by one.
    pub fn get(
        &self,
        name: &str,
        generation: u64,
        bounds: Bounds,
        told: &mut Vec<Told>,
    ) -> Arc<Limit> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.by_name.get(name) {
            let found = found.clone();
            drop(known);
            found.set(generation, bounds, told);
            return found;
        }
        if known.by_name.len() >= known.forget_at.max(KEPT_MIN) {
            known.by_name.retain(|_, it| Arc::strong_count(it) > 1);
            known.forget_at = known.by_name.len() * 2;
        }
        let made = Arc::new(Limit::new(name, generation, bounds, self.waiting.clone()));
        known.by_name.insert(name.into(), made.clone());
        made
    }

    /// Those that are known, each once.
    pub fn all(&self) -> Vec<Arc<Limit>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.by_name.values().cloned().collect()
    }

    /// A place in the order of coming.
    pub fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Somebody waits under some limit.
    pub fn are_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    fn who(queue: u64) -> Customer {
        let shard = (queue % 2) as u8;
        Customer { shard, queue }
    }

    fn limit(max: u32, reserve: u32) -> Limit {
        let bounds = Bounds { max, reserve };
        Limit::new("a limit", 1, bounds, Arc::default())
    }

    /// Takes and uses a place, or stands in line.
    fn take(limit: &Limit, queue: u64, ticket: u64) -> (bool, Vec<Told>) {
        let mut told = Vec::new();
        let taken = limit.take(who(queue), ticket, &mut told);
        if taken {
            limit.hold(who(queue), &mut told);
        }
        (taken, told)
    }

    fn end(limit: &Limit, queue: u64, given_up: bool) -> Vec<Told> {
        let mut told = Vec::new();
        let how = if given_up {
            Back::GivenUp
        } else {
            Back::Unasked
        };
        limit.end(who(queue), how, &mut told);
        assert_eq!(limit.fault(), None);
        told
    }

    #[test]
    fn a_place_is_handed_to_who_came_first_and_to_nobody_else() {
        let limit = limit(1, 0);
        assert!(take(&limit, 1, 1).0);
        for queue in [2, 3] {
            assert!(!take(&limit, queue, queue).0);
        }
        assert_eq!(end(&limit, 1, false), [Told::Place(who(2))]);
        assert!(!limit.has_room(who(1), 4) && limit.has_room(who(2), 2));
        let (taken, _) = take(&limit, 1, 4);
        assert!(!taken, "who had it stands behind those who waited");
        assert!(take(&limit, 2, 2).0);
        assert_eq!(end(&limit, 2, false), [Told::Place(who(3))]);
        let mut told = Vec::new();
        limit.leave(3, &mut told);
        assert_eq!(told, [Told::Place(who(1))], "what he leaves goes on");
        limit.leave(4, &mut told);
        assert!(!limit.is_waited_for() && limit.used() == 0);
    }

    #[test]
    fn who_has_none_makes_who_has_most_give_one_up() {
        let limit = limit(4, 0);
        for queue in [1, 2, 2, 2] {
            assert!(take(&limit, queue, queue).0);
        }
        assert_eq!(take(&limit, 3, 10).1, [Told::GiveUp(who(2))]);
        assert_eq!(take(&limit, 4, 11).1, [Told::GiveUp(who(2))]);
        // All have one now; the first has had it longest.
        assert_eq!(take(&limit, 5, 12).1, [Told::GiveUp(who(1))]);
        assert!(take(&limit, 1, 13).1.is_empty(), "he asks for nothing");
        assert!(limit.gives_up(who(2)) && limit.gives_up(who(2)) && !limit.gives_up(who(2)));
        assert_eq!(end(&limit, 2, true), [Told::Place(who(3))]);
        assert_eq!(end(&limit, 2, true), [Told::Place(who(4))]);
        let mut told = Vec::new();
        limit.leave(12, &mut told);
        assert!(!limit.gives_up(who(1)), "nobody wants it any more");
    }

    #[test]
    fn the_reserve_is_for_those_who_have_none() {
        let limit = limit(2, 1);
        assert!(take(&limit, 1, 1).0 && take(&limit, 1, 2).0);
        assert!(!take(&limit, 1, 3).0);
        assert!(take(&limit, 2, 4).0, "the reserve");
        assert_eq!(take(&limit, 3, 5), (false, vec![Told::GiveUp(who(1))]));
        assert!(limit.gives_up(who(1)));
        assert_eq!(end(&limit, 1, true), [Told::Place(who(3))]);
        assert!(take(&limit, 3, 5).0);
        assert!(end(&limit, 2, false).is_empty(), "the first waits on");
        assert_eq!(end(&limit, 3, false), [Told::Place(who(1))]);
    }

    #[test]
    fn a_later_configuration_makes_room_or_takes_it() {
        let limit = limit(1, 0);
        assert!(take(&limit, 1, 1).0 && !take(&limit, 2, 2).0 && !take(&limit, 3, 3).0);
        let mut told = Vec::new();
        let bounds = |max| Bounds { max, reserve: 0 };
        limit.set(2, bounds(2), &mut told);
        assert_eq!(told, [Told::Place(who(2))]);
        limit.set(1, bounds(9), &mut told);
        assert_eq!(limit.bounds().max, 2, "an earlier one is not heard");
    }

    #[test]
    fn a_lower_limit_asks_for_what_is_over() {
        let limit = limit(6, 0);
        for queue in [1, 2, 2, 2, 2, 3] {
            assert!(take(&limit, queue, queue).0);
        }
        let mut told = Vec::new();
        let (max, reserve) = (2, 0);
        limit.set(2, Bounds { max, reserve }, &mut told);
        // Of two who have as many, the one who has had his longest.
        let asked = [2, 2, 2, 1].map(|queue| Told::GiveUp(who(queue)));
        assert_eq!(told, asked);
        assert!(limit.gives_up(who(2)) && limit.gives_up(who(2)));
        for _ in 0..2 {
            assert!(end(&limit, 2, true).is_empty());
        }
        let mut told = Vec::new();
        limit.set(3, Bounds { max: 4, reserve }, &mut told);
        assert!(!limit.gives_up(who(2)) && !limit.gives_up(who(1)), "enough");
        assert_eq!((told, limit.used()), (vec![], 4));
        // A reserve keeps one place of each but one.
        let mut told = Vec::new();
        let (max, reserve) = (1, 5);
        limit.set(4, Bounds { max, reserve }, &mut told);
        assert_eq!(told, [Told::GiveUp(who(2))], "three have one each");
    }

    #[test]
    fn who_takes_long_to_give_up_does_not_keep_others_waiting() {
        let limit = limit(2, 0);
        assert!(take(&limit, 1, 1).0 && take(&limit, 2, 2).0);
        assert_eq!(take(&limit, 3, 3).1, [Told::GiveUp(who(1))]);
        assert!(limit.gives_up(who(1)));
        let mut told = Vec::new();
        limit.takes_long(who(1), &mut told);
        assert_eq!(told, [Told::GiveUp(who(2))]);
        assert!(limit.gives_up(who(2)));
        assert_eq!(end(&limit, 2, true), [Told::Place(who(3))]);
        assert!(take(&limit, 3, 3).0);
        let mut told = Vec::new();
        limit.end(who(1), Back::Late, &mut told);
        assert_eq!((told, limit.fault()), (vec![], None));
        assert!(!limit.gives_up(who(3)), "nobody waits any more");
    }

    /// Customers who never end by themselves: everybody gets his turn, and no place is over.
    #[test]
    fn nobody_waits_for_ever() {
        for seed in 0..50 {
            let mut prng = Prng::new(seed);
            let (max, reserve) = (1 + prng.below(4) as u32, prng.below(3) as u32);
            let limit = limit(max, reserve);
            let customers = 1 + prng.below(12);
            let mut places = vec![0_u32; customers as usize];
            let mut waits: Vec<Option<u64>> = vec![None; customers as usize];
            let mut served = vec![0_u32; customers as usize];
            let mut ticket = 0;
            for _ in 0..4_000 {
                let queue = prng.below(customers) as usize;
                let me = who(queue as u64);
                let mut told = Vec::new();
                if places[queue] > 0 && limit.gives_up(me) {
                    limit.end(me, Back::GivenUp, &mut told);
                    places[queue] -= 1;
                }
                if waits[queue].is_none() {
                    ticket += 1;
                }
                let mine = waits[queue].unwrap_or(ticket);
                if limit.take(me, mine, &mut told) {
                    limit.hold(me, &mut told);
                    places[queue] += 1;
                    served[queue] += 1;
                    waits[queue] = None;
                } else {
                    waits[queue] = Some(mine);
                }
                assert_eq!(limit.fault(), None);
                assert!(places.iter().sum::<u32>() <= max + reserve, "seed {seed}");
            }
            let fewest = served.iter().min();
            assert!(fewest >= Some(&1), "seed {seed}: {served:?}, {max}");
            let (least, most) = (places.iter().min(), places.iter().max());
            let spread = most.zip(least).map_or(0, |(most, least)| most - least);
            assert!(spread <= 2, "seed {seed}: {places:?}");
        }
    }
}
