//! L6: a shard in the real world. One executor on one core turns completions of sockets and files
//! into inputs of its engine, and the engine's actions into submissions. It takes no decisions.
//!
//! The executor (glommio) owns the thread, its core and the work in the background. The sockets and
//! the commits have a ring of their own, and the shard sleeps there: with few connections a sleep
//! comes after almost every reply, and the executor's takes some fifteen ring entries, five system
//! calls and a barrier across all cores.

mod background;
pub mod clock;
pub mod disk;
pub mod event;
pub mod faults;
pub mod net;
mod ring;

use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use core::time::Duration;
use std::rc::Rc;
use std::task::Waker;

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use socket2::Socket;

use crate::base::time::{Mono, Now};
use crate::bridge::FromShard;
use crate::bridge::mesh::{Incoming, Port};
use crate::engine::io::{Action, ConnId, Input, Level, Outbox, Side, ToControl};
use crate::engine::{Engine, Setup};
use crate::shard::background::Background;
use crate::shard::clock::Clock;
use crate::shard::disk::{Disk, Purpose};
use crate::shard::net::{Chunk, Conn, Net};
use crate::shard::ring::{Done, Ring, Token};
use crate::types::id::ShardId;

/// Entries of the executor's rings, which only wait for work in the background.
const EXECUTOR_RING_DEPTH: usize = 8;

/// The executor's own preemption is off: its tasks are few and short.
const PREEMPT_TIMER: Duration = Duration::from_secs(3_600);

/// Memory for registered buffers: none are used, so as little as the executor takes.
const IO_MEMORY_BYTES: usize = 64 * 1024;

/// Threads of a shard for what blocks: segments, names, the event log.
const BACKGROUND_THREADS: usize = 2;

/// How often a commit lets others run and looks what they have brought before it starts: with few
/// connections twice as many messages share it. It starts at once when they bring nothing.
const LOOKS_MAX: u32 = 8;

/// Messages taken from the mesh before sockets get their turn.
const MESH_BURST: usize = 256;

/// How often freed memory is given back while the process is over its goal.
const TRIM_EVERY: Duration = Duration::from_secs(2);

/// How long a start waits for its first segment before it accepts connections.
const PREPARE_WAIT: Duration = Duration::from_secs(3);

/// How long parked mesh messages wait for their reader.
const MESH_RETRY: Duration = Duration::from_millis(1);

/// How the shard tells control something. Never blocks.
pub type ControlSender = tokio::sync::mpsc::UnboundedSender<FromShard>;

/// All that a shard starts with; crosses to its thread.
pub struct Start {
    pub setup: Setup,
    pub clock: Clock,
    pub port: Port,
    pub control: ControlSender,
    pub listen: Vec<SocketAddr>,
    pub disk: disk::Folders,
    /// Faults of the disk on purpose; none but in tests.
    pub faults: faults::Plan,
    /// Pin to this core.
    pub core: Option<usize>,
}

/// Starts the thread of a shard. The error is a sentence for the operator.
pub fn spawn(start: Start) -> Result<std::thread::JoinHandle<()>, String> {
    let shard = start.setup.shard;
    std::thread::Builder::new()
        .name(format!("shard-{}", shard.0))
        .spawn(move || {
            let control = start.control.clone();
            let run = std::panic::AssertUnwindSafe(move || run(start));
            let ended = match std::panic::catch_unwind(run) {
                Ok(Ok(())) => FromShard::Stopped { shard },
                Ok(Err(why)) => FromShard::Failed { shard, why },
                Err(_) => FromShard::Failed {
                    shard,
                    why: "its thread panicked".into(),
                },
            };
            let _ = control.send(ended);
        })
        .map_err(|error| format!("cannot start the thread of shard {}: {error}", shard.0))
}

fn run(start: Start) -> Result<(), String> {
    let placement = match start.core {
        Some(core) => Placement::Fixed(core),
        None => Placement::Unbound,
    };
    let executor = LocalExecutorBuilder::new(placement)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .preempt_timer(PREEMPT_TIMER)
        .io_memory(IO_MEMORY_BYTES)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(BACKGROUND_THREADS))
        .make()
        .map_err(|error| crate::shard::disk::io_uring_sentence(&error.to_string()))?;
    executor.run(main(start))
}

