//! L3: the event log of one shard. Events become lines the moment they are known, wait until the
//! spool commit that makes them true is durable, and go to files of JSON lines in order. Nothing
//! here opens a file: [`Hose::poll`] says what is to be done, [`Hose::completed`] is told the end.
//!
//! Invariants: a line is written after its commit, never before. Lines leave memory only when they
//! have been synced; whatever a failed write or sync left in doubt is written again, with the same
//! `event_id`, to a new file, and the old file is cut back to what had been synced. Lines that a
//! full backlog cannot take are counted and reported. At most one operation is in flight.

mod event;
mod files;
mod json;
mod reason;

#[cfg(test)]
mod tests;

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::time::Mono;
use crate::base::time::Now;
use crate::base::time::Wall;
use crate::types::id::ShardId;
use crate::types::outcome::Outcome;

pub use event::AdaptiveFacts;
pub use event::EventFacts;
pub use event::RejectionFacts;
pub use files::FileName;
pub use files::whole_lines;
pub use json::LINE_BYTES_MAX;

/// What of the end of each file the hose wants to see at a start, to find a torn last line. More
/// than one line, so that a whole one is in it unless the disk left a gap.
pub const TAIL_BYTES_MAX: usize = 2 * LINE_BYTES_MAX;

/// Files of one shard; beyond it the oldest goes although it is neither old nor large.
pub const FILES_MAX: usize = 10_000;

/// Unsynced bytes that bring the next sync forward.
const UNSYNCED_BYTES_MAX: usize = 8 << 20;

/// Attempts at cutting a file that a failed write has left behind; readers tell a line that is
/// there twice by its `event_id`.
const MEND_ATTEMPTS_MAX: u32 = 5;

/// Notices kept until somebody takes them; the newest is dropped when full.
const NOTICES_MAX: usize = 16;

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Buffers of staged lines kept for reuse, and the size up to which one is kept.
const SPARE_BUFFERS_MAX: usize = 8;
const SPARE_BUFFER_BYTES_MAX: usize = 1 << 20;

/// Limits and times of the event log of one shard. Sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// A file that would grow beyond this is closed and a new one begun.
    pub max_file_bytes: u64,
    /// All files of the shard together: the oldest is removed when there is more.
    pub max_total_bytes: u64,
    /// A file whose last event is older is removed.
    pub retention: Duration,
    /// Lines wait at most this long for others to share their write.
    pub gather: Duration,
    /// As many bytes are written at once without waiting.
    pub gather_bytes: usize,
    /// Written lines are synced after at most this long.
    pub sync_interval: Duration,
    /// Lines in memory, for want of their commit or of a disk; further ones are dropped and
    /// counted.
    pub backlog_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            max_file_bytes: 256 << 20,
            max_total_bytes: 8 << 30,
            retention: Duration::from_secs(10 * 86_400),
            gather: Duration::from_millis(100),
            gather_bytes: 256 << 10,
            sync_interval: Duration::from_secs(1),
            backlog_bytes_max: 64 << 20,
        }
    }
}

/// A file in the folder at the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileFound {
    pub name: String,
    pub size: u64,
    pub modified: Wall,
    /// The last [`TAIL_BYTES_MAX`] bytes of it, or all if it has fewer.
    pub tail: Vec<u8>,
}

/// What is to be done to a file in the folder of the event log. Each is answered once by
/// [`Hose::completed`]; on failure, and a short write is one, nothing is tried again by the taker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HoseOp {
    /// Write all of `bytes` at `offset`. At offset 0 the file is new: create it, fail if it exists.
    /// Elsewhere it exists, and may be one that this process has not opened yet.
    Write {
        op: u64,
        file: String,
        offset: u64,
        bytes: Arc<Vec<u8>>,
    },
    /// Make what was written durable. With `first`, the folder too. With `last`, no write follows:
    /// close the file.
    Sync {
        op: u64,
        file: String,
        first: bool,
        last: bool,
    },
    /// Close the file if it is open, cut it to `size` bytes and sync it. A file that is not there
    /// counts as done.
    Cut { op: u64, file: String, size: u64 },
    /// Close the file if it is open and remove it. A file that is not there counts as done.
    Remove { op: u64, file: String },
}

