use super::*;
use crate::practice::HOUR;
use crate::practice::SECOND;
use crate::practice::read::for_tests;
use crate::practice::report::Ended;
use crate::sim::practice::world::Event;

fn setup(text: &str, shards: usize, config: &str) -> Setup {
    let scenario = Arc::new(for_tests(text));
    let user = SourceFile {
        name: "user.conf".to_string(),
        text: config.to_string(),
    };
    let mut no_more = |_: &IncludeRequest| Err("no includes".to_string());
    let config = configuration(&scenario, shards, Some(user), &mut no_more);
    Setup {
        seed: scenario.seed,
        config: config.expect("a good config"),
        scenario,
        shards,
    }
}

#[test]
fn mail_is_delivered_and_the_same_seed_tells_the_same() {
    let text = "duration = 10m load { messages_per_hour = 6000 until = 9m } \
        binding a { address = 127.0.1.1 } binding b { address = 127.0.1.2 } \
        provider p { domains = 20 connections = 5 } provider q { share = 2 rate = '60/60' }";
    let setup = setup(text, 2, "Max_Outbound_Connections = 2");
    let first = run(&setup, &mut |_| {});
    assert_eq!(first.messages, 900);
    assert_eq!(
        (
            first.total.lost,
            first.duplicates,
            first.refused_at_injection
        ),
        (0, 0, 0)
    );
    assert_eq!(first.providers[0].waiting, 0);
    assert_eq!(first.total.delivered + first.total.waiting, 900);
    let second = run(&setup, &mut |_| {});
    assert_eq!(first, second);
    let other = run(&Setup { seed: 2, ..setup }, &mut |_| {});
    assert_ne!(first, other);
}

/// The time between attempts at a message that nobody ever takes, the last of which ends it.
fn between_attempts(config: &str) -> Vec<u64> {
    let text = "duration = 20h load { messages_per_hour = 3600 until = 1s } \
        binding a { address = 127.0.1.1 } provider p { domains = 1 greylist = 300d }";
    let mut world = World::new(&setup(text, 1, config));
    world.begin();
    world.schedule.plan(0, Event::Arrive);
    while world.mail.first().is_none_or(|it| it.ended.is_none()) {
        assert!(world.goes_on(20 * HOUR), "it is never given up");
    }
    assert_eq!(world.mail.len(), 1);
    assert_eq!(world.mail[0].ended, Some(Ended::Lost));
    let mut at_us: Vec<u64> = world.retries.iter().map(|it| it.at_us).collect();
    at_us.push(world.now_us);
    let pairs = at_us.windows(2);
    pairs.map(|pair| pair[1] - pair[0]).collect()
}

/// No attempt is early, and none is later than what the one before it took itself.
fn assert_waits(config: &str, expected_s: [u64; 5]) {
    let waits = between_attempts(config);
    assert_eq!(waits.len(), expected_s.len());
    for (wait_us, expected_s) in waits.into_iter().zip(expected_s) {
        let late_us = wait_us.checked_sub(expected_s * SECOND);
        assert!(
            late_us.is_some_and(|it| it < 2 * SECOND),
            "{wait_us} us instead of {expected_s} s with {config}"
        );
    }
}

#[test]
fn the_time_to_the_next_attempt_doubles_up_to_its_limit() {
    assert_waits("Max_Retries = 5", [1_200, 2_400, 4_800, 9_600, 19_200]);
    assert_waits("Max_Retries = 5 Max_Retry_Interval = 1200", [1_200; 5]);
}
