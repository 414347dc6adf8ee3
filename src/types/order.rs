//! What an operator has told the engine to do with queued mail: suspend, hold, reroute, delay,
//! fail, flush, rebind.
//!
//! *Standing* orders (suspend, hold, reroute) are about mail as its turn comes, that of later too,
//! until they end or are taken back. *One-time* orders (delay, fail, flush, rebind) are about what
//! had been accepted when they were given: they go through the queues once, and are over with that.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Wall;
use crate::base::units;
use crate::types::filter::Field;
use crate::types::filter::Filter;

/// Orders in force at a time; a further one is refused.
pub const ORDERS_MAX: usize = 1_000;

/// Bytes of a reason.
pub const REASON_BYTES_MAX: usize = 500;

/// The longest time that an order may be given for.
pub const ORDER_LASTS_MAX: Duration = Duration::from_secs(365 * 86_400);

/// How long a suspension lasts unless told otherwise: nothing is stopped for ever by a hand that
/// has forgotten it.
pub const SUSPEND_LASTS: Duration = Duration::from_secs(4 * 3_600);

/// The same for messages that are held.
pub const HOLD_LASTS: Duration = Duration::from_secs(24 * 3_600);

/// The same for mail that is sent elsewhere.
pub const REROUTE_LASTS: Duration = Duration::from_secs(24 * 3_600);

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// No message starts. Standing.
    Suspend,
    /// Messages are put aside when their turn comes. Standing.
    Hold,
    /// Queues are delivered to other hosts than DNS or the configuration says. Standing.
    Reroute,
    /// Not to be tried before the end of the order.
    Delay,
    /// Ends messages for good.
    Fail,
    /// What is delayed is due now.
    Flush,
    /// Gives messages to another binding.
    Rebind,
}

impl Verb {
    pub const ALL: [Verb; 7] = [
        Verb::Suspend,
        Verb::Hold,
        Verb::Reroute,
        Verb::Delay,
        Verb::Fail,
        Verb::Flush,
        Verb::Rebind,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Suspend => "suspend",
            Verb::Hold => "hold",
            Verb::Reroute => "reroute",
            Verb::Delay => "delay",
            Verb::Fail => "fail",
            Verb::Flush => "flush",
            Verb::Rebind => "rebind",
        }
    }

    /// What has been done to the messages.
    pub fn done(self) -> &'static str {
        match self {
            Verb::Suspend => "suspended",
            Verb::Hold => "held",
            Verb::Reroute => "rerouted",
            Verb::Delay => "delayed",
            Verb::Fail => "failed",
            Verb::Flush => "flushed",
            Verb::Rebind => "rebound",
        }
    }

    /// It is about mail that comes later, too.
    pub fn is_standing(self) -> bool {
        matches!(self, Verb::Suspend | Verb::Hold | Verb::Reroute)
    }

    /// Messages that meet it do not start.
    pub fn stops(self) -> bool {
        matches!(self, Verb::Suspend | Verb::Hold)
    }

    /// How long it lasts unless told otherwise; nothing if it has no time.
    pub fn lasts(self) -> Option<Duration> {
        match self {
            Verb::Suspend => Some(SUSPEND_LASTS),
            Verb::Hold => Some(HOLD_LASTS),
            Verb::Reroute => Some(REROUTE_LASTS),
            Verb::Delay | Verb::Fail | Verb::Flush | Verb::Rebind => None,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One order, as it is kept on disk and given to every shard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Counts the orders of a spool.
    pub id: u64,
    pub verb: Verb,
    /// Empty means all mail.
    pub filter: Filter,
    /// Of a reroute: the host, with a port if that is not 25. Of a rebind: the binding, or the
    /// binding group.
    #[serde(default)]
    pub to: Option<String>,
    /// Microseconds since 1970.
    pub given_us: u64,
    /// When it ends; of a delay, when the messages are due.
    pub until_us: Option<u64>,
    /// Why, in the words of whoever gave it.
    pub reason: String,
    /// `uid 0`.
    pub by: String,
}

impl Order {
    pub fn given(&self) -> Wall {
        Wall(self.given_us)
    }

    pub fn until(&self) -> Option<Wall> {
        self.until_us.map(Wall)
    }

    /// Whether it has any effect at this moment.
    pub fn is_in_force(&self, now: Wall) -> bool {
        !self.verb.is_standing() || self.until().is_none_or(|until| now < until)
    }

    /// A queue as a whole meets the filter, or none of its messages does.
    pub fn is_of_queue(&self) -> bool {
        is_of_queue(&self.filter)
    }

    /// `suspend domain=example.com`, with `--all` for everything.
    pub fn what(&self) -> String {
        let to = self.to.as_ref().map(|to| format!(" --to {to}"));
        let to = to.unwrap_or_default();
        match self.filter.is_empty() {
            true => format!("{} --all{to}", self.verb),
            false => format!("{} {}{to}", self.verb, self.filter),
        }
    }

    /// `operator order 7 (suspend domain=example.com, by uid 0: they asked us to)`.
    pub fn sentence(&self) -> String {
        let reason = match self.reason.is_empty() {
            true => String::new(),
            false => format!(": {}", self.reason),
        };
        format!(
            "order {} ({}, by {}{reason})",
            self.id,
            self.what(),
            self.by
        )
    }
}

/// Only facts that a queue and all its messages have in common, and that never change.
pub fn is_of_queue(filter: &Filter) -> bool {
    let fields = filter.conditions().iter().map(|it| it.field);
    fields
        .into_iter()
        .all(|it| matches!(it, Field::Domain | Field::Binding))
}

/// Whether such an order may be given; otherwise what is wrong with it.
pub fn check(verb: Verb, filter: &Filter) -> Result<(), String> {
    if verb == Verb::Reroute && !is_of_queue(filter) {
        return Err(
            "reroute leads whole queues elsewhere: its filter may speak of domain and binding only"
                .to_owned(),
        );
    }
    let passing = [Field::State, Field::Cause];
    let passing = passing.into_iter().find(|it| filter.asks_for(*it));
    match passing.filter(|_| verb.is_standing()) {
        Some(field) => Err(format!(
            "{} changes from moment to moment, and {verb} is about mail that comes later, too: \
             leave it out, or use delay, which is about what is there now",
            field.as_str()
        )),
        None => Ok(()),
    }
}

/// When an order that lasts so long ends, or what is wrong with that.
pub fn ends_at(now: Wall, lasts: Duration) -> Result<Wall, String> {
    if lasts.is_zero() {
        return Err("it would be over at once: a time from now on is expected".to_owned());
    }
    if lasts > ORDER_LASTS_MAX {
        let most = units::duration(ORDER_LASTS_MAX);
        return Err(format!(
            "{most} from now is the latest end that an order can have"
        ));
    }
    Ok(now + lasts)
}

/// All orders, as every shard is given them. Replaced as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Orders {
    /// Sorted by their ids.
    pub all: Vec<Order>,
    /// Bindings that cannot send, because an address of theirs is not on this machine.
    pub absent: Vec<Absent>,
    /// What earlier starts have left is in the queues: who has gone through all of them since then
    /// has seen all messages.
    pub complete: bool,
}

