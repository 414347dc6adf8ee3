//! `pelton simulate --shaping`: throttles and limits of connections in random trees of scopes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::units::{counted, duration, grouped};
use crate::cli::output::say;
use crate::cli::simulate::{FAILURES_SHOWN_MAX, SimulateArgs};
use crate::shard::clock::Clock;
use crate::sim::shaping::{Judged, Options, Planted, Report, run as run_seed};

pub fn run(args: &SimulateArgs) -> i32 {
    let planted = match args.planted.as_deref() {
        None => None,
        Some(name) => match Planted::parse(name) {
            Some(planted) => Some(planted),
            None => return list_planted(name),
        },
    };
    if let Some(seed) = args.seed {
        let report = run_seed(&Options {
            seed,
            planted,
            trace: args.trace,
        });
        report.trace.iter().for_each(|line| say(line));
        say(report.config.trim_end());
        say(&format!("{:?}", report.judged));
        return tell(&report);
    }
    let clock = Clock::start();
    let began = clock.now().mono;
    let (judged, failures) = all(args, planted);
    let took = clock.now().mono.since(began);
    say(&format!(
        "{} in {}: {}, {}, {} full and {} with demand, {} served in turn, {} reached",
        counted(args.seeds, "seed"),
        duration(took),
        counted(judged.messages, "message"),
        counted(judged.connections, "connection"),
        counted(judged.full_windows, "window"),
        grouped(judged.windows),
        counted(judged.served, "queue"),
        counted(judged.reached, "limit"),
    ));
    failures.iter().take(FAILURES_SHOWN_MAX).for_each(|it| {
        tell(it);
    });
    match (planted, failures.len()) {
        (None, 0) => {
            say("every throttle and every limit held");
            0
        }
        (None, count) => {
            say(&format!("{} failed", counted(count as u64, "seed")));
            1
        }
        (Some(planted), 0) => {
            say(&format!("planted {}: not found", planted.name()));
            1
        }
        (Some(planted), _) => {
            let seed = failures[0].seed;
            say(&format!("planted {}: found at seed {seed}", planted.name()));
            0
        }
    }
}

fn list_planted(name: &str) -> i32 {
    let names: Vec<_> = Planted::ALL.iter().map(|planted| planted.name()).collect();
    if name == "list" {
        names.iter().for_each(|name| say(name));
        return 0;
    }
    eprintln!(
        "pelton: no planted bug of shaping is called {name:?}; there are {}",
        names.join(", ")
    );
    2
}

fn tell(report: &Report) -> i32 {
    let Some(failure) = &report.failure else {
        return 0;
    };
    let shards = counted(report.shards as u64, "shard");
    say(&format!("seed {}, {shards}: {failure}", report.seed));
    1
}

/// Runs the seeds on all threads. With a planted bug it ends when that has been found.
fn all(args: &SimulateArgs, planted: Option<Planted>) -> (Judged, Vec<Report>) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores).max(1);
    let next = AtomicU64::new(0);
    let total = Mutex::new((Judged::default(), Vec::new()));
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
                    let report = run_seed(&Options {
                        seed,
                        planted,
                        trace: false,
                    });
                    let mut total = total.lock().unwrap_or_else(|poison| poison.into_inner());
                    total.0.add(&report.judged);
                    if report.failure.is_some() {
                        total.1.push(report);
                        if planted.is_some() {
                            next.store(args.seeds, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    drop(std::panic::take_hook());
    let (judged, mut failures) = total
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner());
    failures.sort_by_key(|report: &Report| report.seed);
    (judged, failures)
}
