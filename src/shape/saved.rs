//! What a pair has learnt, as it is kept on disk. Moments are wall times, so that what has a time
//! ends at that time whether the process runs or not.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::throttle::Rate;
use crate::base::time::{Now, Wall};
use crate::base::warmup;
use crate::config::adaptive::Set;

use super::complaints::Day;
use super::count::{CountControl, SavedCount};
use super::rate::{RateControl, SavedRate};
use super::{Cause, InForce, Shape, Stop};

/// The state of one pair. Whatever is not there is as if nothing had been learnt of it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    pub rate: Option<SavedRate>,
    pub connections: Option<SavedCount>,
    pub deliveries: Option<SavedCount>,
    pub stop: Option<SavedStop>,
    pub sets: Vec<SavedSet>,
    /// Deliveries and complaints.
    pub day: Day,
    pub causes: [Cause; 3],
    /// Of a binding, whatever the domain.
    pub warmup: Option<warmup::Saved>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedStop {
    pub since_us: u64,
    pub until_us: u64,
    pub blackhole: bool,
    pub cause: Cause,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedSet {
    pub set: SavedOption,
    pub until_us: u64,
    pub cause: Cause,
}

/// An option with its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SavedOption {
    MaxOutboundConnections(u32),
    MaxDeliveriesPerConnection(u32),
    /// Messages, and the milliseconds of their window.
    OutboundThrottleMessages(u32, u64),
    RetryInterval(u64),
    MaxRetryInterval(u64),
}

impl Saved {
    /// Nothing has been learnt: there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        let limits = self.connections.is_none() && self.deliveries.is_none();
        let learnt = self.rate.is_some() || !limits || self.stop.is_some();
        !learnt && self.warmup.is_none() && self.sets.is_empty() && self.day.is_empty()
    }

    /// There is something beside what was delivered.
    pub fn is_of_note(&self) -> bool {
        let day = Day::default();
        let without = Saved {
            day,
            ..self.clone()
        };
        !without.is_empty() || self.day.has_complaints()
    }
}

impl From<Set> for SavedOption {
    fn from(set: Set) -> SavedOption {
        let ms = |time: Duration| time.as_millis() as u64;
        match set {
            Set::MaxOutboundConnections(count) => SavedOption::MaxOutboundConnections(count),
            Set::MaxDeliveriesPerConnection(count) => {
                SavedOption::MaxDeliveriesPerConnection(count)
            }
            Set::OutboundThrottleMessages(Rate { count, window }) => {
                SavedOption::OutboundThrottleMessages(count, ms(window))
            }
            Set::RetryInterval(time) => SavedOption::RetryInterval(ms(time)),
            Set::MaxRetryInterval(time) => SavedOption::MaxRetryInterval(ms(time)),
        }
    }
}

impl From<SavedOption> for Set {
    fn from(option: SavedOption) -> Set {
        let time = |ms: u64| Duration::from_millis(ms.max(1));
        match option {
            SavedOption::MaxOutboundConnections(count) => Set::MaxOutboundConnections(count.max(1)),
            SavedOption::MaxDeliveriesPerConnection(count) => {
                Set::MaxDeliveriesPerConnection(count.max(1))
            }
            SavedOption::OutboundThrottleMessages(count, ms) => {
                Set::OutboundThrottleMessages(Rate {
                    count: count.max(1),
                    window: time(ms),
                })
            }
            SavedOption::RetryInterval(ms) => Set::RetryInterval(time(ms)),
            SavedOption::MaxRetryInterval(ms) => Set::MaxRetryInterval(time(ms)),
        }
    }
}

impl Shape {
    pub fn saved(&self) -> Saved {
        Saved {
            warmup: None,
            rate: self.rate.saved(),
            connections: self.connections.saved(),
            deliveries: self.deliveries.saved(),
            stop: self.stop.as_ref().map(|it| SavedStop {
                since_us: it.since.0,
                until_us: it.until.0,
                blackhole: it.blackhole,
                cause: it.cause.clone(),
            }),
            sets: self.sets.iter().map(saved_set).collect(),
            day: self.day.clone(),
            causes: self.causes.clone(),
        }
    }

    /// As it was when the process ended, however that was.
    pub fn restored(now: Now, saved: Saved) -> Shape {
        let counted = |it: SavedCount| CountControl::restored(now.mono, it);
        Shape {
            rate: match saved.rate {
                Some(rate) => RateControl::restored(now.mono, rate),
                None => RateControl::new(now.mono),
            },
            connections: saved.connections.map(counted).unwrap_or_default(),
            deliveries: saved.deliveries.map(counted).unwrap_or_default(),
            stop: saved.stop.map(|it| Stop {
                since: Wall(it.since_us),
                until: Wall(it.until_us),
                blackhole: it.blackhole,
                cause: it.cause,
            }),
            sets: saved.sets.into_iter().map(in_force).collect(),
            day: saved.day,
            causes: saved.causes,
            ..Shape::new(now)
        }
    }
}

fn saved_set(it: &InForce) -> SavedSet {
    SavedSet {
        set: it.set.into(),
        until_us: it.until.0,
        cause: it.cause.clone(),
    }
}

fn in_force(saved: SavedSet) -> InForce {
    InForce {
        set: saved.set.into(),
        until: Wall(saved.until_us),
        cause: saved.cause,
    }
}
