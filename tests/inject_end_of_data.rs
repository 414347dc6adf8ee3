//! Where a message ends: after CR LF dot CR LF in DATA, after the counted octets in BDAT, and
//! nowhere else, however the network cuts what comes in.

mod inject_rig;

use inject_rig::Rig;
use inject_rig::TRUSTED;
use inject_rig::codes;
use inject_rig::settings;
use pelton::inject::Settings;

/// What must never be taken for the end, and what becomes of it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    /// `550 5.5.2`, and the connection ends.
    Refused,
    /// Data like any other; this is how it is stored.
    Data(&'static [u8]),
}

use Fate::Data;
use Fate::Refused;

const STRINGS: [(&[u8], Fate); 33] = [
    (b"\n.\n", Refused),
    (b"\n.\r", Refused),
    (b"\n.\r\n", Refused),
    (b"\n.\r\r\n", Refused),
    (b"\r.\r", Refused),
    (b"\r.\n", Refused),
    (b"\r.\r\n", Refused),
    (b"\r.\r\r\n", Refused),
    (b"\r\n.\n", Refused),
    (b"\r\n.\r", Refused),
    (b"\r\n.\r\r\n", Refused),
    (b"\r\r\n.\r\r\n", Refused),
    (b"\n\n.\r\n", Refused),
    (b"\r\n\n.\r\n", Refused),
    (b"\n.\n\r", Refused),
    (b"\r\n.\n\r\n", Refused),
    (b"\r\n\x00.\r\n", Data(b"\r\n\x00.\r\n")),
    (b"\r\n.\x00\r\n", Data(b"\r\n\x00\r\n")),
    (b"\r\n\x00.\x00\r\n", Data(b"\r\n\x00.\x00\r\n")),
    (b"\r\n.\r\x00\n", Refused),
    (b"\r\x00\n.\r\n", Refused),
    (b"\x00\n.\r\n", Refused),
    (b"\r\n .\r\n", Data(b"\r\n .\r\n")),
    (b"\r\n. \r\n", Data(b"\r\n \r\n")),
    (b"\r\n.\t\r\n", Data(b"\r\n\t\r\n")),
    (b"\r\n..\r\n", Data(b"\r\n.\r\n")),
    (b"\r\n.\x0b\r\n", Data(b"\r\n\x0b\r\n")),
    (b"\r\n.\x0c\r\n", Data(b"\r\n\x0c\r\n")),
    (b"\x85.\x85", Data(b"\x85.\x85")),
    (
        b"\xe2\x80\xa8.\xe2\x80\xa8",
        Data(b"\xe2\x80\xa8.\xe2\x80\xa8"),
    ),
    (b"\xc2\x85.\xc2\x85", Data(b"\xc2\x85.\xc2\x85")),
    (b"\x1a", Data(b"\x1a")),
    (b"\x04", Data(b"\x04")),
];

/// What an attacker hides behind the string: a second message, if the first ends too early.
const SMUGGLED: &[u8] =
    b"MAIL FROM:<x@x.example>\r\nRCPT TO:<y@r.example>\r\nDATA\r\nSubject: evil\r\n\r\n.\r\n";

fn body_after_trace(rig: &Rig, index: usize) -> Vec<u8> {
    let body = &rig.submissions[index].body;
    let text = b" +0000\r\n";
    let end = body
        .windows(text.len())
        .position(|window| window == text)
        .unwrap()
        + text.len();
    body[end..].to_vec()
}

