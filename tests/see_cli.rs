//! What the commands print, as golden files in `tests/golden/cli`. `PELTON_GOLDEN=write cargo test`
//! writes them anew; read the difference before keeping it.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use clap::Command;
use clap::FromArgMatches;
use pelton::base::time::Wall;
use pelton::cli::changes;
use pelton::cli::output::Failure;
use pelton::cli::output::Page;
use pelton::cli::output::Style;
use pelton::cli::output::Zone;
use pelton::cli::output::document;
use pelton::cli::queue;
use pelton::cli::reload;
use pelton::cli::status;
use pelton::cli::status::FailOn;
use pelton::cli::trace;
use pelton::cli::trace::Wanted;
use pelton::cli::why;
use pelton::control::journal::Change;
use pelton::control::management::protocol::ChangesData;
use pelton::control::management::protocol::ConfigOnDisk;
use pelton::control::management::protocol::ConfigState;
use pelton::control::management::protocol::Envelope;
use pelton::control::management::protocol::GroupsData;
use pelton::control::management::protocol::Level;
use pelton::control::management::protocol::MessagesData;
use pelton::control::management::protocol::QueuesData;
use pelton::control::management::protocol::Rates;
use pelton::control::management::protocol::ReloadData;
use pelton::control::management::protocol::Reply;
use pelton::control::management::protocol::SpoolState;
use pelton::control::management::protocol::StatusData;
use pelton::control::management::protocol::TraceData;
use pelton::control::management::protocol::Warning;
use pelton::control::management::protocol::WhyData;
use pelton::engine::query::CauseSeconds;
use pelton::engine::query::FlowWaiting;
use pelton::engine::query::Group;
use pelton::engine::query::GroupBy;
use pelton::engine::query::HostState;
use pelton::engine::query::LastReply;
use pelton::engine::query::LimitState;
use pelton::engine::query::MessageSummary;
use pelton::engine::query::MessageTrace;
use pelton::engine::query::QueueDetail;
use pelton::engine::query::QueueSummary;
use pelton::engine::query::Transcript;
use pelton::engine::stats::ShardStats;
use serde_json::Value;
use serde_json::json;

/// 2026-11-22 03:12:09 UTC.
const NOW: Wall = Wall(1_795_317_129_000_000);

const STYLE: Style = Style {
    color: false,
    width: 120,
    zone: Zone::Utc,
    now: NOW,
};

/// What a hostile receiver says: it must not reach a terminal as it is.
const HOSTILE: &str = "421 4.7.28 \x1b[31munusual\u{9b}2J rate\u{202e} of mail\r\nFAIL forged";

fn ago(seconds: u64) -> String {
    (NOW - Duration::from_secs(seconds)).rfc3339().to_string()
}

fn ahead(seconds: u64) -> String {
    (NOW + Duration::from_secs(seconds)).rfc3339().to_string()
}

fn envelope(reply: Reply) -> Envelope {
    Envelope {
        node: "mta-1".into(),
        at: ago(0),
        notes: Vec::new(),
        reply,
    }
}

/// Compares with, or on request writes, the golden file of that name.
fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/cli")
        .join(name);
    if std::env::var("PELTON_GOLDEN").is_ok_and(|it| it == "write") {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{}", path.display());
}

fn check_page(name: &str, page: Result<Page, Failure>) {
    let page = page.unwrap();
    let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    let text = page.whole_text();
    assert!(!text.contains(steers), "{name} could steer a terminal");
    assert!(
        text.lines()
            .last()
            .is_some_and(|line| line.starts_with("Next ")),
        "{name}"
    );
    check(&format!("{name}.txt"), &text);
    check(&format!("{name}.json"), &format!("{:#}\n", document(&page)));
}

