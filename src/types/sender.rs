//! Who a message is from, for those who do not have its body at hand. Few senders have most of the
//! mail, and of those the text is kept, once. Where each message has a sender of its own there is
//! no room for all of them: then there is a hash, which tells whether it is a given one.

use core::hash::Hasher;
use std::hash::DefaultHasher;
use std::sync::Arc;

use crate::base::map::Set;

/// Senders whose text one [`Senders`] or one shard keeps: 10 MB at most.
pub const SENDERS_KEPT_MAX: usize = 65_536;

/// What stands for the text of a sender, without regard to ASCII case. Zero is the null
/// reverse-path, and the last bit is never set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SenderHash(u64);

impl SenderHash {
    pub const NULL: SenderHash = SenderHash(0);

    /// Of an address as it prints; empty for the null reverse-path.
    pub fn of(text: &str) -> SenderHash {
        if text.is_empty() {
            return SenderHash::NULL;
        }
        let mut hasher = DefaultHasher::new();
        let mut lower = [0; 64];
        for part in text.as_bytes().chunks(lower.len()) {
            let lower = &mut lower[..part.len()];
            lower.copy_from_slice(part);
            lower.make_ascii_lowercase();
            hasher.write(lower);
        }
        SenderHash(hasher.finish().max(2) & !1)
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    pub fn from_bits(bits: u64) -> SenderHash {
        SenderHash(bits & !1)
    }
}

/// A sender as it travels with an arrival.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sender {
    /// Empty for the null reverse-path.
    Text(Arc<str>),
    /// The text is with the body, or is not kept.
    Hash(SenderHash),
}

impl Sender {
    pub fn hash(&self) -> SenderHash {
        match self {
            Sender::Text(text) => SenderHash::of(text),
            Sender::Hash(hash) => *hash,
        }
    }
}

/// What is known of the sender of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SenderFact<'a> {
    Text(&'a str),
    Hash(SenderHash),
}

/// Senders by their text, so that equal ones share their memory.
#[derive(Debug, Default)]
pub struct Senders {
    known: Set<Arc<str>>,
}

impl Senders {
    /// Allocates for new ones only, up to [`SENDERS_KEPT_MAX`].
    pub fn get(&mut self, text: &str) -> Sender {
        if let Some(known) = self.known.get(text) {
            return Sender::Text(known.clone());
        }
        if self.known.len() >= SENDERS_KEPT_MAX {
            return Sender::Hash(SenderHash::of(text));
        }
        let text: Arc<str> = text.into();
        self.known.insert(text.clone());
        Sender::Text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_stands_for_one_sender_in_any_case() {
        let long = "x".repeat(100);
        let texts = ["", "a@b", "a@c", "b@a", &long, &long[1..]];
        for (index, text) in texts.into_iter().enumerate() {
            let hash = SenderHash::of(text);
            assert_eq!(hash, SenderHash::of(&text.to_uppercase()));
            assert_eq!(hash, SenderHash::from_bits(hash.bits() | 1));
            assert_eq!(hash == SenderHash::NULL, text.is_empty());
            let others = texts.iter().take(index);
            assert!(others.map(|it| SenderHash::of(it)).all(|it| it != hash));
        }
    }

    #[test]
    fn equal_senders_share_their_text_and_too_many_have_none() {
        let mut senders = Senders::default();
        let (Sender::Text(one), Sender::Text(same)) = (senders.get("a@b"), senders.get("a@b"))
        else {
            panic!("there is room");
        };
        assert!(Arc::ptr_eq(&one, &same));
        for number in 1..SENDERS_KEPT_MAX {
            assert!(matches!(
                senders.get(&format!("{number}@b")),
                Sender::Text(_)
            ));
        }
        let hash = SenderHash::of("late@b");
        assert_eq!(senders.get("late@b"), Sender::Hash(hash));
        assert_eq!(senders.get("a@b"), Sender::Text(one));
    }
}
