//! What operators have ordered, as queues meet it.
//!
//! A standing order whose filter speaks of queues only stops a queue as a whole: that is found out
//! once for each queue and set of orders. Any other stands beside the front of each queue: messages
//! that meet it are put aside when their turn comes. A one-time order goes through all entries, a
//! slice in each turn; one that is on the wire then meets it when it comes back.
//!
//! Without orders, all of this is a comparison of two numbers per look at a queue.

use core::time::Duration;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::map::{Map, Set};
use crate::base::time::{Mono, Now};
use crate::deliver::route;
use crate::deliver::route::Target;
use crate::engine::Turn;
use crate::engine::io::{Action, ToControl, Worked};
use crate::engine::owner::{Link, OpenJob, Owner, Timer, Way};
use crate::queue::{EntryId, EntryView, HELD, QueueId, State};
use crate::types::filter::{Facts, Field, Verdict};
use crate::types::id::BatchId;
use crate::types::message::{Arrival, Content};
use crate::types::order::{Absent, Order, Orders, Verb};
use crate::types::outcome::{OPERATOR_DELAY, Outcome, OutcomeKind, Stage};
use crate::types::reply::{Enhanced, Reply};

/// Queues, or entries of one queue, that one slice looks at.
const SLICE: usize = 1_024;

/// Entries that one slice of a one-time order changes, after looking at more.
const CHANGES_PER_SLICE: usize = 256;

/// Bodies that a one-time order waits for before it goes on.
const ASKED_MAX: usize = 64;

/// What stops a queue as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stop {
    /// Nothing where a source address is missing.
    pub order: Option<u64>,
    /// When it ends by itself.
    pub until: Option<Mono>,
}

/// Where an order leads a queue.
#[derive(Clone)]
pub(super) struct Rerouted {
    order: u64,
    pub route: Rc<route::Settings>,
}

impl Rerouted {
    fn of(order: &Order, from: &route::Settings) -> Option<Rerouted> {
        let target = Target::parse(order.to.as_deref()?).ok()?;
        let route = route::Settings {
            target: Some(target),
            ..from.clone()
        };
        Some(Rerouted {
            order: order.id,
            route: Rc::new(route),
        })
    }
}

/// A one-time order on its way through the entries.
struct Work {
    order: u64,
    /// The next slot to look at; nothing once all have been.
    cursor: Option<u64>,
    /// Queues of which it has met entries.
    queues: Set<QueueId>,
    changed: u64,
    /// Messages of which a body must tell whether it is about them, on their way here.
    asked: Set<BatchId>,
    /// Entries whose body could not be read for that.
    unknown: u64,
    held: u64,
    told: Option<Worked>,
}

impl Work {
    fn may_walk(&self) -> bool {
        self.cursor.is_some() && self.asked.len() < ASKED_MAX
    }

    fn is_through(&self) -> bool {
        self.cursor.is_none() && self.asked.is_empty()
    }
}

#[derive(Default)]
pub(super) struct Book {
    orders: Arc<Orders>,
    /// Counts what may change whether a queue is stopped.
    version: u64,
    /// Orders in force, as indexes: those that stop queues, and those that meet messages.
    stops: Vec<usize>,
    meets: Vec<usize>,
    /// Those that lead queues elsewhere, the newest first.
    reroutes: Vec<usize>,
    /// The next end of a standing order.
    next_end: Option<Mono>,
    /// Links left to look at, from the last to the first: one that is removed is replaced by the
    /// last, which has been looked at then.
    links_left: usize,
    /// Where the search for held entries that may go on is.
    releasing: Option<u64>,
    works: Vec<Work>,
    /// On the wire when they were to end, or to get another binding.
    caught: Map<EntryId, u64>,
    /// Stopped queues whose entries may lack a deadline, and how far each has been gone through.
    rearming: VecDeque<(QueueId, Option<EntryId>)>,
}

