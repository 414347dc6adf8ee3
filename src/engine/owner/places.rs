//! Places under the connection limits that shards share, and how queues wait for them.
//!
//! A connection needs a place under every limit that is against it, taken in one order: those of
//! its host, of its pair if that is striped, of the stanza whose limit its queue falls back to, of
//! its binding, of its group, of the process. A queue without connections keeps what it has taken
//! while it waits for the next place, so that it comes to a connection however many limits there
//! are; since all take in this order, none waits for another in a circle. A queue that has
//! connections takes all or nothing.
//!
//! The ticket of a queue stays the same until it has a connection more or needs none any more: who
//! has to let a place go, because of a throttle or another limit, stands first when it comes back.
//! How places that are in use come back is in `giving.rs`.
//!
//! Invariants: what a claim holds is given back when the queue has no use for it, rests, is
//! forgotten, or when limits change; a queue that waits stands in a line.

use core::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::limit::{Back, Bounds, Customer, Limit, Told};
use crate::base::slab::Key;
use crate::base::time::Mono;
use crate::config::SharedLimit;
use crate::deliver::route::Host;
use crate::engine::Turn;
use crate::engine::io::{Action, MeshMessage};
use crate::engine::owner::openings::Opening;
use crate::engine::owner::{Link, Outgoing, Owner};
use crate::engine::settings::LinkSettings;
use crate::queue::{QueueId, State};
use crate::types::id::ShardId;

/// The name of the limit of the process.
const PROCESS: &str = "server_max_outbound_connections of the process";

/// What a connection holds. Goes back through [`Owner::release`] and nowhere else.
pub(super) struct Places {
    pub limits: Vec<Arc<Limit>>,
    /// When the connection began, when its host let it in, or when it was given up.
    pub since: Mono,
    /// It ends because a place under this one was asked for, and how it comes back there.
    pub given_up: Option<(Arc<Limit>, Back)>,
}

impl Places {
    /// Counted under one more limit.
    pub(super) fn join(&mut self, limit: Arc<Limit>) {
        self.limits.push(limit);
    }

    pub(super) fn is_waited_for(&self) -> bool {
        self.limits.iter().any(|limit| limit.is_waited_for())
    }
}

/// What a queue has on its way to one more connection.
#[derive(Default)]
pub(super) struct Claim {
    ticket: u64,
    /// Where it stands in line.
    lines: Vec<Arc<Limit>>,
    /// A place may have been handed to it, or something else is worth a look.
    woken: bool,
    /// Taken already, for this host.
    taken: Vec<Arc<Limit>>,
    host: Option<SocketAddr>,
}

pub(super) fn position(limits: &[Arc<Limit>], limit: &Arc<Limit>) -> Option<usize> {
    limits.iter().position(|it| Arc::ptr_eq(it, limit))
}

impl Claim {
    fn leave_lines(&mut self, told: &mut Vec<Told>, stays: impl Fn(&Arc<Limit>) -> bool) {
        self.lines.retain(|limit| {
            let stays = stays(limit);
            if !stays {
                limit.leave(self.ticket, told);
            }
            stays
        });
    }

    fn give_back_taken(&mut self, told: &mut Vec<Told>) {
        for limit in self.taken.drain(..) {
            limit.release(told);
        }
        self.host = None;
    }
}

impl Owner {
    /// The limits of a pair, apart from those of hosts, in the order of taking.
    pub(super) fn limits_of(
        &mut self,
        turn: &mut Turn<'_>,
        settings: &LinkSettings,
    ) -> Rc<[Arc<Limit>]> {
        let generation = &turn.common.generation;
        let (number, limits) = (generation.number, &turn.common.cells.limits);
        let mut told = Vec::new();
        let [of_binding, of_group] = &settings.binding.server_max;
        let shared = [&settings.delivery.scope_max, of_binding, of_group];
        let shared = shared.into_iter().flatten();
        let mut all: Vec<Arc<Limit>> = shared
            .map(|it| limits.get(&it.of, number, bounds(it), &mut told))
            .collect();
        let process = process_bounds(turn);
        all.push(limits.get(PROCESS, number, process, &mut told));
        self.tell(turn, told);
        all.into()
    }

    /// The first of these limits that is against one more connection of a queue.
    pub(super) fn against(
        &self,
        turn: &Turn<'_>,
        queue: QueueId,
        host: &Host,
        limits: &[Arc<Limit>],
    ) -> Option<usize> {
        let claim = self.links.get(&queue).and_then(|it| it.claim.as_deref());
        let ticket = claim.map_or(0, |it| it.ticket);
        let here = claim.filter(|it| it.host == Some(host.address));
        let taken =
            |limit: &Arc<Limit>| here.is_some_and(|it| position(&it.taken, limit).is_some());
        let who = customer(turn, queue);
        let has_room = |limit: &&Arc<Limit>| taken(limit) || limit.has_room(who, ticket);
        limits.iter().position(|limit| !has_room(&limit))
    }

