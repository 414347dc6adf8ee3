//! What happens before the first shard runs: limits of the process, the spool's lock and its file.
//! Each failure is one sentence.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::base::time::Wall;
use crate::base::units;
use crate::hose;
use crate::log::{SegmentFile, SegmentKind, folder_name, parse_folder_name};
use crate::spool::SpoolFile;
use crate::types::id::ShardId;

/// Memory that io_uring may have to lock for one shard, with room to spare.
const LOCKED_BYTES_PER_SHARD: u64 = 4 << 20;

const FILES_MIN: u64 = 1_024;

/// Asked for where the kernel does not tell how many it allows.
const FILES_WANTED: u64 = 1 << 20;

const SPOOL_FILE: &str = "spool.json";
/// More than the spool's file has.
const SPARE_FILE_BYTES: usize = 4_096;
const LOCK_FILE: &str = "lock";
const CLEAN_FILE: &str = "clean";

/// Holds the spool: one engine per spool, for as long as this lives.
pub struct SpoolLock {
    _file: File,
}

/// Takes the spool folder for this process, making it if need be.
pub fn lock_spool(base: &Path) -> Result<SpoolLock, String> {
    make_folder(base)?;
    let path = base.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options.open(&path).map_err(|error| {
        format!(
            "E101 cannot open {}: {error}. Nothing accepted",
            show(&path)
        )
    })?;
    // SAFETY: flock takes a descriptor that is open for as long as `file` lives.
    let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if locked != 0 {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = match holder.trim() {
            "" => String::new(),
            pid => format!(" (process {pid})"),
        };
        return Err(format!(
            "E102 the spool {} is in use by another Pelton{holder}. One engine per spool: stop \
             that one, or give this one a Spoolbase of its own",
            show(base)
        ));
    }
    let pid = std::process::id().to_string();
    // Only for whoever finds the spool in use: a full disk may go without.
    let _ = file
        .set_len(0)
        .and_then(|()| file.write_all(pid.as_bytes()));
    Ok(SpoolLock { _file: file })
}

/// Makes a folder with its parents, for this user alone.
pub fn make_folder(path: &Path) -> Result<(), String> {
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| format!("E101 cannot make the folder {}: {error}", show(path)))
}

pub(super) fn show(path: &Path) -> std::path::Display<'_> {
    path.display()
}

/// Counts this start in the spool's file, or makes the file for a new spool.
pub fn count_start(base: &Path, shards: usize, random: u64) -> Result<SpoolFile, String> {
    let path = base.join(SPOOL_FILE);
    // Listing removes what a crash left half made, which may be the room that is needed now.
    let folders = shard_folders(base).unwrap_or_default();
    let listed = folders.into_iter().map(|shard| segment_files(base, shard));
    let files: Vec<_> = listed.flatten().flatten().collect();
    let mut spool = match fs::read(&path) {
        Ok(bytes) => SpoolFile::decode(&bytes).map_err(|error| {
            format!("E103 {}: {error}. The spool is left as it is", show(&path))
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if has_segments(base) {
                return Err(format!(
                    "E103 {} is missing but the spool holds segments: they cannot be read \
                     without it. Restore the file from a backup",
                    show(&path)
                ));
            }
            SpoolFile {
                spool_id: random,
                starts: 0,
                shards: 0,
            }
        }
        Err(error) => return Err(format!("E101 cannot read {}: {error}", show(&path))),
    };
    spool.starts += 1;
    spool.shards = shards as u16;
    let mut replaced = replace_file(&path, &spool.encode());
    let mut free = files.iter().filter(|it| it.0.kind == SegmentKind::Free);
    // On a full disk a segment that holds nothing makes the room.
    while let Err(error) = &replaced
        && error.raw_os_error() == Some(libc::ENOSPC)
        && let Some((file, _)) = free.next()
        && fs::remove_file(file_path(base, *file)).is_ok()
    {
        replaced = replace_file(&path, &spool.encode());
    }
    replaced.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => format!(
            "E101 cannot write {}: {error}. Free some space on that file system and start again: \
             nothing in the spool is lost",
            show(&path)
        ),
        _ => format!("E101 cannot write {}: {error}", show(&path)),
    })?;
    Ok(spool)
}

pub(super) fn file_path(base: &Path, file: SegmentFile) -> PathBuf {
    base.join(folder_name(file.shard)).join(file.file_name())
}

/// What a clean end has left word of.
pub struct CleanEnd {
    /// What has changed since, each in a sentence.
    pub changes: Vec<String>,
    /// Of mail that came before, what was due then may have been on the wire when a run before that
    /// one was cut off.
    pub doubt: Option<Wall>,
}

/// The line of the note that tells [`CleanEnd::doubt`], in microseconds.
const DOUBT: &str = "doubt";

