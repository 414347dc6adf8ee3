//! An engine under load that dies again and again: the process, the generator and the receiving
//! host around it, and the judgement at the end. What is random comes from a printed seed.
//!
//! Nothing here sleeps for a fixed time: the moment of a death is a number of acknowledgements.

#![expect(
    clippy::disallowed_methods,
    reason = "what is outside of the engine has a clock"
)]

pub mod engine;
pub mod verdict;

use core::time::Duration;
use std::fs;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use engine::Engine;
use pelton::base::prng::Prng;
use pelton::rig::blast::Blast;
use pelton::rig::blast::BlastConfig;
use pelton::rig::blast::mix::Mix;
use pelton::rig::blast::stats::Report;
use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;
use tempfile::TempDir;
use verdict::Verdict;

/// No step here takes a tenth of this; it only keeps a fault from hanging the tests.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// Connections of the generator.
const CONNECTIONS: usize = 20;

/// Recipient domains.
const DOMAINS: u64 = 20;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(4);

/// Milliseconds that a start is given before it is cut short.
const START_MS_MAX: u64 = 80;

/// Acknowledgements after which the engine dies, at most.
const ACKNOWLEDGED_MAX: u64 = 4_096;

/// What a rig is to be like.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// `Spool_Sync` of the engine.
    pub sync: &'static str,
    /// Nothing is delivered before the last life.
    pub held: bool,
    pub seed: u64,
}

/// How a life of the engine is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// So many acknowledgements after the start.
    Acknowledged(u64),
    /// So long after the process began, ready or not.
    Starting(Duration),
}

/// What became of one life.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    pub moment: Moment,
    /// None if it died before it was ready.
    pub ready_after: Option<Duration>,
    /// Acknowledged messages until its end, of all lives.
    pub acknowledged: u64,
    /// Messages that it found in its spool.
    pub recovered: Option<u64>,
}

/// The whole arrangement.
#[derive(Debug)]
pub struct Rig {
    plan: Plan,
    folder: TempDir,
    spool: PathBuf,
    sink: Option<Sink>,
    sink_addr: SocketAddr,
    smtp: SocketAddr,
    http: SocketAddr,
    blast: Option<Blast>,
    prng: Prng,
    /// Wall clock at the end of each life, in microseconds since 1970.
    deaths_us: Vec<u64>,
}

