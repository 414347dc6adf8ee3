//! The steps that the verbs of [`Queues`] are made of. Indices in here name what is in use.

use super::deadlines::When;
use super::*;

/// A message with fewer others before it is needed so soon that its body goes last.
const SOON: u32 = 16;

impl Queues {
    pub(super) fn message_named(&self, batch: BatchId) -> Option<u32> {
        self.batches.get(batch).copied()
    }

    /// The message of an arrival, made if this is its first recipient here.
    pub(super) fn message_of(
        &mut self,
        now: Now,
        arrival: &Arrival,
        content: Option<&Content>,
    ) -> u32 {
        if let Some(message) = self.message_named(arrival.batch) {
            return message;
        }
        let counted_us = || {
            let age_us = now.wall.0.saturating_sub(arrival.received.0);
            signed(now.mono.0).saturating_sub(signed(age_us))
        };
        let born_us = arrival.moved.map_or_else(counted_us, |it| it.born_us);
        let sender = content.map(Content::sender_text);
        let message = self.messages.insert(Message {
            batch: arrival.batch,
            received: Received::at(arrival.received),
            flow: self.flows.enter(arrival.flow.clone()),
            sender: self.senders.enter(&arrival.sender, sender),
            born: Born::at(born_us),
            size: arrival.size,
            body: NONE,
            first: NONE,
            last: NONE,
            count: 0,
            active: 0,
            in_flight: 0,
            home: arrival.home,
            class: Class::Absent,
        });
        self.batches.insert(arrival.batch, message.index);
        message.index
    }

    /// When an arrival may be tried, if not at once. A clock that has been set back since leaves
    /// a reception in the future; such a due time cannot be believed beyond the longest interval.
    pub(super) fn due_of(&self, now: Now, queue: u32, arrival: &Arrival) -> Option<Mono> {
        let due = arrival.progress.due;
        if due <= now.wall {
            return None;
        }
        let due = now.mono_of(due);
        if arrival.received > now.wall {
            let longest = self.queues[queue].settings.max_retry_interval;
            return Some(due.min(now.mono + longest.max(RETRY_DELAY_MIN)));
        }
        Some(due)
    }

    /// Links a new entry into its message, its queue and the deadlines.
    pub(super) fn link_new(&mut self, now: Now, entry: u32, due: Option<Mono>) {
        let Entry {
            message: m,
            queue: q,
            ..
        } = self.entries[entry];
        let state = if due.is_some() {
            State::Delayed
        } else {
            State::Active
        };
        let message = &mut self.messages[m];
        assert!(
            usize::from(message.count) < RECIPIENTS_MAX,
            "a batch is not that large"
        );
        let mut entries = message.entries();
        entries.push_back(&mut self.entries, entry, |entry| &mut entry.siblings);
        message.set_entries(entries);
        self.flows.count(message.flow);
        let queue = &mut self.queues[q];
        queue.ages.add(message.born.us());
        queue.stats.receptions += 1;
        if queue.is_empty() {
            self.idle
                .remove(&mut self.queues, q, |queue| &mut queue.idle);
        }
        self.enter(entry, state, false);
        self.arm(now, entry, due);
    }

    /// Unlinks an entry that is about to be freed.
    pub(super) fn unlink(&mut self, entry: u32) {
        self.deadlines
            .clear(&mut self.entries, entry, |entry| &mut entry.deadline);
        self.leave(entry);
        let message = &mut self.messages[self.entries[entry].message];
        let mut entries = message.entries();
        entries.remove(&mut self.entries, entry, |entry| &mut entry.siblings);
        message.set_entries(entries);
    }

    /// Moves an entry to the end of the list of `state`, or of its flow in it; of what is active to
    /// the front if that is wanted.
    pub(super) fn shift(&mut self, entry: u32, state: State, front: bool) {
        self.leave(entry);
        self.enter(entry, state, front);
    }

    fn enter(&mut self, entry: u32, state: State, front: bool) {
        let Entry { message, queue, .. } = self.entries[entry];
        self.entries[entry].state = state;
        self.totals[state as usize] += 1;
        if state == State::Active {
            self.enter_active(entry, front);
        } else {
            let list = &mut self.queues[queue].lists[state as usize];
            list.push_back(&mut self.entries, entry, |entry| &mut entry.place);
        }
        let queue = &self.queues[queue];
        match state {
            State::Active => {
                self.messages[message].active += 1;
                self.resting += u64::from(queue.rest.is_some());
            }
            State::InFlight => self.messages[message].in_flight += 1,
            State::Delayed | State::Ending => {}
        }
    }

    fn leave(&mut self, entry: u32) {
        let Entry {
            message,
            queue,
            state,
            ..
        } = self.entries[entry];
        self.totals[state as usize] -= 1;
        if state == State::Active {
            self.leave_active(entry);
        } else {
            let list = &mut self.queues[queue].lists[state as usize];
            list.remove(&mut self.entries, entry, |entry| &mut entry.place);
        }
        let queue = &self.queues[queue];
        match state {
            State::Active => {
                self.messages[message].active -= 1;
                self.resting -= u64::from(queue.rest.is_some());
            }
            State::InFlight => self.messages[message].in_flight -= 1,
            State::Delayed | State::Ending => {}
        }
    }

