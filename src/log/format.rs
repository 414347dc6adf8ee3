//! The bytes of the log. All numbers are little-endian; everything is checked by CRC32C.
//!
//! # File
//!
//! A segment is a file of fixed size: header (4096 bytes), commits, unused space (zeros, or what a
//! recycled file held before), footer and trailer once it is sealed.
//!
//! ```text
//! 0              4096                                good        size-512-F   size-512   size
//! | header       | commit | commit | ... | commit   | unused    | footer F   | trailer |
//! ```
//!
//! # Header, 4096 bytes
//!
//! ```text
//!    0  8  "PELTONLG"
//!    8  2  format major: a reader refuses a newer one
//!   10  2  format minor: a reader ignores it
//!   12  4  start: number of the process start that made this segment (epoch)
//!   16  8  spool id
//!   24  8  segment number
//!   32  8  segment bytes (size of the file)
//!   40  2  shard (folder) that wrote it
//!   42  2  shards of that start
//!   44     zeros
//! 4092  4  CRC32C of bytes 0..4092, seed 0
//! ```
//!
//! # Frame, aligned to 8
//!
//! ```text
//!  0  4  header CRC: CRC32C of bytes 4..24, seeded with the place
//!  4  4  payload CRC: CRC32C of payload and padding, seeded with the place
//!  8  4  payload bytes
//! 12  1  kind: 1..=254 belong to the user of the log, 255 is the commit mark
//! 13  1  flags: 1 = copied into the footer, 2 = all earlier commits of the log were synced
//! 14  2  "PF"
//! 16  8  commit number: start << 40 | counter
//! 24     payload, then zeros up to a multiple of 8
//! ```
//!
//! The place is CRC32C of (spool id xor segment number, start, offset of the frame in the file) as
//! three 64-bit numbers: a frame passes nowhere but where it was written.
//!
//! # Commit
//!
//! Frames of one commit number, closed by a mark that ends at a multiple of 512: a disk does not
//! tear smaller pieces, so bytes that were acknowledged are never in a sector written later.
//! Payload of a mark:
//!
//! ```text
//!  0  8  segment  \ all of the log up to here counts; what the same folder holds
//!  8  4  offset   / after it, up to this commit's segment, was refused
//! 12  4  offset of the synced position below
//! 16  8  segment up to which the log is known to be synced
//! 24  4  bytes of the commit before the mark
//! 28  4  frames of the commit before the mark
//! 32     zeros up to the multiple of 512
//! ```
//!
//! # Footer and trailer
//!
//! The footer holds, for every frame with flag 1 in order: 4 bytes offset in the file, 4 bytes
//! zero, the frame with header and padding as it was written. The trailer is the last 512 bytes:
//!
//! ```text
//!   0  8  "PELTONTR"
//!   8  4  start
//!  12  2  shards of that start
//!  14  2  zero
//!  16  8  last commit number
//!  24  8  \ position up to which the log counted before the
//!  32  4  / first commit of this segment
//!  36  4  offset up to which this segment counts
//!  40  4  bytes of the footer, which ends where the trailer begins
//!  44  4  CRC32C of the footer, seed 0
//!  48  8  \ position up to which it was known to be
//!  56  4  / synced then
//!  60     zeros
//! 508  4  CRC32C of bytes 0..508, seeded with the place of the trailer (start zero)
//! ```

use crate::base::crc;

pub const FORMAT_MAJOR: u16 = 1;
pub const FORMAT_MINOR: u16 = 0;
pub const HEADER_BYTES: usize = 4_096;
pub const TRAILER_BYTES: usize = 512;
pub const FRAME_HEADER_BYTES: usize = 24;
pub const FRAME_ALIGN: usize = 8;
/// What disks write whole or not at all.
pub const COMMIT_ALIGN: usize = 512;
pub const KIND_MARK: u8 = 255;
/// In the footer, before each frame.
pub const FOOTER_ENTRY_BYTES: usize = 8;
/// A mark with the padding that brings it to a sector's end takes at most this.
pub const MARK_BYTES_MAX: usize = FRAME_HEADER_BYTES + MARK_PAYLOAD_BYTES_MIN + COMMIT_ALIGN;
/// Segments are at most this large, so that an offset fits 32 bits with room to spare.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Room for a header, a small commit and a trailer; real ones start at 1 MiB.
pub const SEGMENT_BYTES_MIN: u64 = 16_384;

