//! The writer and the reader against a disk that fails, and the format against mutations.

use std::collections::BTreeMap;

use crate::base::prng::Prng;
use crate::base::time::Mono;
use crate::base::time::Now;
use crate::base::time::Wall;
use crate::types::id::ShardId;

use super::format;
use super::format::Frame;
use super::format::Place;
use super::format::Position;
use super::recover;
use super::recover::Certainty;
use super::recover::Evidence;
use super::recover::Recovered;
use super::recover::Tail;
use super::test_disk::TestDisk;
use super::*;

const SPOOL: u64 = 0x0123_4567_89ab_cdef;
const SHARD: ShardId = ShardId(3);

fn now(ms: u64) -> Now {
    Now {
        mono: Mono(ms * 1_000),
        wall: Wall(ms * 1_000),
    }
}

fn config(start: u32) -> Config {
    Config {
        segment_bytes: 64 << 10,
        ..Config::new(SPOOL, SHARD, start, 4)
    }
}

fn fresh(config: Config) -> Writer {
    Writer::new(config, 1, Found::default())
}

fn frame<'a>(index: bool, parts: &'a [&'a [u8]]) -> Frame<'a> {
    Frame {
        kind: if index { 1 } else { 2 },
        index,
        parts,
    }
}

/// Runs everything that is due until nothing is.
fn settle(writer: &mut Writer, disk: &mut TestDisk, at: Now) -> Vec<Completed> {
    let mut all = Vec::new();
    while let Some(op) = writer.poll(at) {
        let completion = disk.run(op);
        match writer.completed(at, completion) {
            Completed::Nothing => {}
            other => all.push(other),
        }
    }
    all
}

fn read_back(disk: &TestDisk, number: u64, evidence: Evidence) -> Recovered {
    let file = SegmentFile::live(SHARD, number);
    let size = disk
        .list(SHARD)
        .iter()
        .find(|it| it.0 == file)
        .expect("the segment")
        .1;
    let place = Place {
        spool_id: SPOOL,
        segment: number,
    };
    let mut read = |offset, bytes| disk.read(file, offset, bytes);
    recover::read_segment(place, size, evidence, &mut read).expect("a readable segment")
}

fn payloads(recovered: &Recovered) -> Vec<Vec<u8>> {
    recovered
        .frames
        .iter()
        .map(|it| recovered.payload(it).to_vec())
        .collect()
}

#[test]
fn file_names_are_read_as_they_are_written_and_nothing_else_is() {
    for kind in [
        SegmentKind::Live,
        SegmentKind::Free,
        SegmentKind::New,
        SegmentKind::Damaged,
    ] {
        let file = SegmentFile {
            shard: SHARD,
            kind,
            number: 0xabc,
        };
        assert_eq!(
            SegmentFile::parse_file_name(SHARD, &file.file_name()),
            Some(file)
        );
    }
    assert_eq!(
        SegmentFile::live(SHARD, 1).to_string(),
        "shard-03/seg-0000000000000001.log"
    );
    for name in [
        "",
        "seg-.log",
        "seg-1.log",
        "seg-000000000000000G.log",
        "seg-00000000000000AB.log",
        "seg-ffffffffffffffff.log",
    ] {
        assert_eq!(SegmentFile::parse_file_name(SHARD, name), None, "{name}");
    }
    assert_eq!(parse_folder_name("shard-03"), Some(SHARD));
    assert_eq!(parse_folder_name("shard-127"), Some(ShardId(127)));
    for name in [
        "shard-3",
        "shard-003",
        "shard-+3",
        "shard-",
        "shard-256",
        "spool",
    ] {
        assert_eq!(parse_folder_name(name), None, "{name}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn frames_and_marks_are_what_the_test_vectors_say() {
    let place = Place {
        spool_id: SPOOL,
        segment: 7,
    };
    let commit = format::first_commit(5);
    let slot = format::Slot {
        place,
        offset: 4_096,
        commit,
        ordered: true,
    };
    let mut bytes = Vec::new();
    format::encode_frame(slot, &frame(true, &[b"hel", b"lo"]), &mut bytes);
    assert_eq!(hex(&bytes), VECTOR_FRAME);
    let header = format::decode_frame_header(place, 4_096, &bytes).expect("a frame");
    assert_eq!((header.kind, header.index, header.ordered), (1, true, true));
    assert_eq!(
        format::decode_payload(place, 4_096, &header, &bytes),
        Some(&b"hello"[..])
    );

    let slot = format::Slot {
        offset: 4_128,
        ..slot
    };
    let good = Position {
        segment: 6,
        offset: 0x1200,
    };
    let synced = Position {
        segment: 6,
        offset: 0x1000,
    };
    let mark = format::Mark {
        good,
        synced,
        batch_bytes: 32,
        batch_frames: 1,
    };
    let mut bytes = Vec::new();
    format::encode_mark(slot, &mark, &mut bytes);
    assert_eq!(bytes.len(), 512 - 32, "a mark ends with its sector");
    assert_eq!(hex(&bytes[..56]), VECTOR_MARK);
    assert_eq!(format::decode_mark(&bytes[24..]), Some(mark));
}

#[test]
fn headers_and_trailers_are_what_the_test_vectors_say() {
    let place = Place {
        spool_id: SPOOL,
        segment: 7,
    };
    let good = Position {
        segment: 6,
        offset: 0x1200,
    };
    let synced = Position {
        segment: 6,
        offset: 0x1000,
    };
    let commit = format::first_commit(5);
    let mut bytes = Vec::new();
    let (segment_bytes, shard, shards) = (64 << 10, 3, 4);
    let header = format::Header {
        place,
        start: 5,
        segment_bytes,
        shard,
        shards,
    };
    format::encode_header(&header, &mut bytes);
    assert_eq!(hex(&bytes[..44]), VECTOR_HEADER);
    assert_eq!(hex(&bytes[4_092..]), VECTOR_HEADER_CRC);
    assert_eq!(format::decode_header(&bytes), Ok(header));
    bytes[8] = 2;
    let sum = crate::base::crc::crc32c(0, &bytes[..4_092]);
    bytes[4_092..].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(
        format::decode_header(&bytes),
        Err(format::BadHeader::NewerFormat(2))
    );

    let trailer = format::Trailer {
        start: 5,
        shards,
        last_commit: commit,
        prior: good,
        prior_synced: synced,
        good_offset: 0x1200,
        footer_bytes: 40,
        footer_crc: 0,
    };
    let mut footer = vec![1; 40];
    format::finish_footer(place, segment_bytes, trailer, &mut footer);
    assert_eq!(hex(&footer[40..100]), VECTOR_TRAILER);
    assert_eq!(hex(&footer[40 + 508..]), VECTOR_TRAILER_CRC);
    let decoded = format::decode_trailer(place, segment_bytes, &footer[40..]).expect("a trailer");
    assert!(format::footer_matches(&decoded, &footer[..40]));
    assert_eq!(
        format::Trailer {
            footer_crc: 0,
            ..decoded
        },
        trailer
    );
}

const VECTOR_FRAME: &str = "3323f95468c0a7290500000001035046010000000005000068656c6c6f000000";
const VECTOR_MARK: &str = "ce616e974084d381c8010000ff02504601000000000500000600000000000000\
    001200000010000006000000000000002000000001000000";
const VECTOR_HEADER: &str = "50454c544f4e4c470100000005000000efcdab89674523010700000000000000\
    000001000000000003000400";
const VECTOR_HEADER_CRC: &str = "586e09df";
const VECTOR_TRAILER: &str = "50454c544f4e5452050000000400000001000000000500000600000000000000\
    001200000012000028000000ee320631060000000000000000100000";
const VECTOR_TRAILER_CRC: &str = "4fbfbe98";

mod damage;
mod mutations;
mod recordings;
mod writer;
