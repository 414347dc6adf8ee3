//! Whole engines in a simulated world: fresh seeds hold, the same seed is the same run, and bugs
//! planted on purpose are found. `pelton simulate` runs many more.

use pelton::sim::planted::Planted;
use pelton::sim::{Options, run, run_twice};

/// Fresh seeds of one test run; `pelton simulate` is for thousands.
const SEEDS_FRESH: u64 = 50;

/// Within so many seeds each planted bug must be found.
const SEEDS_TO_FIND: u64 = 1_000;

/// Invariants of section 10 of the design.
const INVARIANTS: core::ops::RangeInclusive<u8> = 1..=9;

/// Seeds that have failed once, and why.
const SEEDS_FAILED_ONCE: [(u64, &str); 8] = [
    (
        3_046,
        "started with too little room for a segment, the engine delivered without recording it",
    ),
    (
        500_987,
        "a retry time that the event log alone knew, because the disk had refused its record \
         before the kill, was held against the start after it",
    ),
    (
        202_822_054_063_745,
        "a queue waited for a connection to end when all had ended",
    ),
    (
        21_031_326_029_012,
        "a recipient came back because the record of its end was lost with the disk, and the run \
         ended before it had come to an end again",
    ),
    (
        864,
        "a shutdown gave up on a sync of 30 s, and the check did not count it among the slow ones",
    ),
    (1_037, "the same on another shard"),
    (
        85_256_650_529_911,
        "a queue that had taken over a connection of a sibling kept the place that it had been \
         handed, and never came for it",
    ),
    (
        567,
        "a class was put off again and again while bodies of another were fetched",
    ),
];

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
fn seeds_that_have_failed_once_hold() {
    for (seed, why) in SEEDS_FAILED_ONCE {
        assert_eq!(run(&options(seed)).failure, None, "seed {seed}: {why}");
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
fn every_invariant_has_a_planted_bug() {
    for invariant in INVARIANTS {
        let mut all = Planted::ALL.into_iter();
        assert!(
            all.any(|planted| planted.invariant() == invariant),
            "nobody knows whether invariant {invariant} can fail"
        );
    }
}

#[test]
fn every_planted_bug_is_found() {
    for planted in Planted::ALL {
        let seed = found_at(planted);
        println!(
            "{}: invariant {} at seed {seed}",
            planted.name(),
            planted.invariant()
        );
    }
}

/// The first seed that finds a planted bug as what it is.
fn found_at(planted: Planted) -> u64 {
    let run = match planted {
        Planted::HashOrder => run_twice,
        _ => run,
    };
    for seed in 1..=SEEDS_TO_FIND {
        let report = run(&Options {
            seed,
            planted: Some(planted),
            trace: false,
        });
        let Some(failure) = report.failure else {
            continue;
        };
        // A planted bug makes engines panic now and then, which is another way of finding it.
        if failure.check == "no panic" {
            continue;
        }
        if failure.invariant == planted.invariant() {
            return seed;
        }
        assert!(
            planted.breaks_also().contains(&failure.invariant),
            "{}: found as {} at seed {seed}: {}",
            planted.name(),
            failure.check,
            failure.text
        );
    }
    panic!("{} is not found", planted.name());
}
