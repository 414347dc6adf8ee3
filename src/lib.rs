//! Pelton: a mail engine for Linux. It takes mail in over SMTP, answers `250` when the message is
//! on disk, queues it per (binding, domain) and delivers it from the right source address.
//!
//! The life of a message, and where to read it:
//!
//! 1. A shard accepts a connection ([`shard`]) and feeds its bytes to a session ([`inject`]).
//! 2. The session asks policy at every phase ([`policy`]); a whole message is offered to its home.
//! 3. The home writes one record ([`spool`] on [`log`]) and answers `250` when its commit is
//!    durable.
//! 4. Each recipient goes to the shard that owns its queue ([`engine`], [`bridge`], [`queue`]).
//! 5. The owner finds the way, connects, speaks SMTP ([`deliver`]).
//! 6. What became of the recipient goes home, to disk, and into the event log ([`hose`]).
//!
//! Modules in the order of their layers; each imports lower ones only.

pub mod base;
pub mod types;

pub mod config;
pub mod log;
pub mod proto;

pub mod deliver;
pub mod hose;
pub mod inject;
pub mod policy;
pub mod practice;
pub mod queue;
pub mod shape;
pub mod spool;

pub mod engine;

pub mod bridge;

pub mod control;
pub mod rig;
pub mod shard;
pub mod sim;

pub mod cli;
