//! Receiving hosts. A sink listens on any number of addresses, with one executor per thread and
//! the kernel spreading connections over them, accepts what it is sent unless a behaviour says
//! otherwise, counts, and captures if asked to. It does as little per message as can be done:
//! its CPU must not be mistaken for that of the engine under test.
//!
//! [`session`] is the protocol without IO, [`behaviour`] the rules, [`judge`] what rules count,
//! [`capture`] the file, this module the executors and the handle of whoever started them.

pub mod behaviour;
pub mod body;
pub mod capture;
mod connection;
pub mod counts;
pub mod judge;
mod practice;
pub mod session;
#[cfg(test)]
mod tests;

use core::net::SocketAddr;
use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use behaviour::Behaviours;
use capture::CaptureFile;
use counts::Counts;
use judge::Judge;
use session::Extensions;
use session::Profile;

use crate::practice::internet::Account;
use crate::practice::internet::Internet;
use crate::practice::scenario::Provider;
use crate::practice::scenario::Scenario;
use crate::rig::runtime;
use crate::rig::runtime::RigError;
use crate::rig::runtime::Stop;

/// Executors of one sink.
pub const THREADS_MAX: usize = 256;

/// How a sink is to be.
#[derive(Debug, Clone)]
pub struct SinkConfig {
    /// Addresses to listen on; a port of 0 is chosen by the kernel.
    pub listen: Vec<SocketAddr>,
    /// Executors, 1 to [`THREADS_MAX`].
    pub threads: usize,
    /// Pins executor N to core N. Off, the kernel places them, which suits a machine that also
    /// runs the engine under test.
    pub pin: bool,
    /// The name in the banner and in the EHLO reply.
    pub hostname: String,
    pub extensions: Extensions,
    /// Bytes of the largest message that is accepted.
    pub size_bytes_max: u64,
    pub behaviours: Behaviours,
    /// Appends every message received whole to this file (see [`capture::Record`]).
    pub capture: Option<PathBuf>,
    /// Plays the receivers of this scenario, instead of one without limits. Only the addresses,
    /// threads and the seed of this configuration matter then.
    pub scenario: Option<Arc<Scenario>>,
    /// Seed of everything that happens by chance.
    pub seed: u64,
}

impl Default for SinkConfig {
    fn default() -> SinkConfig {
        SinkConfig {
            listen: Vec::new(),
            threads: 1,
            pin: false,
            hostname: "sink.example".to_owned(),
            extensions: Extensions::default(),
            size_bytes_max: 100 * 1024 * 1024,
            behaviours: Behaviours::default(),
            capture: None,
            scenario: None,
            seed: 1,
        }
    }
}

/// What the executors of a sink share with each other and with its handle.
#[derive(Debug)]
struct Shared {
    began: Instant,
    profile: Profile,
    judge: Judge,
    internet: Option<Mutex<Internet>>,
    capture: Option<CaptureFile>,
    stop: Arc<Stop>,
    /// One set of counts per executor; a lock is held for one batch of input and never contended
    /// but by a reader of the counts.
    counts: Vec<Mutex<Counts>>,
    /// Messages received whole and answered, or dropped on purpose, and the number at which the
    /// watcher is woken.
    received: AtomicU64,
    wake_at: AtomicU64,
    watcher: Mutex<()>,
    woken: Condvar,
    /// Why the sink cannot go on; nothing is accepted after that.
    failed: Mutex<Option<String>>,
}

impl Shared {
    fn counts(&self, executor: usize) -> std::sync::MutexGuard<'_, Counts> {
        self.counts[executor]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts messages received and wakes the watcher when its number is reached.
    fn received(&self, messages: u64) {
        if messages == 0 {
            return;
        }
        let total = self.received.fetch_add(messages, Ordering::SeqCst) + messages;
        if total >= self.wake_at.load(Ordering::SeqCst) {
            self.wake_watcher();
        }
    }

    fn wake_watcher(&self) {
        let _watching = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        self.woken.notify_all();
    }

    fn fail(&self, reason: String) {
        self.failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(reason);
        self.wake_watcher();
    }
}

