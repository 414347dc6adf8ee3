//! `pelton spool list` and `pelton spool show`: what waits, and one message whole.

use core::fmt::Write as _;
use std::collections::BTreeMap;
use std::io;
use std::io::Write;

use clap::Args;
use serde_json::Value;
use serde_json::json;

use crate::base::units;
use crate::base::units::counted;
use crate::cli::output;
use crate::cli::output::Align;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_FAILED;
use crate::cli::output::EXIT_NOT_FOUND;
use crate::cli::output::EXIT_USAGE;
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
use crate::spool::EventSeq;
use crate::spool::inspect;
use crate::types::filter::Facts;
use crate::types::filter::Field;
use crate::types::filter::Filter;
use crate::types::filter::States;
use crate::types::flow;
use crate::types::id::BatchId;
use crate::types::id::MessageId;
use crate::types::message::Arrival;
use crate::types::outcome::Outcome;
use crate::types::outcome::OutcomeKind;
use crate::types::sender::SenderFact;

/// Lines of a list unless told otherwise: a screen.
const LIMIT_DEFAULT: usize = 40;

/// Lines of the header section that are shown as text.
const HEADER_LINES_MAX: usize = 200;

const LIST_EXAMPLES: &str = "\
Examples:
  pelton spool list                                      the oldest 40
  pelton spool list --where 'domain=example.com age>1h'  only these
  pelton spool list --where 'code~4.7' --limit 1000      by the last reply of the receiver
  pelton spool list --json | jq -r .recipient            all, one JSON object a line

The filter is that of pelton queue list: domain binding id recipient sender state code age size
attempts class tenant campaign, with = != > < >= <= and ~ for \"contains\". The last reply
(code) is known as long as its record has not been given free; what a queue waits for (cause), only
a running engine knows: pelton queue list.

Exit codes: 0 done; 1 the spool is damaged, so that some that waits may be missing in the list (a
sentence on standard error says so); 2 usage, or no spool there.";

#[derive(Args, Clone, Debug)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ListArgs {
    /// Only what matches: domain=example.com binding=a age>10m state=delayed code~4.7
    #[arg(long = "where", value_name = "FILTER", default_value = "")]
    pub filter: String,
    /// List at most this many [default: 40; with --json all]
    #[arg(long, value_name = "N",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub limit: Option<usize>,
    #[command(flatten)]
    pub place: SpoolArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const SHOW_EXAMPLES: &str = "\
Examples:
  pelton spool show 0000100000001            by the id that the 250 told
  pelton spool show 0000100000001-2          only its third recipient
  pelton spool show 0000100000001 --body > saved.eml

A message is here as long as one of its recipients waits. What became of one that is gone:
pelton trace ID.";

#[derive(Args, Clone, Debug)]
#[command(after_help = SHOW_EXAMPLES)]
pub struct ShowArgs {
    /// The id of a batch, or of the message of one recipient
    pub id: String,
    /// Write the message itself to standard output, byte for byte, and nothing else
    #[arg(long, conflicts_with = "json")]
    pub body: bool,
    #[command(flatten)]
    pub place: SpoolArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The newest outcome that is still in the log, by recipient.
type Outcomes = BTreeMap<MessageId, (EventSeq, Outcome)>;

fn outcomes(view: &View, wanted: &dyn Fn(MessageId) -> bool) -> Outcomes {
    let mut newest: Outcomes = BTreeMap::new();
    view.segments(&mut |_, recovered| {
        for (event, outcome) in inspect::outcomes(recovered) {
            let id = outcome.message;
            let is_newer = newest.get(&id).is_none_or(|(known, _)| *known < event);
            if is_newer && wanted(id) {
                newest.insert(id, (event, outcome));
            }
        }
    });
    newest
}

/// What is known of one recipient that waits.
struct Row<'a> {
    arrival: &'a Arrival,
    /// Nothing if the envelope cannot be read; within, the sender, which may be the null path.
    sender: Option<Option<String>>,
    reply: Option<String>,
}

