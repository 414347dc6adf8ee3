//! What the queues tell their caller: names of queues and entries, and what became of a call.

use std::sync::Arc;

use crate::base::time::Mono;
use crate::base::time::Wall;
use crate::queue::pool::Handle;
use crate::types::address::Address;
use crate::types::id::BatchId;
use crate::types::id::MessageId;
use crate::types::id::ShardId;
use crate::types::message::Arrival;
use crate::types::message::Content;
use crate::types::sender::SENDERS_KEPT_MAX;

/// Names a (binding, domain) queue. Finds nothing once the queue has been forgotten.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueId(pub(super) Handle);

/// Names one recipient's entry. Finds nothing once the entry is finished.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryId(pub(super) Handle);

fn to_bits(handle: Handle) -> u64 {
    (u64::from(handle.generation) << 32) | u64::from(handle.index)
}

fn from_bits(bits: u64) -> Handle {
    Handle {
        index: bits as u32,
        generation: (bits >> 32) as u32,
    }
}

impl QueueId {
    /// As one number, for places that carry opaque tokens.
    pub fn to_bits(self) -> u64 {
        to_bits(self.0)
    }

    pub fn from_bits(bits: u64) -> QueueId {
        QueueId(from_bits(bits))
    }
}

impl EntryId {
    /// As one number, for places that carry opaque tokens.
    pub fn to_bits(self) -> u64 {
        to_bits(self.0)
    }

    pub fn from_bits(bits: u64) -> EntryId {
        EntryId(from_bits(bits))
    }
}

/// An entry on its way to another queue.
#[derive(Debug)]
pub struct Departed {
    pub arrival: Arrival,
    /// The body, if it was in memory.
    pub content: Option<Arc<Content>>,
}

/// Where an entry stands. It is in exactly one list of its queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// May be tried now.
    Active,
    /// Waits for its next attempt.
    Delayed,
    /// Taken; the caller owes [`Queues::finish`](super::Queues::finish),
    /// [`fail`](super::Queues::fail) or [`give_back`](super::Queues::give_back).
    InFlight,
    /// Out of time or retries; the caller owes `finish`.
    Ending,
}

impl State {
    pub const ALL: [State; 4] = [
        State::Active,
        State::Delayed,
        State::InFlight,
        State::Ending,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Delayed => "delayed",
            State::InFlight => "in flight",
            State::Ending => "ending",
        }
    }
}

/// What [`Queues::insert`](super::Queues::insert) did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inserted {
    pub entry: EntryId,
    /// It is active and its queue does not rest: there is something to take.
    pub ready: bool,
}

/// What [`Queues::take`](super::Queues::take) found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Taken {
    Batch(Batch),
    /// These stood at the front and are out of time: to be ended. Take again afterwards.
    Expired(Vec<EntryId>),
    /// The whole queue rests; a wake will tell when it is over.
    Resting {
        until: Mono,
    },
    /// Nothing is active.
    Empty,
}

/// Recipients of one message that go out together, now in flight.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub batch: BatchId,
    pub home: ShardId,
    /// Nothing if the body has left memory: it must be fetched from `home`, and may be told to
    /// [`Queues::attach`](super::Queues::attach) for the sake of the message's other recipients.
    pub content: Option<Arc<Content>>,
    /// At least one.
    pub recipients: Vec<(EntryId, Address)>,
    /// Of their class: zero is the first.
    pub rank: u8,
}

/// What a transient failure comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    /// Delayed; `attempts` failed attempts so far. Both are the home's to make durable.
    Delayed { due: Wall, attempts: u16 },
    /// No further attempt: the entry is [`State::Ending`].
    GivenUp { why: GiveUp, attempts: u16 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GiveUp {
    /// `max_retries`, or `never_retry`.
    MaxRetries,
    /// `message_expiration`.
    Expired,
}

/// How an entry ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    Delivered,
    /// Refused for good, expired or out of retries.
    Failed,
    /// Discarded by an operator, or moved to another queue.
    Withdrawn,
}

/// The entry that was freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finished {
    pub queue: QueueId,
    pub message: MessageId,
    pub home: ShardId,
    /// Failed attempts.
    pub attempts: u16,
    /// The queue holds nothing any more.
    pub queue_empty: bool,
}

/// What the passing of time did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// Something can be taken that could not be before. At most once per queue and call.
    Active(QueueId),
    /// Its time is up, wherever it waited; it is [`State::Ending`] now.
    Expired(EntryId),
    /// The queue was empty long enough and is gone: what is kept under its id can go too.
    Forgotten(QueueId),
}

/// What bodies and senders may take in memory on this shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Momentum `max_resident_messages`, this shard's part.
    pub messages_max: usize,
    /// What `memory_goal` leaves to this shard.
    pub bytes_max: u64,
    /// Senders whose text is kept.
    pub senders_max: usize,
}

impl Default for Budget {
    /// Momentum's default for the count; bytes without bound.
    fn default() -> Budget {
        Budget {
            messages_max: 32_768,
            bytes_max: u64::MAX,
            senders_max: SENDERS_KEPT_MAX,
        }
    }
}
