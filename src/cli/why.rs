//! `pelton why DOMAIN`: what its mail waits for, since when, until when, and what the receiver
//! said.

mod verdict;

use core::fmt::Write;
use core::time::Duration;

use clap::Args;

use crate::base::units;
use crate::cli::client;
use crate::cli::client::ServerArgs;
use crate::cli::meaning;
use crate::cli::output;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_NOT_FOUND;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::Style;
use crate::cli::output::clean;
use crate::cli::output::command;
use crate::control::management::protocol::Envelope;
use crate::control::management::protocol::Reply;
use crate::control::management::protocol::Request;
use crate::engine::query::LastReply;
use crate::engine::query::QueueDetail;
use crate::engine::query::QueueSummary;
use crate::engine::query::Transcript;
use crate::types::flow::FlowNames;

/// Flows of a queue told in text.
const FLOWS_SHOWN_MAX: usize = 8;

/// Queues told in full; a domain rarely has more bindings with mail waiting.
const QUEUES_SHOWN_MAX: usize = 20;

const EXAMPLES: &str = "\
Examples:
  pelton why example.com                    all queues of the domain, a verdict first
  pelton why example.com --binding pool-1   only the one of this binding
  pelton why example.com --json | jq -r .data.verdict

Verdicts: IDLE, DELIVERING, DELAYED (waits for another attempt), DEFERRED (no attempt has succeeded
yet), BOUNCED, FAILING (no host can be reached), LIMITED (by a limit or a throttle of ours),
SUSPENDED, WAITING.

Exit codes: 0 done, 1 the spool is still being read, 3 no queue for this domain, 4 no engine
answers.";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct WhyArgs {
    /// The recipient domain
    pub domain: String,
    /// Only the queue of this binding
    #[arg(long, value_name = "NAME")]
    pub binding: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(args: &WhyArgs) -> u8 {
    let style = Style::of_stdout(args.output.color);
    let page = look(args, &style).map(|page| page.about(&args.server));
    output::show(page, args.output, false)
}

fn look(args: &WhyArgs, style: &Style) -> Result<Page, Failure> {
    let request = Request::Why {
        domain: args.domain.clone(),
        binding: args.binding.clone(),
    };
    let envelope = client::ask(&args.server.places()?, &request)?;
    page(envelope, args.binding.as_deref(), style)
}

/// The page for a reply; `binding` is the one that was asked for.
pub fn page(envelope: Envelope, binding: Option<&str>, style: &Style) -> Result<Page, Failure> {
    let Envelope {
        node,
        at,
        notes,
        reply,
    } = envelope;
    let Reply::Why(why) = reply else {
        return Err(client::unexpected());
    };
    if why.queues.is_empty() {
        let of = binding
            .map(|binding| format!(" by binding {binding}"))
            .unwrap_or_default();
        let message = format!(
            "no queue for {}{of}: no mail waits for it and none was sent lately. See: pelton \
             queue list",
            why.domain
        );
        return Err(Failure::new(EXIT_NOT_FOUND, "E410", message));
    }
    let filter = format!("domain={}", why.domain);
    let next = command(&["pelton", "queue", "list", "--messages", "--where", &filter]);
    let verdict = verdict::of(&why, style);
    let word = match verdict.word {
        "IDLE" | "DELIVERING" => style.good(verdict.word),
        "FAILING" | "BOUNCED" => style.fail(verdict.word),
        word => style.warn(word),
    };
    let mut text = format!("{} {word}: {}\n", clean(&why.domain), verdict.sentence);
    let mut data = serde_json::to_value(&why).unwrap_or_default();
    data["verdict"] = verdict.word.to_lowercase().into();
    data["verdict_sentence"] = verdict.sentence.into();
    data["complete"] = notes.is_empty().into();
    for queue in why.queues.iter().take(QUEUES_SHOWN_MAX) {
        let same = |other: &&QueueDetail| other.summary.binding == queue.summary.binding;
        let is_striped = why.queues.iter().filter(same).count() > 1;
        // Writing to a string cannot fail.
        let _ = write_queue(&mut text, queue, is_striped, style);
    }
    if why.queues.len() > QUEUES_SHOWN_MAX {
        let more = why.queues.len() - QUEUES_SHOWN_MAX;
        let _ = writeln!(
            text,
            "... and {} of this domain: --binding, or --json",
            units::counted(more as u64, "more queue")
        );
    }
    Ok(Page {
        schema: "pelton.why/1",
        node,
        at,
        text,
        data,
        records: None,
        warnings: notes,
        next: vec![next],
        exit: EXIT_DONE,
    })
}

fn name_of(summary: &QueueSummary, is_striped: bool) -> String {
    let name = format!("{} by {}", clean(&summary.domain), clean(&summary.binding));
    match is_striped {
        true => format!("{name}, its stripe on shard {}", summary.shard),
        false => name,
    }
}

