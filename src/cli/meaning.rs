//! What Pelton's own accounts of a failure mean. The accounts keep the words that programs and
//! operators know from Momentum; here is what they say of the world, and what can be done.

/// In plain words; nothing for what a receiver said, or what needs none.
pub fn of(reply: &str) -> Option<&'static str> {
    let (_, account) = reply.split_once("[internal] ")?;
    let known = MEANINGS.iter().find(|(words, _)| *words == account.trim());
    known.map(|(_, meaning)| *meaning)
}

const MEANINGS: [(&str, &str); 9] = [
    (
        "Domain Lookup Failed",
        "the domain does not exist: DNS knows no such name (NXDOMAIN). The address is mistyped, or \
         the domain was given up",
    ),
    (
        "Domain Lookup Failed (not a domain name)",
        "what stands after the @ cannot be a domain name",
    ),
    (
        "Domain does not accept mail (null MX)",
        "the domain says in DNS that it takes no mail at all (its MX is a dot)",
    ),
    (
        "no MX or A for domain",
        "the domain exists, but DNS names no host for its mail; it is tried again",
    ),
    (
        "name servers fail to answer",
        "DNS fails for this domain (SERVFAIL), mostly by a fault of its owner; it is tried again",
    ),
    (
        "DNS look-up timed out",
        "DNS did not answer in time, its name servers or ours (DNS_Servers); it is tried again",
    ),
    (
        "aliases in DNS loop or are too many",
        "the names in the domain's DNS point at each other; it is tried again",
    ),
    (
        "Private/Loopback Address",
        "DNS leads to addresses that prohibited_hosts forbids",
    ),
    (
        "Mail for domain loops back to this host",
        "DNS names this machine as the host for that mail, and it would send it to itself",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_of_our_own_has_a_meaning_and_a_reply_has_none() {
        for (reply, begins) in [
            (
                "554 5.4.4 [internal] Domain Lookup Failed",
                Some("the domain does not exist"),
            ),
            (
                "554 5.4.4 [internal] Domain Lookup Failed (not a domain name)",
                Some("what stands after the @"),
            ),
            ("554 5.4.4 Domain Lookup Failed", None),
            ("451 4.4.1 [internal] Connection refused", None),
            ("250 ok", None),
        ] {
            let meaning = of(reply);
            assert_eq!(meaning.is_some(), begins.is_some(), "{reply}");
            let begins = begins.unwrap_or_default();
            assert!(meaning.unwrap_or_default().starts_with(begins), "{reply}");
        }
    }
}
