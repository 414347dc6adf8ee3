//! Whole engines against an internet to practise on: the same engines and disks as in the world of
//! faults, in virtual time, with nothing going wrong but what the receivers of a scenario do.
//! Nothing is checked here, everything is counted; a day of mail takes seconds.

pub(super) mod client;
mod engines;
pub(super) mod seen;
mod told;
mod wire;
pub(super) mod world;

use std::sync::Arc;

use crate::config;
use crate::config::Config;
use crate::config::Diagnostic;
use crate::config::Environment;
use crate::config::IncludeRequest;
use crate::config::Item;
use crate::config::Severity;
use crate::config::SourceFile;
use crate::practice::report::Report;
use crate::practice::scenario::Scenario;
use crate::sim::practice::world::World;

/// Shards of a run.
pub const SHARDS_MAX: usize = 16;

/// What to run.
#[derive(Clone)]
pub struct Setup {
    pub scenario: Arc<Scenario>,
    pub config: Arc<Config>,
    pub seed: u64,
    /// 1 to [`SHARDS_MAX`].
    pub shards: usize,
}

/// How far a run has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    pub virtual_us: u64,
    pub duration_us: u64,
    pub messages: u64,
    pub delivered: u64,
}

/// The group of the scenario's bindings, where the configuration names none of its own.
pub const GROUP: &str = "practice";

type ReadInclude<'a> = dyn FnMut(&IncludeRequest) -> Result<Vec<SourceFile>, String> + 'a;

/// The configuration of a run: a listener, the scenario's bindings unless `user` has its own, and
/// what `user` says.
pub fn configuration(
    scenario: &Scenario,
    shards: usize,
    user: Option<SourceFile>,
    include: &mut ReadInclude<'_>,
) -> Result<Arc<Config>, Vec<Diagnostic>> {
    let mut text = "Spoolbase = \"/practice\"\nProhibited_Hosts = \"none\"\n\
        ESMTP_Listener { Listen \"127.0.0.1:2525\" { Relay_Hosts = ( \"127.0.0.0/8\" ) } }\n"
        .to_string();
    if !user.as_ref().is_some_and(names_bindings) {
        text.push_str(&format!("default_binding_group = \"{GROUP}\"\n"));
        text.push_str(&format!("binding_group \"{GROUP}\" {{\n"));
        for binding in &scenario.bindings {
            let (name, address) = (&binding.name, binding.address);
            let line = format!("  binding \"{name}\" {{ Bind_Address = \"{address}\" }}\n");
            text.push_str(&line);
        }
        text.push_str("}\n");
    }
    if let Some(user) = &user {
        let name = user.name.replace('\\', "\\\\").replace('"', "\\\"");
        text.push_str(&format!("include \"{name}\"\n"));
    }
    text.push_str(&format!("Shards = {shards}\n"));
    let main = SourceFile {
        name: "practice".to_string(),
        text,
    };
    let environment = Environment {
        hostname: "sender.example".to_string(),
        cores: shards,
    };
    let mut include = |request: &IncludeRequest| match &user {
        Some(user) if request.from == "practice" => Ok(vec![user.clone()]),
        _ => include(request),
    };
    let checked = config::load(main, &environment, &mut include).map_err(|mut findings| {
        // Advice about the lines above is not for who did not write them.
        findings.retain(|it| {
            let place = it.place.as_ref();
            it.severity == Severity::Error || place.is_none_or(|place| place.file != "practice")
        });
        findings
    })?;
    Ok(Arc::new(checked.config))
}

fn names_bindings(user: &SourceFile) -> bool {
    let names = [
        "binding",
        "binding_group",
        "default_binding",
        "default_binding_group",
    ];
    let statements = config::statements(user.clone());
    statements.items.iter().any(|item| {
        let name = match item {
            Item::Option { name, .. } | Item::Stanza { name, .. } => name,
            Item::Include { .. } => return false,
        };
        names.contains(&name.text.to_ascii_lowercase().as_str())
    })
}

/// Runs a scenario to its end. `progress` is called now and then.
pub fn run(setup: &Setup, progress: &mut dyn FnMut(&Progress)) -> Report {
    World::new(setup).run(progress)
}

#[cfg(test)]
mod tests;
