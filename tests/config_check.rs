//! `pelton check` names the place and the expectation of every mistake, and the examples are free
//! of mistakes. `PELTON_GOLDEN=write` rewrites the expected output.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use clap::Parser;
use pelton::cli::config::CheckArgs;
use pelton::cli::config::ConfigCommand;
use pelton::cli::config::EXIT_CONFIG_INVALID;
use pelton::cli::config::EXIT_NOT_FOUND;
use pelton::cli::config::check;
use pelton::cli::config::read_config;
use pelton::cli::config::run;
use pelton::config::Environment;
use pelton::config::OPTIONS;
use pelton::config::Severity;
use serde_json::Value;

const GOLDEN: &str = "tests/golden/config";
const EXAMPLES: [&str; 3] = [
    "config/pelton.conf",
    "config/minimal.conf",
    "config/loadtest.conf",
];

#[derive(Parser)]
enum Command {
    Check(CheckArgs),
    #[command(subcommand)]
    Config(ConfigCommand),
}

fn environment() -> Environment {
    Environment {
        hostname: "mta.example".to_string(),
        cores: 4,
    }
}

/// Exit code, standard output and standard error of a command line.
fn pelton(arguments: &[&str]) -> (i32, String, String) {
    let line = std::iter::once("pelton").chain(arguments.iter().copied());
    let command = Command::try_parse_from(line).expect("a valid command line");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = match command {
        Command::Check(args) => check(&args, &environment(), &mut out),
        Command::Config(args) => run(&args, &environment(), &mut out, &mut err),
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (code.expect("memory takes it"), text(out), text(err))
}

fn broken() -> Vec<PathBuf> {
    configurations(GOLDEN)
}

fn configurations(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|it| it.expect("an entry").path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|it| it.extension().is_some_and(|it| it == "conf"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn whatever_looks_like_an_example_is_one() {
    // The rules that are built in are there to be read.
    let mut examples = EXAMPLES.map(PathBuf::from).to_vec();
    examples.push(PathBuf::from("config/adaptive.conf"));
    examples.sort();
    assert_eq!(configurations("config"), examples);
}

#[test]
fn every_broken_configuration_gives_the_expected_messages() {
    let mut actual = String::new();
    for path in broken() {
        let (code, out, _) = pelton(&["check", "--config", &path.display().to_string()]);
        assert_eq!(code, EXIT_CONFIG_INVALID, "{}", path.display());
        actual.push_str(&out);
        actual.push('\n');
    }
    let golden = Path::new(GOLDEN).join("expected.txt");
    if std::env::var("PELTON_GOLDEN").is_ok_and(|it| it == "write") {
        fs::write(&golden, &actual).expect("the golden file can be written");
    }
    let expected = fs::read_to_string(&golden).expect("the golden file");
    for (line, (found, wanted)) in actual.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, wanted, "line {} of {}", line + 1, golden.display());
    }
    assert_eq!(actual.len(), expected.len());
}

#[test]
fn every_error_names_its_place_and_what_was_expected() {
    let paths = broken();
    assert!(paths.len() >= 30);
    for path in paths {
        let findings = read_config(&path, &[], &environment()).expect_err("broken");
        let errors = findings.iter().filter(|it| it.severity == Severity::Error);
        let placed = errors.filter(|it| it.code != "E000");
        for finding in placed {
            assert!(
                finding.place.is_some() && finding.excerpt.is_some(),
                "{finding}"
            );
            assert!(
                finding.expected.as_ref().is_some_and(|it| !it.is_empty()),
                "{finding}"
            );
        }
    }
}

#[test]
fn the_examples_are_valid_without_a_warning() {
    for path in EXAMPLES {
        let (code, out, _) = pelton(&["check", "--config", path]);
        assert_eq!(code, 0, "{out}");
        assert!(!out.contains("warning"), "{out}");
        assert!(out.contains("note: N001 no DSNs are generated"), "{out}");
        assert!(
            out.contains(&format!("{path}: valid, configuration ")),
            "{out}"
        );
    }
    let (_, out, _) = pelton(&["check", "--config", EXAMPLES[2]]);
    let summary = out.lines().last().unwrap_or_default();
    let rest = summary.split_once(". ").map(|(_, rest)| rest);
    let expected = "SMTP on 127.0.0.1:2525, 127.0.0.1:2527; HTTP on 127.0.0.1:8025. 4 bindings in \
        1 group, 0 domain stanzas. Spool /tmp/pelton/spool (every message synced before its 250), \
        2 shards.";
    assert_eq!(rest, Some(expected));
}

#[test]
fn check_prints_one_json_document() {
    let (code, out, _) = pelton(&["check", "--json", "--config", EXAMPLES[2]]);
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (code, document["schema"].as_str()),
        (0, Some("pelton.check/1"))
    );
    assert_eq!(document["verdict"], "valid");
    assert_eq!(
        document["data"]["bindings"],
        serde_json::json!(["default", "a", "b", "vip"])
    );
    // The digest is the one that every command shows.
    let checked = read_config(Path::new(EXAMPLES[2]), &[], &environment()).expect("valid");
    assert_eq!(document["data"]["digest"], checked.config.short_digest());
    let (_, out, _) = pelton(&["config", "show", "--json", "--config", EXAMPLES[2]]);
    let shown: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(shown["data"]["digest"], document["data"]["digest"]);
    let first = broken().remove(0);
    let (code, out, _) = pelton(&["check", "--json", "--config", &first.display().to_string()]);
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (code, &document["data"]),
        (EXIT_CONFIG_INVALID, &Value::Null)
    );
    let error = &document["errors"][0];
    assert_eq!(
        (error["line"].as_u64(), error["column"].as_u64()),
        (Some(3), Some(1))
    );
    assert_eq!(error["suggestion"], "max_retries");
}

