//! What goes into an engine and what comes out: the whole surface between it and its surroundings.
//! Effects are data; each action tells what its taker owes.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;

use crate::base::slab::Key;
use crate::base::throttle::Throttle;
use crate::config::Config;
use crate::deliver::dns_answer::Answer as DnsAnswer;
use crate::deliver::dns_answer::Question;
use crate::engine::query::{Answer, Query};
use crate::hose;
use crate::hose::HoseOp;
use crate::log::Completion;
use crate::log::DiskOp;
use crate::log::Fault;
use crate::queue::QueueId;
use crate::shape::Saved;
use crate::spool;
use crate::spool::BodyAt;
use crate::types::address::Address;
use crate::types::id::{BatchId, ShardId};
use crate::types::message::{Arrival, Content};
use crate::types::order::Orders;
use crate::types::outcome::Outcome;

/// Which way a connection was opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Side {
    In,
    Out,
}

/// Names a connection until the engine has been told that it is closed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ConnId {
    pub side: Side,
    pub key: Key,
}

/// Why a connection could not be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DialError {
    Refused,
    TimedOut,
    Unreachable,
    /// The source address is not on this machine.
    NoSuchSource,
    /// Too many open files, or no free port: ours, not theirs.
    Exhausted,
    Other(String),
}

pub enum Input<'a> {
    /// Bytes that arrived. The engine takes all of them before it returns.
    Received {
        conn: ConnId,
        bytes: &'a [u8],
    },
    /// Some of what was to be sent has left; timeouts of the peer count from here. With `all`,
    /// nothing is left. Owed after a `SendShared` and whenever a send had stalled.
    Sent {
        conn: ConnId,
        all: bool,
    },
    /// The peer will send no more, and may still read: what it is owed is sent, then the engine
    /// closes. For connections that came in; others are `Closed` then.
    Ended {
        conn: ConnId,
    },
    /// The peer has closed, or reading or writing failed. The id means nothing afterwards.
    Closed {
        conn: ConnId,
    },
    /// The end of a `Dial`: the local address it got, or why not. After an error the id is void.
    Dialed {
        conn: ConnId,
        result: Result<SocketAddr, DialError>,
    },
    /// The end of a `Spool` action.
    Spool(Completion),
    /// The end of a `Read`: exactly the bytes asked for, or nothing of use.
    Read {
        read: u64,
        result: Result<Vec<u8>, Fault>,
    },
    /// The end of a `Hose` action.
    Hose {
        op: u64,
        result: Result<(), hose::Fault>,
    },
    Mesh {
        from: ShardId,
        message: MeshMessage,
    },
    Control(ToShard),
    /// The moment of `next_wakeup` has come. Harmless at any other time.
    Tick,
}

/// What control tells a shard.
pub enum ToShard {
    /// The answer to a `Resolve`.
    Resolved {
        question: Question,
        answer: DnsAnswer,
    },
    Ask {
        id: u64,
        query: Query,
    },
    /// What earlier starts have left on disk; comes once, unless it was there from the first.
    Recovered(Box<spool::Home>),
    /// A new generation that has been checked whole.
    Reload {
        config: Arc<Config>,
    },
    /// The operators' orders, all that hold from now on.
    Orders(Arc<Orders>),
    /// More starts under throttles are on disk.
    Reserved,
    /// Take no more connections, finish what is on the wire until the grace is over, then say
    /// `Quiet`.
    Shutdown {
        grace: core::time::Duration,
    },
    /// Every shard is quiet, and what they had sent to each other has been handed over: bring
    /// everything to disk, then say `Drained`.
    Finish,
}

/// What a shard tells control.
pub enum ToControl {
    Resolve {
        shard: ShardId,
        question: Question,
    },
    Answer {
        shard: ShardId,
        id: u64,
        answer: Answer,
    },
    /// Something an operator should read, for the process's own log.
    Notice {
        shard: ShardId,
        level: Level,
        text: String,
    },
    /// What adaptive delivery knows of a pair has changed. To be kept until the next start.
    Adapted(Box<Adapted>),
    /// A throttle has something to write down, or may start no more before more of it is on disk.
    Reserve {
        throttle: Arc<Throttle>,
    },
    /// What earlier starts have left is taken over, though not all of it may be in the queues.
    Adopted {
        shard: ShardId,
    },
    /// All of that is in the queues; said once, also if there was nothing.
    HandedOut {
        shard: ShardId,
    },
    /// How far a one-time order has come on this shard: once it has gone through all entries, and
    /// whenever that changes.
    Worked {
        shard: ShardId,
        worked: Worked,
    },
    /// What an owner has settled for a one-time order is durable at this home.
    Settled {
        home: ShardId,
        owner: ShardId,
        order: u64,
    },
    /// Nothing is on the wire any more, and nothing more will be sent to other shards.
    Quiet {
        shard: ShardId,
    },
    /// Everything that was said is durable.
    Drained {
        shard: ShardId,
    },
}

