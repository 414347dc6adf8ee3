//! Makes one answer of the answers of all shards. Pure; the order of the result does not depend on
//! the order in which shards answered.

use crate::engine::query::Answer;
use crate::engine::query::LearntPair;
use crate::engine::query::MessageSummary;
use crate::engine::query::MessageTrace;
use crate::engine::query::QueueDetail;
use crate::engine::query::QueueSummary;
use crate::engine::stats::ShardStats;

use super::protocol::MessagesData;
use super::protocol::QueuesData;

/// The numbers of each shard in the order of their ids, and all together.
pub fn status(answers: Vec<Answer>) -> (ShardStats, Vec<ShardStats>) {
    let of_status = |answer| match answer {
        Answer::Status(stats) => Some(*stats),
        _ => None,
    };
    let mut shards: Vec<ShardStats> = answers.into_iter().filter_map(of_status).collect();
    shards.sort_by_key(|stats| stats.shard);
    let mut total = ShardStats::default();
    for stats in &shards {
        total.merge(stats);
    }
    (total, shards)
}

/// What all shards have learnt, by binding and domain.
pub fn learnt(answers: Vec<Answer>) -> Vec<LearntPair> {
    let of_shard = |answer| match answer {
        Answer::Learnt(pairs) => pairs,
        _ => Vec::new(),
    };
    let mut pairs: Vec<LearntPair> = answers.into_iter().flat_map(of_shard).collect();
    pairs.sort_by(|a, b| (&a.binding, &a.domain).cmp(&(&b.binding, &b.domain)));
    pairs
}

/// How many pairs all shards have changed. One that could not says why.
pub fn relearnt(answers: Vec<Answer>) -> Result<u64, String> {
    let mut pairs = 0;
    for answer in answers {
        if let Answer::Relearnt(changed) = answer {
            pairs += changed?;
        }
    }
    Ok(pairs)
}

/// The largest queues of all shards. The stripes of one pair become one line.
pub fn queues(answers: Vec<Answer>, limit: usize) -> QueuesData {
    let (mut all, mut matching, mut messages) = (Vec::<QueueSummary>::new(), 0u64, 0);
    for answer in answers {
        if let Answer::Queues(found) = answer {
            all.extend(found.largest);
            matching += found.matching;
            messages += found.messages;
        }
    }
    let stripes = all.len();
    all.sort_by(|a, b| pair(a).cmp(&pair(b)).then(a.shard.cmp(&b.shard)));
    all.dedup_by(|stripe, first| {
        let same = pair(stripe) == pair(first);
        if same {
            add_stripe(first, stripe);
        }
        same
    });
    all.sort_by(|a, b| size(b).cmp(&size(a)).then_with(|| pair(a).cmp(&pair(b))));
    let matching = matching.saturating_sub((stripes - all.len()) as u64);
    let more = all.len() > limit;
    all.truncate(limit);
    QueuesData {
        queues: all,
        more,
        matching: Some(matching),
        messages: Some(messages),
        queued_in_all: None,
    }
}

fn pair(queue: &QueueSummary) -> (&str, &str) {
    (&queue.domain, &queue.binding)
}

fn size(queue: &QueueSummary) -> u64 {
    queue.active + queue.delayed + queue.in_flight
}

fn add_stripe(first: &mut QueueSummary, stripe: &mut QueueSummary) {
    first.active += stripe.active;
    first.delayed += stripe.delayed;
    first.in_flight += stripe.in_flight;
    first.connections += stripe.connections;
    first.received_total += stripe.received_total;
    first.delivered_total += stripe.delivered_total;
    first.delayed_total += stripe.delayed_total;
    first.bounced_total += stripe.bounced_total;
    first.oldest_seconds = first.oldest_seconds.max(stripe.oldest_seconds);
    if stripe.cause_seconds > first.cause_seconds {
        first.cause_seconds = stripe.cause_seconds;
        first.cause = core::mem::take(&mut stripe.cause);
        first.until = stripe.until.take();
    }
    let last = |queue: &QueueSummary| queue.last_failure.as_ref().map(|f| f.last_at.clone());
    if last(stripe) > last(first) {
        first.last_failure = stripe.last_failure.take();
    }
}

