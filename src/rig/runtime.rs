//! What the sink and the load generator share of the outside world: executors, sockets, limits of
//! the process, and the two ways of telling a task to end. Every wait in the rig goes through
//! [`Interrupt`], so that a stop reaches a task wherever it stands and no detached task outlives
//! its executor.

use core::cell::Cell;
use core::cell::RefCell;
use core::future::Future;
use core::future::poll_fn;
use core::net::IpAddr;
use core::net::SocketAddr;
use core::pin::Pin;
use core::task::Context;
use core::task::Poll;
use core::task::Waker;
use core::time::Duration;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;

use atomic_waker::AtomicWaker;
use futures_lite::AsyncRead;
use futures_lite::AsyncWrite;
use glommio::LocalExecutorBuilder;
use glommio::Placement;
use glommio::net::TcpListener;
use glommio::net::TcpStream;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::base::slab::Slab;

/// Connections that may wait for an accept. The kernel's own default of 128 overflows under a
/// start of a thousand connections, and an overflow costs a SYN retransmit of one second.
const LISTEN_BACKLOG: i32 = 4_096;

/// Bytes that one read takes at most: one buffer per executor, shared by all its connections.
pub const READ_BYTES_MAX: usize = 256 * 1024;

/// How often, and how far apart, it is asked whether an address is free.
const CLAIM_ATTEMPTS: u32 = 20;
const CLAIM_PAUSE: Duration = Duration::from_millis(50);

/// Depth of an executor's ring.
const RING_DEPTH: usize = 512;

/// Time after which a queue of tasks makes room for another. There is one queue here and its tasks
/// are short, so it must never pass: an executor that lost its core for longer than this between
/// arming the timer and running its first task takes its queue for empty and goes to sleep on it.
const PREEMPT_TIMER: Duration = Duration::from_secs(3_600);

/// Locked memory that an executor must be allowed: three rings of registered buffers, 64 KiB
/// each, and what the rings themselves take on kernels that count it.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;

/// Why a part of the rig could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error(
        "only {allowed} bytes of memory may be locked and {MEMLOCK_BYTES_MIN} are needed: raise it \
         with `ulimit -l` or LimitMEMLOCK="
    )]
    Memlock { allowed: u64 },
    #[error("cannot start an io_uring executor: {0}")]
    Executor(String),
    #[error("cannot open {path}: {source}")]
    File { path: String, source: io::Error },
    #[error("{0}")]
    Config(String),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Raises the soft limits of open files and locked memory as far as this process may, and tells
/// whether an executor can start under what is left.
pub fn raise_limits() -> Result<(), RigError> {
    raise(libc::RLIMIT_NOFILE, None);
    // Buffers that come and go are not worth a huge page that is zeroed each time.
    // SAFETY: the call takes numbers; a kernel that does not know it changes nothing.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    let allowed = raise(libc::RLIMIT_MEMLOCK, Some(libc::RLIM_INFINITY));
    if allowed < MEMLOCK_BYTES_MIN {
        return Err(RigError::Memlock { allowed });
    }
    Ok(())
}

/// Sets the soft limit to `wanted` if that is permitted, to the hard limit otherwise.
fn raise(resource: libc::__rlimit_resource_t, wanted: Option<u64>) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls read or write the one struct that they are handed, for this call only.
    unsafe {
        if libc::getrlimit(resource, &raw mut limit) != 0 {
            return u64::MAX;
        }
        if let Some(wanted) = wanted {
            let raised = libc::rlimit {
                rlim_cur: wanted,
                rlim_max: wanted,
            };
            if libc::setrlimit(resource, &raw const raised) == 0 {
                return wanted;
            }
        }
        let raised = libc::rlimit {
            rlim_cur: limit.rlim_max,
            ..limit
        };
        if libc::setrlimit(resource, &raw const raised) == 0 {
            limit.rlim_max
        } else {
            limit.rlim_cur
        }
    }
}

/// Cores that may be used, at least one.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, core::num::NonZero::get)
}

/// Starts one executor on a thread of its own and runs `body` on it; returns once the executor
/// stands, or with the reason why it does not.
pub(super) fn spawn_executor<B, F>(
    name: &str,
    pin_to_core: Option<usize>,
    body: B,
) -> Result<thread::JoinHandle<()>, RigError>
where
    B: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let (started, standing) = mpsc::channel();
    let placement = match pin_to_core {
        Some(core) => Placement::Fixed(core % cores()),
        None => Placement::Unbound,
    };
    let builder = LocalExecutorBuilder::new(placement)
        .name(name)
        .io_memory(64 * 1024)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT_TIMER);
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || match builder.make() {
            Ok(executor) => {
                let _ = started.send(Ok(()));
                executor.run(body());
            }
            Err(error) => {
                let _ = started.send(Err(error.to_string()));
            }
        })
        .map_err(RigError::Thread)?;
    match standing.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(reason)) => Err(RigError::Executor(reason)),
        Err(_) => Err(RigError::Executor("its thread ended".to_owned())),
    }
}

