//! How receivers put it: the replies of the large ones have codes and words of their own, by which
//! rules of senders know them.

use core::fmt;

/// Why a receiver says no.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// Too many messages in a window.
    Rate,
    /// Too many messages today.
    Volume,
    /// Too many messages on one connection.
    Session,
    /// Too many connections at a time, or in a window.
    Connections,
    Greylist,
    Block,
}

impl Cause {
    pub const ALL: [Cause; 6] = [
        Cause::Rate,
        Cause::Volume,
        Cause::Session,
        Cause::Connections,
        Cause::Greylist,
        Cause::Block,
    ];

    /// Its option in a `replies` stanza.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Rate => "rate",
            Cause::Volume => "volume",
            Cause::Session => "session",
            Cause::Connections => "connections",
            Cause::Greylist => "greylist",
            Cause::Block => "block",
        }
    }

    /// The sender has sent more than he may.
    pub fn is_over_sending(self) -> bool {
        !matches!(self, Cause::Greylist | Cause::Block)
    }
}

/// Whose replies a receiver's are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Style {
    #[default]
    Plain,
    Google,
    Yahoo,
    Microsoft,
    Apple,
}

impl Style {
    pub const ALL: [(&'static str, Style); 5] = [
        ("plain", Style::Plain),
        ("google", Style::Google),
        ("yahoo", Style::Yahoo),
        ("microsoft", Style::Microsoft),
        ("apple", Style::Apple),
    ];

    fn text(self, cause: Cause) -> &'static str {
        match (self, cause) {
            (Style::Google, Cause::Rate) => {
                "421 4.7.28 Unusual rate of mail originating from your IP address, \
                 your mail has been temporarily rate limited"
            }
            (Style::Google, Cause::Volume) => {
                "450 4.2.1 The user is receiving mail at a rate that prevents additional messages"
            }
            (Style::Google, Cause::Connections) => {
                "421 4.7.0 Too many concurrent connections from this IP address, try again later"
            }
            (Style::Google, Cause::Session) => {
                "421 4.7.0 Too many messages on this connection, closing it"
            }
            (Style::Google, Cause::Block) => {
                "421 4.7.0 IP address not accepted because of low reputation, try again later"
            }
            (Style::Yahoo, Cause::Rate) => {
                "421 4.7.0 [TSS04] Messages temporarily deferred due to unexpected volume"
            }
            (Style::Yahoo, Cause::Volume) => {
                "421 4.7.0 [TSS05] Messages temporarily deferred due to unexpected volume today"
            }
            (Style::Yahoo, Cause::Connections) => {
                "421 4.7.0 Too many concurrent SMTP connections, please slow down"
            }
            (Style::Yahoo, Cause::Session) => "421 Max message per connection reached, closing",
            (Style::Yahoo, Cause::Block) => "553 5.7.1 [BL21] Connections will not be accepted",
            (Style::Microsoft, Cause::Rate) => {
                "451 4.7.650 The mail server has been temporarily rate limited due to IP reputation"
            }
            (Style::Microsoft, Cause::Volume) => {
                "451 4.7.651 The mail server has been temporarily rate limited, daily volume"
            }
            (Style::Microsoft, Cause::Connections) => {
                "421 4.7.652 The mail server has exceeded the maximum number of connections"
            }
            (Style::Microsoft, Cause::Block) => {
                "550 5.7.1 Messages weren't sent, part of their network is on our block list S3140"
            }
            (Style::Apple, Cause::Rate | Cause::Volume) => {
                "450 4.7.1 Too many messages, rate limit exceeded, try again later"
            }
            (Style::Apple, Cause::Connections) => {
                "421 4.7.1 Too many connections from your IP address"
            }
            (_, Cause::Rate) => "451 4.7.1 Rate limit exceeded, try again later",
            (_, Cause::Volume) => "451 4.7.1 Daily limit of this address exceeded, try tomorrow",
            (_, Cause::Session) => "421 4.7.0 Too many messages on this connection",
            (_, Cause::Connections) => "421 4.7.0 Too many connections",
            (_, Cause::Greylist) => "451 4.7.1 Greylisted, please try again later",
            (_, Cause::Block) => "554 5.7.1 Your address is on our block list",
        }
    }
}

/// The replies of one receiver, without line ends. One that begins with 421 ends the connection.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Words {
    pub style: Style,
    /// Instead of those of the style.
    pub own: Vec<(Cause, String)>,
}

impl Words {
    pub fn of(&self, cause: Cause) -> &str {
        let own = self.own.iter().rev().find(|(it, _)| *it == cause);
        own.map_or(self.style.text(cause), |(_, text)| text)
    }
}

/// A reply that can be given for a no: a code of the fours or fives, a space, and words.
pub fn is_refusal(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() > 4
        && matches!(bytes[0], b'4' | b'5')
        && bytes[1..3].iter().all(u8::is_ascii_digit)
        && bytes[3] == b' '
        && bytes.iter().all(|byte| (b' '..=b'~').contains(byte))
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_has_a_refusal_for_every_cause_and_own_words_come_first() {
        for (_, style) in Style::ALL {
            for cause in Cause::ALL {
                assert!(is_refusal(style.text(cause)), "{style:?} {cause}");
            }
        }
        let words = Words {
            style: Style::Google,
            own: vec![(Cause::Rate, "450 4.7.1 slower".to_string())],
        };
        assert_eq!(words.of(Cause::Rate), "450 4.7.1 slower");
        assert!(words.of(Cause::Session).starts_with("421 "));
        for bad in [
            "",
            "250 2.0.0 fine",
            "45 x",
            "451",
            "451-x",
            "451 a\r\n250 b",
        ] {
            assert!(!is_refusal(bad), "{bad}");
        }
    }
}