impl Book {
    fn is_screening(&self) -> bool {
        !self.meets.is_empty() || !self.caught.is_empty()
    }

    fn is_walking(&self) -> bool {
        self.links_left > 0
            || self.releasing.is_some()
            || !self.rearming.is_empty()
            || self.works.iter().any(Work::may_walk)
    }

    /// When there is something to do.
    pub fn due(&self) -> Option<Mono> {
        match self.is_walking() {
            true => Some(Mono(0)),
            false => self.next_end,
        }
    }

    /// What stops the queue of a link, if anything does.
    fn stop_of(&self, now: Now, link: &Link) -> Option<Stop> {
        let facts = facts_of(link);
        let stops = self.stops.iter().map(|index| &self.orders.all[*index]);
        let stops = stops.filter(|order| order.filter.matches(&facts));
        // Of several the one that ends last: till then it stays stopped. Of equal ones the first.
        let last = stops
            .rev()
            .max_by_key(|order| order.until_us.unwrap_or(u64::MAX));
        if let Some(order) = last {
            return Some(Stop {
                order: Some(order.id),
                until: order.until().map(|until| now.mono_of(until)),
            });
        }
        let absent = self.orders.absent_of(&link.settings.binding.name);
        let (order, until) = (None, None);
        absent.map(|_| Stop { order, until })
    }

    /// Where an order leads the queue of a link.
    fn way_of(&self, link: &Link) -> Option<Rerouted> {
        let facts = facts_of(link);
        let mut ways = self.reroutes.iter().map(|index| &self.orders.all[*index]);
        let order = ways.find(|order| order.filter.matches(&facts))?;
        Rerouted::of(order, &link.settings.route)
    }

    fn set_in_force(&mut self, now: Now) {
        let all = self.orders.all.iter().enumerate();
        let standing = all.filter(|(_, it)| it.verb.is_standing() && it.is_in_force(now.wall));
        let all: Vec<(usize, &Order)> = standing.collect();
        let reroutes = all.iter().filter(|(_, it)| it.verb == Verb::Reroute).rev();
        self.reroutes = reroutes.map(|(index, _)| *index).collect();
        let ends = all.iter().filter_map(|(_, order)| order.until());
        self.next_end = ends.min().map(|at| now.mono_of(at));
        let standing: Vec<_> = all.into_iter().filter(|(_, it)| it.verb.stops()).collect();
        let of_queue = |(index, order): &(usize, &Order)| order.is_of_queue().then_some(*index);
        let of_message =
            |(index, order): &(usize, &Order)| (!order.is_of_queue()).then_some(*index);
        self.stops = standing.iter().filter_map(of_queue).collect();
        self.meets = standing.iter().filter_map(of_message).collect();
        self.version += 1;
    }
}

impl Owner {
    /// The orders that hold from now on.
    pub fn set_orders(&mut self, now: Now, orders: Arc<Orders>) {
        let book = &mut self.book;
        let was_complete = book.orders.complete;
        book.works.retain(|work| orders.find(work.order).is_some());
        let works = &book.works;
        book.caught
            .retain(|_, id| works.iter().any(|work| work.order == *id));
        for order in orders.all.iter().filter(|it| !it.verb.is_standing()) {
            if !book.works.iter().any(|work| work.order == order.id) {
                book.works.push(Work {
                    order: order.id,
                    cursor: Some(0),
                    queues: Set::default(),
                    changed: 0,
                    asked: Set::default(),
                    unknown: 0,
                    held: 0,
                    told: None,
                });
            }
        }
        if orders.complete && !was_complete {
            for work in &mut book.works {
                work.cursor = Some(0);
            }
        }
        let some = |orders: &Orders| !orders.all.is_empty() || !orders.absent.is_empty();
        let any = some(&orders) || some(&book.orders);
        book.orders = orders;
        if any {
            self.orders_change(now);
        }
    }

