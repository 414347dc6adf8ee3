//! The disk of the spool. It performs operations as their documentation asks, takes its time, and
//! fails when told to. What processes read and what a power cut leaves are kept apart, sector by
//! sector: a sector that was written and not synced may or may not be there afterwards, and one
//! whose sync failed is not, although it reads well until then.

use core::ops::Range;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::base::prng::Prng;
use crate::log::Completion;
use crate::log::DiskOp;
use crate::log::Fault as DiskFault;
use crate::log::OpId;
use crate::log::SegmentFile;
use crate::log::SegmentKind;
use crate::log::SyncScope;
use crate::sim::counts::Counts;
use crate::sim::counts::Fault;
use crate::sim::planted::Planted;
use crate::spool::BodyAt;
use crate::types::id::ShardId;

const SECTOR_BYTES: usize = 512;

/// How badly things stand. Chances are in parts of a thousand, per operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// No room for anything new.
    pub full: bool,
    pub write_fails: u64,
    pub short_write: u64,
    pub sync_fails: u64,
    pub read_fails: u64,
    /// Of files that are not open; what the process has made itself is.
    pub open_fails: u64,
    pub prepare_fails: u64,
    pub seal_fails: u64,
    /// What it should have done may have happened all the same, or not.
    pub rename_fails: u64,
    pub remove_fails: u64,
    /// The file system takes nothing any more, not even what waits to be synced.
    pub read_only: bool,
    /// The next ones fail, one after the other.
    pub spell: Option<Spell>,
    /// Every operation takes this much longer at most, microseconds.
    pub slower_us: u64,
    /// Every operation that syncs takes exactly this much longer.
    pub slow_sync: Option<SlowSync>,
}

impl Trouble {
    /// Whether it may keep something from getting to disk, or from getting there in time.
    pub fn hinders(&self) -> bool {
        let chances = [
            self.write_fails,
            self.short_write,
            self.sync_fails,
            self.open_fails,
            self.prepare_fails,
            self.seal_fails,
            self.rename_fails,
            self.remove_fails,
            self.slower_us,
        ];
        let fails = self.full || self.read_only || self.spell.is_some();
        fails || self.slow_sync.is_some() || chances.iter().any(|it| *it > 0)
    }
}

/// Operations in a row that fail.
#[derive(Clone, Copy, Debug)]
pub struct Spell {
    /// Syncs, or writes.
    pub syncs: bool,
    pub left: u64,
    pub fault: Fault,
}

impl Spell {
    /// As often as disks do: once, a few times, or until somebody replaces them.
    pub const ALL: [Spell; 6] = [
        Spell::new(false, 1, Fault::WriteFailsOnce),
        Spell::new(false, 3, Fault::WriteFailsThrice),
        Spell::new(false, u64::MAX, Fault::WriteFailsForGood),
        Spell::new(true, 1, Fault::SyncFailsOnce),
        Spell::new(true, 3, Fault::SyncFailsThrice),
        Spell::new(true, u64::MAX, Fault::SyncFailsForGood),
    ];

