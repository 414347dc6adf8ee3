//! Fallback, patterns, listeners, bindings and questions: the documented worked examples, and what
//! follows from them.

use core::net::IpAddr;
use core::time::Duration;

use super::*;

pub(super) fn environment() -> Environment {
    Environment {
        hostname: "mta.example".to_string(),
        cores: 4,
    }
}

pub(super) fn source(name: &str, text: &str) -> SourceFile {
    SourceFile {
        name: name.to_string(),
        text: text.to_string(),
    }
}

pub(super) fn try_load(text: &str) -> Result<Checked, Vec<Diagnostic>> {
    let mut include = |_: &IncludeRequest| Err("there are no files here".to_string());
    load(source("t.conf", text), &environment(), &mut include)
}

pub(super) fn config(text: &str) -> Config {
    match try_load(text) {
        Ok(checked) => checked.config,
        Err(findings) => panic!("{text}\n{}", shown(&findings)),
    }
}

pub(super) fn shown(findings: &[Diagnostic]) -> String {
    findings.iter().map(|it| format!("{it}\n")).collect()
}

/// Codes with line and column, in the order reported.
pub(super) fn codes(text: &str) -> Vec<String> {
    let findings = match try_load(text) {
        Ok(checked) => checked.notes,
        Err(findings) => findings,
    };
    let place = |it: &Diagnostic| match &it.place {
        Some(place) => format!("{}@{}:{}", it.code, place.line, place.column),
        None => it.code.to_string(),
    };
    findings
        .iter()
        .filter(|it| it.severity != Severity::Note)
        .map(place)
        .collect()
}

pub(super) fn with_listener(text: &str) -> String {
    format!(
        "{text}\nESMTP_Listener {{ Relay_Hosts = ( \"::1\" ) Listen \"127.0.0.1:25\" {{ }} }}\n"
    )
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn expiration(config: &Config, binding: &str, domain: &str) -> u64 {
    let binding = config.binding_by_name(binding).expect(binding);
    config
        .delivery(binding, domain)
        .message_expiration
        .as_secs()
}

// Fallback: the documented worked examples.

#[test]
fn a_domain_that_sets_something_else_falls_back_to_global() {
    let config = config(
        "max_outbound_connections = 40
         domain \"a\" { max_outbound_connections = 20 }
         domain \"b\" { retry_interval = 60 }",
    );
    for (domain, expected) in [("a", 20), ("b", 40), ("c", 40)] {
        let delivery = config.delivery(BindingIndex(0), domain);
        assert_eq!(delivery.max_outbound_connections, expected, "{domain}");
    }
}

#[test]
fn a_binding_comes_before_a_global_domain_and_its_own_domains_before_it() {
    let config = config(
        "message_expiration = 86400
         binding \"e1\" { message_expiration = 3600 }
         domain \"example.com\" { message_expiration = 120 }
         binding \"e2\" {
           message_expiration = 7200
           domain \"example.com\" { message_expiration = 86400 }
           domain \"another\" { retry_interval = 60 }
         }
         binding \"e3\" {
           domain \"example.com\" { retry_interval = 60 }
           domain \"another\" { message_expiration = 86400 }
         }",
    );
    let cases = [
        ("e1", "example.com", 3_600),
        ("e1", "elsewhere", 3_600),
        ("e2", "example.com", 86_400),
        ("e2", "another", 7_200),
        ("e2", "elsewhere", 7_200),
        ("e3", "another", 86_400),
        ("e3", "example.com", 120),
        ("e3", "elsewhere", 86_400),
        ("default", "example.com", 120),
    ];
    for (binding, domain, expected) in cases {
        assert_eq!(
            expiration(&config, binding, domain),
            expected,
            "{binding} {domain}"
        );
    }
}

#[test]
fn a_binding_comes_before_its_group_and_the_group_before_global() {
    let text = |own: &str| {
        format!(
            "message_expiration = 30
             binding_group \"g\" {{
               message_expiration = 5
               binding \"b\" {{ {own} domain \"example.com\" {{ retry_interval = 60 }} }}
             }}"
        )
    };
    let with = config(&text("message_expiration = 15"));
    assert_eq!(expiration(&with, "b", "example.com"), 15);
    let without = config(&text(""));
    assert_eq!(expiration(&without, "b", "example.com"), 5);
    assert_eq!(expiration(&without, "default", "example.com"), 30);
}

