//! Statements to scopes: names are looked up, values checked, includes read, stanzas merged. One
//! pass over all files, which reports everything it cannot use and goes on.

use crate::base::map::Map;
use crate::types::flow::FLOW_NAME_BYTES_MAX;

use super::IncludeRequest;
use super::diagnostic::near_miss;
use super::domains;
use super::domains::Pattern;
use super::findings::Findings;
use super::foreign;
use super::nets;
use super::options;
use super::options::OPTIONS;
use super::options::OptionId;
use super::parse::Item;
use super::parse::RawValue;
use super::parse::Word;
use super::parse::parse;
use super::rules;
use super::source::FILE_BYTES_MAX;
use super::source::FILES_MAX;
use super::source::SourceFile;
use super::source::Sources;
use super::source::Span;
use super::spec::Naming;
use super::spec::STANZAS;
use super::spec::ScopeKind;
use super::spec::StanzaSpec;
use super::spec::or_list;
use super::tree::GLOBAL;
use super::tree::Matcher;
use super::tree::ScopeId;
use super::tree::Setting;
use super::tree::Tree;
use super::value;

/// Files that include each other in a chain, the main file counted.
pub const INCLUDE_DEPTH_MAX: usize = 16;
/// Scopes of one configuration.
pub const SCOPES_MAX: usize = 500_000;
/// Regular expressions of one configuration. All of them may have to be asked for one name, and
/// each gives up after about a millisecond.
pub const PATTERNS_MAX: usize = 1_000;
/// Bytes of the name of a binding or group.
pub const NAME_BYTES_MAX: usize = 255;

/// The version named where something is not supported.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Reads the files that an include names, in the order in which they count. The error says why.
pub type ReadInclude<'a> = dyn FnMut(&IncludeRequest) -> Result<Vec<SourceFile>, String> + 'a;

/// What was built: the tree is of use only without errors.
pub struct Built {
    pub sources: Sources,
    pub tree: Tree,
    pub findings: Findings,
}

/// Builds the tree of a main file and all it includes.
pub fn build(main: SourceFile, include: &mut ReadInclude<'_>) -> Built {
    let built = Built {
        sources: Sources::default(),
        tree: Tree::new(),
        findings: Findings::default(),
    };
    let mut builder = Builder {
        built,
        include,
        stack: Vec::new(),
        groups_of: Map::default(),
        patterns: 0,
        is_full: false,
    };
    builder.file(main, None, GLOBAL);
    builder.built
}

struct Builder<'a, 'b> {
    built: Built,
    include: &'a mut ReadInclude<'b>,
    /// Names of the files being read, the main file first.
    stack: Vec<String>,
    /// Group and stanza of each binding that stands in a group.
    groups_of: Map<String, ScopeId>,
    /// Patterns among the names of stanzas.
    patterns: usize,
    /// True once the bound on scopes or patterns was reported.
    is_full: bool,
}

impl Builder<'_, '_> {
    fn error(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.built
            .findings
            .error(&self.built.sources, code, span, message, expected);
    }

    fn error_near(
        &mut self,
        code: &'static str,
        span: Span,
        message: String,
        expected: String,
        suggestion: Option<String>,
    ) {
        let sources = &self.built.sources;
        if let Some(finding) = self
            .built
            .findings
            .error(sources, code, span, message, expected)
        {
            finding.suggestion = suggestion;
        }
    }

    /// Reads one file into a scope; `from` is the include that names it.
    fn file(&mut self, source: SourceFile, from: Option<Span>, scope: ScopeId) {
        let name = source.name.clone();
        let bytes = source.text.len();
        if self.built.sources.count() == FILES_MAX || bytes > FILE_BYTES_MAX {
            let message = match bytes > FILE_BYTES_MAX {
                true => format!("{name} has {bytes} bytes, more than {FILE_BYTES_MAX}"),
                false => format!("more than {FILES_MAX} files are included"),
            };
            return match from {
                Some(span) => self.error("E007", span, message, "a smaller configuration"),
                None => self.main_too_large(name, message),
            };
        }
        let file = self.built.sources.add(source);
        let items = parse(&self.built.sources, file, &mut self.built.findings);
        self.stack.push(name);
        self.items(items, scope);
        self.stack.pop();
    }

    fn main_too_large(&mut self, name: String, message: String) {
        let file = self.built.sources.add(SourceFile {
            name,
            text: String::new(),
        });
        let span = Span {
            file,
            start: 0,
            end: 0,
        };
        self.error("E007", span, message, "a smaller configuration");
    }

