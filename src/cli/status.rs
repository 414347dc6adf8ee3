//! `pelton status`: is anything wrong?

use core::fmt::Write;
use core::time::Duration;

use clap::Args;
use clap::ValueEnum;

use crate::base::histogram::Histogram;
use crate::base::units;
use crate::cli::client;
use crate::cli::client::ServerArgs;
use crate::cli::output;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_FAILED;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::Style;
use crate::cli::output::clean;
use crate::cli::output::command;
use crate::control::management::protocol::Envelope;
use crate::control::management::protocol::Level;
use crate::control::management::protocol::Reply;
use crate::control::management::protocol::Request;
use crate::control::management::protocol::StatusData;

const EXAMPLES: &str = "\
Examples:
  pelton status                         verdict, reasons, rates, queues, disk
  pelton status --fail-on fail          for a health check: exit code 1 if something fails
  pelton status --json | jq .data.total.gauges

Each WARN and FAIL line ends with the command that looks further. In the line Disk the first figures
are those of the file system; segments are the files of the spool, and pelton spool info counts the
empty ones and everything else in its folder too.

Exit codes: 0 done, 1 --fail-on has struck, 2 usage, 4 no engine answers, 5 not allowed.";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// Exit with 1 if there is a warning, or only if there is a failure; without it exit with 0
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub fail_on: Option<FailOn>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum FailOn {
    Warn,
    Fail,
}

pub fn run(args: &StatusArgs) -> u8 {
    let style = Style::of_stdout(args.output.color);
    let page = look(args, &style).map(|page| page.about(&args.server));
    output::show(page, args.output, false)
}

fn look(args: &StatusArgs, style: &Style) -> Result<Page, Failure> {
    let mut envelope = client::ask(&args.server.places()?, &Request::Status)?;
    if let Reply::Status(status) = &mut envelope.reply {
        let told = status.warnings.iter_mut();
        told.for_each(|warning| args.server.carry(&mut warning.next));
    }
    page(envelope, args.fail_on, style)
}

/// The page for a reply.
pub fn page(envelope: Envelope, fail_on: Option<FailOn>, style: &Style) -> Result<Page, Failure> {
    let Envelope {
        node,
        at,
        notes,
        reply,
    } = envelope;
    let Reply::Status(status) = reply else {
        return Err(client::unexpected());
    };
    let worst = status.warnings.iter().map(|warning| warning.level).max();
    let failed = match fail_on {
        None => false,
        Some(FailOn::Warn) => worst.is_some(),
        Some(FailOn::Fail) => worst == Some(Level::Fail),
    };
    let next = match status
        .warnings
        .iter()
        .find(|warning| !warning.next.is_empty())
    {
        Some(warning) => warning.next.clone(),
        None => command(&["pelton", "queue", "list"]),
    };
    Ok(Page {
        schema: "pelton.status/1",
        text: text(&node, &status, style),
        data: serde_json::to_value(&status).unwrap_or_default(),
        node,
        at,
        records: None,
        warnings: notes,
        next: vec![next],
        exit: if failed { EXIT_FAILED } else { EXIT_DONE },
    })
}

fn text(node: &str, status: &StatusData, style: &Style) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_head(&mut text, node, status, style);
    let _ = write_reasons(&mut text, status, style);
    let _ = write_details(&mut text, status);
    text
}

fn write_head(
    text: &mut String,
    node: &str,
    status: &StatusData,
    style: &Style,
) -> core::fmt::Result {
    let worst = status.warnings.iter().map(|warning| warning.level).max();
    let verdict = match worst {
        None => style.good(&status.verdict),
        Some(Level::Warn) => style.warn(&status.verdict),
        Some(Level::Fail) => style.fail(&status.verdict),
    };
    let since = style.clock(&status.verdict_since);
    let age = style.age(&status.verdict_since);
    let config = &status.config;
    let loaded = style.age(&config.loaded_at);
    writeln!(
        text,
        "{} {verdict} since {since} ({age})      pelton {}   config {} ({loaded} old)",
        clean(node),
        clean(&status.version),
        clean(&config.digest),
    )?;
    let gauges = &status.total.gauges;
    let queued = gauges.queued();
    let rates = &status.rates;
    let growth = match rates.queued_per_second {
        Some(rate) if rate.abs() >= 0.5 => format!(" ({}/s)", signed(rate)),
        _ => String::new(),
    };
    let oldest = match queued {
        0 => "-".to_owned(),
        _ => units::duration(Duration::from_secs(gauges.oldest_seconds)),
    };
    writeln!(
        text,
        "in {}   out {}   delayed {}   bounced {}   queued {}{growth}   oldest {oldest}",
        per_second(rates.injected_per_second),
        per_second(rates.delivered_per_second),
        per_second(rates.delayed_per_second),
        per_second(rates.bounced_per_second),
        units::grouped(queued),
    )
}

