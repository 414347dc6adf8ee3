//! `pelton spool import`: puts messages into a spool that no engine has. What it does there is what
//! an engine does: it holds the lock, counts a start of its own, recovers, stores, syncs.

use core::fmt::Write as _;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::base::time::Wall;
use crate::base::units;
use crate::base::units::counted;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_FAILED;
use crate::cli::output::EXIT_NOT_ALLOWED;
use crate::cli::output::EXIT_USAGE;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::clean;
use crate::cli::output::command;
use crate::cli::output::wall_now;
use crate::cli::spool::ledger::Ledger;
use crate::cli::spool::place::SPOOL_FILE;
use crate::cli::spool::place::SpoolArgs;
use crate::cli::spool::place::SpoolPlace;
use crate::cli::spool::place::reason;
use crate::cli::spool::source;
use crate::cli::spool::source::Incoming;
use crate::cli::spool::source::Source;
use crate::cli::spool::source::Unfit;
use crate::cli::spool::source::Wanted;
use crate::cli::spool::view::Files;
use crate::cli::spool::view::Progress;
use crate::cli::spool::view::STARTS_MAX;
use crate::cli::spool::view::View;
use crate::cli::spool::writer::Settings;
use crate::cli::spool::writer::Store;
use crate::config::Config;
use crate::control::journal::JOURNAL_BYTES_MAX;
use crate::control::journal::Journal;
use crate::control::reading;
use crate::control::startup;
use crate::control::startup::SpoolLock;
use crate::log::CommitId;
use crate::log::format;
use crate::spool::Home;
use crate::spool::Refused;
use crate::spool::SpoolFile;
use crate::spool::inspect;
use crate::types::address::Address;
use crate::types::id::BatchId;
use crate::types::id::SHARDS_MAX;

/// Of a message whose source names none: the binding that every configuration has.
pub const BINDING_DEFAULT: &str = "default";

/// What goes to disk together.
const CHUNK_MESSAGES_MAX: usize = 256;
const CHUNK_BYTES_MAX: usize = 16 << 20;

/// Messages named one by one in the text; all are in the JSON.
const UNFIT_TOLD_MAX: usize = 20;

/// Where neither a configuration nor a segment says how large they are to be.
const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;

/// Permission bits of new segments where no configuration says.
const MODE_DEFAULT: u32 = 0o640;

const EXAMPLES: &str = "\
Examples:
  pelton spool import saved                             a folder that spool export has written
  pelton spool import --spool-from /mnt/old/spool       all that waits in another spool
  pelton spool import --mbox old.mbox --binding bulk-1  an mbox, to be sent by that binding
  pelton spool import saved --spool /srv/new --create   into a spool that is yet to be made

The engine of this spool must not run meanwhile: stop it, import, start it again. It then delivers
what was imported like any other mail. Messages keep their time of reception, from which they
expire, and get new ids; attempts count anew, and the first is made at once.

All of a folder or mbox is checked before the first message is taken. What was imported is kept in
mind in the spool, so that the same command can be run again after a failure or by mistake: it
skips what is there, and says so. A message is imported whole, with all its recipients, or not.

In an mbox the sender is that of the From_ line, else of Return-Path. The recipients are those of
--to, else of X-Original-To, else of Delivered-To, else of To: the first of these that is there. An
mbox of sent mail may have been delivered already, and To need not be whom it was for: look first.
Return-Path and X-Original-To on top are taken off. Messages count as received now.

Exit codes: 0 all of it is in; 1 it was refused or stopped, or a spool that was read is damaged and
not all of it came; 2 usage, or no spool there; 5 the spool is another user's.";

const USAGE: &str = "\
pelton spool import [OPTIONS] EXPORTED
       pelton spool import [OPTIONS] --mbox FILE
       pelton spool import [OPTIONS] --spool-from OTHER_SPOOL";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, override_usage = USAGE)]
