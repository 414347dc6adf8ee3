//! The receiving side of a session: what each reply means for the job it belongs to.
//!
//! Decided here, beyond the obvious:
//! * MAIL refused answers every recipient; what the host then says to RCPT, DATA or BDAT of that
//!   job is read and not believed.
//! * 421 ends the connection wherever it comes: recipients without an answer are lost with it as
//!   the reply. As the answer to a whole message it is an answer like other 4xx.
//! * A code that does not fit its command (354 to MAIL, 250 to DATA, 1xx), a reply to something
//!   not yet sent or never asked ends the connection: no later reply could be trusted. A refusal
//!   that comes before the message is through is believed, then the connection ends.
//! * A reply more than commands within a pipeline cannot be told from the next command's; it
//!   shows at the latest at the end of the pipeline.

use crate::base::time::Now;
use crate::deliver::session::Ending;
use crate::deliver::session::Event;
use crate::deliver::session::Expect;
use crate::deliver::session::Phase;
use crate::deliver::session::Reach;
use crate::deliver::session::Reading;
use crate::deliver::session::Session;
use crate::deliver::session::Standing;
use crate::deliver::session::Transaction;
use crate::deliver::session::output::Mark;
use crate::proto::smtp::reply::Heard;
use crate::types::outcome::Stage;
use crate::types::reply::Enhanced;
use crate::types::reply::Reply;

/// The host ends the connection (RFC 5321 3.8).
const CLOSING: u16 = 421;

/// What a code says where a 2xx is what was hoped for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Yes,
    Continue,
    No,
    Odd,
}

fn answer(code: u16) -> Answer {
    match code {
        200..=299 => Answer::Yes,
        354 => Answer::Continue,
        400..=599 => Answer::No,
        _ => Answer::Odd,
    }
}

impl Session {
    /// Takes one reply, whose text is with the reader.
    pub(super) fn hear(&mut self, now: Now, heard: Heard, events: &mut Vec<Event>) {
        let answer = answer(heard.code);
        let Some((expect, mark)) = self.due.pop_front() else {
            return self.unasked(heard, events);
        };
        let premature = !self.output.is_taken(mark);
        let refuses_message = expect == Expect::Final && answer == Answer::No;
        if premature && heard.code != CLOSING && !refuses_message {
            self.due.push_front((expect, mark));
            return self.fault(
                &format!("reply {} came before {}", heard.code, expect.name()),
                events,
            );
        }
        if heard.code == CLOSING && !matches!(expect, Expect::Final | Expect::Quit) {
            self.due.push_front((expect, mark));
            return self.give_up(self.reader.reply(), Reading::Refusal, events);
        }
        match expect {
            Expect::Banner | Expect::Ehlo | Expect::Helo => {
                self.hear_greeting(expect, answer, heard, events);
            }
            Expect::Reset => self.hear_reset(answer, events),
            Expect::Mail => self.hear_mail(answer, heard, events),
            Expect::Rcpt(at) => self.hear_rcpt(at, answer, heard, events),
            Expect::Data => self.hear_data(answer, heard, events),
            Expect::Final => {
                self.hear_final(answer, heard, events);
                if premature || heard.code == CLOSING {
                    let reply = self.reader.reply();
                    self.give_up(reply, Reading::Refusal, events);
                }
            }
            Expect::Quit => self.close(Ending::Quit, events),
        }
        if self.phase == Phase::Open && self.open.is_empty() && self.due.is_empty() {
            let full = self.settings.max_deliveries;
            let full = full > 0 && self.counts.delivered >= full;
            if self.quitting || full || self.recipients_left() == 0 {
                self.quit(now, events);
            }
        }
    }

    /// A reply that nothing asked for. An idle connection that the host closes with 421 is the
    /// usual case; nothing is undecided then.
    fn unasked(&mut self, heard: Heard, events: &mut Vec<Event>) {
        self.transcript
            .note(&format!("reply {} that nothing asked for", heard.code));
        self.output.clear();
        self.close(Ending::Gone, events);
    }

