//! How often the rules of one pair have matched.

use std::collections::VecDeque;

use crate::base::time::Mono;
use crate::config::adaptive::Trigger;

/// The moments at which each rule has matched since it last acted, by the rule's place.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Counters {
    matched: Vec<(usize, VecDeque<Mono>)>,
}

impl Counters {
    /// Counts a match. True if the rule is to act, which begins its count anew.
    pub fn count(&mut self, now: Mono, rule: usize, trigger: Trigger) -> bool {
        if trigger.matches <= 1 {
            return true;
        }
        let known = self.matched.iter().position(|(it, _)| *it == rule);
        let place = known.unwrap_or_else(|| {
            self.matched.push((rule, VecDeque::new()));
            self.matched.len() - 1
        });
        let moments = &mut self.matched[place].1;
        if let Some(within) = trigger.within {
            while moments.front().is_some_and(|it| now.since(*it) >= within) {
                moments.pop_front();
            }
        }
        moments.push_back(now);
        let acts = moments.len() >= trigger.matches as usize;
        if acts {
            self.matched.swap_remove(place);
        }
        acts
    }
}
