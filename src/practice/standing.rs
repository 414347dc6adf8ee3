//! What a receiver thinks of a sending address, as the mail it takes from it in a day: good days
//! earn more, bad days cost. Days begin with the scenario.

use crate::practice::DAY;
use crate::practice::scenario::Volume;

/// A day counts as good if refusals for sending too much were at most so many percent of the
/// attempts, and at least half of what was allowed was used.
const GOOD_PERCENT_MAX: u64 = 2;

/// A day counts as bad from so many percent on.
const BAD_PERCENT_MIN: u64 = 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    reputation: u64,
    /// None before the first look at a volume.
    allowed: Option<u64>,
    day: u64,
    accepted: u64,
    refused: u64,
}

impl Standing {
    /// Of an address with a reputation from 0 to 100.
    pub fn new(reputation: u64) -> Standing {
        Standing {
            reputation: reputation.min(100),
            allowed: None,
            day: 0,
            accepted: 0,
            refused: 0,
        }
    }

    /// Messages that may come on the day of this moment.
    pub fn allowed(&mut self, volume: &Volume, now_us: u64) -> u64 {
        let first = volume.least + (volume.most - volume.least) * self.reputation / 100;
        let mut allowed = self.allowed.unwrap_or(first);
        let day = now_us / DAY;
        if day > self.day {
            allowed = self.after(volume, allowed);
            self.day = day;
            self.accepted = 0;
            self.refused = 0;
        }
        let allowed = allowed.clamp(volume.least, volume.most);
        self.allowed = Some(allowed);
        allowed
    }

    fn after(&self, volume: &Volume, allowed: u64) -> u64 {
        let attempts = self.accepted + self.refused;
        let used = self.accepted * 2 >= allowed;
        if used && self.refused * 100 <= attempts * GOOD_PERCENT_MAX {
            allowed + (allowed * volume.grows / 100).max(u64::from(volume.grows > 0))
        } else if attempts > 0 && self.refused * 100 >= attempts * BAD_PERCENT_MIN {
            allowed - allowed * volume.falls / 100
        } else {
            allowed
        }
    }

    /// Whether one more may come.
    pub fn has_room(&mut self, volume: &Volume, now_us: u64) -> bool {
        let allowed = self.allowed(volume, now_us);
        self.accepted < allowed
    }

    pub fn accept(&mut self) {
        self.accepted += 1;
    }

    /// One was refused because too much had come.
    pub fn refuse(&mut self) {
        self.refused += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: Volume = Volume {
        least: 100,
        most: 1_000,
        grows: 50,
        falls: 30,
    };

    #[test]
    fn good_days_earn_bad_days_cost_and_others_change_nothing() {
        // Accepted and refused on each day, and what is allowed on the next.
        let days = [
            (100, 0, 150),
            (100, 2, 225),
            (100, 0, 225),
            (225, 5, 225),
            (225, 25, 158),
            (0, 0, 158),
            (10, 90, 111),
            (10, 90, 100),
            (0, 7, 100),
        ];
        let mut standing = Standing::new(0);
        assert_eq!(standing.allowed(&VOLUME, 5), 100);
        for (day, (accepted, refused, next)) in days.into_iter().enumerate() {
            let at = day as u64 * DAY + 7;
            standing.allowed(&VOLUME, at);
            for _ in 0..accepted {
                assert!(standing.has_room(&VOLUME, at));
                standing.accept();
            }
            (0..refused).for_each(|_| standing.refuse());
            let allowed = standing.allowed(&VOLUME, (day as u64 + 1) * DAY);
            assert_eq!(allowed, next, "after day {day}");
        }
    }

    #[test]
    fn reputation_is_where_an_address_begins_and_the_bounds_are_kept() {
        for (reputation, first) in [(0, 100), (50, 550), (100, 1_000)] {
            assert_eq!(Standing::new(reputation).allowed(&VOLUME, 0), first);
        }
        let mut best = Standing::new(100);
        assert!(best.has_room(&VOLUME, 0));
        (0..1_000).for_each(|_| best.accept());
        assert!(!best.has_room(&VOLUME, DAY - 1));
        assert_eq!(best.allowed(&VOLUME, DAY), 1_000);
    }
}
