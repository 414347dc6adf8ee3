//! Flows, tenants and classes in one queue: who is next, and what each is sure of.

use super::*;
use crate::base::map::Map;
use crate::base::prng::Prng;
use crate::types::flow::FlowNames;

const CLASSES: [(&str, u32); 3] = [("transactional", 10), ("news", 20), ("bulk", 5)];

impl Rig {
    fn put_flow(&mut self, now: Now, queue: QueueId, batch: u64, names: FlowNames<'_>) -> EntryId {
        self.put_recipient(now, queue, (batch, 0), names)
    }

    fn put_recipient(
        &mut self,
        now: Now,
        queue: QueueId,
        (batch, recipient): (u64, u16),
        names: FlowNames<'_>,
    ) -> EntryId {
        let domain = self.queues.view(queue).expect("known").domain().clone();
        let arrival = Arrival {
            flow: names.flow(),
            ..self.arrival(now, batch, recipient, &domain)
        };
        self.queues.insert(now, queue, arrival, None).entry
    }

    /// The batches that are next, one recipient each, all of them left in flight.
    fn batches(&mut self, queue: QueueId, count: usize) -> Vec<u64> {
        let mut batches = Vec::new();
        for _ in 0..count {
            batches.push(self.take(at(1), queue, 1).batch.0);
        }
        batches
    }
}

fn names<'a>(class: &'a str, tenant: &'a str, campaign: &'a str) -> FlowNames<'a> {
    FlowNames {
        class,
        tenant,
        campaign,
    }
}

fn rig() -> (Rig, QueueId) {
    let mut rig = Rig::new();
    rig.queues.set_classes(&CLASSES);
    let queue = rig.queue(at(0), "example.com", Settings::default());
    (rig, queue)
}

#[test]
fn what_somebody_waits_for_goes_first_and_the_rest_has_its_share() {
    let (mut rig, queue) = rig();
    for batch in 0..100 {
        rig.put_flow(at(0), queue, 1_000 + batch, names("bulk", "", ""));
    }
    for batch in 0..100 {
        rig.put_flow(at(0), queue, batch, names("transactional", "", ""));
    }
    let taken = rig.batches(queue, 105);
    let bulk: Vec<usize> = (0..taken.len()).filter(|at| taken[*at] >= 1_000).collect();
    assert_eq!(
        bulk,
        [20, 40, 60, 80, 100],
        "one in twenty beside the others"
    );
    let rest = rig.batches(queue, 95);
    assert!(rest.is_sorted() && rest[0] == 1_005, "{rest:?}");
    assert_eq!(rig.queues.take(at(1), queue, 1), Taken::Empty);
}

#[test]
fn a_class_that_comes_and_goes_does_not_starve_another() {
    let (mut rig, queue) = rig();
    for batch in 0..50 {
        rig.put_flow(at(0), queue, 1_000 + batch, names("bulk", "", ""));
    }
    let mut bulk = 0;
    for batch in 0..420 {
        rig.put_flow(at(0), queue, batch, names("transactional", "", ""));
        let taken = rig.batches(queue, 1)[0];
        bulk += u32::from(taken >= 1_000);
    }
    assert_eq!(bulk, 20);
}

#[test]
fn a_class_can_be_put_off_only_so_often() {
    let (mut rig, queue) = rig();
    for batch in 0..50 {
        rig.put_flow(at(0), queue, 1_000 + batch, names("bulk", "", ""));
    }
    let mut turns = Vec::new();
    for batch in 0..420 {
        rig.put_flow(at(0), queue, batch, names("transactional", "", ""));
        rig.queues.put_off_shares(queue);
        if rig.batches(queue, 1)[0] >= 1_000 {
            turns.push(batch);
        }
    }
    let waits = turns.windows(2).map(|two| two[1] - two[0]);
    assert!(turns.len() >= 4 && waits.max() <= Some(84), "{turns:?}");
}

#[test]
fn a_tenant_that_comes_and_goes_takes_turns_with_one_that_stays() {
    let (mut rig, queue) = rig();
    for batch in 0..50 {
        rig.put_flow(at(0), queue, 1_000 + batch, names("", "stays", ""));
    }
    let mut stayed = 0;
    for batch in 0..40 {
        rig.put_flow(at(0), queue, batch, names("", "comes", ""));
        stayed += u32::from(rig.batches(queue, 1)[0] >= 1_000);
    }
    assert!((19..=21).contains(&stayed), "{stayed}");
}