#[test]
fn eval_prints_the_value_and_the_stanza_it_comes_from() {
    let eval = |arguments: &[&str]| {
        let mut line = vec!["config", "eval", "--config", EXAMPLES[0]];
        line.extend(arguments);
        pelton(&line)
    };
    let (code, out, _) = eval(&["Max_Outbound_Connections", "--binding", "pool-2"]);
    assert_eq!(code, 0);
    let path = "binding_group \"pool\" :: binding \"pool-2\"";
    assert!(
        out.starts_with("max_outbound_connections = 4\n  from config/pelton.conf:"),
        "{out}"
    );
    assert!(out.contains(&format!("({path})")), "{out}");
    let (_, out, _) = eval(&["max_outbound_connections", "--host", "other.example"]);
    assert!(
        out.starts_with("max_outbound_connections = -1\n  from built-in default\n"),
        "{out}"
    );
    let (_, out, _) = eval(&[
        "max_connections_per_peer",
        "--listen",
        "0.0.0.0:25",
        "--peer",
        "10.9.8.7",
        "--json",
    ]);
    let document: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(document["data"]["value"], "1000");
    let stanza = "ESMTP_Listener :: Listen \"0.0.0.0:25\" :: Peer \"10.0.0.0/8\"";
    assert_eq!(document["data"]["origin"]["stanza"], stanza);
    let (code, out, err) = eval(&["max_outbound_conections"]);
    assert_eq!((code, out.as_str()), (EXIT_NOT_FOUND, ""));
    let (code, out, json) = eval(&["max_outbound_conections", "--json"]);
    assert_eq!((code, out.as_str()), (EXIT_NOT_FOUND, ""));
    let document: Value = serde_json::from_str(&json).expect("JSON");
    let error = &document["error"];
    assert_eq!(
        (&document["schema"], &error["code"]),
        (&"pelton.error/1".into(), &"E415".into())
    );
    let (message, exit) = (error["message"].as_str(), error["exit"].as_u64());
    assert_eq!(
        message.map(|it| format!("pelton: {it}\n")),
        Some(err.clone())
    );
    assert_eq!(exit, Some(3));
    assert!(
        err.contains("did you mean \"max_outbound_connections\"?"),
        "{err}"
    );
}

#[test]
fn get_prints_what_one_scope_sets() {
    let get = |option: &str| pelton(&["config", "get", option, "--config", EXAMPLES[0]]);
    assert_eq!(get("blackhole").1, "blackhole is not set in this scope\n");
    assert!(
        get("retry_interval")
            .1
            .starts_with("retry_interval = 1200\n")
    );
}

#[test]
fn the_reference_describes_every_option_of_the_table() {
    let (code, out, _) = pelton(&["config", "options"]);
    assert_eq!(code, 0);
    let (_, json, _) = pelton(&["config", "options", "--json"]);
    let document: Value = serde_json::from_str(&json).expect("JSON");
    let rows = document["data"].as_array().expect("a list");
    assert_eq!(rows.len(), OPTIONS.len());
    for (row, option) in rows.iter().zip(OPTIONS) {
        assert_eq!(row["name"], option.name);
        assert!(out.contains(&format!("{} ({}", option.name, option.kind.type_name())));
        assert!(out.contains(option.doc));
    }
    let (code, _, err) = pelton(&["config", "options", "zzz"]);
    assert_eq!(
        (code, err.contains("no option has")),
        (EXIT_NOT_FOUND, true)
    );
}

