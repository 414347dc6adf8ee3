//! L2: the log of one shard: segmented, checksummed, group-committed. It knows frames, commits and
//! segments, and nothing of mail; what a frame means is its user's business.
//!
//! * [`Writer`] is a state machine: frames go in, operations on the disk come out as data.
//! * [`recover`] reads one segment back.
//! * [`format`] describes the bytes.
//!
//! What always holds:
//! * Only the writer makes a [`Durable`], and only after the write and the sync (as far as the
//!   [`SyncMode`] asks for one) of that very commit have succeeded.
//! * Commits are written one after the other: that a later one exists proves that all earlier
//!   ones of the segment had been written.
//! * After a failed write or sync a segment is never written or synced again, and the next commit
//!   says how much of it counts.
//! * Bytes that were acknowledged are never written over; no frame passes in another place,
//!   segment, start or spool than its own.

mod batch;
mod disk;
pub mod format;
mod promise;
pub mod recover;
mod writer;

pub use batch::FailedBatch;
pub use disk::Completion;
pub use disk::DiskOp;
pub use disk::Fault;
pub use disk::OpId;
pub use disk::SegmentFile;
pub use disk::SegmentKind;
pub use disk::SyncScope;
pub use disk::folder_name;
pub use disk::parse_folder_name;
pub use format::COMMIT_ALIGN;
pub use promise::Appended;
pub use promise::CommitId;
pub use promise::Completed;
pub use promise::Config;
pub use promise::Durable;
pub use promise::FailedCommits;
pub use promise::Found;
pub use promise::Refused;
pub use promise::Space;
pub use promise::SyncMode;
pub use promise::WriterStats;
pub use writer::Writer;

#[cfg(test)]
pub(crate) mod test_disk;
#[cfg(test)]
mod tests;
