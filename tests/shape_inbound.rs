//! Mail that comes in under throttles: it is slowed where that was asked for, and refused with a
//! clear word where a client does more than it may. Of time only that is asserted which a slow
//! machine cannot change.

#![expect(
    clippy::disallowed_methods,
    reason = "what is outside of the engine has a clock"
)]

#[allow(dead_code, reason = "made for deaths, of which there are none here")]
mod crash_rig;

use core::time::Duration;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Instant;

use crash_rig::STEP_TIMEOUT;
use crash_rig::engine::Engine;
use crash_rig::free_address;
use crash_rig::wait_until;

/// An engine whose listen address has these options; mail stays in its queues.
struct Rig {
    _folder: tempfile::TempDir,
    engine: Engine,
    smtp: SocketAddr,
}

fn start(shards: u32, options: &str) -> Rig {
    let folder = tempfile::tempdir().expect("a folder for the run");
    let (smtp, http) = (free_address(), free_address());
    let text = format!(
        "Spoolbase = \"{}\"\nShards = {shards}\nPin_Shards = false\nSpool_Segment_Size = 4M\n\
         Min_Free_Space = 0\nSuspend_Delivery = true\n\
         ESMTP_Listener {{ Listen \"{smtp}\" {{\n\
         Relay_Hosts = ( \"127.0.0.0/8\" )\n{options} }} }}\n\
         HTTP_Listener {{ Listen \"{http}\" {{ }} }}\n",
        folder.path().join("spool").display()
    );
    let config = folder.path().join("pelton.conf");
    fs::write(&config, text).expect("the configuration is written");
    let engine = Engine::start(&config, &folder.path().join("pelton.log"), http);
    engine
        .wait_ready(STEP_TIMEOUT)
        .expect("the engine is ready");
    Rig {
        _folder: folder,
        engine,
        smtp,
    }
}

/// One connection; gives the code and the text of each reply.
struct Client {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Client {
    fn connect(to: SocketAddr) -> Client {
        let stream = TcpStream::connect(to).expect("it listens");
        stream
            .set_read_timeout(Some(STEP_TIMEOUT))
            .expect("a timeout");
        let replies = BufReader::new(stream.try_clone().expect("a handle"));
        Client { stream, replies }
    }

    fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.replies.read_line(&mut line).expect("a reply");
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_string();
            }
        }
    }

    fn say(&mut self, text: &str) -> String {
        self.stream
            .write_all(format!("{text}\r\n").as_bytes())
            .expect("it takes commands");
        self.reply()
    }

    fn greet(&mut self) {
        assert!(self.reply().starts_with("220"));
        assert!(self.say("EHLO client.example").starts_with("250"));
    }
}

const ENVELOPE: [&str; 2] = ["MAIL FROM:<a@client.example>", "RCPT TO:<b@one.example>"];

#[test]
fn mail_over_the_throttle_waits_and_is_taken_in_its_turn() {
    let rig = start(2, "Inbound_Throttle_Messages = \"4/1\"");
    let began = Instant::now();
    let clients = (0..3).map(|_| {
        let smtp = rig.smtp;
        std::thread::spawn(move || {
            let mut client = Client::connect(smtp);
            client.greet();
            let mut taken = Vec::new();
            for _ in 0..4 {
                // All of a message at once: what comes behind DATA waits with it.
                let [mail, rcpt] = ENVELOPE;
                let text = format!("{mail}\r\n{rcpt}\r\nDATA\r\n");
                client.stream.write_all(text.as_bytes()).expect("taken");
                let codes: Vec<String> = (0..3).map(|_| client.reply()[..3].to_string()).collect();
                assert_eq!(codes, ["250", "250", "354"]);
                taken.push(began.elapsed());
                assert!(
                    client
                        .say("Subject: x\r\n\r\nhello\r\n.")
                        .starts_with("250")
                );
            }
            taken
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut taken: Vec<Duration> = Vec::new();
    for client in clients {
        taken.extend(client.join().expect("a client"));
    }
    taken.sort();
    for (place, after) in taken.iter().enumerate() {
        let least = Duration::from_secs(place as u64 / 4);
        assert!(*after >= least, "message {place} was taken after {after:?}");
    }
    wait_until("12 messages", || rig.engine.queued() == Some(12));
    let slowed = rig.engine.metric("pelton_messages_slowed_total");
    assert!(slowed >= Some(1.0), "{slowed:?}");
}

#[test]
fn who_would_wait_too_long_is_told_to_come_back() {
    let rig = start(1, "Inbound_Throttle_Messages = \"1/3600\"");
    let mut client = Client::connect(rig.smtp);
    client.greet();
    let mut replies = Vec::new();
    for _ in 0..2 {
        for line in ENVELOPE {
            assert!(client.say(line).starts_with("250"));
        }
        replies.push(client.say("DATA")[..9].to_string());
        match replies.len() {
            1 => assert!(
                client
                    .say("Subject: x\r\n\r\nhello\r\n.")
                    .starts_with("250")
            ),
            _ => assert!(client.say("RSET").starts_with("250")),
        }
    }
    assert!(replies[0].starts_with("354"));
    assert_eq!(replies[1], "451 4.3.2");
}

#[test]
fn a_client_that_does_too_much_is_refused_and_others_are_not() {
    let rig = start(
        2,
        "Max_Connection_Rate_Per_Peer = \"3/3600\"\nMax_Message_Rate_Per_Peer = \"2/3600\"\n\
         Max_Recipient_Rate_Per_Peer = \"3/3600\"",
    );
    let mut client = Client::connect(rig.smtp);
    client.greet();
    let [mail, rcpt] = ENVELOPE;
    assert!(client.say(mail).starts_with("250"));
    for _ in 0..3 {
        assert!(client.say(rcpt).starts_with("250"));
    }
    let refused = client.say(rcpt);
    assert!(refused.starts_with("451 4.4.5"), "{refused}");
    assert!(client.say("RSET").starts_with("250"));
    assert!(client.say(mail).starts_with("250"));
    assert!(client.say("RSET").starts_with("250"));
    let refused = client.say(mail);
    assert!(refused.starts_with("451 4.4.5"), "{refused}");
    for _ in 0..2 {
        assert!(Client::connect(rig.smtp).reply().starts_with("220"));
    }
    let refused = Client::connect(rig.smtp).reply();
    assert_eq!(
        refused,
        "421 4.4.5 Service unavailable, connection rate limit reached."
    );
}
