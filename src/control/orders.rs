//! The orders of operators: kept on disk before anybody hears that they hold, handed to every
//! shard as one snapshot, ended when their time is up, taken back.
//!
//! Invariants: what a shard is given is on disk; snapshots reach the shards in the order in which
//! they were made; an order is over when every shard has said so or its time is up.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use serde::Deserialize;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::journal::Journal;
use super::ledger::Change;
use super::ledger::Ledger;
use super::startup::SpoolLock;
use crate::base::time::Wall;
use crate::base::units;
use crate::engine::io::Worked;
use crate::types::filter::Filter;
use crate::types::id::ShardId;
use crate::types::order::Absent;
use crate::types::order::ORDERS_MAX;
use crate::types::order::Order;
use crate::types::order::Orders;
use crate::types::order::REASON_BYTES_MAX;
use crate::types::order::Verb;

/// In the spool folder.
pub const ORDERS_FILE: &str = "orders.ledger";

/// Orders that are over and are remembered, for `pelton undo`.
const OVER_MAX: usize = 100;

pub type Clock = Arc<dyn Fn() -> Wall + Send + Sync>;

/// As the ledger keeps an order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Kept {
    order: Order,
    /// What came of it, once it is over.
    #[serde(default)]
    over: Option<Over>,
}

/// What came of a one-time order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Over {
    pub changed: u64,
    pub queues: u64,
}

/// What an operator wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    pub verb: Verb,
    pub filter: Filter,
    pub to: Option<String>,
    pub until: Option<Wall>,
    pub reason: String,
    pub by: String,
}

/// An order that has been given.
pub struct Given {
    pub order: Order,
    /// What a one-time order has done, when all shards have gone through their messages.
    pub done: Option<oneshot::Receiver<Worked>>,
}

/// An order and how it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    pub order: Order,
    pub over: Option<Over>,
    /// What a one-time order that is under way has done so far.
    pub so_far: Option<Worked>,
}

/// Why an order is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The sentence says why.
    Usage(String),
    NotFound(String),
    Failed(String),
}

/// The progress of a one-time order.
#[derive(Default)]
struct Run {
    /// By shard.
    worked: BTreeMap<u8, Worked>,
    /// Owners and homes between which all of it is durable.
    settled: BTreeSet<(ShardId, ShardId)>,
    waiting: Option<oneshot::Sender<Worked>>,
}

struct Inner {
    complete: bool,
    absent: Vec<Absent>,
    handed_out: usize,
    next_id: u64,
    runs: BTreeMap<u64, Run>,
}

/// Shared by all who give orders or hear of them.
pub struct Registry {
    ledger: Ledger<Kept>,
    journal: Arc<Journal>,
    clock: Clock,
    shards: usize,
    publish: UnboundedSender<Arc<Orders>>,
    inner: Mutex<Inner>,
    /// The next end of an order may be another one now.
    pub changed: Notify,
}

impl Registry {
    /// Opens the orders beside the spool, and tells the damage that was found there.
    pub fn open(
        base: &Path,
        lock: &SpoolLock,
        (journal, clock): (Arc<Journal>, Clock),
        shards: usize,
        publish: UnboundedSender<Arc<Orders>>,
    ) -> io::Result<(Registry, Vec<String>)> {
        let (ledger, damage) = Ledger::<Kept>::open(&base.join(ORDERS_FILE), lock)?;
        let last = ledger.all().iter().map(|(_, kept)| kept.order.id).max();
        let inner = Inner {
            complete: false,
            absent: Vec::new(),
            handed_out: 0,
            next_id: last.unwrap_or(0) + 1,
            runs: BTreeMap::new(),
        };
        let registry = Registry {
            ledger,
            journal,
            clock,
            shards,
            publish,
            inner: Mutex::new(inner),
            changed: Notify::new(),
        };
        Ok((registry, damage))
    }

    /// What shards are given.
    pub fn snapshot(&self) -> Arc<Orders> {
        self.snapshot_of(&self.inner())
    }

