//! L4: one shard's whole state, and the only place that knows all its stages. Inputs go to a stage,
//! its verdict to the next; effects come out as actions. Nothing here knows of a runtime, a socket,
//! a file, a clock or a thread, so that the same engine runs in a shard and in the simulation.
//!
//! The life of a message, in calls: [`reception`] feeds a session and puts its questions to policy;
//! a whole message is offered to the [`home`], which stores it; when its commit is durable the
//! session hears of it and the entries go to the [`owner`]s of their queues, by a call or through
//! the mesh; an owner's outcomes come back to the home the same way.

mod answers;
pub mod cells;
mod gather;
pub mod home;
pub mod io;
pub mod owner;
pub mod query;
pub mod reception;
pub mod recorder;
pub mod settings;
pub mod stats;

use core::net::SocketAddr;
use std::sync::Arc;

use crate::base::prng::{Prng, hash_bytes};
use crate::base::slab::Key;
use crate::base::throttle::keep::Keep;
use crate::base::throttle::{Rate, Throttle, Wanted};
use crate::base::time::{Mono, Now};
use crate::config::{BindingIndex, Config, GroupIndex};
use crate::engine::cells::Cells;
use crate::engine::gather::Start;
use crate::engine::home::{Home, Told};
use crate::engine::io::{
    Action, ConnId, Input, Level, MeshMessage, Outbox, Settled, Side, ToControl, ToShard,
};
use crate::engine::owner::Owner;
use crate::engine::owner::adaptive::{Changed, Pair};
use crate::engine::reception::Reception;
use crate::engine::settings::{Generation, Identity};
use crate::engine::stats::ShardStats;
use crate::hose::{AdaptiveFacts, Hose};
use crate::inject::Resolution;
use crate::log::Durable;
use crate::policy::binding::Choice;
use crate::queue::{Budget, Departed};
use crate::shape::Saved;
use crate::spool;
use crate::spool::Spool;
use crate::types::id::{BatchId, SHARDS_MAX, ShardId};
use crate::types::message::{Arrival, Content};
use crate::types::order::Orders;
use crate::types::replies::{self, Canned};

/// Entries and events of earlier starts that are handed on at a time; traffic goes in between.
const RETURNS_MAX: usize = 1_024;

/// Free space must be this much over `min_free_space` before mail is taken again, in percent: a
/// disk at the edge does not open and close with every message.
const SPACE_MARGIN_PERCENT: u64 = 5;

/// All that an engine is made from; can cross to the thread of its shard.
pub struct Setup {
    pub shard: ShardId,
    pub shards: usize,
    /// Number of this start of the spool; part of every batch id.
    pub start: u32,
    pub seed: u64,
    pub config: Arc<Config>,
    pub identity: Identity,
    pub cells: Arc<Cells>,
    pub spool: Spool,
    pub hose: Hose,
    pub orders: Arc<Orders>,
    /// What earlier starts have left on disk. If that is not known yet, it comes later, as
    /// [`ToShard::Recovered`].
    pub recovered: Option<Box<spool::Home>>,
    /// What adaptive delivery had learnt when the last run ended, of pairs that the shard owns.
    pub learnt: Vec<(Pair, Saved)>,
}

/// What all stages of an engine may look at.
pub struct Common {
    pub shard: ShardId,
    pub shards: usize,
    pub start: u32,
    pub generation: Generation,
    pub identity: Identity,
    /// Names of the generation's bindings, by index: shared, because every recipient carries one.
    pub binding_names: Vec<Arc<str>>,
    /// Bindings of which an order or a missing address stops everything, by index; empty if none.
    pub asleep: Vec<bool>,
    pub cells: Arc<Cells>,
    pub prng: Prng,
    pub stats: ShardStats,
    /// No new mail and no new connections: the end is near.
    pub draining: bool,
    space_closed: bool,
}

/// Whom a group may be chosen from, and their shares. Used again for every recipient.
#[derive(Default)]
pub struct Members {
    bindings: Vec<u32>,
    weights: Vec<u32>,
}

/// One call of the engine: the moment, where actions go, and what is common to all stages.
pub struct Turn<'a> {
    pub now: Now,
    pub out: &'a mut Outbox,
    pub common: &'a mut Common,
}

