//! What a receiving host does when it is told to misbehave, seen from a plain socket.

#![allow(clippy::disallowed_methods)] // It waits and measures against the clock.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use pelton::rig::runtime::RigError;
use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;
use pelton::rig::sink::behaviour::Behaviours;
use pelton::rig::sink::counts::Counts;

const DEADLINE: Duration = Duration::from_secs(60);

const GREETING: &str = "220 sink.example ESMTP pelton-sink\r\n";
const MAIL_OK: &str = "250 2.1.0 sender ok\r\n";
const RCPT_OK: &str = "250 2.1.5 recipient ok\r\n";
const GO_AHEAD: &str = "354 go ahead\r\n";
const TAKEN: &str = "250 2.0.0 taken\r\n";
const BYE: &str = "221 2.0.0 bye\r\n";

/// A whole transaction for d.example without EHLO, in one send.
const TRANSACTION: &str = "MAIL FROM:<s@x.example>\r\nRCPT TO:<r@D.example>\r\nDATA\r\n\
                           Subject: x\r\n\r\ny\r\n.\r\nQUIT\r\n";

fn start(rules: &str) -> Sink {
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let behaviours = Behaviours::parse(rules).expect("good rules");
    Sink::start(SinkConfig {
        listen,
        behaviours,
        ..SinkConfig::default()
    })
    .expect("it listens")
}

/// Everything that the sink says to `input` until it closes or has heard all of it.
fn talk(sink: &Sink, input: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(sink.addrs()[0]).expect("it accepts");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a time limit");
    // A sink that closes early resets the rest; what it has said counts.
    let _ = stream.write_all(input);
    let _ = stream.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    said
}

fn check(rules: &str, input: &str, expected: &[&str]) -> Counts {
    let sink = start(rules);
    let said = talk(&sink, input.as_bytes());
    let (said, expected) = (String::from_utf8_lossy(&said), expected.concat());
    assert_eq!(said, expected, "rules: {rules}");
    sink.stop()
}

#[test]
fn without_rules_all_is_accepted() {
    let counts = check(
        "",
        TRANSACTION,
        &[GREETING, MAIL_OK, RCPT_OK, GO_AHEAD, TAKEN, BYE],
    );
    assert_eq!(
        (counts.messages, counts.bytes, counts.connections),
        (1, 17, 1)
    );
    assert_eq!(counts.domain("d.example").delivered, 1);
}

#[test]
fn each_stage_can_refuse() {
    let no = "450 4.0.0 no\r\n";
    let first = "503 5.5.1 MAIL first\r\n";
    let rcpt = "503 5.5.1 RCPT first\r\n";
    let rest = "500 5.5.1 what was that\r\n";
    // The refused body is read as commands, as any server would.
    let body = [rest, rest, rest, rest, BYE].concat();
    let cases: [(&str, &[&str]); 4] = [
        ("listener * at=mail", &[GREETING, no, first, rcpt, &body]),
        (
            "domain d.example at=rcpt",
            &[GREETING, MAIL_OK, no, rcpt, &body],
        ),
        (
            "domain d.example at=data",
            &[GREETING, MAIL_OK, RCPT_OK, no, &body],
        ),
        (
            "domain d.example at=dot",
            &[GREETING, MAIL_OK, RCPT_OK, GO_AHEAD, no, BYE],
        ),
    ];
    for (place, expected) in cases {
        let counts = check(
            &format!("{place} reply=\"450 4.0.0 no\""),
            TRANSACTION,
            expected,
        );
        assert_eq!((counts.messages, counts.code(450)), (0, 1), "{place}");
    }
    check(
        "listener * at=ehlo reply=\"502 no\"",
        "EHLO x\r\nQUIT\r\n",
        &[GREETING, "502 no\r\n", BYE],
    );
}