    /// Orders have come, gone or ended.
    fn orders_change(&mut self, now: Now) {
        if !self.book.meets.is_empty() {
            self.book.releasing = Some(0);
        }
        self.book.set_in_force(now);
        self.book.links_left = self.links.len();
    }

    /// What stops a queue as a whole or leads it elsewhere, found out again if that may have
    /// changed.
    pub(super) fn heed(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let mut moved = false;
        if link.orders_version != self.book.version {
            link.orders_version = self.book.version;
            link.stop = self.book.stop_of(turn.now, link);
            let rerouted = self.book.way_of(link);
            let order = |it: &Option<Rerouted>| it.as_ref().map(|it| it.order);
            moved = order(&rerouted) != order(&link.rerouted);
            link.rerouted = rerouted;
        }
        let curfew = link.settings.delivery.curfew.as_ref();
        let ends = curfew.and_then(|it| it.closed_until(turn.now.wall));
        if ends != link.curfew_ends.map(|(wall, _)| wall) {
            link.curfew_ends = ends.map(|wall| (wall, turn.now.mono_of(wall)));
            if let Some((_, at)) = link.curfew_ends {
                // One that has been forgotten by then finds nothing to look at.
                self.timers.insert(at, Timer::Curfew(queue));
            }
        }
        let stopped = link.is_stopped();
        if core::mem::replace(&mut link.was_stopped, stopped) != stopped {
            self.queues.set_stopped(queue, stopped);
            if stopped {
                self.book.rearming.push_back((queue, None));
            }
        }
        if moved {
            self.leave_hosts(turn, queue);
        }
    }

    /// The queue goes elsewhere: what is on the wire is finished, and nothing more goes that way.
    fn leave_hosts(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        link.plan = Way::Unknown;
        for key in link.connections.clone() {
            self.let_go(turn, key);
        }
        self.drop_claim(turn, queue);
        // A rest was for the hosts of before.
        self.queues.resume(queue);
    }

    /// What may change which bindings are asleep.
    pub fn orders_version(&self) -> u64 {
        self.book.version
    }

    /// Whether nothing of a binding is tried: an order stops all of it, or an address is missing.
    pub fn is_asleep(&self, binding: &str) -> bool {
        let orders = &self.book.orders;
        let facts = Facts {
            binding: Some(binding),
            ..Facts::default()
        };
        let stops_all = |index: &usize| {
            let filter = &orders.all[*index].filter;
            !filter.asks_for(Field::Domain) && filter.matches(&facts)
        };
        orders.absent_of(binding).is_some() || self.book.stops.iter().any(stops_all)
    }

    pub(super) fn absent_of(&self, queue: QueueId) -> Option<&Absent> {
        let link = self.links.get(&queue)?;
        self.book.orders.absent_of(&link.settings.binding.name)
    }

    /// A slice of each walk that is under way.
    pub(super) fn advance_orders(&mut self, turn: &mut Turn<'_>) {
        if self.book.next_end.is_some_and(|at| at <= turn.now.mono) {
            self.orders_change(turn.now);
        }
        for _ in 0..SLICE.min(self.book.links_left) {
            self.book.links_left -= 1;
            let link = self.links.get_index(self.book.links_left);
            if let Some((queue, link)) = link
                && link.orders_version != self.book.version
            {
                let queue = *queue;
                self.mark(queue);
            }
        }
        self.rearm_slice(turn.now);
        self.release_slice(turn.now);
        for index in 0..self.book.works.len() {
            self.work_slice(turn, index);
        }
    }

