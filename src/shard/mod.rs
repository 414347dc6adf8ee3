//! L6: a shard in the real world. One executor on one core turns completions of sockets and files
//! into inputs of its engine, and the engine's actions into submissions. It takes no decisions.

pub mod clock;
pub mod disk;
pub mod event;
pub mod net;

use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::net::SocketAddr;
use core::task::Poll;
use core::time::Duration;
use std::rc::Rc;

use glommio::io::PollableFd;
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};
use socket2::Socket;

use crate::base::time::Mono;
use crate::bridge::FromShard;
use crate::bridge::mesh::{Incoming, Port};
use crate::engine::io::{Action, ConnId, Input, Level, Outbox, Side, ToControl};
use crate::engine::{Engine, Setup};
use crate::shard::clock::Clock;
use crate::shard::disk::Disk;
use crate::shard::event::Event;
use crate::shard::net::{Chunk, Conn};
use crate::types::id::ShardId;

/// Entries of the submission ring.
const RING_DEPTH: usize = 128;

/// The executor's own preemption is off: when its timer fires before the first task of a round has
/// run, as it does on a core that others use too, the executor goes to sleep with tasks that could
/// run. Nothing here runs long: a task handles one read or one burst and returns to the ring.
const PREEMPT_TIMER: Duration = Duration::from_secs(3_600);

/// Memory for registered buffers: none are used, so as little as the executor takes.
const IO_MEMORY_BYTES: usize = 64 * 1024;

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
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT_TIMER)
        .io_memory(IO_MEMORY_BYTES)
        .make()
        .map_err(|error| crate::shard::disk::io_uring_sentence(&error.to_string()))?;
    executor.run(main(start))
}

async fn main(start: Start) -> Result<(), String> {
    let shard = start.setup.shard;
    let sockets: Result<Vec<_>, _> = start
        .listen
        .iter()
        .map(|address| net::listen(*address).map_err(|error| format!("{address}: {error}")))
        .collect();
    let sockets = sockets?;
    let executor = glommio::executor();
    let latency = Latency::Matters(Duration::from_millis(2));
    let queue = executor.create_task_queue(Shares::Static(600), latency, "engine");
    let shell = Rc::new(Shell {
        outbox: RefCell::default(),
        clock: start.clock,
        port: RefCell::new(start.port),
        conns: RefCell::default(),
        read_buffer: RefCell::new(vec![0; net::READ_BUFFER_BYTES]),
        alarm: Alarm::default(),
        listeners: RefCell::default(),
        stopping: Cell::new(false),
        drained: Event::default(),
        mesh_retry: Event::default(),
        disk_due: Event::default(),
        prepared: Event::default(),
        disk: Disk::new(start.disk),
        control: start.control,
        shard,
        queue,
        engine: RefCell::new(Engine::new(start.setup, start.clock.now())),
    });
    shell.spawn(run_alarm(shell.clone()));
    shell.spawn(run_mesh(shell.clone()));
    shell.spawn(retry_mesh(shell.clone()));
    shell.spawn(run_disk(shell.clone()));
    shell.spawn(trim_memory(shell.clone()));
    shell.handle(Input::Tick);
    // The first client need not wait for the first segment; a disk that does not get on with it
    // is the spool's business.
    let patience = glommio::timer::Timer::new(PREPARE_WAIT);
    futures_lite::future::race(async { _ = patience.await }, shell.prepared.wait()).await;
    for (listen, socket) in sockets.into_iter().enumerate() {
        shell.spawn(net::accept_all(shell.clone(), listen, socket));
    }
    shell.tell(FromShard::Listening { shard });
    shell.drained.wait().await;
    shell.disk.close().await;
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
    port: RefCell<Port>,
    conns: RefCell<Conns>,
    read_buffer: RefCell<Vec<u8>>,
    alarm: Alarm,
    listeners: RefCell<Vec<Rc<PollableFd<Socket>>>>,
    stopping: Cell<bool>,
    drained: Event,
    mesh_retry: Event,
    disk_due: Event,
    /// A segment has been made, or could not be.
    prepared: Event,
    disk: Disk,
    control: ControlSender,
    shard: ShardId,
    queue: TaskQueueHandle,
}