#[test]
fn a_421_or_a_close_ends_the_connection_at_any_stage() {
    let bye = "421 4.3.2 going\r\n";
    let cases: [(&str, &[&str]); 6] = [
        ("listener * at=connect", &[]),
        ("listener * at=ehlo", &[GREETING]),
        ("listener * at=mail", &[GREETING]),
        ("domain d.example at=rcpt", &[GREETING, MAIL_OK]),
        ("domain d.example at=data", &[GREETING, MAIL_OK, RCPT_OK]),
        (
            "domain d.example at=dot",
            &[GREETING, MAIL_OK, RCPT_OK, GO_AHEAD],
        ),
    ];
    for (place, expected) in cases {
        let at_ehlo = place.ends_with("ehlo");
        let input = if at_ehlo {
            "EHLO x\r\nQUIT\r\n"
        } else {
            TRANSACTION
        };
        let with_bye = [expected, &[bye]].concat();
        let counts = check(
            &format!("{place} reply=\"421 4.3.2 going\""),
            input,
            &with_bye,
        );
        assert_eq!((counts.code(421), counts.messages), (1, 0), "{place}");
        // Without a reply what was said before is all that may come; a reset can swallow it.
        let sink = start(&format!("{place} close"));
        let said = talk(&sink, input.as_bytes());
        assert!(expected.concat().as_bytes().starts_with(&said), "{place}");
        let counts = sink.stop();
        let dropped = u64::from(place.ends_with("dot"));
        assert_eq!(counts.dropped_after_dot, dropped, "{place}");
        assert_eq!(counts.closed_unanswered, 1 - dropped, "{place}");
    }
}

#[test]
fn a_connection_can_be_closed_inside_the_message() {
    let sink = start("domain d.example at=body close after=1K");
    let message = format!("{}\r\n.\r\n", "x".repeat(4_000));
    let input = format!("MAIL FROM:<>\r\nRCPT TO:<r@d.example>\r\nDATA\r\n{message}");
    talk(&sink, input.as_bytes());
    let short = "MAIL FROM:<>\r\nRCPT TO:<r@d.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n";
    let said = talk(&sink, short.as_bytes());
    assert!(said.ends_with(BYE.as_bytes()));
    let counts = sink.stop();
    assert_eq!((counts.closed_in_body, counts.messages), (1, 1));
}

