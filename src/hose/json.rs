//! Writes one JSON object per line into a buffer that is used again and again. Keys are ours and
//! need no escaping; values may come from anywhere, are cut at a bound and escaped.

use core::fmt;
use core::net::IpAddr;
use std::io::Write;

use crate::base::text::{push_ip, push_number};
use crate::base::time::Wall;

/// Bytes kept of any one text before escaping.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// One byte of text becomes at most `\u00XX`.
const ESCAPED_BYTES_MAX: usize = 6;

/// Texts that the longest event has.
const TEXTS_MAX: usize = 20;

/// Room made for a line before it is written; most are shorter.
const LINE_BYTES_USUAL: usize = 1_536;

/// No line of the event log is longer.
pub const LINE_BYTES_MAX: usize = 128 * 1_024;

const _: () = assert!(
    TEXTS_MAX * TEXT_BYTES_MAX * ESCAPED_BYTES_MAX + 2_048 <= LINE_BYTES_MAX,
    "an event with every text at its bound, keys and numbers included, fits a line"
);

/// An object being written. It is closed by [`Object::end`].
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    clock: &'a mut ClockText,
}

impl<'a> Object<'a> {
    /// Opens the object with its first member.
    pub fn begin(out: &'a mut Vec<u8>, clock: &'a mut ClockText, kind: &'static str) -> Self {
        out.reserve(LINE_BYTES_USUAL);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'"');
        Object { out, clock }
    }

    fn key(&mut self, key: &'static str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    pub fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        self.out.push(b'"');
        escape(self.out, cut(value));
        self.out.push(b'"');
    }

    /// Null if there is none: a member is never left out.
    pub fn optional(&mut self, key: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.null(key),
        }
    }

    pub fn lower(&mut self, key: &'static str, value: &str) {
        if !value.is_ascii() {
            return self.text(key, &value.to_lowercase());
        }
        self.key(key);
        self.out.push(b'"');
        let start = self.out.len();
        escape(self.out, cut(value));
        self.out[start..].make_ascii_lowercase();
        self.out.push(b'"');
    }

    pub fn null(&mut self, key: &'static str) {
        self.key(key);
        self.out.extend_from_slice(b"null");
    }

    pub fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        push_number(self.out, value);
    }

    pub fn flag(&mut self, key: &'static str, value: bool) {
        self.key(key);
        self.out
            .extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// Bytes that are plain ASCII and need no escaping: ids that were printed before.
    pub fn ascii(&mut self, key: &'static str, value: &[u8], suffix: &[u8]) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(suffix);
        self.out.push(b'"');
    }

    pub fn ip(&mut self, key: &'static str, value: IpAddr) {
        self.key(key);
        self.out.push(b'"');
        push_ip(self.out, value);
        self.out.push(b'"');
    }

    /// For values whose text form needs no escaping: ids, codes.
    pub fn plain(&mut self, key: &'static str, value: impl fmt::Display) {
        self.key(key);
        self.out.push(b'"');
        // Writing to a vector cannot fail.
        let _ = write!(self.out, "{value}");
        self.out.push(b'"');
    }

    pub fn plain_or_null(&mut self, key: &'static str, value: Option<impl fmt::Display>) {
        match value {
            Some(value) => self.plain(key, value),
            None => self.null(key),
        }
    }

    /// RFC 3339 in UTC with milliseconds.
    pub fn time(&mut self, key: &'static str, at: Wall) {
        self.key(key);
        self.out.push(b'"');
        self.clock.push(self.out, at);
        self.out.push(b'"');
    }

    pub fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }
}

/// Seconds whose text is remembered. A prime, so that times that lie round minutes or hours apart,
/// as an attempt and the next one do, do not share a place.
const SECONDS_KNOWN: u64 = 61;

/// The text of seconds written lately: events come in bursts of the same second, and an event has
/// up to three times, its own, that of its injection and that of the next attempt.
pub struct ClockText {
    known: Vec<(u64, Vec<u8>)>,
}

impl Default for ClockText {
    fn default() -> ClockText {
        ClockText {
            known: vec![(0, Vec::new()); SECONDS_KNOWN as usize],
        }
    }
}

impl ClockText {
    fn push(&mut self, out: &mut Vec<u8>, at: Wall) {
        let secs = at.secs();
        let known = &mut self.known[(secs % SECONDS_KNOWN) as usize];
        if known.0 != secs || known.1.is_empty() {
            let text = Wall::from_secs(secs).rfc3339().to_string();
            known.0 = secs;
            known.1.clear();
            known
                .1
                .extend_from_slice(text.as_bytes().strip_suffix(b"000Z").unwrap_or(b""));
        }
        out.extend_from_slice(&known.1);
        let milli = at.0 / 1_000 % 1_000;
        let digits = [milli / 100, milli / 10 % 10, milli % 10].map(|digit| b'0' + digit as u8);
        out.extend_from_slice(&digits);
        out.push(b'Z');
    }
}

