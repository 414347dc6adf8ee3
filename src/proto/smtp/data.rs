//! The content of a message as it comes in: DATA with its dots (RFC 5321 4.1.1.4, 4.5.2) or BDAT
//! chunks (RFC 3030), cut anywhere by the network. Lines end in CR LF and in nothing else: a bare
//! CR or LF is a fault at once, so that no two readers of one stream can disagree on where a
//! message ends. Bytes are copied once, in runs as long as the input allows; blocks without
//! anything to act on are passed over at vector speed. What is over a limit is read to its end
//! without being kept, so that the refusal stands where the client expects it, and is the same
//! however the network has cut the input.

use std::rc::Rc;

use memchr::memchr;
use memchr::memchr2;
use memchr::memrchr;

use crate::proto::smtp::flow_fields::FlowField;
use crate::proto::smtp::flow_fields::FlowFields;
use crate::proto::smtp::flow_fields::FlowReader;
use crate::types::message::HEADER_FACT_BYTES_MAX;
use crate::types::replies;
use crate::types::replies::Canned;

/// Content may be this many times larger than the limit before reading on is given up.
pub const OVERSIZE_FACTOR: u64 = 2;

/// Over the limit by a little is read to its end whatever the limit, so that tiny limits do not
/// turn every refusal into a lost connection.
const OVERSIZE_GRACE_BYTES: u64 = 64 << 10;

/// Content is looked at in blocks of this size for whether there is anything to act on.
const BLOCK_BYTES: usize = 512;

/// And in such pieces, to come near to what there is.
const PIECE_BYTES: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// DATA: a leading dot is taken off, a dot alone on a line ends the message.
    Dots,
    /// BDAT: the caller counts the octets, a dot is data.
    Chunks,
}

impl Framing {
    /// What must not begin a line unseen: a dot, or where dots are data a line end, which must not
    /// stand there anyhow.
    fn dot(self) -> u8 {
        match self {
            Framing::Dots => b'.',
            Framing::Chunks => b'\n',
        }
    }
}

/// What one message may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataLimits {
    /// Content without transparency dots, line ends included, as SIZE counts (RFC 1870).
    pub message_bytes_max: u64,
    /// All of the header section, line ends included.
    pub header_bytes_max: u64,
    /// One line without its line end.
    pub line_bytes_max: u64,
    /// `Received` fields: more mean a loop (RFC 5321 6.3).
    pub received_fields_max: u32,
}

impl DataLimits {
    /// The header section with a line that is not over yet, which may be the one that ends it.
    fn open_header_bytes_max(&self) -> u64 {
        self.header_bytes_max.saturating_add("\r\n".len() as u64)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// All input was used and the message goes on.
    More,
    /// The end of the data was in the input; what follows it is the next command.
    End,
    /// A bare CR or LF. The connection has to end: what follows may be content or commands.
    BareLineEnd,
    /// So far over the size limit that reading on would only serve the sender.
    Flood,
}

/// Why a whole message is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    Message,
    Header,
    Line,
    Hops,
    /// The content ends in a CR (chunks only); the connection has to end like for any bare CR.
    BareLineEnd,
}

impl Refusal {
    pub fn reply(self) -> &'static Canned {
        match self {
            Refusal::Message => &replies::MESSAGE_TOO_BIG,
            Refusal::Header => &replies::HEADER_TOO_BIG,
            Refusal::Line => &replies::LINE_TOO_LONG,
            Refusal::Hops => &replies::TOO_MANY_HOPS,
            Refusal::BareLineEnd => &replies::BARE_LINE_END,
        }
    }
}

/// A message taken in whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// What the reader was given to begin with, and the content after it.
    pub body: Vec<u8>,
    pub eight_bit: bool,
    /// Values of the first fields of these names: unfolded, raw, cut to [`HEADER_FACT_BYTES_MAX`].
    pub subject: Box<str>,
    pub friendly_from: Box<str>,
    /// Values of the first class, tenant and campaign fields likewise, if those are looked for.
    pub flow: [Box<str>; 3],
}

