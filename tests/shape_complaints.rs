//! Complaints on the wire: told by a command, compared with what was delivered, acted upon, and
//! there after a kill.

#[allow(dead_code, reason = "made for more deaths than there are here")]
mod crash_rig;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use crash_rig::STEP_TIMEOUT;
use crash_rig::engine::Engine;
use crash_rig::free_address;
use crash_rig::wait_until;
use pelton::rig::blast::Blast;
use pelton::rig::blast::BlastConfig;
use pelton::rig::blast::mix::Mix;
use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;

const MESSAGES: u64 = 100;

/// What a command says, and whether it is content.
fn pelton(spool: &Path, words: &[&str], input: &str) -> (String, bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
    command
        .args(["adaptive"])
        .args(words)
        .arg("--spool")
        .arg(spool);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it is read");
    drop(stdin);
    let ran = child.wait_with_output().expect("it ends");
    let said = [ran.stdout, ran.stderr].concat();
    (String::from_utf8(said).expect("text"), ran.status.success())
}

fn configure(config: &Path, spool: &Path, [smtp, http, target]: [SocketAddr; 3]) {
    let text = format!(
        "Spoolbase = \"{}\"\nShards = 2\nPin_Shards = false\nSpool_Segment_Size = 4M\n\
         Min_Free_Space = 0\nstatic_routes {{ target = \"{target}\" }}\nadaptive_enabled = true\n\
         adaptive_fbl_volume_threshold = {MESSAGES}\n\
         ESMTP_Listener {{ Listen \"{smtp}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" ) }} }}\n\
         HTTP_Listener {{ Listen \"{http}\" {{ }} }}\ndefault_binding = \"a\"\n\
         binding \"a\" {{ Bind_Address = \"127.0.0.1\" }}\n",
        spool.display()
    );
    fs::write(config, text).expect("the configuration is written");
}

#[test]
fn complaints_suspend_beyond_their_rate_and_outlive_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let sink = Sink::start(SinkConfig {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        ..SinkConfig::default()
    });
    let sink = sink.expect("the sink starts");
    let (smtp, http, target) = (free_address(), free_address(), sink.addrs()[0]);
    let (spool, config) = (
        folder.path().join("spool"),
        folder.path().join("pelton.conf"),
    );
    configure(&config, &spool, [smtp, http, target]);
    let log = folder.path().join("pelton.log");
    let mut engine = Engine::start(&config, &log, http);
    engine.wait_ready(STEP_TIMEOUT).expect("it is ready");
    let blast = Blast::start(BlastConfig {
        connections: 2,
        messages: Some(MESSAGES),
        domains: Mix::new(vec![("one.example".to_string(), 1)]).expect("a domain"),
        ..BlastConfig::to(smtp)
    });
    let blast = blast.expect("the generator starts");
    assert!(blast.wait(STEP_TIMEOUT), "all mail is handed over");
    assert_eq!(blast.finish().acknowledged, MESSAGES);
    wait_until("empty queues", || engine.queued() == Some(0));
    let of = ["--binding", "a", "--domain", "one.example"];
    let wrong = "{\"binding\":\"a\",\"domain\":\"one.example\",\"count\":9}\n{\"domain\":1}\n";
    let (said, well) = pelton(&spool, &["complaints", "-"], wrong);
    assert!(
        !well && said.contains("line 2") && said.contains("nothing was counted"),
        "{said}"
    );
    let (said, well) = pelton(
        &spool,
        &["complaints", "--binding", "b", "--domain", "d", "1"],
        "",
    );
    assert!(!well && said.contains("there is no binding"), "{said}");
    let lines = "{\"binding\":\"a\",\"domain\":\"one.example\",\"category\":\"fraud\"}\n";
    let (said, well) = pelton(&spool, &["complaints", "-"], lines);
    assert!(well && said.contains("1 complaint counted"), "{said}");
    let explained = || pelton(&spool, &[&["explain"], &of[..]].concat(), "").0;
    assert!(
        explained().contains("1 fraud, of 100 messages delivered"),
        "{}",
        explained()
    );
    // One in a hundred of them is twice what the rule that is built in allows.
    let (said, well) = pelton(&spool, &[&["complaints"], &of[..], &["1"]].concat(), "");
    assert!(well, "{said}");
    assert!(explained().contains("suspension"), "{}", explained());
    wait_until("complaints that are kept", || {
        let kept = fs::read_to_string(spool.join("adaptive.ledger")).unwrap_or_default();
        kept.contains("abuse")
    });
    engine.kill();
    let engine = Engine::start(&config, &log, http);
    engine.wait_ready(STEP_TIMEOUT).expect("it is ready");
    let after = explained();
    assert!(after.contains("suspension"), "{after}");
    assert!(
        after.contains("1 fraud, 1 abuse, of 100 messages delivered"),
        "{after}"
    );
    drop(sink);
}