/// The first [`TEXT_BYTES_MAX`] bytes, at the border of a character.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// Bytes that may not stand in a JSON string as they are; DEL is added, so that a line can be
/// shown on a terminal.
const fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || byte == 0x7f
}

const SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = is_special(byte as u8);
        byte += 1;
    }
    table
};

/// Copies runs of harmless bytes whole. The C1 controls U+0080 to U+009F, which steer some
/// terminals, become blanks.
fn escape(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        let word = bytes[at..].first_chunk::<8>();
        if word.is_some_and(|word| is_harmless(u64::from_ne_bytes(*word))) {
            at += 8;
            continue;
        }
        let byte = bytes[at];
        let c1 = byte == 0xc2 && matches!(bytes.get(at + 1), Some(0x80..=0x9f));
        if !SPECIAL[usize::from(byte)] && !c1 {
            at += 1;
            continue;
        }
        out.extend_from_slice(&bytes[start..at]);
        if c1 {
            out.push(b' ');
            at += 1;
        } else {
            escape_byte(out, byte);
        }
        at += 1;
        start = at;
    }
    out.extend_from_slice(&bytes[start..]);
}

/// Eight bytes at a time: true if all are printable ASCII without quote and backslash. May say no
/// to a harmless word (non-ASCII, or DEL's neighbours by carry), never yes to another.
fn is_harmless(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let control = below(word, 0x20);
    (control | equal(b'"') | equal(b'\\') | equal(0x7f) | word) & HIGH == 0
}

fn escape_byte(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(write: impl FnOnce(&mut Object<'_>)) -> serde_json::Value {
        let mut out = Vec::new();
        let mut clock = ClockText::default();
        let mut object = Object::begin(&mut out, &mut clock, "test");
        write(&mut object);
        object.end();
        assert_eq!(out.pop(), Some(b'\n'));
        assert!(!out.contains(&b'\n') && !out.iter().any(|b| *b < 0x20 || *b == 0x7f));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn every_character_survives_or_is_a_blank() {
        for code in (0..0x3000).chain(0xfff0..0x1_0010) {
            let Some(c) = char::from_u32(code) else {
                continue;
            };
            let text = format!("a{c}b{c}");
            let c1 = ('\u{80}'..='\u{9f}').contains(&c);
            let expected = if c1 { "a b ".to_owned() } else { text.clone() };
            assert_eq!(line(|o| o.text("t", &text))["t"], expected, "U+{code:04X}");
        }
    }

    #[test]
    fn eight_bytes_are_harmless_only_if_each_is() {
        for at in 0..8 {
            for byte in 0..=255_u8 {
                let mut word = *b"harmless";
                word[at] = byte;
                let special = SPECIAL[usize::from(byte)] || !byte.is_ascii();
                let found = is_harmless(u64::from_ne_bytes(word));
                assert_eq!(found, !special, "{byte} at {at}");
            }
        }
        let text = "0123456\"89\\bc\nefg";
        assert_eq!(line(|o| o.text("t", text))["t"], text);
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let text = format!("x{}", "é".repeat(TEXT_BYTES_MAX));
        let kept = line(|o| o.text("t", &text));
        assert_eq!(kept["t"].as_str().map(str::len), Some(TEXT_BYTES_MAX - 1));
    }

    #[test]
    fn members_have_their_types() {
        let at = Wall(1_767_225_599_042_999);
        let value = line(|o| {
            o.number("zero", 0);
            o.number("max", u64::MAX);
            o.flag("flag", true);
            o.lower("lower", "AbÉ");
            o.lower("quoted", "\"A\nB\"@X");
            o.plain("plain", 7);
            o.plain_or_null("none", None::<u8>);
            o.optional("null", None);
            o.time("at", at);
        });
        let expected = serde_json::json!({
            "type": "test", "zero": 0, "max": u64::MAX, "flag": true, "lower": "abé",
            "quoted": "\"a\nb\"@x", "plain": "7", "none": null, "null": null,
            "at": "2025-12-31T23:59:59.042Z",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn the_clock_text_is_that_of_the_moment_whatever_came_before() {
        let mut clock = ClockText::default();
        for step in [
            0_u64, 1, 4, 1_000_000, 4_000_001, 999, 8_000_000, 4_123_456, 0,
        ] {
            let mut out = Vec::new();
            let at = Wall(1_700_000_000_000_000 + step);
            clock.push(&mut out, at);
            assert_eq!(String::from_utf8(out).unwrap(), at.rfc3339().to_string());
        }
        let mut out = Vec::new();
        clock.push(&mut out, Wall(0));
        assert_eq!(out, b"1970-01-01T00:00:00.000Z");
    }
}