impl Rig {
    /// Starts the receiving host and the generator; the latter tries until there is an engine.
    pub fn start(plan: Plan, spool: Option<&Path>) -> Rig {
        let folder = tempfile::tempdir().expect("a folder for the run");
        let sink = Sink::start(SinkConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            capture: Some(folder.path().join("capture.jsonl")),
            ..SinkConfig::default()
        })
        .expect("the sink starts");
        let (smtp, http) = (free_address(), free_address());
        let size = Mix::new(vec![(700, 4), (2_048, 3), (9_000, 2), (40_000, 1)]);
        let blast = Blast::start(BlastConfig {
            connections: CONNECTIONS,
            sizes: size.expect("weights above zero"),
            domains: Mix::numbered_domains(DOMAINS).expect("some domains"),
            reconnect: true,
            run: plan.seed as u32,
            acked: Some(folder.path().join("acked")),
            ..BlastConfig::to(smtp)
        })
        .expect("the generator starts");
        let spool = spool.map_or_else(|| folder.path().join("spool"), Path::to_path_buf);
        Rig {
            plan,
            sink_addr: sink.addrs()[0],
            sink: Some(sink),
            smtp,
            http,
            blast: Some(blast),
            prng: Prng::stream(plan.seed, "moments of death"),
            deaths_us: Vec::new(),
            folder,
            spool,
        }
    }

    /// The next moment of death: one in six while the engine is still starting, but never the
    /// first; the others under load, soon after the start as well as long after.
    pub fn moment(&mut self) -> Moment {
        if self.prng.below(6) == 0 && !self.deaths_us.is_empty() {
            return Moment::Starting(Duration::from_millis(self.prng.below(START_MS_MAX)));
        }
        let magnitude = self.prng.between(1, u64::from(ACKNOWLEDGED_MAX.ilog2()));
        let acknowledged = self.prng.between(1, 1 << magnitude);
        Moment::Acknowledged(acknowledged)
    }

    /// One life: starts the engine, waits for the moment, lets `death` happen to it.
    pub fn live(&mut self, moment: Moment, death: impl FnOnce(&mut Engine)) -> Life {
        let mut engine = self.engine(self.plan.held);
        let before = self.acknowledged();
        let (ready_after, recovered) = match moment {
            Moment::Starting(limit) => (engine.wait_ready(limit), None),
            Moment::Acknowledged(count) => {
                let ready = self.ready(&engine);
                let recovered = engine.metric("pelton_messages_recovered_total");
                let what = format!("{count} acknowledgements");
                wait_until(&what, || {
                    engine.assert_alive();
                    self.acknowledged() >= before + count
                });
                (Some(ready), recovered)
            }
        };
        death(&mut engine);
        self.deaths_us.push(engine.ended_us());
        let acknowledged = self.acknowledged();
        Life {
            moment,
            ready_after,
            acknowledged,
            recovered: recovered.map(|count| count as u64),
        }
    }

    /// The last life: lets the generator finish, the queues run empty, and the engine end by
    /// itself. Returns what the generator and the receiving host say.
    pub fn conclude(mut self) -> (Report, Verdict) {
        let blast = self.blast.take().expect("the generator runs until here");
        let mut engine = self.engine(false);
        self.ready(&engine);
        blast.drain();
        assert!(
            blast.wait(STEP_TIMEOUT),
            "the generator does not end: {:?}",
            blast.stats()
        );
        let report = blast.finish();
        let verdict = self.wait_for_all(&engine);
        engine.terminate();
        if let Some(sink) = self.sink.take() {
            sink.stop();
        }
        (report, verdict)
    }

    /// Waits for empty queues and judges. A loss that must not be is believed when it stays:
    /// queues may still be rebuilt behind an engine that is ready.
    fn wait_for_all(&self, engine: &Engine) -> Verdict {
        let patience = match self.plan.sync {
            "commit" => STEP_TIMEOUT / 8,
            _ => Duration::ZERO,
        };
        let began = Instant::now();
        loop {
            wait_until("empty queues", || engine.queued() == Some(0));
            let verdict = self.judge();
            if verdict.seen.lost == 0 || began.elapsed() >= patience {
                return verdict;
            }
        }
    }

    fn judge(&self) -> Verdict {
        let path = |name| self.folder.path().join(name);
        verdict::judge(&path("acked"), &path("capture.jsonl"), &self.deaths_us)
    }

    fn acknowledged(&self) -> u64 {
        self.blast
            .as_ref()
            .map_or(0, |blast| blast.stats().acknowledged)
    }

    fn ready(&self, engine: &Engine) -> Duration {
        engine.wait_ready(STEP_TIMEOUT).unwrap_or_else(|| {
            panic!(
                "the engine is not ready (seed {}):\n{}",
                self.plan.seed,
                engine.log()
            )
        })
    }

    fn engine(&self, held: bool) -> Engine {
        let config = self.folder.path().join("pelton.conf");
        fs::write(&config, self.config(held)).expect("the configuration is written");
        Engine::start(&config, &self.folder.path().join("pelton.log"), self.http)
    }

    fn config(&self, held: bool) -> String {
        let (spool, sync) = (self.spool.display(), self.plan.sync);
        let (smtp, http, sink) = (self.smtp, self.http, self.sink_addr);
        format!(
            "Spoolbase = \"{spool}\"\nShards = 2\nPin_Shards = false\nSpool_Sync = {sync}\n\
             Spool_Segment_Size = 4M\nMin_Free_Space = 0\nRetry_Interval = 1\n\
             suspend_delivery = {held}\n\
             static_routes {{ target = \"{sink}\" }}\n\
             ESMTP_Listener {{ Listen \"{smtp}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" ) }} }}\n\
             HTTP_Listener {{ Listen \"{http}\" {{ }} }}\n"
        )
    }
}

impl core::fmt::Display for Life {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.moment {
            Moment::Acknowledged(count) => write!(f, "{count:>6} acks into its life")?,
            Moment::Starting(limit) => write!(f, "{:>6} ms after its birth", limit.as_millis())?,
        }
        match self.ready_after {
            Some(after) => write!(f, "  ready after {:>5} ms", after.as_millis())?,
            None => write!(f, "  never ready          ")?,
        }
        match self.recovered {
            Some(recovered) => write!(f, "  recovered {recovered:>6}")?,
            None => write!(f, "  recovered    n/a")?,
        }
        write!(f, "  acknowledged so far {:>7}", self.acknowledged)
    }
}

/// Looks again and again until the condition holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "{what}: not within {STEP_TIMEOUT:?}"
        );
        std::thread::sleep(POLL);
    }
}

/// An address that stays free between the engine's lives: connections on loopback come from
/// 127.0.0.1, so that none of them can take a port of another address meanwhile.
pub fn free_address() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 77, high, low);
    let listener = std::net::TcpListener::bind((address, 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}

/// A number from the environment, so that `bench/crash` can ask for more than `cargo test` does.
pub fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Err(_) => otherwise,
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text}: expected a number")),
    }
}

/// The seed that was asked for, or one of the clock.
pub fn seed() -> u64 {
    let seed = number("PELTON_CRASH_SEED", engine::wall_us() & 0xffff_ffff);
    println!("PELTON_CRASH_SEED={seed}");
    seed
}
