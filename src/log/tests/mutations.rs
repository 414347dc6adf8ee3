//! What a disk can do to a segment behind everybody's back, and what a reader must answer.
//!
//! [`check`] says what that is: it knows what was written and which bytes are different now, and
//! works out from the rules at the head of `recover.rs` which frames count, up to where the
//! segment is known to have been synced, and so which damage must be told. An answer has to agree
//! with that exactly: the frames that nothing hit and no others, byte for byte; each changed byte
//! before the synced position told as damage; no damage told where nothing was hit.
//!
//! A footer and a trailer hold copies. The rest of a seal that was cut short looks like damage to
//! them, so being hit they are not believed, which costs nothing, and is not told.

use core::ops::Range;

use super::recordings;
use super::recordings::Recording;
use super::recordings::Written;
use super::*;

const SECTOR: usize = 512;
const PAGE: usize = 4_096;

/// Recordings of each shape.
const RECORDINGS: u64 = 6;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// One bit.
    Flip,
    Zero,
    /// A block over another one.
    Duplicate,
    /// Two blocks.
    Swap,
    Truncate,
    /// Some or all of what the file, or another one, held at another time.
    Stale,
    Noise,
    /// Some bytes stand a little behind their place.
    Shift,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Flip,
        Kind::Zero,
        Kind::Duplicate,
        Kind::Swap,
        Kind::Truncate,
        Kind::Stale,
        Kind::Noise,
        Kind::Shift,
    ];

    fn apply(self, prng: &mut Prng, it: &Recording, bytes: &mut Vec<u8>) {
        if bytes.len() < 2 * PAGE {
            return;
        }
        let at = draw_place(prng, it, bytes.len());
        let block = *prng.pick(&[SECTOR, PAGE]);
        let from = (at / block * block).min(bytes.len() - block);
        let to = draw_place(prng, it, bytes.len()) / block * block;
        let to = to.min(bytes.len() - block);
        match self {
            Kind::Flip => bytes[at] ^= 1 << prng.below(8),
            Kind::Zero => bytes[from..from + block].fill(0),
            Kind::Duplicate => bytes.copy_within(from..from + block, to),
            Kind::Swap => {
                let first = bytes[from..from + block].to_vec();
                bytes.copy_within(to..to + block, from);
                bytes[to..to + block].copy_from_slice(&first);
            }
            Kind::Truncate => bytes.truncate(at),
            Kind::Stale => {
                let part = match prng.below(8) {
                    0 => 0..bytes.len(),
                    1 => from..bytes.len(),
                    2 => 0..from,
                    _ => from..from + block,
                };
                bytes[part.clone()].copy_from_slice(&prng.pick(&it.stale)[part]);
            }
            Kind::Noise => {
                let end = (at + prng.between(1, 64) as usize).min(bytes.len());
                bytes[at..end]
                    .iter_mut()
                    .for_each(|byte| *byte = prng.next() as u8);
            }
            Kind::Shift => {
                let by = 8 * prng.between(1, 4) as usize;
                let from = at.min(bytes.len() - SECTOR - by);
                bytes.copy_within(from..from + SECTOR, from + by);
            }
        }
    }
}

/// Mostly where something lives, anywhere now and then.
fn draw_place(prng: &mut Prng, it: &Recording, bytes: usize) -> usize {
    let at = match (prng.below(8), &it.sealed) {
        (0, _) => prng.below(bytes as u64) as usize,
        (1, Some(sealed)) => {
            prng.between(sealed.footer_at.min(bytes - 1) as u64, bytes as u64 - 1) as usize
        }
        (2, _) => prng.below(PAGE as u64) as usize,
        _ => prng.between(PAGE as u64, it.used() as u64 - 1) as usize,
    };
    at.min(bytes - 1)
}

/// The bytes of a segment beside those that were written.
struct Changed<'a> {
    it: &'a Recording,
    bytes: &'a [u8],
    /// Where they differ, in order.
    at: Vec<usize>,
}

