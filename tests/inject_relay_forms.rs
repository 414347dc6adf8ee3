//! No form of address opens a relay: whatever a stranger writes, nothing is accepted whose final
//! domain is not a relay domain, or that a host further on could take for an order to relay.

mod inject_rig;

use inject_rig::Rig;
use inject_rig::STRANGER;
use inject_rig::TRUSTED;
use inject_rig::codes;
use inject_rig::settings;
use pelton::inject::Settings;

/// R stands for a relay domain, V for somebody else's.
const DENIED: &str = "550 5.7.1";
const SYNTAX: &str = "501 5.1.3";
const ROUTE: &str = "553 5.1.3";
const ACCEPTED: &str = "250 2.1.5";

/// What stands between the angle brackets, and the reply to a stranger.
const FORMS: [(&str, &str); 51] = [
    ("u@V", DENIED),
    ("\"u\"@V", DENIED),
    ("u%V@R", DENIED),
    ("u%V@[127.0.0.1]", DENIED),
    ("\"u@V\"", SYNTAX),
    ("\"u%V\"", SYNTAX),
    ("u@V@R", SYNTAX),
    ("\"u@V\"@R", DENIED),
    ("u@V@[127.0.0.1]", SYNTAX),
    ("@R:u@V", ROUTE),
    ("@[127.0.0.1]:u@V", ROUTE),
    ("@R,@srv:u@V", ROUTE),
    ("V!u", SYNTAX),
    ("V!u@R", DENIED),
    ("V!u@[127.0.0.1]", DENIED),
    ("u@R.V", DENIED),
    ("u@V.", SYNTAX),
    ("u@V%R", SYNTAX),
    ("u@R@V", SYNTAX),
    ("u@@V", SYNTAX),
    ("\"u@V>\"@R", DENIED),
    ("u@R(c)V", SYNTAX),
    ("u(V)@R", SYNTAX),
    ("u @V", SYNTAX),
    ("u@ V", SYNTAX),
    ("u@V\t", "500 5.5.2"),
    ("u\0@V", "500 5.5.2"),
    ("u@V\0@R", "500 5.5.2"),
    ("u@R\0.V", "500 5.5.2"),
    ("u@[V]", SYNTAX),
    ("u@[127.0.0.1]", DENIED),
    ("u@[IPv6:::1]", DENIED),
    ("u@127.0.0.1", SYNTAX),
    ("u@2130706433", SYNTAX),
    ("u@localhost", DENIED),
    ("u", SYNTAX),
    ("", SYNTAX),
    ("postmaster", DENIED),
    ("u@", SYNTAX),
    ("@V", SYNTAX),
    ("\"\\\"u@V\\\"\"@R", DENIED),
    ("\"foo@V> ORCPT=rfc822;x@V\"@R", DENIED),
    ("u@xn--V", DENIED),
    ("u@ｖictim.example", "553 5.6.7"),
    // Two commands: the first is cut short, the second has no angle bracket where it ends.
    ("u\r\nRCPT TO:<x@V>", "501 5.1.3, 501 5.1.3"),
    ("|/bin/sh@R", ACCEPTED),
    (";sleep 5;@R", SYNTAX),
    ("-oQ/tmp@R", DENIED),
    ("../../../../etc/passwd@R", ACCEPTED),
    ("u@R", ACCEPTED),
    ("postmaster@R", ACCEPTED),
];

/// The forms with both domains filled in, and those that are too long to write down.
fn forms() -> Vec<(String, &'static str)> {
    let fill = |text: &str| {
        text.replace('R', "r.example")
            .replace('V', "victim.example")
    };
    // The letters of commands and tags are no placeholders.
    let fill = |text: &str| match text {
        "u\r\nRCPT TO:<x@V>" => "u\r\nRCPT TO:<x@victim.example>".to_string(),
        "u@[IPv6:::1]" => text.to_string(),
        "\"foo@V> ORCPT=rfc822;x@V\"@R" => {
            "\"foo@victim.example> ORCPT=rfc822;x@victim.example\"@r.example".to_string()
        }
        _ => fill(text),
    };
    let mut all: Vec<_> = FORMS
        .iter()
        .map(|(text, reply)| (fill(text), *reply))
        .collect();
    all.push((format!("{}@victim.example", "u".repeat(65)), DENIED));
    all.push((format!("u@{}example", "x.".repeat(124)), DENIED));
    all.push((format!("u@{}.example", "x".repeat(64)), SYNTAX));
    assert_eq!(all.len(), 54);
    all
}

const SENDERS: [&str; 3] = ["<>", "<a@r.example>", "<a@elsewhere.example>"];

/// The relay domains that an accepted address may end in.
fn assert_ends_in_a_relay_domain(rig: &mut Rig, form: &str) {
    rig.feed(b"DATA\r\n.\r\n");
    for submission in &rig.submissions {
        for recipient in &submission.recipients {
            assert_eq!(recipient.address.domain(), "r.example", "{form:?}");
            assert!(
                !recipient.address.local().contains(['%', '!', '@', ':']),
                "{form:?}"
            );
        }
    }
}

