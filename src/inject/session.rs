//! One SMTP session as its server sees it (RFC 5321 3 and 4, RFC 2920, RFC 3030).
//!
//! [`Session::receive`] is fed whatever came in and stops with a [`Step`] where somebody else must
//! act: policy (`Ask`), the spool (`Submit`), the network (`Read`, `Wait`, `Close`). After every
//! other call it is to be called again with the input that is left, be it empty. Commands are
//! parsed where they lie; only a line that the network has cut is copied.
//!
//! Invariants: a message is answered with 250 only through [`Resolution::Stored`], which holds the
//! proof; replies leave in the order of their commands; no byte of content, of a refused chunk or
//! behind a fault in framing is ever taken for a command; nothing the client sends makes the
//! session hold more than the bounds in [`crate::inject`] and [`Settings`].

use std::rc::Rc;

use memchr::memchr;

use crate::base::time::Mono;
use crate::base::time::Now;
use crate::inject::AcceptedRecipient;
use crate::inject::BODY_RESERVE_BYTES_MAX;
use crate::inject::COMMAND_OVERSIZE_FACTOR;
use crate::inject::Facts;
use crate::inject::OUTPUT_BYTES_MAX;
use crate::inject::Question;
use crate::inject::RECIPIENTS_OVERSHOOT_MAX;
use crate::inject::REJECTIONS_MAX;
use crate::inject::Rejection;
use crate::inject::Resolution;
use crate::inject::Settings;
use crate::inject::Step;
use crate::inject::Submission;
use crate::inject::Ticket;
use crate::inject::UNRESOLVED_BYTES_MAX;
use crate::inject::UNRESOLVED_MAX;
use crate::inject::Verdict;
use crate::inject::held::Outcome;
use crate::inject::held::Replies;
use crate::proto::smtp::command;
use crate::proto::smtp::command::Bdat;
use crate::proto::smtp::command::Command;
use crate::proto::smtp::command::Mail;
use crate::proto::smtp::data::DataReader;
use crate::proto::smtp::data::Framing;
use crate::proto::smtp::data::OVERSIZE_FACTOR;
use crate::proto::smtp::data::Refusal;
use crate::proto::smtp::data::Status;
use crate::proto::smtp::header;
use crate::proto::smtp::header::Protocol;
use crate::proto::smtp::header::Trace;
use crate::proto::smtp::path::Path;
use crate::types::address::Address;
use crate::types::id::BatchId;
use crate::types::message::Method;
use crate::types::message::Origin;
use crate::types::replies;
use crate::types::replies::Canned;

/// The first two bytes of every TLS client hello: a handshake record of version 3.x.
const TLS_HELLO: [u8; 2] = [0x16, 0x03];

pub struct Session {
    settings: Rc<Settings>,
    facts: Facts,
    state: State,
    /// The beginning of a command line that the network has cut.
    line: Vec<u8>,
    replies: Replies,
    /// Nothing before the first HELO or EHLO.
    method: Option<Method>,
    helo: Box<str>,
    transaction: Option<Transaction>,
    ticket_next: u32,
    receptions: u32,
    /// Asked for, whatever was answered.
    recipients: u32,
    errors: u32,
    idle_commands: u32,
    rejections: Vec<Rejection>,
    rejections_dropped: u32,
    clock: Clock,
    is_shutting_down: bool,
    heeds_flow_fields: bool,
}

enum State {
    /// `open` has not been called.
    New,
    Command,
    /// Within a command line over the limit.
    Overlong {
        bytes: usize,
        last: u8,
    },
    Asking(Asking),
    /// Within the content after DATA.
    Data,
    /// Within the octets of a BDAT.
    Chunk(Chunk),
    Closing,
}

#[derive(Clone, Copy)]
enum Asking {
    Ehlo(Method),
    Mail,
    Rcpt,
    Data,
    Bdat(Bdat),
}

#[derive(Clone, Copy)]
struct Chunk {
    left: u64,
    last: bool,
    /// The octets are eaten, and this is the reply.
    refusal: Option<&'static Canned>,
}

