use std::sync::Arc;

use super::*;
use crate::practice::internet::Attempt;
use crate::practice::read::for_tests;

const TEXT: &str = "duration = 200s load { messages_per_hour = 3600 } \
    binding a { address = 127.0.1.1 } goals { settles = 100s } \
    provider p { rate = 1 block { binding = a from = 150s to = 160s } at 180s { rate = 2 } } \
    provider quiet { }";

/// A sender that delivers one a second, skips every third, and tries twice in every tenth.
fn sender() -> (Internet, Vec<Mail>, Vec<Retry>) {
    let scenario = Arc::new(for_tests(TEXT));
    let source = scenario.bindings[0].address;
    let mut internet = Internet::new(scenario, 1);
    let (mut all, mut retries) = (Vec::new(), Vec::new());
    for second in 0..200 {
        let at_us = second * SECOND;
        internet.arrived(0, at_us);
        let mut ended = None;
        if second % 3 != 2 {
            for _ in 0..1 + u64::from(second % 10 == 0) {
                let attempt = Attempt {
                    source,
                    sender: b"s@sender.example",
                    recipient: b"u@p.example",
                    before: 0,
                };
                match internet.recipient(0, attempt, at_us) {
                    Ok(()) => {
                        internet.deliver(0, at_us);
                        ended = Some(Ended::Delivered { at_us, source });
                    }
                    Err(_) => retries.push(Retry {
                        provider: 0,
                        binding: Some(0),
                        at_us,
                    }),
                }
            }
        }
        all.push(Mail {
            provider: 0,
            mailbox: second,
            at_us,
            ended,
        });
    }
    (internet, all, retries)
}

#[test]
fn a_run_is_judged_against_what_was_possible() {
    let (internet, mut all, retries) = sender();
    all[2].ended = Some(Ended::Lost);
    let run = Run {
        internet: &internet,
        mail: &all,
        retries: &retries,
        duplicates: 0,
        refused_at_injection: 0,
    };
    let report = report(&run, 7);
    let row = &report.providers[0];
    assert_eq!((row.messages, row.capacity), (200, 200));
    // 134 were tried; of the ten blocked seconds, seven.
    assert_eq!((row.delivered, row.lost, row.waiting), (127, 1, 72));
    assert_eq!(
        (row.blocked_seconds, row.blocked_retries),
        (10, row.blocked_refusals)
    );
    assert_eq!(row.retries, retries.len() as u64);
    // What waited at 100 s, and all that came later; the blocked ten and the limit of one a
    // second keep the oracle from all of it until the limit is doubled.
    let waited = 100 - all[..100].iter().filter(|it| it.ended.is_some()).count() as u64 + 1;
    assert_eq!(row.settled_capacity, (90 + 20).min(100 + waited));
    assert!(row.share().is_some_and(|it| it < 90.0));
    assert_eq!(row.longest_wait_seconds, 195.0);
    assert_eq!(report.total.delivered, row.delivered);
    assert_eq!(
        report.providers[1],
        Row {
            provider: "quiet".to_string(),
            ..Row::default()
        }
    );
    let goals: Vec<(&str, bool)> = report
        .goals
        .iter()
        .map(|it| (it.name.as_str(), it.reached))
        .collect();
    assert_eq!(
        goals,
        [
            ("share of the hidden capacity, once settled", false),
            ("attempts that were over-sending, once settled", false),
            ("a raised limit is used to 90 %", false),
            ("messages lost", false),
            ("retries spent by a blocked address", false),
        ]
    );
    assert_eq!(report.changes[0].found_after_seconds, None);
}
