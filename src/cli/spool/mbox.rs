//! Mbox in its reversible dialect (mboxrd): messages one after the other, each after a line
//! `From sender date`; a line of the message that begins with `From `, quoted or not, gets one `>`
//! more. Lines end in LF.

use std::io;
use std::io::BufRead;
use std::io::Write;

use crate::base::time::Wall;
use crate::types::message::Content;

/// Bytes of one message in an mbox; no segment holds a larger one.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// How the null reverse-path is written.
const NULL_SENDER: &str = "MAILER-DAEMON";

/// How a sender is written who cannot stand in that line, and is in a Return-Path field instead.
const ELSEWHERE: &str = "-";

/// The field that names a recipient of the envelope.
pub const RECIPIENT_FIELD: &str = "X-Original-To";

pub fn write(out: &mut dyn Write, content: &Content, recipients: &[&str]) -> io::Result<()> {
    let date = ctime(content.received);
    match &content.sender {
        None => writeln!(out, "From {NULL_SENDER} {date}")?,
        // A blank in a quoted local part would end the address.
        Some(sender) if sender.as_str().contains(' ') => {
            writeln!(out, "From {ELSEWHERE} {date}\nReturn-Path: <{sender}>")?;
        }
        Some(sender) => writeln!(out, "From {sender} {date}")?,
    }
    for recipient in recipients {
        writeln!(out, "{RECIPIENT_FIELD}: {recipient}")?;
    }
    for line in content.body.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if unquoted(text).starts_with(b"From ") {
            out.write_all(b">")?;
        }
        out.write_all(text)?;
        out.write_all(b"\n")?;
    }
    out.write_all(b"\n")
}

fn unquoted(line: &[u8]) -> &[u8] {
    let quotes = line.iter().take_while(|byte| **byte == b'>').count();
    &line[quotes..]
}

/// `Thu Jan  1 00:00:00 1970`, UTC.
fn ctime(at: Wall) -> String {
    let mut text = Vec::new();
    // `Thu, 1 Jan 1970 00:00:00 +0000`
    at.push_rfc5322(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let words: Vec<&str> = text.split([' ', ',']).filter(|it| !it.is_empty()).collect();
    match words[..] {
        [weekday, day, month, year, clock, ..] => {
            format!("{weekday} {month} {day:>2} {clock} {year}")
        }
        _ => text,
    }
}

/// Whom a `From ` line names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sender {
    Address(String),
    Null,
    /// Something that is no address.
    Unknown,
}

/// A message of an mbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where its `From ` line stands, from 1.
    pub line: u64,
    pub sender: Sender,
    /// With CRLF line ends.
    pub body: Vec<u8>,
}

/// Reads an mbox message by message.
pub struct Entries<R> {
    input: R,
    line: u64,
    /// The `From ` line that was read last.
    next: Option<(u64, Sender)>,
    begun: bool,
}

impl<R: BufRead> Entries<R> {
    pub fn new(input: R) -> Entries<R> {
        let (line, next, begun) = (0, None, false);
        Entries {
            input,
            line,
            next,
            begun,
        }
    }

    /// The error is a sentence about the line that it names.
    pub fn next(&mut self) -> Result<Option<Entry>, String> {
        let mut bytes = Vec::new();
        if !self.begun {
            self.begun = true;
            if !self.read_line(&mut bytes)? {
                return Ok(None);
            }
            let Some(sender) = separator(&bytes) else {
                return Err(
                    "line 1: expected \"From sender date\", with which an mbox begins".into(),
                );
            };
            self.next = Some((1, sender));
        }
        let Some((line, sender)) = self.next.take() else {
            return Ok(None);
        };
        let mut body = Vec::new();
        let mut blank = false;
        while self.read_line(&mut bytes)? {
            if blank && let Some(sender) = separator(&bytes) {
                self.next = Some((self.line, sender));
                break;
            }
            // The blank line before a separator belongs to that.
            if blank {
                body.extend_from_slice(b"\r\n");
            }
            blank = bytes.is_empty();
            if !blank {
                let quoted = bytes.first() == Some(&b'>') && unquoted(&bytes).starts_with(b"From ");
                body.extend_from_slice(&bytes[usize::from(quoted)..]);
                body.extend_from_slice(b"\r\n");
            }
            if body.len() > MESSAGE_BYTES_MAX {
                return Err(format!(
                    "line {line}: the message is too large for any spool"
                ));
            }
        }
        Ok(Some(Entry { line, sender, body }))
    }

    /// The next line without its end; false at the end of the input.
    fn read_line(&mut self, line: &mut Vec<u8>) -> Result<bool, String> {
        line.clear();
        let mut input = io::Read::take(&mut self.input, MESSAGE_BYTES_MAX as u64);
        let read = input.read_until(b'\n', line);
        self.line += 1;
        match read {
            Ok(0) => Ok(false),
            Ok(_) => {
                for end in [b'\n', b'\r'] {
                    if line.last() == Some(&end) {
                        line.pop();
                    }
                }
                Ok(true)
            }
            Err(error) => Err(format!("line {}: {error}", self.line)),
        }
    }
}

/// Whom a `From ` line names; nothing if it is no such line.
fn separator(line: &[u8]) -> Option<Sender> {
    let rest = line.strip_prefix(b"From ")?;
    let text = String::from_utf8_lossy(rest);
    let word = text.split_whitespace().next().unwrap_or_default();
    let address = word.trim_start_matches('<').trim_end_matches('>');
    Some(match word {
        NULL_SENDER | "<>" => Sender::Null,
        _ if address.contains('@') => Sender::Address(address.to_owned()),
        _ => Sender::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Entry>, String> {
        let mut entries = Entries::new(text.as_bytes());
        let mut all = Vec::new();
        while let Some(entry) = entries.next()? {
            all.push(entry);
        }
        Ok(all)
    }

    #[test]
    fn messages_end_where_the_next_one_begins_and_quotes_come_off_once() {
        let text = "From a@b Thu Jan  1 00:00:00 1970\nSubject: x\n\n>From me\n>>From you\n\n\n\
                    From MAILER-DAEMON x\r\nA: b\r\n\r\nsaid From here on\r\n\n\nFrom nobody\n";
        let all = read(text).unwrap();
        let bodies: Vec<&str> = all
            .iter()
            .map(|it| core::str::from_utf8(&it.body).unwrap())
            .collect();
        assert_eq!(bodies[0], "Subject: x\r\n\r\nFrom me\r\n>From you\r\n\r\n");
        assert_eq!(all[0].sender, Sender::Address("a@b".into()));
        assert_eq!((all[1].line, &all[1].sender), (8, &Sender::Null));
        assert_eq!(all.len(), 3);
        assert_eq!(all[2].sender, Sender::Unknown);
    }

    #[test]
    fn what_is_no_mbox_is_said_with_its_line() {
        assert!(read("Subject: x\n").unwrap_err().starts_with("line 1: "));
        assert_eq!(read(""), Ok(Vec::new()));
        assert_eq!(read("From a@b\n").unwrap()[0].body, b"");
    }

    #[test]
    fn a_date_is_as_others_write_it() {
        assert_eq!(ctime(Wall(0)), "Thu Jan  1 00:00:00 1970");
    }
}
