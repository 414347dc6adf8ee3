//! Weighted choices of a load generator: message sizes and recipient domains. A choice is a
//! function of the message's number, so that two runs of one mix send the same mail.

use crate::base::prng::hash_bytes;
use crate::base::units;
use crate::rig::blast::content::SIZE_BYTES_MAX;
use crate::rig::blast::content::SIZE_BYTES_MIN;

/// Entries of one mix.
pub const ENTRIES_MAX: usize = 1_000_000;

/// Values with weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix<T> {
    values: Vec<T>,
    /// The sum of the weights up to and including each value.
    sums: Vec<u64>,
}

impl<T> Mix<T> {
    /// Of `entries`, each a value and its weight.
    pub fn new(entries: Vec<(T, u64)>) -> Result<Mix<T>, String> {
        if entries.is_empty() || entries.len() > ENTRIES_MAX {
            return Err(format!(
                "{} entries, expected 1 to {ENTRIES_MAX}",
                entries.len()
            ));
        }
        let mut mix = Mix {
            values: Vec::new(),
            sums: Vec::new(),
        };
        let mut sum = 0_u64;
        for (value, weight) in entries {
            if weight == 0 {
                return Err("a weight of 0".to_owned());
            }
            sum = sum
                .checked_add(weight)
                .ok_or("the weights add up to too much")?;
            mix.values.push(value);
            mix.sums.push(sum);
        }
        Ok(mix)
    }

    /// The value that choice number `number` falls on.
    pub fn pick(&self, number: u64) -> &T {
        if self.values.len() == 1 {
            return &self.values[0];
        }
        let total = self.sums.last().copied().unwrap_or(1);
        let point = hash_bytes(&number.to_le_bytes()) % total;
        &self.values[self.sums.partition_point(|sum| *sum <= point)]
    }

    pub fn values(&self) -> &[T] {
        &self.values
    }
}

impl Mix<usize> {
    /// Message sizes: `4096` or `4096:90,102400:10`, units understood.
    pub fn sizes(text: &str) -> Result<Mix<usize>, String> {
        let mut entries = Vec::new();
        for part in text.split(',') {
            let (size, weight) = weighted(part)?;
            let size = units::parse_size(size)
                .and_then(|size| usize::try_from(size).ok())
                .ok_or_else(|| format!("`{size}` is not a size"))?;
            if !(SIZE_BYTES_MIN..=SIZE_BYTES_MAX).contains(&size) {
                return Err(format!(
                    "a size of {size}: {SIZE_BYTES_MIN} to {SIZE_BYTES_MAX}"
                ));
            }
            entries.push((size, weight));
        }
        Mix::new(entries)
    }
}

impl Mix<String> {
    /// Recipient domains: `a.example:3,b.example:1`, separated by commas or blanks and lines.
    pub fn domains(text: &str) -> Result<Mix<String>, String> {
        let parts = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default());
        let words = parts
            .flat_map(|line| line.split([',', ' ', '\t']))
            .filter(|w| !w.is_empty());
        let mut entries = Vec::new();
        for part in words {
            let (domain, weight) = weighted(part)?;
            if domain.is_empty() || domain.contains(['@', '<', '>', '\r']) {
                return Err(format!("`{domain}` is not a domain"));
            }
            entries.push((domain.to_owned(), weight));
        }
        Mix::new(entries)
    }

    /// `d0.example` to `dN-1.example`, all alike.
    pub fn numbered_domains(count: u64) -> Result<Mix<String>, String> {
        Mix::new(
            (0..count)
                .map(|number| (format!("d{number}.example"), 1))
                .collect(),
        )
    }
}

fn weighted(part: &str) -> Result<(&str, u64), String> {
    match part.trim().split_once(':') {
        None => Ok((part.trim(), 1)),
        Some((value, weight)) => {
            let weight = weight
                .parse()
                .map_err(|_| format!("`{weight}` is not a weight"))?;
            Ok((value, weight))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_follow_the_weights_and_repeat() {
        let mix = Mix::sizes("1K:90,4KiB:10").expect("a good mix");
        let small = (0..10_000)
            .filter(|number| *mix.pick(*number) == 1_024)
            .count();
        assert!((8_800..9_200).contains(&small), "{small}");
        assert_eq!(mix.pick(17), mix.pick(17));
    }

    #[test]
    fn domains_come_from_a_line_or_a_file() {
        let mix = Mix::domains("a.example:3, b.example\n# nothing\nc.example:2 # two\n");
        let values = mix.expect("a good mix").values().to_vec();
        assert_eq!(values, ["a.example", "b.example", "c.example"]);
        assert_eq!(
            Mix::numbered_domains(3).expect("three").values()[2],
            "d2.example"
        );
    }

    #[test]
    fn what_is_no_mix_is_refused() {
        for text in ["", "x", "4096:0", "4096:x", "100", "4096,", "999G"] {
            assert!(Mix::sizes(text).is_err(), "{text}");
        }
        for text in ["", "a@b", "a:b", ":3"] {
            assert!(Mix::domains(text).is_err(), "{text}");
        }
        assert!(Mix::numbered_domains(0).is_err());
    }
}
