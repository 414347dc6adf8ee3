//! The receiving half of an engine: its SMTP sessions, and the answers to what they ask. A session
//! and the rest of the engine never hold each other: the session stops with a question, gets its
//! verdict, and goes on.

mod pace;

use core::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use crate::base::map::Map;
use crate::base::peer_table::PeerSlot;
use crate::base::prng::hash_bytes;
use crate::base::slab::{Key, Slab};
use crate::base::time::Mono;
use crate::base::timer_wheel::{TimerKey, TimerWheel};
use crate::config::{
    BindingChoice, BindingIndex, Blackhole, Config, FlowHeaders, ListenIndex, ListenerSettings,
};
use crate::engine::home::{Home, Offer};
use crate::engine::io::{Action, ConnId, Side, ToControl};
use crate::engine::reception::pace::{Pace, Paced};
use crate::engine::settings::HELD_BINDING;
use crate::engine::{Members, Turn};
use crate::hose::RejectionFacts;
use crate::inject::Verdict;
use crate::inject::{Facts, Question, Resolution, Session, Settings, Step, Submission, Ticket};
use crate::policy;
use crate::policy::binding::{BindingChooser, Choice};
use crate::policy::relay;
use crate::proto::smtp::flow_fields::FlowFields;
use crate::types::flow::{Flow, Flows};
use crate::types::id::BatchId;
use crate::types::message::Recipient;
use crate::types::replies::{self, Canned};

/// A client that has been told goodbye gets this long to close its side.
const LINGER: core::time::Duration = core::time::Duration::from_secs(5);

/// The same while the process is about to end.
const LINGER_DRAINING: core::time::Duration = core::time::Duration::from_millis(500);

/// Input kept for a session that waits for its commits: one read of the shell.
const BACKLOG_BYTES_MAX: usize = 1024 * 1024;

/// Domains whose blackhole setting is remembered per binding.
const BLACKHOLES_MAX: usize = 16_384;

/// Stands for the binding of held mail, where others are the index of theirs.
const HELD_TAG: u32 = u32::MAX;

/// Momentum's bounce classes for what reception refuses.
const CLASS_RELAY_DENIED: u16 = 54;
const CLASS_UNDETERMINED: u16 = 1;

struct Incoming {
    session: Session,
    listener: Rc<Listener>,
    chooser: BindingChooser,
    /// Input that came while the session could take none.
    backlog: Vec<u8>,
    waiting: bool,
    /// Stands in [`Reception::resolved`].
    resolved: bool,
    /// The client sends no more.
    ended: bool,
    closing: bool,
    /// Closing: when it is cut off if nothing moves.
    linger_until: Mono,
    timer: Option<(Mono, TimerKey)>,
    /// Throttles of what it brings, if there are any.
    pace: Option<Box<Pace>>,
    /// What was reserved for it.
    listen: usize,
    peer_slot: Option<PeerSlot>,
    counted: bool,
    /// Counts among those worth a wait in this round; nothing if it does not.
    awaited: u64,
    /// When the transaction under way began, for the injection latency.
    began: Mono,
}

/// Settings of one listen address and kind of peer, shared by its sessions.
struct Listener {
    settings: ListenerSettings,
    relay: relay::Settings,
    session: Rc<Settings>,
    flow: policy::flow::Settings,
    /// Of mail whose header says nothing.
    default_flow: Option<Arc<Flow>>,
}

pub struct Reception {
    incoming: Slab<Box<Incoming>>,
    /// Sessions in the middle of a message that a commit may wait for: those that have begun it
    /// since the last wait in vain, which began this round.
    awaited: usize,
    awaited_round: u64,
    /// Sessions that have got answers in this turn.
    resolved: Vec<Key>,
    timers: TimerWheel<Key>,
    fired: Vec<Key>,
    /// Resolved settings; equal ones are shared.
    listeners: Vec<(ListenIndex, Rc<Listener>)>,
    blackholes: Vec<Map<Box<str>, Blackhole>>,
    members: Members,
    batches: u32,
    flows: Flows,
}

