//! The one filter language of every command that lists or acts: `domain=example.com age>10m
//! code~4.7`. Words are ANDed; text compares without regard to ASCII case. Nothing here knows where
//! the facts come from: who lists messages or queues fills a [`Facts`] and asks.

use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use crate::base::units;
use crate::types::id::BatchId;
use crate::types::id::MessageId;
use crate::types::sender::{SenderFact, SenderHash};

/// Bytes a filter may have; a longer one is an error.
pub const FILTER_BYTES_MAX: usize = 4_096;

/// Conditions one filter may have; more are an error.
pub const FILTER_CONDITIONS_MAX: usize = 32;

/// A word that is no more than this far from a known one is taken for a slip of the finger.
const NEAR_MISS_DISTANCE_MAX: usize = 2;

/// Conditions that must all hold. The empty filter matches everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    conditions: Vec<Condition>,
}

/// What a filter says of one message or queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Yes,
    No,
    /// What is known of it does not tell.
    Open,
}

/// One word of a filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    pub field: Field,
    pub op: Op,
    pub value: Value,
}

/// What a condition can speak of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Field {
    /// Routing domain of the queue.
    Domain,
    Binding,
    /// Batch id or message id; a batch id stands for all its messages.
    Id,
    Recipient,
    Sender,
    /// `active`, `delayed` or `in_flight`.
    State,
    /// The last reply, from its code on: `421 4.7.28 unusual rate`.
    Code,
    /// What the queue waits for.
    Cause,
    /// Time since the message was accepted; of a queue, of its oldest message.
    Age,
    /// Bytes of the message.
    Size,
    /// Failed attempts so far.
    Attempts,
    /// Priority class; a message that says nothing is of the default one.
    Class,
    Tenant,
    Campaign,
}

impl Field {
    pub const ALL: [Field; 14] = [
        Field::Domain,
        Field::Binding,
        Field::Id,
        Field::Recipient,
        Field::Sender,
        Field::State,
        Field::Code,
        Field::Cause,
        Field::Age,
        Field::Size,
        Field::Attempts,
        Field::Class,
        Field::Tenant,
        Field::Campaign,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Field::Domain => "domain",
            Field::Binding => "binding",
            Field::Id => "id",
            Field::Recipient => "recipient",
            Field::Sender => "sender",
            Field::State => "state",
            Field::Code => "code",
            Field::Cause => "cause",
            Field::Age => "age",
            Field::Size => "size",
            Field::Attempts => "attempts",
            Field::Class => "class",
            Field::Tenant => "tenant",
            Field::Campaign => "campaign",
        }
    }

    /// Whether a whole queue has this fact, or only a message.
    pub fn is_of_queue(self) -> bool {
        match self {
            Field::Domain | Field::Binding | Field::State | Field::Code => true,
            Field::Cause | Field::Age => true,
            Field::Id | Field::Recipient | Field::Sender | Field::Size | Field::Attempts => false,
            Field::Class | Field::Tenant | Field::Campaign => false,
        }
    }

    fn ops(self) -> &'static [Op] {
        match self {
            Field::Id | Field::State => &[Op::Is, Op::IsNot],
            Field::Age | Field::Size | Field::Attempts => &[
                Op::Is,
                Op::IsNot,
                Op::Above,
                Op::Below,
                Op::AtLeast,
                Op::AtMost,
            ],
            _ => &[Op::Is, Op::IsNot, Op::Contains],
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Is,
    IsNot,
    Above,
    Below,
    AtLeast,
    AtMost,
    Contains,
}

impl Op {
    /// The longer signs first, so that `>=` is not read as `>`.
    const ALL: [Op; 7] = [
        Op::IsNot,
        Op::AtLeast,
        Op::AtMost,
        Op::Is,
        Op::Above,
        Op::Below,
        Op::Contains,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Op::Is => "=",
            Op::IsNot => "!=",
            Op::Above => ">",
            Op::Below => "<",
            Op::AtLeast => ">=",
            Op::AtMost => "<=",
            Op::Contains => "~",
        }
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Op::Is | Op::Contains => order == Ordering::Equal,
            Op::IsNot => order != Ordering::Equal,
            Op::Above => order == Ordering::Greater,
            Op::Below => order == Ordering::Less,
            Op::AtLeast => order != Ordering::Less,
            Op::AtMost => order != Ordering::Greater,
        }
    }
}

