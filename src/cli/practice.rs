//! `pelton practice`: whole engines against an internet to practise on, in virtual time.

use core::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use clap::Args;
use serde_json::Value;
use serde_json::json;

use crate::base::units::duration;
use crate::base::units::grouped;
use crate::cli::config::read_file;
use crate::cli::config::read_include;
use crate::cli::output::Align;
use crate::cli::output::EXIT_CONFIG;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_FAILED;
use crate::cli::output::EXIT_NOT_FOUND;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::Style;
use crate::cli::output::Table;
use crate::cli::output::say;
use crate::cli::output::show;
use crate::cli::spool::view::Progress;
use crate::config::Diagnostic;
use crate::config::SourceFile;
use crate::practice::read;
use crate::practice::report::Goal;
use crate::practice::report::Report;
use crate::practice::report::Row;
use crate::practice::scenario::Scenario;
use crate::sim::practice;
use crate::sim::practice::SHARDS_MAX;
use crate::sim::practice::Setup;

const EXAMPLES: &str = "\
Examples:
  pelton practice list                                 scenarios that come with Pelton
  pelton practice halved-and-lifted                    one of them
  pelton practice my.scenario --config my.conf         yours, with your configuration
  pelton practice warm-up --config a.conf --config b.conf   side by side
  pelton practice quiet-day --compare                  fixed, snap-back and adaptive limits

Exit codes: 0 done, 1 a goal was not reached, 2 a mistake in a file, 3 no such file. With several
configurations the first --config is judged; --compare alone judges none.";

/// Run whole engines against receivers with hidden limits, in virtual time.
///
/// A scenario names the receivers, their limits and how those change, the mail, and what shaping
/// is to reach. The table compares what was delivered with what a sender who knew every limit could
/// have delivered in the same time, and says how often the receivers were sent too much. The same
/// file and seed give the same result. `pelton-sink --scenario` plays the same receivers for real.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, after_long_help = after_help())]
pub struct PracticeArgs {
    /// A scenario file, the name of one that comes with Pelton, or `list`
    pub scenario: String,
    /// The configuration of the sender; with several, one table compares them
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// A directory in which includes are looked for after that of the including file; repeatable
    #[arg(long, value_name = "DIR")]
    pub include_path: Vec<PathBuf>,
    /// Compare the configurations that come with Pelton, and those of --config
    #[arg(long)]
    pub compare: bool,
    /// Instead of the seed of the scenario
    #[arg(long)]
    pub seed: Option<u64>,
    /// Engines that share the work
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=SHARDS))]
    pub shards: u8,
    #[command(flatten)]
    pub output: OutputArgs,
}

const SHARDS: i64 = SHARDS_MAX as i64;

/// Scenarios that come with Pelton.
pub const SCENARIOS: [(&str, &str); 5] = [
    (
        "quiet-day",
        include_str!("../../config/scenarios/quiet-day.scenario"),
    ),
    (
        "halved-and-lifted",
        include_str!("../../config/scenarios/halved-and-lifted.scenario"),
    ),
    (
        "blocked-address",
        include_str!("../../config/scenarios/blocked-address.scenario"),
    ),
    (
        "warm-up",
        include_str!("../../config/scenarios/warm-up.scenario"),
    ),
    (
        "many-domains",
        include_str!("../../config/scenarios/many-domains.scenario"),
    ),
];

/// Configurations that `--compare` runs.
pub const CONFIGS: [(&str, &str); 3] = [
    ("fixed", include_str!("../../config/scenarios/fixed.conf")),
    (
        "snap-back",
        include_str!("../../config/scenarios/snap-back.conf"),
    ),
    (
        "adaptive",
        include_str!("../../config/scenarios/adaptive.conf"),
    ),
];

fn after_help() -> String {
    format!("{}\n{EXAMPLES}", read::FORMAT)
}

pub fn run(args: &PracticeArgs) -> u8 {
    if args.scenario == "list" {
        for (name, text) in SCENARIOS {
            say(&format!("{name:20} {}", first_sentence(text)));
        }
        return EXIT_DONE;
    }
    show(practise(args), args.output, false)
}

/// Of the comment that a scenario begins with.
fn first_sentence(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("# "));
    let all: Vec<&str> = lines.collect();
    let all = all.join(" ");
    let end = all.find(". ").map_or(all.len(), |at| at + 1);
    all[..end].to_string()
}

/// A configuration and the name that it goes by.
struct Sender {
    name: String,
    source: Option<SourceFile>,
}

