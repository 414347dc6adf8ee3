//! Throttles and limits of connections hold whatever tree of scopes sets them: fresh seeds on
//! every run, `PELTON_SHAPING_CASES` says how many. `pelton simulate --shaping` runs many more.

use pelton::sim::shaping::{Judged, Options, Planted, run};

/// Cases of one test run, unless the environment says another number.
const CASES: u64 = 40;

/// Within so many seeds each planted bug must be found.
const SEEDS_TO_FIND: u64 = 300;

fn cases() -> u64 {
    let wanted = std::env::var("PELTON_SHAPING_CASES").ok();
    let wanted = wanted.map(|it| it.parse().expect("PELTON_SHAPING_CASES is a number"));
    wanted.unwrap_or(CASES)
}

#[test]
fn no_window_is_over_what_is_allowed_is_used_and_who_waits_is_served() {
    use std::hash::{BuildHasher, Hasher};
    let first = std::hash::RandomState::new().build_hasher().finish() >> 16;
    println!("seeds {first} to {}", first + cases() - 1);
    let mut all = Judged::default();
    for seed in first..first + cases() {
        let report = run(&Options {
            seed,
            ..Options::default()
        });
        assert_eq!(
            report.failure, None,
            "pelton simulate --shaping --seed {seed}"
        );
        all.add(&report.judged);
    }
    println!("{all:?}");
    let seen = [
        all.messages,
        all.connections,
        all.full_windows,
        all.windows,
        all.served,
    ];
    assert!(
        seen.iter().all(|it| *it > cases()),
        "too little is seen: {all:?}"
    );
}

#[test]
fn every_planted_bug_is_found() {
    for planted in Planted::ALL {
        let found = (1..=SEEDS_TO_FIND).find_map(|seed| {
            let report = run(&Options {
                seed,
                planted: Some(planted),
                ..Options::default()
            });
            report.failure.map(|failure| (seed, failure))
        });
        let (seed, failure) = found.unwrap_or_else(|| panic!("{} is not found", planted.name()));
        println!("{}: seed {seed}: {failure}", planted.name());
    }
}
