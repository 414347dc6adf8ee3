//! The load generator: many SMTP connections, closed loop (the next message when the last was
//! answered) or open loop (messages at a rate, whatever the server does), with latencies measured
//! from the moment a message was meant to begin. It is as cheap as can be, since its CPU is part
//! of what a run measures.
//!
//! [`content`] writes the messages and checks them, [`mix`] chooses sizes and domains, `client` is
//! one connection, [`verify`] compares what was acknowledged with what arrived, [`idle`] holds
//! connections open.

mod client;
pub mod content;
pub mod idle;
pub mod mix;
pub mod stats;
pub mod verify;
mod wire;

use core::cell::Cell;
use core::cell::RefCell;
use core::net::IpAddr;
use core::net::SocketAddr;
use core::time::Duration;
use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use content::Content;
use mix::Mix;
use stats::Report;
use stats::Stats;

use crate::rig::runtime;
use crate::rig::runtime::Ended;
use crate::rig::runtime::RigError;
use crate::rig::runtime::Stop;
use crate::rig::runtime::Tasks;

/// Connections of one generator.
pub const CONNECTIONS_MAX: usize = 100_000;

/// Recipients of one message.
pub const RECIPIENTS_MAX: usize = 10_000;

/// Messages of one BDAT group.
pub const GROUP_MESSAGES_MAX: usize = 64;

/// How often waits are looked at: time limits are kept to this.
const TICK: Duration = Duration::from_millis(100);

/// How commands and messages are put into sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every command waits for the reply to the one before.
    Lockstep,
    /// MAIL, RCPT and DATA in one send, then the message.
    Pipelining,
    /// As `Pipelining`, with the next envelope in the same send as the message.
    PipelineNext,
    /// This many messages in one send, each by one BDAT, then all their replies.
    BdatGroup(usize),
}

/// What a generator is to do.
#[derive(Debug, Clone)]
pub struct BlastConfig {
    /// Servers; connection N goes to number N modulo their count.
    pub targets: Vec<SocketAddr>,
    pub threads: usize,
    /// Pins executor N to core N.
    pub pin: bool,
    pub connections: usize,
    /// Messages to begin in all; none: until `duration` or a stop.
    pub messages: Option<u64>,
    /// How long messages are begun.
    pub duration: Option<Duration>,
    /// Messages a second in all; none: closed loop.
    pub rate: Option<f64>,
    pub mode: Mode,
    pub sizes: Mix<usize>,
    pub domains: Mix<String>,
    pub recipients_per_message: usize,
    /// The envelope sender; may be empty.
    pub from: String,
    pub helo: String,
    /// Local addresses; connection N uses number N modulo their count. Empty: the kernel chooses.
    pub sources: Vec<IpAddr>,
    /// Messages after which a connection is closed and opened anew.
    pub messages_per_connection: Option<u64>,
    /// Opens a lost connection again, with growing pauses, instead of giving it up.
    pub reconnect: bool,
    /// Longest wait for any one reply.
    pub reply_timeout: Duration,
    /// Names the run in its messages.
    pub run: u32,
    /// Gets one line for every acknowledged message (see [`verify`]).
    pub acked: Option<PathBuf>,
}

impl BlastConfig {
    /// A run against `target` with everything else at its default.
    pub fn to(target: SocketAddr) -> BlastConfig {
        BlastConfig {
            targets: vec![target],
            threads: 1,
            pin: false,
            connections: 1,
            messages: None,
            duration: None,
            rate: None,
            mode: Mode::Lockstep,
            sizes: Mix::new(vec![(4_096, 1)]).expect("one entry of weight one is a mix"),
            domains: Mix::numbered_domains(1).expect("one domain is a mix"),
            recipients_per_message: 1,
            from: "blast@blast.example".to_owned(),
            helo: "blast.example".to_owned(),
            sources: Vec::new(),
            messages_per_connection: None,
            reconnect: false,
            reply_timeout: Duration::from_secs(60),
            run: 1,
            acked: None,
        }
    }

