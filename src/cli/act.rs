//! The commands that act on queued mail: `pelton suspend | resume | hold | release | reroute |
//! rebind | delay | flush | fail | orders | undo`. Each shows what it would touch and asks before
//! it acts.

use core::fmt::Write as _;
use core::time::Duration;
use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Write as _;

use clap::Args;

use crate::base::units;
use crate::cli::changes::duration;
use crate::cli::client;
use crate::cli::client::Client;
use crate::cli::client::ServerArgs;
use crate::cli::output;
use crate::cli::output::Align;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_FAILED;
use crate::cli::output::EXIT_REFUSED;
use crate::cli::output::EXIT_USAGE;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::Style;
use crate::cli::output::Table;
use crate::cli::output::clean;
use crate::cli::output::command;
use crate::control::management::protocol::Envelope;
use crate::control::management::protocol::OrderState;
use crate::control::management::protocol::OrderWanted;
use crate::control::management::protocol::OrderedData;
use crate::control::management::protocol::OrdersData;
use crate::control::management::protocol::Reply;
use crate::control::management::protocol::Request;
use crate::control::management::protocol::UndoTarget;
use crate::control::management::protocol::UndoneData;
use crate::engine::query::Preview;
use crate::types::filter::Filter;
use crate::types::order::Verb;

/// Domains that a preview names on a terminal.
const DOMAINS_SHOWN: usize = 5;

const SUSPEND_EXAMPLES: &str = "\
Examples:
  pelton suspend domain=example.com --reason 'asked us to wait'     for four hours
  pelton suspend binding=pool-3 --for 30m --yes                     without being asked
  pelton suspend domain=example.com binding=pool-3 --dry-run        only what it would touch
  pelton suspend --all --until 06:00                                everything, until then

Nothing that matches starts, mail that comes later included, until the time is over or the order is
taken back. What is on the wire is finished. Messages stay in their queues, use up no attempt, go on
ageing, and end when their time is up. A filter on more than domain and binding stops single
messages when their turn comes.";

const HOLD_EXAMPLES: &str = "\
Examples:
  pelton hold sender=news@me.example --reason 'wrong price list'    for a day
  pelton hold 'recipient~@example.com size>1m' --for 2h             large ones for a while
  pelton release sender=news@me.example                             let them go

Messages that match are put aside when their turn comes, those of later too, and others go past
them. They use up no attempt, go on ageing, and end when their time is up.";

const REROUTE_EXAMPLES: &str = "\
Examples:
  pelton reroute domain=example.com --to mx2.example.com          for a day
  pelton reroute 'domain=example.com binding=a' --to 192.0.2.7:26 --for 2h
  pelton undo                                                     where DNS says again

Queues that match are delivered to that host, whatever DNS or the configuration says, mail of later
included, until the time is over or the order is taken back. What is on the wire is finished.";

const REBIND_EXAMPLES: &str = "\
Examples:
  pelton rebind binding=pool-3 --to pool-4                its address is blocked: all of it
  pelton rebind 'binding=pool-3 domain=example.com' --to pool
                                                          one of the group for each, drawn
  pelton rebind campaign=spring --to bulk --dry-run       what it would touch

What matches now moves to the queues of that binding, or of one that is drawn from the group among
those that nothing stops, with its attempts, its age and its next time. A message that is on the
wire moves if its host does not take it. Which binding it had before is not kept, so pelton undo
only stops an order that is still under way; to move mail again, give another.";

const DELAY_EXAMPLES: &str = "\
Examples:
  pelton delay domain=example.com --for 2h                not before two hours from now
  pelton delay 'binding=bulk state=active' --until 06:00  what has not been tried yet

What matches now, and is not on the wire, is not tried before that time. No attempt is used up. Mail
that comes later is not meant: see pelton suspend. pelton undo makes it due again.";

const FAIL_EXAMPLES: &str = "\
Examples:
  pelton fail domain=gone.example --dry-run               what would end, and how much
  pelton fail 'sender=news@me.example age>1d'             asks, then ends it
  pelton fail id=0000100000001 --yes                      one batch, without being asked

What matches now ends for good with \"554 5.7.0 [internal] Message manually purged\". What is on the
wire ends too, unless its host takes it. That cannot be taken back; to stop mail for a while, see
pelton hold.";

