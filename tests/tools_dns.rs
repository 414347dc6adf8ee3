//! The DNS responder, asked over real sockets.

#![allow(clippy::disallowed_methods)] // It waits and measures against the clock.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use hickory_proto::op::Edns;
use hickory_proto::op::Message;
use hickory_proto::op::MessageType;
use hickory_proto::op::OpCode;
use hickory_proto::op::Query;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::RecordType;
use pelton::rig::dns::DnsResponder;
use pelton::rig::dns::zone::Zone;

const DEADLINE: Duration = Duration::from_secs(60);

const ZONE: &str = "
    a.example       MX      20 mx2.a.example
    a.example       MX      10 mx1.a.example
    mx1.a.example   A       127.0.0.1
    mx1.a.example   AAAA    ::1
    alias.example   CNAME   a.example
    loop1.example   CNAME   loop2.example
    loop2.example   CNAME   loop1.example
    null.example    MX      0 .
    gone.example    NXDOMAIN
    bad.example     SERVFAIL
    no.example      REFUSED
    dead.example    SILENT
    slow.example    A       127.0.0.2
    slow.example    DELAY   600ms
    text.example    TXT     v=spf1 -all
    *.wild.example  A       127.0.0.3
";

fn start(zone: &str) -> DnsResponder {
    let zone = Zone::parse(zone).expect("a good zone");
    DnsResponder::start(SocketAddr::from(([127, 0, 0, 1], 0)), zone).expect("it listens")
}

fn question(name: &str, wanted: RecordType, room: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(4_711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(
        Name::from_ascii(name).expect("a name"),
        wanted,
    ));
    if let Some(room) = room {
        let mut edns = Edns::new();
        edns.set_max_payload(room);
        message.set_edns(edns);
    }
    message.to_vec().expect("it encodes")
}

fn socket(dns: &DnsResponder) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(dns.addr()).expect("a peer");
    socket
        .set_read_timeout(Some(DEADLINE))
        .expect("a time limit");
    socket
}

fn receive(socket: &UdpSocket) -> Message {
    let mut packet = [0; 65_535];
    let length = socket.recv(&mut packet).expect("an answer");
    Message::from_vec(&packet[..length]).expect("it decodes")
}

fn ask(dns: &DnsResponder, name: &str, wanted: RecordType) -> Message {
    let socket = socket(dns);
    socket
        .send(&question(name, wanted, None))
        .expect("it is sent");
    let reply = receive(&socket);
    assert_eq!(reply.metadata.id, 4_711);
    assert!(reply.metadata.authoritative);
    reply
}

fn ask_tcp(dns: &DnsResponder, packet: &[u8]) -> Message {
    let mut stream = TcpStream::connect(dns.addr()).expect("it accepts");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a time limit");
    let mut framed = (packet.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(packet);
    stream.write_all(&framed).expect("it is sent");
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a length");
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).expect("an answer");
    Message::from_vec(&reply).expect("it decodes")
}

fn answers(reply: &Message) -> Vec<String> {
    reply
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

#[test]
fn records_of_every_kind_are_answered() {
    let dns = start(ZONE);
    let cases: [(&str, RecordType, &[&str]); 8] = [
        (
            "a.example.",
            RecordType::MX,
            &["20 mx2.a.example.", "10 mx1.a.example."],
        ),
        ("MX1.A.Example.", RecordType::A, &["127.0.0.1"]),
        ("mx1.a.example.", RecordType::AAAA, &["::1"]),
        ("null.example.", RecordType::MX, &["0 ."]),
        ("x.y.wild.example.", RecordType::A, &["127.0.0.3"]),
        ("text.example.", RecordType::TXT, &["v=spf1 -all"]),
        ("alias.example.", RecordType::CNAME, &["a.example."]),
        (
            "alias.example.",
            RecordType::MX,
            &["a.example.", "20 mx2.a.example.", "10 mx1.a.example."],
        ),
    ];
    for (name, wanted, expected) in cases {
        let reply = ask(&dns, name, wanted);
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::NoError,
            "{name}"
        );
        assert_eq!(answers(&reply), expected, "{name} {wanted}");
    }
    let counts = dns.stop();
    assert_eq!((counts.udp_queries, counts.by_code["NOERROR"]), (8, 8));
    assert_eq!(
        (counts.by_type["MX"], counts.by_name["alias.example"]),
        (3, 2)
    );
}

#[test]
fn failures_have_their_codes_and_what_is_missing_has_an_authority() {
    let dns = start(ZONE);
    let cases = [
        ("gone.example.", ResponseCode::NXDomain, 1),
        ("never.test.", ResponseCode::NXDomain, 1),
        ("mx1.a.example.", ResponseCode::NoError, 1),
        ("bad.example.", ResponseCode::ServFail, 0),
        ("no.example.", ResponseCode::Refused, 0),
    ];
    for (name, code, authorities) in cases {
        let reply = ask(&dns, name, RecordType::MX);
        assert_eq!(reply.metadata.response_code, code, "{name}");
        assert_eq!(
            (reply.answers.len(), reply.authorities.len()),
            (0, authorities),
            "{name}"
        );
    }
    let reply = ask(&dns, "loop1.example.", RecordType::A);
    assert_eq!(reply.answers.len(), 8);
}

#[test]
fn silence_and_delay_hold_up_nobody_else() {
    let dns = start(ZONE);
    let socket = socket(&dns);
    let began = Instant::now();
    for name in ["dead.example.", "slow.example.", "mx1.a.example."] {
        socket
            .send(&question(name, RecordType::A, None))
            .expect("it is sent");
    }
    assert_eq!(answers(&receive(&socket)), ["127.0.0.1"]);
    assert_eq!(answers(&receive(&socket)), ["127.0.0.2"]);
    assert!(began.elapsed() >= Duration::from_millis(600));
    assert_eq!(dns.stop().unanswered, 1);
}

#[test]
fn an_answer_without_room_is_truncated_and_comes_whole_over_tcp() {
    let zone: String = (0..1_000)
        .map(|n| format!("many.example MX {n} mx{n}.example\n"))
        .collect();
    let dns = start(&zone);
    let reply = ask(&dns, "many.example.", RecordType::MX);
    assert!(reply.metadata.truncation);
    let packet = question("many.example.", RecordType::MX, Some(4_096));
    let socket = socket(&dns);
    socket.send(&packet).expect("it is sent");
    assert!(receive(&socket).metadata.truncation);
    let reply = ask_tcp(&dns, &packet);
    assert_eq!(
        (reply.answers.len(), reply.metadata.truncation),
        (1_000, false)
    );
    let counts = dns.stop();
    assert_eq!(
        (counts.udp_queries, counts.tcp_queries, counts.truncated),
        (2, 1, 2)
    );
}

#[test]
fn packets_that_are_no_question_are_counted_and_left_alone() {
    let dns = start(ZONE);
    let socket = socket(&dns);
    let mut response = question("a.example.", RecordType::MX, None);
    response[2] |= 0x80;
    for packet in [&b"x"[..], &[0xff; 600], &response] {
        socket.send(packet).expect("it is sent");
    }
    socket
        .send(&question("mx1.a.example.", RecordType::A, None))
        .expect("it is sent");
    assert_eq!(answers(&receive(&socket)), ["127.0.0.1"]);
    assert_eq!(dns.stop().malformed, 3);
}
