//! `pelton check` and `pelton config …`, and the reader of configuration files that every other
//! command uses. Nothing here decides what a configuration means.

mod machine;

use std::fs;
use std::io;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use serde_json::Value;
use serde_json::json;

use crate::base::units;
use crate::cli::output;
use crate::cli::output::Failure;
use crate::config;
use crate::config::Checked;
use crate::config::Config;
use crate::config::Diagnostic;
use crate::config::Environment;
use crate::config::Evaluated;
use crate::config::FILE_BYTES_MAX;
use crate::config::IncludeRequest;
use crate::config::ListenerKind;
use crate::config::OPTIONS;
use crate::config::OptionSpec;
use crate::config::Origin;
use crate::config::Preset;
use crate::config::Query;
use crate::config::Severity;
use crate::config::SourceFile;
use crate::config::SpoolSync;

/// Exit code for a configuration with errors.
pub const EXIT_CONFIG_INVALID: i32 = output::EXIT_CONFIG as i32;
/// Exit code when a command names something that does not exist.
pub const EXIT_NOT_FOUND: i32 = output::EXIT_NOT_FOUND as i32;

/// Where a configuration is when nobody says.
pub const CONFIG_PATH_DEFAULT: &str = "/etc/pelton/pelton.conf";
/// Files of one included directory.
const DIRECTORY_FILES_MAX: usize = 1_000;

/// Which configuration a command is about.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_PATH_DEFAULT)]
    pub config: PathBuf,
    /// A directory in which includes are looked for after that of the including file; repeatable
    #[arg(long, value_name = "DIR")]
    pub include_path: Vec<PathBuf>,
}

const CHECK_EXAMPLES: &str = "\
Examples:
  pelton check                         /etc/pelton/pelton.conf
  pelton check --config my.conf        that file
  pelton check --config my.conf --json

Exit codes: 0 valid, 2 not; warnings and notes do not count.";