/// Resolved settings kept for sharing.
const LISTENERS_SHARED_MAX: usize = 256;

impl Reception {
    pub fn new(now: Mono) -> Reception {
        Reception {
            incoming: Slab::new(),
            awaited: 0,
            awaited_round: 1,
            resolved: Vec::new(),
            timers: TimerWheel::new(now),
            fired: Vec::new(),
            listeners: Vec::new(),
            blackholes: Vec::new(),
            members: Members::default(),
            batches: 0,
            flows: Flows::default(),
        }
    }

    /// Connections that are open.
    pub fn sessions(&self) -> usize {
        self.incoming.len()
    }

    /// Sessions in the middle of a message, which may soon be whole.
    pub fn awaited(&self) -> usize {
        self.awaited
    }

    /// A commit has waited long enough: whoever is in the middle of a message now is not waited
    /// for again before the next one.
    pub fn wait_for_none(&mut self) {
        self.awaited = 0;
        self.awaited_round += 1;
    }

    /// What was resolved from the generation before is forgotten; open sessions keep theirs.
    pub fn reload(&mut self) {
        self.listeners.clear();
        self.blackholes.clear();
    }

    /// A new connection. A refused one gets its reply and is closed, so that there always is one.
    pub fn accept(
        &mut self,
        turn: &mut Turn<'_>,
        home: &mut Home,
        listen: usize,
        (peer, local): (SocketAddr, SocketAddr),
    ) -> ConnId {
        let config = turn.common.generation.config.clone();
        let index = ListenIndex(listen as u32);
        let listener = self.listener(&config, index, peer.ip());
        let admission = admit(turn, home, &listener.settings, listen, peer.ip());
        let (verdict, peer_slot) = match admission {
            Ok(slot) => (Verdict::Continue, Some(slot)),
            Err(canned) => (Verdict::Refuse(canned), None),
        };
        let counters = &mut turn.common.stats.counters;
        counters.connections_in += 1;
        counters.connections_in_refused += u64::from(peer_slot.is_none());
        let refused = peer_slot.is_none();
        let mut session = Session::new(listener.session.clone(), Facts { peer, local });
        session.open(turn.now, verdict);
        if listener.relay.relay_hosts.contains(peer.ip()) {
            session.heed_flow_fields();
        }
        let pace = Pace::of(turn, &listener.settings, peer.ip());
        let key = self.incoming.insert(Box::new(Incoming {
            session,
            pace,
            listener,
            chooser: BindingChooser::new(),
            backlog: Vec::new(),
            waiting: false,
            resolved: false,
            ended: false,
            closing: false,
            linger_until: Mono::MAX,
            timer: None,
            listen,
            counted: peer_slot.is_some(),
            awaited: 0,
            peer_slot,
            began: turn.now.mono,
        }));
        self.run(turn, home, key, &[]);
        if refused {
            // It holds no place under any limit, so it may not stay either.
            turn.out.push(Action::Abort { conn: conn_id(key) });
        }
        ConnId {
            side: Side::In,
            key,
        }
    }

    pub fn wants_read(&self, key: Key) -> bool {
        self.incoming
            .get(key)
            .is_some_and(|incoming| !incoming.waiting)
    }

    /// Bytes from a client. Whole messages are offered to the home.
    pub fn received(&mut self, turn: &mut Turn<'_>, home: &mut Home, key: Key, bytes: &[u8]) {
        let Some(incoming) = self.incoming.get_mut(key) else {
            return;
        };
        if incoming.waiting {
            // The shell has been told not to read; what was on its way already is kept.
            if incoming.backlog.len() + bytes.len() > BACKLOG_BYTES_MAX {
                turn.out.push(Action::Abort { conn: conn_id(key) });
                return;
            }
            incoming.backlog.extend_from_slice(bytes);
            return;
        }
        let Some(close) = self.feed(turn, home, key, bytes) else {
            return;
        };
        // What was said before the reply to a message leaves with it, once its commit is durable.
        let unresolved = self.incoming.get(key).map(|it| it.session.unresolved());
        if close || unresolved == Some(0) {
            self.send(turn, key);
        }
        self.rest(turn, key, close);
    }

