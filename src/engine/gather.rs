//! How long a commit waits for messages that are on their way. With few connections a commit that
//! starts at once carries one or two messages; one that waits for the others who are in the middle
//! of a message carries all of theirs, and the device, the ring and the sleep are paid for once.
//!
//! Nobody waits longer for it than the last commit took, and not for those who have
//! let a commit wait in vain before: a slow upload must not delay everybody else.

use core::time::Duration;

use crate::base::time::Mono;

/// After a wait in vain this many commits start at once, doubled with every further one.
const RESTS_MIN: u32 = 1;
const RESTS_MAX: u32 = 256;

#[derive(Debug, Default)]
pub struct Gather {
    /// How long the last commit took.
    took: Duration,
    /// The end of the wait that is on.
    until: Option<Mono>,
    /// A message has joined during it.
    joined: bool,
    /// Commits that start without a wait.
    rests: u32,
    rests_next: u32,
}

impl Gather {
    /// A commit has ended.
    pub fn committed(&mut self, took: Duration) {
        self.took = took;
    }

    /// A message has been put into the commit that gathers.
    pub fn joined(&mut self) {
        self.joined = true;
    }

    /// Whether a commit that could start now should wait. `open` counts the sessions that are in
    /// the middle of a message.
    pub fn waits(&mut self, now: Mono, open: usize) -> bool {
        let Some(until) = self.until else {
            return self.begins(now, open);
        };
        if open > 0 && now < until {
            return true;
        }
        if self.joined {
            self.rests_next = RESTS_MIN;
        } else if open > 0 {
            self.rests = self.rests_next.max(RESTS_MIN);
            self.rests_next = (self.rests * 2).min(RESTS_MAX);
        }
        self.until = None;
        false
    }

    fn begins(&mut self, now: Mono, open: usize) -> bool {
        if open == 0 || self.took.is_zero() {
            return false;
        }
        if self.rests > 0 {
            self.rests -= 1;
            return false;
        }
        self.joined = false;
        self.until = Some(now + self.took);
        true
    }

    /// Whether a commit waits that need not be looked at again before [`Self::next_wakeup`].
    pub fn is_waiting(&self, open: usize) -> bool {
        self.until.is_some() && open > 0
    }

    pub fn next_wakeup(&self) -> Option<Mono> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_micros(400);

    fn gather() -> Gather {
        let mut gather = Gather::default();
        gather.committed(TOOK);
        gather
    }

    #[test]
    fn waits_for_those_in_the_middle_of_a_message_and_no_longer_than_a_commit() {
        let mut gather = gather();
        let now = Mono(1_000_000);
        assert!(!gather.waits(now, 0), "nobody is on the way");
        assert!(gather.waits(now, 2));
        assert_eq!(gather.next_wakeup(), Some(now + TOOK));
        gather.joined();
        assert!(gather.waits(now + TOOK / 2, 1));
        assert!(!gather.waits(now + TOOK / 2, 0), "all are here");
        assert!(gather.waits(now, 2));
        gather.joined();
        assert!(!gather.waits(now + TOOK, 1), "the time is up");
        assert_eq!(gather.next_wakeup(), None);
    }

    #[test]
    fn does_not_wait_before_it_knows_how_long_a_commit_takes() {
        assert!(!Gather::default().waits(Mono(1), 5));
    }

    #[test]
    fn waits_in_vain_grow_rare_and_a_message_that_joins_ends_that() {
        let mut gather = gather();
        let mut now = Mono(1_000_000);
        let mut pause = |gather: &mut Gather, joins: bool| {
            let mut commits = 0;
            while !gather.waits(now, 1) {
                commits += 1;
            }
            if joins {
                gather.joined();
            }
            now = now + TOOK;
            assert!(!gather.waits(now, 1));
            commits
        };
        let pauses: Vec<u32> = (0..11).map(|_| pause(&mut gather, false)).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 256]);
        assert_eq!(pause(&mut gather, true), 256);
        assert_eq!(pause(&mut gather, true), 0);
        assert_eq!(pause(&mut gather, false), 0);
        assert_eq!(pause(&mut gather, false), 1);
    }
}
