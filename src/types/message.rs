//! A message on its way: what all its recipients share, and what each has of its own.

use core::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::time::Wall;
use crate::types::address::Address;
use crate::types::flow::Flow;
use crate::types::id::{BatchId, ShardId};
use crate::types::sender::Sender;

/// Where a message came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    pub peer: IpAddr,
    /// What the client called itself in EHLO or HELO, as it was written.
    pub helo: Box<str>,
    /// `esmtp`, `smtp`, later `rest`.
    pub method: Method,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Esmtp,
    Smtp,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Esmtp => "esmtp",
            Method::Smtp => "smtp",
        }
    }
}

/// Bytes kept of each header field that events quote.
pub const HEADER_FACT_BYTES_MAX: usize = 256;

/// What all recipients of a transaction share. Made once, never changed, read by any shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Content {
    pub batch: BatchId,
    pub received: Wall,
    pub origin: Origin,
    /// Nothing is the null reverse-path `<>`.
    pub sender: Option<Address>,
    /// The body holds bytes above 127: a host without 8BITMIME cannot take it as it is.
    pub eight_bit: bool,
    /// The transaction needs SMTPUTF8 on the way out too (RFC 6531 3.6).
    pub smtputf8: bool,
    /// Value of the header field `Subject`, raw, cut; for events.
    pub subject: Box<str>,
    /// Value of the header field `From`, raw, cut; for events.
    pub friendly_from: Box<str>,
    /// Nothing is the default class without tenant and campaign.
    pub flow: Option<Arc<Flow>>,
    /// Header section and body with CRLF line ends, without transparency dots, the trace field of
    /// this hop first. Ends in CRLF unless a BDAT transaction did not.
    pub body: Bytes,
}

impl Content {
    /// Empty for the null reverse-path.
    pub fn sender_text(&self) -> &str {
        self.sender.as_ref().map_or("", Address::as_str)
    }
}

/// One recipient as accepted, with the binding that policy chose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipient {
    pub address: Address,
    pub binding: Arc<str>,
}

/// How far a recipient has come; kept durable by its home.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Failed attempts so far.
    pub attempts: u16,
    /// Not to be tried before this time; zero means at once.
    pub due: Wall,
}

/// What a recipient takes along from one queue to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moved {
    /// When it was received on the monotonic clock, microseconds: it keeps its age whatever the
    /// wall clock does.
    pub born_us: i64,
    /// The last order that has rebound it, or none: it meets only later ones where it comes to.
    pub order: u64,
}

/// One recipient handed from its home to the owner of its queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    pub batch: BatchId,
    pub recipient: u16,
    pub home: ShardId,
    pub address: Address,
    pub binding: Arc<str>,
    pub received: Wall,
    pub size: u32,
    /// See [`Content::flow`].
    pub flow: Option<Arc<Flow>>,
    pub sender: Sender,
    pub progress: Progress,
    /// Of one that comes from another queue of this process.
    pub moved: Option<Moved>,
    /// It may have been on the wire when the last run ended without saying so: if it is delivered,
    /// that is a possible duplicate.
    pub in_doubt: bool,
}
