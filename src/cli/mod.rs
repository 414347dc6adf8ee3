//! The commands. Each has its arguments as a clap struct and a function that gives the exit code.

pub mod config;
pub mod process;
pub mod serve;
