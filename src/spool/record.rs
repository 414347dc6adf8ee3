//! The records of the spool, as payloads of log frames. Everything is length-prefixed, so no
//! content can be taken for structure; decoding is total: bytes are a record or they are not.
//!
//! Numbers are little-endian; `str` is 2 bytes length and UTF-8; `ip` is 1 byte 0 (none), 4 or 6
//! and the address. Every record begins with its version (1) and its event number.
//!
//! ```text
//! Message  u8 version, u64 event, u64 known (the last event whose outcome the states below
//!          include), u64 batch, u64 received us, u32 body bytes, u8 flags
//!          (1 eight-bit, 2 SMTPUTF8, 4 sender present, 8 plain SMTP, 16 moved by
//!          compaction, 32 flow present), ip peer, str helo,
//!          str sender (if present), str subject, str friendly from,
//!          str class, str tenant, str campaign (if the flow is present; none: the default
//!          class, no tenant and no campaign, as records written before there were flows),
//!          u16 bindings, str each; u16 recipients, each: u8 state (0 open, 1 settled, 2 tried),
//!          u16 attempts and u64 due us (if tried), u16 binding, str address
//! Body     the bytes of the body, in the frame right after its message
//! Outcome  u8 version, u64 event, u64 batch, u16 recipient, u8 kind (0 delivered, 1 delayed,
//!          2 bounced, 3 expired, 4 discarded, 5 rebound), u64 due us (if delayed or rebound),
//!          str binding (if rebound: its from now on), u16 attempts, u64 at us,
//!          u16 code, u8 flags (1 enhanced code present, 2 internal, 4 possible duplicate,
//!          8 remote present), u8 u16 u16 enhanced (if present), str text, u8 stage,
//!          str host, ip remote, ip local (if remote present)
//! Mark     u8 version, u64 event: everything up to it is durable in the event log
//! ```

use core::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::time::Wall;
use crate::types::address::Address;
use crate::types::flow::FlowNames;
use crate::types::id::BatchId;
use crate::types::id::MessageId;
use crate::types::id::RECIPIENTS_MAX;
use crate::types::message::Content;
use crate::types::message::Method;
use crate::types::message::Origin;
use crate::types::message::Progress;
use crate::types::message::Recipient;
use crate::types::outcome::Outcome;
use crate::types::outcome::OutcomeKind;
use crate::types::outcome::Remote;
use crate::types::outcome::Stage;
use crate::types::reply::Enhanced;
use crate::types::reply::REPLY_TEXT_BYTES_MAX;
use crate::types::reply::Reply;

use super::store::EventSeq;

pub(super) const KIND_MESSAGE: u8 = 1;
pub(super) const KIND_BODY: u8 = 2;
pub(super) const KIND_OUTCOME: u8 = 3;
pub(super) const KIND_EVENT_MARK: u8 = 4;

/// Recipients one record can have.
pub const RECORD_RECIPIENTS_MAX: usize = RECIPIENTS_MAX;
const RECORD_VERSION: u8 = 1;
const FLAG_SENDER: u8 = 4;
const FLAG_FLOW: u8 = 32;
const _: () = assert!(
    RECORD_RECIPIENTS_MAX <= u16::MAX as usize,
    "their count is two bytes"
);

/// How far one recipient has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Open(Progress),
    Settled,
}

impl State {
    pub const NEW: State = State::Open(Progress {
        attempts: 0,
        due: Wall(0),
    });
}

/// About the record itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Written {
    /// Of the reception.
    pub event: EventSeq,
    /// The last event whose outcome the states include.
    pub known: EventSeq,
    /// A copy made by compaction; the original counts until this one is durable.
    pub moved: bool,
}

pub(super) fn encode_message(
    out: &mut Vec<u8>,
    written: Written,
    content: &Content,
    recipients: &[Recipient],
    state: &dyn Fn(usize) -> State,
) {
    out.clear();
    out.push(RECORD_VERSION);
    out.extend_from_slice(&written.event.0.to_le_bytes());
    out.extend_from_slice(&written.known.0.to_le_bytes());
    out.extend_from_slice(&content.batch.0.to_le_bytes());
    out.extend_from_slice(&content.received.0.to_le_bytes());
    out.extend_from_slice(&(content.body.len() as u32).to_le_bytes());
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(
        flag(content.eight_bit, 1)
            | flag(content.smtputf8, 2)
            | flag(content.sender.is_some(), FLAG_SENDER)
            | flag(content.origin.method == Method::Smtp, 8)
            | flag(written.moved, 16)
            | flag(content.flow.is_some(), FLAG_FLOW),
    );
    put_ip(out, Some(content.origin.peer));
    put_str(out, &content.origin.helo);
    if let Some(sender) = &content.sender {
        put_str(out, sender.as_str());
    }
    put_str(out, &content.subject);
    put_str(out, &content.friendly_from);
    if let Some(flow) = &content.flow {
        let names = flow.names();
        for name in [names.class, names.tenant, names.campaign] {
            put_str(out, name);
        }
    }
    put_recipients(out, recipients, state);
}