/// Which shard to ask for messages next, and from where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    pub shard: u8,
    pub within: Option<u64>,
}

impl Cursor {
    /// As printed by [`Cursor::text`]; nothing if it is not.
    pub fn parse(text: &str) -> Option<Cursor> {
        let (shard, within) = text.split_once('.')?;
        let within = match within {
            "" => None,
            number => Some(number.parse().ok()?),
        };
        Some(Cursor {
            shard: shard.parse().ok()?,
            within,
        })
    }

    pub fn text(self) -> String {
        let within = self
            .within
            .map(|number| number.to_string())
            .unwrap_or_default();
        format!("{}.{within}", self.shard)
    }

    /// After this one of `shards`, when the shard has answered `next`.
    pub fn after(self, next: Option<u64>, shards: u64) -> Option<Cursor> {
        match next {
            Some(_) => Some(Cursor {
                within: next,
                ..self
            }),
            None => {
                let shard = self.shard.checked_add(1)?;
                (u64::from(shard) < shards).then_some(Cursor {
                    shard,
                    within: None,
                })
            }
        }
    }
}

/// Adds one shard's messages and tells where that shard goes on.
pub fn add_messages(data: &mut MessagesData, answers: Vec<Answer>) -> Option<u64> {
    let mut further = None;
    for answer in answers {
        if let Answer::Messages { messages, next } = answer {
            data.messages.extend(messages);
            further = further.or(next);
        }
    }
    further
}

/// Queues of a domain, the longest first.
pub fn why(answers: Vec<Answer>) -> Vec<QueueDetail> {
    let of_why = |answer| match answer {
        Answer::Why(queues) => queues,
        _ => Vec::new(),
    };
    let mut all: Vec<QueueDetail> = answers.into_iter().flat_map(of_why).collect();
    all.sort_by(|a, b| {
        let (a, b) = (&a.summary, &b.summary);
        size(b)
            .cmp(&size(a))
            .then_with(|| pair(a).cmp(&pair(b)))
            .then(a.shard.cmp(&b.shard))
    });
    all
}

/// One entry per message although its home and its owner may both know of it.
pub fn trace(answers: Vec<Answer>) -> Vec<MessageTrace> {
    let of_trace = |answer| match answer {
        Answer::Trace(messages) => messages,
        _ => Vec::new(),
    };
    let mut all: Vec<MessageTrace> = answers.into_iter().flat_map(of_trace).collect();
    // The owner knows the state; it says which shard it is in the summary.
    let rank = |trace: &MessageTrace| (trace.message.state.is_empty(), trace.message.shard);
    all.sort_by(|a, b| {
        order(&a.message)
            .cmp(&order(&b.message))
            .then_with(|| rank(a).cmp(&rank(b)))
    });
    all.dedup_by(|other, first| {
        let same = other.message.id == first.message.id;
        if same {
            complete(first, other);
        }
        same
    });
    all
}

/// Recipients in the order of their numbers, not of their digits.
fn order(message: &MessageSummary) -> (&str, u32) {
    let (batch, recipient) = message.id.split_once('-').unwrap_or((&message.id, ""));
    (batch, recipient.parse().unwrap_or(0))
}

