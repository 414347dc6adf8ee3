//! The numbers of the engine as Prometheus text. One table names every counter and gauge with its
//! type and help; a test sees to it that no field of the statistics is left out.

use core::fmt::Write;

use crate::base::histogram::Histogram;
use crate::base::time::Wall;
use crate::engine::stats::ShardStats;

/// `Content-Type` of the text exposition format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Counter,
    Gauge,
}

struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    /// Label set with braces, and value. Nothing of a metric comes from outside the process, so
    /// that the number of series is fixed.
    read: fn(&ShardStats) -> Vec<(&'static str, u64)>,
}

macro_rules! metric {
    ($kind:ident, $name:literal, $help:literal, $($field:ident).+) => {
        Metric {
            name: $name,
            kind: Kind::$kind,
            help: $help,
            read: |stats| vec![("", stats.$($field).+)],
        }
    };
}

const TABLE: &[Metric] = &[
    metric!(
        Counter,
        "pelton_messages_injected_total",
        "Recipients accepted; each is a message of its own.",
        counters.messages_injected
    ),
    metric!(
        Counter,
        "pelton_messages_delivered_total",
        "Messages that a receiving host took.",
        counters.messages_delivered
    ),
    metric!(
        Counter,
        "pelton_messages_delayed_total",
        "Attempts that ended in a delay.",
        counters.messages_delayed
    ),
    metric!(
        Counter,
        "pelton_messages_rebound_total",
        "Messages that an operator has given to another binding.",
        counters.messages_rebound
    ),
    metric!(
        Counter,
        "pelton_messages_bounced_total",
        "Messages refused for good.",
        counters.messages_bounced
    ),
    metric!(
        Counter,
        "pelton_messages_expired_total",
        "Messages whose time or retries were up.",
        counters.messages_expired
    ),
    metric!(
        Counter,
        "pelton_messages_discarded_total",
        "Messages taken out by an operator or a blackhole.",
        counters.messages_discarded
    ),
    metric!(
        Counter,
        "pelton_messages_rejected_total",
        "Recipients and messages refused at reception.",
        counters.messages_rejected
    ),
    metric!(
        Counter,
        "pelton_messages_slowed_total",
        "Messages that waited for their turn under inbound_throttle_messages.",
        counters.messages_slowed
    ),
    metric!(
        Counter,
        "pelton_messages_recovered_total",
        "Messages found in the spool at the start.",
        counters.messages_recovered
    ),
    metric!(
        Counter,
        "pelton_transactions_accepted_total",
        "Transactions answered with 250 after the end of data.",
        counters.transactions_accepted
    ),
    metric!(
        Counter,
        "pelton_injected_bytes_total",
        "Bytes of accepted messages, once per transaction.",
        counters.bytes_injected
    ),
    metric!(
        Counter,
        "pelton_delivered_bytes_total",
        "Bytes of delivered messages.",
        counters.bytes_delivered
    ),
    metric!(
        Counter,
        "pelton_possible_duplicates_total",
        "Deliveries that may repeat an earlier one whose final reply was lost.",
        counters.possible_duplicates
    ),
    metric!(
        Counter,
        "pelton_spool_commits_total",
        "Group commits of the spool.",
        counters.spool_commits
    ),
    metric!(
        Counter,
        "pelton_spool_commit_messages_total",
        "Messages made durable by those commits.",
        counters.spool_commit_messages
    ),
    metric!(
        Counter,
        "pelton_spool_commit_bytes_total",
        "Bytes written by those commits.",
        counters.spool_commit_bytes
    ),
    metric!(
        Counter,
        "pelton_spool_commit_failures_total",
        "Commits that failed; their mail was refused, not lost.",
        counters.spool_commit_failures
    ),
    metric!(
        Counter,
        "pelton_connections_in_total",
        "SMTP connections accepted.",
        counters.connections_in
    ),
    metric!(
        Counter,
        "pelton_connections_in_refused_total",
        "SMTP connections turned away at a limit.",
        counters.connections_in_refused
    ),
    metric!(
        Counter,
        "pelton_connections_out_total",
        "Connections opened to receiving hosts.",
        counters.connections_out
    ),
    metric!(
        Counter,
        "pelton_connections_passed_total",
        "Connections that a domain took over from another one of the same hosts.",
        counters.connections_passed
    ),
    metric!(
        Counter,
        "pelton_connections_out_failed_total",
        "Connections to receiving hosts that could not be opened.",
        counters.connections_out_failed
    ),
    metric!(
        Counter,
        "pelton_body_reads_total",
        "Bodies read back from the spool.",
        counters.body_reads
    ),
    metric!(
        Counter,
        "pelton_compacted_messages_total",
        "Messages moved so that their segment could be reused.",
        counters.compacted_messages
    ),
    metric!(
        Counter,
        "pelton_mesh_messages_total",
        "Messages between shards.",
        counters.mesh_messages
    ),
    metric!(
        Counter,
        "pelton_events_written_total",
        "Events that are durable in the event log.",
        counters.events_written
    ),
    metric!(
        Counter,
        "pelton_events_lost_total",
        "Events that the event log could not keep.",
        counters.events_lost
    ),
    metric!(
        Counter,
        "pelton_event_log_failures_total",
        "Operations of the event log that failed.",
        counters.event_log_failures
    ),
    metric!(
        Counter,
        "pelton_dns_lookups_total",
        "Questions that shards asked control.",
        counters.dns_lookups
    ),
    metric!(
        Counter,
        "pelton_sends_total",
        "Send operations submitted.",
        counters.sends
    ),
    metric!(
        Counter,
        "pelton_receives_total",
        "Receive operations completed.",
        counters.receives
    ),
    Metric {
        name: "pelton_queue_messages",
        kind: Kind::Gauge,
        help: "Messages queued, by state.",
        read: |stats| {
            vec![
                ("{state=\"active\"}", stats.gauges.queue_active),
                ("{state=\"delayed\"}", stats.gauges.queue_delayed),
                ("{state=\"in_flight\"}", stats.gauges.queue_in_flight),
                ("{state=\"returning\"}", stats.gauges.queue_returning),
            ]
        },
    },
    metric!(
        Gauge,
        "pelton_queues",
        "Queues: pairs of binding and domain.",
        gauges.queues
    ),
    metric!(
        Gauge,
        "pelton_queues_failing",
        "Queues that rest because every host of theirs fails, or their source address does.",
        gauges.queues_failing
    ),
    metric!(
        Gauge,
        "pelton_unnamed_binding_messages",
        "Messages of bindings that the configuration does not name; the default sends them.",
        gauges.unnamed_binding_messages
    ),
    Metric {
        name: "pelton_connections",
        kind: Kind::Gauge,
        help: "Open SMTP connections, by direction.",
        read: |stats| {
            vec![
                ("{direction=\"in\"}", stats.gauges.sessions_in),
                ("{direction=\"out\"}", stats.gauges.sessions_out),
            ]
        },
    },
    metric!(
        Gauge,
        "pelton_resident_messages",
        "Transactions whose body is in memory.",
        gauges.resident_messages
    ),
    metric!(
        Gauge,
        "pelton_resident_body_bytes",
        "Bodies in memory.",
        gauges.resident_bytes
    ),
    metric!(
        Gauge,
        "pelton_queue_bytes",
        "Memory of the queues without bodies.",
        gauges.queue_bytes
    ),
    metric!(
        Gauge,
        "pelton_spool_messages",
        "Messages that live in the spool.",
        gauges.spool_messages
    ),
    metric!(
        Gauge,
        "pelton_spool_segments",
        "Segments of the spool.",
        gauges.spool_segments
    ),
    metric!(
        Gauge,
        "pelton_spool_bytes",
        "Size of those segments.",
        gauges.spool_bytes
    ),
    metric!(
        Gauge,
        "pelton_spool_live_bytes",
        "Bytes in them that are still needed.",
        gauges.spool_live_bytes
    ),
    metric!(
        Gauge,
        "pelton_oldest_message_seconds",
        "Age of the oldest queued message.",
        gauges.oldest_seconds
    ),
    metric!(
        Gauge,
        "pelton_spool_commits_pending",
        "Commits that wait for the disk.",
        gauges.commits_pending
    ),
    metric!(
        Gauge,
        "pelton_config_generation",
        "Generation of the configuration that runs.",
        gauges.config_generation
    ),
    Metric {
        name: "pelton_admission_closed",
        kind: Kind::Gauge,
        help: "1 while no mail is accepted.",
        read: |stats| vec![("", u64::from(!stats.gauges.admission_closed.is_empty()))],
    },
    Metric {
        name: "pelton_spool_stopped",
        kind: Kind::Gauge,
        help: "1 while the spool cannot be written.",
        read: |stats| vec![("", u64::from(stats.gauges.spool_stopped))],
    },
    Metric {
        name: "pelton_event_log_failing",
        kind: Kind::Gauge,
        help: "1 while the event log cannot be written and events wait in memory.",
        read: |stats| vec![("", u64::from(stats.gauges.event_log_failing))],
    },
    metric!(
        Gauge,
        "pelton_event_log_bytes",
        "Size of the event log.",
        gauges.event_log_bytes
    ),
    metric!(
        Gauge,
        "pelton_event_log_backlog_bytes",
        "Events that wait for the disk.",
        gauges.event_log_backlog_bytes
    ),
];