fn put_recipients(out: &mut Vec<u8>, recipients: &[Recipient], state: &dyn Fn(usize) -> State) {
    let mut bindings: Vec<&Arc<str>> = Vec::with_capacity(1);
    let mut numbers = Vec::with_capacity(recipients.len());
    for recipient in recipients {
        // A batch uses few bindings, one per domain at most: looking along the list is cheap, and
        // neighbours mostly share one.
        let known = bindings.iter().rposition(|it| *it == &recipient.binding);
        let number = known.unwrap_or_else(|| {
            bindings.push(&recipient.binding);
            bindings.len() - 1
        });
        numbers.push(number as u16);
    }
    out.extend_from_slice(&(bindings.len() as u16).to_le_bytes());
    for binding in bindings {
        put_str(out, binding);
    }
    out.extend_from_slice(&(recipients.len() as u16).to_le_bytes());
    for (index, recipient) in recipients.iter().enumerate() {
        match state(index) {
            State::Settled => out.push(1),
            State::Open(progress) if progress == Progress::default() => out.push(0),
            State::Open(progress) => {
                out.push(2);
                out.extend_from_slice(&progress.attempts.to_le_bytes());
                out.extend_from_slice(&progress.due.0.to_le_bytes());
            }
        }
        out.extend_from_slice(&numbers[index].to_le_bytes());
        put_str(out, recipient.address.as_str());
    }
}

pub(super) fn encode_outcome(out: &mut Vec<u8>, event: EventSeq, outcome: &Outcome) {
    out.clear();
    out.push(RECORD_VERSION);
    out.extend_from_slice(&event.0.to_le_bytes());
    out.extend_from_slice(&outcome.message.batch.0.to_le_bytes());
    out.extend_from_slice(&outcome.message.recipient.to_le_bytes());
    match outcome.kind {
        OutcomeKind::Delivered => out.push(0),
        OutcomeKind::Delayed { due } => {
            out.push(1);
            out.extend_from_slice(&due.0.to_le_bytes());
        }
        OutcomeKind::Bounced => out.push(2),
        OutcomeKind::Expired => out.push(3),
        OutcomeKind::Discarded => out.push(4),
        OutcomeKind::Rebound { due, ref to } => {
            out.push(5);
            out.extend_from_slice(&due.0.to_le_bytes());
            put_str(out, to);
        }
    }
    out.extend_from_slice(&outcome.attempts.to_le_bytes());
    out.extend_from_slice(&outcome.at.0.to_le_bytes());
    let reply = &outcome.reply;
    out.extend_from_slice(&reply.code.to_le_bytes());
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(
        flag(reply.enhanced.is_some(), 1)
            | flag(reply.internal, 2)
            | flag(outcome.possible_duplicate, 4)
            | flag(outcome.remote.is_some(), 8),
    );
    if let Some(Enhanced(class, subject, detail)) = reply.enhanced {
        out.push(class);
        out.extend_from_slice(&subject.to_le_bytes());
        out.extend_from_slice(&detail.to_le_bytes());
    }
    put_str(out, &reply.text);
    let stage = Stage::ALL.iter().position(|it| *it == outcome.stage);
    out.push(stage.unwrap_or(Stage::ALL.len() - 1) as u8);
    if let Some(remote) = &outcome.remote {
        put_str(out, &remote.host);
        put_ip(out, Some(remote.ip));
        put_ip(out, remote.local);
    }
}

/// How far an outcome brings its recipient.
pub(super) fn state_after(outcome: &Outcome) -> State {
    match outcome.kind {
        OutcomeKind::Delayed { due } | OutcomeKind::Rebound { due, .. } => State::Open(Progress {
            attempts: outcome.attempts,
            due,
        }),
        _ => State::Settled,
    }
}

pub(super) fn encode_event_mark(upto: EventSeq) -> [u8; 9] {
    let mut payload = [RECORD_VERSION; 9];
    payload[1..].copy_from_slice(&upto.0.to_le_bytes());
    payload
}

/// A message without its body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub event: EventSeq,
    pub body_bytes: u32,
    /// With an empty body.
    pub content: Content,
    pub recipients: Vec<(Recipient, State)>,
}

/// The parts of a message record that recovery needs of every message.
pub(super) struct MessageHead {
    pub event: EventSeq,
    pub known: EventSeq,
    pub batch: BatchId,
    pub received: Wall,
    pub body_bytes: u32,
    pub moved: bool,
    flags: u8,
}

