//! Clients that hand over mail: in lock step or pipelined, by DATA or by BDAT, one message or
//! several at once; in a hurry, slowly, or gone in the middle; and some that send nonsense. They
//! tell the ledger what was answered, and hand over again what was not taken.

use std::collections::VecDeque;

use crate::base::prng::Prng;
use crate::sim::counts::Fault;
use crate::sim::ledger::Ledger;
use crate::sim::ledger::Standing;
use crate::sim::mail;

/// What a client wants done to its connection.
pub enum Deed {
    Send {
        after_us: u64,
        bytes: Vec<u8>,
    },
    /// Sends nothing more.
    End,
    /// Is gone, with all that was under way.
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    LockStep,
    Pipelined,
    Chunks,
    /// Several messages in one write, each one chunk.
    Group,
    Nonsense,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    Banner,
    Hello,
    Mail,
    Rcpt(usize),
    Data,
    Chunk,
    Final,
    Any,
    Bye,
}

/// Bytes to be sent together, and the replies that they bring.
struct Part {
    bytes: Vec<u8>,
    expects: Vec<Expect>,
    /// After this the message is there whole.
    completes: bool,
}

/// A message whose final reply is awaited.
struct Sending {
    message: usize,
    taken: Vec<usize>,
    is_whole: bool,
}

pub struct Client {
    number: usize,
    /// Its connection, while it has one.
    pub conn: Option<usize>,
    style: Style,
    slow: bool,
    input: Vec<u8>,
    expects: VecDeque<Expect>,
    parts: VecDeque<Part>,
    sending: VecDeque<Sending>,
    messages_left: u64,
    quitting: bool,
    /// The greeting has come.
    pub greeted: bool,
    prng: Prng,
}

/// What a client shares with the others.
pub struct Desk<'a> {
    pub ledger: &'a mut Ledger,
    /// Messages to be handed over.
    pub work: &'a mut VecDeque<usize>,
    pub mail: &'a mut mail::Writer,
    pub unruly: bool,
    pub deeds: Vec<Deed>,
}

impl Client {
    pub fn new(seed: u64, number: usize) -> Client {
        Client {
            number,
            conn: None,
            style: Style::LockStep,
            slow: false,
            input: Vec::new(),
            expects: VecDeque::new(),
            parts: VecDeque::new(),
            sending: VecDeque::new(),
            messages_left: 0,
            quitting: false,
            greeted: false,
            prng: Prng::stream(seed.wrapping_add(number as u64), "client"),
        }
    }

    /// Nothing of it is on its way.
    pub fn is_quiet(&self) -> bool {
        self.sending.is_empty()
    }

    /// How long until it connects again, microseconds.
    pub fn pause_us(&mut self) -> u64 {
        match self.prng.chance(1, 6) {
            true => self.prng.between(1_000_000, 8_000_000),
            false => self.prng.between(10_000, 2_000_000),
        }
    }

    /// Its connection is made.
    pub fn connected(&mut self, conn: usize, desk: &mut Desk<'_>) {
        self.conn = Some(conn);
        self.input.clear();
        self.expects = VecDeque::from([Expect::Banner]);
        self.parts.clear();
        self.quitting = false;
        self.greeted = false;
        self.messages_left = self.prng.between(1, 8);
        self.style = match self.prng.below(9) {
            0 | 1 => Style::LockStep,
            2..=4 => Style::Pipelined,
            5 | 6 => Style::Chunks,
            7 => Style::Group,
            _ if desk.unruly => Style::Nonsense,
            _ => Style::Pipelined,
        };
        self.slow = desk.unruly && self.prng.chance(1, 12);
    }

    /// Takes bytes from the engine.
    pub fn receive(&mut self, bytes: &[u8], desk: &mut Desk<'_>) {
        self.input.extend_from_slice(bytes);
        while let Some(end) = memchr::memchr(b'\n', &self.input) {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_string();
            let code = line.get(..3).and_then(|code| code.parse().ok());
            if line.as_bytes().get(3) != Some(&b'-') {
                self.replied(code.unwrap_or(0), &line, desk);
            }
        }
        if self.conn.is_some() && self.expects.is_empty() {
            self.go_on(desk);
        }
    }

