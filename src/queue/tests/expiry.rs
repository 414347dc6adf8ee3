//! A message whose time is up ends on time, whatever queue it sits in and whatever the wall clock
//! does.

use super::*;

const HOUR: u64 = 3_600;

fn one_hour() -> Settings {
    Settings {
        message_expiration: Duration::from_secs(HOUR),
        max_retries: MaxRetries::None,
        ..Settings::default()
    }
}

/// The moment on both clocks when the wall clock has been set by `jump` seconds.
fn jumped(secs: u64, jump: i64) -> Now {
    let Now { mono, wall } = at(secs);
    let wall = Wall(wall.0.saturating_add_signed(jump * 1_000_000));
    Now { mono, wall }
}

#[test]
fn it_comes_on_time_in_every_state() {
    for case in ["active", "resting", "delayed", "behind others"] {
        let mut rig = Rig::new();
        let queue = rig.queue(at(0), "example.com", one_hour());
        let entry = rig.put(at(0), queue, 1, 0);
        match case {
            "resting" => rig.queues.rest(at(1), queue, at(9 * HOUR).mono),
            "delayed" => {
                rig.take(at(1), queue, 1);
                rig.queues.fail(at(1), entry);
                rig.advance(at(1_300));
                rig.take(at(1_300), queue, 1);
                rig.queues.fail(at(1_300), entry);
            }
            "behind others" => {
                rig.take(at(1), queue, 1);
                for batch in 2..20 {
                    rig.put(at(5), queue, batch, 0);
                }
                rig.queues.fail(at(6), entry);
                rig.queues.retry(at(7), entry);
            }
            _ => {}
        }
        assert_eq!(rig.advance(at(HOUR - 1)), [], "{case}");
        let next = rig.queues.next_wakeup().expect("its expiry");
        assert!(
            next >= at(HOUR).mono && next <= at(HOUR).mono + LATE_MAX,
            "{case}"
        );
        assert_eq!(rig.advance(at(HOUR + 2)), [Wake::Expired(entry)], "{case}");
        assert_eq!(rig.state(entry), Some(State::Ending), "{case}");
        rig.queues
            .finish(at(HOUR + 2), entry, Ending::Failed)
            .expect("still there");
    }
}

#[test]
fn one_in_flight_ends_with_its_session() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", one_hour());
    let failing = rig.put(at(0), queue, 1, 0);
    let returning = rig.put(at(0), queue, 2, 0);
    rig.take(at(HOUR - 1), queue, 1);
    rig.take(at(HOUR - 1), queue, 1);
    assert_eq!(rig.advance(at(HOUR + 10)), [], "the session decides");
    let why = GiveUp::Expired;
    let failed = rig.queues.fail(at(HOUR + 10), failing);
    assert_eq!(failed, Some(Failed::GivenUp { why, attempts: 1 }));
    rig.queues.give_back(at(HOUR + 10), &[returning]);
    assert_eq!(rig.advance(at(HOUR + 11)), [Wake::Expired(returning)]);
}

#[test]
fn what_is_taken_before_the_timer_runs_is_told_apart() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", one_hour());
    let old = [rig.put(at(0), queue, 1, 0), rig.put(at(0), queue, 1, 1)];
    rig.put(at(100), queue, 2, 0);
    assert_eq!(
        rig.queues.take(at(HOUR + 1), queue, 100),
        Taken::Expired(old.to_vec())
    );
    assert_eq!(rig.take(at(HOUR + 1), queue, 100).batch, BatchId(2));
    assert_eq!(rig.counts(queue), [0, 0, 1, 2]);
}

#[test]
fn one_that_is_expired_on_arrival_is_told_at_once() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", one_hour());
    let mut arrival = rig.arrival(at(0), 1, 0, "example.com");
    arrival.received = Wall::from_secs(1);
    let entry = rig.queues.insert(at(5), queue, arrival, None).entry;
    assert!(
        rig.queues
            .next_wakeup()
            .is_some_and(|next| next <= at(5).mono)
    );
    assert_eq!(rig.advance(at(5)), [Wake::Expired(entry)]);
}

#[test]
fn with_the_option_off_there_is_one_last_attempt() {
    let mut rig = Rig::new();
    let settings = Settings {
        never_attempt_expired: false,
        ..one_hour()
    };
    let queue = rig.queue(at(0), "example.com", settings);
    let entry = rig.put(at(0), queue, 1, 0);
    let late = rig.put(at(0), queue, 2, 0);
    rig.take(at(3_000), queue, 1);
    assert!(matches!(
        rig.queues.fail(at(3_000), entry),
        Some(Failed::Delayed { .. })
    ));
    assert_eq!(
        rig.advance(at(HOUR + 2)),
        [Wake::Active(queue)],
        "before its next attempt"
    );
    for (expected, attempts) in [(late, 1), (entry, 2)] {
        assert_eq!(rig.take(at(HOUR + 3), queue, 1).recipients[0].0, expected);
        let why = GiveUp::Expired;
        let failed = rig.queues.fail(at(HOUR + 3), expected);
        assert_eq!(failed, Some(Failed::GivenUp { why, attempts }));
    }
}

