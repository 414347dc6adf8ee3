//! What is done with the room that is left when it is short.
//!
//! Mail goes to a segment only while another one can follow it. So when no further segment can be
//! made, one is left for outcomes and moved messages: they are what empties a full spool. It alone
//! may be made out of the space that is to stay free. Mail also leaves them a part of the segment
//! before, so that the one that is kept is still blank at a restart, which needs it.

use core::time::Duration;

use crate::base::time::Mono;
use crate::base::time::Now;
use crate::log::batch::Flight;
use crate::log::batch::Target;
use crate::log::batch::TargetState;
use crate::log::batch::Work;
use crate::log::disk::Fault;
use crate::log::promise::Refused;
use crate::log::promise::Space;

use super::Job;
use super::Writer;

/// A segment that was not made for want of room is thought of again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// With room short, mail leaves one part in this many of a segment to outcomes.
const OUTCOME_PARTS: u64 = 4;

impl Writer {
    /// How much room the file system has, from now on. Until this is said there is enough.
    pub fn set_space(&mut self, space: Space) {
        if self.space == space {
            return;
        }
        let was_short = core::mem::replace(&mut self.space, space).is_short(&self.config);
        if was_short && !self.is_short() {
            self.try_again();
        }
        // What waits to be used again is room for others, too.
        while self.is_short() && self.free.len() > self.segments_missing() {
            let spare = self.free.pop_back();
            let remove = |file| (Mono(0), Job::Remove { file });
            self.jobs.extend(spare.map(remove));
        }
    }

    /// Whether a message may be moved now. With room short it is as with outcomes, of which moves
    /// leave room for some: they bring more back, but only once they are done.
    pub fn takes_moves(&self) -> bool {
        match self.admission() {
            Ok(()) => true,
            Err(Refused::Stopped(Fault::NoSpace)) if self.stats.stopped.is_none() => {
                let landing = self.landing();
                let target = &self.targets[landing];
                let parts = match self.targets.get(landing + 1).map(|it| it.state) {
                    Some(TargetState::Ready) => OUTCOME_PARTS * 2,
                    _ => 2,
                };
                target.state == TargetState::Ready && self.leaves_part(target, parts)
            }
            Err(_) => false,
        }
    }

    /// How many reclaimed segments are worth keeping.
    pub(super) fn free_wanted(&self) -> usize {
        match self.is_short() {
            true => self.segments_missing(),
            false => self.config.free_max,
        }
    }

    /// Whether mail that goes to this target leaves a segment for outcomes behind it.
    pub(super) fn leaves_reserve(&self, landing: usize) -> bool {
        let obtainable = |index: usize| match self.targets.get(index).map(|it| it.state) {
            Some(TargetState::Ready | TargetState::Preparing) => true,
            // Not a question of room.
            Some(TargetState::Failed {
                fault: Fault::Io, ..
            }) => true,
            Some(TargetState::Failed {
                fault: Fault::NoSpace,
                ..
            }) => !self.free.is_empty(),
            Some(TargetState::Planned) | None => !self.free.is_empty() || !self.is_short(),
        };
        let roomy = self
            .targets
            .get(landing)
            .is_none_or(|it| self.leaves_part(it, OUTCOME_PARTS));
        obtainable(landing) && obtainable(landing + 1) && (roomy || obtainable(landing + 2))
    }

    /// What recovery found is on disk, and not only in the memory of the system.
    pub fn found_is_synced(&self) -> bool {
        !self.syncs_found() && self.suspect.is_empty()
    }

    /// Whether that is still being brought about.
    pub fn syncs_found(&self) -> bool {
        let syncs = |it: &Flight| matches!(it.work, Work::SyncFound(_));
        !self.unsynced.is_empty() || self.flight.as_ref().is_some_and(syncs)
    }

    /// Whether the segment of this target may be made now. One that commits wait for may take what
    /// is to stay free, and is tried even where it does not seem to fit: the disk knows better than
    /// the last look at it, and what is not recorded is delivered twice.
    pub(super) fn may_prepare(&self, index: usize) -> bool {
        if !self.free.is_empty() || !self.is_short() {
            return true;
        }
        let number = self.targets[index].number;
        let mut batches = self.closed.iter().chain(&self.gathering);
        index == 0 || batches.any(|it| it.segment == number)
    }

    pub(super) fn withhold(&mut self, now: Now, index: usize) {
        self.targets[index].state = TargetState::Planned;
        self.withheld_until = Some(now.mono + LOOK_AGAIN);
    }

    /// There is room again: what could not be made for want of it is made now.
    pub(super) fn try_again(&mut self) {
        for target in &mut self.targets {
            if let TargetState::Failed {
                fault: Fault::NoSpace,
                ..
            } = target.state
            {
                target.state = TargetState::Planned;
            }
        }
    }

    /// At least one part in that many of the segment is unused.
    fn leaves_part(&self, target: &Target, parts: u64) -> bool {
        let segment_bytes = self.config.segment_bytes;
        target.end + target.footer_reserved <= segment_bytes - segment_bytes / parts
    }

    fn is_short(&self) -> bool {
        self.space.is_short(&self.config)
    }

    /// How many of the current segment and the next one are not made yet.
    fn segments_missing(&self) -> usize {
        let made = |state| matches!(state, TargetState::Ready | TargetState::Preparing);
        let made = self.targets.iter().filter(|it| made(it.state)).count();
        2_usize.saturating_sub(made)
    }
}