    /// Entries of a stopped queue that waited for a last attempt end instead.
    fn rearm_slice(&mut self, now: Now) {
        let Some((queue, after)) = self.book.rearming.pop_front() else {
            return;
        };
        let stopped = self.links.get(&queue).is_some_and(|it| it.was_stopped);
        if !stopped {
            return;
        }
        let entries = self.queues.entries(queue, State::Active, after, SLICE);
        let entries = match entries {
            Some(entries) => entries,
            // The one it had come to is gone.
            None => self
                .queues
                .entries(queue, State::Active, None, SLICE)
                .unwrap_or_default(),
        };
        for entry in &entries {
            self.queues.rearm(now, *entry);
        }
        if entries.len() == SLICE {
            self.book
                .rearming
                .push_back((queue, entries.last().copied()));
        }
    }

    /// Held entries that no order holds any more may go.
    fn release_slice(&mut self, now: Now) {
        let Some(cursor) = self.book.releasing else {
            return;
        };
        let page = self.queues.search(cursor, CHANGES_PER_SLICE, |entry| {
            entry.is_held() && self.holder(now, entry.id()).is_none()
        });
        for entry in &page.items {
            let queue = self.queues.entry(*entry).map(|it| it.queue());
            self.queues.retry(now, *entry);
            if let Some(queue) = queue {
                self.mark(queue);
            }
        }
        self.book.releasing = page.next;
    }

    /// The order that holds a message apart from its queue.
    pub(super) fn holder(&self, now: Now, entry: EntryId) -> Option<&Order> {
        let entry = self.queues.entry(entry)?;
        let mut meets = self.book.meets.iter();
        let order = |index: &usize| &self.book.orders.all[*index];
        let found = meets.find(|it| self.entry_matches(now, &entry, &order(it).filter))?;
        Some(order(found))
    }

    /// The order that an entry which is held waits for. What only its body tells was known when it
    /// was put aside.
    pub(super) fn held_by(&self, now: Now, entry: EntryId) -> Option<&Order> {
        let found = self.holder(now, entry);
        let view = self.queues.entry(entry)?;
        let may =
            |order: &&Order| self.entry_verdict(now, &view, &order.filter, None) == Verdict::Open;
        let mut meets = self.book.meets.iter().map(|it| &self.book.orders.all[*it]);
        found.or_else(|| meets.find(may))
    }

    /// Puts aside what an order holds at the front of a queue: no connection is made for that.
    pub(super) fn screen_front(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        if self.book.meets.is_empty() {
            return;
        }
        let front = self.queues.entries(queue, State::Active, None, SLICE);
        let front = front.unwrap_or_default();
        for (index, entry) in front.iter().enumerate() {
            if self.holder(turn.now, *entry).is_none() {
                return;
            }
            if self.queues.is_out_of_time(turn.now, *entry) {
                self.expired(turn, *entry);
            } else {
                self.queues.put_off(turn.now, *entry, HELD);
            }
            if index + 1 == SLICE {
                // More of them wait; other queues come first.
                let soon = turn.now.mono + Duration::from_millis(1);
                self.queues.rest(turn.now, queue, soon);
            }
        }
    }

    pub(super) fn order(&self, id: u64) -> Option<&Order> {
        self.book.orders.find(id)
    }

    /// The order that a queue waits for, if it waits for one.
    pub(super) fn order_against(&self, now: Now, queue: QueueId) -> Option<&Order> {
        let link = self.links.get(&queue)?;
        if let Some(stop) = link.stop {
            return self.book.orders.find(stop.order?);
        }
        if self.book.meets.is_empty() {
            return None;
        }
        let first = self.queues.entries(queue, State::Delayed, None, 1)?;
        let entry = self.queues.entry(*first.first()?)?;
        entry.is_held().then(|| self.held_by(now, entry.id()))?
    }

