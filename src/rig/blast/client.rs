//! One connection of the generator: transactions in the mode that was asked for. What is on its
//! way when a connection dies is counted as what it is: acknowledged, refused, sent whole without
//! an answer, or cut short.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::Write;
use std::rc::Rc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Executor;
use super::Mode;
use super::Task;
use super::content::BlastId;
use super::content::append_decimal;
use super::wire::Wait;
use super::wire::Wire;
use crate::rig::runtime::Ended;
use crate::rig::runtime::Interrupt;

/// Pauses before a connection is opened again.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Connections that are opened at once, and the pause between such groups: a thousand SYNs in
/// one moment overflow a back-log and cost a retransmit of a second each.
const DIAL_GROUP: usize = 256;
const DIAL_PAUSE: Duration = Duration::from_millis(10);

/// Choices are numbered so that recipient 0 of message N and the size of message N differ.
const SIZE_CHOICE: u64 = 1 << 63;

/// Room of the send buffer that is kept between messages.
const OUT_BYTES_KEPT: usize = 256 * 1024;

/// What the server offers.
#[derive(Debug, Clone, Copy, Default)]
struct Offers {
    pipelining: bool,
    chunking: bool,
    size: bool,
}

/// A transaction on its way.
#[derive(Debug)]
struct Flight {
    id: BlastId,
    size: usize,
    began: Instant,
    /// Indices of refused recipients.
    refused: Vec<usize>,
    /// MAIL, DATA or every recipient was refused.
    failed: bool,
}

/// Why a connection is not used any longer, other than by failing.
enum Over {
    /// The run has no more messages.
    Run,
    /// The connection has carried its messages.
    Connection,
}

struct Client {
    executor: Rc<Executor>,
    index: usize,
    interrupt: Rc<Interrupt>,
    wait: Rc<Wait>,
    /// Messages of which the server may have the end, and those of which it has not.
    sent_whole: u64,
    begun: u64,
    /// Messages begun on this connection.
    carried: u64,
}

