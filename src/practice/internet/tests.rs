use super::*;
use crate::practice::DAY;
use crate::practice::read::for_tests;

struct World {
    internet: Internet,
    source: IpAddr,
}

fn world(provider: &str) -> World {
    let text = format!(
        "load {{ messages_per_hour = 1 }} duration = 3d \
         binding a {{ address = 127.0.1.1 reputation = 0 }} \
         binding b {{ address = 127.0.1.2 }} provider p {{ {provider} }}"
    );
    let scenario = Arc::new(for_tests(&text));
    let source = scenario.bindings[0].address;
    World {
        internet: Internet::new(scenario, 1),
        source,
    }
}

impl World {
    /// One message to a mailbox, so many milliseconds after the start.
    fn tries(&mut self, mailbox: &str, at_ms: u64) -> Option<Cause> {
        self.tries_after(mailbox, at_ms, 0)
    }

    fn tries_after(&mut self, mailbox: &str, at_ms: u64, before: u32) -> Option<Cause> {
        let recipient = format!("{mailbox}@p.example");
        let attempt = Attempt {
            source: self.source,
            sender: b"s@sender.example",
            recipient: recipient.as_bytes(),
            before,
        };
        let judged = self.internet.recipient(0, attempt, at_ms * 1_000);
        judged.err().map(|it| it.cause)
    }

    fn dials(&mut self, at_ms: u64) -> Option<Cause> {
        let judged = self.internet.connect(0, self.source, at_ms * 1_000);
        judged.err().map(|it| it.cause)
    }

    fn other(&mut self) {
        self.source = self.internet.scenario().bindings[1].address;
    }
}

#[test]
fn windows_are_exact() {
    let mut world = world("rate = ( 2 '3/10' )");
    let rate = Some(Cause::Rate);
    let cases = [
        (0, None),
        (1, None),
        (999, rate),
        (1_000, None),
        (1_001, rate),
        (9_999, rate),
        (10_000, None),
        (10_001, None),
        (10_002, rate),
        (10_999, rate),
        (11_000, None),
        (11_001, rate),
    ];
    for (at_ms, expected) in cases {
        assert_eq!(world.tries("x", at_ms), expected, "{at_ms} ms");
    }
    // Another address has windows of its own.
    world.other();
    assert_eq!(world.tries("x", 11_001), None);
    let account = world.internet.account(0);
    assert_eq!((account.attempts, account.refusals(Cause::Rate)), (13, 6));
    assert_eq!(account.over_sending(), 6);
    assert_eq!(
        (account.buckets[0].attempts, account.buckets[0].over),
        (6, 3)
    );
}

#[test]
fn limits_change_by_timetable_and_what_was_taken_before_counts() {
    let mut world = world("rate = '4/10' at 5s { rate = '2/10' } at 20s { rate = 0 }");
    let taken = |world: &mut World, at_ms: u64| {
        (0..9).filter(|_| world.tries("x", at_ms).is_none()).count()
    };
    let cases = [
        (0, 4),
        (5_000, 0),
        (9_999, 0),
        (10_000, 2),
        (19_999, 0),
        (20_000, 9),
    ];
    for (at_ms, expected) in cases {
        assert_eq!(taken(&mut world, at_ms), expected, "{at_ms} ms");
    }
}

#[test]
fn connections_are_counted_until_they_leave_and_in_windows() {
    let mut world = world("connections = 2 connection_rate = '3/60'");
    let over = Some(Cause::Connections);
    assert_eq!(
        [world.dials(0), world.dials(0), world.dials(0)],
        [None, None, over]
    );
    let source = world.source;
    world.internet.disconnect(0, source);
    assert_eq!(world.dials(1), None);
    world.internet.disconnect(0, source);
    // Two are open, but three were made within the minute.
    assert_eq!(world.dials(59_999), over);
    assert_eq!(world.dials(60_000), None);
    assert_eq!(world.internet.account(0).refusals(Cause::Connections), 2);
    assert_eq!(
        world.internet.account(0).over_sending(),
        0,
        "no message was refused"
    );
}