impl Shell {
    /// Gives the engine an input and performs what it wants done. The disk is seen to when the
    /// other tasks that can run have had their turn, so that their messages share a commit.
    fn handle(self: &Rc<Self>, input: Input<'_>) {
        let now = self.clock.now();
        self.engine
            .borrow_mut()
            .take(now, input, &mut self.outbox.borrow_mut());
        self.disk_due.notify();
        self.perform();
    }

    /// The moment of a wake-up, which may be the disk's: seen to at once, or it would come again.
    fn tick(self: &Rc<Self>) {
        let now = self.clock.now();
        self.engine
            .borrow_mut()
            .handle(now, Input::Tick, &mut self.outbox.borrow_mut());
        self.perform();
    }

    fn accept(&self, listen: usize, peer: SocketAddr, local: SocketAddr) -> ConnId {
        let now = self.clock.now();
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
        if self.port.borrow_mut().flush() {
            self.mesh_retry.notify();
        }
        let next = self.engine.borrow().next_wakeup();
        self.alarm.set(next.unwrap_or(Mono::MAX));
    }

    fn perform_one(self: &Rc<Self>, action: Action) {
        match action {
            Action::Send { conn, bytes } => self.send(conn, Chunk::Owned(bytes)),
            Action::SendShared { conn, bytes } => self.send(conn, Chunk::Shared(bytes)),
            Action::Resume { conn } => self.with(conn, |conn| conn.resume()),
            Action::Close { conn } => self.with(conn, |conn| conn.close()),
            Action::Abort { conn } => self.with(conn, |conn| conn.abort()),
            Action::Dial {
                conn,
                remote,
                source,
            } => net::dial(self, conn, remote, source),
            Action::Spool(op) => disk::spool(self, op),
            Action::Hose(op) => disk::hose(self, op),
            Action::Read { read, at } => disk::read(self, read, at),
            Action::Mesh { to, message } => self.port.borrow_mut().send(to, message),
            Action::Control(ToControl::Quiet { shard }) => {
                self.spawn(tell_quiet(self.clone(), shard));
            }
            Action::Control(ToControl::Drained { shard }) => {
                self.tell(FromShard::Engine(ToControl::Drained { shard }));
                self.drained.notify();
            }
            Action::Control(message) => self.tell(FromShard::Engine(message)),
            Action::StopListening => self.stop_listening(),
        }
    }

    fn send(self: &Rc<Self>, id: ConnId, chunk: Chunk) {
        if let Some(conn) = self.conn(id) {
            net::send_chunk(self, &conn, chunk);
        }
    }

    fn with(&self, id: ConnId, act: impl FnOnce(&Conn)) {
        if let Some(conn) = self.conn(id) {
            act(&conn);
        }
    }

    fn conn(&self, id: ConnId) -> Option<Rc<Conn>> {
        let mut conns = self.conns.borrow_mut();
        let conn = conns.side(id.side).get(id.key.index())?.as_ref()?;
        (conn.id == id).then(|| conn.clone())
    }

    fn remember(&self, id: ConnId, socket: PollableFd<Socket>) -> Rc<Conn> {
        let conn = Rc::new(net::new_conn(id, socket));
        let mut conns = self.conns.borrow_mut();
        let side = conns.side(id.side);
        if side.len() <= id.key.index() {
            side.resize(id.key.index() + 1, None);
        }
        side[id.key.index()] = Some(conn.clone());
        conn
    }

    fn forget(&self, id: ConnId) {
        if self.conn(id).is_some() {
            self.conns.borrow_mut().side(id.side)[id.key.index()] = None;
        }
    }

    fn recycle(&self, buffer: Vec<u8>) {
        self.outbox.borrow_mut().recycle(buffer);
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        match glommio::spawn_local_into(task, self.queue) {
            Ok(task) => drop(task.detach()),
            Err(_) => unreachable!("the task queue lives as long as the executor"),
        }
    }

    fn tell(&self, message: FromShard) {
        // Control outlives the shards; when it is gone the process is ending.
        let _ = self.control.send(message);
    }

    fn stopping(&self) -> bool {
        self.stopping.get()
    }