struct Latency {
    name: &'static str,
    help: &'static str,
    read: fn(&ShardStats) -> &Histogram,
}

const LATENCIES: &[Latency] = &[
    Latency {
        name: "pelton_spool_commit_seconds",
        help: "From the start of a commit to its completion.",
        read: |stats| &stats.commit_latency,
    },
    Latency {
        name: "pelton_delivery_seconds",
        help: "From acceptance to the final positive reply.",
        read: |stats| &stats.delivery_latency,
    },
    Latency {
        name: "pelton_injection_seconds",
        help: "From MAIL to the reply after the end of data, at reception.",
        read: |stats| &stats.injection_latency,
    },
];

/// What the kernel knows of this process; zero where it does not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Process {
    pub resident_bytes: u64,
    pub open_files: u64,
    /// Processor time, user and system together.
    pub cpu_micros: u64,
}

impl Process {
    pub fn read() -> Process {
        let pages = std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
        // SAFETY: sysconf has no preconditions.
        let page_bytes = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0);
        Process {
            resident_bytes: pages.unwrap_or(0) * page_bytes,
            open_files: open_files(),
            cpu_micros: cpu_micros(),
        }
    }
}

fn open_files() -> u64 {
    let folder = "/proc/self/fd";
    // A kernel from 6.2 on tells the number as the size of the folder, which costs the same however
    // many there are.
    let told = std::fs::metadata(folder).map_or(0, |it| it.len());
    if told > 0 {
        return told;
    }
    let listed = std::fs::read_dir(folder).map_or(0, |entries| entries.count() as u64);
    // One of them was the folder that was just read.
    listed.saturating_sub(1)
}

