//! The command line of `pelton-blast`.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use anyhow::bail;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use pelton::base::units;
use pelton::rig::blast::BlastConfig;
use pelton::rig::blast::Mode;
use pelton::rig::blast::idle::IdleConfig;
use pelton::rig::blast::mix::Mix;

/// Addresses of one `--source` range.
const SOURCES_MAX: u32 = 65_536;

const AFTER_HELP: &str = "\
JSON (--json), one document of schema pelton-blast.run/1:
  run, elapsed_seconds, started, not_started (null without --messages), acknowledged, refused (4xx
  or 5xx at any stage), unacknowledged (sent whole, no final reply), aborted (cut short),
  recipients, recipients_refused, size_bytes, messages_per_second, bytes_per_second,
  connections_opened, connections_failed, connections_lost, timeouts, replies {code: count},
  latency_us {count, mean, min, p50, p90, p99, p99.9, max} (null if nothing was answered), fault,
  trouble, cpu_seconds

  Latency runs from MAIL to the final reply; with --rate from the moment at which the message was
  due, so that a stalled server is not flattered by messages that were never begun.

Exit codes: 0 all acknowledged, 1 some not, or nothing was sent, 2 usage; idle: 4 could not connect.

Examples:
  pelton-blast --target 127.0.0.1:2525 --connections 100 --messages 1000000 --size 4096 --json
  pelton-blast --target 127.0.0.1:2525 --rate 2000 --duration 60s --domains 100
  pelton-blast --target 127.0.0.1:2525 --messages 20000 --log-acked acked.txt --reconnect
  pelton-blast verify --acked acked.txt --capture capture.jsonl
  pelton-blast idle --target 127.0.0.1:2525 --connections 5000 --duration 30s
";

/// Load generator for mail servers over SMTP.
#[derive(Debug, Parser)]
#[command(
    name = "pelton-blast",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_long_help = AFTER_HELP
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub run: RunArguments,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare the file of --log-acked with the capture file of pelton-sink: what was lost,
    /// duplicated, changed.
    Verify(VerifyArguments),
    /// Open connections, say EHLO, and hold them open.
    Idle(IdleArguments),
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// Server to send to, HOST:PORT; connections take turns if it is repeated.
    #[arg(long, value_name = "HOST:PORT", required = true)]
    pub target: Vec<String>,

    /// Allow targets that are not loopback. Load against a host that did not ask for it is an
    /// attack; this is for rigs of several machines.
    #[arg(long)]
    pub allow_remote: bool,

    /// Connections, all open at the same time.
    #[arg(long, default_value_t = 10)]
    pub connections: usize,

    /// Messages to send in all. Default: 10,000 unless --duration is given.
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,

    /// Begin messages for this long (30s, 5m).
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,

    /// Open loop: this many messages a second in all, whatever the server does.
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,

    /// Message size in bytes, or a mix with weights: 4096:90,102400:10.
    #[arg(long, value_name = "BYTES", default_value = "4096", value_parser = Mix::sizes)]
    pub size: Mix<usize>,

    /// Recipients in d0.example to dN-1.example.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        conflicts_with = "domain_mix"
    )]
    pub domains: u64,

    /// Recipient domains with weights, a.example:3,b.example:1, or a file of such entries.
    #[arg(long, value_name = "MIX|FILE")]
    pub domain_mix: Option<String>,

    /// Recipients of each message.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub recipients_per_message: usize,

    /// Envelope sender; `<>` or nothing for the null sender.
    #[arg(long, default_value = "blast@blast.example")]
    pub from: String,

    /// EHLO name.
    #[arg(long, default_value = "blast.example")]
    pub helo: String,

    /// Local address, or a range: 127.0.0.10-127.0.0.19; may be repeated. Connections take turns.
    #[arg(long, value_name = "IP|FIRST-LAST")]
    pub source: Vec<String>,

    /// MAIL, RCPT and DATA in one send.
    #[arg(long)]
    pub pipelining: bool,

    /// Also the message and the next envelope in one send.
    #[arg(long)]
    pub pipeline_next: bool,

    /// Send by BDAT, the whole transaction in one send.
    #[arg(long, conflicts_with_all = ["pipelining", "pipeline_next"])]
    pub bdat: bool,

    /// Messages in one send with --bdat.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "bdat")]
    pub bdat_group: usize,

    /// Close and reopen a connection after this many messages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub messages_per_connection: Option<u64>,

    /// Open lost connections again, with growing pauses up to 1 s, until the run is over.
    #[arg(long)]
    pub reconnect: bool,

    /// Longest wait for any one reply.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,

    /// Executor threads.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,

    /// Pin thread N to core N.
    #[arg(long)]
    pub pin: bool,

    /// Name of the run in its messages, up to eight hexadecimal digits. Default: from the clock.
    #[arg(long, value_name = "HEX")]
    pub run: Option<String>,

    /// Append a line for every acknowledged message: RUN-NUMBER SIZE RECIPIENT[,RECIPIENT...].
    #[arg(long, value_name = "FILE")]
    pub log_acked: Option<PathBuf>,

    /// Print a progress line each second although stderr is no terminal.
    #[arg(long)]
    pub progress: bool,

    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The file of --log-acked, of one run or of several.
    #[arg(long, value_name = "FILE")]
    pub acked: PathBuf,

    /// The file of pelton-sink --capture.
    #[arg(long, value_name = "FILE")]
    pub capture: PathBuf,

    /// Expect messages of this run, though perhaps none of them was acknowledged; may be repeated.
    #[arg(long, value_name = "HEX", value_parser = run_number)]
    pub run: Vec<u32>,

    /// Duplicates that are no fault.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub duplicates_max: u64,

    /// Print the result as JSON (schema pelton-blast.verify/1).
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct IdleArguments {
    /// Server to connect to, HOST:PORT.
    #[arg(long, value_name = "HOST:PORT")]
    pub target: String,

    /// Allow a target that is not loopback.
    #[arg(long)]
    pub allow_remote: bool,

    /// Connections to hold.
    #[arg(long, default_value_t = 1_000)]
    pub connections: usize,

    /// How long to hold them, from the moment when all are open.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub duration: Duration,

    /// Local address, or a range; may be repeated.
    #[arg(long, value_name = "IP|FIRST-LAST")]
    pub source: Vec<String>,

    /// Print the result as JSON (schema pelton-blast.idle/1).
    #[arg(long)]
    pub json: bool,
}

