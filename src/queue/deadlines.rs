//! One deadline per entry: its next attempt or its expiry, whichever comes first. Deadlines are
//! rounded up to buckets that grow coarser with distance, up to about a second: never early, late
//! by at most 1/256 of the wait and [`LATE_MAX`]. So a million delayed entries share some
//! thousand buckets, an entry pays two links, and unlike in a wheel nothing is ever moved towards
//! its slot: an entry is linked once and unlinked once.
//!
//! Setting a deadline costs a search among the buckets, O(log buckets); taking one back costs two
//! links, and a search if its bucket becomes empty.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::base::time::Mono;
use crate::queue::pool::Links;
use crate::queue::pool::List;
use crate::queue::pool::NONE;
use crate::queue::pool::Pool;

/// The coarsest bucket, which bounds how late a deadline can be.
pub const LATE_MAX: Duration = Duration::from_millis(GRAIN_MS_MAX);

const GRAIN_MS_MAX: u64 = 1_024;
const TICK_US: u64 = 1_000;

/// What has a deadline. Kept in the entry itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline {
    links: Links,
    /// Where it is linked; [`NONE`] if no deadline is set.
    bucket: u32,
}

impl Deadline {
    pub const UNSET: Deadline = Deadline {
        links: Links::LOOSE,
        bucket: NONE,
    };

    pub fn is_set(self) -> bool {
        self.bucket != NONE
    }
}

/// When a deadline is, seen from when it is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct When {
    pub now: Mono,
    pub at: Mono,
}

struct Bucket {
    tick: u64,
    list: List,
}

#[derive(Default)]
pub struct Deadlines {
    buckets: Pool<Bucket>,
    order: BTreeMap<u64, u32>,
}

impl Deadlines {
    /// Sets the deadline of `index`, which must have none, to `at` or a little later.
    pub fn set<T, D>(&mut self, pool: &mut Pool<T>, index: u32, when: When, of: D)
    where
        D: Fn(&mut T) -> &mut Deadline,
    {
        let tick = bucket_tick(when);
        let buckets = &mut self.buckets;
        let make = || {
            buckets
                .insert(Bucket {
                    tick,
                    list: List::EMPTY,
                })
                .index
        };
        let bucket = *self.order.entry(tick).or_insert_with(make);
        self.buckets[bucket]
            .list
            .push_back(pool, index, |value| &mut of(value).links);
        of(&mut pool[index]).bucket = bucket;
    }

    /// Takes the deadline of `index` back, if it has one.
    pub fn clear<T, D>(&mut self, pool: &mut Pool<T>, index: u32, of: D)
    where
        D: Fn(&mut T) -> &mut Deadline,
    {
        let bucket = core::mem::replace(&mut of(&mut pool[index]).bucket, NONE);
        if bucket == NONE {
            return;
        }
        let list = &mut self.buckets[bucket].list;
        list.remove(pool, index, |value| &mut of(value).links);
        if list.len == 0 {
            let tick = self.buckets.remove(bucket).tick;
            self.order.remove(&tick);
        }
    }

    /// The next one whose deadline has passed; its deadline is unset.
    pub fn pop<T, D>(&mut self, pool: &mut Pool<T>, now: Mono, of: D) -> Option<u32>
    where
        D: Fn(&mut T) -> &mut Deadline,
    {
        let (tick, bucket) = self.order.first_key_value()?;
        if *tick > now.0 / TICK_US {
            return None;
        }
        let index = self.buckets[*bucket].list.head;
        self.clear(pool, index, of);
        Some(index)
    }

    pub fn next(&self) -> Option<Mono> {
        self.order
            .first_key_value()
            .map(|(tick, _)| Mono(tick.saturating_mul(TICK_US)))
    }

    /// When a set deadline comes.
    pub fn at(&self, deadline: Deadline) -> Option<Mono> {
        if !deadline.is_set() {
            return None;
        }
        Some(Mono(
            self.buckets[deadline.bucket].tick.saturating_mul(TICK_US),
        ))
    }
}

/// The first bucket boundary at or after `at`, in ticks; the present one if `at` has passed.
fn bucket_tick(When { now, at }: When) -> u64 {
    let present = now.0 / TICK_US;
    let at = at.0.div_ceil(TICK_US).max(present);
    let wanted = ((at - present) / 256).clamp(1, GRAIN_MS_MAX);
    let grain = 1 << (u64::BITS - 1 - wanted.leading_zeros());
    at.checked_next_multiple_of(grain).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    #[test]
    fn a_deadline_is_never_early_and_late_within_its_bound() {
        let mut prng = Prng::new(1);
        for _ in 0..100_000 {
            let reach = 1 << prng.between(1, 50);
            let now = Mono(prng.below(1 << 45));
            let at = Mono(now.0 + prng.below(reach));
            let fires = bucket_tick(When { now, at }) * TICK_US;
            assert!(fires + TICK_US > at.0, "early");
            let late_max = (at.0 - now.0) / 256 + TICK_US;
            assert!(
                fires <= at.0 + late_max.min(GRAIN_MS_MAX * TICK_US),
                "{now:?} {at:?}"
            );
        }
        assert_eq!(
            bucket_tick(When {
                now: Mono(5_000_000),
                at: Mono(3)
            }),
            5_000,
            "the past is now"
        );
        assert!(
            bucket_tick(When {
                now: Mono(0),
                at: Mono::MAX
            }) > 0
        );
    }

    #[test]
    fn deadlines_come_in_order_and_taken_back_ones_do_not_come() {
        let mut pool = Pool::default();
        let mut deadlines = Deadlines::default();
        let ats = [900_000, 5_000, 70_000, 5_000, 30_000_000];
        let of: fn(&mut Deadline) -> &mut Deadline = |deadline| deadline;
        for at in ats {
            let index = pool.insert(Deadline::UNSET).index;
            deadlines.set(
                &mut pool,
                index,
                When {
                    now: Mono(0),
                    at: Mono(at),
                },
                of,
            );
        }
        deadlines.clear(&mut pool, 2, of);
        deadlines.clear(&mut pool, 2, of);
        assert_eq!(deadlines.pop(&mut pool, Mono(4_999), of), None);
        assert_eq!(deadlines.next(), Some(Mono(5_000)));
        let mut fired = Vec::new();
        while let Some(index) = deadlines.pop(&mut pool, Mono(1_000_000), of) {
            assert!(!pool[index].is_set());
            fired.push(index);
        }
        assert_eq!(fired, [1, 3, 0]);
        assert_eq!(deadlines.pop(&mut pool, Mono(31_000_000), of), Some(4));
        assert_eq!((deadlines.next(), deadlines.buckets.len()), (None, 0));
    }

    #[test]
    fn far_deadlines_share_buckets() {
        let mut pool = Pool::default();
        let mut deadlines = Deadlines::default();
        let mut prng = Prng::new(2);
        for _ in 0..50_000 {
            let index = pool.insert(Deadline::UNSET).index;
            let at = Mono(prng.below(3_600_000_000));
            deadlines.set(&mut pool, index, When { now: Mono(0), at }, |deadline| {
                deadline
            });
        }
        assert!(
            deadlines.buckets.len() < 8_000,
            "{}",
            deadlines.buckets.len()
        );
    }
}
