use core::time::Duration;

use super::*;
use crate::deliver::dns_answer::Answer;

const NOW: Mono = Mono(1_000_000);

fn settings() -> Settings {
    Settings {
        target: None,
        gateway: None,
        routes: Vec::new(),
        remote_port: 25,
        prohibited: ["127.0.0.0/8", "10.0.0.0/8", "::1/128"]
            .map(|n| n.parse().unwrap())
            .into(),
        own_names: vec!["me.example".into()],
        own_addresses: vec!["198.51.100.1".parse().unwrap()],
        mx_failures_fallback_to_a: 3,
        families: Families { v4: true, v6: true },
    }
}

fn found(text: &str) -> Addresses {
    Addresses::Found(
        text.split(',')
            .map(|address| address.parse().unwrap())
            .collect(),
    )
}

/// `10 mx.example 192.0.2.1,192.0.2.2`; no address is `-`, a failure `?`.
fn exchanges(lines: &[&str]) -> Found {
    let exchange = |line: &&str| {
        let words: Vec<&str> = line.split(' ').collect();
        Exchange {
            preference: words[0].parse().unwrap(),
            host: words[1].into(),
            addresses: match words[2] {
                "-" => Addresses::None,
                "?" => Addresses::Failed(Failure::Server),
                addresses => found(addresses),
            },
        }
    };
    Found::Exchanges(lines.iter().map(exchange).collect())
}

fn own(addresses: &str) -> Found {
    match found(addresses) {
        Addresses::Found(addresses) => Found::Own(addresses),
        _ => panic!("addresses were found"),
    }
}

fn cache(answers: &[(Question, Found)]) -> Cache {
    let mut cache = Cache::new(100);
    for (question, found) in answers {
        let answer = Answer {
            found: found.clone(),
            ttl_s: 60,
        };
        cache.insert(NOW, question.clone(), answer);
    }
    cache
}

fn told(planned: &Planned) -> String {
    match planned {
        Planned::Ask { new: questions, .. } => {
            let names = questions.iter().map(|q| format!("{:?} {}", q.kind, q.name));
            format!("ask {}", names.collect::<Vec<_>>().join(", "))
        }
        Planned::Refused { reply, .. } => reply.to_string(),
        Planned::Ready(plan) => {
            // Order among equals is random: sorted here, tested elsewhere.
            let mut hosts: Vec<String> = plan
                .hosts
                .iter()
                .map(|host| format!("{} {} {}", host.preference, host.name, host.address))
                .collect();
            hosts.sort();
            hosts.join(", ")
        }
    }
}

#[track_caller]
fn check(domain: &str, settings: &Settings, answers: &[(Question, Found)], expected: &str) {
    let planned = plan(NOW, domain, settings, &cache(answers), &mut Prng::new(1));
    assert_eq!(told(&planned), expected);
}

#[track_caller]
fn check_mx(found: Found, expected: &str) {
    check(
        "a.example",
        &settings(),
        &[(Question::mx("a.example"), found)],
        expected,
    );
}

#[test]
fn exchanges_become_hosts_by_preference() {
    check_mx(
        exchanges(&["20 b 192.0.2.3", "10 a 192.0.2.1,2001:db8::1"]),
        "0 a 192.0.2.1:25, 0 a [2001:db8::1]:25, 1 b 192.0.2.3:25",
    );
    check_mx(own("192.0.2.9"), "0 a.example 192.0.2.9:25");
    check_mx(exchanges(&["10 a -", "20 b 192.0.2.3"]), "0 b 192.0.2.3:25");
    check_mx(
        exchanges(&["10 a 192.0.2.1", "20 b 192.0.2.1"]),
        "0 a 192.0.2.1:25",
    );
    check("a.example", &settings(), &[], "ask Mx a.example");
}

#[test]
fn each_way_of_having_no_host_has_its_reply() {
    check_mx(Found::NoName, "554 5.4.4 [internal] Domain Lookup Failed");
    check_mx(Found::NoData, "454 4.4.4 [internal] no MX or A for domain");
    check_mx(
        exchanges(&["10 a -"]),
        "454 4.4.4 [internal] no MX or A for domain",
    );
    let null = Exchange {
        preference: 0,
        host: "".into(),
        addresses: Addresses::None,
    };
    let text = "550 5.4.4 [internal] Domain does not accept mail (null MX)";
    check_mx(Found::Exchanges(vec![null.clone()]), text);
    let Found::Exchanges(mut both) = exchanges(&["10 a 192.0.2.1"]) else {
        panic!("exchanges were made");
    };
    both.push(null);
    check_mx(Found::Exchanges(both), "0 a 192.0.2.1:25");
    let server = "454 4.4.4 [internal] name servers fail to answer";
    check_mx(Found::Failed(Failure::Server), server);
    check_mx(
        Found::Failed(Failure::Timeout),
        "451 4.4.3 [internal] DNS look-up timed out",
    );
    let aliases = "454 4.4.4 [internal] aliases in DNS loop or are too many";
    check_mx(Found::Failed(Failure::AliasLoop), aliases);
    // What may pass outranks what is final.
    check_mx(exchanges(&["10 a 127.0.0.1", "20 b ?"]), server);
}

