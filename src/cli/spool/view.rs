//! A spool as a start would find it, read without writing anything: beside a running engine it is
//! the spool of one moment. What an engine is just writing looks like damage to a reader; so damage
//! counts beside an engine only if a second look finds it in the same place.

use core::time::Duration;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use bytes::Bytes;

use crate::base::time::Mono;
use crate::base::units::counted;
use crate::base::units::grouped;
use crate::cli::output::EXIT_FAILED;
use crate::cli::output::Failure;
use crate::cli::output::shell_words;
use crate::cli::spool::damage;
use crate::cli::spool::place::Holder;
use crate::cli::spool::place::SPOOL_FILE;
use crate::cli::spool::place::SpoolPlace;
use crate::cli::spool::place::reason;
use crate::log;
use crate::log::Fault;
use crate::log::SegmentFile;
use crate::log::SegmentKind;
use crate::log::folder_name;
use crate::log::format;
use crate::log::format::Place;
use crate::log::parse_folder_name;
use crate::log::recover;
use crate::log::recover::Evidence;
use crate::log::recover::Recovered;
use crate::shard::clock::Clock;
use crate::spool;
use crate::spool::BodyAt;
use crate::spool::Damaged;
use crate::spool::Home;
use crate::spool::Recovery;
use crate::spool::Spool;
use crate::spool::SpoolFile;
use crate::spool::inspect;
use crate::types::id::BatchId;
use crate::types::id::ShardId;
use crate::types::message::Arrival;

/// Envelopes with few recipients are read at once.
const ENVELOPE_GUESS_BYTES: usize = 2_048;

/// How often a spool that changes under the reader is read anew.
const LOOKS_MAX: usize = 4;

/// Between two looks: a commit that was under way at the first is over at the second.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(150);

/// Progress is told when a command takes longer than this.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);

/// And then so often.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// What a run that ended cleanly has left.
const CLEAN_FILE: &str = "clean";

/// No spool of ours has had more.
const SHARDS_MAX: u16 = crate::types::id::SHARDS_MAX as u16;

/// The last number of a start that fits an id.
pub const STARTS_MAX: u32 = (1 << 24) - 1;

/// No folder of ours has had so many segments: such a name is not one of them.
const SEGMENT_NUMBER_MAX: u64 = 1 << 48;

/// The files of a spool folder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Files {
    pub segments: BTreeMap<ShardId, Vec<(SegmentFile, u64)>>,
    /// What a folder of a shard holds that is no segment, or no file.
    pub strange: Vec<PathBuf>,
}

impl Files {
    pub fn list(base: &Path) -> io::Result<Files> {
        let mut files = Files::default();
        for entry in fs::read_dir(base)? {
            let name = entry?.file_name();
            let Some(shard) = name.to_str().and_then(parse_folder_name) else {
                continue;
            };
            if base.join(folder_name(shard)).is_dir() {
                files.list_shard(base, shard)?;
            }
        }
        files.strange.sort();
        Ok(files)
    }

    fn list_shard(&mut self, base: &Path, shard: ShardId) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(base.join(folder_name(shard)))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str();
            let parsed = name.and_then(|name| SegmentFile::parse_file_name(shard, name));
            let parsed = parsed.filter(|it| (1..SEGMENT_NUMBER_MAX).contains(&it.number));
            // Only a plain file: a pipe would hold up the reader for good.
            match (parsed, fs::metadata(entry.path())) {
                (Some(file), Ok(it)) if it.is_file() => found.push((file, it.len())),
                // Gone while it was looked at: as if it had never been listed.
                (Some(_), Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                _ => self.strange.push(entry.path()),
            }
        }
        found.sort();
        self.segments.insert(shard, found);
        Ok(())
    }

    pub fn all(&self) -> impl Iterator<Item = (SegmentFile, u64)> + '_ {
        self.segments.values().flatten().copied()
    }

    pub fn of_kind(&self, kind: SegmentKind) -> impl Iterator<Item = (SegmentFile, u64)> + '_ {
        self.all().filter(move |(file, _)| file.kind == kind)
    }
}

