//! Throttles over a restart. Who keeps them writes down what has started, and for windows that are
//! longer than a restart takes, starts are written down ahead of being made: a throttle may only
//! start what has been granted, some at a time. What was granted counts after a kill as started,
//! at the latest moment that it may have been. So a window never carries more than it may, and
//! after a kill one part of it, [`GRANT_PARTS`]th, may stay unused; after an orderly end nothing.
//!
//! Short windows cost nothing: after a kill they begin as if all of one had started at that moment.
//!
//! A [`Keeper`] decides what is to be written and when. It knows of no disk: it gives lines, and is
//! told when they are durable.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Rate, Ring, SLOTS_MAX, State, Throttle};
use crate::base::time::{Mono, Now, Wall};

/// The longest window that is waited for after a kill instead of being written down.
pub const SHORT_MAX: Duration = Duration::from_secs(2);

/// Of how many parts one is granted at a time, and may be lost with a kill.
pub const GRANT_PARTS: u32 = 16;

/// How long starts wait for others to be written down with them.
const GATHER: Duration = Duration::from_secs(1);

/// After so long without a start what was granted is taken back, so that a kill loses nothing.
const QUIET: Duration = Duration::from_secs(10);

/// When a write that has failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Moments that a running process writes of one throttle; the last of an orderly end are exact.
const MOMENTS_MAX: usize = 64;

/// What a kill may make a throttle forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Everything: it belongs to something that ends with the process.
    Never,
    /// What has started in the last moments.
    Lately,
    /// Nothing.
    Always,
}

/// What a throttle may start before the disk has to know of more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Grants {
    /// Numbers below this one may start.
    until: u64,
    /// More is on its way.
    asked: bool,
    /// Somebody waits for more.
    met: bool,
    /// What had started when it was last written down.
    written: u64,
}

impl Grants {
    pub fn of(keep: Keep, rate: Rate, next: u64) -> Option<Grants> {
        let until = match keep {
            Keep::Never => return None,
            Keep::Always if rate.window > SHORT_MAX => next,
            Keep::Lately if rate.window > SHORT_MAX => u64::MAX,
            _ => return None,
        };
        Some(Grants {
            until,
            asked: false,
            met: false,
            written: next,
        })
    }
}

/// Starts granted at a time.
fn part_of(rate: Rate) -> u64 {
    u64::from((rate.count / GRANT_PARTS).max(1))
}

/// What is kept of one throttle.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    pub count: u32,
    pub window_us: u64,
    /// Wall times in microseconds, and how many have started by then and after the one before.
    pub started: Vec<(u64, u64)>,
    /// Those that may have started since.
    pub granted: u64,
}

impl Saved {
    /// Nothing of it limits what comes.
    fn is_over(&self, now: Now) -> bool {
        let window = Duration::from_micros(self.window_us);
        let is_old = |(at_us, _): &(u64, u64)| Wall(*at_us) + window <= now.wall;
        self.granted == 0 && self.started.iter().all(is_old)
    }
}

/// What a run has left.
#[derive(Debug, Default)]
pub struct Kept {
    pub by_name: BTreeMap<String, Saved>,
    /// The run has not come to its end, and when this one began.
    pub killed: Option<Mono>,
    /// Some of it is lost: nothing is known of a throttle that is not named.
    pub damaged: bool,
}

impl Kept {
    /// What lines of the last run say at the start of this one: what was granted may have started
    /// just now, and what limits nothing any more is left out. Gives what is to be written of that.
    pub fn take(&mut self, now: Now, lines: Vec<Line>) -> Vec<(String, Option<Saved>)> {
        let mut changed = Vec::new();
        for (name, mut saved) in lines {
            if saved.granted > 0 {
                let granted = core::mem::take(&mut saved.granted);
                saved.started.push((now.wall.0, granted));
                changed.push((name.clone(), Some(saved.clone())));
            }
            if saved.is_over(now) {
                changed.push((name, None));
            } else {
                self.by_name.insert(name, saved);
            }
        }
        changed
    }
}

impl Throttle {
    /// Whoever has this throttle is to tell who keeps it, once.
    pub fn asks(&self) -> bool {
        self.asks.load(Ordering::Relaxed) && self.asks.swap(false, Ordering::Relaxed)
    }

    /// Whether one more may start as far as the disk is concerned. If not, who keeps the throttle
    /// says when more has been granted.
    pub fn is_granted(&self) -> bool {
        let mut state = self.state();
        self.may_be_next(&mut state)
    }

