//! L3: adaptive delivery. For one (binding, domain) pair, what receiving hosts answer becomes
//! limits: a message rate, connections, messages of a connection, times between attempts, and
//! times without any delivery. Rules say what an answer means; the laws of [`rate`] and [`count`]
//! find the limit that lies behind it, and find out when it is gone.
//!
//! Nothing here knows of queues or connections: it is told what was heard and asked what may be
//! done. Every change is told with its cause. Limits stay within the ranges of the configuration,
//! and nothing here makes a message fail sooner: a time without delivery costs no attempt.

pub mod complaints;
pub mod count;
pub mod rate;
mod rules;
mod saved;
pub mod sweep;

#[cfg(test)]
mod tests;

use core::time::Duration;

use crate::base::throttle::Rate;
use crate::base::time::{Mono, Now, Wall};
use crate::config::adaptive::{Action, AdaptiveSettings, Moved, Set, SweepRule, per_second};
use crate::types::outcome::Stage;
use crate::types::reply::{Class, Enhanced, Reply};

use complaints::Day;
use count::CountControl;
use rate::{Gate, RateControl};
use rules::Counters;
use sweep::{Failure, Sweep};

pub use saved::Saved;

/// Deliveries are kept whenever they have grown by one of so many parts of the volume that makes a
/// rate of complaints: a kill loses no more of them.
const KEPT_PARTS: u32 = 100;

/// The rule that an operator's changes have.
pub const BY_OPERATOR: &str = "operator";

/// Settings that are in force at a time; the oldest goes when there are more.
const SETS_MAX: usize = 16;

/// What a receiving host has said, or what was made of its silence.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    pub stage: Stage,
    pub reply: &'a Reply,
    /// The number of its bounce class.
    pub class: u16,
    pub domain: &'a str,
    pub host: Option<&'a str>,
    /// When began what this is the answer to.
    pub begun: Mono,
    pub standing: Standing,
}

/// How the queue stands with its connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Connections that have been let in.
    pub connections: u32,
    /// Messages taken on the connection that the answer came over.
    pub delivered: u32,
    /// What the configuration allows; 0 for deliveries is no limit.
    pub connections_max: u32,
    pub deliveries_max: u32,
}

/// What is to be done about an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heed {
    /// What it says.
    AsItIs,
    /// What this says.
    As(Reply),
    /// It is about the sending address, not the message, which waits without having been tried.
    Wait,
}

/// Why nothing is delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stop {
    pub since: Wall,
    pub until: Wall,
    /// What comes is not kept but dropped.
    pub blackhole: bool,
    pub cause: Cause,
}

/// Why something has changed.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Cause {
    /// The name of a rule, `probing`, `operator`, ..
    pub rule: String,
    /// Their words.
    pub reply: Option<String>,
    pub stage: Option<String>,
    pub host: Option<String>,
    /// How many answers it took.
    pub count: u32,
    /// What the rule says to people.
    pub message: Option<String>,
}

impl Cause {
    pub fn of(rule: &str) -> Cause {
        Cause {
            rule: rule.to_string(),
            ..Cause::default()
        }
    }
}

/// What has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    Suspension,
    Blackhole,
    MessageRate,
    Connections,
    Deliveries,
    RetryInterval,
    MaxRetryInterval,
    /// What a binding may send in a day.
    Warmup,
    All,
}

impl What {
    pub fn as_str(self) -> &'static str {
        match self {
            What::Suspension => "suspension",
            What::Blackhole => "blackhole",
            What::MessageRate => "outbound_throttle_messages",
            What::Connections => "max_outbound_connections",
            What::Deliveries => "max_deliveries_per_connection",
            What::RetryInterval => "retry_interval",
            What::MaxRetryInterval => "max_retry_interval",
            What::Warmup => "warmup_schedule",
            What::All => "all",
        }
    }
}

/// One change of one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub what: What,
    /// As people read it; nothing: there was none, or there is none any more.
    pub from: Option<String>,
    pub to: Option<String>,
    pub cause: Cause,
    pub until: Option<Wall>,
}

/// The limits that hold now, beside those of the configuration.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Limits {
    pub rate: Option<Rate>,
    pub connections: Option<u32>,
    pub deliveries: Option<u32>,
    pub retry_interval: Option<Duration>,
    pub max_retry_interval: Option<Duration>,
}

