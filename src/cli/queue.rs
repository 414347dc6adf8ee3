//! `pelton queue list | show | why`: what waits, and one queue or one message whole.

use core::fmt::Write;
use core::time::Duration;

use clap::Args;
use clap::Subcommand;
use clap::ValueEnum;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use serde::Serialize;
use serde_json::Value;

use crate::base::units;
use crate::cli::client;
use crate::cli::client::ServerArgs;
use crate::cli::output;
use crate::cli::output::Align;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_USAGE;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::Style;
use crate::cli::output::Table;
use crate::cli::output::When;
use crate::cli::output::clean;
use crate::cli::output::command;
use crate::cli::trace;
use crate::cli::trace::TraceArgs;
use crate::cli::why;
use crate::cli::why::WhyArgs;
use crate::control::management::groups;
use crate::control::management::protocol::Envelope;
use crate::control::management::protocol::GroupsData;
use crate::control::management::protocol::MessagesData;
use crate::control::management::protocol::QueuesData;
use crate::control::management::protocol::Reply;
use crate::control::management::protocol::Request;
use crate::engine::query::GroupBy;
use crate::engine::query::LastReply;
use crate::engine::query::MessageSummary;
use crate::engine::query::QueueSummary;
use crate::types::filter::Filter;
use crate::types::flow::FlowNames;

/// Lines of a list unless told otherwise: a screen.
const LIMIT_DEFAULT: usize = 40;

const QUEUE_EXAMPLES: &str = "\
Examples:
  pelton queue list                                    the largest queues, and what they wait for
  pelton queue list --where 'age>1h' --messages        messages that have waited for long
  pelton queue list --by tenant                        whose mail waits
  pelton queue show pool-1 example.com                 one queue whole";

#[derive(Args, Clone, Debug)]
#[command(after_help = QUEUE_EXAMPLES)]
pub struct QueueArgs {
    #[command(subcommand)]
    pub command: QueueCommand,
}

#[derive(Subcommand, Clone, Debug)]
pub enum QueueCommand {
    /// Queues, the largest first, or with --messages the messages in them
    List(ListArgs),
    /// One queue whole: BINDING DOMAIN; or one message: ID
    Show(ShowArgs),
    /// What the mail of a domain waits for; the same as pelton why
    Why(WhyArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  pelton queue list --where 'domain=example.com'                  the queues of one domain
  pelton queue list --where 'cause~limit' --limit 1000            by what they wait for
  pelton queue list --messages --where 'age>1h attempts>2'        messages instead of queues
  pelton queue list --by domain --where 'binding=a'               one line for each domain
  pelton queue list --jsonl | jq -r .domain                       one JSON object a line

The filter: domain binding state code cause age, with --messages also id recipient sender size
attempts class tenant campaign, with = != > < >= <= and ~ for \"contains\"; sender=<> is the null
sender. WAITS FOR tells what a queue waits for and how long that will take, or where nobody knows,
how long it has taken.

--by sums up what waits. Class, tenant and campaign are counted over all queues together, so that
no filter goes with them; messages whose end is just being written down are among them.

While a start still reads the spool, what is queued is not all known: a warning on standard error
says so, and in JSON \"complete\" is false.";

#[derive(Args, Clone, Debug)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ListArgs {
    /// Only what matches: domain=example.com binding=a age>10m state=delayed code~4.7
    #[arg(long = "where", value_name = "FILTER", default_value = "")]
    pub filter: String,
    /// List at most this many
    #[arg(long, value_name = "N", default_value_t = LIMIT_DEFAULT,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub limit: usize,
    /// List messages instead of queues; the filter may then name id, recipient, sender, size,
    /// attempts, class, tenant and campaign too
    #[arg(long)]
    pub messages: bool,
    /// Sums instead of queues, by class, tenant, campaign, domain or binding
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["messages", "after"],
          value_parser = group_by())]
    pub by: Option<GroupBy>,
    /// Go on where an earlier list of messages ended
    #[arg(long, value_name = "CURSOR", requires = "messages")]
    pub after: Option<String>,
    /// One JSON object per line
    #[arg(long, conflicts_with = "json")]
    pub jsonl: bool,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const SHOW_USAGE: &str = "\
pelton queue show [OPTIONS] BINDING DOMAIN
       pelton queue show [OPTIONS] ID";