fn practise(args: &PracticeArgs) -> Result<Page, Failure> {
    let scenario = Arc::new(scenario(&args.scenario)?);
    let seed = args.seed.unwrap_or(scenario.seed);
    let shards = usize::from(args.shards);
    let mut setups = Vec::new();
    let senders = senders(args)?;
    for sender in &senders {
        let mut include = |request: &_| read_include(request, &args.include_path);
        let source = sender.source.clone();
        let config = practice::configuration(&scenario, shards, source, &mut include);
        setups.push(Setup {
            scenario: scenario.clone(),
            config: config.map_err(|errors| refused(&errors))?,
            seed,
            shards,
        });
    }
    let reports = run_all(&setups);
    let style = Style::of_stdout(args.output.color);
    let named = senders.iter().map(|it| it.name.as_str()).zip(&reports);
    let named: Vec<(&str, &Report)> = named.collect();
    // A comparison of what comes with Pelton is no test of anybody's configuration.
    let judged = match (args.compare, args.config.is_empty()) {
        (true, true) => None,
        (true, false) => Some(CONFIGS.len()),
        (false, _) => Some(0),
    };
    let judged = judged.and_then(|index| reports.get(index));
    let reached = judged.is_none_or(|it| it.goals.iter().all(|goal| goal.reached));
    let exit = if reached { EXIT_DONE } else { EXIT_FAILED };
    Ok(Page {
        exit,
        ..page(&args.scenario, &named, &style)
    })
}

/// One that comes with Pelton, or a file.
pub fn scenario(name: &str) -> Result<Scenario, Failure> {
    let built_in = SCENARIOS.iter().find(|(it, _)| *it == name);
    let path = Path::new(name);
    let source = match built_in.filter(|_| !path.exists()) {
        Some((name, text)) => SourceFile {
            name: format!("{name}.scenario"),
            text: (*text).to_string(),
        },
        None => read_file(path).map_err(|why| {
            let message = format!(
                "cannot read {name}: {why}; expected a scenario file, or a name that \
                 `pelton practice list` knows"
            );
            Failure::new(EXIT_NOT_FOUND, "E092", message)
        })?,
    };
    read::read(source).map_err(|errors| refused(&errors))
}

fn refused(errors: &[Diagnostic]) -> Failure {
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let message = format!("a file has mistakes\n{}", all.join("\n"));
    Failure::new(EXIT_CONFIG, "E093", message)
}

fn senders(args: &PracticeArgs) -> Result<Vec<Sender>, Failure> {
    let mut senders = Vec::new();
    if args.compare {
        senders.extend(CONFIGS.iter().map(|(name, text)| Sender {
            name: (*name).to_string(),
            source: Some(SourceFile {
                name: format!("{name}.conf"),
                text: (*text).to_string(),
            }),
        }));
    }
    for path in &args.config {
        let source = read_file(path).map_err(|why| {
            let message = format!("cannot read {}: {why}", path.display());
            Failure::new(EXIT_NOT_FOUND, "E092", message)
        })?;
        let stem = path.file_stem().unwrap_or(path.as_os_str());
        senders.push(Sender {
            name: stem.to_string_lossy().into_owned(),
            source: Some(source),
        });
    }
    if senders.is_empty() {
        senders.push(Sender {
            name: "defaults".to_string(),
            source: None,
        });
    }
    Ok(senders)
}

/// Runs side by side, a thread for each core.
fn run_all(setups: &[Setup]) -> Vec<Report> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let duration_s = |setup: &Setup| setup.scenario.duration_us / 1_000_000;
    let all_s: u64 = setups.iter().map(duration_s).sum();
    let progress = Mutex::new((Progress::new("practising"), vec![0; setups.len()]));
    let mut reports: Vec<Option<Report>> = setups.iter().map(|_| None).collect();
    let next = Mutex::new(setups.iter().zip(&mut reports).enumerate());
    std::thread::scope(|scope| {
        for _ in 0..cores.min(setups.len()) {
            scope.spawn(|| {
                loop {
                    let work = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((index, (setup, place))) = work else {
                        return;
                    };
                    *place = Some(practice::run(setup, &mut |at| {
                        let mut told = progress.lock().unwrap_or_else(PoisonError::into_inner);
                        told.1[index] = at.virtual_us / 1_000_000;
                        let done_s = told.1.iter().sum();
                        told.0.at(done_s, all_s, "virtual seconds");
                    }));
                }
            });
        }
    });
    reports.into_iter().flatten().collect()
}

fn page(scenario: &str, reports: &[(&str, &Report)], style: &Style) -> Page {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match reports {
        [(_, report)] => write_one(&mut text, report, style),
        all => write_side_by_side(&mut text, all, style),
    };
    let runs: Vec<Value> = reports
        .iter()
        .map(|(name, it)| run_value(name, it))
        .collect();
    Page {
        schema: "pelton.practice/1",
        at: style.now.rfc3339().to_string(),
        text,
        data: json!({ "scenario": scenario, "runs": runs }),
        ..Page::default()
    }
}