const HEADER_MAGIC: &[u8; 8] = b"PELTONLG";
const TRAILER_MAGIC: &[u8; 8] = b"PELTONTR";
const FRAME_MAGIC: [u8; 2] = *b"PF";
const MARK_PAYLOAD_BYTES_MIN: usize = 32;
const FLAG_INDEX: u8 = 1;
const FLAG_ORDERED: u8 = 2;
const COMMIT_COUNTER_BITS: u32 = 40;

const _: () = assert!(
    HEADER_BYTES.is_multiple_of(COMMIT_ALIGN),
    "the first commit is aligned"
);
const _: () = assert!(
    COMMIT_ALIGN.is_multiple_of(FRAME_ALIGN),
    "frames stay aligned"
);
const _: () = assert!(
    TRAILER_BYTES.is_multiple_of(COMMIT_ALIGN),
    "the trailer is one sector"
);
const _: () = assert!(
    SEGMENT_BYTES_MAX <= u32::MAX as u64 / 2,
    "offsets fit 32 bits"
);
const _: () = assert!(
    SEGMENT_BYTES_MIN as usize >= 2 * (HEADER_BYTES + MARK_BYTES_MAX + TRAILER_BYTES),
    "the smallest segment holds something"
);

/// The number of the first commit of a start; the next ones count up from it.
pub fn first_commit(start: u32) -> u64 {
    (u64::from(start) << COMMIT_COUNTER_BITS) | 1
}

/// The start in which a commit was made.
pub fn start_of(commit: u64) -> u32 {
    (commit >> COMMIT_COUNTER_BITS) as u32
}

/// Whose bytes these are supposed to be: the seed of every checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub spool_id: u64,
    pub segment: u64,
}

impl Place {
    fn seed(self, start: u32, offset: u64) -> u32 {
        crc::seed(self.spool_id ^ self.segment, u64::from(start), offset)
    }
}

/// A point in the log of a folder. Segment 0 does not exist: it stands for the beginning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Position {
    pub segment: u64,
    pub offset: u32,
}

impl Position {
    /// How much of that segment counts is not known: it could not be read.
    pub const UNKNOWN_OFFSET: u32 = u32::MAX;
}

/// What a segment's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub place: Place,
    pub start: u32,
    pub segment_bytes: u64,
    pub shard: u16,
    pub shards: u16,
}

/// Why a header is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadHeader {
    /// Its checksum is wrong.
    Damaged,
    /// Another program, and so nothing that may be touched.
    NewerFormat(u16),
}

pub fn encode_header(header: &Header, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(HEADER_MAGIC);
    out.extend_from_slice(&FORMAT_MAJOR.to_le_bytes());
    out.extend_from_slice(&FORMAT_MINOR.to_le_bytes());
    out.extend_from_slice(&header.start.to_le_bytes());
    out.extend_from_slice(&header.place.spool_id.to_le_bytes());
    out.extend_from_slice(&header.place.segment.to_le_bytes());
    out.extend_from_slice(&header.segment_bytes.to_le_bytes());
    out.extend_from_slice(&header.shard.to_le_bytes());
    out.extend_from_slice(&header.shards.to_le_bytes());
    out.resize(HEADER_BYTES - 4, 0);
    let sum = crc::crc32c(0, out);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// Reads a header from the first [`HEADER_BYTES`] of a file.
pub fn decode_header(bytes: &[u8]) -> Result<Header, BadHeader> {
    let Some(bytes) = bytes.get(..HEADER_BYTES) else {
        return Err(BadHeader::Damaged);
    };
    let (body, sum) = bytes.split_at(HEADER_BYTES - 4);
    if body[..8] != *HEADER_MAGIC || crc::crc32c(0, body) != u32_at(sum, 0) {
        return Err(BadHeader::Damaged);
    }
    let major = u16_at(body, 8);
    if major > FORMAT_MAJOR {
        return Err(BadHeader::NewerFormat(major));
    }
    Ok(Header {
        place: Place {
            spool_id: u64_at(body, 16),
            segment: u64_at(body, 24),
        },
        start: u32_at(body, 12),
        segment_bytes: u64_at(body, 32),
        shard: u16_at(body, 40),
        shards: u16_at(body, 42),
    })
}

/// What a frame's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    pub kind: u8,
    /// Copied into the footer when the segment is sealed.
    pub index: bool,
    /// The commits before this one were known to be synced when it was written.
    pub ordered: bool,
    pub payload_bytes: u32,
    pub commit: u64,
    payload_crc: u32,
}

impl FrameHeader {
    /// Bytes of the whole frame in the file.
    pub fn frame_bytes(&self) -> usize {
        frame_bytes(self.payload_bytes as usize)
    }
}