impl Turn<'_> {
    /// The throttle of a stanza, as this generation sets it.
    fn throttle(&self, name: &str, rate: Rate, keep: Keep) -> Arc<Throttle> {
        let wanted = Wanted {
            name,
            rate,
            generation: self.common.generation.number,
            keep,
        };
        self.common.cells.throttles.get(self.now, wanted)
    }

    /// Something an operator should read.
    pub fn notice(&mut self, level: Level, text: String) {
        let shard = self.common.shard;
        self.out
            .push(Action::Control(ToControl::Notice { shard, level, text }));
    }
}

impl Common {
    /// The shard that owns the queue of a pair, or for what is striped the stripe that a batch
    /// belongs to: hashes, the same in every process.
    pub fn owner_of(&self, binding: &str, domain: &str, batch: BatchId) -> ShardId {
        let pair = pair_hash(binding, domain);
        if self.shards > 1 && self.cells.striped.is_marked(pair) {
            return shard_of(self.shards, batch.0.wrapping_mul(STRIPE_FACTOR) >> 32);
        }
        shard_of(self.shards, pair)
    }

    /// Whether this shard owns the queue of a pair as long as it is not striped.
    pub fn owns(&self, binding: &str, domain: &str) -> bool {
        owner_of(self.shards, binding, domain) == self.shard
    }

    /// A choice among the members of a group that nothing stops, or all if none is awake; of those
    /// not such as are still to become known to receivers and may send no more for now.
    pub fn choice_of<'a>(
        &self,
        now: Now,
        group: GroupIndex,
        members: &'a mut Members,
    ) -> Option<Choice<'a>> {
        let config = &self.generation.config;
        let all = &config.groups().get(group.0 as usize)?.members;
        let ordered = |it: &BindingIndex| self.asleep.get(it.0 as usize).is_some_and(|it| *it);
        let of = |it: &BindingIndex| config.binding_settings(*it);
        let curfew = |it: &BindingIndex| {
            let curfew = of(it).curfew.as_ref();
            curfew.is_some_and(|it| it.closed_until(now.wall).is_some())
        };
        let awake = |it: &&BindingIndex| !of(it).suspended && !ordered(it) && !curfew(it);
        let Members { bindings, weights } = members;
        bindings.clear();
        bindings.extend(all.iter().filter(awake).map(|it| it.0));
        self.prefer_allowed(now.mono, bindings);
        if bindings.is_empty() {
            bindings.extend(all.iter().map(|it| it.0));
        }
        weights.clear();
        weights.extend(bindings.iter().map(|it| of(&BindingIndex(*it)).weight));
        Some(match weights.iter().all(|it| *it == 1) {
            true => Choice::Group(bindings),
            false => Choice::Weighted(bindings, weights),
        })
    }

    /// Passes over members whose warm-up allows no more for now, if others are left.
    fn prefer_allowed(&self, now: Mono, bindings: &mut Vec<u32>) {
        let config = &self.generation.config;
        let is_full = |it: &u32| {
            let settings = config.binding_settings(BindingIndex(*it));
            let warmup = settings.warmup.as_ref();
            let found = warmup.and_then(|_| self.cells.warmups.find(&settings.name));
            found.is_some_and(|it| it.is_full(now))
        };
        let full = bindings.iter().filter(|it| is_full(it)).count();
        if full > 0 && full < bindings.len() {
            bindings.retain(|it| !is_full(it));
        }
    }

    pub fn memory_is_short(&self) -> bool {
        let percent = u64::from(self.generation.config.global().memory_hwm);
        let limit = self.cells.memory_limit.get() / 100 * percent;
        limit > 0 && self.cells.memory_used.get() > limit
    }

    /// The reply for mail that would do harm now; nothing when all is well.
    pub fn pressure(&mut self) -> Option<&'static Canned> {
        if self.draining {
            return Some(&replies::SHUTTING_DOWN);
        }
        if self.space_is_short() {
            return Some(&replies::DISK);
        }
        self.memory_is_short().then_some(&replies::MEMORY)
    }

    pub fn is_out_of_space(&self) -> bool {
        self.space_closed
    }

    fn space_is_short(&mut self) -> bool {
        let min = self.generation.config.global().min_free_space;
        let free = self.cells.disk_free.get();
        let needed = match self.space_closed {
            true => min.saturating_add(min / 100 * SPACE_MARGIN_PERCENT),
            false => min,
        };
        self.space_closed = free < needed;
        self.space_closed
    }
}

