//! A random tree of scopes: what each of them sets, and the configuration that says so.

use core::fmt::Write;
use core::net::IpAddr;
use core::net::Ipv4Addr;

use crate::base::prng::Prng;
use crate::sim::practice::client::sender_address;

/// So many starts in any window of so many seconds. With a count of nothing: no limit, which is
/// something else than saying nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    pub count: u64,
    pub window_s: u64,
}

impl Rate {
    fn text(self) -> String {
        match self.window_s {
            1 => self.count.to_string(),
            window_s => format!("{}/{window_s}", self.count),
        }
    }
}

/// What a stanza sets.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sets {
    pub messages: Option<Rate>,
    pub connections: Option<Rate>,
    /// `max_outbound_connections`.
    pub each: Option<u64>,
    /// `scope_max_outbound_connections`.
    pub whole: Option<u64>,
    /// `server_max_outbound_connections`, of bindings and groups only.
    pub server: Option<u64>,
}

/// The `domain` or `host` stanza of one name, or of a pattern for some of them.
#[derive(Clone, Debug)]
pub struct Named {
    pub is_pattern: bool,
    pub names: Vec<String>,
    pub sets: Sets,
}

impl Named {
    pub fn instance(&self) -> String {
        match self.is_pattern {
            false => self.names[0].clone(),
            true => {
                let all: Vec<String> = self.names.iter().map(|it| it.replace('.', "[.]")).collect();
                format!("/^(?:{})$/", all.join("|"))
            }
        }
    }

    pub fn is_of(&self, name: &str) -> bool {
        self.names.iter().any(|it| it == name)
    }
}

#[derive(Clone, Default, Debug)]
pub struct Scope {
    pub sets: Sets,
    pub domains: Vec<Named>,
    pub hosts: Vec<Named>,
}

#[derive(Clone, Debug)]
pub struct Group {
    pub name: String,
    pub scope: Scope,
}

#[derive(Clone, Debug)]
pub struct Binding {
    pub name: String,
    pub address: IpAddr,
    /// Position of its group.
    pub group: Option<usize>,
    /// Where it stands: in its group, or by itself.
    pub scope: Scope,
    /// Domains and hosts that a binding in a group has outside of it too.
    pub outside: Scope,
}

#[derive(Clone, Debug)]
pub struct Provider {
    pub hosts: Vec<String>,
    /// Positions of its domains.
    pub domains: Vec<usize>,
}

#[derive(Clone, Debug)]
pub struct Tree {
    pub global: Scope,
    pub groups: Vec<Group>,
    pub bindings: Vec<Binding>,
    pub providers: Vec<Provider>,
    pub domains: Vec<String>,
    pub deliveries_per_connection: u64,
    pub striping: &'static str,
    pub aggressiveness: &'static str,
}

/// How often which option is set, in parts of twelve of the stanzas.
#[derive(Clone, Copy)]
struct Odds {
    messages: u64,
    connections: u64,
    limits: u64,
    hosts: bool,
}

/// The port of a domain's receivers tells whose connection it is. One domain has no stanza for it.
pub fn port(domain: usize) -> u16 {
    match domain {
        0 => 25,
        _ => 2_000 + domain as u16,
    }
}

pub fn domain_of(port: u16) -> usize {
    usize::from(port.saturating_sub(2_000))
}

