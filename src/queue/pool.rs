//! Where entries, messages and queues live: pools with small indices, and lists that run through
//! them. A pool grows by chunks, so that growth copies nothing and wastes at most one chunk; what
//! becomes vacant is used again before it grows.

use core::ops::Index;
use core::ops::IndexMut;

/// No index: the end of a list.
pub const NONE: u32 = u32::MAX;

const CHUNK_BITS: u32 = 10;
const CHUNK: u32 = 1 << CHUNK_BITS;

/// An index with the generation of its slot, so that a late caller finds nothing rather than the
/// next tenant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle {
    pub index: u32,
    pub generation: u32,
}

/// What it takes to tell the tenants of a slot apart.
pub const GENERATION_BYTES: usize = size_of::<u32>();

enum Slot<T> {
    Used(T),
    Vacant {
        /// The next vacant one.
        next: u32,
    },
}

/// Generations stand apart: beside a value each would take the room of two. There are none in a
/// pool without handles.
struct Chunk<T> {
    slots: Vec<Slot<T>>,
    generations: Vec<u32>,
}

/// Values by index. One that is made by [`Pool::with_handles`] names them to the outside too.
pub struct Pool<T> {
    chunks: Vec<Chunk<T>>,
    has_handles: bool,
    /// Slots ever made, vacant ones included.
    slots: u32,
    free_head: u32,
    len: u32,
}

impl<T> Default for Pool<T> {
    fn default() -> Pool<T> {
        Pool {
            chunks: Vec::new(),
            has_handles: false,
            slots: 0,
            free_head: NONE,
            len: 0,
        }
    }
}

impl<T> Pool<T> {
    /// What one value takes; a handle takes [`GENERATION_BYTES`] more.
    pub const SLOT_BYTES: usize = size_of::<Slot<T>>();

    pub fn with_handles() -> Pool<T> {
        Pool {
            has_handles: true,
            ..Pool::default()
        }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// One more than the highest index in use; the end of a scan.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    pub fn insert(&mut self, value: T) -> Handle {
        self.len += 1;
        if self.free_head != NONE {
            let index = self.free_head;
            let slot = self.slot_mut(index);
            if let Slot::Vacant { next } = core::mem::replace(slot, Slot::Used(value)) {
                self.free_head = next;
            }
            let generation = self.generation(index);
            return Handle { index, generation };
        }
        let index = self.slots;
        assert!(index < NONE, "a pool holds fewer than 2^32 values");
        if index.is_multiple_of(CHUNK) {
            self.chunks.push(Chunk {
                slots: Vec::with_capacity(CHUNK as usize),
                generations: match self.has_handles {
                    true => vec![0; CHUNK as usize],
                    false => Vec::new(),
                },
            });
        }
        let chunk = &mut self.chunks[(index >> CHUNK_BITS) as usize];
        chunk.slots.push(Slot::Used(value));
        self.slots += 1;
        Handle {
            index,
            generation: 0,
        }
    }

    pub fn remove(&mut self, index: u32) -> T {
        let vacant = Slot::Vacant {
            next: self.free_head,
        };
        let Slot::Used(value) = core::mem::replace(self.slot_mut(index), vacant) else {
            panic!("a linked slot is in use");
        };
        let chunk = &mut self.chunks[(index >> CHUNK_BITS) as usize];
        if let Some(generation) = chunk.generations.get_mut((index % CHUNK) as usize) {
            *generation = generation.wrapping_add(1);
        }
        self.free_head = index;
        self.len -= 1;
        value
    }

    /// Whether `handle` still names what it was made for, in a pool that has handles.
    pub fn holds(&self, handle: Handle) -> bool {
        self.handle(handle.index) == Some(handle)
    }

    /// The handle of what lives at `index`, if anything does.
    pub fn handle(&self, index: u32) -> Option<Handle> {
        if index >= self.slots {
            return None;
        }
        let generation = self.generation(index);
        let handle = Handle { index, generation };
        matches!(self.slot(index), Slot::Used(_)).then_some(handle)
    }

    /// What lives at `index`, if anything does.
    pub fn get(&self, index: u32) -> Option<&T> {
        if index >= self.slots {
            return None;
        }
        match self.slot(index) {
            Slot::Used(value) => Some(value),
            Slot::Vacant { .. } => None,
        }
    }

    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        if index >= self.slots {
            return None;
        }
        match self.slot_mut(index) {
            Slot::Used(value) => Some(value),
            Slot::Vacant { .. } => None,
        }
    }

    fn generation(&self, index: u32) -> u32 {
        let generations = &self.chunks[(index >> CHUNK_BITS) as usize].generations;
        let generation = generations.get((index % CHUNK) as usize);
        generation.copied().unwrap_or(0)
    }

    fn slot(&self, index: u32) -> &Slot<T> {
        &self.chunks[(index >> CHUNK_BITS) as usize].slots[(index % CHUNK) as usize]
    }

    fn slot_mut(&mut self, index: u32) -> &mut Slot<T> {
        &mut self.chunks[(index >> CHUNK_BITS) as usize].slots[(index % CHUNK) as usize]
    }
}