const FLUSH_EXAMPLES: &str = "\
Examples:
  pelton flush domain=example.com                         try it all now
  pelton flush 'code~4.7.1 attempts<5'                    what was deferred with that

What matches now and is delayed is due at once, and queues and hosts that rest may be tried.
Suspended and held mail stays where it is. Throttles and limits hold as always.";

/// Which messages, and whether to ask.
#[derive(Args, Clone, Debug)]
pub struct WhatArgs {
    /// Which messages: domain=example.com binding=a age>1h sender~@news; several words are ANDed
    #[arg(value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Everything, where no filter is given
    #[arg(long, conflicts_with = "filter")]
    pub all: bool,
    /// Why, for those who look later
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
    /// Only tell what it would touch
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask; needed where nobody can be asked
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How long.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct TimeArgs {
    /// How long: 30m, 2h, 1d
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub lasts: Option<Duration>,
    /// Until when: 06:00, or 2026-11-23T06:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "lasts", value_parser = moment)]
    pub until: Option<Duration>,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = SUSPEND_EXAMPLES)]
pub struct SuspendArgs {
    #[command(flatten)]
    pub what: WhatArgs,
    #[command(flatten)]
    pub time: TimeArgs,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = HOLD_EXAMPLES)]
pub struct HoldArgs {
    #[command(flatten)]
    pub what: WhatArgs,
    #[command(flatten)]
    pub time: TimeArgs,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = REROUTE_EXAMPLES)]
pub struct RerouteArgs {
    #[command(flatten)]
    pub what: WhatArgs,
    /// Where to: host, host:port or [address]:port; 25 without a port
    #[arg(long, value_name = "HOST")]
    pub to: String,
    #[command(flatten)]
    pub time: TimeArgs,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = REBIND_EXAMPLES)]
pub struct RebindArgs {
    #[command(flatten)]
    pub what: WhatArgs,
    /// The binding, or the binding group
    #[arg(long, value_name = "BINDING")]
    pub to: String,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = DELAY_EXAMPLES)]
pub struct DelayArgs {
    #[command(flatten)]
    pub what: WhatArgs,
    #[command(flatten)]
    pub time: TimeArgs,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = FAIL_EXAMPLES)]
pub struct FailArgs {
    #[command(flatten)]
    pub what: WhatArgs,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = FLUSH_EXAMPLES)]
pub struct FlushArgs {
    #[command(flatten)]
    pub what: WhatArgs,
}

/// How long from now until a moment that an operator names.
fn moment(text: &str) -> Result<Duration, String> {
    let expected = "expected a time such as 06:00, or 2026-11-23T06:00Z";
    let now = output::wall_now();
    if let Some((hour, minute)) = text.split_once(':')
        && let (Ok(hour @ 0..24), Ok(minute @ 0..60)) = (hour.parse::<u64>(), minute.parse::<u64>())
    {
        let wanted = hour * 3_600 + minute * 60;
        let ahead = (86_400 + wanted - output::local_second_of_day(now)) % 86_400;
        return Ok(Duration::from_secs(if ahead == 0 { 86_400 } else { ahead }));
    }
    let bare = text.trim_end_matches('Z');
    let whole = match bare.len() {
        16 => format!("{bare}:00.000Z"),
        19 => format!("{bare}.000Z"),
        _ => format!("{bare}Z"),
    };
    let at = output::parse_time(&whole).filter(|_| text.ends_with('Z'));
    let at = at.ok_or(expected)?;
    match at > now {
        // Whole seconds, and not before.
        true => Ok(Duration::from_secs(at.since(now).as_secs() + 1)),
        false => Err("that moment is over".to_owned()),
    }
}

pub fn suspend(args: &SuspendArgs) -> u8 {
    run((Verb::Suspend, None), &args.what, args.time)
}

pub fn hold(args: &HoldArgs) -> u8 {
    run((Verb::Hold, None), &args.what, args.time)
}

pub fn reroute(args: &RerouteArgs) -> u8 {
    run(
        (Verb::Reroute, Some(args.to.as_str())),
        &args.what,
        args.time,
    )
}

pub fn rebind(args: &RebindArgs) -> u8 {
    let deed = (Verb::Rebind, Some(args.to.as_str()));
    run(deed, &args.what, TimeArgs::default())
}

pub fn delay(args: &DelayArgs) -> u8 {
    run((Verb::Delay, None), &args.what, args.time)
}