/// Odd, and with bits all over: batches that follow each other go to stripes without a pattern that
/// a client could have too.
const STRIPE_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The shard that owns the queue of a pair that is not striped.
pub fn owner_of(shards: usize, binding: &str, domain: &str) -> ShardId {
    shard_of(shards, pair_hash(binding, domain))
}

/// Names the queue of a pair among all shards.
pub fn pair_hash(binding: &str, domain: &str) -> u64 {
    hash_bytes(binding.as_bytes()) ^ hash_bytes(domain.as_bytes()).rotate_left(17)
}

fn shard_of(shards: usize, hash: u64) -> ShardId {
    ShardId((hash % shards as u64) as u8)
}

/// What a disk gets after the grace to take what is left; a disk that fails must not keep a process
/// from ending. Whatever was acknowledged is on it.
const FLUSH_MAX: core::time::Duration = core::time::Duration::from_secs(5);

const _: () = assert!(SHARDS_MAX <= 256, "the owner of a queue is one byte");

pub struct Engine {
    common: Common,
    reception: Reception,
    home: Home,
    owner: Owner,
    /// The end of the grace, once shutting down.
    grace_ends: Option<Mono>,
    grace_over: bool,
    /// Has said so.
    quiet: bool,
    /// All shards are quiet.
    finishing: bool,
    drained: bool,
    /// What earlier starts have left is known.
    adopted: bool,
    /// Has said that all of it is in the queues.
    handed_out: bool,
    /// The set of orders, and the generation, that [`Common::asleep`] is of.
    asleep_of: (u64, u64),
    /// Outcomes on their way to other homes, by shard.
    outgoing: Vec<Vec<Settled>>,
}

impl Engine {
    pub fn new(setup: Setup, now: Now) -> Engine {
        let budget = budget(&setup.config, &setup.cells, setup.shards);
        let recorder_bytes = recorder_bytes(&setup.config, setup.shards);
        let mut engine = Engine {
            common: Common {
                shard: setup.shard,
                shards: setup.shards,
                start: setup.start,
                binding_names: binding_names(&setup.config),
                asleep: Vec::new(),
                generation: Generation {
                    config: setup.config,
                    number: 1,
                },
                identity: setup.identity,
                cells: setup.cells,
                prng: Prng::stream(setup.seed, "engine"),
                stats: ShardStats {
                    shard: setup.shard.0,
                    ..ShardStats::default()
                },
                draining: false,
                space_closed: false,
            },
            reception: Reception::new(now.mono),
            home: Home::new(setup.spool, setup.hose),
            owner: Owner::new(now, budget, recorder_bytes),
            grace_ends: None,
            grace_over: false,
            quiet: false,
            finishing: false,
            drained: false,
            adopted: false,
            handed_out: false,
            asleep_of: (0, 1),
            outgoing: (0..setup.shards).map(|_| Vec::new()).collect(),
        };
        engine.owner.restore(setup.learnt);
        let classes = classes(&engine.common.generation.config);
        engine.owner.queues_mut().set_classes(&classes);
        if let Some(found) = setup.recovered {
            engine.home.adopt(*found);
            engine.adopted = true;
        }
        engine.owner.set_orders(now, setup.orders);
        engine
    }

    /// A connection has been accepted on the listen address of that index.
    pub fn accept(
        &mut self,
        now: Now,
        listen: usize,
        peer: SocketAddr,
        local: SocketAddr,
        out: &mut Outbox,
    ) -> ConnId {
        let turn = &mut Turn {
            now,
            out,
            common: &mut self.common,
        };
        self.reception
            .accept(turn, &mut self.home, listen, (peer, local))
    }

    /// Whether more input of this connection can be taken now; `Resume` tells when it can again.
    pub fn wants_read(&self, conn: ConnId) -> bool {
        match conn.side {
            Side::In => self.reception.wants_read(conn.key),
            Side::Out => true,
        }
    }

