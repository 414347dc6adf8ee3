//! Reads the spool back at a start. What shards need to take mail comes first ([`begin`]); the rest
//! is read folder by folder in threads of its own, while mail is taken if it is much.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use crate::log::{Fault, SegmentFile, folder_name};
use crate::spool::{Beginning, Home, Recovery, RecoveryError, Scan, SpoolFile};
use crate::types::id::ShardId;

use super::startup::{file_path, make_folder, segment_files, shard_folders, show};

/// How often it is told how far the reading has come.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What threads give way to once mail is taken beside them, as `nice` counts.
const NICENESS: libc::c_int = 10;

/// Asked before each read, whether it fails on purpose. Only tests want that.
pub type Gate = Arc<dyn Fn() -> Result<(), Fault> + Send + Sync>;

/// How far the reading has come, for whoever wants to know.
#[derive(Debug, Default)]
pub struct Progress {
    all: AtomicUsize,
    read: AtomicUsize,
    beside_mail: AtomicBool,
    stopped: AtomicBool,
    over: AtomicBool,
}

impl Progress {
    /// Segments read, and how many there are; nothing once the shards have been told of all.
    pub fn segments(&self) -> Option<(usize, usize)> {
        let count = |it: &AtomicUsize| it.load(Ordering::Relaxed);
        let reads = !self.over.load(Ordering::Relaxed);
        reads.then(|| (count(&self.read), count(&self.all)))
    }

    /// Mail is taken from now on, which goes first.
    pub fn goes_on_beside_mail(&self) {
        self.beside_mail.store(true, Ordering::Relaxed);
    }

    /// The process ends: what has not been read stays on disk.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The shards have been told of everything.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Why it has come to no end.
#[derive(Debug)]
pub enum Failure {
    Stopped,
    /// For the operator.
    Refused(String),
}

/// The spool, read as far as the shards need to take mail.
pub struct Reading {
    files: Files,
    spool: SpoolFile,
    scans: Vec<Scan>,
    progress: Arc<Progress>,
}

/// Where the segments are.
struct Files {
    base: PathBuf,
    gate: Option<Gate>,
}

/// Whether this program can read all of the spool. To be asked before anything in it is changed.
pub fn check_formats(base: &Path) -> Result<(), String> {
    let files = Files {
        base: base.to_owned(),
        gate: None,
    };
    let mut reader = Reader::new(&files);
    let mut read = |file, offset, bytes| reader.read(file, offset, bytes);
    for shard in shard_folders(base).unwrap_or_default() {
        let files = segment_files(base, shard).unwrap_or_default();
        let scan = Scan::new(0, shard, files);
        scan.check_formats(&mut read).map_err(newer)?;
    }
    Ok(())
}

/// Makes the folders of the present shards, and reads what each has to know of its own.
pub fn begin(
    base: &Path,
    spool: &SpoolFile,
    gate: Option<Gate>,
) -> Result<(Vec<Beginning>, Reading), String> {
    for shard in 0..spool.shards {
        make_folder(&base.join(folder_name(ShardId(shard as u8))))?;
    }
    let listed = |error: io::Error| format!("E101 cannot list {}: {error}", show(base));
    let mut scans = Vec::new();
    for shard in shard_folders(base).map_err(listed)? {
        let files = segment_files(base, shard).map_err(listed)?;
        scans.push(Scan::new(spool.spool_id, shard, files));
    }
    let all = scans.iter().map(Scan::left).sum();
    // A long newest segment has to be read whole, and there are as many of them as shards.
    let base = base.to_owned();
    let files = Files { base, gate };
    let begin = |scan: &mut Scan| begin_one(&files, spool.shards, scan);
    let begun: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = scans
            .iter_mut()
            .map(|scan| scope.spawn(move || begin(scan)))
            .collect();
        let ends = threads.into_iter().map(|it| it.join());
        ends.collect()
    });
    let mut beginnings = Vec::new();
    for begun in begun {
        let begun = begun.map_err(|_| "E106 reading the spool panicked".to_string())?;
        beginnings.extend(begun.map_err(newer)?);
    }
    let progress = Progress::default();
    progress.all.store(all, Ordering::Relaxed);
    let reading = Reading {
        files,
        spool: *spool,
        scans,
        progress: Arc::new(progress),
    };
    Ok((beginnings, reading))
}

/// What a shard has to know of its folder; nothing if the folder's shard runs no more.
fn begin_one(
    files: &Files,
    shards: u16,
    scan: &mut Scan,
) -> Result<Option<Beginning>, RecoveryError> {
    let mut reader = Reader::new(files);
    let mut read = |file, offset, bytes| reader.read(file, offset, bytes);
    let goes_on = scan.shard().index() < usize::from(shards);
    goes_on.then(|| scan.begin(&mut read)).transpose()
}

fn newer(error: RecoveryError) -> String {
    format!("E104 {error}. The spool is left as it is: start a newer Pelton")
}