/// By index, for links inside this module: those name what is in use, or the program is wrong.
impl<T> Index<u32> for Pool<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        match self.slot(index) {
            Slot::Used(value) => value,
            Slot::Vacant { .. } => panic!("a linked slot is in use"),
        }
    }
}

impl<T> IndexMut<u32> for Pool<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        match self.slot_mut(index) {
            Slot::Used(value) => value,
            Slot::Vacant { .. } => panic!("a linked slot is in use"),
        }
    }
}

/// The neighbours of a member of a [`List`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Links {
    pub prev: u32,
    pub next: u32,
}

impl Links {
    pub const LOOSE: Links = Links {
        prev: NONE,
        next: NONE,
    };
}

/// A list through the members of a pool, by whichever [`Links`] of theirs the caller chooses. All
/// operations cost the same however long it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct List {
    pub head: u32,
    pub tail: u32,
    pub len: u32,
}

impl List {
    pub const EMPTY: List = List {
        head: NONE,
        tail: NONE,
        len: 0,
    };

    pub fn push_back<T, L>(&mut self, pool: &mut Pool<T>, index: u32, links: L)
    where
        L: Fn(&mut T) -> &mut Links,
    {
        *links(&mut pool[index]) = Links {
            prev: self.tail,
            next: NONE,
        };
        match self.tail {
            NONE => self.head = index,
            tail => links(&mut pool[tail]).next = index,
        }
        self.tail = index;
        self.len += 1;
    }

    pub fn push_front<T, L>(&mut self, pool: &mut Pool<T>, index: u32, links: L)
    where
        L: Fn(&mut T) -> &mut Links,
    {
        *links(&mut pool[index]) = Links {
            prev: NONE,
            next: self.head,
        };
        match self.head {
            NONE => self.tail = index,
            head => links(&mut pool[head]).prev = index,
        }
        self.head = index;
        self.len += 1;
    }

    /// Moves the first member to the end.
    pub fn rotate<T, L>(&mut self, pool: &mut Pool<T>, links: L)
    where
        L: Fn(&mut T) -> &mut Links,
    {
        if self.len > 1 {
            let first = self.head;
            self.remove(pool, first, &links);
            self.push_back(pool, first, &links);
        }
    }

    pub fn remove<T, L>(&mut self, pool: &mut Pool<T>, index: u32, links: L)
    where
        L: Fn(&mut T) -> &mut Links,
    {
        let Links { prev, next } = core::mem::replace(links(&mut pool[index]), Links::LOOSE);
        match prev {
            NONE => self.head = next,
            _ => links(&mut pool[prev]).next = next,
        }
        match next {
            NONE => self.tail = prev,
            _ => links(&mut pool[next]).prev = prev,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Member {
        name: u32,
        links: Links,
    }

    fn names(list: List, pool: &Pool<Member>) -> Vec<u32> {
        let mut names = Vec::new();
        let mut index = list.head;
        while index != NONE {
            names.push(pool[index].name);
            index = pool[index].links.next;
        }
        assert_eq!(names.len(), list.len as usize);
        names
    }

    #[test]
    fn lists_keep_order_through_removals_at_every_place() {
        let mut pool = Pool::default();
        let mut list = List::EMPTY;
        for name in 0..5 {
            let index = pool
                .insert(Member {
                    name,
                    links: Links::LOOSE,
                })
                .index;
            list.push_back(&mut pool, index, |m| &mut m.links);
        }
        for (gone, rest) in [(2, vec![0, 1, 3, 4]), (0, vec![1, 3, 4]), (4, vec![1, 3])] {
            list.remove(&mut pool, gone, |m| &mut m.links);
            assert_eq!(names(list, &pool), rest);
        }
        list.push_front(&mut pool, 2, |m| &mut m.links);
        assert_eq!(names(list, &pool), [2, 1, 3]);
        list.rotate(&mut pool, |m| &mut m.links);
        assert_eq!(names(list, &pool), [1, 3, 2]);
        for index in [1, 2, 3] {
            list.remove(&mut pool, index, |m| &mut m.links);
        }
        assert_eq!(list, List::EMPTY);
    }

    #[test]
    fn a_handle_outlives_its_value_without_naming_the_next() {
        let mut pool = Pool::with_handles();
        let handles: Vec<_> = (0..3 * CHUNK).map(|n| pool.insert(n)).collect();
        assert_eq!(pool[2 * CHUNK], 2 * CHUNK);
        assert_eq!(pool.remove(handles[1].index), 1);
        assert!(!pool.holds(handles[1]));
        let next = pool.insert(77);
        assert_eq!(next.index, 1);
        assert!(pool.holds(next) && !pool.holds(handles[1]));
        assert!(!pool.holds(Handle {
            index: u32::MAX,
            generation: 0
        }));
        assert_eq!((pool.len(), pool.slots()), (3 * CHUNK as usize, 3 * CHUNK));
    }
}