/// All rungs are set; taking the highest away leaves the next.
#[test]
fn the_rungs_of_fallback_are_asked_in_the_documented_order() {
    let set = |rung: usize, from: usize| match rung >= from {
        true => format!("message_expiration = {}", rung * 100),
        false => String::new(),
    };
    for from in 1..=9 {
        let text = format!(
            "{}
             domain \"d\" {{ {} }}
             binding \"b\" {{ {} domain \"d\" {{ {} }} }}
             binding_group \"g\" {{
               {}
               domain \"d\" {{ {} }}
               binding \"b\" {{ {} domain \"d\" {{ {} }} }}
             }}",
            set(8, from),
            set(7, from),
            set(5, from),
            set(2, from),
            set(6, from),
            set(3, from),
            set(4, from),
            set(1, from),
        );
        let config = config(&text);
        let expected = if from == 9 { 86_400 } else { from as u64 * 100 };
        assert_eq!(expiration(&config, "b", "d"), expected, "from rung {from}");
    }
}

#[test]
fn unset_differs_from_zero_and_from_empty() {
    let config = config(
        "max_deliveries_per_connection = 9
         routes = ( \"relay.example\" )
         domain \"zero\" { max_deliveries_per_connection = 0  routes = ( ) }
         domain \"unset\" { retry_interval = 60 }",
    );
    let zero = config.delivery(BindingIndex(0), "zero");
    assert_eq!(
        (zero.max_deliveries_per_connection, zero.routes.len()),
        (0, 0)
    );
    let unset = config.delivery(BindingIndex(0), "unset");
    assert_eq!(
        (unset.max_deliveries_per_connection, unset.routes.len()),
        (9, 1)
    );
}

#[test]
fn connections_are_limited_by_the_stanza_that_says_so() {
    let config = config(
        "scope_max_outbound_connections = 40  server_max_outbound_connections = 50
         max_recipients_per_connection = 7
         domain \"/example/\" { scope_max_outbound_connections = 3 }
         domain \"free\" { scope_max_outbound_connections = -1 }
         host \"/mx/\" { scope_max_outbound_connections = 4 }
         binding_group \"g\" {
           server_max_outbound_connections = 30
           binding \"b\" { server_max_outbound_connections = 20 }
           binding \"c\" { domain \"d\" { scope_max_outbound_connections = 2 } }
         }
         ESMTP_Listener { Listen \"127.0.0.1:2525\" {
           Peer \"192.0.2.0/24\" { max_recipients_per_connection = 9 } } }",
    );
    let scope = |binding: &str, domain: &str| {
        let binding = config.binding_by_name(binding).expect(binding);
        let found = config.delivery(binding, domain).scope_max;
        found.map(|it| (it.max, it.of.rsplit(" of ").next().unwrap().to_string()))
    };
    let is = |max: u32, of: &str| Some((max, of.to_string()));
    assert_eq!(scope("default", "a.example"), is(3, "domain \"/example/\""));
    assert_eq!(scope("b", "b.example"), scope("default", "a.example"));
    assert_eq!(scope("b", "free"), None);
    assert_eq!(scope("b", "d").map(|it| it.0), Some(40));
    assert_eq!(scope("c", "d").map(|it| it.0), Some(2));
    let of_binding = |name: &str| {
        let binding = config.binding_by_name(name).expect(name);
        let found = &config.binding_settings(binding).server_max;
        found.each_ref().map(|it| it.as_ref().map(|it| it.max))
    };
    assert_eq!(of_binding("b"), [Some(20), Some(30)]);
    assert_eq!(of_binding("c"), [None, Some(30)]);
    assert_eq!(of_binding("default"), [None, None]);
    let hosts = config.host_scope_limit(BindingIndex(0), "mx.one", ip("198.51.100.1"));
    assert_eq!(hosts.map(|it| it.max), Some(4));
    let recipients = |peer: &str| {
        let settings = config.listener_settings(ListenIndex(0), ip(peer));
        settings.max_recipients_per_connection
    };
    assert_eq!(recipients("192.0.2.1"), 9);
    assert_eq!(
        recipients("198.51.100.1"),
        0,
        "global speaks of what goes out"
    );
    let delivery = config.delivery(BindingIndex(0), "x");
    assert_eq!(delivery.max_recipients_per_connection, 7);
}

// Patterns.

#[test]
fn an_exact_domain_comes_first_for_each_option_and_patterns_fill_the_rest() {
    let config = config(
        "domain \"/example/\" { max_outbound_connections = 15  max_deliveries_per_connection = 5 }
         domain \"www.example.com\" { max_outbound_connections = 20 }",
    );
    let cases = [
        ("www.example.com", 20, 5),
        ("mail.example.net", 15, 5),
        ("other.net", 32, 0),
    ];
    for (domain, connections, deliveries) in cases {
        let it = config.delivery(BindingIndex(0), domain);
        let found = (
            it.max_outbound_connections,
            it.max_deliveries_per_connection,
        );
        assert_eq!(found, (connections, deliveries), "{domain}");
    }
}

#[test]
fn patterns_are_asked_in_declaration_order_until_one_sets_the_option() {
    let config = config(
        "domain \"/[.]com$/\" { retry_interval = 60 }
         domain \"/^a/\" { message_expiration = 100  retry_interval = 70 }
         domain \"/b/\" { message_expiration = 200 }
         binding \"x\" { domain \"/^ab/\" { retry_interval = 80 } message_expiration = 300 }",
    );
    let of = |binding: &str, domain: &str| {
        let it = config.delivery(config.binding_by_name(binding).expect(binding), domain);
        (it.message_expiration.as_secs(), it.retry_interval.as_secs())
    };
    assert_eq!(of("default", "ab.com"), (100, 60));
    assert_eq!(of("default", "B.COM."), (200, 60));
    assert_eq!(of("default", "ab.net"), (100, 70));
    assert_eq!(of("x", "ab.com"), (300, 80));
    assert_eq!(of("x", "b.net"), (300, 1_200));
}

#[test]
fn a_pattern_is_unanchored_unless_it_says_so() {
    let config = config(
        r#"domain "/(?:^|[.])example[.](?:com|co[.]uk)$/" { message_expiration = 7 }
           domain "/(?<!not-)special\.org/" { message_expiration = 8 }"#,
    );
    let cases = [
        ("example.com", 7),
        ("a.example.co.uk", 7),
        ("badexample.com", 86_400),
        ("example.com.evil", 86_400),
        ("very-special.org.x", 8),
        ("not-special.org", 86_400),
        ("specialXorg", 86_400),
    ];
    for (domain, expected) in cases {
        assert_eq!(expiration(&config, "default", domain), expected, "{domain}");
    }
}

#[test]
fn no_domain_name_stalls_a_pattern() {
    let config = config("domain \"/^(a+)+\\1$(?=x)/\" { message_expiration = 7 }");
    for length in [10, 100, 250, 100_000] {
        assert_eq!(expiration(&config, "default", &"a".repeat(length)), 86_400);
    }
}

// Hosts.

#[test]
fn a_host_limit_never_falls_back() {
    let config = config(
        "max_outbound_connections = 32
         host \"mx.example\" { max_outbound_connections = 5 }
         host \"free.example\" { max_outbound_connections = -1 }
         host \"/[.]shared$/\" { max_outbound_connections = 6 }
         host \"192.0.2.9\" { max_outbound_connections = 7 }
         binding_group \"g\" {
           host \"mx.example\" { max_outbound_connections = 2 }
           binding \"b\" { host \"mx.example\" { max_outbound_connections = 1 } }
           binding \"c\" { }
         }",
    );
    let limit = |binding: &str, host: &str, address: &str| {
        let binding = config.binding_by_name(binding).expect(binding);
        config
            .host_connection_limit(binding, host, ip(address))
            .map(|it| (it.limit, it.stanza))
    };
    let is = |limit: u32, stanza: &str| Some((limit, stanza.to_string()));
    let any = "198.51.100.1";
    assert_eq!(
        limit("default", "MX.example.", any),
        is(5, "host \"mx.example\"")
    );
    assert_eq!(limit("default", "other.example", any), None);
    assert_eq!(limit("default", "free.example", any), None);
    assert_eq!(
        limit("default", "a.shared", any),
        is(6, "host \"/[.]shared$/\"")
    );
    assert_eq!(
        limit("default", "x", "192.0.2.9"),
        is(7, "host \"192.0.2.9\"")
    );
    assert_eq!(
        limit("default", "x", "::ffff:192.0.2.9"),
        is(7, "host \"192.0.2.9\"")
    );
    let group = "binding_group \"g\" :: host \"mx.example\"";
    assert_eq!(limit("c", "mx.example", any), is(2, group));
    let bound = "binding_group \"g\" :: binding \"b\" :: host \"mx.example\"";
    assert_eq!(limit("b", "mx.example", any), is(1, bound));
}

