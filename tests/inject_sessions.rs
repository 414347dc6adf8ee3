//! Sessions good and bad: what a client sends, what it is told, what is stored, what it costs.

mod inject_rig;

use std::fmt::Write;

use inject_rig::Rig;
use inject_rig::STRANGER;
use inject_rig::TRUSTED;
use inject_rig::codes;
use inject_rig::settings;
use pelton::base::prng::Prng;
use pelton::inject::Question;
use pelton::inject::RECIPIENTS_OVERSHOOT_MAX;
use pelton::inject::Settings;
use pelton::inject::Submission;
use pelton::inject::UNRESOLVED_BYTES_MAX;
use pelton::inject::UNRESOLVED_MAX;
use pelton::types::message::Method;
use pelton::types::replies;

const TRANSACTION: &str = "MAIL FROM:<s@s.example>\r\nRCPT TO:<u@r.example>\r\n";

/// After EHLO: `input` whole and byte by byte gets `expected`, `X` at the end means closed.
fn check(input: &[u8], expected: &str) {
    check_with(settings(), input, expected);
}

fn check_with(settings: Settings, input: &[u8], expected: &str) {
    for piece in [1, 7, input.len().max(1)] {
        let mut rig = Rig::greeted_with(TRUSTED, settings.clone());
        rig.feed_in_pieces(input, piece);
        let mut given = codes(&rig.sent);
        if rig.is_closed {
            given.push_str(" X");
        }
        let shown = input[..input.len().min(120)].escape_ascii();
        assert_eq!(given.trim_start(), expected, "{shown} by {piece}");
    }
}

/// The same after MAIL and RCPT, whose replies are left out.
fn check_transaction(input: &str, expected: &str) {
    let expected = format!("250 2.1.0, 250 2.1.5, {expected}");
    check([TRANSACTION, input].concat().as_bytes(), &expected);
}

#[test]
fn a_command_line_has_one_line_end_and_clean_characters() {
    let cases: [(&[u8], &str); 12] = [
        (b"NOOP\nNOOP\r\n", "550 5.5.2 X"),
        (b"\nNOOP\r\n", "550 5.5.2 X"),
        (b"NO\rOP\r\n", "550 5.5.2 X"),
        (b"NOOP\r\r\nNOOP\r\n", "550 5.5.2 X"),
        (b"NOOP\n\r\n", "550 5.5.2 X"),
        (b"NOOP \0\r\nNOOP\r\n", "500 5.5.2, 250 2.0.0"),
        (b"NOOP \xe9\r\nNOOP\r\n", "500 5.5.2, 250 2.0.0"),
        (b"\x80\r\n", "500 5.5.2"),
        (b"\r\n", "500 5.5.2"),
        (b" NOOP\r\n", "500 5.5.2"),
        (b"noop\r\nNoOp\r\n", "250 2.0.0, 250 2.0.0"),
        (b"NOOP ignored\r\nHELP\r\n", "250 2.0.0, 214 2.0.0"),
    ];
    for (input, expected) in cases {
        check(input, expected);
    }
}

#[test]
fn an_overlong_line_is_answered_at_its_end_and_given_up_when_it_has_none() {
    let line = |length: usize| format!("NOOP {}\r\nNOOP\r\n", "x".repeat(length - 7));
    check(line(600).as_bytes(), "250 2.0.0, 250 2.0.0");
    check(line(1_024).as_bytes(), "250 2.0.0, 250 2.0.0");
    check(line(1_025).as_bytes(), "500 5.5.2, 250 2.0.0");
    check(line(5_000).as_bytes(), "500 5.5.2, 250 2.0.0");
    let bare = line(5_000).replace("\r\nNOOP", "\nNOOP");
    check(bare.as_bytes(), "550 5.5.2 X");
    for piece in [100, 1_000, 65_536] {
        let mut rig = Rig::greeted(TRUSTED);
        rig.feed_in_pieces(&vec![b'x'; 1 << 20], piece);
        assert_eq!(codes(&rig.sent), "500 5.5.2", "{piece}");
        assert!(rig.is_closed);
    }
}

#[test]
fn other_protocols_are_sent_away() {
    let cases: [(&[u8], &str); 8] = [
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\nMAIL FROM:<>\r\n",
            "554 5.5.1 X",
        ),
        (b"POST / HTTP/1.1\r\n\r\nRSET\r\n", "554 5.5.1 X"),
        (b"CONNECT a:25 HTTP/1.1\r\n", "554 5.5.1 X"),
        (b"OPTIONS * HTTP/1.1\r\n", "554 5.5.1 X"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", "554 5.5.1 X"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "X"),
        (b"\x16\x03\x01\x02\x00\x01\x0a\r\nNOOP\r\n", "X"),
        (b"\x16\r\nNOOP\r\n", "500 5.5.2, 250 2.0.0"),
    ];
    for (input, expected) in cases {
        check(input, expected);
    }
    let mut rig = Rig::greeted(TRUSTED);
    rig.feed(&[[0x16, 0x03].as_slice(), &[b'x'; 5_000]].concat());
    assert!(rig.is_closed && rig.sent.is_empty());
}

