//! The whole process put together: config, spool, shards and control. `serve` runs one for an
//! operator, `demo` and the tests run them side by side.

mod books;
mod prepare;
mod recovery;

use core::time::Duration;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::base::map::Map;
use crate::base::time::{Mono, Wall};
use crate::base::units;
use crate::bridge::FromShard;
use crate::bridge::mesh;
use crate::cli::process::books::Books;
use crate::cli::process::recovery::Recovery;
use crate::config::{Checked, Config, Diagnostic, Severity, SpoolSync};
use crate::control::dns::Dns;
use crate::control::http;
use crate::control::journal::Journal;
use crate::control::learnt::{Learnt, LearntSender};
use crate::control::management::protocol::{ConfigOnDisk, ReloadData};
use crate::control::management::{Asked, Facts, Server, Surroundings, disk_space, unnamed_binding};
use crate::control::orders::Registry;
use crate::control::reading::{self, Progress};
use crate::control::startup::{self, SpoolLock};
use crate::control::switchboard::{Ended, Request, Switchboard};
use crate::control::throttles::{KeptThrottles, ThrottlesSender};
use crate::engine::Setup;
use crate::engine::cells::Cells;
use crate::engine::io::Level;
use crate::engine::query::{Answer, Query};
use crate::engine::stats::ShardStats;
use crate::shard::{self, clock::Clock, disk::Folders, faults};
use crate::spool::SpoolFile;
use crate::types::id::{SHARDS_MAX, ShardId};
use crate::types::order::Orders;

/// How often free space and memory are looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// The same notice is not repeated within this time, nor are more than so many different ones
/// told in it: a fault that strikes a thousand times says so once.
const NOTICE_QUIET: Duration = Duration::from_secs(10);
const NOTICES_TOLD_MAX: usize = 256;

/// How long the shards may take to say what a reload did to the queued mail.
const LOOK_TIMEOUT: Duration = Duration::from_secs(4);

/// What the journal says of a run without an end, before the start that found it.
const CUT_OFF: &str = "the last run ended without notice: it was killed, crashed or lost power; \
                       what was on the wire then may come twice";

/// Requests to the switchboard that may wait.
const REQUESTS_MAX: usize = 256;

/// Reads and checks the configuration anew; or all that was found, in the order of the files.
pub type Load = Arc<dyn Fn() -> Result<Checked, Vec<Diagnostic>> + Send + Sync>;

/// Hears one line at a time.
pub type Notice = Arc<dyn Fn(Level, &str) + Send + Sync>;

/// What a process is made from.
pub struct Options {
    pub load: Load,
    /// As the operator named it.
    pub config_file: String,
    pub hostname: String,
    /// Hears of progress and notices, one line each.
    pub notice: Notice,
}

/// Why a process did not start.
#[derive(Debug)]
pub struct Refused {
    /// 78 for the configuration, 1 for the rest.
    pub exit: i32,
    pub sentence: String,
}

impl Refused {
    fn new(sentence: String) -> Refused {
        Refused { exit: 1, sentence }
    }
}

/// The faults of the spool that the environment asks for.
fn spool_faults(tell: &Notice) -> Result<faults::Plan, Refused> {
    let Some(text) = std::env::var_os(faults::VARIABLE) else {
        return Ok(faults::Plan::default());
    };
    let plan = faults::Plan::parse(&text.to_string_lossy());
    let plan = plan.map_err(|sentence| Refused { exit: 78, sentence })?;
    let text = format!(
        "{} is set: the spool is slow or fails on purpose ({}). For tests only",
        faults::VARIABLE,
        text.to_string_lossy(),
    );
    tell(Level::Warn, &text);
    Ok(plan)
}

/// The warnings of a check, each in its first line.
fn warnings(notes: &[Diagnostic]) -> impl Iterator<Item = String> {
    let of = |note: &Diagnostic| note.severity == Severity::Warning;
    let all = notes.iter().filter(move |note| of(note));
    all.filter_map(|note| note.to_string().lines().next().map(str::to_owned))
}