/// Bytes of a frame with this much payload.
pub const fn frame_bytes(payload_bytes: usize) -> usize {
    FRAME_HEADER_BYTES + payload_bytes.next_multiple_of(FRAME_ALIGN)
}

/// A frame to be written.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub kind: u8,
    /// Small enough to be copied into the footer, and wanted by recovery.
    pub index: bool,
    /// The payload, in pieces.
    pub parts: &'a [&'a [u8]],
}

impl Frame<'_> {
    pub fn payload_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }
}

/// Where a frame goes and in which commit.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub place: Place,
    pub offset: u64,
    pub commit: u64,
    pub ordered: bool,
}

pub fn encode_frame(slot: Slot, frame: &Frame<'_>, out: &mut Vec<u8>) {
    let at = out.len();
    let seed = slot.place.seed(start_of(slot.commit), slot.offset);
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    let mut payload_crc = seed;
    for part in frame.parts {
        out.extend_from_slice(part);
        payload_crc = crc::crc32c(payload_crc, part);
    }
    let payload_bytes = out.len() - at - FRAME_HEADER_BYTES;
    let padding = [0; FRAME_ALIGN];
    let padding = &padding[..payload_bytes.next_multiple_of(FRAME_ALIGN) - payload_bytes];
    out.extend_from_slice(padding);
    payload_crc = crc::crc32c(payload_crc, padding);
    let index = if frame.index { FLAG_INDEX } else { 0 };
    let ordered = if slot.ordered { FLAG_ORDERED } else { 0 };
    let header = &mut out[at..at + FRAME_HEADER_BYTES];
    header[4..8].copy_from_slice(&payload_crc.to_le_bytes());
    header[8..12].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    header[12] = frame.kind;
    header[13] = index | ordered;
    header[14..16].copy_from_slice(&FRAME_MAGIC);
    header[16..24].copy_from_slice(&slot.commit.to_le_bytes());
    let header_crc = crc::crc32c(seed, &header[4..]);
    header[..4].copy_from_slice(&header_crc.to_le_bytes());
}

/// The header of a frame at the beginning of `bytes`, which stands at `offset` of its file. The
/// payload is not looked at, and may reach beyond `bytes`.
pub fn decode_frame_header(place: Place, offset: u64, bytes: &[u8]) -> Option<FrameHeader> {
    let header = bytes.get(..FRAME_HEADER_BYTES)?;
    // First what costs nothing: a scan passes here once per 8 bytes.
    if header[14..16] != FRAME_MAGIC || header[12] == 0 {
        return None;
    }
    let commit = u64_at(header, 16);
    let seed = place.seed(start_of(commit), offset);
    if crc::crc32c(seed, &header[4..]) != u32_at(header, 0) {
        return None;
    }
    Some(FrameHeader {
        kind: header[12],
        index: header[13] & FLAG_INDEX != 0,
        ordered: header[13] & FLAG_ORDERED != 0,
        payload_bytes: u32_at(header, 8),
        commit,
        payload_crc: u32_at(header, 4),
    })
}

/// The payload of the frame whose header was read from the beginning of `bytes`; nothing if it is
/// cut or damaged.
pub fn decode_payload<'a>(
    place: Place,
    offset: u64,
    header: &FrameHeader,
    bytes: &'a [u8],
) -> Option<&'a [u8]> {
    let padded = bytes.get(FRAME_HEADER_BYTES..header.frame_bytes())?;
    let seed = place.seed(start_of(header.commit), offset);
    if crc::crc32c(seed, padded) != header.payload_crc {
        return None;
    }
    padded.get(..header.payload_bytes as usize)
}

/// What a commit mark says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// All of the log up to here counts, and nothing between it and this commit's own segment.
    pub good: Position,
    /// All of the log up to here is known to be synced.
    pub synced: Position,
    pub batch_bytes: u32,
    pub batch_frames: u32,
}

/// Appends the mark's frame so that it ends at a multiple of [`COMMIT_ALIGN`].
pub fn encode_mark(slot: Slot, mark: &Mark, out: &mut Vec<u8>) {
    let end = mark_end(slot.offset) as usize;
    let mut payload = [0; MARK_BYTES_MAX];
    payload[..8].copy_from_slice(&mark.good.segment.to_le_bytes());
    payload[8..12].copy_from_slice(&mark.good.offset.to_le_bytes());
    payload[12..16].copy_from_slice(&mark.synced.offset.to_le_bytes());
    payload[16..24].copy_from_slice(&mark.synced.segment.to_le_bytes());
    payload[24..28].copy_from_slice(&mark.batch_bytes.to_le_bytes());
    payload[28..32].copy_from_slice(&mark.batch_frames.to_le_bytes());
    let payload_bytes = end - slot.offset as usize - FRAME_HEADER_BYTES;
    let parts: &[&[u8]] = &[&payload[..payload_bytes]];
    encode_frame(
        slot,
        &Frame {
            kind: KIND_MARK,
            index: false,
            parts,
        },
        out,
    );
}

