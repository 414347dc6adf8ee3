//! Segments as a writer made them, in every shape that a folder can hold, with all that is known
//! of them without reading them back.

use super::*;

/// One frame as it was written, marks included.
pub(super) struct Written {
    pub kind: u8,
    pub index: bool,
    pub ordered: bool,
    pub at: core::ops::Range<usize>,
    /// Index into [`Recording::commits`].
    pub commit: usize,
    pub number: u64,
    pub payload: Vec<u8>,
}

/// One commit that was acknowledged, or would have been.
pub(super) struct Commit {
    pub at: core::ops::Range<usize>,
    /// Up to where its mark says that this segment had been synced.
    pub synced: usize,
}

/// A sealed segment's end.
pub(super) struct Sealed {
    pub good: usize,
    pub footer_at: usize,
}

/// One segment, and what happened to it before it was recorded.
pub(super) struct Recording {
    pub shape: &'static str,
    pub place: Place,
    /// What the writer asked for, and what got to the disk: less where the last commit was torn.
    pub written: Vec<u8>,
    pub on_disk: Vec<u8>,
    pub frames: Vec<Written>,
    pub commits: Vec<Commit>,
    pub sealed: Option<Sealed>,
    /// What its file held before: at other moments, as other segments, of other starts.
    pub stale: Vec<Vec<u8>>,
    /// What newer segments may say of it; nothing is one answer.
    pub evidence: Vec<Evidence>,
}

impl Recording {
    /// The end of the last commit.
    pub fn used(&self) -> usize {
        self.commits.last().map_or(0, |it| it.at.end)
    }
}

/// A writer on a disk, watched.
struct Recorder {
    writer: Writer,
    disk: TestDisk,
    prng: Prng,
    ms: u64,
    /// By segment and offset: what was asked for.
    appended: BTreeMap<(u64, u32), Vec<u8>>,
    /// Segment, offset and bytes of each commit that was carried out.
    commits: Vec<(u64, usize, Vec<u8>)>,
    stale: Vec<Vec<u8>>,
}

impl Recorder {
    fn new(seed: u64, config: Config) -> Recorder {
        Recorder {
            writer: fresh(config),
            disk: TestDisk::new(seed),
            prng: Prng::stream(seed, "record"),
            ms: 0,
            appended: BTreeMap::new(),
            commits: Vec::new(),
            stale: Vec::new(),
        }
    }

    /// Appends a few groups, each of one to three frames with payloads up to so long.
    fn append(&mut self, groups: u64, bytes_max: u64) {
        for _ in 0..self.prng.between(1, groups) {
            let mut payloads = Vec::new();
            for _ in 0..self.prng.between(1, 3) {
                let bytes = self.prng.between(1, bytes_max);
                let payload: Vec<u8> = (0..bytes).map(|_| self.prng.next() as u8).collect();
                payloads.push((self.prng.chance(1, 2), payload));
            }
            let parts: Vec<[&[u8]; 1]> = payloads.iter().map(|it| [it.1.as_slice()]).collect();
            let frames: Vec<Frame<'_>> = payloads
                .iter()
                .zip(&parts)
                .map(|((index, _), parts)| frame(*index, parts))
                .collect();
            let Appended {
                segment,
                mut offset,
                ..
            } = self.writer.append(&frames).expect("room");
            for (_, payload) in payloads {
                let bytes = format::frame_bytes(payload.len()) as u32;
                self.appended.insert((segment, offset), payload);
                offset += bytes;
            }
        }
    }

    /// Runs what is due, and keeps what each commit wrote and what was there before it.
    fn settle(&mut self) {
        while let Some(op) = self.writer.poll(now(self.ms)) {
            self.watch(&op);
            let completion = self.disk.run(op);
            self.writer.completed(now(self.ms), completion);
        }
    }

    fn watch(&mut self, op: &DiskOp) {
        if let DiskOp::Commit {
            file,
            offset,
            bytes,
            ..
        } = op
        {
            self.stale.push(self.disk.bytes(*file).clone());
            self.commits
                .push((file.number, *offset as usize, bytes.clone()));
        }
    }

    /// Commits until the writer has left the segment, which gets its footer.
    fn fill(&mut self, bytes_max: u64) -> u64 {
        let number = self.writer.current_segment();
        while self.writer.current_segment() == number {
            self.append(3, bytes_max);
            self.settle();
        }
        number
    }

