//! The management socket and the HTTP listener over real sockets, with shards that are made up.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use pelton::base::time::Wall;
use pelton::cli::client::Client;
use pelton::cli::client::Places;
use pelton::config::Diagnostic;
use pelton::config::Place;
use pelton::config::Severity;
use pelton::control::http;
use pelton::control::journal::Journal;
use pelton::control::management::Asked;
use pelton::control::management::CLIENTS_MAX;
use pelton::control::management::Facts;
use pelton::control::management::Server;
use pelton::control::management::Surroundings;
use pelton::control::management::protocol::ConfigOnDisk;
use pelton::control::management::protocol::REQUEST_BYTES_MAX;
use pelton::control::management::protocol::ReloadData;
use pelton::control::management::protocol::Reply;
use pelton::control::management::protocol::Request;
use pelton::control::orders::Registry;
use pelton::control::startup;
use pelton::engine::query::Answer;
use pelton::engine::query::FoundQueues;
use pelton::engine::query::Group;
use pelton::engine::query::GroupBy;
use pelton::engine::query::MessageSummary;
use pelton::engine::query::Preview;
use pelton::engine::query::Query;
use pelton::engine::query::QueueSummary;
use pelton::engine::stats::ShardStats;

const SHARDS: u8 = 3;

const NOW: Wall = Wall(1_767_225_599_000_000);
const STARTED: Wall = Wall(1_767_220_000_000_000);

/// What the shards do, changed by a test while they run.
#[derive(Clone, Copy, Default)]
struct Mood {
    silent_shard: bool,
    /// A start reads the spool back, or has read it and fills the queues.
    reading: bool,
    returning: bool,
    stopped: bool,
    broken_config: bool,
    /// The file on disk is not what runs.
    edited: bool,
}

struct World {
    folder: tempfile::TempDir,
    mood: Arc<Mutex<Mood>>,
    surroundings: Arc<Surroundings>,
}

fn shard_answer(shard: u8, query: &Query, mood: Mood) -> Answer {
    match query {
        Query::Status => {
            let mut stats = ShardStats {
                shard,
                ..ShardStats::default()
            };
            stats.counters.messages_injected = 100;
            stats.gauges.queue_delayed = u64::from(shard);
            stats.gauges.queue_returning = if mood.returning { 7 } else { 0 };
            stats.gauges.spool_stopped = mood.stopped && shard == 1;
            Answer::Status(Box::new(stats))
        }
        Query::Queues { limit, .. } => {
            let queue = |n: u64| QueueSummary {
                binding: "a".into(),
                domain: format!("d{n}-{shard}.example"),
                shard,
                active: 10 * n + u64::from(shard),
                ..QueueSummary::default()
            };
            let all = (0..20).map(queue).rev();
            Answer::Queues(FoundQueues {
                matching: 20,
                messages: all.clone().map(|it| it.active).sum(),
                largest: all.take(*limit).collect(),
            })
        }
        Query::Groups { by, cursor, .. } => {
            assert_eq!(*by, GroupBy::Tenant);
            let group = |name: Option<&str>, messages| Group {
                name: name.map(str::to_owned),
                messages,
                ..Group::default()
            };
            let groups = match cursor {
                0 => vec![group(None, 5), group(Some("acme"), 1 + u64::from(shard))],
                _ => vec![group(Some("acme"), 10), group(Some("zeta"), 100)],
            };
            Answer::Groups {
                shard,
                groups,
                next: (*cursor == 0 && shard == 1).then_some(9),
            }
        }
        Query::Messages { cursor, limit, .. } => {
            let from = cursor.unwrap_or(0);
            let messages = (from..10).take(*limit).map(|n| message(shard, n)).collect();
            let end = from + *limit as u64;
            Answer::Messages {
                messages,
                next: (end < 10).then_some(end),
            }
        }
        Query::Why { .. } => Answer::Why(Vec::new()),
        Query::Learnt { .. } => Answer::Learnt(Vec::new()),
        Query::Relearn { .. } => Answer::Relearnt(Ok(0)),
        Query::Trace { .. } => Answer::Trace(Vec::new()),
        Query::Preview { .. } => Answer::Preview {
            shard,
            found: Preview::default(),
            next: None,
        },
    }
}

