//! The trace of a run: a hash over everything that happened, and if wanted every line of it.

use crate::base::prng::hash_bytes;

pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub fn new(with_lines: bool) -> Trace {
        Trace {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: with_lines.then(Vec::new),
        }
    }

    /// Something happened. The text is made only if somebody will read it.
    pub fn note(&mut self, now_us: u64, code: u64, value: u64, text: impl FnOnce() -> String) {
        for part in [now_us, code, value] {
            self.hash = (self.hash.rotate_left(5) ^ part).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        if let Some(lines) = &mut self.lines {
            let (seconds, micros) = (now_us / 1_000_000, now_us % 1_000_000);
            lines.push(format!("{seconds:>6}.{micros:06} {}", text()));
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}

/// A short name of bytes, for the hash.
pub fn digest(bytes: &[u8]) -> u64 {
    match bytes.len() {
        0..=256 => hash_bytes(bytes),
        _ => u64::from(crate::base::crc::crc32c(0, bytes)),
    }
}
