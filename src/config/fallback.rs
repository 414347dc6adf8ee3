//! Fallback chains: the scopes that concern one question, the most specific first. An option is
//! what the first scope of the chain says that sets it explicitly, else its preset.

use core::net::IpAddr;

use super::domains;
use super::settings::BindingIndex;
use super::spec::ScopeKind;
use super::tree::GLOBAL;
use super::tree::Matcher;
use super::tree::ScopeId;
use super::tree::Tree;

/// The scopes of one binding. The same name may stand inside a group and outside of it; what is set
/// inside the group comes first.
#[derive(Clone, Copy, Debug, Default)]
pub struct BindingScopes {
    /// `binding` inside its group.
    pub grouped: Option<ScopeId>,
    /// `binding` in global.
    pub free: Option<ScopeId>,
    /// Its `binding_group`.
    pub group: Option<ScopeId>,
}

impl BindingScopes {
    /// Scopes that concern a domain for this binding; without a domain, for the binding itself.
    pub fn delivery_chain(&self, tree: &Tree, domain: Option<&str>) -> Vec<ScopeId> {
        let mut chain = Vec::with_capacity(8);
        let domain = domain.map(domains::normal);
        let matching = |container: Option<ScopeId>, chain: &mut Vec<ScopeId>| {
            if let (Some(container), Some(domain)) = (container, &domain) {
                tree.matching(container, ScopeKind::Domain, &[domain], chain);
            }
        };
        matching(self.grouped, &mut chain);
        matching(self.free, &mut chain);
        matching(self.group, &mut chain);
        chain.extend(self.grouped);
        chain.extend(self.free);
        chain.extend(self.group);
        matching(Some(GLOBAL), &mut chain);
        chain.push(GLOBAL);
        chain
    }

    /// Host stanzas that concern a receiving host. They fall back to nothing else.
    pub fn host_chain(&self, tree: &Tree, host: &str, address: Option<IpAddr>) -> Vec<ScopeId> {
        let mut chain = Vec::new();
        let host = domains::normal(host);
        let address = address.map(|it| it.to_canonical().to_string());
        let mut names = vec![host.as_str()];
        names.extend(address.as_deref().filter(|it| *it != host));
        let containers = [self.grouped, self.group, self.free, Some(GLOBAL)];
        for container in containers.into_iter().flatten() {
            tree.matching(container, ScopeKind::Host, &names, &mut chain);
        }
        chain
    }
}

/// Scopes that concern a connection to a listen address. The most specific network comes first, and
/// networks of the address before those of its listener. Without a peer no network matches.
pub fn listener_chain(tree: &Tree, listen: ScopeId, peer: Option<IpAddr>) -> Vec<ScopeId> {
    let listener = tree.scope(listen).parent;
    let mut chain = Vec::with_capacity(4);
    if let Some(peer) = peer {
        for container in [Some(listen), listener].into_iter().flatten() {
            chain.extend(peers(tree, container, peer.to_canonical()));
        }
    }
    chain.push(listen);
    chain.extend(listener);
    chain.push(GLOBAL);
    chain
}

fn peers(tree: &Tree, container: ScopeId, peer: IpAddr) -> Vec<ScopeId> {
    let mut found: Vec<(u8, ScopeId)> = Vec::new();
    for child in &tree.scope(container).children {
        if let Matcher::Network(network) = &tree.scope(*child).matcher
            && network.contains(&peer)
        {
            found.push((network.prefix_len(), *child));
        }
    }
    found.sort_by_key(|(prefix, id)| (u8::MAX - prefix, *id));
    found.into_iter().map(|(_, id)| id).collect()
}

/// The chain as the stanza itself sees it: the scope, then what a matching name would fall back to.
/// Checks use it to judge a stanza without knowing every name that it matches.
pub fn lexical_chain(
    tree: &Tree,
    scope: ScopeId,
    binding_of: impl Fn(ScopeId) -> Option<BindingIndex>,
    scopes_of: impl Fn(BindingIndex) -> BindingScopes,
) -> Vec<ScopeId> {
    let this = tree.scope(scope);
    let parent = this.parent.unwrap_or(GLOBAL);
    let name = this.name.as_deref().unwrap_or_default();
    let sender_of = |id: ScopeId| match tree.scope(id).kind {
        ScopeKind::Binding => binding_of(id).map(&scopes_of).unwrap_or_default(),
        ScopeKind::BindingGroup => BindingScopes {
            group: Some(id),
            ..Default::default()
        },
        _ => BindingScopes::default(),
    };
    let rest = match this.kind {
        ScopeKind::Domain => {
            let is_pattern = matches!(this.matcher, Matcher::Pattern(_));
            let domain = if is_pattern { None } else { Some(name) };
            sender_of(parent).delivery_chain(tree, domain)
        }
        ScopeKind::Binding | ScopeKind::BindingGroup => sender_of(scope).delivery_chain(tree, None),
        ScopeKind::SmtpPeer if tree.scope(parent).kind == ScopeKind::SmtpListen => {
            listener_chain(tree, parent, None)
        }
        ScopeKind::SmtpListen | ScopeKind::HttpListen => listener_chain(tree, scope, None),
        ScopeKind::SmtpPeer => vec![parent, GLOBAL],
        _ => vec![GLOBAL],
    };
    let mut chain = vec![scope];
    chain.extend(rest.into_iter().filter(|it| *it != scope));
    chain
}