pub struct ImportArgs {
    /// A folder that pelton spool export has written
    #[arg(value_name = "EXPORTED", required_unless_present_any = ["mbox", "spool_from"],
          conflicts_with_all = ["mbox", "spool_from"])]
    pub folder: Option<PathBuf>,
    /// An mbox
    #[arg(long, value_name = "FILE", conflicts_with = "spool_from")]
    pub mbox: Option<PathBuf>,
    /// The folder of another spool, whose engine must not run either
    #[arg(long, value_name = "OTHER_SPOOL")]
    pub spool_from: Option<PathBuf>,
    /// Send messages of an mbox to this address instead; repeatable
    #[arg(long, value_name = "ADDRESS", requires = "mbox", value_parser = source::address)]
    pub to: Vec<Address>,
    /// Send all of it by this binding [default: the one that each message had, for an mbox
    /// "default"]
    #[arg(long, value_name = "NAME")]
    pub binding: Option<String>,
    /// Make the spool if there is none
    #[arg(long)]
    pub create: bool,
    #[command(flatten)]
    pub place: SpoolArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What has been done.
#[derive(Default)]
struct Done {
    messages: u64,
    recipients: u64,
    /// They had been imported before.
    skipped: u64,
    /// Of a damaged spool: what could not be read of it.
    left_out: Vec<Unfit>,
    /// The spool that was read is damaged: what waited there may not all have come.
    source_damaged: bool,
    bindings: BTreeSet<Arc<str>>,
    warnings: Vec<String>,
}

pub fn run(args: &ImportArgs) -> Result<Page, Failure> {
    let place = args.place.place()?;
    let wanted = Wanted {
        binding: args.binding.as_deref().map(Arc::from),
        to: args.to.clone(),
        now: wall_now(),
    };
    if !args.create && !place.holds_spool() {
        let mut failure = place.absent();
        failure
            .message
            .push_str(". To make a spool there: --create");
        return Err(failure);
    }
    may_write(&place)?;
    in_use(&place)?;
    let mut progress = Progress::new("reading");
    let (mut source, _other) = open_source(args, &place, &mut progress)?;
    progress.goes_on("checking");
    let all = check(&mut source, &wanted, place.config.as_ref(), &mut progress)?;
    progress.goes_on("reading the spool");
    let mut import = Import::open(place, &mut progress)?;
    progress.goes_on("importing");
    let result = import.take_all(&mut source, &wanted, all, &mut progress);
    drop(progress);
    import.close();
    result?;
    Ok(page(args, &import))
}

/// Segments of another user could not be opened by the engine afterwards.
fn may_write(place: &SpoolPlace) -> Result<(), Failure> {
    let Ok(metadata) = fs::metadata(&place.base) else {
        return Ok(());
    };
    // SAFETY: the call takes nothing and cannot fail.
    let own = unsafe { libc::geteuid() };
    let owner = metadata.uid();
    if own == owner {
        return Ok(());
    }
    let message = format!(
        "the spool {} belongs to user {owner}, and this runs as user {own}: its engine could not \
         read what would be written here. Nothing was imported. Run it as that user: \
         sudo -u '#{owner}' pelton spool import ...",
        place.base.display()
    );
    Err(Failure::new(EXIT_NOT_ALLOWED, "E424", message))
}

fn busy(base: &Path, holder: &str) -> Failure {
    let message = format!(
        "an engine works in the spool {}{holder}: import writes there and needs it alone. Nothing \
         was imported. Stop the engine (systemctl stop pelton), import, start it again",
        base.display()
    );
    Failure::new(EXIT_FAILED, "E102", message)
}

