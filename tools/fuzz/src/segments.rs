//! A segment taken apart, changed as an input says, and put together with every checksum right: so
//! that changes get past the checksums and to the code behind them.

use pelton::base::crc;
use pelton::log::format::{self, Frame, Header, Place, Position, Slot, Trailer};
use pelton::log::recover::Evidence;

use crate::Input;
use crate::spools::{SEGMENT_BYTES, SHARD, SHARDS, SPOOL};

/// Frames that a segment is built of at most.
const FRAMES_MAX: usize = 200;

#[derive(Clone)]
struct Part {
    kind: u8,
    index: bool,
    ordered: bool,
    commit: u64,
    payload: Vec<u8>,
}

/// What a segment is made of.
#[derive(Clone)]
pub struct Parts {
    place: Place,
    start: u32,
    frames: Vec<Part>,
    trailer: Option<Trailer>,
}

pub fn place(segment: u64) -> Place {
    Place {
        spool_id: SPOOL,
        segment,
    }
}

impl Parts {
    /// Of a segment that is as it was written.
    pub fn of(segment: u64, bytes: &[u8]) -> Parts {
        let place = place(segment);
        let header = format::decode_header(bytes).expect("a good segment");
        let mut frames = Vec::new();
        let mut at = format::HEADER_BYTES;
        while let Some(header) = format::decode_frame_header(place, at as u64, &bytes[at..]) {
            let payload = format::decode_payload(place, at as u64, &header, &bytes[at..]);
            frames.push(Part {
                kind: header.kind,
                index: header.index,
                ordered: header.ordered,
                commit: header.commit,
                payload: payload.expect("a good frame").to_vec(),
            });
            at += header.frame_bytes();
        }
        let last = &bytes[bytes.len() - format::TRAILER_BYTES..];
        Parts {
            place,
            start: header.start,
            frames,
            trailer: format::decode_trailer(place, bytes.len() as u64, last),
        }
    }

