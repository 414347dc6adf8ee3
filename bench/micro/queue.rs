//! The queues of a shard with ten thousand and with ten million messages in a thousand queues: what
//! one message costs must not grow with what waits beside it.

use core::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use pelton::base::time::Mono;
use pelton::base::time::Now;
use pelton::base::time::Wall;
use pelton::queue::Budget;
use pelton::queue::Ending;
use pelton::queue::Failed;
use pelton::queue::QueueId;
use pelton::queue::Queues;
use pelton::queue::Settings;
use pelton::queue::Taken;
use pelton::types::address::Address;
use pelton::types::id::BatchId;
use pelton::types::id::ShardId;
use pelton::types::message::Arrival;
use pelton::types::message::Progress;

const SIZES: [u64; 2] = [10_000, 10_000_000];
const DOMAINS: u64 = 1_000;

fn at(secs: u64) -> Now {
    Now {
        mono: Mono(secs * 1_000_000),
        wall: Wall::from_secs(1_700_000_000 + secs),
    }
}

/// Queues with so many messages, and what is needed for one more.
struct Filled {
    queues: Queues,
    ids: Vec<QueueId>,
    addresses: Vec<Address>,
    binding: Arc<str>,
    batch: u64,
}

impl Filled {
    /// The messages lie in all queues but the first, so that the one that is measured goes
    /// through a queue of its own and through the tables of all.
    fn with(messages: u64) -> Filled {
        let binding: Arc<str> = "a".into();
        let settings = Rc::new(Settings::default());
        let mut queues = Queues::new(at(0), Budget::default());
        let domains: Vec<String> = (0..DOMAINS).map(|n| format!("d{n}.example")).collect();
        let open = |domain: &String| queues.open(at(0), &binding, domain, &settings);
        let ids = domains.iter().map(open).collect();
        let address = |domain: &String| Address::from_parts("somebody", domain).expect("valid");
        let addresses = domains.iter().map(address).collect();
        let mut filled = Filled {
            queues,
            ids,
            addresses,
            binding,
            batch: 0,
        };
        for number in 0..messages {
            filled.insert(1 + (number % (DOMAINS - 1)) as usize, Progress::default());
        }
        filled
    }

    fn insert(&mut self, domain: usize, progress: Progress) {
        self.batch += 1;
        let arrival = Arrival {
            batch: BatchId(self.batch),
            recipient: 0,
            home: ShardId(0),
            address: self.addresses[domain].clone(),
            binding: self.binding.clone(),
            received: at(0).wall,
            size: 4_096,
            progress,
            in_doubt: false,
        };
        self.queues.insert(at(0), self.ids[domain], arrival, None);
    }
}

fn insert_take_finish(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue: insert, take, finish");
    for messages in SIZES {
        group.bench_function(BenchmarkId::from_parameter(messages), |b| {
            let mut filled = Filled::with(messages);
            b.iter(|| {
                filled.insert(0, Progress::default());
                let Taken::Batch(batch) = filled.queues.take(at(0), filled.ids[0], 1) else {
                    panic!("a message was inserted just now");
                };
                let (entry, _) = black_box(&batch.recipients[0]);
                filled
                    .queues
                    .finish(at(0), *entry, Ending::Delivered)
                    .expect("in flight")
            });
        });
    }
    group.finish();
}

fn take_and_fail(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue: insert, take, fail, finish delayed");
    for messages in SIZES {
        group.bench_function(BenchmarkId::from_parameter(messages), |b| {
            let mut filled = Filled::with(messages);
            b.iter(|| {
                filled.insert(0, Progress::default());
                let Taken::Batch(batch) = filled.queues.take(at(0), filled.ids[0], 1) else {
                    panic!("a message was inserted just now");
                };
                let entry = batch.recipients[0].0;
                let failed = filled.queues.fail(at(0), entry).expect("in flight");
                assert!(matches!(failed, Failed::Delayed { .. }));
                filled
                    .queues
                    .finish(at(0), entry, Ending::Withdrawn)
                    .expect("delayed")
            });
        });
    }
    group.finish();
}

fn advance_with_nothing_due(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue: advance, nothing due");
    for messages in SIZES {
        group.bench_function(BenchmarkId::from_parameter(messages), |b| {
            let mut filled = Filled::with(messages);
            let mut wakes = Vec::new();
            b.iter(|| {
                filled.queues.advance(at(0), black_box(&mut wakes));
                assert!(wakes.is_empty());
                filled.queues.next_wakeup()
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

criterion_group! {
    name = benches;
    config = settings();
    targets = insert_take_finish, take_and_fail, advance_with_nothing_due
}
criterion_main!(benches);