pub(super) fn decode_message_head(payload: &[u8]) -> Option<MessageHead> {
    read_head(&mut Reader { rest: payload })
}

fn read_head(reader: &mut Reader<'_>) -> Option<MessageHead> {
    reader.version()?;
    let event = EventSeq(reader.u64()?);
    let known = EventSeq(reader.u64()?);
    let batch = BatchId(reader.u64()?);
    let received = Wall(reader.u64()?);
    let body_bytes = reader.u32()?;
    let flags = reader.u8()?;
    let moved = flags & 16 != 0;
    Some(MessageHead {
        event,
        known,
        batch,
        received,
        body_bytes,
        moved,
        flags,
    })
}

impl MessageHead {
    pub fn has_flow(&self) -> bool {
        self.flags & FLAG_FLOW != 0
    }
}

/// Interns the names of bindings while records are read.
pub(super) type Intern<'a> = &'a mut dyn FnMut(&str) -> Arc<str>;

pub(super) fn decode_message(payload: &[u8], intern: Intern<'_>) -> Option<Message> {
    let mut reader = Reader { rest: payload };
    let head = read_head(&mut reader)?;
    let flags = head.flags;
    let peer = reader.ip()??;
    let helo = reader.str()?.into();
    let sender = match flags & FLAG_SENDER {
        0 => None,
        _ => Some(Address::parse(reader.str()?)?),
    };
    let method = if flags & 8 == 0 {
        Method::Esmtp
    } else {
        Method::Smtp
    };
    let content = Content {
        batch: head.batch,
        received: head.received,
        origin: Origin { peer, helo, method },
        sender,
        eight_bit: flags & 1 != 0,
        smtputf8: flags & 2 != 0,
        subject: reader.str()?.into(),
        friendly_from: reader.str()?.into(),
        flow: read_flow(&mut reader, flags)?.flow(),
        body: Bytes::new(),
    };
    let recipients = read_recipients(&mut reader, intern)?;
    let (event, body_bytes) = (head.event, head.body_bytes);
    reader.finish(Message {
        event,
        body_bytes,
        content,
        recipients,
    })
}

/// Only the recipients of a message record.
pub(super) fn decode_recipients(
    payload: &[u8],
    intern: Intern<'_>,
) -> Option<Vec<(Recipient, State)>> {
    let mut reader = Reader { rest: payload };
    let flags = read_head(&mut reader)?.flags;
    reader.ip()?;
    for _ in 0..strings_before_flow(flags) {
        reader.str()?;
    }
    read_flow(&mut reader, flags)?;
    let recipients = read_recipients(&mut reader, intern)?;
    reader.finish(recipients)
}

/// The sender of a message record; empty for the null reverse-path.
pub(super) fn decode_sender(payload: &[u8]) -> Option<&str> {
    let mut reader = Reader { rest: payload };
    let flags = read_head(&mut reader)?.flags;
    reader.ip()?;
    reader.str()?;
    match flags & FLAG_SENDER {
        0 => Some(""),
        _ => reader.str(),
    }
}

/// The flow of a message record, as it stands there.
pub(super) fn decode_flow(payload: &[u8]) -> Option<FlowNames<'_>> {
    let mut reader = Reader { rest: payload };
    let flags = read_head(&mut reader)?.flags;
    reader.ip()?;
    for _ in 0..strings_before_flow(flags) {
        reader.str()?;
    }
    read_flow(&mut reader, flags)
}

fn strings_before_flow(flags: u8) -> usize {
    if flags & FLAG_SENDER == 0 { 3 } else { 4 }
}

fn read_flow<'a>(reader: &mut Reader<'a>, flags: u8) -> Option<FlowNames<'a>> {
    if flags & FLAG_FLOW == 0 {
        return Some(FlowNames::default());
    }
    Some(FlowNames {
        class: reader.str()?,
        tenant: reader.str()?,
        campaign: reader.str()?,
    })
}

fn read_recipients(reader: &mut Reader<'_>, intern: Intern<'_>) -> Option<Vec<(Recipient, State)>> {
    let count = usize::from(reader.u16()?);
    let mut bindings = Vec::with_capacity(count.min(reader.rest.len()));
    for _ in 0..count {
        bindings.push(intern(reader.str()?));
    }
    let count = usize::from(reader.u16()?);
    // Sizes come from the bytes at hand, so that a wrong count cannot ask for memory.
    let mut recipients = Vec::with_capacity(count.min(reader.rest.len()));
    for _ in 0..count {
        let state = match reader.u8()? {
            0 => State::NEW,
            1 => State::Settled,
            2 => {
                let attempts = reader.u16()?;
                State::Open(Progress {
                    attempts,
                    due: Wall(reader.u64()?),
                })
            }
            _ => return None,
        };
        let binding = bindings.get(usize::from(reader.u16()?))?.clone();
        let address = Address::parse(reader.str()?)?;
        recipients.push((Recipient { address, binding }, state));
    }
    if recipients.is_empty() {
        None
    } else {
        Some(recipients)
    }
}

