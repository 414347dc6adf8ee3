//! One look at a queue: give its connections work, open more if they are too few, and say what it
//! waits for.

use core::time::Duration;

use crate::base::limit::Limit;
use crate::base::time::Mono;
use crate::config::Blackhole;
use crate::deliver::goal::{Connections, connection_goal, connections_to_open};
use crate::deliver::hosts::{Choice, DelayLimits};
use crate::deliver::route::{Host, Plan, Planned, plan};
use crate::deliver::session::Session;
use crate::engine::Turn;
use crate::engine::io::{Action, ToControl};
use crate::engine::owner::openings::Opening;
use crate::engine::owner::places::Places;
use crate::engine::owner::throttles::Throttled;
use crate::engine::owner::{Link, OpenJob, Outgoing, Owner, Way, conn_id};
use crate::queue::{Cause, QueueId, State, Taken};
use crate::shape::rate::Gate;
use crate::types::outcome::{OutcomeKind, Stage};
use crate::types::reply::{Class, Enhanced, Reply};
use std::rc::Rc;
use std::sync::Arc;

/// Bodies of one queue on their way back from the disk at a time.
const FETCHES_MAX: u32 = 16;

/// Messages that one look at a queue ends when nothing can be delivered there; the rest in the
/// next turns, so that a large queue does not hold up the others.
const REFUSED_PER_TURN_MAX: usize = 256;

/// What is ready to go is not kept longer than this for a throttle.
const UNSERVED_MAX: Duration = Duration::from_secs(1);

/// The shortest rest of a queue whose way cannot be found: name servers need a moment too.
const DNS_REST_MIN: Duration = Duration::from_secs(5);

/// The longest one: what is wrong may be mended at any time, here or there.
const WAY_REST_MAX: Duration = Duration::from_secs(300);

/// Why no connection is opened now.
enum Obstacle {
    /// A limit is reached. The queue stands in line and is woken.
    Reached,
    Resting(Mono),
    /// A throttle. The queue is looked at again when that is over.
    Throttled,
}

/// What is against the hosts that could not be chosen.
#[derive(Default)]
struct Against {
    reached: Vec<Arc<Limit>>,
    /// A host for which a place can be taken before one has to be waited for. Who has no connection
    /// keeps it then: two who each wait for what the other has been handed would go on for ever.
    partly: Option<usize>,
    /// When the first of those opens that are shut for a while, and which it is if a throttle is
    /// what shuts it.
    throttled_until: Option<(Mono, Option<usize>)>,
}

impl Owner {
    pub(super) fn pump(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        self.heed(turn, queue);
        self.end_surplus(turn, queue);
        self.follow_warmup(turn, queue);
        let Some(link) = self.links.get(&queue) else {
            return;
        };
        if link.settings.delivery.blackhole != Blackhole::Off || link.is_blackholed() {
            self.discard(turn, queue);
        } else if !link.was_stopped && !turn.common.draining {
            debug_assert!(self.knows_openings(queue), "no connection changes unseen");
            self.screen_front(turn, queue);
            self.feed(turn, queue);
            self.open_more(turn, queue);
            self.arm_adaptive(turn, queue);
        } else {
            self.drop_claim(turn, queue);
        }
        self.give_up(turn, queue);
        self.give_back_unserved(turn, queue);
        let books = self
            .links
            .get(&queue)
            .is_some_and(|it| it.bookings.are_held());
        if books && self.has_nothing_to_start(turn.now.mono, queue) {
            self.leave_throttles(queue);
        } else if books
            && let Some(link) = self.links.get_mut(&queue)
            && link.connections.len() as u32 <= link.dialing
        {
            // It is woken by what it waits for: a host, a place, an answer, another turn.
            link.bookings.leave_overdue(turn.now.mono);
        }
        self.note_cause(turn, queue);
    }

    /// Nothing that a turn under a throttle could be used for.
    fn has_nothing_to_start(&self, now: Mono, queue: QueueId) -> bool {
        let (Some(link), Some(view)) = (self.links.get(&queue), self.queues.view(queue)) else {
            return true;
        };
        let held = link
            .adaptive
            .as_ref()
            .is_some_and(|it| it.shape.is_held(now));
        let suspended = link.was_stopped || held || view.rests_until().is_some();
        let waits = view.count(State::Active) as usize + link.ready.len();
        suspended || waits == 0 && link.fetching == 0
    }