#[test]
fn commands_have_their_order() {
    let cases = [
        ("MAIL FROM:<>\r\nMAIL FROM:<>\r\n", "250 2.1.0, 503 5.5.1"),
        ("RCPT TO:<u@r.example>\r\n", "503 5.5.1"),
        ("DATA\r\n", "503 5.5.1"),
        ("MAIL FROM:<>\r\nDATA\r\n", "250 2.1.0, 503 5.5.1"),
        (
            "MAIL FROM:<>\r\nRCPT TO:<bad>\r\nDATA\r\n",
            "250 2.1.0, 501 5.1.3, 554 5.5.1",
        ),
        (
            "MAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\n",
            "250 2.1.0, 250 2.0.0, 250 2.1.0",
        ),
        (
            "MAIL FROM:<>\r\nEHLO a\r\nRCPT TO:<u@r.example>\r\n",
            "250 2.1.0, 250, 503 5.5.1",
        ),
        ("DATA x\r\n", "501 5.5.4"),
        ("QUIT x\r\nQUIT\r\nNOOP\r\n", "501 5.5.4, 221 2.0.0 X"),
    ];
    for (input, expected) in cases {
        check(input.as_bytes(), expected);
    }
    for command in [
        "MAIL FROM:<>",
        "RCPT TO:<u@r.example>",
        "DATA",
        "BDAT 0 LAST",
    ] {
        let mut rig = Rig::new(TRUSTED, settings());
        rig.sent.clear();
        rig.feed(format!("{command}\r\n").as_bytes());
        assert_eq!(codes(&rig.sent), "503 5.5.1", "{command} before EHLO");
    }
}

#[test]
fn chunks_are_counted_and_refused_ones_are_eaten_not_run() {
    check(b"BDAT 6\r\nNOOP\r\nNOOP\r\n", "503 5.5.1, 250 2.0.0");
    check(
        b"MAIL FROM:<>\r\nBDAT 6 LAST\r\nNOOP\r\n",
        "250 2.1.0, 503 5.5.1",
    );
    for argument in [
        "-1",
        "0x10",
        "99999999999999999999",
        "123456789012345678901",
        "1 2",
        "",
    ] {
        check_transaction(&format!("BDAT {argument}\r\nNOOP\r\n"), "501 5.5.4 X");
    }
    let cases = [
        ("BDAT 0 LAST\r\n", "250 2.0.0"),
        ("BDAT 1\r\naBDAT 0 LAST\r\n", "250 2.0.0, 250 2.0.0"),
        (
            "BDAT 1\r\naDATA\r\nBDAT 0 LAST\r\n",
            "250 2.0.0, 503 5.5.1, 250 2.0.0",
        ),
        (
            "BDAT 1\r\naRCPT TO:<v@r.example>\r\n",
            "250 2.0.0, 503 5.5.1",
        ),
        ("BDAT 1\r\naMAIL FROM:<>\r\n", "250 2.0.0, 503 5.5.1"),
        (
            "BDAT 1\r\naRSET\r\nBDAT 6\r\nNOOP\r\n",
            "250 2.0.0, 250 2.0.0, 503 5.5.1",
        ),
        ("BDAT 200001 LAST\r\n", "552 5.3.4 X"),
        ("BDAT 18446744073709551615\r\n", "501 5.5.4 X"),
        ("BDAT 18446744073709551614\r\n", "552 5.3.4 X"),
    ];
    for (input, expected) in cases {
        check_transaction(input, expected);
    }
    let chunk = "NOOP\r\n".repeat(20_000);
    let input = format!(
        "BDAT {}\r\n{chunk}BDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\n",
        chunk.len()
    );
    check_transaction(&input, "250 2.0.0, 250 2.0.0, 552 5.3.4");
}

#[test]
fn a_chunk_that_policy_refuses_is_eaten_and_the_transaction_is_over() {
    for piece in [1, 1_000] {
        let mut rig = Rig::in_transaction(settings());
        rig.refuse = |question| match question {
            Question::Data { .. } => Some(&replies::DISK),
            _ => None,
        };
        rig.feed_in_pieces(b"BDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\nNOOP\r\n", piece);
        assert_eq!(codes(&rig.sent), "452 4.3.1, 503 5.5.1, 250 2.0.0");
        assert!(rig.submissions.is_empty());
    }
}

#[test]
fn parameters_are_known_typed_and_given_once() {
    let cases = [
        ("SIZE=100000", "250 2.1.0"),
        ("SIZE=100001", "552 5.3.4"),
        ("SIZE=0", "250 2.1.0"),
        ("SIZE=-1", "501 5.5.4"),
        ("SIZE=18446744073709551616", "552 5.3.4"),
        ("SIZE=1 SIZE=1", "501 5.5.4"),
        ("FOO=1", "555 5.5.4"),
        ("BODY=BINARYMIME", "555 5.5.4"),
        ("AUTH=a+0Ab", "555 5.5.4"),
        ("AUTH=<>", "555 5.5.4"),
        ("SMTPUTF8 BODY=8BITMIME SIZE=10", "250 2.1.0"),
    ];
    for (parameters, expected) in cases {
        check(
            format!("MAIL FROM:<> {parameters}\r\n").as_bytes(),
            expected,
        );
    }
    for parameter in ["ORCPT=rfc822;a+0D+0Ab", "NOTIFY=NEVER", "FOO"] {
        let input = format!("MAIL FROM:<>\r\nRCPT TO:<u@r.example> {parameter}\r\n");
        check(input.as_bytes(), "250 2.1.0, 555 5.5.4");
    }
    check(
        b"HELO a\r\nMAIL FROM:<> SIZE=1\r\nMAIL FROM:<>\r\n",
        "250, 555 5.5.4, 250 2.1.0",
    );
}

