//! What the writer does, operation by operation.

use super::*;

#[test]
fn the_first_append_commits_at_once_and_the_next_ones_gather() {
    let (mut writer, mut disk) = (fresh(config(1)), TestDisk::new(1));
    settle(&mut writer, &mut disk, now(0));
    let first = writer.append(&[frame(true, &[b"one"])]).expect("room");
    let Some(
        op @ DiskOp::Commit {
            sync: SyncScope::Written,
            ..
        },
    ) = writer.poll(now(0))
    else {
        panic!("a commit starts at once")
    };
    let second = writer.append(&[frame(true, &[b"two"])]).expect("room");
    let third = writer.append(&[frame(true, &[b"three"])]).expect("room");
    assert_eq!(second.commit, third.commit);
    assert!(first.commit < second.commit);
    assert_eq!(writer.poll(now(0)), None, "one commit in flight");
    let completion = disk.run(op);
    let Completed::Durable(durable) = writer.completed(now(1), completion) else {
        panic!("the write succeeded")
    };
    assert!(durable.covers(first.commit) && !durable.covers(second.commit));
    assert_eq!(durable.mode(), SyncMode::Commit);
    settle(&mut writer, &mut disk, now(1));
    assert!(writer.is_idle());
    let stats = writer.stats();
    assert_eq!(
        (stats.commits, stats.commit_messages, stats.commits_synced),
        (2, 3, 2)
    );
    let recovered = read_back(&disk, 1, Evidence::default());
    let expected = [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()];
    assert_eq!(payloads(&recovered), expected);
    assert_eq!((recovered.tail, recovered.start), (Tail::Clean, Some(1)));
}

#[test]
fn what_nobody_waits_for_is_committed_after_50_ms_or_with_the_next_commit() {
    let (mut writer, mut disk) = (fresh(config(1)), TestDisk::new(1));
    settle(&mut writer, &mut disk, now(0));
    writer
        .append_lazy(now(10), &[frame(true, &[b"lazy"])])
        .expect("room");
    assert_eq!(writer.poll(now(59)), None);
    assert_eq!(writer.next_wakeup(), Some(now(60).mono));
    assert_eq!(settle(&mut writer, &mut disk, now(60)).len(), 1);
    writer
        .append_lazy(now(70), &[frame(true, &[b"lazy"])])
        .expect("room");
    writer.append(&[frame(true, &[b"eager"])]).expect("room");
    assert_eq!(settle(&mut writer, &mut disk, now(70)).len(), 1);
    assert_eq!(writer.next_wakeup(), None);
}

#[test]
fn a_full_segment_is_left_and_sealed_and_its_footer_is_read_instead_of_it() {
    let (mut writer, mut disk) = (fresh(config(1)), TestDisk::new(1));
    let body = [7; 5_000];
    let mut last = 1;
    for number in 0_u32..40 {
        let head = number.to_le_bytes();
        let (head, body): ([&[u8]; 1], [&[u8]; 1]) = ([&head], [&body]);
        last = writer
            .append(&[frame(true, &head), frame(false, &body)])
            .expect("room")
            .segment;
        settle(&mut writer, &mut disk, now(0));
    }
    assert!(last >= 4);
    let mut heads = Vec::new();
    for segment in 1..=last {
        let recovered = read_back(&disk, segment, Evidence::default());
        assert_eq!(
            recovered.complete,
            segment == last,
            "sealed ones have footers"
        );
        let index = recovered.frames.iter().filter(|it| it.kind == 1);
        heads.extend(index.map(|it| recovered.payload(it).to_vec()));
        // The whole scan agrees with the footer.
        let place = Place {
            spool_id: SPOOL,
            segment,
        };
        let bytes = disk.bytes(SegmentFile::live(SHARD, segment)).clone();
        let full = recover::recover(place, bytes, Evidence::default()).expect("readable");
        let listed: Vec<_> = full.frames.iter().filter(|it| it.kind == 1).collect();
        let footer: Vec<_> = recovered.frames.iter().filter(|it| it.kind == 1).collect();
        assert_eq!(listed.len(), footer.len());
        for (a, b) in listed.iter().zip(footer) {
            assert_eq!(
                (a.offset, a.commit, full.payload(a)),
                (b.offset, b.commit, recovered.payload(b))
            );
        }
        assert_eq!(
            (full.good_offset, &full.damage),
            (recovered.good_offset, &Vec::new())
        );
        assert_eq!(full.evidence, recovered.evidence);
    }
    let expected: Vec<Vec<u8>> = (0_u32..40).map(|it| it.to_le_bytes().to_vec()).collect();
    assert_eq!(heads, expected);
}