    /// Messages whose body has come back while the last connection went, or a throttle was reached:
    /// they wait in the queue again, where they wake it, expire and are listed like all others.
    fn give_back_unserved(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let throttled = link.bookings.latest();
        let waits = throttled.is_some_and(|(_, at)| at > turn.now.mono + UNSERVED_MAX);
        if !link.connections.is_empty() && !waits {
            return;
        }
        for job in link.ready.drain(..).rev() {
            let entries: Vec<_> = job.recipients.iter().map(|(entry, _)| *entry).collect();
            self.queues.give_back(turn.now, &entries);
        }
    }

    /// Gives work to every connection that can take some, the least busy first.
    fn feed(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        loop {
            let Some(key) = self.connection_for(turn, queue) else {
                return;
            };
            let Some(job) = self.take_job(turn, queue) else {
                return;
            };
            let Some(job) = self.admitted(turn, key, job) else {
                return;
            };
            self.start(turn, key, job);
        }
    }

    /// The next message with its body at hand; sends for bodies that are not.
    fn take_job(&mut self, turn: &mut Turn<'_>, queue: QueueId) -> Option<OpenJob> {
        loop {
            if let Some(job) = self.ready_job(queue) {
                match self.screened(turn, queue, job) {
                    Some(job) => return Some(job),
                    None => continue,
                }
            }
            let link = self.links.get(&queue)?;
            let throttles = link.message_throttles();
            let at_once = throttles.map(|it| it.rate().count).min();
            let at_once = at_once.unwrap_or(u32::MAX);
            let recipients_max = link.settings.delivery.max_recipients_per_batch as usize;
            if !self.may_fetch(queue, FETCHES_MAX.min(at_once)) {
                return self.left_ready(turn, queue);
            }
            match self.queues.take(turn.now, queue, recipients_max) {
                Taken::Batch(batch) => {
                    let id = self.next_job();
                    let (home, recipients) = (batch.home, batch.recipients);
                    let (rank, batch, content) = (batch.rank, batch.batch, batch.content);
                    let job = OpenJob {
                        begun: turn.now.mono,
                        id,
                        batch,
                        home,
                        content,
                        recipients,
                        rank,
                    };
                    match self.screened(turn, queue, job) {
                        Some(job) if job.content.is_some() => {
                            self.passes(queue, &job);
                            return Some(job);
                        }
                        Some(job) => self.fetch(queue, job),
                        None => {}
                    }
                }
                Taken::Expired(entries) => {
                    for entry in entries {
                        self.expired(turn, entry);
                    }
                }
                Taken::Resting { .. } | Taken::Empty => return self.left_ready(turn, queue),
            }
        }
    }

    /// What is ready, when the queue has nothing that could go before it.
    fn left_ready(&mut self, turn: &mut Turn<'_>, queue: QueueId) -> Option<OpenJob> {
        while let Some(job) = self.any_ready(queue) {
            let job = self.screened(turn, queue, job);
            if job.is_some() {
                return job;
            }
        }
        None
    }

    fn fetch(&mut self, queue: QueueId, job: OpenJob) {
        self.note_fetch(queue, job.rank);
        if let Some(link) = self.links.get_mut(&queue) {
            link.fetching += 1;
        }
        let (home, batch) = (job.home, job.batch);
        let waiting = self.fetching.entry(batch).or_default();
        waiting.push((queue, job));
        if waiting.len() == 1 {
            self.fetches.push((home, batch));
        }
    }

    fn open_more(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let Some(link) = self.links.get(&queue) else {
            return;
        };
        let most = match link.gate(turn) {
            Gate::Open => u32::MAX,
            // One connection finds out as well as many.
            Gate::One if link.connections.is_empty() => 1,
            _ => return self.drop_claim(turn, queue),
        };
        if link.adaptive.is_some() {
            self.try_more_connections(turn, queue);
        }
        let wanted = self.connections_wanted(queue).min(most);
        if wanted == 0 {
            return self.drop_claim(turn, queue);
        }
        if self.waits_in_line(queue) {
            return;
        }
        if self.is_shut(turn, queue) {
            return self.step_aside(turn, queue);
        }
        if !self.is_worth_connecting(turn.now.mono, queue) {
            return self.step_aside(turn, queue);
        }
        let Some(plan) = self.way(turn, queue) else {
            return self.step_aside(turn, queue);
        };
        for _ in 0..wanted {
            if self.take_over(turn, queue, &plan) {
                // It has a connection more: a place that has been handed to it goes to the next.
                self.drop_claim(turn, queue);
                continue;
            }
            match self.open_one(turn, queue, &plan) {
                Ok(()) => {}
                Err(Obstacle::Reached) => return,
                Err(Obstacle::Throttled) => return self.step_aside(turn, queue),
                Err(Obstacle::Resting(until)) => {
                    self.drop_claim(turn, queue);
                    return self.rest(turn, queue, &plan, until);
                }
            }
        }
    }

