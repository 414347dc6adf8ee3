//! The engines of a run, and what they want done.

use std::sync::Arc;

use crate::base::prng::Prng;
use crate::config::Config;
use crate::deliver::dns_answer::Addresses;
use crate::deliver::dns_answer::Answer;
use crate::deliver::dns_answer::Exchange;
use crate::deliver::dns_answer::Found;
use crate::deliver::dns_answer::Kind;
use crate::deliver::dns_answer::Question;
use crate::engine::Engine;
use crate::engine::Setup;
use crate::engine::io::Action;
use crate::engine::io::Input;
use crate::engine::io::MeshMessage;
use crate::engine::io::ToControl;
use crate::engine::io::ToShard;
use crate::engine::settings::Identity;
use crate::hose;
use crate::hose::Hose;
use crate::log;
use crate::practice::scenario::Scenario;
use crate::sim::practice::world::Event;
use crate::sim::practice::world::World;
use crate::sim::process::SPOOL_ID;
use crate::spool;
use crate::spool::Recovery;
use crate::spool::Spool;
use crate::types::id::ShardId;

/// Small enough that a spool of any size is little more than what is alive in it.
const SEGMENT_BYTES: u64 = 4 << 20;
const SEGMENTS_MAX: u32 = 1 << 16;

/// Of the event log, which is read as it is written.
const EVENT_FILE_BYTES: u64 = 4 << 20;

/// What the machine is said to have.
const MEMORY: u64 = 16 << 30;
const SPACE_FREE: u64 = 1 << 44;

/// A name server takes so long, and what it says holds so long.
const DNS_US: u64 = 5_000;
const TTL_S: u32 = 3_600;

/// What throttles ask for is on disk after so long.
const SYNC_US: u64 = 2_000;

/// A message takes so long from one shard to another.
const MESH_US: u64 = 20;

impl World {
    /// Makes the engines, on an empty spool.
    pub fn start(&mut self, config: &Arc<Config>, shards: usize) {
        for cells in &self.cells {
            cells.memory_limit.set(MEMORY);
            cells.memory_used.set(1 << 20);
            cells.disk_free.set(SPACE_FREE);
        }
        let recovery = Recovery::new(SPOOL_ID, shards as u16);
        let homes = recovery.finish(&mut |_, _, _| Err(log::Fault::Io));
        for (index, mut home) in homes.into_iter().enumerate() {
            let shard = ShardId(index as u8);
            let mut log = log::Config::new(SPOOL_ID, shard, 1, shards as u16);
            log.segment_bytes = SEGMENT_BYTES;
            let spool_config = spool::Config {
                log,
                segments_max: SEGMENTS_MAX,
            };
            let settings = hose::Settings {
                max_file_bytes: EVENT_FILE_BYTES,
                max_total_bytes: EVENT_FILE_BYTES * 4,
                ..hose::Settings::default()
            };
            let beginning = home.begin();
            let setup = Setup {
                shard,
                shards,
                start: 1,
                seed: Prng::new(self.seed ^ u64::from(shard.0)).next(),
                config: config.clone(),
                identity: Identity::default(),
                cells: self.cells[index].clone(),
                spool: Spool::new(spool_config, beginning),
                hose: Hose::new(settings, shard, Vec::new()),
                orders: Arc::default(),
                learnt: Vec::new(),
                recovered: Some(Box::new(home)),
            };
            self.engines.push(Engine::new(setup, self.now()));
        }
    }

    /// Gives an engine an input and does what it wants done.
    pub fn handle(&mut self, shard: usize, input: Input<'_>) {
        let now = self.now();
        self.engines[shard].handle(now, input, &mut self.outbox);
        self.perform(shard);
    }

    pub fn perform(&mut self, shard: usize) {
        let mut actions = self.outbox.take();
        for action in actions.drain(..) {
            self.perform_one(shard, action);
        }
        self.outbox.reuse(actions);
        if let Some(next) = self.engines[shard].next_wakeup() {
            let wanted_us = self.moment_us(next).max(self.now_us + 1);
            let at_us = wanted_us + self.late_us[shard];
            if self.ticks[shard].is_none_or(|planned| at_us < planned) {
                self.ticks[shard] = Some(at_us);
                self.schedule.plan(at_us, Event::Tick { shard, at_us });
            }
        }
    }

    fn perform_one(&mut self, shard: usize, action: Action) {
        match action {
            Action::Send { conn, bytes } => self.sends(shard, conn, bytes),
            Action::SendShared { conn, bytes } => {
                self.sends(shard, conn, bytes.to_vec());
                if let Some(end) = self.conns.get(&(shard, conn)).copied() {
                    self.plan(1, Event::Left(end));
                }
            }
            Action::Resume { conn } => self.resume(shard, conn),
            Action::Close { conn } => self.close(shard, conn),
            Action::Abort { conn } => self.abort(shard, conn),
            Action::Dial {
                conn,
                remote,
                source,
            } => self.dial(shard, conn, remote, source),
            Action::Spool(op) => {
                let number = op.op();
                let done_us = self.disk.begin(self.now_us, shard, op);
                let event = Event::DiskDone { shard, op: number };
                self.schedule.plan(done_us, event);
            }
            Action::Hose(op) => {
                let done_us = self.events.begin(self.now_us, shard, op);
                self.schedule.plan(done_us, Event::HoseDone { shard });
            }
            Action::Read { read, at } => {
                let done_us = self.disk.begin_read(self.now_us, shard, read, at);
                self.schedule.plan(done_us, Event::ReadDone { shard, read });
            }
            Action::Mesh { to, message } => self.mesh_sends(shard, to.index(), message),
            Action::Control(message) => self.at_control(shard, message),
            Action::StopListening => {}
        }
    }

    fn mesh_sends(&mut self, from: usize, to: usize, message: MeshMessage) {
        let pair = from * self.engines.len() + to;
        let at_us = (self.now_us + MESH_US).max(self.mesh_last_us[pair]);
        self.mesh_last_us[pair] = at_us;
        self.mesh[pair].push_back(message);
        self.schedule.plan(at_us, Event::Mesh { from, to });
    }

    /// Nobody shuts down, and nobody looks. What throttles ask for is durable soon.
    fn at_control(&mut self, shard: usize, message: ToControl) {
        match message {
            ToControl::Resolve { question, .. } => {
                let answer = self.resolve(&question);
                let message = Box::new(ToShard::Resolved { question, answer });
                self.plan(DNS_US, Event::Control { shard, message });
            }
            ToControl::Reserve { throttle } => {
                let now = self.now();
                self.keeper.asked(now.mono, throttle);
                self.keeper.lines(now);
                self.keeper.written();
                for shard in 0..self.engines.len() {
                    let message = Box::new(ToShard::Reserved);
                    self.plan(SYNC_US, Event::Control { shard, message });
                }
            }
            _ => {}
        }
    }

    fn resolve(&self, question: &Question) -> Answer {
        let found = match (self.domains.get(&*question.name), question.kind) {
            (None, _) => Found::NoName,
            (Some(_), Kind::Address) => Found::NoData,
            (Some(provider), Kind::Mx) => {
                let hosts = self.scenario.providers[*provider].hosts.iter().enumerate();
                let exchange = |(host, name): (usize, &String)| Exchange {
                    preference: 10,
                    host: name.as_str().into(),
                    addresses: Addresses::Found(vec![Scenario::address(*provider, host)]),
                };
                Found::Exchanges(hosts.map(exchange).collect())
            }
        };
        Answer {
            found,
            ttl_s: TTL_S,
        }
    }
}
