//! What an operator may ask a shard, and what it answers. Every shard is asked the same question;
//! control merges the answers. Answers are plain data with units in their names, ready for JSON.

use serde::{Deserialize, Serialize};

use crate::engine::stats::ShardStats;
use crate::types::filter::Filter;

/// Queues one answer lists at most, per shard.
pub const QUEUES_LISTED_MAX: usize = 10_000;

/// Messages one answer lists at most, per shard.
pub const MESSAGES_LISTED_MAX: usize = 10_000;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// Counters and gauges of the whole shard.
    Status,
    /// Queues that match, largest first.
    Queues { filter: Filter, limit: usize },
    /// What waits, summed up; a part at a time, from `cursor` on.
    Groups {
        by: GroupBy,
        filter: Filter,
        cursor: u64,
    },
    /// Messages that match, in queue order, from `cursor` on.
    Messages {
        filter: Filter,
        cursor: Option<u64>,
        limit: usize,
    },
    /// What the queues of a domain wait for.
    Why {
        domain: String,
        binding: Option<String>,
    },
    /// What an order would touch. Of many messages a part at a time, from `cursor` on.
    Preview { filter: Filter, cursor: u64 },
    /// What adaptive delivery has learnt.
    Learnt {
        binding: Option<String>,
        domain: Option<String>,
    },
    /// What an operator makes of that.
    Relearn {
        binding: Option<String>,
        domain: Option<String>,
        act: LearntAct,
    },
    /// The life of one message as this shard knows it.
    Trace { target: TraceTarget },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceTarget {
    /// A batch id: all its recipients.
    Batch(String),
    /// One message id.
    Message(String),
    /// A recipient address, lower case.
    Recipient(String),
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Status(Box<ShardStats>),
    Queues(FoundQueues),
    Groups {
        shard: u8,
        groups: Vec<Group>,
        next: Option<u64>,
    },
    Messages {
        messages: Vec<MessageSummary>,
        next: Option<u64>,
    },
    Why(Vec<QueueDetail>),
    Learnt(Vec<LearntPair>),
    /// How many pairs were changed; the error says why none could be.
    Relearnt(Result<u64, String>),
    Preview {
        shard: u8,
        found: Preview,
        next: Option<u64>,
    },
    Trace(Vec<MessageTrace>),
}

/// The largest queues that match, and how many do.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FoundQueues {
    pub largest: Vec<QueueSummary>,
    /// Listed or not.
    pub matching: u64,
    /// Messages in them.
    pub messages: u64,
}

impl FoundQueues {
    pub fn iter(&self) -> core::slice::Iter<'_, QueueSummary> {
        self.largest.iter()
    }
}

/// What messages are summed up by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    Class,
    Tenant,
    Campaign,
    Domain,
    Binding,
}

impl GroupBy {
    pub const ALL: [GroupBy; 5] = [
        GroupBy::Class,
        GroupBy::Tenant,
        GroupBy::Campaign,
        GroupBy::Domain,
        GroupBy::Binding,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            GroupBy::Class => "class",
            GroupBy::Tenant => "tenant",
            GroupBy::Campaign => "campaign",
            GroupBy::Domain => "domain",
            GroupBy::Binding => "binding",
        }
    }

    /// Classes, tenants and campaigns are counted over all queues, and not for each.
    pub fn is_of_queues(self) -> bool {
        matches!(self, GroupBy::Domain | GroupBy::Binding)
    }
}

/// A sum over messages.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Group {
    /// Null for what has none.
    pub name: Option<String>,
    pub messages: u64,
    /// The rest is known of groups of queues only. A queue counts on each shard that has a part.
    pub queues: Option<u64>,
    pub active: Option<u64>,
    pub delayed: Option<u64>,
    pub in_flight: Option<u64>,
    pub oldest_seconds: Option<u64>,
}

impl Group {
    /// Another part of the same group.
    pub fn add(&mut self, other: &Group) {
        let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        self.messages += other.messages;
        self.queues = sum(self.queues, other.queues);
        self.active = sum(self.active, other.active);
        self.delayed = sum(self.delayed, other.delayed);
        self.in_flight = sum(self.in_flight, other.in_flight);
        self.oldest_seconds = self.oldest_seconds.max(other.oldest_seconds);
    }
}

