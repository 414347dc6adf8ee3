//! Limits of connections on the wire: nobody has more than he may, whatever shares it on however
//! many shards, and everybody gets his turn. The receiving host refuses what is beyond a limit, and
//! no refusal may be seen.

#[allow(dead_code, reason = "made for deaths, of which there are none here")]
mod crash_rig;

use std::fs;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::process::Command;

use crash_rig::STEP_TIMEOUT;
use crash_rig::engine::Engine;
use crash_rig::free_address;
use crash_rig::wait_until;
use pelton::engine::owner_of;
use pelton::rig::blast::Blast;
use pelton::rig::blast::BlastConfig;
use pelton::rig::blast::mix::Mix;
use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;
use pelton::rig::sink::behaviour::Behaviours;
use pelton::rig::sink::capture::Record;
use pelton::rig::sink::counts::Counts;
use tempfile::TempDir;

/// What is tried in one run.
struct Trial<'a> {
    shards: u32,
    /// `{host}` and `{other}` stand for the addresses of two receiving hosts.
    config: &'a str,
    /// How they behave.
    rules: &'a str,
    messages: u64,
    recipients: usize,
    domains: &'a [&'a str],
    /// Each domain gets its part when that of the one before has been delivered.
    in_turn: bool,
    /// So many stay in the queues.
    left: u64,
}

impl Default for Trial<'_> {
    fn default() -> Self {
        Trial {
            shards: 2,
            config: "",
            rules: "",
            messages: 40,
            recipients: 1,
            domains: &[
                "one.example",
                "two.example",
                "three.example",
                "four.example",
            ],
            in_turn: false,
            left: 0,
        }
    }
}

/// What came of it.
struct Outcome {
    /// In the order of arrival.
    got: Vec<Record>,
    counts: Counts,
    /// Attempts that cost a retry.
    delayed: f64,
    /// Connections that a host is held to have failed.
    failed: f64,
}

impl Outcome {
    fn domains(&self) -> Vec<&str> {
        let domain = |it: &Record| it.rcpts[0].rfind('@').map_or(0, |at| at + 1);
        self.got
            .iter()
            .map(|it| &it.rcpts[0][domain(it)..])
            .collect()
    }
}

/// An engine and the hosts that it sends to.
struct World {
    folder: TempDir,
    smtp: SocketAddr,
    sink: Sink,
    engine: Engine,
}

