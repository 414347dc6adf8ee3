//! An engine on the wire whose queues an operator acts on, and a host that takes its mail, or
//! defers that of `late.example`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::crash_rig::STEP_TIMEOUT;
use crate::crash_rig::engine::Engine;
use crate::crash_rig::free_address;
use pelton::rig::blast::Blast;
use pelton::rig::blast::BlastConfig;
use pelton::rig::blast::mix::Mix;
use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;
use pelton::rig::sink::behaviour::Behaviours;
use pelton::rig::sink::capture::Record;
use serde_json::Value;

pub struct World {
    pub folder: tempfile::TempDir,
    pub engine: Engine,
    pub smtp: SocketAddr,
    pub http: SocketAddr,
    _sink: Sink,
}

impl World {
    pub fn new(options: &str) -> World {
        let folder = tempfile::tempdir().expect("a folder for the run");
        let moods = "domain late.example reply=\"451 4.3.2 come back later\"";
        let sink = Sink::start(SinkConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            capture: Some(folder.path().join("capture.jsonl")),
            behaviours: Behaviours::parse(moods).expect("a mood"),
            ..SinkConfig::default()
        })
        .expect("the sink starts");
        let (smtp, http, target) = (free_address(), free_address(), sink.addrs()[0]);
        let text = format!(
            "Spoolbase = \"{}\"\nShards = 2\nPin_Shards = false\nSpool_Segment_Size = 4M\n\
             Min_Free_Space = 0\nstatic_routes {{ target = \"{target}\" }}\n\
             ESMTP_Listener {{ Listen \"{smtp}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" ) }} }}\n\
             HTTP_Listener {{ Listen \"{http}\" {{ }} }}\n{options}\n",
            folder.path().join("spool").display()
        );
        fs::write(folder.path().join("pelton.conf"), text).expect("the configuration is written");
        let engine = start(&folder, http);
        World {
            folder,
            engine,
            smtp,
            http,
            _sink: sink,
        }
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("pelton.conf")
    }

    pub fn kill_and_start(&mut self) {
        self.engine.kill();
        self.engine = start(&self.folder, self.http);
    }

    /// What a command says as JSON, and its exit code.
    pub fn pelton(&self, words: &[&str]) -> (i32, Value) {
        let output = Command::new(env!("CARGO_BIN_EXE_pelton"))
            .args(words)
            .arg("--config")
            .arg(self.config())
            .arg("--json")
            .output()
            .expect("the command runs");
        let text = match output.stdout.is_empty() {
            true => &output.stderr,
            false => &output.stdout,
        };
        let json = serde_json::from_slice(text).unwrap_or_else(|error| {
            panic!("{words:?}: {error}: {}", String::from_utf8_lossy(text))
        });
        (output.status.code().unwrap_or(-1), json)
    }

    /// The same of a command that does what it should.
    pub fn done(&self, words: &[&str]) -> Value {
        let (exit, json) = self.pelton(words);
        assert_eq!(exit, 0, "{words:?}: {json}");
        json["data"].clone()
    }

    pub fn send(&self, messages: u64, domains: &[&str]) {
        self.send_from("sender@sender.example", messages, domains);
    }

    pub fn send_from(&self, from: &str, messages: u64, domains: &[&str]) {
        let weighed = domains.iter().map(|domain| ((*domain).to_string(), 1));
        let blast = Blast::start(BlastConfig {
            connections: 2,
            messages: Some(messages),
            domains: Mix::new(weighed.collect()).expect("some domains"),
            from: from.to_owned(),
            ..BlastConfig::to(self.smtp)
        })
        .expect("the generator starts");
        assert!(blast.wait(STEP_TIMEOUT), "all mail is handed over");
        assert_eq!(blast.finish().acknowledged, messages);
    }

    /// Messages that match and wait.
    pub fn waiting(&self, filter: &str) -> Vec<Value> {
        let list = ["queue", "list", "--messages", "--limit", "1000", "--where"];
        let data = self.done(&[&list[..], &[filter]].concat());
        data["messages"].as_array().cloned().unwrap_or_default()
    }

    /// Recipients that the host took, by domain.
    pub fn delivered(&self, domain: &str) -> Vec<String> {
        let path = self.folder.path().join("capture.jsonl");
        let lines = fs::read_to_string(path).unwrap_or_default();
        let record = |line: &str| serde_json::from_str::<Record>(line).ok();
        let all = lines.lines().filter_map(record).flat_map(|it| it.rcpts);
        let domain = format!("@{domain}");
        all.filter(|it| it.ends_with(&domain)).collect()
    }

    pub fn metric(&self, name: &str) -> u64 {
        self.engine.metric(name).unwrap_or(0.0) as u64
    }
}

fn start(folder: &tempfile::TempDir, http: SocketAddr) -> Engine {
    let (config, log) = (
        folder.path().join("pelton.conf"),
        folder.path().join("pelton.log"),
    );
    let engine = Engine::start(&config, &log, http);
    engine
        .wait_ready(STEP_TIMEOUT)
        .expect("the engine is ready");
    engine
}