#[test]
fn what_is_larger_than_a_segment_is_refused_and_what_just_fits_is_not() {
    let (mut writer, mut disk) = (fresh(config(1)), TestDisk::new(1));
    let (mut fits, mut too_large) = (0, 64 << 10);
    while fits + 1 < too_large {
        let middle = (fits + too_large) / 2;
        match writer.append(&[frame(true, &[&vec![0; middle]])]) {
            Err(Refused::TooLarge) => too_large = middle,
            Ok(_) => fits = middle,
            Err(other) => panic!("{other}"),
        }
        settle(&mut writer, &mut disk, now(0));
    }
    // Header, mark, footer with a copy of the frame, trailer.
    assert!(
        fits.abs_diff(((64 << 10) - 4_096 - 1_700) / 2) < 512,
        "{fits}"
    );
    let last = writer
        .append(&[frame(true, &[&vec![9; fits]])])
        .expect("room");
    settle(&mut writer, &mut disk, now(0));
    let recovered = read_back(&disk, last.segment, Evidence::default());
    assert_eq!(payloads(&recovered), [vec![9; fits]]);
}

#[test]
fn more_than_may_wait_is_refused_and_taken_again_later() {
    let mut writer = fresh(Config {
        gather_bytes_max: 10_000,
        ..config(1)
    });
    let mut disk = TestDisk::new(1);
    let parts: &[&[u8]] = &[&[0; 4_000]];
    writer.append(&[frame(false, parts)]).expect("room");
    writer.append(&[frame(false, parts)]).expect("room");
    assert_eq!(writer.append(&[frame(false, parts)]), Err(Refused::Busy));
    writer
        .append_lazy(now(0), &[frame(false, parts)])
        .expect("outcomes go on");
    assert_eq!(writer.admission(), Err(Refused::Busy));
    settle(&mut writer, &mut disk, now(0));
    assert_eq!(writer.admission(), Ok(()));
    writer.append(&[frame(false, parts)]).expect("room again");
}

/// Polls until the next commit operation, running everything else.
fn next_commit(writer: &mut Writer, disk: &mut TestDisk, at: Now) -> DiskOp {
    loop {
        match writer.poll(at).expect("a commit is due") {
            op @ DiskOp::Commit { .. } => return op,
            op => {
                let completion = disk.run(op);
                writer.completed(at, completion);
            }
        }
    }
}

fn fail(op: DiskOp, fault: Fault) -> Completion {
    let number = op.op();
    let DiskOp::Commit { bytes, .. } = op else {
        panic!("a commit")
    };
    Completion {
        op: number,
        result: Err(fault),
        buffer: bytes,
    }
}

