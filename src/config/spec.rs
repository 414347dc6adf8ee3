//! The columns of the option table: scopes, types with their bounds, presets. And the stanzas that
//! exist, with the scopes they may stand in.

use crate::types::flow::FLOW_NAME_BYTES_MAX;

use super::adaptive;

/// Where a statement may stand. A `domain` in a binding is the same kind of scope as one in global;
/// what tells them apart is the scope around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScopeKind {
    Global,
    BindingGroup,
    Binding,
    Domain,
    Host,
    StaticRoutes,
    PriorityClass,
    SmtpListener,
    SmtpListen,
    SmtpPeer,
    HttpListener,
    HttpListen,
    AdaptiveRule,
    AdaptiveSweepRule,
}

impl ScopeKind {
    /// The scope in words that follow "in".
    pub fn words(self) -> &'static str {
        match self {
            ScopeKind::Global => "global",
            ScopeKind::BindingGroup => "binding_group",
            ScopeKind::Binding => "binding",
            ScopeKind::Domain => "domain",
            ScopeKind::Host => "host",
            ScopeKind::StaticRoutes => "static_routes",
            ScopeKind::PriorityClass => "priority_class",
            ScopeKind::SmtpListener => "ESMTP_Listener",
            ScopeKind::SmtpListen => "Listen of an ESMTP_Listener",
            ScopeKind::SmtpPeer => "Peer",
            ScopeKind::HttpListener => "HTTP_Listener",
            ScopeKind::HttpListen => "Listen of an HTTP_Listener",
            ScopeKind::AdaptiveRule => "adaptive_rule",
            ScopeKind::AdaptiveSweepRule => "adaptive_sweep_rule",
        }
    }
}

/// What the text after a stanza's name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// Anonymous.
    None,
    Binding,
    Group,
    /// A priority class.
    Class,
    /// A domain, or `/pattern/`.
    Domain,
    /// A host name, an address, or `/pattern/`.
    Host,
    /// An address with a port.
    Address,
    /// An address or a network.
    Network,
    /// Any text of one line.
    Text,
}

/// A stanza that exists.
#[derive(Clone, Copy, Debug)]
pub struct StanzaSpec {
    /// As documentation writes it; compared without case.
    pub name: &'static str,
    pub kind: ScopeKind,
    pub parents: &'static [ScopeKind],
    pub naming: Naming,
}

/// All stanzas. `Listen` stands twice: what it may contain depends on its listener.
pub const STANZAS: &[StanzaSpec] = &[
    StanzaSpec {
        name: "binding_group",
        kind: ScopeKind::BindingGroup,
        parents: &[ScopeKind::Global],
        naming: Naming::Group,
    },
    StanzaSpec {
        name: "binding",
        kind: ScopeKind::Binding,
        parents: &[ScopeKind::Global, ScopeKind::BindingGroup],
        naming: Naming::Binding,
    },
    StanzaSpec {
        name: "domain",
        kind: ScopeKind::Domain,
        parents: &[
            ScopeKind::Global,
            ScopeKind::BindingGroup,
            ScopeKind::Binding,
        ],
        naming: Naming::Domain,
    },
    StanzaSpec {
        name: "host",
        kind: ScopeKind::Host,
        parents: &[
            ScopeKind::Global,
            ScopeKind::BindingGroup,
            ScopeKind::Binding,
        ],
        naming: Naming::Host,
    },
    StanzaSpec {
        name: "static_routes",
        kind: ScopeKind::StaticRoutes,
        parents: &[ScopeKind::Global],
        naming: Naming::None,
    },
    StanzaSpec {
        name: "priority_class",
        kind: ScopeKind::PriorityClass,
        parents: &[ScopeKind::Global],
        naming: Naming::Class,
    },
    StanzaSpec {
        name: "ESMTP_Listener",
        kind: ScopeKind::SmtpListener,
        parents: &[ScopeKind::Global],
        naming: Naming::None,
    },
    StanzaSpec {
        name: "HTTP_Listener",
        kind: ScopeKind::HttpListener,
        parents: &[ScopeKind::Global],
        naming: Naming::None,
    },
    StanzaSpec {
        name: "Listen",
        kind: ScopeKind::SmtpListen,
        parents: &[ScopeKind::SmtpListener],
        naming: Naming::Address,
    },
    StanzaSpec {
        name: "Listen",
        kind: ScopeKind::HttpListen,
        parents: &[ScopeKind::HttpListener],
        naming: Naming::Address,
    },
    StanzaSpec {
        name: "Peer",
        kind: ScopeKind::SmtpPeer,
        parents: &[ScopeKind::SmtpListener, ScopeKind::SmtpListen],
        naming: Naming::Network,
    },
    StanzaSpec {
        name: "adaptive_rule",
        kind: ScopeKind::AdaptiveRule,
        parents: DELIVERY_SCOPES,
        naming: Naming::Text,
    },
    StanzaSpec {
        name: "adaptive_sweep_rule",
        kind: ScopeKind::AdaptiveSweepRule,
        parents: DELIVERY_SCOPES,
        naming: Naming::Text,
    },
];

