//! Finds what lives at an index by its id: an open-addressing table of bare indices, 5 to 10 bytes
//! for each. The ids stay where they are; whoever asks says how to read the one at an index.
//!
//! The table is divided into many small ones that grow one by one, so that no call ever pays for
//! moving all of a large one. Ids are the program's own, never chosen by a peer.

use crate::base::prng::splitmix64;

/// No index.
const NONE: u32 = u32::MAX;

const PART_BITS: u32 = 10;
const PARTS: usize = 1 << PART_BITS;
const SLOTS_MIN: usize = 4;

#[derive(Debug)]
pub struct IdTable {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, Default)]
struct Part {
    /// A power of two of them, or none.
    slots: Box<[u32]>,
    used: u32,
}

impl Default for IdTable {
    fn default() -> IdTable {
        IdTable {
            parts: vec![Part::default(); PARTS].into_boxed_slice(),
        }
    }
}

impl IdTable {
    /// The index of an id, if it is here.
    pub fn find(&self, id: u64, id_of: impl Fn(u32) -> u64) -> Option<u32> {
        let hash = hash(id);
        let part = &self.parts[part_of(hash)];
        let at = part.find(hash, |index| id_of(index) == id)?;
        Some(part.slots[at])
    }

    /// Adds an id that is not here.
    pub fn insert(&mut self, id: u64, index: u32, id_of: impl Fn(u32) -> u64) {
        assert!(index != NONE, "fewer than 2^32 values");
        let hash = hash(id);
        let part = &mut self.parts[part_of(hash)];
        // At most seven eighths are used, so that every search comes to a free slot soon.
        if (part.used as usize + 1) * 8 > part.slots.len() * 7 {
            part.grow(id_of);
        }
        part.put(hash, index);
        part.used += 1;
    }

    /// Takes an id out and gives its index.
    pub fn remove(&mut self, id: u64, id_of: impl Fn(u32) -> u64) -> Option<u32> {
        let hash = hash(id);
        let part = &mut self.parts[part_of(hash)];
        let at = part.find(hash, |index| id_of(index) == id)?;
        let index = part.slots[at];
        part.take(at, id_of);
        Some(index)
    }

    /// What lived at `from` lives at `to` now.
    pub fn moved(&mut self, id: u64, from: u32, to: u32) {
        let hash = hash(id);
        let part = &mut self.parts[part_of(hash)];
        if let Some(at) = part.find(hash, |index| index == from) {
            part.slots[at] = to;
        }
    }
}

impl Part {
    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = hash as usize & self.mask();
        while self.slots[at] != NONE {
            if is_it(self.slots[at]) {
                return Some(at);
            }
            at = (at + 1) & self.mask();
        }
        None
    }

    fn put(&mut self, hash: u64, index: u32) {
        let mut at = hash as usize & self.mask();
        while self.slots[at] != NONE {
            at = (at + 1) & self.mask();
        }
        self.slots[at] = index;
    }

    fn grow(&mut self, id_of: impl Fn(u32) -> u64) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        self.resize(slots, id_of);
    }

    fn resize(&mut self, slots: usize, id_of: impl Fn(u32) -> u64) {
        let before = core::mem::replace(&mut self.slots, vec![NONE; slots].into_boxed_slice());
        for index in before.into_iter().filter(|index| *index != NONE) {
            self.put(hash(id_of(index)), index);
        }
    }

    /// Empties a slot, and moves up those that had to go on because of it.
    fn take(&mut self, at: usize, id_of: impl Fn(u32) -> u64) {
        let mask = self.mask();
        let mut hole = at;
        let mut next = (at + 1) & mask;
        while self.slots[next] != NONE {
            let home = hash(id_of(self.slots[next])) as usize & mask;
            // It may move if the hole lies between its own place and where it is.
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.slots[hole] = NONE;
        self.used -= 1;
        // Memory comes back when most of a part is gone.
        if self.slots.len() > SLOTS_MIN && (self.used as usize) * 8 < self.slots.len() {
            self.resize(self.slots.len() / 2, id_of);
        }
    }
}

fn part_of(hash: u64) -> usize {
    (hash >> (64 - PART_BITS)) as usize
}

/// Ids count up: their bits are spread over all places.
fn hash(mut id: u64) -> u64 {
    splitmix64(&mut id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use std::collections::BTreeMap;

    #[test]
    fn it_finds_what_a_map_finds() {
        let mut prng = Prng::stream(1, "id table");
        let mut table = IdTable::default();
        let mut ids: Vec<u64> = Vec::new();
        let mut model: BTreeMap<u64, u32> = BTreeMap::new();
        for step in 0..200_000_u64 {
            // Grows first and shrinks then, to nothing.
            let grows = prng.chance(if step < 100_000 { 6 } else { 2 }, 10);
            if grows {
                let id = 1_000_000 + step;
                let index = ids.len() as u32;
                ids.push(id);
                table.insert(id, index, |index| ids[index as usize]);
                model.insert(id, index);
            } else if !ids.is_empty() {
                // As a dense store does it: the last one takes the place of the one that goes.
                let at = prng.below(ids.len() as u64) as usize;
                let (id, last) = (ids[at], ids.len() - 1);
                let removed = table.remove(id, |index| ids[index as usize]);
                assert_eq!(removed, model.remove(&id));
                if at != last {
                    table.moved(ids[last], last as u32, at as u32);
                    model.insert(ids[last], at as u32);
                }
                ids.swap_remove(at);
            }
            let probe = 1_000_000 + prng.below(step + 2);
            let found = table.find(probe, |index| ids[index as usize]);
            assert_eq!(found, model.get(&probe).copied());
        }
        for id in model.keys() {
            table.remove(*id, |index| ids[index as usize]);
        }
        let slots: usize = table.parts.iter().map(|part| part.slots.len()).sum();
        assert!(slots <= PARTS * SLOTS_MIN, "memory comes back: {slots}");
    }
}
