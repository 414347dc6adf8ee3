//! Connections to receiving hosts: from the dial to the last byte, and what their sessions tell.

use core::net::SocketAddr;
use core::time::Duration;

use crate::base::slab::Key;
use crate::base::time::{Mono, Now};
use crate::deliver::session::{Event, Job, JobId, Piece, Reach, RecipientToken, Session};
use crate::engine::Turn;
use crate::engine::io::{Action, DialError, Level};
use crate::engine::owner::ending::Answered;
use crate::engine::owner::openings::Opening;
use crate::engine::owner::{Link, OpenJob, Outgoing, Owner, Timer, Way, conn_id};
use crate::engine::recorder::Flight;
use crate::queue::{Cause, EntryId, QueueId};
use crate::types::outcome::{Remote, Stage};
use crate::types::reply::{Enhanced, Reply};

/// How long a queue rests when the fault is this machine's: no descriptors, no such address. An
/// operator hears of such a fault this often, whatever the number of queues.
const OUR_FAULT_REST: Duration = Duration::from_secs(10);

impl Owner {
    pub fn dialed(&mut self, turn: &mut Turn<'_>, key: Key, result: Result<SocketAddr, DialError>) {
        let Some(outgoing) = self.outgoing.get_mut(key) else {
            return;
        };
        let queue = outgoing.queue;
        if let Some(link) = self.links.get_mut(&queue) {
            link.dialing -= 1;
        }
        match result {
            Ok(local) => {
                outgoing.local = Some(local.ip());
                outgoing.open = true;
                // The clock of the banner starts now, not when the dialling began.
                let settings = self.links.get(&queue).map(Link::session_settings);
                if let Some(settings) = settings {
                    outgoing.session = Session::new(turn.now, settings);
                }
                if outgoing.leaving {
                    return self.with_session(turn, key, Session::quit);
                }
                self.touch(key);
            }
            Err(error) => {
                // What we have ended ourselves says nothing about the host.
                if !outgoing.leaving {
                    self.dial_failed(turn, key, &error);
                }
                self.remove(turn, key);
            }
        }
    }

    fn dial_failed(&mut self, turn: &mut Turn<'_>, key: Key, error: &DialError) {
        turn.common.stats.counters.connections_out_failed += 1;
        let Some(outgoing) = self.outgoing.get(key) else {
            return;
        };
        let (queue, host) = (outgoing.queue, outgoing.host.clone());
        let account = |text: &str| Reply::internal(451, Enhanced(4, 4, 1), text);
        let reply = match error {
            DialError::TimedOut => Reply::internal(450, Enhanced(4, 4, 1), "Connection Timed Out"),
            DialError::Refused => account("Connection refused"),
            DialError::Unreachable => account("Network or host unreachable"),
            DialError::Other(text) => account(text),
            DialError::Exhausted | DialError::NoSuchSource => {
                return self.our_fault(turn, queue, error, &host.address);
            }
        };
        self.host_failed(turn, key, Stage::Connect, &reply);
        let lines = vec![format!("* connect {}: {reply}", host.address)];
        self.record(turn.now, key, lines, None);
    }

    /// A dial that failed for our own reasons says nothing about the host.
    fn our_fault(
        &mut self,
        turn: &mut Turn<'_>,
        queue: QueueId,
        error: &DialError,
        remote: &SocketAddr,
    ) {
        let Some(link) = self.links.get(&queue) else {
            return;
        };
        let text = match error {
            DialError::NoSuchSource => format!(
                "binding {}: its Bind_Address is not on this machine; {} waits",
                link.binding, link.domain
            ),
            _ => format!(
                "cannot connect to {remote}: out of file descriptors or ports; {} waits",
                link.domain
            ),
        };
        let reply = Reply::internal(451, Enhanced(4, 3, 5), &text);
        self.queues
            .note_reply(turn.now, queue, (&reply, Stage::Connect), 1);
        if turn.now.mono >= self.fault_told_until {
            self.fault_told_until = turn.now.mono + OUR_FAULT_REST;
            turn.notice(Level::Error, text);
        }
        let until = turn.now.mono + OUR_FAULT_REST;
        self.queues.rest(turn.now, queue, until);
        self.queues
            .set_cause(turn.now, queue, Cause::Connecting, Some(until));
    }