    /// Takes those recipients out of a job that an order is against; nothing if none is left. Of a
    /// job whose body is not here yet that may be too early to say.
    pub(super) fn screened(
        &mut self,
        turn: &mut Turn<'_>,
        queue: QueueId,
        mut job: OpenJob,
    ) -> Option<OpenJob> {
        if !self.book.is_screening() {
            return Some(job);
        }
        if let Some(content) = &job.content {
            // So that what it tells is known of all its recipients.
            self.queues.attach(content.clone());
        }
        let recipients = core::mem::take(&mut job.recipients);
        for (entry, address) in recipients {
            if let Some(order) = self.book.caught.swap_remove(&entry) {
                self.queues.give_back(turn.now, &[entry]);
                self.do_to_caught(turn, queue, entry, order);
            } else if self.holder(turn.now, entry).is_none() {
                job.recipients.push((entry, address));
            } else if self.queues.is_out_of_time(turn.now, entry) {
                self.expired(turn, entry);
            } else {
                self.queues.put_off(turn.now, entry, HELD);
            }
        }
        (!job.recipients.is_empty()).then_some(job)
    }

    /// Whether an operator has ended this entry while it was on the wire. It is given back, and its
    /// end told before the turn is over.
    pub(super) fn comes_back_condemned(&mut self, now: Now, entry: EntryId) -> bool {
        let order = self.book.caught.get(&entry).copied();
        let order = order.and_then(|id| self.book.orders.find(id));
        let condemned = order.is_some_and(|it| it.verb == Verb::Fail);
        if condemned {
            self.queues.give_back(now, &[entry]);
        }
        condemned
    }

    /// Those that were on the wire when an order met them, and have come back.
    pub(super) fn take_caught(&mut self, turn: &mut Turn<'_>) {
        if self.book.caught.is_empty() {
            return;
        }
        let on_the_wire = |owner: &Owner, entry: EntryId| {
            let state = owner.queues.entry(entry).map(|it| it.state());
            matches!(state, Some(State::InFlight | State::Ending))
        };
        let all = self.book.caught.iter();
        let back = all.filter(|(entry, _)| !on_the_wire(self, **entry));
        let back: Vec<(EntryId, u64)> = back.map(|(entry, order)| (*entry, *order)).collect();
        for (entry, order) in back {
            self.book.caught.swap_remove(&entry);
            if let Some(queue) = self.queues.entry(entry).map(|it| it.queue()) {
                self.do_to_caught(turn, queue, entry, order);
                self.mark(queue);
            }
        }
        for index in 0..self.book.works.len() {
            self.tell_work(turn, index);
        }
    }

    /// Does what an order says to an entry that is on the wire no more.
    fn do_to_caught(&mut self, turn: &mut Turn<'_>, queue: QueueId, entry: EntryId, id: u64) {
        let Some(order) = self.book.orders.find(id).cloned() else {
            return;
        };
        let changed = match order.verb {
            Verb::Rebind => self.rebind(turn, entry, &order),
            _ => {
                self.purge(turn, entry);
                true
            }
        };
        if changed {
            self.count_changed(id, queue);
        }
    }

    fn count_changed(&mut self, order: u64, queue: QueueId) {
        if let Some(work) = self.book.works.iter_mut().find(|it| it.order == order) {
            work.changed += 1;
            work.queues.insert(queue);
        }
    }

    /// One-time orders are about mail that was accepted before they were given, also where that
    /// comes to its queue only now.
    pub(super) fn arrived(&mut self, turn: &mut Turn<'_>, arrival: &Met, entry: EntryId) {
        for index in 0..self.book.works.len() {
            let Some(order) = self.order_of(index) else {
                continue;
            };
            if order.verb == Verb::Rebind && order.id <= arrival.rebound_by {
                continue;
            }
            if arrival.received_us <= order.given_us {
                self.consider(turn, index, &order, entry);
            }
        }
    }

    pub(super) fn has_works(&self) -> bool {
        !self.book.works.is_empty()
    }

    fn order_of(&self, work: usize) -> Option<Order> {
        let work = self.book.works.get(work)?;
        self.book.orders.find(work.order).cloned()
    }

