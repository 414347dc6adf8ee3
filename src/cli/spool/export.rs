//! `pelton spool export`: what waits, out of the spool, without changing it.

use core::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::base::crc;
use crate::base::units;
use crate::base::units::counted;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_FAILED;
use crate::cli::output::EXIT_USAGE;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::clean;
use crate::cli::output::command;
use crate::cli::output::wall_now;
use crate::cli::spool::mbox;
use crate::cli::spool::place::SpoolArgs;
use crate::cli::spool::place::reason;
use crate::cli::spool::sidecar;
use crate::cli::spool::sidecar::Part;
use crate::cli::spool::sidecar::Parts;
use crate::cli::spool::sidecar::Sidecar;
use crate::cli::spool::view::Progress;
use crate::cli::spool::view::View;
use crate::spool::inspect;
use crate::types::id::MessageId;
use crate::types::message::Arrival;

/// Files that are open at once and get to disk together.
const PARTS_MAX: usize = 256;

/// Messages named one by one in the text; all are in the JSON.
const FAULTS_TOLD_MAX: usize = 50;

const EXAMPLES: &str = "\
Examples:
  pelton spool export saved                           a folder of .eml files with their envelopes
  pelton spool export --mbox saved.mbox               one file, for other programs
  pelton spool export saved --spool /mnt/old-disk     out of a spool without its engine

Each message becomes ID.eml, byte for byte as it would be sent, and ID.json with sender, recipients,
bindings and times. Only recipients that still wait are in it. The folder must be empty or not yet
there. pelton spool import takes it back, into this or another spool.

In an mbox (mboxrd) lines end in LF, the sender stands in the From_ line, and the recipients that
wait in X-Original-To fields on top, which import takes off again; bindings and times are not in it.

The spool stays as it is: whoever starts its engine again afterwards sends what was exported, too.
A message that cannot be read is named and left out, and the rest is exported.

Exit codes: 0 all that waits is exported; 1 some of it is not, or may be missing because the spool
is damaged, or the place could not be written to; 2 usage, or no spool there.";

const USAGE: &str = "\
pelton spool export [OPTIONS] FOLDER
       pelton spool export [OPTIONS] --mbox FILE";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, override_usage = USAGE)]
pub struct ExportArgs {
    /// The folder to write to, made if need be
    #[arg(
        value_name = "FOLDER",
        required_unless_present = "mbox",
        conflicts_with = "mbox"
    )]
    pub folder: Option<PathBuf>,
    /// Write one mbox instead of a folder
    #[arg(long, value_name = "FILE")]
    pub mbox: Option<PathBuf>,
    #[command(flatten)]
    pub place: SpoolArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where messages go.
enum Target {
    Folder(Parts, PathBuf),
    Mbox(Box<Part>, PathBuf),
}

pub fn run(args: &ExportArgs) -> Result<Page, Failure> {
    let place = args.place.place()?;
    if !place.holds_spool() {
        return Err(place.absent());
    }
    let mut target = match (&args.folder, &args.mbox) {
        (Some(folder), _) => folder_target(folder, &place.base)?,
        (None, Some(file)) => mbox_target(file, &place.base)?,
        (None, None) => return Err(usage("expected a folder, or --mbox FILE")),
    };
    let mut progress = Progress::new("reading the spool");
    let mut view = View::open(&place, &mut progress)?;
    progress.goes_on("exporting");
    let arrivals = core::mem::take(&mut view.arrivals);
    let mut done = Done::default();
    let all = arrivals.chunk_by(|a, b| a.batch == b.batch);
    let count = all.clone().count() as u64;
    for open in all {
        progress.at(done.messages, count, "messages");
        match view.message(&open[0]) {
            Err(why) => done.faults.push((open[0].batch.to_string(), why)),
            Ok(message) => {
                let written = write(&mut target, &view, &message, open);
                written.map_err(|error| cannot_write(&target, &done, &error))?;
                done.messages += 1;
                done.recipients += open.len() as u64;
                done.bytes += message.content.body.len() as u64;
            }
        }
    }
    drop(progress);
    let path = target.path().to_owned();
    target
        .finish()
        .map_err(|error| failed(&path, &done, &error))?;
    Ok(page(&view, &path, args.mbox.is_some(), &done))
}

