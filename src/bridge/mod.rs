//! L5: messages between shards, and between shards and control: bounded rings, one writer and one
//! reader each, no locks. A full ring makes the sender keep its message and try again when it next
//! runs; nobody waits.

pub mod mesh;

use crate::engine::io::ToControl;
use crate::types::id::ShardId;

/// What control hears of a shard: its engine, and the thread around it.
pub enum FromShard {
    Engine(ToControl),
    /// It accepts connections on every address.
    Listening {
        shard: ShardId,
    },
    /// It could not start, or its executor died: the process cannot go on.
    Failed {
        shard: ShardId,
        why: String,
    },
    /// It has returned.
    Stopped {
        shard: ShardId,
    },
}