/// From MAIL to the end of its message.
struct Transaction {
    sender: Option<Address>,
    size: Option<u64>,
    smtputf8: bool,
    recipients: Vec<AcceptedRecipient>,
    /// The recipient that policy is being asked about.
    asked: Option<Address>,
    /// At least one RCPT was refused.
    has_refused: bool,
    overshoot: u32,
    content: Option<Incoming>,
}

struct Incoming {
    batch: BatchId,
    reader: DataReader,
    /// Bytes of the trace field in front of the content.
    trace_bytes: usize,
}

/// The moments that the deadline is made from.
#[derive(Clone, Copy)]
struct Clock {
    /// When the client was last told something, or let go on.
    turn: Mono,
    /// When a byte last came in.
    input: Mono,
    /// When the command line that is not whole yet began.
    line: Mono,
    /// From when on the rate of content counts, and the bytes since.
    rate_from: Mono,
    rate_bytes: u64,
}

impl Session {
    pub fn new(settings: Rc<Settings>, facts: Facts) -> Session {
        settings.assert_valid();
        let start = Mono::default();
        Session {
            settings,
            facts,
            state: State::New,
            line: Vec::new(),
            replies: Replies::default(),
            method: None,
            helo: Box::default(),
            transaction: None,
            ticket_next: 0,
            receptions: 0,
            recipients: 0,
            errors: 0,
            idle_commands: 0,
            rejections: Vec::new(),
            rejections_dropped: 0,
            clock: Clock {
                turn: start,
                input: start,
                line: start,
                rate_from: start,
                rate_bytes: 0,
            },
            is_shutting_down: false,
            heeds_flow_fields: false,
        }
    }

    /// From now on the client's word counts on the class, tenant and campaign of its mail.
    pub fn heed_flow_fields(&mut self) {
        self.heeds_flow_fields = !self.settings.flow_fields.is_idle();
    }

    /// Greets the client, or with [`Verdict::Refuse`] sends it away. To be called once, first.
    pub fn open(&mut self, now: Now, verdict: Verdict) {
        assert!(matches!(self.state, State::New), "a session is opened once");
        self.restart_clock(now);
        self.state = State::Command;
        match verdict {
            Verdict::Continue => {
                replies::write_banner(self.replies.sink(), &self.settings.host);
            }
            Verdict::Refuse(canned) => self.close_with(canned),
            Verdict::Recipient { .. } | Verdict::Batch(_) => panic!("no verdict on a connection"),
        }
    }

