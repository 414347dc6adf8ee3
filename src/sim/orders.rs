//! Orders of operators in a run: given at random, kept by a control that a crash does not touch,
//! told to each shard when it comes to that, and what the shards must not do under them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::prng::Prng;
use crate::engine::io::ToShard;
use crate::engine::io::Worked;
use crate::sim::counts::Check;
use crate::sim::counts::Fault;
use crate::sim::ledger::Who;
use crate::sim::peers::Peer;
use crate::sim::planted::Planted;
use crate::sim::scenario::SECOND;
use crate::sim::world::Event;
use crate::sim::world::World;
use crate::types::filter::Facts;
use crate::types::filter::Field;
use crate::types::order::Order;
use crate::types::order::Orders;
use crate::types::order::Verb;
use crate::types::sender::SenderFact;

/// A message may be so long on its way from its acceptance to its queue.
const TO_QUEUE_US: u64 = 5 * SECOND;

/// Mail does not go elsewhere here: every host belongs to its domains.
const VERBS: [Verb; 6] = [
    Verb::Suspend,
    Verb::Hold,
    Verb::Delay,
    Verb::Fail,
    Verb::Flush,
    Verb::Rebind,
];

/// What operators have ordered, and who knows.
pub struct Operator {
    prng: Prng,
    /// As control keeps them on disk.
    all: Vec<Order>,
    last_id: u64,
    /// Of the present process.
    handed_out: BTreeSet<usize>,
    worked: BTreeMap<u64, BTreeMap<usize, bool>>,
    settled: BTreeMap<u64, BTreeSet<(usize, usize)>>,
    /// What each shard has been told last, and when.
    known: Vec<(Arc<Orders>, u64)>,
    told_us: u64,
    /// Orders to fail that are over in the present process, and since when.
    failed: Vec<(Order, u64)>,
    /// The last order to rebind, and since when it is over, if it is. Crashes change nothing of it.
    rebound: Option<(Order, Option<u64>)>,
}

impl Operator {
    pub fn new(seed: u64) -> Operator {
        Operator {
            prng: Prng::stream(seed, "operator"),
            all: Vec::new(),
            last_id: 0,
            handed_out: BTreeSet::new(),
            worked: BTreeMap::new(),
            settled: BTreeMap::new(),
            known: Vec::new(),
            told_us: 0,
            failed: Vec::new(),
            rebound: None,
        }
    }

    fn snapshot(&self, complete: bool) -> Arc<Orders> {
        Arc::new(Orders {
            all: self.all.clone(),
            absent: Vec::new(),
            complete,
        })
    }
}

impl World {
    /// A process begins with the orders that are on disk.
    pub fn orders_at_start(&mut self, shards: usize) -> Arc<Orders> {
        let orders = self.operator.snapshot(false);
        let it = &mut self.operator;
        it.handed_out.clear();
        it.worked.clear();
        it.settled.clear();
        it.failed.clear();
        it.known = vec![(orders.clone(), self.now_us); shards];
        match self.planted {
            Some(Planted::DeafToOrders) => Arc::default(),
            _ => orders,
        }
    }

    /// An operator gives an order, or takes one back.
    pub fn order_comes(&mut self) {
        if self.process.as_ref().is_none_or(|it| it.draining) {
            return;
        }
        self.ledger.counts.fault(Fault::Order);
        let standing = self.operator.all.iter().any(|it| it.verb.is_standing());
        if standing && self.operator.prng.chance(1, 4) {
            self.operator.all.retain(|it| !it.verb.is_standing());
        } else {
            let order = self.draw_order();
            self.note(14, order.id, || order.sentence());
            if order.verb == Verb::Flush {
                self.ledger.flushed_until_us = u64::MAX;
            }
            if order.verb == Verb::Rebind {
                self.operator.rebound = Some((order.clone(), None));
            }
            self.operator.all.push(order);
        }
        self.tell_orders();
    }

