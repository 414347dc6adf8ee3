//! A message of 8-bit content made into one of 7 bits, for hosts without 8BITMIME (RFC 6152 3):
//! text parts become quoted-printable, others base64, multiparts and enclosed messages are walked,
//! and each Content-Transfer-Encoding says what was done. What was 7 bit stays as it is, byte for
//! byte. Where the result would not be the same message, nothing is converted and the reason is
//! told. Bounded in depth and parts; time and memory grow with the size of the message only.

use memchr::memchr;
use memchr::memmem;

/// Multiparts and enclosed messages within each other.
pub const DEPTH_MAX: usize = 32;

/// Parts of one message, all levels together.
pub const PARTS_MAX: usize = 1_000;

/// RFC 2046 5.1.1.
const BOUNDARY_BYTES_MAX: usize = 70;

/// Characters of an encoded line, RFC 2045 6.7 and 6.8.
const ENCODED_LINE_MAX: usize = 76;

/// Why a message stays 8 bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unconvertible {
    #[error("a header section holds 8-bit characters")]
    EightBitHeader,
    #[error("8-bit content stands in a part that claims to be 7-bit encoded")]
    AlreadyEncoded,
    #[error("8-bit content is signed, encrypted or of a type that may not be encoded")]
    Sealed,
    #[error("its MIME structure is broken")]
    Malformed,
    #[error("its MIME structure has too many parts or levels")]
    TooComplex,
}

/// The message in 7 bits. One that is 7 bit already comes back as it is.
pub fn to_seven_bit(message: &[u8]) -> Result<Vec<u8>, Unconvertible> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 4 + 256);
    if message.is_ascii() {
        out.extend_from_slice(message);
    } else {
        Walk {
            out: &mut out,
            parts: 0,
        }
        .entity(message, Kind::Message, 0)?;
    }
    Ok(out)
}

/// What an entity is without a Content-Type of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Begins with the header section of a message.
    Message,
    /// A part of a multipart: text.
    Part,
    /// A part of multipart/digest: a message.
    DigestPart,
}

struct Walk<'a> {
    out: &'a mut Vec<u8>,
    parts: usize,
}

impl Walk<'_> {
    fn entity(&mut self, entity: &[u8], kind: Kind, depth: usize) -> Result<(), Unconvertible> {
        if entity.is_ascii() {
            self.out.extend_from_slice(entity);
            return Ok(());
        }
        self.parts += 1;
        if depth > DEPTH_MAX || self.parts > PARTS_MAX {
            return Err(Unconvertible::TooComplex);
        }
        let (header, body) = split(entity);
        let header = Header::read(header)?;
        let content_type = match header.content_type {
            Some(value) => ContentType::parse(&unfolded(value)).ok_or(Unconvertible::Malformed)?,
            None if kind == Kind::DigestPart => ContentType::of("message", "rfc822"),
            None => ContentType::of("text", "plain"),
        };
        if header.is_encoded()? {
            return Err(Unconvertible::AlreadyEncoded);
        }
        match (content_type.main.as_str(), content_type.sub.as_str()) {
            ("multipart", "signed" | "encrypted") => Err(Unconvertible::Sealed),
            ("multipart", sub) => {
                let boundary = content_type
                    .boundary
                    .as_deref()
                    .ok_or(Unconvertible::Malformed)?;
                self.header(&header, kind, "7bit");
                let of_parts = if sub == "digest" {
                    Kind::DigestPart
                } else {
                    Kind::Part
                };
                self.multipart(body, boundary, of_parts, depth)
            }
            ("message", "rfc822") => {
                self.header(&header, kind, "7bit");
                self.entity(body, Kind::Message, depth + 1)
            }
            // RFC 2046 5.2 lets these be 7 bit only.
            ("message", _) => Err(Unconvertible::Sealed),
            ("text", _) => {
                self.header(&header, kind, "quoted-printable");
                quoted_printable(self.out, body);
                Ok(())
            }
            (_, _) => {
                self.header(&header, kind, "base64");
                base64(self.out, body);
                Ok(())
            }
        }
    }

    /// The header section with the encoding as it is now, and the blank line.
    fn header(&mut self, header: &Header<'_>, kind: Kind, encoding: &str) {
        let composite = encoding == "7bit";
        let mut named = false;
        for field in &header.fields {
            if !is_named(field, b"content-transfer-encoding") {
                self.out.extend_from_slice(field);
            } else if !named {
                named = true;
                self.encoding(encoding);
            }
        }
        // Fields that were never there: RFC 2045 4 wants the version where MIME is spoken, RFC
        // 1428 names the charset of text that nobody named.
        if kind == Kind::Message && !header.has_version {
            self.out.extend_from_slice(b"MIME-Version: 1.0\r\n");
        }
        if kind == Kind::Message && header.content_type.is_none() {
            let field = b"Content-Type: text/plain; charset=unknown-8bit\r\n";
            self.out.extend_from_slice(field);
        }
        if !named && !composite {
            self.encoding(encoding);
        }
        self.out.extend_from_slice(b"\r\n");
    }

    fn encoding(&mut self, encoding: &str) {
        self.out.extend_from_slice(b"Content-Transfer-Encoding: ");
        self.out.extend_from_slice(encoding.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn multipart(
        &mut self,
        body: &[u8],
        boundary: &[u8],
        of_parts: Kind,
        depth: usize,
    ) -> Result<(), Unconvertible> {
        let mut delimiters = Delimiters {
            body,
            boundary,
            at: 0,
            after: 0,
        };
        let first = delimiters.next().ok_or(Unconvertible::Malformed)?;
        let preamble = &body[..first.end];
        if !preamble.is_ascii() || first.closes {
            return Err(Unconvertible::Malformed);
        }
        self.out.extend_from_slice(preamble);
        let mut from = first.end;
        loop {
            let Some(delimiter) = delimiters.next() else {
                // The end is missing: the last part ends with the message.
                return self.entity(&body[from..], of_parts, depth + 1);
            };
            self.entity(&body[from..delimiter.start], of_parts, depth + 1)?;
            self.out
                .extend_from_slice(&body[delimiter.start..delimiter.end]);
            from = delimiter.end;
            if delimiter.closes {
                let epilogue = &body[from..];
                self.out.extend_from_slice(epilogue);
                return if epilogue.is_ascii() {
                    Ok(())
                } else {
                    Err(Unconvertible::Malformed)
                };
            }
        }
    }
}

/// The header section with the end of its last line, and the body after the blank line.
fn split(entity: &[u8]) -> (&[u8], &[u8]) {
    if let Some(body) = entity.strip_prefix(b"\r\n") {
        return (&[], body);
    }
    match memmem::find(entity, b"\r\n\r\n") {
        Some(at) => (&entity[..at + 2], &entity[at + 4..]),
        None => (entity, &[]),
    }
}

struct Header<'a> {
    /// With continuation lines and line ends.
    fields: Vec<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    encoding: Option<&'a [u8]>,
    has_version: bool,
}

