//! A receiver that blocks the sending address, on the wire and over a kill: no mail is lost, none
//! uses up an attempt, nothing is tried meanwhile, and an operator can see it and end it.

#[allow(dead_code, reason = "made for deaths of another kind")]
mod crash_rig;

use core::net::SocketAddr;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crash_rig::STEP_TIMEOUT;
use crash_rig::engine::Engine;
use crash_rig::free_address;
use crash_rig::wait_until;
use pelton::rig::blast::Blast;
use pelton::rig::blast::BlastConfig;
use pelton::rig::blast::mix::Mix;

const MESSAGES: u64 = 40;

/// A receiving host that refuses every recipient while it blocks.
#[derive(Default)]
struct Host {
    blocks: AtomicBool,
    asked: AtomicU64,
    taken: AtomicU64,
}

impl Host {
    fn start(self: &Arc<Host>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
        let address = listener.local_addr().expect("an address");
        let host = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let host = host.clone();
                // A connection that breaks is the end of its thread.
                std::thread::spawn(move || host.talk(stream).unwrap_or_default());
            }
        });
        address
    }

    fn talk(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        stream.write_all(b"220 host.example\r\n")?;
        let mut in_data = false;
        while let Some(line) = lines.next().transpose()? {
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            let reply: &[u8] = match verb.as_str() {
                _ if in_data && line != "." => continue,
                _ if in_data => {
                    in_data = false;
                    self.taken.fetch_add(1, Ordering::SeqCst);
                    b"250 2.0.0 taken\r\n"
                }
                "RCPT" => {
                    self.asked.fetch_add(1, Ordering::SeqCst);
                    match self.blocks.load(Ordering::SeqCst) {
                        true => b"554 5.7.1 Client host blocked using zen.spamhaus.org\r\n",
                        false => b"250 2.1.5 fine\r\n",
                    }
                }
                "DATA" => {
                    in_data = true;
                    b"354 go ahead\r\n"
                }
                "QUIT" => return stream.write_all(b"221 2.0.0 bye\r\n"),
                _ => b"250 fine\r\n",
            };
            stream.write_all(reply)?;
        }
        Ok(())
    }
}

/// What a command prints.
fn pelton(spool: &Path, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
    let ran = command.args(words).arg("--spool").arg(spool).output();
    let ran = ran.expect("the command runs");
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{words:?}: {error}");
    String::from_utf8(ran.stdout).expect("text")
}

fn configure(config: &Path, spool: &Path, [smtp, http, target]: [SocketAddr; 3]) {
    let text = format!(
        "Spoolbase = \"{}\"\nShards = 2\nPin_Shards = false\nSpool_Segment_Size = 4M\n\
         Min_Free_Space = 0\nstatic_routes {{ target = \"{target}\" }}\nadaptive_enabled = true\n\
         ESMTP_Listener {{ Listen \"{smtp}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" ) }} }}\n\
         HTTP_Listener {{ Listen \"{http}\" {{ }} }}\ndefault_binding = \"a\"\n\
         binding \"a\" {{ Bind_Address = \"127.0.0.1\" }}\n",
        spool.display()
    );
    fs::write(config, text).expect("the configuration is written");
}

#[test]
fn a_block_costs_neither_mail_nor_attempts_and_outlives_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let host = Arc::new(Host::default());
    host.blocks.store(true, Ordering::SeqCst);
    let target = host.start();
    let (smtp, http, spool) = (free_address(), free_address(), folder.path().join("spool"));
    let config = folder.path().join("pelton.conf");
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
    wait_until("a block that is kept", || {
        let kept = fs::read_to_string(spool.join("adaptive.ledger")).unwrap_or_default();
        kept.contains("one.example") && kept.contains("zen.spamhaus.org")
    });
    for counted in ["delayed", "bounced"] {
        let total = engine.metric(&format!("pelton_messages_{counted}_total"));
        assert_eq!(total, Some(0.0), "{counted}");
    }
    engine.kill();

    let asked = host.asked.load(Ordering::SeqCst);
    let engine = Engine::start(&config, &log, http);
    engine.wait_ready(STEP_TIMEOUT).expect("it is ready again");
    wait_until("the queue", || engine.queued() == Some(MESSAGES));
    let words = [
        "adaptive",
        "explain",
        "--binding",
        "a",
        "--domain",
        "one.example",
    ];
    assert!(pelton(&spool, &words).contains("zen.spamhaus.org"));
    assert!(pelton(&spool, &["blocks"]).contains("one.example"));
    assert!(pelton(&spool, &["why", "one.example"]).contains("adaptive delivery has suspended"));
    assert!(pelton(&spool, &["changes"]).contains("suspended for 4h"));
    assert_eq!(
        host.asked.load(Ordering::SeqCst),
        asked,
        "nothing was tried"
    );

    host.blocks.store(false, Ordering::SeqCst);
    pelton(&spool, &["adaptive", "resume", "--all"]);
    wait_until("empty queues", || engine.queued() == Some(0));
    assert_eq!(host.taken.load(Ordering::SeqCst), MESSAGES);
    let total = engine.metric("pelton_messages_delayed_total");
    assert_eq!(total, Some(0.0), "no attempt was used up");
    let of = ["--binding", "a", "--domain", "one.example"];
    let wanted = [
        &["adaptive", "override"],
        &of[..],
        &["retry_interval", "77"],
    ]
    .concat();
    pelton(&spool, &wanted);
    assert!(pelton(&spool, &words).contains("retry_interval 77 by operator"));
    pelton(&spool, &[&["adaptive", "reset"], &of[..]].concat());
    assert!(pelton(&spool, &["adaptive", "list"]).contains("nothing was learnt"));
}
