//! The checked configuration: bindings, groups and listeners by index, settings by question.

use core::net::IpAddr;
use core::net::SocketAddr;
use std::collections::BTreeSet;

use crate::base::map::Map;

use super::diagnostic::Diagnostic;
use super::diagnostic::Place;
use super::diagnostic::Severity;
use super::fallback;
use super::fallback::BindingScopes;
use super::options;
use super::options::OPTIONS;
use super::options::OptionId;
use super::resolve;
use super::rules::RuleBook;
use super::settings::Binding;
use super::settings::BindingGroup;
use super::settings::BindingIndex;
use super::settings::BindingSettings;
use super::settings::DeliverySettings;
use super::settings::Environment;
use super::settings::GlobalSettings;
use super::settings::GroupIndex;
use super::settings::HostLimit;
use super::settings::HttpSettings;
use super::settings::Listen;
use super::settings::ListenIndex;
use super::settings::Listener;
use super::settings::ListenerKind;
use super::settings::ListenerSettings;
use super::settings::PriorityClass;
use super::settings::Shards;
use super::settings::SharedLimit;
use super::settings::SharedRate;
use super::source::Sources;
use super::source::Span;
use super::spec::Preset;
use super::spec::ScopeKind;
use super::tree::GLOBAL;
use super::tree::Matcher;
use super::tree::ScopeId;
use super::tree::Setting;
use super::tree::Tree;
use super::value::Value;
use super::value::parse_preset;

/// Name of the binding that exists without being declared.
pub const DEFAULT_BINDING: &str = "default";

/// One generation of the configuration. Immutable; may be shared by all threads.
#[derive(Debug)]
pub struct Config {
    sources: Sources,
    tree: Tree,
    environment: Environment,
    ids: Map<&'static str, OptionId>,
    presets: Vec<Option<Value>>,
    bindings: Vec<Binding>,
    binding_names: Map<String, BindingIndex>,
    binding_scopes: Vec<BindingScopes>,
    groups: Vec<BindingGroup>,
    listeners: Vec<Listener>,
    smtp_listens: Vec<ScopeId>,
    /// The scope of each address that takes mail, by its index: those above, unless they changed
    /// after the start.
    served_listens: Vec<ScopeId>,
    http_listens: Vec<ScopeId>,
    has_hosts: bool,
    rules: RuleBook,
    digest: u64,
    global: Option<GlobalSettings>,
    binding_settings: Vec<BindingSettings>,
    classes: Vec<PriorityClass>,
}

impl Config {
    /// Makes a configuration of a tree. What a check would refuse is read leniently here; the
    /// checks come next and see all of it.
    pub(super) fn assemble(sources: Sources, tree: Tree, environment: Environment) -> Self {
        let presets = OPTIONS.iter().map(|row| match row.preset {
            Preset::Text(text) => parse_preset(&row.kind, text).ok(),
            Preset::Unset | Preset::Computed(_) => None,
        });
        let has_hosts = tree.all().any(|(_, scope)| scope.kind == ScopeKind::Host);
        let ids = OPTIONS
            .iter()
            .enumerate()
            .map(|(id, row)| (row.name, id as OptionId));
        let rules = RuleBook::of(&sources, &tree);
        let mut config = Config {
            sources,
            environment,
            ids: ids.collect(),
            presets: presets.collect(),
            bindings: Vec::new(),
            binding_names: Map::default(),
            binding_scopes: Vec::new(),
            groups: Vec::new(),
            listeners: Vec::new(),
            smtp_listens: Vec::new(),
            served_listens: Vec::new(),
            http_listens: Vec::new(),
            has_hosts,
            rules,
            digest: 0,
            global: None,
            binding_settings: Vec::new(),
            classes: Vec::new(),
            tree,
        };
        config.digest = fnv1a(config.normalised().as_bytes());
        config.index_senders();
        config.index_listeners();
        config.served_listens = config.smtp_listens.clone();
        config.global = Some(resolve::global(&config));
        config.classes = resolve::classes(&config);
        config.binding_settings = config
            .bindings
            .iter()
            .map(|it| resolve::binding(&config, it))
            .collect();
        config
    }

