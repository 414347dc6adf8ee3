//! A receiving host that keeps to the rules but refuses, defers, closes and loses replies at
//! random, against a session that is given jobs as fast as it takes them, over a network that
//! cuts the bytes anywhere. Whatever happens, each recipient is answered once, what counts as
//! delivered was taken byte for byte, and what was taken counts as delivered or as possible.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Habits {
    pipelining: bool,
    chunking: bool,
    /// One in so many replies is a refusal; 0 never.
    refuses: u64,
    /// One in so many commands is answered by 421.
    closes: u64,
    /// One in so many messages is taken without an answer, and the connection closed.
    swallows: u64,
    /// 354 although no recipient was taken.
    eager: bool,
}

#[derive(PartialEq, Eq)]
enum Mode {
    Command,
    Data,
    Chunk(usize),
}

struct Host {
    habits: Habits,
    random: Prng,
    input: Vec<u8>,
    replies: Vec<u8>,
    mode: Mode,
    mail: bool,
    /// A BDAT has failed: nothing but RSET is understood.
    undefined: bool,
    recipients: Vec<String>,
    message: Vec<u8>,
    taken: Vec<(Vec<String>, Vec<u8>)>,
    closed: bool,
}

impl Host {
    fn new(habits: Habits, random: Prng) -> Host {
        Host {
            habits,
            random,
            input: Vec::new(),
            replies: b"220 host\r\n".to_vec(),
            mode: Mode::Command,
            mail: false,
            undefined: false,
            recipients: Vec::new(),
            message: Vec::new(),
            taken: Vec::new(),
            closed: false,
        }
    }

