//! Conversations as scripts. `S` is what the host says, `C` what must have come out since, `J n
//! recipients` starts a job (`J! ` expects that it is not taken), `=` are the events that must
//! have been told since, `X` is the host closing the connection, `T seconds` the passing of time,
//! `Q` the wish to quit. At the end nothing may be left over.

use core::net::IpAddr;
use core::net::Ipv4Addr;

use super::*;
use crate::base::prng::Prng;
use crate::base::time::Wall;
use crate::types::id::BatchId;
use crate::types::message::Method;
use crate::types::message::Origin;

const SMALL: &str = "Subject: x\r\n\r\n.hi\r\n";

fn content(body: &[u8]) -> Content {
    Content {
        batch: BatchId(1),
        received: Wall(0),
        origin: Origin {
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            helo: "c".into(),
            method: Method::Esmtp,
        },
        sender: Address::parse("s@a.example"),
        eight_bit: !body.is_ascii(),
        smtputf8: false,
        subject: "x".into(),
        friendly_from: "".into(),
        flow: None,
        body: Bytes::copy_from_slice(body),
    }
}

fn job(id: u64, recipients: &[&str], content: Content) -> Job {
    let addresses = recipients.iter().map(|text| Address::parse(text).unwrap());
    let tokens = (0..).map(|n| RecipientToken(id * 10 + n));
    Job {
        id: JobId(id),
        content: Arc::new(content),
        recipients: tokens.zip(addresses).collect(),
    }
}

fn settings() -> Settings {
    Settings {
        ehlo_name: "me".into(),
        ..Settings::default()
    }
}

fn at(seconds: u64) -> Now {
    Now {
        mono: Mono(seconds * 1_000_000),
        wall: Wall::from_secs(seconds),
    }
}

fn told(event: &Event) -> String {
    match event {
        Event::Ready => "ready".to_owned(),
        Event::Recipient {
            job,
            token,
            stage,
            reply,
        } => {
            format!("{}/{} {} {reply}", job.0, token.0, stage.as_str())
        }
        Event::Done { job } => format!("done {}", job.0),
        Event::Lost {
            job,
            undecided,
            stage,
            reply,
            reach,
        } => {
            let tokens: Vec<u64> = undecided.iter().map(|token| token.0).collect();
            format!(
                "lost {} {tokens:?} {} {reach:?} {reply}",
                job.0,
                stage.as_str()
            )
        }
        Event::HostFailed { stage, reply } => format!("host failed {} {reply}", stage.as_str()),
        Event::Close(ending) => format!("close {ending:?}"),
    }
}

struct Stand {
    session: Session,
    random: Prng,
    body: Vec<u8>,
    now: Now,
    sent: Vec<u8>,
    events: Vec<Event>,
}

impl Stand {
    fn new(settings: Settings, seed: u64) -> Stand {
        Stand {
            session: Session::new(at(0), Rc::new(settings)),
            random: Prng::new(seed),
            body: SMALL.into(),
            now: at(0),
            sent: Vec::new(),
            events: Vec::new(),
        }
    }

    fn drain(&mut self) {
        while let Some(piece) = self.session.output() {
            self.sent.extend_from_slice(piece.as_slice());
            self.session.sent(self.now, piece.as_slice().len());
            if let Piece::Bytes(buffer) = piece {
                self.session.recycle(buffer);
            }
        }
    }

    /// Seed 0 gives everything at once, others cut it anywhere.
    fn receive(&mut self, mut input: &[u8], cut: bool) {
        while !input.is_empty() {
            let bytes = match cut {
                false => input.len(),
                true => self.random.between(1, input.len().min(9) as u64) as usize,
            };
            self.session
                .receive(self.now, &input[..bytes], &mut self.events);
            input = &input[bytes..];
        }
    }

    fn start(&mut self, id: u64, recipients: &[&str]) -> bool {
        let job = job(id, recipients, content(&self.body.clone()));
        self.session.start(self.now, job, &mut self.events).is_ok()
    }

    fn step(&mut self, kind: &str, rest: &str) {
        match kind {
            "J" => {
                let mut words = rest.split(' ');
                let id = words.next().unwrap().parse().unwrap();
                let taken = self.start(id, &words.collect::<Vec<_>>());
                assert!(taken, "job {id} is not taken");
            }
            "J!" => assert!(!self.session.can_start()),
            "X" => {
                self.session
                    .closed("connection closed by remote host", &mut self.events);
            }
            "T" => {
                let seconds: u64 = rest.parse().unwrap();
                self.now = at(self.now.wall.secs() + seconds);
                self.session.timeout(self.now, &mut self.events);
            }
            "Q" => self.session.quit(self.now, &mut self.events),
            other => panic!("no such step: {other}"),
        }
    }