/// The parts of an outcome record that the home needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OutcomeHead {
    pub event: EventSeq,
    pub message: MessageId,
    pub state: State,
}

pub(super) fn decode_outcome_head(payload: &[u8]) -> Option<OutcomeHead> {
    let mut reader = Reader { rest: payload };
    let (event, message, kind) = read_outcome_head(&mut reader)?;
    let attempts = reader.u16()?;
    let state = match kind {
        OutcomeKind::Delayed { due } | OutcomeKind::Rebound { due, .. } => {
            State::Open(Progress { attempts, due })
        }
        _ => State::Settled,
    };
    Some(OutcomeHead {
        event,
        message,
        state,
    })
}

/// The binding that an outcome gives its recipient to, if it is one that does.
pub(super) fn decode_rebound(payload: &[u8]) -> Option<Arc<str>> {
    match read_outcome_head(&mut Reader { rest: payload })?.2 {
        OutcomeKind::Rebound { to, .. } => Some(to),
        _ => None,
    }
}

fn read_outcome_head(reader: &mut Reader<'_>) -> Option<(EventSeq, MessageId, OutcomeKind)> {
    reader.version()?;
    let event = EventSeq(reader.u64()?);
    let message = MessageId {
        batch: BatchId(reader.u64()?),
        recipient: reader.u16()?,
    };
    let kind = match reader.u8()? {
        0 => OutcomeKind::Delivered,
        1 => OutcomeKind::Delayed {
            due: Wall(reader.u64()?),
        },
        2 => OutcomeKind::Bounced,
        3 => OutcomeKind::Expired,
        4 => OutcomeKind::Discarded,
        5 => OutcomeKind::Rebound {
            due: Wall(reader.u64()?),
            to: reader.str()?.into(),
        },
        _ => return None,
    };
    Some((event, message, kind))
}

pub(super) fn decode_outcome(payload: &[u8]) -> Option<Outcome> {
    let mut reader = Reader { rest: payload };
    let (_, message, kind) = read_outcome_head(&mut reader)?;
    let attempts = reader.u16()?;
    let at = Wall(reader.u64()?);
    let code = reader.u16()?;
    let flags = reader.u8()?;
    let enhanced = match flags & 1 {
        0 => None,
        _ => Some(Enhanced(reader.u8()?, reader.u16()?, reader.u16()?)),
    };
    let text = reader.str()?;
    if text.len() > REPLY_TEXT_BYTES_MAX || text.chars().any(char::is_control) {
        return None;
    }
    let reply = Reply {
        code,
        enhanced,
        text: text.into(),
        internal: flags & 2 != 0,
    };
    let stage = *Stage::ALL.get(usize::from(reader.u8()?))?;
    let remote = match flags & 8 {
        0 => None,
        _ => {
            let host = reader.str()?.into();
            Some(Remote {
                host,
                ip: reader.ip()??,
                local: reader.ip()?,
            })
        }
    };
    let possible_duplicate = flags & 4 != 0;
    reader.finish(Outcome {
        message,
        kind,
        attempts,
        at,
        reply,
        stage,
        remote,
        possible_duplicate,
    })
}

pub(super) fn decode_event_mark(payload: &[u8]) -> Option<EventSeq> {
    let mut reader = Reader { rest: payload };
    reader.version()?;
    let upto = EventSeq(reader.u64()?);
    reader.finish(upto)
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    // All strings of mail have far smaller bounds; what is longer all the same is cut at a
    // character, never in its length.
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&(end as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

fn put_ip(out: &mut Vec<u8>, ip: Option<IpAddr>) {
    match ip {
        None => out.push(0),
        Some(IpAddr::V4(ip)) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        Some(IpAddr::V6(ip)) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn version(&mut self) -> Option<()> {
        (self.u8()? == RECORD_VERSION).then_some(())
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    fn str(&mut self) -> Option<&'a str> {
        let bytes = usize::from(self.u16()?);
        core::str::from_utf8(self.take(bytes)?).ok()
    }

    /// Outer: whether the bytes are right. Inner: whether there is an address.
    fn ip(&mut self) -> Option<Option<IpAddr>> {
        match self.u8()? {
            0 => Some(None),
            4 => Some(Some(IpAddr::from(self.array::<4>()?))),
            6 => Some(Some(IpAddr::from(self.array::<16>()?))),
            _ => None,
        }
    }

    /// The record, if nothing is left over.
    fn finish<T>(&self, record: T) -> Option<T> {
        self.rest.is_empty().then_some(record)
    }
}
