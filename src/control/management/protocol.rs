//! What goes over the management socket: one request as a line of JSON, one reply as a line of
//! JSON, as often as the client likes. Only additions, so that an older command can talk to a
//! newer engine.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::base::time::Wall;
use crate::config::Diagnostic;
use crate::control::journal::Change;
use crate::engine::query::Group;
use crate::engine::query::GroupBy;
use crate::engine::query::LearntAct;
use crate::engine::query::LearntPair;
use crate::engine::query::MessageSummary;
use crate::engine::query::MessageTrace;
use crate::engine::query::Preview;
use crate::engine::query::QueueDetail;
use crate::engine::query::QueueSummary;
use crate::engine::query::TraceTarget;
use crate::engine::stats::ShardStats;
use crate::types::filter::Filter;
use crate::types::order::Verb;

/// Bytes one request line may have; a longer one is answered with an error and ends the connection.
pub const REQUEST_BYTES_MAX: usize = 64 * 1_024;

/// Queues or messages one reply lists at most, whatever was asked for.
pub const LISTED_MAX: usize = 10_000;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status,
    /// Queues that match, largest first.
    Queues {
        filter: Filter,
        limit: usize,
    },
    /// What waits, summed up, the most first.
    Groups {
        by: GroupBy,
        filter: Filter,
        limit: usize,
    },
    /// Messages that match, shard by shard; `cursor` is the `next` of the reply before.
    Messages {
        filter: Filter,
        cursor: Option<String>,
        limit: usize,
    },
    /// What the queues of a domain wait for.
    Why {
        domain: String,
        binding: Option<String>,
    },
    /// Messages as the shards know them.
    Trace {
        target: TraceTarget,
    },
    /// Load the configuration again.
    Reload,
    /// The journal of changes.
    Changes {
        since_seconds: u64,
    },
    /// An order to queued mail, or only what it would touch.
    Order(Box<OrderWanted>),
    /// What adaptive delivery has learnt.
    Learnt {
        binding: Option<String>,
        domain: Option<String>,
    },
    /// What an operator makes of that.
    Relearn {
        of: PairNamed,
        act: LearntAct,
    },
    /// Orders in force, and the last that are over.
    Orders,
    /// Take orders back.
    Undo {
        target: UndoTarget,
    },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Status(Box<StatusData>),
    Queues(QueuesData),
    Groups(GroupsData),
    Messages(MessagesData),
    Why(WhyData),
    Trace(TraceData),
    Reloaded(ReloadData),
    /// Nothing was reloaded: what is wrong with the file, in its order.
    Refused(Vec<Finding>),
    Changes(ChangesData),
    Ordered(OrderedData),
    Orders(OrdersData),
    Undone(UndoneData),
    Learnt(LearntData),
    Relearnt(RelearntData),
    Error(ErrorData),
}

/// What a reply has in common: who says it and when.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Envelope {
    pub node: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// Shards that did not answer and the like: the data may be incomplete.
    pub notes: Vec<String>,
    pub reply: Reply,
}

/// How the engine stands.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StatusData {
    pub verdict: String,
    /// RFC 3339: since when the verdict is what it is, as far back as the process knows.
    pub verdict_since: String,
    pub warnings: Vec<Warning>,
    pub version: String,
    pub pid: u32,
    pub started_at: String,
    pub config: ConfigState,
    pub spool: SpoolState,
    /// Places in the spool that were found damaged at the start, if there are any; `pelton changes`
    /// tells each.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spool_damage: u64,
    /// Addresses of bindings that are missing, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent_sources: Vec<String>,
    pub event_log: String,
    pub shards: u64,
    pub rates: Rates,
    #[serde(default)]
    pub recent: Recent,
    /// All shards together.
    pub total: ShardStats,
    pub per_shard: Vec<ShardStats>,
    pub resident_bytes: u64,
    pub open_files: u64,
}

// Serde passes references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ConfigState {
    pub file: String,
    pub digest: String,
    pub generation: u64,
    /// RFC 3339.
    pub loaded_at: String,
    pub on_disk: ConfigOnDisk,
    /// Options that have changed since the start and need a restart; until then they are what they
    /// were.
    #[serde(default)]
    pub restart: Vec<String>,
}

/// The configuration file compared with what runs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigOnDisk {
    #[default]
    Same,
    /// It would be another generation; its digest.
    Differs(String),
    /// It would be refused; the first error.
    Broken(String),
}

/// How far that has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SpoolReading {
    pub segments_read: u64,
    pub segments: u64,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SpoolState {
    pub path: String,
    /// `commit`, `interval` or `none`.
    pub sync: String,
    /// Of the file system; null if it does not tell.
    pub free_bytes: Option<u64>,
    pub size_bytes: Option<u64>,
    /// `Min_Free_Space`: with less, nothing is accepted.
    pub min_free_bytes: u64,
    /// While a start reads it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<SpoolReading>,
}

/// Per second over the last half minute; null until there are two samples.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Rates {
    pub injected_per_second: Option<f64>,
    pub delivered_per_second: Option<f64>,
    pub delayed_per_second: Option<f64>,
    pub bounced_per_second: Option<f64>,
    /// Growth of the queues; negative when they shrink.
    pub queued_per_second: Option<f64>,
}

