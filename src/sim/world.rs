//! The world of a run: its clock, what happens next, and who takes part. One event is handled at a
//! time; whatever follows from it is planned, so that nothing ever happens inside something else.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::base::prng::Prng;
use crate::base::time::Wall;
use crate::engine::io::ToShard;
use crate::log::OpId;
use crate::shape::Saved;
use crate::sim::client::Client;
use crate::sim::counts::Check;
use crate::sim::counts::Fault;
use crate::sim::disk;
use crate::sim::disk::Disk;
use crate::sim::event_disk;
use crate::sim::event_disk::EventDisk;
use crate::sim::keeping::OnDisk;
use crate::sim::ledger::Ledger;
use crate::sim::mail;
use crate::sim::net::Conn;
use crate::sim::orders::Operator;
use crate::sim::peers::Peer;
use crate::sim::planted::Planted;
use crate::sim::process::Process;
use crate::sim::rates::Windows;
use crate::sim::recovery::Late;
use crate::sim::scenario::Domain;
use crate::sim::scenario::Happening;
use crate::sim::scenario::MESSAGES_MIN;
use crate::sim::scenario::SECOND;
use crate::sim::scenario::Scenario;
use crate::sim::schedule::Schedule;
use crate::sim::trace::Trace;

/// 2026-09-21, the day on which every run begins.
const WALL_BEGIN_S: u64 = 1_790_000_000;

/// How often the state of the engines is looked at, microseconds.
const LOOK_EVERY_US: u64 = 400_000;

/// Wake-ups of one engine within one virtual millisecond; more is spinning.
const TICKS_PER_MS_MAX: u32 = 2_000;

/// What is planned. A `life` that has passed makes it void.
pub enum Event {
    Tick {
        life: u32,
        shard: usize,
        at_us: u64,
    },
    ToEngine(usize),
    ToPeer(usize),
    Dialed(usize),
    Gone(usize),
    DiskDone {
        life: u32,
        shard: usize,
        op: OpId,
    },
    ReadDone {
        life: u32,
        shard: usize,
        read: u64,
    },
    HoseDone {
        life: u32,
        shard: usize,
    },
    Mesh {
        life: u32,
        from: usize,
        to: usize,
    },
    Control {
        life: u32,
        shard: usize,
        message: Box<ToShard>,
    },
    Resolve {
        life: u32,
        shard: usize,
        question: crate::deliver::dns_answer::Question,
    },
    Client(usize),
    Start,
    Recovered {
        life: u32,
    },
    GraceOver {
        life: u32,
    },
    Crash {
        life: u32,
        power: bool,
    },
    Happens(Happening),
    /// Throttles are to be written down.
    Keep {
        life: u32,
        at_us: u64,
    },
    /// They are.
    Kept {
        life: u32,
    },
    Look,
}

/// A connection and who is at its other end.
pub struct End {
    pub conn: Conn,
    pub peer: Peer,
    /// The engine's half is counted under a limit of sessions.
    pub admitted: bool,
    /// It stands still, or did until now: the engine is to hear when it goes on.
    pub stalled: bool,
    /// Shared bytes are under way: the engine is to hear when all have left.
    pub shared: bool,
    /// The engine has heard that the client sends no more.
    pub told_ended: bool,
}

/// Randomness, a stream for each concern.
pub struct Streams {
    pub net: Prng,
    pub hosts: Prng,
    pub life: Prng,
    pub dns: Prng,
    pub config: Prng,
    pub recovery: Prng,
    pub planted: Prng,
}

/// How things stand that happenings switch.
#[derive(Default)]
pub struct Switches {
    pub calm: bool,
    pub dns_fails: bool,
    pub slow_mesh: bool,
    pub free_space_short: bool,
    pub memory_short: bool,
}

pub struct World {
    pub seed: u64,
    pub planted: Option<Planted>,
    pub scenario: Scenario,
    pub now_us: u64,
    pub wall_shift_us: i64,
    pub schedule: Schedule<Event>,
    pub trace: Trace,
    pub streams: Streams,
    pub switches: Switches,
    pub disk: Disk,
    pub events: EventDisk,
    pub ledger: Ledger,
    pub mail: mail::Writer,
    pub work: VecDeque<usize>,
    pub clients: Vec<Client>,
    pub operator: Operator,
    pub ends: Vec<Option<Box<End>>>,
    pub domains: Vec<Domain>,
    /// Connections that each host has open.
    pub host_loads: Vec<u32>,
    /// When each host took its last recipients.
    pub host_taken: Vec<VecDeque<u64>>,
    pub process: Option<Process>,
    /// What the process has yet to read of the spool.
    pub late: Option<Late>,
    /// When a disk last stopped making trouble.
    pub trouble_ended_us: u64,
    /// Starts of the spool so far.
    pub starts: u32,
    /// What the processes before have counted.
    pub past: crate::engine::stats::ShardStats,
    /// What the last answer about a domain said of each of its queues.
    pub why: Vec<String>,
    /// What adaptive delivery has learnt, as control keeps it.
    pub learnt: BTreeMap<(String, String), Saved>,
    /// What has started under throttles, as control keeps it, and as an outsider sees it.
    pub kept: OnDisk,
    pub windows: Windows,
    /// The last shutdown is under way.
    pub ending: bool,
    over: bool,
    ticks_ms: (u64, u32),
}

