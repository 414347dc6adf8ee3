//! What was said on a connection, for whoever asks why: the greeting, and the transactions that
//! run. Bounded; the oldest lines of the transactions go first. Bodies are told by their size.

use crate::base::units::grouped;

/// Bytes kept of the greeting and of the transactions, each.
pub const TRANSCRIPT_BYTES_MAX: usize = 8 * 1_024;

/// Bytes kept of one line.
const LINE_BYTES_MAX: usize = 512;

#[derive(Default)]
pub struct Transcript {
    greeting: Vec<u8>,
    transactions: Vec<u8>,
    greeted: bool,
    /// Lines went missing before the first one of `transactions`.
    cut: bool,
}

impl Transcript {
    /// Notes commands, one or several lines as they go out.
    pub fn commands(&mut self, lines: &[u8]) {
        for line in lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            self.line(b"> ", &[], line);
        }
    }

    /// Notes a reply: its code and the texts of its lines.
    pub fn reply(&mut self, code: u16, text: &[u8]) {
        let digits = [code / 100 % 10, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8);
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut lines = text.split(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            let between = if lines.peek().is_some() { b'-' } else { b' ' };
            self.line(b"< ", &[digits[0], digits[1], digits[2], between], line);
        }
    }

    pub fn body(&mut self, bytes: usize) {
        let text = format!("({} bytes)", grouped(bytes as u64));
        self.line(b"> ", &[], text.as_bytes());
    }

    /// Notes what happened besides commands and replies.
    pub fn note(&mut self, text: &str) {
        self.line(b"* ", &[], text.as_bytes());
    }

    /// The greeting is over; from here on transactions are told.
    pub fn greeted(&mut self) {
        self.greeted = true;
    }

    /// Forgets the transactions so far.
    pub fn clear(&mut self) {
        self.transactions.clear();
        self.cut = false;
    }

    /// As text: `> ` what was sent, `< ` what was answered, `* ` what happened.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let gap: &[u8] = if self.cut {
            b"* (earlier lines are not kept)\n"
        } else {
            b""
        };
        for part in [self.greeting.as_slice(), gap, self.transactions.as_slice()] {
            for line in String::from_utf8_lossy(part).lines() {
                text.extend(line.chars().filter(|c| !c.is_control()));
                text.push('\n');
            }
        }
        text
    }

    fn line(&mut self, mark: &[u8], code: &[u8], line: &[u8]) {
        let room = TRANSCRIPT_BYTES_MAX - LINE_BYTES_MAX;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let kept = &line[..line.len().min(LINE_BYTES_MAX - mark.len() - code.len() - 4)];
        let out = if self.greeted {
            if self.transactions.len() > room {
                let half = self.transactions.len() / 2;
                let end = self.transactions[half..]
                    .iter()
                    .position(|byte| *byte == b'\n');
                self.transactions
                    .drain(..end.map_or(half, |end| half + end + 1));
                self.cut = true;
            }
            &mut self.transactions
        } else {
            if self.greeting.len() > room {
                return;
            }
            &mut self.greeting
        };
        out.extend_from_slice(mark);
        out.extend_from_slice(code);
        out.extend_from_slice(kept);
        out.extend_from_slice(if kept.len() < line.len() {
            b"...\n"
        } else {
            b"\n"
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_reads_like_the_conversation_and_stays_bounded() {
        let mut transcript = Transcript::default();
        transcript.reply(220, b"hi\n");
        transcript.commands(b"EHLO a\r\n");
        transcript.greeted();
        transcript.commands(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
        transcript.body(10_240);
        transcript.reply(550, b"5.1.1 no\nsuch \x1buser\n");
        let text = "< 220 hi\n> EHLO a\n> MAIL FROM:<a@b>\n> RCPT TO:<c@d>\n> (10,240 bytes)\n\
            < 550-5.1.1 no\n< 550 such user\n";
        assert_eq!(transcript.text(), text);
        for number in 0..10_000 {
            transcript.commands(format!("RCPT TO:<{number}@{}>\r\n", "x".repeat(600)).as_bytes());
            assert!(transcript.transactions.len() <= TRANSCRIPT_BYTES_MAX);
        }
        assert!(transcript.text().contains("9999@"));
        assert!(transcript.text().contains("not kept"));
        transcript.clear();
        assert_eq!(transcript.text(), "< 220 hi\n> EHLO a\n");
    }
}
