//! A small authoritative DNS responder for tests: MX routing without an outside resolver. It
//! answers UDP and TCP from a zone held in memory and misbehaves by name where the zone says so.
//! Blocking threads, one for UDP and a few for TCP: a test rig asks a few thousand questions a
//! second at most.

mod answer;
pub mod zone;

use core::net::IpAddr;
use core::net::Ipv4Addr;
use core::net::Ipv6Addr;
use core::net::SocketAddr;
use core::time::Duration;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::fmt;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Instant;

use answer::Transport;
use zone::Zone;

use crate::rig::runtime::RigError;

/// Answers that wait for their delay to pass; a question beyond is dropped.
const DELAYED_MAX: usize = 10_000;

/// TCP connections served at once; one beyond is closed.
const TCP_CONNECTIONS_MAX: usize = 64;

/// How long a TCP connection may be silent.
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Names counted one by one; those beyond are only in the totals.
const NAMES_COUNTED_MAX: usize = 10_000;

/// Attempts to find a port that is free for UDP and TCP alike, when the kernel is to choose.
const PORT_ATTEMPTS: usize = 16;

/// What a responder was asked and answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsCounts {
    pub udp_queries: u64,
    pub tcp_queries: u64,
    /// Questions that were never answered, because the zone or a bound says so.
    pub unanswered: u64,
    /// Packets that are no question.
    pub malformed: u64,
    /// UDP answers that did not fit and told the client to use TCP.
    pub truncated: u64,
    pub by_type: BTreeMap<String, u64>,
    pub by_code: BTreeMap<String, u64>,
    pub by_name: BTreeMap<String, u64>,
}

impl DnsCounts {
    /// The `dns` part of what `pelton-sink --json` prints.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "udp_queries": self.udp_queries,
            "tcp_queries": self.tcp_queries,
            "unanswered": self.unanswered,
            "malformed": self.malformed,
            "truncated": self.truncated,
            "types": self.by_type,
            "codes": self.by_code,
            "names": self.by_name,
        })
    }
}

impl fmt::Display for DnsCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            ("dns over UDP", self.udp_queries),
            ("dns over TCP", self.tcp_queries),
            ("dns unanswered", self.unanswered),
            ("dns malformed", self.malformed),
            ("dns truncated", self.truncated),
        ];
        for (name, count) in lines {
            writeln!(f, "{name:<20} {count:>15}")?;
        }
        for (code, count) in &self.by_code {
            writeln!(f, "{:<20} {count:>15}", format!("dns {code}"))?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Shared {
    zone: Zone,
    counts: Mutex<DnsCounts>,
    stopping: AtomicBool,
    tcp_connections: AtomicUsize,
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, DnsCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The answer to a packet and how long it is held back; `None` if there is none.
    fn answer(&self, packet: &[u8], transport: Transport) -> Option<(Vec<u8>, Duration)> {
        let outcome = answer::answer(&self.zone, packet, transport);
        let mut counts = self.counts();
        match transport {
            Transport::Udp => counts.udp_queries += 1,
            Transport::Tcp => counts.tcp_queries += 1,
        }
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => {
                counts.malformed += 1;
                return None;
            }
        };
        *counts.by_type.entry(outcome.query_type).or_default() += 1;
        if counts.by_name.len() < NAMES_COUNTED_MAX || counts.by_name.contains_key(&outcome.name) {
            *counts.by_name.entry(outcome.name).or_default() += 1;
        }
        let Some(reply) = outcome.reply else {
            counts.unanswered += 1;
            return None;
        };
        *counts.by_code.entry(outcome.code).or_default() += 1;
        counts.truncated += u64::from(outcome.truncated);
        Some((reply, outcome.delay))
    }
}

