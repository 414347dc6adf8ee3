//! `pelton spool info`: what a spool is, at a glance.

use core::fmt::Write;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::Args;
use serde_json::Value;
use serde_json::json;

use crate::base::units;
use crate::base::units::counted;
use crate::cli::output::Align;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_FAILED;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::Style;
use crate::cli::output::Table;
use crate::cli::output::clean;
use crate::cli::output::command;
use crate::cli::spool::damage;
use crate::cli::spool::damage::Piece;
use crate::cli::spool::place::SpoolArgs;
use crate::cli::spool::view::Progress;
use crate::cli::spool::view::View;
use crate::log::SegmentFile;
use crate::log::SegmentKind;
use crate::log::format;
use crate::types::id::ShardId;

const EXAMPLES: &str = "\
Examples:
  pelton spool info                            the spool of /etc/pelton/pelton.conf
  pelton spool info --spool /mnt/old-disk      a spool without its engine
  pelton spool info --json | jq .data.recipients

Reads what a start would read, so it sees damage in envelopes and outcomes, not in bodies: that is
what pelton spool verify is for.

Segments are files of one size that are made whole before mail fills them. One in use holds records,
of which some may be done with, or is the next to do so; a free one holds nothing and is used again;
one that is set aside was found damaged by a start, which took out what it could and kept the file
under another name: nobody waits for anything in it, and it can be deleted once you have looked at
it. pelton status counts only segments that hold records already; du on the folder counts all of
them and the other files.

Exit codes: 0 done; 1 damage found; 2 usage, or no spool there.";

/// Under the table.
const SEGMENTS: &str = "\
Segments in use hold records or come next; free ones are empty and used again; those set aside were
found damaged by a start, and nobody waits for anything in them.";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct InfoArgs {
    #[command(flatten)]
    pub place: SpoolArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn look(args: &InfoArgs, style: &Style) -> Result<Page, Failure> {
    let place = args.place.place()?;
    let view = View::open(&place, &mut Progress::new("reading the spool"))?;
    let spool = view.base.display().to_string();
    let mut damage = damage::of(&view);
    damage::assess(&view, &mut damage);
    let verb = match damage.is_empty() && !view.arrivals.is_empty() {
        true => "list",
        false => "verify",
    };
    let next = command(&["pelton", "spool", verb, "--spool", &spool]);
    let look = Look {
        view: &view,
        damage,
        style,
        other_bytes: other_bytes(&view.base),
    };
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = look.write_text(&mut text);
    Ok(Page {
        schema: "pelton.spool-info/1",
        at: style.now.rfc3339().to_string(),
        text,
        data: look.json(),
        warnings: view.notes.clone(),
        next: vec![next],
        exit: match look.damage.is_empty() {
            true => EXIT_DONE,
            false => EXIT_FAILED,
        },
        ..Page::default()
    })
}

/// All that is told.
struct Look<'a> {
    view: &'a View,
    damage: Vec<Piece>,
    style: &'a Style,
    other_bytes: u64,
}

/// What a folder and those in it hold beside segments.
fn other_bytes(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        bytes += match metadata.is_dir() {
            true => other_bytes(&entry.path()),
            false if SegmentFile::parse_file_name(ShardId(0), name).is_some() => 0,
            false => metadata.len(),
        };
    }
    bytes
}

/// Segments of one folder in one use.
#[derive(Clone, Copy, Default)]
struct Use {
    count: u64,
    bytes: u64,
}

const KINDS: [SegmentKind; 3] = [SegmentKind::Live, SegmentKind::Free, SegmentKind::Damaged];

/// Of one folder, or of all.
fn used(view: &View, shard: Option<ShardId>, kind: SegmentKind) -> Use {
    view.files
        .of_kind(kind)
        .filter(|(file, _)| shard.is_none_or(|shard| file.shard == shard))
        .fold(Use::default(), |sum, (_, bytes)| Use {
            count: sum.count + 1,
            bytes: sum.bytes + bytes,
        })
}

