//! What the resolver is asked and what it says, as routing needs it: exchanges with the addresses
//! already looked up, and each way of finding nothing kept apart from the others.

use core::net::IpAddr;

/// Bytes a domain name may have in text form, RFC 1035 2.3.4.
pub const DOMAIN_BYTES_MAX: usize = 253;

/// Exchanges kept of one answer, best preferences first. Large receivers have tens, ten thousand
/// is an attack on the memory of whoever looks.
pub const MX_MAX: usize = 100;

/// Addresses kept of one host.
pub const ADDRESSES_MAX: usize = 32;

/// Which records are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Kind {
    /// MX and the addresses of each exchange; where there is no MX, the addresses of the name
    /// itself (RFC 5321 5.1).
    Mx,
    /// A and AAAA of the name, whatever MX it has.
    Address,
}

/// One question for the resolver. The name is lower case, ASCII, without a trailing dot.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Question {
    pub name: Box<str>,
    pub kind: Kind,
}

impl Question {
    pub fn mx(name: &str) -> Question {
        Question {
            name: name.into(),
            kind: Kind::Mx,
        }
    }

    pub fn address(name: &str) -> Question {
        Question {
            name: name.into(),
            kind: Kind::Address,
        }
    }
}

/// Why a look-up told nothing about the name. All of them are worth another try.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Failure {
    /// The name servers answered with SERVFAIL, REFUSED or something that cannot be read.
    Server,
    /// Nobody answered in time.
    Timeout,
    /// Aliases lead in a circle or too far.
    AliasLoop,
}

/// The addresses of one host, or why there are none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Addresses {
    /// At least one, at most [`ADDRESSES_MAX`].
    Found(Vec<IpAddr>),
    /// The host does not exist or has no address.
    None,
    Failed(Failure),
}

/// One mail exchange of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchange {
    pub preference: u16,
    /// Lower case, no trailing dot; empty for the root, as in the null MX of RFC 7505.
    pub host: Box<str>,
    pub addresses: Addresses,
}

/// What the look-up found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// MX records, by preference, at most [`MX_MAX`].
    Exchanges(Vec<Exchange>),
    /// No MX was there or none was asked for: the name's own addresses, at least one.
    Own(Vec<IpAddr>),
    /// The name does not exist (NXDOMAIN).
    NoName,
    /// The name exists and has neither MX nor address.
    NoData,
    Failed(Failure),
}

/// An answer and how long it may be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub found: Found,
    /// The smallest time to live of the records it was made from, seconds; for an answer that
    /// found nothing, the negative one.
    pub ttl_s: u32,
}