fn lenient() -> Settings {
    Settings {
        errors_max: 1_000,
        ..settings()
    }
}

#[test]
fn every_form_of_a_stranger_gets_its_reply_whoever_the_sender_is() {
    for (form, expected) in forms() {
        for sender in SENDERS {
            let mut rig = Rig::greeted_with(STRANGER, lenient());
            rig.feed(format!("MAIL FROM:{sender}\r\n").as_bytes());
            rig.sent.clear();
            rig.feed(format!("RCPT TO:<{form}>\r\n").as_bytes());
            assert_eq!(codes(&rig.sent), expected, "{form:?} from {sender}");
            assert_ends_in_a_relay_domain(&mut rig, &form);
            let is_accepted = expected == ACCEPTED;
            assert_eq!(rig.submissions.len(), usize::from(is_accepted), "{form:?}");
        }
    }
}

#[test]
fn forms_come_to_nothing_when_every_byte_comes_alone() {
    for (form, expected) in forms() {
        let mut rig = Rig::greeted_with(STRANGER, lenient());
        rig.feed(b"MAIL FROM:<>\r\n");
        rig.sent.clear();
        rig.feed_in_pieces(format!("RCPT TO:<{form}>\r\n").as_bytes(), 1);
        assert_eq!(codes(&rig.sent), expected, "{form:?}");
    }
}

#[test]
fn claims_about_another_address_change_nothing() {
    let claims = [
        "XCLIENT ADDR=127.0.0.1 NAME=localhost\r\n",
        "XFORWARD ADDR=127.0.0.1\r\n",
    ];
    for claim in claims {
        for (form, expected) in forms() {
            let mut rig = Rig::greeted_with(STRANGER, lenient());
            rig.feed(claim.as_bytes());
            assert_eq!(codes(&rig.sent), "502 5.5.1");
            rig.feed(b"MAIL FROM:<>\r\n");
            rig.sent.clear();
            rig.feed(format!("RCPT TO:<{form}>\r\n").as_bytes());
            assert_eq!(codes(&rig.sent), expected, "{form:?} after {claim:?}");
        }
    }
}

#[test]
fn a_proxy_header_ends_the_connection_whichever_its_version() {
    let headers: [&[u8]; 4] = [
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n",
        b"PROXY UNKNOWN\r\nPROXY UNKNOWN\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x00\x01\x00\x19",
        b"PROXY TCP6 ::1 ::1 1 25\r\nEHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<u@victim.example>\r\n",
    ];
    for header in headers {
        for piece in [1, 3, header.len()] {
            let mut rig = Rig::new(STRANGER, settings());
            rig.sent.clear();
            rig.feed_in_pieces(header, piece);
            assert!(rig.is_closed, "{}", header.escape_ascii());
            let codes = codes(&rig.sent);
            assert!(
                codes.ends_with("554 5.5.1") || codes.ends_with("550 5.5.2"),
                "{codes}"
            );
        }
    }
}

#[test]
fn a_unicode_domain_is_compared_in_the_form_it_is_looked_up() {
    let cases = [
        ("u@ｖictim.example", DENIED),
        ("u@ｒ.example", ACCEPTED),
        ("u@victim.example\u{3002}r.example", SYNTAX),
        ("ü@r.example", ACCEPTED),
        ("u％v@r.example", ACCEPTED),
    ];
    for (form, expected) in cases {
        let mut rig = Rig::greeted(STRANGER);
        rig.feed(b"MAIL FROM:<> SMTPUTF8\r\n");
        rig.sent.clear();
        rig.feed(format!("RCPT TO:<{form}>\r\n").as_bytes());
        assert_eq!(codes(&rig.sent), expected, "{form:?}");
    }
}

#[test]
fn a_relay_host_may_use_every_form_that_has_one_meaning() {
    for (form, stranger) in forms() {
        let mut rig = Rig::greeted_with(TRUSTED, lenient());
        rig.feed(b"MAIL FROM:<>\r\n");
        rig.sent.clear();
        rig.feed(format!("RCPT TO:<{form}>\r\n").as_bytes());
        let expected = if stranger == DENIED {
            ACCEPTED
        } else {
            stranger
        };
        assert_eq!(codes(&rig.sent), expected, "{form:?}");
    }
}

#[test]
fn postmaster_without_a_domain_is_at_this_host_and_follows_its_relay_domains() {
    let mut rig = Rig::greeted(STRANGER);
    let relay_domains = std::sync::Arc::make_mut(&mut rig.relay.relay_domains);
    relay_domains.add(inject_rig::HOST).unwrap();
    rig.feed(b"MAIL FROM:<>\r\nRCPT TO:<Postmaster>\r\nDATA\r\n.\r\n");
    assert_eq!(codes(&rig.sent), "250 2.1.0, 250 2.1.5, 354, 250 2.0.0");
    assert_eq!(
        rig.submissions[0].recipients[0].address.as_str(),
        "postmaster@mx.example"
    );
}
