//! What an exported folder holds: `ID.eml`, the message byte for byte, and beside it `ID.json`, the
//! envelope. The envelope is written last, so a message without one is what a crash has left.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

pub const SCHEMA: &str = "pelton.exported-message/1";

/// What a file is called before it is whole.
const PART_SUFFIX: &str = ".part";

/// The envelope of an exported message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sidecar {
    pub schema: String,
    /// In the spool that it comes from.
    pub id: String,
    pub spool_id: String,
    /// RFC 3339, UTC.
    pub received_at: String,
    /// Empty for the null reverse-path.
    pub sender: String,
    /// Only those that still waited.
    pub recipients: Vec<To>,
    pub eight_bit: bool,
    pub smtputf8: bool,
    /// Of the message beside it.
    pub size_bytes: u64,
    /// Of the message beside it; whoever changes that on purpose leaves this out.
    #[serde(default)]
    pub crc32c: Option<String>,
    #[serde(default)]
    pub origin: Option<From>,
    /// What the header section says, for events.
    #[serde(default)]
    pub subject: String,
    #[serde(default)]
    pub friendly_from: String,
    /// Empty, as the two that follow, if it has none or is of the default class.
    #[serde(default)]
    pub class: String,
    #[serde(default)]
    pub tenant: String,
    #[serde(default)]
    pub campaign: String,
}

/// A recipient that waited.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct To {
    #[serde(default)]
    pub id: String,
    pub address: String,
    pub binding: String,
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub attempts: u16,
    #[serde(default)]
    pub due: Option<String>,
}

/// Where it came from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct From {
    pub peer: String,
    pub helo: String,
    pub method: String,
}

/// A file that gets its name when it is whole and on disk.
pub struct Part {
    file: io::BufWriter<File>,
    part: PathBuf,
    path: PathBuf,
}

impl Part {
    /// Refuses to write over anything.
    pub fn create(path: &Path) -> io::Result<Part> {
        if path.exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut part = path.as_os_str().to_owned();
        part.push(PART_SUFFIX);
        let part = PathBuf::from(part);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = io::BufWriter::new(options.open(&part)?);
        let path = path.to_owned();
        Ok(Part { file, part, path })
    }

    /// All of it has been handed to the system, and is not yet sure to be on disk.
    fn flushed(&mut self) -> io::Result<&File> {
        self.file.flush()?;
        Ok(self.file.get_ref())
    }

    fn name(&self) -> io::Result<()> {
        fs::rename(&self.part, &self.path)
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.flushed()?.sync_all()?;
        self.name()
    }
}

/// Files that get their names together, after one sync of the file system for all of them.
#[derive(Default)]
pub struct Parts {
    parts: Vec<Part>,
}

impl Parts {
    pub fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut part = Part::create(path)?;
        part.write_all(bytes)?;
        part.flushed()?;
        self.parts.push(part);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Gives the names, in the order of the writes.
    pub fn finish(&mut self, folder: &Path) -> io::Result<()> {
        let opened = File::open(folder)?;
        // SAFETY: the call takes a descriptor, which is open.
        if unsafe { libc::syncfs(opened.as_raw_fd()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        for part in self.parts.drain(..) {
            part.name()?;
        }
        opened.sync_all()
    }
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Of a file that is whole nothing is left under this name.
        let _ = fs::remove_file(&self.part);
    }
}

pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Whether a name is that of a file that never became whole.
pub fn is_part(name: &str) -> bool {
    name.ends_with(PART_SUFFIX)
}
