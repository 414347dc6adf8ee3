//! Warm-up as queues meet it: a throttle of a day beside the others of a queue, whose rate follows
//! the stages of its binding, and the answers that decide about the next one. Any shard that meets
//! the end of a day judges it; what comes of that goes to the event log and to control.

use std::sync::Arc;

use crate::base::throttle::Throttle;
use crate::base::time::{Mono, Now};
use crate::base::warmup::{Change, Counts, Schedule, View, Warmup};
use crate::deliver::classify::BounceClass;
use crate::engine::Turn;
use crate::engine::io::{Action, Adapted, ToControl};
use crate::engine::owner::adaptive::{Changed, sentence};
use crate::engine::owner::ending::Answered;
use crate::engine::owner::learnt::OPERATOR;
use crate::engine::owner::{Link, Owner};
use crate::engine::query::{LearntAct, LearntPair, LearntWarmup};
use crate::queue::{QueueId, State};
use crate::shape::{self, Cause, Saved, What};
use crate::types::reply::Class;

/// The domain of what is about a binding as a whole.
pub const EVERY_DOMAIN: &str = "*";

/// The rule that changes of warm-up have.
const RULE: &str = "warm-up";

/// Of one link.
pub(super) struct Warming {
    warmup: Arc<Warmup>,
    /// The change of stage that its bookings know of.
    changes: u64,
    /// Its messages that count as waiting.
    waiting: u64,
}

impl Warming {
    /// Nothing for a binding that is not warmed up.
    pub fn of(turn: &Turn<'_>, binding: &str, schedule: Option<&Arc<Schedule>>) -> Option<Warming> {
        let warmup = warmup(turn, binding, schedule?);
        let changes = warmup.changes();
        Some(Warming {
            warmup,
            changes,
            waiting: 0,
        })
    }

    pub fn throttle(&self) -> Option<&Arc<Throttle>> {
        self.warmup.throttle()
    }

    pub fn ends_at(&self) -> Mono {
        self.warmup.ends_at()
    }
}

impl Drop for Warming {
    fn drop(&mut self) {
        self.warmup.waits(self.waiting, 0);
    }
}

fn warmup(turn: &Turn<'_>, binding: &str, schedule: &Arc<Schedule>) -> Arc<Warmup> {
    let (cells, generation) = (&turn.common.cells, turn.common.generation.number);
    let of = (binding, schedule);
    cells
        .warmups
        .get(turn.now, of, &cells.throttles, generation)
}

impl Link {
    /// The queue waits for what its binding may send a day.
    pub(super) fn waits_for_warmup(&self) -> bool {
        let throttle = self.warming.as_ref().and_then(|it| it.throttle());
        let latest = self.bookings.latest().map(|(it, _)| it);
        throttle.is_some_and(|it| latest.is_some_and(|latest| core::ptr::eq(&**it, latest)))
    }

    pub(super) fn warmup_words(&self, now: Now) -> String {
        let Some(warming) = &self.warming else {
            return "waits for a warm-up that has just ended".to_string();
        };
        let view = warming.warmup.view(now);
        match view.allowance() {
            Some(allowance) => format!(
                "{} is warmed up: {} of {allowance} messages of 24 hours have started (stage {} \
                 of {})",
                self.binding,
                view.used,
                view.saved.stage + 1,
                view.stages.len()
            ),
            None => format!("{} is warm", self.binding),
        }
    }
}

impl Owner {
    /// Before a queue is looked at: the day may have ended, its turns may be of no more use, and
    /// others have to know what waits.
    pub(super) fn follow_warmup(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let Some(warming) = &mut link.warming else {
            return;
        };
        let waiting = self.queues.view(queue).map_or(0, |view| {
            let counts = State::ALL.iter().map(|it| u64::from(view.count(*it)));
            counts.sum()
        });
        warming.warmup.waits(warming.waiting, waiting);
        warming.waiting = waiting;
        warming.warmup.look(turn.now);
        let changes = warming.warmup.changes();
        if core::mem::replace(&mut warming.changes, changes) != changes {
            link.bookings.forget(warming.warmup.own_throttle());
        }
        let (warmup, binding) = (warming.warmup.clone(), link.binding.clone());
        self.tell_warmup(turn, &binding, &warmup);
    }

    /// An answer for one recipient.
    pub(super) fn warmup_hears(&mut self, turn: &mut Turn<'_>, queue: QueueId, answer: &Answered) {
        let link = self.links.get(&queue);
        let Some((link, warming)) = link.and_then(|it| Some((it, it.warming.as_ref()?))) else {
            return;
        };
        let class = shape_class(answer);
        warming.warmup.answered(turn.now, |counts: &mut Counts| {
            *match class {
                Heard::Delivered => &mut counts.delivered,
                Heard::Deferred => &mut counts.deferred,
                Heard::Refused => &mut counts.refused,
            } += 1;
        });
        let (warmup, binding) = (warming.warmup.clone(), link.binding.clone());
        self.tell_warmup(turn, &binding, &warmup);
    }

