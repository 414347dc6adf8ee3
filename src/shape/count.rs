//! How many connections a receiver lets one have at a time, or messages on one connection, when
//! nobody says so: a refusal tells exactly, since what was not refused is known.
//!
//! A limit that was met is kept. After a refusal below it, which may count what has just ended, it
//! is gone back to soon; beyond it one more is tried after some quiet time, then two, four and so
//! on, as long as none is refused.

use core::time::Duration;

use crate::base::time::Mono;

/// Before a limit is gone back to that has held before.
const BACK: Duration = Duration::from_secs(10);

/// Refusals at what has held before, after which it holds no more.
const STRIKES_MAX: u32 = 3;

/// Bounds and times of the law.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Law {
    pub min: u32,
    /// The most, which is what the configuration says where it says something.
    pub max: u32,
    /// In which a limit that was lifted is found.
    pub probing: Duration,
}

/// The limit of one queue.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CountControl {
    limit: Option<u32>,
    /// What has held.
    known: u32,
    /// The last change, or the last refusal.
    since: Mono,
    wait: Duration,
    steps: u32,
    strikes: u32,
}

/// What of it outlives the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct SavedCount {
    pub limit: u32,
    pub known: u32,
}

impl CountControl {
    /// As it was.
    pub fn restored(now: Mono, saved: SavedCount) -> CountControl {
        CountControl {
            limit: Some(saved.limit.max(1)),
            known: saved.known.max(1),
            since: now,
            ..CountControl::default()
        }
    }

    pub fn saved(&self) -> Option<SavedCount> {
        Some(SavedCount {
            limit: self.limit?,
            known: self.known,
        })
    }

    /// Nothing before the first refusal.
    pub fn limit(&self) -> Option<u32> {
        self.limit
    }

    /// One more than `held` was refused; a rule asks to take `less` away. True if the limit has
    /// changed.
    pub fn refused(&mut self, now: Mono, held: u32, less: u32, law: &Law) -> bool {
        let before = self.limit.unwrap_or(law.max);
        // What was open when the limit was lowered says nothing about the one that is now.
        let next = held.min(before.saturating_sub(less)).max(law.min).max(1);
        let was_beyond = self.steps > 0;
        if self.limit.is_none() {
            self.known = next;
        } else if next < self.known {
            self.strikes += 1;
            if self.strikes >= STRIKES_MAX {
                (self.known, self.strikes) = (next, 0);
            }
        }
        let (least, most) = (law.probing / 8, law.probing / 2);
        self.wait = if was_beyond {
            (self.wait * 2).clamp(least, most)
        } else {
            self.wait.clamp(least, most)
        };
        self.steps = 0;
        self.since = now;
        self.limit = Some(next);
        next != before
    }

    /// So many are held: the limit is that at least.
    pub fn holds(&mut self, held: u32) {
        if let Some(limit) = self.limit {
            self.known = self.known.max(held.min(limit));
        }
    }

    /// More than the limit could be used. True if it has been raised.
    pub fn wanted(&mut self, now: Mono, law: &Law) -> bool {
        let Some(limit) = self.limit.filter(|it| *it < law.max) else {
            return false;
        };
        let quiet = now.since(self.since);
        let next = if limit < self.known {
            if quiet < BACK * (1 << self.strikes) {
                return false;
            }
            limit + 1
        } else {
            let wait = if self.steps == 0 {
                self.wait
            } else {
                law.probing / 30
            };
            if quiet < wait.max(BACK) {
                return false;
            }
            self.known = limit;
            self.strikes = 0;
            let step = 1_u32 << self.steps.min(10);
            self.steps += 1;
            limit.saturating_add(step)
        };
        self.since = now;
        self.limit = Some(next.min(law.max));
        true
    }

    /// When [`Self::wanted`] may say yes.
    pub fn next_step(&self) -> Option<Mono> {
        let limit = self.limit?;
        let wait = if limit < self.known {
            BACK * (1 << self.strikes)
        } else {
            self.wait.max(BACK)
        };
        Some(self.since + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAW: Law = Law {
        min: 1,
        max: 32,
        probing: Duration::from_secs(3_600),
    };

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000)
    }

    #[test]
    fn a_refusal_tells_the_limit_at_once_and_others_of_that_moment_change_nothing() {
        let mut control = CountControl::default();
        assert_eq!(control.limit(), None);
        assert!(control.refused(at(1), 5, 1, &LAW));
        assert_eq!(control.limit(), Some(5));
        // Three more dials were under way; each would be the sixth.
        for _ in 0..3 {
            control.refused(at(1), 5, 0, &LAW);
        }
        assert_eq!(control.limit(), Some(5));
    }

    #[test]
    fn a_refusal_for_what_has_just_ended_is_soon_forgotten() {
        let mut control = CountControl::default();
        control.refused(at(1), 5, 1, &LAW);
        control.refused(at(20), 4, 1, &LAW);
        assert_eq!(control.limit(), Some(4));
        assert!(!control.wanted(at(25), &LAW));
        assert!(control.wanted(at(45), &LAW));
        assert_eq!(control.limit(), Some(5));
        assert!(!control.wanted(at(60), &LAW), "beyond it waits longer");
    }

    #[test]
    fn a_limit_that_is_lifted_comes_back_in_growing_steps_within_the_time() {
        let mut control = CountControl::default();
        control.refused(at(0), 3, 1, &LAW);
        let mut seen = vec![];
        for second in 0..3_600 {
            if control.wanted(at(second), &LAW) {
                seen.push(control.limit().unwrap());
            }
        }
        assert_eq!(seen, [4, 6, 10, 18, 32]);
    }

    #[test]
    fn one_more_that_is_refused_again_waits_longer_within_bounds() {
        let mut control = CountControl::default();
        control.refused(at(0), 5, 1, &LAW);
        let mut tries = 0;
        for second in 0..86_400 {
            if control.wanted(at(second), &LAW) {
                tries += 1;
                control.refused(at(second), 5, 1, &LAW);
                assert_eq!(control.limit(), Some(5));
            }
        }
        assert!((47..=55).contains(&tries), "{tries}");
    }

    #[test]
    fn the_least_and_the_most_hold() {
        let law = Law {
            min: 2,
            max: 4,
            ..LAW
        };
        let mut control = CountControl::default();
        control.refused(at(0), 0, 9, &law);
        assert_eq!(control.limit(), Some(2));
        for second in 0..36_000 {
            control.wanted(at(second), &law);
        }
        assert_eq!(control.limit(), Some(4));
    }
}
