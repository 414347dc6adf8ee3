use super::*;
use crate::base::prng::Prng;
use crate::practice::HOUR;
use crate::practice::SECOND;
use crate::practice::read::for_tests;
use crate::practice::scenario::Scenario;

fn scenario(provider: &str) -> Scenario {
    for_tests(&format!(
        "load {{ messages_per_hour = 1 }} binding a {{ address = 127.0.1.1 reputation = 0 }} \
         binding b {{ address = 127.0.1.2 reputation = 0 }} provider p {{ {provider} }}"
    ))
}

fn wanted(count: usize, at_us: u64) -> Vec<Wanted> {
    let each = |mailbox| Wanted { at_us, mailbox };
    (0..count as u64).map(each).collect()
}

/// How many of `count` messages at the start are delivered, from one address or from two.
fn check(provider: &str, addresses: usize, count: usize, until_us: u64, expected: usize) {
    let it = scenario(provider);
    let bindings = &it.bindings[..addresses];
    let times = deliveries(&it.providers[0], bindings, &[], &wanted(count, 0), until_us);
    assert_eq!(times.len(), expected, "{provider}, {addresses} addresses");
}

#[test]
fn each_limit_gives_what_it_says() {
    let minute = 60 * SECOND;
    check("", 1, 7, 1, 7);
    check("rate = 10", 1, 1_000, 60 * SECOND, 600);
    check("rate = 10", 2, 5_000, 60 * SECOND, 1_200);
    check("rate = ( 10 '100/60' )", 1, 1_000, 2 * minute, 200);
    check("connections = 2 latency = 1s", 1, 1_000, minute, 120);
    // Five messages and three round trips take eight seconds.
    let short = "connections = 1 latency = 1s round_trip = 1s messages_per_connection = 5";
    check(short, 1, 1_000, 80 * SECOND, 50);
    check(
        "rate = 1 outage { from = 10s to = 30s }",
        1,
        100,
        minute,
        40,
    );
    check(
        "rate = 1 block { binding = a from = 10s to = 30s }",
        1,
        100,
        minute,
        40,
    );
    check(
        "rate = 1 block { binding = a from = 10s to = 30s }",
        2,
        200,
        minute,
        100,
    );
    check(
        "rate = 1 at 30s { rate = '10/10' } at 40s { rate = 2 }",
        1,
        200,
        minute,
        80,
    );
    check(
        "volume { least = 100 most = 1000 grows = 100 }",
        1,
        9_999,
        3 * DAY,
        700,
    );
    check("greylist = 10m", 1, 9, 10 * minute, 0);
    check("greylist = 10m", 1, 9, 10 * minute + 1, 9);
}

#[test]
fn a_limit_that_is_lifted_is_used_from_that_moment_on() {
    let it = scenario("rate = '1/3600' at 30m { rate = 0 }");
    let times = deliveries(&it.providers[0], &it.bindings[..1], &[], &wanted(5, 0), DAY);
    assert_eq!(times, [0, HOUR / 2, HOUR / 2, HOUR / 2, HOUR / 2]);
}

#[test]
fn what_was_taken_before_counts_in_the_windows() {
    let it = scenario("rate = '3/60'");
    let source = it.bindings[0].address;
    let before = [10, 20, 30].map(|at| Before {
        at_us: at * SECOND,
        source,
    });
    let from = wanted(4, 40 * SECOND);
    let times = deliveries(&it.providers[0], &it.bindings[..1], &before, &from, DAY);
    assert_eq!(times, [70, 80, 90, 130].map(|at| at * SECOND));
    let two = deliveries(&it.providers[0], &it.bindings, &before, &from, DAY);
    assert_eq!(two, [40, 40, 40, 70].map(|at| at * SECOND));
}

#[test]
fn a_greylist_lets_the_second_message_to_a_mailbox_pass_with_the_first() {
    let it = scenario("greylist = 60s");
    let at = |second: u64, mailbox| Wanted {
        at_us: second * SECOND,
        mailbox,
    };
    let from = [at(0, 1), at(50, 1), at(70, 1), at(70, 2)];
    let times = deliveries(&it.providers[0], &it.bindings[..1], &[], &from, DAY);
    assert_eq!(times, [60, 60, 70, 130].map(|at| at * SECOND));
}

/// Small cases in whole seconds, against every schedule that there is.
#[test]
fn no_schedule_at_all_delivers_more() {
    let prng = &mut Prng::new(4_711);
    for case in 0..400 {
        let mut rate = || (prng.between(1, 3), prng.between(1, 5));
        let (first, second, later) = (rate(), rate(), rate());
        let change = prng.between(2, 8);
        let hole = prng.between(1, 8);
        let text = format!(
            "rate = ( '{}/{}' '{}/{}' ) at {change}s {{ rate = '{}/{}' }} \
             outage {{ from = {hole}s to = {}s }}",
            first.0,
            first.1,
            second.0,
            second.1,
            later.0,
            later.1,
            hole + 2,
        );
        let addresses = 1 + case % 2;
        let it = scenario(&text);
        let until = prng.between(6, 10);
        let mut from: Vec<Wanted> = Vec::new();
        for mailbox in 0..prng.between(1, 5) {
            let at_us = prng.below(until) * SECOND;
            from.push(Wanted { at_us, mailbox });
        }
        from.sort_unstable();
        let provider = &it.providers[0];
        let bindings = &it.bindings[..addresses];
        let found = deliveries(provider, bindings, &[], &from, until * SECOND);
        let arrivals: Vec<u64> = from.iter().map(|it| it.at_us / SECOND).collect();
        let mut state = vec![Vec::new(); addresses];
        let most = best(provider, &arrivals, 0, until, &mut state);
        assert_eq!(
            found.len(),
            most,
            "{text}, arrivals {arrivals:?} until {until}"
        );
    }
}

/// The most that can be delivered from this second on, by trying everything: how many each
/// address sends in it, from none to all that may.
fn best(
    provider: &Provider,
    arrivals: &[u64],
    second: u64,
    until: u64,
    sent: &mut Vec<Vec<u64>>,
) -> usize {
    if second == until {
        return sent.iter().map(Vec::len).sum();
    }
    let done: usize = sent.iter().map(Vec::len).sum();
    let here = arrivals.iter().filter(|at| **at <= second).count();
    let mut most = best(provider, arrivals, second + 1, until, sent);
    if done == here || provider.is_out(second * SECOND) {
        return most;
    }
    for address in 0..sent.len() {
        let keeps = provider.limits(second * SECOND).rates.iter().all(|rate| {
            let inside = |at: &&u64| *at + rate.window.as_secs() > second;
            sent[address].iter().filter(inside).count() < rate.count as usize
        });
        if keeps {
            sent[address].push(second);
            most = most.max(best(provider, arrivals, second, until, sent));
            sent[address].pop();
        }
    }
    most
}