    /// The process takes more memory than `memory_goal` says.
    pub fn is_over_memory_goal(&self) -> bool {
        let percent = u64::from(self.common.generation.config.global().memory_goal);
        let goal = self.common.cells.memory_limit.get() / 100 * percent;
        goal > 0 && self.common.cells.memory_used.get() > goal
    }

    /// Takes an input and runs to completion.
    pub fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Outbox) {
        self.take(now, input, out);
        self.start_disk(now, out);
    }

    /// Starts what the disk should do next. Owed after every [`Self::take`].
    pub fn start_disk(&mut self, now: Now, out: &mut Outbox) {
        let turn = &mut Turn {
            now,
            out,
            common: &mut self.common,
        };
        let open = self.reception.awaited();
        let start = self.home.start_commit(now.mono, open);
        if start == Start::NowWithout {
            self.reception.wait_for_none();
        }
        if start != Start::Later {
            self.home.pump(turn);
        }
        self.finish_shutdown(now, out);
    }

    /// Whether [`Self::start_disk`] would start a commit that somebody waits for.
    pub fn could_commit(&self) -> bool {
        self.home.could_commit()
    }

    /// Takes an input and leaves the disk alone: whoever has several inputs at hand takes them all
    /// and then calls [`Self::start_disk`], so that their messages share a commit.
    pub fn take(&mut self, now: Now, input: Input<'_>, out: &mut Outbox) {
        let turn = &mut Turn {
            now,
            out,
            common: &mut self.common,
        };
        match input {
            Input::Received { conn, bytes } => {
                turn.common.stats.counters.receives += 1;
                match conn.side {
                    Side::In => {
                        self.reception
                            .received(turn, &mut self.home, conn.key, bytes);
                    }
                    Side::Out => self.owner.received(turn, conn.key, bytes),
                }
            }
            Input::Sent { conn, all } => match conn.side {
                Side::In => self.reception.sent(turn, conn.key),
                Side::Out => self.owner.sent(turn, conn.key, all),
            },
            Input::Closed { conn } => match conn.side {
                Side::In => self.reception.closed(turn, conn.key),
                Side::Out => self.owner.closed(turn, conn.key),
            },
            Input::Ended { conn } => self.reception.ended(turn, conn.key),
            Input::Dialed { conn, result } => self.owner.dialed(turn, conn.key, result),
            Input::Spool(completion) => self.home.spool_done(turn, completion),
            Input::Read { read, result } => self.home.read_done(turn, read, result),
            Input::Hose { op, result } => self.home.hose_done(turn, op, result),
            Input::Mesh { from, message } => self.mesh(now, from, message, out),
            Input::Control(message) => self.control(now, message, out),
            Input::Tick => self.tick(now, out),
        }
        self.note_asleep();
        self.finish_turn(now, out);
    }

    /// Which bindings are stopped as a whole, if that may have changed.
    fn note_asleep(&mut self) {
        let of = (self.owner.orders_version(), self.common.generation.number);
        if self.asleep_of != of {
            self.asleep_of = of;
            let names = self.common.binding_names.iter();
            self.common.asleep = names.map(|name| self.owner.is_asleep(name)).collect();
        }
    }

    /// When to call `handle` with a `Tick`, if nothing else comes first.
    pub fn next_wakeup(&self) -> Option<Mono> {
        let stages = [
            self.reception.next_wakeup(),
            self.owner.next_wakeup().filter(|_| !self.quiet),
            self.home.next_wakeup(),
            (self.is_returning() || self.is_retelling()).then_some(Mono(0)),
            self.has_handed_out().then_some(Mono(0)),
            self.shutdown_wakeup(),
        ];
        stages.into_iter().flatten().min()
    }

    fn tick(&mut self, now: Now, out: &mut Outbox) {
        let turn = &mut Turn {
            now,
            out,
            common: &mut self.common,
        };
        self.reception.advance(turn);
        // A quiet shard decides nothing more: the home of a message may be gone already.
        if !self.quiet {
            self.owner.advance(turn);
        }
        if self.is_returning() {
            self.hand_out(now, out);
        }
        if self.has_handed_out() {
            self.handed_out = true;
            let shard = self.common.shard;
            out.push(Action::Control(ToControl::HandedOut { shard }));
        }
        if self.is_retelling() {
            let turn = &mut Turn {
                now,
                out,
                common: &mut self.common,
            };
            self.home.retell(turn, RETURNS_MAX);
        }
    }

    /// The same for events that have to be told again.
    fn is_retelling(&self) -> bool {
        self.home.is_retelling() && !self.common.draining
    }

    /// Nothing that earlier starts have left is on its way any more.
    pub fn has_recovered(&self) -> bool {
        self.home.returning_left() + self.home.untold_left() == 0
    }

    /// What earlier starts have left is known, and not all of it is in the queues. A shard that
    /// drains leaves the rest on disk.
    pub fn is_returning(&self) -> bool {
        self.home.returning_left() > 0 && !self.common.draining
    }

    /// What earlier starts have left is in the queues, or on its way, and that has not been said.
    fn has_handed_out(&self) -> bool {
        !self.handed_out && self.adopted && self.home.returning_left() == 0
    }

    fn hand_out(&mut self, now: Now, out: &mut Outbox) {
        let turn = &mut Turn {
            now,
            out,
            common: &mut self.common,
        };
        let arrivals = self.home.returning(RETURNS_MAX);
        turn.common.stats.counters.messages_recovered += arrivals.len() as u64;
        give(turn, &mut self.owner, None, arrivals.into_iter());
    }

    fn shutdown_wakeup(&self) -> Option<Mono> {
        let grace_ends = self.grace_ends.filter(|_| !self.drained)?;
        Some(if self.grace_over {
            grace_ends + FLUSH_MAX
        } else {
            grace_ends
        })
    }

    fn mesh(&mut self, now: Now, from: ShardId, message: MeshMessage, out: &mut Outbox) {
        let turn = &mut Turn {
            now,
            out,
            common: &mut self.common,
        };
        turn.common.stats.counters.mesh_messages += 1;
        match message {
            MeshMessage::Arrivals { content, arrivals } => {
                self.owner.arrive(turn, content.as_ref(), arrivals);
            }
            MeshMessage::Settled(settled) => {
                for settled in settled {
                    self.home.settle(turn, settled);
                }
            }
            MeshMessage::Barrier { order } => self.home.barrier(from, order),
            MeshMessage::Fetch { batch } => self.home.fetch(turn, from, batch),
            MeshMessage::Body { batch, content } => self.owner.body(turn, batch, content),
            MeshMessage::PlaceFree { queue } => self.owner.place_free(queue),
            MeshMessage::GiveUp { queue } => self.owner.asked_for_place(queue),
        }
    }

    fn control(&mut self, now: Now, message: ToShard, out: &mut Outbox) {
        let turn = &mut Turn {
            now,
            out,
            common: &mut self.common,
        };
        match message {
            ToShard::Resolved { question, answer } => self.owner.resolved(turn, question, answer),
            ToShard::Ask { id, query } => {
                let shard = turn.common.shard;
                let answer = self.answer(now, &query, out);
                out.push(Action::Control(ToControl::Answer { shard, id, answer }));
            }
            ToShard::Recovered(found) => {
                self.home.adopt(*found);
                self.adopted = true;
                let shard = turn.common.shard;
                turn.out.push(Action::Control(ToControl::Adopted { shard }));
            }
            ToShard::Reload { config } => self.reload(now, config, out),
            ToShard::Orders(orders) => self.owner.set_orders(now, orders),
            ToShard::Reserved => self.owner.granted(),
            ToShard::Shutdown { grace } => self.shutdown(now, grace, out),
            ToShard::Finish => self.finishing = true,
        }
    }

    /// A generation applies at the next connect, MAIL FROM or delivery start.
    fn reload(&mut self, now: Now, config: Arc<Config>, out: &mut Outbox) {
        self.common.binding_names = binding_names(&config);
        let number = self.common.generation.number + 1;
        self.common.generation = Generation { config, number };
        let config = &self.common.generation.config;
        let budget = budget(config, &self.common.cells, self.common.shards);
        self.owner.queues_mut().set_budget(budget);
        self.owner.queues_mut().set_classes(&classes(config));
        self.owner
            .set_recorder_bytes(recorder_bytes(config, self.common.shards));
        self.reception.reload();
        self.owner.reload(&mut Turn {
            now,
            out,
            common: &mut self.common,
        });
    }

    fn shutdown(&mut self, now: Now, grace: core::time::Duration, out: &mut Outbox) {
        self.common.draining = true;
        self.grace_ends = Some(now.mono + grace);
        out.push(Action::StopListening);
        let turn = &mut Turn {
            now,
            out,
            common: &mut self.common,
        };
        self.reception.drain(turn, &mut self.home);
        self.owner.drain(turn);
    }

    /// Lets the stages hand on what they have for each other, until nothing is left.
    fn finish_turn(&mut self, now: Now, out: &mut Outbox) {
        let turn = &mut Turn {
            now,
            out,
            common: &mut self.common,
        };
        loop {
            let (reception, owner) = (&mut self.reception, &mut self.owner);
            for told in self.home.told.drain(..) {
                match told {
                    Told::Stored(offer, durable) => {
                        stored(turn, reception, owner, (offer, durable));
                    }
                    Told::Refused(conn, ticket, canned) => {
                        reception.resolve(turn, (conn, ticket), Resolution::Refused(canned));
                    }
                }
            }
            reception.go_on(turn, &mut self.home);
            for (to, batch, content) in core::mem::take(&mut self.home.bodies) {
                if to == turn.common.shard {
                    self.owner.body(turn, batch, content);
                } else {
                    let message = MeshMessage::Body { batch, content };
                    turn.out.push(Action::Mesh { to, message });
                }
            }
            self.owner.settle_turn(turn);
            for (home, batch) in core::mem::take(&mut self.owner.fetches) {
                if home == turn.common.shard {
                    self.home.fetch(turn, home, batch);
                } else {
                    let message = MeshMessage::Fetch { batch };
                    turn.out.push(Action::Mesh { to: home, message });
                }
            }
            for told in self.owner.told.drain(..) {
                self.home.adapted(&facts_of(turn, &told));
            }
            for settled in self.owner.settled.drain(..) {
                let home = settled.home;
                if home == turn.common.shard {
                    self.home.settle(turn, settled);
                } else {
                    self.outgoing[home.index()].push(settled);
                }
            }
            if !self.home.onward.is_empty() {
                let onward = core::mem::take(&mut self.home.onward);
                give_onward(turn, &mut self.owner, onward);
            }
            let home = &self.home;
            let is_settled = home.told.is_empty() && home.bodies.is_empty();
            if is_settled && self.owner.is_settled() {
                break;
            }
        }
        for (index, settled) in self.outgoing.iter_mut().enumerate() {
            if !settled.is_empty() {
                let message = MeshMessage::Settled(core::mem::take(settled));
                turn.out.push(Action::Mesh {
                    to: ShardId(index as u8),
                    message,
                });
            }
        }
        self.send_barriers(out);
    }

    /// Behind the outcomes that they are about.
    fn send_barriers(&mut self, out: &mut Outbox) {
        for order in self.owner.finished.drain(..) {
            for home in (0..self.common.shards).map(|home| ShardId(home as u8)) {
                if home == self.common.shard {
                    self.home.barrier(home, order);
                } else {
                    let message = MeshMessage::Barrier { order };
                    out.push(Action::Mesh { to: home, message });
                }
            }
        }
    }

    fn finish_shutdown(&mut self, now: Now, out: &mut Outbox) {
        let Some(grace_ends) = self.grace_ends else {
            return;
        };
        if self.drained {
            return;
        }
        let turn = &mut Turn {
            now,
            out,
            common: &mut self.common,
        };
        if now.mono >= grace_ends && !core::mem::replace(&mut self.grace_over, true) {
            self.reception.abort_all(turn);
            self.owner.abort_all(turn);
        }
        let shard = turn.common.shard;
        let quiet = self.reception.sessions() == 0 && self.owner.is_quiet();
        let settled = quiet && self.home.is_quiet();
        let too_late = now.mono >= grace_ends + FLUSH_MAX;
        if (settled || too_late) && !core::mem::replace(&mut self.quiet, true) {
            turn.out.push(Action::Control(ToControl::Quiet { shard }));
        }
        if self.finishing {
            let flushed = self.home.flush(turn);
            if !flushed && !too_late {
                return;
            }
            self.home.note_left(turn);
            self.drained = true;
            turn.out.push(Action::Control(ToControl::Drained { shard }));
        }
    }
}

