//! The values of adaptive delivery: rules over replies and over rates of failures, the ranges in
//! which limits move, and warm-up. How they are written, read and written back.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use crate::base::throttle::Rate;
use crate::base::time::Wall;
use crate::base::units;
use crate::base::warmup::STAGES_MAX;
use crate::types::outcome::Stage;

use super::domains::DomainSet;
use super::domains::Pattern;
use super::domains::pattern_of;
use super::spec::duration_text;
use super::value::quoted;

/// Matches that a trigger may wait for.
pub const TRIGGER_COUNT_MAX: u32 = 10_000;
/// The longest name of a category of complaints.
const CATEGORY_BYTES_MAX: usize = 32;
/// The longest time that an action or trigger may name: a year.
const TIME_MAX: Duration = Duration::from_secs(31_536_000);

/// The types of options that only adaptive delivery has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Regular expressions between slashes.
    Patterns,
    /// `N`, or `N/W`: more than N in W seconds.
    Trigger,
    /// Names of stages of a session.
    Stages,
    /// Pairs of an action and its argument.
    Actions,
    /// One sentence for people.
    Text,
    /// Two whole numbers.
    Counts,
    /// Two durations.
    Durations,
    /// Two rates; a bare number counts in an hour.
    Rates,
    /// A number from 0 to 100, with decimals.
    Percent,
    /// `bc:N`, or `fbl:CATEGORY`.
    Codes,
    /// Names of options that adaptive delivery may move.
    Managed,
    /// A day of the calendar, or none.
    Date,
    /// Messages of a day, growing.
    Schedule,
}

impl Kind {
    pub fn type_name(self) -> &'static str {
        match self {
            Kind::Patterns => "list of regular expressions",
            Kind::Trigger => "trigger",
            Kind::Stages => "list of stages",
            Kind::Actions => "list of actions",
            Kind::Text => "text",
            Kind::Counts => "pair of integers",
            Kind::Durations => "pair of durations",
            Kind::Rates => "pair of rates",
            Kind::Percent => "percentage",
            Kind::Codes => "list of codes",
            Kind::Managed => "list of options",
            Kind::Date => "date",
            Kind::Schedule => "list of integers",
        }
    }

    pub fn expectation(self) -> &'static str {
        match self {
            Kind::Patterns => "a list of regular expressions ( \"/pattern/\" ... )",
            Kind::Trigger => {
                "\"N\", at the Nth match, or \"N/W\", when there are more than N in W seconds"
            }
            Kind::Stages => "a list of connect, banner, ehlo, mailfrom, rcptto, data and final",
            Kind::Actions => {
                "pairs: ( \"suspend\" \"4 hours\" ), ( \"blackhole\" \"1 hour\" ), \
                 ( \"throttle\" \"down\" ), ( \"greylisted\" \"15 minutes\" ), \
                 ( \"reduce_connections\" \"1\" ), \
                 ( \"reduce_deliveries\" \"1\" ), ( \"transcode\" \"451 4.7.1 text\" ), \
                 ( \"set\" \"OPTION VALUE for TIME\" ), \
                 ( \"leave\" \"alone\" )"
            }
            Kind::Text => "a text of one line",
            Kind::Counts => "two whole numbers, the lower first: ( 1 50 )",
            Kind::Durations => "two durations, the shorter first: ( 60 12h )",
            Kind::Rates => {
                "two rates, the lower first: ( 60 \"1000/60\" ); a bare number counts in an hour, \
                 and 0 as the second is no limit"
            }
            Kind::Percent => "a percentage from 0 to 100",
            Kind::Date => "a date in UTC, \"2026-11-20\", or none",
            Kind::Schedule => "messages of a day, each more than before: ( 200 500 1000 )",
            Kind::Managed => {
                "a list of max_outbound_connections, max_deliveries_per_connection, \
                 outbound_throttle_messages, retry_interval and max_retry_interval"
            }
            Kind::Codes => {
                "a list of bounce classes ( \"bc:10\" \"bc:51\" ), or of kinds of complaints \
                 ( \"fbl:abuse\" )"
            }
        }
    }
}

