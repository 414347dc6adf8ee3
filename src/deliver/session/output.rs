//! What waits to be sent, in order: a buffer that commands and small bodies are written to, and
//! large bodies where they lie. Places in it are told as marks, since the size of a body on the
//! wire is known only when its dots have been doubled.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::deliver::session::Piece;
use crate::proto::smtp::stuff::Part;
use crate::proto::smtp::stuff::Stuffer;

/// A place in the output: the item that holds the last byte written so far.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mark(u64);

enum Item {
    Bytes(Vec<u8>),
    /// A body for BDAT.
    Whole(Bytes),
    /// A body for DATA.
    Stuffed(Stuffer),
}

/// Buffers that have grown over this are not kept for reuse: 5,000 connections keep what they
/// hold.
const SPARE_BYTES_MAX: usize = 128 * 1_024;

#[derive(Default)]
pub struct Output {
    items: VecDeque<Item>,
    spare: Option<Vec<u8>>,
    /// Items ever queued.
    queued: u64,
    /// Items handed out to the end.
    taken: u64,
    pieces: u64,
    bytes_taken: u64,
    bytes_sent: u64,
}

impl Output {
    /// The buffer at the end, to append to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if !matches!(self.items.back(), Some(Item::Bytes(_))) {
            let buffer = self.spare.take().unwrap_or_default();
            self.push(Item::Bytes(buffer));
        }
        let Some(Item::Bytes(buffer)) = self.items.back_mut() else {
            unreachable!("a buffer was just put there");
        };
        buffer
    }

    pub fn push_whole(&mut self, body: Bytes) {
        self.push(Item::Whole(body));
    }

    pub fn push_stuffed(&mut self, body: Bytes) {
        self.push(Item::Stuffed(Stuffer::new(body)));
    }

    /// The place of the last byte queued.
    pub fn mark(&self) -> Mark {
        Mark(self.queued)
    }

    /// The place of the next byte, if it goes to the buffer at the end.
    pub fn next_mark(&self) -> Mark {
        match self.items.back() {
            Some(Item::Bytes(_)) => Mark(self.queued),
            _ => Mark(self.queued + 1),
        }
    }

    /// Whether everything up to the mark has been handed out.
    pub fn is_taken(&self, mark: Mark) -> bool {
        mark.0 <= self.taken
    }

    /// The next piece. What follows the end of a large body goes with that end in one send.
    pub fn take(&mut self) -> Option<Piece> {
        let piece = match self.items.pop_front()? {
            Item::Bytes(buffer) => {
                self.taken += 1;
                Piece::Bytes(buffer)
            }
            Item::Whole(body) => {
                self.taken += 1;
                Piece::Body(body)
            }
            Item::Stuffed(mut stuffer) => {
                let mut buffer = self.spare.take().unwrap_or_default();
                let run = match stuffer.next(&mut buffer) {
                    Some(Part::Run(run)) => Some(run),
                    Some(Part::Gathered) | None => None,
                };
                if stuffer.is_at_end() {
                    self.taken += 1;
                    self.join(&mut buffer);
                } else {
                    self.items.push_front(Item::Stuffed(stuffer));
                }
                match run {
                    Some(run) => {
                        self.recycle(buffer);
                        Piece::Body(run)
                    }
                    None => Piece::Bytes(buffer),
                }
            }
        };
        self.pieces += 1;
        self.bytes_taken += piece.as_slice().len() as u64;
        Some(piece)
    }

    /// Moves the buffer at the front, if there is one, behind what goes out now.
    fn join(&mut self, buffer: &mut Vec<u8>) {
        if let Some(Item::Bytes(next)) = self.items.front_mut() {
            buffer.append(next);
            self.taken += 1;
            self.items.pop_front();
        }
    }

    /// Notes bytes as written, at most what has been handed out; true if nothing of that is left
    /// unwritten.
    pub fn sent(&mut self, bytes: usize) -> bool {
        let sent = self.bytes_sent.saturating_add(bytes as u64);
        self.bytes_sent = sent.min(self.bytes_taken);
        self.bytes_sent == self.bytes_taken
    }

    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= SPARE_BYTES_MAX && self.spare.is_none() {
            buffer.clear();
            self.spare = Some(buffer);
        }
    }

    /// Drops what has not been handed out.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn pieces(&self) -> u64 {
        self.pieces
    }

    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    pub fn bytes_taken(&self) -> u64 {
        self.bytes_taken
    }

    fn push(&mut self, item: Item) {
        self.queued += 1;
        self.items.push_back(item);
    }
}
