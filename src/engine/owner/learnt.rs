//! What adaptive delivery has learnt, for whoever asks, and what an operator makes of it.

use core::time::Duration;
use std::sync::Arc;

use crate::base::time::{Now, Wall};
use crate::config::BindingIndex;
use crate::config::adaptive::{AdaptiveSettings, complaint_category, parse_set};
use crate::engine::Turn;
use crate::engine::io::{Action, Adapted, ToControl};
use crate::engine::owner::Owner;
use crate::engine::owner::adaptive::{Adaptive, Changed, Pair, sentence};
use crate::engine::query::{LearntAct, LearntCause, LearntComplaints, LearntPair};
use crate::engine::query::{LearntSet, LearntStop};
use crate::queue::State;
use crate::shape::{Cause, Shape, What, rate_text};

/// Pairs that one shard lists at most.
const LISTED_MAX: usize = 10_000;

/// The rule that an operator's changes have.
pub const OPERATOR: &str = crate::shape::BY_OPERATOR;

impl Owner {
    /// Pairs of which something has been learnt, those with a queue first.
    pub fn list_learnt(
        &self,
        now: Now,
        binding: Option<&str>,
        domain: Option<&str>,
    ) -> Vec<LearntPair> {
        let wanted = |of: &Arc<str>, to: &Arc<str>| {
            binding.is_none_or(|it| **of == *it) && domain.is_none_or(|it| **to == *it)
        };
        let links = self.links.iter().filter_map(|(queue, link)| {
            let shape = &link.adaptive.as_ref()?.shape;
            let learnt = shape.saved().is_of_note() && wanted(&link.binding, &link.domain);
            learnt.then(|| {
                let view = self.queues.view(*queue);
                let waits = view.map_or(0, |view| {
                    State::ALL.iter().map(|it| u64::from(view.count(*it))).sum()
                });
                described(now, (&link.binding, &link.domain), shape, waits)
            })
        });
        let shelf = self.shelf.iter().filter_map(|((of, to), saved)| {
            let learnt = saved.is_of_note() && wanted(of, to);
            let shape = learnt.then(|| Shape::restored(now, saved.clone()))?;
            Some(described(now, (of, to), &shape, 0))
        });
        links.chain(shelf).take(LISTED_MAX).collect()
    }

    /// Does something to the pairs named, of which this shard may own some. Counts them; the error
    /// says why there is nothing to be done.
    pub fn act_on_learnt(
        &mut self,
        turn: &mut Turn<'_>,
        (binding, domain): (Option<&str>, Option<&str>),
        act: &LearntAct,
    ) -> Result<u64, String> {
        if let LearntAct::Warmup { .. } = act {
            let binding = binding.ok_or("warm-up is of one binding: name it")?;
            return self.set_warmup(turn, binding, act);
        }
        if let LearntAct::Set { assignment, .. } = act {
            let (Some(binding), Some(domain)) = (binding, domain) else {
                return Err("a value is for one binding and one domain: name both".to_string());
            };
            // Whoever does not own it has nothing to say, but a mistake is one everywhere.
            parse_set(assignment)?;
            if !turn.common.owns(binding, domain) {
                return Ok(0);
            }
            return self.act_on_pair(turn, (binding.into(), domain.into()), act);
        }
        if let LearntAct::Complaints { category, .. } = act {
            let (Some(binding), Some(domain)) = (binding, domain) else {
                return Err("complaints are about one binding and one domain: name both".into());
            };
            complaint_category(category).map_err(|why| format!("{category} {why}"))?;
            if turn
                .common
                .generation
                .config
                .binding_by_name(binding)
                .is_none()
            {
                return Err(format!("there is no binding \"{binding}\""));
            }
            if !turn.common.owns(binding, domain) {
                return Ok(0);
            }
            return self.act_on_pair(turn, (binding.into(), domain.into()), act);
        }
        let pairs = self.list_learnt(turn.now, binding, domain).into_iter();
        let pairs: Vec<Pair> = pairs
            .map(|it| (it.binding.into(), it.domain.into()))
            .collect();
        let mut changed = 0;
        for pair in pairs {
            changed += self.act_on_pair(turn, pair, act)?;
        }
        Ok(changed)
    }

