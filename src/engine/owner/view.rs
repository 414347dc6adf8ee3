//! What an operator sees of the queues of this shard. Looking changes nothing, and a look at many
//! queues or messages is bounded.

use std::sync::Arc;

use crate::base::time::{Mono, Now};
use crate::base::units;
use crate::config::Query as ConfigQuery;
use crate::engine::Common;
use crate::engine::owner::{Link, Owner, Way};
use crate::engine::query::{
    CauseSeconds, FlowWaiting, FoundQueues, HostState, LastReply, LimitState, MessageSummary,
    MessageTrace, QueueDetail, QueueSummary, TraceTarget,
};
use crate::queue::{Cause, EntryId, EntryView, QueueId, QueueView, Said, State};
use crate::types::filter::{Facts, Field, Filter, States, Verdict};
use crate::types::flow;
use crate::types::id::MessageId;
use crate::types::message::Content;
use crate::types::order::Order;
use crate::types::reply::Class;
use crate::types::sender::SenderFact;

/// Entries that one question may make a shard look at.
const LOOKED_AT_MAX: usize = 2_000_000;

/// Messages of one state of a queue whose attempts before the start are added up.
const ATTEMPTS_OF_MAX: usize = 100_000;

/// Flows of one queue that `why` tells of.
const FLOWS_MAX: usize = 100;

/// Messages that one trace by recipient lists.
const TRACED_MAX: usize = 100;

/// Options that `why` shows with their origin.
const LIMIT_OPTIONS: [&str; 8] = [
    "max_outbound_connections",
    "scope_max_outbound_connections",
    "server_max_outbound_connections",
    "outbound_throttle_messages",
    "outbound_throttle_connections",
    "max_deliveries_per_connection",
    "max_recipients_per_batch",
    "retry_interval",
];

