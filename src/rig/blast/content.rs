//! What the messages of a load generator say. A message is a function of its run, its number and
//! its size, so that a checker can write it again and compare byte for byte; and it is cheap: the
//! text is cut out of one pool of lines made at the start, the identity is patched in.

use crate::base::prng::Prng;
use crate::base::prng::hash_bytes;

/// Octets of a line of text, its CRLF included.
const LINE_BYTES: usize = 80;

/// Lines of the pool.
const POOL_LINES: usize = 4_096;

/// One line in this many begins with a dot, so that transparency is under test as well.
const DOT_ONE_IN: u64 = 16;

/// The smallest message: its header section and a little text.
pub const SIZE_BYTES_MIN: usize = 512;

/// The largest message: what its size header has digits for is far beyond what is useful.
pub const SIZE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The first header of a message. Whatever stands above it was added on the way.
const ID_HEADER: &[u8] = b"X-Blast-Id: ";

/// Octets of an identity: `rrrrrrrr-nnnnnnnnnnnn`.
const ID_BYTES: usize = 21;

const SIZE_HEADER: &[u8] = b"\r\nX-Blast-Size: ";
const SIZE_DIGITS: usize = 10;

const REST_OF_HEADER: &[u8] = b"\r\nFrom: Blast <blast@blast.example>\r\n\
To: undisclosed-recipients:;\r\n\
Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n\
Subject: a message of pelton-blast\r\n\
Message-ID: <";
const END_OF_HEADER: &[u8] = b"@blast.example>\r\n\r\n";

const HEADER_BYTES: usize = ID_HEADER.len()
    + 2 * ID_BYTES
    + SIZE_HEADER.len()
    + SIZE_DIGITS
    + REST_OF_HEADER.len()
    + END_OF_HEADER.len();

// A body of at least one byte more than a line leaves room for an end of its own length.
const _: () = assert!(HEADER_BYTES + LINE_BYTES < SIZE_BYTES_MIN);
const _: () = assert!(SIZE_BYTES_MAX < 10_usize.pow(SIZE_DIGITS as u32));

/// Names one message in the world: the run that sent it and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlastId {
    pub run: u32,
    pub number: u64,
}

impl core::fmt::Display for BlastId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:08x}-{:012}", self.run, self.number)
    }
}

