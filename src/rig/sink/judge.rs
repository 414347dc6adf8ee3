//! Decides which behaviour applies now, and keeps what rules count: open connections, messages in
//! a window, first attempts. It is shared by all executors of a sink, so that a limit is one limit;
//! a sink without rules never comes here.

use core::net::IpAddr;
use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use super::behaviour::Behaviours;
use super::behaviour::Condition;
use super::behaviour::Rule;
use super::behaviour::RuleIndex;
use super::behaviour::Stage;
use crate::base::map::Map;
use crate::base::prng::Prng;

/// First attempts that one greylist remembers; beyond, an arbitrary old one is forgotten and its
/// sender has to begin again.
pub const GREYLIST_ENTRIES_MAX: usize = 200_000;

/// Octets of a domain that are looked at (RFC 5321 section 4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;

/// The domain of `address` in lower case, in the room of `name`; empty if there is none.
pub fn domain_of<'a>(address: &[u8], name: &'a mut [u8; DOMAIN_BYTES_MAX]) -> &'a [u8] {
    let domain = memchr::memrchr(b'@', address).map_or(&[][..], |at| &address[at + 1..]);
    let length = domain.len().min(DOMAIN_BYTES_MAX);
    let name = &mut name[..length];
    name.copy_from_slice(&domain[..length]);
    name.make_ascii_lowercase();
    name
}

/// What is being asked about.
pub struct Asked<'a> {
    pub stage: Stage,
    /// Microseconds since the sink began.
    pub now_us: u64,
    pub listener: SocketAddr,
    pub peer: IpAddr,
    pub sender: &'a [u8],
    pub recipients: &'a [u8],
    pub recipient_ends: &'a [usize],
    /// The first recipient whose domain counts.
    pub first: usize,
}

impl Asked<'_> {
    fn recipient(&self, index: usize) -> &[u8] {
        let start = index
            .checked_sub(1)
            .map_or(0, |before| self.recipient_ends[before]);
        &self.recipients[start..self.recipient_ends[index]]
    }
}

/// The outcome: which rule answers, and what else the rules that held ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    pub rule: Option<RuleIndex>,
    pub delay: Option<Duration>,
    pub read_rate: Option<u64>,
    pub reply_rate: Option<u64>,
}

/// What one rule has counted.
#[derive(Debug, Default)]
struct Counted {
    connections: u64,
    window_began_us: u64,
    in_window: u64,
    first_attempts: Map<Box<[u8]>, u64>,
}

/// The counting part of a sink's rules.
#[derive(Debug)]
pub struct Judge {
    counted: Vec<Mutex<Counted>>,
}

impl Judge {
    pub fn new(behaviours: &Behaviours) -> Judge {
        Judge {
            counted: (0..behaviours.len()).map(|_| Mutex::default()).collect(),
        }
    }

    /// Tries the rules of the listener, then those of the recipients' domains. `slots` are the
    /// rules that already count this connection; it grows.
    pub fn judge(
        &self,
        behaviours: &Behaviours,
        asked: &Asked<'_>,
        slots: &mut Vec<RuleIndex>,
        prng: &mut Prng,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        for index in candidates(behaviours, asked) {
            let rule = behaviours.rule(index);
            if !self.holds(index, rule, asked, slots) || !prng.chance(rule.chance_ppm, 1_000_000) {
                continue;
            }
            if let Some((low, high)) = rule.delay {
                let drawn = prng.between(low.as_micros() as u64, high.as_micros() as u64);
                let before = verdict.delay.unwrap_or_default();
                verdict.delay = Some(before.saturating_add(Duration::from_micros(drawn)));
            }
            verdict.read_rate = rule.read_rate.or(verdict.read_rate);
            verdict.reply_rate = rule.reply_rate.or(verdict.reply_rate);
            if rule.answer.is_some() {
                verdict.rule = Some(index);
                break;
            }
        }
        verdict
    }

    /// A connection that `rule` counted has ended.
    pub fn leave(&self, rule: RuleIndex) {
        let mut counted = self.counted(rule);
        counted.connections = counted.connections.saturating_sub(1);
    }

    fn counted(&self, rule: RuleIndex) -> MutexGuard<'_, Counted> {
        // Counts are whole after every statement, so a panic elsewhere leaves them usable.
        self.counted[rule]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(
        &self,
        index: RuleIndex,
        rule: &Rule,
        asked: &Asked<'_>,
        slots: &mut Vec<RuleIndex>,
    ) -> bool {
        match rule.condition {
            Condition::Always => true,
            Condition::Connections(max) => {
                if slots.contains(&index) {
                    return false;
                }
                let mut counted = self.counted(index);
                if counted.connections >= max {
                    return true;
                }
                counted.connections += 1;
                slots.push(index);
                false
            }
            Condition::Rate { count, window } => {
                let window_us = window.as_micros() as u64;
                let mut counted = self.counted(index);
                if asked.now_us.saturating_sub(counted.window_began_us) >= window_us {
                    counted.window_began_us = asked.now_us - asked.now_us % window_us;
                    counted.in_window = 0;
                }
                counted.in_window += 1;
                counted.in_window > count
            }
            Condition::Greylist(wait) => self.too_early(index, wait, asked),
        }
    }

