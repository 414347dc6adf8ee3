//! Where the mail of a domain goes: from settings and DNS answers to an ordered list of hosts.
//! Nothing here waits: a plan that lacks answers says which questions to put, and is made again
//! when they have come. Explicit routes outrank DNS and are exempt from `Prohibited_Hosts`.

use core::net::IpAddr;
use core::net::Ipv4Addr;
use core::net::Ipv6Addr;
use core::net::SocketAddr;
use std::rc::Rc;

use ipnet::IpNet;

use crate::base::prng::Prng;
use crate::base::time::Mono;
use crate::deliver::cache::Cache;
use crate::deliver::cache::Lookup;
use crate::deliver::dns_answer::Addresses;
use crate::deliver::dns_answer::DOMAIN_BYTES_MAX;
use crate::deliver::dns_answer::Exchange;
use crate::deliver::dns_answer::Failure;
use crate::deliver::dns_answer::Found;
use crate::deliver::dns_answer::MX_MAX;
use crate::deliver::dns_answer::Question;
use crate::types::reply::Class;
use crate::types::reply::Enhanced;
use crate::types::reply::Reply;

/// Hosts in one plan; the best preferences are kept.
pub const PLAN_HOSTS_MAX: usize = 256;

/// Explicit routes of one domain.
pub const ROUTES_MAX: usize = 64;

/// The end of an explicit route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    Address(IpAddr),
    Name(Box<str>),
}

/// `host`, `host:port`, `[2001:db8::1]:port`: where connections go whatever DNS says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub endpoint: Endpoint,
    /// Nothing is `Remote_SMTP_Port`.
    pub port: Option<u16>,
}

/// How the name of a route is looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// As a domain: MX first, its own address where there is none.
    Mx,
    /// As a host.
    Address,
}

/// What a text that is no target or route gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "expected a host name or address with an optional port, as in mx.example:25, [2001:db8::1]:25 \
     or smtp://host?pref=10&port=25&type=mx"
)]
pub struct BadTarget;

impl Target {
    /// From `host`, `host:port`, `address`, `address:port`, `[address6]:port`.
    pub fn parse(text: &str) -> Result<Target, BadTarget> {
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        if let Some((address, rest)) = bracketed {
            let address = address.parse::<Ipv6Addr>().map_err(|_| BadTarget)?;
            let port = match rest {
                "" => None,
                rest => Some(port(rest.strip_prefix(':').ok_or(BadTarget)?)?),
            };
            return Ok(Target {
                endpoint: Endpoint::Address(IpAddr::V6(address)),
                port,
            });
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Target {
                endpoint: Endpoint::Address(address),
                port: None,
            });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, text)) => (host, Some(port(text)?)),
            None => (text, None),
        };
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return Ok(Target {
                endpoint: Endpoint::Address(IpAddr::V4(address)),
                port,
            });
        }
        let name = ascii_domain(host)
            .filter(|name| name != VIA_DNS)
            .ok_or(BadTarget)?;
        Ok(Target {
            endpoint: Endpoint::Name(name.into_boxed_str()),
            port,
        })
    }
}

fn port(text: &str) -> Result<u16, BadTarget> {
    text.parse().ok().filter(|port| *port > 0).ok_or(BadTarget)
}

/// Where a route leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Via {
    /// `__mx__`: where DNS says, with the checks that DNS answers get.
    Dns,
    Target(Target, By),
}

/// One item of `Routes`. A lower preference is tried first, equal ones share the load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    pub preference: u16,
    pub via: Via,
}

/// The item of `Routes` that stands for the way DNS shows.
const VIA_DNS: &str = "__mx__";