fn message(shard: u8, n: u64) -> MessageSummary {
    MessageSummary {
        id: format!("{shard}-{n}"),
        recipient: "b@b.example".into(),
        binding: "a".into(),
        domain: "b.example".into(),
        shard,
        home: shard,
        state: "delayed".into(),
        size_bytes: 1,
        age_seconds: n,
        attempts: 1,
        due: None,
        expires: None,
        body_in_memory: true,
        class: "bulk".into(),
        tenant: Some("acme".into()),
        campaign: None,
        order: None,
    }
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let mood = Arc::new(Mutex::new(Mood::default()));
        let journal = Journal::open(&folder.path().join("journal.jsonl"), 1 << 20).unwrap();
        let journal = Arc::new(journal);
        let now = NOW;
        journal.append(now, "start", "pelton", "started").unwrap();
        let (asked_mood, facts_folder) = (Arc::clone(&mood), folder.path().to_owned());
        let (read_mood, edited_mood) = (Arc::clone(&mood), Arc::clone(&mood));
        let (disk_mood, noted) = (Arc::clone(&mood), Arc::clone(&journal));
        let lock = startup::lock_spool(folder.path()).unwrap();
        let around = (journal.clone(), Arc::new(move || now) as _);
        let (publish, _) = tokio::sync::mpsc::unbounded_channel();
        let opened = Registry::open(folder.path(), &lock, around, 1, publish);
        let (orders, _) = opened.unwrap();
        let surroundings = Surroundings {
            ask: Arc::new(move |asked, query| {
                let mood = *asked_mood.lock().unwrap();
                let answers = (0..SHARDS)
                    .filter(|shard| asked == Asked::All || asked == Asked::One(*shard))
                    .filter(|shard| !(mood.silent_shard && *shard == 2))
                    .map(|shard| shard_answer(shard, &query, mood))
                    .collect();
                Box::pin(async move { answers })
            }),
            reload: Arc::new(move |by| {
                let broken = disk_mood.lock().unwrap().broken_config;
                let noted = Arc::clone(&noted);
                Box::pin(async move {
                    if broken {
                        let finding = |line, message: &str| {
                            let mut found = Diagnostic::whole(Severity::Error, "E011", message);
                            found.place = Some(Place {
                                file: "p.conf".to_owned(),
                                line,
                                column: 1,
                            });
                            found
                        };
                        return Err(vec![finding(3, "unknown option"), finding(9, "no value")]);
                    }
                    noted.append(now, "config", &by, "generation 2").unwrap();
                    let digest = "beef".to_owned();
                    Ok(ReloadData {
                        generation: 2,
                        digest,
                        changed: true,
                        notes: Vec::new(),
                    })
                })
            }),
            facts: Arc::new(move || Facts {
                reading: read_mood.lock().unwrap().reading.then_some((3, 90)),
                ..facts(&facts_folder)
            }),
            bindings: Arc::new(|| vec!["default".to_owned()]),
            config_on_disk: Arc::new(move || match edited_mood.lock().unwrap().edited {
                false => ConfigOnDisk::Same,
                true => ConfigOnDisk::Differs("beef".into()),
            }),
            clock: Arc::new(move || now),
            orders: Arc::new(orders),
            journal,
        };
        World {
            folder,
            mood,
            surroundings: Arc::new(surroundings),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("pelton.sock")
    }

    fn feel(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Runs `client` on a thread of its own against a server on this one.
    fn serve<T: Send + 'static>(&self, client: impl FnOnce(PathBuf) -> T + Send + 'static) -> T {
        let runtime = runtime();
        let socket = self.socket();
        runtime.block_on(async {
            let server = Server::bind(&socket).unwrap();
            let serving = tokio::spawn(server.serve(Arc::clone(&self.surroundings)));
            let result = tokio::task::spawn_blocking(move || client(socket))
                .await
                .unwrap();
            serving.abort();
            assert!(serving.await.unwrap_err().is_cancelled());
            result
        })
    }
}

