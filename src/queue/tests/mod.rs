//! The queues as their caller sees them: schedules, batches, expiry, rest, memory, listings.

mod expiry;
mod fairness;
mod memory;
mod model;

use core::net::Ipv4Addr;

use bytes::Bytes;

use crate::queue::*;
use crate::types::message::Method;
use crate::types::message::Origin;
use crate::types::message::Progress;
use crate::types::reply::Class as ReplyClass;
use crate::types::sender::SenderHash;

const MINUTE: u64 = 60;

/// A moment on both clocks, `secs` after the start of the test.
fn at(secs: u64) -> Now {
    Now {
        mono: Mono(10_000_000 + secs * 1_000_000),
        wall: Wall::from_secs(1_700_000_000 + secs),
    }
}

fn later(now: Now, duration: Duration) -> Now {
    Now {
        mono: now.mono + duration,
        wall: now.wall + duration,
    }
}

fn content(batch: u64, bytes: usize) -> Arc<Content> {
    Arc::new(Content {
        batch: BatchId(batch),
        received: Wall(0),
        origin: Origin {
            peer: Ipv4Addr::LOCALHOST.into(),
            helo: "client.example".into(),
            method: Method::Esmtp,
        },
        sender: None,
        eight_bit: false,
        smtputf8: false,
        subject: "".into(),
        friendly_from: "".into(),
        flow: None,
        body: Bytes::from(vec![b'x'; bytes]),
    })
}

/// Queues with one binding, and what most tests want to do with them.
struct Rig {
    queues: Queues,
    binding: Arc<str>,
}

impl Rig {
    fn new() -> Rig {
        Rig {
            queues: Queues::new(at(0), Budget::default()),
            binding: "a".into(),
        }
    }

    fn queue(&mut self, now: Now, domain: &str, settings: Settings) -> QueueId {
        let (binding, settings) = (self.binding.clone(), Rc::new(settings));
        let queue = self.queues.open(now, &binding, domain, &settings);
        self.queues.set_settings(queue, &settings);
        queue
    }

    fn arrival(&self, now: Now, batch: u64, recipient: u16, domain: &str) -> Arrival {
        Arrival {
            batch: BatchId(batch),
            recipient,
            home: ShardId(1),
            address: Address::from_parts(&format!("user{recipient}"), domain).expect("valid"),
            binding: self.binding.clone(),
            received: now.wall,
            size: 4_096,
            flow: None,
            sender: Sender::Hash(SenderHash::NULL),
            progress: Progress::default(),
            moved: None,
            in_doubt: false,
        }
    }

    /// One more recipient `domain`, without a body.
    fn put(&mut self, now: Now, queue: QueueId, batch: u64, recipient: u16) -> EntryId {
        let domain = self.queues.view(queue).expect("known").domain().clone();
        let arrival = self.arrival(now, batch, recipient, &domain);
        self.queues.insert(now, queue, arrival, None).entry
    }

    fn take(&mut self, now: Now, queue: QueueId, max: usize) -> Batch {
        match self.queues.take(now, queue, max) {
            Taken::Batch(batch) => batch,
            other => panic!("expected a batch, got {other:?}"),
        }
    }

    fn advance(&mut self, now: Now) -> Vec<Wake> {
        let mut wakes = Vec::new();
        self.queues.advance(now, &mut wakes);
        wakes
    }

    fn state(&self, entry: EntryId) -> Option<State> {
        self.queues.entry(entry).map(|entry| entry.state())
    }

    fn counts(&self, queue: QueueId) -> [u32; 4] {
        let view = self.queues.view(queue).expect("known");
        State::ALL.map(|state| view.count(state))
    }
}

/// Fails an entry until it is given up; the seconds between attempts.
fn delays_of(settings: Settings) -> (Vec<u64>, Failed) {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", settings);
    let entry = rig.put(at(0), queue, 1, 0);
    let mut now = at(0);
    let mut delays = Vec::new();
    loop {
        assert_eq!(rig.take(now, queue, 1).recipients.len(), 1);
        let failed = rig.queues.fail(now, entry).expect("in flight");
        let Failed::Delayed { due, attempts } = failed else {
            return (delays, failed);
        };
        let delay = due.since(now.wall);
        delays.push(delay.as_secs());
        assert_eq!(usize::from(attempts), delays.len());
        assert_eq!(
            rig.queues.take(later(now, delay / 2), queue, 1),
            Taken::Empty
        );
        now = later(now, delay + LATE_MAX);
        assert_eq!(rig.advance(now), [Wake::Active(queue)]);
    }
}