#[test]
fn tenants_go_round_and_so_do_the_campaigns_of_each() {
    let (mut rig, queue) = rig();
    let flows = [("a", "x"), ("a", "y"), ("b", ""), ("", "")];
    for (index, (tenant, campaign)) in flows.into_iter().enumerate() {
        for number in 0..10 {
            let batch = (index * 100 + number) as u64;
            rig.put_flow(at(0), queue, batch, names("", tenant, campaign));
        }
    }
    assert_eq!(rig.batches(queue, 6), [0, 200, 300, 100, 201, 301]);
    let view = rig.queues.view(queue).expect("known");
    let flows = view.flows(10);
    let told: Vec<_> = flows.iter().map(|(_, count)| *count).collect();
    assert_eq!((told.len(), told.iter().sum::<u32>()), (4, 34));
    assert_eq!(view.flows(2).len(), 2);
}

#[test]
fn who_has_sent_to_many_at_once_waits_as_many_rounds() {
    let (mut rig, queue) = rig();
    for batch in 0..2 {
        for recipient in 0..6 {
            rig.put_recipient(at(0), queue, (batch, recipient), names("", "many", ""));
        }
    }
    for batch in 10..30 {
        rig.put_flow(at(0), queue, batch, names("", "few", ""));
    }
    let taken: Vec<(u64, usize)> = (0..12)
        .map(|_| {
            let batch = rig.take(at(1), queue, 10);
            (batch.batch.0, batch.recipients.len())
        })
        .collect();
    let many: Vec<usize> = (0..12).filter(|at| taken[*at].0 < 2).collect();
    assert_eq!(many, [0, 7], "{taken:?}");
    assert_eq!(taken[0].1, 6, "a batch stays together");
}

#[test]
fn what_comes_back_untried_is_first_in_its_flow_and_is_not_charged() {
    let (mut rig, queue) = rig();
    for batch in 0..4 {
        rig.put_flow(at(0), queue, batch, names("", "a", ""));
        rig.put_flow(at(0), queue, 10 + batch, names("", "b", ""));
    }
    let first = rig.take(at(1), queue, 1);
    assert_eq!(first.batch.0, 0);
    rig.queues.give_back(at(1), &[first.recipients[0].0]);
    let all = rig.batches(queue, 8);
    let of_a: Vec<u64> = all.iter().copied().filter(|it| *it < 10).collect();
    assert_eq!(of_a, [0, 1, 2, 3], "{all:?}");
    assert!(all[..2].contains(&0) && all[..2].contains(&10), "{all:?}");
}

#[test]
fn what_comes_back_from_a_delay_joins_its_flow() {
    let (mut rig, queue) = rig();
    let entry = rig.put_flow(at(0), queue, 1, names("transactional", "", ""));
    rig.put_flow(at(0), queue, 2, names("", "a", ""));
    rig.put_flow(at(0), queue, 3, names("", "b", ""));
    assert_eq!(rig.batches(queue, 1), [1]);
    rig.queues.fail(at(1), entry);
    assert!(rig.queues.retry(at(2), entry));
    assert_eq!(rig.batches(queue, 3), [1, 2, 3]);
}

#[test]
fn other_classes_count_at_once() {
    let (mut rig, queue) = rig();
    for (batch, class) in [(1, "bulk"), (2, "news"), (3, "late"), (4, "bulk")] {
        rig.put_flow(at(0), queue, batch, names(class, "", ""));
    }
    assert_eq!(rig.queues.next_rank(queue), Some(1));
    rig.queues
        .set_classes(&[("late", 10), ("bulk", 10), ("news", 10)]);
    assert_eq!(rig.queues.next_rank(queue), Some(0));
    assert_eq!(rig.queues.waiting_of(queue, 1), 2);
    assert_eq!(rig.batches(queue, 4), [3, 1, 4, 2]);
}

#[test]
fn a_queue_of_one_flow_is_a_plain_list_again() {
    let (mut rig, queue) = rig();
    for batch in 0..3 {
        rig.put_flow(at(0), queue, batch, names("", "a", ""));
    }
    assert!(rig.queues.lanes.is_empty(), "one flow needs no lanes");
    rig.put_flow(at(0), queue, 10, names("", "b", ""));
    assert!(!rig.queues.lanes.is_empty());
    assert_eq!(rig.batches(queue, 3), [0, 10, 1]);
    assert!(rig.queues.lanes.is_empty());
    assert_eq!(rig.batches(queue, 1), [2]);
}

