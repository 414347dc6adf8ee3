//! How long a commit waits for messages that are on their way. With few connections a commit that
//! starts at once carries one or two messages; one that waits for the others who are in the middle
//! of a message carries all of theirs, and the device, the ring and the sleep are paid for once.
//!
//! Nobody waits longer for it than the last commit took, nor than [`WAIT_MAX`], and a session that
//! has let a commit wait in vain is not waited for again before its message is whole: a slow upload
//! or a silent client delays nobody else.

use core::time::Duration;

use crate::base::time::Mono;

/// The longest wait, whatever a commit takes on this disk.
const WAIT_MAX: Duration = Duration::from_millis(5);

/// After a wait that nobody joined this many commits start at once, doubled with every further one.
const RESTS_MIN: u32 = 1;
const RESTS_MAX: u32 = 256;

/// What a commit that could start now does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    Now,
    /// Now, and those who are still in the middle of a message are not worth another wait.
    NowWithout,
    Later,
}

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

    /// Nothing waits any more: the commit was closed for another reason.
    pub fn stop(&mut self) {
        self.until = None;
    }

    /// Whether a commit that could start now should wait. `open` counts the sessions that are in
    /// the middle of a message and worth a wait.
    pub fn start(&mut self, now: Mono, open: usize) -> Start {
        let Some(until) = self.until else {
            return self.begin(now, open);
        };
        if open > 0 && now < until {
            return Start::Later;
        }
        self.until = None;
        if self.joined {
            self.rests_next = RESTS_MIN;
        } else if open > 0 {
            self.rests = self.rests_next.max(RESTS_MIN);
            self.rests_next = (self.rests * 2).min(RESTS_MAX);
        }
        if open > 0 {
            Start::NowWithout
        } else {
            Start::Now
        }
    }

    fn begin(&mut self, now: Mono, open: usize) -> Start {
        if open == 0 || self.took.is_zero() {
            return Start::Now;
        }
        if self.rests > 0 {
            self.rests -= 1;
            return Start::Now;
        }
        self.joined = false;
        self.until = Some(now + self.took.min(WAIT_MAX));
        Start::Later
    }

    /// The end of the wait that is on; before it only an end of the last open session matters.
    pub fn waits_until(&self) -> Option<Mono> {
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
        assert_eq!(gather.start(now, 0), Start::Now, "nobody is on the way");
        assert_eq!(gather.start(now, 2), Start::Later);
        assert_eq!(gather.waits_until(), Some(now + TOOK));
        gather.joined();
        assert_eq!(gather.start(now + TOOK / 2, 1), Start::Later);
        assert_eq!(gather.start(now + TOOK / 2, 0), Start::Now, "all are here");
        assert_eq!(gather.start(now, 2), Start::Later);
        gather.joined();
        assert_eq!(gather.start(now + TOOK, 1), Start::NowWithout, "time is up");
        assert_eq!(gather.waits_until(), None);
    }

    #[test]
    fn does_not_wait_before_it_knows_how_long_a_commit_takes_nor_for_long() {
        let mut gather = Gather::default();
        assert_eq!(gather.start(Mono(1), 5), Start::Now);
        gather.committed(Duration::from_secs(10));
        assert_eq!(gather.start(Mono(1), 5), Start::Later);
        assert_eq!(gather.waits_until(), Some(Mono(1) + WAIT_MAX));
        gather.stop();
        assert_eq!(gather.waits_until(), None);
    }

    #[test]
    fn waits_in_vain_grow_rare_and_a_message_that_joins_ends_that() {
        let mut gather = gather();
        let mut now = Mono(1_000_000);
        let mut pause = |gather: &mut Gather, joins: bool| {
            let mut commits = 0;
            while gather.start(now, 1) == Start::Now {
                commits += 1;
            }
            if joins {
                gather.joined();
            }
            now = now + TOOK;
            assert_eq!(gather.start(now, 1), Start::NowWithout);
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
