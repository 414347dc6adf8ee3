//! A mail address that has been parsed: a local part and a domain, kept as the client wrote them.

use core::fmt;

/// RFC 5321 4.5.3.1.3 gives a path 256 octets; SMTPUTF8 addresses get the same room.
pub const ADDRESS_BYTES_MAX: usize = 320;

/// `local@domain`, both parts non-empty and free of control characters. The local part keeps its
/// quotes if it had any; the domain may be an address literal in brackets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: Box<str>,
    /// Where the `@` before the domain stands.
    at: u16,
}

impl Address {
    /// From parts that a parser has checked. Nothing if a part is empty, holds a control character
    /// or a line end, or the whole is too long: the last guard before envelopes and the wire.
    pub fn from_parts(local: &str, domain: &str) -> Option<Address> {
        let bytes = local.len() + 1 + domain.len();
        let clean = |part: &str| !part.is_empty() && !part.chars().any(char::is_control);
        if bytes > ADDRESS_BYTES_MAX || !clean(local) || !clean(domain) || domain.contains('@') {
            return None;
        }
        let mut text = String::with_capacity(bytes);
        text.push_str(local);
        text.push('@');
        text.push_str(domain);
        Some(Address {
            text: text.into_boxed_str(),
            at: local.len() as u16,
        })
    }

    /// From `local@domain` as this type prints it; the last `@` divides.
    pub fn parse(text: &str) -> Option<Address> {
        let (local, domain) = text.rsplit_once('@')?;
        Address::from_parts(local, domain)
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn local(&self) -> &str {
        &self.text[..usize::from(self.at)]
    }

    pub fn domain(&self) -> &str {
        &self.text[usize::from(self.at) + 1..]
    }

    /// The domain as queues know it: lower case, no trailing dot.
    pub fn routing_domain(&self) -> String {
        let domain = self.domain();
        domain.strip_suffix('.').unwrap_or(domain).to_lowercase()
    }

    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept_and_the_domain_is_normalised_for_routing() {
        let address = Address::from_parts("\"a@b\"", "Example.COM.").unwrap();
        assert_eq!(address.local(), "\"a@b\"");
        assert_eq!(address.domain(), "Example.COM.");
        assert_eq!(address.routing_domain(), "example.com");
        assert_eq!(Address::parse(address.as_str()), Some(address));
    }

    #[test]
    fn nothing_that_could_break_a_command_line_gets_in() {
        for (local, domain) in [
            ("a", ""),
            ("", "b"),
            ("a\r\n", "b"),
            ("a", "b\0"),
            ("a", "b@c"),
        ] {
            assert_eq!(
                Address::from_parts(local, domain),
                None,
                "{local:?} {domain:?}"
            );
        }
        assert_eq!(
            Address::from_parts(&"x".repeat(ADDRESS_BYTES_MAX), "b"),
            None
        );
    }
}
