//! Connections that a queue lets go: those that others wait for, and those that are more than it
//! may have since a limit has become lower. One that works on messages ends after them.
//!
//! Who is asked gives up at once what he has no use for, and the rest when it has had its time,
//! whether a host has let it in or not. If nothing comes of that for as long, since a message is
//! still on its way, others are asked beside. A connection that has not been let in when it is
//! given up is no failure: nothing is held against its host, and no message has been tried.
//!
//! Invariants: a connection that is let go takes no message more; who is asked has a connection
//! whose timer looks after it, or is looked at when it has one.

use core::time::Duration;
use std::sync::Arc;

use crate::base::limit::{Back, Customer, Limit};
use crate::base::slab::Key;
use crate::base::time::Mono;
use crate::engine::Turn;
use crate::engine::io::Action;
use crate::engine::owner::places::{customer, position};
use crate::engine::owner::{Link, Outgoing, Owner, conn_id};
use crate::queue::QueueId;
use crate::types::id::ShardId;

/// How long a connection that has work is kept before it is given up to others who wait: the making
/// of a connection should cost little beside its use.
const KEPT_MIN: Duration = Duration::from_secs(2);

/// A host may take longer than that to greet on purpose, and its mail must get out too where places
/// are always scarce: of so many connections in a row that it does not let in one is kept longer.
const PATIENT_EVERY: u8 = 8;
const KEPT_PATIENT: Duration = Duration::from_secs(32);

impl Link {
    /// How long a connection is kept that others wait for.
    fn keeps(&self, outgoing: &Outgoing) -> Duration {
        let patient = !outgoing.let_in && self.unheard % PATIENT_EVERY == PATIENT_EVERY - 1;
        if patient { KEPT_PATIENT } else { KEPT_MIN }
    }
}

impl Owner {
    /// Ends connections that are more than the queue may have: those without work first.
    pub(super) fn end_surplus(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get(&queue) else {
            return;
        };
        let stay = link.connections.len() as u32 - link.leaving;
        let surplus = stay.saturating_sub(link.connections_max());
        if surplus == 0 {
            return;
        }
        let mut keys = self.that_could_go(link, |_| true);
        keys.truncate(surplus as usize);
        for key in keys {
            self.let_go(turn, key);
        }
    }

    /// Connections that stay, the ones that do least first.
    fn that_could_go(&self, link: &Link, may: impl Fn(&Outgoing) -> bool) -> Vec<Key> {
        let stays = |key: &Key| {
            let outgoing = self.outgoing.get(*key);
            let outgoing = outgoing.filter(|it| !it.leaving && !it.over && may(it))?;
            Some((outgoing.jobs.len(), outgoing.let_in, *key))
        };
        let mut found: Vec<(usize, bool, Key)> =
            link.connections.iter().filter_map(stays).collect();
        found.sort_by_key(|(jobs, let_in, _)| (*jobs, *let_in));
        found.into_iter().map(|(.., key)| key).collect()
    }

    /// A connection gets no more work, and ends when it has none.
    pub(super) fn let_go(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(outgoing) = self.outgoing.get_mut(key) else {
            return;
        };
        if core::mem::replace(&mut outgoing.leaving, true) {
            return;
        }
        outgoing.places.since = turn.now.mono;
        let (queue, open) = (outgoing.queue, outgoing.open);
        if let Some(link) = self.links.get_mut(&queue) {
            link.leaving += 1;
        }
        self.mark(queue);
        if open {
            self.with_session(turn, key, |session, now, events| session.quit(now, events));
        } else {
            turn.out.push(Action::Abort { conn: conn_id(key) });
        }
    }