/// Reads everything. `tell` hears how many segments of how many have been read.
pub fn whole(
    base: &Path,
    spool: &SpoolFile,
    tell: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Home>, String> {
    let (beginnings, reading) = begin(base, spool, None)?;
    match reading.finish(tell) {
        Ok(mut homes) => {
            for beginning in beginnings {
                homes[beginning.shard.index()].goes_on(beginning);
            }
            Ok(homes)
        }
        Err(Failure::Refused(why)) => Err(why),
        Err(Failure::Stopped) => Err("E101 reading the spool was interrupted".into()),
    }
}

impl Reading {
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Reads the rest. `tell` hears now and then how many segments of how many have been read.
    pub fn finish(self, tell: &mut dyn FnMut(usize, usize)) -> Result<Vec<Home>, Failure> {
        let Reading {
            files,
            spool,
            scans,
            progress,
        } = self;
        let left: usize = scans.iter().map(Scan::left).sum();
        let all = progress.all.load(Ordering::Relaxed);
        progress.read.store(all - left, Ordering::Relaxed);
        let mut recovery = Recovery::new(spool.spool_id, spool.shards);
        for scan in side_by_side(&files, scans, &progress, &mut |read| tell(read, all)) {
            recovery.take(scan?);
        }
        let mut reader = Reader::new(&files);
        let mut read = |file, offset, bytes| reader.read(file, offset, bytes);
        let homes = recovery.finish(&mut read);
        match progress.is_stopped() {
            true => Err(Failure::Stopped),
            false => Ok(homes),
        }
    }
}

/// Scans the folders to their ends, each in a thread; in the order of the folders.
fn side_by_side(
    files: &Files,
    scans: Vec<Scan>,
    progress: &Progress,
    tell: &mut dyn FnMut(usize),
) -> Vec<Result<Scan, Failure>> {
    let mut done = Vec::new();
    std::thread::scope(|scope| {
        let (send, hear) = mpsc::channel();
        for scan in scans {
            let send = send.clone();
            scope.spawn(move || {
                let shard = scan.shard();
                // Nobody to tell it to: the one who listens has ended, and this thread with it.
                let _ = send.send((shard, to_the_end(files, scan, progress)));
            });
        }
        drop(send);
        loop {
            match hear.recv_timeout(PROGRESS_EVERY) {
                Ok(scan) => done.push(scan),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            tell(progress.read.load(Ordering::Relaxed));
        }
    });
    done.sort_by_key(|(shard, _)| *shard);
    done.into_iter().map(|(_, scan)| scan).collect()
}

fn to_the_end(files: &Files, mut scan: Scan, progress: &Progress) -> Result<Scan, Failure> {
    let mut reader = Reader::new(files);
    let mut read = |file, offset, bytes| reader.read(file, offset, bytes);
    let mut is_nice = false;
    while scan
        .step(&mut read)
        .map_err(|error| Failure::Refused(newer(error)))?
    {
        progress.read.fetch_add(1, Ordering::Relaxed);
        if progress.is_stopped() {
            return Err(Failure::Stopped);
        }
        if !is_nice && progress.beside_mail.load(Ordering::Relaxed) {
            is_nice = true;
            // SAFETY: the call takes numbers; on Linux 0 is the calling thread.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
        }
    }
    Ok(scan)
}

/// Reads parts of segments; the file read last stays open.
struct Reader<'a> {
    files: &'a Files,
    open: Option<(SegmentFile, File)>,
}

impl<'a> Reader<'a> {
    fn new(files: &'a Files) -> Reader<'a> {
        Reader { files, open: None }
    }

    fn read(&mut self, file: SegmentFile, offset: u64, bytes: usize) -> Result<Vec<u8>, Fault> {
        if let Some(gate) = &self.files.gate {
            gate()?;
        }
        if self.open.as_ref().is_none_or(|(open, _)| *open != file) {
            let path = file_path(&self.files.base, file);
            // What is no file, but a pipe in the place of one, would be waited for.
            let mut options = File::options();
            let options = options.read(true).custom_flags(libc::O_NONBLOCK);
            self.open = Some((file, options.open(path).map_err(|_| Fault::Io)?));
        }
        let Some((_, opened)) = &self.open else {
            return Err(Fault::Io);
        };
        let mut buffer = vec![0; bytes];
        opened
            .read_exact_at(&mut buffer, offset)
            .map_err(|_| Fault::Io)?;
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::SegmentKind;
    use crate::spool::Problem;

    #[test]
    fn a_pipe_in_the_place_of_a_segment_is_told_and_not_waited_for() {
        let base = tempfile::tempdir().unwrap();
        let file = SegmentFile {
            shard: ShardId(0),
            kind: SegmentKind::Live,
            number: 1,
        };
        let path = file_path(base.path(), file);
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the call takes a string that ends in zero, and a number.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        check_formats(base.path()).unwrap();
        let spool = SpoolFile {
            spool_id: 1,
            starts: 1,
            shards: 1,
        };
        let homes = whole(base.path(), &spool, &mut |_, _| {}).unwrap();
        let [damage] = &homes[0].damage[..] else {
            panic!("one report, not {:?}", homes[0].damage);
        };
        let problem = Problem::Short { unused: false };
        assert_eq!((damage.file, damage.problem), (file, problem));
    }
}
