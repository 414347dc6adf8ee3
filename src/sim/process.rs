//! Processes: what a start reads back, one engine per shard, a crash or an orderly end, and another
//! start on what the disk has kept.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::limit::Customer;
use crate::base::prng::Prng;
use crate::base::time::Mono;
use crate::base::time::Now;
use crate::base::time::Wall;
use crate::base::warmup::Warmups;
use crate::config::Config;
use crate::config::Environment;
use crate::config::SourceFile;
use crate::engine::Engine;
use crate::engine::Setup;
use crate::engine::cells::Cells;
use crate::engine::io::ConnId;
use crate::engine::io::Input;
use crate::engine::io::MeshMessage;
use crate::engine::io::Outbox;
use crate::engine::io::ToShard;
use crate::engine::owner::warmup::EVERY_DOMAIN;
use crate::engine::settings::Identity;
use crate::hose;
use crate::hose::Hose;
use crate::log;
use crate::log::SyncMode;
use crate::sim::counts::Check;
use crate::sim::counts::Fault;
use crate::sim::keeping::Keeping;
use crate::sim::planted::Planted;
use crate::sim::rates::Rates;
use crate::sim::recovery::Opening;
use crate::sim::scenario::SECOND;
use crate::sim::world::Event;
use crate::sim::world::World;
use crate::spool;
use crate::spool::Spool;
use crate::types::order::Orders;

/// The spool's own number, the same in every run.
pub(super) const SPOOL_ID: u64 = 0x5350_4f4f_4c5f_4944;

/// `Shutdown_Grace` of the runs, and how much longer the last sync may take.
const GRACE_S: u64 = 5;
const GRACE_SLACK_S: u64 = 20;

/// After the grace a process waits so long for a disk that does not work, and no longer.
const FLUSH_S: u64 = 5;

/// What a disk has failed at is tried again after this time at the latest.
const DISK_RETRY_S: u64 = 40;

/// Memory that counts as too much, against `Memory_Limit` of 64 MiB.
const SENDERS_MAX: usize = 4;
const MEMORY_SHORT: u64 = 63 << 20;
const SPACE_FREE: u64 = 1 << 40;

/// All that ends with a process.
pub struct Process {
    pub engines: Vec<Engine>,
    pub outbox: Outbox,
    pub cells: Vec<Arc<Cells>>,
    pub rates: Rates,
    pub keeping: Keeping,
    /// Planned wake-ups, by shard.
    pub ticks: Vec<Option<u64>>,
    /// The engines' monotonic clock is ahead of the run's by so much.
    pub mono_ahead_us: u64,
    /// Messages between each pair of shards, in order.
    pub mesh: Vec<VecDeque<MeshMessage>>,
    pub mesh_last_us: Vec<u64>,
    /// Entries on their way to their owners.
    pub arrivals_under_way: u64,
    pub conns: BTreeMap<(usize, ConnId), usize>,
    pub listening: Vec<bool>,
    /// A shutdown has begun, at this moment.
    pub draining: bool,
    pub draining_us: u64,
    pub quiet: Vec<bool>,
    pub drained: Vec<bool>,
    pub asked: u64,
    pub generation: u64,
    pub commits: BTreeSet<(usize, log::OpId)>,
    /// Segments that are being made.
    pub preparations: BTreeSet<(usize, log::OpId)>,
    /// Segments that are being synced by themselves.
    pub syncs: BTreeSet<(usize, log::OpId)>,
    /// It crashes while the next commit is under way, with the power or alone.
    pub crashes_next: Option<bool>,
    /// Shards that have yet to hear what earlier starts have left.
    pub homes_open: usize,
    /// A commit has ended: until then what recovery decided is nowhere but in memory.
    pub has_committed: bool,
}

impl Process {
    /// A moment by its clocks.
    pub fn now(&self, now_us: u64, wall: Wall) -> Now {
        Now {
            mono: Mono(now_us + self.mono_ahead_us),
            wall,
        }
    }

