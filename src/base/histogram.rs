//! A latency histogram of fixed size: powers of two of a microsecond, which is what dashboards
//! draw and what costs one increment per event. Tools that need exact quantiles use more.

use core::time::Duration;

/// Bucket `n` counts values up to `2^n` microseconds; the last one counts the rest (over 134 s).
pub const BUCKETS: usize = 28;

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum_us: u64,
}

impl Histogram {
    pub fn record(&mut self, value: Duration) {
        let us = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let bucket = (64 - us.saturating_sub(1).leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }

    /// Upper bound of each bucket with the count up to it; the last bound is infinite.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        let mut total = 0;
        self.counts.iter().enumerate().map(move |(bucket, count)| {
            total += count;
            let bound = (bucket + 1 < BUCKETS).then(|| Duration::from_micros(1 << bucket));
            (bound, total)
        })
    }

    /// The bound below which `parts` of 1000 values lie; nothing if it is empty.
    pub fn quantile(&self, parts: u64) -> Option<Duration> {
        let wanted = (self.count() * parts).div_ceil(1_000);
        if wanted == 0 {
            return None;
        }
        let top = Duration::from_micros(1 << (BUCKETS - 1));
        let reached = self.cumulative().find(|(_, total)| *total >= wanted);
        reached.map(|(bound, _)| bound.unwrap_or(top))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_land_at_or_below_their_bound() {
        let mut histogram = Histogram::default();
        for us in [0, 1, 2, 3, 4, 5, 1_000, 1_000_000_000] {
            histogram.record(Duration::from_micros(us));
        }
        let bounds: Vec<_> = histogram
            .cumulative()
            .map(|(_, total)| total)
            .take(4)
            .collect();
        assert_eq!(bounds, [2, 3, 5, 6]);
        assert_eq!(histogram.count(), 8);
        assert_eq!(histogram.quantile(500), Some(Duration::from_micros(4)));
        assert_eq!(Histogram::default().quantile(500), None);
    }
}
