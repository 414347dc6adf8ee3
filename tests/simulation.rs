//! Whole engines in a simulated world: fresh seeds hold, the same seed is the same run, and bugs
//! planted on purpose are found. `pelton simulate` runs many more.

use pelton::sim::planted::Planted;
use pelton::sim::{Options, run, run_twice};

/// Fresh seeds of one test run; `pelton simulate` is for thousands.
const SEEDS_FRESH: u64 = 6;

/// Within so many seeds each planted bug must be found.
const SEEDS_TO_FIND: u64 = 1_000;

fn options(seed: u64) -> Options {
    Options {
        seed,
        ..Options::default()
    }
}

#[test]
fn fresh_seeds_hold_every_invariant() {
    use std::hash::{BuildHasher, Hasher};
    let first = std::hash::RandomState::new().build_hasher().finish() >> 16;
    println!("seeds {first} to {}", first + SEEDS_FRESH - 1);
    for seed in first..first + SEEDS_FRESH {
        let report = run(&options(seed));
        assert_eq!(
            report.failure, None,
            "pelton simulate --seed {seed} --trace"
        );
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 2, 3] {
        let report = run_twice(&options(seed));
        assert_eq!(report.failure, None, "seed {seed}");
    }
    assert_ne!(run(&options(1)).hash, run(&options(2)).hash);
}

#[test]
fn every_planted_bug_is_found() {
    // A planted bug makes engines panic now and then, which is one way of finding it.
    for planted in Planted::ALL {
        let found = (1..=SEEDS_TO_FIND).find_map(|seed| {
            let run_it = if planted == Planted::HashOrder {
                run_twice
            } else {
                run
            };
            let report = run_it(&Options {
                seed,
                planted: Some(planted),
                trace: false,
            });
            report.failure.map(|failure| (seed, failure))
        });
        let (seed, failure) = found.unwrap_or_else(|| panic!("{} not found", planted.name()));
        println!(
            "{}: seed {seed}, invariant {}",
            planted.name(),
            failure.invariant
        );
        assert!(
            planted.invariants().contains(&failure.invariant) || failure.check == "no panic",
            "{}: found as {} at seed {seed}: {}",
            planted.name(),
            failure.check,
            failure.text
        );
    }
}
