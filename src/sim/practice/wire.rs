//! Connections: whole, in order, as late as the way is long, and never lost.

use core::net::IpAddr;
use core::net::Ipv4Addr;
use core::net::SocketAddr;

use crate::base::slab::Key;
use crate::engine::io::ConnId;
use crate::engine::io::DialError;
use crate::engine::io::Input;
use crate::practice::report::Ended;
use crate::practice::session::Said;
use crate::practice::session::Session;
use crate::sim::practice::seen::Seen;
use crate::sim::practice::world::Event;
use crate::sim::practice::world::World;

/// A closed connection is told of after this time.
const CLOSED_US: u64 = 20;

/// Clients are on the same machine.
const LOCAL_US: u64 = 30;

/// One connection of an engine.
pub struct End {
    pub shard: usize,
    pub id: ConnId,
    pub peer: Peer,
    /// Not made yet.
    dialing: bool,
    /// The engine has said goodbye, and hears nothing but the end.
    closing: bool,
    /// Why it could not be made.
    failed: Option<DialError>,
}

pub enum Peer {
    /// One of the clients, by its place.
    Client(usize),
    Receiver(Receiver),
}

pub struct Receiver {
    /// Nothing if no receiver has this address.
    provider: Option<usize>,
    source: IpAddr,
    /// Half a round trip.
    way_us: u64,
    /// It says nothing before this moment.
    speaks_us: u64,
    /// While the connection is open on its side.
    session: Option<Session>,
}

impl World {
    pub fn connect(&mut self, shard: usize, id: ConnId, peer: Peer) -> Key {
        let end = self.ends.insert(End {
            shard,
            id,
            dialing: matches!(peer, Peer::Receiver(_)),
            peer,
            closing: false,
            failed: None,
        });
        let before = self.conns.insert((shard, id), end);
        assert!(before.is_none(), "a connection's name is its own");
        end
    }

    fn end_of(&self, shard: usize, id: ConnId) -> Option<Key> {
        self.conns.get(&(shard, id)).copied()
    }

    pub fn sends(&mut self, shard: usize, id: ConnId, bytes: Vec<u8>) {
        let Some(key) = self.end_of(shard, id) else {
            return;
        };
        let Some(end) = self.ends.get(key).filter(|it| !it.closing) else {
            return;
        };
        let after_us = match &end.peer {
            Peer::Client(_) => LOCAL_US,
            Peer::Receiver(receiver) => {
                let way_us = receiver.way_us;
                self.see_sent(key, &bytes);
                way_us
            }
        };
        self.plan(after_us, Event::ToPeer { end: key, bytes });
    }

    /// An engine takes input again.
    pub fn resume(&mut self, shard: usize, id: ConnId) {
        if let Some(end) = self.end_of(shard, id) {
            let bytes = match self.client_at(end) {
                Some(client) => core::mem::take(&mut self.clients[client].held),
                None => Vec::new(),
            };
            let ends = false;
            self.plan(0, Event::ToEngine { end, bytes, ends });
        }
    }

    /// The client whose connection this is.
    fn client_at(&self, key: Key) -> Option<usize> {
        match self.ends.get(key)?.peer {
            Peer::Client(client) => Some(client),
            Peer::Receiver(_) => None,
        }
    }

    /// Bytes reach the client or the receiver; none at all is the end of them.
    pub fn peer_gets(&mut self, key: Key, bytes: &[u8]) {
        let Some(end) = self.ends.get_mut(key) else {
            return;
        };
        let receiver = match &mut end.peer {
            Peer::Receiver(receiver) => receiver,
            Peer::Client(_) if bytes.is_empty() => {
                return self.plan(LOCAL_US, Event::Gone(key));
            }
            Peer::Client(client) => {
                let client = *client;
                return self.client_reads(client, bytes);
            }
        };
        if bytes.is_empty() {
            if let Some(session) = receiver.session.take() {
                session.close(&mut self.internet);
            }
            let way_us = receiver.way_us;
            return self.plan(way_us, Event::Gone(key));
        }
        let Some(session) = &mut receiver.session else {
            return;
        };
        let mut said = Vec::new();
        session.receive(&mut self.internet, bytes, self.now_us, &mut said);
        self.receiver_says(key, said);
    }

    fn receiver_says(&mut self, key: Key, said: Vec<Said>) {
        let now_us = self.now_us;
        let Some(end) = self.ends.get_mut(key) else {
            return;
        };
        let Peer::Receiver(receiver) = &mut end.peer else {
            return;
        };
        let is_over = receiver.session.as_ref().is_some_and(Session::is_over);
        if is_over && let Some(session) = receiver.session.take() {
            session.close(&mut self.internet);
        }
        let source = receiver.source;
        let last = said.len();
        for (index, said) in said.into_iter().enumerate() {
            receiver.speaks_us = receiver.speaks_us.max(now_us) + said.thinks_us;
            let event = Event::ToEngine {
                end: key,
                bytes: said.bytes,
                ends: is_over && index + 1 == last,
            };
            self.schedule
                .plan(receiver.speaks_us + receiver.way_us, event);
            for number in said.taken {
                let Some(mail) = self.mail.get_mut(number as usize) else {
                    continue;
                };
                let ended = Ended::Delivered {
                    at_us: now_us,
                    source,
                };
                match mail.ended.replace(ended) {
                    None => self.delivered += 1,
                    Some(before) => {
                        mail.ended = Some(before);
                        self.duplicates += 1;
                    }
                }
            }
        }
    }

