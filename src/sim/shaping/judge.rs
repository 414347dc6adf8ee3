//! What was seen of a run, held against the model: no window over, no limit of connections over,
//! what may be started is, and who waits is served in turn.
//!
//! *Demand* under a throttle is there while a queue has mail that has been accepted and not begun,
//! and this throttle is all that such a queue is under, whichever of its hosts it goes to. Such a
//! queue could always use what the throttle allows. Of a throttle of connections the demand is mail
//! for which no connection is being made yet.
//!
//! Queues that are under several throttles cost the others something: beside them less is asked
//! for. When they are served themselves depends on all their lines, and is judged by the end only.
//!
//! Who waits stands in one line; a queue that is striped over the shards once for each of them.

use crate::base::map::Map;
use crate::base::slab::Key;
use crate::practice::SECOND;
use crate::sim::practice::seen::Seen;
use crate::sim::shaping::model::Kind;
use crate::sim::shaping::model::Object;
use crate::sim::shaping::model::Queue;
use crate::sim::shaping::tree;

/// A message begins when its turn has come, and is named on the wire when what goes before it on
/// the same connection has left.
const WIRE_US: u64 = SECOND / 1_000;

/// Finding the host and making a connection to it, with all round trips.
const CONNECTING_US: u64 = SECOND / 2;

/// What one start takes where all of a window are due at once.
const START_US: u64 = SECOND * 3 / 100;

/// Connections of a pair, on each shard that has a part of it, that are enough for every rate that
/// is drawn.
const ENOUGH: u64 = 3;

/// Of what may be started, in percent.
const USED_MIN: u64 = 95;

/// The same while queues that are under further throttles wait too: a turn that comes too soon for
/// them is lost where nobody else asks for it in time.
const USED_BESIDE_OTHERS_MIN: u64 = 80;

/// The same for waiting: who comes late to its turn, because another throttle held it up, takes the
/// place of one who is on time.
const WINDOWS_BESIDE_OTHERS: u64 = 2;

/// All that is known of a run.
pub struct Run<'a> {
    pub objects: &'a [Object],
    pub queues: &'a [Queue],
    /// By number, the queue of each message.
    pub letters: &'a [usize],
    pub seen: &'a [(u64, Seen)],
    pub ended_us: u64,
    /// Places of one queue in a line.
    pub stripes: u64,
    /// The queue whose connection this is, by source and port.
    pub queue_of: &'a dyn Fn(&Seen) -> Option<(usize, usize)>,
}

/// How much a run has shown.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Judged {
    pub messages: u64,
    pub connections: u64,
    /// Windows that were as full as they may be.
    pub full_windows: u64,
    /// Whole windows with demand.
    pub windows: u64,
    /// Times that a queue has waited for a throttle and been served.
    pub served: u64,
    /// Times that a limit of connections was reached.
    pub reached: u64,
}

impl Judged {
    pub fn add(&mut self, other: &Judged) {
        self.messages += other.messages;
        self.connections += other.connections;
        self.full_windows += other.full_windows;
        self.windows += other.windows;
        self.served += other.served;
        self.reached += other.reached;
    }
}

/// Something that matters to a throttle.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So much more demand of a queue, or less.
    Demand(usize, i64),
    Start(usize),
}

struct Open {
    queue: usize,
    host: usize,
    used: bool,
}

/// What has been seen, sorted by the limits that it concerns.
struct Sorted<'a> {
    run: &'a Run<'a>,
    judged: Judged,
    open: Map<Key, Open>,
    /// By object.
    held: Vec<u64>,
    steps: Vec<Vec<(u64, Step)>>,
}