    fn snapshot_of(&self, inner: &Inner) -> Arc<Orders> {
        let kept = self.ledger.all().into_iter().map(|(_, kept)| kept);
        let in_force = kept.filter(|it| it.over.is_none());
        let mut all: Vec<Order> = in_force.map(|it| it.order).collect();
        all.sort_by_key(|order| order.id);
        Arc::new(Orders {
            all,
            absent: inner.absent.clone(),
            complete: inner.complete,
        })
    }

    /// Keeps an order and hands it to the shards.
    pub fn give(&self, wish: Wish) -> Result<Given, Refused> {
        let mut inner = self.inner();
        let in_force = self.snapshot_of(&inner).all.len();
        if in_force >= ORDERS_MAX {
            return Err(Refused::Failed(format!(
                "{ORDERS_MAX} orders are in force already, and no more are taken. Take back what \
                 is of no more use: pelton orders, pelton undo ID"
            )));
        }
        if wish.reason.len() > REASON_BYTES_MAX {
            let most = format!("a reason has at most {REASON_BYTES_MAX} bytes");
            return Err(Refused::Usage(most));
        }
        let order = Order {
            id: inner.next_id,
            verb: wish.verb,
            filter: wish.filter,
            to: wish.to,
            given_us: (self.clock)().0,
            until_us: wish.until.map(|until| until.0),
            reason: wish.reason,
            by: wish.by,
        };
        let kept = Kept {
            order: order.clone(),
            over: None,
        };
        self.keep(vec![(key(order.id), Some(kept))])?;
        inner.next_id += 1;
        let mut done = None;
        if !order.verb.is_standing() {
            let (waiting, told) = oneshot::channel();
            let run = Run {
                waiting: Some(waiting),
                ..Run::default()
            };
            inner.runs.insert(order.id, run);
            done = Some(told);
        }
        self.publish_now(&inner);
        drop(inner);
        let until = order.until().map(|it| format!(" until {}", it.rfc3339()));
        let reason = match order.reason.is_empty() {
            true => String::new(),
            false => format!(": {}", order.reason),
        };
        let text = format!(
            "order {}: {}{}{reason}",
            order.id,
            order.what(),
            until.unwrap_or_default()
        );
        self.note(&order.by, &text);
        Ok(Given { order, done })
    }

    /// Takes orders out of force, all or none.
    pub fn take_back(&self, ids: &[u64], by: &str) -> Result<(), Refused> {
        let mut inner = self.inner();
        let all = self.snapshot_of(&inner);
        let orders = ids.iter().filter_map(|id| all.find(*id));
        let orders: Vec<Order> = orders.cloned().collect();
        self.keep(orders.iter().map(|it| (key(it.id), None)).collect())?;
        for order in &orders {
            inner.runs.remove(&order.id);
        }
        self.publish_now(&inner);
        drop(inner);
        for order in &orders {
            let text = format!("order {} taken back: {}", order.id, order.what());
            self.note(by, &text);
        }
        Ok(())
    }

    /// A shard has gone through its messages for a one-time order, or has more to tell of it.
    pub fn worked(&self, shard: ShardId, worked: Worked) {
        let mut inner = self.inner();
        let id = worked.order;
        if self.ledger.get(&key(id)).is_none_or(|it| it.over.is_some()) {
            return;
        }
        let run = inner.runs.entry(id).or_default();
        run.worked.insert(shard.0, worked);
        if run.worked.len() < self.shards {
            return;
        }
        let sum = sum(id, run.worked.values());
        if !sum.over {
            // What is on the wire may take long. Whoever gave the order may have gone.
            let _ = run.waiting.take().map(|it| it.send(sum));
        }
        self.end_if_over(&mut inner, id);
    }

    /// What one shard has done for a one-time order to the messages of another is durable there.
    pub fn settled(&self, id: u64, (owner, home): (ShardId, ShardId)) {
        let mut inner = self.inner();
        if let Some(run) = inner.runs.get_mut(&id) {
            run.settled.insert((owner, home));
            self.end_if_over(&mut inner, id);
        }
    }

