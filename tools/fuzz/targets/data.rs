//! The content of a message, by DATA or BDAT: however the input is cut, the answer is the same,
//! and nothing in it could end a message for anybody else.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pelton::proto::smtp::data::{DataLimits, DataReader, Framing, Refusal, Status, Taken};
use pelton_fuzz::{Input, write_seeds};

const LIMITS: DataLimits = DataLimits {
    message_bytes_max: 4_000,
    header_bytes_max: 600,
    line_bytes_max: 100,
    received_fields_max: 3,
};

type Answer = (usize, Status, Option<Result<Taken, Refusal>>);

/// Feeds pieces of so many bytes.
fn read(framing: Framing, bytes: &[u8], piece: usize) -> Answer {
    let mut reader = DataReader::new(framing, LIMITS, b"Received: here\r\n".to_vec());
    let (mut used, mut status) = (0, Status::More);
    while used < bytes.len() && status == Status::More {
        let end = (used + piece).min(bytes.len());
        let (count, now) = reader.push(&bytes[used..end]);
        assert!(count <= end - used, "no more is used than there was");
        assert!(
            now != Status::More || count == end - used,
            "all of it, to go on"
        );
        (used, status) = (used + count, now);
    }
    let whole = match framing {
        Framing::Dots => status == Status::End,
        Framing::Chunks => status == Status::More,
    };
    (used, status, whole.then(|| reader.finish()))
}

/// A bare CR or LF never gets into a message.
fn check_body(body: &[u8]) {
    for (at, byte) in body.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(body.get(at + 1), Some(&b'\n')),
            b'\n' => assert!(at > 0 && body[at - 1] == b'\r'),
            _ => {}
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let text: &[u8] =
        b"Subject: a\r\n b\r\nFrom: x\r\nReceived: y\r\n\r\n..dot\r\nlong\r\n.\r\nMAIL";
    let ends: [&[u8]; 4] = [text, b"a\r\n.\r", b"\n.\n", b"x\r\n\r\n\xff\x85.\r\r\n"];
    let with = |first: u8| ends.map(|end| [&[first, 3], end].concat());
    [with(0), with(1)].concat()
}

fuzz_target!(init: write_seeds(&seeds()), |data: &[u8]| {
    let mut input = Input::new(data);
    let framing = match input.number(1) & 1 {
        0 => Framing::Dots,
        _ => Framing::Chunks,
    };
    let piece = input.number(1) as usize + 1;
    let bytes = input.rest();
    let (used, status, taken) = read(framing, bytes, bytes.len().max(1));
    if let Some(Ok(taken)) = &taken {
        check_body(&taken.body);
    }
    let again = read(framing, bytes, piece);
    // Where it gives up on a flood depends on the pieces, that it does not.
    if status == Status::Flood {
        assert_eq!(again.1, Status::Flood);
    } else {
        assert_eq!(again, (used, status, taken), "in pieces of {piece}");
    }
});