/// Scopes that say how mail for a (binding, domain) pair is sent.
const DELIVERY_SCOPES: &[ScopeKind] = &[
    ScopeKind::Global,
    ScopeKind::BindingGroup,
    ScopeKind::Binding,
    ScopeKind::Domain,
];

/// The type of an option, with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// true/false, on/off, enabled/disabled, yes/no, 1/0.
    Bool,
    /// A boolean or one of the words; `true` means the first word.
    BoolOrWord(&'static [&'static str]),
    /// One of the words, without regard to case.
    Word(&'static [&'static str]),
    Int {
        min: i64,
        max: i64,
    },
    /// A whole number or one of the words.
    IntOrWord {
        min: i64,
        max: i64,
        words: &'static [&'static str],
    },
    /// 1 up to this, or -1 for no limit.
    Limit {
        max: i64,
    },
    /// Seconds, or a number with a unit (`250ms`, `20m`, `1h30m`, `2d`).
    Duration {
        min_ms: u64,
        max_s: u64,
    },
    /// Bytes, or a number with a binary unit (`64K`, `50M`, `1G`).
    Size {
        min: u64,
        max: u64,
    },
    /// So many in a second, `N`, or in another time, `N/W`; 0 is no limit.
    Rate,
    /// Permission bits in octal.
    Octal {
        max: u32,
    },
    /// A path of the file system.
    Path,
    /// A host name for the protocol, or `__hostname__`.
    HostName,
    /// A domain or host to send to.
    Gateway,
    /// `normal`, `suspended`, `none` or the name of a binding.
    BindingName,
    /// The name of a binding group.
    GroupName,
    /// The name of a priority class, tenant or campaign.
    FlowName,
    /// The name of a header field, or nothing.
    FieldName,
    /// Addresses with ports; a missing port is this one.
    SocketAddresses {
        port: u16,
    },
    /// Addresses to send from, or `*`.
    SourceAddresses,
    /// Times of the week.
    Curfew,
    Networks,
    /// Networks, `auto`, `own`, `none`.
    ProhibitedHosts,
    Domains,
    Routes,
    /// `host:port`.
    Target,
    Adaptive(adaptive::Kind),
}

