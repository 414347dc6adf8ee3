//! Whose turn it is among the flows that wait in one queue.
//!
//! A queue whose active entries are all of one flow has a plain list of them, and nothing here
//! concerns it. When a second flow comes to wait, the list is split into lanes, one for each flow,
//! and when one is left alone, its list is the queue's again; both cost the same with one entry as
//! with a million.
//!
//! Classes go in their order. A class that waits while one before it is served earns its share of
//! what is served, and goes first as soon as it has earned one recipient; so none starves. Inside a
//! class the tenants go round, and inside a tenant its campaigns: deficit round robin with a
//! quantum of one recipient. Who has been served a batch of n is in debt, and has its next turn n
//! rounds later. Recipients count, not bytes: hosts and throttles count them, and on the wire a
//! message costs replies rather than bytes.
//!
//! To find the next lane costs a look at each class, and passes over who is in debt: at most two
//! rounds at once, and in the long run no more steps than recipients have been served.

use crate::base::map::Map;
use crate::queue::Entry;
use crate::queue::flows::FlowId;
use crate::queue::flows::FlowPlace;
use crate::queue::pool::Links;
use crate::queue::pool::List;
use crate::queue::pool::NONE;
use crate::queue::pool::Pool;

/// A class is owed a turn when it has earned one recipient, in percent of one.
const CREDIT_OF_ONE: i64 = 100;

/// So much of what a class has earned can be put off before it has its turn all the same.
const PUT_OFF_MAX: i64 = 3 * CREDIT_OF_ONE;

/// Splits kept for the next queue that needs one.
const SPARE_MAX: usize = 64;

/// How the active entries of a queue stand: in its own list, being all of one flow, or split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Order(u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    One(FlowId),
    Split(u32),
}

/// Above the numbers of flows.
const SPLIT_FIRST: u32 = 1 << 24;

impl Order {
    pub fn one(flow: FlowId) -> Order {
        Order(flow.number())
    }

    pub fn split(split: u32) -> Order {
        Order(SPLIT_FIRST + split)
    }

    pub fn is_one(self, flow: FlowId) -> bool {
        self.0 == flow.number()
    }

    pub fn standing(self) -> Standing {
        match self.0.checked_sub(SPLIT_FIRST) {
            Some(split) => Standing::Split(split),
            None => Standing::One(FlowId::numbered(self.0)),
        }
    }
}

/// The entries of one flow in one queue.
struct Lane {
    flow: FlowId,
    tenant: u32,
    entries: List,
    /// Among the lanes of its tenant.
    place: Links,
    /// The round of its tenant in which it may be served again.
    due: u64,
}

/// The lanes of one tenant in one class of one queue.
struct Tenant {
    rank: u8,
    number: u32,
    lanes: List,
    round: u64,
    /// Among the tenants of its class.
    place: Links,
    /// The round of its class in which it may be served again.
    due: u64,
}

/// What has its turns in a ring.
trait InRing {
    /// The round in which it may be served again.
    fn due(&self) -> u64;
    fn place(&mut self) -> &mut Links;
}

impl InRing for Lane {
    fn due(&self) -> u64 {
        self.due
    }

    fn place(&mut self) -> &mut Links {
        &mut self.place
    }
}

impl InRing for Tenant {
    fn due(&self) -> u64 {
        self.due
    }

    fn place(&mut self) -> &mut Links {
        &mut self.place
    }
}

/// A class in one queue.
#[derive(Clone, Copy)]
struct Turn {
    tenants: List,
    round: u64,
    credit: i64,
    /// What it had earned and was put off for, since it was served.
    put_off: i64,
    /// Its entries.
    waiting: u32,
    /// Recipients of other classes that were served while it waited.
    passed: u32,
}

impl Turn {
    const EMPTY: Turn = Turn {
        tenants: List::EMPTY,
        round: 0,
        credit: 0,
        put_off: 0,
        waiting: 0,
        passed: 0,
    };
}

#[derive(Default)]
struct Split {
    /// By rank.
    turns: Vec<Turn>,
    /// By the number of the flow.
    lanes: Map<u32, u32>,
    /// By rank and number of the tenant.
    tenants: Map<(u8, u32), u32>,
}

pub struct Lanes {
    lanes: Pool<Lane>,
    tenants: Pool<Tenant>,
    splits: Pool<Split>,
    spare: Vec<Split>,
    /// Percent by rank.
    shares: Vec<u32>,
    /// The most that a class of each rank has been passed over at a stretch.
    passed_max: Vec<u32>,
}