    pub fn shards(&self) -> usize {
        self.engines.len()
    }

    /// Word is on its way to a queue that a place has been handed to it, or is asked of it.
    pub fn is_told(&self, who: Customer, asked: bool) -> bool {
        let shard = usize::from(who.shard);
        let to_it = self.mesh.iter().skip(shard).step_by(self.shards());
        let mut messages = to_it.flatten();
        messages.any(|message| match message {
            MeshMessage::PlaceFree { queue } => !asked && queue.to_bits() == who.queue,
            MeshMessage::GiveUp { queue } => asked && queue.to_bits() == who.queue,
            _ => false,
        })
    }

    /// Cells of the process, each once.
    pub fn cells_once(&self) -> &[Arc<Cells>] {
        let shared = self
            .cells
            .windows(2)
            .all(|two| Arc::ptr_eq(&two[0], &two[1]));
        match shared {
            true => &self.cells[..1],
            false => &self.cells,
        }
    }

    /// A shard that has said that it is drained stops.
    pub fn runs(&self, shard: usize) -> bool {
        self.drained.get(shard).is_some_and(|drained| !drained)
    }
}

/// A day of warm-up: short, so that a run has some.
const WARMUP_DAY: core::time::Duration = core::time::Duration::from_secs(10);

impl World {
    pub fn now(&self) -> Now {
        let (now_us, wall) = (self.now_us, self.wall());
        let mono = Mono(now_us);
        let process = self.process.as_ref();
        process.map_or(Now { mono, wall }, |it| it.now(now_us, wall))
    }

    fn load(&mut self, shards: usize, generation: u64) -> Arc<Config> {
        let mut text = self
            .scenario
            .config(shards, generation, &mut self.streams.config);
        if self.planted == Some(Planted::ForgottenBudget) {
            text.push_str("Max_Resident_Messages = 100000\nMax_Resident_Active_Queue = -1\n");
        }
        if self.planted == Some(Planted::ClassesReversed) {
            text.push_str("priority_class \"transactional\" { order = 999  share = 1 }\n");
        }
        let main = SourceFile {
            name: "simulated.conf".to_string(),
            text,
        };
        let environment = Environment {
            hostname: "simulated.example".to_string(),
            cores: shards,
        };
        let loaded = crate::config::load(main, &environment, &mut |_| Err("no includes".into()));
        match loaded {
            Ok(checked) => Arc::new(checked.config),
            Err(errors) => panic!("a drawn config is a good one: {errors:?}"),
        }
    }