    fn end_if_over(&self, inner: &mut Inner, id: u64) {
        let Some(run) = inner.runs.get(&id) else {
            return;
        };
        let sum = sum(id, run.worked.values());
        let settled = run.settled.len() == self.shards * self.shards;
        if sum.over && settled && run.worked.len() == self.shards {
            let waiting = inner.runs.remove(&id).and_then(|it| it.waiting);
            self.end(id, &sum);
            self.publish_now(inner);
            // What is told is on disk, and no start does it again.
            let _ = waiting.map(|it| it.send(sum));
        }
    }

    /// All shards are through with a one-time order.
    fn end(&self, id: u64, sum: &Worked) {
        let Some(mut kept) = self.ledger.get(&key(id)) else {
            return;
        };
        kept.over = Some(Over {
            changed: sum.changed,
            queues: sum.queues,
        });
        let order = kept.order.clone();
        let mut changes = vec![(key(id), Some(kept))];
        let all = self.ledger.all();
        let over: Vec<_> = all.iter().filter(|(_, it)| it.over.is_some()).collect();
        let oldest = over.iter().take((over.len() + 1).saturating_sub(OVER_MAX));
        changes.extend(oldest.map(|(key, _)| (key.clone(), None)));
        // If this cannot be written, a start goes through the messages once more, for nothing.
        let _ = self.keep(changes);
        let text = format!(
            "order {id} is done: {} {} by {}",
            units::counted(sum.changed, "message"),
            order.verb.done(),
            order.what()
        );
        self.note("pelton", &text);
    }

    /// One more shard has everything that earlier starts have left in its queues, or on the way.
    pub fn handed_out(&self) {
        let mut inner = self.inner();
        inner.handed_out += 1;
        if inner.handed_out == self.shards {
            inner.complete = true;
            self.publish_now(&inner);
        }
    }

    /// Addresses of bindings that are missing now. Tells what has changed.
    pub fn set_absent(&self, absent: Vec<Absent>) -> Vec<String> {
        let mut inner = self.inner();
        if inner.absent == absent {
            return Vec::new();
        }
        let before = core::mem::replace(&mut inner.absent, absent);
        self.publish_now(&inner);
        let new = inner.absent.iter().filter(|it| !before.contains(it));
        let mut sentences: Vec<String> = new.map(|it| format!("W101 {it}")).collect();
        for gone in before.iter().filter(|it| !inner.absent.contains(it)) {
            let Absent { binding, address } = gone;
            sentences.push(format!(
                "binding \"{binding}\" goes on: {address} is on this machine, or no more \
                 needed"
            ));
        }
        drop(inner);
        for sentence in &sentences {
            let _ = self
                .journal
                .append((self.clock)(), "limit", "pelton", sentence);
        }
        sentences
    }

    /// Addresses of bindings that are missing, one sentence each.
    pub fn absent(&self) -> Vec<String> {
        let inner = self.inner();
        inner.absent.iter().map(ToString::to_string).collect()
    }

    /// Ends what is out of time, and tells when the next one is.
    pub fn sweep(&self) -> Option<Wall> {
        let now = (self.clock)();
        let inner = self.inner();
        let all = self.snapshot_of(&inner);
        let ended: Vec<&Order> = all.all.iter().filter(|it| !it.is_in_force(now)).collect();
        if !ended.is_empty() {
            let changes = ended.iter().map(|it| (key(it.id), None)).collect();
            if self.keep(changes).is_ok() {
                self.publish_now(&inner);
                for order in &ended {
                    let text = format!("order {} has ended: {}", order.id, order.what());
                    self.note("pelton", &text);
                }
            }
        }
        let left = all.all.iter().filter(|it| it.is_in_force(now));
        let standing = left.filter(|it| it.verb.is_standing());
        standing.filter_map(Order::until).min()
    }