/// All that was found, each finding from a line of its own on.
fn whole(found: &[Diagnostic]) -> String {
    found.iter().map(|it| format!("{it}\n")).collect()
}

/// A start with a configuration that is none.
fn invalid(found: Vec<Diagnostic>) -> Refused {
    Refused {
        exit: 78,
        sentence: whole(&found),
    }
}

/// Why a configuration is refused, in one line: the first error, whatever advice is before it.
fn first_error(found: &[Diagnostic]) -> String {
    let first = found.iter().min_by_key(|it| it.severity);
    let text = first.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_string()
}

/// A configuration that can run now: with the addresses of this start, where others need a restart.
fn for_this_start(boot: &Config, mut checked: Checked) -> Result<Checked, Vec<Diagnostic>> {
    checked.config.keep_listens_of(boot)?;
    Ok(checked)
}

/// Takes all that another process may hold, and makes the folders. What can fail without a trace
/// is tried before the first one is made; a spool that is there is asked first, since its holder
/// has the addresses too, and is the better reason.
fn claim(config: &Config, base: &Path, clock: &Clock) -> Result<SpoolLock, String> {
    let lock = base.is_dir().then(|| startup::lock_spool(base));
    let lock = lock.transpose()?;
    prepare::claim_addresses(config, clock)?;
    prepare::probe_ring()?;
    let lock = match lock {
        Some(lock) => lock,
        None => startup::lock_spool(base)?,
    };
    startup::make_folder(Path::new(&config.global().event_log))?;
    Ok(lock)
}

/// Counts this start in a spool that this program can read; one that it cannot stays as it is.
fn count_start(base: &Path, shards: usize, seed: u64) -> Result<SpoolFile, Refused> {
    let readable = reading::check_formats(base);
    let counted = readable.and_then(|()| startup::count_start(base, shards, seed));
    counted.map_err(Refused::new)
}

fn spawn_shards(
    state: &State,
    faults: &faults::Plan,
    setups: Vec<Setup>,
    ports: Vec<mesh::Port>,
    control: &shard::ControlSender,
) -> Result<Vec<JoinHandle<()>>, Refused> {
    let config = state.config();
    let global = config.global();
    let cores = prepare::cores(&config, setups.len());
    let folders = Folders {
        spool: PathBuf::from(&global.spoolbase),
        events: PathBuf::from(&global.event_log),
        mode: global.spool_mode,
    };
    let spawn = |(setup, port): (Setup, mesh::Port)| {
        shard::spawn(shard::Start {
            listen: prepare::smtp_addresses(&config),
            disk: folders.clone(),
            faults: faults.clone(),
            core: cores.get(setup.shard.index()).copied(),
            clock: state.clock,
            port,
            control: control.clone(),
            setup,
        })
    };
    setups
        .into_iter()
        .zip(ports)
        .map(spawn)
        .collect::<Result<_, _>>()
        .map_err(Refused::new)
}

/// A running engine.
pub struct Process {
    control: Option<JoinHandle<Ended>>,
    /// Bring to disk what adaptive delivery learns, and what starts under throttles.
    keepers: Vec<JoinHandle<()>>,
    shards: Vec<JoinHandle<()>>,
    state: Arc<State>,
    _lock: SpoolLock,
}

/// What reload changes and others look at.
struct State {
    options: Options,
    running: Mutex<Running>,
    requests: mpsc::Sender<Request>,
    journal: Arc<Journal>,
    clock: Clock,
    boot: Boot,
    started: Wall,
    /// When the shutdown began.
    stopping: OnceLock<Mono>,
    /// Why the process ends by itself.
    failed: OnceLock<String>,
}

/// What a process was started with.
struct Boot {
    /// Options that need a restart are still as they are here.
    config: Arc<Config>,
    cells: Arc<Cells>,
    /// Number of this start of the spool.
    start: u32,
    reading: Arc<Progress>,
    /// See [`startup::CleanEnd::doubt`].
    doubt: Option<Wall>,
    /// The run before this one has not come to its end.
    cut_off: bool,
    journal: Arc<Journal>,
    orders: Arc<Registry>,
}