/// A checked value of such an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Patterns(Arc<[Pattern]>),
    Trigger(Trigger),
    Stages(Stages),
    Actions(Arc<[Action]>),
    Text(String),
    Counts(Range<u32>),
    Durations(Range<Duration>),
    Rates(RateRange),
    Percent(Percent),
    Codes(Arc<[Code]>),
    Managed(Managed),
    /// The beginning of a day; nothing: none.
    Date(Option<Wall>),
    Schedule(Arc<[u32]>),
}

/// An option that adaptive delivery moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    MaxOutboundConnections,
    MaxDeliveriesPerConnection,
    OutboundThrottleMessages,
    RetryInterval,
    MaxRetryInterval,
}

impl Moved {
    const ALL: [Moved; 5] = [
        Moved::MaxOutboundConnections,
        Moved::MaxDeliveriesPerConnection,
        Moved::OutboundThrottleMessages,
        Moved::RetryInterval,
        Moved::MaxRetryInterval,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Moved::MaxOutboundConnections => "max_outbound_connections",
            Moved::MaxDeliveriesPerConnection => "max_deliveries_per_connection",
            Moved::OutboundThrottleMessages => "outbound_throttle_messages",
            Moved::RetryInterval => "retry_interval",
            Moved::MaxRetryInterval => "max_retry_interval",
        }
    }
}

/// A set of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Managed(u8);

impl Managed {
    pub const NONE: Managed = Managed(0);
    pub const ALL: Managed = Managed(u8::MAX);

    pub fn contains(self, option: Moved) -> bool {
        self.0 & (1 << option as u8) != 0
    }

    /// Those of this set that the other has not.
    pub fn without(self, other: Managed) -> Managed {
        Managed(self.0 & !other.0)
    }
}

/// The least and the most that a limit may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<T> {
    pub min: T,
    pub max: T,
}

/// The same for a rate, of which no most is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateRange {
    pub min: Rate,
    pub max: Option<Rate>,
}

/// In thousandths of a percent, so that it can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u32);

impl Percent {
    pub fn of(self, count: u64) -> f64 {
        count as f64 * f64::from(self.0) / 100_000.0
    }
}

/// When a rule acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The match that makes it act.
    pub matches: u32,
    /// Within so much time; nothing: however long it takes.
    pub within: Option<Duration>,
}

/// A set of stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stages(u16);

impl Stages {
    pub const ALL: Stages = Stages(u16::MAX);

    pub fn contains(self, stage: Stage) -> bool {
        self.0 & (1 << stage as u16) != 0
    }
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: the rule keeps those behind it from acting.
    Leave,
    Suspend(Duration),
    Blackhole(Duration),
    ThrottleDown,
    Greylisted(Duration),
    ReduceConnections(u32),
    ReduceDeliveries(u32),
    Transcode {
        code: u16,
        text: String,
    },
    Set {
        what: Set,
        time: Duration,
    },
}

/// An option with the value that a rule gives it for some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    MaxOutboundConnections(u32),
    MaxDeliveriesPerConnection(u32),
    OutboundThrottleMessages(Rate),
    RetryInterval(Duration),
    MaxRetryInterval(Duration),
}

/// What a sweep rule counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// Failures of a bounce class.
    Bounce(u16),
    /// Complaints of a category (RFC 5965 7.3), in lower case.
    Complaint(String),
}

/// A rule over the replies of receiving hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseRule {
    pub name: String,
    /// `file:line` of its stanza.
    pub place: String,
    /// With `hosts`: where it applies. Neither: everywhere.
    pub domains: Option<Arc<DomainSet>>,
    /// The receiving host, by name.
    pub hosts: Option<Arc<DomainSet>>,
    pub patterns: Arc<[Pattern]>,
    pub trigger: Trigger,
    pub stages: Stages,
    pub actions: Arc<[Action]>,
    pub message: Option<String>,
}

impl ResponseRule {
    /// True if some part of the reply matches.
    pub fn matches(&self, text: &str) -> bool {
        self.patterns.iter().any(|it| it.finds(text))
    }