    fn items(&mut self, items: Vec<Item>, scope: ScopeId) {
        for item in items {
            match item {
                Item::Option { name, value } => self.option(name, value, scope),
                Item::Stanza {
                    name,
                    instance,
                    items,
                } => {
                    self.stanza(name, instance, items, scope);
                }
                Item::Include { path, readonly } => self.include(path, readonly, scope),
            }
        }
    }

    fn include(&mut self, path: Word, readonly: bool, scope: ScopeId) {
        let from = self.stack.last().cloned().unwrap_or_default();
        if self.stack.len() == INCLUDE_DEPTH_MAX {
            let expected = format!("at most {INCLUDE_DEPTH_MAX} files that include each other");
            return self.error(
                "E007",
                path.span,
                "includes are nested too deeply",
                expected,
            );
        }
        let request = IncludeRequest {
            path: path.text.clone(),
            from,
            readonly,
        };
        let files = match (self.include)(&request) {
            Ok(files) => files,
            Err(why) => {
                let message = format!("cannot include \"{}\": {why}", path.text);
                let expected = "a file or directory beside this file or in the search path";
                return self.error("E008", path.span, message, expected);
            }
        };
        for file in files {
            if self.stack.contains(&file.name) {
                let chain = self.stack.join(" includes ");
                let message = format!("include loop: {chain} includes {}", file.name);
                let expected = "a file that is not being included already";
                self.error("E009", path.span, message, expected);
            } else {
                self.file(file, Some(path.span), scope);
            }
        }
    }

    // Options.

    fn option(&mut self, name: Word, raw: RawValue, scope: ScopeId) {
        let kind = self.built.tree.scope(scope).kind;
        let Some(id) = self.option_id(&name, kind) else {
            return;
        };
        let spec = options::spec(id);
        if !spec.allows(kind) {
            let scopes: Vec<&str> = spec.scopes.iter().map(|it| it.words()).collect();
            let message = format!("{} does not belong in {}", name.text, kind.words());
            return self.error(
                "E012",
                name.span,
                message,
                format!("it in {}", or_list(&scopes)),
            );
        }
        match value::parse_value(&spec.kind, &raw) {
            Err(it) => {
                if !rules::owed(kind).is_empty() {
                    // It is not missing, only wrong.
                    self.built.tree.mark_incomplete(scope);
                }
                let message = format!("{}: {}", name.text, it.message);
                self.error_near(it.code, it.span, message, it.expected, it.suggestion);
            }
            Ok(value) => {
                let setting = Setting {
                    value,
                    span: name.span,
                    value_span: raw.span(),
                };
                let before = self.built.tree.set(scope, id, setting);
                self.warn_if_repeated(&name, before);
            }
        }
    }

    /// Overriding from another file is what includes are for; twice in one file is an oversight.
    fn warn_if_repeated(&mut self, name: &Word, before: Option<Setting>) {
        let Some(before) = before.filter(|it| it.span.file == name.span.file) else {
            return;
        };
        let Built {
            sources, findings, ..
        } = &mut self.built;
        let line = sources.place(before.span).line;
        let message = format!(
            "{} is already set in line {line}; this value wins",
            name.text
        );
        findings.warning(
            sources,
            "W007",
            name.span,
            message,
            "one assignment per scope",
        );
    }

    fn option_id(&mut self, name: &Word, kind: ScopeKind) -> Option<OptionId> {
        if let Some(id) = options::find(&name.text) {
            return Some(id);
        }
        let shown = &name.text;
        let place = kind.words();
        if foreign::is_foreign_option(shown) || foreign::is_foreign_stanza(shown) {
            self.refuse_foreign("E014", "option", name);
        } else if let Some(stanza) = stanzas_named(shown).next() {
            let message = format!("{} is a stanza, not an option", stanza.name);
            self.error("E017", name.span, message, "`{` instead of `=`");
        } else if !is_name(shown) {
            let message = format!("\"{shown}\" is not the name of an option");
            let expected = "letters, digits and underscores";
            self.error("E011", name.span, message, expected);
        } else {
            let valid = OPTIONS.iter().filter(|it| it.allows(kind));
            let names = valid.flat_map(|it| core::iter::once(it.name).chain(it.aliases.to_vec()));
            let near = near_miss(shown, names).map(str::to_string);
            let message = format!("unknown option \"{shown}\" in {place}");
            let expected = format!("an option of {place} (pelton config options lists them)");
            self.error_near("E011", name.span, message, expected, near);
        }
        None
    }

    fn refuse_foreign(&mut self, code: &'static str, what: &str, name: &Word) {
        let shown = &name.text;
        let message =
            format!("{what} {shown} is known from Momentum, not supported by Pelton {VERSION}");
        let expected = foreign::advice(shown).unwrap_or("no such line: it would have no effect");
        self.error(code, name.span, message, expected);
    }