#[test]
fn an_undefined_host_limit_evaluates_to_minus_one_under_a_global_limit() {
    let config = config("max_outbound_connections = 32");
    let query = Query {
        host: Some("mx.example".to_string()),
        ..Query::default()
    };
    let answer = config
        .eval("Max_Outbound_Connections", &query)
        .expect("an answer");
    assert_eq!(answer.value.as_deref(), Some("-1"));
    assert_eq!(answer.origin, Origin::Default);
    let throttle = config.eval("outbound_throttle_messages", &query);
    assert_eq!(throttle.expect("an answer").value.as_deref(), Some("0"));
    let global = config
        .eval("max_outbound_connections", &Query::default())
        .expect("an answer");
    assert_eq!(global.value.as_deref(), Some("32"));
}

// Questions.

#[test]
fn get_looks_at_one_scope_and_eval_falls_back() {
    let config = config("domain \"a\" { retry_interval = 60 }");
    let query = Query {
        domain: Some("a".to_string()),
        ..Query::default()
    };
    assert_eq!(config.get("blackhole", &query), Ok(None));
    let answer = config.eval("blackhole", &query).expect("an answer");
    assert_eq!(
        (answer.value.as_deref(), &answer.origin),
        (Some("false"), &Origin::Default)
    );
    assert_eq!(answer.passed_over, ["domain \"a\"", "global"]);
    let set = config
        .get("retry_interval", &query)
        .expect("an answer")
        .expect("set there");
    assert_eq!(set.value.as_deref(), Some("60"));
}