#[test]
fn mail_never_comes_back_to_this_machine() {
    let loops = "554 5.4.6 [internal] Mail for domain loops back to this host";
    check_mx(exchanges(&["10 me.example 192.0.2.1"]), loops);
    check_mx(exchanges(&["10 a 198.51.100.1"]), loops);
    check_mx(
        exchanges(&[
            "5 b 192.0.2.5",
            "10 Me.Example 192.0.2.1",
            "10 c 192.0.2.6",
            "20 d 192.0.2.7",
        ]),
        "0 b 192.0.2.5:25",
    );
}

#[test]
fn prohibited_addresses_are_left_out_whichever_way_dns_leads_there() {
    let text = "551 5.4.6 [internal] Private/Loopback Address";
    check_mx(own("127.0.0.1"), text);
    check_mx(exchanges(&["10 localhost 127.0.0.1,::1"]), text);
    check_mx(own("::ffff:127.0.0.1"), text);
    check_mx(exchanges(&["10 a 10.1.2.3,192.0.2.1"]), "0 a 192.0.2.1:25");
    check("[127.0.0.1]", &settings(), &[], text);
    check(
        "[192.0.2.1]",
        &settings(),
        &[],
        "0 [192.0.2.1] 192.0.2.1:25",
    );
    check(
        "[IPv6:2001:db8::9]",
        &settings(),
        &[],
        "0 [IPv6:2001:db8::9] [2001:db8::9]:25",
    );
}

#[test]
fn what_is_no_domain_is_not_asked_for() {
    let text = "554 5.4.4 [internal] Domain Lookup Failed (not a domain name)";
    let long = format!("{}.example", "x".repeat(64));
    for domain in [
        "",
        "[x]",
        "[1.2.3]",
        "a..b",
        "a b",
        long.as_str(),
        "a\u{0}b",
    ] {
        check(domain, &settings(), &[], text);
    }
    check(
        "bücher.example",
        &settings(),
        &[],
        "ask Mx xn--bcher-kva.example",
    );
}

#[test]
fn explicit_routes_outrank_dns_and_are_exempt_from_prohibitions() {
    let target = |text: &str| Target::parse(text).unwrap();
    let fixed = Settings {
        target: Some(target("127.0.0.1:2526")),
        ..settings()
    };
    check("a.example", &fixed, &[], "0 127.0.0.1 127.0.0.1:2526");
    let fixed = Settings {
        target: Some(target("relay.example")),
        ..settings()
    };
    check("a.example", &fixed, &[], "ask Address relay.example");
    let relay = (Question::address("relay.example"), own("127.0.0.9"));
    check(
        "a.example",
        &fixed,
        &[relay],
        "0 relay.example 127.0.0.9:25",
    );
    let gateway = Settings {
        gateway: Some(target("gw.example:26")),
        ..settings()
    };
    check("a.example", &gateway, &[], "ask Mx gw.example");
    let found = exchanges(&["10 a 10.0.0.1", "20 me.example 10.0.0.2"]);
    let gw = (Question::mx("gw.example"), found);
    check(
        "a.example",
        &gateway,
        &[gw],
        "0 a 10.0.0.1:26, 1 me.example 10.0.0.2:26",
    );
}

#[test]
fn routes_are_tried_by_preference_and_may_name_the_way_of_dns() {
    let list = ["127.0.0.1", "smtp://127.0.0.2:27?pref=0", "__mx__"];
    let routes = Route::list(&list).unwrap();
    let settings = Settings {
        routes,
        ..settings()
    };
    let mx = Question::mx("a.example");
    check("a.example", &settings, &[], "ask Mx a.example");
    check(
        "a.example",
        &settings,
        &[(
            mx.clone(),
            exchanges(&["10 a 192.0.2.1", "20 b 192.0.2.2,127.0.0.3"]),
        )],
        "0 127.0.0.1 127.0.0.1:25, 0 127.0.0.2 127.0.0.2:27, 1 a 192.0.2.1:25, 2 b 192.0.2.2:25",
    );
    check(
        "a.example",
        &settings,
        &[(mx, Found::NoName)],
        "0 127.0.0.1 127.0.0.1:25, 0 127.0.0.2 127.0.0.2:27",
    );
}

#[test]
fn families_without_a_source_address_are_left_out() {
    let both = (
        Question::mx("a.example"),
        exchanges(&["10 a 192.0.2.1,2001:db8::1"]),
    );
    let only = |v4, v6| Settings {
        families: Families { v4, v6 },
        ..settings()
    };
    let answers = [both];
    check(
        "a.example",
        &only(true, false),
        &answers,
        "0 a 192.0.2.1:25",
    );
    check(
        "a.example",
        &only(false, true),
        &answers,
        "0 a [2001:db8::1]:25",
    );
    let text = "451 4.4.4 [internal] no host has an address of a family that the binding can \
        connect from";
    check("a.example", &only(false, false), &answers, text);
}