#[test]
fn a_declared_size_smaller_than_what_is_sent_does_no_harm() {
    let body = "x".repeat(900) + "\r\n";
    let input = format!("MAIL FROM:<> SIZE=1\r\nRCPT TO:<u@r.example>\r\nDATA\r\n{body}.\r\n");
    check(input.as_bytes(), "250 2.1.0, 250 2.1.5, 354, 250 2.0.0");
    let body = body.repeat(112);
    let input = format!("MAIL FROM:<> SIZE=1\r\nRCPT TO:<u@r.example>\r\nDATA\r\n{body}.\r\n");
    check(input.as_bytes(), "250 2.1.0, 250 2.1.5, 354, 552 5.3.4");
}

#[test]
fn what_is_not_offered_is_said_to_be_so() {
    for (command, expected) in [
        ("AUTH PLAIN AGEAYg==", "502 5.5.1"),
        ("STARTTLS", "502 5.5.1"),
        ("STARTTLS x", "502 5.5.1"),
        ("XXXXXXXA", "500 5.5.1"),
        ("VRFY root", "252 2.0.0"),
        ("EXPN all", "502 5.5.1"),
        ("ETRN a", "502 5.5.1"),
        ("DEBUG", "500 5.5.1"),
        ("WIZ", "500 5.5.1"),
        ("XCLIENT ADDR=1.2.3.4", "502 5.5.1"),
        ("XFORWARD ADDR=1.2.3.4", "502 5.5.1"),
    ] {
        check(format!("{command}\r\n").as_bytes(), expected);
    }
    check(b"STARTTLS\r\nNOOP\r\n", "502 5.5.1, 250 2.0.0");
}

#[test]
fn names_in_helo_are_names() {
    let long = "x".repeat(4_096);
    for (name, expected) in [
        ("a b", "501 5.5.4"),
        ("[]", "501 5.5.4"),
        ("", "501 5.5.4"),
        ("(none)", "501 5.5.4"),
        (&long[..600], "501 5.5.4"),
        (&long, "500 5.5.2"),
        ("[127.0.0.1]", "250"),
        ("[IPv6:::1]", "250"),
        ("localhost", "250"),
    ] {
        check(format!("EHLO {name}\r\n").as_bytes(), expected);
    }
}

#[test]
fn ten_thousand_idle_commands_end_early() {
    for command in [
        "RSET",
        "NOOP",
        "VRFY a",
        "HELP",
        "EHLO a",
        "MAIL FROM:<>\r\nRSET",
    ] {
        let mut rig = Rig::greeted(TRUSTED);
        rig.feed(format!("{command}\r\n").repeat(10_000).as_bytes());
        assert!(rig.is_closed, "{command}");
        let codes = codes(&rig.sent);
        assert!(codes.ends_with("421 4.7.0"), "{command}: {codes}");
        assert!(codes.split(", ").count() <= 102, "{command}: {codes}");
    }
}

#[test]
fn ten_thousand_errors_end_early() {
    let lines = ["FOO", "DATA", "RCPT TO:<u>", "EHLO", "BDAT 0"];
    for line in lines {
        let mut rig = Rig::greeted(TRUSTED);
        rig.feed(format!("{line}\r\n").repeat(10_000).as_bytes());
        assert!(rig.is_closed, "{line}");
        assert_eq!(
            codes(&rig.sent).split(", ").count(),
            22,
            "20 errors, one over, 421: {line}"
        );
    }
    let mut rig = Rig::greeted(STRANGER);
    rig.feed(b"MAIL FROM:<>\r\n");
    rig.feed("RCPT TO:<u@victim.example>\r\n".repeat(10_000).as_bytes());
    assert!(rig.is_closed, "harvesting and relay probes are errors too");
}

#[test]
fn a_message_taken_in_forgives_errors_and_idle_commands() {
    let mut rig = Rig::greeted(TRUSTED);
    for _ in 0..10 {
        rig.feed("FOO\r\n".repeat(15).as_bytes());
        rig.feed("NOOP\r\n".repeat(40).as_bytes());
        rig.feed(format!("{TRANSACTION}DATA\r\n.\r\n").as_bytes());
    }
    assert!(!rig.is_closed);
    assert_eq!(rig.submissions.len(), 10);
}