/// Reads parts of segments; the file read last stays open.
pub struct Reader {
    base: PathBuf,
    open: Option<(SegmentFile, File)>,
}

impl Reader {
    pub fn new(base: &Path) -> Reader {
        let (base, open) = (base.to_owned(), None);
        Reader { base, open }
    }

    pub fn read(&mut self, file: SegmentFile, offset: u64, bytes: usize) -> Result<Vec<u8>, Fault> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != file) {
            let path = self.base.join(folder_name(file.shard));
            // What is no file, but a pipe in the place of one, would be waited for.
            let mut options = File::options();
            let options = options.read(true).custom_flags(libc::O_NONBLOCK);
            let opened = options.open(path.join(file.file_name()));
            let opened = opened.map_err(|_| Fault::Io)?;
            self.open = Some((file, opened));
        }
        let Some((_, opened)) = &self.open else {
            return Err(Fault::Io);
        };
        // A size that no segment has must not ask for memory.
        if bytes as u64 > format::SEGMENT_BYTES_MAX {
            return Err(Fault::Io);
        }
        let mut buffer = vec![0; bytes];
        let read = opened.read_exact_at(&mut buffer, offset);
        read.map(|()| buffer).map_err(|_| Fault::Io)
    }
}

/// Tells on a terminal how far a long command is.
pub struct Progress {
    what: &'static str,
    clock: Clock,
    began: Mono,
    told: Mono,
    terminal: bool,
    shown: bool,
}

impl Progress {
    pub fn new(what: &'static str) -> Progress {
        let clock = Clock::start();
        let began = clock.now().mono;
        Progress {
            what,
            clock,
            began,
            told: began,
            terminal: io::stderr().is_terminal(),
            shown: false,
        }
    }

    /// What comes next of the same command: the time it has taken goes on.
    pub fn goes_on(&mut self, what: &'static str) {
        self.what = what;
    }

    /// So many are done, of so many if that is known and not 0.
    pub fn at(&mut self, done: u64, all: u64, unit: &str) {
        if !self.terminal {
            return;
        }
        if let Some(line) = self.line(self.clock.now().mono, (done, all), unit) {
            self.shown = true;
            let _ = write!(io::stderr(), "\r{line}\x1b[K");
        }
    }