fn per_second(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate > 0.0 && rate < 10.0 => format!("{rate:.1}/s"),
        Some(rate) => format!("{}/s", units::grouped(rate.max(0.0).round() as u64)),
    }
}

fn signed(rate: f64) -> String {
    let sign = if rate < 0.0 { '-' } else { '+' };
    format!("{sign}{}", units::grouped(rate.abs().round() as u64))
}

fn write_reasons(text: &mut String, status: &StatusData, style: &Style) -> core::fmt::Result {
    for warning in &status.warnings {
        let word = match warning.level {
            Level::Warn => style.warn("WARN"),
            Level::Fail => style.fail("FAIL"),
        };
        write!(text, "{word} {}", clean(&warning.text))?;
        if !warning.next.is_empty() {
            write!(text, "  > {}", output::shell_words(&warning.next))?;
        }
        text.push('\n');
    }
    if status.warnings.is_empty() {
        let ok = style.good("ok  ");
        writeln!(text, "{ok} spool, shards, event log, configuration")?;
    }
    Ok(())
}

fn write_details(text: &mut String, status: &StatusData) -> core::fmt::Result {
    let (counters, gauges) = (&status.total.counters, &status.total.gauges);
    let count = units::grouped;
    writeln!(
        text,
        "Queues    {} active, {} delayed, {} in flight in {}",
        count(gauges.queue_active),
        count(gauges.queue_delayed),
        count(gauges.queue_in_flight),
        units::counted(gauges.queues, "queue"),
    )?;
    writeln!(
        text,
        "Totals    {} accepted, {} recovered; {} delivered, {} bounced, {} expired, {} discarded",
        count(counters.messages_injected),
        count(counters.messages_recovered),
        count(counters.messages_delivered),
        count(counters.messages_bounced),
        count(counters.messages_expired),
        count(counters.messages_discarded),
    )?;
    writeln!(
        text,
        "          {} rejected, {}, {} delayed",
        count(counters.messages_rejected),
        units::counted(counters.possible_duplicates, "possible duplicate"),
        units::counted(counters.messages_delayed, "attempt"),
    )?;
    // Segments are made whole before mail fills them: what they take says nothing about how much
    // mail there is. Empty ones are not among them: pelton spool info has all.
    let kept = format!(
        "{} of messages that wait, in {} of segments with records",
        units::size(gauges.spool_live_bytes),
        units::size(gauges.spool_bytes)
    );
    let space = match (status.spool.free_bytes, status.spool.size_bytes) {
        (Some(free), Some(size)) => {
            format!("{} of {} free", units::size(free), units::size(size))
        }
        _ => "free space unknown".to_owned(),
    };
    writeln!(
        text,
        "Spool     {}, sync {}, {}",
        clean(&status.spool.path),
        clean(&status.spool.sync),
        commits(counters.spool_commits, counters.spool_commit_messages),
    )?;
    writeln!(text, "Disk      {space}; {kept}")?;
    writeln!(
        text,
        "Latency   commit {}, SMTP transaction {}, delivery {}",
        quantiles(&status.total.commit_latency),
        quantiles(&status.total.injection_latency),
        quantiles(&status.total.delivery_latency),
    )?;
    writeln!(
        text,
        "Process   pid {}, {}, {} resident, {} in, {} out, {}",
        status.pid,
        units::counted(status.shards, "shard"),
        units::size(status.resident_bytes),
        units::counted(gauges.sessions_in, "connection"),
        count(gauges.sessions_out),
        units::counted(status.open_files, "open file"),
    )
}

fn commits(commits: u64, messages: u64) -> String {
    match commits {
        0 => "no commits yet".to_owned(),
        _ => format!(
            "{} of {:.1} messages",
            units::counted(commits, "commit"),
            messages as f64 / commits as f64
        ),
    }
}

fn quantiles(histogram: &Histogram) -> String {
    match (histogram.quantile(500), histogram.quantile(990)) {
        (Some(half), Some(most)) => {
            format!(
                "p50 < {} p99 < {}",
                units::duration(half),
                units::duration(most)
            )
        }
        _ => "-".to_owned(),
    }
}