    fn host_failed(&mut self, turn: &mut Turn<'_>, key: Key, stage: Stage, reply: &Reply) {
        let heeded = self.heed_refusal(turn, key, stage, reply);
        let crowded = !heeded && self.is_crowded(turn.now.mono, key, reply);
        let Some(outgoing) = self.outgoing.get(key) else {
            return;
        };
        let Some(link) = self.links.get(&outgoing.queue) else {
            return;
        };
        let rest = link.settings.delivery.host_failure_retry;
        // A host that says "not so many" is well.
        if !heeded && !crowded {
            self.hosts
                .failed(turn.now.mono, outgoing.host.address.ip(), rest);
        }
        self.queues
            .note_reply(turn.now, outgoing.queue, (reply, stage), 1);
    }

    pub fn received(&mut self, turn: &mut Turn<'_>, key: Key, bytes: &[u8]) {
        self.with_session(turn, key, |session, now, events| {
            session.receive(now, bytes, events)
        });
    }

    /// Some of what was sent has left; if `all`, everything.
    pub fn sent(&mut self, turn: &mut Turn<'_>, key: Key, all: bool) {
        if all && let Some(outgoing) = self.outgoing.get_mut(key) {
            outgoing.writing = false;
        }
        self.with_session(turn, key, |session, now, _| session.sent(now, usize::MAX));
    }

    /// The connection is no more.
    pub fn closed(&mut self, turn: &mut Turn<'_>, key: Key) {
        self.with_session(turn, key, |session, _, events| {
            session.closed("connection closed by remote host", events);
        });
        self.remove(turn, key);
    }

    pub(super) fn connection_timer(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(outgoing) = self.outgoing.get_mut(key) else {
            return;
        };
        outgoing.timer = None;
        let (over, is_dialed) = (outgoing.over, outgoing.open);
        let (begun, queue) = (outgoing.begun, outgoing.queue);
        if !over {
            self.look_at_giving(turn, key);
        }
        if !over
            && !is_dialed
            && let Some(link) = self.links.get(&queue)
        {
            let deadline = begun + link.settings.delivery.connect_timeout;
            if turn.now.mono < deadline {
                return self.set_timer(key, deadline);
            }
        }
        if over || !is_dialed {
            // The dial or the goodbye takes too long. The surroundings answer with its end.
            turn.out.push(Action::Abort { conn: conn_id(key) });
            return;
        }
        let Some(outgoing) = self.outgoing.get(key) else {
            return;
        };
        if outgoing.session.deadline() <= turn.now.mono {
            self.with_session(turn, key, Session::timeout);
        } else {
            self.touch(key);
        }
    }

    /// Lets the session of a connection act and does what follows from it.
    pub(super) fn with_session(
        &mut self,
        turn: &mut Turn<'_>,
        key: Key,
        act: impl FnOnce(&mut Session, Now, &mut Vec<Event>),
    ) {
        let Some(outgoing) = self.outgoing.get_mut(key) else {
            return;
        };
        if !outgoing.open || outgoing.over {
            return;
        }
        let mut events = core::mem::take(&mut self.events);
        act(&mut outgoing.session, turn.now, &mut events);
        self.handle_events(turn, key, &mut events);
        self.events = events;
        self.touch(key);
    }

    pub(super) fn start(&mut self, turn: &mut Turn<'_>, key: Key, mut job: OpenJob) {
        job.begun = turn.now.mono;
        let Some(content) = job.content.clone() else {
            return;
        };
        let token = |entry: EntryId| RecipientToken(entry.to_bits());
        let recipients = job.recipients.iter();
        let wanted = Job {
            id: job.id,
            content,
            recipients: recipients
                .map(|(entry, to)| (token(*entry), to.clone()))
                .collect(),
        };
        let Some(outgoing) = self.outgoing.get_mut(key) else {
            return;
        };
        let mut events = core::mem::take(&mut self.events);
        match outgoing.session.start(turn.now, wanted, &mut events) {
            Ok(()) => outgoing.jobs.push(job),
            Err(_) => {
                let queue = outgoing.queue;
                let entries: Vec<_> = job.recipients.iter().map(|(entry, _)| *entry).collect();
                self.queues.give_back(turn.now, &entries);
                self.not_sent(turn, queue);
            }
        }
        self.handle_events(turn, key, &mut events);
        self.events = events;
        self.touch(key);
    }

    /// The session may have something to send or another deadline: seen to at the end of the turn.
    fn touch(&mut self, key: Key) {
        self.rate(key);
        if let Some(outgoing) = self.outgoing.get_mut(key)
            && !core::mem::replace(&mut outgoing.touched, true)
        {
            self.touched.push(key);
        }
    }