#[test]
fn a_connection_carries_so_many_messages() {
    let mut world = world("messages_per_connection = 2");
    let found = [0, 1, 2, 3].map(|before| world.tries_after("x", 0, before));
    assert_eq!(
        found,
        [None, None, Some(Cause::Session), Some(Cause::Session)]
    );
}

#[test]
fn a_day_takes_what_the_address_has_earned() {
    let mut world = world("volume { least = 10 most = 40 grows = 100 falls = 50 }");
    let day = |world: &mut World, day: u64, tries: usize| {
        let at_ms = day * DAY / 1_000;
        (0..tries)
            .filter(|_| world.tries("x", at_ms).is_none())
            .count()
    };
    assert_eq!(day(&mut world, 0, 10), 10);
    assert_eq!(day(&mut world, 1, 40), 20, "a good day has doubled it");
    assert_eq!(day(&mut world, 2, 40), 10, "a bad day has halved it");
    world.other();
    assert_eq!(day(&mut world, 2, 50), 40, "an address that is trusted");
    assert_eq!(
        world.internet.account(0).refusals(Cause::Volume),
        20 + 30 + 10
    );
}

#[test]
fn a_greylist_knows_address_sender_and_mailbox() {
    let mut world = world("greylist = 10s");
    let grey = Some(Cause::Greylist);
    assert_eq!(world.tries("u1+1", 0), grey);
    assert_eq!(world.tries("u1+2", 9_999), grey, "the same mailbox");
    assert_eq!(world.tries("u1+2", 10_000), None);
    assert_eq!(world.tries("u2+1", 10_000), grey, "another mailbox");
    world.other();
    assert_eq!(world.tries("u1+2", 10_000), grey, "another address");
    assert_eq!(world.internet.account(0).over_sending(), 0);
}

#[test]
fn blocks_hold_for_their_binding_and_outages_for_everybody() {
    let mut world =
        world("block { binding = a from = 10s to = 20s } outage { from = 30s to = 31s }");
    let block = Some(Cause::Block);
    let cases = [
        (9_999, None),
        (10_000, block),
        (19_999, block),
        (20_000, None),
    ];
    for (at_ms, expected) in cases {
        assert_eq!(world.dials(at_ms), expected, "{at_ms} ms");
        assert_eq!(
            world.tries("x", at_ms),
            expected,
            "on a connection that is there"
        );
    }
    world.other();
    assert_eq!(world.dials(15_000), None);
    let answers =
        [29_999, 30_000, 30_999, 31_000].map(|at_ms| world.internet.answers(0, at_ms * 1_000));
    assert_eq!(answers, [true, false, false, true]);
    assert_eq!(world.internet.account(0).unreachable, 2);
}

#[test]
fn who_goes_on_regardless_is_kept_out() {
    let mut world = world("rate = '1/60' abuse { refusals = '3/10' lasts = 100s }");
    assert_eq!(world.tries("x", 0), None);
    for at_ms in [1_000, 2_000, 11_001] {
        assert_eq!(
            world.tries("x", at_ms),
            Some(Cause::Rate),
            "{at_ms} ms: three in 10 s"
        );
    }
    assert_eq!(world.tries("x", 11_002), Some(Cause::Rate));
    for at_ms in [11_003, 111_001] {
        assert_eq!(world.tries("x", at_ms), Some(Cause::Block));
        assert_eq!(world.dials(at_ms), Some(Cause::Block));
    }
    assert_eq!(world.dials(111_002), None);
    assert_eq!(world.tries("x", 111_002), None);
    let kept_out = &world.internet.account(0).kept_out;
    assert_eq!(kept_out[..], [(world.source, 11_002_000, 111_002_000)]);
}