    fn hear_greeting(
        &mut self,
        expect: Expect,
        answer: Answer,
        heard: Heard,
        events: &mut Vec<Event>,
    ) {
        match (expect, answer) {
            (Expect::Banner, Answer::Yes) => self.hello(Expect::Ehlo, b"EHLO "),
            (Expect::Ehlo | Expect::Helo, Answer::Yes) => {
                if expect == Expect::Ehlo {
                    self.capabilities = self.reader.capabilities();
                }
                self.phase = Phase::Open;
                self.transcript.greeted();
            }
            // A host that does not know EHLO says 5xx (RFC 5321 3.2); 4xx speaks of the moment.
            (Expect::Ehlo, Answer::No) if heard.code >= 500 => {
                self.hello(Expect::Helo, b"HELO ");
            }
            (_, Answer::No) => {
                let stage = expect.stage();
                events.push(Event::HostFailed {
                    stage,
                    reply: self.reader.reply(),
                });
                self.transcript.commands(b"QUIT\r\n");
                self.output.buffer().extend_from_slice(b"QUIT\r\n");
                self.close(Ending::Failed, events);
            }
            _ => self.unfitting(expect, heard, events),
        }
    }

    fn hello(&mut self, expect: Expect, verb: &[u8]) {
        let settings = self.settings.clone();
        self.command(expect, |out| {
            out.extend_from_slice(verb);
            out.extend_from_slice(settings.ehlo_name.as_bytes());
            out.extend_from_slice(b"\r\n");
        });
    }

    fn hear_reset(&mut self, answer: Answer, events: &mut Vec<Event>) {
        if answer != Answer::Yes && self.dirty {
            // Whatever goes next would meet what is left of the failed transaction.
            return self.fault("the host refused RSET", events);
        }
        self.dirty = false;
        if !self.is_pipelining() && !self.open.is_empty() {
            self.envelope();
        }
    }

    fn hear_mail(&mut self, answer: Answer, heard: Heard, events: &mut Vec<Event>) {
        match answer {
            Answer::Yes => {
                if !self.is_pipelining() {
                    self.rcpt(0);
                }
            }
            Answer::No => {
                let reply = self.reader.reply();
                if let Some(front) = self.open.front_mut() {
                    front.refused = true;
                    settle(front, Stage::MailFrom, &reply, events);
                }
                // Behind a pipelined MAIL stand commands that may have found something to do.
                self.dirty = self.is_pipelining();
                if !self.front_is_awaited() {
                    self.finish(events);
                }
            }
            Answer::Continue | Answer::Odd => self.unfitting(Expect::Mail, heard, events),
        }
    }

    fn hear_rcpt(&mut self, at: usize, answer: Answer, heard: Heard, events: &mut Vec<Event>) {
        if answer == Answer::Continue || answer == Answer::Odd {
            return self.unfitting(Expect::Rcpt(at), heard, events);
        }
        let Some(front) = self.open.front_mut() else {
            return;
        };
        if !front.refused {
            let (token, _) = front.job.recipients[at];
            if answer == Answer::Yes {
                front.standing[at] = Standing::Accepted;
            } else {
                front.standing[at] = Standing::Answered;
                let (job, reply) = (front.job.id, self.reader.reply());
                events.push(Event::Recipient {
                    job,
                    token,
                    stage: Stage::RcptTo,
                    reply,
                });
            }
        }
        self.after_rcpt(at + 1, events);
    }

    /// Goes on after the reply to a RCPT, if what follows has not been sent already.
    fn after_rcpt(&mut self, next: usize, events: &mut Vec<Event>) {
        let Some(front) = self.open.front() else {
            return;
        };
        let recipients = front.standing.len();
        if next < recipients {
            if !self.is_pipelining() {
                self.rcpt(next);
            }
            return;
        }
        if self.front_is_awaited() {
            return;
        }
        let (any, chunked) = (front.any(Standing::Accepted), front.chunked);
        match (any, chunked) {
            (false, _) => {
                self.dirty = true;
                self.finish(events);
            }
            (true, true) => self.chunk(),
            (true, false) => self.data(),
        }
    }

    fn hear_data(&mut self, answer: Answer, heard: Heard, events: &mut Vec<Event>) {
        match answer {
            Answer::Continue => {
                let accepted = self.open.front().is_some_and(|f| f.any(Standing::Accepted));
                if accepted {
                    self.content();
                } else {
                    self.lone_dot();
                }
            }
            Answer::No => {
                let reply = self.reader.reply();
                if let Some(front) = self.open.front_mut() {
                    settle(front, Stage::Data, &reply, events);
                }
                self.dirty = true;
                self.finish(events);
            }
            Answer::Yes | Answer::Odd => self.unfitting(Expect::Data, heard, events),
        }
    }

