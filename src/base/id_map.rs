//! A map from the program's own ids to small values, for tens of millions of them. Such ids are
//! counted up, so what they have in common need not be kept with each: a value costs its size and
//! less than a byte where ids are dense, and some 60 bytes where one of 64 is here. Neighbours lie
//! together, so that what comes in the order of its ids is found where the one before it was.
//!
//! Memory is taken and given back for a few values at a time: no call ever pays for moving more
//! than [`GROUP`] of them, and growth needs no second copy of anything. Ids are never chosen by a
//! peer.

use core::marker::PhantomData;

use crate::base::map::Map;

const GROUP_BITS: u32 = 6;

/// Ids that share a group: they differ in their last bits only.
pub const GROUP: u64 = 1 << GROUP_BITS;

/// Values by id.
#[derive(Debug)]
pub struct IdMap<K, V> {
    /// Groups of values, by the ids without their last 12 bits.
    nodes: Map<u64, Row<Row<V>>>,
    len: usize,
    ids: PhantomData<K>,
}

/// Up to 64 values by a number below 64, without room for those that are not here.
#[derive(Debug)]
struct Row<V> {
    /// A bit for each that is here.
    here: u64,
    /// Those that are here, in order.
    values: Vec<V>,
}

impl<K, V> Default for IdMap<K, V> {
    fn default() -> IdMap<K, V> {
        IdMap {
            nodes: Map::default(),
            len: 0,
            ids: PhantomData,
        }
    }
}

impl<K, V> IdMap<K, V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Those whose ids differ from `group` times [`GROUP`] in their last bits only, by id.
    pub fn group(&self, group: u64) -> impl Iterator<Item = (u64, &V)> {
        let row = self.row(group);
        let mut here = row.map_or(0, |row| row.here);
        let values = row.into_iter().flat_map(|row| &row.values);
        values.map(move |value| {
            let place = here.trailing_zeros();
            here &= here - 1;
            (group << GROUP_BITS | u64::from(place), value)
        })
    }

    /// All of them, neighbours together.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        let nodes = self.nodes.keys();
        let groups = nodes.flat_map(|node| (0..GROUP).map(move |it| node << GROUP_BITS | it));
        groups.flat_map(|group| self.group(group))
    }

    fn row(&self, group: u64) -> Option<&Row<V>> {
        self.nodes.get(&node_of(group))?.get(place_of(group))
    }
}

impl<K, V> IdMap<K, V>
where
    u64: From<K>,
{
    pub fn get(&self, id: K) -> Option<&V> {
        let id = u64::from(id);
        self.row(group_of(id))?.get(place_of(id))
    }

    pub fn get_mut(&mut self, id: K) -> Option<&mut V> {
        let id = u64::from(id);
        let group = group_of(id);
        let node = self.nodes.get_mut(&node_of(group))?;
        node.get_mut(place_of(group))?.get_mut(place_of(id))
    }

    /// Adds a value, or takes the place of the one that was there, which is given back.
    pub fn insert(&mut self, id: K, value: V) -> Option<V> {
        let id = u64::from(id);
        let group = group_of(id);
        let node = self.nodes.entry(node_of(group)).or_default();
        let row = node.get_or_insert(place_of(group));
        let before = row.insert(place_of(id), value);
        self.len += usize::from(before.is_none());
        before
    }

    pub fn remove(&mut self, id: K) -> Option<V> {
        let id = u64::from(id);
        let group = group_of(id);
        let node = self.nodes.get_mut(&node_of(group))?;
        let row = node.get_mut(place_of(group))?;
        let value = row.remove(place_of(id))?;
        self.len -= 1;
        if row.here == 0 {
            node.remove(place_of(group));
            if node.here == 0 {
                self.nodes.swap_remove(&node_of(group));
            }
        }
        Some(value)
    }
}

/// Which group an id belongs to.
pub fn group_of(id: u64) -> u64 {
    id >> GROUP_BITS
}

fn node_of(group: u64) -> u64 {
    group >> GROUP_BITS
}

fn place_of(number: u64) -> u32 {
    (number % GROUP) as u32
}

impl<V> Default for Row<V> {
    fn default() -> Row<V> {
        Row {
            here: 0,
            values: Vec::new(),
        }
    }
}