    fn index_senders(&mut self) {
        self.add_binding(DEFAULT_BINDING, None);
        let scopes: Vec<ScopeId> = self.tree.scope(GLOBAL).children.clone();
        for id in scopes {
            let scope = self.tree.scope(id);
            let Some(name) = scope.name.clone() else {
                continue;
            };
            match scope.kind {
                ScopeKind::Binding => {
                    let binding = self.add_binding(&name, None);
                    self.binding_scopes[binding.0 as usize].free = Some(id);
                }
                ScopeKind::BindingGroup => self.index_group(id, name),
                _ => {}
            }
        }
    }

    fn index_group(&mut self, group_scope: ScopeId, name: String) {
        let index = GroupIndex(self.groups.len() as u32);
        self.groups.push(BindingGroup {
            name,
            index,
            members: Vec::new(),
        });
        let children = self.tree.scope(group_scope).children.clone();
        for id in children {
            let scope = self.tree.scope(id);
            let Some(name) = scope.name.clone() else {
                continue;
            };
            if scope.kind == ScopeKind::Binding {
                let binding = self.add_binding(&name, Some(index));
                let scopes = &mut self.binding_scopes[binding.0 as usize];
                scopes.grouped = Some(id);
                scopes.group = Some(group_scope);
                self.groups[index.0 as usize].members.push(binding);
            }
        }
    }

    fn add_binding(&mut self, name: &str, group: Option<GroupIndex>) -> BindingIndex {
        let next = BindingIndex(self.bindings.len() as u32);
        let index = *self.binding_names.entry(name.to_string()).or_insert(next);
        if index == next {
            self.bindings.push(Binding {
                name: name.to_string(),
                index,
                group: None,
            });
            self.binding_scopes.push(BindingScopes::default());
        }
        let binding = &mut self.bindings[index.0 as usize];
        binding.group = binding.group.or(group);
        index
    }

    fn index_listeners(&mut self) {
        for id in &self.tree.scope(GLOBAL).children {
            let (kind, listen_scopes) = match self.tree.scope(*id).kind {
                ScopeKind::SmtpListener => (ListenerKind::Smtp, &mut self.smtp_listens),
                ScopeKind::HttpListener => (ListenerKind::Http, &mut self.http_listens),
                _ => continue,
            };
            let mut listens = Vec::new();
            for child in &self.tree.scope(*id).children {
                let scope = self.tree.scope(*child);
                if let Matcher::Address(address) = scope.matcher {
                    let index = ListenIndex(listen_scopes.len() as u32);
                    listen_scopes.push(*child);
                    let place = self.sources.place(scope.span);
                    let place = format!("{}:{}", place.file, place.line);
                    listens.push(Listen {
                        address,
                        index,
                        place,
                    });
                }
            }
            self.listeners.push(Listener { kind, listens });
        }
    }

    /// Settings of the process.
    pub fn global(&self) -> &GlobalSettings {
        self.global
            .as_ref()
            .expect("assemble sets it before anybody can ask")
    }

    /// Shards that run: `auto` resolved to the cores of the machine.
    pub fn shard_count(&self) -> u32 {
        match self.global().shards {
            Shards::Auto => u32::try_from(self.environment.cores)
                .unwrap_or(u32::MAX)
                .max(1),
            Shards::Count(count) => count,
        }
    }

    /// The priority classes in their order, the built-in ones among them.
    pub fn classes(&self) -> &[PriorityClass] {
        &self.classes
    }

    /// All bindings by index; the first is the implicit `default`.
    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// All binding groups by index.
    pub fn groups(&self) -> &[BindingGroup] {
        &self.groups
    }

