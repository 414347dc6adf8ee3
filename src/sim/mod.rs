//! L6: a deterministic world in which whole engines run: their clock, disks, network, clients,
//! receiving hosts and name servers, all of them drawn from one seed and none of them reliable.
//! The same seed gives the same run, event for event; whatever goes wrong can be looked at again.
//!
//! A run is one process after the other on one spool, each with one to four engines that share
//! their limits and talk through a mesh. At some moment the trouble ends, and everything that was
//! accepted must come to its end. The [`ledger`] knows the truth and checks the invariants of the
//! design; [`planted`] holds bugs that the checks must find.
//!
//! Nothing here knows of threads, clocks or files, and no test of it takes real time.

mod client;
pub mod counts;
mod disk;
mod event_disk;
mod host;
mod keeping;
mod ledger;
mod look;
mod mail;
mod names;
mod net;
mod orders;
mod peers;
mod perform;
pub mod planted;
pub mod practice;
mod process;
mod rates;
mod recovery;
mod scenario;
mod schedule;
pub mod shaping;
mod trace;
mod world;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use crate::sim::counts::Check;
use crate::sim::counts::Counts;
use crate::sim::planted::Planted;
use crate::sim::world::World;

/// What to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub seed: u64,
    pub planted: Option<Planted>,
    /// Keep every line of the trace.
    pub trace: bool,
}

/// An invariant that did not hold.
#[derive(Clone, PartialEq, Debug)]
pub struct Failure {
    /// Number of the invariant in section 10 of the design.
    pub invariant: u8,
    pub check: &'static str,
    /// Virtual time, seconds.
    pub at_s: f64,
    pub text: String,
}

/// What a run has come to.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    /// Over everything that happened.
    pub hash: u64,
    pub failure: Option<Failure>,
    pub counts: Counts,
    pub trace: Vec<String>,
}

/// Runs one seed to its end, or to the first invariant that does not hold. A panic in an engine
/// is a failure of invariant 8.
pub fn run(options: &Options) -> Report {
    let mut world = World::new(options.seed, options.planted, options.trace);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let failure = match ended {
        Ok(()) => world.ledger.violation.take().map(|found| Failure {
            invariant: found.check.invariant(),
            check: found.check.name(),
            at_s: found.at_us as f64 / 1e6,
            text: found.text,
        }),
        Err(panic) => Some(Failure {
            invariant: Check::Bounds.invariant(),
            check: "no panic",
            at_s: world.now_us as f64 / 1e6,
            text: panic_text(&*panic),
        }),
    };
    Report {
        seed: options.seed,
        hash: world.trace.hash(),
        failure,
        trace: world.trace.take_lines(),
        counts: core::mem::take(&mut world.ledger.counts),
    }
}

/// Runs a seed twice; the traces must be the same (invariant 9).
pub fn run_twice(options: &Options) -> Report {
    let first = run(options);
    let mut second = run(options);
    second.counts.check(Check::SameTrace);
    if first.hash != second.hash && second.failure.is_none() {
        second.failure = Some(Failure {
            invariant: Check::SameTrace.invariant(),
            check: Check::SameTrace.name(),
            at_s: 0.0,
            text: format!("two traces: {:016x} and {:016x}", first.hash, second.hash),
        });
    }
    second
}

fn panic_text(panic: &(dyn core::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_runs_clean_and_again_the_same() {
        let options = Options {
            seed: 1,
            ..Options::default()
        };
        let report = run_twice(&options);
        assert_eq!(report.failure, None);
        assert!(report.counts.messages >= 200);
    }
}
