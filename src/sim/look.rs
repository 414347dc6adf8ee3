//! Looks at the engines from outside: limits, bounds, what is told to operators, and whether all
//! that came in is out or still there.

use crate::engine::Engine;
use crate::engine::io::Input;
use crate::engine::io::Side;
use crate::engine::io::ToShard;
use crate::engine::query::Answer;
use crate::engine::query::GroupBy;
use crate::engine::query::Query;
use crate::engine::query::TraceTarget;
use crate::engine::stats::ShardStats;
use crate::sim::counts::Check;
use crate::sim::mail;
use crate::sim::net::Stage;
use crate::sim::peers::Peer;
use crate::sim::planted::Planted;
use crate::sim::world::World;
use crate::types::filter::Filter;
use crate::types::flow::CLASS_TRANSACTIONAL;
use crate::types::id::ShardId;
use core::time::Duration;

/// `share` of a class that does not set it.
const SHARE_DEFAULT: u32 = 10;

/// What is due is done a little later.
const GIVING_SLACK: Duration = Duration::from_millis(500);

/// Segments beyond `segments_max` that outcomes, moves and preparation may take.
const SEGMENTS_SLACK: u64 = 6;

impl World {
    /// Now and then everything is looked at.
    pub fn look(&mut self) {
        let is_up = self
            .process
            .as_ref()
            .is_some_and(|it| !it.draining && it.engines.len() == it.cells.len());
        if is_up {
            let stats = self.all_stats();
            self.check_conservation(&stats);
            for one in &stats {
                self.check_bounds(one);
            }
            self.check_turns();
            if self.streams.life.chance(1, 4) {
                self.ask();
            }
        }
        self.check_progress(is_up);
    }

    /// The first class goes before what others are owed, one batch of each; the others have their
    /// share of what is served, give or take a batch of each.
    fn check_turns(&mut self) {
        let Some(process) = &self.process else {
            return;
        };
        let recipients = mail::RECIPIENTS_MAX as u32;
        for engine in &process.engines {
            for (class, passed) in engine.owner().passed_over() {
                let share = match class {
                    CLASS_TRANSACTIONAL => None,
                    mail::CLASS_OWN => Some(mail::SHARE_OWN),
                    _ => Some(SHARE_DEFAULT),
                };
                let bound = match share {
                    None => 2 * recipients + 2,
                    Some(share) => (100 + 400 * recipients) / share,
                };
                self.ledger.check(Check::Turns, passed <= bound, || {
                    format!("class {class} waited while {passed} went before, {bound} may")
                });
            }
        }
    }

    fn all_stats(&self) -> Vec<ShardStats> {
        let now = self.now();
        let Some(process) = &self.process else {
            return Vec::new();
        };
        process.engines.iter().map(|it| it.stats(now)).collect()
    }

    fn check_conservation(&mut self, stats: &[ShardStats]) {
        let under_way = self
            .process
            .as_ref()
            .map_or(0, |process| process.arrivals_under_way);
        let mut all = ShardStats::default();
        for one in stats {
            all.merge(one);
        }
        let (counters, gauges) = (&all.counters, &all.gauges);
        let came = counters.messages_injected + counters.messages_recovered;
        let went = counters.messages_delivered
            + counters.messages_bounced
            + counters.messages_expired
            + counters.messages_discarded;
        let queued = gauges.queue_active + gauges.queue_delayed + gauges.queue_in_flight;
        self.ledger.check(
            Check::Conservation,
            came == went + queued + under_way,
            || format!("{came} came, {went} went, {queued} are queued, {under_way} on their way"),
        );
    }

