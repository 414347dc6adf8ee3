//! Reads one request head, strictly: every form in which two readers of HTTP/1.1 could differ about
//! where a request ends or whom it is for is refused (RFC 9112 2.2, 3.2, 5, 6).

/// Header fields of a request; more is answered 431.
const FIELDS_MAX: usize = 64;

/// Bytes of a request target; none of ours has a twentieth of it.
const TARGET_BYTES_MAX: usize = 2_048;

/// A request head that has been understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    pub method: String,
    /// In origin form: it begins with `/`.
    pub target: String,
    /// Bytes of the head, and of the body after it.
    pub bytes: usize,
    pub body_bytes: u64,
    pub keep_alive: bool,
}

impl Head {
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }
}

/// Why a request gets no answer of its own. The connection ends with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub status: u16,
    /// Ours: nothing of the request is in it.
    pub reason: &'static str,
}

const fn bad(reason: &'static str) -> Refusal {
    Refusal {
        status: 400,
        reason,
    }
}

/// Nothing if the head is not whole yet.
pub fn parse(buffer: &[u8]) -> Result<Option<Head>, Refusal> {
    let Some(bytes) = end_of_head(buffer)? else {
        return Ok(None);
    };
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(&buffer[..bytes]) {
        Ok(httparse::Status::Complete(parsed)) if parsed == bytes => {}
        Ok(_) => return Err(bad("the request is not whole")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal {
                status: 431,
                reason: "too many header fields",
            });
        }
        Err(httparse::Error::Version) => {
            return Err(Refusal {
                status: 505,
                reason: "HTTP/1.0 or HTTP/1.1",
            });
        }
        Err(_) => return Err(bad("the request is not HTTP/1.1")),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(bad("the request is not whole"));
    };
    if !target.starts_with('/') || target.len() > TARGET_BYTES_MAX || !target.is_ascii() {
        return Err(bad("the target must be a path"));
    }
    let facts = fields_of(request.headers, minor)?;
    Ok(Some(Head {
        method: method.to_owned(),
        target: target.to_owned(),
        bytes,
        body_bytes: facts.body_bytes,
        keep_alive: minor == 1 && !facts.close,
    }))
}

/// Bytes of the head with its empty line. A line end is CR LF and nothing else, and no line is a
/// continuation of the one before.
fn end_of_head(buffer: &[u8]) -> Result<Option<usize>, Refusal> {
    let mut start = 0;
    for at in memchr::memchr2_iter(b'\r', b'\n', buffer) {
        if buffer[at] == b'\r' {
            match buffer.get(at + 1) {
                Some(b'\n') | None => continue,
                Some(_) => return Err(bad("a bare carriage return")),
            }
        }
        if at == 0 || buffer[at - 1] != b'\r' {
            return Err(bad("a line that ends without carriage return"));
        }
        let line = &buffer[start..at - 1];
        match line.first() {
            None if start == 0 => return Err(bad("an empty request line")),
            None => return Ok(Some(at + 1)),
            Some(b' ' | b'\t') => return Err(bad("a folded or indented line")),
            Some(_) => start = at + 1,
        }
    }
    Ok(None)
}

#[derive(Default)]
struct Facts {
    body_bytes: u64,
    close: bool,
}

fn fields_of(fields: &[httparse::Header<'_>], minor: u8) -> Result<Facts, Refusal> {
    let mut facts = Facts::default();
    let mut hosts = 0;
    let mut lengths = 0;
    for field in fields {
        let value = field.value.trim_ascii();
        if value
            .iter()
            .any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f)
        {
            return Err(bad("a control character in a header field"));
        }
        match field.name.to_ascii_lowercase().as_str() {
            "host" => {
                hosts += 1;
                check_host(value)?;
            }
            "content-length" => {
                lengths += 1;
                facts.body_bytes = length(value)?;
            }
            // Nothing here takes a body, so a body of unknown length is a mistake or an attack.
            "transfer-encoding" => return Err(bad("no transfer coding is accepted here")),
            "expect" => {
                return Err(Refusal {
                    status: 417,
                    reason: "no expectation can be met here",
                });
            }
            "connection" => facts.close |= has_token(value, b"close"),
            _ => {}
        }
    }
    if hosts > 1 || (hosts == 0 && minor == 1) {
        return Err(bad("exactly one Host is needed"));
    }
    if lengths > 1 {
        return Err(bad("more than one Content-Length"));
    }
    Ok(facts)
}