#[derive(Default)]
struct Done {
    messages: u64,
    recipients: u64,
    bytes: u64,
    /// Messages that could not be read, and why.
    faults: Vec<(String, String)>,
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(EXIT_USAGE, "E422", message)
}

/// Nothing is ever written into the spool's own folder.
fn outside(path: &Path, base: &Path) -> Result<(), Failure> {
    let existing = path.ancestors().find(|it| it.exists());
    let existing = existing.filter(|it| !it.as_os_str().is_empty());
    let real = existing.unwrap_or(Path::new(".")).canonicalize();
    let inside = match (real, base.canonicalize()) {
        (Ok(real), Ok(base)) => real.starts_with(base),
        _ => false,
    };
    match inside {
        true => Err(usage(format!(
            "{} is inside of the spool {}: expected a place elsewhere",
            path.display(),
            base.display()
        ))),
        false => Ok(()),
    }
}

fn folder_target(folder: &Path, base: &Path) -> Result<Target, Failure> {
    outside(folder, base)?;
    match fs::read_dir(folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(usage(format!(
                    "{} is not empty: expected an empty folder, or a name that is not taken, so \
                     that two exports cannot mix",
                    folder.display()
                )));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut builder = fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(folder);
            made.map_err(|error| {
                let why = reason(&error);
                usage(format!(
                    "cannot make the folder {}: {why}",
                    folder.display()
                ))
            })?;
        }
        Err(error) => {
            let why = reason(&error);
            return Err(usage(format!("{}: {why}", folder.display())));
        }
    }
    Ok(Target::Folder(Parts::default(), folder.to_owned()))
}

fn mbox_target(file: &Path, base: &Path) -> Result<Target, Failure> {
    outside(file, base)?;
    let part = Part::create(file).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => usage(format!(
            "{} is there already: expected a name that is not taken",
            file.display()
        )),
        _ => usage(format!(
            "cannot make {}: {}",
            file.display(),
            reason(&error)
        )),
    })?;
    Ok(Target::Mbox(Box::new(part), file.to_owned()))
}

impl Target {
    fn path(&self) -> &Path {
        match self {
            Target::Folder(_, path) | Target::Mbox(_, path) => path,
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Target::Folder(mut parts, folder) => parts.finish(&folder),
            Target::Mbox(part, path) => {
                part.finish()?;
                let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
                sidecar::sync_folder(folder.unwrap_or(Path::new(".")))
            }
        }
    }
}

fn write(
    target: &mut Target,
    view: &View,
    message: &inspect::Stored,
    open: &[Arrival],
) -> io::Result<()> {
    let content = &message.content;
    match target {
        Target::Folder(parts, folder) => {
            let envelope = envelope(view, message, open);
            let mut json = serde_json::to_vec_pretty(&envelope)?;
            json.push(b'\n');
            let path = folder.join(format!("{}.eml", content.batch));
            parts.write(&path, &content.body)?;
            parts.write(&path.with_extension("json"), &json)?;
            match parts.len() >= PARTS_MAX {
                true => parts.finish(folder),
                false => Ok(()),
            }
        }
        Target::Mbox(part, _) => {
            let recipients: Vec<&str> = open.iter().map(|it| it.address.as_str()).collect();
            mbox::write(part, content, &recipients)
        }
    }
}

