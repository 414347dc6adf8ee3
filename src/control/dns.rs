//! Look-ups for routing: MX and addresses through the configured name servers, answered in the
//! words of `deliver::dns_answer`. Nothing here decides where mail goes. Queries in flight are
//! bounded, and so is the time and the size of every answer.

use core::net::IpAddr;
use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use hickory_resolver::Resolver;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::config::NameServerConfig;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::config::ResolverOpts;
use hickory_resolver::net::DnsError;
use hickory_resolver::net::NetError;
use hickory_resolver::net::NoRecords;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::Record;
use hickory_resolver::proto::rr::RecordType;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::deliver::dns_answer::ADDRESSES_MAX;
use crate::deliver::dns_answer::Addresses;
use crate::deliver::dns_answer::Answer;
use crate::deliver::dns_answer::Exchange;
use crate::deliver::dns_answer::Failure;
use crate::deliver::dns_answer::Found;
use crate::deliver::dns_answer::Kind;
use crate::deliver::dns_answer::MX_MAX;
use crate::deliver::dns_answer::Question;

/// Queries in flight over all questions; more wait their turn.
pub const QUERIES_MAX: usize = 256;

/// An answer that has not come together after this time is a timeout. Well below the time after
/// which a shard takes its question for lost.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// Answers of name servers kept here, so that shards and domains share the addresses of an
/// exchange.
const KEPT_ANSWERS_MAX: u64 = 4_096;

/// Serves for what was not found where the zone names no time (RFC 2308 5 leaves it open).
const NEGATIVE_TTL_S: u32 = 60;

/// Where the name servers of the system stand.
const SYSTEM_SERVERS: &str = "/etc/resolv.conf";

/// Why there is nobody to ask.
#[derive(Debug, thiserror::Error)]
pub enum NoServers {
    #[error("cannot read {SYSTEM_SERVERS}: {0}; set DNS_Servers")]
    Unreadable(std::io::Error),
    #[error("{SYSTEM_SERVERS} names no name server; set DNS_Servers")]
    NoneNamed,
    #[error("cannot set up the resolver: {0}")]
    Resolver(NetError),
}

/// The resolver. Clones share it.
#[derive(Clone)]
pub struct Dns {
    resolver: TokioResolver,
    slots: Arc<Semaphore>,
}

impl Dns {
    /// Asks `servers` (`DNS_Servers`), or those of the system if there are none. `timeout` is for
    /// one query to one server; each question is put twice.
    pub fn new(servers: &[SocketAddr], timeout: Duration) -> Result<Dns, NoServers> {
        let servers = match servers {
            [] => system_servers()?,
            servers => servers.to_vec(),
        };
        let config = ResolverConfig::from_name_servers(servers.iter().map(name_server).collect());
        let mut options = ResolverOpts::default();
        options.timeout = timeout;
        options.attempts = 2;
        options.cache_size = KEPT_ANSWERS_MAX;
        // Aliases stay in the answer, since their time to live counts, too.
        options.preserve_intermediates = true;
        // What is written into a local file is no answer about somebody else's domain.
        options.use_hosts_file = ResolveHosts::Never;
        let runtime = TokioRuntimeProvider::default();
        let builder = Resolver::builder_with_config(config, runtime).with_options(options);
        let resolver = builder.build().map_err(NoServers::Resolver)?;
        Ok(Dns {
            resolver,
            slots: Arc::new(Semaphore::new(QUERIES_MAX)),
        })
    }

    /// The answer to one question. Always comes, at the latest after [`ANSWER_TIME_MAX`].
    pub async fn answer(&self, question: &Question) -> Answer {
        let looking = async {
            match (domain_name(&question.name), question.kind) {
                (None, _) => Answer {
                    found: Found::NoName,
                    ttl_s: NEGATIVE_TTL_S,
                },
                (Some(name), Kind::Mx) => self.exchanges(name).await,
                (Some(name), Kind::Address) => own(self.addresses(name).await),
            }
        };
        match tokio::time::timeout(ANSWER_TIME_MAX, looking).await {
            Ok(answer) => answer,
            Err(_) => Answer {
                found: Found::Failed(Failure::Timeout),
                ttl_s: 0,
            },
        }
    }

