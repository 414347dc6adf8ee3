//! A disk for tests: it forgets what was not synced, tears writes between sectors, and fails when
//! told to. What a process reads and what survives a power cut are kept apart.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::base::prng::Prng;
use crate::log::Completion;
use crate::log::DiskOp;
use crate::log::Fault;
use crate::log::SegmentFile;
use crate::log::SegmentKind;
use crate::log::SyncScope;
use crate::types::id::ShardId;

const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
struct File {
    /// What reads see.
    cache: Vec<u8>,
    /// What a power cut leaves.
    disk: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl File {
    fn zeroed(bytes: usize) -> File {
        File {
            cache: vec![0; bytes],
            disk: vec![0; bytes],
            dirty: BTreeSet::new(),
        }
    }

    fn write_sector(&mut self, sector: usize, at: usize, bytes: &[u8]) {
        let from = at.max(sector * SECTOR);
        let to = (at + bytes.len()).min((sector + 1) * SECTOR);
        self.cache[from..to].copy_from_slice(&bytes[from - at..to - at]);
        self.dirty.insert(sector);
    }

    fn sectors(at: usize, bytes: &[u8]) -> core::ops::Range<usize> {
        at / SECTOR..(at + bytes.len()).div_ceil(SECTOR)
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(
            at + bytes.len() <= self.cache.len(),
            "a write stays inside its file"
        );
        for sector in File::sectors(at, bytes) {
            self.write_sector(sector, at, bytes);
        }
    }

    /// A write of which only some sectors happen.
    fn tear(&mut self, prng: &mut Prng, at: usize, bytes: &[u8]) {
        let prefix = prng.chance(1, 2);
        let limit = prng.below(File::sectors(at, bytes).len() as u64 + 1) as usize;
        for (index, sector) in File::sectors(at, bytes).enumerate() {
            if if prefix {
                index < limit
            } else {
                prng.chance(1, 2)
            } {
                self.write_sector(sector, at, bytes);
            }
        }
    }

    fn persist(&mut self, sector: usize) {
        let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.cache.len());
        self.disk[range.clone()].copy_from_slice(&self.cache[range]);
    }

    fn sync_written(&mut self, at: usize, bytes: &[u8]) {
        for sector in File::sectors(at, bytes) {
            if self.dirty.remove(&sector) {
                self.persist(sector);
            }
        }
    }

    fn sync(&mut self) {
        for sector in core::mem::take(&mut self.dirty) {
            self.persist(sector);
        }
    }

    /// As after a failed sync: pages count as clean, and some never got to disk.
    fn persist_some(&mut self, prng: &mut Prng) {
        for sector in core::mem::take(&mut self.dirty) {
            if prng.chance(1, 2) {
                self.persist(sector);
            }
        }
    }
}

/// How often which operation fails, in parts of 1000.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub write: u64,
    pub sync: u64,
    pub no_space: u64,
    pub read: u64,
}

#[derive(Debug)]
pub(crate) struct TestDisk {
    files: BTreeMap<SegmentFile, File>,
    pub(crate) prng: Prng,
    pub(crate) faults: Faults,
    /// The operation with this number fails, whatever it is; counted down.
    pub(crate) fail_in: Option<u64>,
    pub(crate) ops: u64,
    pub(crate) failed: u64,
}

impl TestDisk {
    pub(crate) fn new(seed: u64) -> TestDisk {
        let prng = Prng::stream(seed, "disk");
        let (files, faults) = (BTreeMap::new(), Faults::default());
        TestDisk {
            files,
            prng,
            faults,
            fail_in: None,
            ops: 0,
            failed: 0,
        }
    }

    pub(crate) fn folders(&self) -> BTreeSet<ShardId> {
        self.files.keys().map(|file| file.shard).collect()
    }

    pub(crate) fn list(&self, shard: ShardId) -> Vec<(SegmentFile, u64)> {
        let mine = self.files.iter().filter(|(file, _)| file.shard == shard);
        mine.map(|(file, it)| (*file, it.cache.len() as u64))
            .collect()
    }

    pub(crate) fn bytes(&mut self, file: SegmentFile) -> &mut Vec<u8> {
        &mut self.files.get_mut(&file).expect("a file").cache
    }

    pub(crate) fn read(&self, file: SegmentFile, at: u64, bytes: usize) -> Result<Vec<u8>, Fault> {
        let cache = &self.files.get(&file).ok_or(Fault::Io)?.cache;
        cache
            .get(at as usize..at as usize + bytes)
            .map(<[u8]>::to_vec)
            .ok_or(Fault::Io)
    }

