//! What operators see: queues and entries, page by page. Every call is bounded, by its limit or by
//! [`SCAN_STEPS_MAX`], so that a question never holds up the mail; what changes between two pages
//! may be seen twice or not at all.

use super::*;

/// Slots that one call looks at, whether they are in use or not.
pub const SCAN_STEPS_MAX: u32 = 4_096;

/// A part of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next page begins; nothing after the last one. A page can be empty and have a next.
    pub next: Option<u64>,
}

/// A queue as it is now.
pub struct QueueView<'a> {
    queues: &'a Queues,
    index: u32,
}

impl<'a> QueueView<'a> {
    pub fn id(&self) -> QueueId {
        self.queues.queue_id(self.index)
    }

    pub fn binding(&self) -> &'a Arc<str> {
        self.queues.names.binding(self.queue().pair)
    }

    pub fn domain(&self) -> &'a Arc<str> {
        self.queues.names.domain(self.queue().pair)
    }

    pub fn settings(&self) -> &'a Rc<Settings> {
        &self.queue().settings
    }

    /// Entries in `state`. Those of a resting queue are still [`State::Active`] here; see
    /// [`Self::rests_until`].
    pub fn count(&self, state: State) -> u32 {
        self.queue().lists[state as usize].len
    }

    pub fn is_empty(&self) -> bool {
        self.queue().is_empty()
    }

    /// There is something to take.
    pub fn is_ready(&self) -> bool {
        self.queue().rest.is_none() && self.count(State::Active) > 0
    }

    pub fn rests_until(&self) -> Option<Mono> {
        self.queue().rest.as_ref().map(|rest| rest.until)
    }

    pub fn stats(&self) -> Stats {
        self.queue().stats
    }

    pub fn waiting(&self) -> &'a Waiting {
        &self.queue().waiting
    }

    pub fn replies(&self) -> &'a Replies {
        &self.queue().replies
    }

    /// How long the oldest entry has been here, as nearly as [`Ages`] knows, and not less.
    pub fn oldest_age(&self, now: Now) -> Option<Duration> {
        let born_us = self.queue().ages.oldest_us()?;
        let age_us = i128::from(now.mono.0) - i128::from(born_us);
        Some(Duration::from_micros(u64::try_from(age_us).unwrap_or(0)))
    }

    /// Entries at least `age` old, as nearly as [`Ages`] knows: for `age>10m`, and for how many
    /// expire by then.
    pub fn older_than(&self, now: Now, age: Duration) -> u64 {
        let age_us = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let now_us = i64::try_from(now.mono.0).unwrap_or(i64::MAX);
        self.queue().ages.count_until(now_us.saturating_sub(age_us))
    }

    pub(super) fn parts(&self) -> (&'a Queues, u32) {
        (self.queues, self.index)
    }

    fn queue(&self) -> &'a Queue {
        &self.queues.queues[self.index]
    }
}

/// An entry as it is now.
pub struct EntryView<'a> {
    queues: &'a Queues,
    index: u32,
}

impl EntryView<'_> {
    pub fn id(&self) -> EntryId {
        self.queues.entry_id(self.index)
    }

    pub fn message(&self) -> MessageId {
        MessageId {
            batch: self.shared().batch,
            recipient: self.entry().recipient,
        }
    }

    pub fn queue(&self) -> QueueId {
        self.queues.queue_id(self.entry().queue)
    }

    pub fn home(&self) -> ShardId {
        self.shared().home
    }

    pub fn address(&self) -> Address {
        self.queues.address(self.index)
    }

    pub fn state(&self) -> State {
        self.entry().state
    }

    /// Failed attempts.
    pub fn attempts(&self) -> u16 {
        self.entry().attempts
    }

    /// It may have been delivered by a run that ended without saying so.
    pub fn in_doubt(&self) -> bool {
        self.entry().in_doubt
    }

    pub fn received(&self) -> Wall {
        self.shared().received.wall()
    }

    /// Reception on the monotonic clock.
    pub(super) fn born_us(&self) -> i64 {
        self.shared().born.us()
    }

    /// Class, tenant and campaign; nothing for the default class without the others.
    pub fn flow(&self) -> Option<&Arc<Flow>> {
        self.queues.flows.get(self.shared().flow)
    }

    pub(super) fn sender(&self) -> Sender {
        self.queues.senders.sender(self.shared().sender)
    }

    /// As much as is known of the sender here.
    pub fn sender_fact(&self) -> SenderFact<'_> {
        match (
            self.queues.senders.fact(self.shared().sender),
            self.content(),
        ) {
            (SenderFact::Hash(_), Some(content)) => SenderFact::Text(content.sender_text()),
            (fact, _) => fact,
        }
    }

    pub fn size(&self) -> u32 {
        self.shared().size
    }

    /// The body, if it is in memory.
    pub fn content(&self) -> Option<&Arc<Content>> {
        self.queues.resident.content(self.shared())
    }

    /// When a delayed entry is tried next, up to [`LATE_MAX`] later than it was promised. Later
    /// than [`Self::expires`] means never.
    pub fn due(&self) -> Option<Mono> {
        let entry = self.entry();
        match entry.due_s {
            _ if entry.state != State::Delayed => None,
            0 => self.queues.deadlines.at(entry.deadline),
            HELD_S => None,
            due_s => Some(Mono(u64::from(due_s) * 1_000_000)),
        }
    }

    /// It waits for a word of the operator.
    pub fn is_held(&self) -> bool {
        let entry = self.entry();
        entry.state == State::Delayed && entry.due_s == HELD_S
    }

    pub fn expires(&self, now: Now) -> Mono {
        let expiration = self.queues.queues[self.entry().queue]
            .settings
            .message_expiration;
        self.queues.expiry(now, self.entry().message, expiration)
    }

    fn entry(&self) -> &Entry {
        &self.queues.entries[self.index]
    }

    fn shared(&self) -> &Message {
        &self.queues.messages[self.entry().message]
    }
}