impl<'a> Changed<'a> {
    fn new(it: &'a Recording, bytes: &'a [u8]) -> Changed<'a> {
        let mut at = Vec::new();
        for (index, (now, then)) in bytes.chunks(64).zip(it.written.chunks(64)).enumerate() {
            if now != &then[..now.len()] {
                let differs =
                    |(offset, (a, b)): (usize, (&u8, &u8))| (a != b).then_some(index * 64 + offset);
                at.extend(now.iter().zip(then).enumerate().filter_map(differs));
            }
        }
        Changed { it, bytes, at }
    }

    fn first_in(&self, range: Range<usize>) -> Option<usize> {
        let index = self.at.partition_point(|at| *at < range.start);
        self.at.get(index).copied().filter(|at| range.contains(at))
    }

    /// Something in it is different, or missing.
    fn hits(&self, range: Range<usize>) -> bool {
        range.end > self.bytes.len() || self.first_in(range).is_some()
    }

    fn header(&self) -> bool {
        self.hits(0..format::HEADER_BYTES)
    }

    /// The trailer is what it was and where it was.
    fn has_trailer(&self) -> bool {
        let bytes = self.it.written.len();
        self.it.sealed.is_some() && !self.hits(bytes - format::TRAILER_BYTES..bytes)
    }

    fn has_footer(&self) -> bool {
        let end = self.it.written.len() - format::TRAILER_BYTES;
        let footer = self.it.sealed.as_ref().map(|it| it.footer_at..end);
        footer.is_some_and(|footer| !self.hits(footer))
    }

    /// The frame's header is what it was, and the file reaches to its end.
    fn is_found(&self, frame: &Written) -> bool {
        let header = frame.at.start..frame.at.start + format::FRAME_HEADER_BYTES;
        frame.at.end <= self.bytes.len() && !self.hits(header)
    }
}

impl Changed<'_> {
    /// Where a commit began of which something is left: its mark says so, or that of the one
    /// before. Without both, whatever was found before it is older.
    fn known_begin(&self, commit: usize) -> usize {
        let frames = || self.it.frames.iter();
        let told = frames().any(|frame| {
            frame.kind == format::KIND_MARK
                && (frame.commit == commit || frame.commit + 1 == commit)
                && !self.hits(frame.at.clone())
        });
        if told {
            return self.it.commits[commit].at.start;
        }
        let mut older = frames().filter(|frame| frame.commit < commit && self.is_found(frame));
        older.next_back().map_or(0, |frame| frame.at.end)
    }
}

/// What the rules say about a segment that is like this now.
struct Expected {
    /// The segment counts exactly up to here: its trailer or newer segments say so.
    known: Option<usize>,
    /// Up to here it is known to have been synced.
    synced: usize,
    /// The file is told to be shorter than it was.
    short: bool,
    /// The last commit of which something is left, and whether its mark is.
    top: Option<usize>,
    top_marked: bool,
    /// Only the footer is read.
    from_footer: bool,
}

impl Expected {
    fn new(changed: &Changed<'_>, evidence: Evidence) -> Expected {
        let Changed { it, bytes, .. } = changed;
        let told = evidence.good.map(|good| {
            let ours = |position: Position| match position.segment == it.place.segment {
                true => position.offset as usize,
                false => 0,
            };
            (ours(good), ours(evidence.synced))
        });
        let known = match &it.sealed {
            Some(sealed) if changed.has_trailer() => Some((sealed.good, sealed.good)),
            _ => told,
        };
        let header_tells = !changed.header() && bytes.len() < it.written.len();
        let others_tell = known.is_some_and(|(good, _)| good > bytes.len());
        let tiny = bytes.len() < format::HEADER_BYTES + format::TRAILER_BYTES;
        let mut top = None;
        let mut synced = known.map_or(0, |it| it.1);
        for frame in it.frames.iter().filter(|frame| changed.is_found(frame)) {
            top = Some(frame.commit);
            if frame.ordered {
                synced = synced.max(changed.known_begin(frame.commit));
            }
            if frame.kind == format::KIND_MARK && !changed.hits(frame.at.clone()) {
                synced = synced.max(it.commits[frame.commit].synced);
            }
        }
        let marked = |frame: &&Written| {
            Some(frame.commit) == top
                && frame.kind == format::KIND_MARK
                && !changed.hits(frame.at.clone())
        };
        let known = known.map(|it| it.0);
        Expected {
            known,
            synced: synced.min(known.unwrap_or(usize::MAX)),
            short: header_tells || others_tell || tiny,
            top,
            top_marked: it.frames.iter().any(|frame| marked(&frame)),
            from_footer: !changed.header() && changed.has_trailer() && changed.has_footer(),
        }
    }

