//! Settings as the rest of the engine reads them: plain structs, fallback resolved, units applied.
//! Every option of the table reaches exactly one field here; the option of the same name is the
//! source of a field unless its doc says otherwise.

use core::net::IpAddr;
use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use crate::base::throttle::Rate;
use crate::base::warmup::Schedule;

use super::adaptive::AdaptiveSettings;
use super::curfew::Curfew;
use super::domains::DomainSet;
use super::nets::NetSet;
use super::nets::ProhibitedHosts;

/// Position of a binding in [`super::Config::bindings`]; 0 is the implicit binding `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingIndex(pub u32);

/// Position of a group in [`super::Config::groups`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIndex(pub u32);

/// Position of a listen address among all those of its kind (SMTP or HTTP), in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenIndex(pub u32);

/// What the engine is told about the machine instead of asking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Host name of the machine: what `__hostname__` stands for.
    pub hostname: String,
    /// Cores that may be used: what `Shards = auto` stands for.
    pub cores: usize,
}

/// A binding: a sending identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub name: String,
    pub index: BindingIndex,
    pub group: Option<GroupIndex>,
}

/// A pool of bindings; a group that is used has at least one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingGroup {
    pub name: String,
    pub index: GroupIndex,
    pub members: Vec<BindingIndex>,
}

/// Where mail goes for which policy names no binding (`default_binding`, `default_binding_group`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingChoice {
    /// The binding `default`.
    Normal,
    /// The binding `default`, held as if `suspend_delivery` were set.
    Suspended,
    /// Refused: the injector gets a 451.
    None,
    /// This binding.
    Binding(BindingIndex),
    /// A member of this group, uniformly at random.
    Group(GroupIndex),
}

/// `Shards`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shards {
    /// One per core.
    Auto,
    Count(u32),
}

/// `Spool_Sync`: when a message counts as safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpoolSync {
    /// Nothing is acknowledged before its `fdatasync`.
    Commit,
    /// Acknowledged when written; synced at least this often.
    Interval(Duration),
    /// Acknowledged when written; never synced.
    None,
}

/// Settings of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalSettings {
    pub spoolbase: String,
    /// Permission bits of spool files.
    pub spool_mode: u32,
    /// As written; [`super::Config::shard_count`] resolves `auto`.
    pub shards: Shards,
    pub pin_shards: bool,
    /// `Spool_Sync` with `Spool_Sync_Interval`, or `force_fsync`.
    pub spool_sync: SpoolSync,
    pub spool_segment_size: u64,
    /// Free bytes of the spool's file system below which new mail is refused with 452.
    pub min_free_space: u64,
    /// Percent of `memory_limit` above which bodies leave memory.
    pub memory_goal: u32,
    /// Percent of `memory_limit` above which new mail is refused.
    pub memory_hwm: u32,
    /// Bytes; 0 stands for the memory of the machine.
    pub memory_limit: u64,
    pub max_resident_messages: u32,
    /// Empty: the name servers of the system.
    pub dns_servers: Vec<SocketAddr>,
    pub dns_timeout: Duration,
    pub shutdown_grace: Duration,
    pub server_max_outbound_connections: u32,
    /// For queues without a connection.
    pub server_reserve_outbound_connections: u32,
    /// `migrate_connections_between_sibling_domains`.
    pub migrates_connections: bool,
    /// Directory of the event log.
    pub event_log: String,
    /// Bytes of one event log file before the next is begun.
    pub event_log_max_size: u64,
    /// Age after which an event log file is removed.
    pub event_log_retention: Duration,
    /// Bytes of all event log files of all shards; the oldest are removed first.
    pub event_log_max_total_size: u64,
    /// Path of the management socket.
    pub management_socket: String,
    /// Path of the operator journal.
    pub journal: String,
    /// The global default of what a listener may override.
    pub default_binding: BindingChoice,
    pub match_cache_size: u32,
    /// Bytes of transcripts kept in memory, in the whole process.
    pub flight_recorder_size: u64,
}

/// Settings of one binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingSettings {
    pub name: String,
    /// Name of the group it belongs to.
    pub group: Option<String>,
    /// Empty: the kernel chooses. At most one address of each family.
    pub bind_address: Vec<IpAddr>,
    pub ehlo_hostname: String,
    /// `server_max_outbound_connections` of the binding and of its group.
    pub server_max: [Option<SharedLimit>; 2],
    /// `suspend_delivery` for the binding as a whole: it is not chosen while a sibling is free.
    pub suspended: bool,
    /// The same for some times of the week.
    pub curfew: Option<Arc<Curfew>>,
    /// Its share of what its group is chosen for.
    pub weight: u32,
    /// `warmup_schedule` and what goes with it; nothing unless `warmup_start` is a date.
    pub warmup: Option<Arc<Schedule>>,
}

