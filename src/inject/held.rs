//! Replies in the order of their commands (RFC 2920 3.2). The reply to a message comes when its
//! commit does; what later pipelined commands earned meanwhile stands behind it and leaves with it,
//! in one piece.

use std::collections::VecDeque;

use crate::inject::Ticket;
use crate::types::id::BatchId;
use crate::types::replies;
use crate::types::replies::Canned;

/// What the commands of the next message earn together.
const AFTER_BYTES_USUAL: usize = 128;

/// A reply that is not known yet, and the bytes that follow it.
struct Held {
    ticket: Ticket,
    batch: BatchId,
    message_bytes: usize,
    outcome: Option<Outcome>,
    after: Vec<u8>,
}

#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Stored,
    Refused(&'static Canned),
}

#[derive(Default)]
pub(super) struct Replies {
    ready: Vec<u8>,
    held: VecDeque<Held>,
    message_bytes: usize,
}

impl Replies {
    /// Where the next reply goes.
    pub(super) fn sink(&mut self) -> &mut Vec<u8> {
        match self.held.back_mut() {
            Some(held) => {
                if held.after.capacity() == 0 {
                    held.after.reserve(AFTER_BYTES_USUAL);
                }
                &mut held.after
            }
            None => &mut self.ready,
        }
    }

    /// What may be sent now.
    pub(super) fn ready(&mut self) -> &mut Vec<u8> {
        &mut self.ready
    }

    /// Keeps the place of the reply to a message of `message_bytes`.
    pub(super) fn hold(&mut self, ticket: Ticket, batch: BatchId, message_bytes: usize) {
        self.message_bytes += message_bytes;
        let after = Vec::new();
        self.held.push_back(Held {
            ticket,
            batch,
            message_bytes,
            outcome: None,
            after,
        });
    }

    /// Fills the place, and moves on what is complete. Commits may finish in any order.
    pub(super) fn fill(&mut self, ticket: Ticket, outcome: Outcome) {
        let place = self.held.iter_mut().find(|held| held.ticket == ticket);
        let place = place.expect("a ticket that this session gave, once");
        assert!(place.outcome.is_none(), "a submission is resolved once");
        place.outcome = Some(outcome);
        self.message_bytes -= place.message_bytes;
        while let Some(outcome) = self.held.front().and_then(|held| held.outcome) {
            let Some(held) = self.held.pop_front() else {
                break;
            };
            match outcome {
                Outcome::Stored => replies::write_accepted(&mut self.ready, held.batch),
                Outcome::Refused(canned) => canned.write(&mut self.ready),
            }
            self.ready.extend_from_slice(&held.after);
        }
    }

    /// Places not filled, or filled behind one that is not.
    pub(super) fn held_count(&self) -> usize {
        self.held.len()
    }

    /// Bytes of the messages not resolved.
    pub(super) fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    /// Bytes of replies not taken.
    pub(super) fn reply_bytes(&self) -> usize {
        self.ready.len() + self.held.iter().map(|held| held.after.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_keep_the_order_of_their_commands_whatever_the_order_of_commits() {
        let mut replies = Replies::default();
        replies.sink().extend_from_slice(b"a");
        for ticket in 0..3 {
            replies.hold(Ticket(ticket), BatchId(u64::from(ticket)), 10);
            replies
                .sink()
                .extend_from_slice(format!("<{ticket}>").as_bytes());
        }
        assert_eq!(replies.reply_bytes(), 10);
        replies.fill(Ticket(2), Outcome::Stored);
        assert_eq!(*replies.ready(), b"a");
        assert_eq!((replies.held_count(), replies.message_bytes()), (3, 20));
        replies.fill(Ticket(0), Outcome::Refused(&replies::DISK));
        let refused = String::from_utf8(core::mem::take(replies.ready())).unwrap();
        assert!(
            refused.starts_with("a452 4.3.1 ") && refused.ends_with("\r\n<0>"),
            "{refused}"
        );
        replies.fill(Ticket(1), Outcome::Stored);
        let rest = "250 2.0.0 OK 0000000000001\r\n<1>250 2.0.0 OK 0000000000002\r\n<2>";
        assert_eq!(*replies.ready(), rest.as_bytes());
        assert_eq!((replies.held_count(), replies.message_bytes()), (0, 0));
    }
}