pub fn fail(args: &FailArgs) -> u8 {
    run((Verb::Fail, None), &args.what, TimeArgs::default())
}

pub fn flush(args: &FlushArgs) -> u8 {
    run((Verb::Flush, None), &args.what, TimeArgs::default())
}

/// What to do, and where to.
type Deed<'a> = (Verb, Option<&'a str>);

fn run(deed: Deed<'_>, what: &WhatArgs, time: TimeArgs) -> u8 {
    let style = Style::of_stdout(what.output.color);
    let page = act(deed, what, time, &style).map(|page| page.about(&what.server));
    output::show(page, what.output, false)
}

fn filter_of(words: &[String]) -> Result<Filter, Failure> {
    words
        .join(" ")
        .parse()
        .map_err(|error| Failure::new(EXIT_USAGE, "E400", format!("{error}")))
}

fn act(
    (verb, to): Deed<'_>,
    what: &WhatArgs,
    time: TimeArgs,
    style: &Style,
) -> Result<Page, Failure> {
    let filter = filter_of(&what.filter)?;
    if filter.is_empty() && !what.all {
        let message = format!(
            "{verb} what? Name it, as in: pelton {verb} domain=example.com. If all mail is meant: \
             pelton {verb} --all"
        );
        return Err(Failure::new(EXIT_USAGE, "E422", message));
    }
    let lasts = time.lasts.or(time.until);
    if verb == Verb::Delay && lasts.is_none() {
        let message = "until when? --for 2h, or --until 06:00";
        return Err(Failure::new(EXIT_USAGE, "E422", message));
    }
    let wanted = |dry_run| OrderWanted {
        verb,
        filter: filter.clone(),
        all: what.all,
        to: to.map(str::to_owned),
        lasts_seconds: lasts.map(|it| it.as_secs()),
        reason: what.reason.clone(),
        dry_run,
    };
    let mut client = Client::connect(&what.server.places()?.socket)?;
    if what.dry_run || !what.yes {
        let request = Request::Order(Box::new(wanted(true)));
        let envelope = client.ask(&request)?;
        if what.dry_run {
            return page(verb, envelope, style);
        }
        confirm(verb, &envelope, style)?;
    }
    let envelope = client.ask(&Request::Order(Box::new(wanted(false))))?;
    page(verb, envelope, style)
}

