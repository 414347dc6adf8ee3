//! `pelton changes`: what changed lately. Reads the journal itself when no engine runs, since that
//! is when one asks.

use core::time::Duration;

use clap::Args;

use crate::base::units;
use crate::cli::client;
use crate::cli::client::Places;
use crate::cli::client::ServerArgs;
use crate::cli::output;
use crate::cli::output::Align;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_UNREACHABLE;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::Style;
use crate::cli::output::Table;
use crate::cli::output::command;
use crate::cli::output::wall_now;
use crate::control::journal;
use crate::control::management::protocol::ChangesData;
use crate::control::management::protocol::Envelope;
use crate::control::management::protocol::Reply;
use crate::control::management::protocol::Request;

const EXAMPLES: &str = "\
Examples:
  pelton changes                    starts, ends, crashes, configurations of the last day
  pelton changes --since 7d         further back
  pelton changes --jsonl | jq -r 'select(.kind==\"crash\") | .at'

Kinds: start, stop, crash (a run that ended without notice, told by the start after it), config,
operator (orders, and what was done by hand to what adaptive delivery has learnt), limit (larger
changes by adaptive delivery, suspended bindings), spool (damage that a start has found), import.";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ChangesArgs {
    /// How far back to look: 90s, 30m, 6h, 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub since: Duration,
    /// One JSON object per line
    #[arg(long, conflicts_with = "json")]
    pub jsonl: bool,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A time on the command line.
pub fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).ok_or_else(|| "expected a duration such as 90s, 30m, 6h, 7d".into())
}

pub fn run(args: &ChangesArgs) -> u8 {
    let style = Style::of_stdout(args.output.color);
    let page = look(args, &style).map(|page| page.about(&args.server));
    output::show(page, args.output, args.jsonl)
}

fn look(args: &ChangesArgs, style: &Style) -> Result<Page, Failure> {
    let places = args.server.places()?;
    let request = Request::Changes {
        since_seconds: args.since.as_secs(),
    };
    let envelope = match client::ask(&places, &request) {
        Err(failure) if failure.exit == EXIT_UNREACHABLE => {
            from_file(&places, args.since).ok_or(failure)?
        }
        asked => asked?,
    };
    page(envelope, args.since, style)
}

fn from_file(places: &Places, since: Duration) -> Option<Envelope> {
    let path = places.journal.as_ref()?;
    let changes = journal::read(path, wall_now() - since).ok()?;
    Some(Envelope {
        node: String::new(),
        at: wall_now().rfc3339().to_string(),
        notes: vec![format!("no Pelton answers: read from {}", path.display())],
        reply: Reply::Changes(ChangesData { changes }),
    })
}

/// The page for a reply about the last `since`.
pub fn page(envelope: Envelope, since: Duration, style: &Style) -> Result<Page, Failure> {
    let Envelope {
        node,
        at,
        notes,
        reply,
    } = envelope;
    let Reply::Changes(data) = reply else {
        return Err(client::unexpected());
    };
    let back = units::duration(since);
    let next = command(&["pelton", "status"]);
    let mut text = match data.changes.len() {
        0 => format!("nothing changed in the last {back}\n"),
        count => {
            let changes = units::counted(count as u64, "change");
            format!("{changes} in the last {back}, the newest last\n")
        }
    };
    if !data.changes.is_empty() {
        let mut table = Table::new(&[
            ("TIME", Align::Left),
            ("WHAT", Align::Left),
            ("BY", Align::Left),
            ("CHANGE", Align::Left),
        ]);
        for change in &data.changes {
            let time = style.clock(&change.at);
            table.row([
                time,
                change.kind.clone(),
                change.by.clone(),
                change.text.clone(),
            ]);
        }
        text.push_str(&table.render(style));
    }
    let records = data
        .changes
        .iter()
        .map(|it| serde_json::to_value(it).unwrap_or_default());
    Ok(Page {
        schema: "pelton.changes/1",
        node,
        at,
        text,
        records: Some(records.collect()),
        data: serde_json::to_value(&data).unwrap_or_default(),
        warnings: notes,
        next: vec![next],
        exit: EXIT_DONE,
    })
}
