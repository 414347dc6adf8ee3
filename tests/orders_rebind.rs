//! `pelton rebind` on the wire: mail that waits is that of another binding from then on, after a
//! kill too, and is due when it was, with the attempts that it had.

#[allow(dead_code, reason = "made for deaths, of which there are few here")]
mod crash_rig;
#[allow(dead_code, reason = "made for all orders")]
mod orders_rig;

use crash_rig::wait_until;
use orders_rig::World;
use serde_json::Value;

const BINDINGS: &str = "default_binding = \"a\"\n\
     binding \"a\" { EHLO_Hostname = \"a.sender.example\" }\n\
     binding_group \"pool\" {\n\
     binding \"b\" { EHLO_Hostname = \"b.sender.example\" }\n\
     binding \"c\" { EHLO_Hostname = \"c.sender.example\" }\n}";

/// Sent, and deferred once by the host.
fn deferred(messages: u64) -> World {
    let world = World::new(BINDINGS);
    world.send(messages, &["late.example"]);
    wait_until("all of it was tried", || {
        world.waiting("attempts=1 state=delayed").len() as u64 == messages
    });
    world
}

/// When each message is due, by its id.
fn due(world: &World) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = world.waiting("");
    let mut due: Vec<_> = all
        .iter()
        // A whole second is as exact as a queue keeps it.
        .map(|it| (text(&it["id"]), text(&it["due"])[..16].to_owned()))
        .collect();
    due.sort();
    due
}

#[test]
fn waiting_mail_is_that_of_another_binding_after_a_kill_too() {
    let mut world = deferred(40);
    let before = due(&world);
    let dry = world.done(&["rebind", "binding=a", "--to", "b", "--dry-run"]);
    assert_eq!(dry["preview"]["messages"], 40);
    assert_eq!(world.waiting("binding=a").len(), 40, "that was only a look");
    let given = world.done(&[
        "rebind",
        "binding=a",
        "--to",
        "b",
        "--reason",
        "it is blocked",
        "--yes",
    ]);
    assert_eq!(given["order"]["changed"], 40);
    assert_eq!(
        (&given["order"]["verb"], &given["order"]["to"]),
        (&"rebind".into(), &"b".into())
    );
    wait_until("all of it is in its new queue", || {
        world.waiting("binding=b attempts=1 state=delayed").len() == 40
    });
    assert_eq!(due(&world), before, "it is due when it was");
    assert_eq!(world.metric("pelton_messages_rebound_total"), 40);
    wait_until("the order is over", || {
        let orders = world.done(&["orders"]);
        orders["orders"][0]["state"] == "over"
    });
    world.kill_and_start();
    wait_until("all of it is back", || world.waiting("").len() == 40);
    assert_eq!(world.waiting("binding=b attempts=1").len(), 40);
    assert_eq!(due(&world), before);
    let (exit, refusal) = world.pelton(&["undo", "1"]);
    assert_eq!((exit, &refusal["error"]["code"]), (1, &"E421".into()));
    let text = refusal["error"]["message"].as_str().unwrap_or_default();
    assert!(text.contains("has given 40 messages to \"b\""), "{text}");
    let changes = world.done(&["changes"])["changes"].to_string();
    assert!(
        changes.contains("order 1: rebind binding=a --to b: it is blocked"),
        "{changes}"
    );
    assert!(changes.contains("order 1 is done: 40 messages rebound by rebind binding=a --to b"));
    let id = world.waiting("")[0]["id"].as_str().unwrap().to_owned();
    wait_until("its events", || {
        let trace = world.done(&["trace", &id]).to_string();
        trace.contains("\"rebind\"") && trace.contains("given to binding b by order 1")
    });
}

#[test]
fn of_a_group_the_members_that_may_send_get_the_mail() {
    let world = deferred(30);
    world.done(&["suspend", "binding=c", "--yes"]);
    let given = world.done(&["rebind", "--all", "--to", "pool", "--yes"]);
    assert_eq!(given["order"]["changed"], 30);
    wait_until("all of it is that of the other member", || {
        world.waiting("binding=b").len() == 30
    });
    world.done(&["resume", "--all"]);
    let again = world.done(&["rebind", "--all", "--to", "pool", "--yes"]);
    assert_eq!(again["order"]["changed"], 0, "it is with a member already");
    world.done(&["rebind", "binding=b", "--to", "a", "--yes"]);
    wait_until("all of it is back", || {
        world.waiting("binding=a").len() == 30
    });
    world.done(&["rebind", "binding=a", "--to", "pool", "--yes"]);
    wait_until("it is spread", || world.waiting("binding=a").is_empty());
    for binding in ["b", "c"] {
        let count = world.waiting(&format!("binding={binding}")).len();
        assert!(count > 0, "{binding} has got some");
    }
}

#[test]
fn a_binding_that_does_not_exist_is_refused_with_the_nearest() {
    let world =
        World::new("binding \"marketing\" { }\nbinding_group \"bulk-pool\" { binding \"x\" { } }");
    for (wrong, near) in [("markting", "marketing"), ("bulk-pol", "bulk-pool")] {
        let (exit, refusal) = world.pelton(&["rebind", "--all", "--to", wrong, "--yes"]);
        assert_eq!((exit, &refusal["error"]["code"]), (2, &"E400".into()));
        let text = refusal["error"]["message"].as_str().unwrap_or_default();
        assert!(
            text.ends_with(&format!("did you mean \"{near}\"?")),
            "{text}"
        );
    }
    let (exit, _) = world.pelton(&["rebind", "--to", "marketing", "--yes"]);
    assert_eq!(exit, 2, "what is not said");
}
