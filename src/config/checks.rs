//! Checks of the configuration as a whole: references that must exist, values that must fit each
//! other, and what an operator should know although it is allowed.

use std::collections::BTreeMap;

use crate::base::units::counted;

use super::checked::Config;
use super::diagnostic::Diagnostic;
use super::diagnostic::Severity;
use super::diagnostic::near_miss;
use super::fallback;
use super::findings::Findings;
use super::resolve;
use super::rules;
use super::settings::Shards;
use super::settings::SpoolSync;
use super::source::Span;
use super::spec::ScopeKind;
use super::spec::duration_text;
use super::spec::size_text;
use super::tree::GLOBAL;
use super::tree::Matcher;
use super::tree::ScopeId;
use super::tree::Setting;
use super::value::Value;

/// Priority classes, the built-in ones included: each is looked at for every message.
pub const CLASSES_MAX: usize = 16;

/// Recipients that every receiver must take (RFC 5321 4.5.3.1.8).
const RECIPIENTS_MIN: i64 = 100;

/// Checks everything that needs more than one statement to judge.
pub fn check(config: &Config, findings: &mut Findings) {
    let mut checker = Checker { config, findings };
    checker.default_bindings();
    checker.listeners();
    checker.retry_intervals();
    checker.message_sizes();
    checker.global_relations();
    checker.spool_sync();
    checker.relaying();
    checker.classes();
    checker.oversights();
    checker.closed_listeners();
    checker.adaptive_rules();
}

/// What this version does not do, printed by every check.
pub fn notes() -> Vec<Diagnostic> {
    vec![
        Diagnostic::whole(
            Severity::Note,
            "N001",
            "no DSNs are generated: a permanent failure is an event and a log line",
        ),
        Diagnostic::whole(
            Severity::Note,
            "N002",
            "mail is received and sent without TLS by this version",
        ),
    ]
}

struct Checker<'a> {
    config: &'a Config,
    findings: &'a mut Findings,
}

impl<'a> Checker<'a> {
    fn error(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.findings
            .error(self.config.sources(), code, span, message, expected);
    }

    fn warning(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.findings
            .warning(self.config.sources(), code, span, message, expected);
    }

    /// Every scope that sets the option.
    fn settings_of(&self, name: &str) -> Vec<(ScopeId, &'a Setting)> {
        let id = self.config.id(name);
        let scopes = self.config.tree().all();
        scopes
            .filter_map(|(scope, it)| Some((scope, it.settings.get(&id)?)))
            .collect()
    }