    /// Every place under a limit is somewhere, whoever waits for one will hear of it, and so will
    /// he of whom one is asked, who gives it up in time, whatever his host does. Nobody has more
    /// than he may, and what is more than all may have together is asked for.
    pub fn check_waits(&mut self) {
        let Some(process) = self.process.as_ref().filter(|it| !it.draining) else {
            return;
        };
        let engines = &process.engines;
        let mut found = None;
        let now = self.now().mono;
        for (shard, engine) in engines.iter().enumerate() {
            let (owner, shard) = (engine.owner(), ShardId(shard as u8));
            let kept = owner.keeps_too_long(shard, now, GIVING_SLACK);
            // He may have just been asked under another limit, and not have heard of it.
            let kept = kept.filter(|(who, _)| !process.is_told(*who, true));
            found = found.or(kept.map(|(_, text)| text));
            found = found.or_else(|| owner.has_surplus());
        }
        for cells in process.cells_once() {
            for limit in cells.limits.all() {
                found = found.or_else(|| limit.fault());
                let waiting = limit.waiting();
                let handed = waiting.iter().filter(|(.., handed)| *handed).count();
                let held: usize = engines
                    .iter()
                    .map(|it| it.owner().places_under(&limit))
                    .sum();
                let used = limit.used() as usize;
                if used != handed + held && self.planted != Some(Planted::PrivateLimits) {
                    let text = format!("{used} used, {handed} handed over, {held} held");
                    found = found.or(Some(format!("{}: {text}", limit.name())));
                }
                for (_, who, handed) in waiting {
                    let engine = engines.get(usize::from(who.shard));
                    let owner = engine.map(Engine::owner);
                    let stands = owner.is_some_and(|it| it.stands_in_line(who.queue, &limit));
                    if !stands || handed && !process.is_told(who, false) {
                        let text = format!("{who:?} waits and does not hear of a place");
                        found = found.or(Some(format!("{}: {text}", limit.name())));
                    }
                }
                for who in limit.asked() {
                    let engine = engines.get(usize::from(who.shard));
                    let knows = engine.is_some_and(|it| it.owner().knows_of_being_asked(who.queue));
                    if !knows && !process.is_told(who, true) {
                        let text = format!("{who:?} does not hear that others wait");
                        found = found.or(Some(format!("{}: {text}", limit.name())));
                    }
                }
            }
        }
        self.ledger
            .check(Check::Waits, found.is_none(), || found.unwrap_or_default());
    }

    fn check_bounds(&mut self, stats: &ShardStats) {
        let scenario = &self.scenario;
        let shards = self.process.as_ref().map_or(1, |it| it.shards()) as u64;
        let resident_max = scenario.limits.resident_messages.div_ceil(shards);
        // Every failure costs a segment, and a shard may inherit from others that run no more.
        let inherits = scenario.shards_vary && self.starts > 1;
        let segments_max = match inherits || self.ledger.lives.any_trouble() {
            true => u64::MAX,
            false => u64::from(scenario.segments_max) + SEGMENTS_SLACK,
        };
        let gauges = &stats.gauges;
        let bounds = [
            // A body in flight is held by its session in any case.
            (
                "bodies in memory",
                gauges.resident_messages,
                resident_max + gauges.queue_in_flight,
            ),
            ("segments", gauges.spool_segments, segments_max),
            ("event backlog", gauges.event_log_backlog_bytes, 5 << 20),
        ];
        for (what, is, most) in bounds {
            self.ledger.check(Check::Bounds, is <= most, || {
                format!("shard {}: {is} {what}, {most} is the bound", stats.shard)
            });
        }
    }

    /// An operator asks a shard.
    fn ask(&mut self) {
        let shards = self.process.as_ref().map_or(1, |it| it.shards()) as u64;
        let shard = self.streams.life.below(shards) as usize;
        let limit = 10_000;
        let filter = Filter::default();
        let query = match self.streams.life.below(5) {
            0 => Query::Status,
            1 => match GroupBy::ALL
                .get(self.process.as_ref().map_or(0, |it| it.asked as usize) % 10)
            {
                Some(by) => Query::Groups {
                    by: *by,
                    filter,
                    cursor: 0,
                },
                None => Query::Queues { filter, limit },
            },
            2 => Query::Messages {
                filter,
                cursor: None,
                limit,
            },
            3 => {
                let count = self.domains.len() as u64;
                let domain = self.streams.life.below(count) as usize;
                Query::Why {
                    domain: self.domains[domain].name.clone(),
                    binding: None,
                }
            }
            _ => {
                let count = self.ledger.messages.len() as u64;
                let message = self.streams.life.below(count) as usize;
                let batch = self.ledger.messages[message].batch.unwrap_or_default();
                Query::Trace {
                    target: TraceTarget::Batch(batch.to_string()),
                }
            }
        };
        let id = match &mut self.process {
            Some(process) => {
                process.asked += 1;
                process.asked
            }
            None => return,
        };
        let message = ToShard::Ask { id, query };
        self.handle(shard, Input::Control(message));
    }

