//! The owner's half of an engine: the queues that hash to this shard, the connections that empty
//! them, and what receiving hosts answer. Each queue has a link: its settings, its way, its
//! connections. A link is looked at when something has changed for it, and never otherwise.
//!
//! Invariants: every entry taken from a queue is in exactly one job, or waits for its body, and is
//! finished, failed or given back once; a connection is counted under every limit it was reserved
//! from until the surroundings have said that it is closed.

pub mod adaptive;
mod classes;
mod conversation;
mod crowds;
mod ending;
mod giving;
mod groups;
mod host_rules;
mod learnt;
mod moves;
mod openings;
mod orders;
mod places;
mod preview;
mod pump;
mod siblings;
mod stripes;
mod throttles;
pub mod view;
pub mod warmup;

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::map::{Map, Set};
use crate::base::slab::{Key, Slab};
use crate::base::throttle::Throttle;
use crate::base::time::{Mono, Now, Wall};
use crate::base::timer_wheel::{TimerKey, TimerWheel};
use crate::config::{BindingIndex, BindingSettings, Config};
use crate::deliver::cache::{ANSWERS_MAX, Cache};
use crate::deliver::dns_answer::{Answer, Question};
use crate::deliver::hosts::{HOSTS_MAX, Hosts};
use crate::deliver::route::{Host, Plan};
use crate::deliver::session::{JobId, Session};
use crate::engine::io::{Action, ConnId, Settled, Side, Unread};
use crate::engine::owner::adaptive::{Adaptive, Changed, Pair};
use crate::engine::owner::classes::MixedQueues;
use crate::engine::owner::crowds::{Crowds, Route};
use crate::engine::owner::ending::FailuresTold;
use crate::engine::owner::host_rules::HostRules;
use crate::engine::owner::openings::{Opening, Openings};
use crate::engine::owner::orders::{Book, Met, Rerouted, Stop};
use crate::engine::owner::places::{Claim, Places};
use crate::engine::owner::siblings::Idle;
use crate::engine::owner::stripes::Stripe;
use crate::engine::owner::throttles::{Bookings, Throttled};
use crate::engine::owner::warmup::Warming;
use crate::engine::recorder::Recorder;
use crate::engine::settings::HELD_BINDING;
use crate::engine::settings::LinkSettings;
use crate::engine::{Turn, pair_hash};
use crate::queue::{Budget, EntryId, QueueId, Queues, Wake};
use crate::shape::Saved;
use crate::types::address::Address;
use crate::types::id::{BatchId, ShardId};
use crate::types::message::{Arrival, Content};

/// Looks at queues in one turn, and as many for each queue; what is left comes so much later.
const LOOKS_MIN: usize = 1_024;
const LOOKS_EACH: usize = 4;
const LOOK_LATER: Duration = Duration::from_millis(1);

/// Distinct settings kept for sharing among links of a binding.
const SETTINGS_SHARED_MAX: usize = 64;

/// One queue's way out.
struct Link {
    binding: Arc<str>,
    domain: Arc<str>,
    settings: Rc<LinkSettings>,
    /// The configuration does not name the binding: its mail goes out as that of `default`.
    unnamed: bool,
    plan: Way,
    /// Connections being opened, and all of them.
    dialing: u32,
    connections: Vec<Key>,
    openings: Openings,
    throttled: Throttled,
    /// Nothing unless its binding is to be warmed up.
    warming: Option<Box<Warming>>,
    /// Nothing unless it has heard an answer and adapts.
    adaptive: Option<Box<Adaptive>>,
    /// Connections whose host has let them in.
    let_in: u32,
    /// A host that connections of it lead to has a throttle of its own.
    meets_host_throttles: bool,
    bookings: Bookings,
    /// What it has on its way to one more connection.
    claim: Option<Box<Claim>>,
    /// Others wait for places that its connections have.
    asked: bool,
    /// Connections that have been let go, and how many in a row before their host let them in.
    leaving: u32,
    unheard: u8,
    stripe: Stripe,
    /// Batches whose body is back, ahead of what the queue holds, by their class.
    ready: VecDeque<OpenJob>,
    fetching: u32,
    /// When trying began without one connection being made since.
    trying_since: Option<Mono>,
    /// Rests of the whole queue in a row, for their growing length.
    rests: u32,
    /// The operator's order that stops it, as of this version of the book.
    stop: Option<Stop>,
    /// Where an order leads it.
    rerouted: Option<Rerouted>,
    orders_version: u64,
    was_stopped: bool,
    /// The end of its curfew, while it is under one, by both clocks.
    curfew_ends: Option<(Wall, Mono)>,
    dirty: bool,
}

