//! Which bodies stay in memory.

use super::*;

const BODY: usize = 1_000;

impl Rig {
    fn put_body(&mut self, now: Now, queue: QueueId, batch: u64) -> EntryId {
        let domain = self.queues.view(queue).expect("known").domain().clone();
        let arrival = self.arrival(now, batch, 0, &domain);
        let body = content(batch, BODY);
        self.queues.insert(now, queue, arrival, Some(body)).entry
    }

    /// The batches whose bodies are in memory.
    fn resident(&self) -> Vec<u64> {
        let page = self
            .queues
            .search(0, usize::MAX, |entry| entry.content().is_some());
        assert_eq!(page.next, None);
        let batch = |id: &EntryId| self.queues.entry(*id).expect("found").message().batch.0;
        let batches: Vec<_> = page.items.iter().map(batch).collect();
        assert_eq!(batches.len(), self.queues.resident_messages());
        batches
    }

    fn budget(&mut self, messages_max: usize) {
        let bytes_max = u64::MAX;
        self.queues.set_budget(Budget {
            messages_max,
            bytes_max,
            ..Budget::default()
        });
    }
}

#[test]
fn delayed_bodies_go_first_then_tails_then_the_rest_and_the_next_last() {
    let mut rig = Rig::new();
    let settings = Settings {
        max_resident_active: Some(20),
        ..Settings::default()
    };
    let queue = rig.queue(at(0), "example.com", settings.clone());
    let other = rig.queue(at(0), "other.example", settings);
    let delayed: Vec<_> = (0..2)
        .map(|batch| rig.put_body(at(0), queue, batch))
        .collect();
    for entry in delayed {
        rig.take(at(0), queue, 1);
        rig.queues.fail(at(0), entry);
    }
    // Places 1 to 16 are next, 17 to 20 are not behind, 21 and 22 are.
    for batch in 101..=122 {
        rig.put_body(at(1), queue, batch);
    }
    rig.put_body(at(2), other, 200);
    let mut last: Vec<u64> = rig.resident();
    let expected = [1, 0, 122, 121, 120, 119, 118, 117, 200, 116];
    for (index, gone) in expected.into_iter().enumerate() {
        rig.budget(24 - index);
        let now = rig.resident();
        let missing: Vec<_> = last.iter().filter(|batch| !now.contains(batch)).collect();
        assert_eq!(missing, [&gone]);
        last = now;
    }
    assert_eq!(rig.queues.evicted(), 10);
    let cost = rig.queues.resident_bytes() / last.len() as u64;
    assert!(cost as usize >= BODY, "{cost}");
}

#[test]
fn an_evicted_body_is_asked_for_and_shared_when_it_is_back() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    let other = rig.queue(at(0), "other.example", Settings::default());
    rig.budget(0);
    rig.put_body(at(0), queue, 1);
    rig.put(at(0), other, 1, 5);
    assert_eq!(rig.queues.resident_messages(), 0);
    assert_eq!(rig.take(at(1), queue, 10).content, None);
    assert!(rig.queues.attach(content(1, BODY)), "in flight it stays");
    let body = rig.take(at(1), other, 10).content.expect("shared");
    assert_eq!(body.body.len(), BODY);
    assert!(!rig.queues.attach(content(2, BODY)), "nobody wants it");
    for entry in [(queue, 0), (other, 5)].map(|(_, recipient)| {
        let message = MessageId {
            batch: BatchId(1),
            recipient,
        };
        rig.queues.of_message(message).expect("in flight")
    }) {
        rig.queues.give_back(at(2), &[entry]);
    }
    assert_eq!(rig.queues.resident_messages(), 0, "the budget counts again");
    assert_eq!(rig.queues.resident_bytes(), 0);
}

#[test]
fn a_body_goes_after_so_many_failures_even_if_there_is_room() {
    let mut rig = Rig::new();
    let settings = Settings {
        drop_body_after_failures: 2,
        ..Settings::default()
    };
    let queue = rig.queue(at(0), "example.com", settings);
    let entry = rig.put_body(at(0), queue, 1);
    for (failures, resident) in [(1, 1), (2, 0)] {
        rig.take(at(0), queue, 1);
        let failed = rig.queues.fail(at(0), entry);
        assert!(matches!(failed, Some(Failed::Delayed { attempts, .. }) if attempts == failures));
        assert_eq!(rig.queues.resident_messages(), resident);
        rig.queues.retry(at(0), entry);
    }
}

#[test]
fn a_body_that_another_recipient_needs_soon_stays() {
    let mut rig = Rig::new();
    let settings = Settings {
        drop_body_after_failures: 0,
        ..Settings::default()
    };
    let queue = rig.queue(at(0), "example.com", settings.clone());
    let other = rig.queue(at(0), "other.example", settings);
    let entry = rig.put_body(at(0), queue, 1);
    rig.put(at(0), other, 1, 1);
    rig.take(at(0), queue, 1);
    rig.queues.fail(at(0), entry);
    assert_eq!(rig.queues.resident_messages(), 1);
    rig.queues.finish(at(1), entry, Ending::Withdrawn);
    assert_eq!(
        rig.take(at(2), other, 1).content.map(|body| body.batch),
        Some(BatchId(1))
    );
}

#[test]
fn a_limit_of_zero_keeps_no_body_in_a_queue() {
    let mut rig = Rig::new();
    let settings = Settings {
        max_resident_active: Some(0),
        ..Settings::default()
    };
    let queue = rig.queue(at(0), "example.com", settings);
    let entry = rig.put_body(at(0), queue, 1);
    assert_eq!(rig.queues.resident_messages(), 0);
    rig.take(at(0), queue, 1);
    rig.queues.attach(content(1, BODY));
    rig.queues.give_back(at(0), &[entry]);
    assert_eq!(rig.queues.resident_messages(), 0);
}

#[test]
fn bytes_are_bounded_too_and_all_come_back() {
    let mut rig = Rig::new();
    let queue = rig.queue(at(0), "example.com", Settings::default());
    let bytes_max = 10_000;
    rig.queues.set_budget(Budget {
        messages_max: usize::MAX,
        bytes_max,
        ..Budget::default()
    });
    let entries: Vec<_> = (0..100)
        .map(|batch| rig.put_body(at(0), queue, batch))
        .collect();
    assert!(rig.queues.resident_bytes() <= bytes_max);
    assert!(rig.resident().len() >= 5);
    for entry in entries {
        rig.queues.finish(at(1), entry, Ending::Withdrawn);
    }
    assert_eq!(
        (rig.queues.resident_bytes(), rig.queues.resident_messages()),
        (0, 0)
    );
}