    /// Sends what the session has to say and sets its timer.
    pub(super) fn send_output(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(outgoing) = self.outgoing.get_mut(key) else {
            return;
        };
        outgoing.touched = false;
        let conn = conn_id(key);
        // What comes behind a large body is taken when that has left, so that a connection broken
        // in its midst does not count as one that was sent the whole.
        while !outgoing.writing
            && let Some(piece) = outgoing.session.output()
        {
            turn.common.stats.counters.sends += 1;
            turn.out.push(match piece {
                Piece::Bytes(bytes) => Action::Send { conn, bytes },
                Piece::Body(bytes) => {
                    outgoing.writing = true;
                    Action::SendShared { conn, bytes }
                }
            });
        }
        if outgoing.open && outgoing.session.is_closed() {
            if !core::mem::replace(&mut outgoing.over, true) {
                turn.out.push(Action::Abort { conn });
            }
            return self.rate(key);
        }
        let deadline = outgoing.session.deadline();
        self.set_timer(key, deadline);
        self.rate(key);
    }

    /// The timer of a connection only ever moves to an earlier moment; one that fires too early
    /// looks at the deadline and is set again. So no timer is touched for every message.
    pub(super) fn set_timer(&mut self, key: Key, at: Mono) {
        let Some(outgoing) = self.outgoing.get_mut(key) else {
            return;
        };
        match outgoing.timer {
            Some((armed, _)) if armed <= at => return,
            Some((_, timer)) => drop(self.timers.cancel(timer)),
            None => {}
        }
        if at != Mono::MAX {
            outgoing.timer = Some((at, self.timers.insert(at, Timer::Connection(key))));
        }
    }

    fn handle_events(&mut self, turn: &mut Turn<'_>, key: Key, events: &mut Vec<Event>) {
        let mut failed = None;
        for event in events.drain(..) {
            match event {
                Event::Ready => self.ready(turn.now.mono, key),
                Event::Recipient {
                    job,
                    token,
                    stage,
                    reply,
                } => {
                    let possible_duplicate = false;
                    let answer = self.answer(turn, key, job, (stage, reply), possible_duplicate);
                    if let Some(id) = self.recipient(turn, key, job, token, answer) {
                        failed = Some(id);
                    }
                }
                Event::Done { job } => self.done(key, job),
                Event::Lost {
                    job,
                    undecided,
                    stage,
                    reply,
                    reach,
                } => {
                    let possible_duplicate = reach == Reach::Whole;
                    let reach = self.blame(key, stage, &reply, reach);
                    for token in undecided {
                        if reach == Reach::Unsent {
                            let entry = EntryId::from_bits(token.0);
                            self.queues.give_back(turn.now, &[entry]);
                            if let Some(queue) = self.outgoing.get(key).map(|it| it.queue) {
                                self.not_sent(turn, queue);
                            }
                            continue;
                        }
                        let reply = reply.clone();
                        let answer =
                            self.answer(turn, key, job, (stage, reply), possible_duplicate);
                        failed = self.recipient(turn, key, job, token, answer).or(failed);
                    }
                    self.done(key, job);
                }
                Event::HostFailed { stage, reply } => {
                    turn.common.stats.counters.connections_out_failed += 1;
                    self.host_failed(turn, key, stage, &reply);
                    let lines = self.transcript(key);
                    self.record(turn.now, key, lines, None);
                }
                Event::Close(_) => {}
            }
        }
        if let Some(message) = failed {
            let lines = self.transcript(key);
            self.record(turn.now, key, lines, Some(message));
        }
        if let Some(outgoing) = self.outgoing.get(key) {
            self.mark(outgoing.queue);
        }
    }

    /// A connection that had taken mail and is found dead at the next MAIL was closed by the host
    /// while it was idle: no fault of the message, which costs it no attempt.
    fn blame(&self, key: Key, stage: Stage, reply: &Reply, reach: Reach) -> Reach {
        let stale = self.outgoing.get(key).is_some_and(|outgoing| {
            reach == Reach::Part
                && stage == Stage::MailFrom
                && reply.internal
                && outgoing.session.counts().delivered > 0
        });
        if stale { Reach::Unsent } else { reach }
    }

    fn ready(&mut self, now: Mono, key: Key) {
        let Some(outgoing) = self.outgoing.get_mut(key) else {
            return;
        };
        self.hosts.succeeded(outgoing.host.address.ip());
        self.crowds.taken(now, outgoing.route());
        if let Some(link) = self.links.get_mut(&outgoing.queue) {
            link.trying_since = None;
            link.rests = 0;
            if !core::mem::replace(&mut outgoing.let_in, true) {
                link.let_in += 1;
                link.unheard = 0;
                // Its time begins: it is to be of use.
                outgoing.places.since = now;
                if let Some(adaptive) = &mut link.adaptive {
                    adaptive.shape.connected(link.let_in);
                }
            }
        }
    }