impl Lanes {
    pub fn new(shares: Vec<u32>) -> Lanes {
        Lanes {
            lanes: Pool::default(),
            tenants: Pool::default(),
            splits: Pool::default(),
            spare: Vec::new(),
            passed_max: vec![0; shares.len()],
            shares,
        }
    }

    /// Splits the list of a queue, all of whose entries are of one flow.
    pub fn split(&mut self, of: FlowPlace, entries: List) -> u32 {
        let mut split = self.spare.pop().unwrap_or_default();
        split.turns.resize(self.shares.len(), Turn::EMPTY);
        let split = self.splits.insert(split).index;
        let lane = self.lane(split, of);
        self.lanes[lane].entries = entries;
        self.splits[split].turns[usize::from(of.rank)].waiting = entries.len;
        split
    }

    /// The lane of a flow, made if there is none: behind those that are there, with its first turn
    /// in the next round. So who comes and goes does not overtake who stays.
    fn lane(&mut self, split: u32, of: FlowPlace) -> u32 {
        if let Some(lane) = self.splits[split].lanes.get(&of.flow.number()) {
            return *lane;
        }
        let it = &mut self.splits[split];
        let turn = &mut it.turns[usize::from(of.rank)];
        let key = (of.rank, of.tenant);
        let tenant = match it.tenants.get(&key) {
            Some(tenant) => *tenant,
            None => {
                let made = Tenant {
                    rank: of.rank,
                    number: of.tenant,
                    lanes: List::EMPTY,
                    round: 0,
                    place: Links::LOOSE,
                    due: turn.round + 1,
                };
                let tenant = self.tenants.insert(made).index;
                let tenants = &mut turn.tenants;
                tenants.push_back(&mut self.tenants, tenant, |it| &mut it.place);
                it.tenants.insert(key, tenant);
                tenant
            }
        };
        let lane = Lane {
            flow: of.flow,
            tenant,
            entries: List::EMPTY,
            place: Links::LOOSE,
            due: self.tenants[tenant].round + 1,
        };
        let lane = self.lanes.insert(lane).index;
        let lanes = &mut self.tenants[tenant].lanes;
        lanes.push_back(&mut self.lanes, lane, |it| &mut it.place);
        it.lanes.insert(of.flow.number(), lane);
        lane
    }

    /// Puts an entry at the end of the lane of its flow, or at its front.
    pub fn enter(
        &mut self,
        split: u32,
        of: FlowPlace,
        (pool, entry): (&mut Pool<Entry>, u32),
        front: bool,
    ) {
        let lane = self.lane(split, of);
        let entries = &mut self.lanes[lane].entries;
        match front {
            true => entries.push_front(pool, entry, |entry| &mut entry.place),
            false => entries.push_back(pool, entry, |entry| &mut entry.place),
        }
        self.splits[split].turns[usize::from(of.rank)].waiting += 1;
    }

    /// Takes an entry out of its lane. A lane goes with its last entry.
    pub fn leave(&mut self, split: u32, flow: FlowId, (pool, entry): (&mut Pool<Entry>, u32)) {
        let it = &mut self.splits[split];
        let lane = it.lanes[&flow.number()];
        let entries = &mut self.lanes[lane].entries;
        entries.remove(pool, entry, |entry| &mut entry.place);
        let is_empty = entries.len == 0;
        let tenant = self.lanes[lane].tenant;
        let turn = &mut it.turns[usize::from(self.tenants[tenant].rank)];
        turn.waiting -= 1;
        if !is_empty {
            return;
        }
        it.lanes.swap_remove(&flow.number());
        let lanes = &mut self.tenants[tenant].lanes;
        lanes.remove(&mut self.lanes, lane, |it| &mut it.place);
        self.lanes.remove(lane);
        if self.tenants[tenant].lanes.len > 0 {
            return;
        }
        let Tenant { rank, number, .. } = self.tenants[tenant];
        let tenants = &mut turn.tenants;
        tenants.remove(&mut self.tenants, tenant, |it| &mut it.place);
        self.tenants.remove(tenant);
        it.tenants.swap_remove(&(rank, number));
        if turn.tenants.len == 0 {
            *turn = Turn::EMPTY;
        }
    }