#[test]
fn recipients_over_the_limit_are_told_to_come_later_and_a_million_end_the_connection() {
    let mut rig = Rig::in_transaction(settings());
    rig.feed("RCPT TO:<u@r.example>\r\n".repeat(11).as_bytes());
    let expected = [vec!["250 2.1.5"; 9], vec!["452 4.5.3"; 2]]
        .concat()
        .join(", ");
    assert_eq!(codes(&rig.sent), expected);
    rig.feed(b"DATA\r\n.\r\n");
    assert_eq!(
        rig.submissions[0].recipients.len(),
        10,
        "the earlier ones stay"
    );

    let mut rig = Rig::in_transaction(settings());
    let block = "RCPT TO:<u@r.example>\r\n".repeat(1_000);
    for _ in 0..1_000 {
        rig.feed(block.as_bytes());
    }
    assert!(rig.is_closed);
    let replies = codes(&rig.sent).split(", ").count() as u32;
    assert_eq!(replies, 9 + RECIPIENTS_OVERSHOOT_MAX + 20 + 1 + 1);
}

#[test]
fn a_connection_has_its_number_of_recipients() {
    let settings = Settings {
        connection_recipients_max: 2,
        ..settings()
    };
    let input = "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\n\
                 RCPT TO:<b@example.com>\r\nRCPT TO:<c@example.com>\r\nRSET\r\nMAIL FROM:<>\r\n";
    let mut rig = Rig::new(TRUSTED, settings);
    rig.feed(input.as_bytes());
    let told = codes(&rig.sent);
    let expected = "250 2.1.0, 250 2.1.5, 250 2.1.5, 452 4.5.3, 250 2.0.0, 421 4.7.0";
    assert!(told.contains(expected), "{told}");
    assert!(rig.is_closed);
}

#[test]
fn a_connection_has_its_number_of_messages() {
    let settings = Settings {
        receptions_max: 2,
        ..settings()
    };
    let message = format!("{TRANSACTION}DATA\r\n.\r\n");
    let accepted = "250 2.1.0, 250 2.1.5, 354, 250 2.0.0";
    let input = [message.as_str(), &message, "MAIL FROM:<>\r\n"].concat();
    check_with(
        settings,
        input.as_bytes(),
        &format!("{accepted}, {accepted}, 421 4.7.0 X"),
    );
}

/// Streams `block` over and over after DATA; gives the codes after the end and the most memory
/// that the session held meanwhile.
fn stream(settings: Settings, block: &[u8], total: usize) -> (String, usize) {
    let mut rig = Rig::in_data(settings);
    let mut sent = 0;
    while sent < total && !rig.is_closed {
        rig.feed(block);
        sent += block.len();
    }
    rig.feed(b"\r\n.\r\nNOOP\r\n");
    let mut given = codes(&rig.sent);
    if rig.is_closed {
        given.push_str(" X");
    }
    assert!(rig.submissions.is_empty());
    (given, rig.held_bytes_max)
}

#[test]
fn floods_of_header_hold_no_memory_and_are_refused_at_their_end() {
    let settings = Settings {
        message_bytes_max: 200 << 20,
        ..settings()
    };
    // Unoptimised code takes its time for 100 MB, and 10 MB show the same.
    let flood = if cfg!(debug_assertions) {
        10_000_000
    } else {
        100_000_000
    };
    let filler = format!("X-Filler: {}\r\n", "y".repeat(900));
    let (too_big, hops) = ("552 5.3.4, 250 2.0.0", "554 5.4.6, 250 2.0.0");
    let cases = [
        ("100 MB of header", filler.repeat(70), flood, too_big),
        (
            "one field of 1 MB",
            format!("x: {}", "x".repeat(65_536)),
            1 << 20,
            too_big,
        ),
        (
            "a million fields",
            "a: b\r\n".repeat(10_000),
            6_000_000,
            too_big,
        ),
        (
            "100,000 Received",
            "Received: x\r\n".repeat(1_000),
            1_300_000,
            hops,
        ),
        (
            "a folded field",
            format!("a: b\r\n{}", " c\r\n".repeat(9_999)),
            4_000_000,
            too_big,
        ),
    ];
    for (name, block, total, expected) in cases {
        let (given, held) = stream(settings.clone(), block.as_bytes(), total);
        assert_eq!(given, expected, "{name}");
        assert!(held <= 256 << 10, "{name}: {held} bytes");
    }
}

#[test]
fn content_far_over_the_limit_ends_the_connection() {
    let block = format!("{}\r\n", "x".repeat(998)).repeat(60);
    let (given, held) = stream(settings(), block.as_bytes(), 10 << 20);
    assert_eq!(given, "552 5.3.4 X");
    assert!(held <= 512 << 10, "{held} bytes");
}

#[test]
fn lines_up_to_the_limit_are_taken_as_they_are() {
    for (length, expected) in [
        (998, "250 2.0.0"),
        (999, "250 2.0.0"),
        (1_000, "250 2.0.0"),
        (1_001, "250 2.0.0"),
        (2_000, "250 2.0.0"),
        (2_001, "554 5.6.0"),
        (2_048, "554 5.6.0"),
        (65_536, "554 5.6.0"),
        (10_000_000, "554 5.6.0"),
    ] {
        let message_bytes_max = 20_000_000;
        let mut rig = Rig::in_data(Settings {
            message_bytes_max,
            ..settings()
        });
        let content = format!("Subject: x\r\n\r\n{}\r\n.\r\n", "x".repeat(length));
        rig.feed_in_pieces(content.as_bytes(), 65_536);
        assert_eq!(codes(&rig.sent), expected, "{length}");
        if let [submission] = &rig.submissions[..] {
            let content = &content.as_bytes()[..content.len() - 3];
            assert!(submission.body.ends_with(content), "{length}");
        }
    }
}

