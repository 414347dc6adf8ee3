//! A message body on its way out: dots doubled for DATA (RFC 5321 4.5.2), the end marked, and the
//! last guard that no bare CR or LF leaves, since a host that takes one for a line end could be
//! made to see a second message.

use bytes::Bytes;
use memchr::memmem;

/// Runs of at least this many bytes are handed out where they lie instead of copied.
pub const RUN_BYTES_MIN: usize = 16 * 1_024;

/// Bytes gathered before they are handed out.
pub const GATHERED_BYTES_MAX: usize = 64 * 1_024;

/// Whether every CR is followed by LF and every LF preceded by CR. Bodies are checked when they
/// are taken in; this is the second look, and costs one pass at memory speed.
pub fn line_ends_are_clean(body: &[u8]) -> bool {
    let (Some(first), Some(last)) = (body.first(), body.last()) else {
        return true;
    };
    // In each pair of neighbours the first is CR exactly if the second is LF. Without a branch in
    // the inner loop many pairs are compared at a time.
    const CHUNK: usize = 1_024;
    let pairs = body.chunks(CHUNK).zip(body[1..].chunks(CHUNK));
    let broken = |(first, second): (&[u8], &[u8])| {
        let pairs = first.iter().zip(second);
        pairs.fold(false, |broken, (a, b)| {
            broken | ((*a == b'\r') != (*b == b'\n'))
        })
    };
    *first != b'\n' && *last != b'\r' && !pairs.into_iter().any(broken)
}

/// Appends `body` as DATA content, from the first byte to the dot that ends it.
pub fn append(out: &mut Vec<u8>, body: &[u8]) {
    out.reserve(body.len() + body.len() / 64 + 5);
    let mut from = 0;
    if body.first() == Some(&b'.') {
        out.push(b'.');
    }
    for at in memmem::find_iter(body, b"\r\n.") {
        let dot = at + 2;
        out.extend_from_slice(&body[from..dot]);
        out.push(b'.');
        from = dot;
    }
    out.extend_from_slice(&body[from..]);
    out.extend_from_slice(end_of_data(body));
}

/// What ends a body: an empty one needs no line end before the dot.
fn end_of_data(body: &[u8]) -> &'static [u8] {
    if body.is_empty() || body.ends_with(b"\r\n") {
        b".\r\n"
    } else {
        b"\r\n.\r\n"
    }
}

/// One part of a large body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// Was written to the buffer.
    Gathered,
    /// A long run without a dot to double.
    Run(Bytes),
}

/// Hands a large body out part by part, as DATA content: long runs are not copied, and at most
/// [`GATHERED_BYTES_MAX`] of short ones are gathered at a time.
#[derive(Clone, Debug)]
pub struct Stuffer {
    body: Bytes,
    at: usize,
    /// The next byte is a dot that begins a line and has not been doubled.
    doubles: bool,
    ended: bool,
}

impl Stuffer {
    pub fn new(body: Bytes) -> Stuffer {
        let doubles = body.first() == Some(&b'.');
        Stuffer {
            body,
            at: 0,
            doubles,
            ended: false,
        }
    }

    /// Whether the end of data has been handed out.
    pub fn is_at_end(&self) -> bool {
        self.ended
    }

