//! Every option, once. The reference page, the checks, the fallback and the settings all read this
//! table; there is no second list.

use super::adaptive;
use super::spec::Kind;
use super::spec::OptionSpec;
use super::spec::ScopeKind;

/// Position of an option in [`OPTIONS`].
pub type OptionId = u16;

const GLOBAL: &[ScopeKind] = &[ScopeKind::Global];
const BINDING: &[ScopeKind] = &[
    ScopeKind::Binding,
    ScopeKind::BindingGroup,
    ScopeKind::Global,
];
const BINDING_ONLY: &[ScopeKind] = &[ScopeKind::Binding];
const DOMAIN: &[ScopeKind] = &[ScopeKind::Domain, ScopeKind::Global];
const DELIVERY: &[ScopeKind] = &[
    ScopeKind::Domain,
    ScopeKind::Binding,
    ScopeKind::BindingGroup,
    ScopeKind::Global,
];
const DELIVERY_HOST: &[ScopeKind] = &[
    ScopeKind::Host,
    ScopeKind::Domain,
    ScopeKind::Binding,
    ScopeKind::BindingGroup,
    ScopeKind::Global,
];
const SMTP: &[ScopeKind] = &[
    ScopeKind::SmtpPeer,
    ScopeKind::SmtpListen,
    ScopeKind::SmtpListener,
    ScopeKind::Global,
];
/// Means the same for connections in both directions. Without a listener's word a client has none.
const DELIVERY_OR_RECEPTION: &[ScopeKind] = &[
    ScopeKind::Domain,
    ScopeKind::Binding,
    ScopeKind::BindingGroup,
    ScopeKind::SmtpPeer,
    ScopeKind::SmtpListen,
    ScopeKind::SmtpListener,
    ScopeKind::Global,
];
const LISTENER: &[ScopeKind] = &[
    ScopeKind::SmtpListen,
    ScopeKind::SmtpListener,
    ScopeKind::HttpListen,
    ScopeKind::HttpListener,
];
const SMTP_HTTP: &[ScopeKind] = &[
    ScopeKind::SmtpPeer,
    ScopeKind::SmtpListen,
    ScopeKind::SmtpListener,
    ScopeKind::HttpListen,
    ScopeKind::HttpListener,
    ScopeKind::Global,
];

const CLASS: &[ScopeKind] = &[ScopeKind::PriorityClass];
const RULE: &[ScopeKind] = &[ScopeKind::AdaptiveRule];
const SWEEP_RULE: &[ScopeKind] = &[ScopeKind::AdaptiveSweepRule];

/// A timeout of one protocol step: a millisecond to a day.
const TIMEOUT: Kind = Kind::Duration {
    min_ms: 1,
    max_s: 86_400,
};
/// A time that mail waits: a millisecond to a year.
const WAIT: Kind = Kind::Duration {
    min_ms: 1,
    max_s: 31_536_000,
};
const COUNT_MAX: i64 = 1_000_000;

const fn count(min: i64) -> Kind {
    Kind::Int {
        min,
        max: COUNT_MAX,
    }
}

const fn row(name: &'static str, kind: Kind, scopes: &'static [ScopeKind]) -> OptionSpec {
    OptionSpec::new(name, kind, scopes)
}