    fn work_slice(&mut self, turn: &mut Turn<'_>, index: usize) {
        let work = self.book.works.get(index).filter(|work| work.may_walk());
        let Some(work) = work else {
            return;
        };
        let room = ASKED_MAX - work.asked.len();
        let Some(cursor) = work.cursor else {
            return;
        };
        let Some(order) = self.order_of(index) else {
            return;
        };
        let given = as_given(turn.now, &order);
        let most = match order.filter.asks_in_sender() {
            true => CHANGES_PER_SLICE.min(room),
            false => CHANGES_PER_SLICE,
        };
        let page = self.queues.search(cursor, most, |entry| {
            entry.received() <= order.given()
                && self.entry_verdict(given, entry, &order.filter, None) != Verdict::No
        });
        for entry in &page.items {
            self.consider(turn, index, &order, *entry);
        }
        self.book.works[index].cursor = page.next;
        self.tell_work(turn, index);
    }

    /// Does to an entry what an order says, if it is about it; sends for its body if only that can
    /// tell.
    fn consider(&mut self, turn: &mut Turn<'_>, index: usize, order: &Order, entry: EntryId) {
        let Some(view) = self.queues.entry(entry) else {
            return;
        };
        let given = as_given(turn.now, order);
        match self.entry_verdict(given, &view, &order.filter, None) {
            Verdict::Yes => self.apply(turn, index, order, entry),
            Verdict::No => {}
            Verdict::Open => {
                let (home, batch) = (view.home(), view.message().batch);
                if self.book.works[index].asked.insert(batch) {
                    self.fetches.push((home, batch));
                }
            }
        }
    }

