//! What the options of one queue come to, and the retry schedule that follows from them.

use core::time::Duration;

/// Shortest delay after a failure, whatever the options say: a retry loop must not spin.
pub const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);

/// How often a failed message is tried again (Momentum `max_retries`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MaxRetries {
    /// As many retries as the schedule fits into `message_expiration`.
    Auto,
    /// Only expiry ends it.
    None,
    /// This many retries after the first attempt, or expiry, whichever comes first.
    Count(u32),
}

/// The checked options of one (binding, domain) queue. One value is shared by all queues that fall
/// back to the same options.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Momentum `retry_interval`: the delay after the first failure; doubles with each further one.
    pub retry_interval: Duration,
    /// Momentum `max_retry_interval`: the delay grows no further.
    pub max_retry_interval: Duration,
    pub max_retries: MaxRetries,
    /// Momentum `message_expiration`, counted from reception.
    pub message_expiration: Duration,
    /// Momentum `never_attempt_expired_messages`. When false, a message whose time is up gets one
    /// more attempt, and fails with it.
    pub never_attempt_expired: bool,
    /// Momentum `never_retry`: the first transient failure is final.
    pub never_retry: bool,
    /// Momentum `max_resident_active_queue`: bodies of active messages behind this many others are
    /// the first active ones to leave memory. Nothing is `-1` (off), zero keeps no body at all.
    pub max_resident_active: Option<u32>,
    /// Momentum `drop_body_after_trans_fail`: with this many failures a body leaves memory when
    /// its message is delayed, even if there is room.
    pub drop_body_after_failures: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            retry_interval: Duration::from_secs(1_200),
            max_retry_interval: Duration::from_secs(43_200),
            max_retries: MaxRetries::Auto,
            message_expiration: Duration::from_secs(86_400),
            never_attempt_expired: true,
            never_retry: false,
            max_resident_active: Some(250),
            drop_body_after_failures: 3,
        }
    }
}

impl Settings {
    /// The delay after failure number `failures` (from 1):
    /// `min(retry_interval * 2^(failures - 1), max_retry_interval)`.
    pub fn retry_delay(&self, failures: u16) -> Duration {
        let doublings = u32::from(failures.saturating_sub(1)).min(31);
        let delay = self.retry_interval.saturating_mul(1 << doublings);
        delay.min(self.max_retry_interval).max(RETRY_DELAY_MIN)
    }

    /// Retries after the first attempt; `u32::MAX` if only expiry counts.
    pub fn retries(&self) -> u32 {
        match self.max_retries {
            _ if self.never_retry => 0,
            MaxRetries::None => u32::MAX,
            MaxRetries::Count(count) => count,
            MaxRetries::Auto => self.retries_that_fit(),
        }
    }

    /// A retry fits if it is due before the message expires. The loop ends with the last doubling;
    /// the retries after it are a division.
    fn retries_that_fit(&self) -> u32 {
        let mut rest = self.message_expiration;
        let mut retries = 0;
        for failures in 1..=32 {
            let delay = self.retry_delay(failures);
            if delay >= rest {
                return retries;
            }
            rest -= delay;
            retries += 1;
        }
        let every = self.retry_delay(u16::MAX);
        let more = rest.as_micros().saturating_sub(1) / every.as_micros();
        retries.saturating_add(u32::try_from(more).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(interval: u64, max: u64, expiration: u64) -> Settings {
        Settings {
            retry_interval: Duration::from_secs(interval),
            max_retry_interval: Duration::from_secs(max),
            message_expiration: Duration::from_secs(expiration),
            ..Settings::default()
        }
    }

    #[test]
    fn the_delay_doubles_up_to_its_maximum() {
        let cases = [
            (
                settings(1_200, 43_200, 86_400),
                [1_200, 2_400, 4_800, 9_600, 19_200],
                37_200,
            ),
            (settings(1_200, 1_200, 86_400), [1_200; 5], 6_000),
            (
                settings(1_200, 5_000, 86_400),
                [1_200, 2_400, 4_800, 5_000, 5_000],
                18_400,
            ),
            (settings(0, 0, 86_400), [1; 5], 5),
        ];
        for (settings, delays, sum) in cases {
            let of = |n| settings.retry_delay(n).as_secs();
            assert_eq!([of(1), of(2), of(3), of(4), of(5)], delays);
            assert_eq!((1..=5).map(of).sum::<u64>(), sum);
            assert!(settings.retry_delay(u16::MAX) <= Duration::from_secs(43_200));
        }
    }

    #[test]
    fn auto_counts_the_retries_that_are_due_before_expiry() {
        let cases = [
            (settings(1_200, 43_200, 86_400), 6),
            (settings(1_200, 1_200, 6_000), 4),
            (settings(1_200, 1_200, 6_001), 5),
            (settings(1_200, 1_200, 86_400), 71),
            (settings(1_200, 43_200, 1_200), 0),
            (settings(1_200, 43_200, 0), 0),
            (settings(0, 0, 604_800), 604_799),
            (settings(u64::MAX, u64::MAX, u64::MAX), 0),
            (settings(1, 1, u64::MAX), u32::MAX),
        ];
        for (settings, retries) in cases {
            assert_eq!(settings.retries(), retries, "{settings:?}");
        }
    }

    #[test]
    fn the_other_ways_to_limit_retries_hold() {
        let of = |max_retries, never_retry| {
            Settings {
                max_retries,
                never_retry,
                ..Settings::default()
            }
            .retries()
        };
        assert_eq!(of(MaxRetries::None, false), u32::MAX);
        assert_eq!(of(MaxRetries::Count(3), false), 3);
        assert_eq!(of(MaxRetries::Count(3), true), 0);
    }
}
