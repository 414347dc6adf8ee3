//! The tree of scopes: what is set where, after includes and merging. Scopes live in one arena;
//! number 0 is global. Options of a scope are what its stanzas set explicitly, nothing else.

use std::collections::BTreeMap;

use core::net::SocketAddr;

use ipnet::IpNet;

use crate::base::map::Map;

use super::domains::Pattern;
use super::options;
use super::options::OptionId;
use super::source::Span;
use super::spec::ScopeKind;
use super::value::Value;
use super::value::quoted;

/// Position of a scope in the arena.
pub type ScopeId = u32;

/// The scope around everything.
pub const GLOBAL: ScopeId = 0;

/// An option as a scope sets it.
#[derive(Clone, Debug)]
pub struct Setting {
    pub value: Value,
    /// The option's name in the file.
    pub span: Span,
    /// The value in the file.
    pub value_span: Span,
}

/// How a stanza's name is compared.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// By the name itself.
    Exact,
    Pattern(Pattern),
    Address(SocketAddr),
    Network(IpNet),
}

/// One scope.
#[derive(Debug)]
pub struct Scope {
    pub kind: ScopeKind,
    /// Canonical: names of domains and hosts in lower case, addresses as Rust writes them.
    pub name: Option<String>,
    pub matcher: Matcher,
    pub parent: Option<ScopeId>,
    /// The first stanza of the scope, for messages.
    pub span: Span,
    pub settings: BTreeMap<OptionId, Setting>,
    /// True if a stanza in it was refused: what is missing may have been meant to be there.
    pub is_incomplete: bool,
    pub children: Vec<ScopeId>,
    /// Children by kind and name; anonymous listeners are not in it.
    exact: Map<(ScopeKind, String), ScopeId>,
    /// Children that are patterns, in declaration order.
    patterns: Vec<ScopeId>,
}

/// All scopes.
#[derive(Debug)]
pub struct Tree {
    scopes: Vec<Scope>,
}

impl Tree {
    /// Every setting of an option, in any scope.
    pub fn settings_of(&self, id: OptionId) -> impl Iterator<Item = &Setting> {
        self.scopes
            .iter()
            .filter_map(move |scope| scope.settings.get(&id))
    }

    /// A tree with an empty global scope.
    pub fn new() -> Self {
        let span = Span {
            file: 0,
            start: 0,
            end: 0,
        };
        let mut tree = Tree { scopes: Vec::new() };
        tree.push(ScopeKind::Global, None, Matcher::Exact, None, span);
        tree
    }

    fn push(
        &mut self,
        kind: ScopeKind,
        name: Option<String>,
        matcher: Matcher,
        parent: Option<ScopeId>,
        span: Span,
    ) -> ScopeId {
        self.scopes.push(Scope {
            kind,
            name,
            matcher,
            parent,
            span,
            settings: BTreeMap::new(),
            is_incomplete: false,
            children: Vec::new(),
            exact: Map::default(),
            patterns: Vec::new(),
        });
        self.scopes.len() as ScopeId - 1
    }

    /// The child of this kind and name; it is made when it does not exist. An anonymous stanza
    /// other than `static_routes` is a new scope each time, so that the options of one listener
    /// never reach another.
    pub fn child(
        &mut self,
        parent: ScopeId,
        kind: ScopeKind,
        name: Option<String>,
        matcher: Matcher,
        span: Span,
    ) -> ScopeId {
        let key = match (&name, kind) {
            (Some(name), _) => Some((kind, name.clone())),
            (None, ScopeKind::StaticRoutes) => Some((kind, String::new())),
            (None, _) => None,
        };
        if let Some(found) = key.as_ref().and_then(|it| self.scope(parent).exact.get(it)) {
            return *found;
        }
        let is_pattern = matches!(matcher, Matcher::Pattern(_));
        let id = self.push(kind, name, matcher, Some(parent), span);
        let container = &mut self.scopes[parent as usize];
        container.children.push(id);
        if let Some(key) = key {
            container.exact.insert(key, id);
        }
        if is_pattern {
            container.patterns.push(id);
        }
        id
    }

