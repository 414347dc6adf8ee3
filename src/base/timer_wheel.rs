//! A hierarchical timer wheel: insert, cancel and expire cost the same with ten timers or ten
//! million. Seven levels of 64 slots with a tick of one millisecond reach 139 years; a timer set
//! further away waits at the rim and is set again. Timers never fire early, and fire in the order
//! of their ticks.

use crate::base::time::Mono;

const TICK_US: u64 = 1_000;
const LEVELS: usize = 7;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The furthest a timer is put ahead: one slot of the top level less than a turn, so that it never
/// lands in the slot that is current.
const REACH_TICKS: u64 = ((SLOTS as u64 - 1) << (SLOT_BITS * (LEVELS as u32 - 1))) - 1;
const NONE: u32 = u32::MAX;

/// Names a timer until it fires or is cancelled, and nothing afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerKey {
    index: u32,
    generation: u32,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List {
    head: NONE,
    tail: NONE,
};

struct Node<T> {
    at_tick: u64,
    prev: u32,
    next: u32,
    generation: u32,
    level: u8,
    slot: u8,
    value: Option<T>,
}

pub struct TimerWheel<T> {
    nodes: Vec<Node<T>>,
    free_head: u32,
    len: usize,
    /// Every tick up to and including this one has fired.
    elapsed: u64,
    slots: [[List; SLOTS]; LEVELS],
    /// One bit per slot that holds a timer.
    occupied: [u64; LEVELS],
}

impl<T> TimerWheel<T> {
    pub fn new(now: Mono) -> TimerWheel<T> {
        TimerWheel {
            nodes: Vec::new(),
            free_head: NONE,
            len: 0,
            elapsed: now.0 / TICK_US,
            slots: [[EMPTY; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A timer for `at`, rounded up to the next tick; what lies in the past fires at the next one.
    pub fn insert(&mut self, at: Mono, value: T) -> TimerKey {
        let at_tick = at.0.div_ceil(TICK_US).max(self.elapsed + 1);
        let index = self.allocate(at_tick, value);
        self.link(index);
        TimerKey {
            index,
            generation: self.nodes[index as usize].generation,
        }
    }

    /// Takes a timer back; nothing if it has fired.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let node = self.nodes.get(key.index as usize)?;
        if node.generation != key.generation || node.value.is_none() {
            return None;
        }
        self.unlink(key.index);
        Some(self.free(key.index))
    }

    /// No timer fires before this moment. It may be early by a cascade, never late.
    pub fn next(&self) -> Option<Mono> {
        self.next_slot().map(|(_, _, tick)| Mono(tick * TICK_US))
    }

    /// Fires what is due at `now`, in order, onto `fired`.
    pub fn expire(&mut self, now: Mono, fired: &mut Vec<T>) {
        let now_tick = now.0 / TICK_US;
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > now_tick {
                break;
            }
            self.elapsed = self.elapsed.max(tick);
            let mut cursor = self.slots[level][slot].head;
            self.slots[level][slot] = EMPTY;
            self.occupied[level] &= !(1 << slot);
            while cursor != NONE {
                let next = self.nodes[cursor as usize].next;
                if self.nodes[cursor as usize].at_tick <= self.elapsed {
                    fired.push(self.free(cursor));
                } else {
                    self.link(cursor);
                }
                cursor = next;
            }
        }
        self.elapsed = self.elapsed.max(now_tick);
    }

    /// The slot to look at next, and the first tick that it covers.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        for level in 0..LEVELS {
            if self.occupied[level] == 0 {
                continue;
            }
            let shift = SLOT_BITS * level as u32;
            let current = ((self.elapsed >> shift) as usize) % SLOTS;
            let ahead = self.occupied[level]
                .rotate_right(current as u32)
                .trailing_zeros();
            let slot = (current + ahead as usize) % SLOTS;
            let block = self.elapsed >> shift;
            // What lies ahead at this level has begun no earlier than the slot does.
            let tick = (block + u64::from(ahead)) << shift;
            return Some((level, slot, tick.max(self.elapsed)));
        }
        None
    }

    fn link(&mut self, index: u32) {
        let at_tick = self.nodes[index as usize].at_tick;
        let near = at_tick.min(self.elapsed.saturating_add(REACH_TICKS));
        let differing = (near ^ self.elapsed) | 1;
        let level = ((63 - differing.leading_zeros()) / SLOT_BITS) as usize;
        let level = level.min(LEVELS - 1);
        let slot = ((near >> (SLOT_BITS * level as u32)) as usize) % SLOTS;
        let list = &mut self.slots[level][slot];
        let tail = list.tail;
        list.tail = index;
        match tail {
            NONE => list.head = index,
            _ => self.nodes[tail as usize].next = index,
        }
        let node = &mut self.nodes[index as usize];
        node.prev = tail;
        node.next = NONE;
        node.level = level as u8;
        node.slot = slot as u8;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let Node {
            prev,
            next,
            level,
            slot,
            ..
        } = self.nodes[index as usize];
        let (level, slot) = (usize::from(level), usize::from(slot));
        match prev {
            NONE => self.slots[level][slot].head = next,
            _ => self.nodes[prev as usize].next = next,
        }
        match next {
            NONE => self.slots[level][slot].tail = prev,
            _ => self.nodes[next as usize].prev = prev,
        }
        if self.slots[level][slot].head == NONE {
            self.occupied[level] &= !(1 << slot);
        }
    }

