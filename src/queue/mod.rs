//! The queues of one shard: who waits, for what, and who is next. One queue per (binding, domain),
//! with its entries (one per recipient) active, delayed, in flight or ending; retry times, expiry,
//! and which bodies stay in memory.
//!
//! Nothing here knows of sockets, DNS, throttles or the spool, and nothing here acts: the caller
//! takes what is next, tells how it went, and is told what time has done.
//!
//! Costs. An insert, take, failure or end costs O(log batches + log buckets) whatever the number
//! of queues and entries: a search by batch id, one by domain name, one among the deadlines; every
//! list is intrusive, so that leaving from the middle costs what leaving from the end does. Nothing
//! scans or polls. One call of [`Queues::advance`] handles at most [`ADVANCE_MAX`] entries.
//!
//! Bounds. Every entry is mail that has been acknowledged, so none is refused here: who accepts
//! mail looks at [`Queues::len`] and memory first. Queues without entries are forgotten after
//! [`QUEUE_KEEP`], or sooner when there are more than [`IDLE_QUEUES_MAX`].
//!
//! Invariants. An entry is in one list of its queue, the one of its [`State`]. A delayed entry has
//! a deadline, and so has an active one until it has expired and may be tried nevertheless; one in
//! flight or ending is the caller's to move. So nothing waits unseen. Expiry needs both clocks: the
//! monotonic one, counted from reception as it was known on arrival, and the wall clock, so that a
//! jump of the wall clock in either direction ends no message early.

mod deadlines;
mod facts;
mod flows;
mod lanes;
mod listing;
mod names;
mod order;
mod pool;
mod resident;
mod senders;
mod settings;
mod steps;
mod verdict;

use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::id_map::IdMap;
use crate::base::short_text::ShortText;
use crate::base::time::Mono;
use crate::base::time::Now;
use crate::base::time::Wall;
use crate::base::timer_wheel::TimerKey;
use crate::base::timer_wheel::TimerWheel;
use crate::types::address::Address;
use crate::types::flow::Flow;
use crate::types::id::BatchId;
use crate::types::id::MessageId;
use crate::types::id::RECIPIENTS_MAX;
use crate::types::id::ShardId;
use crate::types::message::Arrival;
use crate::types::message::Content;
use crate::types::message::Moved;
use crate::types::message::Progress;
use crate::types::outcome::Stage;
use crate::types::reply::Reply;
use crate::types::sender::Sender;
use crate::types::sender::SenderFact;

use self::deadlines::Deadline;
use self::deadlines::Deadlines;
use self::flows::FlowId;
use self::flows::FlowTable;
use self::lanes::Lanes;
use self::lanes::Order;
use self::names::Names;
use self::names::Pair;
use self::pool::Handle;
use self::pool::Links;
use self::pool::List;
use self::pool::NONE;
use self::pool::Pool;
use self::resident::Class;
use self::resident::Resident;
use self::senders::SenderId;
use self::senders::SenderTable;

pub use self::deadlines::LATE_MAX;
pub use self::facts::Ages;
pub use self::facts::Cause;
pub use self::facts::Replies;
pub use self::facts::Said;
pub use self::facts::Stats;
pub use self::facts::Waiting;
pub use self::listing::EntryView;
pub use self::listing::Page;
pub use self::listing::QueueView;
pub use self::listing::SCAN_STEPS_MAX;
pub use self::settings::MaxRetries;
pub use self::settings::RETRY_DELAY_MIN;
pub use self::settings::Settings;
pub use self::verdict::Batch;
pub use self::verdict::Budget;
pub use self::verdict::Departed;
pub use self::verdict::Ending;
pub use self::verdict::EntryId;
pub use self::verdict::Failed;
pub use self::verdict::Finished;
pub use self::verdict::GiveUp;
pub use self::verdict::Inserted;
pub use self::verdict::QueueId;
pub use self::verdict::State;
pub use self::verdict::Taken;
pub use self::verdict::Wake;

