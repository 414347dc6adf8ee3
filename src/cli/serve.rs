//! `pelton serve`: runs the engine until a signal ends it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::base::time::Wall;
use crate::base::units;
use crate::cli::config::{ConfigArgs, detect_environment, read_config_for_here};
use crate::cli::process::{Handle, Load, Options, Process};
use crate::config::ListenerKind;
use crate::control::supervisor::{self, Supervisor};
use crate::control::switchboard::Ended;
use crate::engine::io::Level;
use crate::shard::clock::Clock;

/// Exit code of an invalid configuration, so that a supervisor does not try again.
pub const EXIT_CONFIG: i32 = 78;

const EXAMPLES: &str = "\
Examples:
  pelton serve                                    with /etc/pelton/pelton.conf
  pelton serve --config my.conf                   with that file
  pelton check --config my.conf && pelton serve --config my.conf

pelton serve --help has signals and exit codes.";

const DETAILS: &str = "\
Examples:
  pelton serve                                    with /etc/pelton/pelton.conf
  pelton serve --config my.conf                   with that file
  pelton check --config my.conf && pelton serve --config my.conf

Standard output gets one line, which starts with \"ready\", when connections are accepted; the log
goes to standard error, a line each. SIGTERM and SIGINT stop taking mail, finish what is on the wire
within Shutdown_Grace and end it; a second one ends it at once, which loses nothing that was
acknowledged. SIGHUP loads the configuration again; one with errors changes nothing. Under systemd
(Type=notify) the service counts as started when mail is taken, and as reloading meanwhile.

Exit codes: 0 stopped by a signal, everything drained; 1 it could not start, or had to stop by
itself; 2 usage; 78 the configuration is invalid, and trying again does not help; 130 or 143 ended
by a second signal.";

/// Run the engine.
///
/// Prints one line that starts with `ready` when it accepts connections. SIGTERM and SIGINT stop
/// taking mail, finish what is on the wire within Shutdown_Grace and exit 0; a second one exits at
/// once, which loses nothing that was acknowledged. SIGHUP loads the configuration again.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, after_long_help = DETAILS)]
pub struct ServeArgs {
    #[command(flatten)]
    pub source: ConfigArgs,
}

pub fn run(args: &ServeArgs) -> i32 {
    let environment = detect_environment();
    let hostname = environment.hostname.clone();
    let source = args.source.clone();
    let load: Load =
        Arc::new(move || read_config_for_here(&source.config, &source.include_path, &environment));
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
    let supervisor = Arc::new(supervisor());
    let process = match Process::start(options) {
        Ok(process) => process,
        Err(refused) => {
            eprintln!("pelton: {}", refused.sentence.trim_end());
            return refused.exit;
        }
    };
    let handle = process.handle();
    let addresses = announce(&process, &args.source.config);
    let status = format!("takes mail on {addresses}");
    supervisor.ready(&status);
    std::thread::spawn(move || obey(signals, &handle, &supervisor, &status));
    match process.wait() {
        Ended::Drained { .. } => 0,
        Ended::Failed(why) => {
            eprintln!("pelton: {why}");
            1
        }
    }
}

/// Who asks by the environment to be told how things stand.
fn supervisor() -> Supervisor {
    let Some(name) = std::env::var_os(supervisor::VARIABLE).filter(|it| !it.is_empty()) else {
        return Supervisor::default();
    };
    Supervisor::on(&name).unwrap_or_else(|error| {
        let (variable, name) = (supervisor::VARIABLE, name.to_string_lossy());
        let text = format!("{variable} {name}: {error}; nobody is told when mail is taken");
        notice(Level::Warn, &text);
        Supervisor::default()
    })
}

/// Says that mail is taken, and in the log where everything is; the SMTP addresses.
fn announce(process: &Process, file: &Path) -> String {
    let config = process.config();
    let listening = |kind: Option<ListenerKind>| {
        let all = config.listeners().iter();
        let of_kind = all.filter(|it| kind.is_none_or(|kind| it.kind == kind));
        let listens = of_kind.flat_map(|it| &it.listens);
        let addresses: Vec<String> = listens.map(|it| it.address.to_string()).collect();
        addresses.join(" ")
    };
    let shards = units::counted(config.shard_count().into(), "shard");
    let mut out = std::io::stdout();
    let _ = writeln!(out, "ready on {} with {shards}", listening(None));
    let _ = out.flush();
    let (smtp, http) = (
        listening(Some(ListenerKind::Smtp)),
        listening(Some(ListenerKind::Http)),
    );
    let global = config.global();
    let text = format!(
        "started: config {} ({}), spool {}, event log {}, SMTP on {smtp}, HTTP {}, commands over \
         {}, {shards}",
        file.display(),
        config.short_digest(),
        global.spoolbase,
        global.event_log,
        if http.is_empty() {
            "off".to_owned()
        } else {
            format!("on {http}")
        },
        global.management_socket,
    );
    notice(Level::Info, &text);
    smtp
}

fn obey(mut signals: Signals, handle: &Handle, supervisor: &Supervisor, status: &str) {
    let mut stopping = false;
    for signal in signals.forever() {
        match signal {
            SIGHUP if stopping => {}
            // How it went is in the log.
            SIGHUP => {
                supervisor.reloading(supervisor::monotonic_us());
                let _ = handle.reload("SIGHUP");
                supervisor.ready(status);
            }
            _ if stopping => {
                // Everything acknowledged is on disk; what is on the wire may come twice.
                notice(Level::Warn, "second signal: exit at once");
                std::process::exit(128 + signal);
            }
            _ => {
                stopping = true;
                let text = "stopping: no new mail, finishing what is on the wire";
                supervisor.stopping(text);
                notice(Level::Info, text);
                handle.shutdown("signal");
            }
        }
    }
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
