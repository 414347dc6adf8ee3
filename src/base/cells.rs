//! Cells: the one thing that shards share. A cell is a few atomics; taking from it never blocks.
//!
//! What is counted is ordered with all other such counts and with the flags of those who wait for
//! it (`SeqCst`): who raises a flag and then finds no room is seen by whoever makes room next.
//! Weaker orders would let both look past each other, and on x86 cost as much.

use core::sync::atomic::{AtomicU64, Ordering};

/// How many of something may exist at once, over all shards together.
#[derive(Debug, Default)]
pub struct LimitCell {
    used: AtomicU64,
}

impl LimitCell {
    pub fn new() -> LimitCell {
        LimitCell::default()
    }

    /// Takes one if fewer than `max` are in use. The caller gives it back with [`Self::release`].
    pub fn reserve(&self, max: u64) -> bool {
        let take = |used| if used < max { Some(used + 1) } else { None };
        self.used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .is_ok()
    }

    pub fn release(&self) {
        let before = self.used.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0, "released more than was reserved");
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }
}

/// A number that one side publishes and others read, such as the free space of the disk.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_exact_under_threads() {
        let cell = LimitCell::new();
        let taken: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1_000).filter(|_| cell.reserve(1_500)).count()))
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum()
        });
        assert_eq!(taken, 1_500);
        cell.release();
        assert!(cell.reserve(1_500));
        assert!(!cell.reserve(1_500));
    }
}