/// Where the last byte left the reader. Only this and the current line's length are carried from
/// one piece of input to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    LineStart,
    /// A dot at the start of a line, not kept.
    Dot,
    /// Dot and CR, neither kept: LF makes it the end, anything else a bare CR.
    DotCr,
    Line,
    /// A CR that has been kept and needs its LF.
    Cr,
}

pub struct DataReader {
    framing: Framing,
    limits: DataLimits,
    at: At,
    body: Vec<u8>,
    /// Bytes of content so far, kept or not.
    content_bytes: u64,
    /// Bytes of input so far.
    input_bytes: u64,
    /// Bytes of the current line so far, without its line end.
    line_bytes: u64,
    eight_bit: bool,
    refusal: Option<Refusal>,
    /// Nothing once the header section is over or the message is refused.
    header: Option<Header>,
    subject: Vec<u8>,
    friendly_from: Vec<u8>,
    flow: Option<FlowReader>,
}

/// State within the header section.
struct Header {
    /// Where the current line starts in the body.
    line_at: usize,
    bytes: u64,
    received_fields: u32,
    /// The field that a continuation line belongs to.
    field: Field,
    has_subject: bool,
    has_from: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    /// No field yet: a continuation here is no header.
    None,
    Subject,
    From,
    Flow(FlowField),
    Other,
}

impl DataReader {
    /// Content is appended to `body`, whose beginning (the trace field) counts for no limit.
    pub fn new(framing: Framing, limits: DataLimits, body: Vec<u8>) -> DataReader {
        let header = Header {
            line_at: body.len(),
            bytes: 0,
            received_fields: 0,
            field: Field::None,
            has_subject: false,
            has_from: false,
        };
        DataReader {
            framing,
            limits,
            at: At::LineStart,
            body,
            content_bytes: 0,
            input_bytes: 0,
            line_bytes: 0,
            eight_bit: false,
            refusal: None,
            header: Some(header),
            subject: Vec::new(),
            friendly_from: Vec::new(),
            flow: None,
        }
    }

    /// Looks for these fields too; to be called before anything is pushed.
    pub fn heed(&mut self, fields: Rc<FlowFields>) {
        self.flow = Some(FlowReader::new(fields));
    }

    /// Before anything is pushed: so many bytes are about to be, which spares growth by steps.
    pub fn expect(&mut self, bytes: usize) {
        if self.input_bytes == 0 {
            self.body.reserve(bytes);
        }
    }

    /// Takes what came in. Gives how much of it belongs to the message, and how things stand;
    /// after anything but [`Status::More`] there is nothing more to push.
    pub fn push(&mut self, input: &[u8]) -> (usize, Status) {
        let (used, status) = self.scan(input);
        self.input_bytes = self.input_bytes.saturating_add(used as u64);
        let flood = self
            .limits
            .message_bytes_max
            .saturating_mul(OVERSIZE_FACTOR)
            + OVERSIZE_GRACE_BYTES;
        if status == Status::More && self.input_bytes > flood {
            return (used, Status::Flood);
        }
        (used, status)
    }

    /// The message is over: [`Status::End`] was given, or the last chunk has been pushed.
    pub fn finish(mut self) -> Result<Taken, Refusal> {
        if self.at == At::Cr {
            return Err(Refusal::BareLineEnd);
        }
        if self.line_bytes > 0 {
            self.end_line();
        }
        // Whether size or something else was found first depends on how the input was cut.
        if self.content_bytes > self.limits.message_bytes_max {
            return Err(Refusal::Message);
        }
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        if let Some(flow) = &self.flow {
            flow.cut(&mut self.body);
        }
        // A message may stay in memory for long: growth that was not needed is given back.
        self.body.shrink_to_fit();
        let text = |value: Vec<u8>| {
            String::from_utf8_lossy(value.trim_ascii())
                .into_owned()
                .into_boxed_str()
        };
        Ok(Taken {
            body: self.body,
            eight_bit: self.eight_bit,
            subject: text(self.subject),
            friendly_from: text(self.friendly_from),
            flow: self.flow.map(|it| it.values).unwrap_or_default().map(text),
        })
    }

    /// Bytes of memory that the message holds at present.
    pub fn held_bytes(&self) -> usize {
        self.body.capacity()
    }

