//! One connection of a receiving host, without the connection: bytes in, replies out. The session
//! does no IO and reads no clock; when a behaviour wants time it returns [`Step::Wait`] and is
//! resumed. Input is parsed where it lies and kept only while it is incomplete, a body only while
//! it is being captured.

use core::net::SocketAddr;
use core::time::Duration;

use memchr::memchr;

use super::behaviour::Answer;
use super::behaviour::Behaviours;
use super::behaviour::RuleIndex;
use super::behaviour::Stage;
use super::body;
use super::body::EndFinder;
use super::capture;
use super::capture::Captured;
use super::counts::Counts;
use super::judge::Asked;
use super::judge::DOMAIN_BYTES_MAX;
use super::judge::Judge;
use super::judge::Verdict;
use super::judge::domain_of;
use crate::base::prng::Prng;

/// Octets of a command line, end included: twelve times what RFC 5321 section 4.5.3.1.4 asks for.
pub const LINE_BYTES_MAX: usize = 6_144;

/// Recipients of one transaction; the next is answered 452.
pub const RECIPIENTS_MAX: usize = 10_000;

/// Which extensions a sink offers. All, unless switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extensions {
    pub pipelining: bool,
    pub size: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    pub enhanced_status_codes: bool,
    pub chunking: bool,
}

impl Default for Extensions {
    fn default() -> Extensions {
        Extensions {
            pipelining: true,
            size: true,
            eight_bit_mime: true,
            smtputf8: true,
            enhanced_status_codes: true,
            chunking: true,
        }
    }
}

impl Extensions {
    /// Switches one off by its EHLO keyword; false if there is none of that name.
    pub fn without(&mut self, keyword: &str) -> bool {
        let flag = match keyword.to_ascii_uppercase().as_str() {
            "PIPELINING" => &mut self.pipelining,
            "SIZE" => &mut self.size,
            "8BITMIME" => &mut self.eight_bit_mime,
            "SMTPUTF8" => &mut self.smtputf8,
            "ENHANCEDSTATUSCODES" => &mut self.enhanced_status_codes,
            "CHUNKING" => &mut self.chunking,
            _ => return false,
        };
        *flag = false;
        true
    }
}

/// What all sessions of a sink have in common.
#[derive(Debug)]
pub struct Profile {
    pub extensions: Extensions,
    /// Bytes of the largest message that is accepted.
    pub size_bytes_max: u64,
    pub behaviours: Behaviours,
    banner: Vec<u8>,
    ehlo: Vec<u8>,
    helo: Vec<u8>,
}

impl Profile {
    pub fn new(
        hostname: &str,
        extensions: Extensions,
        size_bytes_max: u64,
        behaviours: Behaviours,
    ) -> Profile {
        let size = format!("SIZE {size_bytes_max}");
        let keywords = [
            (extensions.pipelining, "PIPELINING"),
            (extensions.size, size.as_str()),
            (extensions.eight_bit_mime, "8BITMIME"),
            (extensions.smtputf8, "SMTPUTF8"),
            (extensions.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
            (extensions.chunking, "CHUNKING"),
        ];
        let mut lines = vec![hostname];
        lines.extend(
            keywords
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, keyword)| *keyword),
        );
        let mut ehlo = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            let separator = if index + 1 == lines.len() { ' ' } else { '-' };
            ehlo.extend_from_slice(format!("250{separator}{line}\r\n").as_bytes());
        }
        let banner = format!("220 {hostname} ESMTP pelton-sink\r\n").into_bytes();
        let helo = format!("250 {hostname}\r\n").into_bytes();
        Profile {
            extensions,
            size_bytes_max,
            behaviours,
            banner,
            ehlo,
            helo,
        }
    }
}

/// What a session works with during one call.
pub struct Surroundings<'a> {
    /// Microseconds since the sink began.
    pub now_us: u64,
    /// Microseconds since 1970, for the capture.
    pub wall_us: u64,
    pub profile: &'a Profile,
    pub judge: &'a Judge,
    pub prng: &'a mut Prng,
    pub counts: &'a mut Counts,
    /// Records of captured messages, when capturing; on disk before `out` is sent.
    pub capture: Option<&'a mut Vec<u8>>,
    pub out: &'a mut Vec<u8>,
}

