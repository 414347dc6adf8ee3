//! The events: which facts each one tells, under which names. The names are those of the Momentum
//! event hose; numbers are JSON numbers, times RFC 3339 in UTC, what is not known is null.

use core::net::IpAddr;
use std::io::Write;

use crate::base::time::Wall;
use crate::types::address::Address;
use crate::types::flow;
use crate::types::id::MessageId;
use crate::types::id::ShardId;
use crate::types::message::Content;
use crate::types::outcome::Outcome;
use crate::types::outcome::OutcomeKind;
use crate::types::reply::Reply;

use super::json::ClockText;
use super::json::Object;
use super::reason;

/// What every event of one recipient tells.
#[derive(Clone, Copy, Debug)]
pub struct EventFacts<'a> {
    /// The body is not looked at and may be empty here.
    pub content: &'a Content,
    /// Bytes of the message as accepted.
    pub size: u64,
    pub message: MessageId,
    pub recipient: &'a Address,
    pub binding: &'a str,
    pub binding_group: Option<&'a str>,
}

/// A refusal at reception. There is no message yet, so all of it is what the session knows.
#[derive(Clone, Copy, Debug)]
pub struct RejectionFacts<'a> {
    pub at: Wall,
    pub peer: IpAddr,
    /// What the client called itself; empty if it had not yet.
    pub helo: &'a str,
    /// `esmtp` or `smtp`.
    pub method: &'a str,
    /// The reverse-path as far as it is known; empty is the null one.
    pub sender: Option<&'a str>,
    /// The refused recipient, or nothing if the whole transaction was refused.
    pub recipient: Option<&'a str>,
    /// The phase: `connect`, `ehlo`, `mailfrom`, `rcptto`, `data`, `data_spool`, ..
    pub stage: &'a str,
    pub reply: &'a Reply,
    /// Momentum's numbers: 54 relaying denied, 51 spam block, 23 too large, ..
    pub bounce_class: u16,
}

/// A limit that adaptive delivery has changed, or a time without delivery.
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveFacts<'a> {
    pub at: Wall,
    pub binding: &'a str,
    pub domain: &'a str,
    /// The option, `suspension` or `blackhole`.
    pub what: &'a str,
    pub from: Option<&'a str>,
    pub to: Option<&'a str>,
    pub until: Option<Wall>,
    /// The rule, or what else brought it about.
    pub rule: &'a str,
    /// How many answers it took.
    pub count: u32,
    pub reply: Option<&'a str>,
    pub stage: Option<&'a str>,
    pub host: Option<&'a str>,
}

/// Turns facts into lines. Holds only what makes that fast.
#[derive(Default)]
pub struct Writer {
    clock: ClockText,
    reason: String,
    /// The message id of the event being written: it is told thrice.
    id: Vec<u8>,
    rejections: u64,
    changes: u64,
}

impl Writer {
    pub fn injection(&mut self, out: &mut Vec<u8>, facts: &EventFacts<'_>) {
        print_id(&mut self.id, facts);
        let mut object = Object::begin(out, &mut self.clock, "injection");
        object.ascii("event_id", &self.id, b"-i");
        object.time("timestamp", facts.content.received);
        common(&mut object, facts, &self.id);
        object.ip("remote_addr", facts.content.origin.peer);
        object.end();
    }

    pub fn outcome(
        &mut self,
        out: &mut Vec<u8>,
        facts: &EventFacts<'_>,
        outcome: &Outcome,
        bounce_class: u16,
    ) {
        let (kind, name) = names(&outcome.kind);
        print_id(&mut self.id, facts);
        let mut object = Object::begin(out, &mut self.clock, kind);
        match outcome.kind {
            // Of these there may be several between two attempts.
            OutcomeKind::Delayed { .. } if outcome.is_put_off() => {
                object.plain(
                    "event_id",
                    format_args!("{}-p{:X}", facts.message, outcome.at.0),
                );
            }
            OutcomeKind::Delayed { .. } => {
                object.plain(
                    "event_id",
                    format_args!("{}-d{}", facts.message, outcome.attempts),
                );
            }
            OutcomeKind::Rebound { .. } => {
                object.plain(
                    "event_id",
                    format_args!("{}-b{:X}", facts.message, outcome.at.0),
                );
            }
            // Exactly one outcome is terminal, so its event needs no number.
            _ => object.ascii("event_id", &self.id, b"-t"),
        }
        object.time("timestamp", outcome.at);
        common(&mut object, facts, &self.id);
        object.text("outcome", name);
        attempt(&mut object, facts, outcome);
        match &outcome.kind {
            OutcomeKind::Delayed { due } => object.time("next_attempt", *due),
            OutcomeKind::Rebound { due, to } => {
                object.text("rebound_to", to);
                match due.0 {
                    0 => object.null("next_attempt"),
                    _ => object.time("next_attempt", *due),
                }
            }
            _ => {}
        }
        let attempted = !matches!(outcome.kind, OutcomeKind::Rebound { .. });
        if outcome.kind != OutcomeKind::Delivered && attempted {
            object.number("bounce_class", u64::from(bounce_class));
            failure(&mut object, &mut self.reason, &outcome.reply);
        } else {
            object.text("raw_reason", &outcome.reply.text);
        }
        object.text("conn_stage", outcome.stage.as_str());
        object.flag("possible_duplicate", outcome.possible_duplicate);
        object.end();
    }

