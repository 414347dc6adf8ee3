//! Warm-up: so much mail a day until receivers know an address, stage by stage, over all shards
//! together. What a stage allows is a throttle of one day, which counts after a restart too; so no
//! 24 hours ever carry more than the allowance that holds at their end.
//!
//! When the day changes in UTC, or with the first look after that, the day is judged: if enough of
//! the allowance was delivered and few messages were deferred or blocked, the next stage begins. A
//! day with too many of those holds the stage, one with twice as many gives the one before. A day
//! with less mail holds it too. After the last stage the binding is warm and nothing limits it.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::base::map::Map;
use crate::base::throttle::keep::Keep;
use crate::base::throttle::{Rate, Throttle, Throttles, Wanted};
use crate::base::time::{Mono, Now, Wall};

/// Of the allowance of a day, what has to be delivered for the next stage.
pub const COMPLETE_PERCENT: u64 = 90;

/// The most stages that a schedule may have.
pub const STAGES_MAX: usize = 1_000;

const DAY: Duration = Duration::from_secs(86_400);

/// Answers are written down at least so often in an allowance, and after this time.
const PARTS: u32 = 64;
const WRITTEN_EVERY: Duration = Duration::from_secs(60);

/// What the configuration says of one binding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// From when days are judged. Another one begins anew.
    pub start: Wall,
    /// Messages of a day, growing. Not empty.
    pub stages: Arc<[u32]>,
    /// Messages of a day that may be deferred or blocked.
    pub deferral_percent: u32,
}

/// The answers of one day.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    pub delivered: u64,
    /// Deferred or blocked.
    pub deferred: u64,
    /// Ended otherwise.
    pub refused: u64,
}

impl Counts {
    pub fn all(&self) -> u64 {
        self.delivered + self.deferred + self.refused
    }
}

/// What is kept of one binding.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    pub start_us: u64,
    /// From 0; as many as there are: warm.
    pub stage: u32,
    /// Days since 1970: the one that is counted.
    pub day: u64,
    pub counts: Counts,
    /// What the last day has led to.
    pub why: String,
    /// Grows with every change, so that of two states the later one is known.
    pub version: u64,
}

/// The stage that follows a day, and why.
pub fn judged(schedule: &Schedule, stage: u32, counts: Counts) -> (u32, String) {
    let Some(allowance) = schedule.stages.get(stage as usize).copied() else {
        return (stage, "warm".to_string());
    };
    let Counts {
        delivered,
        deferred,
        ..
    } = counts;
    let all = counts.all();
    let bound = u64::from(schedule.deferral_percent);
    let of = format!("{deferred} of {all} were deferred or blocked, {bound} % may be");
    let share = deferred * 100;
    if share > all * bound * 2 {
        (stage.saturating_sub(1), format!("{of}: a bad day"))
    } else if share > all * bound {
        (stage, of)
    } else if delivered * 100 >= u64::from(allowance) * COMPLETE_PERCENT {
        (stage + 1, format!("{delivered} of {allowance} delivered"))
    } else {
        let needed = format!("the next stage takes {COMPLETE_PERCENT} %");
        (
            stage,
            format!("{delivered} of {allowance} delivered, {needed}"),
        )
    }
}

/// A stage has become another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Messages a day; nothing: warm.
    pub from: Option<u32>,
    pub to: Option<u32>,
    pub why: String,
    /// An operator said so.
    pub by_operator: bool,
}

/// What is to be kept and told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    pub saved: Saved,
    pub changes: Vec<Change>,
}

/// The warm-up of one binding.
#[derive(Debug)]
pub struct Warmup {
    throttle: Arc<Throttle>,
    is_warm: AtomicBool,
    /// Changes with the stage: turns that were booked before are of no use.
    changes: AtomicU64,
    /// When the day ends, in microseconds of the monotonic clock.
    ends_us: AtomicU64,
    /// Messages in its queues.
    waiting: AtomicU64,
    day: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    schedule: Arc<Schedule>,
    generation: u64,
    saved: Saved,
    changed: Vec<Change>,
    is_news: bool,
    written: (Mono, u64),
}