    fn draw(&mut self) -> Option<Fault> {
        self.ops += 1;
        if let Some(left) = &mut self.fail_in {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.fail_in = None;
                return Some(Fault::Io);
            }
        }
        if self.prng.chance(self.faults.no_space, 1_000) {
            return Some(Fault::NoSpace);
        }
        self.prng
            .chance(self.faults.write, 1_000)
            .then_some(Fault::Io)
    }

    /// Carries an operation out, or fails as the faults say.
    pub(crate) fn run(&mut self, op: DiskOp) -> Completion {
        let number = op.op();
        let sync_fails = self.prng.chance(self.faults.sync, 1_000);
        let read_fails = self.prng.chance(self.faults.read, 1_000);
        let result = match (self.draw(), &op) {
            (Some(fault), _) => {
                self.partly(&op, true);
                Err(fault)
            }
            (None, DiskOp::Read { .. }) if read_fails => Err(Fault::Io),
            (None, _) => self.apply(&op, sync_fails),
        };
        self.failed += u64::from(result.is_err());
        let buffer = match op {
            DiskOp::Commit { bytes, .. } | DiskOp::Seal { bytes, .. } => bytes,
            DiskOp::Prepare { header, .. } => header,
            DiskOp::Read {
                file,
                offset,
                bytes,
                ..
            } if result.is_ok() => self.read(file, offset, bytes as usize).unwrap_or_default(),
            _ => Vec::new(),
        };
        Completion {
            op: number,
            result,
            buffer,
        }
    }

    fn apply(&mut self, op: &DiskOp, sync_fails: bool) -> Result<(), Fault> {
        match op {
            DiskOp::Commit {
                file,
                offset,
                bytes,
                sync,
                ..
            } => {
                let it = self
                    .files
                    .get_mut(file)
                    .expect("commits go to files that exist");
                it.write(*offset as usize, bytes);
                if *sync != SyncScope::Nothing && sync_fails {
                    it.persist_some(&mut self.prng);
                    return Err(Fault::Io);
                }
                match sync {
                    SyncScope::Nothing => {}
                    SyncScope::Written => it.sync_written(*offset as usize, bytes),
                    SyncScope::File => it.sync(),
                }
            }
            DiskOp::Seal {
                file,
                offset,
                bytes,
                ..
            } => {
                let it = self.files.get_mut(file).expect("a sealed file exists");
                it.write(*offset as usize, bytes);
                it.sync();
            }
            DiskOp::Prepare {
                file,
                recycle,
                header,
                file_bytes,
                ..
            } => self.prepare(*file, *recycle, header, *file_bytes),
            DiskOp::Sync { file, .. } => {
                self.files
                    .get_mut(file)
                    .expect("a synced file exists")
                    .sync();
            }
            DiskOp::Rename { from, to, .. } => {
                if let Some(it) = self.files.remove(from) {
                    self.files.insert(*to, it);
                }
            }
            DiskOp::Remove { file, .. } => {
                self.files.remove(file);
            }
            DiskOp::Read {
                file,
                offset,
                bytes,
                ..
            } => return self.read(*file, *offset, *bytes as usize).map(|_| ()),
        }
        Ok(())
    }

    fn prepare(
        &mut self,
        file: SegmentFile,
        recycle: Option<SegmentFile>,
        header: &[u8],
        file_bytes: u64,
    ) {
        let mut it = match recycle {
            Some(from) => self.files.remove(&from).expect("a free file exists"),
            None => File::zeroed(file_bytes as usize),
        };
        assert_eq!(
            it.cache.len() as u64,
            file_bytes,
            "a recycled file has the size asked for"
        );
        it.write(0, header);
        it.sync();
        self.files.remove(&file.with_kind(SegmentKind::New));
        self.files.insert(file, it);
    }

    /// What may be left of an operation that failed, or was cut short by a crash. After a failure
    /// pages count as clean although they never got to disk.
    pub(crate) fn partly(&mut self, op: &DiskOp, failed: bool) {
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
                if let Some(it) = self.files.get_mut(file) {
                    it.tear(&mut self.prng, *offset as usize, bytes);
                    if failed {
                        it.persist_some(&mut self.prng);
                    }
                }
            }
            DiskOp::Prepare {
                file,
                recycle: Some(from),
                header,
                file_bytes,
                ..
            } => {
                if self.prng.chance(1, 2) {
                    self.prepare(*file, Some(*from), header, *file_bytes);
                } else if let Some(it) = self.files.get_mut(from) {
                    it.tear(&mut self.prng, 0, header);
                }
            }
            DiskOp::Prepare {
                file,
                recycle: None,
                header,
                file_bytes,
                ..
            } => {
                if self.prng.chance(1, 2) {
                    self.prepare(*file, None, header, *file_bytes);
                } else {
                    let half = File::zeroed(*file_bytes as usize / 2);
                    self.files.insert(file.with_kind(SegmentKind::New), half);
                }
            }
            DiskOp::Rename { from, to, .. } if self.prng.chance(1, 2) => {
                if let Some(it) = self.files.remove(from) {
                    self.files.insert(*to, it);
                }
            }
            DiskOp::Remove { file, .. } if self.prng.chance(1, 2) => {
                self.files.remove(file);
            }
            DiskOp::Sync { file, .. } => {
                if let Some(it) = self.files.get_mut(file).filter(|_| failed) {
                    it.persist_some(&mut self.prng);
                }
            }
            DiskOp::Rename { .. } | DiskOp::Remove { .. } | DiskOp::Read { .. } => {}
        }
    }

    /// Everything that was not synced is lost, or not, sector by sector.
    pub(crate) fn cut_power(&mut self) {
        for it in self.files.values_mut() {
            it.persist_some(&mut self.prng);
            it.cache.clone_from(&it.disk);
        }
        self.remove_new();
    }

    /// What a start does first.
    pub(crate) fn remove_new(&mut self) {
        self.files.retain(|file, _| file.kind != SegmentKind::New);
    }
}