enum Way {
    Unknown,
    /// DNS has been asked.
    Asking,
    Known(Rc<Plan>),
}

/// A connection to a receiving host.
struct Outgoing {
    queue: QueueId,
    host: Host,
    /// Where it comes from: what the binding wants, and what it is.
    source: Option<IpAddr>,
    local: Option<IpAddr>,
    session: Session,
    open: bool,
    begun: Mono,
    /// Its host has let it in.
    let_in: bool,
    /// A large body is being written; what follows it waits.
    writing: bool,
    touched: bool,
    /// It has answered a whole message with what was to be expected.
    proved: bool,
    /// Stands among those that siblings may take over.
    listed: bool,
    /// Takes no message more, and ends as soon as it can.
    leaving: bool,
    /// The session is over; the surroundings still have to say that the connection is closed.
    over: bool,
    /// As its queue knows it, and where among those that are like it.
    opening: (Opening, u32),
    jobs: Vec<OpenJob>,
    timer: Option<(Mono, TimerKey)>,
    places: Places,
    /// Of its host.
    throttled: Throttled,
}

/// A message that a connection is working on.
struct OpenJob {
    id: JobId,
    batch: BatchId,
    home: ShardId,
    content: Option<Arc<Content>>,
    recipients: Vec<(EntryId, Address)>,
    /// When a connection was given it.
    begun: Mono,
    /// Of its class: zero is the first.
    rank: u8,
}

#[derive(Clone, Copy)]
enum Timer {
    Connection(Key),
    Throttle(QueueId),
    Adaptive(QueueId),
    /// The end of a curfew.
    Curfew(QueueId),
}

pub struct Owner {
    queues: Queues,
    links: Map<QueueId, Link>,
    mixed: MixedQueues,
    outgoing: Slab<Box<Outgoing>>,
    cache: Cache,
    hosts: Hosts,
    /// Which queues wait for which answer.
    asking: Map<Question, Vec<QueueId>>,
    host_load: Map<IpAddr, u32>,
    crowds: Crowds,
    idle: Idle,
    dirty: VecDeque<QueueId>,
    /// Connections whose session may have something to send.
    touched: Vec<Key>,
    /// Jobs whose body is on its way from their home.
    fetching: Map<BatchId, Vec<(QueueId, OpenJob)>>,
    timers: TimerWheel<Timer>,
    shared_settings: Map<(BindingIndex, bool), Vec<Rc<LinkSettings>>>,
    host_rules: HostRules,
    recorder: Recorder,
    /// What has been learnt of pairs without a queue.
    shelf: Map<Pair, Saved>,
    /// Queues whose next start has to be on disk first, and throttles that ask for that.
    ungranted: Set<QueueId>,
    reserving: Vec<Arc<Throttle>>,
    jobs: u64,
    /// Entries that have come, over all queues.
    arrived: u64,
    /// A fault of this machine has been told; further ones are silent until then.
    fault_told_until: Mono,
    failures_told: FailuresTold,
    book: Book,
    /// For the engine to route once it has the turn again.
    pub settled: Vec<Settled>,
    pub told: Vec<Changed>,
    pub fetches: Vec<(ShardId, BatchId)>,
    /// One-time orders that nothing more comes of here.
    pub finished: Vec<u64>,
    wakes: Vec<Wake>,
    fired: Vec<Timer>,
    events: Vec<crate::deliver::session::Event>,
}

