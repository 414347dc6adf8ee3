//! `pelton spool`, end to end on spools that a real engine has made: what it tells, what it finds
//! damaged, what it takes out, and that what it puts in is delivered.

#![allow(clippy::disallowed_methods)] // It waits and measures against the clock.

use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use pelton::rig::sink::Sink;
use pelton::rig::sink::SinkConfig;
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a command came to.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn pelton(args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_pelton"))
        .args(args)
        .env_remove("PELTON_CONFIG")
        .output()
        .expect("pelton runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!err.contains("panicked"), "{args:?}\n{err}");
    let code = output.status.code().expect("no signal ended it");
    Ran { code, out, err }
}

/// `pelton spool VERB .. --spool BASE`.
fn spool(base: &Path, args: &[&str]) -> Ran {
    let base = base.to_str().expect("a plain path");
    let all = [&["spool"], args, &["--spool", base]].concat();
    pelton(&all)
}

fn json(base: &Path, args: &[&str]) -> (i32, Value) {
    let ran = spool(base, &[args, &["--json"]].concat());
    let document = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    (ran.code, document)
}

/// Every file below a folder.
fn bytes_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(bytes_of(&path));
        } else if path.is_file() {
            all.insert(path.clone(), fs::read(&path).expect("a file"));
        }
    }
    all
}

/// A folder with a configuration, and the addresses in it.
struct Place {
    folder: TempDir,
    smtp: SocketAddr,
}

/// An engine that runs. Dropping it kills it.
struct Engine(Child);

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 78, high, low);
    let listener = std::net::TcpListener::bind((address, 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}

impl Place {
    fn new() -> Place {
        Place {
            folder: tempfile::tempdir().expect("a folder"),
            smtp: free_address(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Starts an engine on the spool of that name. Without a receiving host everything waits.
    fn engine(&self, name: &str, host: Option<SocketAddr>) -> Engine {
        let (base, smtp) = (self.text(name), self.smtp);
        let delivery = match host {
            Some(host) => format!("static_routes {{ target = \"{host}\" }}"),
            None => "suspend_delivery = true".to_owned(),
        };
        let config = self.path(&format!("{name}.conf"));
        let text = format!(
            "Spoolbase = \"{base}\"\nShards = 2\nPin_Shards = false\nSpool_Segment_Size = 4M\n\
             Min_Free_Space = 0\n{delivery}\nBinding a {{ }}\n\
             ESMTP_Listener {{ Listen \"{smtp}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" ) }} }}\n"
        );
        fs::write(&config, text).expect("the configuration is written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_pelton"))
            .args(["serve", "--config"])
            .arg(&config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the engine starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output is piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        assert!(line.starts_with("ready"), "{line:?}");
        Engine(child)
    }

    fn inject(&self, sender: &str, recipients: &[&str], content: &str) {
        let stream = TcpStream::connect(self.smtp).expect("the engine listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut replies = BufReader::new(stream.try_clone().expect("one more"));
        let mut talk = stream;
        let mut say = |line: &str| {
            talk.write_all(line.as_bytes()).expect("it reads");
            let mut reply = String::new();
            loop {
                reply.clear();
                replies.read_line(&mut reply).expect("it answers");
                assert!(reply.starts_with(['2', '3']), "{line:?}: {reply:?}");
                if reply.as_bytes().get(3) == Some(&b' ') {
                    return;
                }
            }
        };
        say("");
        say("EHLO client.example\r\n");
        say(&format!("MAIL FROM:<{sender}>\r\n"));
        for recipient in recipients {
            say(&format!("RCPT TO:<{recipient}>\r\n"));
        }
        say("DATA\r\n");
        say(&format!("{content}\r\n.\r\n"));
        say("QUIT\r\n");
    }

    /// A spool in which three messages for four recipients wait.
    fn filled(&self, name: &str) -> PathBuf {
        let engine = self.engine(name, None);
        self.fill();
        end(engine);
        self.path(name)
    }

    fn fill(&self) {
        self.inject(
            "s@x.example",
            &["one@a.example"],
            "Subject: first\r\n\r\nHello.",
        );
        let two = ["two@b.example", "three@b.example"];
        let tricky = "Subject: second\r\n\r\nFrom here\r\n>From there\r\n\r\n\r\nend";
        self.inject("", &two, tricky);
        let long = format!("Subject: third\r\n\r\n{}", "0123456789\r\n".repeat(4_000));
        self.inject("s@x.example", &["four@c.example"], &long);
    }
}