fn healthy() -> StatusData {
    let mut total = ShardStats::default();
    let counters = &mut total.counters;
    counters.messages_injected = 1_234_567;
    counters.messages_recovered = 20;
    counters.messages_delivered = 1_200_000;
    counters.messages_bounced = 10_000;
    counters.messages_expired = 7;
    counters.possible_duplicates = 2;
    counters.spool_commits = 40_000;
    counters.spool_commit_messages = 1_234_567;
    total.gauges.queue_active = 80;
    total.gauges.queue_delayed = 24_400;
    total.gauges.queue_in_flight = 100;
    total.gauges.queues = 312;
    total.gauges.oldest_seconds = 2_460;
    total.gauges.spool_bytes = 3 << 30;
    total.gauges.spool_live_bytes = 700 << 20;
    total.commit_latency.record(Duration::from_micros(900));
    StatusData {
        verdict: "OK".into(),
        verdict_since: ago(7_800),
        version: "0.1.0".into(),
        pid: 4_711,
        started_at: ago(7_800),
        config: ConfigState {
            file: "/etc/pelton/pelton.conf".into(),
            digest: "7f3a".into(),
            generation: 3,
            loaded_at: ago(7_200),
            on_disk: ConfigOnDisk::Same,
            restart: Vec::new(),
        },
        spool: SpoolState {
            path: "/var/spool/pelton".into(),
            sync: "commit".into(),
            free_bytes: Some(40 << 30),
            size_bytes: Some(100 << 30),
            min_free_bytes: 1 << 30,
            reading: None,
        },
        event_log: "/var/spool/pelton/events".into(),
        shards: 2,
        rates: Rates {
            injected_per_second: Some(18_204.4),
            delivered_per_second: Some(16_950.0),
            delayed_per_second: Some(3.26),
            bounced_per_second: Some(0.0),
            queued_per_second: Some(-1_250.0),
        },
        per_shard: Vec::new(),
        resident_bytes: 300 << 20,
        open_files: 140,
        total,
        ..StatusData::default()
    }
}

#[test]
fn status_of_a_healthy_engine() {
    check_page(
        "status_ok",
        status::page(envelope(Reply::Status(healthy().into())), None, &STYLE),
    );
}

fn degraded() -> StatusData {
    let mut data = healthy();
    data.verdict = "FAILING".into();
    data.verdict_since = ago(1_860);
    data.rates = Rates::default();
    data.warnings = vec![
        Warning {
            level: Level::Fail,
            text: "no mail is accepted: memory".into(),
            next: ["pelton", "changes", "--since", "1h"]
                .map(str::to_owned)
                .into(),
        },
        Warning {
            level: Level::Warn,
            text: "forged\x1b[2J\nok all".into(),
            next: Vec::new(),
        },
    ];
    data
}

#[test]
fn status_of_an_engine_in_trouble() {
    check_page(
        "status_degraded",
        status::page(envelope(Reply::Status(degraded().into())), None, &STYLE),
    );
}

#[test]
fn status_exits_with_one_only_when_asked_to() {
    let mut warned = degraded();
    warned.warnings.remove(0);
    let cases = [
        (healthy(), None, 0),
        (healthy(), Some(FailOn::Warn), 0),
        (warned.clone(), None, 0),
        (warned.clone(), Some(FailOn::Warn), 1),
        (warned, Some(FailOn::Fail), 0),
        (degraded(), Some(FailOn::Fail), 1),
    ];
    for (data, fail_on, exit) in cases {
        let page = status::page(envelope(Reply::Status(data.into())), fail_on, &STYLE).unwrap();
        assert_eq!(page.exit, exit, "{fail_on:?}");
    }
}

fn summary() -> QueueSummary {
    QueueSummary {
        binding: "mta-3".into(),
        domain: "gmail.com".into(),
        shard: 1,
        active: 12,
        delayed: 88_120,
        in_flight: 3,
        connections: 2,
        received_total: 190_000,
        delivered_total: 100_000,
        delayed_total: 91_204,
        bounced_total: 1_865,
        oldest_seconds: Some(2_460),
        cause: "backoff".into(),
        cause_seconds: 1_860,
        order: None,
        until: Some(ahead(451)),
        last_failure: Some(last_reply()),
    }
}