/// A value in force for some time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InForce {
    pub set: Set,
    pub until: Wall,
    pub cause: Cause,
}

/// The state of one pair.
#[derive(Debug)]
pub struct Shape {
    rate: RateControl,
    connections: CountControl,
    deliveries: CountControl,
    stop: Option<Stop>,
    sets: Vec<InForce>,
    counters: Counters,
    sweep: Sweep,
    day: Day,
    /// Deliveries that nobody keeps yet.
    unkept: u32,
    /// Why the rate, the connections and the deliveries are what they are.
    causes: [Cause; 3],
    /// Since somebody has taken them.
    changes: Vec<Change>,
}

/// Places in the causes.
const RATE: usize = 0;
const CONNECTIONS: usize = 1;
const DELIVERIES: usize = 2;

impl Shape {
    pub fn new(now: Now) -> Shape {
        Shape {
            rate: RateControl::new(now.mono),
            connections: CountControl::default(),
            deliveries: CountControl::default(),
            stop: None,
            sets: Vec::new(),
            counters: Counters::default(),
            sweep: Sweep::default(),
            day: Day::default(),
            unkept: 0,
            causes: Default::default(),
            changes: Vec::new(),
        }
    }

    /// Rules may have changed: what was counted for others says nothing of them. What is not to be
    /// moved any more is as it is configured.
    pub fn reload(&mut self, now: Now, settings: &AdaptiveSettings) {
        self.counters = Counters::default();
        self.leave_unmanaged(now, settings);
    }

    /// Forgets what was learnt of options that are not to be moved. What an operator has set stays.
    pub fn leave_unmanaged(&mut self, now: Now, settings: &AdaptiveSettings) {
        let leaves = |option| !settings.managed.contains(option);
        let cause = Cause::of("adaptive_unmanage_options");
        if leaves(Moved::OutboundThrottleMessages) && self.rate != RateControl::new(now.mono) {
            let before = self.rate.rate();
            self.rate = RateControl::new(now.mono);
            self.causes[RATE] = cause.clone();
            if before.is_some() {
                self.tell_rate(before);
            }
        }
        if leaves(Moved::MaxOutboundConnections)
            && let Some(before) = core::mem::take(&mut self.connections).limit()
        {
            self.causes[CONNECTIONS] = cause.clone();
            self.tell_count(What::Connections, Some(before));
        }
        if leaves(Moved::MaxDeliveriesPerConnection)
            && let Some(before) = core::mem::take(&mut self.deliveries).limit()
        {
            self.causes[DELIVERIES] = cause.clone();
            self.tell_count(What::Deliveries, Some(before));
        }
        let of_rule = |it: &mut InForce| it.cause.rule != BY_OPERATOR;
        for over in self
            .sets
            .extract_if(.., |it| of_rule(it) && leaves(it.set.option()))
        {
            let (what, from) = named(over.set);
            self.changes.push(Change {
                what,
                from: Some(from),
                to: None,
                cause: cause.clone(),
                until: None,
            });
        }
    }

