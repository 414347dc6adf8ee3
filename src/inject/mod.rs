//! L3: mail coming in. The server side of SMTP as a machine that is fed bytes, time and verdicts,
//! and gives replies, questions and whole messages. Nothing here knows of sockets, policy, spool
//! or config; the engine stands between.

mod held;
pub mod session;

use core::net::SocketAddr;
use core::time::Duration;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::time::Wall;
use crate::log::Durable;
use crate::proto::smtp::data::DataLimits;
use crate::proto::smtp::flow_fields::FlowFields;
use crate::proto::smtp::header;
use crate::types::address::Address;
use crate::types::flow::Flow;
use crate::types::id::BatchId;
use crate::types::id::RECIPIENTS_MAX;
use crate::types::message::Content;
use crate::types::message::Origin;
use crate::types::replies::{self, Canned};

pub use crate::inject::session::Session;

/// Messages of one session that may wait for their commit at once; the next command waits.
pub const UNRESOLVED_MAX: usize = 32;

/// Bytes of such messages; reached by one large message too, which then waits alone.
pub const UNRESOLVED_BYTES_MAX: usize = 8 << 20;

/// Replies that may wait to be sent, or behind a message that waits for its commit. A client that
/// sends commands and reads no replies is not read from beyond this.
pub const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Recipients over the limit that get their 452 without counting as errors: a client that sends
/// its whole list at once has done nothing wrong (RFC 5321 4.5.3.1.10).
pub const RECIPIENTS_OVERSHOOT_MAX: u32 = 1_000;

/// Rejections kept until somebody takes them; those beyond are only counted.
pub const REJECTIONS_MAX: usize = 32;

/// A command line is read this many times longer than allowed, to find its end and answer it,
/// before the connection is given up.
pub const COMMAND_OVERSIZE_FACTOR: usize = 16;

/// Bytes reserved for a message when its SIZE was declared, at most: the word of a client is not
/// worth more memory than this.
pub const BODY_RESERVE_BYTES_MAX: u64 = 1 << 20;

/// What a listener allows a session. Plain numbers, checked by whoever read them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The name in the banner and in the trace field.
    pub host: Box<str>,
    /// Announced with SIZE, and kept.
    pub message_bytes_max: u64,
    pub header_bytes_max: u64,
    /// A line of content, without its line end. RFC 5321 4.5.3.1.6 asks for 998, mail has more.
    pub line_bytes_max: u64,
    pub received_fields_max: u32,
    /// Per transaction, 1 to [`RECIPIENTS_MAX`].
    pub recipients_max: u32,
    /// A command line with its line end. RFC 5321 4.5.3.1.4 asks for 512 and more for extensions.
    pub command_bytes_max: usize,
    /// Faults of the client; the one over it ends the connection. A message taken in resets it.
    pub errors_max: u32,
    /// RSET, NOOP, HELP, VRFY and repeated EHLO since the last message; the one over it ends the
    /// connection.
    pub idle_commands_max: u32,
    /// Messages per connection, `max_receptions_per_connection`; 0 is no limit.
    pub receptions_max: u32,
    /// Recipients asked for on one connection, `max_recipients_per_connection`.
    pub connection_recipients_max: u32,
    /// From one reply to the end of the next command.
    pub command_timeout: Duration,
    /// From one piece of content to the next.
    pub data_timeout: Duration,
    /// Without a byte between commands, `idle_time`; with 0 the command timeout counts there too.
    pub idle_time: Duration,
    /// Average of a message's content once the grace is over, bytes per second; 0 is no limit.
    pub rate_min: u64,
    pub rate_grace: Duration,
    /// Looked for in the mail of sessions that are told to; see [`Session::heed_flow_fields`].
    pub flow_fields: Rc<FlowFields>,
}

impl Settings {
    /// Asserts what config must have checked.
    fn assert_valid(&self) {
        assert!(
            (1..=RECIPIENTS_MAX as u32).contains(&self.recipients_max),
            "recipients_max"
        );
        assert!(self.command_bytes_max >= 512, "RFC 5321 4.5.3.1.4");
        assert!(!self.host.is_empty(), "a listener has a name");
    }