#[test]
fn content_is_not_read_as_mime_and_stays_as_it_is() {
    let nested: String = (0..500).fold(String::new(), |mut text, depth| {
        write!(
            text,
            "Content-Type: multipart/mixed; boundary=b{depth}\r\n\r\n--b{depth}\r\n"
        )
        .unwrap();
        text
    });
    let bombs = "=?utf-8?B?4oCo?=".repeat(100) + "\r\n\0\x1b[2J\r\nbase64 without end: AAAA\r\n";
    for content in [nested, bombs] {
        let mut rig = Rig::in_data(settings());
        rig.feed(format!("{content}.\r\n").as_bytes());
        assert_eq!(codes(&rig.sent), "250 2.0.0");
        assert!(rig.submissions[0].body.ends_with(content.as_bytes()));
    }
}

#[test]
fn what_comes_with_the_connection_is_answered_behind_the_banner() {
    let mut rig = Rig::silent(TRUSTED, settings());
    rig.session.open(rig.now, pelton::inject::Verdict::Continue);
    rig.feed(b"EHLO a\r\nQUIT\r\n");
    assert_eq!(codes(&rig.sent), "220, 250, 221 2.0.0");
    assert!(rig.is_closed);
}

#[test]
fn a_refused_connection_gets_one_line() {
    for canned in [
        &replies::CONCURRENCY,
        &replies::MEMORY_CLOSE,
        &replies::CONNECT_DENIED,
    ] {
        let mut rig = Rig::silent(TRUSTED, settings());
        rig.session
            .open(rig.now, pelton::inject::Verdict::Refuse(canned));
        rig.feed(b"EHLO a\r\n");
        assert_eq!(
            rig.sent,
            format!(
                "{} {} {}\r\n",
                canned.code,
                canned.enhanced.unwrap(),
                canned.text
            )
            .as_bytes()
        );
        assert!(rig.is_closed);
    }
}