    fn connections_wanted(&self, queue: QueueId) -> u32 {
        let (Some(link), Some(view)) = (self.links.get(&queue), self.queues.view(queue)) else {
            return 0;
        };
        if view.rests_until().is_some() {
            return 0;
        }
        let active = view.count(State::Active) as usize + link.ready.len();
        if active == 0 {
            return 0;
        }
        let max = link.connections_max();
        let load = active + view.count(State::InFlight) as usize;
        let goal = connection_goal(link.settings.aggressiveness, load, max);
        let free = link.openings.count() + link.dialing;
        let existing = link.connections.len() as u32;
        // Until a host has answered, one connection finds out whether it does; then as many more
        // as are open. A thousand queues whose hosts are down cost a thousand attempts, not as
        // many as their goals add up to.
        let open = existing - link.dialing.min(existing);
        let ramp = (open * 2).max(1);
        connections_to_open(goal.min(ramp), Connections { existing, free }, active)
    }

    /// The hosts to go to, if they are known; otherwise finds out.
    fn way(&mut self, turn: &mut Turn<'_>, queue: QueueId) -> Option<Rc<Plan>> {
        let link = self.links.get_mut(&queue)?;
        match &link.plan {
            Way::Known(plan) if turn.now.mono < plan.until => return Some(plan.clone()),
            Way::Asking => return None,
            _ => {}
        }
        let settings = link.settings.clone();
        let rerouted = link.rerouted.clone();
        let route = rerouted.as_ref().map_or(&settings.route, |it| &it.route);
        let prng = &mut turn.common.prng;
        match plan(turn.now.mono, &link.domain, route, &self.cache, prng) {
            Planned::Ready(plan) => {
                let plan = Rc::new(plan);
                link.plan = Way::Known(plan.clone());
                Some(plan)
            }
            Planned::Ask { new, pending } => {
                link.plan = Way::Asking;
                for question in new.iter().chain(&pending) {
                    self.asking.entry(question.clone()).or_default().push(queue);
                }
                for question in new {
                    self.cache.asked(turn.now.mono, &question);
                    turn.common.stats.counters.dns_lookups += 1;
                    let shard = turn.common.shard;
                    turn.out
                        .push(Action::Control(ToControl::Resolve { shard, question }));
                }
                None
            }
            Planned::Refused { reply, until } => {
                link.plan = Way::Unknown;
                self.no_way(turn, queue, reply, until);
                None
            }
        }
    }

    /// There is nowhere to go: for good, which ends the messages, or for now, which lets the whole
    /// queue rest.
    fn no_way(&mut self, turn: &mut Turn<'_>, queue: QueueId, reply: Reply, until: Mono) {
        let waiting = self
            .queues
            .view(queue)
            .map_or(0, |view| view.count(State::Active));
        self.queues
            .note_reply(turn.now, queue, (&reply, Stage::Dns), u64::from(waiting));
        if reply.class() != Class::Permanent {
            let (least, most) = (turn.now.mono + DNS_REST_MIN, turn.now.mono + WAY_REST_MAX);
            let until = until.clamp(least, most);
            self.queues.rest(turn.now, queue, until);
            self.queues
                .set_cause(turn.now, queue, Cause::Dns, Some(until));
            return;
        }
        self.end_active(turn, queue, OutcomeKind::Bounced, &reply);
    }

    /// A blackhole takes what is queued for it, too.
    fn discard(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let reply = Reply::internal(554, Enhanced(5, 7, 0), "Blackholed");
        self.end_active(turn, queue, OutcomeKind::Discarded, &reply);
    }

    /// Ends what is active, a bounded number in one turn.
    fn end_active(
        &mut self,
        turn: &mut Turn<'_>,
        queue: QueueId,
        kind: OutcomeKind,
        reply: &Reply,
    ) {
        for _ in 0..REFUSED_PER_TURN_MAX {
            match self.queues.take(turn.now, queue, usize::MAX) {
                Taken::Batch(batch) => self.end_batch(turn, batch, kind.clone(), reply),
                Taken::Expired(entries) => {
                    for entry in entries {
                        self.expired(turn, entry);
                    }
                }
                Taken::Resting { .. } | Taken::Empty => return,
            }
        }
        // More of them wait; they get their answer after a short rest, not in this turn.
        self.queues
            .rest(turn.now, queue, turn.now.mono + Duration::from_millis(1));
    }