impl Row<'_> {
    fn id(&self) -> MessageId {
        let Arrival {
            batch, recipient, ..
        } = *self.arrival;
        MessageId { batch, recipient }
    }

    fn sender_text(&self) -> String {
        match &self.sender {
            Some(Some(sender)) => sender.clone(),
            Some(None) => "<>".to_owned(),
            None => "?".to_owned(),
        }
    }

    fn due(&self, style: &Style) -> Option<String> {
        let due = self.arrival.progress.due;
        (due > style.now).then(|| due.rfc3339().to_string())
    }

    fn matches(&self, filter: &Filter, style: &Style) -> bool {
        let arrival = self.arrival;
        let domain = arrival.address.routing_domain();
        let delayed = arrival.progress.due > style.now;
        let states = States::NONE.with(States::DELAYED, delayed);
        filter.matches(&Facts {
            domain: Some(&domain),
            binding: Some(&arrival.binding),
            id: Some(self.id()),
            recipient: Some(arrival.address.as_str()),
            sender: self
                .sender
                .as_ref()
                .map(|sender| SenderFact::Text(sender.as_deref().unwrap_or_default())),
            states: states.with(States::ACTIVE, !delayed),
            code: self.reply.as_deref(),
            cause: None,
            age: Some(style.now.since(arrival.received)),
            size: Some(u64::from(arrival.size)),
            attempts: Some(u64::from(arrival.progress.attempts)),
            class: Some(flow::class_of(arrival.flow.as_ref())),
            tenant: flow::tenant_of(arrival.flow.as_ref()),
            campaign: flow::campaign_of(arrival.flow.as_ref()),
        })
    }

    fn json(&self, style: &Style) -> Value {
        let arrival = self.arrival;
        json!({
            "id": self.id().to_string(),
            "received_at": arrival.received.rfc3339().to_string(),
            "size_bytes": arrival.size,
            "sender": self.sender.as_ref().map(|it| it.as_deref().unwrap_or_default()),
            "recipient": arrival.address.as_str(),
            "binding": &*arrival.binding,
            "class": flow::class_of(arrival.flow.as_ref()),
            "tenant": flow::tenant_of(arrival.flow.as_ref()),
            "campaign": flow::campaign_of(arrival.flow.as_ref()),
            "attempts": arrival.progress.attempts,
            "due": self.due(style),
            "last_reply": self.reply,
        })
    }
}

pub fn run(args: &ListArgs) -> u8 {
    let style = Style::of_stdout(args.output.color);
    match list(args, &style) {
        Ok(Listed::Lines(exit)) => exit,
        Ok(Listed::Page(page)) => output::show(Ok(page), args.output, false),
        Err(failure) => output::show(Err(failure), args.output, false),
    }
}

enum Listed {
    Page(Page),
    /// The lines have been written; the exit code.
    Lines(u8),
}

fn list(args: &ListArgs, style: &Style) -> Result<Listed, Failure> {
    let usage = |message: String| Failure::new(EXIT_USAGE, "E411", message);
    let filter: Filter = args
        .filter
        .parse()
        .map_err(|error| usage(format!("--where: {error}")))?;
    if filter.asks_for(Field::Cause) {
        let message = "--where: what a queue waits for is known to a running engine alone, and \
                       not to the spool: pelton queue list --where FILTER";
        return Err(usage(message.to_owned()));
    }
    let place = args.place.place()?;
    let mut progress = Progress::new("reading the spool");
    let mut view = View::open(&place, &mut progress)?;
    let json = args.output.json;
    let replies = match filter.asks_for(Field::Code) || json {
        true => outcomes(&view, &|_| true),
        false => Outcomes::new(),
    };
    let default = if json { usize::MAX } else { LIMIT_DEFAULT };
    let limit = args.limit.unwrap_or(default);
    let arrivals = core::mem::take(&mut view.arrivals);
    let mut unread = 0;
    let mut rows = Vec::new();
    let mut more = false;
    let mut written = 0;
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (index, arrival) in arrivals.iter().enumerate() {
        progress.at(index as u64, arrivals.len() as u64, "recipients");
        let row = row(&mut view, arrival, &replies);
        unread += u64::from(row.sender.is_none());
        if !row.matches(&filter, style) {
            continue;
        }
        if rows.len() + written == limit {
            more = true;
            break;
        }
        if !json {
            rows.push(row);
        } else if write_line(&mut out, &row.json(style))? {
            written += 1;
        } else {
            return Ok(Listed::Lines(EXIT_DONE));
        }
    }
    drop(progress);
    let mut page = list_page(&view, (&rows, more, arrivals.len()), &args.filter, style);
    page.warnings.extend(unread_line(unread));
    // Beside an engine a message may have gone under the reader.
    if view.is_damaged() || (unread > 0 && view.holder.is_none()) {
        page.exit = EXIT_FAILED;
    }
    if !json {
        return Ok(Listed::Page(page));
    }
    for warning in &page.warnings {
        let _ = writeln!(io::stderr(), "WARN {}", clean(warning));
    }
    if let Some(exit) = output::exit_of_write(&out.flush()) {
        page.exit = exit;
    }
    Ok(Listed::Lines(page.exit))
}

