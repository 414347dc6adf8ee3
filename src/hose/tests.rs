//! The event log on a simulated disk: what is synced stays, what is only written may be lost.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::types::address::Address;
use crate::types::flow::FlowNames;
use crate::types::id::BatchId;
use crate::types::id::MessageId;
use crate::types::message::Content;
use crate::types::message::Method;
use crate::types::message::Origin;
use crate::types::outcome::OutcomeKind;
use crate::types::outcome::Remote;
use crate::types::outcome::Stage;
use crate::types::reply::Enhanced;
use crate::types::reply::Reply;

const START: Wall = Wall(1_767_200_000_000_000);

#[derive(Default)]
struct DiskFile {
    bytes: Vec<u8>,
    synced: usize,
    open: bool,
}

/// A folder, and a clock that the test moves.
#[derive(Default)]
struct World {
    files: BTreeMap<String, DiskFile>,
    now: Now,
    ops: usize,
}

impl World {
    fn new() -> World {
        World {
            now: Now {
                mono: Mono(0),
                wall: START,
            },
            ..World::default()
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = Now {
            mono: self.now.mono + time,
            wall: self.now.wall + time,
        };
    }

    fn apply(&mut self, op: &HoseOp) {
        self.ops += 1;
        match op {
            HoseOp::Write {
                file,
                offset,
                bytes,
                ..
            } => {
                assert!(
                    *offset > 0 || !self.files.contains_key(file),
                    "{file} is not made twice"
                );
                let disk = self.files.entry(file.clone()).or_default();
                assert_eq!(
                    *offset,
                    disk.bytes.len() as u64,
                    "a log is only appended to"
                );
                disk.bytes.extend_from_slice(bytes);
                disk.open = true;
            }
            HoseOp::Sync {
                file, first, last, ..
            } => {
                let disk = self.files.get_mut(file).expect("the file was written");
                assert_eq!(*first, disk.synced == 0);
                disk.synced = disk.bytes.len();
                disk.open = !*last;
            }
            HoseOp::Cut { file, size, .. } => {
                if let Some(disk) = self.files.get_mut(file) {
                    disk.bytes.truncate(*size as usize);
                    disk.synced = disk.bytes.len();
                    disk.open = false;
                }
            }
            HoseOp::Remove { file, .. } => {
                self.files.remove(file);
            }
        }
    }

    /// Does what is due now, and fails what `fault` says.
    fn run(&mut self, hose: &mut Hose, mut fault: impl FnMut(&HoseOp) -> Option<Fault>) {
        while let Some(op) = hose.poll(self.now) {
            assert_eq!(hose.poll(self.now), None, "one operation at a time");
            assert_eq!(hose.next_wakeup(), None);
            let result = match fault(&op) {
                Some(fault) => Err(fault),
                None => {
                    self.apply(&op);
                    Ok(())
                }
            };
            hose.completed(self.now, op.op(), result);
        }
    }

    /// Lets time pass from wake-up to wake-up until nothing released waits.
    fn settle(&mut self, hose: &mut Hose) {
        for _ in 0..1_000 {
            self.run(hose, |_| None);
            if hose.is_flushed() {
                return;
            }
            let next = hose
                .next_wakeup()
                .expect("something waits, so something is timed");
            assert!(
                next > self.now.mono,
                "a wake-up that changes nothing would spin"
            );
            self.pass(next.since(self.now.mono));
        }
        panic!("nothing gets done");
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let texts = self
            .files
            .values()
            .map(|file| String::from_utf8(file.bytes.clone()).unwrap());
        let parse = |text: String| {
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
            lines.collect::<Vec<_>>()
        };
        texts.flat_map(parse).collect()
    }

    fn found(&self) -> Vec<FileFound> {
        let found = |(name, file): (&String, &DiskFile)| FileFound {
            name: name.clone(),
            size: file.bytes.len() as u64,
            modified: self.now.wall,
            tail: file.bytes[file.bytes.len().saturating_sub(TAIL_BYTES_MAX)..].to_vec(),
        };
        self.files.iter().map(found).collect()
    }
}

fn content() -> Content {
    Content {
        batch: BatchId::new(3, ShardId(1), 9),
        received: START,
        origin: Origin {
            peer: "127.0.0.9".parse().unwrap(),
            helo: "c.example".into(),
            method: Method::Esmtp,
        },
        sender: Address::parse("News@A.example"),
        eight_bit: false,
        smtputf8: false,
        subject: "50 % \"off\"\tnow".into(),
        friendly_from: "News <news@a.example>".into(),
        flow: FlowNames {
            class: "transactional",
            tenant: "acme",
            campaign: "",
        }
        .flow(),
        body: Bytes::from_static(b"x\r\n"),
    }
}

struct Fixture {
    content: Content,
    recipient: Address,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture {
            content: content(),
            recipient: Address::parse("Bob@B.Example.").unwrap(),
        }
    }