/// As whoever asks sees it.
#[derive(Clone, Debug)]
pub struct View {
    pub saved: Saved,
    pub stages: Arc<[u32]>,
    pub used: u64,
    /// When the next day begins.
    pub next: Wall,
}

impl View {
    pub fn allowance(&self) -> Option<u32> {
        self.stages.get(self.saved.stage as usize).copied()
    }
}

impl Warmup {
    /// What limits its messages; nothing once it is warm.
    pub fn throttle(&self) -> Option<&Arc<Throttle>> {
        (!self.is_warm.load(Ordering::Relaxed)).then_some(&self.throttle)
    }

    /// The same, warm or not.
    pub fn own_throttle(&self) -> &Arc<Throttle> {
        &self.throttle
    }

    /// How often its stage has changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// When the day ends, as far as that is known.
    pub fn ends_at(&self) -> Mono {
        Mono(self.ends_us.load(Ordering::Relaxed))
    }

    /// In one of its queues so many messages wait instead of as many as before.
    pub fn waits(&self, before: u64, now: u64) {
        let more = now.wrapping_sub(before);
        self.waiting.fetch_add(more, Ordering::Relaxed);
    }

    /// What is left of its allowance is taken by what waits for it already.
    pub fn is_full(&self, now: Mono) -> bool {
        let Some(throttle) = self.throttle() else {
            return false;
        };
        let free = u64::from(throttle.rate().count).saturating_sub(throttle.used(now));
        self.waiting.load(Ordering::Relaxed) >= free
    }

    /// Counts one answer.
    pub fn answered(&self, now: Now, count: impl FnOnce(&mut Counts)) {
        self.look(now);
        let mut state = self.state();
        count(&mut state.saved.counts);
        let all = state.saved.counts.all();
        let part = u64::from(self.throttle.rate().count / PARTS).max(1);
        let (at, written) = state.written;
        if all >= written + part || all < written || now.mono >= at + WRITTEN_EVERY {
            state.is_news = true;
        }
    }

    /// Judges the day if another one has begun.
    pub fn look(&self, now: Now) {
        if now.mono < self.ends_at() {
            return;
        }
        let mut state = self.state();
        let day_us = self.day.as_micros() as u64;
        let today = now.wall.0 / day_us;
        let next = Wall((today + 1) * day_us);
        self.ends_us.store(now.mono_of(next).0, Ordering::Relaxed);
        if state.saved.day >= today {
            return;
        }
        let (first, stage) = (state.schedule.start.0 / day_us, state.saved.stage);
        let was_counted = state.saved.day >= first && state.saved.day > 0;
        let is_warm = stage as usize >= state.schedule.stages.len();
        let counts = core::mem::take(&mut state.saved.counts);
        state.saved.day = today;
        state.is_news = true;
        if was_counted && !is_warm {
            let (to, why) = judged(&state.schedule, stage, counts);
            self.set(&mut state, to, why, false);
        }
    }

    /// The stage that an operator or a rule wants; one behind the last is warm.
    pub fn set_stage(&self, now: Now, stage: u32, (why, by_operator): (&str, bool)) {
        self.look(now);
        let mut state = self.state();
        state.is_news = true;
        state.saved.counts = Counts::default();
        self.set(&mut state, stage, why.to_string(), by_operator);
    }

    fn set(&self, state: &mut State, to: u32, why: String, by_operator: bool) {
        let stages = state.schedule.stages.clone();
        let allowance = |stage: u32| stages.get(stage as usize).copied();
        let (from, to) = (state.saved.stage, to.min(stages.len() as u32));
        state.saved.why.clone_from(&why);
        state.saved.stage = to;
        self.follow_stage(state);
        if from != to {
            state.changed.push(Change {
                from: allowance(from),
                to: allowance(to),
                why,
                by_operator,
            });
        }
    }