    fn run(&mut self, script: &str, cut: bool) {
        let mut lines = script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .peekable();
        while let Some(line) = lines.next() {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            let mut block = vec![rest];
            while let Some(more) = lines.next_if(|next| {
                matches!(kind, "S" | "C" | "=") && next.split(' ').next() == Some(kind)
            }) {
                block.push(more.split_once(' ').map_or("", |(_, rest)| rest));
            }
            let told_so_far: Vec<String> = self.events.iter().map(told).collect();
            match kind {
                "S" => {
                    assert_eq!(told_so_far, Vec::<String>::new(), "before {line}");
                    self.drain();
                    let text: String = block.iter().map(|line| format!("{line}\r\n")).collect();
                    self.receive(text.as_bytes(), cut);
                }
                "C" => {
                    self.drain();
                    let sent = String::from_utf8_lossy(&self.sent).into_owned();
                    let sent: Vec<&str> = sent.lines().collect();
                    assert_eq!(sent, block, "in\n{script}");
                    self.sent.clear();
                }
                "=" => {
                    assert_eq!(told_so_far, block, "in\n{script}");
                    self.events.clear();
                }
                _ => self.step(kind, rest),
            }
        }
        self.drain();
        let told: Vec<String> = self.events.iter().map(told).collect();
        assert_eq!(told, Vec::<String>::new(), "left over in\n{script}");
        assert_eq!(
            String::from_utf8_lossy(&self.sent),
            "",
            "left over in\n{script}"
        );
    }
}

/// Runs a script with the host's words in one piece and cut in many ways.
fn check_with(settings: &Settings, body: &[u8], script: &str) {
    for seed in 0..12 {
        let mut stand = Stand::new(settings.clone(), seed);
        stand.body = body.to_vec();
        stand.run(script, seed > 0);
    }
}

fn check(script: &str) {
    check_with(&settings(), SMALL.as_bytes(), script);
}

const PLAIN: &str = "S 220 hi\nC EHLO me\nS 250 x\n= ready\n";
const PIPELINED: &str = "S 220 hi\nC EHLO me\nS 250-x\nS 250 PIPELINING\n= ready\n";
const CHUNKED: &str = "S 220 hi\nC EHLO me\nS 250-x\nS 250-PIPELINING\nS 250 CHUNKING\n= ready\n";
const CHUNKED_ONLY: &str = "S 220 hi\nC EHLO me\nS 250-x\nS 250 CHUNKING\n= ready\n";

fn check_after(opening: &str, script: &str) {
    check(&format!("{opening}{script}"));
}

#[test]
fn without_pipelining_every_command_waits_for_its_reply() {
    check_after(
        PLAIN,
        "J 1 a@x b@x
        J!
        C MAIL FROM:<s@a.example>
        S 250 ok
        C RCPT TO:<a@x>
        S 550 5.1.1 no such user
        = 1/10 rcptto 550 5.1.1 no such user
        C RCPT TO:<b@x>
        S 250 ok
        C DATA
        S 354 go
        C Subject: x
        C
        C ..hi
        C .
        S 250 2.0.0 queued
        = 1/11 final 250 2.0.0 queued
        = done 1
        = ready
        Q
        C QUIT
        S 221 bye
        = close Quit",
    );
}

#[test]
fn without_pipelining_a_chunk_waits_for_the_envelope() {
    check_after(
        CHUNKED_ONLY,
        "J 1 a@x
        C MAIL FROM:<s@a.example>
        S 250 ok
        C RCPT TO:<a@x>
        S 251 forwarded
        C BDAT 19 LAST
        C Subject: x
        C
        C .hi
        S 250 taken
        = 1/10 final 250 taken
        = done 1
        = ready",
    );
}

#[test]
fn with_pipelining_the_body_goes_with_the_next_envelope() {
    check_after(
        PIPELINED,
        "J 1 a@x
        J!
        C MAIL FROM:<s@a.example>
        C RCPT TO:<a@x>
        C DATA
        S 250 ok
        S 250 ok
        S 354 go
        = ready
        J 2 b@x
        C Subject: x
        C
        C ..hi
        C .
        C MAIL FROM:<s@a.example>
        C RCPT TO:<b@x>
        C DATA
        S 452 4.2.2 full
        = 1/10 final 452 4.2.2 full
        = done 1
        S 250 ok
        S 250 ok
        S 354 go
        = ready
        C Subject: x
        C
        C ..hi
        C .
        S 250 taken
        = 2/20 final 250 taken
        = done 2",
    );
}