fn cpu_micros() -> u64 {
    // SAFETY: an all-zero rusage is a valid value of that plain C struct.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: `usage` may be written for the length of the call.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return 0;
    }
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    micros(usage.ru_utime) + micros(usage.ru_stime)
}

/// What does not change while the process runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Build<'a> {
    pub version: &'a str,
    pub started: Wall,
    pub shards: u64,
    /// Places in the spool that were found damaged at the start.
    pub spool_damage: u64,
    /// The start has not read all of the spool yet.
    pub reading: bool,
}

/// The whole page: `stats` of all shards together, of which `answered` did.
pub fn render(stats: &ShardStats, answered: u64, process: &Process, build: &Build<'_>) -> String {
    let mut page = Page(String::with_capacity(24 * 1_024));
    page.head("pelton_build_info", "gauge", "The running version.");
    page.labelled("pelton_build_info", "version", build.version, 1);
    page.single(
        "pelton_shards",
        "gauge",
        "Shards of this process.",
        build.shards,
    );
    page.single(
        "pelton_shards_answering",
        "gauge",
        "Shards counted on this page.",
        answered,
    );
    page.single(
        "pelton_spool_damage",
        "gauge",
        "Places in the spool that were found damaged at the start.",
        build.spool_damage,
    );
    page.single(
        "pelton_spool_loading",
        "gauge",
        "1 until all mail that the start has found on disk is in the queues.",
        u64::from(build.reading || stats.gauges.queue_returning > 0),
    );
    for metric in TABLE {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        page.head(metric.name, kind, metric.help);
        for (labels, value) in (metric.read)(stats) {
            page.line(format_args!("{}{labels} {value}", metric.name));
        }
    }
    for latency in LATENCIES {
        page.histogram(latency.name, latency.help, (latency.read)(stats));
    }
    let resident = process.resident_bytes;
    page.single(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory.",
        resident,
    );
    page.single(
        "process_open_fds",
        "gauge",
        "Open file descriptors.",
        process.open_files,
    );
    page.head(
        "process_cpu_seconds_total",
        "counter",
        "User and system time.",
    );
    let cpu = process.cpu_micros as f64 / 1e6;
    page.line(format_args!("process_cpu_seconds_total {cpu}"));
    page.head(
        "process_start_time_seconds",
        "gauge",
        "Start of the process since 1970.",
    );
    let started = build.started.0 as f64 / 1e6;
    page.line(format_args!("process_start_time_seconds {started}"));
    page.0
}