    /// What is said to a connection that has had its messages or its recipients.
    fn spent(&self, receptions: u32, recipients: u32) -> Option<&'static Canned> {
        match () {
            () if self.receptions_max > 0 && receptions >= self.receptions_max => {
                Some(&replies::TOO_MANY_RECEPTIONS)
            }
            () if recipients >= self.connection_recipients_max => {
                Some(&replies::TOO_MANY_RECIPIENTS_HERE)
            }
            () => None,
        }
    }

    fn data_limits(&self) -> DataLimits {
        DataLimits {
            message_bytes_max: self.message_bytes_max,
            header_bytes_max: self.header_bytes_max,
            line_bytes_max: self.line_bytes_max,
            received_fields_max: self.received_fields_max,
        }
    }
}

/// What is known of a connection before its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// What to do next; see [`Session::receive`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Step {
    /// All input was used. Send the output, then read more.
    Read,
    /// Put [`Session::question`] to policy, then call [`Session::answer`].
    Ask,
    /// Store the message; call [`Session::resolve`] when that has succeeded or failed, no matter
    /// how many steps later, or never if the connection is lost first.
    Submit(Box<Submission>),
    /// No further input can be taken. Send the output; if there was none, wait for the next
    /// [`Session::resolve`].
    Wait,
    /// Send the output, then close the connection.
    Close,
}

/// What a session asks, in the order of the policy phases. `Connect` is asked before there is a
/// session, and answered with [`Session::open`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question<'a> {
    Ehlo {
        name: &'a str,
    },
    MailFrom {
        /// Nothing is the null reverse-path.
        sender: Option<&'a Address>,
        /// Declared with SIZE.
        size: Option<u64>,
    },
    RcptTo {
        sender: Option<&'a Address>,
        recipient: &'a Address,
    },
    /// Asked when content is about to come: at DATA or at the first BDAT.
    Data {
        sender: Option<&'a Address>,
        recipients: &'a [AcceptedRecipient],
        /// Declared with SIZE.
        size: Option<u64>,
    },
}

/// The answer to a [`Question`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Connect, Ehlo, MailFrom: go on.
    Continue,
    /// RcptTo: accepted; the tag comes back with the recipient.
    Recipient { tag: u32 },
    /// Data: accepted under this name.
    Batch(BatchId),
    /// Any phase. A 421 ends the connection.
    Refuse(&'static Canned),
}

/// Names a submission within its session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u32);

/// A recipient that policy let pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcceptedRecipient {
    pub address: Address,
    pub tag: u32,
}

/// A whole message that the client waits to be told about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submission {
    pub ticket: Ticket,
    pub batch: BatchId,
    /// When the last byte had come in.
    pub received: Wall,
    pub origin: Origin,
    /// Nothing is the null reverse-path.
    pub sender: Option<Address>,
    /// One or more.
    pub recipients: Vec<AcceptedRecipient>,
    pub eight_bit: bool,
    pub smtputf8: bool,
    pub subject: Box<str>,
    pub friendly_from: Box<str>,
    /// What the message calls its class, tenant and campaign; empty ones it does not.
    pub flow: [Box<str>; 3],
    /// The trace field, then the content.
    pub body: Vec<u8>,
    /// Length of the trace field.
    pub trace_bytes: usize,
}

impl Submission {
    /// Divides into what all recipients share and the recipients.
    pub fn into_content(
        mut self,
        flow: Option<Arc<Flow>>,
    ) -> (Arc<Content>, Vec<AcceptedRecipient>) {
        header::divide(&mut self.body, self.trace_bytes);
        let content = Content {
            batch: self.batch,
            received: self.received,
            origin: self.origin,
            sender: self.sender,
            eight_bit: self.eight_bit,
            smtputf8: self.smtputf8,
            subject: self.subject,
            friendly_from: self.friendly_from,
            flow,
            body: Bytes::from(self.body),
        };
        (Arc::new(content), self.recipients)
    }
}

/// A refusal (4xx or 5xx) that the client was told, whoever decided it; for the record of
/// rejections. What [`Session::resolve`] refuses is not among them: its caller knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    pub reply: &'static Canned,
    /// Of the transaction going on, if there is one.
    pub sender: Option<Address>,
    /// The recipient that policy refused.
    pub recipient: Option<Address>,
    /// Recipients accepted so far in the transaction.
    pub recipients: u32,
}

/// What became of a submission.
#[derive(Clone, Copy)]
pub enum Resolution<'a> {
    /// Stored as safely as the operator asked for; the proof is only looked at, not kept.
    Stored(&'a Durable),
    /// Not stored, and not going to be.
    Refused(&'static Canned),
}
