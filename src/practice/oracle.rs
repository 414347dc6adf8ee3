//! What a sender could have delivered who knows every limit: each message at the first moment at
//! which a receiver would take it, in the order in which they can be taken.
//!
//! That is the most there is, from one address. Let any other schedule have its message number K
//! at a moment; when the messages before it are not later here than there, windows that look back
//! over N messages have room here at that moment at the latest. So no schedule has more messages
//! by any moment. Over several addresses the first that has room takes a message: with equal
//! limits none could do better, with others it is a schedule that keeps every limit.
//!
//! Latency counts as the receiver's mean, and connections as what they carry at a time.

use core::net::IpAddr;
use std::collections::VecDeque;

use crate::base::map::Map;
use crate::base::throttle::Rate;
use crate::practice::DAY;
use crate::practice::scenario::Binding;
use crate::practice::scenario::Limits;
use crate::practice::scenario::Provider;
use crate::practice::standing::Standing;

/// Round trips from the dial to the first message: the connection, the greeting, EHLO.
const ROUND_TRIPS: u64 = 3;

/// A message that wants to be delivered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Wanted {
    /// When the sender has it.
    pub at_us: u64,
    /// To whom, for greylists.
    pub mailbox: u64,
}

/// A message that was delivered before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Before {
    pub at_us: u64,
    pub source: IpAddr,
}

struct Sender {
    number: usize,
    taken: VecDeque<u64>,
    kept_max: usize,
    standing: Standing,
}

/// Moments at which messages are delivered, in order, before `until_us`. `before` is what the
/// receiver had taken when the first of `wanted` came.
pub fn deliveries(
    provider: &Provider,
    bindings: &[Binding],
    before: &[Before],
    wanted: &[Wanted],
    until_us: u64,
) -> Vec<u64> {
    let kept_max = provider
        .phases
        .iter()
        .flat_map(|phase| windows(provider, &phase.limits))
        .map(|rate| rate.count as usize)
        .max()
        .unwrap_or(0);
    let mut senders: Vec<Sender> = bindings
        .iter()
        .enumerate()
        .map(|(number, binding)| Sender {
            number,
            taken: VecDeque::new(),
            kept_max,
            standing: Standing::new(binding.reputation),
        })
        .collect();
    let calendar = Calendar::of(provider);
    for past in before {
        let sender = bindings.iter().position(|it| it.address == past.source);
        if let Some(sender) = sender {
            senders[sender].take(&calendar, past.at_us);
        }
    }
    let mut delivered = Vec::new();
    for ready_us in ready(provider, wanted) {
        let each = senders.iter_mut().enumerate();
        let earliest = each
            .filter_map(|(index, it)| Some((it.earliest(&calendar, ready_us, until_us)?, index)))
            .min();
        let Some((at_us, index)) = earliest else {
            break;
        };
        senders[index].take(&calendar, at_us);
        delivered.push(at_us);
    }
    delivered.sort_unstable();
    delivered
}

/// When each message can be taken at first as far as greylists go, in that order.
fn ready(provider: &Provider, wanted: &[Wanted]) -> Vec<u64> {
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    let greylists = provider
        .phases
        .iter()
        .any(|it| it.limits.greylist_us.is_some());
    if !greylists {
        return wanted.iter().map(|it| it.at_us).collect();
    }
    let mut first: Map<u64, u64> = Map::default();
    let ready = wanted.iter().map(|it| {
        let tried_us = *first.entry(it.mailbox).or_insert(it.at_us);
        let delay_us = provider.limits(it.at_us).greylist_us.unwrap_or(0);
        it.at_us.max(tried_us + delay_us)
    });
    let mut ready: Vec<u64> = ready.collect();
    ready.sort_unstable();
    ready
}

/// The limits of each phase, as windows.
struct Calendar<'a> {
    provider: &'a Provider,
    windows: Vec<Vec<Rate>>,
}

impl Calendar<'_> {
    fn of(provider: &Provider) -> Calendar<'_> {
        let phases = provider.phases.iter();
        let windows = phases
            .map(|phase| windows(provider, &phase.limits))
            .collect();
        Calendar { provider, windows }
    }

    fn phase(&self, now_us: u64) -> usize {
        let after = self
            .provider
            .phases
            .partition_point(|it| it.from_us <= now_us);
        after.max(1) - 1
    }
}

/// Rates, and what connections can carry.
fn windows(provider: &Provider, limits: &Limits) -> Vec<Rate> {
    let mut windows = limits.rates.clone();
    let Some(connections) = limits.connections else {
        return windows;
    };
    let window = |count: u64, us: u64| {
        let (count, window) = (u32::try_from(count), core::time::Duration::from_micros(us));
        let count = count.ok().filter(|it| *it > 0 && us > 0)?;
        Some(Rate { count, window })
    };
    let (low, high) = limits.thinks_us;
    let thinks_us = low.midpoint(high);
    let connections = u64::from(connections);
    windows.extend(window(connections, thinks_us));
    if let Some(messages) = limits.messages_per_connection {
        let messages = u64::from(messages);
        let lasts_us = messages * thinks_us + ROUND_TRIPS * provider.round_trip_us;
        windows.extend(window(connections * messages, lasts_us));
    }
    windows
}

impl Sender {
    fn take(&mut self, calendar: &Calendar<'_>, at_us: u64) {
        if let Some(volume) = &calendar.provider.limits(at_us).volume {
            self.standing.allowed(volume, at_us);
        }
        self.standing.accept();
        if self.taken.len() == self.kept_max {
            self.taken.pop_front();
        }
        if self.kept_max > 0 {
            self.taken.push_back(at_us);
        }
    }

    /// The first moment from `ready_us` on, and before `until_us`, at which one more is taken.
    fn earliest(&mut self, calendar: &Calendar<'_>, ready_us: u64, until_us: u64) -> Option<u64> {
        let provider = calendar.provider;
        let mut at_us = self
            .taken
            .back()
            .map_or(ready_us, |last| ready_us.max(*last));
        while at_us < until_us {
            let next = self.free_at(calendar, at_us);
            if next == at_us {
                return Some(at_us);
            }
            // Other limits may let it in earlier than those of now would.
            let phase_us = provider.next_phase_us(at_us).unwrap_or(u64::MAX);
            at_us = next.min(phase_us);
        }
        None
    }

    /// The moment itself, or one before which nothing more is taken under the limits of now.
    fn free_at(&mut self, calendar: &Calendar<'_>, at_us: u64) -> u64 {
        let provider = calendar.provider;
        if let Some(end_us) = provider.blocked_until(Some(self.number), at_us) {
            return end_us;
        }
        let out = provider.outages.iter().filter(|it| it.from_us <= at_us);
        if let Some(end_us) = out.map(|it| it.to_us).max().filter(|it| *it > at_us) {
            return end_us;
        }
        let volume = provider.limits(at_us).volume;
        if volume.is_some_and(|volume| !self.standing.has_room(&volume, at_us)) {
            return (at_us / DAY + 1) * DAY;
        }
        let mut free_us = at_us;
        for rate in &calendar.windows[calendar.phase(at_us)] {
            if let Some(index) = self.taken.len().checked_sub(rate.count as usize) {
                free_us = free_us.max(self.taken[index] + rate.window.as_micros() as u64);
            }
        }
        free_us
    }
}

#[cfg(test)]
mod tests;