/// A running sink. Dropping it stops it.
#[derive(Debug)]
pub struct Sink {
    addrs: Vec<SocketAddr>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Sink {
    /// Listens and returns: connections are accepted from now on.
    pub fn start(config: SinkConfig) -> Result<Sink, RigError> {
        if config.threads == 0 || config.threads > THREADS_MAX {
            return Err(RigError::Config(format!("threads: 1 to {THREADS_MAX}")));
        }
        if config.listen.is_empty() {
            return Err(RigError::Config("nothing to listen on".to_owned()));
        }
        let capture = match &config.capture {
            None => None,
            Some(path) => Some(CaptureFile::open(path)?),
        };
        let mut addrs = Vec::with_capacity(config.listen.len());
        let mut sockets: Vec<Vec<_>> = (0..config.threads).map(|_| Vec::new()).collect();
        for addr in config.listen {
            let (bound, of_addr) = runtime::listen(addr, config.threads)
                .map_err(|source| RigError::Listen { addr, source })?;
            addrs.push(bound);
            for (place, socket) in sockets.iter_mut().zip(of_addr) {
                place.push((bound, socket));
            }
        }
        let judge = Judge::new(&config.behaviours);
        let shared = Arc::new(Shared {
            began: Instant::now(),
            profile: Profile::new(
                &config.hostname,
                config.extensions,
                config.size_bytes_max,
                config.behaviours,
            ),
            judge,
            internet: config
                .scenario
                .map(|it| Mutex::new(Internet::new(it, config.seed))),
            capture,
            stop: Stop::new(config.threads),
            counts: (0..config.threads).map(|_| Mutex::default()).collect(),
            received: AtomicU64::new(0),
            wake_at: AtomicU64::new(u64::MAX),
            watcher: Mutex::new(()),
            woken: Condvar::new(),
            failed: Mutex::new(None),
        });
        let mut sink = Sink {
            addrs,
            shared,
            threads: Vec::with_capacity(config.threads),
        };
        for (index, sockets) in sockets.into_iter().enumerate() {
            let shared = sink.shared.clone();
            let body = move || connection::run(shared, index, config.seed, sockets);
            let pin = config.pin.then_some(index);
            sink.threads.push(runtime::spawn_executor(
                &format!("sink-{index}"),
                pin,
                body,
            )?);
        }
        Ok(sink)
    }

    /// Where it listens, ports chosen, in the order of the configuration.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// What it has seen until now, all executors together.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for executor in 0..self.shared.counts.len() {
            sum.add(&self.shared.counts(executor));
        }
        sum
    }

    /// What each receiver of the scenario has seen, in the order of the file.
    pub fn accounts(&self) -> Vec<(String, Account)> {
        let Some(internet) = &self.shared.internet else {
            return Vec::new();
        };
        let internet = internet.lock().unwrap_or_else(PoisonError::into_inner);
        let providers = internet.scenario().providers.iter().enumerate();
        let account =
            |(index, it): (usize, &Provider)| (it.name.clone(), internet.account(index).clone());
        providers.map(account).collect()
    }

    /// Messages received whole until now, those dropped after the dot included; cheaper than
    /// [`Sink::counts`].
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// Time since it began.
    pub fn elapsed(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Why it cannot capture any more, if so. Since then every message is refused an answer.
    pub fn failure(&self) -> Option<String> {
        self.shared
            .failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until `messages` were received whole in all, capturing failed, or `timeout` passed.
    /// True if the number was reached.
    pub fn wait_for_messages(&self, messages: u64, timeout: Duration) -> bool {
        self.shared.wake_at.store(messages, Ordering::SeqCst);
        let watching = self
            .shared
            .watcher
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let result = self
            .shared
            .woken
            .wait_timeout_while(watching, timeout, |()| {
                self.received() < messages && self.failure().is_none()
            });
        drop(result);
        self.received() >= messages
    }

    /// Stops accepting, ends every connection and waits for the executors. Returns the totals.
    pub fn stop(mut self) -> Counts {
        self.end();
        self.counts()
    }

    fn end(&mut self) {
        self.shared.stop.stop();
        for thread in self.threads.drain(..) {
            // A panic of an executor has already been printed by its thread.
            let _ = thread.join();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.end();
    }
}