fn in_use(place: &SpoolPlace) -> Result<(), Failure> {
    match place.holder() {
        Some(holder) => Err(busy(&place.base, &format!(" ({holder})"))),
        None => Ok(()),
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(EXIT_USAGE, "E422", message)
}

/// The source, and the lock of the spool that it is, if it is one.
fn open_source(
    args: &ImportArgs,
    place: &SpoolPlace,
    progress: &mut Progress,
) -> Result<(Source, Option<File>), Failure> {
    if let Some(base) = &args.spool_from {
        let from = SpoolPlace::of_folder(base);
        if !from.holds_spool() {
            return Err(from.absent());
        }
        let real = |path: &Path| path.canonicalize().ok();
        if real(base).is_some() && real(base) == real(&place.base) {
            let message = format!("{} is this spool itself: expected another", base.display());
            return Err(usage(message));
        }
        let lock = lock_other(&from)?;
        return Ok((Source::spool(&from, progress)?, lock));
    }
    let source = match (&args.folder, &args.mbox) {
        (_, Some(path)) => Source::mbox(path),
        (Some(folder), None) => Source::folder(folder),
        (None, None) => {
            Err("expected an exported folder, --mbox FILE or --spool-from SPOOL".to_owned())
        }
    };
    Ok((source.map_err(usage)?, None))
}

/// Keeps an engine from starting in the other spool. Its lock is only opened for reading: the disk
/// may be one that cannot be written.
fn lock_other(from: &SpoolPlace) -> Result<Option<File>, Failure> {
    let taken = |holder: &str| {
        let message = format!(
            "an engine works in {}{holder} and sends what waits there: both would. Nothing was \
             imported. Stop that engine first",
            from.base.display()
        );
        Failure::new(EXIT_FAILED, "E102", message)
    };
    if let Some(holder) = from.holder() {
        return Err(taken(&format!(" ({holder})")));
    }
    let Ok(lock) = File::open(from.base.join("lock")) else {
        return Ok(None);
    };
    // SAFETY: flock takes a descriptor that is open for as long as `lock` lives.
    match unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(Some(lock)),
        _ => Err(taken("")),
    }
}

/// Reads all of it before anything is written, and tells how many messages that are. Of a spool
/// only the bindings: what is damaged in it is left out, and its bodies are read but once.
fn check(
    source: &mut Source,
    wanted: &Wanted,
    config: Option<&Config>,
    progress: &mut Progress,
) -> Result<u64, Failure> {
    let mut unfit = Vec::new();
    let mut bindings: BTreeMap<Arc<str>, String> = BTreeMap::new();
    let mut all = source.len().unwrap_or(0);
    if let Source::Spool { view, .. } = source {
        for it in &view.arrivals {
            let binding = wanted.binding.as_ref().unwrap_or(&it.binding);
            let name = || format!("message {}", it.batch);
            bindings.entry(binding.clone()).or_insert_with(name);
        }
    } else {
        let mut done = 0;
        while let Some(read) = source.next(wanted) {
            done += 1;
            progress.at(done, all, "messages");
            match read {
                Ok(it) => {
                    for recipient in it.recipients {
                        let name = || it.name.clone();
                        bindings.entry(recipient.binding).or_insert_with(name);
                    }
                }
                Err(it) => unfit.push(it),
            }
        }
        all = done;
        source.rewind().map_err(usage)?;
    }
    match unfit.is_empty() || !source.must_be_whole() {
        true => have(config, &bindings).map(|()| all),
        false => Err(cannot(&unfit)),
    }
}

fn cannot(unfit: &[Unfit]) -> Failure {
    let mut message = format!(
        "{} cannot be imported, so nothing was. Put right or take away:",
        counted(unfit.len() as u64, "message")
    );
    for Unfit { name, why } in unfit.iter().take(UNFIT_TOLD_MAX) {
        // Writing to a string cannot fail.
        let _ = write!(message, "\n  {name}: {why}");
    }
    if unfit.len() > UNFIT_TOLD_MAX {
        let left = (unfit.len() - UNFIT_TOLD_MAX) as u64;
        let _ = write!(message, "\n  and {}", counted(left, "more message"));
    }
    Failure::new(EXIT_FAILED, "E425", message)
}

/// Whether the configuration has all these bindings: mail for another would wait for good.
fn have(config: Option<&Config>, bindings: &BTreeMap<Arc<str>, String>) -> Result<(), Failure> {
    let Some(config) = config else {
        return Ok(());
    };
    let mut named = bindings.iter();
    let unknown = named.find(|(name, _)| config.binding_by_name(name).is_none());
    let Some((name, by)) = unknown else {
        return Ok(());
    };
    let known = config.bindings().iter().map(|it| it.name.as_str());
    let known: Vec<&str> = known.collect();
    Err(usage(format!(
        "{by} is for binding \"{name}\", which the configuration does not have. Nothing was \
         imported. Expected one of {}: add it there, or send all of it by another: --binding NAME",
        known.join(", ")
    )))
}

