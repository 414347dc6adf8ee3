//! The `pelton` command.

use std::process::exit;

use clap::{Parser, Subcommand};
use pelton::cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A mail engine: takes mail in, answers 250 when it is on disk, delivers it from the right
/// address, and tells why whatever waits is waiting.
#[derive(Parser)]
#[command(name = "pelton", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(cli::serve::ServeArgs),
    Demo(cli::demo::DemoArgs),
    Status(cli::status::StatusArgs),
    Queue(cli::queue::QueueArgs),
    Why(cli::why::WhyArgs),
    Trace(cli::trace::TraceArgs),
    Changes(cli::changes::ChangesArgs),
    Reload(cli::reload::ReloadArgs),
    Check(cli::config::CheckArgs),
    #[command(subcommand)]
    Config(cli::config::ConfigCommand),
}

fn main() {
    exit(match Arguments::parse().command {
        Command::Serve(args) => cli::serve::run(&args),
        Command::Demo(args) => cli::demo::run(&args),
        Command::Status(args) => cli::status::run(&args).into(),
        Command::Queue(args) => cli::queue::run(&args).into(),
        Command::Why(args) => cli::why::run(&args).into(),
        Command::Trace(args) => cli::trace::run(&args).into(),
        Command::Changes(args) => cli::changes::run(&args).into(),
        Command::Reload(args) => cli::reload::run(&args).into(),
        Command::Check(args) => {
            let environment = cli::config::detect_environment();
            let mut out = std::io::stdout().lock();
            cli::config::check(&args, &environment, &mut out).unwrap_or(1)
        }
        Command::Config(command) => {
            let environment = cli::config::detect_environment();
            let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr());
            cli::config::run(&command, &environment, &mut out, &mut err).unwrap_or(1)
        }
    });
}