fn last_reply() -> LastReply {
    LastReply {
        class: "transient".into(),
        reply: HOSTILE.into(),
        internal: false,
        stage: "mailfrom".into(),
        host: Some("mx.gmail.com".into()),
        first_at: ago(1_860),
        last_at: ago(4),
        count: 1_204,
    }
}

#[test]
fn a_list_of_queues() {
    let small = QueueSummary {
        binding: "a".into(),
        domain: "example.com".into(),
        active: 1,
        cause: "connection limit".into(),
        cause_seconds: 61,
        ..QueueSummary::default()
    };
    let data = QueuesData {
        queues: vec![summary(), small],
        more: true,
        matching: Some(312),
        messages: Some(123_456),
        queued_in_all: Some(123_456),
    };
    check_page(
        "queues",
        queue::page(envelope(Reply::Queues(data)), &list(&[]), &STYLE),
    );
    let none = || QueuesData {
        queued_in_all: Some(123_456),
        ..QueuesData::default()
    };
    check_page(
        "queues_none",
        queue::page(
            envelope(Reply::Queues(none())),
            &list(&["--where", "domain=x"]),
            &STYLE,
        ),
    );
    let said = |in_all, words: &[&str]| {
        let data = QueuesData {
            queued_in_all: in_all,
            ..none()
        };
        let page = queue::page(envelope(Reply::Queues(data)), &list(words), &STYLE);
        page.unwrap().text
    };
    let filter = ["--where", "domain=x"];
    assert_eq!(said(Some(0), &[]), "nothing waits\n");
    assert_eq!(
        said(Some(0), &filter),
        "no queue matches domain=x: nothing waits at all\n"
    );
    assert_eq!(
        said(Some(1), &filter),
        "no queue matches domain=x; 1 message waits in all\n"
    );
    assert_eq!(said(None, &filter), "no queue matches domain=x\n");
}

#[test]
fn sums_by_tenant_and_by_domain() {
    let group = |name: &str, messages| Group {
        name: Some(name.to_owned()),
        messages,
        ..Group::default()
    };
    let tenants = GroupsData {
        by: GroupBy::Tenant,
        groups: vec![
            group("acme\x1b[0m", 77_514),
            Group {
                messages: 12,
                ..Group::default()
            },
        ],
        more: true,
        groups_in_all: 31,
        messages: 123_456,
    };
    check_page(
        "groups_tenant",
        queue::page(
            envelope(Reply::Groups(tenants)),
            &list(&["--by", "tenant"]),
            &STYLE,
        ),
    );
    let domains = GroupsData {
        by: GroupBy::Domain,
        groups: vec![Group {
            queues: Some(3),
            active: Some(7),
            delayed: Some(4_000),
            in_flight: Some(0),
            oldest_seconds: Some(3_900),
            ..group("gmail.com", 4_007)
        }],
        more: false,
        groups_in_all: 1,
        messages: 4_007,
    };
    check_page(
        "groups_domain",
        queue::page(
            envelope(Reply::Groups(domains)),
            &list(&["--by", "domain"]),
            &STYLE,
        ),
    );
}

/// Arguments of `pelton queue list`.
fn list(words: &[&str]) -> queue::ListArgs {
    let command = queue::ListArgs::augment_args(Command::new("list"));
    let matches = command.get_matches_from(["list"].iter().chain(words));
    queue::ListArgs::from_arg_matches(&matches).unwrap()
}

fn message() -> MessageSummary {
    MessageSummary {
        id: "0C8V3M1A7Q2ZK-0".into(),
        recipient: "bob@gmail.com\x1b[0m".into(),
        binding: "mta-3".into(),
        domain: "gmail.com".into(),
        shard: 1,
        home: 0,
        state: "delayed".into(),
        size_bytes: 38_912,
        age_seconds: 1_927,
        attempts: 2,
        due: Some(ahead(451)),
        expires: Some(ahead(250_000)),
        body_in_memory: false,
        class: "bulk".into(),
        tenant: Some("acme".into()),
        campaign: None,
        order: None,
    }
}

