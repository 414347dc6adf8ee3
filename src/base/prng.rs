//! Seeded randomness. Each concern draws from a stream of its own, so that one more draw in one
//! place changes nothing elsewhere. Not for secrets.

/// A stream of pseudo-random numbers (xoshiro256++, seeded by splitmix64).
#[derive(Debug, Clone)]
pub struct Prng {
    state: [u64; 4],
}

impl Prng {
    pub fn new(seed: u64) -> Prng {
        let mut mix = seed;
        Prng {
            state: std::array::from_fn(|_| splitmix64(&mut mix)),
        }
    }

    /// The stream of one concern under one seed.
    pub fn stream(seed: u64, concern: &str) -> Prng {
        Prng::new(seed ^ hash_bytes(concern.as_bytes()))
    }

    #[allow(clippy::should_implement_trait)] // Endless, and never nothing: no iterator.
    pub fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below zero");
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range");
        match (high - low).checked_add(1) {
            Some(width) => low + self.below(width),
            None => self.next(),
        }
    }

    /// True in `parts` of `whole` draws.
    pub fn chance(&mut self, parts: u64, whole: u64) -> bool {
        self.below(whole) < parts
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}

/// A hash that is the same in every process and version: it decides owners of queues and is never
/// used where a chosen key could do harm (see `Map` for that).
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // FNV leaves the high bits weak for short keys; one round of mixing spreads them.
    splitmix64(&mut hash)
}

/// Steps a state, and gives its bits spread over all places.
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_stream_and_another_concern_another() {
        let draw = |mut prng: Prng| (0..8).map(|_| prng.next()).collect::<Vec<_>>();
        assert_eq!(draw(Prng::stream(7, "disk")), draw(Prng::stream(7, "disk")));
        assert_ne!(draw(Prng::stream(7, "disk")), draw(Prng::stream(7, "net")));
    }

    #[test]
    fn bounds_are_kept_and_reached() {
        let mut prng = Prng::new(1);
        let mut seen = [false; 5];
        for _ in 0..1_000 {
            seen[prng.below(5) as usize] = true;
            assert!((3..=9).contains(&prng.between(3, 9)));
        }
        assert_eq!(seen, [true; 5]);
        prng.between(0, u64::MAX);
    }
}
