//! The active entries of a queue: in its own list while they are of one flow, else in lanes.

use super::lanes::Standing;
use super::*;

impl Queues {
    /// The priority classes, names with their shares in percent, in the order in which they go
    /// first. A class that is not among them counts as the default one.
    pub fn set_classes(&mut self, classes: &[(&str, u32)]) {
        let Queues { flows, lanes, .. } = self;
        let names = classes
            .iter()
            .map(|(name, _)| (*name).to_string())
            .collect();
        let shares: Vec<u32> = classes.iter().map(|(_, share)| *share).collect();
        let changed = flows.set_classes(names) | lanes.have_other_shares(&shares);
        if changed {
            lanes.set_shares(shares, |flow| flows.place(flow));
        }
    }

    pub(super) fn enter_active(&mut self, entry: u32, front: bool) {
        let Entry { message, queue, .. } = self.entries[entry];
        let flow = self.messages[message].flow;
        let queue = &mut self.queues[queue];
        let list = &mut queue.lists[State::Active as usize];
        if list.len == 0 {
            queue.order = Order::one(flow);
        }
        if queue.order.is_one(flow) {
            return match front {
                true => list.push_front(&mut self.entries, entry, |entry| &mut entry.place),
                false => list.push_back(&mut self.entries, entry, |entry| &mut entry.place),
            };
        }
        let split = match queue.order.standing() {
            Standing::Split(split) => split,
            Standing::One(of) => {
                let split = self.lanes.split(self.flows.place(of), *list);
                queue.order = Order::split(split);
                (list.head, list.tail) = (NONE, NONE);
                split
            }
        };
        list.len += 1;
        let of = self.flows.place(flow);
        self.lanes
            .enter(split, of, (&mut self.entries, entry), front);
    }

    pub(super) fn leave_active(&mut self, entry: u32) {
        let Entry { message, queue, .. } = self.entries[entry];
        let queue = &mut self.queues[queue];
        let list = &mut queue.lists[State::Active as usize];
        let Standing::Split(split) = queue.order.standing() else {
            return list.remove(&mut self.entries, entry, |entry| &mut entry.place);
        };
        let flow = self.messages[message].flow;
        self.lanes.leave(split, flow, (&mut self.entries, entry));
        list.len -= 1;
        if list.len == 0
            && let Some((flow, entries)) = self.lanes.join(split)
        {
            (queue.order, *list) = (Order::one(flow), entries);
        }
    }

    /// The active entry that is next.
    pub(super) fn front(&mut self, queue: u32) -> u32 {
        match self.split_of(queue) {
            None => self.queues[queue].lists[State::Active as usize].head,
            Some(split) => self.lanes.next(split),
        }
    }