/// Checks everything; what is wrong is told in words.
pub fn judge(run: &Run<'_>) -> Result<Judged, String> {
    let mut sorted = Sorted {
        run,
        judged: Judged::default(),
        open: Map::default(),
        held: vec![0; run.objects.len()],
        steps: vec![Vec::new(); run.objects.len()],
    };
    for (at_us, seen) in run.seen {
        sorted.sees(*at_us, seen)?;
    }
    let mut judged = sorted.judged;
    for (id, object) in run.objects.iter().enumerate() {
        let (rate, late_us) = match object.kind {
            Kind::Messages(rate) => (rate, WIRE_US),
            Kind::Connections(rate) => (rate, 0),
            Kind::Open(_) => continue,
        };
        let throttle = Throttle {
            object,
            rate,
            steps: &sorted.steps[id],
            lone: run.queues.iter().map(|it| is_lone(run, it, id)).collect(),
            ended_us: run.ended_us,
            stripes: run.stripes,
        };
        judged.full_windows += throttle.windows_are_kept(late_us)?;
        judged.windows += throttle.is_used()?;
        judged.served += throttle.is_fair()?;
    }
    Ok(judged)
}

/// It may have as many connections as it needs.
fn is_free(run: &Run<'_>, queue: &Queue) -> bool {
    let wide = match run.objects[queue.open[0]].kind {
        Kind::Open(most) => most >= ENOUGH * run.stripes,
        _ => false,
    };
    wide && queue.open.len() == 1 && queue.hosts.iter().all(|it| it.open.is_empty())
}

/// Nothing but this throttle is against a queue.
fn is_lone(run: &Run<'_>, queue: &Queue, id: usize) -> bool {
    let alone = queue.hosts.iter().all(|host| {
        let of_queue = [queue.messages, queue.connections];
        let of_host = [host.messages, host.connections];
        let mut all = of_queue.into_iter().chain(of_host).flatten();
        all.next() == Some(id) && all.next().is_none()
    });
    is_free(run, queue) && alone
}

impl Sorted<'_> {
    fn sees(&mut self, at_us: u64, seen: &Seen) -> Result<(), String> {
        match *seen {
            Seen::Accepted { number } => {
                let queue = self.run.letters[number as usize];
                self.demands(at_us, queue, (1, 1));
            }
            Seen::Dialed { conn, .. } => {
                let found = (self.run.queue_of)(seen);
                let Some((queue, host)) = found else {
                    return Err(format!("nobody is at {seen:?}"));
                };
                self.judged.connections += 1;
                let used = false;
                self.open.insert(conn, Open { queue, host, used });
                self.takes(at_us, queue, host)?;
                let of = &self.run.queues[queue];
                for id in [of.connections, of.hosts[host].connections] {
                    self.step(at_us, id, Step::Start(queue));
                }
                self.demands(at_us, queue, (0, -1));
            }
            Seen::Named { conn, number } => {
                let queue = self.run.letters[number as usize];
                let Some(open) = self.open.get_mut(&conn) else {
                    return Err(format!("message {number} goes nowhere"));
                };
                if open.queue != queue {
                    let others = open.queue;
                    return Err(format!(
                        "message {number} of {} goes with {}",
                        self.name(queue),
                        self.name(others)
                    ));
                }
                let (was_used, host) = (core::mem::replace(&mut open.used, true), open.host);
                self.judged.messages += 1;
                let of = &self.run.queues[queue];
                for id in [of.messages, of.hosts[host].messages] {
                    self.step(at_us, id, Step::Start(queue));
                }
                self.demands(at_us, queue, (-1, if was_used { -1 } else { 0 }));
            }
            Seen::Gone { conn } => {
                if let Some(open) = self.open.swap_remove(&conn) {
                    for id in self.limits(open.queue, open.host) {
                        self.held[id] -= 1;
                    }
                    if !open.used {
                        self.demands(at_us, open.queue, (0, 1));
                    }
                }
            }
        }
        Ok(())
    }

    fn name(&self, queue: usize) -> String {
        let of = &self.run.queues[queue];
        format!("b{} to d{}", of.binding, of.domain)
    }

    fn limits(&self, queue: usize, host: usize) -> Vec<usize> {
        let of = &self.run.queues[queue];
        let both = of.open.iter().chain(&of.hosts[host].open);
        both.copied().collect()
    }

    /// One connection more.
    fn takes(&mut self, at_us: u64, queue: usize, host: usize) -> Result<(), String> {
        for id in self.limits(queue, host) {
            self.held[id] += 1;
            let object = &self.run.objects[id];
            let Kind::Open(most) = object.kind else {
                continue;
            };
            self.judged.reached += u64::from(self.held[id] == most);
            if self.held[id] > most {
                return Err(format!(
                    "{}, {most}: {} connections at {}",
                    object.name,
                    self.held[id],
                    seconds(at_us)
                ));
            }
        }
        Ok(())
    }

    fn step(&mut self, at_us: u64, id: Option<usize>, step: Step) {
        if let Some(id) = id {
            self.steps[id].push((at_us, step));
        }
    }

    /// Demand of messages and of connections, under all throttles that the queue may meet.
    fn demands(&mut self, at_us: u64, queue: usize, (messages, connections): (i64, i64)) {
        let of = &self.run.queues[queue];
        let of_hosts = |what: fn(&crate::sim::shaping::model::Host) -> Option<usize>| {
            let mut ids: Vec<usize> = of.hosts.iter().filter_map(what).collect();
            ids.dedup();
            ids
        };
        let mut all = [
            (of_hosts(|it| it.messages), messages),
            (of_hosts(|it| it.connections), connections),
        ];
        all[0].0.extend(of.messages);
        all[1].0.extend(of.connections);
        for (ids, more) in all {
            for id in ids.into_iter().filter(|_| more != 0) {
                self.step(at_us, Some(id), Step::Demand(queue, more));
            }
        }
    }
}

