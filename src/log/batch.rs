//! One commit while it gathers, and the segment it goes to.

use crate::base::time::Mono;

use super::disk::Fault;
use super::disk::OpId;
use super::disk::SegmentFile;
use super::format;
use super::format::Frame;
use super::format::FrameHeader;
use super::format::Place;
use super::format::Position;
use super::format::Slot;
use super::promise::CommitId;
use super::writer::BATCH_BYTES_MAX;

/// Frames of one commit, encoded for one place in one segment.
#[derive(Debug)]
pub(super) struct Batch {
    pub commit: CommitId,
    pub segment: u64,
    /// Where the first frame stands in the segment.
    pub base: u64,
    pub bytes: Vec<u8>,
    pub frames: u32,
    /// Groups of frames that somebody waits for.
    pub eager: u32,
}

impl Batch {
    pub fn push(&mut self, place: Place, ordered: bool, frame: &Frame<'_>) {
        let offset = self.base + self.bytes.len() as u64;
        let slot = Slot {
            place,
            offset,
            commit: self.commit.0,
            ordered,
        };
        format::encode_frame(slot, frame, &mut self.bytes);
        self.frames += 1;
    }

    /// Where the commit ends once it has its mark.
    pub fn end(&self) -> u64 {
        format::mark_end(self.base + self.bytes.len() as u64)
    }
}

/// A batch that did not get to disk, for its user to take out what must be written again.
#[derive(Debug)]
pub struct FailedBatch {
    pub commit: CommitId,
    pub segment: u64,
    place: Place,
    base: u64,
    bytes: Vec<u8>,
}

impl FailedBatch {
    pub(super) fn new(place: Place, batch: Batch) -> FailedBatch {
        let Batch {
            commit,
            segment,
            base,
            bytes,
            ..
        } = batch;
        FailedBatch {
            commit,
            segment,
            place,
            base,
            bytes,
        }
    }

    /// Kind, offset in the segment and payload of each frame, in order, marks left out.
    pub fn frames(&self) -> impl Iterator<Item = (FrameHeader, u64, &[u8])> {
        frames(self.place, self.base, &self.bytes)
            .filter(|(_, header, _)| header.kind != format::KIND_MARK)
            .map(|(offset, header, payload)| (header, offset, payload))
    }
}

/// The frames that stand one after the other in `bytes`, up to the first that is not whole.
pub(super) fn frames(
    place: Place,
    base: u64,
    bytes: &[u8],
) -> impl Iterator<Item = (u64, FrameHeader, &[u8])> {
    let mut at = 0;
    core::iter::from_fn(move || {
        let offset = base + at as u64;
        let rest = bytes.get(at..)?;
        let header = format::decode_frame_header(place, offset, rest)?;
        let payload = format::decode_payload(place, offset, &header, rest)?;
        at += header.frame_bytes();
        Some((offset, header, payload))
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TargetState {
    /// Not asked for yet.
    Planned,
    Preparing,
    Ready,
    /// Preparing failed; to be tried again.
    Failed {
        fault: Fault,
        retry_at: Mono,
    },
}

/// A segment that is, or is about to be, written to.
#[derive(Debug)]
pub(super) struct Target {
    pub number: u64,
    pub state: TargetState,
    /// Failed attempts to prepare it.
    pub failures: u32,
    /// Where the next frame goes; batches that were not yet written included.
    pub end: u64,
    /// Footer bytes that everything up to `end` will need.
    pub footer_reserved: u64,
    /// End of the last commit that succeeded.
    pub good: u64,
    /// Where the log counted up to, before the first commit of this segment.
    pub prior: Position,
    /// And up to where it was known to be synced.
    pub prior_synced: Position,
    pub last_commit: u64,
    /// The footer so far: frames of commits that succeeded.
    pub footer: Vec<u8>,
}

impl Target {
    pub fn new(number: u64) -> Target {
        Target {
            number,
            state: TargetState::Planned,
            failures: 0,
            end: format::HEADER_BYTES as u64,
            footer_reserved: 0,
            good: format::HEADER_BYTES as u64,
            prior: Position::default(),
            prior_synced: Position::default(),
            last_commit: 0,
            footer: Vec::new(),
        }
    }

    /// Whether this much more leaves room for mark, footer and trailer.
    pub fn fits(&self, segment_bytes: u64, room: Room) -> bool {
        let end = format::mark_end(self.end + room.frames);
        let footer = self.footer_reserved + room.footer;
        end + footer + format::TRAILER_BYTES as u64 <= segment_bytes
    }

    /// Copies what the footer wants out of a commit that succeeded. Only headers are looked at:
    /// these bytes were encoded here, and have not left memory since.
    pub fn index(&mut self, place: Place, base: u64, bytes: &[u8]) {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && let Some(header) = format::decode_frame_header(place, base + at as u64, rest)
        {
            let end = at + header.frame_bytes();
            if header.index {
                let offset = base as u32 + at as u32;
                format::push_footer_entry(offset, &bytes[at..end], &mut self.footer);
            }
            at = end;
        }
    }
}

/// What a group of frames takes in a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub frames: u64,
    pub footer: u64,
}

impl Room {
    pub fn of(frames: &[Frame<'_>]) -> Room {
        let mut room = Room {
            frames: 0,
            footer: 0,
        };
        for frame in frames {
            let bytes = format::frame_bytes(frame.payload_bytes()) as u64;
            room.frames += bytes;
            if frame.index {
                room.footer += bytes + format::FOOTER_ENTRY_BYTES as u64;
            }
        }
        room
    }
}

/// What is under way in the place of a commit.
#[derive(Debug)]
pub(super) enum Work {
    Commit(Batch),
    /// Of the current segment.
    Sync,
    /// Of a segment that an earlier start wrote.
    SyncFound(SegmentFile),
}

/// The commit that is being written.
#[derive(Debug)]
pub(super) struct Flight {
    pub op: OpId,
    pub started: Mono,
    pub sync: bool,
    pub work: Work,
}

/// Buffers waiting for their next use, so that a commit allocates nothing. The last one given is
/// the first one taken: it is the one that the processor may still know.
#[derive(Debug, Default)]
pub(super) struct Spares {
    buffers: Vec<Vec<u8>>,
}

const SPARES_MAX: usize = 4;
/// A buffer that grew beyond this for one large message is given back.
const SPARE_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;

impl Spares {
    pub fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    pub fn give(&mut self, mut buffer: Vec<u8>) {
        let fits = (1..=SPARE_BYTES_MAX).contains(&buffer.capacity());
        if fits && self.buffers.len() < SPARES_MAX {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}
