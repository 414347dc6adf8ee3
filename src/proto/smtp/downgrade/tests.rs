//! What comes out is read again by a decoder written for these tests, and compared.

use super::*;
use crate::base::prng::Prng;

fn unquote_printable(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'=' {
            out.push(byte);
            rest = after;
        } else if let Some(after) = after.strip_prefix(b"\r\n") {
            rest = after;
        } else {
            let hex = core::str::from_utf8(&after[..2]).unwrap();
            assert_eq!(hex, hex.to_uppercase());
            out.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &after[2..];
        }
    }
    out
}

fn unbase64(text: &[u8]) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} is no base64"),
    };
    let digits: Vec<u8> = text
        .iter()
        .copied()
        .filter(|b| !matches!(b, b'\r' | b'\n' | b'='))
        .map(value)
        .collect();
    let mut out = Vec::new();
    for group in digits.chunks(4) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit));
        let bits = bits << (6 * (4 - group.len()));
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    out
}

fn convert(message: &str) -> String {
    let out = to_seven_bit(message.as_bytes()).unwrap();
    assert!(out.is_ascii());
    assert!(out.split(|b| *b == b'\n').all(|line| line.len() <= 999));
    String::from_utf8(out).unwrap().replace("\r\n", "\n")
}

#[track_caller]
fn check(message: &str, expected: &str) {
    assert_eq!(convert(&message.replace('\n', "\r\n")), expected);
}

#[track_caller]
fn check_refused(message: &str, why: Unconvertible) {
    assert_eq!(
        to_seven_bit(message.replace('\n', "\r\n").as_bytes()),
        Err(why)
    );
}

#[test]
fn text_becomes_quoted_printable_and_the_header_says_so() {
    check(
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\
         Content-Transfer-Encoding: 8bit\nSubject: x\n\nGrüße = \n.\n",
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\
         Content-Transfer-Encoding: quoted-printable\nSubject: x\n\nGr=C3=BC=C3=9Fe =3D=20\n.\n",
    );
    check(
        "Subject: x\n\nü",
        "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
         Content-Transfer-Encoding: quoted-printable\n\n=C3=BC",
    );
    check(
        "\nü\n",
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
         Content-Transfer-Encoding: quoted-printable\n\n=C3=BC\n",
    );
}

#[test]
fn what_is_no_text_becomes_base64() {
    check(
        "MIME-Version: 1.0\nContent-Type: image/png (a \"comment\")\n\
         content-transfer-encoding : binary\n\nü\n",
        "MIME-Version: 1.0\nContent-Type: image/png (a \"comment\")\n\
         Content-Transfer-Encoding: base64\n\nw7wNCg==\n",
    );
}

#[test]
fn multiparts_and_enclosed_messages_are_walked_and_7_bit_parts_stay() {
    check(
        "MIME-Version: 1.0\nContent-Type: multipart/mixed;\n boundary=\"a b\"\n\
         Content-Transfer-Encoding: 8bit\n\npreamble\n--a b\n\nü\n--a b  \n\
         Content-Type: text/html\n\n<b>as it is</b>\n--a b\nContent-Type: message/rfc822\n\n\
         Subject: inner\nContent-Type: multipart/alternative; boundary=a\n\n--a\n\nö\n--a--\n\
         --a b\nContent-Type: application/x\n\nä\n--a b--\nepilogue\n",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed;\n boundary=\"a b\"\n\
         Content-Transfer-Encoding: 7bit\n\npreamble\n--a b\n\
         Content-Transfer-Encoding: quoted-printable\n\n=C3=BC\n--a b  \n\
         Content-Type: text/html\n\n<b>as it is</b>\n--a b\nContent-Type: message/rfc822\n\n\
         Subject: inner\nContent-Type: multipart/alternative; boundary=a\nMIME-Version: 1.0\n\n\
         --a\nContent-Transfer-Encoding: quoted-printable\n\n=C3=B6\n--a--\n\
         --a b\nContent-Type: application/x\nContent-Transfer-Encoding: base64\n\nw6Q=\n\
         \n--a b--\nepilogue\n",
    );
    // Without an end, the last part goes to the end.
    check(
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=a\n\n--a\n\nü\n",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=a\n\n--a\n\
         Content-Transfer-Encoding: quoted-printable\n\n=C3=BC\n",
    );
    // A part of a digest is a message.
    check(
        "MIME-Version: 1.0\nContent-Type: multipart/digest; boundary=a\n\n--a\n\nSubject: y\n\nü\n\
         --a--\n",
        "MIME-Version: 1.0\nContent-Type: multipart/digest; boundary=a\n\n--a\n\nSubject: y\n\
         MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
         Content-Transfer-Encoding: quoted-printable\n\n=C3=BC\n--a--\n",
    );
}