    /// A frame that is whole is part of the log.
    fn counts(&self, frame: &Written) -> bool {
        match self.known {
            Some(known) => frame.at.end <= known,
            None => self.short || self.top_marked || Some(frame.commit) < self.top,
        }
    }

    /// Of a byte that was not known to be synced: something must be told all the same.
    fn must_tell(&self, it: &Recording, at: usize) -> bool {
        let commit = it.commits.iter().position(|commit| commit.at.contains(&at));
        commit.is_some()
            && match self.known {
                Some(known) => at < known,
                // Without that, a commit of which nothing is left was perhaps never written.
                None => commit <= self.top,
            }
    }
}

/// A reader's answer.
#[derive(Clone, Debug)]
struct Answer<'a> {
    /// Offset, kind, number of the commit, payload.
    frames: Vec<(u32, u8, u64, &'a [u8])>,
    damage: Vec<recover::Damage>,
    torn: bool,
    complete: bool,
}

impl<'a> Answer<'a> {
    fn of(recovered: &'a Recovered) -> Answer<'a> {
        let frames = recovered.frames.iter();
        Answer {
            frames: frames
                .map(|it| (it.offset, it.kind, it.commit, recovered.payload(it)))
                .collect(),
            damage: recovered.damage.clone(),
            torn: recovered.tail != Tail::Clean,
            complete: recovered.complete,
        }
    }
}

/// What a mutation came to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Tally {
    mutations: u64,
    /// Those that changed a byte of the header, of a commit, of a footer or trailer.
    live: u64,
    /// Those that changed a byte before the synced position: each was told as damage.
    synced: u64,
    /// Records that were lost, all of them hit or in a last commit without its mark; and kept.
    lost: u64,
    kept: u64,
    /// Segments that were refused as a whole.
    foreign: u64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.mutations += other.mutations;
        self.live += other.live;
        self.synced += other.synced;
        self.lost += other.lost;
        self.kept += other.kept;
        self.foreign += other.foreign;
    }
}

/// What is wrong with an answer, or what the mutation came to.
fn check(
    changed: &Changed<'_>,
    evidence: Evidence,
    answer: &Answer<'_>,
    whole: bool,
) -> Result<Tally, String> {
    let it = changed.it;
    let expected = Expected::new(changed, evidence);
    let from_footer = expected.from_footer && !whole;
    if answer.complete == from_footer {
        return Err("a footer that was hit passed, or one that is sound did not".into());
    }
    let records = || {
        let frames = it.frames.iter();
        frames.filter(|frame| frame.kind != format::KIND_MARK)
    };
    let wanted = |frame: &&Written| match from_footer {
        true => frame.index,
        false => !changed.hits(frame.at.clone()) && expected.counts(frame),
    };
    let wanted: Vec<_> = records()
        .filter(wanted)
        .map(|it| (it.at.start as u32, it.kind, it.number, &it.payload[..]))
        .collect();
    check_frames(&wanted, &answer.frames)?;
    let mut tally = Tally {
        mutations: 1,
        live: u64::from(is_live(changed)),
        kept: wanted.len() as u64,
        ..Tally::default()
    };
    if from_footer {
        let quiet = answer.damage.is_empty() && !answer.torn;
        return quiet.then_some(tally).ok_or("a footer tells damage".into());
    }
    tally.lost = records().count() as u64 - tally.kept;
    tally.synced = check_told(changed, &expected, answer)?;
    check_nothing_else_told(changed, &expected, answer)?;
    let torn = expected.known.is_none() && expected.top.is_some();
    let torn = torn && !expected.short && !expected.top_marked;
    match torn == answer.torn {
        true => Ok(tally),
        false => Err(format!("torn: {}, and should be {torn}", answer.torn)),
    }
}