/// `pelton check`.
#[derive(Args, Clone, Debug)]
#[command(after_help = CHECK_EXAMPLES)]
pub struct CheckArgs {
    #[command(flatten)]
    pub source: ConfigArgs,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `pelton config …`.
#[derive(Subcommand, Clone, Debug)]
pub enum ConfigCommand {
    /// Print what an option is for somebody, and the stanza it comes from
    Eval(EvalArgs),
    /// Print what one scope sets for an option, without any fallback
    Get(EvalArgs),
    /// Print the reference of all options
    Options(OptionsArgs),
    /// Print the configuration in canonical form: includes merged, comments gone
    Show(ShowArgs),
}

const EVAL_EXAMPLES: &str = "\
Examples:
  pelton config eval retry_interval --domain example.com
  pelton config eval max_outbound_connections --binding pool-1 --domain example.com --config my.conf
  pelton config get relay_hosts --listen 127.0.0.1:25";

/// `pelton config eval` and `pelton config get`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EVAL_EXAMPLES)]
pub struct EvalArgs {
    /// The option
    pub option: String,
    #[command(flatten)]
    pub source: ConfigArgs,
    /// For mail of this binding
    #[arg(long, value_name = "NAME")]
    pub binding: Option<String>,
    /// For mail to this domain
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,
    /// For connections to this receiving host, by name or address
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// For clients of this listen address
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// For the client with this address
    #[arg(long, value_name = "ADDRESS")]
    pub peer: Option<IpAddr>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

const OPTIONS_EXAMPLES: &str = "\
Examples:
  pelton config options                 all of them
  pelton config options --json | jq -r '.data[].name'";

/// `pelton config options`.
#[derive(Args, Clone, Debug)]
#[command(after_help = OPTIONS_EXAMPLES)]
pub struct OptionsArgs {
    /// Only options whose name or description contains this
    pub filter: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

const SHOW_EXAMPLES: &str = "\
Examples:
  pelton config show --config my.conf   includes merged, comments gone";

/// `pelton config show`.
#[derive(Args, Clone, Debug)]
#[command(after_help = SHOW_EXAMPLES)]
pub struct ShowArgs {
    #[command(flatten)]
    pub source: ConfigArgs,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// What this machine is, for options whose default depends on it.
pub fn detect_environment() -> Environment {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    Environment {
        hostname: if name.is_empty() { "localhost" } else { name }.to_string(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Reads and checks a configuration file with everything it includes. The errors are diagnostics
/// also when the file cannot be read.
pub fn read_config(
    path: &Path,
    include_path: &[PathBuf],
    environment: &Environment,
) -> Result<Checked, Vec<Diagnostic>> {
    let main = read_file(path).map_err(|why| {
        let message = format!("cannot read {}: {why}", path.display());
        let finding = Diagnostic::whole(Severity::Error, "E008", message);
        vec![finding.expected("a configuration file that may be read")]
    })?;
    let mut include = |request: &IncludeRequest| read_include(request, include_path);
    config::load(main, environment, &mut include)
}

/// The same, and what this machine says to it: for whoever is to run it here.
pub fn read_config_for_here(
    path: &Path,
    include_path: &[PathBuf],
    environment: &Environment,
) -> Result<Checked, Vec<Diagnostic>> {
    let mut checked = read_config(path, include_path, environment)?;
    let found = machine::look(&checked.config);
    let refused = found.iter().any(|it| it.severity == Severity::Error);
    // Notes of this version come last.
    let notes = checked.notes.iter();
    let last = notes.take_while(|it| it.severity != Severity::Note).count();
    checked.notes.splice(last..last, found);
    if refused {
        checked.notes.retain(|it| it.severity != Severity::Note);
        return Err(checked.notes);
    }
    Ok(checked)
}

/// The name of a file in messages is its path as given, so that an editor can open it.
pub fn read_file(path: &Path) -> Result<SourceFile, String> {
    let metadata = fs::metadata(path).map_err(|error| reason(&error))?;
    if metadata.is_dir() {
        return Err("it is a directory".to_string());
    }
    if metadata.len() > FILE_BYTES_MAX as u64 {
        return Err(format!(
            "it has {} bytes, more than {FILE_BYTES_MAX}",
            metadata.len()
        ));
    }
    let bytes = fs::read(path).map_err(|error| reason(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|it| **it == b'\n').count() + 1;
        format!("line {line} is not UTF-8")
    })?;
    Ok(SourceFile {
        name: path.display().to_string(),
        text,
    })
}

/// The words of the system without its error number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_lowercase()
}

/// Looks beside the including file, then along the search path. A directory stands for its files
/// in alphabetical order, without dot files and without going deeper.
pub fn read_include(
    request: &IncludeRequest,
    include_path: &[PathBuf],
) -> Result<Vec<SourceFile>, String> {
    let wanted = request
        .path
        .strip_prefix("file://")
        .unwrap_or(&request.path);
    if wanted.contains("://") {
        return Err("only files can be included".to_string());
    }
    if wanted.is_empty() {
        return Err("the name is empty".to_string());
    }
    let beside = Path::new(&request.from).parent().unwrap_or(Path::new(""));
    let folders = std::iter::once(beside).chain(include_path.iter().map(PathBuf::as_path));
    let found = folders.map(|it| it.join(wanted)).find(|it| it.exists());
    let Some(found) = found else {
        let mut places = vec![beside.join(wanted).display().to_string()];
        places.extend(
            include_path
                .iter()
                .map(|it| it.join(wanted).display().to_string()),
        );
        return Err(format!("no such file or directory: {}", places.join(", ")));
    };
    match found.is_dir() {
        true => read_directory(&found),
        false => read_file(&found).map(|it| vec![it]),
    }
}

fn read_directory(path: &Path) -> Result<Vec<SourceFile>, String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| reason(&error))? {
        let entry = entry.map_err(|error| reason(&error))?;
        let is_hidden = entry.file_name().as_encoded_bytes().first() == Some(&b'.');
        if !is_hidden && entry.path().is_file() {
            paths.push(entry.path());
        }
        if paths.len() > DIRECTORY_FILES_MAX {
            return Err(format!("it holds more than {DIRECTORY_FILES_MAX} files"));
        }
    }
    paths.sort();
    let read = |it: &PathBuf| read_file(it).map_err(|why| format!("{}: {why}", it.display()));
    paths.iter().map(read).collect()
}

/// Runs `pelton check`. Findings are what the command is for: they go to `out`.
pub fn check(args: &CheckArgs, environment: &Environment, out: &mut dyn Write) -> io::Result<i32> {
    let path = &args.source.config;
    let result = read_config_for_here(path, &args.source.include_path, environment);
    let code = if result.is_ok() {
        0
    } else {
        EXIT_CONFIG_INVALID
    };
    if args.json {
        let document = match &result {
            Ok(checked) => check_document(path, Some(&checked.config), &checked.notes),
            Err(findings) => check_document(path, None, findings),
        };
        print_json(out, &document)?;
        return Ok(code);
    }
    match result {
        Ok(checked) => {
            for note in &checked.notes {
                writeln!(out, "{note}")?;
            }
            writeln!(out, "{}", summary(path, &checked.config))?;
        }
        Err(findings) => print_findings(out, path, &findings)?,
    }
    Ok(code)
}

/// Runs `pelton config …`. Data goes to `out`, everything else to `err`.
pub fn run(
    command: &ConfigCommand,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<i32> {
    let (source, is_json) = match command {
        ConfigCommand::Options(args) => return options(args, out, err),
        ConfigCommand::Eval(args) | ConfigCommand::Get(args) => (&args.source, args.json),
        ConfigCommand::Show(args) => (&args.source, args.json),
    };
    let config = match read_config(&source.config, &source.include_path, environment) {
        Ok(checked) => checked.config,
        Err(findings) => {
            match is_json {
                true => print_failure(err, invalid(&findings))?,
                false => print_findings(err, &source.config, &findings)?,
            }
            return Ok(EXIT_CONFIG_INVALID);
        }
    };
    match command {
        ConfigCommand::Eval(args) => {
            let answer = config.eval(&args.option, &query(args)).map(Some);
            print_answer(args, "pelton.config.eval/1", answer, out, err)
        }
        ConfigCommand::Get(args) => {
            let answer = config.get(&args.option, &query(args));
            print_answer(args, "pelton.config.get/1", answer, out, err)
        }
        ConfigCommand::Show(args) => show(args, &config, out),
        ConfigCommand::Options(_) => unreachable!("needs no configuration and returned above"),
    }
}

fn query(args: &EvalArgs) -> Query {
    Query {
        binding: args.binding.clone(),
        domain: args.domain.clone(),
        host: args.host.clone(),
        listen: args.listen.clone(),
        peer: args.peer,
    }
}

fn print_answer(
    args: &EvalArgs,
    schema: &str,
    answer: Result<Option<Evaluated>, String>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<i32> {
    match (answer, args.json) {
        (Err(why), false) => writeln!(err, "pelton: {why}")?,
        (Err(why), true) => {
            let exit = output::EXIT_NOT_FOUND;
            print_failure(err, Failure::new(exit, "E415", why))?;
        }
        (Ok(answer), true) => {
            print_json(out, &answer_document(schema, &args.option, answer))?;
            return Ok(0);
        }
        (Ok(None), false) => {
            writeln!(out, "{} is not set in this scope", args.option)?;
            return Ok(0);
        }
        (Ok(Some(answer)), false) => {
            match &answer.value {
                Some(value) => writeln!(out, "{} = {value}", answer.option)?,
                None => writeln!(out, "{} has no value", answer.option)?,
            }
            writeln!(out, "  from {}", answer.origin)?;
            if !answer.passed_over.is_empty() {
                writeln!(out, "  not set in {}", answer.passed_over.join(", "))?;
            }
            return Ok(0);
        }
    }
    Ok(EXIT_NOT_FOUND)
}

fn answer_document(schema: &str, option: &str, answer: Option<Evaluated>) -> Value {
    let Some(answer) = answer else {
        return json!({ "schema": schema, "data": { "option": option, "set": false } });
    };
    let kind = match &answer.origin {
        Origin::Unset => "unset",
        Origin::Default => "default",
        Origin::Computed => "derived",
        Origin::Stanza { .. } => "stanza",
    };
    let (place, path) = match &answer.origin {
        Origin::Stanza { place, path } => (Some(place), Some(path)),
        Origin::Unset | Origin::Default | Origin::Computed => (None, None),
    };
    json!({
        "schema": schema,
        "data": {
            "option": answer.option,
            "set": place.is_some(),
            "value": answer.value,
            "origin": {
                "kind": kind,
                "file": place.map(|it| &it.file),
                "line": place.map(|it| it.line),
                "stanza": path,
            },
            "not_set_in": answer.passed_over,
        },
    })
}

fn show(args: &ShowArgs, config: &Config, out: &mut dyn Write) -> io::Result<i32> {
    let text = config.normalised();
    match args.json {
        false => write!(out, "{text}")?,
        true => print_json(
            out,
            &json!({
                "schema": "pelton.config.show/1",
                "data": { "digest": config.short_digest(), "text": text },
            }),
        )?,
    }
    Ok(0)
}

fn options(args: &OptionsArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<i32> {
    let filter = args.filter.as_deref().unwrap_or_default().to_lowercase();
    let is_wanted =
        |it: &&OptionSpec| it.name.contains(&filter) || it.doc.to_lowercase().contains(&filter);
    let rows: Vec<&OptionSpec> = OPTIONS.iter().filter(is_wanted).collect();
    if args.json {
        let data: Vec<Value> = rows.iter().map(|it| option_document(it)).collect();
        print_json(
            out,
            &json!({ "schema": "pelton.config.options/1", "data": data }),
        )?;
    } else if rows.is_empty() {
        writeln!(
            err,
            "pelton: no option has \"{filter}\" in its name or description"
        )?;
    } else {
        for row in &rows {
            print_option(out, row)?;
        }
    }
    Ok(if rows.is_empty() { EXIT_NOT_FOUND } else { 0 })
}

fn preset_text(row: &OptionSpec) -> &'static str {
    match row.preset {
        Preset::Unset => "none",
        Preset::Text("") => "( )",
        Preset::Text(text) | Preset::Computed(text) => text,
    }
}

fn print_option(out: &mut dyn Write, row: &OptionSpec) -> io::Result<()> {
    let unit = row
        .kind
        .unit()
        .map_or(String::new(), |it| format!(", {it}"));
    writeln!(out, "{} ({}{unit})", row.name, row.kind.type_name())?;
    writeln!(out, "  {}", row.doc)?;
    writeln!(out, "  default   {}", preset_text(row))?;
    writeln!(out, "  accepts   {}", row.kind.expectation())?;
    writeln!(out, "  scopes    {}", row.fallback().join(" > "))?;
    if !row.aliases.is_empty() {
        writeln!(out, "  aliases   {}", row.aliases.join(", "))?;
    }
    if row.restart {
        writeln!(out, "  reload    takes effect at the next start")?;
    }
    writeln!(out)
}

fn option_document(row: &OptionSpec) -> Value {
    json!({
        "name": row.name,
        "aliases": row.aliases,
        "type": row.kind.type_name(),
        "unit": row.kind.unit(),
        "default": match row.preset {
            Preset::Text(text) => Some(text),
            Preset::Unset | Preset::Computed(_) => None,
        },
        "default_derived": match row.preset {
            Preset::Computed(text) => Some(text),
            Preset::Unset | Preset::Text(_) => None,
        },
        "accepts": row.kind.expectation(),
        "scopes": row.scopes.iter().map(|it| it.words()).collect::<Vec<_>>(),
        "fallback": row.fallback(),
        "restart": row.restart,
        "doc": row.doc,
    })
}

fn print_findings(out: &mut dyn Write, path: &Path, findings: &[Diagnostic]) -> io::Result<()> {
    for finding in findings {
        writeln!(out, "{finding}")?;
    }
    let count = |severity| findings.iter().filter(|it| it.severity == severity).count();
    let errors = units::counted(count(Severity::Error) as u64, "error");
    let warnings = match count(Severity::Warning) {
        0 => String::new(),
        number => format!(" and {}", units::counted(number as u64, "warning")),
    };
    writeln!(out, "{}: {errors}{warnings}; refused", path.display())
}

/// One paragraph: what would run.
fn summary(path: &Path, config: &Config) -> String {
    let global = config.global();
    let listeners = |kind: ListenerKind| {
        let of_kind = config.listeners().iter().filter(|it| it.kind == kind);
        let addresses = of_kind
            .flat_map(|it| &it.listens)
            .map(|it| it.address.to_string());
        let addresses: Vec<String> = addresses.collect();
        if addresses.is_empty() {
            "nowhere".to_string()
        } else {
            addresses.join(", ")
        }
    };
    let sync = match global.spool_sync {
        SpoolSync::Commit => "every message synced before its 250".to_string(),
        SpoolSync::Interval(it) => format!("synced every {}", units::duration(it)),
        SpoolSync::None => "never synced".to_string(),
    };
    format!(
        "{}: valid, configuration {}. SMTP on {}; HTTP on {}. {} in {}, {}. Spool {} ({sync}), {}.",
        path.display(),
        config.short_digest(),
        listeners(ListenerKind::Smtp),
        listeners(ListenerKind::Http),
        units::counted(config.bindings().len() as u64, "binding"),
        units::counted(config.groups().len() as u64, "group"),
        units::counted(config.domain_stanzas() as u64, "domain stanza"),
        global.spoolbase,
        units::counted(config.shard_count().into(), "shard"),
    )
}

fn check_document(path: &Path, config: Option<&Config>, findings: &[Diagnostic]) -> Value {
    let of = |severity: Severity| -> Vec<Value> {
        findings
            .iter()
            .filter(|it| it.severity == severity)
            .map(finding_document)
            .collect()
    };
    json!({
        "schema": "pelton.check/1",
        "file": path.display().to_string(),
        "verdict": if config.is_some() { "valid" } else { "invalid" },
        "errors": of(Severity::Error),
        "warnings": of(Severity::Warning),
        "notes": of(Severity::Note),
        "data": config.map(config_document),
    })
}

fn config_document(config: &Config) -> Value {
    let global = config.global();
    let addresses = |kind: ListenerKind| -> Vec<String> {
        let of_kind = config.listeners().iter().filter(|it| it.kind == kind);
        of_kind
            .flat_map(|it| &it.listens)
            .map(|it| it.address.to_string())
            .collect()
    };
    let sync = match global.spool_sync {
        SpoolSync::Commit => "commit",
        SpoolSync::Interval(_) => "interval",
        SpoolSync::None => "none",
    };
    json!({
        "digest": config.short_digest(),
        "files": config.files(),
        "smtp_listens": addresses(ListenerKind::Smtp),
        "http_listens": addresses(ListenerKind::Http),
        "bindings": config.bindings().iter().map(|it| &it.name).collect::<Vec<_>>(),
        "binding_groups": config.groups().iter().map(|it| &it.name).collect::<Vec<_>>(),
        "domain_stanzas": config.domain_stanzas(),
        "spoolbase": global.spoolbase,
        "spool_sync": sync,
        "shards": config.shard_count(),
    })
}

fn finding_document(finding: &Diagnostic) -> Value {
    json!({
        "code": finding.code,
        "file": finding.place.as_ref().map(|it| &it.file),
        "line": finding.place.as_ref().map(|it| it.line),
        "column": finding.place.as_ref().map(|it| it.column),
        "message": finding.message,
        "source": finding.excerpt.as_ref().map(|it| &it.line),
        "expected": finding.expected,
        "suggestion": finding.suggestion,
    })
}

/// The errors of a configuration as one, for commands that need it whole.
fn invalid(findings: &[Diagnostic]) -> Failure {
    let errors = findings.iter().filter(|it| it.severity == Severity::Error);
    let errors: Vec<String> = errors.map(ToString::to_string).collect();
    Failure::new(output::EXIT_CONFIG, "E414", errors.join("\n"))
}

fn print_failure(err: &mut dyn Write, failure: Failure) -> io::Result<()> {
    writeln!(err, "{}", output::failure_document(&failure))
}

fn print_json(out: &mut dyn Write, document: &Value) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, document)?;
    writeln!(out)
}