impl Queues {
    pub fn view(&self, queue: QueueId) -> Option<QueueView<'_>> {
        self.queues.holds(queue.0).then_some(QueueView {
            queues: self,
            index: queue.0.index,
        })
    }

    pub fn entry(&self, entry: EntryId) -> Option<EntryView<'_>> {
        self.entries.holds(entry.0).then_some(EntryView {
            queues: self,
            index: entry.0.index,
        })
    }

    /// The queues of one domain, in the order of their bindings.
    pub fn of_domain(&self, domain: &str) -> impl Iterator<Item = QueueView<'_>> {
        let queues = self.names.queues_of(domain).iter();
        queues.map(|(_, index)| QueueView {
            queues: self,
            index: *index,
        })
    }

    /// The recipients of one batch that are here, in the order of their arrival.
    pub fn of_batch(&self, batch: BatchId) -> impl Iterator<Item = EntryView<'_>> {
        let message = self.message_named(batch);
        let first = message.map_or(NONE, |message| self.messages[message].first);
        let in_use = |index: u32| (index != NONE).then_some(index);
        let next = move |index: &u32| in_use(self.entries[*index].siblings.next);
        core::iter::successors(in_use(first), next).map(|index| EntryView {
            queues: self,
            index,
        })
    }

    /// The entry of one message.
    pub fn of_message(&self, message: MessageId) -> Option<EntryId> {
        let found = |entry: &EntryView<'_>| entry.entry().recipient == message.recipient;
        self.of_batch(message.batch)
            .find(found)
            .map(|entry| entry.id())
    }

    /// Queues that `wanted` accepts, up to `limit`. `cursor` is zero or the `next` of a page.
    pub fn list<F>(&self, cursor: u64, limit: usize, wanted: F) -> Page<QueueId>
    where
        F: Fn(&QueueView<'_>) -> bool,
    {
        scan(&self.queues, cursor, limit, |handle| {
            wanted(&QueueView {
                queues: self,
                index: handle.index,
            })
            .then_some(QueueId(handle))
        })
    }

    /// How many recipients each flow has in all queues, a part at a time; those of the default
    /// flow, which has no name, come first.
    pub fn flow_counts(&self, cursor: u64) -> Page<(Option<Arc<Flow>>, u64)> {
        let slot = u32::try_from(cursor).unwrap_or(u32::MAX);
        let (counts, next) = self.flows.counts(slot, SCAN_STEPS_MAX);
        let plain = self.entries.len() as u64 - self.flows.entries();
        let first = (cursor == 0 && plain > 0).then_some((None, plain));
        let others = counts
            .into_iter()
            .map(|(flow, count)| (Some(flow.clone()), count));
        Page {
            items: first.into_iter().chain(others).collect(),
            next: next.map(u64::from),
        }
    }

    /// Entries of all queues that `wanted` accepts, up to `limit`: to find a recipient.
    pub fn search<F>(&self, cursor: u64, limit: usize, wanted: F) -> Page<EntryId>
    where
        F: Fn(&EntryView<'_>) -> bool,
    {
        scan(&self.entries, cursor, limit, |handle| {
            wanted(&EntryView {
                queues: self,
                index: handle.index,
            })
            .then_some(EntryId(handle))
        })
    }

    /// Entries of one queue in one state, in their order, up to `limit`, after the entry `after`
    /// or from the first. Nothing if `after` has left that state or that queue since: begin anew.
    pub fn entries(
        &self,
        queue: QueueId,
        state: State,
        after: Option<EntryId>,
        limit: usize,
    ) -> Option<Vec<EntryId>> {
        if !self.queues.holds(queue.0) {
            return None;
        }
        let mut index = match after {
            None if state == State::Active => self.first_active(queue.0.index),
            None => self.queues[queue.0.index].lists[state as usize].head,
            Some(after) if self.is_in(after, state) => {
                let entry = &self.entries[after.0.index];
                if entry.queue != queue.0.index {
                    return None;
                }
                self.after_in(after.0.index, state)
            }
            Some(_) => return None,
        };
        let mut entries = Vec::new();
        while index != NONE && entries.len() < limit {
            entries.push(self.entry_id(index));
            index = self.after_in(index, state);
        }
        Some(entries)
    }

    fn after_in(&self, entry: u32, state: State) -> u32 {
        match state {
            State::Active => self.after_active(entry),
            _ => self.entries[entry].place.next,
        }
    }
}

/// Looks at slots from `cursor`, until `limit` are accepted or the steps are used up.
fn scan<T, U, F>(pool: &Pool<T>, cursor: u64, limit: usize, accept: F) -> Page<U>
where
    F: Fn(Handle) -> Option<U>,
{
    let mut index = u32::try_from(cursor).unwrap_or(u32::MAX);
    let end = pool.slots().min(index.saturating_add(SCAN_STEPS_MAX));
    let mut items = Vec::new();
    while index < end && items.len() < limit {
        items.extend(pool.handle(index).and_then(&accept));
        index += 1;
    }
    let next = (index < pool.slots()).then_some(u64::from(index));
    Page { items, next }
}