#[test]
fn a_list_of_messages() {
    let mut due = message();
    due.state = "in_flight".into();
    due.due = None;
    let next = Some("1.77".to_owned());
    let data = MessagesData {
        messages: vec![message(), due],
        next,
        queued_in_all: Some(123_456),
    };
    let words = ["--messages", "--where", "age>10m"];
    let page = queue::page(
        envelope(Reply::Messages(data.clone())),
        &list(&words),
        &STYLE,
    );
    check_page("messages", page);
    // What is printed goes on with the list that was asked for, of the engine that was asked.
    let words = [
        "--messages",
        "--where",
        "age>10m code~4.7",
        "--limit",
        "2",
        "--color",
        "never",
        "--spool",
        "/a b",
    ];
    let args = list(&words);
    let page = queue::page(envelope(Reply::Messages(data)), &args, &STYLE).unwrap();
    let text = page.about(&args.server).whole_text();
    let next = "Next      pelton queue list --messages --where 'age>10m code~4.7' --limit 2 \
                --color never --after 1.77 --spool '/a b'";
    assert_eq!(text.lines().last(), Some(next));
}

fn transcript(seconds: u64) -> Transcript {
    Transcript {
        at: ago(seconds),
        binding: "mta-3".into(),
        domain: "gmail.com".into(),
        host: "mx.gmail.com 127.0.0.8".into(),
        message: Some("0C8V3M1A7Q2ZK-0".into()),
        lines: vec![
            "S: 220 mx.gmail.com".into(),
            "C: MAIL FROM:<a@a.example>".into(),
            HOSTILE.into(),
        ],
    }
}

fn detail() -> QueueDetail {
    let cause = |cause: &str, seconds| CauseSeconds {
        cause: cause.into(),
        seconds,
    };
    QueueDetail {
        summary: summary(),
        sentence: "deferred by the receiver since 02:41, next attempt 03:19".into(),
        until: Some(ahead(451)),
        causes: vec![
            cause("our limit", 24.0),
            cause("remote deferral", 71.9),
            cause("dns", 0.1),
        ],
        replies: vec![
            last_reply(),
            LastReply {
                reply: "451 4.4.1 [internal] Connection refused".into(),
                internal: true,
                stage: "connect".into(),
                count: 1,
                ..last_reply()
            },
        ],
        attempts_before: 0,
        hosts: vec![
            HostState {
                preference: 10,
                host: "mx.gmail.com".into(),
                address: "127.0.0.8".into(),
                connections: 2,
                resting_until: None,
                failures: 0,
            },
            HostState {
                preference: 20,
                host: "alt1.gmail.com".into(),
                address: "127.0.0.9".into(),
                connections: 0,
                resting_until: Some(ahead(60)),
                failures: 5,
            },
        ],
        limits: vec![LimitState {
            option: "max_outbound_connections".into(),
            value: "2".into(),
            origin: "pelton.conf:118".into(),
            binding_now: true,
        }],
        flows: vec![
            FlowWaiting {
                class: "transactional".into(),
                tenant: None,
                campaign: None,
                active: 2,
            },
            FlowWaiting {
                class: "bulk".into(),
                tenant: Some("acme".into()),
                campaign: Some("spring".into()),
                active: 4_711,
            },
        ],
        transcript: Some(transcript(4)),
    }
}