#[test]
fn an_answer_names_file_line_and_stanza() {
    let config = config(
        "binding_group \"pool\" {\n  binding \"a\" {\n    domain \"x.example\" {\n\
         \n      retry_interval = 20m\n } } }",
    );
    let query = Query {
        binding: Some("a".to_string()),
        domain: Some("X.example".to_string()),
        ..Query::default()
    };
    let answer = config.eval("retry_interval", &query).expect("an answer");
    assert_eq!(answer.value.as_deref(), Some("1200"));
    let path = "binding_group \"pool\" :: binding \"a\" :: domain \"x.example\"";
    assert_eq!(answer.origin.to_string(), format!("t.conf:5 ({path})"));
}

#[test]
fn a_question_that_makes_no_sense_says_why() {
    let text = "binding \"alpha\" { }
        ESMTP_Listener { Listen \"127.0.0.1:25\" { } Listen \"127.0.0.1:26\" { } }";
    let config = config(text);
    let query = |binding: Option<&str>, domain: Option<&str>, listen: Option<&str>| Query {
        binding: binding.map(str::to_string),
        domain: domain.map(str::to_string),
        listen: listen.map(str::to_string),
        ..Query::default()
    };
    let cases = [
        (
            "retry_intervall",
            query(None, None, None),
            "did you mean \"retry_interval\"?",
        ),
        (
            "retry_interval",
            query(Some("alpa"), None, None),
            "did you mean \"alpha\"?",
        ),
        (
            "spoolbase",
            query(None, Some("a"), None),
            "does not depend on a domain",
        ),
        (
            "bind_address",
            query(None, Some("a"), None),
            "does not depend on a domain",
        ),
        (
            "retry_interval",
            query(None, None, Some(":25")),
            "does not depend on a listen",
        ),
        (
            "idle_time",
            query(None, None, None),
            "say which with --listen",
        ),
        (
            "idle_time",
            query(None, None, Some("127.0.0.1:99")),
            "nothing listens on 127.0.0.1:99",
        ),
    ];
    for (option, query, expected) in cases {
        let why = config.eval(option, &query).expect_err(option);
        assert!(why.contains(expected), "{option}: {why}");
    }
}

#[test]
fn derived_defaults_are_shown_as_they_come_out() {
    let config = config("Spoolbase = \"/data/\"  Spool_Segment_Size = 16M");
    let value = |name: &str| config.eval(name, &Query::default()).expect(name).value;
    assert_eq!(value("event_log").as_deref(), Some("\"/data/events\""));
    assert_eq!(config.global().event_log, "/data/events");
    assert_eq!(config.global().management_socket, "/data/pelton.sock");
    assert_eq!(config.global().journal, "/data/journal.jsonl");
    let room = (16 << 20) - (64 << 10) - 1_000 * 1_024;
    let answer = config
        .eval("max_message_size", &Query::default())
        .expect("an answer");
    assert_eq!(answer.value, Some(spec::size_text(room)));
    assert_eq!(answer.origin, Origin::Computed);
    assert_eq!(
        config.eval("gateway", &Query::default()).expect("x").origin,
        Origin::Unset
    );
}

// Listeners.

#[test]
fn the_most_specific_peer_decides_and_those_of_the_address_come_first() {
    let config = config(
        "idle_time = 1
         ESMTP_Listener {
           idle_time = 2
           Peer \"10.0.0.0/8\" { idle_time = 3  max_idle_commands = 33 }
           Peer \"10.1.0.0/16\" { idle_time = 4 }
           Listen \"127.0.0.1:25\" {
             idle_time = 5
             Peer \"10.1.0.0/16\" { idle_time = 6 }
             Peer \"10.1.2.3\" { max_idle_commands = 77 }
           }
           Listen \"127.0.0.1:26\" { }
         }
         ESMTP_Listener { Listen \"127.0.0.1:27\" { } }",
    );
    let cases = [
        (0, "10.1.2.3", 6, 77),
        (0, "10.1.2.4", 6, 33),
        (0, "::ffff:10.1.2.4", 6, 33),
        (0, "10.2.0.1", 3, 33),
        (0, "192.0.2.1", 5, 100),
        (1, "10.1.2.3", 4, 33),
        (1, "192.0.2.1", 2, 100),
        (2, "10.1.2.3", 1, 100),
    ];
    for (listen, peer, idle, commands) in cases {
        let it = config.listener_settings(ListenIndex(listen), ip(peer));
        let found = (it.idle_time.as_secs(), it.max_idle_commands);
        assert_eq!(found, (idle, commands), "{listen} {peer}");
    }
    assert_eq!(config.listeners().len(), 2);
    let second = &config.listeners()[0].listens[1];
    assert_eq!(
        (second.index, second.place.as_str()),
        (ListenIndex(1), "t.conf:11")
    );
}

#[test]
fn the_default_binding_is_that_of_the_most_specific_scope_that_sets_either_option() {
    let config = config(
        "default_binding_group = \"g\"
         binding_group \"g\" { binding \"a\" { } binding \"b\" { } }
         binding \"v\" { }
         ESMTP_Listener {
           default_binding = \"v\"
           Listen \"127.0.0.1:25\" { Peer \"10.0.0.0/8\" { default_binding = None } }
           Listen \"127.0.0.1:26\" {
             default_binding_group = \"g\"
             Peer \"10.0.0.0/8\" { default_binding = suspended }
             Peer \"11.0.0.0/8\" { default_binding = normal }
           }
         }
         ESMTP_Listener { Listen \"127.0.0.1:27\" { } }",
    );
    let group = BindingChoice::Group(GroupIndex(0));
    let vip = BindingChoice::Binding(config.binding_by_name("v").expect("v"));
    let cases = [
        (0, "192.0.2.1", vip),
        (0, "10.0.0.1", BindingChoice::None),
        (1, "192.0.2.1", group),
        (1, "10.0.0.1", BindingChoice::Suspended),
        (1, "11.0.0.1", BindingChoice::Normal),
        (2, "192.0.2.1", group),
    ];
    for (listen, peer, expected) in cases {
        let it = config.listener_settings(ListenIndex(listen), ip(peer));
        assert_eq!(it.default_binding, expected, "{listen} {peer}");
    }
    assert_eq!(config.global().default_binding, group);
}

// Bindings.

#[test]
fn bindings_and_groups_are_indexed_in_file_order_after_the_implicit_default() {
    let config = config(
        "binding \"x\" { ehlo_hostname = \"x.example\" }
         binding_group \"g\" {
           suspend_delivery = true
           bind_address = \"192.0.2.1\"
           binding \"a\" { suspend_delivery = false bind_address = ( \"192.0.2.2\" \"::5\" ) }
           binding \"b\" { }
         }
         binding_group \"g\" { binding \"c\" { } }
         binding \"default\" { bind_address = \"192.0.2.9\" }",
    );
    let names: Vec<&str> = config
        .bindings()
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    assert_eq!(names, ["default", "x", "a", "b", "c"]);
    let group = &config.groups()[0];
    assert_eq!(
        group.members,
        [BindingIndex(2), BindingIndex(3), BindingIndex(4)]
    );
    assert_eq!(config.bindings()[3].group, Some(GroupIndex(0)));
    let a = config.binding_settings(BindingIndex(2));
    assert_eq!((a.group.as_deref(), a.suspended), (Some("g"), false));
    assert_eq!(a.source_for(ip("2001:db8::1")), Some(ip("::5")));
    let b = config.binding_settings(BindingIndex(3));
    assert_eq!(
        (b.bind_address.as_slice(), b.suspended),
        (&[ip("192.0.2.1")][..], true)
    );
    assert!(!b.can_reach(ip("::1")) && b.can_reach(ip("198.51.100.1")));
    assert_eq!(b.ehlo_hostname, "mta.example");
    let default = config.binding_settings(BindingIndex(0));
    assert_eq!(default.bind_address, [ip("192.0.2.9")]);
    assert_eq!(
        config.binding_settings(BindingIndex(1)).ehlo_hostname,
        "x.example"
    );
    assert_eq!(config.binding_by_name("X"), None);
}