/// Entries that one call of [`Queues::advance`] handles; the rest is due at once again.
pub const ADVANCE_MAX: usize = 1_024;

/// How long an empty queue is remembered, with what its receiving hosts said.
pub const QUEUE_KEEP: Duration = Duration::from_secs(600);

/// Empty queues that are remembered; beyond it the one longest empty goes.
pub const IDLE_QUEUES_MAX: u32 = 65_536;

/// When an entry is due that waits for a word of the operator.
pub const HELD: Mono = Mono::MAX;

/// As [`Entry::due_s`] has it.
const HELD_S: u32 = u32::MAX;

/// One recipient. What is done with it touches one line of the cache.
#[repr(align(64))]
struct Entry {
    /// The local part, or the whole address if `whole`.
    text: ShortText,
    message: u32,
    queue: u32,
    place: Links,
    siblings: Links,
    deadline: Deadline,
    /// Set while the deadline of a delayed entry is its expiry because that comes before its next
    /// attempt: the attempt's monotonic second, rounded up. Zero otherwise.
    due_s: u32,
    recipient: u16,
    attempts: u16,
    state: State,
    /// The domain is not, letter by letter, the name of the queue, so that it is kept too.
    whole: bool,
    /// See [`Arrival::in_doubt`].
    in_doubt: bool,
}

/// What the entries of one batch on this shard share.
struct Message {
    batch: BatchId,
    received: Received,
    born: Born,
    flow: FlowId,
    sender: SenderId,
    size: u32,
    /// Where [`Resident`] has its body; [`NONE`] if it is not in memory.
    body: u32,
    /// Its entries as a [`List`], spelled out: so they take less room.
    first: u32,
    last: u32,
    count: u16,
    active: u16,
    in_flight: u16,
    home: ShardId,
    class: Class,
}

// Ten million messages of one recipient are to wait in 2 GB, the index of their home included: an
// entry and a message take these 124 bytes, about five for a deadline, as many to be found by their
// batch, and a local part only what it has over 22.
const _: () = assert!(Pool::<Entry>::SLOT_BYTES <= 64, "an entry is small");
const _: () = assert!(Pool::<Message>::SLOT_BYTES <= 56, "a message is small");
const _: () = assert!(pool::GENERATION_BYTES <= 4, "and so is what names an entry");
const _: () = assert!(
    RECIPIENTS_MAX <= u16::MAX as usize,
    "counts of a batch are 16 bits"
);

// 200,000 queues live at once.
const _: () = assert!(Pool::<Queue>::SLOT_BYTES <= 384, "a queue is not large");

/// Reception on the wall clock. Seven bytes are enough for 2,000 years.
#[derive(Clone, Copy)]
struct Received([u8; 7]);

impl Received {
    fn at(wall: Wall) -> Received {
        let [a, b, c, d, e, f, g, _] = wall.0.min((1 << 56) - 1).to_le_bytes();
        Received([a, b, c, d, e, f, g])
    }

    fn wall(self) -> Wall {
        let [a, b, c, d, e, f, g] = self.0;
        Wall(u64::from_le_bytes([a, b, c, d, e, f, g, 0]))
    }
}

impl Message {
    fn entries(&self) -> List {
        List {
            head: self.first,
            tail: self.last,
            len: self.count.into(),
        }
    }

    fn set_entries(&mut self, entries: List) {
        self.first = entries.head;
        self.last = entries.tail;
        self.count = u16::try_from(entries.len).expect("a batch is not that large");
    }
}

/// Reception on the monotonic clock, in milliseconds, rounded up; before its zero for recovered
/// mail. Six bytes are enough for 4,000 years.
#[derive(Clone, Copy)]
struct Born([u8; 6]);

impl Born {
    fn at(us: i64) -> Born {
        let ms = us.saturating_add(999).div_euclid(1_000);
        let most = (1 << 47) - 1;
        let [a, b, c, d, e, f, ..] = ms.clamp(-most, most).to_le_bytes();
        Born([a, b, c, d, e, f])
    }