    /// A body is here, or cannot be read: what orders have waited for.
    pub(super) fn consider_body(
        &mut self,
        turn: &mut Turn<'_>,
        batch: BatchId,
        content: Option<&Content>,
    ) {
        for index in 0..self.book.works.len() {
            if !self.book.works[index].asked.swap_remove(&batch) {
                continue;
            }
            let Some(order) = self.order_of(index) else {
                continue;
            };
            let given = as_given(turn.now, &order);
            let open = |view: &EntryView<'_>| {
                view.received() <= order.given()
                    && self.entry_verdict(given, view, &order.filter, content) != Verdict::No
            };
            let met = self.queues.of_batch(batch).filter(open);
            let met: Vec<EntryId> = met.map(|it| it.id()).collect();
            for entry in met {
                match content {
                    Some(_) => self.apply(turn, index, &order, entry),
                    None => self.book.works[index].unknown += 1,
                }
            }
            self.tell_work(turn, index);
        }
    }

    /// Does to an entry what an order says.
    fn apply(&mut self, turn: &mut Turn<'_>, work: usize, order: &Order, entry: EntryId) {
        let Some(view) = self.queues.entry(entry) else {
            return;
        };
        let (queue, state, held) = (view.queue(), view.state(), view.is_held());
        let changed = match (order.verb, state) {
            (_, State::Ending) => false,
            (Verb::Fail, State::InFlight) => {
                self.book.caught.insert(entry, order.id);
                false
            }
            (Verb::Rebind, State::InFlight) => {
                // One that is to end ends, whatever is ordered besides.
                self.book.caught.entry(entry).or_insert(order.id);
                false
            }
            (Verb::Rebind, _) => self.rebind(turn, entry, order),
            (Verb::Fail, _) => {
                self.purge(turn, entry);
                true
            }
            (Verb::Delay, State::Active | State::Delayed) if !held => {
                self.put_off(turn, entry, order)
            }
            (Verb::Flush, State::Delayed) if !held => self.queues.retry(turn.now, entry),
            (Verb::Flush, State::Active) => {
                let rests = self.queues.view(queue).and_then(|it| it.rests_until());
                rests.is_some()
            }
            _ => false,
        };
        if order.verb == Verb::Flush {
            self.wake_queue(turn.now, queue);
        }
        let work = &mut self.book.works[work];
        work.held += u64::from(held && matches!(order.verb, Verb::Delay | Verb::Flush));
        work.changed += u64::from(changed);
        if changed {
            work.queues.insert(queue);
            self.mark(queue);
        }
    }

    /// A queue that rests, and the hosts it leads to, may be tried at once.
    fn wake_queue(&mut self, now: Now, queue: QueueId) {
        let rests = self.queues.view(queue).and_then(|it| it.rests_until());
        if rests.is_none() {
            return;
        }
        self.queues.resume(queue);
        if let Some(link) = self.links.get(&queue)
            && let Way::Known(plan) = &link.plan
        {
            for host in &plan.hosts {
                self.hosts.wake(now.mono, host.address.ip());
            }
        }
        self.mark(queue);
    }

    fn purge(&mut self, turn: &mut Turn<'_>, entry: EntryId) {
        let reply = Reply::internal(554, Enhanced(5, 7, 0), "Message manually purged");
        self.end(turn, entry, OutcomeKind::Discarded, reply);
    }

    fn put_off(&mut self, turn: &mut Turn<'_>, entry: EntryId, order: &Order) -> bool {
        let Some(view) = self.queues.entry(entry) else {
            return false;
        };
        let due = order.until().unwrap_or(turn.now.wall);
        if view.due().is_some_and(|it| it >= turn.now.mono_of(due)) {
            // It is not tried before that anyway.
            return false;
        }
        let (message, home, queue) = (view.message(), view.home(), view.queue());
        let (recipient, content) = (view.address(), view.content().cloned());
        let attempts = view.attempts();
        let put_off = self.queues.put_off(turn.now, entry, turn.now.mono_of(due));
        if put_off {
            turn.common.stats.counters.messages_delayed += 1;
            let text = format!("delayed by order {} of an operator", order.id);
            let outcome = Outcome {
                message,
                kind: OutcomeKind::Delayed { due },
                attempts,
                at: turn.now.wall,
                reply: Reply::internal(450, OPERATOR_DELAY, &text),
                stage: Stage::Internal,
                remote: None,
                possible_duplicate: false,
            };
            self.settle((queue, home), outcome, recipient, content);
        }
        put_off
    }

    /// Tells control how far an order has come, when it is through and when it is over.
    fn tell_work(&mut self, turn: &mut Turn<'_>, index: usize) {
        let complete = self.book.orders.complete;
        let Some(work) = self.book.works.get_mut(index) else {
            return;
        };
        if !work.is_through() {
            return;
        }
        let of_it = self.book.caught.values().filter(|id| **id == work.order);
        let in_flight = of_it.count() as u64;
        let worked = Worked {
            order: work.order,
            changed: work.changed,
            queues: work.queues.len() as u64,
            in_flight,
            unknown: work.unknown,
            held: work.held,
            over: in_flight == 0 && complete,
        };
        if work.told.as_ref() == Some(&worked) {
            return;
        }
        work.told = Some(worked.clone());
        if worked.over {
            self.finished.push(worked.order);
        }
        let shard = turn.common.shard;
        let told = ToControl::Worked { shard, worked };
        turn.out.push(Action::Control(told));
    }
}

/// One-time orders mean the age that a message had when they were given, also where a start goes on
/// with them.
fn as_given(now: Now, order: &Order) -> Now {
    Now {
        wall: order.given(),
        ..now
    }
}

/// What all messages of a queue have in common.
fn facts_of(link: &Link) -> Facts<'_> {
    Facts {
        domain: Some(&link.domain),
        binding: Some(&link.binding),
        ..Facts::default()
    }
}

/// What one-time orders look at of an arrival.
pub(super) struct Met {
    received_us: u64,
    /// The order that has brought it here, or none.
    rebound_by: u64,
}

impl Met {
    pub fn of(arrival: &Arrival) -> Met {
        Met {
            received_us: arrival.received.0,
            rebound_by: arrival.moved.map_or(0, |it| it.order),
        }
    }
}
