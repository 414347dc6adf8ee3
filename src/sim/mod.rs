pub mod counts;
mod disk;
mod event_disk;
mod net;
pub mod planted;
mod scenario;
mod schedule;
