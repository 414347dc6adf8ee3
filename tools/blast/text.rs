//! Reports for people.

use std::fmt;
use std::time::Duration;

use pelton::base::units;
use pelton::rig::blast::stats::Report;
use pelton::rig::blast::stats::Stats;
use pelton::rig::blast::verify::Verification;

/// The table at the end of a run.
pub struct Table<'a> {
    pub report: &'a Report,
    /// CPU time of the generator itself.
    pub cpu: Duration,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.report;
        let mut row = |name: &str, value: String| writeln!(f, "{name:<22} {value:>16}");
        row("run", report.run.clone())?;
        row("time", format!("{:.3} s", report.elapsed_seconds))?;
        if report.started == 0 {
            let rest = [
                ("connections opened", report.connections_opened),
                ("connections failed", report.connections_failed),
                ("not started", report.not_started.unwrap_or(0)),
            ];
            for (name, count) in rest {
                row(name, units::grouped(count))?;
            }
            return row("sent", "nothing".to_string());
        }
        row(
            "messages/s",
            units::grouped(report.messages_per_second as u64),
        )?;
        row("bytes/s", units::size(report.bytes_per_second as u64))?;
        let counts = [
            ("started", report.started),
            ("acknowledged", report.acknowledged),
            ("refused", report.refused),
            ("unacknowledged", report.unacknowledged),
            ("aborted", report.aborted),
            ("recipients", report.recipients),
            ("recipients refused", report.recipients_refused),
            ("connections opened", report.connections_opened),
            ("connections failed", report.connections_failed),
            ("connections lost", report.connections_lost),
            ("timeouts", report.timeouts),
        ];
        for (name, count) in counts {
            row(name, units::grouped(count))?;
        }
        if let Some(not_started) = report.not_started.filter(|count| *count > 0) {
            row("not started", units::grouped(not_started))?;
        }
        for (code, count) in &report.replies {
            row(&format!("reply {code}"), units::grouped(*count))?;
        }
        let latency = &report.latency_us;
        let values = [
            ("latency min", latency.min),
            ("latency p50", latency.p50),
            ("latency p90", latency.p90),
            ("latency p99", latency.p99),
            ("latency p99.9", latency.p999),
            ("latency max", latency.max),
        ];
        let timed = if latency.count > 0 { &values[..] } else { &[] };
        for (name, us) in timed.iter().copied() {
            row(name, format!("{} us", units::grouped(us)))?;
        }
        let per_message = self.cpu.as_secs_f64() * 1e6 / report.started as f64;
        row("own CPU", format!("{:.3} s", self.cpu.as_secs_f64()))?;
        row("own CPU per message", format!("{per_message:.1} us"))
    }
}

/// One line a second.
pub fn progress(before: &Stats, now: &Stats, since: Duration, elapsed: Duration) -> String {
    let done = now.acknowledged - before.acknowledged;
    format!(
        "{:>7}  {} acknowledged  {}/s  p50 {}  p99 {}  refused {}  lost connections {}",
        units::duration(elapsed),
        units::grouped(now.acknowledged),
        units::grouped((done as f64 / since.as_secs_f64()) as u64),
        units::duration(now.latency(0.5)),
        units::duration(now.latency(0.99)),
        units::grouped(now.refused),
        units::grouped(now.connections_lost),
    )
}

/// The result of `verify`.
pub struct Comparison<'a>(pub &'a Verification);

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.0;
        let rows = [
            ("acknowledged messages", seen.acknowledged_messages),
            ("acknowledged", seen.acknowledged),
            ("captured messages", seen.captured_messages),
            ("delivered", seen.delivered),
            ("lost", seen.lost),
            ("lost, unconfirmed", seen.lost_unconfirmed),
            ("duplicated", seen.duplicated),
            ("unconfirmed", seen.unconfirmed),
            ("delivered, not acked", seen.unacknowledged_delivered),
            ("foreign", seen.foreign),
            ("corrupt", seen.corrupt),
            ("torn lines", seen.torn_lines),
        ];
        for (name, count) in rows {
            writeln!(f, "{name:<22} {:>16}", units::grouped(count))?;
        }
        let examples = [
            ("lost", &seen.lost_examples),
            ("duplicated", &seen.duplicated_examples),
            ("corrupt", &seen.corrupt_examples),
            ("foreign", &seen.foreign_examples),
        ];
        for (name, list) in examples {
            for example in list {
                writeln!(f, "{name}: {}", example.escape_debug())?;
            }
        }
        Ok(())
    }
}
