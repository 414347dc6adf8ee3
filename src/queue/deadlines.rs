//! One deadline per entry: its next attempt or its expiry, whichever comes first. Deadlines are
//! rounded up to ticks that grow coarser with distance, up to about a second: never early, late
//! by at most 1/256 of the wait and [`LATE_MAX`]. So a million delayed entries share some
//! thousand ticks, and unlike in a wheel nothing is ever moved towards its slot.
//!
//! The entries of a tick stand in buckets, in rows of bare indices. One that takes its deadline
//! back stays in the row and is passed over, so that nothing is touched but itself; a bucket goes
//! when none is left in it, and is sifted when few are and too much room is lost in all.
//!
//! Setting a deadline costs a search among the ticks, O(log ticks); taking one back costs a search
//! if its bucket becomes empty, and now and then a look at [`BUCKET_MAX`] entries.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::base::time::Mono;
use crate::queue::pool::Links;
use crate::queue::pool::List;
use crate::queue::pool::NONE;
use crate::queue::pool::Pool;

/// The coarsest tick, which bounds how late a deadline can be.
pub const LATE_MAX: Duration = Duration::from_millis(GRAIN_MS_MAX);

const GRAIN_MS_MAX: u64 = 1_024;
const TICK_US: u64 = 1_000;

/// Entries of one bucket, those that took their deadline back included.
const BUCKET_MAX: usize = 512;
/// A bucket is worth sifting when no more than one in so many of its places counts.
const SPARSE_PARTS: usize = 4;
/// Lost places that are never worth a sifting.
const LOST_MIN: usize = 1_024;

/// What has a deadline: the bucket that counts, or [`NONE`]. Kept in the entry itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline(u32);

impl Deadline {
    pub const UNSET: Deadline = Deadline(NONE);

    pub fn is_set(self) -> bool {
        self != Deadline::UNSET
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
    /// Deadlines that are set.
    set: u32,
    /// Members before this one have come.
    next: u32,
    /// In the order in which they were set. One counts if its deadline says so, and once.
    members: Vec<u32>,
    /// Among those of its tick.
    place: Links,
}

#[derive(Default)]
pub struct Deadlines {
    buckets: Pool<Bucket>,
    order: BTreeMap<u64, List>,
    set: usize,
    /// Places in buckets that do not count.
    lost: usize,
}

impl Deadlines {
    /// Sets the deadline of `index`, which must have none, to `at` or a little later.
    pub fn set<T, D>(&mut self, pool: &mut Pool<T>, index: u32, when: When, of: D)
    where
        D: Fn(&mut T) -> &mut Deadline,
    {
        let tick = bucket_tick(when);
        let list = self.order.entry(tick).or_insert(List::EMPTY);
        let mut bucket = list.tail;
        if bucket == NONE || self.buckets[bucket].members.len() >= BUCKET_MAX {
            let made = Bucket {
                tick,
                set: 0,
                next: 0,
                members: Vec::new(),
                place: Links::LOOSE,
            };
            bucket = self.buckets.insert(made).index;
            list.push_back(&mut self.buckets, bucket, |bucket| &mut bucket.place);
        }
        let into = &mut self.buckets[bucket];
        into.members.push(index);
        into.set += 1;
        self.set += 1;
        *of(&mut pool[index]) = Deadline(bucket);
    }

    /// Takes the deadline of `index` back, if it has one.
    pub fn clear<T, D>(&mut self, pool: &mut Pool<T>, index: u32, of: D)
    where
        D: Fn(&mut T) -> &mut Deadline,
    {
        let deadline = core::mem::replace(of(&mut pool[index]), Deadline::UNSET);
        if !deadline.is_set() {
            return;
        }
        self.lost += 1;
        self.unset(deadline.0);
        let crowded = self.lost > self.set / 2 + LOST_MIN;
        if crowded && self.buckets.get(deadline.0).is_some_and(Bucket::is_sparse) {
            self.sift(pool, deadline.0, of);
        }
    }

    /// The next one whose deadline has passed; its deadline is unset.
    pub fn pop<T, D>(&mut self, pool: &mut Pool<T>, now: Mono, of: D) -> Option<u32>
    where
        D: Fn(&mut T) -> &mut Deadline,
    {
        let (tick, list) = self.order.first_key_value()?;
        if *tick > now.0 / TICK_US {
            return None;
        }
        let head = list.head;
        loop {
            let bucket = &mut self.buckets[head];
            let index = bucket.members[bucket.next as usize];
            bucket.next += 1;
            let deadline = pool.get_mut(index).map(&of);
            match deadline.filter(|it| **it == Deadline(head)) {
                Some(deadline) => {
                    *deadline = Deadline::UNSET;
                    self.unset(head);
                    return Some(index);
                }
                None => self.lost -= 1,
            }
        }
    }

