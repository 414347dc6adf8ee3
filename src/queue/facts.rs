//! What a queue remembers for those who ask why it is slow: what it waited for and how long, what
//! receiving hosts said last, and what became of its messages.

use core::time::Duration;
use std::collections::VecDeque;

use crate::base::time::Mono;
use crate::base::time::Now;
use crate::base::time::Wall;
use crate::types::outcome::Stage;
use crate::types::reply::Class;
use crate::types::reply::Reply;

/// What a queue is waiting for. A queue has one cause at a time, the one nearest to the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// Nothing: there is no mail.
    Idle,
    /// Its turn: work is there and nothing stands in the way.
    Ready,
    /// The receiving host, in the middle of a transaction.
    Delivering,
    Dns,
    Connecting,
    /// The banner of a receiving host, and its answer to EHLO.
    Greeting,
    /// A receiving host that defers what it is given.
    Deferral,
    /// All its mail is delayed, waiting for the next attempt.
    Backoff,
    /// All hosts fail; the whole queue rests.
    HostsFailing,
    /// A connection limit of ours.
    ConnectionLimit,
    /// A throttle of ours.
    Throttle,
    /// A limit that adaptive delivery has set.
    Adaptive,
    /// What a new binding may send in a day.
    WarmUp,
    Suspended,
    /// A body on its way back from its home.
    BodyFetch,
}

impl Cause {
    pub const ALL: [Cause; 15] = [
        Cause::Idle,
        Cause::Ready,
        Cause::Delivering,
        Cause::Dns,
        Cause::Connecting,
        Cause::Greeting,
        Cause::Deferral,
        Cause::Backoff,
        Cause::HostsFailing,
        Cause::ConnectionLimit,
        Cause::Throttle,
        Cause::Adaptive,
        Cause::WarmUp,
        Cause::Suspended,
        Cause::BodyFetch,
    ];

    /// As `pelton why` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Idle => "idle",
            Cause::Ready => "ready",
            Cause::Delivering => "delivering",
            Cause::Dns => "dns",
            Cause::Connecting => "connecting",
            Cause::Greeting => "greeting",
            Cause::Deferral => "remote deferral",
            Cause::Backoff => "backoff",
            Cause::HostsFailing => "hosts failing",
            Cause::ConnectionLimit => "connection limit",
            Cause::Throttle => "throttle",
            Cause::Adaptive => "adaptive limit",
            Cause::WarmUp => "warm-up",
            Cause::Suspended => "suspended",
            Cause::BodyFetch => "body fetch",
        }
    }
}

/// Time spent per cause; the sum is the age of the queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    pub cause: Cause,
    /// When the present cause began.
    pub since: Mono,
    /// When it is expected to end, if that is known.
    pub until: Option<Mono>,
    spent_us: [u64; Cause::ALL.len()],
}

impl Waiting {
    pub fn new(now: Now) -> Waiting {
        let spent_us = [0; Cause::ALL.len()];
        Waiting {
            cause: Cause::Idle,
            since: now.mono,
            until: None,
            spent_us,
        }
    }

    /// Books the time since the last change to the cause that held until now. Telling the same
    /// cause again renews `until` and leaves `since`.
    pub fn set(&mut self, now: Now, cause: Cause, until: Option<Mono>) {
        self.until = until;
        if cause == self.cause {
            return;
        }
        self.spent_us[self.cause as usize] += now.mono.0.saturating_sub(self.since.0);
        self.cause = cause;
        self.since = now.mono;
    }

    /// Time spent with `cause`, the running stretch included.
    pub fn spent(&self, now: Now, cause: Cause) -> Duration {
        let running = if cause == self.cause {
            now.mono.since(self.since)
        } else {
            Duration::ZERO
        };
        Duration::from_micros(self.spent_us[cause as usize]) + running
    }
}

/// The latest reply of one class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    pub reply: Reply,
    pub stage: Stage,
    /// When this code, with this enhanced code, was first heard in the present run.
    pub first: Wall,
    pub last: Wall,
    /// How often in the present run. A reply of the class with another code begins a new run.
    pub count: u64,
}

/// The latest reply of each class; allocated with the first one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replies {
    said: Option<Box<[Option<Said>; 3]>>,
}

