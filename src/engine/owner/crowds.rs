//! Hosts that take no more connections than they have: one that answers a new connection with 421
//! while others are open has not failed. It gets no more for a while, then one more is tried; as
//! long as that goes well, the next one soon.
//!
//! Counted is what this shard has, by host and source address: that is what a host sees.
//! Invariant: what is known of a host is forgotten with the last connection to it.

use core::net::IpAddr;
use core::time::Duration;

use crate::base::map::Map;
use crate::base::slab::Key;
use crate::base::time::Mono;
use crate::engine::owner::Owner;
use crate::types::reply::Reply;

/// The host closes (RFC 5321 3.8): what it says to one connection too many.
const CLOSING: u16 = 421;

/// How long a host that has refused one more is not asked again.
const REFUSED_REST: Duration = Duration::from_secs(15);

/// The same after it has taken one more.
const TAKEN_REST: Duration = Duration::from_secs(1);

/// A host, and the address that its connections come from.
pub(super) type Route = (IpAddr, Option<IpAddr>);

#[derive(Clone, Copy, Debug)]
struct Crowd {
    open: u32,
    most: u32,
    /// No more than `most` before this moment, and then one more.
    until: Mono,
}

#[derive(Default)]
pub(super) struct Crowds(Map<Route, Crowd>);

impl Crowds {
    /// Until when a host takes no more connections, as far as is known.
    pub fn full_until(&self, now: Mono, route: Route) -> Option<Mono> {
        let crowd = self.0.get(&route)?;
        (crowd.open >= crowd.most && now < crowd.until).then_some(crowd.until)
    }

    fn refused(&mut self, now: Mono, route: Route, open: u32) {
        let crowd = Crowd {
            open,
            most: open.saturating_sub(1).max(1),
            until: now + REFUSED_REST,
        };
        self.0.insert(route, crowd);
    }

    pub fn began(&mut self, now: Mono, route: Route) {
        if let Some(crowd) = self.0.get_mut(&route) {
            crowd.open += 1;
            if crowd.open > crowd.most {
                (crowd.most, crowd.until) = (crowd.open, now + REFUSED_REST);
            }
        }
    }

    pub fn taken(&mut self, now: Mono, route: Route) {
        if let Some(crowd) = self.0.get_mut(&route)
            && crowd.open >= crowd.most
        {
            crowd.until = crowd.until.min(now + TAKEN_REST);
        }
    }

    pub fn ended(&mut self, route: Route) {
        if let Some(crowd) = self.0.get_mut(&route) {
            crowd.open = crowd.open.saturating_sub(1);
            if crowd.open == 0 {
                self.0.swap_remove(&route);
            }
        }
    }
}

impl Owner {
    /// Whether a host that refuses a connection just takes no more than it has: then nothing is
    /// held against it.
    pub(super) fn is_crowded(&mut self, now: Mono, key: Key, reply: &Reply) -> bool {
        if reply.internal || reply.code != CLOSING {
            return false;
        }
        let Some(route) = self.outgoing.get(key).map(|it| it.route()) else {
            return false;
        };
        let (mut open, mut others) = (0, false);
        for (other, outgoing) in self.outgoing.iter() {
            if outgoing.route() == route {
                open += 1;
                others |= other != key && outgoing.session.is_open();
            }
        }
        if others {
            self.crowds.refused(now, route, open);
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Route = (IpAddr::V4(core::net::Ipv4Addr::LOCALHOST), None);

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000)
    }

    #[test]
    fn a_host_that_refuses_one_more_is_asked_again_later_and_then_soon() {
        let mut crowds = Crowds::default();
        assert_eq!(crowds.full_until(at(0), ROUTE), None);
        // The third was refused.
        crowds.refused(at(0), ROUTE, 3);
        crowds.ended(ROUTE);
        assert_eq!(crowds.full_until(at(14), ROUTE), Some(at(15)));
        // One ends: its place may be taken at once.
        crowds.ended(ROUTE);
        assert_eq!(crowds.full_until(at(14), ROUTE), None);
        crowds.began(at(14), ROUTE);
        assert_eq!(crowds.full_until(at(15), ROUTE), None, "one more is tried");
        crowds.began(at(15), ROUTE);
        assert_eq!(crowds.full_until(at(15), ROUTE), Some(at(30)), "but one");
        crowds.taken(at(16), ROUTE);
        assert_eq!(crowds.full_until(at(16), ROUTE), Some(at(17)));
        assert_eq!(crowds.full_until(at(17), ROUTE), None);
        for _ in 0..3 {
            crowds.ended(ROUTE);
        }
        assert!(crowds.0.is_empty());
    }
}
