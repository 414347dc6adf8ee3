//! `pelton trace ID|ADDRESS`: the life of a message. What is queued is asked of the engine, or read
//! from the spool if none runs; what is done is read from the event log.

mod events;
mod still;

use core::fmt::Write;
use core::time::Duration;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use serde_json::json;

use crate::base::map::Map;
use crate::base::units;
use crate::cli::changes::duration;
use crate::cli::client;
use crate::cli::client::Places;
use crate::cli::client::ServerArgs;
use crate::cli::meaning;
use crate::cli::output;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_FAILED;
use crate::cli::output::EXIT_NOT_FOUND;
use crate::cli::output::EXIT_UNREACHABLE;
use crate::cli::output::EXIT_USAGE;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::Style;
use crate::cli::output::clean;
use crate::cli::output::command;
use crate::cli::output::wall_now;
use crate::cli::why::write_transcript;
use crate::control::journal;
use crate::control::journal::Change;
use crate::control::management::protocol::Envelope;
use crate::control::management::protocol::Reply;
use crate::control::management::protocol::Request;
use crate::control::management::protocol::TraceData;
use crate::engine::query::MessageTrace;
use crate::engine::query::TraceTarget;
use crate::types::flow::FlowNames;
use crate::types::id::BatchId;
use crate::types::id::MessageId;

/// Messages told in text unless told otherwise.
const LIMIT_DEFAULT: usize = 20;

/// How far back the event log is searched unless told otherwise: the usual longest life of a
/// message.
const SINCE_DEFAULT: &str = "7d";

/// It waits in the spool, and no engine runs.
const STORED: &str = "stored";

const EXAMPLES: &str = "\
Examples:
  pelton trace 0000100000001                by the id that the 250 told
  pelton trace 0000100000001-2 --smtp       its third recipient, with all transcripts kept
  pelton trace bob@example.com --since 6h   all messages to an address

Without an engine the event log and the spool are searched. Exit codes: 0 done, 1 nothing is known
yet since the spool is still being read, 2 usage, 3 nothing is known.";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct TraceArgs {
    /// The id of a message or batch, as the 250 told it, or a recipient address
    #[arg(value_name = "ID|ADDRESS")]
    pub target: String,
    /// How far back to search the event log: 90s, 30m, 6h, 7d
    #[arg(long, value_name = "TIME", default_value = SINCE_DEFAULT, value_parser = duration)]
    pub since: Duration,
    /// Tell at most this many messages, the newest last
    #[arg(long, value_name = "N", default_value_t = LIMIT_DEFAULT,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub limit: usize,
    /// Every transcript that is kept, not only the last
    #[arg(long)]
    pub smtp: bool,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

impl TraceArgs {
    /// With everything else at its default.
    pub fn of(target: String, server: ServerArgs, output: OutputArgs) -> TraceArgs {
        let since = duration(SINCE_DEFAULT).unwrap_or(Duration::MAX);
        TraceArgs {
            target,
            since,
            limit: LIMIT_DEFAULT,
            smtp: false,
            server,
            output,
        }
    }
}

pub fn run(args: &TraceArgs) -> u8 {
    let style = Style::of_stdout(args.output.color);
    let page = look(args, &style).map(|page| page.about(&args.server));
    output::show(page, args.output, false)
}

fn look(args: &TraceArgs, style: &Style) -> Result<Page, Failure> {
    let target = target_of(&args.target)?;
    let places = args.server.places()?;
    let request = Request::Trace {
        target: target.clone(),
    };
    let (mut envelope, folder) = match client::ask(&places, &request) {
        Ok(envelope) => {
            let folder = match &envelope.reply {
                Reply::Trace(data) => PathBuf::from(&data.event_log),
                _ => return Err(client::unexpected()),
            };
            (envelope, folder)
        }
        Err(failure) if failure.exit == EXIT_UNREACHABLE => {
            without_engine(&places, &target).ok_or(failure)?
        }
        Err(failure) => return Err(failure),
    };
    let events = search(&folder, &target, args.since, &mut envelope.notes);
    let damage = damage(&places, args.since);
    let wanted = Wanted {
        target: &args.target,
        limit: args.limit,
        smtp: args.smtp,
    };
    page_after(&damage, envelope, events, &wanted, style)
}

