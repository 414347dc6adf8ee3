//! Against name servers of our own on loopback, which answer from a table.

use std::collections::BTreeMap;

use hickory_proto::op::Message;
use hickory_proto::op::MessageType;
use hickory_proto::rr::rdata;
use tokio::net::UdpSocket;

use super::*;

/// How a name is answered for.
#[derive(Clone)]
enum Says {
    Records(Vec<Record>),
    NoName,
    NoData,
    Fails,
    Nothing,
}

type Zone = BTreeMap<(String, RecordType), Says>;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

fn mx(owner: &str, ttl: u32, preference: u16, host: &str) -> Record {
    record(
        owner,
        ttl,
        RData::MX(rdata::MX::new(preference, name(host))),
    )
}

fn a(owner: &str, ttl: u32, address: &str) -> Record {
    record(owner, ttl, RData::A(rdata::A(address.parse().unwrap())))
}

fn aaaa(owner: &str, ttl: u32, address: &str) -> Record {
    record(
        owner,
        ttl,
        RData::AAAA(rdata::AAAA(address.parse().unwrap())),
    )
}

fn alias(owner: &str, target: &str) -> Record {
    record(owner, 60, RData::CNAME(rdata::CNAME(name(target))))
}

fn soa() -> Record {
    let soa = rdata::SOA::new(name("ns.example."), name("x.example."), 1, 60, 60, 60, 77);
    record("example.", 77, RData::SOA(soa))
}

fn reply(query: &Message, zone: &Zone) -> Option<Message> {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    let asked = query.queries.first()?;
    reply.add_query(asked.clone());
    let owner = asked.name().to_ascii().to_ascii_lowercase();
    let key = (owner.clone(), asked.query_type());
    let aliased = zone.get(&(owner.clone(), RecordType::CNAME));
    let named = zone.keys().any(|(name, _)| *name == owner);
    let denial = if named { Says::NoData } else { Says::NoName };
    match zone.get(&key).or(aliased).cloned().unwrap_or(denial) {
        Says::Records(records) => {
            reply.add_answers(records);
        }
        Says::NoData => {
            reply.add_authority(soa());
        }
        Says::NoName => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            reply.add_authority(soa());
        }
        Says::Fails => reply.metadata.response_code = ResponseCode::ServFail,
        Says::Nothing => return None,
    }
    Some(reply)
}

fn zone() -> Zone {
    let list = |records: &[Record]| Says::Records(records.to_vec());
    let one = |record: Record| Says::Records(vec![record]);
    let exchanges = [
        mx("a.example.", 300, 20, "MX2.Example."),
        mx("a.example.", 300, 10, "mx1.example."),
    ];
    // The chain in one answer, as recursive servers give it: its shortest time counts.
    let chain = [&[alias("alias.example.", "a.example.")], &exchanges[..]].concat();
    let mx1 = ["192.0.2.1", "192.0.2.2"].map(|address| a("mx1.example.", 200, address));
    let lost = [
        mx("lost.example.", 60, 5, "none.example."),
        mx("lost.example.", 60, 6, "bad.example."),
    ];
    let many = (0..30)
        .rev()
        .map(|n| mx("many.example.", 60, n, &format!("m{n}.example.")));
    let entries = [
        ("a", RecordType::MX, list(&exchanges)),
        ("mx1", RecordType::A, list(&mx1)),
        (
            "mx2",
            RecordType::AAAA,
            one(aaaa("mx2.example.", 100, "2001:db8::2")),
        ),
        (
            "own",
            RecordType::A,
            one(a("own.example.", 50, "192.0.2.9")),
        ),
        ("nodata", RecordType::TXT, Says::NoData),
        ("null", RecordType::MX, one(mx("null.example.", 60, 0, "."))),
        ("fails", RecordType::MX, Says::Fails),
        ("silent", RecordType::MX, Says::Nothing),
        ("lost", RecordType::MX, list(&lost)),
        ("bad", RecordType::A, Says::Fails),
        ("bad", RecordType::AAAA, Says::Fails),
        (
            "half",
            RecordType::A,
            one(a("half.example.", 60, "192.0.2.7")),
        ),
        ("half", RecordType::AAAA, Says::Fails),
        ("alias", RecordType::MX, list(&chain)),
        (
            "x",
            RecordType::CNAME,
            one(alias("x.example.", "y.example.")),
        ),
        (
            "y",
            RecordType::CNAME,
            one(alias("y.example.", "x.example.")),
        ),
        ("many", RecordType::MX, Says::Records(many.collect())),
    ];
    let owner = |label: &str| format!("{label}.example.");
    entries
        .into_iter()
        .map(|(label, kind, says)| ((owner(label), kind), says))
        .collect()
}