/// One queue: the answer first, then what it rests on.
fn write_queue(
    text: &mut String,
    queue: &QueueDetail,
    is_striped: bool,
    style: &Style,
) -> core::fmt::Result {
    let summary = &queue.summary;
    let name = name_of(summary, is_striped);
    writeln!(text, "{}: {}", style.strong(&name), clean(&queue.sentence))?;
    let age = |seconds| units::duration(Duration::from_secs(seconds));
    let oldest = summary
        .oldest_seconds
        .map(|seconds| format!(", the oldest {} old", age(seconds)));
    writeln!(
        text,
        "Queue     {} active, {} delayed, {} in flight on {}{}",
        units::grouped(summary.active),
        units::grouped(summary.delayed),
        units::grouped(summary.in_flight),
        units::counted(summary.connections, "connection"),
        oldest.unwrap_or_default(),
    )?;
    writeln!(
        text,
        "So far    {} delivered, {} delayed, {} bounced of {} received",
        units::grouped(summary.delivered_total),
        units::grouped(summary.delayed_total),
        units::grouped(summary.bounced_total),
        units::grouped(summary.received_total),
    )?;
    if let Some(until) = &queue.until {
        let (clock, left) = (style.clock(until), style.until(until));
        writeln!(text, "Until     {clock}, in {left}")?;
    }
    for (index, reply) in queue.replies.iter().enumerate() {
        let before = index.checked_sub(1).map(|it| queue.replies[it].internal);
        let head = match reply.internal {
            it if before == Some(it) => "",
            true => "Seen here",
            false => "They said",
        };
        write_reply(text, head, reply, style)?;
    }
    if queue.attempts_before > 0 {
        let attempts = units::counted(queue.attempts_before, "attempt");
        writeln!(
            text,
            "Tried     no attempt since the restart; {attempts} before (pelton trace ID tells them)"
        )?;
    }
    write_flows(text, queue)?;
    write_waiting(text, queue)?;
    write_hosts(text, queue, style)?;
    for (index, limit) in queue.limits.iter().enumerate() {
        let head = if index == 0 { "Limits" } else { "" };
        let mark = if limit.binding_now {
            "   <- holds it now"
        } else {
            ""
        };
        let option = clean(&limit.option);
        let (value, origin) = (clean(&limit.value), clean(&limit.origin));
        writeln!(text, "{head:<9} {option} {value}   {origin}{mark}")?;
    }
    if let Some(transcript) = &queue.transcript {
        write_transcript(text, transcript, style)?;
    }
    Ok(())
}

/// Who waits for a turn, where there is more to tell than one number.
fn write_flows(text: &mut String, queue: &QueueDetail) -> core::fmt::Result {
    for (index, flow) in queue.flows.iter().take(FLOWS_SHOWN_MAX).enumerate() {
        let head = if index == 0 { "In turns" } else { "" };
        let names = FlowNames {
            class: &flow.class,
            tenant: flow.tenant.as_deref().unwrap_or_default(),
            campaign: flow.campaign.as_deref().unwrap_or_default(),
        };
        let name = match clean(&names.to_string()) {
            name if name.is_empty() => clean(&flow.class),
            name => name,
        };
        writeln!(text, "{head:<9} {} of {name}", units::grouped(flow.active))?;
    }
    match queue.flows.len().checked_sub(FLOWS_SHOWN_MAX) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(text, "          ... and {more} more: --json"),
    }
}

fn write_reply(
    text: &mut String,
    head: &str,
    reply: &LastReply,
    style: &Style,
) -> core::fmt::Result {
    let host = reply
        .host
        .as_deref()
        .map(|host| format!(", by {}", clean(host)));
    writeln!(text, "{head:<9} \"{}\"", clean(&reply.reply))?;
    writeln!(
        text,
        "          {} at {}{}, {} since {}, last {} ago",
        clean(&reply.class),
        clean(&reply.stage),
        host.unwrap_or_default(),
        units::counted(reply.count, "time"),
        style.clock(&reply.first_at),
        style.age(&reply.last_at),
    )?;
    match meaning::of(&reply.reply) {
        Some(meaning) => writeln!(text, "          that is: {meaning}"),
        None => Ok(()),
    }
}

/// The shares of the causes in the time waited, the largest first.
fn write_waiting(text: &mut String, queue: &QueueDetail) -> core::fmt::Result {
    let total: f64 = queue.causes.iter().map(|cause| cause.seconds).sum();
    if total <= 0.0 {
        return Ok(());
    }
    let mut causes: Vec<_> = queue
        .causes
        .iter()
        .filter(|cause| cause.seconds > 0.0)
        .collect();
    causes.sort_by(|a, b| {
        b.seconds
            .total_cmp(&a.seconds)
            .then_with(|| a.cause.cmp(&b.cause))
    });
    let share = |seconds: f64| match (100.0 * seconds / total).round() {
        0.0 => "under 1 %".to_owned(),
        percent => format!("{percent} %"),
    };
    let shares = causes
        .iter()
        .map(|cause| format!("{} {}", clean(&cause.cause), share(cause.seconds)));
    writeln!(text, "Waiting   {}", shares.collect::<Vec<_>>().join(", "))
}

fn write_hosts(text: &mut String, queue: &QueueDetail, style: &Style) -> core::fmt::Result {
    for (index, host) in queue.hosts.iter().enumerate() {
        let head = if index == 0 { "Hosts" } else { "" };
        let state = match &host.resting_until {
            None => units::counted(host.connections, "connection"),
            Some(until) => {
                let failures = units::counted(host.failures, "failure");
                format!("rests until {} after {failures}", style.clock(until))
            }
        };
        let (name, address) = (clean(&host.host), clean(&host.address));
        writeln!(
            text,
            "{head:<9} {} {name} {address}   {state}",
            host.preference
        )?;
    }
    Ok(())
}

/// A conversation that failed, as the flight recorder kept it.
pub fn write_transcript(
    text: &mut String,
    transcript: &Transcript,
    style: &Style,
) -> core::fmt::Result {
    let host = clean(&transcript.host);
    let message = transcript
        .message
        .as_deref()
        .map(|id| format!(", message {}", clean(id)));
    writeln!(
        text,
        "Transcript of {} with {host}{}",
        style.clock(&transcript.at),
        message.unwrap_or_default()
    )?;
    for line in &transcript.lines {
        writeln!(
            text,
            "    {}",
            output::cut(&clean(line), style.width.saturating_sub(4))
        )?;
    }
    Ok(())
}
