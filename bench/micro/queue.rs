//! The queues of a shard with ten thousand and with ten million messages: what one step of one
//! message costs must not grow with what waits beside it.
//!
//! Messages come in at ten thousand a second, each for a domain that is drawn anew, and so do steps
//! happen: what is touched next has nothing to do with what was touched before, and lies in a cache
//! only if all does. What a step undoes is done again outside of the measured time.

use core::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use criterion::measurement::Measurement;
use criterion::measurement::WallTime;
use pelton::base::prng::Prng;
use pelton::base::time::Mono;
use pelton::base::time::Now;
use pelton::base::time::Wall;
use pelton::queue::Budget;
use pelton::queue::Ending;
use pelton::queue::EntryId;
use pelton::queue::Failed;
use pelton::queue::MaxRetries;
use pelton::queue::QueueId;
use pelton::queue::Queues;
use pelton::queue::Settings;
use pelton::queue::Taken;
use pelton::queue::Wake;
use pelton::types::address::Address;
use pelton::types::id::BatchId;
use pelton::types::id::ShardId;
use pelton::types::message::Arrival;
use pelton::types::message::Progress;
use pelton::types::sender::Sender;
use pelton::types::sender::SenderHash;

const SIZES: [u64; 2] = [10_000, 10_000_000];
const DOMAINS: u64 = 1_000;
/// Steps that are timed together.
const STEPS: u64 = 256;
/// Time from one message to the next.
const GAP_US: u64 = 100;

/// Queues with so many messages, and what is needed for one more.
struct Filled {
    queues: Queues,
    ids: Vec<QueueId>,
    addresses: Vec<Address>,
    binding: Arc<str>,
    batch: u64,
    prng: Prng,
    now: Now,
}

impl Filled {
    fn with(messages: u64) -> Filled {
        let now = Now {
            mono: Mono(0),
            wall: Wall::from_secs(1_700_000_000),
        };
        let binding: Arc<str> = "a".into();
        let settings = Rc::new(Settings {
            retry_interval: Duration::from_secs(3_600),
            max_retry_interval: Duration::from_secs(3_600),
            max_retries: MaxRetries::None,
            message_expiration: Duration::from_secs(1_000_000_000),
            ..Settings::default()
        });
        let mut queues = Queues::new(now, Budget::default());
        let domains: Vec<String> = (0..DOMAINS).map(|n| format!("d{n}.example")).collect();
        let open = |domain: &String| queues.open(now, &binding, domain, &settings);
        let ids = domains.iter().map(open).collect();
        let address = |domain: &String| Address::from_parts("somebody", domain).expect("valid");
        let addresses = domains.iter().map(address).collect();
        let mut filled = Filled {
            queues,
            ids,
            addresses,
            binding,
            batch: 0,
            prng: Prng::new(1),
            now,
        };
        for number in 0..messages {
            // The same number in each, lest one of few runs dry.
            filled.insert((number % DOMAINS) as usize);
        }
        filled
    }

    fn pass(&mut self, us: u64) {
        self.now.mono.0 += us;
        self.now.wall.0 += us;
    }

    /// Domains for the next steps, all different.
    fn draw(&mut self) -> Vec<usize> {
        let mut all: Vec<usize> = (0..DOMAINS as usize).collect();
        for at in 0..STEPS as usize {
            let other = self.prng.between(at as u64, DOMAINS - 1) as usize;
            all.swap(at, other);
        }
        all.truncate(STEPS as usize);
        all
    }

    fn insert(&mut self, domain: usize) {
        self.pass(GAP_US);
        self.batch += 1;
        let arrival = Arrival {
            batch: BatchId(self.batch),
            recipient: 0,
            home: ShardId(0),
            address: self.addresses[domain].clone(),
            binding: self.binding.clone(),
            received: self.now.wall,
            size: 4_096,
            flow: None,
            sender: Sender::Hash(SenderHash::of("news@sender.example")),
            progress: Progress::default(),
            moved: None,
            in_doubt: false,
        };
        self.queues
            .insert(self.now, self.ids[domain], arrival, None);
    }

    fn take(&mut self, domain: usize) -> EntryId {
        let Taken::Batch(batch) = self.queues.take(self.now, self.ids[domain], 1) else {
            panic!("every queue has some");
        };
        black_box(&batch).recipients[0].0
    }

