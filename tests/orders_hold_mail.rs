//! Orders of operators on the wire: what they stop, end, put off and let go, and that they stand
//! after a kill.

#[allow(dead_code, reason = "made for deaths, of which there are few here")]
mod crash_rig;
mod orders_rig;

use std::fs;
use std::net::SocketAddr;

use crash_rig::wait_until;
use orders_rig::World;
use pelton::cli::output::parse_time;
use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;
use pelton::rig::sink::capture::Record;
use serde_json::Value;

#[test]
fn a_suspension_stands_after_a_kill_until_it_is_taken_back() {
    let mut world = World::new("");
    let given = world.done(&[
        "suspend",
        "domain=one.example",
        "--yes",
        "--reason",
        "they asked",
    ]);
    assert_eq!(given["order"]["id"], 1);
    world.send(20, &["one.example", "two.example"]);
    wait_until("the other domain", || {
        world.delivered("two.example").len() + world.waiting("domain=one.example").len() == 20
    });
    let before = world.waiting("").len() as u64;
    world.kill_and_start();
    let (_, orders) = world.pelton(&["orders"]);
    let order = &orders["data"]["orders"][0];
    assert_eq!(order["filter"], "domain=one.example");
    assert_eq!(
        (&order["state"], &order["reason"]),
        (&"in_force".into(), &"they asked".into())
    );
    world.send(20, &["one.example", "two.example"]);
    wait_until("the other domain again", || {
        world.waiting("domain=two.example").is_empty() && world.waiting("").len() as u64 > before
    });
    assert!(world.delivered("one.example").is_empty(), "it is suspended");
    let held = world.waiting("").len();
    for message in world.waiting("") {
        assert_eq!(
            (&message["order"], &message["attempts"]),
            (&1.into(), &0.into())
        );
    }
    let why = world.done(&["why", "one.example"]);
    let sentence = why["queues"][0]["sentence"].as_str().unwrap_or_default();
    assert!(
        sentence.starts_with("suspended by order 1 (suspend domain=one.example, by uid "),
        "{sentence}"
    );
    world.done(&["resume", "domain=one.example"]);
    wait_until("empty queues", || world.engine.queued() == Some(0));
    assert_eq!(world.delivered("one.example").len(), held);
    let changes = world.done(&["changes"])["changes"].to_string();
    assert!(changes.contains("order 1: suspend domain=one.example until "));
    assert!(changes.contains("order 1 taken back"));
}

#[test]
fn what_an_operator_fails_ends_for_good_and_what_he_flushes_is_due() {
    let world = World::new("");
    world.send(30, &["late.example", "two.example"]);
    let is_delayed = || world.waiting("state=delayed").len();
    wait_until("all of it was tried", || {
        is_delayed() + world.delivered("two.example").len() == 30
    });
    let late = is_delayed() as u64;
    let (exit, _) = world.pelton(&["fail"]);
    assert_eq!(exit, 2, "what is not said");
    let (exit, refusal) = world.pelton(&["fail", "domain=late.example"]);
    assert_eq!((exit, &refusal["error"]["code"]), (6, &"E423".into()));
    let dry = world.done(&["fail", "domain=late.example", "--dry-run"]);
    assert_eq!(dry["preview"]["messages"], late);
    assert_eq!(dry["preview"]["domains"][0]["domain"], "late.example");
    let tried = world.metric("pelton_messages_delayed_total");
    let flushed = world.done(&["flush", "domain=late.example", "--yes"]);
    assert_eq!(flushed["order"]["changed"], late);
    wait_until("another attempt", || {
        world.metric("pelton_messages_delayed_total") == tried + late
    });
    let failed = world.done(&["fail", "domain=late.example attempts=2", "--yes"]);
    assert_eq!(failed["order"]["changed"], late);
    wait_until("empty queues", || world.engine.queued() == Some(0));
    assert_eq!(world.metric("pelton_messages_discarded_total"), late);
    let (exit, refusal) = world.pelton(&["undo"]);
    assert_eq!((exit, &refusal["error"]["code"]), (1, &"E421".into()));
    let (exit, _) = world.pelton(&["undo", "77"]);
    assert_eq!(exit, 3);
}