impl Owner {
    /// Queues that match, up to `limit`, the largest first.
    pub fn list_queues(
        &self,
        now: Now,
        common: &Common,
        filter: &Filter,
        limit: usize,
    ) -> FoundQueues {
        let mut found = Vec::new();
        let mut cursor = 0;
        loop {
            let page = self.queues.list(cursor, usize::MAX, |view| {
                !view.is_empty() && self.queue_matches(now, view, filter)
            });
            found.extend(page.items);
            match page.next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        let size = |queue: &QueueId| {
            self.queues.view(*queue).map_or(0, |view| {
                State::ALL
                    .iter()
                    .map(|state| u64::from(view.count(*state)))
                    .sum::<u64>()
            })
        };
        found.sort_by_cached_key(|queue| core::cmp::Reverse(size(queue)));
        let (matching, messages) = (found.len() as u64, found.iter().map(size).sum());
        found.truncate(limit);
        let largest = found.into_iter();
        let largest = largest.filter_map(|queue| self.summary(now, common, queue));
        FoundQueues {
            largest: largest.collect(),
            matching,
            messages,
        }
    }

    pub(super) fn queue_matches(&self, now: Now, view: &QueueView<'_>, filter: &Filter) -> bool {
        if filter.is_empty() {
            return true;
        }
        let code = view
            .replies()
            .of(Class::Transient)
            .or(view.replies().of(Class::Permanent));
        let code = code.map(|said| said.reply.to_string());
        let states = States::NONE
            .with(States::ACTIVE, view.count(State::Active) > 0)
            .with(States::DELAYED, view.count(State::Delayed) > 0)
            .with(States::IN_FLIGHT, view.count(State::InFlight) > 0);
        filter.matches(&Facts {
            domain: Some(view.domain()),
            binding: Some(view.binding()),
            states,
            code: code.as_deref(),
            cause: Some(view.waiting().cause.as_str()),
            age: view.oldest_age(now),
            ..Facts::default()
        })
    }

    fn summary(&self, now: Now, common: &Common, queue: QueueId) -> Option<QueueSummary> {
        let view = self.queues.view(queue)?;
        let link = self.links.get(&queue);
        let stats = view.stats();
        let waiting = view.waiting();
        let failure = newest(&[Class::Transient, Class::Permanent].map(|it| view.replies().of(it)));
        let resting = view.rests_until().is_some();
        let (active, delayed) = (
            u64::from(view.count(State::Active)),
            u64::from(view.count(State::Delayed)),
        );
        Some(QueueSummary {
            binding: view.binding().to_string(),
            domain: view.domain().to_string(),
            shard: common.shard.0,
            active: if resting { 0 } else { active },
            delayed: if resting { active + delayed } else { delayed },
            in_flight: u64::from(view.count(State::InFlight) + view.count(State::Ending)),
            connections: link.map_or(0, |link| link.connections.len() as u64),
            received_total: stats.receptions,
            delivered_total: stats.deliveries,
            delayed_total: stats.transfails,
            bounced_total: stats.permfails,
            oldest_seconds: view.oldest_age(now).map(|age| age.as_secs()),
            cause: waiting.cause.as_str().to_string(),
            order: self.order_against(now, queue).map(|order| order.id),
            cause_seconds: now.mono.since(waiting.since).as_secs(),
            until: self
                .until(&view)
                .map(|it| now.wall_of(it).rfc3339().to_string()),
            last_failure: failure.map(last_reply),
        })
    }

    /// The queues of a domain in full, of one binding if named.
    pub fn why(
        &self,
        now: Now,
        common: &Common,
        domain: &str,
        binding: Option<&str>,
    ) -> Vec<QueueDetail> {
        let wanted = |view: &QueueView<'_>| binding.is_none_or(|name| &**view.binding() == name);
        let queues = self
            .queues
            .of_domain(domain)
            .filter(wanted)
            .map(|view| view.id());
        queues
            .filter_map(|queue| self.detail(now, common, queue))
            .collect()
    }

    fn detail(&self, now: Now, common: &Common, queue: QueueId) -> Option<QueueDetail> {
        let view = self.queues.view(queue)?;
        let link = self.links.get(&queue)?;
        let waiting = view.waiting();
        let classes = [Class::Positive, Class::Transient, Class::Permanent];
        let booked = |cause: &Cause| CauseSeconds {
            cause: cause.as_str().to_string(),
            seconds: waiting.spent(now, *cause).as_secs_f64(),
        };
        let until = self.until(&view);
        Some(QueueDetail {
            summary: self.summary(now, common, queue)?,
            sentence: sentence(now, &view, link, (until, &self.stopped_by(now, queue))),
            until: until.map(|until| now.wall_of(until).rfc3339().to_string()),
            causes: Cause::ALL
                .iter()
                .map(booked)
                .filter(|it| it.seconds > 0.0)
                .collect(),
            replies: classes
                .iter()
                .filter_map(|it| view.replies().of(*it))
                .map(last_reply)
                .collect(),
            attempts_before: self.attempts_before(&view),
            hosts: self.host_states(now, link),
            limits: limits(common, link, waiting.cause),
            flows: flows(&view),
            transcript: self.recorder.of_queue(&link.binding, &link.domain),
        })
    }

    /// When what a queue waits for is expected to end, if that is known.
    fn until(&self, view: &QueueView<'_>) -> Option<Mono> {
        let timed = view.waiting().until.or(view.rests_until());
        let delayed = view.waiting().cause == Cause::Backoff;
        timed.or_else(|| delayed.then(|| self.next_due(view.id())).flatten())
    }

    /// When the first delayed message of a queue is due.
    fn next_due(&self, queue: QueueId) -> Option<Mono> {
        let first = self.queues.entries(queue, State::Delayed, None, 1)?;
        self.queues.entry(*first.first()?)?.due()
    }

    fn host_states(&self, now: Now, link: &Link) -> Vec<HostState> {
        let Way::Known(plan) = &link.plan else {
            return Vec::new();
        };
        let state = |host: &crate::deliver::route::Host| {
            let ip = host.address.ip();
            let (failures, resting) = self.hosts.state(now.mono, ip);
            HostState {
                preference: host.preference,
                host: host.name.to_string(),
                address: host.address.to_string(),
                connections: self.host_load.get(&ip).copied().unwrap_or(0).into(),
                resting_until: resting.map(|until| now.wall_of(until).rfc3339().to_string()),
                failures: failures.into(),
            }
        };
        plan.hosts.iter().map(state).collect()
    }

    /// Messages that match, from `cursor` on, up to `limit`, and where to go on.
    pub fn list_messages(
        &self,
        now: Now,
        common: &Common,
        filter: &Filter,
        (cursor, limit): (u64, usize),
    ) -> (Vec<MessageSummary>, Option<u64>) {
        let mut messages = Vec::new();
        let mut cursor = cursor;
        for _ in 0..LOOKED_AT_MAX / crate::queue::SCAN_STEPS_MAX as usize + 1 {
            let left = limit - messages.len();
            let page = self
                .queues
                .search(cursor, left, |entry| self.entry_matches(now, entry, filter));
            let summaries = page.items.iter();
            messages.extend(summaries.filter_map(|entry| self.message(now, common, *entry)));
            match page.next {
                Some(next) if messages.len() < limit => cursor = next,
                next => return (messages, next),
            }
        }
        (messages, Some(cursor))
    }

    pub(super) fn entry_matches(&self, now: Now, entry: &EntryView<'_>, filter: &Filter) -> bool {
        self.entry_verdict(now, entry, filter, None) == Verdict::Yes
    }

    /// What a filter says of an entry, whose content may be at hand though it is not in memory.
    pub(super) fn entry_verdict(
        &self,
        now: Now,
        entry: &EntryView<'_>,
        filter: &Filter,
        content: Option<&Content>,
    ) -> Verdict {
        if filter.is_empty() {
            return Verdict::Yes;
        }
        let Some(view) = self.queues.view(entry.queue()) else {
            return Verdict::No;
        };
        let recipient = filter
            .asks_for(Field::Recipient)
            .then(|| entry.address().to_string());
        let sender = content.map(|it| SenderFact::Text(it.sender_text()));
        let code = view
            .replies()
            .of(Class::Transient)
            .map(|said| said.reply.to_string());
        let states = States::NONE
            .with(States::ACTIVE, entry.state() == State::Active)
            .with(States::DELAYED, entry.state() == State::Delayed)
            .with(States::HELD, entry.is_held())
            .with(
                States::IN_FLIGHT,
                matches!(entry.state(), State::InFlight | State::Ending),
            );
        filter.verdict(&Facts {
            domain: Some(view.domain()),
            binding: Some(view.binding()),
            id: Some(entry.message()),
            recipient: recipient.as_deref(),
            sender: Some(sender.unwrap_or_else(|| entry.sender_fact())),
            states,
            code: code.as_deref(),
            cause: Some(view.waiting().cause.as_str()),
            age: Some(now.wall.since(entry.received())),
            size: Some(entry.size().into()),
            attempts: Some(entry.attempts().into()),
            class: Some(flow::class_of(entry.flow())),
            tenant: flow::tenant_of(entry.flow()),
            campaign: flow::campaign_of(entry.flow()),
        })
    }

    fn message(&self, now: Now, common: &Common, entry: EntryId) -> Option<MessageSummary> {
        let entry = self.queues.entry(entry)?;
        let view = self.queues.view(entry.queue())?;
        let wall = |mono: Mono| now.wall_of(mono).rfc3339().to_string();
        let rests = view
            .rests_until()
            .filter(|_| entry.state() == State::Active);
        let held = entry.is_held().then(|| self.held_by(now, entry.id()));
        let order = held.unwrap_or_else(|| self.stop_of(view.id()));
        Some(MessageSummary {
            id: entry.message().to_string(),
            recipient: entry.address().to_string(),
            binding: view.binding().to_string(),
            domain: view.domain().to_string(),
            shard: common.shard.0,
            home: entry.home().0,
            state: match entry.state() {
                State::Active if rests.is_some() => "delayed",
                State::Active => "active",
                State::Delayed if entry.is_held() => "held",
                State::Delayed => "delayed",
                State::InFlight | State::Ending => "in_flight",
            }
            .to_string(),
            size_bytes: entry.size().into(),
            age_seconds: now.wall.since(entry.received()).as_secs(),
            attempts: entry.attempts().into(),
            due: entry.due().or(rests).map(wall),
            expires: Some(wall(entry.expires(now))),
            body_in_memory: entry.content().is_some(),
            class: flow::class_of(entry.flow()).to_string(),
            tenant: flow::tenant_of(entry.flow()).map(str::to_string),
            campaign: flow::campaign_of(entry.flow()).map(str::to_string),
            order: order.map(|order| order.id),
        })
    }

    /// Who or what has stopped a queue, if anything has.
    fn stopped_by(&self, now: Now, queue: QueueId) -> String {
        if let Some(order) = self.order_against(now, queue) {
            return format!("{} by {}", order.verb.done(), order.sentence());
        }
        match self.absent_of(queue) {
            Some(absent) => absent.to_string(),
            None if self.is_under_curfew(queue) => "suspended by its curfew".to_string(),
            None => match self.links.get(&queue).and_then(Link::stop_words) {
                Some(words) => words,
                None => "delivery is suspended by suspend_delivery".to_string(),
            },
        }
    }

    fn is_under_curfew(&self, queue: QueueId) -> bool {
        let link = self.links.get(&queue);
        link.is_some_and(|it| !it.settings.suspended && it.curfew_ends.is_some())
    }

    fn stop_of(&self, queue: QueueId) -> Option<&Order> {
        let stopped = self.links.get(&queue)?.stop?;
        self.order(stopped.order?)
    }

    /// Messages of a batch, one message, or those to a recipient.
    pub fn trace(&self, now: Now, common: &Common, target: &TraceTarget) -> Vec<MessageTrace> {
        let entries: Vec<EntryId> = match target {
            TraceTarget::Batch(text) => match text.parse() {
                Ok(batch) => self
                    .queues
                    .of_batch(batch)
                    .map(|entry| entry.id())
                    .collect(),
                Err(_) => Vec::new(),
            },
            TraceTarget::Message(text) => match text.parse::<MessageId>() {
                Ok(message) => self.queues.of_message(message).into_iter().collect(),
                Err(_) => Vec::new(),
            },
            TraceTarget::Recipient(address) => self.to_recipient(address),
        };
        entries
            .into_iter()
            .filter_map(|entry| self.trace_of(now, common, entry))
            .collect()
    }

    /// The queues of the recipient's domain are looked through, not all messages.
    fn to_recipient(&self, address: &str) -> Vec<EntryId> {
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let mut found = Vec::new();
        for view in self.queues.of_domain(domain) {
            for state in State::ALL {
                let all = self.queues.entries(view.id(), state, None, LOOKED_AT_MAX);
                let is_it = |entry: &EntryId| {
                    let entry = self.queues.entry(*entry);
                    entry.is_some_and(|it| it.address().as_str().to_lowercase() == address)
                };
                found.extend(all.unwrap_or_default().into_iter().filter(is_it));
                found.truncate(TRACED_MAX);
            }
        }
        found
    }

    fn trace_of(&self, now: Now, common: &Common, entry: EntryId) -> Option<MessageTrace> {
        let message = self.message(now, common, entry)?;
        let entry = self.queues.entry(entry)?;
        let view = self.queues.view(entry.queue())?;
        let content = entry.content();
        let said = newest(&[Class::Transient, Class::Permanent].map(|it| view.replies().of(it)));
        let attempted = entry.attempts() > 0;
        let attempts = match message.attempts {
            0 => "not tried yet".to_string(),
            1 => "tried once".to_string(),
            more => format!("tried {more} times"),
        };
        let state = message.state.replace('_', " ");
        let sentence = format!(
            "{state}, {attempts}; its queue: {}",
            view.waiting().cause.as_str()
        );
        Some(MessageTrace {
            sender: content.map(|it| {
                it.sender
                    .as_ref()
                    .map_or(String::new(), |to| to.to_string())
            }),
            subject: content.map(|it| it.subject.to_string()),
            received_from: content.map(|it| format!("{} [{}]", it.origin.helo, it.origin.peer)),
            last_reply: said
                .filter(|_| attempted)
                .map(|said| said.reply.to_string()),
            transcripts: self.recorder.of_message(entry.message()),
            sentence,
            message,
        })
    }

    /// Gauges of this shard's queues and connections.
    pub fn gauges(&self, now: Now, gauges: &mut crate::engine::stats::Gauges) {
        let totals = self.queues.totals();
        gauges.queue_active = totals.active;
        gauges.queue_delayed = totals.delayed;
        gauges.queue_in_flight = totals.in_flight + totals.ending;
        gauges.queues = self.queues.queues_len() as u64;
        gauges.sessions_out = self.outgoing.len() as u64;
        gauges.resident_messages = self.queues.resident_messages() as u64;
        gauges.resident_bytes = self.queues.resident_bytes();
        gauges.queue_bytes = (self.queues.len() * ENTRY_BYTES) as u64;
        self.trouble(now, gauges);
    }

    /// See [`crate::queue::Queues::passed_over`].
    pub fn passed_over(&self) -> impl Iterator<Item = (&str, u32)> {
        self.queues.passed_over()
    }

    /// Age of the oldest message, how many queues rest because nothing answers, and what waits for
    /// bindings that are not there.
    fn trouble(&self, now: Now, gauges: &mut crate::engine::stats::Gauges) {
        (gauges.oldest_seconds, gauges.queues_failing) = (0, 0);
        gauges.unnamed_binding_messages = 0;
        gauges.unnamed_binding.clear();
        for (queue, link) in &self.links {
            let Some(view) = self.queues.view(*queue) else {
                continue;
            };
            let age = view.oldest_age(now).map_or(0, |age| age.as_secs());
            gauges.oldest_seconds = gauges.oldest_seconds.max(age);
            gauges.queues_failing += u64::from(view.waiting().cause == Cause::HostsFailing);
            if link.unnamed && !view.is_empty() {
                let counts = State::ALL.iter().map(|state| u64::from(view.count(*state)));
                gauges.unnamed_binding_messages += counts.sum::<u64>();
                if gauges.unnamed_binding.is_empty() {
                    gauges.unnamed_binding = link.binding.to_string();
                }
            }
        }
    }

    /// Attempts that messages of a queue had before this process, as far as it has made none:
    /// their replies are not kept over a restart.
    fn attempts_before(&self, view: &QueueView<'_>) -> u64 {
        let classes = [Class::Positive, Class::Transient, Class::Permanent];
        if classes.iter().any(|it| view.replies().of(*it).is_some()) {
            return 0;
        }
        let waiting = [State::Active, State::Delayed];
        let entries = waiting.map(|it| self.queues.entries(view.id(), it, None, ATTEMPTS_OF_MAX));
        let entries = entries.into_iter().flatten().flatten();
        let attempts = entries.filter_map(|entry| self.queues.entry(entry));
        attempts.map(|entry| u64::from(entry.attempts())).sum()
    }
}

/// Hosts whose limits are told.
const HOSTS_LIMITS_MAX: usize = 8;

/// What an entry takes with its message, its local part and its place in the tables, about.
const ENTRY_BYTES: usize = 190;

fn newest<'a>(said: &[Option<&'a Said>]) -> Option<&'a Said> {
    said.iter().flatten().max_by_key(|said| said.last).copied()
}