    /// The client sends no more. It may still be owed answers for what it has sent.
    pub fn ended(&mut self, turn: &mut Turn<'_>, key: Key) {
        if let Some(incoming) = self.incoming.get_mut(key) {
            incoming.ended = true;
            self.flush(turn, key, false);
        }
    }

    /// Some of what it is owed has left. A client that still reads its replies is not cut off.
    pub fn sent(&mut self, turn: &Turn<'_>, key: Key) {
        if let Some(incoming) = self.incoming.get_mut(key)
            && incoming.closing
        {
            incoming.linger_until = linger_until(turn);
        }
    }

    /// The home has an answer for a submission. The session goes on with [`Self::go_on`], once for
    /// all of its messages that share a commit, so that their replies leave together.
    pub fn resolve(
        &mut self,
        turn: &Turn<'_>,
        (key, ticket): (Key, Ticket),
        resolution: Resolution<'_>,
    ) {
        let Some(incoming) = self.incoming.get_mut(key) else {
            return;
        };
        incoming.session.resolve(turn.now, ticket, resolution);
        if !core::mem::replace(&mut incoming.resolved, true) {
            self.resolved.push(key);
        }
    }

    /// Lets the sessions that have got answers go on.
    pub fn go_on(&mut self, turn: &mut Turn<'_>, home: &mut Home) {
        let mut resolved = core::mem::take(&mut self.resolved);
        for key in resolved.drain(..) {
            let Some(incoming) = self.incoming.get_mut(key) else {
                continue;
            };
            incoming.resolved = false;
            let resume = core::mem::take(&mut incoming.waiting);
            let backlog = core::mem::take(&mut incoming.backlog);
            self.run(turn, home, key, &backlog);
            if resume && self.wants_read(key) {
                turn.out.push(Action::Resume { conn: conn_id(key) });
            }
        }
        self.resolved = resolved;
    }

    /// The client is gone. Messages it handed over stay accepted if their commit succeeds.
    pub fn closed(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(incoming) = self.incoming.remove(key) else {
            return;
        };
        if let Some((_, timer)) = incoming.timer {
            self.timers.cancel(timer);
        }
        let Incoming {
            counted,
            listen,
            peer_slot,
            awaited,
            pace,
            ..
        } = *incoming;
        if let Some(mut pace) = pace {
            pace.leave();
        }
        self.awaited -= usize::from(awaited == self.awaited_round);
        if counted {
            let cells = &turn.common.cells;
            cells.sessions.release();
            cells.sessions_per_listen[listen].release();
        }
        if let Some(slot) = peer_slot {
            turn.common.cells.peers.release(slot);
        }
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>) {
        let mut fired = core::mem::take(&mut self.fired);
        self.timers.expire(turn.now.mono, &mut fired);
        for key in fired.drain(..) {
            let Some(incoming) = self.incoming.get_mut(key) else {
                continue;
            };
            incoming.timer = None;
            let due = incoming.paced_until().is_some_and(|it| it <= turn.now.mono);
            if due && !core::mem::replace(&mut incoming.resolved, true) {
                // Its turn has come: it goes on with the others that have got answers.
                self.resolved.push(key);
                continue;
            }
            if incoming.closing {
                let until = incoming.linger_until;
                if until <= turn.now.mono {
                    turn.out.push(Action::Abort { conn: conn_id(key) });
                } else {
                    incoming.timer = Some((until, self.timers.insert(until, key)));
                }
                continue;
            }
            let step = incoming.session.timeout(turn.now);
            self.flush(turn, key, matches!(step, Step::Close));
        }
        self.fired = fired;
    }

    pub fn next_wakeup(&self) -> Option<Mono> {
        self.timers.next()
    }

    /// Sessions end where their next command would begin.
    pub fn drain(&mut self, turn: &mut Turn<'_>, home: &mut Home) {
        for key in self.incoming.keys() {
            let mut backlog = Vec::new();
            if let Some(incoming) = self.incoming.get_mut(key) {
                incoming.session.shutdown();
                if incoming.paced_until().is_some() {
                    incoming.waiting = false;
                    backlog = core::mem::take(&mut incoming.backlog);
                }
            }
            self.run(turn, home, key, &backlog);
        }
    }