#[test]
fn hostile_replies_come_as_they_are_named() {
    let ehlo = "EHLO x\r\nQUIT\r\n";
    let cases: [(&str, &str, Vec<u8>); 12] = [
        (
            "listener * hostile=code-000",
            ehlo,
            b"000 nothing\r\n".to_vec(),
        ),
        (
            "listener * hostile=code-999",
            ehlo,
            b"999 everything\r\n".to_vec(),
        ),
        ("listener * hostile=code-25", ehlo, b"25 short\r\n".to_vec()),
        (
            "listener * hostile=dash-close",
            ehlo,
            b"220-never ended\r\n".to_vec(),
        ),
        (
            "listener * hostile=mixed-codes",
            ehlo,
            b"220-yes\r\n550 no\r\n".to_vec(),
        ),
        ("listener * hostile=lf-only", ehlo, b"220 bare\n".to_vec()),
        ("listener * hostile=nul", ehlo, b"220 n\0l\r\n".to_vec()),
        (
            "listener * hostile=bad-utf8",
            ehlo,
            b"220 \xff\xfe\xc0\x80\r\n".to_vec(),
        ),
        (
            "listener * hostile=354-to-mail",
            TRANSACTION,
            b"354 go ahead\r\n503 ".to_vec(),
        ),
        (
            "domain d.example hostile=250-to-data",
            TRANSACTION,
            b"250 2.0.0 fine\r\n500 ".to_vec(),
        ),
        (
            "domain d.example hostile=250-twice",
            TRANSACTION,
            b"250 2.0.0 taken\r\n250 2.0.0 taken\r\n221 ".to_vec(),
        ),
        (
            "listener * at=mail raw=\"\\xffx\\n\"",
            TRANSACTION,
            b"\xffx\n503 ".to_vec(),
        ),
    ];
    for (rules, input, expected) in cases {
        let sink = start(rules);
        let said = talk(&sink, input.as_bytes());
        let found = said
            .windows(expected.len())
            .any(|window| window == expected);
        assert!(found, "{rules}: {:?}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn floods_are_as_big_as_they_say() {
    let sink = start("listener * hostile=banner-flood");
    let said = talk(&sink, b"QUIT\r\n");
    let lines = said.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines, 100_002);
    let sink = start("domain d.example at=rcpt hostile=long-line");
    let said = talk(&sink, TRANSACTION.as_bytes());
    assert!(said.len() > 10 * 1024 * 1024 && said.ends_with(BYE.as_bytes()));
}

#[test]
fn delays_and_rates_take_their_time() {
    let timed = |rules: &str| {
        let sink = start(rules);
        let began = Instant::now();
        let said = talk(&sink, TRANSACTION.as_bytes());
        assert!(said.ends_with(BYE.as_bytes()), "{rules}");
        assert_eq!(sink.stop().messages, 1, "{rules}");
        began.elapsed()
    };
    let cases = [
        (
            "listener * delay=60ms-70ms\nlistener * at=mail delay=60ms",
            120,
        ),
        (
            "domain d.example delay=50ms\ndomain d.example at=data delay=50ms",
            100,
        ),
        ("domain d.example at=dot delay=100ms", 100),
        ("listener * reply_rate=500", 200),
        ("listener * read_rate=300", 300),
    ];
    for (rules, at_least_ms) in cases {
        let took = timed(rules);
        assert!(
            took >= Duration::from_millis(at_least_ms),
            "{rules}: {took:?}"
        );
    }
}

#[test]
fn limits_count_connections_and_messages() {
    let sink = start("domain d.example rate=2/1h");
    let said = talk(
        &sink,
        TRANSACTION.replace("QUIT", "NOOP").repeat(3).as_bytes(),
    );
    let said = String::from_utf8_lossy(&said);
    assert_eq!(
        (
            said.matches(TAKEN).count(),
            said.matches("451 4.7.1").count()
        ),
        (2, 1)
    );
    assert_eq!(sink.stop().domain("d.example").deferred, 1);

    let sink = start("listener * connections=1");
    let mut held = TcpStream::connect(sink.addrs()[0]).expect("it accepts");
    let mut banner = [0; GREETING.len()];
    held.read_exact(&mut banner).expect("a banner");
    let said = talk(&sink, b"QUIT\r\n");
    assert!(
        said.starts_with(b"421 "),
        "{:?}",
        String::from_utf8_lossy(&said)
    );
    held.write_all(b"QUIT\r\n").expect("it listens");
    let mut rest = Vec::new();
    held.read_to_end(&mut rest).expect("it closes in order");
    assert_eq!(rest, BYE.as_bytes());
}

#[test]
fn a_greylist_defers_the_first_attempt_only() {
    let sink = start("domain d.example greylist=1ms");
    let first = talk(&sink, TRANSACTION.as_bytes());
    assert!(String::from_utf8_lossy(&first).contains("451 4.7.1 greylisted"));
    let began = Instant::now();
    // A thousandth of a second passes with the next connection or the one after.
    while !talk(&sink, TRANSACTION.as_bytes()).ends_with([TAKEN, BYE].concat().as_bytes()) {
        assert!(began.elapsed() < DEADLINE);
    }
    assert_eq!(sink.stop().messages, 1);
}

#[test]
fn chance_follows_the_seed() {
    let run = |seed| {
        let behaviours =
            Behaviours::parse("domain d.example reply=\"451 no\" chance=0.5").expect("good rules");
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let sink = Sink::start(SinkConfig {
            listen,
            behaviours,
            seed,
            ..SinkConfig::default()
        })
        .expect("it listens");
        let once = "MAIL FROM:<>\r\nRCPT TO:<r@d.example>\r\nRSET\r\n";
        talk(&sink, once.repeat(200).as_bytes())
    };
    let (one, again, other) = (run(1), run(1), run(2));
    let deferred = String::from_utf8_lossy(&one).matches("451 no").count();
    assert!((60..140).contains(&deferred), "{deferred}");
    assert_eq!(one, again);
    assert_ne!(one, other);
}

#[test]
fn extensions_that_are_switched_off_are_neither_offered_nor_taken() {
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let mut config = SinkConfig {
        listen,
        size_bytes_max: 1_000,
        ..SinkConfig::default()
    };
    let sink = Sink::start(config.clone()).expect("it listens");
    let mail = |parameter: &str| format!("EHLO x\r\nMAIL FROM:<> {parameter}\r\nQUIT\r\n");
    let said = talk(&sink, mail("SIZE=1001").as_bytes());
    let said = String::from_utf8_lossy(&said);
    for keyword in [
        "PIPELINING",
        "SIZE 1000",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
    ] {
        assert!(said.contains(keyword), "{keyword}: {said}");
    }
    assert!(said.contains("552 5.3.4"), "{said}");
    let long = format!(
        "MAIL FROM:<>\r\nRCPT TO:<r@x>\r\nDATA\r\n{}\r\n.\r\n",
        "x".repeat(1_001)
    );
    assert!(talk(&sink, long.as_bytes()).ends_with(b"552 5.3.4 message too big\r\n"));
    for keyword in ["SIZE", "8BITMIME", "SMTPUTF8", "CHUNKING"] {
        assert!(config.extensions.without(keyword));
    }
    assert!(!config.extensions.without("TURBO"));
    let sink = Sink::start(config).expect("it listens");
    for parameter in ["SIZE=5", "BODY=8BITMIME", "SMTPUTF8"] {
        let said = talk(&sink, mail(parameter).as_bytes());
        let said = String::from_utf8_lossy(&said);
        assert!(
            said.contains("555 5.5.4") && !said.contains("SIZE 1000"),
            "{said}"
        );
    }
    let said = talk(
        &sink,
        b"MAIL FROM:<>\r\nRCPT TO:<r@x>\r\nBDAT 4 LAST\r\nQUIT",
    );
    assert!(String::from_utf8_lossy(&said).contains("502 5.5.1"));
}

#[test]
fn bdat_is_counted_by_its_octets_whatever_they_are() {
    let chunks = "MAIL FROM:<>\r\nRCPT TO:<r@d.example>\r\nBDAT 9\r\nx\r\n.\r\nQUIBDAT 3 LAST\r\n\
                  T\r\nBDAT 6 LAST\r\nQUIT\r\nQUIT\r\n";
    let counts = check(
        "",
        chunks,
        &[
            GREETING,
            MAIL_OK,
            RCPT_OK,
            "250 2.0.0 chunk taken\r\n",
            TAKEN,
            "503 5.5.1 RCPT first\r\n",
            BYE,
        ],
    );
    assert_eq!((counts.bdat_messages, counts.bytes), (1, 12));
}

#[test]
fn nonsense_is_answered_and_endless_lines_end() {
    let sink = start("");
    let cases = [
        (&b"WHATEVERITIS x\r\n"[..], "500 5.5.1"),
        (b"MAIL FROM:x\r\n", "501 5.5.4"),
        (b"RCPT TO:<a@b>\r\n", "503 5.5.1"),
        (b"DATA\r\n", "503 5.5.1"),
        (b"BDAT 99999999999999999999\r\n", "501 5.5.4"),
        (b"BDAT -1 LAST\r\n", "501 5.5.4"),
        (b"MAIL FROM:<a>\r\nMAIL FROM:<b>\r\n", "503 5.5.1"),
        (b"NOOP\n", "250 2.0.0"),
    ];
    for (input, expected) in cases {
        let said = talk(&sink, input);
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(expected), "{input:?}: {said}");
    }
    let said = talk(&sink, &[b'x'; 100_000]);
    assert!(String::from_utf8_lossy(&said).contains("500 5.5.2 line too long"));
    assert_eq!(sink.stop().bare_line_feeds, 1);
}

#[test]
fn an_address_in_use_is_refused_in_words() {
    let first = start("");
    let addr = first.addrs()[0];
    let second = Sink::start(SinkConfig {
        listen: vec![addr],
        ..SinkConfig::default()
    });
    let error = second.expect_err("the address is taken");
    assert!(matches!(error, RigError::Listen { .. }));
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot listen on {addr}: ")),
        "{error}"
    );
}

#[test]
fn a_capture_file_that_cannot_be_written_stops_the_answers() {
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let capture = Some("/dev/full".into());
    let sink = Sink::start(SinkConfig {
        listen,
        capture,
        ..SinkConfig::default()
    })
    .expect("it listens");
    let said = talk(&sink, TRANSACTION.as_bytes());
    assert!(!String::from_utf8_lossy(&said).contains(TAKEN));
    assert!(
        sink.failure()
            .is_some_and(|reason| reason.contains("capture file"))
    );
}
