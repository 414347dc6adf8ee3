//! The configuration: Momentum's language, one table of options, fallback through scopes, and the
//! checked settings that the engine reads.
//!
//! Text becomes statements (`lexer`, `parse`), statements become a tree of scopes (`build`,
//! `tree`), the tree is checked as a whole (`checks`) and read through fallback chains (`fallback`,
//! `resolve`). Raw text never leaves this module: whoever holds a [`Config`] holds a checked one.
//!
//! A `Config` is immutable; a reload makes another. Nothing here reads a file: includes are handed
//! in by a function. Fallback goes per option, in this order, to the first scope that sets it:
//! domain in binding in group, domain in binding, domain in group, binding, group, domain, global.
//! In one container the exact domain comes first, then matching patterns in declaration order.

pub mod adaptive;
mod build;
mod checked;
mod checks;
mod curfew;
mod diagnostic;
mod domains;
mod eval;
mod fallback;
mod findings;
mod foreign;
mod lexer;
mod nets;
mod options;
mod parse;
mod resolve;
mod rules;
mod settings;
mod source;
mod spec;
mod target;
mod tree;
mod value;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole_tests;

pub use checked::Config;
pub use curfew::Curfew;
pub use diagnostic::Diagnostic;
pub use diagnostic::Excerpt;
pub use diagnostic::Place;
pub use diagnostic::Severity;
pub use diagnostic::near_miss;
pub use domains::DomainSet;
pub use eval::Evaluated;
pub use eval::Origin;
pub use eval::Query;
pub use findings::Findings;
pub use nets::NetSet;
pub use nets::ProhibitedHosts;
pub use options::OPTIONS;
pub use parse::Item;
pub use parse::RawValue;
pub use parse::Word;
pub use settings::Aggressiveness;
pub use settings::Binding;
pub use settings::BindingChoice;
pub use settings::BindingGroup;
pub use settings::BindingIndex;
pub use settings::BindingSettings;
pub use settings::Blackhole;
pub use settings::DeliverySettings;
pub use settings::EightBit;
pub use settings::Environment;
pub use settings::FlowHeaders;
pub use settings::GlobalSettings;
pub use settings::GroupIndex;
pub use settings::Host;
pub use settings::HostLimit;
pub use settings::HttpSettings;
pub use settings::Listen;
pub use settings::ListenIndex;
pub use settings::Listener;
pub use settings::ListenerKind;
pub use settings::ListenerSettings;
pub use settings::MaxRetries;
pub use settings::PriorityClass;
pub use settings::RouteItem;
pub use settings::RouteKind;
pub use settings::RouteTarget;
pub use settings::Shards;
pub use settings::SharedLimit;
pub use settings::SharedRate;
pub use settings::SpoolSync;
pub use settings::StaticTarget;
pub use settings::Striping;
pub use source::FILE_BYTES_MAX;
pub use source::SourceFile;
pub use source::Sources;
pub use source::Span;
pub use spec::Kind;
pub use spec::OptionSpec;
pub use spec::Preset;
pub use spec::ScopeKind;

/// What an `include` asks for. A path that is a directory stands for its files in alphabetical
/// order, without dot files and without going deeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncludeRequest {
    /// As written.
    pub path: String,
    /// Name of the including file: its directory is looked in first, then the search path.
    pub from: String,
    /// `readonly_include`: tools that edit configurations leave the file alone. Pelton itself
    /// never writes to a configuration, so reading is the same.
    pub readonly: bool,
}

/// A configuration without errors, and what its writer should know.
#[derive(Debug)]
pub struct Checked {
    pub config: Config,
    /// Warnings and notes.
    pub notes: Vec<Diagnostic>,
}

/// What a file says, as written: for other files in the same language. Includes are left to the
/// caller, as are names and values.
pub struct Statements {
    pub sources: Sources,
    pub items: Vec<Item>,
    /// Mistakes of the language, to which the caller adds those of names and values.
    pub findings: Findings,
}

/// Reads a file in the language of the configuration.
pub fn statements(source: SourceFile) -> Statements {
    let mut sources = Sources::default();
    let mut findings = Findings::default();
    let file = sources.add(source);
    let items = parse::parse(&sources, file, &mut findings);
    Statements {
        sources,
        items,
        findings,
    }
}

/// Loads a configuration. Errors are everything that is wrong, in the order of the files, with the
/// warnings among them.
pub fn load(
    main: SourceFile,
    environment: &Environment,
    include: &mut dyn FnMut(&IncludeRequest) -> Result<Vec<SourceFile>, String>,
) -> Result<Checked, Vec<Diagnostic>> {
    let build::Built {
        sources,
        tree,
        mut findings,
    } = build::build(main, include);
    let config = Config::assemble(sources, tree, environment.clone());
    checks::check(&config, &mut findings);
    let refused = findings.has_errors();
    let mut notes = findings.into_sorted(config.sources());
    if refused {
        return Err(notes);
    }
    notes.extend(checks::notes());
    Ok(Checked { config, notes })
}