fn unread_line(count: u64) -> Option<String> {
    let envelopes = counted(count, "recipient");
    (count > 0).then(|| format!("the envelopes of {envelopes} cannot be read: their sender is ?"))
}

/// False when the reader has gone away.
fn write_line(out: &mut dyn Write, line: &Value) -> Result<bool, Failure> {
    match writeln!(out, "{line}") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(cannot_write(&error)),
    }
}

fn cannot_write(error: &io::Error) -> Failure {
    let message = format!("cannot write the answer: {error}");
    Failure::new(EXIT_FAILED, "E405", message)
}

fn row<'a>(view: &mut View, arrival: &'a Arrival, replies: &Outcomes) -> Row<'a> {
    let envelope = view.envelope(arrival);
    let sender = envelope.map(|it| it.content.sender.map(|sender| sender.to_string()));
    let (batch, recipient) = (arrival.batch, arrival.recipient);
    let last = replies.get(&MessageId { batch, recipient });
    Row {
        arrival,
        sender,
        reply: last.map(|(_, outcome)| outcome.reply.to_string()),
    }
}

fn list_page(
    view: &View,
    (rows, more, all): (&[Row<'_>], bool, usize),
    filter: &str,
    style: &Style,
) -> Page {
    let base = view.base.display().to_string();
    let mut text = match (rows.len(), all) {
        (0, 0) => "nothing waits\n".to_owned(),
        (0, all) => format!("none of {} matches\n", counted(all as u64, "recipient")),
        (some, all) => {
            let all = units::grouped(all as u64);
            let es = if some == 1 { "es" } else { "" };
            let of = match (more, filter.is_empty()) {
                (true, true) => format!(" of {all} that wait, the oldest; more: --limit"),
                (true, false) => format!(" match{es}, of {all} that wait; more: --limit"),
                (false, true) if some == 1 => " waits".to_owned(),
                (false, true) => " wait".to_owned(),
                (false, false) => format!(" match{es}, of {all} that wait"),
            };
            format!("{}{of}\n", counted(some as u64, "recipient"))
        }
    };
    if !rows.is_empty() {
        let mut table = Table::new(&[
            ("ID", Align::Left),
            ("RECEIVED", Align::Left),
            ("SIZE", Align::Right),
            ("ATTEMPTS", Align::Right),
            ("NEXT IN", Align::Right),
            ("BINDING", Align::Left),
            ("SENDER", Align::Left),
            ("RECIPIENT", Align::Left),
        ]);
        for row in rows {
            let arrival = row.arrival;
            table.row([
                row.id().to_string(),
                style.clock(&arrival.received.rfc3339().to_string()),
                units::size(u64::from(arrival.size)),
                arrival.progress.attempts.to_string(),
                row.due(style)
                    .map_or("now".to_owned(), |due| style.until(&due)),
                arrival.binding.to_string(),
                row.sender_text(),
                arrival.address.to_string(),
            ]);
        }
        text.push_str(&table.render(style));
    }
    let next = match rows.first() {
        Some(row) => {
            let id = row.arrival.batch.to_string();
            command(&["pelton", "spool", "show", &id, "--spool", &base])
        }
        None => command(&["pelton", "spool", "info", "--spool", &base]),
    };
    Page {
        schema: "pelton.spool-list/1",
        at: style.now.rfc3339().to_string(),
        text,
        warnings: view.warnings(),
        next: vec![next],
        ..Page::default()
    }
}

pub fn show(args: &ShowArgs) -> u8 {
    let style = Style::of_stdout(args.output.color);
    match look(args, &style) {
        Ok(None) => EXIT_DONE,
        Ok(Some(page)) => output::show(Ok(page), args.output, false),
        Err(failure) => output::show(Err(failure), args.output, false),
    }
}

/// A batch, and of it perhaps one recipient.
fn parse_id(text: &str) -> Result<(BatchId, Option<u16>), Failure> {
    if let Ok(id) = text.parse::<MessageId>() {
        return Ok((id.batch, Some(id.recipient)));
    }
    let batch = text.parse::<BatchId>().map_err(|error| {
        Failure::new(EXIT_USAGE, "E412", format!("\"{text}\" is no id: {error}"))
    })?;
    Ok((batch, None))
}

/// Everything that is told of one message.
struct Shown<'a> {
    message: &'a inspect::Stored,
    /// Nothing but the envelope could be read, because of this.
    fault: Option<String>,
    /// Recipients that wait.
    open: &'a [Arrival],
    outcomes: Outcomes,
    only: Option<u16>,
}

fn look(args: &ShowArgs, style: &Style) -> Result<Option<Page>, Failure> {
    let (batch, only) = parse_id(&args.id)?;
    let place = args.place.place()?;
    let mut view = View::open(&place, &mut Progress::new("reading the spool"))?;
    let open = view.by_message().find(|it| it[0].batch == batch);
    let open = open.unwrap_or_default().to_vec();
    let is_wanted = |it: &Arrival| only.is_none_or(|only| only == it.recipient);
    let Some(first) = open.iter().find(|it| is_wanted(it)) else {
        let damage = match view.is_damaged() {
            false => "",
            true => " The spool is damaged, it may have been lost by that: pelton spool verify.",
        };
        let message = format!(
            "no message {} waits in {}.{damage} What became of it: pelton trace {}",
            args.id,
            view.base.display(),
            args.id
        );
        return Err(Failure::new(EXIT_NOT_FOUND, "E413", message));
    };
    let read = view.message(first);
    if args.body {
        let message = read.map_err(|why| unreadable(batch, &why))?;
        let written = io::stdout().lock().write_all(&message.content.body);
        return match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(cannot_write(&error)),
            _ => Ok(None),
        };
    }
    let (message, fault) = match read {
        Ok(message) => (message, None),
        Err(why) => match view.envelope(first) {
            Some(envelope) => (envelope, Some(why)),
            None => return Err(unreadable(batch, &why)),
        },
    };
    let shown = Shown {
        message: &message,
        fault,
        open: &open,
        outcomes: outcomes(&view, &|id| id.batch == batch),
        only,
    };
    Ok(Some(shown.page(&view, style)))
}

