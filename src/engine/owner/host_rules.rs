//! What host stanzas say of a receiving host for a binding: found once in a configuration, since
//! to go through the stanzas takes longer than to open a connection.

use core::cell::RefCell;
use core::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::limit::Limit;
use crate::base::map::Map;
use crate::config::{BindingIndex, SharedLimit};
use crate::deliver::route::Host;
use crate::engine::Turn;
use crate::engine::owner::Owner;
use crate::engine::owner::places::bounds;
use crate::engine::owner::throttles::Throttled;
use crate::queue::QueueId;

/// Hosts that are kept. With more all are found anew, which costs time and nothing else.
const KNOWN_MAX: usize = 16_384;

type Key = (BindingIndex, Rc<str>, IpAddr);

/// Of one generation of the configuration.
#[derive(Default)]
pub(super) struct HostRules {
    // Who only looks fills it too.
    throttled: RefCell<Map<Key, Throttled>>,
    limits: Map<Key, Vec<Arc<Limit>>>,
}

impl HostRules {
    pub fn clear(&mut self) {
        *self = HostRules::default();
    }
}

impl Owner {
    fn host_key(&self, turn: &Turn<'_>, queue: QueueId, host: &Host) -> Option<Key> {
        let config = &turn.common.generation.config;
        let binding = config.binding_by_name(&self.links.get(&queue)?.binding)?;
        Some((binding, host.name.clone(), host.address.ip()))
    }

    /// The limits of a host for the binding of a queue: of each host, then of the whole stanza.
    pub(super) fn host_limits(
        &mut self,
        turn: &mut Turn<'_>,
        queue: QueueId,
        host: &Host,
    ) -> Vec<Arc<Limit>> {
        if !turn.common.generation.config.has_hosts() {
            return Vec::new();
        }
        let Some(key) = self.host_key(turn, queue, host) else {
            return Vec::new();
        };
        if let Some(found) = self.host_rules.limits.get(&key) {
            return found.clone();
        }
        let (config, (binding, name, ip)) = (&turn.common.generation.config, &key);
        let each = config.host_connection_limit(*binding, name, *ip);
        let each = each.map(|found| SharedLimit {
            max: found.limit,
            of: format!("max_outbound_connections of {}, {ip}", found.stanza).into(),
        });
        let whole = config.host_scope_limit(*binding, name, *ip);
        let (number, limits) = (turn.common.generation.number, &turn.common.cells.limits);
        let mut told = Vec::new();
        let found = each.iter().chain(&whole);
        let all = found.map(|it| limits.get(&it.of, number, bounds(it), &mut told));
        let all: Vec<_> = all.collect();
        self.tell(turn, told);
        keep(&mut self.host_rules.limits, key, all.clone());
        all
    }

    /// The throttles of a receiving host, for the binding of a queue.
    pub(super) fn host_throttles(&self, turn: &Turn<'_>, queue: QueueId, host: &Host) -> Throttled {
        if !turn.common.generation.config.has_hosts() {
            return Throttled::default();
        }
        let Some(key) = self.host_key(turn, queue, host) else {
            return Throttled::default();
        };
        let mut known = self.host_rules.throttled.borrow_mut();
        if let Some(found) = known.get(&key) {
            return found.clone();
        }
        let (config, (binding, name, ip)) = (&turn.common.generation.config, &key);
        let rates = config.host_throttles(*binding, name, *ip);
        let found = Throttled::of(turn, rates.each_ref().map(Option::as_ref));
        keep(&mut known, key, found.clone());
        found
    }
}

fn keep<V>(known: &mut Map<Key, V>, key: Key, value: V) {
    if known.len() >= KNOWN_MAX {
        known.clear();
    }
    known.insert(key, value);
}
