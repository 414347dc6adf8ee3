//! Both ends of connections: how bytes get from an engine to a client or a host and back, and how
//! connections come to their end.

use core::net::IpAddr;
use core::net::Ipv4Addr;
use core::net::SocketAddr;

use crate::engine::io::DialError;
use crate::engine::io::Input;
use crate::engine::io::Side;
use crate::sim::client::Deed;
use crate::sim::client::Desk;
use crate::sim::counts::Fault;
use crate::sim::host::HostSession;
use crate::sim::host::Room;
use crate::sim::host::Said;
use crate::sim::net::Receipt;
use crate::sim::net::Stage;
use crate::sim::planted::Planted;
use crate::sim::scenario::Manners;
use crate::sim::scenario::SECOND;
use crate::sim::world::End;
use crate::sim::world::Event;
use crate::sim::world::World;

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2_525);

/// Addresses that clients come from.
const CLIENT_ADDRESSES: usize = 3;

/// A host that has become well behaved.
const POLITE: Manners = Manners {
    busy: 0,
    refuses_session: 0,
    hangs: 0,
    without_ehlo: 0,
    defers: 0,
    rejects: 0,
    greylists: false,
    drops_reply: 0,
    closes_in_data: 0,
    thinks_us: 1_000,
    connections_max: 1_000,
    rate_max: 0,
};

pub enum Peer {
    Client(usize),
    Host {
        host: usize,
        source: IpAddr,
        dialed_us: u64,
        error: Option<DialError>,
        session: Option<Box<HostSession>>,
    },
}

impl Peer {
    pub fn dialed(host: usize, source: IpAddr, dialed_us: u64) -> Peer {
        Peer::Host {
            host,
            source,
            dialed_us,
            error: None,
            session: None,
        }
    }

    pub fn fails_with(&mut self, with: Option<DialError>) {
        if let Peer::Host { error, .. } = self {
            *error = with;
        }
    }
}

impl World {
    fn end(&mut self, number: usize) -> Option<&mut End> {
        self.ends.get_mut(number)?.as_deref_mut()
    }

    pub fn plan_to_engine(&mut self, number: usize) {
        let now_us = self.now_us;
        let Some(end) = self.end(number) else { return };
        let pipe = &mut end.conn.to_engine;
        if !core::mem::replace(&mut pipe.is_planned, true) {
            let at_us = pipe.ready_us().unwrap_or(now_us).max(now_us);
            self.schedule.plan(at_us, Event::ToEngine(number));
        }
    }

    pub fn plan_to_peer(&mut self, number: usize) {
        let now_us = self.now_us;
        let Some(end) = self.end(number) else { return };
        let pipe = &mut end.conn.to_peer;
        if !core::mem::replace(&mut pipe.is_planned, true) {
            let at_us = pipe.ready_us().unwrap_or(now_us).max(now_us);
            self.schedule.plan(at_us, Event::ToPeer(number));
        }
    }

    pub fn flow_to_engine(&mut self, number: usize) {
        let now_us = self.now_us;
        let Some(end) = self.ends.get_mut(number).and_then(Option::as_deref_mut) else {
            return;
        };
        end.conn.to_engine.is_planned = false;
        let (shard, id, stage) = (end.conn.shard, end.conn.id, end.conn.stage);
        if !end.conn.is_live() || self.is_broken(number) {
            return;
        }
        let wants = |world: &World| match &world.process {
            Some(process) => process.engines[shard].wants_read(id),
            None => false,
        };
        if stage == Stage::Open && id.side == Side::In && !wants(self) {
            return;
        }
        let cut = match self.end(number) {
            Some(end) => end.conn.cut,
            None => return,
        };
        let bytes_max = cut.next(&mut self.streams.net);
        let Some(end) = self.end(number) else { return };
        let arrived = end.conn.to_engine.take(now_us, bytes_max);
        if !arrived.bytes.is_empty() && stage == Stage::Open {
            for receipt in arrived.receipts {
                match receipt {
                    Receipt::Delivered(receipt) => self.ledger.receipt_reached(receipt),
                    Receipt::Answered(who) => self.ledger.attempt_answered(who),
                }
            }
            self.note(8, arrived.bytes.len() as u64, || {
                let shown = &arrived.bytes[..arrived.bytes.len().min(160)];
                let shown = String::from_utf8_lossy(shown).into_owned();
                format!("conn {number} -> engine {shown:?}")
            });
            let bytes = &arrived.bytes;
            self.handle(shard, Input::Received { conn: id, bytes });
        }
        let gap_us = self.streams.net.between(1, 200);
        let Some(end) = self.end(number) else { return };
        if !end.conn.is_live() {
            return;
        }
        let pipe = &mut end.conn.to_engine;
        if let Some(ready_us) = pipe.ready_us() {
            if !core::mem::replace(&mut pipe.is_planned, true) {
                let at_us = ready_us.max(now_us + gap_us);
                self.schedule.plan(at_us, Event::ToEngine(number));
            }
        } else if pipe.ended && stage == Stage::Open && id.side == Side::In {
            // The client has said all it will, and may still read.
            if !core::mem::replace(&mut end.told_ended, true) {
                self.handle(shard, Input::Ended { conn: id });
            }
        } else if pipe.ended {
            self.over(number);
        }
    }