/// A spool that is open for importing.
struct Import {
    place: SpoolPlace,
    spool_id: u64,
    stores: Vec<Store>,
    ledger: Ledger,
    /// Messages that wait here, so that what was exported from here is not doubled.
    waiting: BTreeSet<BatchId>,
    start: u32,
    /// See [`startup::CleanEnd::doubt`].
    doubt: Option<Wall>,
    /// The run before ended as it should, so that nothing was on the wire.
    clean: bool,
    /// Nothing went wrong on the disk.
    sound: bool,
    done: Done,
    _lock: SpoolLock,
}

impl Import {
    fn open(place: SpoolPlace, progress: &mut Progress) -> Result<Import, Failure> {
        let failed = |sentence: String| failure_of(&sentence);
        let lock = startup::lock_spool(&place.base).map_err(|sentence| {
            match sentence.starts_with("E102") {
                true => busy(&place.base, ""),
                false => failed(sentence),
            }
        })?;
        let before = before(&place, progress)?;
        let shards = before.shards;
        let spool_file =
            startup::count_start(&place.base, shards.into(), random()).map_err(failed)?;
        let mut told = |done: usize, all: usize| progress.at(done as u64, all as u64, "segments");
        let mut homes = reading::whole(&place.base, &spool_file, &mut told).map_err(failed)?;
        let ended = startup::ended_clean(&place.base, &spool_file);
        let clean = ended.is_some() || spool_file.starts == 1;
        let mut warnings = before.warnings.clone();
        let doubt = ended.as_ref().and_then(|it| it.doubt);
        warnings.extend(damage(&homes, ended.map(|it| it.changes)));
        let arrivals = homes.iter().flat_map(|home| &home.arrivals);
        let waiting = arrivals.map(|it| it.batch).collect();
        let settings = settings(&place, &spool_file, &before);
        let stores = homes.iter_mut().map(|home| Store::new(&settings, home));
        let stores = stores.collect();
        let done = Done {
            warnings,
            ..Done::default()
        };
        Ok(Import {
            spool_id: spool_file.spool_id,
            stores,
            ledger: before.ledger,
            waiting,
            start: spool_file.starts,
            doubt,
            clean,
            sound: true,
            done,
            place,
            _lock: lock,
        })
    }

    /// Message after message; the error says how far it came.
    fn take_all(
        &mut self,
        source: &mut Source,
        wanted: &Wanted,
        all: u64,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let faults = source.faults();
        self.done.source_damaged = !faults.is_empty();
        self.done.warnings.extend(faults);
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while let Some(read) = source.next(wanted) {
            progress.at(self.done.messages + self.done.skipped, all, "messages");
            match read {
                Err(unfit) if source.must_be_whole() => {
                    self.take(&mut chunk)?;
                    let Unfit { name, why } = unfit;
                    return Err(self.stopped(&name, &format!("it has changed meanwhile: {why}")));
                }
                Err(unfit) => self.done.left_out.push(unfit),
                Ok(incoming) if self.is_here(&incoming) => self.done.skipped += 1,
                Ok(incoming) => {
                    bytes += incoming.content.body.len();
                    chunk.push(incoming);
                }
            }
            if chunk.len() >= CHUNK_MESSAGES_MAX || bytes >= CHUNK_BYTES_MAX {
                self.take(&mut chunk)?;
                bytes = 0;
            }
        }
        self.take(&mut chunk)
    }

    fn is_here(&mut self, incoming: &Incoming) -> bool {
        let waits = incoming
            .was
            .is_some_and(|(spool_id, id)| spool_id == self.spool_id && self.waiting.contains(&id));
        waits || self.ledger.has(&incoming.key)
    }

