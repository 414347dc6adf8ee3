//! The timer wheel with few and with many timers in it: the figures must not differ by more than
//! the caches explain.

use core::hint::black_box;
use std::time::Duration;

use criterion::BatchSize;
use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use pelton::base::prng::Prng;
use pelton::base::time::Mono;
use pelton::base::timer_wheel::TimerWheel;

const SIZES: [u64; 2] = [1_000, 1_000_000];

/// Retries lie between a moment and half a day ahead.
const AHEAD_US_MAX: u64 = 43_200_000_000;

fn filled(timers: u64) -> (TimerWheel<u64>, Prng) {
    let mut prng = Prng::stream(1, "timers");
    let mut wheel = TimerWheel::new(Mono(0));
    for number in 0..timers {
        wheel.insert(Mono(prng.between(1, AHEAD_US_MAX)), number);
    }
    (wheel, prng)
}

fn set_and_cancel(c: &mut Criterion) {
    let mut group = c.benchmark_group("timer wheel: set and cancel");
    for timers in SIZES {
        group.bench_function(BenchmarkId::from_parameter(timers), |b| {
            let (mut wheel, mut prng) = filled(timers);
            b.iter(|| {
                let key = wheel.insert(Mono(prng.between(1, AHEAD_US_MAX)), 0);
                wheel.cancel(black_box(key)).expect("set just now")
            });
        });
    }
    group.finish();
}

fn expire_and_set_again(c: &mut Criterion) {
    let mut group = c.benchmark_group("timer wheel: expire and set again");
    for timers in SIZES {
        group.bench_function(BenchmarkId::from_parameter(timers), |b| {
            let (mut wheel, mut prng) = filled(timers);
            let mut fired = Vec::new();
            b.iter(|| {
                let next = wheel.next().expect("timers are set");
                wheel.expire(next, &mut fired);
                for number in fired.drain(..) {
                    wheel.insert(Mono(next.0 + prng.between(1, AHEAD_US_MAX)), number);
                }
            });
        });
    }
    group.finish();
}

fn expire_all(c: &mut Criterion) {
    let mut group = c.benchmark_group("timer wheel: all at once");
    let timers = 100_000;
    group.throughput(Throughput::Elements(timers));
    group.bench_function(BenchmarkId::from_parameter(timers), |b| {
        b.iter_batched_ref(
            || (filled(timers).0, Vec::new()),
            |(wheel, fired)| {
                wheel.expire(Mono(AHEAD_US_MAX + 1_000_000), fired);
                assert_eq!(fired.len() as u64, timers);
            },
            BatchSize::PerIteration,
        );
    });
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
    targets = set_and_cancel, expire_and_set_again, expire_all
}
criterion_main!(benches);