#[test]
fn why_a_domain_waits() {
    let data = WhyData {
        domain: "gmail.com".into(),
        queues: vec![detail()],
    };
    check_page(
        "why",
        why::page(envelope(Reply::Why(data.clone())), None, &STYLE),
    );
    // After a restart what was said is gone, but not that something was tried.
    let mut silent = data;
    (silent.queues[0].replies, silent.queues[0].attempts_before) = (Vec::new(), 1);
    let text = why::page(envelope(Reply::Why(silent)), None, &STYLE)
        .unwrap()
        .text;
    let told = "\nTried     no attempt since the restart; 1 attempt before (";
    assert!(text.contains(told) && !text.contains("They said"), "{text}");
    let none = WhyData {
        domain: "x.example".into(),
        queues: Vec::new(),
    };
    let failure = why::page(envelope(Reply::Why(none)), Some("a"), &STYLE).unwrap_err();
    assert_eq!(failure.exit, 3);
    assert!(
        failure
            .message
            .starts_with("no queue for x.example by binding a:")
    );
}

const WANTED: Wanted<'_> = Wanted {
    target: "0C8V3M1A7Q2ZK",
    limit: 20,
    smtp: false,
};

fn event(kind: &str, seconds: u64, more: Value) -> Value {
    let mut event = json!({
        "type": kind, "event_id": format!("{kind}{seconds}"), "timestamp": ago(seconds),
        "message_id": "0C8V3M1A7Q2ZK-0", "batch_id": "0C8V3M1A7Q2ZK",
        "msg_from": "news@a.example", "rcpt_to": "bob@gmail.com",
        "raw_rcpt_to": "Bob@gmail.com", "subject": "Hello\u{1b}[2J", "binding": "mta-3",
        "recv_method": "esmtp", "msg_size": 38_912, "remote_addr": "127.0.0.7",
    });
    for (key, value) in more.as_object().unwrap() {
        event[key] = value.clone();
    }
    event
}

fn life() -> Vec<Value> {
    vec![
        event("injection", 1_927, json!({})),
        event(
            "delay",
            1_926,
            json!({
                "outcome": "delayed", "num_retries": 0, "sending_ip": "127.0.0.2",
                "ip_address": "127.0.0.8", "remote_host": "mx.gmail.com", "conn_stage": "mailfrom",
                "error_code": "421", "enhanced_code": "4.7.28", "internal": false,
                "raw_reason": HOSTILE, "next_attempt": ago(1_300), "possible_duplicate": false,
            }),
        ),
    ]
}

#[test]
fn the_life_of_a_message_that_waits() {
    let live = MessageTrace {
        message: message(),
        sender: Some("news@a.example".into()),
        subject: Some("Hello".into()),
        received_from: Some("127.0.0.7".into()),
        last_reply: Some(HOSTILE.into()),
        transcripts: vec![transcript(900), transcript(4)],
        sentence: "waits for its next attempt".into(),
    };
    let reply = |messages| {
        envelope(Reply::Trace(TraceData {
            messages,
            event_log: "/events".into(),
            incomplete: None,
        }))
    };
    check_page(
        "trace_queued",
        trace::page(reply(vec![live.clone()]), life(), &WANTED, &STYLE),
    );
    let all = Wanted {
        smtp: true,
        ..WANTED
    };
    check_page(
        "trace_without_events",
        trace::page(reply(vec![live]), Vec::new(), &all, &STYLE),
    );
}

