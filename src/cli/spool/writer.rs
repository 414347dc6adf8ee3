//! Puts messages into a spool as an engine does: through the same store, with the same commits,
//! each synced. Only the hands are others: one operation on the disk after the other.

use core::time::Duration;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use crate::control::management::disk_space;
use crate::log;
use crate::log::CommitId;
use crate::log::Completion;
use crate::log::DiskOp;
use crate::log::Fault;
use crate::log::SegmentFile;
use crate::log::SegmentKind;
use crate::log::SyncScope;
use crate::log::folder_name;
use crate::shard::clock::Clock;
use crate::spool;
use crate::spool::Completed;
use crate::spool::Home;
use crate::spool::Refused;
use crate::spool::Spool;
use crate::types::id::BatchId;
use crate::types::id::ShardId;
use crate::types::message::Content;
use crate::types::message::Recipient;

/// A commit that has not ended by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The disk decides how many segments there are.
const SEGMENTS_MAX: u32 = 1_000_000;

/// What is the same for all shards of an import.
#[derive(Clone, Debug)]
pub struct Settings {
    pub base: PathBuf,
    pub spool_id: u64,
    pub start: u32,
    pub shards: u16,
    pub segment_bytes: u64,
    /// Permission bits of new segments.
    pub mode: u32,
    /// Bytes to be left free on the disk.
    pub keep_free: u64,
}

/// The home of one shard, open for writing.
pub struct Store {
    settings: Settings,
    shard: ShardId,
    clock: Clock,
    spool: Spool,
    hands: Hands,
    stored: u32,
    durable: BTreeSet<CommitId>,
    failed: bool,
}

impl Store {
    pub fn new(settings: &Settings, home: &mut Home) -> Store {
        let shard = home.shard;
        let (id, start) = (settings.spool_id, settings.start);
        let mut log = log::Config::new(id, shard, start, settings.shards);
        log.segment_bytes = settings.segment_bytes;
        let segments_max = SEGMENTS_MAX;
        Store {
            settings: settings.clone(),
            shard,
            clock: Clock::start(),
            spool: Spool::whole(spool::Config { log, segments_max }, home),
            hands: Hands {
                base: settings.base.clone(),
                mode: settings.mode,
                error: None,
            },
            stored: 0,
            durable: BTreeSet::new(),
            failed: false,
        }
    }

    /// The id of the message that is stored next but `ahead`.
    pub fn id(&self, ahead: usize) -> BatchId {
        let number = self.stored + 1 + ahead as u32;
        BatchId::new(self.settings.start, self.shard, number)
    }

    pub fn is_used(&self) -> bool {
        self.stored > 0
    }

    /// Puts a message under its id into the gathering commit, and names that.
    pub fn put(&mut self, content: &Content, to: &[Recipient]) -> Result<CommitId, Refused> {
        if let Some((free, _)) = disk_space(&self.settings.base) {
            let keep = self.settings.keep_free;
            self.spool.set_space(log::Space { free, keep });
        }
        let stored = self.spool.store(content, to)?;
        self.stored += 1;
        Ok(stored.commit)
    }

    /// Brings to disk what was put. Tells by [`Self::is_durable`] what got there.
    pub fn commit(&mut self, wanted: &BTreeSet<CommitId>) {
        let now = self.clock.now();
        self.spool.flush(now);
        let until = now.mono + PATIENCE;
        while !self.failed && !wanted.is_subset(&self.durable) && self.clock.now().mono < until {
            self.step();
        }
    }

    pub fn is_durable(&self, commit: CommitId) -> bool {
        self.durable.contains(&commit)
    }

    /// What the disk has said last when it failed.
    pub fn error(&self) -> Option<&io::Error> {
        self.hands.error.as_ref()
    }

    /// Ends what is under way in the background. What is not finished then, a start finishes.
    pub fn finish(&mut self) -> bool {
        self.spool.flush(self.clock.now());
        let until = self.clock.now().mono + PATIENCE;
        while !self.failed && self.clock.now().mono < until {
            if !self.step() && self.spool.is_idle() {
                return true;
            }
        }
        false
    }