    /// The binding of this name; names of bindings are case-sensitive.
    pub fn binding_by_name(&self, name: &str) -> Option<BindingIndex> {
        self.binding_names.get(name).copied()
    }

    /// The group of this name; names of groups are case-sensitive.
    /// True if some scope holds mail for which policy names no binding
    /// (`default_binding = suspended`). Mail held so goes on when none does any more.
    pub fn holds_default_mail(&self) -> bool {
        let id = self.id("default_binding");
        self.tree.settings_of(id).any(|setting| {
            let text = setting.value.to_string();
            text.trim_matches('"').eq_ignore_ascii_case("suspended")
        })
    }

    pub fn group_by_name(&self, name: &str) -> Option<GroupIndex> {
        self.groups
            .iter()
            .find(|it| it.name == name)
            .map(|it| it.index)
    }

    /// Settings of one binding.
    ///
    /// # Panics
    /// If the index is of another generation and out of range: names cross generations, not
    /// indices.
    pub fn binding_settings(&self, binding: BindingIndex) -> &BindingSettings {
        &self.binding_settings[binding.0 as usize]
    }

    /// Settings of one (binding, domain) pair, fallback resolved. Costs microseconds and grows
    /// with the number of patterns: keep the result while the generation lives.
    ///
    /// # Panics
    /// As [`Config::binding_settings`].
    pub fn delivery(&self, binding: BindingIndex, domain: &str) -> DeliverySettings {
        let scopes = &self.binding_scopes[binding.0 as usize];
        resolve::delivery(self, scopes.delivery_chain(&self.tree, Some(domain)))
    }

    /// True if there is any `host` stanza.
    pub fn has_hosts(&self) -> bool {
        self.has_hosts
    }

    /// The limit that a `host` stanza sets for a receiving host; none: no limit. It never falls
    /// back to `max_outbound_connections` of another scope.
    ///
    /// # Panics
    /// As [`Config::binding_settings`].
    pub fn host_connection_limit(
        &self,
        binding: BindingIndex,
        host: &str,
        ip: IpAddr,
    ) -> Option<HostLimit> {
        if !self.has_hosts {
            return None;
        }
        let scopes = &self.binding_scopes[binding.0 as usize];
        let chain = scopes.host_chain(&self.tree, host, Some(ip));
        let (scope, setting) = self.first_setting(&chain, self.id("max_outbound_connections"))?;
        match setting.value {
            Value::Int(limit @ 1..) => {
                let limit = u32::try_from(limit).unwrap_or(u32::MAX);
                Some(HostLimit {
                    limit,
                    stanza: self.tree.path(scope),
                })
            }
            _ => None,
        }
    }

    /// The limit that a `host` stanza sets for all hosts that it matches, together.
    ///
    /// # Panics
    /// As [`Config::binding_settings`].
    pub fn host_scope_limit(
        &self,
        binding: BindingIndex,
        host: &str,
        ip: IpAddr,
    ) -> Option<SharedLimit> {
        if !self.has_hosts {
            return None;
        }
        let scopes = &self.binding_scopes[binding.0 as usize];
        let chain = scopes.host_chain(&self.tree, host, Some(ip));
        self.shared_limit(&chain, "scope_max_outbound_connections")
    }

    /// The throttles that `host` stanzas set for a receiving host: of messages and of connections.
    /// They never fall back to those of other scopes, and count besides them.
    ///
    /// # Panics
    /// As [`Config::binding_settings`].
    pub fn host_throttles(
        &self,
        binding: BindingIndex,
        host: &str,
        ip: IpAddr,
    ) -> [Option<SharedRate>; 2] {
        if !self.has_hosts {
            return [None, None];
        }
        let scopes = &self.binding_scopes[binding.0 as usize];
        let chain = scopes.host_chain(&self.tree, host, Some(ip));
        let options = [
            "outbound_throttle_messages",
            "outbound_throttle_connections",
        ];
        options.map(|option| self.shared_rate(&chain, option))
    }