    /// The next part, written to `out` or returned as a run. Nothing after the end of data.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Option<Part> {
        if self.ended {
            return None;
        }
        let before = out.len();
        while out.len() - before < GATHERED_BYTES_MAX {
            if self.doubles {
                out.push(b'.');
                self.doubles = false;
            }
            let rest = &self.body[self.at..];
            if rest.is_empty() {
                out.extend_from_slice(end_of_data(&self.body));
                self.ended = true;
                break;
            }
            let dot = memmem::find(rest, b"\r\n.").map(|at| at + 2);
            let run = dot.unwrap_or(rest.len());
            if run >= RUN_BYTES_MIN {
                if out.len() > before {
                    break;
                }
                let run = self.body.slice(self.at..self.at + run);
                self.at += run.len();
                self.doubles = dot.is_some();
                return Some(Part::Run(run));
            }
            out.extend_from_slice(&rest[..run]);
            self.at += run;
            self.doubles = dot.is_some();
        }
        Some(Part::Gathered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    fn stuffed(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        append(&mut out, body);
        out
    }

    fn in_parts(body: &[u8]) -> Vec<u8> {
        let mut stuffer = Stuffer::new(Bytes::copy_from_slice(body));
        let mut out = Vec::new();
        let mut gathered = Vec::new();
        while let Some(part) = stuffer.next(&mut gathered) {
            out.append(&mut gathered);
            if let Part::Run(run) = part {
                out.extend_from_slice(&run);
            }
        }
        out
    }

    #[test]
    fn dots_that_begin_a_line_are_doubled_and_the_end_is_marked() {
        let cases: [(&[u8], &[u8]); 9] = [
            (b"", b".\r\n"),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"..\r\n", b"...\r\n.\r\n"),
            (b"a\r\n.b\r\n..c\r\n", b"a\r\n..b\r\n...c\r\n.\r\n"),
            (b"a.b\r\n \r\n. \r\n", b"a.b\r\n \r\n.. \r\n.\r\n"),
            (b"\r\n.\r\n", b"\r\n..\r\n.\r\n"),
        ];
        for (body, wire) in cases {
            assert_eq!(stuffed(body), wire, "{body:?}");
            assert_eq!(in_parts(body), wire, "{body:?}");
        }
    }

    #[test]
    fn parts_make_the_same_bytes_as_the_whole_and_long_runs_are_not_copied() {
        let mut random = Prng::new(11);
        for _ in 0..60 {
            let mut body = Vec::new();
            for _ in 0..random.between(1, 60) {
                let line = vec![b'x'; random.below(4_000) as usize];
                body.extend_from_slice(if random.chance(1, 3) { b"." } else { b"" });
                body.extend_from_slice(&line);
                body.extend_from_slice(b"\r\n");
            }
            assert_eq!(in_parts(&body), stuffed(&body));
        }
        let body = Bytes::from(b"line\r\n".repeat(100_000));
        let mut stuffer = Stuffer::new(body.clone());
        let mut gathered = Vec::new();
        let Some(Part::Run(run)) = stuffer.next(&mut gathered) else {
            panic!("a long run comes first");
        };
        assert_eq!(run.as_ptr(), body.as_ptr());
        assert_eq!(stuffer.next(&mut gathered), Some(Part::Gathered));
        assert_eq!(gathered, b".\r\n");
        assert_eq!(stuffer.next(&mut gathered), None);
    }

    #[test]
    fn a_body_of_dots_is_gathered_in_bounded_parts() {
        let body = Bytes::from(b".\r\n".repeat(200_000));
        let mut stuffer = Stuffer::new(body);
        let mut gathered = Vec::new();
        while stuffer.next(&mut gathered).is_some() {
            assert!(gathered.len() < GATHERED_BYTES_MAX + RUN_BYTES_MIN + 8);
            gathered.clear();
        }
    }

    #[test]
    fn bare_line_ends_are_found_wherever_they_stand() {
        assert!(line_ends_are_clean(b""));
        assert!(line_ends_are_clean(b"a\r\nb\r\n\r\n"));
        for bad in [
            &b"\n"[..],
            b"\r",
            b"a\rb",
            b"a\nb",
            b"\n\r",
            b"\r\r\n",
            b"\r\n\n",
            b"a\r",
        ] {
            assert!(!line_ends_are_clean(bad), "{bad:?}");
        }
        let clean = b"0123456789\r\n".repeat(400);
        assert!(line_ends_are_clean(&clean));
        for at in 0..clean.len() {
            let mut dirty = clean.clone();
            dirty[at] = match dirty[at] {
                b'\r' | b'\n' => b'x',
                _ => b'\n',
            };
            assert!(!line_ends_are_clean(&dirty), "{at}");
        }
    }
}