fn facts(folder: &Path) -> Facts {
    Facts {
        node: "mta-1".into(),
        version: "0.1.0".into(),
        started: STARTED,
        shards: u64::from(SHARDS),
        config_file: folder.join("p.conf").display().to_string(),
        config_digest: "7f3a".into(),
        config_generation: 1,
        config_loaded: Wall::from_secs(1_767_220_000),
        restart: Vec::new(),
        spool: folder.to_owned(),
        spool_sync: "commit",
        min_free_bytes: 0,
        event_log: folder.join("events"),
        disk: Some((50 << 30, 100 << 30)),
        reading: None,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn ask(socket: &Path, request: &Request) -> Reply {
    Client::connect(socket).unwrap().ask(request).unwrap().reply
}

#[test]
fn the_socket_is_private_answers_and_goes_with_the_server() {
    let world = World::new();
    let reply = world.serve(|socket| {
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        ask(&socket, &Request::Status)
    });
    let Reply::Status(status) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(status.total.counters.messages_injected, 300);
    assert_eq!(status.per_shard.len(), 3);
    assert_eq!(
        (status.verdict.as_str(), status.warnings.len()),
        ("OK", 0),
        "{status:?}"
    );
    assert!(status.resident_bytes > 0 && status.spool.free_bytes.is_some());
    assert!(!world.socket().exists());
}

#[test]
fn a_socket_that_nobody_answers_on_is_replaced_and_a_live_one_is_not() {
    let world = World::new();
    drop(std::os::unix::net::UnixListener::bind(world.socket()).unwrap());
    assert!(world.socket().exists());
    world.serve(|socket| {
        let second = runtime().block_on(async { Server::bind(&socket).map(|_| ()) });
        assert_eq!(second.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        assert!(
            matches!(ask(&socket, &Request::Status), Reply::Status(_)),
            "it still answers"
        );
    });
}

#[test]
fn whoever_asks_while_the_spool_is_read_hears_that_not_all_is_known() {
    let world = World::new();
    let run = |socket: &Path, words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pelton"));
        let socket = socket.to_str().unwrap();
        let ran = command.args(words).args(["--socket", socket]).output();
        let ran = ran.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (ran.status.code(), text(ran.stdout), text(ran.stderr))
    };
    let moods = [
        (
            Mood {
                reading: true,
                ..Mood::default()
            },
            "the start still reads the spool back, 3 of 90 segments",
        ),
        (
            Mood {
                returning: true,
                ..Mood::default()
            },
            "21 messages of the last run are on the way into the queues",
        ),
    ];
    for (mood, told) in moods {
        world.feel(mood);
        world.serve(move |socket| {
            let list = ["queue", "list", "--limit", "2", "--jsonl"];
            let (code, out, err) = run(&socket, &list);
            assert_eq!((code, out.lines().count()), (Some(0), 2), "{out}{err}");
            assert!(err.starts_with(&format!("WARN {told}")), "{err}");
            let (code, out, _) = run(&socket, &["queue", "list", "--json"]);
            let document: serde_json::Value = serde_json::from_str(&out).unwrap();
            let data = &document["data"];
            assert_eq!((code, &data["complete"]), (Some(0), &false.into()));
            assert!(document["warnings"][0].as_str().unwrap().starts_with(told));
            for words in [
                &["trace", "0000100000001"][..],
                &["queue", "show", "0000100000001"],
            ] {
                let (code, _, err) = run(&socket, words);
                assert_eq!(code, Some(1), "{err}");
                let begins = format!("E416 nothing is known of 0000100000001 yet: {told}");
                assert!(err.starts_with(&begins), "{err}");
            }
        });
    }
    world.feel(Mood::default());
    world.serve(move |socket| {
        let (_, out, err) = run(&socket, &["queue", "list", "--json"]);
        let document: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (&document["data"]["complete"], err.as_str()),
            (&true.into(), "")
        );
        let (code, _, err) = run(&socket, &["trace", "0000100000001"]);
        assert!(code == Some(3) && err.starts_with("E413 "), "{err}");
    });
}

#[test]
fn a_verdict_begins_when_the_file_was_edited_and_not_when_somebody_looked() {
    let world = World::new();
    let path = world.folder.path().join("p.conf");
    std::fs::write(&path, "").unwrap();
    // A minute before the clock of this world, and after the verdict before.
    let edited = NOW - Duration::from_secs(60);
    let since = std::time::UNIX_EPOCH + Duration::from_micros(edited.0);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(since).unwrap();
    let mood = Arc::clone(&world.mood);
    world.serve(move |socket| {
        let look = || match ask(&socket, &Request::Status) {
            Reply::Status(status) => (status.verdict, status.verdict_since),
            reply => panic!("{reply:?}"),
        };
        let at = |at: Wall| at.rfc3339().to_string();
        assert_eq!(look(), ("OK".to_owned(), at(STARTED)));
        mood.lock().unwrap().edited = true;
        assert_eq!(look(), ("DEGRADED".to_owned(), at(edited)));
        assert_eq!(look(), ("DEGRADED".to_owned(), at(edited)));
    });
}

#[test]
fn sums_are_added_over_all_parts_of_all_shards() {
    let world = World::new();
    world.serve(|socket| {
        let groups = |filter: &str, by| Request::Groups {
            by,
            filter: filter.parse().unwrap(),
            limit: 2,
        };
        let Reply::Groups(data) = ask(&socket, &groups("", GroupBy::Tenant)) else {
            panic!("sums were asked for")
        };
        let sums = data.groups.iter();
        let sums: Vec<_> = sums.map(|it| (it.name.as_deref(), it.messages)).collect();
        assert_eq!(sums, [(Some("zeta"), 100), (Some("acme"), 16)]);
        assert_eq!(
            (data.more, data.groups_in_all, data.messages),
            (true, 3, 131)
        );
        let mut client = Client::connect(&socket).unwrap();
        let refused = client.ask(&groups("binding=a", GroupBy::Tenant));
        assert!(refused.is_err_and(|it| it.message.contains("over all queues")));
    });
}

#[test]
fn lists_are_merged_sorted_limited_and_paged_over_all_shards() {
    let world = World::new();
    world.serve(|socket| {
        let filter = || "state=active".parse().unwrap();
        let reply = ask(
            &socket,
            &Request::Queues {
                filter: filter(),
                limit: 4,
            },
        );
        let Reply::Queues(data) = reply else {
            panic!("{reply:?}")
        };
        let sizes: Vec<u64> = data.queues.iter().map(|queue| queue.active).collect();
        assert_eq!((sizes, data.more), (vec![192, 191, 190, 182], true));
        assert_eq!((data.matching, data.messages), (Some(60), Some(5_760)));

        let mut ids = Vec::new();
        let mut cursor = None;
        let mut client = Client::connect(&socket).unwrap();
        loop {
            let request = Request::Messages {
                filter: filter(),
                cursor,
                limit: 7,
            };
            let reply = client.ask(&request).unwrap().reply;
            let Reply::Messages(page) = reply else {
                panic!("{reply:?}")
            };
            assert!(page.messages.len() <= 7);
            ids.extend(page.messages.into_iter().map(|message| message.id));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let expected: Vec<String> = (0..SHARDS)
            .flat_map(|shard| (0..10).map(move |n| format!("{shard}-{n}")))
            .collect();
        assert_eq!(ids, expected);

        let bad = Request::Messages {
            filter: filter(),
            cursor: Some("x".into()),
            limit: 1,
        };
        assert_eq!(client.ask(&bad).unwrap_err().exit, 2);
        let of_messages = Request::Queues {
            filter: "size>1".parse().unwrap(),
            limit: 1,
        };
        assert_eq!(client.ask(&of_messages).unwrap_err().exit, 2);
    });
}

#[test]
fn a_domain_is_the_same_with_the_dot_at_its_end() {
    let reply = World::new().serve(|socket| {
        let request = Request::Why {
            domain: "B.example.".into(),
            binding: None,
        };
        ask(&socket, &request)
    });
    let Reply::Why(why) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(why.domain, "b.example");
}

#[test]
fn a_silent_shard_and_a_stopped_spool_are_failures() {
    let world = World::new();
    world.feel(Mood {
        silent_shard: true,
        stopped: true,
        ..Mood::default()
    });
    let (status, notes) = world.serve(|socket| {
        let filter = "".parse().unwrap();
        let queues = Client::connect(&socket)
            .unwrap()
            .ask(&Request::Queues { filter, limit: 1 });
        (ask(&socket, &Request::Status), queues.unwrap().notes)
    });
    let Reply::Status(status) = status else {
        panic!("{status:?}")
    };
    assert_eq!(status.verdict, "FAILING");
    assert_eq!(status.warnings.len(), 2, "{:?}", status.warnings);
    assert_eq!(notes, ["only 2 of 3 shards answered"]);
}

#[test]
fn a_reload_runs_or_says_what_is_wrong_and_is_remembered_with_who_did_it() {
    let world = World::new();
    world.serve(|socket| {
        let reply = ask(&socket, &Request::Reload);
        assert!(
            matches!(&reply, Reply::Reloaded(data) if data.generation == 2),
            "{reply:?}"
        );
        let reply = ask(&socket, &Request::Changes { since_seconds: 60 });
        let Reply::Changes(data) = reply else {
            panic!("{reply:?}")
        };
        assert_eq!(data.changes.len(), 2);
        assert!(
            data.changes[1].by.starts_with("uid "),
            "{:?}",
            data.changes[1]
        );
    });
    world.feel(Mood {
        broken_config: true,
        ..Mood::default()
    });
    let found = world.serve(|socket| match ask(&socket, &Request::Reload) {
        Reply::Refused(found) => found,
        other => panic!("{other:?}"),
    });
    let second = &found[1];
    assert_eq!(
        (second.level.as_str(), second.code.as_str()),
        ("error", "E011")
    );
    let place = (second.file.as_deref(), second.line, second.column);
    assert_eq!(place, (Some("p.conf"), Some(9), Some(1)));
    assert_eq!(second.text, "p.conf:9:1: error: E011 no value");
}

/// Sends raw bytes and reads one line.
fn raw(socket: &Path, bytes: &[u8]) -> (String, UnixStream) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let _ = stream.write_all(bytes);
    let mut reply = Vec::new();
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && byte != *b"\n" {
        reply.push(byte[0]);
    }
    (String::from_utf8(reply).unwrap(), stream)
}

#[test]
fn nonsense_is_answered_and_too_much_of_it_ends_the_connection() {
    let world = World::new();
    world.serve(|socket| {
        let cases: [&[u8]; 5] = [
            b"\n",
            b"status\n",
            b"{\"command\":\"format_disk\"}\n",
            b"{\"command\":\"queues\",\"filter\":\"domian=x\",\"limit\":1}\n",
            b"\xff\xfe{}\n",
        ];
        for bytes in cases {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(bytes).unwrap();
            stream
                .write_all(b"{\"command\":\"changes\",\"since_seconds\":1}\n")
                .unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 2, "{text}");
            assert!(lines[0].contains("\"fault\":\"usage\""), "{text}");
            assert!(
                lines[1].contains("\"changes\""),
                "the connection lives on: {text}"
            );
        }
        let (reply, mut stream) = raw(&socket, &vec![b'x'; REQUEST_BYTES_MAX + 1]);
        assert!(reply.contains("no line end within"), "{reply}");
        assert!(
            matches!(stream.read(&mut [0]), Ok(0) | Err(_)),
            "the connection ends"
        );
        let deep = format!("{}\n", "[".repeat(60_000));
        assert!(raw(&socket, deep.as_bytes()).0.contains("not understood"));
    });
}