impl RunArguments {
    /// The run that was asked for; an error is a fault of the command line.
    pub fn config(&self) -> anyhow::Result<BlastConfig> {
        let mut targets = Vec::new();
        for text in &self.target {
            targets.push(target(text, self.allow_remote)?);
        }
        let run = match &self.run {
            None => run_of_clock(),
            Some(hex) => run_number(hex).with_context(|| format!("--run {hex}"))?,
        };
        let messages = match (self.messages, self.duration) {
            (None, None) => Some(10_000),
            (messages, _) => messages,
        };
        if self
            .rate
            .is_some_and(|rate| !rate.is_finite() || rate <= 0.0)
        {
            bail!("--rate is a number above 0");
        }
        let mut config = BlastConfig::to(targets[0]);
        config.targets = targets;
        config.threads = self.threads.min(self.connections.max(1));
        config.pin = self.pin;
        config.connections = self.connections;
        config.messages = messages;
        config.duration = self.duration;
        config.rate = self.rate;
        config.mode = self.mode();
        config.sizes = self.size.clone();
        config.domains = self.domains()?;
        config.recipients_per_message = self.recipients_per_message;
        config.from = self.from.trim_matches(['<', '>']).to_owned();
        config.helo = self.helo.clone();
        config.sources = sources(&self.source)?;
        config.messages_per_connection = self.messages_per_connection;
        config.reconnect = self.reconnect;
        config.reply_timeout = self.timeout;
        config.run = run;
        config.acked = self.log_acked.clone();
        config.check()?;
        Ok(config)
    }

    fn mode(&self) -> Mode {
        match (self.bdat, self.pipeline_next, self.pipelining) {
            (true, _, _) => Mode::BdatGroup(self.bdat_group),
            (_, true, _) => Mode::PipelineNext,
            (_, _, true) => Mode::Pipelining,
            _ => Mode::Lockstep,
        }
    }