fn run_value(name: &str, report: &Report) -> Value {
    let mut value = serde_json::to_value(report).unwrap_or(Value::Null);
    value["configuration"] = name.into();
    let row_of = |value: &mut Value, row: &Row| {
        value["settled_share_percent"] = json!(row.share());
        value["settled_over_sending_percent"] = json!(row.over_percent());
    };
    row_of(&mut value["total"], &report.total);
    if let Some(rows) = value["providers"].as_array_mut() {
        for (value, row) in rows.iter_mut().zip(&report.providers) {
            row_of(value, row);
        }
    }
    value
}

fn percent(value: Option<f64>) -> String {
    value.map_or("-".to_string(), |it| format!("{it:.1} %"))
}

fn seconds(seconds: u64) -> String {
    match seconds {
        0 => "-".to_string(),
        _ => duration(core::time::Duration::from_secs(seconds)),
    }
}

/// A table of the receivers, and what was to be reached.
pub fn write_one(text: &mut String, report: &Report, style: &Style) -> core::fmt::Result {
    let mut table = Table::new(&[
        ("PROVIDER", Align::Left),
        ("MESSAGES", Align::Right),
        ("CAPACITY", Align::Right),
        ("DELIVERED", Align::Right),
        ("SHARE", Align::Right),
        ("OVERSENT", Align::Right),
        ("", Align::Right),
        ("REFUSED", Align::Right),
        ("BLOCKED", Align::Right),
        ("RETRIES", Align::Right),
        ("LOST", Align::Right),
        ("LONGEST", Align::Right),
    ]);
    let many = report.providers.len() > 1;
    for row in report.providers.iter().chain(many.then_some(&report.total)) {
        let longest = core::time::Duration::from_secs_f64(row.longest_wait_seconds);
        table.row([
            row.provider.clone(),
            grouped(row.messages),
            grouped(row.capacity),
            grouped(row.delivered),
            percent(row.share()),
            grouped(row.over_sending),
            percent(row.over_percent()),
            grouped(row.connections_refused),
            seconds(row.blocked_seconds + row.abuse_seconds),
            grouped(row.retries),
            grouped(row.lost),
            duration(longest),
        ]);
    }
    text.push_str(&table.render(style));
    if !report.changes.is_empty() {
        text.push('\n');
        for change in &report.changes {
            let at = duration(core::time::Duration::from_secs(change.at_seconds));
            let found = match (change.found_after_seconds, change.kind) {
                (None, "lowered") => "never kept".to_string(),
                (None, _) => "never used".to_string(),
                (Some(after), "lowered") => format!("kept after {after} s"),
                (Some(after), _) => format!("used to 90 % after {after} s"),
            };
            writeln!(
                text,
                "{} {} its limit at {at}: {found}",
                change.provider, change.kind
            )?;
        }
    }
    text.push('\n');
    for goal in &report.goals {
        write_goal(text, goal, style)?;
    }
    Ok(())
}

fn write_goal(text: &mut String, goal: &Goal, style: &Style) -> core::fmt::Result {
    let word = match goal.reached {
        true => style.good("ok  "),
        false => style.fail("FAIL"),
    };
    let Goal {
        name,
        wanted,
        found,
        ..
    } = goal;
    writeln!(text, "{word}  {name}: {found} (wanted: {wanted})")
}

/// One row for each configuration.
fn write_side_by_side(
    text: &mut String,
    reports: &[(&str, &Report)],
    style: &Style,
) -> core::fmt::Result {
    let mut table = Table::new(&[
        ("CONFIGURATION", Align::Left),
        ("CAPACITY", Align::Right),
        ("DELIVERED", Align::Right),
        ("SHARE", Align::Right),
        ("OVERSENT", Align::Right),
        ("", Align::Right),
        ("REFUSED", Align::Right),
        ("RETRIES", Align::Right),
        ("LOST", Align::Right),
        ("LOWERED", Align::Right),
        ("RAISED", Align::Right),
        ("GOALS", Align::Right),
    ]);
    for (name, report) in reports {
        let row = &report.total;
        let reached = report.goals.iter().filter(|it| it.reached).count();
        table.row([
            (*name).to_string(),
            grouped(row.capacity),
            grouped(row.delivered),
            percent(row.share()),
            grouped(row.over_sending),
            percent(row.over_percent()),
            grouped(row.connections_refused),
            grouped(row.retries),
            grouped(row.lost),
            slowest(report, "lowered"),
            slowest(report, "raised"),
            format!("{reached} of {}", report.goals.len()),
        ]);
    }
    write!(text, "{}", table.render(style))
}

/// How long the slowest change of a kind took to be noticed.
fn slowest(report: &Report, kind: &str) -> String {
    let of_kind = || report.changes.iter().filter(|it| it.kind == kind);
    if of_kind().any(|it| it.found_after_seconds.is_none()) {
        return "never".to_string();
    }
    let slowest = of_kind().filter_map(|it| it.found_after_seconds).max();
    slowest.map_or("-".to_string(), |it| format!("{it} s"))
}
