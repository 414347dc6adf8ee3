//! What the spool takes on disk stays in proportion to what lives in it.

use super::world::SEGMENT_BYTES;
use super::world::World;
use super::*;

/// Long-lived messages among short-lived ones: at most twice what lives, plus four segments.
#[test]
fn the_space_used_is_bounded_by_what_lives() {
    for seed in 0..6 {
        let mut world = World::new(seed, 1);
        let mut kept: std::collections::VecDeque<BatchId> = Default::default();
        let mut moved = 0;
        for round in 0..400 {
            let before = world.open_batches();
            for _ in 0..6 {
                world.store(3_000);
            }
            world.wait(60);
            world.turn();
            world.quiesce();
            let fresh: Vec<BatchId> = world
                .open_batches()
                .into_iter()
                .filter(|it| !before.contains(it))
                .collect();
            for batch in fresh {
                if world.prng.chance(1, 5) {
                    kept.push_back(batch);
                    continue;
                }
                end(&mut world, batch);
            }
            while kept.len() > 60 {
                // Mostly the old ones go, but some stay for ever.
                let index = world.prng.between(5, 40) as usize;
                let batch = kept.remove(index).expect("more than 60");
                end(&mut world, batch);
            }
            world.report(true);
            world.quiesce();
            let stats = world.spools[0].stats();
            let bound = 2 * stats.live_bytes + 4 * SEGMENT_BYTES;
            assert!(
                stats.used_bytes <= bound,
                "seed {seed} round {round}: {stats:?}"
            );
            moved = stats.moved_messages;
        }
        assert!(moved > 0, "compaction had something to do");
        let stats = world.spools[0].stats();
        assert!(stats.reclaimed_segments > 50 && stats.segments_free <= 4);
        world.crash(true);
        world.boot(1);
        assert_eq!(world.spools[0].stats().live_bytes, stats.live_bytes);
    }
}

fn end(world: &mut World, batch: BatchId) {
    for _ in 0..200 {
        world.settle_batch(batch, 8);
    }
}

#[test]
fn an_empty_spool_comes_down_to_one_segment() {
    let mut world = World::new(9, 1);
    for _ in 0..100 {
        world.store(3_000);
        world.wait(5);
        world.turn();
    }
    world.quiesce();
    assert!(world.spools[0].stats().segments_used > 4);
    for batch in world.open_batches() {
        end(&mut world, batch);
    }
    world.quiesce();
    assert!(
        world.spools[0].stats().segments_used > 4,
        "the events are not told yet"
    );
    world.report(true);
    world.quiesce();
    let stats = world.spools[0].stats();
    assert_eq!(
        (stats.messages, stats.live_bytes, stats.segments_used),
        (0, 0, 1)
    );
}

#[test]
fn a_shard_that_is_gone_is_emptied_by_another_one() {
    let mut world = World::new(4, 4);
    for _ in 0..80 {
        world.store(2_000);
        world.wait(5);
        world.turn();
    }
    world.report(true);
    world.quiesce();
    world.crash(false);
    let before = world.open_batches().len();
    world.boot(2);
    world.report(true);
    world.quiesce();
    world.wait(1_000);
    world.quiesce();
    assert_eq!(world.open_batches().len(), before);
    for gone in [2, 3] {
        assert_eq!(world.disk.list(ShardId(gone)), [], "folder {gone} is empty");
    }
    world.crash(true);
    world.boot(4);
    assert_eq!(world.open_batches().len(), before);
}

#[test]
fn a_full_spool_refuses_mail_and_still_takes_outcomes() {
    let mut world = World::new(5, 1);
    world.spools[0].config.segments_max = 5;
    while world.spools[0].admission().is_ok() {
        world.store(3_000);
        world.wait(5);
        world.turn();
    }
    assert_eq!(
        world.spools[0].admission(),
        Err(super::super::Refused::NoSpace)
    );
    world.quiesce();
    for batch in world.open_batches() {
        end(&mut world, batch);
    }
    world.report(true);
    world.quiesce();
    assert_eq!(world.spools[0].admission(), Ok(()));
    assert!(world.latencies().count() > 0);
}

#[test]
fn a_full_disk_is_started_on_with_the_segment_that_was_kept_for_outcomes() {
    for seed in 0..6 {
        let mut world = World::new(seed, 1);
        for _ in 0..30 {
            world.store(3_000);
            world.quiesce();
        }
        let full = crate::log::Space { free: 0, keep: 0 };
        world.spools[0].set_space(full);
        while world.spools[0].admission().is_ok() {
            world.store(3_000);
            world.quiesce();
        }
        let open = world.open_batches();
        for batch in &open[..2] {
            end(&mut world, *batch);
        }
        world.quiesce();
        world.crash(false);
        world.boot(1);
        world.spools[0].set_space(full);
        assert_eq!(world.open_batches().len(), open.len() - 2);
        for batch in &open[2..] {
            end(&mut world, *batch);
        }
        world.quiesce();
        // Once the events are told, what is done with makes room for mail and for the next start.
        world.report(true);
        world.quiesce();
        assert_eq!(world.spools[0].admission(), Ok(()));
        world.crash(true);
        world.boot(1);
        world.spools[0].set_space(full);
        world.quiesce();
        assert_eq!(world.open_batches(), []);
        assert_eq!(world.spools[0].admission(), Ok(()));
    }
}