    /// Sets an option; the last assignment wins. Returns what was set before.
    pub fn set(&mut self, scope: ScopeId, option: OptionId, setting: Setting) -> Option<Setting> {
        self.scopes[scope as usize].settings.insert(option, setting)
    }

    /// Notes that a stanza in this scope was refused.
    pub fn mark_incomplete(&mut self, scope: ScopeId) {
        self.scopes[scope as usize].is_incomplete = true;
    }

    /// A scope by its id.
    pub fn scope(&self, id: ScopeId) -> &Scope {
        &self.scopes[id as usize]
    }

    /// All scopes with their ids, in the order of their first stanza.
    pub fn all(&self) -> impl Iterator<Item = (ScopeId, &Scope)> {
        self.scopes
            .iter()
            .enumerate()
            .map(|(id, scope)| (id as ScopeId, scope))
    }

    /// How many scopes exist.
    pub fn len(&self) -> usize {
        self.scopes.len()
    }

    /// What a scope sets for an option, without any fallback.
    pub fn setting(&self, scope: ScopeId, option: OptionId) -> Option<&Setting> {
        self.scope(scope).settings.get(&option)
    }

    /// The child of exactly this name.
    pub fn exact(&self, parent: ScopeId, kind: ScopeKind, name: &str) -> Option<ScopeId> {
        self.scope(parent)
            .exact
            .get(&(kind, name.to_string()))
            .copied()
    }

    /// Children of a container that concern any of `names`, which are forms of one thing (a host's
    /// name and its address): exact ones in the order of the names, then patterns in declaration
    /// order. Names are in the form of [`super::domains::normal`].
    pub fn matching(
        &self,
        parent: ScopeId,
        kind: ScopeKind,
        names: &[&str],
        found: &mut Vec<ScopeId>,
    ) {
        let container = self.scope(parent);
        if container.exact.is_empty() {
            return;
        }
        found.extend(names.iter().filter_map(|it| self.exact(parent, kind, it)));
        for id in &container.patterns {
            let child = self.scope(*id);
            if let Matcher::Pattern(pattern) = &child.matcher
                && child.kind == kind
                && names.iter().any(|it| pattern.matches(it))
            {
                found.push(*id);
            }
        }
    }

    /// The stanzas around a scope, outermost first: `binding_group "pool" :: binding "a"`.
    pub fn path(&self, id: ScopeId) -> String {
        let mut parts = Vec::new();
        let mut at = Some(id);
        while let Some(id) = at {
            let scope = self.scope(id);
            at = scope.parent;
            if at.is_none() && !parts.is_empty() {
                break;
            }
            parts.push(self.title(id));
        }
        parts.reverse();
        parts.join(" :: ")
    }

    /// The head of a stanza as it would be written.
    pub fn title(&self, id: ScopeId) -> String {
        let scope = self.scope(id);
        let word = match scope.kind {
            ScopeKind::SmtpListen | ScopeKind::HttpListen => "Listen",
            kind => kind.words(),
        };
        match &scope.name {
            Some(name) => format!("{word} {}", quoted(name)),
            None => word.to_string(),
        }
    }

    /// Writes a scope in canonical form: options in the order of the table, then stanzas in
    /// declaration order. Read back, it means the same.
    pub fn write(&self, id: ScopeId, depth: usize, text: &mut String) {
        let scope = self.scope(id);
        let indent = "  ".repeat(depth);
        for (option, setting) in &scope.settings {
            let name = options::spec(*option).name;
            text.push_str(&format!("{indent}{name} = {}\n", setting.value));
        }
        for child in &scope.children {
            text.push_str(&format!("{indent}{} {{\n", self.title(*child)));
            self.write(*child, depth + 1, text);
            text.push_str(&format!("{indent}}}\n"));
        }
    }
}
