//! `pelton serve`: runs the engine until a signal ends it.

use std::io::Write;
use std::sync::Arc;

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::base::time::Wall;
use crate::base::units;
use crate::cli::config::{ConfigArgs, detect_environment, read_config_for_here};
use crate::cli::process::{Load, Options, Process};
use crate::config::Diagnostic;
use crate::control::switchboard::Ended;
use crate::engine::io::Level;
use crate::shard::clock::Clock;

/// Exit code of an invalid configuration, so that a supervisor does not try again.
pub const EXIT_CONFIG: i32 = 78;

/// Run the engine.
///
/// Prints one line that starts with `ready` when it accepts connections. SIGTERM and SIGINT stop
/// taking mail, finish what is on the wire within Shutdown_Grace and exit 0; a second one exits at
/// once, which loses nothing that was acknowledged. SIGHUP loads the configuration again.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub source: ConfigArgs,
}

pub fn run(args: &ServeArgs) -> i32 {
    let environment = detect_environment();
    let hostname = environment.hostname.clone();
    let source = args.source.clone();
    let load: Load = Arc::new(move || {
        read_config_for_here(&source.config, &source.include_path, &environment)
            .map_err(|errors| all(&errors))
    });
    let options = Options {
        load,
        config_file: args.source.config.display().to_string(),
        hostname,
        notice: Arc::new(notice),
    };
    let signals = match Signals::new([SIGTERM, SIGINT, SIGHUP]) {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("pelton: cannot listen for signals: {error}");
            return 1;
        }
    };
    let process = match Process::start(options) {
        Ok(process) => process,
        Err(refused) => {
            eprintln!("pelton: {}", refused.sentence.trim_end());
            return refused.exit;
        }
    };
    let handle = process.handle();
    std::thread::spawn(move || obey(signals, &handle));
    announce(&process);
    match process.wait() {
        Ended::Drained { .. } => 0,
        Ended::Failed(why) => {
            eprintln!("pelton: {why}");
            1
        }
    }
}

fn announce(process: &Process) {
    let config = process.config();
    let listens = config
        .listeners()
        .iter()
        .flat_map(|listener| &listener.listens);
    let addresses: Vec<String> = listens.map(|listen| listen.address.to_string()).collect();
    let mut out = std::io::stdout();
    let shards = units::counted(config.shard_count().into(), "shard");
    let _ = writeln!(out, "ready on {} with {shards}", addresses.join(" "));
    let _ = out.flush();
}

fn obey(mut signals: Signals, handle: &crate::cli::process::Handle) {
    let mut stopping = false;
    for signal in signals.forever() {
        match signal {
            // How it went is in the log.
            SIGHUP => drop(handle.reload("SIGHUP")),
            _ if stopping => {
                // Everything acknowledged is on disk; what is on the wire may come twice.
                notice(Level::Warn, "second signal: exit at once");
                std::process::exit(128 + signal);
            }
            _ => {
                stopping = true;
                notice(
                    Level::Info,
                    "stopping: no new mail, finishing what is on the wire",
                );
                handle.shutdown("signal");
            }
        }
    }
}

fn all(errors: &[Diagnostic]) -> String {
    errors.iter().map(|error| format!("{error}\n")).collect()
}

fn notice(level: Level, text: &str) {
    let now: Wall = Clock::start().now().wall;
    let word = match level {
        Level::Info => "info",
        Level::Warn => "WARN",
        Level::Error => "FAIL",
    };
    // Standard error may be closed; there is nobody to tell then.
    let _ = writeln!(std::io::stderr(), "{} {word} {text}", now.rfc3339());
}
