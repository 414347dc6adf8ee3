//! The recent past in a few samples: what turns totals into rates and tells since when the verdict
//! has been what it is. Time is passed in.

use core::time::Duration;
use std::collections::VecDeque;

use crate::base::time::Wall;
use crate::engine::stats::ShardStats;

use super::protocol::Rates;
use super::protocol::Recent;

/// How often a sample is taken.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// Rates look back so many samples: half a minute.
const SAMPLES_OF_RATES: usize = 7;

/// Samples kept: a quarter of an hour.
const SAMPLES_MAX: usize = 15 * 12 + 1;

#[derive(Clone, Copy)]
struct Sample {
    at: Wall,
    injected: u64,
    delivered: u64,
    delayed: u64,
    bounced: u64,
    queued: u64,
    /// Came back into the queues, which is no growth.
    recovered: u64,
}

#[derive(Default)]
pub struct Sampler {
    samples: VecDeque<Sample>,
    verdict: Option<(&'static str, Wall)>,
    started: Wall,
}

impl Sampler {
    /// Of a process that started then.
    pub fn since(started: Wall) -> Sampler {
        Sampler {
            started,
            ..Sampler::default()
        }
    }

    pub fn sample(&mut self, at: Wall, total: &ShardStats) {
        // A clock that was set back would give rates from the future.
        self.samples.retain(|sample| sample.at < at);
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample::of(at, total));
    }

    /// Rates from half a minute ago to these numbers.
    pub fn rates(&self, at: Wall, total: &ShardStats) -> Rates {
        let before = self.samples.len().saturating_sub(SAMPLES_OF_RATES);
        let Some(first) = self.samples.get(before) else {
            return Rates::default();
        };
        let seconds = at.since(first.at).as_secs_f64();
        if seconds < 1.0 {
            return Rates::default();
        }
        let last = Sample::of(at, total);
        let rate = |from: u64, to: u64| Some((to as f64 - from as f64) / seconds);
        Rates {
            injected_per_second: rate(first.injected, last.injected),
            delivered_per_second: rate(first.delivered, last.delivered),
            delayed_per_second: rate(first.delayed, last.delayed),
            bounced_per_second: rate(first.bounced, last.bounced),
            queued_per_second: rate(
                first.queued + last.recovered.saturating_sub(first.recovered),
                last.queued,
            ),
        }
    }

    /// What has become of attempts since the oldest sample.
    pub fn recent(&self, at: Wall, total: &ShardStats) -> Recent {
        let Some(first) = self.samples.front() else {
            return Recent::default();
        };
        let last = Sample::of(at, total);
        Recent {
            seconds: at.since(first.at).as_secs(),
            delivered: last.delivered.saturating_sub(first.delivered),
            delayed: last.delayed.saturating_sub(first.delayed),
            bounced: last.bounced.saturating_sub(first.bounced),
        }
    }

    /// Since when the verdict is this one. If it is another than before, it is so since `began`,
    /// but no longer than since the one before began.
    pub fn verdict_since(&mut self, at: Wall, verdict: &'static str, began: Wall) -> Wall {
        let since = match self.verdict {
            Some((same, since)) if same == verdict => since,
            Some((_, before)) if began > before => began.min(at),
            Some(_) => at,
            // What there is to say at the first look has been so since the start.
            None => self.started.min(at),
        };
        self.verdict = Some((verdict, since));
        since
    }
}

impl Sample {
    fn of(at: Wall, total: &ShardStats) -> Sample {
        let (counters, gauges) = (&total.counters, &total.gauges);
        Sample {
            at,
            injected: counters.messages_injected,
            delivered: counters.messages_delivered,
            delayed: counters.messages_delayed,
            bounced: counters.messages_bounced + counters.messages_expired,
            queued: gauges.queued(),
            recovered: counters.messages_recovered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(injected: u64, queued: u64) -> ShardStats {
        let mut stats = ShardStats::default();
        stats.counters.messages_injected = injected;
        stats.gauges.queue_delayed = queued;
        stats
    }

    #[test]
    fn rates_look_back_half_a_minute() {
        let mut sampler = Sampler::default();
        let at = Wall::from_secs;
        assert_eq!(sampler.rates(at(100), &total(5, 0)), Rates::default());
        for step in 0..20 {
            sampler.sample(at(100 + 5 * step), &total(50 * step, 1_000 - 10 * step));
        }
        let rates = sampler.rates(at(195), &total(950, 810));
        assert_eq!(rates.injected_per_second, Some(10.0));
        assert_eq!(rates.queued_per_second, Some(-2.0));
        assert_eq!(sampler.recent(at(195), &total(950, 810)).seconds, 95);
        for step in 20..400 {
            sampler.sample(at(100 + 5 * step), &total(50 * step, 0));
        }
        let recent = sampler.recent(at(2_100), &total(20_000, 0));
        assert_eq!((sampler.samples.len(), recent.seconds), (SAMPLES_MAX, 905));
        sampler.sample(at(50), &total(0, 0));
        assert_eq!(sampler.samples.len(), 1, "a clock set back begins anew");
    }

    #[test]
    fn a_verdict_has_a_beginning() {
        let at = Wall::from_secs;
        let mut sampler = Sampler::since(at(1));
        let mut since = |now, word, began| sampler.verdict_since(at(now), word, at(began));
        assert_eq!(since(2, "OK", 2), at(1));
        assert_eq!(since(9, "OK", 9), at(1));
        assert_eq!(since(20, "DEGRADED", 12), at(12), "seen late");
        assert_eq!(since(21, "DEGRADED", 21), at(12));
        assert_eq!(since(30, "OK", 12), at(30), "not before the one before");
        assert_eq!(since(40, "FAILING", 99), at(40), "nor in the future");
    }
}
