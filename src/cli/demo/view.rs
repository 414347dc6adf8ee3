//! What one sees while the demo runs: on a terminal one block that is drawn anew four times a
//! second, elsewhere one line a second. Nothing is shown that a running engine would not tell
//! anybody who asks.

use core::fmt::Write as _;
use core::time::Duration;
use std::collections::VecDeque;
use std::io::IsTerminal;
use std::io::Write;

use crate::base::units;
use crate::cli::output::Align;
use crate::cli::output::Style;
use crate::cli::output::Table;
use crate::control::management::protocol::StatusData;
use crate::engine::query::QueueSummary;

/// How often the engine is asked.
pub const REFRESH: Duration = Duration::from_millis(250);

/// Rates are of the last so many refreshes: a second.
const SAMPLES_MAX: usize = 5;

/// Queues in the block.
pub const QUEUES_SHOWN: usize = 6;

/// A narrower terminal gets lines instead of the block.
const BLOCK_COLUMNS: usize = 80;

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// What there is to show at one moment.
pub struct Frame<'a> {
    /// Since the first message.
    pub at: Duration,
    /// Messages the generator is to send, and how many of them were acknowledged.
    pub wanted: u64,
    pub acknowledged: u64,
    /// From MAIL to the 250.
    pub p50: Duration,
    pub p99: Duration,
    pub status: &'a StatusData,
    /// The fullest first.
    pub queues: &'a [QueueSummary],
}

#[derive(Clone, Copy)]
struct Sample {
    at: Duration,
    injected: u64,
    delivered: u64,
    commits: u64,
    commit_messages: u64,
}

/// Rates over the samples.
struct Rates {
    injected: u64,
    delivered: u64,
    commits: u64,
    messages_per_commit: f64,
}

/// See the head of this file.
pub struct View {
    style: Style,
    terminal: bool,
    samples: VecDeque<Sample>,
    /// Lines of the block on the screen.
    drawn: usize,
    line_due: Duration,
}

impl View {
    pub fn new(style: Style) -> View {
        View {
            terminal: can_redraw(&style),
            style,
            samples: VecDeque::with_capacity(SAMPLES_MAX),
            drawn: 0,
            line_due: LINE_EVERY,
        }
    }

    pub fn show(&mut self, frame: &Frame<'_>) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        let counters = &frame.status.total.counters;
        self.samples.push_back(Sample {
            at: frame.at,
            injected: counters.messages_injected,
            delivered: counters.messages_delivered,
            commits: counters.spool_commits,
            commit_messages: counters.spool_commit_messages,
        });
        if self.terminal {
            let text = self.block(frame);
            self.draw(&text);
        } else if frame.at >= self.line_due {
            self.line_due = frame.at + LINE_EVERY;
            say(&self.line(frame));
        }
    }

    /// Takes the block off the screen: what follows tells more.
    pub fn clear(&mut self) {
        if self.drawn > 0 {
            let _ = write!(std::io::stdout(), "\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    fn draw(&mut self, text: &str) {
        let mut screen = String::new();
        if self.drawn > 0 {
            let _ = write!(screen, "\x1b[{}A", self.drawn);
        }
        for line in text.lines() {
            let _ = writeln!(screen, "{line}\x1b[K");
        }
        screen.push_str("\x1b[J");
        self.drawn = text.lines().count();
        let mut out = std::io::stdout().lock();
        // A terminal that is gone is nobody's loss: the end of the run tells all.
        let _ = out.write_all(screen.as_bytes()).and_then(|()| out.flush());
    }

    fn rates(&self) -> Rates {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return Rates {
                injected: 0,
                delivered: 0,
                commits: 0,
                messages_per_commit: 0.0,
            };
        };
        let seconds = (last.at.saturating_sub(first.at)).as_secs_f64().max(0.001);
        let rate = |of: fn(&Sample) -> u64| ((of(last) - of(first)) as f64 / seconds) as u64;
        let commits = (last.commits - first.commits).max(1);
        Rates {
            injected: rate(|it| it.injected),
            delivered: rate(|it| it.delivered),
            commits: rate(|it| it.commits),
            messages_per_commit: (last.commit_messages - first.commit_messages) as f64
                / commits as f64,
        }
    }

    fn line(&self, frame: &Frame<'_>) -> String {
        let rates = self.rates();
        let gauges = &frame.status.total.gauges;
        let mut line = format!(
            "{:>3}s  in {:>6}/s  out {:>6}/s  active {:>5}  delayed {:>6}  {:>5} commits/s",
            frame.at.as_secs(),
            units::grouped(rates.injected),
            units::grouped(rates.delivered),
            units::grouped(gauges.queue_active + gauges.queue_in_flight),
            units::grouped(gauges.queue_delayed),
            units::grouped(rates.commits),
        );
        if let Some(queue) = frame.queues.first() {
            let _ = write!(line, "  fullest {}: {}", queue.domain, queue.cause);
        }
        line
    }

    fn block(&self, frame: &Frame<'_>) -> String {
        let rates = self.rates();
        let (counters, gauges) = (&frame.status.total.counters, &frame.status.total.gauges);
        let number = |value: u64| self.style.strong(&format!("{:>9}", units::grouped(value)));
        let grouped = units::grouped;
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:>5.1} s    {} of {} messages acknowledged\n",
            frame.at.as_secs_f64(),
            grouped(frame.acknowledged),
            grouped(frame.wanted),
        );
        let _ = writeln!(
            text,
            "in     {}/s   250 after {} (p50), {} (p99)",
            number(rates.injected),
            milliseconds(frame.p50),
            milliseconds(frame.p99),
        );
        let _ = writeln!(
            text,
            "out    {}/s   delivered {}   bounced {}   expired {}",
            number(rates.delivered),
            grouped(counters.messages_delivered),
            grouped(counters.messages_bounced),
            grouped(counters.messages_expired),
        );
        let waiting = gauges.queue_active + gauges.queue_in_flight + gauges.queue_delayed;
        let _ = writeln!(
            text,
            "queued {}     active {}   delayed {}   connections out {}",
            number(waiting),
            grouped(gauges.queue_active + gauges.queue_in_flight),
            grouped(gauges.queue_delayed),
            grouped(gauges.sessions_out),
        );
        let _ = writeln!(
            text,
            "disk   {}/s   commits, {:.1} new messages in each\n",
            number(rates.commits),
            rates.messages_per_commit,
        );
        let mut table = Table::new(&[
            ("BINDING", Align::Left),
            ("DOMAIN", Align::Left),
            ("ACTIVE", Align::Right),
            ("DELAYED", Align::Right),
            ("WAITS FOR", Align::Left),
            ("THEY SAID", Align::Left),
        ]);
        for queue in frame.queues.iter().take(QUEUES_SHOWN) {
            let said = queue.last_failure.as_ref().map(|said| said.reply.clone());
            table.row([
                queue.binding.clone(),
                queue.domain.clone(),
                grouped(queue.active + queue.in_flight),
                grouped(queue.delayed),
                queue.cause.clone(),
                said.unwrap_or_default(),
            ]);
        }
        text.push_str(&table.render(&self.style));
        text
    }
}

/// Lines of the block are not cut, and a wrapped line would spoil the count of lines.
fn can_redraw(style: &Style) -> bool {
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    std::io::stdout().is_terminal() && !dumb && style.width >= BLOCK_COLUMNS
}

/// One line to whoever looks. A reader that has gone away is no fault of the demo.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// `0.84 ms`, `12 ms`.
pub fn milliseconds(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1_000.0;
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        _ => format!("{ms:.0} ms"),
    }
}