    /// Ends connections that others wait for: those without work at once, one that has work when
    /// it has had its time and its messages are through.
    pub(super) fn give_up(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get(&queue) else {
            return;
        };
        let asked = link.asked;
        if turn.common.cells.limits.are_waited_for() && !self.has_use(queue) {
            self.end_idle(turn, queue);
        }
        if !asked {
            return;
        }
        let asked = self.asked_under(turn, queue);
        self.credit(turn, queue, &asked);
        let has_use = self.has_use(queue);
        let Some(link) = self.links.get(&queue) else {
            return;
        };
        let now = turn.now.mono;
        let may = |it: &Outgoing| {
            let idle = !has_use && it.is_idle();
            idle || it.places.since + link.keeps(it) <= now
        };
        for key in self.that_could_go(link, may) {
            if self.gives_up_for(turn, key, &asked) {
                self.give_way(turn, key);
            }
        }
        let who = customer(turn, queue);
        let still = asked.iter().any(|limit| limit.asked_of(who) > 0);
        if let Some(link) = self.links.get_mut(&queue) {
            link.asked = still;
        }
        if still {
            self.look_again_in_time(queue);
        }
    }

    /// The limits under which a queue is asked for places.
    fn asked_under(&self, turn: &Turn<'_>, queue: QueueId) -> Vec<Arc<Limit>> {
        let who = customer(turn, queue);
        let mut asked: Vec<Arc<Limit>> = Vec::new();
        let keys = self.links.get(&queue).map(|it| it.connections.iter());
        let outgoing = keys.into_iter().flatten();
        let outgoing = outgoing.filter_map(|key| self.outgoing.get(*key));
        for limit in outgoing.flat_map(|it| &it.places.limits) {
            if position(&asked, limit).is_none() && limit.asked_of(who) > 0 {
                asked.push(limit.clone());
            }
        }
        asked
    }

    /// Connections that go for another reason are what others wait for as well.
    fn credit(&mut self, turn: &mut Turn<'_>, queue: QueueId, asked: &[Arc<Limit>]) {
        let Some(link) = self.links.get(&queue).filter(|it| it.leaving > 0) else {
            return;
        };
        for key in link.connections.clone() {
            let is_free = |it: &&mut Box<Outgoing>| it.leaving && it.places.given_up.is_none();
            let is_free = self.outgoing.get_mut(key).filter(is_free).is_some();
            if is_free && self.gives_up_for(turn, key, asked) {
                self.look_at_giving(turn, key);
            }
        }
    }

    /// Whether this connection is given up for one of the limits.
    fn gives_up_for(&mut self, turn: &Turn<'_>, key: Key, asked: &[Arc<Limit>]) -> bool {
        let Some(outgoing) = self.outgoing.get_mut(key) else {
            return false;
        };
        let who = customer(turn, outgoing.queue);
        let places = &mut outgoing.places;
        let mut under = asked
            .iter()
            .filter(|it| position(&places.limits, it).is_some());
        let Some(limit) = under.find(|it| it.gives_up(who)) else {
            return false;
        };
        places.given_up = Some((limit.clone(), Back::GivenUp));
        true
    }

    fn give_way(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(outgoing) = self.outgoing.get(key) else {
            return;
        };
        let queue = outgoing.queue;
        if !outgoing.let_in
            && let Some(link) = self.links.get_mut(&outgoing.queue)
        {
            link.unheard = link.unheard.wrapping_add(1);
        }
        // It is for the others: the queue stands behind them.
        self.drop_claim(turn, queue);
        self.let_go(turn, key);
        self.set_timer(key, turn.now.mono + KEPT_MIN);
    }

    /// Connections that have not had their time are looked at when they have.
    fn look_again_in_time(&mut self, queue: QueueId) {
        let Some(link) = self.links.get(&queue) else {
            return;
        };
        for key in self.that_could_go(link, |_| true) {
            let due = |link: &Link| {
                let outgoing = self.outgoing.get(key)?;
                Some(outgoing.places.since + link.keeps(outgoing))
            };
            if let Some(due) = self.links.get(&queue).and_then(due) {
                self.set_timer(key, due);
            }
        }
    }

    /// The timer of a connection has fired, maybe because others wait for it.
    pub(super) fn look_at_giving(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(outgoing) = self.outgoing.get_mut(key) else {
            return;
        };
        let (queue, places) = (outgoing.queue, &mut outgoing.places);
        let Some((limit, how)) = &mut places.given_up else {
            if self.links.get(&queue).is_some_and(|it| it.asked) {
                self.mark(queue);
            }
            return;
        };
        let due = places.since + KEPT_MIN;
        if *how == Back::Late {
            return;
        }
        if turn.now.mono < due {
            // It was set for something else.
            return self.set_timer(key, due);
        }
        *how = Back::Late;
        let limit = limit.clone();
        if outgoing.jobs.is_empty() {
            turn.out.push(Action::Abort { conn: conn_id(key) });
        }
        let mut told = Vec::new();
        limit.takes_long(customer(turn, queue), &mut told);
        self.tell(turn, told);
    }

