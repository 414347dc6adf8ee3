use super::*;
use crate::practice::read::for_tests;

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