#[test]
fn clients_beyond_the_limit_are_told_and_turned_away() {
    let world = World::new();
    world.serve(|socket| {
        let mut crowd: Vec<Client> = (0..CLIENTS_MAX)
            .map(|_| Client::connect(&socket).unwrap())
            .collect();
        for client in &mut crowd {
            client.ask(&Request::Changes { since_seconds: 1 }).unwrap();
        }
        let failure = Client::connect(&socket)
            .unwrap()
            .ask(&Request::Status)
            .unwrap_err();
        assert_eq!(failure.code, "E403");
        drop(crowd);
        let places = Places::of_spool(socket.parent().unwrap());
        let served = |_| pelton::cli::client::ask(&places, &Request::Status).is_ok();
        assert!((0..1_000).any(served), "there is room again");
    });
}

/// Runs `client` against an HTTP listener.
fn serve_http<T: Send + 'static>(
    world: &World,
    connections_max: usize,
    client: impl FnOnce(SocketAddr) -> T + Send + 'static,
) -> T {
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let settings = http::Settings {
            connections_max,
            idle_time: Duration::from_millis(300),
        };
        let serving = tokio::spawn(http::serve(
            listener,
            settings,
            Arc::clone(&world.surroundings),
        ));
        let result = tokio::task::spawn_blocking(move || client(address))
            .await
            .unwrap();
        serving.abort();
        result
    })
}

fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let _ = stream.write_all(request);
    let mut reply = Vec::new();
    // A connection that is reset after its reply has still replied.
    let _ = stream.read_to_end(&mut reply);
    String::from_utf8(reply).unwrap()
}

fn get(address: SocketAddr, target: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    exchange(address, request.as_bytes())
}

#[test]
fn metrics_and_health_are_served_and_nothing_else() {
    let world = World::new();
    serve_http(&world, 10, |address| {
        let page = get(address, "/metrics");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(page.contains("Content-Type: text/plain; version=0.0.4"));
        assert!(page.contains("\npelton_messages_injected_total 300\n"));
        assert!(page.contains("\npelton_shards_answering 3\n"));
        for path in ["/healthz", "/readyz", "/livez"] {
            assert!(get(address, path).ends_with("\r\n\r\nok\n"), "{path}");
        }
        let head = exchange(address, b"HEAD /metrics HTTP/1.0\r\n\r\n");
        assert!(
            head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        let paths = [
            "/",
            "/metrics/",
            "/Metrics",
            "/..%2fetc/passwd",
            "/%00",
            "//metrics",
            "/x?y",
        ];
        for path in paths {
            assert!(get(address, path).starts_with("HTTP/1.1 404 "), "{path}");
        }
        let post = b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\
                     Connection: close\r\n\r\nabc";
        let refused = exchange(address, post);
        assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("Allow: GET, HEAD"));
        // An error has the form that the commands give it.
        let (head, body) = refused.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("Content-Type: application/json\r\n"),
            "{head}"
        );
        let told: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(told["schema"], "pelton.error/1");
        assert_eq!(told["error"]["code"], "E503");
        assert_eq!(told["error"]["message"], "GET and HEAD only");
    });
}

