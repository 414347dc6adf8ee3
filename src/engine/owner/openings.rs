//! Which connections of a queue can take a message, so that finding the least busy one costs the
//! same with one connection as with thousands.

use crate::base::slab::Key;
use crate::deliver::session::JOBS_MAX;
use crate::engine::owner::{Outgoing, Owner};
use crate::queue::QueueId;

/// What a connection can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opening {
    Nothing,
    /// Nothing yet. Its first message goes alone: a host that answers once too often is found out
    /// while nothing is behind it that a surplus reply could be taken for.
    Soon,
    /// One more message, beside so many that it is working on.
    Beside(u8),
}

/// The connections of one queue by what they can take.
#[derive(Default)]
pub(super) struct Openings {
    /// By the number of messages that they are working on.
    beside: Vec<Vec<Key>>,
    /// Connections in `beside`.
    open: u32,
    soon: u32,
}

impl Openings {
    /// The least busy connection that can take a message; of several the one that last became so.
    pub(super) fn best(&self) -> Option<Key> {
        self.in_order().next()
    }

    /// All that can take a message, the least busy first.
    pub(super) fn in_order(&self) -> impl Iterator<Item = Key> + '_ {
        self.beside
            .iter()
            .flat_map(|level| level.iter().rev().copied())
    }

    /// Connections that can take a message, or will be able to once their first one is answered.
    pub(super) fn count(&self) -> u32 {
        self.open + self.soon
    }

    /// Without connections no memory is kept for them.
    pub(super) fn release(&mut self) {
        debug_assert!(self.count() == 0, "the connections are gone");
        self.beside = Vec::new();
    }

    /// Gives the place of the connection within those that are like it.
    fn enter(&mut self, key: Key, opening: Opening) -> u32 {
        match opening {
            Opening::Nothing => 0,
            Opening::Soon => {
                self.soon += 1;
                0
            }
            Opening::Beside(busy) => {
                let busy = usize::from(busy);
                if self.beside.len() <= busy {
                    self.beside.resize_with(busy + 1, Vec::new);
                }
                self.open += 1;
                self.beside[busy].push(key);
                self.beside[busy].len() as u32 - 1
            }
        }
    }

    /// Names the connection that has moved to the place of the one that leaves, if one has.
    fn leave(&mut self, opening: Opening, place: u32) -> Option<Key> {
        match opening {
            Opening::Nothing => None,
            Opening::Soon => {
                self.soon -= 1;
                None
            }
            Opening::Beside(busy) => {
                self.open -= 1;
                let level = &mut self.beside[usize::from(busy)];
                level.swap_remove(place as usize);
                level.get(place as usize).copied()
            }
        }
    }
}

impl Outgoing {
    fn opening(&self) -> Opening {
        let busy = self.jobs.len();
        match () {
            () if !self.open || self.over || !self.session.can_start() => Opening::Nothing,
            () if busy > 0 && !self.proved => Opening::Soon,
            () => Opening::Beside(busy.min(JOBS_MAX) as u8),
        }
    }
}

impl Owner {
    /// To be called when a connection may have come to take more or less than before.
    pub(super) fn rate(&mut self, key: Key) {
        if let Some(outgoing) = self.outgoing.get(key) {
            self.set_opening(key, outgoing.opening());
            self.list_if_idle(key);
        }
    }

    pub(super) fn set_opening(&mut self, key: Key, opening: Opening) {
        let Some(outgoing) = self.outgoing.get_mut(key) else {
            return;
        };
        let (before, place) = outgoing.opening;
        if before == opening {
            return;
        }
        let Some(link) = self.links.get_mut(&outgoing.queue) else {
            return;
        };
        let moved = link.openings.leave(before, place);
        outgoing.opening = (opening, link.openings.enter(key, opening));
        if let Some(moved) = moved.and_then(|moved| self.outgoing.get_mut(moved)) {
            moved.opening.1 = place;
        }
    }

    /// Whether what is known of the connections of a queue is what they would say.
    pub(super) fn knows_openings(&self, queue: QueueId) -> bool {
        let Some(link) = self.links.get(&queue) else {
            return true;
        };
        link.connections.iter().all(|key| {
            let outgoing = self.outgoing.get(*key);
            outgoing.is_some_and(|it| it.opening.0 == it.opening())
        })
    }
}
