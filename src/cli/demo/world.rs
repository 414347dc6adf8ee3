//! The little world of the demo, all of it on loopback addresses: fourteen recipient domains, the
//! hosts that receive for them and what each does to its senders, the zone that says so, and the
//! configuration of the engine between them and the load. Ports are the kernel's choice.

use core::fmt::Write;
use core::net::IpAddr;
use core::net::Ipv4Addr;
use core::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;

use crate::rig::blast::mix::Mix;
use crate::rig::dns::DnsResponder;
use crate::rig::dns::zone::Zone;
use crate::rig::runtime::RigError;
use crate::rig::sink::Sink;
use crate::rig::sink::SinkConfig;
use crate::rig::sink::behaviour::Behaviours;

/// The name of the sending host.
pub const HOSTNAME: &str = "demo.example";

/// Where mail comes in.
const ENGINE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The bindings of the group `pool`: name and source address.
pub const BINDINGS: [(&str, &str); 2] = [("pool-a", "127.0.0.2"), ("pool-b", "127.0.0.3")];

/// Receiving host N has the address 127.0.1.N; these are up. All listen on one port, as hosts do.
const HOSTS_UP: core::ops::RangeInclusive<u8> = 1..=8;

/// Attempts to find a port that is free on every address of [`HOSTS_UP`].
const PORT_ATTEMPTS: u32 = 5;

/// Seconds that the mail for a host that stays down is kept.
const EXPIRATION_S: u32 = 5;

/// A recipient domain.
pub struct Domain {
    pub name: &'static str,
    /// Of a hundred messages.
    weight: u64,
    /// What its hosts do, in a few words.
    pub story: &'static str,
    /// Preference and number of each MX host; none: a null MX.
    mx: &'static [(u16, u8)],
    /// Of the behaviour file of the sink, without its first two words.
    rule: &'static str,
}

const fn domain(name: &'static str, weight: u64, story: &'static str) -> Domain {
    Domain {
        name,
        weight,
        story,
        mx: &[(10, 1), (10, 2)],
        rule: "",
    }
}

/// Host 7 lets in few connections at a time: what its listener says, not a domain.
const NARROW_HOST: u8 = 7;
/// Hosts that nobody has started.
const DOWN: u8 = 91;
const GONE: u8 = 92;

/// The name of the domain whose only host is down.
const GONE_DOMAIN: &str = "gone.example";

pub const DOMAINS: [Domain; 14] = [
    domain("mail.example", 24, "takes everything, two hosts"),
    Domain {
        mx: &[(10, 2)],
        ..domain("post.example", 14, "takes everything")
    },
    Domain {
        mx: &[(10, 3)],
        ..domain("letters.example", 10, "takes everything")
    },
    Domain {
        mx: &[(10, 4)],
        rule: "greylist=900ms",
        ..domain("grey.example", 8, "greylists everybody")
    },
    Domain {
        mx: &[(10, 4)],
        rule: "chance=0.25 reply=\"451 4.3.2 busy, come back later\"",
        ..domain("busy.example", 8, "defers one in four")
    },
    Domain {
        mx: &[(10, 5)],
        rule: "chance=0.15 reply=\"452 4.2.2 mailbox full\"",
        ..domain("full.example", 5, "some mailboxes are full")
    },
    Domain {
        mx: &[(10, 5)],
        rule: "chance=0.15 reply=\"550 5.1.1 no such user here\"",
        ..domain("strict.example", 6, "does not know some users")
    },
    Domain {
        mx: &[(10, 3)],
        rule: "at=dot chance=0.1 reply=\"554 5.7.1 the content looks like spam\"",
        ..domain("filter.example", 4, "refuses some content")
    },
    Domain {
        mx: &[(10, 6)],
        rule: "at=dot delay=100ms-300ms",
        ..domain("slow.example", 4, "takes its time")
    },
    Domain {
        mx: &[(10, NARROW_HOST)],
        ..domain("narrow.example", 6, "four connections at a time")
    },
    Domain {
        mx: &[(10, 8)],
        rule: "at=dot close chance=0.03",
        ..domain("flaky.example", 3, "loses some final replies")
    },
    Domain {
        mx: &[(10, DOWN), (20, 8)],
        ..domain("backup.example", 5, "its first host is down")
    },
    Domain {
        mx: &[(10, GONE)],
        ..domain(GONE_DOMAIN, 2, "its only host is down")
    },
    Domain {
        mx: &[],
        ..domain("null.example", 1, "takes no mail (null MX)")
    },
];

fn host_addr(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number)
}

/// The receiving hosts and the name server.
pub struct World {
    pub sink: Sink,
    dns: DnsResponder,
    /// Of every receiving host.
    port: u16,
}