impl World {
    pub fn new(seed: u64, planted: Option<Planted>, trace: bool) -> World {
        let scenario = Scenario::draw(seed);
        let stream = |concern| Prng::stream(seed, concern);
        let names = scenario.domains.iter().map(|it| it.name.clone()).collect();
        let clients = (0..scenario.clients).map(|number| Client::new(seed, number));
        World {
            seed,
            planted,
            now_us: 0,
            wall_shift_us: 0,
            schedule: Schedule::default(),
            trace: Trace::new(trace),
            streams: Streams {
                net: stream("net"),
                hosts: stream("hosts"),
                life: stream("life"),
                dns: stream("dns"),
                config: stream("config"),
                recovery: stream("recovery"),
                planted: stream("planted"),
            },
            switches: Switches::default(),
            disk: Disk::new(seed, planted),
            events: EventDisk::new(seed, planted),
            ledger: Ledger::new(scenario.limits.clone()),
            mail: mail::Writer::new(seed, names),
            work: VecDeque::new(),
            clients: clients.collect(),
            operator: Operator::new(seed),
            ends: Vec::new(),
            domains: scenario.domains.clone(),
            host_loads: vec![0; scenario.hosts.len()],
            host_taken: vec![VecDeque::new(); scenario.hosts.len()],
            process: None,
            late: None,
            trouble_ended_us: 0,
            starts: 0,
            past: Default::default(),
            why: Vec::new(),
            learnt: BTreeMap::new(),
            kept: OnDisk::default(),
            windows: Windows::default(),
            ending: false,
            over: false,
            ticks_ms: (0, 0),
            scenario,
        }
    }

    /// Runs until everything has come to its end, or an invariant does not hold.
    pub fn run(&mut self) {
        for _ in 0..self.scenario.messages {
            let message = self.mail.write(&mut self.ledger);
            self.work.push_back(message);
        }
        self.schedule.plan(0, Event::Start);
        self.schedule.plan(LOOK_EVERY_US, Event::Look);
        for client in 0..self.clients.len() {
            let at_us = 50_000 + self.clients[client].pause_us();
            self.schedule.plan(at_us, Event::Client(client));
        }
        for (at_us, happening) in self.scenario.happenings.clone() {
            self.schedule.plan(at_us, Event::Happens(happening));
        }
        while self.ledger.violation.is_none() && !self.over {
            let Some((at_us, event)) = self.schedule.pop() else {
                break;
            };
            self.now_us = at_us;
            self.ledger.set_now(at_us);
            self.happens(event);
        }
        self.ledger.counts.virtual_s += self.now_us / SECOND;
    }

    pub fn plan(&mut self, after_us: u64, event: Event) {
        self.schedule.plan(self.now_us + after_us, event);
    }

    pub fn wall(&self) -> Wall {
        let us = WALL_BEGIN_S * SECOND + self.now_us;
        Wall(us.saturating_add_signed(self.wall_shift_us))
    }

    pub fn life(&self) -> u32 {
        self.ledger.lives.current()
    }

    /// The process if it is the one of that life.
    pub fn is_alive(&self, life: u32, shard: usize) -> bool {
        life == self.life() && self.process.as_ref().is_some_and(|it| it.runs(shard))
    }

    pub fn note(&mut self, code: u64, value: u64, text: impl FnOnce() -> String) {
        self.trace.note(self.now_us, code, value, text);
    }

    pub fn is_planted(&mut self, planted: Planted, parts: u64) -> bool {
        self.planted == Some(planted) && self.streams.planted.chance(parts, 1_000)
    }

