//! One process of `pelton serve`: its birth, its metrics, its ends.

#![allow(clippy::disallowed_methods)] // It waits and measures against the clock.

use core::time::Duration;
use std::cell::Cell;
use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use super::STEP_TIMEOUT;
use super::wait_until;

/// Bytes of the engine's messages that are shown when something went wrong.
const LOG_BYTES_SHOWN: usize = 4_000;

/// How long a page of metrics may take.
const METRICS_TIMEOUT: Duration = Duration::from_secs(30);

/// A running engine. Dropping it kills it.
#[derive(Debug)]
pub struct Engine {
    child: Child,
    born: Instant,
    first_line: mpsc::Receiver<String>,
    ready_after: Cell<Option<Duration>>,
    log: PathBuf,
    http: SocketAddr,
    ended_us: Option<u64>,
}

impl Engine {
    pub fn start(config: &Path, log: &Path, http: SocketAddr) -> Engine {
        let errors = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_pelton"))
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("the engine starts");
        let (sender, first_line) = mpsc::channel();
        let output = child.stdout.take().expect("its output is piped");
        std::thread::spawn(move || {
            let mut line = String::new();
            // What cannot be read is no first line; the receiver then sees the end of the channel.
            if BufReader::new(output).read_line(&mut line).is_ok() {
                let _ = sender.send(line);
            }
        });
        Engine {
            child,
            born: Instant::now(),
            first_line,
            ready_after: Cell::new(None),
            log: log.to_path_buf(),
            http,
            ended_us: None,
        }
    }

    /// Waits so long at most; returns how long the engine took to be ready.
    pub fn wait_ready(&self, limit: Duration) -> Option<Duration> {
        if self.ready_after.get().is_none() {
            match self.first_line.recv_timeout(limit) {
                Ok(line) if line.starts_with("ready") => {
                    self.ready_after.set(Some(self.born.elapsed()));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                other => panic!("the engine did not start ({other:?}):\n{}", self.log()),
            }
        }
        self.ready_after.get()
    }

    /// It must not have ended by itself.
    pub fn assert_alive(&mut self) {
        let status = self.child.try_wait().expect("a child can be waited for");
        assert!(
            status.is_none(),
            "the engine ended by itself, {status:?}:\n{}",
            self.log()
        );
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.end_begins();
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// From now on what it does may be undone: duplicates are counted from here.
    pub fn end_begins(&mut self) {
        self.ended_us.get_or_insert_with(wall_us);
    }

    /// SIGTERM, after which it has to end with success.
    pub fn terminate(&mut self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.expect("kill runs").success(), "SIGTERM was not sent");
        let mut status = None;
        wait_until("the end after SIGTERM", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        assert!(
            status.is_some_and(|status| status.success()),
            "{status:?}:\n{}",
            self.log()
        );
    }

    /// When its end began, in microseconds since 1970.
    pub fn ended_us(&self) -> u64 {
        self.ended_us.expect("it has been killed")
    }

    /// A sample of its metrics; none if it does not answer or does not know the name.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let page = self.metrics()?;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.parse().ok()
    }

    /// Messages in its queues, in whatever state.
    pub fn queued(&self) -> Option<u64> {
        let page = self.metrics()?;
        let samples = page
            .lines()
            .filter(|line| line.starts_with("pelton_queue_messages{"));
        let values: Vec<f64> = samples
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
    }

    fn metrics(&self) -> Option<String> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream.set_read_timeout(Some(METRICS_TIMEOUT)).ok()?;
        let host = self.http;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    }

    /// The end of what it wrote about itself.
    pub fn log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let from = text.len().saturating_sub(LOG_BYTES_SHOWN);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Microseconds since 1970, on the clock that the receiving host stamps with.
pub fn wall_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

const _: () = assert!(METRICS_TIMEOUT.as_secs() < STEP_TIMEOUT.as_secs());
