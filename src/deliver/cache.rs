//! DNS answers of one shard, by question. Bounded: the oldest answer makes room for a new one. A
//! question that has been put to the resolver is remembered as pending, so that it is put once.

use core::time::Duration;

use crate::base::map::Map;
use crate::base::time::Mono;
use crate::deliver::dns_answer::Answer;
use crate::deliver::dns_answer::Found;
use crate::deliver::dns_answer::Question;

/// An answer serves at least this long, so that records with a time to live of zero do not turn
/// every connection into a look-up.
pub const TTL_S_MIN: u32 = 5;

/// No answer serves longer, however far its owner looked ahead.
pub const TTL_S_MAX: u32 = 86_400;

/// How long a failed look-up is believed. Longer than [`TTL_S_MIN`], shorter than any retry.
pub const FAILURE_TTL_S: u32 = 30;

/// After this time a question without an answer may be put again: its answer was lost.
pub const PENDING_MAX: Duration = Duration::from_secs(120);

/// Answers kept by default.
pub const ANSWERS_MAX: usize = 50_000;

enum State {
    Pending { since: Mono },
    Known { answer: Answer, until: Mono },
}

struct Entry {
    state: State,
    /// Failed look-ups in a row.
    failures: u32,
}

/// What the cache has on a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// An answer, good until the given moment, and the number of failed look-ups in a row before
    /// and including it.
    Cached {
        answer: &'a Answer,
        until: Mono,
        failures: u32,
    },
    /// The resolver has the question.
    Pending,
    /// Nobody has asked, or the answer is too old.
    Miss,
}

/// See the head of this file.
pub struct Cache {
    entries: Map<Question, Entry>,
    entries_max: usize,
    /// Where the search for the next victim stands in `entries`.
    hand: usize,
}

impl Cache {
    /// A cache of at most `entries_max` questions, which must not be zero.
    pub fn new(entries_max: usize) -> Cache {
        assert!(entries_max > 0, "a cache holds something");
        Cache {
            entries: Map::default(),
            entries_max,
            hand: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn lookup(&self, now: Mono, question: &Question) -> Lookup<'_> {
        let Some(entry) = self.entries.get(question) else {
            return Lookup::Miss;
        };
        match &entry.state {
            State::Pending { since } if now.since(*since) < PENDING_MAX => Lookup::Pending,
            State::Known { answer, until } if now < *until => Lookup::Cached {
                answer,
                until: *until,
                failures: entry.failures,
            },
            _ => Lookup::Miss,
        }
    }

    /// Notes that the resolver has been asked. The engine sends the question when a look-up is a
    /// miss, and only then.
    pub fn asked(&mut self, now: Mono, question: &Question) {
        let pending = State::Pending { since: now };
        match self.entries.get_mut(question) {
            Some(entry) => entry.state = pending,
            None => self.put(
                question.clone(),
                Entry {
                    state: pending,
                    failures: 0,
                },
            ),
        }
    }

    /// Takes an answer in, asked for or not.
    pub fn insert(&mut self, now: Mono, question: Question, answer: Answer) {
        let failed = matches!(answer.found, Found::Failed(_));
        let ttl_s = if failed {
            FAILURE_TTL_S
        } else {
            answer.ttl_s.clamp(TTL_S_MIN, TTL_S_MAX)
        };
        let until = now + Duration::from_secs(u64::from(ttl_s));
        let earlier = self
            .entries
            .get(&question)
            .map_or(0, |entry| entry.failures);
        let failures = if failed { earlier.saturating_add(1) } else { 0 };
        let entry = Entry {
            state: State::Known { answer, until },
            failures,
        };
        match self.entries.get_mut(&question) {
            Some(old) => *old = entry,
            None => self.put(question, entry),
        }
    }

    /// Forgets a name, so that the next look-up asks again (`refresh domain`). An answer on its
    /// way still arrives.
    pub fn forget(&mut self, question: &Question) {
        self.entries.swap_remove(question);
    }

    fn put(&mut self, question: Question, entry: Entry) {
        while self.entries.len() >= self.entries_max {
            // Removal puts the last entry in the victim's place; the hand moves on, so that every
            // place comes by in turn: first in, first out, up to that one exchange of places.
            self.hand = (self.hand + 1) % self.entries.len();
            self.entries.swap_remove_index(self.hand);
        }
        self.entries.insert(question, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::dns_answer::Failure;

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000)
    }

    fn answer(found: Found, ttl_s: u32) -> Answer {
        Answer { found, ttl_s }
    }

    #[test]
    fn an_answer_serves_for_its_time_within_the_bounds() {
        let question = Question::mx("a.example");
        for (ttl_s, serves) in [
            (0, 5),
            (5, 5),
            (60, 60),
            (86_400, 86_400),
            (u32::MAX, 86_400),
        ] {
            let mut cache = Cache::new(10);
            cache.insert(at(100), question.clone(), answer(Found::NoData, ttl_s));
            let found =
                |seconds| matches!(cache.lookup(at(seconds), &question), Lookup::Cached { .. });
            assert!(found(100 + serves - 1), "{ttl_s}");
            assert!(!found(100 + serves), "{ttl_s}");
        }
    }

    #[test]
    fn a_question_is_pending_until_its_answer_comes_or_is_taken_for_lost() {
        let mut cache = Cache::new(10);
        let question = Question::mx("a.example");
        assert_eq!(cache.lookup(at(0), &question), Lookup::Miss);
        cache.asked(at(0), &question);
        assert_eq!(cache.lookup(at(119), &question), Lookup::Pending);
        assert_eq!(cache.lookup(at(120), &question), Lookup::Miss);
        assert_eq!(
            cache.lookup(at(0), &Question::address("a.example")),
            Lookup::Miss
        );
        cache.insert(at(1), question.clone(), answer(Found::NoName, 60));
        assert!(matches!(
            cache.lookup(at(2), &question),
            Lookup::Cached { failures: 0, .. }
        ));
        cache.forget(&question);
        assert_eq!(cache.lookup(at(2), &question), Lookup::Miss);
    }

    #[test]
    fn failures_in_a_row_are_counted_over_the_time_of_their_answers() {
        let mut cache = Cache::new(10);
        let question = Question::mx("a.example");
        for count in 1..=3 {
            let now = at(u64::from(count) * 100);
            cache.asked(now, &question);
            cache.insert(
                now,
                question.clone(),
                answer(Found::Failed(Failure::Server), 9_999),
            );
            let Lookup::Cached {
                failures, until, ..
            } = cache.lookup(now, &question)
            else {
                panic!("a failure is an answer, too");
            };
            assert_eq!((failures, until), (count, now + Duration::from_secs(30)));
        }
        cache.insert(at(400), question.clone(), answer(Found::NoData, 60));
        assert!(matches!(
            cache.lookup(at(400), &question),
            Lookup::Cached { failures: 0, .. }
        ));
    }

    #[test]
    fn a_full_cache_makes_room_and_never_grows_over_its_bound() {
        let mut cache = Cache::new(16);
        for number in 0..1_000 {
            let question = Question::mx(&format!("{number}.example"));
            cache.asked(at(0), &question);
            cache.insert(at(0), question.clone(), answer(Found::NoData, 60));
            assert!(cache.len() <= 16);
            assert!(matches!(
                cache.lookup(at(0), &question),
                Lookup::Cached { .. }
            ));
        }
        let alive = (984..1_000).filter(|number| {
            let question = Question::mx(&format!("{number}.example"));
            cache.lookup(at(0), &question) != Lookup::Miss
        });
        assert!(alive.count() >= 8, "mostly the old ones went");
    }
}