    /// True if it speaks of mail for this domain at this host.
    pub fn concerns(&self, domain: &str, host: Option<&str>) -> bool {
        let here = |set: &Option<Arc<DomainSet>>, name: &str| {
            set.as_ref().is_some_and(|it| it.contains(name))
        };
        match (&self.domains, &self.hosts) {
            (None, None) => true,
            _ => here(&self.domains, domain) || host.is_some_and(|it| here(&self.hosts, it)),
        }
    }
}

/// A rule over the rates of failures and complaints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepRule {
    pub name: String,
    pub codes: Arc<[Code]>,
    pub low_threshold: Percent,
    pub low_action: Arc<[Action]>,
    pub high_threshold: Percent,
    pub high_action: Arc<[Action]>,
}

impl SweepRule {
    pub fn bounces(&self) -> impl Iterator<Item = u16> + '_ {
        self.codes.iter().filter_map(|it| match it {
            Code::Bounce(class) => Some(*class),
            Code::Complaint(_) => None,
        })
    }

    /// Categories of complaints; a rule that has some has no bounce class.
    pub fn complaints(&self) -> impl Iterator<Item = &str> + Clone {
        self.codes.iter().filter_map(|it| match it {
            Code::Complaint(category) => Some(&**category),
            Code::Bounce(_) => None,
        })
    }
}

/// Everything about one (binding, domain) pair whose delivery adapts. The option of the same name,
/// with `adaptive_` before it, is the source of a field unless its doc says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdaptiveSettings {
    pub adjustment_interval: Duration,
    pub positive_adjustment_interval: Duration,
    pub attempt_threshold: u32,
    pub fbl_volume_threshold: u32,
    pub default_suspension: Duration,
    pub default_suspension_enabled: bool,
    /// `adaptive_rejection_rate_suspension_percentage`.
    pub rejection_rate: Percent,
    pub notification_interval: Duration,
    pub outbound_throttle_messages: RateRange,
    pub max_outbound_connections: Range<u32>,
    pub max_deliveries_per_connection: Range<u32>,
    pub retry_interval: Range<Duration>,
    pub max_retry_interval: Range<Duration>,
    /// What may be moved: all but what `adaptive_unmanage_options` names and
    /// `adaptive_manage_options` does not.
    pub managed: Managed,
    /// In the order in which they are asked: the first that matches a reply is the one.
    pub rules: Arc<[Arc<ResponseRule>]>,
    pub sweep_rules: Arc<[Arc<SweepRule>]>,
}

impl Set {
    pub fn option(self) -> Moved {
        match self {
            Set::MaxOutboundConnections(_) => Moved::MaxOutboundConnections,
            Set::MaxDeliveriesPerConnection(_) => Moved::MaxDeliveriesPerConnection,
            Set::OutboundThrottleMessages(_) => Moved::OutboundThrottleMessages,
            Set::RetryInterval(_) => Moved::RetryInterval,
            Set::MaxRetryInterval(_) => Moved::MaxRetryInterval,
        }
    }
}

impl AdaptiveSettings {
    /// Results of rules stay within the ranges of the configuration.
    pub fn clipped(&self, set: Set) -> Set {
        let counts = |range: &Range<u32>, count: u32| count.clamp(range.min, range.max);
        match set {
            Set::MaxOutboundConnections(count) => {
                Set::MaxOutboundConnections(counts(&self.max_outbound_connections, count))
            }
            Set::MaxDeliveriesPerConnection(count) => {
                let range = &self.max_deliveries_per_connection;
                Set::MaxDeliveriesPerConnection(counts(range, count))
            }
            Set::OutboundThrottleMessages(rate) => {
                let range = self.outbound_throttle_messages;
                let most = range.max.filter(|it| per_second(*it) < per_second(rate));
                let least = (per_second(range.min) > per_second(rate)).then_some(range.min);
                Set::OutboundThrottleMessages(most.or(least).unwrap_or(rate))
            }
            Set::RetryInterval(time) => {
                let range = &self.retry_interval;
                Set::RetryInterval(time.clamp(range.min, range.max))
            }
            Set::MaxRetryInterval(time) => {
                let range = &self.max_retry_interval;
                Set::MaxRetryInterval(time.clamp(range.min, range.max))
            }
        }
    }
}

