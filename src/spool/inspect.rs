//! What a tool reads of a spool that it does not run: envelopes by place, whole messages, the
//! records of one segment with what is wrong among them. Nothing here decides what counts:
//! [`Recovery`](super::Recovery) does, for tools as for a start.

use std::sync::Arc;

use bytes::Bytes;

use crate::log::format;
use crate::log::format::Place;
use crate::log::recover::FrameRef;
use crate::log::recover::Recovered;
use crate::types::id::BatchId;
use crate::types::message::Content;
use crate::types::message::Recipient;
use crate::types::outcome::Outcome;

use super::record;
use super::record::State;
use super::scan;
use super::store;
use super::store::BodyAt;
use super::store::EventSeq;

/// Bytes that say how long the envelope of a record is.
pub const ENVELOPE_HEAD_BYTES: usize = format::FRAME_HEADER_BYTES;

/// A message as its record tells it. How far its recipients have come since, recovery knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The body is empty where only the envelope was read.
    pub content: Content,
    pub body_bytes: u32,
    pub recipients: Vec<Recipient>,
}

fn place(spool_id: u64, at: BodyAt) -> Place {
    Place {
        spool_id,
        segment: at.file.number,
    }
}

/// Bytes of the envelope whose first [`ENVELOPE_HEAD_BYTES`] are given; nothing if they are no
/// record.
pub fn envelope_bytes(spool_id: u64, at: BodyAt, head: &[u8]) -> Option<usize> {
    let header = format::decode_frame_header(place(spool_id, at), at.offset, head)?;
    (header.kind == record::KIND_MESSAGE).then(|| header.frame_bytes())
}

/// The envelope out of at least its own bytes; nothing if they are damaged.
pub fn envelope(spool_id: u64, at: BodyAt, bytes: &[u8]) -> Option<Stored> {
    let place = place(spool_id, at);
    let header = format::decode_frame_header(place, at.offset, bytes)?;
    let payload = format::decode_payload(place, at.offset, &header, bytes)?;
    if header.kind != record::KIND_MESSAGE {
        return None;
    }
    let message = record::decode_message(payload, &mut |name| Arc::from(name))?;
    Some(Stored {
        content: message.content,
        body_bytes: message.body_bytes,
        recipients: message.recipients.into_iter().map(|it| it.0).collect(),
    })
}

/// The message out of all its bytes; nothing if they are damaged.
pub fn message(spool_id: u64, at: BodyAt, bytes: &Bytes) -> Option<Stored> {
    let mut intern = |name: &str| Arc::from(name);
    let place = place(spool_id, at);
    let (message, body) = store::decode_record(place, at.offset, bytes, &mut intern)?;
    let content = Content {
        body: bytes.slice(body),
        ..message.content
    };
    Some(Stored {
        content,
        body_bytes: message.body_bytes,
        recipients: message.recipients.into_iter().map(|it| it.0).collect(),
    })
}

/// A message of a segment, as far as its envelope is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageAt {
    pub batch: BatchId,
    /// Where its record begins, and how long it is with its body.
    pub offset: u32,
    pub bytes: u32,
    /// Recipients that were open when the record was written.
    pub open: Vec<u16>,
}

impl MessageAt {
    pub fn overlaps(&self, offset: u32, bytes: u32) -> bool {
        let (begins, ends) = (self.offset, self.offset.saturating_add(self.bytes));
        offset < ends && begins < offset.saturating_add(bytes.max(1))
    }
}

/// The messages of a segment, those of a footer included.
pub fn messages(recovered: &Recovered) -> Vec<MessageAt> {
    let message = |frame: &FrameRef| {
        let payload = recovered.payload(frame);
        let head = record::decode_message_head(payload)?;
        let recipients = record::decode_recipients(payload, &mut |name| Arc::from(name));
        let recipients = recipients.unwrap_or_default();
        let open = recipients.iter().enumerate();
        let open = open.filter(|(_, (_, state))| *state != State::Settled);
        let body = scan::body_frame_bytes(&head);
        Some(MessageAt {
            batch: head.batch,
            offset: frame.offset,
            bytes: frame.frame_bytes().saturating_add(body),
            open: open.map(|(index, _)| index as u16).collect(),
        })
    };
    let frames = recovered.frames.iter();
    let frames = frames.filter(|it| it.kind == record::KIND_MESSAGE);
    frames.filter_map(message).collect()
}

/// The outcomes of a segment, in the order of the file.
pub fn outcomes(recovered: &Recovered) -> impl Iterator<Item = (EventSeq, Outcome)> + '_ {
    let frames = recovered.frames.iter();
    frames
        .filter(|it| it.kind == record::KIND_OUTCOME)
        .filter_map(|frame| {
            let payload = recovered.payload(frame);
            let head = record::decode_outcome_head(payload)?;
            Some((head.event, record::decode_outcome(payload)?))
        })
}

/// What a segment was found to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Records {
    pub messages: u64,
    pub bodies: u64,
    pub outcomes: u64,
    /// Marks, and kinds that this version does not know.
    pub others: u64,
}

/// A record whose checksum is right and which is none all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    pub offset: u32,
    pub bytes: u32,
}

/// Looks into every record of a segment that was read in full: what is in it, and which records
/// cannot be understood although their checksums are right, or lack their body.
pub fn check(recovered: &Recovered) -> (Records, Vec<Broken>) {
    let mut records = Records::default();
    let mut broken = Vec::new();
    for (index, frame) in recovered.frames.iter().enumerate() {
        let payload = recovered.payload(frame);
        let sound = match frame.kind {
            record::KIND_MESSAGE => {
                records.messages += 1;
                let known = record::decode_message(payload, &mut |name| Arc::from(name));
                known.is_some_and(|message| {
                    let body = recovered.frames.get(index + 1);
                    body.is_some_and(|it| belongs(it, frame, message.body_bytes))
                })
            }
            record::KIND_BODY => {
                records.bodies += 1;
                true
            }
            record::KIND_OUTCOME => {
                records.outcomes += 1;
                record::decode_outcome(payload).is_some()
            }
            _ => {
                records.others += 1;
                true
            }
        };
        if !sound {
            broken.push(Broken {
                offset: frame.offset,
                bytes: frame.frame_bytes(),
            });
        }
    }
    (records, broken)
}

fn belongs(body: &FrameRef, message: &FrameRef, body_bytes: u32) -> bool {
    body.kind == record::KIND_BODY
        && body.offset == message.offset + message.frame_bytes()
        && body.commit == message.commit
        && body.payload_bytes == body_bytes
}
