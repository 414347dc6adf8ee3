//! The commands. Each has its arguments as a clap struct and a function that gives the exit code.

pub mod act;
pub mod adaptive;
pub mod changes;
pub mod client;
pub mod config;
pub mod demo;
pub mod meaning;
pub mod output;
pub mod practice;
pub mod process;
pub mod queue;
pub mod reload;
pub mod serve;
pub mod simulate;
pub mod spool;
pub mod status;
pub mod trace;
pub mod why;
