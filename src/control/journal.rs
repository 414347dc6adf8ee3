//! The journal of changes: what made the engine behave differently from one moment to the next.
//! Starts and stops, configuration generations, operator actions, limits. JSON lines, one per
//! change, synced before the call returns. When the file is full it is renamed to `NAME.1`, which
//! replaces the one before, so that between one and two files' worth of changes are kept.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Wall;
use crate::base::units;

/// Size at which the file is rotated: some ten thousand changes.
pub const JOURNAL_BYTES_MAX: u64 = 4 << 20;

/// Bytes of one entry's text; the rest is cut.
const TEXT_BYTES_MAX: usize = 4_096;

/// Places of damage that get an entry of their own: more would push out the rest of the journal.
const DAMAGE_TOLD_MAX: usize = 1_000;

/// One change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// RFC 3339, UTC.
    pub at: String,
    /// What kind: `start`, `stop`, `crash`, `config`, `operator`, `limit`, `spool`, ..
    pub kind: String,
    /// Who did it: `uid 0`, `signal`, `pelton`.
    pub by: String,
    /// One sentence.
    pub text: String,
}

/// The journal, open for appending. Shared by everything that changes something.
pub struct Journal {
    path: PathBuf,
    bytes_max: u64,
    file: Mutex<Open>,
    damage: AtomicU64,
}

struct Open {
    file: File,
    bytes: u64,
}

impl Journal {
    /// Opens or creates the journal with mode 0600. A line that a crash left without an end is
    /// ended, so that it cannot swallow the next one.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<Journal> {
        let file = Mutex::new(open(path)?);
        Ok(Journal {
            path: path.to_owned(),
            bytes_max,
            file,
            damage: AtomicU64::new(0),
        })
    }

    /// Appends what a start found damaged in the spool, a sentence for each place. The count
    /// stands for as long as the journal is open, whatever of it gets to disk.
    pub fn append_damage(&self, at: Wall, sentences: &[String]) {
        self.damage
            .fetch_add(sentences.len() as u64, Ordering::Relaxed);
        let told = sentences.len().min(DAMAGE_TOLD_MAX);
        for sentence in &sentences[..told] {
            let _ = self.append(at, "spool", "pelton", sentence);
        }
        if told < sentences.len() {
            let more = (sentences.len() - told) as u64;
            let more = format!("E204 and {}", units::counted(more, "more place"));
            let _ = self.append(at, "spool", "pelton", &more);
        }
    }

    /// Places in the spool that this start found damaged.
    pub fn damage(&self) -> u64 {
        self.damage.load(Ordering::Relaxed)
    }

    /// Appends one change; it is on disk when this returns.
    pub fn append(&self, at: Wall, kind: &str, by: &str, text: &str) -> io::Result<()> {
        let cut = |text: &str| text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned();
        let change = Change {
            at: at.rfc3339().to_string(),
            kind: cut(kind),
            by: cut(by),
            text: cut(text),
        };
        let mut line = serde_json::to_vec(&change)?;
        line.push(b'\n');
        // A panic while the lock was held leaves at worst a torn line, which the next open ends.
        let mut open = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if open.bytes > 0 && open.bytes + line.len() as u64 > self.bytes_max {
            *open = self.rotate()?;
        }
        let written = open
            .file
            .write_all(&line)
            .and_then(|()| open.file.sync_data());
        match written {
            Ok(()) => open.bytes += line.len() as u64,
            // What of the line is there is unknown: find out and end it.
            Err(_) => *open = self::open(&self.path)?,
        }
        written
    }

    fn rotate(&self) -> io::Result<Open> {
        std::fs::rename(&self.path, old_path(&self.path))?;
        let open = open(&self.path)?;
        if let Some(folder) = self
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            File::open(folder)?.sync_all()?;
        }
        Ok(open)
    }

    /// The changes since `since`, oldest first.
    pub fn read(&self, since: Wall) -> io::Result<Vec<Change>> {
        read(&self.path, since)
    }
}