/// What the connection does next, after sending what is in `out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read on.
    Read,
    /// Sleep, then call [`Session::resume`].
    Wait(Duration),
    /// Close in order, so that the last reply arrives.
    Close,
    /// Drop the connection as it is.
    Drop,
}

enum State {
    Greeting,
    Command,
    Data(EndFinder),
    Bdat { left: u64, last: bool },
    End,
}

/// Whether a command was dealt with.
enum Done {
    Next,
    /// Deal with it again after this wait.
    Again(Duration),
    Close,
    Drop,
}

/// What behaviour says about a stage.
enum Judged {
    /// Nothing.
    Usual,
    /// Ask again after this wait.
    Later(Duration),
    /// It has answered; whether the command counts as accepted.
    Answered(Done, bool),
}

/// One connection's state.
pub struct Session {
    peer: SocketAddr,
    local: SocketAddr,
    state: State,
    helo: Vec<u8>,
    in_transaction: bool,
    sender: Vec<u8>,
    recipients: Vec<u8>,
    /// Ends of the recipients inside `recipients`.
    recipient_ends: Vec<usize>,
    body: Vec<u8>,
    body_bytes: u64,
    by_bdat: bool,
    /// Bytes of the body after which the connection is dropped.
    drop_after: Option<u64>,
    /// A judgement that waits for its delay to pass.
    judged: Option<Option<RuleIndex>>,
    /// Rules in whose connection count this one is included.
    slots: Vec<RuleIndex>,
    read_rate: Option<u64>,
    reply_rate: Option<u64>,
    /// Messages received whole since [`Session::take_received`].
    received: u64,
    /// Input that could not be dealt with yet.
    held: Vec<u8>,
}

impl Session {
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Session {
        Session {
            peer,
            local,
            state: State::Greeting,
            helo: Vec::new(),
            in_transaction: false,
            sender: Vec::new(),
            recipients: Vec::new(),
            recipient_ends: Vec::new(),
            body: Vec::new(),
            body_bytes: 0,
            by_bdat: false,
            drop_after: None,
            judged: None,
            slots: Vec::new(),
            read_rate: None,
            reply_rate: None,
            received: 0,
            held: Vec::new(),
        }
    }

    /// Bytes per second that may be read from now on.
    pub fn read_rate(&self) -> Option<u64> {
        self.read_rate
    }

    /// Bytes per second that may be written from now on.
    pub fn reply_rate(&self) -> Option<u64> {
        self.reply_rate
    }

    /// Messages received whole, answered or dropped on purpose, since the last call.
    pub fn take_received(&mut self) -> u64 {
        core::mem::take(&mut self.received)
    }

    /// Begins the session, or goes on after a wait.
    pub fn resume(&mut self, around: &mut Surroundings<'_>) -> Step {
        self.feed(&[], around)
    }

    /// Deals with all of `input` that can be dealt with, keeps the rest.
    pub fn feed(&mut self, input: &[u8], around: &mut Surroundings<'_>) -> Step {
        if self.held.is_empty() {
            let (used, step) = self.advance(input, around);
            self.held.extend_from_slice(&input[used..]);
            return step;
        }
        let mut held = core::mem::take(&mut self.held);
        held.extend_from_slice(input);
        let (used, step) = self.advance(&held, around);
        held.drain(..used);
        self.held = held;
        step
    }

    /// Gives back what the session holds of shared limits. Call once, when the connection ended.
    pub fn end(&mut self, judge: &Judge, counts: &mut Counts) {
        for rule in self.slots.drain(..) {
            judge.leave(rule);
        }
        if self.in_transaction {
            counts.lost_in_transaction += 1;
        }
    }

