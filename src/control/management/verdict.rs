//! Is anything wrong? Turns the state of the engine into a verdict and its reasons, each with the
//! command that looks further. Pure, so that every reason has a test.

use core::time::Duration;

use crate::base::units;
use crate::engine::stats::Gauges;

use super::protocol::ConfigOnDisk;
use super::protocol::Level;
use super::protocol::StatusData;
use super::protocol::Warning;

pub const OK: &str = "OK";
/// Something deserves a look; mail goes in and out.
pub const DEGRADED: &str = "DEGRADED";
/// Something does not work.
pub const FAILING: &str = "FAILING";

/// Age of the oldest message that is worth a look: longer than any receiver's greylisting and than
/// an evening's back-log, well before the usual end of a message.
const OLDEST_SECONDS_MAX: u64 = 12 * 3_600;

/// Events that wait for the disk: a minute of a busy shard.
const EVENT_BACKLOG_BYTES_MAX: u64 = 8 << 20;

/// Fewer attempts in the last quarter of an hour say nothing.
const RECENT_MIN: u64 = 100;

/// Percent of the messages that ended which may have bounced. Receivers act against senders of
/// much less; but every list has bad days.
const BOUNCED_PERCENT_MAX: u64 = 20;

/// Percent of the attempts that may have ended in a delay: more than greylisting brings about.
const DELAYED_PERCENT_MAX: u64 = 80;

/// The reasons, the worst first.
pub fn warnings(status: &StatusData) -> Vec<Warning> {
    let mut found = Found::default();
    shards(status, &mut found);
    spool(status, &mut found);
    event_log(status, &mut found);
    config(status, &mut found);
    delivery(status, &mut found);
    receivers(status, &mut found);
    for sentence in &status.absent_sources {
        // The name of the binding stands in quotes.
        let binding = sentence.split('"').nth(1).unwrap_or_default();
        let only = format!("binding={binding}");
        found.warn(
            format!("W101 {sentence}"),
            &["queue", "list", "--where", &only],
        );
    }
    let oldest = status.total.gauges.oldest_seconds;
    if oldest > OLDEST_SECONDS_MAX {
        let age = units::duration(Duration::from_secs(oldest));
        let text = format!("the oldest message has waited {age}");
        found.warn(text, &["queue", "list", "--where", "age>12h"]);
    }
    found
        .0
        .sort_by_key(|warning| core::cmp::Reverse(warning.level));
    found.0
}

/// One word for all of them: that of the worst.
pub fn verdict(warnings: &[Warning]) -> &'static str {
    match warnings.iter().map(|warning| warning.level).max() {
        None => OK,
        Some(Level::Warn) => DEGRADED,
        Some(Level::Fail) => FAILING,
    }
}

/// What becomes of mail whose binding has left the configuration; nothing if there is none.
pub fn unnamed_binding(gauges: &Gauges) -> Option<String> {
    let (count, name) = (gauges.unnamed_binding_messages, &gauges.unnamed_binding);
    (count > 0).then(|| {
        let (wait, goes) = match count {
            1 => ("waits", "it goes"),
            _ => ("wait", "they go"),
        };
        format!(
            "{} {wait} for a binding that the configuration does not name (\"{name}\"): {goes} out \
             as binding \"default\" does, from its addresses, until the name is there again",
            units::counted(count, "message"),
        )
    })
}

#[derive(Default)]
struct Found(Vec<Warning>);

impl Found {
    fn add(&mut self, level: Level, text: String, next: &[&str]) {
        let program = ["pelton"].iter().filter(|_| !next.is_empty());
        let next = program.chain(next).map(|&word| word.to_owned()).collect();
        self.0.push(Warning { level, text, next });
    }

    fn warn(&mut self, text: String, next: &[&str]) {
        self.add(Level::Warn, text, next);
    }

    fn fail(&mut self, text: String, next: &[&str]) {
        self.add(Level::Fail, text, next);
    }
}

fn shards(status: &StatusData, found: &mut Found) {
    let answered = status.per_shard.len() as u64;
    if answered < status.shards {
        let text = format!(
            "only {answered} of {} answered: the others are stuck or overloaded; mail on them \
             waits, nothing is lost",
            units::counted(status.shards, "shard")
        );
        found.fail(text, &["changes", "--since", "1h"]);
    }
}

