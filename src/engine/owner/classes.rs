//! What it takes beside the order of the queue that mail of a first class does not wait for mail of
//! later ones. Where both have been seen lately, a connection is given one message at a time. What
//! is ready or being fetched of a later class stands in nobody's way. Under a throttle mail of a
//! later class starts evenly, not all that a window allows at its beginning, so that a start is
//! always left soon. What waits for all that for a long time keeps its share.
//!
//! A queue without such mail is not known here, and pays for a look into an empty map.

use core::time::Duration;

use crate::base::map::Map;
use crate::base::slab::Key;
use crate::base::time::Mono;
use crate::engine::owner::{OpenJob, Owner};
use crate::queue::QueueId;

/// Mail of a first class counts as seen for so long. Without pipelining a connection over a long
/// way carries less, so that it ends; but not between two messages of a busy hour.
const LATELY: Duration = Duration::from_secs(30);

/// With fewer connections than this none is free so soon that waiting for it beats standing behind
/// one message.
const CONNECTIONS_MIN: usize = 4;

/// What mail of a later class may catch up with, of starts that a busy machine has missed.
const CATCH_UP: Duration = Duration::from_millis(20);

/// Queues in which mail of a class before the last has been seen.
pub(super) type MixedQueues = Map<QueueId, Mixed>;

pub(super) struct Mixed {
    /// Of the first class seen lately, and until when that counts.
    rank: u8,
    until: Mono,
    /// Until when mail of a later class counts as seen.
    later_until: Mono,
    /// Of the last class whose bodies are being fetched.
    fetch_rank: u8,
    /// Recipients that were served before what is ready, though they came after it.
    passed: u32,
    /// Under a throttle: when mail of a later class may start again.
    later_at: Mono,
}

impl Owner {
    /// Mail of this class has come to a queue.
    pub(super) fn note_class(&mut self, now: Mono, queue: QueueId, rank: u8) {
        let until = now + LATELY;
        if rank + 1 >= self.queues.classes() {
            return;
        }
        let mixed = self.mixed.entry(queue).or_insert(Mixed {
            rank,
            until,
            // What was there before has not been noted.
            later_until: until,
            fetch_rank: u8::MAX,
            passed: 0,
            later_at: now,
        });
        if rank > mixed.rank && now < mixed.until {
            mixed.later_until = until;
            return;
        }
        (mixed.rank, mixed.until) = (rank, until);
    }

    /// Whether the next message may stand behind others on a connection.
    pub(super) fn may_stand_behind(&mut self, now: Mono, queue: QueueId, key: Key) -> bool {
        if self.mixed.is_empty() {
            return true;
        }
        let busy = self.outgoing.get(key).map_or(0, |it| it.jobs.len());
        let Some(mixed) = self.mixed.get(&queue).filter(|_| busy > 0) else {
            return true;
        };
        if mixed.until <= now {
            self.mixed.swap_remove(&queue);
            return true;
        }
        let (Some(link), Some(rank)) = (self.links.get(&queue), self.rank_next(queue)) else {
            return true;
        };
        if rank > mixed.rank {
            return false;
        }
        let connections = link.connections.len();
        mixed.later_until <= now
            || connections < CONNECTIONS_MIN
            || self.queues.waiting_of(queue, rank) as usize > connections
    }

    /// Of the class of what goes next, be it ready or in the queue.
    fn rank_next(&self, queue: QueueId) -> Option<u8> {
        let ready = self.links.get(&queue)?.ready.front().map(|job| job.rank);
        ready.into_iter().chain(self.queues.next_rank(queue)).min()
    }

    /// Whether under a throttle it is time for what goes next. If not, the queue is looked at when
    /// it is.
    pub(super) fn is_time_for_class(&mut self, now: Mono, queue: QueueId) -> bool {
        let Some(mixed) = self.mixed.get(&queue) else {
            return true;
        };
        let (first, later_at) = (mixed.rank, mixed.later_at);
        if mixed.until <= now || later_at <= now {
            return true;
        }
        let is_first = self.rank_next(queue).is_none_or(|rank| rank <= first);
        if !is_first {
            // Others may have the turn that it would hold meanwhile.
            self.leave_throttles(queue);
            self.look_again(queue, later_at);
        }
        is_first
    }