fn seconds(at_us: u64) -> String {
    format!("{:.6} s", at_us as f64 / SECOND as f64)
}

struct Throttle<'a> {
    object: &'a Object,
    rate: tree::Rate,
    steps: &'a [(u64, Step)],
    /// By queue.
    lone: Vec<bool>,
    ended_us: u64,
    stripes: u64,
}

impl Throttle<'_> {
    fn window_us(&self) -> u64 {
        self.rate.window_s * SECOND
    }

    fn starts(&self) -> Vec<u64> {
        let of = |(at_us, step): &(u64, Step)| matches!(step, Step::Start(_)).then_some(*at_us);
        self.steps.iter().filter_map(of).collect()
    }

    /// Queues that are under other throttles too have had mail.
    fn is_beside_others(&self) -> bool {
        let is_other = |step: &Step| matches!(step, Step::Demand(queue, _) if !self.lone[*queue]);
        self.steps.iter().any(|(_, step)| is_other(step))
    }

    fn wrong<T>(&self, what: &str) -> Result<T, String> {
        let (name, rate) = (&self.object.name, self.rate);
        Err(format!("{name}, {}/{}: {what}", rate.count, rate.window_s))
    }

    /// Never more than N in any W. Tells how many windows were full.
    fn windows_are_kept(&self, late_us: u64) -> Result<u64, String> {
        let (starts, count) = (self.starts(), self.rate.count as usize);
        for (first, last) in starts.iter().zip(starts.iter().skip(count)) {
            if last + late_us < first + self.window_us() {
                let within = seconds(last - first);
                return self.wrong(&format!(
                    "one more than that within {within}, at {}",
                    seconds(*last)
                ));
            }
        }
        Ok(starts.len().saturating_sub(count) as u64)
    }

    /// While there is demand the place in the order of starts says when it is at the latest. Tells
    /// how many windows had demand from beginning to end.
    fn is_used(&self) -> Result<u64, String> {
        let (mut demand, mut lone) = (vec![0_i64; self.lone.len()], 0);
        let (mut since, mut windows, mut beside) = (None, 0, false);
        for (at_us, step) in self.steps {
            let Step::Demand(queue, more) = *step else {
                continue;
            };
            // What waits under others as well may have been there before.
            beside |= !self.lone[queue];
            let before = demand[queue];
            demand[queue] += more;
            if self.lone[queue] {
                lone += i64::from(demand[queue] > 0) - i64::from(before > 0);
            }
            match (since, lone > 0) {
                (None, true) => since = Some(*at_us),
                (Some(from_us), false) => {
                    windows += self.is_used_between(from_us, *at_us, beside)?;
                    since = None;
                }
                _ => {}
            }
        }
        if let Some(from_us) = since {
            windows += self.is_used_between(from_us, self.ended_us, beside)?;
        }
        Ok(windows)
    }

    fn is_used_between(&self, from_us: u64, to_us: u64, beside: bool) -> Result<u64, String> {
        let least = if beside {
            USED_BESIDE_OTHERS_MIN
        } else {
            USED_MIN
        };
        let (starts, window_us) = (self.starts(), self.window_us());
        let first = starts.partition_point(|it| *it < from_us);
        let from_us = match starts.get(first) {
            Some(at_us) if *at_us <= to_us => *at_us,
            _ => return Ok(0),
        };
        let earlier = starts.partition_point(|it| it + window_us <= from_us);
        let lost_us = if beside { window_us } else { 0 };
        let slack_us = CONNECTING_US + START_US * self.rate.count + lost_us;
        for index in first.. {
            let windows = (index - earlier) as u64 / self.rate.count;
            let latest_us = from_us + windows * window_us * 100 / least + slack_us;
            let at_us = starts.get(index).copied().unwrap_or(u64::MAX);
            if at_us.min(to_us) > latest_us {
                return self.wrong(&format!(
                    "with demand from {} to {} start {} is not there at {}",
                    seconds(from_us),
                    seconds(to_us),
                    index - first,
                    seconds(latest_us)
                ));
            }
            if at_us > to_us {
                break;
            }
        }
        Ok((to_us - from_us) / window_us)
    }

    /// Who waits is served within ceil(waiting / N) + 1 windows, and the time to connect.
    fn is_fair(&self) -> Result<u64, String> {
        let mut demand = vec![0_i64; self.lone.len()];
        // For each queue that waits: since when, and with how many at most.
        let mut waits: Vec<Option<(u64, u64)>> = vec![None; self.lone.len()];
        let mut served = 0;
        let end = (self.ended_us, None);
        let steps = self.steps.iter().map(|(at_us, step)| (*at_us, Some(*step)));
        for (at_us, step) in steps.chain([end]) {
            match step {
                Some(Step::Demand(queue, more)) => {
                    demand[queue] += more;
                    match (demand[queue] > 0, waits[queue]) {
                        (true, None) => waits[queue] = Some((at_us, 0)),
                        (false, _) => waits[queue] = None,
                        _ => {}
                    }
                    let waiting = demand.iter().filter(|it| **it > 0).count() as u64;
                    for (_, most) in waits.iter_mut().flatten() {
                        *most = waiting.max(*most);
                    }
                }
                Some(Step::Start(queue)) => {
                    self.has_come(at_us, queue, waits[queue])?;
                    served += u64::from(waits[queue].is_some() && self.lone[queue]);
                    waits[queue] = waits[queue].map(|_| (at_us, 0));
                    let waiting = demand.iter().filter(|it| **it > 0).count() as u64;
                    waits[queue] = waits[queue].map(|(since, _)| (since, waiting));
                }
                None => {
                    for (queue, wait) in waits.iter().enumerate() {
                        self.has_come(at_us, queue, *wait)?;
                    }
                }
            }
        }
        Ok(served)
    }

    fn has_come(&self, at_us: u64, queue: usize, wait: Option<(u64, u64)>) -> Result<(), String> {
        let Some((since_us, waiting)) = wait.filter(|_| self.lone[queue]) else {
            return Ok(());
        };
        let windows = (waiting * self.stripes).div_ceil(self.rate.count) + 1;
        let beside = match self.is_beside_others() {
            true => WINDOWS_BESIDE_OTHERS,
            false => 1,
        };
        let latest_us = since_us + beside * windows * self.window_us() + CONNECTING_US;
        match at_us <= latest_us {
            true => Ok(()),
            false => self.wrong(&format!(
                "queue {queue} waits from {} to {}, beside at most {waiting} in all",
                seconds(since_us),
                seconds(at_us)
            )),
        }
    }
}