#[test]
fn show_prints_a_configuration_that_means_the_same() {
    let (code, out, _) = pelton(&["config", "show", "--config", EXAMPLES[0]]);
    assert_eq!(code, 0);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("again.conf");
    fs::write(&path, &out).expect("a file");
    let digest = |path: &Path| {
        read_config(path, &[], &environment())
            .expect("valid")
            .config
            .digest()
    };
    assert_eq!(digest(Path::new(EXAMPLES[0])), digest(&path));
}

#[test]
fn a_command_that_needs_a_configuration_says_what_is_wrong_with_it() {
    let first = broken().remove(0).display().to_string();
    let (code, out, err) = pelton(&["config", "eval", "shards", "--config", &first]);
    assert_eq!((code, out.as_str()), (EXIT_CONFIG_INVALID, ""));
    assert!(err.contains("error: E011"), "{err}");
    let (code, out, err) = pelton(&["config", "show", "--json", "--config", &first]);
    assert_eq!((code, out.as_str()), (EXIT_CONFIG_INVALID, ""));
    let document: Value = serde_json::from_str(&err).expect("JSON");
    assert_eq!(
        (&document["error"]["code"], &document["error"]["exit"]),
        (&"E414".into(), &2.into())
    );
    let (code, out, _) = pelton(&["check", "--config", "no/such/file.conf"]);
    assert_eq!(code, EXIT_CONFIG_INVALID);
    assert!(
        out.contains("error: E008 cannot read no/such/file.conf: no such file"),
        "{out}"
    );
}

#[test]
fn includes_are_found_beside_the_file_and_along_the_search_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    write(
        "etc/main.conf",
        "include \"d\" include \"near.conf\" include \"file://far.conf\"\n\
         ESMTP_Listener { Listen \"127.0.0.1:25\" { } }\n",
    );
    write("etc/d/20-b", "retry_interval = 20\n");
    write(
        "etc/d/10-a",
        "retry_interval = 10 max_retry_interval = 999\n",
    );
    write("etc/d/.hidden", "this is not read\n");
    write("etc/d/sub/30-c", "nor is this\n");
    write("etc/near.conf", "message_expiration = 30\n");
    write("path/near.conf", "message_expiration = 40\n");
    write("path/far.conf", "idle_timeout = 50\n");
    let main = folder.path().join("etc/main.conf");
    let search = [folder.path().join("path")];
    let config = read_config(&main, &search, &environment())
        .expect("valid")
        .config;
    let delivery = config.delivery(config.bindings()[0].index, "a.example");
    let seconds = [
        delivery.retry_interval,
        delivery.message_expiration,
        delivery.idle_timeout,
    ];
    assert_eq!(seconds.map(|it| it.as_secs()), [20, 30, 50]);
    assert_eq!(delivery.max_retry_interval.as_secs(), 999);
    let findings = read_config(&main, &[], &environment()).expect_err("far.conf is not found");
    assert!(
        findings[0].message.contains("no such file or directory"),
        "{}",
        findings[0]
    );
}

#[test]
fn a_file_that_is_not_utf_8_is_refused_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("latin1.conf");
    fs::write(&path, b"# one\n# f\xfcr\n").expect("a file");
    let findings = read_config(&path, &[], &environment()).expect_err("not UTF-8");
    assert!(
        findings[0].message.ends_with("line 2 is not UTF-8"),
        "{}",
        findings[0]
    );
    let findings = read_config(folder.path(), &[], &environment()).expect_err("a directory");
    assert!(
        findings[0].message.ends_with("it is a directory"),
        "{}",
        findings[0]
    );
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let lines: [&[&str]; 4] = [
        &["config", "options"],
        &["config", "options", "--json"],
        &["check", "--config", EXAMPLES[0]],
        &["simulate", "--seed", "1", "--trace"],
    ];
    for line in lines {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pelton"));
        let ran = command.args(line).stdout(writer).output().expect("it runs");
        let err = String::from_utf8_lossy(&ran.stderr);
        assert_eq!((ran.status.code(), err.as_ref()), (Some(0), ""), "{line:?}");
    }
}