    fn us(self) -> i64 {
        let [a, b, c, d, e, f] = self.0;
        // Shifted back with the sign.
        let ms = i64::from_le_bytes([0, 0, a, b, c, d, e, f]) >> 16;
        ms * 1_000
    }
}

struct Queue {
    pair: Pair,
    settings: Rc<Settings>,
    /// Of a queue that is split the active one has nothing but its length.
    lists: [List; State::ALL.len()],
    order: Order,
    rest: Option<Rest>,
    /// Among the empty queues, while it is one.
    idle: Links,
    idle_since: Mono,
    /// The call of `advance` under way has told of it.
    told: bool,
    /// Nothing of it is tried for now: what is out of time ends without the attempt it is owed.
    stopped: bool,
    stats: Stats,
    waiting: Waiting,
    replies: Replies,
    ages: Ages,
}

struct Rest {
    until: Mono,
    timer: TimerKey,
}

/// Entries per state over all queues of the shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Those in resting queues not included.
    pub active: u64,
    /// Those in resting queues included: nothing will be tried before the rest is over.
    pub delayed: u64,
    pub in_flight: u64,
    pub ending: u64,
}

pub struct Queues {
    entries: Pool<Entry>,
    messages: Pool<Message>,
    flows: FlowTable,
    senders: SenderTable,
    lanes: Lanes,
    queues: Pool<Queue>,
    names: Names,
    /// Messages by their batch ids.
    batches: IdMap<BatchId, u32>,
    deadlines: Deadlines,
    rests: TimerWheel<u32>,
    resident: Resident,
    idle: List,
    totals: [u64; State::ALL.len()],
    /// Active entries in resting queues.
    resting: u64,
    /// Reused between calls.
    rests_over: Vec<u32>,
    /// Entries from here on may have a later deadline than their settings say.
    shorten_at: Option<u64>,
}

impl Queues {
    pub fn new(now: Now, budget: Budget) -> Queues {
        Queues {
            entries: Pool::with_handles(),
            messages: Pool::default(),
            flows: FlowTable::default(),
            senders: SenderTable::new(budget.senders_max),
            lanes: Lanes::new(vec![100]),
            queues: Pool::with_handles(),
            names: Names::default(),
            batches: IdMap::default(),
            deadlines: Deadlines::default(),
            rests: TimerWheel::new(now.mono),
            resident: Resident::new(budget),
            idle: List::EMPTY,
            totals: [0; State::ALL.len()],
            resting: 0,
            rests_over: Vec::new(),
            shorten_at: None,
        }
    }

    /// The queue of a pair, if there is one. `domain` as [`Address::routing_domain`] gives it.
    pub fn find(&self, binding: &str, domain: &str) -> Option<QueueId> {
        let queue = self.names.find(binding, domain)?;
        self.queues.handle(queue).map(QueueId)
    }

    /// Makes the queue of a pair, with `settings`; finds it if it exists, and leaves its settings.
    pub fn open(
        &mut self,
        now: Now,
        binding: &Arc<str>,
        domain: &str,
        settings: &Rc<Settings>,
    ) -> QueueId {
        if let Some(queue) = self.find(binding, domain) {
            return queue;
        }
        let pair = self.names.intern(binding, domain);
        let queue = self.queues.insert(Queue {
            pair,
            settings: settings.clone(),
            lists: [List::EMPTY; State::ALL.len()],
            order: Order::one(FlowId::DEFAULT),
            rest: None,
            idle: Links::LOOSE,
            idle_since: now.mono,
            told: false,
            stopped: false,
            stats: Stats::default(),
            waiting: Waiting::new(now),
            replies: Replies::default(),
            ages: Ages::default(),
        });
        self.names.add(pair, queue.index);
        self.idle
            .push_back(&mut self.queues, queue.index, |queue| &mut queue.idle);
        QueueId(queue)
    }