#[test]
fn health_tells_why_no_mail_is_accepted() {
    let world = World::new();
    world.feel(Mood {
        stopped: true,
        ..Mood::default()
    });
    let page = serve_http(&world, 10, |address| get(address, "/healthz"));
    assert!(
        page.starts_with("HTTP/1.1 503 ") && page.contains("spool"),
        "{page}"
    );
    // It takes no mail, but a new start would not help.
    let page = serve_http(&world, 10, |address| get(address, "/readyz"));
    assert!(page.starts_with("HTTP/1.1 503 "), "{page}");
    let page = serve_http(&world, 10, |address| get(address, "/livez"));
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    world.feel(Mood {
        silent_shard: true,
        ..Mood::default()
    });
    let page = serve_http(&world, 10, |address| get(address, "/healthz"));
    assert!(
        page.starts_with("HTTP/1.1 503 ") && page.contains("not every shard"),
        "{page}"
    );
    let page = serve_http(&world, 10, |address| get(address, "/livez"));
    assert!(page.starts_with("HTTP/1.1 503 "), "{page}");
}

#[test]
fn requests_of_one_connection_are_answered_in_turn_whatever_the_segments() {
    let world = World::new();
    serve_http(&world, 10, |address| {
        let one = "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET ";
        let last = "GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let all = format!("{one}{one}{last}");
        for size in [1, 7, all.len()] {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            for piece in all.as_bytes().chunks(size) {
                stream.write_all(piece).unwrap();
            }
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            let statuses: Vec<&str> = reply
                .lines()
                .filter_map(|line| line.strip_prefix("HTTP/1.1 "))
                .collect();
            assert_eq!(statuses, ["200 OK", "200 OK", "404 Not Found"], "{size}");
        }
    });
}