impl Route {
    /// From the items of `Routes`: `host[:port]`, an address, `__mx__`, or
    /// `smtp://host[:port]?pref=N&port=N&type=mx|a`. Without `pref` the place in the list is the
    /// preference. `ttl` is accepted; how long a route serves follows from DNS.
    pub fn list(items: &[impl AsRef<str>]) -> Result<Vec<Route>, BadTarget> {
        let item = |(at, item): (usize, &_)| Route::item(at, AsRef::<str>::as_ref(item));
        items.iter().enumerate().map(item).collect()
    }

    fn item(at: usize, text: &str) -> Result<Route, BadTarget> {
        let mut preference = u16::try_from(at).map_err(|_| BadTarget)?;
        let mut by = By::Address;
        let Some(rest) = text.strip_prefix("smtp://") else {
            let via = match text.eq_ignore_ascii_case(VIA_DNS) {
                true => Via::Dns,
                false => Via::Target(Target::parse(text)?, by),
            };
            return Ok(Route { preference, via });
        };
        let (host, options) = rest.split_once('?').unwrap_or((rest, ""));
        let mut target = Target::parse(host)?;
        for option in options.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=').ok_or(BadTarget)? {
                ("pref", value) => preference = value.parse().map_err(|_| BadTarget)?,
                ("port", value) => target.port = Some(port(value)?),
                ("type", "mx") => by = By::Mx,
                ("type", "a") => by = By::Address,
                ("ttl", value) if value.parse::<u32>().is_ok() => {}
                _ => return Err(BadTarget),
            }
        }
        Ok(Route {
            preference,
            via: Via::Target(target, by),
        })
    }
}

/// The options that decide on routes, as they apply to one (binding, domain) pair.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `Static_Routes { target }`: takes everything, looked up as a host.
    pub target: Option<Target>,
    /// `Gateway`: takes everything, looked up as a domain.
    pub gateway: Option<Target>,
    /// `Routes`, at most [`ROUTES_MAX`]; empty leaves the way to DNS.
    pub routes: Vec<Route>,
    /// `Remote_SMTP_Port`.
    pub remote_port: u16,
    /// `Prohibited_Hosts`: addresses that DNS may not lead to.
    pub prohibited: Vec<IpNet>,
    /// Names of this engine, lower case: an exchange of that name is this machine.
    pub own_names: Vec<Box<str>>,
    /// Addresses of this engine: an exchange that has one is this machine, whatever its port.
    pub own_addresses: Vec<IpAddr>,
    /// `MX_Failures_Fallback_To_A`: failed MX look-ups in a row after which the domain's own
    /// address is tried; 0 never does.
    pub mx_failures_fallback_to_a: u32,
    /// Which families the binding has source addresses for.
    pub families: Families,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}

/// One address to connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    pub preference: u16,
    /// Name of the exchange, or the address in text form.
    pub name: Rc<str>,
    pub address: SocketAddr,
}

/// Hosts by preference; random order among equals. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub hosts: Vec<Host>,
    /// The answers it was made from may be used until then.
    pub until: Mono,
}

/// What came of making a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Planned {
    /// Answers are missing: `new` questions have to be put to the resolver, it already has those
    /// in `pending`. Plan again when they have come.
    Ask {
        new: Vec<Question>,
        pending: Vec<Question>,
    },
    Ready(Plan),
    /// There is no way: permanently or not by the class of the reply.
    Refused {
        reply: Reply,
        until: Mono,
    },
}

/// Makes the plan for `domain`, as [`crate::types::address::Address::routing_domain`] gives it.
/// `random` orders hosts of equal preference.
pub fn plan(
    now: Mono,
    domain: &str,
    settings: &Settings,
    cache: &Cache,
    random: &mut Prng,
) -> Planned {
    let mut making = Making::new(now, settings, cache);
    if let Some(target) = &settings.target {
        making.target(0, target, By::Address);
    } else if let Some(gateway) = &settings.gateway {
        making.target(0, gateway, By::Mx);
    } else if settings.routes.is_empty() {
        making.by_dns(0, domain);
    } else {
        for route in settings.routes.iter().take(ROUTES_MAX) {
            match &route.via {
                Via::Dns => making.by_dns(route.preference, domain),
                Via::Target(target, by) => making.target(route.preference, target, *by),
            }
        }
    }
    making.finish(random)
}

