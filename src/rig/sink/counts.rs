//! What a sink has seen. One set per executor, added up when somebody asks.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::base::map::Map;

/// Recipient domains counted by name; those beyond are counted together under [`OTHER_DOMAINS`].
pub const DOMAINS_MAX: usize = 100_000;

/// The name of the domains beyond [`DOMAINS_MAX`].
pub const OTHER_DOMAINS: &str = "(other)";

/// Counts of one recipient domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DomainCounts {
    /// Recipients answered 2xx at RCPT.
    pub recipients: u64,
    /// Recipients of accepted messages.
    pub delivered: u64,
    /// Recipients answered 4xx at RCPT.
    pub deferred: u64,
    /// Recipients answered 5xx at RCPT.
    pub rejected: u64,
}

/// Counts of a sink, or of one executor of it.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub connections: u64,
    pub connections_open: u64,
    /// Messages whose end was answered 2xx.
    pub messages: u64,
    /// Recipients of those messages.
    pub recipients: u64,
    /// Bytes of those messages as they came: with the dots of transparency, without the last dot.
    pub bytes: u64,
    /// Messages received whole by BDAT among `messages`.
    pub bdat_messages: u64,
    /// Messages received whole, then left without a final reply on purpose.
    pub dropped_after_dot: u64,
    /// Connections closed on purpose while a message was being sent.
    pub closed_in_body: u64,
    /// Connections closed on purpose at any other stage with no answer.
    pub closed_unanswered: u64,
    /// Connections that ended inside a transaction by the other side's doing.
    pub lost_in_transaction: u64,
    /// Messages over the size limit.
    pub oversized: u64,
    /// Command lines that ended in a bare LF.
    pub bare_line_feeds: u64,
    /// Times that accepting failed for want of file descriptors or memory.
    pub accept_failures: u64,
    /// Replies by code; 1000 entries, or none before the first.
    codes: Vec<u64>,
    domains: Map<Box<[u8]>, DomainCounts>,
}

impl Counts {
    /// Counts one reply; `bytes` that begin with no code count as code 0.
    pub(super) fn reply(&mut self, bytes: &[u8]) {
        if self.codes.is_empty() {
            self.codes.resize(1_000, 0);
        }
        let code = match *bytes {
            [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => {
                usize::from(a - b'0') * 100 + usize::from(b - b'0') * 10 + usize::from(c - b'0')
            }
            _ => 0,
        };
        self.codes[code] += 1;
    }

    /// The counts of a lower-case domain.
    pub(super) fn domain_mut(&mut self, domain: &[u8]) -> &mut DomainCounts {
        // Two look-ups in the usual case of a known name: an entry call would own the name first.
        if !self.domains.contains_key(domain) {
            let name = match self.domains.len() < DOMAINS_MAX {
                true => domain,
                false => OTHER_DOMAINS.as_bytes(),
            };
            return self.domains.entry(name.into()).or_default();
        }
        &mut self.domains[domain]
    }

    /// How often `code` was answered.
    pub fn code(&self, code: u16) -> u64 {
        self.codes.get(usize::from(code)).copied().unwrap_or(0)
    }

    /// The counts of a lower-case domain, zero if it was never named.
    pub fn domain(&self, domain: &str) -> DomainCounts {
        self.domains
            .get(domain.as_bytes())
            .copied()
            .unwrap_or_default()
    }

    /// Domains in the order of their first recipient.
    pub fn domains(&self) -> impl Iterator<Item = (String, DomainCounts)> + '_ {
        self.domains
            .iter()
            .map(|(name, counts)| (String::from_utf8_lossy(name).into_owned(), *counts))
    }

    /// Adds what another executor counted.
    pub fn add(&mut self, other: &Counts) {
        self.connections += other.connections;
        self.connections_open += other.connections_open;
        self.messages += other.messages;
        self.recipients += other.recipients;
        self.bytes += other.bytes;
        self.bdat_messages += other.bdat_messages;
        self.dropped_after_dot += other.dropped_after_dot;
        self.closed_in_body += other.closed_in_body;
        self.closed_unanswered += other.closed_unanswered;
        self.lost_in_transaction += other.lost_in_transaction;
        self.oversized += other.oversized;
        self.bare_line_feeds += other.bare_line_feeds;
        self.accept_failures += other.accept_failures;
        if self.codes.len() < other.codes.len() {
            self.codes.resize(other.codes.len(), 0);
        }
        for (sum, count) in self.codes.iter_mut().zip(&other.codes) {
            *sum += count;
        }
        for (name, counts) in &other.domains {
            let sum = self.domain_mut(name);
            sum.recipients += counts.recipients;
            sum.delivered += counts.delivered;
            sum.deferred += counts.deferred;
            sum.rejected += counts.rejected;
        }
    }

    /// The document that `pelton-sink --json` prints.
    pub fn to_json(&self, elapsed_seconds: f64) -> serde_json::Value {
        let codes: BTreeMap<String, u64> = (0..)
            .zip(&self.codes)
            .filter(|(_, count)| **count > 0)
            .map(|(code, count): (u16, _)| (format!("{code:03}"), *count))
            .collect();
        let domains: BTreeMap<String, DomainCounts> = self.domains().collect();
        serde_json::json!({
            "schema": "pelton-sink.totals/1",
            "elapsed_seconds": elapsed_seconds,
            "connections": self.connections,
            "connections_open": self.connections_open,
            "messages": self.messages,
            "recipients": self.recipients,
            "size_bytes": self.bytes,
            "bdat_messages": self.bdat_messages,
            "dropped_after_dot": self.dropped_after_dot,
            "closed_in_body": self.closed_in_body,
            "closed_unanswered": self.closed_unanswered,
            "lost_in_transaction": self.lost_in_transaction,
            "oversized": self.oversized,
            "bare_line_feeds": self.bare_line_feeds,
            "accept_failures": self.accept_failures,
            "replies": codes,
            "domains": domains,
        })
    }
}
