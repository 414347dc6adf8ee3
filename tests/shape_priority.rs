//! Classes and tenants on the wire: who goes first of what has waited, over a restart too. Nothing
//! here is measured in time: the order in which a receiving host gets mail over one connection is
//! the order in which it was served.

#[allow(dead_code, reason = "made for deaths, of which there are none here")]
mod crash_rig;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crash_rig::STEP_TIMEOUT;
use crash_rig::engine::Engine;
use crash_rig::free_address;
use crash_rig::wait_until;
use pelton::rig::blast::Blast;
use pelton::rig::blast::BlastConfig;
use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;
use pelton::rig::sink::capture::Record;

/// Who hands over mail, and what the config says of it.
const PEERS: [(&str, &str); 4] = [
    ("127.0.0.9", "class = \"transactional\""),
    ("127.0.0.10", "tenant = \"a\""),
    ("127.0.0.11", "tenant = \"b\"  campaign = \"spring\""),
    ("127.0.0.12", ""),
];

/// Hands over so much mail from each of these peers, in this order, while nothing is delivered;
/// starts again with delivery; gives the order of senders in which it came out, and the events.
fn order(from: &[(&str, u64)]) -> (Vec<String>, Vec<serde_json::Value>) {
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
    let peers = PEERS.map(|(peer, says)| format!("Peer \"{peer}\" {{ {says} }}\n"));
    let text = format!(
        "Spoolbase = \"{}\"\nShards = 1\nPin_Shards = false\nSpool_Segment_Size = 4M\n\
         Min_Free_Space = 0\nstatic_routes {{ target = \"{target}\" }}\n\
         max_outbound_connections = 1\n\
         ESMTP_Listener {{ Listen \"{smtp}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" )\n{} }} }}\n\
         HTTP_Listener {{ Listen \"{http}\" {{ }} }}\n",
        spool.display(),
        peers.concat(),
    );
    let config = folder.path().join("pelton.conf");
    let log = folder.path().join("pelton.log");
    let start = |held: &str| {
        fs::write(&config, format!("{text}{held}\n")).expect("the configuration is written");
        let engine = Engine::start(&config, &log, http);
        engine
            .wait_ready(STEP_TIMEOUT)
            .expect("the engine is ready");
        engine
    };
    let mut engine = start("suspend_delivery = true");
    for (peer, messages) in from {
        hand_over(smtp, peer, *messages);
    }
    engine.terminate();
    let mut engine = start("");
    wait_until("empty queues", || engine.queued() == Some(0));
    engine.terminate();
    drop(sink);
    let lines = fs::read_to_string(&capture).expect("what came in");
    let senders = lines.lines().map(|line| {
        let record: Record = serde_json::from_str(line).expect("a record");
        record
            .mail_from
            .split('@')
            .next()
            .unwrap_or_default()
            .to_string()
    });
    (senders.collect(), events(&spool.join("events")))
}

/// Mail from a peer names it in its sender.
fn hand_over(smtp: SocketAddr, peer: &str, messages: u64) {
    let blast = Blast::start(BlastConfig {
        connections: 1,
        messages: Some(messages),
        sources: vec![peer.parse().expect("an address")],
        from: format!("{peer}@sender.example"),
        ..BlastConfig::to(smtp)
    })
    .expect("the generator starts");
    assert!(blast.wait(STEP_TIMEOUT), "all mail is handed over");
    let report = blast.finish();
    assert_eq!(report.acknowledged, messages, "{:?}", report.trouble);
}

fn events(folder: &Path) -> Vec<serde_json::Value> {
    let files = fs::read_dir(folder).expect("the event log");
    let paths = files.map(|it| it.expect("an entry").path());
    let texts = paths.map(|path| fs::read_to_string(path).expect("events"));
    let parse = |text: String| {
        let lines = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("an event"));
        lines.collect::<Vec<serde_json::Value>>()
    };
    texts.flat_map(parse).collect()
}

#[test]
fn what_somebody_waits_for_goes_before_what_has_waited_longer() {
    let (order, events) = order(&[("127.0.0.12", 100), ("127.0.0.9", 5)]);
    assert_eq!(order.len(), 105);
    let transactional = order
        .iter()
        .enumerate()
        .filter(|(_, it)| *it == "127.0.0.9");
    let last = transactional.map(|(place, _)| place).max();
    assert_eq!(last, Some(4), "{order:?}");
    for event in &events {
        let expected = match event["msg_from"].as_str() {
            Some("127.0.0.9@sender.example") => "transactional",
            _ => "bulk",
        };
        assert_eq!(event["class"], expected, "{event}");
    }
}

#[test]
fn tenants_take_turns_whoever_came_first() {
    let (order, events) = order(&[("127.0.0.10", 60), ("127.0.0.11", 20)]);
    let second = order
        .iter()
        .enumerate()
        .filter(|(_, it)| *it == "127.0.0.11");
    let places: Vec<usize> = second.map(|(place, _)| place).collect();
    let expected: Vec<usize> = (0..20).map(|number| 2 * number + 1).collect();
    assert_eq!(places, expected, "{order:?}");
    let of_b = |event: &&serde_json::Value| event["tenant"] == "b";
    let told: Vec<_> = events.iter().filter(of_b).collect();
    assert_eq!(told.len(), 40, "reception and delivery of each");
    assert!(told.iter().all(|it| it["campaign_id"] == "spring"));
}
