//! The command line of `pelton-sink`.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use clap::Parser;
use pelton::base::units;
use pelton::config::SourceFile;
use pelton::practice;
use pelton::practice::scenario::Scenario;
use pelton::rig::dns::zone;
use pelton::rig::dns::zone::Zone;
use pelton::rig::runtime;
use pelton::rig::sink::SinkConfig;
use pelton::rig::sink::behaviour;
use pelton::rig::sink::behaviour::Behaviours;
use pelton::rig::sink::session::Extensions;

/// Where a sink listens unless told otherwise.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2_526);

/// Addresses that one sink listens on.
const LISTEN_MAX: usize = 1_024;

/// Receiving hosts for tests and load rigs: accept mail, count it, capture it, and misbehave
/// where told to.
///
/// Prints `ready ADDR...` on stdout once it listens, and its totals when it ends: on SIGTERM or
/// SIGINT, after --duration, or after --messages. Exit codes: 0 done, 1 failed, 2 usage.
#[derive(Debug, Parser)]
#[command(name = "pelton-sink", version, after_long_help = after_help())]
pub struct Arguments {
    /// Listen on IP:PORT or IP:FIRST-LAST; may be repeated. Port 0: the kernel chooses. Default:
    /// 127.0.0.1:2526, or every host of the scenario.
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<String>,

    /// Play the receivers of this scenario (as `pelton practice` does in virtual time): by the
    /// address that was connected to, or by the recipient's domain where --listen names others.
    /// Its names are what --dns answers. What arrives is counted and not kept: no --capture.
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["behaviour", "capture", "zone", "without"])]
    pub scenario: Option<PathBuf>,

    /// Port of the scenario's hosts.
    #[arg(long, default_value_t = 2526, requires = "scenario")]
    pub port: u16,

    /// Executor threads. Default: one per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,

    /// Pin thread N to core N.
    #[arg(long)]
    pub pin: bool,

    /// Name in the banner and in the EHLO reply.
    #[arg(long, default_value = "sink.example")]
    pub hostname: String,

    /// Do not offer this EHLO extension (PIPELINING, SIZE, 8BITMIME, SMTPUTF8,
    /// ENHANCEDSTATUSCODES, CHUNKING); may be repeated.
    #[arg(long, value_name = "KEYWORD", value_delimiter = ',')]
    pub without: Vec<String>,

    /// Largest message in bytes (10M is understood).
    #[arg(long, value_name = "BYTES", default_value = "100M", value_parser = parse_size)]
    pub max_size: u64,

    /// Rules per recipient domain and listener; the format is below (--help).
    #[arg(long, value_name = "FILE")]
    pub behaviour: Option<PathBuf>,

    /// Append every message as one JSON object a line: received_us, peer, local, helo, mail_from,
    /// rcpts, final_reply, size, body (base64). Written before the final reply is sent.
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,

    /// Answer DNS on this address, UDP and TCP, from --zone or --scenario.
    #[arg(long, value_name = "ADDR")]
    pub dns: Option<SocketAddr>,

    /// Zone file of --dns; the format is below (--help).
    #[arg(long, value_name = "FILE", requires = "dns")]
    pub zone: Option<PathBuf>,

    /// End after this long (90s, 5m).
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,

    /// End after this many messages, those dropped after the dot included.
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,

    /// Seed of everything that happens by chance. Default: that of the scenario, or 1.
    #[arg(long)]
    pub seed: Option<u64>,

    /// Print the totals as one JSON document (schema pelton-sink.totals/1).
    #[arg(long)]
    pub json: bool,
}

