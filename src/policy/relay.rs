//! Who may have mail relayed where (`Relay_Hosts`, `Relay_Domains`). A peer listed as a relay host
//! may send to anyone; everybody else only to the relay domains, and only in address forms that no
//! host further on could read as an order to relay elsewhere.

use core::net::IpAddr;

use ipnet::IpNet;

use crate::base::map::Set;
use crate::types::address::Address;
use crate::types::replies;
use crate::types::replies::Canned;

/// Of one listener or peer scope.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `Relay_Hosts`.
    pub relay_hosts: Vec<IpNet>,
    /// `Relay_Domains`.
    pub relay_domains: Domains,
}

/// A list of domains: names, `*.name` for all names under one, and regular expressions.
#[derive(Clone, Debug, Default)]
pub struct Domains {
    exact: Set<Box<str>>,
    /// Without the `*.`.
    under: Set<Box<str>>,
    regexes: Vec<fancy_regex::Regex>,
}

impl Domains {
    pub fn new() -> Domains {
        Domains::default()
    }

    /// Adds `example.com` or `*.example.com`. False, and nothing added, for what could never be a
    /// mail domain.
    #[must_use]
    pub fn add(&mut self, pattern: &str) -> bool {
        let (set, name) = match pattern.strip_prefix("*.") {
            Some(name) => (&mut self.under, name),
            None => (&mut self.exact, pattern),
        };
        match canonical(name) {
            Some(name) if !name.is_empty() && !name.contains('*') => {
                set.insert(name.into_boxed_str());
                true
            }
            _ => false,
        }
    }

    /// Adds an expression that is matched with the lower-case A-label form of a domain.
    pub fn add_regex(&mut self, regex: fancy_regex::Regex) {
        self.regexes.push(regex);
    }

    /// Address literals and names that IDNA refuses are in no list. An expression that gives up on
    /// a name (its backtracking limit) does not match: whoever is unsure does not relay.
    pub fn contains(&self, domain: &str) -> bool {
        if domain.starts_with('[') {
            return false;
        }
        let Some(name) = canonical(domain) else {
            return false;
        };
        if self.exact.contains(name.as_str()) {
            return true;
        }
        let parents = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        if !self.under.is_empty() && parents.into_iter().any(|it| self.under.contains(it)) {
            return true;
        }
        self.regexes
            .iter()
            .any(|regex| regex.is_match(&name).unwrap_or(false))
    }
}

/// May `peer` send to `recipient`? The refusal is the reply.
///
/// From a peer that is no relay host a local part with `%`, `!` or `@` is refused even for a relay
/// domain: the host there may take `user%elsewhere` or `elsewhere!user` for an order to relay, and
/// would do so for us whom it trusts. So is one that begins with `-`, which programs behind that
/// host may take for an option.
pub fn relay(
    settings: &Settings,
    peer: IpAddr,
    recipient: &Address,
) -> Result<(), &'static Canned> {
    if is_relay_host(settings, peer) {
        return Ok(());
    }
    if !settings.relay_domains.contains(recipient.domain()) {
        return Err(&replies::RELAY_DENIED);
    }
    let local = recipient.local();
    let bare = local.strip_prefix('"').unwrap_or(local);
    if local.contains(['%', '!', '@']) || bare.starts_with('-') {
        return Err(&replies::RELAY_FORM);
    }
    Ok(())
}

/// Is `peer` in `Relay_Hosts`? An IPv4 peer of a dual-stack socket is an IPv4 peer.
pub fn is_relay_host(settings: &Settings, peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    settings.relay_hosts.iter().any(|net| net.contains(&peer))
}

/// Lower-case A-labels without the dot of the root: the form in which a name goes to DNS.
fn canonical(domain: &str) -> Option<String> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if domain.is_ascii() {
        return Some(domain.to_ascii_lowercase());
    }
    idna::domain_to_ascii(domain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let mut relay_domains = Domains::new();
        for pattern in ["R.example", "*.under.example", "bücher.example"] {
            assert!(relay_domains.add(pattern), "{pattern}");
        }
        relay_domains.add_regex(fancy_regex::Regex::new(r"^mx\d+\.regex\.example$").unwrap());
        let relay_hosts = vec![
            "127.0.0.0/8".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ];
        Settings {
            relay_hosts,
            relay_domains,
        }
    }

    fn check(peer: &str, recipient: &str, expected: Option<&'static Canned>) {
        let recipient = Address::parse(recipient).unwrap();
        let given = relay(&settings(), peer.parse().unwrap(), &recipient).err();
        assert_eq!(given, expected, "{peer} to {recipient}");
    }

    #[test]
    fn relay_hosts_may_send_to_anyone_in_any_form() {
        for peer in ["127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1", "2001:db8::1"] {
            for recipient in [
                "u@v.example",
                "u%w@v.example",
                "u@[192.0.2.1]",
                "-x@r.example",
            ] {
                check(peer, recipient, None);
            }
        }
    }

    #[test]
    fn everybody_else_may_send_to_relay_domains_only() {
        let (denied, form) = (Some(&replies::RELAY_DENIED), Some(&replies::RELAY_FORM));
        let cases = [
            ("u@r.example", None),
            ("u@R.EXAMPLE", None),
            ("u@v.example", denied),
            ("u@x.r.example", denied),
            ("u@xr.example", denied),
            ("u@under.example", denied),
            ("u@a.under.example", None),
            ("u@a.b.under.example", None),
            ("u@aunder.example", denied),
            ("u@mx12.regex.example", None),
            ("u@mx12.regex.example.v.example", denied),
            ("u@bücher.example", None),
            ("u@xn--bcher-kva.example", None),
            ("u@[127.0.0.1]", denied),
            ("u@localhost", denied),
            ("u%v@r.example", form),
            ("v!u@r.example", form),
            ("\"u@v\"@r.example", form),
            ("-oQ/tmp@r.example", form),
            ("\"-oQ\"@r.example", form),
            ("u%v@v.example", denied),
            ("postmaster@r.example", None),
        ];
        for peer in ["192.0.2.1", "::1", "128.0.0.1"] {
            for (recipient, expected) in cases {
                check(peer, recipient, expected);
            }
        }
    }

    #[test]
    fn without_settings_nobody_relays() {
        let recipient = Address::parse("u@r.example").unwrap();
        let peer = "127.0.0.1".parse().unwrap();
        assert!(relay(&Settings::default(), peer, &recipient).is_err());
    }

    #[test]
    fn patterns_that_could_never_match_are_refused() {
        for pattern in ["", "*.", "*", "a.*.b", "*.*.b", "*a.b"] {
            assert!(!Domains::new().add(pattern), "{pattern}");
        }
    }

    #[test]
    fn an_expression_that_runs_away_does_not_match() {
        let mut domains = Domains::new();
        let slow = fancy_regex::RegexBuilder::new(r"^(a|a|ab)*?(?=b)c")
            .backtrack_limit(10)
            .build()
            .unwrap();
        domains.add_regex(slow);
        assert!(!domains.contains(&"a".repeat(60)));
    }
}
