//! What a process keeps on disk beside the spool: the journal of changes and the operators' orders.

use core::time::Duration;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::cli::process::{Notice, Refused, State, prepare};
use crate::config::Config;
use crate::control::journal::{JOURNAL_BYTES_MAX, Journal};
use crate::control::learnt::Learnt;
use crate::control::orders::Registry;
use crate::control::startup::SpoolLock;
use crate::control::throttles::KeptThrottles;
use crate::engine::Setup;
use crate::engine::cells::Cells;
use crate::engine::io::Level;
use crate::shard::clock::Clock;
use crate::types::order::Orders;

pub(super) struct Books {
    pub journal: Arc<Journal>,
    pub orders: Arc<Registry>,
    /// Each set of orders from when it holds.
    pub heard: UnboundedReceiver<Arc<Orders>>,
    /// What adaptive delivery has learnt.
    pub learnt: Learnt,
    /// What has started under throttles.
    pub throttles: KeptThrottles,
}

impl Books {
    /// Opens both. An order that is damaged on disk is lost, and that is told; the others hold.
    pub fn open(
        config: &Config,
        lock: &SpoolLock,
        (clock, cells): (Clock, &Arc<Cells>),
        notice: &Notice,
    ) -> Result<Books, Refused> {
        let path = &config.global().journal;
        let journal = Journal::open(Path::new(path), JOURNAL_BYTES_MAX)
            .map_err(|error| Refused::new(format!("E101 journal {path}: {error}")))?;
        let journal = Arc::new(journal);
        let base = Path::new(&config.global().spoolbase);
        let (publish, heard) = unbounded_channel();
        let around = (journal.clone(), Arc::new(move || clock.now().wall) as _);
        let shards = config.shard_count() as usize;
        let opened = Registry::open(base, lock, around, shards, publish);
        let (orders, damage) = opened.map_err(|error| {
            let base = base.display();
            Refused::new(format!("E101 the orders of operators in {base}: {error}"))
        })?;
        for sentence in damage {
            notice(Level::Error, &format!("E205 {sentence}"));
            let now = clock.now().wall;
            let _ = journal.append(now, "operator", "pelton", &format!("E205 {sentence}"));
        }
        let refused = |error| Refused::new(format!("E101 {}: {error}", base.display()));
        let (learnt, mut damage) = Learnt::open(base, lock).map_err(refused)?;
        learnt.restore_warmups(&cells.warmups);
        let around = (cells.clone(), clock.now());
        let opened = KeptThrottles::open(base, lock, around);
        let (throttles, more) = opened.map_err(refused)?;
        damage.extend(more);
        for sentence in damage {
            notice(Level::Error, &format!("E205 {sentence}"));
        }
        Ok(Books {
            learnt,
            throttles,
            journal,
            orders: Arc::new(orders),
            heard,
        })
    }

    /// What shards have to know from the first moment on.
    pub fn fill(&self, setups: &mut [Setup]) {
        let shards = setups.len();
        for setup in setups {
            setup.orders = self.orders.snapshot();
            setup.learnt = self.learnt.of_shard(setup.shard, shards);
        }
    }
}

/// Ends orders when their time is up.
pub(super) async fn end_orders(orders: Arc<Registry>, clock: Clock) {
    loop {
        let next = orders.sweep();
        let wait = next.map(|at| at.since(clock.now().wall));
        tokio::select! {
            () = orders.changed.notified() => {}
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

/// How often it is looked whether the source addresses of all bindings are on this machine. Nothing
/// is tried from one that is not.
const SOURCES_EVERY: Duration = Duration::from_secs(1);

/// Suspends bindings whose address is missing, and lets others go on.
pub(super) fn look_for_sources(orders: &Registry, config: &Config, tell: &Notice) {
    for sentence in orders.set_absent(prepare::absent_sources(config)) {
        tell(Level::Warn, &sentence);
    }
}

pub(super) async fn watch_sources(state: Arc<State>) {
    let mut ticks = tokio::time::interval(SOURCES_EVERY);
    loop {
        ticks.tick().await;
        look_for_sources(&state.boot.orders, &state.config(), &state.options.notice);
    }
}
