//! Sockets of a shard. A connection has one task that reads; what the engine wants sent is written
//! where its actions are performed, with a plain non-blocking call, and a second task exists only
//! while a peer does not take its bytes. Nothing here knows what the bytes mean.

use core::cell::{Cell, RefCell};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

use bytes::Bytes;
use glommio::io::PollableFd;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::engine::io::{ConnId, DialError, Input, Side};
use crate::shard::Shell;
use crate::shard::event::Event;

/// Pending connections the kernel keeps for a listener; 1,024 overflow under a burst, and an
/// overflow costs the client a second.
const LISTEN_BACKLOG: i32 = 4_096;

/// Accepted in a row before other tasks get their turn.
const ACCEPT_BURST: usize = 64;

/// How long accepting rests when the process is out of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Bytes waiting for a slow peer before its reader stops reading more from it.
const UNSENT_BYTES_MAX: usize = 256 * 1024;

/// What is read and thrown away from a peer that has been told goodbye.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

pub enum Chunk {
    Owned(Vec<u8>),
    Shared(Bytes),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Owned(bytes) => bytes,
            Chunk::Shared(bytes) => bytes,
        }
    }
}

#[derive(Default)]
struct Unsent {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that have left.
    offset: usize,
    bytes: usize,
    /// A task is writing.
    writing: bool,
}

pub struct Conn {
    pub id: ConnId,
    socket: PollableFd<Socket>,
    unsent: RefCell<Unsent>,
    /// The engine will send no more.
    closing: Cell<bool>,
    aborted: Cell<bool>,
    resume: Event,
}

impl Conn {
    fn fd(&self) -> RawFd {
        self.socket.get_ref().as_raw_fd()
    }

    pub fn abort(&self) {
        self.aborted.set(true);
        // Wakes a reader and a writer that wait for readiness, and ends a connect under way.
        let _ = self.socket.get_ref().shutdown(Shutdown::Both);
        self.resume.notify();
    }

    /// Waits until all that the engine had to say has left, after the peer's last byte.
    async fn ended(&self) {
        let sent = || self.closing.get() && self.unsent.borrow().chunks.is_empty();
        while !self.aborted.get() && !sent() {
            self.resume.wait().await;
        }
    }

    pub fn resume(&self) {
        self.resume.notify();
    }

    pub fn close(&self) {
        self.closing.set(true);
        if self.unsent.borrow().chunks.is_empty() {
            self.finish_close();
        }
    }

    fn finish_close(&self) {
        let _ = self.socket.get_ref().shutdown(Shutdown::Write);
        self.resume.notify();
    }

    /// Writes at once what the socket takes. False when something is left for [`write_rest`].
    fn send_now(&self, chunk: Chunk) -> Result<Option<Chunk>, ()> {
        let mut unsent = self.unsent.borrow_mut();
        if self.aborted.get() {
            return Ok(Some(chunk));
        }
        if !unsent.chunks.is_empty() {
            unsent.bytes += chunk.bytes().len();
            unsent.chunks.push_back(chunk);
            return Ok(None);
        }
        match send(self.fd(), chunk.bytes()) {
            Ok(written) if written == chunk.bytes().len() => Ok(Some(chunk)),
            Ok(written) => {
                unsent.offset = written;
                unsent.bytes = chunk.bytes().len() - written;
                unsent.chunks.push_back(chunk);
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                unsent.offset = 0;
                unsent.bytes = chunk.bytes().len();
                unsent.chunks.push_back(chunk);
                Ok(None)
            }
            Err(_) => Err(()),
        }
    }
}

fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the pointer and length are those of a live slice.
    let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length are those of a live, exclusively borrowed slice.
    let got = unsafe {
        libc::recv(
            fd,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Sends on a connection; the buffer goes back to the engine's pool when it has left.
pub fn send_chunk(shell: &Rc<Shell>, conn: &Rc<Conn>, chunk: Chunk) {
    match conn.send_now(chunk) {
        Ok(Some(Chunk::Owned(buffer))) => shell.recycle(buffer),
        Ok(Some(Chunk::Shared(_))) => {
            // Told in a task of its own: the engine is in the middle of a turn.
            let (shell2, id) = (shell.clone(), conn.id);
            shell.spawn(async move {
                shell2.handle(Input::Sent {
                    conn: id,
                    all: true,
                })
            });
        }
        Ok(None) => {
            if !core::mem::replace(&mut conn.unsent.borrow_mut().writing, true) {
                shell.spawn(write_rest(shell.clone(), conn.clone()));
            }
        }
        Err(()) => conn.abort(),
    }
}

async fn write_rest(shell: Rc<Shell>, conn: Rc<Conn>) {
    loop {
        let ready = conn.socket.writable().await;
        if ready.is_err() || conn.aborted.get() {
            conn.abort();
            break;
        }
        match write_more(&conn) {
            Ok(true) => break,
            Ok(false) => {}
            Err(_) => {
                conn.abort();
                break;
            }
        }
        shell.handle(Input::Sent {
            conn: conn.id,
            all: false,
        });
    }
    let mut unsent = conn.unsent.borrow_mut();
    unsent.writing = false;
    if conn.aborted.get() {
        unsent.chunks.clear();
        return;
    }
    drop(unsent);
    if conn.closing.get() {
        conn.finish_close();
    }
    shell.handle(Input::Sent {
        conn: conn.id,
        all: true,
    });
    conn.resume.notify();
}

/// True when nothing is left.
fn write_more(conn: &Conn) -> io::Result<bool> {
    let unsent = &mut *conn.unsent.borrow_mut();
    while let Some(chunk) = unsent.chunks.front() {
        let rest = &chunk.bytes()[unsent.offset..];
        match send(conn.fd(), rest) {
            Ok(written) if written == rest.len() => {
                unsent.bytes -= written;
                unsent.offset = 0;
                unsent.chunks.pop_front();
            }
            Ok(written) => {
                unsent.bytes -= written;
                unsent.offset += written;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Reads until the peer is done, the engine aborts, or an error; then tells the engine.
async fn read_all(shell: Rc<Shell>, conn: Rc<Conn>) {
    let mut lingered = 0;
    while !conn.aborted.get() {
        let unsent = conn.unsent.borrow().bytes;
        if unsent > UNSENT_BYTES_MAX || !(conn.closing.get() || shell.wants_read(conn.id)) {
            conn.resume.wait().await;
            continue;
        }
        match read_once(&shell, &conn) {
            Ok(0) if conn.id.side == Side::Out || conn.closing.get() => break,
            Ok(0) => {
                shell.handle(Input::Ended { conn: conn.id });
                conn.ended().await;
                break;
            }
            Ok(count) => {
                if conn.closing.get() {
                    lingered += count;
                    if lingered > LINGER_BYTES_MAX {
                        break;
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        // One read, then the ring: its completions and other tasks come between two reads of a
        // fast sender. If more has arrived meanwhile the poll completes at once.
        let reads = !conn.aborted.get() && shell.wants_read(conn.id) || conn.closing.get();
        if reads && conn.socket.readable().await.is_err() {
            break;
        }
    }
    conn.abort();
    shell.forget(conn.id);
    shell.handle(Input::Closed { conn: conn.id });
}

fn read_once(shell: &Rc<Shell>, conn: &Conn) -> io::Result<usize> {
    let mut buffer = shell.read_buffer.borrow_mut();
    let count = receive(conn.fd(), &mut buffer)?;
    if count > 0 && !conn.closing.get() {
        shell.handle(Input::Received {
            conn: conn.id,
            bytes: &buffer[..count],
        });
    }
    Ok(count)
}

/// Opens a listening socket that all shards share by SO_REUSEPORT.
pub fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket)
}

/// Whether somebody else listens there: SO_REUSEPORT alone would let two engines share an address
/// unnoticed.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// Accepts for one listen address until shutdown.
pub async fn accept_all(shell: Rc<Shell>, listen: usize, socket: Socket) {
    let Ok(listener) = PollableFd::new(socket) else {
        return;
    };
    let listener = Rc::new(listener);
    shell.add_listener(listener.clone());
    while !shell.stopping() {
        if listener.readable().await.is_err() {
            return;
        }
        for _ in 0..ACCEPT_BURST {
            if shell.stopping() {
                return;
            }
            match listener.get_ref().accept() {
                Ok((socket, peer)) => accepted(&shell, listen, socket, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    // A connection that died in the queue is nobody's problem; no descriptors is.
                    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                        shell.out_of_descriptors();
                        glommio::timer::sleep(ACCEPT_REST).await;
                    }
                    break;
                }
            }
        }
    }
}

fn accepted(shell: &Rc<Shell>, listen: usize, socket: Socket, peer: SockAddr) {
    let local = socket
        .local_addr()
        .ok()
        .and_then(|address| address.as_socket());
    let (Some(peer), Some(local)) = (peer.as_socket(), local) else {
        return;
    };
    let _ = socket.set_tcp_nodelay(true);
    let Ok(socket) = PollableFd::new(socket) else {
        return;
    };
    let id = shell.accept(listen, peer, local);
    let conn = shell.remember(id, socket);
    shell.perform();
    shell.spawn(read_all(shell.clone(), conn));
}

/// Opens a connection for the engine.
pub fn dial(shell: &Rc<Shell>, id: ConnId, remote: SocketAddr, source: Option<IpAddr>) {
    match start_dial(remote, source).and_then(|socket| {
        PollableFd::new(socket).map_err(|error| io::Error::other(error.to_string()))
    }) {
        Ok(socket) => {
            let conn = shell.remember(id, socket);
            shell.spawn(finish_dial(shell.clone(), conn));
        }
        Err(error) => {
            let shell = shell.clone();
            let result = Err(dial_error(&error));
            let report = async move { shell.handle(Input::Dialed { conn: id, result }) };
            shell_spawn(report);
        }
    }
}

fn shell_spawn(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
}

fn start_dial(remote: SocketAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(remote),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        // The port is chosen at connect, so that one source can have far more than 28,000
        // connections to different hosts.
        let on: libc::c_int = 1;
        // SAFETY: the option takes an int, whose address and size are given.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            );
        }
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&remote.into()) {
        Ok(()) => Ok(socket),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

async fn finish_dial(shell: Rc<Shell>, conn: Rc<Conn>) {
    let ready = conn.socket.writable().await;
    let socket = conn.socket.get_ref();
    let failed = match (ready, socket.take_error()) {
        (Ok(()), Ok(None)) if !conn.aborted.get() => None,
        (_, Ok(Some(error))) => Some(dial_error(&error)),
        _ => Some(DialError::TimedOut),
    };
    // A connect that was shut down or reset in between shows as not connected.
    let connected = || socket.peer_addr().and_then(|_| socket.local_addr());
    let result = match failed {
        Some(error) => Err(error),
        None => connected()
            .map_err(|error| dial_error(&error))
            .and_then(|address| {
                address
                    .as_socket()
                    .ok_or(DialError::Other("no local address".into()))
            }),
    };
    if result.is_err() {
        shell.forget(conn.id);
        return shell.handle(Input::Dialed {
            conn: conn.id,
            result,
        });
    }
    shell.handle(Input::Dialed {
        conn: conn.id,
        result,
    });
    read_all(shell, conn).await;
}

fn dial_error(error: &io::Error) -> DialError {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => DialError::Refused,
        Some(libc::ETIMEDOUT) => DialError::TimedOut,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN) => {
            DialError::Unreachable
        }
        Some(libc::EADDRNOTAVAIL | libc::EINVAL) => DialError::NoSuchSource,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN) => {
            DialError::Exhausted
        }
        _ => DialError::Other(error.to_string()),
    }
}

/// The buffer that all reads of a shard share: a read is handed on before the next begins.
pub const READ_BUFFER_BYTES: usize = 256 * 1024;

pub fn new_conn(id: ConnId, socket: PollableFd<Socket>) -> Conn {
    Conn {
        id,
        socket,
        unsent: RefCell::default(),
        closing: Cell::new(false),
        aborted: Cell::new(false),
        resume: Event::default(),
    }
}