#[test]
fn a_jump_of_the_wall_clock_ends_nothing_early() {
    let day = 86_400;
    for state in [State::Active, State::Delayed] {
        for jump in [-day, day, 10 * day] {
            let mut rig = Rig::new();
            let queue = rig.queue(at(0), "example.com", one_hour());
            let entry = rig.put(at(0), queue, 1, 0);
            if state == State::Delayed {
                rig.take(at(0), queue, 1);
                rig.queues.fail(at(0), entry);
            }
            assert_eq!(rig.advance(jumped(1_000, jump)), [], "{state:?} {jump}");
            assert_eq!(rig.state(entry), Some(state));
            let wakes = rig.advance(jumped(HOUR - 1, jump));
            assert!(!wakes.contains(&Wake::Expired(entry)), "{state:?} {jump}");
            let wakes = rig.advance(jumped(HOUR + 2, jump));
            assert_eq!(wakes, [Wake::Expired(entry)], "{state:?} {jump}");
        }
    }
}

#[test]
fn mail_recovered_under_a_clock_that_ran_ahead_lives_when_the_clock_is_set_right() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", one_hour());
    // It came at zero; half an hour passed unseen; the clock says three quarters of an hour.
    let arrival = rig.arrival(at(0), 1, 0, "example.com");
    let ahead = |secs| jumped(secs, 900);
    let entry = rig.queues.insert(ahead(1_800), queue, arrival, None).entry;
    assert_eq!(
        rig.advance(at(2_702)),
        [],
        "the clock has been set right, and disagrees"
    );
    assert_eq!(rig.state(entry), Some(State::Active));
    assert_eq!(rig.advance(at(HOUR - 1)), []);
    assert_eq!(rig.advance(at(HOUR + 2)), [Wake::Expired(entry)]);
}

#[test]
fn an_attempt_is_not_made_early_because_its_expiry_moved_away() {
    let mut rig = Rig::new();
    let settings = |hours| Settings {
        message_expiration: Duration::from_secs(hours * HOUR),
        max_retries: MaxRetries::None,
        retry_interval: Duration::from_secs(2 * HOUR),
        ..Settings::default()
    };
    let queue = rig.queue(at(0), "example.com", settings(1));
    let entry = rig.put(at(0), queue, 1, 0);
    rig.take(at(0), queue, 1);
    rig.queues.fail(at(0), entry);
    let due = rig.queues.entry(entry).expect("delayed").due();
    assert_eq!(due, Some(at(2 * HOUR).mono));
    rig.queues.set_settings(queue, &Rc::new(settings(24)));
    assert_eq!(rig.advance(at(HOUR + 2)), []);
    assert_eq!(rig.state(entry), Some(State::Delayed));
    assert_eq!(rig.advance(at(2 * HOUR - 1)), []);
    assert_eq!(rig.advance(at(2 * HOUR + 2)), [Wake::Active(queue)]);
}

#[test]
fn a_shorter_expiration_counts_for_what_waits() {
    let mut rig = Rig::new();
    let settings = |hours| Settings {
        message_expiration: Duration::from_secs(hours * HOUR),
        max_retries: MaxRetries::None,
        retry_interval: Duration::from_secs(6 * HOUR),
        ..Settings::default()
    };
    let queue = rig.queue(at(0), "example.com", settings(24));
    let [delayed, held, active] = [1, 2, 3].map(|batch| {
        let entry = rig.put(at(0), queue, batch, 0);
        if batch < 3 {
            rig.take(at(0), queue, 1);
            rig.queues.fail(at(0), entry);
        }
        entry
    });
    rig.queues.put_off(at(0), held, Mono(u64::MAX));
    for hours in [12, 2] {
        rig.queues.set_settings(queue, &Rc::new(settings(hours)));
        while rig.queues.next_wakeup() == Some(Mono(0)) {
            assert_eq!(rig.advance(at(1)), []);
        }
    }
    assert_eq!(rig.advance(at(2 * HOUR - 1)), []);
    let mut ended = rig.advance(at(2 * HOUR + 2));
    ended.sort_by_key(|it| format!("{it:?}"));
    let mut expected = [active, delayed, held].map(Wake::Expired);
    expected.sort_by_key(|it| format!("{it:?}"));
    assert_eq!(ended, expected);
}
