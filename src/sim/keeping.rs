//! What control keeps of throttles, on a disk of its own: slow now and then, and a kill in the
//! middle of a write leaves it done or not.

use std::collections::BTreeMap;

use crate::base::throttle::keep::Keeper;
use crate::base::throttle::keep::Kept;
use crate::base::throttle::keep::Line;
use crate::base::throttle::keep::Saved;
use crate::engine::io::ToShard;
use crate::sim::planted::Planted;
use crate::sim::process::Process;
use crate::sim::scenario::SECOND;
use crate::sim::world::Event;
use crate::sim::world::World;

/// How long a write takes, microseconds; a slow one takes up to a second.
const WRITE_US: (u64, u64) = (200, 20_000);

/// Until a shard hears that more has been granted.
const TOLD_US_MAX: u64 = 1_000;

/// What is durable.
#[derive(Default)]
pub struct OnDisk {
    lines: BTreeMap<String, Saved>,
    /// A process runs, or has been killed.
    running: bool,
}

impl OnDisk {
    fn apply(&mut self, lines: Vec<Line>) {
        self.lines.extend(lines);
    }
}

/// Of one process.
#[derive(Default)]
pub struct Keeping {
    pub keeper: Keeper,
    /// Being written.
    writing: Option<Vec<Line>>,
    planned_us: Option<u64>,
}

impl World {
    /// Gives a process what is on disk.
    pub fn restore_throttles(&mut self) {
        let now = self.now();
        let killed = core::mem::replace(&mut self.kept.running, true);
        let lines: Vec<Line> = core::mem::take(&mut self.kept.lines).into_iter().collect();
        let Some(process) = &self.process else {
            return;
        };
        for cells in process.cells_once() {
            let mut left = Kept {
                killed: killed.then_some(now.mono),
                ..Kept::default()
            };
            left.take(now, lines.clone());
            self.kept.lines.clone_from(&left.by_name);
            if self.planted != Some(Planted::ForgottenStarts) {
                cells.throttles.restore(left);
            }
        }
    }

    /// Gives a process how far its bindings were warmed up.
    pub fn restore_warmups(&mut self) {
        let Some(process) = &self.process else {
            return;
        };
        for ((binding, _), saved) in &self.learnt {
            let Some(saved) = &saved.warmup else {
                continue;
            };
            for cells in process.cells_once() {
                cells.warmups.restore(binding, saved.clone());
            }
        }
    }

    /// After throttles have asked, or something has been written.
    pub fn plan_keeping(&mut self) {
        let (life, now_us) = (self.life(), self.now_us);
        let Some(process) = &mut self.process else {
            return;
        };
        let keeping = &mut process.keeping;
        let Some(next) = keeping.keeper.next().filter(|_| keeping.writing.is_none()) else {
            return;
        };
        let at_us = next.0.saturating_sub(process.mono_ahead_us).max(now_us + 1);
        if keeping.planned_us.is_none_or(|planned| at_us < planned) {
            keeping.planned_us = Some(at_us);
            self.schedule.plan(at_us, Event::Keep { life, at_us });
        }
    }

    pub fn keep(&mut self, life: u32, at_us: u64) {
        let now = self.now();
        let is_current = life == self.life();
        let Some(process) = self.process.as_mut().filter(|_| is_current) else {
            return;
        };
        let keeping = &mut process.keeping;
        if keeping.planned_us != Some(at_us) {
            return;
        }
        keeping.planned_us = None;
        let lines = keeping.keeper.lines(now);
        if lines.is_empty() {
            return self.plan_keeping();
        }
        keeping.writing = Some(lines);
        let life_prng = &mut self.streams.recovery;
        let took_us = match !self.switches.calm && life_prng.chance(1, 20) {
            true => life_prng.below(SECOND),
            false => life_prng.between(WRITE_US.0, WRITE_US.1),
        };
        self.plan(took_us, Event::Kept { life });
    }

    pub fn kept(&mut self, life: u32) {
        let now = self.now();
        let is_current = life == self.life();
        let fails = !self.switches.calm && self.streams.recovery.chance(1, 20);
        let Some(process) = self.process.as_mut().filter(|_| is_current) else {
            return;
        };
        let (shards, keeping) = (process.shards(), &mut process.keeping);
        let lines = keeping.writing.take().unwrap_or_default();
        if fails {
            keeping.keeper.failed(now.mono);
            return self.plan_keeping();
        }
        self.kept.apply(lines);
        if keeping.keeper.written() {
            for shard in 0..shards {
                let message = Box::new(ToShard::Reserved);
                let after_us = self.streams.recovery.below(TOLD_US_MAX);
                let event = Event::Control {
                    life,
                    shard,
                    message,
                };
                self.plan(after_us, event);
            }
        }
        self.plan_keeping();
    }

    /// A process has been killed, or has come to its end.
    pub fn end_keeping(&mut self, process: &mut Process, orderly: bool) {
        let writing = process.keeping.writing.take();
        if let Some(lines) = writing
            && (orderly || self.streams.recovery.chance(1, 2))
        {
            self.kept.apply(lines);
        }
        if orderly {
            let now = process.now(self.now_us, self.wall());
            for cells in process.cells_once() {
                self.kept.apply(Keeper::last(now, &cells.throttles.all()));
            }
            self.kept.running = false;
        }
    }
}