    fn draw_order(&mut self) -> Order {
        let now = self.wall();
        let domains = self.domains.len() as u64;
        let bindings = self.scenario.bindings.len() as u64;
        let messages = self.ledger.messages.len().max(1) as u64;
        let it = &mut self.operator;
        it.last_id += 1;
        let verb = *it.prng.pick(&VERBS);
        let domain = &self.domains[it.prng.below(domains) as usize].name;
        let binding = &self.scenario.bindings[it.prng.below(bindings) as usize].name;
        let filter = match it.prng.below(7) {
            0 => String::new(),
            1 => format!("binding={binding}"),
            2 => format!("recipient~r{}.", it.prng.below(3)),
            3 => format!("domain={domain} attempts<2"),
            4 => format!("sender=S{}@sender.example", it.prng.below(messages)),
            5 => format!("sender~{}@", it.prng.below(10)),
            _ => format!("domain={domain}"),
        };
        // What has failed for an operator says nothing of what would have become of it.
        let filter = match verb {
            Verb::Fail if it.prng.chance(1, 2) => format!("domain={domain} recipient~r0."),
            _ => filter,
        };
        // Now and then to the group, where there is one.
        let to = &self.scenario.bindings[it.prng.below(bindings) as usize].name;
        let to = match self.scenario.is_grouped() && it.prng.chance(1, 4) {
            true => "pool",
            false => to,
        };
        let until = now.0 + it.prng.between(SECOND, 30 * SECOND);
        Order {
            id: it.last_id,
            verb,
            filter: filter.parse().expect("a filter"),
            to: (verb == Verb::Rebind).then(|| to.to_owned()),
            given_us: now.0,
            until_us: (verb.is_standing() || verb == Verb::Delay).then_some(until),
            reason: "simulated".to_owned(),
            by: "operator".to_owned(),
        }
    }

    /// From now on nobody stops anything.
    pub fn orders_end(&mut self) {
        self.operator.all.retain(|it| !it.verb.is_standing());
        self.tell_orders();
    }

    /// Every shard hears of the orders, each in its time and in their order.
    fn tell_orders(&mut self) {
        let life = self.life();
        let Some(process) = &self.process else {
            return;
        };
        let shards = process.shards();
        let complete = self.operator.handed_out.len() == shards;
        let orders = self.operator.snapshot(complete);
        let from_us = self.operator.told_us.max(self.now_us);
        for shard in 0..shards {
            let at_us = from_us + 1 + self.operator.prng.below(50_000);
            self.operator.told_us = self.operator.told_us.max(at_us);
            let message = Box::new(ToShard::Orders(orders.clone()));
            let event = Event::Control {
                life,
                shard,
                message,
            };
            self.schedule.plan(at_us, event);
        }
    }

    /// A shard is told. False if it does not listen.
    pub fn hears_orders(&mut self, shard: usize, orders: &Arc<Orders>) -> bool {
        if let Some(known) = self.operator.known.get_mut(shard) {
            *known = (orders.clone(), self.now_us);
        }
        self.planted != Some(Planted::DeafToOrders)
    }

    pub fn shard_handed_out(&mut self, shard: usize) {
        let shards = self.process.as_ref().map_or(0, |it| it.shards());
        self.operator.handed_out.insert(shard);
        if self.operator.handed_out.len() == shards {
            self.tell_orders();
        }
    }

    pub fn shard_worked(&mut self, shard: usize, worked: &Worked) {
        let of_order = self.operator.worked.entry(worked.order).or_default();
        of_order.insert(shard, worked.over);
        self.end_order(worked.order);
    }

    pub fn shard_settled(&mut self, order: u64, pair: (usize, usize)) {
        self.operator.settled.entry(order).or_default().insert(pair);
        self.end_order(order);
    }

    /// Ends a one-time order when all shards are through with it.
    fn end_order(&mut self, id: u64) {
        let shards = self.process.as_ref().map_or(0, |it| it.shards());
        let now_us = self.now_us;
        let it = &mut self.operator;
        let worked = it.worked.get(&id);
        let over = worked.is_some_and(|it| it.len() == shards && it.values().all(|over| *over));
        let settled = it.settled.get(&id).map_or(0, BTreeSet::len) == shards * shards;
        let Some(index) = it.all.iter().position(|it| it.id == id) else {
            return;
        };
        if !over || !settled {
            return;
        }
        let order = it.all.remove(index);
        match order.verb {
            Verb::Fail => it.failed.push((order, now_us)),
            Verb::Rebind => {
                let last = it.rebound.as_mut().filter(|(last, _)| last.id == order.id);
                last.into_iter()
                    .for_each(|(_, over_us)| *over_us = Some(now_us));
            }
            Verb::Flush => {
                let flushing = it.all.iter().any(|it| it.verb == Verb::Flush);
                self.ledger.flushed_until_us = if flushing { u64::MAX } else { now_us };
                self.ledger.flushed_until = self.wall();
            }
            _ => {}
        }
        self.tell_orders();
    }