/// The string in the middle of a message, cut in two at `cut` (or not at all).
fn check_data(string: &[u8], fate: Fate, cut: Option<usize>) {
    let place = format!("{} cut at {cut:?}", string.escape_ascii());
    let mut rig = Rig::in_data(settings());
    let head = b"Subject: one\r\n\r\nbefore";
    let input = [head.as_slice(), string, b"after", SMUGGLED].concat();
    match cut {
        None => rig.feed(&input),
        Some(cut) => {
            let (first, second) = input.split_at(head.len() + cut);
            rig.feed(first);
            rig.feed(second);
        }
    }
    match fate {
        Refused => {
            assert_eq!(codes(&rig.sent), "550 5.5.2", "{place}");
            assert!(rig.is_closed, "{place}");
            assert!(rig.submissions.is_empty(), "{place}");
        }
        Data(stored) => {
            assert_eq!(
                codes(&rig.sent),
                "250 2.0.0",
                "one message, one reply: {place}"
            );
            assert_eq!(rig.submissions.len(), 1, "{place}");
            let content = &SMUGGLED[..SMUGGLED.len() - 3];
            let expected = [head.as_slice(), stored, b"after", content].concat();
            assert_eq!(body_after_trace(&rig, 0), expected, "{place}");
        }
    }
}

#[test]
fn no_string_but_the_legal_one_ends_data_whole_or_cut_at_any_byte() {
    for (string, fate) in STRINGS {
        check_data(string, fate, None);
        for cut in 0..=string.len() + 5 {
            check_data(string, fate, Some(cut));
        }
    }
}

#[test]
fn no_string_ends_data_when_every_byte_comes_alone() {
    for (string, fate) in STRINGS {
        let mut rig = Rig::in_data(settings());
        let input = [b"a".as_slice(), string, b"b", SMUGGLED].concat();
        rig.feed_in_pieces(&input, 1);
        assert_eq!(rig.is_closed, fate == Refused, "{}", string.escape_ascii());
        let messages = if fate == Refused { 0 } else { 1 };
        assert_eq!(rig.submissions.len(), messages, "{}", string.escape_ascii());
    }
}

#[test]
fn no_string_means_anything_in_a_chunk_but_bare_line_ends_are_refused_there_too() {
    for (string, _) in STRINGS {
        let is_bare = is_bare(string);
        let chunk = [b"before".as_slice(), string, b"after"].concat();
        let command = format!("BDAT {} LAST\r\n", chunk.len());
        let input = [command.as_bytes(), &chunk, b"NOOP\r\n"].concat();
        for piece in 1..=input.len() {
            let mut rig = Rig::in_transaction(settings());
            rig.feed_in_pieces(&input, piece);
            let place = format!("{} by {piece}", string.escape_ascii());
            if is_bare {
                assert_eq!(codes(&rig.sent), "550 5.5.2", "{place}");
                assert!(rig.is_closed && rig.submissions.is_empty(), "{place}");
            } else {
                assert_eq!(codes(&rig.sent), "250 2.0.0, 250 2.0.0", "{place}");
                assert_eq!(body_after_trace(&rig, 0), chunk, "{place}");
            }
        }
    }
}

fn is_bare(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| match bytes[at] {
        b'\r' => bytes.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || bytes[at - 1] != b'\r',
        _ => false,
    })
}

#[test]
fn a_bare_cr_before_the_legal_end_is_refused_and_never_data() {
    for cut in 0..=8 {
        let mut rig = Rig::in_data(settings());
        let input = b"a\r\r\n.\r\nNOOP\r\n";
        rig.feed(&input[..cut]);
        rig.feed(&input[cut..]);
        assert_eq!(codes(&rig.sent), "550 5.5.2", "cut at {cut}");
        assert!(rig.is_closed && rig.submissions.is_empty());
    }
}

#[test]
fn a_dot_right_after_data_ends_an_empty_message() {
    for piece in 1..=3 {
        let mut rig = Rig::in_data(settings());
        rig.feed_in_pieces(b".\r\n", piece);
        assert_eq!(codes(&rig.sent), "250 2.0.0");
        assert_eq!(body_after_trace(&rig, 0), b"");
    }
}

#[test]
fn the_legal_end_in_five_segments_ends_the_message_once() {
    let mut rig = Rig::in_data(settings());
    rig.feed(b"body");
    for byte in b"\r\n.\r\n" {
        assert_eq!(rig.submissions.len(), 0);
        rig.feed(&[*byte]);
    }
    assert_eq!(codes(&rig.sent), "250 2.0.0");
    assert_eq!(body_after_trace(&rig, 0), b"body\r\n");
}

