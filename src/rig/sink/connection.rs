//! The executor side of a sink: accepting, reading, writing, sleeping. Decides nothing.

use core::cell::RefCell;
use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use glommio::net::TcpStream;
use socket2::Socket;

use super::Shared;
use super::session::Session;
use super::session::Step;
use super::session::Surroundings;
use crate::base::prng::Prng;
use crate::rig::runtime;
use crate::rig::runtime::Ended;
use crate::rig::runtime::Interrupt;
use crate::rig::runtime::Listener;
use crate::rig::runtime::Tasks;

/// How long a connection that was closed in order is listened to, so that what the other side
/// still sends does not reset it before it has read the last reply.
const LINGER: Duration = Duration::from_secs(1);

/// Pause after a failed accept, in most cases for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How often a limited pace moves bytes.
const PACE_TICK: Duration = Duration::from_millis(100);
const PACE_TICKS_PER_SECOND: u64 = 10;

/// Room of the reply buffer that an idle connection keeps.
const OUT_BYTES_KEPT: usize = 4 * 1024;

/// One executor of a sink.
pub(super) struct Executor {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    /// What every connection reads into, one after the other.
    pub(super) scratch: RefCell<Vec<u8>>,
    records: RefCell<Vec<u8>>,
    prng: RefCell<Prng>,
    tasks: Rc<Tasks>,
}

/// Runs until the sink is stopped and its last connection has ended.
pub(super) async fn run(
    shared: Arc<Shared>,
    index: usize,
    seed: u64,
    sockets: Vec<(SocketAddr, Socket)>,
) {
    let executor = Rc::new(Executor {
        index,
        scratch: RefCell::new(vec![0; runtime::READ_BYTES_MAX]),
        records: RefCell::new(Vec::new()),
        prng: RefCell::new(Prng::stream(seed, &format!("sink executor {index}"))),
        tasks: Rc::default(),
        shared,
    });
    for (addr, socket) in sockets {
        let listener = match Listener::new(socket) {
            Ok(listener) => listener,
            Err(error) => {
                executor
                    .shared
                    .fail(format!("cannot listen on {addr}: {error}"));
                continue;
            }
        };
        let own = executor.clone();
        executor
            .tasks
            .spawn(move |interrupt| own.accept(addr, listener, interrupt));
    }
    executor.shared.stop.stopped(index).await;
    executor.tasks.interrupt_all();
    executor.tasks.all_gone().await;
}