impl BindingSettings {
    /// The source address for a destination of the family of `destination`, if one is set.
    pub fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        self.bind_address
            .iter()
            .copied()
            .find(|it| it.is_ipv4() == destination.is_ipv4())
    }

    /// True if the binding can reach a destination of the family of `destination` at all.
    pub fn can_reach(&self, destination: IpAddr) -> bool {
        self.bind_address.is_empty() || self.source_for(destination).is_some()
    }
}

/// `connection_allocation_aggressiveness`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggressiveness {
    /// Connections grow gradually with the queue.
    Normal,
    /// Connections jump towards the limit.
    High,
}

/// `queue_striping`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Striping {
    /// Once it takes more than one shard can carry.
    Auto,
    Always,
    Never,
}

/// `max_retries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxRetries {
    /// The number of scheduled retries that fit into `message_expiration`.
    Auto,
    /// Only `message_expiration` ends retrying.
    None,
    Count(u32),
}

/// `blackhole`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blackhole {
    Off,
    /// Refused at RCPT: `551 5.7.1 recipient blackholed`.
    Inline,
    /// Accepted, then dropped: `554 5.7.0 [internal] Blackholed`.
    Internal,
}

/// `outbound_8bit_policy`: 8-bit mail for a host without 8BITMIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EightBit {
    Convert,
    Send,
    Fail,
}

/// A host as an option names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    /// Lower case, without a final dot.
    Name(String),
}

impl core::fmt::Display for Host {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Host::Address(address) => write!(f, "{address}"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// `__mx__`: the MX hosts of the recipient's domain.
    DomainMx,
    Host(Host),
}

/// How the name of a route is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    Mx,
    A,
}

/// One item of `routes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteItem {
    pub target: RouteTarget,
    /// None: `remote_smtp_port`.
    pub port: Option<u16>,
    /// Lower is tried first; equal ones share the load.
    pub pref: u16,
    pub kind: RouteKind,
}

/// `target` of `static_routes`: where every connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticTarget {
    pub host: Host,
    pub port: u16,
}

/// Settings of one (binding, domain) pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverySettings {
    /// `u32::MAX` when the option is -1: no limit. Never 0.
    pub max_outbound_connections: u32,
    /// `scope_max_outbound_connections`.
    pub scope_max: Option<SharedLimit>,
    /// 0: no limit. Counts successes only.
    pub max_deliveries_per_connection: u32,
    /// 0: no limit. Counts all that is tried.
    pub max_recipients_per_connection: u32,
    /// At least 1.
    pub max_recipients_per_batch: u32,
    pub connection_allocation_aggressiveness: Aggressiveness,
    pub queue_striping: Striping,
    /// `outbound_throttle_messages`.
    pub throttle_messages: Option<SharedRate>,
    /// `outbound_throttle_connections`.
    pub throttle_connections: Option<SharedRate>,
    pub retry_interval: Duration,
    /// At least `retry_interval`.
    pub max_retry_interval: Duration,
    pub max_retries: MaxRetries,
    pub message_expiration: Duration,
    pub never_attempt_expired_messages: bool,
    pub never_retry: bool,
    pub suspend_delivery: bool,
    /// None if there is no time at which delivery is suspended.
    pub curfew: Option<Arc<Curfew>>,
    pub blackhole: Blackhole,
    /// A domain or host whose MX, else A, replaces the domain's own.
    pub gateway: Option<String>,
    /// Sorted by preference; empty: MX.
    pub routes: Arc<[RouteItem]>,
    pub static_target: Option<StaticTarget>,
    pub remote_smtp_port: u16,
    pub connect_timeout: Duration,
    /// For the banner and the reply to EHLO, each.
    pub ehlo_timeout: Duration,
    pub mailfrom_timeout: Duration,
    pub rcptto_timeout: Duration,
    /// For the reply to DATA.
    pub data_timeout: Duration,
    /// For the reply to the final dot, and for sending the body without progress.
    pub body_timeout: Duration,
    /// For the replies to RSET and QUIT.
    pub rset_timeout: Duration,
    /// How long a connection without work is kept.
    pub idle_timeout: Duration,
    pub connect_timeout_to_delay: Duration,
    pub host_failure_retry: Duration,
    /// 0: off.
    pub mx_failures_to_delay: u32,
    /// 0: off.
    pub mx_failures_fallback_to_a: u32,
    pub prohibited_hosts: Arc<ProhibitedHosts>,
    pub use_chunking: bool,
    pub use_pipelining: bool,
    /// `outbound_8bit_policy`.
    pub eight_bit: EightBit,
    /// Failed attempts after which the body leaves memory.
    pub drop_body_after_trans_fail: u32,
    /// Bodies of one active queue in memory; -1: no limit of its own; 0: none.
    pub max_resident_active_queue: i64,
    /// Nothing unless `adaptive_enabled`.
    pub adaptive: Option<Arc<AdaptiveSettings>>,
}