#[test]
fn with_chunking_whole_messages_follow_each_other_each_behind_a_reset() {
    let message = |rcpt: &str| {
        format!(
            "C MAIL FROM:<s@a.example>\nC RCPT TO:<{rcpt}>\nC BDAT 19 LAST\nC Subject: x\nC\n\
             C .hi\n"
        )
    };
    let script = format!(
        "J 1 a@x\n= ready\nJ 2 b@x\n= ready\n{}C RSET\n{}S 250 m\nS 550 5.1.1 none\n\
        = 1/10 rcptto 550 5.1.1 none\nS 554 no valid recipients\n= done 1\nS 250 r\nS 250 m\n\
        S 250 ok\nS 250 taken\n= 2/20 final 250 taken\n= done 2\nJ 3 c@x\n= ready\n{}",
        message("a@x"),
        message("b@x"),
        message("c@x"),
    );
    check_after(CHUNKED, &script);
}

#[test]
fn a_job_costs_one_send_on_the_efficient_path() {
    for (offer, per_message) in [
        ("250-PIPELINING\r\n250 CHUNKING\r\n", 1),
        ("250 PIPELINING\r\n", 1),
    ] {
        let mut stand = Stand::new(settings(), 0);
        let chunking = offer.contains("CHUNKING");
        stand.receive(b"220 hi\r\n", false);
        stand.drain();
        stand.receive(format!("250-x\r\n{offer}").as_bytes(), false);
        let before = stand.session.counts().pieces;
        assert!(stand.start(1, &["a@x"]));
        stand.drain();
        for id in 2..=100 {
            let replies: &[u8] = match chunking {
                true => b"250 m\r\n250 r\r\n250 taken\r\n",
                false if id == 2 => b"250 m\r\n250 r\r\n354 go\r\n",
                false => b"250 taken\r\n250 m\r\n250 r\r\n354 go\r\n",
            };
            stand.receive(replies, false);
            assert!(stand.start(id, &["a@x"]));
            stand.drain();
        }
        let pieces = stand.session.counts().pieces - before;
        assert_eq!(pieces, 100 * per_message);
        let delivered = stand.session.counts().delivered;
        assert_eq!(delivered, if chunking { 99 } else { 98 });
    }
}

#[test]
fn four_chunked_messages_go_in_one_send() {
    let mut stand = Stand::new(settings(), 0);
    stand.receive(b"220 hi\r\n", false);
    stand.drain();
    stand.receive(b"250-x\r\n250-PIPELINING\r\n250 CHUNKING\r\n", false);
    let before = stand.session.counts().pieces;
    for id in 1..=4 {
        assert!(stand.start(id, &["a@x"]));
    }
    assert!(!stand.session.can_start(), "jobs_max is a limit");
    stand.drain();
    assert_eq!(stand.session.counts().pieces - before, 1);
}

#[test]
fn large_bodies_are_not_copied_and_a_chunk_of_them_waits_for_a_recipient() {
    let body = Bytes::from(b"0123456789\r\n".repeat(20_000));
    for chunking in [true, false] {
        let mut stand = Stand::new(settings(), 0);
        stand.receive(b"220 hi\r\n", false);
        stand.drain();
        let offer = if chunking { "CHUNKING" } else { "8BITMIME" };
        stand.receive(
            format!("250-x\r\n250-PIPELINING\r\n250 {offer}\r\n").as_bytes(),
            false,
        );
        let large = Content {
            body: body.clone(),
            ..content(b"")
        };
        let job = job(1, &["a@x"], large);
        stand.session.start(at(0), job, &mut stand.events).unwrap();
        stand.drain();
        assert!(stand.sent.len() < 100, "nothing of the body yet");
        stand.receive(
            if chunking {
                b"250 m\r\n250 r\r\n"
            } else {
                b"250 m\r\n250 r\r\n354 go\r\n"
            },
            false,
        );
        let mut copied = 0;
        let mut lent = 0;
        while let Some(piece) = stand.session.output() {
            match piece {
                Piece::Bytes(bytes) => copied += bytes.len(),
                Piece::Body(bytes) => {
                    assert_eq!(bytes.as_ptr(), body.as_ptr());
                    lent += bytes.len();
                }
            }
        }
        assert_eq!(lent, body.len());
        assert_eq!(
            copied,
            if chunking {
                "BDAT 240000 LAST\r\n".len()
            } else {
                3
            }
        );
    }
}