    fn facts(&self, recipient: u16) -> EventFacts<'_> {
        EventFacts {
            content: &self.content,
            size: 4_096,
            message: MessageId {
                batch: self.content.batch,
                recipient,
            },
            recipient: &self.recipient,
            binding: "a",
            binding_group: Some("pool"),
        }
    }

    fn outcome(&self, recipient: u16, kind: OutcomeKind, attempts: u16, reply: Reply) -> Outcome {
        Outcome {
            message: MessageId {
                batch: self.content.batch,
                recipient,
            },
            kind,
            attempts,
            at: START + Duration::from_millis(1_500),
            reply,
            stage: Stage::Final,
            remote: Some(Remote {
                host: "mx.b.example".into(),
                ip: "127.0.0.8".parse().unwrap(),
                local: "127.0.0.2".parse().ok(),
            }),
            possible_duplicate: false,
        }
    }
}

fn small() -> Settings {
    Settings {
        max_file_bytes: 4_000,
        max_total_bytes: 12_000,
        ..Settings::default()
    }
}

fn ids(lines: &[serde_json::Value]) -> Vec<String> {
    lines
        .iter()
        .map(|line| line["event_id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn events_tell_what_happened_under_the_known_names() {
    let (mut world, fixture) = (World::new(), Fixture::new());
    let mut hose = Hose::new(Settings::default(), ShardId(1), Vec::new());
    hose.injection(1, &fixture.facts(0));
    let due = START + Duration::from_secs(60);
    let reply = Reply::remote(
        421,
        Some(Enhanced(4, 7, 28)),
        "rate of [127.0.0.2] 12ab34cd56ef",
    );
    let delayed = fixture.outcome(0, OutcomeKind::Delayed { due }, 1, reply);
    hose.outcome(2, &fixture.facts(0), &delayed, 70);
    let reply = Reply::remote(250, None, "queued as 7");
    let delivered = fixture.outcome(0, OutcomeKind::Delivered, 1, reply);
    hose.outcome(3, &fixture.facts(0), &delivered, 0);
    hose.release(3);
    world.settle(&mut hose);
    let lines = world.lines();
    assert_eq!(
        lines[1],
        serde_json::json!({
            "type": "delay", "event_id": "00001G1000009-0-d1".replace("00001G1000009",
                &fixture.content.batch.to_string()),
            "timestamp": START.rfc3339().to_string().replace("20.000Z", "21.500Z"),
            "message_id": fixture.facts(0).message.to_string(),
            "batch_id": fixture.content.batch.to_string(),
            "msg_from": "News@A.example", "rcpt_to": "bob@b.example.",
            "raw_rcpt_to": "Bob@B.Example.", "friendly_from": "News <news@a.example>",
            "subject": "50 % \"off\"\tnow", "recipient_domain": "b.example",
            "routing_domain": "b.example", "binding": "a", "binding_group": "pool",
            "class": "transactional", "tenant": "acme", "campaign_id": null,
            "recv_method": "esmtp", "msg_size": 4096,
            "injection_time": START.rfc3339().to_string(), "outcome": "delayed",
            "delv_method": "esmtp", "sending_ip": "127.0.0.2", "ip_address": "127.0.0.8",
            "remote_host": "mx.b.example", "num_retries": 0, "queue_time": 1500,
            "next_attempt": due.rfc3339().to_string(), "bounce_class": 70,
            "error_code": "421", "enhanced_code": "4.7.28", "internal": false,
            "reason": "rate of [<ip>] <id>", "raw_reason": "rate of [127.0.0.2] 12ab34cd56ef",
            "conn_stage": "final", "possible_duplicate": false,
        })
    );
    assert_eq!(lines[0]["type"], "injection");
    assert_eq!(lines[0]["remote_addr"], "127.0.0.9");
    assert_eq!(lines[2]["type"], "delivery");
    assert_eq!(lines[2]["num_retries"], 1);
    assert_eq!(
        lines[2]["bounce_class"],
        serde_json::Value::Null,
        "a delivery has none"
    );
}

#[test]
fn the_end_of_a_message_has_one_event_id_whatever_the_end() {
    let fixture = Fixture::new();
    let kinds = [
        OutcomeKind::Bounced,
        OutcomeKind::Expired,
        OutcomeKind::Discarded,
    ];
    for kind in kinds {
        let (mut world, mut hose) = (World::new(), Hose::new(small(), ShardId(0), Vec::new()));
        let reply = Reply::internal(554, Enhanced(5, 4, 7), "expired");
        hose.outcome(
            0,
            &fixture.facts(7),
            &fixture.outcome(7, kind, 2, reply),
            24,
        );
        world.settle(&mut hose);
        let line = &world.lines()[0];
        assert_eq!(line["type"], "bounce");
        assert_eq!(line["event_id"], format!("{}-7-t", fixture.content.batch));
        assert_eq!(
            (&line["internal"], &line["num_retries"]),
            (&true.into(), &1.into())
        );
    }
}

#[test]
fn a_rejection_with_hostile_text_is_one_whole_line() {
    let (mut world, mut hose) = (World::new(), Hose::new(small(), ShardId(0), Vec::new()));
    let evil = "\"}\n{\"type\":\"delivery\"}\u{9b}31m\0".repeat(200);
    let reply = Reply::remote(550, None, &evil);
    for (sender, recipient) in [(Some(evil.as_str()), Some(evil.as_str())), (None, None)] {
        hose.rejection(&RejectionFacts {
            at: START,
            peer: "::1".parse().unwrap(),
            helo: &evil,
            method: "esmtp",
            sender,
            recipient,
            stage: "rcptto",
            reply: &reply,
            bounce_class: 54,
        });
    }
    world.settle(&mut hose);
    let lines = world.lines();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["type"] == "policy_rejection"));
    assert_eq!(lines[1]["rcpt_to"], serde_json::Value::Null);
    assert_ne!(lines[0]["event_id"], lines[1]["event_id"]);
}