/// Why a word of a list is refused: the place of the word, and the reason.
pub type Refusal = (usize, String);

/// Reads the words of a value.
pub fn parse(kind: Kind, words: &[&str]) -> Result<Value, Refusal> {
    let one = || match words {
        [word] => Ok(*word),
        _ => Err((0, "is not one value".to_string())),
    };
    match kind {
        Kind::Patterns => each(words, pattern).map(|it| Value::Patterns(it.into())),
        Kind::Trigger => trigger(one()?).map(Value::Trigger).map_err(first),
        Kind::Stages => stages(words).map(Value::Stages),
        Kind::Actions => actions(words).map(|it| Value::Actions(it.into())),
        Kind::Text => match one()? {
            text if text.chars().any(char::is_control) => {
                Err((0, "contains a control character".to_string()))
            }
            text => Ok(Value::Text(text.to_string())),
        },
        Kind::Counts => range(words, count).map(Value::Counts),
        Kind::Durations => range(words, time).map(Value::Durations),
        Kind::Rates => rates(words).map(Value::Rates),
        Kind::Percent => percent(one()?).map(Value::Percent).map_err(first),
        Kind::Managed => managed(words).map(Value::Managed),
        Kind::Date => date(one()?).map(Value::Date).map_err(first),
        Kind::Schedule => schedule(words).map(|it| Value::Schedule(it.into())),
        Kind::Codes => codes(words).map(|it| Value::Codes(it.into())),
    }
}

fn date(word: &str) -> Result<Option<Wall>, String> {
    if word.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let day = Wall::of_date(word).ok_or("is no date like 2026-11-20")?;
    Ok(Some(day))
}

fn schedule(words: &[&str]) -> Result<Vec<u32>, Refusal> {
    if words.len() > STAGES_MAX {
        return Err((STAGES_MAX, format!("is one more than {STAGES_MAX} stages")));
    }
    let stages = each(words, count)?;
    let before = core::iter::once(0).chain(stages.iter().copied());
    match before.zip(&stages).position(|(before, it)| *it <= before) {
        Some(0) => Err((0, "allows nothing".to_string())),
        Some(index) => Err((index, "is not more than the stage before it".to_string())),
        None => Ok(stages),
    }
}

fn first(why: String) -> Refusal {
    (0, why)
}

fn each<T>(
    words: &[&str],
    mut read: impl FnMut(&str) -> Result<T, String>,
) -> Result<Vec<T>, Refusal> {
    if words.is_empty() {
        return Err((0, "is empty".to_string()));
    }
    let all = words.iter().enumerate();
    all.map(|(index, word)| read(word).map_err(|why| (index, why)))
        .collect()
}

fn pattern(word: &str) -> Result<Pattern, String> {
    let source = pattern_of(word).ok_or("does not stand between slashes")?;
    Pattern::new(source).map_err(|why| format!("is not a regular expression: {why}"))
}

fn trigger(word: &str) -> Result<Trigger, String> {
    let (number, within) = match word.split_once('/') {
        Some((number, window)) => (number, Some(time(window.trim())?)),
        None => (word, None),
    };
    let number = count(number.trim())?;
    // A count alone names the match that acts; one in a time has to be exceeded.
    let matches = number.saturating_add(u32::from(within.is_some()));
    match (1..=TRIGGER_COUNT_MAX).contains(&matches) {
        true => Ok(Trigger { matches, within }),
        false => Err("is out of bounds".to_string()),
    }
}

/// The stages at which a reply can be heard.
const STAGES: [Stage; 7] = [
    Stage::Connect,
    Stage::Banner,
    Stage::Ehlo,
    Stage::MailFrom,
    Stage::RcptTo,
    Stage::Data,
    Stage::Final,
];

