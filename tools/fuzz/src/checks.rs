//! What must hold of every answer about a segment, whatever its bytes are.

use core::ops::Range;
use std::collections::BTreeSet;

use bytes::Bytes;
use pelton::log::format;
use pelton::log::recover::{self, Evidence, Recovered};
use pelton::log::{Fault, SegmentFile};
use pelton::spool::BodyAt;
use pelton::spool::inspect;

use crate::segments::place;
use crate::spools::{self, Disk, SHARD, SPOOL};

/// Reads a segment in every way that there is.
pub fn segment(number: u64, bytes: &[u8], evidence: Evidence) {
    let place = place(number);
    let mut read = |at: u64, count: usize| {
        let range = usize::try_from(at).ok().and_then(|at| {
            let end = at.checked_add(count)?;
            bytes.get(at..end)
        });
        range.map(<[u8]>::to_vec).ok_or(Fault::Io)
    };
    let read = recover::read_segment(place, bytes.len() as u64, evidence, &mut read);
    let whole = recover::recover(place, bytes.to_vec(), evidence);
    for recovered in [&read, &whole].into_iter().flatten() {
        frames(number, bytes, recovered);
        records(number, bytes, recovered);
    }
    if let (Ok(read), Ok(whole)) = (&read, &whole)
        && read.complete
    {
        assert_eq!(read.frames, whole.frames, "a start and a check agree");
        assert_eq!(read.damage, whole.damage);
    }
}

/// Frames are in the file, in order, none in another, and what the file has there.
fn frames(number: u64, bytes: &[u8], recovered: &Recovered) {
    let mut end = format::HEADER_BYTES;
    let mut commit = 0;
    for frame in &recovered.frames {
        let at = frame.offset as usize;
        let extent = at..at + frame.frame_bytes() as usize;
        assert!(
            at >= end && at.is_multiple_of(format::FRAME_ALIGN),
            "in order, and in line"
        );
        assert!(extent.end <= bytes.len(), "inside the file");
        let payload = recovered.payload(frame);
        assert_eq!(payload.len(), frame.payload_bytes as usize);
        if recovered.complete {
            let rest = &bytes[at..];
            let header = format::decode_frame_header(place(number), at as u64, rest);
            let header = header.expect("the frame is what its place says");
            let there = format::decode_payload(place(number), at as u64, &header, rest);
            assert_eq!(there, Some(payload));
            assert!(commit <= frame.commit, "commits are in order");
        }
        (end, commit) = (extent.end, frame.commit);
    }
    let good = recovered.good_offset as usize;
    assert!(
        end <= good.max(format::HEADER_BYTES),
        "what counts ends there"
    );
    assert!(good <= bytes.len().max(format::HEADER_BYTES));
    assert!(recovered.sure_offset <= recovered.good_offset);
    for damage in &recovered.damage {
        damage.offset.checked_add(damage.bytes).expect("a range");
        assert!(damage.bytes > 0 && damage.offset as usize <= bytes.len());
    }
}

/// What the records say is inside the segment, or is not believed.
fn records(number: u64, bytes: &[u8], recovered: &Recovered) {
    let (counted, broken) = inspect::check(recovered);
    let all = counted.messages + counted.bodies + counted.outcomes + counted.others;
    assert_eq!(all as usize, recovered.frames.len());
    assert!(broken.len() <= recovered.frames.len());
    assert!(inspect::outcomes(recovered).count() as u64 <= counted.outcomes);
    let file = SegmentFile::live(SHARD, number);
    for message in inspect::messages(recovered) {
        let range = part(bytes, message.offset, message.bytes);
        let at = BodyAt {
            file,
            offset: message.offset.into(),
            bytes: message.bytes,
        };
        let there = Bytes::copy_from_slice(&bytes[range]);
        inspect::envelope_bytes(SPOOL, at, &there);
        inspect::envelope(SPOOL, at, &there);
        if let Some(stored) = inspect::message(SPOOL, at, &there) {
            assert_eq!(stored.content.body.len(), stored.body_bytes as usize);
            assert!(!stored.recipients.is_empty());
        }
    }
}

fn part(bytes: &[u8], offset: u32, count: u32) -> Range<usize> {
    let from = (offset as usize).min(bytes.len());
    from..(from + count as usize).min(bytes.len())
}

/// A start on a folder: everything that it finds can be read, or is told to be damaged.
pub fn start(mut disk: Disk) {
    let Some((mut spool, home)) = disk.start(100) else {
        return;
    };
    let batches: BTreeSet<_> = home.arrivals.iter().map(|it| it.batch).collect();
    for batch in batches {
        let at = spool.locate(batch).expect("what waits has a place");
        if let Ok(read) = disk.read(at.file, at.offset, at.bytes as usize) {
            let _ = spool.decode_read(batch, at, &Bytes::from(read));
        }
    }
    disk.settle(&mut spool, spools::now(100_000));
    disk.settle(&mut spool, spools::now(200_000));
}