    /// Dials the host that is next, if it has room. If a limit that spans shards is against it,
    /// the queue stands in line for a place.
    fn open_one(
        &mut self,
        turn: &mut Turn<'_>,
        queue: QueueId,
        plan: &Plan,
    ) -> Result<(), Obstacle> {
        let mut against = Against::default();
        let index = match self.choose(turn, queue, plan, &mut against) {
            Choice::Host(index) => index,
            Choice::Full => match (against.partly, against.throttled_until) {
                (Some(index), _) => index,
                (None, Some((until, index))) if against.reached.is_empty() => {
                    match index {
                        Some(index) => self.stand_before(turn, queue, &plan.hosts[index]),
                        None => self.look_again(queue, until),
                    }
                    return Err(Obstacle::Throttled);
                }
                (None, _) => {
                    self.stand_in_line(turn, queue, &against.reached);
                    return Err(Obstacle::Reached);
                }
            },
            Choice::Resting(until) => return Err(Obstacle::Resting(until)),
        };
        let host = plan.hosts[index].clone();
        let now = turn.now.mono;
        let throttled = self.host_throttles(turn, queue, &host);
        if !self.may_connect(now, queue, throttled.connections.as_ref()) {
            self.stand_before(turn, queue, &host);
            return Err(Obstacle::Throttled);
        }
        let limits = self.host_limits(turn, queue, &host);
        let places = self.reserve(turn, queue, &host, limits);
        let places = places.ok_or(Obstacle::Reached)?;
        if !self.connects(now, queue, throttled.connections.as_ref()) {
            self.unreserve(turn, places);
            return Err(Obstacle::Throttled);
        }
        self.hold(turn, queue, &places);
        self.dial(turn, queue, (host, throttled), places);
        Ok(())
    }

    /// The host for one more connection; `against` gets what is against those that have no room.
    fn choose(
        &mut self,
        turn: &mut Turn<'_>,
        queue: QueueId,
        plan: &Plan,
        against: &mut Against,
    ) -> Choice {
        let limits: Vec<Vec<Arc<Limit>>> = match turn.common.generation.config.has_hosts() {
            true => {
                let hosts = plan.hosts.iter();
                hosts
                    .map(|host| self.host_limits(turn, queue, host))
                    .collect()
            }
            false => Vec::new(),
        };
        let turn = &*turn;
        self.hosts.choose(turn.now.mono, plan, |index, host| {
            let of_host = limits.get(index).map_or(&[][..], |it| it);
            if let Some(at) = self.against(turn, queue, host, of_host) {
                against.reached.push(of_host[at].clone());
                against.partly = against.partly.or(Some(index).filter(|_| at > 0));
                return None;
            }
            let crowded = self.crowded_until(turn.now.mono, queue, host);
            let throttled = self.host_opens_at(turn, queue, host);
            if let Some(at) = throttled.max(crowded) {
                let this = (at, (throttled > crowded).then_some(index));
                let known = against.throttled_until.filter(|(it, _)| *it <= at);
                against.throttled_until = known.or(Some(this));
                return None;
            }
            let ip = host.address.ip();
            Some(self.host_load.get(&ip).copied().unwrap_or(0))
        })
    }

    /// Until when a host takes no more connections of a binding.
    fn crowded_until(&self, now: Mono, queue: QueueId, host: &Host) -> Option<Mono> {
        let ip = host.address.ip();
        let source = self.links.get(&queue)?.settings.binding.source_for(ip);
        self.crowds.full_until(now, (ip, source))
    }

    fn dial(
        &mut self,
        turn: &mut Turn<'_>,
        queue: QueueId,
        (host, throttled): (Host, Throttled),
        places: Places,
    ) {
        let Some(link) = self.links.get(&queue) else {
            return self.release(turn, queue, places);
        };
        let ip = host.address.ip();
        let settings = link.settings.clone();
        let meets_throttles = throttled.messages.is_some();
        let source = settings.binding.source_for(ip);
        let remote = host.address;
        let deadline = turn.now.mono + settings.delivery.connect_timeout;
        let session = Session::new(turn.now, link.session_settings());
        let key = self.outgoing.insert(Box::new(Outgoing {
            queue,
            host,
            source,
            local: None,
            session,
            open: false,
            begun: turn.now.mono,
            let_in: false,
            writing: false,
            touched: false,
            proved: false,
            listed: false,
            leaving: false,
            over: false,
            opening: (Opening::Nothing, 0),
            jobs: Vec::new(),
            timer: None,
            places,
            throttled,
        }));
        self.set_timer(key, deadline);
        self.crowds.began(turn.now.mono, (ip, source));
        *self.host_load.entry(ip).or_default() += 1;
        if let Some(link) = self.links.get_mut(&queue) {
            link.connections.push(key);
            link.dialing += 1;
            link.meets_host_throttles |= meets_throttles;
            link.trying_since.get_or_insert(turn.now.mono);
        }
        turn.common.stats.counters.connections_out += 1;
        turn.out.push(Action::Dial {
            conn: conn_id(key),
            remote,
            source,
        });
    }