impl World {
    /// Starts all of it. Everything that is received is captured in `capture`.
    pub fn start(capture: &Path) -> Result<World, RigError> {
        let dns = DnsResponder::start(SocketAddr::new(ENGINE, 0), zone()?)?;
        let mut attempt = 1;
        loop {
            match start_sink(capture) {
                Ok((port, sink)) => return Ok(World { sink, dns, port }),
                // Somebody else took the port on one of the addresses meanwhile.
                Err(RigError::Listen { .. }) if attempt < PORT_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The configuration of an engine that takes mail at `listen` and keeps its spool in `folder`.
    pub fn config(&self, folder: &Path, listen: SocketAddr) -> String {
        let mut text = format!(
            "# What `pelton demo` ran with. Times are short and loopback is allowed as a target,\n\
             # so that everything happens on one machine within seconds.\n\
             Spoolbase = \"{spool}\"\n\
             Spool_Segment_Size = 16M\n\
             Min_Free_Space = 64M\n\
             Shards = 2\n\
             Pin_Shards = false\n\
             Shutdown_Grace = 10\n\
             \n\
             DNS_Servers = ( \"{dns}\" )\n\
             Prohibited_Hosts = ( )\n\
             Remote_SMTP_Port = {port}\n\
             \n\
             Retry_Interval = 1\n\
             Max_Retry_Interval = 1\n\
             Message_Expiration = 10m\n\
             Host_Failure_Retry = 1\n\
             \n\
             domain \"{GONE_DOMAIN}\" {{\n  Message_Expiration = {EXPIRATION_S}\n}}\n\
             \n\
             ESMTP_Listener {{\n  Listen \"{listen}\" {{ Relay_Hosts = ( \"127.0.0.0/8\" ) }}\n}}\n\
             \n\
             default_binding_group = \"pool\"\n\
             binding_group \"pool\" {{\n",
            spool = folder.join("spool").display(),
            dns = self.dns.addr(),
            port = self.port,
        );
        for (name, address) in BINDINGS {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  binding \"{name}\" {{ Bind_Address = \"{address}\"  EHLO_Hostname = \
                 \"{name}.{HOSTNAME}\" }}"
            );
        }
        text.push_str("}\n");
        text
    }
}

/// An address for the engine that nobody listens on at this moment.
pub fn free_listen_addr() -> std::io::Result<SocketAddr> {
    TcpListener::bind((ENGINE, 0))?.local_addr()
}

/// Recipient domains with their shares.
pub fn domain_mix() -> Result<Mix<String>, RigError> {
    let entries = DOMAINS.iter().map(|it| (it.name.to_owned(), it.weight));
    Mix::new(entries.collect()).map_err(RigError::Config)
}

fn zone() -> Result<Zone, RigError> {
    let mut text = String::new();
    for domain in &DOMAINS {
        if domain.mx.is_empty() {
            let _ = writeln!(text, "{} MX 0 .", domain.name);
        }
        for (preference, host) in domain.mx {
            let _ = writeln!(text, "{} MX {preference} mx{host}.{HOSTNAME}", domain.name);
        }
    }
    for host in HOSTS_UP.chain([DOWN, GONE]) {
        let _ = writeln!(text, "mx{host}.{HOSTNAME} A {}", host_addr(host));
    }
    Zone::parse(&text).map_err(|error| RigError::Config(error.to_string()))
}

fn start_sink(capture: &Path) -> Result<(u16, Sink), RigError> {
    let first = SocketAddr::from((host_addr(*HOSTS_UP.start()), 0));
    let reserved = TcpListener::bind(first).and_then(|socket| socket.local_addr());
    let port = reserved
        .map_err(|source| RigError::Listen {
            addr: first,
            source,
        })?
        .port();
    let sink = Sink::start(SinkConfig {
        listen: HOSTS_UP
            .map(|host| SocketAddr::from((host_addr(host), port)))
            .collect(),
        hostname: format!("mx.{HOSTNAME}"),
        behaviours: behaviours(port)?,
        capture: Some(capture.to_owned()),
        ..SinkConfig::default()
    })?;
    Ok((port, sink))
}

fn behaviours(port: u16) -> Result<Behaviours, RigError> {
    let mut text = format!(
        "listener {}:{port} connections=4 reply=\"421 4.7.0 too many connections from you\"\n",
        host_addr(NARROW_HOST)
    );
    for domain in DOMAINS.iter().filter(|it| !it.rule.is_empty()) {
        let _ = writeln!(text, "domain {} {}", domain.name, domain.rule);
    }
    Behaviours::parse(&text).map_err(|error| RigError::Config(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::detect_environment;
    use crate::cli::config::read_config;

    #[test]
    fn the_world_stands_and_its_configuration_has_no_errors() {
        assert_eq!(DOMAINS.iter().map(|it| it.weight).sum::<u64>(), 100);
        let folder = tempfile::tempdir().expect("a folder");
        let world = World::start(&folder.path().join("capture")).expect("it starts");
        let listen = free_listen_addr().expect("a free port");
        let path = folder.path().join("pelton.conf");
        std::fs::write(&path, world.config(folder.path(), listen)).expect("it is written");
        let checked = read_config(&path, &[], &detect_environment()).expect("no errors");
        assert_eq!(checked.config.bindings().len(), 1 + BINDINGS.len());
        world.sink.stop();
    }

    #[test]
    fn every_domain_has_a_rule_that_can_be_read_and_hosts_that_are_known() {
        behaviours(2_525).expect("the rules are understood");
        zone().expect("the zone is understood");
        domain_mix().expect("the weights are weights");
        for (_, host) in DOMAINS.iter().flat_map(|domain| domain.mx) {
            assert!(HOSTS_UP.contains(host) || [DOWN, GONE].contains(host));
        }
    }
}