#[test]
fn recipients_are_refused_one_by_one_or_all_together() {
    // All refused, and the host says 354 all the same: a lone dot, then RSET.
    check_after(
        PIPELINED,
        "J 1 a@x b@x
        C MAIL FROM:<s@a.example>
        C RCPT TO:<a@x>
        C RCPT TO:<b@x>
        C DATA
        S 250 ok
        S 550 5.1.1 a
        = 1/10 rcptto 550 5.1.1 a
        S 450 4.2.1 b
        = 1/11 rcptto 450 4.2.1 b
        S 354 go
        C .
        J!
        S 554 nobody
        = done 1
        = ready
        J 2 c@x
        C RSET
        C MAIL FROM:<s@a.example>
        C RCPT TO:<c@x>
        C DATA",
    );
    // All refused and DATA too.
    check_after(
        PIPELINED,
        "J 1 a@x
        C MAIL FROM:<s@a.example>
        C RCPT TO:<a@x>
        C DATA
        S 250 ok
        S 550 5.1.1 a
        = 1/10 rcptto 550 5.1.1 a
        S 503 5.5.1 no recipients
        = done 1
        = ready",
    );
    // Step by step: nothing more is sent than needed.
    check_after(
        PLAIN,
        "J 1 a@x
        C MAIL FROM:<s@a.example>
        S 250 ok
        C RCPT TO:<a@x>
        S 550 5.1.1 a
        = 1/10 rcptto 550 5.1.1 a
        = done 1
        = ready
        J 2 b@x
        C RSET
        S 250 ok
        C MAIL FROM:<s@a.example>",
    );
}

#[test]
fn mail_refused_answers_all_recipients_and_the_rest_is_not_believed() {
    check_after(
        CHUNKED,
        "J 1 a@x b@x
        = ready
        C MAIL FROM:<s@a.example>
        C RCPT TO:<a@x>
        C RCPT TO:<b@x>
        C BDAT 19 LAST
        C Subject: x
        C
        C .hi
        S 550 5.7.1 go away
        = 1/10 mailfrom 550 5.7.1 go away
        = 1/11 mailfrom 550 5.7.1 go away
        S 250 ok
        S 503 no
        S 250 taken
        = done 1",
    );
    check_after(
        PLAIN,
        "J 1 a@x
        C MAIL FROM:<s@a.example>
        S 451 later
        = 1/10 mailfrom 451 later
        = done 1
        = ready
        J 2 a@x
        C MAIL FROM:<s@a.example>",
    );
}

#[test]
fn data_refused_answers_the_accepted() {
    check_after(
        PIPELINED,
        "J 1 a@x b@x
        C MAIL FROM:<s@a.example>
        C RCPT TO:<a@x>
        C RCPT TO:<b@x>
        C DATA
        S 250 ok
        S 250 ok
        S 550 5.1.1 b
        = 1/11 rcptto 550 5.1.1 b
        S 451 4.3.0 not now
        = 1/10 data 451 4.3.0 not now
        = done 1
        = ready",
    );
}

#[test]
fn a_host_that_fails_before_any_job_says_nothing_about_messages() {
    let cases = [
        "S 554 no mail here\nC QUIT\n= host failed banner 554 no mail here\n= close Failed",
        "S 421 busy\n= host failed banner 421 busy\n= close Failed",
        "S 450 busy\nC QUIT\n= host failed banner 450 busy\n= close Failed",
        "S 354 what\n= host failed banner 451 4.5.0 [internal] protocol error: unexpected reply \
         354 to banner\n= close Failed",
        "S 000 what\n= host failed banner 451 4.5.0 [internal] protocol error: a reply line does \
         not begin with a code from 100 to 599\n= close Failed",
        "X\n= host failed banner 451 4.4.2 [internal] connection closed by remote host (awaiting \
         banner response)\n= close Failed",
        "T 299\nT 1\n= host failed banner 451 4.4.2 [internal] no banner response\n= close Failed",
        "S 220 hi\nC EHLO me\nS 450 later\nC QUIT\n= host failed ehlo 450 later\n= close Failed",
        "S 220 hi\nC EHLO me\nS 421 no\n= host failed ehlo 421 no\n= close Failed",
        "S 220 hi\nC EHLO me\nS 502 what\nC HELO me\nS 504 no\nC QUIT\n= host failed ehlo 504 no\n\
         = close Failed",
        // A reply before its command: an early talker or an injected one.
        "S 220 hi\nS 250 injected\n= host failed ehlo 451 4.5.0 [internal] protocol error: reply \
         250 came before EHLO\n= close Failed",
        "Q\n= close Quit",
    ];
    for script in cases {
        check(script);
    }
    check(
        "S 220 hi\nC EHLO me\nS 500 what\nC HELO me\nS 250 x\n= ready\nJ 1 a@x\n\
         C MAIL FROM:<s@a.example>",
    );
}