fn unreadable(batch: BatchId, why: &str) -> Failure {
    let message = format!("message {batch} cannot be read: {why}");
    Failure::new(EXIT_FAILED, "E421", message)
}

impl Shown<'_> {
    fn page(&self, view: &View, style: &Style) -> Page {
        let base = view.base.display().to_string();
        let id = self.message.content.batch.to_string();
        let next = command(&["pelton", "spool", "show", &id, "--body", "--spool", &base]);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut text, style);
        let mut warnings = view.warnings();
        warnings.extend(self.fault.clone());
        Page {
            schema: "pelton.spool-message/1",
            at: style.now.rfc3339().to_string(),
            text,
            data: self.json(style),
            warnings,
            next: vec![next],
            exit: match self.fault {
                Some(_) => EXIT_FAILED,
                None => EXIT_DONE,
            },
            ..Page::default()
        }
    }

    fn recipients(&self) -> impl Iterator<Item = (u16, &crate::types::message::Recipient)> {
        let all = self.message.recipients.iter().enumerate();
        all.map(|(index, it)| (index as u16, it))
            .filter(|(index, _)| self.only.is_none_or(|only| only == *index))
    }

    fn arrival(&self, index: u16) -> Option<&Arrival> {
        self.open.iter().find(|it| it.recipient == index)
    }

    fn outcome(&self, recipient: u16) -> Option<&Outcome> {
        let batch = self.message.content.batch;
        let found = self.outcomes.get(&MessageId { batch, recipient });
        found.map(|(_, outcome)| outcome)
    }

    /// `active`, `delayed`, or how it ended.
    fn state(&self, index: u16, style: &Style) -> &'static str {
        match (self.arrival(index), self.outcome(index).map(|it| &it.kind)) {
            (Some(it), _) if it.progress.due > style.now => "delayed",
            (Some(_), _) => "active",
            (None, Some(OutcomeKind::Delivered)) => "delivered",
            (None, Some(OutcomeKind::Bounced)) => "bounced",
            (None, Some(OutcomeKind::Expired)) => "expired",
            (None, Some(OutcomeKind::Discarded)) => "discarded",
            (None, _) => "done",
        }
    }

    /// The header section, without its last line end.
    fn header(&self) -> &[u8] {
        let body = &self.message.content.body;
        let end = memchr::memmem::find(body, b"\r\n\r\n");
        end.map_or(&body[..], |end| &body[..end])
    }

    fn write_text(&self, text: &mut String, style: &Style) -> core::fmt::Result {
        let content = &self.message.content;
        let received = content.received.rfc3339().to_string();
        let sender = content.sender.as_ref().map_or("", |it| it.as_str());
        let (clock, age) = (style.clock(&received), style.age(&received));
        let origin = &content.origin;
        let size = units::size(u64::from(self.message.body_bytes));
        let method = origin.method.as_str();
        writeln!(text, "{} received {clock} ({age} ago)", content.batch)?;
        writeln!(
            text,
            "From      {} at {} by {method}, EHLO {}",
            clean(&format!("<{sender}>")),
            origin.peer,
            clean(&origin.helo)
        )?;
        let mut flags = String::new();
        for (set, name) in [(content.eight_bit, "8-bit"), (content.smtputf8, "SMTPUTF8")] {
            if set {
                let _ = write!(flags, ", {name}");
            }
        }
        writeln!(text, "Size      {size}{flags}")?;
        writeln!(text, "Subject   {}", clean(&content.subject))?;
        if let Some(flow) = &content.flow {
            writeln!(text, "Sent for  {}", clean(&flow.names().to_string()))?;
        }
        for (index, recipient) in self.recipients() {
            let state = self.state(index, style);
            let address = clean(recipient.address.as_str());
            write!(
                text,
                "To {index:<6} {address} by {}",
                clean(&recipient.binding)
            )?;
            write!(text, ": {state}")?;
            if let Some(arrival) = self.arrival(index) {
                let due = arrival.progress.due;
                let attempts = u64::from(arrival.progress.attempts);
                write!(text, " after {}", counted(attempts, "failed attempt"))?;
                if due > style.now {
                    let until = style.until(&due.rfc3339().to_string());
                    write!(text, ", next in {until}")?;
                }
            }
            if let Some(outcome) = self.outcome(index) {
                write!(text, "; last reply: {}", clean(&outcome.reply.to_string()))?;
            }
            text.push('\n');
        }
        if self.fault.is_some() {
            return writeln!(text, "Headers   cannot be read");
        }
        writeln!(text, "Headers")?;
        let header = String::from_utf8_lossy(self.header());
        let lines: Vec<&str> = header.split("\r\n").collect();
        for line in lines.iter().take(HEADER_LINES_MAX) {
            writeln!(text, "    {}", clean(line))?;
        }
        match lines.len().saturating_sub(HEADER_LINES_MAX) {
            0 => Ok(()),
            left => writeln!(
                text,
                "    and {} more: --body",
                counted(left as u64, "line")
            ),
        }
    }

    fn json(&self, style: &Style) -> Value {
        let content = &self.message.content;
        let recipient = |(index, it): (u16, &crate::types::message::Recipient)| {
            let batch = content.batch;
            let arrival = self.arrival(index);
            let due = arrival.map(|it| it.progress.due);
            let due = due.filter(|due| *due > style.now);
            let id = MessageId {
                batch,
                recipient: index,
            };
            json!({
                "id": id.to_string(),
                "recipient": it.address.as_str(),
                "binding": &*it.binding,
                "state": self.state(index, style),
                "attempts": arrival.map(|it| it.progress.attempts),
                "due": due.map(|due| due.rfc3339().to_string()),
                "last_reply": self.outcome(index).map(|it| it.reply.to_string()),
            })
        };
        let origin = &content.origin;
        json!({
            "id": content.batch.to_string(),
            "received_at": content.received.rfc3339().to_string(),
            "size_bytes": self.message.body_bytes,
            "sender": content.sender.as_ref().map_or("", |it| it.as_str()),
            "eight_bit": content.eight_bit,
            "smtputf8": content.smtputf8,
            "origin": {
                "peer": origin.peer.to_string(),
                "helo": &*origin.helo,
                "method": origin.method.as_str(),
            },
            "subject": &*content.subject,
            "class": flow::class_of(content.flow.as_ref()),
            "tenant": flow::tenant_of(content.flow.as_ref()),
            "campaign": flow::campaign_of(content.flow.as_ref()),
            "recipients": self.recipients().map(recipient).collect::<Vec<_>>(),
            "headers": match self.fault {
                Some(_) => None,
                None => Some(String::from_utf8_lossy(self.header()).into_owned()),
            },
        })
    }
}