fn stages(words: &[&str]) -> Result<Stages, Refusal> {
    let read = |word: &str| {
        let mut all = STAGES.iter();
        let found = all.find(|it| it.as_str().eq_ignore_ascii_case(word));
        found
            .map(|it| 1 << *it as u16)
            .ok_or("is no stage".to_string())
    };
    let bits = each(words, read)?.into_iter();
    Ok(Stages(bits.fold(0, |all, bit: u16| all | bit)))
}

fn managed(words: &[&str]) -> Result<Managed, Refusal> {
    let read = |word: &str| {
        let mut all = Moved::ALL.into_iter();
        let found = all.find(|it| it.as_str().eq_ignore_ascii_case(word));
        found
            .map(|it| 1 << it as u8)
            .ok_or("is no option that adaptive delivery moves".to_string())
    };
    let bits = each(words, read)?.into_iter();
    Ok(Managed(bits.fold(0, |all, bit: u8| all | bit)))
}

fn count(word: &str) -> Result<u32, String> {
    let digits = word.parse::<u32>();
    digits.map_err(|_| "is not a whole number".to_string())
}

fn time(word: &str) -> Result<Duration, String> {
    let time = units::parse_duration(word).ok_or("is not a duration")?;
    match time.is_zero() || time > TIME_MAX {
        true => Err("is out of bounds".to_string()),
        false => Ok(time),
    }
}

/// A rate; a bare number counts in an hour, as adaptive delivery of Momentum does.
fn rate(word: &str) -> Result<Option<Rate>, String> {
    let per_hour = format!("{word}/3600");
    let text = if word.contains('/') { word } else { &per_hour };
    Rate::parse(text).ok_or("is not a rate".to_string())
}