/// What an option is when no scope sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Nothing: the feature is not used.
    Unset,
    /// This text, read as if it stood in the file.
    Text(&'static str),
    /// Derived from other options or the machine: the text describes how.
    Computed(&'static str),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Lower case.
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    pub kind: Kind,
    pub preset: Preset,
    /// Where it may be set, the most specific first: the fallback order follows from it.
    pub scopes: &'static [ScopeKind],
    /// True if a changed value takes effect at the next start only.
    pub restart: bool,
    /// One or two sentences.
    pub doc: &'static str,
}

impl OptionSpec {
    /// A row without a preset that takes effect on reload.
    pub const fn new(name: &'static str, kind: Kind, scopes: &'static [ScopeKind]) -> Self {
        OptionSpec {
            name,
            aliases: &[],
            kind,
            preset: Preset::Unset,
            scopes,
            restart: false,
            doc: "",
        }
    }

    /// The built-in default.
    pub const fn default(mut self, text: &'static str) -> Self {
        self.preset = Preset::Text(text);
        self
    }

    /// A default that is derived.
    pub const fn computed(mut self, text: &'static str) -> Self {
        self.preset = Preset::Computed(text);
        self
    }

    /// Other names of the option.
    pub const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Takes effect at the next start only.
    pub const fn restart(mut self) -> Self {
        self.restart = true;
        self
    }

    /// The doc line.
    pub const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    /// True if the option may stand in a scope of this kind.
    pub fn allows(&self, scope: ScopeKind) -> bool {
        self.scopes.contains(&scope)
    }

    /// The order in which scopes are asked, as the reference prints it.
    pub fn fallback(&self) -> Vec<&'static str> {
        FALLBACK
            .iter()
            .filter(|(kind, _)| self.allows(*kind))
            .map(|(_, words)| *words)
            .collect()
    }
}

/// Every shape of scope in the order in which it is asked. An option uses the rows of the kinds
/// it may be set in. The two rows of a binding are the stanza inside a group and the one outside.
const FALLBACK: &[(ScopeKind, &str)] = &[
    (ScopeKind::Host, "binding_group::binding::host"),
    (ScopeKind::Host, "binding_group::host"),
    (ScopeKind::Host, "binding::host"),
    (
        ScopeKind::Host,
        "host (a host limit never falls back further)",
    ),
    (ScopeKind::Domain, "binding_group::binding::domain"),
    (ScopeKind::Domain, "binding::domain"),
    (ScopeKind::Domain, "binding_group::domain"),
    (ScopeKind::Binding, "binding"),
    (ScopeKind::BindingGroup, "binding_group"),
    (ScopeKind::Domain, "domain"),
    (ScopeKind::StaticRoutes, "static_routes"),
    (ScopeKind::PriorityClass, "priority_class"),
    (ScopeKind::SmtpPeer, "ESMTP_Listener::Listen::Peer"),
    (ScopeKind::SmtpPeer, "ESMTP_Listener::Peer"),
    (ScopeKind::SmtpListen, "ESMTP_Listener::Listen"),
    (ScopeKind::SmtpListener, "ESMTP_Listener"),
    (ScopeKind::HttpListen, "HTTP_Listener::Listen"),
    (ScopeKind::HttpListener, "HTTP_Listener"),
    (ScopeKind::AdaptiveRule, "adaptive_rule"),
    (ScopeKind::AdaptiveSweepRule, "adaptive_sweep_rule"),
    (ScopeKind::Global, "global"),
];

/// The largest N of a rate.
pub const RATE_COUNT_MAX: u32 = 1_000_000_000;

