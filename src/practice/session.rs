//! One connection as a receiver sees it: SMTP with PIPELINING and CHUNKING, written from RFC 5321,
//! 2920 and 3030. Bytes in, replies out, each with the time that it takes.

use core::net::IpAddr;

use crate::practice::internet::Attempt;
use crate::practice::internet::Internet;
use crate::practice::load;

/// Bytes of a command line; twelve times what RFC 5321 4.5.3.1.4 asks for.
const LINE_BYTES_MAX: usize = 6_144;

/// Recipients of one transaction (RFC 5321 4.5.3.1.8 asks for 100).
const RECIPIENTS_MAX: u32 = 1_000;

/// Who greets, before anybody knows who is meant.
const ANYBODY: &str = "practice.example";

/// Something to say, and how long it takes after what was said before.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    pub thinks_us: u64,
    pub bytes: Vec<u8>,
    /// Numbers of the messages that this reply takes.
    pub taken: Vec<u64>,
    /// Messages that it takes, and their recipients.
    pub messages: u32,
    pub recipients: u32,
    /// Of their content, as it came, without the last dot.
    pub content_bytes: u64,
    pub by_chunks: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Command,
    /// Content; some of it may have gone by already.
    Data {
        begun: bool,
    },
    Chunk {
        left: usize,
        last: bool,
    },
    Over,
}

/// See the module's head.
pub struct Session {
    /// Nothing before a recipient tells, where the address does not.
    provider: Option<usize>,
    source: IpAddr,
    state: State,
    /// Input that is not whole yet.
    held: Vec<u8>,
    /// It was let in.
    inside: bool,
    greeted: bool,
    sender: Option<Vec<u8>>,
    recipients: u32,
    /// Numbers of the recipients, where they have one.
    numbers: Vec<u64>,
    /// Messages taken.
    messages: u32,
    /// Of the content so far.
    content_bytes: u64,
    by_chunks: bool,
}

impl Session {
    /// A connection was made: what the receiver says first.
    pub fn open(
        internet: &mut Internet,
        provider: Option<usize>,
        source: IpAddr,
        now_us: u64,
        said: &mut Vec<Said>,
    ) -> Session {
        let mut session = Session {
            provider,
            source,
            state: State::Command,
            held: Vec::new(),
            inside: false,
            greeted: false,
            sender: None,
            recipients: 0,
            numbers: Vec::new(),
            messages: 0,
            content_bytes: 0,
            by_chunks: false,
        };
        let Some(provider) = provider else {
            say(said, &["220 ", ANYBODY, " ESMTP"]);
            return session;
        };
        match internet.connect(provider, source, now_us) {
            Ok(()) => {
                session.inside = true;
                let host = session.host(internet);
                say(said, &["220 ", host, " ESMTP"]);
            }
            Err(refusal) => {
                say(said, &[refusal.reply]);
                session.state = State::Over;
            }
        }
        session
    }

