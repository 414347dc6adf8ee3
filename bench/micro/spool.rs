//! The spool on a disk that costs nothing: records encoded, framed, checksummed and indexed,
//! outcomes, reclaimed segments; and a record read back.

use core::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use pelton::base::time::Mono;
use pelton::base::time::Now;
use pelton::base::time::Wall;
use pelton::log;
use pelton::log::Completion;
use pelton::log::DiskOp;
use pelton::spool::Config;
use pelton::spool::EventSeq;
use pelton::spool::Recovery;
use pelton::spool::Spool;
use pelton::types::address::Address;
use pelton::types::id::BatchId;
use pelton::types::id::MessageId;
use pelton::types::id::ShardId;
use pelton::types::message::Content;
use pelton::types::message::Method;
use pelton::types::message::Origin;
use pelton::types::message::Recipient;
use pelton::types::outcome::Outcome;
use pelton::types::outcome::OutcomeKind;
use pelton::types::outcome::Remote;
use pelton::types::outcome::Stage;
use pelton::types::reply::Enhanced;
use pelton::types::reply::Reply;

/// Messages of one commit.
const COMMIT_MESSAGES: u64 = 64;

const SPOOL_ID: u64 = 7;
const START: u32 = 1;

/// A spool whose disk does at once what it is told, and keeps the last commit.
struct World {
    spool: Spool,
    ms: u64,
    counter: u32,
    events: EventSeq,
    written: (u64, Vec<u8>),
}

impl World {
    fn new() -> World {
        let mut homes = Recovery::new(SPOOL_ID, 1).finish(&mut |_, _, _| Err(log::Fault::Io));
        let log = log::Config::new(SPOOL_ID, ShardId(0), START, 1);
        let config = Config {
            log,
            segments_max: 64,
        };
        let spool = Spool::whole(config, &mut homes[0]);
        World {
            spool,
            ms: 0,
            counter: 0,
            events: EventSeq(0),
            written: (0, Vec::new()),
        }
    }

    fn now(&self) -> Now {
        let wall = Wall::from_secs(1_700_000_000) + Duration::from_millis(self.ms);
        Now {
            mono: Mono(self.ms * 1_000),
            wall,
        }
    }

    /// Does what the spool asks for until it has nothing left to ask for now.
    fn run(&mut self) {
        while let Some(operation) = self.spool.poll(self.now()) {
            let op = operation.op();
            let buffer = match operation {
                DiskOp::Commit { offset, bytes, .. } => {
                    self.written.0 = offset;
                    self.written.1.clear();
                    self.written.1.extend_from_slice(&bytes);
                    bytes
                }
                DiskOp::Seal { bytes, .. } => bytes,
                DiskOp::Prepare { header, .. } => header,
                DiskOp::Read { bytes, .. } => panic!("a read of {bytes} bytes: compaction"),
                DiskOp::Sync { .. } | DiskOp::Rename { .. } | DiskOp::Remove { .. } => Vec::new(),
            };
            let completion = Completion {
                op,
                result: Ok(()),
                buffer,
            };
            black_box(self.spool.completed(self.now(), completion));
        }
    }

    fn store(&mut self, template: &Content, recipients: &[Recipient]) -> BatchId {
        self.counter += 1;
        let batch = BatchId::new(START, ShardId(0), self.counter);
        let content = Content {
            batch,
            ..template.clone()
        };
        let stored = self
            .spool
            .store(&content, recipients)
            .expect("there is room");
        self.events = stored.event;
        batch
    }

    fn settle(&mut self, batch: BatchId) {
        let outcome = delivered(
            MessageId {
                batch,
                recipient: 0,
            },
            self.now().wall,
        );
        self.events = self.spool.settle(self.now(), &outcome).0;
    }

    /// One commit of messages, and one of their outcomes.
    fn pass(&mut self, content: &Content, recipients: &[Recipient]) {
        let batches: Vec<BatchId> = (0..COMMIT_MESSAGES)
            .map(|_| self.store(content, recipients))
            .collect();
        self.run();
        batches.into_iter().for_each(|batch| self.settle(batch));
        // An outcome may wait for company; time passes until it has been written.
        self.ms += 1_000;
        self.run();
        self.spool.events_durable(self.events);
        self.ms += 1_000;
        self.run();
    }
}

fn content(bytes: usize) -> Content {
    Content {
        batch: BatchId(0),
        received: Wall::from_secs(1_700_000_000),
        origin: Origin {
            peer: Ipv4Addr::LOCALHOST.into(),
            helo: "client.example".into(),
            method: Method::Esmtp,
        },
        sender: Address::parse("bounces+12345@news.example.com"),
        eight_bit: false,
        smtputf8: false,
        subject: "a message".into(),
        friendly_from: "News <news@example.com>".into(),
        flow: None,
        body: Bytes::from(vec![b'x'; bytes]),
    }
}

fn recipients() -> [Recipient; 1] {
    let address = Address::parse("somebody.with.a.name@recipient.example.org").expect("valid");
    [Recipient {
        address,
        binding: Arc::from("pool-a"),
    }]
}

fn delivered(message: MessageId, at: Wall) -> Outcome {
    Outcome {
        message,
        kind: OutcomeKind::Delivered,
        attempts: 0,
        at,
        reply: Reply::remote(250, Some(Enhanced(2, 0, 0)), "Ok: queued as 4XyZ"),
        stage: Stage::Final,
        remote: Some(Remote {
            host: "mx.example.org".into(),
            ip: Ipv4Addr::LOCALHOST.into(),
            local: None,
        }),
        possible_duplicate: false,
    }
}

fn commits(c: &mut Criterion) {
    let mut group = c.benchmark_group("spool: store, commit, settle");
    for kib in [1, 10, 100] {
        let (content, recipients) = (content(kib * 1024), recipients());
        group.throughput(Throughput::Elements(COMMIT_MESSAGES));
        group.bench_function(BenchmarkId::from_parameter(kib), |b| {
            let mut world = World::new();
            b.iter(|| world.pass(&content, &recipients));
        });
    }
    group.finish();
}

fn read_back(c: &mut Criterion) {
    let mut group = c.benchmark_group("spool: decode a record");
    for kib in [1, 10, 100] {
        let mut world = World::new();
        let batch = world.store(&content(kib * 1024), &recipients());
        world.run();
        let at = world.spool.locate(batch).expect("it was stored");
        let start = (at.offset - world.written.0) as usize;
        let record = &world.written.1[start..start + at.bytes as usize];
        let bytes = Bytes::copy_from_slice(record);
        group.throughput(Throughput::Bytes(u64::from(at.bytes)));
        group.bench_function(BenchmarkId::from_parameter(kib), |b| {
            b.iter(|| {
                world
                    .spool
                    .decode_read(batch, at, black_box(&bytes))
                    .expect("sound")
            });
        });
    }
    group.finish();
}

fn settings() -> Criterion {
    Criterion::default()
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
}

criterion_group! { name = benches; config = settings(); targets = commits, read_back }
criterion_main!(benches);
