//! Queues that are too hot for one shard: everything through one gateway, one giant receiver. Such
//! a pair is striped: every shard has a queue of that name, and each batch goes to one of them, the
//! same whoever asks. Order was never promised; limits and throttles hold over all stripes.
//!
//! The shard that owns the pair decides it, and all others know at once (`Cells::striped`). A pair
//! that has been striped once is counted under a limit of its own from then on, so that its
//! connections are never more than it may have, however stripes come and go.

use core::time::Duration;
use std::sync::Arc;

use crate::base::limit::{Bounds, Limit};
use crate::base::time::{Mono, Now};
use crate::config::{DeliverySettings, Striping};
use crate::engine::Turn;
use crate::engine::owner::places::customer;
use crate::engine::owner::{Link, Owner};
use crate::queue::QueueId;

/// A queue is hot that takes so many within [`HOT_WITHIN`], and more of them than all other queues
/// of its shard: a tenth of what one shard relays, so that it is spread before it is too much.
const HOT_ARRIVALS: u32 = 1_000;
const HOT_WITHIN: Duration = Duration::from_secs(1);

/// What the limit of all stripes is called, before the names of the pair.
const LIMIT: &str = "max_outbound_connections";

/// One stripe needs connections to work with.
const CONNECTIONS_PER_STRIPE_MIN: usize = 2;

/// How a queue stands with the other shards.
#[derive(Default)]
pub(super) struct Stripe {
    /// The hash of its names.
    pair: u64,
    /// What all stripes may have together, from when the pair is striped for the first time.
    pub limit: Option<Arc<Limit>>,
    arrived: u32,
    since: Mono,
    /// Of all queues, when counting began.
    arrived_before: u64,
}

impl Stripe {
    pub fn new(now: Now, pair: u64) -> Stripe {
        Stripe {
            pair,
            since: now.mono,
            ..Stripe::default()
        }
    }
}

impl Link {
    /// Its other stripes have the connections that it may not have.
    pub(super) fn waits_for_stripes(&self) -> bool {
        let name = self.stripe.limit.as_ref().map(|limit| limit.name());
        name.is_some_and(|name| self.waits_under().any(|it| it == name))
    }
}

/// What adaptive delivery learns of a pair belongs to one shard.
fn striping(delivery: &DeliverySettings) -> Striping {
    match delivery.adaptive {
        Some(_) => Striping::Never,
        None => delivery.queue_striping,
    }
}

impl Owner {
    /// Counts what comes, and spreads a queue that takes too much of it.
    pub(super) fn warm(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        self.arrived += 1;
        let all = self.arrived;
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let stripe = &mut link.stripe;
        stripe.arrived += 1;
        if stripe.arrived < HOT_ARRIVALS {
            return;
        }
        let took = turn.now.mono.since(stripe.since);
        let beside = all - stripe.arrived_before - u64::from(stripe.arrived);
        let is_hot = took <= HOT_WITHIN && beside <= u64::from(HOT_ARRIVALS);
        stripe.arrived = 0;
        stripe.since = turn.now.mono;
        stripe.arrived_before = all;
        let delivery = &link.settings.delivery;
        let connections = delivery.max_outbound_connections as usize;
        let is_limited = delivery.throttle_messages.is_some()
            || connections < CONNECTIONS_PER_STRIPE_MIN * turn.common.shards;
        if is_hot && !is_limited && striping(delivery) == Striping::Auto {
            self.stripe(turn, queue);
        }
    }

    /// What the option says without being asked for heat; after a reload, and for a new queue.
    pub(super) fn restripe(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get(&queue) else {
            return;
        };
        let striped = &turn.common.cells.striped;
        if striped.is_known(link.stripe.pair) {
            self.share_limit(turn, queue);
        }
        let Some(link) = self.links.get(&queue) else {
            return;
        };
        match striping(&link.settings.delivery) {
            Striping::Always => self.stripe(turn, queue),
            Striping::Never => turn.common.cells.striped.unmark(link.stripe.pair),
            Striping::Auto => {}
        }
    }

    /// Spreads what comes from now on.
    fn stripe(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get(&queue) else {
            return;
        };
        let pair = link.stripe.pair;
        if turn.common.shards == 1 || turn.common.cells.striped.is_marked(pair) {
            return;
        }
        // Before any other shard can have a stripe of it.
        self.share_limit(turn, queue);
        turn.common.cells.striped.mark(pair);
    }

    /// Puts a queue under the limit that it shares with its stripes, with the connections that it
    /// has already.
    fn share_limit(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        self.drop_claim(turn, queue);
        let who = customer(turn, queue);
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let name = format!("{LIMIT} of {} for {}", link.binding, link.domain);
        let bounds = Bounds {
            max: link.settings.delivery.max_outbound_connections,
            reserve: 0,
        };
        let (number, limits) = (turn.common.generation.number, &turn.common.cells.limits);
        let mut told = Vec::new();
        let limit = limits.get(&name, number, bounds, &mut told);
        if link.stripe.limit.is_none() {
            for key in &link.connections {
                if let Some(outgoing) = self.outgoing.get_mut(*key) {
                    limit.count(who, &mut told);
                    outgoing.places.join(limit.clone());
                }
            }
            link.stripe.limit = Some(limit);
        }
        self.tell(turn, told);
    }
}
