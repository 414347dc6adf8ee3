//! L2: bytes to types and back, sans-IO. Nothing here decides; it parses and writes.

pub mod smtp;
