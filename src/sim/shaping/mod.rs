//! Throttles and limits of connections as a property: whatever tree of scopes sets them, whatever
//! mail comes and on however many shards, no window and no limit is ever over, what is allowed is
//! used, and who waits is served in turn. Whole engines run in the world of [`super::practice`],
//! where nothing goes wrong and receivers take everything; all that is checked has been seen from
//! outside, and which limit it falls to says a model that shares nothing with the engine.
//!
//! Every run is drawn from one seed. Bugs planted on purpose must be found.

mod judge;
mod model;
mod tree;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;

use crate::base::prng::Prng;
use crate::config;
use crate::config::Config;
use crate::config::Environment;
use crate::config::SourceFile;
use crate::engine::cells::Cells;
use crate::practice::SECOND;
use crate::practice::load::Letter;
use crate::practice::read::read;
use crate::practice::scenario::Scenario;
use crate::sim::panic_text;
use crate::sim::practice::Setup;
use crate::sim::practice::seen::Seen;
use crate::sim::practice::world::Event;
use crate::sim::practice::world::World;
use crate::sim::shaping::judge::Run;
use crate::sim::shaping::model::Kind;
use crate::sim::shaping::model::Objects;
use crate::sim::shaping::model::Queue;
use crate::sim::shaping::tree::Tree;

pub use crate::sim::shaping::judge::Judged;

/// A bug that the checks must find. The engine is as it is; what surrounds it does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// Every shard counts on its own.
    PrivateCells,
    /// The engine is told of one more in every window.
    WiderWindows,
    /// The engine is told of windows that are a tenth longer.
    LongerWindows,
    /// The members of a group are told of its throttles as if each had its own.
    CopiedThrottles,
    /// Patterns are told in reverse.
    PatternsReversed,
    /// One shard is woken late.
    LateShard,
    /// The engine is told of one more connection under every limit.
    OneConnectionMore,
}

impl Planted {
    pub const ALL: [Planted; 7] = [
        Planted::PrivateCells,
        Planted::WiderWindows,
        Planted::LongerWindows,
        Planted::CopiedThrottles,
        Planted::PatternsReversed,
        Planted::LateShard,
        Planted::OneConnectionMore,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Planted::PrivateCells => "private-cells",
            Planted::WiderWindows => "wider-windows",
            Planted::LongerWindows => "longer-windows",
            Planted::CopiedThrottles => "copied-throttles",
            Planted::PatternsReversed => "patterns-reversed",
            Planted::LateShard => "late-shard",
            Planted::OneConnectionMore => "one-connection-more",
        }
    }

    pub fn parse(name: &str) -> Option<Planted> {
        Planted::ALL.into_iter().find(|it| it.name() == name)
    }

    /// The tree as the engine is told of it.
    fn told(self, tree: &Tree) -> Tree {
        let mut told = tree.clone();
        match self {
            Planted::PrivateCells | Planted::LateShard => {}
            Planted::WiderWindows => told.change(|it| {
                for rate in [&mut it.messages, &mut it.connections]
                    .into_iter()
                    .flatten()
                {
                    rate.count += u64::from(rate.count > 0);
                }
            }),
            Planted::LongerWindows => told.change(|it| {
                for rate in [&mut it.messages, &mut it.connections]
                    .into_iter()
                    .flatten()
                {
                    (rate.count, rate.window_s) = (rate.count * 10, rate.window_s * 11);
                }
            }),
            Planted::OneConnectionMore => told.change(|it| {
                let all = [&mut it.each, &mut it.whole, &mut it.server];
                all.into_iter().flatten().for_each(|most| *most += 1);
            }),
            Planted::CopiedThrottles => {
                for binding in &mut told.bindings {
                    let group = binding.group.map(|it| told.groups[it].scope.sets);
                    let sets = &mut binding.scope.sets;
                    sets.messages = sets.messages.or(group.and_then(|it| it.messages));
                    sets.connections = sets.connections.or(group.and_then(|it| it.connections));
                }
            }
            Planted::PatternsReversed => {
                told.for_each_scope(|it| {
                    it.domains.reverse();
                    it.hosts.reverse();
                });
            }
        }
        told
    }
}

/// What to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub seed: u64,
    pub planted: Option<Planted>,
    /// Keep what was seen.
    pub trace: bool,
}

