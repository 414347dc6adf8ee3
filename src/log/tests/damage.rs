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

fn mutations() -> u64 {
    std::env::var("PELTON_MUTATIONS")
        .ok()
        .and_then(|it| it.parse().ok())
        .unwrap_or(3_000)
}

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

/// Changes something, and tells which bytes may be different now.
fn mutate(prng: &mut Prng, bytes: &mut [u8], used: usize) -> core::ops::Range<usize> {
    let page = 4_096;
    let at = 4_096 + prng.below((used - 4_096) as u64) as usize;
    match prng.below(5) {
        0 => {
            bytes[at] ^= 1 << prng.below(8);
            at..at + 1
        }
        1 => {
            let from = at / 512 * 512;
            bytes[from..from + 512].fill(0);
            from..from + 512
        }
        2 => {
            // A page over another one.
            let from = at / page * page;
            let to = (4_096 + prng.below((used - 4_096) as u64) as usize) / page * page;
            bytes.copy_within(from..from + page, to);
            to..to + page
        }
        3 => {
            let end = (at + prng.between(1, 64) as usize).min(bytes.len());
            for byte in &mut bytes[at..end] {
                *byte = prng.next() as u8;
            }
            at..end
        }
        _ => {
            // Shifted by one alignment, as by a lost write.
            let to = (at + 8).min(bytes.len() - 512);
            let end = (to + 512).min(bytes.len());
            bytes.copy_within(at..at + (end - to), to);
            to..end
        }
    }
}

#[test]
fn every_mutation_is_found_costs_only_what_it_hits_and_brings_nothing_foreign() {
    let recordings: Vec<_> = (0..7).map(recorded).collect();
    let mut hits = 0;
    for seed in 0..mutations() {
        let (clean, all) = &recordings[seed as usize % recordings.len()];
        let mut prng = Prng::stream(seed, "mutate");
        let used = clean
            .iter()
            .rposition(|it| *it != 0)
            .expect("bytes")
            .next_multiple_of(512);
        let last = last_commit_at(clean);
        let mut bytes = clean.clone();
        let mut changed = mutate(&mut prng, &mut bytes, used);
        if prng.chance(1, 4) {
            let more = mutate(&mut prng, &mut bytes, used);
            changed = changed.start.min(more.start)..changed.end.max(more.end);
        }
        let differs: Vec<usize> = changed.filter(|it| bytes[*it] != clean[*it]).collect();
        let hit =
            |from: usize, len: usize| differs.iter().any(|it| (from..from + len).contains(it));
        // Sometimes a later segment has told how much of this one counts.
        let known = prng.chance(1, 3);
        let good = known.then_some(Position {
            segment: 1,
            offset: used as u32,
        });
        let synced = good.unwrap_or_default();
        let evidence = Evidence { good, synced };
        let recovered = recover::recover(PLACE, bytes, evidence).expect("this segment");
        let last = if known { used } else { last };
        let found = found_in(&recovered);
        // Without that, a commit of which nothing is left cannot be told from one never written.
        let ends = |it: (&u32, &Vec<u8>)| {
            let (at, bytes) = (*it.0 as usize, format::frame_bytes(it.1.len()));
            at >= last && !hit(at, bytes)
        };
        let evident = known || all.iter().any(ends);
        for (offset, payload) in &found {
            assert_eq!(
                all.get(offset).map(Vec::as_slice),
                Some(*payload),
                "seed {seed}: foreign"
            );
        }
        for (offset, payload) in all {
            let bytes = format::frame_bytes(payload.len());
            let whole = !hit(*offset as usize, bytes);
            let kept = found.contains_key(offset);
            assert!(
                whole || !kept,
                "seed {seed}: a damaged record at {offset} passed"
            );
            // The last commit, or what is the last one now, may be cut with its mark.
            let excused = *offset as usize >= last || !evident;
            assert!(!whole || kept || excused, "seed {seed}: {offset} was lost");
            hits += u64::from(!whole);
        }
        let (synced, unsynced): (Vec<usize>, Vec<usize>) = differs
            .iter()
            .filter(|_| evident)
            .partition(|it| **it < last);
        let unsynced = unsynced.into_iter().any(|it| (last..used).contains(&it));
        check_told(seed, &recovered, &synced, unsynced);
    }
    assert!(hits > mutations() / 4, "the mutations hit something");
}

fn found_in(recovered: &Recovered) -> BTreeMap<u32, &[u8]> {
    let mut found = BTreeMap::new();
    for it in &recovered.frames {
        assert!(found.insert(it.offset, recovered.payload(it)).is_none());
    }
    found
}

/// Bytes that were synced are reported where they are wrong, others at least somehow.
fn check_told(seed: u64, recovered: &Recovered, synced: &[usize], unsynced: bool) {
    for at in synced {
        let covers = |it: &recover::Damage| {
            (it.offset as usize..(it.offset + it.bytes) as usize).contains(at)
                && it.certainty == Certainty::Damaged
        };
        let told = recovered.damage.iter().any(covers);
        assert!(told, "seed {seed}: damage at {at} was not told");
    }
    let quiet = recovered.damage.is_empty() && recovered.tail == Tail::Clean;
    assert!(
        !unsynced || !quiet,
        "seed {seed}: damage in the last commit was not told"
    );
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
