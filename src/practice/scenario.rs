//! What a scenario file says, checked: plain data that never changes.

use core::net::IpAddr;
use core::net::Ipv4Addr;
use core::net::SocketAddr;

use crate::base::map::Map;
use crate::base::throttle::Rate;
use crate::practice::words::Words;

/// Providers of one scenario, and mail hosts of one provider: their addresses are made of both.
pub const PROVIDERS_MAX: usize = 1_000;
pub const HOSTS_MAX: usize = 16;

/// Domains of one provider.
pub const DOMAINS_MAX: usize = 100_000;

/// Sending addresses of one scenario.
pub const BINDINGS_MAX: usize = 200;

/// Messages of one run: what is known of each is kept in memory.
pub const MESSAGES_MAX: u64 = 20_000_000;

/// Days of virtual time.
pub const DAYS_MAX: u64 = 366;

/// The first byte pair of the receivers' addresses on loopback.
const NET: u16 = 20;

#[derive(Clone, PartialEq, Debug)]
pub struct Scenario {
    pub duration_us: u64,
    pub seed: u64,
    pub load: Load,
    pub bindings: Vec<Binding>,
    pub providers: Vec<Provider>,
    pub goals: Goals,
}

/// How much mail comes when.
#[derive(Clone, PartialEq, Debug)]
pub struct Load {
    /// For each hour from the start; they begin again when all have passed.
    pub messages_per_hour: Vec<u64>,
    /// No mail comes after this.
    pub until_us: u64,
    /// Bytes of content; each message has one of them.
    pub sizes: Vec<u64>,
}

/// An address that mail is sent from.
#[derive(Clone, PartialEq, Debug)]
pub struct Binding {
    pub name: String,
    pub address: IpAddr,
    /// 0 is an address that nobody has seen before, 100 one that everybody trusts.
    pub reputation: u64,
}

/// One receiver, with all domains behind its hosts.
#[derive(Clone, PartialEq, Debug)]
pub struct Provider {
    pub name: String,
    /// Its part of the load, beside the shares of the others.
    pub share: u64,
    /// The most popular first: the one in place N gets a 1/N of what the first gets.
    pub domains: Vec<String>,
    /// Names of its mail hosts, all of the same preference.
    pub hosts: Vec<String>,
    /// Mailboxes of each domain that are written to.
    pub mailboxes: u64,
    /// Between a packet and its answer, on the way.
    pub round_trip_us: u64,
    pub words: Words,
    /// What holds from when on; the first from the start.
    pub phases: Vec<Phase>,
    pub blocks: Vec<Block>,
    pub outages: Vec<Outage>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Phase {
    pub from_us: u64,
    pub limits: Limits,
}

/// What a receiver wants of one sending address.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Limits {
    /// At a time.
    pub connections: Option<u32>,
    pub messages_per_connection: Option<u32>,
    /// Messages, in any window of each of these.
    pub rates: Vec<Rate>,
    /// Connections, in any window.
    pub connection_rates: Vec<Rate>,
    pub volume: Option<Volume>,
    /// A recipient is taken so long after the first attempt.
    pub greylist_us: Option<u64>,
    /// Time to think about a message, least and most.
    pub thinks_us: (u64, u64),
    pub abuse: Option<Abuse>,
}

/// Messages a day, which an address has to earn.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Volume {
    /// Of an address without reputation, and of one with the best; the others are between.
    pub least: u64,
    pub most: u64,
    /// Percent that a good day adds.
    pub grows: u64,
    /// Percent that a bad day takes.
    pub falls: u64,
}

/// Who tries too much too often is kept out.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Abuse {
    /// Refusals for sending too much, in any window.
    pub refusals: Rate,
    pub lasts_us: u64,
}

/// An address that is kept out from one moment to another, whatever it does.
#[derive(Clone, PartialEq, Debug)]
pub struct Block {
    /// Position of a binding; all if there is none.
    pub binding: Option<usize>,
    pub from_us: u64,
    pub to_us: u64,
}

/// Nobody is there.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Outage {
    pub from_us: u64,
    pub to_us: u64,
}

/// What shaping is to reach.
#[derive(Clone, PartialEq, Debug)]
pub struct Goals {
    /// When it should know the receivers.
    pub settles_us: u64,
    /// Percent of the hidden capacity from then on, at least.
    pub share: u64,
    /// Percent of the attempts from then on that were over-sending, at most.
    pub deferrals: u64,
    /// A limit that was lowered is kept after so long.
    pub halved_us: u64,
    /// A limit that was raised is used after so long.
    pub lifted_us: u64,
}