    fn act_on_pair(
        &mut self,
        turn: &mut Turn<'_>,
        pair: Pair,
        act: &LearntAct,
    ) -> Result<u64, String> {
        let config = &turn.common.generation.config;
        let index = config.binding_by_name(&pair.0).unwrap_or(BindingIndex(0));
        let Some(settings) = config.delivery(index, &pair.1).adaptive else {
            return Err(format!(
                "{} to {} does not adapt: adaptive_enabled is not set there",
                pair.0, pair.1
            ));
        };
        let queue = self.queues.find(&pair.0, &pair.1);
        let link = queue.and_then(|queue| Some((queue, self.links.get_mut(&queue)?)));
        if let Some((queue, link)) = link {
            let now = turn.now;
            let adaptive = link
                .adaptive
                .get_or_insert_with(|| Box::new(Adaptive::new(Shape::new(now))));
            if !acted(now, &settings, &mut adaptive.shape, act)? {
                return Ok(0);
            }
            self.changed(turn, queue);
            return Ok(1);
        }
        let saved = self.shelf.get(&pair).cloned().unwrap_or_default();
        let mut shape = Shape::restored(turn.now, saved);
        if !acted(turn.now, &settings, &mut shape, act)? {
            return Ok(0);
        }
        let mut journal = Vec::new();
        for change in shape.take_changes() {
            if change.cause.rule != OPERATOR {
                journal.push(sentence(&pair.0, &pair.1, &change));
            }
            self.told.push(Changed {
                binding: pair.0.clone(),
                domain: pair.1.clone(),
                change,
            });
        }
        let saved = shape.saved();
        if saved.is_empty() {
            self.shelf.swap_remove(&pair);
        } else {
            self.put_on_shelf(pair.clone(), saved.clone());
        }
        let adapted = Adapted {
            shard: turn.common.shard,
            binding: pair.0,
            domain: pair.1,
            saved: Some(saved).filter(|it| !it.is_empty()),
            journal,
        };
        turn.out
            .push(Action::Control(ToControl::Adapted(Box::new(adapted))));
        Ok(1)
    }
}

/// True if there was something to do.
fn acted(
    now: Now,
    settings: &AdaptiveSettings,
    shape: &mut Shape,
    act: &LearntAct,
) -> Result<bool, String> {
    Ok(match act {
        // Of a binding, not of a pair.
        LearntAct::Warmup { .. } => false,
        LearntAct::Reset => {
            shape.reset(now, OPERATOR);
            true
        }
        LearntAct::Resume => shape.resume(now, OPERATOR),
        LearntAct::Set {
            assignment,
            seconds,
        } => {
            let set = parse_set(assignment)?;
            let time = Duration::from_secs(*seconds);
            shape.set(now, settings.clipped(set), time, Cause::of(OPERATOR));
            true
        }
        LearntAct::Complaints { category, count } => {
            let category = complaint_category(category)?;
            shape.complained(now, settings, (&category, *count))?;
            true
        }
    })
}

fn described(
    now: Now,
    (binding, domain): (&Arc<str>, &Arc<str>),
    shape: &Shape,
    queued: u64,
) -> LearntPair {
    let limits = shape.limits();
    let found = [
        (What::MessageRate, limits.rate.is_some(), shape.rate_cause()),
        (
            What::Connections,
            limits.connections.is_some(),
            shape.connections_cause(),
        ),
        (
            What::Deliveries,
            limits.deliveries.is_some(),
            shape.deliveries_cause(),
        ),
    ];
    LearntPair {
        binding: binding.to_string(),
        domain: domain.to_string(),
        queued,
        message_rate: shape.rate().rate().map(rate_text),
        messages_per_second: shape.rate().rate(),
        known_limit_per_second: shape.rate().ceiling(),
        pausing_since: shape.rate().trouble_since().map(|at| wall(now.wall_of(at))),
        max_outbound_connections: limits.connections,
        max_deliveries_per_connection: limits.deliveries,
        because: found
            .into_iter()
            .filter(|(_, is_set, it)| *is_set && !it.rule.is_empty())
            .map(|(what, _, it)| cause(what, it))
            .collect(),
        stop: stopped(shape),
        delivered: shape.day().deliveries(now.wall),
        complaints: shape
            .day()
            .by_category(now.wall)
            .into_iter()
            .map(|(category, count)| LearntComplaints { category, count })
            .collect(),
        in_force: shape
            .in_force()
            .iter()
            .map(|it| LearntSet {
                setting: it.set.to_string(),
                until: wall(it.until),
                rule: it.cause.rule.clone(),
            })
            .collect(),
        warmup: None,
    }
}

fn wall(at: Wall) -> String {
    at.rfc3339().to_string()
}

fn cause(what: What, cause: &Cause) -> LearntCause {
    LearntCause {
        limit: what.as_str().to_string(),
        rule: cause.rule.clone(),
        reply: cause.reply.clone(),
        host: cause.host.clone(),
        message: cause.message.clone(),
    }
}

fn stopped(shape: &Shape) -> Option<LearntStop> {
    shape.stop().map(|stop| LearntStop {
        kind: match stop.blackhole {
            true => "blackhole",
            false => "suspension",
        }
        .to_string(),
        since: wall(stop.since),
        until: wall(stop.until),
        because: cause(
            match stop.blackhole {
                true => What::Blackhole,
                false => What::Suspension,
            },
            &stop.cause,
        ),
    })
}
