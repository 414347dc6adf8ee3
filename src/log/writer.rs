//! The writing side: gathers frames into commits, and says what to do to the disk next.
//!
//! One commit is in flight while the next gathers; one background operation (prepare, seal,
//! rename, remove) may run beside it. The segment after the current one is prepared ahead, so that
//! a roll normally waits for nothing.
//!
//! When the segment of a commit cannot be made, those who wait for it hear so, and it is tried
//! again for those who come next. When a commit or sync fails, everything encoded for that segment
//! fails with it, and the segment is given up where it last was good. The next commit follows at
//! once, empty if need be: its mark tells recovery that what the disk may hold beyond that point
//! was refused. If the process dies before that mark is on disk, the refused batch may come back;
//! nobody can rule that out on a failing disk.

mod room;

use core::time::Duration;
use std::collections::BTreeSet;
use std::collections::VecDeque;

use crate::base::time::Mono;
use crate::base::time::Now;

use super::batch::Batch;
use super::batch::FailedBatch;
use super::batch::Flight;
use super::batch::Room;
use super::batch::Spares;
use super::batch::Target;
use super::batch::TargetState;
use super::batch::Work;
use super::disk::Completion;
use super::disk::DiskOp;
use super::disk::Fault;
use super::disk::OpId;
use super::disk::SegmentFile;
use super::disk::SegmentKind;
use super::disk::SyncScope;
use super::format;
use super::format::Frame;
use super::format::Header;
use super::format::Mark;
use super::format::Place;
use super::format::Position;
use super::format::Slot;
use super::format::Trailer;
use super::promise::Appended;
use super::promise::CommitId;
use super::promise::Completed;
use super::promise::Config;
use super::promise::Durable;
use super::promise::FailedCommits;
use super::promise::Found;
use super::promise::Refused;
use super::promise::Space;
use super::promise::SyncMode;
use super::promise::WriterStats;

/// An outcome waits at most this long for a commit to join (DESIGN section 5, step 9).
pub const LAZY_COMMIT_DELAY: Duration = Duration::from_millis(50);
/// A batch is closed when it would grow beyond this; one larger group still is a batch of its own.
pub(super) const BATCH_BYTES_MAX: usize = 4 << 20;
const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum Job {
    Seal { number: u64, bytes: Vec<u8> },
    Rename { from: SegmentFile, to: SegmentFile },
    Remove { file: SegmentFile },
}

#[derive(Debug)]
enum Background {
    Prepare {
        number: u64,
        recycle: Option<SegmentFile>,
    },
    Seal {
        number: u64,
    },
    Rename {
        from: SegmentFile,
        to: SegmentFile,
    },
    Remove {
        file: SegmentFile,
    },
}

/// The log of one shard, writing side.
#[derive(Debug)]
pub struct Writer {
    config: Config,
    next_op: u64,
    next_segment: u64,
    next_commit: u64,
    /// The current segment and, once that is ready, the next one.
    targets: VecDeque<Target>,
    /// Batches that are complete, in order. Their number is bounded by `gather_bytes_max`.
    closed: VecDeque<Batch>,
    gathering: Option<Batch>,
    flight: Option<Flight>,
    background: Option<(OpId, Background)>,
    /// With the time before which each is not to be tried again.
    jobs: VecDeque<(Mono, Job)>,
    free: VecDeque<SegmentFile>,
    space: Space,
    /// No segment is made before this, for want of room.
    withheld_until: Option<Mono>,
    /// See [`Found::unsynced`].
    unsynced: VecDeque<SegmentFile>,
    /// Segments that saw a failure: never written again, so removed instead of recycled.
    suspect: BTreeSet<u64>,
    good: Position,
    synced: Position,
    unsynced_since: Option<Mono>,
    lazy_due: Option<Mono>,
    /// A commit is due even if there is nothing to write: it tells what counts before it.
    void_due: bool,
    failures_in_row: u32,
    retry_at: Option<Mono>,
    failed: Vec<FailedBatch>,
    spares: Spares,
    stats: WriterStats,
}