    fn replied(&mut self, code: u16, line: &str, desk: &mut Desk<'_>) {
        if code == 421 {
            // Nothing that follows is answered; the end of the connection settles the rest.
            self.parts.clear();
            self.expects = VecDeque::from([Expect::Any]);
            return;
        }
        let good = (200..400).contains(&code);
        match self.expects.pop_front() {
            Some(Expect::Banner) if code == 220 => {
                self.greeted = true;
                self.hello(desk);
            }
            Some(Expect::Banner | Expect::Bye) | None => self.end(desk),
            Some(Expect::Hello | Expect::Any) => {}
            Some(Expect::Mail) if !good => self.refused(desk),
            Some(Expect::Rcpt(recipient)) if good => {
                if let Some(sending) = self.sending.front_mut() {
                    sending.taken.push(recipient);
                }
            }
            Some(Expect::Data) if code != 354 => self.refused(desk),
            Some(Expect::Final) => self.answered(code, line, desk),
            Some(Expect::Mail | Expect::Rcpt(_) | Expect::Data | Expect::Chunk) => {}
        }
    }

    fn hello(&mut self, desk: &mut Desk<'_>) {
        if self.style == Style::Nonsense {
            return self.nonsense(desk);
        }
        let bytes = format!("EHLO client{}.example\r\n", self.number).into_bytes();
        self.send(bytes, desk);
        self.expects.push_back(Expect::Hello);
    }

    /// The front message was refused before its content: in a pipeline the rest of its replies
    /// still comes, otherwise the next one begins afresh.
    fn refused(&mut self, desk: &mut Desk<'_>) {
        if self.style == Style::Group || self.style == Style::Chunks {
            return;
        }
        let is_mail = self
            .expects
            .iter()
            .any(|it| matches!(it, Expect::Data | Expect::Final));
        if is_mail {
            // The refusals of what was sent with it follow; the one of DATA comes last.
            return;
        }
        self.parts.clear();
        if let Some(sending) = self.sending.pop_front() {
            desk.work.push_back(sending.message);
        }
        self.parts.push_back(Part {
            bytes: b"RSET\r\n".to_vec(),
            expects: vec![Expect::Any],
            completes: false,
        });
    }

    fn answered(&mut self, code: u16, line: &str, desk: &mut Desk<'_>) {
        let Some(sending) = self.sending.pop_front() else {
            return;
        };
        let message = sending.message;
        let batch = line.rsplit(' ').next().and_then(|id| id.parse().ok());
        match batch {
            Some(batch) if code == 250 => {
                desk.ledger.accepted(message, &sending.taken, batch);
                desk.ledger.counts.messages += 1;
            }
            _ => {
                let in_trouble = desk.ledger.lives.had_trouble();
                desk.ledger.messages[message].standing = Standing::Refused { in_trouble };
                let again = desk.mail.write(desk.ledger);
                desk.work.push_back(again);
            }
        }
    }

    /// All that was sent has been answered.
    fn go_on(&mut self, desk: &mut Desk<'_>) {
        if self.style == Style::Nonsense {
            return self.end(desk);
        }
        let no_taker = self
            .sending
            .front()
            .is_some_and(|it| it.taken.is_empty() && !it.is_whole);
        let asks_for_data = |part: &Part| part.expects.first() == Some(&Expect::Data);
        if no_taker && self.parts.front().is_some_and(asks_for_data) {
            self.refused(desk);
        }
        if let Some(part) = self.parts.pop_front() {
            return self.send_part(part, desk);
        }
        if self.messages_left == 0 || desk.work.is_empty() {
            if !self.quitting {
                self.quitting = true;
                self.send(b"QUIT\r\n".to_vec(), desk);
                self.expects.push_back(Expect::Bye);
            }
            return;
        }
        self.messages_left -= 1;
        self.begin(desk);
        if let Some(part) = self.parts.pop_front() {
            self.send_part(part, desk);
        }
    }

