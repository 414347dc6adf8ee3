//! The disk of the event log, and its reader. Files grow at their end; what was written and not
//! synced may be gone or garbled after a power cut. Whole lines are handed on once, as soon as
//! nothing can take them back.

use std::collections::BTreeMap;

use crate::base::prng::Prng;
use crate::base::time::Wall;
use crate::hose;
use crate::hose::FileFound;
use crate::hose::FileName;
use crate::hose::HoseOp;
use crate::sim::counts::Counts;
use crate::sim::counts::Fault;
use crate::sim::planted::Planted;
use crate::types::id::ShardId;

const EEXIST: i32 = 17;
const EIO: i32 = 5;

#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    pub full: bool,
    /// In parts of a thousand, per operation.
    pub fails: u64,
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    synced: usize,
    /// The folder knows of it, whatever happens.
    is_named: bool,
    /// Up to here lines have been handed on.
    told: usize,
    modified: Wall,
}

pub struct EventDisk {
    files: BTreeMap<String, File>,
    flights: BTreeMap<usize, HoseOp>,
    prng: Prng,
    planted: Option<Planted>,
    pub trouble: Trouble,
    /// Whole lines that are durable, to be taken by the reader.
    lines: Vec<String>,
}

impl EventDisk {
    pub fn new(seed: u64, planted: Option<Planted>) -> EventDisk {
        EventDisk {
            files: BTreeMap::new(),
            flights: BTreeMap::new(),
            prng: Prng::stream(seed, "event disk"),
            planted,
            trouble: Trouble::default(),
            lines: Vec::new(),
        }
    }

    /// Lines that have become durable since the last call.
    pub fn take_lines(&mut self) -> Vec<String> {
        core::mem::take(&mut self.lines)
    }

    /// Starts an operation; tells when it ends.
    pub fn begin(&mut self, now_us: u64, shard: usize, op: HoseOp) -> u64 {
        let base = match op {
            HoseOp::Write { .. } => 50,
            HoseOp::Sync { .. } | HoseOp::Cut { .. } => 300,
            HoseOp::Remove { .. } => 100,
        };
        let before = self.flights.insert(shard, op);
        assert!(
            before.is_none(),
            "the event log has one operation under way"
        );
        now_us + base + self.prng.below(base * 3)
    }

    /// The end of the operation of a shard.
    pub fn end(
        &mut self,
        wall: Wall,
        shard: usize,
        counts: &mut Counts,
    ) -> (u64, Result<(), hose::Fault>) {
        let Some(op) = self.flights.remove(&shard) else {
            panic!("an operation ends once");
        };
        let number = op.op();
        (number, self.perform(wall, op, counts))
    }

    fn perform(&mut self, wall: Wall, op: HoseOp, counts: &mut Counts) -> Result<(), hose::Fault> {
        if self.prng.chance(self.trouble.fails, 1_000) {
            counts.fault(Fault::EventLogFails);
            if let HoseOp::Write {
                file,
                offset,
                bytes,
                ..
            } = op
            {
                let part = self.prng.below(bytes.len() as u64 + 1) as usize;
                self.write(wall, &file, offset, &bytes[..part])?;
                return Err(hose::Fault::Short);
            }
            return Err(hose::Fault::Failed(EIO));
        }
        match op {
            HoseOp::Write {
                file,
                offset,
                bytes,
                ..
            } => {
                if self.trouble.full {
                    counts.fault(Fault::EventLogFull);
                    let part = self.prng.below(bytes.len() as u64 + 1) as usize;
                    self.write(wall, &file, offset, &bytes[..part])?;
                    return Err(hose::Fault::NoSpace);
                }
                self.write(wall, &file, offset, &bytes)
            }
            HoseOp::Sync { file, first, .. } => self.sync(&file, first),
            HoseOp::Cut { file, size, .. } => {
                if let Some(it) = self.files.get_mut(&file) {
                    it.bytes.truncate(size as usize);
                    it.synced = it.bytes.len();
                    it.told = it.told.min(it.bytes.len());
                }
                Ok(())
            }
            HoseOp::Remove { file, .. } => {
                self.files.remove(&file);
                Ok(())
            }
        }
    }