#[test]
fn what_would_not_be_the_same_message_is_not_converted() {
    use Unconvertible::*;
    let multipart = |rest: &str| {
        format!("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=a\n\n{rest}")
    };
    check_refused("Subject: ü\n\nx\n", EightBitHeader);
    check_refused("Subject: ü", EightBitHeader);
    check_refused(&multipart("--a\nX: ü\n\nx\n--a--\n"), EightBitHeader);
    check_refused("Content-Transfer-Encoding: base64\n\nü\n", AlreadyEncoded);
    check_refused("Content-Transfer-Encoding: x-uu\n\nü\n", Malformed);
    check_refused(
        "Content-Type: multipart/signed; boundary=a\n\n--a\n\nü\n--a--\n",
        Sealed,
    );
    check_refused("Content-Type: message/partial\n\nü\n", Sealed);
    check_refused("Content-Type: multipart/mixed\n\nü\n", Malformed);
    check_refused("Content-Type: multipart/mixed; boundary=\n\nü\n", Malformed);
    check_refused(
        "Content-Type: multipart/mixed; boundary=a; boundary=b\n\nü\n",
        Malformed,
    );
    check_refused(
        "Content-Type: text/plain\nContent-Type: image/png\n\nü\n",
        Malformed,
    );
    check_refused("Content-Type: nonsense\n\nü\n", Malformed);
    check_refused(&multipart("ü\n--a\n\nx\n--a--\n"), Malformed);
    check_refused(&multipart("--a\n\nx\n--a--\nü\n"), Malformed);
    check_refused(&multipart("no parts: ü\n"), Malformed);
    check_refused(&multipart("--a--\nü\n"), Malformed);
}

#[test]
fn bombs_are_refused_in_time() {
    let mut deep = String::new();
    for level in 0..10_000 {
        deep.push_str(&format!(
            "Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n"
        ));
    }
    check_refused(&format!("{deep}\nü\n"), Unconvertible::TooComplex);
    let wide = "--a\n\nü\n".repeat(100_000);
    let wide = format!("Content-Type: multipart/mixed; boundary=a\n\n{wide}");
    check_refused(&wide, Unconvertible::TooComplex);
    let enclosed = "Content-Type: message/rfc822\n\n".repeat(100_000);
    check_refused(&format!("{enclosed}ü"), Unconvertible::TooComplex);
    // Unclosed comments are nothing but long.
    let comment = "(".repeat(1_000_000);
    let message = format!("Content-Type: text/plain {comment}\r\n\r\nü\r\n");
    assert!(to_seven_bit(message.as_bytes()).is_ok());
    let empty = "--a\n".repeat(100_000);
    check_refused(
        &format!("Content-Type: multipart/mixed; boundary=a\n\n{empty}\n\nü\n--a\nü: "),
        Unconvertible::EightBitHeader,
    );
}

#[test]
fn encodings_decode_to_what_went_in_and_lines_are_short() {
    let mut random = Prng::new(9);
    for round in 0..400 {
        let bytes = random.below(600) as usize;
        let mut body: Vec<u8> = (0..bytes)
            .map(|_| match random.below(6) {
                0 => b' ',
                1 => b'=',
                2 => random.between(b'a'.into(), b'z'.into()) as u8,
                3 => b'\t',
                4 => b'.',
                _ => random.below(256) as u8,
            })
            .filter(|byte| !matches!(byte, b'\r' | b'\n'))
            .collect();
        for _ in 0..random.below(6) {
            let at = random.below(body.len() as u64 + 1) as usize;
            body.splice(at..at, *b"\r\n");
        }
        let mut quoted = Vec::new();
        quoted_printable(&mut quoted, &body);
        // Two line ends may have met in the middle of one another.
        if !memmem::find_iter(&body, b"\r\r").any(|_| true) {
            assert_eq!(unquote_printable(&quoted), body, "round {round}");
        }
        let mut based = Vec::new();
        base64(&mut based, &body);
        assert_eq!(unbase64(&based), body, "round {round}");
        for encoded in [quoted, based] {
            for line in encoded.split(|byte| *byte == b'\n') {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                assert!(line.len() <= ENCODED_LINE_MAX, "round {round}");
                assert!(!line.ends_with(b" ") && !line.ends_with(b"\t"));
            }
            assert!(encoded.is_ascii());
        }
    }
}

#[test]
fn whatever_bytes_come_nothing_panics_and_what_comes_out_is_7_bit() {
    let seed = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"a\"\r\n\r\n--a\r\n\
        Content-Type: message/rfc822\r\n\r\nContent-Type: text/plain\r\n\r\nü\r\n--a--\r\n";
    let mut random = Prng::new(4);
    let mut converted = 0;
    for _ in 0..20_000 {
        let mut message = seed.as_bytes().to_vec();
        for _ in 0..random.between(1, 4) {
            let at = random.below(message.len() as u64) as usize;
            match random.below(3) {
                0 => message[at] = random.below(256) as u8,
                1 => drop(message.remove(at)),
                _ => message.insert(at, *random.pick(b"\r\n\"();:=-\xfc")),
            }
        }
        if let Ok(out) = to_seven_bit(&message) {
            assert!(out.is_ascii());
            converted += 1;
        }
    }
    assert!(converted > 1_000, "{converted}");
}
