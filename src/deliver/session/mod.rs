//! The SMTP client machine: one per connection, sans-IO. It is told what the host said and how
//! far its own bytes have gone, and tells what became of each recipient.
//!
//! Invariants:
//! * Replies are matched to commands in order; a command expects its reply from the moment it is
//!   queued for sending. A reply that nothing asked for ends the connection.
//! * Every recipient of a job that `start` took is answered once: by [`Event::Recipient`], or
//!   among the undecided of [`Event::Lost`]. Every job ends with [`Event::Done`] or `Lost`.
//! * A message counts as sent whole as soon as its last byte has been taken by
//!   [`Session::output`], so that a lost final reply is never overlooked.
//! * Nothing here panics on what a host says, waits without a deadline, or keeps more than the
//!   bounds below.
//!
//! The efficient path is one send per message: with PIPELINING and CHUNKING the envelope and the
//! body go together, and several messages may follow each other before the first final reply;
//! with PIPELINING alone the body goes together with the next envelope.

mod envelope;
mod output;
mod replies;
mod transcript;

#[cfg(test)]
mod tests;

use core::time::Duration;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::time::Mono;
use crate::base::time::Now;
use crate::deliver::session::output::Output;
use crate::deliver::session::transcript::Transcript;
use crate::proto::smtp::reply::Capabilities;
use crate::proto::smtp::reply::ReplyReader;
use crate::types::address::Address;
use crate::types::message::Content;
use crate::types::outcome::Stage;
use crate::types::reply::Enhanced;
use crate::types::reply::Reply;

/// Jobs one connection may have open, whatever the settings say.
pub const JOBS_MAX: usize = 8;

/// Recipients of one job; more than any host is asked to take at once (RFC 5321 4.5.3.1.8: 100).
pub const JOB_RECIPIENTS_MAX: usize = 1_000;

/// Bodies up to this size are copied behind their envelope, so that both go in one send; larger
/// ones are sent from where they lie.
pub const COPIED_BODY_BYTES_MAX: usize = 64 * 1_024;

/// Progress that lets a write go on for another timeout: a host that takes one byte every nine
/// minutes is not making any.
pub const PROGRESS_BYTES_MIN: u64 = 4_096;

/// What to do with a message of 8-bit content for a host without 8BITMIME.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EightBit {
    /// Convert it to 7 bit (RFC 6152 3); what cannot be converted fails.
    #[default]
    Convert,
    /// Send it as it is, as most software does.
    Send,
    /// Permanent failure `554 5.6.3`.
    Fail,
}

/// Options of a session as they apply to its (binding, domain) pair.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `EHLO_Hostname`.
    pub ehlo_name: Box<str>,
    pub use_pipelining: bool,
    pub use_chunking: bool,
    pub eight_bit: EightBit,
    /// Jobs that may be open at a time on a host with PIPELINING: 1 waits for each final reply,
    /// more sends the next envelope behind the body, and with CHUNKING whole messages behind each
    /// other. At most [`JOBS_MAX`].
    pub jobs_max: usize,
    pub banner_timeout: Duration,
    pub ehlo_timeout: Duration,
    pub mailfrom_timeout: Duration,
    pub rcptto_timeout: Duration,
    /// For the reply to DATA.
    pub data_timeout: Duration,
    /// For progress of the body and then for the final reply.
    pub body_timeout: Duration,
    pub rset_timeout: Duration,
    pub quit_timeout: Duration,
    /// How long an idle connection is kept for more work.
    pub idle_timeout: Duration,
    /// `Max_Deliveries_Per_Connection`: messages taken by the host, 0 is no limit.
    pub max_deliveries: u32,
    /// `Max_Recipients_Per_Connection`: recipients tried, 0 is no limit.
    pub max_recipients: u32,
    /// Keep the transcript of transactions that went well, too.
    pub keep_transcript: bool,
}

impl Default for Settings {
    /// The documented defaults of Momentum, or RFC 5321 4.5.3.2 where it has none.
    fn default() -> Settings {
        let five_minutes = Duration::from_secs(300);
        Settings {
            ehlo_name: "localhost".into(),
            use_pipelining: true,
            use_chunking: true,
            eight_bit: EightBit::Convert,
            jobs_max: 4,
            banner_timeout: five_minutes,
            ehlo_timeout: five_minutes,
            mailfrom_timeout: five_minutes,
            rcptto_timeout: five_minutes,
            data_timeout: Duration::from_secs(120),
            body_timeout: Duration::from_secs(600),
            rset_timeout: Duration::from_secs(30),
            quit_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(5),
            max_deliveries: 0,
            max_recipients: 0,
            keep_transcript: false,
        }
    }
}

/// The caller's name for a job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct JobId(pub u64);

/// The caller's name for a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RecipientToken(pub u64);

