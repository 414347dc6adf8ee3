//! A few names that every shard knows at once, without a lock: hashes in a fixed table of atomics,
//! probed linearly. A name that has been put in stays, marked or not; when the table has no room
//! near its place it is not put in, and is then not marked either.

use core::sync::atomic::{AtomicU64, Ordering};

const SLOTS: usize = 1 << 12;
const PROBES: usize = 16;
/// Set while the name is marked; the other bits are those of the hash.
const MARKED: u64 = 1;

pub struct Marks {
    slots: Box<[AtomicU64]>,
}

impl Default for Marks {
    fn default() -> Marks {
        Marks {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Marks {
    /// Marks a name. False if there is no room for it.
    pub fn mark(&self, hash: u64) -> bool {
        for slot in self.probes(hash) {
            let seen = slot.load(Ordering::SeqCst);
            if seen != 0 && seen & !MARKED != name_of(hash) {
                continue;
            }
            let marked = name_of(hash) | MARKED;
            match slot.compare_exchange(seen, marked, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) if now & !MARKED == name_of(hash) => {
                    slot.fetch_or(MARKED, Ordering::SeqCst);
                    return true;
                }
                Err(_) => {}
            }
        }
        false
    }

    /// Takes the mark away; that there was one is still known.
    pub fn unmark(&self, hash: u64) {
        if let Some(slot) = self.slot_of(hash) {
            slot.fetch_and(!MARKED, Ordering::SeqCst);
        }
    }

    pub fn is_marked(&self, hash: u64) -> bool {
        let slot = self.slot_of(hash);
        slot.is_some_and(|slot| slot.load(Ordering::SeqCst) & MARKED != 0)
    }

    /// Whether it is marked or has ever been.
    pub fn is_known(&self, hash: u64) -> bool {
        self.slot_of(hash).is_some()
    }

    /// Nothing is ever taken out, so that a search ends at the first empty slot.
    fn slot_of(&self, hash: u64) -> Option<&AtomicU64> {
        let mut probes = self
            .probes(hash)
            .map(|slot| (slot, slot.load(Ordering::SeqCst)))
            .take_while(|(_, seen)| *seen != 0);
        let found = probes.find(|(_, seen)| seen & !MARKED == name_of(hash));
        found.map(|(slot, _)| slot)
    }

    fn probes(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        (0..PROBES)
            .map(move |probe| &self.slots[((hash >> 1) as usize).wrapping_add(probe) % SLOTS])
    }
}

/// No name is the empty slot.
fn name_of(hash: u64) -> u64 {
    (hash & !MARKED).max(MARKED << 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::hash_bytes;

    #[test]
    fn what_is_marked_is_known_from_then_on() {
        let marks = Marks::default();
        let hash = |n: u64| hash_bytes(&n.to_le_bytes());
        for n in 0..500 {
            assert!(!marks.is_known(hash(n)));
            assert!(marks.mark(hash(n)) && marks.mark(hash(n)));
        }
        marks.unmark(hash(7));
        marks.unmark(hash(900));
        for n in 0..1_000 {
            assert_eq!(marks.is_known(hash(n)), n < 500, "{n}");
            assert_eq!(marks.is_marked(hash(n)), n < 500 && n != 7, "{n}");
        }
        assert!(marks.mark(hash(7)) && marks.is_marked(hash(7)));
    }

    #[test]
    fn without_room_nothing_is_marked() {
        let marks = Marks::default();
        let place = |n: u64| (n << 32) | 4;
        let marked = (1..100).filter(|n| marks.mark(place(*n))).count();
        assert_eq!(marked, PROBES);
        assert!(marks.is_marked(place(PROBES as u64)));
        assert!(!marks.is_known(place(PROBES as u64 + 1)));
    }

    #[test]
    fn threads_agree_on_one_slot_for_a_name() {
        let marks = Marks::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (1..500u64).for_each(|n| assert!(marks.mark(n * 2))));
            }
        });
        let used = |slot: &&AtomicU64| slot.load(Ordering::SeqCst) != 0;
        assert_eq!(marks.slots.iter().filter(used).count(), 499);
    }
}