    /// Sets the deadline of an entry that has none: its next attempt if it is delayed, or its
    /// expiry, whichever comes first.
    pub(super) fn arm(&mut self, now: Now, entry: u32, due: Option<Mono>) {
        let Entry { message, queue, .. } = self.entries[entry];
        let settings = &self.queues[queue].settings;
        let expiry = self.expiry(now, message, settings.message_expiration);
        let at = due.map_or(expiry, |due| due.min(expiry));
        let due_s = match due {
            Some(due) if due > at => u32::try_from(due.0.div_ceil(1_000_000)).unwrap_or(u32::MAX),
            _ => 0,
        };
        self.entries[entry].due_s = due_s;
        let when = When { now: now.mono, at };
        self.deadlines
            .set(&mut self.entries, entry, when, |entry| &mut entry.deadline);
    }

    /// Sets some deadlines anew after expirations have become shorter.
    pub(super) fn shorten_some(&mut self, now: Now) {
        let Some(cursor) = self.shorten_at else {
            return;
        };
        let page = self.search(cursor, usize::MAX, |_| true);
        self.shorten_at = page.next;
        for entry in page.items {
            let entry = entry.0.index;
            let Entry {
                state,
                deadline,
                due_s,
                ..
            } = self.entries[entry];
            let due = match state {
                _ if !deadline.is_set() => continue,
                State::Active => None,
                State::Delayed if due_s == 0 => self.deadlines.at(deadline),
                State::Delayed => Some(Mono(u64::from(due_s) * 1_000_000)),
                State::InFlight | State::Ending => continue,
            };
            self.deadlines
                .clear(&mut self.entries, entry, |entry| &mut entry.deadline);
            self.arm(now, entry, due);
        }
    }

    /// The deadline of an entry has passed and is unset.
    pub(super) fn fire(&mut self, now: Now, entry: u32, out: &mut Vec<Wake>) {
        let Entry {
            message,
            queue: q,
            state,
            due_s,
            ..
        } = self.entries[entry];
        let settings = &self.queues[q].settings;
        let expired = self.is_expired(now, message, settings);
        let stopped = self.queues[q].stopped || state == State::Delayed && due_s == HELD_S;
        let ends = expired && (settings.never_attempt_expired || stopped);
        match state {
            State::Active | State::Delayed if ends => {
                self.end(entry);
                self.settle(message, q);
                out.push(Wake::Expired(self.entry_id(entry)));
            }
            State::Active if !expired => self.arm(now, entry, None),
            // The expiry for which it was woken has moved away, and the attempt is not due yet.
            State::Delayed if due_s > 0 && !expired => {
                let due = Mono(u64::from(due_s) * 1_000_000);
                self.arm(now, entry, Some(due));
            }
            State::Delayed => {
                self.activate(now, entry);
                self.wake(q, out);
            }
            // It may be tried though it has expired; or its session ends first, and what comes then
            // looks at the clock.
            State::Active | State::InFlight | State::Ending => {}
        }
    }

    /// Makes a delayed entry active.
    pub(super) fn activate(&mut self, now: Now, entry: u32) {
        self.deadlines
            .clear(&mut self.entries, entry, |entry| &mut entry.deadline);
        self.shift(entry, State::Active, false);
        self.arm(now, entry, None);
        self.settle(self.entries[entry].message, self.entries[entry].queue);
    }

    /// Sets an entry aside until its caller has ended it.
    pub(super) fn end(&mut self, entry: u32) {
        self.deadlines
            .clear(&mut self.entries, entry, |entry| &mut entry.deadline);
        self.shift(entry, State::Ending, false);
    }

    /// When the message expires by the monotonic clock; by the wall clock if that is later.
    pub(super) fn expiry(&self, now: Now, message: u32, expiration: Duration) -> Mono {
        let Message { received, born, .. } = self.messages[message];
        let received = received.wall();
        let counted = expires_at(born.us(), expiration);
        let shown = received + expiration;
        if received > now.wall || shown <= now.wall {
            return counted;
        }
        counted.max(now.mono_of(shown))
    }

    /// Both clocks must agree. A reception in the future of the wall clock says nothing.
    pub(super) fn is_expired(&self, now: Now, message: u32, settings: &Settings) -> bool {
        now.mono >= self.expiry(now, message, settings.message_expiration)
    }