    // Stanzas.

    fn stanza(&mut self, name: Word, instance: Option<Word>, items: Vec<Item>, scope: ScopeId) {
        let Some(spec) = self.stanza_spec(&name, scope) else {
            return self.built.tree.mark_incomplete(scope);
        };
        let Some((canonical, matcher)) = self.instance(spec, &name, instance.as_ref()) else {
            return self.built.tree.mark_incomplete(scope);
        };
        if !self.has_room(&matcher, name.span) {
            return self.built.tree.mark_incomplete(scope);
        }
        let span = instance
            .as_ref()
            .map_or(name.span, |it| name.span.to(it.span));
        if spec.kind == ScopeKind::Binding
            && let Some(binding) = &canonical
        {
            self.check_group_of(binding, scope, span);
        }
        let child = self
            .built
            .tree
            .child(scope, spec.kind, canonical, matcher, span);
        self.items(items, child);
    }

    /// False, and reported once, when there are too many stanzas or patterns.
    fn has_room(&mut self, matcher: &Matcher, span: Span) -> bool {
        let is_pattern = matches!(matcher, Matcher::Pattern(_));
        self.patterns += usize::from(is_pattern);
        let (what, max) = if is_pattern && self.patterns > PATTERNS_MAX {
            ("regular expressions", PATTERNS_MAX)
        } else if self.built.tree.len() >= SCOPES_MAX {
            ("stanzas", SCOPES_MAX)
        } else {
            return true;
        };
        if !self.is_full {
            self.error(
                "E007",
                span,
                format!("too many {what}"),
                format!("at most {max} {what}"),
            );
        }
        self.is_full = true;
        false
    }

    fn stanza_spec(&mut self, name: &Word, scope: ScopeId) -> Option<&'static StanzaSpec> {
        let kind = self.built.tree.scope(scope).kind;
        let place = kind.words();
        let shown = &name.text;
        let fits = stanzas_named(shown).find(|it| it.parents.contains(&kind));
        if fits.is_some() {
            return fits;
        }
        if stanzas_named(shown).next().is_some() {
            let parents = stanzas_named(shown).flat_map(|it| it.parents.iter());
            let parents: Vec<&str> = parents.map(|it| it.words()).collect();
            let message = format!("stanza {shown} does not belong in {place}");
            self.error(
                "E013",
                name.span,
                message,
                format!("it in {}", or_list(&parents)),
            );
        } else if foreign::is_foreign_stanza(shown) {
            self.refuse_foreign("E015", "stanza", name);
        } else if let Some(id) = options::find(shown) {
            let option = options::spec(id).name;
            let message = format!("{option} is an option, not a stanza");
            self.error("E017", name.span, message, format!("`{option} = value`"));
        } else if foreign::is_foreign_option(shown) {
            self.refuse_foreign("E014", "option", name);
        } else {
            let valid = STANZAS.iter().filter(|it| it.parents.contains(&kind));
            let names: Vec<&str> = valid.map(|it| it.name).collect();
            let near = near_miss(shown, names.iter().copied()).map(str::to_string);
            let message = format!("unknown stanza \"{shown}\" in {place}");
            let expected = match names.is_empty() {
                true => format!("no stanza in {place}"),
                false => or_list(&names),
            };
            self.error_near("E010", name.span, message, expected, near);
        }
        None
    }

    /// The canonical name of a stanza and how it matches; none after a report.
    fn instance(
        &mut self,
        spec: &StanzaSpec,
        name: &Word,
        instance: Option<&Word>,
    ) -> Option<(Option<String>, Matcher)> {
        let example = example_of(spec.naming);
        let Some(word) = instance else {
            if spec.naming == Naming::None {
                return Some((None, Matcher::Exact));
            }
            let message = format!("{} has no name", spec.name);
            self.error(
                "E016",
                name.span,
                message,
                format!("{} {example}", spec.name),
            );
            return None;
        };
        let result = match spec.naming {
            Naming::None => Err(("E016", "takes no name".to_string())),
            Naming::Binding | Naming::Group => {
                sender_name(spec.naming, &word.text).map_err(|it| ("E016", it))
            }
            Naming::Class => class_name(&word.text).map_err(|it| ("E016", it)),
            Naming::Domain | Naming::Host => match_name(&word.text),
            Naming::Address => match value::socket_address(&word.text, None) {
                Some(it) => Ok((it.to_string(), Matcher::Address(it))),
                None => Err(("E016", "is not an address with a port".to_string())),
            },
            Naming::Text => match word.text.chars().any(char::is_control) {
                true => Err(("E016", "contains a control character".to_string())),
                false => Ok((word.text.clone(), Matcher::Exact)),
            },
            Naming::Network => match nets::parse_net(&word.text) {
                Some(it) => Ok((it.to_string(), Matcher::Network(it))),
                None => Err(("E016", "is not an address or network".to_string())),
            },
        };
        match result {
            Ok((canonical, matcher)) => Some((Some(canonical), matcher)),
            Err((code, why)) => {
                let message = match spec.naming {
                    Naming::None => format!("{} {why}", spec.name),
                    _ => format!("the name \"{}\" of this {} {why}", word.text, spec.name),
                };
                let expected = format!("{} {example}", spec.name);
                self.error(code, word.span, message, expected.trim_end());
                None
            }
        }
    }

    /// A binding belongs to at most one group.
    fn check_group_of(&mut self, binding: &str, parent: ScopeId, span: Span) {
        if parent == GLOBAL {
            return;
        }
        let other = *self.groups_of.entry(binding.to_string()).or_insert(parent);
        if other != parent {
            let group = self.built.tree.title(other);
            let message = format!("binding \"{binding}\" already belongs to {group}");
            self.error("E033", span, message, "a binding in at most one group");
        }
    }
}