    fn hear_final(&mut self, answer: Answer, heard: Heard, events: &mut Vec<Event>) {
        if answer == Answer::Continue || answer == Answer::Odd {
            return self.unfitting(Expect::Final, heard, events);
        }
        let Some(front) = self.open.front_mut() else {
            return;
        };
        let counted = front.any(Standing::Accepted);
        if counted {
            let reply = self.reader.reply();
            settle(front, Stage::Final, &reply, events);
        }
        // After DATA the host has forgotten the transaction whatever it said (RFC 5321 4.1.1.4).
        self.dirty = !counted || (front.chunked && answer == Answer::No);
        if counted && answer == Answer::Yes {
            self.counts.delivered += 1;
        }
        self.finish(events);
    }

    /// Whether the front job still awaits a reply.
    fn front_is_awaited(&self) -> bool {
        let of_job = |e: &Expect| matches!(e, Expect::Rcpt(_) | Expect::Data | Expect::Final);
        self.due.front().is_some_and(|(expect, _)| of_job(expect))
    }

    /// The front job is through.
    fn finish(&mut self, events: &mut Vec<Event>) {
        if let Some(front) = self.open.pop_front() {
            events.push(Event::Done { job: front.job.id });
        }
    }

    fn unfitting(&mut self, expect: Expect, heard: Heard, events: &mut Vec<Event>) {
        // Whatever it was meant to say, the message itself may have been taken.
        self.due.push_front((expect, Mark::default()));
        self.fault(
            &format!("unexpected reply {} to {}", heard.code, expect.name()),
            events,
        );
    }

    /// The host does not speak SMTP as it should: the connection is given up.
    pub(super) fn fault(&mut self, what: &str, events: &mut Vec<Event>) {
        self.transcript.note(&format!("protocol error: {what}"));
        let reply = Reply::internal(451, Enhanced(4, 5, 0), &format!("protocol error: {what}"));
        self.give_up(reply, Reading::Silence, events);
    }

    /// Ends the connection with an account of every job that is open.
    pub(super) fn give_up(&mut self, reply: Reply, reading: Reading, events: &mut Vec<Event>) {
        let awaited = self.due.front().map(|(expect, _)| *expect);
        match (self.phase, awaited) {
            (Phase::Closed, _) => return,
            (Phase::Greeting, expect) => {
                let stage = expect.map_or(Stage::Banner, Expect::stage);
                events.push(Event::HostFailed {
                    stage,
                    reply: reply.clone(),
                });
            }
            (Phase::Quitting, _) => return self.close(Ending::Quit, events),
            (Phase::Open, _) => {}
        }
        let undecided = !self.open.is_empty() || self.phase == Phase::Greeting;
        let mut stage = awaited.map_or(Stage::MailFrom, Expect::stage);
        while let Some(transaction) = self.open.pop_front() {
            let job = transaction.job.id;
            let recipients = transaction.undecided();
            if recipients.is_empty() {
                events.push(Event::Done { job });
            } else {
                let reach = self.reach(&transaction, reading);
                let (undecided, reply) = (recipients, reply.clone());
                events.push(Event::Lost {
                    job,
                    undecided,
                    stage,
                    reply,
                    reach,
                });
            }
            // The jobs behind had no reply of their own yet.
            stage = Stage::MailFrom;
        }
        self.output.clear();
        self.close(
            if undecided {
                Ending::Failed
            } else {
                Ending::Gone
            },
            events,
        );
    }

    fn reach(&self, transaction: &Transaction, reading: Reading) -> Reach {
        if !self.output.is_taken(transaction.begins) {
            return Reach::Unsent;
        }
        let whole = transaction
            .ends
            .is_some_and(|end| self.output.is_taken(end));
        match reading {
            Reading::Silence if whole => Reach::Whole,
            _ => Reach::Part,
        }
    }
}

/// Answers every recipient that has no answer yet.
fn settle(transaction: &mut Transaction, stage: Stage, reply: &Reply, events: &mut Vec<Event>) {
    let job = transaction.job.id;
    let recipients = transaction.job.recipients.iter();
    for ((token, _), standing) in recipients.zip(transaction.standing.iter_mut()) {
        if *standing != Standing::Answered {
            *standing = Standing::Answered;
            let (token, reply) = (*token, reply.clone());
            events.push(Event::Recipient {
                job,
                token,
                stage,
                reply,
            });
        }
    }
}