struct Running {
    config: Arc<Config>,
    generation: u64,
    loaded: Wall,
}

impl Process {
    /// Starts everything and returns when every address accepts connections.
    pub fn start(options: Options) -> Result<Process, Refused> {
        let checked = (options.load)().map_err(invalid)?;
        let faults = spool_faults(&options.notice)?;
        let config = Arc::new(checked.config);
        let shards = config.shard_count() as usize;
        if shards > SHARDS_MAX {
            let sentence = format!("E106 {shards} shards are too many, {SHARDS_MAX} are the most");
            return Err(Refused::new(sentence));
        }
        let (enough, note) = startup::raise_limits(shards);
        enough.map_err(Refused::new)?;
        for warning in note.into_iter().chain(warnings(&checked.notes)) {
            (options.notice)(Level::Warn, &warning);
        }
        let clock = Clock::start();
        let base = PathBuf::from(&config.global().spoolbase);
        let lock = claim(&config, &base, &clock).map_err(Refused::new)?;
        let seed = prepare::random();
        let spool = count_start(&base, shards, seed)?;
        let begun = Recovery::begin(&base, &spool, &clock, &options.notice, &faults);
        let (beginnings, mut recovery) = begun.map_err(Refused::new)?;
        let found = recovery.wait(&config).map_err(Refused::new)?;
        let late = found.is_none();
        let (homes, damage) = recovery.told_with(found);
        let setups = prepare::setups(&options, &config, &spool, (beginnings, homes), seed);
        let mut setups = setups.map_err(Refused::new)?;
        let cells = setups[0].cells.clone();
        let books = Books::open(&config, &lock, (clock, &cells), &options.notice)?;
        books::look_for_sources(&books.orders, &config, &options.notice);
        books.fill(&mut setups);
        let (requests, requests_rx) = mpsc::channel(REQUESTS_MAX);
        let boot = Boot {
            config,
            cells,
            start: spool.starts,
            reading: recovery.progress(),
            doubt: recovery.doubt,
            cut_off: recovery.cut_off,
            journal: books.journal,
            orders: books.orders,
        };
        let state = State::new(options, boot, &damage, clock, requests)?;
        let (ports, port) = mesh::build(shards);
        let (from_shards, from_shards_rx) = mpsc::unbounded_channel();
        let (ready, ready_rx) = oneshot::channel();
        let (kept, keepers) = state.keep(books.learnt, books.throttles)?;
        let heard = (from_shards_rx, requests_rx, books.heard, kept);
        let control = Control::start(state.clone(), port, ready, heard)?;
        if late {
            state.clone().recover(recovery)?;
        } else {
            state.boot.reading.end();
        }
        let shards = spawn_shards(&state, &faults, setups, ports, &from_shards)?;
        drop(from_shards);
        let mut process = Process {
            control: Some(control),
            keepers,
            shards,
            state,
            _lock: lock,
        };
        match ready_rx.blocking_recv() {
            Ok(()) => Ok(process),
            Err(_) => Err(Refused::new(match process.join() {
                Ended::Failed(why) => format!("E108 {why}"),
                Ended::Drained { .. } => "E108 the shards stopped at once".to_string(),
            })),
        }
    }

    pub fn config(&self) -> Arc<Config> {
        self.state.config()
    }

    /// Loads the configuration again, as `pelton reload` does.
    pub fn reload(&self, by: &str) -> Result<ReloadData, Vec<Diagnostic>> {
        self.handle().reload(by)
    }

    /// Begins the shutdown; [`Self::wait`] returns when it is done.
    pub fn shutdown(&self, why: &str) {
        self.state.shutdown(why);
    }

    /// A handle that can begin the shutdown and reload from another thread.
    pub fn handle(&self) -> Handle {
        Handle(self.state.clone())
    }

    /// Returns when the process has ended.
    pub fn wait(mut self) -> Ended {
        self.join()
    }