    /// What to show now, if it is time to.
    fn line(&mut self, now: Mono, (done, all): (u64, u64), unit: &str) -> Option<String> {
        let due = now.since(self.told) >= PROGRESS_EVERY;
        if now.since(self.began) < PROGRESS_AFTER || !due {
            return None;
        }
        self.told = now;
        let done = grouped(done);
        let of = match all {
            0 => String::new(),
            all => format!(" of {}", grouped(all)),
        };
        Some(format!("{}: {done}{of} {unit}", self.what))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// What a spool holds.
pub struct View {
    pub base: PathBuf,
    pub file: SpoolFile,
    /// What is wrong with `spool.json`, if the spool was read without it.
    pub file_fault: Option<String>,
    pub holder: Option<Holder>,
    pub files: Files,
    /// Live segments that the last run, which ended cleanly, noted and that are gone since, with
    /// their sizes.
    pub gone: Vec<(String, u32)>,
    /// Every recipient that waits, in the order of reception.
    pub arrivals: Vec<Arrival>,
    pub damage: Vec<Damaged>,
    /// Commits that had not been finished.
    pub torn_tails: u32,
    /// What could not be done, each in a sentence.
    pub notes: Vec<String>,
    spools: Vec<Spool>,
    reader: Reader,
}

impl View {
    /// Says how many commits will be cut; nothing if none will.
    pub fn torn_line(&self) -> String {
        match self.torn_tails {
            0 => String::new(),
            count => format!(
                "Torn      {} had not been finished and will be cut: nothing in them was \
                 acknowledged\n",
                counted(count.into(), "commit")
            ),
        }
    }

    pub fn open(place: &SpoolPlace, progress: &mut Progress) -> Result<View, Failure> {
        if !place.holds_spool() {
            return Err(place.absent());
        }
        View::settled(place, place.holder(), progress)
    }

    /// The same for who holds the lock, so that nobody else writes.
    pub fn alone(place: &SpoolPlace, progress: &mut Progress) -> Result<View, Failure> {
        View::settled(place, None, progress)
    }

    fn settled(
        place: &SpoolPlace,
        holder: Option<Holder>,
        progress: &mut Progress,
    ) -> Result<View, Failure> {
        let mut view = View::look(place, holder, progress)?;
        let mut changing = false;
        for _ in 1..LOOKS_MAX {
            changing = view.has_lost_files();
            let doubtful = holder.is_some() && !(view.damage.is_empty() && view.torn_tails == 0);
            if !changing && !doubtful {
                return Ok(view);
            }
            pause();
            let before = core::mem::take(&mut view.damage);
            view = View::look(place, holder, progress)?;
            view.damage.retain(|it| before.contains(it));
            changing = view.has_lost_files();
            if !changing {
                // What was found both times has not been under way.
                view.torn_tails = 0;
                return Ok(view);
            }
        }
        if changing {
            let note = "the engine gave segments free while they were read: what it has moved \
                        meanwhile may be missing here. Once more, or stop it for an exact answer";
            view.notes.push(note.to_owned());
        }
        Ok(view)
    }

    fn look(
        place: &SpoolPlace,
        holder: Option<Holder>,
        progress: &mut Progress,
    ) -> Result<View, Failure> {
        let base = &place.base;
        let listed = |error: io::Error| {
            let message = format!("cannot list {}: {}", base.display(), reason(&error));
            Failure::new(EXIT_FAILED, "E101", message)
        };
        let files = Files::list(base).map_err(listed)?;
        let (file, file_fault) = spool_file(base, &files)?;
        let shards = file.shards.clamp(1, SHARDS_MAX);
        let mut reader = Reader::new(base);
        let all = files.of_kind(SegmentKind::Live).count() as u64;
        let mut last = None;
        let mut begun = 0;
        let mut read = |file, offset, bytes| {
            if last != Some(file) {
                (begun, last) = (begun + 1, Some(file));
                progress.at(begun.min(all), all, "segments");
            }
            reader.read(file, offset, bytes)
        };
        let mut recovery = Recovery::new(file.spool_id, shards);
        for (shard, segments) in &files.segments {
            recovery
                .folder(*shard, segments.clone(), &mut read)
                .map_err(|error| newer(&error.to_string()))?;
        }
        let mut homes = recovery.finish(&mut read);
        let (mut arrivals, mut damage, mut torn_tails) = (Vec::new(), Vec::new(), 0);
        for home in &mut homes {
            arrivals.append(&mut home.arrivals);
            damage.append(&mut home.damage);
            torn_tails += home.torn_tails;
        }
        arrivals.sort_by_key(|it| (it.received, it.batch, it.recipient));
        let spools = homes.iter_mut().map(|home| still(&file, shards, home));
        Ok(View {
            base: base.clone(),
            file_fault,
            gone: match holder {
                Some(_) => Vec::new(),
                None => gone(base, &file, &files),
            },
            holder,
            arrivals,
            damage,
            torn_tails,
            notes: Vec::new(),
            spools: spools.collect(),
            reader,
            file,
            files,
        })
    }

    /// Whether a live segment that was read is gone: what lay there may have been moved to one
    /// that had been read before.
    fn has_lost_files(&self) -> bool {
        self.holder.is_some()
            && Files::list(&self.base).is_ok_and(|now| {
                let live: Vec<_> = now.of_kind(SegmentKind::Live).collect();
                let mut before = self.files.of_kind(SegmentKind::Live);
                before.any(|it| live.binary_search(&it).is_err())
            })
    }

    /// Messages that wait.
    pub fn messages(&self) -> u64 {
        self.by_message().count() as u64
    }

    /// Bytes of the messages that wait.
    pub fn body_bytes(&self) -> u64 {
        let firsts = self.by_message().filter_map(<[Arrival]>::first);
        firsts.map(|it| u64::from(it.size)).sum()
    }

    /// The waiting recipients of each message, in the order of reception.
    pub fn by_message(&self) -> impl Iterator<Item = &[Arrival]> {
        self.arrivals.chunk_by(|a, b| a.batch == b.batch)
    }

    /// Where a message lies that waits.
    pub fn locate(&self, batch: BatchId) -> Option<BodyAt> {
        self.spools.iter().find_map(|spool| spool.locate(batch))
    }

    /// The same, where its home is known.
    pub fn locate_arrival(&self, arrival: &Arrival) -> Option<BodyAt> {
        let home = self.spools.get(arrival.home.index())?;
        home.locate(arrival.batch)
    }

    /// The envelope of a message; nothing if it cannot be read.
    pub fn envelope(&mut self, arrival: &Arrival) -> Option<inspect::Stored> {
        let at = self.locate_arrival(arrival)?;
        let guess = ENVELOPE_GUESS_BYTES.min(at.bytes as usize);
        let mut bytes = self.reader.read(at.file, at.offset, guess).ok()?;
        let needed = inspect::envelope_bytes(self.file.spool_id, at, &bytes)?;
        if needed > bytes.len() {
            bytes = self.reader.read(at.file, at.offset, needed).ok()?;
        }
        let found = inspect::envelope(self.file.spool_id, at, &bytes)?;
        (found.content.batch == arrival.batch).then_some(found)
    }

    /// A message with its body; the error says what is wrong.
    pub fn message(&mut self, arrival: &Arrival) -> Result<inspect::Stored, String> {
        let batch = arrival.batch;
        let at = self.locate_arrival(arrival).ok_or("it is gone")?;
        let whole = |bytes: Vec<u8>| {
            let found = inspect::message(self.file.spool_id, at, &Bytes::from(bytes))?;
            (found.content.batch == batch).then_some(found)
        };
        let read = self.reader.read(at.file, at.offset, at.bytes as usize);
        if let Some(found) = read.ok().and_then(whole) {
            return Ok(found);
        }
        let (file, offset, bytes) = (at.file, at.offset, at.bytes);
        let path = self.base.join(folder_name(file.shard));
        Err(match path.join(file.file_name()).exists() {
            true => format!("{file}: damaged within {bytes} bytes at {offset}"),
            false => format!("{file} is gone since: the engine has moved or sent it meanwhile"),
        })
    }

    /// Every live segment as recovery reads it: of sealed ones what their footers tell.
    pub fn segments(&self, visit: &mut dyn FnMut(SegmentFile, &Recovered)) {
        let mut reader = Reader::new(&self.base);
        for segments in self.files.segments.values() {
            let mut evidence = Evidence::default();
            let live = segments
                .iter()
                .filter(|(it, _)| it.kind == SegmentKind::Live);
            for (file, bytes) in live.rev() {
                let place = self.place(*file);
                let mut read = |offset, bytes| reader.read(*file, offset, bytes);
                let found = recover::read_segment(place, *bytes, evidence, &mut read);
                if let Ok(recovered) = found {
                    evidence = recovered.evidence;
                    visit(*file, &recovered);
                }
            }
        }
    }

    pub fn place(&self, file: SegmentFile) -> Place {
        Place {
            spool_id: self.file.spool_id,
            segment: file.number,
        }
    }

    /// Whether anything is known to be wrong, so that mail may be missing from what is told.
    pub fn is_damaged(&self) -> bool {
        !damage::of(self).is_empty()
    }

    /// What every command warns of.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.notes.clone();
        let places = damage::of(self).len() as u64;
        if places > 0 {
            let verify = ["pelton", "spool", "verify", "--spool"];
            let mut verify = verify.map(str::to_owned).to_vec();
            verify.push(self.base.display().to_string());
            warnings.push(format!(
                "the spool has {}: mail that lay there is missing here. What it costs: {}",
                counted(places, "damaged place"),
                shell_words(&verify)
            ));
        }
        warnings
    }
}

/// The state of a spool that is only asked, and never polled: so it never writes.
fn still(file: &SpoolFile, shards: u16, home: &mut Home) -> Spool {
    // Whatever the file says: a writer that is never polled needs no number of its own.
    let start = file.starts.min(STARTS_MAX);
    let log = log::Config::new(file.spool_id, home.shard, start, shards);
    let segments_max = u32::MAX;
    Spool::whole(spool::Config { log, segments_max }, home)
}

/// Waits for whatever an engine has under way.
pub fn pause() {
    std::thread::sleep(LOOK_AGAIN_AFTER);
}

fn newer(error: &str) -> Failure {
    let message = format!("{error}. The spool is left as it is: use a newer Pelton");
    Failure::new(EXIT_FAILED, "E104", message)
}

fn gone(base: &Path, file: &SpoolFile, files: &Files) -> Vec<(String, u32)> {
    let note = fs::read_to_string(base.join(CLEAN_FILE)).unwrap_or_default();
    let mut lines = note.lines();
    let starts = lines.next().and_then(|it| it.trim().parse::<u32>().ok());
    if starts != Some(file.starts) {
        return Vec::new();
    }
    let live = files.of_kind(SegmentKind::Live);
    let live: BTreeSet<String> = live.map(|(file, _)| file.to_string()).collect();
    lines
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, name)| !live.contains(*name))
        // What tells of no segment has no size.
        .filter_map(|(bytes, name)| Some((name.to_owned(), bytes.parse().ok()?)))
        .collect()
}

