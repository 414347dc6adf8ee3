//! Whole engines against an internet to practise on: the same file and seed give the same result,
//! byte for byte, the table says what has been, and the scenarios that come with Pelton are good.

use std::fs;
use std::process::Command;

use pelton::cli::practice::SCENARIOS;
use pelton::cli::practice::scenario;
use pelton::practice::load::Mix;

/// A receiver that takes one message a second at most and halves that for a while, one that keeps
/// an address out, and one that nobody has trouble with.
const SMALL: &str = "\
duration = \"30m\"  seed = 5
load { messages_per_hour = 2400  until = \"25m\" }
binding \"a\" { address = 127.0.1.1 }
binding \"b\" { address = 127.0.1.2 }
provider \"tight\" {
  share = 2  words = microsoft  connections = 2  rate = \"10/20\"
  at \"10m\" { rate = \"5/20\" }
  at \"20m\" { rate = 0 }
}
provider \"strict\" { words = yahoo  block { binding = \"a\"  from = \"5m\"  to = \"15m\" } }
provider \"easy\" { domains = 30  greylist = \"2m\"  mailboxes = 3 }
goals { settles = \"5m\" }
";

const SENDER: &str = "Max_Outbound_Connections = 1\nRetry_Interval = 60\n";

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn practice(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
    let ran = command.arg("practice").args(arguments).output();
    let ran = ran.expect("it runs");
    Ran {
        code: ran.status.code(),
        out: String::from_utf8(ran.stdout).expect("text"),
        err: String::from_utf8(ran.stderr).expect("text"),
    }
}

/// Writes both files into a folder; gives their paths.
fn files(folder: &tempfile::TempDir) -> (String, String) {
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    (path("small.scenario", SMALL), path("sender.conf", SENDER))
}

#[test]
fn a_small_scenario_gives_the_same_table_every_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let (scenario, sender) = files(&folder);
    let golden = "tests/golden/practice/small.txt";
    let ran = practice(&[&scenario, "--config", &sender]);
    assert_eq!(ran.err, "");
    if std::env::var("PELTON_GOLDEN").is_ok_and(|it| it == "write") {
        fs::write(golden, &ran.out).expect("a golden file");
    }
    let expected = fs::read_to_string(golden).expect("a golden file");
    assert_eq!(
        ran.out, expected,
        "PELTON_GOLDEN=write writes {golden} again"
    );
    // Not every goal is reached by a sender that does not learn.
    assert_eq!(ran.code, Some(1));
}

#[test]
fn the_document_holds_every_number_and_depends_on_nothing_but_file_seed_and_shards() {
    let folder = tempfile::tempdir().expect("a folder");
    let (scenario, sender) = files(&folder);
    let run = |more: &[&str]| {
        let first = [scenario.as_str(), "--json", "--config", sender.as_str()];
        let ran = practice(&[&first[..], more].concat());
        let document: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
        assert_eq!(document["schema"], "pelton.practice/1");
        document["data"]["runs"].clone()
    };
    let once = run(&[]);
    assert_eq!(once, run(&[]));
    assert_ne!(once, run(&["--seed", "6"]));
    let report = &once[0];
    assert_eq!(report["configuration"], "sender");
    let number = |row: &serde_json::Value, key: &str| row[key].as_u64().expect(key);
    let total = &report["total"];
    assert_eq!(number(report, "messages"), 1_000);
    let ended = number(total, "delivered") + number(total, "lost") + number(total, "waiting");
    assert_eq!(ended, 1_000);
    assert_eq!(number(report, "duplicates"), 0);
    let strict = &report["providers"][1];
    assert_eq!(number(strict, "blocked_seconds"), 600);
    assert!(number(strict, "blocked_refusals") > 0);
    let easy = &report["providers"][2];
    assert!(number(easy, "greylisted") > 0);
    assert_eq!(number(easy, "over_sending"), 0);
    assert_eq!(report["changes"][0]["kind"], "lowered");
    assert_eq!(report["changes"][1]["kind"], "raised");
}

#[test]
fn configurations_are_compared_side_by_side() {
    let folder = tempfile::tempdir().expect("a folder");
    let (scenario, sender) = files(&folder);
    let ran = practice(&[&scenario, "--compare", "--config", &sender]);
    // That of the user is judged, wherever it stands in the table.
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""));
    let names: Vec<&str> = ran
        .out
        .lines()
        .filter_map(|it| it.split(' ').next())
        .collect();
    assert_eq!(names.first(), Some(&"CONFIGURATION"));
    assert_eq!(names[1..], ["fixed", "snap-back", "adaptive", "sender"]);
    let ran = practice(&[&scenario, "--compare"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

#[test]
fn addresses_that_the_scenario_does_not_name_are_no_share_beyond_the_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let (scenario, sender) = files(&folder);
    let text = "duration = \"20m\"  load { messages_per_hour = 6000 }\n\
        binding \"a\" { address = 127.0.1.1 }\n\
        provider \"p\" { rate = \"50/60\" }\n";
    fs::write(&scenario, text).expect("a file");
    let two = "default_binding_group = \"g\"\nbinding_group \"g\" {\n\
        binding \"a\" { Bind_Address = \"127.0.1.1\" }\n\
        binding \"b\" { Bind_Address = \"127.0.1.2\" }\n}\n\
        outbound_throttle_messages = \"49/60\"\n";
    fs::write(&sender, two).expect("a file");
    let ran = practice(&[&scenario, "--json", "--config", &sender]);
    let document: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let total = &document["data"]["runs"][0]["total"];
    let number = |key: &str| total[key].as_u64().expect(key);
    // One address could have had a thousand and a little.
    assert!(number("capacity") > 1_200, "{total}");
    assert!(number("delivered") <= number("capacity"), "{total}");
    assert!(
        number("settled_delivered") <= number("settled_capacity"),
        "{total}"
    );
    assert!(
        number("settled_over_sending") <= number("over_sending"),
        "{total}"
    );
}

#[test]
fn mistakes_are_told_with_their_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let (scenario, sender) = files(&folder);
    fs::write(&sender, "Max_Outbound_Conections = 1\n").expect("a file");
    let ran = practice(&[&scenario, "--config", &sender]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    let place = format!("{sender}:1:1: error: ");
    assert!(ran.err.contains(&place), "{}", ran.err);
    assert!(!ran.err.contains("W010"), "{}", ran.err);
    fs::write(&scenario, SMALL.replace("rate = 0", "rate = none")).expect("a file");
    let ran = practice(&[&scenario]);
    assert_eq!(ran.code, Some(2));
    let place = format!("{scenario}:8:21: error: ");
    assert!(ran.err.contains(&place), "{}", ran.err);
    let ran = practice(&["no-such-scenario"]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.err.contains("pelton practice list"), "{}", ran.err);
}

#[test]
fn the_scenarios_that_come_with_pelton_are_good() {
    let listed = practice(&["list"]).out;
    for (name, text) in SCENARIOS {
        let read = scenario(name).expect(name);
        assert!(Mix::new(&read, 1).letter().is_some(), "{name} has mail");
        assert!(text.starts_with("# "), "{name} says what it is");
        assert!(listed.contains(name), "{name}");
    }
    let many = scenario("many-domains").expect("a scenario");
    let domains: usize = many.providers.iter().map(|it| it.domains.len()).sum();
    assert!(domains >= 2_000 && many.providers.len() >= 20);
}