    pub fn abort_all(&mut self, turn: &mut Turn<'_>) {
        for key in self.incoming.keys() {
            turn.out.push(Action::Abort { conn: conn_id(key) });
        }
    }

    /// Feeds a session, then sends what it has to say.
    fn run(&mut self, turn: &mut Turn<'_>, home: &mut Home, key: Key, input: &[u8]) {
        if let Some(close) = self.feed(turn, home, key, input) {
            self.flush(turn, key, close);
        }
    }

    /// Feeds a session until it wants something that is not here. Tells whether it is over; nothing
    /// if that was so before.
    fn feed(
        &mut self,
        turn: &mut Turn<'_>,
        home: &mut Home,
        key: Key,
        mut input: &[u8],
    ) -> Option<bool> {
        let close = loop {
            let incoming = self.incoming.get_mut(key)?;
            if incoming.closing {
                return None;
            }
            if incoming.paced_until().is_some() {
                if !self.ask(turn, key) {
                    self.hold(key, input);
                    break false;
                }
                continue;
            }
            let (used, step) = incoming.session.receive(turn.now, input);
            input = &input[used..];
            match step {
                Step::Read => break false,
                Step::Ask => {
                    if !self.ask(turn, key) {
                        self.hold(key, input);
                        break false;
                    }
                }
                Step::Submit(submission) => self.submit(turn, home, key, *submission),
                Step::Wait => {
                    // Output that is only waiting to be sent leaves now, and makes room.
                    if !incoming.session.output().is_empty() {
                        self.send(turn, key);
                        continue;
                    }
                    incoming.waiting = true;
                    incoming.backlog.extend_from_slice(input);
                    break false;
                }
                Step::Close => break true,
            }
        };
        if let Some(incoming) = self.incoming.get_mut(key) {
            report_rejections(turn, home, &mut incoming.session);
        }
        Some(close)
    }

    /// A session waits; what it was given comes later.
    fn hold(&mut self, key: Key, input: &[u8]) {
        if let Some(incoming) = self.incoming.get_mut(key) {
            incoming.waiting = true;
            incoming.backlog.extend_from_slice(input);
        }
    }

    fn send(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(incoming) = self.incoming.get_mut(key) else {
            return;
        };
        let output = incoming.session.output();
        if !output.is_empty() {
            let bytes = core::mem::replace(output, turn.out.buffer());
            turn.common.stats.counters.sends += 1;
            turn.out.push(Action::Send {
                conn: conn_id(key),
                bytes,
            });
        }
    }

    fn flush(&mut self, turn: &mut Turn<'_>, key: Key, close: bool) {
        self.send(turn, key);
        self.rest(turn, key, close);
    }

    /// Closes if the session is over, and sets its timer.
    fn rest(&mut self, turn: &mut Turn<'_>, key: Key, close: bool) {
        let Some(incoming) = self.incoming.get_mut(key) else {
            return;
        };
        let mut deadline = incoming.session.deadline();
        let answered = incoming.backlog.is_empty() && incoming.session.unresolved() == 0;
        let close = close || incoming.ended && answered;
        if close && !core::mem::replace(&mut incoming.closing, true) {
            incoming.waiting = false;
            turn.out.push(Action::Close { conn: conn_id(key) });
        }
        if incoming.closing {
            incoming.linger_until = linger_until(turn);
            deadline = incoming.linger_until;
        }
        // A session that waits for its own commit brings nothing to it.
        let paced_until = incoming.paced_until();
        if let Some(until) = paced_until.filter(|_| !incoming.closing) {
            deadline = deadline.min(until);
        }
        let unresolved = incoming.session.unresolved() > 0;
        let waits = unresolved || incoming.closing || paced_until.is_some();
        if waits || !incoming.session.is_in_message() {
            self.awaited -= usize::from(incoming.awaited == self.awaited_round);
            incoming.awaited = 0;
        } else if incoming.awaited == 0 {
            self.awaited += 1;
            incoming.awaited = self.awaited_round;
        }
        // Timers only move to earlier moments; one that fires too early is set again.
        match incoming.timer {
            Some((armed, _)) if armed <= deadline => return,
            Some((_, timer)) => drop(self.timers.cancel(timer)),
            None => {}
        }
        if deadline != Mono::MAX {
            incoming.timer = Some((deadline, self.timers.insert(deadline, key)));
        } else {
            incoming.timer = None;
        }
    }