/// What a run has come to.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    pub seed: u64,
    pub failure: Option<String>,
    pub judged: Judged,
    /// What the engine was told, to look at a failure.
    pub config: String,
    pub shards: usize,
    pub trace: Vec<String>,
}

/// One run, drawn before it begins.
struct Plan {
    shards: usize,
    tree: Tree,
    queues: Vec<Queue>,
    objects: Objects,
    /// When mail comes, and for which queue.
    mail: Vec<(u64, usize)>,
}

/// Messages for a queue that has many; others have few or none.
const MANY: (u64, u64) = (10, 80);
const FEW: (u64, u64) = (1, 4);

/// Mail comes in so much time.
const COMES_US: u64 = 90 * SECOND;

/// What passes from hand to hand, one connection after the other, takes at most so long for each
/// message.
const EACH_US: u64 = 4 * SECOND;

impl Plan {
    fn draw(seed: u64) -> Plan {
        let prng = &mut Prng::stream(seed, "shaping");
        let shards = prng.between(1, 4) as usize;
        let tree = Tree::draw(prng);
        let mut objects = Objects::default();
        let mut queues = Vec::new();
        for binding in 0..tree.bindings.len() {
            for domain in 0..tree.domains.len() {
                queues.push(tree.queue(&mut objects, binding, domain));
            }
        }
        let mut mail = Vec::new();
        for queue in 0..queues.len() {
            let count = match prng.below(6) {
                0..=2 => 0,
                3 => prng.between(FEW.0, FEW.1),
                _ => prng.between(MANY.0, MANY.1),
            };
            let from_us = prng.below(COMES_US / 3);
            let during_us = *prng.pick(&[1, 1, SECOND, COMES_US / 2]);
            mail.extend((0..count).map(|_| (from_us + prng.below(during_us), queue)));
        }
        mail.sort();
        Plan {
            shards,
            tree,
            queues,
            objects,
            mail,
        }
    }

    /// When all must be over: even if every limit had to be waited for after every other.
    fn ends_us(&self) -> u64 {
        let mut ends_us = COMES_US + self.mail.len() as u64 * EACH_US;
        for object in &self.objects.all {
            if let Kind::Messages(rate) | Kind::Connections(rate) = object.kind {
                let windows = self.mail.len() as u64 / rate.count + 2;
                ends_us += windows * rate.window_s * SECOND;
            }
        }
        ends_us
    }

    /// Receivers that take everything.
    fn scenario(&self) -> Scenario {
        let mut text = "load { messages_per_hour = 1 }\n".to_string();
        for binding in &self.tree.bindings {
            let (name, address) = (&binding.name, binding.address);
            text.push_str(&format!("binding \"{name}\" {{ address = {address} }}\n"));
        }
        for (number, provider) in self.tree.providers.iter().enumerate() {
            let hosts = provider.hosts.join(" ");
            let names = provider.domains.iter().map(|it| &*self.tree.domains[*it]);
            let domains: Vec<&str> = names.collect();
            text.push_str(&format!(
                "provider \"p{number}\" {{ round_trip = \"20ms\" mx = ( {hosts} )\n\
                 domains = ( {} ) }}\n",
                domains.join(" ")
            ));
        }
        let name = "shaping".to_string();
        let read = read(SourceFile { name, text });
        read.unwrap_or_else(|wrong| panic!("a scenario is as it should be: {wrong:?}"))
    }

    /// A world of these engines, with all mail on its way.
    fn world(&self, setup: &Setup, planted: Option<Planted>) -> World {
        let mut cells: Vec<Arc<Cells>> = Vec::new();
        for shard in 0..self.shards {
            let own = shard == 0 || planted == Some(Planted::PrivateCells);
            cells.push(match own {
                true => Arc::new(Cells::new(setup.config.listeners().len())),
                false => cells[0].clone(),
            });
        }
        let mut world = World::with(setup, self.tree.bindings.len(), cells);
        world.seen = Some(Vec::new());
        if planted == Some(Planted::LateShard) {
            world.late_us[0] = 4 * SECOND;
        }
        world.begin();
        for (number, (at_us, queue)) in self.mail.iter().enumerate() {
            let Queue {
                binding, domain, ..
            } = self.queues[*queue];
            let provider = self.tree.provider_of(domain);
            let letter = Letter {
                provider,
                domain: domain - self.tree.providers[provider].domains[0],
                mailbox: 1,
                size: 256,
            };
            let client = binding * self.shards + number % self.shards;
            let event = Event::Given { client, letter };
            world.schedule.plan(*at_us, event);
        }
        world
    }

