//! L3: the mail of one shard on disk. [`Spool`] is the home of every message its shard accepted: it
//! writes records, knows where each message lies and how far its recipients have come, reclaims
//! and compacts segments; [`Recovery`] rebuilds all homes at a start. It keeps no bodies, knows
//! nothing of queues, and performs no IO: operations on the disk come out of [`Spool::poll`].
//!
//! How the surroundings use it:
//! * After every batch of inputs call [`Spool::poll`] until it returns nothing, start each
//!   operation, hand every completion to [`Spool::completed`], poll again.
//! * A message counts as accepted when a [`Durable`](crate::log::Durable) covers the commit that
//!   [`Spool::store`] named; when [`Completed::Failed`] covers it, it is as if it had never come.
//! * Outcomes need no answer: [`Spool::settle`] sees to it that they get to disk, by trying again
//!   if they must.
//! * A spool takes mail before it knows of the mail of earlier starts, which it is given by
//!   [`Spool::adopt`]. Until then nothing is reclaimed or moved.
//! * An event is numbered by `store` and `settle`; when the event log has it on disk, say so with
//!   [`Spool::events_durable`]. Segments are not reclaimed before that.

mod compaction;
mod index;
pub mod inspect;
mod record;
mod recovery;
mod scan;
mod settings;
mod store;

pub use record::RECORD_RECIPIENTS_MAX;
pub use recovery::Facts;
pub use recovery::Home;
pub use recovery::Recovery;
pub use recovery::Unreported;
pub use recovery::UnreportedEvent;
pub use scan::Beginning;
pub use scan::Damaged;
pub use scan::Problem;
pub use scan::RecoveryError;
pub use scan::Scan;
pub use settings::SpoolFile;
pub use settings::SpoolFileError;
pub use store::BodyAt;
pub use store::Completed;
pub use store::Config;
pub use store::EventSeq;
pub use store::ReadError;
pub use store::Refused;
pub use store::Spool;
pub use store::Stats;
pub use store::Stored;

#[cfg(test)]
mod tests;