#[test]
fn single_messages_are_held_delayed_and_let_go() {
    let mut world = World::new("");
    world.send(12, &["late.example"]);
    wait_until("all of it was tried", || {
        world.waiting("state=delayed").len() == 12
    });
    let one = world.waiting("")[0]["id"].as_str().unwrap().to_owned();
    let only = format!("id={one}");
    let others = format!("id!={one}");
    world.done(&["delay", &only, "--for", "3h", "--yes"]);
    let due = |world: &World| world.waiting(&only)[0]["due"].as_str().map(str::to_owned);
    let put_off = due(&world);
    world.kill_and_start();
    wait_until("all of it is back", || world.waiting("").len() == 12);
    let seconds = |due: Option<String>| parse_time(&due?).map(|at| at.secs());
    let put_off = seconds(put_off);
    // By what is on disk, or by the order that goes on.
    wait_until("it is put off", || {
        let due = seconds(due(&world));
        due.zip(put_off).is_some_and(|(a, b)| a.abs_diff(b) <= 2)
    });
    world.done(&[
        "hold",
        "attempts=1",
        &others,
        "--yes",
        "--reason",
        "look at them",
    ]);
    world.done(&["flush", &others, "--yes"]);
    wait_until("the others are held", || {
        let all = world.waiting(&others);
        all.iter()
            .all(|it| it["state"] == "held" && it["order"] == 2)
    });
    assert_eq!(world.waiting(&only)[0]["order"], Value::Null);
    let left = world.done(&["delay", &others, "--for", "1h", "--yes"]);
    let left = &left["order"];
    assert_eq!(
        (&left["state"], &left["changed"], &left["held"]),
        (&"over".into(), &0.into(), &11.into())
    );
    world.done(&["undo", "4"]);
    world.done(&["release", "attempts=1", &others]);
    wait_until("the others were tried", || {
        world.waiting("attempts=2").len() == 11
    });
    let undone = world.done(&["undo", "1"]);
    assert_eq!(undone["instead"]["changed"], 1);
    wait_until("the first was tried", || {
        world.waiting("attempts=2").len() == 12
    });
}

#[test]
fn of_several_suspensions_the_one_is_told_that_ends_last() {
    let world = World::new("");
    for lasts in ["1h", "3h", "2h"] {
        world.done(&["suspend", "domain=two.example", "--for", lasts, "--yes"]);
    }
    world.send(2, &["two.example"]);
    let told = |order: u64| {
        wait_until("the order is told", || {
            let waiting = world.waiting("");
            waiting.len() == 2 && waiting.iter().all(|it| it["order"] == order)
        });
    };
    told(2);
    world.done(&["undo", "2"]);
    told(3);
}

#[test]
fn a_message_whose_time_is_up_ends_though_it_is_suspended_or_held() {
    for order in [&["suspend", "--all"][..], &["hold", "size>1"]] {
        let world = World::new("Message_Expiration = 2\nNever_Attempt_Expired_Messages = false");
        world.done(&[order, &["--yes"]].concat());
        world.send(10, &["one.example"]);
        wait_until("the end of all", || {
            world.metric("pelton_messages_expired_total") == 10
        });
        assert_eq!(world.engine.queued(), Some(0));
        assert!(world.delivered("one.example").is_empty(), "it was stopped");
    }
}

#[test]
fn a_reroute_leads_a_queue_to_another_host_and_back() {
    let world = World::new("");
    let capture = world.folder.path().join("elsewhere.jsonl");
    let elsewhere = Sink::start(SinkConfig {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        capture: Some(capture.clone()),
        ..SinkConfig::default()
    })
    .expect("the sink starts");
    let to = elsewhere.addrs()[0].to_string();
    world.send(6, &["late.example", "two.example"]);
    wait_until("all of it was tried", || {
        world.waiting("state=delayed").len() + world.delivered("two.example").len() == 6
    });
    let late = world.waiting("").len();
    let (exit, _) = world.pelton(&["reroute", "age>1s", "--to", &to, "--yes"]);
    assert_eq!(exit, 2, "single messages are not led elsewhere");
    let (exit, _) = world.pelton(&["reroute", "--all", "--to", "no host", "--yes"]);
    assert_eq!(exit, 2);
    world.done(&["reroute", "domain=late.example", "--to", &to, "--yes"]);
    world.done(&["flush", "--all", "--yes"]);
    wait_until("empty queues", || world.engine.queued() == Some(0));
    let taken = fs::read_to_string(&capture).unwrap_or_default();
    assert_eq!(taken.lines().count(), late, "the other host takes it");
    world.done(&["undo", "1"]);
    world.send(4, &["late.example"]);
    wait_until("the host of before defers", || {
        world.waiting("domain=late.example attempts=1").len() == 4
    });
}

