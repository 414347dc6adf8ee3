use std::sync::Arc;

use super::*;
use crate::practice::read::for_tests;

/// What is said to `input`, whole and byte for byte; replies one a line, thinking time in front.
fn check(provider: &str, input: &str, expected: &[&str]) {
    for piece in [input.len().max(1), 1, 3] {
        let text = format!(
            "load {{ messages_per_hour = 1 }} binding a {{ address = 127.0.1.1 }} \
             provider p {{ latency = 5ms {provider} }}"
        );
        let mut internet = Internet::new(Arc::new(for_tests(&text)), 1);
        let source = internet.scenario().bindings[0].address;
        let mut said = Vec::new();
        let mut session = Session::open(&mut internet, Some(0), source, 0, &mut said);
        for bytes in input.as_bytes().chunks(piece) {
            session.receive(&mut internet, bytes, 0, &mut said);
        }
        let mut lines = Vec::new();
        for said in &said {
            let text = String::from_utf8_lossy(&said.bytes);
            let thinks = if said.thinks_us > 0 { "..." } else { "" };
            for line in text.lines() {
                let is_first = line.starts_with("250 2.0.0 Taken");
                lines.push(format!("{}{line}", if is_first { thinks } else { "" }));
            }
        }
        let last = session.is_over().then_some("over");
        let found: Vec<&str> = lines.iter().map(String::as_str).chain(last).collect();
        assert_eq!(found, expected, "{input:?} in pieces of {piece}");
        session.close(&mut internet);
    }
}

const BANNER: &str = "220 mx1.p.example ESMTP";

#[test]
fn a_message_is_taken_by_data_and_by_chunk() {
    let input = "HELO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<u1+7@p.example>\r\nDATA\r\n\
        a\r\n..b\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<u1@p.example>\r\nBDAT 3\r\nabcBDAT 2 LAST\r\n\
        \r\nQUIT\r\nNOOP\r\n";
    let expected = [
        BANNER,
        "250 mx1.p.example",
        "250 2.1.0 Sender ok",
        "250 2.1.5 Recipient ok",
        "354 Go ahead",
        "...250 2.0.0 Taken",
        "250 2.1.0 Sender ok",
        "250 2.1.5 Recipient ok",
        "250 2.0.0 Chunk ok",
        "...250 2.0.0 Taken",
        "221 2.0.0 Bye",
        "over",
    ];
    check("", input, &expected);
}

#[test]
fn an_empty_message_ends_with_its_dot() {
    let input = "HELO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<u@p.example>\r\nDATA\r\n.\r\nRSET\r\n";
    let expected = [
        BANNER,
        "250 mx1.p.example",
        "250 2.1.0 Sender ok",
        "250 2.1.5 Recipient ok",
        "354 Go ahead",
        "...250 2.0.0 Taken",
        "250 2.0.0 Reset",
    ];
    check("", input, &expected);
}