#[test]
fn nothing_is_written_before_its_commit_and_nothing_of_a_failed_one() {
    let (mut world, fixture) = (World::new(), Fixture::new());
    let mut hose = Hose::new(Settings::default(), ShardId(0), Vec::new());
    for commit in 1..=4 {
        hose.injection(commit, &fixture.facts(commit as u16));
    }
    world.run(&mut hose, |_| None);
    assert!(world.files.is_empty() && hose.next_wakeup().is_none());
    hose.discard(2);
    hose.release(3);
    assert_eq!(hose.durable_upto(), 0);
    world.settle(&mut hose);
    assert_eq!(hose.durable_upto(), 3);
    let kept = ids(&world.lines());
    let id = |n: u16| format!("{}-i", fixture.facts(n).message);
    assert_eq!(kept, [id(1), id(3)]);
    hose.release(9);
    world.settle(&mut hose);
    assert_eq!(hose.durable_upto(), 9);
    assert_eq!(world.lines().len(), 3);
}

#[test]
fn lines_gather_for_a_tenth_of_a_second_and_are_synced_within_a_second() {
    let (mut world, fixture) = (World::new(), Fixture::new());
    let mut hose = Hose::new(Settings::default(), ShardId(0), Vec::new());
    hose.injection(1, &fixture.facts(0));
    hose.release(1);
    world.run(&mut hose, |_| None);
    assert_eq!((world.ops, hose.next_wakeup()), (0, Some(Mono(100_000))));
    world.pass(Duration::from_millis(100));
    world.run(&mut hose, |_| None);
    assert_eq!((world.ops, hose.next_wakeup()), (1, Some(Mono(1_100_000))));
    assert_eq!(hose.durable_upto(), 0, "written is not durable");
    world.pass(Duration::from_secs(1));
    world.run(&mut hose, |_| None);
    assert_eq!((world.ops, hose.durable_upto()), (2, 1));
    let wakeup = hose.next_wakeup();
    assert_eq!(wakeup, None, "an idle log wakes nobody");
    let mut waits = 0;
    while hose.stats().backlog_bytes < Settings::default().gather_bytes as u64 {
        hose.injection(1, &fixture.facts(waits));
        waits += 1;
    }
    world.run(&mut hose, |_| None);
    assert_eq!(world.ops, 3, "a full buffer does not wait");
}

#[test]
fn a_flush_waits_for_nothing() {
    let (mut world, fixture) = (World::new(), Fixture::new());
    let mut hose = Hose::new(Settings::default(), ShardId(0), Vec::new());
    hose.injection(1, &fixture.facts(0));
    hose.release(1);
    hose.flush();
    world.run(&mut hose, |_| None);
    assert!(hose.is_flushed());
    assert_eq!(hose.durable_upto(), 1);
}