    pub fn engine_gets(&mut self, key: Key, bytes: Vec<u8>, ends: bool) {
        let Some(end) = self.ends.get(key) else {
            return;
        };
        let (shard, id, closing) = (end.shard, end.id, end.closing);
        if !self.engines[shard].wants_read(id) && !closing {
            if let Some(client) = self.client_at(key) {
                self.clients[client].held.extend_from_slice(&bytes);
            }
            return;
        }
        if !bytes.is_empty() && !closing {
            let bytes = &bytes;
            self.handle(shard, Input::Received { conn: id, bytes });
        }
        if ends {
            self.gone(key);
        }
    }

    /// All that was shared has left.
    pub fn left(&mut self, key: Key) {
        if let Some(end) = self.ends.get(key).filter(|it| !it.closing) {
            let (shard, conn) = (end.shard, end.id);
            self.handle(shard, Input::Sent { conn, all: true });
        }
    }

    pub fn dial(&mut self, shard: usize, id: ConnId, remote: SocketAddr, source: Option<IpAddr>) {
        let provider = self
            .scenario
            .host_of(remote.ip())
            .map(|(provider, _)| provider);
        let round_trip_us =
            provider.map_or(LOCAL_US, |it| self.scenario.providers[it].round_trip_us);
        let receiver = Receiver {
            provider,
            source: source.unwrap_or(Ipv4Addr::LOCALHOST.into()),
            way_us: round_trip_us / 2,
            speaks_us: 0,
            session: None,
        };
        let source = receiver.source;
        let end = self.connect(shard, id, Peer::Receiver(receiver));
        self.see(Seen::Dialed {
            conn: end,
            source,
            remote,
        });
        let now_us = self.now_us;
        // Where nobody answers, the engine's patience ends it.
        if provider.is_none_or(|it| self.internet.answers(it, now_us)) {
            self.plan(round_trip_us, Event::Dialed(end));
        }
    }

    pub fn dialed(&mut self, key: Key) {
        let now_us = self.now_us;
        let Some(end) = self.ends.get_mut(key).filter(|it| it.failed.is_none()) else {
            return;
        };
        let (shard, id) = (end.shard, end.id);
        let Peer::Receiver(receiver) = &mut end.peer else {
            return;
        };
        let Some(provider) = receiver.provider else {
            end.failed = Some(DialError::Refused);
            return self.gone(key);
        };
        end.dialing = false;
        let (source, internet) = (receiver.source, &mut self.internet);
        let mut said = Vec::new();
        let session = Session::open(internet, Some(provider), source, now_us, &mut said);
        receiver.session = Some(session);
        let local = SocketAddr::new(source, 40_000);
        self.receiver_says(key, said);
        let result = Ok(local);
        self.handle(shard, Input::Dialed { conn: id, result });
    }

    /// The engine says goodbye: the peer hears it after all that was sent.
    pub fn close(&mut self, shard: usize, id: ConnId) {
        self.sends(shard, id, Vec::new());
        let end = self
            .end_of(shard, id)
            .and_then(|key| self.ends.get_mut(key));
        if let Some(end) = end {
            end.closing = true;
        }
    }

    pub fn abort(&mut self, shard: usize, id: ConnId) {
        let Some(key) = self.end_of(shard, id) else {
            return;
        };
        let Some(end) = self.ends.get_mut(key) else {
            return;
        };
        end.closing = true;
        if let Peer::Receiver(receiver) = &mut end.peer {
            if let Some(session) = receiver.session.take() {
                session.close(&mut self.internet);
            }
            end.failed = end.dialing.then_some(DialError::TimedOut);
        }
        self.plan(CLOSED_US, Event::Gone(key));
    }

    /// The engine is told that it is over, once.
    pub fn gone(&mut self, key: Key) {
        let Some(end) = self.ends.remove(key) else {
            return;
        };
        let (shard, id) = (end.shard, end.id);
        self.conns.swap_remove(&(shard, id));
        self.see(Seen::Gone { conn: key });
        match end.peer {
            Peer::Client(client) => self.client_closed(client),
            Peer::Receiver(receiver) => {
                if let Some(session) = receiver.session {
                    session.close(&mut self.internet);
                }
            }
        }
        match end.failed {
            Some(error) => {
                let result = Err(error);
                self.handle(shard, Input::Dialed { conn: id, result });
            }
            None => self.handle(shard, Input::Closed { conn: id }),
        }
    }
}
