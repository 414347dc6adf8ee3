//! What became of one attempt to deliver one recipient. An outcome is what the home makes durable,
//! what the event log tells, and what a queue decides on.

use core::net::IpAddr;
use std::sync::Arc;

use crate::base::time::Wall;
use crate::types::id::MessageId;
use crate::types::reply::Enhanced;
use crate::types::reply::Reply;

/// How far a session had come when the answer was given or the connection was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Stage {
    Dns,
    Connect,
    Banner,
    Ehlo,
    MailFrom,
    RcptTo,
    Data,
    /// The final reply, to the dot or the last BDAT.
    Final,
    /// Not on the wire at all: expiry, policy, an operator.
    Internal,
}

impl Stage {
    pub const ALL: [Stage; 9] = [
        Stage::Dns,
        Stage::Connect,
        Stage::Banner,
        Stage::Ehlo,
        Stage::MailFrom,
        Stage::RcptTo,
        Stage::Data,
        Stage::Final,
        Stage::Internal,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Dns => "dns",
            Stage::Connect => "connect",
            Stage::Banner => "banner",
            Stage::Ehlo => "ehlo",
            Stage::MailFrom => "mailfrom",
            Stage::RcptTo => "rcptto",
            Stage::Data => "data",
            Stage::Final => "final",
            Stage::Internal => "internal",
        }
    }
}

/// The other end of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    pub host: Box<str>,
    pub ip: IpAddr,
    /// The source address that the connection really used.
    pub local: Option<IpAddr>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutcomeKind {
    /// Terminal: the host took it.
    Delivered,
    /// Tried in vain, to be tried again at `due`.
    Delayed { due: Wall },
    /// No attempt: an operator has given it to the binding `to`. `due` as it was.
    Rebound { due: Wall, to: Arc<str> },
    /// Terminal: refused for good.
    Bounced,
    /// Terminal: its time or its retries were up.
    Expired,
    /// Terminal: taken out by an operator or a blackhole.
    Discarded,
}

impl OutcomeKind {
    pub fn is_terminal(&self) -> bool {
        !matches!(
            self,
            OutcomeKind::Delayed { .. } | OutcomeKind::Rebound { .. }
        )
    }
}

/// The enhanced code of a delay that an operator has ordered: no attempt was made.
pub const OPERATOR_DELAY: Enhanced = Enhanced(4, 7, 0);

impl Outcome {
    /// It tells of no attempt: an operator has put the message off.
    pub fn is_put_off(&self) -> bool {
        let delayed = matches!(self.kind, OutcomeKind::Delayed { .. });
        delayed && self.stage == Stage::Internal && self.reply.enhanced == Some(OPERATOR_DELAY)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub message: MessageId,
    pub kind: OutcomeKind,
    /// Failed attempts including this one, if it failed.
    pub attempts: u16,
    pub at: Wall,
    pub reply: Reply,
    pub stage: Stage,
    pub remote: Option<Remote>,
    /// The final reply of this attempt was lost after the whole message had been sent, so that the
    /// host may have it; or, for a delivery, a run that ended without notice may have made it
    /// before.
    pub possible_duplicate: bool,
}