/// Runs `check` against a server that answers from the zone.
fn with_dns(zone: Zone, check: impl AsyncFnOnce(&Dns)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut buffer = vec![0; 4_096];
            while let Ok((bytes, peer)) = socket.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..bytes]).unwrap();
                if let Some(reply) = reply(&query, &zone) {
                    socket
                        .send_to(&reply.to_vec().unwrap(), peer)
                        .await
                        .unwrap();
                }
            }
        });
        let dns = Dns::new(&[address], Duration::from_millis(200)).unwrap();
        check(&dns).await;
        server.abort();
    });
}

fn told(answer: &Answer) -> String {
    let found = match &answer.found {
        Found::Exchanges(list) => {
            let exchange = |exchange: &Exchange| {
                let addresses = match &exchange.addresses {
                    Addresses::Found(list) => {
                        let list: Vec<String> = list.iter().map(IpAddr::to_string).collect();
                        list.join(",")
                    }
                    other => format!("{other:?}"),
                };
                format!("{} {} {addresses}", exchange.preference, exchange.host)
            };
            list.iter().map(exchange).collect::<Vec<_>>().join("; ")
        }
        Found::Own(list) => format!("own {list:?}"),
        other => format!("{other:?}"),
    };
    format!("{found} ({} s)", answer.ttl_s)
}

#[test]
fn each_kind_of_answer_is_told_apart() {
    let cases = [
        (
            Question::mx("a.example"),
            "10 mx1.example 192.0.2.1,192.0.2.2; 20 mx2.example 2001:db8::2 (77 s)",
        ),
        (Question::mx("own.example"), "own [192.0.2.9] (50 s)"),
        (Question::address("own.example"), "own [192.0.2.9] (50 s)"),
        (Question::address("half.example"), "own [192.0.2.7] (60 s)"),
        (Question::mx("nodata.example"), "NoData (77 s)"),
        (Question::mx("none.example"), "NoName (77 s)"),
        (Question::mx("null.example"), "0  None (60 s)"),
        (Question::mx("fails.example"), "Failed(Server) (0 s)"),
        (Question::mx("silent.example"), "Failed(Timeout) (0 s)"),
        (
            Question::mx("lost.example"),
            "5 none.example None; 6 bad.example Failed(Server) (60 s)",
        ),
        (Question::mx("x.example"), "Failed(AliasLoop) (0 s)"),
        (
            Question::mx("alias.example"),
            "10 mx1.example 192.0.2.1,192.0.2.2; 20 mx2.example 2001:db8::2 (60 s)",
        ),
        (Question::mx(""), "NoName (60 s)"),
    ];
    with_dns(zone(), async |dns: &Dns| {
        for (question, expected) in cases {
            assert_eq!(told(&dns.answer(&question).await), expected, "{question:?}");
        }
    });
}

#[test]
fn questions_are_answered_together_and_again_after_forgetting() {
    with_dns(zone(), async |dns: &Dns| {
        let mut asked = JoinSet::new();
        for _ in 0..50 {
            let dns = dns.clone();
            asked.spawn(async move { dns.answer(&Question::mx("many.example")).await });
        }
        while let Some(answer) = asked.join_next().await {
            let Found::Exchanges(list) = answer.unwrap().found else {
                panic!("exchanges were found");
            };
            assert_eq!(list.len(), 30);
            assert!(list.is_sorted_by_key(|exchange| exchange.preference));
        }
        assert_eq!(dns.slots.available_permits(), QUERIES_MAX);
        dns.forget(&Question::mx("many.example"));
        assert!(matches!(
            dns.answer(&Question::mx("many.example")).await.found,
            Found::Exchanges(_)
        ));
    });
}

#[test]
fn the_servers_of_the_system_are_read_from_their_lines() {
    let text = "# nameserver 192.0.2.7\nsearch x\nnameserver 192.0.2.1\n nameserver ::1 # x\n\
        nameserver fe80::1%eth0\nnameserver\n";
    let expected = ["192.0.2.1:53", "[::1]:53"].map(|text| text.parse().unwrap());
    assert_eq!(servers_in(text), expected);
}
