//! What all shards of a process share: a few atomics, given to every engine when it is made.

use crate::base::cells::{Gauge, LimitCell};
use crate::base::peer_table::PeerTable;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::types::id::{SHARDS_MAX, ShardId};

#[derive(Default)]
pub struct Cells {
    /// SMTP connections of all listeners.
    pub sessions: LimitCell,
    /// SMTP connections per listen address, by its index.
    pub sessions_per_listen: Vec<LimitCell>,
    /// SMTP connections per peer address.
    pub peers: PeerTable,
    /// Connections per receiving host under a limit of a `host` stanza.
    pub hosts: PeerTable,
    /// Connections to receiving hosts, `server_max_outbound_connections`.
    pub outgoing: LimitCell,
    /// Connections to receiving hosts that the process has file descriptors for.
    pub outgoing_max: Gauge,
    /// Free bytes of the spool's file system, sampled by control.
    pub disk_free: Gauge,
    /// Resident memory of the process, sampled by control.
    pub memory_used: Gauge,
    /// What `memory_goal` and `memory_hwm` are percentages of.
    pub memory_limit: Gauge,
    slot_waiters: SlotWaiters,
}

/// Which shards wait for a slot under a process-wide connection limit: one bit per shard.
#[derive(Default)]
struct SlotWaiters([AtomicU64; WORDS]);

const WORDS: usize = SHARDS_MAX.div_ceil(64);

impl Cells {
    pub fn new(listens: usize) -> Cells {
        let sessions_per_listen = (0..listens).map(|_| LimitCell::new()).collect();
        Cells {
            sessions_per_listen,
            outgoing_max: Gauge::new(u64::MAX),
            ..Cells::default()
        }
    }

    /// From now on a freed slot is announced to this shard, once.
    pub fn wait_for_slot(&self, shard: ShardId) {
        let (word, bit) = (shard.index() / 64, 1 << (shard.index() % 64));
        self.slot_waiters.0[word].fetch_or(bit, Ordering::SeqCst);
    }

    /// The shards to tell that a slot is free; each is named once.
    pub fn take_slot_waiters(&self) -> impl Iterator<Item = ShardId> + '_ {
        let words = self.slot_waiters.0.iter().enumerate();
        words.flat_map(|(word, bits)| {
            let waiting = match bits.load(Ordering::SeqCst) {
                0 => 0,
                _ => bits.swap(0, Ordering::SeqCst),
            };
            let set = (0..64).filter(move |bit| waiting & (1 << bit) != 0);
            set.map(move |bit| ShardId((word * 64 + bit) as u8))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waiting_shard_is_told_once() {
        let cells = Cells::new(1);
        for shard in [1, 70, 127, 70] {
            cells.wait_for_slot(ShardId(shard));
        }
        let told: Vec<_> = cells.take_slot_waiters().collect();
        assert_eq!(told, [ShardId(1), ShardId(70), ShardId(127)]);
        assert_eq!(cells.take_slot_waiters().count(), 0);
    }
}