impl World {
    fn start(trial: &Trial<'_>) -> World {
        let folder = tempfile::tempdir().expect("a folder for the run");
        let host = |last: u8| SocketAddr::new(IpAddr::from([127, 0, 0, last]), 0);
        let sink = Sink::start(SinkConfig {
            listen: vec![host(8), host(9)],
            capture: Some(folder.path().join("capture.jsonl")),
            behaviours: Behaviours::parse(trial.rules).expect("good rules"),
            ..SinkConfig::default()
        })
        .expect("the sink starts");
        let (smtp, http) = (free_address(), free_address());
        let text = format!(
            "Spoolbase = \"{}\"\nShards = {}\nPin_Shards = false\nSpool_Segment_Size = 4M\n\
             Min_Free_Space = 0\n\
             ESMTP_Listener {{ Listen \"{smtp}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" ) }} }}\n\
             HTTP_Listener {{ Listen \"{http}\" {{ }} }}\n\
             Connection_Allocation_Aggressiveness = \"high\"\n{}\n",
            folder.path().join("spool").display(),
            trial.shards,
            trial
                .config
                .replace("{host}", &sink.addrs()[0].to_string())
                .replace("{other}", &sink.addrs()[1].to_string()),
        );
        let config = folder.path().join("pelton.conf");
        fs::write(&config, text).expect("the configuration is written");
        let engine = Engine::start(&config, &folder.path().join("pelton.log"), http);
        engine
            .wait_ready(STEP_TIMEOUT)
            .expect("the engine is ready");
        World {
            folder,
            smtp,
            sink,
            engine,
        }
    }

    /// Runs with a configuration in which one text stands for another.
    fn reload(&self, from: &str, to: &str) {
        let config = self.folder.path().join("pelton.conf");
        let text = fs::read_to_string(&config).expect("its configuration");
        assert!(text.contains(from), "{from} is in {text}");
        fs::write(&config, text.replace(from, to)).expect("the configuration is written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
        let reloaded = command.arg("reload").arg("--config").arg(&config).output();
        let reloaded = reloaded.expect("the command runs");
        assert!(reloaded.status.success(), "{reloaded:?}");
    }

    fn inject(&self, trial: &Trial<'_>, messages: u64, domains: &[&str]) {
        let weighed = domains.iter().map(|it| ((*it).to_string(), 1));
        let blast = Blast::start(BlastConfig {
            connections: 4,
            messages: Some(messages),
            domains: Mix::new(weighed.collect()).expect("some domains"),
            recipients_per_message: trial.recipients,
            ..BlastConfig::to(self.smtp)
        })
        .expect("the generator starts");
        assert!(blast.wait(STEP_TIMEOUT), "all mail is handed over");
        let report = blast.finish();
        assert_eq!(report.acknowledged, messages, "{:?}", report.trouble);
    }

    fn finish(mut self) -> Outcome {
        let metric = |name: &str| self.engine.metric(name).unwrap_or_default();
        let (delayed, failed) = (
            metric("pelton_messages_delayed_total"),
            metric("pelton_connections_out_failed_total"),
        );
        self.engine.terminate();
        let counts = self.sink.stop();
        let capture = self.folder.path().join("capture.jsonl");
        let lines = fs::read_to_string(&capture).expect("what came in");
        let records = lines.lines().map(serde_json::from_str::<Record>);
        let mut got: Vec<Record> = records.map(|it| it.expect("a record")).collect();
        got.sort_by_key(|it| it.received_us);
        Outcome {
            got,
            counts,
            delayed,
            failed,
        }
    }
}

fn run(trial: &Trial<'_>) -> Outcome {
    let world = World::start(trial);
    let turns = if trial.in_turn {
        trial.domains.len()
    } else {
        1
    };
    for domains in trial.domains.chunks(trial.domains.len() / turns) {
        world.inject(trial, trial.messages / turns as u64, domains);
        let engine = &world.engine;
        wait_until("what is left", || engine.queued() == Some(trial.left));
    }
    world.finish()
}

const STATIC: &str = "static_routes { target = \"{host}\" }\n";

#[test]
fn nobody_has_more_connections_than_what_he_shares_allows() {
    let group = |inside: &str| {
        format!(
            "{STATIC}default_binding_group = \"pool\"\nbinding_group \"pool\" {{ {inside}\n\
             binding \"a\" {{ Bind_Address = \"127.0.0.2\" }}\n\
             binding \"b\" {{ Bind_Address = \"127.0.0.3\" }}\n}}\n"
        )
    };
    let cases = [
        format!(
            "{STATIC}Server_Max_Outbound_Connections = 2\nServer_Reserve_Outbound_Connections = 0\n"
        ),
        format!("{STATIC}Scope_Max_Outbound_Connections = 2\n"),
        group("Scope_Max_Outbound_Connections = 2"),
        group("Server_Max_Outbound_Connections = 2"),
        format!(
            "{}domain \"/example$/\" {{ Scope_Max_Outbound_Connections = 2 }}\n",
            group("")
        ),
        format!(
            "{}host \"127.0.0.8\" {{ Scope_Max_Outbound_Connections = 2 }}\n",
            group("")
        ),
        format!(
            "{}host \"/^127/\" {{ Max_Outbound_Connections = 2 }}\n",
            group("")
        ),
    ];
    for config in cases {
        let outcome = run(&Trial {
            config: &config,
            // Twice the limit: a host still counts those whose QUIT it has just answered.
            rules: "listener * connections=4\nlistener * at=dot delay=2ms\n",
            ..Trial::default()
        });
        assert_eq!(outcome.got.len(), 40, "{config}");
        assert_eq!(outcome.counts.code(421), 0, "{config}");
        assert_eq!((outcome.delayed, outcome.failed), (0.0, 0.0), "{config}");
    }
}

