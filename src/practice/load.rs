//! Which mail comes when: so many messages in every second, for whom by chance.

use crate::base::prng::Prng;
use crate::practice::HOUR;
use crate::practice::SECOND;
use crate::practice::scenario::Load;
use crate::practice::scenario::Scenario;

/// Mail of so much time comes at once.
pub const TICK_US: u64 = SECOND;

/// One message, before it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Letter {
    pub provider: usize,
    pub domain: usize,
    pub mailbox: u64,
    /// Bytes of its content.
    pub size: u64,
}

/// Draws letters.
pub struct Mix {
    prng: Prng,
    /// Shares up to and with each provider.
    shares: Vec<u64>,
    /// For each provider, the popularity up to and with each domain.
    domains: Vec<Vec<u64>>,
    mailboxes: Vec<u64>,
    sizes: Vec<u64>,
}

/// The weight of the most popular domain.
const WEIGHT: u64 = 1 << 32;

impl Mix {
    pub fn new(scenario: &Scenario, seed: u64) -> Mix {
        let domains = scenario.providers.iter().map(|it| {
            let weights = (1..=it.domains.len() as u64).map(|place| WEIGHT / place);
            sums(weights)
        });
        Mix {
            prng: Prng::stream(seed, "letters"),
            shares: sums(scenario.providers.iter().map(|it| it.share)),
            domains: domains.collect(),
            mailboxes: scenario.providers.iter().map(|it| it.mailboxes).collect(),
            sizes: scenario.load.sizes.clone(),
        }
    }

    /// Nothing if no provider has a share.
    pub fn letter(&mut self) -> Option<Letter> {
        let prng = &mut self.prng;
        let provider = draw(prng, &self.shares)?;
        let domain = draw(prng, &self.domains[provider])?;
        Some(Letter {
            provider,
            domain,
            mailbox: prng.below(self.mailboxes[provider]),
            size: *prng.pick(&self.sizes),
        })
    }
}

fn sums(weights: impl Iterator<Item = u64>) -> Vec<u64> {
    let add = |sum: &mut u64, weight: u64| {
        *sum += weight;
        Some(*sum)
    };
    weights.scan(0, add).collect()
}

fn draw(prng: &mut Prng, sums: &[u64]) -> Option<usize> {
    let whole = sums.last().copied().filter(|it| *it > 0)?;
    let at = prng.below(whole);
    Some(sums.partition_point(|sum| *sum <= at))
}

impl Load {
    /// Messages that come from `from_us` until just before `to_us`, of whole ticks.
    pub fn between(&self, from_us: u64, to_us: u64) -> u64 {
        let (mut at, to_us, mut count) = (from_us, to_us.min(self.until_us), 0);
        while at < to_us {
            let hour = at / HOUR;
            let end = to_us.min((hour + 1) * HOUR);
            let per_hour = self.messages_per_hour[hour as usize % self.messages_per_hour.len()];
            let by = |moment_us: u64| {
                let part = u128::from(per_hour) * u128::from(moment_us - hour * HOUR);
                (part / u128::from(HOUR)) as u64
            };
            count += by(end) - by(at);
            at = end;
        }
        count
    }
}

/// The recipient of a letter. Its number stands behind the mailbox, as a detail.
pub fn recipient(scenario: &Scenario, letter: &Letter, number: u64) -> String {
    let domain = &scenario.providers[letter.provider].domains[letter.domain];
    format!("u{}+{number}@{domain}", letter.mailbox)
}

/// The number in such an address.
pub fn number_of(recipient: &[u8]) -> Option<u64> {
    let at = memchr::memchr(b'@', recipient)?;
    let plus = memchr::memchr(b'+', &recipient[..at])?;
    core::str::from_utf8(&recipient[plus + 1..at])
        .ok()?
        .parse()
        .ok()
}

/// The address without what stands behind the mailbox: to whom a message is, for greylists.
pub fn mailbox_of(recipient: &[u8]) -> (&[u8], &[u8]) {
    let at = memchr::memchr(b'@', recipient).unwrap_or(recipient.len());
    let plus = memchr::memchr(b'+', &recipient[..at]).unwrap_or(at);
    (&recipient[..plus], &recipient[at..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::practice::read::for_tests;

    const TEXT: &str = "duration = 4h load { messages_per_hour = ( 7 5000 ) until = 3h30m } \
        binding b { address = 127.0.1.1 } \
        provider big { share = 3 domains = ( a.example b.example c.example ) } \
        provider none { share = 0 } provider small { share = 1 domains = 200 mailboxes = 2 }";

    #[test]
    fn every_hour_has_its_messages_spread_evenly_whatever_the_ticks() {
        let load = for_tests(TEXT).load;
        let hours = [(0, 7), (1, 5_000), (2, 7), (3, 2_500), (4, 0)];
        for (hour, count) in hours {
            assert_eq!(
                load.between(hour * HOUR, (hour + 1) * HOUR),
                count,
                "hour {hour}"
            );
            let ticks = (hour * 3_600..(hour + 1) * 3_600).map(|it| it * TICK_US);
            let each: Vec<u64> = ticks.map(|at| load.between(at, at + TICK_US)).collect();
            assert_eq!(each.iter().sum::<u64>(), count);
            assert!(each.iter().all(|it| *it <= 2));
        }
        assert_eq!(load.between(0, 100 * HOUR), load.messages());
    }

    #[test]
    fn letters_go_by_share_and_popularity_and_the_same_seed_writes_the_same() {
        let scenario = for_tests(TEXT);
        let (mut mix, mut again) = (Mix::new(&scenario, 3), Mix::new(&scenario, 3));
        let (mut providers, mut domains) = ([0; 3], [0; 3]);
        for _ in 0..20_000 {
            let letter = mix.letter().expect("a provider has a share");
            assert_eq!(Some(letter), again.letter());
            providers[letter.provider] += 1;
            if letter.provider == 0 {
                domains[letter.domain] += 1;
            } else {
                assert!(letter.mailbox < 2 && letter.domain < 200);
            }
        }
        assert_eq!(providers[1], 0);
        assert!((14_700..15_300).contains(&providers[0]), "{providers:?}");
        // 6, 3 and 2 of 11.
        assert!(domains[0] > 7_800 && domains[1] > 3_800 && domains[2] > 2_500);
    }

    #[test]
    fn an_address_tells_its_number_and_its_mailbox() {
        let scenario = for_tests(TEXT);
        let letter = Letter {
            provider: 2,
            domain: 9,
            mailbox: 1,
            size: 1,
        };
        let address = recipient(&scenario, &letter, 815);
        assert_eq!(address, "u1+815@d10.small.example");
        assert_eq!(number_of(address.as_bytes()), Some(815));
        assert_eq!(
            mailbox_of(address.as_bytes()),
            (&b"u1"[..], &b"@d10.small.example"[..])
        );
        for (other, mailbox) in [("a@b", ("a", "@b")), ("a+x@b", ("a", "@b")), ("", ("", ""))] {
            assert_eq!(number_of(other.as_bytes()), None);
            let expected = (mailbox.0.as_bytes(), mailbox.1.as_bytes());
            assert_eq!(mailbox_of(other.as_bytes()), expected);
        }
    }
}
