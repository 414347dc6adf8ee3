//! Files of a shard. What happens all the time goes through the ring: a commit is one write
//! that is durable when it ends, a body is one read. What is rare and made of many calls (segments,
//! names, the event log) runs on a thread in the background, and holds up nothing. Every completion
//! is checked for a short write; the surroundings decide nothing about failures.

use core::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use crate::base::map::Map;
use crate::base::time::Mono;
use crate::engine::io::{Input, Level};
use crate::hose;
use crate::hose::HoseOp;
use crate::log::{
    COMMIT_ALIGN, Completion, DiskOp, Fault, OpId, SegmentFile, SegmentKind, SyncScope, folder_name,
};
use crate::shard::faults::{Faults, Kind};
use crate::shard::ring::{DIRECT_ALIGN, Finished};
use crate::shard::{Shell, background};
use crate::spool::BodyAt;

const _: () = assert!(
    COMMIT_ALIGN.is_multiple_of(DIRECT_ALIGN),
    "commits are whole blocks"
);

/// Segments kept open for reading and writing.
const FILES_OPEN_MAX: usize = 64;

/// Zeros written at a time when a segment is made: few enough that no commit waits for long behind
/// them, and half of a large page.
const ZEROS_BYTES: usize = 1024 * 1024;

/// Where a shard's files live.
#[derive(Clone, Debug)]
pub struct Folders {
    pub spool: PathBuf,
    pub events: PathBuf,
    /// Permission bits of new files.
    pub mode: u32,
}

impl Folders {
    pub fn path(&self, file: SegmentFile) -> PathBuf {
        self.spool
            .join(folder_name(file.shard))
            .join(file.file_name())
    }
}

pub struct Disk {
    folders: Arc<Folders>,
    open: RefCell<Map<SegmentFile, Opened>>,
    events: RefCell<EventFile>,
    /// Operations that failed on the spot; the engine is told after its turn.
    failed: RefCell<Vec<Finished<Purpose>>>,
    /// On purpose, for tests.
    faults: Option<Faults>,
}

/// A segment that is open.
#[derive(Clone)]
struct Opened {
    file: Arc<File>,
    /// The same for commits, past the page cache: what is written there is read back only after a
    /// crash, or when memory had no room for it. Not on every file system.
    direct: Option<Arc<File>>,
}

impl Opened {
    fn new(file: File, path: &Path) -> Opened {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_DIRECT);
        let direct = options.open(path).ok().filter(takes_direct_writes);
        Opened {
            file: Arc::new(file),
            direct: direct.map(Arc::new),
        }
    }
}

/// Whether blocks as small as those of a commit may be written past the page cache.
fn takes_direct_writes(file: &File) -> bool {
    // SAFETY: the structure is plain numbers, for which zeros are a value; the name is empty and
    // ended by a zero, so that the call is about the descriptor.
    unsafe {
        let mut facts: libc::statx = core::mem::zeroed();
        let (fd, name) = (file.as_raw_fd(), c"".as_ptr());
        let asked = libc::STATX_DIOALIGN;
        let told = libc::statx(fd, name, libc::AT_EMPTY_PATH, asked, &raw mut facts);
        let fits = |align: u32| (1..=DIRECT_ALIGN as u32).contains(&align);
        told == 0
            && facts.stx_mask & asked != 0
            && fits(facts.stx_dio_offset_align)
            && fits(facts.stx_dio_mem_align)
    }
}

/// What a file operation in the ring was for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Spool(OpId),
    Body(u64),
}

impl Disk {
    pub fn new(folders: Folders, faults: Option<Faults>) -> Disk {
        Disk {
            folders: Arc::new(folders),
            open: RefCell::default(),
            events: RefCell::default(),
            failed: RefCell::default(),
            faults,
        }
    }

