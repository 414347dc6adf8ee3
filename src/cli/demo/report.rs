//! What the demo says when it is over: a table of all queues, rates and latencies, what the
//! receiving hosts said, and the check of the books.

use core::fmt::Write;
use core::time::Duration;

use crate::base::units::counted;
use crate::base::units::grouped;
use crate::cli::demo::ledger::Counted;
use crate::cli::demo::ledger::Ledger;
use crate::cli::demo::ledger::QueueTotals;
use crate::cli::demo::view::milliseconds;
use crate::cli::demo::world;
use crate::cli::output::Align;
use crate::cli::output::Style;
use crate::cli::output::Table;
use crate::cli::output::clean;
use crate::engine::stats::ShardStats;
use crate::rig::blast::stats::Report;

/// The last line of a run in which all is well.
pub const VERDICT: &str = "every accepted message reached exactly one outcome";

/// Refusals that are quoted.
const REFUSALS_SHOWN: usize = 5;

/// Attempts told apart; later ones are counted together.
const ATTEMPTS_SHOWN: usize = 4;

/// Faults that are printed; more of them say nothing new.
const FAULTS_SHOWN: usize = 20;

/// Everything that is known at the end.
pub struct Outcome<'a> {
    pub style: &'a Style,
    pub blast: &'a Report,
    pub stats: &'a ShardStats,
    pub ledger: &'a Ledger,
    pub counted: &'a Counted,
    /// From the first message to the last outcome.
    pub took: Duration,
}

