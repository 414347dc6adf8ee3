//! The world of a run: what happens next, and who takes part.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::map::Map;
use crate::base::slab::Key;
use crate::base::slab::Slab;
use crate::base::throttle::keep::Keeper;
use crate::base::time::Mono;
use crate::base::time::Now;
use crate::base::time::Wall;
use crate::engine::Engine;
use crate::engine::cells::Cells;
use crate::engine::io::ConnId;
use crate::engine::io::Input;
use crate::engine::io::MeshMessage;
use crate::engine::io::Outbox;
use crate::engine::io::ToShard;
use crate::log::OpId;
use crate::practice::SECOND;
use crate::practice::internet::Internet;
use crate::practice::load::Letter;
use crate::practice::load::Mix;
use crate::practice::load::TICK_US;
use crate::practice::report;
use crate::practice::report::Mail;
use crate::practice::report::Report;
use crate::practice::report::Retry;
use crate::practice::report::Run;
use crate::practice::scenario::Scenario;
use crate::sim::counts::Counts;
use crate::sim::disk::Disk;
use crate::sim::event_disk::EventDisk;
use crate::sim::practice::Progress;
use crate::sim::practice::Setup;
use crate::sim::practice::client::Client;
use crate::sim::practice::seen::Seen;
use crate::sim::practice::wire::End;
use crate::sim::schedule::Schedule;
use crate::types::id::ShardId;

/// 2026-09-21, the day on which every run begins.
const WALL_BEGIN_S: u64 = 1_790_000_000;

/// The engines' monotonic clock does not begin at zero.
const MONO_BEGIN_US: u64 = 1_000 * SECOND;

/// Virtual time between two calls of who wants to know how far it has come.
const PROGRESS_EVERY_US: u64 = 60 * SECOND;

/// What is planned.
pub enum Event {
    /// Mail of a tick comes into being.
    Arrive,
    /// A client is given a message.
    Given {
        client: usize,
        letter: Letter,
    },
    Tick {
        shard: usize,
        at_us: u64,
    },
    /// A connection is made, or fails.
    Dialed(Key),
    /// Bytes reach who is not the engine; nothing at all is the end of them.
    ToPeer {
        end: Key,
        bytes: Vec<u8>,
    },
    /// What a receiver or client has said reaches the engine.
    ToEngine {
        end: Key,
        bytes: Vec<u8>,
        ends: bool,
    },
    /// All shared bytes have left.
    Left(Key),
    /// The engine hears that a connection is over.
    Gone(Key),
    /// A client has waited long enough.
    Client(usize),
    DiskDone {
        shard: usize,
        op: OpId,
    },
    ReadDone {
        shard: usize,
        read: u64,
    },
    HoseDone {
        shard: usize,
    },
    Mesh {
        from: usize,
        to: usize,
    },
    Control {
        shard: usize,
        message: Box<ToShard>,
    },
}

pub struct World {
    pub scenario: Arc<Scenario>,
    pub seed: u64,
    pub internet: Internet,
    pub now_us: u64,
    pub schedule: Schedule<Event>,
    pub engines: Vec<Engine>,
    pub outbox: Outbox,
    /// Those of each shard: the same ones, unless something is wrong on purpose.
    pub cells: Vec<Arc<Cells>>,
    pub keeper: Keeper,
    /// Planned wake-ups, by shard.
    pub ticks: Vec<Option<u64>>,
    /// So much later than it wanted a shard is woken.
    pub late_us: Vec<u64>,
    pub mesh: Vec<VecDeque<MeshMessage>>,
    pub mesh_last_us: Vec<u64>,
    pub ends: Slab<End>,
    pub conns: Map<(usize, ConnId), Key>,
    pub disk: Disk,
    pub events: EventDisk,
    pub counts: Counts,
    pub clients: Vec<Client>,
    mix: Mix,
    pub mail: Vec<Mail>,
    /// Domain and size of each message until it is handed over.
    pub letters: Map<u64, (u32, u32)>,
    pub retries: Vec<Retry>,
    pub domains: Map<String, usize>,
    pub delivered: u64,
    pub duplicates: u64,
    pub refused_at_injection: u64,
    pub seen: Option<Vec<(u64, Seen)>>,
}

impl World {
    pub fn new(setup: &Setup) -> World {
        let cells = Arc::new(Cells::new(setup.config.listeners().len()));
        World::with(setup, 1, vec![cells; setup.shards])
    }