    fn finish(&mut self, entry: EntryId) {
        let finished = self.queues.finish(self.now, entry, Ending::Delivered);
        black_box(finished.expect("in flight"));
    }

    fn fail(&mut self, entry: EntryId) {
        let failed = self.queues.fail(self.now, entry).expect("in flight");
        assert!(matches!(black_box(failed), Failed::Delayed { .. }));
    }
}

fn timed(mut steps: impl FnMut()) -> Duration {
    let began = WallTime.start();
    steps();
    WallTime.end(began)
}

/// Times `round`, which makes [`STEPS`] steps and tells how long they took.
fn measure(c: &mut Criterion, name: &str, round: impl Fn(&mut Filled) -> Duration) {
    let mut group = c.benchmark_group(format!("queue: {name}"));
    group.throughput(Throughput::Elements(STEPS));
    for messages in SIZES {
        let mut filled = Filled::with(messages);
        group.bench_function(BenchmarkId::from_parameter(messages), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| round(&mut filled)).sum());
        });
    }
    group.finish();
}

fn insert(c: &mut Criterion) {
    measure(c, "insert", |filled| {
        let domains = filled.draw();
        for domain in &domains {
            let entry = filled.take(*domain);
            filled.finish(entry);
        }
        timed(|| domains.iter().for_each(|domain| filled.insert(*domain)))
    });
}

fn take_and_finish(c: &mut Criterion) {
    measure(c, "take, finish", |filled| {
        let domains = filled.draw();
        for domain in &domains {
            filled.insert(*domain);
        }
        timed(|| {
            for domain in &domains {
                let entry = filled.take(*domain);
                filled.finish(entry);
            }
        })
    });
}

fn take_and_fail(c: &mut Criterion) {
    measure(c, "take, fail", |filled| {
        let domains = filled.draw();
        let mut failed = Vec::new();
        let spent = timed(|| {
            for domain in &domains {
                filled.pass(GAP_US);
                let entry = filled.take(*domain);
                filled.fail(entry);
                failed.push(entry);
            }
        });
        for entry in failed {
            assert!(filled.queues.retry(filled.now, entry));
        }
        spent
    });
}

/// All messages are delayed, and due one after the other; those that fall due are made to wait
/// again.
fn fall_due(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue: fall due");
    for messages in SIZES {
        let mut filled = Filled::with(messages);
        for number in 0..messages {
            filled.pass(GAP_US);
            let entry = filled.take((number % DOMAINS) as usize);
            filled.fail(entry);
        }
        group.bench_function(BenchmarkId::from_parameter(messages), |b| {
            b.iter_custom(|entries| {
                let mut spent = Duration::ZERO;
                let mut due = 0;
                while due < entries {
                    due += fall_due_once(&mut filled, &mut spent);
                }
                spent.mul_f64(entries as f64 / due as f64)
            });
        });
    }
    group.finish();
}

/// Lets some time pass and does what is due then: tells how many entries that were.
fn fall_due_once(filled: &mut Filled, spent: &mut Duration) -> u64 {
    let next = filled.queues.next_wakeup().expect("messages are delayed");
    filled.now.wall.0 += next.0.saturating_sub(filled.now.mono.0);
    filled.now.mono = filled.now.mono.max(next);
    let mut wakes = Vec::new();
    *spent += timed(|| filled.queues.advance(filled.now, &mut wakes));
    let mut due = 0;
    for wake in wakes {
        let Wake::Active(queue) = wake else {
            panic!("nothing expires: {wake:?}");
        };
        while let Taken::Batch(batch) = filled.queues.take(filled.now, queue, 1) {
            filled.fail(batch.recipients[0].0);
            due += 1;
        }
    }
    due
}

fn advance_with_nothing_due(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue: advance, nothing due");
    for messages in SIZES {
        let mut filled = Filled::with(messages);
        group.bench_function(BenchmarkId::from_parameter(messages), |b| {
            let mut wakes = Vec::new();
            b.iter(|| {
                filled.queues.advance(filled.now, black_box(&mut wakes));
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
    targets = insert, take_and_finish, take_and_fail, fall_due, advance_with_nothing_due
}
criterion_main!(benches);
