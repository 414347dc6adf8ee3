//! What a reply means for its recipient, and how reports name it. A small set of rules of our own:
//! enhanced status code first, then a few words, then the plain code.

use crate::types::outcome::Stage;
use crate::types::reply::Class;
use crate::types::reply::Enhanced;
use crate::types::reply::Reply;

/// What to do about a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Delivered,
    /// Later, by the retry schedule.
    Retry,
    /// Never again.
    Permanent,
    /// The host is at fault, not the message: the next host, and this one rests.
    NextHost,
}

/// What the answer at this stage means.
///
/// A refusal before any command about mail, a 5xx banner included, speaks of the host: another
/// exchange may take the message, and if none does the queue retries until it expires. 552 for
/// too many recipients is to be taken as 452 (RFC 5321 4.5.3.1.10).
pub fn verdict(stage: Stage, reply: &Reply) -> Verdict {
    match (stage, reply.class()) {
        (Stage::Connect | Stage::Banner | Stage::Ehlo, _) => Verdict::NextHost,
        (Stage::Final, Class::Positive) => Verdict::Delivered,
        (_, Class::Positive | Class::Transient) => Verdict::Retry,
        (Stage::RcptTo, Class::Permanent) if is_too_many_recipients(reply) => Verdict::Retry,
        (_, Class::Permanent) => Verdict::Permanent,
    }
}

fn is_too_many_recipients(reply: &Reply) -> bool {
    match reply.enhanced {
        Some(Enhanced(_, 5, 3)) => true,
        Some(_) => false,
        None => reply.code == 552 && contains(&reply.text, "too many recipients"),
    }
}

/// The numbers of bounce classes that events and reports carry (`bounce_class`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum BounceClass {
    Undetermined = 1,
    InvalidRecipient = 10,
    SoftBounce = 20,
    DnsFailure = 21,
    MailboxFull = 22,
    TooLarge = 23,
    Timeout = 24,
    AdminFailure = 25,
    GenericBounceNoRcpt = 30,
    GenericBounce = 40,
    MailBlock = 50,
    SpamBlock = 51,
    SpamContent = 52,
    ProhibitedAttachment = 53,
    RelayingDenied = 54,
    AutoReply = 60,
    TransientFailure = 70,
    Subscribe = 80,
    Unsubscribe = 90,
    ChallengeResponse = 100,
}