    /// Takes input until somebody else must act. Gives how many bytes were used, which is all of
    /// them with [`Step::Read`] and [`Step::Close`]; the rest is to be offered again.
    pub fn receive(&mut self, now: Now, input: &[u8]) -> (usize, Step) {
        if !input.is_empty() {
            self.clock.input = now.mono;
        }
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let (taken, step) = match self.state {
                State::New => panic!("a session is opened before it receives"),
                State::Asking(_) => panic!("a question is answered before more is received"),
                State::Closing => (rest.len(), Some(self.farewell())),
                State::Command => self.command_line(now, rest),
                State::Overlong { bytes, last } => self.overlong_line(rest, bytes, last),
                State::Data => self.data(now, rest),
                State::Chunk(chunk) => self.chunk(now, rest, chunk),
            };
            used += taken;
            if let Some(step) = step {
                return (used, step);
            }
        }
    }

    /// What [`Step::Ask`] asks. Nothing when no question is open.
    pub fn question(&self) -> Option<Question<'_>> {
        let State::Asking(asking) = self.state else {
            return None;
        };
        if let Asking::Ehlo(_) = asking {
            return Some(Question::Ehlo { name: &self.helo });
        }
        let transaction = self.transaction.as_ref()?;
        let sender = transaction.sender.as_ref();
        let size = transaction.size;
        Some(match asking {
            Asking::Ehlo(_) => return None,
            Asking::Mail => Question::MailFrom { sender, size },
            Asking::Rcpt => Question::RcptTo {
                sender,
                recipient: transaction.asked.as_ref()?,
            },
            Asking::Data | Asking::Bdat(_) => Question::Data {
                sender,
                recipients: &transaction.recipients,
                size,
            },
        })
    }

    /// Answers the question. Without one (the session was closed meanwhile) nothing happens.
    pub fn answer(&mut self, now: Now, verdict: Verdict) {
        let State::Asking(asking) = self.state else {
            return;
        };
        self.state = State::Command;
        self.restart_clock(now);
        match (asking, verdict) {
            (Asking::Bdat(bdat), Verdict::Refuse(canned)) => {
                let refusal = Some(canned);
                self.state = State::Chunk(Chunk {
                    left: bdat.octets,
                    last: bdat.last,
                    refusal,
                });
            }
            (_, Verdict::Refuse(canned)) => self.answer_refused(asking, canned),
            (Asking::Ehlo(method), Verdict::Continue) => self.greet(method),
            (Asking::Mail, Verdict::Continue) => self.say(&replies::SENDER_OK),
            (Asking::Rcpt, Verdict::Recipient { tag }) => self.accept_recipient(tag),
            (Asking::Data, Verdict::Batch(batch)) => {
                self.begin_content(now, batch, Framing::Dots);
                self.say(&replies::DATA_GO);
                self.state = State::Data;
            }
            (Asking::Bdat(bdat), Verdict::Batch(batch)) => {
                self.begin_content(now, batch, Framing::Chunks);
                let chunk = Chunk {
                    left: bdat.octets,
                    last: bdat.last,
                    refusal: None,
                };
                self.state = State::Chunk(chunk);
            }
            (_, Verdict::Continue | Verdict::Recipient { .. } | Verdict::Batch(_)) => {
                panic!("a verdict for another phase")
            }
        }
    }

    /// Tells what became of a submission of this session; each is resolved at most once.
    pub fn resolve(&mut self, now: Now, ticket: Ticket, resolution: Resolution<'_>) {
        let outcome = match resolution {
            Resolution::Stored(_) => Outcome::Stored,
            Resolution::Refused(canned) => Outcome::Refused(canned),
        };
        self.replies.fill(ticket, outcome);
        if let Resolution::Refused(canned) = resolution
            && canned.closes()
        {
            self.close();
        }
        if self.replies.held_count() == 0 {
            self.restart_clock(now);
        }
    }

    /// Bytes to be sent to the client; whoever sends them takes them out, with the buffer if idle
    /// connections are to cost little.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.replies.ready()
    }

    /// Refusals since the last call, and how many more there were than are kept.
    pub fn take_rejections(&mut self) -> (Vec<Rejection>, u32) {
        let dropped = core::mem::take(&mut self.rejections_dropped);
        (core::mem::take(&mut self.rejections), dropped)
    }

    /// Submissions that are not answered yet.
    pub fn unresolved(&self) -> usize {
        self.replies.held_count()
    }

    /// Bytes of memory held for content that is coming in.
    pub fn held_bytes(&self) -> usize {
        let content = self.transaction.as_ref().and_then(|it| it.content.as_ref());
        content.map_or(0, |content| content.reader.held_bytes())
    }

    /// Between MAIL and the end of the message.
    pub fn is_in_message(&self) -> bool {
        self.transaction.is_some()
    }

    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// What the client called itself; empty before EHLO or HELO.
    pub fn helo(&self) -> &str {
        &self.helo
    }

    /// When [`Session::timeout`] is to be called. Changes with every call; never while the client
    /// waits for Pelton.
    pub fn deadline(&self) -> Mono {
        let settings = &self.settings;
        if self.replies.held_count() > 0 {
            return Mono::MAX;
        }
        match self.state {
            State::New | State::Asking(_) | State::Closing => Mono::MAX,
            State::Command | State::Overlong { .. } => {
                let between = matches!(self.state, State::Command) && self.line.is_empty();
                let silence = match settings.idle_time.is_zero() {
                    true => Mono::MAX,
                    false => self.clock.input.max(self.clock.turn) + settings.idle_time,
                };
                match between {
                    true if silence != Mono::MAX => silence,
                    true => self.clock.turn + settings.command_timeout,
                    // A command that has begun is to end, however slowly its bytes come.
                    false => {
                        let begun = self.clock.line.max(self.clock.turn);
                        silence.min(begun + settings.command_timeout)
                    }
                }
            }
            State::Data | State::Chunk(_) => {
                let silence = self.clock.input.max(self.clock.turn) + settings.data_timeout;
                silence.min(self.rate_deadline())
            }
        }
    }

    /// Ends the session if its deadline has passed.
    pub fn timeout(&mut self, now: Now) -> Step {
        if matches!(self.state, State::Closing) {
            return self.farewell();
        }
        if now.mono < self.deadline() {
            return Step::Read;
        }
        let is_content = matches!(self.state, State::Data | State::Chunk(_));
        let is_slow = is_content && now.mono >= self.rate_deadline();
        self.close_with(if is_slow {
            &replies::TOO_SLOW
        } else {
            &replies::TIMEOUT
        });
        self.farewell()
    }

    /// Ends the session where the next command would begin. Messages that were taken in whole are
    /// still answered, and one that is coming in may come to its end.
    pub fn shutdown(&mut self) {
        self.is_shutting_down = true;
    }

    /// The moment at which the content so far has become too little.
    fn rate_deadline(&self) -> Mono {
        let (settings, clock) = (&self.settings, &self.clock);
        if settings.rate_min == 0 {
            return Mono::MAX;
        }
        let micros = clock.rate_bytes.saturating_mul(1_000_000) / settings.rate_min;
        clock.rate_from + settings.rate_grace + core::time::Duration::from_micros(micros)
    }

    fn restart_clock(&mut self, now: Now) {
        self.clock.turn = now.mono;
        self.clock.rate_from = now.mono;
        self.clock.rate_bytes = 0;
    }

    /// When the session is over: the connection closes after the last reply has been released.
    fn farewell(&self) -> Step {
        if self.replies.held_count() > 0 {
            Step::Wait
        } else {
            Step::Close
        }
    }

    fn close(&mut self) {
        self.state = State::Closing;
        self.transaction = None;
        self.line = Vec::new();
    }

    fn close_with(&mut self, canned: &'static Canned) {
        self.say(canned);
        self.close();
    }

    fn say(&mut self, canned: &'static Canned) {
        canned.write(self.replies.sink());
        if canned.is_refusal() {
            self.note_rejection(canned);
        }
    }

    fn note_rejection(&mut self, reply: &'static Canned) {
        if self.rejections.len() >= REJECTIONS_MAX {
            self.rejections_dropped = self.rejections_dropped.saturating_add(1);
            return;
        }
        let transaction = self.transaction.as_ref();
        self.rejections.push(Rejection {
            reply,
            sender: transaction.and_then(|it| it.sender.clone()),
            recipient: transaction.and_then(|it| it.asked.clone()),
            recipients: transaction.map_or(0, |it| it.recipients.len() as u32),
        });
    }

    /// Refuses for a reason that is not the client's fault.
    fn decline(&mut self, canned: &'static Canned) {
        self.say(canned);
        if canned.closes() {
            self.close();
        }
    }

    /// Refuses for a fault of the client, of which there may be so many.
    fn fault(&mut self, canned: &'static Canned) {
        self.decline(canned);
        self.errors = self.errors.saturating_add(1);
        if self.errors > self.settings.errors_max && !matches!(self.state, State::Closing) {
            self.close_with(&replies::TOO_MANY_ERRORS);
        }
    }

    /// 5xx is about what the client did; 4xx is about how things are here.
    fn refuse(&mut self, canned: &'static Canned) {
        if canned.code >= 500 {
            self.fault(canned)
        } else {
            self.decline(canned)
        }
    }
}