    /// Stores what has gathered, in one home, and waits until it is on disk.
    fn take(&mut self, chunk: &mut Vec<Incoming>) -> Result<(), Failure> {
        if chunk.is_empty() {
            return Ok(());
        }
        // By turns, so that no shard is home to all of it.
        let turn = self.done.messages as usize / CHUNK_MESSAGES_MAX % self.stores.len();
        let store = &mut self.stores[turn];
        let ids: Vec<BatchId> = (0..chunk.len()).map(|ahead| store.id(ahead)).collect();
        for (incoming, id) in chunk.iter_mut().zip(&ids) {
            incoming.content.batch = *id;
        }
        let named = chunk
            .iter()
            .map(|it| it.key.as_str())
            .zip(ids.iter().copied());
        if let Err(error) = self.ledger.begin(named) {
            self.sound = false;
            let why = format!("{}/imported: {}", self.place.base.display(), reason(&error));
            return Err(self.stopped(&chunk[0].name, &why));
        }
        let mut commits: Vec<(BatchId, CommitId)> = Vec::new();
        let mut refused = None;
        for incoming in chunk.iter() {
            let mut put = store.put(&incoming.content, &incoming.recipients);
            if put == Err(Refused::Busy) {
                store.commit(&commits.iter().map(|it| it.1).collect());
                put = store.put(&incoming.content, &incoming.recipients);
            }
            match put {
                Ok(commit) => commits.push((incoming.content.batch, commit)),
                Err(why) => {
                    refused = Some(why);
                    break;
                }
            }
        }
        store.commit(&commits.iter().map(|it| it.1).collect());
        let durable = commits.iter().filter(|it| store.is_durable(it.1));
        let durable: BTreeSet<BatchId> = durable.map(|it| it.0).collect();
        let why = match (refused, store.error()) {
            (Some(Refused::NoSpace), _) => Some("the disk has no space for it".to_owned()),
            (Some(Refused::TooLarge), _) => Some("it is larger than a segment".to_owned()),
            (_, Some(error)) => Some(reason(error)),
            (Some(why), None) => Some(why.to_string()),
            (None, None) => None,
        };
        let noted = self.ledger.done(durable.iter().copied());
        self.count(chunk, &durable);
        let first_left = chunk.iter().find(|it| !durable.contains(&it.content.batch));
        if let Some(left) = first_left {
            self.sound = false;
            let why = why.unwrap_or_else(|| "the disk did not take it in time".to_owned());
            return Err(self.stopped(&left.name, &why));
        }
        if let Err(error) = noted {
            self.sound = false;
            let why = format!("{}/imported: {}", self.place.base.display(), reason(&error));
            return Err(self.stopped("what comes next", &why));
        }
        chunk.clear();
        Ok(())
    }

    fn count(&mut self, chunk: &[Incoming], durable: &BTreeSet<BatchId>) {
        for incoming in chunk
            .iter()
            .filter(|it| durable.contains(&it.content.batch))
        {
            self.done.messages += 1;
            self.done.recipients += incoming.recipients.len() as u64;
            let bindings = incoming.recipients.iter().map(|it| it.binding.clone());
            self.done.bindings.extend(bindings);
        }
    }

    fn stopped(&self, name: &str, why: &str) -> Failure {
        let message = format!(
            "stopped at {name}: {why}. Before it {} imported and {} skipped; of it and what \
             follows nothing was taken. Run the same command again when that is put right: it \
             skips what is here",
            counted(self.done.messages, "message"),
            units::grouped(self.done.skipped)
        );
        Failure::new(EXIT_FAILED, "E426", message)
    }

    /// Ends the run as an engine ends its own.
    fn close(&mut self) {
        // One that was never used has nothing under way.
        for store in self.stores.iter_mut().filter(|it| it.is_used()) {
            self.sound = self.sound && store.finish();
        }
        if self.clean && self.sound {
            startup::note_clean_end(&self.place.base, self.start, self.doubt);
        }
        // The journal tells of the past; the import is done without it.
        let Ok(journal) = Journal::open(&self.place.journal, JOURNAL_BYTES_MAX) else {
            return;
        };
        // SAFETY: the call takes nothing and cannot fail.
        let by = format!("uid {}", unsafe { libc::geteuid() });
        let now = wall_now();
        let damage = self.done.warnings.iter();
        let damage: Vec<String> = damage
            .filter(|it| it.starts_with("E204"))
            .cloned()
            .collect();
        journal.append_damage(now, &damage);
        let text = format!(
            "imported {} into the spool, skipped {}",
            counted(self.done.messages, "message"),
            units::grouped(self.done.skipped)
        );
        let _ = journal.append(now, "import", &by, &text);
    }
}