/// The table.
pub const OPTIONS: &[OptionSpec] = &[
    // The process and its spool.
    row("spoolbase", Kind::Path, GLOBAL)
        .default("/var/spool/pelton")
        .restart()
        .doc("Directory of the spool; one engine per spool."),
    row("spool_mode", Kind::Octal { max: 0o777 }, GLOBAL)
        .default("0640")
        .restart()
        .doc("Permission bits of spool files."),
    row(
        "shards",
        Kind::IntOrWord {
            min: 1,
            max: 128,
            words: &["auto"],
        },
        GLOBAL,
    )
    .default("auto")
    .restart()
    .doc("Threads that accept, queue and deliver; auto is one per core."),
    row("pin_shards", Kind::Bool, GLOBAL)
        .default("true")
        .restart()
        .doc("Bind each shard to a core. Switch off on machines with busy neighbours."),
    row(
        "spool_sync",
        Kind::Word(&["commit", "interval", "none"]),
        GLOBAL,
    )
    .default("commit")
    .restart()
    .doc(
        "When a message counts as safe. commit: nothing is acknowledged before its fdatasync; \
             many messages share one. interval: acknowledged when written, synced every \
             Spool_Sync_Interval. none: never synced. The weaker two can lose acknowledged mail.",
    ),
    row(
        "spool_sync_interval",
        Kind::Duration {
            min_ms: 1,
            max_s: 60,
        },
        GLOBAL,
    )
    .default("100ms")
    .restart()
    .doc("The longest time between two syncs with Spool_Sync = interval."),
    row("force_fsync", Kind::Bool, GLOBAL)
        .restart()
        .doc("Momentum's name for Spool_Sync = commit; false is refused, as it hides a choice."),
    row(
        "spool_segment_size",
        Kind::Size {
            min: 1 << 20,
            max: 1 << 30,
        },
        GLOBAL,
    )
    .default("64M")
    .restart()
    .doc("Bytes of one spool file. A message and its envelopes fit into one."),
    row(
        "min_free_space",
        Kind::Size {
            min: 0,
            max: 1 << 50,
        },
        GLOBAL,
    )
    .default("256M")
    .doc("Free space of the spool's file system below which new mail is refused with 452."),
    row("memory_goal", Kind::Int { min: 1, max: 100 }, GLOBAL)
        .default("90")
        .doc("Percent of Memory_Limit above which message bodies leave memory."),
    row("memory_hwm", Kind::Int { min: 1, max: 100 }, GLOBAL)
        .default("95")
        .doc("Percent of Memory_Limit above which new mail is refused with 421."),
    row(
        "memory_limit",
        Kind::Size {
            min: 0,
            max: 1 << 50,
        },
        GLOBAL,
    )
    .default("0")
    .doc("Memory that Pelton may use; 0 is all memory of the machine."),
    row(
        "max_resident_messages",
        Kind::Int {
            min: 0,
            max: 100_000_000,
        },
        GLOBAL,
    )
    .default("32768")
    .doc("Message bodies in memory, in the whole process; 0 keeps none."),
    row("server_max_outbound_connections", count(1), BINDING)
        .default("20000")
        .doc(
            "Outbound connections of the whole process; in a binding or group, those of all its \
             mail, besides the limit of the process.",
        ),
    row("server_reserve_outbound_connections", count(0), GLOBAL)
        .default("200")
        .doc(
            "Connections beyond server_max_outbound_connections of the process, for queues that \
             have none: large domains do not starve small ones.",
        ),
    row(
        "match_cache_size",
        Kind::Int {
            min: 1,
            max: 10_000_000,
        },
        GLOBAL,
    )
    .default("16384")
    .doc("Resolved (binding, domain) settings that are remembered, in the whole process."),
    row("shutdown_grace", WAIT, GLOBAL)
        .default("30")
        .doc("How long open transactions may go on after SIGTERM."),
    row(
        "flight_recorder_size",
        Kind::Size {
            min: 0,
            max: 1 << 34,
        },
        GLOBAL,
    )
    .default("16M")
    .restart()
    .doc("Memory for the transcripts of recent failed attempts; 0 keeps none."),
    row("dns_servers", Kind::SocketAddresses { port: 53 }, GLOBAL)
        .default("")
        .doc("Name servers to ask; none: those of the system."),
    row("dns_timeout", TIMEOUT, GLOBAL)
        .default("5")
        .doc("How long one question to one name server may take."),
    row("event_log", Kind::Path, GLOBAL)
        .computed("SPOOLBASE/events")
        .restart()
        .doc("Directory of the event log."),
    row(
        "event_log_max_size",
        Kind::Size {
            min: 1 << 16,
            max: 1 << 34,
        },
        GLOBAL,
    )
    .default("256M")
    .doc("Size at which a shard begins its next event log file."),
    row("event_log_retention", WAIT, GLOBAL)
        .default("10d")
        .doc("Age at which an event log file is removed."),
    row(
        "event_log_max_total_size",
        Kind::Size {
            min: 1 << 20,
            max: 1 << 50,
        },
        GLOBAL,
    )
    .default("8G")
    .doc("Size of all event log files together; the oldest are removed first."),
    row("management_socket", Kind::Path, GLOBAL)
        .computed("SPOOLBASE/pelton.sock")
        .restart()
        .doc("Unix socket of the commands, mode 0600."),
    row("journal", Kind::Path, GLOBAL)
        .computed("SPOOLBASE/journal.jsonl")
        .restart()
        .doc("Journal of changes: configuration generations, operator actions, limits."),
    // Bindings.
    row("bind_address", Kind::SourceAddresses, BINDING)
        .default("*")
        .doc("Address to connect from; * lets the kernel choose. One IPv4 and one IPv6 at most."),
    row("weight", count(0), BINDING_ONLY)
        .default("1")
        .doc("Share of its group's mail; 0 is only chosen if no other member can be."),
    row(
        "warmup_start",
        Kind::Adaptive(adaptive::Kind::Date),
        BINDING,
    )
    .default("none")
    .doc(
        "The day, in UTC, from which a new binding is warmed up: of warmup_schedule the first \
         stage holds until then and on that day. Another date begins anew.",
    ),
    row(
        "warmup_schedule",
        Kind::Adaptive(adaptive::Kind::Schedule),
        BINDING,
    )
    .default(
        "200 500 1000 2000 5000 10000 20000 40000 50000 75000 100000 150000 200000 250000 \
         300000 400000 500000 600000 750000 1000000 1250000 1500000 2000000 2500000 3000000 \
         4000000 5000000 7500000 10000000",
    )
    .doc(
        "Deliveries of each binding that may begin in any 24 hours while it is warmed up, one \
         number for each stage. The next stage begins at midnight UTC when 90 % of the allowance \
         was delivered on a day; after the last nothing limits it. What started counts after a \
         restart too, as with outbound_throttle_messages. Mail of a group goes to other members \
         once what waits takes the allowance; otherwise it waits, which uses up no attempt.",
    ),
    row(
        "warmup_deferral_percentage",
        Kind::Int { min: 0, max: 100 },
        BINDING,
    )
    .default("10")
    .doc(
        "Of a day's answers, the share of deferrals and blocks above which the stage is held; \
         above twice that the one before it comes back.",
    ),
    row("ehlo_hostname", Kind::HostName, BINDING)
        .default("__hostname__")
        .doc("Name given in EHLO; __hostname__ is the name of the machine."),
    // Queues and retries.
    row("retry_interval", WAIT, DELIVERY)
        .default("1200")
        .doc("Wait after the first failure; it doubles with every further one."),
    row("max_retry_interval", WAIT, DELIVERY)
        .default("43200")
        .doc("The longest wait between two attempts."),
    row(
        "max_retries",
        Kind::IntOrWord {
            min: 0,
            max: 10_000,
            words: &["auto", "none"],
        },
        DELIVERY,
    )
    .default("auto")
    .doc("Retries before a message fails; auto: as many as fit message_expiration."),
    row("message_expiration", WAIT, DELIVERY)
        .default("86400")
        .doc("Age at which a message that was not delivered fails."),
    row("never_attempt_expired_messages", Kind::Bool, DELIVERY)
        .default("true")
        .doc("Fail an expired message without one last attempt. Momentum's default is false."),
    row("never_retry", Kind::Bool, DELIVERY)
        .default("false")
        .doc("Treat the first temporary failure as permanent."),
    row("suspend_delivery", Kind::Bool, DELIVERY)
        .default("false")
        .doc("Stop attempts; messages wait and keep ageing."),
    row("curfew", Kind::Curfew, DELIVERY).default("").doc(
        "Times of the week at which delivery is suspended: \"22:00-06:00\", \"sat,sun +01:00\".",
    ),
    row(
        "blackhole",
        Kind::BoolOrWord(&["inline", "internal"]),
        DELIVERY,
    )
    .default("false")
    .doc("Drop mail: inline (true) refuses it at RCPT, internal accepts and drops it."),
    row("drop_body_after_trans_fail", count(0), DELIVERY)
        .default("3")
        .doc("Failed attempts after which a body leaves memory."),
    row(
        "max_resident_active_queue",
        Kind::Int {
            min: -1,
            max: 100_000_000,
        },
        DELIVERY,
    )
    .default("250")
    .doc("Bodies of one active queue in memory; -1: no limit of its own, 0: none."),
    // Connections and routing.
    row(
        "max_outbound_connections",
        Kind::Limit { max: COUNT_MAX },
        DELIVERY_HOST,
    )
    .default("32")
    .doc("Connections per binding and domain; in a host stanza, connections to that host."),
    row(
        "scope_max_outbound_connections",
        Kind::Limit { max: COUNT_MAX },
        DELIVERY_HOST,
    )
    .doc(
        "Connections of all that falls back to the stanza that sets it, together, over all its \
         bindings and domains; in a host stanza, to all its hosts. -1: none.",
    ),
    row(
        "migrate_connections_between_sibling_domains",
        Kind::Bool,
        GLOBAL,
    )
    .default("true")
    .doc(
        "Let a domain take over an idle connection of another one of the same binding, with the \
         same settings and the same host, instead of opening one.",
    ),
    row("outbound_throttle_messages", Kind::Rate, DELIVERY_HOST)
        .default("0")
        .doc(
            "Deliveries that may begin in any window of time. One throttle per stanza that sets \
             it: all that falls back to that stanza shares it. In a host stanza, for the \
             receiving host and besides the other. What waits for a throttle uses up no attempt. \
             What has started counts after a restart too; after a kill up to a 16th of a window \
             (at least one) may stay unused, and windows of up to 2 s begin full. Across a restart \
             time is told by the wall clock: one that is put forward meanwhile ends windows early.",
        ),
    row("outbound_throttle_connections", Kind::Rate, DELIVERY_HOST)
        .default("0")
        .doc("Connections that may be begun in any window of time, shared likewise."),
    row("max_deliveries_per_connection", count(0), DELIVERY)
        .default("0")
        .doc("Messages delivered over one connection before it is closed; 0: no limit."),
    row(
        "max_recipients_per_connection",
        count(0),
        DELIVERY_OR_RECEPTION,
    )
    .default("0")
    .doc(
        "Recipients tried over one connection, refused ones too, before it is closed; 0: no \
         limit. In a listener, listen or peer scope, recipients that a client may name.",
    ),
    row(
        "max_recipients_per_batch",
        Kind::Int {
            min: 1,
            max: 10_000,
        },
        DELIVERY,
    )
    .default("100")
    .doc("Recipients of one outbound transaction."),
    row(
        "connection_allocation_aggressiveness",
        Kind::Word(&["normal", "high"]),
        DELIVERY,
    )
    .default("normal")
    .doc("normal opens connections gradually as a queue grows, high at once."),
    row(
        "queue_striping",
        Kind::Word(&["auto", "always", "never"]),
        DELIVERY,
    )
    .default("auto")
    .doc(
        "Spread a queue over all shards: auto once it is too hot for one; its limits hold for all. \
         Never with adaptive_enabled.",
    ),
    row("gateway", Kind::Gateway, DELIVERY)
        .doc("Send through this domain or host instead; looked up as MX first, else A."),
    row("routes", Kind::Routes, DOMAIN)
        .doc("Hosts to send to instead of the MX hosts, in order of preference."),
    row("target", Kind::Target, &[ScopeKind::StaticRoutes])
        .doc("Where every connection goes, whatever the domain; queues and limits stay."),
    row(
        "remote_smtp_port",
        Kind::Int {
            min: 1,
            max: 65_535,
        },
        DELIVERY,
    )
    .default("25")
    .doc("Port of the receiving hosts."),
    row("prohibited_hosts", Kind::ProhibitedHosts, DELIVERY)
        .default("auto")
        .doc(
            "Addresses to which mail found by MX is never sent. auto: loopback, private, \
             link-local, shared, multicast and reserved networks and the addresses of this \
             machine (own). Routes, gateways given as addresses and static_routes are exempt.",
        ),
    row("host_failure_retry", WAIT, DOMAIN)
        .default("120")
        .doc("How long an address rests after a failed connection."),
    row("mx_failures_to_delay", count(0), DOMAIN)
        .default("50")
        .doc("Consecutive failures of every MX after which the domain is delayed; 0: off."),
    row("mx_failures_fallback_to_a", count(0), DOMAIN)
        .default("3")
        .doc("Failed MX look-ups after which the domain's own address is tried; 0: off."),
    row("connect_timeout_to_delay", WAIT, DELIVERY)
        .default("900")
        .doc("How long connecting may fail altogether before the domain is delayed."),
    row("connect_timeout", TIMEOUT, DELIVERY)
        .default("300")
        .doc("How long the TCP handshake may take."),
    row("ehlo_timeout", TIMEOUT, DELIVERY)
        .default("300")
        .doc("How long the banner, and the reply to EHLO or HELO, may take."),
    row("mailfrom_timeout", TIMEOUT, DELIVERY)
        .default("300")
        .doc("How long the reply to MAIL FROM may take."),
    row("rcptto_timeout", TIMEOUT, DELIVERY)
        .default("300")
        .doc("How long the reply to RCPT TO may take."),
    row("data_timeout", TIMEOUT, DELIVERY)
        .default("120")
        .doc("How long the reply to DATA may take (RFC 5321 4.5.3.2.4)."),
    row("body_timeout", TIMEOUT, DELIVERY)
        .default("600")
        .doc("How long the reply to the final dot may take (RFC 5321 4.5.3.2.6)."),
    row("rset_timeout", TIMEOUT, DELIVERY)
        .default("30")
        .doc("How long the replies to RSET and QUIT may take."),
    row("idle_timeout", TIMEOUT, DELIVERY)
        .default("5")
        .doc("How long a connection without work is kept open."),
    row("use_chunking", Kind::Bool, DELIVERY)
        .default("true")
        .doc("Use BDAT with hosts that offer CHUNKING (RFC 3030)."),
    row("use_pipelining", Kind::Bool, DELIVERY)
        .default("true")
        .doc("Send commands in groups to hosts that offer PIPELINING (RFC 2920)."),
    row(
        "outbound_8bit_policy",
        Kind::Word(&["convert", "send", "fail"]),
        DELIVERY,
    )
    .default("convert")
    .doc("8-bit mail for a host without 8BITMIME: convert it, send it as is, or fail it."),
    // Adaptive delivery.
    row("adaptive_enabled", Kind::Bool, DELIVERY)
        .default("false")
        .doc("Let limits follow what receiving hosts answer, between the ranges below."),
    row(
        "adaptive_rules",
        Kind::Word(&["augment", "replace"]),
        DELIVERY,
    )
    .default("augment")
    .doc(
        "augment: adaptive_rule stanzas are asked before the built-in rules; replace: there \
             are no others.",
    ),
    row("adaptive_adjustment_interval", WAIT, DELIVERY)
        .default("60")
        .doc(
            "The longest time between two steps of a limit on its way back to where trouble \
             began; after trouble that was soon over the steps follow sooner.",
        ),
    row("adaptive_positive_adjustment_interval", WAIT, DELIVERY)
        .default("3600")
        .doc(
            "The time in which a limit is found out that a receiver has lifted: after an eighth \
             to a half of it without trouble, steps beyond the last known limit begin.",
        ),
    row(
        "adaptive_outbound_throttle_messages",
        Kind::Adaptive(adaptive::Kind::Rates),
        DELIVERY,
    )
    .default("1/3600 0")
    .doc("Range of the message rate. A bare number counts in an hour; 0 at the end is no limit."),
    row(
        "adaptive_max_outbound_connections",
        Kind::Adaptive(adaptive::Kind::Counts),
        DELIVERY,
    )
    .default("1 1000000")
    .doc("Range of max_outbound_connections, which stays the most in any case."),
    row(
        "adaptive_max_deliveries_per_connection",
        Kind::Adaptive(adaptive::Kind::Counts),
        DELIVERY,
    )
    .default("1 1000000")
    .doc("Range of max_deliveries_per_connection, which stays the most unless it is 0."),
    row(
        "adaptive_retry_interval",
        Kind::Adaptive(adaptive::Kind::Durations),
        DELIVERY,
    )
    .default("60 43200")
    .doc("Range of retry_interval where a rule changes it."),
    row(
        "adaptive_max_retry_interval",
        Kind::Adaptive(adaptive::Kind::Durations),
        DELIVERY,
    )
    .default("60 86400")
    .doc("Range of max_retry_interval where a rule changes it."),
    row(
        "adaptive_unmanage_options",
        Kind::Adaptive(adaptive::Kind::Managed),
        DELIVERY,
    )
    .doc(
        "Options that adaptive delivery leaves as they are configured, whatever rules say; what \
         it had learnt of them is forgotten. Not set: it moves all.",
    ),
    row(
        "adaptive_manage_options",
        Kind::Adaptive(adaptive::Kind::Managed),
        DELIVERY,
    )
    .doc("Options that it moves although adaptive_unmanage_options, of a wider scope, names them."),
    row("adaptive_attempt_threshold", count(1), DELIVERY)
        .default("2000")
        .doc("Attempts of an hour below which no rate of failures is looked at."),
    row("adaptive_fbl_volume_threshold", count(1), DELIVERY)
        .default("20000")
        .doc("Deliveries of a day below which no rate of complaints is looked at."),
    row("adaptive_sweep_rule_enabled", Kind::Bool, DELIVERY)
        .default("true")
        .doc(
            "Whether adaptive_sweep_rule stanzas apply here, and the one that is built in for \
             where none is about complaints: fbl:abuse, 0.2 and 0.5 %.",
        ),
    row("adaptive_default_suspension_enabled", Kind::Bool, DELIVERY)
        .default("false")
        .doc(
            "Suspend a binding and domain when more than \
             adaptive_rejection_rate_suspension_percentage of an hour's attempts fail for good.",
        ),
    row("adaptive_default_suspension", WAIT, DELIVERY)
        .default("14400")
        .doc("How long such a suspension lasts."),
    row(
        "adaptive_rejection_rate_suspension_percentage",
        Kind::Adaptive(adaptive::Kind::Percent),
        DELIVERY,
    )
    .default("20")
    .doc("Permanent failures of an hour's attempts above which it begins."),
    row("adaptive_notification_interval", WAIT, DELIVERY)
        .default("3600")
        .doc(
            "How often pelton changes tells of one limit of one binding and domain that it has \
             moved; suspensions are always told, and the event log has every move.",
        ),
    row("domains", Kind::Domains, RULE).doc(
        "Domains of a rule, as queues have them: exact, *.name, /pattern/. Neither domains nor \
         hosts: all.",
    ),
    row("hosts", Kind::Domains, RULE)
        .doc("Names of receiving hosts of a rule, likewise; a rule applies where either matches."),
    row("code", Kind::Adaptive(adaptive::Kind::Patterns), RULE)
        .doc("What the reply says, code and text: one of these patterns."),
    row("trigger", Kind::Adaptive(adaptive::Kind::Trigger), RULE)
        .default("1")
        .doc("Matches that make the rule act: the Nth, or more than N in W seconds for N/W."),
    row("phase", Kind::Adaptive(adaptive::Kind::Stages), RULE)
        .default("connect banner ehlo mailfrom rcptto data final")
        .doc("Stages of the session at which the reply is given."),
    row("action", Kind::Adaptive(adaptive::Kind::Actions), RULE)
        .doc("What the rule does, one or more pairs."),
    row("message", Kind::Adaptive(adaptive::Kind::Text), RULE)
        .doc("A sentence for whoever reads of it."),
    row("codes", Kind::Adaptive(adaptive::Kind::Codes), SWEEP_RULE).doc(
        "Bounce classes whose rates are added up, of the attempts of an hour; or categories \
             of complaints (fbl:abuse), of the deliveries of a day.",
    ),
    row(
        "low_threshold",
        Kind::Adaptive(adaptive::Kind::Percent),
        SWEEP_RULE,
    )
    .default("5")
    .doc("Percent of the attempts or deliveries above which low_action is taken."),
    row(
        "low_action",
        Kind::Adaptive(adaptive::Kind::Actions),
        SWEEP_RULE,
    )
    .default("throttle down")
    .doc("What is done then."),
    row(
        "high_threshold",
        Kind::Adaptive(adaptive::Kind::Percent),
        SWEEP_RULE,
    )
    .default("10")
    .doc("Percent of the attempts above which high_action is taken instead."),
    row(
        "high_action",
        Kind::Adaptive(adaptive::Kind::Actions),
        SWEEP_RULE,
    )
    .default("suspend 14400")
    .doc("What is done then."),
    // Reception.
    row("relay_hosts", Kind::Networks, SMTP)
        .default("")
        .doc("Who may inject mail for any domain."),
    row("relay_domains", Kind::Domains, SMTP)
        .default("")
        .doc("Domains accepted from everyone: exact, *.name for all below it, /pattern/."),
    row("default_binding", Kind::BindingName, SMTP)
        .default("normal")
        .doc(
            "Where mail goes for which policy names no binding. normal: the binding default; \
             suspended: held there; none: refused with 451.",
        ),
    row("default_binding_group", Kind::GroupName, SMTP)
        .doc("As default_binding: a member of this group, uniformly at random."),
    row("class", Kind::FlowName, SMTP)
        .default("bulk")
        .doc("Priority class of mail that names none: transactional, bulk, or a priority_class."),
    row("tenant", Kind::FlowName, SMTP)
        .doc("Tenant of mail that names none: on whose behalf it is sent."),
    row("campaign", Kind::FlowName, SMTP).doc("Campaign of mail that names none."),
    row("class_header", Kind::FieldName, SMTP)
        .default("X-Pelton-Class")
        .doc(
            "Header field that names the class; the first of this name counts. Heeded from \
             Relay_Hosts only, as the other two; a class that is not defined counts as none.",
        ),
    row("tenant_header", Kind::FieldName, SMTP)
        .default("X-Tenant")
        .doc(
            "Header field that names the tenant. Of a tenant or campaign 64 bytes count, and \
             control characters are blanks.",
        ),
    row("campaign_header", Kind::FieldName, SMTP)
        .default("X-Campaign")
        .doc("Header field that names the campaign."),
    row(
        "remove_flow_headers",
        Kind::Word(&["class", "all", "none"]),
        SMTP,
    )
    .default("class")
    .doc("Which of these fields mail goes out without, if they are heeded."),
    row("order", Kind::Int { min: 1, max: 1_000 }, CLASS).doc(
        "Place of the class: the lowest goes first. Not set: 100 for transactional, 300 for \
         bulk, 200 for others. No two classes have the same.",
    ),
    row("share", Kind::Int { min: 1, max: 99 }, CLASS)
        .default("10")
        .doc(
            "Percent of the recipients served that the class is sure of while classes before it \
             have mail waiting too. All together at most 100.",
        ),
    row("banner_hostname", Kind::HostName, SMTP)
        .default("__hostname__")
        .doc("Name given in the banner, in the reply to EHLO and in Received."),
    row("listener_sessions", count(1), LISTENER)
        .default("10000")
        .doc("Connections of one listen address, in the whole process."),
    row("service_sessions", count(1), GLOBAL)
        .default("20000")
        .doc(
            "Inbound SMTP connections of all listeners, in the whole process; never more than \
             three eighths of the files that may be open.",
        ),
    row("max_connections_per_peer", count(1), SMTP)
        .default("10000")
        .doc("Connections of one address. Lower it where strangers connect."),
    row("inbound_throttle_messages", Kind::Rate, SMTP)
        .default("0")
        .doc(
            "Messages that may be taken in any window of time, together by all that falls back to \
             the stanza that sets it. A client waits for its turn, up to 60 s, then gets a 451.",
        ),
    row("max_connection_rate_per_peer", Kind::Rate, SMTP)
        .default("0")
        .doc("Connections of one client address in any window of time; more get a 421."),
    row("max_message_rate_per_peer", Kind::Rate, SMTP)
        .default("0")
        .doc("Messages that one client address may begin in any window of time; more get a 451."),
    row("max_recipient_rate_per_peer", Kind::Rate, SMTP)
        .default("0")
        .doc("Recipients that one client address may name in any window of time, likewise."),
    row("max_receptions_per_connection", count(0), SMTP)
        .default("0")
        .doc("Messages accepted over one connection; 0: no limit."),
    row(
        "max_recipients_per_transaction",
        Kind::Int {
            min: 1,
            max: 50_000,
        },
        SMTP,
    )
    .default("1000")
    .doc("Recipients of one transaction; RFC 5321 4.5.3.1.8 asks for at least 100."),
    row(
        "max_message_size",
        Kind::Size {
            min: 1_024,
            max: 1 << 30,
        },
        SMTP,
    )
    .computed("50M, or what fits Spool_Segment_Size")
    .doc("Bytes of one message, announced with SIZE (RFC 1870)."),
    row(
        "max_header_size",
        Kind::Size {
            min: 1_024,
            max: 16 << 20,
        },
        SMTP,
    )
    .default("256K")
    .doc("Bytes of the header section."),
    row(
        "max_line_length",
        Kind::Int {
            min: 1_000,
            max: 1 << 20,
        },
        SMTP,
    )
    .default("65536")
    .doc("Bytes of one text line with its CRLF. RFC 5321 says 1000; real mail is longer."),
    row(
        "max_command_length",
        Kind::Int {
            min: 512,
            max: 65_536,
        },
        SMTP,
    )
    .default("2048")
    .doc("Bytes of one command line with its CRLF."),
    row("max_idle_commands", count(1), SMTP)
        .default("100")
        .doc("Commands in a row that lead to no message (NOOP, RSET, VRFY, HELP)."),
    row("max_protocol_errors", count(1), SMTP)
        .default("10")
        .doc("Refused commands after which the connection is closed with 421."),
    row(
        "max_received_headers",
        Kind::Int { min: 1, max: 1_000 },
        SMTP,
    )
    .default("100")
    .doc("Received fields above which a message is refused as a loop (RFC 5321 6.3)."),
    row("idle_time", TIMEOUT, SMTP_HTTP)
        .default("300")
        .doc("How long a client may wait before its next command or request."),
    row("command_timeout", TIMEOUT, SMTP)
        .default("60")
        .doc("How long a command line that has begun may take to end."),
    row("inbound_data_timeout", TIMEOUT, SMTP)
        .default("180")
        .doc("How long a pause inside message data may last (RFC 5321 4.5.3.2.5)."),
    row(
        "min_inbound_rate",
        Kind::Int {
            min: 0,
            max: 1 << 30,
        },
        SMTP,
    )
    .default("64")
    .doc("Bytes per second of message data below which a client is cut off; 0: off."),
    row("min_inbound_rate_grace", TIMEOUT, SMTP)
        .default("60")
        .doc("How long a client may stay below min_inbound_rate."),
];

