//! `pelton demo`: the whole life of mail on one machine, without set-up. A name server, receiving
//! hosts with moods, an engine with two bindings and a load generator run in this process on
//! loopback addresses; at the end the books of all four are compared. It ends by itself whatever
//! happens, leaves nothing behind unless asked to, and two of them can run side by side.

mod ledger;
mod report;
mod view;
mod world;

use core::time::Duration;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use anyhow::Context;
use anyhow::anyhow;
use clap::Args;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;

use crate::base::time::Mono;
use crate::base::units;
use crate::cli::client::Client;
use crate::cli::config::detect_environment;
use crate::cli::config::read_config;
use crate::cli::output::Style;
use crate::cli::output::When;
use crate::cli::process::Options;
use crate::cli::process::Process;
use crate::control::management::disk_space;
use crate::control::management::protocol::Reply;
use crate::control::management::protocol::Request;
use crate::control::management::protocol::StatusData;
use crate::control::switchboard::Ended;
use crate::engine::io::Level;
use crate::engine::query::QueueSummary;
use crate::engine::stats::ShardStats;
use crate::rig::blast::Blast;
use crate::rig::blast::BlastConfig;
use crate::rig::blast::Mode;
use crate::rig::blast::mix::Mix;
use crate::rig::runtime;
use crate::shard::clock::Clock;
use crate::types::filter::Filter;
use ledger::Counted;
use ledger::Ledger;
use report::Outcome;
use view::Frame;
use view::View;
use view::say;
use world::World;

/// Messages of one demo: their books are kept in memory.
const MESSAGES_MAX: u64 = 1_000_000;

/// Connections of the load generator.
const CONNECTIONS: usize = 20;

/// Message sizes with their weights, in the notation of pelton-blast.
const SIZES: &str = "1K:60,4K:30,16K:9,100K:1";

/// Addresses tried for the engine before it is said that none is free.
const START_ATTEMPTS: u32 = 5;

/// Time for a run beside that of the injection, which may take three times as long as planned.
const PATIENCE: Duration = Duration::from_secs(60);

/// Messages a second that even a slow machine takes, for planning when no rate is given.
const RATE_PLANNED: u64 = 500;

/// Time for the start, the shutdown and the check together, beside that of the run.
const AROUND: Duration = Duration::from_secs(90);

/// Time for the engine to stop, above the Shutdown_Grace that it is configured with.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Free space to begin with, and more of it for every message: it is in the spool, in the capture
/// file and in the event log.
const FREE_BYTES_MIN: u64 = 256 << 20;
const FREE_BYTES_PER_MESSAGE: u64 = 16 << 10;

/// Notices of the engine that are kept, the first ones.
const NOTICES_MAX: usize = 20;

/// Exit code after Ctrl-C.
const EXIT_INTERRUPTED: i32 = 130;

const EXAMPLES: &str = "\
Examples:
  pelton demo                               twenty thousand messages in a quarter of a minute
  pelton demo --messages 100000 --rate 0    as fast as the machine can
  pelton demo --keep                        and look at what it leaves

All of it is on loopback and in a temporary folder. Exit codes: 0 every accepted message reached
exactly one outcome, 1 it did not, and what is off is said, 2 usage, 130 interrupted.";

/// Run everything on this machine for a quarter of a minute: mail in, queues, retries, delivery
///
/// Starts a name server, eight receiving hosts (some defer, some refuse, one is slow, two are
/// down), an engine with two bindings and a load generator, all on loopback addresses and in a
/// temporary folder. Shows what happens, then compares what the load generator was told, what the
/// event log says, what the hosts received and what the counters count. Exit 0: every accepted
/// message reached exactly one outcome; 1: it says what is off.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// Messages to send
    #[arg(long, value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u64).range(1..=MESSAGES_MAX))]
    pub messages: u64,
    /// Messages a second; 0: as fast as they are taken
    #[arg(long, value_name = "PER_SECOND", default_value_t = 2_000,
          value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub rate: u64,
    /// Keep the folder with configuration, spool, event log and everything received
    #[arg(long)]
    pub keep: bool,
    /// When to colour: by default on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub color: When,
}

impl DemoArgs {
    /// How long the run may take.
    fn run_limit(&self) -> Duration {
        let rate = match self.rate {
            0 => RATE_PLANNED,
            rate => rate.min(RATE_PLANNED * 3),
        };
        PATIENCE + Duration::from_secs(3 * self.messages / rate)
    }
}

