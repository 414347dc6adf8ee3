//! What one shard remembers about receiving hosts, by address: failures in a row, how long it
//! rests, when it last worked. Chooses the host of the next connection. Bounded: the entry that
//! has been quiet longest makes room, which at worst means one connection attempt too early.

use core::net::IpAddr;
use core::time::Duration;

use crate::base::map::Map;
use crate::base::time::Mono;
use crate::deliver::route::Host;
use crate::deliver::route::Plan;

/// Addresses remembered by default.
pub const HOSTS_MAX: usize = 50_000;

/// A host that said nothing for this long starts afresh (Momentum's address metrics live 1800 s).
pub const MEMORY_MAX: Duration = Duration::from_secs(1_800);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Memory {
    /// Failed connections in a row, at most one counted per rest.
    failures: u32,
    /// No connection before this moment.
    rests_until: Mono,
    /// The last success or failure.
    touched: Mono,
}

/// Where the next connection goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The host at this place of the plan.
    Host(usize),
    /// Hosts are well, and all of them are at a limit: ask again when a connection ends.
    Full,
    /// Every host rests; the first is up again at this moment.
    Resting(Mono),
}

/// Options of the decision whether a whole queue rests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DelayLimits {
    /// `MX_Failures_To_Delay`: failures in a row of *every* host; 0 is off.
    pub mx_failures: u32,
    /// `Connect_Timeout_To_Delay`: time spent trying without one connection.
    pub connect_time: Duration,
}

/// See the head of this file.
pub struct Hosts {
    entries: Map<IpAddr, Memory>,
    entries_max: usize,
    hand: usize,
}

