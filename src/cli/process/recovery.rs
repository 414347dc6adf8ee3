//! Reading the spool back. A start waits for it a moment; if that is not enough mail is taken
//! meanwhile, and the shards hear of what was found when it is known.

use core::time::Duration;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};

use crate::base::time::{Now, Wall};
use crate::base::units;
use crate::cli::process::Notice;
use crate::config::Config;
use crate::control::management::unnamed_binding;
use crate::control::reading::{self, Failure, Gate, Progress};
use crate::control::startup::{self, CleanEnd};
use crate::engine::io::Level;
use crate::engine::owner::is_unnamed;
use crate::engine::stats::Gauges;
use crate::log::Fault;
use crate::shard::clock::Clock;
use crate::shard::faults;
use crate::spool::{self, Beginning, SpoolFile};

/// So long a start waits before mail is taken: what fits into it is in the queues by then.
const WAIT_MAX: Duration = Duration::from_millis(700);

/// How often somebody who waits hears how far it has come.
const TELL_EVERY: Duration = Duration::from_secs(2);

type Read = Result<Vec<spool::Home>, Failure>;

/// The reading, under way in a thread of its own.
pub(super) struct Recovery {
    read: Receiver<Read>,
    progress: Arc<Progress>,
    /// Damage that was told at the beginning already, one sentence each.
    told: Vec<String>,
    last_run_ended_clean: bool,
    /// There was a run before, and it has not come to its end.
    pub cut_off: bool,
    /// See [`CleanEnd::doubt`].
    pub doubt: Option<Wall>,
    began: Now,
    clock: Clock,
    notice: Notice,
}

impl Recovery {
    /// Begins to read, and tells what the shards need to take mail.
    pub fn begin(
        base: &Path,
        spool: &SpoolFile,
        clock: &Clock,
        notice: &Notice,
        faults: &faults::Plan,
    ) -> Result<(Vec<Beginning>, Recovery), String> {
        let began = clock.now();
        let ended = startup::ended_clean(base, spool);
        let doubt = match &ended {
            None => Some(began.wall),
            Some(CleanEnd { doubt, .. }) => *doubt,
        };
        let gate = faults.of_start().map(|strikes| {
            let tell = notice.clone();
            let strike = move || match strikes() {
                None => Ok(()),
                Some(text) => {
                    tell(Level::Warn, &text);
                    Err(Fault::Io)
                }
            };
            Arc::new(strike) as Gate
        });
        let (beginnings, reading) = reading::begin(base, spool, gate)?;
        let last_run_ended_clean = ended.is_some();
        let told = ended.map_or_else(Vec::new, |ended| changes(ended, &beginnings));
        for sentence in &told {
            notice(Level::Error, sentence);
        }
        let progress = reading.progress();
        let (send, read) = sync_channel(1);
        let (clock, tell) = (*clock, notice.clone());
        let run = move || {
            let mut told = began.mono;
            let read = reading.finish(&mut |done, all| {
                let now = clock.now().mono;
                if now.since(told) >= TELL_EVERY {
                    told = now;
                    let all = units::counted(all as u64, "segment");
                    tell(Level::Info, &format!("reading the spool: {done} of {all}"));
                }
            });
            // Nobody to tell it to: the process ends.
            let _ = send.send(read);
        };
        let thread = std::thread::Builder::new().name("recovery".to_string());
        thread
            .spawn(run)
            .map_err(|error| format!("E106 no thread for reading the spool: {error}"))?;
        let recovery = Recovery {
            read,
            progress,
            told,
            last_run_ended_clean,
            cut_off: !last_run_ended_clean && spool.starts > 1,
            doubt,
            began,
            clock,
            notice: notice.clone(),
        };
        Ok((beginnings, recovery))
    }

    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// What has been found, with the damage in sentences, if it is known in time.
    pub fn wait(&mut self, config: &Config) -> Result<Option<Found>, String> {
        match self.read.recv_timeout(WAIT_MAX) {
            Ok(read) => self.found(read, config).map(Some),
            Err(RecvTimeoutError::Timeout) => {
                self.progress.goes_on_beside_mail();
                let text = "the spool takes a while to read; mail is taken meanwhile, and what is \
                            queued follows";
                (self.notice)(Level::Info, text);
                Ok(None)
            }
            Err(RecvTimeoutError::Disconnected) => Err("E106 reading the spool panicked".into()),
        }
    }

