//! A small durable store beside the spool, for what must outlive the process and is no mail: orders
//! of the operator, the state of adaptive delivery. A map from keys to values, all of it in memory,
//! and a file of its own for each store.
//!
//! Every line of the file is one change of one or more keys, with a checksum before it; it is
//! synced before the call returns, and after a crash is there wholly or not at all. The beginning
//! of a last line was never confirmed, and is cut. Anything else that is no whole line is passed
//! over and told to whoever opens the ledger, and the file with it is kept as `NAME.damaged`. When
//! most of the file is of no more use, what is valid is written to a new one, which replaces it.
//! The first line changes nothing: a file without a whole line has lost something.
//!
//! ```ignore
//! let (ledger, damage) = Ledger::<Order>::open(&base.join("orders.ledger"), &lock)?;
//! ledger.put("17", order)?;            // On disk when this returns.
//! ledger.apply(vec![("17".into(), None), ("18".into(), Some(order))])?; // Both or neither.
//! for (key, order) in ledger.all() { .. }
//! ```
//!
//! Calls wait for the disk: they belong on a control thread, never on a shard. Nothing here knows
//! what the values mean.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::startup::SpoolLock;
use crate::base::crc::crc32c;

/// One change with all its keys. A longer one is refused: it would not be a small store any more.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// Bytes of no more use below which the file is never written anew.
const DEAD_BYTES_MIN: u64 = 64 << 10;

/// The checksum in hexadecimal and a space.
const HEAD_BYTES: usize = 9;

/// What becomes of one key: its new value, or none if it is removed.
pub type Change<V> = (String, Option<V>);

/// A ledger, open for reading and changing. Shared by whoever has something to keep in it.
pub struct Ledger<V> {
    path: PathBuf,
    state: Mutex<State<V>>,
}

struct State<V> {
    values: BTreeMap<String, V>,
    /// None after a write or sync has failed: then nothing is appended to that file again.
    file: Option<File>,
    bytes: u64,
    /// What the file had when it was last written anew or opened.
    live_bytes: u64,
}

/// As a line has it.
#[derive(Serialize)]
struct Line<'a, V> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a V>,
}

#[derive(Deserialize)]
#[serde(bound = "V: DeserializeOwned")]
struct LineFound<V> {
    key: String,
    #[serde(default = "Option::default")]
    value: Option<V>,
}

impl<V: Serialize + DeserializeOwned + Clone> Ledger<V> {
    /// Opens or makes the ledger at `path`, mode 0600, beside the spool that `_lock` holds. Tells
    /// the damage that it found, one sentence for each place.
    pub fn open(path: &Path, _lock: &SpoolLock) -> io::Result<(Ledger<V>, Vec<String>)> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read?),
        };
        let is_new = bytes.is_none();
        let found = match &bytes {
            None => Found::default(),
            Some(bytes) => read_lines(bytes, path),
        };
        let mut state = State {
            live_bytes: lines_of(&found.values)?.len() as u64,
            values: found.values,
            file: None,
            bytes: found.whole_bytes as u64,
        };
        if !found.damage.is_empty() {
            // Full or failing disks are no reason not to start: the damage is told either way.
            let _ = fs::copy(path, beside(path, "damaged"));
        }
        if is_new || found.anew || !found.damage.is_empty() {
            let is_full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
            match state.write_anew(path) {
                // The first change tries again, and says it.
                Err(error) if is_new && !is_full(&error) => return Err(error),
                _ => {}
            }
        } else {
            let file = append_to(path)?;
            file.set_len(found.whole_bytes as u64)?;
            file.sync_all()?;
            sync_folder(path)?;
            state.file = Some(file);
        }
        let state = Mutex::new(state);
        let path = path.to_owned();
        Ok((Ledger { path, state }, found.damage))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<V> {
        self.state().values.get(key).cloned()
    }

    /// All keys and values, in the order of the keys as text.
    pub fn all(&self) -> Vec<(String, V)> {
        let state = self.state();
        let pairs = state.values.iter();
        pairs
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Sets one key; it is on disk when this returns.
    pub fn put(&self, key: &str, value: V) -> io::Result<()> {
        self.apply(vec![(key.to_owned(), Some(value))])
    }

    /// Removes one key; that is on disk when this returns.
    pub fn remove(&self, key: &str) -> io::Result<()> {
        if self.state().values.contains_key(key) {
            self.apply(vec![(key.to_owned(), None)])
        } else {
            Ok(())
        }
    }

    /// Makes all these changes or none of them, with one sync. After an error nothing has changed
    /// here; whether a crash before the next change that succeeds would find them made is unknown.
    pub fn apply(&self, changes: Vec<Change<V>>) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let pairs = changes.iter();
        let line = line_of(pairs.map(|(key, value)| (key.as_str(), value.as_ref())))?;
        let mut state = self.state();
        state.append(&self.path, &line)?;
        for (key, value) in changes {
            match value {
                Some(value) => drop(state.values.insert(key, value)),
                None => drop(state.values.remove(&key)),
            }
        }
        if state.bytes > 2 * state.live_bytes + DEAD_BYTES_MIN {
            // The changes are on disk already. What fails here fails again, and is told, next time.
            let _ = state.write_anew(&self.path);
        }
        Ok(())
    }

    /// A panic while the lock was held leaves the values as they were before the change.
    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Serialize> State<V> {
    fn append(&mut self, path: &Path, line: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.write_anew(path)?;
        }
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("the ledger is closed"));
        };
        let written = file.write_all(line).and_then(|()| file.sync_data());
        match &written {
            Ok(()) => self.bytes += line.len() as u64,
            Err(_) => self.file = None,
        }
        written
    }

    /// Writes all values to a new file, which takes the place of the old one.
    fn write_anew(&mut self, path: &Path) -> io::Result<()> {
        let new = beside(path, "new");
        let lines = lines_of(&self.values)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new)?;
        file.write_all(&lines)?;
        file.sync_all()?;
        // From here on it is open which of the two a crash leaves: nothing goes to the old one.
        self.file = None;
        fs::rename(&new, path)?;
        sync_folder(path)?;
        self.file = Some(append_to(path)?);
        self.bytes = lines.len() as u64;
        self.live_bytes = self.bytes;
        Ok(())
    }
}

