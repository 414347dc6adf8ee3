//! The receivers, and what they have seen: who may connect, which message is taken, and why not.
//! Limits hold for each sending address; windows are exact, to the microsecond.

use core::net::IpAddr;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::map::Map;
use crate::base::prng::Prng;
use crate::base::prng::hash_bytes;
use crate::base::throttle::Rate;
use crate::practice::SECOND;
use crate::practice::load;
use crate::practice::scenario::Provider;
use crate::practice::scenario::Scenario;
use crate::practice::standing::Standing;
use crate::practice::words::Cause;

/// The account is kept in spans of so much time.
pub const BUCKET_US: u64 = 10 * SECOND;

/// First attempts that a greylist remembers; when there are more, it begins anew.
const GREYLIST_MAX: usize = 1_000_000;

/// Sending addresses that a receiver remembers. Others are unknown to it at every connection.
const SENDERS_MAX: usize = 10_000;

/// What happened in one span.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    pub arrived: u32,
    pub delivered: u32,
    /// Messages that somebody tried to deliver.
    pub attempts: u32,
    /// Refused, messages and connections, because too much came.
    pub over: u32,
    /// Of those, messages.
    pub over_messages: u32,
}

/// What one receiver has seen.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Account {
    pub delivered: u64,
    pub attempts: u64,
    /// Messages refused, or connections where the cause is one of connections, by [`Cause`].
    pub refused: [u64; Cause::ALL.len()],
    pub connections: u64,
    /// Connections that nobody answered.
    pub unreachable: u64,
    pub buckets: Vec<Bucket>,
    /// Addresses that were kept out for abuse: from when to when.
    pub kept_out: Vec<(IpAddr, u64, u64)>,
}

impl Account {
    pub fn refusals(&self, cause: Cause) -> u64 {
        self.refused[cause as usize]
    }

    /// Messages refused because too much came.
    pub fn over_sending(&self) -> u64 {
        [Cause::Rate, Cause::Volume, Cause::Session]
            .map(|cause| self.refusals(cause))
            .iter()
            .sum()
    }
}

/// A no, in the receiver's words. One that begins with 421 ends the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal<'a> {
    pub cause: Cause,
    pub reply: &'a str,
}

impl Refusal<'_> {
    pub fn ends(&self) -> bool {
        self.reply.starts_with("421")
    }
}

/// A message that somebody wants to deliver.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    pub source: IpAddr,
    pub sender: &'a [u8],
    pub recipient: &'a [u8],
    /// Taken before on this connection.
    pub before: u32,
}

/// Moments of starts, as far back as any window looks.
#[derive(Debug, Default)]
struct Starts {
    at_us: VecDeque<u64>,
    kept_max: usize,
}

impl Starts {
    fn new(kept_max: usize) -> Starts {
        Starts {
            at_us: VecDeque::new(),
            kept_max,
        }
    }

    /// Whether one more now keeps a rate: fewer than its count in the window that ends now.
    fn has_room(&self, rate: &Rate, now_us: u64) -> bool {
        let count = rate.count as usize;
        let window_us = rate.window.as_micros() as u64;
        match self.at_us.len().checked_sub(count) {
            None => true,
            Some(index) => self.at_us[index] + window_us <= now_us,
        }
    }

    fn add(&mut self, now_us: u64) {
        if self.kept_max == 0 {
            return;
        }
        if self.at_us.len() == self.kept_max {
            self.at_us.pop_front();
        }
        self.at_us.push_back(now_us);
    }
}

/// What a receiver knows of a sending address.
#[derive(Debug)]
struct Sender {
    binding: Option<usize>,
    connections: u32,
    taken: Starts,
    dialed: Starts,
    offences: Starts,
    standing: Standing,
    kept_out_until_us: u64,
}

impl Sender {
    fn new(provider: &Provider, binding: Option<usize>, reputation: u64) -> Sender {
        let limits = || provider.phases.iter().map(|it| &it.limits);
        let dialed = limits()
            .flat_map(|it| &it.connection_rates)
            .map(|it| it.count);
        let offences = limits()
            .filter_map(|it| it.abuse)
            .map(|it| it.refusals.count);
        Sender {
            binding,
            connections: 0,
            taken: Starts::new(provider.window_starts_max()),
            dialed: Starts::new(dialed.max().unwrap_or(0) as usize),
            offences: Starts::new(offences.max().unwrap_or(0) as usize),
            standing: Standing::new(reputation),
            kept_out_until_us: 0,
        }
    }
}

