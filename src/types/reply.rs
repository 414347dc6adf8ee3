//! What a receiving host answered, or what Pelton says in its place.

use core::fmt;

/// Bytes kept of a reply's text, all lines together. Longer ones are cut, which the text shows.
pub const REPLY_TEXT_BYTES_MAX: usize = 1_024;

/// An enhanced status code, RFC 3463.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// How a reply is to be taken, by its first digit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Class {
    /// 2xx and 3xx.
    Positive,
    /// 4xx, and whatever is no SMTP reply at all: try again.
    Transient,
    /// 5xx.
    Permanent,
}

/// A reply: the remote's own words (control characters removed, lines joined by a blank), or with
/// `internal` set, Pelton's account of why there were none.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Reply {
    pub code: u16,
    pub enhanced: Option<Enhanced>,
    pub text: Box<str>,
    pub internal: bool,
}

impl Reply {
    /// An account in Pelton's own words; printed with `[internal]` as operators know it.
    pub fn internal(code: u16, enhanced: Enhanced, text: &str) -> Reply {
        Reply {
            code,
            enhanced: Some(enhanced),
            text: bounded(text),
            internal: true,
        }
    }

    /// What a host said. Control characters are dropped, so that a reply can reach a terminal, a
    /// log or a page as it is.
    pub fn remote(code: u16, enhanced: Option<Enhanced>, text: &str) -> Reply {
        Reply {
            code,
            enhanced,
            text: bounded(text),
            internal: false,
        }
    }

    pub fn class(&self) -> Class {
        match self.code {
            200..=399 => Class::Positive,
            500..=599 => Class::Permanent,
            _ => Class::Transient,
        }
    }
}

fn bounded(text: &str) -> Box<str> {
    let mut kept = String::with_capacity(text.len().min(REPLY_TEXT_BYTES_MAX));
    for c in text.chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > REPLY_TEXT_BYTES_MAX - 3 {
            kept.push_str("...");
            break;
        }
        kept.push(c);
    }
    kept.into_boxed_str()
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        if self.internal {
            write!(f, " [internal]")?;
        }
        if !self.text.is_empty() {
            write!(f, " {}", self.text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_prints_as_operators_know_it() {
        let timed_out = Reply::internal(450, Enhanced(4, 4, 1), "Connection Timed Out");
        assert_eq!(
            timed_out.to_string(),
            "450 4.4.1 [internal] Connection Timed Out"
        );
        assert_eq!(timed_out.class(), Class::Transient);
        assert_eq!(Reply::remote(250, None, "").to_string(), "250");
    }

    #[test]
    fn hostile_text_is_bounded_and_cannot_steer_a_terminal() {
        let reply = Reply::remote(999, None, &"\x1b[31m\0é".repeat(1_000));
        assert!(reply.text.len() <= REPLY_TEXT_BYTES_MAX);
        assert!(!reply.text.chars().any(char::is_control));
        assert_eq!(reply.class(), Class::Transient);
    }
}
