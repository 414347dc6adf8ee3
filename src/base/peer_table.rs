//! How many connections each peer has, over all shards, without a lock: a fixed table of atomics,
//! probed linearly. A slot holds 48 bits of the peer's hash and a count of 16 bits.
//!
//! Two shards that meet a new peer in the same instant may, very rarely, give it two slots; its
//! limit then binds per slot until one of them is empty. When the table has no room near a peer's
//! place, the peer is counted nowhere and let in: the limit of all connections still holds.

use core::sync::atomic::{AtomicU64, Ordering};

const SLOTS: usize = 1 << 16;
const PROBES: usize = 32;
const COUNT_BITS: u32 = 16;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

pub struct PeerTable {
    slots: Box<[AtomicU64]>,
}

/// A place in the table; give it back with [`PeerTable::release`].
#[derive(Debug, PartialEq, Eq)]
pub struct PeerSlot(Option<u32>);

impl Default for PeerTable {
    fn default() -> PeerTable {
        PeerTable {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl PeerTable {
    /// Counts one more for the peer with this hash, unless it has `max` already.
    pub fn reserve(&self, hash: u64, max: u32) -> Option<PeerSlot> {
        let tag = (hash >> COUNT_BITS).max(1) << COUNT_BITS;
        let max = u64::from(max).min(COUNT_MASK);
        for probe in 0..PROBES {
            let index = (hash as usize).wrapping_add(probe) % SLOTS;
            let slot = &self.slots[index];
            let mut seen = slot.load(Ordering::Relaxed);
            loop {
                let count = seen & COUNT_MASK;
                let mine = seen & !COUNT_MASK == tag;
                if !mine && count > 0 {
                    break;
                }
                let count = if mine { count } else { 0 };
                if count >= max {
                    return None;
                }
                let next = tag | (count + 1);
                match slot.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => return Some(PeerSlot(Some(index as u32))),
                    Err(now) => seen = now,
                }
            }
        }
        Some(PeerSlot(None))
    }

    /// Whether [`Self::reserve`] would succeed at this moment.
    pub fn has_room(&self, hash: u64, max: u32) -> bool {
        let tag = (hash >> COUNT_BITS).max(1) << COUNT_BITS;
        let slots = (0..PROBES).map(|probe| (hash as usize).wrapping_add(probe) % SLOTS);
        let mut seen = slots.map(|index| self.slots[index].load(Ordering::Relaxed));
        let mine = seen.find(|seen| seen & !COUNT_MASK == tag);
        mine.is_none_or(|seen| seen & COUNT_MASK < u64::from(max).min(COUNT_MASK))
    }

    pub fn release(&self, slot: PeerSlot) {
        if let Some(index) = slot.0 {
            let before = self.slots[index as usize].fetch_sub(1, Ordering::Relaxed);
            assert!(before & COUNT_MASK > 0, "released more than was reserved");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::hash_bytes;

    #[test]
    fn each_peer_has_its_own_limit_and_gets_its_places_back() {
        let table = PeerTable::default();
        let hash = |n: u64| hash_bytes(&n.to_le_bytes());
        let mut held = Vec::new();
        for peer in 0..1_000 {
            for _ in 0..3 {
                held.push(table.reserve(hash(peer), 3).expect("within the limit"));
            }
            assert_eq!(table.reserve(hash(peer), 3), None);
            assert!(!table.has_room(hash(peer), 3) && table.has_room(hash(peer), 4));
        }
        for slot in held.drain(..) {
            table.release(slot);
        }
        for peer in 0..1_000 {
            assert!(table.reserve(hash(peer), 1).is_some());
        }
    }

    #[test]
    fn a_full_neighbourhood_lets_peers_in_uncounted() {
        let table = PeerTable::default();
        for peer in 1..=PROBES as u64 {
            table.reserve(peer << 32, 9).expect("room");
        }
        assert_eq!(table.reserve(99 << 32, 9), Some(PeerSlot(None)));
    }
}