/// A running responder. Dropping it stops it.
#[derive(Debug)]
pub struct DnsResponder {
    addr: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl DnsResponder {
    /// Answers on `addr`, UDP and TCP, from now on. Port 0: one that is free for both.
    pub fn start(addr: SocketAddr, zone: Zone) -> Result<DnsResponder, RigError> {
        let (udp, tcp) = bind(addr).map_err(|source| RigError::Listen { addr, source })?;
        let addr = udp
            .local_addr()
            .map_err(|source| RigError::Listen { addr, source })?;
        let shared = Arc::new(Shared {
            zone,
            counts: Mutex::default(),
            stopping: AtomicBool::new(false),
            tcp_connections: AtomicUsize::new(0),
        });
        let mut responder = DnsResponder {
            addr,
            shared,
            threads: Vec::new(),
        };
        let own = responder.shared.clone();
        responder.spawn("dns-udp", move || serve_udp(&own, &udp))?;
        let own = responder.shared.clone();
        responder.spawn("dns-tcp", move || serve_tcp(&own, &tcp))?;
        Ok(responder)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), RigError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
        self.threads.push(thread.map_err(RigError::Thread)?);
        Ok(())
    }

    /// Where it answers.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn counts(&self) -> DnsCounts {
        self.shared.counts().clone()
    }

    /// Stops answering and returns the totals.
    pub fn stop(mut self) -> DnsCounts {
        self.end();
        self.counts()
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let own = match self.addr.ip() {
            ip if !ip.is_unspecified() => self.addr,
            IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.addr.port()),
            IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), self.addr.port()),
        };
        // An empty packet and a connection wake the threads, which then see that they are to stop.
        if let Ok(socket) = UdpSocket::bind(SocketAddr::new(own.ip(), 0)) {
            let _ = socket.send_to(&[], own);
        }
        let _ = TcpStream::connect(own);
        for thread in self.threads.drain(..) {
            // A panic has already been printed by its thread.
            let _ = thread.join();
        }
    }
}

impl Drop for DnsResponder {
    fn drop(&mut self) {
        self.end();
    }
}

fn bind(addr: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempt = 1;
    loop {
        let udp = UdpSocket::bind(addr)?;
        match TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(_) if addr.port() == 0 && attempt < PORT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// An answer that waits; the earliest is the greatest.
type Delayed = Reverse<(Instant, SocketAddr, Vec<u8>)>;

fn serve_udp(shared: &Shared, socket: &UdpSocket) {
    let mut delayed: BinaryHeap<Delayed> = BinaryHeap::new();
    let mut packet = [0; 4_096];
    while !shared.is_stopping() {
        let mut timeout = None;
        while let Some(Reverse((due, to, reply))) = delayed.peek() {
            let left = due.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                timeout = Some(left);
                break;
            }
            // A client that has gone is no reason to stop.
            let _ = socket.send_to(reply, to);
            delayed.pop();
        }
        let _ = socket.set_read_timeout(timeout);
        // An error is a timeout, or the report of an earlier answer that nobody took.
        let Ok((length, from)) = socket.recv_from(&mut packet) else {
            continue;
        };
        if shared.is_stopping() {
            return;
        }
        match shared.answer(&packet[..length], Transport::Udp) {
            None => {}
            Some((reply, delay)) if delay.is_zero() => {
                let _ = socket.send_to(&reply, from);
            }
            Some((reply, delay)) if delayed.len() < DELAYED_MAX => {
                delayed.push(Reverse((Instant::now() + delay, from, reply)));
            }
            Some(_) => shared.counts().unanswered += 1,
        }
    }
}

fn serve_tcp(shared: &Arc<Shared>, listener: &TcpListener) {
    while !shared.is_stopping() {
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        if shared.tcp_connections.fetch_add(1, Ordering::SeqCst) >= TCP_CONNECTIONS_MAX {
            shared.tcp_connections.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let own = shared.clone();
        let served = thread::Builder::new()
            .name("dns-tcp-connection".to_owned())
            .spawn(move || {
                // However it ends, it has ended.
                let _ = serve_connection(&own, stream);
                own.tcp_connections.fetch_sub(1, Ordering::SeqCst);
            });
        if served.is_err() {
            shared.tcp_connections.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve_connection(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(TCP_IDLE_TIMEOUT))?;
    stream.set_write_timeout(Some(TCP_IDLE_TIMEOUT))?;
    while !shared.is_stopping() {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut packet)?;
        let Some((reply, delay)) = shared.answer(&packet, Transport::Tcp) else {
            continue;
        };
        thread::sleep(delay);
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&reply);
        stream.write_all(&framed)?;
    }
    Ok(())
}