/// The right side of a condition, in the type of its field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Lower case.
    Text(String),
    Batch(BatchId),
    Message(MessageId),
    State(States),
    Age(Duration),
    /// Bytes.
    Size(u64),
    Count(u64),
}

/// The states a message is in, which is one, or those that a queue has messages in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct States(u8);

impl States {
    pub const NONE: States = States(0);
    pub const ACTIVE: States = States(1);
    pub const DELAYED: States = States(2);
    pub const IN_FLIGHT: States = States(4);
    /// Delayed, and put aside by an order.
    pub const HELD: States = States(8);

    const NAMES: [(&str, States); 4] = [
        ("active", States::ACTIVE),
        ("delayed", States::DELAYED),
        ("in_flight", States::IN_FLIGHT),
        ("held", States::HELD),
    ];

    /// These states and `other`, if it `holds`.
    pub fn with(self, other: States, holds: bool) -> States {
        if holds {
            States(self.0 | other.0)
        } else {
            self
        }
    }

    fn overlaps(self, other: States) -> bool {
        self.0 & other.0 != 0
    }
}

/// What is known of one message or one queue. A fact that is not there satisfies `!=` only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts<'a> {
    pub domain: Option<&'a str>,
    pub binding: Option<&'a str>,
    pub id: Option<MessageId>,
    pub recipient: Option<&'a str>,
    pub sender: Option<SenderFact<'a>>,
    pub states: States,
    /// The last reply as it prints: `421 4.7.28 unusual rate`.
    pub code: Option<&'a str>,
    pub cause: Option<&'a str>,
    pub age: Option<Duration>,
    pub size: Option<u64>,
    pub attempts: Option<u64>,
    pub class: Option<&'a str>,
    pub tenant: Option<&'a str>,
    pub campaign: Option<&'a str>,
}

impl Filter {
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// The first condition on a fact that only messages have.
    pub fn needs_messages(&self) -> Option<Field> {
        // Queues do not count what is held apart from what is delayed.
        let held = |c: &Condition| matches!(c.value, Value::State(States::HELD));
        self.conditions
            .iter()
            .find(|c| !c.field.is_of_queue() || held(c))
            .map(|c| c.field)
    }

    /// Whether a condition on `field` is there, so that a fact that is costly to find out can be
    /// left out.
    pub fn asks_for(&self, field: Field) -> bool {
        self.conditions.iter().any(|c| c.field == field)
    }

    /// The value of `field=text`, if the filter has one: who holds an index by domain or binding
    /// need not look at the rest.
    pub fn exact(&self, field: Field) -> Option<&str> {
        self.conditions.iter().find_map(|c| match (&c.value, c.op) {
            (Value::Text(text), Op::Is) if c.field == field => Some(text.as_str()),
            _ => None,
        })
    }

    /// Whether all conditions are known to hold.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        self.verdict(facts) == Verdict::Yes
    }

    pub fn verdict(&self, facts: &Facts<'_>) -> Verdict {
        let mut verdict = Verdict::Yes;
        for condition in &self.conditions {
            match condition.holds(facts) {
                Some(true) => {}
                Some(false) => return Verdict::No,
                None => verdict = Verdict::Open,
            }
        }
        verdict
    }

    /// Whether it asks for a part of the sender, which takes the whole of its text.
    pub fn asks_in_sender(&self) -> bool {
        let mut conditions = self.conditions.iter();
        conditions.any(|it| it.field == Field::Sender && it.op == Op::Contains)
    }
}

impl Condition {
    /// Nothing if the facts do not tell.
    fn holds(&self, facts: &Facts<'_>) -> Option<bool> {
        if self.field == Field::Sender
            && let Some(SenderFact::Hash(hash)) = facts.sender
            && let Value::Text(wanted) = &self.value
        {
            let same = || SenderHash::of(wanted) == hash;
            return (self.op != Op::Contains).then(|| same() == (self.op == Op::Is));
        }
        Some(self.matches(facts))
    }

