//! The end of a message body: finding `CRLF . CRLF` in a stream cut anywhere, and taking the dots
//! of transparency out again (RFC 5321 section 4.5.2). Nothing else ends a body: no bare CR or LF.

use memchr::memmem;

const END: &[u8] = b"\r\n.\r\n";

/// Looks for the end of a DATA body. Its state is how much of the end the last bytes matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndFinder {
    matched: usize,
}

impl EndFinder {
    /// At the start of a body, which counts as the start of a line.
    pub fn at_line_start() -> EndFinder {
        EndFinder { matched: 2 }
    }

    /// The number of bytes up to and including the end, or `None` if all of `bytes` is body.
    pub fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        // A match begun in an earlier piece is finished or given up byte by byte.
        while self.matched > 0 {
            let byte = *bytes.get(at)?;
            at += 1;
            if self.step(byte) {
                return Some(at);
            }
        }
        let rest = &bytes[at..];
        if let Some(position) = memmem::find(rest, END) {
            self.matched = 0;
            return Some(at + position + END.len());
        }
        for byte in &rest[rest.len().saturating_sub(END.len() - 1)..] {
            self.step(*byte);
        }
        None
    }

    fn step(&mut self, byte: u8) -> bool {
        self.matched = match (self.matched, byte) {
            (matched, byte) if END[matched] == byte => matched + 1,
            (_, b'\r') => 1,
            _ => 0,
        };
        if self.matched < END.len() {
            return false;
        }
        self.matched = 0;
        true
    }
}

/// The message that was sent as `wire`, which ends with the line of a single dot.
pub fn unstuff(wire: &[u8]) -> Vec<u8> {
    let body = wire.strip_suffix(b".\r\n").unwrap_or(wire);
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body.strip_prefix(b".").unwrap_or(body);
    while let Some(position) = memmem::find(rest, b"\r\n.") {
        out.extend_from_slice(&rest[..position + 2]);
        rest = &rest[position + 3..];
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_wherever_the_stream_is_cut() {
        let stream = b"a\r\r\n\r\n..\r\nb\r\n.\r.\r\n.\n\r\n.\r\nMAIL";
        let end = stream.len() - 4;
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let mut finder = EndFinder::at_line_start();
                let mut before = 0;
                let mut found = None;
                for piece in [&stream[..first], &stream[first..second], &stream[second..]] {
                    if found.is_none() {
                        found = finder.find(piece).map(|length| before + length);
                    }
                    before += piece.len();
                }
                assert_eq!(found, Some(end), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_dot_at_once_is_an_empty_body_and_a_near_miss_is_body() {
        assert_eq!(EndFinder::at_line_start().find(b".\r\n"), Some(3));
        for near in [
            &b"\n.\n"[..],
            b"\r.\r",
            b"x\n.\r\n",
            b"x\r\n.\n",
            b"x\r\n.\r\r\n",
            b" .\r\n",
        ] {
            assert_eq!(EndFinder::at_line_start().find(near), None, "{near:?}");
        }
    }

    #[test]
    fn dots_of_transparency_are_taken_out_once() {
        let cases = [
            (&b".\r\n"[..], &b""[..]),
            (b"..\r\n.\r\n", b".\r\n"),
            (b"a\r\n..b\r\n...\r\n.\r\n", b"a\r\n.b\r\n..\r\n"),
            (b"a..\r\n.\r\n", b"a..\r\n"),
        ];
        for (wire, message) in cases {
            assert_eq!(unstuff(wire), message, "{wire:?}");
        }
    }
}
