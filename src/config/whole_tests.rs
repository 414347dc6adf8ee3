//! Settings, checks of the whole, includes, identity of a generation, and what must hold for any
//! text at all.

use core::time::Duration;
use std::collections::BTreeMap;

use super::tests::codes;
use super::tests::config;
use super::tests::environment;
use super::tests::expiration;
use super::tests::ip;
use super::tests::shown;
use super::tests::source;
use super::tests::try_load;
use super::tests::with_listener;
use super::*;

const EXAMPLES: [&str; 3] = [
    include_str!("../../config/pelton.conf"),
    include_str!("../../config/minimal.conf"),
    include_str!("../../config/loadtest.conf"),
];

// Settings.

#[test]
fn defaults_of_an_empty_configuration() {
    let config = config("");
    let global = config.global();
    assert_eq!(
        (global.spool_sync, global.shards),
        (SpoolSync::Commit, Shards::Auto)
    );
    assert_eq!(
        (global.spool_segment_size, config.shard_count()),
        (64 << 20, 4)
    );
    assert_eq!(
        (global.spool_mode, global.min_free_space),
        (0o640, 256 << 20)
    );
    assert_eq!(global.default_binding, BindingChoice::Normal);
    assert!(global.dns_servers.is_empty());
    let it = config.delivery(BindingIndex(0), "x");
    assert_eq!(
        (it.max_retries, it.blackhole),
        (MaxRetries::Auto, Blackhole::Off)
    );
    assert_eq!((it.eight_bit, it.remote_smtp_port), (EightBit::Convert, 25));
    assert_eq!(
        (it.data_timeout.as_secs(), it.body_timeout.as_secs()),
        (120, 600)
    );
    assert!(it.never_attempt_expired_messages && it.use_chunking && it.use_pipelining);
    assert!(it.prohibited_hosts.contains(ip("10.0.0.1"), &[]) && it.static_target.is_none());
    assert_eq!(
        (it.max_outbound_connections, it.max_resident_active_queue),
        (32, 250)
    );
}

#[test]
fn priority_classes_have_their_order_and_their_shares() {
    let shown = |text: &str| {
        let config = config(text);
        let classes = config.classes().iter();
        let classes = classes.map(|it| format!("{} {} {}", it.name, it.order, it.share));
        classes.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(shown(""), "transactional 100 10, bulk 300 10");
    let text = "priority_class \"News\" { share = 30 }  priority_class \"bulk\" { share = 5 }
                priority_class \"late\" { order = 999 }";
    let expected = "transactional 100 10, news 200 30, bulk 300 5, late 999 10";
    assert_eq!(shown(text), expected);
    let cases = [
        ("class = \"nuws\"", "E045"),
        ("priority_class \"a\" { }  priority_class \"b\" { }", "E046"),
        ("priority_class \"a\" { share = 81 }", "E047"),
        ("priority_class \"a b\" { }", "E016"),
        ("priority_class { }", "E016"),
        ("tenant = \" a\"", "E020"),
        ("tenant_header = \"a b\"", "E020"),
        ("share = 3", "E012"),
    ];
    for (text, code) in cases {
        let found = codes(text);
        assert!(found[0].starts_with(code), "{text}: {found:?}");
    }
    let many: String = (0..15)
        .map(|it| {
            format!(
                "priority_class \"c{it}\" {{ order = {} share = 1 }}\n",
                it + 1
            )
        })
        .collect();
    assert!(codes(&many)[0].starts_with("E047"), "{:?}", codes(&many));
}

#[test]
fn a_peer_may_have_a_flow_of_its_own() {
    let config = config(
        "tenant = \"all\"  remove_flow_headers = none
         ESMTP_Listener {
             class = \"Transactional\"
             Listen \"127.0.0.1:26\" {
                 Peer \"10.0.0.0/8\" { campaign = \"c\" class_header = \"\" }
             }
         }",
    );
    let of = |peer| config.listener_settings(ListenIndex(0), ip(peer));
    let near = of("10.1.1.1");
    assert_eq!(near.flow, ["transactional", "all", "c"]);
    assert_eq!(near.flow_headers, ["", "X-Tenant", "X-Campaign"]);
    assert_eq!(near.remove_flow_headers, FlowHeaders::None);
    let far = of("192.0.2.1");
    assert_eq!(far.flow, ["transactional", "all", ""]);
    assert_eq!(far.flow_headers[0], "X-Pelton-Class");
}

