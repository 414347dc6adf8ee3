//! Which limits a queue is under, as the specification says it and not as the engine finds it:
//! every option is looked for from the narrowest scope to the widest, and what is found is one
//! object for all who find it there.

use crate::sim::shaping::tree::Binding;
use crate::sim::shaping::tree::Named;
use crate::sim::shaping::tree::Rate;
use crate::sim::shaping::tree::Scope;
use crate::sim::shaping::tree::Sets;
use crate::sim::shaping::tree::Tree;

/// What a limit counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Starts of messages in a window.
    Messages(Rate),
    /// Starts of connections in a window.
    Connections(Rate),
    /// Connections at a time.
    Open(u64),
}

/// One limit, shared by all who fall to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    pub name: String,
    pub kind: Kind,
}

/// The limits that exist, each once.
#[derive(Default)]
pub struct Objects {
    pub all: Vec<Object>,
}

impl Objects {
    fn id(&mut self, name: String, kind: Kind) -> usize {
        let object = Object { name, kind };
        let known = self.all.iter().position(|it| *it == object);
        known.unwrap_or_else(|| {
            self.all.push(object);
            self.all.len() - 1
        })
    }

    fn rate(
        &mut self,
        found: Option<(String, Rate)>,
        what: &str,
        kind: fn(Rate) -> Kind,
    ) -> Option<usize> {
        let (stanza, rate) = found.filter(|(_, rate)| rate.count > 0)?;
        Some(self.id(format!("{what} of {stanza}"), kind(rate)))
    }

    fn open(&mut self, found: Option<(String, u64)>, what: &str) -> Option<usize> {
        let (stanza, most) = found?;
        Some(self.id(format!("{what} of {stanza}"), Kind::Open(most)))
    }
}

/// One binding's mail for one domain.
#[derive(Clone, Debug)]
pub struct Queue {
    pub binding: usize,
    pub domain: usize,
    pub messages: Option<usize>,
    pub connections: Option<usize>,
    /// Limits of connections, that of the pair first.
    pub open: Vec<usize>,
    /// For each host of the domain.
    pub hosts: Vec<Host>,
}

#[derive(Clone, Default, Debug)]
pub struct Host {
    pub messages: Option<usize>,
    pub connections: Option<usize>,
    pub open: Vec<usize>,
}

/// `max_outbound_connections` where nothing sets it.
const EACH_DEFAULT: u64 = 32;

impl Tree {
    pub fn queue(&self, objects: &mut Objects, binding: usize, domain: usize) -> Queue {
        let pair = format!("b{binding} to d{domain}");
        let each = self.of_domain(binding, domain, |it| it.each);
        let each = each.map_or(EACH_DEFAULT, |(_, most)| most);
        let mut open = vec![objects.id(pair, Kind::Open(each))];
        let whole = self.of_domain(binding, domain, |it| it.whole);
        open.extend(objects.open(whole, "scope_max"));
        let (here, group) = (&self.bindings[binding], self.group(binding));
        let server = here.scope.sets.server.map(|it| (self.path(binding), it));
        open.extend(objects.open(server, "server_max"));
        let server = group.and_then(|(path, scope)| Some((path, scope.sets.server?)));
        open.extend(objects.open(server, "server_max"));
        let messages = self.of_domain(binding, domain, |it| it.messages);
        let connections = self.of_domain(binding, domain, |it| it.connections);
        let provider = self.provider_of(domain);
        let hosts = self.providers[provider].hosts.iter();
        Queue {
            binding,
            domain,
            messages: objects.rate(messages, "messages", Kind::Messages),
            connections: objects.rate(connections, "connections", Kind::Connections),
            open,
            hosts: hosts.map(|it| self.host(objects, binding, it)).collect(),
        }
    }

    pub fn provider_of(&self, domain: usize) -> usize {
        let all = &self.providers;
        let of = all.iter().position(|it| it.domains.contains(&domain));
        of.unwrap_or_default()
    }

    fn host(&self, objects: &mut Objects, binding: usize, host: &str) -> Host {
        let messages = self.of_host(binding, host, |it| it.messages);
        let connections = self.of_host(binding, host, |it| it.connections);
        let whole = self.of_host(binding, host, |it| it.whole);
        // Of a pattern each host has the limit for itself.
        let each = self.of_host(binding, host, |it| it.each);
        let each = each.map(|(stanza, most)| (format!("{stanza}, {host}"), most));
        let mut open: Vec<usize> = objects.open(each, "max").into_iter().collect();
        open.extend(objects.open(whole, "scope_max"));
        Host {
            messages: objects.rate(messages, "host messages", Kind::Messages),
            connections: objects.rate(connections, "host connections", Kind::Connections),
            open,
        }
    }

    fn path(&self, binding: usize) -> String {
        let Binding { name, group, .. } = &self.bindings[binding];
        match group {
            Some(group) => format!("{} {name}", self.groups[*group].name),
            None => name.clone(),
        }
    }

    fn group(&self, binding: usize) -> Option<(String, &Scope)> {
        let group = &self.groups[self.bindings[binding].group?];
        Some((group.name.clone(), &group.scope))
    }

    /// `group::binding::domain`, `binding::domain`, `group::domain`, `binding`, `group`, `domain`,
    /// global.
    fn of_domain<T>(
        &self,
        binding: usize,
        domain: usize,
        option: impl Fn(&Sets) -> Option<T>,
    ) -> Option<(String, T)> {
        let domain = self.domains[domain].as_str();
        let (here, group) = (&self.bindings[binding], self.group(binding));
        let in_container = |path: &str, scope: &Scope| {
            let found = named(&scope.domains, domain, &option);
            found.map(|(name, value)| (format!("{path} domain {name}"), value))
        };
        let of_scope = |path: String, scope: &Scope| Some((path, option(&scope.sets)?));
        in_container(&self.path(binding), &here.scope)
            .or_else(|| in_container(&format!("outside {}", here.name), &here.outside))
            .or_else(|| group.as_ref().and_then(|(path, it)| in_container(path, it)))
            .or_else(|| of_scope(self.path(binding), &here.scope))
            .or_else(|| {
                group
                    .as_ref()
                    .and_then(|(path, it)| of_scope(path.clone(), it))
            })
            .or_else(|| in_container("global", &self.global))
            .or_else(|| of_scope("global".to_string(), &self.global))
    }

    /// `group::binding::host`, `group::host`, `binding::host`, `host`, and nothing wider.
    fn of_host<T>(
        &self,
        binding: usize,
        host: &str,
        option: impl Fn(&Sets) -> Option<T>,
    ) -> Option<(String, T)> {
        let (here, group) = (&self.bindings[binding], self.group(binding));
        let in_container = |path: &str, scope: &Scope| {
            let found = named(&scope.hosts, host, &option);
            found.map(|(name, value)| (format!("{path} host {name}"), value))
        };
        in_container(&self.path(binding), &here.scope)
            .or_else(|| group.as_ref().and_then(|(path, it)| in_container(path, it)))
            .or_else(|| in_container(&format!("outside {}", here.name), &here.outside))
            .or_else(|| in_container("global", &self.global))
    }
}

/// In one container: the stanza of the name itself, and if that does not set the option, the first
/// pattern that matches and does.
fn named<T>(all: &[Named], name: &str, option: impl Fn(&Sets) -> Option<T>) -> Option<(String, T)> {
    let of = |is_pattern: bool| {
        let mut those = all
            .iter()
            .filter(|it| it.is_pattern == is_pattern && it.is_of(name));
        those.find_map(|it| Some((it.instance(), option(&it.sets)?)))
    };
    of(false).or_else(|| of(true))
}
