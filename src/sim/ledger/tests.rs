//! The ledger itself: it must be able to fail.

use crate::base::time::Wall;
use crate::sim::counts::Check;
use crate::sim::ledger::Ledger;
use crate::sim::ledger::Message;
use crate::sim::ledger::Recipient;
use crate::sim::ledger::Standing;
use crate::sim::ledger::Who;
use crate::sim::ledger::settle::wall;
use crate::sim::scenario::SECOND;
use crate::sim::scenario::Scenario;
use crate::types::id::BatchId;

const WHO: Who = Who {
    message: 0,
    recipient: 0,
};

fn ledger() -> Ledger {
    let mut limits = Scenario::draw(1).limits;
    (limits.retry_s, limits.retry_max_s) = (10, 40);
    limits.expiration_s = 100;
    let mut ledger = Ledger::new(limits);
    ledger.lives.begin();
    ledger.messages.push(Message {
        sender: String::new(),
        recipients: vec![Recipient::default()],
        content: b"Subject: x\r\n\r\nbody\r\n".to_vec(),
        eight_bit: false,
        standing: Standing::Unsent,
        batch: None,
        offered_us: 0,
        accepted_us: 0,
    });
    ledger.set_now(SECOND);
    ledger
}

fn accepted() -> Ledger {
    let mut ledger = ledger();
    ledger.accepted(0, &[0], BatchId(5));
    ledger
}

fn failed(ledger: &Ledger) -> Option<Check> {
    ledger.violation.as_ref().map(|violation| violation.check)
}

fn event(kind: &str, outcome: &str) -> String {
    format!(
        "{{\"type\":\"{kind}\",\"event_id\":\"x-{kind}\",\"timestamp\":\"{outcome}\",\
         \"raw_rcpt_to\":\"r0.m0@d.example\",\"outcome\":\"{outcome}\"}}"
    )
}

#[test]
fn a_moment_is_read_as_it_is_written() {
    for secs in [0, 951_826_155, 1_767_225_599, 4_107_542_400] {
        let at = Wall(secs * 1_000_000 + 123_000);
        assert_eq!(wall(&at.rfc3339().to_string()), Some(at));
    }
}

#[test]
fn mail_that_is_delivered_once_and_told_once_is_in_order() {
    let mut ledger = accepted();
    let receipt = ledger.delivered(1, &[WHO], &|_| true);
    ledger.receipt_reached(receipt);
    ledger.event_line(&event("delivery", "delivered"));
    ledger.check_end();
    assert_eq!((failed(&ledger), ledger.open), (None, 0));
}

#[test]
fn a_recipient_without_an_outcome_is_missed() {
    let mut ledger = accepted();
    ledger.check_end();
    assert_eq!(failed(&ledger), Some(Check::OneOutcome));
}

#[test]
fn an_event_of_a_delivery_that_nobody_made_is_a_lie() {
    let mut ledger = accepted();
    ledger.event_line(&event("delivery", "delivered"));
    assert_eq!(failed(&ledger), Some(Check::EventIsTrue));
}

#[test]
fn two_ends_are_one_too_many() {
    let mut ledger = accepted();
    ledger.event_line(&event("bounce", "expired"));
    assert_eq!(failed(&ledger), None);
    ledger.event_line(&event("delivery", "expired"));
    assert_eq!(failed(&ledger), None, "told again, the same");
    ledger.recipient(WHO).expect("there").rejected = true;
    ledger.event_line(&event("bounce", "bounced"));
    assert_eq!(failed(&ledger), Some(Check::OneTerminalEvent));
}