/// Shows what would be touched and asks whether that is meant.
fn confirm(verb: Verb, envelope: &Envelope, style: &Style) -> Result<(), Failure> {
    let Reply::Ordered(OrderedData { preview, .. }) = &envelope.reply else {
        return Err(client::unexpected());
    };
    let (stdin, mut stderr) = (std::io::stdin(), std::io::stderr());
    if !stdin.is_terminal() || !stderr.is_terminal() {
        let message = format!(
            "nobody can be asked here, and nothing has been done. It would touch {}. With --yes it \
             is done without asking",
            touched(preview)
        );
        return Err(Failure::new(EXIT_REFUSED, "E423", message));
    }
    let text = preview_text(preview, style);
    let _ = write!(stderr, "{text}{verb} that? [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = stdin.lock().read_line(&mut answer);
    let meant = ["y", "yes"].contains(&answer.trim().to_lowercase().as_str());
    match read.is_ok() && meant {
        true => Ok(()),
        false => {
            let message = "nothing has been done";
            Err(Failure::new(EXIT_REFUSED, "E424", message))
        }
    }
}

fn touched(preview: &Preview) -> String {
    format!(
        "{} in {}",
        units::counted(preview.messages, "message"),
        units::counted(preview.queues, "queue")
    )
}

fn preview_text(preview: &Preview, style: &Style) -> String {
    let mut text = format!("It meets {} now", style.strong(&touched(preview)));
    if preview.messages > 0 {
        let oldest = units::duration(Duration::from_secs(preview.oldest_seconds));
        let _ = write!(text, ", the oldest {oldest} old");
    }
    if preview.in_flight > 0 {
        let _ = write!(text, ", {} on the wire", units::grouped(preview.in_flight));
    }
    text.push('\n');
    for domain in preview.domains.iter().take(DOMAINS_SHOWN) {
        let (count, name) = (units::grouped(domain.messages), clean(&domain.domain));
        let _ = writeln!(text, "  {count:>10}  {name}");
    }
    let more = preview.queues.saturating_sub(DOMAINS_SHOWN as u64);
    if preview.domains.len() > DOMAINS_SHOWN {
        let _ = writeln!(
            text,
            "              and more, {} in all",
            units::counted(more + DOMAINS_SHOWN as u64, "queue")
        );
    }
    text.push_str(&open_text(preview.unknown));
    text
}

/// Of messages that an order may meet besides those that are counted.
fn open_text(open: u64) -> String {
    match open {
        0 => String::new(),
        count => format!(
            "Perhaps more: the senders of {} are on disk only, and read when their turn comes\n",
            units::counted(count, "message")
        ),
    }
}

fn unread_text(unread: u64) -> String {
    match unread {
        0 => String::new(),
        count => format!(
            "{} left alone: the disk does not tell the senders now, and the log of pelton serve \
             says why.\nGive the order again later, or name the messages by domain=, recipient= \
             or id=\n",
            units::counted(count, "message")
        ),
    }
}

/// The page for a reply.
pub fn page(verb: Verb, envelope: Envelope, style: &Style) -> Result<Page, Failure> {
    let Envelope {
        node,
        at,
        notes,
        reply,
    } = envelope;
    let Reply::Ordered(ordered) = reply else {
        return Err(client::unexpected());
    };
    let mut next = Vec::new();
    let done = ordered.order.as_ref();
    let unread = done.is_some_and(|it| !verb.is_standing() && it.unknown.is_some_and(|it| it > 0));
    let text = match &ordered.order {
        None => format!(
            "{}nothing has been done\n",
            preview_text(&ordered.preview, style)
        ),
        Some(order) => {
            let id = order.id.to_string();
            match verb {
                Verb::Fail | Verb::Flush | Verb::Rebind => {
                    next.push(command(&["pelton", "status"]))
                }
                _ => next.push(command(&["pelton", "undo", &id])),
            }
            given_text(verb, order, &ordered, style)
        }
    };
    Ok(Page {
        schema: "pelton.order/1",
        node,
        at,
        text,
        data: serde_json::to_value(&ordered).unwrap_or_default(),
        records: None,
        warnings: notes,
        next,
        exit: if unread { EXIT_FAILED } else { EXIT_DONE },
    })
}

fn given_text(verb: Verb, order: &OrderState, ordered: &OrderedData, style: &Style) -> String {
    let id = style.strong(&format!("order {}", order.id));
    let until = order.until.as_deref().map(|it| style.clock(it));
    let until = until.map(|it| format!(" until {it}")).unwrap_or_default();
    if verb.is_standing() {
        let met = touched(&ordered.preview);
        let open = open_text(ordered.preview.unknown);
        return format!(
            "{id}: {}{until}; it concerns {met} now\n{open}",
            verb.done()
        );
    }
    let changed = order.changed.unwrap_or(0);
    let to = order.to.as_deref().filter(|_| verb == Verb::Rebind);
    let to = to.map(|to| format!(" to {}", clean(to)));
    let to = to.unwrap_or_default();
    let mut text = match ordered.done.unwrap_or(true) {
        true => format!(
            "{id}: {} {}{to}{until}\n",
            units::counted(changed, "message"),
            verb.done()
        ),
        false => format!("{id} goes on: pelton orders tells how far it is\n"),
    };
    if let Some(count @ 1..) = order.in_flight {
        let messages = units::counted(count, "message");
        let _ = writeln!(
            text,
            "{messages} on the wire: what the hosts do not take meets the order then"
        );
    }
    if let Some(count @ 1..) = order.held {
        let (messages, are) = (units::counted(count, "message"), units::are(count));
        let _ = writeln!(
            text,
            "{messages} {are} held and left as before: pelton orders, pelton release"
        );
    }
    text.push_str(&unread_text(order.unknown.unwrap_or(0)));
    text
}

const ORDERS_EXAMPLES: &str = "\
Examples:
  pelton orders                               what operators have ordered, and what it concerns now
  pelton orders --json | jq '.data.orders[] | select(.state==\"in_force\")'";

#[derive(Args, Clone, Debug)]
#[command(after_help = ORDERS_EXAMPLES)]
pub struct OrdersArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn orders(args: &OrdersArgs) -> u8 {
    let style = Style::of_stdout(args.output.color);
    let asked = args.server.places();
    let asked = asked.and_then(|places| client::ask(&places, &Request::Orders));
    let page = asked.and_then(|envelope| orders_page(envelope, &style));
    let page = page.map(|page| page.about(&args.server));
    output::show(page, args.output, false)
}

/// The page of all orders.
pub fn orders_page(envelope: Envelope, style: &Style) -> Result<Page, Failure> {
    let Reply::Orders(data) = envelope.reply else {
        return Err(client::unexpected());
    };
    let live = data.orders.iter().filter(|it| it.state != "over").count();
    let mut text = match live {
        0 => "no orders are in force\n".to_owned(),
        count => format!("{} in force\n", units::counted(count as u64, "order")),
    };
    if !data.orders.is_empty() {
        text.push_str(&table(&data, style));
    }
    let newest = data.orders.iter().rfind(|it| it.state != "over");
    let next = newest.map(|it| command(&["pelton", "undo", &it.id.to_string()]));
    Ok(Page {
        schema: "pelton.orders/1",
        node: envelope.node,
        at: envelope.at,
        text,
        data: serde_json::to_value(&data).unwrap_or_default(),
        records: None,
        warnings: envelope.notes,
        next: next.into_iter().collect(),
        exit: EXIT_DONE,
    })
}

fn table(data: &OrdersData, style: &Style) -> String {
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("GIVEN", Align::Left),
        ("BY", Align::Left),
        ("STATE", Align::Left),
        ("UNTIL", Align::Left),
        ("MESSAGES", Align::Right),
        ("ORDER", Align::Left),
        ("REASON", Align::Left),
    ]);
    for order in &data.orders {
        let count = order.messages.or(order.changed).map(units::grouped);
        let besides = order.messages.and(order.unknown).unwrap_or(0) > 0;
        let count = count.map(|it| if besides { it + " or more" } else { it });
        let what = match order.filter.as_str() {
            "" => format!("{} --all", order.verb),
            filter => format!("{} {filter}", order.verb),
        };
        let to = order.to.as_ref().map(|to| format!(" --to {to}"));
        let what = what + &to.unwrap_or_default();
        table.row([
            order.id.to_string(),
            style.clock(&order.given_at),
            order.by.clone(),
            order.state.replace('_', " "),
            order
                .until
                .as_deref()
                .map_or("-".to_owned(), |it| style.clock(it)),
            count.unwrap_or_else(|| "-".to_owned()),
            what,
            order.reason.clone(),
        ]);
    }
    table.render(style)
}