    /// What is told agrees with what is counted.
    pub fn check_answer(&mut self, shard: usize, answer: &Answer) {
        let stats = self.all_stats();
        let Some(stats) = stats.get(shard) else {
            return;
        };
        let gauges = &stats.gauges;
        let queued = gauges.queue_active + gauges.queue_delayed + gauges.queue_in_flight;
        let (what, told, is) = match answer {
            Answer::Status(told) => {
                let gauges = &told.gauges;
                let told = gauges.queue_active + gauges.queue_delayed + gauges.queue_in_flight;
                ("status", told, queued)
            }
            Answer::Queues(queues) => {
                let told = queues
                    .iter()
                    .map(|it| it.active + it.delayed + it.in_flight);
                ("queues", told.sum(), queued)
            }
            Answer::Groups { groups, .. } => {
                let told = groups.iter().map(|it| it.messages).sum();
                // What is not counted by queues is counted until its end is on disk.
                let by_queues = groups.iter().all(|it| it.queues.is_some());
                let told: u64 = if by_queues { told } else { queued.min(told) };
                ("groups", told, queued)
            }
            Answer::Messages { messages, next } => {
                let told = messages.len() as u64 + u64::from(next.is_some());
                ("messages", told, queued)
            }
            Answer::Why(queues) => {
                self.why = queues.iter().map(|it| it.sentence.clone()).collect();
                let told = queues.iter().filter(|it| !it.sentence.is_empty());
                ("why", told.count() as u64, queues.len() as u64)
            }
            Answer::Learnt(pairs) => {
                let told = pairs.iter().filter(|it| !it.domain.is_empty());
                ("learnt", told.count() as u64, pairs.len() as u64)
            }
            Answer::Relearnt(_) => ("relearnt", 0, 0),
            Answer::Preview { found, .. } => ("preview", found.messages, queued),
            Answer::Trace(messages) => {
                let told = messages.iter().filter(|it| !it.sentence.is_empty());
                ("trace", told.count() as u64, messages.len() as u64)
            }
        };
        self.ledger.check(Check::Answers, told == is, || {
            format!("shard {shard}: {what} tells {told}, there are {is}")
        });
    }

    /// After the calm everything must come to its end in time.
    fn check_progress(&mut self, is_up: bool) {
        let calm_us = self.scenario.calm_us;
        if !self.switches.calm || self.ending || !is_up {
            return;
        }
        let is_through = self.work.is_empty()
            && self.ledger.open == 0
            && self.clients.iter().all(|client| client.is_quiet())
            && self.is_past_happenings()
            && self.has_recovered();
        let late = self.now_us > calm_us + self.scenario.drain_us();
        let (open, work) = (self.ledger.open, self.work.len());
        let first = match late {
            true => self.why_open(),
            false => String::new(),
        };
        self.ledger.check(Check::Drained, !late || is_through, || {
            format!(
                "{open} recipients have no outcome ({first}), {work} messages are not \
                     handed over"
            )
        });
        if is_through {
            self.check_idle();
            self.ending = true;
            self.shut_down();
        }
    }

    /// What the engines say about the first recipient that has no outcome.
    fn why_open(&mut self) -> String {
        let Some(who) = self.ledger.first_open() else {
            return "none".to_string();
        };
        let address = self.ledger.messages[who.message].recipients[who.recipient]
            .address
            .clone();
        let domain = address.rsplit('@').next().unwrap_or("").to_string();
        let mut said = format!("{address} is one");
        let shards = self.process.as_ref().map_or(0, |it| it.shards());
        self.why.clear();
        for shard in 0..shards {
            let query = Query::Why {
                domain: domain.clone(),
                binding: None,
            };
            let message = ToShard::Ask { id: 0, query };
            self.handle(shard, Input::Control(message));
            for sentence in core::mem::take(&mut self.why) {
                said.push_str(&format!("; shard {shard}: {sentence}"));
            }
        }
        said
    }

    fn is_past_happenings(&self) -> bool {
        let last = self.scenario.happenings.iter().map(|(at_us, _)| *at_us);
        self.now_us > last.max().unwrap_or(0)
    }

    /// What earlier starts have left is in the queues.
    fn has_recovered(&self) -> bool {
        let Some(process) = &self.process else {
            return false;
        };
        process.homes_open == 0 && process.engines.iter().all(Engine::has_recovered)
    }

    /// Nothing is left in queues and spools that are through.
    fn check_idle(&mut self) {
        for one in self.all_stats() {
            let gauges = &one.gauges;
            let queued = gauges.queue_active + gauges.queue_delayed + gauges.queue_in_flight;
            self.ledger.check(Check::Drained, queued == 0, || {
                format!("shard {}: {queued} entries without a recipient", one.shard)
            });
        }
    }

    /// Events and counters tell the same story, where no process was killed between them.
    pub fn check_fold(&mut self) {
        let counters = self.past.counters.clone();
        if self.ledger.lives.any_killed() || counters.events_lost > 0 {
            return;
        }
        let events = self.ledger.events;
        let mut pairs = vec![
            ("injected", events.injections, counters.messages_injected),
            ("delivered", events.deliveries, counters.messages_delivered),
            ("bounced", events.bounces, counters.messages_bounced),
            ("expired", events.expirations, counters.messages_expired),
        ];
        if !self.ledger.lives.any_trouble() {
            pairs.push(("delayed", events.delays, counters.messages_delayed));
        }
        for (what, told, counted) in pairs {
            self.ledger.check(Check::EventsFold, told == counted, || {
                format!("{told} events of {what}, {counted} counted")
            });
        }
    }