/// A source address that is missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Absent {
    pub binding: String,
    pub address: IpAddr,
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Absent { binding, address } = self;
        write!(
            f,
            "binding \"{binding}\" is suspended: its Bind_Address {address} is not on this machine"
        )
    }
}

impl Orders {
    /// What is missing of a binding.
    pub fn absent_of(&self, binding: &str) -> Option<&Absent> {
        self.absent.iter().find(|it| it.binding == binding)
    }

    pub fn find(&self, id: u64) -> Option<&Order> {
        let index = self.all.binary_search_by_key(&id, |order| order.id).ok()?;
        self.all.get(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(verb: Verb, filter: &str) -> Order {
        Order {
            id: 7,
            verb,
            filter: filter.parse().unwrap(),
            to: None,
            given_us: 1_000_000,
            until_us: Some(5_000_000),
            reason: "they asked".to_owned(),
            by: "uid 0".to_owned(),
        }
    }

    #[test]
    fn an_order_says_what_it_is() {
        let cases = [
            (
                order(Verb::Suspend, "domain=a.example"),
                "order 7 (suspend domain=a.example, by uid 0: they asked)",
            ),
            (
                order(Verb::Fail, ""),
                "order 7 (fail --all, by uid 0: they asked)",
            ),
        ];
        for (order, expected) in cases {
            assert_eq!(order.sentence(), expected);
            let json = serde_json::to_string(&order).unwrap();
            assert_eq!(serde_json::from_str::<Order>(&json).unwrap(), order);
        }
    }

    #[test]
    fn only_what_never_changes_of_a_queue_decides_for_all_of_it() {
        let cases = [
            ("", true),
            ("domain=a binding~b", true),
            ("domain=a age>1h", false),
            ("sender=a@b", false),
            ("code~4.7", false),
        ];
        for (filter, expected) in cases {
            assert_eq!(
                order(Verb::Suspend, filter).is_of_queue(),
                expected,
                "{filter}"
            );
        }
    }

    #[test]
    fn a_standing_order_is_not_about_what_passes() {
        let check = |verb, filter: &str| check(verb, &filter.parse().unwrap()).is_ok();
        assert!(!check(Verb::Suspend, "state=delayed"));
        assert!(!check(Verb::Hold, "domain=a cause~dns"));
        assert!(check(Verb::Fail, "state=delayed"));
        assert!(check(Verb::Hold, "domain=a age>1h"));
        assert!(!check(Verb::Reroute, "domain=a age>1h"));
        assert!(check(Verb::Reroute, "domain=a"));
    }

    #[test]
    fn a_standing_order_ends_and_a_one_time_order_does_not() {
        let (before, after) = (Wall(4_999_999), Wall(5_000_000));
        let suspend = order(Verb::Suspend, "");
        assert!(suspend.is_in_force(before) && !suspend.is_in_force(after));
        assert!(order(Verb::Delay, "").is_in_force(after));
        assert!(ends_at(before, Duration::ZERO).is_err());
        assert!(ends_at(before, ORDER_LASTS_MAX * 2).is_err());
        assert_eq!(ends_at(before, Duration::from_micros(1)), Ok(after));
    }
}
