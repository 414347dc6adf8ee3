//! Adaptive delivery as queues meet it: what receiving hosts answer goes to the shape of a queue,
//! and what it makes of that becomes a throttle, limits and pauses of the queue's link. Every
//! change goes to the event log, and to control, which keeps it.
//!
//! A link has a shape from its first answer on where `adaptive_enabled` is set, and keeps nothing
//! elsewhere. What has been learnt of a queue that is gone lies on the shelf until there is mail
//! for it again.

use std::rc::Rc;
use std::sync::Arc;

use crate::base::slab::Key;
use crate::base::throttle::Throttle;
use crate::base::time::Mono;
use crate::base::timer_wheel::TimerKey;
use crate::base::units;
use crate::config::adaptive::AdaptiveSettings;
use crate::deliver::classify;
use crate::deliver::session;
use crate::engine::Turn;
use crate::engine::io::{Action, Adapted, ToControl};
use crate::engine::owner::ending::Answered;
use crate::engine::owner::learnt::OPERATOR;
use crate::engine::owner::{Link, Owner, Timer};
use crate::engine::query::LimitState;
use crate::queue::{self, QueueId};
use crate::shape::rate::Gate;
use crate::shape::{Cause, Change, Heard, Heed, Saved, Shape, Standing, What};
use crate::types::outcome::Stage;
use crate::types::reply::{Class, Reply};

/// Pairs without a queue of which something is kept on a shard; the one that was put there first
/// goes when there are more, and stays on disk until the next start.
const SHELF_MAX: usize = 100_000;

/// The two names of a pair.
pub type Pair = (Arc<str>, Arc<str>);

/// What adaptive delivery has for one link.
pub(super) struct Adaptive {
    pub shape: Shape,
    /// The rate that it has found, beside the throttle of the configuration.
    pub throttle: Option<Arc<Throttle>>,
    /// Of sessions, with fewer messages of a connection than the configuration allows.
    session: Option<Rc<session::Settings>>,
    timer: Option<(Mono, TimerKey)>,
    /// When the journal was last told of a limit.
    journalled: [Option<Mono>; WHATS],
}

const WHATS: usize = What::All as usize + 1;

impl Adaptive {
    pub fn new(shape: Shape) -> Adaptive {
        Adaptive {
            shape,
            throttle: None,
            session: None,
            timer: None,
            journalled: [None; WHATS],
        }
    }
}

/// A change for the event log.
pub struct Changed {
    pub binding: Arc<str>,
    pub domain: Arc<str>,
    pub change: Change,
}

impl Link {
    fn adapts(&self) -> Option<&Arc<AdaptiveSettings>> {
        self.settings.delivery.adaptive.as_ref()
    }

    /// Connections that it may have.
    pub(super) fn connections_max(&self) -> u32 {
        let max = self.settings.delivery.max_outbound_connections;
        match &self.adaptive {
            None => max,
            Some(it) => max.min(it.shape.limits().connections.unwrap_or(max)),
        }
    }

    /// What of adaptive delivery a queue waits for, in words.
    pub(super) fn adaptive_words(&self) -> String {
        let Some(adaptive) = &self.adaptive else {
            return "waits for a limit that has just gone".to_string();
        };
        let shape = &adaptive.shape;
        let because = |cause: &Cause| match &cause.reply {
            Some(reply) => format!("{}: {reply}", cause.rule),
            None => cause.rule.clone(),
        };
        if self.is_full() && self.is_narrowed() {
            let max = u64::from(self.connections_max());
            let limit = units::counted(max, "connection");
            let why = because(shape.connections_cause());
            return format!(
                "{limit} {} what the receiver allows ({why})",
                units::are(max)
            );
        }
        let why = because(shape.rate_cause());
        match (shape.rate().trouble_since(), shape.rate().rate()) {
            (Some(_), _) => format!("pauses, since the receiver asks for less ({why})"),
            (None, Some(rate)) => {
                let rate = crate::shape::rate_text(rate);
                format!("waits for its turn at {rate}, the adaptive message rate ({why})")
            }
            (None, None) => "waits for its turn at a rate that a rule has set".to_string(),
        }
    }