/// Notes that this start ended with everything on disk and nothing on the wire, and which segments
/// there are then.
pub fn note_clean_end(base: &Path, starts: u32, doubt: Option<Wall>) {
    let mut note = format!("{starts}\n");
    if let Some(Wall(us)) = doubt {
        note.push_str(&format!("{DOUBT} {us}\n"));
    }
    for (file, bytes) in live_files(base) {
        note.push_str(&format!("{bytes} {file}\n"));
    }
    // Without the note the next start takes too much for a possible duplicate: no harm.
    let _ = replace_file(&base.join(CLEAN_FILE), note.as_bytes());
}

/// What the start before this one has noted if it ended clean. The note counts once.
pub fn ended_clean(base: &Path, spool: &SpoolFile) -> Option<CleanEnd> {
    let path = base.join(CLEAN_FILE);
    let note = fs::read_to_string(&path).ok();
    let _ = fs::remove_file(&path);
    let note = note?;
    let mut lines = note.lines();
    let starts: u32 = lines.next()?.trim().parse().ok()?;
    if starts + 1 != spool.starts {
        return None;
    }
    let found: Vec<String> = live_files(base).map(|(file, _)| file.to_string()).collect();
    let (doubts, files): (Vec<_>, Vec<_>) = lines
        .filter_map(|line| line.split_once(' '))
        .partition(|(word, _)| *word == DOUBT);
    let doubt = doubts.first().and_then(|(_, us)| us.parse().ok()).map(Wall);
    let gone = files.into_iter();
    let gone = gone.filter(|(_, name)| !found.iter().any(|it| it == name));
    let sentence = |(bytes, name): (&str, &str)| {
        format!(
            "{name}: missing, {bytes} bytes at 0; it was there at the end of the last run; mail \
             that lay there is lost, everything else was recovered"
        )
    };
    let changes = gone.map(sentence).collect();
    Some(CleanEnd { changes, doubt })
}

fn live_files(base: &Path) -> impl Iterator<Item = (SegmentFile, u64)> {
    let folders = shard_folders(base).unwrap_or_default().into_iter();
    let files: Vec<_> = folders
        .flat_map(|shard| segment_files(base, shard).unwrap_or_default())
        .collect();
    files
        .into_iter()
        .filter(|(file, _)| file.kind == SegmentKind::Live)
}

fn has_segments(base: &Path) -> bool {
    live_files(base).next().is_some()
}

/// The old content or the new, never a part of either. What it is written to was made the time
/// before, so that a full disk can be started on.
fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&new)?;
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let spare = options.open(&new);
    // Without it the next time needs room on the disk: no harm.
    let _ = spare.and_then(|spare| spare.write_all_at(&[0; SPARE_FILE_BYTES], 0));
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

pub(super) fn shard_folders(base: &Path) -> io::Result<Vec<ShardId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(base)? {
        found.extend(entry?.file_name().to_str().and_then(parse_folder_name));
    }
    found.sort();
    Ok(found)
}

/// The segments of a folder with their sizes. What a crash left half made is removed.
pub(super) fn segment_files(base: &Path, shard: ShardId) -> io::Result<Vec<(SegmentFile, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(base.join(folder_name(shard)))? {
        let entry = entry?;
        let name = entry.file_name();
        let parsed = name
            .to_str()
            .and_then(|name| SegmentFile::parse_file_name(shard, name));
        match parsed {
            Some(file) if file.kind == SegmentKind::New => fs::remove_file(entry.path())?,
            // Of what a link leads to, if it is one.
            Some(file) => {
                let size = fs::metadata(entry.path()).or_else(|_| entry.metadata())?;
                found.push((file, size.len()));
            }
            None => {}
        }
    }
    found.sort();
    Ok(found)
}

/// What all segments of a spool have of the disk.
pub fn segment_bytes(base: &Path) -> u64 {
    let folders = shard_folders(base).unwrap_or_default().into_iter();
    let entries = folders.flat_map(|shard| {
        let entries = fs::read_dir(base.join(folder_name(shard))).into_iter();
        entries.flatten().flatten().map(move |entry| (shard, entry))
    });
    let is_segment = |(shard, entry): &(ShardId, fs::DirEntry)| {
        let name = entry.file_name();
        let name = name.to_str();
        name.is_some_and(|name| SegmentFile::parse_file_name(*shard, name).is_some())
    };
    let sizes = entries
        .filter(is_segment)
        .map(|(_, entry)| entry.metadata());
    sizes.flatten().map(|it| it.len()).sum()
}

/// What segments that are being made have yet to take of the disk.
pub fn still_to_take(base: &Path, segment_bytes: u64) -> u64 {
    let mut bytes = 0;
    for shard in shard_folders(base).unwrap_or_default() {
        let Ok(entries) = fs::read_dir(base.join(folder_name(shard))) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let file = name
                .to_str()
                .and_then(|name| SegmentFile::parse_file_name(shard, name));
            if file.is_some_and(|it| it.kind == SegmentKind::New) {
                let taken = entry.metadata().map_or(segment_bytes, |it| it.len());
                bytes += segment_bytes.saturating_sub(taken);
            }
        }
    }
    bytes
}