fn stanzas_named(name: &str) -> impl Iterator<Item = &'static StanzaSpec> {
    STANZAS
        .iter()
        .filter(move |it| it.name.eq_ignore_ascii_case(name))
}

fn is_name(text: &str) -> bool {
    text.chars()
        .all(|it| it.is_ascii_alphanumeric() || it == '_')
}

fn example_of(naming: Naming) -> &'static str {
    match naming {
        Naming::None => "without a name",
        Naming::Binding | Naming::Group => "\"name\" (no spaces; colons only in group names)",
        Naming::Class => "\"name\" (letters, digits, '.', '_' and '-')",
        Naming::Domain => "\"example.com\" or \"/pattern/\"",
        Naming::Host => "\"mx.example.com\", \"192.0.2.1\" or \"/pattern/\"",
        Naming::Address => "\"127.0.0.1:25\", \"[::1]:25\" or \":25\"",
        Naming::Text => "\"a name of your choice\"",
        Naming::Network => "\"10.0.0.0/8\" or \"192.0.2.1\"",
    }
}

/// Names of bindings and groups keep their case; the words of `default_binding` are taken.
fn sender_name(naming: Naming, text: &str) -> Result<(String, Matcher), String> {
    let is_binding = naming == Naming::Binding;
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(format!(
            "has {} bytes, not 1 to {NAME_BYTES_MAX}",
            text.len()
        ));
    }
    if text.chars().any(|it| it.is_whitespace() || it.is_control()) {
        return Err("contains a space".to_string());
    }
    if is_binding && text.contains(':') {
        return Err("contains a colon".to_string());
    }
    let words = ["normal", "suspended", "none"];
    if is_binding && words.iter().any(|it| it.eq_ignore_ascii_case(text)) {
        return Err("is a value of default_binding".to_string());
    }
    Ok((text.to_string(), Matcher::Exact))
}

/// Names of classes are compared without regard to case.
fn class_name(text: &str) -> Result<(String, Matcher), String> {
    if text.is_empty() || text.len() > FLOW_NAME_BYTES_MAX {
        let bytes = text.len();
        return Err(format!("has {bytes} bytes, not 1 to {FLOW_NAME_BYTES_MAX}"));
    }
    let fits = |it: u8| it.is_ascii_alphanumeric() || b"._-".contains(&it);
    match text.bytes().all(fits) {
        true => Ok((text.to_ascii_lowercase(), Matcher::Exact)),
        false => Err("has another character than letters, digits, '.', '_' and '-'".to_string()),
    }
}

/// The name of a domain or host stanza: a pattern, an address, or a name.
fn match_name(text: &str) -> Result<(String, Matcher), (&'static str, String)> {
    if let Some(source) = domains::pattern_of(text) {
        let pattern = Pattern::new(source)
            .map_err(|why| ("E023", format!("is not a regular expression: {why}")))?;
        return Ok((text.to_string(), Matcher::Pattern(pattern)));
    }
    if let Ok(address) = text.parse::<core::net::IpAddr>() {
        return Ok((address.to_canonical().to_string(), Matcher::Exact));
    }
    domains::check_name(text).map_err(|why| ("E016", format!("cannot be one: {why}")))?;
    Ok((domains::normal(text), Matcher::Exact))
}