    fn open(&self, file: SegmentFile) -> io::Result<Opened> {
        let mut open = self.open.borrow_mut();
        if let Some(found) = open.get(&file) {
            return Ok(found.clone());
        }
        while open.len() >= FILES_OPEN_MAX {
            open.shift_remove_index(0);
        }
        if let Some(faults) = &self.faults {
            faults.strikes(Kind::Open)?;
        }
        let path = self.folders.path(file);
        let found = OpenOptions::new().read(true).write(true).open(&path)?;
        let found = Opened::new(found, &path);
        open.insert(file, found.clone());
        Ok(found)
    }

    fn remember(&self, file: SegmentFile, opened: File) {
        let opened = Opened::new(opened, &self.folders.path(file));
        self.open.borrow_mut().insert(file, opened);
    }

    fn forget(&self, file: SegmentFile) {
        self.open.borrow_mut().shift_remove(&file);
    }

    pub fn is_idle(&self) -> bool {
        self.failed.borrow().is_empty()
    }

    /// An operation has failed on the spot.
    fn fail(&self, tag: Purpose, bytes: Vec<u8>, error: io::Error) {
        let result = Err(error);
        let finished = Finished { tag, bytes, result };
        self.failed.borrow_mut().push(finished);
    }

    /// When something that has ended is to be told.
    pub fn next_wakeup(&self) -> Option<Mono> {
        self.faults.as_ref().and_then(Faults::next_wakeup)
    }

    pub fn close(&self) {
        self.open.borrow_mut().clear();
        self.events.borrow_mut().take();
    }
}

/// Starts an operation of the spool; its completion becomes an input.
pub fn spool(shell: &Rc<Shell>, op: DiskOp) {
    let tag = Purpose::Spool(op.op());
    let faults = shell.disk.faults.as_ref();
    if let Some(Err(error)) = faults.map(|faults| faults.begins(&op, tag)) {
        if matches!(op, DiskOp::Prepare { .. }) {
            shell.prepared.set(true);
        }
        shell.disk.fail(tag, op.into_buffer(), error);
        return;
    }
    match op {
        DiskOp::Commit {
            file,
            offset,
            bytes,
            sync,
            ..
        } => commit(shell, (file, offset), bytes, sync, tag),
        DiskOp::Seal {
            file,
            offset,
            bytes,
            ..
        } => {
            if let Some((opened, bytes)) = opened(shell, file, bytes, tag) {
                let mut ring = shell.ring.borrow_mut();
                ring.write(opened.file, offset, bytes, SyncScope::File, tag);
            }
        }
        DiskOp::Sync { file, .. } => {
            if let Some((opened, _)) = opened(shell, file, Vec::new(), tag) {
                shell.ring.borrow_mut().sync(opened.file, tag);
            }
        }
        DiskOp::Read {
            file,
            offset,
            bytes,
            ..
        } => read(shell, file, offset, bytes, tag),
        DiskOp::Prepare { .. } | DiskOp::Rename { .. } | DiskOp::Remove { .. } => {
            arrange(shell, op);
        }
    }
}

/// Reads a message back; what was read becomes an input.
pub fn read_body(shell: &Shell, read_id: u64, at: BodyAt) {
    let tag = Purpose::Body(read_id);
    let faults = shell.disk.faults.as_ref();
    match faults.map(|faults| faults.strikes(Kind::Read)) {
        Some(Err(error)) => shell.disk.fail(tag, Vec::new(), error),
        _ => read(shell, at.file, at.offset, at.bytes, tag),
    }
}

fn commit(
    shell: &Shell,
    (file, offset): (SegmentFile, u64),
    bytes: Vec<u8>,
    sync: SyncScope,
    tag: Purpose,
) {
    let Some((opened, bytes)) = opened(shell, file, bytes, tag) else {
        return;
    };
    let mut ring = shell.ring.borrow_mut();
    match opened.direct {
        Some(direct) if sync != SyncScope::Nothing => {
            ring.write_direct(direct, offset, bytes, sync, tag);
        }
        // What need not be on the disk yet is left to the system, which gathers it.
        _ => ring.write(opened.file, offset, bytes, sync, tag),
    }
}