#[test]
fn the_lives_of_messages_that_are_done() {
    let mut events = life();
    events.push(event(
        "delivery",
        100,
        json!({
            "outcome": "delivered", "num_retries": 1, "sending_ip": "127.0.0.2",
            "ip_address": "127.0.0.8", "remote_host": "mx.gmail.com", "conn_stage": "final",
            "raw_reason": "queued as 7", "possible_duplicate": true,
        }),
    ));
    events.push(event(
        "bounce",
        90,
        json!({
            "message_id": "0C8V3M1A7Q2ZK-1", "outcome": "expired", "num_retries": 4,
            "ip_address": null, "conn_stage": "internal", "error_code": "554",
            "enhanced_code": "5.4.7", "internal": true, "raw_reason": "Message Expired",
            "possible_duplicate": false,
        }),
    ));
    events.push(event(
        "policy_rejection",
        80,
        json!({
            "message_id": null, "conn_stage": "rcptto", "error_code": "550",
            "raw_reason": "relaying denied",
        }),
    ));
    events.push(event(
        "bounce",
        85,
        json!({
            "message_id": "0C8V3M1A7Q2ZK-2", "outcome": "bounced", "num_retries": 0,
            "ip_address": null, "conn_stage": "dns", "error_code": "554",
            "enhanced_code": "5.4.4", "internal": true, "raw_reason": "Domain Lookup Failed",
            "possible_duplicate": false,
        }),
    ));
    let empty = || envelope(Reply::Trace(TraceData::default()));
    check_page("trace_done", trace::page(empty(), events, &WANTED, &STYLE));
    let failure = trace::page(empty(), Vec::new(), &WANTED, &STYLE).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (3, "E413"));
}

#[test]
fn what_a_start_has_not_read_yet_is_not_said_to_be_gone() {
    let why = "the start still reads the spool back, 3 of 90 segments";
    let reading = || {
        let data = TraceData {
            incomplete: Some(why.into()),
            ..TraceData::default()
        };
        envelope(Reply::Trace(data))
    };
    let page = trace::page(reading(), life(), &WANTED, &STYLE).unwrap();
    let first = "0C8V3M1A7Q2ZK-0 NOT KNOWN YET, to Bob@gmail.com by mta-3";
    assert_eq!(page.text.lines().next(), Some(first));
    let told = format!("now          most likely queued, and not read back yet: {why}");
    assert!(page.text.contains(&told), "{}", page.text);
    assert_eq!(page.data["complete"], false);
    let failure = trace::page(reading(), Vec::new(), &WANTED, &STYLE).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (1, "E416"));
    assert!(failure.message.contains(why), "{}", failure.message);
    // Lists say so too, whichever form they have.
    let mut reply = envelope(Reply::Messages(MessagesData::default()));
    reply.notes = vec![why.into()];
    let page = queue::page(reply, &list(&["--messages"]), &STYLE).unwrap();
    assert_eq!(page.text, "no such message is known yet\n");
    assert_eq!(page.data["complete"], false);
}

#[test]
fn the_mail_of_a_domain_has_a_verdict() {
    let queue = |cause: &str, waiting: u64, (delivered, deferred, bounced): (u64, u64, u64)| {
        let mut queue = detail();
        queue.until = Some(ahead(451));
        queue.summary = QueueSummary {
            cause: cause.into(),
            delayed: waiting,
            delivered_total: delivered,
            delayed_total: deferred,
            bounced_total: bounced,
            ..QueueSummary::default()
        };
        queue
    };
    let mut unheard = queue("backoff", 1, (0, 1, 0));
    unheard.replies.remove(0);
    let cases = [
        (
            vec![
                queue("backoff", 400, (0, 400, 0)),
                queue("backoff", 92, (0, 100, 0)),
            ],
            "DEFERRED: all 500 attempts so far were deferred by the receiver; 492 messages wait, \
             the next is tried in 7m31s",
        ),
        (
            vec![unheard],
            "DEFERRED: the only attempt so far was in vain, failing on the way to the receiver; \
             1 message waits, the next is tried in 7m31s",
        ),
        (
            vec![queue("backoff", 5, (3, 6, 1))],
            "DELAYED: 5 messages wait for another attempt, the next is tried in 7m31s; so far 3 \
             delivered, 1 bounced, 6 attempts deferred",
        ),
        (
            vec![queue("hosts failing", 5, (0, 0, 0))],
            "FAILING: no host can be reached, 5 messages rest, the next is tried in 7m31s; so far \
             0 delivered, 0 bounced, 0 attempts deferred",
        ),
        (
            vec![queue("idle", 0, (9, 0, 2))],
            "IDLE: nothing waits; so far 9 delivered, 2 bounced, 0 attempts deferred",
        ),
        (
            vec![queue("idle", 0, (0, 0, 2))],
            "BOUNCED: nothing waits, nothing was delivered so far, 2 messages bounced",
        ),
        (
            vec![queue("connection limit", 9, (1, 0, 0))],
            "LIMITED: 9 messages wait behind a limit of ours; so far 1 delivered, 0 bounced, 0 \
             attempts deferred",
        ),
        (
            vec![queue("throttle", 9, (1, 0, 0))],
            "LIMITED: 9 messages wait for a throttle of ours; so far 1 delivered, 0 bounced, 0 \
             attempts deferred",
        ),
    ];
    for (queues, told) in cases {
        let domain = "d.example".to_owned();
        let reply = envelope(Reply::Why(WhyData { domain, queues }));
        let page = why::page(reply, None, &STYLE).unwrap();
        let first = page.text.lines().next().unwrap();
        assert_eq!(first, format!("d.example {told}"));
        let word = told.split(':').next().unwrap().to_lowercase();
        assert_eq!(page.data["verdict"], word);
    }
}