/// One message for some recipients, all on this host.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub content: Arc<Content>,
    /// At least one, at most [`JOB_RECIPIENTS_MAX`].
    pub recipients: Vec<(RecipientToken, Address)>,
}

/// How far a job had come when its connection was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Reach {
    /// No byte of it was taken for sending: it may be given back as if nothing had been tried.
    Unsent,
    /// Some of it, but not the whole message: the host cannot have it.
    Part,
    /// The whole message, and the final reply is missing: the host may have it. To be tried
    /// again and counted as a possible duplicate.
    Whole,
}

/// Why a connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The session had said QUIT.
    Quit,
    /// The host closed the connection or the network broke it, while nothing was undecided.
    Gone,
    /// The host, or the conversation with it, failed: told in the events before.
    Failed,
}

/// What the session tells its driver, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A job may be started: after EHLO, and again whenever there was no room and now there is.
    /// [`Session::can_start`] tells whether one more may follow at once.
    Ready,
    /// The answer for one recipient: refused at MAIL, RCPT or DATA, or final.
    Recipient {
        job: JobId,
        token: RecipientToken,
        stage: Stage,
        reply: Reply,
    },
    /// Every recipient of the job has been answered and the host is through with it.
    Done { job: JobId },
    /// The connection was lost, or given up, with these recipients of the job undecided. `reply`
    /// is the host's (a 421 that ended everything) or an account of what happened.
    Lost {
        job: JobId,
        undecided: Vec<RecipientToken>,
        stage: Stage,
        reply: Reply,
        reach: Reach,
    },
    /// The host refused the session before any job, by banner or EHLO, or it broke there: it
    /// says nothing about messages (RFC 5321 3.1 allows a 554 banner of hosts that take no mail).
    /// The host rests, the next one is tried.
    HostFailed { stage: Stage, reply: Reply },
    /// Send what [`Session::output`] still gives if anything, then close the connection. The last
    /// event; the session takes no more input.
    Close(Ending),
}

/// Bytes to send, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Commands and small bodies. The buffer may be given back to [`Session::recycle`].
    Bytes(Vec<u8>),
    /// A run of a large body, where it lies.
    Body(Bytes),
}

impl Piece {
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Piece::Bytes(bytes) => bytes,
            Piece::Body(bytes) => bytes,
        }
    }
}

/// Counts of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Messages that the host took, for at least one recipient.
    pub delivered: u32,
    pub started: u32,
    /// Recipients of those that were started.
    pub recipients: u32,
    /// Pieces given to send: with the efficient path about one per message.
    pub pieces: u64,
    pub bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Greeting,
    Open,
    Quitting,
    Closed,
}

/// Which reply comes next. Those of a job belong to the front job, since replies come in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    Banner,
    Ehlo,
    Helo,
    Reset,
    Mail,
    Rcpt(usize),
    Data,
    Final,
    Quit,
}

impl Expect {
    fn stage(self) -> Stage {
        match self {
            Expect::Banner => Stage::Banner,
            Expect::Ehlo | Expect::Helo => Stage::Ehlo,
            Expect::Reset | Expect::Mail => Stage::MailFrom,
            Expect::Rcpt(_) => Stage::RcptTo,
            Expect::Data => Stage::Data,
            Expect::Final => Stage::Final,
            Expect::Quit => Stage::Internal,
        }
    }

    /// As accounts of failures name it.
    fn name(self) -> &'static str {
        match self {
            Expect::Banner => "banner",
            Expect::Ehlo => "EHLO",
            Expect::Helo => "HELO",
            Expect::Reset => "RSET",
            Expect::Mail => "MAIL FROM",
            Expect::Rcpt(_) => "RCPT TO",
            Expect::Data => "DATA",
            Expect::Final => "end of message",
            Expect::Quit => "QUIT",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Not answered yet.
    Waiting,
    /// Taken by the host at RCPT; the final reply decides.
    Accepted,
    /// Told by an event.
    Answered,
}

/// A job on the wire.
struct Transaction {
    job: Job,
    /// What is sent: the content's body, or its conversion to 7 bit.
    body: Bytes,
    standing: Vec<Standing>,
    /// Where its first byte stands in the output.
    begins: output::Mark,
    /// Where its last byte stands, once the message has been queued.
    ends: Option<output::Mark>,
    /// The message goes by BDAT.
    chunked: bool,
    /// The host refused MAIL: every recipient has been answered.
    refused: bool,
    /// The message, whether sent or not, may not count for anybody any more; what is still
    /// awaited is only waited for.
    void: bool,
}

impl Transaction {
    fn undecided(&self) -> Vec<RecipientToken> {
        let open = |(at, _): &(usize, &_)| self.standing[*at] != Standing::Answered;
        let recipients = self.job.recipients.iter().enumerate();
        recipients
            .filter(open)
            .map(|(_, (token, _))| *token)
            .collect()
    }