    pub(super) fn may_be_next(&self, state: &mut State) -> bool {
        let next = state.started.next;
        let Some(grants) = state.grants.as_mut().filter(|it| next >= it.until) else {
            return true;
        };
        grants.met = true;
        if !core::mem::replace(&mut grants.asked, true) {
            self.asks.store(true, Ordering::Relaxed);
        }
        false
    }

    /// One more has started.
    pub(super) fn spent(&self, state: &mut State) {
        let (next, rate) = (state.started.next, state.rate);
        let Some(grants) = state.grants.as_mut().filter(|it| !it.asked) else {
            return;
        };
        if grants.until == u64::MAX || grants.until - next <= part_of(rate) / 2 {
            grants.asked = true;
            self.asks.store(true, Ordering::Relaxed);
        }
    }

    /// The rate of a configuration, if no newer one has said something else.
    pub(super) fn follow(&self, rate: Rate, generation: u64) {
        let mut state = self.state();
        if generation < state.generation {
            return;
        }
        state.generation = generation;
        state.set_rate(rate);
    }

    /// Goes on with what the last run has left.
    pub(super) fn resume(&self, now: Now, left: &mut Kept) {
        let saved = left.by_name.remove(self.name());
        let rate = self.rate();
        let mut state = self.state();
        let is_short = rate.window <= SHORT_MAX;
        let unknown = is_short && left.killed.is_some() || saved.is_none() && left.damaged;
        if unknown && state.keep == Keep::Always {
            let at = left.killed.unwrap_or(now.mono);
            state.started.push_many(at, u64::from(rate.count));
        } else if let Some(saved) = saved.filter(|it| it.count > 0) {
            let former = Rate {
                count: saved.count,
                window: Duration::from_micros(saved.window_us.max(1)),
            };
            let mut started = Ring::new(former);
            for (at_us, count) in saved.started {
                let ago = now.wall.since(Wall(at_us));
                started.push_many(now.mono.before(ago), count);
            }
            let next = started.next;
            state.started = started.resized(rate, next);
        }
        let next = state.started.next;
        state.resumed = next;
        state.booked = state.started.resized(rate, next);
        state.grants = Grants::of(state.keep, rate, next);
    }

    /// What is to be written down of it now, and what may start when that is durable. With
    /// `withdraw` nothing more may before the next grant.
    fn plan(&self, now: Now, withdraw: bool) -> Option<(Saved, Planned)> {
        let mut state = self.state();
        let (next, rate) = (state.started.next, state.rate);
        let room = u64::from(rate.count).saturating_sub(state.recent(now.mono));
        let grants = state.grants.as_mut()?;
        let answers = grants.asked;
        let until = match grants.until {
            u64::MAX => u64::MAX,
            // What no window has room for would be lost with a kill, and of no use before.
            until if answers => {
                let more = part_of(rate).min(room.max(u64::from(grants.met)));
                until.max(next + more)
            }
            _ if withdraw => {
                grants.until = next;
                next
            }
            until => until,
        };
        grants.written = next;
        let granted = if until == u64::MAX { 0 } else { until - next };
        let planned = Planned { until, answers };
        Some((state.saved(now, granted, MOMENTS_MAX), planned))
    }

    /// What was planned is durable. True if somebody waits for it.
    fn grant(&self, planned: Planned) -> bool {
        let mut state = self.state();
        // The rate may have changed meanwhile: then all has to be asked for again.
        let Some(grants) = &mut state.grants else {
            return true;
        };
        // What was asked for while this was being written is yet to be planned.
        grants.asked &= !planned.answers;
        grants.until = grants.until.max(planned.until);
        core::mem::replace(&mut grants.met, false)
    }

    /// Something has started that is not written down.
    fn has_news(&self) -> bool {
        let state = self.state();
        let next = state.started.next;
        state.grants.is_some_and(|it| it.written != next)
    }

    /// Something may start that has not.
    fn has_granted(&self) -> bool {
        let state = self.state();
        let next = state.started.next;
        state
            .grants
            .is_some_and(|it| it.until != u64::MAX && it.until > next)
    }

    /// Of an orderly end: nothing starts any more.
    fn last(&self, now: Now) -> Option<Saved> {
        let state = self.state();
        let saved = state.saved(now, 0, SLOTS_MAX as usize + 1);
        (state.keep != Keep::Never && !saved.started.is_empty()).then_some(saved)
    }
}

