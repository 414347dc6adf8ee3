//! Names of transactions and messages. A batch id is unique over restarts, shards and time without
//! asking a clock: it holds the number of the start, the shard and a counter.

use core::fmt;
use core::str::FromStr;

/// Shards one process may have; the batch id has room for no more.
pub const SHARDS_MAX: usize = 128;

/// Recipients one batch may have; the recipient index has room for no more.
pub const RECIPIENTS_MAX: usize = 65_535;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardId(pub u8);

impl ShardId {
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

const _: () = assert!(SHARDS_MAX <= u8::MAX as usize + 1, "a shard id is one byte");

/// Names one accepted transaction; the `250` tells it. 24 bits of start number, 8 bits of shard,
/// 32 bits of counter; written as 13 characters of Crockford's base 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BatchId(pub u64);

impl BatchId {
    /// `start` counts the starts of this spool and is kept on disk; 2^24 of them are one a minute
    /// for 31 years.
    pub fn new(start: u32, shard: ShardId, counter: u32) -> BatchId {
        assert!(start < 1 << 24, "the number of starts fits 24 bits");
        BatchId((u64::from(start) << 40) | (u64::from(shard.0) << 32) | u64::from(counter))
    }

    /// The shard that accepted it. It may live on another one by now.
    pub fn shard(self) -> ShardId {
        ShardId((self.0 >> 32) as u8)
    }

    pub fn start(self) -> u32 {
        (self.0 >> 40) as u32
    }
}

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const BATCH_ID_CHARS: usize = 13;

impl BatchId {
    /// The id as it is printed.
    pub fn text(self) -> [u8; BATCH_ID_CHARS] {
        let mut text = [0; BATCH_ID_CHARS];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = ALPHABET[(rest % 32) as usize];
            rest /= 32;
        }
        text
    }
}

impl From<BatchId> for u64 {
    fn from(batch: BatchId) -> u64 {
        batch.0
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(core::str::from_utf8(&self.text()).map_err(|_| fmt::Error)?)
    }
}

/// What a text that is no id gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an id is 13 characters of 0-9 A-Z without I L O U, and for one recipient `-` and a number"
)]
pub struct BadId;

impl FromStr for BatchId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<BatchId, BadId> {
        if text.len() != BATCH_ID_CHARS {
            return Err(BadId);
        }
        let mut number = 0_u64;
        for byte in text.bytes() {
            let upper = byte.to_ascii_uppercase();
            let digit = ALPHABET.iter().position(|c| *c == upper).ok_or(BadId)?;
            number = number.checked_mul(32).ok_or(BadId)?;
            number = number.checked_add(digit as u64).ok_or(BadId)?;
        }
        Ok(BatchId(number))
    }
}

/// Names the message of one recipient: `0C8V3M1A7Q2ZK-0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MessageId {
    pub batch: BatchId,
    pub recipient: u16,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.batch, self.recipient)
    }
}

impl FromStr for MessageId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<MessageId, BadId> {
        let (batch, recipient) = text.split_once('-').ok_or(BadId)?;
        let recipient = recipient.parse().map_err(|_| BadId)?;
        Ok(MessageId {
            batch: batch.parse()?,
            recipient,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_form() {
        for batch in [
            BatchId(0),
            BatchId(u64::MAX),
            BatchId::new(77, ShardId(3), 123_456),
        ] {
            assert_eq!(batch.to_string().parse(), Ok(batch));
            let id = MessageId {
                batch,
                recipient: 65_535,
            };
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!(BatchId::new(77, ShardId(3), 9).shard(), ShardId(3));
        assert_eq!(BatchId::new(77, ShardId(3), 9).start(), 77);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "0",
            "ZZZZZZZZZZZZZ",
            "000000000000U",
            "0000000000000-",
            "x-1",
        ] {
            assert_eq!(text.parse::<MessageId>(), Err(BadId), "{text}");
        }
        assert_eq!(
            "ZZZZZZZZZZZZZ".parse::<BatchId>(),
            Err(BadId),
            "over 64 bits"
        );
    }
}