    fn line(&self, at_us: u64, seen: &Seen) -> String {
        let queue = |number: u64| self.mail[number as usize].1;
        let (seconds, micros) = (at_us / SECOND, at_us % SECOND);
        let at = format!("{seconds:>6}.{micros:06}");
        match seen {
            Seen::Accepted { number } => format!("{at} queue {} gets {number}", queue(*number)),
            Seen::Dialed { conn, .. } => format!("{at} {conn:?} {seen:?}"),
            Seen::Named { conn, number } => {
                format!("{at} queue {} begins {number} on {conn:?}", queue(*number))
            }
            Seen::Gone { conn } => format!("{at} {conn:?} is over"),
        }
    }

    fn queue_of(&self, scenario: &Scenario, seen: &Seen) -> Option<(usize, usize)> {
        let Seen::Dialed { source, remote, .. } = seen else {
            return None;
        };
        let bindings = &self.tree.bindings;
        let binding = bindings.iter().position(|it| it.address == *source)?;
        let domain = tree::domain_of(remote.port());
        let (provider, host) = scenario.host_of(remote.ip())?;
        let is_there = self.tree.provider_of(domain) == provider;
        is_there.then_some((binding * self.tree.domains.len() + domain, host))
    }
}

/// Runs one seed to its end and judges it. A panic in an engine is a failure.
pub fn run(options: &Options) -> Report {
    let plan = Plan::draw(options.seed);
    let told = options.planted.map(|it| it.told(&plan.tree));
    let config = told.as_ref().unwrap_or(&plan.tree).config(plan.shards);
    let mut trace = Vec::new();
    let ran = catch_unwind(AssertUnwindSafe(|| {
        run_plan(&plan, options, &config, &mut trace)
    }));
    let judged = ran.unwrap_or_else(|panic| Err(panic_text(&*panic)));
    Report {
        seed: options.seed,
        shards: plan.shards,
        config,
        trace,
        failure: judged.as_ref().err().cloned(),
        judged: judged.unwrap_or_default(),
    }
}

fn run_plan(
    plan: &Plan,
    options: &Options,
    config: &str,
    trace: &mut Vec<String>,
) -> Result<Judged, String> {
    let scenario = Arc::new(plan.scenario());
    let setup = Setup {
        scenario: scenario.clone(),
        config: load(config, plan.shards)?,
        seed: options.seed,
        shards: plan.shards,
    };
    let mut world = plan.world(&setup, options.planted);
    let all = plan.mail.len() as u64;
    while world.delivered < all && world.goes_on(plan.ends_us()) {}
    if options.trace {
        let seen = world.seen.iter().flatten();
        trace.extend(seen.map(|(at_us, what)| plan.line(*at_us, what)));
    }
    let letters: Vec<usize> = plan.mail.iter().map(|(_, queue)| *queue).collect();
    let judged = judge::judge(&Run {
        objects: &plan.objects.all,
        queues: &plan.queues,
        letters: &letters,
        seen: world.seen.as_deref().unwrap_or_default(),
        ended_us: world.now_us,
        stripes: match plan.tree.striping {
            "always" => plan.shards as u64,
            _ => 1,
        },
        queue_of: &|seen| plan.queue_of(&scenario, seen),
    })?;
    match world.delivered == all && world.duplicates == 0 {
        true => Ok(judged),
        false => Err(format!(
            "{} of {all} messages are delivered, {} twice, after {} of {} s",
            world.delivered,
            world.duplicates,
            world.now_us / SECOND,
            plan.ends_us() / SECOND
        )),
    }
}

fn load(text: &str, shards: usize) -> Result<Arc<Config>, String> {
    let main = SourceFile {
        name: "shaping".to_string(),
        text: text.to_string(),
    };
    let environment = Environment {
        hostname: "sender.example".to_string(),
        cores: shards,
    };
    match config::load(main, &environment, &mut |_| Err("none".into())) {
        Ok(checked) => Ok(Arc::new(checked.config)),
        Err(wrong) => Err(format!("the configuration is wrong: {wrong:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_run() {
        let options = Options {
            seed: 1,
            ..Options::default()
        };
        assert_eq!(run(&options), run(&options));
    }
}
