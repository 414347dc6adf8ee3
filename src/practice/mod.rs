//! L3: an internet to practise on. Receivers with limits that they do not tell, the load that goes
//! to them, what a sender who knew every limit could have delivered, and how a sender who did not
//! has done.
//!
//! A scenario file ([`read`]) becomes a [`scenario::Scenario`]; [`load`] says which message comes
//! when; [`internet`] decides like the receivers; [`session`] is their side of SMTP; [`oracle`]
//! knows the limits; [`report`] compares. The simulation and the sink both play the same model.
//!
//! Nothing here knows of sockets, clocks or engines: time is an argument, in microseconds since
//! the scenario began.

pub mod internet;
pub mod load;
pub mod oracle;
pub mod read;
pub mod report;
pub mod scenario;
pub mod session;
pub mod standing;
pub mod words;

/// Microseconds of a second, an hour and a day: all times of this module are microseconds.
pub const SECOND: u64 = 1_000_000;
pub const HOUR: u64 = 3_600 * SECOND;
pub const DAY: u64 = 24 * HOUR;