#[test]
fn retries_follow_the_documented_schedule() {
    let secs = Duration::from_secs;
    let base = Settings {
        message_expiration: secs(7 * 86_400),
        max_retries: MaxRetries::Count(5),
        ..Settings::default()
    };
    let capped = Settings {
        max_retry_interval: secs(1_200),
        ..base.clone()
    };
    let never = Settings {
        never_retry: true,
        ..base.clone()
    };
    let auto = Settings {
        max_retries: MaxRetries::Auto,
        message_expiration: secs(86_400),
        ..base.clone()
    };
    let cases = [
        (base, vec![1_200, 2_400, 4_800, 9_600, 19_200], 37_200),
        (capped, vec![1_200; 5], 6_000),
        (never, vec![], 0),
        (
            auto,
            vec![1_200, 2_400, 4_800, 9_600, 19_200, 38_400],
            75_600,
        ),
    ];
    for (settings, expected, sum) in cases {
        let (delays, end) = delays_of(settings);
        assert_eq!(delays, expected);
        assert_eq!(delays.iter().sum::<u64>(), sum);
        let attempts = expected.len() as u16 + 1;
        let why = GiveUp::MaxRetries;
        assert_eq!(end, Failed::GivenUp { why, attempts });
    }
}

#[test]
fn two_hundred_recipients_of_one_transaction_go_out_in_two_batches() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    for recipient in 0..200 {
        rig.put(at(0), queue, 1, recipient);
    }
    rig.put(at(0), queue, 2, 0);
    let sizes: Vec<_> = (0..3)
        .map(|_| rig.take(at(1), queue, 100))
        .map(|batch| {
            (
                batch.batch.0,
                batch.recipients.len(),
                batch.recipients[0].1.to_string(),
            )
        })
        .collect();
    let user = |n: u16| format!("user{n}@example.com");
    assert_eq!(
        sizes,
        [(1, 100, user(0)), (1, 100, user(100)), (2, 1, user(0))]
    );
    assert_eq!(rig.queues.take(at(1), queue, 100), Taken::Empty);
    assert_eq!(rig.counts(queue), [0, 0, 201, 0]);
}

#[test]
fn what_is_given_back_is_next_again_in_its_order_and_pays_no_attempt() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    for recipient in 0..4 {
        rig.put(at(0), queue, 1, recipient);
    }
    let taken = rig.take(at(1), queue, 3);
    let ids: Vec<_> = taken.recipients.iter().map(|(id, _)| *id).collect();
    rig.queues.give_back(at(2), &ids);
    rig.queues.give_back(at(2), &ids);
    let again = rig.take(at(3), queue, 100);
    assert_eq!(again.recipients[..3], taken.recipients);
    assert_eq!(again.recipients.len(), 4);
    let first = rig.queues.entry(ids[0]).expect("in flight");
    assert_eq!((first.attempts(), first.state()), (0, State::InFlight));
}

#[test]
fn an_address_keeps_its_letters_though_its_queue_is_lower_case() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    for (batch, text) in ["Bob@Example.COM.", "\"a b@c\"@example.com"]
        .iter()
        .enumerate()
    {
        let address = Address::parse(text).expect("valid");
        let arrival = rig.arrival(at(0), batch as u64, 0, "example.com");
        let arrival = Arrival {
            address: address.clone(),
            ..arrival
        };
        let entry = rig.queues.insert(at(0), queue, arrival, None).entry;
        assert_eq!(rig.queues.entry(entry).expect("there").address(), address);
        assert_eq!(rig.take(at(0), queue, 1).recipients, [(entry, address)]);
    }
}

#[test]
fn what_is_not_due_on_arrival_waits_and_keeps_its_attempts() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    let mut arrival = rig.arrival(at(0), 1, 0, "example.com");
    let due = at(600).wall;
    arrival.progress = Progress { attempts: 2, due };
    let inserted = rig.queues.insert(at(0), queue, arrival, None);
    assert!(!inserted.ready);
    assert_eq!(rig.advance(at(599)), []);
    assert!(
        rig.queues
            .next_wakeup()
            .is_some_and(|at_mono| at_mono >= at(600).mono)
    );
    assert_eq!(rig.advance(at(602)), [Wake::Active(queue)]);
    rig.take(at(602), queue, 1);
    let failed = rig.queues.fail(at(602), inserted.entry);
    let due = at(602 + 4_800).wall;
    assert_eq!(failed, Some(Failed::Delayed { due, attempts: 3 }));
}