#[test]
fn a_second_delivery_needs_an_excuse() {
    // Reached, connection alive, killed after so many microseconds: is it excused?
    let cases = [
        (true, true, None, false),
        (false, false, None, true),
        (false, true, None, false),
        (true, false, Some(10_000), true),
        (true, false, Some(SECOND), false),
    ];
    for (reached, live, killed, excused) in cases {
        let mut ledger = accepted();
        let receipt = ledger.delivered(1, &[WHO], &|_| live);
        if reached {
            ledger.receipt_reached(receipt);
        }
        if let Some(after) = killed {
            ledger.lives.killed(SECOND + after, 1_000);
            ledger.lives.begin();
        }
        ledger.delivered(2, &[WHO], &|_| live);
        let found = failed(&ledger) == Some(Check::Duplicate);
        assert_eq!(found, !excused, "{reached} {live} {killed:?}");
    }
}

#[test]
fn a_retry_that_comes_too_early_is_seen() {
    for (second, third, early) in [(9, 50, true), (10, 30, false), (10, 29, true)] {
        let mut ledger = accepted();
        for at in [1, 1 + second, 1 + third] {
            ledger.set_now(at * SECOND);
            ledger.attempted(WHO, Wall::from_secs(at));
            ledger.attempt_answered(WHO);
        }
        let found = failed(&ledger) == Some(Check::NotBeforeDue);
        assert_eq!(found, early, "{second} {third}");
    }
}

#[test]
fn a_due_time_counts_after_a_restart_unless_the_event_log_alone_knew_it() {
    let delay = "{\"type\":\"delay\",\"event_id\":\"d\",\"timestamp\":\"x\",\
                 \"raw_rcpt_to\":\"r0.m0@d.example\",\
                 \"next_attempt\":\"1970-01-01T00:01:00.000Z\"}";
    // Told at, the disk failed from and to, killed at, all in seconds: does it count?
    let cases = [
        (10, None, None, 20, true),
        (10, Some(9), None, 20, false),
        (10, Some(11), None, 20, true),
        (10, Some(9), Some(11), 20, true),
        (10, Some(9), Some(20), 20, false),
        (10, Some(5), Some(6), 20, true),
    ];
    for (told, failed_at, well_at, killed, counts) in cases {
        let mut ledger = accepted();
        for second in 0..=killed {
            let now_us = second * SECOND;
            ledger.set_now(now_us);
            if failed_at == Some(second) {
                ledger.lives.commit_ended(now_us, 0, false);
            }
            if well_at == Some(second) {
                ledger.lives.commit_ended(now_us, 0, true);
            }
            if told == second {
                ledger.event_line(delay);
            }
        }
        ledger.lives.killed(killed * SECOND, 1_000);
        ledger.lives.begin();
        ledger.attempted(WHO, Wall::from_secs(59));
        let found = failed(&ledger) == Some(Check::NotBeforeDueRestart);
        assert_eq!(found, counts, "{told} {failed_at:?} {well_at:?} {killed}");
    }
}

#[test]
fn an_attempt_after_the_end_is_seen() {
    let mut ledger = accepted();
    ledger.set_now(300 * SECOND);
    ledger.attempted(WHO, Wall::from_secs(300));
    assert_eq!(failed(&ledger), Some(Check::NotExpired));
}

#[test]
fn a_body_is_one_trace_field_and_what_was_sent() {
    let cases = [
        (
            &b"Received: from a\r\n\tby b\r\nSubject: x\r\n\r\nbody\r\n"[..],
            true,
        ),
        (
            b"Received: from a\r\nX: y\r\nSubject: x\r\n\r\nbody\r\n",
            false,
        ),
        (b"Subject: x\r\n\r\nbody\r\n", false),
        (b"Received: from a\r\nSubject: x\r\n\r\nbodY\r\n", false),
    ];
    for (body, holds) in cases {
        let mut ledger = accepted();
        ledger.check_body(Check::BodyDelivered, 0, body);
        assert_eq!(failed(&ledger).is_none(), holds);
    }
}

#[test]
fn accepted_mail_that_recovery_does_not_find_is_lost() {
    let mut ledger = accepted();
    ledger.recovered(core::iter::empty(), core::iter::empty());
    assert_eq!(failed(&ledger), Some(Check::Recovered));
}
