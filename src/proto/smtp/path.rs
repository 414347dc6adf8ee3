//! Paths of MAIL and RCPT (RFC 5321 4.1.2, RFC 6531 3.3): taken apart in place. What passes here
//! has one meaning only: nothing is unquoted, no route is followed, no literal is guessed at.
//! Whether mail for an address is wanted is not decided here.

use core::net::Ipv4Addr;
use core::net::Ipv6Addr;

/// RFC 5321 4.5.3.1.2.
const DOMAIN_BYTES_MAX: usize = 255;
/// RFC 1035 2.3.4.
const LABEL_BYTES_MAX: usize = 63;

/// The two sides of an address as the client wrote them, quotes and brackets included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mailbox<'a> {
    pub local: &'a str,
    pub domain: &'a str,
}

/// What stands between `<` and `>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path<'a> {
    /// `<>`, the null reverse-path.
    Null,
    /// `<postmaster>` without a domain, which RFC 5321 4.1.1.3 allows a recipient to be.
    Postmaster,
    Mailbox(Mailbox<'a>),
}

/// Why a path was not taken. All of them are the client's fault and final.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathFault {
    Syntax,
    /// A source route. RFC 5321 allows to decline them (3.3, 4.1.1.3, appendix C); to ignore one
    /// would mean that two readers of one path see two destinations.
    Route,
}

/// Takes the path at the beginning of `text` and gives what follows its `>`.
///
/// The local part may be longer than the 64 octets of RFC 5321 4.5.3.1.1 and have dots anywhere:
/// return paths made per recipient and mailboxes of mobile carriers do. Only their receiver can
/// say whether they exist.
pub fn parse(text: &str) -> Result<(Path<'_>, &str), PathFault> {
    let inner = text.strip_prefix('<').ok_or(PathFault::Syntax)?;
    if let Some(rest) = inner.strip_prefix('>') {
        return Ok((Path::Null, rest));
    }
    if inner.starts_with('@') {
        let is_route = inner.contains(':');
        return Err(if is_route {
            PathFault::Route
        } else {
            PathFault::Syntax
        });
    }
    let local_end = local_part_end(inner).ok_or(PathFault::Syntax)?;
    let (local, rest) = inner.split_at(local_end);
    if local.eq_ignore_ascii_case("postmaster")
        && let Some(rest) = rest.strip_prefix('>')
    {
        return Ok((Path::Postmaster, rest));
    }
    let after_at = rest.strip_prefix('@').ok_or(PathFault::Syntax)?;
    let domain_end = after_at.find('>').ok_or(PathFault::Syntax)?;
    let domain = &after_at[..domain_end];
    if !is_domain(domain) && !is_literal(domain) {
        return Err(PathFault::Syntax);
    }
    Ok((
        Path::Mailbox(Mailbox { local, domain }),
        &after_at[domain_end + 1..],
    ))
}

/// What a client may call itself: a name or an address literal. Underscores, a trailing dot and
/// bare numbers are let pass, since the name proves nothing and is only recorded.
pub fn is_helo_name(text: &str) -> bool {
    if text.starts_with('[') {
        return is_literal(text);
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !text.is_empty() && text.len() <= DOMAIN_BYTES_MAX && text.bytes().all(known)
}

/// Where the local part ends, if there is one: a dot-string or a quoted string.
fn local_part_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let end = match bytes.first()? {
        b'"' => quoted_end(bytes)?,
        _ => bytes.iter().position(|byte| !is_dot_string_byte(*byte))?,
    };
    let local = &text[..end];
    if end == 0 || !is_clean(local) {
        None
    } else {
        Some(end)
    }
}

fn is_dot_string_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte)
}

/// The byte after the closing quote. Empty quotes are no local part: no host could deliver them.
fn quoted_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match *bytes.get(at)? {
            b'"' if at == 1 => return None,
            b'"' => return Some(at + 1),
            b'\\' => {
                if !matches!(bytes.get(at + 1)?, b' '..=b'~') {
                    return None;
                }
                at += 2;
            }
            b' '..=b'~' | 0x80.. => at += 1,
            _ => return None,
        }
    }
}

/// No character that breaks a line or a field for a reader who knows Unicode.
fn is_clean(text: &str) -> bool {
    text.is_ascii()
        || !text
            .chars()
            .any(|c| !c.is_ascii() && (c.is_control() || c.is_whitespace()))
}