#[test]
fn files_end_at_their_size_and_at_midnight_and_old_ones_go() {
    let (mut world, fixture) = (World::new(), Fixture::new());
    let mut hose = Hose::new(small(), ShardId(2), Vec::new());
    for n in 0..40 {
        hose.injection(n, &fixture.facts(n as u16));
        hose.release(n);
        world.settle(&mut hose);
    }
    world.run(&mut hose, |_| None);
    let total: usize = world.files.values().map(|file| file.bytes.len()).sum();
    assert!(
        total <= 12_000 && world.files.len() > 2,
        "{total} in {}",
        world.files.len()
    );
    assert!(world.files.values().all(|file| file.bytes.len() <= 4_000));
    assert_eq!(world.files.values().filter(|file| file.open).count(), 1);
    assert_eq!(hose.stats().file_bytes, total as u64);
    assert_eq!(hose.stats().files, world.files.len() as u64);
    let kept = ids(&world.lines());
    assert_eq!(
        kept.last(),
        Some(&format!("{}-i", fixture.facts(39).message))
    );

    let before = world.files.len();
    world.pass(Duration::from_secs(86_400));
    hose.injection(40, &fixture.facts(40));
    hose.release(40);
    world.settle(&mut hose);
    let newest = world.files.last_key_value().unwrap();
    assert_eq!(
        newest.1.bytes.iter().filter(|b| **b == b'\n').count(),
        1,
        "a day, a file"
    );
    assert!(world.files.len() <= before + 1);

    world.run(&mut hose, |_| None);
    let wakeup = hose.next_wakeup().expect("files have an end");
    world.pass(wakeup.since(world.now.mono) + Settings::default().retention);
    world.run(&mut hose, |_| None);
    assert_eq!(
        world.files.len(),
        1,
        "only the open file outlives the retention"
    );
}

#[test]
fn what_a_failure_leaves_in_doubt_is_written_again_to_a_new_file() {
    for broken in ["write", "sync"] {
        let (mut world, fixture) = (World::new(), Fixture::new());
        let mut hose = Hose::new(Settings::default(), ShardId(0), Vec::new());
        hose.injection(1, &fixture.facts(1));
        hose.release(1);
        world.settle(&mut hose);
        for n in 2..=3 {
            hose.injection(n, &fixture.facts(n as u16));
            hose.release(n);
            world.pass(Duration::from_millis(200));
            world.run(&mut hose, |_| None);
            world.pass(Duration::from_millis(200));
            world.run(&mut hose, |op| match op {
                HoseOp::Write { .. } if n == 3 && broken == "write" => Some(Fault::Short),
                _ => None,
            });
        }
        if broken == "sync" {
            world.pass(Duration::from_secs(1));
            let sync = |op: &HoseOp| matches!(op, HoseOp::Sync { .. }).then_some(Fault::Failed(5));
            world.run(&mut hose, sync);
        }
        assert_eq!(hose.durable_upto(), 1, "{broken}");
        assert!(hose.stats().failing);
        assert_eq!(hose.stats().failures, 1);
        world.settle(&mut hose);
        assert_eq!((hose.durable_upto(), hose.stats().events_lost), (3, 0));
        assert_eq!(
            world.files.len(),
            2,
            "a file that failed is not written again"
        );
        let kept = ids(&world.lines());
        let id = |n: u16| format!("{}-i", fixture.facts(n).message);
        assert_eq!(kept, [id(1), id(2), id(3)], "{broken}");
        assert_eq!(hose.take_notices().len(), 2);
    }
}

#[test]
fn a_disk_that_stays_full_costs_counted_events_and_heals_by_itself() {
    let (mut world, fixture) = (World::new(), Fixture::new());
    let settings = Settings {
        backlog_bytes_max: 10_000,
        ..Settings::default()
    };
    let mut hose = Hose::new(settings, ShardId(0), Vec::new());
    let mut commit = 0;
    for _ in 0..200 {
        commit += 1;
        hose.injection(commit, &fixture.facts(commit as u16));
        hose.release(commit);
        world.pass(Duration::from_secs(1));
        world.run(&mut hose, |_| Some(Fault::NoSpace));
        assert!(hose.stats().backlog_bytes <= 11_000);
        assert!(hose.staged_bytes + hose.gathered.len() + hose.unsynced.len() < 11_000);
    }
    let lost = hose.stats().events_lost;
    assert!(lost > 100);
    assert_eq!(hose.durable_upto(), 0);
    world.settle(&mut hose);
    assert_eq!(hose.durable_upto(), commit);
    assert_eq!(world.lines().len() as u64, commit - lost);
    assert_eq!(hose.stats().events_written, commit - lost);
    hose.injection(commit + 1, &fixture.facts(0));
    hose.release(commit + 1);
    world.settle(&mut hose);
    assert_eq!(
        hose.stats().events_lost,
        lost,
        "nothing is lost once the disk is back"
    );
    let notices = hose.take_notices();
    assert!(
        notices
            .iter()
            .any(|notice| notice.contains("no space left")),
        "{notices:?}"
    );
    assert!(
        notices
            .iter()
            .any(|notice| notice.contains("counted and not kept")),
        "{notices:?}"
    );
}