fn last_reply(said: &Said) -> LastReply {
    LastReply {
        class: match said.reply.class() {
            Class::Positive => "delivered",
            Class::Transient => "transient",
            Class::Permanent => "permanent",
        }
        .to_string(),
        reply: said.reply.to_string(),
        internal: said.reply.internal,
        stage: said.stage.as_str().to_string(),
        host: None,
        first_at: said.first.rfc3339().to_string(),
        last_at: said.last.rfc3339().to_string(),
        count: said.count,
    }
}

fn limits(common: &Common, link: &Link, cause: Cause) -> Vec<LimitState> {
    let query = ConfigQuery {
        binding: Some(link.binding.to_string()),
        domain: Some(link.domain.to_string()),
        ..ConfigQuery::default()
    };
    let throttle = link.bookings.latest().map(|(throttle, _)| throttle.name());
    let of_queue = [&link.throttled.messages, &link.throttled.connections];
    let own_throttle = of_queue
        .into_iter()
        .flatten()
        .map(|it| it.name())
        .find(|name| throttle == Some(*name));
    let limit = |option: &&str| {
        let found = common.generation.config.eval(option, &query).ok()?;
        let binds = match cause {
            Cause::ConnectionLimit if *option == LIMIT_OPTIONS[0] => {
                link.is_full() || link.waits_for_stripes()
            }
            Cause::ConnectionLimit => link.waits_under().any(|it| it.starts_with(option)),
            Cause::Throttle => own_throttle.is_some_and(|name| name.starts_with(option)),
            _ => false,
        };
        Some(LimitState {
            option: option.to_string(),
            value: found.value.unwrap_or_else(|| "unset".to_string()),
            origin: found.origin.to_string(),
            binding_now: binds,
        })
    };
    let mut all: Vec<LimitState> = LIMIT_OPTIONS.iter().filter_map(limit).collect();
    all.extend(link.adaptive_limits(cause));
    all.extend(host_limits(common, link, cause, throttle));
    all
}