#[test]
fn after_some_failed_mx_look_ups_the_own_address_is_tried() {
    let mut cache = Cache::new(10);
    let mut random = Prng::new(1);
    let mx = Question::mx("a.example");
    let mut now = NOW;
    for round in 1..=3 {
        now = now + Duration::from_secs(100);
        let failed = Answer {
            found: Found::Failed(Failure::Server),
            ttl_s: 60,
        };
        cache.insert(now, mx.clone(), failed);
        let planned = told(&plan(now, "a.example", &settings(), &cache, &mut random));
        let asks = planned == "ask Address a.example";
        assert_eq!(asks, round == 3, "{planned}");
    }
    let answer = Answer {
        found: own("192.0.2.1"),
        ttl_s: 60,
    };
    cache.insert(now, Question::address("a.example"), answer);
    let planned = told(&plan(now, "a.example", &settings(), &cache, &mut random));
    assert_eq!(planned, "0 a.example 192.0.2.1:25");
}

#[test]
fn order_among_equals_is_random_by_seed_and_spreads() {
    let lines: Vec<String> = (1..=4).map(|n| format!("10 mx{n} 192.0.2.{n}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let cache = cache(&[(Question::mx("a.example"), exchanges(&lines))]);
    let mut firsts = [0; 5];
    let mut random = Prng::new(3);
    for _ in 0..400 {
        let Planned::Ready(plan) = plan(NOW, "a.example", &settings(), &cache, &mut random) else {
            panic!("there are hosts");
        };
        let first: usize = plan.hosts[0].name[2..].parse().unwrap();
        firsts[first] += 1;
    }
    assert!(
        firsts[1..].iter().all(|count| (60..140).contains(count)),
        "{firsts:?}"
    );
}

#[test]
fn a_plan_is_bounded_and_keeps_the_best() {
    let list = (0..2_000_u16).map(|n| {
        let [high, low] = n.to_be_bytes();
        let address = format!("192.168.{high}.{low}").parse().unwrap();
        let addresses = Addresses::Found(vec![address]);
        Exchange {
            preference: n,
            host: format!("mx{n}").into(),
            addresses,
        }
    });
    let found = Found::Exchanges(list.collect());
    let cache = cache(&[(Question::mx("a.example"), found)]);
    let planned = plan(NOW, "a.example", &settings(), &cache, &mut Prng::new(1));
    let Planned::Ready(plan) = planned else {
        panic!("there are hosts");
    };
    assert_eq!(plan.hosts.len(), MX_MAX);
    assert_eq!(&*plan.hosts[0].name, "mx0");
    assert_eq!(plan.until, NOW + Duration::from_secs(60));
}

#[test]
fn targets_and_routes_are_read_from_their_text() {
    let good = [
        (
            "127.0.0.1",
            Endpoint::Address("127.0.0.1".parse().unwrap()),
            None,
        ),
        (
            "127.0.0.1:2526",
            Endpoint::Address("127.0.0.1".parse().unwrap()),
            Some(2526),
        ),
        (
            "[::1]:25",
            Endpoint::Address("::1".parse().unwrap()),
            Some(25),
        ),
        ("[::1]", Endpoint::Address("::1".parse().unwrap()), None),
        ("::1", Endpoint::Address("::1".parse().unwrap()), None),
        ("MX.example.", Endpoint::Name("mx.example".into()), None),
        (
            "mx.example:26",
            Endpoint::Name("mx.example".into()),
            Some(26),
        ),
    ];
    for (text, endpoint, port) in good {
        assert_eq!(Target::parse(text), Ok(Target { endpoint, port }), "{text}");
    }
    for text in [
        "", ":25", "a:", "a:0", "a:65536", "[::1", "a b", "a:25x", "__mx__",
    ] {
        assert_eq!(Target::parse(text), Err(BadTarget), "{text}");
    }
    let bad = [
        "smtp://",
        "http://a",
        "smtp://a?pref=x",
        "smtp://a?what=1",
        "smtp://a?type=b",
    ];
    for text in bad {
        assert_eq!(Route::list(&[text]), Err(BadTarget), "{text}");
    }
    let routes = Route::list(&["smtp://a?pref=7&port=99&type=a&ttl=60", "b"]).unwrap();
    let target = |text| Target::parse(text).unwrap();
    let expected = [
        Route {
            preference: 7,
            via: Via::Target(target("a:99"), By::Address),
        },
        Route {
            preference: 1,
            via: Via::Target(target("b"), By::Address),
        },
    ];
    assert_eq!(routes, expected);
}