fn range<T: PartialOrd>(
    words: &[&str],
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Range<T>, Refusal> {
    let [min, max] = words else {
        return Err((0, "is not a pair".to_string()));
    };
    let min = read(min).map_err(first)?;
    let max = read(max).map_err(|why| (1, why))?;
    match min <= max {
        true => Ok(Range { min, max }),
        false => Err((1, "is lower than the first of the pair".to_string())),
    }
}

fn rates(words: &[&str]) -> Result<RateRange, Refusal> {
    let [min, max] = words else {
        return Err((0, "is not a pair".to_string()));
    };
    let least = rate(min).map_err(first)?;
    let least = least.ok_or((0, "is no rate: nothing would ever be sent".to_string()))?;
    let most = rate(max).map_err(|why| (1, why))?;
    if most.is_some_and(|most| per_second(most) < per_second(least)) {
        return Err((1, "is lower than the first of the pair".to_string()));
    }
    Ok(RateRange {
        min: least,
        max: most,
    })
}

/// A rate as a number.
pub fn per_second(rate: Rate) -> f64 {
    f64::from(rate.count) / rate.window.as_secs_f64()
}

fn percent(word: &str) -> Result<Percent, String> {
    let number: f64 = word
        .trim_end_matches('%')
        .parse()
        .map_err(|_| "is not a number")?;
    match (0.0..=100.0).contains(&number) {
        true => Ok(Percent((number * 1_000.0).round() as u32)),
        false => Err("is out of bounds".to_string()),
    }
}

fn codes(words: &[&str]) -> Result<Vec<Code>, Refusal> {
    let read = |word: &str| match word.split_once(':') {
        Some(("bc", class)) => {
            let class = class.parse().map_err(|_| "names no bounce class")?;
            Ok(Code::Bounce(class))
        }
        Some(("fbl", category)) => complaint_category(category).map(Code::Complaint),
        _ => Err("names neither a bounce class nor complaints".to_string()),
    };
    let codes = each(words, read)?;
    // Rates of failures are of attempts and rates of complaints of deliveries: no sum of both.
    let is_bounce = |it: &Code| matches!(it, Code::Bounce(_));
    let other = codes
        .iter()
        .position(|it| is_bounce(it) != is_bounce(&codes[0]));
    match other {
        Some(index) => Err((index, "mixes bounce classes and complaints".to_string())),
        None => Ok(codes),
    }
}

/// The name of a category of complaints. The error says what is wrong with it.
pub fn complaint_category(text: &str) -> Result<String, String> {
    let is_part = |it: u8| it.is_ascii_alphanumeric() || it == b'-' || it == b'_';
    let is_name = (1..=CATEGORY_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_part);
    match is_name {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("names no category of complaints, such as abuse".to_string()),
    }
}

fn actions(words: &[&str]) -> Result<Vec<Action>, Refusal> {
    if words.is_empty() || !words.len().is_multiple_of(2) {
        let last = words.len().saturating_sub(1);
        return Err((last, "has no argument".to_string()));
    }
    let pairs = words.chunks(2).enumerate();
    pairs
        .map(|(index, pair)| {
            let name = pair[0].to_ascii_lowercase();
            let action = action(&name, pair[1]).ok_or((2 * index, "is no action".to_string()))?;
            action.map_err(|why| (2 * index + 1, why))
        })
        .collect()
}

fn action(name: &str, argument: &str) -> Option<Result<Action, String>> {
    let at_least_one = || match count(argument)? {
        0 => Err("changes nothing".to_string()),
        count => Ok(count),
    };
    Some(match name {
        "suspend" => time(argument).map(Action::Suspend),
        "blackhole" => time(argument).map(Action::Blackhole),
        "throttle" if argument.eq_ignore_ascii_case("down") => Ok(Action::ThrottleDown),
        "throttle" => Err("is not \"down\"".to_string()),
        "greylisted" => time(argument).map(Action::Greylisted),
        "reduce_connections" => at_least_one().map(Action::ReduceConnections),
        "reduce_deliveries" => at_least_one().map(Action::ReduceDeliveries),
        "transcode" => transcode(argument),
        "set" => set(argument),
        "leave" if argument.eq_ignore_ascii_case("alone") => Ok(Action::Leave),
        "leave" => Err("is not \"alone\"".to_string()),
        _ => return None,
    })
}

fn transcode(argument: &str) -> Result<Action, String> {
    let (code, text) = argument.split_once(' ').unwrap_or((argument, ""));
    let code = code.parse().ok().filter(|it| (400..600).contains(it));
    let code = code.ok_or("does not begin with a code from 400 to 599")?;
    Ok(Action::Transcode {
        code,
        text: text.trim().to_string(),
    })
}

fn set(argument: &str) -> Result<Action, String> {
    let shape = "is not \"OPTION VALUE for TIME\"";
    let (what, for_time) = argument.split_once(" for ").ok_or(shape)?;
    let what = parse_set(what)?;
    Ok(Action::Set {
        what,
        time: time(for_time.trim())?,
    })
}

/// Reads `OPTION VALUE`. The error says what is wrong with it.
pub fn parse_set(what: &str) -> Result<Set, String> {
    let shape = "is not \"OPTION VALUE\"";
    let (option, value) = what.trim().split_once(' ').ok_or(shape)?;
    let value = value.trim();
    let at_least_one = || {
        count(value).and_then(|it| match it {
            0 => Err("sets a limit of 0".to_string()),
            it => Ok(it),
        })
    };
    Ok(match option.to_ascii_lowercase().as_str() {
        "max_outbound_connections" => Set::MaxOutboundConnections(at_least_one()?),
        "max_deliveries_per_connection" => Set::MaxDeliveriesPerConnection(at_least_one()?),
        "outbound_throttle_messages" => match Rate::parse(value).ok_or("sets no rate")? {
            Some(rate) => Set::OutboundThrottleMessages(rate),
            None => return Err("sets no limit".to_string()),
        },
        "retry_interval" => Set::RetryInterval(time(value)?),
        "max_retry_interval" => Set::MaxRetryInterval(time(value)?),
        _ => {
            let all = "max_outbound_connections, max_deliveries_per_connection, \
                       outbound_throttle_messages, retry_interval and max_retry_interval";
            return Err(format!("sets none of {all}"));
        }
    })
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1_000.0)
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.within {
            Some(within) => write!(f, "{}/{}", self.matches - 1, duration_text(within)),
            None => write!(f, "{}", self.matches),
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Set::MaxOutboundConnections(count) => write!(f, "max_outbound_connections {count}"),
            Set::MaxDeliveriesPerConnection(count) => {
                write!(f, "max_deliveries_per_connection {count}")
            }
            Set::OutboundThrottleMessages(rate) => write!(f, "outbound_throttle_messages {rate}"),
            Set::RetryInterval(time) => write!(f, "retry_interval {}", duration_text(*time)),
            Set::MaxRetryInterval(time) => {
                write!(f, "max_retry_interval {}", duration_text(*time))
            }
        }
    }
}

