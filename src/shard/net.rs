//! Sockets of a shard. Each is watched by the ring for as long as it lives; what the engine wants
//! sent is written where its actions are performed, with a plain non-blocking call, and the rest
//! when the peer makes room. Nothing here knows what the bytes mean.

use core::cell::{Cell, RefCell};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

use bytes::Bytes;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::base::time::Mono;
use crate::engine::io::{ConnId, DialError, Input, Side};
use crate::shard::Shell;
use crate::shard::ring::Token;

/// Pending connections the kernel keeps for a listener; 1,024 overflow under a burst, and an
/// overflow costs the client a second.
const LISTEN_BACKLOG: i32 = 4_096;

/// Accepted in a row before other sockets get their turn.
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
}

pub struct Conn {
    pub id: ConnId,
    socket: Socket,
    unsent: RefCell<Unsent>,
    /// The connect is under way.
    dialing: Cell<bool>,
    /// There may be something to read.
    readable: Cell<bool>,
    /// The peer has ended its side or the connection is broken: there is an end to be read.
    hangup: Cell<bool>,
    /// The peer's last byte has been handed on; what is left is to send.
    ended: Cell<bool>,
    /// The engine will send no more.
    closing: Cell<bool>,
    aborted: Cell<bool>,
    /// It waits for its turn in `Net::ready`.
    queued: Cell<bool>,
    /// Bytes thrown away after the goodbye.
    lingered: Cell<usize>,
}

/// What the sockets of a shard have to be seen to for.
#[derive(Default)]
pub struct Net {
    /// Connections that something can be done for, each once.
    ready: RefCell<VecDeque<Rc<Conn>>>,
    /// Connections whose large body has left; the engine is told after its turn.
    sent: RefCell<Vec<ConnId>>,
    /// Dials that failed on the spot.
    failed: RefCell<Vec<(ConnId, DialError)>>,
    listeners: RefCell<Vec<Listener>>,
    /// No connection is accepted before: the process is out of descriptors.
    accepts_from: Cell<Mono>,
    read_buffer: RefCell<Vec<u8>>,
}

struct Listener {
    socket: Rc<Socket>,
    ready: Cell<bool>,
}

impl Conn {
    pub fn new(id: ConnId, socket: Socket) -> Conn {
        Conn {
            id,
            socket,
            unsent: RefCell::default(),
            dialing: Cell::new(false),
            readable: Cell::new(false),
            hangup: Cell::new(false),
            ended: Cell::new(false),
            closing: Cell::new(false),
            aborted: Cell::new(false),
            queued: Cell::new(false),
            lingered: Cell::new(0),
        }
    }