    fn any(&self, standing: Standing) -> bool {
        self.standing.contains(&standing)
    }
}

/// See the head of this file.
pub struct Session {
    settings: Rc<Settings>,
    phase: Phase,
    reader: ReplyReader,
    capabilities: Capabilities,
    output: Output,
    transcript: Transcript,
    /// Replies that are due, in order, each with the place of the last byte of its command.
    due: VecDeque<(Expect, output::Mark)>,
    /// Jobs on the wire; the front one gets the replies.
    open: VecDeque<Transaction>,
    /// The host may still hold a transaction of ours that failed: RSET before the next one.
    dirty: bool,
    quitting: bool,
    /// The last `Ready` has not been followed by a start.
    announced: bool,
    /// The host has ended a reply line with a bare LF; the transcript tells it once.
    bare_lf_seen: bool,
    /// Since when the session waits for what it waits for.
    since: Mono,
    /// Bytes written when `since` was last moved by progress.
    progress: u64,
    counts: Counts,
}

impl Session {
    /// A session on a connection that has just been made. It waits for the banner.
    pub fn new(now: Now, settings: Rc<Settings>) -> Session {
        let mut due = VecDeque::new();
        due.push_back((Expect::Banner, output::Mark::default()));
        Session {
            settings,
            phase: Phase::Greeting,
            reader: ReplyReader::new(),
            capabilities: Capabilities::default(),
            output: Output::default(),
            transcript: Transcript::default(),
            due,
            open: VecDeque::new(),
            dirty: false,
            quitting: false,
            announced: false,
            bare_lf_seen: false,
            since: now.mono,
            progress: 0,
            counts: Counts::default(),
        }
    }

    /// Takes what the host sent, all of it. After [`Event::Close`] it is ignored.
    pub fn receive(&mut self, now: Now, input: &[u8], events: &mut Vec<Event>) {
        let mut rest = input;
        while self.phase != Phase::Closed {
            match self.reader.read(&mut rest) {
                Ok(Some(heard)) => {
                    self.transcript.reply(heard.code, self.reader.text());
                    if heard.bare_lf && !self.bare_lf_seen {
                        self.bare_lf_seen = true;
                        self.transcript
                            .note("the host ends reply lines with a bare LF");
                    }
                    self.since = now.mono;
                    self.hear(now, heard, events);
                }
                Ok(None) => break,
                Err(fault) => {
                    self.fault(&fault.to_string(), events);
                }
            }
        }
        self.announce(events);
    }

    /// Whether [`Session::start`] would take a job now.
    pub fn can_start(&self) -> bool {
        if self.phase != Phase::Open || self.quitting || self.is_spent() {
            return false;
        }
        let Some(last) = self.open.back() else {
            // A RSET or the like on its way does not matter to a host that takes a pipeline.
            return self.due.is_empty() || self.is_pipelining();
        };
        let jobs_max = self.settings.jobs_max.clamp(1, JOBS_MAX);
        self.is_pipelining() && self.open.len() < jobs_max && last.ends.is_some() && !last.void
    }

    /// Starts a job, or gives it back if [`Session::can_start`] is false. What can be answered
    /// without the host is answered at once: a message over its SIZE, one that needs SMTPUTF8
    /// where it is not offered, one that cannot be converted to 7 bit.
    pub fn start(&mut self, now: Now, job: Job, events: &mut Vec<Event>) -> Result<(), Job> {
        assert!(!job.recipients.is_empty(), "a job has a recipient");
        assert!(
            job.recipients.len() <= JOB_RECIPIENTS_MAX,
            "recipients of a job are bounded"
        );
        if !self.can_start() {
            return Err(job);
        }
        self.announced = false;
        self.begin(now, job, events);
        self.announce(events);
        Ok(())
    }

    /// The next piece to send, if any. Best taken when the former one has been written: what is
    /// queued meanwhile joins the same send.
    pub fn output(&mut self) -> Option<Piece> {
        self.output.take()
    }

    /// Whether [`Session::output`] has something to give.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes the buffer of a written piece back for reuse.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.output.recycle(buffer);
    }

    /// So many more bytes of the pieces have been written to the connection; `usize::MAX` says
    /// all that were handed out.
    pub fn sent(&mut self, now: Now, bytes: usize) {
        let all = self.output.sent(bytes);
        if all || self.output.bytes_sent() - self.progress >= PROGRESS_BYTES_MIN {
            self.progress = self.output.bytes_sent();
            self.since = now.mono;
        }
    }