#[test]
fn a_due_time_from_a_clock_that_was_set_back_is_not_believed() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    let year = 365 * 86_400;
    let mut arrival = rig.arrival(at(year), 1, 0, "example.com");
    arrival.progress = Progress {
        attempts: 1,
        due: at(year + 1_200).wall,
    };
    rig.queues.insert(at(0), queue, arrival, None);
    assert_eq!(rig.advance(at(43_202)), [Wake::Active(queue)]);
}

#[test]
fn a_resting_queue_gives_nothing_and_wakes_by_one_timer() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    for batch in 0..10 {
        rig.put(at(0), queue, batch, 0);
    }
    let until = at(300).mono;
    rig.queues.rest(at(1), queue, until);
    let arrival = rig.arrival(at(2), 99, 0, "example.com");
    assert!(!rig.queues.insert(at(2), queue, arrival, None).ready);
    assert_eq!(rig.queues.take(at(2), queue, 1), Taken::Resting { until });
    let totals = Totals {
        delayed: 11,
        ..Totals::default()
    };
    assert_eq!(rig.queues.totals(), totals);
    assert_eq!(rig.counts(queue), [11, 0, 0, 0], "nothing was moved");
    assert_eq!(rig.advance(at(299)), []);
    assert_eq!(rig.advance(at(301)), [Wake::Active(queue)]);
    let totals = Totals {
        active: 11,
        ..Totals::default()
    };
    assert_eq!(rig.queues.totals(), totals);
    assert_eq!(rig.take(at(301), queue, 1).batch, BatchId(0));
}

#[test]
fn a_rest_can_be_prolonged_and_ended_early() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    rig.put(at(0), queue, 1, 0);
    rig.queues.rest(at(1), queue, at(100).mono);
    rig.queues.rest(at(2), queue, at(200).mono);
    assert_eq!(rig.advance(at(150)), []);
    assert!(rig.queues.resume(queue));
    assert_eq!(rig.advance(at(250)), []);
    assert_eq!(rig.take(at(250), queue, 1).recipients.len(), 1);
    assert!(!rig.queues.resume(queue));
    rig.queues.rest(at(300), queue, at(299).mono);
    assert_eq!(
        rig.queues.take(at(300), queue, 1),
        Taken::Empty,
        "a rest in the past is none"
    );
}

#[test]
fn an_operator_flushes_a_queue_in_slices_and_retries_one_message() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    let entries: Vec<_> = (0..5)
        .map(|batch| rig.put(at(0), queue, batch, 0))
        .collect();
    for entry in &entries {
        rig.take(at(1), queue, 1);
        rig.queues.fail(at(1), *entry);
    }
    assert!(rig.queues.retry(at(2), entries[4]));
    assert!(!rig.queues.retry(at(2), entries[4]));
    assert_eq!(rig.counts(queue), [1, 4, 0, 0]);
    assert!(rig.queues.flush(at(2), queue, 3));
    assert!(!rig.queues.flush(at(2), queue, 3));
    assert_eq!(rig.counts(queue), [5, 0, 0, 0]);
    assert_eq!(rig.advance(at(2_000)), [], "their old deadlines are gone");
}

#[test]
fn one_call_advances_a_bounded_number_and_asks_to_be_called_again() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    for batch in 0..ADVANCE_MAX as u64 + 1 {
        let mut arrival = rig.arrival(at(0), batch, 0, "example.com");
        arrival.progress.due = at(60).wall;
        rig.queues.insert(at(0), queue, arrival, None);
    }
    assert_eq!(
        rig.advance(at(62)),
        [Wake::Active(queue)],
        "once however many"
    );
    assert_eq!(rig.counts(queue)[..2], [ADVANCE_MAX as u32, 1]);
    assert!(
        rig.queues
            .next_wakeup()
            .is_some_and(|next| next <= at(62).mono)
    );
    assert_eq!(rig.advance(at(62)), [Wake::Active(queue)]);
    assert_eq!(rig.counts(queue)[1], 0);
}

#[test]
fn late_callers_find_nothing() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    let entry = rig.put(at(0), queue, 1, 7);
    assert_eq!(rig.queues.fail(at(0), entry), None, "it was never taken");
    rig.take(at(1), queue, 1);
    let finished = rig
        .queues
        .finish(at(2), entry, Ending::Delivered)
        .expect("there");
    let message = MessageId {
        batch: BatchId(1),
        recipient: 7,
    };
    assert_eq!((finished.message, finished.home), (message, ShardId(1)));
    assert!(finished.queue_empty);
    let next = rig.put(at(3), queue, 2, 0);
    rig.take(at(3), queue, 1);
    assert_eq!(rig.queues.finish(at(4), entry, Ending::Delivered), None);
    assert_eq!(rig.queues.fail(at(4), entry), None);
    rig.queues.give_back(at(4), &[entry]);
    assert_eq!(rig.state(next), Some(State::InFlight));
    assert_eq!(EntryId::from_bits(next.to_bits()), next);
    assert_eq!(QueueId::from_bits(queue.to_bits()), queue);
}