    /// The flow that was next is about to be taken so many entries.
    pub(super) fn serve(&mut self, queue: u32, count: usize) {
        if let Some(split) = self.split_of(queue) {
            self.lanes
                .serve(split, u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    /// They have been taken. Only a flow that is served when no other waits ends the split: one
    /// that comes and goes beside it would take what the others have earned with it otherwise.
    pub(super) fn served(&mut self, queue: u32, message: u32) {
        let Some(split) = self.split_of(queue) else {
            return;
        };
        let flow = self.messages[message].flow;
        if self.lanes.entries(split, flow).len > 0
            && let Some((flow, entries)) = self.lanes.join(split)
        {
            let queue = &mut self.queues[queue];
            queue.order = Order::one(flow);
            queue.lists[State::Active as usize] = entries;
        }
    }

    /// What was taken has come back untried.
    pub(super) fn refund(&mut self, entry: u32) {
        let Entry { message, queue, .. } = self.entries[entry];
        if let Some(split) = self.split_of(queue) {
            self.lanes.refund(split, self.messages[message].flow);
        }
    }

    /// The active entries among which those of a message wait their turn.
    pub(super) fn line_of(&self, queue: u32, message: u32) -> List {
        let all = self.queues[queue].lists[State::Active as usize];
        let Some(split) = self.split_of(queue) else {
            return all;
        };
        let line = self.lanes.entries(split, self.messages[message].flow);
        if line.len == 0 { all } else { line }
    }

    /// The first active entry, and the one after `entry`, in the order of a listing.
    pub(super) fn first_active(&self, queue: u32) -> u32 {
        let Some(split) = self.split_of(queue) else {
            return self.queues[queue].lists[State::Active as usize].head;
        };
        let first = self.lanes.in_order(split).next();
        first.map_or(NONE, |(_, entries)| entries.head)
    }

    pub(super) fn after_active(&self, entry: u32) -> u32 {
        let Entry {
            message,
            queue,
            place,
            ..
        } = self.entries[entry];
        match self.split_of(queue) {
            Some(split) if place.next == NONE => {
                self.lanes.after(split, self.messages[message].flow)
            }
            _ => place.next,
        }
    }

    fn split_of(&self, queue: u32) -> Option<u32> {
        match self.queues[queue].order.standing() {
            Standing::Split(split) => Some(split),
            Standing::One(_) => None,
        }
    }

    /// The rank of the class that [`Self::take`] would serve; zero is the first. Nothing if there
    /// is nothing to take.
    pub fn next_rank(&self, queue: QueueId) -> Option<u8> {
        if !self.queues.holds(queue.0) {
            return None;
        }
        let it = &self.queues[queue.0.index];
        match it.order.standing() {
            Standing::Split(split) => self.lanes.rank(split),
            Standing::One(_) if it.lists[State::Active as usize].len == 0 => None,
            Standing::One(flow) => Some(self.flows.place(flow).rank),
        }
    }

    /// Active entries of a queue that are of the class of this rank.
    pub fn waiting_of(&self, queue: QueueId, rank: u8) -> u32 {
        if !self.queues.holds(queue.0) {
            return 0;
        }
        let it = &self.queues[queue.0.index];
        match it.order.standing() {
            Standing::Split(split) => self.lanes.waiting(split, rank),
            Standing::One(flow) if self.flows.place(flow).rank == rank => {
                it.lists[State::Active as usize].len
            }
            Standing::One(_) => 0,
        }
    }

    /// Lets the first class that waits go first, though others are owed a turn by now: they
    /// cannot use it at present.
    pub fn put_off_shares(&mut self, queue: QueueId) {
        if self.queues.holds(queue.0)
            && let Some(split) = self.split_of(queue.0.index)
        {
            self.lanes.put_off(split);
        }
    }

    /// The rank of the class of an entry.
    pub fn rank_of(&self, entry: EntryId) -> Option<u8> {
        if !self.entries.holds(entry.0) {
            return None;
        }
        let message = self.entries[entry.0.index].message;
        Some(self.flows.place(self.messages[message].flow).rank)
    }

    /// Any message here has a class, tenant or campaign of its own.
    pub fn has_flows(&self) -> bool {
        !self.flows.is_empty()
    }

    /// How many priority classes there are.
    pub fn classes(&self) -> u8 {
        self.flows.classes().len() as u8
    }

    /// The most recipients of other classes that were served at a stretch while a class waited in
    /// a queue, since these classes count.
    pub fn passed_over(&self) -> impl Iterator<Item = (&str, u32)> {
        let most = self.lanes.passed_max().iter().copied();
        self.flows.classes().iter().map(String::as_str).zip(most)
    }

    /// The percent that a class is sure of.
    pub fn share_of(&self, rank: u8) -> u32 {
        self.lanes.share(rank)
    }
}

impl QueueView<'_> {
    /// The flows that wait in it to be tried, with how many entries of each, up to `limit`: first
    /// classes first.
    pub fn flows(&self, limit: usize) -> Vec<(Option<Arc<Flow>>, u32)> {
        let (queues, queue) = self.parts();
        let active = queues.queues[queue].lists[State::Active as usize].len;
        let named = |flow: FlowId| queues.flows.get(flow).cloned();
        match queues.queues[queue].order.standing() {
            Standing::One(_) if active == 0 => Vec::new(),
            Standing::One(flow) => vec![(named(flow), active)],
            Standing::Split(split) => {
                let lanes = queues.lanes.in_order(split).take(limit);
                lanes
                    .map(|(flow, entries)| (named(flow), entries.len))
                    .collect()
            }
        }
    }
}