#[derive(Debug, Default)]
struct Receiver {
    senders: Map<IpAddr, Sender>,
    /// First attempts, by a hash of sending address, sender and mailbox.
    greylist: Map<u64, u64>,
    account: Account,
}

/// All receivers of a scenario.
#[derive(Debug)]
pub struct Internet {
    scenario: Arc<Scenario>,
    receivers: Vec<Receiver>,
    /// Who has which domain.
    domains: Map<String, usize>,
    prng: Prng,
}

impl Internet {
    pub fn new(scenario: Arc<Scenario>, seed: u64) -> Internet {
        let spans = scenario.duration_us.div_ceil(BUCKET_US) as usize;
        let receiver = |_: &Provider| Receiver {
            account: Account {
                buckets: vec![Bucket::default(); spans],
                ..Account::default()
            },
            ..Receiver::default()
        };
        Internet {
            receivers: scenario.providers.iter().map(receiver).collect(),
            domains: scenario.domains(),
            prng: Prng::stream(seed, "receivers"),
            scenario,
        }
    }

    pub fn scenario(&self) -> &Arc<Scenario> {
        &self.scenario
    }

    /// Who has the domain of an address.
    pub fn provider_of(&self, address: &[u8]) -> Option<usize> {
        let at = memchr::memrchr(b'@', address)?;
        let domain = core::str::from_utf8(&address[at + 1..]).ok()?;
        self.domains.get(&domain.to_ascii_lowercase()).copied()
    }

    pub fn account(&self, provider: usize) -> &Account {
        &self.receivers[provider].account
    }

    /// Mail for a provider has come into being.
    pub fn arrived(&mut self, provider: usize, now_us: u64) {
        if let Some(bucket) = self.receivers[provider].account.bucket(now_us) {
            bucket.arrived += 1;
        }
    }

    /// Whether somebody answers at all; a connection that nobody answers is noted.
    pub fn answers(&mut self, provider: usize, now_us: u64) -> bool {
        let is_out = self.scenario.providers[provider].is_out(now_us);
        self.receivers[provider].account.unreachable += u64::from(is_out);
        !is_out
    }

    /// A connection from an address. Who is let in has to leave.
    pub fn connect(
        &mut self,
        provider: usize,
        source: IpAddr,
        now_us: u64,
    ) -> Result<(), Refusal<'_>> {
        let scenario = &*self.scenario;
        let described = &scenario.providers[provider];
        let receiver = &mut self.receivers[provider];
        receiver.account.connections += 1;
        let sender = receiver.sender(scenario, described, source);
        let limits = described.limits(now_us);
        let cause = if sender.is_kept_out(described, now_us) {
            Some(Cause::Block)
        } else if limits
            .connections
            .is_some_and(|most| sender.connections >= most)
        {
            Some(Cause::Connections)
        } else {
            let full = |rate: &Rate| !sender.dialed.has_room(rate, now_us);
            let any_full = limits.connection_rates.iter().any(full);
            any_full.then_some(Cause::Connections)
        };
        match cause {
            Some(cause) => Err(receiver.refuse(described, source, cause, now_us)),
            None => {
                sender.dialed.add(now_us);
                sender.connections += 1;
                Ok(())
            }
        }
    }

    pub fn disconnect(&mut self, provider: usize, source: IpAddr) {
        if let Some(sender) = self.receivers[provider].senders.get_mut(&source) {
            sender.connections = sender.connections.saturating_sub(1);
        }
    }

    /// A recipient of a message. Who is let in counts in every window.
    pub fn recipient(
        &mut self,
        provider: usize,
        attempt: Attempt<'_>,
        now_us: u64,
    ) -> Result<(), Refusal<'_>> {
        let scenario = &*self.scenario;
        let described = &scenario.providers[provider];
        let receiver = &mut self.receivers[provider];
        receiver.account.attempts += 1;
        if let Some(bucket) = receiver.account.bucket(now_us) {
            bucket.attempts += 1;
        }
        let source = attempt.source;
        match receiver.judge(scenario, described, attempt, now_us) {
            Some(cause) => Err(receiver.refuse(described, source, cause, now_us)),
            None => {
                let sender = receiver.sender(scenario, described, source);
                sender.taken.add(now_us);
                sender.standing.accept();
                Ok(())
            }
        }
    }

    /// A message was taken whole. How long the receiver thinks about it, microseconds.
    pub fn deliver(&mut self, provider: usize, now_us: u64) -> u64 {
        let account = &mut self.receivers[provider].account;
        account.delivered += 1;
        if let Some(bucket) = account.bucket(now_us) {
            bucket.delivered += 1;
        }
        let (low, high) = self.scenario.providers[provider].limits(now_us).thinks_us;
        self.prng.between(low, high)
    }
}

