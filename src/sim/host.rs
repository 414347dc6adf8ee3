//! Receiving hosts: an SMTP server of few words that takes mail, defers it, refuses it, or breaks
//! off at the worst moment, as its manners say. It is written from RFC 5321, 2920 and 3030, not
//! from the engine's client.

use core::net::IpAddr;
use std::collections::VecDeque;

use crate::base::prng::Prng;
use crate::base::time::Wall;
use crate::sim::counts::Check;
use crate::sim::counts::Fault;
use crate::sim::ledger::Ledger;
use crate::sim::ledger::Who;
use crate::sim::net::Receipt;
use crate::sim::scenario::HostPlan;
use crate::sim::scenario::Limits;
use crate::sim::scenario::Manners;
use crate::sim::scenario::SECOND;

/// Something to send, and what then.
pub struct Said {
    pub think_us: u64,
    pub bytes: Vec<u8>,
    pub receipt: Option<Receipt>,
    /// Nothing follows.
    pub ends: bool,
}

enum State {
    Command,
    Data,
    Chunk { left: usize, last: bool },
    Over,
}

/// One connection, as the host sees it.
pub struct HostSession {
    state: State,
    input: Vec<u8>,
    /// Up to here the input holds no end of data.
    searched: usize,
    /// Domain of the mail it gets, once known.
    pub domain: Option<usize>,
    source: IpAddr,
    greeted: bool,
    extended: bool,
    sender: Option<String>,
    has_sender: bool,
    recipients: Vec<Who>,
    body: Vec<u8>,
    messages: u64,
}

/// What a session may use while it acts.
pub struct Room<'a> {
    pub wall: Wall,
    pub conn: usize,
    pub plan: &'a HostPlan,
    pub manners: Manners,
    /// When the host took its last recipients.
    pub taken: &'a mut VecDeque<u64>,
    pub now_us: u64,
    pub limits: &'a Limits,
    pub converts: bool,
    pub prng: &'a mut Prng,
    pub ledger: &'a mut Ledger,
    pub is_live: &'a dyn Fn(usize) -> bool,
    pub said: &'a mut Vec<Said>,
    pub domain_of: &'a dyn Fn(&str) -> Option<usize>,
}

impl Room<'_> {
    fn draw(&mut self, parts: u64, fault: Fault) -> bool {
        let happens = self.prng.chance(parts, 1_000);
        if happens {
            self.ledger.counts.fault(fault);
        }
        happens
    }

    /// It has taken as much as it takes in ten seconds.
    fn is_over_rate(&mut self) -> bool {
        let most = self.manners.rate_max as usize;
        if most == 0 {
            return false;
        }
        while self
            .taken
            .front()
            .is_some_and(|it| it + 10 * SECOND <= self.now_us)
        {
            self.taken.pop_front();
        }
        let over = self.taken.len() >= most;
        match over {
            true => self.ledger.counts.fault(Fault::HostRate),
            false => self.taken.push_back(self.now_us),
        }
        over
    }

    fn say(&mut self, line: &str) {
        self.say_with(line, None, false);
    }

    fn say_with(&mut self, line: &str, receipt: Option<Receipt>, ends: bool) {
        let think_us = match self.manners.thinks_us {
            0 => 50,
            most => self.prng.below(most),
        };
        if think_us > 500_000 {
            self.ledger.counts.fault(Fault::HostSlow);
        }
        self.said.push(Said {
            think_us,
            bytes: format!("{line}\r\n").into_bytes(),
            receipt,
            ends,
        });
    }

    fn end(&mut self) {
        self.said.push(Said {
            think_us: 10,
            bytes: Vec::new(),
            receipt: None,
            ends: true,
        });
    }
}