#[test]
fn every_value_reaches_its_field() {
    let config = config(
        "Shards = 3  Spool_Sync = interval  Spool_Sync_Interval = 20ms  DNS_Servers = \"127.0.0.1\"
         max_outbound_connections = -1  max_retries = 3  blackhole = on  never_retry = yes
         outbound_8bit_policy = FAIL  connection_allocation_aggressiveness = high
         queue_striping = never
         gateway = \"Relay.Example\"  remote_smtp_port = 2526
         static_routes { target = \"sink.example:99\" }
         domain \"r\" { routes = ( \"__mx__\" \"[::1]:26\" ) max_retries = none
                        blackhole = internal }",
    );
    let global = config.global();
    assert_eq!(
        global.spool_sync,
        SpoolSync::Interval(Duration::from_millis(20))
    );
    assert_eq!((global.shards, config.shard_count()), (Shards::Count(3), 3));
    assert_eq!(
        global.dns_servers,
        ["127.0.0.1:53".parse().expect("an address")]
    );
    let it = config.delivery(BindingIndex(0), "x");
    assert_eq!(
        (it.max_outbound_connections, it.max_retries),
        (u32::MAX, MaxRetries::Count(3))
    );
    assert_eq!((it.blackhole, it.never_retry), (Blackhole::Inline, true));
    assert_eq!(
        it.connection_allocation_aggressiveness,
        Aggressiveness::High
    );
    assert_eq!(it.queue_striping, Striping::Never);
    assert_eq!(
        (it.eight_bit, it.gateway.as_deref()),
        (EightBit::Fail, Some("relay.example"))
    );
    let target = it.static_target.expect("a target");
    assert_eq!(
        (target.host, target.port),
        (Host::Name("sink.example".to_string()), 99)
    );
    let it = config.delivery(BindingIndex(0), "r");
    assert_eq!(
        (it.max_retries, it.blackhole),
        (MaxRetries::None, Blackhole::Internal)
    );
    assert_eq!(
        (&it.routes[0].target, it.routes[0].kind),
        (&RouteTarget::DomainMx, RouteKind::Mx)
    );
    assert_eq!(
        it.routes[1].target,
        RouteTarget::Host(Host::Address(ip("::1")))
    );
    assert_eq!((it.routes[1].port, it.routes[1].pref), (Some(26), 20));
}

/// A row that no reader names would be parsed and ignored.
#[test]
fn every_option_of_the_table_is_read() {
    let readers = concat!(
        include_str!("resolve.rs"),
        include_str!("rules.rs"),
        include_str!("checks.rs")
    );
    for row in OPTIONS {
        assert!(
            readers.contains(&format!("\"{}\"", row.name)),
            "{} is never read",
            row.name
        );
    }
}

#[test]
fn only_global_options_need_a_restart() {
    for row in OPTIONS.iter().filter(|row| row.restart) {
        assert_eq!(row.scopes, [ScopeKind::Global], "{}", row.name);
    }
}

#[test]
fn force_fsync_is_an_alias_of_commit() {
    assert_eq!(
        config("force_fsync = true").global().spool_sync,
        SpoolSync::Commit
    );
    let both = config("force_fsync = true Spool_Sync = commit");
    assert_eq!(both.global().spool_sync, SpoolSync::Commit);
    assert_eq!(codes(&with_listener("force_fsync = false")), ["E024@1:15"]);
    let contradiction = codes(&with_listener("force_fsync = true\nSpool_Sync = none"));
    assert_eq!(contradiction, ["E041@2:14"]);
}

