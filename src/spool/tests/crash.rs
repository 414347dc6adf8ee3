//! Crashes at any moment, with and without power, on a disk that fails or does not.

use super::world::World;
use super::*;

use crate::log::test_disk::Faults;

fn seeds(default: u64) -> core::ops::Range<u64> {
    let from = std::env::var("PELTON_SEED")
        .ok()
        .and_then(|it| it.parse().ok());
    let count = std::env::var("PELTON_SEEDS")
        .ok()
        .and_then(|it| it.parse().ok());
    match (from, count) {
        (Some(from), _) => from..from + 1,
        (None, count) => 0..count.unwrap_or(default),
    }
}

struct Plan {
    faults: Faults,
    shards_max: u64,
    sync: SyncMode,
    power_cuts: bool,
}

fn run(seed: u64, plan: &Plan) -> World {
    let shards = |world: &mut World| world.prng.between(1, plan.shards_max) as u16;
    let mut world = World::new(seed, 1);
    world.sync = plan.sync;
    world.adopts_late = true;
    world.lost_is_fine = plan.sync != SyncMode::Commit && plan.power_cuts;
    world.damage_is_fine = world.lost_is_fine || plan.faults.sync > 0;
    for _ in 0..6 {
        let count = shards(&mut world);
        world.boot(count);
        world.disk.faults = plan.faults;
        let busy = world.prng.between(1, 60);
        for _ in 0..busy {
            match world.prng.below(8) {
                0..3 => world.store(3_000),
                3..6 => world.settle(4),
                6 => world.report(false),
                _ => world.quiesce_sometimes(),
            }
            let ms = world.prng.below(30);
            world.wait(ms);
            world.turn();
        }
        let power_cut = plan.power_cuts && world.prng.chance(1, 2);
        world.crash(power_cut);
        world.disk.faults = Faults::default();
    }
    let count = shards(&mut world);
    world.boot(count);
    world
}

impl World {
    fn quiesce_sometimes(&mut self) {
        if self.prng.chance(1, 4) {
            self.quiesce();
        }
    }
}

fn check(seeds: core::ops::Range<u64>, plan: &Plan, wanted: &[&str]) -> u64 {
    let mut total: std::collections::BTreeMap<&str, u64> = Default::default();
    let mut lost = 0;
    for seed in seeds.clone() {
        let ran = std::panic::catch_unwind(|| run(seed, plan));
        let Ok(world) = ran else {
            panic!("PELTON_SEED={seed} fails")
        };
        for (what, count) in world.counts {
            *total.entry(what).or_default() += count;
        }
        lost += world.lost;
    }
    for what in wanted {
        let count = total.get(what).copied().unwrap_or(0);
        assert!(
            count > 0 || seeds.end - seeds.start < 20,
            "no {what} in all seeds: {total:?}"
        );
    }
    lost
}

const USUAL: [&str; 7] = [
    "stored",
    "settled",
    "commits",
    "rests",
    "power cuts",
    "kills",
    "crashes before all is known",
];

#[test]
fn nothing_accepted_is_lost_by_crashes() {
    let plan = Plan {
        faults: Faults::default(),
        shards_max: 1,
        sync: SyncMode::Commit,
        power_cuts: true,
    };
    check(seeds(150), &plan, &USUAL);
}

#[test]
fn nothing_accepted_is_lost_when_the_number_of_shards_changes() {
    let plan = Plan {
        faults: Faults::default(),
        shards_max: 4,
        sync: SyncMode::Commit,
        power_cuts: true,
    };
    check(seeds(150), &plan, &USUAL);
}

#[test]
fn nothing_accepted_is_lost_on_a_disk_that_fails() {
    let faults = Faults {
        write: 60,
        sync: 60,
        no_space: 20,
        read: 20,
    };
    let plan = Plan {
        faults,
        shards_max: 3,
        sync: SyncMode::Commit,
        power_cuts: true,
    };
    let mut wanted = USUAL.to_vec();
    wanted.extend(["commits failed", "refused at once"]);
    check(seeds(200), &plan, &wanted);
}

#[test]
fn without_syncs_power_cuts_lose_mail_which_shows_that_the_others_could_fail() {
    let plan = Plan {
        faults: Faults::default(),
        shards_max: 1,
        sync: SyncMode::None,
        power_cuts: true,
    };
    assert!(check(0..40, &plan, &USUAL) > 0);
}

#[test]
fn without_syncs_a_killed_process_loses_nothing() {
    let interval = SyncMode::Interval(core::time::Duration::from_millis(20));
    for sync in [SyncMode::None, interval] {
        let plan = Plan {
            faults: Faults::default(),
            shards_max: 3,
            sync,
            power_cuts: false,
        };
        check(
            seeds(100),
            &plan,
            &["stored", "settled", "commits", "rests", "kills"],
        );
    }
}

#[test]
fn whichever_operation_fails_the_spool_goes_on() {
    for nth in 1..60 {
        let mut world = World::new(nth, 1);
        world.disk.fail_in = Some(nth);
        for _ in 0..150 {
            world.store(3_000);
            world.settle(6);
            world.wait(20);
            world.turn();
            world.report(true);
        }
        assert_eq!(world.disk.failed, 1, "operation {nth} failed");
        world.quiesce();
        world.crash(true);
        world.boot(1);
        world.store(100);
        world.quiesce();
        assert_eq!(world.spools[0].admission(), Ok(()));
    }
}
