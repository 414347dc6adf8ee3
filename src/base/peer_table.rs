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
        let tag = tag_of(hash);
        loop {
            let Some(index) = self.place(hash) else {
                return Some(PeerSlot(None));
            };
            let slot = &self.slots[index];
            let mut seen = slot.load(Ordering::SeqCst);
            // Until another peer has taken the place meanwhile; then there is another place.
            while let Some(count) = count_of(seen, tag) {
                if count >= bound(max) {
                    return None;
                }
                let next = tag | (count + 1);
                match slot.compare_exchange(seen, next, Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => return Some(PeerSlot(Some(index as u32))),
                    Err(now) => seen = now,
                }
            }
        }
    }

    /// Whether [`Self::reserve`] would succeed at this moment.
    pub fn has_room(&self, hash: u64, max: u32) -> bool {
        let Some(index) = self.place(hash) else {
            return true;
        };
        let seen = self.slots[index].load(Ordering::SeqCst);
        count_of(seen, tag_of(hash)).is_none_or(|count| count < bound(max))
    }

    pub fn release(&self, slot: PeerSlot) {
        if let Some(index) = slot.0 {
            let before = self.slots[index as usize].fetch_sub(1, Ordering::SeqCst);
            assert!(before & COUNT_MASK > 0, "released more than was reserved");
        }
    }

    /// The slot that bears the peer's name, or else the first empty one. A peer may stand behind a
    /// slot that has become empty since, so all are looked at up to one that never had a name.
    fn place(&self, hash: u64) -> Option<usize> {
        let tag = tag_of(hash);
        let mut empty = None;
        for probe in 0..PROBES {
            let index = (hash as usize).wrapping_add(probe) % SLOTS;
            let seen = self.slots[index].load(Ordering::SeqCst);
            if seen & !COUNT_MASK == tag {
                return Some(index);
            }
            if seen & COUNT_MASK == 0 {
                empty = empty.or(Some(index));
            }
            if seen == 0 {
                break;
            }
        }
        empty
    }
}

fn tag_of(hash: u64) -> u64 {
    (hash >> COUNT_BITS).max(1) << COUNT_BITS
}

fn bound(max: u32) -> u64 {
    u64::from(max).min(COUNT_MASK)
}

/// What a slot counts for the peer with this tag; nothing if another peer has it.
fn count_of(seen: u64, tag: u64) -> Option<u64> {
    match seen & COUNT_MASK {
        _ if seen & !COUNT_MASK == tag => Some(seen & COUNT_MASK),
        0 => Some(0),
        _ => None,
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
    fn a_peer_keeps_its_one_place_when_one_before_it_becomes_empty() {
        let table = PeerTable::default();
        let first = table.reserve(1 << 32, 9).expect("room");
        let second = table.reserve(2 << 32, 1).expect("room");
        table.release(first);
        assert_eq!(table.reserve(2 << 32, 1), None);
        assert!(!table.has_room(2 << 32, 1));
        table.release(second);
        assert!(table.reserve(2 << 32, 1).is_some());
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