    fn host<'a>(&self, internet: &'a Internet) -> &'a str {
        let provider = self.provider.map(|it| &internet.scenario().providers[it]);
        provider.map_or(ANYBODY, |it| &it.hosts[0])
    }

    /// Nothing more is said, and nothing more is read.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// The connection has ended. To be called once.
    pub fn close(self, internet: &mut Internet) {
        if let Some(provider) = self.provider.filter(|_| self.inside) {
            internet.disconnect(provider, self.source);
        }
    }

    pub fn receive(
        &mut self,
        internet: &mut Internet,
        bytes: &[u8],
        now_us: u64,
        said: &mut Vec<Said>,
    ) {
        if self.held.is_empty() {
            let used = self.advance(internet, bytes, now_us, said);
            self.held.extend_from_slice(&bytes[used..]);
            return;
        }
        let mut held = core::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let used = self.advance(internet, &held, now_us, said);
        held.drain(..used);
        self.held = held;
    }

    /// Deals with what is whole; tells how much that was.
    fn advance(
        &mut self,
        internet: &mut Internet,
        input: &[u8],
        now_us: u64,
        said: &mut Vec<Said>,
    ) -> usize {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            match self.state {
                State::Over => return input.len(),
                State::Command => match memchr::memchr(b'\n', rest) {
                    Some(end) if end < LINE_BYTES_MAX => {
                        used += end + 1;
                        self.line(internet, rest[..end].trim_ascii_end(), now_us, said);
                    }
                    None if rest.len() < LINE_BYTES_MAX => return used,
                    _ => {
                        say(said, &["500 5.5.2 Line too long"]);
                        self.state = State::Over;
                    }
                },
                State::Data { begun } => {
                    let Some(end) = end_of_data(rest, begun) else {
                        let kept = rest.len().min(END_OF_DATA.len() - 1);
                        if rest.len() > kept {
                            self.state = State::Data { begun: true };
                        }
                        self.content_bytes += (rest.len() - kept) as u64;
                        return input.len() - kept;
                    };
                    used += end;
                    self.state = State::Command;
                    // The dot and its line end.
                    self.content_bytes += end as u64 - 3;
                    self.whole(internet, now_us, said);
                }
                State::Chunk { left, last } => {
                    let taken = left.min(rest.len());
                    used += taken;
                    self.content_bytes += taken as u64;
                    self.by_chunks = true;
                    if taken < left {
                        let left = left - taken;
                        self.state = State::Chunk { left, last };
                        return used;
                    }
                    self.state = State::Command;
                    self.chunk(internet, last, now_us, said);
                }
            }
        }
    }

    fn line(&mut self, internet: &mut Internet, line: &[u8], now_us: u64, said: &mut Vec<Said>) {
        let verb_end = line
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(line.len());
        let (verb, rest) = line.split_at(verb_end);
        let rest = rest.trim_ascii();
        let is = |name: &[u8]| verb.eq_ignore_ascii_case(name);
        if is(b"RCPT") {
            self.rcpt(internet, rest, now_us, said);
        } else if is(b"MAIL") {
            self.mail(rest, said);
        } else if is(b"BDAT") {
            self.bdat(rest, said);
        } else if is(b"DATA") {
            match self.recipients {
                0 => say(said, &["503 5.5.1 No valid recipients"]),
                _ => {
                    say(said, &["354 Go ahead"]);
                    self.state = State::Data { begun: false };
                }
            }
        } else if is(b"EHLO") {
            self.reset();
            self.greeted = true;
            let host = self.host(internet);
            let keywords = [
                "250-PIPELINING",
                "250-CHUNKING",
                "250-8BITMIME",
                "250-SMTPUTF8",
                "250-ENHANCEDSTATUSCODES",
                "250 SIZE 52428800",
            ];
            say(said, &["250-", host, "\r\n", &keywords.join("\r\n")]);
        } else if is(b"HELO") {
            self.reset();
            self.greeted = true;
            let host = self.host(internet);
            say(said, &["250 ", host]);
        } else if is(b"RSET") {
            self.reset();
            say(said, &["250 2.0.0 Reset"]);
        } else if is(b"NOOP") {
            say(said, &["250 2.0.0 Nothing done"]);
        } else if is(b"QUIT") {
            say(said, &["221 2.0.0 Bye"]);
            self.state = State::Over;
        } else {
            say(said, &["500 5.5.1 Command unknown"]);
        }
    }

    fn mail(&mut self, rest: &[u8], said: &mut Vec<Said>) {
        if !self.greeted || self.sender.is_some() {
            return say(said, &["503 5.5.1 Not now"]);
        }
        match path(rest, b"FROM:") {
            Some(sender) => {
                self.sender = Some(sender.to_vec());
                say(said, &["250 2.1.0 Sender ok"]);
            }
            None => say(said, &["501 5.5.4 MAIL FROM:<address>"]),
        }
    }

    fn rcpt(&mut self, internet: &mut Internet, rest: &[u8], now_us: u64, said: &mut Vec<Said>) {
        let Some(sender) = &self.sender else {
            return say(said, &["503 5.5.1 MAIL first"]);
        };
        let Some(recipient) = path(rest, b"TO:").filter(|it| !it.is_empty()) else {
            return say(said, &["501 5.5.4 RCPT TO:<address>"]);
        };
        if self.recipients == RECIPIENTS_MAX {
            return say(said, &["452 4.5.3 Too many recipients"]);
        }
        let attempt = Attempt {
            source: self.source,
            sender,
            recipient,
            before: self.messages,
        };
        let Some(provider) = self.provider.or_else(|| internet.provider_of(recipient)) else {
            return say(said, &["550 5.1.2 Nobody has this domain"]);
        };
        if self.provider.is_none() && !internet.answers(provider, now_us) {
            say(said, &["421 4.3.2 Nobody is there"]);
            self.state = State::Over;
            return;
        }
        if self.provider.replace(provider).is_none() {
            match internet.connect(provider, self.source, now_us) {
                Ok(()) => self.inside = true,
                Err(refusal) => {
                    say(said, &[refusal.reply]);
                    self.state = State::Over;
                    return;
                }
            }
        }
        match internet.recipient(provider, attempt, now_us) {
            Ok(()) => {
                self.recipients += 1;
                self.numbers.extend(load::number_of(recipient));
                say(said, &["250 2.1.5 Recipient ok"]);
            }
            Err(refusal) => {
                let ends = refusal.ends();
                say(said, &[refusal.reply]);
                if ends {
                    self.state = State::Over;
                }
            }
        }
    }

    fn bdat(&mut self, rest: &[u8], said: &mut Vec<Said>) {
        let mut words = rest.split(|byte| *byte == b' ');
        let size = words
            .next()
            .and_then(|word| core::str::from_utf8(word).ok());
        let left = size.and_then(|word| word.parse::<u32>().ok());
        let last = match words.next() {
            None => Some(false),
            Some(word) => word.eq_ignore_ascii_case(b"LAST").then_some(true),
        };
        match (left, last) {
            (Some(left), Some(last)) => {
                let left = left as usize;
                self.state = State::Chunk { left, last };
            }
            _ => {
                // What follows cannot be told from commands any more.
                say(said, &["501 5.5.4 BDAT size [LAST]"]);
                self.state = State::Over;
            }
        }
    }

    fn chunk(&mut self, internet: &mut Internet, last: bool, now_us: u64, said: &mut Vec<Said>) {
        if self.recipients == 0 {
            // The transaction goes on until RSET or the next MAIL: this host forgives.
            if last {
                self.reset();
            }
            say(said, &["503 5.5.1 No valid recipients"]);
        } else if last {
            self.whole(internet, now_us, said);
        } else {
            say(said, &["250 2.0.0 Chunk ok"]);
        }
    }

    /// The message is there whole.
    fn whole(&mut self, internet: &mut Internet, now_us: u64, said: &mut Vec<Said>) {
        let mut thinks_us = 0;
        if let Some(provider) = self.provider {
            for _ in 0..self.recipients {
                thinks_us = internet.deliver(provider, now_us);
            }
        }
        self.messages += 1;
        said.push(Said {
            thinks_us,
            bytes: b"250 2.0.0 Taken\r\n".to_vec(),
            taken: core::mem::take(&mut self.numbers),
            messages: 1,
            recipients: self.recipients,
            content_bytes: self.content_bytes,
            by_chunks: self.by_chunks,
        });
        self.reset();
    }

    fn reset(&mut self) {
        self.sender = None;
        self.recipients = 0;
        self.numbers.clear();
        self.content_bytes = 0;
        self.by_chunks = false;
    }
}

/// Adds a reply; one that takes no time goes together with what was said before.
fn say(said: &mut Vec<Said>, parts: &[&str]) {
    if said.is_empty() {
        said.push(Said::default());
    }
    if let Some(last) = said.last_mut() {
        for part in parts {
            last.bytes.extend_from_slice(part.as_bytes());
        }
        last.bytes.extend_from_slice(b"\r\n");
    }
}

/// The address between the brackets, behind a keyword.
fn path<'a>(rest: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (given, rest) = rest.split_at_checked(keyword.len())?;
    let rest = rest.trim_ascii_start().strip_prefix(b"<")?;
    let end = memchr::memchr(b'>', rest)?;
    given.eq_ignore_ascii_case(keyword).then_some(&rest[..end])
}

const END_OF_DATA: &[u8] = b"\r\n.\r\n";

/// Where data ends, behind its dot.
fn end_of_data(bytes: &[u8], begun: bool) -> Option<usize> {
    if !begun && bytes.starts_with(&END_OF_DATA[2..]) {
        return Some(3);
    }
    let found = memchr::memmem::find(bytes, END_OF_DATA);
    found.map(|at| at + END_OF_DATA.len())
}

#[cfg(test)]
mod tests;