    /// The homes that were found in time, and all damage that has been told so far.
    pub fn told_with(&mut self, found: Option<Found>) -> (Option<Vec<spool::Home>>, Vec<String>) {
        let mut told = core::mem::take(&mut self.told);
        let homes = found.map(|found| {
            told.extend(found.damage);
            found.homes
        });
        (homes, told)
    }

    /// The same as [`Self::wait`], however long it takes. Nothing if the process ends before.
    pub fn wait_long(mut self, config: &dyn Fn() -> Arc<Config>) -> Option<Result<Found, String>> {
        match self.read.recv() {
            Ok(Err(Failure::Stopped)) => None,
            Ok(read) => Some(self.found(read, &config())),
            Err(_) => Some(Err("E106 reading the spool panicked".into())),
        }
    }

    fn found(&mut self, read: Read, config: &Config) -> Result<Found, String> {
        let mut homes = read.map_err(|failure| match failure {
            Failure::Refused(why) => why,
            Failure::Stopped => "E106 reading the spool was stopped".to_string(),
        })?;
        let took = self.clock.now().mono.since(self.began.mono);
        let damage = report(&self.notice, &homes, took, self.last_run_ended_clean);
        if let Some(until) = self.doubt {
            self.doubt(&mut homes, until);
        }
        self.tell_unnamed(config, &homes);
        Ok(Found { homes, damage })
    }

    /// After an end that was not clean each recipient that was not delayed may have been on the
    /// wire. One that has not been tried since still may, however often it has been stored away.
    fn doubt(&self, homes: &mut [spool::Home], until: Wall) {
        let mut in_doubt = 0;
        for arrival in homes.iter_mut().flat_map(|home| &mut home.arrivals) {
            arrival.in_doubt = arrival.received <= until && arrival.progress.due <= until;
            in_doubt += u64::from(arrival.in_doubt);
        }
        if in_doubt > 0 {
            let run = match self.last_run_ended_clean {
                true => "a run before the last",
                false => "the last run",
            };
            let text = format!(
                "{run} ended without notice: of {} due then, the few that were on the wire come \
                 twice; all are marked as possible duplicates when they are delivered",
                units::counted(in_doubt, "message")
            );
            (self.notice)(Level::Warn, &text);
        }
    }

    /// Mail of the last run whose binding is not in the configuration any more.
    fn tell_unnamed(&self, config: &Config, homes: &[spool::Home]) {
        let mut gauges = Gauges::default();
        let all = homes.iter().flat_map(|home| &home.arrivals);
        for arrival in all.filter(|it| is_unnamed(config, &it.binding)) {
            gauges.unnamed_binding_messages += 1;
            gauges.unnamed_binding = arrival.binding.to_string();
        }
        if let Some(text) = unnamed_binding(&gauges) {
            (self.notice)(Level::Warn, &text);
        }
    }
}

/// What earlier starts have left.
pub(super) struct Found {
    pub homes: Vec<spool::Home>,
    /// One sentence each.
    pub damage: Vec<String>,
}

/// What should not be after a clean end: one sentence each.
fn changes(ended: CleanEnd, beginnings: &[Beginning]) -> Vec<String> {
    let torn = beginnings.iter().filter(|it| it.torn).map(|it| {
        let shard = it.shard.0;
        format!(
            "shard-{shard:02}: the last commit is damaged although the last run ended cleanly; \
             mail in it is lost, everything else was recovered"
        )
    });
    let all = torn.chain(ended.changes);
    all.map(|sentence| format!("E204 {sentence}")).collect()
}

/// Tells what was found, and the damage once more to the caller.
fn report(notice: &Notice, homes: &[spool::Home], took: Duration, clean: bool) -> Vec<String> {
    let recipients: usize = homes.iter().map(|home| home.arrivals.len()).sum();
    let torn: u32 = homes.iter().map(|home| home.torn_tails).sum();
    let damage = homes.iter().flat_map(|home| &home.damage);
    let found: Vec<String> = damage.map(|damage| format!("E204 {damage}")).collect();
    // Only a run that was cut off leaves a commit unfinished.
    let cut = match torn > 0 && !clean {
        true => format!("; {} cut", units::counted(torn.into(), "unfinished commit")),
        false => String::new(),
    };
    if recipients > 0 || !cut.is_empty() {
        let text = format!(
            "recovered {} from the spool in {}{cut}",
            units::counted(recipients as u64, "queued message"),
            units::duration(took),
        );
        notice(Level::Info, &text);
    }
    for sentence in &found {
        notice(Level::Error, sentence);
    }
    found
}
