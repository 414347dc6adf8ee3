//! Sets of addresses: `Relay_Hosts`, `Peer`, `prohibited_hosts`. An IPv4 address that arrives
//! mapped into IPv6 is the IPv4 address; no form of an address escapes a set.

use core::net::IpAddr;

use ipnet::IpNet;

/// Networks whose members are never a target found by MX: loopback, private, link-local,
/// carrier-grade NAT (RFC 6598), unspecified, multicast and reserved ones.
const PROHIBITED_AUTO: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// A set of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetSet {
    nets: Vec<IpNet>,
}

impl NetSet {
    pub fn new(nets: Vec<IpNet>) -> Self {
        NetSet { nets }
    }

    /// True if a network of the set contains the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.nets.iter().any(|net| net.contains(&address))
    }

    /// The networks in the order given.
    pub fn nets(&self) -> &[IpNet] {
        &self.nets
    }

    /// True if some network contains every address of its family.
    pub fn contains_everybody(&self) -> bool {
        self.nets.iter().any(|net| net.prefix_len() == 0)
    }
}

/// `prohibited_hosts`: addresses to which mail found by MX is never sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProhibitedHosts {
    pub nets: NetSet,
    /// Also every address of this machine that Pelton listens on or sends from.
    pub own_addresses: bool,
}

impl ProhibitedHosts {
    /// What `auto` stands for.
    pub fn auto() -> Self {
        let nets = PROHIBITED_AUTO
            .iter()
            .filter_map(|it| parse_net(it))
            .collect();
        ProhibitedHosts {
            nets: NetSet::new(nets),
            own_addresses: true,
        }
    }

    /// True if `address` is refused, given the addresses of this machine.
    pub fn contains(&self, address: IpAddr, own: &[IpAddr]) -> bool {
        let address = address.to_canonical();
        self.nets.contains(address) || (self.own_addresses && own.contains(&address))
    }
}

/// A network `10.0.0.0/8` or a single address. Bits behind the mask are cut; a network of mapped
/// addresses becomes the IPv4 network it stands for.
pub fn parse_net(text: &str) -> Option<IpNet> {
    let text = text.trim_start_matches('[').trim_end_matches(']');
    let net = match text.parse::<IpNet>() {
        Ok(net) => net.trunc(),
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    let IpNet::V6(v6) = net else { return Some(net) };
    match (v6.network().to_ipv4_mapped(), v6.prefix_len()) {
        (Some(v4), 96..) => IpNet::new(IpAddr::V4(v4), v6.prefix_len() - 96).ok(),
        _ => Some(net),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn networks_are_read_in_every_form() {
        let cases = [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("::1", Some("::1/128")),
            ("[2001:db8::]", Some("2001:db8::/128")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("10.0.0.0/33", None),
            ("example.com", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                parse_net(text).map(|it| it.to_string()).as_deref(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn a_mapped_address_is_the_address_it_maps() {
        let set = NetSet::new(vec![parse_net("10.0.0.0/8").expect("a network")]);
        assert!(set.contains(ip("10.2.3.4")) && set.contains(ip("::ffff:10.2.3.4")));
        assert!(!set.contains(ip("11.2.3.4")) && !set.contains(ip("::10.2.3.4")));
    }

    #[test]
    fn auto_prohibits_private_and_own_addresses_in_every_form() {
        let auto = ProhibitedHosts::auto();
        assert_eq!(auto.nets.nets().len(), PROHIBITED_AUTO.len());
        let own = [ip("198.51.100.7")];
        let cases = [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("100.64.3.4", true),
            ("172.31.255.255", true),
            ("172.32.0.0", false),
            ("0.0.0.0", true),
            ("::", true),
            ("fe80::1", true),
            ("198.51.100.7", true),
            ("::ffff:198.51.100.7", true),
            ("198.51.100.8", false),
            ("2001:db8::1", false),
        ];
        for (address, expected) in cases {
            assert_eq!(auto.contains(ip(address), &own), expected, "{address}");
        }
    }
}