    /// The next start, on what the reclaimed file of this one holds.
    fn restart(&mut self, number: u64, start: u32) {
        self.writer
            .reclaim(SegmentFile::live(SHARD, number), 64 << 10, false);
        self.settle();
        let files = self.disk.list(SHARD);
        let free = files.iter().map(|it| it.0);
        let free: Vec<_> = free.filter(|it| it.kind == SegmentKind::Free).collect();
        assert_eq!(free.len(), 1, "the segment is to be used again");
        let next = files.iter().map(|it| it.0.number).max().unwrap_or(0) + 1;
        let found = Found {
            free,
            ..Found::default()
        };
        self.writer = Writer::new(config(start), next, found);
    }

    fn finish(mut self, shape: &'static str, number: u64) -> Recording {
        let place = Place {
            spool_id: SPOOL,
            segment: number,
        };
        let on_disk = self.disk.bytes(SegmentFile::live(SHARD, number)).clone();
        let others = self.disk.list(SHARD).into_iter().map(|it| it.0);
        let others: Vec<_> = others.filter(|it| it.number != number).collect();
        let mut stale = core::mem::take(&mut self.stale);
        for file in others {
            stale.push(self.disk.bytes(file).clone());
        }
        let mut it = Recording {
            shape,
            place,
            written: on_disk.clone(),
            on_disk,
            frames: Vec::new(),
            commits: Vec::new(),
            sealed: None,
            stale,
            evidence: vec![Evidence::default()],
        };
        for (segment, offset, bytes) in core::mem::take(&mut self.commits) {
            if segment == number {
                it.written[offset..offset + bytes.len()].copy_from_slice(&bytes);
                it.take_commit(offset, &bytes);
            }
        }
        for frame in it.frames.iter().filter(|it| it.kind != format::KIND_MARK) {
            let asked = self.appended.get(&(number, frame.at.start as u32));
            assert_eq!(
                asked,
                Some(&frame.payload),
                "it was written as it was asked"
            );
        }
        let last = it.commits.last().expect("commits").at.clone();
        it.say(last.end, &[0, last.start, last.end]);
        it
    }
}

impl Recording {
    fn take_commit(&mut self, offset: usize, bytes: &[u8]) {
        let mut at = 0;
        let mut synced = 0;
        while at < bytes.len() {
            let (offset, rest) = ((offset + at) as u64, &bytes[at..]);
            let header = format::decode_frame_header(self.place, offset, rest).expect("a frame");
            let payload = format::decode_payload(self.place, offset, &header, rest);
            let payload = payload.expect("a payload");
            if header.kind == format::KIND_MARK {
                let mark = format::decode_mark(payload).expect("a mark");
                let ours = mark.synced.segment == self.place.segment;
                synced = if ours { mark.synced.offset as usize } else { 0 };
            }
            let begins = offset as usize;
            self.frames.push(Written {
                kind: header.kind,
                index: header.index,
                ordered: header.ordered,
                at: begins..begins + header.frame_bytes(),
                commit: self.commits.len(),
                number: header.commit,
                payload: payload.to_vec(),
            });
            at += header.frame_bytes();
        }
        let at = offset..offset + bytes.len();
        self.commits.push(Commit { at, synced });
    }

    /// Newer segments may also say that it counts up to here, and was synced up to any of these.
    fn say(&mut self, good: usize, synced: &[usize]) {
        let position = |offset: usize| Position {
            segment: self.place.segment,
            offset: offset as u32,
        };
        let (good, positions) = (Some(position(good)), synced.iter().map(|it| position(*it)));
        self.evidence
            .extend(positions.map(|synced| Evidence { good, synced }));
    }
}

/// Several commits, each of a few groups.
fn open(shape: &'static str, seed: u64, commits: u64, groups: u64, bytes_max: u64) -> Recording {
    let mut it = Recorder::new(seed, config(2));
    it.settle();
    for _ in 0..commits {
        it.append(groups, bytes_max);
        it.settle();
    }
    it.finish(shape, 1)
}