    /// The first entry of the lane whose turn it is; the same until that is served, or another
    /// class comes to be first.
    pub fn next(&mut self, split: u32) -> u32 {
        let Some(rank) = self.rank(split) else {
            return NONE;
        };
        let turn = &mut self.splits[split].turns[usize::from(rank)];
        let tenant = whose_turn(&mut turn.tenants, &mut turn.round, &mut self.tenants);
        let (mut lanes, mut round) = (self.tenants[tenant].lanes, self.tenants[tenant].round);
        let lane = whose_turn(&mut lanes, &mut round, &mut self.lanes);
        let tenant = &mut self.tenants[tenant];
        (tenant.lanes, tenant.round) = (lanes, round);
        self.lanes[lane].entries.head
    }

    /// The rank of the class whose turn it is.
    pub fn rank(&self, split: u32) -> Option<u8> {
        let turns = &self.splits[split].turns;
        let waits = |rank: &usize| turns[*rank].tenants.len > 0;
        let mut waiting = (0..turns.len()).filter(waits);
        let first = waiting.next()?;
        let owed = waiting.filter(|rank| turns[*rank].credit >= CREDIT_OF_ONE);
        // Of equal ones the last is the greatest for `max_by_key`.
        let owed = owed.rev().max_by_key(|rank| turns[*rank].credit);
        Some(owed.unwrap_or(first) as u8)
    }

    /// The lane that [`Self::next`] has named is served so many recipients.
    pub fn serve(&mut self, split: u32, count: u32) {
        let Some(rank) = self.rank(split) else {
            return;
        };
        let turns = &mut self.splits[split].turns;
        let (served, recipients) = (usize::from(rank), i64::from(count));
        let mut is_first = true;
        for (rank, turn) in turns.iter_mut().enumerate() {
            if turn.tenants.len == 0 {
                continue;
            }
            turn.passed = match rank == served {
                true => 0,
                false => turn.passed.saturating_add(count),
            };
            self.passed_max[rank] = self.passed_max[rank].max(turn.passed);
            if core::mem::replace(&mut is_first, false) {
                // Whoever goes first anyhow neither earns nor owes.
                turn.credit = 0;
                continue;
            }
            turn.credit += recipients * i64::from(self.shares[rank]);
            if rank == served {
                turn.credit -= recipients * CREDIT_OF_ONE;
            }
        }
        let turn = &mut turns[served];
        turn.put_off = 0;
        let tenant = turn.tenants.head;
        self.tenants[tenant].due = turn.round + u64::from(count);
        turn.tenants.rotate(&mut self.tenants, |it| &mut it.place);
        let tenant = &mut self.tenants[tenant];
        self.lanes[tenant.lanes.head].due = tenant.round + u64::from(count);
        tenant.lanes.rotate(&mut self.lanes, |it| &mut it.place);
    }

    /// A recipient of this flow was served and has come back without having been tried.
    pub fn refund(&mut self, split: u32, flow: FlowId) {
        let Some(lane) = self.splits[split].lanes.get(&flow.number()) else {
            return;
        };
        let lane = &mut self.lanes[*lane];
        let tenant = &mut self.tenants[lane.tenant];
        lane.due = lane.due.saturating_sub(1).max(tenant.round);
        let turn = &self.splits[split].turns[usize::from(tenant.rank)];
        tenant.due = tenant.due.saturating_sub(1).max(turn.round);
    }

    /// Lets the first class go first, though others are owed a turn: they cannot use it now. Who
    /// has been put off too often is not.
    pub fn put_off(&mut self, split: u32) {
        for turn in &mut self.splits[split].turns {
            let owed = turn.credit - (CREDIT_OF_ONE - 1);
            if owed > 0 && turn.put_off + owed <= PUT_OFF_MAX {
                turn.put_off += owed;
                turn.credit -= owed;
            }
        }
    }

    /// What the queue is left with if it needs no lanes any more: at most one flow. The split is
    /// gone then.
    pub fn join(&mut self, split: u32) -> Option<(FlowId, List)> {
        if self.splits[split].lanes.len() > 1 {
            return None;
        }
        let left = self.splits[split].lanes.values().next().copied();
        let left = left.map(|lane| (self.lanes[lane].flow, self.lanes[lane].entries));
        self.clear(split);
        let it = self.splits.remove(split);
        if self.spare.len() < SPARE_MAX {
            self.spare.push(it);
        }
        Some(left.unwrap_or((FlowId::DEFAULT, List::EMPTY)))
    }

    fn clear(&mut self, split: u32) {
        let it = &mut self.splits[split];
        it.turns.clear();
        it.lanes.drain(..).for_each(|(_, lane)| {
            self.lanes.remove(lane);
        });
        it.tenants.drain(..).for_each(|(_, tenant)| {
            self.tenants.remove(tenant);
        });
    }