#[test]
fn an_entry_that_departs_takes_all_along_and_keeps_its_age() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    let entry = rig.put(at(0), queue, 1, 3);
    rig.take(at(1), queue, 1);
    assert!(rig.queues.depart(at(1), entry).is_none(), "it is in a job");
    rig.queues.fail(at(1), entry);
    let due = rig.queues.entry(entry).and_then(|it| it.due());
    // The wall clock is a day ahead from now on; reception was before that.
    let ahead = |seconds: u64| {
        let now = at(seconds);
        let wall = now.wall + Duration::from_secs(86_400);
        Now { wall, ..now }
    };
    let departed = rig.queues.depart(ahead(2), entry).expect("it waits");
    assert!(rig.queues.entry(entry).is_none());
    assert!(departed.content.is_none());
    let Arrival { ref progress, .. } = departed.arrival;
    assert_eq!((departed.arrival.recipient, progress.attempts), (3, 1));
    let mut other = Rig::new();
    let there = other.queue(ahead(2), "google", Settings::default());
    let inserted = other.queues.insert(ahead(2), there, departed.arrival, None);
    let view = other.queues.entry(inserted.entry).expect("there");
    assert_eq!((view.attempts(), view.state()), (1, State::Delayed));
    assert_eq!(
        view.address().domain(),
        "example.com",
        "its own, in another queue"
    );
    assert_eq!(view.due(), due);
    // Not a day older than it is.
    let age = other
        .queues
        .view(there)
        .and_then(|it| it.oldest_age(ahead(2)));
    assert!(
        age.is_some_and(|age| age <= Duration::from_secs(2)),
        "{age:?}"
    );
}

#[test]
fn an_empty_queue_is_remembered_for_a_while_and_then_forgotten() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    let entry = rig.put(at(0), queue, 1, 0);
    assert_eq!(rig.advance(at(1_000)), [], "it is not empty");
    rig.queues.finish(at(1_000), entry, Ending::Withdrawn);
    let keep = QUEUE_KEEP.as_secs();
    assert_eq!(rig.queues.next_wakeup(), Some(at(1_000 + keep).mono));
    assert_eq!(rig.advance(at(999 + keep)), []);
    assert_eq!(rig.queues.find("a", "example.com"), Some(queue));
    assert_eq!(rig.advance(at(1_000 + keep)), [Wake::Forgotten(queue)]);
    assert_eq!(rig.queues.find("a", "example.com"), None);
    assert!(rig.queues.view(queue).is_none());
    assert_eq!(
        (rig.queues.queues_len(), rig.queues.next_wakeup()),
        (0, None)
    );
    let again = rig.queue(at(3_000), "example.com", Settings::default());
    assert_ne!(again, queue);
    rig.queues.rest(at(3_000), again, at(9_000).mono);
    assert_eq!(rig.advance(at(8_999)), [], "a rest is worth remembering");
    assert_eq!(rig.advance(at(9_001)), [Wake::Forgotten(again)]);
}

#[test]
fn too_many_empty_queues_push_out_the_one_longest_empty() {
    let mut rig = Rig::new();
    for n in 0..=IDLE_QUEUES_MAX {
        rig.queue(at(0), &format!("d{n}.example"), Settings::default());
    }
    let oldest = rig.queues.find("a", "d0.example").expect("there");
    assert_eq!(rig.advance(at(1)), [Wake::Forgotten(oldest)]);
    assert_eq!(rig.queues.queues_len(), IDLE_QUEUES_MAX as usize);
}

