//! `pelton simulate`: whole engines in a simulated world of faults, one run per seed; or throttles
//! and limits alone.

mod shaping;

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;

use crate::base::units::{counted, duration, grouped};
use crate::cli::output::say;
use crate::shard::clock::Clock;
use crate::sim::counts::Counts;
use crate::sim::planted::Planted;
use crate::sim::{Options, Report, run as run_seed, run_twice};

/// Failing seeds that are told in full.
const FAILURES_SHOWN_MAX: usize = 20;

/// One seed in so many is run twice, and both runs must leave the same trace.
const TWICE_EVERY: u64 = 50;

/// From so many seeds on, every action, fault and check has to have happened.
const SEEDS_FOR_ALL: u64 = 5_000;

const EXAMPLES: &str = "\
Examples:
  pelton simulate --seeds 10000             some minutes of faults
  pelton simulate --seed 4711 --trace       one run, line by line
  pelton simulate --planted list            bugs that it has to find
  pelton simulate --shaping --seeds 10000   throttles and limits, in random trees of scopes

Exit codes: 0 done, 1 an invariant did not hold, or over many seeds something never happened.";

/// Run whole engines in a simulated world of faults, from seeds.
///
/// A run is one or more processes after each other on one simulated spool, with crashes, disks that
/// forget, tear and fail, hostile clients and hosts, and virtual time. At its end everything that
/// was accepted must have come to its end. Exit code 1 if an invariant did not hold, or if over
/// 5,000 seeds some action, fault or check never happened.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// How many seeds
    #[arg(long, default_value_t = 1_000)]
    pub seeds: u64,
    /// The first one
    #[arg(long, default_value_t = 1)]
    pub first: u64,
    /// Run this seed alone
    #[arg(long)]
    pub seed: Option<u64>,
    /// With --seed: print every line of the trace
    #[arg(long, requires = "seed")]
    pub trace: bool,
    /// Plant a bug, which must be found: a name, or `list`
    #[arg(long)]
    pub planted: Option<String>,
    /// Throttles and limits of connections in random trees of scopes, without faults
    #[arg(long)]
    pub shaping: bool,
    /// Threads; default one per core
    #[arg(long)]
    pub threads: Option<usize>,
}

struct Total {
    counts: Counts,
    failures: Vec<Report>,
}

pub fn run(args: &SimulateArgs) -> i32 {
    if args.shaping {
        return shaping::run(args);
    }
    let planted = match args.planted.as_deref() {
        None => None,
        Some(name) => match Planted::parse(name) {
            Some(planted) => Some(planted),
            None => return list_planted(name),
        },
    };
    if let Some(seed) = args.seed {
        return one(&Options {
            seed,
            planted,
            trace: args.trace,
        });
    }
    let clock = Clock::start();
    let began = clock.now().mono;
    let total = all(args, planted);
    let took = clock.now().mono.since(began);
    match planted {
        Some(planted) => report_planted(planted, &total),
        None => report(args, &total, took),
    }
}

fn list_planted(name: &str) -> i32 {
    if name == "list" {
        for planted in Planted::ALL {
            say(&format!(
                "{:16} invariant {}",
                planted.name(),
                planted.invariant()
            ));
        }
        return 0;
    }
    let names: Vec<_> = Planted::ALL.iter().map(|planted| planted.name()).collect();
    eprintln!(
        "pelton: no planted bug is called {name:?}; there are {}",
        names.join(", ")
    );
    2
}

fn one(options: &Options) -> i32 {
    let report = if options.trace {
        run_seed(options)
    } else {
        run_twice(options)
    };
    report.trace.iter().for_each(|line| say(line));
    say(&format!("seed {}: trace {:016x}", report.seed, report.hash));
    match &report.failure {
        Some(_) => {
            tell(&report);
            1
        }
        None => 0,
    }
}

fn tell(report: &Report) {
    if let Some(failure) = &report.failure {
        say(&format!(
            "seed {}: invariant {} ({}) at {:.3} s: {}",
            report.seed, failure.invariant, failure.check, failure.at_s, failure.text
        ));
    }
}

/// Runs the seeds on all threads. With a planted bug it ends when that has been found.
fn all(args: &SimulateArgs, planted: Option<Planted>) -> Total {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores).max(1);
    let next = AtomicU64::new(0);
    let total = Mutex::new(Total {
        counts: Counts::default(),
        failures: Vec::new(),
    });
    let progress = std::io::stderr().is_terminal();
    // A panic is a finding, told with its seed; its backtrace would drown the others.
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= args.seeds {
                        return;
                    }
                    let seed = args.first + index;
                    let options = Options {
                        seed,
                        planted,
                        trace: false,
                    };
                    let due = planted.is_none() && index.is_multiple_of(TWICE_EVERY);
                    let twice = due || planted == Some(Planted::HashOrder);
                    let report = if twice {
                        run_twice(&options)
                    } else {
                        run_seed(&options)
                    };
                    let mut total = total.lock().unwrap_or_else(|poison| poison.into_inner());
                    total.counts.add(&report.counts);
                    if report.failure.is_some() {
                        total.failures.push(report);
                        if planted.is_some() {
                            next.store(args.seeds, Ordering::Relaxed);
                        }
                    }
                    if progress && index.is_multiple_of(100) {
                        eprint!("\r{} of {}", grouped(index), counted(args.seeds, "seed"));
                    }
                }
            });
        }
    });
    drop(std::panic::take_hook());
    if progress {
        eprintln!();
    }
    let mut total = total
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner());
    total.failures.sort_by_key(|report| report.seed);
    total
}

fn report_planted(planted: Planted, total: &Total) -> i32 {
    let Some(found) = total.failures.first() else {
        say(&format!("planted {}: not found", planted.name()));
        return 1;
    };
    tell(found);
    say(&format!(
        "planted {}: found at seed {}",
        planted.name(),
        found.seed
    ));
    0
}

fn report(args: &SimulateArgs, total: &Total, took: Duration) -> i32 {
    let mut missing = 0;
    for (kind, name, count) in total.counts.all() {
        say(&format!("{kind:8} {name:36} {:>14}", grouped(count)));
        missing += u64::from(count == 0);
    }
    say(&format!(
        "{} in {}: {}, {}, {} delivered, {}",
        counted(args.seeds, "seed"),
        duration(took),
        counted(total.counts.messages, "message"),
        counted(total.counts.recipients, "recipient"),
        grouped(total.counts.deliveries),
        counted(total.counts.duplicates, "duplicate"),
    ));
    total
        .failures
        .iter()
        .take(FAILURES_SHOWN_MAX)
        .for_each(tell);
    if !total.failures.is_empty() {
        say(&format!(
            "{} failed",
            counted(total.failures.len() as u64, "seed")
        ));
        return 1;
    }
    if missing > 0 && args.seeds >= SEEDS_FOR_ALL {
        say(&format!(
            "{missing} of the actions, faults and checks above never happened"
        ));
        return 1;
    }
    say("every invariant held");
    0
}