    pub fn next(&self) -> Option<Mono> {
        self.order
            .first_key_value()
            .map(|(tick, _)| Mono(tick.saturating_mul(TICK_US)))
    }

    /// When a set deadline comes.
    pub fn at(&self, deadline: Deadline) -> Option<Mono> {
        let bucket = self.buckets.get(deadline.0)?;
        Some(Mono(bucket.tick.saturating_mul(TICK_US)))
    }

    /// One deadline of a bucket counts no more.
    fn unset(&mut self, bucket: u32) {
        self.set -= 1;
        let of = &mut self.buckets[bucket];
        of.set -= 1;
        if of.set > 0 {
            return;
        }
        self.lost -= of.left().len();
        let tick = of.tick;
        if let Some(list) = self.order.get_mut(&tick) {
            list.remove(&mut self.buckets, bucket, |bucket| &mut bucket.place);
            if list.len == 0 {
                self.order.remove(&tick);
            }
        }
        self.buckets.remove(bucket);
    }

    /// Leaves only members that count in a bucket, each once.
    fn sift<T, D>(&mut self, pool: &mut Pool<T>, index: u32, of: D)
    where
        D: Fn(&mut T) -> &mut Deadline,
    {
        let bucket = &mut self.buckets[index];
        let mut kept = Vec::with_capacity(bucket.set as usize);
        for member in bucket.left() {
            let deadline = pool.get_mut(*member).map(&of);
            if let Some(deadline) = deadline.filter(|it| **it == Deadline(index)) {
                // So that it is not kept again.
                *deadline = Deadline::UNSET;
                kept.push(*member);
            }
        }
        for member in &kept {
            *of(&mut pool[*member]) = Deadline(index);
        }
        self.lost -= bucket.left().len() - kept.len();
        bucket.members = kept;
        bucket.next = 0;
    }
}

impl Bucket {
    /// Members that have not come yet.
    fn left(&self) -> &[u32] {
        &self.members[self.next as usize..]
    }

    fn is_sparse(&self) -> bool {
        self.left().len() >= SPARSE_PARTS * self.set as usize
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
    fn deadlines_that_are_taken_back_leave_little_behind() {
        let mut pool = Pool::default();
        let mut deadlines = Deadlines::default();
        let mut prng = Prng::new(3);
        let of: fn(&mut Deadline) -> &mut Deadline = |deadline| deadline;
        let mut at_of = std::collections::BTreeMap::new();
        for step in 0..200_000_u64 {
            let at = Mono(10_000_000 + prng.below(20) * 1_000_000);
            let when = When { now: Mono(0), at };
            if step < 20_000 {
                let index = pool.insert(Deadline::UNSET).index;
                deadlines.set(&mut pool, index, when, of);
                at_of.insert(index, bucket_tick(when));
                continue;
            }
            // The same few come and go among many that stay.
            let index = (prng.below(200) * 100) as u32;
            if at_of.remove(&index).is_some() {
                deadlines.clear(&mut pool, index, of);
                if prng.chance(1, 2) {
                    pool.remove(index);
                    assert_eq!(pool.insert(Deadline::UNSET).index, index);
                }
            } else {
                deadlines.set(&mut pool, index, when, of);
                at_of.insert(index, bucket_tick(when));
            }
        }
        let members = |bucket: u32| {
            deadlines
                .buckets
                .get(bucket)
                .map_or(0, |it| it.members.len())
        };
        let places: usize = (0..deadlines.buckets.slots()).map(members).sum();
        assert_eq!(places, deadlines.set + deadlines.lost);
        assert_eq!(deadlines.set, at_of.len());
        let room = SPARSE_PARTS * at_of.len() + LOST_MIN;
        assert!(places < room, "{places} for {}", at_of.len());
        let mut last = 0;
        while let Some(index) = deadlines.pop(&mut pool, Mono(60_000_000), of) {
            let tick = at_of.remove(&index).expect("set, and not come yet");
            assert!(tick >= last);
            last = tick;
        }
        assert!(at_of.is_empty());
        assert_eq!((deadlines.buckets.len(), deadlines.lost), (0, 0));
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
