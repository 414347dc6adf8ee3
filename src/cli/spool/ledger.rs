//! What was imported into a spool, so that nothing is imported twice: the file `imported` in the
//! spool folder. Before messages are stored, a line names where each comes from and the id that it
//! gets; when they are on disk, another line says so. What a crash has left in between is decided
//! by looking for that id in the spool.

use core::fmt::Write as _;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::types::id::BatchId;

const FILE: &str = "imported";

/// Says that this message is about to be stored: `? KEY ID`.
const BEGUN: &str = "?";

/// Says that it is on disk: `+ ID`.
const DONE: &str = "+";

pub struct Ledger {
    file: File,
    /// Under which id each came in.
    known: BTreeMap<String, BatchId>,
    done: BTreeSet<BatchId>,
}

impl Ledger {
    /// Opens it with what is in it. A line that a crash has left without an end is ended.
    pub fn open(base: &Path) -> io::Result<Ledger> {
        let path = base.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let mut file = options.open(&path)?;
        if bytes.last().is_some_and(|last| *last != b'\n') {
            file.write_all(b"\n")?;
        }
        let (mut known, mut done) = (BTreeMap::new(), BTreeSet::new());
        for line in String::from_utf8_lossy(&bytes).lines() {
            // What is neither has been cut off, and says nothing.
            match line.split(' ').collect::<Vec<_>>()[..] {
                [BEGUN, key, id] => {
                    let id = id.parse();
                    known.extend(id.ok().map(|id: BatchId| (key.to_owned(), id)));
                }
                [DONE, id] => done.extend(id.parse::<BatchId>().ok()),
                _ => {}
            }
        }
        File::open(base)?.sync_all()?;
        Ok(Ledger { file, known, done })
    }

    /// Whether what comes from there is surely in the spool, or was.
    pub fn has(&self, key: &str) -> bool {
        self.known.get(key).is_some_and(|id| self.done.contains(id))
    }

    /// Ids that were about to be stored when an import was cut off.
    pub fn open_ends(&self) -> BTreeSet<BatchId> {
        let ids = self.known.values().copied();
        ids.filter(|id| !self.done.contains(id)).collect()
    }

    pub fn begin<'a>(
        &mut self,
        messages: impl Iterator<Item = (&'a str, BatchId)>,
    ) -> io::Result<()> {
        let mut text = String::new();
        for (key, id) in messages {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{BEGUN} {key} {id}");
            self.known.insert(key.to_owned(), id);
        }
        self.append(&text)
    }

    pub fn done(&mut self, ids: impl Iterator<Item = BatchId>) -> io::Result<()> {
        let mut text = String::new();
        for id in ids {
            let _ = writeln!(text, "{DONE} {id}");
            self.done.insert(id);
        }
        self.append(&text)
    }

    fn append(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_known_again_and_what_was_cut_off_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(folder.path()).unwrap();
        let ids = [1, 2, 3].map(BatchId);
        let keys = ["a-1", "a-2", "a-3"];
        ledger.begin(keys.into_iter().zip(ids)).unwrap();
        ledger.done(ids[..2].iter().copied()).unwrap();
        let path = folder.path().join(FILE);
        let mut text = fs::read(&path).unwrap();
        // In the middle of its last line.
        text.truncate(text.len() - 3);
        fs::write(&path, &text).unwrap();
        let mut ledger = Ledger::open(folder.path()).unwrap();
        assert!(ledger.has("a-1") && !ledger.has("a-2") && !ledger.has("b-1"));
        assert_eq!(ledger.open_ends(), ids[1..].iter().copied().collect());
        ledger.done(ids[1..2].iter().copied()).unwrap();
        assert!(Ledger::open(folder.path()).unwrap().has("a-2"));
    }
}
