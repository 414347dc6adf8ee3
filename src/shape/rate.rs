//! How fast mail may be sent to a receiver whose limit is not known.
//!
//! Nothing is limited before there is trouble. Then nothing is sent for a moment, one message finds
//! out whether the trouble is over, and if it is not the next moment is longer. When it is, the
//! pauses and what was taken between them tell how much the receiver takes in how much time: that
//! is the new rate. From there the rate grows: fast up to a little below where trouble began, then
//! after some quiet time in steps beyond it, which become larger as long as none of them meets
//! trouble. A step that does costs one message or a few, and the next one waits longer.
//!
//! Answers to messages that began before the rate was lowered lower it no further.

use core::time::Duration;

use crate::base::throttle::Rate;
use crate::base::time::Mono;

/// The first pause. Receivers count by the second at least.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause, unless the least rate asks for a message more often.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// How long the answer to a probe may take before another one is sent.
const PROBE_PATIENCE: Duration = Duration::from_secs(900);

/// What comes from trouble this short is a rate that is too high by very little.
const MARGINAL: Duration = Duration::from_secs(3);

/// What an estimate is lowered by, since it is none from below.
const CAUTION: f64 = 0.97;

/// Of the rate at which trouble was marginal.
const MARGINAL_BACK: f64 = 0.92;

/// Of the rate at which it was not, when the time before it tells nothing.
const BACK: f64 = 0.5;

/// A cycle of sending and trouble tells a rate if the trouble is at least this part of it.
const CYCLE_PARTS: f64 = 8.0;

/// Messages that an estimate rests on at least.
const ESTIMATE_MIN: u64 = 10;

/// Growth by a round while no limit has been met from below.
const SEARCH: f64 = 1.15;

/// The first step beyond the last known limit, and the largest.
const STEP: f64 = 0.02;
const STEP_MAX: f64 = 0.25;

/// Messages that have gone well before such a step: one in a hundred may be deferred for it.
const STEP_MESSAGES: u64 = 200;

/// Messages of a round, so that a low rate is not raised for one that happened to go well.
const ROUND_MESSAGES: u64 = 4;

/// A round in which less than this part of the rate was used says nothing about it.
const USED: f64 = 0.6;

/// Messages that may begin together are those of so much time.
const BURST_S: f64 = 0.05;

/// Of a rate that nothing is known of when trouble begins, a second.
const RATE_UNKNOWN: f64 = 1.0;

/// A stretch in which what is sent without a limit is counted.
const STRETCH: Duration = Duration::from_secs(5);

/// Bounds and times of the law.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Law {
    /// Messages a second.
    pub min: f64,
    /// The most; nothing: no limit.
    pub max: Option<f64>,
    /// The longest round on the way back.
    pub round_max: Duration,
    /// In which a limit that was lifted is found.
    pub probing: Duration,
}

impl Law {
    fn clamp(&self, rate: f64) -> f64 {
        rate.min(self.max.unwrap_or(f64::MAX)).max(self.min)
    }

    fn pause_max(&self) -> Duration {
        let asked = Duration::from_secs_f64((1.0 / self.min).clamp(1.0, 1e9));
        asked.clamp(PAUSE_MIN, PAUSE_MAX)
    }

    fn wait_min(&self) -> Duration {
        self.probing / 8
    }

    fn wait_max(&self) -> Duration {
        self.probing / 2
    }
}

/// What may be done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// As the rate says.
    Open,
    /// One message, to find out.
    One,
    /// Nothing before this moment.
    Until(Mono),
    /// Nothing before the probe is answered.
    Answer(Mono),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    Free,
    /// Trouble since a moment; nothing is sent until another.
    Held {
        since: Mono,
        until: Mono,
    },
    /// One message is sent, or to be sent.
    Probing {
        since: Mono,
        sent: Option<Mono>,
    },
}

/// The rate of one queue.
#[derive(Clone, PartialEq, Debug)]
pub struct RateControl {
    /// Messages a second; nothing before the first trouble.
    rate: Option<f64>,
    /// Where trouble began, about; nothing while it has not been met from below.
    ceiling: Option<f64>,
    phase: Phase,
    /// What began before this has nothing to say about the present rate.
    settled: Mono,
    /// The time since trouble was last over, and what was taken in it.
    cycle: Stretch,
    /// The present round.
    round: Stretch,
    /// Of the last stretches without a limit.
    stretches: [Stretch; 2],
    /// The longest trouble lately: about the time in which the receiver counts.
    span: Duration,
    /// Steps beyond the ceiling in a row.
    steps: u32,
    /// Quiet time before the next of them.
    wait: Duration,
    /// The rate and the pause of the present trouble.
    before: f64,
    pause: Duration,
    /// Nothing was wrong with the rate: a message only finds out whether there may be any.
    asks: bool,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Stretch {
    from: Mono,
    count: u64,
}

impl Stretch {
    fn begin(now: Mono) -> Stretch {
        Stretch {
            from: now,
            count: 0,
        }
    }

