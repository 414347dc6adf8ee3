//! The receivers of a scenario over real sockets: by the address that is connected to, and by the
//! recipient's domain; with the names that lead to them.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pelton::config::SourceFile;
use pelton::practice::read::read;
use pelton::practice::scenario::Scenario;
use pelton::practice::words::Cause;
use pelton::rig::dns::zone::Zone;
use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;

const DEADLINE: Duration = Duration::from_secs(60);

const TEXT: &str = "load { messages_per_hour = 1 }\n\
    binding a { address = 127.0.1.1 } binding b { address = 127.0.1.2 }\n\
    provider tight { connections = 1  rate = \"2/3600\"  words = google  latency = 1ms }\n\
    provider strict { block { from = 0s to = 24h }  words = yahoo }\n\
    provider away { outage { from = 0s to = 24h } }\n";

fn scenario() -> Arc<Scenario> {
    let source = SourceFile {
        name: "wire.scenario".to_string(),
        text: TEXT.to_string(),
    };
    Arc::new(read(source).expect("a good scenario"))
}

/// Plays it on the addresses of its hosts, on a port that the kernel chooses for each.
fn start(listen: Vec<SocketAddr>) -> Sink {
    let config = SinkConfig {
        listen,
        scenario: Some(scenario()),
        ..SinkConfig::default()
    };
    Sink::start(config).expect("it listens")
}

struct Talk {
    stream: BufReader<TcpStream>,
}

impl Talk {
    fn open(to: SocketAddr) -> Talk {
        let stream = TcpStream::connect(to).expect("it accepts");
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("a time limit");
        Talk {
            stream: BufReader::new(stream),
        }
    }

    /// Says it, and takes the last line of as many replies.
    fn say(&mut self, text: &str, replies: usize) -> String {
        self.stream
            .get_mut()
            .write_all(text.as_bytes())
            .expect("it listens");
        self.hear(replies)
    }

    fn hear(&mut self, replies: usize) -> String {
        let (mut line, mut heard) = (String::new(), 0);
        while heard < replies {
            line.clear();
            self.stream.read_line(&mut line).expect("it answers");
            heard += usize::from(line.as_bytes().get(3) == Some(&b' '));
        }
        line.trim_end().to_string()
    }

    /// What is left until the other side closes.
    fn rest(mut self) -> String {
        let mut text = String::new();
        let _ = self.stream.read_to_string(&mut text);
        text
    }
}

const MESSAGE: &str = "MAIL FROM:<s@x.example>\r\nRCPT TO:<u@tight.example>\r\nBDAT 2 LAST\r\n\r\n";

#[test]
fn each_provider_is_at_its_own_addresses() {
    let hosts = scenario().hosts(0);
    let first_of: Vec<SocketAddr> = hosts.iter().step_by(2).copied().collect();
    let sink = start(first_of);
    let [tight, strict, away] = sink.addrs()[..] else {
        panic!("three addresses");
    };
    let mut first = Talk::open(tight);
    assert_eq!(first.hear(1), "220 mx1.tight.example ESMTP");
    first.say("EHLO x.example\r\n", 1);
    assert_eq!(first.say(MESSAGE, 3), "250 2.0.0 Taken");
    // The second connection is one too many, whoever knocks.
    let refused = Talk::open(tight).rest();
    assert!(
        refused.starts_with("421 4.7.0 Too many concurrent"),
        "{refused}"
    );
    assert_eq!(first.say(MESSAGE, 3), "250 2.0.0 Taken");
    let third = first.say(MESSAGE, 2);
    assert!(third.starts_with("421 4.7.28 "), "{third}");
    assert_eq!(first.rest(), "", "a 421 ends the connection");
    // Its place is free before it is closed.
    let mut next = Talk::open(tight);
    assert_eq!(next.hear(1), "220 mx1.tight.example ESMTP");
    let blocked = Talk::open(strict).rest();
    assert!(blocked.starts_with("553 5.7.1 [BL21]"), "{blocked}");
    assert_eq!(Talk::open(away).rest(), "", "nobody is there");
    assert!(sink.wait_for_messages(2, DEADLINE));
    let accounts = sink.accounts();
    assert_eq!(
        (accounts[0].1.delivered, accounts[0].1.over_sending()),
        (2, 1)
    );
    assert_eq!(accounts[0].1.refusals(Cause::Connections), 1);
    assert_eq!(accounts[1].1.refusals(Cause::Block), 1);
    assert_eq!(accounts[2].1.unreachable, 1);
    let counts = sink.stop();
    assert_eq!(
        (counts.messages, counts.recipients, counts.code(421)),
        (2, 2, 2)
    );
}

#[test]
fn one_address_plays_all_of_them_by_domain() {
    let sink = start(vec![SocketAddr::from(([127, 0, 0, 1], 0))]);
    let hello = "EHLO x.example\r\n";
    let to = |domain: &str| format!("MAIL FROM:<>\r\nRCPT TO:<u@{domain}>\r\n");
    for (domain, said) in [
        ("tight.example", "250 2.1.5 Recipient ok"),
        (
            "strict.example",
            "553 5.7.1 [BL21] Connections will not be accepted",
        ),
        ("away.example", "421 4.3.2 Nobody is there"),
        ("other.example", "550 5.1.2 Nobody has this domain"),
    ] {
        let mut talk = Talk::open(sink.addrs()[0]);
        assert_eq!(talk.hear(1), "220 practice.example ESMTP");
        talk.say(hello, 1);
        assert_eq!(talk.say(&to(domain), 2), said);
    }
}

#[test]
fn the_names_of_the_scenario_lead_to_its_hosts() {
    let scenario = scenario();
    let zone = Zone::parse(&scenario.zone()).expect("a zone");
    let records = |name: &str| zone.entry(name).map_or(0, |it| it.records.len());
    assert_eq!(
        (records("tight.example"), records("mx2.away.example")),
        (2, 1)
    );
    assert!(zone.entry("other.example").is_none());
    for host in scenario.hosts(2526) {
        assert!(scenario.host_of(host.ip()).is_some());
    }
    let stranger: IpAddr = "127.0.0.1".parse().expect("an address");
    assert_eq!(scenario.host_of(stranger), None);
}

#[test]
fn the_tool_says_what_is_wrong_with_a_scenario() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bad.scenario");
    std::fs::write(&path, TEXT.replace("connections =", "conections =")).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton-sink"));
    let ran = command
        .arg("--scenario")
        .arg(&path)
        .output()
        .expect("it runs");
    let err = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(2), "{err}");
    let place = format!(
        "{}:3:18: error: E090 unknown option \"conections\"",
        path.display()
    );
    assert!(
        err.contains(&place) && err.contains("did you mean \"connections\"?"),
        "{err}"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton-sink"));
    let ran = command
        .args(["--dns", "127.0.0.1:0"])
        .output()
        .expect("it runs");
    let err = String::from_utf8_lossy(&ran.stderr);
    assert!(
        err.contains("--dns answers from --zone or --scenario"),
        "{err}"
    );
}
