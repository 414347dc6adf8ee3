//! What becomes of a recipient: the one place where an answer, the passing of time or a lost body
//! turns into an outcome.

use core::time::Duration;
use std::sync::Arc;

use crate::base::slab::Key;
use crate::base::time::Mono;
use crate::base::units;
use crate::deliver::classify::{Verdict, verdict};
use crate::engine::Turn;
use crate::engine::io::{Level, Settled};
use crate::engine::owner::{OpenJob, Owner};
use crate::queue::{Batch, Ending, EntryId, Failed, GiveUp, QueueId, State};
use crate::shape::Heed;
use crate::types::address::Address;
use crate::types::id::{MessageId, ShardId};
use crate::types::message::Content;
use crate::types::outcome::{Outcome, OutcomeKind, Remote, Stage};
use crate::types::reply::{Enhanced, Reply};

/// Permanent failures that the operator's log names in so much time. There may be thousands in a
/// second: the others are counted, and the event log has them all.
const FAILURES_NAMED_MAX: u32 = 5;
const FAILURES_WINDOW: Duration = Duration::from_secs(10);

/// What of the present window has been told.
#[derive(Default)]
pub(super) struct FailuresTold {
    until: Mono,
    named: u32,
    counted: u64,
}

impl FailuresTold {
    /// When there is something left to tell.
    pub fn due(&self) -> Option<Mono> {
        (self.counted > 0).then_some(self.until)
    }
}

/// One answer for one recipient.
pub(super) struct Answered {
    pub stage: Stage,
    pub reply: Reply,
    pub possible_duplicate: bool,
    /// When began what is answered.
    pub begun: Mono,
    /// The connection that the answer came over.
    pub key: Option<Key>,
}

impl Owner {
    /// Takes an answer for an entry in flight. Names the message if the answer was no success.
    pub(super) fn answered(
        &mut self,
        turn: &mut Turn<'_>,
        queue: QueueId,
        entry: EntryId,
        (recipient, content): (Address, Option<Arc<Content>>),
        remote: Option<Remote>,
        mut answer: Answered,
    ) -> Option<MessageId> {
        if self.waits_instead(turn, (queue, entry), remote.as_ref(), &mut answer) {
            return self.queues.entry(entry).map(|it| it.message());
        }
        let view = self.queues.entry(entry)?;
        let (message, home) = (view.message(), view.home());
        let (received, size, in_doubt) = (view.received(), view.size(), view.in_doubt());
        let again = in_doubt && verdict(answer.stage, &answer.reply) == Verdict::Delivered;
        let possible_duplicate = answer.possible_duplicate || again;
        let counters = &mut turn.common.stats.counters;
        counters.possible_duplicates += u64::from(possible_duplicate);
        let mut reply = answer.reply;
        let mut stage = answer.stage;
        let (kind, attempts) = match verdict(stage, &reply) {
            Verdict::Delivered => {
                counters.messages_delivered += 1;
                counters.bytes_delivered += u64::from(size);
                turn.common
                    .stats
                    .delivery_latency
                    .record(turn.now.wall.since(received));
                let finished = self.queues.finish(turn.now, entry, Ending::Delivered)?;
                (OutcomeKind::Delivered, finished.attempts)
            }
            Verdict::Permanent => {
                counters.messages_bounced += 1;
                let finished = self.queues.finish(turn.now, entry, Ending::Failed)?;
                (OutcomeKind::Bounced, finished.attempts.saturating_add(1))
            }
            _ if self.comes_back_condemned(turn.now, entry) => return Some(message),
            Verdict::Retry | Verdict::NextHost => match self.queues.fail(turn.now, entry)? {
                Failed::Delayed { due, attempts } => {
                    counters.messages_delayed += 1;
                    (OutcomeKind::Delayed { due }, attempts)
                }
                Failed::GivenUp { why, attempts } => {
                    counters.messages_expired += 1;
                    reply = given_up(why, &reply);
                    stage = Stage::Internal;
                    self.queues.finish(turn.now, entry, Ending::Failed);
                    (OutcomeKind::Expired, attempts)
                }
            },
        };
        let failed = kind != OutcomeKind::Delivered;
        if kind.is_terminal() && failed {
            self.tell_failure(turn, message, &recipient, &reply);
        }
        let at = turn.now.wall;
        let outcome = Outcome {
            message,
            kind,
            attempts,
            at,
            reply,
            stage,
            remote,
            possible_duplicate,
        };
        self.settle((queue, home), outcome, recipient, content);
        failed.then_some(message)
    }

    /// Lets adaptive delivery hear an answer, which may come to mean something else. True if the
    /// entry has been given back, since the answer was not about it.
    fn waits_instead(
        &mut self,
        turn: &mut Turn<'_>,
        (queue, entry): (QueueId, EntryId),
        remote: Option<&Remote>,
        answer: &mut Answered,
    ) -> bool {
        self.queues
            .note_reply(turn.now, queue, (&answer.reply, answer.stage), 1);
        match self.hears(turn, queue, remote.map(|it| &*it.host), answer) {
            Heed::AsItIs => return false,
            Heed::As(reply) => answer.reply = reply,
            Heed::Wait => self.queues.give_back(turn.now, &[entry]),
        }
        self.queues
            .entry(entry)
            .is_some_and(|it| it.state() == State::Active)
    }