    fn global(&self, name: &str) -> Option<&'a Setting> {
        self.config.tree().setting(GLOBAL, self.config.id(name))
    }

    fn chain(&self, scope: ScopeId) -> Vec<ScopeId> {
        let config = self.config;
        let binding_of = |id: ScopeId| {
            config
                .tree()
                .scope(id)
                .name
                .as_deref()
                .and_then(|it| config.binding_by_name(it))
        };
        let scopes_of = |binding| config.binding_scopes(binding);
        fallback::lexical_chain(config.tree(), scope, binding_of, scopes_of)
    }

    fn default_bindings(&mut self) {
        for (scope, setting) in self.settings_of("default_binding") {
            let Value::Text(name) = &setting.value else {
                continue;
            };
            let is_word = ["normal", "suspended", "none"]
                .iter()
                .any(|it| it.eq_ignore_ascii_case(name));
            if !is_word && self.config.binding_by_name(name).is_none() {
                let names = self.config.bindings().iter().map(|it| it.name.as_str());
                self.unknown_name("E030", "default_binding", "binding", setting, names);
            }
            let group = self
                .config
                .tree()
                .setting(scope, self.config.id("default_binding_group"));
            if let Some(group) = group {
                let later = setting.span.max(group.span);
                let message = "default_binding and default_binding_group are both set here";
                self.error("E034", later, message, "one of the two in a scope");
            }
        }
        for (_, setting) in self.settings_of("default_binding_group") {
            let Value::Text(name) = &setting.value else {
                continue;
            };
            let groups = self.config.groups();
            match groups.iter().find(|it| it.name == *name) {
                None => {
                    let names = groups.iter().map(|it| it.name.as_str());
                    self.unknown_name("E031", "default_binding_group", "group", setting, names);
                }
                Some(group) if group.members.is_empty() => {
                    let message = format!("binding_group \"{name}\" has no bindings");
                    let expected = "a group with at least one binding";
                    self.error("E032", setting.value_span, message, expected);
                }
                Some(_) => {}
            }
        }
    }

    fn unknown_name<'n>(
        &mut self,
        code: &'static str,
        option: &str,
        what: &str,
        setting: &Setting,
        names: impl Iterator<Item = &'n str> + Clone,
    ) {
        let Value::Text(name) = &setting.value else {
            return;
        };
        let mut shown: Vec<String> = names
            .clone()
            .take(5)
            .map(|it| format!("\"{it}\""))
            .collect();
        if names.clone().count() > shown.len() {
            shown.push("…".to_string());
        }
        let expected = match shown.is_empty() {
            true => format!("the name of a {what}; none is defined"),
            false => format!("the name of a {what}: {}", shown.join(", ")),
        };
        let message = format!("{option} names {what} \"{name}\", which is not defined");
        let near = near_miss(name, names).map(str::to_string);
        let sources = self.config.sources();
        let span = setting.value_span;
        if let Some(finding) = self.findings.error(sources, code, span, message, expected) {
            finding.suggestion = near;
        }
    }

    fn listeners(&mut self) {
        let tree = self.config.tree();
        let mut seen: BTreeMap<core::net::SocketAddr, Span> = BTreeMap::new();
        for (_, scope) in tree.all() {
            match (scope.kind, &scope.matcher) {
                (ScopeKind::SmtpListener | ScopeKind::HttpListener, _) => {
                    let is_listen = |id: &ScopeId| {
                        let kind = tree.scope(*id).kind;
                        matches!(kind, ScopeKind::SmtpListen | ScopeKind::HttpListen)
                    };
                    if !scope.is_incomplete && !scope.children.iter().any(is_listen) {
                        let message = format!("this {} listens nowhere", scope.kind.words());
                        let expected = "at least one Listen \"address:port\" { } in it";
                        self.error("E036", scope.span, message, expected);
                    }
                }
                // Port 0 asks the kernel for a free one each time: never a duplicate.
                (ScopeKind::SmtpListen | ScopeKind::HttpListen, Matcher::Address(address))
                    if address.port() != 0 =>
                {
                    if let Some(first) = seen.get(address).copied() {
                        let place = self.config.place(first);
                        let message = format!(
                            "{address} is already listened on in {}:{}",
                            place.file, place.line
                        );
                        let expected = "each address in one listener";
                        self.error("E035", scope.span, message, expected);
                    } else {
                        seen.insert(*address, scope.span);
                    }
                }
                _ => {}
            }
        }
        let is_listener = |kind| matches!(kind, ScopeKind::Global | ScopeKind::SmtpListener);
        let is_incomplete = tree
            .all()
            .any(|(_, it)| it.is_incomplete && is_listener(it.kind));
        if self.config.smtp_listens().is_empty() && !is_incomplete {
            self.findings.whole(
                Diagnostic::whole(Severity::Warning, "W005", "no mail can come in over SMTP")
                    .expected("an ESMTP_Listener with a Listen stanza"),
            );
        }
    }

    /// A rule has to say what it looks for and what it does; and nobody asks it where nothing
    /// adapts.
    fn adaptive_rules(&mut self) {
        let config = self.config;
        let mut enabled = self.settings_of("adaptive_enabled").into_iter();
        let enabled = enabled.any(|(_, it)| it.value == Value::Bool(true));
        for (_, scope) in config.tree().all() {
            let owed = rules::owed(scope.kind);
            let is_missing =
                |it: &&&str| !scope.is_incomplete && !scope.settings.contains_key(&config.id(it));
            if let Some(option) = owed.iter().find(is_missing) {
                let message = format!("this {} has no {option}", scope.kind.words());
                self.error("E042", scope.span, message, format!("{option} = ( … )"));
            }
            if !owed.is_empty() && !enabled {
                let message = format!("this {} has no effect", scope.kind.words());
                let expected = "adaptive_enabled = true in some scope";
                self.warning("W014", scope.span, message, expected);
            }
        }
    }

    fn retry_intervals(&mut self) {
        let mut scopes: BTreeMap<ScopeId, &Setting> = BTreeMap::new();
        for name in ["retry_interval", "max_retry_interval"] {
            for (scope, setting) in self.settings_of(name) {
                let first = scopes.entry(scope).or_insert(setting);
                *first = if setting.span > first.span {
                    setting
                } else {
                    first
                };
            }
        }
        for (scope, setting) in scopes {
            let chain = self.chain(scope);
            let (retry, max) = resolve::retry_intervals(self.config, chain);
            if retry > max {
                let message = format!(
                    "retry_interval ({}) is longer than max_retry_interval ({}) in {}",
                    duration_text(retry),
                    duration_text(max),
                    self.config.tree().path(scope),
                );
                let expected = "retry_interval up to max_retry_interval";
                self.error("E037", setting.value_span, message, expected);
            }
        }
    }

    fn message_sizes(&mut self) {
        let mut scopes: BTreeMap<ScopeId, &Setting> = BTreeMap::new();
        let names = [
            "spool_segment_size",
            "max_recipients_per_transaction",
            "max_message_size",
        ];
        for name in names {
            for (scope, setting) in self.settings_of(name) {
                scopes.insert(scope, setting);
            }
        }
        for (scope, setting) in scopes {
            let chain = self.chain(scope);
            let (size, segment, recipients) = resolve::message_sizes(self.config, chain);
            let room = resolve::message_room(segment, recipients);
            if size > room || size < 1_024 {
                let message = format!(
                    "a message of max_message_size ({}) with {} does not fit a segment of {}",
                    size_text(size),
                    counted(recipients as u64, "recipient"),
                    size_text(segment),
                );
                let expected = match room {
                    1_024.. => format!(
                        "max_message_size up to {room}, or a larger \
                        Spool_Segment_Size"
                    ),
                    _ => "a larger Spool_Segment_Size or a smaller \
                        max_recipients_per_transaction"
                        .to_string(),
                };
                self.error("E038", setting.value_span, message, expected);
            }
        }
    }

    fn global_relations(&mut self) {
        let global = self.config.global();
        if global.memory_goal > global.memory_hwm
            && let Some(setting) = self.global("memory_goal").or(self.global("memory_hwm"))
        {
            let message = format!(
                "memory_goal ({}) is above memory_hwm ({})",
                global.memory_goal, global.memory_hwm
            );
            let expected = "memory_goal up to memory_hwm";
            self.error("E039", setting.value_span, message, expected);
        }
        let shards = u64::from(self.config.shard_count());
        let least = global.event_log_max_size.saturating_mul(shards);
        let sizes = ["event_log_max_total_size", "event_log_max_size"];
        if global.event_log_max_total_size < least
            && let Some(setting) = sizes.iter().find_map(|it| self.global(it))
        {
            let message = format!(
                "event_log_max_total_size ({}) is less than one file of {} for each of {}",
                size_text(global.event_log_max_total_size),
                size_text(global.event_log_max_size),
                counted(shards, "shard"),
            );
            let expected = format!("at least {}", size_text(least));
            self.error("E040", setting.value_span, message, expected);
        }
        // What is looked for elsewhere than it was made would seem lost.
        for option in ["spoolbase", "event_log", "journal", "management_socket"] {
            if let Some(setting) = self.global(option)
                && let Value::Text(path) = &setting.value
                && !path.starts_with('/')
            {
                let message = format!(
                    "\"{path}\" is relative: where it is depends on the folder that a command is \
                     started in"
                );
                self.warning("W013", setting.value_span, message, "a path from / on");
            }
        }
        if let (Shards::Count(count), Some(setting)) = (global.shards, self.global("shards"))
            && count as usize > self.config.environment().cores
        {
            let cores = self.config.environment().cores;
            let (shards, cores) = (
                counted(count.into(), "shard"),
                counted(cores as u64, "core"),
            );
            let message = format!("{shards} share {cores}");
            let expected = "one shard per core: more only cost context switches";
            self.warning("W004", setting.value_span, message, expected);
        }
    }

    fn spool_sync(&mut self) {
        let sync = self.global("spool_sync");
        if let Some(force) = self.global("force_fsync") {
            if force.value == Value::Bool(false) {
                let message = "force_fsync = false does not say how much mail may be lost";
                let expected = "Spool_Sync = interval or none, or no such line";
                self.error("E024", force.value_span, message, expected);
            } else if let Some(sync) = sync.filter(|it| it.value != Value::Word("commit")) {
                let message = format!("Spool_Sync = {} contradicts force_fsync = true", sync.value);
                self.error("E041", sync.value_span, message, "one of the two lines");
            }
        }
        let Some(setting) = sync else { return };
        match self.config.global().spool_sync {
            SpoolSync::Commit => {}
            SpoolSync::Interval(interval) => {
                let message = format!(
                    "Spool_Sync = interval acknowledges mail up to {} before it is safe: a power \
                     cut can lose it",
                    crate::base::units::duration(interval),
                );
                let expected = "Spool_Sync = commit where mail must not be lost";
                self.warning("W002", setting.value_span, message, expected);
            }
            SpoolSync::None => {
                let message = "Spool_Sync = none acknowledges mail that a crash can lose";
                let expected = "Spool_Sync = commit where mail must not be lost";
                self.warning("W001", setting.value_span, message, expected);
            }
        }
    }

    fn classes(&mut self) {
        let classes = self.config.classes();
        for (_, setting) in self.settings_of("class") {
            let Value::Text(name) = &setting.value else {
                continue;
            };
            if !classes.iter().any(|it| it.name.eq_ignore_ascii_case(name)) {
                let names = classes.iter().map(|it| it.name.as_str());
                self.unknown_name("E045", "class", "priority_class", setting, names);
            }
        }
        let tree = self.config.tree();
        let stanza = |name: &str| {
            let scope = tree.exact(GLOBAL, ScopeKind::PriorityClass, name)?;
            Some(tree.scope(scope).span)
        };
        for pair in classes.windows(2) {
            let (one, other) = (&pair[0], &pair[1]);
            if one.order == other.order
                && let Some(span) = stanza(&other.name).max(stanza(&one.name))
            {
                let (one, other, order) = (&one.name, &other.name, one.order);
                let message = format!("classes \"{one}\" and \"{other}\" both have order {order}");
                self.error("E046", span, message, "an order of its own for each class");
            }
        }
        let shares: u32 = classes.iter().map(|it| it.share).sum();
        let last = classes.iter().filter_map(|it| stanza(&it.name)).max();
        let Some(span) = last else { return };
        if classes.len() > CLASSES_MAX {
            let message = format!("there are {} priority classes", classes.len());
            let expected = format!("at most {CLASSES_MAX}, transactional and bulk included");
            self.error("E047", span, message, expected);
        } else if shares > 100 {
            let message = format!("the shares of all priority classes come to {shares} percent");
            self.error("E047", span, message, "at most 100 percent together");
        }
    }

    fn relaying(&mut self) {
        for (_, setting) in self.settings_of("relay_hosts") {
            if let Value::Networks(set) = &setting.value
                && set.contains_everybody()
            {
                let message = "Relay_Hosts contains every address: this is an open relay";
                let expected = "the networks of the machines that inject mail";
                self.warning("W003", setting.value_span, message, expected);
            }
        }
        for (_, setting) in self.settings_of("relay_domains") {
            if let Value::Domains(set) = &setting.value
                && set.contains_everything()
            {
                let message = "Relay_Domains contains every domain: this is an open relay";
                let expected = "the domains that mail is accepted for";
                self.warning("W003", setting.value_span, message, expected);
            }
        }
        for (_, setting) in self.settings_of("prohibited_hosts") {
            if let Value::ProhibitedHosts(set) = &setting.value
                && !set.own_addresses
                && set.nets.nets().is_empty()
            {
                let message = "anybody's MX record may point mail at this machine and its network";
                let expected = "prohibited_hosts = auto where mail is sent by MX";
                self.warning("W010", setting.value_span, message, expected);
            }
        }
    }

    /// Addresses at which every recipient is refused. Not told beside errors: what would open them
    /// may be what is wrong.
    fn closed_listeners(&mut self) {
        if self.findings.has_errors() {
            return;
        }
        let tree = self.config.tree();
        let options = ["relay_hosts", "relay_domains"].map(|it| self.config.id(it));
        let opens = |scope: ScopeId| {
            options.iter().any(|id| {
                tree.setting(scope, *id).is_some_and(|it| match &it.value {
                    Value::Networks(set) => !set.nets().is_empty(),
                    Value::Domains(set) => !set.items().is_empty(),
                    _ => false,
                })
            })
        };
        for listen in self.config.smtp_listens() {
            let listener = tree.scope(*listen).parent;
            let outer = [Some(GLOBAL), listener, Some(*listen)];
            let peers = |scope: &ScopeId| tree.scope(*scope).children.iter().copied();
            let inner = outer.iter().flatten().skip(1).flat_map(peers);
            let is_peer = |id: &ScopeId| tree.scope(*id).kind == ScopeKind::SmtpPeer;
            let mut scopes = outer.iter().flatten().copied().chain(inner.filter(is_peer));
            if !scopes.any(opens) {
                let message = "every recipient is refused here: neither Relay_Hosts nor \
                               Relay_Domains is set";
                let expected = "Relay_Hosts = ( networks that inject mail ), or Relay_Domains = ( \
                                domains to accept mail for )";
                self.warning("W012", tree.scope(*listen).span, message, expected);
            }
        }
    }

    /// What is allowed and can hardly be meant.
    fn oversights(&mut self) {
        for (_, setting) in self.settings_of("max_recipients_per_transaction") {
            if let Value::Int(count) = setting.value
                && count < RECIPIENTS_MIN
            {
                let count = counted(count.unsigned_abs(), "recipient");
                let message = format!("at most {count}: fewer than clients may rely on");
                let expected = format!("at least {RECIPIENTS_MIN} (RFC 5321 4.5.3.1.8)");
                self.warning("W009", setting.value_span, message, expected);
            }
        }
        if let Some(setting) = self.global("spool_sync_interval")
            && !matches!(self.config.global().spool_sync, SpoolSync::Interval(_))
        {
            let message = "Spool_Sync_Interval has no effect without Spool_Sync = interval";
            self.warning(
                "W008",
                setting.span,
                message,
                "Spool_Sync = interval, or no such line",
            );
        }
        let tree = self.config.tree();
        for group in self
            .config
            .groups()
            .iter()
            .filter(|it| it.members.is_empty())
        {
            if let Some(scope) = tree.exact(GLOBAL, ScopeKind::BindingGroup, &group.name) {
                let message = format!("binding_group \"{}\" has no bindings", group.name);
                let span = tree.scope(scope).span;
                self.warning(
                    "W011",
                    span,
                    message,
                    "binding stanzas in it, or no such stanza",
                );
            }
        }
    }
}