    /// Drops what is kept of a name, so that the next question goes to the name servers. The
    /// addresses of its exchanges are dropped when their time is up.
    pub fn forget(&self, question: &Question) {
        if let Some(name) = domain_name(&question.name) {
            for kind in [RecordType::MX, RecordType::A, RecordType::AAAA] {
                self.resolver.clear_lookup_cache(name.clone(), kind);
            }
        }
    }

    async fn exchanges(&self, name: Name) -> Answer {
        let (mut list, mut ttl_s) = match self.records(&name, RecordType::MX).await {
            Ok(records) => (mail_exchanges(&records.list), records.ttl_s),
            Err(Nothing::NoData { .. }) => return own(self.addresses(name).await),
            Err(Nothing::NoName { ttl_s }) => {
                return Answer {
                    found: Found::NoName,
                    ttl_s,
                };
            }
            Err(Nothing::Failed(failure)) => {
                return Answer {
                    found: Found::Failed(failure),
                    ttl_s: 0,
                };
            }
        };
        list.sort_by_key(|(preference, _)| *preference);
        list.truncate(MX_MAX);
        let mut looking = JoinSet::new();
        for (at, (_, host)) in list
            .iter()
            .enumerate()
            .filter(|(_, (_, host))| !host.is_root())
        {
            let (dns, host) = (self.clone(), host.clone());
            looking.spawn(async move { (at, dns.addresses(host).await) });
        }
        let exchange = |(preference, host): &(u16, Name)| Exchange {
            preference: *preference,
            host: text_of(host),
            addresses: Addresses::None,
        };
        let mut exchanges: Vec<Exchange> = list.iter().map(exchange).collect();
        while let Some(joined) = looking.join_next().await {
            // A task that panicked has found nothing; its exchange is left without an address.
            if let Ok((at, (addresses, address_ttl_s))) = joined {
                exchanges[at].addresses = addresses;
                ttl_s = ttl_s.min(address_ttl_s);
            }
        }
        Answer {
            found: Found::Exchanges(exchanges),
            ttl_s,
        }
    }

    /// A and AAAA together. One family that fails does not spoil the other.
    async fn addresses(&self, name: Name) -> (Addresses, u32) {
        let (v4, v6) = tokio::join!(
            self.records(&name, RecordType::A),
            self.records(&name, RecordType::AAAA)
        );
        let mut found: Vec<IpAddr> = Vec::new();
        let mut ttl_s = u32::MAX;
        let mut failed = None;
        for records in [v4, v6] {
            match records {
                Ok(records) => {
                    found.extend(records.list.iter().filter_map(address));
                    ttl_s = ttl_s.min(records.ttl_s);
                }
                Err(Nothing::NoName { ttl_s: negative } | Nothing::NoData { ttl_s: negative }) => {
                    ttl_s = ttl_s.min(negative);
                }
                Err(Nothing::Failed(failure)) => {
                    failed = Some(failure);
                    ttl_s = ttl_s.min(NEGATIVE_TTL_S);
                }
            }
        }
        found.truncate(ADDRESSES_MAX);
        match (found.is_empty(), failed) {
            (false, _) => (Addresses::Found(found), ttl_s),
            (true, Some(failure)) => (Addresses::Failed(failure), ttl_s),
            (true, None) => (Addresses::None, ttl_s),
        }
    }