fn is_live(changed: &Changed<'_>) -> bool {
    let it = changed.it;
    let end = it.written.len();
    let footer = it.sealed.as_ref().map_or(end, |sealed| sealed.footer_at);
    changed.hits(0..it.used()) || changed.hits(footer..end)
}

type Record<'a> = (u32, u8, u64, &'a [u8]);

fn check_frames(wanted: &[Record<'_>], found: &[Record<'_>]) -> Result<(), String> {
    if wanted == found {
        return Ok(());
    }
    if let Some(foreign) = found.iter().find(|it| !wanted.contains(it)) {
        return Err(format!("the frame at {} is none that counts", foreign.0));
    }
    match wanted.iter().find(|it| !found.contains(it)) {
        Some(lost) => Err(format!("the frame at {} was lost", lost.0)),
        None => Err("frames out of order, or twice".into()),
    }
}

/// Every changed byte is told as it must be; tells how many had been synced, at most one.
fn check_told(
    changed: &Changed<'_>,
    expected: &Expected,
    answer: &Answer<'_>,
) -> Result<u64, String> {
    let (it, bytes) = (changed.it, changed.bytes);
    let end = format::HEADER_BYTES;
    let sure = |at: usize| {
        answer.damage.iter().any(|it| {
            let covered = it.offset as usize..(it.offset + it.bytes) as usize;
            covered.contains(&at) && it.certainty == Certainty::Damaged
        })
    };
    let mut synced = 0;
    for &at in &changed.at {
        if bytes.len() >= end && (at < end || at < expected.synced) {
            synced = 1;
            if !sure(at) {
                return Err(format!("damage at {at} was not told"));
            }
        } else if expected.must_tell(it, at) && answer.damage.is_empty() && !answer.torn {
            return Err(format!("a change at {at} was not told at all"));
        }
    }
    if expected.short {
        synced = 1;
        if !sure(bytes.len()) {
            return Err("the missing end was not told".into());
        }
    }
    Ok(synced)
}

/// No damage is told but around what was hit.
fn check_nothing_else_told(
    changed: &Changed<'_>,
    expected: &Expected,
    answer: &Answer<'_>,
) -> Result<(), String> {
    for damage in &answer.damage {
        let told = damage.offset as usize..(damage.offset + damage.bytes) as usize;
        if expected.short && told.start == changed.bytes.len() {
            continue;
        }
        let overlaps = |it: &&Written| it.at.start < told.end && told.start < it.at.end;
        let mut frames = changed.it.frames.iter().filter(overlaps).peekable();
        let hit = match frames.peek() {
            Some(_) => frames.all(|frame| changed.hits(frame.at.clone())),
            None => told == (0..format::HEADER_BYTES) && changed.header(),
        };
        if !hit {
            return Err(format!("damage is told at {told:?} where nothing was hit"));
        }
    }
    Ok(())
}

/// Names the mutation when the reader panics under it.
struct Under(u64, &'static str);

impl Drop for Under {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("under mutation {} of a segment that is {}", self.0, self.1);
        }
    }
}

/// The header of another segment, in front of what may still be this one.
fn header_is_foreign(place: Place, bytes: &[u8]) -> bool {
    format::decode_header(bytes).is_ok_and(|header| header.place != place)
}