// Checks of the whole; the golden file has one broken configuration per code.

#[test]
fn relations_are_checked_with_fallback_applied() {
    let cases: &[(&str, &[&str])] = &[
        ("retry_interval = 50000", &["E037@1:18"]),
        ("retry_interval = 50000 max_retry_interval = 60000", &[]),
        ("max_retry_interval = 60", &["E037@1:22"]),
        (
            "max_retry_interval = 60 domain \"a\" { retry_interval = 30 } retry_interval = 9",
            &[],
        ),
        ("domain \"a\" { retry_interval = 50000 }", &["E037@1:31"]),
        (
            "domain \"a\" { max_retry_interval = 60000 }\nbinding \"b\" { domain \"a\" { \
          retry_interval = 50000 } }",
            &[],
        ),
        (
            "domain \"/a/\" { max_retry_interval = 60000 }\nbinding \"b\" { domain \"a\" { \
          retry_interval = 43000 } }",
            &[],
        ),
        ("Spool_Segment_Size = 4M", &[]),
        (
            "Spool_Segment_Size = 4M max_message_size = 4M",
            &["E038@1:44"],
        ),
        ("max_message_size = 63M", &["E038@1:20"]),
        ("max_message_size = 62M", &[]),
        (
            "Spool_Segment_Size = 1M max_recipients_per_transaction = 50000",
            &["E038@1:58"],
        ),
        ("memory_goal = 96", &["E039@1:15"]),
        ("memory_hwm = 50", &["E039@1:14"]),
        ("event_log_max_total_size = 1M", &["E040@1:28"]),
        ("Shards = 5", &["W004@1:10"]),
        ("max_recipients_per_transaction = 99", &["W009@1:34"]),
        ("Spool_Sync_Interval = 1", &["W008@1:1"]),
        ("prohibited_hosts = none", &["W010@1:20"]),
        ("binding_group \"g\" { }", &["W011@1:1"]),
        ("retry_interval = 1\nretry_interval = 2", &["W007@2:1"]),
    ];
    for (text, expected) in cases {
        assert_eq!(codes(&with_listener(text)), *expected, "{text}");
    }
    assert_eq!(codes(""), ["W005"]);
    let listener = |outer: &str, inner: &str| {
        codes(&format!(
            "{outer}\nESMTP_Listener {{ Listen \"127.0.0.1:25\" {{ {inner} }} }}"
        ))
    };
    assert_eq!(codes("Spoolbase = \"spool\""), ["W013@1:13", "W005"]);
    assert_eq!(listener("", ""), ["W012@2:18"]);
    assert_eq!(listener("Relay_Hosts = ( )", ""), ["W012@2:18"]);
    assert_eq!(listener("", "Relay_Domains = ( \"a.example\" )"), [""; 0]);
    assert_eq!(listener("Relay_Hosts = ( \"::1\" )", ""), [""; 0]);
    assert_eq!(
        listener("", "Peer \"::1\" { Relay_Hosts = ( \"::1\" ) }"),
        [""; 0]
    );
}

#[test]
fn a_check_always_says_what_this_version_does_not_do() {
    let checked = try_load(&with_listener("")).expect("valid");
    let notes: Vec<&str> = checked.notes.iter().map(|it| it.code).collect();
    assert_eq!(notes, ["N001", "N002"]);
    assert!(checked.notes[0].message.contains("no DSNs are generated"));
}

// Includes.

