//! SMTP as bytes (RFC 5321, 2920, 1870, 6152, 6531, 3030): commands and data as a server reads
//! them, replies and data as a client reads and writes them.

pub mod command;
pub mod data;
pub mod downgrade;
pub mod flow_fields;
pub mod header;
pub mod path;
pub mod reply;
pub mod stuff;
