//! Throttles as an outsider sees them: whenever an engine has acted, what has started since counts
//! as started now.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::map::Map;
use crate::base::throttle::Throttle;
use crate::sim::counts::Check;
use crate::sim::peers::Peer;
use crate::sim::world::World;

/// What is known of the throttles of one process.
#[derive(Default)]
pub struct Rates {
    /// What has started, by what it belongs to, over all shards.
    started: Map<Box<str>, u64>,
    /// Recipients on the wire from the first binding.
    on_the_wire: u64,
}

/// What has started under throttles, over all processes: their windows do not end with one.
#[derive(Default)]
pub struct Windows {
    /// The last moments, as many as a window may carry.
    starts: Map<Box<str>, VecDeque<u64>>,
    forward_us: u64,
}

impl Windows {
    /// The wall clock has been put forward: who only has that to tell how long ago something was
    /// takes it for older than it is.
    pub fn clock_went_forward(&mut self, now_us: u64) {
        self.forward_us = now_us;
    }

    /// What only has to be known about lately is not known after a kill.
    pub fn kill(&mut self) {
        self.starts.retain(|name, _| !name.starts_with(LATELY));
    }

    pub fn start(&mut self) {
        let from_us = self.forward_us;
        for starts in self.starts.values_mut() {
            starts.retain(|at_us| *at_us >= from_us);
        }
    }
}

/// How the names of throttles begin that a kill may make forget the last moments.
const LATELY: &str = "inbound_throttle_messages of";

/// What was given to a connection before a suspension may be sent for so long: every answer before
/// it may take as long as a timeout.
const SUSPENSION_SLACK_US: u64 = 60 * 1_000_000;

/// How the name of a throttle of messages begins.
const THROTTLED: &str = "outbound_throttle_messages of";

impl World {
    /// To be called after an engine has acted.
    pub fn check_throttles(&mut self) {
        let now_us = self.now_us;
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
            let starts = self.windows.starts.entry(name.clone()).or_default();
            let seen = process.rates.started.entry(name).or_default();
            let window_us = rate.window.as_micros() as u64;
            for _ in *seen..started {
                // Of a throttle whose rate has become less the last starts count.
                let surplus = starts.len().saturating_sub(rate.count as usize);
                starts.drain(..surplus);
                if starts.len() == rate.count as usize {
                    let first_us = starts.pop_front().unwrap_or_default();
                    let kept = now_us >= first_us + window_us;
                    self.ledger.check(Check::Throttle, kept, || {
                        format!(
                            "{}, {rate}: one more than that within {} us",
                            throttle.name(),
                            now_us - first_us
                        )
                    });
                }
                starts.push_back(now_us);
            }
            *seen = started;
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
        for (name, seen) in &process.rates.started {
            if name.starts_with(THROTTLED) && name.contains(&format!("binding \"{binding}\"")) {
                counted += *seen;
            }
        }
        self.ledger
            .check(Check::ThrottleCounts, sent <= counted, || {
                format!("{binding} has sent {sent} recipients, {counted} have been counted")
            });
    }
}