/// Runs connection `index` until the run is over or the connection is lost for good.
pub(super) async fn run(executor: Rc<Executor>, index: usize, interrupt: Rc<Interrupt>) {
    let wait = Rc::new(Wait::new(interrupt.clone()));
    executor.waits.borrow_mut().push(wait.clone());
    let mut client = Client {
        executor,
        index,
        interrupt,
        wait,
        sent_whole: 0,
        begun: 0,
        carried: 0,
    };
    let groups_before = u32::try_from(index / DIAL_GROUP).unwrap_or(u32::MAX);
    if groups_before > 0 && !client.interrupt.sleep(DIAL_PAUSE * groups_before).await {
        return;
    }
    let mut backoff = BACKOFF_MIN;
    let shared = client.executor.shared.clone();
    while !shared.draining.load(Ordering::Relaxed) {
        let mut fails = false;
        match client.connect().await {
            Ok((wire, offers)) => {
                backoff = BACKOFF_MIN;
                match client.converse(wire, offers).await {
                    Ok(Over::Run) => return,
                    Ok(Over::Connection) => continue,
                    Err(ended) => {
                        let timed_out = client.account_for_loss();
                        shared.note_trouble("lost", &ended, timed_out);
                    }
                }
            }
            Err(ended) => {
                client.stats().connections_failed += 1;
                let timed_out = client.take_expiry();
                shared.note_trouble("not opened", &ended, timed_out);
                fails = true;
            }
        }
        let pause = shared.left().map_or(backoff, |left| left.min(backoff));
        if !shared.config.reconnect || !client.interrupt.sleep(pause).await {
            return;
        }
        if shared.is_over() {
            if fails {
                let fault = "a target could not be reached when the time was over";
                shared.fail(fault.to_string());
            }
            return;
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

impl Client {
    fn stats(&self) -> std::sync::MutexGuard<'_, super::stats::Stats> {
        self.executor.shared.stats(self.executor.index)
    }

    async fn connect(&mut self) -> Result<(Wire, Offers), Ended> {
        let config = &self.executor.shared.config;
        let target: SocketAddr = config.targets[self.index % config.targets.len()];
        let source = match config.sources.len() {
            0 => None,
            sources => Some(config.sources[self.index % sources]),
        };
        let (interrupt, wait) = (self.interrupt.clone(), self.wait.clone());
        let mut wire = Wire::dial(self.executor.clone(), target, source, interrupt, wait).await?;
        let banner = wire.reply().await?;
        if banner / 100 != 2 {
            return Err(Ended::Refused(banner));
        }
        wire.out
            .extend_from_slice(format!("EHLO {}\r\n", config.helo).as_bytes());
        wire.send().await?;
        let mut offers = Offers::default();
        let code = wire
            .reply_lines(|line| {
                let keyword = line.split(|byte| *byte == b' ').next().unwrap_or_default();
                offers.pipelining |= keyword.eq_ignore_ascii_case(b"PIPELINING");
                offers.chunking |= keyword.eq_ignore_ascii_case(b"CHUNKING");
                offers.size |= keyword.eq_ignore_ascii_case(b"SIZE");
            })
            .await?;
        if code / 100 != 2 {
            return Err(Ended::Refused(code));
        }
        self.stats().connections_opened += 1;
        self.carried = 0;
        let lacking = match config.mode {
            Mode::Pipelining | Mode::PipelineNext if !offers.pipelining => Some("PIPELINING"),
            Mode::BdatGroup(_) if !offers.chunking => Some("CHUNKING"),
            Mode::BdatGroup(_) if !offers.pipelining => Some("PIPELINING"),
            _ => None,
        };
        if let Some(keyword) = lacking {
            self.executor
                .shared
                .fail(format!("{target} does not offer {keyword}"));
            return Err(Ended::Closed);
        }
        Ok((wire, offers))
    }

    async fn converse(&mut self, mut wire: Wire, offers: Offers) -> Result<Over, Ended> {
        let over = match self.executor.shared.config.mode {
            Mode::Lockstep | Mode::Pipelining => self.one_by_one(&mut wire, offers).await?,
            Mode::PipelineNext => self.overlapped(&mut wire, offers).await?,
            Mode::BdatGroup(group) => self.grouped(&mut wire, offers, group).await?,
        };
        // Everything is answered: how the connection ends changes nothing any more.
        wire.out.extend_from_slice(b"QUIT\r\n");
        if wire.send().await.is_ok() {
            let _ = wire.reply().await;
        }
        self.take_expiry();
        Ok(over)
    }

    async fn one_by_one(&mut self, wire: &mut Wire, offers: Offers) -> Result<Over, Ended> {
        let pipelining = self.executor.shared.config.mode == Mode::Pipelining;
        loop {
            let flight = match self.next().await {
                Ok(task) => self.begin(task),
                Err(over) => return Ok(over),
            };
            match pipelining {
                true => self.pipelined(wire, offers, flight).await?,
                false => self.lockstep(wire, offers, flight).await?,
            }
        }
    }

    async fn lockstep(
        &mut self,
        wire: &mut Wire,
        offers: Offers,
        mut flight: Flight,
    ) -> Result<(), Ended> {
        self.append_mail(&flight, offers, &mut wire.out);
        wire.send().await?;
        flight.failed = wire.reply().await? / 100 != 2;
        for index in 0..self.executor.shared.config.recipients_per_message {
            if !flight.failed {
                self.append_rcpt(&flight, index, &mut wire.out);
                wire.send().await?;
                if wire.reply().await? / 100 != 2 {
                    flight.refused.push(index);
                }
            }
        }
        flight.failed |= self.all_refused(&flight);
        if !flight.failed {
            wire.out.extend_from_slice(b"DATA\r\n");
            wire.send().await?;
            flight.failed = wire.reply().await? != 354;
        }
        if flight.failed {
            self.refused(&flight);
            return self.rset(wire).await;
        }
        self.append_data(&flight, &mut wire.out);
        self.sent(1);
        wire.send().await?;
        let code = wire.reply().await?;
        self.answered(&flight, code);
        self.flush_acked();
        Ok(())
    }

    async fn pipelined(
        &mut self,
        wire: &mut Wire,
        offers: Offers,
        mut flight: Flight,
    ) -> Result<(), Ended> {
        self.append_envelope(&flight, offers, &mut wire.out);
        wire.out.extend_from_slice(b"DATA\r\n");
        wire.send().await?;
        if !self.read_data_permission(wire, &mut flight).await? {
            self.refused(&flight);
            return self.rset(wire).await;
        }
        self.append_data(&flight, &mut wire.out);
        self.sent(1);
        wire.send().await?;
        let code = wire.reply().await?;
        self.answered(&flight, code);
        self.flush_acked();
        Ok(())
    }

    /// Message N goes out together with envelope N + 1.
    async fn overlapped(&mut self, wire: &mut Wire, offers: Offers) -> Result<Over, Ended> {
        let mut following: Option<Flight> = None;
        loop {
            let mut flight = match following.take() {
                Some(flight) => flight,
                None => {
                    let flight = match self.next().await {
                        Ok(task) => self.begin(task),
                        Err(over) => return Ok(over),
                    };
                    self.append_envelope(&flight, offers, &mut wire.out);
                    wire.out.extend_from_slice(b"DATA\r\n");
                    wire.send().await?;
                    flight
                }
            };
            if !self.read_data_permission(wire, &mut flight).await? {
                self.refused(&flight);
                self.rset(wire).await?;
                continue;
            }
            self.append_data(&flight, &mut wire.out);
            self.sent(1);
            if !self.connection_is_spent()
                && let Some(task) = self.executor.shared.claim_due()
            {
                let next = self.begin(task);
                self.append_envelope(&next, offers, &mut wire.out);
                wire.out.extend_from_slice(b"DATA\r\n");
                following = Some(next);
            }
            wire.send().await?;
            let code = wire.reply().await?;
            self.answered(&flight, code);
            self.flush_acked();
        }
    }

    /// Groups of whole messages by BDAT, each group in one send.
    async fn grouped(
        &mut self,
        wire: &mut Wire,
        offers: Offers,
        group_max: usize,
    ) -> Result<Over, Ended> {
        let mut group: Vec<Flight> = Vec::with_capacity(group_max);
        loop {
            let mut task = match self.next().await {
                Ok(task) => Some(task),
                Err(over) => return Ok(over),
            };
            while let Some(begun) = task.take() {
                let flight = self.begin(begun);
                self.append_envelope(&flight, offers, &mut wire.out);
                wire.out.extend_from_slice(b"BDAT ");
                append_decimal(flight.size as u64, &mut wire.out);
                wire.out.extend_from_slice(b" LAST\r\n");
                let content = &self.executor.shared.content;
                content.append(flight.id, flight.size, &mut wire.out);
                self.sent(1);
                group.push(flight);
                if group.len() < group_max && !self.connection_is_spent() {
                    task = self.executor.shared.claim_due();
                }
            }
            wire.send().await?;
            let mut failed = false;
            for mut flight in group.drain(..) {
                self.read_envelope_replies(wire, &mut flight).await?;
                let code = wire.reply().await?;
                failed |= code / 100 != 2;
                self.answered(&flight, code);
                if !wire.has_input() {
                    self.flush_acked();
                }
            }
            if failed {
                self.rset(wire).await?;
            }
        }
    }

    /// The next message, waited for if it is not due yet.
    async fn next(&mut self) -> Result<Task, Over> {
        if self.connection_is_spent() {
            return Err(Over::Connection);
        }
        let task = self.executor.shared.claim().ok_or(Over::Run)?;
        if let Some(due) = task.due {
            let now = Instant::now();
            if due > now && !self.interrupt.sleep(due - now).await {
                return Err(Over::Run);
            }
            if self.executor.shared.draining.load(Ordering::Relaxed) {
                return Err(Over::Run);
            }
        }
        Ok(task)
    }

    fn connection_is_spent(&self) -> bool {
        let limit = self.executor.shared.config.messages_per_connection;
        limit.is_some_and(|limit| self.carried >= limit)
    }

    fn begin(&mut self, task: Task) -> Flight {
        let config = &self.executor.shared.config;
        self.begun += 1;
        self.carried += 1;
        self.stats().started += 1;
        Flight {
            id: BlastId {
                run: config.run,
                number: task.number,
            },
            size: *config.sizes.pick(task.number | SIZE_CHOICE),
            began: task.due.unwrap_or_else(Instant::now),
            refused: Vec::new(),
            failed: false,
        }
    }

    /// `messages` of those begun are now on their way whole.
    fn sent(&mut self, messages: u64) {
        self.begun -= messages;
        self.sent_whole += messages;
    }

    /// A transaction has ended before its message was sent.
    fn refused(&mut self, flight: &Flight) {
        self.begun -= 1;
        let mut stats = self.stats();
        stats.refused += 1;
        stats.recipients_refused += flight.refused.len() as u64;
        stats.transaction(flight.began.elapsed());
    }

    /// The final reply to a message has come.
    fn answered(&mut self, flight: &Flight, code: u16) {
        self.sent_whole -= 1;
        let recipients = self.executor.shared.config.recipients_per_message;
        let accepted = recipients - flight.refused.len();
        {
            let mut stats = self.stats();
            stats.transaction(flight.began.elapsed());
            stats.recipients_refused += flight.refused.len() as u64;
            if code / 100 == 2 {
                stats.acknowledged += 1;
                stats.recipients += accepted as u64;
                stats.bytes += flight.size as u64;
            } else {
                stats.refused += 1;
            }
        }
        if code / 100 == 2 && self.executor.shared.acked.is_some() {
            self.append_acked(flight, &mut self.executor.acked.borrow_mut());
        }
    }

    /// Hands the lines of acknowledged messages to the kernel. Called before anything is waited
    /// for, so that the file lacks nothing but what came in the very last moment.
    fn flush_acked(&self) {
        let Some(file) = &self.executor.shared.acked else {
            return;
        };
        let mut lines = self.executor.acked.borrow_mut();
        if lines.is_empty() {
            return;
        }
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(&lines) {
            self.executor
                .shared
                .fail(format!("cannot write acknowledged messages: {error}"));
        }
        lines.clear();
    }

    /// Counts what was on its way when the connection was lost; true if a time limit ended it.
    fn account_for_loss(&mut self) -> bool {
        self.flush_acked();
        let timed_out = self.take_expiry();
        let mut stats = self.executor.shared.stats(self.executor.index);
        stats.connections_lost += 1;
        stats.timeouts += u64::from(timed_out);
        stats.unacknowledged += core::mem::take(&mut self.sent_whole);
        stats.aborted += core::mem::take(&mut self.begun);
        timed_out
    }

    /// Whether a time limit ended the last wait; the connection can be opened anew then.
    fn take_expiry(&self) -> bool {
        let expired = self.wait.expired.take();
        if expired {
            self.interrupt.clear();
        }
        expired
    }

    async fn rset(&mut self, wire: &mut Wire) -> Result<(), Ended> {
        wire.out.extend_from_slice(b"RSET\r\n");
        wire.send().await?;
        wire.reply().await?;
        Ok(())
    }

    async fn read_envelope_replies(
        &mut self,
        wire: &mut Wire,
        flight: &mut Flight,
    ) -> Result<(), Ended> {
        flight.failed = wire.reply().await? / 100 != 2;
        for index in 0..self.executor.shared.config.recipients_per_message {
            if wire.reply().await? / 100 != 2 {
                flight.refused.push(index);
            }
        }
        flight.failed |= self.all_refused(flight);
        Ok(())
    }

    /// Reads the replies to MAIL, RCPT and DATA. A 354 that a server gives without a recipient is
    /// answered with an empty message, as RFC 2920 section 3.1 asks.
    async fn read_data_permission(
        &mut self,
        wire: &mut Wire,
        flight: &mut Flight,
    ) -> Result<bool, Ended> {
        self.read_envelope_replies(wire, flight).await?;
        let permitted = wire.reply().await? == 354;
        if permitted && flight.failed {
            wire.out.extend_from_slice(b".\r\n");
            wire.send().await?;
            wire.reply().await?;
        }
        flight.failed |= !permitted;
        Ok(!flight.failed)
    }

    fn all_refused(&self, flight: &Flight) -> bool {
        flight.refused.len() == self.executor.shared.config.recipients_per_message
    }

    fn append_envelope(&self, flight: &Flight, offers: Offers, out: &mut Vec<u8>) {
        self.append_mail(flight, offers, out);
        for index in 0..self.executor.shared.config.recipients_per_message {
            self.append_rcpt(flight, index, out);
        }
    }

    fn append_mail(&self, flight: &Flight, offers: Offers, out: &mut Vec<u8>) {
        out.extend_from_slice(b"MAIL FROM:<");
        out.extend_from_slice(self.executor.shared.config.from.as_bytes());
        out.push(b'>');
        if offers.size {
            out.extend_from_slice(b" SIZE=");
            append_decimal(flight.size as u64, out);
        }
        out.extend_from_slice(b"\r\n");
    }

    fn append_rcpt(&self, flight: &Flight, index: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(b"RCPT TO:<");
        self.append_recipient(flight.id, index, out);
        out.extend_from_slice(b">\r\n");
    }

    fn append_recipient(&self, id: BlastId, index: usize, out: &mut Vec<u8>) {
        let config = &self.executor.shared.config;
        out.push(b'u');
        append_decimal(id.number, out);
        if config.recipients_per_message > 1 {
            out.push(b'-');
            append_decimal(index as u64, out);
        }
        out.push(b'@');
        let choice = id.number.wrapping_mul(super::RECIPIENTS_MAX as u64) + index as u64;
        out.extend_from_slice(config.domains.pick(choice).as_bytes());
    }

    fn append_data(&self, flight: &Flight, out: &mut Vec<u8>) {
        out.shrink_to(OUT_BYTES_KEPT);
        self.executor
            .shared
            .content
            .append_stuffed(flight.id, flight.size, out);
    }

    /// One line of the file of acknowledged messages: identity, size, accepted recipients.
    fn append_acked(&self, flight: &Flight, out: &mut Vec<u8>) {
        out.extend_from_slice(flight.id.to_string().as_bytes());
        out.push(b' ');
        append_decimal(flight.size as u64, out);
        let mut separator = b' ';
        for index in 0..self.executor.shared.config.recipients_per_message {
            if !flight.refused.contains(&index) {
                out.push(separator);
                self.append_recipient(flight.id, index, out);
                separator = b',';
            }
        }
        out.push(b'\n');
    }
}
