//! Who hands the mail over: for each shard one client of every sender, on the same machine, which
//! sends some messages at a time without waiting and takes them back where they are not taken.

use core::net::IpAddr;
use core::net::Ipv4Addr;
use core::net::SocketAddr;
use std::collections::VecDeque;

use crate::base::slab::Key;
use crate::practice::SECOND;
use crate::practice::load;
use crate::practice::load::Letter;
use crate::practice::report::Mail;
use crate::sim::practice::seen::Seen;
use crate::sim::practice::wire::Peer;
use crate::sim::practice::world::Event;
use crate::sim::practice::world::World;

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2_525);
const PEER_PORT: u16 = 40_000;

/// The address that the clients of a sender come from.
pub fn sender_address(sender: usize) -> IpAddr {
    Ipv4Addr::new(127, 0, 9, 1 + sender as u8).into()
}

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
    /// The clients of a sender follow each other, one for each shard.
    fn shard_of(&self, client: usize) -> usize {
        client % self.engines.len()
    }

    /// A message for one of the clients, which hands it over when it next goes on.
    pub fn give(&mut self, client: usize, letter: &Letter) {
        let number = self.mail.len() as u64;
        self.mail.push(Mail {
            provider: letter.provider as u32,
            mailbox: ((letter.domain as u64) << 40) ^ letter.mailbox,
            at_us: self.now_us,
            ended: None,
        });
        let what = (letter.domain as u32, letter.size as u32);
        self.letters.insert(number, what);
        self.internet.arrived(letter.provider, self.now_us);
        self.clients[client].waiting.push_back(number);
    }

    /// A client connects, or sends what it has, unless it waits for answers.
    pub fn client_goes_on(&mut self, client: usize) {
        let it = &mut self.clients[client];
        it.resting = false;
        if it.waiting.is_empty() || !it.expects.is_empty() {
            return;
        }
        let Some(end) = it.conn else {
            return self.client_connects(client);
        };
        let mut bytes = Vec::new();
        while let Some(number) = self.clients[client].waiting.pop_front() {
            self.write(number, &mut bytes);
            let it = &mut self.clients[client];
            it.expects
                .extend([Expect::Envelope, Expect::Envelope, Expect::Final]);
            it.sent.push_back(number);
            if it.sent.len() == TOGETHER_MAX {
                break;
            }
        }
        let ends = false;
        self.plan(30, Event::ToEngine { end, bytes, ends });
    }

    fn client_connects(&mut self, client: usize) {
        let (now, shard) = (self.now(), self.shard_of(client));
        let address = sender_address(client / self.engines.len());
        let peer = SocketAddr::new(address, PEER_PORT);
        let id = self.engines[shard].accept(now, 0, peer, LISTEN, &mut self.outbox);
        let end = self.connect(shard, id, Peer::Client(client));
        let it = &mut self.clients[client];
        it.conn = Some(end);
        it.expects = VecDeque::from([Expect::Banner]);
        it.input.clear();
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

    pub fn client_reads(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].input.extend_from_slice(bytes);
        let input = core::mem::take(&mut self.clients[client].input);
        let mut rest = &input[..];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, others) = rest.split_at(end + 1);
            rest = others;
            if line.get(3) != Some(&b'-') {
                self.client_hears(client, line.first() == Some(&b'2'));
            }
        }
        self.clients[client].input = rest.to_vec();
        let it = &self.clients[client];
        if it.expects.is_empty() && !it.resting {
            self.client_goes_on(client);
        }
    }

    fn client_hears(&mut self, client: usize, good: bool) {
        let it = &mut self.clients[client];
        let expected = it.expects.pop_front();
        if expected == Some(Expect::Banner) && good {
            it.expects.push_back(Expect::Hello);
            let Some(end) = it.conn else {
                return;
            };
            let bytes = b"EHLO client.example\r\n".to_vec();
            let ends = false;
            return self.plan(30, Event::ToEngine { end, bytes, ends });
        }
        if expected != Some(Expect::Final) {
            return;
        }
        let Some(number) = it.sent.pop_front() else {
            return;
        };
        if good {
            self.letters.swap_remove(&number);
            self.see(Seen::Accepted { number });
            return;
        }
        it.waiting.push_back(number);
        if !core::mem::replace(&mut it.resting, true) {
            self.plan(REST_US, Event::Client(client));
        }
        self.refused_at_injection += 1;
    }

    /// What was under way is handed over again, on another connection.
    pub fn client_closed(&mut self, client: usize) {
        let it = &mut self.clients[client];
        it.conn = None;
        it.expects.clear();
        it.held.clear();
        while let Some(number) = it.sent.pop_back() {
            it.waiting.push_front(number);
        }
        if !it.waiting.is_empty() && !core::mem::replace(&mut it.resting, true) {
            self.plan(REST_US, Event::Client(client));
        }
    }
}