    /// A process begins with what the disk has.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "one process at a time");
        self.starts += 1;
        let mut shards = self.scenario.shards;
        if self.scenario.shards_vary && self.starts > 1 {
            shards = self.streams.life.between(1, 4) as usize;
            if shards != self.scenario.shards {
                self.ledger.counts.fault(Fault::OtherShardCount);
            }
        }
        self.note(2, shards as u64, || format!("a process of {shards} shards"));
        self.ledger.lives.begin();
        self.disk.slowest_us = 0;
        let config = self.load(shards, 0);
        let openings = self.read_spool(shards);
        // So few that most are known by their hashes.
        let cells = || Cells {
            senders_max: SENDERS_MAX,
            warmups: Warmups::with_day(WARMUP_DAY),
            ..Cells::new(1)
        };
        let cells: Vec<Arc<Cells>> = match self.planted {
            Some(Planted::PrivateLimits) => (0..shards).map(|_| Arc::new(cells())).collect(),
            _ => {
                let shared = Arc::new(cells());
                (0..shards).map(|_| shared.clone()).collect()
            }
        };
        self.process = Some(Process {
            engines: Vec::new(),
            outbox: Outbox::default(),
            cells,
            rates: Rates::default(),
            keeping: Keeping::default(),
            ticks: vec![None; shards],
            mono_ahead_us: self.streams.life.below(1_000_000 * SECOND),
            mesh: (0..shards * shards).map(|_| VecDeque::new()).collect(),
            mesh_last_us: vec![0; shards * shards],
            arrivals_under_way: 0,
            conns: BTreeMap::new(),
            listening: vec![true; shards],
            draining: false,
            draining_us: 0,
            quiet: vec![false; shards],
            drained: vec![false; shards],
            asked: 0,
            generation: 0,
            commits: BTreeSet::new(),
            preparations: BTreeSet::new(),
            syncs: BTreeSet::new(),
            crashes_next: None,
            has_committed: false,
            homes_open: openings.iter().filter(|it| it.is_early()).count(),
        });
        self.set_gauges();
        self.windows.start();
        self.restore_throttles();
        self.restore_warmups();
        let orders = self.orders_at_start(shards);
        for opening in openings {
            self.start_engine(&config, &orders, opening);
        }
        for shard in 0..shards {
            self.handle(shard, Input::Tick);
        }
        self.crash_in_recovery();
    }

    /// Now and then a start that has found something does not get far.
    fn crash_in_recovery(&mut self) {
        let wanted = self.scenario.concerns.crashes && !self.switches.calm && self.starts > 1;
        let streams = &mut self.streams;
        if wanted && streams.recovery.chance(1, 4) {
            let power = !self.scenario.sync_interval && streams.recovery.chance(1, 2);
            let longest_us = *streams.recovery.pick(&[500, 8_000, 2 * SECOND]);
            let after_us = streams.recovery.below(longest_us);
            let life = self.life();
            self.plan(after_us, Event::Crash { life, power });
        }
    }

    fn start_engine(&mut self, config: &Arc<Config>, orders: &Arc<Orders>, opening: Opening) {
        let (now, seed) = (self.now(), self.seed);
        let Some(process) = &self.process else {
            return;
        };
        let shards = process.cells.len();
        let shard = opening.shard();
        let mut log = log::Config::new(SPOOL_ID, shard, self.starts, shards as u16);
        log.segment_bytes = self.scenario.segment_bytes;
        log.gather_bytes_max = self.scenario.gather_bytes_max;
        log.free_max = 2;
        if self.scenario.sync_interval {
            log.sync = SyncMode::Interval(core::time::Duration::from_millis(100));
        }
        let segments_max = self.scenario.segments_max;
        let spool_config = spool::Config { log, segments_max };
        let (spool, recovered) = match opening {
            Opening::Whole(home) => (Spool::new(spool_config, home.0), Some(home.1)),
            Opening::Early(beginning) => (Spool::new(spool_config, beginning), None),
        };
        let settings = hose::Settings {
            max_file_bytes: self.scenario.event_file_bytes,
            max_total_bytes: self.scenario.event_file_bytes * 4,
            gather_bytes: 4_096,
            backlog_bytes_max: 4 << 20,
            ..hose::Settings::default()
        };
        let existing = self.events.found(shard, shards);
        let learnt = self.learnt.iter();
        let learnt = learnt.filter(|((binding, domain), _)| {
            domain != EVERY_DOMAIN && crate::engine::owner_of(shards, binding, domain) == shard
        });
        let learnt = learnt.map(|((binding, domain), saved)| {
            let pair = (binding.as_str().into(), domain.as_str().into());
            (pair, saved.clone())
        });
        let setup = Setup {
            learnt: learnt.collect(),
            shard,
            shards,
            start: self.starts,
            seed: Prng::new(seed ^ u64::from(shard.0) ^ (u64::from(self.starts) << 32)).next(),
            config: config.clone(),
            identity: Identity::default(),
            cells: process.cells[shard.index()].clone(),
            spool,
            hose: Hose::new(settings, shard, existing),
            orders: orders.clone(),
            recovered,
        };
        let engine = Engine::new(setup, now);
        if let Some(process) = &mut self.process {
            process.engines.push(engine);
        }
    }

    /// What control samples from the machine.
    pub fn set_gauges(&mut self) {
        let Some(process) = &self.process else {
            return;
        };
        for cells in &process.cells {
            cells.memory_limit.set(64 << 20);
            cells.memory_used.set(match self.switches.memory_short {
                true => MEMORY_SHORT,
                false => 1 << 20,
            });
            cells.disk_free.set(match self.switches.free_space_short {
                true => 0,
                false => SPACE_FREE,
            });
        }
    }

    /// A new generation, which the shards hear of one after the other.
    pub fn reload(&mut self) {
        let calm = self.switches.calm;
        let Some(process) = &mut self.process else {
            return;
        };
        process.generation += 1;
        let (shards, generation) = (process.shards(), process.generation);
        self.ledger.counts.fault(Fault::Reload);
        let config = self.load(shards, if calm { 0 } else { generation });
        let life = self.life();
        for shard in 0..shards {
            let config = config.clone();
            let message = Box::new(ToShard::Reload { config });
            let after_us = if calm {
                0
            } else {
                self.streams.life.below(200_000)
            };
            self.plan(
                after_us,
                Event::Control {
                    life,
                    shard,
                    message,
                },
            );
        }
    }

    pub fn control(&mut self, shard: usize, message: ToShard) {
        if let (ToShard::Recovered(_), Some(process)) = (&message, &mut self.process) {
            process.homes_open -= 1;
        }
        if let ToShard::Orders(orders) = &message
            && !self.hears_orders(shard, orders)
        {
            return;
        }
        self.handle(shard, Input::Control(message));
    }

    /// A crash now, or in the middle of the next commit, where it hurts.
    pub fn crash_comes(&mut self, power: bool) {
        let life = self.life();
        if self.streams.life.chance(1, 4) {
            return self.crash(power);
        }
        if let Some(process) = &mut self.process {
            process.crashes_next = Some(power);
        }
        self.plan(10 * SECOND, Event::Crash { life, power });
    }

    /// The process is killed, or the machine loses power.
    pub fn crash(&mut self, power: bool) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        self.windows.kill();
        self.end_keeping(&mut process, false);
        self.ledger.counts.fault(match power {
            true => Fault::PowerCut,
            false => Fault::Kill,
        });
        if self.starts > 1 && (process.homes_open > 0 || !process.has_committed) {
            self.ledger.counts.fault(match power {
                true => Fault::PowerCutInRecovery,
                false => Fault::KillInRecovery,
            });
        }
        let now_us = self.now_us;
        // Even the last shutdown may be cut short; there will be another.
        self.ending = false;
        self.keep_counters(&process);
        self.disk.crash(now_us, power, &mut self.ledger.counts);
        self.ledger.lives.killed(now_us, self.disk.slowest_us);
        if power {
            self.ledger.lives.power_lost();
        }
        self.end_process(process, power);
        let after_us = self.streams.life.between(100_000, 5 * SECOND);
        self.plan(after_us, Event::Start);
    }

    /// Connections end, the event log is as the crash has left it.
    fn end_process(&mut self, process: Process, power: bool) {
        for conn in process.conns.into_values() {
            self.cut_off(conn, power);
        }
        self.events.crash(power, &mut self.ledger.counts);
        self.read_events();
    }

    fn keep_counters(&mut self, process: &Process) {
        let now = process.now(self.now_us, self.wall());
        for engine in &process.engines {
            self.past.merge(&engine.stats(now));
        }
        let (counted, told) = (self.past.counters.clone(), self.ledger.events);
        self.note(13, counted.messages_injected, || {
            format!("told so far {told:?}; counted {counted:?}")
        });
    }

    /// An orderly end begins.
    pub fn shut_down(&mut self) {
        let life = self.life();
        let Some(process) = &mut self.process else {
            return;
        };
        if core::mem::replace(&mut process.draining, true) {
            return;
        }
        process.draining_us = self.now_us;
        let shards = process.shards();
        if !self.ending {
            self.ledger.counts.fault(Fault::GracefulRestart);
        }
        let grace = core::time::Duration::from_secs(GRACE_S);
        for shard in 0..shards {
            let message = Box::new(ToShard::Shutdown { grace });
            let after_us = self.streams.life.below(1_000);
            self.plan(
                after_us,
                Event::Control {
                    life,
                    shard,
                    message,
                },
            );
        }
        let after_us = (GRACE_S + GRACE_SLACK_S) * SECOND;
        self.plan(after_us, Event::GraceOver { life });
    }

    /// A shard has nothing on the wire any more. When that is true of all, and what they have sent
    /// to each other has arrived, they may finish.
    pub fn shard_quiet(&mut self, shard: usize) {
        let (life, now_us) = (self.life(), self.now_us);
        let Some(process) = &mut self.process else {
            return;
        };
        process.quiet[shard] = true;
        if !process.quiet.iter().all(|quiet| *quiet) {
            return;
        }
        let last_us = process.mesh_last_us.iter().copied().max().unwrap_or(0);
        for shard in 0..process.shards() {
            let message = Box::new(ToShard::Finish);
            let event = Event::Control {
                life,
                shard,
                message,
            };
            self.schedule.plan(last_us.max(now_us) + 1, event);
        }
    }

    /// A shard has said that it is drained. When all have, the process is over.
    pub fn shard_drained(&mut self, shard: usize) {
        let Some(process) = &mut self.process else {
            return;
        };
        process.drained[shard] = true;
        if !process.drained.iter().all(|drained| *drained) {
            return;
        }
        let Some(mut process) = self.process.take() else {
            return;
        };
        self.end_keeping(&mut process, true);
        let took_us = self.now_us - process.draining_us;
        let gave_up = took_us >= (GRACE_S + FLUSH_S) * SECOND;
        let excused = self.is_disk_troubled();
        self.ledger.check(Check::ShutDown, !gave_up || excused, || {
            "a shutdown has given up on a disk that works".to_string()
        });
        self.keep_counters(&process);
        self.disk.crash(self.now_us, false, &mut self.ledger.counts);
        if gave_up {
            // What the disk did not take is lost, as with a kill; what was under way, too.
            let slowest_us = self.disk.slowest_us;
            self.ledger.lives.killed(self.now_us, slowest_us);
        }
        self.end_process(process, false);
        if self.ending && !gave_up {
            return self.finish();
        }
        self.ending = false;
        let after_us = self.streams.life.between(100_000, 5 * SECOND);
        self.plan(after_us, Event::Start);
    }

    /// A shutdown that takes longer than it may: a disk in trouble is an excuse, nothing else is.
    pub fn grace_over(&mut self, life: u32) {
        if life != self.life() || self.process.is_none() {
            return;
        }
        let excused = self.is_disk_troubled();
        self.ledger.check(Check::ShutDown, excused, || {
            "a shutdown does not come to its end".to_string()
        });
        self.crash(false);
    }

    fn is_disk_troubled(&self) -> bool {
        let (disk, events) = (self.disk.trouble, self.events.trouble);
        let now = disk.hinders() || events.full || events.fails > 0;
        now || self.now_us < self.trouble_ended_us + DISK_RETRY_S * SECOND
    }

    /// What recovery would find now must be nothing.
    pub fn check_nothing_left(&mut self) {
        let homes = self.recover(self.scenario.shards);
        let arrivals: Vec<String> = homes
            .iter()
            .flat_map(|home| &home.arrivals)
            .map(|arrival| arrival.address.to_string())
            .collect();
        let unreported: usize = homes.iter().map(|home| home.unreported.len()).sum();
        self.ledger
            .check(Check::NothingLeft, arrivals.is_empty(), || {
                format!("a start after the end finds {arrivals:?}")
            });
        self.ledger.check(Check::NothingLeft, unreported == 0, || {
            format!("a start after the end would tell {unreported} events again")
        });
    }
}