    /// What was given to a connection has not left it.
    fn not_sent(&mut self, turn: &Turn<'_>, queue: QueueId) {
        if let Some(adaptive) = self
            .links
            .get_mut(&queue)
            .and_then(|it| it.adaptive.as_mut())
        {
            adaptive.shape.unsent(turn.now);
        }
    }

    fn done(&mut self, key: Key, job: JobId) {
        if let Some(outgoing) = self.outgoing.get_mut(key) {
            outgoing.jobs.retain(|open| open.id != job);
            outgoing.proved = true;
        }
    }

    fn answer(
        &self,
        turn: &Turn<'_>,
        key: Key,
        job: JobId,
        (stage, reply): (Stage, Reply),
        possible_duplicate: bool,
    ) -> Answered {
        let jobs = self.outgoing.get(key).map(|it| it.jobs.iter());
        let job = jobs.and_then(|mut it| it.find(|open| open.id == job));
        Answered {
            stage,
            reply,
            possible_duplicate,
            begun: job.map_or(turn.now.mono, |it| it.begun),
            key: Some(key),
        }
    }

    /// Names the message if the answer is one that the flight recorder should keep.
    fn recipient(
        &mut self,
        turn: &mut Turn<'_>,
        key: Key,
        job: JobId,
        token: RecipientToken,
        answer: Answered,
    ) -> Option<crate::types::id::MessageId> {
        let outgoing = self.outgoing.get_mut(key)?;
        let remote = outgoing.remote();
        let queue = outgoing.queue;
        let open = outgoing.jobs.iter_mut().find(|open| open.id == job)?;
        let entry = EntryId::from_bits(token.0);
        let place = open
            .recipients
            .iter()
            .position(|(known, _)| *known == entry)?;
        let (_, address) = open.recipients.swap_remove(place);
        let content = open.content.clone();
        self.answered(turn, queue, entry, (address, content), Some(remote), answer)
    }

    fn transcript(&self, key: Key) -> Vec<String> {
        let Some(outgoing) = self.outgoing.get(key) else {
            return Vec::new();
        };
        outgoing
            .session
            .transcript()
            .lines()
            .map(str::to_string)
            .collect()
    }

    fn record(
        &mut self,
        now: Now,
        key: Key,
        lines: Vec<String>,
        message: Option<crate::types::id::MessageId>,
    ) {
        let Some(outgoing) = self.outgoing.get(key) else {
            return;
        };
        let Some(link) = self.links.get(&outgoing.queue) else {
            return;
        };
        self.recorder.record(Flight {
            at: now.wall,
            binding: link.binding.clone(),
            domain: link.domain.clone(),
            host: (&*outgoing.host.name).into(),
            message,
            lines,
        });
    }

    /// The end of a connection: its places under all limits are free again.
    fn remove(&mut self, turn: &mut Turn<'_>, key: Key) {
        self.set_opening(key, Opening::Nothing);
        let Some(outgoing) = self.outgoing.remove(key) else {
            return;
        };
        self.crowds.ended(outgoing.route());
        self.unlist(key, &outgoing);
        let had = outgoing.session.counts().delivered;
        let Outgoing {
            queue,
            host,
            let_in,
            leaving,
            jobs,
            timer,
            places,
            ..
        } = *outgoing;
        if let Some((_, timer)) = timer {
            self.timers.cancel(timer);
        }
        // A session gives every job back in its events; what is left here it never had.
        for job in jobs {
            let entries: Vec<_> = job.recipients.iter().map(|(entry, _)| *entry).collect();
            self.queues.give_back(turn.now, &entries);
        }
        if let Some(load) = self.host_load.get_mut(&host.address.ip()) {
            *load -= 1;
            if *load == 0 {
                self.host_load.swap_remove(&host.address.ip());
            }
        }
        self.release(turn, queue, places);
        // With one connection less it waits as one who has less.
        self.place_free(queue);
        if let Some(link) = self.links.get_mut(&queue) {
            link.let_in -= u32::from(let_in);
            link.leaving -= u32::from(leaving);
            link.drop_connection(key);
            if link.connections.is_empty()
                && matches!(&link.plan, Way::Known(plan) if turn.now.mono >= plan.until)
            {
                link.plan = Way::Unknown;
            }
        }
        self.try_more_deliveries(turn, queue, had);
        self.mark(queue);
    }
}

impl Outgoing {
    fn remote(&self) -> Remote {
        Remote {
            host: (&*self.host.name).into(),
            ip: self.host.address.ip(),
            local: self.local,
        }
    }
}