/// What host stanzas say of the hosts that a queue goes to.
fn host_limits(
    common: &Common,
    link: &Link,
    cause: Cause,
    throttle: Option<&str>,
) -> Vec<LimitState> {
    let config = &common.generation.config;
    let mut all: Vec<LimitState> = Vec::new();
    let (Way::Known(plan), Some(binding)) = (&link.plan, config.binding_by_name(&link.binding))
    else {
        return all;
    };
    for host in plan.hosts.iter().take(HOSTS_LIMITS_MAX) {
        let (name, ip) = (&host.name, host.address.ip());
        if let Some(found) = config.host_connection_limit(binding, name, ip) {
            all.push(LimitState {
                option: "max_outbound_connections".to_string(),
                value: found.limit.to_string(),
                origin: found.stanza,
                binding_now: cause == Cause::ConnectionLimit && !link.is_full(),
            });
        }
        if let Some(found) = config.host_scope_limit(binding, name, ip) {
            let (option, origin) = found.of.split_once(" of ").unwrap_or((&found.of, ""));
            all.push(LimitState {
                option: option.to_string(),
                value: found.max.to_string(),
                origin: origin.to_string(),
                binding_now: link.waits_under().any(|it| it == &*found.of),
            });
        }
        for found in config
            .host_throttles(binding, name, ip)
            .into_iter()
            .flatten()
        {
            let (option, origin) = found.of.split_once(" of ").unwrap_or((&found.of, ""));
            all.push(LimitState {
                option: option.to_string(),
                value: format!("\"{}\"", found.rate),
                origin: origin.to_string(),
                binding_now: cause == Cause::Throttle && throttle == Some(&*found.of),
            });
        }
    }
    all.dedup_by(|a, b| a.option == b.option && a.origin == b.origin);
    all
}