struct Page(String);

impl Page {
    fn line(&mut self, line: core::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.0.write_fmt(line);
        self.0.push('\n');
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(format_args!("{name} {value}"));
    }

    fn labelled(&mut self, name: &str, label: &str, text: &str, value: u64) {
        let text = text
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        self.line(format_args!("{name}{{{label}=\"{text}\"}} {value}"));
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        for (bound, total) in histogram.cumulative() {
            match bound {
                Some(bound) => {
                    let seconds = bound.as_secs_f64();
                    self.line(format_args!("{name}_bucket{{le=\"{seconds}\"}} {total}"));
                }
                None => self.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {total}")),
            }
        }
        self.line(format_args!("{name}_sum {}", histogram.sum().as_secs_f64()));
        self.line(format_args!("{name}_count {}", histogram.count()));
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::collections::BTreeMap;
    use std::collections::BTreeSet;

    use super::*;

    const BUILD: Build<'_> = Build {
        version: "1.0\"\\\n",
        started: Wall(1_700_000_000_500_000),
        shards: 2,
        spool_damage: 3,
        reading: true,
    };

    fn page(stats: &ShardStats) -> String {
        let process = Process {
            resident_bytes: 7,
            open_files: 8,
            cpu_micros: 2_500_000,
        };
        render(stats, 2, &process, &BUILD)
    }

