//! The whole process put together: config, spool, shards and control. `serve` runs one for an
//! operator, `demo` and the tests run them side by side.

use core::time::Duration;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::base::prng::Prng;
use crate::base::time::Wall;
use crate::bridge::mesh;
use crate::config::{Checked, Config, ListenerKind, SpoolSync};
use crate::control::dns::Dns;
use crate::control::journal::{JOURNAL_BYTES_MAX, Journal};
use crate::control::management::protocol::{ConfigOnDisk, ReloadData};
use crate::control::management::{Facts, Server, Surroundings};
use crate::control::startup::{self, SpoolLock};
use crate::control::switchboard::{Ended, Request, Switchboard};
use crate::control::{http, metrics};
use crate::engine::Setup;
use crate::engine::cells::Cells;
use crate::engine::io::Level;
use crate::engine::settings::Identity;
use crate::hose::{self, Hose};
use crate::log::SyncMode;
use crate::shard::{self, clock::Clock, disk::Folders, net};
use crate::spool::{self, Spool};
use crate::types::id::{SHARDS_MAX, ShardId};

/// How often free space and memory are looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Requests to the switchboard that may wait.
const REQUESTS_MAX: usize = 256;

/// The share of the disk that one shard's segments may take is the disk: free space decides.
const SEGMENTS_MAX: u32 = 1_000_000;

/// Reads and checks the configuration anew; the error is for the operator, whole.
pub type Load = Arc<dyn Fn() -> Result<Checked, String> + Send + Sync>;

/// What a process is made from.
pub struct Options {
    pub load: Load,
    /// As the operator named it.
    pub config_file: String,
    pub hostname: String,
    /// Hears of progress and notices, one line each.
    pub notice: Arc<dyn Fn(Level, &str) + Send + Sync>,
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

/// A running engine.
pub struct Process {
    control: Option<JoinHandle<Ended>>,
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
    cells: Arc<Cells>,
    clock: Clock,
    started: Wall,
}

struct Running {
    config: Arc<Config>,
    generation: u64,
    loaded: Wall,
}

impl Process {
    /// Starts everything and returns when every address accepts connections.
    pub fn start(options: Options) -> Result<Process, Refused> {
        let checked = (options.load)().map_err(|sentence| Refused { exit: 78, sentence })?;
        let config = Arc::new(checked.config);
        let shards = config.shard_count() as usize;
        if shards > SHARDS_MAX {
            let sentence = format!("E106 {shards} shards are too many, {SHARDS_MAX} are the most");
            return Err(Refused::new(sentence));
        }
        let (enough, note) = startup::raise_limits(shards);
        enough.map_err(Refused::new)?;
        if let Some(note) = note {
            (options.notice)(Level::Warn, &note);
        }
        let global = config.global().clone();
        let base = PathBuf::from(&global.spoolbase);
        let lock = startup::lock_spool(&base).map_err(Refused::new)?;
        startup::make_folder(Path::new(&global.event_log)).map_err(Refused::new)?;
        for (address, place) in listen_addresses(&config) {
            net::probe(address)
                .map_err(|error| Refused::new(listen_sentence(address, &place, &error)))?;
        }
        let clock = Clock::start();
        let seed = random();
        let setups = setups(&options, &config, &base, seed, &clock).map_err(Refused::new)?;
        let cells = setups[0].cells.clone();
        let journal = Journal::open(Path::new(&global.journal), JOURNAL_BYTES_MAX)
            .map_err(|error| Refused::new(format!("E101 journal {}: {error}", global.journal)))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime
            .map_err(|error| Refused::new(format!("E106 no event loop for control: {error}")))?;
        // Sockets of the runtime are made within it.
        let entered = runtime.enter();
        let server = Server::bind(Path::new(&global.management_socket)).map_err(|error| {
            Refused::new(format!(
                "E107 management socket {}: {error}",
                global.management_socket
            ))
        })?;
        let http = http_listeners(&config).map_err(Refused::new)?;
        drop(entered);
        let (requests, requests_rx) = mpsc::channel(REQUESTS_MAX);
        let now = clock.now().wall;
        let state = Arc::new(State {
            running: Mutex::new(Running {
                config: config.clone(),
                generation: 1,
                loaded: now,
            }),
            requests,
            journal: Arc::new(journal),
            options,
            cells,
            clock,
            started: now,
        });
        let _ = state.journal.append(
            now,
            "start",
            "pelton",
            &format!(
                "version {}, config {}",
                env!("CARGO_PKG_VERSION"),
                config.short_digest()
            ),
        );
        let (ports, control_port) = mesh::build(shards);
        let (from_shards, from_shards_rx) = mpsc::unbounded_channel();
        let (ready, ready_rx) = oneshot::channel();
        let control = Control {
            state: state.clone(),
            server,
            http,
            port: control_port,
            ready,
        };
        let control = control.spawn(runtime, from_shards_rx, requests_rx)?;
        let cores = cores(&config, shards);
        let mut threads = Vec::new();
        for (setup, port) in setups.into_iter().zip(ports) {
            let start = shard::Start {
                listen: smtp_addresses(&config),
                disk: Folders {
                    spool: base.clone(),
                    events: PathBuf::from(&global.event_log),
                    mode: global.spool_mode,
                },
                core: cores.get(setup.shard.index()).copied(),
                clock,
                port,
                control: from_shards.clone(),
                setup,
            };
            threads.push(shard::spawn(start).map_err(Refused::new)?);
        }
        drop(from_shards);
        let mut process = Process {
            control: Some(control),
            shards: threads,
            state,
            _lock: lock,
        };
        match ready_rx.blocking_recv() {
            Ok(()) => Ok(process),
            Err(_) => Err(Refused::new(match process.join() {
                Ended::Failed(why) => format!("E108 {why}"),
                Ended::Drained => "E108 the shards stopped at once".to_string(),
            })),
        }
    }