impl Replies {
    /// `count` recipients were answered with `reply`. The text is copied only when it changes.
    pub fn note(&mut self, now: Now, reply: &Reply, stage: Stage, count: u64) {
        let said = self.said.get_or_insert_default();
        let place = &mut said[class_index(reply.class())];
        match place {
            Some(said) if said.reply.code == reply.code && same_meaning(said, reply) => {
                said.last = now.wall;
                said.count += count;
                said.stage = stage;
                if said.reply.text != reply.text {
                    said.reply = reply.clone();
                }
            }
            _ => {
                let (first, last) = (now.wall, now.wall);
                *place = Some(Said {
                    reply: reply.clone(),
                    stage,
                    first,
                    last,
                    count,
                });
            }
        }
    }

    pub fn of(&self, class: Class) -> Option<&Said> {
        self.said.as_ref()?[class_index(class)].as_ref()
    }
}

fn same_meaning(said: &Said, reply: &Reply) -> bool {
    said.reply.enhanced == reply.enhanced && said.reply.internal == reply.internal
}

fn class_index(class: Class) -> usize {
    match class {
        Class::Positive => 0,
        Class::Transient => 1,
        Class::Permanent => 2,
    }
}

/// Recipients counted since the queue was made (the columns of Momentum's `mailq` statistics).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    pub receptions: u64,
    pub deliveries: u64,
    /// Failed attempts, of which a message can have many.
    pub transfails: u64,
    /// Refused for good, expired, or out of retries.
    pub permfails: u64,
    /// Taken out otherwise: by an operator, or moved to another queue.
    pub withdrawn: u64,
}

const SECOND_US: i64 = 1_000_000;

/// Stretches of time that [`Ages`] tells apart: what they take is little beside a queue, and an age
/// is known to a 64th of the oldest one.
const STRETCHES_MAX: usize = 128;

/// How many entries of a queue were received in which second of the monotonic clock; in which two,
/// four and so on when there are [`STRETCHES_MAX`] of them. Mail comes in order, so that
/// both ends of the row are where the work is; out of order it is a binary search.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ages {
    /// Numbers of stretches, and entries of each.
    stretches: VecDeque<(i32, u32)>,
    /// A stretch is two to the power of this in seconds.
    power: u32,
}

impl Ages {
    pub fn add(&mut self, received_us: i64) {
        let stretch = self.stretch_of(received_us);
        match self.stretches.back_mut() {
            Some((last, count)) if *last == stretch => *count += 1,
            Some((last, _)) if *last > stretch => {
                match self.stretches.binary_search_by_key(&stretch, |(at, _)| *at) {
                    Ok(index) => self.stretches[index].1 += 1,
                    Err(index) => self.stretches.insert(index, (stretch, 1)),
                }
            }
            _ => self.stretches.push_back((stretch, 1)),
        }
        while self.stretches.len() >= STRETCHES_MAX {
            self.double();
        }
    }

    pub fn remove(&mut self, received_us: i64) {
        let stretch = self.stretch_of(received_us);
        let index = match self.stretches.front() {
            Some((first, _)) if *first == stretch => Ok(0),
            _ => self.stretches.binary_search_by_key(&stretch, |(at, _)| *at),
        };
        let index = index.expect("only what was added is removed");
        self.stretches[index].1 -= 1;
        if self.stretches[index].1 == 0 {
            self.stretches.remove(index);
        }
        if self.stretches.is_empty() {
            *self = Ages::default();
        }
    }

    /// The start of the stretch in which the oldest was received, in monotonic microseconds.
    pub fn oldest_us(&self) -> Option<i64> {
        let (first, _) = self.stretches.front()?;
        Some((i64::from(*first) << self.power) * SECOND_US)
    }

    /// How many were received up to that moment, counting its stretch whole.
    pub fn count_until(&self, received_us: i64) -> u64 {
        let stretch = self.stretch_of(received_us);
        let old = self.stretches.iter().take_while(|(at, _)| *at <= stretch);
        old.map(|(_, count)| u64::from(*count)).sum()
    }

    fn stretch_of(&self, received_us: i64) -> i32 {
        let second = received_us.div_euclid(SECOND_US);
        // What is 68 years off is as good as what is more.
        let second = second.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        second >> self.power
    }