impl Arguments {
    /// The sink and the DNS zone that were asked for; an error is a fault of the command line or
    /// of a file that it names.
    pub fn config(&self) -> anyhow::Result<(SinkConfig, Option<(SocketAddr, Zone)>)> {
        let scenario = self.scenario.as_deref().map(scenario).transpose()?;
        let mut listen = match &scenario {
            Some(scenario) if self.listen.is_empty() => scenario.hosts(self.port),
            None if self.listen.is_empty() => vec![DEFAULT],
            _ => Vec::new(),
        };
        for text in &self.listen {
            listen.extend(addresses(text)?);
        }
        if listen.len() > LISTEN_MAX {
            bail!(
                "{} addresses to listen on, at most {LISTEN_MAX}",
                listen.len()
            );
        }
        let mut extensions = Extensions::default();
        for keyword in &self.without {
            if !extensions.without(keyword) {
                bail!("--without {keyword}: no such extension");
            }
        }
        let behaviours = match &self.behaviour {
            None => Behaviours::default(),
            Some(path) => {
                Behaviours::parse(&read(path)?).with_context(|| path.display().to_string())?
            }
        };
        let zone = match (self.dns, &self.zone, &scenario) {
            (Some(addr), Some(path), _) => {
                let zone = Zone::parse(&read(path)?).with_context(|| path.display().to_string())?;
                Some((addr, zone))
            }
            (Some(addr), None, Some(scenario)) => Some((addr, Zone::parse(&scenario.zone())?)),
            (Some(_), None, None) => bail!("--dns answers from --zone or --scenario"),
            (None, ..) => None,
        };
        let config = SinkConfig {
            listen,
            threads: self.threads.map_or_else(runtime::cores, usize::from),
            pin: self.pin,
            hostname: self.hostname.clone(),
            extensions,
            size_bytes_max: self.max_size,
            behaviours,
            capture: self.capture.clone(),
            seed: self.seed(scenario.as_deref()),
            scenario,
        };
        Ok((config, zone))
    }

    fn seed(&self, scenario: Option<&Scenario>) -> u64 {
        self.seed.or(scenario.map(|it| it.seed)).unwrap_or(1)
    }
}

fn scenario(path: &std::path::Path) -> anyhow::Result<Arc<Scenario>> {
    let source = SourceFile {
        name: path.display().to_string(),
        text: read(path)?,
    };
    match practice::read::read(source) {
        Ok(scenario) => Ok(Arc::new(scenario)),
        Err(errors) => {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            bail!("the scenario has mistakes\n{}", all.join("\n"))
        }
    }
}

fn read(path: &std::path::Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// `IP:PORT` or `IP:FIRST-LAST`.
fn addresses(text: &str) -> anyhow::Result<Vec<SocketAddr>> {
    if let Ok(addr) = text.parse() {
        return Ok(vec![addr]);
    }
    let wrong = || format!("--listen {text}: expected IP:PORT or IP:FIRST-LAST");
    let (ip, ports) = text.rsplit_once(':').with_context(wrong)?;
    let (first, last) = ports.split_once('-').with_context(wrong)?;
    let ip: IpAddr = ip.trim_matches(['[', ']']).parse().with_context(wrong)?;
    let first: u16 = first.parse().with_context(wrong)?;
    let last: u16 = last.parse().with_context(wrong)?;
    if first == 0 || first > last {
        bail!(wrong());
    }
    Ok((first..=last)
        .map(|port| SocketAddr::new(ip, port))
        .collect())
}

fn parse_size(text: &str) -> Result<u64, String> {
    units::parse_size(text).ok_or_else(|| "expected a size such as 4096 or 10M".to_owned())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).ok_or_else(|| "expected a duration such as 30s or 5m".to_owned())
}

fn after_help() -> String {
    format!(
        "{}\n{}\n{}",
        behaviour::FORMAT,
        zone::FORMAT,
        practice::read::FORMAT
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_singly_or_as_a_range_on_either_kind_of_address() {
        assert_eq!(addresses("127.0.0.1:25").expect("one").len(), 1);
        assert_eq!(addresses("127.0.0.1:2600-2609").expect("ten").len(), 10);
        assert_eq!(addresses("[::1]:2600-2601").expect("two").len(), 2);
        for wrong in [
            "localhost:25",
            "127.0.0.1",
            "127.0.0.1:9-3",
            "127.0.0.1:0-3",
            ":25",
        ] {
            assert!(addresses(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