    /// Places for one more connection to this host, or a place in line.
    pub(super) fn reserve(
        &mut self,
        turn: &mut Turn<'_>,
        queue: QueueId,
        host: &Host,
        of_host: Vec<Arc<Limit>>,
    ) -> Option<Places> {
        let who = customer(turn, queue);
        let mut told = Vec::new();
        let link = self.links.get_mut(&queue)?;
        let claim = claim_of(&mut link.claim, turn);
        if claim.host != Some(host.address) {
            claim.give_back_taken(&mut told);
            claim.host = Some(host.address);
        }
        let shared = link.stripe.limit.iter().chain(link.settings.limits.iter());
        let all = of_host.into_iter().chain(shared.cloned());
        let mut reached = None;
        for limit in all.skip(claim.taken.len()) {
            if !limit.take(who, claim.ticket, &mut told) {
                reached = Some(limit);
                break;
            }
            claim.lines.retain(|it| !Arc::ptr_eq(it, &limit));
            claim.taken.push(limit);
        }
        claim.leave_lines(&mut told, |it| {
            reached
                .as_ref()
                .is_some_and(|reached| Arc::ptr_eq(it, reached))
        });
        let places = match reached {
            None => {
                claim.host = None;
                Some(Places {
                    limits: core::mem::take(&mut claim.taken),
                    since: turn.now.mono,
                    given_up: None,
                })
            }
            Some(limit) => {
                if position(&claim.lines, &limit).is_none() {
                    claim.lines.push(limit);
                }
                if !link.connections.is_empty() {
                    claim.give_back_taken(&mut told);
                }
                None
            }
        };
        self.tell(turn, told);
        places
    }

    /// All hosts that a queue could go to are full: it stands in their lines and in no other.
    pub(super) fn stand_in_line(
        &mut self,
        turn: &mut Turn<'_>,
        queue: QueueId,
        reached: &[Arc<Limit>],
    ) {
        let who = customer(turn, queue);
        let mut told = Vec::new();
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let claim = claim_of(&mut link.claim, turn);
        claim.give_back_taken(&mut told);
        claim.leave_lines(&mut told, |it| position(reached, it).is_some());
        for limit in reached {
            if position(&claim.lines, limit).is_none() {
                claim.lines.push(limit.clone());
                limit.join(who, claim.ticket, &mut told);
            }
        }
        self.tell(turn, told);
    }

    /// Counts the places of a connection as in use.
    pub(super) fn hold(&mut self, turn: &mut Turn<'_>, queue: QueueId, places: &Places) {
        let who = customer(turn, queue);
        let mut told = Vec::new();
        for limit in &places.limits {
            limit.hold(who, &mut told);
        }
        self.tell(turn, told);
        self.drop_claim(turn, queue);
    }

    /// Places that will not be used now; the queue keeps its place in the order of coming.
    pub(super) fn unreserve(&mut self, turn: &mut Turn<'_>, places: Places) {
        let mut told = Vec::new();
        for limit in places.limits {
            limit.release(&mut told);
        }
        self.tell(turn, told);
    }

    /// The places of a connection that has ended.
    pub(super) fn release(&mut self, turn: &mut Turn<'_>, queue: QueueId, places: Places) {
        let who = customer(turn, queue);
        let mut told = Vec::new();
        let given_up = places.given_up;
        for limit in places.limits {
            let for_this = given_up.as_ref().filter(|(it, _)| Arc::ptr_eq(it, &limit));
            let how = for_this.map_or(Back::Unasked, |(_, how)| *how);
            limit.end(who, how, &mut told);
        }
        self.tell(turn, told);
    }

    /// A connection has passed from one queue to another, and its places with it.
    pub(super) fn pass_places(
        &mut self,
        turn: &mut Turn<'_>,
        key: Key,
        (from, to): (QueueId, QueueId),
    ) {
        let (from, to) = (customer(turn, from), customer(turn, to));
        let mut told = Vec::new();
        let outgoing = self.outgoing.get(key);
        for limit in outgoing.iter().flat_map(|it| &it.places.limits) {
            limit.pass(from, to, &mut told);
        }
        self.tell(turn, told);
    }

    /// What a queue has on its way to a connection goes to others.
    pub(super) fn drop_claim(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        if self.links.get(&queue).is_none_or(|it| it.claim.is_none()) {
            return;
        }
        self.step_aside(turn, queue);
        if let Some(link) = self.links.get_mut(&queue) {
            link.claim = None;
        }
    }

    /// The same, and when it comes back it stands where it stood.
    pub(super) fn step_aside(&mut self, turn: &mut Turn<'_>, queue: QueueId) {
        let link = self.links.get_mut(&queue);
        let Some(claim) = link.and_then(|link| link.claim.as_mut()) else {
            return;
        };
        let mut told = Vec::new();
        claim.give_back_taken(&mut told);
        claim.leave_lines(&mut told, |_| false);
        self.tell(turn, told);
    }