/// A name or an address with an optional port; no user, no path.
fn check_host(value: &[u8]) -> Result<(), Refusal> {
    let of_host = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:[]%".contains(byte);
    if value.iter().all(of_host) {
        Ok(())
    } else {
        Err(bad("a Host that is none"))
    }
}

fn length(value: &[u8]) -> Result<u64, Refusal> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = core::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok());
    number
        .filter(|_| digits)
        .ok_or(bad("a Content-Length that is no number"))
}

fn has_token(value: &[u8], token: &[u8]) -> bool {
    value
        .split(|byte| *byte == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_is_understood_at_its_last_byte() {
        let text = "POST /metrics?x=1 HTTP/1.1\r\nHost: [::1]:8025\r\nContent-Length: 5\r\n\
                    Connection: keep-alive, Close\r\n\r\n";
        for cut in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..cut]), Ok(None), "{cut}");
        }
        let head = parse(format!("{text}12345GET").as_bytes())
            .unwrap()
            .unwrap();
        assert_eq!(
            (head.method.as_str(), head.target.as_str()),
            ("POST", "/metrics?x=1")
        );
        assert_eq!(
            (head.bytes, head.body_bytes, head.keep_alive),
            (text.len(), 5, false)
        );
        let old = parse(b"GET / HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert!(!old.keep_alive);
        let new = parse(b"HEAD / HTTP/1.1\r\nhost:a\r\n\r\n")
            .unwrap()
            .unwrap();
        assert!(new.keep_alive && new.is_head());
    }

    #[test]
    fn whatever_can_be_read_in_two_ways_is_refused() {
        let host = "GET / HTTP/1.1\r\nHost: a\r\n";
        let with = |field: &str| format!("{host}{field}\r\n\r\n");
        let cases = [
            (400, "GET / HTTP/1.1\n\n".to_owned()),
            (400, "GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned()),
            (400, "GET / HTTP/1.1\rHost: a\r\n\r\n".to_owned()),
            (400, "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
            (400, "GET /\r\n\r\n".to_owned()),
            (400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
            (505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned()),
            (400, "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n".to_owned()),
            (
                400,
                "CONNECT a:25 HTTP/1.1\r\nHost: a:25\r\n\r\n".to_owned(),
            ),
            (400, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
            (400, "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
            (400, "GET /é HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
            (
                400,
                format!(
                    "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
                    "x".repeat(TARGET_BYTES_MAX)
                ),
            ),
            (400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
            (400, with("Host: a")),
            (400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".to_owned()),
            (400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned()),
            (400, with("Content-Length: 1\r\nContent-Length: 1")),
            (400, with("Content-Length: 1, 1")),
            (400, with("Content-Length: +1")),
            (400, with("Content-Length: 0x1")),
            (400, with("Content-Length: 99999999999999999999")),
            (400, with("Content-Length:")),
            (400, with("Content-Length: 3\r\nTransfer-Encoding: chunked")),
            (400, with("Transfer-Encoding: chunked")),
            (400, with("Transfer-Encoding: xchunked")),
            (400, with("Transfer-Encoding : chunked")),
            (400, with(" X: folded")),
            (400, with("X: a\r\n\tfolded")),
            (400, with("X y: a")),
            (400, with("X: a\0b")),
            (400, with("no colon")),
            (400, with(": no name")),
            (417, with("Expect: 100-continue")),
            (431, with(&"X: y\r\n".repeat(FIELDS_MAX))),
        ];
        for (status, text) in cases {
            let refused = parse(text.as_bytes());
            assert_eq!(
                refused.map_err(|refusal| refusal.status),
                Err(status),
                "{text:?}"
            );
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let seed = b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n";
        for at in 0..seed.len() {
            for byte in 0..=255 {
                let mut bytes = seed.to_vec();
                bytes[at] = byte;
                let _ = parse(&bytes);
            }
        }
    }
}