    fn scan(&mut self, input: &[u8]) -> (usize, Status) {
        // The next byte to look at, and the first one that is data but has not been kept yet.
        let mut next = 0;
        let mut run = 0;
        while next < input.len() {
            if self.header.is_some() {
                if self.at == At::LineStart && run == next && self.is_between_fields() {
                    next += self.take_fields(&input[next..]);
                    run = next;
                }
            } else {
                next += self.pass_plain(&input[next..]);
            }
            if next == input.len() {
                break;
            }
            match self.at {
                At::LineStart if input[next] == b'.' && self.framing == Framing::Dots => {
                    self.keep(&input[run..next]);
                    next += 1;
                    run = next;
                    self.at = At::Dot;
                }
                At::LineStart => self.at = At::Line,
                At::Dot if input[next] == b'\r' => {
                    next += 1;
                    run = next;
                    self.at = At::DotCr;
                }
                At::Dot => self.at = At::Line,
                At::DotCr if input[next] == b'\n' => return (next + 1, Status::End),
                At::Cr if input[next] == b'\n' => {
                    next += 1;
                    self.at = At::LineStart;
                    if self.header.is_some() {
                        self.keep(&input[run..next]);
                        run = next;
                    }
                    self.end_line();
                }
                At::DotCr | At::Cr => return (next, Status::BareLineEnd),
                At::Line => match memchr2(b'\r', b'\n', &input[next..]) {
                    Some(length) if input[next + length] == b'\r' => {
                        self.line_bytes += length as u64;
                        next += length + 1;
                        self.at = At::Cr;
                    }
                    Some(length) => return (next + length, Status::BareLineEnd),
                    None => {
                        self.line_bytes += (input.len() - next) as u64;
                        next = input.len();
                    }
                },
            }
        }
        self.keep(&input[run..]);
        (input.len(), Status::More)
    }

    /// Passes over well-formed lines without a leading dot, or parts of such lines, up to where
    /// there is something to act on. Gives how many bytes that were.
    fn pass_plain(&mut self, input: &[u8]) -> usize {
        let begins_well = match self.at {
            At::LineStart => input[0] != b'\n' && input[0] != self.framing.dot(),
            At::Line => input[0] != b'\n',
            At::Dot | At::DotCr | At::Cr => false,
        };
        if !begins_well {
            return 0;
        }
        let passed = plain_bytes(input, self.framing);
        if let [.., last] = input[..passed] {
            self.count_lines(&input[..passed]);
            self.at = match last {
                b'\r' => At::Cr,
                b'\n' => At::LineStart,
                _ => At::Line,
            };
        }
        passed
    }

    /// Sees to the length of well-formed lines without looking at each: from a line's start, some
    /// line must end within the reach of a legal one.
    fn count_lines(&mut self, lines: &[u8]) {
        let reach = self
            .limits
            .line_bytes_max
            .saturating_add("\r\n".len() as u64);
        let mut start = 0;
        let mut open = self.line_bytes;
        while (lines.len() - start) as u64 > reach.saturating_sub(open) {
            let window = &lines[start..][..reach.saturating_sub(open) as usize];
            let Some(end) = memrchr(b'\n', window) else {
                self.refuse(Refusal::Line);
                break;
            };
            start += end + 1;
            open = 0;
        }
        let is_cut = lines.ends_with(b"\r");
        let length = match memrchr(b'\n', lines) {
            Some(end) => (lines.len() - end - 1) as u64,
            None => self.line_bytes + lines.len() as u64,
        };
        self.line_bytes = length - u64::from(is_cut);
    }

    /// Within the header section, and nothing of its next line has been kept.
    fn is_between_fields(&self) -> bool {
        let line_at = self.header.as_ref().map(|header| header.line_at);
        line_at == Some(self.body.len())
    }

