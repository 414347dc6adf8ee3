//! What a load generator has seen: one set of statistics per executor, added up on demand, and the
//! report made of the sum.

use core::time::Duration;
use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest transaction that a histogram tells apart, in microseconds: one hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Statistics of one executor, or of all.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Transactions begun.
    pub started: u64,
    /// Messages whose final reply was 2xx.
    pub acknowledged: u64,
    /// Messages refused by a 4xx or 5xx at any stage, or by a reply that fits no stage.
    pub refused: u64,
    /// Messages sent whole for which no final reply came.
    pub unacknowledged: u64,
    /// Transactions cut short before their message was sent whole.
    pub aborted: u64,
    /// Recipients accepted within acknowledged messages.
    pub recipients: u64,
    /// Recipients refused.
    pub recipients_refused: u64,
    /// Bytes of acknowledged messages.
    pub bytes: u64,
    pub connections_opened: u64,
    /// Attempts that did not reach a greeting and an EHLO reply of 2xx.
    pub connections_failed: u64,
    /// Connections that ended while they were in use.
    pub connections_lost: u64,
    /// Waits for a reply given up after the time limit, among the lost.
    pub timeouts: u64,
    codes: Vec<u64>,
    /// Microseconds from MAIL, or from the moment it was meant to begin, to the final reply.
    latency: Histogram<u64>,
}

impl Default for Stats {
    fn default() -> Stats {
        let latency = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
        Stats {
            started: 0,
            acknowledged: 0,
            refused: 0,
            unacknowledged: 0,
            aborted: 0,
            recipients: 0,
            recipients_refused: 0,
            bytes: 0,
            connections_opened: 0,
            connections_failed: 0,
            connections_lost: 0,
            timeouts: 0,
            codes: vec![0; 1_000],
            latency: latency.expect("the bounds are constants that the library accepts"),
        }
    }
}

impl Stats {
    pub(super) fn reply(&mut self, code: u16) {
        if let Some(count) = self.codes.get_mut(usize::from(code)) {
            *count += 1;
        }
    }

    pub(super) fn transaction(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(us.max(1));
    }

    pub(super) fn add(&mut self, other: &Stats) {
        self.started += other.started;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unacknowledged += other.unacknowledged;
        self.aborted += other.aborted;
        self.recipients += other.recipients;
        self.recipients_refused += other.recipients_refused;
        self.bytes += other.bytes;
        self.connections_opened += other.connections_opened;
        self.connections_failed += other.connections_failed;
        self.connections_lost += other.connections_lost;
        self.timeouts += other.timeouts;
        for (sum, count) in self.codes.iter_mut().zip(&other.codes) {
            *sum += count;
        }
        self.latency
            .add(&other.latency)
            .expect("all histograms have the same bounds");
    }

    /// How often `code` came, as any reply.
    pub fn code(&self, code: u16) -> u64 {
        self.codes.get(usize::from(code)).copied().unwrap_or(0)
    }

    /// The latency below which `quantile` (0 to 1) of the transactions lie.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(quantile))
    }

    /// Transactions with a final reply.
    pub fn transactions(&self) -> u64 {
        self.latency.len()
    }
}

/// Latencies of a report, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean: f64,
    pub min: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p999: u64,
    pub max: u64,
}

/// The result of a run, as `pelton-blast --json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub schema: &'static str,
    /// Names the run in every message of it: eight hexadecimal digits.
    pub run: String,
    pub elapsed_seconds: f64,
    /// Messages that the run was to send and did not begin; null if it had no number.
    pub not_started: Option<u64>,
    pub started: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub unacknowledged: u64,
    pub aborted: u64,
    pub recipients: u64,
    pub recipients_refused: u64,
    pub size_bytes: u64,
    pub messages_per_second: f64,
    pub bytes_per_second: f64,
    pub connections_opened: u64,
    pub connections_failed: u64,
    pub connections_lost: u64,
    pub timeouts: u64,
    /// All replies by code.
    pub replies: BTreeMap<String, u64>,
    /// From MAIL to the final reply; with a rate, from the moment the message was due.
    pub latency_us: Latency,
    /// Why the run ended before its time, if a connection met what it cannot work with.
    pub fault: Option<String>,
    /// What ended the first connection that did not end as it should.
    pub trouble: Option<String>,
}

impl Report {
    pub(super) fn new(run: u32, messages: Option<u64>, elapsed: Duration, stats: &Stats) -> Report {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let codes = (0..).zip(&stats.codes).filter(|(_, count)| **count > 0);
        let at = |quantile| stats.latency.value_at_quantile(quantile);
        Report {
            schema: "pelton-blast.run/1",
            run: format!("{run:08x}"),
            elapsed_seconds: elapsed.as_secs_f64(),
            not_started: messages.map(|messages| messages.saturating_sub(stats.started)),
            started: stats.started,
            acknowledged: stats.acknowledged,
            refused: stats.refused,
            unacknowledged: stats.unacknowledged,
            aborted: stats.aborted,
            recipients: stats.recipients,
            recipients_refused: stats.recipients_refused,
            size_bytes: stats.bytes,
            messages_per_second: stats.acknowledged as f64 / seconds,
            bytes_per_second: stats.bytes as f64 / seconds,
            connections_opened: stats.connections_opened,
            connections_failed: stats.connections_failed,
            connections_lost: stats.connections_lost,
            timeouts: stats.timeouts,
            replies: codes
                .map(|(code, count): (u16, _)| (format!("{code:03}"), *count))
                .collect(),
            latency_us: Latency {
                count: stats.latency.len(),
                mean: stats.latency.mean(),
                min: stats.latency.min(),
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: stats.latency.max(),
            },
            fault: None,
            trouble: None,
        }
    }

    /// Whether everything that was to be sent was acknowledged, to every recipient.
    pub fn is_clean(&self) -> bool {
        self.fault.is_none()
            && self.not_started.unwrap_or(0) == 0
            && self.acknowledged == self.started
            && self.recipients_refused == 0
    }
}