    /// Gives a queue the options of a new config generation. They count for an entry from its next
    /// step: being taken, a failure, or its deadline. Deadlines are gone through, some at a time,
    /// if `message_expiration` is shorter than it was; a longer one is met when they are over.
    pub fn set_settings(&mut self, queue: QueueId, settings: &Rc<Settings>) {
        if self.queues.holds(queue.0) {
            let known = &mut self.queues[queue.0.index].settings;
            if settings.message_expiration < known.message_expiration {
                self.shorten_at = Some(0);
            }
            *known = settings.clone();
        }
    }

    /// Takes a recipient into `queue`, which must come from [`Self::open`] or [`Self::find`]
    /// just now: active, or delayed if its progress says that it is not due. One that has expired
    /// is told of by the next [`Self::advance`].
    ///
    /// `content` may be nothing if the body is not in memory. The pair of batch and recipient index
    /// must not be here already.
    pub fn insert(
        &mut self,
        now: Now,
        queue: QueueId,
        arrival: Arrival,
        content: Option<Arc<Content>>,
    ) -> Inserted {
        assert!(
            self.queues.holds(queue.0),
            "a queue is looked up just before it is filled"
        );
        let q = queue.0.index;
        let message = self.message_of(now, &arrival, content.as_deref());
        let domain = self.names.domain(self.queues[q].pair);
        let whole = arrival.address.domain() != &**domain;
        let text = if whole {
            arrival.address.as_str()
        } else {
            arrival.address.local()
        };
        let handle = self.entries.insert(Entry {
            text: text.into(),
            message,
            queue: q,
            place: Links::LOOSE,
            siblings: Links::LOOSE,
            deadline: Deadline::UNSET,
            due_s: 0,
            recipient: arrival.recipient,
            attempts: arrival.progress.attempts,
            state: State::Active,
            whole,
            in_doubt: arrival.in_doubt,
        });
        self.link_new(now, handle.index, self.due_of(now, q, &arrival));
        if let Some(content) = content {
            self.keep_body(message, content);
        }
        self.settle(message, q);
        let active = self.entries[handle.index].state == State::Active;
        let ready = active && self.queues[q].rest.is_none();
        Inserted {
            entry: EntryId(handle),
            ready,
        }
    }

    /// The next recipients of one message that can go out together: those at the front of the
    /// active list, or of the flow whose turn it is, that belong to one batch, up to
    /// `recipients_max` (at least one). They are in flight then.
    pub fn take(&mut self, now: Now, queue: QueueId, recipients_max: usize) -> Taken {
        if !self.queues.holds(queue.0) {
            return Taken::Empty;
        }
        let q = queue.0.index;
        if let Some(rest) = &self.queues[q].rest {
            return Taken::Resting { until: rest.until };
        }
        let recipients_max = recipients_max.max(1);
        let expired = self.take_expired(now, q, recipients_max);
        if !expired.is_empty() {
            return Taken::Expired(expired);
        }
        let first = self.front(q);
        if first == NONE {
            return Taken::Empty;
        }
        let message = self.entries[first].message;
        let count = self.lead(first, message, recipients_max);
        let rank = self.flows.place(self.messages[message].flow).rank;
        self.serve(q, count);
        let mut recipients = Vec::with_capacity(count);
        let mut entry = first;
        for _ in 0..count {
            let next = self.entries[entry].place.next;
            recipients.push((self.entry_id(entry), self.address(entry)));
            self.shift(entry, State::InFlight, false);
            entry = next;
        }
        self.served(q, message);
        self.settle(message, q);
        let message = &self.messages[message];
        Taken::Batch(Batch {
            batch: message.batch,
            home: message.home,
            content: self.resident.content(message).cloned(),
            recipients,
            rank,
        })
    }