/// Opens a file of lines for appending. What a writer that was killed left of its last line is cut
/// off: nobody was told of it.
pub(super) fn open_lines(path: &Path) -> Result<File, RigError> {
    let open = || -> io::Result<File> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let is_plain = file.metadata()?.is_file();
        let mut end = if is_plain { file.metadata()?.len() } else { 0 };
        let length = end;
        let mut piece = vec![0; 64 * 1024];
        while end > 0 {
            let start = end.saturating_sub(piece.len() as u64);
            let piece = &mut piece[..usize::try_from(end - start).map_err(io::Error::other)?];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(piece)?;
            match memchr::memrchr(b'\n', piece) {
                Some(at) => {
                    end = start + at as u64 + 1;
                    break;
                }
                None => end = start,
            }
        }
        if end < length {
            file.set_len(end)?;
        }
        Ok(file)
    };
    open().map_err(|source| RigError::File {
        path: path.display().to_string(),
        source,
    })
}

/// Tells executors, from any thread, that they are to end.
#[derive(Debug)]
pub(super) struct Stop {
    stopped: AtomicBool,
    executors: Vec<AtomicWaker>,
}

impl Stop {
    pub(super) fn new(executors: usize) -> Arc<Stop> {
        Arc::new(Stop {
            stopped: AtomicBool::new(false),
            executors: (0..executors).map(|_| AtomicWaker::new()).collect(),
        })
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        for executor in &self.executors {
            executor.wake();
        }
    }

