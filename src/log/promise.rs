//! What the log promises, to whom it matters, and what it is told in order to.

use core::time::Duration;

use crate::base::histogram::Histogram;
use crate::types::id::ShardId;

use super::disk::Fault;
use super::disk::SegmentFile;
use super::format::Position;

/// When a commit counts: `Spool_Sync`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncMode {
    /// Once it is on the disk.
    Commit,
    /// When written; a sync follows within this time. A power cut loses what came since the last.
    Interval(Duration),
    /// When written; the operating system syncs when it likes.
    None,
}

/// What a writer is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Random number of the spool folder.
    pub spool_id: u64,
    /// Whose folder is written.
    pub shard: ShardId,
    /// Number of this start of the process; never used twice. Fits 24 bits.
    pub start: u32,
    /// Shards of this start.
    pub shards: u16,
    /// Size of new segments; a multiple of 4096.
    pub segment_bytes: u64,
    pub sync: SyncMode,
    /// Failures in a row after which nothing more is taken until a commit has succeeded.
    pub failures_max: u32,
    /// Reclaimed segments kept for reuse.
    pub free_max: usize,
    /// Bytes that may wait to be written. What nobody waits for may take as much again.
    pub gather_bytes_max: usize,
}

impl Config {
    /// With the defaults of the options.
    pub fn new(spool_id: u64, shard: ShardId, start: u32, shards: u16) -> Config {
        Config {
            spool_id,
            shard,
            start,
            shards,
            segment_bytes: 64 << 20,
            sync: SyncMode::Commit,
            failures_max: 3,
            free_max: 4,
            gather_bytes_max: 64 << 20,
        }
    }
}

/// The room on the file system of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that are to stay free.
    pub keep: u64,
}

impl Default for Space {
    /// Of a disk that nobody has looked at.
    fn default() -> Space {
        let (free, keep) = (u64::MAX, 0);
        Space { free, keep }
    }
}

impl Space {
    /// Another segment would take what is to stay free.
    pub(super) fn is_short(self, config: &Config) -> bool {
        self.free.saturating_sub(self.keep) < config.segment_bytes
    }
}

/// What a writer takes over from the starts before it.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// How far recovery found the log of the folder to count.
    pub good: Position,
    /// And how far that is sure ([`Recovered::sure_offset`](super::recover::Recovered)).
    pub synced: Position,
    /// Files of `segment_bytes` to be used again.
    pub free: Vec<SegmentFile>,
    /// Segments that were read, but perhaps only from the memory of the operating system: a
    /// process that was killed may have written what it had no time to sync. They are synced
    /// before the first commit says that they count.
    pub unsynced: Vec<SegmentFile>,
}

/// Names a commit; commits are made in the order of their numbers, over restarts too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CommitId(pub u64);

/// Proof that a commit has reached what [`SyncMode`] asks for. Only the writer makes one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Durable {
    commit: CommitId,
    mode: SyncMode,
}

impl Durable {
    /// For the writer alone, when the disk has said so.
    pub(super) fn promise(commit: CommitId, mode: SyncMode) -> Durable {
        Durable { commit, mode }
    }

    /// Whether what was appended to this commit is durable.
    pub fn covers(&self, commit: CommitId) -> bool {
        self.commit == commit
    }

    pub fn commit(&self) -> CommitId {
        self.commit
    }

    /// What the promise is worth: anything but [`SyncMode::Commit`] is an explicitly weaker one.
    pub fn mode(&self) -> SyncMode {
        self.mode
    }
}

/// Commits that did not get to disk and never will.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailedCommits {
    pub first: CommitId,
    pub last: CommitId,
    pub fault: Fault,
}

impl FailedCommits {
    pub fn covers(&self, commit: CommitId) -> bool {
        self.first <= commit && commit <= self.last
    }
}

/// Where a group of frames went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    pub commit: CommitId,
    pub segment: u64,
    /// Of the first frame.
    pub offset: u32,
    /// Of all frames of the group, headers and padding included.
    pub bytes: u32,
}

/// Why a group of frames was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    #[error("larger than a segment can hold")]
    TooLarge,
    #[error("too much waits to be written")]
    Busy,
    #[error("the disk does not take more: {0:?}")]
    Stopped(Fault),
}

/// What a completion has brought about.
#[derive(Debug)]
pub enum Completed {
    Nothing,
    Durable(Durable),
    /// See [`Writer::take_failed`] for what was in them.
    Failed(FailedCommits),
    /// The file is gone under this name, durably.
    Reclaimed(SegmentFile),
}

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterStats {
    pub commits: u64,
    /// Commits that were synced before they counted.
    pub commits_synced: u64,
    /// Bytes written by commits, marks and padding included.
    pub commit_bytes: u64,
    /// Groups of frames that somebody waited for: messages, for a spool.
    pub commit_messages: u64,
    pub commit_frames: u64,
    /// Commits, syncs and preparations that failed.
    pub failures: u64,
    pub segments_prepared: u64,
    /// Why nothing is taken at present.
    pub stopped: Option<Fault>,
    /// From the start of the write to its completion, the sync included.
    pub commit_latency: Histogram,
}