    /// So many recipients of a class have started under a throttle that lets one start in so much
    /// time.
    pub(super) fn started_class(
        &mut self,
        now: Mono,
        queue: QueueId,
        (rank, started): (u8, usize),
        spacing: Duration,
    ) {
        if let Some(mixed) = self.mixed.get_mut(&queue)
            && rank > mixed.rank
        {
            let started = u32::try_from(started).unwrap_or(u32::MAX);
            let from = mixed.later_at.max(now.before(CATCH_UP));
            mixed.later_at = from + spacing.saturating_mul(started);
        }
    }

    /// The message that is ready and goes before what the queue has.
    pub(super) fn ready_job(&mut self, queue: QueueId) -> Option<OpenJob> {
        let link = self.links.get_mut(&queue)?;
        let (front, last) = (link.ready.front()?.rank, link.ready.back()?.rank);
        let Some(mixed) = self.mixed.get_mut(&queue) else {
            return link.ready.pop_front();
        };
        if mixed.passed.saturating_mul(self.queues.share_of(last)) >= 100 {
            mixed.passed = 0;
            let index = link.ready.partition_point(|job| job.rank < last);
            return link.ready.remove(index);
        }
        match self.queues.next_rank(queue) {
            Some(next) if next < front => None,
            _ => self.any_ready(queue),
        }
    }

    /// The first message that is ready.
    pub(super) fn any_ready(&mut self, queue: QueueId) -> Option<OpenJob> {
        let job = self.links.get_mut(&queue)?.ready.pop_front()?;
        self.passes(queue, &job);
        Some(job)
    }

    /// A message is about to be started: what is ready of later classes waits on.
    pub(super) fn passes(&mut self, queue: QueueId, job: &OpenJob) {
        if self.mixed.is_empty() {
            return;
        }
        let last = self.links.get(&queue).and_then(|link| link.ready.back());
        if last.is_some_and(|last| last.rank > job.rank)
            && let Some(mixed) = self.mixed.get_mut(&queue)
        {
            let recipients = u32::try_from(job.recipients.len()).unwrap_or(u32::MAX);
            mixed.passed = mixed.passed.saturating_add(recipients);
        }
    }

    /// Its body is back: behind what is ready of its class and of those before.
    pub(super) fn put_ready(&mut self, queue: QueueId, job: OpenJob) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let behind = link.ready.back().is_none_or(|last| last.rank <= job.rank);
        match behind {
            true => link.ready.push_back(job),
            false => {
                let index = link.ready.partition_point(|it| it.rank <= job.rank);
                link.ready.insert(index, job);
            }
        }
    }

    /// Whether one more message may be taken of which perhaps the body has to be fetched. As many
    /// again may be of an earlier class than those that are being fetched.
    pub(super) fn may_fetch(&mut self, queue: QueueId, fetches_max: u32) -> bool {
        let Some(fetching) = self.links.get(&queue).map(|link| link.fetching) else {
            return false;
        };
        if fetching < fetches_max {
            return true;
        }
        let Some(mixed) = self.mixed.get(&queue) else {
            return false;
        };
        if fetching >= fetches_max.saturating_mul(2) {
            return false;
        }
        // A class that is owed a turn could not use it before its bodies are there.
        self.queues.put_off_shares(queue);
        let next = self.queues.next_rank(queue);
        next.is_some_and(|next| next < mixed.fetch_rank)
    }

    /// The body of a message of this class is being fetched.
    pub(super) fn note_fetch(&mut self, queue: QueueId, rank: u8) {
        if self.mixed.is_empty() {
            return;
        }
        let fetching = self.links.get(&queue).map_or(0, |link| link.fetching);
        if let Some(mixed) = self.mixed.get_mut(&queue) {
            mixed.fetch_rank = match fetching {
                0 => rank,
                _ => mixed.fetch_rank.max(rank),
            };
        }
    }
}