fn load_files(files: &[(&str, &str)]) -> Result<Checked, Vec<Diagnostic>> {
    let map: BTreeMap<&str, &str> = files.iter().copied().collect();
    let mut include = |request: &IncludeRequest| {
        let folder = format!("{}/", request.path);
        let inside: Vec<SourceFile> = map
            .iter()
            .filter(|(name, _)| name.starts_with(&folder))
            .map(|(name, text)| source(name, text))
            .collect();
        match map.get(request.path.as_str()) {
            Some(text) => Ok(vec![source(&request.path, text)]),
            None if !inside.is_empty() => Ok(inside),
            None => Err(format!("no such file (looked for from {})", request.from)),
        }
    };
    load(source(files[0].0, files[0].1), &environment(), &mut include)
}

#[test]
fn includes_work_in_any_scope_and_count_where_they_stand() {
    let checked = load_files(&[
        (
            "main",
            "message_expiration = 1 include \"a\" binding \"b\" { include b.d } \
                  readonly_include \"a\" domain \"z\" { message_expiration = 4 }",
        ),
        ("a", "message_expiration = 2"),
        ("b.d/1", "retry_interval = 5 message_expiration = 8"),
        (
            "b.d/2",
            "message_expiration = 9 domain \"z\" { include \"a\" }",
        ),
    ])
    .expect("valid");
    let config = checked.config;
    assert_eq!(expiration(&config, "default", "x"), 2);
    assert_eq!(expiration(&config, "b", "x"), 9);
    assert_eq!(expiration(&config, "b", "z"), 2);
    assert_eq!(expiration(&config, "default", "z"), 4);
    assert_eq!(config.files(), 6);
    let query = Query {
        binding: Some("b".to_string()),
        ..Query::default()
    };
    let answer = config.eval("retry_interval", &query).expect("an answer");
    assert_eq!(answer.origin.to_string(), "b.d/1:1 (binding \"b\")");
}

#[test]
fn include_loops_depth_and_missing_files_are_errors_at_the_include() {
    let first = |files: &[(&str, &str)]| {
        let findings = load_files(files).expect_err("broken");
        let it = &findings[0];
        let place = it.place.clone().expect("a place");
        (
            format!("{}@{}:{}:{}", it.code, place.file, place.line, place.column),
            it.message.clone(),
        )
    };
    let (place, message) = first(&[
        ("main", "include a"),
        ("a", "\n include b"),
        ("b", "include a"),
    ]);
    assert_eq!(place, "E009@b:1:9");
    assert_eq!(
        message,
        "include loop: main includes a includes b includes a"
    );
    let (place, message) = first(&[("main", "include main")]);
    assert_eq!(
        (place.as_str(), message.contains("main includes main")),
        ("E009@main:1:9", true)
    );
    let (place, message) = first(&[("main", "x { }\ninclude \"none.conf\"")]);
    assert_eq!(place, "E010@main:1:1", "{message}");
    let names: Vec<String> = (0..40).map(|it| format!("f{it}")).collect();
    let texts: Vec<String> = (1..41).map(|it| format!("include f{it}")).collect();
    let chain: Vec<(&str, &str)> = names
        .iter()
        .map(String::as_str)
        .zip(texts.iter().map(String::as_str))
        .collect();
    assert_eq!(first(&chain).0, "E007@f15:1:9");
}

#[test]
fn the_number_of_files_and_their_size_are_bounded() {
    let many = "include a\n".repeat(1_001);
    let findings = load_files(&[("main", &many), ("a", "")]).expect_err("too many");
    assert_eq!(findings[0].code, "E007");
    assert_eq!(findings[0].place.as_ref().map(|it| it.line), Some(1_000));
    let large = " ".repeat(FILE_BYTES_MAX + 1);
    assert_eq!(
        load_files(&[("main", &large)]).expect_err("too large")[0].code,
        "E007"
    );
    let findings = load_files(&[("main", "include a"), ("a", &large)]).expect_err("too large");
    assert_eq!(
        findings[0].place.as_ref().map(|it| it.file.as_str()),
        Some("main")
    );
}