    /// Takes whole, well-formed lines of the header section where they lie, with the one that ends
    /// it. Gives how many bytes that were. Stops at a line that needs a closer look.
    fn take_fields(&mut self, input: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(header) = self.header.take() {
            let rest = &input[taken..];
            let length = memchr(b'\n', rest).map_or(0, |end| end + 1);
            let whole = &rest[..length];
            let line = whole.strip_suffix(b"\r\n").filter(|line| {
                let is_dotted = self.framing == Framing::Dots && line.starts_with(b".");
                let is_long = line.len() as u64 > self.limits.line_bytes_max
                    || header.bytes + length as u64 > self.limits.open_header_bytes_max();
                !is_dotted && !is_long && memchr(b'\r', line).is_none()
            });
            if line.is_none() {
                self.header = Some(header);
                break;
            }
            taken += length;
            self.header = self.header_line(header, whole);
        }
        self.keep(&input[..taken]);
        taken
    }

    fn keep(&mut self, run: &[u8]) {
        self.content_bytes += run.len() as u64;
        if self.refusal.is_some() {
            return;
        }
        if self.content_bytes > self.limits.message_bytes_max {
            return self.refuse(Refusal::Message);
        }
        self.eight_bit = self.eight_bit || !run.is_ascii();
        self.body.extend_from_slice(run);
        // A field without end is met here; whole lines are counted where they end.
        if let Some(header) = &self.header {
            let open = (self.body.len() - header.line_at) as u64;
            if header.bytes + open > self.limits.open_header_bytes_max() {
                self.refuse(Refusal::Header);
            }
        }
    }

    /// The first reason counts; nothing is kept from then on.
    fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
        self.body = Vec::new();
        self.header = None;
    }

    fn end_line(&mut self) {
        if self.line_bytes > self.limits.line_bytes_max {
            self.refuse(Refusal::Line);
        }
        self.line_bytes = 0;
        if let Some(header) = self.header.take() {
            let body = core::mem::take(&mut self.body);
            let line_at = header.line_at;
            self.header = self.header_line(header, &body[line_at..]);
            if self.refusal.is_none() {
                self.body = body;
            }
        }
    }

    /// Looks at a whole line of the header section, with its line end. The first line that is
    /// neither a field nor the continuation of one ends the section, with or without an empty line.
    fn header_line(&mut self, mut header: Header, whole: &[u8]) -> Option<Header> {
        let line = whole.strip_suffix(b"\r\n").unwrap_or(whole);
        let (field, value) = match line.first()? {
            b' ' | b'\t' if header.field == Field::None => return None,
            b' ' | b'\t' => (header.field, line),
            _ => {
                let colon = memchr(b':', line)?;
                let name = line[..colon].trim_ascii_end();
                if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
                    return None;
                }
                let mut field = header.begin(name);
                if field == Field::Other
                    && let Some(flow) = &mut self.flow
                {
                    field = flow.begin(name).map_or(field, Field::Flow);
                }
                (field, &line[colon + 1..])
            }
        };
        header.field = field;
        if let (Field::Flow(field), Some(flow)) = (field, &mut self.flow) {
            flow.note(field, header.line_at, whole.len());
            if !field.is_repeated {
                append_fact(&mut flow.values[field.index], value);
            }
        }
        header.bytes += whole.len() as u64;
        header.line_at += whole.len();
        match field {
            Field::Subject => append_fact(&mut self.subject, value),
            Field::From => append_fact(&mut self.friendly_from, value),
            Field::None | Field::Flow(_) | Field::Other => {}
        }
        let refusal = if header.bytes > self.limits.header_bytes_max {
            Refusal::Header
        } else if header.received_fields > self.limits.received_fields_max {
            Refusal::Hops
        } else {
            return Some(header);
        };
        self.refuse(refusal);
        None
    }
}

/// How many bytes from the beginning hold nothing but well-formed lines without a leading dot that
/// means something, or parts of such lines.
fn plain_bytes(input: &[u8], framing: Framing) -> usize {
    let dot = framing.dot();
    let mut passed = 0;
    // Where there is much to act on, not much is looked at in vain.
    for (block_bytes, blocks_max) in [
        (PIECE_BYTES, 1),
        (BLOCK_BYTES, usize::MAX),
        (PIECE_BYTES, usize::MAX),
    ] {
        passed += plain_blocks(&input[passed..], block_bytes, blocks_max, dot);
    }
    let mut pairs = input[passed..].windows(2);
    match pairs.position(|pair| !is_plain_pair(pair[0], pair[1], dot)) {
        Some(at) => passed + at + 1,
        None => input.len(),
    }
}