/// Domains whose queues are on both of two shards.
fn of_two_shards(binding: &str) -> [String; 2] {
    let name = |shard: u8| {
        let mut names = (0..).map(|it| format!("d{it}.example"));
        let found = names.find(|it| owner_of(2, binding, it).0 == shard);
        found.expect("one of them")
    };
    [name(0), name(1)]
}

#[test]
fn who_keeps_a_place_busy_gives_it_up_to_who_waits_on_another_shard() {
    let [first, second] = of_two_shards("a");
    let outcome = run(&Trial {
        config: &format!(
            "{STATIC}default_binding = \"a\"\nbinding \"a\" {{ Bind_Address = \"127.0.0.2\" }}\n\
             Scope_Max_Outbound_Connections = 1\n"
        ),
        rules: "listener * connections=2\nlistener * at=dot delay=20ms\n",
        messages: 400,
        domains: &[&first, &second],
        ..Trial::default()
    });
    assert_eq!((outcome.counts.code(421), outcome.delayed), (0, 0.0));
    let domains = outcome.domains();
    assert_eq!(domains.len(), 400);
    for domain in [&first, &second] {
        let begins = domains.iter().position(|it| it == domain);
        let other_ends = domains.iter().rposition(|it| it != domain);
        assert!(
            begins < other_ends,
            "{domain} waits until the other is through: {begins:?}, {other_ends:?}"
        );
    }
}

#[test]
fn a_host_that_never_greets_keeps_nobody_from_the_only_place() {
    // The kernel takes the connection, and nobody ever says a word.
    let hung = TcpListener::bind("127.0.0.10:0").expect("an address");
    let address = hung.local_addr().expect("it is bound");
    let outcome = run(&Trial {
        config: &format!(
            "domain \"hung.example\" {{ Routes = ( \"{address}\" ) }}\n\
             domain \"one.example\" {{ Routes = ( \"{{host}}\" ) }}\n\
             Server_Max_Outbound_Connections = 1\nServer_Reserve_Outbound_Connections = 0\n"
        ),
        messages: 4,
        domains: &["hung.example", "one.example"],
        in_turn: true,
        left: 2,
        ..Trial::default()
    });
    assert_eq!(outcome.domains(), ["one.example"; 2]);
    assert_eq!((outcome.delayed, outcome.failed), (0.0, 0.0), "no failure");
}

#[test]
fn connections_above_a_lower_limit_end_while_there_is_mail() {
    const WIDE: &str = "Max_Outbound_Connections = 8\n";
    let trial = Trial {
        config: &format!("{STATIC}{WIDE}"),
        rules: "listener * at=dot delay=50ms\n",
        ..Trial::default()
    };
    let world = World::start(&trial);
    world.inject(&trial, 4_000, &["one.example"]);
    let out = || world.engine.metric("pelton_connections{direction=\"out\"}");
    let narrow = [
        "Max_Outbound_Connections = 2\n".to_string(),
        format!("{WIDE}Scope_Max_Outbound_Connections = 2\n"),
        format!(
            "{WIDE}Server_Max_Outbound_Connections = 2\n\
             Server_Reserve_Outbound_Connections = 0\n"
        ),
        format!(
            "{WIDE}Queue_Striping = \"never\"\n\
             host \"127.0.0.8\" {{ Max_Outbound_Connections = 2 }}\n"
        ),
    ];
    for limits in narrow {
        wait_until("as many as there may be", || out() == Some(8.0));
        world.reload(WIDE, &limits);
        wait_until("no more than there may be", || out() == Some(2.0));
        assert!(world.engine.queued() > Some(0), "{limits}: mail waits");
        world.reload(&limits, WIDE);
    }
    wait_until("an empty queue", || world.engine.queued() == Some(0));
    let outcome = world.finish();
    assert_eq!((outcome.got.len(), outcome.delayed), (4_000, 0.0));
}