/// A name with letters, digits, hyphens, underscores (seen in the field) or U-labels. A numeric
/// last label is refused: resolvers would take the whole for an IPv4 address.
fn is_domain(text: &str) -> bool {
    if text.is_empty() || text.len() > DOMAIN_BYTES_MAX || !is_clean(text) {
        return false;
    }
    // IDNA maps these to a dot: the name would be cut differently by different readers.
    if text.contains(['\u{3002}', '\u{ff0e}', '\u{ff61}']) {
        return false;
    }
    let last = text.rsplit('.').next().unwrap_or(text);
    !last.bytes().all(|byte| byte.is_ascii_digit()) && text.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte >= 0x80 || b"-_".contains(&byte);
    !label.is_empty()
        && label.len() <= LABEL_BYTES_MAX
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(known)
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]`; general address literals have no meaning here.
fn is_literal(text: &str) -> bool {
    let Some(inner) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    else {
        return false;
    };
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inner[5..].parse::<Ipv6Addr>().is_ok(),
        _ => inner.parse::<Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, &str), PathFault>) {
        let parsed = parse(text).map(|(path, rest)| {
            assert_eq!(rest, "", "{text}");
            match path {
                Path::Null => ("", ""),
                Path::Postmaster => ("postmaster", ""),
                Path::Mailbox(mailbox) => (mailbox.local, mailbox.domain),
            }
        });
        assert_eq!(parsed, expected, "{text}");
    }

    #[test]
    fn paths_with_one_meaning_are_taken_as_written() {
        let cases = [
            ("<>", ("", "")),
            ("<a@b.example>", ("a", "b.example")),
            ("<PostMaster>", ("PostMaster", "")),
            ("<postmaster@b.example>", ("postmaster", "b.example")),
            ("<\"a b\"@b.example>", ("\"a b\"", "b.example")),
            ("<\"a\\\"@c\"@b.example>", ("\"a\\\"@c\"", "b.example")),
            ("<\"a>b\"@b.example>", ("\"a>b\"", "b.example")),
            ("<.a..b.@b.example>", (".a..b.", "b.example")),
            ("<a%b!c@b.example>", ("a%b!c", "b.example")),
            ("<a@[192.0.2.1]>", ("a", "[192.0.2.1]")),
            ("<a@[IPv6:2001:db8::1]>", ("a", "[IPv6:2001:db8::1]")),
            ("<a@x_y.example>", ("a", "x_y.example")),
            ("<用户@例子.example>", ("用户", "例子.example")),
            ("<a@localhost>", ("a", "localhost")),
        ];
        for (text, (local, domain)) in cases {
            let local = if domain.is_empty() && !local.is_empty() {
                "postmaster"
            } else {
                local
            };
            check(text, Ok((local, domain)));
        }
    }

    #[test]
    fn every_other_form_is_refused() {
        let syntax = [
            "",
            "a@b.example",
            "<a@b.example",
            "<a>",
            "<a@>",
            "<@b>",
            "<a@@b>",
            "<a@b@c>",
            "< >",
            "<a @b>",
            "<a@ b>",
            "<a@b >",
            "<a@b\t>",
            "<a(c)@b>",
            "<a@b(c)>",
            "<\"a@b>",
            "<\"\"@b>",
            "<\"a\"b@c>",
            "<\"a\\\">",
            "<a@[b]>",
            "<a@[300.0.0.1]>",
            "<a@[IPv6:x]>",
            "<a@[x:y]>",
            "<a@[]>",
            "<a@127.0.0.1>",
            "<a@2130706433>",
            "<a@b.>",
            "<a@.b>",
            "<a@b..c>",
            "<a@-b>",
            "<a@b-.c>",
            "<a@b%c>",
            "<a@b\u{3002}c>",
            "<a\u{2028}b@c>",
            "<a@b\u{85}c>",
            "<a,b@c>",
            "<a@b,c>",
            "<a;b@c>",
            "<a:b@c>",
            "<a\\b@c>",
        ];
        for text in syntax {
            check(text, Err(PathFault::Syntax));
        }
        let long_label = format!("<a@{}.example>", "x".repeat(64));
        let long_name = format!("<a@{}example>", "x.".repeat(127));
        check(&long_label, Err(PathFault::Syntax));
        check(&long_name, Err(PathFault::Syntax));
        for text in ["<@r:a@b>", "<@[192.0.2.1]:a@b>", "<@r,@s:a@b>"] {
            check(text, Err(PathFault::Route));
        }
    }

    #[test]
    fn parameters_after_the_path_are_left_and_quotes_hide_none() {
        let (_, rest) = parse("<a@b> SIZE=1").unwrap();
        assert_eq!(rest, " SIZE=1");
        let (path, rest) = parse("<\"foo@v> ORCPT=rfc822;x@v\"@r>").unwrap();
        assert_eq!(rest, "");
        assert!(matches!(path, Path::Mailbox(mailbox) if mailbox.domain == "r"));
    }

    #[test]
    fn names_that_clients_go_by() {
        for name in [
            "mail.example",
            "host_1",
            "127.0.0.1",
            "[127.0.0.1]",
            "[IPv6:::1]",
            "a.",
        ] {
            assert!(is_helo_name(name), "{name}");
        }
        let long = "x".repeat(4_096);
        for name in ["", "a b", "[]", "[x", "(none)", "a<b", "a\u{e9}", &long] {
            assert!(!is_helo_name(name), "{name}");
        }
    }
}