    /// Changes what there is, until the input says that it is enough.
    pub fn change(&mut self, input: &mut Input<'_>) {
        while !input.is_empty() && self.step(input).is_some() {}
    }

    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        let op = input.number(1) % 12;
        let count = self.frames.len();
        let number = input.index(count);
        match (op, self.frames.get_mut(number)) {
            (0, _) => return None,
            (1 | 2, Some(part)) => {
                let from = input.index(part.payload.len() + 1);
                let to = (from + input.number(1) as usize).min(part.payload.len());
                let bytes = input.number(1) as usize;
                let insert = input.take(bytes).to_vec();
                part.payload.splice(from..to, insert);
            }
            (3, Some(part)) => {
                let width = *[1, 2, 4, 8].get(input.index(4))?;
                let at = input.index(part.payload.len());
                let value = input.number(width).to_le_bytes();
                let end = (at + width).min(part.payload.len());
                part.payload[at..end].copy_from_slice(&value[..end - at]);
            }
            (4, Some(part)) => part.kind = input.number(1) as u8,
            (5, Some(part)) => {
                let flags = input.number(1);
                (part.index, part.ordered) = (flags & 1 != 0, flags & 2 != 0);
            }
            (6, Some(part)) => {
                let by = input.number(1);
                part.commit = part.commit.wrapping_add(by).wrapping_sub(8);
            }
            (7, Some(_)) => drop(self.frames.remove(number)),
            (8, Some(part)) => {
                let copy = part.clone();
                let to = input.index(count + 1);
                if count < FRAMES_MAX {
                    self.frames.insert(to, copy);
                }
            }
            (9, Some(_)) => self.frames.swap(number, input.index(count)),
            (10, _) => self.change_trailer(input),
            _ => self.start = input.number(4) as u32,
        }
        Some(())
    }

    fn change_trailer(&mut self, input: &mut Input<'_>) {
        let field = input.number(1) % 9;
        let value = input.number(8);
        let Some(trailer) = &mut self.trailer else {
            self.trailer = Some(Trailer {
                start: self.start,
                shards: SHARDS,
                good_offset: value as u32,
                ..Trailer::default()
            });
            return;
        };
        match field {
            0 => trailer.start = value as u32,
            1 => trailer.shards = value as u16,
            2 => trailer.last_commit = value,
            3 => trailer.prior.segment = value,
            4 => trailer.prior.offset = value as u32,
            5 => trailer.good_offset = value as u32,
            6 => trailer.prior_synced.segment = value,
            7 => trailer.prior_synced.offset = value as u32,
            _ => self.trailer = None,
        }
    }

    /// Puts it together; some entries of the footer may lie about where their frame is.
    pub fn build(&self, input: &mut Input<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = Header {
            place: self.place,
            start: self.start,
            segment_bytes: SEGMENT_BYTES,
            shard: SHARD.0.into(),
            shards: SHARDS,
        };
        format::encode_header(&header, &mut bytes);
        let mut footer = Vec::new();
        for part in &self.frames {
            let at = bytes.len();
            self.encode(part, at as u64, &mut bytes);
            if !part.index || self.trailer.is_none() {
                continue;
            }
            match input.number(4) {
                0 => format::push_footer_entry(at as u32, &bytes[at..], &mut footer),
                lie => {
                    let mut elsewhere = Vec::new();
                    self.encode(part, lie, &mut elsewhere);
                    format::push_footer_entry(lie as u32, &elsewhere, &mut footer);
                }
            }
        }
        let end = match &self.trailer {
            Some(_) => footer.len() + format::TRAILER_BYTES,
            None => 0,
        };
        bytes.resize((bytes.len() + end).max(SEGMENT_BYTES as usize), 0);
        if let Some(trailer) = self.trailer {
            let segment_bytes = bytes.len() as u64;
            format::finish_footer(self.place, segment_bytes, trailer, &mut footer);
            let at = bytes.len() - footer.len();
            bytes[at..].copy_from_slice(&footer);
        }
        bytes
    }

    fn encode(&self, part: &Part, offset: u64, out: &mut Vec<u8>) {
        let slot = Slot {
            place: self.place,
            offset,
            commit: part.commit,
            ordered: part.ordered,
        };
        let frame = Frame {
            kind: part.kind,
            index: part.index,
            parts: &[&part.payload],
        };
        format::encode_frame(slot, &frame, out);
    }

    /// What else an input does to the bytes; if it says so, headers of frames are made right again
    /// afterwards, so that wrong lengths get through.
    pub fn damage(&self, input: &mut Input<'_>, bytes: &mut Vec<u8>) {
        let mend = input.number(1) & 1 != 0;
        while !input.is_empty() && !bytes.is_empty() {
            let (op, at) = (input.number(1) % 5, input.index(bytes.len()));
            match op {
                0 => {
                    let count = input.number(1) as usize;
                    let with = input.take(count);
                    let end = (at + with.len()).min(bytes.len());
                    bytes[at..end].copy_from_slice(&with[..end - at]);
                }
                1 => {
                    let end = (at + 8 * input.number(1) as usize).min(bytes.len());
                    bytes[at..end].fill(0);
                }
                2 => {
                    let to = input.index(bytes.len());
                    let count = 8 * input.number(1) as usize;
                    let count = count.min(bytes.len() - at.max(to));
                    bytes.copy_within(at..at + count, to);
                }
                3 => bytes[at] ^= 1 << (input.number(1) % 8),
                _ => bytes.truncate(at),
            }
        }
        if mend {
            self.mend(bytes);
        }
    }

    fn mend(&self, bytes: &mut [u8]) {
        let mut at = format::HEADER_BYTES;
        for part in &self.frames {
            let Some(header) = bytes.get_mut(at..at + format::FRAME_HEADER_BYTES) else {
                return;
            };
            let commit = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
            let key = self.place.spool_id ^ self.place.segment;
            let seed = crc::seed(key, format::start_of(commit).into(), at as u64);
            let sum = crc::crc32c(seed, &header[4..]);
            header[..4].copy_from_slice(&sum.to_le_bytes());
            at += format::frame_bytes(part.payload.len());
        }
    }
}

/// What newer segments say of this one, if anything.
pub fn evidence(segment: u64, input: &mut Input<'_>) -> Evidence {
    let position = |input: &mut Input<'_>| Position {
        segment: segment + input.number(1) % 3 - 1,
        offset: match input.number(2) as u32 {
            0xffff => Position::UNKNOWN_OFFSET,
            offset => offset,
        },
    };
    let good = (input.number(1) & 1 != 0).then(|| position(input));
    let synced = position(input);
    Evidence { good, synced }
}