pub fn run(args: &DemoArgs) -> i32 {
    match play(args) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("pelton demo: {error:#}");
            1
        }
    }
}

fn play(args: &DemoArgs) -> anyhow::Result<i32> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second one ends the process at once.
        let again = interrupted.clone();
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED, again)
            .and_then(|_| signal_hook::flag::register(signal, interrupted.clone()))
            .context("cannot listen for signals")?;
    }
    let folder = Folder::make(args.keep)?;
    check_space(&folder.path, args.messages)?;
    let _watchdog = Watchdog::start(args.run_limit() + AROUND, &folder)?;
    runtime::raise_limits()?;
    let world = World::start(&folder.file("capture.jsonl"))?;
    let engine = Engine::start(&world, &folder)?;
    introduce(args, &folder);
    let blast = Blast::start(load(args, &folder, engine.listen)?)?;
    let mut view = View::new(Style::of_stdout(args.color));
    let watched = watch(args, &engine, &blast, &mut view, &interrupted);
    view.clear();
    let blast = blast.finish();
    let notices = engine.stop();
    let received = world.sink.stop().recipients;
    if interrupted.load(Ordering::SeqCst) {
        say("interrupted: nothing was checked");
        return Ok(EXIT_INTERRUPTED);
    }
    let Watched { stats, took, late } = watched?;
    let ledger = Ledger::read(
        &folder.file("acked"),
        &folder.file("spool/events"),
        &folder.file("capture.jsonl"),
    )
    .context("cannot read what was written")?;
    let outcome = Outcome {
        style: &Style::of_stdout(args.color),
        blast: &blast,
        stats: &stats,
        ledger: &ledger,
        counted: &Counted {
            engine: stats.counters.clone(),
            received,
            unanswered: blast.unacknowledged,
        },
        took,
    };
    say(&outcome.text());
    for notice in notices {
        say(&format!("engine     {notice}"));
    }
    let (check, well) = outcome.check();
    if let Some(late) = &late {
        say(late);
    }
    say(check.trim_end());
    what_next(args, &folder, &ledger);
    Ok(if well && late.is_none() { 0 } else { 1 })
}

/// Too little space would end in refusals, which are right and not what anybody came to see.
fn check_space(folder: &Path, messages: u64) -> anyhow::Result<()> {
    let needed = FREE_BYTES_MIN + FREE_BYTES_PER_MESSAGE * messages;
    match disk_space(folder) {
        Some((free, _)) if free < needed => Err(anyhow!(
            "{} has {} free, {} are needed. Elsewhere: TMPDIR=DIR {} demo",
            folder.display(),
            units::size(free),
            units::size(needed),
            own_name()
        )),
        _ => Ok(()),
    }
}

fn introduce(args: &DemoArgs, folder: &Folder) {
    let pelton = own_name();
    say(&format!(
        "{} to {} domains behind 8 receiving hosts, through 2 bindings, all on loopback",
        units::counted(args.messages, "message"),
        world::DOMAINS.len(),
    ));
    say(&format!(
        "look around meanwhile: {pelton} status --spool {}\n",
        folder.file("spool").display()
    ));
}

fn load(args: &DemoArgs, folder: &Folder, target: SocketAddr) -> anyhow::Result<BlastConfig> {
    let connections = CONNECTIONS.min(usize::try_from(args.messages)?);
    Ok(BlastConfig {
        connections,
        messages: Some(args.messages),
        rate: (args.rate > 0).then_some(args.rate as f64),
        mode: Mode::Pipelining,
        sizes: Mix::sizes(SIZES).map_err(anyhow::Error::msg)?,
        domains: world::domain_mix()?,
        reconnect: true,
        run: std::process::id(),
        acked: Some(folder.file("acked")),
        ..BlastConfig::to(target)
    })
}

