//! Connections that say EHLO and then nothing: what they cost the server is the question, so they
//! cost almost nothing here.

use core::cell::Cell;
use core::cell::RefCell;
use core::net::IpAddr;
use core::net::SocketAddr;
use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use serde::Serialize;

use crate::rig::runtime;
use crate::rig::runtime::Ended;
use crate::rig::runtime::Interrupt;
use crate::rig::runtime::RigError;
use crate::rig::runtime::Stop;
use crate::rig::runtime::Tasks;

/// Connections that are being opened at any one time.
const OPENING_MAX: u64 = 256;

/// Bytes of a reply that are looked at together.
const READ_BYTES_MAX: usize = 4 * 1024;

/// How long the server may take for its banner and its EHLO reply.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);

/// What is to be held open.
#[derive(Debug, Clone)]
pub struct IdleConfig {
    pub target: SocketAddr,
    pub connections: usize,
    /// Local addresses used in turn; empty: the kernel chooses.
    pub sources: Vec<IpAddr>,
}

/// How the connections stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IdleReport {
    pub schema: &'static str,
    /// Connections that got a banner and an EHLO reply of 2xx.
    pub opened: u64,
    /// Attempts that did not come that far.
    pub failed: u64,
    /// Connections that the server has closed or written to since.
    pub ended: u64,
    /// Connections that are open and silent.
    pub alive: u64,
}

#[derive(Debug)]
struct Shared {
    config: IdleConfig,
    stop: Arc<Stop>,
    opened: AtomicU64,
    failed: AtomicU64,
    ended: AtomicU64,
}

/// Connections held open. Dropping it closes them.
#[derive(Debug)]
pub struct Idle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Idle {
    /// Begins to connect and returns. The connections stay on one executor.
    pub fn start(config: IdleConfig) -> Result<Idle, RigError> {
        if config.connections == 0 || config.connections > super::CONNECTIONS_MAX {
            let max = super::CONNECTIONS_MAX;
            return Err(RigError::Config(format!("connections: 1 to {max}")));
        }
        let shared = Arc::new(Shared {
            config,
            stop: Stop::new(1),
            opened: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        });
        let own = shared.clone();
        let thread = Some(runtime::spawn_executor("idle", None, move || run(own))?);
        Ok(Idle { shared, thread })
    }

    /// How the connections stand now.
    pub fn report(&self) -> IdleReport {
        let opened = self.shared.opened.load(Ordering::SeqCst);
        let ended = self.shared.ended.load(Ordering::SeqCst);
        IdleReport {
            schema: "pelton-blast.idle/1",
            opened,
            failed: self.shared.failed.load(Ordering::SeqCst),
            ended,
            alive: opened.saturating_sub(ended),
        }
    }

    /// Whether every connection has been opened or has failed.
    pub fn is_settled(&self) -> bool {
        let report = self.report();
        report.opened + report.failed == self.shared.config.connections as u64
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.shared.stop.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the executor has already been printed by its thread.
            let _ = thread.join();
        }
    }
}

/// What the connections of the executor have in common.
struct Executor {
    shared: Arc<Shared>,
    scratch: RefCell<Vec<u8>>,
    opening: Cell<u64>,
    /// Raised when one that was being opened is.
    freed: Interrupt,
}

async fn run(shared: Arc<Shared>) {
    let executor = Rc::new(Executor {
        shared,
        scratch: RefCell::new(vec![0; READ_BYTES_MAX]),
        opening: Cell::new(0),
        freed: Interrupt::default(),
    });
    let tasks: Rc<Tasks> = Rc::default();
    let open_all = async {
        for index in 0..executor.shared.config.connections {
            while executor.opening.get() >= OPENING_MAX {
                executor.freed.clear();
                executor.freed.guard(core::future::pending::<()>()).await;
            }
            executor.opening.set(executor.opening.get() + 1);
            let own = executor.clone();
            tasks.spawn(move |interrupt| hold(own, index, interrupt));
        }
        core::future::pending::<()>().await;
    };
    futures_lite::future::or(open_all, executor.shared.stop.stopped(0)).await;
    tasks.interrupt_all();
    tasks.all_gone().await;
}

async fn hold(executor: Rc<Executor>, index: usize, interrupt: Rc<Interrupt>) {
    let greeted = futures_lite::future::or(open(&executor, index, &interrupt), async {
        glommio::timer::Timer::new(GREETING_TIMEOUT).await;
        Err(Ended::Interrupted)
    })
    .await;
    executor.opening.set(executor.opening.get() - 1);
    executor.freed.raise();
    let shared = &executor.shared;
    let Ok(mut stream) = greeted else {
        shared.failed.fetch_add(1, Ordering::SeqCst);
        return;
    };
    shared.opened.fetch_add(1, Ordering::SeqCst);
    let scratch = &executor.scratch;
    let end = runtime::read_with(&mut stream, &interrupt, scratch, READ_BYTES_MAX, |_| ()).await;
    if !matches!(end, Err(Ended::Interrupted)) {
        shared.ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// Connects and exchanges greetings.
async fn open(
    executor: &Executor,
    index: usize,
    interrupt: &Interrupt,
) -> Result<glommio::net::TcpStream, Ended> {
    let config = &executor.shared.config;
    let source = match config.sources.len() {
        0 => None,
        sources => Some(config.sources[index % sources]),
    };
    let mut stream = runtime::dial(config.target, source, interrupt).await?;
    for command in [&b""[..], b"EHLO idle.example\r\n"] {
        runtime::write_all(&mut stream, interrupt, command).await?;
        let mut reply = Vec::new();
        while !ends_reply(&reply) {
            if reply.len() > READ_BYTES_MAX {
                return Err(Ended::Closed);
            }
            let scratch = &executor.scratch;
            runtime::read_with(&mut stream, interrupt, scratch, READ_BYTES_MAX, |bytes| {
                reply.extend_from_slice(bytes);
            })
            .await?;
        }
        if reply.first() != Some(&b'2') {
            return Err(Ended::Closed);
        }
    }
    Ok(stream)
}

/// Whether the last line of `reply` is whole and has no dash after its code.
fn ends_reply(reply: &[u8]) -> bool {
    let Some(lines) = reply.strip_suffix(b"\n") else {
        return false;
    };
    let last = memchr::memrchr(b'\n', lines).map_or(lines, |at| &lines[at + 1..]);
    last.get(3) != Some(&b'-')
}