/// Each block is looked at together with the byte behind it: no line end is cut unseen.
fn plain_blocks(input: &[u8], block_bytes: usize, blocks_max: usize, dot: u8) -> usize {
    let mut passed = 0;
    for _ in 0..blocks_max {
        match input.get(passed..=passed + block_bytes) {
            Some(block) if is_plain(block, dot) => passed += block_bytes,
            _ => break,
        }
    }
    passed
}

/// No CR without its LF, no LF without its CR, no LF before a dot.
fn is_plain_pair(one: u8, next: u8, dot: u8) -> bool {
    let is_bare = (one == b'\r') != (next == b'\n');
    let is_dotted = (one == b'\n') & (next == dot);
    !(is_bare | is_dotted)
}

/// Whether all pairs of neighbours are plain.
fn is_plain(block: &[u8], dot: u8) -> bool {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { is_plain_avx2(block, dot) };
    }
    is_plain_any(block, dot)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn is_plain_avx2(block: &[u8], dot: u8) -> bool {
    is_plain_any(block, dot)
}

/// Without an early end, so that the compiler makes vectors of it, as wide as the caller's.
#[inline(always)]
fn is_plain_any(block: &[u8], dot: u8) -> bool {
    let pairs = block.iter().zip(&block[1..]);
    pairs.fold(true, |plain, (&one, &next)| {
        plain & is_plain_pair(one, next, dot)
    })
}

impl Header {
    fn begin(&mut self, name: &[u8]) -> Field {
        if name.eq_ignore_ascii_case(b"Received") {
            self.received_fields += 1;
        } else if name.eq_ignore_ascii_case(b"Subject") && !self.has_subject {
            self.has_subject = true;
            return Field::Subject;
        } else if name.eq_ignore_ascii_case(b"From") && !self.has_from {
            self.has_from = true;
            return Field::From;
        }
        Field::Other
    }
}