/// Command lines.
impl Session {
    fn command_line(&mut self, now: Now, rest: &[u8]) -> (usize, Option<Step>) {
        if self.is_shutting_down {
            self.close_with(&replies::SHUTTING_DOWN);
            return (0, None);
        }
        if rest.is_empty() {
            return (0, Some(Step::Read));
        }
        if self.must_wait() {
            return (0, Some(Step::Wait));
        }
        let Some(end) = memchr(b'\n', rest) else {
            if self.line.is_empty() {
                self.clock.line = now.mono;
            }
            self.keep_partial_line(rest);
            return (rest.len(), None);
        };
        let used = end + 1;
        if self.line.is_empty() {
            return (used, self.whole_line(now, &rest[..used]));
        }
        let mut line = core::mem::take(&mut self.line);
        // Of a line over the limit only its end still matters.
        if line.len() + used > self.settings.command_bytes_max {
            let last = line.last().copied().unwrap_or(0);
            self.state = State::Overlong {
                bytes: line.len(),
                last,
            };
            return (0, None);
        }
        line.extend_from_slice(&rest[..used]);
        (used, self.whole_line(now, &line))
    }

    fn must_wait(&self) -> bool {
        let replies = &self.replies;
        replies.held_count() >= UNRESOLVED_MAX
            || replies.message_bytes() >= UNRESOLVED_BYTES_MAX
            || replies.reply_bytes() >= OUTPUT_BYTES_MAX
    }