    fn rate(self, now: Mono) -> f64 {
        self.count as f64 / now.since(self.from).as_secs_f64().max(0.001)
    }
}

/// What of a rate outlives the process.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct SavedRate {
    pub rate: f64,
    pub ceiling: Option<f64>,
    pub span_s: f64,
    pub wait_s: f64,
}

impl RateControl {
    pub fn new(now: Mono) -> RateControl {
        RateControl {
            rate: None,
            ceiling: None,
            phase: Phase::Free,
            settled: now,
            cycle: Stretch::begin(now),
            round: Stretch::begin(now),
            stretches: [Stretch::begin(now); 2],
            span: Duration::ZERO,
            steps: 0,
            wait: Duration::ZERO,
            before: 0.0,
            pause: PAUSE_MIN,
            asks: false,
        }
    }

    /// As it was, with nothing on the wire.
    pub fn restored(now: Mono, saved: SavedRate) -> RateControl {
        let time = |seconds: f64| Duration::from_secs_f64(seconds.clamp(0.0, 1e8));
        let sane = |rate: f64| rate.is_finite() && rate > 0.0;
        RateControl {
            rate: Some(saved.rate).filter(|it| sane(*it)),
            ceiling: saved.ceiling.filter(|it| sane(*it)),
            span: time(saved.span_s),
            wait: time(saved.wait_s),
            ..RateControl::new(now)
        }
    }

    pub fn saved(&self) -> Option<SavedRate> {
        Some(SavedRate {
            rate: self.rate?,
            ceiling: self.ceiling,
            span_s: self.span.as_secs_f64(),
            wait_s: self.wait.as_secs_f64(),
        })
    }

    /// Messages a second; nothing: no limit.
    pub fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// The same as a rate of messages and time.
    pub fn as_throttle(&self) -> Option<Rate> {
        self.rate.map(as_throttle)
    }

    pub fn ceiling(&self) -> Option<f64> {
        self.ceiling
    }

    /// Since when there is trouble.
    pub fn trouble_since(&self) -> Option<Mono> {
        match self.phase {
            Phase::Free => None,
            Phase::Held { since, .. } | Phase::Probing { since, .. } => Some(since),
        }
    }

    pub fn gate(&self, now: Mono) -> Gate {
        match self.phase {
            Phase::Free => Gate::Open,
            Phase::Held { until, .. } if now < until => Gate::Until(until),
            Phase::Held { .. } | Phase::Probing { sent: None, .. } => Gate::One,
            Phase::Probing {
                sent: Some(sent), ..
            } => match sent + PROBE_PATIENCE {
                late if now >= late => Gate::One,
                late => Gate::Answer(late),
            },
        }
    }

    /// A message begins.
    pub fn started(&mut self, now: Mono) {
        let since = match self.phase {
            Phase::Free => return,
            Phase::Held { since, .. } | Phase::Probing { since, .. } => since,
        };
        self.phase = Phase::Probing {
            since,
            sent: Some(now),
        };
    }

    /// The receiver asks for less, in answer to what began then. True if that is news.
    pub fn troubled(&mut self, now: Mono, begun: Mono, law: &Law) -> bool {
        match self.phase {
            Phase::Free if begun >= self.settled => {
                self.before = self.rate.unwrap_or_else(|| self.recent(now));
                self.rate = Some(law.clamp(self.before * BACK));
                self.hold(now, now, PAUSE_MIN);
                true
            }
            Phase::Probing {
                since,
                sent: Some(sent),
            } if begun >= sent => {
                self.longer(now, since, law);
                false
            }
            // Not even a connection was given to the probe.
            Phase::Held { since, until } if begun >= until => {
                self.longer(now, since, law);
                false
            }
            _ => false,
        }
    }

    /// What was to find out has not left: another message may.
    pub fn unsent(&mut self, now: Mono) {
        if let Phase::Probing { since, .. } = self.phase {
            self.hold(now, since, Duration::ZERO);
        }
    }