    /// An engine sends these bytes to a host: nothing begins on a connection that was begun under
    /// an order against it.
    pub fn check_orders(&mut self, shard: usize, number: usize, bytes: &[u8]) {
        // Orders end by the wall clock.
        if self.operator.last_id == 0 || self.scenario.concerns.clock {
            return;
        }
        let Some(Peer::Host {
            source, dialed_us, ..
        }) = self.ends[number].as_deref().map(|end| &end.peer)
        else {
            return;
        };
        let (source, dialed_us) = (*source, *dialed_us);
        let text = String::from_utf8_lossy(bytes);
        for part in text.split("RCPT TO:<").skip(1) {
            let address = part.split('>').next().unwrap_or_default();
            self.check_recipient(shard, address, (source, dialed_us));
        }
    }

    fn check_recipient(
        &mut self,
        shard: usize,
        address: &str,
        (source, dialed_us): (core::net::IpAddr, u64),
    ) {
        let (Some(who), Some((_, domain))) = (Who::parse(address), address.split_once('@')) else {
            return;
        };
        let bindings = self.scenario.bindings.iter();
        let binding = bindings.clone().find(|it| it.address == source);
        let facts = Facts {
            domain: Some(domain),
            binding: binding.map(|it| it.name.as_str()),
            recipient: Some(address),
            sender: self.ledger.sender(who).map(SenderFact::Text),
            attempts: Some(0),
            ..Facts::default()
        };
        // How often it was tried only the engine knows.
        let certain = |order: &Order| !order.filter.asks_for(crate::types::filter::Field::Attempts);
        let (wall, it) = (self.wall(), &self.operator);
        let Some((orders, since_us)) = it.known.get(shard) else {
            return;
        };
        let standing = orders.all.iter().filter(|it| it.verb.is_standing());
        let mut against = standing.filter(|it| it.is_in_force(wall) && certain(it));
        let stops = against.find(|it| it.filter.matches(&facts));
        let stops = stops.filter(|_| *since_us < dialed_us);
        let text = stops.map(|order| format!("{who:?} is tried under {}", order.sentence()));
        let accepted_us = self.ledger.accepted_us(who);
        let failed = it.failed.iter().find(|(order, over_us)| {
            let given_us = over_us.saturating_sub(wall.0.saturating_sub(order.given_us));
            let before = accepted_us.is_some_and(|at| at + TO_QUEUE_US < given_us);
            let after = *over_us < dialed_us;
            before && after && certain(order) && order.filter.matches(&facts)
        });
        let failed =
            failed.map(|(order, _)| format!("{who:?} is tried after {}", order.sentence()));
        let text = text.or(failed);
        let rebound = self.rebound_wrongly(who, &facts, (source, dialed_us));
        self.ledger
            .check(Check::Ordered, text.is_none(), || text.unwrap_or_default());
        if let Some(text) = rebound {
            self.ledger.check(Check::Rebound, text.is_empty(), || text);
        }
    }

    /// What the last order to rebind has met goes out from the binding that it named, also after a
    /// crash. Nothing if it has not met this one, no text if it does.
    fn rebound_wrongly(
        &self,
        who: Who,
        facts: &Facts<'_>,
        (source, dialed_us): (core::net::IpAddr, u64),
    ) -> Option<String> {
        let (order, over_us) = self.operator.rebound.as_ref()?;
        let over_us = (*over_us)?;
        let passing = [Field::Attempts, Field::Binding];
        let certain = !passing.iter().any(|it| order.filter.asks_for(*it));
        let mut bindings = self.scenario.bindings.iter();
        let to = bindings.find(|it| Some(&it.name) == order.to.as_ref());
        let to = to.filter(|_| certain && over_us < dialed_us)?;
        let given_us = self
            .now_us
            .saturating_sub(self.wall().0.saturating_sub(order.given_us));
        let accepted_us = self.ledger.accepted_us(who);
        let before = accepted_us.is_some_and(|at| at + TO_QUEUE_US < given_us);
        if !before || !order.filter.matches(facts) {
            return None;
        }
        Some(match source == to.address {
            true => String::new(),
            false => format!("{who:?} goes out from {source} after {}", order.sentence()),
        })
    }
}