#[test]
fn a_queue_tells_what_happened_in_it() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    let entries: Vec<_> = (0..4)
        .map(|n| rig.put(at(n * MINUTE), queue, n, 0))
        .collect();
    let now = at(10 * MINUTE);
    for _ in 0..3 {
        rig.take(now, queue, 1);
    }
    rig.queues.finish(now, entries[0], Ending::Delivered);
    rig.queues.finish(now, entries[1], Ending::Failed);
    rig.queues.fail(now, entries[2]);
    rig.queues.finish(now, entries[3], Ending::Withdrawn);
    rig.queues
        .set_cause(now, queue, Cause::Backoff, Some(at(9_999).mono));
    let reply = Reply::remote(451, None, "later");
    rig.queues
        .note_reply(now, queue, (&reply, Stage::RcptTo), 1);
    let view = rig.queues.view(queue).expect("there");
    let expected = Stats {
        receptions: 4,
        deliveries: 1,
        transfails: 1,
        permfails: 1,
        withdrawn: 1,
    };
    assert_eq!(view.stats(), expected);
    assert_eq!(
        (view.waiting().cause, view.waiting().since),
        (Cause::Backoff, now.mono)
    );
    assert_eq!(
        view.waiting().spent(now, Cause::Idle),
        Duration::from_secs(600)
    );
    assert_eq!(
        view.replies()
            .of(ReplyClass::Transient)
            .expect("noted")
            .reply,
        reply
    );
    let age = view.oldest_age(now).expect("one is left").as_secs();
    assert!((480..540).contains(&age), "{age}");
    assert_eq!(view.older_than(now, Duration::from_secs(480)), 1);
    assert_eq!(view.older_than(now, Duration::from_secs(600)), 0);
    let left = rig.queues.entry(entries[2]).expect("delayed");
    assert_eq!(
        (left.attempts(), left.size(), left.received()),
        (1, 4_096, at(120).wall)
    );
    assert!(
        left.due()
            .is_some_and(|due| due >= at(1_800).mono && due <= at(1_802).mono)
    );
    assert_eq!(left.expires(now), at(86_520).mono);
}

#[test]
fn listings_come_in_pages_and_searches_in_bounded_steps() {
    let mut rig = Rig::new();
    let queues: Vec<_> = (0..5)
        .map(|n| rig.queue(at(0), &format!("d{n}.example"), Settings::default()))
        .collect();
    for batch in 0..2 * u64::from(SCAN_STEPS_MAX) {
        rig.put(
            at(0),
            queues[(batch % 5) as usize],
            batch,
            (batch % 7) as u16,
        );
    }
    let page = rig
        .queues
        .list(0, 2, |queue| &**queue.domain() != "d1.example");
    assert_eq!(
        (page.items, page.next),
        (vec![queues[0], queues[2]], Some(3))
    );
    let page = rig.queues.list(3, 100, |_| true);
    assert_eq!((page.items, page.next), (vec![queues[3], queues[4]], None));

    let wanted = |entry: &EntryView<'_>| entry.address().as_str() == "user3@d4.example";
    let (mut found, mut calls, mut cursor) = (0, 0, Some(0));
    while let Some(from) = cursor {
        let page = rig.queues.search(from, 1_000, wanted);
        (found, calls, cursor) = (found + page.items.len(), calls + 1, page.next);
    }
    let expected = (0..2 * SCAN_STEPS_MAX)
        .filter(|n| n % 5 == 4 && n % 7 == 3)
        .count();
    assert_eq!((found, calls), (expected, 2));

    let list = |after, limit| rig.queues.entries(queues[0], State::Active, after, limit);
    let all = list(None, usize::MAX).expect("there");
    let first = list(None, 3).expect("there");
    assert_eq!(first, all[..3]);
    assert_eq!(list(Some(first[2]), 2).as_deref(), Some(&all[3..5]));
    assert_eq!(
        rig.queues
            .entries(queues[1], State::Active, Some(all[0]), 1),
        None
    );
    assert_eq!(
        rig.queues
            .entries(queues[0], State::Delayed, Some(all[0]), 1),
        None
    );
}

#[test]
fn a_batch_and_a_domain_are_found_by_name() {
    let mut rig = Rig::new();
    let one = rig.queue(at(0), "one.example", Settings::default());
    let two = rig.queue(at(0), "two.example", Settings::default());
    rig.binding = "b".into();
    let other = rig.queue(at(0), "one.example", Settings::default());
    for (queue, recipient) in [(one, 3), (two, 1), (other, 2), (one, 9)] {
        rig.put(at(0), queue, 77, recipient);
    }
    let recipients: Vec<_> = rig
        .queues
        .of_batch(BatchId(77))
        .map(|entry| entry.message().recipient)
        .collect();
    assert_eq!(recipients, [3, 1, 2, 9]);
    assert_eq!(rig.queues.of_batch(BatchId(78)).count(), 0);
    let of = |recipient| {
        rig.queues.of_message(MessageId {
            batch: BatchId(77),
            recipient,
        })
    };
    let found = of(2).expect("there");
    assert_eq!(rig.queues.entry(found).expect("there").queue(), other);
    assert_eq!(of(4), None);
    let of_domain: Vec<_> = rig
        .queues
        .of_domain("one.example")
        .map(|queue| queue.id())
        .collect();
    assert_eq!(of_domain, [one, other]);
    assert_eq!(rig.queues.of_domain("none.example").count(), 0);
}