    fn keep_partial_line(&mut self, rest: &[u8]) {
        let bytes = self.line.len() + rest.len();
        if bytes > self.settings.command_bytes_max {
            let last = rest.last().copied().unwrap_or(0);
            let is_tls = self.line.iter().chain(rest).take(2).eq(&TLS_HELLO);
            self.line = Vec::new();
            self.state = State::Overlong { bytes, last };
            if is_tls {
                self.close();
            }
            return;
        }
        self.line.extend_from_slice(rest);
        if self.line.starts_with(&TLS_HELLO) {
            self.close();
        }
    }

    fn overlong_line(&mut self, rest: &[u8], bytes: usize, last: u8) -> (usize, Option<Step>) {
        if rest.is_empty() {
            return (0, Some(Step::Read));
        }
        let end = memchr(b'\n', rest);
        let used = end.map_or(rest.len(), |end| end + 1);
        let bytes = bytes + used;
        let Some(end) = end else {
            let bytes_max = self.settings.command_bytes_max * COMMAND_OVERSIZE_FACTOR;
            if bytes > bytes_max {
                self.close_with(&replies::COMMAND_TOO_LONG);
                return (used, None);
            }
            let last = rest.last().copied().unwrap_or(last);
            self.state = State::Overlong { bytes, last };
            return (used, None);
        };
        self.state = State::Command;
        let before = if end == 0 { last } else { rest[end - 1] };
        if before != b'\r' {
            self.close_with(&replies::BARE_LINE_END);
            return (used, None);
        }
        self.fault(&replies::COMMAND_TOO_LONG);
        (used, None)
    }

    /// One line with its LF.
    fn whole_line(&mut self, now: Now, line: &[u8]) -> Option<Step> {
        if line.starts_with(&TLS_HELLO) {
            self.close();
            return None;
        }
        let length = line.len();
        let line = match line.strip_suffix(b"\r\n") {
            Some(line) if memchr(b'\r', line).is_none() => line,
            _ => {
                self.close_with(&replies::BARE_LINE_END);
                return None;
            }
        };
        self.clock.turn = now.mono;
        if length > self.settings.command_bytes_max {
            self.fault(&replies::COMMAND_TOO_LONG);
            return None;
        }
        let smtputf8 = self.transaction.as_ref().is_some_and(|it| it.smtputf8);
        match command::parse(line, smtputf8) {
            Ok(command) => self.run(command),
            Err(fault) if fault.closes => {
                self.close_with(fault.reply);
                None
            }
            Err(fault) => {
                self.note_refused_recipient(line);
                self.fault(fault.reply);
                None
            }
        }
    }

    /// A RCPT that could not be parsed is still a RCPT that was refused, for the reply to DATA.
    fn note_refused_recipient(&mut self, line: &[u8]) {
        if let Some(transaction) = &mut self.transaction {
            let verb = line.get(..4).unwrap_or(line);
            transaction.has_refused |= verb.eq_ignore_ascii_case(b"RCPT");
        }
    }

    fn run(&mut self, command: Command<'_>) -> Option<Step> {
        match command {
            Command::Helo(name) => return Some(self.helo_command(name, Method::Smtp)),
            Command::Ehlo(name) => return Some(self.helo_command(name, Method::Esmtp)),
            Command::Mail(mail) => return self.mail_command(mail),
            Command::Rcpt(path) => return self.rcpt_command(path),
            Command::Data => return self.data_command(),
            Command::Bdat(bdat) => return self.bdat_command(bdat),
            Command::Rset => {
                self.transaction = None;
                self.idle_command(&replies::OK);
            }
            Command::Noop => self.idle_command(&replies::OK),
            Command::Help => self.idle_command(&replies::HELP),
            Command::Vrfy => self.idle_command(&replies::VRFY),
            Command::Quit => self.close_with(&replies::BYE),
        }
        None
    }

