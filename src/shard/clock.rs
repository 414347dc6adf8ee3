//! The clock of a shard: the only place below control where time is read.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::base::time::{Mono, Now, Wall};

/// Added to monotonic time, so that zero never means "now" and moments of earlier processes stay in
/// range: ten years.
const MONO_OFFSET_US: u64 = 10 * 365 * 86_400 * 1_000_000;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    #[allow(clippy::disallowed_methods)] // This is where the clock is.
    pub fn start() -> Clock {
        Clock {
            began: Instant::now(),
        }
    }

    #[allow(clippy::disallowed_methods)]
    pub fn now(&self) -> Now {
        let mono = MONO_OFFSET_US + self.began.elapsed().as_micros() as u64;
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            mono: Mono(mono),
            wall: Wall(wall.as_micros() as u64),
        }
    }
}
