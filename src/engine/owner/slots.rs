//! Places under the connection limits that shards share, and the queues that wait for one: a line
//! per limit that was reached, in the order of coming.
//!
//! Who finds a limit reached joins its line, lets the other shards see that somebody waits here,
//! and only then looks for the last time: a place that becomes free before that look is found by
//! it, and one that becomes free later is announced. A place that is free wakes one queue after
//! the other, as long as there is room: one that has no use for it lets the next go. So the end of
//! a connection wakes as many queues as have a use for it, however many wait.
//!
//! Invariants: a queue stands at most once in a line, and leaves all lines together; no line is
//! kept empty; while any queue stands in a line the other shards can see it.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::map::Map;
use crate::base::peer_table::PeerSlot;
use crate::engine::Turn;
use crate::engine::cells::Cells;
use crate::engine::io::{Action, MeshMessage};
use crate::engine::owner::Owner;
use crate::queue::QueueId;
use crate::types::id::ShardId;

/// A limit that spans shards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Limit {
    /// Connections of the process.
    Process,
    /// Connections to a host under the limit of one stanza: the hash of both.
    Host(u64),
}

/// A limit, and the connections that it allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bound {
    pub limit: Limit,
    pub max: u32,
}

impl Bound {
    pub fn has_room(self, cells: &Cells) -> bool {
        match self.limit {
            Limit::Process => cells.outgoing.used() < u64::from(self.max),
            Limit::Host(hash) => cells.hosts.has_room(hash, self.max),
        }
    }
}

/// What a connection holds: a place of the process, and one of its host if that has a limit. Goes
/// back through [`Owner::release`] and nowhere else.
#[derive(Debug)]
pub(super) struct Places {
    host: Option<(u64, PeerSlot)>,
}

impl Places {
    pub fn are_under(&self, limit: Limit) -> bool {
        match limit {
            Limit::Process => true,
            Limit::Host(hash) => self.host.as_ref().is_some_and(|(it, _)| *it == hash),
        }
    }
}

impl Owner {
    /// The places for one more connection, or the limit that is against it.
    pub(super) fn reserve(
        &mut self,
        turn: &mut Turn<'_>,
        process: Bound,
        host: Option<Bound>,
    ) -> Result<Places, Bound> {
        let cells = &turn.common.cells;
        if !cells.outgoing.reserve(process.max.into()) {
            return Err(process);
        }
        let Some(
            bound @ Bound {
                limit: Limit::Host(hash),
                max,
            },
        ) = host
        else {
            return Ok(Places { host: None });
        };
        if let Some(slot) = cells.hosts.reserve(hash, max) {
            let host = Some((hash, slot));
            return Ok(Places { host });
        }
        // Others may have found the limit of the process reached because of this one.
        self.release(turn, Places { host: None });
        Err(bound)
    }

    /// Gives places back, and tells every shard where queues wait.
    pub(super) fn release(&mut self, turn: &mut Turn<'_>, places: Places) {
        let (cells, shard) = (&turn.common.cells, turn.common.shard);
        let host = places.host.map(|(hash, slot)| {
            cells.hosts.release(slot);
            hash
        });
        cells.outgoing.release();
        for to in cells.waiting().filter(|to| *to != shard) {
            let message = MeshMessage::SlotFree { host };
            turn.out.push(Action::Mesh { to, message });
        }
        self.slot_free(host);
    }

    /// A connection has ended, on this shard or on another.
    pub fn slot_free(&mut self, host: Option<u64>) {
        self.lines.freed(Limit::Process);
        if let Some(hash) = host {
            self.lines.freed(Limit::Host(hash));
        }
    }
}

/// Who waits, for what, and who is next.
#[derive(Default)]
pub(super) struct Lines {
    lines: Map<Limit, Line>,
    queues: Map<QueueId, Standing>,
    /// Where there may be room, until somebody has looked. The process comes first: a queue that is
    /// woken for a host would find that limit reached.
    freed: BTreeSet<Limit>,
    next_ticket: u64,
    shown: bool,
}

struct Line {
    bound: Bound,
    /// By ticket.
    queues: BTreeMap<u64, QueueId>,
}

/// Where a queue stands.
struct Standing {
    ticket: u64,
    limits: Vec<Limit>,
}

impl Lines {
    /// Puts a queue into a line, behind all that waited before it did. False if it stands there
    /// already.
    pub fn join(&mut self, queue: QueueId, bound: Bound) -> bool {
        let next_ticket = &mut self.next_ticket;
        let standing = self.queues.entry(queue).or_insert_with(|| {
            *next_ticket += 1;
            Standing {
                ticket: *next_ticket,
                limits: Vec::new(),
            }
        });
        if standing.limits.contains(&bound.limit) {
            return false;
        }
        standing.limits.push(bound.limit);
        let line = self.lines.entry(bound.limit).or_insert_with(|| Line {
            bound,
            queues: BTreeMap::new(),
        });
        line.queues.insert(standing.ticket, queue);
        true
    }

    /// Takes a queue out of all lines.
    pub fn leave(&mut self, queue: QueueId) {
        let Some(standing) = self.queues.swap_remove(&queue) else {
            return;
        };
        for limit in standing.limits {
            let Some(line) = self.lines.get_mut(&limit) else {
                continue;
            };
            line.queues.remove(&standing.ticket);
            if line.queues.is_empty() {
                self.lines.swap_remove(&limit);
                self.freed.remove(&limit);
            }
        }
    }