    /// The attempt never began, and is not counted: back to the front of the active list, in the
    /// order given. Entries that are not in flight are passed over.
    pub fn give_back(&mut self, now: Now, entries: &[EntryId]) {
        for id in entries.iter().rev() {
            if !self.is_in(*id, State::InFlight) {
                continue;
            }
            let entry = id.0.index;
            self.shift(entry, State::Active, true);
            self.refund(entry);
            if !self.entries[entry].deadline.is_set() {
                self.arm(now, entry, None);
            }
            self.settle(self.entries[entry].message, self.entries[entry].queue);
        }
    }

    /// An attempt failed for now. Nothing if the entry is not in flight.
    pub fn fail(&mut self, now: Now, id: EntryId) -> Option<Failed> {
        if !self.is_in(id, State::InFlight) {
            return None;
        }
        let entry = id.0.index;
        let q = self.entries[entry].queue;
        let attempts = self.entries[entry].attempts.saturating_add(1);
        self.entries[entry].attempts = attempts;
        self.queues[q].stats.transfails += 1;
        let message = self.entries[entry].message;
        let settings = self.queues[q].settings.clone();
        let given_up = if self.is_expired(now, message, &settings) {
            Some(GiveUp::Expired)
        } else if u32::from(attempts) > settings.retries() {
            Some(GiveUp::MaxRetries)
        } else {
            None
        };
        if let Some(why) = given_up {
            self.end(entry);
            self.settle(message, q);
            return Some(Failed::GivenUp { why, attempts });
        }
        let delay = settings.retry_delay(attempts);
        self.deadlines
            .clear(&mut self.entries, entry, |entry| &mut entry.deadline);
        self.shift(entry, State::Delayed, false);
        self.arm(now, entry, Some(now.mono + delay));
        self.settle(message, q);
        let dropped = u32::from(attempts) >= settings.drop_body_after_failures;
        if dropped && self.messages[message].class == Class::Delayed {
            self.resident.release(&mut self.messages, message);
        }
        Some(Failed::Delayed {
            due: now.wall + delay,
            attempts,
        })
    }

    /// Frees an entry, in whatever state it is. Nothing if it is gone already.
    pub fn finish(&mut self, now: Now, id: EntryId, ending: Ending) -> Option<Finished> {
        if !self.entries.holds(id.0) {
            return None;
        }
        let index = id.0.index;
        self.unlink(index);
        let Entry {
            message,
            queue: q,
            recipient,
            attempts,
            ..
        } = self.entries.remove(index);
        let Message {
            batch,
            home,
            born,
            flow,
            sender,
            count,
            ..
        } = self.messages[message];
        self.flows.discount(flow);
        if count == 0 {
            self.flows.leave(flow);
            self.senders.leave(sender);
            self.resident.release(&mut self.messages, message);
            self.batches.remove(batch);
            self.messages.remove(message);
        } else {
            self.settle(message, q);
        }
        let queue = &mut self.queues[q];
        queue.ages.remove(born.us());
        match ending {
            Ending::Delivered => queue.stats.deliveries += 1,
            Ending::Failed => queue.stats.permfails += 1,
            Ending::Withdrawn => queue.stats.withdrawn += 1,
        }
        let queue_empty = queue.is_empty();
        if queue_empty {
            queue.idle_since = now.mono;
            self.idle
                .push_back(&mut self.queues, q, |queue| &mut queue.idle);
        }
        let message = MessageId { batch, recipient };
        Some(Finished {
            queue: self.queue_id(q),
            message,
            home,
            attempts,
            queue_empty,
        })
    }

    /// Takes out an entry that is to enter another queue, with all that it came with and how far it
    /// has come. Nothing of one that is in a job, or ending.
    pub fn depart(&mut self, now: Now, id: EntryId) -> Option<Departed> {
        let view = self.entry(id)?;
        if !matches!(view.state(), State::Active | State::Delayed) {
            return None;
        }
        let MessageId { batch, recipient } = view.message();
        // What is held has had its turn; a hold that is about it there too meets it again.
        let due = view.due().map_or(Wall(0), |due| now.wall_of(due));
        let arrival = Arrival {
            batch,
            recipient,
            home: view.home(),
            address: view.address(),
            binding: self
                .names
                .binding(self.queues[view.queue().0.index].pair)
                .clone(),
            received: view.received(),
            size: view.size(),
            flow: view.flow().cloned(),
            sender: view.sender(),
            progress: Progress {
                attempts: view.attempts(),
                due,
            },
            moved: Some(Moved {
                born_us: view.born_us(),
                order: 0,
            }),
            in_doubt: view.in_doubt(),
        };
        let content = view.content().cloned();
        self.finish(now, id, Ending::Withdrawn)?;
        Some(Departed { arrival, content })
    }