#[test]
fn a_host_throttle_sends_on_to_the_next_host_and_then_waits_without_a_retry() {
    let outcome = run(&Trial {
        config: "domain \"one.example\" { Routes = ( \"smtp://{host}?pref=10\" \
                 \"smtp://{other}?pref=20\" ) }\n\
                 host \"127.0.0.8\" { Outbound_Throttle_Messages = \"5/2\" }\n\
                 host \"127.0.0.9\" { Outbound_Throttle_Messages = \"5/2\" }\n",
        messages: 15,
        domains: &["one.example"],
        ..Trial::default()
    });
    let to = |last: u8| {
        let ip = IpAddr::from([127, 0, 0, last]);
        outcome.got.iter().filter(|it| it.local.ip() == ip).count()
    };
    assert!(to(8) >= 5 && to(9) >= 5, "{} and {}", to(8), to(9));
    assert_eq!((outcome.got.len(), outcome.delayed), (15, 0.0));
}

#[test]
fn a_pattern_of_hosts_is_one_throttle() {
    let outcome = run(&Trial {
        config: "domain \"one.example\" { Routes = ( \"smtp://{host}?pref=10\" \
                 \"smtp://{other}?pref=10\" ) }\n\
                 host \"/^127[.]0[.]0[.][89]$/\" { Outbound_Throttle_Messages = \"8/3600\" }\n",
        messages: 20,
        domains: &["one.example"],
        left: 12,
        ..Trial::default()
    });
    assert_eq!((outcome.got.len(), outcome.delayed), (8, 0.0));
}

#[test]
fn a_domain_takes_over_the_idle_connection_of_its_sibling() {
    for (migrates, connections) in [("true", 1), ("false", 4)] {
        let outcome = run(&Trial {
            shards: 1,
            config: &format!(
                "{STATIC}Migrate_Connections_Between_Sibling_Domains = {migrates}\n\
                 Scope_Max_Outbound_Connections = 20\nIdle_Timeout = 60\n"
            ),
            messages: 4,
            in_turn: true,
            ..Trial::default()
        });
        assert_eq!((outcome.got.len(), outcome.delayed), (4, 0.0));
        assert_eq!(outcome.counts.connections, connections, "{migrates}");
    }
}

#[test]
fn two_hundred_recipients_are_two_transactions() {
    let outcome = run(&Trial {
        config: STATIC,
        messages: 1,
        recipients: 200,
        domains: &["one.example"],
        ..Trial::default()
    });
    let sizes: Vec<usize> = outcome.got.iter().map(|it| it.rcpts.len()).collect();
    assert_eq!(sizes, [100, 100]);
}

#[test]
fn deliveries_of_a_connection_count_successes_and_its_recipients_all_that_was_tried() {
    for (option, connections) in [
        ("Max_Deliveries_Per_Connection = 5", 1..=1),
        ("Max_Recipients_Per_Connection = 5", 4..=6),
    ] {
        let outcome = run(&Trial {
            config: &format!("{STATIC}Max_Outbound_Connections = 1\n{option}\n"),
            rules: "domain one.example reply=\"550 5.1.1 no such user\"\n",
            messages: 20,
            domains: &["one.example"],
            ..Trial::default()
        });
        assert_eq!(outcome.counts.code(550), 20);
        assert!(
            connections.contains(&outcome.counts.connections),
            "{option}: {} connections",
            outcome.counts.connections
        );
    }
}

#[test]
fn a_host_that_takes_no_more_connections_has_not_failed() {
    let outcome = run(&Trial {
        config: &format!("{STATIC}Host_Failure_Retry = 60\n"),
        rules: "listener * connections=2 reply=\"421 4.3.2 too many\"\n\
                listener * at=dot delay=20ms\n",
        messages: 200,
        domains: &["one.example"],
        ..Trial::default()
    });
    assert_eq!((outcome.got.len(), outcome.delayed), (200, 0.0));
    assert!(outcome.counts.code(421) > 0, "more were tried");
}