/// Mutates a recording, reads it as a start and as a full check do, and judges the answers.
fn mutate(seed: u64, recordings: &[Recording]) -> (Kind, Tally) {
    let mut prng = Prng::stream(seed, "mutate");
    let it = prng.pick(recordings);
    let _under = Under(seed, it.shape);
    let kind = Kind::ALL[seed as usize % Kind::ALL.len()];
    let mut bytes = it.on_disk.clone();
    kind.apply(&mut prng, it, &mut bytes);
    if prng.chance(1, 4) {
        prng.pick(&Kind::ALL).apply(&mut prng, it, &mut bytes);
    }
    let evidence = match prng.chance(1, 2) {
        true => it.evidence[0],
        false => *prng.pick(&it.evidence),
    };
    let changed = Changed::new(it, &bytes);
    let mut read = |at: u64, len: usize| {
        let at = at as usize;
        bytes.get(at..at + len).map(<[u8]>::to_vec).ok_or(Fault::Io)
    };
    let read = recover::read_segment(it.place, bytes.len() as u64, evidence, &mut read);
    let whole = recover::recover(it.place, bytes.clone(), evidence);
    let (read, whole) = match (read, whole) {
        (Ok(read), Ok(whole)) => (read, whole),
        (Err(read), Err(whole)) => {
            assert_eq!((read, whole), (recover::RecoverError::Foreign, read));
            let left = it.frames.iter().any(|frame| changed.is_found(frame));
            let foreign = header_is_foreign(it.place, &bytes) && !changed.has_trailer();
            assert!(foreign && !left, "seed {seed}: refused as a whole");
            let (mutations, live, foreign) = (1, 1, 1);
            let tally = Tally {
                mutations,
                live,
                foreign,
                ..Tally::default()
            };
            return (kind, tally);
        }
        (read, whole) => panic!("seed {seed}: {read:?} and {whole:?}"),
    };
    let judge = |recovered: &Recovered, whole: bool| {
        check(&changed, evidence, &Answer::of(recovered), whole).unwrap_or_else(|wrong| {
            panic!(
                "seed {seed}, {kind:?} of a segment that is {}: {wrong}",
                it.shape
            )
        })
    };
    judge(&read, false);
    (kind, judge(&whole, true))
}

fn mutations() -> u64 {
    let wanted = std::env::var("PELTON_MUTATIONS").ok();
    wanted.and_then(|it| it.parse().ok()).unwrap_or(3_000)
}

/// A million: `PELTON_MUTATIONS=1000000 cargo test --release --lib every_mutation -- --nocapture`.
#[test]
fn every_mutation_is_found_costs_only_what_it_hits_and_brings_nothing_foreign() {
    let recordings: Vec<_> = (0..RECORDINGS).flat_map(recordings::all).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let run = |first: u64| {
        let mut tallies = [Tally::default(); Kind::ALL.len()];
        for seed in (first..mutations()).step_by(threads as usize) {
            let (kind, tally) = mutate(seed, &recordings);
            tallies[kind as usize].add(tally);
        }
        tallies
    };
    let mut tallies = [Tally::default(); Kind::ALL.len()];
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|it| scope.spawn(move || run(it)))
            .collect();
        for thread in running {
            let part = thread.join().expect("no mutation is answered wrongly");
            tallies
                .iter_mut()
                .zip(part)
                .for_each(|(all, it)| all.add(it));
        }
    });
    let mut sum = Tally::default();
    for (kind, tally) in Kind::ALL.iter().zip(tallies) {
        print_tally(&format!("{kind:?}"), tally);
        sum.add(tally);
        let Tally {
            mutations,
            live,
            synced,
            lost,
            kept,
            ..
        } = tally;
        assert!(2 * live > mutations && 4 * synced > mutations, "{kind:?}");
        assert!(lost > mutations / 8 && kept > mutations, "{kind:?}");
    }
    print_tally("all", sum);
    assert_eq!(sum.mutations, mutations());
    assert!(sum.foreign > 0, "a file of another segment is refused");
}