    /// Now and then the network breaks a connection.
    fn is_broken(&mut self, number: usize) -> bool {
        if self.trouble(80, Fault::Reset) {
            self.reset(number);
            return true;
        }
        if self.trouble(60, Fault::Stall) {
            let until_us = self.now_us + self.streams.net.between(SECOND / 10, 25 * SECOND);
            if let Some(end) = self.end(number) {
                end.conn.to_peer.stalled_until_us = until_us;
                end.conn.to_engine.stalled_until_us = until_us;
                end.stalled = true;
            }
        }
        false
    }

    pub fn flow_to_peer(&mut self, number: usize) {
        let now_us = self.now_us;
        let Some(end) = self.ends.get_mut(number).and_then(Option::as_deref_mut) else {
            return;
        };
        end.conn.to_peer.is_planned = false;
        if !end.conn.is_live() || self.is_broken(number) {
            return;
        }
        let Some(end) = self.ends.get_mut(number).and_then(Option::as_deref_mut) else {
            return;
        };
        let bytes_max = end.conn.cut.next(&mut self.streams.net);
        let arrived = end.conn.to_peer.take(now_us, bytes_max);
        let (shard, id) = (end.conn.shard, end.conn.id);
        let all = end.conn.to_peer.is_empty();
        let went_on = !arrived.bytes.is_empty() && (end.stalled || (all && end.shared));
        end.stalled &= arrived.bytes.is_empty();
        end.shared &= !all;
        if !arrived.bytes.is_empty() {
            self.peer_receives(number, &arrived.bytes);
        }
        if went_on {
            self.handle(shard, Input::Sent { conn: id, all });
        }
        let gap_us = self.streams.net.between(1, 200);
        let Some(end) = self.end(number) else { return };
        if !end.conn.is_live() {
            return;
        }
        let pipe = &mut end.conn.to_peer;
        if let Some(ready_us) = pipe.ready_us() {
            if !core::mem::replace(&mut pipe.is_planned, true) {
                let at_us = ready_us.max(now_us + gap_us);
                self.schedule.plan(at_us, Event::ToPeer(number));
            }
        } else if pipe.ended {
            // The peer hears that nothing more comes, and has nothing more to say either.
            end.conn.to_engine.ended = true;
            self.plan_to_engine(number);
        }
    }

    /// Bytes from an engine arrive.
    fn peer_receives(&mut self, number: usize, bytes: &[u8]) {
        let Some(end) = self.ends.get(number).and_then(Option::as_deref) else {
            return;
        };
        match &end.peer {
            Peer::Client(client) => {
                let client = *client;
                self.with_client(client, |client, desk| client.receive(bytes, desk));
            }
            Peer::Host { .. } => self.with_host(number, |session, room| {
                if let Some(session) = session {
                    session.receive(bytes, room);
                }
            }),
        }
    }