    fn domains(&self) -> anyhow::Result<Mix<String>> {
        let mix = match &self.domain_mix {
            None => Mix::numbered_domains(self.domains),
            Some(mix) if Path::new(mix).is_file() => {
                let text = std::fs::read_to_string(mix).with_context(|| mix.clone())?;
                Mix::domains(&text)
            }
            Some(mix) => Mix::domains(mix),
        };
        mix.map_err(|reason| anyhow::anyhow!("recipient domains: {reason}"))
    }
}

impl IdleArguments {
    /// What is to be held; an error is a fault of the command line.
    pub fn config(&self) -> anyhow::Result<IdleConfig> {
        Ok(IdleConfig {
            target: target(&self.target, self.allow_remote)?,
            connections: self.connections,
            sources: sources(&self.source)?,
        })
    }
}

/// The address of HOST:PORT, which has to be loopback unless allowed otherwise.
fn target(text: &str, allow_remote: bool) -> anyhow::Result<SocketAddr> {
    let wrong = || format!("--target {text}: expected HOST:PORT");
    let addr = text
        .to_socket_addrs()
        .with_context(wrong)?
        .next()
        .with_context(wrong)?;
    if !addr.ip().is_loopback() && !allow_remote {
        bail!(
            "--target {text} is not a loopback address: load against a host that did not ask for \
             it is an attack; --allow-remote if the host is yours"
        );
    }
    Ok(addr)
}

/// Single addresses and ranges of IPv4 addresses.
fn sources(texts: &[String]) -> anyhow::Result<Vec<IpAddr>> {
    let mut all = Vec::new();
    for text in texts {
        let wrong = || format!("--source {text}: expected IP or FIRST-LAST");
        match text.split_once('-') {
            None => all.push(text.parse().with_context(wrong)?),
            Some((first, last)) => {
                let first: Ipv4Addr = first.parse().with_context(wrong)?;
                let last: Ipv4Addr = last.parse().with_context(wrong)?;
                let (first, last) = (u32::from(first), u32::from(last));
                if first > last || last - first >= SOURCES_MAX {
                    bail!(wrong());
                }
                all.extend((first..=last).map(|ip| IpAddr::from(Ipv4Addr::from(ip))));
            }
        }
    }
    Ok(all)
}

fn run_number(hex: &str) -> anyhow::Result<u32> {
    u32::from_str_radix(hex, 16).context("up to eight hexadecimal digits")
}

/// A name that two runs in a row do not share.
fn run_of_clock() -> u32 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // Truncated on purpose: sixteenths of a second, unique for eight years.
    (since.as_millis() / 62) as u32
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).ok_or_else(|| "expected a duration such as 30s or 5m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn config(line: &str) -> anyhow::Result<BlastConfig> {
        let words = ["pelton-blast"].into_iter().chain(line.split(' '));
        Arguments::try_parse_from(words)?.run.config()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_usual_lines_are_understood() {
        let run = config("--target 127.0.0.1:25 --connections 100 --messages 9 --size 4096 --json");
        let run = run.expect("a good line");
        assert_eq!(
            (run.connections, run.messages, run.mode),
            (100, Some(9), Mode::Lockstep)
        );
        let run =
            config("--target 127.0.0.1:25 --bdat --bdat-group 4 --source 127.0.0.2-127.0.0.5");
        let run = run.expect("a good line");
        assert_eq!((run.mode, run.sources.len()), (Mode::BdatGroup(4), 4));
        let run = config("--target 127.0.0.1:25 --domain-mix a.x:3,b.x:1 --from <>");
        let run = run.expect("a good line");
        assert_eq!((run.domains.values().len(), run.from.as_str()), (2, ""));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "--connections 5",
            "--target 192.0.2.1:25",
            "--target nonsense",
            "--target 127.0.0.1:25 --rate 0",
            "--target 127.0.0.1:25 --size 5",
            "--target 127.0.0.1:25 --domains 0",
            "--target 127.0.0.1:25 --bdat --pipelining",
            "--target 127.0.0.1:25 --bdat-group 4",
            "--target 127.0.0.1:25 --bdat --bdat-group 0",
            "--target 127.0.0.1:25 --source 127.0.0.9-127.0.0.2",
            "--target 127.0.0.1:25 --run xyz",
            "--target 127.0.0.1:25 --connections 0",
        ] {
            assert!(config(line).is_err(), "{line}");
        }
        assert!(config("--target 192.0.2.1:25 --allow-remote").is_ok());
    }
}