    fn idle_command(&mut self, canned: &'static Canned) {
        if self.count_idle() {
            self.say(canned);
        }
    }

    /// False when there were too many and the session is over.
    fn count_idle(&mut self) -> bool {
        self.idle_commands = self.idle_commands.saturating_add(1);
        if self.idle_commands > self.settings.idle_commands_max {
            self.close_with(&replies::TOO_MANY_IDLE_COMMANDS);
            return false;
        }
        true
    }

    /// EHLO in mid-session resets like RSET (RFC 5321 4.1.4).
    fn helo_command(&mut self, name: &str, method: Method) -> Step {
        if self.method.is_some() && !self.count_idle() {
            return self.farewell();
        }
        self.transaction = None;
        self.method = None;
        self.helo = name.into();
        self.state = State::Asking(Asking::Ehlo(method));
        Step::Ask
    }

    fn mail_command(&mut self, mail: Mail<'_>) -> Option<Step> {
        let settings = &self.settings;
        let spent = settings.spent(self.receptions, self.recipients);
        let refusal = match self.method {
            None => Some(&replies::HELO_FIRST),
            Some(_) if self.transaction.is_some() => Some(&replies::MAIL_NESTED),
            Some(_) if spent.is_some() => spent,
            Some(Method::Smtp) if mail.has_parameters => Some(&replies::PARAMETER_UNKNOWN),
            Some(_) if mail.size.unwrap_or(0) > settings.message_bytes_max => {
                Some(&replies::MESSAGE_TOO_BIG)
            }
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            self.refuse(refusal);
            return None;
        }
        let sender = match mail.path {
            Path::Mailbox(mailbox) => match Address::from_parts(mailbox.local, mailbox.domain) {
                Some(sender) => Some(sender),
                None => {
                    self.fault(&replies::SENDER_SYNTAX);
                    return None;
                }
            },
            Path::Null | Path::Postmaster => None,
        };
        self.transaction = Some(Transaction {
            sender,
            size: mail.size,
            smtputf8: mail.smtputf8,
            recipients: Vec::new(),
            asked: None,
            has_refused: false,
            overshoot: 0,
            content: None,
        });
        self.state = State::Asking(Asking::Mail);
        Some(Step::Ask)
    }

    /// `<postmaster>` stands for the postmaster of the host that the listener goes by, and policy
    /// is asked about that address like about any other: Pelton has no mailboxes, so that whoever
    /// wants postmaster mail here lists the host as a relay domain and routes it.
    fn rcpt_command(&mut self, path: Path<'_>) -> Option<Step> {
        let recipients_max = self.settings.recipients_max as usize;
        let Some(transaction) = &mut self.transaction else {
            let is_greeted = self.method.is_some();
            self.fault(if is_greeted {
                &replies::MAIL_FIRST
            } else {
                &replies::HELO_FIRST
            });
            return None;
        };
        if transaction.content.is_some() {
            self.fault(&replies::BDAT_BEGUN);
            return None;
        }
        let out_of_all = self.recipients >= self.settings.connection_recipients_max;
        if out_of_all || transaction.recipients.len() >= recipients_max {
            transaction.overshoot += 1;
            if transaction.overshoot > RECIPIENTS_OVERSHOOT_MAX {
                self.fault(&replies::TOO_MANY_RECIPIENTS);
            } else {
                self.decline(&replies::TOO_MANY_RECIPIENTS);
            }
            return None;
        }
        self.recipients = self.recipients.saturating_add(1);
        let address = match path {
            Path::Mailbox(mailbox) => Address::from_parts(mailbox.local, mailbox.domain),
            Path::Null | Path::Postmaster => Address::from_parts("postmaster", &self.settings.host),
        };
        if address.is_none() {
            transaction.has_refused = true;
            self.fault(&replies::RECIPIENT_SYNTAX);
            return None;
        }
        transaction.asked = address;
        self.state = State::Asking(Asking::Rcpt);
        Some(Step::Ask)
    }