/// What has become of attempts in the last quarter of an hour, or since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Recent {
    pub seconds: u64,
    pub delivered: u64,
    pub delayed: u64,
    /// With those whose time was up.
    pub bounced: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Warning {
    pub level: Level,
    pub text: String,
    /// The command to run next, one argument each; empty if there is none.
    pub next: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Warn,
    Fail,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct QueuesData {
    pub queues: Vec<QueueSummary>,
    /// There are more than were asked for.
    pub more: bool,
    /// Queues that match, listed or not, and the messages in them; null from an older engine.
    #[serde(default)]
    pub matching: Option<u64>,
    #[serde(default)]
    pub messages: Option<u64>,
    /// Messages that wait in all queues, whatever was asked for; null from an older engine.
    #[serde(default)]
    pub queued_in_all: Option<u64>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GroupsData {
    pub by: GroupBy,
    pub groups: Vec<Group>,
    /// There are more than were asked for.
    pub more: bool,
    /// Groups, listed or not, and the messages in them.
    pub groups_in_all: u64,
    pub messages: u64,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct MessagesData {
    pub messages: Vec<MessageSummary>,
    /// Where to go on; null at the end.
    pub next: Option<String>,
    /// As in [`QueuesData`].
    #[serde(default)]
    pub queued_in_all: Option<u64>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WhyData {
    pub domain: String,
    /// The longest first.
    pub queues: Vec<QueueDetail>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TraceData {
    pub messages: Vec<MessageTrace>,
    /// The folder of the event log: messages that are done live on there.
    pub event_log: String,
    /// Why there may be more than these, as long as a start reads the spool back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReloadData {
    pub generation: u64,
    pub digest: String,
    /// Nothing if the file says what it said before.
    pub changed: bool,
    /// Options that need a restart, warnings of the check, mail that has lost its binding.
    pub notes: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChangesData {
    /// Oldest first.
    pub changes: Vec<Change>,
}

/// An order as an operator gives it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderWanted {
    pub verb: Verb,
    pub filter: Filter,
    /// Everything is meant, which an empty filter alone does not say.
    pub all: bool,
    /// Of a reroute: `host` or `host:port`. Of a rebind: a binding, or a binding group.
    #[serde(default)]
    pub to: Option<String>,
    /// How long it is to last from now; null for the default of the verb.
    pub lasts_seconds: Option<u64>,
    pub reason: String,
    /// Only tell what it would touch.
    pub dry_run: bool,
}

/// Which orders to take back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UndoTarget {
    /// The newest that can be taken back.
    Last,
    Id(u64),
    /// Orders of this verb with exactly this filter.
    Same {
        verb: Verb,
        filter: Filter,
    },
    /// All orders of this verb.
    All {
        verb: Verb,
    },
}

/// Which pairs are meant; what is not named is any.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PairNamed {
    pub binding: Option<String>,
    pub domain: Option<String>,
}

/// Pairs of which something was learnt.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LearntData {
    pub pairs: Vec<LearntPair>,
}

/// What has come of an operator's change of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RelearntData {
    /// Pairs that were changed.
    pub pairs: u64,
}

/// An order that has been given, or would be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OrderedData {
    /// Null if nothing was ordered.
    pub order: Option<OrderState>,
    /// What it met before it was given.
    pub preview: Preview,
    /// Of an order that goes through the queues once: it has, on all shards. Not there for one
    /// that stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<bool>,
}

/// An order and how it stands.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OrderState {
    pub id: u64,
    pub verb: String,
    pub filter: String,
    /// The host of a reroute; the binding, or group, of a rebind.
    #[serde(default)]
    pub to: Option<String>,
    /// `in_force`, `under_way` or `over`.
    pub state: String,
    /// RFC 3339.
    pub given_at: String,
    pub until: Option<String>,
    pub by: String,
    pub reason: String,
    /// Messages that an order in force concerns now; null if it is not in force.
    pub messages: Option<u64>,
    /// Messages that an order which goes through the queues once has changed.
    pub changed: Option<u64>,
    /// On the wire when it came to them: they meet it when they come back.
    pub in_flight: Option<u64>,
    /// Left alone by one that goes through the queues, because the disk did not tell their
    /// senders; of one in force, those that it may concern besides.
    pub unknown: Option<u64>,
    /// Held messages that it has left alone.
    #[serde(default)]
    pub held: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OrdersData {
    /// Those in force first, each by its id.
    pub orders: Vec<OrderState>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UndoneData {
    /// As they stood before.
    pub orders: Vec<OrderState>,
    /// What has been ordered to make up for them.
    pub instead: Option<OrderState>,
}

/// A finding of a configuration, as `pelton check --json` has it, and as text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// `error` or `warning`.
    pub level: String,
    pub code: String,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub column: Option<u32>,
    pub message: String,
    pub source: Option<String>,
    pub expected: Option<String>,
    pub suggestion: Option<String>,
    pub text: String,
}

impl From<&Diagnostic> for Finding {
    fn from(found: &Diagnostic) -> Finding {
        let place = found.place.as_ref();
        Finding {
            level: found.severity.word().to_string(),
            code: found.code.to_string(),
            file: place.map(|it| it.file.clone()),
            line: place.map(|it| it.line),
            column: place.map(|it| it.column),
            message: found.message.clone(),
            source: found.excerpt.as_ref().map(|it| it.line.clone()),
            expected: found.expected.clone(),
            suggestion: found.suggestion.clone(),
            text: found.to_string(),
        }
    }
}

/// Why there is no answer. The number of a fault stays when its words change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorData {
    pub code: String,
    pub fault: Fault,
    /// What failed, where, why, what to do.
    pub message: String,
}

/// The one JSON form of an error, wherever it is told: by a command with `--json`, on standard
/// error, and by the HTTP listener.
pub fn error_document(at: Wall, code: &str, message: &str) -> Value {
    json!({
        "schema": "pelton.error/1",
        "at": at.rfc3339().to_string(),
        "error": { "code": code, "message": message },
    })
}

/// Whose fault: it decides the exit code of the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The request cannot be understood.
    Usage,
    /// What was asked for is not there.
    NotFound,
    /// The configuration has errors.
    Config,
    /// The engine could not do it.
    Failed,
}
