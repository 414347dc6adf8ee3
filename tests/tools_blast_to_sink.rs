//! The load generator against the receiving hosts, in one process on loopback: what is sent
//! arrives once and byte for byte in every mode, and the checker finds what was planted.

#![allow(clippy::disallowed_methods)] // A rate is measured against the clock.

use std::fs;
use std::fs::File;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pelton::rig::blast::Blast;
use pelton::rig::blast::BlastConfig;
use pelton::rig::blast::Mode;
use pelton::rig::blast::idle::Idle;
use pelton::rig::blast::idle::IdleConfig;
use pelton::rig::blast::mix::Mix;
use pelton::rig::blast::stats::Report;
use pelton::rig::blast::verify;
use pelton::rig::blast::verify::Verification;
use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;
use pelton::rig::sink::behaviour::Behaviours;
use tempfile::TempDir;

/// No run here takes a tenth of this; it only keeps a fault from hanging the tests.
const DEADLINE: Duration = Duration::from_secs(60);

fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn sink(config: SinkConfig) -> (Sink, SocketAddr) {
    let sink = Sink::start(SinkConfig {
        listen: vec![localhost()],
        ..config
    })
    .expect("it listens");
    let addr = sink.addrs()[0];
    (sink, addr)
}

fn behaving(rules: &str) -> SinkConfig {
    let behaviours = Behaviours::parse(rules).expect("good rules");
    SinkConfig {
        behaviours,
        ..SinkConfig::default()
    }
}

fn blast(config: BlastConfig) -> Report {
    let blast = Blast::start(config).expect("it starts");
    assert!(
        blast.wait(DEADLINE),
        "the run does not end: {:?}",
        blast.stats()
    );
    blast.finish()
}

fn compare(folder: &Path) -> Verification {
    let open = |name| BufReader::new(File::open(folder.join(name)).expect("the file is there"));
    verify::verify(open("acked"), open("capture")).expect("both files make sense")
}

#[test]
fn every_mode_delivers_every_message_once_and_whole() {
    let modes = [
        Mode::Lockstep,
        Mode::Pipelining,
        Mode::PipelineNext,
        Mode::BdatGroup(1),
        Mode::BdatGroup(4),
    ];
    for mode in modes {
        let folder = TempDir::new().expect("a folder");
        let capture = Some(folder.path().join("capture"));
        let (sink, addr) = sink(SinkConfig {
            threads: 2,
            capture,
            ..SinkConfig::default()
        });
        let report = blast(BlastConfig {
            threads: 2,
            connections: 5,
            messages: Some(203),
            mode,
            sizes: Mix::sizes("512:3,4096:5,70001:1,300000:1").expect("a mix"),
            domains: Mix::numbered_domains(7).expect("a mix"),
            recipients_per_message: 3,
            sources: vec![[127, 0, 0, 10].into(), [127, 0, 0, 11].into()],
            messages_per_connection: Some(11),
            acked: Some(folder.path().join("acked")),
            ..BlastConfig::to(addr)
        });
        assert!(report.is_clean(), "{mode:?}: {report:?}");
        assert_eq!(
            (report.acknowledged, report.recipients),
            (203, 609),
            "{mode:?}"
        );
        assert_eq!(report.latency_us.count, 203);
        assert!(
            report.connections_opened >= 203 / 11,
            "{mode:?}: {report:?}"
        );
        let counts = sink.stop();
        assert_eq!((counts.messages, counts.recipients), (203, 609), "{mode:?}");
        let bdat = matches!(mode, Mode::BdatGroup(_));
        // By DATA the dots of transparency come on top.
        assert_eq!(counts.bytes == report.size_bytes, bdat, "{mode:?}");
        assert!(counts.bytes >= report.size_bytes, "{mode:?}");
        assert_eq!(
            (counts.connections_open, counts.lost_in_transaction),
            (0, 0),
            "{mode:?}"
        );
        let delivered: u64 = counts.domains().map(|(_, domain)| domain.delivered).sum();
        assert_eq!((counts.domains().count(), delivered), (7, 609), "{mode:?}");
        let by_bdat = if matches!(mode, Mode::BdatGroup(_)) {
            203
        } else {
            0
        };
        assert_eq!(counts.bdat_messages, by_bdat, "{mode:?}");
        let seen = compare(folder.path());
        assert!(seen.is_clean(0), "{mode:?}: {seen:?}");
        assert_eq!(
            (seen.acknowledged, seen.delivered, seen.captured_messages),
            (609, 609, 203)
        );
    }
}