fn settings(place: &SpoolPlace, file: &SpoolFile, before: &Before) -> Settings {
    let global = place.config.as_ref().map(Config::global);
    Settings {
        base: place.base.clone(),
        spool_id: file.spool_id,
        start: file.starts,
        shards: before.shards,
        segment_bytes: global.map_or(before.segment_bytes, |it| it.spool_segment_size),
        mode: global.map_or(MODE_DEFAULT, |it| it.spool_mode),
        keep_free: global.map_or(0, |it| it.min_free_space),
    }
}

/// What a start would tell of damage, in its words.
fn damage(homes: &[Home], ended: Option<Vec<String>>) -> Vec<String> {
    let all = homes.iter().flat_map(|home| &home.damage);
    let mut told: Vec<String> = all.map(|it| format!("E204 {it}")).collect();
    let torn = homes
        .iter()
        .filter(|it| it.torn_tails > 0 && ended.is_some());
    told.extend(torn.map(|home| {
        let shard = home.shard.0;
        format!(
            "E204 shard-{shard:02}: the last commit is damaged although the last run ended \
             cleanly; mail in it is lost, everything else was recovered"
        )
    }));
    let gone = ended.into_iter().flatten();
    told.extend(gone.map(|it| format!("E204 {it}")));
    told
}

/// What is known of a spool before a start is counted in it.
struct Before {
    shards: u16,
    segment_bytes: u64,
    ledger: Ledger,
    warnings: Vec<String>,
}

fn before(place: &SpoolPlace, progress: &mut Progress) -> Result<Before, Failure> {
    let base = &place.base;
    let failed = |what: &str, error: &std::io::Error| {
        let message = format!("{}/{what}: {}", base.display(), reason(error));
        Failure::new(EXIT_FAILED, "E101", message)
    };
    let files = Files::list(base).map_err(|error| failed("", &error))?;
    let is_segment = |path: &&PathBuf| path.extension().is_some_and(|it| it == "log");
    if let Some(path) = files.strange.iter().find(is_segment) {
        let message = format!(
            "{} is named like a segment and is none: move it out of the spool first. Nothing was \
             imported",
            path.display()
        );
        return Err(Failure::new(EXIT_FAILED, "E427", message));
    }
    let shards = place.config.as_ref().map_or(1, Config::shard_count);
    let mut shards = u16::try_from(shards).unwrap_or(1);
    let mut starts = 0;
    if let Ok(bytes) = fs::read(base.join(SPOOL_FILE))
        && let Ok(file) = SpoolFile::decode(&bytes)
    {
        starts = file.starts;
        if (1..=SHARDS_MAX).contains(&usize::from(file.shards)) {
            shards = file.shards;
        }
        if starts >= STARTS_MAX {
            let message = format!(
                "{}/{SPOOL_FILE}: {starts} starts are more than ids have room for: the file is \
                 damaged. Nothing was imported",
                base.display()
            );
            return Err(Failure::new(EXIT_FAILED, "E103", message));
        }
    }
    let fits = |bytes: &u64| {
        let sizes = format::SEGMENT_BYTES_MIN..=format::SEGMENT_BYTES_MAX;
        sizes.contains(bytes) && bytes.is_multiple_of(4_096)
    };
    let newest = files.all().max_by_key(|(file, _)| file.number);
    let segment_bytes = newest.map(|(_, bytes)| bytes).filter(fits);
    let mut ledger = Ledger::open(base).map_err(|error| failed("imported", &error))?;
    let warnings = close_ends(place, &mut ledger, starts, progress)
        .map_err(|error| failed("imported", &error))?;
    Ok(Before {
        shards,
        segment_bytes: segment_bytes.unwrap_or(SEGMENT_BYTES_DEFAULT),
        ledger,
        warnings,
    })
}