/// What waits for its turn, by flow.
fn flows(view: &QueueView<'_>) -> Vec<FlowWaiting> {
    let flows = view.flows(FLOWS_MAX);
    if flows.iter().all(|(flow, _)| flow.is_none()) {
        return Vec::new();
    }
    let waiting = |(flow, active): (Option<Arc<flow::Flow>>, u32)| FlowWaiting {
        class: flow::class_of(flow.as_ref()).to_string(),
        tenant: flow::tenant_of(flow.as_ref()).map(str::to_string),
        campaign: flow::campaign_of(flow.as_ref()).map(str::to_string),
        active: active.into(),
    };
    flows.into_iter().map(waiting).collect()
}

/// What the queue waits for, since when, until when, as a sentence.
fn sentence(
    now: Now,
    view: &QueueView<'_>,
    link: &Link,
    (until, stopped_by): (Option<Mono>, &str),
) -> String {
    let waiting = view.waiting();
    let active = view.count(State::Active);
    let connections = link.connections.len() as u64;
    let what = match waiting.cause {
        Cause::Idle => "nothing waits here".to_string(),
        Cause::Ready => {
            let active = u64::from(active);
            let (messages, are) = (units::counted(active, "message"), units::are(active));
            format!("{messages} {are} about to be tried")
        }
        Cause::Delivering => format!(
            "delivering: {} in flight on {}, {} behind",
            units::grouped(view.count(State::InFlight).into()),
            units::counted(connections, "connection"),
            units::grouped(active.into()),
        ),
        Cause::Dns => "waits for DNS".to_string(),
        Cause::Connecting => "waits for a connection to be made".to_string(),
        Cause::Greeting => format!(
            "waits for the receiving host to greet, on {}",
            units::counted(connections, "connection")
        ),
        Cause::Deferral => "the receiving host defers".to_string(),
        Cause::Backoff => match u64::from(view.count(State::Delayed)) {
            1 => "its only message is delayed".to_string(),
            count => format!("all {} messages are delayed", units::grouped(count)),
        },
        Cause::HostsFailing => "every host of the domain fails; the queue rests".to_string(),
        Cause::ConnectionLimit => {
            let (limit, are) = (
                units::counted(connections, "connection"),
                units::are(connections),
            );
            let active = units::grouped(active.into());
            match link.is_full() {
                true => format!("{limit} {are} the limit, {active} waiting"),
                false => {
                    let names: Vec<&str> = link.waits_under().collect();
                    format!("no place under {}, {active} waiting", names.join(" or "))
                }
            }
        }
        Cause::Throttle => match link.bookings.latest() {
            Some((throttle, _)) => {
                let (name, rate) = (throttle.name(), throttle.rate());
                format!("waits for its turn under {name}, which is \"{rate}\"")
            }
            None => "waits for its turn under a throttle".to_string(),
        },
        Cause::Adaptive => link.adaptive_words(),
        Cause::WarmUp => link.warmup_words(now),
        Cause::Suspended => stopped_by.to_string(),
        Cause::BodyFetch => "waits for bodies to be read from the spool".to_string(),
    };
    let since = units::duration(now.mono.since(waiting.since));
    match until {
        Some(until) if until > now.mono => {
            let left = units::duration(until.since(now.mono));
            format!("{what}, for {since} so far, {left} to go")
        }
        _ => format!("{what}, for {since} so far"),
    }
}