fn target_of(text: &str) -> Result<TraceTarget, Failure> {
    if let Ok(id) = text.parse::<MessageId>() {
        return Ok(TraceTarget::Message(id.to_string()));
    }
    if let Ok(id) = text.parse::<BatchId>() {
        return Ok(TraceTarget::Batch(id.to_string()));
    }
    if text.contains('@') {
        let address = text.trim_start_matches('<').trim_end_matches('>');
        return Ok(TraceTarget::Recipient(address.to_lowercase()));
    }
    let message = format!(
        "\"{text}\" is neither an id nor an address. An id is what the 250 told, as \
         0C8V3M1A7Q2ZK, or with the number of the recipient, as 0C8V3M1A7Q2ZK-0"
    );
    Err(Failure::new(EXIT_USAGE, "E412", message))
}

/// What the journal tells of damage in the spool. Without a journal to be read there is none.
fn damage(places: &Places, since: Duration) -> Vec<Change> {
    let request = Request::Changes {
        since_seconds: since.as_secs(),
    };
    let told = match client::ask(places, &request).map(|it| it.reply) {
        Ok(Reply::Changes(data)) => data.changes,
        _ => {
            let read = |path| journal::read(path, wall_now() - since).ok();
            places.journal.as_deref().and_then(read).unwrap_or_default()
        }
    };
    told.into_iter().filter(|it| it.kind == "spool").collect()
}

/// The entry that names the message as lost; else the last that came after it was accepted, since
/// damage need not leave the names of what it hits.
fn loss(damage: &[Change], id: &str, accepted: Option<&str>) -> Option<(Change, bool)> {
    let batch = id.split('-').next().unwrap_or(id);
    let name = format!("message {batch} is lost");
    if let Some(change) = damage.iter().find(|it| it.text.contains(&name)) {
        return Some((change.clone(), true));
    }
    let accepted = accepted?;
    let later = damage.iter().rfind(|it| it.at.as_str() > accepted)?;
    Some((later.clone(), false))
}

fn loss_sentence((change, named): &(Change, bool), style: &Style) -> String {
    let (time, text) = (style.clock(&change.at), clean(&change.text));
    let may = if *named {
        "lost"
    } else {
        "it may have been lost"
    };
    format!("{may}: damage in the spool was found at {time}: {text}")
}

fn without_engine(places: &Places, target: &TraceTarget) -> Option<(Envelope, PathBuf)> {
    let folder = places.event_log.clone().filter(|folder| folder.is_dir())?;
    let socket = places.socket.display();
    let mut data = TraceData::default();
    let notes = match &places.spool {
        None => {
            let note = format!(
                "no Pelton answers on {socket}: only the event log was searched, what waits is \
                 not told"
            );
            vec![note]
        }
        Some(spool) => {
            let note =
                format!("no Pelton answers on {socket}: the event log and the spool were searched");
            let (waiting, warnings) = still::waiting(spool, target);
            data.messages = waiting;
            [vec![note], warnings].concat()
        }
    };
    let envelope = Envelope {
        node: String::new(),
        at: wall_now().rfc3339().to_string(),
        notes,
        reply: Reply::Trace(data),
    };
    Some((envelope, folder))
}

fn search(
    folder: &Path,
    target: &TraceTarget,
    since: Duration,
    notes: &mut Vec<String>,
) -> Vec<Value> {
    let bounds = events::Bounds {
        since: wall_now() - since,
        bytes_max: events::SCAN_BYTES_MAX,
        events_max: events::EVENTS_MAX,
    };
    match events::scan(folder, target, bounds) {
        Ok(found) => {
            notes.extend(found.cut_short);
            found.events
        }
        Err(error) => {
            let folder = folder.display();
            notes.push(format!("the event log {folder} cannot be read: {error}"));
            Vec::new()
        }
    }
}

/// What was asked for, beside the target as understood.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub target: &'a str,
    pub limit: usize,
    pub smtp: bool,
}

/// All that is known of one message.
#[derive(Default)]
struct Life {
    live: Option<MessageTrace>,
    events: Vec<Value>,
    /// If its end is not known: the damage that it was lost by, and whether that names it.
    loss: Option<(Change, bool)>,
}

/// The page for a reply and the events found.
pub fn page(
    envelope: Envelope,
    events: Vec<Value>,
    wanted: &Wanted<'_>,
    style: &Style,
) -> Result<Page, Failure> {
    page_after(&[], envelope, events, wanted, style)
}

