//! `pelton-sink`: receiving hosts, and if asked a DNS responder, for tests and load rigs. Reads
//! its arguments, starts the rig and prints what it has seen; everything else is in
//! `pelton::rig`.

#![allow(clippy::disallowed_methods)] // A tool measures against the clock.

mod arguments;

use std::io::IsTerminal;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use arguments::Arguments;
use clap::Parser;
use pelton::base::units;
use pelton::cli::output::say;
use pelton::practice::internet::Account;
use pelton::practice::words::Cause;
use pelton::rig::dns::DnsResponder;
use pelton::rig::runtime;
use pelton::rig::sink::Sink;
use pelton::rig::sink::counts::Counts;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How soon a signal or the end of `--duration` is noticed.
const TICK: Duration = Duration::from_millis(100);

/// Domains in the text output; `--json` has all.
const DOMAINS_SHOWN: usize = 20;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pelton-sink: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (config, zone) = match arguments.config() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("pelton-sink: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    runtime::raise_limits()?;
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, ended.clone()).context("cannot watch for signals")?;
    }
    let sink = Sink::start(config)?;
    let dns = zone
        .map(|(addr, zone)| DnsResponder::start(addr, zone))
        .transpose()?;
    print_ready(&sink, dns.as_ref());
    watch(&sink, arguments, &ended);

    let elapsed = sink.elapsed();
    let failure = sink.failure();
    let accounts = sink.accounts();
    let counts = sink.stop();
    let dns_counts = dns.map(DnsResponder::stop);
    if arguments.json {
        let mut totals = counts.to_json(elapsed.as_secs_f64());
        totals["dns"] = dns_counts.map_or(serde_json::Value::Null, |counts| counts.to_json());
        if !accounts.is_empty() {
            totals["providers"] = accounts.iter().map(account_value).collect();
        }
        say(&totals.to_string());
    } else {
        print_totals(&counts, elapsed);
        accounts.iter().for_each(print_account);
        if let Some(dns) = dns_counts {
            say(dns.to_string().trim_end());
        }
    }
    match failure {
        Some(reason) => {
            eprintln!("pelton-sink: {reason}");
            Ok(ExitCode::FAILURE)
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

/// One line for whoever waits for the sink to listen.
fn print_ready(sink: &Sink, dns: Option<&DnsResponder>) {
    let mut line = "ready".to_owned();
    for addr in sink.addrs() {
        line.push_str(&format!(" {addr}"));
    }
    if let Some(dns) = dns {
        line.push_str(&format!(" dns={}", dns.addr()));
    }
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; the sink works all the same.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Returns when the sink is to end: a signal, the number of messages, the duration, a failure.
fn watch(sink: &Sink, arguments: &Arguments, ended: &AtomicBool) {
    let target = arguments.messages.unwrap_or(u64::MAX);
    let show = std::io::stderr().is_terminal();
    let (mut shown_at, mut shown) = (Instant::now(), 0);
    loop {
        let over = arguments
            .duration
            .is_some_and(|duration| sink.elapsed() >= duration);
        if over || ended.load(Ordering::SeqCst) || sink.failure().is_some() {
            break;
        }
        if sink.wait_for_messages(target, TICK) {
            break;
        }
        let since = shown_at.elapsed();
        if show && since >= Duration::from_secs(1) {
            let received = sink.received();
            let rate = ((received - shown) as f64 / since.as_secs_f64()) as u64;
            let open = sink.counts().connections_open;
            eprint!(
                "\r{}  {}/s  {}\x1b[K",
                units::counted(received, "message"),
                units::grouped(rate),
                units::counted(open, "connection")
            );
            (shown_at, shown) = (Instant::now(), received);
        }
    }
    if show {
        eprintln!();
    }
}

/// What a receiver of the scenario has seen.
fn account_value((name, account): &(String, Account)) -> serde_json::Value {
    let refused = |cause: Cause| account.refusals(cause);
    serde_json::json!({
        "provider": name,
        "connections": account.connections,
        "connections_refused": refused(Cause::Connections),
        "connections_unanswered": account.unreachable,
        "attempts": account.attempts,
        "delivered": account.delivered,
        "over_sending": account.over_sending(),
        "greylisted": refused(Cause::Greylist),
        "blocked_refusals": refused(Cause::Block),
    })
}

fn print_account((name, account): &(String, Account)) {
    let refused = |cause: Cause| units::grouped(account.refusals(cause));
    say(&format!(
        "{name:<20} delivered {:>9}  sent too much {:>7}  connections refused {:>5}  \
         greylisted {:>5}  blocked {:>5}",
        units::grouped(account.delivered),
        units::grouped(account.over_sending()),
        refused(Cause::Connections),
        refused(Cause::Greylist),
        refused(Cause::Block),
    ));
}

fn print_totals(counts: &Counts, elapsed: Duration) {
    let lines = [
        ("connections", counts.connections),
        ("messages", counts.messages),
        ("recipients", counts.recipients),
        ("by BDAT", counts.bdat_messages),
        ("dropped after dot", counts.dropped_after_dot),
        ("closed in body", counts.closed_in_body),
        ("closed unanswered", counts.closed_unanswered),
        ("lost in transaction", counts.lost_in_transaction),
    ];
    say(&format!("{:<20} {:>15}", "time", units::duration(elapsed)));
    for (name, count) in lines {
        say(&format!("{name:<20} {:>15}", units::grouped(count)));
    }
    say(&format!("{:<20} {:>15}", "size", units::size(counts.bytes)));
    for code in 0..1_000 {
        let count = counts.code(code);
        if count > 0 {
            say(&format!(
                "{:<20} {:>15}",
                format!("reply {code:03}"),
                units::grouped(count)
            ));
        }
    }
    let mut domains: Vec<_> = counts.domains().collect();
    domains.sort_by_key(|(_, domain)| core::cmp::Reverse(domain.recipients));
    for (name, domain) in domains.iter().take(DOMAINS_SHOWN) {
        say(&format!(
            "{name:<32} delivered {:>12}  deferred {:>9}  rejected {:>9}",
            units::grouped(domain.delivered),
            units::grouped(domain.deferred),
            units::grouped(domain.rejected)
        ));
    }
    if domains.len() > DOMAINS_SHOWN {
        say(&format!(
            "and {} (--json shows all)",
            units::counted((domains.len() - DOMAINS_SHOWN) as u64, "more domain")
        ));
    }
}
