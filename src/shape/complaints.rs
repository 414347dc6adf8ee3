//! Complaints of recipients against what was delivered, over a day. Feedback reports come in by
//! the hour or day, so that an hour of them would say nothing. Counted by the hours of the wall
//! clock, because they have to outlive the process.

use serde::{Deserialize, Serialize};

use crate::base::time::Wall;

/// A day.
const HOURS: u64 = 24;

/// Categories told apart in one hour; RFC 5965 7.3 names four.
const CATEGORIES_MAX: usize = 16;

/// The last day of one pair, known to the hour.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Day {
    hours: Vec<Hour>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Hour {
    /// Since 1970.
    number: u64,
    delivered: u64,
    complaints: Vec<(String, u64)>,
}

impl Day {
    fn hour(&mut self, now: Wall) -> &mut Hour {
        // A clock that was put back adds to the last hour that there is.
        let last = self.hours.last().map_or(0, |it| it.number);
        let number = (now.secs() / 3_600).max(last);
        if self.hours.last().is_none_or(|it| it.number != number) {
            self.hours.retain(|it| it.number + HOURS > number);
            self.hours.push(Hour {
                number,
                ..Hour::default()
            });
        }
        let last = self.hours.len() - 1;
        &mut self.hours[last]
    }

    pub fn delivered_one(&mut self, now: Wall) {
        self.hour(now).delivered += 1;
    }

    /// So many complaints of one category. False if it has too many categories already.
    pub fn complained(&mut self, now: Wall, category: &str, count: u64) -> bool {
        let complaints = &mut self.hour(now).complaints;
        let known = complaints.iter().position(|(it, _)| it == category);
        match known {
            Some(at) => complaints[at].1 = complaints[at].1.saturating_add(count),
            None if complaints.len() < CATEGORIES_MAX => {
                complaints.push((category.to_string(), count));
            }
            None => return false,
        }
        true
    }

    fn present(&self, now: Wall) -> impl Iterator<Item = &Hour> {
        let number = now.secs() / 3_600;
        self.hours
            .iter()
            .filter(move |it| it.number + HOURS > number)
    }

    pub fn deliveries(&self, now: Wall) -> u64 {
        self.present(now).map(|it| it.delivered).sum()
    }

    /// Complaints of these categories.
    pub fn of<'a>(&self, now: Wall, categories: impl Iterator<Item = &'a str> + Clone) -> u64 {
        let all = self.present(now).flat_map(|it| &it.complaints);
        let of = all.filter(|(category, _)| categories.clone().any(|it| it == category));
        of.map(|(_, count)| count).sum()
    }

    /// Every category with its count.
    pub fn by_category(&self, now: Wall) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = Vec::new();
        for (category, count) in self.present(now).flat_map(|it| &it.complaints) {
            match all.iter_mut().find(|(it, _)| it == category) {
                Some((_, sum)) => *sum += count,
                None => all.push((category.clone(), *count)),
            }
        }
        all
    }

    pub fn is_empty(&self) -> bool {
        self.hours.is_empty()
    }

    pub fn has_complaints(&self) -> bool {
        self.hours.iter().any(|it| !it.complaints.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64) -> Wall {
        Wall::from_secs(1_790_000_000 + hours * 3_600)
    }

    #[test]
    fn a_day_is_counted_and_what_is_older_is_forgotten() {
        let mut day = Day::default();
        for hour in 0..48 {
            (0..10).for_each(|_| day.delivered_one(at(hour)));
            assert!(day.complained(at(hour), "abuse", 2));
        }
        day.complained(at(47), "fraud", 1);
        let of = |day: &Day, hour, names: &[&'static str]| day.of(at(hour), names.iter().copied());
        assert_eq!(day.deliveries(at(47)), 240);
        assert_eq!(of(&day, 47, &["abuse"]), 48);
        assert_eq!(of(&day, 47, &["abuse", "fraud"]), 49);
        assert_eq!(of(&day, 60, &["abuse"]), 22);
        assert_eq!(day.deliveries(at(71)), 0);
        assert_eq!(day.hours.len(), 24, "no more is kept");
        // A clock put back counts, and does not bring old hours back.
        day.delivered_one(at(3));
        assert_eq!(day.deliveries(at(47)), 241);
    }

    #[test]
    fn categories_have_a_bound() {
        let mut day = Day::default();
        let taken = (0..40).filter(|it| day.complained(at(0), &format!("c{it}"), 1));
        assert_eq!(taken.count(), CATEGORIES_MAX);
    }
}