    fn write(
        &mut self,
        wall: Wall,
        name: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), hose::Fault> {
        let offset = offset as usize;
        if offset == 0 {
            if self.files.contains_key(name) {
                return Err(hose::Fault::Failed(EEXIST));
            }
            self.files.insert(name.to_string(), File::default());
        }
        let Some(it) = self.files.get_mut(name) else {
            return Err(hose::Fault::Failed(2));
        };
        let end = offset + bytes.len();
        if it.bytes.len() < end {
            it.bytes.resize(end, 0);
        }
        it.bytes[offset..end].copy_from_slice(bytes);
        it.modified = wall;
        Ok(())
    }

    fn sync(&mut self, name: &str, first: bool) -> Result<(), hose::Fault> {
        let Some(it) = self.files.get_mut(name) else {
            return Err(hose::Fault::Failed(2));
        };
        if self.planted == Some(Planted::UnsyncedEvents) {
            return Ok(());
        }
        it.synced = it.bytes.len();
        it.is_named |= first;
        tell(it, &mut self.lines);
        Ok(())
    }

    /// The process is gone, and with `power` the machine: what was not synced survives up to some
    /// byte, with zeros behind it perhaps, or the file has never been there.
    pub fn crash(&mut self, power: bool, counts: &mut Counts) {
        for (_, op) in core::mem::take(&mut self.flights) {
            if let HoseOp::Write {
                file,
                offset,
                bytes,
                ..
            } = op
            {
                let part = self.prng.below(bytes.len() as u64 + 1) as usize;
                let _ = self.write(Wall::default(), &file, offset, &bytes[..part]);
            }
        }
        if power {
            let (prng, mut gone) = (&mut self.prng, Vec::new());
            for (name, it) in &mut self.files {
                if it.bytes.len() > it.synced {
                    counts.fault(Fault::EventTailLost);
                    let left = prng.below((it.bytes.len() - it.synced) as u64 + 1) as usize;
                    let size = it.bytes.len();
                    it.bytes.truncate(it.synced + left);
                    if prng.chance(1, 4) {
                        it.bytes.resize(size, 0);
                    }
                }
                if !it.is_named && prng.chance(1, 2) {
                    gone.push(name.clone());
                }
            }
            for name in gone {
                self.files.remove(&name);
            }
        }
        for it in self.files.values_mut() {
            it.synced = it.bytes.len();
            it.is_named = true;
            tell(it, &mut self.lines);
        }
    }

    /// What a start finds: for each shard its files, for the first also those of shards that run
    /// no more.
    pub fn found(&self, shard: ShardId, shards: usize) -> Vec<FileFound> {
        let is_its = |name: &FileName| {
            name.shard == shard || (name.shard.index() >= shards && shard == ShardId(0))
        };
        let named = self
            .files
            .iter()
            .filter_map(|(name, it)| Some((FileName::parse(name)?, name, it)));
        let mine = named.filter(|(parsed, ..)| is_its(parsed));
        mine.map(|(_, name, it)| {
            let tail = it.bytes.len().saturating_sub(hose::TAIL_BYTES_MAX);
            FileFound {
                name: name.clone(),
                size: it.bytes.len() as u64,
                modified: it.modified,
                tail: it.bytes[tail..].to_vec(),
            }
        })
        .collect()
    }
}

/// Hands on the whole lines of what is durable. A reader passes over what is no line.
fn tell(it: &mut File, lines: &mut Vec<String>) {
    let fresh = &it.bytes[it.told..it.synced];
    let whole = hose::whole_lines(fresh);
    for line in fresh[..whole].split(|byte| *byte == b'\n') {
        if let Ok(text) = core::str::from_utf8(line)
            && text.starts_with('{')
            && text.ends_with('}')
        {
            lines.push(text.to_string());
        }
    }
    it.told += whole;
}