impl Tree {
    pub fn draw(prng: &mut Prng) -> Tree {
        let (providers, domains) = draw_receivers(prng);
        let odds = Odds {
            messages: *prng.pick(&[0, 4, 4, 7]),
            connections: *prng.pick(&[0, 0, 0, 4]),
            limits: *prng.pick(&[0, 0, 3]),
            hosts: prng.chance(1, 3),
        };
        let hosts: Vec<String> = providers.iter().flat_map(|it| it.hosts.clone()).collect();
        let names = (&domains[..], &hosts[..]);
        let mut groups = Vec::new();
        for number in 0..prng.below(3) {
            groups.push(Group {
                name: format!("g{number}"),
                scope: draw_scope(prng, odds, names, true),
            });
        }
        let mut bindings = Vec::new();
        for number in 0..prng.between(1, 4) {
            let group = prng.below(groups.len() as u64 + 1) as usize;
            let group = (group < groups.len()).then_some(group);
            let mut outside = Scope::default();
            if group.is_some() && prng.chance(1, 3) {
                outside = draw_scope(prng, odds, names, true);
                outside.sets = Sets::default();
            }
            bindings.push(Binding {
                name: format!("b{number}"),
                address: Ipv4Addr::new(127, 0, 2, number as u8 + 1).into(),
                group,
                scope: draw_scope(prng, odds, names, true),
                outside,
            });
        }
        Tree {
            global: draw_scope(prng, odds, names, false),
            groups,
            bindings,
            providers,
            domains,
            deliveries_per_connection: match odds.connections {
                0 => *prng.pick(&[0, 0, 20]),
                _ => *prng.pick(&[1, 1, 3]),
            },
            striping: prng.pick::<&str>(&["auto", "always", "never"]),
            aggressiveness: prng.pick::<&str>(&["normal", "high"]),
        }
    }

    /// Every scope is changed in the same way.
    pub fn for_each_scope(&mut self, mut change: impl FnMut(&mut Scope)) {
        change(&mut self.global);
        self.groups.iter_mut().for_each(|it| change(&mut it.scope));
        for binding in &mut self.bindings {
            change(&mut binding.scope);
            change(&mut binding.outside);
        }
    }

    /// What stanzas set is changed in the same way everywhere.
    pub fn change(&mut self, change: impl Fn(&mut Sets)) {
        self.for_each_scope(|scope| {
            change(&mut scope.sets);
            let named = scope.domains.iter_mut().chain(&mut scope.hosts);
            named.for_each(|it| change(&mut it.sets));
        });
    }

    /// The configuration that says all this.
    pub fn config(&self, shards: usize) -> String {
        let mut text = format!(
            "Spoolbase = \"/shaping\"\nProhibited_Hosts = \"none\"\nShards = {shards}\n\
             Server_Reserve_Outbound_Connections = 0\n\
             Migrate_Connections_Between_Sibling_Domains = false\n\
             Max_Deliveries_Per_Connection = {}\nQueue_Striping = \"{}\"\n\
             Connection_Allocation_Aggressiveness = \"{}\"\n\
             ESMTP_Listener {{\n Listen \"127.0.0.1:2525\" {{\n  \
             Relay_Hosts = ( \"127.0.0.0/8\" )\n",
            self.deliveries_per_connection, self.striping, self.aggressiveness
        );
        for (sender, binding) in self.bindings.iter().enumerate() {
            let (peer, name) = (sender_address(sender), &binding.name);
            let _ = writeln!(
                text,
                "  Peer \"{peer}/32\" {{ Default_Binding = \"{name}\" }}"
            );
        }
        text.push_str(" }\n}\n");
        write_scope(&mut text, &self.global);
        for (domain, name) in self.domains.iter().enumerate().skip(1) {
            let port = port(domain);
            let _ = writeln!(text, "domain \"{name}\" {{ Remote_SMTP_Port = {port} }}");
        }
        for (index, group) in self.groups.iter().enumerate() {
            let _ = writeln!(text, "binding_group \"{}\" {{", group.name);
            write_scope(&mut text, &group.scope);
            let members = self.bindings.iter().filter(|it| it.group == Some(index));
            members.for_each(|it| write_binding(&mut text, it, &it.scope, true));
            text.push_str("}\n");
        }
        for binding in &self.bindings {
            match binding.group {
                None => write_binding(&mut text, binding, &binding.scope, true),
                Some(_) => write_binding(&mut text, binding, &binding.outside, false),
            }
        }
        text
    }
}

fn write_binding(text: &mut String, binding: &Binding, scope: &Scope, with_address: bool) {
    if !with_address && scope.domains.is_empty() && scope.hosts.is_empty() {
        return;
    }
    let _ = writeln!(text, "binding \"{}\" {{", binding.name);
    if with_address {
        let _ = writeln!(text, "Bind_Address = \"{}\"", binding.address);
    }
    write_scope(text, scope);
    text.push_str("}\n");
}

