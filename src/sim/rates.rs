//! Throttles as an outsider sees them: whenever an engine has acted, what has started since counts
//! as started now.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::map::Map;
use crate::base::throttle::Throttle;
use crate::base::time::Mono;
use crate::sim::counts::Check;
use crate::sim::peers::Peer;
use crate::sim::world::World;

/// What is known of the throttles of one process.
#[derive(Default)]
pub struct Rates {
    /// By what they belong to, over all shards.
    seen: Map<Box<str>, Seen>,
    /// Recipients on the wire from the first binding.
    on_the_wire: u64,
}

#[derive(Default)]
struct Seen {
    started: u64,
    /// As many as a window may carry.
    starts: VecDeque<Mono>,
}

/// How the name of a throttle of messages begins.
const THROTTLED: &str = "outbound_throttle_messages of";

impl World {
    /// To be called after an engine has acted.
    pub fn check_throttles(&mut self) {
        let now = self.now().mono;
        let Some(process) = &mut self.process else {
            return;
        };
        let mut all: Vec<Arc<Throttle>> = Vec::new();
        for cells in &process.cells {
            for throttle in cells.throttles.all() {
                if !all.iter().any(|it| Arc::ptr_eq(it, &throttle)) {
                    all.push(throttle);
                }
            }
        }
        let mut sums: Map<Box<str>, (Arc<Throttle>, u64)> = Map::default();
        for throttle in all {
            let started = throttle.started();
            sums.entry(throttle.name().into())
                .or_insert((throttle, 0))
                .1 += started;
        }
        for (name, (throttle, started)) in sums {
            let rate = throttle.rate();
            let seen = process.rates.seen.entry(name).or_default();
            for _ in seen.started..started {
                if seen.starts.len() == rate.count as usize {
                    let first = seen.starts.pop_front().unwrap_or_default();
                    let kept = now >= first + rate.window;
                    self.ledger.check(Check::Throttle, kept, || {
                        format!(
                            "{}, {rate}: one more than that within {:?}",
                            throttle.name(),
                            now.since(first)
                        )
                    });
                }
                seen.starts.push_back(now);
            }
            seen.started = started;
        }
    }

    /// An engine sends these bytes.
    pub fn check_counted(&mut self, number: usize, bytes: &[u8]) {
        let first = &self.scenario.bindings[0];
        let peer = self.ends[number].as_deref().map(|end| &end.peer);
        let is_first = matches!(peer, Some(Peer::Host { source, .. }) if *source == first.address);
        let Some(process) = self.process.as_mut().filter(|_| is_first) else {
            return;
        };
        if self.scenario.rates.is_none() {
            return;
        }
        let binding = &first.name;
        let begun = bytes.windows(8).filter(|it| *it == b"RCPT TO:").count();
        process.rates.on_the_wire += begun as u64;
        let (sent, mut counted) = (process.rates.on_the_wire, 0);
        for (name, seen) in &process.rates.seen {
            if name.starts_with(THROTTLED) && name.contains(&format!("binding \"{binding}\"")) {
                counted += seen.started;
            }
        }
        self.ledger
            .check(Check::ThrottleCounts, sent <= counted, || {
                format!("{binding} has sent {sent} recipients, {counted} have been counted")
            });
    }
}
