//! Files that something has happened to: told as damage, with the mail that it has cost.

use super::world::World;
use super::*;

use crate::log::DiskOp;
use crate::log::OpId;
use crate::log::SegmentFile;
use crate::log::SegmentKind;
use crate::spool::Damaged;
use crate::spool::Problem;

/// A home with several segments, the last one open, after a kill; a message that has been tried
/// once, and one in the open segment, before the last commit. The others have not been tried.
fn killed(seed: u64) -> (World, BatchId, BatchId) {
    let mut world = World::new(seed, 1);
    world.store(3_000);
    world.quiesce();
    let first = world.open_batches()[0];
    while world.spools[0].stats().segments_used < 4 {
        world.store(3_000);
        world.quiesce();
    }
    for _ in 0..3 {
        world.settle_batch(first, 0);
    }
    for _ in 0..3 {
        world.store(3_000);
        world.quiesce();
    }
    let open = world.open_batches();
    let late = open[open.len() - 2];
    world.crash(false);
    (world, first, late)
}

fn segments(world: &World) -> Vec<SegmentFile> {
    let files = world.disk.list(ShardId(0)).into_iter().map(|it| it.0);
    files.filter(|it| it.kind == SegmentKind::Live).collect()
}

/// The damage found, and how many messages are left.
fn look(world: &World) -> (Vec<Damaged>, usize) {
    let homes = world.recover(1);
    assert_eq!(
        homes[0].torn_tails, 0,
        "nothing of it is an unfinished commit"
    );
    let left: std::collections::BTreeSet<BatchId> =
        homes[0].arrivals.iter().map(|it| it.batch).collect();
    (homes[0].damage.clone(), left.len())
}

#[test]
fn nothing_is_told_of_files_that_are_whole() {
    let (world, ..) = killed(1);
    assert_eq!(look(&world), (Vec::new(), world.open_batches().len()));
}

#[test]
fn a_short_file_is_told_with_the_message_that_its_end_cost() {
    for seed in 0..8 {
        let (mut world, _, late) = killed(seed);
        let at = world.spools[0].locate(late).expect("it is there");
        let file = at.file;
        let bytes = world.disk.bytes(file);
        let cut = (at.offset + u64::from(at.bytes)) as usize - 16;
        let missing = bytes.len() - cut;
        bytes.truncate(cut);
        let (damage, left) = look(&world);
        assert!(left < world.open_batches().len());
        let short = damage
            .iter()
            .find(|it| it.problem == Problem::Short { unused: false });
        let short = short.expect("it is told");
        assert_eq!((short.file, short.offset as usize), (file, cut));
        assert_eq!(short.bytes as usize, missing);
        assert!(damage.iter().any(|it| it.batch == Some(late)), "{damage:?}");
        assert!(
            short.to_string().contains("mail that lay there is lost"),
            "{short}"
        );
    }
}

#[test]
fn a_file_with_zeros_in_its_middle_is_told_with_what_they_cost() {
    for seed in 0..8 {
        let (mut world, _, late) = killed(seed);
        let at = world.spools[0].locate(late).expect("it is there");
        let file = at.file;
        let bytes = world.disk.bytes(file);
        let middle = at.offset as usize + 32;
        bytes[middle..middle + 32].fill(0);
        let (damage, left) = look(&world);
        assert!(left < world.open_batches().len());
        let covers =
            |it: &&Damaged| (it.offset as usize..(it.offset + it.bytes) as usize).contains(&middle);
        let told = damage.iter().find(covers).expect("it is told");
        assert_eq!(
            (told.file, told.problem),
            (file, Problem::Damaged),
            "{told}"
        );
    }
}

#[test]
fn a_missing_file_is_told_by_those_that_speak_of_its_mail() {
    let (mut world, first, _) = killed(3);
    let file = segments(&world)[0];
    let op = OpId(u64::MAX);
    world.disk.run(DiskOp::Remove { op, file });
    let (damage, left) = look(&world);
    assert!(left < world.open_batches().len());
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!(
        (damage[0].problem, damage[0].batch),
        (Problem::Missing, Some(first))
    );
    assert!(
        damage[0]
            .to_string()
            .ends_with(&format!("message {first} is lost"))
    );
}
