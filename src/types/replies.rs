//! The catalogue of everything Pelton says to a client: no reply is written where it is decided.
//! A decision names a constant from here; the session writes it. Every refusal has an enhanced
//! status code (RFC 3463, RFC 5248).

use crate::base::text::push_number;
use crate::types::id::BatchId;
use crate::types::reply::Enhanced;
use crate::types::reply::Reply;

/// One fixed reply of one line: code, enhanced status code where the reply has one, text. Taken
/// apart when Pelton is compiled, so that writing it is one copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Canned {
    pub code: u16,
    pub enhanced: Option<Enhanced>,
    pub text: &'static str,
    line: &'static str,
}

/// The longest line that RFC 5321 4.5.3.1.5 lets a reply have, without its line end.
const REPLY_LINE_BYTES_MAX: usize = 510;

impl Canned {
    /// From a line such as `250 2.0.0 OK`. Does not compile in a constant if the line is no reply.
    pub const fn new(line: &'static str) -> Canned {
        let bytes = line.as_bytes();
        assert!(
            bytes.len() > 4 && bytes.len() <= REPLY_LINE_BYTES_MAX,
            "the length of a reply"
        );
        assert!(bytes[3] == b' ', "three digits, a blank, a text");
        let code = digit(bytes[0]) * 100 + digit(bytes[1]) * 10 + digit(bytes[2]);
        assert!(code >= 200 && code < 600, "a code that servers send");
        let mut at = 4;
        while at < bytes.len() {
            assert!(bytes[at] >= b' ' && bytes[at] < 127, "printable ASCII");
            at += 1;
        }
        if bytes.len() < 10 || bytes[5] != b'.' || bytes[7] != b'.' || bytes[9] != b' ' {
            assert!(code < 400, "a refusal has an enhanced status code");
            let (_, text) = line.split_at(4);
            return Canned {
                code,
                enhanced: None,
                text,
                line,
            };
        }
        assert!(bytes[4] == bytes[0], "the class of both codes is the same");
        let enhanced = Enhanced(bytes[4] - b'0', digit(bytes[6]), digit(bytes[8]));
        let (_, text) = line.split_at(10);
        Canned {
            code,
            enhanced: Some(enhanced),
            text,
            line,
        }
    }

    /// Appends the reply as one whole line.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// 4xx or 5xx.
    pub fn is_refusal(&self) -> bool {
        self.code >= 400
    }

    /// RFC 5321 3.8: 421 says that the server closes the channel, at whatever stage.
    pub fn closes(&self) -> bool {
        self.code == 421
    }

    /// As the event log and the journal keep it.
    pub fn to_reply(self) -> Reply {
        let enhanced = self
            .enhanced
            .unwrap_or(Enhanced((self.code / 100) as u8, 0, 0));
        Reply::internal(self.code, enhanced, self.text)
    }
}

const fn digit(byte: u8) -> u16 {
    assert!(byte.is_ascii_digit(), "a digit of a code");
    (byte - b'0') as u16
}

// Going well.
pub const SENDER_OK: Canned = Canned::new("250 2.1.0 Sender OK");
pub const RECIPIENT_OK: Canned = Canned::new("250 2.1.5 Recipient OK");
pub const OK: Canned = Canned::new("250 2.0.0 OK");
pub const CHUNK_OK: Canned = Canned::new("250 2.0.0 Chunk OK");
pub const DATA_GO: Canned = Canned::new("354 Send the message, end it with a dot on its own line");
pub const BYE: Canned = Canned::new("221 2.0.0 Bye");
pub const HELP: Canned =
    Canned::new("214 2.0.0 EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT, as in RFC 5321");
pub const VRFY: Canned = Canned::new("252 2.0.0 Not verified here; send mail and see");

// Commands that are wrong in themselves.
pub const COMMAND_UNKNOWN: Canned = Canned::new("500 5.5.1 Command not recognised");
pub const COMMAND_NOT_OFFERED: Canned = Canned::new("502 5.5.1 Command not offered here");
pub const COMMAND_SYNTAX: Canned = Canned::new("500 5.5.2 Syntax error");
pub const COMMAND_NUL: Canned = Canned::new("500 5.5.2 NUL in a command");
pub const COMMAND_EIGHT_BIT: Canned = Canned::new("500 5.5.2 8-bit character in a command");
pub const COMMAND_TOO_LONG: Canned = Canned::new("500 5.5.2 Command line too long");
pub const ARGUMENT_SYNTAX: Canned = Canned::new("501 5.5.4 Syntax error in the argument");
pub const ARGUMENT_UNWANTED: Canned = Canned::new("501 5.5.4 This command takes no argument");
pub const HELO_SYNTAX: Canned =
    Canned::new("501 5.5.4 The argument must be a domain name or an address literal");