fn print_tally(name: &str, tally: Tally) {
    let Tally {
        mutations,
        live,
        synced,
        lost,
        kept,
        foreign,
    } = tally;
    println!(
        "{name:9} {mutations} mutations: {live} hit live bytes, {synced} synced ones or cut the \
         file, all told; {lost} records lost, {kept} kept, no other lost or foreign; {foreign} \
         segments refused"
    );
}

#[test]
fn recordings_are_read_back_as_they_were_written() {
    for it in recordings::all(1) {
        for evidence in &it.evidence {
            let changed = Changed::new(&it, &it.on_disk);
            let recovered = recover::recover(it.place, it.on_disk.clone(), *evidence);
            let recovered = recovered.expect("it is this segment");
            let tally = check(&changed, *evidence, &Answer::of(&recovered), true);
            let tally = tally.unwrap_or_else(|wrong| panic!("{}: {wrong}", it.shape));
            assert_eq!(tally.live > 0, it.shape == "torn", "{}", it.shape);
        }
    }
}

type Change<'a> = Box<dyn Fn(&mut Answer<'a>) + 'a>;

/// Ways to spoil an answer, of which `offset` is the record that was hit.
fn spoilers<'a>(right: &Answer<'a>, offset: u32, written: &'a [u8], used: u32) -> Vec<Change<'a>> {
    let first = right.frames[0];
    let certainty = Certainty::TornOrDamaged;
    let phantom = recover::Damage {
        offset: used,
        bytes: 512,
        certainty,
    };
    vec![
        Box::new(|answer| answer.frames.truncate(answer.frames.len() - 1)),
        Box::new(|answer| answer.frames = answer.frames[1..].to_vec()),
        Box::new(move |answer| answer.frames.push(first)),
        Box::new(|answer| answer.frames.swap(0, 1)),
        Box::new(move |answer| {
            answer.frames.insert(0, (offset, first.1, first.2, written));
        }),
        Box::new(|answer| answer.frames[0].0 += 8),
        Box::new(|answer| answer.frames[0].1 ^= 3),
        Box::new(|answer| answer.frames[0].2 += 1),
        Box::new(move |answer| answer.frames[0].3 = &first.3[1..]),
        Box::new(move |answer| answer.damage.retain(|it| it.offset != offset)),
        Box::new(move |answer| {
            let all = answer.damage.iter_mut();
            all.for_each(|it| it.certainty = certainty);
        }),
        Box::new(|answer| answer.damage[0].bytes += 512),
        Box::new(move |answer| answer.damage.push(phantom)),
        Box::new(|answer| answer.torn ^= true),
        Box::new(|answer| answer.complete ^= true),
    ]
}

/// The check itself can fail, in every way that it is for.
#[test]
fn no_wrong_answer_passes_the_check() {
    let mut refused = 0;
    for it in recordings::all(2) {
        let evidence = it.evidence[0];
        let mut bytes = it.on_disk.clone();
        let victim = it
            .frames
            .iter()
            .find(|frame| frame.kind != format::KIND_MARK);
        let victim = victim.expect("a record").at.clone();
        bytes[victim.end - 9] ^= 1;
        let changed = Changed::new(&it, &bytes);
        let recovered = recover::recover(it.place, bytes.clone(), evidence).expect("this segment");
        let right = Answer::of(&recovered);
        assert!(
            check(&changed, evidence, &right, true).is_ok(),
            "{}",
            it.shape
        );
        let (offset, written) = (victim.start as u32, &it.written[victim.clone()]);
        let spoilers = spoilers(&right, offset, written, it.used() as u32);
        for (number, spoil) in spoilers.iter().enumerate() {
            let mut answer = right.clone();
            spoil(&mut answer);
            let verdict = check(&changed, evidence, &answer, true);
            assert!(verdict.is_err(), "{}: {number}: {answer:?}", it.shape);
        }
        refused += 1;
    }
    assert_eq!(refused, 9, "all shapes");
}