#[test]
fn a_torn_tail_is_cut_at_the_next_start_and_writing_goes_elsewhere() {
    let (mut world, fixture) = (World::new(), Fixture::new());
    let mut hose = Hose::new(Settings::default(), ShardId(0), Vec::new());
    for n in 1..=3 {
        hose.injection(n, &fixture.facts(n as u16));
        hose.release(n);
        world.settle(&mut hose);
    }
    let name = world.files.first_key_value().unwrap().0.clone();
    let whole = world.files[&name].bytes.clone();
    for torn in 1..whole.len() {
        let mut world = World {
            now: world.now,
            ..World::default()
        };
        let bytes = whole[..torn].to_vec();
        let lines = bytes.iter().filter(|b| **b == b'\n').count();
        world.files.insert(
            name.clone(),
            DiskFile {
                bytes,
                ..DiskFile::default()
            },
        );
        let mut hose = Hose::new(Settings::default(), ShardId(0), world.found());
        world.run(&mut hose, |_| None);
        assert_eq!(world.lines().len(), lines, "cut at {torn}");
        assert_eq!(
            hose.stats().file_bytes,
            world.files[&name].bytes.len() as u64
        );
        hose.injection(0, &fixture.facts(9));
        world.settle(&mut hose);
        assert_eq!((world.lines().len(), world.files.len()), (lines + 1, 2));
    }
}

#[test]
fn a_gap_that_a_power_cut_left_becomes_one_line_that_readers_pass_over() {
    let mut world = World::new();
    let name = FileName::new(ShardId(0), START, 41).to_string();
    let mut bytes = b"{\"type\":\"injection\"}\n".to_vec();
    bytes.resize(bytes.len() + 2 * TAIL_BYTES_MAX, 0);
    let size = bytes.len();
    world.files.insert(
        name.clone(),
        DiskFile {
            bytes,
            ..DiskFile::default()
        },
    );
    world.files.insert("notes.txt".into(), DiskFile::default());
    let mut hose = Hose::new(Settings::default(), ShardId(0), world.found());
    world.run(&mut hose, |_| None);
    let file = &world.files[&name];
    assert_eq!(
        (file.bytes.len(), file.bytes.last()),
        (size + 1, Some(&b'\n'))
    );
    assert!(!file.open && file.synced == size + 1);
    hose.injection(0, &Fixture::new().facts(0));
    world.settle(&mut hose);
    assert!(
        world.files.keys().any(|name| name.contains("-0042.")),
        "numbers go on"
    );
    assert!(world.files.contains_key("notes.txt"));
}

#[test]
fn a_file_that_cannot_be_mended_or_removed_does_not_stop_the_log() {
    let (mut world, fixture) = (World::new(), Fixture::new());
    let name = FileName::new(ShardId(0), START, 1).to_string();
    world.files.insert(
        name,
        DiskFile {
            bytes: b"{}\n{".to_vec(),
            ..DiskFile::default()
        },
    );
    let settings = Settings {
        retention: Duration::from_secs(600),
        ..Settings::default()
    };
    let mut hose = Hose::new(settings, ShardId(0), world.found());
    for n in 1..=400 {
        hose.injection(n, &fixture.facts(n as u16));
        hose.release(n);
        world.pass(Duration::from_secs(2));
        let broken = |op: &HoseOp| match op {
            HoseOp::Cut { .. } | HoseOp::Remove { .. } => Some(Fault::Failed(30)),
            _ => None,
        };
        world.run(&mut hose, broken);
        world.pass(Duration::from_secs(2));
        world.run(&mut hose, broken);
    }
    assert_eq!(hose.durable_upto(), 399, "the last one was not synced yet");
    let notices = hose.take_notices();
    assert!(
        notices
            .iter()
            .any(|notice| notice.contains("could not be mended")),
        "{notices:?}"
    );
    assert!(
        notices.iter().any(|notice| notice.contains("removing")),
        "{notices:?}"
    );
}