    fn join(&mut self) -> Ended {
        let control = self.control.take().map(JoinHandle::join);
        let ended = match control {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Ended::Failed("the control thread panicked".to_string()),
            None => Ended::Drained { queued: None },
        };
        let Ended::Drained { queued } = ended else {
            return ended;
        };
        for shard in self.shards.drain(..) {
            let _ = shard.join();
        }
        // Control is gone, and nothing more comes.
        for keeper in self.keepers.drain(..) {
            let _ = keeper.join();
        }
        if let Some(why) = self.state.failed.get() {
            return Ended::Failed(why.clone());
        }
        let boot = &self.state.boot;
        let spool = &boot.config.global().spoolbase;
        startup::note_clean_end(Path::new(spool), boot.start, boot.doubt);
        let all_known = boot.reading.segments().is_none();
        let queued = queued.filter(|_| all_known);
        self.state.tell_end(queued);
        Ended::Drained { queued }
    }
}

/// For signals.
#[derive(Clone)]
pub struct Handle(Arc<State>);

impl Handle {
    pub fn shutdown(&self, why: &str) {
        self.0.shutdown(why);
    }

    /// Not for a thread of the runtime: it waits for the shards to say what the reload did.
    pub fn reload(&self, by: &str) -> Result<ReloadData, Vec<Diagnostic>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.0.reload_and_look(by)),
            // The reload itself needs no clock.
            Err(_) => self.0.reload(by),
        }
    }
}

impl State {
    fn new(
        options: Options,
        boot: Boot,
        damage: &[String],
        clock: Clock,
        requests: mpsc::Sender<Request>,
    ) -> Result<Arc<State>, Refused> {
        let config = boot.config.clone();
        let journal = boot.journal.clone();
        let now = clock.now().wall;
        let version = env!("CARGO_PKG_VERSION");
        let text = format!("version {version}, config {}", config.short_digest());
        // The journal tells of the past; the engine runs without it.
        if boot.cut_off {
            let _ = journal.append(now, "crash", "pelton", CUT_OFF);
        }
        let _ = journal.append(now, "start", "pelton", &text);
        journal.append_damage(now, damage);
        let running = Mutex::new(Running {
            config,
            generation: 1,
            loaded: now,
        });
        Ok(Arc::new(State {
            options,
            running,
            requests,
            journal,
            clock,
            boot,
            started: now,
            stopping: OnceLock::new(),
            failed: OnceLock::new(),
        }))
    }

    /// Starts what keeps what adaptive delivery learns, and what starts under throttles.
    fn keep(
        self: &Arc<State>,
        learnt: Learnt,
        throttles: KeptThrottles,
    ) -> Result<(Kept, Vec<JoinHandle<()>>), Refused> {
        let (clock, say) = (self.clock, self.options.notice.clone());
        let complain = move |text: &str| say(Level::Error, text);
        let no_thread = |error| Refused::new(format!("E106 no thread for the ledgers: {error}"));
        let learnt = learnt.keep(
            self.journal.clone(),
            move || clock.now().wall,
            complain.clone(),
        );
        let (learnt, first) = learnt.map_err(no_thread)?;
        let (granted, granted_rx) = mpsc::unbounded_channel();
        let throttles = throttles.keep(move || clock.now(), granted, complain);
        let (throttles, second) = throttles.map_err(no_thread)?;
        Ok(((learnt, throttles, granted_rx), vec![first, second]))
    }