pub const SENDER_SYNTAX: Canned = Canned::new("501 5.1.7 Bad sender address syntax");
pub const RECIPIENT_SYNTAX: Canned = Canned::new("501 5.1.3 Bad recipient address syntax");
pub const SENDER_ROUTE: Canned = Canned::new("553 5.1.7 Source routes are not accepted");
pub const RECIPIENT_ROUTE: Canned = Canned::new("553 5.1.3 Source routes are not accepted");
pub const ADDRESS_NOT_ASCII: Canned = Canned::new("553 5.6.7 Non-ASCII address without SMTPUTF8");
pub const PARAMETER_UNKNOWN: Canned = Canned::new("555 5.5.4 Parameter not recognised");
pub const PARAMETER_SYNTAX: Canned = Canned::new("501 5.5.4 Bad value of a parameter");
pub const PARAMETER_REPEATED: Canned = Canned::new("501 5.5.4 Parameter given twice");
pub const BARE_LINE_END: Canned = Canned::new("550 5.5.2 Bare CR or LF, lines end in CR LF");
pub const NOT_HTTP: Canned = Canned::new("554 5.5.1 This is a mail server");

// Commands out of sequence.
pub const HELO_FIRST: Canned = Canned::new("503 5.5.1 Send EHLO or HELO first");
pub const MAIL_FIRST: Canned = Canned::new("503 5.5.1 Send MAIL first");
pub const MAIL_NESTED: Canned = Canned::new("503 5.5.1 Sender already given");
pub const RCPT_FIRST: Canned = Canned::new("503 5.5.1 Send RCPT first");
pub const RCPT_NONE_VALID: Canned = Canned::new("554 5.5.1 No valid recipients");
pub const BDAT_BEGUN: Canned = Canned::new("503 5.5.1 BDAT has begun, go on with BDAT or RSET");

// Limits of a message.
pub const MESSAGE_TOO_BIG: Canned = Canned::new("552 5.3.4 Message too big");
pub const HEADER_TOO_BIG: Canned = Canned::new("552 5.3.4 Header section too big");
pub const LINE_TOO_LONG: Canned = Canned::new("554 5.6.0 Line too long in the message");
pub const TOO_MANY_HOPS: Canned = Canned::new("554 5.4.6 Too many hops, this may be a mail loop");
pub const TOO_MANY_RECIPIENTS: Canned = Canned::new("452 4.5.3 Too many recipients");

// Limits of a connection.
pub const TOO_MANY_ERRORS: Canned = Canned::new("421 4.7.0 Too many errors");
pub const TOO_MANY_IDLE_COMMANDS: Canned =
    Canned::new("421 4.7.0 Too many commands without a message");
pub const TOO_MANY_RECEPTIONS: Canned =
    Canned::new("421 4.7.0 Too many messages on this connection, open another");
pub const TOO_MANY_RECIPIENTS_HERE: Canned =
    Canned::new("421 4.7.0 Too many recipients on this connection, open another");
pub const TIMEOUT: Canned = Canned::new("421 4.4.2 Timeout, closing the connection");
pub const TOO_SLOW: Canned = Canned::new("421 4.4.2 Data too slow, closing the connection");
pub const SHUTTING_DOWN: Canned = Canned::new("421 4.3.2 Shutting down, try again later");

// Admission and back-pressure: none of these is the client's fault.
/// Inbound concurrency, in the words of Momentum (`server_max_inbound`, per-peer limits).
pub const CONCURRENCY: Canned =
    Canned::new("421 4.4.5 Service unavailable, concurrency limit reached.");
/// Memory over `memory_hwm`, in the words of Momentum; closes the connection.
pub const CONNECTION_RATE: Canned =
    Canned::new("421 4.4.5 Service unavailable, connection rate limit reached.");
pub const MESSAGE_RATE: Canned =
    Canned::new("451 4.4.5 Service unavailable, message rate limit reached.");