/// The last lines: where to go from here. They are no result, so they go to standard error.
fn what_next(args: &DemoArgs, folder: &Folder, ledger: &Ledger) {
    let pelton = own_name();
    let kept = folder.path.display();
    let commands = if args.keep {
        let tried_twice = ledger.recipients.iter().find(|(_, it)| it.delays > 0);
        let (name, _) = tried_twice.unzip();
        let name = name.map_or("u0@mail.example", AsRef::as_ref);
        [
            format!("{pelton} trace {name} --spool {kept}/spool"),
            format!("{pelton} changes --spool {kept}/spool"),
            format!("{pelton} check --config {kept}/pelton.conf"),
        ]
    } else {
        [
            format!("{pelton} demo --keep                        the same, to look at afterwards"),
            format!("{pelton} demo --messages 100000 --rate 0    as fast as this machine can"),
            format!("{pelton} check --config config/pelton.conf  an annotated configuration"),
        ]
    };
    eprintln!("\nNext      {}", commands.join("\n          "));
}

/// The command as it was typed, so that what is shown can be typed again.
fn own_name() -> String {
    std::env::args().next().unwrap_or_else(|| "pelton".into())
}

/// A folder of this run alone. Dropping it removes it, unless it is to be kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn make(keep: bool) -> anyhow::Result<Folder> {
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        let mut number = 0;
        loop {
            let name = format!("pelton-demo-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match builder.create(&path) {
                Ok(()) => return Ok(Folder { path, keep }),
                // Left there by an earlier process of the same number.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => {
                    let what = format!("cannot make the folder {}", path.display());
                    return Err(error).context(what);
                }
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.path, self.keep);
    }
}

fn remove(path: &Path, keep: bool) {
    if keep {
        eprintln!("kept      {}", path.display());
    } else if let Err(error) = fs::remove_dir_all(path) {
        eprintln!("pelton demo: cannot remove {}: {error}", path.display());
    }
}

/// Ends the process if it does not end by itself. Dropping it calls it off.
struct Watchdog {
    _called_off: mpsc::Sender<()>,
}

impl Watchdog {
    fn start(limit: Duration, folder: &Folder) -> anyhow::Result<Watchdog> {
        let (called_off, ended) = mpsc::channel::<()>();
        let (path, keep) = (folder.path.clone(), folder.keep);
        let bark = move || {
            if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!(
                    "pelton demo: not done after {} s and stuck: given up. That is a fault of \
                     Pelton, or a machine under very heavy load",
                    limit.as_secs()
                );
                remove(&path, keep);
                std::process::exit(1);
            }
        };
        let thread = std::thread::Builder::new().name("watchdog".into());
        thread.spawn(bark).context("cannot start a thread")?;
        Ok(Watchdog {
            _called_off: called_off,
        })
    }
}

/// The engine of the demo and the way to ask it.
struct Engine {
    process: Process,
    listen: SocketAddr,
    socket: PathBuf,
    notices: Arc<Mutex<Vec<String>>>,
    clock: Clock,
}

impl Engine {
    fn start(world: &World, folder: &Folder) -> anyhow::Result<Engine> {
        let mut attempt = 1;
        loop {
            let listen = world::free_listen_addr().context("no free port on 127.0.0.1")?;
            match Engine::start_at(world, folder, listen) {
                // Somebody else took the port between the choice and the start.
                Err(error) if attempt < START_ATTEMPTS && error.to_string().contains("E109") => {
                    attempt += 1;
                }
                started => return started,
            }
        }
    }

    fn start_at(world: &World, folder: &Folder, listen: SocketAddr) -> anyhow::Result<Engine> {
        let path = folder.file("pelton.conf");
        fs::write(&path, world.config(&folder.path, listen))
            .with_context(|| format!("cannot write {}", path.display()))?;
        let notices = Arc::new(Mutex::new(Vec::new()));
        let hears = notices.clone();
        let file = path.clone();
        let mut environment = detect_environment();
        environment.hostname = world::HOSTNAME.to_owned();
        let options = Options {
            load: Arc::new(move || read_config(&file, &[], &environment)),
            config_file: path.display().to_string(),
            hostname: world::HOSTNAME.to_owned(),
            notice: Arc::new(move |level, text| notice(&hears, level, text)),
        };
        let process = Process::start(options).map_err(|refused| anyhow!(refused.sentence))?;
        Ok(Engine {
            process,
            listen,
            socket: folder.file("spool/pelton.sock"),
            notices,
            clock: Clock::start(),
        })
    }

    fn now(&self) -> Mono {
        self.clock.now().mono
    }