fn read(shell: &Shell, file: SegmentFile, offset: u64, bytes: u32, tag: Purpose) {
    if let Some((opened, _)) = opened(shell, file, Vec::new(), tag) {
        let mut ring = shell.ring.borrow_mut();
        ring.read(opened.file, offset, bytes as usize, tag);
    }
}

/// The open file for an operation, which fails here and now if there is none.
fn opened(
    shell: &Shell,
    file: SegmentFile,
    bytes: Vec<u8>,
    tag: Purpose,
) -> Option<(Opened, Vec<u8>)> {
    match shell.disk.open(file) {
        Ok(opened) => Some((opened, bytes)),
        Err(error) => {
            shell.disk.fail(tag, bytes, error);
            None
        }
    }
}

/// Tells the engine of operations that failed on the spot, or ended before and are told now.
pub fn serve(shell: &Rc<Shell>) {
    let failed = shell.disk.failed.take();
    for finished in failed {
        tell(shell, finished);
    }
    if let Some(faults) = &shell.disk.faults {
        for finished in faults.due(shell.now().mono) {
            tell(shell, finished);
        }
        faults
            .take_struck()
            .into_iter()
            .for_each(|text| shell.notice(Level::Warn, text));
    }
}

/// An operation has ended.
pub fn done(shell: &Rc<Shell>, finished: Finished<Purpose>) {
    let finished = match &shell.disk.faults {
        Some(faults) => faults.ends(shell.now().mono, finished),
        None => Some(finished),
    };
    if let Some(finished) = finished {
        tell(shell, finished);
    }
}

/// Makes an input of what has ended.
fn tell(shell: &Rc<Shell>, finished: Finished<Purpose>) {
    let Finished { tag, bytes, result } = finished;
    let result = result.map_err(|error| fault(&error));
    shell.handle(match tag {
        Purpose::Spool(op) => Input::Spool(Completion {
            op,
            result,
            buffer: bytes,
        }),
        Purpose::Body(read) => Input::Read {
            read,
            result: result.map(|()| bytes),
        },
    });
}

/// Makes, renames or removes a segment in the background.
fn arrange(shell: &Rc<Shell>, op: DiskOp) {
    let tag = Purpose::Spool(op.op());
    let prepares = matches!(op, DiskOp::Prepare { .. });
    let folders = shell.disk.folders.clone();
    let job = move || arrange_now(&folders, op);
    background::run(shell, job, move |shell, (bytes, result, effect)| {
        effect.apply(&shell.disk);
        if prepares {
            shell.prepared.set(true);
        }
        done(shell, Finished { tag, bytes, result });
    });
}

fn fault(error: &io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Fault::NoSpace,
        _ => Fault::Io,
    }
}

/// What changes in the table of open files once the operation has ended.
enum Effect {
    None,
    Opened(SegmentFile, File),
    Closed(SegmentFile),
}

impl Effect {
    fn apply(self, disk: &Disk) {
        match self {
            Effect::None => {}
            Effect::Opened(file, opened) => disk.remember(file, opened),
            Effect::Closed(file) => disk.forget(file),
        }
    }
}

fn arrange_now(folders: &Folders, op: DiskOp) -> (Vec<u8>, io::Result<()>, Effect) {
    match op {
        DiskOp::Prepare {
            file,
            recycle,
            header,
            file_bytes,
            ..
        } => match prepare(folders, file, recycle, &header, file_bytes) {
            Ok(opened) => (header, Ok(()), Effect::Opened(file, opened)),
            Err(error) => (header, Err(error), Effect::None),
        },
        DiskOp::Rename { from, to, .. } => {
            let result = rename(folders, from, to);
            (Vec::new(), result, Effect::Closed(from))
        }
        DiskOp::Remove { file, .. } => {
            let result = remove(folders, file);
            (Vec::new(), result, Effect::Closed(file))
        }
        DiskOp::Commit { .. } | DiskOp::Seal { .. } | DiskOp::Sync { .. } | DiskOp::Read { .. } => {
            unreachable!("goes through the ring")
        }
    }
}