    fn too_early(&self, index: RuleIndex, wait: Duration, asked: &Asked<'_>) -> bool {
        let Some(last) = asked.recipient_ends.len().checked_sub(1) else {
            return false;
        };
        let mut key = asked.peer.to_string().into_bytes();
        for part in [asked.sender, asked.recipient(last)] {
            key.push(0);
            key.extend_from_slice(part);
        }
        let mut counted = self.counted(index);
        if let Some(first_us) = counted.first_attempts.get(&key[..]) {
            return asked.now_us.saturating_sub(*first_us) < wait.as_micros() as u64;
        }
        if counted.first_attempts.len() == GREYLIST_ENTRIES_MAX {
            counted.first_attempts.swap_remove_index(0);
        }
        counted
            .first_attempts
            .insert(key.into_boxed_slice(), asked.now_us);
        true
    }
}

/// The rules of this stage in the order in which they are tried, each once.
fn candidates(behaviours: &Behaviours, asked: &Asked<'_>) -> Vec<RuleIndex> {
    let mut found: Vec<RuleIndex> = Vec::new();
    let mut add = |index: RuleIndex| {
        if behaviours.rule(index).stage == asked.stage && !found.contains(&index) {
            found.push(index);
        }
    };
    behaviours.of_listener(asked.listener).for_each(&mut add);
    for index in asked.first..asked.recipient_ends.len() {
        let mut name = [0; DOMAIN_BYTES_MAX];
        let domain = domain_of(asked.recipient(index), &mut name);
        let domain = String::from_utf8_lossy(domain);
        behaviours
            .of_domain(&domain)
            .iter()
            .copied()
            .for_each(&mut add);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(judge: &Judge, table: &Behaviours, now_us: u64, slots: &mut Vec<RuleIndex>) -> Verdict {
        let asked = Asked {
            stage: Stage::Rcpt,
            now_us,
            listener: "127.0.0.1:25".parse().expect("an address"),
            peer: IpAddr::from([127, 0, 0, 1]),
            sender: b"s@x.example",
            recipients: b"r@A.Example",
            recipient_ends: &[11],
            first: 0,
        };
        judge.judge(table, &asked, slots, &mut Prng::new(1))
    }

    fn table(text: &str) -> (Judge, Behaviours) {
        let table = Behaviours::parse(text).expect("good rules");
        (Judge::new(&table), table)
    }

    #[test]
    fn a_window_takes_its_count_and_opens_again() {
        let (judge, table) = table("domain a.example rate=2/1s");
        let at = |now_us| ask(&judge, &table, now_us, &mut Vec::new()).rule.is_some();
        assert_eq!(
            [at(0), at(1), at(2), at(999_999)],
            [false, false, true, true]
        );
        assert_eq!(
            [at(1_000_000), at(1_000_001), at(1_999_999)],
            [false, false, true]
        );
    }

    #[test]
    fn a_greylist_lets_the_same_triple_in_after_its_wait() {
        let (judge, table) = table("domain *.example greylist=1s");
        let at = |now_us| ask(&judge, &table, now_us, &mut Vec::new()).rule.is_some();
        assert_eq!([at(0), at(999_999), at(1_000_000)], [true, true, false]);
    }

    #[test]
    fn a_connection_counts_once_and_its_place_is_given_back() {
        let (judge, table) = table("domain a.example connections=1");
        let (mut first, mut second) = (Vec::new(), Vec::new());
        assert_eq!(ask(&judge, &table, 0, &mut first).rule, None);
        assert_eq!(ask(&judge, &table, 0, &mut first).rule, None);
        assert_eq!(ask(&judge, &table, 0, &mut second).rule, Some(0));
        judge.leave(first[0]);
        assert_eq!(ask(&judge, &table, 0, &mut second).rule, None);
    }

    #[test]
    fn the_first_rule_that_answers_wins_and_delays_add_up() {
        let (judge, table) = table(
            "domain a.example delay=1s\ndomain a.example delay=2s reply=\"450 a\"\n\
             domain a.example reply=\"550 b\"\nlistener * at=rcpt read_rate=7\n",
        );
        let verdict = ask(&judge, &table, 0, &mut Vec::new());
        assert_eq!(verdict.rule, Some(1));
        assert_eq!(verdict.delay, Some(Duration::from_secs(3)));
        assert_eq!(verdict.read_rate, Some(7));
    }

    #[test]
    fn chance_zero_never_holds_and_chance_one_always_does() {
        let (judge, table) = table("domain a.example reply=\"450 a\" chance=0");
        assert_eq!(ask(&judge, &table, 0, &mut Vec::new()).rule, None);
        let (judge, table) = self::table("domain a.example reply=\"450 a\" chance=1");
        assert_eq!(ask(&judge, &table, 0, &mut Vec::new()).rule, Some(0));
    }
}