    /// Puts the session's question to policy. False if the session has to wait for its turn.
    fn ask(&mut self, turn: &mut Turn<'_>, key: Key) -> bool {
        let Some(incoming) = self.incoming.get_mut(key) else {
            return true;
        };
        let Incoming {
            session,
            listener,
            chooser,
            began,
            pace,
            ..
        } = &mut **incoming;
        let Some(question) = session.question() else {
            return true;
        };
        let (now, pace) = (turn.now.mono, pace.as_mut());
        let verdict = match question {
            Question::Ehlo { .. } => Verdict::Continue,
            Question::MailFrom { .. } => {
                chooser.clear();
                *began = turn.now.mono;
                let paced = pace.map_or(Ok(()), |it| it.message(now));
                match turn.common.pressure().or(paced.err()) {
                    Some(canned) => Verdict::Refuse(canned),
                    None => Verdict::Continue,
                }
            }
            Question::RcptTo { recipient, .. } => {
                let peer = session.facts().peer.ip();
                let relay = relay::relay(&listener.relay, peer, recipient);
                let paced = || pace.map_or(Ok(()), |it| it.recipient(now));
                match relay.and_then(|()| paced()) {
                    Err(canned) => Verdict::Refuse(canned),
                    Ok(()) => {
                        let domain = recipient.routing_domain();
                        let choice = listener.settings.default_binding;
                        let binding = bind(turn, &mut self.members, chooser, choice, &domain);
                        match binding {
                            None => Verdict::Refuse(&replies::NO_BINDING),
                            Some(binding) => {
                                let known = &mut self.blackholes;
                                match blackhole(known, turn, binding, &domain) {
                                    Blackhole::Inline => Verdict::Refuse(&replies::BLACKHOLED),
                                    _ => Verdict::Recipient { tag: binding },
                                }
                            }
                        }
                    }
                }
            }
            Question::Data { .. } => match begins(turn, pace) {
                Err(Paced::Later) => return false,
                Err(Paced::Refused(canned)) => Verdict::Refuse(canned),
                Ok(()) => {
                    self.batches = self.batches.wrapping_add(1);
                    let (start, shard) = (turn.common.start, turn.common.shard);
                    Verdict::Batch(BatchId::new(start, shard, self.batches))
                }
            },
        };
        session.answer(turn.now, verdict);
        true
    }

    fn submit(&mut self, turn: &mut Turn<'_>, home: &mut Home, key: Key, submission: Submission) {
        let Some(incoming) = self.incoming.get_mut(key) else {
            return;
        };
        let ticket = submission.ticket;
        let listener = &incoming.listener;
        let flow = match submission.flow.iter().all(|it| it.is_empty()) {
            true => listener.default_flow.clone(),
            false => policy::flow::flow(&listener.flow, &submission.flow, &mut self.flows),
        };
        let (content, accepted) = submission.into_content(flow);
        let names = &turn.common.binding_names;
        let name = |tag: u32| match tag {
            HELD_TAG => HELD_BINDING.into(),
            _ => names[tag as usize].clone(),
        };
        let recipients = accepted
            .into_iter()
            .map(|it| Recipient {
                address: it.address,
                binding: name(it.tag),
            })
            .collect();
        let began = incoming.began;
        let offer = Offer {
            conn: key,
            ticket,
            content,
            recipients,
            began,
        };
        if let Err(canned) = home.store(turn, offer) {
            turn.common.stats.counters.messages_rejected += 1;
            incoming
                .session
                .resolve(turn.now, ticket, Resolution::Refused(canned));
        }
    }