    /// A queue that stands in line and has not been woken needs no look.
    pub(super) fn waits_in_line(&mut self, queue: QueueId) -> bool {
        let link = self.links.get_mut(&queue);
        let Some(claim) = link.and_then(|link| link.claim.as_mut()) else {
            return false;
        };
        let woken = core::mem::take(&mut claim.woken);
        !claim.lines.is_empty() && !woken
    }

    /// The limits that a queue waits under.
    pub(super) fn waits_under(&self, queue: QueueId) -> &[Arc<Limit>] {
        let claim = self.links.get(&queue).and_then(|it| it.claim.as_deref());
        claim.map_or(&[], |it| &it.lines)
    }

    pub(super) fn tell(&mut self, turn: &mut Turn<'_>, told: Vec<Told>) {
        for one in told {
            let (Told::Place(who) | Told::GiveUp(who)) = one;
            let queue = QueueId::from_bits(who.queue);
            let message = match one {
                Told::Place(_) => MeshMessage::PlaceFree { queue },
                Told::GiveUp(_) => MeshMessage::GiveUp { queue },
            };
            let to = ShardId(who.shard);
            if to != turn.common.shard {
                turn.out.push(Action::Mesh { to, message });
                continue;
            }
            match one {
                Told::Place(_) => self.place_free(queue),
                Told::GiveUp(_) => self.asked_for_place(queue),
            }
        }
    }

    /// A place has been handed to a queue of this shard, or it should look for one again.
    pub fn place_free(&mut self, queue: QueueId) {
        let link = self.links.get_mut(&queue);
        if let Some(claim) = link.and_then(|link| link.claim.as_mut()) {
            claim.woken = true;
            self.mark(queue);
        }
    }

    /// Others wait for a place that a queue of this shard has.
    pub fn asked_for_place(&mut self, queue: QueueId) {
        if let Some(link) = self.links.get_mut(&queue) {
            link.asked = true;
            self.mark(queue);
        }
    }

    /// Whether a connection without work gets some, if only when a throttle lets it.
    pub(super) fn has_use(&self, queue: QueueId) -> bool {
        let (Some(link), Some(view)) = (self.links.get(&queue), self.queues.view(queue)) else {
            return false;
        };
        link.fetching > 0 || view.count(State::Active) > 0 || !link.ready.is_empty()
    }

    /// Whether a queue of this shard stands in the line of a limit.
    pub fn stands_in_line(&self, queue: u64, limit: &Arc<Limit>) -> bool {
        let lines = self.waits_under(QueueId::from_bits(queue));
        position(lines, limit).is_some()
    }

    /// Whether a queue knows that it is asked for a place.
    pub fn knows_of_being_asked(&self, queue: u64) -> bool {
        let link = self.links.get(&QueueId::from_bits(queue));
        link.is_some_and(|it| it.asked)
    }

    /// Places under a limit that connections and claims of this shard hold.
    pub fn places_under(&self, limit: &Arc<Limit>) -> usize {
        let outgoing = self.outgoing.iter();
        let used = outgoing.filter(|(_, it)| position(&it.places.limits, limit).is_some());
        let claims = self.links.values().filter_map(|it| it.claim.as_ref());
        let claimed = claims.filter(|it| position(&it.taken, limit).is_some());
        used.count() + claimed.count()
    }
}

impl Link {
    /// The limits that a queue waits under, by name.
    pub(super) fn waits_under(&self) -> impl Iterator<Item = &str> {
        let lines = self.claim.iter().flat_map(|claim| &claim.lines);
        lines.map(|limit| limit.name())
    }
}

impl Outgoing {
    /// It could take a message and has none.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && matches!(self.opening.0, Opening::Beside(_))
    }
}

fn claim_of<'a>(claim: &'a mut Option<Box<Claim>>, turn: &Turn<'_>) -> &'a mut Claim {
    claim.get_or_insert_with(|| {
        Box::new(Claim {
            ticket: turn.common.cells.limits.ticket(),
            ..Claim::default()
        })
    })
}

pub(super) fn customer(turn: &Turn<'_>, queue: QueueId) -> Customer {
    Customer {
        shard: turn.common.shard.0,
        queue: queue.to_bits(),
    }
}

pub(super) fn bounds(limit: &SharedLimit) -> Bounds {
    let max = limit.max;
    Bounds { max, reserve: 0 }
}

/// Connections to receiving hosts that the whole process may have.
fn process_bounds(turn: &Turn<'_>) -> Bounds {
    let global = turn.common.generation.config.global();
    let descriptors = u32::try_from(turn.common.cells.outgoing_max).unwrap_or(u32::MAX);
    let max = global.server_max_outbound_connections.min(descriptors);
    let reserve = global.server_reserve_outbound_connections;
    Bounds {
        max,
        reserve: reserve.min(descriptors - max),
    }
}