fn prepare(
    folders: &Folders,
    file: SegmentFile,
    recycle: Option<SegmentFile>,
    header: &[u8],
    file_bytes: u64,
) -> io::Result<File> {
    let target = folders.path(file);
    let (from, opened) = match recycle {
        Some(old) => {
            let path = folders.path(old);
            let opened = OpenOptions::new().read(true).write(true).open(&path)?;
            (path, opened)
        }
        None => {
            let path = folders.path(file.with_kind(SegmentKind::New));
            // Half a segment would take the room that others need, for nothing.
            let made = make_segment(&path, folders.mode, file_bytes);
            let opened = made.inspect_err(|_| drop(remove_if_there(&path)))?;
            (path, opened)
        }
    };
    opened.write_all_at(header, 0)?;
    opened.sync_data()?;
    if from != target {
        std::fs::rename(&from, &target)?;
    }
    sync_folder(&target)?;
    Ok(opened)
}

fn make_segment(path: &Path, mode: u32, bytes: u64) -> io::Result<File> {
    remove_if_there(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(mode);
    let file = options.open(path)?;
    fill_with_zeros(path, &file, bytes)?;
    Ok(file)
}

/// Blocks that have been written once make every later commit a write of data alone. Past the
/// page cache where that can be: a segment in there would cost more than the mail it will hold.
fn fill_with_zeros(path: &Path, file: &File, bytes: u64) -> io::Result<()> {
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .ok()
        .filter(takes_direct_writes);
    let target = opened.as_ref().unwrap_or(file);
    take_room(file, bytes)?;
    let zeros = Zeros::map()?;
    let mut offset = 0;
    while offset < bytes {
        let piece = zeros.bytes().len().min((bytes - offset) as usize);
        target.write_all_at(&zeros.bytes()[..piece], offset)?;
        offset += piece as u64;
    }
    // The length of the file is metadata: this sync makes it durable once and for all.
    file.sync_all()
}

/// Memory that nobody has written to: all of it is the kernel's one page of zeros, the large one
/// where it has one, which a device is given in one piece instead of 256.
struct Zeros(*mut libc::c_void);

impl Zeros {
    /// What is mapped holds a large page at a multiple of its size, wherever it begins.
    const MAPPED_BYTES: usize = 4 * ZEROS_BYTES;
    const LARGE_PAGE_BYTES: usize = 2 * ZEROS_BYTES;

    fn map() -> io::Result<Zeros> {
        // SAFETY: a new mapping that no other memory is part of.
        let at = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                Zeros::MAPPED_BYTES,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: advice about the mapping just made. Without large pages it is as good as none.
        unsafe { libc::madvise(at, Zeros::MAPPED_BYTES, libc::MADV_HUGEPAGE) };
        Ok(Zeros(at))
    }

    fn bytes(&self) -> &[u8] {
        let start = self.0.cast::<u8>();
        let skipped = start.align_offset(Zeros::LARGE_PAGE_BYTES);
        // SAFETY: `skipped` is less than a large page, so that this lies within the mapping, which
        // can be read and lives as long as `self`.
        unsafe { core::slice::from_raw_parts(start.add(skipped), ZEROS_BYTES) }
    }
}

impl Drop for Zeros {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, which nobody else knows.
        unsafe { libc::munmap(self.0, Zeros::MAPPED_BYTES) };
    }
}

/// Takes the room of a segment at once or not at all, where the file system can do that.
fn take_room(file: &File, bytes: u64) -> io::Result<()> {
    // SAFETY: the call takes a descriptor, which is open, and numbers.
    let taken = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes.cast_signed()) };
    match io::Error::last_os_error() {
        error if taken != 0 && fault(&error) == Fault::NoSpace => Err(error),
        _ => Ok(()),
    }
}