/// Where a commit ends whose mark stands at `offset`.
pub const fn mark_end(offset: u64) -> u64 {
    (offset + (FRAME_HEADER_BYTES + MARK_PAYLOAD_BYTES_MIN) as u64)
        .next_multiple_of(COMMIT_ALIGN as u64)
}

pub fn decode_mark(payload: &[u8]) -> Option<Mark> {
    if payload.len() < MARK_PAYLOAD_BYTES_MIN {
        return None;
    }
    Some(Mark {
        good: Position {
            segment: u64_at(payload, 0),
            offset: u32_at(payload, 8),
        },
        synced: Position {
            segment: u64_at(payload, 16),
            offset: u32_at(payload, 12),
        },
        batch_bytes: u32_at(payload, 24),
        batch_frames: u32_at(payload, 28),
    })
}

/// What the end of a sealed segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trailer {
    pub start: u32,
    pub shards: u16,
    pub last_commit: u64,
    /// See [`Mark`], of the first commit.
    pub prior: Position,
    pub prior_synced: Position,
    /// This segment counts up to here.
    pub good_offset: u32,
    pub footer_bytes: u32,
    pub footer_crc: u32,
}

/// Appends an entry of the footer.
pub fn push_footer_entry(offset: u32, frame: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(frame);
}

/// Makes the end of a sealed segment out of a finished footer: appends the trailer.
pub fn finish_footer(place: Place, segment_bytes: u64, trailer: Trailer, footer: &mut Vec<u8>) {
    let footer_crc = crc::crc32c(0, footer);
    let footer_bytes = footer.len() as u32;
    let at = footer.len();
    footer.extend_from_slice(TRAILER_MAGIC);
    footer.extend_from_slice(&trailer.start.to_le_bytes());
    footer.extend_from_slice(&trailer.shards.to_le_bytes());
    footer.extend_from_slice(&[0; 2]);
    footer.extend_from_slice(&trailer.last_commit.to_le_bytes());
    footer.extend_from_slice(&trailer.prior.segment.to_le_bytes());
    footer.extend_from_slice(&trailer.prior.offset.to_le_bytes());
    footer.extend_from_slice(&trailer.good_offset.to_le_bytes());
    footer.extend_from_slice(&footer_bytes.to_le_bytes());
    footer.extend_from_slice(&footer_crc.to_le_bytes());
    footer.extend_from_slice(&trailer.prior_synced.segment.to_le_bytes());
    footer.extend_from_slice(&trailer.prior_synced.offset.to_le_bytes());
    footer.resize(at + TRAILER_BYTES - 4, 0);
    let seed = place.seed(0, segment_bytes - TRAILER_BYTES as u64);
    let sum = crc::crc32c(seed, &footer[at..]);
    footer.extend_from_slice(&sum.to_le_bytes());
}

/// Reads the trailer from the last [`TRAILER_BYTES`] of a segment.
pub fn decode_trailer(place: Place, segment_bytes: u64, bytes: &[u8]) -> Option<Trailer> {
    if bytes.len() != TRAILER_BYTES || bytes[..8] != *TRAILER_MAGIC {
        return None;
    }
    let seed = place.seed(0, segment_bytes.checked_sub(TRAILER_BYTES as u64)?);
    let (body, sum) = bytes.split_at(TRAILER_BYTES - 4);
    if crc::crc32c(seed, body) != u32_at(sum, 0) {
        return None;
    }
    Some(Trailer {
        start: u32_at(body, 8),
        shards: u16_at(body, 12),
        last_commit: u64_at(body, 16),
        prior: Position {
            segment: u64_at(body, 24),
            offset: u32_at(body, 32),
        },
        prior_synced: Position {
            segment: u64_at(body, 48),
            offset: u32_at(body, 56),
        },
        good_offset: u32_at(body, 36),
        footer_bytes: u32_at(body, 40),
        footer_crc: u32_at(body, 44),
    })
}

/// Whether these bytes are the footer that the trailer speaks of.
pub fn footer_matches(trailer: &Trailer, footer: &[u8]) -> bool {
    footer.len() == trailer.footer_bytes as usize && crc::crc32c(0, footer) == trailer.footer_crc
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}