    pub fn config(&self) -> Arc<Config> {
        self.state.config()
    }

    /// Loads the configuration again, as `pelton reload` does.
    pub fn reload(&self, by: &str) -> Result<ReloadData, String> {
        self.state.reload(by)
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
            None => Ended::Drained,
        };
        if ended == Ended::Drained {
            for shard in self.shards.drain(..) {
                let _ = shard.join();
            }
        }
        ended
    }
}

/// For signals.
#[derive(Clone)]
pub struct Handle(Arc<State>);

impl Handle {
    pub fn shutdown(&self, why: &str) {
        self.0.shutdown(why);
    }

    pub fn reload(&self, by: &str) -> Result<ReloadData, String> {
        self.0.reload(by)
    }
}

impl State {
    fn config(&self) -> Arc<Config> {
        self.lock().config.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn shutdown(&self, why: &str) {
        let grace = self.config().global().shutdown_grace;
        let _ = self
            .journal
            .append(self.clock.now().wall, "stop", "pelton", why);
        let _ = self.requests.blocking_or_try(Request::Shutdown { grace });
    }

    /// A file with errors leaves the running generation untouched and says why.
    fn reload(&self, by: &str) -> Result<ReloadData, String> {
        let checked = (self.options.load)().inspect_err(|_| {
            let at = self.clock.now().wall;
            let _ = self
                .journal
                .append(at, "config", by, "reload refused: the file has errors");
        })?;
        let config = Arc::new(checked.config);
        let mut running = self.lock();
        let restart = running.config.changed_static_options(&config);
        if restart.iter().any(|option| option == "Listen") {
            return Err(
                "Listen: the addresses have changed, which needs a restart; \
                        nothing of the new configuration runs"
                    .to_string(),
            );
        }
        let mut notes: Vec<String> = restart
            .iter()
            .map(|it| format!("{it} takes effect at the next start"))
            .collect();
        notes.extend(checked.notes.iter().map(ToString::to_string));
        let changed = running.config.digest() != config.digest();
        let digest = config.short_digest();
        if changed {
            let dns = Dns::new(&config.global().dns_servers, config.global().dns_timeout);
            if let Ok(with) = dns {
                let _ = self.requests.blocking_or_try(Request::Resolve { with });
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
        let global = running.config.global();
        Facts {
            node: self.options.hostname.clone(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            started: self.started,
            shards: u64::from(running.config.shard_count()),
            config_file: self.options.config_file.clone(),
            config_digest: running.config.short_digest(),
            config_generation: running.generation,
            config_loaded: running.loaded,
            spool: PathBuf::from(&global.spoolbase),
            spool_sync: match global.spool_sync {
                SpoolSync::Commit => "commit",
                SpoolSync::Interval(_) => "interval",
                SpoolSync::None => "none",
            },
            min_free_bytes: global.min_free_space,
            event_log: PathBuf::from(&global.event_log),
        }
    }

    fn config_on_disk(&self) -> ConfigOnDisk {
        match (self.options.load)() {
            Ok(checked) if checked.config.digest() == self.config().digest() => ConfigOnDisk::Same,
            Ok(checked) => ConfigOnDisk::Differs(checked.config.short_digest()),
            Err(why) => ConfigOnDisk::Broken(why.lines().next().unwrap_or_default().to_string()),
        }
    }

    /// What shards look at before they take mail.
    fn sample(&self) {
        sample(&self.cells, &self.config());
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

impl Control {
    fn spawn(
        self,
        runtime: tokio::runtime::Runtime,
        shards: mpsc::UnboundedReceiver<crate::bridge::FromShard>,
        requests: mpsc::Receiver<Request>,
    ) -> Result<JoinHandle<Ended>, Refused> {
        let thread = std::thread::Builder::new().name("control".to_string());
        let spawned = thread.spawn(move || {
            let local = tokio::task::LocalSet::new();
            let ended = local.block_on(&runtime, self.run(shards, requests));
            runtime.shutdown_background();
            ended
        });
        spawned.map_err(|error| Refused::new(format!("E106 no thread for control: {error}")))
    }

    async fn run(
        self,
        shards: mpsc::UnboundedReceiver<crate::bridge::FromShard>,
        requests: mpsc::Receiver<Request>,
    ) -> Ended {
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
        let say = state.options.notice.clone();
        let notice = Box::new(move |shard: ShardId, level, text: &str| {
            say(level, &format!("shard {}: {text}", shard.0));
        });
        Switchboard::new(port, dns, notice, ready)
            .run(shards, requests)
            .await
    }
}

fn surroundings(state: &Arc<State>) -> Surroundings {
    let (asking, reloading) = (state.clone(), state.clone());
    let (facts, disk, clock) = (state.clone(), state.clone(), state.clone());
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
            Box::pin(async move { state.reload(&by) })
        }),
        facts: Arc::new(move || facts.facts()),
        config_on_disk: Arc::new(move || disk.config_on_disk()),
        clock: Arc::new(move || clock.clock.now().wall),
        journal: state.journal.clone(),
    }
}

/// Reads the spool back and makes one setup per shard.
fn setups(
    options: &Options,
    config: &Arc<Config>,
    base: &Path,
    seed: u64,
    clock: &Clock,
) -> Result<Vec<Setup>, String> {
    let global = config.global();
    let shards = config.shard_count() as usize;
    let spool_file = startup::count_start(base, shards, seed)?;
    let began = clock.now().mono;
    let mut told = began;
    let mut homes = startup::recover(base, &spool_file, &mut |done, all| {
        let now = clock.now().mono;
        if now.since(told) >= Duration::from_secs(2) {
            told = now;
            (options.notice)(
                Level::Info,
                &format!("reading the spool: {done} of {all} segments"),
            );
        }
    })?;
    report_recovery(options, &homes, clock.now().mono.since(began));
    let arrivals = by_owner(&mut homes, shards);
    let cells = Arc::new(Cells::new(smtp_addresses(config).len()));
    sample(&cells, config);
    let identity = identity(options, config);
    let mut setups = Vec::new();
    for (mut home, arrivals) in homes.into_iter().zip(arrivals) {
        let shard = home.shard;
        let mut log =
            crate::log::Config::new(spool_file.spool_id, shard, spool_file.starts, shards as u16);
        log.segment_bytes = global.spool_segment_size;
        log.sync = match global.spool_sync {
            SpoolSync::Commit => SyncMode::Commit,
            SpoolSync::Interval(every) => SyncMode::Interval(every),
            SpoolSync::None => SyncMode::None,
        };
        let spool_config = spool::Config {
            log,
            segments_max: SEGMENTS_MAX,
        };
        let spool = Spool::new(spool_config, &mut home);
        let existing = startup::event_files(Path::new(&global.event_log), shard, shards)?;
        let hose_settings = hose::Settings {
            max_file_bytes: global.event_log_max_size,
            max_total_bytes: global.event_log_max_total_size / shards as u64,
            retention: global.event_log_retention,
            ..hose::Settings::default()
        };
        setups.push(Setup {
            shard,
            shards,
            start: spool_file.starts,
            seed: Prng::new(seed ^ u64::from(shard.0)).next(),
            config: config.clone(),
            identity: identity.clone(),
            cells: cells.clone(),
            spool,
            hose: Hose::new(hose_settings, shard, existing),
            arrivals,
            unreported: core::mem::take(&mut home.unreported),
        });
    }
    Ok(setups)
}

/// Recovered recipients, for each shard those whose queues it owns.
fn by_owner(homes: &mut [spool::Home], shards: usize) -> Vec<Vec<crate::types::message::Arrival>> {
    let mut owned: Vec<Vec<_>> = (0..shards).map(|_| Vec::new()).collect();
    for home in homes {
        for arrival in core::mem::take(&mut home.arrivals) {
            let domain = arrival.address.routing_domain();
            let owner = crate::engine::owner_of(shards, &arrival.binding, &domain);
            owned[owner.index()].push(arrival);
        }
    }
    owned
}

fn report_recovery(options: &Options, homes: &[spool::Home], took: Duration) {
    let recipients: usize = homes.iter().map(|home| home.arrivals.len()).sum();
    let torn: u32 = homes.iter().map(|home| home.torn_tails).sum();
    if recipients > 0 || torn > 0 {
        let text = format!(
            "recovered {} queued messages from the spool in {}{}",
            crate::base::units::grouped(recipients as u64),
            crate::base::units::duration(took),
            if torn > 0 {
                format!("; {torn} unfinished commits cut")
            } else {
                String::new()
            },
        );
        (options.notice)(Level::Info, &text);
    }
    for damage in homes.iter().flat_map(|home| &home.damage) {
        (options.notice)(Level::Error, &format!("E204 {damage}"));
    }
}

/// Names and addresses under which mail would come back to this process.
fn identity(options: &Options, config: &Config) -> Identity {
    let mut own_names: Vec<Box<str>> = vec![options.hostname.to_lowercase().into()];
    let mut own_addresses = Vec::new();
    for binding in config.bindings() {
        let settings = config.binding_settings(binding.index);
        own_names.push(settings.ehlo_hostname.to_lowercase().into());
        own_addresses.extend(&settings.bind_address);
    }
    own_addresses.extend(smtp_addresses(config).iter().map(SocketAddr::ip));
    own_addresses.retain(|address| !address.is_unspecified());
    own_names.sort();
    own_names.dedup();
    own_addresses.sort();
    own_addresses.dedup();
    Identity {
        own_names,
        own_addresses,
    }
}

fn sample(cells: &Cells, config: &Config) {
    let global = config.global();
    let spool = Path::new(&global.spoolbase);
    if let Some((free, _)) = crate::control::management::disk_space(spool) {
        cells.disk_free.set(free);
    }
    cells
        .memory_used
        .set(metrics::Process::read().resident_bytes);
    let limit = match global.memory_limit {
        0 => machine_memory(),
        limit => limit,
    };
    cells.memory_limit.set(limit);
}

/// RAM, or what the control group allows if that is less; 0 if nobody says.
fn machine_memory() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let ram = kib.unwrap_or(0) * 1_024;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    match group.trim().parse::<u64>() {
        Ok(limit) if limit < ram => limit,
        _ => ram,
    }
}

fn smtp_addresses(config: &Config) -> Vec<SocketAddr> {
    let smtp = config
        .listeners()
        .iter()
        .filter(|it| it.kind == ListenerKind::Smtp);
    let mut listens: Vec<_> = smtp.flat_map(|it| &it.listens).collect();
    listens.sort_by_key(|listen| listen.index);
    listens.into_iter().map(|listen| listen.address).collect()
}

fn http_listeners(
    config: &Config,
) -> Result<Vec<(tokio::net::TcpListener, http::Settings)>, String> {
    let http = config
        .listeners()
        .iter()
        .filter(|it| it.kind == ListenerKind::Http);
    let mut bound = Vec::new();
    for listen in http.flat_map(|it| &it.listens) {
        let failed = |error: std::io::Error| listen_sentence(listen.address, &listen.place, &error);
        let socket = net::listen(listen.address).map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(socket.into()).map_err(failed)?;
        let settings = config.http_settings(listen.index);
        let connections_max = settings.listener_sessions as usize;
        let idle_time = settings.idle_time;
        bound.push((
            listener,
            http::Settings {
                connections_max,
                idle_time,
            },
        ));
    }
    Ok(bound)
}

fn listen_addresses(config: &Config) -> Vec<(SocketAddr, String)> {
    let listens = config
        .listeners()
        .iter()
        .flat_map(|listener| &listener.listens);
    listens
        .map(|listen| (listen.address, listen.place.clone()))
        .collect()
}

fn listen_sentence(address: SocketAddr, place: &str, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "E109 {place}: {address} is in use by another program. Stop that one, or listen elsewhere"
        ),
        std::io::ErrorKind::PermissionDenied => format!(
            "E109 {place}: not allowed to listen on {address}: a port below 1024 needs \
             CAP_NET_BIND_SERVICE"
        ),
        std::io::ErrorKind::AddrNotAvailable => {
            format!("E109 {place}: {address} is no address of this machine")
        }
        _ => format!("E109 {place}: cannot listen on {address}: {error}"),
    }
}

/// The cores to pin shards to; none if they stay unpinned.
fn cores(config: &Config, shards: usize) -> Vec<usize> {
    if !config.global().pin_shards {
        return Vec::new();
    }
    let found = core_affinity::get_core_ids().unwrap_or_default();
    // More shards than cores share them unpinned: pinned they would only get in each other's way.
    if found.len() < shards {
        Vec::new()
    } else {
        found.iter().map(|core| core.id).collect()
    }
}

/// Not for secrets: a seed, and the random number of a new spool.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