    /// The records of one type at the end of the alias chain, at least one.
    async fn records(&self, name: &Name, kind: RecordType) -> Result<Records, Nothing> {
        let error = match self.query(name, kind).await {
            Ok(records) if records.list.is_empty() => {
                return Err(Nothing::NoData {
                    ttl_s: NEGATIVE_TTL_S,
                });
            }
            Ok(records) => return Ok(records),
            Err(error) => error,
        };
        let missing = match error {
            NetError::Dns(DnsError::NoRecordsFound(missing)) => missing,
            NetError::Timeout => return Err(Nothing::Failed(Failure::Timeout)),
            _ => return Err(Nothing::Failed(Failure::Server)),
        };
        let ttl_s = missing.negative_ttl.unwrap_or(NEGATIVE_TTL_S);
        match missing.response_code {
            ResponseCode::NXDomain => Err(Nothing::NoName { ttl_s }),
            ResponseCode::NoError if self.is_alias(&missing).await => {
                Err(Nothing::Failed(Failure::AliasLoop))
            }
            ResponseCode::NoError => Err(Nothing::NoData { ttl_s }),
            _ => Err(Nothing::Failed(Failure::Server)),
        }
    }

    /// Whether the search ended at an alias: the resolver gives up after eight of them and then
    /// speaks of no data, without the SOA that an honest denial carries.
    async fn is_alias(&self, missing: &NoRecords) -> bool {
        if missing.soa.is_some() {
            return false;
        }
        let last = missing.query.name().clone();
        self.query(&last, RecordType::CNAME)
            .await
            .is_ok_and(|records| !records.list.is_empty())
    }

    async fn query(&self, name: &Name, kind: RecordType) -> Result<Records, NetError> {
        // The semaphore is never closed; without a slot the query would merely be unbounded.
        let _slot = self.slots.acquire().await;
        let lookup = self.resolver.lookup(name.clone(), kind).await?;
        let answers = lookup.answers();
        let of_kind = |record: &&Record| record.record_type() == kind;
        let list = answers.iter().filter(of_kind).cloned().collect();
        let ttl_s = answers.iter().map(|record| record.ttl).min().unwrap_or(0);
        Ok(Records { list, ttl_s })
    }
}

/// Records of one type, and the smallest time to live on the way to them.
struct Records {
    list: Vec<Record>,
    ttl_s: u32,
}

/// Why there are no records.
enum Nothing {
    NoName { ttl_s: u32 },
    NoData { ttl_s: u32 },
    Failed(Failure),
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connection = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![
        connection(ConnectionConfig::udp()),
        connection(ConnectionConfig::tcp()),
    ];
    // A denial ends the search: another server of the list would say the same.
    NameServerConfig::new(address.ip(), true, connections)
}

fn system_servers() -> Result<Vec<SocketAddr>, NoServers> {
    let text = std::fs::read_to_string(SYSTEM_SERVERS).map_err(NoServers::Unreadable)?;
    let servers = servers_in(&text);
    if servers.is_empty() {
        Err(NoServers::NoneNamed)
    } else {
        Ok(servers)
    }
}

/// The `nameserver` lines of resolv.conf(5). Addresses with a zone are left out.
fn servers_in(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let named = words.next() == Some("nameserver");
        words.next().filter(|_| named)?.parse::<IpAddr>().ok()
    };
    text.lines()
        .filter_map(address)
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

/// Absolute, so that no search list is applied.
fn domain_name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    (!name.is_root()).then_some(name)
}

/// Lower case, no trailing dot; the root is empty.
fn text_of(name: &Name) -> Box<str> {
    let text = name.to_ascii().to_ascii_lowercase();
    text.strip_suffix('.').unwrap_or(&text).into()
}

fn mail_exchanges(records: &[Record]) -> Vec<(u16, Name)> {
    let exchange = |record: &Record| match &record.data {
        RData::MX(mx) => Some((mx.preference, mx.exchange.clone())),
        _ => None,
    };
    records.iter().filter_map(exchange).collect()
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    }
}

fn own((addresses, ttl_s): (Addresses, u32)) -> Answer {
    let found = match addresses {
        Addresses::Found(addresses) => Found::Own(addresses),
        Addresses::None => Found::NoData,
        Addresses::Failed(failure) => Found::Failed(failure),
    };
    Answer { found, ttl_s }
}

#[cfg(test)]
mod tests;