#[test]
fn the_number_of_patterns_is_bounded() {
    let text = |count: usize| -> String {
        (0..count)
            .map(|it| format!("domain \"/^{it}$/\" {{ }}\n"))
            .collect()
    };
    assert_eq!(codes(&with_listener(&text(1_000))), [""; 0]);
    assert_eq!(codes(&with_listener(&text(1_002))), ["E007@1001:1"]);
}

#[test]
fn errors_are_all_reported_in_order_up_to_a_bound() {
    let findings = codes("a = 1\nb = 2\nretry_interval = x\nShards = 0\nbinding { }\n");
    assert_eq!(
        findings,
        ["E011@1:1", "E011@2:1", "E020@3:18", "E021@4:10", "E016@5:1",]
    );
    let findings = try_load(&"x = 1\n".repeat(60)).expect_err("broken");
    let errors = findings.iter().filter(|it| it.code == "E011").count();
    assert_eq!(errors, diagnostic::ERRORS_MAX);
    assert_eq!(
        findings.last().map(|it| it.message.as_str()),
        Some("10 more errors are not shown")
    );
}

// Identity of a generation.

#[test]
fn the_normalised_text_means_the_same_and_has_the_same_digest() {
    let escapes = r#"domain "/[.]a\.b$/" { gateway = "x" } binding "q\"\\" { }"#;
    for text in EXAMPLES.into_iter().chain([escapes]) {
        let first = config(text);
        let again = config(&first.normalised());
        assert_eq!(first.normalised(), again.normalised());
        assert_eq!(first.digest(), again.digest());
        assert_eq!(first.global(), again.global());
        for binding in first.bindings() {
            for domain in ["example.com", "partner.example", "x"] {
                let settings = first.delivery(binding.index, domain);
                assert_eq!(settings, again.delivery(binding.index, domain));
            }
        }
    }
}

#[test]
fn the_digest_depends_on_meaning_only() {
    let base = config("Retry_Interval = 20m\ndomain \"a\" { blackhole = on }");
    let same = config("# c\nretry_interval=1200 /* x */ DOMAIN A { Blackhole = true }");
    let other = config("retry_interval = 1201 domain \"a\" { blackhole = on }");
    assert_eq!(
        (base.digest(), base.short_digest()),
        (same.digest(), same.short_digest())
    );
    assert_ne!(base.digest(), other.digest());
    assert_eq!(base.short_digest().len(), 4);
}

#[test]
fn changes_that_need_a_restart_are_named() {
    let base = "Spoolbase = \"/a\" ESMTP_Listener { Listen \"127.0.0.1:25\" { } }";
    let cases: &[(&str, &[&str])] = &[
        (
            "Spoolbase = \"/a\" retry_interval = 9 ESMTP_Listener { Listen \"127.0.0.1:25\" { \
          idle_time = 3 } }",
            &[],
        ),
        (
            "Spoolbase = \"/a\" Shards = auto ESMTP_Listener { Listen \"127.0.0.1:25\" { } }",
            &[],
        ),
        (
            "Spoolbase = \"/a\" Shards = 2 ESMTP_Listener { Listen \"127.0.0.1:25\" { } }",
            &["shards"],
        ),
        (
            "Spoolbase = \"/a\" ESMTP_Listener { Listen \"127.0.0.1:26\" { } }",
            &["Listen (127.0.0.1:26 instead of 127.0.0.1:25)"],
        ),
        (
            "Spoolbase = \"/b\" journal = \"/a/journal.jsonl\" \
          ESMTP_Listener { Listen \"127.0.0.1:25\" { } }",
            &["spoolbase", "event_log", "management_socket"],
        ),
    ];
    let base = config(base);
    for (text, expected) in cases {
        assert_eq!(
            base.changed_static_options(&config(text)),
            *expected,
            "{text}"
        );
    }
}