const SHOW_EXAMPLES: &str = "\
Examples:
  pelton queue show pool-1 example.com      one queue: what it waits for, as pelton why
  pelton queue show 0000100000001           one message and all its recipients, as pelton trace
  pelton queue show 0000100000001-2         only its third recipient";

#[derive(Args, Clone, Debug)]
#[command(after_help = SHOW_EXAMPLES, override_usage = SHOW_USAGE)]
pub struct ShowArgs {
    /// A binding, or the id of a message or batch
    #[arg(value_name = "BINDING|ID")]
    pub name: String,
    /// The domain, after a binding
    #[arg(value_name = "DOMAIN")]
    pub domain: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(args: &QueueArgs) -> u8 {
    match &args.command {
        QueueCommand::List(args) => {
            let style = Style::of_stdout(args.output.color);
            let page = list(args, &style).map(|page| page.about(&args.server));
            output::show(page, args.output, args.jsonl)
        }
        QueueCommand::Show(args) => show(args),
        QueueCommand::Why(args) => why::run(args),
    }
}

fn show(args: &ShowArgs) -> u8 {
    let (server, output) = (args.server.clone(), args.output);
    match &args.domain {
        Some(domain) => {
            let binding = Some(args.name.clone());
            why::run(&WhyArgs {
                domain: domain.clone(),
                binding,
                server,
                output,
            })
        }
        None => trace::run(&TraceArgs::of(args.name.clone(), server, output)),
    }
}

/// Reads what mail is summed up by.
fn group_by() -> impl TypedValueParser<Value = GroupBy> {
    let names = GroupBy::ALL.map(GroupBy::as_str);
    PossibleValuesParser::new(names).map(|name| {
        let named = GroupBy::ALL.into_iter().find(|it| it.as_str() == name);
        named.unwrap_or(GroupBy::Domain)
    })
}

fn list(args: &ListArgs, style: &Style) -> Result<Page, Failure> {
    let filter: Filter = args
        .filter
        .parse()
        .map_err(|error| Failure::new(EXIT_USAGE, "E411", format!("--where: {error}")))?;
    if let Some(field) = filter.needs_messages().filter(|_| !args.messages) {
        let message = format!(
            "--where: {} is a fact of messages, not of queues: add --messages",
            field.as_str()
        );
        return Err(Failure::new(EXIT_USAGE, "E411", message));
    }
    let (cursor, limit) = (args.after.clone(), args.limit);
    let request = match args.by {
        Some(by) => {
            if let Some(fault) = groups::refused(by, &filter) {
                return Err(Failure::new(
                    EXIT_USAGE,
                    "E411",
                    format!("--where: {fault}"),
                ));
            }
            Request::Groups { by, filter, limit }
        }
        None if args.messages => Request::Messages {
            filter,
            cursor,
            limit,
        },
        None => Request::Queues { filter, limit },
    };
    let envelope = client::ask(&args.server.places()?, &request)?;
    page(envelope, args, style)
}

/// The page for a reply to what was asked.
pub fn page(envelope: Envelope, args: &ListArgs, style: &Style) -> Result<Page, Failure> {
    let Envelope {
        node,
        at,
        notes,
        reply,
    } = envelope;
    let (schema, text, mut data, records, next) = match &reply {
        Reply::Queues(data) => {
            let next = after_queues(data);
            let mut text = queues_text(data, &args.filter, style);
            if data.queues.is_empty() && !notes.is_empty() {
                text = "no queue is known yet\n".to_owned();
            }
            (
                "pelton.queues/1",
                text,
                json_of(data),
                records(&data.queues),
                next,
            )
        }
        Reply::Groups(data) => {
            let next = vec!["pelton".to_owned(), "queue".to_owned(), "list".to_owned()];
            (
                "pelton.groups/1",
                groups_text(data, &args.filter, style),
                json_of(data),
                records(&data.groups),
                next,
            )
        }
        Reply::Messages(data) => {
            let next = after_messages(data, args);
            let mut text = messages_text(data, &args.filter, style);
            if data.messages.is_empty() && !notes.is_empty() {
                text = "no such message is known yet\n".to_owned();
            }
            (
                "pelton.messages/1",
                text,
                json_of(data),
                records(&data.messages),
                next,
            )
        }
        _ => return Err(client::unexpected()),
    };
    data["complete"] = notes.is_empty().into();
    Ok(Page {
        schema,
        node,
        at,
        text,
        data,
        records: Some(records),
        warnings: notes,
        next: vec![next],
        exit: EXIT_DONE,
    })
}

/// Plain data with text keys always has a JSON form.
fn json_of(data: &impl Serialize) -> Value {
    serde_json::to_value(data).unwrap_or_default()
}

fn records<T: Serialize>(items: &[T]) -> Vec<Value> {
    items.iter().map(json_of).collect()
}

fn after_queues(data: &QueuesData) -> Vec<String> {
    match data
        .queues
        .iter()
        .find(|queue| queue.delayed > 0)
        .or(data.queues.first())
    {
        Some(queue) => command(&["pelton", "why", &queue.domain, "--binding", &queue.binding]),
        None => command(&["pelton", "status"]),
    }
}

/// Why a list is empty: nothing waits at all, or what waits is something else.
fn nothing(what: &str, filter: &str, in_all: Option<u64>) -> String {
    let filter = clean(filter);
    match in_all {
        _ if filter.is_empty() => "nothing waits\n".to_owned(),
        Some(0) => format!("no {what} matches {filter}: nothing waits at all\n"),
        Some(count) => {
            let messages = units::counted(count, "message");
            let wait = if count == 1 { "waits" } else { "wait" };
            format!("no {what} matches {filter}; {messages} {wait} in all\n")
        }
        None => format!("no {what} matches {filter}\n"),
    }
}

fn groups_text(data: &GroupsData, filter: &str, style: &Style) -> String {
    if data.groups.is_empty() {
        return nothing("queue", filter, None);
    }
    let by = data.by.as_str();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{} by {by}, {} of {} shown",
        units::counted(data.messages, "message"),
        units::grouped(data.groups.len() as u64),
        units::grouped(data.groups_in_all),
    );
    let heading = match data.by {
        GroupBy::Class => "CLASS",
        GroupBy::Tenant => "TENANT",
        GroupBy::Campaign => "CAMPAIGN",
        GroupBy::Domain => "DOMAIN",
        GroupBy::Binding => "BINDING",
    };
    let mut columns = vec![(heading, Align::Left), ("MESSAGES", Align::Right)];
    let of_queues = data.by.is_of_queues();
    if of_queues {
        let more = ["ACTIVE", "DELAYED", "IN FLIGHT", "QUEUES", "OLDEST"];
        columns.extend(more.map(|it| (it, Align::Right)));
    }
    let mut table = Table::new(&columns);
    for group in &data.groups {
        let name = group.name.as_deref().unwrap_or("-");
        let mut cells = vec![name.to_owned(), units::grouped(group.messages)];
        if of_queues {
            let counts = [group.active, group.delayed, group.in_flight, group.queues];
            cells.extend(counts.map(|it| units::grouped(it.unwrap_or(0))));
            cells.push(group.oldest_seconds.map_or("-".to_owned(), age));
        }
        table.row(cells);
    }
    text.push_str(&table.render(style));
    text
}