const _: () = assert!(OPTIONS.len() < OptionId::MAX as usize);

/// The row with this name or alias, without regard to case.
pub fn find(name: &str) -> Option<OptionId> {
    let name = name.to_ascii_lowercase();
    let is_it = |row: &OptionSpec| row.name == name || row.aliases.contains(&name.as_str());
    OPTIONS.iter().position(is_it).map(|it| it as OptionId)
}

/// The row of an id.
pub fn spec(id: OptionId) -> &'static OptionSpec {
    &OPTIONS[id as usize]
}

#[cfg(test)]
mod tests {
    use super::super::foreign;
    use super::super::spec::Preset;
    use super::super::value;
    use super::*;

    #[test]
    fn every_row_is_documented_unique_and_has_a_default_that_its_own_type_accepts() {
        let mut names = std::collections::BTreeSet::new();
        for row in OPTIONS {
            assert!(names.insert(row.name), "{} stands twice", row.name);
            for alias in row.aliases {
                assert!(names.insert(alias), "{alias} stands twice");
            }
            let is_name = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_';
            assert!(row.name.chars().all(is_name), "{}", row.name);
            assert!(
                row.doc.ends_with('.') && !row.doc.contains("  "),
                "{}",
                row.name
            );
            assert!(
                !row.scopes.is_empty() && !row.fallback().is_empty(),
                "{}",
                row.name
            );
            assert!(
                !foreign::is_foreign_option(row.name),
                "{} is said to be foreign",
                row.name
            );
            if let Preset::Text(text) = row.preset {
                let parsed = value::parse_preset(&row.kind, text);
                assert!(parsed.is_ok(), "{}: {parsed:?}", row.name);
            }
        }
    }

    #[test]
    fn names_are_found_without_regard_to_case() {
        assert_eq!(find("Spoolbase"), Some(0));
        assert_eq!(
            find("MAX_RETRIES").map(|it| spec(it).name),
            Some("max_retries")
        );
        assert_eq!(find("max_retris"), None);
    }
}