    /// One operation; false, after a short wait, if there is none.
    fn step(&mut self) -> bool {
        let Some(op) = self.spool.poll(self.clock.now()) else {
            if !self.spool.is_idle() {
                std::thread::sleep(LOOK_EVERY);
            }
            return false;
        };
        let completion = self.hands.perform(op);
        match self.spool.completed(self.clock.now(), completion) {
            Completed::Durable(durable) => {
                self.durable.insert(durable.commit());
            }
            Completed::Failed(_) => self.failed = true,
            Completed::Nothing | Completed::Unreadable(_) => {}
        }
        self.failed |= self.spool.stats().log.stopped.is_some();
        true
    }
}

/// Carries out operations on the disk, as `DiskOp` says what each has to be.
struct Hands {
    base: PathBuf,
    mode: u32,
    error: Option<io::Error>,
}

impl Hands {
    fn perform(&mut self, op: DiskOp) -> Completion {
        let id = op.op();
        let (result, buffer) = self.carry_out(op);
        let result = result.map_err(|error| {
            let fault = match error.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => Fault::NoSpace,
                _ => Fault::Io,
            };
            self.error = Some(error);
            fault
        });
        Completion {
            op: id,
            result,
            buffer,
        }
    }

    fn carry_out(&self, op: DiskOp) -> (io::Result<()>, Vec<u8>) {
        match op {
            DiskOp::Commit {
                file,
                offset,
                bytes,
                sync,
                ..
            } => (self.write(file, offset, &bytes, sync), bytes),
            DiskOp::Seal {
                file,
                offset,
                bytes,
                ..
            } => (self.write(file, offset, &bytes, SyncScope::File), bytes),
            DiskOp::Sync { file, .. } => {
                let synced = self.open(file).and_then(|it| it.sync_data());
                (synced, Vec::new())
            }
            DiskOp::Prepare {
                file,
                recycle,
                header,
                file_bytes,
                ..
            } => (self.prepare(file, recycle, &header, file_bytes), header),
            DiskOp::Rename { from, to, .. } => {
                let target = self.path(to);
                let renamed = if_there(fs::rename(self.path(from), &target));
                (renamed.and_then(|()| sync_parent(&target)), Vec::new())
            }
            DiskOp::Remove { file, .. } => {
                let path = self.path(file);
                let removed = remove_if_there(&path);
                (removed.and_then(|()| sync_parent(&path)), Vec::new())
            }
            DiskOp::Read {
                file,
                offset,
                bytes,
                ..
            } => {
                let mut buffer = vec![0; bytes as usize];
                let opened = self.open(file);
                let read = opened.and_then(|it| it.read_exact_at(&mut buffer, offset));
                (read, buffer)
            }
        }
    }

    fn path(&self, file: SegmentFile) -> PathBuf {
        let folder = self.base.join(folder_name(file.shard));
        folder.join(file.file_name())
    }

    fn open(&self, file: SegmentFile) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(self.path(file))
    }

    fn write(
        &self,
        file: SegmentFile,
        offset: u64,
        bytes: &[u8],
        sync: SyncScope,
    ) -> io::Result<()> {
        let opened = self.open(file)?;
        opened.write_all_at(bytes, offset)?;
        match sync {
            SyncScope::Nothing => Ok(()),
            SyncScope::Written | SyncScope::File => opened.sync_data(),
        }
    }

    fn prepare(
        &self,
        file: SegmentFile,
        recycle: Option<SegmentFile>,
        header: &[u8],
        file_bytes: u64,
    ) -> io::Result<()> {
        let target = self.path(file);
        let from = match recycle {
            Some(old) => self.path(old),
            None => {
                let path = self.path(file.with_kind(SegmentKind::New));
                let made = self.fill(&path, file_bytes);
                // Half a segment would take the room that others need, for nothing.
                made.inspect_err(|_| drop(remove_if_there(&path)))?;
                path
            }
        };
        let opened = OpenOptions::new().read(true).write(true).open(&from)?;
        opened.write_all_at(header, 0)?;
        opened.sync_all()?;
        if from != target {
            fs::rename(&from, &target)?;
        }
        sync_parent(&target)
    }

    fn fill(&self, path: &Path, file_bytes: u64) -> io::Result<()> {
        remove_if_there(path)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(self.mode);
        let mut file = options.open(path)?;
        io::copy(&mut io::repeat(0).take(file_bytes), &mut file)?;
        file.sync_all()
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    if_there(fs::remove_file(path))
}

/// What is done to a file that is not there has been done.
fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