/// A message is durable: its session hears it first, then its entries go to their owners.
fn stored(
    turn: &mut Turn<'_>,
    reception: &mut Reception,
    owner: &mut Owner,
    (offer, durable): (home::Offer, Durable),
) {
    let latency = turn.now.mono.since(offer.began);
    turn.common.stats.injection_latency.record(latency);
    let conn: (Key, _) = (offer.conn, offer.ticket);
    reception.resolve(turn, conn, Resolution::Stored(&durable));
    let content: Arc<Content> = offer.content;
    let arrivals = home::arrivals(turn.common.shard, &content, offer.recipients);
    give(turn, owner, Some(&content), arrivals);
}

/// Gives entries to the owners of their queues.
fn give(
    turn: &mut Turn<'_>,
    owner: &mut Owner,
    content: Option<&Arc<Content>>,
    arrivals: impl Iterator<Item = Arrival>,
) {
    let shard = turn.common.shard;
    let mut mine = Vec::new();
    let mut others: Vec<(ShardId, Vec<Arrival>)> = Vec::new();
    for arrival in arrivals {
        let domain = arrival.address.routing_domain();
        let to = turn
            .common
            .owner_of(&arrival.binding, &domain, arrival.batch);
        if to == shard {
            mine.push(arrival);
            continue;
        }
        match others.iter_mut().find(|(shard, _)| *shard == to) {
            Some((_, arrivals)) => arrivals.push(arrival),
            None => others.push((to, vec![arrival])),
        }
    }
    owner.arrive(turn, content, mine);
    for (to, arrivals) in others {
        let content = content.cloned();
        let message = MeshMessage::Arrivals { content, arrivals };
        turn.out.push(Action::Mesh { to, message });
    }
}