impl Look<'_> {
    fn write_text(&self, text: &mut String) -> core::fmt::Result {
        let view = self.view;
        let file = &view.file;
        let base = view.base.display().to_string();
        let running = match view.holder {
            Some(holder) => format!("an engine runs here ({holder})"),
            None => "no engine runs here".to_owned(),
        };
        let id = file.spool_id;
        let format = format::FORMAT_MAJOR;
        writeln!(text, "{}: {running}", clean(&base))?;
        writeln!(text, "Spool     {id:016x}, log format {format}")?;
        let shards = counted(u64::from(file.shards), "shard");
        writeln!(text, "Starts    {}, the last with {shards}", file.starts)?;
        self.write_waiting(text)?;
        text.push_str(&view.torn_line());
        match self.damage.len() {
            0 => writeln!(text, "Damage    {}", self.style.good("none found"))?,
            count => {
                let places = counted(count as u64, "damaged place");
                writeln!(text, "Damage    {}", self.style.fail(&places))?;
            }
        }
        for piece in &self.damage {
            writeln!(text, "    {}", clean(&piece.sentence()))?;
        }
        for path in &view.files.strange {
            let path = path.display().to_string();
            writeln!(text, "Strange   {}: no segment, left alone", clean(&path))?;
        }
        self.write_disk(text)
    }

    fn write_waiting(&self, text: &mut String) -> core::fmt::Result {
        let view = self.view;
        let Some(oldest) = view.arrivals.first() else {
            return writeln!(text, "Waiting   nothing");
        };
        let recipients = counted(view.arrivals.len() as u64, "recipient");
        let messages = counted(view.messages(), "message");
        let size = units::size(view.body_bytes());
        let at = oldest.received.rfc3339().to_string();
        let (age, id) = (self.style.age(&at), oldest.batch);
        writeln!(text, "Waiting   {messages} for {recipients}, {size}")?;
        let delayed = counted(self.delayed(), "recipient");
        writeln!(
            text,
            "Delayed   {delayed} until later, after a failed attempt"
        )?;
        writeln!(text, "Oldest    {age} ({id})")
    }

    fn delayed(&self) -> u64 {
        let all = self.view.arrivals.iter();
        let later = all.filter(|it| it.progress.due > self.style.now);
        later.count() as u64
    }

    fn write_disk(&self, text: &mut String) -> core::fmt::Result {
        let view = self.view;
        let [live, free, damaged] = KINDS.map(|kind| used(view, None, kind));
        writeln!(
            text,
            "On disk   {} in segments: {} in use, {} free, {} set aside; {} in other \
             files of this folder",
            units::size(live.bytes + free.bytes + damaged.bytes),
            units::size(live.bytes),
            units::size(free.bytes),
            units::size(damaged.bytes),
            units::size(self.other_bytes),
        )?;
        let mut table = Table::new(&[
            ("SHARD", Align::Left),
            ("IN USE", Align::Right),
            ("FREE", Align::Right),
            ("SET ASIDE", Align::Right),
            ("BYTES", Align::Right),
            ("WAITING", Align::Right),
        ]);
        let waiting = self.waiting();
        for shard in view.files.segments.keys() {
            let [live, free, damaged] = KINDS.map(|kind| used(view, Some(*shard), kind));
            table.row([
                shard.0.to_string(),
                units::grouped(live.count),
                units::grouped(free.count),
                units::grouped(damaged.count),
                units::size(live.bytes + free.bytes + damaged.bytes),
                units::grouped(waiting.get(shard).copied().unwrap_or(0)),
            ]);
        }
        text.push_str(&table.render(self.style));
        writeln!(text, "{SEGMENTS}")
    }

    /// Recipients that wait, by the folder in which their message lies.
    fn waiting(&self) -> BTreeMap<ShardId, u64> {
        let mut waiting: BTreeMap<ShardId, u64> = BTreeMap::new();
        let all = self.view.arrivals.iter();
        for at in all.filter_map(|it| self.view.locate_arrival(it)) {
            *waiting.entry(at.file.shard).or_default() += 1;
        }
        waiting
    }

    fn json(&self) -> Value {
        let view = self.view;
        let file = &view.file;
        let waiting = self.waiting();
        let shard = |shard: &ShardId| {
            let [live, free, damaged] = KINDS.map(|kind| used(view, Some(*shard), kind));
            json!({
                "shard": shard.0,
                "live_segments": live.count,
                "free_segments": free.count,
                "damaged_segments": damaged.count,
                "live_bytes": live.bytes,
                "free_bytes": free.bytes,
                "damaged_bytes": damaged.bytes,
                "waiting": waiting.get(shard).copied().unwrap_or(0),
            })
        };
        let [live, free, damaged] = KINDS.map(|kind| used(view, None, kind));
        let oldest = view.arrivals.first();
        let strange = view.files.strange.iter();
        json!({
            "path": view.base.display().to_string(),
            "spool_id": format!("{:016x}", file.spool_id),
            "log_format": format::FORMAT_MAJOR,
            "starts": file.starts,
            "shards_of_last_start": file.shards,
            "running": view.holder.is_some(),
            "pid": view.holder.and_then(|it| it.pid),
            "messages": view.messages(),
            "recipients": view.arrivals.len(),
            "delayed_recipients": self.delayed(),
            "size_bytes": view.body_bytes(),
            "oldest_id": oldest.map(|it| it.batch.to_string()),
            "oldest_received_at": oldest.map(|it| it.received.rfc3339().to_string()),
            "unfinished_commits": view.torn_tails,
            "shards": view.files.segments.keys().map(shard).collect::<Vec<_>>(),
            "disk": {
                "live_bytes": live.bytes,
                "free_bytes": free.bytes,
                "damaged_bytes": damaged.bytes,
                "other_bytes": self.other_bytes,
            },
            "damage": self.damage.iter().map(Piece::sentence).collect::<Vec<_>>(),
            "damaged_places": self.damage.iter().map(Piece::json).collect::<Vec<_>>(),
            "strange": strange.map(|it| it.display().to_string()).collect::<Vec<_>>(),
        })
    }
}