    /// Makes one stretch of every two.
    fn double(&mut self) {
        self.power += 1;
        for (at, _) in &mut self.stretches {
            *at >>= 1;
        }
        let mut kept = 0;
        for index in 1..self.stretches.len() {
            let (at, count) = self.stretches[index];
            if self.stretches[kept].0 == at {
                self.stretches[kept].1 += count;
            } else {
                kept += 1;
                self.stretches[kept] = (at, count);
            }
        }
        self.stretches.truncate(kept + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::reply::Enhanced;

    fn at(secs: u64) -> Now {
        Now {
            mono: Mono(secs * 1_000_000),
            wall: Wall::from_secs(1_000_000 + secs),
        }
    }

    #[test]
    fn time_is_booked_to_the_cause_that_held() {
        let mut waiting = Waiting::new(at(0));
        waiting.set(at(10), Cause::Connecting, None);
        waiting.set(at(12), Cause::Connecting, Some(Mono(99)));
        waiting.set(at(15), Cause::Throttle, None);
        let spent = |cause| waiting.spent(at(20), cause).as_secs();
        assert_eq!(
            (waiting.cause, waiting.since),
            (Cause::Throttle, Mono(15_000_000))
        );
        assert_eq!(Cause::ALL.map(spent).iter().sum::<u64>(), 20);
        assert_eq!(spent(Cause::Idle), 10);
        assert_eq!(spent(Cause::Connecting), 5);
        assert_eq!(spent(Cause::Throttle), 5);
    }

    #[test]
    fn every_cause_has_its_own_place() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
        }
    }

    #[test]
    fn a_run_of_one_reply_is_counted_until_another_comes() {
        let mut replies = Replies::default();
        let busy = Reply::remote(421, Some(Enhanced(4, 7, 28)), "busy");
        replies.note(at(1), &busy, Stage::MailFrom, 2);
        replies.note(at(5), &busy, Stage::MailFrom, 1);
        let ok = Reply::remote(250, None, "queued");
        replies.note(at(6), &ok, Stage::Final, 1);
        let said = replies.of(Class::Transient).expect("noted");
        assert_eq!(
            (said.first, said.last, said.count),
            (at(1).wall, at(5).wall, 3)
        );
        assert_eq!(replies.of(Class::Permanent), None);
        let full = Reply::remote(452, None, "full");
        replies.note(at(9), &full, Stage::RcptTo, 1);
        let said = replies.of(Class::Transient).expect("noted");
        assert_eq!(
            (said.reply.code, said.first, said.count),
            (452, at(9).wall, 1)
        );
    }

    #[test]
    fn ages_follow_what_is_there_in_any_order() {
        let mut ages = Ages::default();
        for second in [5, 3, 9, 3, -2, 9] {
            ages.add(second * SECOND_US + 1);
        }
        assert_eq!(ages.oldest_us(), Some(-2 * SECOND_US));
        assert_eq!(ages.count_until(5 * SECOND_US), 4);
        for second in [-2, 3, 9] {
            ages.remove(second * SECOND_US + 1);
        }
        assert_eq!(ages.oldest_us(), Some(3 * SECOND_US));
        for second in [3, 5, 9] {
            ages.remove(second * SECOND_US + 1);
        }
        assert_eq!(ages, Ages::default());
    }

    #[test]
    fn ages_of_many_seconds_take_little_and_are_known_nearly() {
        let mut ages = Ages::default();
        for second in -100..100_000 {
            ages.add(second * SECOND_US);
        }
        assert!(ages.stretches.len() < STRETCHES_MAX);
        for (before, oldest) in [(-100, 0), (0, 50_000), (50_000, 98_000)] {
            for second in before..oldest {
                ages.remove(second * SECOND_US);
            }
            let found = ages.oldest_us().expect("some are left") / SECOND_US;
            let near = 100_100 / (STRETCHES_MAX as i64 / 2);
            assert!((0..=near).contains(&(oldest - found)), "{oldest}: {found}");
            let count = ages.count_until(i64::MAX);
            assert_eq!(count, (100_000 - oldest) as u64);
        }
        for second in 98_000..100_000 {
            ages.remove(second * SECOND_US);
        }
        assert_eq!(ages, Ages::default());
    }
}