impl HoseOp {
    pub fn op(&self) -> u64 {
        match self {
            HoseOp::Write { op, .. } | HoseOp::Sync { op, .. } => *op,
            HoseOp::Cut { op, .. } | HoseOp::Remove { op, .. } => *op,
        }
    }
}

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    NoSpace,
    /// Fewer bytes were written than given.
    Short,
    /// An errno.
    Failed(i32),
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Fault::NoSpace => f.write_str("no space left"),
            Fault::Short => f.write_str("written in part"),
            Fault::Failed(errno) => {
                write!(f, "{}", std::io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

/// How the event log of one shard stands. Totals count since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HoseStats {
    /// Events that are durable in the event log.
    pub events_written: u64,
    /// Events that a full backlog could not take.
    pub events_lost: u64,
    pub bytes_written: u64,
    pub failures: u64,
    /// Bytes released or written and not yet synced.
    pub backlog_bytes: u64,
    pub files: u64,
    pub file_bytes: u64,
    /// The last write or sync failed.
    pub failing: bool,
}

/// Lines of events that one spool commit makes true.
struct Staged {
    commit: u64,
    lines: Vec<u8>,
    count: u64,
}

/// Lines that go to the disk together.
struct Chunk {
    /// Shared with the write under way.
    lines: Arc<Vec<u8>>,
    count: u64,
    /// Once this and all before it is durable, so are the events of all commits up to this one.
    upto: u64,
}

/// The file that is written to.
struct Current {
    name: String,
    day: u64,
    written: u64,
    synced: u64,
    last_write: Wall,
    /// The first write since the last sync.
    dirty_since: Option<Mono>,
    closing: bool,
}

struct OldFile {
    name: FileName,
    size: u64,
    modified: Wall,
}

/// A file whose end is not as it should be.
struct Mend {
    file: String,
    repair: Repair,
    attempts: u32,
    not_before: Mono,
}

enum Repair {
    Cut(u64),
    /// No line end within the tail that is known: end the line, readers pass over it.
    EndLine(u64),
    Remove,
}

enum InFlight {
    Write(Chunk),
    Sync,
    Mend(Mend),
    Remove,
}

/// The event log of one shard.
pub struct Hose {
    settings: Settings,
    shard: ShardId,
    writer: event::Writer,
    /// Ascending by commit.
    staged: VecDeque<Staged>,
    spare: Vec<Vec<u8>>,
    /// Released lines, oldest first; the last one still grows.
    gathered: VecDeque<Chunk>,
    gathered_since: Option<Mono>,
    /// Written to the current file and not yet synced, oldest first.
    unsynced: VecDeque<Chunk>,
    staged_bytes: usize,
    /// Released lines that are not durable here yet.
    backlog_bytes: usize,
    released: u64,
    durable: u64,
    current: Option<Current>,
    /// Oldest first.
    old: VecDeque<OldFile>,
    old_bytes: u64,
    mends: VecDeque<Mend>,
    in_flight: Option<(u64, InFlight)>,
    next_op: u64,
    next_number: u32,
    retry: Option<(Mono, Duration)>,
    remove_not_before: Mono,
    flushing: bool,
    losing: bool,
    now: Now,
    stats: HoseStats,
    notices: Vec<String>,
}

impl Hose {
    /// `existing` are the files in the folder that are this shard's to keep: those of its number,
    /// and for one shard also those of numbers that no longer run.
    pub fn new(settings: Settings, shard: ShardId, existing: Vec<FileFound>) -> Hose {
        let mut hose = Hose {
            settings,
            shard,
            writer: event::Writer::default(),
            staged: VecDeque::new(),
            spare: Vec::new(),
            gathered: VecDeque::new(),
            gathered_since: None,
            unsynced: VecDeque::new(),
            staged_bytes: 0,
            backlog_bytes: 0,
            released: 0,
            durable: 0,
            current: None,
            old: VecDeque::new(),
            old_bytes: 0,
            mends: VecDeque::new(),
            in_flight: None,
            next_op: 0,
            next_number: 0,
            retry: None,
            remove_not_before: Mono(0),
            flushing: false,
            losing: false,
            now: Now::default(),
            stats: HoseStats::default(),
            notices: Vec::new(),
        };
        hose.adopt(existing);
        hose
    }

    fn adopt(&mut self, existing: Vec<FileFound>) {
        let mut found: Vec<(FileName, FileFound)> = existing
            .into_iter()
            .filter_map(|file| Some((FileName::parse(&file.name)?, file)))
            .collect();
        found.sort_by(|(a, _), (b, _)| a.age_key().cmp(&b.age_key()));
        for (name, file) in found {
            if name.shard == self.shard {
                self.next_number = self.next_number.max(name.number.wrapping_add(1));
            }
            let torn = (file.tail.len() - whole_lines(&file.tail)) as u64;
            let all_seen = file.tail.len() as u64 >= file.size;
            let repair = match torn {
                0 => None,
                _ if whole_lines(&file.tail) > 0 || all_seen => {
                    Some(Repair::Cut(file.size.saturating_sub(torn)))
                }
                _ => Some(Repair::EndLine(file.size)),
            };
            self.mends.extend(repair.map(|repair| Mend {
                file: file.name.clone(),
                repair,
                attempts: 0,
                not_before: Mono(0),
            }));
            self.old_bytes += file.size;
            self.old.push_back(OldFile {
                name,
                size: file.size,
                modified: file.modified,
            });
        }
    }

    /// Stages the injection event of one recipient under the commit that makes it durable.
    pub fn injection(&mut self, commit: u64, facts: &EventFacts<'_>) {
        self.stage(commit, |writer, out| writer.injection(out, facts));
    }

    /// Stages the event of an outcome: delivery, delay or bounce. The `event_id` is a function of
    /// the message and the attempt, so that an event that is written again after a crash has the
    /// same one. A commit that has been released already puts it on its way at once.
    pub fn outcome(
        &mut self,
        commit: u64,
        facts: &EventFacts<'_>,
        outcome: &Outcome,
        bounce_class: u16,
    ) {
        self.stage(commit, |writer, out| {
            writer.outcome(out, facts, outcome, bounce_class)
        });
    }

    /// A refusal at reception. It needs no commit: nothing was promised.
    pub fn rejection(&mut self, facts: &RejectionFacts<'_>) {
        let shard = self.shard;
        self.stage(self.released, |writer, out| {
            writer.rejection(out, shard, facts)
        });
    }

    /// A change of a limit, which needs no commit either.
    pub fn adaptive(&mut self, facts: &AdaptiveFacts<'_>) {
        let shard = self.shard;
        self.stage(self.released, |writer, out| {
            writer.adaptive(out, shard, facts)
        });
    }

    fn stage(&mut self, commit: u64, write: impl FnOnce(&mut event::Writer, &mut Vec<u8>)) {
        if self.staged_bytes + self.backlog_bytes >= self.settings.backlog_bytes_max {
            return self.lose();
        }
        if commit <= self.released {
            let mut lines = self.spare.pop().unwrap_or_default();
            write(&mut self.writer, &mut lines);
            return self.gather(lines, 1);
        }
        // Commits come in order, so the place is the last one or the end.
        let place = self
            .staged
            .iter()
            .rposition(|staged| staged.commit <= commit);
        let at = match place {
            Some(at) if self.staged[at].commit == commit => at,
            _ => {
                let at = place.map_or(0, |before| before + 1);
                let lines = self.spare.pop().unwrap_or_default();
                self.staged.insert(
                    at,
                    Staged {
                        commit,
                        lines,
                        count: 0,
                    },
                );
                at
            }
        };
        let staged = &mut self.staged[at];
        let before = staged.lines.len();
        write(&mut self.writer, &mut staged.lines);
        staged.count += 1;
        self.staged_bytes += staged.lines.len() - before;
    }

    fn lose(&mut self) {
        self.stats.events_lost += 1;
        if !core::mem::replace(&mut self.losing, true) {
            let kept = self.settings.backlog_bytes_max;
            self.notice(format!(
                "event log: the disk is behind and {kept} bytes of events wait in memory, which \
                 is the limit; further events are counted and not kept"
            ));
        }
    }

    /// All commits up to this one are durable: their lines may be written. Call [`Self::poll`]
    /// afterwards.
    pub fn release(&mut self, upto_commit: u64) {
        self.released = self.released.max(upto_commit);
        while self
            .staged
            .front()
            .is_some_and(|staged| staged.commit <= self.released)
        {
            if let Some(staged) = self.staged.pop_front() {
                self.staged_bytes -= staged.lines.len();
                self.gather(staged.lines, staged.count);
            }
        }
        if let Some(newest) = self.gathered.back_mut() {
            newest.upto = self.released;
        }
    }

    /// The last commit that was released: what is staged under it is written at once.
    pub fn released(&self) -> u64 {
        self.released
    }

    /// That commit failed: what it would have made true is not.
    pub fn discard(&mut self, commit: u64) {
        self.staged.retain(|staged| staged.commit != commit);
        self.staged_bytes = self.staged.iter().map(|staged| staged.lines.len()).sum();
    }

    fn gather(&mut self, mut lines: Vec<u8>, count: u64) {
        self.backlog_bytes += lines.len();
        let upto = self.released;
        match self.gathered.back_mut() {
            Some(chunk) if chunk.lines.len() < self.settings.gather_bytes => {
                Arc::make_mut(&mut chunk.lines).append(&mut lines);
                chunk.count += count;
                self.recycle(lines);
            }
            _ => self.gathered.push_back(Chunk {
                lines: Arc::new(lines),
                count,
                upto,
            }),
        }
    }

    fn recycle(&mut self, mut lines: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX && lines.capacity() <= SPARE_BUFFER_BYTES_MAX {
            lines.clear();
            self.spare.push(lines);
        }
    }

    /// The spool commit up to which every event is durable in the event log. Events staged under a
    /// commit that was released already are not told apart by it, see [`Self::is_flushed`].
    pub fn durable_upto(&self) -> u64 {
        if self.backlog_bytes == 0 {
            self.released
        } else {
            self.durable
        }
    }

    /// Writes and syncs what is released without waiting for more; for a shutdown.
    pub fn flush(&mut self) {
        self.flushing = self.backlog_bytes > 0;
    }

    /// Nothing released waits for the disk.
    pub fn is_flushed(&self) -> bool {
        self.backlog_bytes == 0
    }

    pub fn stats(&self) -> HoseStats {
        let current = self.current.as_ref();

        HoseStats {
            backlog_bytes: self.backlog_bytes as u64,
            files: self.old.len() as u64 + u64::from(current.is_some()),
            file_bytes: self.old_bytes + current.map_or(0, |file| file.written),
            failing: self.retry.is_some(),
            ..self.stats
        }
    }

    /// What an operator should read, oldest first.
    pub fn take_notices(&mut self) -> Vec<String> {
        core::mem::take(&mut self.notices)
    }

    fn notice(&mut self, text: String) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(text);
        }
    }

    /// When [`Self::poll`] will have something to do if nothing else happens before. True after a
    /// poll; nothing while an operation is in flight, since its end is what comes next.
    pub fn next_wakeup(&self) -> Option<Mono> {
        if self.in_flight.is_some() {
            return None;
        }
        let mended = self.mends.iter().map(|mend| mend.not_before);
        let (sync, write) = match self.retry {
            Some((at, _)) if at > self.now.mono => (None, Some(at)),
            _ => (self.sync_due(), self.write_due()),
        };
        let removal = self
            .removal_due()
            .map(|due| due.max(self.remove_not_before));
        mended.chain(sync).chain(write).chain(removal).min()
    }

    /// What is to be done now, if anything.
    pub fn poll(&mut self, now: Now) -> Option<HoseOp> {
        self.now = now;
        if self.in_flight.is_some() {
            return None;
        }
        if self.gathered_since.is_none() && !self.gathered.is_empty() {
            self.gathered_since = Some(now.mono);
        }
        let waits = self.retry.is_some_and(|(at, _)| now.mono < at);
        if let Some(op) = self.poll_mend() {
            return Some(op);
        }
        if !waits {
            if self.sync_due().is_some_and(|due| due <= now.mono) {
                return self.sync();
            }
            if self.write_due().is_some_and(|due| due <= now.mono) {
                return self.write();
            }
        }
        self.poll_removal()
    }

    fn begin(&mut self, what: InFlight) -> u64 {
        self.next_op += 1;
        self.in_flight = Some((self.next_op, what));
        self.next_op
    }

    fn sync_due(&self) -> Option<Mono> {
        let current = self.current.as_ref()?;
        let unsynced = current.written - current.synced;
        if current.closing || (self.flushing && self.gathered.is_empty() && unsynced > 0) {
            return Some(self.now.mono);
        }
        let dirty_since = current.dirty_since?;
        let soon = unsynced >= UNSYNCED_BYTES_MAX as u64;
        Some(if soon {
            self.now.mono
        } else {
            dirty_since + self.settings.sync_interval
        })
    }

    fn sync(&mut self) -> Option<HoseOp> {
        let current = self.current.as_ref()?;
        let (file, first, last) = (current.name.clone(), current.synced == 0, current.closing);
        let op = self.begin(InFlight::Sync);
        Some(HoseOp::Sync {
            op,
            file,
            first,
            last,
        })
    }

    fn write_due(&self) -> Option<Mono> {
        let chunk = self.gathered.front()?;
        let since = self.gathered_since.unwrap_or(self.now.mono);
        let full = chunk.lines.len() >= self.settings.gather_bytes || self.flushing;

        Some(if full {
            self.now.mono
        } else {
            since + self.settings.gather
        })
    }

    fn write(&mut self) -> Option<HoseOp> {
        let bytes = self.gathered.front()?.lines.len() as u64;
        let day = self.now.wall.secs() / 86_400;
        if let Some(current) = &mut self.current {
            let full = current.written + bytes > self.settings.max_file_bytes;
            if full || current.day != day {
                current.closing = true;
                return self.sync();
            }
        }
        let chunk = self.gathered.pop_front()?;
        self.gathered_since = (!self.gathered.is_empty()).then_some(self.now.mono);
        let (shard, number, at) = (self.shard, &mut self.next_number, self.now.wall);
        let current = self.current.get_or_insert_with(|| {
            let name = FileName::new(shard, at, *number).to_string();
            *number = number.wrapping_add(1);
            Current {
                name,
                day,
                written: 0,
                synced: 0,
                last_write: at,
                dirty_since: None,
                closing: false,
            }
        });
        let (file, offset, bytes) = (current.name.clone(), current.written, chunk.lines.clone());
        let op = self.begin(InFlight::Write(chunk));
        Some(HoseOp::Write {
            op,
            file,
            offset,
            bytes,
        })
    }

    /// Tells the end of the operation in flight; [`Self::poll`] gives the next.
    ///
    /// # Panics
    /// If `op` is not the one in flight.
    pub fn completed(&mut self, now: Now, op: u64, result: Result<(), Fault>) {
        self.now = now;
        let (expected, what) = self.in_flight.take().expect("an operation was in flight");
        assert_eq!(op, expected, "operations complete in the order given");
        match (what, result) {
            (InFlight::Write(chunk), Ok(())) => self.written(chunk),
            (InFlight::Write(chunk), Err(fault)) => {
                self.unsynced.push_back(chunk);
                self.failed("writing to", fault);
            }
            (InFlight::Sync, Ok(())) => self.synced(),
            (InFlight::Sync, Err(fault)) => self.failed("syncing", fault),
            (InFlight::Mend(mend), Ok(())) => self.mended(mend),
            (InFlight::Mend(mend), Err(fault)) => self.not_mended(mend, fault),
            (InFlight::Remove, Ok(())) => self.removed(),
            (InFlight::Remove, Err(fault)) => {
                self.stats.failures += 1;
                self.remove_not_before = now.mono + RETRY_MAX;
                let name = self
                    .old
                    .front()
                    .map(|file| file.name.to_string())
                    .unwrap_or_default();
                self.notice(format!(
                    "event log: removing {name}: {fault}; tried again later"
                ));
            }
        }
    }

    fn removed(&mut self) {
        if let Some(file) = self.old.pop_front() {
            self.old_bytes -= file.size;
            let name = file.name.to_string();
            self.mends.retain(|mend| mend.file != name);
        }
    }

    fn written(&mut self, chunk: Chunk) {
        if let Some(current) = &mut self.current {
            current.written += chunk.lines.len() as u64;
            current.last_write = self.now.wall;
            current.dirty_since.get_or_insert(self.now.mono);
        }
        self.unsynced.push_back(chunk);
    }

    fn synced(&mut self) {
        while let Some(chunk) = self.unsynced.pop_front() {
            self.backlog_bytes -= chunk.lines.len();
            self.stats.events_written += chunk.count;
            self.stats.bytes_written += chunk.lines.len() as u64;
            self.durable = chunk.upto;
            if let Ok(lines) = Arc::try_unwrap(chunk.lines) {
                self.recycle(lines);
            }
        }
        if self.retry.take().is_some() {
            self.notice("event log: writing works again; nothing that was kept is lost".into());
        }
        self.losing = false;
        self.flushing &= self.backlog_bytes > 0;
        let Some(mut current) = self.current.take() else {
            return;
        };
        current.synced = current.written;
        current.dirty_since = None;
        if current.closing {
            self.retire(&current);
        } else {
            self.current = Some(current);
        }
    }

    fn retire(&mut self, current: &Current) {
        if let Some(name) = FileName::parse(&current.name) {
            let (size, modified) = (current.synced, current.last_write);
            self.old_bytes += size;
            self.old.push_back(OldFile {
                name,
                size,
                modified,
            });
        }
    }

    /// After a failed write or sync nothing of the file beyond its last sync can be relied on: all
    /// of it is written again elsewhere.
    fn failed(&mut self, doing: &str, fault: Fault) {
        self.stats.failures += 1;
        let pause = self
            .retry
            .map_or(RETRY_MIN, |(_, last)| (last * 2).min(RETRY_MAX));
        let first = self.retry.is_none();
        self.retry = Some((self.now.mono + pause, pause));
        while let Some(chunk) = self.unsynced.pop_back() {
            self.gathered.push_front(chunk);
        }
        self.gathered_since = Some(self.now.mono);
        let Some(current) = self.current.take() else {
            return;
        };
        if first {
            self.notice(format!(
                "event log: {doing} {} failed: {fault}; events wait in memory and go to a new file",
                current.name
            ));
        }
        let repair = if current.synced == 0 {
            Repair::Remove
        } else {
            Repair::Cut(current.synced)
        };
        if current.synced > 0 {
            self.retire(&current);
        }
        let mend = Mend {
            file: current.name,
            repair,
            attempts: 0,
            not_before: self.now.mono,
        };
        self.mends.push_back(mend);
    }

    fn poll_mend(&mut self) -> Option<HoseOp> {
        let due = self
            .mends
            .iter()
            .position(|mend| mend.not_before <= self.now.mono)?;
        let mend = self.mends.remove(due)?;
        let file = mend.file.clone();
        let op = self.next_op + 1;
        let action = match mend.repair {
            Repair::Cut(size) => HoseOp::Cut { op, file, size },
            Repair::EndLine(offset) => HoseOp::Write {
                op,
                file,
                offset,
                bytes: Arc::new(b"\n".to_vec()),
            },
            Repair::Remove => HoseOp::Remove { op, file },
        };
        assert_eq!(self.begin(InFlight::Mend(mend)), op);
        Some(action)
    }

    fn mended(&mut self, mend: Mend) {
        match mend.repair {
            Repair::Cut(size) => {
                let cut = |file: &&mut OldFile| file.name.to_string() == mend.file;
                if let Some(file) = self.old.iter_mut().find(cut) {
                    self.old_bytes = self.old_bytes - file.size + size;
                    file.size = size;
                }
            }
            // Cutting nothing off closes the file and makes the line end durable.
            Repair::EndLine(offset) => {
                self.mends.push_back(Mend {
                    repair: Repair::Cut(offset + 1),
                    ..mend
                });
            }
            Repair::Remove => {}
        }
    }

    fn not_mended(&mut self, mut mend: Mend, fault: Fault) {
        self.stats.failures += 1;
        mend.attempts += 1;
        if mend.attempts < MEND_ATTEMPTS_MAX {
            mend.not_before = self.now.mono + RETRY_MAX;
            self.mends.push_back(mend);
            return;
        }
        self.notice(format!(
            "event log: the end of {} could not be mended: {fault}; it may hold a torn line and \
             events that a later file has too, with the same event_id",
            mend.file
        ));
    }

    /// When the oldest file is to go: now, or when it will be too old.
    fn removal_due(&self) -> Option<Mono> {
        let oldest = self.old.front()?;
        let expiry = oldest.modified + self.settings.retention;
        let current = self.current.as_ref().map_or(0, |file| file.written);
        let total = self.old_bytes + current;
        let now = total > self.settings.max_total_bytes || self.old.len() > FILES_MAX;
        Some(if now {
            self.now.mono
        } else {
            self.now.mono_of(expiry)
        })
    }

    fn poll_removal(&mut self) -> Option<HoseOp> {
        let due = self.removal_due()?.max(self.remove_not_before);
        if due > self.now.mono {
            return None;
        }
        let file = self.old.front()?.name.to_string();
        let op = self.begin(InFlight::Remove);
        Some(HoseOp::Remove { op, file })
    }
}