/// The state right after the message went out by DATA.
const AFTER_DOT: &str = "J 1 a@x\nC MAIL FROM:<s@a.example>\nC RCPT TO:<a@x>\nC DATA\nS 250 m\n\
    S 250 r\nS 354 go\n= ready\nC Subject: x\nC\nC ..hi\nC .\n";

#[test]
fn a_lost_final_reply_means_that_the_host_may_have_the_message() {
    let tail = [
        "X\n= lost 1 [10] final Whole 451 4.4.2 [internal] connection closed by remote host \
         (awaiting end of message response)\n= close Failed",
        "T 600\n= lost 1 [10] final Whole 451 4.4.2 [internal] no end of message response\n\
         = close Failed",
        "S 999 x\n= lost 1 [10] final Whole 451 4.5.0 [internal] protocol error: a reply line \
         does not begin with a code from 100 to 599\n= close Failed",
        "S 354 x\n= lost 1 [10] final Whole 451 4.5.0 [internal] protocol error: unexpected reply \
         354 to end of message\n= close Failed",
        "S 250-x\nX\n= lost 1 [10] final Whole 451 4.4.2 [internal] connection closed by remote \
         host (awaiting end of message response)\n= close Failed",
        // Refused is refused: no possible duplicate.
        "S 421 4.3.2 closing\n= 1/10 final 421 4.3.2 closing\n= done 1\n= close Gone",
        "S 250 taken\n= 1/10 final 250 taken\n= done 1\nX\n= close Gone",
        // 250 twice: the second has nothing to answer.
        "S 250 taken\nS 250 again\n= 1/10 final 250 taken\n= done 1\n= close Gone",
        "S 550-no\nS 250 yes\n= 1/10 final 250 (550) no yes\n= done 1",
    ];
    for tail in tail {
        check(&format!("{PIPELINED}{AFTER_DOT}{tail}"));
    }
}

#[test]
fn the_next_envelope_is_lost_with_the_connection_and_only_what_was_sent_counts() {
    check(&format!(
        "{PIPELINED}{AFTER_DOT}J 2 b@x\nX\n= lost 1 [10] final Whole 451 4.4.2 [internal] \
         connection closed by remote host (awaiting end of message response)\n\
         = lost 2 [20] mailfrom Unsent \
         451 4.4.2 [internal] connection closed by remote host (awaiting end of message response)\n\
         = close Failed"
    ));
    check(&format!(
        "{PIPELINED}{AFTER_DOT}J 2 b@x\nC MAIL FROM:<s@a.example>\nC RCPT TO:<b@x>\nC DATA\n\
         S 421 bye\n= 1/10 final 421 bye\n= done 1\n= lost 2 [20] mailfrom Part 421 bye\n\
         = close Failed"
    ));
    // By BDAT the whole second message is out, too.
    let sent = "C MAIL FROM:<s@a.example>\nC RCPT TO:<a@x>\nC BDAT 19 LAST\nC Subject: x\nC\nC .hi";
    check(&format!(
        "{CHUNKED}J 1 a@x\n= ready\nJ 2 a@x\n= ready\n{sent}\nC RSET\n{sent}\nX\n\
         = lost 1 [10] mailfrom Whole 451 4.4.2 [internal] connection closed by remote host \
         (awaiting MAIL FROM response)\n= lost 2 [20] mailfrom Whole 451 4.4.2 [internal] \
         connection closed by remote host (awaiting MAIL FROM response)\n= close Failed"
    ));
}