    fn matches(&self, facts: &Facts<'_>) -> bool {
        let absent = self.op == Op::IsNot;
        match &self.value {
            Value::Text(wanted) => match self.text_fact(facts) {
                Some(text) if self.op == Op::Contains => contains_ignoring_case(text, wanted),
                Some(text) => text.eq_ignore_ascii_case(wanted) == (self.op == Op::Is),
                None => absent,
            },
            Value::Batch(batch) => facts
                .id
                .map_or(absent, |id| (id.batch == *batch) == (self.op == Op::Is)),
            Value::Message(message) => facts
                .id
                .map_or(absent, |id| (id == *message) == (self.op == Op::Is)),
            Value::State(states) => facts.states.overlaps(*states) == (self.op == Op::Is),
            Value::Age(age) => facts
                .age
                .map_or(absent, |fact| self.op.holds(fact.cmp(age))),
            Value::Size(size) => facts
                .size
                .map_or(absent, |fact| self.op.holds(fact.cmp(size))),
            Value::Count(count) => facts
                .attempts
                .map_or(absent, |fact| self.op.holds(fact.cmp(count))),
        }
    }

    fn text_fact<'a>(&self, facts: &Facts<'a>) -> Option<&'a str> {
        match self.field {
            Field::Domain => facts.domain,
            Field::Binding => facts.binding,
            Field::Recipient => facts.recipient,
            Field::Sender => match facts.sender? {
                SenderFact::Text(text) => Some(text),
                SenderFact::Hash(_) => None,
            },
            Field::Code => facts.code,
            Field::Cause => facts.cause,
            Field::Class => facts.class,
            Field::Tenant => facts.tenant,
            Field::Campaign => facts.campaign,
            Field::Id | Field::State | Field::Age | Field::Size | Field::Attempts => None,
        }
    }
}

fn contains_ignoring_case(text: &str, wanted: &str) -> bool {
    let (text, wanted) = (text.as_bytes(), wanted.as_bytes());
    wanted.is_empty()
        || text
            .windows(wanted.len())
            .any(|part| part.eq_ignore_ascii_case(wanted))
}