    /// The limits that adaptive delivery has set, with the rule that made each.
    pub(super) fn adaptive_limits(&self, cause: queue::Cause) -> Vec<LimitState> {
        let Some(shape) = self.adaptive.as_ref().map(|it| &it.shape) else {
            return Vec::new();
        };
        let limits = shape.limits();
        let narrow = self.is_full() && self.is_narrowed();
        let binds = cause == queue::Cause::Adaptive;
        let found = [
            (
                What::MessageRate,
                limits.rate.map(|it| format!("\"{it}\"")),
                shape.rate_cause(),
                binds && !narrow,
            ),
            (
                What::Connections,
                limits.connections.map(|it| it.to_string()),
                shape.connections_cause(),
                binds && narrow,
            ),
            (
                What::Deliveries,
                limits.deliveries.map(|it| it.to_string()),
                shape.deliveries_cause(),
                false,
            ),
        ];
        let state = |(what, value, cause, binding_now): (What, Option<String>, &Cause, bool)| {
            Some(LimitState {
                option: what.as_str().to_string(),
                value: value?,
                origin: format!("adaptive delivery: {}", whose(cause)),
                binding_now,
            })
        };
        found.into_iter().filter_map(state).collect()
    }

    /// Why nothing is delivered, if adaptive delivery says so.
    pub(super) fn stop_words(&self) -> Option<String> {
        let stop = self.adaptive.as_ref()?.shape.stop()?;
        let words = stop.cause.reply.as_deref();
        let words = words.map_or(String::new(), |it| format!(": {it}"));
        let rule = &stop.cause.rule;
        Some(format!(
            "adaptive delivery has suspended it ({rule}{words})"
        ))
    }

    /// Adaptive delivery allows fewer connections than the configuration.
    pub(super) fn is_narrowed(&self) -> bool {
        self.connections_max() < self.settings.delivery.max_outbound_connections
    }

    /// A rule has suspended it.
    pub(super) fn is_blocked(&self) -> bool {
        let stop = self.adaptive.as_ref().and_then(|it| it.shape.stop());
        stop.is_some_and(|it| !it.blackhole)
    }

    /// A rule drops its mail for some time.
    pub(super) fn is_blackholed(&self) -> bool {
        let stop = self.adaptive.as_ref().and_then(|it| it.shape.stop());
        stop.is_some_and(|it| it.blackhole)
    }

    /// Whether a message may begin, apart from throttles.
    pub(super) fn gate(&self, turn: &Turn<'_>) -> Gate {
        match &self.adaptive {
            None => Gate::Open,
            Some(it) => it.shape.gate(turn.now),
        }
    }

    /// The settings of its next connection.
    pub(super) fn session_settings(&self) -> Rc<session::Settings> {
        let of_adaptive = self.adaptive.as_ref().and_then(|it| it.session.clone());
        of_adaptive.unwrap_or_else(|| self.settings.session.clone())
    }

    /// The throttles of its messages.
    pub(super) fn message_throttles(&self) -> impl Iterator<Item = Arc<Throttle>> + use<> {
        let of_adaptive = self.adaptive.as_ref().and_then(|it| it.throttle.clone());
        let of_warmup = self.warming.as_ref().and_then(|it| it.throttle().cloned());
        self.throttled
            .messages
            .clone()
            .into_iter()
            .chain(of_adaptive)
            .chain(of_warmup)
    }

    /// The queue waits for the rate that adaptive delivery has found.
    pub(super) fn waits_for_adaptive(&self) -> bool {
        let throttle = self.adaptive.as_ref().and_then(|it| it.throttle.as_deref());
        let latest = self.bookings.latest().map(|(it, _)| it);
        throttle.is_some_and(|it| latest.is_some_and(|latest| core::ptr::eq(it, latest)))
    }
}

impl Owner {
    /// What was learnt before, for a link that has just been made.
    pub(super) fn unshelve(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        if self.shelf.is_empty() {
            return;
        }
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let pair = (link.binding.clone(), link.domain.clone());
        let (Some(settings), Some(saved)) = (link.adapts().cloned(), self.shelf.swap_remove(&pair))
        else {
            return;
        };
        let mut shape = Shape::restored(turn.now, saved);
        // The configuration may be another one than when it was learnt.
        shape.leave_unmanaged(turn.now, &settings);
        let has_changes = shape.has_changes();
        link.adaptive = Some(Box::new(Adaptive::new(shape)));
        match has_changes {
            true => self.changed(turn, queue),
            false => self.follow_shape(turn, queue),
        }
    }

