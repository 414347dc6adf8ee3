//! Throttles on the wire: what shares one, and that nothing which waits for one is lost, tried in
//! vain or delayed. Of time only that is asserted which a slow machine cannot change: mail is never
//! early.

#![expect(
    clippy::disallowed_methods,
    reason = "what is outside of the engine has a clock"
)]

#[allow(dead_code, reason = "made for deaths, of which there are none here")]
mod crash_rig;

use core::time::Duration;
use std::fs;
use std::net::SocketAddr;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crash_rig::STEP_TIMEOUT;
use crash_rig::engine::Engine;
use crash_rig::free_address;
use crash_rig::wait_until;
use pelton::rig::blast::Blast;
use pelton::rig::blast::BlastConfig;
use pelton::rig::blast::mix::Mix;
use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;
use pelton::rig::sink::capture::Record;

/// What a receiving host got of one recipient.
struct Got {
    domain: String,
    from: String,
    /// From before the first message was handed over.
    after: Duration,
}

/// Sends so many messages to these domains through an engine with these senders.
fn send(shards: u32, senders: &str, messages: u64, domains: &[&str]) -> Vec<Got> {
    let folder = tempfile::tempdir().expect("a folder for the run");
    let capture = folder.path().join("capture.jsonl");
    let sink = Sink::start(SinkConfig {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        capture: Some(capture.clone()),
        ..SinkConfig::default()
    })
    .expect("the sink starts");
    let (smtp, http, target) = (free_address(), free_address(), sink.addrs()[0]);
    let spool = folder.path().join("spool");
    let text = format!(
        "Spoolbase = \"{}\"\nShards = {shards}\nPin_Shards = false\nSpool_Segment_Size = 4M\n\
         Min_Free_Space = 0\nstatic_routes {{ target = \"{target}\" }}\n\
         ESMTP_Listener {{ Listen \"{smtp}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" ) }} }}\n\
         HTTP_Listener {{ Listen \"{http}\" {{ }} }}\n{senders}\n",
        spool.display()
    );
    let config = folder.path().join("pelton.conf");
    fs::write(&config, text).expect("the configuration is written");
    let mut engine = Engine::start(&config, &folder.path().join("pelton.log"), http);
    engine
        .wait_ready(STEP_TIMEOUT)
        .expect("the engine is ready");
    let began_us = wall_us();
    let weighed = domains.iter().map(|domain| ((*domain).to_string(), 1));
    let blast = Blast::start(BlastConfig {
        connections: 4,
        messages: Some(messages),
        domains: Mix::new(weighed.collect()).expect("some domains"),
        ..BlastConfig::to(smtp)
    })
    .expect("the generator starts");
    assert!(blast.wait(STEP_TIMEOUT), "all mail is handed over");
    let report = blast.finish();
    assert_eq!(report.acknowledged, messages, "{:?}", report.trouble);
    wait_until("empty queues", || engine.queued() == Some(0));
    let delayed = engine.metric("pelton_messages_delayed_total");
    assert_eq!(delayed, Some(0.0), "a throttle uses up no attempt");
    engine.terminate();
    drop(sink);
    let lines = fs::read_to_string(&capture).expect("what came in");
    let records = lines
        .lines()
        .map(|line| serde_json::from_str::<Record>(line).expect("a record"));
    let got = |record: Record| Got {
        domain: record.rcpts[0]
            .rsplit('@')
            .next()
            .unwrap_or_default()
            .to_string(),
        from: record.peer.ip().to_string(),
        after: Duration::from_micros(record.received_us.saturating_sub(began_us)),
    };
    let all: Vec<Got> = records.map(got).collect();
    assert_eq!(all.len() as u64, messages, "each message arrives once");
    all
}

fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |it| it.as_micros() as u64)
}

/// With this rate the message at this place cannot have begun before.
fn assert_paced(got: &[&Got], count: usize, window: Duration) {
    let mut after: Vec<Duration> = got.iter().map(|it| it.after).collect();
    after.sort();
    for (place, at) in after.iter().enumerate() {
        let least = window * (place / count) as u32;
        assert!(
            *at >= least,
            "message {place} came after {at:?}, not {least:?}"
        );
    }
}

const SECOND: Duration = Duration::from_secs(1);
const DOMAINS: [&str; 4] = [
    "one.example",
    "two.example",
    "three.example",
    "named.example",
];

#[test]
fn what_falls_back_to_a_group_shares_its_throttle() {
    let senders = "default_binding_group = \"pool\"\nbinding_group \"pool\" {\n\
         Outbound_Throttle_Messages = \"10\"\n\
         binding \"a\" { Bind_Address = \"127.0.0.2\" }\n\
         binding \"b\" { Bind_Address = \"127.0.0.3\"\n\
         domain \"named.example\" { Retry_Interval = 60 } }\n}";
    for shards in [1, 2, 4] {
        let got = send(shards, senders, 35, &DOMAINS);
        assert_paced(&got.iter().collect::<Vec<_>>(), 10, SECOND);
    }
}

#[test]
fn a_stanza_that_sets_a_throttle_has_one_of_its_own() {
    let senders = "default_binding_group = \"pool\"\nbinding_group \"pool\" {\n\
         Outbound_Throttle_Messages = \"10\"\n\
         binding \"a\" { Bind_Address = \"127.0.0.2\" Outbound_Throttle_Messages = \"10\" }\n\
         binding \"b\" { Bind_Address = \"127.0.0.3\" }\n\
         domain \"named.example\" { Outbound_Throttle_Messages = \"10\" }\n}";
    let got = send(2, senders, 80, &DOMAINS);
    let of =
        |what: &dyn Fn(&Got) -> bool| -> Vec<&Got> { got.iter().filter(|it| what(it)).collect() };
    let named = |it: &Got| it.domain == "named.example";
    assert_paced(&of(&named), 10, SECOND);
    for from in ["127.0.0.2", "127.0.0.3"] {
        assert_paced(&of(&|it| it.from == from && !named(it)), 10, SECOND);
    }
    assert_paced(&got.iter().collect::<Vec<_>>(), 30, SECOND);
}

#[test]
fn a_pattern_and_a_host_are_one_throttle_each() {
    let senders = "default_binding = \"a\"\n\
         binding \"a\" { Bind_Address = \"127.0.0.2\" }\n\
         domain \"/(?:^|[.])example[.](?:com|co[.]uk)$/\" {\n\
         Outbound_Throttle_Messages = \"6/2\" }\n\
         host \"127.0.0.1\" { Outbound_Throttle_Messages = \"20/2\"\n\
         Outbound_Throttle_Connections = \"3/1\" }";
    let domains = [
        "example.com",
        "a.example.com",
        "example.co.uk",
        "notexample.com",
        "other.example",
    ];
    let got = send(2, senders, 50, &domains);
    let patterned = |it: &&Got| {
        let domain = it.domain.as_str();
        ["example.com", "a.example.com", "example.co.uk"].contains(&domain)
    };
    assert_paced(
        &got.iter().filter(patterned).collect::<Vec<_>>(),
        6,
        2 * SECOND,
    );
    assert_paced(&got.iter().collect::<Vec<_>>(), 20, 2 * SECOND);
}
