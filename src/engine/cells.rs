//! What all shards of a process share: a few atomics, given to every engine when it is made.

use crate::base::cells::{Gauge, LimitCell};
use crate::base::limit::Limits;
use crate::base::marks::Marks;
use crate::base::peer_table::PeerTable;
use crate::base::throttle::Throttles;
use crate::base::warmup::Warmups;
use crate::types::sender::SENDERS_KEPT_MAX;

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
    /// Limits of connections to receiving hosts.
    pub limits: Limits,
    /// Pairs of binding and domain whose queue is spread over all shards.
    pub striped: Marks,
    /// Connections to receiving hosts that the process has file descriptors for. Nothing changes
    /// it while shards run.
    pub outgoing_max: u64,
    /// Senders whose text a shard keeps. Nothing changes it while shards run.
    pub senders_max: usize,
    /// Free bytes of the spool's file system, sampled by control.
    pub disk_free: Gauge,
    /// Resident memory of the process, sampled by control.
    pub memory_used: Gauge,
    /// What `memory_goal` and `memory_hwm` are percentages of.
    pub memory_limit: Gauge,
    /// Throttles of all stanzas that set one.
    pub throttles: Throttles,
    /// Bindings that receivers do not know yet.
    pub warmups: Warmups,
}

impl Cells {
    pub fn new(listens: usize) -> Cells {
        let sessions_per_listen = (0..listens).map(|_| LimitCell::new()).collect();
        Cells {
            sessions_per_listen,
            sessions_max: u64::MAX,
            outgoing_max: u64::MAX,
            senders_max: SENDERS_KEPT_MAX,
            ..Cells::default()
        }
    }
}