    fn advance(&mut self, input: &[u8], around: &mut Surroundings<'_>) -> (usize, Step) {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let (length, done) = match self.state {
                State::Greeting => (0, self.greet(around)),
                State::End => (0, self.end_of_message(around)),
                State::Command => match memchr(b'\n', rest) {
                    Some(end) if end < LINE_BYTES_MAX => (end + 1, self.line(&rest[..end], around)),
                    None if rest.len() < LINE_BYTES_MAX => return (used, Step::Read),
                    _ => {
                        reply(around, b"500 5.5.2 line too long\r\n");
                        return (input.len(), self.closing(Step::Close));
                    }
                },
                State::Data(finder) => {
                    if rest.is_empty() {
                        return (used, Step::Read);
                    }
                    (self.data(finder, rest, around), Done::Next)
                }
                State::Bdat { left, last } => {
                    if rest.is_empty() && left > 0 {
                        return (used, Step::Read);
                    }
                    (self.chunk(left, last, rest, around), Done::Next)
                }
            };
            match done {
                Done::Next => used += length,
                Done::Again(wait) => return (used, Step::Wait(wait)),
                Done::Close => return (input.len(), self.closing(Step::Close)),
                Done::Drop => return (input.len(), self.closing(Step::Drop)),
            }
            if self
                .drop_after
                .is_some_and(|after| self.body_bytes >= after)
            {
                around.counts.closed_in_body += 1;
                return (input.len(), self.closing(Step::Drop));
            }
        }
    }

    /// The session ends by its own doing, so an open transaction is not a lost one.
    fn closing(&mut self, step: Step) -> Step {
        self.in_transaction = false;
        self.held = Vec::new();
        step
    }

    fn greet(&mut self, around: &mut Surroundings<'_>) -> Done {
        let profile = around.profile;
        let (done, _) = self.judged_reply(Stage::Connect, &profile.banner, around);
        if !matches!(done, Done::Again(_)) {
            self.state = State::Command;
        }
        done
    }

    /// One command line without its LF. The first letters decide, as in any server that has to
    /// be quick; what is not known is answered 500.
    fn line(&mut self, line: &[u8], around: &mut Surroundings<'_>) -> Done {
        let line = match line.strip_suffix(b"\r") {
            Some(line) => line,
            None => {
                around.counts.bare_line_feeds += 1;
                line
            }
        };
        let verb_length = line
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(line.len());
        let (verb, rest) = line.split_at(verb_length);
        let rest = rest.trim_ascii();
        let mut upper = [0; 8];
        let Some(verb_upper) = upper.get_mut(..verb.len()) else {
            reply(around, b"500 5.5.1 what was that\r\n");
            return Done::Next;
        };
        verb_upper.copy_from_slice(verb);
        verb_upper.make_ascii_uppercase();
        match &*verb_upper {
            b"MAIL" => return self.mail(rest, around),
            b"RCPT" => return self.rcpt(rest, around),
            b"DATA" => return self.data_command(around),
            b"BDAT" => return self.bdat_command(rest, around),
            b"EHLO" | b"HELO" => return self.hello(rest, verb_upper == b"EHLO", around),
            b"RSET" => {
                self.reset();
                reply(around, b"250 2.0.0 reset\r\n");
            }
            b"NOOP" => reply(around, b"250 2.0.0 nothing done\r\n"),
            b"HELP" => reply(around, b"214 2.0.0 this is a test sink\r\n"),
            b"VRFY" => reply(around, b"252 2.5.0 try it\r\n"),
            b"QUIT" => {
                reply(around, b"221 2.0.0 bye\r\n");
                return Done::Close;
            }
            _ => reply(around, b"500 5.5.1 what was that\r\n"),
        }
        Done::Next
    }

    fn hello(&mut self, name: &[u8], extended: bool, around: &mut Surroundings<'_>) -> Done {
        let profile = around.profile;
        let usual = if extended {
            &profile.ehlo
        } else {
            &profile.helo
        };
        let (done, accepted) = self.judged_reply(Stage::Ehlo, usual, around);
        if accepted {
            self.reset();
            self.helo.clear();
            self.helo.extend_from_slice(name);
        }
        done
    }

    fn mail(&mut self, rest: &[u8], around: &mut Surroundings<'_>) -> Done {
        let Some((sender, parameters)) = path(rest, b"FROM:") else {
            reply(around, b"501 5.5.4 MAIL FROM:<address>\r\n");
            return Done::Next;
        };
        if self.in_transaction {
            reply(around, b"503 5.5.1 in a transaction already\r\n");
            return Done::Next;
        }
        if let Some(refusal) = refused_parameter(parameters, around.profile) {
            reply(around, refusal);
            return Done::Next;
        }
        let (done, accepted) = self.judged_reply(Stage::Mail, b"250 2.1.0 sender ok\r\n", around);
        if accepted {
            self.reset();
            self.in_transaction = true;
            self.sender.extend_from_slice(sender);
        }
        done
    }

    fn rcpt(&mut self, rest: &[u8], around: &mut Surroundings<'_>) -> Done {
        let Some((recipient, _)) = path(rest, b"TO:") else {
            reply(around, b"501 5.5.4 RCPT TO:<address>\r\n");
            return Done::Next;
        };
        if !self.in_transaction {
            reply(around, b"503 5.5.1 MAIL first\r\n");
            return Done::Next;
        }
        if self.recipient_ends.len() == RECIPIENTS_MAX {
            reply(around, b"452 4.5.3 too many recipients\r\n");
            return Done::Next;
        }
        // Kept first, since the judgement looks at it, and taken back if it is refused.
        let start = self.recipients.len();
        self.recipients.extend_from_slice(recipient);
        self.recipient_ends.push(self.recipients.len());
        let sent = around.out.len();
        let (done, accepted) =
            self.judged_reply(Stage::Rcpt, b"250 2.1.5 recipient ok\r\n", around);
        if !accepted {
            self.recipient_ends.pop();
        }
        if !matches!(done, Done::Again(_)) {
            let class = around.out.get(sent).copied();
            let mut name = [0; DOMAIN_BYTES_MAX];
            let counts = around.counts.domain_mut(domain_of(recipient, &mut name));
            match (accepted, class) {
                (true, _) => counts.recipients += 1,
                (false, Some(b'4')) => counts.deferred += 1,
                (false, Some(b'5')) => counts.rejected += 1,
                (false, _) => {}
            }
        }
        if !accepted {
            self.recipients.truncate(start);
        }
        done
    }

    fn data_command(&mut self, around: &mut Surroundings<'_>) -> Done {
        if self.recipient_ends.is_empty() || self.by_bdat {
            reply(around, b"503 5.5.1 RCPT first\r\n");
            return Done::Next;
        }
        let (done, accepted) = self.judged_reply(Stage::Data, b"354 go ahead\r\n", around);
        if accepted {
            self.state = State::Data(EndFinder::at_line_start());
            self.judge_body(around);
        }
        done
    }

    fn bdat_command(&mut self, rest: &[u8], around: &mut Surroundings<'_>) -> Done {
        let mut words = rest.split(|byte| *byte == b' ');
        let size = words
            .next()
            .and_then(|size| str::from_utf8(size).ok()?.parse().ok());
        let last = match (words.next(), words.next()) {
            (None, None) => Some(false),
            (Some(word), None) if word.eq_ignore_ascii_case(b"LAST") => Some(true),
            _ => None,
        };
        let (Some(left), Some(last)) = (size, last) else {
            // The octets that follow cannot be told from commands any more.
            reply(around, b"501 5.5.4 BDAT size [LAST]\r\n");
            return Done::Close;
        };
        if !around.profile.extensions.chunking {
            reply(around, b"502 5.5.1 CHUNKING is not offered\r\n");
            return Done::Close;
        }
        if !self.by_bdat && !self.recipient_ends.is_empty() {
            self.judge_body(around);
        }
        self.by_bdat = true;
        self.state = State::Bdat { left, last };
        Done::Next
    }

    /// Takes what belongs to a DATA body off the input.
    fn data(
        &mut self,
        mut finder: EndFinder,
        input: &[u8],
        around: &mut Surroundings<'_>,
    ) -> usize {
        let end = finder.find(input);
        let length = end.unwrap_or(input.len());
        self.keep(&input[..length], around);
        self.state = match end {
            Some(_) => State::End,
            None => State::Data(finder),
        };
        length
    }

    /// Takes what belongs to a BDAT chunk off the input, even of one that will be refused.
    fn chunk(
        &mut self,
        left: u64,
        last: bool,
        input: &[u8],
        around: &mut Surroundings<'_>,
    ) -> usize {
        let length = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        self.keep(&input[..length], around);
        let left = left - length as u64;
        self.state = State::Bdat { left, last };
        if left > 0 {
            return length;
        }
        if self.recipient_ends.is_empty() {
            self.reset();
            self.state = State::Command;
            reply(around, b"503 5.5.1 RCPT first\r\n");
        } else if last {
            self.state = State::End;
        } else {
            self.state = State::Command;
            reply(around, b"250 2.0.0 chunk taken\r\n");
        }
        length
    }

    fn keep(&mut self, bytes: &[u8], around: &Surroundings<'_>) {
        self.body_bytes += bytes.len() as u64;
        let wanted = around.capture.is_some() && self.body_bytes <= around.profile.size_bytes_max;
        if wanted {
            self.body.extend_from_slice(bytes);
        }
    }

    fn end_of_message(&mut self, around: &mut Surroundings<'_>) -> Done {
        if self.body_bytes > around.profile.size_bytes_max {
            around.counts.oversized += 1;
            self.reset();
            self.state = State::Command;
            reply(around, b"552 5.3.4 message too big\r\n");
            return Done::Next;
        }
        let (done, accepted) = self.judged_reply(Stage::Dot, b"250 2.0.0 taken\r\n", around);
        match done {
            Done::Again(_) => return done,
            Done::Drop => {
                around.counts.dropped_after_dot += 1;
                self.received += 1;
                self.capture(false, around);
            }
            Done::Next | Done::Close if accepted => self.accepted(around),
            Done::Next | Done::Close => {}
        }
        self.reset();
        self.state = State::Command;
        done
    }

    fn accepted(&mut self, around: &mut Surroundings<'_>) {
        self.capture(true, around);
        around.counts.messages += 1;
        self.received += 1;
        around.counts.recipients += self.recipient_ends.len() as u64;
        around.counts.bytes += self.body_bytes - if self.by_bdat { 0 } else { 3 };
        around.counts.bdat_messages += u64::from(self.by_bdat);
        let mut start = 0;
        for end in &self.recipient_ends {
            let mut name = [0; DOMAIN_BYTES_MAX];
            let domain = domain_of(&self.recipients[start..*end], &mut name);
            around.counts.domain_mut(domain).delivered += 1;
            start = *end;
        }
    }

    fn capture(&mut self, final_reply: bool, around: &mut Surroundings<'_>) {
        let Some(records) = around.capture.as_deref_mut() else {
            return;
        };
        let unstuffed;
        let body = match self.by_bdat {
            true => &self.body,
            false => {
                unstuffed = body::unstuff(&self.body);
                &unstuffed
            }
        };
        let captured = Captured {
            received_us: around.wall_us,
            peer: self.peer,
            local: self.local,
            helo: &self.helo,
            mail_from: &self.sender,
            recipients: &self.recipients,
            recipient_ends: &self.recipient_ends,
            final_reply,
            body,
        };
        capture::append(&captured, records);
    }

    fn reset(&mut self) {
        self.in_transaction = false;
        self.sender.clear();
        self.recipients.clear();
        self.recipient_ends.clear();
        self.body.clear();
        self.body_bytes = 0;
        self.by_bdat = false;
        self.drop_after = None;
    }

    fn judge_body(&mut self, around: &mut Surroundings<'_>) {
        let rule = self
            .ask(Stage::Body, around)
            .and_then(|verdict| verdict.rule);
        self.drop_after = rule.map(|rule| around.profile.behaviours.rule(rule).after_bytes);
    }

    /// Answers by behaviour if there is one, else with `usual`. The second value says whether the
    /// command counts as accepted.
    fn judged_reply(
        &mut self,
        stage: Stage,
        usual: &[u8],
        around: &mut Surroundings<'_>,
    ) -> (Done, bool) {
        match self.judge(stage, around) {
            Judged::Usual => {
                reply(around, usual);
                (Done::Next, true)
            }
            Judged::Later(delay) => (Done::Again(delay), false),
            Judged::Answered(done, accepted) => (done, accepted),
        }
    }

    /// What behaviour makes of this stage. A delay is served once: the judgement that it belongs
    /// to is kept and found again when the command is dealt with again.
    fn judge(&mut self, stage: Stage, around: &mut Surroundings<'_>) -> Judged {
        let rule = match self.judged.take() {
            Some(rule) => rule,
            None => {
                let Some(verdict) = self.ask(stage, around) else {
                    return Judged::Usual;
                };
                self.read_rate = verdict.read_rate.or(self.read_rate);
                self.reply_rate = verdict.reply_rate.or(self.reply_rate);
                if let Some(delay) = verdict.delay {
                    self.judged = Some(verdict.rule);
                    return Judged::Later(delay);
                }
                verdict.rule
            }
        };
        let profile = around.profile;
        match rule.and_then(|rule| profile.behaviours.rule(rule).answer.as_ref()) {
            None => Judged::Usual,
            Some(answer) => Judged::Answered(answer_with(answer, stage, around), answer.accepts),
        }
    }

    fn ask(&mut self, stage: Stage, around: &mut Surroundings<'_>) -> Option<Verdict> {
        if around.profile.behaviours.is_empty() {
            return None;
        }
        let newest_only = stage == Stage::Rcpt;
        let first = match newest_only {
            true => self.recipient_ends.len().saturating_sub(1),
            false => 0,
        };
        let asked = Asked {
            stage,
            now_us: around.now_us,
            listener: self.local,
            peer: self.peer.ip(),
            sender: &self.sender,
            recipients: &self.recipients,
            recipient_ends: &self.recipient_ends,
            first,
        };
        let behaviours = &around.profile.behaviours;
        Some(
            around
                .judge
                .judge(behaviours, &asked, &mut self.slots, around.prng),
        )
    }
}

