//! What the ledger learns from the event log and from a restart, and what it asks at the end.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::base::time::Wall;
use crate::sim::counts::Check;
use crate::sim::counts::Fault;
use crate::sim::ledger::Due;
use crate::sim::ledger::Ended;
use crate::sim::ledger::Ledger;
use crate::sim::ledger::Standing;
use crate::sim::ledger::Told;
use crate::sim::ledger::Who;
use crate::sim::mail;
use crate::spool::Unreported;
use crate::spool::UnreportedEvent;
use crate::types::flow::CLASS_DEFAULT;
use crate::types::flow::FlowNames;
use crate::types::message::Arrival;

/// What the checks want to know of a line of the event log.
#[derive(Deserialize)]
struct Line {
    r#type: String,
    event_id: String,
    timestamp: String,
    #[serde(default)]
    raw_rcpt_to: Option<String>,
    #[serde(default)]
    outcome: Option<String>,
    #[serde(default)]
    next_attempt: Option<String>,
    #[serde(default)]
    possible_duplicate: bool,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    raw_reason: Option<String>,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    class: String,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    campaign_id: Option<String>,
}

impl Ledger {
    /// A line that is durable in the event log. The first of its id counts.
    pub fn event_line(&mut self, text: &str) {
        let Ok(line) = serde_json::from_str::<Line>(text) else {
            return self.fail(Check::OneTerminalEvent, format!("not an event: {text}"));
        };
        let who = line.raw_rcpt_to.as_deref().and_then(Who::parse);
        let Some(who) = who.filter(|who| self.recipient(*who).is_some()) else {
            return;
        };
        let is_new = self.event_ids.insert(line.event_id.clone());
        let events = &mut self.events;
        if is_new {
            match (line.r#type.as_str(), line.outcome.as_deref()) {
                ("injection", _) => events.injections += 1,
                ("delivery", _) => events.deliveries += 1,
                ("delay", _) => events.delays += 1,
                ("rebind", _) => self.counts.fault(Fault::MailRebound),
                ("bounce", Some("bounced")) => events.bounces += 1,
                ("bounce", Some("expired")) => events.expirations += 1,
                _ => {}
            }
        }
        self.check_flow_of_line(who, &line);
        match line.r#type.as_str() {
            "injection" => self.injection(who),
            "delay" => self.delay(who, &line),
            "delivery" | "bounce" => self.terminal(who, line),
            _ => {}
        }
    }

    /// A line without the subject tells of a message whose record could not be read.
    fn check_flow_of_line(&mut self, who: Who, line: &Line) {
        let found = FlowNames {
            class: &line.class,
            tenant: line.tenant.as_deref().unwrap_or_default(),
            campaign: line.campaign_id.as_deref().unwrap_or_default(),
        };
        if !line.subject.is_empty() {
            self.check_flow(who, found);
        }
    }

    fn check_flow(&mut self, who: Who, found: FlowNames<'_>) {
        let (_, expected) = mail::flow(who.message);
        self.check(Check::FlowKept, found == expected, || {
            format!("{who:?} was handed over as {expected:?} and is told of as {found:?}")
        });
    }

    fn injection(&mut self, who: Who) {
        let standing = self.messages[who.message].standing;
        let holds = match standing {
            Standing::Accepted | Standing::Unknown => true,
            Standing::Refused { in_trouble } => in_trouble,
            Standing::Unsent => false,
        };
        self.check(Check::EventIsTrue, holds, || {
            format!("{who:?} has an injection event, its client knows it as {standing:?}")
        });
        self.owe(who);
    }

    fn delay(&mut self, who: Who, line: &Line) {
        let told = self.told_now();
        let due = line.next_attempt.as_deref().and_then(wall);
        let made = wall(&line.timestamp).unwrap_or(Wall::MAX);
        let due = due.map(|at| Due { at, made, told });
        if let Some(it) = self.recipient(who) {
            it.due = it.due.max(due);
            it.possible_duplicate_told |= line.possible_duplicate;
        }
    }

    fn told_now(&self) -> Told {
        Told {
            life: self.lives.current(),
            at_us: self.now_us,
        }
    }

    fn terminal(&mut self, who: Who, line: Line) {
        let has_read_faults = self.counts.faults[Fault::ReadFails as usize] > 0;
        let outcome = line.outcome.unwrap_or_default();
        let Some(it) = self.recipient(who) else {
            return;
        };
        it.possible_duplicate_told |= line.possible_duplicate;
        let damaged = line
            .raw_reason
            .as_deref()
            .is_some_and(|it| it.contains("damaged"));
        let is_true = match outcome.as_str() {
            "delivered" => it.deliveries.iter().any(|it| it.reached_us.is_some()),
            "bounced" if damaged => has_read_faults,
            "bounced" => line.internal || it.rejected,
            _ => true,
        };
        let timestamp = line.timestamp;
        let ended = Ended { outcome, timestamp };
        let shown = format!("{ended:?}");
        let before = it.ended.clone();
        self.check(Check::EventIsTrue, is_true, || {
            format!("{who:?}: no host has said what its event tells: {shown}")
        });
        self.check(
            Check::OneTerminalEvent,
            before.as_ref().is_none_or(|before| *before == ended),
            || format!("{who:?} ended as {shown}, and before as {before:?}"),
        );
        if before.is_some() {
            return;
        }
        match ended.outcome.as_str() {
            "bounced" => self.counts.bounced += 1,
            "expired" => self.counts.expired += 1,
            _ => {}
        }
        self.owe(who);
        self.open -= 1;
        let told = self.told_now();
        if let Some(it) = self.recipient(who) {
            it.ended = Some(ended);
            it.ended_told = Some(told);
        }
    }

    /// What a start has found: every open recipient, and the events that are to be told again.
    pub fn recovered<'a>(
        &mut self,
        arrivals: impl Iterator<Item = &'a Arrival>,
        unreported: impl Iterator<Item = &'a Unreported>,
    ) {
        let mut open: BTreeSet<Who> = BTreeSet::new();
        for arrival in arrivals {
            let Some(who) = Who::parse(arrival.address.as_str()) else {
                continue;
            };
            let flow = arrival.flow.as_ref().map(|it| it.names());
            let default = FlowNames {
                class: CLASS_DEFAULT,
                ..FlowNames::default()
            };
            self.check_flow(who, flow.unwrap_or(default));
            let twice = !open.insert(who);
            self.check(Check::Recovered, !twice, || {
                format!("{who:?} was recovered twice")
            });
        }
        let mut ended: BTreeSet<Who> = BTreeSet::new();
        for event in unreported {
            if let UnreportedEvent::Outcome(outcome) = &event.event
                && let Some(facts) = &event.facts
                && outcome.kind.is_terminal()
            {
                let index = usize::from(outcome.message.recipient);
                let address = facts.recipients.get(index).map(|it| it.address.as_str());
                ended.extend(address.and_then(Who::parse));
            }
        }
        let life = self.lives.current();
        for who in &ended {
            if let Some(it) = self.recipient(*who) {
                it.found_ended_in = life;
            }
        }
        for message in 0..self.messages.len() {
            self.recovered_message(message, &open, &ended);
        }
    }

    fn recovered_message(&mut self, message: usize, open: &BTreeSet<Who>, ended: &BTreeSet<Who>) {
        let standing = self.messages[message].standing;
        for recipient in 0..self.messages[message].recipients.len() {
            let who = Who { message, recipient };
            let is_open = open.contains(&who);
            let it = &self.messages[message].recipients[recipient];
            let (told, found_in) = (it.ended_told, it.found_ended_in);
            let is_finding_lost = found_in > 0 && self.lives.may_have_lost_findings(found_in);
            if is_open && told.is_some_and(|it| is_finding_lost || self.is_record_lost(it)) {
                self.reopen(who);
            }
            let it = &self.messages[message].recipients[recipient];
            let has_ended = it.ended.is_some();
            let owed = it.owed;
            let is_ending = ended.contains(&who);
            if owed {
                self.check(Check::Recovered, is_open || has_ended || is_ending, || {
                    format!("{who:?} was accepted and is lost")
                });
                self.check(Check::OneTerminalEvent, !(is_open && has_ended), || {
                    format!("{who:?} is open, and its terminal event is in the log")
                });
            } else if is_open {
                let holds = match standing {
                    Standing::Accepted => false,
                    Standing::Unknown => true,
                    Standing::Refused { in_trouble } => in_trouble,
                    Standing::Unsent => false,
                };
                self.check(Check::Recovered, holds, || {
                    format!("{who:?} is in the spool, its client knows it as {standing:?}")
                });
            }
        }
    }

    /// Its end was told and its record was lost: it must come to an end once more.
    fn reopen(&mut self, who: Who) {
        if let Some(it) = self.recipient(who) {
            it.ended = None;
            it.ended_told = None;
            self.open += 1;
        }
    }

    /// Everything must have come to its end, and to the right one.
    pub fn check_end(&mut self) {
        for message in 0..self.messages.len() {
            for recipient in 0..self.messages[message].recipients.len() {
                let who = Who { message, recipient };
                let it = &self.messages[message].recipients[recipient];
                let (owed, ended) = (it.owed, it.ended.is_some());
                let lost_in = it.lost_in;
                let told = it.possible_duplicate_told;
                if owed {
                    self.check(Check::OneOutcome, ended, || {
                        format!("{who:?} was accepted and has no outcome")
                    });
                }
                if let Some(life) = lost_in
                    && self.lives.in_order_since(life)
                {
                    self.check(Check::DuplicateCounted, told, || {
                        format!("{who:?} was delivered twice, and no event warns of it")
                    });
                }
            }
        }
    }
}

/// Reads the form that events have: `2026-01-02T03:04:05.678Z`.
pub(super) fn wall(text: &str) -> Option<Wall> {
    let number = |range: core::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let time = [number(11..13)?, number(14..16)?, number(17..19)?];
    let milli = number(20..23)?;
    // Days since 1970-01-01, by the civil calendar.
    let shifted = if month > 2 { year } else { year - 1 };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + time[0] * 3_600 + time[1] * 60 + time[2];
    u64::try_from(seconds * 1_000 + milli)
        .ok()
        .map(|milli| Wall(milli * 1_000))
}