impl Hosts {
    /// Memory for at most `entries_max` addresses, which must not be zero.
    pub fn new(entries_max: usize) -> Hosts {
        assert!(entries_max > 0, "there is room for one host");
        Hosts {
            entries: Map::default(),
            entries_max,
            hand: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A connection could not be made or was refused at the banner or EHLO: the host rests for
    /// `rest` (`Host_Failure_Retry`). Returns its failures in a row. Several connections that fail
    /// together count once: the ones that end while the host rests already add nothing.
    pub fn failed(&mut self, now: Mono, address: IpAddr, rest: Duration) -> u32 {
        let memory = self.memory(now, address);
        if memory.failures > 0 && now < memory.rests_until {
            return memory.failures;
        }
        memory.failures = memory.failures.saturating_add(1);
        memory.rests_until = now + rest;
        memory.touched = now;
        memory.failures
    }

    /// A session was opened: the failures are forgotten.
    pub fn succeeded(&mut self, address: IpAddr) {
        self.entries.swap_remove(&address);
    }

    /// A host that rests may be tried at once; its failures are remembered.
    pub fn wake(&mut self, now: Mono, address: IpAddr) {
        if let Some(memory) = self.entries.get_mut(&address) {
            memory.rests_until = memory.rests_until.min(now);
        }
    }

    /// Failures in a row, and until when the host rests if it does.
    pub fn state(&self, now: Mono, address: IpAddr) -> (u32, Option<Mono>) {
        match self.entries.get(&address) {
            Some(memory) if alive(memory, now) => (
                memory.failures,
                Some(memory.rests_until).filter(|until| now < *until),
            ),
            _ => (0, None),
        }
    }

    /// The host for one more connection: the best preference that has a host which neither rests
    /// nor is at a limit; among equals the one with the fewest connections, then the earliest in
    /// the plan, whose order is random among equals. `load` tells the connections that a host has,
    /// or nothing if it may have no more. A plan without hosts rests until it is out of date.
    pub fn choose(
        &self,
        now: Mono,
        plan: &Plan,
        mut load: impl FnMut(usize, &Host) -> Option<u32>,
    ) -> Choice {
        let mut best: Option<(u16, u32, usize)> = None;
        let mut full = false;
        let mut up_at = Mono::MAX;
        for (index, host) in plan.hosts.iter().enumerate() {
            if best.is_some_and(|(preference, ..)| preference < host.preference) {
                break;
            }
            if let (_, Some(until)) = self.state(now, host.address.ip()) {
                up_at = up_at.min(until);
                continue;
            }
            let Some(connections) = load(index, host) else {
                full = true;
                continue;
            };
            if best.is_none_or(|(_, fewest, _)| connections < fewest) {
                best = Some((host.preference, connections, index));
            }
        }
        match best {
            Some((.., index)) => Choice::Host(index),
            None if full => Choice::Full,
            None => Choice::Resting(up_at.min(plan.until)),
        }
    }

    /// Whether the whole queue should rest, as Momentum sweeps a domain to delayed: every host of
    /// the plan has failed `mx_failures` times in a row, or connections have been tried in vain
    /// since `trying_since` for `connect_time`.
    pub fn queue_rests(
        &self,
        now: Mono,
        plan: &Plan,
        trying_since: Option<Mono>,
        limits: DelayLimits,
    ) -> bool {
        let fails = |host: &Host| self.state(now, host.address.ip()).0 >= limits.mx_failures;
        let all_fail =
            limits.mx_failures > 0 && !plan.hosts.is_empty() && plan.hosts.iter().all(fails);
        all_fail || trying_since.is_some_and(|since| now.since(since) >= limits.connect_time)
    }

    fn memory(&mut self, now: Mono, address: IpAddr) -> &mut Memory {
        if !self.entries.contains_key(&address) {
            self.make_room(now);
        }
        let memory = self.entries.entry(address).or_default();
        if !alive(memory, now) {
            *memory = Memory::default();
        }
        memory
    }

    /// Looks at a few places in turn and takes the quietest of them.
    fn make_room(&mut self, now: Mono) {
        const PLACES: usize = 8;
        while self.entries.len() >= self.entries_max {
            let len = self.entries.len();
            let first = self.hand;
            self.hand = (first + PLACES) % len;
            let places = (0..PLACES.min(len)).map(|step| (first + step) % len);
            let quietest = places.min_by_key(|at| match self.entries.get_index(*at) {
                Some((_, memory)) if alive(memory, now) => memory.touched,
                _ => Mono(0),
            });
            self.entries.swap_remove_index(quietest.unwrap_or(0));
        }
    }
}

fn alive(memory: &Memory, now: Mono) -> bool {
    now < memory.rests_until || now.since(memory.touched) < MEMORY_MAX
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use core::net::SocketAddr;

    use super::*;

    const REST: Duration = Duration::from_secs(120);

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
    }

    fn plan(preferences: &[u16]) -> Plan {
        let hosts = preferences
            .iter()
            .zip(0_u8..)
            .map(|(preference, last)| Host {
                preference: *preference,
                name: format!("mx{last}").into(),
                address: SocketAddr::new(address(last), 25),
            });
        Plan {
            hosts: hosts.collect(),
            until: at(10_000),
        }
    }

    #[test]
    fn the_best_preference_that_is_well_and_has_room_is_chosen() {
        let plan = plan(&[0, 0, 1, 2]);
        // Hosts that rest, connections of each (9 is at the limit), the choice.
        let cases: [(&[u8], [u32; 4], Choice); 9] = [
            (&[], [0, 0, 0, 0], Choice::Host(0)),
            (&[], [2, 1, 0, 0], Choice::Host(1)),
            (&[], [1, 1, 0, 0], Choice::Host(0)),
            (&[0], [0, 3, 0, 0], Choice::Host(1)),
            (&[0, 1], [0, 0, 5, 0], Choice::Host(2)),
            (&[], [9, 9, 5, 0], Choice::Host(2)),
            (&[2, 3], [9, 9, 0, 0], Choice::Full),
            (&[0, 1, 2], [0, 0, 0, 9], Choice::Full),
            (&[0, 1, 2, 3], [0, 0, 0, 0], Choice::Resting(at(120))),
        ];
        for (resting, connections, expected) in cases {
            let mut hosts = Hosts::new(10);
            for (nth, last) in (0..).zip(resting) {
                hosts.failed(at(nth), address(*last), REST);
            }
            let load =
                |at: usize, _: &Host| Some(connections[at]).filter(|connections| *connections < 9);
            assert_eq!(
                hosts.choose(at(10), &plan, load),
                expected,
                "{resting:?} {connections:?}"
            );
        }
    }

    #[test]
    fn a_host_rests_after_a_failure_and_connections_that_fail_together_count_once() {
        let mut hosts = Hosts::new(10);
        assert_eq!(hosts.failed(at(0), address(1), REST), 1);
        assert_eq!(hosts.failed(at(1), address(1), REST), 1);
        assert_eq!(hosts.state(at(119), address(1)), (1, Some(at(120))));
        assert_eq!(hosts.state(at(120), address(1)), (1, None));
        assert_eq!(hosts.failed(at(121), address(1), REST), 2);
        hosts.succeeded(address(1));
        assert_eq!(hosts.state(at(122), address(1)), (0, None));
        hosts.failed(at(200), address(1), REST);
        assert_eq!(
            hosts.state(at(2_000), address(1)),
            (0, None),
            "memory fades"
        );
    }

    #[test]
    fn a_queue_rests_when_every_host_fails_or_time_is_up() {
        let plan = plan(&[0, 1]);
        let limits = DelayLimits {
            mx_failures: 2,
            connect_time: Duration::from_secs(900),
        };
        let mut hosts = Hosts::new(10);
        let rest = Duration::from_secs(1);
        hosts.failed(at(0), address(0), rest);
        hosts.failed(at(2), address(0), rest);
        assert!(
            !hosts.queue_rests(at(3), &plan, None, limits),
            "one of two fails"
        );
        hosts.failed(at(3), address(1), rest);
        assert!(
            !hosts.queue_rests(at(4), &plan, None, limits),
            "the other only once"
        );
        hosts.failed(at(5), address(1), rest);
        assert!(hosts.queue_rests(at(6), &plan, None, limits));
        let off = DelayLimits {
            mx_failures: 0,
            ..limits
        };
        assert!(!hosts.queue_rests(at(6), &plan, None, off));
        assert!(!hosts.queue_rests(at(899), &plan, Some(at(0)), off));
        assert!(hosts.queue_rests(at(900), &plan, Some(at(0)), off));
    }

    #[test]
    fn memory_is_bounded_and_the_quiet_go_first() {
        let mut hosts = Hosts::new(8);
        for number in 0..=255 {
            hosts.failed(
                at(u64::from(number)),
                address(number),
                Duration::from_secs(10_000),
            );
            assert!(hosts.len() <= 8);
        }
        let known = (248..=255).filter(|last| hosts.state(at(256), address(*last)).0 > 0);
        assert_eq!(known.count(), 8);
    }
}