impl<'a> Header<'a> {
    fn read(section: &'a [u8]) -> Result<Header<'a>, Unconvertible> {
        if !section.is_ascii() {
            return Err(Unconvertible::EightBitHeader);
        }
        let mut header = Header {
            fields: Vec::new(),
            content_type: None,
            encoding: None,
            has_version: false,
        };
        let mut rest = section;
        while !rest.is_empty() {
            let mut end = line_end(rest);
            while matches!(rest.get(end), Some(b' ' | b'\t')) {
                end += line_end(&rest[end..]);
            }
            let (field, after) = rest.split_at(end);
            rest = after;
            header.fields.push(field);
            let place = if is_named(field, b"content-type") {
                &mut header.content_type
            } else if is_named(field, b"content-transfer-encoding") {
                &mut header.encoding
            } else {
                header.has_version |= is_named(field, b"mime-version");
                continue;
            };
            let colon = memchr(b':', field).ok_or(Unconvertible::Malformed)?;
            // Readers differ on which of two counts.
            if place.replace(&field[colon + 1..]).is_some() {
                return Err(Unconvertible::Malformed);
            }
        }
        if header
            .fields
            .last()
            .is_some_and(|last| !last.ends_with(b"\n"))
        {
            return Err(Unconvertible::Malformed);
        }
        Ok(header)
    }

    /// Whether the content claims to be encoded to 7 bits.
    fn is_encoded(&self) -> Result<bool, Unconvertible> {
        let Some(value) = self.encoding else {
            return Ok(false);
        };
        match unfolded(value).trim().to_ascii_lowercase().as_str() {
            "7bit" | "8bit" | "binary" => Ok(false),
            "quoted-printable" | "base64" => Ok(true),
            _ => Err(Unconvertible::Malformed),
        }
    }
}

/// Length of the first line with its end.
fn line_end(text: &[u8]) -> usize {
    memchr(b'\n', text).map_or(text.len(), |at| at + 1)
}

fn is_named(field: &[u8], name: &[u8]) -> bool {
    let Some(colon) = memchr(b':', field) else {
        return false;
    };
    field[..colon].trim_ascii_end().eq_ignore_ascii_case(name)
}

/// A field body in one line without comments (RFC 5322 3.2.2); quoted strings stay quoted.
fn unfolded(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for &byte in value.iter().filter(|byte| !matches!(byte, b'\r' | b'\n')) {
        if escaped {
            escaped = false;
        } else if byte == b'\\' && (quoted || depth > 0) {
            escaped = true;
        } else if byte == b'"' && depth == 0 {
            quoted = !quoted;
        } else if byte == b'(' && !quoted {
            depth += 1;
            continue;
        } else if byte == b')' && depth > 0 {
            depth -= 1;
            continue;
        }
        if depth == 0 {
            text.push(char::from(byte));
        }
    }
    text
}

struct ContentType {
    /// Lower case.
    main: String,
    sub: String,
    boundary: Option<Vec<u8>>,
}

impl ContentType {
    fn of(main: &str, sub: &str) -> ContentType {
        ContentType {
            main: main.to_owned(),
            sub: sub.to_owned(),
            boundary: None,
        }
    }

