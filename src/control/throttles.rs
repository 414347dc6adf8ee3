//! Throttles on disk: a ledger beside the spool, written by a thread of its own, so that what has
//! started counts after a restart. What shards wait for is written at once, all of a moment in one
//! write. See [`crate::base::throttle::keep`].

use core::time::Duration;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use tokio::sync::mpsc::UnboundedSender;

use crate::base::throttle::Throttle;
use crate::base::throttle::keep::{Keeper, Kept, Line, Saved};
use crate::base::time::Now;
use crate::engine::cells::Cells;

use super::ledger::Ledger;
use super::startup::SpoolLock;

/// The key that is there while a process runs, and after it was killed. No option has this name.
const RUNNING: &str = "#running";

/// Throttles of one write: a line of the ledger has its bound. The last ones have all moments.
const LINES_MAX: usize = 128;
const LAST_LINES_MAX: usize = 4;

/// What the thread hears.
pub enum Heard {
    Asks(Arc<Throttle>),
    /// Every shard has stopped: nothing starts any more.
    Over,
}

pub type ThrottlesSender = Sender<Heard>;

/// Where starts are kept.
pub struct KeptThrottles {
    ledger: Ledger<Saved>,
    cells: Arc<Cells>,
}

impl KeptThrottles {
    /// Opens the ledger in the spool folder and gives the throttles of `cells` what the last run
    /// has left. Before the shards run. Tells the damage that it found.
    pub fn open(
        spool: &Path,
        lock: &SpoolLock,
        (cells, now): (Arc<Cells>, Now),
    ) -> io::Result<(KeptThrottles, Vec<String>)> {
        let (ledger, damage) = Ledger::<Saved>::open(&spool.join("throttles.ledger"), lock)?;
        let mut lines = ledger.all();
        lines.retain(|(name, _)| name != RUNNING);
        let mut left = Kept {
            killed: ledger.get(RUNNING).map(|_| now.mono),
            damaged: !damage.is_empty(),
            ..Kept::default()
        };
        let changed = left.take(now, lines);
        for some in changed.chunks(LAST_LINES_MAX) {
            ledger.apply(some.to_vec())?;
        }
        cells.throttles.restore(left);
        ledger.put(RUNNING, Saved::default())?;
        Ok((KeptThrottles { ledger, cells }, damage))
    }

    /// Starts the thread. It says through `granted` that more may start, and ends when the sender
    /// is gone, with everything on disk if it has heard that all is over.
    pub fn keep(
        self,
        clock: impl Fn() -> Now + Send + 'static,
        granted: UnboundedSender<()>,
        complain: impl Fn(&str) + Send + 'static,
    ) -> io::Result<(ThrottlesSender, JoinHandle<()>)> {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("throttles".to_string());
        let spawned = thread.spawn(move || {
            let mut keeper = Keeper::default();
            let mut is_over = false;
            while let Some(heard) = wait(&receiver, &keeper, &clock) {
                for heard in heard {
                    match heard {
                        Heard::Asks(throttle) => keeper.asked(clock().mono, throttle),
                        Heard::Over => is_over = true,
                    }
                }
                let lines = keeper.lines(clock());
                if lines.is_empty() {
                    continue;
                }
                match self.write(lines, LINES_MAX) {
                    Ok(()) if keeper.written() => drop(granted.send(())),
                    Ok(()) => {}
                    Err(error) => {
                        keeper.failed(clock().mono);
                        complain(&told(&error));
                    }
                }
            }
            if is_over {
                let last = Keeper::last(clock(), &self.cells.throttles.all());
                let written = self.write(last, LAST_LINES_MAX);
                if let Err(error) = written.and_then(|()| self.ledger.remove(RUNNING)) {
                    complain(&told(&error));
                }
            }
        })?;
        Ok((sender, spawned))
    }

    fn write(&self, lines: Vec<Line>, each: usize) -> io::Result<()> {
        let lines = lines.into_iter().map(|(name, saved)| (name, Some(saved)));
        let lines: Vec<_> = lines.collect();
        lines
            .chunks(each)
            .try_for_each(|some| self.ledger.apply(some.to_vec()))
    }
}

fn told(error: &io::Error) -> String {
    format!(
        "what has started under throttles is not kept: throttles.ledger: {error}; throttles of \
         more than two seconds wait for it"
    )
}