    /// Takes the next message, or several, and makes parts of it.
    fn begin(&mut self, desk: &mut Desk<'_>) {
        if self.prng.chance(1, 12) {
            let idle: &[&[u8]] = &[b"NOOP\r\n", b"VRFY x\r\n", b"HELP\r\n", b"RSET\r\n"];
            let line: &&[u8] = self.prng.pick(idle);
            let bytes = line.to_vec();
            self.push_part(bytes, vec![Expect::Any], false);
        }
        let count = match self.style {
            Style::Group => self.prng.between(2, 5),
            _ => 1,
        };
        let mut group: Option<Part> = None;
        for _ in 0..count {
            let Some(message) = desk.work.pop_front() else {
                break;
            };
            desk.ledger.offered(message);
            self.sending.push_back(Sending {
                message,
                taken: Vec::new(),
                is_whole: false,
            });
            let made = self.parts_of(message, &desk.ledger.messages[message]);
            if self.style != Style::Group {
                self.parts.extend(made);
                continue;
            }
            for part in made {
                match &mut group {
                    Some(group) => {
                        group.bytes.extend(part.bytes);
                        group.expects.extend(part.expects);
                    }
                    None => group = Some(part),
                }
            }
        }
        self.parts.extend(group);
    }

    fn push_part(&mut self, bytes: Vec<u8>, expects: Vec<Expect>, completes: bool) {
        self.parts.push_back(Part {
            bytes,
            expects,
            completes,
        });
    }

    fn parts_of(&mut self, number: usize, message: &crate::sim::ledger::Message) -> Vec<Part> {
        let extra = if message.eight_bit {
            " BODY=8BITMIME"
        } else {
            ""
        };
        let mut lines = vec![(
            format!("MAIL FROM:<{}>{extra}\r\n", message.sender),
            Expect::Mail,
        )];
        for (index, recipient) in message.recipients.iter().enumerate() {
            let line = format!("RCPT TO:<{}>\r\n", recipient.address);
            lines.push((line, Expect::Rcpt(index)));
        }
        let part = |bytes, expects, completes| Part {
            bytes,
            expects,
            completes,
        };
        let envelope = |lines: Vec<(String, Expect)>| {
            let bytes: Vec<u8> = lines.iter().flat_map(|(line, _)| line.bytes()).collect();
            let expects: Vec<Expect> = lines.iter().map(|(_, expect)| *expect).collect();
            (bytes, expects)
        };
        let (fields, _) = mail::flow(number);
        let content = &[fields.as_bytes(), &message.content].concat();
        match self.style {
            Style::LockStep | Style::Nonsense => {
                lines.push(("DATA\r\n".to_string(), Expect::Data));
                let each = lines
                    .into_iter()
                    .map(|(line, expect)| part(line.into_bytes(), vec![expect], false));
                each.chain([part(stuffed(content), vec![Expect::Final], true)])
                    .collect()
            }
            Style::Pipelined => {
                lines.push(("DATA\r\n".to_string(), Expect::Data));
                let (bytes, expects) = envelope(lines);
                vec![
                    part(bytes, expects, false),
                    part(stuffed(content), vec![Expect::Final], true),
                ]
            }
            Style::Chunks | Style::Group => {
                let (mut bytes, mut expects) = envelope(lines);
                let cut = match self.prng.chance(1, 2) {
                    true => self.prng.below(content.len() as u64) as usize,
                    false => 0,
                };
                if cut > 0 {
                    bytes.extend(format!("BDAT {cut}\r\n").bytes());
                    bytes.extend(&content[..cut]);
                    expects.push(Expect::Chunk);
                }
                bytes.extend(format!("BDAT {} LAST\r\n", content.len() - cut).bytes());
                bytes.extend(&content[cut..]);
                expects.push(Expect::Final);
                vec![part(bytes, expects, true)]
            }
        }
    }