/// One (binding, domain) queue in a list.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct QueueSummary {
    pub binding: String,
    pub domain: String,
    pub shard: u8,
    pub active: u64,
    pub delayed: u64,
    pub in_flight: u64,
    pub connections: u64,
    pub received_total: u64,
    pub delivered_total: u64,
    pub delayed_total: u64,
    pub bounced_total: u64,
    /// Age of the oldest message; null when the queue is empty.
    pub oldest_seconds: Option<u64>,
    /// What it waits for now, see [`QueueDetail::causes`].
    pub cause: String,
    pub cause_seconds: u64,
    /// The operator's order that it waits for.
    #[serde(default)]
    pub order: Option<u64>,
    /// When that is expected to end, RFC 3339; null when nothing is timed.
    #[serde(default)]
    pub until: Option<String>,
    pub last_failure: Option<LastReply>,
}

/// What an order touches.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Preview {
    pub messages: u64,
    pub in_flight: u64,
    /// Queues with such messages.
    pub queues: u64,
    pub oldest_seconds: u64,
    /// Messages that it may meet besides: the filter asks for a part of a sender whose text is on
    /// disk only.
    pub unknown: u64,
    /// Messages by domain, the most first, at most [`PREVIEW_DOMAINS_MAX`].
    pub domains: Vec<DomainCount>,
}

/// Domains that a preview names.
pub const PREVIEW_DOMAINS_MAX: usize = 100;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DomainCount {
    pub domain: String,
    pub messages: u64,
}

impl Preview {
    /// Adds what another shard, or a later part, has found. A queue of which both have messages
    /// counts twice.
    pub fn merge(&mut self, other: &Preview) {
        self.messages += other.messages;
        self.in_flight += other.in_flight;
        self.queues += other.queues;
        self.unknown += other.unknown;
        self.oldest_seconds = self.oldest_seconds.max(other.oldest_seconds);
        for count in &other.domains {
            let known = self.domains.iter_mut().find(|it| it.domain == count.domain);
            match known {
                Some(known) => known.messages += count.messages,
                None => self.domains.push(count.clone()),
            }
        }
        self.cut();
    }

    /// The most first, and no more than are told.
    pub fn cut(&mut self) {
        let order = |a: &DomainCount, b: &DomainCount| {
            b.messages
                .cmp(&a.messages)
                .then_with(|| a.domain.cmp(&b.domain))
        };
        self.domains.sort_by(order);
        self.domains.truncate(PREVIEW_DOMAINS_MAX);
    }
}

/// The last reply of a class: what they said.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LastReply {
    /// `delivered`, `transient` or `permanent`.
    pub class: String,
    pub reply: String,
    /// Pelton's account of why there was none.
    #[serde(default)]
    pub internal: bool,
    pub stage: String,
    pub host: Option<String>,
    /// RFC 3339, UTC.
    pub first_at: String,
    pub last_at: String,
    pub count: u64,
}

/// One queue, whole: the answer to `why`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct QueueDetail {
    pub summary: QueueSummary,
    /// One sentence: what it waits for, since when, until when.
    pub sentence: String,
    /// RFC 3339; null when nothing is timed.
    pub until: Option<String>,
    /// Time booked per cause since the queue exists.
    pub causes: Vec<CauseSeconds>,
    pub replies: Vec<LastReply>,
    /// Attempts before the start of the process, if it has made none since: what was said then is
    /// in the event log only.
    #[serde(default)]
    pub attempts_before: u64,
    pub hosts: Vec<HostState>,
    pub limits: Vec<LimitState>,
    /// What may be tried now, by class, tenant and campaign, in the order of turns; the first of
    /// many. Empty if there is nothing to tell apart.
    #[serde(default)]
    pub flows: Vec<FlowWaiting>,
    /// The transcript of the last failed attempt, if the flight recorder still has it.
    pub transcript: Option<Transcript>,
}