/// A rate, and what shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedRate {
    pub rate: Rate,
    /// The option and the path of the stanza that sets it: names the throttle.
    pub of: Arc<str>,
}

/// A limit of connections, and what shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedLimit {
    /// At least 1.
    pub max: u32,
    /// The option and the path of the stanza that sets it: names the limit.
    pub of: Arc<str>,
}

/// A connection limit of a `host` stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLimit {
    /// At least 1.
    pub limit: u32,
    /// Path of the stanza that sets it: connections are counted per (stanza, host).
    pub stanza: String,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    Smtp,
    Http,
}

/// One listener stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub kind: ListenerKind,
    /// At least one.
    pub listens: Vec<Listen>,
}

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    /// Index among the listens of the same kind.
    pub index: ListenIndex,
    /// `file:line` of the stanza, for messages.
    pub place: String,
}

/// Settings of one inbound SMTP connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Who may inject for any domain.
    pub relay_hosts: Arc<NetSet>,
    /// Which domains are accepted from everyone.
    pub relay_domains: Arc<DomainSet>,
    /// `default_binding` or `default_binding_group` of the most specific scope that sets either.
    pub default_binding: BindingChoice,
    pub banner_hostname: String,
    /// `listener_sessions`: connections of this listen address, in the whole process.
    pub listener_sessions: u32,
    /// `service_sessions`: SMTP connections of all listeners, in the whole process.
    pub service_sessions: u32,
    pub max_connections_per_peer: u32,
    /// `inbound_throttle_messages`.
    pub throttle_messages: Option<SharedRate>,
    /// `max_connection_rate_per_peer`; counted for each client address, as the next two are.
    pub connection_rate_per_peer: Option<SharedRate>,
    /// `max_message_rate_per_peer`.
    pub message_rate_per_peer: Option<SharedRate>,
    /// `max_recipient_rate_per_peer`.
    pub recipient_rate_per_peer: Option<SharedRate>,
    /// Messages of one connection; 0: no limit.
    pub max_receptions_per_connection: u32,
    /// Recipients asked for on one connection; 0: no limit.
    pub max_recipients_per_connection: u32,
    pub max_recipients_per_transaction: u32,
    /// Bytes announced with SIZE; a message of this size fits a spool segment.
    pub max_message_size: u64,
    /// Bytes of one text line, CRLF included.
    pub max_line_length: u32,
    /// Bytes of one command line, CRLF included.
    pub max_command_length: u32,
    /// Bytes of the header section.
    pub max_header_size: u64,
    /// NOOP, RSET, VRFY, HELP and the like in a row without a message.
    pub max_idle_commands: u32,
    /// Refused commands of one connection.
    pub max_protocol_errors: u32,
    /// `Received` header fields above which a message is a loop.
    pub max_received_headers: u32,
    /// How long a connection may wait for its next command.
    pub idle_time: Duration,
    /// How long a command that has begun may take to end.
    pub command_timeout: Duration,
    /// How long a pause inside message data may last.
    pub data_timeout: Duration,
    /// Bytes per second of message data; 0: off.
    pub min_inbound_rate: u32,
    /// How long the rate may be lower.
    pub min_inbound_rate_grace: Duration,
    /// `class`, `tenant` and `campaign`: of mail that does not name them; empty ones are none.
    pub flow: [String; 3],
    /// `class_header`, `tenant_header` and `campaign_header`; empty ones are not looked for.
    pub flow_headers: [String; 3],
    pub remove_flow_headers: FlowHeaders,
}

/// A priority class, in the order in which classes go first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriorityClass {
    /// Lower case.
    pub name: String,
    pub order: u32,
    /// Percent of what is served, while classes before it have mail waiting.
    pub share: u32,
}

/// `remove_flow_headers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowHeaders {
    Class,
    All,
    None,
}

/// Settings of one HTTP listen address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// `listener_sessions`: connections of this listen address, in the whole process.
    pub listener_sessions: u32,
    /// How long a connection may wait for the rest of its request, or for its next one.
    pub idle_time: Duration,
}