/// What a one-time order has done on one shard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Worked {
    pub order: u64,
    /// Messages changed, and the queues that they were in.
    pub changed: u64,
    pub queues: u64,
    /// On the wire; they meet the order when they come back.
    pub in_flight: u64,
    /// Left alone: the disk did not tell their senders.
    pub unknown: u64,
    /// Left alone: they are held, and are neither delayed nor made due before that is over.
    pub held: u64,
    /// Nothing more will come of it here.
    pub over: bool,
}

/// What adaptive delivery knows of a pair now.
pub struct Adapted {
    pub shard: ShardId,
    pub binding: Arc<str>,
    pub domain: Arc<str>,
    /// Nothing: there is nothing to keep any more.
    pub saved: Option<Saved>,
    /// Sentences for the journal of changes.
    pub journal: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Info,
    Warn,
    Error,
}

/// What shards tell each other.
#[derive(Debug)]
pub enum MeshMessage {
    /// New entries for queues that the receiver owns. The content is there while memory allows.
    Arrivals {
        content: Option<Arc<Content>>,
        arrivals: Vec<Arrival>,
    },
    /// To the home: what became of its recipients.
    Settled(Vec<Settled>),
    /// To the home: all outcomes of a one-time order have been sent.
    Barrier { order: u64 },
    /// To the home: a body that has left memory is needed again.
    Fetch { batch: BatchId },
    /// To the owner: the body, or why there is none.
    Body {
        batch: BatchId,
        content: Result<Arc<Content>, Unread>,
    },
    /// To an owner: a place under a limit of connections has been handed to a queue of it.
    PlaceFree { queue: QueueId },
    /// To an owner: others wait for a place that a queue of it has.
    GiveUp { queue: QueueId },
}

/// Why a body has not come back from the spool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unread {
    /// The disk does not give it at present. What is on it may be whole.
    NotNow,
    /// It is damaged, or gone.
    Never,
}

/// An outcome on its way home, with what its event tells.
#[derive(Clone, Debug)]
pub struct Settled {
    pub home: ShardId,
    pub outcome: Outcome,
    pub recipient: Address,
    pub binding: Arc<str>,
    /// Nothing if the body had left memory; the home reads it from its record then.
    pub content: Option<Arc<Content>>,
    /// Of one that is rebound: the entry, for the owner of its new queue. It goes by its home, so
    /// that what becomes of it there comes home after this.
    pub onward: Option<Box<Arrival>>,
}

pub enum Action {
    /// Write these bytes, after everything given before.
    Send {
        conn: ConnId,
        bytes: Vec<u8>,
    },
    /// The same for a body that is shared and large; say `Sent` when all of it has left.
    SendShared {
        conn: ConnId,
        bytes: Bytes,
    },
    /// Reading may go on, after `wants_read` had said no.
    Resume {
        conn: ConnId,
    },
    /// Nothing more will be sent: close the writing side once all is written, go on reading, and
    /// say `Closed` when the peer is done.
    Close {
        conn: ConnId,
    },
    /// Close at once, then say `Closed`.
    Abort {
        conn: ConnId,
    },
    /// Open a connection from `source`, or from whatever the kernel picks, and say `Dialed`.
    Dial {
        conn: ConnId,
        remote: SocketAddr,
        source: Option<IpAddr>,
    },
    /// Do it and give back its `Completion`; operations on one segment in the order given.
    Spool(DiskOp),
    Hose(HoseOp),
    /// Read `at.bytes` at `at.offset` of a segment and give them back as `Read`.
    Read {
        read: u64,
        at: BodyAt,
    },
    Mesh {
        to: ShardId,
        message: MeshMessage,
    },
    Control(ToControl),
    /// Accept no more connections.
    StopListening,
}

/// Where an engine puts its actions; drained by the surroundings after every call and reused.
#[derive(Default)]
pub struct Outbox {
    actions: Vec<Action>,
    /// Buffers that have been sent, for the next sends.
    spare: Vec<Vec<u8>>,
}

/// Send buffers kept for reuse.
const SPARE_BUFFERS_MAX: usize = 64;

/// A buffer that has grown beyond this is not kept.
const SPARE_BUFFER_BYTES_MAX: usize = 128 * 1024;

impl Outbox {
    pub fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Takes all actions, in order; give the vector back with [`Self::reuse`].
    pub fn take(&mut self) -> Vec<Action> {
        core::mem::take(&mut self.actions)
    }

    pub fn reuse(&mut self, mut actions: Vec<Action>) {
        actions.clear();
        if self.actions.capacity() < actions.capacity() && self.actions.is_empty() {
            self.actions = actions;
        }
    }

    /// An empty buffer, used before if there is one.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX && buffer.capacity() <= SPARE_BUFFER_BYTES_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}