#[test]
fn the_body_of_what_is_next_in_its_flow_stays_longest() {
    let (mut rig, queue) = rig();
    let put = |rig: &mut Rig, batch, names: FlowNames<'_>| {
        let arrival = Arrival {
            flow: names.flow(),
            ..rig.arrival(at(0), batch, 0, "example.com")
        };
        let body = Some(content(batch, 100));
        rig.queues.insert(at(0), queue, arrival, body).entry
    };
    for batch in 0..400 {
        put(&mut rig, batch, names("", "", ""));
    }
    let urgent = put(&mut rig, 1_000, names("transactional", "", ""));
    let is_here = |rig: &Rig, id| rig.queues.entry(id).expect("there").content().is_some();
    rig.queues.set_budget(Budget {
        messages_max: 20,
        bytes_max: u64::MAX,
        ..Budget::default()
    });
    assert_eq!(rig.queues.resident_messages(), 20);
    rig.queues.set_budget(Budget {
        messages_max: 17,
        bytes_max: u64::MAX,
        ..Budget::default()
    });
    assert!(is_here(&rig, urgent), "sixteen of bulk and this one");
}

/// Class, tenant, campaign.
type Name = [&'static str; 3];

const TENANTS: [&str; 3] = ["", "a", "b"];
const CAMPAIGNS: [&str; 2] = ["", "x"];

/// In the place of a campaign: all of them.
const ALL_OF_TENANT: &str = "*";

type Waiting = Map<Name, Vec<(u64, EntryId)>>;

fn is_waiting(waiting: &Waiting, name: &Name) -> bool {
    let is_it = |flow: &Name| flow == name || flow[..2] == name[..2] && name[2] == ALL_OF_TENANT;
    let mut all = waiting.iter();
    all.any(|(flow, entries)| is_it(flow) && !entries.is_empty())
}

struct Run {
    rig: Rig,
    queue: QueueId,
    prng: Prng,
    /// What waits of each flow, in its order.
    waiting: Waiting,
    /// What the first was served more than the second while both waited without a break.
    pairs: Map<[Name; 2], i64>,
    batches: u64,
    in_flight: Vec<(Name, u64, EntryId)>,
    /// By rank: what others were served while it waited and was not the first, and what it was.
    earned: [(u32, u32); CLASSES.len()],
    seed: u64,
}

const BATCH_MAX: usize = 4;

impl Run {
    fn rank(class: &str) -> usize {
        CLASSES.iter().position(|it| it.0 == class).expect("known")
    }

    fn waits(&self, rank: usize) -> bool {
        let mut all = self.waiting.iter();
        all.any(|(flow, entries)| Run::rank(flow[0]) == rank && !entries.is_empty())
    }

    fn put(&mut self) {
        let class = *self
            .prng
            .pick(&["transactional", "news", "news", "bulk", "bulk"]);
        let tenant = *self.prng.pick(&TENANTS);
        let campaign = *self.prng.pick(&CAMPAIGNS);
        self.batches += 1;
        for recipient in 0..self.prng.between(1, BATCH_MAX as u64) {
            let place = (self.batches, recipient as u16);
            let flow = names(class, tenant, campaign);
            let entry = self.rig.put_recipient(at(0), self.queue, place, flow);
            let entries = self.waiting.entry([class, tenant, campaign]).or_default();
            entries.push((self.batches, entry));
        }
        self.forget_pairs();
    }

    /// Pairs count while both wait.
    fn forget_pairs(&mut self) {
        let waiting = &self.waiting;
        let waits = |name: &Name| is_waiting(waiting, name);
        self.pairs.retain(|pair, _| pair.iter().all(waits));
        for rank in 0..CLASSES.len() {
            let first = (0..CLASSES.len()).find(|rank| self.waits(*rank));
            if first.is_none_or(|first| first >= rank) || !self.waits(rank) {
                self.earned[rank] = (0, 0);
            }
        }
    }

    fn take(&mut self) {
        let max = self.prng.between(1, BATCH_MAX as u64) as usize;
        let first = (0..CLASSES.len()).find(|rank| self.waits(*rank));
        let batch = match self.rig.queues.take(at(1), self.queue, max) {
            Taken::Batch(batch) => batch,
            Taken::Empty => return assert_eq!(first, None, "seed {}", self.seed),
            other => panic!("{other:?}"),
        };
        let ids: Vec<EntryId> = batch.recipients.iter().map(|it| it.0).collect();
        let starts = |entries: &Vec<(u64, EntryId)>| entries.first().map(|it| it.1);
        let found = self
            .waiting
            .iter()
            .find(|it| starts(it.1) == ids.first().copied());
        let flow = *found.expect("it is the first of its flow").0;
        let entries = &mut self.waiting[&flow];
        let lead = entries
            .iter()
            .take(max)
            .take_while(|it| it.0 == batch.batch.0);
        let lead: Vec<EntryId> = lead.map(|it| it.1).collect();
        assert_eq!(ids, lead, "seed {}: in the order of the flow", self.seed);
        entries.drain(..ids.len());
        let rank = Run::rank(flow[0]);
        assert_eq!(usize::from(batch.rank), rank);
        let batch = batch.batch.0;
        self.in_flight
            .extend(ids.iter().map(|id| (flow, batch, *id)));
        self.account(flow, first.expect("something waits"), ids.len());
        self.forget_pairs();
    }

    fn account(&mut self, flow: Name, first: usize, count: usize) {
        let served = Run::rank(flow[0]);
        for (rank, (class, share)) in CLASSES.into_iter().enumerate().skip(first + 1) {
            if !self.waits(rank) && rank != served {
                continue;
            }
            let (all, own) = &mut self.earned[rank];
            *all += count as u32;
            *own += if rank == served { count as u32 } else { 0 };
            let due = *all * share / 100;
            let slack = 1 + 2 * BATCH_MAX as u32;
            let (all, own) = (*all, *own);
            assert!(
                own + slack >= due && own <= due + slack,
                "seed {}: {own} of {all} for {}",
                self.seed,
                class
            );
        }
        // Campaigns of one tenant, and tenants of one class.
        let siblings = CAMPAIGNS.map(|campaign| [flow[0], flow[1], campaign]);
        self.compare(flow, &siblings, count);
        let tenants = TENANTS.map(|tenant| [flow[0], tenant, ALL_OF_TENANT]);
        self.compare([flow[0], flow[1], ALL_OF_TENANT], &tenants, count);
    }

    fn compare(&mut self, served: Name, others: &[Name], count: usize) {
        for other in others {
            if *other == served || !is_waiting(&self.waiting, other) {
                continue;
            }
            for (pair, sign) in [([served, *other], 1), ([*other, served], -1)] {
                let difference = self.pairs.entry(pair).or_default();
                *difference += sign * count as i64;
                let bound = 2 * BATCH_MAX as i64 + 2;
                assert!(difference.abs() <= bound, "seed {}: {pair:?}", self.seed);
            }
        }
    }

    fn give_back(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let at_ = self.prng.below(self.in_flight.len() as u64) as usize;
        let (flow, batch, id) = self.in_flight.swap_remove(at_);
        self.rig.queues.give_back(at(1), &[id]);
        self.waiting[&flow].insert(0, (batch, id));
        self.pairs.clear();
        self.earned = Default::default();
    }

    fn drain(mut self) {
        while !self.waiting.values().all(Vec::is_empty) {
            self.take();
        }
        assert!(self.rig.queues.lanes.is_empty());
        for (_, _, id) in core::mem::take(&mut self.in_flight) {
            self.rig.queues.finish(at(2), id, Ending::Delivered);
        }
        assert!(self.rig.queues.is_empty());
    }
}

#[test]
fn in_any_mixture_each_gets_what_it_is_sure_of_in_its_own_order() {
    for seed in 0..40 {
        let (rig, queue) = rig();
        let mut run = Run {
            rig,
            queue,
            prng: Prng::new(seed),
            waiting: Map::default(),
            pairs: Map::default(),
            batches: 0,
            in_flight: Vec::new(),
            earned: Default::default(),
            seed,
        };
        let returns = seed.is_multiple_of(4);
        for step in 0..1_200 {
            let filling = step % 300 < 150;
            match run.prng.below(10) {
                0 if returns => run.give_back(),
                0..6 if filling => run.put(),
                6..8 if !filling => run.put(),
                _ => run.take(),
            }
        }
        run.drain();
    }
}
