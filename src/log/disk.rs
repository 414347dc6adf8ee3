//! What the log asks of a disk, as data, and what it is told afterwards. The surroundings of the
//! engine carry operations out: glommio on a real disk, the simulation on one that fails.

use core::fmt;

use crate::types::id::ShardId;

/// What a file of a shard's folder is for; its name says it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SegmentKind {
    /// Holds records: `seg-0000000000000001.log`. Recovery reads these and no others.
    Live,
    /// Reclaimed, waiting to be used again: `free-....log`. Its content means nothing.
    Free,
    /// Being created: `new-....log`. Found at a start it is the rest of a crash: delete it.
    New,
    /// Reclaimed, but recovery had found damage in it: `damaged-....log`, kept for the operator.
    Damaged,
}

/// Names one file of the log: folder of a shard, use, number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentFile {
    /// The folder, which may be that of a shard that no longer exists.
    pub shard: ShardId,
    pub kind: SegmentKind,
    /// Grows by one with every segment of the folder.
    pub number: u64,
}

const NAMES: [(SegmentKind, &str); 4] = [
    (SegmentKind::Live, "seg-"),
    (SegmentKind::Free, "free-"),
    (SegmentKind::New, "new-"),
    (SegmentKind::Damaged, "damaged-"),
];
const FOLDER_PREFIX: &str = "shard-";
const NUMBER_DIGITS: usize = 16;
const FILE_SUFFIX: &str = ".log";

/// The folder of a shard inside the spool folder: `shard-07`.
pub fn folder_name(shard: ShardId) -> String {
    format!("{FOLDER_PREFIX}{:02}", shard.0)
}

/// The shard whose folder this is; nothing for any other name.
pub fn parse_folder_name(name: &str) -> Option<ShardId> {
    let shard = ShardId(name.strip_prefix(FOLDER_PREFIX)?.parse().ok()?);
    (folder_name(shard) == name).then_some(shard)
}

/// No log gets so far: a file of a greater number is somebody else's, and numbers can be added to.
const NUMBER_MAX: u64 = 1 << 48;

impl SegmentFile {
    pub fn live(shard: ShardId, number: u64) -> SegmentFile {
        let kind = SegmentKind::Live;
        SegmentFile {
            shard,
            kind,
            number,
        }
    }

    /// The same segment in another use.
    pub fn with_kind(self, kind: SegmentKind) -> SegmentFile {
        SegmentFile { kind, ..self }
    }

    /// Name inside the shard's folder.
    pub fn file_name(self) -> String {
        let prefix = NAMES
            .iter()
            .find(|(kind, _)| *kind == self.kind)
            .map_or("", |it| it.1);
        format!("{prefix}{:016x}{FILE_SUFFIX}", self.number)
    }

    /// The file that [`Self::file_name`] names so; nothing for any other name.
    pub fn parse_file_name(shard: ShardId, name: &str) -> Option<SegmentFile> {
        let stem = name.strip_suffix(FILE_SUFFIX)?;
        let (kind, digits) = NAMES
            .iter()
            .find_map(|(kind, prefix)| Some((*kind, stem.strip_prefix(prefix)?)))?;
        if digits.len() != NUMBER_DIGITS {
            return None;
        }
        let number = u64::from_str_radix(digits, 16).ok()?;
        let file = SegmentFile {
            shard,
            kind,
            number,
        };
        (number <= NUMBER_MAX && file.file_name() == name).then_some(file)
    }
}

impl fmt::Display for SegmentFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", folder_name(self.shard), self.file_name())
    }
}

/// Names an operation until its completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(pub u64);

/// What of a commit is durable when it has ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncScope {
    Nothing,
    /// What it writes: all that was written to the file before is durable already. A device that
    /// can write through its cache needs no flush for that.
    Written,
    /// All that has been written to the file.
    File,
}

/// One operation on the disk. Several may be under way at once; each is answered by exactly one
/// [`Completion`], whatever happens. A write that wrote less than it should has failed.
#[derive(Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Write all of `bytes` at `offset` (in pieces if need be), check that every piece was whole,
    /// and make durable what `sync` says. After a failure do nothing more to the file: no second
    /// write, no second sync.
    Commit {
        op: OpId,
        file: SegmentFile,
        offset: u64,
        bytes: Vec<u8>,
        sync: SyncScope,
    },
    /// `fdatasync` the file (`Spool_Sync = interval` when nothing is being written).
    Sync { op: OpId, file: SegmentFile },
    /// Make a segment. With `recycle`: that file is open for writing as it is. Without: remove
    /// what is left under the name `file.with_kind(New)`, create it, write `file_bytes` zeros.
    /// Then write `header` at 0, `fdatasync`, rename to `file`, sync the folder.
    Prepare {
        op: OpId,
        file: SegmentFile,
        recycle: Option<SegmentFile>,
        header: Vec<u8>,
        file_bytes: u64,
    },
    /// Write all of `bytes` at `offset`, then `fdatasync`. Background: commits go on elsewhere.
    Seal {
        op: OpId,
        file: SegmentFile,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Rename within the folder, then sync the folder. A file that is not there has been renamed
    /// before, and is a success.
    Rename {
        op: OpId,
        from: SegmentFile,
        to: SegmentFile,
    },
    /// Remove, then sync the folder. A file that is not there is a success.
    Remove { op: OpId, file: SegmentFile },
    /// Read exactly `bytes` bytes at `offset`; fewer is a failure.
    Read {
        op: OpId,
        file: SegmentFile,
        offset: u64,
        bytes: u32,
    },
}

impl DiskOp {
    pub fn op(&self) -> OpId {
        match self {
            DiskOp::Commit { op, .. }
            | DiskOp::Sync { op, .. }
            | DiskOp::Prepare { op, .. }
            | DiskOp::Seal { op, .. }
            | DiskOp::Rename { op, .. }
            | DiskOp::Remove { op, .. }
            | DiskOp::Read { op, .. } => *op,
        }
    }

    /// The buffer that goes back with the [`Completion`] of an operation that was not begun.
    pub fn into_buffer(self) -> Vec<u8> {
        match self {
            DiskOp::Commit { bytes, .. } | DiskOp::Seal { bytes, .. } => bytes,
            DiskOp::Prepare { header, .. } => header,
            DiskOp::Sync { .. }
            | DiskOp::Rename { .. }
            | DiskOp::Remove { .. }
            | DiskOp::Read { .. } => Vec::new(),
        }
    }
}

/// Why an operation failed, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// ENOSPC or EDQUOT: ends when somebody makes room.
    NoSpace,
    /// Anything else, a short write and a short read included.
    Io,
}

/// The answer to a [`DiskOp`].
#[derive(Debug, PartialEq, Eq)]
pub struct Completion {
    pub op: OpId,
    pub result: Result<(), Fault>,
    /// For `Commit`, `Seal` and `Prepare` the buffer that came with the operation, unchanged and
    /// also after a failure: the log recovers from it what must be written again, and reuses it.
    /// For `Read` the bytes read. Otherwise empty.
    pub buffer: Vec<u8>,
}
