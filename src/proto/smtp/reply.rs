//! Replies as a client reads them (RFC 5321 4.2), from any segmentation of the byte stream.
//! Strict in what decides anything (the code), tolerant in what does not (a bare LF ends a reply
//! line, and is noted). Line length, lines and bytes of one reply are bounded: what is over the
//! bounds is no reply but a fault, after which the stream cannot be trusted any more.

use memchr::memchr;

use crate::types::reply::Enhanced;
use crate::types::reply::Reply;

/// RFC 5321 4.5.3.1.5 allows 512; receivers with links in their texts send more.
pub const REPLY_LINE_BYTES_MAX: usize = 2_048;

/// Lines of one reply. The longest EHLO replies have about thirty.
pub const REPLY_LINES_MAX: usize = 256;

/// Bytes of one reply, all lines together.
pub const REPLY_BYTES_MAX: usize = 16 * 1_024;

const _: () = assert!(
    REPLY_LINE_BYTES_MAX <= REPLY_BYTES_MAX,
    "one line fits a reply"
);

/// Why a byte stream is no SMTP reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplyFault {
    #[error("a reply line is longer than {REPLY_LINE_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("a reply has more than {REPLY_LINES_MAX} lines")]
    TooManyLines,
    #[error("a reply has more than {REPLY_BYTES_MAX} bytes")]
    TooManyBytes,
    #[error("a reply line does not begin with a code from 100 to 599")]
    BadCode,
}

/// A complete reply; its text is with the reader until the next call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    /// Of the last line, 100 to 599.
    pub code: u16,
    pub lines: usize,
    /// Earlier lines had other codes; the text shows them.
    pub mixed: bool,
    /// A line ended in a bare LF.
    pub bare_lf: bool,
}

/// Reads replies. Buffers are reused, so that the usual reply costs no allocation.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// A line whose end has not come yet.
    partial: Vec<u8>,
    /// Texts of the lines of this reply, each ended by LF.
    text: Vec<u8>,
    code: u16,
    lines: usize,
    bytes: usize,
    mixed: bool,
    bare_lf: bool,
    complete: bool,
}

impl ReplyReader {
    pub fn new() -> ReplyReader {
        ReplyReader::default()
    }