#[test]
fn refusals_at_every_stage_are_counted_and_the_run_goes_on() {
    let rules = "domain d0.example reply=\"550 5.1.1 nobody\"\n\
                 domain d1.example at=data reply=\"451 4.3.0 later\"\n\
                 domain d2.example at=dot reply=\"554 5.6.0 no\"\n";
    for mode in [
        Mode::Lockstep,
        Mode::Pipelining,
        Mode::PipelineNext,
        Mode::BdatGroup(3),
    ] {
        let (sink, addr) = sink(behaving(rules));
        let report = blast(BlastConfig {
            messages: Some(120),
            connections: 3,
            mode,
            domains: Mix::numbered_domains(4).expect("a mix"),
            ..BlastConfig::to(addr)
        });
        let counts = sink.stop();
        let [d0, d1, d2, d3] = [0, 1, 2, 3].map(|n| counts.domain(&format!("d{n}.example")));
        assert!(
            d0.rejected > 0 && d1.recipients > 0 && d2.recipients > 0,
            "{mode:?}"
        );
        assert_eq!((d0.delivered, d2.delivered), (0, 0), "{mode:?}");
        // There is no DATA to refuse in a BDAT transaction.
        let by_data = if matches!(mode, Mode::BdatGroup(_)) {
            0
        } else {
            d1.recipients
        };
        assert_eq!(
            report.refused,
            d0.rejected + by_data + d2.recipients,
            "{mode:?}: {report:?}"
        );
        assert_eq!(report.acknowledged, d3.delivered + d1.delivered, "{mode:?}");
        assert_eq!(report.refused + report.acknowledged, 120, "{mode:?}");
        assert_eq!(
            (report.connections_lost, report.aborted),
            (0, 0),
            "{mode:?}: {report:?}"
        );
        assert!(!report.is_clean());
    }
}

#[test]
fn an_open_loop_keeps_its_rate_and_counts_the_wait_of_what_was_due() {
    // One connection that takes 50 ms a message is asked for one every 10 ms: the last of ten is
    // due at 90 ms and answered after 500.
    let (sink, addr) = sink(behaving("domain * at=dot delay=50ms"));
    let report = blast(BlastConfig {
        messages: Some(10),
        rate: Some(100.0),
        ..BlastConfig::to(addr)
    });
    assert!(report.is_clean(), "{report:?}");
    assert!(report.latency_us.max >= 400_000, "{report:?}");
    assert!(report.latency_us.min >= 50_000, "{report:?}");
    drop(sink);
    let (_sink, addr) = self::sink(SinkConfig::default());
    let report = blast(BlastConfig {
        messages: Some(21),
        rate: Some(200.0),
        ..BlastConfig::to(addr)
    });
    assert!(
        report.is_clean() && report.elapsed_seconds >= 0.1,
        "{report:?}"
    );
}

#[test]
fn a_run_of_a_duration_ends_with_everything_answered() {
    let (sink, addr) = sink(SinkConfig::default());
    let report = blast(BlastConfig {
        connections: 4,
        duration: Some(Duration::from_millis(200)),
        mode: Mode::PipelineNext,
        ..BlastConfig::to(addr)
    });
    assert!(report.is_clean() && report.acknowledged > 0, "{report:?}");
    assert!(report.elapsed_seconds >= 0.2, "{report:?}");
    assert_eq!(sink.stop().messages, report.acknowledged);
}

#[test]
fn a_run_survives_a_server_that_dies_and_nothing_acknowledged_is_lost() {
    let folder = TempDir::new().expect("a folder");
    let capture = Some(folder.path().join("capture"));
    let config = SinkConfig {
        capture,
        ..SinkConfig::default()
    };
    let (first, addr) = sink(config.clone());
    let blast = Blast::start(BlastConfig {
        connections: 4,
        messages: Some(5_000),
        mode: Mode::BdatGroup(2),
        reconnect: true,
        acked: Some(folder.path().join("acked")),
        ..BlastConfig::to(addr)
    })
    .expect("it starts");
    assert!(first.wait_for_messages(500, DEADLINE));
    drop(first);
    let second = Sink::start(SinkConfig {
        listen: vec![addr],
        ..config
    })
    .expect("it listens");
    assert!(blast.wait(DEADLINE), "{:?}", blast.stats());
    let report = blast.finish();
    drop(second);
    assert!(report.connections_lost > 0, "{report:?}");
    assert_eq!((report.started, report.refused), (5_000, 0), "{report:?}");
    let without = report.unacknowledged + report.aborted;
    assert_eq!(report.acknowledged + without, 5_000, "{report:?}");
    let seen = compare(folder.path());
    assert!(seen.is_clean(0), "{seen:?}");
    assert_eq!(seen.acknowledged, report.acknowledged);
    assert!(
        seen.unacknowledged_delivered <= report.unacknowledged,
        "{seen:?} {report:?}"
    );
}

#[test]
fn messages_dropped_after_the_dot_are_unacknowledged_and_captured_as_such() {
    let folder = TempDir::new().expect("a folder");
    let capture = Some(folder.path().join("capture"));
    let rules = "domain d0.example at=dot close";
    let (sink, addr) = sink(SinkConfig {
        capture,
        ..behaving(rules)
    });
    let report = blast(BlastConfig {
        messages: Some(20),
        domains: Mix::numbered_domains(2).expect("a mix"),
        reconnect: true,
        acked: Some(folder.path().join("acked")),
        ..BlastConfig::to(addr)
    });
    let counts = sink.stop();
    assert!(counts.dropped_after_dot > 0);
    assert_eq!(
        report.unacknowledged, counts.dropped_after_dot,
        "{report:?}"
    );
    assert_eq!(report.acknowledged, counts.messages);
    let seen = compare(folder.path());
    assert_eq!(seen.unconfirmed, counts.dropped_after_dot);
    assert!(seen.is_clean(0), "{seen:?}");
}