    /// With so many senders, and cells for each shard.
    pub fn with(setup: &Setup, senders: usize, cells: Vec<Arc<Cells>>) -> World {
        let scenario = setup.scenario.clone();
        let shards = setup.shards;
        let mut world = World {
            internet: Internet::new(scenario.clone(), setup.seed),
            now_us: 0,
            schedule: Schedule::default(),
            engines: Vec::new(),
            outbox: Outbox::default(),
            cells,
            keeper: Keeper::default(),
            ticks: vec![None; shards],
            late_us: vec![0; shards],
            mesh: (0..shards * shards).map(|_| VecDeque::new()).collect(),
            mesh_last_us: vec![0; shards * shards],
            ends: Slab::default(),
            conns: Map::default(),
            disk: Disk::new(setup.seed, None),
            events: EventDisk::new(setup.seed, None),
            counts: Counts::default(),
            clients: (0..shards * senders).map(|_| Client::default()).collect(),
            mix: Mix::new(&scenario, setup.seed),
            mail: Vec::new(),
            letters: Map::default(),
            retries: Vec::new(),
            domains: scenario.domains(),
            delivered: 0,
            duplicates: 0,
            refused_at_injection: 0,
            seen: None,
            seed: setup.seed,
            scenario,
        };
        world.start(&setup.config, shards);
        world
    }

    pub fn run(mut self, progress: &mut dyn FnMut(&Progress)) -> Report {
        self.begin();
        self.schedule.plan(0, Event::Arrive);
        let end_us = self.scenario.duration_us;
        let mut told_us = 0;
        while self.goes_on(end_us) {
            let at_us = self.now_us;
            if at_us >= told_us {
                told_us = at_us + PROGRESS_EVERY_US;
                progress(&Progress {
                    virtual_us: at_us,
                    duration_us: end_us,
                    messages: self.mail.len() as u64,
                    delivered: self.delivered,
                });
            }
        }
        let run = Run {
            internet: &self.internet,
            mail: &self.mail,
            retries: &self.retries,
            duplicates: self.duplicates,
            refused_at_injection: self.refused_at_injection,
        };
        report::report(&run, self.seed)
    }

    /// The engines look around for the first time.
    pub fn begin(&mut self) {
        for shard in 0..self.engines.len() {
            self.handle(shard, Input::Tick);
        }
    }

    /// The next event happens, unless there is none before the end.
    pub fn goes_on(&mut self, end_us: u64) -> bool {
        let next = self.schedule.pop().filter(|(at_us, _)| *at_us < end_us);
        let Some((at_us, event)) = next else {
            return false;
        };
        self.now_us = at_us;
        self.happens(event);
        true
    }

    pub fn now(&self) -> Now {
        Now {
            mono: Mono(MONO_BEGIN_US + self.now_us),
            wall: Wall(WALL_BEGIN_S * SECOND + self.now_us),
        }
    }

    /// The run's moment of an engine's.
    pub fn moment_us(&self, mono: Mono) -> u64 {
        mono.0.saturating_sub(MONO_BEGIN_US)
    }

    pub fn plan(&mut self, after_us: u64, event: Event) {
        self.schedule.plan(self.now_us + after_us, event);
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Given { client, letter } => {
                self.give(client, &letter);
                self.client_goes_on(client);
            }
            Event::Tick { shard, at_us } => {
                if self.ticks[shard] == Some(at_us) {
                    self.ticks[shard] = None;
                    self.handle(shard, Input::Tick);
                }
            }
            Event::Dialed(end) => self.dialed(end),
            Event::ToPeer { end, bytes } => self.peer_gets(end, &bytes),
            Event::ToEngine { end, bytes, ends } => self.engine_gets(end, bytes, ends),
            Event::Left(end) => self.left(end),
            Event::Gone(end) => self.gone(end),
            Event::Client(client) => self.client_goes_on(client),
            Event::DiskDone { shard, op } => {
                let (now_us, counts) = (self.now_us, &mut self.counts);
                let completion = self.disk.end(now_us, shard, op, counts);
                self.handle(shard, Input::Spool(completion));
            }
            Event::ReadDone { shard, read } => {
                let (now_us, counts) = (self.now_us, &mut self.counts);
                let result = self.disk.end_read(now_us, shard, read, counts);
                self.handle(shard, Input::Read { read, result });
            }
            Event::HoseDone { shard } => {
                let wall = self.now().wall;
                let (op, result) = self.events.end(wall, shard, &mut self.counts);
                self.read_events();
                self.handle(shard, Input::Hose { op, result });
            }
            Event::Mesh { from, to } => {
                let pair = from * self.engines.len() + to;
                if let Some(message) = self.mesh[pair].pop_front() {
                    let from = ShardId(from as u8);
                    self.handle(to, Input::Mesh { from, message });
                }
            }
            Event::Control { shard, message } => self.handle(shard, Input::Control(*message)),
        }
    }

    /// The mail of one tick, and the next tick that has some.
    fn arrive(&mut self) {
        let (from_us, end_us) = (self.now_us, self.scenario.load.until_us);
        let clients = self.clients.len();
        for _ in 0..self.scenario.load.between(from_us, from_us + TICK_US) {
            let Some(letter) = self.mix.letter() else {
                return;
            };
            self.give(self.mail.len() % clients, &letter);
        }
        for client in 0..clients {
            self.client_goes_on(client);
        }
        if from_us + TICK_US < end_us {
            self.plan(TICK_US, Event::Arrive);
        }
    }
}