    fn send_part(&mut self, part: Part, desk: &mut Desk<'_>) {
        self.expects.extend(&part.expects);
        if desk.unruly && self.prng.chance(1, 60) {
            return self.vanish(&part, desk);
        }
        self.hand_over(&part, desk);
        let is_last = part.completes && self.messages_left == 0;
        self.send(part.bytes, desk);
        if is_last && desk.unruly && self.prng.chance(1, 8) {
            desk.ledger.counts.fault(Fault::HalfClose);
            desk.deeds.push(Deed::End);
        }
    }

    /// From now on the engine may have the message whole.
    fn hand_over(&mut self, part: &Part, desk: &mut Desk<'_>) {
        for sending in self.sending.iter_mut().filter(|_| part.completes) {
            sending.is_whole = true;
            desk.ledger.messages[sending.message].standing = Standing::Unknown;
        }
    }

    /// Gone in the middle of what it was about to say.
    fn vanish(&mut self, part: &Part, desk: &mut Desk<'_>) {
        desk.ledger.counts.fault(Fault::ClientGone);
        let sent = self.prng.below(part.bytes.len() as u64 + 1) as usize;
        // A group may have brought whole messages before the cut.
        self.hand_over(part, desk);
        self.send(part.bytes[..sent].to_vec(), desk);
        desk.deeds.push(match self.prng.chance(1, 2) {
            true => Deed::End,
            false => Deed::Reset,
        });
    }

    fn send(&mut self, bytes: Vec<u8>, desk: &mut Desk<'_>) {
        if !self.slow || bytes.len() < 2 {
            return desk.deeds.push(Deed::Send { after_us: 0, bytes });
        }
        desk.ledger.counts.fault(Fault::ClientSlow);
        let pieces = self.prng.between(2, 6) as usize;
        let mut after_us = 0;
        for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
            desk.deeds.push(Deed::Send {
                after_us,
                bytes: piece.to_vec(),
            });
            after_us += self.prng.between(10_000, 6_000_000);
        }
    }

    fn nonsense(&mut self, desk: &mut Desk<'_>) {
        desk.ledger.counts.fault(Fault::ClientNonsense);
        let lines: &[&[u8]] = &[
            b"HELO\r\n",
            b"EHLO x.example\r\n",
            b"MAIL FROM:<a@b@c>\r\n",
            b"MAIL FROM:<a@sender.example> SIZE=99999999\r\n",
            b"MAIL FROM:<a@sender.example>\r\n",
            b"RCPT TO:<\"@\r\n",
            b"RCPT TO:<@a,@b:c@d>\r\n",
            b"DATA\n",
            b"BDAT 99999999999999999999 LAST\r\n",
            b"BDAT 5\r\nRSET\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            b"GET / HTTP/1.1\r\n",
            b"\r\n.\r\n",
            b"\xff\xfe\x00\r\n",
            b"RSET\r\n",
        ];
        let mut bytes = Vec::new();
        for _ in 0..self.prng.between(1, 12) {
            let line: &&[u8] = self.prng.pick(lines);
            bytes.extend_from_slice(line);
        }
        if self.prng.chance(1, 8) {
            bytes.extend(core::iter::repeat_n(b'x', 5_000));
        }
        self.send(bytes, desk);
        self.expects = (0..16).map(|_| Expect::Any).collect();
        if self.prng.chance(1, 2) {
            desk.deeds.push(Deed::End);
        }
    }

    fn end(&mut self, desk: &mut Desk<'_>) {
        desk.deeds.push(Deed::End);
    }

    /// The connection is over. What was handed over whole may have been taken; the rest was not.
    pub fn closed(&mut self, desk: &mut Desk<'_>) {
        self.conn = None;
        self.greeted = false;
        self.parts.clear();
        self.expects.clear();
        for sending in core::mem::take(&mut self.sending) {
            if !sending.is_whole {
                desk.work.push_back(sending.message);
                continue;
            }
            let again = desk.mail.write(desk.ledger);
            desk.work.push_back(again);
        }
    }
}

/// Content as it goes after DATA, with transparency dots and the end.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 16);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b".\r\n");
    out
}