/// The changes of the journal at `path` since `since`, oldest first; for when no engine runs. Lines
/// that are none are passed over.
pub fn read(path: &Path, since: Wall) -> io::Result<Vec<Change>> {
    let since = since.rfc3339().to_string();
    let mut changes = Vec::new();
    let old = match std::fs::read(old_path(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read?,
    };
    for bytes in [old, std::fs::read(path)?] {
        let lines = bytes.split(|byte| *byte == b'\n');
        let parsed = lines.filter_map(|line| serde_json::from_slice::<Change>(line).ok());
        // Times of this form compare as text.
        changes.extend(parsed.filter(|change| change.at >= since));
    }
    Ok(changes)
}

fn old_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

fn open(path: &Path) -> io::Result<Open> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let mut bytes = file.seek(SeekFrom::End(0))?;
    if bytes > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        // A full disk does not take the end of the line either; then the next entry is lost with
        // the torn one.
        if last != *b"\n" && file.write_all(b"\n").is_ok() {
            bytes += 1;
        }
    }
    Ok(Open { file, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| change.text.as_str()).collect()
    }

    #[test]
    fn changes_are_read_back_from_their_time_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let journal = Journal::open(&path, JOURNAL_BYTES_MAX).unwrap();
        for hour in 0..4 {
            let at = Wall::from_secs(1_700_000_000 + hour * 3_600);
            journal
                .append(at, "config", "uid 0", &format!("change {hour}\n\"x\""))
                .unwrap();
        }
        let since = Wall::from_secs(1_700_000_000 + 2 * 3_600);
        let changes = journal.read(since).unwrap();
        assert_eq!(texts(&changes), ["change 2\n\"x\"", "change 3\n\"x\""]);
        assert_eq!(
            (changes[0].kind.as_str(), changes[0].by.as_str()),
            ("config", "uid 0")
        );
        assert_eq!(read(&path, since).unwrap(), changes);
    }

    #[test]
    fn a_torn_line_costs_itself_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let journal = Journal::open(&path, JOURNAL_BYTES_MAX).unwrap();
        journal
            .append(Wall::from_secs(1), "start", "pelton", "one")
            .unwrap();
        drop(journal);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"at\":\"2026-01").unwrap();
        let journal = Journal::open(&path, JOURNAL_BYTES_MAX).unwrap();
        journal
            .append(Wall::from_secs(2), "start", "pelton", "two")
            .unwrap();
        assert_eq!(texts(&journal.read(Wall(0)).unwrap()), ["one", "two"]);
    }

    #[test]
    fn damage_is_counted_and_the_first_places_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let journal = Journal::open(&path, JOURNAL_BYTES_MAX).unwrap();
        let places: Vec<String> = (0..DAMAGE_TOLD_MAX + 5)
            .map(|n| format!("E204 {n}"))
            .collect();
        journal.append_damage(Wall::from_secs(1), &places);
        assert_eq!(journal.damage(), places.len() as u64);
        let changes = journal.read(Wall(0)).unwrap();
        assert_eq!(changes.len(), DAMAGE_TOLD_MAX + 1);
        assert_eq!(
            (changes[0].kind.as_str(), changes[0].text.as_str()),
            ("spool", "E204 0")
        );
        assert_eq!(changes[DAMAGE_TOLD_MAX].text, "E204 and 5 more places");
    }

    #[test]
    fn a_full_journal_keeps_the_newest_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let journal = Journal::open(&path, 1_000).unwrap();
        for n in 0..100 {
            journal
                .append(Wall::from_secs(n), "limit", "pelton", &n.to_string())
                .unwrap();
        }
        let changes = journal.read(Wall(0)).unwrap();
        let kept = texts(&changes);
        assert!((10..40).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept.last(), Some(&"99"));
        let numbers: Vec<u64> = kept.iter().map(|text| text.parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
        let size = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert!(size(&path) <= 1_000 && size(&old_path(&path)) <= 1_000);
    }

    #[test]
    fn a_journal_is_for_its_owner_only_and_long_texts_are_cut() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let journal = Journal::open(&path, JOURNAL_BYTES_MAX).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        journal
            .append(Wall(0), "config", "uid 0", &"é".repeat(10_000))
            .unwrap();
        assert_eq!(journal.read(Wall(0)).unwrap()[0].text.len(), TEXT_BYTES_MAX);
    }
}