    pub fn token(&self) -> Token {
        Token::conn(self.id)
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn is_sent(&self) -> bool {
        self.unsent.borrow().chunks.is_empty()
    }

    /// Whether the peer has acknowledged all that was to be sent.
    fn has_arrived(&self) -> bool {
        let mut queued: libc::c_int = 0;
        // SAFETY: the call writes one int, whose address is given.
        let told = unsafe { libc::ioctl(self.fd(), libc::TIOCOUTQ, &raw mut queued) };
        self.is_sent() && (told != 0 || queued == 0)
    }

    /// Writes at once what the socket takes. The chunk comes back when all of it has left.
    fn send_now(&self, chunk: Chunk) -> Result<Option<Chunk>, ()> {
        let mut unsent = self.unsent.borrow_mut();
        if self.aborted.get() {
            return Ok(Some(chunk));
        }
        let mut written = 0;
        if unsent.chunks.is_empty() {
            match send(self.fd(), chunk.bytes()) {
                Ok(count) if count == chunk.bytes().len() => return Ok(Some(chunk)),
                Ok(count) => written = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(()),
            }
            unsent.offset = written;
        }
        unsent.bytes += chunk.bytes().len() - written;
        unsent.chunks.push_back(chunk);
        Ok(None)
    }

    /// Writes more of what waits. True when nothing is left.
    fn send_more(&self) -> io::Result<bool> {
        let unsent = &mut *self.unsent.borrow_mut();
        while let Some(chunk) = unsent.chunks.front() {
            let rest = &chunk.bytes()[unsent.offset..];
            match send(self.fd(), rest) {
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

impl Net {
    pub fn new() -> Net {
        Net {
            read_buffer: RefCell::new(vec![0; READ_BUFFER_BYTES]),
            ..Net::default()
        }
    }

    pub fn is_idle(&self) -> bool {
        self.ready.borrow().is_empty()
            && self.sent.borrow().is_empty()
            && self.failed.borrow().is_empty()
    }

    fn queue(&self, conn: &Rc<Conn>) {
        if !conn.queued.replace(true) {
            self.ready.borrow_mut().push_back(conn.clone());
        }
    }

    /// When accepting goes on, if it rests.
    pub fn next_wakeup(&self) -> Option<Mono> {
        let waits = self.listeners.borrow().iter().any(|it| it.ready.get());
        waits.then(|| self.accepts_from.get())
    }
}

/// The ring has news of a connection.
pub fn conn_ready(shell: &Shell, conn: &Rc<Conn>, readable: bool, hangup: bool) {
    conn.readable.set(conn.readable.get() || readable);
    conn.hangup.set(conn.hangup.get() || hangup);
    shell.net.queue(conn);
}

pub fn listener_ready(shell: &Shell, listen: usize) {
    if let Some(listener) = shell.net.listeners.borrow().get(listen) {
        listener.ready.set(true);
    }
}

/// Sends on a connection; the buffer goes back to the engine's pool when it has left.
pub fn send_chunk(shell: &Shell, conn: &Rc<Conn>, chunk: Chunk) {
    match conn.send_now(chunk) {
        Ok(Some(Chunk::Owned(buffer))) => shell.recycle(buffer),
        // Told later: the engine is in the middle of a turn.
        Ok(Some(Chunk::Shared(_))) => shell.net.sent.borrow_mut().push(conn.id),
        Ok(None) => {}
        Err(()) => abort(shell, conn),
    }
}

pub fn abort(shell: &Shell, conn: &Rc<Conn>) {
    if !conn.aborted.replace(true) {
        if conn.id.side == Side::Out && !conn.has_arrived() {
            // A host that is given up must not get the rest of a message with its dot from what
            // the kernel still holds: closing resets the connection.
            let _ = conn.socket.set_linger(Some(Duration::ZERO));
        } else {
            let _ = conn.socket.shutdown(Shutdown::Both);
        }
        shell.net.queue(conn);
    }
}

/// The engine wants to read again.
pub fn resume(shell: &Shell, conn: &Rc<Conn>) {
    if conn.readable.get() {
        shell.net.queue(conn);
    }
}

/// The engine has said all it had to say.
pub fn close(shell: &Shell, conn: &Rc<Conn>) {
    conn.closing.set(true);
    if conn.is_sent() {
        let _ = conn.socket.shutdown(Shutdown::Write);
        shell.net.queue(conn);
    }
}

/// Sees once to every socket that something can be done for: one read each, so that a fast sender
/// does not hold up the others.
pub fn serve(shell: &Rc<Shell>) {
    let failed = shell.net.failed.take();
    for (conn, error) in failed {
        let result = Err(error);
        shell.handle(Input::Dialed { conn, result });
    }
    accept(shell);
    let count = shell.net.ready.borrow().len();
    for _ in 0..count {
        let Some(conn) = shell.net.ready.borrow_mut().pop_front() else {
            break;
        };
        conn.queued.set(false);
        serve_conn(shell, &conn);
    }
    let mut sent = shell.net.sent.take();
    for conn in sent.drain(..) {
        shell.handle(Input::Sent { conn, all: true });
    }
    // Bodies sent meanwhile wait for the next round; the larger buffer is kept.
    let mut next = shell.net.sent.borrow_mut();
    if next.is_empty() {
        *next = sent;
    }
}

fn serve_conn(shell: &Rc<Shell>, conn: &Rc<Conn>) {
    if conn.dialing.get() {
        return finish_dial(shell, conn);
    }
    if !conn.aborted.get() && !conn.is_sent() {
        write_rest(shell, conn);
    }
    if conn.aborted.get() || conn.ended.get() {
        if conn.aborted.get() || conn.closing.get() && conn.is_sent() {
            finish(shell, conn);
        }
        return;
    }
    let wanted = conn.closing.get() || shell.wants_read(conn.id);
    if conn.readable.get() && wanted && conn.unsent.borrow().bytes <= UNSENT_BYTES_MAX {
        read(shell, conn);
    }
}

fn write_rest(shell: &Rc<Shell>, conn: &Rc<Conn>) {
    let before = conn.unsent.borrow().bytes;
    let all = match conn.send_more() {
        Ok(all) => all,
        Err(_) => return abort(shell, conn),
    };
    if !all && conn.unsent.borrow().bytes == before {
        return;
    }
    if all && conn.closing.get() {
        let _ = conn.socket.shutdown(Shutdown::Write);
    }
    let conn = conn.id;
    shell.handle(Input::Sent { conn, all });
}

/// One read. An end of any kind is told to the engine.
fn read(shell: &Rc<Shell>, conn: &Rc<Conn>) {
    let mut buffer = shell.net.read_buffer.borrow_mut();
    match receive(conn.fd(), &mut buffer) {
        Ok(0) if conn.id.side == Side::Out || conn.closing.get() => finish(shell, conn),
        Ok(0) => {
            conn.ended.set(true);
            shell.handle(Input::Ended { conn: conn.id });
            shell.net.queue(conn);
        }
        Ok(count) => {
            // A short read has emptied the socket: the ring tells of all that comes later.
            if count < buffer.len() && !conn.hangup.get() {
                conn.readable.set(false);
            } else {
                shell.net.queue(conn);
            }
            if conn.closing.get() {
                linger(shell, conn, count);
            } else {
                let (conn, bytes) = (conn.id, &buffer[..count]);
                shell.handle(Input::Received { conn, bytes });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => conn.readable.set(false),
        Err(_) => finish(shell, conn),
    }
}

/// A peer that has been told goodbye may finish its sentence, so that it reads the goodbye and not
/// a reset.
fn linger(shell: &Rc<Shell>, conn: &Rc<Conn>, count: usize) {
    conn.lingered.set(conn.lingered.get() + count);
    if conn.lingered.get() > LINGER_BYTES_MAX {
        finish(shell, conn);
    }
}

fn finish(shell: &Rc<Shell>, conn: &Rc<Conn>) {
    conn.aborted.set(true);
    if shell.forget(conn) {
        shell.handle(Input::Closed { conn: conn.id });
    }
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

/// Whether connections can come from this address: it is on this machine, or the system lets it be
/// used all the same.
pub fn is_here(address: IpAddr) -> bool {
    let error = std::net::UdpSocket::bind(SocketAddr::new(address, 0)).err();
    let code = error.and_then(|error| error.raw_os_error());
    !matches!(code, Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

/// Accepts from now on.
pub fn start_listening(shell: &Shell, sockets: Vec<Socket>) {
    let mut listeners = shell.net.listeners.borrow_mut();
    for (listen, socket) in sockets.into_iter().enumerate() {
        shell
            .ring
            .borrow_mut()
            .watch_listener(socket.as_raw_fd(), Token::listener(listen));
        listeners.push(Listener {
            socket: Rc::new(socket),
            ready: Cell::new(true),
        });
    }
}

/// The ring has stopped to watch a listener.
pub fn watch_listener_again(shell: &Shell, listen: usize) {
    if let Some(listener) = shell.net.listeners.borrow().get(listen) {
        let fd = listener.socket.as_raw_fd();
        let token = Token::listener(listen);
        shell.ring.borrow_mut().watch_listener(fd, token);
    }
}

pub fn stop_listening(shell: &Shell) {
    let listeners = shell.net.listeners.take();
    for (listen, listener) in listeners.into_iter().enumerate() {
        shell.ring.borrow_mut().unwatch(Token::listener(listen));
        // Refuses new connections at once, although the ring holds on to the socket for a moment.
        let _ = listener.socket.shutdown(Shutdown::Both);
    }
}

fn accept(shell: &Rc<Shell>) {
    let ready = |listen: usize| {
        let listeners = shell.net.listeners.borrow();
        let listener = listeners.get(listen)?;
        listener.ready.get().then(|| listener.socket.clone())
    };
    let count = shell.net.listeners.borrow().len();
    for listen in 0..count {
        for _ in 0..ACCEPT_BURST {
            // Asked anew each time: what is accepted may end the listening.
            let Some(socket) = ready(listen) else { break };
            if shell.now().mono < shell.net.accepts_from.get() {
                return;
            }
            match socket.accept() {
                Ok((accepted, peer)) => welcome(shell, listen, accepted, peer),
                Err(error) => accept_failed(shell, listen, &error),
            }
        }
    }
}

fn accept_failed(shell: &Shell, listen: usize, error: &io::Error) {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            shell.out_of_descriptors();
            let until = shell.now().mono + ACCEPT_REST;
            shell.net.accepts_from.set(until);
        }
        Some(libc::EAGAIN | libc::EBADF | libc::EINVAL) => {
            if let Some(listener) = shell.net.listeners.borrow().get(listen) {
                listener.ready.set(false);
            }
        }
        // A connection that died in the queue is nobody's problem.
        _ => {}
    }
}

fn welcome(shell: &Rc<Shell>, listen: usize, socket: Socket, peer: SockAddr) {
    let local = socket
        .local_addr()
        .ok()
        .and_then(|address| address.as_socket());
    let (Some(peer), Some(local)) = (peer.as_socket(), local) else {
        return;
    };
    let _ = socket.set_nonblocking(true);
    let _ = socket.set_tcp_nodelay(true);
    let id = shell.accept(listen, peer, local);
    shell.remember(Conn::new(id, socket));
    shell.perform();
}

/// Opens a connection for the engine.
pub fn dial(shell: &Shell, id: ConnId, remote: SocketAddr, source: Option<IpAddr>) {
    match start_dial(remote, source) {
        Ok(socket) => {
            let conn = Conn::new(id, socket);
            conn.dialing.set(true);
            shell.remember(conn);
        }
        // Told later: the engine is in the middle of a turn.
        Err(error) => {
            let mut failed = shell.net.failed.borrow_mut();
            failed.push((id, dial_error(&error)));
        }
    }
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

fn finish_dial(shell: &Rc<Shell>, conn: &Rc<Conn>) {
    let socket = &conn.socket;
    let failed = match socket.take_error() {
        Ok(Some(error)) | Err(error) => Some(dial_error(&error)),
        Ok(None) if conn.aborted.get() => Some(DialError::TimedOut),
        Ok(None) => None,
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
    conn.dialing.set(false);
    if result.is_err() {
        conn.aborted.set(true);
        shell.forget(conn);
    } else if conn.readable.get() {
        // What the host says first is here already.
        shell.net.queue(conn);
    }
    let conn = conn.id;
    shell.handle(Input::Dialed { conn, result });
}

fn dial_error(error: &io::Error) -> DialError {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => DialError::Refused,
        Some(libc::ECONNRESET) => DialError::Other("Connection reset".into()),
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
const READ_BUFFER_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_here_or_it_is_not() {
        for (address, here) in [
            ("127.0.0.1", true),
            ("127.1.2.3", true),
            ("0.0.0.0", true),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_here(address.parse().unwrap()), here, "{address}");
        }
    }
}
