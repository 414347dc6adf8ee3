//! Answers to an operator's questions.

use crate::base::time::Now;
use crate::engine::Engine;
use crate::engine::Turn;
use crate::engine::io::Outbox;
use crate::engine::owner::Owner;
use crate::engine::owner::warmup::EVERY_DOMAIN;
use crate::engine::query::{Answer, MESSAGES_LISTED_MAX, QUEUES_LISTED_MAX, Query};
use crate::engine::stats::ShardStats;

impl Engine {
    pub(super) fn answer(&mut self, now: Now, query: &Query, out: &mut Outbox) -> Answer {
        if let Query::Learnt { binding, domain } = query {
            let turn = &mut Turn {
                now,
                out,
                common: &mut self.common,
            };
            let (binding, domain) = (binding.as_deref(), domain.as_deref());
            let mut pairs = match domain {
                None | Some(EVERY_DOMAIN) => self.owner.list_warmups(turn, binding),
                Some(_) => Vec::new(),
            };
            pairs.extend(self.owner.list_learnt(now, binding, domain));
            return Answer::Learnt(pairs);
        }
        if let Query::Relearn {
            binding,
            domain,
            act,
        } = query
        {
            let turn = &mut Turn {
                now,
                out,
                common: &mut self.common,
            };
            let of = (binding.as_deref(), domain.as_deref());
            return Answer::Relearnt(self.owner.act_on_learnt(turn, of, act));
        }
        let (owner, common) = (&self.owner, &self.common);
        match query {
            Query::Status => Answer::Status(Box::new(self.stats(now))),
            Query::Queues { filter, limit } => {
                let limit = (*limit).min(QUEUES_LISTED_MAX);
                Answer::Queues(owner.list_queues(now, common, filter, limit))
            }
            Query::Groups { by, filter, cursor } => {
                let (groups, next) = owner.list_groups(now, *by, filter, *cursor);
                let shard = common.shard.0;
                Answer::Groups {
                    shard,
                    groups,
                    next,
                }
            }
            Query::Messages {
                filter,
                cursor,
                limit,
            } => {
                let page = (cursor.unwrap_or(0), (*limit).min(MESSAGES_LISTED_MAX));
                let (messages, next) = owner.list_messages(now, common, filter, page);
                Answer::Messages { messages, next }
            }
            Query::Why { domain, binding } => {
                Answer::Why(owner.why(now, common, domain, binding.as_deref()))
            }
            Query::Preview { filter, cursor } => {
                let (found, next) = owner.preview(now, filter, *cursor);
                let shard = common.shard.0;
                Answer::Preview { shard, found, next }
            }
            // Done before.
            Query::Learnt { .. } => Answer::Learnt(Vec::new()),
            Query::Relearn { .. } => Answer::Relearnt(Ok(0)),
            Query::Trace { target } => Answer::Trace(owner.trace(now, common, target)),
        }
    }

    /// Everything this shard counts, and how it stands.
    pub fn stats(&self, now: Now) -> ShardStats {
        let mut stats = self.common.stats.clone();
        let spool = self.home.spool().stats();
        let hose = self.home.hose().stats();
        let counters = &mut stats.counters;
        counters.spool_commits = spool.log.commits;
        counters.spool_commit_bytes = spool.log.commit_bytes;
        counters.compacted_messages = spool.moved_messages;
        counters.events_written = hose.events_written;
        counters.events_lost = hose.events_lost;
        counters.event_log_failures = hose.failures;
        let gauges = &mut stats.gauges;
        self.owner.gauges(now, gauges);
        gauges.queue_returning = self.home.returning_left() as u64;
        gauges.sessions_in = self.reception.sessions() as u64;
        gauges.spool_messages = spool.messages;
        gauges.spool_segments = spool.segments_used + spool.segments_free;
        gauges.spool_bytes = spool.used_bytes;
        gauges.spool_live_bytes = spool.live_bytes;
        gauges.event_log_bytes = hose.file_bytes;
        gauges.event_log_backlog_bytes = hose.backlog_bytes;
        gauges.event_log_failing = hose.failing;
        gauges.commits_pending = self.home.commits_pending();
        gauges.config_generation = self.common.generation.number;
        gauges.spool_stopped = self.home.is_stopped();
        gauges.admission_closed = self.closed_because();
        stats
    }

    /// The half of it that connects.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    fn closed_because(&self) -> String {
        if self.common.draining {
            return "shutting down".to_string();
        }
        if self.common.memory_is_short() {
            return "memory is above memory_hwm".to_string();
        }
        if self.common.is_out_of_space() {
            return "free disk space is below min_free_space".to_string();
        }
        self.home
            .refusal()
            .map_or(String::new(), |refused| refused.to_string())
    }
}
