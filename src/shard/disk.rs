//! Files of a shard. Operations that can block run on the executor's blocking threads: a commit is
//! one task there (write, then fdatasync), so that it costs one hand-over however slow the disk is,
//! and neither making segments nor reading bodies holds it up. Every completion is checked for a
//! short write; the surroundings decide nothing about failures.

use core::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use crate::base::map::Map;
use crate::engine::io::Input;
use crate::hose;
use crate::hose::HoseOp;
use crate::log::{Completion, DiskOp, Fault, SegmentFile, SegmentKind, folder_name};
use crate::shard::Shell;
use crate::spool::BodyAt;

/// Threads per shard for what blocks: commits, preparing segments, reading bodies.
pub const BLOCKING_THREADS: usize = 3;

/// Segments kept open for reading and writing.
const FILES_OPEN_MAX: usize = 64;

/// Zeros written at a time when a segment is made.
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
    open: RefCell<Map<SegmentFile, Arc<File>>>,
    events: RefCell<EventFile>,
}

impl Disk {
    pub fn new(folders: Folders) -> Disk {
        Disk {
            folders: Arc::new(folders),
            open: RefCell::default(),
            events: RefCell::default(),
        }
    }

    fn open(&self, file: SegmentFile) -> io::Result<Arc<File>> {
        let mut open = self.open.borrow_mut();
        if let Some(found) = open.get(&file) {
            return Ok(found.clone());
        }
        while open.len() >= FILES_OPEN_MAX {
            open.shift_remove_index(0);
        }
        let path = self.folders.path(file);
        let found = Arc::new(OpenOptions::new().read(true).write(true).open(path)?);
        open.insert(file, found.clone());
        Ok(found)
    }

    fn remember(&self, file: SegmentFile, opened: Option<File>) {
        if let Some(opened) = opened {
            self.open.borrow_mut().insert(file, Arc::new(opened));
        }
    }

    fn forget(&self, file: SegmentFile) {
        self.open.borrow_mut().shift_remove(&file);
    }

    pub async fn close(&self) {
        self.open.borrow_mut().clear();
        self.events.borrow_mut().take();
    }
}

/// Starts an operation of the spool; its completion becomes an input.
pub fn spool(shell: &Rc<Shell>, op: DiskOp) {
    let id = op.op();
    let prepares = matches!(op, DiskOp::Prepare { .. });
    let job = job(&shell.disk, op);
    let shell2 = shell.clone();
    shell.spawn(async move {
        let (buffer, result, effect) = match job {
            Ok(job) => blocking(job).await,
            Err((buffer, error)) => (buffer, Err(error), Effect::None),
        };
        effect.apply(&shell2.disk);
        if prepares {
            shell2.prepared.notify();
        }
        let result = result.map_err(|error| fault(&error));
        shell2.handle(Input::Spool(Completion {
            op: id,
            result,
            buffer,
        }));
    });
}

/// Reads a message back; what was read becomes an input.
pub fn read(shell: &Rc<Shell>, read: u64, at: BodyAt) {
    let opened = shell.disk.open(at.file);
    let task = shell.clone();
    shell.spawn(async move {
        let result = match opened {
            Ok(file) => {
                let job = Box::new(move || {
                    let mut buffer = vec![0; at.bytes as usize];
                    file.read_exact_at(&mut buffer, at.offset).map(|()| buffer)
                });
                blocking(job).await
            }
            Err(error) => Err(error),
        };
        let result = result.map_err(|error| fault(&error));
        task.handle(Input::Read { read, result });
    });
}

async fn blocking<T: Send + 'static>(job: Box<dyn FnOnce() -> T + Send>) -> T {
    glommio::executor().spawn_blocking(job).await
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
            Effect::Opened(file, opened) => disk.remember(file, Some(opened)),
            Effect::Closed(file) => disk.forget(file),
        }
    }
}

type Ended = (Vec<u8>, io::Result<()>, Effect);
type Job = Box<dyn FnOnce() -> Ended + Send>;

fn job(disk: &Disk, op: DiskOp) -> Result<Job, (Vec<u8>, io::Error)> {
    let folders = disk.folders.clone();
    Ok(match op {
        DiskOp::Commit {
            file,
            offset,
            bytes,
            sync,
            ..
        } => match disk.open(file) {
            Ok(opened) => Box::new(move || {
                let written = opened.write_all_at(&bytes, offset);
                let result = written.and_then(|()| if sync { opened.sync_data() } else { Ok(()) });
                (bytes, result, Effect::None)
            }),
            Err(error) => return Err((bytes, error)),
        },
        DiskOp::Seal {
            file,
            offset,
            bytes,
            ..
        } => match disk.open(file) {
            Ok(opened) => Box::new(move || {
                let written = opened.write_all_at(&bytes, offset);
                let result = written.and_then(|()| opened.sync_data());
                (bytes, result, Effect::None)
            }),
            Err(error) => return Err((bytes, error)),
        },
        DiskOp::Sync { file, .. } => match disk.open(file) {
            Ok(opened) => Box::new(move || (Vec::new(), opened.sync_data(), Effect::None)),
            Err(error) => return Err((Vec::new(), error)),
        },
        DiskOp::Prepare {
            file,
            recycle,
            header,
            file_bytes,
            ..
        } => Box::new(
            move || match prepare(&folders, file, recycle, &header, file_bytes) {
                Ok(opened) => (header, Ok(()), Effect::Opened(file, opened)),
                Err(error) => (header, Err(error), Effect::None),
            },
        ),
        DiskOp::Rename { from, to, .. } => Box::new(move || {
            let result = rename(&folders, from, to);
            (Vec::new(), result, Effect::Closed(from))
        }),
        DiskOp::Remove { file, .. } => Box::new(move || {
            let result = remove(&folders, file);
            (Vec::new(), result, Effect::Closed(file))
        }),
        DiskOp::Read {
            file,
            offset,
            bytes,
            ..
        } => match disk.open(file) {
            Ok(opened) => Box::new(move || {
                let mut buffer = vec![0; bytes as usize];
                let result = opened.read_exact_at(&mut buffer, offset);
                (buffer, result, Effect::None)
            }),
            Err(error) => return Err((Vec::new(), error)),
        },
    })
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
    fill_with_zeros(&file, bytes)?;
    Ok(file)
}

/// Blocks that have been written once make every later commit a write of data alone.
fn fill_with_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let piece = zeros.len().min((bytes - offset) as usize);
        file.write_all_at(&zeros[..piece], offset)?;
        offset += piece as u64;
    }
    // The length of the file is metadata: this sync makes it durable once and for all.
    file.sync_all()
}

fn rename(folders: &Folders, from: SegmentFile, to: SegmentFile) -> io::Result<()> {
    let target = folders.path(to);
    std::fs::rename(folders.path(from), &target)?;
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
    let task = shell.clone();
    shell.spawn(async move {
        let job = Box::new(move || perform_hose(&folders, open, op));
        let (open, result) = blocking(job).await;
        *task.disk.events.borrow_mut() = open;
        let result = result.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => hose::Fault::NoSpace,
            Some(code) => hose::Fault::Failed(code),
            None => hose::Fault::Short,
        });
        task.handle(Input::Hose { op: id, result });
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
        "the kernel refuses io_uring ({error}): needs Linux 5.8 or newer, \
         kernel.io_uring_disabled = 0, and a container profile that allows io_uring_setup"
    )
}