impl Owner {
    pub fn new(now: Now, budget: Budget, recorder_bytes_max: usize) -> Owner {
        Owner {
            queues: Queues::new(now, budget),
            links: Map::default(),
            mixed: MixedQueues::default(),
            outgoing: Slab::new(),
            cache: Cache::new(ANSWERS_MAX),
            hosts: Hosts::new(HOSTS_MAX),
            asking: Map::default(),
            host_load: Map::default(),
            crowds: Crowds::default(),
            idle: Idle::default(),
            dirty: VecDeque::new(),
            touched: Vec::new(),
            fetching: Map::default(),
            timers: TimerWheel::new(now.mono),
            shared_settings: Map::default(),
            host_rules: HostRules::default(),
            recorder: Recorder::new(recorder_bytes_max),
            shelf: Map::default(),
            ungranted: Set::default(),
            reserving: Vec::new(),
            jobs: 0,
            arrived: 0,
            fault_told_until: Mono(0),
            failures_told: FailuresTold::default(),
            book: Book::default(),
            settled: Vec::new(),
            told: Vec::new(),
            fetches: Vec::new(),
            finished: Vec::new(),
            wakes: Vec::new(),
            fired: Vec::new(),
            events: Vec::new(),
        }
    }

    /// New entries for queues of this shard.
    pub fn arrive(
        &mut self,
        turn: &mut Turn<'_>,
        content: Option<&Arc<Content>>,
        arrivals: Vec<Arrival>,
    ) {
        for arrival in arrivals {
            let queue = self.link(turn, &arrival.binding, &arrival.address.routing_domain());
            let met = self.has_works().then(|| Met::of(&arrival));
            let inserted = self
                .queues
                .insert(turn.now, queue, arrival, content.cloned());
            if let Some(met) = met {
                self.arrived(turn, &met, inserted.entry);
            }
            if self.queues.has_flows()
                && let Some(rank) = self.queues.rank_of(inserted.entry)
            {
                self.note_class(turn.now.mono, queue, rank);
            }
            self.mark(queue);
            self.warm(turn, queue);
        }
    }

    /// The queue of a pair and its link, made if there was none.
    fn link(&mut self, turn: &mut Turn<'_>, binding: &Arc<str>, domain: &str) -> QueueId {
        if let Some(queue) = self.queues.find(binding, domain) {
            return queue;
        }
        let settings = self.settings_of(turn, binding, domain);
        let queue = self.queues.open(turn.now, binding, domain, &settings.queue);
        let mut link = Link::new(binding.clone(), domain.into(), settings);
        link.unnamed = is_unnamed(&turn.common.generation.config, binding);
        link.throttled = throttled(turn, &link.settings);
        link.warming = warming(turn, &link.settings);
        link.stripe = Stripe::new(turn.now, pair_hash(binding, domain));
        self.links.insert(queue, link);
        self.unshelve(turn, queue);
        self.restripe(turn, queue);
        queue
    }

    /// Settings resolved for a pair; equal ones are shared, because most domains of a binding
    /// differ in nothing.
    fn settings_of(
        &mut self,
        turn: &mut Turn<'_>,
        binding: &str,
        domain: &str,
    ) -> Rc<LinkSettings> {
        let config = &turn.common.generation.config;
        let index = config.binding_by_name(binding).unwrap_or(BindingIndex(0));
        let held = binding == HELD_BINDING;
        let shared = self.shared_settings.entry((index, held)).or_default();
        let delivery = config.delivery(index, domain);
        if let Some(found) = shared.iter().find(|known| known.delivery == delivery) {
            return found.clone();
        }
        let identity = &turn.common.identity;
        let mut settings = LinkSettings::of(config, identity, binding, domain);
        settings.limits = self.limits_of(turn, &settings);
        let settings = Rc::new(settings);
        let shared = self.shared_settings.entry((index, held)).or_default();
        if shared.len() == SETTINGS_SHARED_MAX {
            shared.swap_remove(0);
        }
        shared.push(settings.clone());
        settings
    }

    /// A new generation applies at once to what a queue decides and to how many connections there
    /// are, and to how they talk at the next connection.
    pub fn reload(&mut self, turn: &mut Turn<'_>) {
        self.shared_settings.clear();
        self.host_rules.clear();
        // Ranks are those of another config.
        self.mixed.clear();
        let queues: Vec<QueueId> = self.links.keys().copied().collect();
        for queue in queues {
            let Some(link) = self.links.get(&queue) else {
                continue;
            };
            let (binding, domain) = (link.binding.clone(), link.domain.clone());
            // Limits may have changed: who still waits joins again.
            self.drop_claim(turn, queue);
            let settings = self.settings_of(turn, &binding, &domain);
            self.queues.set_settings(queue, &settings.queue);
            self.leave_throttles(queue);
            if let Some(link) = self.links.get_mut(&queue) {
                link.throttled = throttled(turn, &settings);
                link.warming = warming(turn, &settings);
                link.settings = settings;
                link.orders_version = u64::MAX;
                link.unnamed = is_unnamed(&turn.common.generation.config, &binding);
                link.plan = Way::Unknown;
            }
            self.readapt(turn, queue);
            self.restripe(turn, queue);
            self.mark(queue);
        }
        self.recount_connections(turn);
    }

