//! Limits that change while mail is flowing: how long until a sender has noticed.

use crate::base::throttle::Rate;
use crate::practice::SECOND;
use crate::practice::internet::Account;
use crate::practice::internet::BUCKET_US;
use crate::practice::internet::Bucket;
use crate::practice::scenario::Limits;
use crate::practice::scenario::Provider;
use crate::practice::scenario::Scenario;

/// Spans in a row that show a limit to be kept, and that a use of it is measured over: a minute.
const SPANS: usize = (60 * SECOND / BUCKET_US) as usize;

/// Windows longer than this cannot be learnt about quickly, by nobody.
const WINDOW_US_MAX: u64 = 60 * SECOND;

/// Percent of a raised limit that count as its use.
const USED_PERCENT: u64 = 90;

pub struct Change {
    pub at_us: u64,
    pub raised: bool,
    pub found_after_us: Option<u64>,
}

/// Changes of rates with windows of a minute or less, that happened while there was mail.
pub fn of(scenario: &Scenario, provider: &Provider, account: &Account) -> Vec<Change> {
    let mut changes = Vec::new();
    for (index, pair) in provider.phases.windows(2).enumerate() {
        let (before, after) = (&pair[0], &pair[1]);
        let end_us = provider
            .phases
            .get(index + 2)
            .map_or(u64::MAX, |it| it.from_us);
        let end_us = end_us.min(scenario.duration_us);
        let (old, new) = (carries(&before.limits), carries(&after.limits));
        if old == new || after.from_us >= end_us {
            continue;
        }
        let raised = new > old;
        let from = (after.from_us / BUCKET_US) as usize;
        let to = (end_us.div_ceil(BUCKET_US) as usize).min(account.buckets.len());
        let spans = &account.buckets[from.min(to)..to];
        let allowed = new.map(|it| it.saturating_mul(scenario.bindings.len() as u64));
        let found = match raised {
            false => kept(spans, scenario.goals.deferrals),
            true => {
                let waiting = waiting(&account.buckets[..from.min(to)]);
                used(spans, waiting, allowed)
            }
        };
        changes.push(Change {
            at_us: after.from_us,
            raised,
            found_after_us: found.map(|spans| spans as u64 * BUCKET_US),
        });
    }
    changes
}

/// Messages of one address in a minute; nothing if no limit with a short window says. Ordered so
/// that nothing, which is no limit, is the most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Carries {
    PerMinute(u64),
    Everything,
}

impl Carries {
    fn map(self, change: impl FnOnce(u64) -> u64) -> Option<u64> {
        match self {
            Carries::PerMinute(count) => Some(change(count)),
            Carries::Everything => None,
        }
    }
}

fn carries(limits: &Limits) -> Carries {
    let short = |rate: &&Rate| rate.window.as_micros() as u64 <= WINDOW_US_MAX;
    let per_minute = |rate: &Rate| {
        let windows = WINDOW_US_MAX / rate.window.as_micros() as u64;
        u64::from(rate.count) * windows.max(1)
    };
    let rates = limits.rates.iter().filter(short).map(per_minute);
    rates.min().map_or(Carries::Everything, Carries::PerMinute)
}

/// The first span of a minute in which the limit was kept. One refusal is how one finds out
/// whether a limit still holds.
fn kept(spans: &[Bucket], percent: u64) -> Option<usize> {
    let good = |minute: &[Bucket]| {
        let over: u64 = minute.iter().map(|it| u64::from(it.over)).sum();
        let attempts: u64 = minute.iter().map(|it| u64::from(it.attempts)).sum();
        over <= 1 || over * 100 <= attempts * percent
    };
    spans.windows(SPANS.min(spans.len()).max(1)).position(good)
}

/// The end of the first minute in which the limit was used, or nothing waited any more.
fn used(spans: &[Bucket], mut waiting: u64, per_minute: Option<u64>) -> Option<usize> {
    if waiting <= 1 {
        return Some(0);
    }
    for (index, span) in spans.iter().enumerate() {
        waiting = (waiting + u64::from(span.arrived)).saturating_sub(u64::from(span.delivered));
        let first = (index + 1).saturating_sub(SPANS);
        let minute = &spans[first..=index];
        let delivered: u64 = minute.iter().map(|it| u64::from(it.delivered)).sum();
        let full = minute.len() == SPANS
            && per_minute.is_some_and(|most| delivered * 100 >= most * USED_PERCENT);
        if full {
            return Some(first);
        }
        if waiting <= u64::from(span.arrived) {
            return Some(index);
        }
    }
    None
}

fn waiting(spans: &[Bucket]) -> u64 {
    let arrived: u64 = spans.iter().map(|it| u64::from(it.arrived)).sum();
    let delivered: u64 = spans.iter().map(|it| u64::from(it.delivered)).sum();
    arrived.saturating_sub(delivered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(arrived: u32, delivered: u32, attempts: u32, over: u32) -> Bucket {
        Bucket {
            arrived,
            delivered,
            attempts,
            over,
            over_messages: over,
        }
    }

    #[test]
    fn a_lowered_limit_is_kept_from_the_first_good_minute_on() {
        let mut spans = vec![span(0, 10, 20, 10); 5];
        spans.extend(vec![span(0, 10, 10, 0); 20]);
        assert_eq!(kept(&spans, 1), Some(5));
        assert_eq!(kept(&spans[..5], 1), None);
        spans[10].over = 2;
        assert_eq!(kept(&spans, 1), Some(11));
        spans[10].over = 1;
        assert_eq!(
            kept(&spans, 1),
            Some(5),
            "one refusal tells that it still holds"
        );
        assert_eq!(kept(&[span(0, 0, 0, 0); 3], 1), Some(0));
    }

    #[test]
    fn a_raised_limit_is_used_when_a_minute_is_full_or_nothing_waits() {
        let mut spans = vec![span(0, 10, 10, 0); 4];
        spans.extend(vec![span(0, 90, 90, 0); 10]);
        assert_eq!(used(&spans, 10_000, Some(600)), Some(4));
        assert_eq!(
            used(&spans, 10_000, Some(601)),
            None,
            "540 are less than 90 %"
        );
        assert_eq!(used(&spans, 1, Some(600)), Some(0), "nothing waited");
        assert_eq!(
            used(&spans, 130, Some(600)),
            Some(4),
            "then nothing waits any more"
        );
        assert_eq!(used(&spans, 10_000, None), None);
    }
}
