//! Who hands the mail over: one client for each shard, on the same machine, which sends some
//! messages at a time without waiting and takes them back where they are not taken.

use core::net::IpAddr;
use core::net::Ipv4Addr;
use core::net::SocketAddr;
use std::collections::VecDeque;

use crate::base::slab::Key;
use crate::practice::SECOND;
use crate::practice::load;
use crate::practice::load::Letter;
use crate::sim::practice::wire::Peer;
use crate::sim::practice::world::Event;
use crate::sim::practice::world::World;

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2_525);
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)), 40_000);

/// Messages that are sent together; a session holds more than this.
const TOGETHER_MAX: usize = 16;

/// A client that was refused waits so long.
const REST_US: u64 = 5 * SECOND;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    Banner,
    Hello,
    Envelope,
    Final,
}

#[derive(Default)]
pub struct Client {
    conn: Option<Key>,
    /// Messages to be handed over, by number.
    pub waiting: VecDeque<u64>,
    /// Messages under way, in order.
    sent: VecDeque<u64>,
    expects: VecDeque<Expect>,
    input: Vec<u8>,
    /// Sent by it, and not taken by the engine yet.
    pub held: Vec<u8>,
    resting: bool,
}

impl World {
    /// A client connects, or sends what it has, unless it waits for answers.
    pub fn client_goes_on(&mut self, shard: usize) {
        let client = &mut self.clients[shard];
        client.resting = false;
        if client.waiting.is_empty() || !client.expects.is_empty() {
            return;
        }
        let Some(end) = client.conn else {
            return self.client_connects(shard);
        };
        let mut bytes = Vec::new();
        while let Some(number) = self.clients[shard].waiting.pop_front() {
            self.write(number, &mut bytes);
            let client = &mut self.clients[shard];
            client
                .expects
                .extend([Expect::Envelope, Expect::Envelope, Expect::Final]);
            client.sent.push_back(number);
            if client.sent.len() == TOGETHER_MAX {
                break;
            }
        }
        let ends = false;
        self.plan(30, Event::ToEngine { end, bytes, ends });
    }

    fn client_connects(&mut self, shard: usize) {
        let now = self.now();
        let id = self.engines[shard].accept(now, 0, PEER, LISTEN, &mut self.outbox);
        let end = self.connect(shard, id, Peer::Client);
        let client = &mut self.clients[shard];
        client.conn = Some(end);
        client.expects = VecDeque::from([Expect::Banner]);
        client.input.clear();
        self.perform(shard);
    }

    /// A message as it goes over the wire: its envelope, and its content as one chunk.
    fn write(&mut self, number: u64, bytes: &mut Vec<u8>) {
        let mail = self.mail[number as usize];
        let (domain, size) = self.letters.get(&number).copied().unwrap_or((0, 256));
        let letter = Letter {
            provider: mail.provider as usize,
            domain: domain as usize,
            mailbox: mail.mailbox & ((1 << 40) - 1),
            size: u64::from(size),
        };
        let to = load::recipient(&self.scenario, &letter, number);
        let mut content = format!(
            "From: <news@sender.example>\r\nTo: <{to}>\r\nSubject: number {number}\r\n\
             Message-ID: <{number}@sender.example>\r\n\r\n"
        )
        .into_bytes();
        const LINE: &[u8] = b"The quick brown fox jumps over the lazy dog, and then again.\r\n";
        while content.len() < size as usize {
            let rest = size as usize - content.len();
            match rest < LINE.len() {
                true => content.resize(content.len() + rest, b'.'),
                false => content.extend_from_slice(LINE),
            }
        }
        let envelope = format!(
            "MAIL FROM:<news@sender.example>\r\nRCPT TO:<{to}>\r\nBDAT {} LAST\r\n",
            content.len()
        );
        bytes.extend_from_slice(envelope.as_bytes());
        bytes.extend_from_slice(&content);
    }

    pub fn client_reads(&mut self, shard: usize, bytes: &[u8]) {
        self.clients[shard].input.extend_from_slice(bytes);
        let input = core::mem::take(&mut self.clients[shard].input);
        let mut rest = &input[..];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, others) = rest.split_at(end + 1);
            rest = others;
            if line.get(3) != Some(&b'-') {
                self.client_hears(shard, line.first() == Some(&b'2'));
            }
        }
        self.clients[shard].input = rest.to_vec();
        let client = &self.clients[shard];
        if client.expects.is_empty() && !client.resting {
            self.client_goes_on(shard);
        }
    }

    fn client_hears(&mut self, shard: usize, good: bool) {
        let client = &mut self.clients[shard];
        let expected = client.expects.pop_front();
        if expected == Some(Expect::Banner) && good {
            client.expects.push_back(Expect::Hello);
            let Some(end) = client.conn else {
                return;
            };
            let bytes = b"EHLO client.example\r\n".to_vec();
            let ends = false;
            return self.plan(30, Event::ToEngine { end, bytes, ends });
        }
        if expected != Some(Expect::Final) {
            return;
        }
        let Some(number) = client.sent.pop_front() else {
            return;
        };
        if good {
            self.letters.swap_remove(&number);
            return;
        }
        client.waiting.push_back(number);
        if !core::mem::replace(&mut client.resting, true) {
            self.plan(REST_US, Event::Client(shard));
        }
        self.refused_at_injection += 1;
    }

    /// What was under way is handed over again, on another connection.
    pub fn client_closed(&mut self, shard: usize) {
        let client = &mut self.clients[shard];
        client.conn = None;
        client.expects.clear();
        client.held.clear();
        while let Some(number) = client.sent.pop_back() {
            client.waiting.push_front(number);
        }
        if !client.waiting.is_empty() && !core::mem::replace(&mut client.resting, true) {
            self.plan(REST_US, Event::Client(shard));
        }
    }
}