/// What has come, until something is to be written; nothing when nobody is left to say anything.
fn wait(
    receiver: &Receiver<Heard>,
    keeper: &Keeper,
    clock: &impl Fn() -> Now,
) -> Option<Vec<Heard>> {
    let first = match keeper.next() {
        None => Some(receiver.recv().ok()?),
        Some(at) => {
            let time: Duration = at.since(clock().mono);
            match receiver.recv_timeout(time) {
                Ok(heard) => Some(heard),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    };
    Some(first.into_iter().chain(receiver.try_iter()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::startup::lock_spool;
    use super::*;
    use crate::base::throttle::keep::Keep;
    use crate::base::throttle::{Rate, Wanted};
    use crate::base::time::{Mono, Wall};

    const WANTED: Wanted<'_> = Wanted {
        name: "outbound_throttle_messages of binding \"a\"",
        rate: Rate {
            count: 8,
            window: Duration::from_secs(3_600),
        },
        generation: 1,
        keep: Keep::Always,
    };

    fn at(second: u64) -> Now {
        Now {
            mono: Mono(7_000_000_000 + second * 1_000_000),
            wall: Wall::from_secs(1_790_000_000 + second),
        }
    }

    /// A process that asks for one start after the other until so many were made.
    fn run(spool: &Path, second: u64, count: u64, is_orderly: bool) -> u64 {
        let lock = lock_spool(spool).expect("a lock");
        let cells = Arc::new(Cells::new(0));
        let around = (cells.clone(), at(second));
        let (kept, damage) = KeptThrottles::open(spool, &lock, around).expect("a ledger");
        assert!(damage.is_empty());
        let throttle = cells.throttles.get(at(second), WANTED);
        let before = throttle.started();
        let (granted, mut more) = tokio::sync::mpsc::unbounded_channel();
        let started = kept.keep(move || at(second), granted, |why| panic!("{why}"));
        let (sender, thread) = started.expect("a thread");
        while throttle.started() < before + count && throttle.opens_at() <= at(second).mono {
            if throttle.try_start(at(second).mono) {
                continue;
            }
            if throttle.asks() {
                sender.send(Heard::Asks(throttle.clone())).expect("it runs");
            }
            more.blocking_recv().expect("it is granted");
        }
        if is_orderly {
            sender.send(Heard::Over).expect("it runs");
        }
        drop(sender);
        thread.join().expect("it ends");
        throttle.started() - before
    }

    #[test]
    fn a_kill_loses_a_part_of_a_window_at_most_and_an_orderly_end_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = folder.path();
        assert_eq!(run(spool, 0, 3, true), 3);
        assert_eq!(run(spool, 10, 2, true), 2);
        // One that was granted ahead may have started.
        assert_eq!(run(spool, 20, 1, false), 1);
        let left = run(spool, 30, 8, false);
        assert!((1..=2).contains(&left), "{left}");
        assert_eq!(run(spool, 40, 8, true), 0);
        assert_eq!(
            run(spool, 3_600, 8, true),
            3,
            "those of the first run are over"
        );
        assert_eq!(run(spool, 90_000, 8, true), 8);
    }

    #[test]
    fn a_short_window_is_full_after_a_kill_and_exact_after_an_orderly_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let lock = lock_spool(folder.path()).expect("a lock");
        let rate = Rate::parse("4/1").flatten().expect("a rate");
        let wanted = Wanted { rate, ..WANTED };
        let mut opened = Vec::new();
        for (second, is_orderly) in [(0, true), (0, false), (0, true)] {
            let cells = Arc::new(Cells::new(0));
            let around = (cells.clone(), at(second));
            let (kept, _) = KeptThrottles::open(folder.path(), &lock, around).expect("a ledger");
            let throttle = cells.throttles.get(at(second), wanted);
            let may = (0..9).filter(|_| throttle.try_start(at(second).mono));
            opened.push(may.take(2).count());
            let (granted, _) = tokio::sync::mpsc::unbounded_channel();
            let started = kept.keep(move || at(second), granted, |why| panic!("{why}"));
            let (sender, thread) = started.expect("a thread");
            if is_orderly {
                sender.send(Heard::Over).expect("it runs");
            }
            drop(sender);
            thread.join().expect("it ends");
        }
        assert_eq!(opened, [2, 2, 0]);
    }
}