    /// Resolves on executor `index` once [`Stop::stop`] was called.
    pub(super) async fn stopped(&self, index: usize) {
        poll_fn(|cx| {
            self.executors[index].register(cx.waker());
            match self.stopped.load(Ordering::SeqCst) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

/// Ends the waits of one task from another task of the same executor.
#[derive(Debug, Default)]
pub(super) struct Interrupt {
    raised: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Interrupt {
    pub(super) fn raise(&self) {
        self.raised.set(true);
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) fn clear(&self) {
        self.raised.set(false);
    }

    pub(super) fn is_raised(&self) -> bool {
        self.raised.get()
    }

    fn watch(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        match &*waiting {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *waiting = Some(cx.waker().clone()),
        }
    }

    /// Runs `future` unless the interrupt is raised first.
    pub(super) async fn guard<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = core::pin::pin!(future);
        poll_fn(|cx| {
            if self.is_raised() {
                return Poll::Ready(None);
            }
            match future.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending => {
                    self.watch(cx);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Sleeps; false if interrupted.
    pub(super) async fn sleep(&self, duration: Duration) -> bool {
        self.guard(glommio::timer::Timer::new(duration))
            .await
            .is_some()
    }
}

/// The tasks of one executor: each can be interrupted, and their end can be awaited.
#[derive(Default)]
pub(super) struct Tasks {
    running: RefCell<Slab<Rc<Interrupt>>>,
    all_gone: Interrupt,
}

impl Tasks {
    /// Starts a task that is to end soon after its interrupt was raised.
    pub(super) fn spawn<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        task: impl FnOnce(Rc<Interrupt>) -> F,
    ) {
        let interrupt = Rc::new(Interrupt::default());
        let key = self.running.borrow_mut().insert(interrupt.clone());
        let own = self.clone();
        let task = task(interrupt);
        glommio::spawn_local(async move {
            task.await;
            own.running.borrow_mut().remove(key);
            if own.running.borrow().is_empty() {
                own.all_gone.raise();
            }
        })
        .detach();
    }

    pub(super) fn interrupt_all(&self) {
        let running: Vec<_> = self
            .running
            .borrow()
            .iter()
            .map(|(_, task)| task.clone())
            .collect();
        for task in running {
            task.raise();
        }
    }

    /// Resolves when the last task has ended; nothing may be spawned after that.
    pub(super) async fn all_gone(&self) {
        if !self.running.borrow().is_empty() {
            self.all_gone.guard(core::future::pending::<()>()).await;
        }
    }
}

/// Why a connection carries nothing more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The other side closed its half.
    #[error("closed by the other side")]
    Closed,
    #[error("{0}")]
    Failed(#[from] io::Error),
    #[error("interrupted")]
    Interrupted,
    /// The other side does not want to talk: the code of its banner or EHLO reply.
    #[error("turned away with {0:03}")]
    Refused(u16),
}

/// One read of at most `bytes_max` into the executor's shared buffer; `take` gets the bytes
/// before any other task can run, so that an idle connection owns no buffer at all.
pub(super) async fn read_with<T>(
    stream: &mut TcpStream,
    interrupt: &Interrupt,
    scratch: &RefCell<Vec<u8>>,
    bytes_max: usize,
    mut take: impl FnMut(&[u8]) -> T,
) -> Result<T, Ended> {
    poll_fn(|cx| {
        if interrupt.is_raised() {
            return Poll::Ready(Err(Ended::Interrupted));
        }
        let mut buffer = scratch.borrow_mut();
        let end = bytes_max.clamp(1, buffer.len());
        match Pin::new(&mut *stream).poll_read(cx, &mut buffer[..end]) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(Ended::Closed)),
            Poll::Ready(Ok(length)) => Poll::Ready(Ok(take(&buffer[..length]))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(Ended::Failed(error))),
            Poll::Pending => {
                interrupt.watch(cx);
                Poll::Pending
            }
        }
    })
    .await
}

/// Writes all of `bytes`; in the usual case one system call.
pub(super) async fn write_all(
    stream: &mut TcpStream,
    interrupt: &Interrupt,
    bytes: &[u8],
) -> Result<(), Ended> {
    let mut written = 0;
    poll_fn(|cx| {
        while written < bytes.len() {
            if interrupt.is_raised() {
                return Poll::Ready(Err(Ended::Interrupted));
            }
            match Pin::new(&mut *stream).poll_write(cx, &bytes[written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Ended::Closed)),
                Poll::Ready(Ok(length)) => written += length,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Ended::Failed(error))),
                Poll::Pending => {
                    interrupt.watch(cx);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// Binds `addr` once per executor, so that the kernel spreads connections over them. A port of 0
/// is chosen once and shared. An address that another process listens on is refused although
/// SO_REUSEPORT would let both have it.
pub(super) fn listen(addr: SocketAddr, executors: usize) -> io::Result<(SocketAddr, Vec<Socket>)> {
    let mut bound = addr;
    if addr.port() != 0 {
        claim(addr)?;
    }
    let mut sockets = Vec::with_capacity(executors);
    for _ in 0..executors {
        let socket = listening_socket(bound)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound.into())?;
        if bound.port() == 0 {
            let local = socket.local_addr()?;
            bound = local.as_socket().unwrap_or(bound);
        }
        socket.listen(LISTEN_BACKLOG)?;
        sockets.push(socket);
    }
    Ok((bound, sockets))
}

/// Finds out whether another process listens on `addr`. One that was killed may seem to for a
/// moment longer: the kernel takes the rings of a dead process apart in the background, and an
/// accept that is under way there keeps the socket.
fn claim(addr: SocketAddr) -> io::Result<()> {
    let mut attempt = 1;
    loop {
        match listening_socket(addr)?.bind(&addr.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempt < CLAIM_ATTEMPTS => {
                attempt += 1;
                thread::sleep(CLAIM_PAUSE);
            }
            result => return result,
        }
    }
}

fn listening_socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A listening socket on the executor that this was made on.
pub(super) struct Listener {
    socket: Socket,
    accepting: TcpListener,
}

impl Listener {
    pub(super) fn new(socket: Socket) -> io::Result<Listener> {
        let fd = socket.try_clone()?.into_raw_fd();
        // SAFETY: the descriptor is open and its ownership moves into the listener.
        let accepting = unsafe { TcpListener::from_raw_fd(fd) };
        Ok(Listener { socket, accepting })
    }

    pub(super) async fn accept(&self) -> io::Result<TcpStream> {
        self.accepting.accept().await.map_err(io::Error::from)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // An accept that is under way in the ring keeps the socket after it was closed here; with
        // this nobody can connect to it any more, and the address is free.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// Connects to `target`, from `source` if one is given.
pub(super) async fn dial(
    target: SocketAddr,
    source: Option<IpAddr>,
    interrupt: &Interrupt,
) -> Result<TcpStream, Ended> {
    let socket = dialling_socket(target, source).map_err(Ended::Failed)?;
    match socket.connect(&target.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(Ended::Failed(error)),
    }
    let mut stream = TcpStream::from(socket);
    // A write of nothing waits for the handshake and brings the error of one that failed.
    poll_fn(|cx| {
        if interrupt.is_raised() {
            return Poll::Ready(Err(Ended::Interrupted));
        }
        match Pin::new(&mut stream).poll_write(cx, &[]) {
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(Ended::Failed(error))),
            Poll::Pending => {
                interrupt.watch(cx);
                Poll::Pending
            }
        }
    })
    .await?;
    Ok(stream)
}

fn dialling_socket(target: SocketAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        if target.is_ipv4() {
            choose_port_at_connect(&socket)?;
        }
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// Leaves the choice of the local port to `connect`: at `bind` it would come from one space for
/// all destinations and run out after 28,000 connections.
fn choose_port_at_connect(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open and the option's value is one int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_whole_lines_are_kept_when_a_file_is_opened_again() {
        let long = "x".repeat(100_000);
        let cases = [
            (String::new(), String::new()),
            ("a\n".to_owned(), "a\n".to_owned()),
            ("a\nb".to_owned(), "a\n".to_owned()),
            (format!("{long}\n{long}{long}"), format!("{long}\n")),
            (long, String::new()),
        ];
        let folder = tempfile::TempDir::new().expect("a folder");
        for (index, (before, kept)) in cases.into_iter().enumerate() {
            let path = folder.path().join(index.to_string());
            std::fs::write(&path, before).expect("it can be written");
            let mut file = open_lines(&path).expect("it opens");
            file.write_all(b"z\n").expect("it can be written");
            assert_eq!(
                std::fs::read_to_string(&path).expect("it is text"),
                kept + "z\n"
            );
        }
    }
}