impl Action {
    /// Its name and its argument.
    pub fn words(&self) -> (&'static str, String) {
        match self {
            Action::Leave => ("leave", "alone".to_string()),
            Action::Suspend(time) => ("suspend", duration_text(*time)),
            Action::Blackhole(time) => ("blackhole", duration_text(*time)),
            Action::ThrottleDown => ("throttle", "down".to_string()),
            Action::Greylisted(time) => ("greylisted", duration_text(*time)),
            Action::ReduceConnections(count) => ("reduce_connections", count.to_string()),
            Action::ReduceDeliveries(count) => ("reduce_deliveries", count.to_string()),
            Action::Transcode { code, text } => ("transcode", format!("{code} {text}")),
            Action::Set { what, time } => ("set", format!("{what} for {}", duration_text(*time))),
        }
    }
}

fn list(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.map(|it| quoted(&it)).collect();
    format!("( {} )", words.join(" "))
}

/// The text that is read back as the same value.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = |min: String, max: String| list([min, max].into_iter());
        let text = match self {
            Value::Patterns(all) => list(all.iter().map(|it| format!("/{}/", it.source()))),
            Value::Trigger(trigger) => quoted(&trigger.to_string()),
            Value::Date(None) => "none".to_string(),
            Value::Date(Some(day)) => {
                let date: String = day.rfc3339().to_string().chars().take(10).collect();
                quoted(&date)
            }
            Value::Schedule(stages) => list(stages.iter().map(u32::to_string)),
            Value::Stages(set) => {
                let named = STAGES.iter().filter(|it| set.contains(**it));
                list(named.map(|it| it.as_str().to_string()))
            }
            Value::Actions(all) => {
                let words = all.iter().map(Action::words);
                list(words.flat_map(|(name, argument)| [name.to_string(), argument]))
            }
            Value::Text(text) => quoted(text),
            Value::Counts(it) => pair(it.min.to_string(), it.max.to_string()),
            Value::Durations(it) => pair(duration_text(it.min), duration_text(it.max)),
            Value::Rates(it) => {
                let written = |rate: Rate| match rate.window.subsec_millis() {
                    0 => format!("{}/{}", rate.count, rate.window.as_secs()),
                    _ => rate.to_string(),
                };
                pair(written(it.min), it.max.map_or("0".to_string(), written))
            }
            Value::Percent(percent) => percent.to_string(),
            Value::Managed(set) => {
                let named = Moved::ALL.iter().filter(|it| set.contains(**it));
                list(named.map(|it| it.as_str().to_string()))
            }
            Value::Codes(codes) => list(codes.iter().map(|it| match it {
                Code::Bounce(class) => format!("bc:{class}"),
                Code::Complaint(category) => format!("fbl:{category}"),
            })),
        };
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, words: &[&str]) -> Result<String, String> {
        let read = parse(kind, words);
        read.map(|it| it.to_string())
            .map_err(|(at, why)| format!("{at}: {why}"))
    }

    #[test]
    fn values_are_read_and_written_so_that_they_are_read_again() {
        let cases: &[(Kind, &[&str], &str)] = &[
            (Kind::Patterns, &["/4\\.7\\.28/"], r#"( "/4\\.7\\.28/" )"#),
            (Kind::Trigger, &["1"], "\"1\""),
            (Kind::Trigger, &["5/1"], "\"5/1\""),
            (Kind::Trigger, &["5/2m"], "\"5/120\""),
            (
                Kind::Stages,
                &["Final", "rcptto"],
                r#"( "rcptto" "final" )"#,
            ),
            (
                Kind::Actions,
                &["suspend", "4 hours", "THROTTLE", "Down"],
                r#"( "suspend" "14400" "throttle" "down" )"#,
            ),
            (
                Kind::Actions,
                &["set", "max_outbound_connections 1 for 90m"],
                r#"( "set" "max_outbound_connections 1 for 5400" )"#,
            ),
            (
                Kind::Actions,
                &["transcode", "451 4.7.1 blocked"],
                r#"( "transcode" "451 4.7.1 blocked" )"#,
            ),
            (Kind::Counts, &["1", "50"], r#"( "1" "50" )"#),
            (Kind::Durations, &["1m", "12h"], r#"( "60" "43200" )"#),
            (
                Kind::Rates,
                &["60", "1000/60"],
                r#"( "60/3600" "1000/60" )"#,
            ),
            (Kind::Rates, &["1", "0"], r#"( "1/3600" "0" )"#),
            (Kind::Percent, &["0.5"], "0.5"),
            (Kind::Date, &["2026-11-20"], "\"2026-11-20\""),
            (Kind::Date, &["None"], "none"),
            (Kind::Schedule, &["200", "500"], r#"( "200" "500" )"#),
            (
                Kind::Managed,
                &["Retry_Interval", "max_outbound_connections"],
                r#"( "max_outbound_connections" "retry_interval" )"#,
            ),
            (Kind::Codes, &["bc:10", "bc:24"], r#"( "bc:10" "bc:24" )"#),
            (
                Kind::Codes,
                &["fbl:Abuse", "fbl:not-spam"],
                r#"( "fbl:abuse" "fbl:not-spam" )"#,
            ),
        ];
        for (kind, words, expected) in cases {
            assert_eq!(read(*kind, words).as_deref(), Ok(*expected), "{words:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_says_which_word_and_why() {
        let cases: &[(Kind, &[&str], &str)] = &[
            (Kind::Patterns, &["abc"], "0: does not stand"),
            (Kind::Patterns, &["/(/"], "0: is not a regular"),
            (Kind::Trigger, &["0"], "0: is out of bounds"),
            (Kind::Trigger, &["5/0"], "0: is out of bounds"),
            (Kind::Stages, &["dns"], "0: is no stage"),
            (Kind::Actions, &["suspend"], "0: has no argument"),
            (Kind::Actions, &["throttle", "up"], "1: is not"),
            (
                Kind::Actions,
                &["throttle", "down", "fly", "1"],
                "2: is no action",
            ),
            (
                Kind::Actions,
                &["set", "max_retries 1 for 1h"],
                "1: sets none",
            ),
            (Kind::Actions, &["transcode", "250 ok"], "1: does not begin"),
            (Kind::Counts, &["5", "1"], "1: is lower"),
            (Kind::Rates, &["0", "5"], "0: is no rate"),
            (Kind::Rates, &["3600", "1/60"], "1: is lower"),
            (Kind::Percent, &["101"], "0: is out of bounds"),
            (Kind::Date, &["2026-02-29"], "0: is no date"),
            (Kind::Date, &["20 November"], "0: is no date"),
            (Kind::Schedule, &["0", "5"], "0: allows nothing"),
            (Kind::Schedule, &["5", "x"], "1: is not a whole number"),
            (Kind::Schedule, &["5", "9", "9"], "2: is not more than"),
            (Kind::Schedule, &[], "0: is empty"),
            (Kind::Codes, &["bc:10", "fbl:abuse"], "1: mixes"),
            (
                Kind::Managed,
                &["retry_interval", "max_retries"],
                "1: is no option",
            ),
            (Kind::Codes, &["bc:x"], "0: names no bounce"),
            (Kind::Codes, &["fbl:a b"], "0: names no category"),
            (Kind::Codes, &["abuse"], "0: names neither"),
        ];
        for (kind, words, expected) in cases {
            let why = read(*kind, words).expect_err(expected);
            assert!(why.starts_with(expected), "{words:?}: {why}");
        }
    }

    #[test]
    fn a_trigger_with_a_time_has_to_be_exceeded() {
        let of = |text| trigger(text).expect(text).matches;
        assert_eq!([of("1"), of("3"), of("5/1")], [1, 3, 6]);
    }
}
