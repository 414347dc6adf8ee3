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

/// What was given to a connection before a suspension may be sent for so long: every answer before
/// it may take as long as a timeout.
const SUSPENSION_SLACK_US: u64 = 60 * 1_000_000;

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

    /// A message begins at a host: not while its pair is suspended.
    fn check_suspension(&mut self, number: usize, bytes: &[u8]) {
        if self.learnt.is_empty() || memchr::memmem::find(bytes, b"RCPT TO:").is_none() {
            return;
        }
        let peer = self.ends[number].as_deref().map(|end| &end.peer);
        let Some(Peer::Host { source, .. }) = peer else {
            return;
        };
        let bindings = self.scenario.bindings.iter();
        let Some(binding) = bindings.into_iter().find(|it| it.address == *source) else {
            return;
        };
        let text = String::from_utf8_lossy(bytes);
        let now_us = self.wall().0;
        for line in text.split("RCPT TO:<").skip(1) {
            let address = line.split('>').next().unwrap_or_default();
            let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
            let pair = (binding.name.clone(), domain.to_lowercase());
            let Some(stop) = self.learnt.get(&pair).and_then(|it| it.stop.as_ref()) else {
                continue;
            };
            // What was on a connection when it began goes on.
            let begun = stop.since_us + SUSPENSION_SLACK_US;
            let kept = now_us < begun || now_us >= stop.until_us;
            self.ledger.check(Check::NotSuspended, kept, || {
                format!("{address} is tried by {} while it is suspended", pair.0)
            });
        }
    }

    /// An engine sends these bytes.
    pub fn check_counted(&mut self, number: usize, bytes: &[u8]) {
        self.check_suspension(number, bytes);
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
