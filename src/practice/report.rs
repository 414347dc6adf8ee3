//! How a sender has done, against what could have been done, and whether that was good enough.

mod changes;

use core::net::IpAddr;
use std::collections::BTreeSet;

use serde::Serialize;

use crate::practice::SECOND;
use crate::practice::internet::Account;
use crate::practice::internet::BUCKET_US;
use crate::practice::internet::Bucket;
use crate::practice::internet::Internet;
use crate::practice::oracle;
use crate::practice::oracle::Before;
use crate::practice::oracle::Wanted;
use crate::practice::report::changes::Change;
use crate::practice::scenario::Binding;
use crate::practice::scenario::Provider;
use crate::practice::scenario::Scenario;
use crate::practice::words::Cause;

/// What has become of one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mail {
    pub provider: u32,
    pub mailbox: u64,
    /// When the sender had it.
    pub at_us: u64,
    /// Nothing while it waits.
    pub ended: Option<Ended>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Delivered {
        at_us: u64,
        source: IpAddr,
    },
    /// Given up.
    Lost,
}

/// An attempt that the sender has counted as one, and that did not deliver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retry {
    pub provider: usize,
    /// Position of the binding, if the scenario knows it.
    pub binding: Option<usize>,
    pub at_us: u64,
}

/// All that is known when a run has ended.
pub struct Run<'a> {
    pub internet: &'a Internet,
    pub mail: &'a [Mail],
    pub retries: &'a [Retry],
    /// Messages that a receiver took again.
    pub duplicates: u64,
    /// Not taken in by the sender.
    pub refused_at_injection: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    pub seed: u64,
    pub virtual_seconds: u64,
    pub messages: u64,
    pub duplicates: u64,
    pub refused_at_injection: u64,
    pub providers: Vec<Row>,
    pub total: Row,
    pub changes: Vec<ChangeRow>,
    pub goals: Vec<Goal>,
}

/// One receiver, or all together.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Row {
    pub provider: String,
    pub messages: u64,
    /// What a sender who knew every limit would have delivered.
    pub capacity: u64,
    pub delivered: u64,
    /// The same two from when the sender should have known the receiver, beginning with what
    /// waited then.
    pub settled_capacity: u64,
    pub settled_delivered: u64,
    pub attempts: u64,
    /// Messages refused because too much came.
    pub over_sending: u64,
    pub settled_attempts: u64,
    pub settled_over_sending: u64,
    /// The same with connections: what the goal is about.
    pub settled_refusals: u64,
    pub greylisted: u64,
    /// Connections refused because there were too many.
    pub connections_refused: u64,
    pub connections_unanswered: u64,
    /// Connections and messages refused while the address was kept out.
    pub blocked_refusals: u64,
    /// Time for which addresses were kept out, over all of them; by timetable and for abuse.
    pub blocked_seconds: u64,
    pub abuse_seconds: u64,
    /// Attempts that failed and were counted as such.
    pub retries: u64,
    /// Of those, by a binding while it was kept out.
    pub blocked_retries: u64,
    pub lost: u64,
    pub waiting: u64,
    pub longest_wait_seconds: f64,
}

/// A limit that was changed while mail was flowing.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ChangeRow {
    pub provider: String,
    pub at_seconds: u64,
    /// `lowered` or `raised`.
    pub kind: &'static str,
    /// Until it was kept, or used to 90 percent; null if never.
    pub found_after_seconds: Option<u64>,
    pub wanted_seconds: u64,
}

/// What was to be reached, and what was.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Goal {
    pub name: String,
    pub wanted: String,
    pub found: String,
    pub reached: bool,
}

impl Row {
    /// Percent of the hidden capacity once settled; nothing if there was none.
    pub fn share(&self) -> Option<f64> {
        percent(self.settled_delivered, self.settled_capacity)
    }

    /// Percent of the attempts once settled that were over-sending.
    pub fn over_percent(&self) -> Option<f64> {
        percent(self.settled_refusals, self.settled_attempts)
    }

