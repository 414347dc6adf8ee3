//! The attempts of the last hour by what became of them, for rules over rates of failures.

use core::time::Duration;

use crate::base::time::Mono;

/// The hour moves on by this.
const PART: Duration = Duration::from_secs(300);
const PARTS: u64 = 12;

/// Bounce classes told apart in one part; there are about twenty.
const CLASSES_MAX: usize = 32;

#[derive(Clone, PartialEq, Debug, Default)]
struct Part {
    number: u64,
    attempts: u64,
    permanent: u64,
    /// Failures by bounce class.
    failures: Vec<(u16, u64)>,
}

/// What an attempt came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    pub class: u16,
    pub permanent: bool,
}

/// The last hour of one queue, known to a twelfth of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sweep {
    parts: Vec<Part>,
    /// The rules that have acted, and when: one acts once for an hour.
    acted: Vec<(usize, bool, Mono)>,
}

impl Sweep {
    pub fn count(&mut self, now: Mono, failure: Option<Failure>) {
        let number = now.0 / PART.as_micros() as u64;
        if self.parts.last().is_none_or(|it| it.number != number) {
            self.parts.retain(|it| it.number + PARTS > number);
            self.parts.push(Part {
                number,
                ..Part::default()
            });
        }
        let Some(part) = self.parts.last_mut() else {
            return;
        };
        part.attempts += 1;
        let Some(failure) = failure else {
            return;
        };
        part.permanent += u64::from(failure.permanent);
        let known = part.failures.iter().position(|it| it.0 == failure.class);
        match known {
            Some(at) => part.failures[at].1 += 1,
            None if part.failures.len() < CLASSES_MAX => part.failures.push((failure.class, 1)),
            None => {}
        }
    }

    fn present(&self, now: Mono) -> impl Iterator<Item = &Part> {
        let number = now.0 / PART.as_micros() as u64;
        self.parts
            .iter()
            .filter(move |it| it.number + PARTS > number)
    }

    pub fn attempts(&self, now: Mono) -> u64 {
        self.present(now).map(|it| it.attempts).sum()
    }

    pub fn permanent(&self, now: Mono) -> u64 {
        self.present(now).map(|it| it.permanent).sum()
    }

    /// Failures of these classes.
    pub fn of_classes(&self, now: Mono, classes: &[u16]) -> u64 {
        let failures = self.present(now).flat_map(|it| &it.failures);
        let of = failures.filter(|(class, _)| classes.contains(class));
        of.map(|(_, count)| count).sum()
    }

    /// True once an hour for each threshold of each rule.
    pub fn may_act(&mut self, now: Mono, rule: usize, high: bool) -> bool {
        self.acted
            .retain(|(_, _, at)| now.since(*at) < PART * PARTS as u32);
        let has = self.acted.iter().any(|it| it.0 == rule && it.1 == high);
        if !has {
            self.acted.push((rule, high, now));
        }
        !has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_hour_old_is_forgotten() {
        let mut sweep = Sweep::default();
        let failure = Failure {
            class: 10,
            permanent: true,
        };
        for second in 0..7_200_u64 {
            let failure = (second % 10 == 0).then_some(failure);
            sweep.count(Mono(second * 1_000_000), failure);
        }
        let now = Mono(7_199 * 1_000_000);
        assert_eq!(sweep.attempts(now), 3_600);
        assert_eq!(sweep.permanent(now), 360);
        assert_eq!(sweep.of_classes(now, &[10, 20]), 360);
        assert_eq!(sweep.of_classes(now, &[20]), 0);
        assert_eq!(sweep.attempts(Mono(20_000 * 1_000_000)), 0);
    }

    #[test]
    fn a_threshold_acts_once_an_hour() {
        let mut sweep = Sweep::default();
        let at = |minutes: u64| Mono(minutes * 60_000_000);
        assert!(sweep.may_act(at(0), 0, false) && !sweep.may_act(at(30), 0, false));
        assert!(sweep.may_act(at(30), 0, true) && sweep.may_act(at(30), 1, false));
        assert!(sweep.may_act(at(61), 0, false));
    }
}