    /// Takes bytes off the front of `input` up to the end of the next reply. Nothing means that
    /// all has been taken and more is needed. After a fault the reader is of no more use.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Heard>, ReplyFault> {
        if self.complete {
            self.begin();
        }
        while let Some(at) = memchr(b'\n', input) {
            let (line, rest) = input.split_at(at + 1);
            *input = rest;
            let last = if self.partial.is_empty() {
                self.line(line)?
            } else {
                let mut partial = core::mem::take(&mut self.partial);
                partial.extend_from_slice(line);
                let last = self.line(&partial);
                partial.clear();
                self.partial = partial;
                last?
            };
            if last {
                self.complete = true;
                return Ok(Some(self.heard()));
            }
        }
        if self.partial.len() + input.len() > REPLY_LINE_BYTES_MAX {
            return Err(ReplyFault::LineTooLong);
        }
        self.partial.extend_from_slice(input);
        *input = &[];
        Ok(None)
    }

    /// The text of the reply just read: lines without codes, each ended by LF. Raw: it may hold
    /// anything but LF.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The reply just read as a value that is safe to keep and show.
    pub fn reply(&self) -> Reply {
        let last = self.lines().last().unwrap_or_default();
        let enhanced = enhanced(self.code, last).map(|(enhanced, _)| enhanced);
        let mut joined = String::new();
        for line in self.lines() {
            let line = match (enhanced, self::enhanced(self.code, line)) {
                (Some(of_reply), Some((of_line, rest))) if of_reply == of_line => rest,
                _ => line,
            };
            let line = String::from_utf8_lossy(line);
            let line = line.trim();
            if !joined.is_empty() && !line.is_empty() {
                joined.push(' ');
            }
            joined.push_str(line);
        }
        Reply::remote(self.code, enhanced, &joined)
    }

    /// The reply just read as the answer to EHLO.
    pub fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        // The first line is the greeting.
        for line in self.lines().skip(1) {
            capabilities.line(line);
        }
        capabilities
    }

    /// Whether bytes of an unfinished reply are waiting.
    pub fn is_amid(&self) -> bool {
        !self.partial.is_empty() || (self.lines > 0 && !self.complete)
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let text = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
        text.split(|byte| *byte == b'\n')
    }

    fn begin(&mut self) {
        self.text.clear();
        (self.code, self.lines, self.bytes) = (0, 0, 0);
        (self.mixed, self.bare_lf, self.complete) = (false, false, false);
    }

    fn heard(&self) -> Heard {
        Heard {
            code: self.code,
            lines: self.lines,
            mixed: self.mixed,
            bare_lf: self.bare_lf,
        }
    }

    /// Takes one line with its end; true if it is the last of its reply.
    fn line(&mut self, line: &[u8]) -> Result<bool, ReplyFault> {
        if line.len() > REPLY_LINE_BYTES_MAX {
            return Err(ReplyFault::LineTooLong);
        }
        self.bytes += line.len();
        self.lines += 1;
        if self.lines > REPLY_LINES_MAX {
            return Err(ReplyFault::TooManyLines);
        }
        if self.bytes > REPLY_BYTES_MAX {
            return Err(ReplyFault::TooManyBytes);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or_else(|| {
            self.bare_lf = true;
            line
        });
        let (code, more, text) = code_line(line).ok_or(ReplyFault::BadCode)?;
        if self.lines > 1 && code != self.code {
            self.mixed = true;
        }
        if self.mixed {
            self.mark_mixed(code, !more);
        }
        self.code = code;
        self.text.extend_from_slice(text);
        self.text.push(b'\n');
        Ok(!more)
    }

    /// From the first line of another code on, lines before the last show their codes, so that
    /// what was said can still be read.
    fn mark_mixed(&mut self, code: u16, last: bool) {
        if self.code != 0 && self.code != code && self.lines == 2 {
            self.text
                .splice(0..0, format!("({}) ", self.code).into_bytes());
        }
        if !last {
            self.text.extend_from_slice(format!("({code}) ").as_bytes());
        }
    }
}

/// `250 text`, `250-text`, `250`: the code, whether more lines follow, and the text.
fn code_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (code, rest) = line.split_at_checked(3)?;
    if !code.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = code
        .iter()
        .fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    if !(100..=599).contains(&code) {
        return None;
    }
    match rest {
        [] => Some((code, false, rest)),
        [b' ', text @ ..] => Some((code, false, text)),
        [b'-', text @ ..] => Some((code, true, text)),
        _ => None,
    }
}

/// An enhanced status code (RFC 2034) at the front of a text whose class agrees with the code.
fn enhanced(code: u16, text: &[u8]) -> Option<(Enhanced, &[u8])> {
    let end = text
        .iter()
        .position(|byte| !matches!(byte, b'0'..=b'9' | b'.'));
    let (status, rest) = text.split_at(end.unwrap_or(text.len()));
    if !(rest.is_empty() || rest.starts_with(b" ")) {
        return None;
    }
    let mut parts = status
        .split(|byte| *byte == b'.')
        .map(|part| number(part, 3));
    let (class, subject, detail) = (parts.next()??, parts.next()??, parts.next()??);
    let agrees = matches!(class, 2 | 4 | 5) && u64::from(code / 100) == class;
    if parts.next().is_some() || !agrees {
        return None;
    }
    Some((Enhanced(class as u8, subject as u16, detail as u16), rest))
}

/// A decimal number of one to `digits_max` digits, at most 19.
fn number(text: &[u8], digits_max: usize) -> Option<u64> {
    if text.is_empty() || text.len() > digits_max || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        text.iter()
            .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')),
    )
}

/// What a host offered in its answer to EHLO (RFC 5321 4.1.1.1). BINARYMIME is not looked at:
/// nothing here sends binary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 1870.
    pub size: Option<SizeLimit>,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 2034.
    pub enhanced_status_codes: bool,
    /// RFC 3207; noted only.
    pub starttls: bool,
}

/// The value of SIZE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SizeLimit {
    /// Offered without a number, with zero, or with what is no number.
    Unknown,
    /// Bytes of a message, at least 1.
    Bytes(u64),
}