/// Appends and counts one reply.
fn reply(around: &mut Surroundings<'_>, bytes: &[u8]) {
    around.counts.reply(bytes);
    around.out.extend_from_slice(bytes);
}

fn answer_with(answer: &Answer, stage: Stage, around: &mut Surroundings<'_>) -> Done {
    if answer.bytes.is_empty() {
        around.counts.closed_unanswered += u64::from(answer.close && stage != Stage::Dot);
        return if answer.close { Done::Drop } else { Done::Next };
    }
    reply(around, &answer.bytes);
    if answer.close {
        Done::Close
    } else {
        Done::Next
    }
}

/// The address and the parameters of `FROM:<address> parameters`; the first `>` outside a quoted
/// string ends the address.
fn path<'a>(rest: &'a [u8], keyword: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (head, rest) = rest.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = rest.trim_ascii_start().strip_prefix(b"<")?;
    let mut quoted = false;
    let mut escaped = false;
    let end = rest.iter().position(|byte| {
        let ends = *byte == b'>' && !quoted;
        quoted ^= *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    Some((&rest[..end], rest[end + 1..].trim_ascii()))
}

/// The refusal of a MAIL parameter whose extension was switched off, or that asks too much.
fn refused_parameter(parameters: &[u8], profile: &Profile) -> Option<&'static [u8]> {
    let offered = profile.extensions;
    for parameter in parameters.split(|byte| *byte == b' ') {
        let is = |name: &[u8]| {
            parameter
                .get(..name.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(name))
        };
        if is(b"SIZE=") {
            if !offered.size {
                return Some(b"555 5.5.4 SIZE is not offered\r\n");
            }
            let size: Option<u64> = str::from_utf8(&parameter[5..])
                .ok()
                .and_then(|size| size.parse().ok());
            match size {
                None => return Some(b"501 5.5.4 SIZE=number\r\n"),
                Some(size) if size > profile.size_bytes_max => {
                    return Some(b"552 5.3.4 message too big\r\n");
                }
                Some(_) => {}
            }
        } else if is(b"BODY=8BITMIME") && !offered.eight_bit_mime {
            return Some(b"555 5.5.4 8BITMIME is not offered\r\n");
        } else if is(b"SMTPUTF8") && !offered.smtputf8 {
            return Some(b"555 5.5.4 SMTPUTF8 is not offered\r\n");
        }
    }
    None
}