    /// Host stanzas may have changed too.
    fn recount_connections(&mut self, turn: &mut Turn<'_>) {
        for key in self.outgoing.keys() {
            self.count_anew(turn, key);
            let Some(outgoing) = self.outgoing.get(key) else {
                continue;
            };
            let (queue, host) = (outgoing.queue, outgoing.host.clone());
            let throttled = self.host_throttles(turn, queue, &host);
            if let Some(link) = self.links.get_mut(&queue) {
                link.meets_host_throttles |= throttled.messages.is_some();
            }
            if let Some(outgoing) = self.outgoing.get_mut(key) {
                outgoing.throttled = throttled;
            }
        }
    }

    pub fn set_recorder_bytes(&mut self, bytes_max: usize) {
        self.recorder.set_bytes_max(bytes_max);
    }

    pub fn queues_mut(&mut self) -> &mut Queues {
        &mut self.queues
    }

    /// A queue to look at before the turn ends.
    fn mark(&mut self, queue: QueueId) {
        if let Some(link) = self.links.get_mut(&queue)
            && !core::mem::replace(&mut link.dirty, true)
        {
            self.dirty.push_back(queue);
        }
    }

    /// Looks at every queue for which something has changed in this turn.
    pub fn settle_turn(&mut self, turn: &mut Turn<'_>) {
        let mut looks_left = LOOKS_MIN + LOOKS_EACH * self.links.len();
        while let Some(queue) = self.dirty.pop_front() {
            let Some(link) = self.links.get_mut(&queue) else {
                continue;
            };
            link.dirty = false;
            if looks_left > 0 {
                looks_left -= 1;
                self.pump(turn, queue);
            } else {
                // Queues that hand places to and fro must not keep the shard from all else.
                self.look_again(queue, turn.now.mono + LOOK_LATER);
            }
        }
        self.take_caught(turn);
        self.reserve_starts(turn);
        // Only now, so that a body, the next envelope and further messages leave in one send.
        while let Some(key) = self.touched.pop() {
            self.send_output(turn, key);
        }
    }

    pub fn resolved(&mut self, turn: &mut Turn<'_>, question: Question, answer: Answer) {
        let waiting = self.asking.swap_remove(&question).unwrap_or_default();
        self.cache.insert(turn.now.mono, question, answer);
        for queue in waiting {
            if let Some(link) = self.links.get_mut(&queue) {
                link.plan = Way::Unknown;
            }
            self.mark(queue);
        }
    }

    /// A body is back, or cannot be read.
    pub fn body(
        &mut self,
        turn: &mut Turn<'_>,
        batch: BatchId,
        content: Result<Arc<Content>, Unread>,
    ) {
        for (queue, mut job) in self.fetching.swap_remove(&batch).unwrap_or_default() {
            let Some(link) = self.links.get_mut(&queue) else {
                continue;
            };
            link.fetching -= 1;
            match &content {
                Ok(content) => {
                    job.content = Some(content.clone());
                    self.put_ready(queue, job);
                }
                Err(Unread::NotNow) => self.not_read_now(turn, queue, job),
                Err(Unread::Never) => self.unreadable(turn, job),
            }
            self.mark(queue);
        }
        if self.has_works() {
            self.consider_body(turn, batch, content.as_deref().ok());
        }
        if let Ok(content) = content {
            self.queues.attach(content);
        }
    }