fn end(mut engine: Engine) {
    let pid = engine.0.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(sent.expect("kill runs").success());
    assert!(engine.0.wait().expect("it ends").success());
}

fn lines(base: &Path, args: &[&str]) -> Vec<Value> {
    let ran = spool(base, &[&["list", "--json"], args].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let parse = |line: &str| serde_json::from_str(line).expect("an object");
    ran.out.lines().map(parse).collect()
}

fn id_of(base: &Path, recipient: &str) -> String {
    let found = lines(base, &["--where", &format!("recipient={recipient}")]);
    let id = found[0]["id"].as_str().expect("an id");
    id.split('-').next().expect("a batch").to_owned()
}

/// Raw messages with their senders and recipients, in an order of their own.
fn contents(base: &Path) -> Vec<(String, Vec<String>, String)> {
    let mut all: BTreeMap<String, (String, Vec<String>, String)> = BTreeMap::new();
    for line in lines(base, &[]) {
        let text = |name: &str| line[name].as_str().expect("text").to_owned();
        let batch = text("id").split('-').next().expect("a batch").to_owned();
        let body = || spool(base, &["show", &batch, "--body"]).out;
        let entry = all.entry(batch.clone());
        let entry = entry.or_insert_with(|| (text("sender"), Vec::new(), body()));
        entry.1.push(text("recipient"));
    }
    let mut all: Vec<_> = all.into_values().collect();
    all.sort();
    all
}

#[test]
fn a_spool_can_be_looked_at_beside_its_engine_and_is_never_written() {
    let place = Place::new();
    let engine = place.engine("spool", None);
    place.fill();
    let base = place.path("spool");
    let (code, info) = json(&base, &["info"]);
    assert_eq!((code, &info["data"]["running"]), (0, &true.into()));
    assert_eq!(info["data"]["pid"], engine.0.id());
    assert_eq!(info["data"]["messages"], 3);
    assert_eq!(info["data"]["recipients"], 4);
    assert_eq!(json(&base, &["verify"]).0, 0);
    let refused = spool(&base, &["import", &place.text("nothing")]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("Stop the engine"), "{refused:?}");
    end(engine);

    let before = bytes_of(&base);
    for entry in before.keys() {
        let mut mode = fs::metadata(entry).expect("a file").permissions();
        mode.set_readonly(true);
        fs::set_permissions(entry, mode).expect("it is ours");
    }
    let (_, info) = json(&base, &["info"]);
    assert_eq!(info["data"]["running"], false);
    assert_eq!(json(&base, &["verify"]).0, 0);
    assert_eq!(lines(&base, &[]).len(), 4);
    assert_eq!(lines(&base, &["--limit", "3"]).len(), 3);
    assert_eq!(
        lines(&base, &["--where", "domain=b.example age<1h"]).len(),
        2
    );
    assert_eq!(
        lines(&base, &["--where", "size>10K"])[0]["recipient"],
        "four@c.example"
    );
    let id = id_of(&base, "two@b.example");
    let shown = spool(&base, &["show", &id]);
    assert!(shown.out.contains("Subject: second"), "{shown:?}");
    assert!(
        shown.out.contains("three@b.example by default: active"),
        "{shown:?}"
    );
    let (_, only) = json(&base, &["show", &format!("{id}-1")]);
    assert_eq!(
        only["data"]["recipients"][0]["recipient"],
        "three@b.example"
    );
    let body = spool(&base, &["show", &id, "--body"]).out;
    assert!(
        body.ends_with("\r\n\r\nFrom here\r\n>From there\r\n\r\n\r\nend\r\n"),
        "{body:?}"
    );
    assert_eq!(spool(&base, &["export", &place.text("saved")]).code, 0);
    assert_eq!(bytes_of(&base), before);
}

#[test]
fn what_is_asked_wrongly_is_said_with_the_right_exit_code() {
    let place = Place::new();
    let base = place.filled("spool");
    let nowhere = place.path("nowhere");
    for verb in [
        &["info"][..],
        &["verify"],
        &["list"],
        &["show", "0000100000001"],
    ] {
        let ran = spool(&nowhere, verb);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(
            ran.err.contains("Expected the folder that Spoolbase names"),
            "{ran:?}"
        );
    }
    assert_eq!(spool(&nowhere, &["import", &place.text("spool")]).code, 2);
    assert!(!nowhere.exists());
    assert_eq!(spool(&base, &["show", "not-an-id"]).code, 2);
    assert_eq!(spool(&base, &["show", "0000000000000"]).code, 3);
    assert_eq!(spool(&base, &["list", "--where", "cause=dns"]).code, 2);
    assert_eq!(
        spool(&base, &["export", &place.text("spool/within")]).code,
        2
    );
    let full = spool(
        &base,
        &["export", &place.folder.path().display().to_string()],
    );
    assert_eq!(full.code, 2, "{full:?}");
    assert!(full.err.contains("is not empty"), "{full:?}");
    let (code, error) = (full.code, spool(&base, &["show", "x", "--json"]).err);
    let error: Value = serde_json::from_str(&error).expect("an object");
    assert_eq!((code, &error["error"]["code"]), (2, &"E412".into()));
}

/// The segment in which a text stands, and where.
fn find(base: &Path, text: &str) -> (PathBuf, usize) {
    let found = |(path, bytes): (PathBuf, Vec<u8>)| {
        let at = memchr::memmem::find(&bytes, text.as_bytes())?;
        path.extension()
            .is_some_and(|it| it == "log")
            .then_some((path, at))
    };
    bytes_of(base)
        .into_iter()
        .find_map(found)
        .expect("it is stored")
}

/// The line that tells of a damaged place.
fn damage_told(text: &str) -> String {
    let mut lines = text.lines().map(str::trim_start);
    let found = lines.find(|it| it.starts_with("shard-") && it.contains("damaged"));
    found.unwrap_or_default().to_owned()
}

#[test]
fn what_is_on_the_disk_is_told_alike_in_text_and_json() {
    let place = Place::new();
    let base = place.filled("spool");
    let aside = base.join("shard-00/damaged-0000000000000077.log");
    fs::write(&aside, vec![0; 3 << 20]).expect("written");
    let text = spool(&base, &["info"]).out;
    for told in [
        "On disk   19.0 MiB in segments: 16.0 MiB in use, 0 B free, 3.0 MiB set aside; ",
        "SET ASIDE",
        "those set aside were\nfound damaged by a start, and nobody waits for anything in them",
        "Delayed   0 recipients",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let (code, info) = json(&base, &["info"]);
    let data = &info["data"];
    assert_eq!((code, &data["delayed_recipients"]), (0, &0.into()));
    let disk = &data["disk"];
    assert_eq!(disk["live_bytes"], 16 << 20);
    assert_eq!(disk["damaged_bytes"], 3 << 20);
    let is_log = |path: &PathBuf| path.extension().is_some_and(|it| it == "log");
    let others = bytes_of(&base)
        .into_iter()
        .filter(|(path, _)| !is_log(path));
    let others: usize = others.map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(disk["other_bytes"], others);
    let waiting = data["shards"].as_array().expect("shards").iter();
    let waiting: u64 = waiting.filter_map(|it| it["waiting"].as_u64()).sum();
    assert_eq!(waiting, 4);
    assert_eq!(data["strange"], serde_json::json!([]));
}

#[test]
fn what_waits_is_traced_without_an_engine() {
    let place = Place::new();
    let base = place.filled("spool");
    let trace = |target: &str, more: &[&str]| {
        let spool = base.to_str().expect("a plain path");
        pelton(&[&["trace", target, "--spool", spool], more].concat())
    };
    let id = id_of(&base, "two@b.example");
    for (target, waiting) in [
        ("THREE@b.example", 1),
        (&*id, 2),
        (&*format!("{id}-1"), 1),
        ("nobody@b.example", 0),
    ] {
        let ran = trace(target, &[]);
        assert_eq!(ran.code, if waiting > 0 { 0 } else { 3 }, "{ran:?}");
        let now = "now          waits in the spool for an engine to start, not tried yet\n";
        assert_eq!(ran.out.matches(now).count(), waiting, "{ran:?}");
        assert_eq!(ran.out.matches(" STORED, to ").count(), waiting, "{ran:?}");
    }
    // Known from the spool alone.
    fs::remove_dir_all(base.join("events")).expect("events");
    fs::create_dir(base.join("events")).expect("a folder");
    let ran = trace("one@a.example", &[]);
    assert!(ran.out.contains("from <s@x.example>, \"first\""), "{ran:?}");
    let document: Value = serde_json::from_str(&trace(&id, &["--json"]).out).expect("JSON");
    let messages = document["data"]["messages"].as_array().expect("messages");
    let states: Vec<_> = messages.iter().map(|it| &it["state"]).collect();
    assert_eq!(states, ["stored", "stored"]);
    assert_eq!(messages[0]["queued"]["message"]["binding"], "default");
}

#[test]
fn damage_is_told_with_its_place_and_its_price_and_made_no_worse() {
    let place = Place::new();
    let base = place.filled("spool");
    let id = id_of(&base, "four@c.example");
    let (path, at) = find(&base, "Subject: third");
    let mut bytes = fs::read(&path).expect("a segment");
    bytes[at + 20_000] ^= 1;
    fs::write(&path, &bytes).expect("it is ours");
    let before = bytes_of(&base);
    let (code, found) = json(&base, &["verify"]);
    assert_eq!(code, 1);
    assert_eq!(found["data"]["messages_lost"], serde_json::json!([id]));
    let piece = &found["data"]["damage"][0];
    let offset = piece["offset"].as_u64().expect("an offset") as usize;
    let end = offset + piece["bytes"].as_u64().expect("a size") as usize;
    assert!((offset..end).contains(&(at + 20_000)), "{piece}");
    let text = spool(&base, &["verify"]).out;
    assert!(
        text.contains(&format!("message {id} is lost, 1 recipient waits for it")),
        "{text}"
    );
    // Whoever tells of it says the same.
    let told = damage_told(&text);
    assert!(told.starts_with("shard-"), "{text}");
    let info = spool(&base, &["info"]);
    assert_eq!(info.code, 1, "{info:?}");
    let words = |sentence: &str| sentence.split_once(" at ").map(|it| it.1.to_owned());
    let without_place = |text: &str| words(text)?.split_once(": ").map(|it| it.1.to_owned());
    assert_eq!(
        without_place(&damage_told(&info.out)),
        without_place(&told),
        "{info:?}"
    );
    // The rest can be taken out, and that it is not all of it is said.
    let list = spool(&base, &["list", "--json"]);
    assert_eq!((list.code, list.out.lines().count()), (1, 3), "{list:?}");
    let warned = "WARN the spool has 1 damaged place: mail that lay there is missing here";
    assert!(list.err.starts_with(warned), "{list:?}");
    assert_eq!(spool(&base, &["list"]).code, 1);
    let saved = spool(&base, &["export", &place.text("saved")]);
    assert_eq!(saved.code, 1, "{saved:?}");
    assert!(saved.err.starts_with(warned), "{saved:?}");
    let first = saved.out.lines().next().unwrap_or_default();
    assert!(
        first.starts_with("exported 2 messages for 3 recipients")
            && first.ends_with("/saved: not all that waited"),
        "{saved:?}"
    );
    let new = place.path("new");
    let from = place.text("spool");
    let taken = spool(&new, &["import", "--spool-from", &from, "--create"]);
    assert_eq!(taken.code, 1, "{taken:?}");
    assert!(taken.err.contains(warned), "{taken:?}");
    assert_eq!(bytes_of(&base), before);
}

#[test]
fn nothing_that_lies_in_a_spool_makes_a_command_panic() {
    let place = Place::new();
    let base = place.filled("spool");
    let (segment, at) = find(&base, "Subject: third");
    let whole = fs::read(&segment).expect("a segment");
    type Deed<'a> = (&'a str, &'a dyn Fn());
    let deeds: [Deed<'_>; 7] = [
        ("cut", &|| {
            fs::write(&segment, &whole[..at + 100]).expect("written")
        }),
        ("empty", &|| fs::write(&segment, b"").expect("written")),
        ("noise", &|| {
            fs::write(&segment, vec![0xa5; 70_000]).expect("written")
        }),
        ("gone", &|| fs::remove_file(&segment).expect("removed")),
        ("a folder", &|| fs::create_dir(&segment).expect("made")),
        ("strange names", &|| {
            let last = base.join("shard-00/seg-ffffffffffffffff.log");
            fs::write(last, b"x").expect("written");
            fs::write(base.join("shard-99"), b"x").expect("written");
            fs::create_dir(base.join("shard-77")).expect("made");
        }),
        ("no spool.json", &|| {
            fs::remove_file(base.join("spool.json")).expect("removed")
        }),
    ];
    for (what, deed) in deeds {
        deed();
        let before = bytes_of(&base);
        assert_eq!(spool(&base, &["verify"]).code, 1, "{what}");
        for verb in [&["info"][..], &["list"]] {
            assert_eq!(spool(&base, verb).code, 1, "{what}: {verb:?}");
        }
        let ran = spool(&base, &["show", "0000100000001"]);
        assert!([0, 1, 3].contains(&ran.code), "{what}: {ran:?}");
        let saved = place.text(&format!("saved {what}"));
        let ran = spool(&base, &["export", &saved]);
        assert_eq!(ran.code, 1, "{what}: {ran:?}");
        assert_eq!(bytes_of(&base), before, "{what}");
    }
}

#[test]
fn what_was_imported_is_delivered_once() {
    let place = Place::new();
    let base = place.filled("spool");
    let saved = place.text("saved");
    assert_eq!(spool(&base, &["export", &saved]).code, 0);
    let new = place.path("new");
    let ran = spool(&new, &["import", &saved, "--create"]);
    assert!(
        ran.out.starts_with("imported 3 messages for 4 recipients"),
        "{ran:?}"
    );
    assert_eq!(contents(&new), contents(&base));
    assert_eq!(json(&new, &["verify"]).0, 0);
    let again = spool(&new, &["import", &saved]);
    assert!(again.out.contains("imported 0 messages"), "{again:?}");
    assert!(again.out.contains("3 skipped"), "{again:?}");
    let from = place.text("spool");
    let again = spool(&new, &["import", "--spool-from", &from]);
    assert!(again.out.contains("3 skipped"), "{again:?}");
    let home = spool(&base, &["import", &saved]);
    assert!(home.out.contains("3 skipped"), "{home:?}");

    let config = SinkConfig {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        ..SinkConfig::default()
    };
    let sink = Sink::start(config).expect("a receiving host");
    let engine = place.engine("new", Some(sink.addrs()[0]));
    assert!(sink.wait_for_messages(3, PATIENCE), "{:?}", sink.counts());
    end(engine);
    let (_, info) = json(&new, &["info"]);
    assert_eq!(info["data"]["recipients"], 0);
    assert_eq!(sink.received(), 3);
    // What has been delivered since is not taken again either.
    let again = spool(&new, &["import", &saved]);
    assert!(again.out.contains("3 skipped"), "{again:?}");
    let log = bytes_of(&new.join("events"))
        .into_values()
        .flatten()
        .collect();
    let log = String::from_utf8(log).expect("JSON");
    let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(count("\"type\":\"delivery\""), 4, "{log}");
    assert_eq!(count("possible_duplicate\":true"), 0, "{log}");
}

#[test]
fn an_mbox_goes_out_and_comes_back_with_its_envelopes() {
    let place = Place::new();
    let base = place.filled("spool");
    let mbox = place.text("all.mbox");
    assert_eq!(spool(&base, &["export", "--mbox", &mbox]).code, 0);
    let text = fs::read_to_string(&mbox).expect("an mbox");
    assert!(
        text.contains("\n>From here\n>>From there\n\n\nend\n\nFrom "),
        "{text}"
    );
    assert!(text.contains("From MAILER-DAEMON "), "{text}");
    let new = place.path("new");
    let ran = spool(
        &new,
        &["import", "--mbox", &mbox, "--create", "--binding", "a"],
    );
    assert!(
        ran.out.starts_with("imported 3 messages for 4 recipients"),
        "{ran:?}"
    );
    assert_eq!(contents(&new), contents(&base));
    assert_eq!(lines(&new, &["--where", "binding=a"]).len(), 4);
    let again = spool(&new, &["import", "--mbox", &mbox]);
    assert!(again.out.contains("3 skipped"), "{again:?}");
    let to = ["import", "--mbox", &mbox, "--to", "archive@d.example"];
    assert_eq!(spool(&new, &to).code, 0);
    assert_eq!(
        lines(&new, &["--where", "recipient=archive@d.example"]).len(),
        3
    );
}

#[test]
fn a_folder_that_is_not_whole_is_refused_before_anything_is_taken() {
    let place = Place::new();
    let base = place.filled("spool");
    let saved = place.path("saved");
    assert_eq!(spool(&base, &["export", &place.text("saved")]).code, 0);
    let id = id_of(&base, "four@c.example");
    let (message, envelope) = (format!("{id}.eml"), format!("{id}.json"));
    let new = place.path("new");
    let refused = |expected: &str| {
        let ran = spool(&new, &["import", &place.text("saved"), "--create"]);
        assert!([1, 2].contains(&ran.code), "{ran:?}");
        assert!(ran.err.contains(expected), "{expected}: {ran:?}");
        assert!(!new.exists());
    };
    let body = fs::read(saved.join(&message)).expect("a message");
    fs::write(saved.join(&message), &body[..1_000]).expect("written");
    refused("is not what was exported");
    fs::write(saved.join(&message), &body).expect("written");
    let json = fs::read_to_string(saved.join(&envelope)).expect("an envelope");
    fs::write(
        saved.join(&envelope),
        json.replace("four@c.example", "four at c"),
    )
    .expect("written");
    refused("\"four at c\" is no address");
    fs::write(saved.join(&envelope), "{").expect("written");
    refused("no envelope of an exported message");
    fs::remove_file(saved.join(&envelope)).expect("removed");
    refused("beside it");
    fs::remove_file(saved.join(&message)).expect("removed");
    let ran = spool(&new, &["import", &place.text("saved"), "--create"]);
    assert!(
        ran.out.starts_with("imported 2 messages for 3 recipients"),
        "{ran:?}"
    );
    // The one that was missing comes in later.
    fs::write(saved.join(&message), &body).expect("written");
    fs::write(saved.join(&envelope), json).expect("written");
    let ran = spool(&new, &["import", &place.text("saved")]);
    assert!(
        ran.out.starts_with("imported 1 message for 1 recipient"),
        "{ran:?}"
    );
    assert_eq!(contents(&new), contents(&base));
}
