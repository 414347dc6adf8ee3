//! A session with an engine that is as small as can be: the relay rules for policy, a list for a
//! spool, and a proof of durability from a log whose disk does nothing but succeed.

#![allow(dead_code)] // Every test file uses its own part of this.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pelton::base::time::Mono;
use pelton::base::time::Now;
use pelton::base::time::Wall;
use pelton::config::{DomainSet, NetSet};
use pelton::inject::Facts;
use pelton::inject::Question;
use pelton::inject::Resolution;
use pelton::inject::Session;
use pelton::inject::Settings;
use pelton::inject::Step;
use pelton::inject::Submission;
use pelton::inject::Ticket;
use pelton::inject::Verdict;
use pelton::log::Completed;
use pelton::log::Completion;
use pelton::log::Config;
use pelton::log::DiskOp;
use pelton::log::Durable;
use pelton::log::Found;
use pelton::log::Writer;
use pelton::log::format::Frame;
use pelton::policy::relay;
use pelton::types::id::BatchId;
use pelton::types::id::ShardId;
use pelton::types::replies::Canned;

pub const HOST: &str = "mx.example";

/// Peers: one that may relay, one that may not.
pub const TRUSTED: &str = "127.0.0.1";
pub const STRANGER: &str = "192.0.2.9";

pub fn settings() -> Settings {
    Settings {
        host: HOST.into(),
        message_bytes_max: 100_000,
        header_bytes_max: 20_000,
        line_bytes_max: 2_000,
        received_fields_max: 20,
        recipients_max: 10,
        command_bytes_max: 1_024,
        errors_max: 20,
        idle_commands_max: 50,
        receptions_max: 0,
        connection_recipients_max: u32::MAX,
        command_timeout: Duration::from_secs(300),
        data_timeout: Duration::from_secs(180),
        idle_time: Duration::ZERO,
        rate_min: 100,
        rate_grace: Duration::from_secs(60),
        flow_fields: Default::default(),
    }
}

