//! What happens when: events in the order of their moments, those of one moment in the order in
//! which they were planned. The only clock of a run.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

struct Planned<E> {
    at_us: u64,
    sequence: u64,
    event: E,
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Planned<E> {
    /// The earliest is the greatest, because the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_us, other.sequence).cmp(&(self.at_us, self.sequence))
    }
}

pub struct Schedule<E> {
    heap: BinaryHeap<Planned<E>>,
    sequence: u64,
}

impl<E> Default for Schedule<E> {
    fn default() -> Schedule<E> {
        Schedule {
            heap: BinaryHeap::new(),
            sequence: 0,
        }
    }
}

impl<E> Schedule<E> {
    pub fn plan(&mut self, at_us: u64, event: E) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.heap.push(Planned {
            at_us,
            sequence,
            event,
        });
    }

    /// The next event and its moment.
    pub fn pop(&mut self) -> Option<(u64, E)> {
        self.heap.pop().map(|it| (it.at_us, it.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_moment_and_then_by_the_order_of_planning() {
        let mut schedule = Schedule::default();
        for (at, name) in [(5, "c"), (1, "a"), (5, "d"), (1, "b"), (9, "e")] {
            schedule.plan(at, name);
        }
        let order: Vec<_> = core::iter::from_fn(|| schedule.pop()).collect();
        assert_eq!(order, [(1, "a"), (1, "b"), (5, "c"), (5, "d"), (9, "e")]);
    }
}
