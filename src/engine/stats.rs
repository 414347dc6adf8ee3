//! What a shard counts. One definition per number: `pelton status`, `/metrics` and the tests read
//! the same fields.

use serde::{Deserialize, Serialize};

use crate::base::histogram::Histogram;

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ShardStats {
    pub shard: u8,
    pub counters: Counters,
    pub gauges: Gauges,
    /// From the start of a commit to its completion.
    pub commit_latency: Histogram,
    /// From acceptance to the final positive reply.
    pub delivery_latency: Histogram,
    /// From MAIL to the reply after the end of data, at reception.
    pub injection_latency: Histogram,
}

/// Totals since the start of the process; they only grow.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Recipients accepted; each is a message of its own.
    pub messages_injected: u64,
    pub messages_delivered: u64,
    /// Attempts that ended in a delay, and messages that an operator has delayed.
    pub messages_delayed: u64,
    pub messages_bounced: u64,
    /// Given to another binding by an operator.
    #[serde(default)]
    pub messages_rebound: u64,
    pub messages_expired: u64,
    pub messages_discarded: u64,
    /// Refused at RCPT or after DATA.
    pub messages_rejected: u64,
    /// Those that waited under `inbound_throttle_messages`.
    #[serde(default)]
    pub messages_slowed: u64,
    pub messages_recovered: u64,
    pub transactions_accepted: u64,
    pub bytes_injected: u64,
    pub bytes_delivered: u64,
    pub possible_duplicates: u64,
    pub spool_commits: u64,
    pub spool_commit_messages: u64,
    pub spool_commit_bytes: u64,
    pub spool_commit_failures: u64,
    pub connections_in: u64,
    pub connections_in_refused: u64,
    pub connections_out: u64,
    pub connections_out_failed: u64,
    /// From one domain to another of the same hosts.
    #[serde(default)]
    pub connections_passed: u64,
    pub body_reads: u64,
    pub compacted_messages: u64,
    pub mesh_messages: u64,
    pub events_written: u64,
    /// Events that the event log could not keep because its disk was behind for too long.
    pub events_lost: u64,
    /// Operations of the event log that failed; all but lost events were done again.
    pub event_log_failures: u64,
    pub dns_lookups: u64,
    pub sends: u64,
    pub receives: u64,
}

/// How things stand at this moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Gauges {
    pub queue_active: u64,
    pub queue_delayed: u64,
    pub queue_in_flight: u64,
    /// Recipients that a start has found on disk and that are not in the queues yet.
    #[serde(default)]
    pub queue_returning: u64,
    pub queues: u64,
    /// Queues that rest because every host of theirs fails, or their source address does.
    #[serde(default)]
    pub queues_failing: u64,
    /// Messages of bindings that the configuration does not name; `default` sends them.
    #[serde(default)]
    pub unnamed_binding_messages: u64,
    /// One of those bindings; empty if there is none.
    #[serde(default)]
    pub unnamed_binding: String,
    pub sessions_in: u64,
    pub sessions_out: u64,
    pub resident_messages: u64,
    pub resident_bytes: u64,
    pub queue_bytes: u64,
    pub spool_messages: u64,
    pub spool_segments: u64,
    pub spool_bytes: u64,
    pub spool_live_bytes: u64,
    pub oldest_seconds: u64,
    /// Commits that wait: not zero for long means a slow disk.
    pub commits_pending: u64,
    pub config_generation: u64,
    /// Why nothing is accepted; empty when all is well.
    pub admission_closed: String,
    pub spool_stopped: bool,
    /// Event log files of this shard.
    pub event_log_bytes: u64,
    /// Events that wait for the disk.
    pub event_log_backlog_bytes: u64,
    /// The event log cannot be written.
    #[serde(default)]
    pub event_log_failing: bool,
}

impl Gauges {
    /// Messages in the queues, in whatever state.
    pub fn queued(&self) -> u64 {
        self.queue_active + self.queue_delayed + self.queue_in_flight + self.queue_returning
    }
}

macro_rules! add_fields {
    ($into:expr, $from:expr, $($field:ident)*) => { $($into.$field += $from.$field;)* };
}

impl ShardStats {
    /// Adds another shard's numbers to these.
    pub fn merge(&mut self, other: &ShardStats) {
        let (mine, theirs) = (&mut self.counters, &other.counters);
        add_fields!(mine, theirs, messages_injected messages_delivered messages_delayed
            messages_bounced messages_rebound messages_expired messages_discarded
            messages_rejected messages_slowed messages_recovered transactions_accepted
            bytes_injected bytes_delivered possible_duplicates spool_commits spool_commit_messages
            spool_commit_bytes spool_commit_failures connections_in connections_in_refused
            connections_out connections_out_failed connections_passed body_reads compacted_messages
            mesh_messages events_written events_lost event_log_failures dns_lookups sends receives);
        let (mine, theirs) = (&mut self.gauges, &other.gauges);
        add_fields!(mine, theirs, queue_active queue_delayed queue_in_flight queue_returning queues
            queues_failing
            sessions_in sessions_out resident_messages resident_bytes queue_bytes spool_messages
            spool_segments spool_bytes spool_live_bytes commits_pending event_log_bytes
            event_log_backlog_bytes unnamed_binding_messages);
        if mine.unnamed_binding.is_empty() {
            mine.unnamed_binding.clone_from(&theirs.unnamed_binding);
        }
        mine.oldest_seconds = mine.oldest_seconds.max(theirs.oldest_seconds);
        mine.config_generation = mine.config_generation.max(theirs.config_generation);
        mine.spool_stopped |= theirs.spool_stopped;
        mine.event_log_failing |= theirs.event_log_failing;
        if mine.admission_closed.is_empty() {
            mine.admission_closed.clone_from(&theirs.admission_closed);
        }
        self.commit_latency.merge(&other.commit_latency);
        self.delivery_latency.merge(&other.delivery_latency);
        self.injection_latency.merge(&other.injection_latency);
    }
}
