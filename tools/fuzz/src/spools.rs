//! A spool in memory, and segments that it has written.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use pelton::base::time::{Mono, Now, Wall};
use pelton::log::{self, Completion, DiskOp, Fault, SegmentFile, SegmentKind};
use pelton::spool::{Config, EventSeq, Home, Recovery, Spool};
use pelton::types::address::Address;
use pelton::types::id::{BatchId, MessageId, ShardId};
use pelton::types::message::{Content, Method, Origin, Recipient};
use pelton::types::outcome::{Outcome, OutcomeKind, Remote, Stage};
use pelton::types::reply::{Enhanced, Reply};

pub const SPOOL: u64 = 0x0123_4567_89ab_cdef;
pub const SHARD: ShardId = ShardId(0);
pub const SHARDS: u16 = 1;
/// The smallest there are: inputs stay short.
pub const SEGMENT_BYTES: u64 = 16_384;

/// Operations that a spool is given before it has to be content.
const OPERATIONS_MAX: usize = 200;

pub fn now(ms: u64) -> Now {
    Now {
        mono: Mono(ms * 1_000),
        wall: Wall(1_790_000_000_000_000 + ms * 1_000),
    }
}

pub fn config(start: u32) -> Config {
    let mut log = log::Config::new(SPOOL, SHARD, start, SHARDS);
    log.segment_bytes = SEGMENT_BYTES;
    let segments_max = 32;
    Config { log, segments_max }
}

/// A disk that never fails.
#[derive(Clone, Default)]
pub struct Disk {
    pub files: BTreeMap<SegmentFile, Vec<u8>>,
}

impl Disk {
    pub fn list(&self) -> Vec<(SegmentFile, u64)> {
        let files = self.files.iter();
        files.map(|(file, it)| (*file, it.len() as u64)).collect()
    }

    pub fn read(&self, file: SegmentFile, at: u64, bytes: usize) -> Result<Vec<u8>, Fault> {
        let at = usize::try_from(at).map_err(|_| Fault::Io)?;
        let end = at.checked_add(bytes).ok_or(Fault::Io)?;
        let found = self.files.get(&file).and_then(|it| it.get(at..end));
        found.map(<[u8]>::to_vec).ok_or(Fault::Io)
    }

    fn write(&mut self, file: SegmentFile, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        let at = at as usize;
        let it = self.files.get_mut(&file).ok_or(Fault::Io)?;
        let place = it.get_mut(at..at + bytes.len()).ok_or(Fault::Io)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn prepare(&mut self, file: SegmentFile, recycle: Option<SegmentFile>, file_bytes: u64) {
        let before = recycle.and_then(|it| self.files.remove(&it));
        let bytes = before.unwrap_or_else(|| vec![0; file_bytes as usize]);
        self.files.remove(&file.with_kind(SegmentKind::New));
        self.files.insert(file, bytes);
    }

    pub fn run(&mut self, op: DiskOp) -> Completion {
        let number = op.op();
        let mut read = Vec::new();
        let result = match &op {
            DiskOp::Commit {
                file,
                offset,
                bytes,
                ..
            }
            | DiskOp::Seal {
                file,
                offset,
                bytes,
                ..
            } => self.write(*file, *offset, bytes),
            DiskOp::Sync { .. } => Ok(()),
            DiskOp::Prepare {
                file,
                recycle,
                header,
                file_bytes,
                ..
            } => {
                self.prepare(*file, *recycle, *file_bytes);
                self.write(*file, 0, header)
            }
            DiskOp::Rename { from, to, .. } => {
                let it = self.files.remove(from);
                self.files.extend(it.map(|it| (*to, it)));
                Ok(())
            }
            DiskOp::Remove { file, .. } => {
                self.files.remove(file);
                Ok(())
            }
            DiskOp::Read {
                file,
                offset,
                bytes,
                ..
            } => self
                .read(*file, *offset, *bytes as usize)
                .map(|it| read = it),
        };
        let buffer = match &op {
            DiskOp::Read { .. } => read,
            _ => op.into_buffer(),
        };
        Completion {
            op: number,
            result,
            buffer,
        }
    }

    /// What a start finds, unless it must not use it.
    pub fn start(&self, start: u32) -> Option<(Spool, Home)> {
        let mut recovery = Recovery::new(SPOOL, SHARDS);
        let mut read = |file: SegmentFile, at: u64, bytes: usize| self.read(file, at, bytes);
        recovery.folder(SHARD, self.list(), &mut read).ok()?;
        let mut home = recovery.finish(&mut read).pop()?;
        let spool = Spool::whole(config(start), &mut home);
        Some((spool, home))
    }

    /// Carries out what a spool wants.
    pub fn settle(&mut self, spool: &mut Spool, at: Now) {
        for _ in 0..OPERATIONS_MAX {
            let Some(op) = spool.poll(at) else { return };
            let completion = self.run(op);
            spool.completed(at, completion);
        }
    }
}

fn content(batch: BatchId, body_bytes: usize) -> Content {
    Content {
        batch,
        received: now(0).wall,
        origin: Origin {
            peer: [127, 0, 0, 1].into(),
            helo: "client.example".into(),
            method: Method::Esmtp,
        },
        sender: Address::parse("sender@origin.example"),
        eight_bit: body_bytes.is_multiple_of(2),
        smtputf8: false,
        subject: "a subject".into(),
        friendly_from: "Somebody <sender@origin.example>".into(),
        flow: None,
        body: Bytes::from(vec![b'x'; body_bytes]),
    }
}

fn outcome(batch: BatchId, recipient: u16, kind: OutcomeKind) -> Outcome {
    let (code, enhanced) = (250, Some(Enhanced(2, 0, 0)));
    Outcome {
        message: MessageId { batch, recipient },
        kind,
        attempts: 1,
        at: now(1_000).wall,
        reply: Reply::remote(code, enhanced, "as you like"),
        stage: Stage::Final,
        remote: Some(Remote {
            host: "mx.example".into(),
            ip: [127, 0, 0, 2].into(),
            local: Some([127, 0, 0, 3].into()),
        }),
        possible_duplicate: false,
    }
}

/// What a spool has on disk after some mail: sealed segments and an open one.
pub fn written() -> Disk {
    let mut disk = Disk::default();
    let (mut spool, _) = disk.start(1).expect("an empty folder");
    disk.settle(&mut spool, now(0));
    let to = |name: &str| Recipient {
        address: Address::parse(name).expect("an address"),
        binding: Arc::from("b1"),
    };
    for number in 1..=30_u32 {
        let at = now(u64::from(number) * 100);
        let batch = BatchId::new(1, SHARD, number);
        let recipients = [to("one@there.example"), to("two@else.example")];
        let stored = spool.store(&content(batch, 200 + number as usize * 7), &recipients);
        let stored = stored.expect("there is room");
        disk.settle(&mut spool, at);
        if number % 3 == 0 {
            let due = now(60_000).wall;
            spool.settle(at, &outcome(batch, 0, OutcomeKind::Delayed { due }));
            spool.settle(at, &outcome(batch, 1, OutcomeKind::Bounced));
        }
        if number % 5 == 0 {
            spool.events_durable(EventSeq(stored.event.0));
        }
        spool.flush(at);
        disk.settle(&mut spool, at);
    }
    disk
}