    /// Until there are bounce messages, the log is where a permanent failure is seen.
    fn tell_failure(
        &mut self,
        turn: &mut Turn<'_>,
        message: MessageId,
        recipient: &Address,
        reply: &Reply,
    ) {
        self.tell_failures_left(turn);
        let told = &mut self.failures_told;
        if turn.now.mono >= told.until {
            told.until = turn.now.mono + FAILURES_WINDOW;
            told.named = 0;
        }
        if told.named == FAILURES_NAMED_MAX {
            told.counted += 1;
            return;
        }
        told.named += 1;
        let text = format!("message {message} to {recipient} has failed for good: {reply}");
        turn.notice(Level::Warn, text);
    }

    /// The end of a window in which not all failures were named.
    pub(super) fn tell_failures_left(&mut self, turn: &mut Turn<'_>) {
        let told = &mut self.failures_told;
        if told.counted == 0 || turn.now.mono < told.until {
            return;
        }
        let more = units::counted(core::mem::take(&mut told.counted), "more message");
        let text = format!(
            "{more} failed for good within {} s of those named; the event log has them all",
            FAILURES_WINDOW.as_secs()
        );
        turn.notice(Level::Warn, text);
    }

    pub(super) fn settle(
        &mut self,
        (queue, home): (QueueId, ShardId),
        outcome: Outcome,
        recipient: Address,
        content: Option<Arc<Content>>,
    ) {
        let binding = match self.links.get(&queue) {
            Some(link) => link.binding.clone(),
            None => "".into(),
        };
        self.settled.push(Settled {
            home,
            outcome,
            recipient,
            binding,
            content,
            onward: None,
        });
    }

    /// Ends an entry without an attempt, in whatever state it is.
    pub(super) fn end(
        &mut self,
        turn: &mut Turn<'_>,
        entry: EntryId,
        kind: OutcomeKind,
        reply: Reply,
    ) {
        let Some(view) = self.queues.entry(entry) else {
            return;
        };
        let (message, queue) = (view.message(), view.queue());
        let (recipient, content) = (view.address(), view.content().cloned());
        let Some(finished) = self.queues.finish(turn.now, entry, Ending::Failed) else {
            return;
        };
        let counters = &mut turn.common.stats.counters;
        match kind {
            OutcomeKind::Expired => counters.messages_expired += 1,
            OutcomeKind::Discarded => counters.messages_discarded += 1,
            _ => counters.messages_bounced += 1,
        }
        if kind != OutcomeKind::Discarded {
            self.tell_failure(turn, message, &recipient, &reply);
        }
        let outcome = Outcome {
            message,
            kind,
            attempts: finished.attempts,
            at: turn.now.wall,
            reply,
            stage: Stage::Internal,
            remote: None,
            possible_duplicate: false,
        };
        self.settle((queue, finished.home), outcome, recipient, content);
    }

    /// The time of a message is up.
    pub(super) fn expired(&mut self, turn: &mut Turn<'_>, entry: EntryId) {
        let Some(view) = self.queues.entry(entry) else {
            return;
        };
        let queue = view.queue();
        let text = match view.attempts() {
            0 => Reply::internal(
                554,
                Enhanced(5, 4, 5),
                "Delivery not attempted (message expired)",
            ),
            _ => given_up(GiveUp::Expired, &Reply::remote(0, None, "")),
        };
        // What it has no use for any more others may be waiting for.
        self.mark(queue);
        self.end(turn, entry, OutcomeKind::Expired, text);
    }

    /// All recipients of a batch meet the same end.
    pub(super) fn end_batch(
        &mut self,
        turn: &mut Turn<'_>,
        batch: Batch,
        kind: OutcomeKind,
        reply: &Reply,
    ) {
        for (entry, _) in batch.recipients {
            self.end(turn, entry, kind.clone(), reply.clone());
        }
    }

    /// The disk does not give a message now. Its recipients have had an attempt that failed, and
    /// come to their next one, or to their end, as after any other.
    pub(super) fn not_read_now(&mut self, turn: &mut Turn<'_>, queue: QueueId, job: OpenJob) {
        let text = "the message cannot be read from the spool now";
        for (entry, address) in job.recipients {
            let answer = Answered {
                stage: Stage::Internal,
                reply: Reply::internal(451, Enhanced(4, 3, 0), text),
                possible_duplicate: false,
                begun: turn.now.mono,
                key: None,
            };
            self.answered(turn, queue, entry, (address, None), None, answer);
        }
    }

    /// The record of a message cannot be read: its recipients cannot be served, and saying so is
    /// better than trying for ever.
    pub(super) fn unreadable(&mut self, turn: &mut Turn<'_>, job: OpenJob) {
        let text = "the message is damaged on disk and cannot be read";
        for (entry, _) in job.recipients {
            let reply = Reply::internal(554, Enhanced(5, 3, 0), text);
            self.end(turn, entry, OutcomeKind::Bounced, reply);
        }
    }
}

fn given_up(why: GiveUp, last: &Reply) -> Reply {
    let text = match why {
        GiveUp::Expired => "exceeded max time without delivery",
        GiveUp::MaxRetries => "exceeded max retries without delivery",
    };
    let text = match last.code {
        0 => text.to_string(),
        _ => format!("{text}; last: {last}"),
    };
    Reply::internal(554, Enhanced(5, 4, 7), &text)
}