    fn listener(&mut self, config: &Config, listen: ListenIndex, peer: IpAddr) -> Rc<Listener> {
        let settings = config.listener_settings(listen, peer);
        let same = |known: &&(ListenIndex, Rc<Listener>)| {
            known.0 == listen && known.1.settings == settings
        };
        if let Some((_, found)) = self.listeners.iter().find(same) {
            return found.clone();
        }
        let session = Rc::new(session_settings(&settings));
        let relay = relay_settings(&settings);
        let flow = policy::flow::Settings {
            defaults: settings.flow.clone(),
            classes: config.classes().iter().map(|it| it.name.clone()).collect(),
        };
        let silent = [const { "" }; 3].map(Into::into);
        let default_flow = policy::flow::flow(&flow, &silent, &mut self.flows);
        let listener = Rc::new(Listener {
            settings,
            relay,
            session,
            flow,
            default_flow,
        });
        if self.listeners.len() == LISTENERS_SHARED_MAX {
            self.listeners.swap_remove(0);
        }
        self.listeners.push((listen, listener.clone()));
        listener
    }
}

impl Incoming {
    /// When its turn under a throttle comes.
    fn paced_until(&self) -> Option<Mono> {
        self.pace.as_ref().and_then(|it| it.until)
    }
}

/// Whether a message may be taken now.
fn begins(turn: &mut Turn<'_>, pace: Option<&mut Box<Pace>>) -> Result<(), Paced> {
    let pressure = turn.common.pressure();
    let Some(pace) = pace else {
        return pressure.map_or(Ok(()), |canned| Err(Paced::Refused(canned)));
    };
    if let Some(canned) = pressure {
        pace.leave();
        return Err(Paced::Refused(canned));
    }
    let waited = pace.until.is_some();
    let begins = pace.begin(turn.now.mono);
    if let Some(throttle) = pace.asking() {
        turn.out
            .push(Action::Control(ToControl::Reserve { throttle }));
    }
    if matches!(begins, Err(Paced::Later)) && !waited {
        turn.common.stats.counters.messages_slowed += 1;
    }
    begins
}

fn linger_until(turn: &Turn<'_>) -> Mono {
    let linger = if turn.common.draining {
        LINGER_DRAINING
    } else {
        LINGER
    };
    turn.now.mono + linger
}

fn conn_id(key: Key) -> ConnId {
    ConnId {
        side: Side::In,
        key,
    }
}

/// Reserves a place for a connection under every limit, or says which reply it gets.
fn admit(
    turn: &Turn<'_>,
    home: &Home,
    settings: &ListenerSettings,
    listen: usize,
    peer: IpAddr,
) -> Result<PeerSlot, &'static Canned> {
    if turn.common.draining {
        return Err(&replies::SHUTTING_DOWN);
    }
    if turn.common.memory_is_short() {
        return Err(&replies::MEMORY_CLOSE);
    }
    if home.is_stopped() {
        return Err(&replies::SPOOL_STOPPED);
    }
    if !pace::may_connect(turn, settings, peer) {
        return Err(&replies::CONNECTION_RATE);
    }
    let cells = &turn.common.cells;
    let sessions_max = u64::from(settings.service_sessions).min(cells.sessions_max);
    if !cells.sessions.reserve(sessions_max) {
        return Err(&replies::CONCURRENCY);
    }
    let of_listen = &cells.sessions_per_listen[listen];
    if !of_listen.reserve(u64::from(settings.listener_sessions)) {
        cells.sessions.release();
        return Err(&replies::CONCURRENCY);
    }
    let hash = match peer.to_canonical() {
        IpAddr::V4(address) => hash_bytes(&address.octets()),
        IpAddr::V6(address) => hash_bytes(&address.octets()),
    };
    match cells.peers.reserve(hash, settings.max_connections_per_peer) {
        Some(slot) => Ok(slot),
        None => {
            cells.sessions.release();
            of_listen.release();
            Err(&replies::CONCURRENCY)
        }
    }
}

