//! Warm-up on the wire: the allowance of a day, what goes to warm members instead, and that a kill
//! gives no second allowance. The schedule allows so little that no day is ever good enough for
//! the next stage, so that a midnight in between changes nothing.

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
use pelton::rig::sink::capture::Record;

/// What the new binding may send in a day.
const ALLOWED: usize = 20;
const MESSAGES: u64 = 60;

/// Says what the command has printed.
fn run(args: &[&str], spool: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
    let ran = command.args(args).arg("--spool").arg(spool);
    String::from_utf8(ran.output().expect("it runs").stdout).expect("text")
}

struct Run {
    folder: tempfile::TempDir,
    sink: Sink,
    smtp: SocketAddr,
    http: SocketAddr,
}

impl Run {
    fn new(senders: &str) -> Run {
        let folder = tempfile::tempdir().expect("a folder");
        let sink = Sink::start(SinkConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            capture: Some(folder.path().join("capture.jsonl")),
            ..SinkConfig::default()
        });
        let sink = sink.expect("the sink starts");
        let (smtp, http) = (free_address(), free_address());
        let text = format!(
            "Spoolbase = \"{}\"\nShards = 2\nPin_Shards = false\nSpool_Segment_Size = 4M\n\
             Min_Free_Space = 0\nstatic_routes {{ target = \"{}\" }}\n\
             ESMTP_Listener {{ Listen \"{smtp}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" ) }} }}\n\
             HTTP_Listener {{ Listen \"{http}\" {{ }} }}\n{senders}\n",
            folder.path().join("spool").display(),
            sink.addrs()[0],
        );
        fs::write(folder.path().join("pelton.conf"), text).expect("it is written");
        Run {
            folder,
            sink,
            smtp,
            http,
        }
    }

    fn spool(&self) -> std::path::PathBuf {
        self.folder.path().join("spool")
    }

    fn start(&self) -> Engine {
        let config = self.folder.path().join("pelton.conf");
        let log = self.folder.path().join("pelton.log");
        let engine = Engine::start(&config, &log, self.http);
        engine.wait_ready(STEP_TIMEOUT).expect("it is ready");
        engine
    }

    fn send(&self) {
        let domains = ["one.example", "two.example", "three.example"];
        let domains = domains.map(|it| (it.to_string(), 1)).to_vec();
        let blast = Blast::start(BlastConfig {
            connections: 2,
            messages: Some(MESSAGES),
            domains: Mix::new(domains).expect("some domains"),
            ..BlastConfig::to(self.smtp)
        });
        let blast = blast.expect("the generator starts");
        assert!(blast.wait(STEP_TIMEOUT), "all mail is handed over");
        assert_eq!(blast.finish().acknowledged, MESSAGES);
    }

    /// How many have come from an address.
    fn arrived(&self, from: &str) -> usize {
        let capture = self.folder.path().join("capture.jsonl");
        let lines = fs::read_to_string(&capture).unwrap_or_default();
        let records = lines.lines();
        let records = records.filter_map(|it| serde_json::from_str::<Record>(it).ok());
        let of_it = records.filter(|it| it.peer.ip().to_string() == from);
        of_it.count()
    }
}

#[test]
fn a_kill_brings_no_second_allowance_and_an_operator_ends_it() {
    let run_of = Run::new(&format!(
        "default_binding = \"new\"\nbinding \"new\" {{ Bind_Address = \"127.0.0.2\"\n\
         Warmup_Start = \"2999-01-01\" Warmup_Schedule = ( {ALLOWED} 1000 ) }}"
    ));
    let mut engine = run_of.start();
    run_of.send();
    let is_used_up = || {
        let waits = ["one.example", "two.example", "three.example"];
        let waits = waits.map(|it| run(&["why", it], &run_of.spool()).contains("warmed up:"));
        run_of.arrived("127.0.0.2") > 0 && waits.iter().all(|it| *it)
    };
    wait_until("the allowance to be used up", is_used_up);
    assert_eq!(run_of.arrived("127.0.0.2"), ALLOWED);
    let shown = run(&["adaptive", "warmup"], &run_of.spool());
    assert!(
        shown.contains("1 of 2") && shown.contains(" 20 "),
        "{shown}"
    );
    let delayed = engine.metric("pelton_messages_delayed_total");
    assert_eq!(delayed, Some(0.0), "it uses up no attempt");
    engine.kill();
    engine = run_of.start();
    wait_until("the causes", is_used_up);
    assert_eq!(run_of.arrived("127.0.0.2"), ALLOWED);
    let done = run(
        &["adaptive", "warmup", "new", "--stage", "2"],
        &run_of.spool(),
    );
    assert!(done.contains("done"), "{done}");
    wait_until("the rest", || {
        run_of.arrived("127.0.0.2") == MESSAGES as usize
    });
    let changes = run(&["changes"], &run_of.spool());
    assert!(changes.contains("warm-up at stage 2"), "{changes}");
    let ledger = run_of.spool().join("adaptive.ledger");
    wait_until("the stage on disk", || {
        let lines = fs::read_to_string(&ledger).unwrap_or_default();
        lines.contains("\"stage\":1")
    });
    engine.kill();
    engine = run_of.start();
    let shown = run(&["adaptive", "warmup"], &run_of.spool());
    assert!(shown.contains("2 of 2"), "{shown}");
    drop(engine);
    drop(run_of.sink);
}

#[test]
fn mail_of_a_group_goes_to_a_warm_member_once_the_new_one_has_enough() {
    let run_of = Run::new(&format!(
        "default_binding_group = \"pool\"\nbinding_group \"pool\" {{\n\
         binding \"known\" {{ Bind_Address = \"127.0.0.3\" }}\n\
         binding \"new\" {{ Bind_Address = \"127.0.0.2\" Weight = 1000\n\
         Warmup_Start = \"2999-01-01\" Warmup_Schedule = ( {ALLOWED} 1000 ) }} }}"
    ));
    let mut engine = run_of.start();
    run_of.send();
    let sent = || [run_of.arrived("127.0.0.2"), run_of.arrived("127.0.0.3")];
    // A few may be drawn by one shard before another has told that there are enough.
    let most = MESSAGES as usize - 8;
    wait_until("the mail", || sent().iter().sum::<usize>() >= most);
    let [new, known] = sent();
    assert!(new <= ALLOWED && known >= most - ALLOWED, "{new} {known}");
    assert!(new > ALLOWED / 2, "the new one has sent {new}");
    engine.terminate();
    drop(run_of.sink);
}