    pub fn leave_all(&mut self) {
        self.lines.clear();
        self.queues.clear();
        self.freed.clear();
    }

    pub fn has(&self, queue: QueueId) -> bool {
        self.queues.contains_key(&queue)
    }

    fn freed(&mut self, limit: Limit) {
        if self.lines.contains_key(&limit) {
            self.freed.insert(limit);
        }
    }

    /// The queue whose turn it is, which leaves its lines with that; nothing if there is no room
    /// where something had become free.
    pub fn next(&mut self, cells: &Cells) -> Option<QueueId> {
        while let Some(limit) = self.freed.first() {
            let line = self.lines.get(limit);
            let line = line.filter(|line| line.bound.has_room(cells));
            if let Some((_, queue)) = line.and_then(|line| line.queues.first_key_value()) {
                let queue = *queue;
                self.leave(queue);
                return Some(queue);
            }
            self.freed.pop_first();
        }
        None
    }

    /// Whether [`Self::next`] has still to be asked.
    pub fn is_due(&self) -> bool {
        !self.freed.is_empty()
    }

    /// Lets the other shards see whether anybody waits here. Owed between joining a line and the
    /// last look for room.
    pub fn show(&mut self, cells: &Cells, shard: ShardId) {
        let waits = !self.queues.is_empty();
        if core::mem::replace(&mut self.shown, waits) != waits {
            cells.set_waiting(shard, waits);
        }
    }

    /// The limits that queues wait under, apart from those that will be looked at in any case.
    pub fn bounds(&self) -> impl Iterator<Item = Bound> + '_ {
        let bounds = self.lines.values().map(|line| line.bound);
        bounds.filter(|bound| !self.freed.contains(&bound.limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Limit = Limit::Host(7 << 32);
    const OTHER: Limit = Limit::Host(8 << 32);

    fn queue(number: u64) -> QueueId {
        QueueId::from_bits(number)
    }

    fn full(limit: Limit) -> Bound {
        Bound { limit, max: 1 }
    }

    /// Everybody whose turn comes, none of whom makes use of it.
    fn all(lines: &mut Lines, cells: &Cells) -> Vec<u64> {
        core::iter::from_fn(|| lines.next(cells).map(QueueId::to_bits)).collect()
    }

    #[test]
    fn queues_have_their_turn_in_the_order_of_coming_as_long_as_there_is_room() {
        let (cells, mut lines) = (Cells::new(1), Lines::default());
        assert!(cells.outgoing.reserve(1));
        for number in [3, 1, 2] {
            assert!(lines.join(queue(number), full(Limit::Process)));
            assert!(!lines.join(queue(number), full(Limit::Process)));
        }
        assert_eq!(lines.next(&cells), None, "nobody has told of room");
        lines.freed(Limit::Process);
        assert_eq!(lines.next(&cells), None, "there is none");
        cells.outgoing.release();
        lines.freed(Limit::Process);
        assert_eq!(lines.next(&cells), Some(queue(3)));
        assert!(cells.outgoing.reserve(1), "it uses its turn");
        assert_eq!(lines.next(&cells), None);
        cells.outgoing.release();
        lines.freed(Limit::Process);
        assert_eq!(all(&mut lines, &cells), [1, 2], "who does not lets others");
        assert!(lines.lines.is_empty() && !lines.is_due());
    }

    #[test]
    fn a_queue_in_several_lines_has_one_turn() {
        let (cells, mut lines) = (Cells::new(1), Lines::default());
        for (number, limit) in [(1, HOST), (1, OTHER), (2, OTHER), (2, HOST), (3, HOST)] {
            assert!(lines.join(queue(number), full(limit)));
        }
        lines.freed(OTHER);
        assert_eq!(all(&mut lines, &cells), [1, 2]);
        assert!(!lines.has(queue(1)) && lines.has(queue(3)));
        lines.freed(OTHER);
        assert!(!lines.is_due(), "nobody waits there");
        lines.join(queue(1), full(HOST));
        lines.freed(HOST);
        assert_eq!(
            all(&mut lines, &cells),
            [3, 1],
            "who comes back stands last"
        );
    }

    #[test]
    fn who_leaves_leaves_nothing_behind() {
        let (cells, mut lines) = (Cells::new(1), Lines::default());
        for round in 0..1_000 {
            for number in 0..3 {
                lines.join(queue(number), full(HOST));
                lines.join(queue(number), full(Limit::Host((9 + round) << 32)));
            }
            lines.freed(HOST);
            lines.leave(queue(round % 3));
            assert_eq!(all(&mut lines, &cells).len(), 2);
            assert!(lines.lines.is_empty() && lines.queues.is_empty() && !lines.is_due());
        }
    }

    #[test]
    fn others_see_that_somebody_waits_until_the_last_has_left() {
        let (cells, mut lines) = (Cells::new(1), Lines::default());
        let shard = ShardId(5);
        let is_seen = |lines: &mut Lines| {
            lines.show(&cells, shard);
            cells.waiting().any(|it| it == shard)
        };
        assert!(!is_seen(&mut lines));
        lines.join(queue(1), full(HOST));
        assert!(is_seen(&mut lines));
        lines.join(queue(2), full(OTHER));
        lines.leave(queue(1));
        assert!(is_seen(&mut lines));
        lines.leave(queue(2));
        assert!(!is_seen(&mut lines));
    }
}