/// The same after damage in the spool.
fn page_after(
    damage: &[Change],
    envelope: Envelope,
    events: Vec<Value>,
    wanted: &Wanted<'_>,
    style: &Style,
) -> Result<Page, Failure> {
    let Envelope {
        node,
        at,
        notes,
        reply,
    } = envelope;
    let Reply::Trace(data) = reply else {
        return Err(client::unexpected());
    };
    let (mut lives, rejections) = lives(data.messages, events);
    for (id, life) in &mut lives {
        if state(life) == "unknown" {
            let accepted = life.events.iter().find_map(|it| it["timestamp"].as_str());
            life.loss = loss(damage, id, accepted);
        }
    }
    let incomplete = data.incomplete;
    if lives.is_empty() && rejections.is_empty() {
        let target = wanted.target;
        return Err(match &incomplete {
            Some(why) => not_yet(target, why),
            None => nothing_known(target, loss(damage, target, None), &notes, style),
        });
    }
    let next = next(&lives);
    let mut text = String::new();
    let left_out = lives.len().saturating_sub(wanted.limit);
    if left_out > 0 {
        let earlier = units::counted(left_out as u64, "earlier message");
        let are = units::are(left_out as u64);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{earlier} {are} left out: --limit, or --json");
    }
    for (id, life) in lives.iter().skip(left_out) {
        let not_read = incomplete.as_deref();
        let _ = write_life(&mut text, (id, life), wanted.smtp, not_read, style);
    }
    for event in &rejections {
        let _ = write_rejection(&mut text, event, style);
    }
    let messages: Vec<Value> = lives.iter().map(|(id, life)| life_json(id, life)).collect();
    Ok(Page {
        schema: "pelton.trace/1",
        node,
        at,
        text,
        data: json!({
            "messages": messages,
            "rejections": rejections,
            "complete": incomplete.is_none(),
        }),
        records: None,
        warnings: notes,
        next: vec![next],
        exit: EXIT_DONE,
    })
}

fn nothing_known(
    target: &str,
    loss: Option<(Change, bool)>,
    notes: &[String],
    style: &Style,
) -> Failure {
    let mut message = format!(
        "nothing is known of {target}: it is not queued, and the event log has nothing of it in \
         the time searched. Further back: --since 10d"
    );
    if let Some(loss) = loss {
        // Writing to a string cannot fail.
        let _ = write!(message, "\n{}", loss_sentence(&loss, style));
    }
    for note in notes {
        let _ = write!(message, "\nWARN {note}");
    }
    Failure::new(EXIT_NOT_FOUND, "E413", message)
}

/// It may be among what the start has not read yet.
fn not_yet(target: &str, why: &str) -> Failure {
    let message = format!(
        "nothing is known of {target} yet: {why}, and it may be among the rest. Ask again when \
         pelton status tells of no reading any more"
    );
    Failure::new(EXIT_FAILED, "E416", message)
}

/// Messages in the order of their first event, those without one last; and refusals, which belong
/// to no message.
fn lives(live: Vec<MessageTrace>, events: Vec<Value>) -> (Map<String, Life>, Vec<Value>) {
    let mut lives: Map<String, Life> = Map::default();
    let mut rejections = Vec::new();
    for event in events {
        match event["message_id"].as_str() {
            Some(id) => lives.entry(id.to_owned()).or_default().events.push(event),
            None => rejections.push(event),
        }
    }
    for trace in live {
        let life = lives.entry(trace.message.id.clone()).or_default();
        life.live = Some(trace);
    }
    (lives, rejections)
}

fn life_json(id: &str, life: &Life) -> Value {
    let mut json = json!({
        "message_id": id,
        "state": state(life),
        "queued": life.live,
        "events": life.events,
    });
    if let Some((change, named)) = &life.loss {
        json["damage"] = json!({ "change": change, "names_message": named });
    }
    json
}

/// One word for how it stands.
fn state(life: &Life) -> &str {
    let end = life.events.iter().find(|event| is_terminal(event));
    match (end, &life.live) {
        (Some(end), _) => end["outcome"].as_str().unwrap_or("done"),
        (None, Some(live)) if live.message.state == STORED => STORED,
        (None, Some(_)) => "queued",
        (None, None) => "unknown",
    }
}

fn is_terminal(event: &Value) -> bool {
    event["type"] == "delivery" || event["type"] == "bounce"
}