/// What may start when something is durable, and whether that is what was asked for.
#[derive(Clone, Copy)]
struct Planned {
    until: u64,
    answers: bool,
}

impl State {
    /// What has started in the window that ends now.
    pub(super) fn recent(&self, now: Mono) -> u64 {
        let window = self.rate.window;
        let all = self.started.moments();
        all.filter(|(at, _)| *at + window > now)
            .map(|(_, count)| count)
            .sum()
    }

    /// Of neighbouring moments that share a place the latest counts.
    fn saved(&self, now: Now, granted: u64, moments_max: usize) -> Saved {
        let window = self.rate.window;
        let recent = self.started.moments();
        let recent: Vec<_> = recent.filter(|(at, _)| *at + window > now.mono).collect();
        let each = recent.len().div_ceil(moments_max).max(1);
        let shared = recent.chunks(each).map(|some| {
            let last = some.last().map_or(now.mono, |(at, _)| *at);
            let count = some.iter().map(|(_, count)| count).sum();
            (now.wall_of(last).0, count)
        });
        Saved {
            count: self.rate.count,
            window_us: window.as_micros() as u64,
            started: shared.collect(),
            granted,
        }
    }
}

/// One line to write.
pub type Line = (String, Saved);

/// Sees to it that throttles are written down in time. One for a process.
#[derive(Default)]
pub struct Keeper {
    open: Vec<Open>,
}

struct Open {
    throttle: Arc<Throttle>,
    due: Mono,
    /// The last start that it has seen was before this.
    quiet_since: Mono,
    /// Being written: what may start then.
    writing: Option<Planned>,
}

impl Keeper {
    /// A throttle asks.
    pub fn asked(&mut self, now: Mono, throttle: Arc<Throttle>) {
        let is_urgent = throttle
            .state()
            .grants
            .is_some_and(|it| it.until != u64::MAX);
        let due = if is_urgent { now } else { now + GATHER };
        let known = |it: &&mut Open| Arc::ptr_eq(&it.throttle, &throttle);
        match self.open.iter_mut().find(known) {
            Some(open) => open.due = open.due.min(due),
            None => self.open.push(Open {
                throttle,
                due,
                quiet_since: now,
                writing: None,
            }),
        }
    }

    /// When [`Self::lines`] has something to give.
    pub fn next(&self) -> Option<Mono> {
        self.open.iter().map(|it| it.due).min()
    }

    /// What is to be written now, to be followed by [`Self::written`] or [`Self::failed`].
    pub fn lines(&mut self, now: Now) -> Vec<Line> {
        let mut lines = Vec::new();
        for open in self.open.iter_mut().filter(|it| it.due <= now.mono) {
            open.due = now.mono + GATHER;
            if open.throttle.has_news() {
                open.quiet_since = now.mono;
            }
            let withdraw = now.mono >= open.quiet_since + QUIET;
            let asks = open.throttle.state().grants.is_some_and(|it| it.asked);
            let is_quiet = open.quiet_since != now.mono && !asks;
            if is_quiet && !(withdraw && open.throttle.has_granted()) {
                continue;
            }
            if let Some((saved, planned)) = open.throttle.plan(now, withdraw) {
                open.writing = Some(planned);
                lines.push((open.throttle.name().to_string(), saved));
            }
        }
        let is_over = |it: &Open| {
            it.writing.is_none() && !it.throttle.has_news() && !it.throttle.has_granted()
        };
        let asks = |it: &Open| it.throttle.state().grants.is_some_and(|it| it.asked);
        self.open.retain(|it| !is_over(it) || asks(it));
        lines
    }

    /// The lines are durable. True if somebody waits for what that allows.
    pub fn written(&mut self) -> bool {
        let planned = self.open.iter_mut();
        let planned = planned.filter_map(|it| Some((&it.throttle, it.writing.take()?)));
        planned.fold(false, |any, (throttle, it)| throttle.grant(it) | any)
    }

    /// They are not. They are tried again.
    pub fn failed(&mut self, now: Mono) {
        for open in &mut self.open {
            if open.writing.take().is_some() {
                open.due = now + RETRY;
            }
        }
    }

    /// What is to be written when nothing starts any more.
    pub fn last(now: Now, all: &[Arc<Throttle>]) -> Vec<Line> {
        let named = |it: &Arc<Throttle>| Some((it.name().to_string(), it.last(now)?));
        all.iter().filter_map(named).collect()
    }
}