async fn main(start: Start) -> Result<(), String> {
    let sockets: Result<Vec<_>, _> = start
        .listen
        .iter()
        .map(|address| net::listen(*address).map_err(|error| format!("{address}: {error}")))
        .collect();
    let sockets = sockets?;
    let ring = Ring::new().map_err(|error| disk::io_uring_sentence(&error.to_string()))?;
    let shell = Rc::new(Shell::new(start, sockets, ring));
    shell.handle(Input::Tick);
    while !shell.drained.get() {
        let more = shell.turn();
        if shell.background.is_due() {
            shell.background.turn().await;
        } else if !shell.drained.get() {
            let slept = shell.sleep(more);
            slept.map_err(|error| format!("io_uring has failed: {error}"))?;
        }
    }
    shell.disk.close();
    Ok(())
}

/// Connections by slot; a stale id finds nothing.
#[derive(Default)]
struct Conns {
    incoming: Vec<Option<Rc<Conn>>>,
    outgoing: Vec<Option<Rc<Conn>>>,
}

impl Conns {
    fn side(&mut self, side: Side) -> &mut Vec<Option<Rc<Conn>>> {
        match side {
            Side::In => &mut self.incoming,
            Side::Out => &mut self.outgoing,
        }
    }
}

pub struct Shell {
    engine: RefCell<Engine>,
    outbox: RefCell<Outbox>,
    clock: Clock,
    /// The time of this round: clocks are read once for all that happens in it.
    now: Cell<Now>,
    port: RefCell<Port>,
    conns: RefCell<Conns>,
    ring: RefCell<Ring<Purpose>>,
    waker: Waker,
    net: Net,
    disk: Disk,
    background: Background,
    control: ControlSender,
    shard: ShardId,
    /// Sockets that are not listened to yet, because the first segment is being made.
    sockets: RefCell<Option<Vec<Socket>>>,
    listen_by: Mono,
    /// A segment has been made, or could not be.
    prepared: Cell<bool>,
    /// The engine may have something for the disk.
    disk_due: Cell<bool>,
    /// Rounds that the commit that gathers has been put off for.
    looks: Cell<u32>,
    /// The engine's next moment, as of the end of the last round.
    wakeup_at: Cell<Mono>,
    /// When parked messages are offered to their readers again.
    mesh_retry_at: Cell<Mono>,
    trim_at: Cell<Mono>,
    /// Mail of earlier starts was on its way into the queues in the last round.
    returning: Cell<bool>,
    /// Control waits to hear that the shard is quiet.
    quiet: Cell<bool>,
    drained: Cell<bool>,
}

impl Shell {
    fn new(start: Start, sockets: Vec<Socket>, ring: Ring<Purpose>) -> Shell {
        let now = start.clock.now();
        Shell {
            outbox: RefCell::default(),
            clock: start.clock,
            now: Cell::new(now),
            port: RefCell::new(start.port),
            conns: RefCell::default(),
            waker: ring.waker(),
            ring: RefCell::new(ring),
            net: Net::new(),
            disk: Disk::new(start.disk, start.faults.of_shard(start.setup.shard)),
            background: Background::default(),
            control: start.control,
            shard: start.setup.shard,
            sockets: RefCell::new(Some(sockets)),
            listen_by: now.mono + PREPARE_WAIT,
            prepared: Cell::new(false),
            disk_due: Cell::new(false),
            looks: Cell::new(0),
            wakeup_at: Cell::new(Mono::MAX),
            mesh_retry_at: Cell::new(Mono::MAX),
            trim_at: Cell::new(now.mono + TRIM_EVERY),
            returning: Cell::new(false),
            quiet: Cell::new(false),
            drained: Cell::new(false),
            engine: RefCell::new(Engine::new(start.setup, now)),
        }
    }

    /// Sees once to everything that has happened. True if there is more to do at once.
    fn turn(self: &Rc<Self>) -> bool {
        self.now.set(self.clock.now());
        self.collect();
        net::serve(self);
        disk::serve(self);
        let more = self.receive_mesh();
        self.see_to_time();
        self.start_disk();
        self.flush_mesh();
        more || !self.net.is_idle() || !self.disk.is_idle() || self.disk_due.get()
    }

    /// Starts what the disk should do: last in a round, so that all its messages share a commit,
    /// and not before those who are about to send more of them have had a chance to.
    fn start_disk(self: &Rc<Self>) {
        if !self.disk_due.get() {
            return;
        }
        if self.looks.get() < LOOKS_MAX && self.engine.borrow().could_commit() {
            self.looks.set(self.looks.get() + 1);
            if self.ring.borrow_mut().look() {
                return;
            }
        }
        self.looks.set(0);
        self.disk_due.set(false);
        let now = self.now();
        self.engine
            .borrow_mut()
            .start_disk(now, &mut self.outbox.borrow_mut());
        self.perform();
    }

