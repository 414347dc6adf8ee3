//! Tables of values: what each type accepts, its canonical text, and what it says when it refuses.

use super::*;

const SPAN: Span = Span {
    file: 0,
    start: 0,
    end: 1,
};

fn word(text: &str) -> RawValue {
    RawValue::Word(Word {
        text: text.to_string(),
        quoted: true,
        span: SPAN,
    })
}

fn list(items: &[&str]) -> RawValue {
    RawValue::List(items.iter().map(|it| word(it)).collect(), SPAN)
}

/// Canonical text, or `code: message`.
fn check(kind: Kind, raw: &RawValue, expected: &str) {
    let shown = match parse_value(&kind, raw) {
        Ok(value) => value.to_string(),
        Err(error) => {
            let near = error
                .suggestion
                .map_or(String::new(), |it| format!(" ~{it}"));
            assert!(!error.expected.is_empty());
            format!("{}: {}{near}", error.code, error.message)
        }
    };
    assert_eq!(shown, expected, "{kind:?} {raw:?}");
}

#[test]
fn booleans_have_five_spellings_each() {
    for text in ["true", "On", "ENABLED", "yes", "1"] {
        check(Kind::Bool, &word(text), "true");
    }
    for text in ["false", "off", "Disabled", "no", "0"] {
        check(Kind::Bool, &word(text), "false");
    }
    check(
        Kind::Bool,
        &word("ture"),
        "E022: \"ture\" is not one of the possible values ~true",
    );
    check(
        Kind::Bool,
        &list(&["true"]),
        "E020: a list stands where one value belongs",
    );
    let blackhole = Kind::BoolOrWord(&["inline", "internal"]);
    check(blackhole, &word("true"), "inline");
    check(blackhole, &word("Internal"), "internal");
    check(blackhole, &word("off"), "false");
}

#[test]
fn numbers_words_and_limits_are_bounded() {
    let int = Kind::Int { min: -1, max: 10 };
    let cases = [
        ("10", "10"),
        ("-1", "-1"),
        ("11", "E021: \"11\" is out of bounds"),
        ("-2", "E021: \"-2\" is out of bounds"),
        ("1.5", "E020: \"1.5\" is not a whole number"),
        (
            "99999999999999999999",
            "E020: \"99999999999999999999\" is not a whole number",
        ),
        ("", "E020: \"\" is not a whole number"),
    ];
    for (text, expected) in cases {
        check(int, &word(text), expected);
    }
    let retries = Kind::IntOrWord {
        min: 0,
        max: 5,
        words: &["auto", "none"],
    };
    check(retries, &word("AUTO"), "auto");
    check(retries, &word("3"), "3");
    check(
        retries,
        &word("non"),
        "E020: \"non\" is not a whole number ~none",
    );
    let limit = Kind::Limit { max: 9 };
    check(limit, &word("-1"), "-1");
    check(limit, &word("0"), "E021: \"0\" is out of bounds");
    check(limit, &word("9"), "9");
}

#[test]
fn durations_and_sizes_take_units() {
    let duration = Kind::Duration {
        min_ms: 10,
        max_s: 86_400,
    };
    let cases = [
        ("90", "90"),
        ("20m", "1200"),
        ("1h30m", "5400"),
        ("250ms", "250ms"),
        ("1500ms", "1500ms"),
        ("5ms", "E021: \"5ms\" is out of bounds"),
        ("2d", "E021: \"2d\" is out of bounds"),
        ("soon", "E020: \"soon\" is not a duration"),
        ("-1", "E020: \"-1\" is not a duration"),
    ];
    for (text, expected) in cases {
        check(duration, &word(text), expected);
    }
    let size = Kind::Size {
        min: 1_024,
        max: 1 << 30,
    };
    let cases = [
        ("1024", "1K"),
        ("50M", "50M"),
        ("64 KiB", "64K"),
        ("1025", "1025"),
        ("1G", "1G"),
        ("2G", "E021: \"2G\" is out of bounds"),
        ("1.5M", "E020: \"1.5M\" is not a size"),
    ];
    for (text, expected) in cases {
        check(size, &word(text), expected);
    }
    let octal = Kind::Octal { max: 0o777 };
    check(octal, &word("0640"), "0640");
    check(
        octal,
        &word("044"),
        "E021: \"044\" does not let the owner read and write",
    );
    check(
        octal,
        &word("0888"),
        "E020: \"0888\" is not an octal number",
    );
}