#[test]
fn a_loss_a_duplicate_and_a_change_that_were_planted_are_found() {
    let folder = TempDir::new().expect("a folder");
    let capture = folder.path().join("capture");
    let (sink, addr) = sink(SinkConfig {
        capture: Some(capture.clone()),
        ..SinkConfig::default()
    });
    let report = blast(BlastConfig {
        messages: Some(10),
        acked: Some(folder.path().join("acked")),
        ..BlastConfig::to(addr)
    });
    assert!(report.is_clean());
    drop(sink);
    assert!(compare(folder.path()).is_clean(0));

    let text = fs::read_to_string(&capture).expect("the capture file is text");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.remove(3);
    lines.push(lines[5].clone());
    let body = lines[0].find("\"body\":\"").expect("it has a body") + 2_000;
    let digit = if lines[0].as_bytes()[body] == b'A' {
        "B"
    } else {
        "A"
    };
    lines[0].replace_range(body..body + 1, digit);
    fs::write(&capture, lines.join("\n") + "\n").expect("it can be written");
    let seen = compare(folder.path());
    assert_eq!(
        (seen.lost, seen.duplicated, seen.corrupt, seen.foreign),
        (1, 1, 1, 0),
        "{seen:?}"
    );
}

#[test]
fn what_a_run_cannot_work_with_is_said() {
    let mut without = SinkConfig::default();
    assert!(without.extensions.without("pipelining"));
    let (_sink, addr) = sink(without);
    let report = blast(BlastConfig {
        messages: Some(5),
        mode: Mode::Pipelining,
        ..BlastConfig::to(addr)
    });
    assert_eq!(
        report.fault,
        Some(format!("{addr} does not offer PIPELINING"))
    );

    let (gone, addr) = sink(SinkConfig::default());
    drop(gone);
    let report = blast(BlastConfig {
        messages: Some(5),
        ..BlastConfig::to(addr)
    });
    assert_eq!(
        (report.connections_opened, report.connections_failed),
        (0, 1)
    );
    assert_eq!((report.not_started, report.is_clean()), (Some(5), false));
    let trouble = report.trouble.expect("there was some");
    assert!(trouble.contains("refused"), "{trouble}");
}

#[test]
fn a_run_ends_with_its_time_although_nobody_is_there() {
    let (gone, addr) = sink(SinkConfig::default());
    drop(gone);
    for rate in [None, Some(100.0)] {
        let report = blast(BlastConfig {
            duration: Some(Duration::from_millis(300)),
            connections: 3,
            reconnect: true,
            rate,
            ..BlastConfig::to(addr)
        });
        assert!(report.connections_failed >= 6, "{report:?}");
        assert_eq!((report.started, report.is_clean()), (0, false));
        let fault = report.fault.expect("it is said");
        assert!(fault.contains("could not be reached"), "{fault}");
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up_after_the_time_limit() {
    let (_sink, addr) = sink(behaving("domain * at=dot delay=1h"));
    let report = blast(BlastConfig {
        messages: Some(1),
        reply_timeout: Duration::from_millis(200),
        ..BlastConfig::to(addr)
    });
    assert_eq!(
        (report.timeouts, report.unacknowledged, report.acknowledged),
        (1, 1, 0)
    );
}

#[test]
fn idle_connections_are_held_and_their_end_is_seen() {
    let (sink, addr) = sink(SinkConfig::default());
    let idle = Idle::start(IdleConfig {
        target: addr,
        connections: 300,
        sources: Vec::new(),
    })
    .expect("it starts");
    let settled = || idle.is_settled();
    wait_until(settled);
    assert_eq!((idle.report().alive, idle.report().failed), (300, 0));
    assert_eq!(sink.counts().connections_open, 300);
    drop(sink);
    wait_until(|| idle.report().ended == 300);
    assert_eq!(idle.report().alive, 0);
}

fn wait_until(condition: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < DEADLINE, "it never came true");
        std::thread::yield_now();
    }
}

#[test]
fn a_run_that_could_send_nothing_says_so_and_why() {
    // A port that was free a moment ago: nobody listens there.
    let free = std::net::TcpListener::bind(localhost()).expect("a port");
    let target = free.local_addr().expect("it is bound").to_string();
    drop(free);
    for json in [false, true] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pelton-blast"));
        command.args(["--target", &target, "--connections", "1", "--messages", "3"]);
        let ran = command
            .args(json.then_some("--json"))
            .output()
            .expect("it runs");
        assert_eq!(ran.status.code(), Some(1));
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let (out, err) = (text(ran.stdout), text(ran.stderr));
        assert!(err.contains("nothing was sent: not opened: "), "{err}");
        if json {
            let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
            assert_eq!(
                (&report["latency_us"], &report["not_started"]),
                (&serde_json::Value::Null, &3.into())
            );
        } else {
            assert!(
                !out.contains("latency") && !out.contains("/s ") && !out.contains("NaN"),
                "{out}"
            );
        }
    }
}
