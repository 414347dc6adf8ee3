//! `kill -9` at random moments under load: every acknowledged message is delivered, byte for byte,
//! and twice only if its outcome was younger than an outcome may be when the engine died.
//!
//! `bench/crash` runs it with more kills.

mod crash_rig;

use crash_rig::Plan;
use crash_rig::Rig;
use crash_rig::engine::Engine;

/// Kills of an ordinary test run.
const KILLS: u64 = 5;

#[test]
fn what_was_acknowledged_survives_kills_at_random_moments() {
    let kills = crash_rig::number("PELTON_CRASH_KILLS", KILLS);
    let seed = crash_rig::seed();
    let mut rig = Rig::start(
        Plan {
            sync: "commit",
            held: false,
            seed,
        },
        None,
    );
    for kill in 1..=kills {
        let moment = rig.moment();
        let life = rig.live(moment, Engine::kill);
        println!("kill {kill:>3}/{kills}: {life}");
    }
    let (report, verdict) = rig.conclude();
    println!("\n{kills} kills, Spool_Sync = commit, seed {seed}\n{verdict}");
    println!("connections lost        {:>9}", report.connections_lost);
    verdict.assert_nothing_lost();
    assert_eq!(
        report.refused, 0,
        "the engine refused mail: {:?}",
        report.trouble
    );
}