#[test]
fn a_reload_keeps_the_addresses_of_the_start_with_the_settings_of_the_new_file() {
    let listen = |port: u16, relay: &str| {
        let relay = format!("Relay_Hosts = ( \"{relay}\" )");
        format!("ESMTP_Listener {{ Listen \"127.0.0.1:{port}\" {{ {relay} }} }} ")
    };
    let boot = config(&(listen(25, "10.0.0.1") + &listen(26, "10.0.0.2")));
    let relays = |text: &str| {
        let mut new = config(text);
        new.keep_listens_of(&boot).map(|()| {
            let peer = |octet| core::net::IpAddr::from([10, 0, 0, octet]);
            let of = |index| {
                let settings = new.listener_settings(ListenIndex(index), peer(9));
                (1..=4).find(|it| settings.relay_hosts.contains(peer(*it)))
            };
            (of(0), of(1))
        })
    };
    let (first, second) = (listen(25, "10.0.0.1"), listen(26, "10.0.0.2"));
    let (changed, added) = (listen(27, "10.0.0.3"), listen(28, "10.0.0.4"));
    for (text, expected) in [
        (format!("{second}{first}"), (Some(1), Some(2))),
        (format!("{changed}{second}{added}"), (Some(3), Some(2))),
        (format!("{first}{added}"), (Some(1), Some(4))),
    ] {
        assert_eq!(relays(&text).expect("it can run"), expected, "{text}");
    }
    let gone = relays(&first).expect_err("26 takes mail still")[0].to_string();
    assert!(gone.contains("for 127.0.0.1:26"), "{gone}");
    let empty = relays("").expect_err("nothing is in it")[0].to_string();
    assert!(empty.contains("no ESMTP_Listener"), "{empty}");
}

// Anything at all.

struct Prng(u64);

impl Prng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[test]
fn no_mutation_of_a_configuration_panics_and_what_loads_can_be_read() {
    const SHREDS: [&str; 24] = [
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "=",
        "\"",
        "#",
        "/*",
        "*/",
        "\\",
        "'",
        "\u{0}",
        "ä",
        "\n",
        "binding",
        "domain",
        "\"/(/\"",
        "-1",
        "99999999999999999999",
        "include x",
        "\u{feff}",
        "/",
    ];
    for seed in 1..=400_u64 {
        let mut prng = Prng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut text: Vec<char> = EXAMPLES[prng.below(EXAMPLES.len())].chars().collect();
        for _ in 0..=prng.below(6) {
            let at = prng.below(text.len() + 1);
            match prng.below(4) {
                0 => drop(text.splice(at..at, SHREDS[prng.below(SHREDS.len())].chars())),
                1 => drop(text.drain(at..(at + prng.below(40)).min(text.len()))),
                2 => text.truncate(at.max(1)),
                _ => {
                    let from = prng.below(text.len() + 1);
                    let piece: Vec<char> = text[from..].iter().take(60).copied().collect();
                    text.splice(at..at, piece);
                }
            }
        }
        let text: String = text.into_iter().collect();
        match try_load(&text) {
            Err(findings) => assert!(!shown(&findings).is_empty()),
            Ok(checked) => {
                let again = try_load(&checked.config.normalised());
                let again = again.unwrap_or_else(|it| panic!("seed {seed}: {}", shown(&it)));
                assert_eq!(
                    checked.config.digest(),
                    again.config.digest(),
                    "seed {seed}"
                );
                checked.config.delivery(BindingIndex(0), "example.com");
            }
        }
    }
}

#[test]
fn hostile_files_are_refused_quickly() {
    let cases = [
        "\u{1}".repeat(1 << 20),
        "{".repeat(1 << 20),
        "a = (".repeat(1 << 18),
        "x { ".repeat(1 << 18),
        "\"".repeat(1 << 20),
        "'a ".repeat(1 << 18),
        "/*".repeat(1 << 20),
    ];
    for text in cases {
        let findings = try_load(&text).expect_err("broken");
        assert!(findings.len() <= 2 * diagnostic::ERRORS_MAX + 2);
        assert!(shown(&findings).len() < 100_000);
    }
}