impl Provider {
    pub fn limits(&self, now_us: u64) -> &Limits {
        let after = self.phases.partition_point(|it| it.from_us <= now_us);
        &self.phases[after.max(1) - 1].limits
    }

    /// When other limits hold, after this moment.
    pub fn next_phase_us(&self, now_us: u64) -> Option<u64> {
        let after = self.phases.partition_point(|it| it.from_us <= now_us);
        self.phases.get(after).map(|it| it.from_us)
    }

    pub fn is_out(&self, now_us: u64) -> bool {
        let holds = |it: &&Outage| it.from_us <= now_us && now_us < it.to_us;
        self.outages.iter().find(holds).is_some()
    }

    /// The end of the block by timetable in which this binding is.
    pub fn blocked_until(&self, binding: Option<usize>, now_us: u64) -> Option<u64> {
        let concerns = |it: &&Block| it.binding.is_none() || it.binding == binding;
        let holds = |it: &&Block| it.from_us <= now_us && now_us < it.to_us;
        let holding = self.blocks.iter().filter(concerns).filter(holds);
        holding.map(|it| it.to_us).max()
    }

    /// Starts that any phase counts in one window, at most.
    pub fn window_starts_max(&self) -> usize {
        let rates = self.phases.iter().flat_map(|it| &it.limits.rates);
        rates.map(|it| it.count as usize).max().unwrap_or(0)
    }
}

impl Scenario {
    /// The address of a provider's host, on loopback.
    pub fn address(provider: usize, host: usize) -> IpAddr {
        let (provider, host) = (provider as u16, host as u8);
        let second = (NET + provider / 256) as u8;
        Ipv4Addr::new(127, second, (provider % 256) as u8, host + 1).into()
    }

    /// The provider and host of such an address.
    pub fn host_of(&self, address: IpAddr) -> Option<(usize, usize)> {
        let IpAddr::V4(address) = address else {
            return None;
        };
        let [first, second, third, last] = address.octets();
        let high = u16::from(second).checked_sub(NET)?;
        let provider = usize::from(high) * 256 + usize::from(third);
        let host = usize::from(last).checked_sub(1)?;
        let known = self.providers.get(provider)?;
        (first == 127 && host < known.hosts.len()).then_some((provider, host))
    }

    /// Which provider has which domain.
    pub fn domains(&self) -> Map<String, usize> {
        let each = self.providers.iter().enumerate();
        let pairs = each.flat_map(|(index, it)| it.domains.iter().map(move |name| (name, index)));
        pairs.map(|(name, index)| (name.clone(), index)).collect()
    }

    /// Addresses of all hosts, with a port.
    pub fn hosts(&self, port: u16) -> Vec<SocketAddr> {
        let each = self.providers.iter().enumerate();
        let of = |(index, it): (usize, &Provider)| {
            let hosts = 0..it.hosts.len();
            hosts.map(move |host| SocketAddr::new(Scenario::address(index, host), port))
        };
        each.flat_map(of).collect()
    }

    /// The lines of a zone file that leads to the providers' hosts.
    pub fn zone(&self) -> String {
        let mut text = String::from("$TTL 3600\n");
        for (index, provider) in self.providers.iter().enumerate() {
            for (host, name) in provider.hosts.iter().enumerate() {
                let address = Scenario::address(index, host);
                text.push_str(&format!("{name} A {address}\n"));
            }
            for domain in &provider.domains {
                for name in &provider.hosts {
                    text.push_str(&format!("{domain} MX 10 {name}\n"));
                }
            }
        }
        text
    }

    pub fn binding_of(&self, address: IpAddr) -> Option<usize> {
        self.bindings.iter().position(|it| it.address == address)
    }
}

const _: () = assert!(
    NET as usize + PROVIDERS_MAX / 256 < 256,
    "every provider has an address"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_of_every_provider_has_an_address_of_its_own() {
        let text = "load { messages_per_hour = 1 } binding b { address = 127.0.1.1 } \
            provider p { mx = 3 }";
        let mut scenario = crate::practice::read::for_tests(text);
        scenario.providers = vec![scenario.providers[0].clone(); PROVIDERS_MAX];
        let mut seen = std::collections::BTreeSet::new();
        for provider in 0..PROVIDERS_MAX {
            for host in 0..3 {
                let address = Scenario::address(provider, host);
                assert!(seen.insert(address), "{address}");
                assert_eq!(scenario.host_of(address), Some((provider, host)));
            }
        }
        let others = [
            "127.20.0.4",
            "127.19.0.1",
            "126.20.0.1",
            "127.20.0.0",
            "::1",
        ];
        for other in others {
            assert_eq!(scenario.host_of(other.parse().expect("valid")), None);
        }
    }
}