impl<V> Row<V> {
    /// Where the value of a place is, or would be.
    fn index(&self, place: u32) -> usize {
        (self.here & ((1 << place) - 1)).count_ones() as usize
    }

    fn holds(&self, place: u32) -> bool {
        self.here >> place & 1 != 0
    }

    fn get(&self, place: u32) -> Option<&V> {
        self.holds(place).then(|| &self.values[self.index(place)])
    }

    fn get_mut(&mut self, place: u32) -> Option<&mut V> {
        let index = self.index(place);
        self.holds(place).then(|| &mut self.values[index])
    }

    fn insert(&mut self, place: u32, value: V) -> Option<V> {
        if let Some(known) = self.get_mut(place) {
            return Some(core::mem::replace(known, value));
        }
        self.add(place, value);
        None
    }

    fn get_or_insert(&mut self, place: u32) -> &mut V
    where
        V: Default,
    {
        if !self.holds(place) {
            self.add(place, V::default());
        }
        let index = self.index(place);
        &mut self.values[index]
    }

    /// Adds a value that is not here.
    fn add(&mut self, place: u32, value: V) {
        let length = self.values.len();
        if length == self.values.capacity() {
            self.values
                .reserve_exact(spare(length).min(GROUP as usize - length));
        }
        let index = self.index(place);
        self.values.insert(index, value);
        self.here |= 1 << place;
    }

    fn remove(&mut self, place: u32) -> Option<V> {
        if !self.holds(place) {
            return None;
        }
        let index = self.index(place);
        let value = self.values.remove(index);
        self.here &= !(1 << place);
        let length = self.values.len();
        if self.values.capacity() > length + 2 * spare(length) {
            self.values.shrink_to(length + spare(length));
        }
        Some(value)
    }
}

/// Room for more in a row of so many values, so that it is seldom moved and little is vacant.
fn spare(length: usize) -> usize {
    1 + length / 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use std::collections::BTreeMap;

    #[test]
    fn it_holds_what_a_map_holds_and_can_be_gone_through() {
        let mut prng = Prng::stream(2, "id map");
        let mut map: IdMap<u64, u64> = IdMap::default();
        let mut model = BTreeMap::new();
        for step in 0..200_000 {
            // Dense ones, and others far from each other, in turns.
            let id = match prng.chance(1, 2) {
                true => prng.below(3_000),
                false => prng.below(3_000) << 9 | 1 << 40,
            };
            if prng.chance(1, 2) {
                assert_eq!(map.insert(id, step), model.insert(id, step));
            } else {
                assert_eq!(map.remove(id), model.remove(&id));
            }
            let probe = prng.below(3_000);
            assert_eq!(map.get(probe), model.get(&probe));
            assert_eq!(map.get_mut(probe), model.get_mut(&probe));
            assert_eq!(map.len(), model.len());
        }
        let mut found: Vec<_> = map.iter().map(|(id, value)| (id, *value)).collect();
        found.sort_unstable();
        let expected: Vec<_> = model.iter().map(|(id, value)| (*id, *value)).collect();
        assert_eq!(found, expected);
        let group: Vec<u64> = map.group(2).map(|(id, _)| id).collect();
        let expected: Vec<u64> = model.range(128..192).map(|(id, _)| *id).collect();
        assert_eq!(group, expected);
        for id in model.keys() {
            map.remove(*id);
        }
        assert!(map.is_empty() && map.nodes.is_empty());
    }

    /// What the values of a map take, and the rows that lead to them.
    fn bytes_of(map: &IdMap<u64, u64>) -> usize {
        let of_row = |row: &Row<u64>| row.values.capacity() * size_of::<u64>();
        let of_node = |node: &Row<Row<u64>>| {
            let rows = node.values.capacity() * size_of::<Row<u64>>();
            rows + node.values.iter().map(of_row).sum::<usize>()
        };
        map.nodes.values().map(of_node).sum()
    }

    #[test]
    fn memory_follows_what_is_there() {
        let mut map: IdMap<u64, u64> = IdMap::default();
        for id in 0..100_000 {
            map.insert(id, id);
        }
        assert!(bytes_of(&map) < 100_000 * 9, "{}", bytes_of(&map));
        for id in (0..100_000).filter(|id| id % 64 != 5) {
            map.remove(id);
        }
        let each = bytes_of(&map) / map.len();
        assert!(each <= 2 * size_of::<Row<u64>>(), "{each}");
    }
}
