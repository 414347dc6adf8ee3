//! The test rig: receiving hosts with behaviours, a small authoritative DNS responder and a load
//! generator, each startable in this process (the demo, the tests) or from its own binary. The rig
//! is a peer of the engine, never a part of it: it knows SMTP and DNS only from the other side and
//! imports nothing but `base`, so that a fault in our parser cannot hide itself in its own test.

#![allow(clippy::disallowed_methods)] // A rig measures: it reads clocks.

pub mod base64;
pub mod blast;
pub mod dns;
pub mod runtime;
pub mod sink;