    /// A link goes; what it has learnt stays.
    pub(super) fn shelve(&mut self, queue: QueueId) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let Some(adaptive) = link.adaptive.take() else {
            return;
        };
        if let Some((_, timer)) = adaptive.timer {
            self.timers.cancel(timer);
        }
        let saved = adaptive.shape.saved();
        if saved.is_empty() {
            return;
        }
        let pair = (link.binding.clone(), link.domain.clone());
        self.put_on_shelf(pair, saved);
    }

    pub(super) fn put_on_shelf(&mut self, pair: Pair, saved: Saved) {
        if self.shelf.len() == SHELF_MAX && !self.shelf.contains_key(&pair) {
            self.shelf.shift_remove_index(0);
        }
        self.shelf.insert(pair, saved);
    }

    /// What the last run has learnt, of pairs that this shard owns. Before there are any queues.
    pub fn restore(&mut self, states: Vec<(Pair, Saved)>) {
        self.shelf.extend(states);
    }

    /// Another generation: its rules and ranges, or nothing if it does not adapt any more.
    pub(super) fn readapt(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        match (link.adapts().is_some(), &mut link.adaptive) {
            (false, None) => {}
            (false, Some(_)) => self.shelve(queue),
            (true, Some(it)) => {
                let Some(settings) = &link.settings.delivery.adaptive else {
                    return;
                };
                it.shape.reload(turn.now, settings);
                match it.shape.has_changes() {
                    true => self.changed(turn, queue),
                    false => self.follow_shape(turn, queue),
                }
            }
            (true, None) => self.unshelve(turn, queue),
        }
    }

    fn standing(&self, link: &Link, key: Option<Key>) -> Standing {
        let delivery = &link.settings.delivery;
        let session = key.and_then(|key| Some(&self.outgoing.get(key)?.session));
        Standing {
            connections: link.let_in,
            delivered: session.map_or(0, |it| it.counts().delivered),
            connections_max: delivery.max_outbound_connections,
            deliveries_max: delivery.max_deliveries_per_connection,
        }
    }

    /// An answer for one recipient, and what is to be done about it.
    pub(super) fn hears(
        &mut self,
        turn: &mut Turn<'_>,
        queue: QueueId,
        host: Option<&str>,
        answer: &Answered,
    ) -> Heed {
        self.warmup_hears(turn, queue, answer);
        let Some(link) = self.links.get(&queue) else {
            return Heed::AsItIs;
        };
        let Some(settings) = link.adapts().cloned() else {
            return Heed::AsItIs;
        };
        let (stage, reply) = (answer.stage, &answer.reply);
        let domain = link.domain.clone();
        let heard = Heard {
            stage,
            reply,
            class: class_of(stage, reply),
            domain: &domain,
            host,
            begun: answer.begun,
            standing: self.standing(link, answer.key),
        };
        let Some(link) = self.links.get_mut(&queue) else {
            return Heed::AsItIs;
        };
        let adaptive = link
            .adaptive
            .get_or_insert_with(|| Box::new(Adaptive::new(Shape::new(turn.now))));
        let heed = adaptive.shape.heard(turn.now, &settings, &heard);
        if adaptive.shape.has_changes() {
            self.changed(turn, queue);
        } else if adaptive.shape.is_to_be_kept(&settings) {
            let saved = adaptive.shape.keeping();
            let adapted = Adapted {
                shard: turn.common.shard,
                binding: link.binding.clone(),
                domain: link.domain.clone(),
                saved: Some(saved),
                journal: Vec::new(),
            };
            turn.out
                .push(Action::Control(ToControl::Adapted(Box::new(adapted))));
        }
        heed
    }

    /// A host has refused a connection. True if adaptive delivery sees to it.
    pub(super) fn heed_refusal(
        &mut self,
        turn: &mut Turn<'_>,
        key: Key,
        stage: Stage,
        reply: &Reply,
    ) -> bool {
        let Some(outgoing) = self.outgoing.get(key) else {
            return false;
        };
        let (queue, host, begun) = (outgoing.queue, outgoing.host.clone(), outgoing.begun);
        let Some(link) = self.links.get(&queue) else {
            return false;
        };
        let Some(settings) = link.adapts().cloned() else {
            return false;
        };
        let domain = link.domain.clone();
        let heard = Heard {
            stage,
            reply,
            class: class_of(stage, reply),
            domain: &domain,
            host: Some(&host.name),
            begun,
            standing: self.standing(link, None),
        };
        let Some(link) = self.links.get_mut(&queue) else {
            return false;
        };
        let adaptive = link
            .adaptive
            .get_or_insert_with(|| Box::new(Adaptive::new(Shape::new(turn.now))));
        let handled = adaptive.shape.refused(turn.now, &settings, &heard);
        if adaptive.shape.has_changes() {
            self.changed(turn, queue);
        }
        handled
    }

    /// More connections could be used than adaptive delivery allows: it may try one more.
    pub(super) fn try_more_connections(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let (Some(settings), max) = (
            link.settings.delivery.adaptive.clone(),
            link.settings.delivery.max_outbound_connections,
        ) else {
            return;
        };
        let full = link.connections.len() as u32 >= link.connections_max();
        let Some(adaptive) = link.adaptive.as_mut().filter(|_| full) else {
            return;
        };
        if adaptive.shape.wants_connections(turn.now, &settings, max) {
            self.changed(turn, queue);
        }
    }

    /// A connection has ended; the next ones may be allowed to carry more.
    pub(super) fn try_more_deliveries(&mut self, turn: &mut Turn<'_>, queue: QueueId, had: u32) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let delivery = &link.settings.delivery;
        let Some(settings) = delivery.adaptive.clone() else {
            return;
        };
        let max = delivery.max_deliveries_per_connection;
        let Some(adaptive) = &mut link.adaptive else {
            return;
        };
        let limit = adaptive.shape.limits().deliveries;
        if limit.is_some_and(|it| had >= it)
            && adaptive.shape.wants_deliveries(turn.now, &settings, max)
        {
            self.changed(turn, queue);
        }
    }

    /// The time has come for which something of a shape was set.
    pub(super) fn adaptive_timer(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        if let Some(adaptive) = &mut link.adaptive {
            adaptive.timer = None;
            adaptive.shape.advance(turn.now);
            if adaptive.shape.has_changes() {
                self.changed(turn, queue);
            } else {
                self.arm_adaptive(turn, queue);
            }
        }
        self.mark(queue);
    }

    /// Looks at a queue again when its shape has something to say.
    pub(super) fn arm_adaptive(&mut self, turn: &Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let Some(adaptive) = &mut link.adaptive else {
            return;
        };
        let gate = match adaptive.shape.gate(turn.now) {
            Gate::Until(at) | Gate::Answer(at) => Some(at),
            Gate::Open | Gate::One => None,
        };
        let Some(at) = [gate, adaptive.shape.next(turn.now)]
            .into_iter()
            .flatten()
            .min()
        else {
            return;
        };
        match adaptive.timer {
            Some((armed, _)) if armed <= at => return,
            Some((_, timer)) => drop(self.timers.cancel(timer)),
            None => {}
        }
        adaptive.timer = Some((at, self.timers.insert(at, Timer::Adaptive(queue))));
    }

    /// A shape has changed: its link follows, and whoever keeps or reads it is told.
    pub(super) fn changed(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        self.follow_shape(turn, queue);
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let (Some(settings), Some(adaptive)) = (
            link.settings.delivery.adaptive.clone(),
            link.adaptive.as_mut(),
        ) else {
            return;
        };
        let mut journal = Vec::new();
        for change in adaptive.shape.take_changes() {
            let quiet = settings.notification_interval;
            let last = &mut adaptive.journalled[change.what as usize];
            let is_news = last.is_none_or(|it| it + quiet <= turn.now.mono);
            // What an operator does is told by whoever hears of it.
            let is_told = change.cause.rule == OPERATOR;
            let is_news = is_news && !is_told;
            if is_news
                || !is_told && matches!(change.what, What::Suspension | What::Blackhole | What::All)
            {
                *last = Some(turn.now.mono);
                journal.push(sentence(&link.binding, &link.domain, &change));
            }
            self.told.push(Changed {
                binding: link.binding.clone(),
                domain: link.domain.clone(),
                change,
            });
        }
        let saved = adaptive.shape.keeping();
        turn.out
            .push(Action::Control(ToControl::Adapted(Box::new(Adapted {
                shard: turn.common.shard,
                binding: link.binding.clone(),
                domain: link.domain.clone(),
                saved: Some(saved).filter(|it| !it.is_empty()),
                journal,
            }))));
        self.mark(queue);
    }

    /// Lets throttle, sessions and queue of a link be as its shape says.
    fn follow_shape(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let Some(adaptive) = &mut link.adaptive else {
            return;
        };
        let limits = adaptive.shape.limits();
        if let Some(throttle) = &adaptive.throttle {
            link.bookings.forget(throttle);
        }
        match (limits.rate, &adaptive.throttle) {
            (Some(rate), Some(throttle)) => throttle.set_rate(rate),
            (Some(rate), None) => {
                let name = format!("the adaptive rate of {} to {}", link.binding, link.domain);
                adaptive.throttle = Some(Arc::new(Throttle::new(&name, rate)));
            }
            (None, _) => adaptive.throttle = None,
        }
        let settings = &link.settings;
        let configured = settings.session.max_deliveries;
        adaptive.session = match limits.deliveries {
            Some(max) if configured == 0 || max < configured => Some(Rc::new(session::Settings {
                max_deliveries: max,
                ..(*settings.session).clone()
            })),
            _ => None,
        };
        let of_queue = &settings.queue;
        let retry = match (limits.retry_interval, limits.max_retry_interval) {
            (None, None) => of_queue.clone(),
            (retry, max) => {
                let retry_interval = retry.unwrap_or(of_queue.retry_interval);
                Rc::new(queue::Settings {
                    retry_interval,
                    max_retry_interval: max
                        .unwrap_or(of_queue.max_retry_interval)
                        .max(retry_interval),
                    // Other times between attempts make no message fail sooner.
                    max_retries: match of_queue.max_retries {
                        queue::MaxRetries::Auto => queue::MaxRetries::None,
                        other => other,
                    },
                    ..(**of_queue).clone()
                })
            }
        };
        self.queues.set_settings(queue, &retry);
        self.arm_adaptive(turn, queue);
    }
}