    pub fn have_other_shares(&self, shares: &[u32]) -> bool {
        self.shares != shares
    }

    /// Other classes count from now on. Every lane takes its place anew.
    pub fn set_shares(&mut self, shares: Vec<u32>, place: impl Fn(FlowId) -> FlowPlace) {
        self.passed_max = vec![0; shares.len()];
        self.shares = shares;
        for split in 0..self.splits.slots() {
            let Some(it) = self.splits.get(split) else {
                continue;
            };
            let lanes = it.lanes.values().map(|lane| &self.lanes[*lane]);
            let lanes: Vec<_> = lanes.map(|it| (it.flow, it.entries)).collect();
            self.clear(split);
            let turns = &mut self.splits[split].turns;
            turns.resize(self.shares.len(), Turn::EMPTY);
            for (flow, entries) in lanes {
                let of = place(flow);
                let lane = self.lane(split, of);
                self.lanes[lane].entries = entries;
                self.splits[split].turns[usize::from(of.rank)].waiting += entries.len;
            }
        }
    }

    /// The entries of one flow.
    pub fn entries(&self, split: u32, flow: FlowId) -> List {
        let lane = self.splits[split].lanes.get(&flow.number());
        lane.map_or(List::EMPTY, |lane| self.lanes[*lane].entries)
    }

    /// The percent that a class is sure of.
    pub fn share(&self, rank: u8) -> u32 {
        self.shares.get(usize::from(rank)).copied().unwrap_or(0)
    }

    /// The most recipients of other classes that were served at a stretch while a class waited, by
    /// rank, since these classes count.
    pub fn passed_max(&self) -> &[u32] {
        &self.passed_max
    }

    /// How many entries of a class wait.
    pub fn waiting(&self, split: u32, rank: u8) -> u32 {
        let turn = self.splits[split].turns.get(usize::from(rank));
        turn.map_or(0, |turn| turn.waiting)
    }

    /// All lanes: classes in their order, tenants and campaigns as their turns are.
    pub fn in_order(&self, split: u32) -> impl Iterator<Item = (FlowId, List)> {
        let tenants = self.splits[split].turns.iter().flat_map(|turn| {
            let next = |at: &u32| in_use(self.tenants[*at].place.next);
            core::iter::successors(in_use(turn.tenants.head), next)
        });
        let lanes = tenants.flat_map(|tenant| {
            let next = |at: &u32| in_use(self.lanes[*at].place.next);
            core::iter::successors(in_use(self.tenants[tenant].lanes.head), next)
        });
        lanes.map(|lane| (self.lanes[lane].flow, self.lanes[lane].entries))
    }

    /// The first entry of the lane that comes after that of a flow in [`Self::in_order`].
    pub fn after(&self, split: u32, flow: FlowId) -> u32 {
        let Some(lane) = self.splits[split].lanes.get(&flow.number()) else {
            return NONE;
        };
        let lane = &self.lanes[*lane];
        let head = |lane: u32| self.lanes[lane].entries.head;
        if lane.place.next != NONE {
            return head(lane.place.next);
        }
        let tenant = &self.tenants[lane.tenant];
        let mut next = tenant.place.next;
        if next == NONE {
            let later = &self.splits[split].turns[usize::from(tenant.rank) + 1..];
            let later = later.iter().find(|turn| turn.tenants.len > 0);
            next = later.map_or(NONE, |turn| turn.tenants.head);
        }
        match next {
            NONE => NONE,
            tenant => head(self.tenants[tenant].lanes.head),
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.lanes.len() + self.tenants.len() + self.splits.len() == 0
    }
}

fn in_use(index: u32) -> Option<u32> {
    (index != NONE).then_some(index)
}

/// The head of a ring after those have been passed over that are in debt. If all are, the round
/// comes in which the first is not.
fn whose_turn<T: InRing>(ring: &mut List, round: &mut u64, pool: &mut Pool<T>) -> u32 {
    if ring.len == 1 {
        *round = (*round).max(pool[ring.head].due());
        return ring.head;
    }
    let mut soonest = u64::MAX;
    for _ in 0..ring.len {
        let at = pool[ring.head].due();
        if at <= *round {
            return ring.head;
        }
        soonest = soonest.min(at);
        ring.rotate(pool, T::place);
    }
    *round = soonest;
    while pool[ring.head].due() > soonest {
        ring.rotate(pool, T::place);
    }
    ring.head
}
