//! `pelton adaptive list | explain | override | reset | resume | complaints` and `pelton blocks`:
//! what adaptive delivery has learnt of receivers, why, and what an operator makes of it.

use core::fmt::Write;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;

use clap::Args;
use clap::Subcommand;

use crate::base::units;
use crate::cli::changes::duration;
use crate::cli::client;
use crate::cli::client::ServerArgs;
use crate::cli::output;
use crate::cli::output::Align;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_NOT_FOUND;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::Style;
use crate::cli::output::Table;
use crate::cli::output::clean;
use crate::cli::output::command;
use crate::config::adaptive::complaint_category;
use crate::control::management::protocol::Envelope;
use crate::control::management::protocol::PairNamed;
use crate::control::management::protocol::Reply;
use crate::control::management::protocol::Request;
use crate::engine::owner::warmup::EVERY_DOMAIN;
use crate::engine::query::LearntAct;
use crate::engine::query::LearntCause;
use crate::engine::query::LearntPair;
use crate::engine::query::LearntWarmup;

const EXAMPLES: &str = "\
Examples:
  pelton adaptive list                                              what was learnt of whom
  pelton adaptive explain --binding pool-1 --domain example.com     one pair whole, and why
  pelton adaptive reset --binding pool-1 --domain example.com       forget it";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct AdaptiveArgs {
    #[command(subcommand)]
    pub command: AdaptiveCommand,
}

#[derive(Subcommand, Clone, Debug)]
pub enum AdaptiveCommand {
    /// Pairs of binding and domain of which something was learnt
    List(ListArgs),
    /// What was learnt of one binding and domain, and whose words made it so
    Explain(ExplainArgs),
    /// Give an option a value for some time, whatever is learnt meanwhile
    Override(OverrideArgs),
    /// Forget what was learnt, suspensions and overrides included
    Reset(ActArgs),
    /// End suspensions before their time; one message finds out whether they are over
    Resume(ActArgs),
    /// How far new bindings are warmed up, and what they may send a day; or set that
    Warmup(WarmupArgs),
    /// Tell of recipients' complaints, which rules compare with the deliveries of a day
    Complaints(ComplaintsArgs),
}

const WARMUP_EXAMPLES: &str = "\
Examples:
  pelton adaptive warmup                     all bindings that are warmed up
  pelton adaptive warmup pool-1 --stage 5    go on with the fifth stage from now
  pelton adaptive warmup pool-1 --off        it is warm: nothing limits it any more";