fn next(lives: &Map<String, Life>) -> Vec<String> {
    if let Some((id, _)) = lives.iter().rfind(|(_, life)| state(life) == STORED) {
        return command(&["pelton", "spool", "show", id]);
    }
    let queued = lives.values().filter(|life| state(life) == "queued");
    let live = queued.filter_map(|life| life.live.as_ref()).next_back();
    match live {
        Some(trace) => {
            let message = &trace.message;
            command(&[
                "pelton",
                "why",
                &message.domain,
                "--binding",
                &message.binding,
            ])
        }
        None => command(&["pelton", "queue", "list"]),
    }
}

fn write_life(
    text: &mut String,
    (id, life): (&str, &Life),
    smtp: bool,
    incomplete: Option<&str>,
    style: &Style,
) -> core::fmt::Result {
    let of_event = |member: &str| life.events.iter().find_map(|event| event[member].as_str());
    let of_live = life.live.as_ref().map(|trace| &trace.message);
    let recipient = of_event("raw_rcpt_to").or(of_live.map(|message| message.recipient.as_str()));
    let binding = of_event("binding").or(of_live.map(|message| message.binding.as_str()));
    let word = match (state(life), incomplete) {
        ("unknown", Some(_)) => "NOT KNOWN YET".to_owned(),
        (word, _) => word.to_uppercase(),
    };
    let word = match word.as_str() {
        "DELIVERED" => style.good(&word),
        "QUEUED" | "STORED" | "UNKNOWN" | "NOT KNOWN YET" => style.warn(&word),
        _ => style.fail(&word),
    };
    writeln!(
        text,
        "{} {word}, to {} by {}",
        style.strong(&clean(id)),
        clean(recipient.unwrap_or("?")),
        clean(binding.unwrap_or("?")),
    )?;
    if life.events.is_empty() {
        write_origin(text, life)?;
    }
    write_flow(text, life)?;
    for event in &life.events {
        write_event(text, event, style)?;
    }
    if let Some(id) = life.live.as_ref().and_then(|it| it.message.order) {
        writeln!(text, "waits for    order {id} (pelton orders)")?;
    }
    match (&life.live, state(life)) {
        (Some(trace), "queued" | STORED) => write_live(text, trace, smtp, style),
        (_, "unknown") => match (&life.loss, incomplete) {
            (Some(loss), why) if loss.1 || why.is_none() => {
                writeln!(text, "now          {}", loss_sentence(loss, style))
            }
            (_, Some(why)) => writeln!(
                text,
                "now          most likely queued, and not read back yet: {}",
                clean(why)
            ),
            (_, None) => writeln!(
                text,
                "now          not queued and no end recorded: it ended moments ago, or before the \
                 time searched"
            ),
        },
        _ => Ok(()),
    }
}

/// Class, tenant and campaign, unless that would say nothing.
fn write_flow(text: &mut String, life: &Life) -> core::fmt::Result {
    let of_event = |member: &str| life.events.iter().find_map(|event| event[member].as_str());
    let live = life.live.as_ref().map(|trace| &trace.message);
    let class = of_event("class").or(live.map(|it| it.class.as_str()));
    let tenant = of_event("tenant").or(live.and_then(|it| it.tenant.as_deref()));
    let campaign = of_event("campaign_id").or(live.and_then(|it| it.campaign.as_deref()));
    let names = FlowNames {
        class: class.unwrap_or_default(),
        tenant: tenant.unwrap_or_default(),
        campaign: campaign.unwrap_or_default(),
    };
    match clean(&names.to_string()) {
        names if names.is_empty() => Ok(()),
        names => writeln!(text, "sent for     {names}"),
    }
}

/// What the engine knows of a message whose injection event is out of reach.
fn write_origin(text: &mut String, life: &Life) -> core::fmt::Result {
    let Some(trace) = &life.live else {
        return Ok(());
    };
    let unknown = || "?".to_owned();
    writeln!(
        text,
        "accepted     {} ago from {}, {}, from <{}>, \"{}\"",
        units::duration(Duration::from_secs(trace.message.age_seconds)),
        trace.received_from.as_deref().map_or_else(unknown, clean),
        units::size(trace.message.size_bytes),
        trace.sender.as_deref().map_or_else(unknown, clean),
        trace.subject.as_deref().map_or_else(unknown, clean),
    )
}