    fn add(&mut self, other: &Row) {
        for (mine, theirs) in [
            (&mut self.messages, other.messages),
            (&mut self.capacity, other.capacity),
            (&mut self.delivered, other.delivered),
            (&mut self.settled_capacity, other.settled_capacity),
            (&mut self.settled_delivered, other.settled_delivered),
            (&mut self.attempts, other.attempts),
            (&mut self.over_sending, other.over_sending),
            (&mut self.settled_attempts, other.settled_attempts),
            (&mut self.settled_over_sending, other.settled_over_sending),
            (&mut self.settled_refusals, other.settled_refusals),
            (&mut self.greylisted, other.greylisted),
            (&mut self.connections_refused, other.connections_refused),
            (
                &mut self.connections_unanswered,
                other.connections_unanswered,
            ),
            (&mut self.blocked_refusals, other.blocked_refusals),
            (&mut self.blocked_seconds, other.blocked_seconds),
            (&mut self.abuse_seconds, other.abuse_seconds),
            (&mut self.retries, other.retries),
            (&mut self.blocked_retries, other.blocked_retries),
            (&mut self.lost, other.lost),
            (&mut self.waiting, other.waiting),
        ] {
            *mine += theirs;
        }
        self.longest_wait_seconds = self.longest_wait_seconds.max(other.longest_wait_seconds);
    }
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

/// Judges a run.
pub fn report(run: &Run<'_>, seed: u64) -> Report {
    let scenario = run.internet.scenario();
    let mut of_provider: Vec<Vec<&Mail>> = vec![Vec::new(); scenario.providers.len()];
    for mail in run.mail {
        of_provider[mail.provider as usize].push(mail);
    }
    let (mut providers, mut changes) = (Vec::new(), Vec::new());
    let mut total = Row {
        provider: "all".to_string(),
        ..Row::default()
    };
    for (index, mail) in of_provider.iter().enumerate() {
        let row = row(run, scenario, index, mail);
        total.add(&row);
        providers.push(row);
        let account = run.internet.account(index);
        let provider = &scenario.providers[index];
        changes.extend(
            changes::of(scenario, provider, account)
                .iter()
                .map(|it| change_row(scenario, provider, it)),
        );
    }
    changes.sort_by_key(|it| it.at_seconds);
    let goals = goals(scenario, &total, &changes);
    Report {
        seed,
        virtual_seconds: scenario.duration_us / SECOND,
        messages: run.mail.len() as u64,
        duplicates: run.duplicates,
        refused_at_injection: run.refused_at_injection,
        providers,
        total,
        changes,
        goals,
    }
}

fn row(run: &Run<'_>, scenario: &Scenario, index: usize, mail: &[&Mail]) -> Row {
    let provider = &scenario.providers[index];
    let account = run.internet.account(index);
    let end_us = scenario.duration_us;
    let delivered = |it: &&&Mail| matches!(it.ended, Some(Ended::Delivered { .. }));
    let waits = mail.iter().map(|it| match it.ended {
        Some(Ended::Delivered { at_us, .. }) => at_us.saturating_sub(it.at_us),
        Some(Ended::Lost) => 0,
        None => end_us.saturating_sub(it.at_us),
    });
    let settled = settled(scenario, provider, mail);
    let buckets = after(&account.buckets, scenario.goals.settles_us);
    let sum = |of: fn(&Bucket) -> u32| buckets.iter().map(|it| u64::from(of(it))).sum::<u64>();
    let retries = || run.retries.iter().filter(|it| it.provider == index);
    let (blocked_seconds, abuse_seconds) = kept_out(scenario, provider, account);
    let is_kept_out = |it: &&Retry| {
        let address = it.binding.map(|it| scenario.bindings[it].address);
        let abuse = |span: &&(IpAddr, u64, u64)| {
            Some(span.0) == address && (span.1..span.2).contains(&it.at_us)
        };
        provider.blocked_until(it.binding, it.at_us).is_some()
            || account.kept_out.iter().find(abuse).is_some()
    };
    Row {
        provider: provider.name.clone(),
        messages: mail.len() as u64,
        capacity: capacity(scenario, provider, mail),
        delivered: mail.iter().filter(delivered).count() as u64,
        settled_capacity: settled.0,
        settled_delivered: settled.1,
        attempts: account.attempts,
        over_sending: account.over_sending(),
        settled_attempts: sum(|it| it.attempts),
        settled_over_sending: sum(|it| it.over_messages),
        settled_refusals: sum(|it| it.over),
        greylisted: account.refusals(Cause::Greylist),
        connections_refused: account.refusals(Cause::Connections),
        connections_unanswered: account.unreachable,
        blocked_refusals: account.refusals(Cause::Block),
        blocked_seconds,
        abuse_seconds,
        retries: retries().count() as u64,
        blocked_retries: retries().filter(is_kept_out).count() as u64,
        lost: mail
            .iter()
            .filter(|it| it.ended == Some(Ended::Lost))
            .count() as u64,
        waiting: mail.iter().filter(|it| it.ended.is_none()).count() as u64,
        longest_wait_seconds: waits.max().unwrap_or(0) as f64 / SECOND as f64,
    }
}

fn capacity(scenario: &Scenario, provider: &Provider, mail: &[&Mail]) -> u64 {
    let wanted: Vec<Wanted> = mail.iter().map(|it| wanted(it)).collect();
    let until_us = scenario.duration_us;
    let bindings = senders(scenario, mail);
    oracle::deliveries(provider, &bindings, &[], &wanted, until_us).len() as u64
}

/// The addresses of the scenario, and those that it does not name and that have delivered all the
/// same: to a receiver they are addresses without reputation.
fn senders(scenario: &Scenario, mail: &[&Mail]) -> Vec<Binding> {
    let source = |it: &&Mail| match it.ended {
        Some(Ended::Delivered { source, .. }) => Some(source),
        Some(Ended::Lost) | None => None,
    };
    let unnamed = |it: &IpAddr| scenario.binding_of(*it).is_none();
    let others: BTreeSet<IpAddr> = mail.iter().filter_map(source).filter(unnamed).collect();
    let others = others.into_iter().map(|address| Binding {
        name: address.to_string(),
        address,
        reputation: 0,
    });
    scenario.bindings.iter().cloned().chain(others).collect()
}

fn wanted(mail: &Mail) -> Wanted {
    Wanted {
        at_us: mail.at_us,
        mailbox: mail.mailbox,
    }
}

/// What could be delivered from when the sender should know the receiver, and what was. What
/// waits at that moment comes then; a mailbox that was written to before is on no greylist.
fn settled(scenario: &Scenario, provider: &Provider, mail: &[&Mail]) -> (u64, u64) {
    let from_us = scenario.goals.settles_us;
    let (mut before, mut later) = (Vec::new(), Vec::new());
    let mut delivered = 0;
    for it in mail {
        match it.ended {
            Some(Ended::Delivered { at_us, source }) if at_us < from_us => {
                before.push(Before { at_us, source });
                continue;
            }
            Some(Ended::Delivered { .. }) => delivered += 1,
            Some(Ended::Lost) | None => {}
        }
        let at_us = it.at_us.max(from_us);
        later.push(Wanted {
            at_us,
            ..wanted(it)
        });
    }
    before.sort_unstable();
    let until_us = scenario.duration_us;
    let bindings = senders(scenario, mail);
    let possible = oracle::deliveries(provider, &bindings, &before, &later, until_us);
    (possible.len() as u64, delivered)
}

fn after(buckets: &[Bucket], from_us: u64) -> &[Bucket] {
    let first = from_us.div_ceil(BUCKET_US) as usize;
    buckets.get(first..).unwrap_or(&[])
}

/// Seconds by timetable, and for abuse.
fn kept_out(scenario: &Scenario, provider: &Provider, account: &Account) -> (u64, u64) {
    let end_us = scenario.duration_us;
    let blocks = provider.blocks.iter().map(|block| {
        let addresses = match block.binding {
            Some(_) => 1,
            None => scenario.bindings.len() as u64,
        };
        block.to_us.min(end_us).saturating_sub(block.from_us) * addresses
    });
    let abuse = account
        .kept_out
        .iter()
        .map(|(_, from, to)| to.min(&end_us) - from);
    (blocks.sum::<u64>() / SECOND, abuse.sum::<u64>() / SECOND)
}

fn change_row(scenario: &Scenario, provider: &Provider, change: &Change) -> ChangeRow {
    let (kind, wanted_us) = match change.raised {
        true => ("raised", scenario.goals.lifted_us),
        false => ("lowered", scenario.goals.halved_us),
    };
    ChangeRow {
        provider: provider.name.clone(),
        at_seconds: change.at_us / SECOND,
        kind,
        found_after_seconds: change.found_after_us.map(|it| it / SECOND),
        wanted_seconds: wanted_us / SECOND,
    }
}

fn goals(scenario: &Scenario, total: &Row, changes: &[ChangeRow]) -> Vec<Goal> {
    let goals = &scenario.goals;
    let number = |found: Option<f64>| match found {
        Some(percent) => format!("{percent:.1} %"),
        None => "nothing to deliver".to_string(),
    };
    let (share, over) = (total.share(), total.over_percent());
    let mut list = vec![
        Goal {
            name: "share of the hidden capacity, once settled".to_string(),
            wanted: format!("at least {} %", goals.share),
            found: number(share),
            reached: share.is_none_or(|it| it >= goals.share as f64),
        },
        Goal {
            name: "attempts that were over-sending, once settled".to_string(),
            wanted: format!("at most {} %", goals.deferrals),
            found: number(over),
            reached: over.is_none_or(|it| it <= goals.deferrals as f64),
        },
    ];
    for kind in ["lowered", "raised"] {
        let of_kind: Vec<&ChangeRow> = changes.iter().filter(|it| it.kind == kind).collect();
        let Some(first) = of_kind.first() else {
            continue;
        };
        let (wanted, never) = (
            first.wanted_seconds,
            of_kind.iter().find(|it| it.found_after_seconds.is_none()),
        );
        let slowest = of_kind.iter().filter_map(|it| it.found_after_seconds).max();
        list.push(Goal {
            name: match kind {
                "lowered" => "a lowered limit is kept".to_string(),
                _ => "a raised limit is used to 90 %".to_string(),
            },
            wanted: format!("within {wanted} s"),
            found: match (never, slowest) {
                (Some(never), _) => format!("never at {}", never.provider),
                (None, slowest) => format!("after {} s", slowest.unwrap_or(0)),
            },
            reached: never.is_none() && slowest.is_none_or(|it| it <= wanted),
        });
    }
    list.push(Goal {
        name: "messages lost".to_string(),
        wanted: "0".to_string(),
        found: total.lost.to_string(),
        reached: total.lost == 0,
    });
    if total.blocked_seconds + total.abuse_seconds > 0 {
        list.push(Goal {
            name: "retries spent by a blocked address".to_string(),
            wanted: "0".to_string(),
            found: total.blocked_retries.to_string(),
            reached: total.blocked_retries == 0,
        });
    }
    list
}

#[cfg(test)]
mod tests;