/// The bounce class of a failure; what is none has no class.
pub(super) fn class_of(stage: Stage, reply: &Reply) -> u16 {
    match reply.class() {
        Class::Positive => 0,
        _ => u16::from(classify::bounce_class(stage, reply).number()),
    }
}

/// The rule that made a change; what no rule has made was an operator's, or its time was over.
fn whose(cause: &Cause) -> &str {
    match cause.rule.as_ref() {
        "" => "no rule: set by hand, or its time is over",
        rule => rule,
    }
}

/// A change as `pelton changes` tells it.
pub(super) fn sentence(binding: &str, domain: &str, change: &Change) -> String {
    let what = match (change.what, &change.to) {
        (What::Suspension, Some(time)) => format!("suspended for {time}"),
        (What::Suspension, None) => "delivery goes on".to_string(),
        (What::Blackhole, Some(time)) => format!("mail is dropped for {time}"),
        (What::Blackhole, None) => "mail is kept again".to_string(),
        (What::Warmup, to) => {
            let (from, to) = (change.from.as_deref(), to.as_deref());
            let why = &change.cause.rule;
            let (from, to) = (from.unwrap_or("nothing"), to.unwrap_or("nothing"));
            return format!("{binding}: from {from} to {to} ({why})");
        }
        (What::All, _) => "what was learnt is forgotten".to_string(),
        (what, Some(to)) => {
            // What nobody has learnt before was as configured, which is not known here.
            let from = change.from.as_deref();
            let from = from.map_or(String::new(), |it| format!(" from {it}"));
            format!("{}{from} to {to}", what.as_str())
        }
        (what, None) => format!("{} as configured", what.as_str()),
    };
    let words = change.cause.reply.as_deref();
    let words = words.map_or(String::new(), |it| format!(": {it}"));
    let rule = whose(&change.cause);
    format!("{binding} to {domain}: {what} ({rule}{words})")
}