#[test]
fn a_transaction_pipelined_behind_the_legal_end_is_a_second_message() {
    let mut rig = Rig::in_data(settings());
    rig.feed(b"one\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<z@r.example>\r\nDATA\r\ntwo\r\n.\r\nQUIT\r\n");
    let replies = "250 2.0.0, 250 2.1.0, 250 2.1.5, 354, 250 2.0.0, 221 2.0.0";
    assert_eq!(codes(&rig.sent), replies);
    assert_eq!(body_after_trace(&rig, 0), b"one\r\n");
    assert_eq!(body_after_trace(&rig, 1), b"two\r\n");
    assert!(rig.is_closed);
}

#[test]
fn the_end_of_data_inside_a_chunk_and_at_its_edges_is_data() {
    let cases: [&[&[u8]]; 5] = [
        &[b"a\r\n.\r\nMAIL FROM:<x@x>\r\n"],
        &[b"a\r\n", b".\r\n", b"b\r\n"],
        &[b"a\r", b"\n.\r\n"],
        &[b".\r\n", b"x"],
        &[b"a\r\n.", b"\r\n", b""],
    ];
    for chunks in cases {
        let mut rig = Rig::in_transaction(settings());
        let mut input = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let last = if index + 1 == chunks.len() {
                " LAST"
            } else {
                ""
            };
            input.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
            input.extend_from_slice(chunk);
        }
        rig.feed(&input);
        let replies = vec!["250 2.0.0"; chunks.len()].join(", ");
        assert_eq!(codes(&rig.sent), replies);
        assert_eq!(body_after_trace(&rig, 0), chunks.concat());
    }
}

#[test]
fn a_chunked_message_need_not_end_in_a_line_end_but_not_in_half_of_one() {
    let mut rig = Rig::in_transaction(settings());
    rig.feed(b"BDAT 3 LAST\r\nabc");
    assert_eq!(codes(&rig.sent), "250 2.0.0");
    assert_eq!(body_after_trace(&rig, 0), b"abc");
    let mut rig = Rig::in_transaction(settings());
    rig.feed(b"BDAT 3 LAST\r\nab\rNOOP\r\n");
    assert_eq!(codes(&rig.sent), "550 5.5.2");
    assert!(rig.is_closed && rig.submissions.is_empty());
}

#[test]
fn dots_are_taken_off_at_every_edge_of_a_read_buffer() {
    for buffer in [4_096_usize, 8_192, 16_384, 65_536] {
        for length in buffer - 4..=buffer + 4 {
            // Lines so that a dot-stuffed line begins `length` bytes into the content.
            let mut content = Vec::new();
            while content.len() + 102 <= length {
                content.extend_from_slice(&[b'x'; 98]);
                content.extend_from_slice(b"\r\n");
            }
            content.resize(length - 2, b'y');
            content.extend_from_slice(b"\r\n");
            let input = [content.as_slice(), b"..\r\n..z\r\n.\r\n"].concat();
            let mut rig = Rig::in_data(settings());
            rig.feed_in_pieces(&input, buffer);
            assert_eq!(codes(&rig.sent), "250 2.0.0", "{length}");
            let expected = [content.as_slice(), b".\r\n.z\r\n"].concat();
            assert!(body_after_trace(&rig, 0) == expected, "{length}");
        }
    }
}

#[test]
fn the_same_bytes_pipelined_in_one_segment_meet_the_same_fate() {
    for (string, fate) in STRINGS {
        let mut rig = Rig::greeted_with(
            TRUSTED,
            Settings {
                errors_max: 1_000,
                ..settings()
            },
        );
        let envelope = b"MAIL FROM:<>\r\nRCPT TO:<u@r.example>\r\nDATA\r\n";
        rig.feed(&[envelope.as_slice(), b"a", string, b"b\r\n.\r\nQUIT\r\n"].concat());
        let expected = match fate {
            Refused => "250 2.1.0, 250 2.1.5, 354, 550 5.5.2",
            Data(_) => "250 2.1.0, 250 2.1.5, 354, 250 2.0.0, 221 2.0.0",
        };
        assert_eq!(codes(&rig.sent), expected, "{}", string.escape_ascii());
    }
}