    /// Takes what the ring has to tell.
    fn collect(self: &Rc<Self>) {
        loop {
            let done = self.ring.borrow_mut().next();
            match done {
                None => return,
                Some(Done::File(finished)) => disk::done(self, finished),
                Some(Done::Ready {
                    token,
                    readable,
                    hangup,
                    unwatched,
                }) => {
                    let Some(side) = token.side() else {
                        if unwatched {
                            net::watch_listener_again(self, token.index());
                        }
                        net::listener_ready(self, token.index());
                        continue;
                    };
                    let Some(conn) = self.conn_at(side, token) else {
                        continue;
                    };
                    if unwatched {
                        self.watch(&conn);
                    }
                    net::conn_ready(self, &conn, readable, hangup);
                }
            }
        }
    }

    /// True if there may be more.
    fn receive_mesh(self: &Rc<Self>) -> bool {
        for _ in 0..MESH_BURST {
            let message = self.port.borrow_mut().receive();
            match message {
                Some(Incoming::Mesh { from, message }) => {
                    self.handle(Input::Mesh { from, message });
                }
                Some(Incoming::Control(message)) => self.handle(Input::Control(message)),
                None => return false,
            }
        }
        true
    }

    fn see_to_time(self: &Rc<Self>) {
        let now = self.now();
        if self.wakeup_at.get() <= now.mono {
            self.wakeup_at.set(Mono::MAX);
            // The disk's moment, perhaps: seen to at once, or it would come again.
            self.engine
                .borrow_mut()
                .handle(now, Input::Tick, &mut self.outbox.borrow_mut());
            self.perform();
        }
        let returning = self.engine.borrow().is_returning();
        if self.returning.replace(returning) && !returning {
            // What was found at the start came from other threads, and took more than it does now.
            self.give_memory_back();
        }
        let waited = self.prepared.get() || self.listen_by <= now.mono;
        if waited && !returning {
            // The first client need not wait for the first segment; a disk that does not get on
            // with it is the spool's business.
            if let Some(sockets) = self.sockets.borrow_mut().take() {
                net::start_listening(self, sockets);
                self.tell(FromShard::Listening { shard: self.shard });
            }
        }
        if self.trim_at.get() <= now.mono {
            self.trim_at.set(now.mono + TRIM_EVERY);
            self.trim_memory();
        }
    }

    /// While the process takes more than its goal, what this thread has freed goes back to the
    /// system: the allocator keeps it, and mail would be refused for the sake of memory that nobody
    /// uses.
    fn trim_memory(&self) {
        if self.engine.borrow().is_over_memory_goal() {
            self.give_memory_back();
        }
    }

    fn give_memory_back(&self) {
        // SAFETY: the call has no preconditions; it touches this thread's free memory only.
        unsafe { libmimalloc_sys::mi_collect(true) };
    }

    /// Sends what waits for other shards, and says that this one is quiet once that is all sent.
    fn flush_mesh(&self) {
        let parked = self.port.borrow_mut().flush();
        let retry_at = if parked {
            self.now().mono + MESH_RETRY
        } else {
            Mono::MAX
        };
        self.mesh_retry_at.set(retry_at);
        if !parked && self.quiet.replace(false) {
            let shard = self.shard;
            self.tell(FromShard::Engine(ToControl::Quiet { shard }));
        }
    }

    /// Until something happens, or the time of something comes.
    fn sleep(&self, more: bool) -> std::io::Result<()> {
        let wakeup = self.engine.borrow().next_wakeup();
        self.wakeup_at.set(wakeup.unwrap_or(Mono::MAX));
        let mut ring = self.ring.borrow_mut();
        if more {
            return ring.poll();
        }
        self.port.borrow().register(&self.waker);
        if self.port.borrow().has_messages() {
            return ring.poll();
        }
        let waits_to_listen = self.sockets.borrow().is_some();
        let times = [
            wakeup,
            self.net.next_wakeup(),
            self.disk.next_wakeup(),
            waits_to_listen.then_some(self.listen_by),
            Some(self.mesh_retry_at.get().min(self.trim_at.get())),
        ];
        let next = times.into_iter().flatten().min().unwrap_or(Mono::MAX);
        ring.wait(Some(next.since(self.clock.now().mono)))
    }

    fn now(&self) -> Now {
        self.now.get()
    }

    /// Gives the engine an input and performs what it wants done. The disk is seen to at the end of
    /// the round.
    fn handle(self: &Rc<Self>, input: Input<'_>) {
        let now = self.now();
        self.engine
            .borrow_mut()
            .take(now, input, &mut self.outbox.borrow_mut());
        self.disk_due.set(true);
        self.perform();
    }