impl HostSession {
    /// A connection is made; `others` are open beside it.
    pub fn open(source: IpAddr, others: u32, room: &mut Room<'_>) -> HostSession {
        let mut session = HostSession {
            state: State::Command,
            input: Vec::new(),
            searched: 0,
            domain: None,
            source,
            greeted: false,
            extended: false,
            sender: None,
            has_sender: false,
            recipients: Vec::new(),
            body: Vec::new(),
            messages: 0,
        };
        if others >= room.manners.connections_max || room.draw(room.manners.busy, Fault::HostBusy) {
            room.say_with("421 4.7.0 too many connections", None, true);
            session.state = State::Over;
        } else if room.draw(room.manners.refuses_session, Fault::HostRefusesSession) {
            room.say_with("554 5.7.1 no mail here", None, true);
            session.state = State::Over;
        } else if room.manners.hangs > 0 && room.draw(room.manners.hangs, Fault::HostHangs) {
            session.state = State::Over;
        } else {
            let name = room.plan.name.clone();
            room.say(&format!("220 {name} ESMTP"));
        }
        session
    }

    /// Takes bytes from the engine.
    pub fn receive(&mut self, bytes: &[u8], room: &mut Room<'_>) {
        self.input.extend_from_slice(bytes);
        loop {
            let goes_on = match self.state {
                State::Command => self.command(room),
                State::Data => self.data(room),
                State::Chunk { left, last } => self.chunk(left, last, room),
                State::Over => {
                    self.input.clear();
                    false
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    fn command(&mut self, room: &mut Room<'_>) -> bool {
        let Some(end) = memchr::memchr(b'\n', &self.input) else {
            return false;
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line).trim_end().to_string();
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => self.ehlo(room),
            "HELO" => {
                self.greeted = true;
                self.extended = false;
                room.say("250 hello");
            }
            "MAIL" => self.mail(rest, room),
            "RCPT" => self.rcpt(rest, room),
            "DATA" => self.begin_data(room),
            "BDAT" => self.begin_chunk(rest, room),
            "RSET" => {
                self.reset();
                room.say("250 2.0.0 reset");
            }
            "QUIT" => {
                room.say_with("221 2.0.0 bye", None, true);
                self.state = State::Over;
            }
            _ => room.say("500 5.5.1 what?"),
        }
        true
    }

    fn reset(&mut self) {
        self.has_sender = false;
        self.sender = None;
        self.recipients.clear();
        self.body.clear();
    }

    fn ehlo(&mut self, room: &mut Room<'_>) {
        if room.draw(room.manners.without_ehlo, Fault::HostWithoutEhlo) {
            return room.say("502 5.5.1 not here");
        }
        self.greeted = true;
        self.extended = true;
        let mut lines = vec![room.plan.name.clone()];
        for (offered, line) in [
            (room.plan.pipelining, "PIPELINING"),
            (room.plan.chunking, "CHUNKING"),
            (room.plan.size, "SIZE 100000"),
            (room.plan.eight_bit, "8BITMIME"),
        ] {
            lines.extend(offered.then(|| line.to_string()));
        }
        let last = lines.len() - 1;
        let reply: Vec<String> = lines
            .iter()
            .enumerate()
            .map(|(at, line)| format!("250{}{line}", if at == last { ' ' } else { '-' }))
            .collect();
        room.say(&reply.join("\r\n"));
    }

    /// Any command may meet a host that has had enough.
    fn busy(&mut self, room: &mut Room<'_>) -> bool {
        let busy = room.draw(room.manners.busy / 8, Fault::HostBusy);
        if busy {
            room.say_with("421 4.3.2 shutting down", None, true);
            self.state = State::Over;
        }
        busy
    }

    fn mail(&mut self, rest: &str, room: &mut Room<'_>) {
        if self.busy(room) {
            return;
        }
        let greeted = self.greeted;
        room.ledger.check(Check::BatchLimit, greeted, || {
            "MAIL before EHLO".to_string()
        });
        self.reset();
        if room.draw(room.manners.defers / 8, Fault::HostDefers) {
            return room.say("451 4.3.0 later");
        }
        let sender = address(rest).unwrap_or_default();
        let is_ours = sender.is_empty() || sender.ends_with("@sender.example");
        room.ledger
            .check(Check::EventIsTrue, is_ours, || format!("sender {sender}"));
        self.sender = Some(sender);
        self.has_sender = true;
        room.say("250 2.1.0 fine");
    }

    fn rcpt(&mut self, rest: &str, room: &mut Room<'_>) {
        if self.busy(room) {
            return;
        }
        let to = address(rest).unwrap_or_default();
        let Some(who) = Who::parse(&to) else {
            return room.say("550 5.1.1 nobody of that name");
        };
        room.ledger.attempted(who, room.wall);
        let answer = |line: &str, room: &mut Room<'_>| {
            room.say_with(line, Some(Receipt::Answered(who)), false);
        };
        if !self.has_sender {
            return answer("503 5.5.1 MAIL first", room);
        }
        self.note_domain(&to, room);
        if room.draw(room.manners.rejects, Fault::HostRejects) {
            self.reject(&[who], room);
            return answer("550 5.1.1 nobody of that name", room);
        }
        if room.manners.greylists && room.ledger.is_first_attempt(who) {
            room.ledger.counts.fault(Fault::HostGreylists);
            return answer("451 4.7.1 greylisted", room);
        }
        if room.draw(room.manners.defers, Fault::HostDefers) {
            return answer("450 4.2.0 mailbox busy", room);
        }
        if room.is_over_rate() {
            return answer("451 4.7.1 rate limit exceeded", room);
        }
        self.recipients.push(who);
        let (count, most) = (
            self.recipients.len() as u64,
            room.limits.recipients_per_batch,
        );
        room.ledger.check(Check::BatchLimit, count <= most, || {
            format!("{count} recipients in a transaction, {most} are the limit")
        });
        answer("250 2.1.5 fine", room);
    }

    /// A connection belongs to one queue, and so to one domain and one source address.
    fn note_domain(&mut self, to: &str, room: &mut Room<'_>) {
        let domain = to.split_once('@').map_or("", |(_, domain)| domain);
        let domain = (room.domain_of)(domain);
        let passes = room.limits.migrates;
        let same = passes || self.domain.is_none() || self.domain == domain;
        let source = self.source;
        room.ledger.check(Check::SourceAddress, same, || {
            format!("{to} comes from {source} beside mail of another domain")
        });
        self.domain = domain;
    }

    fn reject(&mut self, all: &[Who], room: &mut Room<'_>) {
        for who in all {
            if let Some(it) = room.ledger.recipient(*who) {
                it.rejected = true;
            }
        }
    }

    fn begin_data(&mut self, room: &mut Room<'_>) {
        if self.busy(room) {
            return;
        }
        if self.recipients.is_empty() {
            return room.say("554 5.5.1 no recipients");
        }
        if room.draw(room.manners.defers / 8, Fault::HostDefers) {
            return room.say("451 4.3.0 not now");
        }
        self.state = State::Data;
        self.searched = 0;
        room.say("354 go ahead");
    }

    fn data(&mut self, room: &mut Room<'_>) -> bool {
        if self.closes_in_data(room) {
            return false;
        }
        let end = match self.input.starts_with(b".\r\n") {
            true => Some(0),
            false => memchr::memmem::find(&self.input[self.searched..], b"\r\n.\r\n")
                .map(|at| self.searched + at + 2),
        };
        let Some(end) = end else {
            self.searched = self.input.len().saturating_sub(4);
            return false;
        };
        let raw: Vec<u8> = self.input.drain(..end + 3).collect();
        self.body = unstuffed(&raw[..end]);
        self.finish(room);
        true
    }

    fn closes_in_data(&mut self, room: &mut Room<'_>) -> bool {
        let closes = room.draw(room.manners.closes_in_data / 4, Fault::HostClosesInData);
        if closes {
            room.end();
            self.state = State::Over;
        }
        closes
    }

    fn begin_chunk(&mut self, rest: &str, room: &mut Room<'_>) {
        let mut words = rest.split_whitespace();
        let left = words.next().and_then(|count| count.parse().ok());
        let Some(left) = left else {
            return room.say("501 5.5.4 how many?");
        };
        let last = words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        self.state = State::Chunk { left, last };
    }

    fn chunk(&mut self, left: usize, last: bool, room: &mut Room<'_>) -> bool {
        if left > 0 {
            if self.input.is_empty() {
                return false;
            }
            let count = left.min(self.input.len());
            self.body.extend(self.input.drain(..count));
            self.state = State::Chunk {
                left: left - count,
                last,
            };
            return !self.closes_in_data(room);
        }
        self.state = State::Command;
        if self.recipients.is_empty() {
            self.reset();
            room.say("503 5.5.1 no recipients");
        } else if last {
            self.finish(room);
        } else {
            room.say("250 2.0.0 more");
        }
        true
    }

    /// The message is there, whole.
    fn finish(&mut self, room: &mut Room<'_>) {
        self.state = State::Command;
        let recipients = core::mem::take(&mut self.recipients);
        let body = core::mem::take(&mut self.body);
        self.has_sender = false;
        if room.draw(room.manners.defers / 4, Fault::HostDefers) {
            return room.say("451 4.3.0 queue full");
        }
        if room.draw(room.manners.rejects / 4, Fault::HostRejects) {
            self.reject(&recipients, room);
            return room.say("554 5.7.1 content refused");
        }
        self.check_body(&recipients, &body, room);
        let receipt = room.ledger.delivered(room.conn, &recipients, room.is_live);
        self.messages += 1;
        let (count, most) = (self.messages, room.limits.deliveries_per_connection);
        room.ledger
            .check(Check::BatchLimit, most == 0 || count <= most, || {
                format!("message {count} of a connection, {most} are the limit")
            });
        if room.draw(room.manners.drops_reply, Fault::HostDropsReply) {
            room.ledger.receipt_lost(receipt);
            room.end();
            self.state = State::Over;
            return;
        }
        let receipt = Receipt::Delivered(receipt);
        room.say_with("250 2.0.0 taken", Some(receipt), false);
    }

    fn check_body(&self, recipients: &[Who], body: &[u8], room: &mut Room<'_>) {
        let Some(first) = recipients.first() else {
            return;
        };
        let message = first.message;
        let one = recipients.iter().all(|who| who.message == message);
        room.ledger.check(Check::BodyDelivered, one, || {
            format!("recipients of several messages in one transaction: {recipients:?}")
        });
        let (sender, eight_bit) = match room.ledger.messages.get(message) {
            Some(it) => (it.sender.clone(), it.eight_bit),
            None => return,
        };
        let said = self.sender.clone().unwrap_or_default();
        room.ledger.check(Check::BodyDelivered, sender == said, || {
            format!("message {message} of {sender} comes from {said}")
        });
        let converted = eight_bit && room.converts && !(self.extended && room.plan.eight_bit);
        if !converted {
            room.ledger.check_body(Check::BodyDelivered, message, body);
        }
    }

    pub fn source(&self) -> IpAddr {
        self.source
    }
}

/// What stands between the angle brackets of a path.
fn address(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('<')?;
    let (address, _) = rest.split_once('>')?;
    Some(address.to_string())
}

/// Takes the transparency dots away.
fn unstuffed(raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(raw.len());
    let mut rest = raw.strip_prefix(b".").unwrap_or(raw);
    while let Some(at) = memchr::memmem::find(rest, b"\r\n.") {
        body.extend_from_slice(&rest[..at + 2]);
        rest = &rest[at + 3..];
    }
    body.extend_from_slice(rest);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_dots_are_taken_away() {
        for (raw, body) in [
            ("a\r\n..b\r\n", "a\r\n.b\r\n"),
            ("..a\r\n", ".a\r\n"),
            ("a.b\r\n", "a.b\r\n"),
            ("a\r\n..\r\n..\r\n", "a\r\n.\r\n.\r\n"),
        ] {
            assert_eq!(unstuffed(raw.as_bytes()), body.as_bytes(), "{raw:?}");
        }
    }

    #[test]
    fn addresses_stand_in_brackets() {
        assert_eq!(
            address("TO:<r1.m2@d3.example> X=1").as_deref(),
            Some("r1.m2@d3.example")
        );
        assert_eq!(address("FROM:<> SIZE=1").as_deref(), Some(""));
        assert_eq!(address("TO:nobody"), None);
    }
}