fn complete(first: &mut MessageTrace, other: &mut MessageTrace) {
    let fill = |mine: &mut Option<String>, theirs: &mut Option<String>| {
        if mine.is_none() {
            *mine = theirs.take();
        }
    };
    fill(&mut first.sender, &mut other.sender);
    fill(&mut first.subject, &mut other.subject);
    fill(&mut first.received_from, &mut other.received_from);
    fill(&mut first.last_reply, &mut other.last_reply);
    first.transcripts.append(&mut other.transcripts);
    first.transcripts.sort_by(|a, b| a.at.cmp(&b.at));
    first.transcripts.dedup();
    if first.sentence.is_empty() {
        first.sentence = core::mem::take(&mut other.sentence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::query::FoundQueues;

    fn queue(binding: &str, domain: &str, shard: u8, active: u64) -> QueueSummary {
        QueueSummary {
            binding: binding.into(),
            domain: domain.into(),
            shard,
            active,
            oldest_seconds: Some(active),
            cause: format!("cause {shard}"),
            cause_seconds: active,
            ..QueueSummary::default()
        }
    }

    #[test]
    fn queues_are_sorted_by_size_and_stripes_are_one() {
        let found = |largest: Vec<QueueSummary>| {
            Answer::Queues(FoundQueues {
                matching: largest.len() as u64,
                messages: largest.iter().map(|it| it.active).sum(),
                largest,
            })
        };
        let one = found(vec![queue("a", "x", 0, 5), queue("a", "z", 0, 1)]);
        let two = found(vec![queue("b", "x", 1, 5), queue("a", "z", 1, 6)]);
        for answers in [vec![one.clone(), two.clone()], vec![two, one]] {
            let merged = queues(answers, 2);
            let shown: Vec<_> = merged.queues.iter().map(|q| (pair(q), q.active)).collect();
            assert_eq!(shown, [(("z", "a"), 7), (("x", "a"), 5)]);
            assert_eq!(merged.queues[0].cause, "cause 1");
            assert_eq!(merged.queues[0].oldest_seconds, Some(6));
            assert!(merged.more);
            assert_eq!((merged.matching, merged.messages), (Some(3), Some(17)));
        }
    }

    #[test]
    fn a_cursor_visits_every_shard_once() {
        let mut cursor = Cursor::default();
        let mut visited = Vec::new();
        for next in [Some(7), None, None, Some(3), None] {
            visited.push(cursor.text());
            assert_eq!(Cursor::parse(&cursor.text()), Some(cursor));
            match cursor.after(next, 3) {
                Some(next) => cursor = next,
                None => break,
            }
        }
        assert_eq!(visited, ["0.", "0.7", "1.", "2.", "2.3"]);
        assert_eq!(cursor.after(None, 3), None);
        for text in ["", "1", "x.1", "1.x", "256.", "1.-1"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }

    fn known(id: &str, state: &str, subject: Option<&str>) -> MessageTrace {
        MessageTrace {
            message: MessageSummary {
                id: id.into(),
                recipient: String::new(),
                binding: String::new(),
                domain: String::new(),
                shard: 0,
                home: 0,
                state: state.into(),
                size_bytes: 0,
                age_seconds: 0,
                attempts: 0,
                due: None,
                expires: None,
                body_in_memory: false,
                class: "bulk".into(),
                tenant: None,
                campaign: None,
                order: None,
            },
            sender: None,
            subject: subject.map(str::to_owned),
            received_from: None,
            last_reply: None,
            transcripts: Vec::new(),
            sentence: String::new(),
        }
    }

    #[test]
    fn home_and_owner_together_tell_of_one_message() {
        let home = Answer::Trace(vec![known("B-10", "", None), known("B-2", "", Some("hi"))]);
        let owner = Answer::Trace(vec![known("B-2", "delayed", None)]);
        let merged = trace(vec![home, owner]);
        let ids: Vec<_> = merged
            .iter()
            .map(|trace| trace.message.id.as_str())
            .collect();
        assert_eq!(ids, ["B-2", "B-10"]);
        assert_eq!(merged[0].message.state, "delayed");
        assert_eq!(merged[0].subject.as_deref(), Some("hi"));
    }

    #[test]
    fn the_numbers_of_all_shards_add_up() {
        let stats = |shard| {
            let mut stats = ShardStats {
                shard,
                ..ShardStats::default()
            };
            stats.counters.messages_injected = 5;
            Answer::Status(Box::new(stats))
        };
        let (total, shards) = status(vec![stats(1), stats(0)]);
        assert_eq!(total.counters.messages_injected, 10);
        assert_eq!(shards.iter().map(|s| s.shard).collect::<Vec<_>>(), [0, 1]);
    }
}