    /// Whether something goes wrong now that happens so often in a hundred thousand.
    pub fn trouble(&mut self, parts: u64, fault: Fault) -> bool {
        let wanted = self.scenario.concerns.net && !self.switches.calm;
        let happens = wanted && self.streams.net.chance(parts, 100_000);
        if happens {
            self.ledger.counts.fault(fault);
        }
        happens
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Tick { life, shard, at_us } => self.tick(life, shard, at_us),
            Event::ToEngine(conn) => self.flow_to_engine(conn),
            Event::ToPeer(conn) => self.flow_to_peer(conn),
            Event::Dialed(conn) => self.dialed(conn),
            Event::Gone(conn) => self.gone(conn),
            Event::DiskDone { life, shard, op } => {
                if self.is_alive(life, shard) {
                    self.disk_done(shard, op);
                }
            }
            Event::ReadDone { life, shard, read } => {
                if self.is_alive(life, shard) {
                    self.read_done(shard, read);
                }
            }
            Event::HoseDone { life, shard } => {
                if self.is_alive(life, shard) {
                    self.hose_done(shard);
                }
            }
            Event::Mesh { life, from, to } => self.mesh_arrives(life, from, to),
            Event::Control {
                life,
                shard,
                message,
            } => {
                if self.is_alive(life, shard) {
                    self.control(shard, *message);
                }
            }
            Event::Resolve {
                life,
                shard,
                question,
            } => {
                if self.is_alive(life, shard) {
                    self.resolve(shard, question);
                }
            }
            Event::Client(client) => self.client_connects(client),
            Event::Start => self.start(),
            Event::Recovered { life } => {
                if life == self.life() && self.process.is_some() {
                    self.recovered();
                }
            }
            Event::GraceOver { life } => self.grace_over(life),
            Event::Crash { life, power } => {
                if life == self.life() {
                    self.crash(power);
                }
            }
            Event::Keep { life, at_us } => self.keep(life, at_us),
            Event::Kept { life } => self.kept(life),
            Event::Happens(happening) => self.happening(happening),
            Event::Look => {
                self.look();
                self.plan(LOOK_EVERY_US, Event::Look);
            }
        }
    }

    fn tick(&mut self, life: u32, shard: usize, at_us: u64) {
        if !self.is_alive(life, shard) {
            return;
        }
        if let Some(process) = &mut self.process {
            if process.ticks[shard] != Some(at_us) {
                return;
            }
            process.ticks[shard] = None;
        }
        let ms = self.now_us / 1_000;
        let (last_ms, count) = self.ticks_ms;
        self.ticks_ms = if ms == last_ms {
            (ms, count + 1)
        } else {
            (ms, 0)
        };
        self.ledger
            .check(Check::Bounds, count < TICKS_PER_MS_MAX, || {
                format!("shard {shard} wakes up for nothing, again and again")
            });
        self.handle(shard, crate::engine::io::Input::Tick);
    }

    fn happening(&mut self, happening: Happening) {
        self.note(1, 0, || format!("{happening:?}"));
        match happening {
            Happening::Crash { power } => self.crash_comes(power),
            Happening::Restart => self.shut_down(),
            Happening::Reload => self.reload(),
            Happening::Order => self.order_comes(),
            Happening::WallJumps(seconds) => {
                let forward = seconds > 0;
                self.ledger.counts.fault(match forward {
                    true => Fault::WallForward,
                    false => Fault::WallBack,
                });
                self.ledger.wall_went_back |= !forward;
                if forward {
                    self.windows.clock_went_forward(self.now_us);
                }
                self.wall_shift_us += seconds * SECOND as i64;
            }
            Happening::Disk(trouble) => {
                if trouble.slower_us > 0 {
                    self.ledger.counts.fault(Fault::SlowDisk);
                }
                self.disk.trouble = trouble;
                self.trouble_ended_us = self.now_us;
            }
            Happening::Events(trouble) => {
                self.events.trouble = trouble;
                self.trouble_ended_us = self.now_us;
            }
            Happening::FreeSpaceShort(short) => {
                self.switches.free_space_short = short;
                self.sample_gauges(short, Fault::FreeSpaceShort);
            }
            Happening::MemoryShort(short) => {
                self.switches.memory_short = short;
                self.sample_gauges(short, Fault::MemoryShort);
            }
            Happening::DnsFails(fails) => self.switches.dns_fails = fails,
            Happening::DnsChanges => self.dns_changes(),
            Happening::SlowMesh(slow) => {
                if slow {
                    self.ledger.counts.fault(Fault::SlowMesh);
                }
                self.switches.slow_mesh = slow;
            }
            Happening::Calm => self.calm(),
        }
    }

    fn sample_gauges(&mut self, short: bool, fault: Fault) {
        if short {
            self.ledger.counts.fault(fault);
        }
        self.set_gauges();
    }

    /// Nothing goes wrong any more, and the first config holds again.
    fn calm(&mut self) {
        self.switches = Switches {
            calm: true,
            ..Switches::default()
        };
        self.trouble_ended_us = self.now_us;
        self.disk.trouble = disk::Trouble::default();
        self.events.trouble = event_disk::Trouble::default();
        self.domains.clone_from(&self.scenario.domains);
        self.set_gauges();
        self.orders_end();
        self.reload();
    }

    /// The last shutdown is through: what is left on disk is all there is.
    pub fn finish(&mut self) {
        let handed_over = self.ledger.counts.messages;
        self.ledger
            .check(Check::Drained, handed_over >= MESSAGES_MIN, || {
                format!("only {handed_over} messages were handed over")
            });
        self.check_nothing_left();
        self.check_fold();
        self.ledger.check_end();
        self.over = true;
    }
}
