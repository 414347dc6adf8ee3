//! The demo, as a newcomer runs it: it ends by itself, and its books agree.

use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::thread;

/// The last line of a run in which all is well.
const VERDICT: &str = "every accepted message reached exactly one outcome";

/// Runs the demo with its folder below `place`. It has a deadline of its own.
fn demo(place: &tempfile::TempDir, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pelton"))
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", place.path())
        .output()
        .expect("the demo runs")
}

fn assert_well(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert_eq!(text.lines().last(), Some(VERDICT), "{text}\n{errors}");
}

fn left_behind(place: &tempfile::TempDir) -> Vec<PathBuf> {
    let entries = place.path().read_dir().expect("the folder is readable");
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

#[test]
fn two_demos_side_by_side_give_every_message_one_outcome_and_leave_nothing_behind() {
    let place = tempfile::tempdir().expect("a folder");
    thread::scope(|scope| {
        let second = scope.spawn(|| demo(&place, &["--messages", "300"]));
        assert_well(&demo(&place, &["--messages", "300", "--rate", "0"]));
        assert_well(&second.join().expect("the second demo ran"));
    });
    assert_eq!(left_behind(&place), Vec::<PathBuf>::new());
}

#[test]
fn a_kept_demo_can_be_looked_at_afterwards() {
    let place = tempfile::tempdir().expect("a folder");
    let output = demo(&place, &["--messages", "300", "--keep"]);
    assert_well(&output);
    let kept = left_behind(&place);
    assert_eq!(kept.len(), 1, "{kept:?}");
    let config = kept[0].join("pelton.conf");
    let check = Command::new(env!("CARGO_BIN_EXE_pelton"))
        .args(["check", "--config"])
        .arg(config)
        .output()
        .expect("pelton check runs");
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn numbers_that_cannot_be_meant_are_refused() {
    for number in ["0", "1000001", "many"] {
        let place = tempfile::tempdir().expect("a folder");
        let output = demo(&place, &["--messages", number]);
        assert_eq!(output.status.code(), Some(2), "{number}");
    }
}