    fn with_client(
        &mut self,
        client: usize,
        act: impl FnOnce(&mut crate::sim::client::Client, &mut Desk<'_>),
    ) {
        let mut desk = Desk {
            ledger: &mut self.ledger,
            work: &mut self.work,
            mail: &mut self.mail,
            unruly: self.scenario.concerns.clients && !self.switches.calm,
            deeds: Vec::new(),
        };
        let conn = self.clients[client].conn;
        act(&mut self.clients[client], &mut desk);
        let deeds = desk.deeds;
        let Some(number) = self.clients[client].conn.or(conn) else {
            return;
        };
        for deed in deeds {
            self.client_does(number, deed);
        }
    }

    fn client_does(&mut self, number: usize, deed: Deed) {
        let now_us = self.now_us;
        let Some(end) = self.end(number) else { return };
        match deed {
            Deed::Send { after_us, bytes } => {
                let ready_us = now_us + end.conn.latency_us + after_us;
                end.conn.to_engine.push(ready_us, bytes, None);
            }
            Deed::End => end.conn.to_engine.ended = true,
            Deed::Reset => return self.reset(number),
        }
        self.plan_to_engine(number);
    }

    /// Lets the host at the end of a connection act, and sends what it says.
    fn with_host(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut Option<Box<HostSession>>, &mut Room<'_>),
    ) {
        let wall = self.wall();
        let Some(end) = self.ends[number].as_deref_mut() else {
            return;
        };
        let Peer::Host { host, session, .. } = &mut end.peer else {
            return;
        };
        let host = *host;
        let mut session = session.take();
        let domain_before = session.as_ref().and_then(|it| it.domain);
        let plan = &self.scenario.hosts[host];
        let manners = match self.switches.calm {
            true => POLITE,
            false => plan.manners,
        };
        let taken = &mut self.host_taken[host];
        let (ends, domains) = (&self.ends, &self.scenario.domains);
        let is_live = |conn: usize| {
            ends.get(conn)
                .and_then(Option::as_deref)
                .is_some_and(|end| end.conn.is_live())
        };
        let domain_of = |name: &str| domains.iter().position(|it| it.name == name);
        let mut said = Vec::new();
        let mut room = Room {
            wall,
            conn: number,
            plan,
            manners,
            taken,
            now_us: self.now_us,
            limits: &self.scenario.limits,
            converts: self.scenario.converts(),
            prng: &mut self.streams.hosts,
            ledger: &mut self.ledger,
            is_live: &is_live,
            said: &mut said,
            domain_of: &domain_of,
        };
        act(&mut session, &mut room);
        let domain = session.as_ref().and_then(|it| it.domain);
        if let Some(Peer::Host { session: place, .. }) = self.end(number).map(|end| &mut end.peer) {
            *place = session;
        }
        if domain != domain_before {
            self.check_queue_limit(number);
        }
        for said in said {
            self.host_says(number, said);
        }
    }

    fn host_says(&mut self, number: usize, mut said: Said) {
        let now_us = self.now_us;
        if said.bytes.starts_with(b"451 4.3.0 queue full")
            && self.is_planted(Planted::FalseSuccess, 300)
        {
            said.bytes = b"250 2.0.0 taken\r\n".to_vec();
        }
        let Some(end) = self.end(number) else { return };
        let ready_us = now_us + end.conn.latency_us + said.think_us;
        end.conn.to_engine.push(ready_us, said.bytes, said.receipt);
        end.conn.to_engine.ended |= said.ends;
        self.plan_to_engine(number);
    }

    /// A client looks for a shard that listens.
    pub fn client_connects(&mut self, client: usize) {
        let pause_us = self.clients[client].pause_us();
        let port = 10_000 + self.streams.net.below(50_000) as u16;
        let is_free = self.clients[client].conn.is_none();
        let shard = match &self.process {
            Some(process) if is_free && !self.work.is_empty() && !self.ending => {
                let shard = self.streams.net.below(process.shards() as u64) as usize;
                process.listening[shard].then_some(shard)
            }
            _ => None,
        };
        let Some(shard) = shard else {
            return self.plan(pause_us, Event::Client(client));
        };
        let last = 1 + (client % CLIENT_ADDRESSES) as u8;
        let peer = SocketAddr::new(Ipv4Addr::new(127, 0, 3, last).into(), port);
        let now = self.now();
        let Some(process) = &mut self.process else {
            return;
        };
        let id = process.engines[shard].accept(now, 0, peer, LISTEN, &mut process.outbox);
        let number = self.connect(shard, id, Stage::Open, Peer::Client(client));
        self.note(9, number as u64, || {
            format!("client {client} connects to shard {shard} as conn {number}")
        });
        self.with_client(client, |client, desk| client.connected(number, desk));
        self.perform(shard);
    }

    /// The end of a dial.
    pub fn dialed(&mut self, number: usize) {
        let Some(end) = self.end(number) else { return };
        if end.conn.stage != Stage::Dialing {
            return;
        }
        let (shard, id) = (end.conn.shard, end.conn.id);
        let Peer::Host {
            host,
            source,
            error,
            ..
        } = &end.peer
        else {
            return;
        };
        let (host, source) = (*host, *source);
        if let Some(error) = error.clone() {
            self.forget(number);
            let result = Err(error);
            return self.handle(shard, Input::Dialed { conn: id, result });
        }
        end.conn.stage = Stage::Open;
        let local = SocketAddr::new(source, 40_000);
        let result = Ok(local);
        self.handle(shard, Input::Dialed { conn: id, result });
        let others = self.host_loads[host];
        self.host_loads[host] += 1;
        self.with_host(number, |session, room| {
            *session = Some(Box::new(HostSession::open(source, others, room)));
        });
    }

    /// The engine wants it over at once. What it had sent may still arrive.
    pub fn abort(&mut self, number: usize) {
        let flushed = self.streams.net.chance(1, 2);
        self.flush_to_peer(number, flushed);
        self.over(number);
    }

    fn flush_to_peer(&mut self, number: usize, flushed: bool) {
        let Some(end) = self.end(number) else { return };
        if flushed && end.conn.is_live() {
            end.conn.to_peer.stalled_until_us = 0;
            let rest = end.conn.to_peer.take(u64::MAX, usize::MAX);
            end.conn.stage = Stage::Over;
            self.peer_receives(number, &rest.bytes);
        }
    }

    /// The network, or the peer, has cut it off: what was under way is lost.
    fn reset(&mut self, number: usize) {
        self.over(number);
    }

    /// Nothing moves on it any more; the engine is told in a moment.
    fn over(&mut self, number: usize) {
        let Some(end) = self.end(number) else { return };
        if end.conn.stage == Stage::Gone {
            return;
        }
        let was_dialing = end.conn.stage == Stage::Dialing;
        end.conn.to_engine.lose();
        end.conn.to_peer.lose();
        end.conn.stage = Stage::Over;
        if was_dialing {
            end.peer.fails_with(Some(DialError::TimedOut));
        }
        self.tell_peer(number);
        self.plan(20, Event::Gone(number));
    }

    /// The peer hears that it is over, once.
    fn tell_peer(&mut self, number: usize) {
        let Some(end) = self.end(number) else { return };
        if core::mem::replace(&mut end.conn.peer_gone, true) {
            return;
        }
        match &end.peer {
            Peer::Client(client) => {
                let client = *client;
                self.with_client(client, |client, desk| client.closed(desk));
                let pause_us = self.clients[client].pause_us();
                self.plan(pause_us, Event::Client(client));
            }
            Peer::Host { host, session, .. } => {
                let host = *host;
                if session.is_some() {
                    self.host_loads[host] -= 1;
                }
            }
        }
    }

    /// The engine is told that it is over.
    pub fn gone(&mut self, number: usize) {
        let Some(end) = self.end(number) else { return };
        if end.conn.stage != Stage::Over {
            return;
        }
        let (shard, id) = (end.conn.shard, end.conn.id);
        let failed = match &end.peer {
            Peer::Host { session, error, .. } if session.is_none() => error.clone(),
            _ => None,
        };
        self.forget(number);
        self.note(10, number as u64, || format!("conn {number} is gone"));
        match failed {
            Some(error) => {
                let result = Err(error);
                self.handle(shard, Input::Dialed { conn: id, result });
            }
            None => self.handle(shard, Input::Closed { conn: id }),
        }
    }

    /// The name means nothing any more.
    fn forget(&mut self, number: usize) {
        if let Some(end) = self.ends.get_mut(number).and_then(Option::take)
            && let Some(process) = &mut self.process
        {
            process.conns.remove(&(end.conn.shard, end.conn.id));
        }
    }

    /// The process at this end is no more.
    pub fn cut_off(&mut self, number: usize, power: bool) {
        let flushed = !power && self.streams.net.chance(1, 2);
        self.flush_to_peer(number, flushed);
        let Some(end) = self.end(number) else { return };
        end.conn.to_engine.lose();
        end.conn.to_peer.lose();
        end.conn.stage = Stage::Gone;
        self.tell_peer(number);
        self.ends[number] = None;
    }
}