    /// Sets aside what stands expired at the front of the active list.
    pub(super) fn take_expired(&mut self, now: Now, queue: u32, max: usize) -> Vec<EntryId> {
        let mut expired = Vec::new();
        if !self.queues[queue].settings.never_attempt_expired {
            return expired;
        }
        while expired.len() < max {
            let entry = self.front(queue);
            if entry == NONE {
                break;
            }
            let message = self.entries[entry].message;
            if !self.is_expired(now, message, &self.queues[queue].settings) {
                break;
            }
            self.end(entry);
            self.settle(message, queue);
            expired.push(self.entry_id(entry));
        }
        expired
    }

    /// How many entries of `message` lead the active list, up to `max`.
    pub(super) fn lead(&self, first: u32, message: u32, max: usize) -> usize {
        let mut entry = first;
        let mut count = 0;
        while count < max && entry != NONE && self.entries[entry].message == message {
            count += 1;
            entry = self.entries[entry].place.next;
        }
        count
    }

    /// Keeps a body if the message has none.
    pub(super) fn keep_body(&mut self, message: u32, content: Arc<Content>) {
        if self.messages[message].body == NONE {
            self.resident.store(&mut self.messages, message, content);
        }
    }

    /// Puts the body of a message where its state wants it, and the budget in force. `queue` is
    /// the one that has just changed; its limit decides if the message has become active.
    pub(super) fn settle(&mut self, message: u32, queue: u32) {
        let Message {
            class,
            active,
            in_flight,
            ..
        } = self.messages[message];
        if class == Class::Absent {
            return;
        }
        let limit = self.queues[queue].settings.max_resident_active;
        let List { head, len, .. } = self.line_of(queue, message);
        let is_next = head != NONE && self.entries[head].message == message;
        let class = match class {
            _ if in_flight > 0 => Class::Pinned,
            _ if active == 0 => Class::Delayed,
            _ if limit == Some(0) => Class::Absent,
            Class::Next | Class::Front | Class::Tail => class,
            _ if is_next || len <= SOON => Class::Next,
            _ if limit.is_some_and(|limit| len > limit) => Class::Tail,
            _ => Class::Front,
        };
        if class == Class::Absent {
            self.resident.release(&mut self.messages, message);
        } else {
            self.resident.place(&mut self.messages[message], class);
        }
        self.resident.enforce(&mut self.messages);
    }

    pub(super) fn end_rest(&mut self, queue: u32) {
        if let Some(rest) = self.queues[queue].rest.take() {
            self.rests.cancel(rest.timer);
            self.resting -= u64::from(self.queues[queue].lists[State::Active as usize].len);
        }
    }

    /// Tells of a queue, once per call of `advance`, if there is something to take.
    pub(super) fn wake(&mut self, index: u32, out: &mut Vec<Wake>) {
        let queue = &mut self.queues[index];
        let ready = queue.rest.is_none() && queue.lists[State::Active as usize].len > 0;
        if ready && !core::mem::replace(&mut queue.told, true) {
            out.push(Wake::Active(self.queue_id(index)));
        }
    }

    /// When the queue that has been empty longest is to be forgotten; not before its rest is over,
    /// because that is what it knows about its hosts.
    pub(super) fn forget_at(&self) -> Option<Mono> {
        if self.idle.head == NONE {
            return None;
        }
        if self.idle.len > IDLE_QUEUES_MAX {
            return Some(Mono(0));
        }
        let queue = &self.queues[self.idle.head];
        let kept = queue.idle_since + QUEUE_KEEP;
        Some(
            queue
                .rest
                .as_ref()
                .map_or(kept, |rest| rest.until.max(kept)),
        )
    }

    pub(super) fn forget(&mut self, queue: u32) {
        self.end_rest(queue);
        self.idle
            .remove(&mut self.queues, queue, |queue| &mut queue.idle);
        let pair = self.queues.remove(queue).pair;
        self.names.remove(pair);
    }

    pub(super) fn is_in(&self, id: EntryId, state: State) -> bool {
        self.entries.holds(id.0) && self.entries[id.0.index].state == state
    }

    pub(super) fn entry_id(&self, index: u32) -> EntryId {
        EntryId(
            self.entries
                .handle(index)
                .expect("a linked entry is in use"),
        )
    }

    pub(super) fn queue_id(&self, index: u32) -> QueueId {
        QueueId(self.queues.handle(index).expect("a linked queue is in use"))
    }

    /// The address as the client wrote it.
    pub(super) fn address(&self, entry: u32) -> Address {
        let Entry {
            ref text,
            queue,
            whole,
            ..
        } = self.entries[entry];
        let address = if whole {
            Address::parse(text.as_str())
        } else {
            Address::from_parts(text.as_str(), self.names.domain(self.queues[queue].pair))
        };
        address.expect("it was taken from an address")
    }
}

fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

/// Reception plus `expiration` on the monotonic clock, whose zero is the earliest.
fn expires_at(born_us: i64, expiration: Duration) -> Mono {
    let expiration = i64::try_from(expiration.as_micros()).unwrap_or(i64::MAX);
    Mono(u64::try_from(born_us.saturating_add(expiration)).unwrap_or(0))
}