fn envelope(view: &View, message: &inspect::Stored, open: &[Arrival]) -> Sidecar {
    let content = &message.content;
    let now = wall_now();
    let to = |it: &Arrival| {
        let due = it.progress.due;
        let delayed = due > now;
        let id = MessageId {
            batch: it.batch,
            recipient: it.recipient,
        };
        sidecar::To {
            id: id.to_string(),
            address: it.address.to_string(),
            binding: it.binding.to_string(),
            state: if delayed { "delayed" } else { "active" }.to_owned(),
            attempts: it.progress.attempts,
            due: delayed.then(|| due.rfc3339().to_string()),
        }
    };
    let flow = content.flow.as_ref().map(|it| it.names());
    let flow = flow.unwrap_or_default();
    Sidecar {
        schema: sidecar::SCHEMA.to_owned(),
        id: content.batch.to_string(),
        spool_id: format!("{:016x}", view.file.spool_id),
        received_at: content.received.rfc3339().to_string(),
        sender: content
            .sender
            .as_ref()
            .map_or(String::new(), |it| it.to_string()),
        recipients: open.iter().map(to).collect(),
        eight_bit: content.eight_bit,
        smtputf8: content.smtputf8,
        size_bytes: content.body.len() as u64,
        crc32c: Some(format!("{:08x}", crc::crc32c(0, &content.body))),
        origin: Some(sidecar::From {
            peer: content.origin.peer.to_string(),
            helo: content.origin.helo.to_string(),
            method: content.origin.method.as_str().to_owned(),
        }),
        subject: content.subject.to_string(),
        friendly_from: content.friendly_from.to_string(),
        class: flow.class.to_owned(),
        tenant: flow.tenant.to_owned(),
        campaign: flow.campaign.to_owned(),
    }
}

fn cannot_write(target: &Target, done: &Done, error: &io::Error) -> Failure {
    failed(target.path(), done, error)
}

fn failed(path: &Path, done: &Done, error: &io::Error) -> Failure {
    let message = format!(
        "cannot write to {}: {}. It came as far as {}, and what has its name there is whole; the \
         spool is unchanged",
        path.display(),
        reason(error),
        counted(done.messages, "message")
    );
    Failure::new(EXIT_FAILED, "E423", message)
}

fn page(view: &View, path: &Path, is_mbox: bool, done: &Done) -> Page {
    let path = path.display().to_string();
    let whole = done.faults.is_empty() && !view.is_damaged();
    let mut text = format!(
        "exported {} for {} to {}{}\n",
        counted(done.messages, "message"),
        counted(done.recipients, "recipient"),
        clean(&path),
        if whole { "" } else { ": not all that waited" },
    );
    for (id, why) in done.faults.iter().take(FAULTS_TOLD_MAX) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "left out  {id}: {}", clean(why));
    }
    if done.faults.len() > FAULTS_TOLD_MAX {
        let left = counted((done.faults.len() - FAULTS_TOLD_MAX) as u64, "more message");
        let _ = writeln!(text, "left out  {left}: --json");
    }
    let mut next = command(&["pelton", "spool", "import"]);
    if is_mbox {
        next.push("--mbox".to_owned());
    }
    next.push(path.clone());
    next.extend(command(&["--spool", "OTHER_SPOOL"]));
    let fault = |(id, why): &(String, String)| json!({ "id": id, "why": why });
    let mut warnings = view.warnings();
    if !done.faults.is_empty() {
        let left = counted(done.faults.len() as u64, "message");
        let are = units::are(done.faults.len() as u64);
        warnings.push(format!("{left} that cannot be read {are} left out"));
    }
    if view.holder.is_some() {
        let note = "an engine runs in this spool and goes on sending: what was exported is what \
                    waited at this moment";
        warnings.push(note.to_owned());
    }
    Page {
        schema: "pelton.spool-export/1",
        at: wall_now().rfc3339().to_string(),
        text,
        data: json!({
            "path": path,
            "messages": done.messages,
            "recipients": done.recipients,
            "bytes": done.bytes,
            "complete": whole,
            "left_out": done.faults.iter().map(fault).collect::<Vec<_>>(),
        }),
        warnings,
        next: vec![next],
        exit: if whole { EXIT_DONE } else { EXIT_FAILED },
        ..Page::default()
    }
}
