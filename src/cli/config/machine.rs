//! What this machine has to say about a configuration: folders that cannot be made here, disks
//! that are too small. `check` and `serve` ask the same, before anything is made. Nothing here
//! writes.

use std::path::Path;

use crate::base::units;
use crate::config::Config;
use crate::config::Diagnostic;
use crate::config::Origin;
use crate::config::Query;
use crate::config::Severity;
use crate::control::management::disk_space;
use crate::control::startup;

/// Segments that a shard makes at its start: one to write to and one ahead.
const SEGMENTS_FIRST: u64 = 2;

/// Everything, errors first.
pub fn look(config: &Config) -> Vec<Diagnostic> {
    let global = config.global();
    let mut found = Vec::new();
    for (option, path) in [
        ("Spoolbase", &global.spoolbase),
        ("Event_Log", &global.event_log),
    ] {
        found.extend(folder(config, option, Path::new(path)));
    }
    for (option, path) in [
        ("Management_Socket", &global.management_socket),
        ("Journal", &global.journal),
    ] {
        found.extend(file(config, option, Path::new(path)));
    }
    if found.is_empty() {
        found.extend(room(config));
    }
    found
}

/// A folder that is made at the start, if need be with its parents.
fn folder(config: &Config, option: &str, path: &Path) -> Option<Diagnostic> {
    let nearest = path.ancestors().find(|it| it.exists())?;
    let message = match nearest.is_dir() {
        true => return None,
        false if nearest == path => format!("{option} {} is a file", path.display()),
        false => format!(
            "{option} {} cannot be made: {} is a file",
            path.display(),
            nearest.display()
        ),
    };
    let finding = placed(config, option, Severity::Error, "E110", message);
    Some(finding.expected("a folder, or a path at which one can be made"))
}

/// A file whose folder has to be there, unless it is one that is made.
fn file(config: &Config, option: &str, path: &Path) -> Option<Diagnostic> {
    let global = config.global();
    let parent = path.parent().unwrap_or(Path::new("/"));
    let made = [&global.spoolbase, &global.event_log];
    let is_made = made.iter().any(|it| Path::new(it).starts_with(parent));
    if parent.is_dir() || is_made {
        return None;
    }
    let message = match parent.exists() {
        true => format!(
            "{option} {}: {} is a file",
            path.display(),
            parent.display()
        ),
        false => format!(
            "{option} {}: there is no folder {}",
            path.display(),
            parent.display()
        ),
    };
    let finding = placed(config, option, Severity::Error, "E110", message);
    Some(finding.expected("a path in a folder that exists"))
}

/// Whether the first segments fit the disk.
fn room(config: &Config) -> Option<Diagnostic> {
    let global = config.global();
    let base = Path::new(&global.spoolbase);
    let (free, _) = disk_space(base.ancestors().find(|it| it.exists())?)?;
    let shards = u64::from(config.shard_count());
    let segments = shards * SEGMENTS_FIRST * global.spool_segment_size;
    let missing = segments.saturating_sub(startup::segment_bytes(base));
    let needed = missing.saturating_add(global.min_free_space);
    if free >= needed {
        return None;
    }
    let message = format!(
        "the disk of {} has {} free: the first segments of {} take {}, and with less than \
         Min_Free_Space ({}) left no mail is accepted",
        global.spoolbase,
        units::size(free),
        units::counted(shards, "shard"),
        units::size(missing),
        units::size(global.min_free_space),
    );
    let finding = placed(config, "Spoolbase", Severity::Warning, "W102", message);
    Some(finding.expected(format!(
        "at least {} free, a smaller Spool_Segment_Size or fewer Shards",
        units::size(needed)
    )))
}

/// A finding at the line that sets the option, if one does.
fn placed(
    config: &Config,
    option: &str,
    severity: Severity,
    code: &'static str,
    message: String,
) -> Diagnostic {
    let mut finding = Diagnostic::whole(severity, code, message);
    let set = config.eval(option, &Query::default());
    if let Ok(Origin::Stanza { place, .. }) = set.map(|it| it.origin) {
        finding.place = Some(place);
    }
    finding
}