/// The files of the event log that a shard keeps: its own, and for the first shard also those of
/// shards that run no more.
pub fn event_files(
    folder: &Path,
    shard: ShardId,
    shards: usize,
) -> Result<Vec<hose::FileFound>, String> {
    let failed = |error: io::Error| format!("E101 cannot read {}: {error}", show(folder));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let Some(parsed) = hose::FileName::parse(&name) else {
            continue;
        };
        let orphan = parsed.shard.index() >= shards && shard == ShardId(0);
        if parsed.shard == shard || orphan {
            found.push(event_file(&entry.path(), name).map_err(failed)?);
        }
    }
    Ok(found)
}

fn event_file(path: &PathBuf, name: String) -> io::Result<hose::FileFound> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let size = metadata.len();
    let tail_bytes = size.min(hose::TAIL_BYTES_MAX as u64);
    file.seek(SeekFrom::Start(size - tail_bytes))?;
    let mut tail = Vec::with_capacity(tail_bytes as usize);
    file.take(tail_bytes).read_to_end(&mut tail)?;
    let modified = metadata
        .modified()?
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let modified = Wall(modified.as_micros() as u64);
    Ok(hose::FileFound {
        name,
        size,
        modified,
        tail,
    })
}

/// Raises the limits of the process as far as it may, and says what is too little. The first is an
/// error, the second only worth a line.
pub fn raise_limits(shards: usize) -> (Result<(), String>, Option<String>) {
    let most = fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    let files = raise(
        libc::RLIMIT_NOFILE,
        most.trim().parse().unwrap_or(FILES_WANTED),
    );
    let locked = raise(libc::RLIMIT_MEMLOCK, u64::MAX);
    refuse_huge_pages();
    let needed = LOCKED_BYTES_PER_SHARD * shards as u64;
    let note = (locked < needed).then(|| {
        format!(
            "only {locked} bytes of memory may be locked; {} may want {needed}: raise LimitMEMLOCK \
             if the start fails",
            units::counted(shards as u64, "shard")
        )
    });
    let enough = if files < FILES_MIN {
        Err(format!(
            "E105 only {files} files may be open, {FILES_MIN} are the least to start with: raise \
             LimitNOFILE"
        ))
    } else {
        Ok(())
    };
    (enough, note)
}

/// Ordinary pages only. The allocator asks for huge ones, and with messages coming and going most
/// of each is zeroed for nothing: a fifth of the time of a small sender's mail.
fn refuse_huge_pages() {
    // SAFETY: the call takes numbers; a kernel that does not know it changes nothing.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// File descriptors the process may have open.
pub fn descriptors() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the call takes a pointer to a live struct of the right type.
    let told = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if told == 0 { limit.rlim_cur } else { FILES_MIN }
}

/// Raises a limit towards `wanted`, and tells what it is then.
fn raise(resource: libc::__rlimit_resource_t, wanted: u64) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls take a pointer to a live struct of the right type.
    unsafe {
        if libc::getrlimit(resource, &raw mut limit) != 0 {
            return 0;
        }
        let higher = libc::rlimit {
            rlim_cur: wanted,
            rlim_max: wanted,
        };
        if libc::setrlimit(resource, &raw const higher) == 0 {
            return wanted;
        }
        // Not root: as far as the hard limit goes.
        let hard = libc::rlimit {
            rlim_cur: limit.rlim_max,
            rlim_max: limit.rlim_max,
        };
        if libc::setrlimit(resource, &raw const hard) == 0 {
            return limit.rlim_max;
        }
    }
    limit.rlim_cur
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_that_is_gone_since_a_clean_end_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        make_folder(&base.join("shard-00")).unwrap();
        let paths = [1, 2].map(|number| file_path(base, SegmentFile::live(ShardId(0), number)));
        for path in &paths {
            fs::write(path, [0; 9]).unwrap();
        }
        let spool = SpoolFile {
            spool_id: 1,
            starts: 8,
            shards: 1,
        };
        note_clean_end(base, 7, Some(Wall(5)));
        fs::remove_file(&paths[0]).unwrap();
        let CleanEnd { changes, doubt } = ended_clean(base, &spool).unwrap();
        let told = "shard-00/seg-0000000000000001.log: missing, 9 bytes at 0;";
        assert!(
            changes.len() == 1 && changes[0].starts_with(told),
            "{changes:?}"
        );
        assert_eq!(doubt, Some(Wall(5)));
        assert!(ended_clean(base, &spool).is_none());
        note_clean_end(base, 6, None);
        assert!(ended_clean(base, &spool).is_none(), "of another start");
    }

    #[test]
    fn the_spool_file_is_replaced_by_what_was_made_before() {
        let folder = tempfile::tempdir().unwrap();
        let first = count_start(folder.path(), 2, 77).unwrap();
        let spare = folder.path().join("spool.new");
        assert_eq!(fs::metadata(&spare).unwrap().len(), SPARE_FILE_BYTES as u64);
        let second = count_start(folder.path(), 2, 78).unwrap();
        assert_eq!((first.starts, second.starts), (1, 2));
        assert_eq!(second.spool_id, 77);
    }
}
