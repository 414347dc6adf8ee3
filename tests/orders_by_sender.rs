//! Orders by sender meet all mail, wherever its bodies are: in memory, on disk, or found there by a
//! start.

#[allow(dead_code, reason = "made for deaths, of which there are few here")]
mod crash_rig;
mod orders_rig;

use std::fs;

use crash_rig::wait_until;
use orders_rig::World;

const SUSPENDED: &str = "suspend_delivery = true\nmax_resident_messages = 4\n";
const SPAM: &str = "Spam@bad.example";
const GOOD: &str = "good@good.example";

fn let_go(world: &World) {
    let text = fs::read_to_string(world.config()).expect("the configuration");
    let text = text.replace("suspend_delivery = true", "");
    fs::write(world.config(), text).expect("it is written");
    world.done(&["reload"]);
}

fn preview(world: &World, filter: &str) -> (Option<u64>, Option<u64>) {
    let dry = world.done(&["fail", filter, "--dry-run"]);
    let number = |name: &str| dry["preview"][name].as_u64();
    (number("messages"), number("unknown"))
}

#[test]
fn what_is_on_disk_only_is_met_by_its_sender() {
    let mut world = World::new(SUSPENDED);
    world.send_from(SPAM, 30, &["one.example"]);
    world.send_from(GOOD, 30, &["one.example"]);
    world.send_from("", 5, &["two.example"]);
    for again in [false, true] {
        if again {
            world.kill_and_start();
            wait_until("all of it is back", || world.waiting("").len() == 65);
        }
        let cases = [
            ("sender=spam@bad.example", 30),
            ("sender~@BAD", 30),
            ("sender!=spam@bad.example", 35),
            ("sender~example", 60),
            ("sender=<>", 5),
            ("sender=\"\" domain=one.example", 0),
        ];
        for (filter, count) in cases {
            assert_eq!(preview(&world, filter), (Some(count), Some(0)), "{filter}");
            assert_eq!(world.waiting(filter).len() as u64, count, "{filter}");
        }
    }
    let failed = world.done(&["fail", "sender=spam@bad.example", "--yes"]);
    assert_eq!(failed["order"]["changed"], 30, "{failed}");
    assert_eq!(world.waiting("").len(), 35);
    assert_eq!(world.waiting("sender~bad").len(), 0);
    let (exit, _) = world.pelton(&["hold", "size<0", "--yes"]);
    assert_eq!(exit, 2, "nothing is less");
}

#[test]
fn what_is_held_by_its_sender_waits_without_a_connection_and_names_the_order() {
    let world = World::new(SUSPENDED);
    world.send_from(SPAM, 40, &["one.example"]);
    let held = world.done(&["hold", "sender~@bad.example", "--yes"]);
    assert_eq!(held["preview"]["messages"], 40, "{held}");
    let_go(&world);
    wait_until("all of it is held", || {
        let all = world.waiting("");
        all.iter()
            .all(|it| it["state"] == "held" && it["order"] == 1)
    });
    let orders = world.done(&["orders"]);
    assert_eq!(orders["orders"][0]["messages"], 40, "{orders}");
    let why = world.done(&["why", "one.example"]);
    for queue in why["queues"].as_array().expect("queues") {
        let sentence = queue["sentence"].as_str().unwrap_or_default();
        assert!(sentence.contains("by order 1"), "{sentence}");
    }
    let list = world.done(&["queue", "list"]);
    for queue in list["queues"].as_array().expect("queues") {
        assert_eq!(queue["order"], 1, "{list}");
    }
    assert_eq!(world.metric("pelton_connections_out_total"), 0);
    world.send(10, &["one.example"]);
    wait_until("what is not held", || {
        world.delivered("one.example").len() == 10
    });
    let released = world.done(&["release", "sender~@bad.example"]);
    assert_eq!(released["orders"][0]["messages"], 40, "{released}");
    wait_until("empty queues", || world.engine.queued() == Some(0));
    assert_eq!(world.delivered("one.example").len(), 50);
}