/// An address that is kept for documents, so that no machine has it.
const MISSING: &str = "192.0.2.55";

#[test]
fn a_group_passes_over_members_that_cannot_send() {
    let world = World::new(&format!(
        "default_binding_group = \"p\"\nbinding_group \"p\" {{\n\
         binding \"gone\" {{ Bind_Address = \"{MISSING}\" }}\n\
         binding \"never\" {{ Weight = 0 }}\nbinding \"a\" {{ }}\nbinding \"b\" {{ }}\n}}"
    ));
    world.done(&["suspend", "binding=b", "--yes"]);
    world.send(30, &["late.example"]);
    let by = |world: &World, binding: &str| world.waiting(&format!("binding={binding}")).len();
    assert_eq!(by(&world, "a"), 30, "nobody else may send");
    world.done(&["suspend", "--all", "--yes"]);
    world.send(40, &["late.example"]);
    assert_eq!(world.waiting("").len(), 70, "it is taken all the same");
    assert_eq!(by(&world, "never"), 0);
    for binding in ["gone", "a", "b"] {
        assert!(by(&world, binding) > 0, "{binding} is as good as any");
    }
}

#[test]
fn a_binding_without_its_address_waits_and_goes_on_when_it_has_one() {
    let sender = |address: &str| {
        format!("default_binding = \"a\"\nbinding \"a\" {{ Bind_Address = \"{address}\" }}")
    };
    let world = World::new(&sender(MISSING));
    let status = world.done(&["status"]);
    let sentence = "W101 binding \"a\" is suspended: its Bind_Address 192.0.2.55 is not on this \
                    machine";
    let warnings = status["warnings"].as_array().into_iter().flatten();
    let told = warnings.filter(|it| it["text"] == sentence).count();
    assert_eq!(told, 1, "{status}");
    world.send(10, &["one.example"]);
    for message in world.waiting("") {
        assert_eq!(message["attempts"], 0);
    }
    let why = world.done(&["why", "one.example"]);
    let told = why["queues"][0]["sentence"].as_str().unwrap_or_default();
    assert!(told.starts_with(&sentence["W101 ".len()..]), "{told}");
    let text = fs::read_to_string(world.config()).expect("the configuration");
    let here = text.replace(MISSING, "127.0.0.9");
    fs::write(world.config(), here).expect("it is written");
    world.done(&["reload"]);
    wait_until("empty queues", || world.engine.queued() == Some(0));
    assert_eq!(world.delivered("one.example").len(), 10);
    let changes = world.done(&["changes"])["changes"].to_string();
    assert!(changes.contains("is not on this machine") && changes.contains("goes on"));
}

#[test]
fn a_curfew_ends_to_the_second_by_itself() {
    let second = (crash_rig::engine::wall_us() / 1_000_000 + 4) % 86_400;
    let clock = |second: u64| {
        let (hour, minute) = (second / 3_600, second / 60 % 60);
        format!("{hour:02}:{minute:02}:{:02}", second % 60)
    };
    let begin = (second + 86_400 - 3_600) % 86_400;
    let world = World::new(&format!(
        "Curfew = ( \"{}-{}\" )",
        clock(begin),
        clock(second)
    ));
    world.send(10, &["one.example"]);
    wait_until("empty queues", || world.engine.queued() == Some(0));
    let capture = fs::read_to_string(world.folder.path().join("capture.jsonl"));
    for line in capture.unwrap_or_default().lines() {
        let record: Record = serde_json::from_str(line).expect("a record");
        let came = record.received_us / 1_000_000 % 86_400;
        assert!(
            (came + 86_400 - second) % 86_400 < 3_600,
            "{came}: {second}"
        );
    }
    assert_eq!(world.delivered("one.example").len(), 10);
}