impl Writer {
    /// A writer whose first segment has the number `next_segment` (1 or more), which no file of
    /// the folder has or had.
    pub fn new(config: Config, next_segment: u64, found: Found) -> Writer {
        let Found {
            good,
            synced,
            free,
            unsynced,
        } = found;
        let sizes = format::SEGMENT_BYTES_MIN..=format::SEGMENT_BYTES_MAX;
        assert!(
            sizes.contains(&config.segment_bytes),
            "the segment size is within the format"
        );
        assert!(
            config.segment_bytes.is_multiple_of(4_096),
            "segments are whole pages"
        );
        assert!(config.start < 1 << 24, "the number of starts fits 24 bits");
        assert!(next_segment > good.segment, "segment numbers only grow");
        Writer {
            next_commit: format::first_commit(config.start),
            next_op: 1,
            next_segment: next_segment + 1,
            targets: VecDeque::from([Target::new(next_segment)]),
            closed: VecDeque::new(),
            gathering: None,
            flight: None,
            background: None,
            jobs: VecDeque::new(),
            free: VecDeque::from(free),
            space: Space::default(),
            withheld_until: None,
            unsynced: VecDeque::from(unsynced),
            suspect: BTreeSet::new(),
            good,
            synced,
            unsynced_since: None,
            lazy_due: None,
            void_due: false,
            failures_in_row: 0,
            retry_at: None,
            failed: Vec::new(),
            spares: Spares::default(),
            stats: WriterStats::default(),
            config,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether frames that somebody waits for would be taken, apart from their size.
    pub fn admission(&self) -> Result<(), Refused> {
        if let Some(fault) = self.stats.stopped {
            return Err(Refused::Stopped(fault));
        }
        match self.targets.back().map(|target| target.state) {
            Some(TargetState::Failed { fault, .. }) if self.landing_is_last() => {
                Err(Refused::Stopped(fault))
            }
            _ if self.gathered_bytes() >= self.config.gather_bytes_max => Err(Refused::Busy),
            _ if !self.leaves_reserve(self.landing()) => Err(Refused::Stopped(Fault::NoSpace)),
            _ => Ok(()),
        }
    }

    /// Adds frames that somebody waits for. They stay together and in order, in one commit.
    pub fn append(&mut self, frames: &[Frame<'_>]) -> Result<Appended, Refused> {
        if let Some(fault) = self.stats.stopped {
            return Err(Refused::Stopped(fault));
        }
        let appended = self.push(frames, self.config.gather_bytes_max, true)?;
        if let Some(batch) = &mut self.gathering {
            batch.eager += 1;
        }
        Ok(appended)
    }

    /// Adds frames that join the next commit, or bring one about after [`LAZY_COMMIT_DELAY`].
    pub fn append_lazy(&mut self, now: Now, frames: &[Frame<'_>]) -> Result<Appended, Refused> {
        let appended = self.push(frames, self.config.gather_bytes_max * 2, false)?;
        self.lazy_due.get_or_insert(now.mono + LAZY_COMMIT_DELAY);
        Ok(appended)
    }

    /// Whether a commit is gathering, so that what is appended costs no commit of its own.
    pub fn is_gathering(&self) -> bool {
        self.gathering.is_some()
    }

    /// A commit that somebody waits for gathers and would start at once: a moment to look whether
    /// more can join it.
    pub fn could_start(&self) -> bool {
        let eager = self.gathering.as_ref().is_some_and(|it| it.eager > 0);
        eager && self.closed.is_empty() && self.flight.is_none() && self.retry_at.is_none()
    }

    /// Makes the next [`Writer::poll`] commit what has gathered.
    pub fn flush(&mut self) {
        if self.gathering.is_some() {
            self.lazy_due = Some(Mono(0));
        }
    }

    /// Makes a commit even if nothing gathers. Its presence proves that the ones before it were
    /// complete.
    pub fn confirm(&mut self) {
        self.void_due = true;
    }

    /// Syncs files that were found only now, see [`Found::unsynced`].
    pub fn sync_found(&mut self, files: Vec<SegmentFile>) {
        self.unsynced.extend(files);
    }

    /// Nothing gathers, nothing is under way. Asked after `poll` had nothing to say.
    pub fn is_idle(&self) -> bool {
        let waiting = self.gathering.is_some() || !self.closed.is_empty() || self.void_due;
        let waiting = waiting || !self.unsynced.is_empty();
        !waiting && self.flight.is_none() && self.background.is_none()
    }

    /// The segment that commits go to.
    pub fn current_segment(&self) -> u64 {
        self.targets
            .front()
            .map_or(self.next_segment, |target| target.number)
    }

    /// Whether the writer still has to do with a segment, which must not be reclaimed then.
    pub fn uses(&self, file: SegmentFile) -> bool {
        let number = file.number;
        let syncing = |flight: &Flight| matches!(flight.work, Work::SyncFound(it) if it == file);
        if self.unsynced.contains(&file) || self.flight.as_ref().is_some_and(syncing) {
            return true;
        }
        let sealing = |job: &Job| matches!(job, Job::Seal { number: it, .. } if *it == number);
        let background = &self.background;
        let written = self.targets.iter().any(|target| target.number == number)
            || self.jobs.iter().any(|(_, job)| sealing(job))
            || matches!(background, Some((_, Background::Seal { number: it })) if *it == number);
        written && file.shard == self.config.shard
    }

    /// Whether a segment saw a failure. What its successor says about it is all that keeps refused
    /// records in it from coming back.
    pub fn is_suspect(&self, file: SegmentFile) -> bool {
        file.shard == self.config.shard && self.suspect.contains(&file.number)
    }

    /// Gets rid of a segment that holds nothing any more. With `keep` it stays under another
    /// name, for the operator. Answered by [`Completed::Reclaimed`].
    pub fn reclaim(&mut self, file: SegmentFile, file_bytes: u64, keep: bool) {
        assert!(!self.uses(file), "still in use");
        let own = file.shard == self.config.shard && file_bytes == self.config.segment_bytes;
        let coming = |(_, job): &&(Mono, Job)| matches!(job, Job::Rename { .. });
        let free = self.free.len() + self.jobs.iter().filter(coming).count();
        let suspect = own && self.suspect.contains(&file.number);
        let job = if keep {
            Job::Rename {
                from: file,
                to: file.with_kind(SegmentKind::Damaged),
            }
        } else if own && !suspect && free < self.free_wanted() {
            Job::Rename {
                from: file,
                to: file.with_kind(SegmentKind::Free),
            }
        } else {
            Job::Remove { file }
        };
        self.jobs.push_back((Mono(0), job));
    }

    /// Removes a file that is of no use; nobody is told.
    pub fn discard(&mut self, file: SegmentFile) {
        self.jobs.push_back((Mono(0), Job::Remove { file }));
    }

    /// Files waiting to be used again.
    pub fn free_segments(&self) -> usize {
        self.free.len()
    }

    /// A number for an operation that the log's user makes itself (reads).
    pub fn next_op(&mut self) -> OpId {
        let op = OpId(self.next_op);
        self.next_op += 1;
        op
    }

    pub fn stats(&self) -> &WriterStats {
        &self.stats
    }

    /// What failed since the last call, oldest first.
    pub fn take_failed(&mut self) -> Vec<FailedBatch> {
        core::mem::take(&mut self.failed)
    }

    /// The next operation to start, if there is one. Call until there is none.
    pub fn poll(&mut self, now: Now) -> Option<DiskOp> {
        self.poll_commit(now).or_else(|| self.poll_background(now))
    }

    /// When to poll again although nothing has happened.
    pub fn next_wakeup(&self) -> Option<Mono> {
        // While the segment is being made there is nothing to wake up for.
        let ready = self.targets[0].state == TargetState::Ready && self.flight.is_none();
        let commit = match self.retry_at {
            _ if !ready => None,
            Some(retry_at) => Some(retry_at),
            None => earlier(self.lazy_due, self.sync_due()),
        };
        let retry = |target: &Target| match target.state {
            TargetState::Failed { retry_at, .. } => Some(retry_at),
            _ => None,
        };
        let prepare = self.targets.iter().filter_map(retry).min();
        let job = self.jobs.iter().map(|(at, _)| *at).min();
        let background = if self.background.is_some() {
            None
        } else {
            earlier(earlier(prepare, self.withheld_until), job)
        };
        earlier(commit, background)
    }

    /// Takes note of how an operation ended.
    pub fn completed(&mut self, now: Now, completion: Completion) -> Completed {
        let Completion { op, result, buffer } = completion;
        if self.flight.as_ref().is_some_and(|flight| flight.op == op) {
            let Some(flight) = self.flight.take() else {
                return Completed::Nothing;
            };
            return self.commit_completed(now, flight, result, buffer);
        }
        if self.background.as_ref().is_some_and(|(it, _)| *it == op) {
            let Some((_, background)) = self.background.take() else {
                return Completed::Nothing;
            };
            return self.background_completed(now, background, result);
        }
        Completed::Nothing
    }

    fn place(&self, segment: u64) -> Place {
        Place {
            spool_id: self.config.spool_id,
            segment,
        }
    }

    fn ordered(&self) -> bool {
        self.config.sync == SyncMode::Commit
    }

    fn gathered_bytes(&self) -> usize {
        let closed: usize = self.closed.iter().map(|batch| batch.bytes.len()).sum();
        closed + self.gathering.as_ref().map_or(0, |batch| batch.bytes.len())
    }

    /// The last target is the one that new frames go to.
    fn landing_is_last(&self) -> bool {
        self.targets.len() == self.landing() + 1
    }

    /// Index of the target that new frames go to.
    fn landing(&self) -> usize {
        let last = self.gathering.as_ref().or(self.closed.back());
        let number = last.map_or(self.current_segment(), |batch| batch.segment);
        self.targets
            .iter()
            .position(|target| target.number == number)
            .unwrap_or(0)
    }

    /// Index of the target that has this room; the next one is planned if need be. There may be
    /// none at the index, which is as far ahead as the writer goes.
    fn landing_with(&mut self, room: Room) -> usize {
        let landing = self.landing();
        if self.targets[landing].fits(self.config.segment_bytes, room) {
            return landing;
        }
        if self.targets.len() == 1 {
            self.plan_target();
        }
        landing + 1
    }

    fn push(
        &mut self,
        frames: &[Frame<'_>],
        gather_bytes_max: usize,
        eager: bool,
    ) -> Result<Appended, Refused> {
        let room = Room::of(frames);
        let segment_bytes = self.config.segment_bytes;
        if !Target::new(0).fits(segment_bytes, room) {
            return Err(Refused::TooLarge);
        }
        let gathered = self.gathered_bytes();
        if gathered > 0 && gathered + room.frames as usize > gather_bytes_max {
            return Err(Refused::Busy);
        }
        let full = |batch: &Batch| batch.bytes.len() + room.frames as usize > BATCH_BYTES_MAX;
        if self.gathering.as_ref().is_some_and(full) {
            self.close_batch();
        }
        let landing = self.landing_with(room);
        let Some(target) = self.targets.get(landing) else {
            return Err(Refused::Busy);
        };
        if let (TargetState::Failed { fault, .. }, true) = (target.state, eager) {
            return Err(Refused::Stopped(fault));
        }
        if eager && !self.leaves_reserve(landing) {
            return Err(Refused::Stopped(Fault::NoSpace));
        }
        if landing != self.landing() {
            self.close_batch();
        }
        Ok(self.encode(landing, room, frames))
    }

    /// Encodes frames for which there is room into the gathering batch, opening one if need be.
    fn encode(&mut self, landing: usize, room: Room, frames: &[Frame<'_>]) -> Appended {
        let number = self.targets[landing].number;
        let (place, ordered) = (self.place(number), self.ordered());
        if self.gathering.is_none() {
            let batch = self.open_batch(landing);
            self.gathering = Some(batch);
        }
        let target = &mut self.targets[landing];
        let offset = target.end as u32;
        target.end += room.frames;
        target.footer_reserved += room.footer;
        let batch = self.gathering.as_mut().expect("just opened");
        for frame in frames {
            assert!(
                (1..format::KIND_MARK).contains(&frame.kind),
                "the user's kinds are 1 to 254"
            );
            batch.push(place, ordered, frame);
        }
        assert_eq!(
            batch.base + batch.bytes.len() as u64,
            target.end,
            "offsets are as encoded"
        );
        let bytes = room.frames as u32;
        Appended {
            commit: batch.commit,
            segment: number,
            offset,
            bytes,
        }
    }

    fn open_batch(&mut self, landing: usize) -> Batch {
        let target = &self.targets[landing];
        let commit = CommitId(self.next_commit);
        self.next_commit += 1;
        let (segment, base) = (target.number, target.end);
        Batch {
            commit,
            segment,
            base,
            bytes: self.spares.take(),
            frames: 0,
            eager: 0,
        }
    }

    fn close_batch(&mut self) {
        let Some(batch) = self.gathering.take() else {
            return;
        };
        let end = batch.end();
        if let Some(target) = self
            .targets
            .iter_mut()
            .find(|it| it.number == batch.segment)
        {
            target.end = end;
        }
        self.closed.push_back(batch);
        self.lazy_due = None;
    }

    fn plan_target(&mut self) {
        self.targets.push_back(Target::new(self.next_segment));
        self.next_segment += 1;
    }

    fn sync_due(&self) -> Option<Mono> {
        match self.config.sync {
            SyncMode::Interval(interval) => self.unsynced_since.map(|since| since + interval),
            SyncMode::Commit | SyncMode::None => None,
        }
    }

    fn poll_commit(&mut self, now: Now) -> Option<DiskOp> {
        if self.flight.is_some() || self.retry_at.is_some_and(|at| at > now.mono) {
            return None;
        }
        if let Some(file) = self.unsynced.pop_front() {
            return Some(self.start_sync(now, file, Work::SyncFound(file)));
        }
        if self.closed.is_empty() {
            let wanted = |batch: &Batch| batch.eager > 0;
            let eager = self.gathering.as_ref().is_some_and(wanted);
            if eager || self.void_due || self.lazy_due.is_some_and(|due| due <= now.mono) {
                self.close_batch();
            }
        }
        if self.closed.is_empty() && self.void_due {
            let landing = self.landing_with(Room {
                frames: 0,
                footer: 0,
            });
            let batch = self.open_batch(landing);
            self.targets[landing].end = batch.end();
            self.closed.push_back(batch);
        }
        let sync_due = self.sync_due().is_some_and(|due| due <= now.mono);
        let Some(segment) = self.closed.front().map(|batch| batch.segment) else {
            let file = self.file(self.targets[0].number);
            return sync_due.then(|| self.start_sync(now, file, Work::Sync));
        };
        if segment != self.targets[0].number {
            self.roll();
        }
        if self.targets[0].state != TargetState::Ready {
            return None;
        }
        let sync = match self.config.sync {
            SyncMode::Commit => SyncScope::Written,
            SyncMode::Interval(_) if sync_due => SyncScope::File,
            SyncMode::Interval(_) | SyncMode::None => SyncScope::Nothing,
        };
        self.closed
            .pop_front()
            .map(|batch| self.start_commit(now, batch, sync))
    }

    fn start_sync(&mut self, now: Now, file: SegmentFile, work: Work) -> DiskOp {
        let op = self.next_op();
        self.flight = Some(Flight {
            op,
            started: now.mono,
            sync: true,
            work,
        });
        DiskOp::Sync { op, file }
    }

    fn start_commit(&mut self, now: Now, mut batch: Batch, sync: SyncScope) -> DiskOp {
        let op = self.next_op();
        let offset = batch.base + batch.bytes.len() as u64;
        let commit = batch.commit.0;
        let place = self.place(batch.segment);
        let slot = Slot {
            place,
            offset,
            commit,
            ordered: self.ordered(),
        };
        let mark = Mark {
            good: self.good,
            synced: self.synced,
            batch_bytes: batch.bytes.len() as u32,
            batch_frames: batch.frames,
        };
        format::encode_mark(slot, &mark, &mut batch.bytes);
        let target = &mut self.targets[0];
        if target.last_commit == 0 {
            target.prior = self.good;
            target.prior_synced = self.synced;
        }
        target.last_commit = commit;
        let (offset, file) = (batch.base, self.file(batch.segment));
        let bytes = core::mem::take(&mut batch.bytes);
        self.flight = Some(Flight {
            op,
            started: now.mono,
            sync: sync != SyncScope::Nothing,
            work: Work::Commit(batch),
        });
        DiskOp::Commit {
            op,
            file,
            offset,
            bytes,
            sync,
        }
    }

    /// Leaves the current segment for the next; the old one gets its footer in the background.
    fn roll(&mut self) {
        let Some(old) = self.targets.pop_front() else {
            return;
        };
        assert!(
            old.last_commit != 0,
            "a segment is left when something did not fit any more"
        );
        let segment_bytes = self.config.segment_bytes;
        let trailer = Trailer {
            start: self.config.start,
            shards: self.config.shards,
            last_commit: old.last_commit,
            prior: old.prior,
            prior_synced: old.prior_synced,
            good_offset: old.good as u32,
            footer_bytes: 0,
            footer_crc: 0,
        };
        let mut bytes = old.footer;
        let footer_at = segment_bytes - (format::TRAILER_BYTES + bytes.len()) as u64;
        assert!(old.good <= footer_at, "the footer covers no commit");
        format::finish_footer(self.place(old.number), segment_bytes, trailer, &mut bytes);
        self.jobs.push_back((
            Mono(0),
            Job::Seal {
                number: old.number,
                bytes,
            },
        ));
        // The sync that seals the old segment covers what it still owed.
        self.unsynced_since = None;
    }

    fn file(&self, number: u64) -> SegmentFile {
        SegmentFile::live(self.config.shard, number)
    }

    fn poll_background(&mut self, now: Now) -> Option<DiskOp> {
        if self.background.is_some() {
            return None;
        }
        if self.targets.len() == 1 && self.targets[0].state == TargetState::Ready {
            self.plan_target();
        }
        let current_waits = self.targets[0].state != TargetState::Ready;
        let seals = |(_, job): &&(Mono, Job)| matches!(job, Job::Seal { .. });
        // The next segment comes first, unless footers in memory pile up behind it.
        if current_waits || self.jobs.iter().filter(seals).count() < 2 {
            let prepare = self.start_prepare(now);
            if prepare.is_some() {
                return prepare;
            }
        }
        let due = self.jobs.iter().position(|(at, _)| *at <= now.mono)?;
        let (_, job) = self.jobs.remove(due)?;
        Some(self.start_job(job))
    }

    fn start_prepare(&mut self, now: Now) -> Option<DiskOp> {
        self.withheld_until = None;
        let index = self
            .targets
            .iter()
            .position(|it| it.state != TargetState::Ready)?;
        match self.targets[index].state {
            TargetState::Failed { retry_at, .. } if retry_at > now.mono => return None,
            _ if !self.may_prepare(index) => {
                self.withhold(now, index);
                return None;
            }
            _ => self.targets[index].state = TargetState::Preparing,
        }
        let number = self.targets[index].number;
        let op = self.next_op();
        let recycle = self.free.pop_front();
        let mut header = Vec::new();
        let facts = Header {
            place: self.place(number),
            start: self.config.start,
            segment_bytes: self.config.segment_bytes,
            shard: u16::from(self.config.shard.0),
            shards: self.config.shards,
        };
        format::encode_header(&facts, &mut header);
        self.background = Some((op, Background::Prepare { number, recycle }));
        let (file, file_bytes) = (self.file(number), self.config.segment_bytes);
        Some(DiskOp::Prepare {
            op,
            file,
            recycle,
            header,
            file_bytes,
        })
    }

    fn start_job(&mut self, job: Job) -> DiskOp {
        let op = self.next_op();
        let (background, disk_op) = match job {
            Job::Seal { number, bytes } => {
                let offset = self.config.segment_bytes - bytes.len() as u64;
                let file = self.file(number);
                (
                    Background::Seal { number },
                    DiskOp::Seal {
                        op,
                        file,
                        offset,
                        bytes,
                    },
                )
            }
            Job::Rename { from, to } => (
                Background::Rename { from, to },
                DiskOp::Rename { op, from, to },
            ),
            Job::Remove { file } => (Background::Remove { file }, DiskOp::Remove { op, file }),
        };
        self.background = Some((op, background));
        disk_op
    }

    fn commit_completed(
        &mut self,
        now: Now,
        flight: Flight,
        result: Result<(), Fault>,
        buffer: Vec<u8>,
    ) -> Completed {
        let batch = match (flight.work, result) {
            (Work::Commit(batch), Ok(())) => batch,
            (Work::Commit(batch), Err(fault)) => {
                let batch = Batch {
                    bytes: buffer,
                    ..batch
                };
                return self.fail_segment(now, Some(batch), fault);
            }
            (Work::Sync, Ok(())) => {
                self.unsynced_since = None;
                self.synced = self.good;
                return Completed::Nothing;
            }
            (Work::Sync, Err(fault)) => return self.fail_segment(now, None, fault),
            (Work::SyncFound(_), Ok(())) => return Completed::Nothing,
            (Work::SyncFound(file), Err(_)) => {
                // What had been acknowledged was synced then. Anything else may be missing at the
                // next start, which reports it.
                self.stats.failures += 1;
                if file.shard == self.config.shard {
                    self.suspect.insert(file.number);
                }
                return Completed::Nothing;
            }
        };
        let place = self.place(batch.segment);
        let target = &mut self.targets[0];
        assert_eq!(
            target.number, batch.segment,
            "no roll while a commit is in flight"
        );
        target.index(place, batch.base, &buffer);
        target.good = batch.base + buffer.len() as u64;
        self.good = Position {
            segment: batch.segment,
            offset: target.good as u32,
        };
        if flight.sync {
            self.unsynced_since = None;
            self.synced = self.good;
            self.stats.commits_synced += 1;
        } else {
            self.unsynced_since.get_or_insert(now.mono);
        }
        self.void_due = false;
        self.failures_in_row = 0;
        self.retry_at = None;
        let stats = &mut self.stats;
        stats.stopped = None;
        stats.commits += 1;
        stats.commit_bytes += buffer.len() as u64;
        stats.commit_messages += u64::from(batch.eager);
        stats.commit_frames += u64::from(batch.frames);
        stats.commit_latency.record(now.mono.since(flight.started));
        self.spares.give(buffer);
        Completed::Durable(Durable::promise(batch.commit, self.config.sync))
    }

    /// Gives the current segment up where it last was good, and all that was encoded for it.
    fn fail_segment(&mut self, now: Now, batch: Option<Batch>, fault: Fault) -> Completed {
        let Some(target) = self.targets.pop_front() else {
            return Completed::Nothing;
        };
        self.suspect.insert(target.number);
        if self.targets.is_empty() {
            self.plan_target();
        }
        let mut lost: Vec<Batch> = batch.into_iter().collect();
        while self
            .closed
            .front()
            .is_some_and(|it| it.segment == target.number)
        {
            lost.extend(self.closed.pop_front());
        }
        if self
            .gathering
            .as_ref()
            .is_some_and(|it| it.segment == target.number)
        {
            lost.extend(self.gathering.take());
            self.lazy_due = None;
        }
        self.void_due = true;
        self.unsynced_since = None;
        self.stats.failures += 1;
        self.failures_in_row += 1;
        let over = self
            .failures_in_row
            .saturating_sub(self.config.failures_max);
        if self.failures_in_row >= self.config.failures_max {
            self.stats.stopped = Some(fault);
            self.retry_at = Some(now.mono + backoff(over));
        }
        self.fail_batches(lost, fault)
    }

    fn background_completed(
        &mut self,
        now: Now,
        background: Background,
        result: Result<(), Fault>,
    ) -> Completed {
        let again = now.mono + RETRY_DELAY_MAX;
        match (background, result) {
            (Background::Prepare { number, .. }, Ok(())) => {
                self.stats.segments_prepared += 1;
                self.set_state(number, TargetState::Ready);
            }
            (Background::Prepare { number, recycle }, Err(fault)) => {
                self.stats.failures += 1;
                let target = self.targets.iter_mut().find(|it| it.number == number);
                let retry_at = now.mono + backoff(target.as_ref().map_or(0, |it| it.failures));
                if let Some(target) = target {
                    target.failures += 1;
                }
                self.set_state(number, TargetState::Failed { fault, retry_at });
                // Nobody knows what state it is in.
                self.jobs
                    .extend(recycle.map(|file| (Mono(0), Job::Remove { file })));
                return self.fail_awaiting(number, fault);
            }
            (Background::Seal { .. }, Ok(())) => {}
            (Background::Seal { number }, Err(_)) => {
                // It has no footer, so recovery reads it whole.
                self.stats.failures += 1;
                self.suspect.insert(number);
            }
            (Background::Rename { from, to }, Ok(())) => {
                if to.kind == SegmentKind::Free {
                    self.free.push_back(to);
                    self.try_again();
                }
                return self.forget(from);
            }
            (Background::Remove { file }, Ok(())) => return self.forget(file),
            // What is kept for the operator is not removed because that fails.
            (Background::Rename { from, to }, Err(_)) if to.kind == SegmentKind::Damaged => {
                self.jobs.push_back((again, Job::Rename { from, to }));
            }
            (Background::Rename { from: file, .. } | Background::Remove { file }, Err(_)) => {
                self.jobs.push_back((again, Job::Remove { file }));
            }
        }
        Completed::Nothing
    }

    /// Nobody is kept waiting for a segment that could not be made: what was encoded for it and
    /// for the one behind it fails. What nobody waits for stays until it can be made.
    fn fail_awaiting(&mut self, number: u64, fault: Fault) -> Completed {
        let there = |batch: &Batch| batch.segment >= number;
        let mut batches = self.closed.iter().chain(&self.gathering);
        if !batches.any(|it| there(it) && it.eager > 0) {
            return Completed::Nothing;
        }
        let first = self.closed.iter().position(there);
        let mut lost: Vec<Batch> = self
            .closed
            .drain(first.unwrap_or(self.closed.len())..)
            .collect();
        if self.gathering.as_ref().is_some_and(there) {
            lost.extend(self.gathering.take());
            self.lazy_due = None;
        }
        // What is encoded anew is about what failed, and records are about older segments only:
        // the next attempt is at one with a number of its own.
        let failures = self.target(number).map_or(0, |it| it.failures);
        let state = self.target(number).map(|it| it.state);
        self.targets.retain(|it| it.number < number);
        // Whatever is there of it is removed, not used again.
        self.suspect.insert(number);
        self.plan_target();
        if let (Some(target), Some(state)) = (self.targets.back_mut(), state) {
            (target.state, target.failures) = (state, failures);
        }
        self.fail_batches(lost, fault)
    }

    /// Keeps what failed for the log's user.
    fn fail_batches(&mut self, lost: Vec<Batch>, fault: Fault) -> Completed {
        let Some((first, last)) = lost.first().zip(lost.last()) else {
            return Completed::Nothing;
        };
        let (first, last) = (first.commit, last.commit);
        for batch in lost {
            let place = self.place(batch.segment);
            self.failed.push(FailedBatch::new(place, batch));
        }
        Completed::Failed(FailedCommits { first, last, fault })
    }

    fn forget(&mut self, file: SegmentFile) -> Completed {
        if file.kind != SegmentKind::Live {
            return Completed::Nothing;
        }
        if file.shard == self.config.shard {
            self.suspect.remove(&file.number);
        }
        Completed::Reclaimed(file)
    }

    fn target(&self, number: u64) -> Option<&Target> {
        self.targets.iter().find(|it| it.number == number)
    }

    fn set_state(&mut self, number: u64, state: TargetState) {
        if let Some(target) = self.targets.iter_mut().find(|it| it.number == number) {
            target.state = state;
        }
    }
}

/// Doubles with every failure before, within its bounds.
fn backoff(failures: u32) -> Duration {
    let doubled = RETRY_DELAY_MIN.saturating_mul(1_u32.checked_shl(failures.min(16)).unwrap_or(1));
    doubled.min(RETRY_DELAY_MAX)
}

fn earlier(a: Option<Mono>, b: Option<Mono>) -> Option<Mono> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