impl Outcome<'_> {
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} in {:.1} s, the last outcome after {:.1} s\n\n",
            counted(self.blast.acknowledged, "message"),
            self.blast.elapsed_seconds,
            self.took.as_secs_f64(),
        );
        text.push_str(&self.table());
        text.push('\n');
        self.figures(&mut text);
        self.retries(&mut text);
        self.refusals(&mut text);
        text
    }

    fn table(&self) -> String {
        let mut table = Table::new(&[
            ("BINDING", Align::Left),
            ("DOMAIN", Align::Left),
            ("ACCEPTED", Align::Right),
            ("DELIVERED", Align::Right),
            ("AT ONCE", Align::Right),
            ("DELAYS", Align::Right),
            ("BOUNCED", Align::Right),
            ("EXPIRED", Align::Right),
            ("THE RECEIVER", Align::Left),
        ]);
        let mut row = |binding: &str, domain: &str, totals: &QueueTotals, story: &str| {
            table.row([
                binding.to_owned(),
                domain.to_owned(),
                grouped(totals.accepted),
                grouped(totals.delivered),
                grouped(totals.at_once),
                grouped(totals.delayed_attempts),
                grouped(totals.bounced),
                grouped(totals.expired),
                story.to_owned(),
            ]);
        };
        for domain in &world::DOMAINS {
            let mut story = domain.story;
            for (binding, _) in world::BINDINGS {
                let key = (binding.to_owned(), domain.name.to_owned());
                if let Some(totals) = self.ledger.queues.get(&key) {
                    row(binding, domain.name, totals, story);
                    story = "";
                }
            }
        }
        row("all", "", &self.ledger.totals(), "");
        table.render(self.style)
    }

    fn figures(&self, text: &mut String) {
        let latency = &self.blast.latency_us;
        let us = |us: u64| milliseconds(Duration::from_micros(us));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "in         {}/s with {}, 250 after {} (p50), {} (p99), {} (longest)",
            grouped(self.blast.messages_per_second as u64),
            counted(self.blast.connections_opened, "connection"),
            us(latency.p50),
            us(latency.p99),
            us(latency.max),
        );
        let out = &self.ledger.first_delivery_ms;
        let at = |parts: usize| {
            let place = (out.len() * parts / 1_000).min(out.len().saturating_sub(1));
            grouped(out.get(place).copied().unwrap_or(0))
        };
        let _ = writeln!(
            text,
            "out        {}/s, first attempts delivered {} ms (p50), {} ms (p99) after acceptance",
            grouped(
                (self.counted.engine.messages_delivered as f64 / self.took.as_secs_f64().max(0.001))
                    as u64
            ),
            at(500),
            at(990),
        );
        let counters = &self.counted.engine;
        let commits = counters.spool_commits.max(1);
        let within = |parts| {
            let found = self.stats.commit_latency.quantile(parts);
            found.map_or_else(|| "-".to_owned(), milliseconds)
        };
        let _ = writeln!(
            text,
            "disk       {}, each synced, {:.1} new messages in each beside outcomes; within {} \
             (p50), {} (p99)",
            counted(counters.spool_commits, "commit"),
            counters.spool_commit_messages as f64 / commits as f64,
            within(500),
            within(990),
        );
        let _ = writeln!(
            text,
            "wire       {} out for {} delivered, {} failed to open",
            counted(counters.connections_out, "connection"),
            counted(counters.messages_delivered, "message"),
            grouped(counters.connections_out_failed),
        );
    }

    fn retries(&self, text: &mut String) {
        let after = self.ledger.delivered_after();
        let names = ["first", "second", "third", "fourth"];
        const _: () = assert!(ATTEMPTS_SHOWN == 4, "a name for each");
        let mut parts: Vec<String> = after
            .iter()
            .zip(names)
            .map(|(count, name)| format!("{name} attempt {}", grouped(*count)))
            .collect();
        let later: u64 = after.iter().skip(ATTEMPTS_SHOWN).sum();
        if later > 0 {
            parts.push(format!("later {}", grouped(later)));
        }
        let _ = writeln!(text, "delivered  at the {}", parts.join(", "));
        if let Some(once) = after.get(1) {
            let _ = writeln!(
                text,
                "retries    deferred once, delivered at the second attempt: {}",
                grouped(*once)
            );
        }
        let doubts = self.ledger.possible_duplicates;
        if doubts > 0 {
            let _ = writeln!(
                text,
                "doubt      {} final replies were lost after the whole message: sent again, marked \
                 as possible duplicates",
                grouped(doubts)
            );
        }
    }

    fn refusals(&self, text: &mut String) {
        let mut refusals: Vec<_> = self.ledger.refusals.iter().collect();
        refusals.sort_by_key(|(_, count)| core::cmp::Reverse(**count));
        let mut label = "bounced";
        for (refusal, count) in refusals.into_iter().take(REFUSALS_SHOWN) {
            let _ = writeln!(
                text,
                "{label:<9}  {:>5} x {:<15} {}",
                grouped(*count),
                clean(&refusal.domain),
                clean(&refusal.words),
            );
            label = "";
        }
    }

    /// The check, and whether all is well.
    pub fn check(&self) -> (String, bool) {
        let mut text = self.style.strong("check");
        text.push('\n');
        let totals = self.ledger.totals();
        let lines = [
            format!(
                "acknowledged {}  accepted by the event log {}  with an outcome {}",
                grouped(self.ledger.acknowledged_count()),
                grouped(totals.accepted),
                grouped(totals.delivered + totals.bounced + totals.expired),
            ),
            format!(
                "delivered by the event log {}  arrived at the hosts {}  arrived twice {}",
                grouped(totals.delivered),
                grouped(self.ledger.arrived_count()),
                grouped(self.ledger.duplicates()),
            ),
            format!(
                "counters {} = delivered {} + bounced {} + expired {}",
                grouped(self.counted.engine.messages_injected),
                grouped(self.counted.engine.messages_delivered),
                grouped(self.counted.engine.messages_bounced),
                grouped(self.counted.engine.messages_expired),
            ),
        ];
        for line in lines {
            let _ = writeln!(text, "     {line}");
        }
        let mut faults = self.ledger.faults(self.counted);
        faults.extend(self.blast_faults());
        for fault in faults.iter().take(FAULTS_SHOWN) {
            let _ = writeln!(text, "{} {fault}", self.style.fail("FAIL"));
        }
        let well = faults.is_empty();
        if well {
            let _ = writeln!(text, "{}", self.style.good(VERDICT));
        }
        (text, well)
    }

    /// Nothing that the generator does is refused in this world.
    fn blast_faults(&self) -> Option<String> {
        let blast = self.blast;
        if let Some(fault) = &blast.fault {
            return Some(format!("the load generator gave up: {}", clean(fault)));
        }
        (!blast.is_clean()).then(|| {
            format!(
                "of {} begun {} acknowledged, {} refused, {} cut short, {} \
                 unanswered, {} not begun: {}",
                counted(blast.started, "message"),
                grouped(blast.acknowledged),
                grouped(blast.refused),
                grouped(blast.aborted),
                grouped(blast.unacknowledged),
                grouped(blast.not_started.unwrap_or(0)),
                clean(blast.trouble.as_deref().unwrap_or("no connection was lost")),
            )
        })
    }
}