fn write_event(text: &mut String, event: &Value, style: &Style) -> core::fmt::Result {
    let member = |name: &str| event[name].as_str().map_or_else(|| "?".to_owned(), clean);
    let time = moment(event, style);
    if event["type"] == "injection" {
        let size = units::size(event["msg_size"].as_u64().unwrap_or(0));
        let (peer, method) = (member("remote_addr"), member("recv_method"));
        let (sender, subject) = (member("msg_from"), member("subject"));
        return writeln!(
            text,
            "{time} accepted   from {peer} by {method}, {size}, from <{sender}>, \"{subject}\""
        );
    }
    let attempt = event["num_retries"].as_u64().unwrap_or(0) + 1;
    let outcome = member("outcome");
    write!(text, "{time} {outcome:<10} ")?;
    if event["ip_address"].is_string() {
        let (host, ip, stage) = (
            member("remote_host"),
            member("ip_address"),
            member("conn_stage"),
        );
        let from = event["sending_ip"]
            .as_str()
            .map(|ip| format!("{} > ", clean(ip)));
        let from = from.unwrap_or_default();
        write!(text, "attempt {attempt}, {from}{host} {ip}, at {stage}: ")?;
    } else if event["conn_stage"] != "internal" {
        write!(text, "attempt {attempt}, at {}: ", member("conn_stage"))?;
    }
    let code = event["error_code"]
        .as_str()
        .map(|code| format!("{} ", clean(code)));
    let enhanced = event["enhanced_code"]
        .as_str()
        .map(|code| format!("{} ", clean(code)));
    let internal = if event["internal"] == true {
        "[internal] "
    } else {
        ""
    };
    write!(
        text,
        "{}{}{internal}",
        code.unwrap_or_default(),
        enhanced.unwrap_or_default()
    )?;
    write!(text, "{}", member("raw_reason"))?;
    if event["possible_duplicate"] == true {
        write!(
            text,
            " (possible duplicate: an earlier final reply was lost)"
        )?;
    }
    if let Some(due) = event["next_attempt"].as_str() {
        write!(text, "; next {}", style.clock(due))?;
    }
    let account = format!("{internal}{}", member("raw_reason"));
    match meaning::of(&account) {
        Some(meaning) => writeln!(text, "\n             that is: {meaning}"),
        None => writeln!(text),
    }
}

/// The clock time with milliseconds.
fn moment(event: &Value, style: &Style) -> String {
    let time = event["timestamp"].as_str().unwrap_or_default();
    let millis = time.get(20..23).unwrap_or("000");
    format!("{}.{}", style.clock(time), clean(millis))
}

fn write_live(
    text: &mut String,
    trace: &MessageTrace,
    smtp: bool,
    style: &Style,
) -> core::fmt::Result {
    let message = &trace.message;
    writeln!(text, "now          {}", clean(&trace.sentence))?;
    if let Some(reply) = &trace.last_reply {
        writeln!(text, "last reply   \"{}\"", clean(reply))?;
        if let Some(meaning) = meaning::of(reply) {
            writeln!(text, "             that is: {meaning}")?;
        }
    }
    if let Some(due) = &message.due {
        let attempt = message.attempts + 1;
        let (clock, left) = (style.clock(due), style.until(due));
        writeln!(text, "next         attempt {attempt} at {clock}, in {left}")?;
    }
    if let Some(expires) = &message.expires {
        let (clock, left) = (style.clock(expires), style.until(expires));
        writeln!(text, "expires      {clock}, in {left}")?;
    }
    let skipped = if smtp {
        0
    } else {
        trace.transcripts.len().saturating_sub(1)
    };
    for transcript in trace.transcripts.iter().skip(skipped) {
        write_transcript(text, transcript, style)?;
    }
    if skipped > 0 {
        let earlier = units::counted(skipped as u64, "earlier transcript");
        writeln!(text, "{earlier}: --smtp")?;
    }
    Ok(())
}

fn write_rejection(text: &mut String, event: &Value, style: &Style) -> core::fmt::Result {
    let member = |name: &str| event[name].as_str().map_or_else(|| "?".to_owned(), clean);
    writeln!(
        text,
        "{} {}   from {} at {}: {} {}",
        moment(event, style),
        style.fail("rejected"),
        member("remote_addr"),
        member("conn_stage"),
        member("error_code"),
        member("raw_reason"),
    )
}