/// Gives entries that have left a queue to the owners of those that they go to. Those whose bodies
/// are not in memory go together.
fn give_onward(turn: &mut Turn<'_>, owner: &mut Owner, onward: Vec<Departed>) {
    let (with, without): (Vec<_>, Vec<_>) = onward.into_iter().partition(|it| it.content.is_some());
    give(turn, owner, None, without.into_iter().map(|it| it.arrival));
    for Departed { arrival, content } in with {
        give(turn, owner, content.as_ref(), core::iter::once(arrival));
    }
}

fn facts_of<'a>(turn: &Turn<'_>, told: &'a Changed) -> AdaptiveFacts<'a> {
    let Changed {
        binding,
        domain,
        change,
    } = told;
    AdaptiveFacts {
        at: turn.now.wall,
        binding,
        domain,
        what: change.what.as_str(),
        from: change.from.as_deref(),
        to: change.to.as_deref(),
        until: change.until,
        rule: &change.cause.rule,
        count: change.cause.count,
        reply: change.cause.reply.as_deref(),
        stage: change.cause.stage.as_deref(),
        host: change.cause.host.as_deref(),
    }
}

fn binding_names(config: &Config) -> Vec<Arc<str>> {
    config
        .bindings()
        .iter()
        .map(|binding| binding.name.as_str().into())
        .collect()
}

/// The priority classes with their shares, in their order.
fn classes(config: &Config) -> Vec<(&str, u32)> {
    let classes = config.classes().iter();
    classes.map(|it| (it.name.as_str(), it.share)).collect()
}

/// This shard's part of what bodies may take in memory.
fn budget(config: &Config, cells: &Cells, shards: usize) -> Budget {
    let global = config.global();
    let goal = cells.memory_limit.get() / 100 * u64::from(global.memory_goal);
    Budget {
        messages_max: (global.max_resident_messages as usize).div_ceil(shards),
        // Half of the goal: the rest is for connections, queues and what the allocator keeps.
        bytes_max: goal / 2 / shards as u64,
        senders_max: cells.senders_max,
    }
}

fn recorder_bytes(config: &Config, shards: usize) -> usize {
    config.global().flight_recorder_size as usize / shards
}
