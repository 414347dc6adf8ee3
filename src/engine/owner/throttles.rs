//! Throttles as queues meet them: a queue that may not start now holds a booking and is looked at
//! again when its time comes; in a long wait a few times before, for a turn that others have left.
//!
//! Mail that waits for a throttle stays active. A message starts under the throttle of its queue
//! and under that of the host which its connection leads to; a connection likewise.

use core::time::Duration;
use std::sync::Arc;

use crate::base::slab::Key;
use crate::base::throttle::keep::Keep;
use crate::base::throttle::{Booking, Throttle};
use crate::base::time::Mono;
use crate::base::timer_wheel::TimerKey;
use crate::config::SharedRate;
use crate::deliver::route::Host;
use crate::engine::Turn;
use crate::engine::io::{Action, ToControl};
use crate::engine::owner::{OpenJob, Owner, Timer, Way};
use crate::queue::QueueId;
use crate::shape::rate::Gate;

/// How long before its turn a queue without connections begins to make one.
const LEAD: Duration = Duration::from_secs(2);

/// How long a queue whose turn has come keeps it while its connection is being made: others could
/// use it.
const HOLD: Duration = Duration::from_secs(3);

/// In how many parts a wait is slept through, of which none is shorter than this.
const LOOKS: u32 = 16;
const LOOK_MIN: Duration = Duration::from_secs(1);

/// What has one throttle for messages and one for connections.
#[derive(Clone, Default)]
pub(super) struct Throttled {
    pub messages: Option<Arc<Throttle>>,
    pub connections: Option<Arc<Throttle>>,
}

impl Throttled {
    pub fn of(turn: &Turn<'_>, rates: [Option<&SharedRate>; 2]) -> Throttled {
        let get = |rate: &SharedRate| turn.throttle(&rate.of, rate.rate, Keep::Always);
        let [messages, connections] = rates.map(|rate| rate.map(get));
        Throttled {
            messages,
            connections,
        }
    }
}

/// The bookings of one queue, and when it is to be looked at for them.
#[derive(Default)]
pub(super) struct Bookings {
    /// At most one under each throttle, of which a queue meets few.
    held: Vec<(Arc<Throttle>, Booking)>,
    alarm: Option<(Mono, TimerKey)>,
    /// No connection may begin before: its throttle or those of all its hosts are against it.
    shut_until: Option<Mono>,
    /// How often it has left turns to others since it last began a message.
    left: u8,
}

/// So often a queue that waits for several throttles leaves a turn to others that comes too soon
/// for it. Then it keeps what it has until it begins something: one turn is lost, but lines in
/// which it never has both at the same time cannot starve it.
const LEFT_MAX: u8 = 3;

/// What a queue whose turn has not come waits for.
enum Wait {
    Until(Mono),
    /// More starts have to be on disk.
    Grant,
}

impl Bookings {
    fn take(&mut self, throttle: &Arc<Throttle>) -> Option<Booking> {
        let of = |(it, _): &(Arc<Throttle>, Booking)| Arc::ptr_eq(it, throttle);
        let index = self.held.iter().position(of)?;
        Some(self.held.swap_remove(index).1)
    }

    /// When the turn that it holds comes; without one, when it would.
    fn opens_at(&self, throttle: &Arc<Throttle>) -> Mono {
        let mut held = self.held.iter();
        match held.find(|(it, _)| Arc::ptr_eq(it, throttle)) {
            Some((_, booking)) => throttle.due(*booking).at,
            None => throttle.opens_at(),
        }
    }

    /// Turns under these throttles that come before this moment are of no use.
    fn leave_before(&mut self, throttles: &[Arc<Throttle>], moment: Mono) {
        self.leave(|throttle, at| {
            at < moment && throttles.iter().any(|it| Arc::ptr_eq(it, throttle))
        });
    }

    /// Leaves turns to others, but not for ever.
    fn leave(&mut self, goes: impl Fn(&Arc<Throttle>, Mono) -> bool) {
        if self.left >= LEFT_MAX {
            return;
        }
        let before = self.held.len();
        self.held.retain(|(throttle, booking)| {
            let goes = goes(throttle, booking.at);
            if goes {
                throttle.give_back(*booking);
            }
            !goes
        });
        self.left += u8::from(self.held.len() < before);
    }

    /// Whether one may start now; otherwise when. The booking is held.
    fn due(&mut self, now: Mono, throttle: &Arc<Throttle>) -> Result<(), Wait> {
        let held = self.take(throttle).map(|it| match it.at > now {
            true => throttle.move_up(it),
            false => it,
        });
        let booking = held.unwrap_or_else(|| throttle.book(now));
        let (booking, granted) = throttle.turn(now, booking);
        self.held.push((throttle.clone(), booking));
        match booking.at <= now {
            true if granted => Ok(()),
            true => Err(Wait::Grant),
            false => Err(Wait::Until(booking.at)),
        }
    }

