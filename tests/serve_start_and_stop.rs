//! What `pelton serve` says and leaves behind: at a start that fails, at a reload that takes a
//! binding away, and at its end.

#![allow(clippy::disallowed_methods)] // Real processes are waited for by the clock.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;
use pelton::rig::sink::behaviour::Behaviours;
use tempfile::TempDir;

/// Nothing here takes a tenth of this; it only keeps a fault from hanging the tests.
const DEADLINE: Duration = Duration::from_secs(60);

/// The folder of a test: a configuration, a spool, and an address that was free a moment ago.
struct Place {
    folder: TempDir,
    address: String,
    /// Where all mail goes.
    receiver: String,
}

fn free_address() -> String {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    free.local_addr().expect("it is bound").to_string()
}

impl Place {
    fn new() -> Place {
        Place {
            folder: TempDir::new().expect("a folder"),
            address: free_address(),
            receiver: free_address(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, spool: &Path, more: &str) {
        let text = format!(
            "Spoolbase = \"{}\"\nShards = 1\nPin_Shards = false\nSpool_Segment_Size = 4M\n\
             Min_Free_Space = 1M\n\
             static_routes {{ target = \"{}\" }}\n\
             ESMTP_Listener {{ Listen \"{}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" ) }} }}\n{more}\n",
            spool.display(),
            self.receiver,
            self.address
        );
        fs::write(self.path("p.conf"), text).expect("a file");
    }

    /// Runs a command that is about this configuration.
    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
        let config = self.path("p.conf");
        command.args(words).arg("--config").arg(config);
        command.output().expect("it runs")
    }

    fn says(&self, words: &[&str]) -> String {
        text(&self.run(words).stdout)
    }

    fn serve(&self) -> Engine {
        self.serve_for(None)
    }

    /// With a supervisor that listens on this socket.
    fn serve_for(&self, supervisor: Option<&Path>) -> Engine {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
        command
            .arg("serve")
            .arg("--config")
            .arg(self.path("p.conf"))
            .env_remove("NOTIFY_SOCKET");
        command.envs(supervisor.map(|path| ("NOTIFY_SOCKET", path)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("a line");
        if !line.starts_with("ready ") {
            let _ = child.kill();
            panic!(
                "not ready: {line:?} {}",
                text(&child.wait_with_output().unwrap().stderr)
            );
        }
        assert!(line.ends_with("with 1 shard\n"), "{line}");
        Engine { child }
    }

    /// One message to u@d.example, as far as the 250.
    fn send(&self) {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("a time limit");
        let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
        let mut writer = stream;
        for (line, code) in [
            ("", "220"),
            ("HELO me.example\r\n", "250"),
            ("MAIL FROM:<me@me.example>\r\n", "250"),
            ("RCPT TO:<u@d.example>\r\n", "250"),
            ("DATA\r\n", "354"),
            ("Subject: x\r\n\r\nx\r\n.\r\n", "250"),
            ("QUIT\r\n", "221"),
        ] {
            writer.write_all(line.as_bytes()).expect("it takes it");
            let mut reply = String::new();
            reader.read_line(&mut reply).expect("a reply");
            assert!(reply.starts_with(code), "{line} {reply}");
        }
    }

    /// Asks until the answer has it.
    fn wait_for(&self, words: &[&str], wanted: &str) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            let said = self.says(words);
            if said.contains(wanted) {
                return said;
            }
            assert!(Instant::now() < until, "{words:?}: no {wanted:?} in {said}");
            std::thread::yield_now();
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct Engine {
    child: Child,
}

impl Engine {
    fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        // SAFETY: the call takes numbers; the child has not been waited for, so the pid is its own.
        unsafe { libc::kill(pid, signal) };
    }

    /// Stops it; what it logged.
    fn stop(mut self) -> String {
        self.signal(libc::SIGTERM);
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().expect("a pipe");
        stderr.read_to_string(&mut log).expect("UTF-8");
        assert_eq!(self.child.wait().expect("it ends").code(), Some(0), "{log}");
        log
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let place = Place::new();
    let spool = place.path("deep/spool");
    place.configure(&spool, "");
    let taken = TcpListener::bind(&place.address).expect("it is free");
    let ran = place.run(&["serve"]);
    let err = text(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{err}");
    assert!(
        err.contains("E109") && !place.path("deep").exists(),
        "{err}"
    );
    drop(taken);
}

#[test]
fn a_supervisor_hears_of_the_start_of_reloads_and_of_the_end() {
    let place = Place::new();
    place.configure(&place.path("spool"), "");
    let path = place.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let heard = || {
        let mut bytes = [0; 500];
        let count = socket.recv(&mut bytes).expect("word of it");
        text(&bytes[..count])
    };
    let engine = place.serve_for(Some(&path));
    let ready = format!("READY=1\nSTATUS=takes mail on {}", place.address);
    assert_eq!(heard(), ready);
    engine.signal(libc::SIGHUP);
    let reloading = heard();
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let since = since.and_then(|it| it.parse::<u64>().ok());
    assert!(since.is_some_and(|it| it > 0), "{reloading:?}");
    assert_eq!(heard(), ready);
    engine.stop();
    let end = heard();
    assert!(end.starts_with("STOPPING=1\nSTATUS=stopping: "), "{end:?}");
    // One that is not there holds nothing up, and is told of.
    let log = place.serve_for(Some(&place.path("nobody"))).stop();
    assert!(log.contains("WARN NOTIFY_SOCKET "), "{log}");
}

#[test]
fn a_start_says_where_everything_is_and_what_became_of_the_last_run() {
    let place = Place::new();
    let spool = place.path("spool");
    let http = free_address();
    let listens = format!("HTTP_Listener {{ Listen \"{http}\" {{ }} }}");
    place.configure(&spool, &listens);
    let log = place.serve().stop();
    let line = log.lines().find(|it| it.contains(" info started: "));
    let line = line.unwrap_or_default();
    let base = spool.display();
    for told in [
        format!("config {} (", place.path("p.conf").display()),
        format!(
            ", spool {base}, event log {base}/events, SMTP on {}",
            place.address
        ),
        format!(", HTTP on {http}, commands over {base}/pelton.sock, 1 shard"),
    ] {
        assert!(line.contains(&told), "{told}: {log}");
    }
    let kinds = || {
        let out = place.says(&["changes", "--jsonl"]);
        let kind = |line: &str| {
            let change: serde_json::Value = serde_json::from_str(line).expect("an object");
            change["kind"].as_str().expect("a kind").to_owned()
        };
        out.lines().map(kind).collect::<Vec<_>>()
    };
    // A run that was told to end has left nothing to tell.
    let mut engine = place.serve();
    assert_eq!(kinds(), ["start", "stop", "start"]);
    engine.child.kill().expect("it runs");
    engine.child.wait().expect("it ends");
    let engine = place.serve();
    assert_eq!(kinds(), ["start", "stop", "start", "crash", "start"]);
    let told = "the last run ended without notice: it was killed, crashed or lost power";
    let changes = place.says(&["changes"]);
    assert!(changes.contains(told), "{changes}");
    engine.stop();
}

#[test]
fn check_and_serve_say_the_same_of_what_this_machine_cannot_do() {
    let place = Place::new();
    fs::write(place.path("file"), "").expect("a file");
    let cases = [
        (
            place.path("file"),
            "",
            "E110 Spoolbase FOLDER/file is a file",
        ),
        (
            place.path("file/a/b"),
            "",
            "E110 Spoolbase FOLDER/file/a/b cannot be made: FOLDER/file is a file",
        ),
        (
            place.path("spool"),
            "Journal = \"/no/such/folder/j\"",
            "E110 Journal /no/such/folder/j: there is no folder /no/such/folder",
        ),
    ];
    for (spool, more, sentence) in cases {
        place.configure(&spool, more);
        let sentence = sentence.replace("FOLDER", &place.folder.path().display().to_string());
        let (checked, served) = (place.run(&["check"]), place.run(&["serve"]));
        assert!(
            text(&checked.stdout).contains(&sentence),
            "{}",
            text(&checked.stdout)
        );
        assert!(
            text(&served.stderr).contains(&sentence),
            "{}",
            text(&served.stderr)
        );
        assert_eq!(
            (checked.status.code(), served.status.code()),
            (Some(2), Some(78))
        );
        assert!(!place.path("spool").exists());
    }
    // More is kept free than any disk has: valid, and of no use.
    place.configure(&place.path("spool"), "min_free_space = 1024T");
    let checked = place.run(&["check"]);
    let out = text(&checked.stdout);
    assert_eq!(checked.status.code(), Some(0), "{out}");
    assert!(
        out.contains("warning: W102 the disk of ") && out.contains("take 8.0 MiB"),
        "{out}"
    );
    let log = place.serve().stop();
    assert!(
        log.contains("WARN ") && log.contains("warning: W102 the disk of "),
        "{log}"
    );
}

#[test]
fn mail_of_a_binding_that_a_reload_takes_away_is_told_until_it_is_gone() {
    let defers = "domain d.example reply=\"451 4.3.2 come back later\"";
    let sink = Sink::start(SinkConfig {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        behaviours: Behaviours::parse(defers).expect("good rules"),
        ..SinkConfig::default()
    });
    let sink = sink.expect("it listens");
    let place = Place {
        receiver: sink.addrs()[0].to_string(),
        ..Place::new()
    };
    let spool = place.path("spool");
    let binding = "default_binding = \"b\"\nbinding \"b\" { }\nretry_interval = 1h";
    place.configure(&spool, binding);
    let engine = place.serve();
    place.send();
    place.wait_for(&["queue", "list"], "1 message in 1 queue\n");
    place.wait_for(
        &["why", "d.example"],
        "They said \"451 4.3.2 come back later\"",
    );
    place.configure(&spool, "retry_interval = 1h");
    let told = "1 message waits for a binding that the configuration does not name (\"b\"): it \
                goes out as binding \"default\" does";
    let reloaded = place.says(&["reload"]);
    assert!(reloaded.contains(&format!("\nWARN {told}")), "{reloaded}");
    let status = place.says(&["status"]);
    assert!(status.contains(&format!("\nWARN {told}")), "{status}");
    let next = format!(
        "queue list --where binding=b --config {}",
        place.path("p.conf").display()
    );
    assert!(status.contains(&next), "{status}");
    let changes = place.says(&["changes"]);
    assert!(changes.contains(told), "{changes}");
    let log = engine.stop();
    assert!(log.contains(&format!("WARN {told}")), "{log}");
    let last = log.lines().last().unwrap_or_default();
    let end = "; 1 message is left in the queues, safe in the spool";
    assert!(
        last.contains(" info stopped: drained in ") && last.ends_with(end),
        "{log}"
    );
    // What was said before the restart is gone, not that something was.
    let engine = place.serve();
    let why = place.says(&["why", "d.example"]);
    assert!(
        why.contains("Tried     no attempt since the restart; 1 attempt before"),
        "{why}"
    );
    let log = engine.stop();
    assert!(log.contains(&format!("WARN {told}")), "{log}");
}