    /// What the first scope of a chain that sets a rate says, and which it is.
    pub(super) fn shared_rate(&self, chain: &[ScopeId], option: &str) -> Option<SharedRate> {
        let (scope, setting) = self.first_setting(chain, self.id(option))?;
        let Value::Rate(Some(rate)) = setting.value else {
            return None;
        };
        let of = format!("{option} of {}", self.tree.path(scope)).into();
        Some(SharedRate { rate, of })
    }

    /// What the first scope of a chain that sets a limit of connections says, and which it is.
    pub(super) fn shared_limit(&self, chain: &[ScopeId], option: &str) -> Option<SharedLimit> {
        let (scope, setting) = self.first_setting(chain, self.id(option))?;
        let Value::Int(max @ 1..) = setting.value else {
            return None;
        };
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let of = format!("{option} of {}", self.tree.path(scope)).into();
        Some(SharedLimit { max, of })
    }

    /// All listeners in file order.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Settings of a connection from `peer` to an SMTP listen address.
    ///
    /// # Panics
    /// As [`Config::binding_settings`].
    pub fn listener_settings(&self, listener: ListenIndex, peer: IpAddr) -> ListenerSettings {
        let listen = self.served_listens[listener.0 as usize];
        resolve::listener(
            self,
            fallback::listener_chain(&self.tree, listen, Some(peer)),
        )
    }

    /// Settings of connections to an HTTP listen address.
    ///
    /// # Panics
    /// As [`Config::binding_settings`].
    pub fn http_settings(&self, listener: ListenIndex) -> HttpSettings {
        let listen = self.http_listens[listener.0 as usize];
        resolve::http(self, fallback::listener_chain(&self.tree, listen, None))
    }

    /// How many `domain` stanzas there are.
    pub fn domain_stanzas(&self) -> usize {
        self.tree
            .all()
            .filter(|(_, it)| it.kind == ScopeKind::Domain)
            .count()
    }

    /// How many files it was read from.
    pub fn files(&self) -> usize {
        self.sources.count()
    }

    /// The configuration in canonical form: comments gone, includes merged, names as in the table.
    /// Read back, it means the same.
    pub fn normalised(&self) -> String {
        let mut text = String::new();
        self.tree.write(GLOBAL, 0, &mut text);
        text
    }

    /// A number that is equal when everything that is set is equal, whatever the files look like.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The short form of the digest that people see: `7f3a`.
    pub fn short_digest(&self) -> String {
        let folded = self.digest ^ (self.digest >> 32);
        format!("{:04x}", (folded ^ (folded >> 16)) & 0xffff)
    }

    /// Has the addresses that take mail stay those of the start, each with the settings that it
    /// has here; one that has another address here has the settings of that one. An address for
    /// which nothing here can stand refuses the whole.
    pub fn keep_listens_of(&mut self, boot: &Config) -> Result<(), Vec<Diagnostic>> {
        let smtp = |config: &Config| {
            let listeners = config.listeners.iter();
            let smtp = listeners.filter(|it| it.kind == ListenerKind::Smtp);
            smtp.flat_map(|it| it.listens.clone()).collect::<Vec<_>>()
        };
        let (old, new) = (smtp(boot), smtp(self));
        let is_old = |it: &&Listen| old.iter().any(|old| old.address == it.address);
        let mut others = new.iter().filter(|it| !is_old(it));
        let mut served = Vec::with_capacity(old.len());
        for listen in &old {
            let same = new.iter().find(|it| it.address == listen.address);
            let Some(here) = same.or_else(|| others.next()) else {
                let message = match new.is_empty() {
                    true => "no ESMTP_Listener with a Listen stanza is in it".to_string(),
                    false => format!("no Listen stanza is in it for {}", listen.address),
                };
                let finding = Diagnostic::whole(Severity::Error, "E112", message);
                return Err(vec![finding.expected(format!(
                    "one for {}, which takes mail until a restart ({})",
                    listen.address, listen.place
                ))]);
            };
            served.push(self.smtp_listens[here.index.0 as usize]);
        }
        self.served_listens = served;
        Ok(())
    }