    /// Series and values; panics at what the text format does not allow.
    fn parse(page: &str) -> BTreeMap<String, f64> {
        let mut series = BTreeMap::new();
        let mut types: BTreeMap<&str, &str> = BTreeMap::new();
        let mut closed = BTreeSet::new();
        let mut family = "";
        assert!(page.ends_with('\n'));
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help text");
                assert!(closed.insert(name), "{name} comes in one piece");
                assert!(help.ends_with('.') && !help.contains('\\'), "{line}");
                family = name;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(name, family, "TYPE follows HELP");
                assert!(["counter", "gauge", "histogram"].contains(&kind));
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                types.insert(name, kind);
            } else {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                let bare = name.split('{').next().unwrap_or_default();
                let of_name = |c: char| c.is_ascii_lowercase() || c == '_';
                assert!(!bare.is_empty() && bare.chars().all(of_name), "{bare}");
                let suffixes = ["_bucket", "_sum", "_count"];
                let stem = suffixes.iter().find_map(|suffix| bare.strip_suffix(suffix));
                let owner = if types[family] == "histogram" {
                    stem.unwrap_or("")
                } else {
                    bare
                };
                assert_eq!(owner, family);
                let value: f64 = value.parse().expect("a number");
                assert_eq!(series.insert(name.to_owned(), value), None, "{name} twice");
            }
        }
        series
    }

    #[test]
    fn the_page_is_valid_and_has_the_promised_names() {
        let mut stats = ShardStats::default();
        stats.counters.messages_injected = 12;
        stats.gauges.queue_delayed = 3;
        stats.gauges.admission_closed = "memory".into();
        stats.commit_latency.record(Duration::from_micros(900));
        stats.commit_latency.record(Duration::from_secs(1_000));
        let series = parse(&page(&stats));
        let expected = [
            ("pelton_messages_injected_total", 12.0),
            ("pelton_messages_delivered_total", 0.0),
            ("pelton_messages_delayed_total", 0.0),
            ("pelton_messages_bounced_total", 0.0),
            ("pelton_queue_messages{state=\"active\"}", 0.0),
            ("pelton_queue_messages{state=\"delayed\"}", 3.0),
            ("pelton_spool_commits_total", 0.0),
            ("pelton_spool_commit_messages_total", 0.0),
            ("pelton_possible_duplicates_total", 0.0),
            ("pelton_connections{direction=\"in\"}", 0.0),
            ("pelton_admission_closed", 1.0),
            ("pelton_spool_damage", 3.0),
            ("pelton_spool_loading", 1.0),
            ("pelton_spool_commit_seconds_bucket{le=\"0.000512\"}", 0.0),
            ("pelton_spool_commit_seconds_bucket{le=\"0.001024\"}", 1.0),
            ("pelton_spool_commit_seconds_bucket{le=\"+Inf\"}", 2.0),
            ("pelton_spool_commit_seconds_count", 2.0),
            ("pelton_spool_commit_seconds_sum", 1000.0009),
            ("pelton_delivery_seconds_count", 0.0),
            ("process_resident_memory_bytes", 7.0),
            ("process_open_fds", 8.0),
            ("process_cpu_seconds_total", 2.5),
            ("process_start_time_seconds", 1_700_000_000.5),
            ("pelton_build_info{version=\"1.0\\\"\\\\\\n\"}", 1.0),
        ];
        for (name, value) in expected {
            assert_eq!(series.get(name), Some(&value), "{name}");
        }
    }

    #[test]
    fn histograms_are_cumulative() {
        let mut stats = ShardStats::default();
        for micros in [1, 5, 80, 3_000, 3_000, 9_999_999] {
            stats.delivery_latency.record(Duration::from_micros(micros));
        }
        let text = page(&stats);
        let buckets = text
            .lines()
            .filter(|line| line.starts_with("pelton_delivery_seconds_bucket"));
        let bound = |line: &str| {
            let text = line
                .split('"')
                .nth(1)
                .map(str::to_owned)
                .unwrap_or_default();
            if text == "+Inf" {
                f64::INFINITY
            } else {
                text.parse().unwrap()
            }
        };
        let count = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        let pairs: Vec<(f64, u64)> = buckets.map(|line| (bound(line), count(line))).collect();
        assert!(
            pairs
                .windows(2)
                .all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1),
            "{pairs:?}"
        );
        assert_eq!(pairs.last(), Some(&(f64::INFINITY, 6)));
    }

    #[test]
    fn no_number_of_the_statistics_is_left_out() {
        let mut json = serde_json::to_value(ShardStats::default()).unwrap();
        let mut wanted = Vec::new();
        for part in ["counters", "gauges"] {
            for (field, value) in json[part].as_object_mut().unwrap() {
                if value.is_u64() {
                    let number = 1_000_003 + 17 * wanted.len() as u64;
                    *value = number.into();
                    wanted.push((field.clone(), number));
                }
            }
        }
        assert!(wanted.len() > 40);
        let stats: ShardStats = serde_json::from_value(json).unwrap();
        let values: Vec<f64> = parse(&page(&stats)).into_values().collect();
        for (field, number) in wanted {
            assert!(values.contains(&(number as f64)), "{field} is not exposed");
        }
    }

    #[test]
    fn the_kernel_tells_of_this_process() {
        let process = Process::read();
        assert!(process.resident_bytes > 1 << 20 && process.open_files >= 3);
    }
}