    fn allocate(&mut self, at_tick: u64, value: T) -> u32 {
        self.len += 1;
        if self.free_head != NONE {
            let index = self.free_head;
            let node = &mut self.nodes[index as usize];
            self.free_head = node.next;
            node.at_tick = at_tick;
            node.value = Some(value);
            return index;
        }
        let index = self.nodes.len() as u32;
        assert!(index < NONE, "a wheel holds fewer than 2^32 timers");
        let (prev, next) = (NONE, NONE);
        let value = Some(value);
        self.nodes.push(Node {
            at_tick,
            prev,
            next,
            generation: 0,
            level: 0,
            slot: 0,
            value,
        });
        index
    }

    fn free(&mut self, index: u32) -> T {
        let node = &mut self.nodes[index as usize];
        let value = node.value.take().expect("a linked timer holds a value");
        node.generation = node.generation.wrapping_add(1);
        node.next = self.free_head;
        self.free_head = index;
        self.len -= 1;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    /// Against a sorted list, with random inserts, cancels and steps of time.
    #[test]
    fn it_agrees_with_a_sorted_list() {
        for seed in 0..50 {
            let mut prng = Prng::new(seed);
            let mut now = Mono(prng.below(1 << 50));
            let mut wheel = TimerWheel::new(now);
            let mut model: Vec<(u64, u64, TimerKey)> = Vec::new();
            for step in 0..400 {
                let reach = 1 << prng.between(1, 45);
                let at = Mono(now.0 + prng.below(reach));
                model.push((at.0, step, wheel.insert(at, step)));
                if prng.chance(1, 4) {
                    let index = prng.below(model.len() as u64) as usize;
                    let (_, value, key) = model.swap_remove(index);
                    assert_eq!(wheel.cancel(key), Some(value));
                    assert_eq!(wheel.cancel(key), None);
                }
                let step = 1 << prng.between(1, 44);
                now = Mono(now.0 + prng.below(step));
                let due_min = model.iter().map(|(at, ..)| *at).min();
                assert!(
                    wheel.next().map(|at| at.0) <= due_min.map(|at| at.div_ceil(1_000) * 1_000)
                );
                let mut fired = Vec::new();
                wheel.expire(now, &mut fired);
                for value in fired {
                    let index = model.iter().position(|(_, v, _)| *v == value).expect("set");
                    let (at, ..) = model.swap_remove(index);
                    assert!(at <= now.0, "seed {seed}: fired {} us early", at - now.0);
                }
                let late = model
                    .iter()
                    .find(|(at, ..)| at.div_ceil(1_000) <= now.0 / 1_000);
                // A timer for the past fires with the next tick, so one tick of grace.
                assert!(
                    late.is_none_or(|(at, ..)| at + 2_000 > now.0),
                    "seed {seed}: late"
                );
                assert_eq!(wheel.len(), model.len());
            }
        }
    }

    #[test]
    fn a_timer_beyond_the_rim_waits_there() {
        for start in [0, 1, 5_000_000_000, u64::MAX / 4, u64::MAX / 2 + 12_345] {
            let mut wheel = TimerWheel::new(Mono(start));
            wheel.insert(Mono::MAX, ());
            let mut fired = Vec::new();
            for step in 0..2_000_u64 {
                wheel.expire(Mono(start + step * 3_600_000_000), &mut fired);
            }
            let next = wheel.next().expect("it is set");
            assert!(next.0 > start && fired.is_empty() && wheel.len() == 1);
        }
    }

    #[test]
    fn timers_fire_in_the_order_of_their_ticks() {
        let mut wheel = TimerWheel::new(Mono(0));
        for at in [70_000, 5_000, 5_000_000, 64_000, 6_000, 300_000] {
            wheel.insert(Mono(at), at);
        }
        let mut fired = Vec::new();
        wheel.expire(Mono(10_000_000), &mut fired);
        assert_eq!(fired, [5_000, 6_000, 64_000, 70_000, 300_000, 5_000_000]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn looking_for_the_next_timer_wakes_at_most_once_per_level() {
        let mut wheel = TimerWheel::new(Mono(123_456));
        wheel.insert(Mono(3_600_000_000), ());
        let mut fired = Vec::new();
        let mut wakes = 0;
        while fired.is_empty() {
            let at = wheel.next().expect("a timer is set");
            wheel.expire(at, &mut fired);
            wakes += 1;
        }
        assert!(wakes <= LEVELS, "{wakes} wake-ups");
    }
}