    /// Options whose change from `self` to `other` takes effect at the next start only, by name;
    /// `Listen` stands for the set of listen addresses, and says which.
    pub fn changed_static_options(&self, other: &Config) -> Vec<String> {
        let effective = |config: &Config, id: OptionId| {
            let set = config
                .first_setting(&[GLOBAL], id)
                .map(|(_, it)| it.value.to_string());
            set.or_else(|| config.default_text(id))
        };
        let mut changed: Vec<String> = Vec::new();
        for (id, row) in OPTIONS.iter().enumerate().filter(|(_, row)| row.restart) {
            if effective(self, id as OptionId) != effective(other, id as OptionId) {
                changed.push(row.name.to_string());
            }
        }
        let addresses = |config: &Config| -> BTreeSet<(bool, SocketAddr)> {
            let listens = config.listeners.iter().flat_map(|listener| {
                let smtp = listener.kind == ListenerKind::Smtp;
                listener.listens.iter().map(move |it| (smtp, it.address))
            });
            listens.collect()
        };
        let (old, new) = (addresses(self), addresses(other));
        if old != new {
            let list = |of: Vec<&(bool, SocketAddr)>| {
                let texts: Vec<String> = of.iter().map(|it| it.1.to_string()).collect();
                texts.join(" ")
            };
            let gone = list(old.difference(&new).collect());
            let added = list(new.difference(&old).collect());
            changed.push(match (gone.as_str(), added.as_str()) {
                (gone, "") => format!("Listen ({gone} is not in it any more)"),
                ("", added) => format!("Listen ({added})"),
                (gone, added) => format!("Listen ({added} instead of {gone})"),
            });
        }
        changed
    }

    // For the other parts of this module.

    pub(super) fn rule_book(&self) -> &RuleBook {
        &self.rules
    }

    pub(super) fn sources(&self) -> &Sources {
        &self.sources
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    pub(super) fn smtp_listens(&self) -> &[ScopeId] {
        &self.smtp_listens
    }

    pub(super) fn http_listens(&self) -> &[ScopeId] {
        &self.http_listens
    }

    pub(super) fn binding_scopes(&self, binding: BindingIndex) -> BindingScopes {
        self.binding_scopes[binding.0 as usize]
    }

    pub(super) fn place(&self, span: Span) -> Place {
        self.sources.place(span)
    }

    /// The id of an option that the code names.
    pub(super) fn id(&self, name: &str) -> OptionId {
        *self
            .ids
            .get(name)
            .expect("an option that the code names stands in the table")
    }

    /// The first scope of a chain that sets the option.
    pub(super) fn first_setting(
        &self,
        chain: &[ScopeId],
        id: OptionId,
    ) -> Option<(ScopeId, &Setting)> {
        chain
            .iter()
            .find_map(|scope| Some((*scope, self.tree.setting(*scope, id)?)))
    }

    /// The preset of the table, parsed.
    pub(super) fn preset(&self, id: OptionId) -> Option<&Value> {
        self.presets[id as usize].as_ref()
    }

    /// What an option is when nothing sets it, as text; computed presets resolved.
    pub(super) fn default_text(&self, id: OptionId) -> Option<String> {
        match options::spec(id).preset {
            Preset::Unset => None,
            Preset::Text(_) => self.preset(id).map(ToString::to_string),
            Preset::Computed(_) => Some(resolve::computed_default(self, id)),
        }
    }
}

/// FNV-1a, 64 bit: stable over versions, and nobody attacks his own configuration.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

const _: () = {
    const fn shared_by_threads<T: Send + Sync>() {}
    shared_by_threads::<Config>()
};
