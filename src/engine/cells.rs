//! What all shards of a process share: a few atomics, given to every engine when it is made.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::base::cells::{Gauge, LimitCell};
use crate::base::peer_table::PeerTable;
use crate::base::throttle::Throttles;
use crate::types::id::{SHARDS_MAX, ShardId};

#[derive(Default)]
pub struct Cells {
    /// SMTP connections of all listeners.
    pub sessions: LimitCell,
    /// SMTP connections that the process has file descriptors for: the spool, the event log and
    /// the operator need some too. Set before the shards run.
    pub sessions_max: u64,
    /// SMTP connections per listen address, by its index.
    pub sessions_per_listen: Vec<LimitCell>,
    /// SMTP connections per peer address.
    pub peers: PeerTable,
    /// Connections per receiving host under a limit of a `host` stanza.
    pub hosts: PeerTable,
    /// Connections to receiving hosts, `server_max_outbound_connections`.
    pub outgoing: LimitCell,
    /// Connections to receiving hosts that the process has file descriptors for. Nothing changes
    /// it while shards run: who waits for a place needs no word of it.
    pub outgoing_max: u64,
    /// Free bytes of the spool's file system, sampled by control.
    pub disk_free: Gauge,
    /// Resident memory of the process, sampled by control.
    pub memory_used: Gauge,
    /// What `memory_goal` and `memory_hwm` are percentages of.
    pub memory_limit: Gauge,
    /// Throttles of all stanzas that set one.
    pub throttles: Throttles,
    slot_waiters: SlotWaiters,
}

/// Which shards have queues that wait under a process-wide connection limit: one bit per shard.
#[derive(Default)]
struct SlotWaiters([AtomicU64; WORDS]);

const WORDS: usize = SHARDS_MAX.div_ceil(64);

impl Cells {
    pub fn new(listens: usize) -> Cells {
        let sessions_per_listen = (0..listens).map(|_| LimitCell::new()).collect();
        Cells {
            sessions_per_listen,
            sessions_max: u64::MAX,
            outgoing_max: u64::MAX,
            ..Cells::default()
        }
    }

    /// Says whether queues of this shard wait for a connection to end. The end of any connection
    /// is announced to a shard from when it has said so until it says otherwise, so it looks once
    /// more for room after it has said so.
    pub fn set_waiting(&self, shard: ShardId, waits: bool) {
        let (word, bit) = (shard.index() / 64, 1 << (shard.index() % 64));
        let bits = &self.slot_waiters.0[word];
        match waits {
            true => bits.fetch_or(bit, Ordering::SeqCst),
            false => bits.fetch_and(!bit, Ordering::SeqCst),
        };
    }

    /// The shards to tell that a connection has ended. Asked after its places have been given back.
    pub fn waiting(&self) -> impl Iterator<Item = ShardId> + '_ {
        let words = self.slot_waiters.0.iter().enumerate();
        words.flat_map(|(word, bits)| {
            let mut left = bits.load(Ordering::SeqCst);
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.wrapping_sub(1);
                (bit < 64).then(|| ShardId((word * 64 + bit) as u8))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_told_from_when_it_waits_until_it_does_not() {
        let cells = Cells::new(1);
        let waiting = || cells.waiting().map(|it| it.0).collect::<Vec<_>>();
        for shard in [1, 70, 127, 70] {
            cells.set_waiting(ShardId(shard), true);
        }
        assert_eq!(waiting(), [1, 70, 127]);
        assert_eq!(waiting(), [1, 70, 127]);
        cells.set_waiting(ShardId(70), false);
        assert_eq!(waiting(), [1, 127]);
    }
}