impl Kind {
    /// The type in a word.
    pub fn type_name(&self) -> &'static str {
        match self {
            Kind::Bool => "boolean",
            Kind::BoolOrWord(_) => "boolean or word",
            Kind::Word(_) => "word",
            Kind::Int { .. } | Kind::Limit { .. } => "integer",
            Kind::IntOrWord { .. } => "integer or word",
            Kind::Duration { .. } => "duration",
            Kind::Size { .. } => "size",
            Kind::Rate => "rate",
            Kind::Octal { .. } => "octal permissions",
            Kind::Path => "path",
            Kind::HostName => "host name",
            Kind::Gateway => "host name or address",
            Kind::BindingName => "binding name or word",
            Kind::GroupName => "binding group name",
            Kind::FlowName => "name",
            Kind::FieldName => "header field name",
            Kind::SocketAddresses { .. } => "list of addresses with ports",
            Kind::SourceAddresses => "address or list of addresses",
            Kind::Networks => "list of networks",
            Kind::ProhibitedHosts => "list of networks or words",
            Kind::Domains => "list of domains",
            Kind::Routes => "list of routes",
            Kind::Curfew => "list of times of the week",
            Kind::Target => "host with port",
            Kind::Adaptive(kind) => kind.type_name(),
        }
    }

    /// The unit of a number, if it has one.
    pub fn unit(&self) -> Option<&'static str> {
        match self {
            Kind::Duration { .. } => Some("seconds"),
            Kind::Size { .. } => Some("bytes"),
            _ => None,
        }
    }

    /// What is accepted: follows the word "expected" in errors and stands in the reference.
    pub fn expectation(&self) -> String {
        match self {
            Kind::Bool => "true or false".to_string(),
            Kind::BoolOrWord(words) => format!("true, false or {}", or_list(words)),
            Kind::Word(words) => or_list(words),
            Kind::Int { min, max } => format!("a whole number from {min} to {max}"),
            Kind::IntOrWord { min, max, words } => {
                format!("{} or a whole number from {min} to {max}", words.join(", "))
            }
            Kind::Limit { max } => format!("a whole number from 1 to {max}, or -1 for no limit"),
            Kind::Duration { min_ms, max_s } => format!(
                "a duration from {} to {} (seconds, or with a unit: 250ms, 20m, 1h30m, 2d)",
                duration_text(core::time::Duration::from_millis(*min_ms)),
                duration_text(core::time::Duration::from_secs(*max_s)),
            ),
            Kind::Size { min, max } => format!(
                "a size from {} to {} (bytes, or with a unit: 64K, 50M, 1G)",
                size_text(*min),
                size_text(*max),
            ),
            Kind::Rate => format!(
                "\"N\" a second or \"N/W\" in W seconds (\"10\", \"1000/3600\", \"60/1m\"), \
                 N up to {RATE_COUNT_MAX}, W from 1 s to 31536000 s; 0 is no limit"
            ),
            Kind::Octal { max } => {
                format!("permissions up to 0{max:o} that let the owner read and write, as 0640")
            }
            Kind::Path => "a path from / on".to_string(),
            Kind::HostName => "a host name or __hostname__".to_string(),
            Kind::Gateway => "the name of a domain or host, or an IP address".to_string(),
            Kind::BindingName => "normal, suspended, none or the name of a binding".to_string(),
            Kind::GroupName => "the name of a binding_group".to_string(),
            Kind::FlowName => {
                format!("1 to {FLOW_NAME_BYTES_MAX} bytes without control characters")
            }
            Kind::FieldName => {
                "the name of a header field, as X-Tenant, or \"\" for none".to_string()
            }
            Kind::SocketAddresses { port } => {
                format!("a list ( \"address:port\" … ); a missing port is {port}")
            }
            Kind::SourceAddresses => {
                "*, an IP address, or a list of at most one IPv4 and one IPv6 address".to_string()
            }
            Kind::Networks => "a list of addresses and networks ( \"10.0.0.0/8\" … )".to_string(),
            Kind::ProhibitedHosts => {
                "a list of auto, own, none and networks ( auto \"192.0.2.0/24\" … )".to_string()
            }
            Kind::Domains => {
                "a list of domains ( \"a.example\" \"*.b.example\" \"/pattern/\" )".to_string()
            }
            Kind::Routes => "a list of hosts, addresses, __mx__ or \
                \"smtp://host?pref=N&port=N&type=mx|a\""
                .to_string(),
            Kind::Curfew => {
                "a list of days and hours, in UTC or with an offset from it: ( \"22:00-06:00\" \
                 \"sat,sun\" \"mon-fri 18:00-08:00 +01:00\" )"
                    .to_string()
            }
            Kind::Target => "\"host:port\" or \"address:port\"".to_string(),
            Kind::Adaptive(kind) => kind.expectation().to_string(),
        }
    }
}

/// `a, b or c`.
pub fn or_list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => only.to_string(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

/// A duration as the configuration writes it: whole seconds, else milliseconds.
pub fn duration_text(duration: core::time::Duration) -> String {
    match duration.subsec_millis() {
        0 => duration.as_secs().to_string(),
        _ => format!("{}ms", duration.as_millis()),
    }
}

/// A size as the configuration writes it: with the largest unit that divides it.
pub fn size_text(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes > 0 && bytes.is_multiple_of(1_u64 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}