#[test]
fn addresses_and_networks() {
    let sockets = Kind::SocketAddresses { port: 53 };
    check(sockets, &word("127.0.0.1"), "( \"127.0.0.1:53\" )");
    check(
        sockets,
        &list(&["[::1]:5353", "::1"]),
        "( \"[::1]:5353\" \"[::1]:53\" )",
    );
    check(
        sockets,
        &word("dns.example"),
        "E020: \"dns.example\" is not an address",
    );
    let sources = Kind::SourceAddresses;
    check(sources, &word("*"), "\"*\"");
    check(sources, &word("[2001:db8::1]"), "\"2001:db8::1\"");
    check(
        sources,
        &list(&["192.0.2.1", "2001:db8::1"]),
        "( \"192.0.2.1\" \"2001:db8::1\" )",
    );
    let second = "E021: \"192.0.2.2\" is a second address of its family";
    check(sources, &list(&["192.0.2.1", "192.0.2.2"]), second);
    check(
        sources,
        &list(&["*", "192.0.2.2"]),
        "E020: \"*\" is not an IP address",
    );
    check(sources, &list(&[]), "E021: the list is empty");
    check(
        sources,
        &word("0.0.0.0"),
        "E021: \"0.0.0.0\" cannot be the source of a connection",
    );
    check(
        Kind::Networks,
        &list(&["10.1.2.3/8", "::1"]),
        "( \"10.0.0.0/8\" \"::1/128\" )",
    );
    check(Kind::Networks, &list(&[]), "( )");
    check(
        Kind::Networks,
        &word("here"),
        "E020: \"here\" is not an address or network",
    );
    let prohibited = Kind::ProhibitedHosts;
    check(prohibited, &word("auto"), "auto");
    check(prohibited, &word("none"), "\"none\"");
    check(
        prohibited,
        &list(&["own", "192.0.2.0/24"]),
        "( \"own\" \"192.0.2.0/24\" )",
    );
    let ok = parse_value(&prohibited, &list(&["auto", "192.0.2.0/24"])).expect("valid");
    let text = ok.to_string();
    assert!(
        text.contains("\"own\" \"0.0.0.0/8\"") && text.contains("192.0.2.0/24"),
        "{text}"
    );
}

#[test]
fn texts_and_targets() {
    check(Kind::Path, &word("/a b"), "\"/a b\"");
    check(Kind::Path, &word(""), "E020: \"\" is empty");
    check(Kind::Path, &word("a/b"), "\"a/b\"");
    check(Kind::HostName, &word("Mx.Example"), "\"Mx.Example\"");
    let message = "E020: \"__message__\" is known from Momentum and not supported";
    check(Kind::HostName, &word("__message__"), message);
    check(
        Kind::HostName,
        &word("a b"),
        "E020: \"a b\" cannot be a host: a name does not contain ' '",
    );
    check(Kind::Gateway, &word("Relay.Example."), "\"relay.example\"");
    check(Kind::Gateway, &word("2001:db8::1"), "\"2001:db8::1\"");
    let port = "E020: \"h:25\" cannot be a host: a name does not contain ':', and a port does not \
                belong here";
    check(Kind::Gateway, &word("h:25"), port);
    check(Kind::Gateway, &word("#spe_relay"), "\"#spe_relay\"");
    check(Kind::Target, &word("127.0.0.1:2526"), "\"127.0.0.1:2526\"");
    check(Kind::Target, &word("[::1]:26"), "\"[::1]:26\"");
    check(
        Kind::Target,
        &word("h:0"),
        "E020: \"h:0\" has no port in \":0\"",
    );
    check(
        Kind::Domains,
        &list(&["B.example", "a.example"]),
        "( \"a.example\" \"b.example\" )",
    );
    let bad = parse_value(&Kind::Domains, &word("/(/")).expect_err("an open group");
    assert_eq!(bad.code, "E023");
    let routes = "( \"smtp://b?pref=5\" \"smtp://a?pref=10\" )";
    check(Kind::Routes, &list(&["a", "smtp://b?pref=5"]), routes);
}

#[test]
fn canonical_text_is_read_back_as_the_same_value() {
    let cases: &[(Kind, RawValue)] = &[
        (
            Kind::Duration {
                min_ms: 1,
                max_s: 99_999,
            },
            word("1h1ms"),
        ),
        (
            Kind::Size {
                min: 0,
                max: u64::MAX,
            },
            word("3T"),
        ),
        (
            Kind::Size {
                min: 0,
                max: u64::MAX,
            },
            word("0"),
        ),
        (Kind::Target, word("h.example")),
    ];
    for (kind, raw) in cases {
        let value = parse_value(kind, raw).expect("valid");
        let text = value.to_string();
        let again = parse_value(kind, &word(text.trim_matches('"'))).expect("valid");
        assert_eq!(value, again, "{text}");
    }
}

#[test]
fn rates_are_counts_in_a_window() {
    let cases = [
        ("10", "\"10\""),
        ("10/1", "\"10\""),
        ("60/3", "\"60/3\""),
        ("60/1m", "\"60/60\""),
        ("0", "0"),
        ("0/60", "0"),
        ("ten", "E020: \"ten\" is not a rate"),
        ("1/0", "E020: \"1/0\" is not a rate"),
        ("-1", "E020: \"-1\" is not a rate"),
        ("1/500ms", "E021: \"1/500ms\" is out of bounds"),
        ("1/2y", "E020: \"1/2y\" is not a rate"),
        ("2000000000", "E021: \"2000000000\" is out of bounds"),
    ];
    for (text, expected) in cases {
        check(Kind::Rate, &word(text), expected);
    }
}