impl Executor {
    async fn accept(self: Rc<Self>, addr: SocketAddr, listener: Listener, end: Rc<Interrupt>) {
        while let Some(accepted) = end.guard(listener.accept()).await {
            let stream = match accepted {
                Ok(stream) => stream,
                Err(_) => {
                    self.shared.counts(self.index).accept_failures += 1;
                    end.sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let Ok(peer) = stream.peer_addr() else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let own = self.clone();
            if self.shared.internet.is_some() {
                self.tasks
                    .spawn(move |interrupt| own.practise(stream, peer, addr, interrupt));
                continue;
            }
            self.tasks
                .spawn(move |interrupt| own.serve(stream, Session::new(peer, addr), interrupt));
        }
    }

    async fn serve(
        self: Rc<Self>,
        mut stream: TcpStream,
        mut session: Session,
        interrupt: Rc<Interrupt>,
    ) {
        {
            let mut counts = self.shared.counts(self.index);
            counts.connections += 1;
            counts.connections_open += 1;
        }
        // However it ends, it has ended: what there is to know is in the counts.
        let _ = self.converse(&mut stream, &mut session, &interrupt).await;
        let mut counts = self.shared.counts(self.index);
        session.end(&self.shared.judge, &mut counts);
        counts.connections_open -= 1;
    }

    async fn converse(
        &self,
        stream: &mut TcpStream,
        session: &mut Session,
        interrupt: &Interrupt,
    ) -> Result<(), Ended> {
        let mut out = Vec::new();
        let mut step = self.advance(session, &mut out, Session::resume)?;
        loop {
            send(stream, session.reply_rate(), interrupt, &out).await?;
            // Only now, since whoever waits for the last message may stop the sink at once.
            self.shared.received(session.take_received());
            out.clear();
            out.shrink_to(OUT_BYTES_KEPT);
            step = match step {
                Step::Drop => return Ok(()),
                Step::Close => return self.linger(stream, interrupt).await,
                Step::Wait(wait) => {
                    if !interrupt.sleep(wait).await {
                        return Err(Ended::Interrupted);
                    }
                    self.advance(session, &mut out, Session::resume)?
                }
                Step::Read => self.read(stream, session, interrupt, &mut out).await?,
            };
        }
    }

    async fn read(
        &self,
        stream: &mut TcpStream,
        session: &mut Session,
        interrupt: &Interrupt,
        out: &mut Vec<u8>,
    ) -> Result<Step, Ended> {
        let bytes_max = match session.read_rate() {
            None => runtime::READ_BYTES_MAX,
            Some(rate) => {
                if !interrupt.sleep(PACE_TICK).await {
                    return Err(Ended::Interrupted);
                }
                usize::try_from(rate / PACE_TICKS_PER_SECOND).unwrap_or(usize::MAX)
            }
        };
        let take = |bytes: &[u8]| {
            self.advance(session, out, |session, around| session.feed(bytes, around))
        };
        runtime::read_with(stream, interrupt, &self.scratch, bytes_max, take).await?
    }

    /// Lets the session work, then puts what it captured into the file.
    fn advance(
        &self,
        session: &mut Session,
        out: &mut Vec<u8>,
        work: impl FnOnce(&mut Session, &mut Surroundings<'_>) -> Step,
    ) -> Result<Step, Ended> {
        let shared = &*self.shared;
        let mut counts = shared.counts(self.index);
        let mut records = self.records.borrow_mut();
        let capture = shared.capture.as_ref();
        let mut around = Surroundings {
            now_us: shared.began.elapsed().as_micros() as u64,
            wall_us: if capture.is_some() { wall_us() } else { 0 },
            profile: &shared.profile,
            judge: &shared.judge,
            prng: &mut self.prng.borrow_mut(),
            counts: &mut counts,
            capture: capture.map(|_| &mut *records),
            out,
        };
        let step = work(session, &mut around);
        drop(counts);
        if let Some(file) = capture
            && !records.is_empty()
        {
            let written = match shared.failed.lock() {
                Ok(failed) if failed.is_none() => file.write(&records),
                _ => Err(io::Error::other("capturing failed before")),
            };
            records.clear();
            if let Err(error) = written {
                shared.fail(format!("cannot write the capture file: {error}"));
                return Err(Ended::Failed(error));
            }
        }
        Ok(step)
    }

    pub(super) async fn linger(
        &self,
        stream: &mut TcpStream,
        interrupt: &Interrupt,
    ) -> Result<(), Ended> {
        let _ = stream.shutdown(std::net::Shutdown::Write).await;
        let drained = async {
            let bytes_max = runtime::READ_BYTES_MAX;
            while runtime::read_with(stream, interrupt, &self.scratch, bytes_max, |_| ())
                .await
                .is_ok()
            {}
        };
        let timeout = async { glommio::timer::Timer::new(LINGER).await };
        futures_lite::future::or(drained, async {
            timeout.await;
        })
        .await;
        Ok(())
    }
}

/// Sends `bytes`, at `rate` bytes a second if one is given.
async fn send(
    stream: &mut TcpStream,
    rate: Option<u64>,
    interrupt: &Interrupt,
    bytes: &[u8],
) -> Result<(), Ended> {
    let Some(rate) = rate else {
        return runtime::write_all(stream, interrupt, bytes).await;
    };
    let (piece, pause) = match rate / PACE_TICKS_PER_SECOND {
        0 => (
            1,
            Duration::from_secs(1) / u32::try_from(rate).unwrap_or(1).max(1),
        ),
        piece => (usize::try_from(piece).unwrap_or(usize::MAX), PACE_TICK),
    };
    for piece in bytes.chunks(piece) {
        runtime::write_all(stream, interrupt, piece).await?;
        if !interrupt.sleep(pause).await {
            return Err(Ended::Interrupted);
        }
    }
    Ok(())
}

fn wall_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