const UNDO_EXAMPLES: &str = "\
Examples:
  pelton undo                 the newest order
  pelton undo 7               order 7, as pelton orders lists it

Suspended and held mail goes on, delayed mail is due. Messages that were failed cannot come back,
flushed ones have been due, and rebound ones stay where they are: then nothing is done and the exit
code is 1. An order that is still under way stops.";

const RESUME_EXAMPLES: &str = "\
Examples:
  pelton resume domain=example.com       take back suspend domain=example.com
  pelton resume --all                    take back all suspensions by operators
  pelton undo 7                          take back order 7, as pelton orders lists it

The filter must be the one of the order. Suspensions by the configuration stay.";

const RELEASE_EXAMPLES: &str = "\
Examples:
  pelton release sender=news@me.example  take back hold sender=news@me.example
  pelton release --all                   take back all holds
  pelton undo 7                          take back order 7, as pelton orders lists it

The filter must be the one of the order.";

#[derive(Args, Clone, Debug)]
#[command(after_help = UNDO_EXAMPLES)]
pub struct UndoArgs {
    /// The order; without, the newest
    #[arg(value_name = "ID")]
    pub id: Option<u64>,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Which orders to take back by their filter.
#[derive(Args, Clone, Debug)]
pub struct BackArgs {
    /// The filter of the order
    #[arg(value_name = "FILTER")]
    pub filter: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "filter")]
    pub all: bool,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = RESUME_EXAMPLES)]
pub struct ResumeArgs {
    #[command(flatten)]
    pub back: BackArgs,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = RELEASE_EXAMPLES)]
pub struct ReleaseArgs {
    #[command(flatten)]
    pub back: BackArgs,
}

pub fn undo(args: &UndoArgs) -> u8 {
    let target = Ok(args.id.map_or(UndoTarget::Last, UndoTarget::Id));
    take_back(target, &args.server, args.output)
}