fn queues_text(data: &QueuesData, filter: &str, style: &Style) -> String {
    if data.queues.is_empty() {
        return nothing("queue", filter, data.queued_in_all);
    }
    let size = |queue: &QueueSummary| queue.active + queue.delayed + queue.in_flight;
    let messages: u64 = data.queues.iter().map(size).sum();
    let mut text = String::new();
    let shown = data.queues.len() as u64;
    let matching = if filter.is_empty() { "" } else { " that match" };
    // Writing to a string cannot fail.
    let _ = match (data.matching, data.messages) {
        (Some(all), Some(in_all)) if data.more => writeln!(
            text,
            "{} of {} in {} of {}{matching}, the largest; more: --limit",
            units::grouped(messages),
            units::counted(in_all, "message"),
            units::grouped(shown),
            units::counted(all, "queue"),
        ),
        _ => writeln!(
            text,
            "{} in {}{matching}{}",
            units::counted(messages, "message"),
            units::counted(shown, "queue"),
            if data.more {
                ", the largest; more: --limit"
            } else {
                ""
            },
        ),
    };
    let mut table = Table::new(&[
        ("DOMAIN", Align::Left),
        ("BINDING", Align::Left),
        ("ACTIVE", Align::Right),
        ("DELAYED", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("CONNS", Align::Right),
        ("OLDEST", Align::Right),
        ("WAITS FOR", Align::Left),
        ("LAST FAILURE", Align::Left),
    ]);
    for queue in &data.queues {
        table.row([
            queue.domain.clone(),
            queue.binding.clone(),
            units::grouped(queue.active),
            units::grouped(queue.delayed),
            units::grouped(queue.in_flight),
            units::grouped(queue.connections),
            queue.oldest_seconds.map_or("-".to_owned(), age),
            waits_for(queue, style),
            queue
                .last_failure
                .as_ref()
                .map_or("-".to_owned(), |reply| failure(reply, style)),
        ]);
    }
    text.push_str(&table.render(style));
    text
}

fn age(seconds: u64) -> String {
    units::duration(Duration::from_secs(seconds))
}

/// What for, and for how much longer, as far as that is known; else for how long so far.
fn waits_for(queue: &QueueSummary, style: &Style) -> String {
    match (queue.cause.as_str(), &queue.until) {
        ("", _) => "-".to_owned(),
        (_, until) if queue.order.is_some() => {
            let id = queue.order.unwrap_or_default();
            let left = until
                .as_ref()
                .map(|it| format!(", {} to go", style.until(it)));
            format!("order {id}{}", left.unwrap_or_default())
        }
        (cause, Some(until)) => format!("{cause}, {} to go", style.until(until)),
        (cause, None) => format!("{cause}, {} so far", age(queue.cause_seconds)),
    }
}

fn failure(reply: &LastReply, style: &Style) -> String {
    format!("{} ago: {}", style.age(&reply.last_at), reply.reply)
}

/// The command that goes on is the one that was given, with the cursor: it works as printed.
fn after_messages(data: &MessagesData, args: &ListArgs) -> Vec<String> {
    match (&data.next, data.messages.first()) {
        (Some(cursor), _) => {
            let mut next = command(&["pelton", "queue", "list", "--messages"]);
            if !args.filter.is_empty() {
                next.extend(command(&["--where", &args.filter]));
            }
            if args.limit != LIMIT_DEFAULT {
                next.extend(command(&["--limit", &args.limit.to_string()]));
            }
            let color = args.output.color.to_possible_value();
            if let Some(color) = color.filter(|_| args.output.color != When::Auto) {
                next.extend(command(&["--color", color.get_name()]));
            }
            let forms = [(args.output.json, "--json"), (args.jsonl, "--jsonl")];
            let forms = forms.iter().filter(|(given, _)| *given);
            next.extend(forms.map(|(_, word)| (*word).to_owned()));
            next.extend(command(&["--after", cursor]));
            next
        }
        (None, Some(message)) => command(&["pelton", "trace", &message.id]),
        (None, None) => command(&["pelton", "queue", "list"]),
    }
}

fn messages_text(data: &MessagesData, filter: &str, style: &Style) -> String {
    if data.messages.is_empty() {
        return nothing("queued message", filter, data.queued_in_all);
    }
    let more = if data.next.is_some() {
        "; there are more"
    } else {
        ""
    };
    let shown = units::counted(data.messages.len() as u64, "message");
    let mut text = format!("{shown}{more}\n");
    let mut columns = vec![
        ("ID", Align::Left),
        ("STATE", Align::Left),
        ("AGE", Align::Right),
        ("ATTEMPTS", Align::Right),
        ("DUE IN", Align::Right),
        ("SIZE", Align::Right),
        ("BINDING", Align::Left),
        ("RECIPIENT", Align::Left),
    ];
    let flows = data.messages.iter().any(|it| !flow_text(it).is_empty());
    if flows {
        columns.push(("SENT FOR", Align::Left));
    }
    let mut table = Table::new(&columns);
    for message in &data.messages {
        let mut row = vec![
            message.id.clone(),
            match message.order {
                Some(id) => format!("{}, order {id}", message.state.replace('_', " ")),
                None => message.state.replace('_', " "),
            },
            age(message.age_seconds),
            message.attempts.to_string(),
            message
                .due
                .as_deref()
                .map_or("now".to_owned(), |due| style.until(due)),
            units::size(message.size_bytes),
            message.binding.clone(),
            message.recipient.clone(),
        ];
        if flows {
            row.push(flow_text(message));
        }
        table.row(row);
    }
    text.push_str(&table.render(style));
    text
}

/// Class, tenant and campaign as far as they say something.
fn flow_text(message: &MessageSummary) -> String {
    let names = FlowNames {
        class: &message.class,
        tenant: message.tenant.as_deref().unwrap_or_default(),
        campaign: message.campaign.as_deref().unwrap_or_default(),
    };
    names.to_string()
}