    /// After a time without any mail one message finds out whether there may be more.
    pub fn ask_first(&mut self, now: Mono) {
        self.before = self.rate.unwrap_or(RATE_UNKNOWN);
        self.cycle = Stretch::begin(now);
        self.asks = true;
        self.hold(now, now, Duration::ZERO);
    }

    /// The probe came to nothing that tells of rates.
    pub fn unanswered(&mut self, now: Mono, begun: Mono, law: &Law) {
        if let Phase::Probing {
            since,
            sent: Some(sent),
        } = self.phase
            && begun >= sent
        {
            self.longer(now, since, law);
        }
    }

    fn longer(&mut self, now: Mono, since: Mono, law: &Law) {
        self.asks = false;
        // Half as long as the trouble has lasted: a third of what it comes to is lost at most.
        let pause = (now.since(since) / 2).max(PAUSE_MIN).min(law.pause_max());
        self.hold(now, since, pause);
    }

    fn hold(&mut self, now: Mono, since: Mono, pause: Duration) {
        self.pause = pause;
        self.phase = Phase::Held {
            since,
            until: now + pause,
        };
    }

    /// Lowers the rate by half for reasons that are no answer, such as failures among many.
    pub fn lower(&mut self, now: Mono, law: &Law) {
        let before = self.rate.unwrap_or_else(|| self.recent(now));
        self.rate = Some(law.clamp(before * BACK));
        self.ceiling = self.rate;
        self.steps = 0;
        self.wait = law.wait_max();
        self.begin(now);
    }

    /// A rate that an operator sets.
    pub fn force(&mut self, now: Mono, rate: Option<f64>) {
        self.rate = rate;
        self.ceiling = rate;
        self.phase = Phase::Free;
        self.begin(now);
    }

    /// The receiver has taken a message, or has refused it for reasons of the message, that began
    /// then. True if the rate has changed.
    pub fn taken(&mut self, now: Mono, begun: Mono, law: &Law) -> bool {
        self.cycle.count += 1;
        match self.phase {
            Phase::Free if self.rate.is_some() => {
                self.round.count += 1;
                self.grow(now, law)
            }
            Phase::Free => {
                self.count(now);
                false
            }
            Phase::Probing {
                since,
                sent: Some(sent),
            } if begun >= sent => {
                self.resume(now, since, law);
                true
            }
            _ => false,
        }
    }

    /// Counts what is sent without a limit.
    fn count(&mut self, now: Mono) {
        let [last, present] = self.stretches;
        let age = now.since(present.from);
        if age >= 2 * STRETCH {
            // Idle for a while: what was before says nothing.
            self.stretches = [Stretch::begin(now); 2];
            self.cycle = Stretch::begin(now);
        } else if age >= STRETCH {
            self.stretches = [present, Stretch::begin(now)];
        } else {
            self.stretches = [last, present];
        }
        self.stretches[1].count += 1;
    }

    /// The rate of the last seconds.
    fn recent(&self, now: Mono) -> f64 {
        let [last, present] = self.stretches;
        let all = Stretch {
            from: last.from,
            count: last.count + present.count,
        };
        match last.from == present.from {
            true => present.rate(now).max(1.0 / STRETCH.as_secs_f64()),
            false => all.rate(now).max(1.0 / STRETCH.as_secs_f64()),
        }
    }

    /// The trouble is over.
    fn resume(&mut self, now: Mono, since: Mono, law: &Law) {
        if core::mem::take(&mut self.asks) {
            self.phase = Phase::Free;
            return self.begin(now);
        }
        let trouble = now.since(since);
        let whole = now.since(self.cycle.from).as_secs_f64();
        let count = self.cycle.count;
        let was_searching = self.ceiling.is_none();
        let was_beyond = self.steps > 0;
        let marginal = trouble <= MARGINAL.max(self.span / 8);
        let tells = whole <= CYCLE_PARTS * trouble.as_secs_f64() && count >= ESTIMATE_MIN;
        let known = self.span > Duration::ZERO;
        let (rate, ceiling) = if marginal && known {
            (self.before * MARGINAL_BACK, Some(self.before * 0.98))
        } else if tells {
            let estimate = count as f64 / whole;
            // The trouble was over some time in the last pause.
            let upper = count as f64 / (whole - self.pause.as_secs_f64()).max(0.001);
            let ceiling = upper.min(self.before);
            let searched = known || !was_searching;
            (estimate * CAUTION, searched.then_some(ceiling))
        } else {
            let rate = self.before * BACK;
            (rate, known.then_some(rate * 1.08))
        };
        self.span = trouble.max(self.span.mul_f64(0.9));
        self.rate = Some(law.clamp(rate.min(self.before * 0.98)));
        self.ceiling = ceiling.map(|it| law.clamp(it));
        self.wait = match was_beyond {
            true => (self.wait * 2).clamp(law.wait_min(), law.wait_max()),
            false => self.wait.clamp(law.wait_min(), law.wait_max()),
        };
        self.steps = 0;
        self.phase = Phase::Free;
        self.begin(now);
    }