#[test]
fn a_domain_that_does_not_exist_is_said_not_to_exist() {
    let mut gone = detail();
    gone.replies = vec![LastReply {
        class: "permanent".into(),
        reply: "554 5.4.4 [internal] Domain Lookup Failed".into(),
        internal: true,
        stage: "dns".into(),
        ..last_reply()
    }];
    let data = WhyData {
        domain: "gone.example".into(),
        queues: vec![gone],
    };
    let page = why::page(envelope(Reply::Why(data)), None, &STYLE).unwrap();
    let told = "that is: the domain does not exist: DNS knows no such name (NXDOMAIN)";
    assert!(page.text.contains(told), "{}", page.text);
}

#[test]
fn a_reload_and_the_changes() {
    let changed = ReloadData {
        generation: 4,
        digest: "beef".into(),
        changed: true,
        notes: vec!["Shards needs a restart".into()],
    };
    check_page(
        "reload",
        reload::page(envelope(Reply::Reloaded(changed)), &STYLE),
    );
    let same = ReloadData {
        generation: 4,
        digest: "beef".into(),
        ..ReloadData::default()
    };
    check_page(
        "reload_same",
        reload::page(envelope(Reply::Reloaded(same)), &STYLE),
    );
    let change = |seconds, kind: &str, text: &str| Change {
        at: ago(seconds),
        kind: kind.into(),
        by: "uid 0".into(),
        text: text.into(),
    };
    let changes = vec![
        change(90_000, "start", "pelton 0.1.0 started with config 7f3a"),
        change(
            7_200,
            "config",
            "generation 4, beef: pool.max_outbound_connections 40 > 2",
        ),
    ];
    let data = ChangesData { changes };
    let day = Duration::from_secs(2 * 86_400);
    check_page(
        "changes",
        changes::page(envelope(Reply::Changes(data)), day, &STYLE),
    );
}

#[test]
fn colour_repeats_what_the_words_say() {
    let style = Style {
        color: true,
        ..STYLE
    };
    let reply = || envelope(Reply::Status(degraded().into()));
    let colored = status::page(reply(), None, &style).unwrap().whole_text();
    let plain = status::page(reply(), None, &STYLE).unwrap().whole_text();
    assert!(colored.contains("\x1b[1;31mFAILING\x1b[0m"));
    let mut stripped = String::new();
    for part in colored.split('\x1b') {
        let text = part
            .split_once('m')
            .filter(|(code, _)| code.starts_with('['));
        stripped.push_str(text.map_or(part, |(_, rest)| rest));
    }
    assert_eq!(stripped, plain);
}