    /// When [`Session::timeout`] is to be called. The end of time once closed.
    pub fn deadline(&self) -> Mono {
        if self.phase == Phase::Closed {
            return Mono::MAX;
        }
        let settings = &*self.settings;
        let patience = match self.due.front() {
            None => settings.idle_timeout,
            Some((Expect::Banner, _)) => settings.banner_timeout,
            Some((Expect::Ehlo | Expect::Helo, _)) => settings.ehlo_timeout,
            Some((Expect::Reset, _)) => settings.rset_timeout,
            Some((Expect::Mail, _)) => settings.mailfrom_timeout,
            Some((Expect::Rcpt(_), _)) => settings.rcptto_timeout,
            Some((Expect::Data, _)) => settings.data_timeout,
            Some((Expect::Final, _)) => settings.body_timeout,
            Some((Expect::Quit, _)) => settings.quit_timeout,
        };
        self.since + patience
    }

    /// To be called at the deadline; does nothing before it. An idle session says QUIT.
    pub fn timeout(&mut self, now: Now, events: &mut Vec<Event>) {
        if self.phase == Phase::Closed || now.mono < self.deadline() {
            return;
        }
        let Some((expect, _)) = self.due.front() else {
            return self.quit(now, events);
        };
        let writing = *expect == Expect::Final && !self.output.is_empty();
        let text = match (expect, writing) {
            (_, true) => "timed out while sending the message".to_owned(),
            (expect, false) => format!("no {} response", expect.name()),
        };
        self.transcript.note(&text);
        let reply = Reply::internal(451, Enhanced(4, 4, 2), &text);
        self.give_up(reply, Reading::Silence, events);
    }

    /// The host closed the connection or the network broke it. `why` goes to the account:
    /// `connection closed by remote host`.
    pub fn closed(&mut self, why: &str, events: &mut Vec<Event>) {
        if self.phase == Phase::Closed {
            return;
        }
        self.transcript.note(why);
        let text = match self.due.front() {
            Some((expect, _)) => format!("{why} (awaiting {} response)", expect.name()),
            None => why.to_owned(),
        };
        let reply = Reply::internal(451, Enhanced(4, 4, 2), &text);
        self.give_up(reply, Reading::Silence, events);
    }

    /// Asks for the end: no job is taken from now on, those that are open are finished, then QUIT.
    pub fn quit(&mut self, now: Now, events: &mut Vec<Event>) {
        self.quitting = true;
        match self.phase {
            Phase::Greeting => {
                self.output.clear();
                self.close(Ending::Quit, events);
            }
            Phase::Open if self.open.is_empty() => {
                self.phase = Phase::Quitting;
                self.since = now.mono;
                self.command(Expect::Quit, |out| out.extend_from_slice(b"QUIT\r\n"));
            }
            Phase::Open | Phase::Quitting | Phase::Closed => {}
        }
    }

    /// The host has greeted, and nothing has ended it.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Open, and without a job.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Open && self.open.is_empty()
    }

    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Jobs on the wire.
    pub fn jobs(&self) -> usize {
        self.open.len()
    }

    pub fn counts(&self) -> Counts {
        let bytes = self.output.bytes_taken();
        Counts {
            pieces: self.output.pieces(),
            bytes,
            ..self.counts
        }
    }

    /// What was said, greeting and running transactions; kept after the end. Right after the
    /// event of a failure it holds the failed transaction.
    pub fn transcript(&self) -> String {
        self.transcript.text()
    }

    /// What the host offered; nothing before EHLO.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn is_pipelining(&self) -> bool {
        self.settings.use_pipelining && self.capabilities.pipelining
    }

    /// As many messages as the connection may carry are through or on their way.
    fn is_spent(&self) -> bool {
        let max = self.settings.max_deliveries as usize;
        let full = max > 0 && self.counts.delivered as usize + self.open.len() >= max;
        full || self.recipients_left() == 0
    }

    /// Recipients that may still be tried.
    pub fn recipients_left(&self) -> u32 {
        match self.settings.max_recipients {
            0 => u32::MAX,
            max => max.saturating_sub(self.counts.recipients),
        }
    }

    /// Tells the driver that there is room, once each time there comes to be some.
    fn announce(&mut self, events: &mut Vec<Event>) {
        if self.can_start() && !self.announced {
            self.announced = true;
            events.push(Event::Ready);
        }
    }

    /// Queues a command and the expectation of its reply.
    fn command(&mut self, expect: Expect, write: impl FnOnce(&mut Vec<u8>)) {
        let out = self.output.buffer();
        let from = out.len();
        write(out);
        self.transcript.commands(&out[from..]);
        self.due.push_back((expect, self.output.mark()));
    }

    fn close(&mut self, ending: Ending, events: &mut Vec<Event>) {
        self.phase = Phase::Closed;
        self.due.clear();
        events.push(Event::Close(ending));
    }
}

/// What a connection that is given up says about messages that had been sent whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reading {
    /// Nothing was said about them: the host may have them.
    Silence,
    /// A 421: the host ends the connection and does nothing more.
    Refusal,
}