/// What the bytes of a file say.
struct Found<V> {
    values: BTreeMap<String, V>,
    /// Up to the end of the last line that has one.
    whole_bytes: usize,
    /// The last line holds and lacks nothing but its end.
    anew: bool,
    damage: Vec<String>,
}

// Not derived: values need no default.
impl<V> Default for Found<V> {
    fn default() -> Found<V> {
        Found {
            values: BTreeMap::new(),
            whole_bytes: 0,
            anew: false,
            damage: Vec::new(),
        }
    }
}

impl<V> Found<V> {
    fn take(&mut self, changes: Vec<LineFound<V>>) {
        for LineFound { key, value } in changes {
            match value {
                Some(value) => drop(self.values.insert(key, value)),
                None => drop(self.values.remove(&key)),
            }
        }
    }
}

fn read_lines<V: DeserializeOwned>(bytes: &[u8], path: &Path) -> Found<V> {
    let mut found = Found {
        whole_bytes: memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1),
        ..Found::default()
    };
    let damage = |at: usize, bytes: usize, why: &str| {
        format!(
            "{}: damaged at {at}, {bytes} bytes: {why}; what was there is lost, the file is kept \
             as {}",
            path.display(),
            beside(path, "damaged").display(),
        )
    };
    let mut at = 0;
    for line in bytes[..found.whole_bytes].split_inclusive(|byte| *byte == b'\n') {
        match read_line::<V>(&line[..line.len() - 1]) {
            Ok(changes) => found.take(changes),
            Err(why) => found.damage.push(damage(at, line.len(), &why)),
        }
        at += line.len();
    }
    let rest = &bytes[at..];
    let begins = |line: &[u8]| line.iter().take(HEAD_BYTES - 1).all(u8::is_ascii_hexdigit);
    match read_line::<V>(rest) {
        Ok(changes) => {
            found.take(changes);
            found.anew = true;
        }
        Err(_) if at == 0 => {
            let why = "there is no whole line";
            found.damage.push(damage(at, rest.len(), why));
        }
        Err(why) if !begins(rest) => found.damage.push(damage(at, rest.len(), &why)),
        Err(_) => {}
    }
    found
}