impl BounceClass {
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// Names the failure that a reply tells of. Of no meaning for a positive reply.
pub fn bounce_class(stage: Stage, reply: &Reply) -> BounceClass {
    if reply.internal {
        return of_ours(stage, reply);
    }
    let by_status = reply
        .enhanced
        .and_then(|status| by_status(status, reply.class()));
    let by_words = by_words(&reply.text);
    // 7 is security or policy: the words say which. Elsewhere the status is the better witness.
    let policy = matches!(reply.enhanced, Some(Enhanced(_, 7, _)));
    let found = if policy {
        by_words.or(by_status)
    } else {
        by_status.or(by_words)
    };
    found.unwrap_or(match (reply.class(), reply.code) {
        (Class::Permanent, 551) => BounceClass::InvalidRecipient,
        (Class::Permanent, 552) if stage != Stage::RcptTo => BounceClass::TooLarge,
        (Class::Permanent, 552) => BounceClass::MailboxFull,
        (Class::Permanent, 550 | 553) if stage == Stage::RcptTo => BounceClass::InvalidRecipient,
        (Class::Permanent, _) => BounceClass::Undetermined,
        (Class::Transient | Class::Positive, _) => BounceClass::TransientFailure,
    })
}

/// Pelton's own accounts: the catalogue is known, words need not be looked at.
fn of_ours(stage: Stage, reply: &Reply) -> BounceClass {
    match (stage, reply.enhanced) {
        (Stage::Dns, _) => BounceClass::DnsFailure,
        (_, Some(Enhanced(_, 3, 4))) => BounceClass::TooLarge,
        (_, Some(Enhanced(_, 4, 1 | 2 | 5 | 7))) | (Stage::Connect, _) => BounceClass::Timeout,
        (_, Some(Enhanced(_, 6, _))) => BounceClass::GenericBounce,
        (Stage::Internal, _) if reply.class() == Class::Permanent => BounceClass::AdminFailure,
        (_, _) if reply.class() == Class::Permanent => BounceClass::GenericBounce,
        (_, _) => BounceClass::TransientFailure,
    }
}

/// RFC 3463 and the registry of RFC 5248.
fn by_status(status: Enhanced, class: Class) -> Option<BounceClass> {
    let permanent = class == Class::Permanent;
    Some(match (status.1, status.2) {
        (1, 0 | 1 | 2 | 3 | 6 | 10) if permanent => BounceClass::InvalidRecipient,
        (2, 1) if permanent => BounceClass::InvalidRecipient,
        (2, 2) => BounceClass::MailboxFull,
        (2, 3) | (3, 4) => BounceClass::TooLarge,
        (3, 1) => BounceClass::MailboxFull,
        (4, 3 | 4) => BounceClass::DnsFailure,
        (4, 1 | 2 | 7) => BounceClass::Timeout,
        (4, 5) | (2, 1) => BounceClass::SoftBounce,
        (7, 1..=29) => BounceClass::MailBlock,
        _ => return None,
    })
}

/// Phrases in lower case, the more telling ones first.
const WORDS: &[(&str, BounceClass)] = &[
    ("relay", BounceClass::RelayingDenied),
    ("virus", BounceClass::ProhibitedAttachment),
    ("malware", BounceClass::ProhibitedAttachment),
    ("attachment", BounceClass::ProhibitedAttachment),
    ("spam content", BounceClass::SpamContent),
    ("content rejected", BounceClass::SpamContent),
    ("message content", BounceClass::SpamContent),
    ("spam", BounceClass::SpamBlock),
    ("unsolicited", BounceClass::SpamBlock),
    ("blacklist", BounceClass::MailBlock),
    ("blocklist", BounceClass::MailBlock),
    ("block list", BounceClass::MailBlock),
    ("blocked", BounceClass::MailBlock),
    ("reputation", BounceClass::MailBlock),
    ("not authorized", BounceClass::MailBlock),
    ("access denied", BounceClass::MailBlock),
    ("quota", BounceClass::MailboxFull),
    ("mailbox full", BounceClass::MailboxFull),
    ("mailbox is full", BounceClass::MailboxFull),
    ("too large", BounceClass::TooLarge),
    ("size limit", BounceClass::TooLarge),
    ("exceeds maximum", BounceClass::TooLarge),
    ("user unknown", BounceClass::InvalidRecipient),
    ("unknown user", BounceClass::InvalidRecipient),
    ("no such user", BounceClass::InvalidRecipient),
    ("no such recipient", BounceClass::InvalidRecipient),
    ("no mailbox", BounceClass::InvalidRecipient),
    ("does not exist", BounceClass::InvalidRecipient),
    ("doesn't exist", BounceClass::InvalidRecipient),
    ("invalid recipient", BounceClass::InvalidRecipient),
    ("mailbox unavailable", BounceClass::InvalidRecipient),
    ("timed out", BounceClass::Timeout),
    ("timeout", BounceClass::Timeout),
];

fn by_words(text: &str) -> Option<BounceClass> {
    WORDS
        .iter()
        .find(|(words, _)| contains(text, words))
        .map(|(_, class)| *class)
}

/// Whether `text` holds `words`, which are in lower case, in any case.
fn contains(text: &str, words: &str) -> bool {
    let bytes = text.as_bytes().windows(words.len());
    bytes
        .into_iter()
        .any(|window| window.eq_ignore_ascii_case(words.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(code: u16, enhanced: Option<Enhanced>, text: &str) -> Reply {
        Reply::remote(code, enhanced, text)
    }

    #[test]
    fn the_stage_and_the_first_digit_decide() {
        let cases = [
            (Stage::Final, 250, "ok", Verdict::Delivered),
            (Stage::Final, 452, "full", Verdict::Retry),
            (Stage::Final, 554, "no", Verdict::Permanent),
            (Stage::MailFrom, 550, "no", Verdict::Permanent),
            (Stage::RcptTo, 450, "greylisted", Verdict::Retry),
            (Stage::RcptTo, 552, "Too many recipients", Verdict::Retry),
            (Stage::RcptTo, 552, "mailbox full", Verdict::Permanent),
            (Stage::RcptTo, 250, "odd", Verdict::Retry),
            (Stage::Banner, 554, "no mail here", Verdict::NextHost),
            (Stage::Ehlo, 421, "busy", Verdict::NextHost),
            (Stage::Connect, 451, "refused", Verdict::NextHost),
            (Stage::Data, 354, "odd", Verdict::Retry),
            (Stage::Dns, 554, "no domain", Verdict::Permanent),
            (Stage::Internal, 554, "expired", Verdict::Permanent),
        ];
        for (stage, code, text, expected) in cases {
            assert_eq!(
                verdict(stage, &remote(code, None, text)),
                expected,
                "{stage:?} {code}"
            );
        }
        let many = remote(552, Some(Enhanced(5, 5, 3)), "x");
        assert_eq!(verdict(Stage::RcptTo, &many), Verdict::Retry);
    }

    #[test]
    fn replies_seen_in_the_wild_get_the_class_a_reader_would_give_them() {
        let rcpt = Stage::RcptTo;
        let some = |a, b, c| Some(Enhanced(a, b, c));
        let cases = [
            (rcpt, 550, some(5, 1, 1), "The account does not exist", 10),
            (rcpt, 550, some(5, 2, 1), "The user is inactive", 10),
            (
                rcpt,
                550,
                None,
                "Requested action not taken: mailbox unavailable",
                10,
            ),
            (rcpt, 553, None, "sorry", 10),
            (rcpt, 452, some(4, 2, 2), "The user is over quota", 22),
            (rcpt, 552, None, "Mailbox full", 22),
            (rcpt, 554, some(5, 7, 1), "<x@y>: Relay access denied", 54),
            (
                Stage::Final,
                550,
                some(5, 7, 1),
                "Likely unsolicited mail",
                51,
            ),
            (
                Stage::Final,
                552,
                some(5, 7, 0),
                "Blocked: attachment type",
                53,
            ),
            (
                Stage::MailFrom,
                550,
                some(5, 7, 606),
                "Access denied, banned sender",
                50,
            ),
            (
                Stage::MailFrom,
                550,
                some(5, 7, 1),
                "Service unavailable",
                50,
            ),
            (
                Stage::MailFrom,
                552,
                some(5, 3, 4),
                "Message size exceeds limit",
                23,
            ),
            (Stage::Final, 554, None, "transaction failed", 1),
            (Stage::Final, 451, some(4, 7, 1), "Greylisted", 50),
            (Stage::Final, 451, None, "try later", 70),
            (
                Stage::Banner,
                421,
                some(4, 7, 0),
                "IP reputation is low",
                50,
            ),
        ];
        for (stage, code, enhanced, text, number) in cases {
            let reply = remote(code, enhanced, text);
            assert_eq!(bounce_class(stage, &reply).number(), number, "{reply}");
        }
    }

    #[test]
    fn accounts_of_our_own_are_classed_by_stage_and_status() {
        let ours = [
            (Stage::Dns, 554, Enhanced(5, 4, 4), 21),
            (Stage::Internal, 554, Enhanced(5, 4, 7), 24),
            (Stage::Connect, 450, Enhanced(4, 4, 1), 24),
            (Stage::Internal, 552, Enhanced(5, 3, 4), 23),
            (Stage::Internal, 554, Enhanced(5, 7, 0), 25),
            (Stage::Internal, 554, Enhanced(5, 6, 3), 40),
            (Stage::Final, 451, Enhanced(4, 5, 0), 70),
        ];
        for (stage, code, enhanced, number) in ours {
            let reply = Reply::internal(code, enhanced, "blocked spam");
            assert_eq!(
                bounce_class(stage, &reply).number(),
                number,
                "{stage:?} {reply}"
            );
        }
    }
}