    /// A body came back from its home: kept, as far as the budget allows, if the message is still
    /// here. True if it is in memory now.
    pub fn attach(&mut self, content: Arc<Content>) -> bool {
        let Some(message) = self.message_named(content.batch) else {
            return false;
        };
        let queue = self.entries[self.messages[message].first].queue;
        self.keep_body(message, content);
        self.settle(message, queue);
        self.resident.content(&self.messages[message]).is_some()
    }

    /// The whole queue rests: nothing is taken from it before `until`, whatever arrives or falls
    /// due. Costs the same with any number of entries: they stay where they are. Expiry goes on.
    pub fn rest(&mut self, now: Now, queue: QueueId, until: Mono) {
        if !self.queues.holds(queue.0) {
            return;
        }
        self.end_rest(queue.0.index);
        if until <= now.mono {
            return;
        }
        let timer = self.rests.insert(until, queue.0.index);
        let queue = &mut self.queues[queue.0.index];
        queue.rest = Some(Rest { until, timer });
        self.resting += u64::from(queue.lists[State::Active as usize].len);
    }

    /// Ends a rest early. True if there is something to take now.
    pub fn resume(&mut self, queue: QueueId) -> bool {
        if !self.queues.holds(queue.0) {
            return false;
        }
        self.end_rest(queue.0.index);
        self.queues[queue.0.index].lists[State::Active as usize].len > 0
    }

    /// Makes up to `entries_max` delayed entries of the queue active, the longest delayed first.
    /// True if there are more: call again, with other work in between.
    pub fn flush(&mut self, now: Now, queue: QueueId, entries_max: usize) -> bool {
        if !self.queues.holds(queue.0) {
            return false;
        }
        for _ in 0..entries_max {
            match self.queues[queue.0.index].lists[State::Delayed as usize].head {
                NONE => return false,
                entry => self.activate(now, entry),
            }
        }
        self.queues[queue.0.index].lists[State::Delayed as usize].len > 0
    }

    /// Not to be tried before `due`, whatever came of it so far; no attempt is counted. With
    /// [`HELD`] it waits until [`Self::retry`], or the end of its time. False if it is ending.
    pub fn put_off(&mut self, now: Now, id: EntryId, due: Mono) -> bool {
        if !self.entries.holds(id.0) || self.is_in(id, State::Ending) {
            return false;
        }
        let entry = id.0.index;
        self.deadlines
            .clear(&mut self.entries, entry, |entry| &mut entry.deadline);
        self.shift(entry, State::Delayed, false);
        self.arm(now, entry, Some(due));
        self.settle(self.entries[entry].message, self.entries[entry].queue);
        true
    }

    /// Nothing is taken from the queue as long as it is stopped, which is the caller's to see to:
    /// here its entries end when their time is up, though one more attempt may be due to them.
    /// Those whose time was up before need [`Self::rearm`].
    pub fn set_stopped(&mut self, queue: QueueId, stopped: bool) {
        if self.queues.holds(queue.0) {
            self.queues[queue.0.index].stopped = stopped;
        }
    }

    /// An active entry that waits for its last attempt, past its time, gets a deadline again.
    pub fn rearm(&mut self, now: Now, id: EntryId) {
        if self.is_in(id, State::Active) && !self.entries[id.0.index].deadline.is_set() {
            self.arm(now, id.0.index, None);
        }
    }