/// A few dead domains are every bulk sender's daily life; most of the queues are not.
fn delivery(status: &StatusData, found: &mut Found) {
    let gauges = &status.total.gauges;
    let (failing, queues) = (gauges.queues_failing, gauges.queues);
    if failing * 2 > queues {
        let text = format!(
            "queues at rest: {} of {}; every host of theirs fails, or the source address of their \
             binding is not on this machine",
            units::grouped(failing),
            units::grouped(queues)
        );
        found.warn(text, &["queue", "list"]);
    }
    if let Some(text) = unnamed_binding(gauges) {
        let filter = format!("binding={}", gauges.unnamed_binding);
        found.warn(text, &["queue", "list", "--where", &filter]);
    }
}

/// What receivers make of the mail.
fn receivers(status: &StatusData, found: &mut Found) {
    let recent = &status.recent;
    let ended = recent.delivered + recent.bounced;
    let time = units::duration(Duration::from_secs(recent.seconds));
    if ended >= RECENT_MIN && recent.bounced * 100 > ended * BOUNCED_PERCENT_MAX {
        let text = format!(
            "{} % of the {} that ended in the last {time} bounced",
            recent.bounced * 100 / ended,
            units::counted(ended, "message"),
        );
        found.warn(text, &["queue", "list"]);
    }
    let attempts = ended + recent.delayed;
    if attempts >= RECENT_MIN && recent.delayed * 100 > attempts * DELAYED_PERCENT_MAX {
        let text = format!(
            "{} % of the {} in the last {time} ended in a delay: receivers put mail off, or \
             do not answer",
            recent.delayed * 100 / attempts,
            units::counted(attempts, "attempt"),
        );
        found.warn(text, &["queue", "list"]);
    }
}

fn spool(status: &StatusData, found: &mut Found) {
    let gauges = &status.total.gauges;
    let spool = &status.spool;
    let changes = &["changes", "--since", "1h"];
    if gauges.spool_stopped {
        let text = format!(
            "the spool {} cannot be written: new mail is refused with 451, delivery goes on, it \
             is tried again by itself",
            spool.path
        );
        found.fail(text, changes);
    }
    if !gauges.admission_closed.is_empty() {
        found.fail(
            format!("no mail is accepted: {}", gauges.admission_closed),
            changes,
        );
    }
    let comes = "mail is taken and delivered meanwhile, lists of the queues are not complete yet";
    if let Some(reading) = spool.reading {
        let all = units::counted(reading.segments, "segment");
        let text = match reading.segments_read == reading.segments {
            true => format!("the start has read {all} of the spool and puts it in order: {comes}"),
            false => format!(
                "the start still reads the spool back, {} of {all}: {comes}",
                units::grouped(reading.segments_read),
            ),
        };
        found.warn(text, &[]);
    } else if gauges.queue_returning > 0 {
        let left = units::counted(gauges.queue_returning, "message");
        let text = format!("{left} of the last run are on their way into the queues: {comes}");
        found.warn(text, &[]);
    }
    if let (Some(free), Some(size)) = (spool.free_bytes, spool.size_bytes.filter(|s| *s > 0)) {
        let used = 100 - u128::from(free.min(size)) * 100 / u128::from(size);
        let left = units::size(free);
        let limit = units::size(spool.min_free_bytes);
        if free < spool.min_free_bytes {
            let text = format!(
                "{} has {left} free, less than Min_Free_Space = {limit}: new mail is refused \
                 with 452, delivery goes on",
                spool.path
            );
            found.fail(text, &[]);
        } else if free / 2 < spool.min_free_bytes || used >= 90 {
            let text = format!(
                "{} is {used} % full: {left} free, mail is refused below {limit}",
                spool.path
            );
            found.warn(text, &[]);
        }
    }
    if status.spool_damage > 0 {
        let text = format!(
            "damage was found in {} of the spool at the start: mail may be lost; everything else \
             was recovered",
            units::counted(status.spool_damage, "place")
        );
        found.fail(text, &["changes", "--since", "7d"]);
    }
    if spool.sync != "commit" {
        let text = format!(
            "Spool_Sync = {}: mail is acknowledged before it is on disk, a power cut can lose it",
            spool.sync
        );
        found.warn(text, &["config", "eval", "Spool_Sync"]);
    }
}