    fn follow_stage(&self, state: &State) {
        let allowance = state.schedule.stages.get(state.saved.stage as usize);
        self.is_warm.store(allowance.is_none(), Ordering::Relaxed);
        if let Some(count) = allowance.copied() {
            let window = self.day;
            self.throttle.set_rate(Rate { count, window });
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Another configuration.
    fn follow(&self, schedule: &Arc<Schedule>, generation: u64) {
        let mut state = self.state();
        if generation < state.generation || *state.schedule == **schedule {
            return;
        }
        state.generation = generation;
        state.schedule = schedule.clone();
        if state.saved.start_us != schedule.start.0 {
            let version = state.saved.version;
            state.saved = begun(schedule, version);
        }
        state.saved.stage = state.saved.stage.min(schedule.stages.len() as u32);
        state.is_news = true;
        self.ends_us.store(0, Ordering::Relaxed);
        self.follow_stage(&state);
    }

    /// What has to be kept and told since the last call, if anything.
    pub fn news(&self, now: Mono) -> Option<News> {
        let mut state = self.state();
        if !core::mem::take(&mut state.is_news) {
            return None;
        }
        state.saved.version += 1;
        state.written = (now, state.saved.counts.all());
        Some(News {
            saved: state.saved.clone(),
            changes: core::mem::take(&mut state.changed),
        })
    }

    pub fn view(&self, now: Now) -> View {
        self.look(now);
        let state = self.state();
        let day_us = self.day.as_micros() as u64;
        View {
            saved: state.saved.clone(),
            stages: state.schedule.stages.clone(),
            used: self.throttle.used(now.mono),
            next: Wall((now.wall.0 / day_us + 1) * day_us),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn begun(schedule: &Schedule, version: u64) -> Saved {
    Saved {
        start_us: schedule.start.0,
        version,
        ..Saved::default()
    }
}

/// Those of a process, by binding.
#[derive(Debug)]
pub struct Warmups {
    /// How long a day is. Whoever simulates has shorter ones.
    day: Duration,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_binding: Map<Box<str>, Arc<Warmup>>,
    left: Map<Box<str>, Saved>,
}

impl Default for Warmups {
    fn default() -> Warmups {
        Warmups::with_day(DAY)
    }
}

impl Warmups {
    pub fn with_day(day: Duration) -> Warmups {
        Warmups {
            day,
            known: Mutex::default(),
        }
    }

    /// What the last run has left. Before anybody asks for one.
    pub fn restore(&self, binding: &str, saved: Saved) {
        self.known().left.insert(binding.into(), saved);
    }

    /// The warm-up of a binding, as the configuration of this number has it.
    pub fn get(
        &self,
        now: Now,
        (binding, schedule): (&str, &Arc<Schedule>),
        throttles: &Throttles,
        generation: u64,
    ) -> Arc<Warmup> {
        let mut known = self.known();
        if let Some(found) = known.by_binding.get(binding) {
            found.follow(schedule, generation);
            return found.clone();
        }
        let left = known.left.swap_remove(binding).unwrap_or_default();
        let mut saved = match left.start_us == schedule.start.0 {
            true => left,
            false => begun(schedule, left.version),
        };
        saved.stage = saved.stage.min(schedule.stages.len() as u32);
        let last = schedule.stages.len().saturating_sub(1);
        let stage = (saved.stage as usize).min(last);
        let count = schedule.stages.get(stage).copied().unwrap_or(1);
        let throttle = throttles.get(
            now,
            Wanted {
                name: &format!("warmup_schedule of binding \"{binding}\""),
                rate: Rate {
                    count,
                    window: self.day,
                },
                generation,
                keep: Keep::Always,
            },
        );
        let made = Arc::new(Warmup {
            throttle,
            is_warm: AtomicBool::new(saved.stage as usize > last),
            changes: AtomicU64::new(0),
            ends_us: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            day: self.day,
            state: Mutex::new(State {
                schedule: schedule.clone(),
                generation,
                written: (now.mono, saved.counts.all()),
                saved,
                changed: Vec::new(),
                is_news: false,
            }),
        });
        made.look(now);
        known.by_binding.insert(binding.into(), made.clone());
        made
    }

    /// One that somebody has asked for.
    pub fn find(&self, binding: &str) -> Option<Arc<Warmup>> {
        self.known().by_binding.get(binding).cloned()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(stages: &[u32]) -> Arc<Schedule> {
        Arc::new(Schedule {
            start: Wall(0),
            stages: stages.into(),
            deferral_percent: 10,
        })
    }

    #[test]
    fn a_day_is_judged_by_what_was_delivered_and_deferred() {
        let schedule = schedule(&[100, 200, 400]);
        let cases = [
            ((0, 90, 10, 0), 1),
            ((0, 89, 0, 0), 0),
            ((0, 0, 0, 0), 0),
            ((1, 180, 0, 20), 2),
            ((1, 180, 21, 0), 1),
            ((1, 79, 21, 0), 0),
            ((0, 79, 21, 0), 0),
            ((2, 360, 40, 0), 3),
            ((3, 0, 900, 0), 3),
        ];
        for ((stage, delivered, deferred, refused), expected) in cases {
            let counts = Counts {
                delivered,
                deferred,
                refused,
            };
            let (to, why) = judged(&schedule, stage, counts);
            assert_eq!(to, expected, "{stage} {counts:?}: {why}");
        }
    }

    fn at(second: u64) -> Now {
        Now {
            mono: Mono(second * 1_000_000),
            wall: Wall::from_secs(1_790_000_000 / 86_400 * 86_400 + second),
        }
    }

    #[test]
    fn every_day_has_its_allowance_until_the_binding_is_warm_and_a_restart_goes_on() {
        let schedule = schedule(&[2, 4]);
        let (throttles, warmups) = (Throttles::default(), Warmups::default());
        let get = |warmups: &Warmups, now: Now| warmups.get(now, ("a", &schedule), &throttles, 1);
        let warmup = get(&warmups, at(0));
        let day = 86_400;
        let mut started = Vec::new();
        for number in 0..3 {
            let now = at(number * day + 1);
            warmup.look(now);
            let throttle = warmup.throttle().cloned();
            // What the disk has to know is granted elsewhere: here only the rate counts.
            started.push(throttle.map(|it| it.rate().count));
            for _ in 0..4 {
                warmup.answered(now, |it| it.delivered += 1);
            }
        }
        assert_eq!(started, [Some(2), Some(4), None]);
        let news = warmup.news(at(2 * day + 1).mono).expect("it has changed");
        let tos: Vec<_> = news.changes.iter().map(|it| (it.from, it.to)).collect();
        assert_eq!(tos, [(Some(2), Some(4)), (Some(4), None)]);
        let next = Warmups::default();
        next.restore("a", news.saved);
        assert!(get(&next, at(2 * day + 2)).throttle().is_none());
        warmup.set_stage(at(2 * day + 3), 0, ("somebody says so", true));
        let allowance = warmup.throttle().map(|it| it.rate().count);
        assert_eq!(allowance, Some(2));
    }

    #[test]
    fn a_day_without_mail_and_days_in_a_row_hold_the_stage_and_a_later_start_begins_anew() {
        let first = schedule(&[2, 4]);
        let (throttles, warmups) = (Throttles::default(), Warmups::default());
        let warmup = warmups.get(at(0), ("a", &first), &throttles, 1);
        warmup.set_stage(at(0), 1, ("", true));
        warmup.look(at(86_400 * 9));
        let view = warmup.view(at(86_400 * 9));
        assert_eq!(view.allowance(), Some(4));
        assert!(view.saved.why.starts_with("0 of 4"), "{}", view.saved.why);
        let later = Arc::new(Schedule {
            start: at(86_400).wall,
            ..(*first).clone()
        });
        warmups.get(at(86_400 * 9), ("a", &first), &throttles, 0);
        assert_eq!(warmup.view(at(86_400 * 9)).allowance(), Some(4));
        warmups.get(at(86_400 * 9), ("a", &later), &throttles, 2);
        assert_eq!(warmup.view(at(86_400 * 9)).allowance(), Some(2));
    }

    #[test]
    fn what_waits_takes_what_is_left() {
        let schedule = schedule(&[3]);
        let (throttles, warmups) = (Throttles::default(), Warmups::default());
        let warmup = warmups.get(at(0), ("a", &schedule), &throttles, 1);
        warmup.waits(0, 2);
        assert!(!warmup.is_full(at(0).mono));
        warmup.waits(2, 3);
        assert!(warmup.is_full(at(0).mono));
        warmup.waits(3, 2);
        assert!(!warmup.is_full(at(0).mono));
    }
}