/// A host with both its preferences: of the route, then of the exchange.
struct Candidate {
    rank: (u16, u16),
    /// Draws the order among equals: one draw for an exchange, one for an address.
    exchange: u32,
    name: Rc<str>,
    address: SocketAddr,
}

struct Making<'a> {
    now: Mono,
    settings: &'a Settings,
    cache: &'a Cache,
    candidates: Vec<Candidate>,
    exchanges: u32,
    ask: Vec<Question>,
    pending: Vec<Question>,
    refusal: Option<Reply>,
    until: Mono,
}

/// How hosts that were found are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// An operator wrote the route.
    Explicit,
    /// Whoever owns the domain wrote it.
    Dns,
}

impl<'a> Making<'a> {
    fn new(now: Mono, settings: &'a Settings, cache: &'a Cache) -> Making<'a> {
        Making {
            now,
            settings,
            cache,
            candidates: Vec::new(),
            exchanges: 0,
            ask: Vec::new(),
            pending: Vec::new(),
            refusal: None,
            until: Mono::MAX,
        }
    }

    fn target(&mut self, preference: u16, target: &Target, by: By) {
        let port = target.port.unwrap_or(self.settings.remote_port);
        match &target.endpoint {
            Endpoint::Address(address) => {
                self.host((preference, 0), &address.to_string(), &[*address], port);
            }
            Endpoint::Name(name) => {
                let question = match by {
                    By::Mx => Question::mx(name),
                    By::Address => Question::address(name),
                };
                self.answer(preference, &question, Trust::Explicit, port);
            }
        }
    }

    fn by_dns(&mut self, preference: u16, domain: &str) {
        let port = self.settings.remote_port;
        if domain.starts_with('[') {
            match address_literal(domain) {
                Some(address) => {
                    let own = vec![address];
                    self.checked(preference, &[own_exchange(domain, own)], port);
                }
                None => self.refuse(refusals::bad_domain()),
            }
            return;
        }
        match ascii_domain(domain) {
            Some(name) => self.answer(preference, &Question::mx(&name), Trust::Dns, port),
            None => self.refuse(refusals::bad_domain()),
        }
    }

    fn answer(&mut self, preference: u16, question: &Question, trust: Trust, port: u16) {
        let cache = self.cache;
        let (answer, until, failures) = match cache.lookup(self.now, question) {
            Lookup::Cached {
                answer,
                until,
                failures,
            } => (answer, until, failures),
            Lookup::Pending => {
                self.pending.push(question.clone());
                return;
            }
            Lookup::Miss => {
                if !self.ask.contains(question) {
                    self.ask.push(question.clone());
                }
                return;
            }
        };
        self.until = self.until.min(until);
        match &answer.found {
            Found::Exchanges(list) if is_null_mx(list) => self.refuse(refusals::null_mx()),
            Found::Exchanges(list) => self.exchanges(preference, list, trust, port),
            Found::Own(addresses) => {
                let own = own_exchange(&question.name, addresses.clone());
                self.exchanges(preference, &[own], trust, port);
            }
            Found::NoName => self.refuse(refusals::no_name()),
            Found::NoData => self.refuse(refusals::no_data()),
            Found::Failed(failure) => {
                let by_mx = *question == Question::mx(&question.name);
                let after = self.settings.mx_failures_fallback_to_a;
                if by_mx && after > 0 && failures >= after {
                    self.answer(preference, &Question::address(&question.name), trust, port);
                } else {
                    self.refuse(refusals::failed(*failure));
                }
            }
        }
    }

    fn exchanges(&mut self, preference: u16, list: &[Exchange], trust: Trust, port: u16) {
        match trust {
            Trust::Dns => self.checked(preference, list, port),
            Trust::Explicit => {
                for exchange in list.iter().take(MX_MAX) {
                    self.exchange(preference, exchange, port, &|_| true);
                }
            }
        }
    }

    /// Exchanges that DNS named: none behind ourselves (RFC 5321 5.1: an exchange that is this
    /// host, and all that are not better, are dropped), none at a prohibited address.
    fn checked(&mut self, preference: u16, list: &[Exchange], port: u16) {
        let settings = self.settings;
        let own = list.iter().filter(|exchange| is_own(exchange, settings));
        let cut = own.map(|exchange| exchange.preference).min();
        let better = |exchange: &&Exchange| cut.is_none_or(|cut| exchange.preference < cut);
        let kept = list.iter().filter(better).take(MX_MAX);
        let mut any = false;
        for exchange in kept {
            any = true;
            let allowed = |address: IpAddr| !is_prohibited(address, settings);
            self.exchange(preference, exchange, port, &allowed);
        }
        if !any {
            self.refuse(refusals::loops());
        }
    }

    fn exchange(
        &mut self,
        preference: u16,
        exchange: &Exchange,
        port: u16,
        allowed: &dyn Fn(IpAddr) -> bool,
    ) {
        let addresses = match &exchange.addresses {
            Addresses::Found(addresses) => addresses,
            Addresses::None => return self.refuse(refusals::no_data()),
            Addresses::Failed(failure) => return self.refuse(refusals::failed(*failure)),
        };
        let kept: Vec<IpAddr> = addresses.iter().copied().filter(|a| allowed(*a)).collect();
        if kept.is_empty() {
            return self.refuse(refusals::prohibited());
        }
        self.host(
            (preference, exchange.preference),
            &exchange.host,
            &kept,
            port,
        );
    }

    fn host(&mut self, rank: (u16, u16), name: &str, addresses: &[IpAddr], port: u16) {
        let Families { v4, v6 } = self.settings.families;
        let name: Rc<str> = name.into();
        self.exchanges += 1;
        let mut any = false;
        for address in addresses {
            // A mapped address goes out as what it is.
            let address = address.to_canonical();
            if (address.is_ipv4() && v4) || (address.is_ipv6() && v6) {
                any = true;
                let name = name.clone();
                let address = SocketAddr::new(address, port);
                let exchange = self.exchanges;
                self.candidates.push(Candidate {
                    rank,
                    exchange,
                    name,
                    address,
                });
            }
        }
        if !any {
            self.refuse(refusals::no_family());
        }
    }

    /// Keeps the refusal to tell should no host be left: one that may pass outranks a final one,
    /// since any of several ways may open.
    fn refuse(&mut self, reply: Reply) {
        let final_so_far = self
            .refusal
            .as_ref()
            .map(|old| old.class() == Class::Permanent);
        match final_so_far {
            None => self.refusal = Some(reply),
            Some(true) if reply.class() == Class::Transient => self.refusal = Some(reply),
            Some(_) => {}
        }
    }

    fn finish(mut self, random: &mut Prng) -> Planned {
        if !self.ask.is_empty() || !self.pending.is_empty() {
            return Planned::Ask {
                new: self.ask,
                pending: self.pending,
            };
        }
        if self.candidates.is_empty() {
            let reply = self.refusal.unwrap_or_else(refusals::no_data);
            return Planned::Refused {
                reply,
                until: self.until,
            };
        }
        let draws: Vec<u64> = (0..=self.exchanges).map(|_| random.next()).collect();
        let mut keyed: Vec<_> = self
            .candidates
            .drain(..)
            .map(|c| ((c.rank, draws[c.exchange as usize], random.next()), c))
            .collect();
        keyed.sort_by_key(|(key, _)| *key);
        let mut hosts: Vec<Host> = Vec::with_capacity(keyed.len().min(PLAN_HOSTS_MAX));
        let mut rank = None;
        let mut preference = 0;
        for (_, candidate) in keyed {
            if hosts.len() == PLAN_HOSTS_MAX {
                break;
            }
            if hosts.iter().any(|host| host.address == candidate.address) {
                continue;
            }
            if rank.is_some_and(|rank| rank != candidate.rank) {
                preference += 1;
            }
            rank = Some(candidate.rank);
            hosts.push(Host {
                preference,
                name: candidate.name,
                address: candidate.address,
            });
        }
        Planned::Ready(Plan {
            hosts,
            until: self.until,
        })
    }
}