pub const RECIPIENT_RATE: Canned =
    Canned::new("451 4.4.5 Service unavailable, recipient rate limit reached.");
pub const SLOWED: Canned =
    Canned::new("451 4.3.2 More mail waits for its turn than can be, try again later");
pub const MEMORY_CLOSE: Canned = Canned::new("421 4.3.4 allocated resources exceeded");
pub const MEMORY: Canned = Canned::new("452 4.3.0 Not enough memory now, try again later");
pub const DISK: Canned = Canned::new("452 4.3.1 Not enough storage now, try again later");
pub const SPOOL_FAILED: Canned = Canned::new("451 4.3.0 Could not store the message, try again");
/// `default_binding = none`: policy named no binding and none stands in.
pub const SPOOL_BUSY: Canned =
    Canned::new("451 4.3.2 More mail waits to be stored than can be, try again");
pub const SPOOL_STOPPED: Canned =
    Canned::new("421 4.3.2 Mail cannot be stored now, try again later");
pub const BLACKHOLED: Canned = Canned::new("551 5.7.1 recipient blackholed");
pub const NO_BINDING: Canned = Canned::new("451 4.3.5 No binding for this message");

// Policy.
pub const RELAY_DENIED: Canned = Canned::new("550 5.7.1 Relaying denied");
pub const RELAY_FORM: Canned =
    Canned::new("550 5.7.1 This form of local part is not accepted from you");
pub const CONNECT_DENIED: Canned = Canned::new("554 5.7.1 Access denied");

/// The banner; `host` is the name that the listener goes by.
pub fn write_banner(out: &mut Vec<u8>, host: &str) {
    for part in ["220 ", host, " ESMTP Pelton\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The answer to HELO.
pub fn write_helo(out: &mut Vec<u8>, host: &str) {
    for part in ["250 ", host, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The answer to EHLO. What is announced is what works: no DSN, STARTTLS or AUTH yet.
pub fn write_ehlo(out: &mut Vec<u8>, host: &str, message_bytes_max: u64) {
    for part in ["250-", host, "\r\n250-PIPELINING\r\n250-SIZE "] {
        out.extend_from_slice(part.as_bytes());
    }
    push_number(out, message_bytes_max);
    out.extend_from_slice(
        b"\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n\
          250 HELP\r\n",
    );
}

/// The answer that takes responsibility for a message (RFC 5321 6.1). Whoever calls this holds the
/// proof that the message is durable.
pub fn write_accepted(out: &mut Vec<u8>, batch: BatchId) {
    out.extend_from_slice(b"250 2.0.0 OK ");
    out.extend_from_slice(&batch.text());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(canned: &Canned) -> String {
        let mut out = Vec::new();
        canned.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_reply_is_taken_apart_and_written_as_it_stands() {
        assert_eq!(RELAY_DENIED.code, 550);
        assert_eq!(RELAY_DENIED.enhanced, Some(Enhanced(5, 7, 1)));
        assert_eq!(RELAY_DENIED.text, "Relaying denied");
        assert_eq!(written(&RELAY_DENIED), "550 5.7.1 Relaying denied\r\n");
        assert_eq!(DATA_GO.enhanced, None);
        assert!(DATA_GO.text.starts_with("Send"));
        let reply = DISK.to_reply();
        assert_eq!((reply.code, reply.enhanced), (452, Some(Enhanced(4, 3, 1))));
    }

    #[test]
    fn only_421_closes_and_only_4_and_5_refuse() {
        for (canned, closes, refuses) in [
            (&OK, false, false),
            (&DISK, false, true),
            (&TIMEOUT, true, true),
        ] {
            assert_eq!(canned.closes(), closes, "{canned:?}");
            assert_eq!(canned.is_refusal(), refuses, "{canned:?}");
        }
    }

    #[test]
    fn what_takes_an_argument_is_whole_lines() {
        let mut out = Vec::new();
        write_banner(&mut out, "mx.example");
        write_helo(&mut out, "mx.example");
        write_ehlo(&mut out, "mx.example", 1_000);
        write_accepted(&mut out, BatchId(1));
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.ends_with("250 HELP\r\n250 2.0.0 OK 0000000000001\r\n"),
            "{text}"
        );
        assert!(text.contains("250-SIZE 1000\r\n"));
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
        assert_eq!(text.lines().count(), 11);
    }
}