#[derive(Args, Clone, Debug)]
#[command(after_help = WARMUP_EXAMPLES)]
pub struct WarmupArgs {
    /// Only this binding
    #[arg(value_name = "BINDING")]
    pub binding: Option<String>,
    /// Begin this stage now
    #[arg(long, value_name = "N", requires = "binding", conflicts_with_all = ["restart", "off"])]
    pub stage: Option<u32>,
    /// Begin the first stage now
    #[arg(long, requires = "binding", conflicts_with = "off")]
    pub restart: bool,
    /// End it: the binding is warm
    #[arg(long, requires = "binding")]
    pub off: bool,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const COMPLAINTS_EXAMPLES: &str = "\
Examples:
  pelton adaptive complaints --binding a --domain b.example 3        three, of the last reports
  pelton adaptive complaints - < complaints.jsonl                    as many as there are lines

A line has binding and domain, and may have category (abuse) and count (1):
  {\"binding\": \"a\", \"domain\": \"b.example\", \"category\": \"abuse\", \"count\": 3}
If one line is wrong, none is counted.";

#[derive(Args, Clone, Debug)]
#[command(after_help = COMPLAINTS_EXAMPLES)]
pub struct ComplaintsArgs {
    /// The binding that has sent the mail
    #[arg(long, value_name = "NAME")]
    pub binding: Option<String>,
    /// The domain that it was sent to, as queues have it
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// What was complained of (RFC 5965 7.3)
    #[arg(long, default_value = "abuse")]
    pub category: String,
    /// How many complaints; - reads lines of JSON from standard input
    #[arg(value_name = "N", value_parser = how_many)]
    pub how_many: HowMany,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Complaints of one kind, or what stands in lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HowMany {
    Count(u64),
    Lines,
}

fn how_many(text: &str) -> Result<HowMany, String> {
    match text {
        "-" => Ok(HowMany::Lines),
        _ => match text.parse() {
            Ok(count @ 1..) => Ok(HowMany::Count(count)),
            _ => Err("a number from 1 is expected, or - for lines of JSON".to_string()),
        },
    }
}

const LIST_EXAMPLES: &str = "\
Examples:
  pelton adaptive list --domain example.com       by all bindings
  pelton adaptive list --binding pool-1           of all domains
  pelton adaptive list --jsonl | jq -r .domain    one JSON object a line";

#[derive(Args, Clone, Debug)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ListArgs {
    /// Only of this binding
    #[arg(long, value_name = "NAME")]
    pub binding: Option<String>,
    /// Only of this domain
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// One JSON object per line
    #[arg(long, conflicts_with = "json")]
    pub jsonl: bool,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  pelton adaptive explain --binding pool-1 --domain example.com
  pelton adaptive explain --binding pool-1 --domain example.com --json";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub struct ExplainArgs {
    /// The binding
    #[arg(long, value_name = "NAME")]
    pub binding: String,
    /// The domain
    #[arg(long, value_name = "DOMAIN")]
    pub domain: String,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const OVERRIDE_EXAMPLES: &str = "\
Examples:
  pelton adaptive override --binding a --domain b.example max_outbound_connections 2 --for 2h
  pelton adaptive override --binding a --domain b.example outbound_throttle_messages 60/60
  pelton adaptive reset --binding a --domain b.example       takes it back, with all else

Options: max_outbound_connections, max_deliveries_per_connection, outbound_throttle_messages (N a
second, or N/W), retry_interval, max_retry_interval. Values stay within the adaptive_ ranges.";

#[derive(Args, Clone, Debug)]
#[command(after_help = OVERRIDE_EXAMPLES)]
pub struct OverrideArgs {
    /// The binding
    #[arg(long, value_name = "NAME")]
    pub binding: String,
    /// The domain
    #[arg(long, value_name = "DOMAIN")]
    pub domain: String,
    /// The option
    #[arg(value_name = "OPTION")]
    pub option: String,
    /// Its value
    #[arg(value_name = "VALUE")]
    pub value: String,
    /// For how long: 90s, 30m, 6h, 7d
    #[arg(long = "for", value_name = "TIME", default_value = "4h", value_parser = duration)]
    pub time: Duration,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const ACT_EXAMPLES: &str = "\
Examples:
  pelton adaptive reset --binding pool-1 --domain example.com    of one pair
  pelton adaptive resume --domain example.com                    of all bindings
  pelton adaptive reset --all                                    everything";

#[derive(Args, Clone, Debug)]
#[command(after_help = ACT_EXAMPLES)]
pub struct ActArgs {
    /// Only of this binding
    #[arg(long, value_name = "NAME")]
    pub binding: Option<String>,
    /// Only of this domain
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Of all; without a binding or a domain it must be said
    #[arg(long, conflicts_with_all = ["binding", "domain"])]
    pub all: bool,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

const BLOCKS_EXAMPLES: &str = "\
Examples:
  pelton blocks                                    who takes no mail of ours, and their words
  pelton blocks --jsonl | jq -r .domain            one JSON object a line

Known where adaptive_enabled is set. pelton adaptive resume ends a block of ours before its time.";

#[derive(Args, Clone, Debug)]
#[command(after_help = BLOCKS_EXAMPLES)]
pub struct BlocksArgs {
    /// One JSON object per line
    #[arg(long, conflicts_with = "json")]
    pub jsonl: bool,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(args: &AdaptiveArgs) -> u8 {
    match &args.command {
        AdaptiveCommand::List(args) => {
            let style = Style::of_stdout(args.output.color);
            let of = (args.binding.clone(), args.domain.clone());
            let page = ask(&args.server, of).and_then(|it| list(it, &style));
            let page = page.map(|page| page.about(&args.server));
            output::show(page, args.output, args.jsonl)
        }
        AdaptiveCommand::Explain(args) => {
            let style = Style::of_stdout(args.output.color);
            let of = (Some(args.binding.clone()), Some(args.domain.clone()));
            let page = ask(&args.server, of).and_then(|it| explain(it, args, &style));
            let page = page.map(|page| page.about(&args.server));
            output::show(page, args.output, false)
        }
        AdaptiveCommand::Override(args) => {
            let act = LearntAct::Set {
                assignment: format!("{} {}", args.option, args.value),
                seconds: args.time.as_secs().max(1),
            };
            let of = (Some(args.binding.clone()), Some(args.domain.clone()));
            let page = acted(&args.server, of, act).map(|page| page.about(&args.server));
            output::show(page, args.output, false)
        }
        AdaptiveCommand::Reset(args) => act(args, LearntAct::Reset),
        AdaptiveCommand::Resume(args) => act(args, LearntAct::Resume),
        AdaptiveCommand::Warmup(args) => {
            let page = warmup(args).map(|page| page.about(&args.server));
            output::show(page, args.output, false)
        }
        AdaptiveCommand::Complaints(args) => {
            let page = complain(args).map(|page| page.about(&args.server));
            output::show(page, args.output, false)
        }
    }
}

/// `pelton blocks`.
pub fn blocks(args: &BlocksArgs) -> u8 {
    let style = Style::of_stdout(args.output.color);
    let page = ask(&args.server, (None, None)).and_then(|it| blocked(it, &style));
    let page = page.map(|page| page.about(&args.server));
    output::show(page, args.output, args.jsonl)
}

type Of = (Option<String>, Option<String>);

fn ask(server: &ServerArgs, (binding, domain): Of) -> Result<Envelope, Failure> {
    let request = Request::Learnt { binding, domain };
    client::ask(&server.places()?, &request)
}

fn act(args: &ActArgs, act: LearntAct) -> u8 {
    let of = (args.binding.clone(), args.domain.clone());
    let named = args.all || of.0.is_some() || of.1.is_some();
    let page = if named {
        acted(&args.server, of, act)
    } else {
        let message = "of which? Name --binding, --domain or both, or say --all";
        Err(Failure::new(output::EXIT_USAGE, "E440", message))
    };
    output::show(
        page.map(|page| page.about(&args.server)),
        args.output,
        false,
    )
}

fn acted(server: &ServerArgs, (binding, domain): Of, act: LearntAct) -> Result<Page, Failure> {
    let of = PairNamed { binding, domain };
    let request = Request::Relearn { of, act };
    let envelope = client::ask(&server.places()?, &request)?;
    let Reply::Relearnt(data) = envelope.reply else {
        return Err(client::unexpected());
    };
    let text = match data.pairs {
        0 => "nothing to do: nothing of that kind was learnt there\n".to_string(),
        pairs => format!("done, for {}\n", units::counted(pairs, "pair")),
    };
    Ok(Page {
        schema: "pelton.adaptive_act/1",
        node: envelope.node,
        at: envelope.at,
        text,
        data: serde_json::to_value(&data).unwrap_or_default(),
        records: None,
        warnings: envelope.notes,
        next: vec![command(&["pelton", "adaptive", "list"])],
        exit: EXIT_DONE,
    })
}

/// Shows warm-up, or sets the stage of a binding.
fn warmup(args: &WarmupArgs) -> Result<Page, Failure> {
    let stage = match (args.stage, args.restart, args.off) {
        (Some(stage), ..) => Some(Some(stage)),
        (None, true, _) => Some(Some(1)),
        (None, false, true) => Some(None),
        (None, false, false) => None,
    };
    let of = (args.binding.clone(), Some(EVERY_DOMAIN.to_string()));
    if let Some(stage) = stage {
        let act = LearntAct::Warmup { stage };
        let mut page = acted(&args.server, of, act)?;
        page.text = "done, for 1 binding\n".to_string();
        page.next = vec![command(&["pelton", "adaptive", "warmup"])];
        return Ok(page);
    }
    let envelope = ask(&args.server, of)?;
    let about = (envelope.node, envelope.at, envelope.notes);
    let mut pairs = pairs(envelope.reply)?;
    pairs.retain(|it| it.warmup.is_some());
    let mut text = match pairs.len() as u64 {
        0 => "no binding of those named is warmed up: warmup_start is not set\n".to_string(),
        count => format!("{} to be warmed up\n", units::counted(count, "binding")),
    };
    let mut table = Table::new(&[
        ("BINDING", Align::Left),
        ("STAGE", Align::Right),
        ("A DAY", Align::Right),
        ("USED", Align::Right),
        ("DELIVERED", Align::Right),
        ("DEFERRED", Align::Right),
        ("LAST CHANGE", Align::Left),
    ]);
    let style = Style::of_stdout(args.output.color);
    for pair in &pairs {
        let Some(it) = &pair.warmup else { continue };
        let stage = it.stage.map_or("warm".to_string(), |stage| {
            format!("{stage} of {}", it.stages)
        });
        let allowance = it
            .allowance
            .map_or("-".to_string(), |it| units::grouped(it.into()));
        table.row([
            pair.binding.clone(),
            stage,
            allowance,
            units::grouped(it.used),
            units::grouped(it.delivered),
            units::grouped(it.deferred),
            it.why.clone(),
        ]);
    }
    if !pairs.is_empty() {
        text.push_str(&table.render(&style));
    }
    Ok(page("pelton.adaptive_warmup/1", text, &pairs, None, about))
}

/// One line of complaints.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Complaint {
    binding: String,
    domain: String,
    #[serde(default = "abuse")]
    category: String,
    #[serde(default = "one")]
    count: core::num::NonZeroU64,
}

fn abuse() -> String {
    "abuse".to_string()
}

fn one() -> core::num::NonZeroU64 {
    core::num::NonZeroU64::MIN
}

/// Complaints by binding, domain and category.
type Complaints = BTreeMap<(String, String, String), u64>;

/// Adds up lines, each of which has to be right. The error says which is not, and why.
fn complaints_of(lines: impl Iterator<Item = io::Result<String>>) -> Result<Complaints, String> {
    let mut all = Complaints::new();
    for (number, line) in (1..).zip(lines) {
        let line = line.map_err(|error| format!("line {number}: {error}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let found: Complaint = serde_json::from_str(&line)
            .map_err(|error| format!("line {number}: {error}; nothing was counted"))?;
        let category = complaint_category(&found.category).map_err(|why| {
            let category = &found.category;
            format!("line {number}: {category:?} {why}; nothing was counted")
        })?;
        let sum = all
            .entry((found.binding, found.domain.to_lowercase(), category))
            .or_default();
        *sum = sum.saturating_add(found.count.get());
    }
    Ok(all)
}

fn complain(args: &ComplaintsArgs) -> Result<Page, Failure> {
    let wrong = |why: String| Failure::new(output::EXIT_USAGE, "E442", &why);
    let complaints = match (args.how_many, &args.binding, &args.domain) {
        (HowMany::Lines, None, None) => complaints_of(io::stdin().lines()).map_err(wrong)?,
        (HowMany::Lines, ..) => {
            let why = "lines name their binding and domain: leave --binding and --domain out";
            return Err(wrong(why.to_string()));
        }
        (HowMany::Count(count), Some(binding), Some(domain)) => {
            let of = (binding.clone(), domain.clone(), args.category.clone());
            Complaints::from([(of, count)])
        }
        (HowMany::Count(_), ..) => {
            let why = "of which mail? Name --binding and --domain";
            return Err(wrong(why.to_string()));
        }
    };
    let mut pages = Vec::new();
    let mut refused = Vec::new();
    let mut counted = 0_u64;
    for ((binding, domain, category), count) in complaints {
        let of = format!("{count} of {domain} by {binding}");
        let act = LearntAct::Complaints { category, count };
        match acted(&args.server, (Some(binding), Some(domain)), act) {
            Ok(page) => {
                pages.push(page);
                counted = counted.saturating_add(count);
            }
            Err(failure) => refused.push((of, failure)),
        }
    }
    let Some(mut page) = pages.pop() else {
        let first = refused.into_iter().next().map(|(_, failure)| failure);
        return Err(first.unwrap_or_else(|| wrong("there is no line to count".to_string())));
    };
    page.text = format!("{} counted\n", units::counted(counted, "complaint"));
    page.data = serde_json::json!({ "complaints": counted });
    if !refused.is_empty() {
        page.exit = output::EXIT_FAILED;
    }
    let refused = refused.into_iter();
    let refused = refused.map(|(of, failure)| format!("{of}: not counted: {}", failure.message));
    page.warnings.extend(refused);
    Ok(page)
}

/// The pairs of a reply, by domain and binding.
fn pairs(reply: Reply) -> Result<Vec<LearntPair>, Failure> {
    match reply {
        Reply::Learnt(data) => Ok(data.pairs),
        _ => Err(client::unexpected()),
    }
}

fn list(envelope: Envelope, style: &Style) -> Result<Page, Failure> {
    let about = (envelope.node, envelope.at, envelope.notes);
    let pairs = pairs(envelope.reply)?;
    let mut text = match pairs.len() as u64 {
        0 => "nothing was learnt of any receiver, or nothing of those named\n".to_string(),
        count => format!("{} with something learnt\n", units::counted(count, "pair")),
    };
    if !pairs.is_empty() {
        let mut table = Table::new(&[
            ("BINDING", Align::Left),
            ("DOMAIN", Align::Left),
            ("RATE", Align::Right),
            ("CONNECTIONS", Align::Right),
            ("EACH", Align::Right),
            ("STATE", Align::Left),
        ]);
        let number = |it: Option<u32>| it.map_or("-".to_string(), |it| it.to_string());
        for pair in &pairs {
            table.row([
                pair.binding.clone(),
                pair.domain.clone(),
                pair.message_rate.clone().unwrap_or("-".to_string()),
                number(pair.max_outbound_connections),
                number(pair.max_deliveries_per_connection),
                state(pair, style),
            ]);
        }
        text.push_str(&table.render(style));
    }
    let next = pairs.first().map(|it| {
        let of = ["--binding", &it.binding, "--domain", &it.domain];
        command(&[&["pelton", "adaptive", "explain"], &of[..]].concat())
    });
    Ok(page("pelton.adaptive_list/1", text, &pairs, next, about))
}

fn state(pair: &LearntPair, style: &Style) -> String {
    if let Some(stop) = &pair.stop {
        return format!("{}, over in {}", stop.kind, style.until(&stop.until));
    }
    if let Some(since) = &pair.pausing_since {
        return format!("pausing since {}", style.clock(since));
    }
    if let Some(it) = &pair.warmup {
        return match (it.stage, it.allowance) {
            (Some(stage), Some(most)) => {
                format!("warm-up: stage {stage} of {}, {most} a day", it.stages)
            }
            _ => "warm".to_string(),
        };
    }
    match pair.in_force.first() {
        Some(set) => format!("{} by {}", set.setting, set.rule),
        None => "delivering".to_string(),
    }
}

fn explain(envelope: Envelope, args: &ExplainArgs, style: &Style) -> Result<Page, Failure> {
    let about = (envelope.node, envelope.at, envelope.notes);
    let pairs = pairs(envelope.reply)?;
    let Some(pair) = pairs.first() else {
        let message = format!(
            "nothing was learnt of {} by {}: no receiver has asked for less, or adaptive_enabled \
             is not set there. See: pelton why {}",
            args.domain, args.binding, args.domain
        );
        return Err(Failure::new(EXIT_NOT_FOUND, "E441", message));
    };
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_pair(&mut text, pair, style);
    let next = command(&["pelton", "why", &pair.domain, "--binding", &pair.binding]);
    let mut page = page("pelton.adaptive_explain/1", text, &pairs, Some(next), about);
    page.data = serde_json::to_value(pair).unwrap_or_default();
    page.records = None;
    Ok(page)
}

fn write_warmup(text: &mut String, it: &LearntWarmup) -> core::fmt::Result {
    writeln!(
        text,
        "Used         {} in 24 hours; today {} delivered, {} deferred, {} refused",
        it.used, it.delivered, it.deferred, it.refused
    )?;
    match it.why.is_empty() {
        true => Ok(()),
        false => writeln!(text, "Why          {}", clean(&it.why)),
    }
}

fn write_pair(text: &mut String, pair: &LearntPair, style: &Style) -> core::fmt::Result {
    let name = format!("{} by {}", clean(&pair.domain), clean(&pair.binding));
    let waiting = units::counted(pair.queued, "message");
    writeln!(
        text,
        "{}: {}, {waiting} queued",
        style.strong(&name),
        state(pair, style)
    )?;
    if let Some(it) = &pair.warmup {
        return write_warmup(text, it);
    }
    if let Some(stop) = &pair.stop {
        let since = style.clock(&stop.since);
        writeln!(
            text,
            "Stop         {} since {since}{}",
            stop.kind,
            words(&stop.because)
        )?;
    }
    let because = |limit: &str| {
        let found = pair.because.iter().find(|it| it.limit == limit);
        found.map_or(String::new(), words)
    };
    if let Some(rate) = &pair.message_rate {
        let why = because("outbound_throttle_messages");
        writeln!(text, "Rate         {rate}{why}")?;
        match pair.known_limit_per_second {
            Some(limit) => {
                let limit = crate::shape::rate_text(limit);
                writeln!(text, "             trouble began at about {limit}")?;
            }
            None => writeln!(text, "             looking for where the limit is")?,
        }
    }
    if let Some(count) = pair.max_outbound_connections {
        writeln!(
            text,
            "Connections  {count}{}",
            because("max_outbound_connections")
        )?;
    }
    if let Some(count) = pair.max_deliveries_per_connection {
        let why = because("max_deliveries_per_connection");
        writeln!(text, "Each         {count} messages{why}")?;
    }
    if !pair.complaints.is_empty() {
        let each = pair.complaints.iter();
        let each: Vec<_> = each
            .map(|it| format!("{} {}", it.count, clean(&it.category)))
            .collect();
        let of = units::counted(pair.delivered, "message");
        let each = each.join(", ");
        writeln!(text, "Complaints   {each}, of {of} delivered in 24 hours")?;
    }
    for set in &pair.in_force {
        let left = style.until(&set.until);
        writeln!(
            text,
            "In force     {} by {}, {left} to go",
            set.setting,
            clean(&set.rule)
        )?;
    }
    Ok(())
}

/// Which rule, and the words that it heard.
fn words(because: &LearntCause) -> String {
    let mut text = format!(", by rule \"{}\"", clean(&because.rule));
    if let Some(message) = &because.message {
        text.push_str(&format!(" ({})", clean(message)));
    }
    if let Some(reply) = &because.reply {
        let host = because.host.as_deref().unwrap_or("the receiver");
        text.push_str(&format!(
            "\n             {} said: {}",
            clean(host),
            clean(reply)
        ));
    }
    text
}

fn blocked(envelope: Envelope, style: &Style) -> Result<Page, Failure> {
    let about = (envelope.node, envelope.at, envelope.notes);
    let mut pairs = pairs(envelope.reply)?;
    pairs.retain(|it| {
        it.stop
            .as_ref()
            .is_some_and(|stop| stop.kind == "suspension")
    });
    pairs.sort_by(|a, b| (&a.domain, &a.binding).cmp(&(&b.domain, &b.binding)));
    let mut text = match pairs.len() as u64 {
        0 => "nobody blocks us, as far as replies have told\n".to_string(),
        count => format!("{} blocked\n", units::counted(count, "pair")),
    };
    if !pairs.is_empty() {
        let mut table = Table::new(&[
            ("DOMAIN", Align::Left),
            ("BINDING", Align::Left),
            ("SINCE", Align::Left),
            ("TRIED IN", Align::Left),
            ("WORDS", Align::Left),
        ]);
        for pair in &pairs {
            let Some(stop) = &pair.stop else {
                continue;
            };
            let said = stop
                .because
                .reply
                .as_ref()
                .or(stop.because.message.as_ref());
            table.row([
                pair.domain.clone(),
                pair.binding.clone(),
                style.clock(&stop.since),
                style.until(&stop.until),
                said.unwrap_or(&stop.because.rule).clone(),
            ]);
        }
        text.push_str(&table.render(style));
    }
    let next = pairs
        .first()
        .map(|it| command(&["pelton", "adaptive", "list", "--domain", &it.domain]));
    Ok(page("pelton.blocks/1", text, &pairs, next, about))
}

fn page(
    schema: &'static str,
    text: String,
    pairs: &[LearntPair],
    next: Option<Vec<String>>,
    (node, at, warnings): (String, String, Vec<String>),
) -> Page {
    let records = pairs.iter();
    let records = records.map(|it| serde_json::to_value(it).unwrap_or_default());
    let records: Vec<_> = records.collect();
    Page {
        schema,
        node,
        at,
        text,
        data: serde_json::json!({ "pairs": records.clone() }),
        records: Some(records),
        warnings,
        next: next.into_iter().collect(),
        exit: EXIT_DONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_complaints_are_added_up_or_none_is_counted() {
        let read = |text: &str| {
            let lines: Vec<_> = text.lines().map(|it| Ok(it.to_string())).collect();
            complaints_of(lines.into_iter())
        };
        let good = r#"{"binding":"a","domain":"b.example"}

{"binding":"a","domain":"B.example","count":4,"category":"Abuse"}
{"binding":"a","domain":"b.example","category":"fraud"}"#;
        let all = read(good).expect("they are right");
        let counts: Vec<_> = all.iter().map(|(of, count)| (&*of.2, *count)).collect();
        assert_eq!(counts, [("abuse", 5), ("fraud", 1)]);
        for (line, expected) in [
            ("{", "line 2: EOF"),
            (r#"{"binding":"a"}"#, "line 2: missing field `domain`"),
            (
                r#"{"binding":"a","domain":"d","count":0}"#,
                "line 2: invalid value",
            ),
            (
                r#"{"binding":"a","domain":"d","kind":"x"}"#,
                "line 2: unknown field",
            ),
            (
                r#"{"binding":"a","domain":"d","category":"a b"}"#,
                "line 2: \"a b\" names no",
            ),
        ] {
            let text = format!("{}\n{line}", r#"{"binding":"a","domain":"d"}"#);
            let why = read(&text).expect_err(line);
            assert!(why.starts_with(expected), "{line}: {why}");
        }
    }
}