impl Capabilities {
    fn line(&mut self, line: &[u8]) {
        let mut words = line
            .split(|byte| *byte == b' ')
            .filter(|word| !word.is_empty());
        let Some(keyword) = words.next() else {
            return;
        };
        // Some hosts write `SIZE=n`.
        let (keyword, value) = match memchr(b'=', keyword) {
            Some(at) => (&keyword[..at], Some(&keyword[at + 1..])),
            None => (keyword, words.next()),
        };
        match keyword.to_ascii_uppercase().as_slice() {
            b"PIPELINING" => self.pipelining = true,
            b"SIZE" => self.size = Some(size_limit(value)),
            b"8BITMIME" => self.eight_bit_mime = true,
            b"SMTPUTF8" => self.smtputf8 = true,
            b"CHUNKING" => self.chunking = true,
            b"ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            b"STARTTLS" => self.starttls = true,
            _ => {}
        }
    }
}

fn size_limit(value: Option<&[u8]>) -> SizeLimit {
    match value.and_then(|value| number(value, 19)) {
        None | Some(0) => SizeLimit::Unknown,
        Some(bytes) => SizeLimit::Bytes(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    fn all(mut input: &[u8]) -> Result<Vec<(Heard, Reply)>, ReplyFault> {
        let mut reader = ReplyReader::new();
        let mut replies = Vec::new();
        while let Some(heard) = reader.read(&mut input)? {
            replies.push((heard, reader.reply()));
        }
        Ok(replies)
    }

    #[test]
    fn replies_are_read_as_the_host_meant_them() {
        let cases: [(&[u8], &str); 13] = [
            (b"250 2.1.0 Ok\r\n", "250 2.1.0 Ok"),
            (b"250\r\n", "250"),
            (b"250 \r\n", "250"),
            (b"250-one\r\n250-two\r\n250 three\r\n", "250 one two three"),
            (
                b"550-5.1.1 No such\r\n550 5.1.1 user\r\n",
                "550 5.1.1 No such user",
            ),
            (b"550-5.7.1 a\r\n550 5.1.1 b\r\n", "550 5.1.1 5.7.1 a b"),
            (b"450 5.1.1 class differs\r\n", "450 5.1.1 class differs"),
            (b"550 5.1.1\r\n", "550 5.1.1"),
            (b"550 5.1.1234 x\r\n", "550 5.1.1234 x"),
            (b"550 5.1.1.2 x\r\n", "550 5.1.1.2 x"),
            (b"550-old\r\n250 new\r\n", "250 (550) old new"),
            (
                b"250-a\r\n550-b\r\n250-c\r\n451 d\r\n",
                "451 (250) a (550) b (250) c d",
            ),
            (
                b"354 \xff\xfe\x00\x1b[2Jgo\r\n",
                "354 \u{fffd}\u{fffd}[2Jgo",
            ),
        ];
        for (input, text) in cases {
            let replies = all(input).unwrap();
            assert_eq!(replies.len(), 1, "{text}");
            assert_eq!(replies[0].1.to_string(), text);
        }
    }

    #[test]
    fn an_enhanced_code_counts_only_if_its_class_agrees() {
        let enhanced = |input: &[u8]| all(input).unwrap()[0].1.enhanced;
        assert_eq!(enhanced(b"550 5.1.1 x\r\n"), Some(Enhanced(5, 1, 1)));
        assert_eq!(enhanced(b"550 5.1.1\r\n"), Some(Enhanced(5, 1, 1)));
        for input in [
            &b"450 5.1.1 x\r\n"[..],
            b"354 3.1.1 x\r\n",
            b"550 5.1.1: x\r\n",
        ] {
            assert_eq!(enhanced(input), None, "{input:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_a_fault_and_never_a_guess() {
        let long = [&b"250 "[..], &[b'x'; REPLY_LINE_BYTES_MAX], b"\r\n"].concat();
        let lines = b"220-x\r\n".repeat(100_000);
        let wide = [&b"250-"[..], &[b'x'; 1_000], b"\r\n"].concat().repeat(17);
        let cases: [(&[u8], ReplyFault); 12] = [
            (b"000 x\r\n", ReplyFault::BadCode),
            (b"999 x\r\n", ReplyFault::BadCode),
            (b"25\r\n", ReplyFault::BadCode),
            (b"\r\n", ReplyFault::BadCode),
            (b"2500 x\r\n", ReplyFault::BadCode),
            (b"250\tx\r\n", ReplyFault::BadCode),
            (b" 250 x\r\n", ReplyFault::BadCode),
            (b"HTTP/1.1 400 Bad Request\r\n", ReplyFault::BadCode),
            (&long, ReplyFault::LineTooLong),
            (&long[..long.len() - 1], ReplyFault::LineTooLong),
            (&lines, ReplyFault::TooManyLines),
            (&wide, ReplyFault::TooManyBytes),
        ];
        for (input, fault) in cases {
            assert_eq!(
                all(input),
                Err(fault),
                "{:?}",
                &input[..input.len().min(30)]
            );
        }
    }

    #[test]
    fn a_bare_lf_ends_a_line_and_is_noted() {
        let replies = all(b"250-a\n250 b\n220 c\r\n").unwrap();
        assert_eq!(replies[0].1.to_string(), "250 a b");
        assert!(replies[0].0.bare_lf);
        assert!(!replies[1].0.bare_lf);
    }

    #[test]
    fn an_unfinished_reply_is_no_reply() {
        for input in [&b"250-a\r\n250-"[..], b"250 ok", b"250-a\r\n", b"250 ok\r"] {
            let mut reader = ReplyReader::new();
            assert_eq!(reader.read(&mut &*input), Ok(None));
            assert!(reader.is_amid());
        }
    }

    #[test]
    fn segmentation_changes_nothing() {
        let input: &[u8] =
            b"220 hi\r\n250-a\r\n250-SIZE 5\n250 b\r\n550-5.1.1 x\r\n250 y\r\n354\r\n";
        let whole = all(input).unwrap();
        let mut random = Prng::new(5);
        for _ in 0..500 {
            let mut reader = ReplyReader::new();
            let mut heard = Vec::new();
            let mut rest = input;
            while !rest.is_empty() {
                let (mut part, after) =
                    rest.split_at(random.between(1, rest.len() as u64) as usize);
                rest = after;
                while let Some(one) = reader.read(&mut part).unwrap() {
                    heard.push((one, reader.reply()));
                }
            }
            assert_eq!(heard, whole);
        }
    }

    #[test]
    fn capabilities_are_read_in_any_case_and_nonsense_offers_nothing() {
        let read = |mut input: &[u8]| {
            let mut reader = ReplyReader::new();
            reader.read(&mut input).unwrap().unwrap();
            reader.capabilities()
        };
        let all = read(
            b"250-PIPELINING is my name\r\n250-pipelining\r\n250-SIZE 1000\r\n250-8BITMIME\r\n\
            250-SMTPUTF8\r\n250-CHUNKING\r\n250-ENHANCEDSTATUSCODES\r\n250-BINARYMIME\r\n\
            250 STARTTLS\r\n",
        );
        let expected = Capabilities {
            pipelining: true,
            size: Some(SizeLimit::Bytes(1_000)),
            eight_bit_mime: true,
            smtputf8: true,
            chunking: true,
            enhanced_status_codes: true,
            starttls: true,
        };
        assert_eq!(all, expected);
        let none = read(b"250-PIPELINING\r\n250-\r\n250-XPIPELINING\r\n250 8BITMIMES\r\n");
        assert_eq!(none, Capabilities::default());
        let sizes: [(&[u8], SizeLimit); 5] = [
            (b"250-x\r\n250 SIZE\r\n", SizeLimit::Unknown),
            (b"250-x\r\n250 SIZE 0\r\n", SizeLimit::Unknown),
            (b"250-x\r\n250 SIZE -1\r\n", SizeLimit::Unknown),
            (b"250-x\r\n250 SIZE=77\r\n", SizeLimit::Bytes(77)),
            (
                b"250-x\r\n250 SIZE 99999999999999999999\r\n",
                SizeLimit::Unknown,
            ),
        ];
        for (input, size) in sizes {
            assert_eq!(read(input).size, Some(size));
        }
    }
}