#[test]
fn refusals_are_in_the_receivers_words_and_a_421_ends_the_connection() {
    let twice = "HELO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<u@p.example>\r\nRCPT TO:<v@p.example>\r\n\
        NOOP\r\n";
    let begin = [
        BANNER,
        "250 mx1.p.example",
        "250 2.1.0 Sender ok",
        "250 2.1.5 Recipient ok",
    ];
    let with = |more: &[&'static str]| -> Vec<&'static str> { [&begin[..], more].concat() };
    let own = "rate = '1/60' replies { rate = \"451 4.7.1 slower\" }";
    check(
        own,
        twice,
        &with(&["451 4.7.1 slower", "250 2.0.0 Nothing done"]),
    );
    let closing = "rate = '1/60' replies { rate = \"421 4.7.0 go away\" }";
    check(closing, twice, &with(&["421 4.7.0 go away", "over"]));
    let block = "block { from = 0s to = 1h } replies { block = \"554 5.7.1 never\" }";
    check(block, twice, &["554 5.7.1 never", "over"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let line = format!("NOOP {}\r\n", "x".repeat(LINE_BYTES_MAX));
    let cases: [(&str, &[&str]); 7] = [
        ("RCPT TO:<a@b>\r\n", &["503 5.5.1 MAIL first"]),
        ("MAIL FROM:<a@b>\r\n", &["503 5.5.1 Not now"]),
        (
            "HELO x\r\nMAIL FROM:a@b\r\n",
            &["250 mx1.p.example", "501 5.5.4 MAIL FROM:<address>"],
        ),
        ("DATA\r\n", &["503 5.5.1 No valid recipients"]),
        (
            "BDAT 2 LAST\r\nxxNOOP\r\n",
            &["503 5.5.1 No valid recipients", "250 2.0.0 Nothing done"],
        ),
        ("BDAT x\r\n", &["501 5.5.4 BDAT size [LAST]", "over"]),
        (&line, &["500 5.5.2 Line too long", "over"]),
    ];
    for (input, expected) in cases {
        let expected: Vec<&str> = [&[BANNER], expected].concat();
        check("", input, &expected);
    }
}

#[test]
fn a_reply_tells_which_messages_it_takes() {
    let text = "load { messages_per_hour = 1 } binding a { address = 127.0.1.1 } provider p { }";
    let mut internet = Internet::new(Arc::new(for_tests(text)), 1);
    let source = internet.scenario().bindings[0].address;
    let mut said = Vec::new();
    let mut session = Session::open(&mut internet, Some(0), source, 0, &mut said);
    let input = b"HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u1+3@p.example>\r\n\
        RCPT TO:<u1+9@p.example>\r\nRCPT TO:<u1@p.example>\r\nBDAT 0 LAST\r\n";
    session.receive(&mut internet, input, 0, &mut said);
    let taken: Vec<u64> = said.iter().flat_map(|it| it.taken.clone()).collect();
    assert_eq!(taken, [3, 9]);
    let whole = said.last().expect("the message was taken");
    assert_eq!(
        (whole.messages, whole.recipients, whole.by_chunks),
        (1, 3, true)
    );
    session.receive(
        &mut internet,
        b"MAIL FROM:<>\r\nRCPT TO:<u@p.example>\r\nDATA\r\n",
        0,
        &mut said,
    );
    for part in ["ab\r\n..", "\r\n", "cd\r\n.", "\r\n"] {
        session.receive(&mut internet, part.as_bytes(), 0, &mut said);
    }
    let whole = said.last().expect("the message was taken");
    assert_eq!(
        (whole.messages, whole.content_bytes, whole.by_chunks),
        (1, 12, false)
    );
    assert_eq!(internet.account(0).delivered, 4);
}

#[test]
fn where_the_address_does_not_tell_the_recipient_does() {
    let text = "load { messages_per_hour = 1 } binding a { address = 127.0.1.1 } \
        provider p { connections = 1 } provider q { outage { from = 0s to = 1h } }";
    let mut internet = Internet::new(Arc::new(for_tests(text)), 1);
    let source = internet.scenario().bindings[0].address;
    let open = |internet: &mut Internet, domain: &str| {
        let mut said = Vec::new();
        let mut session = Session::open(internet, None, source, 0, &mut said);
        let input = format!("HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u@{domain}>\r\n");
        session.receive(internet, input.as_bytes(), 0, &mut said);
        let text = String::from_utf8_lossy(&said[0].bytes).into_owned();
        let last = text.lines().last().map(str::to_string);
        (session, last.unwrap_or_default())
    };
    let (first, said) = open(&mut internet, "P.example");
    assert_eq!(said, "250 2.1.5 Recipient ok");
    let (second, said) = open(&mut internet, "p.example");
    assert_eq!(said, "421 4.7.0 Too many connections");
    assert!(second.is_over() && !first.is_over());
    second.close(&mut internet);
    first.close(&mut internet);
    assert_eq!(open(&mut internet, "p.example").1, "250 2.1.5 Recipient ok");
    assert_eq!(
        open(&mut internet, "q.example").1,
        "421 4.3.2 Nobody is there"
    );
    assert_eq!(
        open(&mut internet, "z.example").1,
        "550 5.1.2 Nobody has this domain"
    );
}