    /// A new connection to a host, beside all that are there.
    pub fn check_outgoing(&mut self, number: usize, host: usize) {
        let out = |world: &World, of: Option<usize>| {
            let ends = world.ends.iter().flatten();
            let counted = ends.filter(|end| {
                let to = match &end.peer {
                    Peer::Host { host, .. } => Some(*host),
                    Peer::Client(_) => None,
                };
                to.is_some() && (of.is_none() || to == of) && end.conn.stage != Stage::Gone
            });
            counted.count() as u64
        };
        let all = out(self, None);
        let limits = &self.scenario.limits;
        let most = limits.outgoing + limits.reserve;
        self.ledger.check(Check::OutgoingLimit, all <= most, || {
            format!("conn {number}: {all} connections go out, {most} are the limit")
        });
        self.check_shared(number, all);
        // The first host is limited by its address, whatever its name.
        if host == 0 {
            let there = out(self, Some(0));
            let most = self.scenario.limits.per_host[0];
            self.ledger.check(Check::HostLimit, there <= most, || {
                format!("conn {number}: {there} connections to a host, {most} are its limit")
            });
        }
    }

    /// Limits that queues share: of all hosts, and of the first binding.
    fn check_shared(&mut self, number: usize, all: u64) {
        let first = self.scenario.bindings[0].address;
        let from_first = self.ends.iter().flatten().filter(|end| {
            let source = match &end.peer {
                Peer::Host { source, .. } => Some(*source),
                Peer::Client(_) => None,
            };
            source == Some(first) && end.conn.stage != Stage::Gone
        });
        let from_first = from_first.count() as u64;
        let limits = &self.scenario.limits;
        let bounds = [
            ("to hosts", all, limits.of_hosts),
            ("of a binding", from_first, limits.of_binding),
        ];
        for (what, is, most) in bounds {
            let kept = most.is_none_or(|most| is <= most);
            self.ledger.check(Check::SharedLimit, kept, || {
                format!("conn {number}: {is} connections {what}, {most:?} is the limit")
            });
        }
    }

    /// The domain of a connection has become known.
    pub fn check_queue_limit(&mut self, number: usize) {
        let of = |world: &World, at: usize| {
            let end = world.ends.get(at)?.as_deref()?;
            match &end.peer {
                Peer::Host {
                    session: Some(session),
                    ..
                } => Some((session.domain?, session.source())),
                _ => None,
            }
        };
        let mine = of(self, number);
        // One that has passed to another queue still counts here for the domain before.
        if mine.is_none() || self.scenario.limits.migrates {
            return;
        }
        let domain = mine.map(|(domain, _)| domain);
        if let Some(most) = self.scenario.limits.of_domain
            && domain.is_some_and(|it| it + 1 == self.domains.len())
        {
            let all = 0..self.ends.len();
            let there = all.filter(|at| of(self, *at).map(|(it, _)| it) == domain);
            let there = there.count() as u64;
            self.ledger.check(Check::SharedLimit, there <= most, || {
                format!("conn {number}: {there} connections to a domain, {most} is the limit")
            });
        }
        let same = (0..self.ends.len()).filter(|at| of(self, *at) == mine);
        let (count, most) = (same.count() as u64, self.scenario.limits.per_queue);
        self.ledger.check(Check::QueueLimit, count <= most, || {
            format!("conn {number}: {count} connections of a queue, {most} are its limit")
        });
    }

    /// A client has been greeted: one more session.
    pub fn admitted(&mut self, number: usize) {
        if let Some(end) = self.ends[number].as_deref_mut() {
            end.admitted = true;
        }
        let peer_of = |end: &crate::sim::world::End| match &end.peer {
            Peer::Client(client) => Some(client % 3),
            Peer::Host { .. } => None,
        };
        let mine = self.ends[number].as_deref().and_then(peer_of);
        let sessions: Vec<Option<usize>> = self
            .ends
            .iter()
            .flatten()
            .filter(|end| end.admitted && end.conn.id.side == Side::In)
            .map(|end| peer_of(end))
            .collect();
        let limits = &self.scenario.limits;
        let of_peer = sessions.iter().filter(|peer| **peer == mine).count() as u64;
        let all = sessions.len() as u64;
        let bounds = [
            (all, limits.sessions.min(limits.sessions_per_listen)),
            (of_peer, limits.sessions_per_peer),
        ];
        for (is, most) in bounds {
            self.ledger.check(Check::SessionLimit, is <= most, || {
                format!("conn {number}: {is} sessions, {most} are the limit")
            });
        }
    }
}
