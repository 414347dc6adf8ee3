//! CRC32C, with a seed. The seed carries where a piece of data belongs (segment, epoch, offset), so
//! that bytes which are intact but in the wrong place do not pass.

use crc_fast::CrcAlgorithm;
use crc_fast::Digest;

/// CRC32C of `bytes`, continued from `seed`.
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!seed));
    digest.update(bytes);
    digest.finalize() as u32
}

/// A seed made of three numbers that name a place.
pub fn seed(a: u64, b: u64, c: u64) -> u32 {
    let mut place = [0; 24];
    place[..8].copy_from_slice(&a.to_le_bytes());
    place[8..16].copy_from_slice(&b.to_le_bytes());
    place[16..].copy_from_slice(&c.to_le_bytes());
    crc32c(0, &place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_castagnoli_polynomial_holds() {
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_seed_tells_places_apart() {
        assert_ne!(seed(1, 2, 3), seed(2, 1, 3));
        assert_ne!(seed(1, 2, 3), seed(1, 2, 4));
    }
}
