//! What a start reads back: all of it before the first engine runs, or the rest while they do.

use bytes::Bytes;

use std::collections::BTreeSet;

use crate::engine::io::ToShard;
use crate::sim::counts::Check;
use crate::sim::counts::Fault;
use crate::sim::ledger::Who;
use crate::sim::planted::Planted;
use crate::sim::process::SPOOL_ID;
use crate::sim::scenario::SECOND;
use crate::sim::world::Event;
use crate::sim::world::World;
use crate::spool::Beginning;
use crate::spool::Home;
use crate::spool::Problem;
use crate::spool::Recovery;
use crate::spool::Scan;
use crate::spool::inspect;
use crate::types::id::BatchId;
use crate::types::id::ShardId;
use crate::types::message::Progress;

/// How long reading the rest may take at most, and then until the last shard has heard of it.
const LATE_US_MAX: u64 = 3 * SECOND;
const APART_US_MAX: u64 = 300_000;

/// What an engine begins with.
pub enum Opening {
    Whole((Beginning, Box<Home>)),
    /// The mail of earlier starts comes later.
    Early(Beginning),
}

impl Opening {
    pub fn is_early(&self) -> bool {
        matches!(self, Opening::Early(_))
    }

    pub fn shard(&self) -> ShardId {
        match self {
            Opening::Whole((beginning, _)) | Opening::Early(beginning) => beginning.shard,
        }
    }
}

/// What is still to be read, and what will be found.
pub struct Late {
    scans: Vec<Scan>,
    expected: Vec<Home>,
}

impl World {
    /// Reads the spool for a start, whole or as little as an engine needs to begin.
    pub fn read_spool(&mut self, shards: usize) -> Vec<Opening> {
        self.late = None;
        let mut homes = self.recover(shards);
        let arrivals = homes.iter().flat_map(|home| &home.arrivals);
        let unreported = homes.iter().flat_map(|home| &home.unreported);
        self.ledger.recovered(arrivals, unreported);
        for home in &homes {
            self.check_bodies(home);
        }
        if self.streams.life.chance(1, 2) {
            for home in &mut homes {
                self.forget_due(home);
            }
            let whole = |mut home: Home| Opening::Whole((home.begin(), Box::new(home)));
            return homes.into_iter().map(whole).collect();
        }
        self.ledger.counts.fault(Fault::LateRecovery);
        let disk = &self.disk;
        let mut read = |file, offset, bytes| disk.read(file, offset, bytes);
        let (mut openings, mut scans) = (Vec::new(), Vec::new());
        for folder in self.spool_folders(shards) {
            let mut scan = Scan::new(SPOOL_ID, folder, disk.list(folder));
            if folder.index() < shards {
                let begun = scan.begin(&mut read).expect("our format");
                openings.push(Opening::Early(begun));
            }
            scans.push(scan);
        }
        self.late = Some(Late {
            scans,
            expected: homes,
        });
        let after_us = self.streams.life.below(LATE_US_MAX);
        let life = self.life();
        self.plan(after_us, Event::Recovered { life });
        openings
    }

    /// The rest has been read, and every shard hears what there is for it.
    pub fn recovered(&mut self) {
        let Some(Late { scans, expected }) = self.late.take() else {
            return;
        };
        let disk = &self.disk;
        let mut read = |file, offset, bytes| disk.read(file, offset, bytes);
        let mut recovery = Recovery::new(SPOOL_ID, expected.len() as u16);
        for mut scan in scans {
            while scan.step(&mut read).expect("our format") {}
            recovery.take(scan);
        }
        let homes = recovery.finish(&mut read);
        let life = self.life();
        for (shard, (mut home, expected)) in homes.into_iter().zip(expected).enumerate() {
            let same = home.arrivals == expected.arrivals
                && home.unreported == expected.unreported
                && home.damage == expected.damage;
            self.ledger.check(Check::Recovered, same, || {
                format!(
                    "shard {shard}: a later look at what the start had found finds other things"
                )
            });
            self.forget_due(&mut home);
            let message = Box::new(ToShard::Recovered(Box::new(home)));
            let after_us = self.streams.life.below(APART_US_MAX);
            let event = Event::Control {
                life,
                shard,
                message,
            };
            self.plan(after_us, event);
        }
    }

    /// What recovery would find now.
    pub fn recover(&mut self, shards: usize) -> Vec<Home> {
        self.disk.remove_new();
        let folders = self.spool_folders(shards);
        let disk = &self.disk;
        let mut read = |file, offset, bytes| disk.read(file, offset, bytes);
        let mut recovery = Recovery::new(SPOOL_ID, shards as u16);
        for folder in folders {
            if let Err(error) = recovery.folder(folder, disk.list(folder), &mut read) {
                panic!("a start refuses its own spool: {error}");
            }
        }
        let homes = recovery.finish(&mut read);
        for damage in homes.iter().flat_map(|home| &home.damage) {
            let is_ours = damage.problem == Problem::TornOrDamaged;
            self.ledger.check(Check::BodyRecovered, is_ours, || {
                format!("recovery reports damage: {damage}")
            });
        }
        homes
    }

    fn spool_folders(&self, shards: usize) -> BTreeSet<ShardId> {
        let mut folders: BTreeSet<ShardId> = self.disk.folders().into_iter().collect();
        folders.extend((0..shards).map(|shard| ShardId(shard as u8)));
        folders
    }

    fn forget_due(&self, home: &mut Home) {
        if self.planted == Some(Planted::ForgottenRebind) {
            for arrival in &mut home.arrivals {
                arrival.binding = self.scenario.bindings[0].name.as_str().into();
            }
        }
        if self.planted == Some(Planted::ForgottenDue) {
            for arrival in &mut home.arrivals {
                arrival.progress = Progress::default();
            }
        }
    }

    /// Every message that recovery names is there, byte for byte.
    fn check_bodies(&mut self, home: &Home) {
        let mut seen: BTreeSet<BatchId> = BTreeSet::new();
        for arrival in home.arrivals.iter().filter(|it| seen.insert(it.batch)) {
            let batch = arrival.batch;
            let Some(at) = home.locate(batch) else {
                self.ledger.check(Check::BodyRecovered, false, || {
                    format!("{batch} was recovered and lies nowhere")
                });
                continue;
            };
            let read = self.disk.read(at.file, at.offset, at.bytes as usize);
            let bytes = Bytes::from(read.unwrap_or_default());
            let found = inspect::message(SPOOL_ID, at, &bytes);
            match found.filter(|it| it.content.batch == batch) {
                Some(found) => {
                    if let Some(who) = Who::parse(arrival.address.as_str()) {
                        let (check, body) = (Check::BodyRecovered, &found.content.body);
                        self.ledger.check_body(check, who.message, body);
                    }
                }
                None => self.ledger.check(Check::BodyRecovered, false, || {
                    format!("{batch} cannot be read back")
                }),
            }
        }
    }
}
