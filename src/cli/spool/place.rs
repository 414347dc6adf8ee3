//! Where a spool is, and who works in it at present. Nothing here writes, nor takes the lock.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::cli::config::CONFIG_PATH_DEFAULT;
use crate::cli::config::detect_environment;
use crate::cli::config::read_config;
use crate::cli::output::EXIT_USAGE;
use crate::cli::output::Failure;
use crate::config::Config;
use crate::config::Severity;
use crate::log::parse_folder_name;

pub const SPOOL_FILE: &str = "spool.json";
const LOCK_FILE: &str = "lock";
const SPOOL_DEFAULT: &str = "/var/spool/pelton";

/// Which spool a command is about.
#[derive(Args, Clone, Debug, Default)]
pub struct SpoolArgs {
    /// The spool that this is about: the folder that Spoolbase names
    #[arg(long, value_name = "SPOOL")]
    pub spool: Option<PathBuf>,
    /// The configuration file, whose Spoolbase it is [env: PELTON_CONFIG]
    #[arg(long, value_name = "FILE", conflicts_with = "spool")]
    pub config: Option<PathBuf>,
}

/// A spool folder, and what else is known of the engine that it belongs to.
#[derive(Debug)]
pub struct SpoolPlace {
    pub base: PathBuf,
    pub socket: PathBuf,
    pub journal: PathBuf,
    /// If the folder was found by its configuration.
    pub config: Option<Config>,
}

impl SpoolArgs {
    /// The first that is given of: `--spool`, `--config`, PELTON_CONFIG, the configuration at its
    /// usual place, the spool at its usual place.
    pub fn place(&self) -> Result<SpoolPlace, Failure> {
        self.place_in(&|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn place_in(&self, env: &dyn Fn(&str) -> Option<OsString>) -> Result<SpoolPlace, Failure> {
        if let Some(spool) = &self.spool {
            return Ok(SpoolPlace::of_folder(spool));
        }
        if let Some(config) = &self.config {
            return SpoolPlace::of_config(config);
        }
        if let Some(config) = env("PELTON_CONFIG") {
            return SpoolPlace::of_config(Path::new(&config));
        }
        let usual = Path::new(CONFIG_PATH_DEFAULT);
        match usual.exists() {
            true => SpoolPlace::of_config(usual),
            false => Ok(SpoolPlace::of_folder(Path::new(SPOOL_DEFAULT))),
        }
    }
}

impl SpoolPlace {
    pub fn of_folder(base: &Path) -> SpoolPlace {
        SpoolPlace {
            base: base.to_owned(),
            socket: base.join("pelton.sock"),
            journal: base.join("journal.jsonl"),
            config: None,
        }
    }

    fn of_config(path: &Path) -> Result<SpoolPlace, Failure> {
        let checked = read_config(path, &[], &detect_environment()).map_err(|findings| {
            let error = findings.iter().find(|it| it.severity == Severity::Error);
            let error = error.map(ToString::to_string).unwrap_or_default();
            let error = error.lines().next().unwrap_or_default();
            let message = format!(
                "{} does not say where the spool is: {error}. Name the folder: --spool SPOOL",
                path.display()
            );
            Failure::new(EXIT_USAGE, "E406", message)
        })?;
        let global = checked.config.global();
        Ok(SpoolPlace {
            base: PathBuf::from(&global.spoolbase),
            socket: PathBuf::from(&global.management_socket),
            journal: PathBuf::from(&global.journal),
            config: Some(checked.config),
        })
    }

    /// Whether anything of a spool is there.
    pub fn holds_spool(&self) -> bool {
        if self.base.join(SPOOL_FILE).exists() {
            return true;
        }
        let entries = fs::read_dir(&self.base).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name());
        names.any(|name| name.to_str().and_then(parse_folder_name).is_some())
    }

    /// Says that no spool is here.
    pub fn absent(&self) -> Failure {
        let base = self.base.display();
        let found = match fs::metadata(&self.base) {
            Err(error) => format!("{base}: {}", reason(&error)),
            Ok(it) if !it.is_dir() => format!("{base} is not a folder"),
            Ok(_) => match fs::read_dir(&self.base) {
                Err(error) => format!("{base} cannot be read: {}", reason(&error)),
                Ok(_) => format!("{base} is no spool: neither spool.json nor shard-00 is in it"),
            },
        };
        let message = format!(
            "{found}. Expected the folder that Spoolbase names: --spool SPOOL, or --config FILE of \
             its engine"
        );
        Failure::new(EXIT_USAGE, "E420", message)
    }

    /// Who has the spool: the process of an engine, or one whose number is not known. The lock is
    /// looked up and not tried: trying could turn away an engine that starts at that moment.
    pub fn holder(&self) -> Option<Holder> {
        let held = lock_holder(&self.base.join(LOCK_FILE));
        held.or_else(|| {
            let answers = UnixStream::connect(&self.socket).is_ok();
            answers.then_some(Holder { pid: None })
        })
    }
}

/// Somebody who works in a spool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    pub pid: Option<u32>,
}

impl core::fmt::Display for Holder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("its socket answers"),
        }
    }
}

fn lock_holder(path: &Path) -> Option<Holder> {
    let inode = fs::metadata(path).ok()?.ino().to_string();
    let named = fs::read_to_string(path).unwrap_or_default();
    let named: Option<u32> = named.trim().parse().ok();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let holder = |line: &str| {
        // `1: FLOCK  ADVISORY  WRITE 1234 08:02:131 0 EOF`. Not every file system tells the same
        // device here as elsewhere: the file's own word on who locked it decides.
        let words: Vec<&str> = line.split_whitespace().collect();
        let pid = words.get(4)?.parse().ok()?;
        let place = words.get(5)?.rsplit(':').next()?;
        let is_it = words.get(1) == Some(&"FLOCK") && place == inode;
        (is_it && named.is_none_or(|named| named == pid)).then_some(Holder { pid: Some(pid) })
    };
    locks.lines().find_map(holder)
}

/// The words of the system without its error number.
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