#[test]
fn pressure_may_refuse_at_any_phase() {
    let phases: [(inject_rig::Refuse, &str); 4] = [
        (
            |it| matches!(it, Question::Ehlo { .. }).then_some(&replies::MEMORY),
            "452 4.3.0, 503 5.5.1, 503 5.5.1, 503 5.5.1",
        ),
        (
            |it| matches!(it, Question::MailFrom { .. }).then_some(&replies::MEMORY),
            "250, 452 4.3.0, 503 5.5.1, 503 5.5.1",
        ),
        (
            |it| matches!(it, Question::RcptTo { .. }).then_some(&replies::MEMORY),
            "250, 250 2.1.0, 452 4.3.0, 554 5.5.1",
        ),
        (
            |it| matches!(it, Question::Data { .. }).then_some(&replies::DISK),
            "250, 250 2.1.0, 250 2.1.5, 452 4.3.1",
        ),
    ];
    for (refuse, expected) in phases {
        let mut rig = Rig::new(TRUSTED, settings());
        rig.sent.clear();
        rig.refuse = refuse;
        rig.feed(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<u@r.example>\r\nDATA\r\n");
        assert_eq!(codes(&rig.sent), expected);
        rig.refuse = |_| None;
        rig.sent.clear();
        rig.feed(b"EHLO a\r\n");
        rig.feed(format!("{TRANSACTION}DATA\r\n.\r\n").as_bytes());
        assert_eq!(
            codes(&rig.sent),
            "250, 250 2.1.0, 250 2.1.5, 354, 250 2.0.0"
        );
    }
}

#[test]
fn pressure_is_no_error_of_the_client_and_421_closes() {
    let mut rig = Rig::greeted(TRUSTED);
    rig.refuse = |_| Some(&replies::DISK);
    rig.feed("MAIL FROM:<>\r\n".repeat(1_000).as_bytes());
    assert!(!rig.is_closed, "1,000 refusals for want of disk");
    rig.refuse = |_| Some(&replies::MEMORY_CLOSE);
    rig.feed(b"MAIL FROM:<>\r\nNOOP\r\n");
    assert!(rig.is_closed && codes(&rig.sent).ends_with("421 4.3.4"));
}

#[test]
fn replies_behind_an_open_commit_wait_for_it_and_leave_in_order() {
    let mut rig = Rig::greeted(TRUSTED);
    rig.holds_commits = true;
    let message = format!("{TRANSACTION}BDAT 3 LAST\r\nabc");
    rig.feed([message.as_str(), &message, "NOOP\r\n"].concat().as_bytes());
    assert_eq!(
        codes(&rig.sent),
        "250 2.1.0, 250 2.1.5",
        "nothing is said before the commit"
    );
    assert_eq!(rig.submissions.len(), 2, "yet the second message is in");
    assert_eq!(rig.session.unresolved(), 2);
    rig.commit();
    rig.feed(b"");
    let all = "250 2.1.0, 250 2.1.5, 250 2.0.0, 250 2.1.0, 250 2.1.5, 250 2.0.0, 250 2.0.0";
    assert_eq!(codes(&rig.sent), all);
    let text = String::from_utf8(rig.sent.clone()).unwrap();
    let first = text.find(&rig.submissions[0].batch.to_string());
    assert!(first < text.find(&rig.submissions[1].batch.to_string()));
}

#[test]
fn a_failed_commit_is_never_a_250() {
    for canned in [&replies::SPOOL_FAILED, &replies::DISK] {
        let mut rig = Rig::in_data(settings());
        rig.holds_commits = true;
        rig.feed(b"a\r\n.\r\nNOOP\r\n");
        rig.fail_commits(canned);
        let expected = format!("{} {}, 250 2.0.0", canned.code, canned.enhanced.unwrap());
        assert_eq!(codes(&rig.sent), expected);
        assert!(!rig.is_closed);
    }
    let mut rig = Rig::in_data(settings());
    rig.holds_commits = true;
    rig.feed(b"a\r\n.\r\n");
    rig.fail_commits(&replies::SHUTTING_DOWN);
    assert!(
        rig.is_closed,
        "a 421 ends the connection whenever it is said"
    );
}

#[test]
fn only_so_many_messages_wait_for_their_commit() {
    let mut rig = Rig::greeted(TRUSTED);
    rig.holds_commits = true;
    let message = format!("{TRANSACTION}BDAT 0 LAST\r\n");
    let input = message.repeat(UNRESOLVED_MAX * 2 + 1) + "QUIT\r\n";
    rig.feed(input.as_bytes());
    assert_eq!(rig.submissions.len(), UNRESOLVED_MAX * 2 + 1);
    assert_eq!(
        rig.waits, 6,
        "to send, then to commit: two full windows, and once for QUIT"
    );
}

#[test]
fn only_so_many_bytes_wait_for_their_commit() {
    let message_bytes_max = 20_000_000;
    for (bytes, waits) in [(1 << 20, 0), (UNRESOLVED_BYTES_MAX, 1)] {
        let mut rig = Rig::in_transaction(Settings {
            message_bytes_max,
            ..settings()
        });
        rig.holds_commits = true;
        rig.feed(format!("BDAT {bytes} LAST\r\n").as_bytes());
        rig.feed(&"x\r\n".repeat(bytes / 3 + 1).as_bytes()[..bytes / 3 * 3]);
        rig.feed(&b"xx"[..bytes % 3]);
        assert_eq!(rig.submissions.len(), 1, "{bytes}");
        rig.feed(b"NOOP\r\n");
        assert_eq!(rig.waits, waits, "{bytes}");
    }
}

#[test]
fn quit_is_answered_behind_the_last_commit() {
    let mut rig = Rig::in_data(settings());
    rig.holds_commits = true;
    let now = rig.now;
    let (used, step) = rig.session.receive(now, b"a\r\n.\r\nQUIT\r\n");
    assert_eq!(used, 6);
    assert!(matches!(step, pelton::inject::Step::Submit(_)));
    let (used, step) = rig.session.receive(now, b"QUIT\r\nNOOP\r\n");
    assert_eq!((used, step), (12, pelton::inject::Step::Wait));
    assert!(rig.session.output().is_empty());
}

#[test]
fn a_client_that_reads_no_replies_is_not_read_from_for_ever() {
    let mut rig = Rig::greeted_with(
        TRUSTED,
        Settings {
            idle_commands_max: u32::MAX,
            ..settings()
        },
    );
    let input = b"HELP\r\n".repeat(10_000);
    let now = rig.now;
    let (used, step) = rig.session.receive(now, &input);
    assert_eq!(step, pelton::inject::Step::Wait);
    assert!(used < input.len());
    assert!(rig.session.output().len() < pelton::inject::OUTPUT_BYTES_MAX + 1_024);
    let (more, step) = rig.session.receive(now, &input[used..]);
    assert_eq!(
        (more, step),
        (0, pelton::inject::Step::Wait),
        "nothing was taken out"
    );
    rig.session.output().clear();
    assert!(rig.session.receive(now, &input[used..]).0 > 0);
}

#[test]
fn silence_is_answered_with_421_by_what_it_interrupts() {
    let mut rig = Rig::greeted(TRUSTED);
    rig.sleep(299);
    assert!(!rig.is_closed);
    rig.sleep(1);
    assert_eq!(codes(&rig.sent), "421 4.4.2");
    assert!(rig.is_closed);

    let mut rig = Rig::greeted_with(
        TRUSTED,
        Settings {
            idle_time: std::time::Duration::from_secs(10),
            ..settings()
        },
    );
    rig.sleep(9);
    rig.feed(b"N");
    rig.sleep(9);
    assert!(!rig.is_closed, "a byte is no silence");
    rig.sleep(1);
    assert!(rig.is_closed);

    let mut rig = Rig::in_data(Settings {
        rate_min: 0,
        ..settings()
    });
    rig.sleep(179);
    rig.feed(b"x");
    rig.sleep(179);
    assert!(!rig.is_closed);
    rig.sleep(1);
    assert_eq!(codes(&rig.sent), "421 4.4.2");
}

#[test]
fn a_command_dripped_byte_by_byte_runs_out_of_time() {
    let mut rig = Rig::greeted(TRUSTED);
    let mut secs = 0;
    while !rig.is_closed {
        rig.feed(b"x");
        rig.sleep(10);
        secs += 10;
    }
    assert_eq!(secs, 300);
}

#[test]
fn every_command_and_every_chunk_gives_new_time() {
    let mut rig = Rig::greeted(TRUSTED);
    for _ in 0..5 {
        rig.feed(b"NOOP\r\n");
        rig.sleep(299);
    }
    assert!(!rig.is_closed);
    let mut rig = Rig::in_transaction(settings());
    rig.feed(b"BDAT 1\r\na");
    rig.sleep(250);
    rig.feed(b"BDAT 5 LAST\r\n");
    rig.sleep(50);
    rig.feed(b"bcdef");
    assert_eq!(codes(&rig.sent), "250 2.0.0, 250 2.0.0");
}

#[test]
fn content_dripped_below_the_minimum_rate_runs_out_of_time() {
    let mut rig = Rig::in_data(settings());
    let mut secs = 0;
    while !rig.is_closed {
        rig.feed(b"x");
        rig.sleep(10);
        secs += 10;
    }
    assert_eq!(secs, 70, "the grace of 60 s, and the first look after it");
    assert!(String::from_utf8_lossy(&rig.sent).contains("too slow"));

    let mut rig = Rig::in_data(settings());
    for _ in 0..90 {
        rig.feed(&[b'x'; 1_000]);
        rig.feed(b"\r\n");
        rig.sleep(10);
    }
    assert!(!rig.is_closed, "100 bytes a second are enough");
}

#[test]
fn nobody_runs_out_of_time_while_pelton_is_the_one_to_speak() {
    let mut rig = Rig::in_data(settings());
    rig.holds_commits = true;
    rig.feed(b"a\r\n.\r\n");
    rig.sleep(10_000);
    assert!(!rig.is_closed);
    rig.commit();
    rig.feed(b"");
    assert_eq!(codes(&rig.sent), "250 2.0.0");
    rig.sleep(299);
    assert!(!rig.is_closed, "the client's time begins with the reply");
    rig.sleep(1);
    assert!(rig.is_closed);
}

#[test]
fn shutdown_lets_a_message_end_and_says_421_where_a_command_would_begin() {
    let mut rig = Rig::greeted(TRUSTED);
    rig.session.shutdown();
    rig.feed(b"");
    assert_eq!(codes(&rig.sent), "421 4.3.2");
    assert!(rig.is_closed);

    let mut rig = Rig::in_data(settings());
    rig.holds_commits = true;
    rig.session.shutdown();
    rig.feed(b"a\r\n");
    assert!(!rig.is_closed);
    rig.feed(b".\r\nMAIL FROM:<>\r\n");
    assert_eq!(codes(&rig.sent), "250 2.0.0, 421 4.3.2");
    assert!(rig.is_closed);
    assert_eq!(rig.submissions.len(), 1);
}

#[test]
fn a_submission_tells_all_that_was_said_of_the_message() {
    let mut rig = Rig::greeted(TRUSTED);
    rig.feed("MAIL FROM:<ü@s.example> SMTPUTF8 BODY=8BITMIME SIZE=100\r\n".as_bytes());
    rig.feed(b"RCPT TO:<a@r.example>\r\nRCPT TO:<b@v.example>\r\nDATA\r\n");
    rig.feed("Subject: grüße\r\n  an alle\r\nFrom: A <a@b>\r\n\r\nx\r\n.\r\n".as_bytes());
    let submission: &Submission = &rig.submissions[0];
    assert_eq!(submission.sender.as_ref().unwrap().as_str(), "ü@s.example");
    let recipients: Vec<_> = submission
        .recipients
        .iter()
        .map(|it| (it.address.as_str(), it.tag))
        .collect();
    assert_eq!(recipients, [("a@r.example", 7), ("b@v.example", 7)]);
    assert!(submission.eight_bit && submission.smtputf8);
    assert_eq!(&*submission.subject, "grüße  an alle");
    assert_eq!(&*submission.friendly_from, "A <a@b>");
    assert_eq!(&*submission.origin.helo, "client.example");
    assert_eq!(submission.origin.method, Method::Esmtp);
    let body = core::str::from_utf8(&submission.body).unwrap();
    let trace = "Received: from client.example ([127.0.0.1])\r\n\tby mx.example with UTF8SMTP id ";
    assert!(body.starts_with(trace), "{body}");
    let (content, recipients) = submission.clone().into_content(None);
    assert_eq!(content.body, submission.body);
    assert_eq!(recipients.len(), 2);
}

#[test]
fn every_refusal_is_on_record_with_its_envelope_and_the_record_is_bounded() {
    let mut rig = Rig::greeted(STRANGER);
    rig.feed(b"MAIL FROM:<s@s.example>\r\nRCPT TO:<u@v.example>\r\nRCPT TO:<u@r.example>\r\n");
    rig.feed(format!("DATA\r\n{}\r\n.\r\n", "x".repeat(2_001)).as_bytes());
    let (rejections, dropped) = rig.session.take_rejections();
    let seen: Vec<_> = rejections
        .iter()
        .map(|it| {
            let sender = it.sender.as_ref().map(|sender| sender.as_str());
            let recipient = it.recipient.as_ref().map(|recipient| recipient.as_str());
            (it.reply.code, sender, recipient, it.recipients)
        })
        .collect();
    let sender = Some("s@s.example");
    let expected = [
        (550, sender, Some("u@v.example"), 0),
        (554, sender, None, 1),
    ];
    assert_eq!((seen.as_slice(), dropped), (expected.as_slice(), 0));
    rig.refuse = |_| Some(&replies::DISK);
    rig.feed("MAIL FROM:<>\r\n".repeat(100).as_bytes());
    let (rejections, dropped) = rig.session.take_rejections();
    assert_eq!((rejections.len(), dropped), (32, 68));
    assert!(rig.session.take_rejections().0.is_empty());
}

/// A valid pipelined session of random transactions, with faults that do not end it.
fn random_session(prng: &mut Prng) -> Vec<u8> {
    let mut input = b"EHLO client.example\r\n".to_vec();
    for _ in 0..prng.between(1, 12) {
        let faults: [&str; 5] = ["", "FOO\r\n", "RSET\r\n", "NOOP\r\n", "RCPT TO:<u>\r\n"];
        input.extend_from_slice(prng.pick(&faults).as_bytes());
        input.extend_from_slice(TRANSACTION.as_bytes());
        let mut content = Vec::new();
        for _ in 0..prng.below(40) {
            let pieces: [&[u8]; 6] = [b".", b"..", b"\r\n", b"a: b\r\n", b"text", b"\xff\0"];
            content.extend_from_slice(prng.pick::<&[u8]>(&pieces));
        }
        content.extend_from_slice(b"\r\n");
        if prng.chance(1, 2) {
            input.extend_from_slice(b"DATA\r\n");
            for line in content.split_inclusive(|byte| *byte == b'\n') {
                let dot: &[u8] = if line.starts_with(b".") { b"." } else { b"" };
                input.extend_from_slice(dot);
                input.extend_from_slice(line);
            }
            input.extend_from_slice(b".\r\n");
            continue;
        }
        let cut = prng.below(content.len() as u64) as usize;
        let (first, second) = content.split_at(cut);
        input.extend_from_slice(format!("BDAT {}\r\n", first.len()).as_bytes());
        input.extend_from_slice(first);
        input.extend_from_slice(format!("BDAT {} LAST\r\n", second.len()).as_bytes());
        input.extend_from_slice(second);
    }
    input.extend_from_slice(b"QUIT\r\n");
    input
}

#[test]
fn segmentation_and_the_moment_of_commits_change_nothing_but_time() {
    let fresh = std::hash::BuildHasher::hash_one(&ahash::RandomState::new(), 0_u8);
    let seed = std::env::var("PELTON_SEED")
        .ok()
        .and_then(|it| it.parse().ok())
        .unwrap_or(fresh);
    println!("PELTON_SEED={seed}");
    let mut prng = Prng::new(seed);
    for _ in 0..200 {
        let input = random_session(&mut prng);
        let mut whole = Rig::new(TRUSTED, settings());
        whole.feed(&input);
        assert!(whole.is_closed && whole.sent.ends_with(b"221 2.0.0 Bye\r\n"));
        assert!(!whole.submissions.is_empty());
        for _ in 0..10 {
            let mut cut = Rig::new(TRUSTED, settings());
            cut.holds_commits = prng.chance(1, 2);
            let mut rest = input.as_slice();
            while !rest.is_empty() {
                let size_max = *prng.pick(&[1, 3, 50, 5_000]);
                let size = prng.between(1, size_max).min(rest.len() as u64) as usize;
                cut.feed(&rest[..size]);
                rest = &rest[size..];
                if prng.chance(1, 5) {
                    cut.commit();
                }
            }
            assert_eq!(
                cut.sent.escape_ascii().to_string(),
                whole.sent.escape_ascii().to_string()
            );
            let bodies = |rig: &Rig| rig.submissions.clone();
            assert!(bodies(&cut) == bodies(&whole), "the same submissions");
        }
    }
}

#[test]
fn random_bytes_make_no_session_panic_or_grow() {
    let mut prng = Prng::new(7);
    let words: [&[u8]; 14] = [
        b"EHLO a",
        b"MAIL FROM:<a@b>",
        b"RCPT TO:<u@r.example>",
        b"DATA",
        b"BDAT 5",
        b"BDAT 3 LAST",
        b"\r\n",
        b"\r\n",
        b"\r\n.\r\n",
        b"\n",
        b"\0",
        b"<>",
        b"RSET",
        b"\x16\x03",
    ];
    for _ in 0..3_000 {
        let mut rig = Rig::greeted(STRANGER);
        for _ in 0..prng.below(60) {
            let word = *prng.pick(&words);
            rig.feed(word);
        }
        assert!(rig.sent.len() < 10_000 && rig.held_bytes_max < 10_000);
    }
}