/// `spool.json`, or what the segments themselves tell if it is lost: each has the number of its
/// spool in its header.
fn spool_file(base: &Path, files: &Files) -> Result<(SpoolFile, Option<String>), Failure> {
    let path = base.join(SPOOL_FILE);
    let fault = match fs::read(&path) {
        Ok(bytes) => match SpoolFile::decode(&bytes) {
            Ok(file) => return Ok((file, None)),
            Err(error @ spool::SpoolFileError::NewerFormat(_)) => {
                return Err(newer(&format!("{}: {error}", path.display())));
            }
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => "missing".to_owned(),
        Err(error) => {
            let message = format!("cannot read {}: {}", path.display(), reason(&error));
            return Err(Failure::new(EXIT_FAILED, "E101", message));
        }
    };
    let mut reader = Reader::new(base);
    let mut ids: BTreeMap<u64, (usize, SpoolFile)> = BTreeMap::new();
    for (file, bytes) in files.of_kind(SegmentKind::Live) {
        let head = (bytes as usize).min(format::HEADER_BYTES);
        let head = reader.read(file, 0, head).unwrap_or_default();
        let Ok(header) = format::decode_header(&head) else {
            continue;
        };
        let spool_id = header.place.spool_id;
        let (starts, shards) = (header.start, header.shards);
        let found = SpoolFile {
            spool_id,
            starts,
            shards,
        };
        let (count, known) = ids.entry(spool_id).or_insert((0, found));
        *count += 1;
        if starts >= known.starts {
            *known = found;
        }
    }
    let most = ids.into_values().max_by_key(|(count, _)| *count);
    let Some((_, file)) = most else {
        let message = format!(
            "{}: {fault}, and no segment tells the number of the spool: nothing can be read here. \
             Restore the file from a backup",
            path.display()
        );
        return Err(Failure::new(EXIT_FAILED, "E103", message));
    };
    let fault = format!(
        "{fault}: no engine starts here without it, restore it from a backup; these commands read \
         the spool by what its segments tell, so that mail can be exported"
    );
    Ok((file, Some(fault)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_after_two_seconds_of_the_whole_command() {
        let mut progress = Progress::new("checking");
        let began = progress.began;
        let after = |ms| began + Duration::from_millis(ms);
        let line =
            |progress: &mut Progress, ms| progress.line(after(ms), (1_500, 3_000), "messages");
        assert_eq!(line(&mut progress, 1_999), None);
        let told = Some("checking: 1,500 of 3,000 messages".to_owned());
        assert_eq!(line(&mut progress, 2_000), told);
        assert_eq!(line(&mut progress, 2_100), None);
        progress.goes_on("importing");
        assert_eq!(
            progress.line(after(2_600), (7, 0), "messages"),
            Some("importing: 7 messages".to_owned())
        );
    }
}