    /// Whether the time of an entry is up.
    pub fn is_out_of_time(&self, now: Now, id: EntryId) -> bool {
        self.entries.holds(id.0) && {
            let Entry { message, queue, .. } = self.entries[id.0.index];
            self.is_expired(now, message, &self.queues[queue].settings)
        }
    }

    /// Makes one delayed entry active. False if it is not delayed.
    pub fn retry(&mut self, now: Now, id: EntryId) -> bool {
        let delayed = self.is_in(id, State::Delayed);
        if delayed {
            self.activate(now, id.0.index);
        }
        delayed
    }

    /// Does what is due at `now`, and tells of it on `out`: entries become active or expire, rests
    /// end, empty queues are forgotten.
    pub fn advance(&mut self, now: Now, out: &mut Vec<Wake>) {
        let before = out.len();
        self.shorten_some(now);
        for _ in 0..ADVANCE_MAX {
            match self
                .deadlines
                .pop(&mut self.entries, now.mono, |entry| &mut entry.deadline)
            {
                Some(entry) => self.fire(now, entry, out),
                None => break,
            }
        }
        let mut rests_over = core::mem::take(&mut self.rests_over);
        self.rests.expire(now.mono, &mut rests_over);
        for queue in rests_over.drain(..) {
            self.end_rest(queue);
            self.wake(queue, out);
        }
        self.rests_over = rests_over;
        for wake in &out[before..] {
            if let Wake::Active(queue) = wake {
                self.queues[queue.0.index].told = false;
            }
        }
        for _ in 0..ADVANCE_MAX {
            if self.forget_at().is_none_or(|at| at > now.mono) {
                break;
            }
            let queue = self.idle.head;
            out.push(Wake::Forgotten(self.queue_id(queue)));
            self.forget(queue);
        }
    }

    /// When [`Self::advance`] has something to do. It may find nothing then, but never comes late
    /// by more than [`LATE_MAX`].
    pub fn next_wakeup(&self) -> Option<Mono> {
        let moments = [
            self.deadlines.next(),
            self.rests.next(),
            self.forget_at(),
            self.shorten_at.map(|_| Mono(0)),
        ];
        moments.into_iter().flatten().min()
    }

    /// Tells what the queue waits for now, and until when if that is known.
    pub fn set_cause(&mut self, now: Now, queue: QueueId, cause: Cause, until: Option<Mono>) {
        if self.queues.holds(queue.0) {
            self.queues[queue.0.index].waiting.set(now, cause, until);
        }
    }

    /// Keeps what a host, or Pelton in its place, said to `count` recipients.
    pub fn note_reply(
        &mut self,
        now: Now,
        queue: QueueId,
        (reply, stage): (&Reply, Stage),
        count: u64,
    ) {
        if self.queues.holds(queue.0) {
            self.queues[queue.0.index]
                .replies
                .note(now, reply, stage, count);
        }
    }

    /// Changes what bodies may take, and evicts at once what is too much.
    pub fn set_budget(&mut self, budget: Budget) {
        self.senders.set_max(budget.senders_max);
        self.resident.set_budget(&mut self.messages, budget);
    }

    /// Entries in all queues.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    pub fn queues_len(&self) -> usize {
        self.queues.len()
    }

    pub fn totals(&self) -> Totals {
        let [active, delayed, in_flight, ending] = self.totals;
        let resting = self.resting;
        Totals {
            active: active - resting,
            delayed: delayed + resting,
            in_flight,
            ending,
        }
    }

    pub fn resident_messages(&self) -> usize {
        self.resident.messages()
    }

    /// Bytes of bodies in memory, with an estimate for what comes with each.
    pub fn resident_bytes(&self) -> u64 {
        self.resident.bytes()
    }

    /// Bodies that left memory for the budget's sake since the start.
    pub fn evicted(&self) -> u64 {
        self.resident.evicted()
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.lists.iter().all(|list| list.len == 0)
    }
}

#[cfg(test)]
mod tests;
