//! The canonical form of what a host said: the same refusal reads the same for every message, so
//! that refusals can be counted by their text. Addresses of hosts become `<ip>`, tokens made for
//! one message become `<id>`; words, codes and links stay.

use core::net::IpAddr;

/// A token shorter than this is a word or a code, not an id.
const ID_BYTES_MIN: usize = 10;

/// Digits that make a long token an id.
const ID_DIGITS_MIN: usize = 3;

/// Puts the canonical form of `text` into `out`, whatever was there before.
pub fn canonical(text: &str, out: &mut String) {
    out.clear();
    let mut rest = text;
    while !rest.is_empty() {
        // Tokens are ASCII, so that both ends of one are borders of characters.
        let token = rest
            .bytes()
            .position(|byte| !is_of_token(byte))
            .unwrap_or(rest.len());
        let (head, tail) = rest.split_at(token);
        push_token(head, out);
        let between = tail.bytes().position(is_of_token).unwrap_or(tail.len());
        let (blank, further) = tail.split_at(between);
        out.push_str(blank);
        rest = further;
    }
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".:-_+=/@".contains(&byte)
}

fn push_token(token: &str, out: &mut String) {
    let core = token.trim_end_matches(['.', ':', '-', '=']);
    let end = &token[core.len()..];
    let digits = core.bytes().filter(u8::is_ascii_digit).count();
    let masked = match core {
        // Words are the most, and neither: `::` is the one address without a digit.
        _ if digits == 0 => core,
        _ if core.parse::<IpAddr>().is_ok() => "<ip>",
        _ if is_id(core, digits) => "<id>",
        _ => core,
    };
    out.push_str(masked);
    out.push_str(end);
}

fn is_id(token: &str, digits: usize) -> bool {
    let link_or_address = token.contains("//") || token.contains('@');
    token.len() >= ID_BYTES_MIN && digits >= ID_DIGITS_MIN && !link_or_address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_per_message_is_masked_and_the_rest_stays() {
        let cases = [
            ("", ""),
            ("user unknown", "user unknown"),
            (
                "4.7.28 rate of mail from [192.0.2.7] is high",
                "4.7.28 rate of mail from [<ip>] is high",
            ),
            ("blocked: 2001:db8::1.", "blocked: <ip>."),
            (
                "see https://x.example/?p=1234567 d9443c01a7336-2a1f44si123plb.12 - gsmtp",
                "see https://x.example/?p=1234567 <id> - gsmtp",
            ),
            (
                "<bob1234567@x.example> over quota",
                "<bob1234567@x.example> over quota",
            ),
            ("S3150 é 12:30", "S3150 é 12:30"),
        ];
        let mut out = String::from("left over");
        for (text, expected) in cases {
            canonical(text, &mut out);
            assert_eq!(out, expected);
        }
    }
}