fn own_exchange(name: &str, addresses: Vec<IpAddr>) -> Exchange {
    Exchange {
        preference: 0,
        host: name.into(),
        addresses: Addresses::Found(addresses),
    }
}

/// RFC 7505: one exchange, and it is the root.
fn is_null_mx(list: &[Exchange]) -> bool {
    matches!(list, [only] if only.host.is_empty())
}

fn is_own(exchange: &Exchange, settings: &Settings) -> bool {
    if settings
        .own_names
        .iter()
        .any(|name| name.eq_ignore_ascii_case(&exchange.host))
    {
        return true;
    }
    let Addresses::Found(addresses) = &exchange.addresses else {
        return false;
    };
    let own = |address: &IpAddr| settings.own_addresses.contains(&address.to_canonical());
    addresses.iter().any(own)
}

fn is_prohibited(address: IpAddr, settings: &Settings) -> bool {
    let address = address.to_canonical();
    settings.prohibited.iter().any(|net| net.contains(&address))
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]`, RFC 5321 4.1.3.
fn address_literal(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    match inner.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("ipv6:") => {
            address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// The name as DNS knows it, or nothing if it can be none.
fn ascii_domain(domain: &str) -> Option<String> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let ascii = match domain.is_ascii() {
        true => domain.to_ascii_lowercase(),
        false => idna::domain_to_ascii(domain).ok()?,
    };
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/');
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    let fits = ascii.len() <= DOMAIN_BYTES_MAX && ascii.split('.').all(label);
    fits.then_some(ascii)
}

/// Why there is no way, in the words that operators know.
mod refusals {
    use super::Enhanced;
    use super::Failure;
    use super::Reply;

    pub fn null_mx() -> Reply {
        Reply::internal(
            550,
            Enhanced(5, 4, 4),
            "Domain does not accept mail (null MX)",
        )
    }

    pub fn no_name() -> Reply {
        Reply::internal(554, Enhanced(5, 4, 4), "Domain Lookup Failed")
    }

    pub fn bad_domain() -> Reply {
        Reply::internal(
            554,
            Enhanced(5, 4, 4),
            "Domain Lookup Failed (not a domain name)",
        )
    }

    pub fn no_data() -> Reply {
        Reply::internal(454, Enhanced(4, 4, 4), "no MX or A for domain")
    }

    pub fn failed(failure: Failure) -> Reply {
        match failure {
            Failure::Server => {
                Reply::internal(454, Enhanced(4, 4, 4), "name servers fail to answer")
            }
            Failure::Timeout => Reply::internal(451, Enhanced(4, 4, 3), "DNS look-up timed out"),
            Failure::AliasLoop => Reply::internal(
                454,
                Enhanced(4, 4, 4),
                "aliases in DNS loop or are too many",
            ),
        }
    }

    pub fn prohibited() -> Reply {
        Reply::internal(551, Enhanced(5, 4, 6), "Private/Loopback Address")
    }

    pub fn loops() -> Reply {
        Reply::internal(
            554,
            Enhanced(5, 4, 6),
            "Mail for domain loops back to this host",
        )
    }

    pub fn no_family() -> Reply {
        let text = "no host has an address of a family that the binding can connect from";
        Reply::internal(451, Enhanced(4, 4, 4), text)
    }
}

#[cfg(test)]
mod tests;
