//! A map from the program's own ids to small values, for tens of millions of them: a value costs
//! its size, that of the id, and 5 to 10 bytes. It grows by chunks, so that growth copies nothing
//! and wastes at most one chunk; a removal moves the last value into the gap, so that what is left
//! can be gone through by position.

use crate::base::id_table::IdTable;

const CHUNK_BITS: u32 = 10;
const CHUNK: usize = 1 << CHUNK_BITS;

#[derive(Debug)]
pub struct IdMap<K, V> {
    chunks: Vec<Vec<(K, V)>>,
    table: IdTable,
}

impl<K, V> Default for IdMap<K, V> {
    fn default() -> IdMap<K, V> {
        IdMap {
            chunks: Vec::new(),
            table: IdTable::default(),
        }
    }
}

impl<K: Copy, V> IdMap<K, V>
where
    u64: From<K>,
{
    /// What one value takes, its place in the table left out.
    pub const VALUE_BYTES: usize = size_of::<(K, V)>();

    pub fn len(&self) -> usize {
        match self.chunks.last() {
            Some(last) => (self.chunks.len() - 1) * CHUNK + last.len(),
            None => 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub fn get(&self, id: K) -> Option<&V> {
        let index = self.index_of(id)?;
        Some(&self.chunks[index >> CHUNK_BITS][index % CHUNK].1)
    }

    pub fn get_mut(&mut self, id: K) -> Option<&mut V> {
        let index = self.index_of(id)?;
        Some(&mut self.chunks[index >> CHUNK_BITS][index % CHUNK].1)
    }

    /// What stands at a position below [`Self::len`], in an order that removals change.
    pub fn at(&self, position: usize) -> Option<(K, &V)> {
        let (id, value) = self
            .chunks
            .get(position >> CHUNK_BITS)?
            .get(position % CHUNK)?;
        Some((*id, value))
    }

    /// Adds a value, or takes the place of the one that was there, which is given back.
    pub fn insert(&mut self, id: K, value: V) -> Option<V> {
        if let Some(known) = self.get_mut(id) {
            return Some(core::mem::replace(known, value));
        }
        let index = self.len();
        if index.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        self.chunks[index >> CHUNK_BITS].push((id, value));
        let chunks = &self.chunks;
        self.table
            .insert(id.into(), index as u32, |at| id_at(chunks, at));
        None
    }

    pub fn remove(&mut self, id: K) -> Option<V> {
        let chunks = &self.chunks;
        let index = self.table.remove(id.into(), |at| id_at(chunks, at))? as usize;
        let last = self.len() - 1;
        let chunk = self.chunks.last_mut()?;
        let mut taken = chunk.pop()?;
        if chunk.is_empty() {
            self.chunks.pop();
        }
        if index != last {
            self.table.moved(taken.0.into(), last as u32, index as u32);
            let gap = &mut self.chunks[index >> CHUNK_BITS][index % CHUNK];
            core::mem::swap(gap, &mut taken);
        }
        Some(taken.1)
    }

    fn index_of(&self, id: K) -> Option<usize> {
        let found = self.table.find(id.into(), |at| id_at(&self.chunks, at))?;
        Some(found as usize)
    }
}

fn id_at<K: Copy, V>(chunks: &[Vec<(K, V)>], index: u32) -> u64
where
    u64: From<K>,
{
    chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK]
        .0
        .into()
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
        for step in 0..100_000 {
            let id = prng.below(5_000);
            if prng.chance(1, 2) {
                assert_eq!(map.insert(id, step), model.insert(id, step));
            } else {
                assert_eq!(map.remove(id), model.remove(&id));
            }
            let probe = prng.below(5_000);
            assert_eq!(map.get(probe), model.get(&probe));
            assert_eq!(map.len(), model.len());
        }
        let mut found: Vec<_> = (0..map.len()).filter_map(|at| map.at(at)).collect();
        found.sort_unstable();
        let expected: Vec<_> = model.iter().map(|(id, value)| (*id, value)).collect();
        assert_eq!(found, expected);
        assert_eq!(map.at(map.len()), None);
        for id in 0..5_000 {
            map.remove(id);
        }
        assert!(map.is_empty());
    }
}