/// Messages of one flow that wait in a queue for their turn.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FlowWaiting {
    pub class: String,
    pub tenant: Option<String>,
    pub campaign: Option<String>,
    pub active: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CauseSeconds {
    pub cause: String,
    pub seconds: f64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HostState {
    pub preference: u16,
    pub host: String,
    pub address: String,
    pub connections: u64,
    /// RFC 3339; null when the host is in use.
    pub resting_until: Option<String>,
    pub failures: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LimitState {
    pub option: String,
    pub value: String,
    /// `file:line` of the stanza, or `built-in default`.
    pub origin: String,
    pub binding_now: bool,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Transcript {
    /// RFC 3339.
    pub at: String,
    pub binding: String,
    pub domain: String,
    pub host: String,
    pub message: Option<String>,
    pub lines: Vec<String>,
}

/// What an operator does to what was learnt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearntAct {
    /// Forget it.
    Reset,
    /// End suspensions.
    Resume,
    /// Give an option a value for some time.
    Set {
        /// `OPTION VALUE`.
        assignment: String,
        seconds: u64,
    },
    /// The stage of a binding that is warmed up, from 1; nothing: it is warm.
    Warmup { stage: Option<u32> },
    /// Recipients have complained.
    Complaints { category: String, count: u64 },
}

/// What was learnt of one (binding, domain) pair; with `warmup`, of a binding.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LearntPair {
    pub binding: String,
    pub domain: String,
    /// Messages in its queue.
    pub queued: u64,
    /// As people read it.
    pub message_rate: Option<String>,
    pub messages_per_second: Option<f64>,
    /// Where trouble began last.
    pub known_limit_per_second: Option<f64>,
    /// RFC 3339.
    pub pausing_since: Option<String>,
    pub max_outbound_connections: Option<u32>,
    pub max_deliveries_per_connection: Option<u32>,
    pub because: Vec<LearntCause>,
    pub stop: Option<LearntStop>,
    pub in_force: Vec<LearntSet>,
    /// Of the last day.
    #[serde(default)]
    pub delivered: u64,
    #[serde(default)]
    pub complaints: Vec<LearntComplaints>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<LearntWarmup>,
}

/// How far the warm-up of a binding is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LearntWarmup {
    /// From 1; nothing: warm.
    pub stage: Option<u32>,
    pub stages: u32,
    /// Messages of 24 hours.
    pub allowance: Option<u32>,
    /// Those that have started in the last 24 hours.
    pub used: u64,
    /// Answers of this day in UTC.
    pub delivered: u64,
    pub deferred: u64,
    pub refused: u64,
    /// What the last change or day has led to.
    pub why: String,
    /// RFC 3339.
    pub judged_at: String,
}

/// Complaints of one category.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LearntComplaints {
    pub category: String,
    pub count: u64,
}

/// Why a limit is what it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LearntCause {
    pub limit: String,
    /// The rule, `probing` or `operator`.
    pub rule: String,
    /// Their words.
    pub reply: Option<String>,
    pub host: Option<String>,
    pub message: Option<String>,
}

/// A time without delivery.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LearntStop {
    /// `suspension` or `blackhole`.
    pub kind: String,
    /// RFC 3339.
    pub since: String,
    pub until: String,
    pub because: LearntCause,
}

/// A value in force for some time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LearntSet {
    /// `OPTION VALUE`.
    pub setting: String,
    /// RFC 3339.
    pub until: String,
    pub rule: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MessageSummary {
    pub id: String,
    pub recipient: String,
    pub binding: String,
    pub domain: String,
    pub shard: u8,
    pub home: u8,
    /// `active`, `delayed`, `held` or `in_flight`.
    pub state: String,
    pub size_bytes: u64,
    pub age_seconds: u64,
    pub attempts: u32,
    /// RFC 3339; null when it is due.
    pub due: Option<String>,
    pub expires: Option<String>,
    pub body_in_memory: bool,
    /// Priority class.
    #[serde(default)]
    pub class: String,
    #[serde(default)]
    pub tenant: Option<String>,
    #[serde(default)]
    pub campaign: Option<String>,
    /// The operator's order that it waits for.
    #[serde(default)]
    pub order: Option<u64>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MessageTrace {
    pub message: MessageSummary,
    pub sender: Option<String>,
    pub subject: Option<String>,
    pub received_from: Option<String>,
    pub last_reply: Option<String>,
    pub transcripts: Vec<Transcript>,
    pub sentence: String,
}
