//! The capture file of a sink: one JSON object a line for every message that was received whole.
//! A record is handed to the kernel before the final reply is sent, so that whoever was told `250`
//! finds the message in the file even if the sink is killed in the next moment.

use core::net::SocketAddr;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde::Deserialize;

use crate::rig::base64;
use crate::rig::runtime;
use crate::rig::runtime::RigError;

/// A captured message on its way into the file.
pub(super) struct Captured<'a> {
    /// Microseconds since 1970.
    pub received_us: u64,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub helo: &'a [u8],
    pub mail_from: &'a [u8],
    pub recipients: &'a [u8],
    pub recipient_ends: &'a [usize],
    pub final_reply: bool,
    pub body: &'a [u8],
}

/// A line of a capture file, as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Record {
    /// Microseconds since 1970 at which the end of the message was seen.
    pub received_us: u64,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub helo: String,
    pub mail_from: String,
    /// Recipients that were accepted.
    pub rcpts: Vec<String>,
    /// Whether the message was answered; false if it was dropped after the dot on purpose.
    pub final_reply: bool,
    /// Bytes of the message.
    pub size: u64,
    /// The message in base64, without the dots of transparency.
    pub body: String,
}

/// Appends the line of one message to `out`.
pub(super) fn append(captured: &Captured<'_>, out: &mut Vec<u8>) {
    let head = serde_json::json!({
        "received_us": captured.received_us,
        "peer": captured.peer,
        "local": captured.local,
        "helo": String::from_utf8_lossy(captured.helo),
        "mail_from": String::from_utf8_lossy(captured.mail_from),
        "rcpts": recipients(captured),
        "final_reply": captured.final_reply,
        "size": captured.body.len(),
    });
    let head = head.to_string();
    // The body goes in as it is encoded: no JSON writer needs to look at megabytes of base64.
    out.extend_from_slice(head.strip_suffix('}').unwrap_or(&head).as_bytes());
    out.extend_from_slice(b",\"body\":\"");
    base64::encode_into(captured.body, out);
    out.extend_from_slice(b"\"}\n");
}

fn recipients(captured: &Captured<'_>) -> Vec<String> {
    let mut start = 0;
    let mut list = Vec::with_capacity(captured.recipient_ends.len());
    for end in captured.recipient_ends {
        list.push(String::from_utf8_lossy(&captured.recipients[start..*end]).into_owned());
        start = *end;
    }
    list
}

/// The open file. Executors take turns, so lines never mix.
#[derive(Debug)]
pub(super) struct CaptureFile {
    file: Mutex<File>,
}

impl CaptureFile {
    /// Opens for appending: the record of a run that was cut short is not lost to the next.
    pub(super) fn open(path: &Path) -> Result<CaptureFile, RigError> {
        Ok(CaptureFile {
            file: Mutex::new(runtime::open_lines(path)?),
        })
    }

    /// Hands whole lines to the kernel.
    pub(super) fn write(&self, lines: &[u8]) -> io::Result<()> {
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let captured = Captured {
            received_us: 7,
            peer: "127.0.0.1:4000".parse().expect("an address"),
            local: "127.0.0.1:25".parse().expect("an address"),
            helo: b"h\"\\\xff",
            mail_from: b"",
            recipients: b"a@x.exampleb@y.example",
            recipient_ends: &[11, 22],
            final_reply: false,
            body: b"Subject: \xff\r\n\r\n.\r\n",
        };
        let mut line = Vec::new();
        append(&captured, &mut line);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let record: Record = serde_json::from_slice(&line).expect("a line is one JSON object");
        assert_eq!(record.rcpts, ["a@x.example", "b@y.example"]);
        assert_eq!(
            (record.received_us, record.size, record.final_reply),
            (7, 17, false)
        );
        assert_eq!(
            base64::decode(record.body.as_bytes()).as_deref(),
            Some(captured.body)
        );
    }
}