    /// What time has brought about.
    pub fn advance(&mut self, turn: &mut Turn<'_>) {
        let mut wakes = core::mem::take(&mut self.wakes);
        self.queues.advance(turn.now, &mut wakes);
        for wake in wakes.drain(..) {
            match wake {
                Wake::Active(queue) => self.mark(queue),
                Wake::Expired(entry) => self.expired(turn, entry),
                Wake::Forgotten(queue) => {
                    self.drop_claim(turn, queue);
                    self.leave_throttles(queue);
                    self.shelve(queue);
                    self.links.swap_remove(&queue);
                    self.mixed.swap_remove(&queue);
                }
            }
        }
        self.wakes = wakes;
        let mut fired = core::mem::take(&mut self.fired);
        self.timers.expire(turn.now.mono, &mut fired);
        for timer in fired.drain(..) {
            match timer {
                Timer::Connection(key) => self.connection_timer(turn, key),
                Timer::Throttle(queue) => self.throttle_timer(queue),
                Timer::Adaptive(queue) => self.adaptive_timer(turn, queue),
                Timer::Curfew(queue) => self.mark(queue),
            }
        }
        self.fired = fired;
        self.advance_orders(turn);
        self.tell_failures_left(turn);
    }

    pub fn next_wakeup(&self) -> Option<Mono> {
        let failures = self.failures_told.due();
        [
            self.queues.next_wakeup(),
            self.timers.next(),
            failures,
            self.book.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Nothing is left for the engine to route, and no queue to look at.
    pub fn is_settled(&self) -> bool {
        self.settled.is_empty()
            && self.told.is_empty()
            && self.fetches.is_empty()
            && self.dirty.is_empty()
            && self.touched.is_empty()
    }

    /// Nothing is under way on any connection.
    pub fn is_quiet(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Ends connections as soon as what they are doing is done; opens no more.
    pub fn drain(&mut self, turn: &mut Turn<'_>) {
        let queues: Vec<QueueId> = self.links.keys().copied().collect();
        for queue in queues {
            self.drop_claim(turn, queue);
        }
        for key in self.outgoing.keys() {
            if self
                .outgoing
                .get(key)
                .is_some_and(|outgoing| !outgoing.open)
            {
                turn.out.push(Action::Abort { conn: conn_id(key) });
                continue;
            }
            self.with_session(turn, key, |session, now, events| {
                session.quit(now, events);
            });
        }
    }

    /// Closes what is still open, for the end of the grace.
    pub fn abort_all(&mut self, turn: &mut Turn<'_>) {
        for key in self.outgoing.keys() {
            turn.out.push(Action::Abort { conn: conn_id(key) });
        }
    }

    fn next_job(&mut self) -> JobId {
        self.jobs += 1;
        JobId(self.jobs)
    }
}

fn throttled(turn: &Turn<'_>, settings: &LinkSettings) -> Throttled {
    let LinkSettings { delivery, .. } = settings;
    let rates = [&delivery.throttle_messages, &delivery.throttle_connections];
    Throttled::of(turn, rates.map(Option::as_ref))
}

fn warming(turn: &Turn<'_>, settings: &LinkSettings) -> Option<Box<Warming>> {
    let BindingSettings { name, warmup, .. } = &settings.binding;
    Warming::of(turn, name, warmup.as_ref()).map(Box::new)
}

/// True if mail of this binding is sent by `default`, since no other has its name.
pub fn is_unnamed(config: &Config, binding: &str) -> bool {
    binding != HELD_BINDING && config.binding_by_name(binding).is_none()
}

fn conn_id(key: Key) -> ConnId {
    ConnId {
        side: Side::Out,
        key,
    }
}

impl Outgoing {
    fn route(&self) -> Route {
        (self.host.address.ip(), self.source)
    }
}

impl Link {
    /// Nothing of it is tried for now: by the configuration, by an order, or by what the receiver
    /// has said.
    fn is_stopped(&self) -> bool {
        let told = self.settings.suspended || self.curfew_ends.is_some();
        told || self.stop.is_some() || self.is_blocked()
    }

    fn new(binding: Arc<str>, domain: Arc<str>, settings: Rc<LinkSettings>) -> Link {
        Link {
            binding,
            domain,
            settings,
            unnamed: false,
            plan: Way::Unknown,
            dialing: 0,
            connections: Vec::new(),
            openings: Openings::default(),
            throttled: Throttled::default(),
            warming: None,
            adaptive: None,
            let_in: 0,
            meets_host_throttles: false,
            bookings: Bookings::default(),
            claim: None,
            asked: false,
            leaving: 0,
            unheard: 0,
            stripe: Stripe::default(),
            ready: VecDeque::new(),
            fetching: 0,
            trying_since: None,
            rests: 0,
            stop: None,
            rerouted: None,
            orders_version: 0,
            was_stopped: false,
            curfew_ends: None,
            dirty: false,
        }
    }
}