    pub fn adaptive(&mut self, out: &mut Vec<u8>, shard: ShardId, facts: &AdaptiveFacts<'_>) {
        self.changes += 1;
        let mut object = Object::begin(out, &mut self.clock, "adaptive");
        let id = format_args!("A{}-{:X}-{}", shard.0, facts.at.0, self.changes);
        object.plain("event_id", id);
        object.time("timestamp", facts.at);
        object.text("binding", facts.binding);
        object.lower("routing_domain", facts.domain);
        object.text("limit", facts.what);
        object.optional("from", facts.from);
        object.optional("to", facts.to);
        match facts.until {
            Some(until) => object.time("until", until),
            None => object.null("until"),
        }
        object.text("rule", facts.rule);
        object.number("count", u64::from(facts.count));
        object.optional("raw_reason", facts.reply);
        object.optional("conn_stage", facts.stage);
        object.optional("remote_host", facts.host);
        object.end();
    }

    pub fn rejection(&mut self, out: &mut Vec<u8>, shard: ShardId, facts: &RejectionFacts<'_>) {
        self.rejections += 1;
        let mut object = Object::begin(out, &mut self.clock, "policy_rejection");
        let id = format_args!("R{}-{:X}-{}", shard.0, facts.at.0, self.rejections);
        object.plain("event_id", id);
        object.time("timestamp", facts.at);
        object.optional("msg_from", facts.sender);
        match facts.recipient {
            Some(recipient) => object.lower("rcpt_to", recipient),
            None => object.null("rcpt_to"),
        }
        object.optional("raw_rcpt_to", facts.recipient);
        let domain = facts
            .recipient
            .and_then(|r| r.rsplit_once('@'))
            .map(|(_, domain)| domain);
        match domain {
            Some(domain) => object.lower("recipient_domain", domain),
            None => object.null("recipient_domain"),
        }
        object.ip("remote_addr", facts.peer);
        object.text("helo", facts.helo);
        object.text("recv_method", facts.method);
        object.text("conn_stage", facts.stage);
        object.number("bounce_class", u64::from(facts.bounce_class));
        failure(&mut object, &mut self.reason, facts.reply);
        object.end();
    }
}

/// The type of an outcome's event, and the outcome by its own name.
fn names(kind: &OutcomeKind) -> (&'static str, &'static str) {
    match kind {
        OutcomeKind::Delivered => ("delivery", "delivered"),
        OutcomeKind::Delayed { .. } => ("delay", "delayed"),
        OutcomeKind::Rebound { .. } => ("rebind", "rebound"),
        OutcomeKind::Bounced => ("bounce", "bounced"),
        OutcomeKind::Expired => ("bounce", "expired"),
        OutcomeKind::Discarded => ("bounce", "discarded"),
    }
}

/// The id in its text form, for [`Object::ascii`].
fn print_id(id: &mut Vec<u8>, facts: &EventFacts<'_>) {
    id.clear();
    // Writing to a vector cannot fail.
    let _ = write!(id, "{}", facts.message);
}

fn common(object: &mut Object<'_>, facts: &EventFacts<'_>, id: &[u8]) {
    let content = facts.content;
    let recipient = facts.recipient;
    object.ascii("message_id", id, b"");
    let batch = memchr::memchr(b'-', id).unwrap_or(id.len());
    object.ascii("batch_id", &id[..batch], b"");
    object.text(
        "msg_from",
        content.sender.as_ref().map_or("", Address::as_str),
    );
    object.lower("rcpt_to", recipient.as_str());
    object.text("raw_rcpt_to", recipient.as_str());
    object.text("friendly_from", &content.friendly_from);
    object.text("subject", &content.subject);
    let domain = recipient.domain();
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    object.lower("recipient_domain", domain);
    object.lower("routing_domain", domain);
    object.text("binding", facts.binding);
    object.optional("binding_group", facts.binding_group);
    let flow = content.flow.as_ref();
    object.text("class", flow::class_of(flow));
    object.optional("tenant", flow::tenant_of(flow));
    object.optional("campaign_id", flow::campaign_of(flow));
    object.text("recv_method", content.origin.method.as_str());
    object.number("msg_size", facts.size);
    object.time("injection_time", content.received);
}

fn attempt(object: &mut Object<'_>, facts: &EventFacts<'_>, outcome: &Outcome) {
    object.text("delv_method", "esmtp");
    let remote = outcome.remote.as_ref();
    object.plain_or_null("sending_ip", remote.and_then(|remote| remote.local));
    object.plain_or_null("ip_address", remote.map(|remote| remote.ip));
    object.optional("remote_host", remote.map(|remote| &*remote.host));
    object.number("num_retries", u64::from(retries(outcome)));
    let waited = outcome.at.since(facts.content.received);
    object.number(
        "queue_time",
        u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
    );
}

/// Attempts beyond the first. `attempts` counts failed ones: for a delivery those before it, for a
/// delay or a bounce this one too, and there is no attempt in a rebind.
fn retries(outcome: &Outcome) -> u16 {
    match outcome.kind {
        OutcomeKind::Delivered | OutcomeKind::Rebound { .. } => outcome.attempts,
        _ => outcome.attempts.saturating_sub(1),
    }
}

fn failure(object: &mut Object<'_>, canonical: &mut String, reply: &Reply) {
    object.plain("error_code", reply.code);
    object.plain_or_null("enhanced_code", reply.enhanced);
    object.flag("internal", reply.internal);
    reason::canonical(&reply.text, canonical);
    object.text("reason", canonical);
    object.text("raw_reason", &reply.text);
}