#[test]
fn a_failed_commit_fails_with_all_that_was_encoded_behind_it_and_its_segment_is_left_for_good() {
    let (mut writer, mut disk) = (fresh(config(1)), TestDisk::new(1));
    let kept = writer.append(&[frame(true, &[b"kept"])]).expect("room");
    settle(&mut writer, &mut disk, now(0));
    let lost = writer.append(&[frame(true, &[b"lost"])]).expect("room");
    let op = next_commit(&mut writer, &mut disk, now(0));
    let behind = writer.append(&[frame(true, &[b"behind"])]).expect("room");
    // All of it got to disk, and only then the sync failed.
    let DiskOp::Commit {
        file,
        offset,
        bytes,
        ..
    } = &op
    else {
        panic!("a commit")
    };
    disk.bytes(*file)[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
    match writer.completed(now(0), fail(op, Fault::Io)) {
        Completed::Failed(failed) => {
            assert!(failed.covers(lost.commit) && failed.covers(behind.commit));
            assert!(!failed.covers(kept.commit));
        }
        other => panic!("{other:?}"),
    }
    let batches = writer.take_failed();
    let names: Vec<_> = batches
        .iter()
        .flat_map(|it| it.frames().map(|it| it.2.to_vec()))
        .collect();
    assert_eq!(names, [b"lost".to_vec(), b"behind".to_vec()]);
    // The next commit comes by itself, elsewhere, and voids the lost one.
    let op = next_commit(&mut writer, &mut disk, now(0));
    let DiskOp::Commit { file, .. } = &op else {
        panic!("a commit")
    };
    assert_eq!(file.number, 2);
    let completion = disk.run(op);
    assert!(matches!(
        writer.completed(now(0), completion),
        Completed::Durable(_)
    ));
    settle(&mut writer, &mut disk, now(0));
    let newer = read_back(&disk, 2, Evidence::default());
    assert_eq!(
        payloads(&read_back(&disk, 1, newer.evidence)),
        [b"kept".to_vec()]
    );
    let without = payloads(&read_back(&disk, 1, Evidence::default()));
    assert_eq!(
        without,
        [b"kept".to_vec(), b"lost".to_vec()],
        "the disk does hold it"
    );
    assert!(!writer.uses(SegmentFile::live(SHARD, 1)));
    writer.reclaim(SegmentFile::live(SHARD, 1), 64 << 10, false);
    assert!(
        matches!(writer.poll(now(0)), Some(DiskOp::Remove { .. })),
        "never synced again"
    );
}

#[test]
fn after_failures_in_a_row_it_stops_and_it_heals_by_itself() {
    let (mut writer, mut disk) = (fresh(config(1)), TestDisk::new(1));
    let mut at = 0;
    writer.append(&[frame(true, &[b"x"])]).expect("room");
    for round in 0..6 {
        let op = next_commit(&mut writer, &mut disk, now(at));
        writer.completed(now(at), fail(op, Fault::NoSpace));
        let stopped = round >= 2;
        let admission = if stopped {
            Err(Refused::Stopped(Fault::NoSpace))
        } else {
            Ok(())
        };
        assert_eq!(writer.admission(), admission, "{round}");
        settle_background(&mut writer, &mut disk, now(at));
        if stopped {
            let wakeup = writer.next_wakeup().expect("it tries again").0 / 1_000;
            assert!((at + 1_000..=at + 30_000).contains(&wakeup));
            assert_eq!(writer.poll(now(wakeup - 1)), None);
            at = wakeup;
        }
    }
    writer
        .append_lazy(now(at), &[frame(true, &[b"outcome"])])
        .expect("outcomes are kept");
    assert_eq!(settle(&mut writer, &mut disk, now(at)).len(), 1);
    assert_eq!(writer.admission(), Ok(()));
}

/// Runs what is due except commits.
fn settle_background(writer: &mut Writer, disk: &mut TestDisk, at: Now) {
    while writer.stats().stopped.is_some() {
        let Some(op) = writer.poll(at) else { return };
        let completion = disk.run(op);
        writer.completed(at, completion);
    }
}

#[test]
fn a_full_disk_refuses_while_no_segment_can_be_made_and_goes_on_afterwards() {
    let (mut writer, mut disk) = (fresh(config(1)), TestDisk::new(1));
    disk.faults.no_space = 1_000;
    settle(&mut writer, &mut disk, now(0));
    assert_eq!(writer.admission(), Err(Refused::Stopped(Fault::NoSpace)));
    let refused = writer.append(&[frame(true, &[b"x"])]);
    assert_eq!(refused, Err(Refused::Stopped(Fault::NoSpace)));
    disk.faults.no_space = 0;
    let wakeup = writer.next_wakeup().expect("it tries again");
    settle(&mut writer, &mut disk, now(wakeup.0 / 1_000));
    assert_eq!(writer.admission(), Ok(()));
}

/// Appends until mail is refused, and tells how many fitted.
#[test]
fn nobody_waits_for_a_segment_that_cannot_be_made() {
    let (mut writer, mut disk) = (fresh(config(1)), TestDisk::new(1));
    let prepare = writer.poll(now(0)).expect("the first segment is made");
    let first = writer.append(&[frame(true, &[b"one"])]).expect("room");
    writer
        .append_lazy(now(0), &[frame(true, &[b"outcome"])])
        .expect("room");
    let second = writer.append(&[frame(true, &[b"two"])]).expect("room");
    assert_eq!(writer.poll(now(0)), None, "the commit waits for it");
    let completion = Completion {
        op: prepare.op(),
        result: Err(Fault::Io),
        buffer: prepare.into_buffer(),
    };
    let Completed::Failed(failed) = writer.completed(now(0), completion) else {
        panic!("both are told");
    };
    assert!(failed.covers(first.commit) && failed.covers(second.commit));
    let lost: usize = writer
        .take_failed()
        .iter()
        .map(|it| it.frames().count())
        .sum();
    assert_eq!(lost, 3, "the user gets all of it back");
    assert_eq!(
        writer.append(&[frame(true, &[b"three"])]),
        Err(Refused::Stopped(Fault::Io))
    );
    // Outcomes wait, and the segment is made once that is possible.
    writer
        .append_lazy(now(0), &[frame(true, &[b"outcome"])])
        .expect("outcomes are taken");
    assert_eq!(writer.poll(now(500)), None);
    settle(&mut writer, &mut disk, now(1_000));
    writer.append(&[frame(true, &[b"three"])]).expect("room");
    settle(&mut writer, &mut disk, now(1_000));
    let recovered = read_back(&disk, 2, Evidence::default());
    assert_eq!(
        payloads(&recovered),
        [b"outcome".to_vec(), b"three".to_vec()]
    );
}

fn fill(writer: &mut Writer, disk: &mut TestDisk) -> u32 {
    let mut taken = 0;
    while writer.append(&[frame(true, &[&[7; 900]])]).is_ok() {
        settle(writer, disk, now(0));
        taken += 1;
        assert!(taken < 1_000, "it is full at some time");
    }
    taken
}

#[test]
fn with_room_short_mail_leaves_a_blank_segment_and_outcomes_go_on() {
    let (mut writer, mut disk) = (fresh(config(1)), TestDisk::new(1));
    let keep = 256 << 10;
    settle(&mut writer, &mut disk, now(0));
    // Less than another segment above what is to stay free.
    let free = keep + (63 << 10);
    writer.set_space(Space { free, keep });
    let no_space = Err(Refused::Stopped(Fault::NoSpace));
    assert!((15..25).contains(&fill(&mut writer, &mut disk)));
    assert_eq!(writer.admission(), no_space);
    assert_eq!(
        writer.current_segment(),
        1,
        "mail leaves the second one blank"
    );
    assert!(writer.takes_moves());
    // Outcomes take the rest of this segment, then the one that was kept.
    let mut outcomes = 0;
    while writer.current_segment() < 3 {
        let outcome: &[&[u8]] = &[&[1; 300]];
        writer
            .append_lazy(now(0), &[frame(true, outcome)])
            .expect("outcomes are taken");
        writer.flush();
        settle(&mut writer, &mut disk, now(0));
        outcomes += 1;
        assert!(
            outcomes < 1_000,
            "a segment for outcomes alone may take what was to stay free"
        );
    }
    assert!(outcomes > 64);
    assert_eq!(writer.admission(), no_space);
    // Without room even for that, nothing is begun that cannot end.
    writer.set_space(Space { free: 0, keep });
    let prepared = writer.stats().segments_prepared;
    settle(&mut writer, &mut disk, now(5_000));
    assert_eq!(writer.stats().segments_prepared, prepared);
    assert!(writer.next_wakeup().is_some_and(|at| at > now(5_000).mono));
    // What is reclaimed takes its place, and mail goes on.
    writer.reclaim(SegmentFile::live(SHARD, 1), 64 << 10, false);
    settle(&mut writer, &mut disk, now(5_000));
    assert_eq!(writer.admission(), Ok(()));
    // And what is not needed is given back.
    writer.reclaim(SegmentFile::live(SHARD, 2), 64 << 10, false);
    settle(&mut writer, &mut disk, now(5_000));
    assert_eq!(writer.free_segments(), 0);
    let kinds: Vec<SegmentKind> = disk.list(SHARD).iter().map(|it| it.0.kind).collect();
    assert_eq!(kinds, [SegmentKind::Live; 2]);
}

#[test]
fn the_weaker_modes_say_so_and_interval_syncs_in_time() {
    let interval = core::time::Duration::from_millis(200);
    for (mode, synced) in [
        (SyncMode::Interval(interval), true),
        (SyncMode::None, false),
    ] {
        let mut writer = fresh(Config {
            sync: mode,
            ..config(1)
        });
        let mut disk = TestDisk::new(1);
        settle(&mut writer, &mut disk, now(0));
        writer.append(&[frame(true, &[b"x"])]).expect("room");
        let Some(DiskOp::Commit {
            sync: SyncScope::Nothing,
            ..
        }) = writer.poll(now(0))
        else {
            panic!()
        };
        let (mut writer, mut disk) = (fresh(writer.config().clone()), TestDisk::new(1));
        writer.append(&[frame(true, &[b"x"])]).expect("room");
        let events = settle(&mut writer, &mut disk, now(5));
        assert!(matches!(events[..], [Completed::Durable(it)] if it.mode() == mode));
        assert_eq!(writer.next_wakeup(), synced.then_some(now(205).mono));
        assert_eq!(
            matches!(writer.poll(now(205)), Some(DiskOp::Sync { .. })),
            synced
        );
    }
}

#[test]
fn a_reclaimed_segment_is_recycled_and_its_stale_records_never_pass() {
    let (mut writer, mut disk) = (fresh(config(1)), TestDisk::new(1));
    let body = vec![5; 20_000];
    let mut last = 1;
    let mut recycled = 0;
    for _ in 0..60 {
        let segment = writer
            .append(&[frame(true, &[b"m"]), frame(false, &[&body])])
            .expect("room")
            .segment;
        settle(&mut writer, &mut disk, now(0));
        if segment > last {
            writer.reclaim(SegmentFile::live(SHARD, last), 64 << 10, false);
            settle(&mut writer, &mut disk, now(0));
            recycled += usize::from(writer.free_segments() > 0 || segment > 3);
            last = segment;
        }
        let live = disk.list(SHARD);
        for (file, _) in live.iter().filter(|it| it.0.kind == SegmentKind::Live) {
            let recovered = read_back(&disk, file.number, Evidence::default());
            let fresh = |it: &recover::FrameRef| format::start_of(it.commit) == 1;
            assert!(recovered.frames.iter().all(fresh) && recovered.damage.is_empty());
            if file.number > last {
                assert!(recovered.frames.is_empty(), "prepared, not written");
            }
        }
    }
    assert!(recycled > 10);
    assert!(disk.list(SHARD).len() <= 5, "files are used again");
}

#[test]
fn what_is_kept_for_the_operator_is_kept_however_often_its_renaming_fails() {
    let (mut writer, mut disk) = (fresh(config(1)), TestDisk::new(1));
    let body = [7; 5_000];
    while writer.current_segment() == 1 {
        writer.append(&[frame(true, &[&body])]).expect("room");
        settle(&mut writer, &mut disk, now(0));
    }
    let file = SegmentFile::live(SHARD, 1);
    let kept = file.with_kind(SegmentKind::Damaged);
    writer.reclaim(file, 64 << 10, true);
    // At first nothing happens, then only the sync of the folder fails.
    for (at, happens) in [(0, false), (30_000, true)] {
        let op = writer.poll(now(at)).expect("it is tried");
        assert!(matches!(op, DiskOp::Rename { to, .. } if to == kept));
        let op = match happens {
            true => disk.run(op).op,
            false => op.op(),
        };
        let (result, buffer) = (Err(Fault::Io), Vec::new());
        let completion = Completion { op, result, buffer };
        writer.completed(now(at), completion);
        assert_eq!(writer.poll(now(at)), None, "not at once again");
    }
    let events = settle(&mut writer, &mut disk, now(60_000));
    assert!(matches!(events[..], [Completed::Reclaimed(it)] if it == file));
    let names: Vec<_> = disk.list(SHARD).into_iter().map(|it| it.0).collect();
    assert!(names.contains(&kept) && !names.contains(&file), "{names:?}");
}
