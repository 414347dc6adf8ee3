//! `pelton-blast`: the load generator, the checker of what it sent, and the holder of idle
//! connections. Reads its arguments, starts the rig and prints; everything else is in
//! `pelton::rig`.

#![allow(clippy::disallowed_methods)] // A tool measures against the clock.

mod arguments;
mod text;

use std::fs::File;
use std::io::BufReader;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use arguments::Arguments;
use arguments::Command;
use arguments::IdleArguments;
use arguments::RunArguments;
use arguments::VerifyArguments;
use clap::Parser;
use pelton::cli::output::say;
use pelton::rig::blast::Blast;
use pelton::rig::blast::idle::Idle;
use pelton::rig::blast::verify;
use pelton::rig::runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How soon a signal is noticed.
const TICK: Duration = Duration::from_millis(100);

/// Bytes that a file is read in.
const FILE_BUFFER_BYTES: usize = 1024 * 1024;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const UNREACHABLE: u8 = 4;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        None => run(&arguments.run),
        Some(Command::Verify(verify)) => compare(verify),
        Some(Command::Idle(idle)) => hold(idle),
    };
    result.unwrap_or_else(|error| {
        eprintln!("pelton-blast: {error:#}");
        ExitCode::from(FAILED)
    })
}

/// Says what is wrong with the command line, as clap would.
fn usage(error: &anyhow::Error) -> ExitCode {
    eprintln!("pelton-blast: {error:#}");
    ExitCode::from(USAGE)
}

fn run(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let config = match arguments.config() {
        Ok(config) => config,
        Err(error) => return Ok(usage(&error)),
    };
    runtime::raise_limits()?;
    let signals = Signals::watch()?;
    let blast = Blast::start(config)?;
    follow(
        &blast,
        &signals,
        arguments.progress || std::io::stderr().is_terminal(),
    );
    let report = blast.finish();
    let cpu = cpu_time();
    if arguments.json {
        let mut document = serde_json::to_value(&report)?;
        document["cpu_seconds"] = cpu.as_secs_f64().into();
        if report.latency_us.count == 0 {
            // Nothing was timed, and zeros would be read as times.
            document["latency_us"] = serde_json::Value::Null;
        }
        say(&document.to_string());
    } else {
        let report = &report;
        say(text::Table { report, cpu }.to_string().trim_end());
    }
    let reason = report.fault.as_ref().or(report.trouble.as_ref());
    match reason {
        _ if report.started == 0 => {
            let reason = reason.map_or("the run ended before its first message", String::as_str);
            eprintln!("pelton-blast: nothing was sent: {reason}");
        }
        Some(reason) => eprintln!("pelton-blast: {reason}"),
        None => {}
    }
    Ok(match report.is_clean() && report.started > 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    })
}

/// Returns at the end of the run. The first signal lets what was begun come to its end, the
/// second ends the run at once.
fn follow(blast: &Blast, signals: &Signals, show: bool) {
    let (mut shown_at, mut shown) = (Instant::now(), blast.stats());
    while !blast.wait(TICK) {
        match signals.seen() {
            0 => {}
            1 => blast.drain(),
            _ => break,
        }
        if show && shown_at.elapsed() >= Duration::from_secs(1) {
            let stats = blast.stats();
            eprintln!(
                "{}",
                text::progress(&shown, &stats, shown_at.elapsed(), blast.elapsed())
            );
            (shown_at, shown) = (Instant::now(), stats);
        }
    }
}

fn compare(arguments: &VerifyArguments) -> anyhow::Result<ExitCode> {
    let open = |path: &Path| -> anyhow::Result<BufReader<File>> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(BufReader::with_capacity(FILE_BUFFER_BYTES, file))
    };
    let (acked, capture) = (open(&arguments.acked)?, open(&arguments.capture)?);
    let seen = verify::verify_runs(acked, capture, &arguments.run)?;
    match arguments.json {
        true => say(&serde_json::to_string(&seen)?),
        false => say(text::Comparison(&seen).to_string().trim_end()),
    }
    Ok(match seen.is_clean(arguments.duplicates_max) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    })
}

fn hold(arguments: &IdleArguments) -> anyhow::Result<ExitCode> {
    let config = match arguments.config() {
        Ok(config) => config,
        Err(error) => return Ok(usage(&error)),
    };
    let connections = config.connections as u64;
    runtime::raise_limits()?;
    let signals = Signals::watch()?;
    let idle = Idle::start(config)?;
    while !idle.is_settled() && signals.seen() == 0 {
        std::thread::sleep(TICK);
    }
    let began = Instant::now();
    // Read by machines: the number as it is.
    let alive = idle.report().alive;
    let s = if alive == 1 { "" } else { "s" };
    say(&format!("ready {alive} connection{s} open"));
    while began.elapsed() < arguments.duration && signals.seen() == 0 {
        std::thread::sleep(TICK.min(arguments.duration));
    }
    let report = idle.report();
    match arguments.json {
        true => say(&serde_json::to_string(&report)?),
        false => say(&format!(
            "opened {}  failed {}  ended {}  alive {}",
            report.opened, report.failed, report.ended, report.alive
        )),
    }
    Ok(match report {
        report if report.alive == connections => ExitCode::SUCCESS,
        report if report.opened == 0 => ExitCode::from(UNREACHABLE),
        _ => ExitCode::from(FAILED),
    })
}

/// Counts SIGINT and SIGTERM; the third ends the process where it stands.
struct Signals {
    count: Arc<AtomicUsize>,
}

impl Signals {
    fn watch() -> anyhow::Result<Signals> {
        let count = Arc::new(AtomicUsize::new(0));
        let twice = Arc::new(AtomicBool::new(false));
        let mut pending = signal_hook::iterator::Signals::new([
            signal_hook::consts::SIGINT,
            signal_hook::consts::SIGTERM,
        ])
        .context("cannot watch for signals")?;
        let seen = count.clone();
        std::thread::spawn(move || {
            for signal in pending.forever() {
                if twice.load(Ordering::SeqCst) {
                    std::process::exit(128 + signal);
                }
                twice.store(seen.fetch_add(1, Ordering::SeqCst) >= 1, Ordering::SeqCst);
            }
        });
        Ok(Signals { count })
    }

    fn seen(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

/// CPU time of this process, user and system.
fn cpu_time() -> Duration {
    let mut usage = core::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills in the struct it is given, for which all zeros is a valid value.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs())
            + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}