    /// Why no content can come now, if so.
    fn refuses_content(&self) -> Option<&'static Canned> {
        match &self.transaction {
            None if self.method.is_none() => Some(&replies::HELO_FIRST),
            None => Some(&replies::MAIL_FIRST),
            Some(it) if !it.recipients.is_empty() => None,
            Some(it) if it.has_refused => Some(&replies::RCPT_NONE_VALID),
            Some(_) => Some(&replies::RCPT_FIRST),
        }
    }

    fn data_command(&mut self) -> Option<Step> {
        let has_begun = self
            .transaction
            .as_ref()
            .is_some_and(|it| it.content.is_some());
        let refusal = self
            .refuses_content()
            .or(has_begun.then_some(&replies::BDAT_BEGUN));
        if let Some(refusal) = refusal {
            self.fault(refusal);
            return None;
        }
        self.state = State::Asking(Asking::Data);
        Some(Step::Ask)
    }

    /// The octets follow the command whatever the answer to it, and have to be eaten. A count that
    /// no message could have ends the connection instead.
    fn bdat_command(&mut self, bdat: Bdat) -> Option<Step> {
        if bdat.octets
            > self
                .settings
                .message_bytes_max
                .saturating_mul(OVERSIZE_FACTOR)
        {
            self.close_with(&replies::MESSAGE_TOO_BIG);
            return None;
        }
        let refusal = self.refuses_content();
        let has_begun = self
            .transaction
            .as_ref()
            .is_some_and(|it| it.content.is_some());
        if refusal.is_none() && !has_begun {
            self.state = State::Asking(Asking::Bdat(bdat));
            return Some(Step::Ask);
        }
        self.clock.rate_from = self.clock.turn;
        self.clock.rate_bytes = 0;
        self.state = State::Chunk(Chunk {
            left: bdat.octets,
            last: bdat.last,
            refusal,
        });
        None
    }
}

/// Verdicts.
impl Session {
    fn answer_refused(&mut self, asking: Asking, canned: &'static Canned) {
        self.refuse(canned);
        match (asking, &mut self.transaction) {
            (Asking::Ehlo(_), _) => self.helo = Box::default(),
            (Asking::Rcpt, Some(transaction)) => {
                transaction.asked = None;
                transaction.has_refused = true;
            }
            (Asking::Rcpt, None) => {}
            (Asking::Mail | Asking::Data | Asking::Bdat(_), _) => self.transaction = None,
        }
    }

    fn greet(&mut self, method: Method) {
        self.method = Some(method);
        let settings = &self.settings;
        let out = self.replies.sink();
        match method {
            Method::Smtp => replies::write_helo(out, &settings.host),
            Method::Esmtp => {
                replies::write_ehlo(out, &settings.host, settings.message_bytes_max);
            }
        }
    }

    fn accept_recipient(&mut self, tag: u32) {
        if let Some(transaction) = &mut self.transaction
            && let Some(address) = transaction.asked.take()
        {
            transaction
                .recipients
                .push(AcceptedRecipient { address, tag });
        }
        self.say(&replies::RECIPIENT_OK);
    }
}

/// Content.
impl Session {
    /// Puts the trace field where the content will follow it.
    fn begin_content(&mut self, now: Now, batch: BatchId, framing: Framing) {
        let limits = self.settings.data_limits();
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let declared = transaction.size.unwrap_or(0).min(BODY_RESERVE_BYTES_MAX) as usize;
        let mut body = Vec::with_capacity(declared + header::RECEIVED_BYTES_MAX);
        let protocol = match self.method {
            Some(Method::Esmtp) if transaction.smtputf8 => Protocol::Utf8Smtp,
            Some(Method::Esmtp) => Protocol::Esmtp,
            Some(Method::Smtp) | None => Protocol::Smtp,
        };
        let trace = Trace {
            helo: &self.helo,
            peer: self.facts.peer.ip(),
            host: &self.settings.host,
            protocol,
            batch,
            at: now.wall,
        };
        header::write_received(&mut body, &trace);
        let trace_bytes = body.len();
        let mut reader = DataReader::new(framing, limits, body);
        if self.heeds_flow_fields {
            reader.heed(self.settings.flow_fields.clone());
        }
        transaction.content = Some(Incoming {
            batch,
            reader,
            trace_bytes,
        });
    }