#[test]
fn a_421_anywhere_ends_the_connection_and_decides_nothing_for_good() {
    let envelope =
        "J 1 a@x b@x\nC MAIL FROM:<s@a.example>\nC RCPT TO:<a@x>\nC RCPT TO:<b@x>\nC DATA\n";
    let cases = [
        ("S 421 bye", "= lost 1 [10, 11] mailfrom Part 421 bye"),
        (
            "S 250 m\nS 421 bye",
            "= lost 1 [10, 11] rcptto Part 421 bye",
        ),
        (
            "S 250 m\nS 550 no\nS 421 bye",
            "= 1/10 rcptto 550 no\n= lost 1 [11] rcptto Part 421 bye",
        ),
        (
            "S 250 m\nS 250 r\nS 250 r\nS 421 bye",
            "= lost 1 [10, 11] data Part 421 bye",
        ),
    ];
    for (host, lost) in cases {
        check(&format!(
            "{PIPELINED}{envelope}{host}\n{lost}\n= close Failed"
        ));
    }
    // Idle: nothing is undecided.
    check(&format!("{PIPELINED}S 421 idle too long\n= close Gone"));
    check(&format!("{PIPELINED}X\n= close Gone"));
}

#[test]
fn codes_that_do_not_fit_their_command_end_the_connection() {
    let envelope = "J 1 a@x\nC MAIL FROM:<s@a.example>\nC RCPT TO:<a@x>\nC DATA\n";
    let account = "451 4.5.0 [internal] protocol error: unexpected reply";
    let cases = [
        (
            "S 354 go",
            format!("mailfrom Part {account} 354 to MAIL FROM"),
        ),
        (
            "S 120 go",
            format!("mailfrom Part {account} 120 to MAIL FROM"),
        ),
        (
            "S 250 m\nS 354 go",
            format!("rcptto Part {account} 354 to RCPT TO"),
        ),
        (
            "S 250 m\nS 250 r\nS 250 taken?",
            format!("data Part {account} 250 to DATA"),
        ),
        (
            "S 250 m\nS 250 r\nS 334 what",
            format!("data Part {account} 334 to DATA"),
        ),
    ];
    for (host, lost) in cases {
        check(&format!(
            "{PIPELINED}{envelope}{host}\n= lost 1 [10] {lost}\n= close Failed"
        ));
    }
}

#[test]
fn hostile_bytes_reach_nobody_raw_and_floods_end_the_connection() {
    let mut stand = Stand::new(settings(), 0);
    stand.run(
        &format!("{PIPELINED}J 1 a@x\nC MAIL FROM:<s@a.example>\nC RCPT TO:<a@x>\nC DATA\n"),
        false,
    );
    stand.receive(
        b"250 m\n550-5.1.1 \x00\xff\x1b[31m\r\n550 5.1.1 n\x07o\n",
        false,
    );
    let told_now: Vec<String> = stand.events.drain(..).map(|event| told(&event)).collect();
    assert_eq!(told_now, ["1/10 rcptto 550 5.1.1 \u{fffd}[31m no"]);
    assert_eq!(stand.session.transcript().matches("bare LF").count(), 1);
    assert!(
        !stand
            .session
            .transcript()
            .chars()
            .any(|c| c.is_control() && c != '\n')
    );
    for flood in [b"220-hi\r\n".repeat(100_000), b"2".repeat(10_000_000)] {
        let mut stand = Stand::new(settings(), 0);
        for part in flood.chunks(16_384) {
            stand.receive(part, false);
        }
        assert!(matches!(
            stand.events[0],
            Event::HostFailed {
                stage: Stage::Banner,
                ..
            }
        ));
        assert_eq!(stand.events[1..], [Event::Close(Ending::Failed)]);
    }
}

#[test]
fn a_refusal_in_mid_body_is_believed_and_an_acceptance_is_not() {
    let body = b"0123456789\r\n".repeat(20_000);
    for (reply, expected) in [
        (
            "552 5.3.4 too big\r\n",
            vec!["1/10 final 552 5.3.4 too big", "done 1", "close Gone"],
        ),
        (
            "250 taken\r\n",
            vec![
                "lost 1 [10] final Part 451 4.5.0 [internal] protocol error: reply 250 came before \
                 end of message",
                "close Failed",
            ],
        ),
    ] {
        let mut stand = Stand::new(settings(), 0);
        stand.body = body.clone();
        stand.run(
            &format!("{PIPELINED}J 1 a@x\nC MAIL FROM:<s@a.example>\nC RCPT TO:<a@x>\nC DATA\n"),
            false,
        );
        stand.receive(b"250 m\r\n250 r\r\n354 go\r\n", false);
        assert!(matches!(stand.session.output(), Some(Piece::Body(_))));
        assert_eq!(stand.events.drain(..).count(), 1, "ready");
        stand.receive(reply.as_bytes(), false);
        let told_now: Vec<String> = stand.events.drain(..).map(|event| told(&event)).collect();
        assert_eq!(told_now, expected);
        assert_eq!(
            stand.session.output(),
            None,
            "the rest of the body is dropped"
        );
    }
}