    /// Stops it and waits, but not for ever; returns what it had to say.
    fn stop(self) -> Vec<String> {
        self.process.shutdown("the demo is over");
        let (sender, ended) = mpsc::channel();
        let process = self.process;
        // Nobody listens any more when it ends after the time is up.
        std::thread::spawn(move || drop(sender.send(process.wait())));
        let ended = ended.recv_timeout(STOP_LIMIT).unwrap_or_else(|_| {
            let seconds = STOP_LIMIT.as_secs();
            Ended::Failed(format!("it did not stop within {seconds} s"))
        });
        let notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notices = notices.clone();
        if let Ended::Failed(why) = ended {
            notices.push(format!("FAIL {why}"));
        }
        notices
    }
}

/// Warnings and errors are for the end of the run; the rest shows in the view.
fn notice(notices: &Mutex<Vec<String>>, level: Level, text: &str) {
    let word = match level {
        Level::Info => return,
        Level::Warn => "WARN",
        Level::Error => "FAIL",
    };
    let mut notices = notices.lock().unwrap_or_else(PoisonError::into_inner);
    if notices.len() < NOTICES_MAX {
        notices.push(format!("{word} {text}"));
    }
}

/// How a run ended.
struct Watched {
    stats: ShardStats,
    took: Duration,
    /// Why it was given up before every message had its outcome.
    late: Option<String>,
}

/// Shows the run until every message has its outcome, time is up, or somebody interrupts it.
fn watch(
    args: &DemoArgs,
    engine: &Engine,
    blast: &Blast,
    view: &mut View,
    interrupted: &AtomicBool,
) -> anyhow::Result<Watched> {
    let began = engine.now();
    let mut client = None;
    let mut injected = false;
    loop {
        // Until everything is sent the generator is what is waited for, then just the time.
        match injected {
            false => injected = blast.wait(view::REFRESH),
            true => std::thread::sleep(view::REFRESH),
        }
        let took = engine.now().since(began);
        let asked = ask(&mut client, &engine.socket);
        let late = took >= args.run_limit() || interrupted.load(Ordering::SeqCst);
        let (status, queues) = match asked {
            Ok(asked) => asked,
            // It may be busy; the next time it may answer.
            Err(_) if !late => continue,
            Err(error) => return Err(error.context("the engine gave no account of itself")),
        };
        let seen = blast.stats();
        view.show(&Frame {
            at: took,
            wanted: args.messages,
            acknowledged: seen.acknowledged,
            p50: seen.latency(0.5),
            p99: seen.latency(0.99),
            status: &status,
            queues: &queues,
        });
        let stats = status.total;
        let open = unfinished(&stats, seen.recipients);
        if injected && open == 0 {
            let late = None;
            return Ok(Watched { stats, took, late });
        }
        if late {
            let late = Some(format!(
                "FAIL given up after {} s: {} without an outcome yet",
                took.as_secs(),
                units::counted(open, "message")
            ));
            return Ok(Watched { stats, took, late });
        }
    }
}

/// Messages that the engine has accepted, or acknowledged, and not finished.
fn unfinished(stats: &ShardStats, acknowledged: u64) -> u64 {
    let counters = &stats.counters;
    let ended = counters.messages_delivered
        + counters.messages_bounced
        + counters.messages_expired
        + counters.messages_discarded;
    counters
        .messages_injected
        .max(acknowledged)
        .saturating_sub(ended)
}

type Account = (Box<StatusData>, Vec<QueueSummary>);

/// Asks the engine how it stands, over the socket that every other command uses.
fn ask(client: &mut Option<Client>, socket: &Path) -> anyhow::Result<Account> {
    let answer = ask_once(client, socket);
    if answer.is_err() {
        // What is left of a reply must not be taken for the next one.
        *client = None;
    }
    answer
}

fn ask_once(client: &mut Option<Client>, socket: &Path) -> anyhow::Result<Account> {
    let failed = |failure: crate::cli::output::Failure| anyhow!(failure.message);
    let client = match client {
        Some(client) => client,
        None => client.insert(Client::connect(socket).map_err(failed)?),
    };
    let Reply::Status(status) = client.ask(&Request::Status).map_err(failed)?.reply else {
        return Err(anyhow!("it replied to another question"));
    };
    let request = Request::Queues {
        filter: Filter::default(),
        limit: view::QUEUES_SHOWN,
    };
    let Reply::Queues(queues) = client.ask(&request).map_err(failed)?.reply else {
        return Err(anyhow!("it replied to another question"));
    };
    Ok((status, queues.queues))
}