    /// Every host rests. The queue rests until the first is up, or after too many failures as long
    /// as a message would that had failed as often.
    fn rest(&mut self, turn: &mut Turn<'_>, queue: QueueId, plan: &Plan, until: Mono) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        if link
            .connections
            .iter()
            .any(|key| self.outgoing.get(*key).is_some_and(|it| it.open))
        {
            return;
        }
        let limits = DelayLimits {
            mx_failures: link.settings.delivery.mx_failures_to_delay,
            connect_time: link.settings.delivery.connect_timeout_to_delay,
        };
        let mut until = until;
        if self
            .hosts
            .queue_rests(turn.now.mono, plan, link.trying_since, limits)
        {
            link.rests = link.rests.saturating_add(1);
            link.trying_since = None;
            let failures = u16::try_from(link.rests).unwrap_or(u16::MAX);
            until = until.max(turn.now.mono + link.settings.queue.retry_delay(failures));
        }
        self.queues.rest(turn.now, queue, until);
    }

    fn note_cause(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let (Some(link), Some(view)) = (self.links.get(&queue), self.queues.view(queue)) else {
            return;
        };
        let (active, delayed) = (view.count(State::Active), view.count(State::Delayed));
        let busy = view.count(State::InFlight);
        let rests = view.rests_until();
        let without_way = matches!(link.plan, Way::Unknown);
        if rests.is_some() && without_way && view.waiting().cause == Cause::Dns {
            return;
        }
        let open = link.connections.len() as u32 > link.dialing;
        let throttled = link.bookings.latest().map(|(_, at)| at);
        let throttled = throttled.filter(|at| *at > turn.now.mono);
        let gate = match link.gate(turn) {
            Gate::Until(at) | Gate::Answer(at) => Some(at),
            Gate::Open | Gate::One => None,
        };
        let adapted = throttled.filter(|_| link.waits_for_adaptive());
        let warms = throttled.filter(|_| link.waits_for_warmup());
        let stopped = link
            .adaptive
            .as_ref()
            .is_some_and(|it| it.shape.stop().is_some());
        let (cause, until) = match () {
            () if active + delayed + busy == 0 => (Cause::Idle, None),
            () if link.settings.suspended => (Cause::Suspended, None),
            () if link.curfew_ends.is_some() => {
                (Cause::Suspended, link.curfew_ends.map(|(_, at)| at))
            }
            () if link.stop.is_some() => (Cause::Suspended, link.stop.and_then(|it| it.until)),
            () if active + busy == 0 && self.order_against(turn.now, queue).is_some() => {
                (Cause::Suspended, None)
            }
            () if stopped && gate.is_some() => (Cause::Suspended, gate),
            () if rests.is_some() => (Cause::HostsFailing, rests),
            () if gate.is_some() && active > 0 => (Cause::Adaptive, gate),
            () if active + busy == 0 => (Cause::Backoff, None),
            () if matches!(link.plan, Way::Asking) => (Cause::Dns, None),
            () if adapted.is_some() && active > 0 => (Cause::Adaptive, adapted),
            () if warms.is_some() && active > 0 => (Cause::WarmUp, warms),
            () if throttled.is_some() && active > 0 => (Cause::Throttle, throttled),
            () if !self.waits_under(queue).is_empty() && !open => (Cause::ConnectionLimit, None),
            () if link.dialing > 0 && !open => (Cause::Connecting, None),
            () if open && link.let_in == 0 => (Cause::Greeting, None),
            () if link.fetching > 0 && busy == link.fetching => (Cause::BodyFetch, None),
            () if active > 0 && link.is_full() && link.is_narrowed() => (Cause::Adaptive, None),
            () if active > 0 && link.is_full() => (Cause::ConnectionLimit, None),
            () if busy > 0 => (Cause::Delivering, None),
            () => (Cause::Ready, None),
        };
        self.queues.set_cause(turn.now, queue, cause, until);
    }
}

impl Link {
    /// It has all connections that it may have.
    pub(super) fn is_full(&self) -> bool {
        self.connections.len() as u32 >= self.connections_max()
    }

    pub(super) fn drop_connection(&mut self, key: crate::base::slab::Key) {
        self.connections.retain(|known| *known != key);
        if self.connections.is_empty() {
            self.openings.release();
            self.meets_host_throttles = false;
        }
    }
}
