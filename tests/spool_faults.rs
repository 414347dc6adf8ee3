//! Faults of the spool on purpose, in the real program on a real disk: one that fails to read a
//! message costs time and no mail, a slow one holds up only who waits for it, and a variable that
//! makes no sense is refused. `bench/faults` goes through all of them.

#![expect(
    clippy::disallowed_methods,
    reason = "what is outside of the engine has a clock"
)]

use std::fs::{self, File};
use std::io::BufReader;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pelton::rig::blast::mix::Mix;
use pelton::rig::blast::stats::Report;
use pelton::rig::blast::verify::{self, Verification};
use pelton::rig::blast::{Blast, BlastConfig};
use pelton::rig::sink::{Sink, SinkConfig};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const MESSAGES: u64 = 30;

/// An engine that is killed when the test is over.
struct Engine(Child);

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(config: &Path, faults: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
    let log = config.with_file_name("log");
    command
        .args(["serve", "--config"])
        .arg(config)
        .env("PELTON_SPOOL_FAULTS", faults)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(log).expect("a log file"));
    command.spawn().expect("the engine starts")
}

fn free_address() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind((Ipv4Addr::new(127, 78, high, low), 0));
    listener
        .and_then(|it| it.local_addr())
        .expect("a free address")
}

/// Sends mail through an engine with these faults until all that it has acknowledged has arrived.
fn deliver(faults: &str) -> (Report, Verification, String) {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let sink = Sink::start(SinkConfig {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        capture: Some(path("capture")),
        ..SinkConfig::default()
    })
    .expect("the sink starts");
    let (smtp, to) = (free_address(), sink.addrs()[0]);
    let text = format!(
        "Spoolbase = \"{}\"\nShards = 2\nPin_Shards = false\nSpool_Segment_Size = 4M\n\
         Min_Free_Space = 0\nMax_Resident_Messages = 0\nRetry_Interval = 1\n\
         static_routes {{ target = \"{to}\" }}\n\
         ESMTP_Listener {{ Listen \"{smtp}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" ) }} }}\n",
        path("spool").display(),
    );
    fs::write(path("pelton.conf"), text).expect("the configuration is written");
    let engine = Engine(serve(&path("pelton.conf"), faults));
    let blast = Blast::start(BlastConfig {
        connections: 10,
        messages: Some(MESSAGES),
        domains: Mix::numbered_domains(5).expect("some domains"),
        reconnect: true,
        acked: Some(path("acked")),
        ..BlastConfig::to(smtp)
    })
    .expect("the generator starts");
    assert!(blast.wait(PATIENCE), "the generator does not end");
    let report = blast.finish();
    let read = |name| BufReader::new(File::open(path(name)).expect("the file is there"));
    let began = Instant::now();
    let seen = loop {
        let seen = verify::verify(read("acked"), read("capture")).expect("both are whole");
        if seen.lost == 0 || began.elapsed() > PATIENCE {
            break seen;
        }
        std::thread::sleep(POLL);
    };
    drop(engine);
    let log = fs::read_to_string(path("log")).expect("the log is text");
    (report, seen, log)
}

#[test]
fn a_message_that_cannot_be_read_is_tried_again_and_does_not_bounce() {
    let (report, seen, log) = deliver("fail=read:1-3:EIO");
    assert_eq!(report.acknowledged, MESSAGES);
    assert!(log.contains("E205"), "no read has failed: {log}");
    assert!(seen.is_clean(0), "{seen:?}\n{log}");
}

#[test]
fn a_slow_sync_of_one_shard_costs_nothing_but_time() {
    let (report, seen, log) = deliver("sync-delay=300ms@0");
    assert_eq!((report.acknowledged, report.timeouts), (MESSAGES, 0));
    assert!(log.contains("on purpose"), "nobody was told: {log}");
    assert!(seen.is_clean(0), "{seen:?}\n{log}");
}

#[test]
fn a_variable_that_makes_no_sense_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let config = folder.path().join("pelton.conf");
    let text = format!(
        "Spoolbase = \"{}\"\n",
        folder.path().join("spool").display()
    );
    fs::write(&config, text).expect("the configuration is written");
    let status = serve(&config, "fail=everything").wait();
    assert_eq!(status.expect("it ends").code(), Some(78));
    let log = fs::read_to_string(folder.path().join("log")).expect("the log is text");
    assert!(log.contains("`fail=everything` makes no sense"), "{log}");
}
