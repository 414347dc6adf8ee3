//! Connections: bytes under way in both directions, cut into other pieces than they were written
//! in, late, stalled, or lost with the connection. Who is at the other end is somebody else's
//! business.

use std::collections::VecDeque;

use crate::base::prng::Prng;
use crate::engine::io::ConnId;
use crate::sim::ledger::Who;

/// What the engine knows once it has read a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receipt {
    /// The host has taken responsibility: a number of the ledger.
    Delivered(usize),
    /// The host has answered for a recipient.
    Answered(Who),
}

/// Bytes under way, and what their arrival at the engine would tell it.
struct Chunk {
    ready_us: u64,
    bytes: Vec<u8>,
    receipt: Option<Receipt>,
}

/// One direction of a connection.
#[derive(Default)]
pub struct Pipe {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that have arrived.
    offset: usize,
    last_ready_us: u64,
    /// Nothing follows; the other end is told when the rest has arrived.
    pub ended: bool,
    /// An event is planned that goes on with it.
    pub is_planned: bool,
    /// Nothing moves before this moment.
    pub stalled_until_us: u64,
}

/// What arrived at once.
#[derive(Default)]
pub struct Arrived {
    pub bytes: Vec<u8>,
    pub receipts: Vec<Receipt>,
}

impl Pipe {
    /// Puts bytes under way that arrive `ready_us` at the earliest, after all before them.
    pub fn push(&mut self, ready_us: u64, bytes: Vec<u8>, receipt: Option<Receipt>) {
        if bytes.is_empty() || self.ended {
            return;
        }
        self.last_ready_us = self.last_ready_us.max(ready_us);
        let ready_us = self.last_ready_us;
        self.chunks.push_back(Chunk {
            ready_us,
            bytes,
            receipt,
        });
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// When the next bytes can arrive.
    pub fn ready_us(&self) -> Option<u64> {
        let first = self.chunks.front()?;
        Some(first.ready_us.max(self.stalled_until_us))
    }

    /// What arrives now, `bytes_max` at most.
    pub fn take(&mut self, now_us: u64, bytes_max: usize) -> Arrived {
        let mut arrived = Arrived::default();
        if now_us < self.stalled_until_us {
            return arrived;
        }
        while let Some(first) = self.chunks.front() {
            let room = bytes_max - arrived.bytes.len();
            if first.ready_us > now_us || room == 0 {
                break;
            }
            let rest = &first.bytes[self.offset..];
            let count = rest.len().min(room);
            arrived.bytes.extend_from_slice(&rest[..count]);
            if count < rest.len() {
                self.offset += count;
                break;
            }
            arrived.receipts.extend(first.receipt);
            self.offset = 0;
            self.chunks.pop_front();
        }
        arrived
    }

    /// Everything under way is lost.
    pub fn lose(&mut self) {
        self.chunks.clear();
        self.offset = 0;
        self.ended = true;
    }
}

/// How a connection cuts what it carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    Whole,
    Segments,
    Tiny,
}

impl Cut {
    pub fn draw(prng: &mut Prng) -> Cut {
        match prng.below(10) {
            0..=5 => Cut::Whole,
            6..=8 => Cut::Segments,
            _ => Cut::Tiny,
        }
    }

    /// Bytes of the next piece.
    pub fn next(self, prng: &mut Prng) -> usize {
        match self {
            Cut::Whole => 256 * 1024,
            Cut::Segments => prng.between(1, 1_460) as usize,
            Cut::Tiny if prng.chance(1, 4) => 4_096,
            Cut::Tiny => prng.between(1, 24) as usize,
        }
    }
}

/// Where a connection stands, seen from the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Dialing,
    Open,
    /// The engine has said goodbye: it sends nothing more and hears nothing but the end.
    Closing,
    /// The engine will be told that it is over.
    Over,
    Gone,
}

/// A connection between an engine and one of its peers.
pub struct Conn {
    pub shard: usize,
    pub id: ConnId,
    pub stage: Stage,
    pub cut: Cut,
    pub latency_us: u64,
    pub to_engine: Pipe,
    pub to_peer: Pipe,
    /// The peer has been told that it is over.
    pub peer_gone: bool,
}

impl Conn {
    pub fn new(shard: usize, id: ConnId, stage: Stage, prng: &mut Prng) -> Conn {
        Conn {
            shard,
            id,
            stage,
            cut: Cut::draw(prng),
            latency_us: prng.between(30, 3_000),
            to_engine: Pipe::default(),
            to_peer: Pipe::default(),
            peer_gone: false,
        }
    }

    /// The engine still takes what arrives.
    pub fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Closing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_in_any_cut_and_receipts_with_their_last_byte() {
        for bytes_max in 1..9 {
            let mut pipe = Pipe::default();
            pipe.push(10, b"abc".to_vec(), None);
            pipe.push(5, b"defg".to_vec(), Some(Receipt::Delivered(1)));
            pipe.push(20, b"h".to_vec(), Some(Receipt::Delivered(2)));
            assert!(pipe.take(9, bytes_max).bytes.is_empty());
            let (mut all, mut receipts) = (Vec::new(), Vec::new());
            while pipe.ready_us().is_some_and(|ready| ready <= 10) {
                let arrived = pipe.take(10, bytes_max);
                all.extend(arrived.bytes);
                for receipt in arrived.receipts {
                    receipts.push((receipt, all.len()));
                }
            }
            assert_eq!(
                (&all[..], &receipts[..]),
                (&b"abcdefg"[..], &[(Receipt::Delivered(1), 7)][..])
            );
            assert_eq!(pipe.take(20, bytes_max).receipts, [Receipt::Delivered(2)]);
            assert!(pipe.is_empty());
        }
    }

    #[test]
    fn nothing_arrives_while_a_connection_stalls() {
        let mut pipe = Pipe::default();
        pipe.push(1, b"x".to_vec(), None);
        pipe.stalled_until_us = 100;
        assert_eq!(pipe.ready_us(), Some(100));
        assert!(pipe.take(99, 10).bytes.is_empty());
        assert_eq!(pipe.take(100, 10).bytes, b"x");
    }
}