    /// All orders that are known, those in force first, each by its id.
    pub fn list(&self) -> Vec<Standing> {
        let inner = self.inner();
        let all = self.ledger.all().into_iter();
        let mut all: Vec<Standing> = all
            .map(|(_, Kept { order, over })| Standing {
                so_far: inner.runs.get(&order.id).map(|run| {
                    let sum = sum(order.id, run.worked.values());
                    let all = run.worked.len() == self.shards;
                    let over = sum.over && all;
                    Worked { over, ..sum }
                }),
                order,
                over,
            })
            .collect();
        all.sort_by_key(|it| (it.over.is_some(), it.order.id));
        all
    }

    fn keep(&self, changes: Vec<Change<Kept>>) -> Result<(), Refused> {
        self.ledger.apply(changes).map_err(|error| {
            Refused::Failed(format!(
                "the order cannot be written to {ORDERS_FILE} in the spool folder: {error}. \
                 Nothing has been done"
            ))
        })
    }

    /// With the lock held, so that snapshots leave in the order in which they were made.
    fn publish_now(&self, inner: &Inner) {
        let orders = self.snapshot_of(inner);
        // Without a switchboard the process is at its end.
        let _ = self.publish.send(orders);
        self.changed.notify_one();
    }

    fn note(&self, by: &str, text: &str) {
        // The journal tells of the past; the order holds without it.
        let _ = self.journal.append((self.clock)(), "operator", by, text);
    }

    /// A panic while the lock was held leaves what is on disk.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys sort as their numbers do.
fn key(id: u64) -> String {
    format!("{id:012}")
}

fn sum<'a>(order: u64, shards: impl Iterator<Item = &'a Worked>) -> Worked {
    let start = Worked {
        order,
        over: true,
        ..Worked::default()
    };
    shards.fold(start, |sum, it| Worked {
        order,
        changed: sum.changed + it.changed,
        queues: sum.queues + it.queues,
        in_flight: sum.in_flight + it.in_flight,
        unknown: sum.unknown + it.unknown,
        held: sum.held + it.held,
        over: sum.over && it.over,
    })
}

#[cfg(test)]
mod tests {
    use super::super::journal::JOURNAL_BYTES_MAX;
    use super::super::startup::lock_spool;
    use super::*;
    use tokio::sync::mpsc::UnboundedReceiver;
    use tokio::sync::mpsc::unbounded_channel;

    struct World {
        folder: tempfile::TempDir,
        lock: SpoolLock,
        now: Arc<Mutex<Wall>>,
    }

    impl World {
        fn new() -> World {
            let folder = tempfile::tempdir().unwrap();
            let lock = lock_spool(folder.path()).unwrap();
            let now = Arc::new(Mutex::new(Wall::from_secs(1_000)));
            World { folder, lock, now }
        }

        fn open(&self) -> (Registry, UnboundedReceiver<Arc<Orders>>) {
            let base = self.folder.path();
            let journal = Journal::open(&base.join("journal"), JOURNAL_BYTES_MAX).unwrap();
            let now = self.now.clone();
            let clock: Clock = Arc::new(move || *now.lock().unwrap());
            let (publish, published) = unbounded_channel();
            let around = (Arc::new(journal), clock);
            let opened = Registry::open(base, &self.lock, around, 2, publish).unwrap();
            assert!(opened.1.is_empty());
            (opened.0, published)
        }
    }

    fn wish(verb: Verb, until_s: Option<u64>) -> Wish {
        Wish {
            verb,
            filter: "domain=a.example".parse().unwrap(),
            to: None,
            until: until_s.map(Wall::from_secs),
            reason: "because".to_owned(),
            by: "uid 7".to_owned(),
        }
    }

    fn ids(orders: &Orders) -> Vec<u64> {
        orders.all.iter().map(|it| it.id).collect()
    }

    fn told(registry: &Registry) -> Vec<String> {
        let changes = registry.journal.read(Wall(0)).unwrap();
        let text = |it: super::super::journal::Change| format!("{} {}", it.by, it.text);
        changes.into_iter().map(text).collect()
    }