    fn say(&mut self, reply: &str) {
        self.replies.extend_from_slice(reply.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    fn one_in(&mut self, parts: u64) -> bool {
        parts > 0 && self.random.chance(1, parts)
    }

    fn hear(&mut self, bytes: &[u8]) {
        if self.habits.pipelining || self.mode != Mode::Command {
            self.input.extend_from_slice(bytes);
        } else {
            assert!(self.replies.is_empty(), "spoken to before it has answered");
            self.input.extend_from_slice(bytes);
        }
        while !self.closed && self.step() {}
    }

    fn step(&mut self) -> bool {
        match self.mode {
            Mode::Chunk(left) => {
                if self.input.len() < left {
                    return false;
                }
                self.message = self.input.drain(..left).collect();
                self.mode = Mode::Command;
                self.end_of_chunk();
                true
            }
            Mode::Command | Mode::Data => {
                let Some(end) = memchr::memmem::find(&self.input, b"\r\n") else {
                    return false;
                };
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                match self.mode {
                    Mode::Data => self.content_line(&line),
                    _ => self.command(&String::from_utf8(line).unwrap()),
                }
                true
            }
        }
    }

    fn content_line(&mut self, line: &[u8]) {
        if line == b".\r\n" {
            self.mode = Mode::Command;
            return self.end_of_data();
        }
        self.message
            .extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }

    fn end_of_data(&mut self) {
        self.finish();
        self.mail = false;
        self.recipients.clear();
    }

    fn end_of_chunk(&mut self) {
        if !self.mail || self.recipients.is_empty() || self.undefined {
            self.undefined = true;
            return self.say("503 5.5.1 no transaction");
        }
        if self.finish() {
            self.mail = false;
            self.recipients.clear();
        } else {
            self.undefined = true;
        }
    }

    /// Takes the message or not; false if it was refused.
    fn finish(&mut self) -> bool {
        let message = core::mem::take(&mut self.message);
        if self.recipients.is_empty() {
            self.say("554 5.5.1 no recipients");
            return false;
        }
        if self.one_in(self.habits.refuses) {
            self.say("452 4.3.1 full");
            return false;
        }
        self.taken.push((self.recipients.clone(), message));
        if self.one_in(self.habits.swallows) {
            self.closed = true;
        } else {
            self.say("250 2.0.0 taken");
        }
        true
    }

    fn command(&mut self, line: &str) {
        let verb = line.split([' ', '\r']).next().unwrap();
        if self.one_in(self.habits.closes) {
            self.closed = true;
            return self.say("421 4.3.2 closing");
        }
        let refuses = self.habits.refuses;
        match verb {
            "EHLO" => {
                let pipelining = if self.habits.pipelining {
                    "250-PIPELINING\r\n"
                } else {
                    ""
                };
                let chunking = if self.habits.chunking {
                    "250-CHUNKING\r\n"
                } else {
                    ""
                };
                self.say(&format!("250-host\r\n{pipelining}{chunking}250 HELP"));
            }
            "RSET" => {
                (self.mail, self.undefined) = (false, false);
                self.recipients.clear();
                self.say("250 2.0.0 reset");
            }
            "MAIL" => {
                assert!(
                    !self.mail && !self.undefined,
                    "a transaction within a transaction"
                );
                match self.one_in(refuses) {
                    true => self.say("550 5.7.1 no"),
                    false => {
                        self.mail = true;
                        self.say("250 2.1.0 ok");
                    }
                }
            }
            "RCPT" if !self.mail => self.say("503 5.5.1 no mail"),
            "RCPT" if self.one_in(refuses) => self.say("550 5.1.1 no"),
            "RCPT" => {
                let recipient = line["RCPT TO:<".len()..].trim_end().trim_end_matches('>');
                self.recipients.push(recipient.to_owned());
                self.say("250 2.1.5 ok");
            }
            "DATA" if self.mail && (self.habits.eager || !self.recipients.is_empty()) => {
                self.mode = Mode::Data;
                self.say("354 go");
            }
            "DATA" => self.say("554 5.5.1 no valid recipients"),
            "BDAT" => {
                let bytes = line.split(' ').nth(1).unwrap().parse().unwrap();
                self.mode = Mode::Chunk(bytes);
            }
            "QUIT" => {
                self.closed = true;
                self.say("221 bye");
            }
            other => panic!("no such command: {other}"),
        }
    }
}

struct Run {
    session: Session,
    host: Host,
    random: Prng,
    /// On their way to the host.
    wire: Vec<u8>,
    jobs: BTreeMap<u64, Job>,
    answers: BTreeMap<u64, String>,
    ended: BTreeSet<u64>,
    closed: bool,
}

const JOBS: u64 = 12;

impl Run {
    fn new(habits: Habits, seed: u64) -> Run {
        Run {
            session: Session::new(at(0), Rc::new(settings())),
            host: Host::new(habits, Prng::stream(seed, "host")),
            random: Prng::stream(seed, "net"),
            wire: Vec::new(),
            jobs: BTreeMap::new(),
            answers: BTreeMap::new(),
            ended: BTreeSet::new(),
            closed: false,
        }
    }

    fn start_jobs(&mut self, events: &mut Vec<Event>) {
        while self.session.can_start() && (self.jobs.len() as u64) < JOBS {
            let id = self.jobs.len() as u64 + 1;
            let recipients: Vec<String> = (0..self.random.between(1, 4))
                .map(|n| format!("r{n}@{id}.example"))
                .collect();
            let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
            let mut body = format!("Subject: {id}\r\n\r\n").into_bytes();
            for _ in 0..self.random.below(20) {
                let line: &[u8] = if self.random.chance(1, 2) {
                    b".dots..\r\n"
                } else {
                    b"x\r\n"
                };
                body.extend_from_slice(&line.repeat(self.random.between(1, 600) as usize));
            }
            let job = job(id, &recipients, content(&body));
            self.jobs.insert(id, job.clone());
            self.session.start(at(0), job, events).unwrap();
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Ready => {}
            Event::Recipient { token, reply, .. } => {
                let old = self.answers.insert(token.0, reply.code.to_string());
                assert_eq!(old, None, "answered twice");
            }
            Event::Done { job } => assert!(self.ended.insert(job.0), "ended twice"),
            Event::Lost {
                job,
                undecided,
                reach,
                ..
            } => {
                assert!(self.ended.insert(job.0), "ended twice");
                assert!(!undecided.is_empty());
                for token in undecided {
                    let old = self.answers.insert(token.0, format!("{reach:?}"));
                    assert_eq!(old, None, "answered twice");
                }
            }
            Event::HostFailed { .. } => assert!(self.jobs.is_empty()),
            Event::Close(_) => self.closed = true,
        }
    }

    fn step(&mut self) {
        let mut events = Vec::new();
        self.start_jobs(&mut events);
        if self.jobs.len() as u64 == JOBS && self.session.is_idle() {
            self.session.quit(at(0), &mut events);
        }
        if self.random.chance(1, 2)
            && let Some(piece) = self.session.output()
        {
            self.wire.extend_from_slice(piece.as_slice());
        }
        if !self.wire.is_empty() && !self.host.closed && self.random.chance(1, 2) {
            let bytes = self.random.between(1, self.wire.len() as u64) as usize;
            let part: Vec<u8> = self.wire.drain(..bytes).collect();
            self.host.hear(&part);
        }
        if !self.host.replies.is_empty() && self.random.chance(1, 2) {
            let bytes = self.random.between(1, self.host.replies.len() as u64) as usize;
            let part: Vec<u8> = self.host.replies.drain(..bytes).collect();
            self.session.receive(at(0), &part, &mut events);
        } else if self.host.closed && self.host.replies.is_empty() {
            self.session.closed("gone", &mut events);
        }
        events.into_iter().for_each(|event| self.note(event));
    }

    fn finish(mut self) -> (usize, usize, usize) {
        let mut steps = 0;
        while !self.closed {
            self.step();
            steps += 1;
            assert!(steps < 200_000, "stuck");
        }
        let mut counts = (0, 0, 0);
        for job in self.jobs.values() {
            assert!(self.ended.contains(&job.id.0));
            for (token, address) in &job.recipients {
                let holds = |(recipients, body): &&(Vec<String>, Vec<u8>)| {
                    recipients.iter().any(|r| r == address.as_str()) && *body == job.content.body
                };
                let taken = self.host.taken.iter().filter(holds).count();
                let answer = self
                    .answers
                    .get(&token.0)
                    .expect("every recipient is answered");
                match (answer.as_str(), taken) {
                    ("250", 1) => counts.0 += 1,
                    ("Whole", 0 | 1) => counts.1 += 1,
                    ("Unsent" | "Part" | "452" | "550" | "421", 0) => counts.2 += 1,
                    other => panic!("{other:?} {address}"),
                }
            }
        }
        let recipients = self.host.taken.iter().map(|(r, _)| r.len()).sum::<usize>();
        assert!(
            recipients <= counts.0 + counts.1,
            "the host has what nobody knows of"
        );
        counts
    }
}

#[test]
fn whatever_a_host_does_each_recipient_is_answered_once_and_truly() {
    let mut sums = (0, 0, 0);
    for pipelining in [false, true] {
        for chunking in [false, true] {
            for (refuses, closes, swallows) in
                [(0, 0, 0), (4, 0, 0), (0, 30, 0), (0, 0, 9), (5, 60, 20)]
            {
                let eager = refuses == 5;
                let habits = Habits {
                    pipelining,
                    chunking,
                    refuses,
                    closes,
                    swallows,
                    eager,
                };
                for seed in 0..10 {
                    let (yes, maybe, no) = Run::new(habits, seed).finish();
                    if refuses + closes + swallows == 0 {
                        assert_eq!((maybe, no), (0, 0), "a good host gets everything");
                    }
                    sums = (sums.0 + yes, sums.1 + maybe, sums.2 + no);
                }
            }
        }
    }
    assert!(sums.0 > 2_500 && sums.1 > 50 && sums.2 > 500, "{sums:?}");
}