fn rename(folders: &Folders, from: SegmentFile, to: SegmentFile) -> io::Result<()> {
    let target = folders.path(to);
    if_there(std::fs::rename(folders.path(from), &target))?;
    sync_folder(&target)
}

fn remove(folders: &Folders, file: SegmentFile) -> io::Result<()> {
    let path = folders.path(file);
    remove_if_there(&path)?;
    sync_folder(&path)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    if_there(std::fs::remove_file(path))
}

/// What is done to a file that is not there has been done.
fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes what was created, renamed or removed beside `path` durable.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Starts an operation of the event log; its completion becomes an input.
pub fn hose(shell: &Rc<Shell>, op: HoseOp) {
    let id = op.op();
    let folders = shell.disk.folders.clone();
    // One operation is in flight at a time, so the open file can go along with it.
    let open = shell.disk.events.borrow_mut().take();
    let job = move || perform_hose(&folders, open, op);
    background::run(shell, job, move |shell, (open, result)| {
        *shell.disk.events.borrow_mut() = open;
        let result = result.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => hose::Fault::NoSpace,
            Some(code) => hose::Fault::Failed(code),
            None => hose::Fault::Short,
        });
        shell.handle(Input::Hose { op: id, result });
    });
}

/// The file of the event log that is written to.
type EventFile = Option<(String, File)>;

fn perform_hose(folders: &Folders, open: EventFile, op: HoseOp) -> (EventFile, io::Result<()>) {
    let path = |name: &str| folders.events.join(name);
    let mut options = OpenOptions::new();
    options.write(true).mode(folders.mode);
    match op {
        HoseOp::Write {
            file: name,
            offset,
            bytes,
            ..
        } => {
            let opened = match open {
                Some((open, file)) if open == name => Ok(file),
                _ => options.create_new(offset == 0).open(path(&name)),
            };
            match opened {
                Ok(file) => {
                    let result = file.write_all_at(&bytes, offset);
                    (Some((name, file)), result)
                }
                Err(error) => (None, Err(error)),
            }
        }
        HoseOp::Sync {
            file: name,
            first,
            last,
            ..
        } => {
            let file = match open {
                Some((open, file)) if open == name => Ok(file),
                _ => options.open(path(&name)),
            };
            let result = file.and_then(|file| {
                file.sync_data()?;
                if first {
                    sync_folder(&path(&name))?;
                }
                Ok(file)
            });
            match result {
                Ok(_) if last => (None, Ok(())),
                Ok(file) => (Some((name, file)), Ok(())),
                Err(error) => (None, Err(error)),
            }
        }
        HoseOp::Cut {
            file: name, size, ..
        } => {
            let cut = |file: File| file.set_len(size).and_then(|()| file.sync_all());
            (
                unless(open, &name),
                if_there(options.open(path(&name)).and_then(cut)),
            )
        }
        HoseOp::Remove { file: name, .. } => (
            unless(open, &name),
            if_there(std::fs::remove_file(path(&name))),
        ),
    }
}

/// The open file, but closed if it is this one.
fn unless(open: EventFile, name: &str) -> EventFile {
    open.filter(|(open, _)| open != name)
}

/// What to tell an operator whose kernel does not give the shard its ring.
pub fn io_uring_sentence(error: &str) -> String {
    let lower = error.to_lowercase();
    if lower.contains("memory") || lower.contains("memlock") || lower.contains("cannot allocate") {
        return format!(
            "cannot lock memory for io_uring ({error}): raise RLIMIT_MEMLOCK to 64 MiB or more \
             (LimitMEMLOCK=infinity in the unit, or ulimit -l)"
        );
    }
    format!(
        "the kernel refuses io_uring ({error}): needs Linux 5.15 or newer, \
         kernel.io_uring_disabled = 0, and a container profile that allows io_uring_setup"
    )
}