pub type Refuse = fn(&Question<'_>) -> Option<&'static Canned>;

pub struct Rig {
    pub session: Session,
    pub relay: relay::Settings,
    pub refuse: Refuse,
    pub now: Now,
    /// All that was sent to the client.
    pub sent: Vec<u8>,
    pub submissions: Vec<Submission>,
    /// Commits stay open until [`Rig::commit`] or until the session waits for one.
    pub holds_commits: bool,
    pub open_commits: Vec<Ticket>,
    pub waits: usize,
    pub is_closed: bool,
    /// The most that the session held for content at any time.
    pub held_bytes_max: usize,
    peer: IpAddr,
    batch_next: u32,
    durable: Durable,
}

impl Rig {
    /// A greeted connection, before EHLO.
    pub fn new(peer: &str, settings: Settings) -> Rig {
        let mut rig = Rig::silent(peer, settings);
        rig.session.open(rig.now, Verdict::Continue);
        rig.feed(b"");
        rig
    }

    /// As before `open`.
    pub fn silent(peer: &str, settings: Settings) -> Rig {
        let peer: IpAddr = peer.parse().unwrap();
        let now = Now {
            mono: Mono(1_000_000),
            wall: Wall::from_secs(1_767_225_599),
        };
        let facts = Facts {
            peer: SocketAddr::new(peer, 40_000),
            local: "127.0.0.1:2525".parse().unwrap(),
        };
        let mut relay_domains = DomainSet::default();
        relay_domains.add("r.example").unwrap();
        let relay = relay::Settings {
            relay_hosts: Arc::new(NetSet::new(vec!["127.0.0.0/8".parse().unwrap()])),
            relay_domains: Arc::new(relay_domains),
        };
        Rig {
            session: Session::new(Rc::new(settings), facts),
            relay,
            refuse: |_| None,
            now,
            sent: Vec::new(),
            submissions: Vec::new(),
            holds_commits: false,
            open_commits: Vec::new(),
            waits: 0,
            is_closed: false,
            held_bytes_max: 0,
            peer,
            batch_next: 1,
            durable: durable(),
        }
    }

    /// A connection after EHLO, with nothing in `sent`.
    pub fn greeted(peer: &str) -> Rig {
        Rig::greeted_with(peer, settings())
    }

    pub fn greeted_with(peer: &str, settings: Settings) -> Rig {
        let mut rig = Rig::new(peer, settings);
        rig.feed(b"EHLO client.example\r\n");
        rig.sent.clear();
        rig
    }

    /// Greeted, and `MAIL`, one `RCPT` and `DATA` accepted.
    pub fn in_data(settings: Settings) -> Rig {
        let mut rig = Rig::in_transaction(settings);
        rig.feed(b"DATA\r\n");
        assert!(rig.sent.starts_with(b"354 "), "{}", rig.sent.escape_ascii());
        rig.sent.clear();
        rig
    }

    /// Greeted, and `MAIL` and one `RCPT` accepted.
    pub fn in_transaction(settings: Settings) -> Rig {
        let mut rig = Rig::greeted_with(TRUSTED, settings);
        rig.feed(b"MAIL FROM:<s@s.example>\r\nRCPT TO:<u@r.example>\r\n");
        assert_eq!(codes(&rig.sent), "250 2.1.0, 250 2.1.5");
        rig.sent.clear();
        rig
    }

    /// What comes in at once. Nothing is taken after the session has closed.
    pub fn feed(&mut self, input: &[u8]) {
        let mut rest = input;
        while !self.is_closed {
            let (used, step) = self.session.receive(self.now, rest);
            rest = &rest[used..];
            self.held_bytes_max = self.held_bytes_max.max(self.session.held_bytes());
            match step {
                Step::Read => {
                    assert!(rest.is_empty(), "Read means that all was used");
                    return self.flush();
                }
                Step::Ask => self.answer(),
                Step::Submit(submission) => {
                    self.open_commits.push(submission.ticket);
                    self.submissions.push(*submission);
                    if !self.holds_commits {
                        self.commit();
                    }
                }
                Step::Wait => {
                    self.waits += 1;
                    if !self.flush_some() {
                        assert!(!self.open_commits.is_empty(), "waits for nothing");
                        self.commit();
                    }
                }
                Step::Close => {
                    self.flush();
                    self.is_closed = true;
                }
            }
        }
    }

    /// The same in pieces.
    pub fn feed_in_pieces(&mut self, input: &[u8], piece: usize) {
        input.chunks(piece).for_each(|part| self.feed(part));
    }

    /// Makes every open submission durable.
    pub fn commit(&mut self) {
        for ticket in core::mem::take(&mut self.open_commits) {
            self.session
                .resolve(self.now, ticket, Resolution::Stored(&self.durable));
        }
    }

    /// Fails every open submission.
    pub fn fail_commits(&mut self, canned: &'static Canned) {
        for ticket in core::mem::take(&mut self.open_commits) {
            self.session
                .resolve(self.now, ticket, Resolution::Refused(canned));
        }
        self.feed(b"");
    }

    /// Time passes; whatever is due happens.
    pub fn sleep(&mut self, secs: u64) {
        let target = self.now.mono + Duration::from_secs(secs);
        let due = self.session.deadline();
        self.now = Now {
            mono: target,
            wall: self.now.wall + Duration::from_secs(secs),
        };
        if due <= target && self.session.timeout(self.now) != Step::Read {
            self.feed(b"");
        }
    }

    fn answer(&mut self) {
        let question = self.session.question().expect("Ask has a question");
        let verdict = match (self.refuse)(&question) {
            Some(canned) => Verdict::Refuse(canned),
            None => match question {
                Question::Ehlo { .. } | Question::MailFrom { .. } => Verdict::Continue,
                Question::RcptTo { recipient, .. } => {
                    match relay::relay(&self.relay, self.peer, recipient) {
                        Ok(()) => Verdict::Recipient { tag: 7 },
                        Err(canned) => Verdict::Refuse(canned),
                    }
                }
                Question::Data { .. } => {
                    self.batch_next += 1;
                    Verdict::Batch(BatchId::new(1, ShardId(0), self.batch_next - 1))
                }
            },
        };
        self.session.answer(self.now, verdict);
    }

    fn flush(&mut self) {
        self.flush_some();
    }

    fn flush_some(&mut self) -> bool {
        let output = self.session.output();
        let is_some = !output.is_empty();
        self.sent.append(output);
        is_some
    }
}

/// Codes and enhanced codes of the replies, lines that go on left out: `250 2.1.0, 550 5.7.1`.
pub fn codes(sent: &[u8]) -> String {
    let text = core::str::from_utf8(sent).expect("replies are ASCII");
    assert!(
        text.is_empty() || text.ends_with("\r\n"),
        "whole lines: {text:?}"
    );
    let mut all = Vec::new();
    for line in text.split_terminator("\r\n") {
        assert!(!line.contains(['\r', '\n']), "no bare line end: {text:?}");
        if line.as_bytes()[3] == b'-' {
            continue;
        }
        let code = &line[..3];
        let word = line[4..].split(' ').next().unwrap_or("");
        let is_enhanced = word.len() == 5 && word.starts_with(&code[..1]) && word.contains('.');
        assert!(
            is_enhanced || !matches!(&code[..1], "4" | "5"),
            "an enhanced code: {line}"
        );
        all.push(if is_enhanced {
            format!("{code} {word}")
        } else {
            code.to_string()
        });
    }
    all.join(", ")
}

/// A real proof, from a log that has been told that its disk has done everything.
fn durable() -> Durable {
    let config = Config::new(1, ShardId(0), 1, 1);
    let now = Now::default();
    let mut writer = Writer::new(config, 1, Found::default());
    writer
        .append(&[Frame {
            kind: 1,
            index: true,
            parts: &[b"x"],
        }])
        .expect("a new log takes");
    while let Some(operation) = writer.poll(now) {
        let op = operation.op();
        let buffer = match operation {
            DiskOp::Commit { bytes, .. } | DiskOp::Seal { bytes, .. } => bytes,
            DiskOp::Prepare { header, .. } => header,
            _ => Vec::new(),
        };
        if let Completed::Durable(durable) = writer.completed(
            now,
            Completion {
                op,
                result: Ok(()),
                buffer,
            },
        ) {
            return durable;
        }
    }
    panic!("the commit became durable")
}