/// The binding of a recipient, by its index; nothing if the config names none.
fn bind(
    turn: &mut Turn<'_>,
    members: &mut Members,
    chooser: &mut BindingChooser,
    choice: BindingChoice,
    domain: &str,
) -> Option<u32> {
    let choice = match choice {
        BindingChoice::None => return None,
        BindingChoice::Normal => Choice::Binding(0),
        BindingChoice::Suspended => Choice::Binding(HELD_TAG),
        BindingChoice::Binding(BindingIndex(index)) => Choice::Binding(index),
        BindingChoice::Group(group) => turn.common.choice_of(turn.now, group, members)?,
    };
    chooser.choose(domain, choice, &mut turn.common.prng)
}

fn blackhole(
    known: &mut Vec<Map<Box<str>, Blackhole>>,
    turn: &Turn<'_>,
    binding: u32,
    domain: &str,
) -> Blackhole {
    if binding == HELD_TAG {
        return Blackhole::Off;
    }
    let index = binding as usize;
    if known.len() <= index {
        known.resize_with(index + 1, Map::default);
    }
    if let Some(found) = known[index].get(domain) {
        return *found;
    }
    let config = &turn.common.generation.config;
    let found = config.delivery(BindingIndex(binding), domain).blackhole;
    if known[index].len() >= BLACKHOLES_MAX {
        known[index].clear();
    }
    known[index].insert(domain.into(), found);
    found
}

/// Every refusal is an event.
fn report_rejections(turn: &mut Turn<'_>, home: &mut Home, session: &mut Session) {
    let (rejections, dropped) = session.take_rejections();
    turn.common.stats.counters.messages_rejected += rejections.len() as u64 + u64::from(dropped);
    for rejection in rejections {
        let relay_denied = rejection.reply == &replies::RELAY_DENIED;
        let stage = match (
            &rejection.recipient,
            &rejection.sender,
            rejection.recipients,
        ) {
            (Some(_), ..) => "rcptto",
            (None, _, 1..) => "data",
            (None, Some(_), 0) => "mailfrom",
            (None, None, 0) => "connect",
        };
        home.rejected(&RejectionFacts {
            at: turn.now.wall,
            peer: session.facts().peer.ip(),
            helo: session.helo(),
            method: "esmtp",
            sender: rejection.sender.as_ref().map(|address| address.as_str()),
            recipient: rejection.recipient.as_ref().map(|address| address.as_str()),
            stage,
            reply: &rejection.reply.to_reply(),
            bounce_class: if relay_denied {
                CLASS_RELAY_DENIED
            } else {
                CLASS_UNDETERMINED
            },
        });
    }
}

fn relay_settings(settings: &ListenerSettings) -> relay::Settings {
    relay::Settings {
        relay_hosts: settings.relay_hosts.clone(),
        relay_domains: settings.relay_domains.clone(),
    }
}

fn session_settings(settings: &ListenerSettings) -> Settings {
    Settings {
        host: settings.banner_hostname.as_str().into(),
        message_bytes_max: settings.max_message_size,
        header_bytes_max: settings.max_header_size,
        // The option counts the line end, the session does not.
        line_bytes_max: u64::from(settings.max_line_length.saturating_sub(2)),
        received_fields_max: settings.max_received_headers,
        recipients_max: settings.max_recipients_per_transaction,
        command_bytes_max: settings.max_command_length as usize,
        errors_max: settings.max_protocol_errors,
        idle_commands_max: settings.max_idle_commands,
        receptions_max: settings.max_receptions_per_connection,
        connection_recipients_max: match settings.max_recipients_per_connection {
            0 => u32::MAX,
            most => most,
        },
        command_timeout: settings.command_timeout,
        data_timeout: settings.data_timeout,
        idle_time: settings.idle_time,
        rate_min: u64::from(settings.min_inbound_rate),
        rate_grace: settings.min_inbound_rate_grace,
        flow_fields: Rc::new(FlowFields {
            names: settings
                .flow_headers
                .each_ref()
                .map(|it| it.as_str().into()),
            removed: match settings.remove_flow_headers {
                FlowHeaders::Class => [true, false, false],
                FlowHeaders::All => [true; 3],
                FlowHeaders::None => [false; 3],
            },
        }),
    }
}