#[test]
fn timeouts_follow_the_stage_and_progress_of_the_body_extends_them() {
    let settings = Settings {
        mailfrom_timeout: Duration::from_secs(11),
        rcptto_timeout: Duration::from_secs(12),
        data_timeout: Duration::from_secs(13),
        body_timeout: Duration::from_secs(14),
        idle_timeout: Duration::from_secs(15),
        quit_timeout: Duration::from_secs(16),
        ..settings()
    };
    let lost = |stage: &str, what: &str| {
        format!(
            "= lost 1 [10] {stage} Part 451 4.4.2 [internal] no {what} response\n= close Failed"
        )
    };
    let envelope = "J 1 a@x\nC MAIL FROM:<s@a.example>\nC RCPT TO:<a@x>\nC DATA\n";
    let cases = [
        "T 14\nT 1\nC QUIT\nT 15\nT 1\n= close Quit".to_owned(),
        format!("{envelope}T 10\nT 1\n{}", lost("mailfrom", "MAIL FROM")),
        format!(
            "{envelope}S 250 m\nT 11\nT 1\n{}",
            lost("rcptto", "RCPT TO")
        ),
        format!(
            "{envelope}S 250 m\nS 250 r\nT 12\nT 1\n{}",
            lost("data", "DATA")
        ),
    ];
    for script in cases {
        check_with(&settings, SMALL.as_bytes(), &format!("{PIPELINED}{script}"));
    }
    let mut stand = Stand::new(settings, 0);
    stand.body = b"0123456789\r\n".repeat(20_000);
    stand.run(&format!("{PIPELINED}{envelope}"), false);
    stand.receive(b"250 m\r\n250 r\r\n354 go\r\n", false);
    stand.events.clear();
    assert!(stand.session.output().is_some());
    stand.session.sent(at(13), 4_096);
    assert_eq!(stand.session.deadline(), at(27).mono, "progress");
    stand.session.sent(at(20), 100);
    assert_eq!(stand.session.deadline(), at(27).mono, "too little progress");
    stand.session.timeout(at(27), &mut stand.events);
    let told_now: Vec<String> = stand.events.iter().map(told).collect();
    let text = "451 4.4.2 [internal] timed out while sending the message";
    assert_eq!(
        told_now,
        [
            format!("lost 1 [10] final Part {text}"),
            "close Failed".to_owned()
        ]
    );
    assert_eq!(stand.session.deadline(), Mono::MAX);
}

#[test]
fn what_a_host_cannot_take_is_answered_without_it() {
    let greeting = |offers: &[&str]| {
        let mut script = "S 220 hi\nC EHLO me\nS 250-x\n".to_owned();
        offers
            .iter()
            .for_each(|offer| script.push_str(&format!("S 250-{offer}\n")));
        script + "S 250 HELP\n= ready\n"
    };
    let refused = |text: &str| format!("J 1 a@x\n= 1/10 internal {text}\n= done 1\n= ready");
    check(&format!(
        "{}{}",
        greeting(&["SIZE 18"]),
        refused("552 5.3.4 [internal] message of 19 bytes, the host takes 18")
    ));
    check(&format!(
        "{}J 1 a@x\nC MAIL FROM:<s@a.example> SIZE=19",
        greeting(&["SIZE 19"])
    ));
    check(&format!(
        "{}J 1 a@x\nC MAIL FROM:<s@a.example> SIZE=19",
        greeting(&["SIZE"])
    ));
    let utf8 = "553 5.6.7 [internal] SMTPUTF8 is needed and the host does not offer it";
    check(&format!(
        "{}J 1 ü@x\n= 1/10 internal {utf8}\n= done 1\n= ready",
        greeting(&["8BITMIME"])
    ));
    check(&format!(
        "{}J 1 ü@x\nC MAIL FROM:<s@a.example> SMTPUTF8\nS 250 ok\nC RCPT TO:<ü@x>",
        greeting(&["SMTPUTF8"])
    ));
    let body = "Subject: x\r\n\r\nü\r\n".as_bytes();
    let eight = |how, offers: &[&str], script: &str| {
        let settings = Settings {
            eight_bit: how,
            ..settings()
        };
        check_with(&settings, body, &format!("{}{script}", greeting(offers)));
    };
    eight(
        EightBit::Fail,
        &["8BITMIME"],
        "J 1 a@x\nC MAIL FROM:<s@a.example> BODY=8BITMIME",
    );
    eight(EightBit::Send, &[], "J 1 a@x\nC MAIL FROM:<s@a.example>");
    let text = "554 5.6.3 [internal] 8-bit content, and the host does not offer 8BITMIME";
    eight(EightBit::Fail, &[], &refused(text));
    let head = "J 1 a@x\nC MAIL FROM:<s@a.example>\nS 250 ok\nC RCPT TO:<a@x>\nS 250 ok\nC DATA\n\
        S 354 go\nC Subject: x\nC MIME-Version: 1.0\n";
    let fields = "C Content-Type: text/plain; charset=unknown-8bit\n\
        C Content-Transfer-Encoding: quoted-printable\nC\nC =C3=BC\nC .";
    eight(EightBit::Convert, &[], &format!("{head}{fields}"));
    check_with(
        &settings(),
        b"Subject: x\r\n\r\na\nb\r\n",
        &format!(
            "{PLAIN}{}",
            refused("554 5.6.0 [internal] message holds a bare CR or LF")
        ),
    );
}