    fn tell_warmup(&mut self, turn: &mut Turn<'_>, binding: &Arc<str>, warmup: &Warmup) {
        let Some(news) = warmup.news(turn.now.mono) else {
            return;
        };
        let mut journal = Vec::new();
        for change in news.changes {
            let by_operator = change.by_operator;
            let change = told(change);
            if !by_operator {
                journal.push(sentence(binding, EVERY_DOMAIN, &change));
            }
            self.told.push(Changed {
                binding: binding.clone(),
                domain: EVERY_DOMAIN.into(),
                change,
            });
        }
        let saved = Saved {
            warmup: Some(news.saved),
            ..Saved::default()
        };
        let adapted = Adapted {
            shard: turn.common.shard,
            binding: binding.clone(),
            domain: EVERY_DOMAIN.into(),
            saved: Some(saved),
            journal,
        };
        turn.out
            .push(Action::Control(ToControl::Adapted(Box::new(adapted))));
    }

    /// The stage that an operator wants for a binding, which one shard says was changed.
    pub(super) fn set_warmup(
        &mut self,
        turn: &mut Turn<'_>,
        binding: &str,
        act: &LearntAct,
    ) -> Result<u64, String> {
        let config = &turn.common.generation.config;
        let unknown = || format!("there is no binding \"{binding}\"");
        let index = config.binding_by_name(binding).ok_or_else(unknown)?;
        let schedule = config.binding_settings(index).warmup.clone();
        let schedule = schedule
            .ok_or_else(|| format!("{binding} is not warmed up: warmup_start is not set there"))?;
        let (stages, wanted) = (
            schedule.stages.len() as u32,
            match act {
                LearntAct::Warmup { stage } => *stage,
                _ => None,
            },
        );
        let stage = match wanted {
            None => stages,
            Some(stage) if (1..=stages).contains(&stage) => stage - 1,
            Some(stage) => return Err(format!("{binding} has stages 1 to {stages}, not {stage}")),
        };
        // Each shard is told: the first one sets it, and all look at what waits for it.
        let warmup = warmup(turn, binding, &schedule);
        warmup.set_stage(turn.now, stage, ("an operator has set it", true));
        self.tell_warmup(turn, &binding.into(), &warmup);
        let of_it = self.links.iter();
        let of_it = of_it.filter(|(_, link)| *link.binding == *binding);
        let queues: Vec<QueueId> = of_it.map(|(queue, _)| *queue).collect();
        for queue in queues {
            self.mark(queue);
        }
        Ok(u64::from(turn.common.owns(binding, EVERY_DOMAIN)))
    }

    /// The bindings that are warmed up, of which this shard is to tell.
    pub fn list_warmups(&mut self, turn: &mut Turn<'_>, binding: Option<&str>) -> Vec<LearntPair> {
        let config = turn.common.generation.config.clone();
        let mut pairs = Vec::new();
        for named in config.bindings() {
            let name = &named.name;
            let Some(schedule) = config.binding_settings(named.index).warmup.as_ref() else {
                continue;
            };
            let wanted = binding.is_none_or(|it| it == name);
            if !wanted || !turn.common.owns(name, EVERY_DOMAIN) {
                continue;
            }
            let warmup = warmup(turn, name, schedule);
            let view = warmup.view(turn.now);
            self.tell_warmup(turn, &name.as_str().into(), &warmup);
            pairs.push(described(name, &view));
        }
        pairs
    }
}

enum Heard {
    Delivered,
    Deferred,
    Refused,
}

/// Blocks are answers to who sends, not to what is sent: they count as deferrals do.
fn shape_class(answer: &Answered) -> Heard {
    let class = super::adaptive::class_of(answer.stage, &answer.reply);
    let blocks = [BounceClass::MailBlock, BounceClass::SpamBlock].map(|it| it.number());
    match answer.reply.class() {
        Class::Positive => Heard::Delivered,
        Class::Permanent if !blocks.map(u16::from).contains(&class) => Heard::Refused,
        _ => Heard::Deferred,
    }
}

fn allowance_text(allowance: Option<u32>) -> String {
    allowance.map_or("warm".to_string(), |it| format!("{it} a day"))
}

fn told(change: Change) -> shape::Change {
    let rule = match change.by_operator {
        true => OPERATOR.to_string(),
        false => format!("{RULE}: {}", change.why),
    };
    shape::Change {
        what: What::Warmup,
        from: Some(allowance_text(change.from)),
        to: Some(allowance_text(change.to)),
        cause: Cause::of(&rule),
        until: None,
    }
}

fn described(binding: &str, view: &View) -> LearntPair {
    let stages = view.stages.len() as u32;
    let counts = view.saved.counts;
    LearntPair {
        binding: binding.to_string(),
        domain: EVERY_DOMAIN.to_string(),
        warmup: Some(LearntWarmup {
            stage: (view.saved.stage < stages).then_some(view.saved.stage + 1),
            stages,
            allowance: view.allowance(),
            used: view.used,
            delivered: counts.delivered,
            deferred: counts.deferred,
            refused: counts.refused,
            why: view.saved.why.clone(),
            judged_at: view.next.rfc3339().to_string(),
        }),
        ..LearntPair::default()
    }
}