impl BlastId {
    /// Reads what `Display` writes.
    pub fn parse(text: &[u8]) -> Option<BlastId> {
        if text.len() != ID_BYTES || text[8] != b'-' {
            return None;
        }
        let run = str::from_utf8(&text[..8]).ok()?;
        Some(BlastId {
            run: u32::from_str_radix(run, 16)
                .ok()
                .filter(|_| !run.starts_with('+'))?,
            number: decimal(&text[9..])?,
        })
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

/// What a message on the receiving side turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Every byte from the identity on is as it was sent.
    Whole(BlastId),
    /// It bears an identity, and differs first at this byte after it began.
    Corrupt { id: BlastId, at: usize },
    /// It bears no identity that a generator could have written.
    Foreign,
}

/// The pool that all messages are cut from. The same in every process and run.
#[derive(Debug)]
pub struct Content {
    plain: Vec<u8>,
    stuffed: Vec<u8>,
    /// Where each line begins in `stuffed`, and its end.
    stuffed_at: Vec<usize>,
}

impl Default for Content {
    fn default() -> Content {
        Content::new()
    }
}

impl Content {
    pub fn new() -> Content {
        let mut prng = Prng::stream(0, "text of messages");
        let mut plain = Vec::with_capacity(POOL_LINES * LINE_BYTES);
        let mut stuffed = Vec::with_capacity(POOL_LINES * (LINE_BYTES + 1));
        let mut stuffed_at = vec![0];
        for _ in 0..POOL_LINES {
            let dotted = prng.below(DOT_ONE_IN) == 0;
            let start = plain.len();
            plain.push(if dotted { b'.' } else { b'a' });
            plain.extend((1..LINE_BYTES - 2).map(|_| prng.between(0x21, 0x7e) as u8));
            plain.extend_from_slice(b"\r\n");
            if dotted {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(&plain[start..]);
            stuffed_at.push(stuffed.len());
        }
        Content {
            plain,
            stuffed,
            stuffed_at,
        }
    }

    /// Appends message `id` of `size` bytes, from [`SIZE_BYTES_MIN`] to [`SIZE_BYTES_MAX`], as a
    /// BDAT chunk has it.
    pub fn append(&self, id: BlastId, size: usize, out: &mut Vec<u8>) {
        self.append_lines(id, size, out, |first, last, out| {
            out.extend_from_slice(&self.plain[first * LINE_BYTES..last * LINE_BYTES]);
        });
    }

    /// As [`Content::append`], with the dots of transparency and the final dot that DATA needs.
    pub fn append_stuffed(&self, id: BlastId, size: usize, out: &mut Vec<u8>) {
        self.append_lines(id, size, out, |first, last, out| {
            out.extend_from_slice(&self.stuffed[self.stuffed_at[first]..self.stuffed_at[last]]);
        });
        out.extend_from_slice(b".\r\n");
    }

    /// Writes the header, then lines from a place in the pool that depends on the identity, then
    /// an end that makes up the size.
    fn append_lines(
        &self,
        id: BlastId,
        size: usize,
        out: &mut Vec<u8>,
        lines: impl Fn(usize, usize, &mut Vec<u8>),
    ) {
        assert!(
            (SIZE_BYTES_MIN..=SIZE_BYTES_MAX).contains(&size),
            "a message of {size} bytes"
        );
        append_header(id, size, out);
        let text = size - HEADER_BYTES;
        // An end of one byte has no room for its CRLF: it takes the line before it along.
        let mut left = text / LINE_BYTES - usize::from(text % LINE_BYTES == 1);
        let end = text - left * LINE_BYTES;
        let mut key = [0; 12];
        key[..4].copy_from_slice(&id.run.to_le_bytes());
        key[4..].copy_from_slice(&id.number.to_le_bytes());
        let mut first = (hash_bytes(&key) % POOL_LINES as u64) as usize;
        while left > 0 {
            let count = left.min(POOL_LINES - first);
            lines(first, first + count, out);
            left -= count;
            first = 0;
        }
        if end > 0 {
            out.resize(out.len() + end - 2, b'x');
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Compares a received message with what was sent. `scratch` is room to write it again.
    pub fn check(&self, message: &[u8], scratch: &mut Vec<u8>) -> Checked {
        let Some((id, size, start)) = identity(message) else {
            return Checked::Foreign;
        };
        scratch.clear();
        self.append(id, size, scratch);
        let received = &message[start..];
        if received == &scratch[..] {
            return Checked::Whole(id);
        }
        let same = received
            .iter()
            .zip(scratch.iter())
            .take_while(|(a, b)| a == b)
            .count();
        Checked::Corrupt { id, at: same }
    }
}

/// Identity, size and start of what the generator wrote.
fn identity(message: &[u8]) -> Option<(BlastId, usize, usize)> {
    let start = match message.starts_with(ID_HEADER) {
        true => 0,
        false => memchr::memmem::find(message, b"\nX-Blast-Id: ")? + 1,
    };
    let rest = &message[start + ID_HEADER.len()..];
    let id = BlastId::parse(rest.get(..ID_BYTES)?)?;
    let digits = rest[ID_BYTES..]
        .strip_prefix(SIZE_HEADER)?
        .get(..SIZE_DIGITS)?;
    let size = usize::try_from(decimal(digits)?).ok()?;
    (SIZE_BYTES_MIN..=SIZE_BYTES_MAX)
        .contains(&size)
        .then_some((id, size, start))
}

fn append_header(id: BlastId, size: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(ID_HEADER);
    let at = out.len();
    append_hex(id.run, out);
    out.push(b'-');
    append_padded(id.number, 12, out);
    let mut text = [0; ID_BYTES];
    text.copy_from_slice(&out[at..at + ID_BYTES]);
    out.extend_from_slice(SIZE_HEADER);
    append_padded(size as u64, SIZE_DIGITS, out);
    out.extend_from_slice(REST_OF_HEADER);
    out.extend_from_slice(&text);
    out.extend_from_slice(END_OF_HEADER);
}

fn append_hex(value: u32, out: &mut Vec<u8>) {
    let digits = (0..8)
        .rev()
        .map(|place| b"0123456789abcdef"[(value >> (4 * place)) as usize & 15]);
    out.extend(digits);
}

/// Appends the last `width` decimal digits of `value`.
pub(super) fn append_padded(mut value: u64, width: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + width, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Appends `value` in as many decimal digits as it has.
pub(super) fn append_decimal(value: u64, out: &mut Vec<u8>) {
    append_padded(
        value,
        value.checked_ilog10().map_or(1, |log| log as usize + 1),
        out,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::sink::body;

    const SIZES: [usize; 6] = [512, 513, 4_096, 10_240, 102_400, 1_000_001];

    #[test]
    fn a_message_has_its_size_ends_in_crlf_and_checks_out() {
        let content = Content::new();
        let mut scratch = Vec::new();
        for size in SIZES
            .into_iter()
            .chain(SIZE_BYTES_MIN..SIZE_BYTES_MIN + 170)
        {
            let id = BlastId {
                run: 0xfeed_0001,
                number: size as u64,
            };
            let mut message = Vec::new();
            content.append(id, size, &mut message);
            assert_eq!(message.len(), size);
            assert!(message.ends_with(b"\r\n"));
            assert_eq!(content.check(&message, &mut scratch), Checked::Whole(id));
        }
    }

    #[test]
    fn the_stuffed_form_is_the_same_message() {
        let content = Content::new();
        for size in SIZES {
            let id = BlastId { run: 7, number: 3 };
            let (mut plain, mut stuffed) = (Vec::new(), Vec::new());
            content.append(id, size, &mut plain);
            content.append_stuffed(id, size, &mut stuffed);
            assert_eq!(body::unstuff(&stuffed), plain, "{size}");
        }
    }

    #[test]
    fn headers_on_top_are_allowed_and_any_other_change_is_seen() {
        let content = Content::new();
        let mut scratch = Vec::new();
        let id = BlastId { run: 1, number: 2 };
        let mut message = b"Received: from x\r\n\tby y\r\n".to_vec();
        let start = message.len();
        content.append(id, 2_000, &mut message);
        assert_eq!(content.check(&message, &mut scratch), Checked::Whole(id));
        for at in [start + 300, start + 1_999] {
            let mut changed = message.clone();
            changed[at] ^= 1;
            let seen = content.check(&changed, &mut scratch);
            assert_eq!(seen, Checked::Corrupt { id, at: at - start });
        }
        let shorter = &message[..message.len() - 1];
        assert_eq!(
            content.check(shorter, &mut scratch),
            Checked::Corrupt { id, at: 1_999 }
        );
        message.push(b'x');
        assert_eq!(
            content.check(&message, &mut scratch),
            Checked::Corrupt { id, at: 2_000 }
        );
    }

    #[test]
    fn a_message_of_somebody_else_is_foreign() {
        let content = Content::new();
        let foreign = [
            &b""[..],
            b"Subject: x\r\n\r\nX",
            b"X-Blast-Id: ",
            b"X-Blast-Id: 00000001-00000000000x\r\nX-Blast-Size: 0000000512\r\n",
            b"X-Blast-Id: 00000001-000000000001\r\nX-Blast-Size: 0000000001\r\n",
            b"X-Blast-Id: 00000001-000000000001\r\nX-Blast-Size: 00000",
        ];
        for message in foreign {
            assert_eq!(
                content.check(message, &mut Vec::new()),
                Checked::Foreign,
                "{message:?}"
            );
        }
    }

    #[test]
    fn an_identity_reads_back() {
        let id = BlastId {
            run: 0xdead_beef,
            number: 123_456_789_012,
        };
        assert_eq!(BlastId::parse(id.to_string().as_bytes()), Some(id));
        for wrong in [
            "",
            "deadbeef-12345678901",
            "+eadbeef-123456789012",
            "deadbeef_123456789012",
        ] {
            assert_eq!(BlastId::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
