//! What adaptive delivery is to reach against receivers that tell nobody their limits, on scenarios
//! that come with Pelton: nearly all of what was possible, hardly anything too much.

use std::process::Command;

/// Runs a scenario with the adaptive configuration; every goal of it has to be reached.
fn reaches_its_goals(scenario: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
    let config = "config/scenarios/adaptive.conf";
    let ran = command
        .args(["practice", scenario, "--config", config])
        .output();
    let ran = ran.expect("it runs");
    let out = String::from_utf8_lossy(&ran.stdout);
    assert_eq!(ran.status.code(), Some(0), "{scenario}\n{out}");
    assert!(out.contains("ok    share of the hidden capacity"), "{out}");
}

#[test]
fn a_limit_that_is_halved_and_lifted_is_found() {
    reaches_its_goals("halved-and-lifted");
}

#[test]
fn a_blocked_address_loses_no_mail_and_spends_no_retries() {
    reaches_its_goals("blocked-address");
}
