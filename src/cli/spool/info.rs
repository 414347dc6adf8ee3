//! `pelton spool info`: what a spool is, at a glance.

use core::fmt::Write;
use std::collections::BTreeMap;

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
use crate::cli::spool::place::SpoolArgs;
use crate::cli::spool::view::Progress;
use crate::cli::spool::view::View;
use crate::log::SegmentKind;
use crate::log::format;
use crate::types::id::ShardId;

const EXAMPLES: &str = "\
Examples:
  pelton spool info                            the spool of /etc/pelton/pelton.conf
  pelton spool info --spool /mnt/old-disk      a spool without its engine
  pelton spool info --json | jq .data.recipients

Reads what a start would read, so it sees damage in envelopes and outcomes, not in bodies: that is
what pelton spool verify is for. Exit code 1 if damage was found.";

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
    let verb = match (view.faults().is_empty(), view.arrivals.is_empty()) {
        (false, _) => "verify",
        (true, false) => "list",
        (true, true) => "verify",
    };
    let next = command(&["pelton", "spool", verb, "--spool", &spool]);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut text, &view, style);
    Ok(Page {
        schema: "pelton.spool-info/1",
        at: style.now.rfc3339().to_string(),
        text,
        data: data(&view),
        warnings: view.notes.clone(),
        next: vec![next],
        exit: match view.faults().is_empty() {
            true => EXIT_DONE,
            false => EXIT_FAILED,
        },
        ..Page::default()
    })
}

fn write_text(text: &mut String, view: &View, style: &Style) -> core::fmt::Result {
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
    let recipients = counted(view.arrivals.len() as u64, "recipient");
    let messages = counted(view.messages(), "message");
    match view.arrivals.first() {
        None => writeln!(text, "Waiting   nothing")?,
        Some(oldest) => {
            let size = units::size(view.body_bytes());
            let at = oldest.received.rfc3339().to_string();
            let (age, id) = (style.age(&at), oldest.batch);
            writeln!(text, "Waiting   {messages} for {recipients}, {size}")?;
            let delayed = delayed(view, style);
            let delayed = counted(delayed, "recipient");
            writeln!(
                text,
                "Delayed   {delayed} until later, after a failed attempt"
            )?;
            writeln!(text, "Oldest    {age} ({id})")?;
        }
    }
    text.push_str(&view.torn_line());
    let faults = view.faults();
    match faults.len() {
        0 => writeln!(text, "Damage    {}", style.good("none found"))?,
        count => {
            let places = counted(count as u64, "place");
            writeln!(text, "Damage    {}", style.fail(&places))?;
        }
    }
    for fault in faults {
        writeln!(text, "    {}", clean(&fault))?;
    }
    for path in &view.files.strange {
        let path = path.display().to_string();
        writeln!(text, "Strange   {}: no segment, left alone", clean(&path))?;
    }
    text.push_str(&segments_text(view, style));
    Ok(())
}

fn delayed(view: &View, style: &Style) -> u64 {
    let later = view
        .arrivals
        .iter()
        .filter(|it| it.progress.due > style.now);
    later.count() as u64
}

/// Segments of one folder in one use.
#[derive(Clone, Copy, Default)]
struct Use {
    count: u64,
    bytes: u64,
}

fn used(view: &View, shard: ShardId, kind: SegmentKind) -> Use {
    let of_shard = view.files.segments.get(&shard).into_iter().flatten();
    of_shard
        .filter(|(file, _)| file.kind == kind)
        .fold(Use::default(), |sum, (_, bytes)| Use {
            count: sum.count + 1,
            bytes: sum.bytes + bytes,
        })
}

fn segments_text(view: &View, style: &Style) -> String {
    let mut table = Table::new(&[
        ("SHARD", Align::Left),
        ("LIVE", Align::Right),
        ("FREE", Align::Right),
        ("SET ASIDE", Align::Right),
        ("BYTES", Align::Right),
        ("WAITING", Align::Right),
    ]);
    let mut waiting: BTreeMap<ShardId, u64> = BTreeMap::new();
    for at in view
        .arrivals
        .iter()
        .filter_map(|it| view.locate_arrival(it))
    {
        *waiting.entry(at.file.shard).or_default() += 1;
    }
    for shard in view.files.segments.keys() {
        let kinds = [SegmentKind::Live, SegmentKind::Free, SegmentKind::Damaged];
        let [live, free, damaged] = kinds.map(|kind| used(view, *shard, kind));
        table.row([
            shard.0.to_string(),
            units::grouped(live.count),
            units::grouped(free.count),
            units::grouped(damaged.count),
            units::size(live.bytes + free.bytes + damaged.bytes),
            units::grouped(waiting.get(shard).copied().unwrap_or(0)),
        ]);
    }
    table.render(style)
}

fn data(view: &View) -> Value {
    let file = &view.file;
    let shards: Vec<Value> = view
        .files
        .segments
        .keys()
        .map(|shard| {
            let of = |kind| used(view, *shard, kind);
            let (live, free) = (of(SegmentKind::Live), of(SegmentKind::Free));
            let damaged = of(SegmentKind::Damaged);
            json!({
                "shard": shard.0,
                "live_segments": live.count,
                "free_segments": free.count,
                "damaged_segments": damaged.count,
                "live_bytes": live.bytes,
                "free_bytes": free.bytes,
                "damaged_bytes": damaged.bytes,
            })
        })
        .collect();
    let oldest = view.arrivals.first();
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
        "size_bytes": view.body_bytes(),
        "oldest_id": oldest.map(|it| it.batch.to_string()),
        "oldest_received_at": oldest.map(|it| it.received.rfc3339().to_string()),
        "unfinished_commits": view.torn_tails,
        "shards": shards,
        "damage": view.faults(),
    })
}