    fn accept(&self, listen: usize, peer: SocketAddr, local: SocketAddr) -> ConnId {
        let now = self.now();
        let out = &mut self.outbox.borrow_mut();
        self.engine
            .borrow_mut()
            .accept(now, listen, peer, local, out)
    }

    fn wants_read(&self, conn: ConnId) -> bool {
        self.engine.borrow().wants_read(conn)
    }

    fn perform(self: &Rc<Self>) {
        let mut actions = self.outbox.borrow_mut().take();
        for action in actions.drain(..) {
            self.perform_one(action);
        }
        self.outbox.borrow_mut().reuse(actions);
    }

    fn perform_one(self: &Rc<Self>, action: Action) {
        match action {
            Action::Send { conn, bytes } => self.send(conn, Chunk::Owned(bytes)),
            Action::SendShared { conn, bytes } => self.send(conn, Chunk::Shared(bytes)),
            Action::Resume { conn } => self.with(conn, net::resume),
            Action::Close { conn } => self.with(conn, net::close),
            Action::Abort { conn } => self.with(conn, net::abort),
            Action::Dial {
                conn,
                remote,
                source,
            } => net::dial(self, conn, remote, source),
            Action::Spool(op) => disk::spool(self, op),
            Action::Hose(op) => disk::hose(self, op),
            Action::Read { read, at } => disk::read_body(self, read, at),
            Action::Mesh { to, message } => self.port.borrow_mut().send(to, message),
            // Told once all it has sent to other shards is in their rings.
            Action::Control(ToControl::Quiet { .. }) => self.quiet.set(true),
            Action::Control(ToControl::Drained { shard }) => {
                self.tell(FromShard::Engine(ToControl::Drained { shard }));
                self.drained.set(true);
            }
            Action::Control(message) => self.tell(FromShard::Engine(message)),
            Action::StopListening => self.stop_listening(),
        }
    }

    fn send(&self, id: ConnId, chunk: Chunk) {
        if let Some(conn) = self.conn(id) {
            net::send_chunk(self, &conn, chunk);
        }
    }

    fn with(&self, id: ConnId, act: impl FnOnce(&Shell, &Rc<Conn>)) {
        if let Some(conn) = self.conn(id) {
            act(self, &conn);
        }
    }

    fn conn(&self, id: ConnId) -> Option<Rc<Conn>> {
        let mut conns = self.conns.borrow_mut();
        let conn = conns.side(id.side).get(id.key.index())?.as_ref()?;
        (conn.id == id).then(|| conn.clone())
    }

    fn conn_at(&self, side: Side, token: Token) -> Option<Rc<Conn>> {
        let mut conns = self.conns.borrow_mut();
        let conn = conns.side(side).get(token.index())?.as_ref()?;
        (conn.token() == token).then(|| conn.clone())
    }

    fn remember(&self, conn: Conn) {
        let conn = Rc::new(conn);
        self.watch(&conn);
        let index = conn.id.key.index();
        let mut conns = self.conns.borrow_mut();
        let side = conns.side(conn.id.side);
        if side.len() <= index {
            side.resize(index + 1, None);
        }
        side[index] = Some(conn);
    }

    fn watch(&self, conn: &Conn) {
        self.ring.borrow_mut().watch_conn(conn.fd(), conn.token());
    }

    /// False if it was not there any more.
    fn forget(&self, conn: &Conn) -> bool {
        if self.conn(conn.id).is_none() {
            return false;
        }
        self.ring.borrow_mut().unwatch(conn.token());
        self.conns.borrow_mut().side(conn.id.side)[conn.id.key.index()] = None;
        true
    }

    fn recycle(&self, buffer: Vec<u8>) {
        self.outbox.borrow_mut().recycle(buffer);
    }

    fn tell(&self, message: FromShard) {
        // Control outlives the shards; when it is gone the process is ending.
        let _ = self.control.send(message);
    }

    fn stop_listening(&self) {
        self.sockets.borrow_mut().take();
        net::stop_listening(self);
    }

    fn out_of_descriptors(&self) {
        let text = "out of file descriptors: connections wait; raise LimitNOFILE".to_string();
        self.notice(Level::Error, text);
    }

    /// Tells the operator.
    fn notice(&self, level: Level, text: String) {
        let shard = self.shard;
        let notice = ToControl::Notice { shard, level, text };
        self.tell(FromShard::Engine(notice));
    }
}