#[test]
fn a_header_in_ascii_needs_no_smtputf8_whatever_the_client_asked() {
    let ascii = Content {
        smtputf8: true,
        ..content(SMALL.as_bytes())
    };
    let utf8 = Content {
        smtputf8: true,
        ..content("Subject: ü\r\n\r\n".as_bytes())
    };
    for (content, taken) in [(ascii, true), (utf8, false)] {
        let mut stand = Stand::new(settings(), 0);
        stand.run(PLAIN, false);
        stand
            .session
            .start(at(0), job(1, &["a@x"], content), &mut stand.events)
            .unwrap();
        assert_eq!(stand.session.jobs() == 1, taken);
    }
}

#[test]
fn a_connection_carries_as_many_messages_as_it_may() {
    let settings = Settings {
        max_deliveries: 1,
        ..settings()
    };
    check_with(
        &settings,
        SMALL.as_bytes(),
        &format!(
            "{PLAIN}J 1 a@x\nJ!\nC MAIL FROM:<s@a.example>\nS 250 m\nC RCPT TO:<a@x>\nS 250 r\n\
             C DATA\nS 354 go\nC Subject: x\nC\nC ..hi\nC .\nS 250 taken\n\
             = 1/10 final 250 taken\n= done 1\nC QUIT\nX\n= close Quit"
        ),
    );
}

#[test]
fn quit_finishes_what_is_open_and_takes_nothing_new() {
    check(&format!(
        "{PLAIN}J 1 a@x\nQ\nJ!\nC MAIL FROM:<s@a.example>\nS 550 no\n\
         = 1/10 mailfrom 550 no\n= done 1\nC QUIT\nT 5\n= close Quit"
    ));
}

#[test]
fn a_host_that_refuses_reset_after_a_failure_is_left() {
    check_after(
        PLAIN,
        "J 1 a@x
        C MAIL FROM:<s@a.example>
        S 250 ok
        C RCPT TO:<a@x>
        S 550 no
        = 1/10 rcptto 550 no
        = done 1
        = ready
        J 2 b@x
        C RSET
        S 502 what
        = lost 2 [20] mailfrom Part 451 4.5.0 [internal] protocol error: the host refused RSET
        = close Failed",
    );
}

#[test]
fn the_transcript_tells_the_running_transaction_only() {
    let mut stand = Stand::new(settings(), 0);
    stand.run(
        &format!("{PIPELINED}{AFTER_DOT}S 250 taken\n= 1/10 final 250 taken\n= done 1\n"),
        false,
    );
    assert!(stand.session.transcript().contains("< 250 taken"));
    stand.run(
        "J 2 b@x\nC MAIL FROM:<s@a.example>\nC RCPT TO:<b@x>\nC DATA\nS 550-no\n\
         S 550 way\n= 2/20 mailfrom 550 no way",
        false,
    );
    assert_eq!(
        stand.session.transcript(),
        "< 220 hi\n> EHLO me\n< 250-x\n< 250 PIPELINING\n> MAIL FROM:<s@a.example>\n\
         > RCPT TO:<b@x>\n> DATA\n< 550-no\n< 550 way\n"
    );
}

mod hosts;