    const fn new(syncs: bool, left: u64, fault: Fault) -> Spell {
        Spell { syncs, left, fault }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct SlowSync {
    pub us: u64,
    pub fault: Fault,
}

impl SlowSync {
    /// A disk without a cache, a busy one, one that is about to fail, and one that hangs.
    pub const ALL: [SlowSync; 4] = [
        SlowSync::new(4_000, Fault::Sync4Ms),
        SlowSync::new(20_000, Fault::Sync20Ms),
        SlowSync::new(1_000_000, Fault::Sync1S),
        SlowSync::new(30_000_000, Fault::Sync30S),
    ];

    const fn new(us: u64, fault: Fault) -> SlowSync {
        SlowSync { us, fault }
    }
}

type Sectors = BTreeMap<usize, Box<[u8; SECTOR_BYTES]>>;

/// A file. `dirty` and `stale` hold what the disk has of sectors for which the cache has more.
struct File {
    inode: u64,
    bytes: Vec<u8>,
    dirty: Sectors,
    /// The kernel believes these to be written, and they are not.
    stale: Sectors,
    /// More than a header has been written to it since it got its name.
    used: bool,
}

impl File {
    fn zeroed(inode: u64, bytes: usize) -> File {
        File {
            inode,
            bytes: vec![0; bytes],
            dirty: Sectors::new(),
            stale: Sectors::new(),
            used: false,
        }
    }

    fn range(&self, sector: usize) -> core::ops::Range<usize> {
        sector * SECTOR_BYTES..((sector + 1) * SECTOR_BYTES).min(self.bytes.len())
    }

    fn write_sector(&mut self, sector: usize, at: usize, bytes: &[u8]) {
        if !self.dirty.contains_key(&sector) {
            let on_disk = match self.stale.remove(&sector) {
                Some(on_disk) => on_disk,
                None => {
                    let mut on_disk = Box::new([0; SECTOR_BYTES]);
                    let range = self.range(sector);
                    on_disk[..range.len()].copy_from_slice(&self.bytes[range]);
                    on_disk
                }
            };
            self.dirty.insert(sector, on_disk);
        }
        let range = self.range(sector);
        let from = at.max(range.start);
        let to = (at + bytes.len()).min(range.end);
        self.bytes[from..to].copy_from_slice(&bytes[from - at..to - at]);
    }

    fn sectors(at: usize, bytes: &[u8]) -> core::ops::Range<usize> {
        at / SECTOR_BYTES..(at + bytes.len()).div_ceil(SECTOR_BYTES)
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(
            at + bytes.len() <= self.bytes.len(),
            "a write stays inside its segment"
        );
        for sector in File::sectors(at, bytes) {
            self.write_sector(sector, at, bytes);
        }
    }

    /// Some sectors of a write happen: the first ones, or any.
    fn tear(&mut self, prng: &mut Prng, at: usize, bytes: &[u8]) {
        let sectors = File::sectors(at, bytes);
        let from_start = prng.chance(1, 2);
        let limit = prng.below(sectors.len() as u64 + 1) as usize;
        for (index, sector) in sectors.enumerate() {
            let happens = if from_start {
                index < limit
            } else {
                prng.chance(1, 2)
            };
            if happens {
                self.write_sector(sector, at, bytes);
            }
        }
    }

    fn sync(&mut self) {
        self.dirty.clear();
    }

    fn sync_part(&mut self, part: Range<usize>) {
        for sector in part.start / SECTOR_BYTES..part.end.div_ceil(SECTOR_BYTES) {
            self.dirty.remove(&sector);
        }
    }

    /// A sync that failed: some sectors got to disk, all count as clean from now on.
    fn fail_sync(&mut self, prng: &mut Prng) {
        for (sector, on_disk) in core::mem::take(&mut self.dirty) {
            if prng.chance(1, 2) {
                self.stale.insert(sector, on_disk);
            }
        }
    }

    /// Tells how many sectors were lost.
    fn cut_power(&mut self, prng: &mut Prng) -> u64 {
        let mut lost = core::mem::take(&mut self.stale);
        for (sector, on_disk) in core::mem::take(&mut self.dirty) {
            if prng.chance(1, 2) {
                lost.insert(sector, on_disk);
            }
        }
        for (sector, on_disk) in &lost {
            let range = self.range(*sector);
            let bytes = range.len();
            self.bytes[range].copy_from_slice(&on_disk[..bytes]);
        }
        lost.len() as u64
    }
}

struct Flight {
    op: DiskOp,
    began_us: u64,
    /// For a read: the file that was open when it began.
    inode: Option<u64>,
    slow_sync: Option<SlowSync>,
}

struct BodyRead {
    at: BodyAt,
    inode: Option<u64>,
    began_us: u64,
    then: Vec<u8>,
}

/// All segments of a spool, and the operations under way.
pub struct Disk {
    files: BTreeMap<SegmentFile, File>,
    flights: BTreeMap<(usize, OpId), Flight>,
    reads: BTreeMap<(usize, u64), BodyRead>,
    /// When the last operation on each file ends: they come to pass in the order given.
    busy_until: BTreeMap<SegmentFile, u64>,
    inodes: u64,
    prng: Prng,
    planted: Option<Planted>,
    pub trouble: Trouble,
    /// The longest that an operation of the present process has taken, microseconds.
    pub slowest_us: u64,
}

impl Disk {
    pub fn new(seed: u64, planted: Option<Planted>) -> Disk {
        Disk {
            files: BTreeMap::new(),
            flights: BTreeMap::new(),
            reads: BTreeMap::new(),
            busy_until: BTreeMap::new(),
            inodes: 0,
            prng: Prng::stream(seed, "disk"),
            planted,
            trouble: Trouble::default(),
            slowest_us: 0,
        }
    }

    /// Folders that exist.
    pub fn folders(&self) -> BTreeSet<ShardId> {
        self.files.keys().map(|file| file.shard).collect()
    }

    pub fn list(&self, shard: ShardId) -> Vec<(SegmentFile, u64)> {
        let mine = self.files.iter().filter(|(file, _)| file.shard == shard);
        mine.map(|(file, it)| (*file, it.bytes.len() as u64))
            .collect()
    }

    pub fn read(&self, file: SegmentFile, at: u64, bytes: usize) -> Result<Vec<u8>, DiskFault> {
        let it = self.files.get(&file).ok_or(DiskFault::Io)?;
        let at = at as usize;
        let found = it.bytes.get(at..at + bytes).ok_or(DiskFault::Io)?;
        Ok(found.to_vec())
    }

    /// Starts an operation; tells when it ends.
    pub fn begin(&mut self, now_us: u64, shard: usize, op: DiskOp) -> u64 {
        let (base, file) = match &op {
            DiskOp::Commit { file, sync, .. } => {
                (if *sync == SyncScope::Nothing { 20 } else { 150 }, *file)
            }
            DiskOp::Sync { file, .. } => (150, *file),
            DiskOp::Prepare { file, .. } => (2_000, *file),
            DiskOp::Seal { file, .. } | DiskOp::Remove { file, .. } => (300, *file),
            DiskOp::Rename { from, .. } => (300, *from),
            DiskOp::Read { file, .. } => (100, *file),
        };
        let mut done = now_us + self.takes(base);
        let syncs = !matches!(
            &op,
            DiskOp::Read { .. }
                | DiskOp::Commit {
                    sync: SyncScope::Nothing,
                    ..
                }
        );
        let slow_sync = self.trouble.slow_sync.filter(|_| syncs);
        done += slow_sync.map_or(0, |it| it.us);
        if self.planted == Some(Planted::LateOutcomes) && is_of_outcomes(&op) {
            done += 20_000_000;
        }
        let busy = self.busy_until.entry(file).or_default();
        done = done.max(*busy + 1);
        *busy = done;
        let inode = self.files.get(&file).map(|it| it.inode);
        let flight = Flight {
            op,
            began_us: now_us,
            inode,
            slow_sync,
        };
        let before = self.flights.insert((shard, flight.op.op()), flight);
        assert!(before.is_none(), "an operation has a number of its own");
        done
    }

    fn takes(&mut self, base_us: u64) -> u64 {
        let slow = match self.prng.chance(1, 40) {
            true => base_us * 20,
            false => 0,
        };
        let slower = match self.trouble.slower_us {
            0 => 0,
            most => self.prng.below(most),
        };
        base_us + self.prng.below(base_us * 2) + slow + slower
    }

    /// The end of an operation: it happens now, or fails.
    pub fn end(&mut self, now_us: u64, shard: usize, op: OpId, counts: &mut Counts) -> Completion {
        let Some(flight) = self.flights.remove(&(shard, op)) else {
            panic!("an operation ends once");
        };
        let is_late = self.planted == Some(Planted::LateOutcomes) && is_of_outcomes(&flight.op);
        if !is_late {
            self.slowest_us = self.slowest_us.max(now_us - flight.began_us);
        }
        if let Some(slow) = flight.slow_sync {
            counts.fault(slow.fault);
        }
        let (result, buffer) = self.perform(flight.op, flight.inode, counts);
        Completion { op, result, buffer }
    }

    fn perform(
        &mut self,
        op: DiskOp,
        inode: Option<u64>,
        counts: &mut Counts,
    ) -> (Result<(), DiskFault>, Vec<u8>) {
        match op {
            DiskOp::Commit {
                file,
                offset,
                bytes,
                sync,
                ..
            } => {
                let result = self.write_and_sync(file, offset as usize, &bytes, sync, counts);
                (result, bytes)
            }
            DiskOp::Seal {
                file,
                offset,
                bytes,
                ..
            } => {
                let result = self.seal(file, offset as usize, &bytes, counts);
                (result, bytes)
            }
            DiskOp::Sync { file, .. } => {
                let opened = self.open(counts);
                let result = opened.and_then(|()| self.sync(file, None, counts));
                (result, Vec::new())
            }
            DiskOp::Prepare {
                file,
                recycle,
                header,
                file_bytes,
                ..
            } => {
                let result = self.try_prepare(file, recycle, &header, file_bytes, counts);
                (result, header)
            }
            DiskOp::Rename { .. } | DiskOp::Remove { .. } => (self.arrange(op, counts), Vec::new()),
            DiskOp::Read { offset, bytes, .. } => {
                let opened = self.open(counts);
                match opened.and_then(|()| self.read_inode(inode, offset, bytes as usize, counts)) {
                    Ok(read) => (Ok(()), read),
                    Err(fault) => (Err(fault), Vec::new()),
                }
            }
        }
    }

    /// Whether something happens that has this chance, counted if it does.
    fn strikes(&mut self, chance: u64, fault: Fault, counts: &mut Counts) -> bool {
        let happens = chance > 0 && self.prng.chance(chance, 1_000);
        if happens {
            counts.fault(fault);
        }
        happens
    }

    /// Whether it is the turn of this write or sync to fail.
    fn spell_strikes(&mut self, syncs: bool, counts: &mut Counts) -> bool {
        match &mut self.trouble.spell {
            Some(spell) if spell.syncs == syncs && spell.left > 0 => {
                spell.left -= 1;
                counts.fault(spell.fault);
                true
            }
            _ => false,
        }
    }

    fn is_read_only(&self, counts: &mut Counts) -> bool {
        if self.trouble.read_only {
            counts.fault(Fault::ReadOnly);
        }
        self.trouble.read_only
    }

    fn open(&mut self, counts: &mut Counts) -> Result<(), DiskFault> {
        match self.strikes(self.trouble.open_fails, Fault::OpenFails, counts) {
            true => Err(DiskFault::Io),
            false => Ok(()),
        }
    }

    fn seal(
        &mut self,
        file: SegmentFile,
        at: usize,
        bytes: &[u8],
        counts: &mut Counts,
    ) -> Result<(), DiskFault> {
        self.open(counts)?;
        if self.strikes(self.trouble.seal_fails, Fault::SealFails, counts) {
            let it = self.files.get_mut(&file).ok_or(DiskFault::Io)?;
            it.tear(&mut self.prng, at, bytes);
            it.fail_sync(&mut self.prng);
            return Err(DiskFault::Io);
        }
        self.write_and_sync(file, at, bytes, SyncScope::File, counts)
    }

    /// Renames or removes. When that fails, it is the sync of the folder as often as not.
    fn arrange(&mut self, op: DiskOp, counts: &mut Counts) -> Result<(), DiskFault> {
        if self.is_read_only(counts) {
            return Err(DiskFault::Io);
        }
        let (chance, fault) = match &op {
            DiskOp::Rename { .. } => (self.trouble.rename_fails, Fault::RenameFails),
            _ => (self.trouble.remove_fails, Fault::RemoveFails),
        };
        let fails = self.strikes(chance, fault, counts);
        if fails && self.prng.chance(1, 2) {
            return Err(DiskFault::Io);
        }
        match op {
            DiskOp::Rename { from, to, .. } => self.rename(from, to),
            DiskOp::Remove { file, .. } => drop(self.files.remove(&file)),
            _ => {}
        }
        match fails {
            true => Err(DiskFault::Io),
            false => Ok(()),
        }
    }

    fn write_and_sync(
        &mut self,
        file: SegmentFile,
        at: usize,
        bytes: &[u8],
        sync: SyncScope,
        counts: &mut Counts,
    ) -> Result<(), DiskFault> {
        if self.is_read_only(counts) {
            return Err(DiskFault::Io);
        }
        let in_turn = self.spell_strikes(false, counts);
        let Some(it) = self.files.get_mut(&file) else {
            return Err(DiskFault::Io);
        };
        it.used = true;
        if in_turn {
            it.tear(&mut self.prng, at, bytes);
            return Err(DiskFault::Io);
        }
        let trouble = self.trouble;
        let fails = [
            (trouble.write_fails, Fault::WriteFails),
            (trouble.short_write, Fault::ShortWrite),
        ];
        for (chance, fault) in fails {
            if self.prng.chance(chance, 1_000) {
                counts.fault(fault);
                it.tear(&mut self.prng, at, bytes);
                return Err(DiskFault::Io);
            }
        }
        // Room was made when the segment was; a file system that copies may run out all the same.
        if trouble.full && self.prng.chance(1, 4) {
            counts.fault(Fault::DiskFull);
            it.tear(&mut self.prng, at, bytes);
            return Err(DiskFault::NoSpace);
        }
        it.write(at, bytes);
        match sync {
            SyncScope::Nothing => Ok(()),
            SyncScope::Written => self.sync(file, Some(at..at + bytes.len()), counts),
            SyncScope::File => self.sync(file, None, counts),
        }
    }

    /// Makes all of a file durable, or a part.
    fn sync(
        &mut self,
        file: SegmentFile,
        part: Option<Range<usize>>,
        counts: &mut Counts,
    ) -> Result<(), DiskFault> {
        let in_turn = self.spell_strikes(true, counts) || self.is_read_only(counts);
        let Some(it) = self.files.get_mut(&file) else {
            return Err(DiskFault::Io);
        };
        if in_turn {
            it.fail_sync(&mut self.prng);
            return Err(DiskFault::Io);
        }
        if self.prng.chance(self.trouble.sync_fails, 1_000) {
            counts.fault(Fault::SyncFails);
            it.fail_sync(&mut self.prng);
            return Err(DiskFault::Io);
        }
        match part {
            _ if self.planted == Some(Planted::LyingSync) => {}
            Some(part) => it.sync_part(part),
            None => it.sync(),
        }
        Ok(())
    }

    fn try_prepare(
        &mut self,
        file: SegmentFile,
        recycle: Option<SegmentFile>,
        header: &[u8],
        file_bytes: u64,
        counts: &mut Counts,
    ) -> Result<(), DiskFault> {
        self.open(counts)?;
        if self.is_read_only(counts) {
            return Err(DiskFault::Io);
        }
        if self.strikes(self.trouble.prepare_fails, Fault::PrepareFails, counts) {
            return self.fail_prepare(file, recycle, header, file_bytes);
        }
        if recycle.is_none() && self.trouble.full {
            counts.fault(Fault::DiskFull);
            self.partly_new(file, file_bytes);
            return Err(DiskFault::NoSpace);
        }
        if self.prng.chance(self.trouble.write_fails, 1_000) {
            counts.fault(Fault::WriteFails);
            return Err(DiskFault::Io);
        }
        self.prepare(file, recycle, header, file_bytes)
    }

    /// It fails in any of its steps: before the file has its name, or in the sync of the folder.
    fn fail_prepare(
        &mut self,
        file: SegmentFile,
        recycle: Option<SegmentFile>,
        header: &[u8],
        file_bytes: u64,
    ) -> Result<(), DiskFault> {
        match (self.prng.below(3), recycle) {
            (0, _) => self.prepare(file, recycle, header, file_bytes)?,
            (1, Some(from)) => {
                if let Some(it) = self.files.get_mut(&from) {
                    it.tear(&mut self.prng, 0, header);
                }
            }
            (1, None) => self.partly_new(file, file_bytes),
            _ => {}
        }
        Err(DiskFault::Io)
    }

    fn prepare(
        &mut self,
        file: SegmentFile,
        recycle: Option<SegmentFile>,
        header: &[u8],
        file_bytes: u64,
    ) -> Result<(), DiskFault> {
        let mut it = match recycle {
            Some(from) => self.files.remove(&from).ok_or(DiskFault::Io)?,
            None => {
                self.files.remove(&file.with_kind(SegmentKind::New));
                self.inodes += 1;
                File::zeroed(self.inodes, file_bytes as usize)
            }
        };
        it.write(0, header);
        it.sync();
        it.used = false;
        let before = self.files.insert(file, it);
        let blank = before.is_none_or(|it| !it.used);
        assert!(blank, "no segment is made over another");
        Ok(())
    }

    fn partly_new(&mut self, file: SegmentFile, file_bytes: u64) {
        self.inodes += 1;
        let bytes = self.prng.below(file_bytes) as usize;
        let part = File::zeroed(self.inodes, bytes);
        self.files.insert(file.with_kind(SegmentKind::New), part);
    }

    fn rename(&mut self, from: SegmentFile, to: SegmentFile) {
        if let Some(it) = self.files.remove(&from) {
            let before = self.files.insert(to, it);
            assert!(before.is_none(), "no segment is renamed over another");
        }
    }

    fn read_inode(
        &mut self,
        inode: Option<u64>,
        offset: u64,
        bytes: usize,
        counts: &mut Counts,
    ) -> Result<Vec<u8>, DiskFault> {
        if self.prng.chance(self.trouble.read_fails, 1_000) {
            counts.fault(Fault::ReadFails);
            return Err(DiskFault::Io);
        }
        let open = |it: &&File| Some(it.inode) == inode;
        let it = self.files.values().find(open).ok_or(DiskFault::Io)?;
        let at = offset as usize;
        let found = it.bytes.get(at..at + bytes).ok_or(DiskFault::Io)?;
        Ok(found.to_vec())
    }

    /// Starts to read a body; tells when that ends.
    pub fn begin_read(&mut self, now_us: u64, shard: usize, read: u64, at: BodyAt) -> u64 {
        let done = now_us + self.takes(100);
        let then = self.read(at.file, at.offset, at.bytes as usize);
        let body_read = BodyRead {
            at,
            inode: self.files.get(&at.file).map(|it| it.inode),
            began_us: now_us,
            then: then.unwrap_or_default(),
        };
        let before = self.reads.insert((shard, read), body_read);
        assert!(before.is_none(), "a read has a number of its own");
        done
    }

    /// A file that was removed or renamed meanwhile is still the one that was opened.
    pub fn end_read(
        &mut self,
        now_us: u64,
        shard: usize,
        read: u64,
        counts: &mut Counts,
    ) -> Result<Vec<u8>, DiskFault> {
        let Some(body_read) = self.reads.remove(&(shard, read)) else {
            panic!("a read ends once");
        };
        let BodyRead {
            at,
            inode,
            began_us,
            then,
        } = body_read;
        self.slowest_us = self.slowest_us.max(now_us - began_us);
        self.open(counts)?;
        let is_there = self.files.values().any(|it| Some(it.inode) == inode);
        if inode.is_some() && !is_there {
            return Ok(then);
        }
        self.read_inode(inode, at.offset, at.bytes as usize, counts)
    }

    /// The process is gone. What was under way has happened in part or not at all; with `power`
    /// the machine went too, and with it what was not synced.
    pub fn crash(&mut self, now_us: u64, power: bool, counts: &mut Counts) {
        for (_, flight) in core::mem::take(&mut self.flights) {
            let is_late = self.planted == Some(Planted::LateOutcomes) && is_of_outcomes(&flight.op);
            if is_late {
                continue;
            }
            self.slowest_us = self.slowest_us.max(now_us - flight.began_us);
            counts.fault(Fault::OperationCut);
            self.partly(flight.op, counts);
        }
        self.reads.clear();
        self.busy_until.clear();
        if power {
            for it in self.files.values_mut() {
                let lost = it.cut_power(&mut self.prng);
                counts.faults[Fault::SectorLost as usize] += lost;
            }
        }
    }

    /// What a start does first.
    pub fn remove_new(&mut self) {
        self.files.retain(|file, _| file.kind != SegmentKind::New);
    }

    /// What may be left of an operation that was cut short.
    fn partly(&mut self, op: DiskOp, counts: &mut Counts) {
        let whole = self.prng.chance(1, 2);
        match op {
            DiskOp::Commit {
                file,
                offset,
                bytes,
                ..
            }
            | DiskOp::Seal {
                file,
                offset,
                bytes,
                ..
            } => {
                let Some(it) = self.files.get_mut(&file) else {
                    return;
                };
                counts.fault(Fault::WriteTorn);
                it.tear(&mut self.prng, offset as usize, &bytes);
            }
            DiskOp::Prepare {
                file,
                recycle,
                header,
                file_bytes,
                ..
            } => match recycle {
                _ if whole => drop(self.prepare(file, recycle, &header, file_bytes)),
                Some(from) => {
                    if let Some(it) = self.files.get_mut(&from) {
                        it.tear(&mut self.prng, 0, &header);
                    }
                }
                None => self.partly_new(file, file_bytes),
            },
            DiskOp::Rename { from, to, .. } if whole => self.rename(from, to),
            DiskOp::Remove { file, .. } if whole => drop(self.files.remove(&file)),
            DiskOp::Rename { .. }
            | DiskOp::Remove { .. }
            | DiskOp::Sync { .. }
            | DiskOp::Read { .. } => {}
        }
    }
}

/// Every simulated message carries this header field, and a commit without it holds none.
pub const MESSAGE_MARK: &[u8] = b"X-Simulated: ";

fn is_of_outcomes(op: &DiskOp) -> bool {
    match op {
        DiskOp::Commit { bytes, .. } => memchr::memmem::find(bytes, MESSAGE_MARK).is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 16_384;

    fn run(disk: &mut Disk, op: DiskOp) -> Completion {
        let number = op.op();
        let done = disk.begin(0, 0, op);
        disk.end(done, 0, number, &mut Counts::default())
    }

    fn prepared(planted: Option<Planted>) -> (Disk, SegmentFile) {
        let mut disk = Disk::new(7, planted);
        let file = SegmentFile::live(ShardId(0), 1);
        let made = run(
            &mut disk,
            DiskOp::Prepare {
                op: OpId(1),
                file,
                recycle: None,
                header: vec![1; 512],
                file_bytes: BYTES,
            },
        );
        assert_eq!((made.result, made.buffer.len()), (Ok(()), 512));
        (disk, file)
    }

    fn commit(disk: &mut Disk, file: SegmentFile, sync: SyncScope) -> Completion {
        run(
            disk,
            DiskOp::Commit {
                op: OpId(2),
                file,
                offset: 512,
                bytes: vec![7; 4_096],
                sync,
            },
        )
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
        for (sync, planted, survives) in [
            (SyncScope::Written, None, true),
            (SyncScope::File, None, true),
            (SyncScope::Nothing, None, false),
            (SyncScope::Written, Some(Planted::LyingSync), false),
        ] {
            let (mut disk, file) = prepared(planted);
            assert_eq!(commit(&mut disk, file, sync).result, Ok(()));
            disk.crash(9, false, &mut Counts::default());
            assert_eq!(disk.read(file, 512, 4_096), Ok(vec![7; 4_096]), "killed");
            disk.crash(9, true, &mut Counts::default());
            let left = disk.read(file, 512, 4_096).expect("the file is there");
            assert_eq!(left == vec![7; 4_096], survives);
            let header = disk.read(file, 0, 512);
            assert_eq!(header, Ok(vec![1; 512]), "headers are synced with the file");
        }
    }

    #[test]
    fn a_sector_whose_sync_failed_reads_well_until_the_power_cut() {
        let (mut disk, file) = prepared(None);
        disk.trouble.sync_fails = 1_000;
        assert_eq!(
            commit(&mut disk, file, SyncScope::Written).result,
            Err(DiskFault::Io)
        );
        disk.trouble.sync_fails = 0;
        let again = DiskOp::Sync { op: OpId(3), file };
        assert_eq!(run(&mut disk, again).result, Ok(()), "the second sync lies");
        assert_eq!(disk.read(file, 512, 4_096), Ok(vec![7; 4_096]));
        disk.crash(9, true, &mut Counts::default());
        assert_ne!(disk.read(file, 512, 4_096), Ok(vec![7; 4_096]));
    }

    #[test]
    fn a_spell_strikes_its_kind_so_often_and_then_no_more() {
        for spell in Spell::ALL {
            let (mut disk, file) = prepared(None);
            disk.trouble.spell = Some(spell);
            let mut failed = 0;
            for _ in 0..5 {
                failed += u64::from(commit(&mut disk, file, SyncScope::Written).result.is_err());
            }
            assert_eq!(failed, spell.left.min(5), "{spell:?}");
            let unsynced = commit(&mut disk, file, SyncScope::Nothing).result;
            let writes_fail = !spell.syncs && spell.left > 5;
            assert_eq!(unsynced.is_err(), writes_fail, "{spell:?}");
        }
    }

    #[test]
    fn a_read_only_disk_takes_nothing_and_gives_everything() {
        let (mut disk, file) = prepared(None);
        assert_eq!(commit(&mut disk, file, SyncScope::Nothing).result, Ok(()));
        disk.trouble.read_only = true;
        assert!(commit(&mut disk, file, SyncScope::Written).result.is_err());
        let op = OpId(4);
        let to = file.with_kind(SegmentKind::Free);
        let rename = DiskOp::Rename { op, from: file, to };
        assert!(run(&mut disk, rename).result.is_err());
        assert!(run(&mut disk, DiskOp::Remove { op, file }).result.is_err());
        assert!(run(&mut disk, DiskOp::Sync { op, file }).result.is_err());
        let (offset, bytes) = (512, 4_096);
        let read = DiskOp::Read {
            op,
            file,
            offset,
            bytes,
        };
        assert_eq!(run(&mut disk, read).buffer, vec![7; 4_096]);
    }

    #[test]
    fn what_syncs_takes_as_long_as_a_sync_and_what_does_not_does_not() {
        for slow in SlowSync::ALL {
            let (mut disk, file) = prepared(None);
            disk.trouble.slow_sync = Some(slow);
            let op = OpId(5);
            let sync = disk.begin(0, 0, DiskOp::Sync { op, file });
            assert!((slow.us..slow.us + 10_000).contains(&sync), "{slow:?}");
            let mut counts = Counts::default();
            assert_eq!(disk.end(sync, 0, op, &mut counts).result, Ok(()));
            assert_eq!(counts.faults[slow.fault as usize], 1);
            let (offset, bytes) = (512, 4_096);
            let read = DiskOp::Read {
                op,
                file,
                offset,
                bytes,
            };
            assert!(disk.begin(sync, 0, read) < sync + 10_000, "{slow:?}");
        }
    }
}
