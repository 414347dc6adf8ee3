//! What every injected byte goes through: the command parser, in commands and bytes per second,
//! and the reader of message data, in bytes per second, for DATA and for BDAT.

use core::hint::black_box;
use std::time::Duration;

use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use pelton::proto::smtp::command;
use pelton::proto::smtp::data::DataLimits;
use pelton::proto::smtp::data::DataReader;
use pelton::proto::smtp::data::Framing;
use pelton::proto::smtp::data::Status;

/// What a listener reads at once.
const READ_BYTES: usize = 64 * 1024;

const LIMITS: DataLimits = DataLimits {
    message_bytes_max: 50 << 20,
    header_bytes_max: 256 << 10,
    line_bytes_max: 65_536,
    received_fields_max: 100,
};

const COMMANDS: [&str; 5] = [
    "EHLO client.example.com",
    "MAIL FROM:<bounces+12345@news.example.com> SIZE=10240 BODY=8BITMIME",
    "RCPT TO:<somebody.with.a.name@recipient.example.org>",
    "BDAT 10240 LAST",
    "DATA",
];

fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("command parser");
    for line in COMMANDS {
        group.throughput(Throughput::Bytes(line.len() as u64 + 2));
        let verb = line.split(' ').next().unwrap_or(line);
        group.bench_function(verb, |b| {
            b.iter(|| command::parse(black_box(line.as_bytes()), false).expect("a good command"));
        });
    }
    group.finish();
}

/// A message of about this size: a short header section, lines of 78 octets, one in sixteen with
/// a leading dot, as the generator sends them.
fn message(bytes: usize, framing: Framing) -> Vec<u8> {
    let mut text = b"Received: by relay.example; Thu, 1 Jan 2026 00:00:00 +0000\r\n\
        From: <a@example.com>\r\nTo: <b@example.org>\r\nSubject: a message\r\n\r\n"
        .to_vec();
    let mut line = 0_u32;
    while text.len() < bytes {
        match (line.is_multiple_of(16), framing) {
            (true, Framing::Dots) => text.extend_from_slice(b".."),
            (true, Framing::Chunks) => text.push(b'.'),
            (false, _) => {}
        }
        text.resize(text.len() + 76, b'a' + (line % 26) as u8);
        text.extend_from_slice(b"\r\n");
        line += 1;
    }
    if framing == Framing::Dots {
        text.extend_from_slice(b".\r\n");
    }
    text
}

fn read(input: &[u8], framing: Framing, body: Vec<u8>) -> Vec<u8> {
    let mut reader = DataReader::new(framing, LIMITS, body);
    for part in input.chunks(READ_BYTES) {
        let (used, status) = reader.push(part);
        assert_eq!(used, part.len(), "nothing follows the message");
        assert!(matches!(status, Status::More | Status::End), "{status:?}");
    }
    let taken = reader
        .finish()
        .unwrap_or_else(|refusal| panic!("refused: {refusal:?}"));
    taken.body
}

fn data(c: &mut Criterion) {
    for (name, framing) in [
        ("DATA reader", Framing::Dots),
        ("BDAT reader", Framing::Chunks),
    ] {
        let mut group = c.benchmark_group(name);
        for kib in [1, 10, 100] {
            let input = message(kib * 1024, framing);
            group.throughput(Throughput::Bytes(input.len() as u64));
            group.bench_with_input(BenchmarkId::from_parameter(kib), &input, |b, input| {
                let mut body = Vec::with_capacity(input.len() + 1024);
                b.iter(|| {
                    body.clear();
                    body = read(black_box(input), framing, core::mem::take(&mut body));
                });
            });
        }
        group.finish();
    }
}

fn settings() -> Criterion {
    Criterion::default()
        .measurement_time(Duration::from_secs(2))
        .sample_size(30)
}

criterion_group! { name = benches; config = settings(); targets = commands, data }
criterion_main!(benches);