    fn parse(value: &str) -> Option<ContentType> {
        let mut parts = Parameters { rest: value };
        let (main, sub) = parts.next()?.split_once('/')?;
        let token = |text: &str| {
            let text = text.trim().to_ascii_lowercase();
            let plain = |b: u8| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b);
            (!text.is_empty() && text.bytes().all(plain)).then_some(text)
        };
        let mut found = ContentType {
            main: token(main)?,
            sub: token(sub)?,
            boundary: None,
        };
        for parameter in parts {
            let Some((name, value)) = parameter.split_once('=') else {
                continue;
            };
            if name.trim().eq_ignore_ascii_case("boundary") {
                let boundary = unquoted(value.trim());
                let fits = (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len());
                if !fits || found.boundary.replace(boundary).is_some() {
                    return None;
                }
            }
        }
        Some(found)
    }
}

/// Splits at semicolons outside of quotes.
struct Parameters<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Parameters<'a> {
    type Item = &'a str;
    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped) = (false, false);
        let end = self.rest.bytes().position(|byte| {
            if escaped {
                escaped = false;
            } else {
                match byte {
                    b'\\' => escaped = quoted,
                    b'"' => quoted = !quoted,
                    b';' => return !quoted,
                    _ => {}
                }
            }
            false
        });
        let (part, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest.strip_prefix(';').unwrap_or(rest);
        Some(part)
    }
}

fn unquoted(value: &str) -> Vec<u8> {
    let Some(inner) = value.strip_prefix('"') else {
        let end = value.find([' ', '\t']).unwrap_or(value.len());
        return value.as_bytes()[..end].to_vec();
    };
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => break,
            b'\\' => text.extend(bytes.next()),
            _ => text.push(byte),
        }
    }
    text
}

/// A line of two hyphens and the boundary (RFC 2046 5.1.1), with the line end before it, which
/// belongs to it.
struct Delimiter {
    start: usize,
    end: usize,
    closes: bool,
}

struct Delimiters<'a> {
    body: &'a [u8],
    boundary: &'a [u8],
    at: usize,
    /// Where the last delimiter ended: two in a row share no line end.
    after: usize,
}

impl Iterator for Delimiters<'_> {
    type Item = Delimiter;
    fn next(&mut self) -> Option<Delimiter> {
        while self.at < self.body.len() {
            let line = self.at;
            let end = line + line_end(&self.body[line..]);
            self.at = end;
            let Some(rest) = self.body[line..end].strip_prefix(b"--") else {
                continue;
            };
            let Some(rest) = rest.strip_prefix(self.boundary) else {
                continue;
            };
            let (closes, rest) = match rest.strip_prefix(b"--") {
                Some(rest) => (true, rest),
                None => (false, rest),
            };
            if rest.trim_ascii().is_empty() {
                let before = &self.body[self.after..line];
                let gap = if before.ends_with(b"\r\n") { 2 } else { 0 };
                let start = line - gap;
                self.after = end;
                return Some(Delimiter { start, end, closes });
            }
        }
        None
    }
}

/// RFC 2045 6.7. Line ends stay line ends.
fn quoted_printable(out: &mut Vec<u8>, body: &[u8]) {
    let mut rest = body;
    while !rest.is_empty() {
        let (line, end, after) = match memmem::find(rest, b"\r\n") {
            Some(at) => (&rest[..at], &rest[at..at + 2], &rest[at + 2..]),
            None => (rest, &rest[..0], &rest[..0]),
        };
        let mut column = 0;
        for (at, &byte) in line.iter().enumerate() {
            let last = at + 1 == line.len();
            let plain = match byte {
                b'=' => false,
                b' ' | b'\t' => !last,
                _ => byte.is_ascii_graphic(),
            };
            let width = if plain { 1 } else { 3 };
            // The last character of a line needs no room for a soft line break behind it.
            let room = ENCODED_LINE_MAX - usize::from(!last);
            if column + width > room {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            column += width;
            if plain {
                out.push(byte);
            } else {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push(b'=');
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
        out.extend_from_slice(end);
        rest = after;
    }
}

/// RFC 2045 6.8, every line with its end, so that what follows begins a line.
fn base64(out: &mut Vec<u8>, body: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for line in body.chunks(ENCODED_LINE_MAX / 4 * 3) {
        for group in line.chunks(3) {
            let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for at in 0..4 {
                let digit = ALPHABET[(bits >> (18 - 6 * at)) as usize & 63];
                out.push(if at as usize <= group.len() {
                    digit
                } else {
                    b'='
                });
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests;