    /// Says what of it cannot be meant; [`Blast::start`] asks as well.
    pub fn check(&self) -> Result<(), RigError> {
        let within = |name: &str, value: usize, max: usize| match value {
            value if (1..=max).contains(&value) => Ok(()),
            value => Err(RigError::Config(format!(
                "{name}: {value}, expected 1 to {max}"
            ))),
        };
        within("targets", self.targets.len(), CONNECTIONS_MAX)?;
        within("threads", self.threads, self.connections.max(1))?;
        within("connections", self.connections, CONNECTIONS_MAX)?;
        within(
            "recipients per message",
            self.recipients_per_message,
            RECIPIENTS_MAX,
        )?;
        if let Mode::BdatGroup(group) = self.mode {
            within("messages of a BDAT group", group, GROUP_MESSAGES_MAX)?;
        }
        let family = |addr: &IpAddr| self.targets.iter().all(|t| t.is_ipv4() == addr.is_ipv4());
        if !self.sources.iter().all(family) {
            return Err(RigError::Config(
                "sources and targets of different families".to_owned(),
            ));
        }
        if self
            .rate
            .is_some_and(|rate| !rate.is_finite() || rate <= 0.0)
        {
            return Err(RigError::Config("a rate is a number above 0".to_owned()));
        }
        if self.from.contains(['<', '>', '\r', '\n']) || self.helo.contains(['\r', '\n']) {
            return Err(RigError::Config(
                "sender and EHLO name stay on one line".to_owned(),
            ));
        }
        Ok(())
    }
}

/// What the executors of a generator share with each other and with its handle.
#[derive(Debug)]
struct Shared {
    config: BlastConfig,
    content: Content,
    began: Instant,
    /// The number of the next message.
    next: AtomicU64,
    /// No message is begun any more.
    draining: AtomicBool,
    stop: Arc<Stop>,
    stats: Vec<Mutex<Stats>>,
    acked: Option<Mutex<File>>,
    fault: Mutex<Option<String>>,
    /// What ended the first connection that did not end as it should.
    trouble: Mutex<Option<String>>,
    running: AtomicUsize,
    /// How long the run took, once its last executor has ended.
    took: Mutex<Option<Duration>>,
    ended: Condvar,
}

/// A message that is to be sent.
#[derive(Debug, Clone, Copy)]
struct Task {
    number: u64,
    /// When it is meant to begin, in an open loop.
    due: Option<Instant>,
}

