//! Chains to settings structs: the only place that knows which option fills which field. Reading
//! never fails: a value in the tree has the type of its option, and an option without a value has
//! a preset, which a test checks for every row.

use core::time::Duration;
use std::sync::Arc;

use crate::base::warmup::Schedule;
use crate::types::flow::CLASS_DEFAULT;
use crate::types::flow::CLASS_TRANSACTIONAL;

use super::adaptive;
use super::checked::Config;
use super::curfew::Curfew;
use super::options;
use super::options::OptionId;
use super::rules;
use super::settings::Aggressiveness;
use super::settings::Binding;
use super::settings::BindingChoice;
use super::settings::BindingSettings;
use super::settings::Blackhole;
use super::settings::DeliverySettings;
use super::settings::EightBit;
use super::settings::FlowHeaders;
use super::settings::GlobalSettings;
use super::settings::HttpSettings;
use super::settings::ListenerSettings;
use super::settings::MaxRetries;
use super::settings::PriorityClass;
use super::settings::Shards;
use super::settings::SharedLimit;
use super::settings::SharedRate;
use super::settings::SpoolSync;
use super::settings::Striping;
use super::spec::ScopeKind;
use super::tree::GLOBAL;
use super::tree::ScopeId;
use super::value::Value;
use super::value::quoted;

/// Bytes of one recipient in a spool record at most: an address (RFC 5321 4.5.3.1.3), names of its
/// queue and state.
pub const RECIPIENT_RECORD_BYTES: u64 = 1_024;
/// Bytes of a segment that no message may claim: segment header, record and commit frames.
pub const SEGMENT_OVERHEAD_BYTES: u64 = 64 << 10;
/// The message size when nothing sets it and the segment allows it.
const MESSAGE_BYTES_DEFAULT: u64 = 50 << 20;

/// A chain with readers by type.
pub struct Reader<'a> {
    pub config: &'a Config,
    pub chain: Vec<ScopeId>,
}