    fn begin(&mut self, now: Mono) {
        self.settled = now;
        self.cycle = Stretch::begin(now);
        self.round = Stretch::begin(now);
    }

    /// One step up, if a round has gone well that used the rate.
    fn grow(&mut self, now: Mono, law: &Law) -> bool {
        let Some(rate) = self.rate else {
            return false;
        };
        let beyond = self.ceiling.is_some_and(|it| rate >= it * 0.995);
        // Steps too large for whoever counts by the hour are felt much later.
        let (longest, least) = match beyond {
            true => (law.probing / 30, (self.span / 4).min(law.probing / 8)),
            false => (law.round_max, Duration::ZERO),
        };
        let length = (self.span * 2).max(PAUSE_MIN * 2).min(longest).max(least);
        if now.since(self.round.from) < length || self.round.count < ROUND_MESSAGES {
            return false;
        }
        let used = self.round.rate(now) >= rate * USED;
        self.round = Stretch::begin(now);
        if !used || law.max.is_some_and(|max| rate >= max) {
            return false;
        }
        let next = match self.ceiling {
            None => rate * SEARCH,
            Some(ceiling) if !beyond => (rate + (ceiling - rate) / 2.0).max(ceiling * 0.02 + rate),
            Some(_) => match self.beyond(now, rate) {
                Some(next) => next,
                None => return false,
            },
        };
        let next = match self.ceiling {
            Some(ceiling) if !beyond => next.min(ceiling),
            _ => next,
        };
        self.rate = Some(law.clamp(next));
        self.rate != Some(rate)
    }

    /// The next step beyond the last known limit, when it is time.
    fn beyond(&mut self, now: Mono, rate: f64) -> Option<f64> {
        let quiet = now.since(self.cycle.from) >= self.wait;
        let paid = self.cycle.count >= STEP_MESSAGES;
        if self.steps == 0 && !(quiet && paid) {
            return None;
        }
        if self.steps >= 3 {
            // The limit is another one: what was known of it is of no more use.
            self.ceiling = Some(rate);
            self.wait = Duration::ZERO;
        }
        let step = STEP * f64::from(1_u32 << self.steps.min(8));
        self.steps += 1;
        Some(rate * (1.0 + step.min(STEP_MAX)))
    }
}