#[test]
fn hostile_requests_are_refused_and_their_connection_ends() {
    let world = World::new();
    serve_http(&world, 10, |address| {
        let body = |field: &str, body: &str| {
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n{body}GET /healthz HTTP/1.1\r\n\
                     Host: a\r\n\r\n"
            )
        };
        let chunked = |chunks: &str| body("Transfer-Encoding: chunked", chunks);
        let cases = [
            (
                400,
                body(
                    "Content-Length: 3\r\nTransfer-Encoding: chunked",
                    "0\r\n\r\n",
                ),
            ),
            (400, body("Content-Length: 3\r\nContent-Length: 4", "abc")),
            (400, body("Transfer-Encoding: xchunked", "")),
            (400, body("Transfer-Encoding : chunked", "")),
            (400, body("X: a\r\n b", "")),
            (400, chunked("0x5\r\nhello\r\n0\r\n\r\n")),
            (400, chunked("+5\r\nhello\r\n0\r\n\r\n")),
            (400, chunked("5;ext\r\nhello\r\n0\r\n\r\n")),
            (400, chunked("11111111111111111\r\nhello\r\n0\r\n\r\n")),
            (400, chunked("5\nhello\n0\n\n")),
            (400, "GET /healthz HTTP/1.1\rHost: a\r\n\r\n".to_owned()),
            (400, "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
            (
                400,
                "GET http://b/healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            ),
            (
                400,
                "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
            ),
            (400, "GET /healthz\r\n\r\n".to_owned()),
            (
                417,
                body("Expect: 100-continue\r\nContent-Length: 3", "abc"),
            ),
            (413, body("Content-Length: 65537", "")),
            (
                431,
                format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(1 << 20)),
            ),
            (
                431,
                format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(10_000)),
            ),
        ];
        for (status, request) in cases {
            let reply = exchange(address, request.as_bytes());
            let shown = &request[..request.len().min(120)];
            assert!(
                reply.starts_with(&format!("HTTP/1.1 {status} ")),
                "{shown:?}: {reply}"
            );
            assert!(reply.contains("Connection: close\r\n"), "{shown:?}");
            assert_eq!(
                reply.matches("HTTP/1.1 ").count(),
                1,
                "one answer, then the end: {shown:?}"
            );
        }
    });
}

#[test]
fn idle_and_surplus_connections_do_not_keep_others_out() {
    let world = World::new();
    serve_http(&world, 2, |address| {
        let mut idle: Vec<_> = (0..2)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        let served = |reply: &String| reply.starts_with("HTTP/1.1 200 ");
        let replies: Vec<String> = (0..1_000).map(|_| get(address, "/healthz")).collect();
        let busy = replies
            .iter()
            .filter(|reply| reply.starts_with("HTTP/1.1 503 "))
            .count();
        let all_told = replies.iter().filter(|reply| served(reply)).count() + busy;
        assert!(busy > 0, "the limit is kept");
        assert!(all_told > 0);
        let mut rest = Vec::new();
        for stream in &mut idle {
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            stream
                .read_to_end(&mut rest)
                .expect("idle connections are closed by the server");
        }
        assert!(
            (0..1_000).any(|_| served(&get(address, "/healthz"))),
            "there is room again"
        );
    });
}
