//! Header fields that Pelton writes into mail it takes in.

use core::net::IpAddr;

use crate::base::text::push_ip;
use crate::base::time::Wall;
use crate::types::id::BatchId;

/// With what the client spoke (RFC 3848, RFC 6531 4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Smtp,
    Esmtp,
    Utf8Smtp,
}

/// What the trace field of this hop tells (RFC 5321 4.4). Whom the message is for is left out: the
/// field reaches every recipient, and one must not learn of another.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// What the client called itself: free of blanks, parentheses and line ends.
    pub helo: &'a str,
    pub peer: IpAddr,
    /// The name that the listener goes by.
    pub host: &'a str,
    pub protocol: Protocol,
    pub batch: BatchId,
    pub at: Wall,
}

/// Room that a field takes at most, whatever the names (255 octets each) are.
pub const RECEIVED_BYTES_MAX: usize = 768;

/// Appends the `Received` field with its line end.
pub fn write_received(out: &mut Vec<u8>, trace: &Trace<'_>) {
    let protocol = match trace.protocol {
        Protocol::Smtp => "SMTP",
        Protocol::Esmtp => "ESMTP",
        Protocol::Utf8Smtp => "UTF8SMTP",
    };
    let tag = if trace.peer.to_canonical().is_ipv6() {
        "IPv6:"
    } else {
        ""
    };
    append(out, &["Received: from ", trace.helo, " ([", tag]);
    push_ip(out, trace.peer.to_canonical());
    append(
        out,
        &["])\r\n\tby ", trace.host, " with ", protocol, " id "],
    );
    out.extend_from_slice(&trace.batch.text());
    out.extend_from_slice(b";\r\n\t");
    trace.at.push_rfc5322(out);
    out.extend_from_slice(b"\r\n");
}

fn append(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Content without a header section gets the empty line that ends the one which the trace field
/// begins: otherwise its first lines would be read as fields, or as more of the trace field.
pub fn divide(body: &mut Vec<u8>, trace_bytes: usize) {
    let content = &body[trace_bytes..];
    let line = memchr::memchr(b'\r', content).map_or(content, |end| &content[..end]);
    let colon = memchr::memchr(b':', line);
    let name = colon.map_or(&[][..], |colon| line[..colon].trim_ascii_end());
    // RFC 5322 2.2: printable ASCII without the colon.
    let is_field = !name.is_empty() && name.iter().all(|byte| (33..=126).contains(byte));
    if !is_field && !line.is_empty() {
        body.splice(trace_bytes..trace_bytes, *b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_without_a_header_section_is_divided_from_the_trace_field() {
        let cases = [
            ("Subject: x\r\n\r\nbody\r\n", false),
            ("X-Odd : x\r\n\r\n", false),
            ("\r\nbody\r\n", false),
            ("", false),
            ("just text\r\n", true),
            (" folded: no\r\n", true),
            (": no name\r\n", true),
            ("two words: no name\r\n", true),
        ];
        for (content, divided) in cases {
            let mut body = format!("Received: x\r\n{content}").into_bytes();
            divide(&mut body, 13);
            let expected = format!(
                "Received: x\r\n{}{content}",
                if divided { "\r\n" } else { "" }
            );
            assert_eq!(String::from_utf8(body).unwrap(), expected);
        }
    }

    #[test]
    fn the_trace_field_names_both_ends_the_batch_and_the_time() {
        let trace = Trace {
            helo: "client.example",
            peer: "192.0.2.7".parse().unwrap(),
            host: "mx.example",
            protocol: Protocol::Esmtp,
            batch: BatchId(1),
            at: Wall::from_secs(951_826_155),
        };
        let written = |trace: &Trace<'_>| {
            let mut out = Vec::new();
            write_received(&mut out, trace);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(&trace),
            "Received: from client.example ([192.0.2.7])\r\n\
             \tby mx.example with ESMTP id 0000000000001;\r\n\
             \tTue, 29 Feb 2000 12:09:15 +0000\r\n"
        );
        let v6 = Trace {
            peer: "2001:db8::1".parse().unwrap(),
            ..trace
        };
        assert!(written(&v6).contains("([IPv6:2001:db8::1])"));
        let mapped = Trace {
            peer: "::ffff:192.0.2.7".parse().unwrap(),
            ..trace
        };
        assert!(written(&mapped).contains("([192.0.2.7])"));
        let name = "x".repeat(255);
        let long = Trace {
            helo: &name,
            host: &name,
            ..v6
        };
        assert!(written(&long).len() <= RECEIVED_BYTES_MAX);
    }
}