#[test]
fn same_stanzas_merge_and_the_last_assignment_wins() {
    let config = config(
        "RETRY_INTERVAL = 50
         domain \"Example.COM\" { message_expiration = 70 retry_interval = 60 }
         Retry_Interval = 55
         domain example.com. { MESSAGE_EXPIRATION = 71 }",
    );
    let it = config.delivery(BindingIndex(0), "example.com");
    assert_eq!(
        (it.message_expiration.as_secs(), it.retry_interval.as_secs()),
        (71, 60)
    );
    assert_eq!(
        config.delivery(BindingIndex(0), "x").retry_interval,
        Duration::from_secs(55)
    );
    assert_eq!(config.domain_stanzas(), 1);
}

// Throttles.

#[test]
fn a_throttle_belongs_to_the_stanza_that_sets_it() {
    let config = config(
        "outbound_throttle_messages = \"100\"
         domain \"/(?:^|[.])example[.](?:com|co[.]uk)$/\" { outbound_throttle_messages = \"6/2\" }
         domain \"free.example\" { outbound_throttle_messages = 0 }
         host \"/^mx[12][.]example$/\" { outbound_throttle_messages = \"8/3600\" }
         binding_group \"g\" {
           outbound_throttle_messages = \"10\"
           binding \"a\" { }
           binding \"b\" { domain \"named.example\" { retry_interval = 60 } }
           binding \"own\" { outbound_throttle_messages = \"10\" }
         }",
    );
    let of = |binding: &str, domain: &str| {
        let binding = config.binding_by_name(binding).expect(binding);
        let throttle = config.delivery(binding, domain).throttle_messages;
        throttle.map(|it| format!("{} by {}", it.rate, it.of))
    };
    let is = |rate: &str, stanza: &str| {
        Some(format!("{rate} by outbound_throttle_messages of {stanza}"))
    };
    let group = is("10", "binding_group \"g\"");
    assert_eq!(of("a", "x.example"), group);
    assert_eq!(of("b", "x.example"), group);
    assert_eq!(of("b", "named.example"), group);
    let own = is("10", "binding_group \"g\" :: binding \"own\"");
    assert_eq!(of("own", "x.example"), own);
    let pattern = "domain \"/(?:^|[.])example[.](?:com|co[.]uk)$/\"";
    assert_eq!(of("default", "example.com"), is("6/2", pattern));
    assert_eq!(of("default", "a.example.co.uk"), is("6/2", pattern));
    assert_eq!(of("default", "x.example"), is("100", "global"));
    assert_eq!(of("default", "free.example"), None);
    let host = |host: &str| {
        let binding = config.binding_by_name("a").expect("a binding");
        let [messages, connections] = config.host_throttles(binding, host, ip("192.0.2.1"));
        assert_eq!(connections, None, "it falls back to no other scope");
        messages.map(|it| it.of)
    };
    assert!(host("mx1.example").is_some());
    assert_eq!(host("mx1.example"), host("mx2.example"));
    assert_eq!(host("mx3.example"), None);
}