/// So many messages in so short a time that a receiver who counts by the second sees no burst.
pub fn as_throttle(rate: f64) -> Rate {
    let count = (rate * BURST_S).round().clamp(1.0, 1_000_000.0);
    let window = (count / rate).clamp(0.000_1, 31_536_000.0);
    Rate {
        count: count as u32,
        window: Duration::from_secs_f64(window),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAW: Law = Law {
        min: 1.0 / 3_600.0,
        max: None,
        round_max: Duration::from_secs(60),
        probing: Duration::from_secs(3_600),
    };

    /// How a receiver counts.
    #[derive(Clone, Copy)]
    enum Counts {
        /// In any so many seconds.
        Sliding,
        /// From one boundary to the next.
        Fixed,
    }

    struct Receiver {
        counts: Counts,
        max: f64,
        window: f64,
        taken: std::collections::VecDeque<f64>,
        boundary: f64,
        in_window: f64,
    }

    impl Receiver {
        fn new(counts: Counts, max: f64, window: f64) -> Receiver {
            Receiver {
                counts,
                max,
                window,
                taken: Default::default(),
                boundary: 0.0,
                in_window: 0.0,
            }
        }

        fn takes(&mut self, at: f64) -> bool {
            match self.counts {
                Counts::Sliding => {
                    while self.taken.front().is_some_and(|it| it + self.window <= at) {
                        self.taken.pop_front();
                    }
                    let takes = (self.taken.len() as f64) < self.max;
                    if takes {
                        self.taken.push_back(at);
                    }
                    takes
                }
                Counts::Fixed => {
                    let boundary = (at / self.window).floor();
                    if boundary != self.boundary {
                        (self.boundary, self.in_window) = (boundary, 0.0);
                    }
                    self.in_window += 1.0;
                    self.in_window <= self.max
                }
            }
        }
    }

    /// A sender with more mail than can go, on some connections, each of which takes 0.1 s for a
    /// message.
    struct Sender {
        control: RateControl,
        now: f64,
        next_start: f64,
        busy: std::collections::VecDeque<(f64, f64)>,
        taken: u64,
        deferred: u64,
    }

    fn mono(seconds: f64) -> Mono {
        Mono(1_000_000_000 + (seconds * 1e6) as u64)
    }

    impl Sender {
        const CONNECTIONS: usize = 20;
        const LATENCY: f64 = 0.1;

        fn new() -> Sender {
            Sender {
                control: RateControl::new(mono(0.0)),
                now: 0.0,
                next_start: 0.0,
                busy: Default::default(),
                taken: 0,
                deferred: 0,
            }
        }

        fn run(&mut self, until: f64, receiver: &mut Receiver) {
            (self.taken, self.deferred) = (0, 0);
            while self.now < until {
                self.answers(receiver);
                let now = mono(self.now);
                let mut next = self.busy.front().map_or(f64::MAX, |it| it.1);
                if self.busy.len() < Self::CONNECTIONS {
                    match self.control.gate(now) {
                        Gate::Open | Gate::One if self.next_start <= self.now => {
                            self.start(now);
                            continue;
                        }
                        Gate::Open | Gate::One => next = next.min(self.next_start),
                        Gate::Until(at) | Gate::Answer(at) => {
                            next = next.min((at.0 - 1_000_000_000) as f64 / 1e6 + 1e-6);
                        }
                    }
                }
                self.now = next.max(self.now + 1e-6);
            }
        }

        fn start(&mut self, now: Mono) {
            self.control.started(now);
            self.busy.push_back((self.now, self.now + Self::LATENCY));
            if let Some(rate) = self.control.rate() {
                self.next_start = self.now + 1.0 / rate;
            }
        }

        fn answers(&mut self, receiver: &mut Receiver) {
            while let Some((begun, at)) = self.busy.front().copied().filter(|it| it.1 <= self.now) {
                self.busy.pop_front();
                let (now, begun) = (mono(at), mono(begun));
                if receiver.takes(at) {
                    self.taken += 1;
                    self.control.taken(now, begun, &LAW);
                } else {
                    self.deferred += 1;
                    self.control.troubled(now, begun, &LAW);
                }
            }
        }
    }

    /// The part of a limit that is used, and the part of attempts that are deferred.
    fn measured(sender: &Sender, seconds: f64, rate: f64) -> (f64, f64) {
        let all = (sender.taken + sender.deferred) as f64;
        let used = sender.taken as f64 / (seconds * rate);
        (used, sender.deferred as f64 / all)
    }

    #[test]
    fn a_hidden_limit_of_any_window_is_used_and_seldom_passed() {
        for counts in [Counts::Sliding, Counts::Fixed] {
            for (max, window) in [
                (10.0, 1.0),
                (50.0, 1.0),
                (100.0, 10.0),
                (60.0, 60.0),
                (600.0, 60.0),
                (3_000.0, 600.0),
                (3_600.0, 3_600.0),
                (36_000.0, 3_600.0),
            ] {
                let rate = max / window;
                let mut receiver = Receiver::new(counts, max, window);
                let mut sender = Sender::new();
                let converged = (window * 4.0).max(1_800.0);
                sender.run(converged, &mut receiver);
                let length = (window * 10.0).max(7_200.0);
                sender.run(converged + length, &mut receiver);
                let (used, deferred) = measured(&sender, length, rate);
                check_goals((counts, max, window), used, deferred);
            }
        }
    }

    /// What is to be reached against a receiver that counts so, so many in a window.
    fn check_goals((counts, max, window): (Counts, f64, f64), used: f64, deferred: f64) {
        let fixed = matches!(counts, Counts::Fixed);
        let text = format!("{max}/{window} fixed {fixed}: {used:.3} used, {deferred:.4} deferred");
        println!("{text}");
        assert!(used >= 0.9 && deferred <= 0.01, "{text}");
    }

    #[test]
    fn a_limit_that_is_halved_is_found_within_two_minutes() {
        for counts in [Counts::Sliding, Counts::Fixed] {
            for (max, window) in [(10.0, 1.0), (50.0, 1.0), (100.0, 10.0), (600.0, 60.0)] {
                let mut receiver = Receiver::new(counts, max, window);
                let mut sender = Sender::new();
                sender.run(3_600.0, &mut receiver);
                receiver.max /= 2.0;
                sender.run(3_720.0, &mut receiver);
                sender.run(4_320.0, &mut receiver);
                let (used, deferred) = measured(&sender, 600.0, max / window / 2.0);
                check_goals((counts, max, window), used, deferred);
            }
        }
    }

    #[test]
    fn a_limit_that_is_lifted_is_used_within_the_probing_time() {
        for (max, window, lifted) in [(10.0, 1.0, 4.0), (600.0, 60.0, 3.0), (100.0, 10.0, 8.0)] {
            let mut receiver = Receiver::new(Counts::Sliding, max, window);
            let mut sender = Sender::new();
            sender.run(7_200.0, &mut receiver);
            receiver.max *= lifted;
            sender.run(10_800.0, &mut receiver);
            sender.run(11_400.0, &mut receiver);
            let (used, deferred) = measured(&sender, 600.0, max * lifted / window);
            println!("{max}/{window} times {lifted}: {used:.3} used, {deferred:.4} deferred");
            assert!(used >= 0.9, "{max}/{window}: {used:.3} used");
        }
    }

    #[test]
    fn an_outage_is_asked_less_and_less_and_its_end_is_seen() {
        let mut receiver = Receiver::new(Counts::Sliding, 600.0, 60.0);
        let mut sender = Sender::new();
        sender.run(3_600.0, &mut receiver);
        receiver.max = 0.0;
        sender.run(3_600.0 + 7_200.0, &mut receiver);
        assert!(sender.deferred < 60, "{}", sender.deferred);
        receiver.max = 600.0;
        sender.run(10_800.0 + 7_200.0, &mut receiver);
        sender.run(10_800.0 + 14_400.0, &mut receiver);
        let (used, _) = measured(&sender, 7_200.0, 10.0);
        assert!(used > 0.85, "{used}");
    }

    #[test]
    fn answers_to_what_was_on_the_wire_lower_nothing_twice() {
        let mut control = RateControl::new(mono(0.0));
        control.force(mono(0.0), Some(100.0));
        assert!(control.troubled(mono(10.0), mono(9.0), &LAW));
        for _ in 0..50 {
            assert!(!control.troubled(mono(10.1), mono(9.9), &LAW));
        }
        assert_eq!(control.rate(), Some(50.0));
        assert_eq!(control.gate(mono(10.5)), Gate::Until(mono(11.0)));
        assert_eq!(control.gate(mono(11.0)), Gate::One);
        control.started(mono(11.0));
        assert!(matches!(control.gate(mono(11.1)), Gate::Answer(_)));
        // What began before the probe says nothing about it.
        assert!(!control.taken(mono(11.1), mono(9.9), &LAW));
        assert!(control.taken(mono(11.2), mono(11.0), &LAW));
        assert_eq!(control.gate(mono(11.2)), Gate::Open);
        assert!(!control.troubled(mono(11.3), mono(9.9), &LAW));
        assert!(control.rate().is_some_and(|it| (50.0..100.0).contains(&it)));
    }

    #[test]
    fn after_a_suspension_one_message_finds_out_and_the_rate_is_as_it_was() {
        for rate in [None, Some(40.0)] {
            let mut control = RateControl::new(mono(0.0));
            control.force(mono(0.0), rate);
            control.ask_first(mono(100.0));
            assert_eq!(control.gate(mono(100.0)), Gate::One);
            control.started(mono(100.0));
            assert!(matches!(control.gate(mono(100.1)), Gate::Answer(_)));
            control.taken(mono(100.2), mono(100.0), &LAW);
            assert_eq!(control.gate(mono(100.2)), Gate::Open);
            assert_eq!(control.rate(), rate);
        }
    }

    #[test]
    fn limits_stay_within_their_range() {
        let law = Law {
            min: 5.0,
            max: Some(20.0),
            ..LAW
        };
        let mut control = RateControl::new(mono(0.0));
        control.force(mono(0.0), Some(8.0));
        control.lower(mono(1.0), &law);
        assert_eq!(control.rate(), Some(5.0));
        control.lower(mono(2.0), &law);
        assert_eq!(control.rate(), Some(5.0));
        let mut at = 2.0;
        for _ in 0..2_000_000 {
            at += 1.0 / control.rate().expect("limited");
            control.taken(mono(at), mono(at), &law);
        }
        assert_eq!(control.rate(), Some(20.0));
    }
}