/// What is wrong with a filter, where, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilterError {
    /// Counted from 1, in characters.
    pub column: usize,
    /// What stands there.
    pub found: String,
    pub expected: String,
    pub suggestion: Option<&'static str>,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filter, column {}: ", self.column)?;
        match self.found.as_str() {
            "" => write!(f, "nothing follows")?,
            found => write!(f, "\"{found}\" is not understood")?,
        }
        write!(f, "; expected {}", self.expected)?;
        match self.suggestion {
            Some(near) => write!(f, "; did you mean \"{near}\"?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FilterError {}

impl FromStr for Filter {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<Filter, FilterError> {
        let mut parser = Parser { text, at: 0 };
        if text.len() > FILTER_BYTES_MAX {
            return Err(parser.error("", format!("a filter of at most {FILTER_BYTES_MAX} bytes")));
        }
        let mut conditions = Vec::new();
        while parser.skip_blanks() {
            if conditions.len() == FILTER_CONDITIONS_MAX {
                let expected = format!("at most {FILTER_CONDITIONS_MAX} conditions");
                return Err(parser.error(parser.word(), expected));
            }
            conditions.push(parser.condition()?);
        }
        Ok(Filter { conditions })
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// True if something stands after the blanks.
    fn skip_blanks(&mut self) -> bool {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        !self.rest().is_empty()
    }

    /// What stands here up to the next blank.
    fn word(&self) -> &'a str {
        self.rest()
            .split(char::is_whitespace)
            .next()
            .unwrap_or_default()
    }

    fn error(&self, found: &str, expected: impl Into<String>) -> FilterError {
        self.near_miss(found, expected, &[])
    }

    fn near_miss(
        &self,
        found: &str,
        expected: impl Into<String>,
        known: &[&'static str],
    ) -> FilterError {
        let distance = |name: &str| strsim::damerau_levenshtein(&found.to_lowercase(), name);
        let nearest = known.iter().map(|name| (distance(name), *name)).min();
        let near = |distance: usize| {
            distance <= NEAR_MISS_DISTANCE_MAX && distance * 2 < found.chars().count()
        };
        let suggestion = nearest.filter(|(distance, _)| near(*distance));
        FilterError {
            column: self.text[..self.at].chars().count() + 1,
            found: found.to_owned(),
            expected: expected.into(),
            suggestion: suggestion.map(|(_, name)| name),
        }
    }

    fn condition(&mut self) -> Result<Condition, FilterError> {
        let field = self.field()?;
        let op = self.op(field)?;
        let start = self.at;
        let text = self.value_text()?;
        let end = core::mem::replace(&mut self.at, start);
        let value = self.value((field, op), &text)?;
        self.at = end;
        Ok(Condition { field, op, value })
    }

    fn field(&mut self) -> Result<Field, FilterError> {
        let letters = |c: char| !(c.is_alphanumeric() || c == '_' || c == '-');
        let name = self.rest().split(letters).next().unwrap_or_default();
        let known = Field::ALL.map(Field::as_str);
        match Field::ALL
            .into_iter()
            .find(|field| field.as_str().eq_ignore_ascii_case(name))
        {
            Some(field) => {
                self.at += name.len();
                Ok(field)
            }
            None => {
                let found = if name.is_empty() { self.word() } else { name };
                Err(self.near_miss(found, format!("one of {}", known.join(" ")), &known))
            }
        }
    }

    fn op(&mut self, field: Field) -> Result<Op, FilterError> {
        let allowed = field.ops();
        let rest = self.rest();
        let found = Op::ALL.into_iter().find(|op| rest.starts_with(op.as_str()));
        match found.filter(|op| allowed.contains(op)) {
            Some(op) => {
                self.at += op.as_str().len();
                Ok(op)
            }
            None => {
                let signs: Vec<&str> = allowed.iter().map(|op| op.as_str()).collect();
                let expected = format!("{} after {}", signs.join(" "), field.as_str());
                let found: &str = match found {
                    Some(op) => op.as_str(),
                    None => self.word(),
                };
                Err(self.error(found, expected))
            }
        }
    }

    /// A bare word, or text in double quotes with `\"` and `\\`.
    fn value_text(&mut self) -> Result<String, FilterError> {
        let Some(quoted) = self.rest().strip_prefix('"') else {
            let word = self.word();
            self.at += word.len();
            return Ok(word.to_owned());
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((index, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += index + 2;
                    return Ok(value);
                }
                '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
                _ => value.push(c),
            }
        }
        Err(self.error(self.rest(), "a closing quote"))
    }

    fn value(&self, (field, op): (Field, Op), text: &str) -> Result<Value, FilterError> {
        if text.is_empty() && field != Field::Sender {
            return Err(self.error("", format!("a value after {}", field.as_str())));
        }
        let value = self.value_of(field, text)?;
        let zero = match &value {
            Value::Age(age) => age.is_zero(),
            Value::Size(count) | Value::Count(count) => *count == 0,
            // The null sender as it stands on the wire.
            Value::Text(text) if field == Field::Sender && op != Op::Contains && text == "<>" => {
                return Ok(Value::Text(String::new()));
            }
            _ => false,
        };
        match zero && op == Op::Below {
            true => Err(self.error(text, "a value above 0: nothing is less")),
            false => Ok(value),
        }
    }

    fn value_of(&self, field: Field, text: &str) -> Result<Value, FilterError> {
        match field {
            Field::Age => units::parse_duration(text)
                .map(Value::Age)
                .ok_or_else(|| self.error(text, "a duration such as 90s, 10m, 1h30m")),
            Field::Size => units::parse_size(text)
                .map(Value::Size)
                .ok_or_else(|| self.error(text, "a size such as 4096, 64k, 1m")),
            Field::Attempts => text
                .parse()
                .map(Value::Count)
                .map_err(|_| self.error(text, "a number of attempts")),
            Field::Id => match (text.parse(), text.parse()) {
                (Ok(batch), _) => Ok(Value::Batch(batch)),
                (_, Ok(message)) => Ok(Value::Message(message)),
                _ => Err(self.error(text, "a batch id or a message id, as 0C8V3M1A7Q2ZK-0")),
            },
            Field::State => {
                let known = States::NAMES.map(|(name, _)| name);
                let named = States::NAMES
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(text));
                let expected = || format!("one of {}", known.join(" "));
                named
                    .map(|(_, states)| Value::State(*states))
                    .ok_or_else(|| self.near_miss(text, expected(), &known))
            }
            _ => Ok(Value::Text(text.to_lowercase())),
        }
    }
}

impl fmt::Display for Filter {
    /// In a form that parses to the same filter.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, condition) in self.conditions.iter().enumerate() {
            let blank = if index == 0 { "" } else { " " };
            write!(f, "{blank}{condition}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.field.as_str(), self.op.as_str())?;
        match &self.value {
            Value::Text(text) => write_text(f, text),
            Value::Batch(batch) => write!(f, "{batch}"),
            Value::Message(message) => write!(f, "{message}"),
            Value::State(states) => {
                let named = States::NAMES.iter().find(|(_, named)| named == states);
                f.write_str(named.map_or("", |(name, _)| name))
            }
            Value::Age(age) => write_age(f, *age),
            Value::Size(size) => write_size(f, *size),
            Value::Count(count) => write!(f, "{count}"),
        }
    }
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let bare = !text.is_empty() && !text.starts_with('"') && !text.contains(char::is_whitespace);
    if bare {
        return f.write_str(text);
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    write!(f, "\"{escaped}\"")
}

fn write_age(f: &mut fmt::Formatter<'_>, age: Duration) -> fmt::Result {
    if !age.subsec_micros().is_multiple_of(1_000) {
        return write!(f, "{}us", age.as_micros());
    }
    match (age.subsec_millis(), age.as_secs()) {
        (1.., _) => write!(f, "{}ms", age.as_millis()),
        (0, secs) if secs > 0 && secs.is_multiple_of(3_600) => write!(f, "{}h", secs / 3_600),
        (0, secs) if secs > 0 && secs.is_multiple_of(60) => write!(f, "{}m", secs / 60),
        (0, secs) => write!(f, "{secs}s"),
    }
}

fn write_size(f: &mut fmt::Formatter<'_>, size: u64) -> fmt::Result {
    match size {
        1.. if size.is_multiple_of(1 << 20) => write!(f, "{}m", size >> 20),
        1.. if size.is_multiple_of(1 << 10) => write!(f, "{}k", size >> 10),
        _ => write!(f, "{size}"),
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Filter, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0C8V3M1A7Q2ZK-7";

    fn facts() -> Facts<'static> {
        Facts {
            domain: Some("gmail.com"),
            binding: Some("mta-3"),
            id: ID.parse().ok(),
            recipient: Some("Bob@Gmail.com"),
            sender: Some(SenderFact::Text("")),
            states: States::DELAYED,
            code: Some("421 4.7.28 unusual rate"),
            cause: Some("retry"),
            age: Some(Duration::from_secs(600)),
            size: Some(65_536),
            attempts: Some(3),
            class: Some("bulk"),
            tenant: Some("Acme"),
            campaign: None,
        }
    }

    #[test]
    fn every_field_and_operator_decides_as_it_reads() {
        let cases = [
            ("", true),
            ("domain=GMAIL.com", true),
            ("domain!=gmail.com", false),
            ("domain~mail", true),
            ("domain=gmail.com binding=mta-4", false),
            ("id=0c8v3m1a7q2zk", true),
            ("id=0C8V3M1A7Q2ZK-7", true),
            ("id=0C8V3M1A7Q2ZK-8", false),
            ("id!=0C8V3M1A7Q2ZK-8", true),
            ("recipient~@gmail", true),
            ("sender=\"\"", true),
            ("sender=<>", true),
            ("sender!=<>", false),
            ("sender~<>", false),
            ("sender=a@b", false),
            ("state=delayed", true),
            ("state=active", false),
            ("state!=active", true),
            ("code~4.7", true),
            ("code~\"unusual rate\"", true),
            ("cause=retry", true),
            ("age>10m", false),
            ("age>=10m", true),
            ("age<11m", true),
            ("age<=9m", false),
            ("size=64k", true),
            ("size>1m", false),
            ("attempts>=3 attempts<4", true),
            ("attempts!=3", false),
            ("tenant=acme class=BULK", true),
            ("tenant~cm tenant!=ac", true),
            ("campaign~x", false),
            ("campaign!=x", true),
        ];
        for (text, expected) in cases {
            let filter: Filter = text.parse().unwrap();
            assert_eq!(filter.matches(&facts()), expected, "{text}");
        }
    }

    #[test]
    fn a_missing_fact_satisfies_only_unequal() {
        for (text, expected) in [("code~4", false), ("code!=4", true), ("age>0", false)] {
            let filter: Filter = text.parse().unwrap();
            assert_eq!(filter.matches(&Facts::default()), expected, "{text}");
        }
    }

    #[test]
    fn a_queue_is_in_every_state_that_it_has_messages_in() {
        let states = States::NONE
            .with(States::ACTIVE, true)
            .with(States::DELAYED, false);
        let queue = Facts {
            states,
            ..Facts::default()
        };
        let filter = |text: &str| text.parse::<Filter>().unwrap().matches(&queue);
        assert!(filter("state=active") && filter("state!=delayed"));
        assert!(!filter("state=in_flight") && !filter("state!=active"));
        // Only messages are held, and those are delayed too.
        let needs = |text: &str| text.parse::<Filter>().unwrap().needs_messages();
        assert_eq!(needs("state=held"), Some(Field::State));
        assert_eq!(needs("state=delayed"), None);
        let held = Facts {
            states: States::DELAYED.with(States::HELD, true),
            ..Facts::default()
        };
        for (text, expected) in [("state=held", true), ("state=delayed", true)] {
            let filter = text.parse::<Filter>().unwrap();
            assert_eq!(filter.matches(&held), expected, "{text}");
        }
    }

    #[test]
    fn the_printed_form_parses_to_the_same_filter() {
        let cases = [
            (
                "  Domain=Example.COM   age>90s ",
                "domain=example.com age>90s",
            ),
            ("age>1h size>=1m size<1k", "age>1h size>=1m size<1k"),
            (
                "code~\"a \\\"b\\\\\" sender=\"\"",
                "code~\"a \\\"b\\\\\" sender=\"\"",
            ),
            (
                "id=0c8v3m1a7q2zk-7 age<250ms age=120",
                "id=0C8V3M1A7Q2ZK-7 age<250ms age=2m",
            ),
            ("recipient=a\"b", "recipient=a\"b"),
            (
                "age>0 size>0 state!=in_flight",
                "age>0s size>0 state!=in_flight",
            ),
        ];
        for (text, printed) in cases {
            let filter: Filter = text.parse().unwrap();
            assert_eq!(filter.to_string(), printed);
            assert_eq!(printed.parse(), Ok(filter.clone()));
            let json = serde_json::to_string(&filter).unwrap();
            assert_eq!(serde_json::from_str::<Filter>(&json).unwrap(), filter);
        }
    }

    #[test]
    fn errors_say_where_and_what_was_expected() {
        let fields = "domain binding id recipient sender state code cause age size attempts \
                      class tenant campaign";
        let cases = [
            (
                "age>1m domian=x",
                format!(
                    "filter, column 8: \"domian\" is not understood; expected one of {fields}; \
                     did you mean \"domain\"?"
                ),
            ),
            (
                "=x",
                format!("filter, column 1: \"=x\" is not understood; expected one of {fields}"),
            ),
            (
                "domain>x",
                "filter, column 7: \">\" is not understood; expected = != ~ after domain".into(),
            ),
            (
                "age",
                "filter, column 4: nothing follows; expected = != > < >= <= after age".into(),
            ),
            (
                "domain=",
                "filter, column 8: nothing follows; expected a value after domain".into(),
            ),
            (
                "state=delaid",
                "filter, column 7: \"delaid\" is not understood; expected one of active delayed \
                 in_flight held; did you mean \"delayed\"?"
                    .into(),
            ),
            (
                "é=1",
                format!("filter, column 1: \"é\" is not understood; expected one of {fields}"),
            ),
            (
                "age>soon",
                "filter, column 5: \"soon\" is not understood; expected a duration such as 90s, \
                 10m, 1h30m"
                    .into(),
            ),
            (
                "code~\"x",
                "filter, column 6: \"\"x\" is not understood; expected a closing quote".into(),
            ),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Filter>().unwrap_err();
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_filter_is_bounded() {
        assert!(
            "age>1 "
                .repeat(FILTER_CONDITIONS_MAX)
                .parse::<Filter>()
                .is_ok()
        );
        assert!(
            "age>1 "
                .repeat(FILTER_CONDITIONS_MAX + 1)
                .parse::<Filter>()
                .is_err()
        );
        assert!(
            format!("code~{}", "x".repeat(FILTER_BYTES_MAX))
                .parse::<Filter>()
                .is_err()
        );
    }

    #[test]
    fn what_only_messages_have_is_known() {
        let needs = |text: &str| text.parse::<Filter>().unwrap().needs_messages();
        assert_eq!(needs("domain=a age>1m"), None);
        assert_eq!(needs("domain=a size>1m"), Some(Field::Size));
        let filter: Filter = "domain=a binding~b".parse().unwrap();
        assert_eq!(filter.exact(Field::Domain), Some("a"));
        assert_eq!(filter.exact(Field::Binding), None);
        assert!(filter.asks_for(Field::Binding) && !filter.asks_for(Field::Age));
    }
}