fn write_scope(text: &mut String, scope: &Scope) {
    write_sets(text, &scope.sets);
    for (kind, all) in [("domain", &scope.domains), ("host", &scope.hosts)] {
        for named in all {
            let _ = writeln!(text, "{kind} \"{}\" {{", named.instance());
            write_sets(text, &named.sets);
            text.push_str("}\n");
        }
    }
}

fn write_sets(text: &mut String, sets: &Sets) {
    let rates = [
        ("Outbound_Throttle_Messages", sets.messages),
        ("Outbound_Throttle_Connections", sets.connections),
    ];
    for (name, rate) in rates {
        if let Some(rate) = rate {
            let _ = writeln!(text, "{name} = \"{}\"", rate.text());
        }
    }
    let limits = [
        ("Max_Outbound_Connections", sets.each),
        ("Scope_Max_Outbound_Connections", sets.whole),
        ("Server_Max_Outbound_Connections", sets.server),
    ];
    for (name, limit) in limits {
        if let Some(limit) = limit {
            let _ = writeln!(text, "{name} = {limit}");
        }
    }
}

fn draw_receivers(prng: &mut Prng) -> (Vec<Provider>, Vec<String>) {
    let (mut providers, mut domains) = (Vec::new(), Vec::new());
    for number in 0..prng.between(1, 3) {
        let hosts = (0..prng.between(1, 2)).map(|it| format!("mx{it}.p{number}.example"));
        let first = domains.len();
        for _ in 0..prng.between(1, 3) {
            domains.push(format!("d{}.example", domains.len()));
        }
        providers.push(Provider {
            hosts: hosts.collect(),
            domains: (first..domains.len()).collect(),
        });
    }
    (providers, domains)
}

fn draw_scope(
    prng: &mut Prng,
    odds: Odds,
    (domains, hosts): (&[String], &[String]),
    may_limit_server: bool,
) -> Scope {
    let mut sets = draw_sets(prng, odds);
    if may_limit_server && prng.chance(odds.limits, 24) {
        sets.server = Some(prng.between(1, 5));
    }
    Scope {
        sets,
        domains: draw_named(prng, odds, domains, 1),
        hosts: match odds.hosts {
            true => draw_named(prng, odds, hosts, 2),
            false => Vec::new(),
        },
    }
}

/// Stanzas of single names, and patterns of some of them in any order.
fn draw_named(prng: &mut Prng, odds: Odds, names: &[String], rare: u64) -> Vec<Named> {
    let mut all: Vec<Named> = Vec::new();
    for _ in 0..prng.below(4) / rare {
        let is_pattern = prng.chance(1, 2);
        let mut of: Vec<String> = names.to_vec();
        match is_pattern {
            true => of.retain(|_| prng.chance(1, 2)),
            false => of = vec![prng.pick(names).clone()],
        }
        let named = Named {
            is_pattern,
            names: of,
            sets: draw_sets(prng, odds),
        };
        // A stanza that is there twice is one.
        let is_there = |it: &Named| it.instance() == named.instance();
        if !named.names.is_empty() && !all.iter().any(is_there) {
            all.push(named);
        }
    }
    all
}

fn draw_sets(prng: &mut Prng, odds: Odds) -> Sets {
    let rate = |prng: &mut Prng, counts: &[u64]| Rate {
        count: match prng.chance(1, 16) {
            true => 0,
            false => *prng.pick(counts),
        },
        window_s: *prng.pick(&[1, 1, 1, 2, 3, 10, 60]),
    };
    let mut sets = Sets::default();
    if prng.chance(odds.messages, 12) {
        sets.messages = Some(rate(prng, &[1, 2, 3, 5, 10, 20, 40]));
    }
    if prng.chance(odds.connections, 12) {
        sets.connections = Some(rate(prng, &[1, 2, 3, 5, 10]));
    }
    if prng.chance(odds.limits, 12) {
        sets.each = Some(prng.between(1, 6));
    }
    if prng.chance(odds.limits, 12) {
        sets.whole = Some(prng.between(1, 6));
    }
    sets
}