impl Shared {
    fn stats(&self, executor: usize) -> MutexGuard<'_, Stats> {
        self.stats[executor]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, reason: String) {
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(reason);
        self.draining.store(true, Ordering::SeqCst);
    }

    fn note_trouble(&self, what: &str, ended: &Ended, timed_out: bool) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.get_or_insert_with(|| match timed_out {
            true => format!("{what}: no reply within {:?}", self.config.reply_timeout),
            false => format!("{what}: {ended}"),
        });
    }

    /// Time in which messages are begun, if that is limited.
    fn left(&self) -> Option<Duration> {
        let duration = self.config.duration?;
        Some(duration.saturating_sub(self.began.elapsed()))
    }

    fn is_over(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// The next message, if the run has one left.
    fn claim(&self) -> Option<Task> {
        if self.draining.load(Ordering::Relaxed) || self.is_over() {
            return None;
        }
        self.task(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// As [`Shared::claim`], but only a message that need not be waited for.
    fn claim_due(&self) -> Option<Task> {
        if self.config.rate.is_none() {
            return self.claim();
        }
        let number = self.next.load(Ordering::Relaxed);
        let task = self.task(number)?;
        let due = task.due.is_some_and(|due| due <= Instant::now());
        if !due || self.draining.load(Ordering::Relaxed) {
            return None;
        }
        let order = Ordering::Relaxed;
        self.next
            .compare_exchange(number, number + 1, order, order)
            .ok()?;
        Some(task)
    }

    fn task(&self, number: u64) -> Option<Task> {
        if self
            .config
            .messages
            .is_some_and(|messages| number >= messages)
        {
            return None;
        }
        let due = match self.config.rate {
            None => None,
            Some(rate) => {
                let after = Duration::try_from_secs_f64(number as f64 / rate).ok()?;
                if self
                    .config
                    .duration
                    .is_some_and(|duration| after >= duration)
                {
                    return None;
                }
                Some(self.began + after)
            }
        };
        Some(Task { number, due })
    }
}

/// A running load generator. Dropping it ends it at once.
#[derive(Debug)]
pub struct Blast {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Blast {
    /// Begins to connect and returns.
    pub fn start(config: BlastConfig) -> Result<Blast, RigError> {
        config.check()?;
        let acked = match &config.acked {
            None => None,
            Some(path) => Some(Mutex::new(runtime::open_lines(path)?)),
        };
        let threads = config.threads;
        let pin = config.pin;
        let shared = Arc::new(Shared {
            config,
            content: Content::new(),
            began: Instant::now(),
            next: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            stop: Stop::new(threads),
            stats: (0..threads).map(|_| Mutex::default()).collect(),
            acked,
            fault: Mutex::new(None),
            trouble: Mutex::new(None),
            running: AtomicUsize::new(threads),
            took: Mutex::new(None),
            ended: Condvar::new(),
        });
        let mut blast = Blast {
            shared,
            threads: Vec::with_capacity(threads),
        };
        for index in 0..threads {
            let shared = blast.shared.clone();
            let core = pin.then_some(index);
            let name = format!("blast-{index}");
            blast
                .threads
                .push(runtime::spawn_executor(&name, core, move || {
                    run(shared, index)
                })?);
        }
        Ok(blast)
    }

    /// What was seen until now, all executors together.
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for executor in 0..self.shared.stats.len() {
            sum.add(&self.shared.stats(executor));
        }
        sum
    }

    pub fn elapsed(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Begins no more messages; those begun are finished.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
    }

    /// Waits for the end of the run. True if it has ended.
    pub fn wait(&self, timeout: Duration) -> bool {
        let took = self
            .shared
            .took
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .shared
            .ended
            .wait_timeout_while(took, timeout, |took| took.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }

    /// Ends the run, at once if it has not ended by itself, and reports.
    pub fn finish(mut self) -> Report {
        self.end();
        let took = *self
            .shared
            .took
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let fault = self
            .shared
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let trouble = self
            .shared
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let config = &self.shared.config;
        let took = took.unwrap_or_else(|| self.elapsed());
        let report = Report::new(config.run, config.messages, took, &self.stats());
        Report {
            fault,
            trouble,
            ..report
        }
    }

    fn end(&mut self) {
        self.drain();
        self.shared.stop.stop();
        for thread in self.threads.drain(..) {
            // A panic of an executor has already been printed by its thread.
            let _ = thread.join();
        }
    }
}

impl Drop for Blast {
    fn drop(&mut self) {
        self.end();
    }
}

/// One executor of a generator.
struct Executor {
    index: usize,
    shared: Arc<Shared>,
    scratch: RefCell<Vec<u8>>,
    /// Lines for the file of acknowledged messages, written once per batch of replies.
    acked: RefCell<Vec<u8>>,
    /// Counts [`TICK`]s since the beginning; the first is number 1.
    tick: Cell<u64>,
    waits: RefCell<Vec<Rc<wire::Wait>>>,
}

/// Runs until the last connection has ended, or the run is stopped.
async fn run(shared: Arc<Shared>, index: usize) {
    let executor = Rc::new(Executor {
        index,
        shared,
        scratch: RefCell::new(vec![0; 64 * 1024]),
        acked: RefCell::new(Vec::new()),
        tick: Cell::new(1),
        waits: RefCell::new(Vec::new()),
    });
    let shared = &executor.shared;
    let tasks: Rc<Tasks> = Rc::default();
    for connection in (index..shared.config.connections).step_by(shared.config.threads) {
        let own = executor.clone();
        tasks.spawn(move |interrupt| client::run(own, connection, interrupt));
    }
    let stopped = async {
        shared.stop.stopped(index).await;
        tasks.interrupt_all();
        core::future::pending::<()>().await;
    };
    let end = futures_lite::future::or(tasks.all_gone(), stopped);
    futures_lite::future::or(end, executor.keep_time_limits()).await;
    if shared.running.fetch_sub(1, Ordering::SeqCst) == 1 {
        let took = shared.began.elapsed();
        *shared.took.lock().unwrap_or_else(PoisonError::into_inner) = Some(took);
        shared.ended.notify_all();
    }
}

impl Executor {
    /// Never resolves. One timer for all connections: a timer per read would cost more than the
    /// read.
    async fn keep_time_limits(&self) {
        let limit = self.shared.config.reply_timeout.as_millis() / TICK.as_millis();
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        loop {
            glommio::timer::Timer::new(TICK).await;
            let now = self.tick.get() + 1;
            self.tick.set(now);
            for wait in self.waits.borrow().iter() {
                wait.expire(now, limit);
            }
        }
    }
}
