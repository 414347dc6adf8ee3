//! The sending side of a session: what goes out for a job, and when.

use bytes::Bytes;

use crate::base::text::push_number;
use crate::base::time::Now;
use crate::deliver::session::COPIED_BODY_BYTES_MAX;
use crate::deliver::session::EightBit;
use crate::deliver::session::Event;
use crate::deliver::session::Expect;
use crate::deliver::session::Job;
use crate::deliver::session::Session;
use crate::deliver::session::Standing;
use crate::deliver::session::Transaction;
use crate::proto::smtp::downgrade;
use crate::proto::smtp::reply::SizeLimit;
use crate::proto::smtp::stuff;
use crate::types::message::Content;
use crate::types::outcome::Stage;
use crate::types::reply::Enhanced;
use crate::types::reply::Reply;

impl Session {
    /// Puts a job on the wire, or answers it at once.
    pub(super) fn begin(&mut self, now: Now, job: Job, events: &mut Vec<Event>) {
        let body = match self.fitting_body(&job) {
            Ok(body) => body,
            Err(reply) => {
                for (token, _) in &job.recipients {
                    let (job, token, stage) = (job.id, *token, Stage::Internal);
                    events.push(Event::Recipient {
                        job,
                        token,
                        stage,
                        reply: reply.clone(),
                    });
                }
                events.push(Event::Done { job: job.id });
                return;
            }
        };
        if self.due.is_empty() {
            self.since = now.mono;
        }
        if self.open.is_empty() && !self.settings.keep_transcript {
            self.transcript.clear();
        }
        let behind_chunk = self.open.back().is_some_and(|last| last.chunked);
        let begins = self.output.next_mark();
        let chunked = self.settings.use_chunking && self.capabilities.chunking;
        let standing = vec![Standing::Waiting; job.recipients.len()];
        self.counts.started += 1;
        let recipients = job.recipients.len() as u32;
        self.counts.recipients = self.counts.recipients.saturating_add(recipients);
        let (refused, void, ends) = (false, false, None);
        self.open.push_back(Transaction {
            job,
            body,
            standing,
            begins,
            ends,
            chunked,
            refused,
            void,
        });
        // Should the BDAT before fail, the state of the host is undefined (RFC 3030 3): without
        // RSET it might take these recipients into the transaction before.
        if self.dirty || behind_chunk {
            self.command(Expect::Reset, |out| out.extend_from_slice(b"RSET\r\n"));
            if !self.is_pipelining() {
                return;
            }
        }
        self.envelope();
    }

    /// Sends the envelope of the last job: as much of it as may go before the next reply.
    pub(super) fn envelope(&mut self) {
        let Some(last) = self.open.back() else {
            return;
        };
        let recipients = last.standing.len();
        let (chunked, small) = (last.chunked, last.body.len() <= COPIED_BODY_BYTES_MAX);
        self.mail();
        if !self.is_pipelining() {
            return;
        }
        for at in 0..recipients {
            self.rcpt(at);
        }
        match (chunked, small) {
            (true, true) => self.chunk(),
            // Too much to send for nobody: the replies to RCPT are awaited.
            (true, false) => {}
            (false, _) => self.data(),
        }
    }

    fn mail(&mut self) {
        let Some(last) = self.open.back() else {
            return;
        };
        let content = last.job.content.clone();
        let bytes = last.body.len();
        let capabilities = self.capabilities;
        let utf8 = capabilities.smtputf8 && needs_smtputf8(&last.job);
        // A converted body is 7 bit; one sent as it is to a host without 8BITMIME has no name.
        let eight_bit = content.eight_bit && capabilities.eight_bit_mime;
        self.command(Expect::Mail, |out| {
            out.extend_from_slice(b"MAIL FROM:<");
            out.extend_from_slice(
                content
                    .sender
                    .as_ref()
                    .map_or("", |a| a.as_str())
                    .as_bytes(),
            );
            out.push(b'>');
            if capabilities.size.is_some() {
                out.extend_from_slice(b" SIZE=");
                push_number(out, bytes as u64);
            }
            if eight_bit {
                out.extend_from_slice(b" BODY=8BITMIME");
            }
            if utf8 {
                out.extend_from_slice(b" SMTPUTF8");
            }
            out.extend_from_slice(b"\r\n");
        });
    }