impl Account {
    fn bucket(&mut self, now_us: u64) -> Option<&mut Bucket> {
        self.buckets.get_mut((now_us / BUCKET_US) as usize)
    }
}

impl Sender {
    fn is_kept_out(&self, provider: &Provider, now_us: u64) -> bool {
        now_us < self.kept_out_until_us || provider.blocked_until(self.binding, now_us).is_some()
    }
}

impl Receiver {
    fn sender(&mut self, scenario: &Scenario, of: &Provider, source: IpAddr) -> &mut Sender {
        if self.senders.len() >= SENDERS_MAX && !self.senders.contains_key(&source) {
            self.senders.clear();
        }
        self.senders.entry(source).or_insert_with(|| {
            let binding = scenario.binding_of(source);
            let reputation = binding.map_or(0, |it| scenario.bindings[it].reputation);
            Sender::new(of, binding, reputation)
        })
    }

    fn judge(
        &mut self,
        scenario: &Scenario,
        of: &Provider,
        attempt: Attempt<'_>,
        now_us: u64,
    ) -> Option<Cause> {
        let limits = of.limits(now_us);
        let sender = self.sender(scenario, of, attempt.source);
        if sender.is_kept_out(of, now_us) {
            return Some(Cause::Block);
        }
        let most = limits.messages_per_connection;
        if most.is_some_and(|most| attempt.before >= most) {
            return Some(Cause::Session);
        }
        let full = |rate: &Rate| !sender.taken.has_room(rate, now_us);
        if limits.rates.iter().any(full) {
            return Some(Cause::Rate);
        }
        if let Some(volume) = &limits.volume
            && !sender.standing.has_room(volume, now_us)
        {
            return Some(Cause::Volume);
        }
        let delay_us = limits.greylist_us?;
        let first_us = self.first_seen(&attempt, now_us);
        (now_us < first_us + delay_us).then_some(Cause::Greylist)
    }

    /// When this was first tried.
    fn first_seen(&mut self, attempt: &Attempt<'_>, now_us: u64) -> u64 {
        let (mailbox, domain) = load::mailbox_of(attempt.recipient);
        let source = match attempt.source {
            IpAddr::V4(address) => hash_bytes(&address.octets()),
            IpAddr::V6(address) => hash_bytes(&address.octets()),
        };
        let parts = [attempt.sender, mailbox, domain];
        let hash = parts.iter().fold(source, |hash, part| {
            hash.rotate_left(19).wrapping_mul(31) ^ hash_bytes(part)
        });
        if self.greylist.len() >= GREYLIST_MAX && !self.greylist.contains_key(&hash) {
            self.greylist.clear();
        }
        *self.greylist.entry(hash).or_insert(now_us)
    }

    fn refuse<'a>(
        &mut self,
        of: &'a Provider,
        source: IpAddr,
        cause: Cause,
        now_us: u64,
    ) -> Refusal<'a> {
        let account = &mut self.account;
        account.refused[cause as usize] += 1;
        if cause.is_over_sending() {
            if let Some(bucket) = account.bucket(now_us) {
                bucket.over += 1;
                bucket.over_messages += u32::from(cause != Cause::Connections);
            }
            if let Some(sender) = self.senders.get_mut(&source) {
                sender.standing.refuse();
                sender.offences.add(now_us);
                let abuse = of.limits(now_us).abuse;
                // The last of too many has just been added, and counts.
                let abuse = abuse.filter(|it| !sender.offences.has_room(&it.refusals, now_us));
                if let Some(abuse) = abuse {
                    sender.kept_out_until_us = now_us + abuse.lasts_us;
                    let span = (source, now_us, sender.kept_out_until_us);
                    account.kept_out.push(span);
                }
            }
        }
        let reply = of.words.of(cause);
        Refusal { cause, reply }
    }
}

#[cfg(test)]
mod tests;
