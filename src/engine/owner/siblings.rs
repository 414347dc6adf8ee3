//! Connections that pass from one queue to another of the same binding: one that has no work is of
//! more use to a queue whose mail goes to the same host than a new one.
//!
//! Only queues with equal settings, not striped and without limits that were learnt are siblings,
//! so that all that holds for a connection holds for it in its new queue. Nothing passes while
//! others wait in line for a place that the connection has. Invariants: a connection is listed at
//! most once; whether it is still idle is only asked when it is taken.

use core::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::map::Map;
use crate::base::slab::Key;
use crate::deliver::route::Plan;
use crate::engine::Turn;
use crate::engine::owner::openings::Opening;
use crate::engine::owner::{Outgoing, Owner};
use crate::queue::QueueId;

/// Connections that had no work when they were last looked at, by binding and host.
#[derive(Default)]
pub(super) struct Idle(Map<(Arc<str>, SocketAddr), Vec<Key>>);

impl Owner {
    /// A connection may have come to have no work.
    pub(super) fn list_if_idle(&mut self, key: Key) {
        let outgoing = self.outgoing.get_mut(key);
        let Some(outgoing) = outgoing.filter(|it| !it.listed && it.is_idle()) else {
            return;
        };
        if let Some(link) = self.links.get(&outgoing.queue) {
            outgoing.listed = true;
            let at = (link.binding.clone(), outgoing.host.address);
            self.idle.0.entry(at).or_default().push(key);
        }
    }

    /// A connection is no more.
    pub(super) fn unlist(&mut self, key: Key, outgoing: &Outgoing) {
        let Some(link) = self.links.get(&outgoing.queue).filter(|_| outgoing.listed) else {
            return;
        };
        let at = (link.binding.clone(), outgoing.host.address);
        if let Some(keys) = self.idle.0.get_mut(&at) {
            keys.retain(|listed| *listed != key);
            if keys.is_empty() {
                self.idle.0.swap_remove(&at);
            }
        }
    }

    /// Takes over a connection to one of the best hosts of a plan, if a sibling has one to spare.
    pub(super) fn take_over(&mut self, turn: &mut Turn<'_>, queue: QueueId, plan: &Plan) -> bool {
        let global = turn.common.generation.config.global();
        let Some(link) = self
            .links
            .get(&queue)
            .filter(|_| global.migrates_connections)
        else {
            return false;
        };
        let binding = link.binding.clone();
        let best = plan.hosts.first().map(|it| it.preference);
        let hosts = plan.hosts.iter();
        for host in hosts.take_while(|it| Some(it.preference) == best) {
            let at = (binding.clone(), host.address);
            while let Some(key) = self.idle.0.get_mut(&at).and_then(Vec::pop) {
                if let Some(outgoing) = self.outgoing.get_mut(key) {
                    outgoing.listed = false;
                }
                if self.may_pass(key, queue) {
                    self.pass(turn, key, queue);
                    return true;
                }
            }
        }
        false
    }

    fn may_pass(&self, key: Key, to: QueueId) -> bool {
        let Some(outgoing) = self.outgoing.get(key) else {
            return false;
        };
        let from = outgoing.queue;
        let (Some(owner), Some(taker)) = (self.links.get(&from), self.links.get(&to)) else {
            return false;
        };
        let alike = Rc::ptr_eq(&owner.settings, &taker.settings)
            || owner.settings.delivery == taker.settings.delivery;
        let learnt = owner.adaptive.is_some() || taker.adaptive.is_some();
        let striped = owner.stripe.limit.is_some() || taker.stripe.limit.is_some();
        let spare = outgoing.is_idle() && !self.has_use(from);
        from != to && alike && !learnt && !striped && spare && !outgoing.places.is_waited_for()
    }

    fn pass(&mut self, turn: &mut Turn<'_>, key: Key, to: QueueId) {
        self.set_opening(key, Opening::Nothing);
        let Some(outgoing) = self.outgoing.get_mut(key) else {
            return;
        };
        let from = core::mem::replace(&mut outgoing.queue, to);
        let let_in = u32::from(outgoing.let_in);
        let throttled = outgoing.throttled.messages.is_some();
        if let Some(link) = self.links.get_mut(&from) {
            link.let_in -= let_in;
            link.drop_connection(key);
        }
        if let Some(link) = self.links.get_mut(&to) {
            link.let_in += let_in;
            link.connections.push(key);
            link.meets_host_throttles |= throttled;
            link.trying_since = None;
            link.rests = 0;
        }
        self.pass_places(turn, key, (from, to));
        turn.common.stats.counters.connections_passed += 1;
        self.rate(key);
        self.mark(from);
        self.mark(to);
    }
}
