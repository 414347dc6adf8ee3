//! Segments that something has happened to.

use super::*;

/// A segment with several commits of several frames, not sealed, and what is in it by offset.
fn recorded(seed: u64) -> (Vec<u8>, BTreeMap<u32, Vec<u8>>) {
    let (mut writer, mut disk) = (fresh(config(2)), TestDisk::new(seed));
    let mut prng = Prng::stream(seed, "record");
    let mut all = BTreeMap::new();
    let mut keep = |at: Appended, payload: Vec<u8>| {
        assert_eq!(at.segment, 1);
        all.insert(at.offset, payload);
    };
    settle(&mut writer, &mut disk, now(0));
    for _ in 0..6 {
        for _ in 0..prng.between(1, 4) {
            let payload: Vec<u8> = (0..prng.between(1, 900))
                .map(|_| prng.next() as u8)
                .collect();
            keep(
                writer
                    .append(&[frame(prng.chance(1, 2), &[&payload])])
                    .expect("room"),
                payload,
            );
        }
        settle(&mut writer, &mut disk, now(0));
    }
    (disk.bytes(SegmentFile::live(SHARD, 1)).clone(), all)
}

const PLACE: Place = Place {
    spool_id: SPOOL,
    segment: 1,
};

/// Where the last commit begins, found by the last but one mark.
fn last_commit_at(bytes: &[u8]) -> usize {
    let recovered = recover::recover(PLACE, bytes.to_vec(), Evidence::default()).expect("whole");
    let last = recovered.frames.last().expect("frames").commit;
    let first = recovered
        .frames
        .iter()
        .find(|it| it.commit == last)
        .expect("frames");
    first.offset as usize
}

#[test]
fn a_segment_passes_under_no_other_name_start_or_spool() {
    let (bytes, all) = recorded(1);
    let count = |place: Place, bytes: &[u8]| {
        recover::recover(place, bytes.to_vec(), Evidence::default()).map(|it| it.frames.len())
    };
    assert_eq!(count(PLACE, &bytes), Ok(all.len()));
    for place in [
        Place {
            segment: 2,
            ..PLACE
        },
        Place {
            spool_id: SPOOL + 1,
            ..PLACE
        },
    ] {
        assert_eq!(count(place, &bytes), Err(recover::RecoverError::Foreign));
        // And if the header did not tell: a recycled file whose new header is in place.
        let mut recycled = bytes.clone();
        recycled[..4_096].fill(0);
        assert_eq!(count(place, &recycled), Ok(0));
    }
    let mut newer = Vec::new();
    let (segment_bytes, shard, shards) = (64 << 10, 3, 4);
    let header = format::Header {
        place: PLACE,
        start: 9,
        segment_bytes,
        shard,
        shards,
    };
    format::encode_header(&header, &mut newer);
    let mut other = bytes.clone();
    other[..4_096].copy_from_slice(&newer);
    assert_eq!(count(PLACE, &other), Ok(0), "records of another start");
}

#[test]
fn a_damaged_header_costs_no_record() {
    let (mut bytes, all) = recorded(2);
    bytes[17] ^= 1;
    let recovered = recover::recover(PLACE, bytes, Evidence::default()).expect("this segment");
    assert_eq!(recovered.frames.len(), all.len());
    assert_eq!(recovered.damage.len(), 1);
    assert_eq!(recovered.start, Some(2));
}

#[test]
fn a_header_of_another_segment_costs_no_record() {
    let (mut bytes, all) = recorded(2);
    let mut header = Vec::new();
    let place = Place {
        segment: 7,
        ..PLACE
    };
    let (segment_bytes, shard, shards, start) = (64 << 10, 3, 4, 1);
    let facts = format::Header {
        place,
        start,
        segment_bytes,
        shard,
        shards,
    };
    format::encode_header(&facts, &mut header);
    bytes[..4_096].copy_from_slice(&header);
    let mut read = |at: u64, len: usize| Ok(bytes[at as usize..at as usize + len].to_vec());
    let recovered = recover::read_segment(PLACE, 64 << 10, Evidence::default(), &mut read);
    let recovered = recovered.expect("what is in it proves that it is this segment");
    assert_eq!(recovered.frames.len(), all.len());
    assert_eq!((recovered.damage.len(), recovered.start), (1, Some(2)));
}

#[test]
fn a_file_that_was_cut_is_damaged_and_all_that_is_left_counts() {
    for seed in 0..4 {
        let (clean, all) = recorded(seed);
        for cut in (0..clean.len()).step_by(389) {
            let bytes = clean[..cut].to_vec();
            let mut read = |at: u64, len: usize| {
                let at = at as usize;
                bytes.get(at..at + len).map(<[u8]>::to_vec).ok_or(Fault::Io)
            };
            let evidence = Evidence::default();
            let recovered = recover::read_segment(PLACE, cut as u64, evidence, &mut read);
            let recovered = recovered.expect("what is left is read");
            let told = recovered.damage.last().expect("it is told");
            assert_eq!(
                (told.offset as usize, told.certainty),
                (cut, Certainty::Damaged)
            );
            assert_eq!(recovered.tail, Tail::Clean, "it is no unfinished commit");
            assert!(!recovered.is_blank());
            let whole =
                |it: &(&u32, &Vec<u8>)| *it.0 as usize + format::frame_bytes(it.1.len()) <= cut;
            let kept = all.iter().filter(whole).count();
            assert_eq!(recovered.frames.len(), kept, "seed {seed} cut at {cut}");
        }
    }
}

#[test]
fn a_last_commit_is_cut_wherever_it_is_torn() {
    let (bytes, all) = recorded(3);
    let last = last_commit_at(&bytes);
    let used = bytes
        .iter()
        .rposition(|it| *it != 0)
        .expect("bytes")
        .next_multiple_of(512);
    let before = all.keys().filter(|it| (**it as usize) < last).count();
    for cut in (last / 512 * 512..used).step_by(512) {
        let mut torn = bytes.clone();
        torn[cut..used].fill(0);
        let recovered = recover::recover(PLACE, torn, Evidence::default()).expect("readable");
        assert_eq!(recovered.frames.len(), before, "cut at {cut}");
        assert_eq!(recovered.damage, []);
        let torn = Tail::Torn {
            offset: last as u32,
        };
        // Nothing of the commit left, nothing to tell it by.
        assert_eq!(recovered.tail, if cut == last { Tail::Clean } else { torn });
    }
}