/// Commands whose help is looked at.
const COMMANDS: [&str; 31] = [
    "serve",
    "demo",
    "simulate",
    "practice",
    "status",
    "queue",
    "queue list",
    "queue show",
    "queue why",
    "why",
    "trace",
    "changes",
    "adaptive",
    "adaptive list",
    "adaptive explain",
    "adaptive override",
    "adaptive reset",
    "adaptive resume",
    "blocks",
    "reload",
    "check",
    "config eval",
    "config get",
    "config options",
    "config show",
    "spool info",
    "spool verify",
    "spool list",
    "spool show",
    "spool export",
    "spool import",
];

#[test]
fn every_help_ends_with_examples_and_names_arguments_by_what_they_are() {
    let help = |words: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pelton"));
        let ran = command.args(words.split(' ')).arg("--help").output();
        let text = String::from_utf8(ran.unwrap().stdout).unwrap();
        let wide = text.lines().find(|line| line.chars().count() > 100);
        assert_eq!(wide, None, "{words}");
        text
    };
    for words in COMMANDS {
        let text = help(words);
        let examples = text.split_once("\nExamples:\n  pelton ");
        assert!(examples.is_some(), "{words}: {text}");
    }
    for (words, told) in [
        ("serve", "Exit codes: 0 stopped by a signal"),
        ("serve", "SIGHUP loads the configuration again"),
        (
            "queue show",
            "Usage: pelton queue show [OPTIONS] BINDING DOMAIN\n",
        ),
        (
            "spool import",
            "Usage: pelton spool import [OPTIONS] EXPORTED\n",
        ),
        ("spool import", "--spool-from <OTHER_SPOOL>"),
        ("spool import", "--spool <SPOOL>"),
        (
            "spool export",
            "Usage: pelton spool export [OPTIONS] FOLDER\n",
        ),
        (
            "spool export",
            "Exit codes: 0 all that waits is exported; 1 some of it is not",
        ),
        ("spool info", "was found damaged by a start"),
    ] {
        assert!(help(words).contains(told), "{words}: {told}");
    }
}

#[test]
fn arguments_are_sound_and_read_as_documented() {
    type Augment = fn(Command) -> Command;
    let commands: [(&'static str, Augment); 6] = [
        ("status", status::StatusArgs::augment_args),
        ("queue", queue::QueueArgs::augment_args),
        ("why", why::WhyArgs::augment_args),
        ("trace", trace::TraceArgs::augment_args),
        ("reload", reload::ReloadArgs::augment_args),
        ("changes", changes::ChangesArgs::augment_args),
    ];
    let mut root = Command::new("pelton").subcommand_required(true);
    for (name, augment) in commands {
        root = root.subcommand(augment(Command::new(name)));
    }
    root.clone().debug_assert();
    let parses = |line: &str| root.clone().try_get_matches_from(line.split(' ')).is_ok();
    let right = [
        "pelton status --fail-on warn --json --socket /s",
        "pelton queue list --where age>10m --limit 5 --jsonl --spool /s",
        "pelton queue list --messages --after 1.7",
        "pelton queue show a example.com",
        "pelton queue show 0C8V3M1A7Q2ZK-0",
        "pelton queue why example.com --binding a",
        "pelton why example.com --color never",
        "pelton trace bob@example.com --since 6h --smtp --limit 3",
        "pelton reload --config /c",
        "pelton changes --since 6h",
    ];
    let wrong = [
        "pelton",
        "pelton status --fail-on maybe",
        "pelton status --socket /s --spool /t",
        "pelton queue",
        "pelton queue list --after 1.7",
        "pelton queue list --limit 0",
        "pelton trace bob@example.com --limit 0",
        "pelton queue list --json --jsonl",
        "pelton why",
        "pelton changes --since soon",
    ];
    for line in right {
        assert!(parses(line), "{line}");
    }
    for line in wrong {
        assert!(!parses(line), "{line}");
    }
    let changes = changes::ChangesArgs::augment_args(Command::new("changes"));
    let matches = changes.get_matches_from(["changes"]);
    let args = changes::ChangesArgs::from_arg_matches(&matches).unwrap();
    assert_eq!(args.since, Duration::from_secs(86_400));
}