    /// What has changed since this was last asked.
    pub fn take_changes(&mut self) -> Vec<Change> {
        core::mem::take(&mut self.changes)
    }

    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    pub fn stop(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    pub fn in_force(&self) -> &[InForce] {
        &self.sets
    }

    pub fn rate(&self) -> &RateControl {
        &self.rate
    }

    pub fn rate_cause(&self) -> &Cause {
        &self.causes[RATE]
    }

    pub fn connections_cause(&self) -> &Cause {
        &self.causes[CONNECTIONS]
    }

    pub fn deliveries_cause(&self) -> &Cause {
        &self.causes[DELIVERIES]
    }

    /// Whether a message may begin, apart from its rate.
    pub fn gate(&self, now: Now) -> Gate {
        match &self.stop {
            Some(stop) if !stop.blackhole && stop.until > now.wall => {
                Gate::Until(now.mono_of(stop.until))
            }
            _ if self.forced_rate().is_some() => Gate::Open,
            _ => self.rate.gate(now.mono),
        }
    }

    /// Nothing may begin now, by a stop or for trouble with the rate.
    pub fn is_held(&self, now: Mono) -> bool {
        let stopped = self.stop.as_ref().is_some_and(|it| !it.blackhole);
        let gate = self.rate.gate(now);
        stopped || matches!(gate, Gate::Until(_) | Gate::Answer(_)) && self.forced_rate().is_none()
    }

    fn forced_rate(&self) -> Option<Rate> {
        self.sets.iter().rev().find_map(|it| match it.set {
            Set::OutboundThrottleMessages(rate) => Some(rate),
            _ => None,
        })
    }

    pub fn limits(&self) -> Limits {
        let mut limits = Limits {
            rate: self.rate.as_throttle(),
            connections: self.connections.limit(),
            deliveries: self.deliveries.limit(),
            ..Limits::default()
        };
        for it in &self.sets {
            match it.set {
                Set::MaxOutboundConnections(count) => limits.connections = Some(count),
                Set::MaxDeliveriesPerConnection(count) => limits.deliveries = Some(count),
                Set::OutboundThrottleMessages(rate) => limits.rate = Some(rate),
                Set::RetryInterval(time) => limits.retry_interval = Some(time),
                Set::MaxRetryInterval(time) => limits.max_retry_interval = Some(time),
            }
        }
        limits
    }

    /// A message begins.
    pub fn started(&mut self, now: Now) {
        self.rate.started(now.mono);
    }

    /// A message that began was not sent after all.
    pub fn unsent(&mut self, now: Now) {
        self.rate.unsent(now.mono);
    }

    /// A connection has been let in, with which there are so many.
    pub fn connected(&mut self, connections: u32) {
        self.connections.holds(connections);
    }

    /// More connections could be used than may be.
    pub fn wants_connections(&mut self, now: Now, settings: &AdaptiveSettings, max: u32) -> bool {
        let before = self.connections.limit();
        let raised = self
            .connections
            .wanted(now.mono, &connections_law(settings, max));
        if raised {
            self.causes[CONNECTIONS] = Cause::of("probing");
            self.tell_count(What::Connections, before);
        }
        raised
    }

    /// When that is to be asked again.
    pub fn wants_connections_at(&self) -> Option<Mono> {
        self.connections.next_step()
    }

    /// A connection has ended because it had carried as many messages as it may.
    pub fn wants_deliveries(&mut self, now: Now, settings: &AdaptiveSettings, max: u32) -> bool {
        let before = self.deliveries.limit();
        let raised = self
            .deliveries
            .wanted(now.mono, &deliveries_law(settings, max));
        if raised {
            self.causes[DELIVERIES] = Cause::of("probing");
            self.tell_count(What::Deliveries, before);
        }
        raised
    }

    /// An answer for one recipient.
    pub fn heard(&mut self, now: Now, settings: &AdaptiveSettings, heard: &Heard<'_>) -> Heed {
        let taken = heard.stage == Stage::Final && heard.reply.class() == Class::Positive;
        let failure = (!taken).then(|| Failure {
            class: heard.class,
            permanent: heard.reply.class() == Class::Permanent,
        });
        self.sweep.count(now.mono, failure);
        if taken {
            self.taken(now, settings, heard.begun);
            self.delivered(now, settings);
            return Heed::AsItIs;
        }
        if heard.reply.internal {
            let law = rate_law(settings);
            self.rate.unanswered(now.mono, heard.begun, &law);
            return Heed::AsItIs;
        }
        let heed = self.matched(now, settings, heard);
        self.swept(now, settings);
        heed.unwrap_or_else(|| {
            self.taken(now, settings, heard.begun);
            Heed::AsItIs
        })
    }

    /// A host has refused a whole connection. True if that is about how much is sent, so that
    /// there is nothing wrong with the host.
    pub fn refused(&mut self, now: Now, settings: &AdaptiveSettings, heard: &Heard<'_>) -> bool {
        if heard.reply.internal || self.matched(now, settings, heard).is_none() {
            return false;
        }
        let fewer = heard.standing.connections > 0 && self.connections.limit().is_some();
        fewer || self.gate(now) != Gate::Open
    }

    /// One delivery more that complaints are compared with.
    fn delivered(&mut self, now: Now, settings: &AdaptiveSettings) {
        self.day.delivered_one(now.wall);
        self.unkept += 1;
        if self.is_to_be_kept(settings) {
            // The volume may be what complaints of before have waited for.
            self.swept_complaints(now, settings);
        }
    }

    /// So many deliveries that they are to be kept: each part of what makes a rate of complaints.
    pub fn is_to_be_kept(&self, settings: &AdaptiveSettings) -> bool {
        self.unkept > settings.fbl_volume_threshold / KEPT_PARTS
    }

    /// What is saved now is kept.
    pub fn keeping(&mut self) -> Saved {
        self.unkept = 0;
        self.saved()
    }

    pub fn day(&self) -> &Day {
        &self.day
    }

    /// Recipients have complained. The error says why that is not counted.
    pub fn complained(
        &mut self,
        now: Now,
        settings: &AdaptiveSettings,
        (category, count): (&str, u64),
    ) -> Result<(), String> {
        if !self.day.complained(now.wall, category, count) {
            return Err(format!(
                "{category}: too many categories of complaints in an hour"
            ));
        }
        self.swept_complaints(now, settings);
        Ok(())
    }

    /// Rules over the complaints of the last day.
    fn swept_complaints(&mut self, now: Now, settings: &AdaptiveSettings) {
        let deliveries = self.day.deliveries(now.wall);
        if deliveries < u64::from(settings.fbl_volume_threshold) || !self.day.has_complaints() {
            return;
        }
        for (index, rule) in settings.sweep_rules.iter().enumerate() {
            let complaints = self.day.of(now.wall, rule.complaints());
            let of = "deliveries of the last day";
            self.swept_by(now, settings, (index, rule), (complaints, deliveries, of));
        }
    }

    /// Acts if a rate is above a threshold of a rule; of two that are, the higher one counts.
    fn swept_by(
        &mut self,
        now: Now,
        settings: &AdaptiveSettings,
        (index, rule): (usize, &SweepRule),
        (some, all, of): (u64, u64, &str),
    ) {
        let high = some as f64 > rule.high_threshold.of(all);
        let low = some as f64 > rule.low_threshold.of(all);
        if !(high || low) || !self.sweep.may_act(now.mono, index, high) {
            return;
        }
        let cause = Cause {
            count: u32::try_from(some).unwrap_or(u32::MAX),
            message: Some(format!("{some} of {all} {of}")),
            ..Cause::of(&rule.name)
        };
        let actions = match high {
            true => &rule.high_action,
            false => &rule.low_action,
        };
        for action in actions.iter() {
            self.act(now, settings, action, None, &cause);
        }
    }

    fn taken(&mut self, now: Now, settings: &AdaptiveSettings, begun: Mono) {
        let before = self.rate.rate();
        if self.rate.taken(now.mono, begun, &rate_law(settings)) {
            if before.is_some_and(|it| self.rate.rate().is_some_and(|rate| rate > it)) {
                self.causes[RATE] = Cause::of("probing");
            }
            self.tell_rate(before);
        }
    }

    /// What the first rule that matches makes of an answer; nothing if none does.
    fn matched(
        &mut self,
        now: Now,
        settings: &AdaptiveSettings,
        heard: &Heard<'_>,
    ) -> Option<Heed> {
        let text = heard.reply.to_string();
        let mut rules = settings.rules.iter().enumerate();
        let (index, rule) = rules.find(|(_, rule)| {
            rule.stages.contains(heard.stage)
                && rule.concerns(heard.domain, heard.host)
                && rule.matches(&text)
        })?;
        let acts = self.counters.count(now.mono, index, rule.trigger);
        let cause = Cause {
            rule: rule.name.clone(),
            reply: Some(text),
            stage: Some(heard.stage.as_str().to_string()),
            host: heard.host.map(str::to_string),
            count: rule.trigger.matches,
            message: rule.message.clone(),
        };
        let mut heed = Heed::AsItIs;
        for action in rule.actions.iter() {
            match action {
                Action::Transcode { code, text } => heed = Heed::As(reply_of(*code, text)),
                // A probe is answered by one reply, however many the rule waits for.
                Action::ThrottleDown if acts || self.rate.trouble_since().is_some() => {
                    self.throttle_down(now, settings, heard, &cause);
                }
                action if acts => self.act(now, settings, action, Some(heard), &cause),
                _ => {}
            }
        }
        // What says nothing about the rate is as good as a message taken, for the rate.
        let of_rate = |it: &Action| {
            matches!(
                it,
                Action::ThrottleDown | Action::Suspend(_) | Action::Blackhole(_)
            )
        };
        if !rule.actions.iter().any(of_rate) {
            self.taken(now, settings, heard.begun);
        }
        let stops = |it: &Action| matches!(it, Action::Suspend(_));
        if self.is_stopped(now) && rule.actions.iter().any(stops) {
            heed = Heed::Wait;
        }
        Some(heed)
    }

    fn is_stopped(&self, now: Now) -> bool {
        let stop = self.stop.as_ref();
        stop.is_some_and(|it| it.until > now.wall && !it.blackhole)
    }

    fn throttle_down(
        &mut self,
        now: Now,
        settings: &AdaptiveSettings,
        heard: &Heard<'_>,
        cause: &Cause,
    ) {
        let of_connection = matches!(heard.stage, Stage::Connect | Stage::Banner | Stage::Ehlo);
        if of_connection && heard.standing.connections > 0 {
            // Others are let in and kept: it is one too many, whatever the words.
            let standing = (heard.standing, Some(heard.begun));
            return self.fewer_connections(now, settings, 1, standing, cause);
        }
        self.too_fast(now, settings, heard.begun, cause);
    }

    fn too_fast(&mut self, now: Now, settings: &AdaptiveSettings, begun: Mono, cause: &Cause) {
        if !settings.managed.contains(Moved::OutboundThrottleMessages) {
            return;
        }
        let before = self.rate.rate();
        let law = rate_law(settings);
        if self.rate.troubled(now.mono, begun, &law) {
            self.causes[RATE] = cause.clone();
            self.tell_rate(before);
        }
    }

    fn act(
        &mut self,
        now: Now,
        settings: &AdaptiveSettings,
        action: &Action,
        heard: Option<&Heard<'_>>,
        cause: &Cause,
    ) {
        let standing = heard.map(|it| it.standing).unwrap_or_default();
        match action {
            Action::Suspend(time) => self.stop_for(now, *time, false, cause.clone()),
            Action::Blackhole(time) => self.stop_for(now, *time, true, cause.clone()),
            Action::ThrottleDown if !settings.managed.contains(Moved::OutboundThrottleMessages) => {
            }
            Action::ThrottleDown => {
                let before = self.rate.rate();
                self.rate.lower(now.mono, &rate_law(settings));
                self.causes[RATE] = cause.clone();
                self.tell_rate(before);
            }
            Action::Greylisted(time) => {
                for set in [Set::RetryInterval(*time), Set::MaxRetryInterval(*time)] {
                    if settings.managed.contains(set.option()) {
                        self.set(now, settings.clipped(set), *time, cause.clone());
                    }
                }
            }
            Action::ReduceConnections(less) => {
                let standing = (standing, heard.map(|it| it.begun));
                self.fewer_connections(now, settings, *less, standing, cause);
            }
            Action::ReduceDeliveries(_)
                if !settings.managed.contains(Moved::MaxDeliveriesPerConnection) => {}
            Action::ReduceDeliveries(less) => {
                let law = deliveries_law(settings, standing.deliveries_max);
                let before = self.deliveries.limit();
                let held = standing.delivered.max(1);
                if self.deliveries.refused(now.mono, held, *less, &law) {
                    self.causes[DELIVERIES] = cause.clone();
                    self.tell_count(What::Deliveries, before);
                }
            }
            Action::Set { what, .. } if !settings.managed.contains(what.option()) => {}
            Action::Set { what, time } => {
                self.set(now, settings.clipped(*what), *time, cause.clone());
            }
            Action::Transcode { .. } | Action::Leave => {}
        }
    }

    fn fewer_connections(
        &mut self,
        now: Now,
        settings: &AdaptiveSettings,
        less: u32,
        (standing, begun): (Standing, Option<Mono>),
        cause: &Cause,
    ) {
        if standing.connections == 0
            && let Some(begun) = begun
        {
            // Not even one is let in: there is nothing to do but to wait.
            return self.too_fast(now, settings, begun, cause);
        }
        if !settings.managed.contains(Moved::MaxOutboundConnections) {
            return;
        }
        let law = connections_law(settings, standing.connections_max);
        let before = self.connections.limit();
        // A rule over rates of failures knows of no connection.
        let held = match standing.connections {
            0 => law.max,
            held => held,
        };
        if self.connections.refused(now.mono, held, less, &law) {
            self.causes[CONNECTIONS] = cause.clone();
            self.tell_count(What::Connections, before);
        }
    }

    /// Stops delivery. A stop that is in force is made neither longer nor shorter.
    fn stop_for(&mut self, now: Now, time: Duration, blackhole: bool, cause: Cause) {
        if self.stop.is_some() {
            return;
        }
        let until = now.wall + time;
        self.changes.push(Change {
            what: if blackhole {
                What::Blackhole
            } else {
                What::Suspension
            },
            from: None,
            to: Some(crate::base::units::duration(time)),
            cause: cause.clone(),
            until: Some(until),
        });
        self.stop = Some(Stop {
            since: now.wall,
            until,
            blackhole,
            cause,
        });
    }

    /// Gives an option a value for a time.
    pub fn set(&mut self, now: Now, set: Set, time: Duration, cause: Cause) {
        let (what, to) = named(set);
        let same = |it: &InForce| named(it.set).0 == what;
        let before = self
            .sets
            .iter()
            .position(same)
            .map(|at| self.sets.remove(at));
        let until = now.wall + time;
        let from = before.as_ref().map(|it| named(it.set).1);
        if from.as_ref() != Some(&to) {
            self.changes.push(Change {
                what,
                from,
                to: Some(to),
                cause: cause.clone(),
                until: Some(until),
            });
        }
        if self.sets.len() == SETS_MAX {
            self.sets.remove(0);
        }
        self.sets.push(InForce { set, until, cause });
    }

    /// The end of what lasts for a time.
    pub fn advance(&mut self, now: Now) {
        if let Some(stop) = self.stop.take_if(|it| it.until <= now.wall) {
            self.resumed(now, &stop, Cause::of("its time is over"));
        }
        let is_over = |it: &mut InForce| it.until <= now.wall;
        for over in self.sets.extract_if(.., is_over) {
            let (what, from) = named(over.set);
            self.changes.push(Change {
                what,
                from: Some(from),
                to: None,
                cause: Cause::of("its time is over"),
                until: None,
            });
        }
    }

    fn resumed(&mut self, now: Now, stop: &Stop, cause: Cause) {
        if !stop.blackhole {
            self.rate.ask_first(now.mono);
        }
        self.changes.push(Change {
            what: if stop.blackhole {
                What::Blackhole
            } else {
                What::Suspension
            },
            from: Some(crate::base::units::duration(now.wall.since(stop.since))),
            to: None,
            cause,
            until: None,
        });
    }

    /// When [`Self::advance`] has something to do.
    pub fn next(&self, now: Now) -> Option<Mono> {
        let stop = self.stop.iter().map(|it| it.until);
        let sets = self.sets.iter().map(|it| it.until);
        let first = stop.chain(sets).filter(|it| *it < Wall::MAX).min()?;
        Some(now.mono_of(first))
    }

    /// An operator ends what delivery has learnt. Nothing is left of it.
    pub fn reset(&mut self, now: Now, by: &str) {
        let changes = core::mem::take(&mut self.changes);
        *self = Shape::new(now);
        self.changes = changes;
        self.changes.push(Change {
            what: What::All,
            from: None,
            to: None,
            cause: Cause::of(by),
            until: None,
        });
    }

    /// An operator ends a suspension before its time.
    pub fn resume(&mut self, now: Now, by: &str) -> bool {
        let Some(stop) = self.stop.take() else {
            return false;
        };
        self.resumed(now, &stop, Cause::of(by));
        true
    }

    /// Rules over the last hour.
    fn swept(&mut self, now: Now, settings: &AdaptiveSettings) {
        let attempts = self.sweep.attempts(now.mono);
        if attempts < u64::from(settings.attempt_threshold) {
            return;
        }
        for (index, rule) in settings.sweep_rules.iter().enumerate() {
            let classes: Vec<u16> = rule.bounces().collect();
            let failed = self.sweep.of_classes(now.mono, &classes);
            let of = "attempts of the last hour";
            self.swept_by(now, settings, (index, rule), (failed, attempts, of));
        }
        let permanent = self.sweep.permanent(now.mono);
        let too_many = permanent as f64 > settings.rejection_rate.of(attempts);
        if settings.default_suspension_enabled
            && too_many
            && self.sweep.may_act(now.mono, usize::MAX, true)
        {
            let cause = Cause {
                count: permanent as u32,
                message: Some(format!(
                    "{permanent} of {attempts} attempts of the last hour"
                )),
                ..Cause::of("adaptive_default_suspension")
            };
            self.stop_for(now, settings.default_suspension, false, cause);
        }
    }

    fn tell_rate(&mut self, before: Option<f64>) {
        let rate = self.rate.rate();
        self.changes.push(Change {
            what: What::MessageRate,
            from: before.map(rate_text),
            to: rate.map(rate_text),
            cause: self.causes[RATE].clone(),
            until: None,
        });
    }

    fn tell_count(&mut self, what: What, before: Option<u32>) {
        let (count, cause) = match what {
            What::Deliveries => (self.deliveries.limit(), &self.causes[DELIVERIES]),
            _ => (self.connections.limit(), &self.causes[CONNECTIONS]),
        };
        self.changes.push(Change {
            what,
            from: before.map(|it| it.to_string()),
            to: count.map(|it| it.to_string()),
            cause: cause.clone(),
            until: None,
        });
    }
}

/// A rate as people read it.
pub fn rate_text(rate: f64) -> String {
    match () {
        () if rate >= 1.0 => format!("{rate:.1}/s"),
        () if rate * 60.0 >= 1.0 => format!("{:.1}/min", rate * 60.0),
        () => format!("{:.1}/h", rate * 3_600.0),
    }
}

fn named(set: Set) -> (What, String) {
    let text = set.to_string();
    let value = text
        .split_once(' ')
        .map_or("", |(_, value)| value)
        .to_string();
    let what = match set {
        Set::MaxOutboundConnections(_) => What::Connections,
        Set::MaxDeliveriesPerConnection(_) => What::Deliveries,
        Set::OutboundThrottleMessages(_) => What::MessageRate,
        Set::RetryInterval(_) => What::RetryInterval,
        Set::MaxRetryInterval(_) => What::MaxRetryInterval,
    };
    (what, value)
}

fn rate_law(settings: &AdaptiveSettings) -> rate::Law {
    let range = &settings.outbound_throttle_messages;
    rate::Law {
        min: per_second(range.min),
        max: range.max.map(per_second),
        round_max: settings.adjustment_interval,
        probing: settings.positive_adjustment_interval,
    }
}

fn connections_law(settings: &AdaptiveSettings, max: u32) -> count::Law {
    let range = settings.max_outbound_connections;
    let max = range.max.min(max).max(1);
    count::Law {
        min: range.min.min(max),
        max,
        probing: settings.positive_adjustment_interval,
    }
}

fn deliveries_law(settings: &AdaptiveSettings, max: u32) -> count::Law {
    let range = settings.max_deliveries_per_connection;
    let max = if max == 0 {
        range.max
    } else {
        range.max.min(max)
    };
    let max = max.max(1);
    count::Law {
        min: range.min.min(max),
        max,
        probing: settings.positive_adjustment_interval,
    }
}

/// A reply of a rule's own, marked as an account of Pelton's.
fn reply_of(code: u16, text: &str) -> Reply {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut numbers = first.split('.').map(str::parse::<u16>);
    let enhanced = match (
        numbers.next(),
        numbers.next(),
        numbers.next(),
        numbers.next(),
    ) {
        (Some(Ok(class)), Some(Ok(subject)), Some(Ok(detail)), None) => u8::try_from(class)
            .ok()
            .map(|it| Enhanced(it, subject, detail)),
        _ => None,
    };
    match enhanced {
        Some(enhanced) => Reply::internal(code, enhanced, rest),
        None => Reply::internal(code, Enhanced((code / 100) as u8, 7, 1), text),
    }
}