    /// Connections for which there is no work are of more use to those who wait.
    fn end_idle(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get(&queue) else {
            return;
        };
        let is_wanted = |key: &Key| {
            let outgoing = self.outgoing.get(*key);
            outgoing.is_some_and(|it| it.is_idle() && it.places.is_waited_for())
        };
        let keys: Vec<Key> = link
            .openings
            .in_order()
            .take_while(|key| self.outgoing.get(*key).is_some_and(|it| it.is_idle()))
            .filter(is_wanted)
            .collect();
        for key in keys {
            self.let_go(turn, key);
        }
    }

    /// After a reload a connection is counted under the limits that the configuration has now.
    pub(super) fn count_anew(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(outgoing) = self.outgoing.get(key) else {
            return;
        };
        let (queue, host) = (outgoing.queue, outgoing.host.clone());
        let mut now = self.host_limits(turn, queue, &host);
        let who = customer(turn, queue);
        let (Some(link), Some(outgoing)) = (self.links.get(&queue), self.outgoing.get_mut(key))
        else {
            return;
        };
        now.extend(link.stripe.limit.iter().cloned());
        now.extend(link.settings.limits.iter().cloned());
        let mut told = Vec::new();
        let places = &mut outgoing.places;
        for limit in &now {
            if position(&places.limits, limit).is_none() {
                limit.count(who, &mut told);
            }
        }
        for limit in core::mem::replace(&mut places.limits, now) {
            if position(&places.limits, &limit).is_none() {
                let given_up = places.given_up.take_if(|(it, _)| Arc::ptr_eq(it, &limit));
                let how = given_up.map_or(Back::Unasked, |(_, how)| how);
                limit.end(who, how, &mut told);
            }
        }
        self.tell(turn, told);
    }

    /// Whether a connection is kept that should have been given up by now, or is long in going and
    /// nobody else has been asked for it. Names the queue.
    pub fn keeps_too_long(
        &self,
        shard: ShardId,
        now: Mono,
        slack: Duration,
    ) -> Option<(Customer, String)> {
        let is_overdue = |link: &Link, it: &Outgoing| {
            let (shard, queue) = (shard.0, it.queue.to_bits());
            let who = Customer { shard, queue };
            let asked = |limit: &Arc<Limit>| limit.asked_of(who) > 0;
            let since = it.places.since + slack;
            match &it.places.given_up {
                _ if it.over => false,
                Some((_, how)) => *how != Back::Late && since + KEPT_MIN < now,
                None if it.leaving || !link.asked => false,
                None => since + link.keeps(it) < now && it.places.limits.iter().any(asked),
            }
        };
        let mut all = self.outgoing.iter();
        let (_, found) = all.find(|(_, it)| {
            let link = self.links.get(&it.queue);
            link.is_some_and(|link| is_overdue(link, it))
        })?;
        let link = self.links.get(&found.queue)?;
        let (binding, domain) = (&link.binding, &link.domain);
        let since = now.since(found.places.since).as_secs();
        let (shard, queue) = (shard.0, found.queue.to_bits());
        Some((
            Customer { shard, queue },
            format!("{domain} by {binding} keeps a connection for {since} s that others want"),
        ))
    }

    /// Connections of a queue that stay, beyond what it may have.
    pub fn has_surplus(&self) -> Option<String> {
        let has = |link: &&Link| {
            let stay = link.connections.len() as u32 - link.leaving;
            stay > link.connections_max()
        };
        let link = self.links.values().find(has)?;
        let (binding, domain) = (&link.binding, &link.domain);
        let (are, may) = (link.connections.len(), link.connections_max());
        Some(format!(
            "{domain} by {binding} has {are} connections, {may} are its limit"
        ))
    }
}