    /// RCPT for the recipient at this place of the last job.
    pub(super) fn rcpt(&mut self, at: usize) {
        let Some(last) = self.open.back() else {
            return;
        };
        let Some((_, address)) = last.job.recipients.get(at) else {
            return;
        };
        let out = self.output.buffer();
        let from = out.len();
        out.extend_from_slice(b"RCPT TO:<");
        out.extend_from_slice(address.as_str().as_bytes());
        out.extend_from_slice(b">\r\n");
        self.transcript.commands(&out[from..]);
        self.due.push_back((Expect::Rcpt(at), self.output.mark()));
    }

    pub(super) fn data(&mut self) {
        self.command(Expect::Data, |out| out.extend_from_slice(b"DATA\r\n"));
    }

    /// The whole message as one chunk (RFC 3030 2.1).
    pub(super) fn chunk(&mut self) {
        let Some(last) = self.open.back_mut() else {
            return;
        };
        let body = last.body.clone();
        let out = self.output.buffer();
        let from = out.len();
        out.extend_from_slice(b"BDAT ");
        push_number(out, body.len() as u64);
        out.extend_from_slice(b" LAST\r\n");
        self.transcript.commands(&out[from..]);
        self.transcript.body(body.len());
        if body.len() <= COPIED_BODY_BYTES_MAX {
            out.extend_from_slice(&body);
        } else {
            self.output.push_whole(body);
        }
        self.whole_is_queued();
    }

    /// The message after 354, to the dot.
    pub(super) fn content(&mut self) {
        let Some(last) = self.open.back_mut() else {
            return;
        };
        let body = last.body.clone();
        self.transcript.body(body.len());
        if body.len() <= COPIED_BODY_BYTES_MAX {
            stuff::append(self.output.buffer(), &body);
        } else {
            self.output.push_stuffed(body);
        }
        self.whole_is_queued();
    }

    /// A host that says 354 although it refused every recipient gets an empty message, as RFC
    /// 2920 3.1 wants: it can deliver that to nobody.
    pub(super) fn lone_dot(&mut self) {
        self.command(Expect::Final, |out| out.extend_from_slice(b".\r\n"));
        if let Some(last) = self.open.back_mut() {
            last.void = true;
        }
    }

    fn whole_is_queued(&mut self) {
        let mark = self.output.mark();
        self.due.push_back((Expect::Final, mark));
        if let Some(last) = self.open.back_mut() {
            last.ends = Some(mark);
        }
    }

    /// The body as this host can take it, or why it cannot.
    fn fitting_body(&self, job: &Job) -> Result<Bytes, Reply> {
        let content = &*job.content;
        if needs_smtputf8(job) && !self.capabilities.smtputf8 {
            let text = "SMTPUTF8 is needed and the host does not offer it";
            return Err(Reply::internal(553, Enhanced(5, 6, 7), text));
        }
        let eight_bit = content.eight_bit && !self.capabilities.eight_bit_mime;
        let body = match self.settings.eight_bit {
            EightBit::Fail if eight_bit => {
                let text = "8-bit content, and the host does not offer 8BITMIME";
                return Err(Reply::internal(554, Enhanced(5, 6, 3), text));
            }
            EightBit::Convert if eight_bit => match downgrade::to_seven_bit(&content.body) {
                Ok(body) => Bytes::from(body),
                Err(why) => {
                    let text = format!("8-bit content cannot be converted: {why}");
                    return Err(Reply::internal(554, Enhanced(5, 6, 3), &text));
                }
            },
            _ => content.body.clone(),
        };
        match self.capabilities.size {
            Some(SizeLimit::Bytes(max)) if body.len() as u64 > max => {
                let text = format!("message of {} bytes, the host takes {max}", body.len());
                return Err(Reply::internal(552, Enhanced(5, 3, 4), &text));
            }
            _ => {}
        }
        if !stuff::line_ends_are_clean(&body) {
            let text = "message holds a bare CR or LF";
            return Err(Reply::internal(554, Enhanced(5, 6, 0), text));
        }
        Ok(body)
    }
}

/// Whether the message cannot go without SMTPUTF8: something in its envelope or header section is
/// not ASCII. A client that asked for SMTPUTF8 without need has not made the message one.
fn needs_smtputf8(job: &Job) -> bool {
    let content = &*job.content;
    let sender_is_ascii = content
        .sender
        .as_ref()
        .is_none_or(|sender| sender.is_ascii());
    if !sender_is_ascii
        || job
            .recipients
            .iter()
            .any(|(_, address)| !address.is_ascii())
    {
        return true;
    }
    content.smtputf8 && !header_section(content).is_ascii()
}

fn header_section(content: &Content) -> &[u8] {
    let end = memchr::memmem::find(&content.body, b"\r\n\r\n");
    &content.body[..end.unwrap_or(content.body.len())]
}