pub fn resume(args: &ResumeArgs) -> u8 {
    let target = target_of(Verb::Suspend, "resume", &args.back);
    take_back(target, &args.back.server, args.back.output)
}

pub fn release(args: &ReleaseArgs) -> u8 {
    let target = target_of(Verb::Hold, "release", &args.back);
    take_back(target, &args.back.server, args.back.output)
}

fn target_of(verb: Verb, name: &str, args: &BackArgs) -> Result<UndoTarget, Failure> {
    let filter = filter_of(&args.filter)?;
    match (filter.is_empty(), args.all) {
        (true, false) => {
            let message = format!(
                "{name} what? Name it as it was ordered (pelton orders lists that), or: pelton \
                 {name} --all"
            );
            Err(Failure::new(EXIT_USAGE, "E422", message))
        }
        (true, true) => Ok(UndoTarget::All { verb }),
        (false, _) => Ok(UndoTarget::Same { verb, filter }),
    }
}

fn take_back(target: Result<UndoTarget, Failure>, server: &ServerArgs, output: OutputArgs) -> u8 {
    let style = Style::of_stdout(output.color);
    let asked = target.and_then(|target| client::ask(&server.places()?, &Request::Undo { target }));
    let page = asked.and_then(|envelope| undone_page(envelope, &style));
    output::show(page.map(|page| page.about(server)), output, false)
}

/// The page of what has been taken back.
pub fn undone_page(envelope: Envelope, style: &Style) -> Result<Page, Failure> {
    let Reply::Undone(data) = envelope.reply else {
        return Err(client::unexpected());
    };
    let UndoneData { orders, instead } = &data;
    let mut text = String::new();
    for order in orders {
        let id = style.strong(&format!("order {}", order.id));
        let what = format!("{} {}", order.verb, clean(&order.filter));
        let what = what.trim_end();
        let _ = match (order.messages, order.changed) {
            (Some(count), _) => {
                let messages = units::counted(count, "message");
                writeln!(text, "{id} taken back: {what}; {messages} may go on")
            }
            (None, Some(count @ 1..)) if order.verb == "fail" => {
                let messages = units::counted(count, "message");
                writeln!(
                    text,
                    "{id} stopped: {messages} had failed and cannot come back"
                )
            }
            (None, Some(count @ 1..)) if order.verb == "rebind" => {
                let messages = units::counted(count, "message");
                writeln!(text, "{id} stopped: {messages} had moved and stay there")
            }
            _ => writeln!(text, "{id} taken back: {what}"),
        };
    }
    if let Some(order) = instead {
        let due = units::counted(order.changed.unwrap_or(0), "message");
        let _ = writeln!(text, "{due} due again, by order {}", order.id);
    }
    let next = command(&["pelton", "orders"]);
    Ok(Page {
        schema: "pelton.undo/1",
        node: envelope.node,
        at: envelope.at,
        text,
        data: serde_json::to_value(&data).unwrap_or_default(),
        records: None,
        warnings: envelope.notes,
        next: vec![next],
        exit: EXIT_DONE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_from_now() {
        let day = Duration::from_secs(86_400);
        for text in ["06:00", "23:59", "0:05"] {
            let ahead = moment(text).unwrap();
            assert!(!ahead.is_zero() && ahead <= day, "{text}: {ahead:?}");
        }
        assert!(moment("2999-01-01T06:00Z").unwrap() > 300 * 365 * day);
        assert!(moment("2999-01-01T06:00:01Z").is_ok());
        for text in ["24:00", "6", "2999-01-01T06:00", "2001-01-01T06:00Z", "x:y"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_is_done_without_a_word_of_what() {
        let what = WhatArgs {
            filter: Vec::new(),
            all: false,
            reason: String::new(),
            dry_run: false,
            yes: true,
            server: ServerArgs::default(),
            output: OutputArgs::default(),
        };
        let style = Style::of_stdout(crate::cli::output::When::Never);
        let failure = act((Verb::Fail, None), &what, TimeArgs::default(), &style).unwrap_err();
        assert_eq!((failure.exit, failure.code.as_str()), (EXIT_USAGE, "E422"));
        let mut what = what;
        what.filter = vec!["domian=a".to_owned()];
        let failure = act((Verb::Fail, None), &what, TimeArgs::default(), &style).unwrap_err();
        assert_eq!((failure.exit, failure.code.as_str()), (EXIT_USAGE, "E400"));
    }
}