/// The power went during the last commit: it is on disk in part.
fn torn(seed: u64) -> Recording {
    let mut it = Recorder::new(seed, config(2));
    it.settle();
    for _ in 0..5 {
        it.append(3, 900);
        it.settle();
    }
    it.append(4, 2_000);
    let op = it.writer.poll(now(0)).expect("a commit");
    it.watch(&op);
    // Until it is neither whole nor without a trace.
    let file = SegmentFile::live(SHARD, 1);
    let DiskOp::Commit { offset, bytes, .. } = &op else {
        panic!("a commit");
    };
    let (from, to) = (*offset as usize, *offset as usize + bytes.len());
    let before = it.disk.bytes(file).clone();
    loop {
        it.disk.partly(&op, false);
        let now = &it.disk.bytes(file)[from..to];
        if *now != before[from..to] && now != bytes {
            break;
        }
        it.disk.bytes(file).clone_from(&before);
    }
    let mut it = it.finish("torn", 1);
    // The next start found that the log counts up to the torn commit, and says so.
    it.evidence.truncate(1);
    it.say(from, &[from]);
    it
}

fn sealed(shape: &'static str, mut it: Recorder) -> Recording {
    let number = it.fill(4_000);
    let mut it = it.finish(shape, number);
    let bytes = it.on_disk.len();
    let last = &it.on_disk[bytes - format::TRAILER_BYTES..];
    let trailer = format::decode_trailer(it.place, bytes as u64, last).expect("it is sealed");
    assert_eq!(trailer.good_offset as usize, it.used());
    it.sealed = Some(Sealed {
        good: it.used(),
        footer_at: bytes - format::TRAILER_BYTES - trailer.footer_bytes as usize,
    });
    it
}

/// A file that was two other segments before, in two other starts.
fn used_before(seed: u64) -> Recorder {
    let mut it = Recorder::new(seed, config(1));
    for start in 2..4 {
        let number = it.fill(4_000);
        it.restart(number, start);
    }
    it.settle();
    it
}

fn recycled(seed: u64) -> Recording {
    let mut it = used_before(seed);
    let number = it.writer.current_segment();
    for _ in 0..4 {
        it.append(3, 900);
        it.settle();
    }
    let it = it.finish("recycled", number);
    let old = &it.on_disk[it.used()..];
    assert!(
        old.iter().any(|byte| *byte != 0),
        "the rest of it is of before"
    );
    it
}

/// Syncs now and then, and not with every commit: frames say nothing of those before them.
fn interval(seed: u64) -> Recording {
    let mode = SyncMode::Interval(core::time::Duration::from_millis(200));
    let config = Config {
        sync: mode,
        ..config(2)
    };
    let mut it = Recorder::new(seed, config);
    it.settle();
    for _ in 0..9 {
        it.append(3, 900);
        it.settle();
        it.ms += 90;
    }
    let it = it.finish("interval", 1);
    assert!(it.frames.iter().all(|frame| !frame.ordered));
    assert!(it.commits.iter().any(|commit| commit.synced > 0));
    it
}

/// The last commit got to disk, its sync failed, and the next segment says that it was refused.
fn refused(seed: u64) -> Recording {
    let mut it = Recorder::new(seed, config(2));
    it.settle();
    for _ in 0..4 {
        it.append(3, 900);
        it.settle();
    }
    it.append(3, 900);
    let op = it.writer.poll(now(0)).expect("a commit");
    let number = op.op();
    let DiskOp::Commit {
        file,
        offset,
        bytes,
        ..
    } = op
    else {
        panic!("a commit");
    };
    it.disk.bytes(file)[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    let (result, buffer) = (Err(Fault::Io), bytes);
    it.writer.completed(
        now(0),
        Completion {
            op: number,
            result,
            buffer,
        },
    );
    it.settle();
    let newer = read_back(&it.disk, 2, Evidence::default());
    let mut it = it.finish("refused", 1);
    assert_eq!(
        newer.evidence.good.map(|good| good.offset as usize),
        Some(it.used())
    );
    let position = Position::default();
    // Or even that nothing of this segment counts.
    let nothing = Evidence {
        good: Some(position),
        synced: position,
    };
    it.evidence = vec![newer.evidence, newer.evidence, newer.evidence, nothing];
    it
}

/// Every shape with this seed.
pub(super) fn all(seed: u64) -> Vec<Recording> {
    vec![
        open("open", seed, 6, 4, 900),
        // Most of it is what brings marks to the end of a block, as direct writes want it.
        open("padded", seed, 25, 1, 40),
        open("large", seed, 4, 1, 4_500),
        torn(seed),
        sealed("sealed", Recorder::new(seed, config(2))),
        recycled(seed),
        sealed("recycled, sealed", used_before(seed)),
        interval(seed),
        refused(seed),
    ]
}