    #[test]
    fn orders_outlive_the_process_and_numbers_are_not_used_again() {
        let world = World::new();
        let (registry, mut published) = world.open();
        for verb in [Verb::Suspend, Verb::Hold, Verb::Fail] {
            registry.give(wish(verb, Some(2_000))).unwrap();
        }
        registry.take_back(&[1], "uid 8").unwrap();
        let last = core::iter::from_fn(|| published.try_recv().ok()).last();
        assert_eq!(ids(&last.unwrap()), [2, 3]);
        assert_eq!(
            told(&registry)[..1],
            ["uid 7 order 1: suspend domain=a.example until 1970-01-01T00:33:20.000Z: because"]
        );
        drop(registry);
        let (registry, _published) = world.open();
        let orders = registry.snapshot();
        assert_eq!(ids(&orders), [2, 3]);
        assert!(!orders.complete);
        assert_eq!(registry.give(wish(Verb::Flush, None)).unwrap().order.id, 4);
    }

    #[test]
    fn a_standing_order_ends_with_its_time() {
        let world = World::new();
        let (registry, mut published) = world.open();
        registry.give(wish(Verb::Suspend, Some(2_000))).unwrap();
        registry.give(wish(Verb::Hold, Some(3_000))).unwrap();
        assert_eq!(registry.sweep(), Some(Wall::from_secs(2_000)));
        *world.now.lock().unwrap() = Wall::from_secs(2_000);
        assert_eq!(registry.sweep(), Some(Wall::from_secs(3_000)));
        let last = core::iter::from_fn(|| published.try_recv().ok()).last();
        assert_eq!(ids(&last.unwrap()), [2]);
        let last = told(&registry).pop();
        assert_eq!(
            last.as_deref(),
            Some("pelton order 1 has ended: suspend domain=a.example")
        );
    }

    #[test]
    fn what_is_told_of_a_one_time_order_is_on_disk() {
        let world = World::new();
        let (registry, _published) = world.open();
        let mut given = registry.give(wish(Verb::Delay, None)).unwrap();
        let done = given.done.as_mut().unwrap();
        let worked = Worked {
            order: 1,
            changed: 2,
            held: 1,
            over: true,
            ..Worked::default()
        };
        registry.worked(ShardId(0), worked.clone());
        registry.worked(ShardId(1), worked);
        for (owner, home) in [(0, 0), (0, 1), (1, 1), (1, 0)] {
            assert!(done.try_recv().is_err(), "a start would do it again");
            registry.settled(1, (ShardId(owner), ShardId(home)));
        }
        let told = done.try_recv().unwrap();
        assert_eq!((told.changed, told.held, told.over), (4, 2, true));
        drop(registry);
        let (registry, _published) = world.open();
        assert_eq!(registry.list()[0].over.map(|it| it.changed), Some(4));
    }

    #[test]
    fn a_one_time_order_is_over_when_all_shards_have_said_so() {
        let world = World::new();
        let (registry, _published) = world.open();
        let mut given = registry.give(wish(Verb::Fail, None)).unwrap();
        let done = given.done.as_mut().unwrap();
        let worked = |in_flight: u64, over| Worked {
            order: 1,
            changed: 3,
            queues: 1,
            in_flight,
            unknown: 0,
            held: 0,
            over,
        };
        registry.worked(ShardId(0), worked(0, true));
        assert!(done.try_recv().is_err(), "one shard has yet to say");
        registry.worked(ShardId(1), worked(2, false));
        let told = done.try_recv().unwrap();
        assert_eq!((told.changed, told.in_flight, told.over), (6, 2, false));
        assert_eq!(ids(&registry.snapshot()), [1], "two are on the wire");
        registry.worked(ShardId(1), worked(0, true));
        for (owner, home) in [(0, 0), (0, 1), (1, 1)] {
            registry.settled(1, (ShardId(owner), ShardId(home)));
        }
        assert_eq!(ids(&registry.snapshot()), [1], "one home has yet to write");
        registry.settled(1, (ShardId(1), ShardId(0)));
        assert!(registry.snapshot().all.is_empty());
        let known = registry.list();
        assert_eq!(known[0].over.map(|it| it.changed), Some(6));
        for _ in 0..2 {
            registry.handed_out();
        }
        assert!(registry.snapshot().complete);
    }
}