/// Finds out which messages of imports that were cut off got in all the same. Those of which no
/// record is left did not, unless an engine has run since and has sent them already.
fn close_ends(
    place: &SpoolPlace,
    ledger: &mut Ledger,
    starts: u32,
    progress: &mut Progress,
) -> std::io::Result<Vec<String>> {
    let mut ends = ledger.open_ends();
    if ends.is_empty() || !place.holds_spool() {
        return Ok(Vec::new());
    }
    let mut found = BTreeSet::new();
    if let Ok(view) = View::alone(place, progress) {
        found.extend(view.arrivals.iter().map(|it| it.batch));
        view.segments(&mut |_, recovered| {
            found.extend(inspect::messages(recovered).iter().map(|it| it.batch));
            found.extend(inspect::outcomes(recovered).map(|it| it.1.message.batch));
        });
    }
    let got_in = ends.extract_if(.., |id| found.contains(id));
    ledger.done(got_in.collect::<Vec<_>>().into_iter())?;
    let doubtful = ends.iter().filter(|id| id.start() < starts).count() as u64;
    Ok(match doubtful {
        0 => Vec::new(),
        count => vec![format!(
            "an earlier import was cut off before it could note {}, and an engine has run since: \
             if they come again now, they may be sent twice",
            counted(count, "message")
        )],
    })
}

/// A sentence that begins with its code.
fn failure_of(sentence: &str) -> Failure {
    let (code, text) = sentence.split_once(' ').unwrap_or(("E101", sentence));
    let nothing = if text.ends_with('.') { "" } else { "." };
    let message = format!("{text}{nothing} Nothing was imported");
    Failure::new(EXIT_FAILED, code, message)
}

/// Not for secrets: the random number of a new spool.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

fn page(args: &ImportArgs, import: &Import) -> Page {
    let done = &import.done;
    let base = import.place.base.display().to_string();
    let whole = done.left_out.is_empty() && !done.source_damaged;
    let bindings: Vec<&str> = done.bindings.iter().map(|it| &**it).collect();
    let mut text = told(done, &base);
    if import.place.config.is_none() && !bindings.is_empty() {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "Bindings  {}: the configuration of the engine has to have them",
            clean(&bindings.join(", "))
        );
    }
    let next = match &args.place.config {
        Some(config) => {
            let config = config.display().to_string();
            command(&["pelton", "serve", "--config", &config])
        }
        None => command(&["pelton", "spool", "list", "--spool", &base]),
    };
    let mut warnings = done.warnings.clone();
    if let Some(from) = &args.spool_from {
        warnings.push(format!(
            "the messages are in {} too: an engine that is started there sends them as well",
            from.display()
        ));
    }
    let unfit = |it: &Unfit| json!({ "name": it.name, "why": it.why });
    Page {
        schema: "pelton.spool-import/1",
        at: wall_now().rfc3339().to_string(),
        text,
        data: json!({
            "path": base,
            "messages": done.messages,
            "recipients": done.recipients,
            "skipped": done.skipped,
            "left_out": done.left_out.iter().map(unfit).collect::<Vec<_>>(),
            "complete": whole,
            "bindings": bindings,
        }),
        warnings,
        next: vec![next],
        exit: if whole { EXIT_DONE } else { EXIT_FAILED },
        ..Page::default()
    }
}

fn told(done: &Done, base: &str) -> String {
    let skipped = match done.skipped {
        0 => String::new(),
        count => format!(
            "; {} skipped: imported before, or here anyway",
            units::grouped(count)
        ),
    };
    let mut text = format!(
        "imported {} for {} into {}{skipped}\n",
        counted(done.messages, "message"),
        counted(done.recipients, "recipient"),
        clean(base)
    );
    for Unfit { name, why } in done.left_out.iter().take(UNFIT_TOLD_MAX) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "left out  {name}: {}", clean(why));
    }
    if done.left_out.len() > UNFIT_TOLD_MAX {
        let left = counted(
            (done.left_out.len() - UNFIT_TOLD_MAX) as u64,
            "more message",
        );
        let _ = writeln!(text, "left out  {left}: --json");
    }
    text
}