fn event_log(status: &StatusData, found: &mut Found) {
    let (counters, gauges) = (&status.total.counters, &status.total.gauges);
    if counters.events_lost > 0 {
        let text = format!(
            "{} since the start {} missing in the event log {}: its disk was behind for too long; \
             the mail itself is not affected",
            units::counted(counters.events_lost, "event"),
            units::are(counters.events_lost),
            status.event_log
        );
        found.warn(text, &[]);
    }
    if gauges.event_log_failing {
        let text = format!(
            "the event log {} cannot be written: {} of events wait in memory, it is tried again by \
             itself",
            status.event_log,
            units::size(gauges.event_log_backlog_bytes)
        );
        found.fail(text, &["changes", "--since", "1h"]);
    } else if gauges.event_log_backlog_bytes > EVENT_BACKLOG_BYTES_MAX {
        let text = format!(
            "{} of events wait in memory for the event log {}: its disk is slow or fails",
            units::size(gauges.event_log_backlog_bytes),
            status.event_log
        );
        found.warn(text, &[]);
    }
}

fn config(status: &StatusData, found: &mut Found) {
    let file = status.config.file.as_str();
    match &status.config.on_disk {
        ConfigOnDisk::Same => {}
        ConfigOnDisk::Differs(digest) => {
            let running = &status.config.digest;
            let text = format!("{file} has changed: {running} runs, {digest} is on disk");
            found.warn(text, &["reload"]);
        }
        ConfigOnDisk::Broken(error) => {
            let text = format!("{file} would be refused: {error}; the running one stays");
            found.warn(text, &["check", "--config", file]);
        }
    }
    let restart = &status.config.restart;
    if !restart.is_empty() {
        let text = format!(
            "{} in the configuration that runs still {} the value from the start: restart to have \
             the new one",
            restart.join(", "),
            if restart.len() == 1 { "has" } else { "have" }
        );
        found.warn(text, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::management::protocol::Recent;
    use crate::control::management::protocol::SpoolReading;
    use crate::engine::stats::ShardStats;

    fn healthy() -> StatusData {
        let mut status = StatusData {
            shards: 1,
            ..StatusData::default()
        };
        status.per_shard.push(ShardStats::default());
        status.spool.path = "/spool".into();
        status.spool.sync = "commit".into();
        status.spool.free_bytes = Some(50 << 30);
        status.spool.size_bytes = Some(100 << 30);
        status.spool.min_free_bytes = 1 << 30;
        status.config.file = "/etc/pelton.conf".into();
        status.event_log = "/spool/events".into();
        status
    }

    #[test]
    fn a_healthy_engine_has_nothing_to_say() {
        assert_eq!(warnings(&healthy()), []);
        assert_eq!(verdict(&[]), OK);
    }

    #[test]
    fn a_start_that_is_not_through_says_how_far_it_is() {
        let mut status = healthy();
        status.total.gauges.queue_returning = 1_000;
        let text = |status: &StatusData| warnings(status).remove(0).text;
        assert!(text(&status).starts_with("1,000 messages of the last run are on their way"));
        status.spool.reading = Some(SpoolReading {
            segments_read: 12,
            segments: 1_901,
        });
        assert!(
            text(&status).contains("reads the spool back, 12 of 1,901 segments: mail is taken")
        );
        assert_eq!(warnings(&status)[0].level, Level::Warn);
    }

    #[test]
    fn every_trouble_has_its_reason_and_level() {
        type Trouble = fn(&mut StatusData);
        let cases: [(Trouble, Level, &str); 11] = [
            (|s| s.shards = 2, Level::Fail, "only 1 of 2 shards"),
            (
                |s| s.total.gauges.spool_stopped = true,
                Level::Fail,
                "cannot be written",
            ),
            (
                |s| s.total.gauges.admission_closed = "memory".into(),
                Level::Fail,
                "no mail is accepted: memory",
            ),
            (
                |s| s.spool.free_bytes = Some(1 << 29),
                Level::Fail,
                "512.0 MiB free, less than",
            ),
            (
                |s| s.spool.free_bytes = Some(9 << 30),
                Level::Warn,
                "is 91 % full: 9.0 GiB free",
            ),
            (
                |s| s.spool.min_free_bytes = 30 << 30,
                Level::Warn,
                "refused below 30.0 GiB",
            ),
            (
                |s| s.spool.sync = "none".into(),
                Level::Warn,
                "Spool_Sync = none",
            ),
            (
                |s| s.total.counters.events_lost = 1_234,
                Level::Warn,
                "1,234 events",
            ),
            (
                |s| s.total.gauges.event_log_backlog_bytes = 9 << 20,
                Level::Warn,
                "9.0 MiB of events",
            ),
            (
                |s| s.total.gauges.oldest_seconds = 90_000,
                Level::Warn,
                "has waited 1d1h",
            ),
            (
                |s| s.config.on_disk = ConfigOnDisk::Broken("line 3".into()),
                Level::Warn,
                "/etc/pelton.conf would be refused: line 3",
            ),
        ];
        for (trouble, level, text) in cases {
            let mut status = healthy();
            trouble(&mut status);
            let found = warnings(&status);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!(found[0].level, level, "{text}");
            assert!(
                found[0].text.contains(text),
                "{:?} has not {text:?}",
                found[0].text
            );
            let word = [(Level::Warn, DEGRADED), (Level::Fail, FAILING)];
            assert!(word.contains(&(level, verdict(&found))), "{text}");
        }
    }

    #[test]
    fn queues_that_rest_are_worth_a_word_once_they_are_the_most() {
        let mut status = healthy();
        let gauges = &mut status.total.gauges;
        (gauges.queues, gauges.queues_failing) = (4, 2);
        assert_eq!(warnings(&status), []);
        status.total.gauges.queues_failing = 3;
        let found = warnings(&status);
        assert_eq!((found.len(), found[0].level), (1, Level::Warn));
        assert!(found[0].text.starts_with("queues at rest: 3 of 4;"));
    }

    #[test]
    fn mail_that_receivers_do_not_take_is_told_if_there_is_enough_of_it() {
        for (delivered, delayed, bounced, told) in [
            (80, 0, 20, None),
            (60, 0, 30, None),
            (
                790,
                0,
                210,
                Some("21 % of the 1,000 messages that ended in the last 15m bounced"),
            ),
            (20, 80, 0, None),
            (
                1,
                999,
                0,
                Some("99 % of the 1,000 attempts in the last 15m ended in a delay"),
            ),
        ] {
            let mut status = healthy();
            status.recent = Recent {
                seconds: 900,
                delivered,
                delayed,
                bounced,
            };
            let found = warnings(&status);
            let begins = |warning: &Warning| told.is_some_and(|it| warning.text.starts_with(it));
            assert_eq!(found.len(), usize::from(told.is_some()), "{found:?}");
            assert!(found.iter().all(begins), "{found:?}");
        }
    }

    #[test]
    fn what_waits_for_a_restart_and_a_failing_event_log_are_told() {
        let mut status = healthy();
        status.config.restart = vec!["shards".into()];
        let told = "shards in the configuration that runs still has the value from the start";
        let found = warnings(&status);
        assert_eq!((found.len(), found[0].level), (1, Level::Warn));
        assert!(found[0].text.starts_with(told), "{:?}", found[0].text);
        let mut status = healthy();
        status.total.gauges.event_log_failing = true;
        let told = "the event log /spool/events cannot be written";
        let found = warnings(&status);
        assert_eq!((found.len(), found[0].level), (1, Level::Fail));
        assert!(found[0].text.starts_with(told), "{:?}", found[0].text);
    }

    #[test]
    fn mail_of_a_binding_that_is_gone_is_told_with_what_becomes_of_it() {
        let mut status = healthy();
        let gauges = &mut status.total.gauges;
        (gauges.unnamed_binding_messages, gauges.unnamed_binding) = (1, "old".into());
        let found = warnings(&status);
        let told = "1 message waits for a binding that the configuration does not name (\"old\"): \
                    it goes out as binding \"default\" does";
        assert!(found[0].text.starts_with(told), "{:?}", found[0].text);
        let next = ["pelton", "queue", "list", "--where", "binding=old"];
        assert_eq!(
            (found[0].level, &found[0].next[..]),
            (Level::Warn, &next.map(str::to_owned)[..])
        );
    }

    #[test]
    fn damage_in_the_spool_is_a_failure_for_as_long_as_the_process_runs() {
        let mut status = healthy();
        status.spool_damage = 2;
        let found = warnings(&status);
        assert_eq!((found.len(), found[0].level), (1, Level::Fail));
        let told = "damage was found in 2 places of the spool";
        assert!(found[0].text.starts_with(told), "{:?}", found[0].text);
    }

    #[test]
    fn failures_come_before_warnings_and_lead_on() {
        let mut status = healthy();
        status.spool.sync = "interval".into();
        status.config.on_disk = ConfigOnDisk::Differs("beef".into());
        status.total.gauges.spool_stopped = true;
        let found = warnings(&status);
        let levels: Vec<_> = found.iter().map(|warning| warning.level).collect();
        assert_eq!(levels, [Level::Fail, Level::Warn, Level::Warn]);
        assert_eq!(found[2].next, ["pelton", "reload"]);
    }
}