impl<'a> Reader<'a> {
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        let id = self.config.id(name);
        let set = self
            .config
            .first_setting(&self.chain, id)
            .map(|(_, setting)| &setting.value);
        set.or_else(|| self.config.preset(id))
    }

    pub fn bool(&self, name: &str) -> bool {
        self.get(name) == Some(&Value::Bool(true))
    }

    fn int(&self, name: &str) -> i64 {
        match self.get(name) {
            Some(Value::Int(value)) => *value,
            other => unreachable!("{name} is an integer with a preset, not {other:?}"),
        }
    }

    pub fn count(&self, name: &str) -> u32 {
        u32::try_from(self.int(name)).unwrap_or(u32::MAX)
    }

    pub fn duration(&self, name: &str) -> Duration {
        match self.get(name) {
            Some(Value::Duration(value)) => *value,
            other => unreachable!("{name} is a duration with a preset, not {other:?}"),
        }
    }

    fn size(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(Value::Size(value)) => *value,
            other => unreachable!("{name} is a size with a preset, not {other:?}"),
        }
    }

    /// A rate with the stanza that sets it.
    fn shared_rate(&self, name: &str) -> Option<SharedRate> {
        self.config.shared_rate(&self.chain, name)
    }

    /// A limit with the stanza that sets it.
    fn shared_limit(&self, name: &str) -> Option<SharedLimit> {
        self.config.shared_limit(&self.chain, name)
    }

    fn striping(&self) -> Striping {
        match self.word("queue_striping") {
            Some("always") => Striping::Always,
            Some("never") => Striping::Never,
            _ => Striping::Auto,
        }
    }

    pub fn word(&self, name: &str) -> Option<&'static str> {
        match self.get(name) {
            Some(Value::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Empty if nothing sets it.
    fn string(&self, name: &str) -> String {
        self.text(name).unwrap_or_default().to_string()
    }

    /// A path of the file system; a computed preset stands below the spool.
    fn path(&self, name: &str) -> String {
        let set = self.text(name).map(str::to_string);
        set.unwrap_or_else(|| computed_default_text(self.config, name))
    }

    fn host_name(&self, name: &str) -> String {
        match self.text(name) {
            Some(text) if !text.eq_ignore_ascii_case("__hostname__") => text.to_string(),
            _ => self.config.environment().hostname.clone(),
        }
    }
}

/// The text of a computed preset, quoted as the language writes it where it is a path.
pub fn computed_default(config: &Config, id: OptionId) -> String {
    let name = options::spec(id).name;
    match name {
        "max_message_size" => {
            let reader = Reader {
                config,
                chain: vec![GLOBAL],
            };
            super::spec::size_text(message_size(&reader))
        }
        _ => quoted(&computed_default_text(config, name)),
    }
}

fn computed_default_text(config: &Config, name: &str) -> String {
    let reader = Reader {
        config,
        chain: vec![GLOBAL],
    };
    let base = reader
        .text("spoolbase")
        .unwrap_or_default()
        .trim_end_matches('/');
    let leaf = match name {
        "event_log" => "events",
        "management_socket" => "pelton.sock",
        "journal" => "journal.jsonl",
        other => unreachable!("{other} has no computed path"),
    };
    format!("{base}/{leaf}")
}

/// Settings of the process.
pub fn global(config: &Config) -> GlobalSettings {
    let it = Reader {
        config,
        chain: vec![GLOBAL],
    };
    let spool_sync = match it.word("spool_sync") {
        _ if it.bool("force_fsync") => SpoolSync::Commit,
        Some("interval") => SpoolSync::Interval(it.duration("spool_sync_interval")),
        Some("none") => SpoolSync::None,
        _ => SpoolSync::Commit,
    };
    let shards = match it.get("shards") {
        Some(Value::Int(count)) => Shards::Count(u32::try_from(*count).unwrap_or(1)),
        _ => Shards::Auto,
    };
    GlobalSettings {
        spoolbase: it.path("spoolbase"),
        spool_mode: match it.get("spool_mode") {
            Some(Value::Octal(bits)) => *bits,
            _ => 0o640,
        },
        shards,
        pin_shards: it.bool("pin_shards"),
        spool_sync,
        spool_segment_size: it.size("spool_segment_size"),
        min_free_space: it.size("min_free_space"),
        memory_goal: it.count("memory_goal"),
        memory_hwm: it.count("memory_hwm"),
        memory_limit: it.size("memory_limit"),
        max_resident_messages: it.count("max_resident_messages"),
        dns_servers: match it.get("dns_servers") {
            Some(Value::SocketAddresses(list)) => list.clone(),
            _ => Vec::new(),
        },
        dns_timeout: it.duration("dns_timeout"),
        shutdown_grace: it.duration("shutdown_grace"),
        server_max_outbound_connections: it.count("server_max_outbound_connections"),
        server_reserve_outbound_connections: it.count("server_reserve_outbound_connections"),
        migrates_connections: it.bool("migrate_connections_between_sibling_domains"),
        event_log: it.path("event_log"),
        event_log_max_size: it.size("event_log_max_size"),
        event_log_retention: it.duration("event_log_retention"),
        event_log_max_total_size: it.size("event_log_max_total_size"),
        management_socket: it.path("management_socket"),
        journal: it.path("journal"),
        default_binding: binding_choice(config, &[GLOBAL]),
        match_cache_size: it.count("match_cache_size"),
        flight_recorder_size: it.size("flight_recorder_size"),
    }
}

/// Settings of one binding.
pub fn binding(config: &Config, binding: &Binding) -> BindingSettings {
    let chain = config
        .binding_scopes(binding.index)
        .delivery_chain(config.tree(), None);
    let it = Reader { config, chain };
    let scopes = config.binding_scopes(binding.index);
    let of_binding: Vec<ScopeId> = scopes.grouped.into_iter().chain(scopes.free).collect();
    let of_group: Vec<ScopeId> = scopes.group.into_iter().collect();
    let server_max = [of_binding, of_group]
        .map(|chain| config.shared_limit(&chain, "server_max_outbound_connections"));
    let group = binding
        .group
        .map(|it| config.groups()[it.0 as usize].name.clone());
    BindingSettings {
        name: binding.name.clone(),
        group,
        bind_address: match it.get("bind_address") {
            Some(Value::SourceAddresses(list)) => list.clone(),
            _ => Vec::new(),
        },
        ehlo_hostname: it.host_name("ehlo_hostname"),
        server_max,
        suspended: it.bool("suspend_delivery"),
        curfew: curfew(&it),
        weight: it.count("weight"),
        warmup: warmup(&it),
    }
}

fn warmup(it: &Reader<'_>) -> Option<Arc<Schedule>> {
    let start = match it.get("warmup_start") {
        Some(Value::Adaptive(adaptive::Value::Date(start))) => (*start)?,
        _ => return None,
    };
    let stages = match it.get("warmup_schedule") {
        Some(Value::Adaptive(adaptive::Value::Schedule(stages))) => stages.clone(),
        other => unreachable!("warmup_schedule has a preset, not {other:?}"),
    };
    Some(Arc::new(Schedule {
        start,
        stages,
        deferral_percent: it.count("warmup_deferral_percentage"),
    }))
}

fn curfew(it: &Reader<'_>) -> Option<Arc<Curfew>> {
    match it.get("curfew") {
        Some(Value::Curfew(curfew)) if !curfew.is_empty() => Some(curfew.clone()),
        _ => None,
    }
}

/// Settings of a (binding, domain) pair.
pub fn delivery(config: &Config, chain: Vec<ScopeId>) -> DeliverySettings {
    let it = Reader { config, chain };
    DeliverySettings {
        // -1 does not fit a count and becomes the largest one: no limit.
        max_outbound_connections: it.count("max_outbound_connections"),
        scope_max: it.shared_limit("scope_max_outbound_connections"),
        max_deliveries_per_connection: it.count("max_deliveries_per_connection"),
        max_recipients_per_connection: it.count("max_recipients_per_connection"),
        max_recipients_per_batch: it.count("max_recipients_per_batch"),
        connection_allocation_aggressiveness: match it.word("connection_allocation_aggressiveness")
        {
            Some("high") => Aggressiveness::High,
            _ => Aggressiveness::Normal,
        },
        queue_striping: it.striping(),
        throttle_messages: it.shared_rate("outbound_throttle_messages"),
        throttle_connections: it.shared_rate("outbound_throttle_connections"),
        retry_interval: it.duration("retry_interval"),
        max_retry_interval: it.duration("max_retry_interval"),
        max_retries: match it.get("max_retries") {
            Some(Value::Int(count)) => MaxRetries::Count(u32::try_from(*count).unwrap_or(0)),
            Some(Value::Word("none")) => MaxRetries::None,
            _ => MaxRetries::Auto,
        },
        message_expiration: it.duration("message_expiration"),
        never_attempt_expired_messages: it.bool("never_attempt_expired_messages"),
        never_retry: it.bool("never_retry"),
        suspend_delivery: it.bool("suspend_delivery"),
        curfew: curfew(&it),
        blackhole: match it.word("blackhole") {
            Some("inline") => Blackhole::Inline,
            Some("internal") => Blackhole::Internal,
            _ => Blackhole::Off,
        },
        gateway: it.text("gateway").map(str::to_string),
        routes: match it.get("routes") {
            Some(Value::Routes(routes)) => Arc::clone(routes),
            _ => Arc::new([]),
        },
        static_target: static_target(config),
        remote_smtp_port: u16::try_from(it.int("remote_smtp_port")).unwrap_or(25),
        connect_timeout: it.duration("connect_timeout"),
        ehlo_timeout: it.duration("ehlo_timeout"),
        mailfrom_timeout: it.duration("mailfrom_timeout"),
        rcptto_timeout: it.duration("rcptto_timeout"),
        data_timeout: it.duration("data_timeout"),
        body_timeout: it.duration("body_timeout"),
        rset_timeout: it.duration("rset_timeout"),
        idle_timeout: it.duration("idle_timeout"),
        connect_timeout_to_delay: it.duration("connect_timeout_to_delay"),
        host_failure_retry: it.duration("host_failure_retry"),
        mx_failures_to_delay: it.count("mx_failures_to_delay"),
        mx_failures_fallback_to_a: it.count("mx_failures_fallback_to_a"),
        prohibited_hosts: match it.get("prohibited_hosts") {
            Some(Value::ProhibitedHosts(set)) => Arc::clone(set),
            other => unreachable!("prohibited_hosts has a preset, not {other:?}"),
        },
        use_chunking: it.bool("use_chunking"),
        use_pipelining: it.bool("use_pipelining"),
        eight_bit: match it.word("outbound_8bit_policy") {
            Some("send") => EightBit::Send,
            Some("fail") => EightBit::Fail,
            _ => EightBit::Convert,
        },
        drop_body_after_trans_fail: it.count("drop_body_after_trans_fail"),
        max_resident_active_queue: it.int("max_resident_active_queue"),
        adaptive: rules::settings(&it),
    }
}

fn static_target(config: &Config) -> Option<super::settings::StaticTarget> {
    let scope = config.tree().exact(GLOBAL, ScopeKind::StaticRoutes, "")?;
    match &config.tree().setting(scope, config.id("target"))?.value {
        Value::Target(target) => Some(target.clone()),
        _ => None,
    }
}

/// Settings of an inbound SMTP connection.
pub fn listener(config: &Config, chain: Vec<ScopeId>) -> ListenerSettings {
    let default_binding = binding_choice(config, &chain);
    // What global says of this one is meant for mail that goes out.
    let of_listener = Reader {
        config,
        chain: chain.iter().copied().filter(|it| *it != GLOBAL).collect(),
    };
    let it = Reader { config, chain };
    ListenerSettings {
        relay_hosts: match it.get("relay_hosts") {
            Some(Value::Networks(set)) => Arc::clone(set),
            _ => Arc::default(),
        },
        relay_domains: match it.get("relay_domains") {
            Some(Value::Domains(set)) => Arc::clone(set),
            _ => Arc::default(),
        },
        default_binding,
        banner_hostname: it.host_name("banner_hostname"),
        listener_sessions: it.count("listener_sessions"),
        service_sessions: it.count("service_sessions"),
        throttle_messages: it.shared_rate("inbound_throttle_messages"),
        connection_rate_per_peer: it.shared_rate("max_connection_rate_per_peer"),
        message_rate_per_peer: it.shared_rate("max_message_rate_per_peer"),
        recipient_rate_per_peer: it.shared_rate("max_recipient_rate_per_peer"),
        max_connections_per_peer: it.count("max_connections_per_peer"),
        max_receptions_per_connection: it.count("max_receptions_per_connection"),
        max_recipients_per_connection: of_listener.count("max_recipients_per_connection"),
        max_recipients_per_transaction: it.count("max_recipients_per_transaction"),
        max_message_size: message_size(&it),
        max_line_length: it.count("max_line_length"),
        max_command_length: it.count("max_command_length"),
        max_header_size: it.size("max_header_size"),
        max_idle_commands: it.count("max_idle_commands"),
        max_protocol_errors: it.count("max_protocol_errors"),
        max_received_headers: it.count("max_received_headers"),
        idle_time: it.duration("idle_time"),
        command_timeout: it.duration("command_timeout"),
        data_timeout: it.duration("inbound_data_timeout"),
        min_inbound_rate: it.count("min_inbound_rate"),
        min_inbound_rate_grace: it.duration("min_inbound_rate_grace"),
        flow: [
            it.string("class").to_ascii_lowercase(),
            it.string("tenant"),
            it.string("campaign"),
        ],
        flow_headers: ["class_header", "tenant_header", "campaign_header"]
            .map(|name| it.string(name)),
        remove_flow_headers: match it.word("remove_flow_headers") {
            Some("all") => FlowHeaders::All,
            Some("none") => FlowHeaders::None,
            _ => FlowHeaders::Class,
        },
    }
}

/// The priority classes, the built-in ones among them, in their order.
pub fn classes(config: &Config) -> Vec<PriorityClass> {
    let tree = config.tree();
    let mut names = vec![CLASS_TRANSACTIONAL.to_string(), CLASS_DEFAULT.to_string()];
    for (_, scope) in tree.all() {
        if let (ScopeKind::PriorityClass, Some(name)) = (scope.kind, &scope.name)
            && !names.contains(name)
        {
            names.push(name.clone());
        }
    }
    let mut classes: Vec<PriorityClass> = names
        .into_iter()
        .map(|name| {
            let scope = tree.exact(GLOBAL, ScopeKind::PriorityClass, &name);
            let chain = scope.into_iter().collect();
            let it = Reader { config, chain };
            let order = match (it.get("order"), name.as_str()) {
                (Some(Value::Int(order)), _) => u32::try_from(*order).unwrap_or(u32::MAX),
                (_, CLASS_TRANSACTIONAL) => 100,
                (_, CLASS_DEFAULT) => 300,
                _ => 200,
            };
            let share = it.count("share");
            PriorityClass { name, order, share }
        })
        .collect();
    classes.sort_by_key(|it| it.order);
    classes
}

/// Settings of an HTTP listen address.
pub fn http(config: &Config, chain: Vec<ScopeId>) -> HttpSettings {
    let it = Reader { config, chain };
    HttpSettings {
        listener_sessions: it.count("listener_sessions"),
        idle_time: it.duration("idle_time"),
    }
}

/// The most specific scope that sets either option decides.
fn binding_choice(config: &Config, chain: &[ScopeId]) -> BindingChoice {
    let (by_name, by_group) = (
        config.id("default_binding"),
        config.id("default_binding_group"),
    );
    for scope in chain {
        if let Some(setting) = config.tree().setting(*scope, by_group)
            && let Value::Text(name) = &setting.value
        {
            return config
                .group_by_name(name)
                .map_or(BindingChoice::Normal, BindingChoice::Group);
        }
        if let Some(setting) = config.tree().setting(*scope, by_name)
            && let Value::Text(name) = &setting.value
        {
            return named_choice(config, name);
        }
    }
    BindingChoice::Normal
}

fn named_choice(config: &Config, name: &str) -> BindingChoice {
    match name.to_ascii_lowercase().as_str() {
        "normal" => BindingChoice::Normal,
        "suspended" => BindingChoice::Suspended,
        "none" => BindingChoice::None,
        _ => config
            .binding_by_name(name)
            .map_or(BindingChoice::Normal, BindingChoice::Binding),
    }
}

/// What a segment leaves for one message beside its recipients.
pub fn message_room(segment: u64, recipients: u32) -> u64 {
    let recipients = u64::from(recipients) * RECIPIENT_RECORD_BYTES;
    segment.saturating_sub(SEGMENT_OVERHEAD_BYTES + recipients)
}

fn message_size(it: &Reader<'_>) -> u64 {
    if let Some(Value::Size(size)) = it.get("max_message_size") {
        return *size;
    }
    let recipients = it.count("max_recipients_per_transaction");
    message_room(it.size("spool_segment_size"), recipients).min(MESSAGE_BYTES_DEFAULT)
}

/// Message size, segment size and recipients as a chain has them: what a check compares.
pub fn message_sizes(config: &Config, chain: Vec<ScopeId>) -> (u64, u64, u32) {
    let it = Reader { config, chain };
    let recipients = it.count("max_recipients_per_transaction");
    (message_size(&it), it.size("spool_segment_size"), recipients)
}

/// `retry_interval` and `max_retry_interval` as a chain has them.
pub fn retry_intervals(config: &Config, chain: Vec<ScopeId>) -> (Duration, Duration) {
    let it = Reader { config, chain };
    (
        it.duration("retry_interval"),
        it.duration("max_retry_interval"),
    )
}
