//! Who may have mail relayed where (`Relay_Hosts`, `Relay_Domains`). A peer listed as a relay host
//! may send to anyone; everybody else only to the relay domains, and only in address forms that no
//! host further on could read as an order to relay elsewhere.

use core::net::IpAddr;
use std::sync::Arc;

use crate::config::DomainSet;
use crate::config::NetSet;
use crate::types::address::Address;
use crate::types::replies;
use crate::types::replies::Canned;

/// Of one listener or peer scope.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `Relay_Hosts`.
    pub relay_hosts: Arc<NetSet>,
    /// `Relay_Domains`.
    pub relay_domains: Arc<DomainSet>,
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
    if settings.relay_hosts.contains(peer) {
        return Ok(());
    }
    // An address literal is in no list of domains, whatever its patterns match.
    let domain = recipient.domain();
    if domain.starts_with('[') || !settings.relay_domains.contains(domain) {
        return Err(&replies::RELAY_DENIED);
    }
    let local = recipient.local();
    let bare = local.strip_prefix('"').unwrap_or(local);
    if local.contains(['%', '!', '@']) || bare.starts_with('-') {
        return Err(&replies::RELAY_FORM);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let mut relay_domains = DomainSet::default();
        let pattern = r"/^mx\d+\.regex\.example$/";
        for item in [
            "R.example",
            "*.under.example",
            "xn--bcher-kva.example",
            pattern,
        ] {
            relay_domains.add(item).unwrap();
        }
        let nets = ["127.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().unwrap());
        Settings {
            relay_hosts: Arc::new(NetSet::new(nets.to_vec())),
            relay_domains: Arc::new(relay_domains),
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
}