fn read_line<V: DeserializeOwned>(line: &[u8]) -> Result<Vec<LineFound<V>>, String> {
    let (head, json) = line.split_at_checked(HEAD_BYTES).ok_or("too short")?;
    let sum = core::str::from_utf8(&head[..HEAD_BYTES - 1]).ok();
    let sum = sum.and_then(|sum| u32::from_str_radix(sum, 16).ok());
    if sum != Some(crc32c(0, json)) || head[HEAD_BYTES - 1] != b' ' {
        return Err("its checksum does not hold".to_owned());
    }
    serde_json::from_slice(json).map_err(|error| format!("it is not understood ({error})"))
}

fn line_of<'a, V: Serialize + 'a>(
    changes: impl Iterator<Item = (&'a str, Option<&'a V>)>,
) -> io::Result<Vec<u8>> {
    let changes: Vec<_> = changes.map(|(key, value)| Line { key, value }).collect();
    let json = serde_json::to_vec(&changes)?;
    if json.len() > LINE_BYTES_MAX {
        let text = format!("{} bytes are more than a ledger takes at once", json.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut line = format!("{:08x} ", crc32c(0, &json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

fn lines_of<V: Serialize>(values: &BTreeMap<String, V>) -> io::Result<Vec<u8>> {
    let mut lines = line_of::<V>(core::iter::empty())?;
    for (key, value) in values {
        lines.extend(line_of(core::iter::once((key.as_str(), Some(value))))?);
    }
    Ok(lines)
}

fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path)
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::startup::lock_spool;
    use super::*;

    struct World {
        folder: tempfile::TempDir,
        lock: SpoolLock,
    }

    impl World {
        fn new() -> World {
            let folder = tempfile::tempdir().unwrap();
            let lock = lock_spool(folder.path()).unwrap();
            World { folder, lock }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("test.ledger")
        }

        fn open(&self) -> (Ledger<String>, Vec<String>) {
            Ledger::open(&self.path(), &self.lock).unwrap()
        }

        fn bytes(&self) -> Vec<u8> {
            fs::read(self.path()).unwrap()
        }
    }

    fn text(ledger: &Ledger<String>) -> String {
        let pairs = ledger.all().into_iter();
        let pairs: Vec<_> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(" ")
    }

    #[test]
    fn what_was_put_is_there_after_a_start_and_what_was_removed_is_not() {
        let world = World::new();
        let (ledger, damage) = world.open();
        assert!(damage.is_empty() && ledger.all().is_empty());
        ledger.put("b", "1\n".to_owned()).unwrap();
        ledger.put("a", "2".to_owned()).unwrap();
        ledger.put("b", "3".to_owned()).unwrap();
        ledger.remove("a").unwrap();
        ledger.remove("none").unwrap();
        let both = vec![
            ("c".to_owned(), Some("é".to_owned())),
            ("b".to_owned(), None),
        ];
        ledger.apply(both).unwrap();
        drop(ledger);
        let (ledger, damage) = world.open();
        assert_eq!((text(&ledger).as_str(), damage), ("c=é", vec![]));
        assert_eq!(ledger.get("c").as_deref(), Some("é"));
        assert_eq!(ledger.get("b"), None);
    }

    #[test]
    fn a_crash_at_any_byte_leaves_every_line_before_it_and_nothing_of_the_last() {
        let world = World::new();
        let (ledger, _) = world.open();
        let first = world.bytes().len();
        let mut states = vec![(0, String::new())];
        for n in 0..4 {
            let three = ["x", "y", "z"].map(|key| (key.to_owned(), Some(n.to_string())));
            ledger.apply(three.to_vec()).unwrap();
            states.push((world.bytes().len(), text(&ledger)));
        }
        drop(ledger);
        let whole = world.bytes();
        for length in 0..=whole.len() {
            fs::write(world.path(), &whole[..length]).unwrap();
            let (ledger, damage) = world.open();
            // A line lacks nothing if it lacks its end.
            let expected = states.iter().rev().find(|(end, _)| *end <= length + 1);
            let expected = expected.unwrap();
            assert_eq!(text(&ledger), expected.1, "cut at {length}");
            let without = length + 1 < first;
            assert_eq!(damage.len(), usize::from(without), "cut at {length}");
            // The torn part cannot swallow what comes next.
            ledger.put("after", "1".to_owned()).unwrap();
            let (ledger, damage) = world.open();
            let next = format!("after=1 {}", expected.1);
            assert_eq!((text(&ledger).as_str(), damage), (next.trim_end(), vec![]));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_costs_one_line_and_is_told() {
        let world = World::new();
        let (ledger, _) = world.open();
        for key in ["a", "b", "c"] {
            ledger.put(key, key.to_owned()).unwrap();
        }
        drop(ledger);
        let whole = world.bytes();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let line_bytes = (whole.len() - first) / 3;
        for at in first..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x04;
            fs::write(world.path(), &bytes).unwrap();
            let (ledger, damage) = world.open();
            // Without the end of a line, the next is lost with it; without the last, it is torn.
            let line = (at - first) / line_bytes;
            let is_end = (at + 1 - first).is_multiple_of(line_bytes);
            let lost = line..line + 1 + usize::from(is_end);
            let kept = (0..3).filter(|n| !lost.contains(n));
            let kept: Vec<_> = kept.map(|n| ["a=a", "b=b", "c=c"][n]).collect();
            assert_eq!(text(&ledger), kept.join(" "), "flipped at {at}");
            assert_eq!(damage.len(), usize::from(!(is_end && line == 2)), "{at}");
            if !damage.is_empty() {
                assert_eq!(fs::read(beside(&world.path(), "damaged")).unwrap(), bytes);
                // Told once: what was valid has been written anew.
                assert!(world.open().1.is_empty());
            }
        }
    }

    #[test]
    fn a_file_that_says_nothing_any_more_is_told() {
        let world = World::new();
        let (ledger, _) = world.open();
        ledger.put("a", "a".to_owned()).unwrap();
        drop(ledger);
        let whole = world.bytes();
        let zeros = vec![0; whole.len()];
        let mixed = [&whole[..], &[0; 40]].concat();
        for (bytes, left) in [(&[][..], ""), (&zeros[..], ""), (&mixed[..], "a=a")] {
            fs::write(world.path(), bytes).unwrap();
            let (ledger, damage) = world.open();
            assert_eq!((text(&ledger).as_str(), damage.len()), (left, 1));
            assert_eq!(fs::read(beside(&world.path(), "damaged")).unwrap(), bytes);
            assert!(world.open().1.is_empty(), "told once");
        }
    }

    #[test]
    fn a_line_of_another_kind_of_value_is_told_and_passed_over() {
        let world = World::new();
        let (ledger, _) = world.open();
        ledger.put("a", "a".to_owned()).unwrap();
        drop(ledger);
        let (ledger, damage) = Ledger::<u64>::open(&world.path(), &world.lock).unwrap();
        assert!(ledger.all().is_empty());
        assert!(
            damage.len() == 1 && damage[0].contains("not understood"),
            "{damage:?}"
        );
    }

    #[test]
    fn a_file_that_is_mostly_dead_is_written_anew() {
        let world = World::new();
        let (ledger, _) = world.open();
        ledger.put("kept", "1".to_owned()).unwrap();
        let value = "v".repeat(1_000);
        for n in 0..1_000 {
            ledger.put("changing", format!("{n}{value}")).unwrap();
        }
        assert!(world.bytes().len() < 3 * DEAD_BYTES_MIN as usize);
        drop(ledger);
        let (ledger, damage) = world.open();
        assert_eq!((ledger.all().len(), damage.len()), (2, 0));
        assert!(ledger.get("changing").unwrap().starts_with("999v"));
        assert!(!beside(&world.path(), "new").exists());
    }

    #[test]
    fn after_a_failed_write_nothing_changes_until_the_file_could_be_written_anew() {
        let world = World::new();
        let (ledger, _) = world.open();
        ledger.put("a", "1".to_owned()).unwrap();
        // A device that takes nothing, as a full disk.
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        ledger.state().file = Some(full);
        assert!(ledger.put("a", "2".to_owned()).is_err());
        assert_eq!(text(&ledger), "a=1");
        ledger.put("b", "3".to_owned()).unwrap();
        assert_eq!(text(&world.open().0), "a=1 b=3");
    }

    #[test]
    fn a_ledger_is_for_its_owner_only_and_takes_no_more_than_it_says() {
        use std::os::unix::fs::PermissionsExt;
        let world = World::new();
        let (ledger, _) = world.open();
        let mode = || fs::metadata(world.path()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        ledger.state().write_anew(&world.path()).unwrap();
        assert_eq!(mode(), 0o600);
        let error = ledger.put("a", "x".repeat(LINE_BYTES_MAX)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(ledger.all().is_empty());
    }
}