    fn data(&mut self, now: Now, rest: &[u8]) -> (usize, Option<Step>) {
        if rest.is_empty() {
            return (0, Some(Step::Read));
        }
        let (used, status) = self.push(rest, rest.len());
        let step = match status {
            Status::More => None,
            Status::End => self.finish(now),
            Status::BareLineEnd | Status::Flood => self.broken(status),
        };
        (used, step)
    }

    fn push(&mut self, part: &[u8], expected: usize) -> (usize, Status) {
        let content = self.transaction.as_mut().and_then(|it| it.content.as_mut());
        let content = content.expect("content comes in only where it has begun");
        content.reader.expect(expected);
        let (used, status) = content.reader.push(part);
        self.clock.rate_bytes += used as u64;
        (used, status)
    }

    /// Content that ends the connection: what follows could be anything.
    fn broken(&mut self, status: Status) -> Option<Step> {
        self.close_with(match status {
            Status::Flood => &replies::MESSAGE_TOO_BIG,
            Status::More | Status::End | Status::BareLineEnd => &replies::BARE_LINE_END,
        });
        None
    }

    fn chunk(&mut self, now: Now, rest: &[u8], mut chunk: Chunk) -> (usize, Option<Step>) {
        if chunk.left > 0 && rest.is_empty() {
            return (0, Some(Step::Read));
        }
        let length = usize::try_from(chunk.left)
            .unwrap_or(usize::MAX)
            .min(rest.len());
        let part = &rest[..length];
        chunk.left -= length as u64;
        if chunk.refusal.is_some() {
            self.clock.rate_bytes += length as u64;
        } else {
            let expected = part.len() as u64 + chunk.left.min(BODY_RESERVE_BYTES_MAX);
            let (used, status) = self.push(part, expected as usize);
            if status != Status::More {
                return (used, self.broken(status));
            }
        }
        self.state = State::Chunk(chunk);
        if chunk.left > 0 {
            return (length, None);
        }
        self.state = State::Command;
        self.clock.turn = now.mono;
        let step = match chunk.refusal {
            // RFC 3030 2: after a chunk that failed the transaction has to begin anew.
            Some(refusal) => {
                self.refuse(refusal);
                self.transaction = None;
                None
            }
            None if chunk.last => self.finish(now),
            None => {
                self.say(&replies::CHUNK_OK);
                None
            }
        };
        (length, step)
    }

    /// The message is whole: refuse it, or submit it. Either way the transaction is over.
    fn finish(&mut self, now: Now) -> Option<Step> {
        self.state = State::Command;
        self.clock.turn = now.mono;
        let content = self.transaction.as_mut()?.content.take()?;
        let taken = match content.reader.finish() {
            Ok(taken) => taken,
            Err(Refusal::BareLineEnd) => return self.broken(Status::BareLineEnd),
            Err(refusal) => {
                self.fault(refusal.reply());
                self.transaction = None;
                return None;
            }
        };
        let transaction = self.transaction.take()?;
        let ticket = Ticket(self.ticket_next);
        self.ticket_next = self.ticket_next.wrapping_add(1);
        self.replies.hold(ticket, content.batch, taken.body.len());
        self.receptions = self.receptions.saturating_add(1);
        self.errors = 0;
        self.idle_commands = 0;
        Some(Step::Submit(Box::new(Submission {
            ticket,
            batch: content.batch,
            received: now.wall,
            origin: Origin {
                peer: self.facts.peer.ip().to_canonical(),
                helo: self.helo.clone(),
                method: self.method.unwrap_or(Method::Smtp),
            },
            sender: transaction.sender,
            recipients: transaction.recipients,
            eight_bit: taken.eight_bit,
            smtputf8: transaction.smtputf8,
            subject: taken.subject,
            friendly_from: taken.friendly_from,
            flow: taken.flow,
            trace_bytes: content.trace_bytes,
            body: taken.body,
        })))
    }
}