    /// Starts one if it may start now; otherwise tells when.
    fn start(&mut self, now: Mono, throttle: &Arc<Throttle>) -> Result<(), Mono> {
        let booking = self.take(throttle).unwrap_or_else(|| throttle.book(now));
        throttle.start(now, booking).map_err(|later| {
            self.held.push((throttle.clone(), later));
            later.at
        })
    }

    /// Its turns are of no more use.
    pub fn forget(&mut self, throttle: &Arc<Throttle>) {
        self.take(throttle);
    }

    pub fn are_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// The throttle that this queue waits for longest.
    pub fn latest(&self) -> Option<(&Throttle, Mono)> {
        let latest = self.held.iter().max_by_key(|(_, booking)| booking.at)?;
        Some((&latest.0, latest.1.at))
    }

    /// Turns that came too long ago have not been used.
    pub fn leave_overdue(&mut self, now: Mono) {
        self.leave(|_, at| at + HOLD <= now);
    }

    /// Leaves its turns to others.
    fn give_back(&mut self) {
        for (throttle, booking) in self.held.drain(..) {
            throttle.give_back(booking);
        }
    }
}

impl Owner {
    /// Whether one more may start under all of these throttles. If not, the queue is looked at
    /// again when it may.
    fn may_start<'a>(
        &mut self,
        now: Mono,
        queue: QueueId,
        throttles: impl IntoIterator<Item = &'a Arc<Throttle>>,
    ) -> bool {
        let Some(link) = self.links.get_mut(&queue) else {
            return false;
        };
        let (mut until, mut granted) = (None, true);
        for throttle in throttles {
            match link.bookings.due(now, throttle) {
                Ok(()) => {}
                Err(Wait::Until(at)) => until = until.max(Some(at)),
                Err(Wait::Grant) => granted = false,
            }
            if throttle.asks() {
                self.reserving.push(throttle.clone());
            }
        }
        if let Some(until) = until {
            self.wait(now, queue, until);
        }
        if !granted {
            self.ungranted.insert(queue);
        }
        until.is_none() && granted
    }

    /// More starts are on disk: who waits for that looks again.
    pub fn granted(&mut self) {
        for queue in core::mem::take(&mut self.ungranted) {
            self.mark(queue);
        }
    }

    /// Tells who keeps throttles which ones ask.
    pub(super) fn reserve_starts(&mut self, turn: &mut Turn<'_>) {
        for throttle in self.reserving.drain(..) {
            turn.out
                .push(Action::Control(ToControl::Reserve { throttle }));
        }
    }

    fn note_asking<'a>(&mut self, throttles: impl IntoIterator<Item = &'a Arc<Throttle>>) {
        let asking = throttles.into_iter().filter(|it| it.asks());
        self.reserving.extend(asking.cloned());
    }

    /// Sleeps until a turn. Of a long wait a part goes by between looks for a turn that has been
    /// given back: all queues of a throttle together look so often in a window as a few times what
    /// it lets start.
    fn wait(&mut self, now: Mono, queue: QueueId, until: Mono) {
        let part = until.since(now) / LOOKS;
        let least = now + part.max(LOOK_MIN);
        let link = self.links.get(&queue);
        let warming = link.and_then(|it| it.warming.as_ref());
        // The next day may bring another allowance.
        let day = warming.map_or(Mono::MAX, |it| it.ends_at());
        let day = if day > now { day } else { Mono::MAX };
        self.look_again(queue, until.min(least).min(day));
    }

    /// Looks at a queue at this moment, or before it.
    pub(super) fn look_again(&mut self, queue: QueueId, at: Mono) {
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        match link.bookings.alarm {
            Some((armed, _)) if armed <= at => return,
            Some((_, timer)) => drop(self.timers.cancel(timer)),
            None => {}
        }
        let timer = self.timers.insert(at, Timer::Throttle(queue));
        link.bookings.alarm = Some((at, timer));
    }

    /// A queue that has nothing to start, or may not, keeps nobody waiting.
    pub(super) fn leave_throttles(&mut self, queue: QueueId) {
        if let Some(link) = self.links.get_mut(&queue) {
            link.bookings.give_back();
            if let Some((_, timer)) = link.bookings.alarm.take() {
                self.timers.cancel(timer);
            }
        }
    }

    /// The time has come for which a queue was to be looked at.
    pub(super) fn throttle_timer(&mut self, queue: QueueId) {
        if let Some(link) = self.links.get_mut(&queue) {
            link.bookings.alarm = None;
        }
        self.mark(queue);
    }

    /// Whether a connection made now would be of use soon. Only the first one is made ahead.
    pub(super) fn is_worth_connecting(&mut self, now: Mono, queue: QueueId) -> bool {
        let Some(link) = self.links.get_mut(&queue) else {
            return false;
        };
        let mut throttles = link.message_throttles().peekable();
        if throttles.peek().is_none() {
            return true;
        }
        let mut latest = None;
        for throttle in throttles {
            // What the disk has yet to know is known before a connection is made.
            if let Err(Wait::Until(at)) = link.bookings.due(now, &throttle) {
                latest = latest.max(Some(at));
            }
            if throttle.asks() {
                self.reserving.push(throttle);
            }
        }
        let Some(at) = latest else {
            self.look_again(queue, now + HOLD);
            return true;
        };
        if !link.connections.is_empty() {
            return false;
        }
        let from = at.before(LEAD);
        if from > now {
            let of_connections = link.throttled.connections.clone();
            link.bookings.leave_before(of_connections.as_slice(), from);
            self.wait(now, queue, from);
            return false;
        }
        self.look_again(queue, at + HOLD);
        true
    }

    /// The connection that the next message of a queue goes to, if one may start now.
    pub(super) fn connection_for(&mut self, turn: &Turn<'_>, queue: QueueId) -> Option<Key> {
        let link = self.links.get(&queue)?;
        let best = link.openings.best()?;
        if !self.may_stand_behind(turn.now.mono, queue, best) {
            return None;
        }
        let link = self.links.get(&queue)?;
        if link.throttled.messages.is_none()
            && link.adaptive.is_none()
            && link.warming.is_none()
            && !link.meets_host_throttles
        {
            return Some(best);
        }
        if !matches!(link.gate(turn), Gate::Open | Gate::One) {
            return None;
        }
        let meets_host_throttles = link.meets_host_throttles;
        let of_queue: Vec<Arc<Throttle>> = link.message_throttles().collect();
        let is_time = of_queue.is_empty() || self.is_time_for_class(turn.now.mono, queue);
        if !is_time {
            return None;
        }
        let key = match meets_host_throttles {
            true => self.connection_of_open_host(turn.now.mono, queue, &of_queue)?,
            false => best,
        };
        let may_start = self.may_start(turn.now.mono, queue, &of_queue);
        may_start.then_some(key)
    }

    /// The least busy connection of those whose host may be given a message now. Without one a turn
    /// under the throttles of the queue would pass unused.
    fn connection_of_open_host(
        &mut self,
        now: Mono,
        queue: QueueId,
        of_queue: &[Arc<Throttle>],
    ) -> Option<Key> {
        let link = self.links.get(&queue)?;
        let keys: Vec<Key> = link.openings.in_order().collect();
        let key = keys.into_iter().find(|key| {
            let outgoing = self.outgoing.get(*key);
            let of_host = outgoing.and_then(|it| it.throttled.messages.clone());
            self.may_start(now, queue, &of_host)
        });
        if key.is_none() {
            let link = self.links.get_mut(&queue)?;
            link.bookings.leave_before(of_queue, Mono::MAX);
        }
        key
    }

    /// Starts as many recipients of a job as its connection may carry and as may start now; the
    /// others wait in their queue again.
    /// Nothing if none may.
    pub(super) fn admitted(
        &mut self,
        turn: &Turn<'_>,
        key: Key,
        mut job: OpenJob,
    ) -> Option<OpenJob> {
        let now = turn.now.mono;
        let outgoing = self.outgoing.get(key)?;
        let queue = outgoing.queue;
        let left = outgoing.session.recipients_left() as usize;
        if job.recipients.len() > left {
            let surplus = job.recipients.split_off(left);
            let entries: Vec<_> = surplus.iter().map(|(entry, _)| *entry).collect();
            self.queues.give_back(turn.now, &entries);
        }
        let outgoing = self.outgoing.get(key)?;
        let of_host = outgoing.throttled.messages.clone();
        let link = self.links.get_mut(&queue)?;
        let free = link.throttled.messages.is_none() && link.adaptive.is_none();
        if free && link.warming.is_none() && of_host.is_none() {
            return Some(job);
        }
        let of_queue: Vec<Arc<Throttle>> = link.message_throttles().collect();
        let all = || of_queue.iter().chain(&of_host);
        let most = match link.gate(turn) {
            Gate::Open => job.recipients.len(),
            Gate::One => 1,
            Gate::Until(_) | Gate::Answer(_) => 0,
        };
        let mut started = 0;
        while started < most.min(job.recipients.len()) && self.may_start(now, queue, all()) {
            let link = self.links.get_mut(&queue)?;
            // A turn that another shard has made later meanwhile counts as used by the first.
            let mut each = all().map(|throttle| link.bookings.start(now, throttle));
            if let Some(at) = each.find_map(Result::err) {
                self.look_again(queue, at);
                break;
            }
            started += 1;
        }
        self.note_asking(all());
        let spacing = |it: &Arc<Throttle>| it.rate().window / it.rate().count.max(1);
        if let Some(spacing) = of_queue.iter().map(spacing).max() {
            self.started_class(now, queue, (job.rank, started), spacing);
        }
        if let Some(link) = self.links.get_mut(&queue).filter(|_| started > 0) {
            link.bookings.left = 0;
            if let Some(adaptive) = &mut link.adaptive {
                adaptive.shape.started(turn.now);
            }
        }
        let left = job.recipients.split_off(started);
        let entries: Vec<_> = left.iter().map(|(entry, _)| *entry).collect();
        self.queues.give_back(turn.now, &entries);
        (started > 0).then_some(job)
    }

    /// When a host that has reached a throttle is open again; nothing if it is open now.
    pub(super) fn host_opens_at(
        &self,
        turn: &Turn<'_>,
        queue: QueueId,
        host: &Host,
    ) -> Option<Mono> {
        let Throttled {
            messages,
            connections,
        } = self.host_throttles(turn, queue, host);
        let bookings = &self.links.get(&queue)?.bookings;
        let both = messages.iter().chain(&connections);
        let at = both.map(|throttle| bookings.opens_at(throttle)).max()?;
        (at > turn.now.mono).then_some(at)
    }

    /// No connection may begin now because of throttles that count at its host or count
    /// connections: the queue stands in their line, at the host that opens first, and leaves turns
    /// to others that would come before.
    pub(super) fn stand_before(&mut self, turn: &Turn<'_>, queue: QueueId, host: &Host) {
        let now = turn.now.mono;
        let of_host = self.host_throttles(turn, queue, host);
        let Some(link) = self.links.get_mut(&queue) else {
            return;
        };
        let of_queue: Vec<Arc<Throttle>> = link.message_throttles().collect();
        let connections = link.throttled.connections.clone();
        let hosts = of_host.messages.iter().chain(&of_host.connections);
        let (mut until, mut granted) = (None, true);
        for throttle in connections.iter().chain(hosts) {
            match link.bookings.due(now, throttle) {
                Ok(()) => {}
                Err(Wait::Until(at)) => until = until.max(Some(at)),
                Err(Wait::Grant) => granted = false,
            }
            if throttle.asks() {
                self.reserving.push(throttle.clone());
            }
        }
        if !granted {
            self.ungranted.insert(queue);
        }
        link.bookings.shut_until = until;
        let Some(until) = until else {
            // Its turn has come meanwhile, or comes with the grant.
            if granted {
                self.look_again(queue, now);
            }
            return;
        };
        if link.connections.is_empty() {
            link.bookings.leave_before(&of_queue, until);
        }
        self.wait(now, queue, until);
    }

    /// A queue that could not connect still cannot.
    pub(super) fn is_shut(&mut self, turn: &Turn<'_>, queue: QueueId) -> bool {
        let now = turn.now.mono;
        let Some(link) = self.links.get_mut(&queue) else {
            return false;
        };
        if link.bookings.shut_until.take().is_none_or(|at| at <= now) {
            return false;
        }
        let Way::Known(plan) = &link.plan else {
            return false;
        };
        let plan = plan.clone();
        let opens = |host: &Host| self.host_opens_at(turn, queue, host);
        let Some(first) = plan.hosts.iter().min_by_key(|host| opens(host)) else {
            return false;
        };
        self.stand_before(turn, queue, first);
        let link = self.links.get(&queue);
        link.is_some_and(|it| it.bookings.shut_until.is_some())
    }

    /// Whether a connection to this host may be begun now.
    pub(super) fn may_connect(
        &mut self,
        now: Mono,
        queue: QueueId,
        of_host: Option<&Arc<Throttle>>,
    ) -> bool {
        let of_queue = self
            .links
            .get(&queue)
            .and_then(|link| link.throttled.connections.clone());
        self.may_start(now, queue, of_queue.iter().chain(of_host))
    }

    /// Counts the beginning of a connection, if it may begin.
    pub(super) fn connects(
        &mut self,
        now: Mono,
        queue: QueueId,
        of_host: Option<&Arc<Throttle>>,
    ) -> bool {
        let Some(link) = self.links.get_mut(&queue) else {
            return false;
        };
        let of_queue = link.throttled.connections.clone();
        let mut all = of_queue.iter().chain(of_host);
        let begins = all.all(|throttle| link.bookings.start(now, throttle).is_ok());
        self.note_asking(of_queue.iter().chain(of_host));
        let Some(link) = self.links.get_mut(&queue) else {
            return false;
        };
        if let (false, Some((_, at))) = (begins, link.bookings.latest()) {
            self.look_again(queue, at);
        }
        begins
    }
}