    fn add_listener(&self, listener: Rc<PollableFd<Socket>>) {
        self.listeners.borrow_mut().push(listener);
    }

    fn stop_listening(&self) {
        self.stopping.set(true);
        for listener in self.listeners.borrow_mut().drain(..) {
            // Refuses new connections and wakes the task that accepts.
            let _ = listener.get_ref().shutdown(std::net::Shutdown::Both);
        }
    }

    fn out_of_descriptors(&self) {
        let text = "out of file descriptors: connections wait; raise LimitNOFILE".to_string();
        let notice = ToControl::Notice {
            shard: self.shard,
            level: Level::Error,
            text,
        };
        self.tell(FromShard::Engine(notice));
    }
}

/// The moment of the engine's next wake-up.
struct Alarm {
    at: Cell<Mono>,
    earlier: Event,
}

impl Default for Alarm {
    fn default() -> Alarm {
        Alarm {
            at: Cell::new(Mono::MAX),
            earlier: Event::default(),
        }
    }
}

impl Alarm {
    fn set(&self, at: Mono) {
        let earlier = at < self.at.get();
        // A later moment is noticed when the earlier one comes: one wake-up too many, no timer
        // set anew for every message.
        if earlier {
            self.at.set(at);
            self.earlier.notify();
        }
    }
}

async fn run_alarm(shell: Rc<Shell>) {
    loop {
        let now = shell.clock.now().mono;
        let at = shell.alarm.at.get();
        if at <= now {
            shell.alarm.at.set(Mono::MAX);
            shell.tick();
            continue;
        }
        if at == Mono::MAX {
            shell.alarm.earlier.wait().await;
            continue;
        }
        let sleep = glommio::timer::Timer::new(at.since(now));
        futures_lite::future::race(async { _ = sleep.await }, shell.alarm.earlier.wait()).await;
    }
}

/// While the process takes more than its goal, what this thread has freed goes back to the system:
/// the allocator keeps it, and mail would be refused for the sake of memory that nobody uses.
async fn trim_memory(shell: Rc<Shell>) {
    loop {
        glommio::timer::sleep(TRIM_EVERY).await;
        if shell.engine.borrow().is_over_memory_goal() {
            // SAFETY: the call has no preconditions; it touches this thread's free memory only.
            unsafe { libmimalloc_sys::mi_collect(true) };
        }
    }
}

/// Starts what the disk should do, once per round of inputs.
async fn run_disk(shell: Rc<Shell>) {
    loop {
        shell.disk_due.wait().await;
        let now = shell.clock.now();
        shell
            .engine
            .borrow_mut()
            .start_disk(now, &mut shell.outbox.borrow_mut());
        shell.perform();
    }
}

async fn run_mesh(shell: Rc<Shell>) {
    loop {
        let mut handled = 0;
        while handled < MESH_BURST {
            let message = shell.port.borrow_mut().receive();
            match message {
                Some(Incoming::Mesh { from, message }) => {
                    shell.handle(Input::Mesh { from, message });
                }
                Some(Incoming::Control(message)) => shell.handle(Input::Control(message)),
                None => break,
            }
            handled += 1;
        }
        if handled == MESH_BURST {
            glommio::executor().yield_now().await;
            continue;
        }
        let mut registered = false;
        poll_fn(|context| {
            if registered {
                return Poll::Ready(());
            }
            registered = true;
            shell.port.borrow().register(context.waker());
            if shell.port.borrow_mut().has_messages() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// Says that the shard is quiet, once all it has sent to other shards is in their rings.
async fn tell_quiet(shell: Rc<Shell>, shard: ShardId) {
    while shell.port.borrow_mut().flush() {
        glommio::timer::sleep(MESH_RETRY).await;
    }
    shell.tell(FromShard::Engine(ToControl::Quiet { shard }));
}

/// While messages are parked because another shard is behind, tries again now and then.
async fn retry_mesh(shell: Rc<Shell>) {
    loop {
        shell.mesh_retry.wait().await;
        glommio::timer::sleep(MESH_RETRY).await;
        if shell.port.borrow_mut().flush() {
            shell.mesh_retry.notify();
        }
    }
}
