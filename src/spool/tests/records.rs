//! Codecs: what is written is read, and nothing else is.

use super::super::record;
use super::super::record::State;
use super::super::store::EventSeq;
use super::*;

fn intern(name: &str) -> Arc<str> {
    name.into()
}

#[test]
fn messages_survive_with_the_state_of_every_recipient() {
    let mut prng = Prng::new(1);
    for number in 0..200 {
        let (content, recipients) = message(&mut prng, BatchId(number), number as usize);
        let states: Vec<State> = recipients
            .iter()
            .map(|_| match prng.below(3) {
                0 => State::NEW,
                1 => State::Settled,
                _ => State::Open(Progress {
                    attempts: prng.next() as u16,
                    due: Wall(prng.next()),
                }),
            })
            .collect();
        let mut payload = Vec::new();
        let event = EventSeq(number + 7);
        let moved = prng.chance(1, 2);
        let written = record::Written {
            event,
            known: EventSeq(number),
            moved,
        };
        record::encode_message(&mut payload, written, &content, &recipients, &|it| {
            states[it]
        });
        let decoded = record::decode_message(&payload, &mut intern).expect("a message");
        assert_eq!(decoded.event, event);
        assert_eq!(decoded.body_bytes as usize, content.body.len());
        assert_eq!(
            decoded.content,
            Content {
                body: Bytes::new(),
                ..content
            }
        );
        let expected: Vec<_> = recipients.into_iter().zip(states).collect();
        assert_eq!(decoded.recipients, expected);
        assert_eq!(
            record::decode_recipients(&payload, &mut intern),
            Some(expected)
        );
        let head = record::decode_message_head(&payload).expect("a head");
        assert_eq!(head.known, EventSeq(number));
        assert_eq!(
            (head.event, head.batch, head.moved),
            (event, BatchId(number), moved)
        );
    }
}

/// The bytes of a message record, so that no later version loses what an earlier one has written:
/// as it was before there were flows, which is how a message of the default flow is still written,
/// and with one.
#[test]
fn records_of_messages_are_read_as_they_were_written() {
    let head = "01 0700000000000000 0600000000000000 0900000000010000 40420f0000000000 03000000";
    let from = "04 7f000001 0200 6863 0500 7340612e62 0100 53 0000";
    let to = "0100 0100 61 0200 00 0000 0500 7240622e63 02 0300 80841e0000000000 0000 0500 \
              7540622e63";
    let flow = "0400 62756c6b 0400 61636d65 0000";
    let records = [
        (format!("{head} 04 {from} {to}"), FlowNames::default()),
        (
            format!("{head} 24 {from} {flow} {to}"),
            FlowNames {
                class: "bulk",
                tenant: "acme",
                campaign: "",
            },
        ),
    ];
    for (hex, names) in records {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let payload: Vec<u8> = digits.chunks(2).map(hex_byte).collect();
        let message = record::decode_message(&payload, &mut intern).expect("a message");
        assert_eq!(message.content.flow, names.flow());
        assert_eq!(record::decode_flow(&payload), Some(names));
        assert_eq!(
            record::decode_message_head(&payload).map(|head| head.has_flow()),
            Some(names.flow().is_some())
        );
        let (recipients, states): (Vec<_>, Vec<_>) = message.recipients.into_iter().unzip();
        assert_eq!(recipients[1].address.as_str(), "u@b.c");
        let written = record::Written {
            event: EventSeq(7),
            known: EventSeq(6),
            moved: false,
        };
        let content = Content {
            body: Bytes::from_static(b"b\r\n"),
            ..message.content
        };
        let mut again = Vec::new();
        record::encode_message(&mut again, written, &content, &recipients, &|it| states[it]);
        assert_eq!(again, payload);
    }
}

fn hex_byte(pair: &[u8]) -> u8 {
    let text = core::str::from_utf8(pair).expect("digits");
    u8::from_str_radix(text, 16).expect("digits")
}

#[test]
fn outcomes_survive() {
    let mut prng = Prng::new(2);
    for number in 0..200 {
        let id = MessageId {
            batch: BatchId(prng.next()),
            recipient: number,
        };
        let outcome = outcome(&mut prng, id, number, number % 2 == 0);
        let mut payload = Vec::new();
        record::encode_outcome(&mut payload, EventSeq(9), &outcome);
        assert_eq!(record::decode_outcome(&payload), Some(outcome.clone()));
        let head = record::decode_outcome_head(&payload).expect("a head");
        assert_eq!((head.event, head.message), (EventSeq(9), id));
        assert_eq!(head.state, record::state_after(&outcome));
    }
    let mark = record::encode_event_mark(EventSeq(77));
    assert_eq!(record::decode_event_mark(&mark), Some(EventSeq(77)));
}

#[test]
fn no_bytes_make_a_decoder_panic_and_cut_ones_are_refused() {
    let mut prng = Prng::new(3);
    let (content, recipients) = message(&mut prng, BatchId(1), 10);
    let mut payload = Vec::new();
    let written = record::Written {
        event: EventSeq(1),
        known: EventSeq(1),
        moved: false,
    };
    record::encode_message(&mut payload, written, &content, &recipients, &|_| {
        State::NEW
    });
    let id = MessageId {
        batch: BatchId(1),
        recipient: 0,
    };
    let mut other = Vec::new();
    record::encode_outcome(&mut other, EventSeq(2), &outcome(&mut prng, id, 1, false));
    for end in 0..payload.len() {
        assert_eq!(record::decode_message(&payload[..end], &mut intern), None);
        assert_eq!(
            record::decode_recipients(&payload[..end], &mut intern),
            None
        );
    }
    for end in 0..other.len() {
        assert_eq!(record::decode_outcome(&other[..end]), None);
    }
    for _ in 0..20_000 {
        for clean in [&payload, &other] {
            let mut bytes = clean.clone();
            for _ in 0..prng.between(1, 4) {
                let at = prng.below(bytes.len() as u64) as usize;
                bytes[at] = prng.next() as u8;
            }
            let _ = record::decode_message(&bytes, &mut intern);
            let _ = record::decode_recipients(&bytes, &mut intern);
            let _ = record::decode_outcome(&bytes);
            let _ = record::decode_event_mark(&bytes);
        }
    }
}