    fn config(&self) -> Arc<Config> {
        self.lock().config.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits beside everything else for what earlier starts have left, and passes it on.
    fn recover(self: Arc<State>, recovery: Recovery) -> Result<(), Refused> {
        let wait = move || {
            let found = match recovery.wait_long(&|| self.config()) {
                None => return,
                Some(Ok(found)) => found,
                Some(Err(why)) => {
                    (self.options.notice)(Level::Error, &why);
                    let _ = self.failed.set(why.clone());
                    return self.shutdown(&why);
                }
            };
            let now = self.clock.now().wall;
            self.journal.append_damage(now, &found.damage);
            let homes = found.homes;
            // The end has come before: all of it stays on disk.
            let _ = self.requests.blocking_send(Request::Recovered { homes });
        };
        let thread = std::thread::Builder::new().name("recovered".to_string());
        let spawned = thread.spawn(wait);
        spawned
            .map(drop)
            .map_err(|error| Refused::new(format!("E106 no thread for the spool: {error}")))
    }

    /// The last line: how long it took, and what is left for the next start.
    fn tell_end(&self, queued: Option<u64>) {
        let Some(since) = self.stopping.get() else {
            return;
        };
        let took = units::duration(self.clock.now().mono.since(*since));
        let left = match queued {
            None => "what is queued stays in the spool".to_string(),
            Some(0) => "nothing is left in the queues".to_string(),
            Some(count) => {
                let (messages, are) = (units::counted(count, "message"), units::are(count));
                format!("{messages} {are} left in the queues, safe in the spool")
            }
        };
        (self.options.notice)(Level::Info, &format!("stopped: drained in {took}; {left}"));
    }

    fn shutdown(&self, why: &str) {
        let _ = self.stopping.set(self.clock.now().mono);
        self.boot.reading.stop();
        let grace = self.config().global().shutdown_grace;
        let _ = self
            .journal
            .append(self.clock.now().wall, "stop", "pelton", why);
        let _ = self.requests.blocking_or_try(Request::Shutdown { grace });
    }

    /// Reloads, and tells what of the queued mail has lost its binding by it.
    async fn reload_and_look(&self, by: &str) -> Result<ReloadData, Vec<Diagnostic>> {
        let mut reloaded = self.reload(by)?;
        let (reply, answers) = oneshot::channel();
        // Shards hear of the generation before they are asked.
        let asked = Request::Ask {
            asked: Asked::All,
            query: Query::Status,
            reply,
        };
        let _ = self.requests.blocking_or_try(asked);
        let answers = tokio::time::timeout(LOOK_TIMEOUT, answers).await;
        let answers = answers.ok().and_then(Result::ok).unwrap_or_default();
        let mut total = ShardStats::default();
        for answer in &answers {
            if let Answer::Status(stats) = answer {
                total.merge(stats);
            }
        }
        if let Some(text) = unnamed_binding(&total.gauges) {
            (self.options.notice)(Level::Warn, &text);
            if reloaded.changed {
                let at = self.clock.now().wall;
                let _ = self.journal.append(at, "config", by, &text);
            }
            reloaded.notes.push(text);
        }
        Ok(reloaded)
    }

    /// A file with errors leaves the running generation untouched and says why. Whoever asked, the
    /// log and the journal tell too.
    fn reload(&self, by: &str) -> Result<ReloadData, Vec<Diagnostic>> {
        let tell = &self.options.notice;
        let reloaded = self.try_reload(by);
        match &reloaded {
            Ok(done) if done.changed => {
                let (digest, generation) = (&done.digest, done.generation);
                tell(
                    Level::Info,
                    &format!(
                        "configuration {digest} runs, generation {generation} (reloaded by {by})"
                    ),
                );
                done.notes.iter().for_each(|note| tell(Level::Warn, note));
            }
            Ok(_) => tell(Level::Info, "the configuration has not changed"),
            Err(why) => {
                tell(Level::Error, &format!("reload refused: {}", whole(why)));
                let at = self.clock.now().wall;
                let text = format!("reload refused: {}", first_error(why));
                let _ = self.journal.append(at, "config", by, &text);
            }
        }
        reloaded
    }

    fn try_reload(&self, by: &str) -> Result<ReloadData, Vec<Diagnostic>> {
        let checked = (self.options.load)()?;
        let checked = for_this_start(&self.boot.config, checked)?;
        let config = Arc::new(checked.config);
        let mut running = self.lock();
        let restart = self.boot.config.changed_static_options(&config);
        let mut notes: Vec<String> = restart
            .iter()
            .map(|it| format!("{it} takes effect at the next start, until then it stays as it was"))
            .collect();
        let absent = prepare::absent_sources(&config);
        notes.extend(absent.iter().map(ToString::to_string));
        let _ = self.boot.orders.set_absent(absent);
        notes.extend(warnings(&checked.notes));
        let changed = running.config.digest() != config.digest();
        let digest = config.short_digest();
        if changed {
            let dns = Dns::new(&config.global().dns_servers, config.global().dns_timeout);
            if let Ok(with) = dns {
                let _ = self.requests.blocking_or_try(Request::Resolve {
                    with: Box::new(with),
                });
            }
            let request = Request::Reload {
                config: config.clone(),
            };
            let _ = self.requests.blocking_or_try(request);
            running.generation += 1;
            running.config = config;
            running.loaded = self.clock.now().wall;
            let text = format!("generation {} ({digest})", running.generation);
            let _ = self.journal.append(running.loaded, "config", by, &text);
        }
        Ok(ReloadData {
            generation: running.generation,
            digest,
            changed,
            notes,
        })
    }

    fn facts(&self) -> Facts {
        let running = self.lock();
        let global = self.boot.config.global();
        Facts {
            node: self.options.hostname.clone(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            started: self.started,
            shards: u64::from(self.boot.config.shard_count()),
            config_file: self.options.config_file.clone(),
            config_digest: running.config.short_digest(),
            config_generation: running.generation,
            config_loaded: running.loaded,
            restart: self.boot.config.changed_static_options(&running.config),
            spool: PathBuf::from(&global.spoolbase),
            spool_sync: match global.spool_sync {
                SpoolSync::Commit => "commit",
                SpoolSync::Interval(_) => "interval",
                SpoolSync::None => "none",
            },
            min_free_bytes: running.config.global().min_free_space,
            event_log: PathBuf::from(&global.event_log),
            disk: disk_space(Path::new(&global.spoolbase)),
            reading: self.boot.reading.segments(),
        }
    }

    fn config_on_disk(&self) -> ConfigOnDisk {
        let loaded = (self.options.load)();
        match loaded.and_then(|checked| for_this_start(&self.boot.config, checked)) {
            Ok(checked) if checked.config.digest() == self.config().digest() => ConfigOnDisk::Same,
            Ok(checked) => ConfigOnDisk::Differs(checked.config.short_digest()),
            Err(why) => ConfigOnDisk::Broken(first_error(&why)),
        }
    }

    fn binding_names(&self) -> Vec<String> {
        let config = self.config();
        let bindings = config.bindings().iter().map(|it| it.name.clone());
        let groups = config.groups().iter().filter(|it| !it.members.is_empty());
        bindings.chain(groups.map(|it| it.name.clone())).collect()
    }

    /// What shards look at before they take mail.
    fn sample(&self) {
        prepare::sample(&self.boot.cells, &self.config(), &self.boot.config);
    }
}

/// A channel whose sender may stand in or outside of the runtime.
trait SendAnyway {
    fn blocking_or_try(&self, request: Request) -> Result<(), ()>;
}

impl SendAnyway for mpsc::Sender<Request> {
    fn blocking_or_try(&self, request: Request) -> Result<(), ()> {
        self.try_send(request).map_err(drop)
    }
}

/// All that the control thread is made from.
struct Control {
    state: Arc<State>,
    server: Server,
    http: Vec<(tokio::net::TcpListener, http::Settings)>,
    port: mesh::ControlPort,
    ready: oneshot::Sender<()>,
}

type Heard = (
    mpsc::UnboundedReceiver<FromShard>,
    mpsc::Receiver<Request>,
    mpsc::UnboundedReceiver<Arc<Orders>>,
    Kept,
);

/// The ways to and from the threads that keep things.
type Kept = (LearntSender, ThrottlesSender, mpsc::UnboundedReceiver<()>);

impl Control {
    /// Binds the sockets of control and starts its thread.
    fn start(
        state: Arc<State>,
        port: mesh::ControlPort,
        ready: oneshot::Sender<()>,
        heard: Heard,
    ) -> Result<JoinHandle<Ended>, Refused> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime
            .map_err(|error| Refused::new(format!("E106 no event loop for control: {error}")))?;
        // Sockets of the runtime are made within it.
        let entered = runtime.enter();
        let config = state.config();
        let path = &config.global().management_socket;
        let server = Server::bind(Path::new(path))
            .map_err(|error| Refused::new(format!("E107 management socket {path}: {error}")))?;
        let http = prepare::http_listeners(&config).map_err(Refused::new)?;
        drop(entered);
        let control = Control {
            state,
            server,
            http,
            port,
            ready,
        };
        let thread = std::thread::Builder::new().name("control".to_string());
        let spawned = thread.spawn(move || {
            let local = tokio::task::LocalSet::new();
            let ended = local.block_on(&runtime, control.run(heard));
            runtime.shutdown_background();
            ended
        });
        spawned.map_err(|error| Refused::new(format!("E106 no thread for control: {error}")))
    }

    async fn run(self, (shards, requests, orders, kept): Heard) -> Ended {
        let Control {
            state,
            server,
            http,
            port,
            ready,
        } = self;
        let config = state.config();
        let global = config.global();
        let dns = match Dns::new(&global.dns_servers, global.dns_timeout) {
            Ok(dns) => dns,
            Err(error) => return Ended::Failed(error.to_string()),
        };
        let surroundings = Arc::new(surroundings(&state));
        tokio::task::spawn_local(server.serve(surroundings.clone()));
        for (listener, settings) in http {
            tokio::task::spawn_local(http::serve(listener, settings, surroundings.clone()));
        }
        let sampled = state.clone();
        tokio::task::spawn_local(async move {
            let mut ticks = tokio::time::interval(SAMPLE_EVERY);
            loop {
                ticks.tick().await;
                sampled.sample();
            }
        });
        let registry = state.boot.orders.clone();
        tokio::task::spawn_local(books::end_orders(registry.clone(), state.clock));
        tokio::task::spawn_local(books::watch_sources(state.clone()));
        let say = state.options.notice.clone();
        let (clock, mut told) = (state.clock, Map::<String, Mono>::default());
        let notice = Box::new(move |shard: ShardId, level, text: &str| {
            let now = clock.now().mono;
            told.retain(|_, until| now < *until);
            if told.len() < NOTICES_TOLD_MAX && !told.contains_key(text) {
                told.insert(text.to_string(), now + NOTICE_QUIET);
                say(level, &format!("shard {}: {text}", shard.0));
            }
        });
        let ready = (ready, state.boot.reading.clone());
        let (learnt, throttles, granted) = kept;
        Switchboard::new(port, dns, notice, ready, (registry, orders))
            .keeping(learnt)
            .reserving(throttles, granted)
            .run(shards, requests)
            .await
    }
}

fn surroundings(state: &Arc<State>) -> Surroundings {
    let (asking, reloading) = (state.clone(), state.clone());
    let (facts, disk, clock) = (state.clone(), state.clone(), state.clone());
    let names = state.clone();
    Surroundings {
        ask: Arc::new(move |asked, query| {
            let requests = asking.requests.clone();
            Box::pin(async move {
                let (reply, answers) = oneshot::channel();
                if requests
                    .send(Request::Ask {
                        asked,
                        query,
                        reply,
                    })
                    .await
                    .is_err()
                {
                    return Vec::new();
                }
                answers.await.unwrap_or_default()
            })
        }),
        reload: Arc::new(move |by| {
            let state = reloading.clone();
            Box::pin(async move { state.reload_and_look(&by).await })
        }),
        facts: Arc::new(move || facts.facts()),
        config_on_disk: Arc::new(move || disk.config_on_disk()),
        bindings: Arc::new(move || names.binding_names()),
        clock: Arc::new(move || clock.clock.now().wall),
        journal: state.journal.clone(),
        orders: state.boot.orders.clone(),
    }
}