/// Control characters would steer whoever prints the fact; a blank stands in for them.
fn append_fact(fact: &mut Vec<u8>, value: &[u8]) {
    let value = if fact.is_empty() {
        value.trim_ascii_start()
    } else {
        value
    };
    let room = HEADER_FACT_BYTES_MAX.saturating_sub(fact.len());
    let clean = |byte: &u8| if byte.is_ascii_control() { b' ' } else { *byte };
    fact.extend(value.iter().take(room).map(clean));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    const LIMITS: DataLimits = DataLimits {
        message_bytes_max: 200,
        header_bytes_max: 100,
        line_bytes_max: 50,
        received_fields_max: 2,
    };

    /// Pushes `input` in pieces of `piece` bytes; gives the bytes used and the last status.
    fn push(reader: &mut DataReader, input: &[u8], piece: usize) -> (usize, Status) {
        let mut total = 0;
        for part in input.chunks(piece) {
            let (used, status) = reader.push(part);
            total += used;
            if status != Status::More {
                return (total, status);
            }
            assert_eq!(used, part.len(), "all is used while the message goes on");
        }
        (total, Status::More)
    }

    fn read(framing: Framing, input: &[u8], piece: usize) -> (Status, Result<Taken, Refusal>) {
        let mut reader = DataReader::new(framing, LIMITS, b"T: x\r\n".to_vec());
        let (_, status) = push(&mut reader, input, piece);
        (status, reader.finish())
    }

    #[test]
    fn dots_are_taken_off_and_the_end_is_found_at_every_cut() {
        let cases: [(&[u8], &[u8]); 8] = [
            (b".\r\n", b""),
            (b"\r\n.\r\n", b"\r\n"),
            (b"a\r\n.\r\n", b"a\r\n"),
            (b"..\r\n.\r\n", b".\r\n"),
            (b"a\r\n..b\r\n...\r\n.\r\n", b"a\r\n.b\r\n..\r\n"),
            (b".a\r\n. \r\n.\r\n", b"a\r\n \r\n"),
            (b"a.\r\n.\0\r\n.\r\n", b"a.\r\n\0\r\n"),
            (b"\x85.\x85\r\n.\r\n", b"\x85.\x85\r\n"),
        ];
        for (input, expected) in cases {
            for piece in 1..=input.len() {
                let (status, taken) = read(Framing::Dots, input, piece);
                assert_eq!(status, Status::End, "{} by {piece}", input.escape_ascii());
                let body = taken.unwrap().body;
                assert_eq!(body[6..], *expected, "{} by {piece}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn what_follows_the_end_is_left() {
        let mut reader = DataReader::new(Framing::Dots, LIMITS, Vec::new());
        assert_eq!(reader.push(b"a\r\n.\r\nMAIL"), (6, Status::End));
    }

    #[test]
    fn bare_line_ends_are_a_fault_in_either_framing_at_every_cut() {
        let cases: [&[u8]; 8] = [
            b"a\nb",
            b"a\rb",
            b"\n",
            b"\r\r\n",
            b"a\r\n\n",
            b"a\r\n.\n",
            b"a\r\n.\ra",
            b"a\r\n.\r\r\n",
        ];
        for framing in [Framing::Dots, Framing::Chunks] {
            for input in cases {
                for piece in 1..=input.len() {
                    let (status, _) = read(framing, input, piece);
                    assert_eq!(
                        status,
                        Status::BareLineEnd,
                        "{} by {piece}",
                        input.escape_ascii()
                    );
                }
            }
        }
    }

    #[test]
    fn chunks_keep_dots_and_need_no_line_end_but_no_half_one() {
        let (status, taken) = read(Framing::Chunks, b"a\r\n.\r\n..b", 1);
        assert_eq!(status, Status::More);
        assert_eq!(taken.unwrap().body, b"T: x\r\na\r\n.\r\n..b");
        assert_eq!(
            read(Framing::Chunks, b"a\r", 1).1,
            Err(Refusal::BareLineEnd)
        );
    }

    #[test]
    fn facts_are_the_first_of_their_name_unfolded_and_cut() {
        let input =
            b"subject: one\r\n\ttwo\x1b\r\nSUBJECT: no\r\nFrom:  A <a@b> \r\n\r\nSubject: x\r\n";
        for piece in 1..=input.len() {
            let taken = read(Framing::Chunks, input, piece).1.unwrap();
            assert_eq!(&*taken.subject, "one two");
            assert_eq!(&*taken.friendly_from, "A <a@b>");
            assert!(!taken.eight_bit);
        }
        let long = format!("Subject: {}\r\n", "x".repeat(HEADER_FACT_BYTES_MAX + 1));
        let limits = DataLimits {
            line_bytes_max: 1_000,
            ..LIMITS
        };
        let limits = DataLimits {
            header_bytes_max: 1_000,
            message_bytes_max: 1_000,
            ..limits
        };
        let mut reader = DataReader::new(Framing::Chunks, limits, Vec::new());
        reader.push(long.as_bytes());
        assert_eq!(
            reader.finish().unwrap().subject.len(),
            HEADER_FACT_BYTES_MAX
        );
    }

    #[test]
    fn fields_of_a_flow_are_found_and_taken_out_at_every_cut() {
        let fields = |removed| FlowFields {
            names: ["X-Class", "X-Tenant", ""].map(Into::into),
            removed,
        };
        let input =
            b"x-CLASS : a\r\n b\r\nX-Tenant: t\r\nA: b\r\nX-Class: c\r\n d\r\n\r\nX-Class: e";
        let cases: [([bool; 3], &[u8]); 3] = [
            ([false; 3], input),
            (
                [true, false, true],
                b"X-Tenant: t\r\nA: b\r\n\r\nX-Class: e",
            ),
            ([true; 3], b"A: b\r\n\r\nX-Class: e"),
        ];
        for (removed, expected) in cases {
            for piece in 1..=input.len() {
                let start = b"T: x\r\n".to_vec();
                let mut reader = DataReader::new(Framing::Chunks, LIMITS, start);
                reader.heed(Rc::new(fields(removed)));
                push(&mut reader, input, piece);
                let taken = reader.finish().unwrap();
                assert_eq!(taken.flow.each_ref().map(|it| &**it), ["a b", "t", ""]);
                assert_eq!(taken.body[6..], *expected, "by {piece}");
            }
        }
        let taken = read(Framing::Chunks, input, 9).1.unwrap();
        assert_eq!(
            (&taken.body[6..], taken.flow),
            (&input[..], Default::default())
        );
    }

    #[test]
    fn limits_refuse_at_the_end_and_hold_no_more_memory() {
        let line = |length: usize| format!("{}\r\n", "x".repeat(length));
        let field = |length: usize| format!("x: {}\r\n", "y".repeat(length - 5));
        let cases = [
            (line(50), None),
            (line(51), Some(Refusal::Line)),
            (line(48).repeat(4), None),
            (line(48).repeat(4) + "\r\n", Some(Refusal::Message)),
            (field(50).repeat(2), None),
            (field(50).repeat(2) + "a: b\r\n", Some(Refusal::Header)),
            (field(50).repeat(2) + "\r\nbody\r\n", None),
            ("Received: x\r\n".repeat(2), None),
            ("Received: x\r\n".repeat(3), Some(Refusal::Hops)),
            ("Received: x\r\n".repeat(2) + "\r\nReceived: x\r\n", None),
        ];
        for (input, refusal) in cases {
            for piece in [1, 7, input.len()] {
                let (status, taken) = read(Framing::Chunks, input.as_bytes(), piece);
                assert_eq!(status, Status::More);
                assert_eq!(taken.err(), refusal, "{input} by {piece}");
            }
        }
    }

    /// Blocks are passed over only where that changes nothing: long content with every kind of
    /// trouble at every place around the edges of a block, whole and cut.
    #[test]
    fn blocks_passed_over_at_once_are_read_like_single_bytes() {
        let limits = DataLimits {
            message_bytes_max: 5_000,
            line_bytes_max: 90,
            ..LIMITS
        };
        let troubles: [&[u8]; 10] = [
            b"",
            b"\r\n.",
            b"\r\n..",
            b"\r\n.\r\n",
            b"\r",
            b"\n",
            b"\r\r\n",
            b"\xff\0",
            b"\r\n\r\n",
            &[b'z'; 91],
        ];
        for line in [1_usize, 7, 76, 88] {
            let near = |edge: usize| edge - 6..edge + 6;
            for place in near(PIECE_BYTES).chain(near(BLOCK_BYTES)) {
                for trouble in troubles {
                    let mut input = b"\r\n".to_vec();
                    let row = [vec![b'x'; line], b"\r\n".to_vec()].concat();
                    while input.len() < 4 * BLOCK_BYTES {
                        input.extend_from_slice(&row);
                    }
                    let at = place.min(input.len());
                    input.splice(at..at, trouble.iter().copied());
                    for framing in [Framing::Dots, Framing::Chunks] {
                        let read = |piece: usize| {
                            let mut reader = DataReader::new(framing, limits, Vec::new());
                            let pushed = push(&mut reader, &input, piece);
                            let is_whole = pushed.1 != Status::BareLineEnd;
                            (pushed, is_whole.then(|| reader.finish()))
                        };
                        let one_by_one = read(1);
                        for piece in [input.len(), 1_000, 600, BLOCK_BYTES, 100, PIECE_BYTES] {
                            let given = read(piece);
                            assert!(given == one_by_one, "{line} {place} {piece} {trouble:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_flood_is_given_up_and_never_kept() {
        for line in ["x\r\n", "x: y\r\n", "x"] {
            let mut reader = DataReader::new(Framing::Dots, LIMITS, Vec::new());
            let block = line.repeat(1_000);
            let mut blocks = 0;
            while reader.push(block.as_bytes()).1 == Status::More {
                assert!(reader.held_bytes() <= 4_096);
                blocks += 1;
                assert!(blocks < 1_000, "given up in time");
            }
        }
    }

    #[test]
    fn the_reason_of_a_refusal_does_not_depend_on_the_cut() {
        let long = format!("{}\r\n", "x".repeat(60));
        let short = "x\r\n".repeat(70);
        for input in [
            [long.as_str(), &short].concat(),
            [short.as_str(), &long].concat(),
        ] {
            for piece in [1, 50, input.len()] {
                let (_, taken) = read(Framing::Chunks, input.as_bytes(), piece);
                assert_eq!(taken, Err(Refusal::Message), "by {piece}");
            }
        }
    }

    #[test]
    fn the_length_of_a_line_is_exact_wherever_a_block_cuts_it() {
        for length in 1..=300 {
            let row = [vec![b'x'; length], b"\r\n".to_vec()].concat();
            let mut input = b"\r\n".to_vec();
            while input.len() < 8 * BLOCK_BYTES {
                input.extend_from_slice(&row);
            }
            for (line_bytes_max, is_refused) in [(length, false), (length - 1, true)] {
                let line_bytes_max = line_bytes_max as u64;
                let limits = DataLimits {
                    line_bytes_max,
                    message_bytes_max: 10_000,
                    ..LIMITS
                };
                let mut reader = DataReader::new(Framing::Dots, limits, Vec::new());
                reader.push(&input);
                let refusal = is_refused.then_some(Refusal::Line);
                assert_eq!(
                    reader.finish().err(),
                    refusal,
                    "{length} of {line_bytes_max}"
                );
            }
        }
    }

    /// Whatever is taken at once must be read like single bytes: random content from what matters,
    /// whole and cut.
    #[test]
    fn content_is_read_alike_however_it_is_cut() {
        let long = b"y".repeat(700);
        let tokens: [&[u8]; 22] = [
            b"\r\n",
            b"\r\n",
            b"\r\n",
            b"\r\n",
            b"\r\n.",
            b"\r\n..",
            b"\r\n.\r\n",
            b"\r",
            b"\n",
            b".",
            b" fold",
            b"\t",
            b"Subject: a",
            b"subject : b",
            b"From: <x@y>",
            b"Received: z",
            b"X:",
            b":",
            b"no field",
            b"\xff\0",
            &long[..60],
            &long,
        ];
        let mut prng = Prng::stream(1, "content");
        let (mut ends, mut refusals) = (0, 0);
        for round in 0..20_000 {
            let mut input = Vec::new();
            for _ in 0..prng.below(30) {
                input.extend_from_slice(prng.pick::<&[u8]>(&tokens));
                // Most lines end as they should, or little would be read.
                if prng.chance(2, 3) {
                    input.extend_from_slice(b"\r\n");
                }
            }
            let limits = DataLimits {
                message_bytes_max: *prng.pick(&[300, 100_000]),
                header_bytes_max: *prng.pick(&[40, 2_000]),
                line_bytes_max: *prng.pick(&[60, 900]),
                received_fields_max: 2,
            };
            let framing = *prng.pick(&[Framing::Dots, Framing::Chunks]);
            let read = |piece: usize| {
                let mut reader = DataReader::new(framing, limits, b"T: x\r\n".to_vec());
                let pushed = push(&mut reader, &input, piece);
                let is_whole = pushed.1 != Status::BareLineEnd;
                (pushed, is_whole.then(|| reader.finish()))
            };
            let one_by_one = read(1);
            ends += u32::from(one_by_one.0.1 == Status::End);
            refusals += u32::from(matches!(one_by_one.1, Some(Err(_))));
            for piece in [input.len().max(1), 1 + prng.below(700) as usize] {
                let given = read(piece);
                assert!(
                    given == one_by_one,
                    "{round} {framing:?} by {piece}: {} gives {given:?}, not {one_by_one:?}",
                    input.escape_ascii()
                );
            }
        }
        assert!(ends > 500 && refusals > 500, "{ends} {refusals}");
    }

    #[test]
    fn eight_bit_content_is_seen() {
        assert!(
            read(Framing::Chunks, b"a: \xff\r\n", 3)
                .1
                .unwrap()
                .eight_bit
        );
        assert!(
            read(Framing::Chunks, b"a: b\r\n\r\n\x80", 1)
                .1
                .unwrap()
                .eight_bit
        );
    }
}
