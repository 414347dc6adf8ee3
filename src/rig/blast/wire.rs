//! One SMTP connection of the generator below the level of transactions: sends, replies, time
//! limits.

use core::cell::Cell;
use core::net::IpAddr;
use core::net::SocketAddr;
use std::rc::Rc;

use glommio::net::TcpStream;
use memchr::memchr;

use super::Executor;
use crate::rig::runtime;
use crate::rig::runtime::Ended;
use crate::rig::runtime::Interrupt;

/// Bytes of one reply, all its lines together. A longer one ends the connection.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// Bytes that one read of replies takes at most.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Since when a connection waits, for whoever keeps the time limits.
#[derive(Debug)]
pub(super) struct Wait {
    interrupt: Rc<Interrupt>,
    /// The tick at which the wait began; 0: none.
    since: Cell<u64>,
    pub(super) expired: Cell<bool>,
}

impl Wait {
    pub(super) fn new(interrupt: Rc<Interrupt>) -> Wait {
        Wait {
            interrupt,
            since: Cell::new(0),
            expired: Cell::new(false),
        }
    }

    /// Ends a wait that has lasted longer than `limit` ticks.
    pub(super) fn expire(&self, now: u64, limit: u64) {
        let since = self.since.get();
        if since != 0 && now - since > limit {
            self.since.set(0);
            self.expired.set(true);
            self.interrupt.raise();
        }
    }
}

/// A connection.
pub(super) struct Wire {
    stream: TcpStream,
    executor: Rc<Executor>,
    interrupt: Rc<Interrupt>,
    wait: Rc<Wait>,
    input: Vec<u8>,
    /// What is still to be read of `input` begins here.
    at: usize,
    /// What is to be sent next.
    pub(super) out: Vec<u8>,
}

impl Wire {
    pub(super) async fn dial(
        executor: Rc<Executor>,
        target: SocketAddr,
        source: Option<IpAddr>,
        interrupt: Rc<Interrupt>,
        wait: Rc<Wait>,
    ) -> Result<Wire, Ended> {
        wait.since.set(executor.tick.get());
        let stream = runtime::dial(target, source, &interrupt).await;
        wait.since.set(0);
        let stream = stream?;
        let input = Vec::new();
        Ok(Wire {
            stream,
            executor,
            interrupt,
            wait,
            input,
            at: 0,
            out: Vec::new(),
        })
    }

    /// Sends what is in `out`.
    pub(super) async fn send(&mut self) -> Result<(), Ended> {
        self.wait.since.set(self.executor.tick.get());
        let sent = runtime::write_all(&mut self.stream, &self.interrupt, &self.out).await;
        self.wait.since.set(0);
        self.out.clear();
        sent
    }

    /// The code of the next reply, 0 if it has none. Waits for it if it has not come yet.
    pub(super) async fn reply(&mut self) -> Result<u16, Ended> {
        self.reply_lines(|_| ()).await
    }

    /// As [`Wire::reply`]; `line` sees the text of every line.
    pub(super) async fn reply_lines(&mut self, mut line: impl FnMut(&[u8])) -> Result<u16, Ended> {
        let mut taken = self.at;
        loop {
            let Some(length) = memchr(b'\n', &self.input[taken..]) else {
                self.input.drain(..self.at);
                taken -= self.at;
                self.at = 0;
                if self.input.len() > REPLY_BYTES_MAX {
                    return Err(Ended::Failed(std::io::Error::other("an endless reply")));
                }
                self.fill().await?;
                continue;
            };
            let text = self.input[taken..taken + length].trim_ascii_end();
            taken += length + 1;
            line(text.get(4..).unwrap_or_default());
            if text.get(3) == Some(&b'-') {
                continue;
            }
            let code = code(text);
            self.at = taken;
            self.executor.shared.stats(self.executor.index).reply(code);
            return Ok(code);
        }
    }

    /// Whether the next reply can be had without waiting.
    pub(super) fn has_input(&self) -> bool {
        self.at < self.input.len()
    }

    async fn fill(&mut self) -> Result<(), Ended> {
        self.wait.since.set(self.executor.tick.get());
        let input = &mut self.input;
        let read = runtime::read_with(
            &mut self.stream,
            &self.interrupt,
            &self.executor.scratch,
            READ_BYTES_MAX,
            |bytes| input.extend_from_slice(bytes),
        )
        .await;
        self.wait.since.set(0);
        read
    }
}

fn code(text: &[u8]) -> u16 {
    match *text {
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => 0,
    }
}
