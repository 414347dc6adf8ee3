//! A throttle of a long window over ends of the process, on the wire: never more than it allows,
//! whether the process was killed or asked to end.

#[allow(dead_code, reason = "made for more deaths than there are here")]
mod crash_rig;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crash_rig::STEP_TIMEOUT;
use crash_rig::engine::Engine;
use crash_rig::free_address;
use crash_rig::wait_until;
use pelton::rig::blast::Blast;
use pelton::rig::blast::BlastConfig;
use pelton::rig::blast::mix::Mix;
use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;

/// What the host's throttle allows in an hour, and how many wait.
const ALLOWED: usize = 32;
const MESSAGES: u64 = 80;

/// So many in a second, so that the ends come in between.
const PACE: usize = 5;

fn configure(config: &Path, spool: &Path, [smtp, http, target]: [SocketAddr; 3]) {
    let text = format!(
        "Spoolbase = \"{}\"\nShards = 2\nPin_Shards = false\nSpool_Segment_Size = 4M\n\
         Min_Free_Space = 0\nstatic_routes {{ target = \"{target}\" }}\n\
         Outbound_Throttle_Messages = \"{PACE}\"\n\
         host \"127.0.0.1\" {{ Outbound_Throttle_Messages = \"{ALLOWED}/3600\" }}\n\
         ESMTP_Listener {{ Listen \"{smtp}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" ) }} }}\n\
         HTTP_Listener {{ Listen \"{http}\" {{ }} }}\n",
        spool.display()
    );
    fs::write(config, text).expect("the configuration is written");
}

fn why(spool: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
    let ran = command.args(["why", "one.example", "--spool"]).arg(spool);
    String::from_utf8(ran.output().expect("it runs").stdout).expect("text")
}

#[test]
fn a_window_of_an_hour_goes_on_after_kills_and_orderly_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = folder.path().join("capture.jsonl");
    let sink = Sink::start(SinkConfig {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        capture: Some(capture.clone()),
        ..SinkConfig::default()
    });
    let sink = sink.expect("the sink starts");
    let (smtp, http, target) = (free_address(), free_address(), sink.addrs()[0]);
    let spool = folder.path().join("spool");
    let config = folder.path().join("pelton.conf");
    configure(&config, &spool, [smtp, http, target]);
    let log = folder.path().join("pelton.log");
    let arrived = || {
        let lines = fs::read_to_string(&capture).unwrap_or_default();
        lines.lines().count()
    };
    let start = || {
        let engine = Engine::start(&config, &log, http);
        engine.wait_ready(STEP_TIMEOUT).expect("it is ready");
        engine
    };
    let mut engine = start();
    let blast = Blast::start(BlastConfig {
        connections: 2,
        messages: Some(MESSAGES),
        domains: Mix::new(vec![("one.example".to_string(), 1)]).expect("a domain"),
        ..BlastConfig::to(smtp)
    });
    let blast = blast.expect("the generator starts");
    assert!(blast.wait(STEP_TIMEOUT), "all mail is handed over");
    assert_eq!(blast.finish().acknowledged, MESSAGES);
    for more in [PACE, 2 * PACE, 3 * PACE] {
        wait_until("some mail", || arrived() >= more);
        match more == 2 * PACE {
            true => engine.terminate(),
            false => engine.kill(),
        }
        engine = start();
    }
    // Kills cost what was on the wire, and what was granted ahead, a 16th of the window.
    let waits = "outbound_throttle_messages of host";
    wait_until("the throttle of the host", || {
        engine.queued().is_some() && arrived() > 4 * PACE && why(&spool).contains(waits)
    });
    assert!(arrived() <= ALLOWED, "{} have arrived", arrived());
    let before = arrived();
    engine.terminate();
    let engine = start();
    wait_until("the throttle of the host", || why(&spool).contains(waits));
    assert_eq!(arrived(), before, "an orderly end opens no window");
    drop(engine);
    drop(sink);
}
