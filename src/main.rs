//! The `pelton` command.

use std::io::{self, BufWriter, Write};
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
    /// Run the engine
    Serve(cli::serve::ServeArgs),
    /// Show the main job on loopback, from injection to a checked ledger
    Demo(cli::demo::DemoArgs),
    /// Run whole engines in a simulated world of faults, from seeds
    Simulate(cli::simulate::SimulateArgs),
    /// Run whole engines against receivers with hidden limits, in virtual time
    Practice(cli::practice::PracticeArgs),
    /// Is anything wrong: verdict, rates, queues, spool, latency
    Status(cli::status::StatusArgs),
    /// List queues or messages, show one of them, say what it waits for
    Queue(cli::queue::QueueArgs),
    /// What a domain's queues wait for, since when, until when, what the host said
    Why(cli::why::WhyArgs),
    /// The life of one message, by its id or its recipient
    Trace(cli::trace::TraceArgs),
    /// A spool without its engine: look at it, verify, export, import
    Spool(cli::spool::SpoolToolArgs),
    /// What was learnt of receivers: limits, suspensions, and why
    Adaptive(cli::adaptive::AdaptiveArgs),
    /// Who takes no mail of ours, since when, and their words
    Blocks(cli::adaptive::BlocksArgs),
    /// What has changed: starts, configurations, operators
    Changes(cli::changes::ChangesArgs),
    /// Load the configuration again; a file with errors changes nothing
    Reload(cli::reload::ReloadArgs),
    /// Stop mail for a while: nothing that matches starts, until a time or pelton resume
    Suspend(cli::act::SuspendArgs),
    /// Take suspensions back
    Resume(cli::act::ResumeArgs),
    /// Put single messages aside when their turn comes, until a time or pelton release
    Hold(cli::act::HoldArgs),
    /// Let held messages go
    Release(cli::act::ReleaseArgs),
    /// Send queues to another host than DNS says, until a time or pelton undo
    Reroute(cli::act::RerouteArgs),
    /// Give what is there now to another binding, or to a binding group
    Rebind(cli::act::RebindArgs),
    /// Do not try what is there now before a time
    Delay(cli::act::DelayArgs),
    /// Try what is delayed now
    Flush(cli::act::FlushArgs),
    /// End messages for good
    Fail(cli::act::FailArgs),
    /// What operators have ordered, and what it concerns
    Orders(cli::act::OrdersArgs),
    /// Take back an order
    Undo(cli::act::UndoArgs),
    /// Check a configuration file and say everything that is wrong with it
    Check(cli::config::CheckArgs),
    /// What an option is here and where that comes from; the reference of all options
    #[command(subcommand)]
    Config(cli::config::ConfigCommand),
}

fn main() {
    exit(match Arguments::parse().command {
        Command::Serve(args) => cli::serve::run(&args),
        Command::Simulate(args) => cli::simulate::run(&args),
        Command::Practice(args) => cli::practice::run(&args).into(),
        Command::Demo(args) => cli::demo::run(&args),
        Command::Status(args) => cli::status::run(&args).into(),
        Command::Queue(args) => cli::queue::run(&args).into(),
        Command::Why(args) => cli::why::run(&args).into(),
        Command::Trace(args) => cli::trace::run(&args).into(),
        Command::Spool(args) => cli::spool::run(&args).into(),
        Command::Adaptive(args) => cli::adaptive::run(&args).into(),
        Command::Blocks(args) => cli::adaptive::blocks(&args).into(),
        Command::Changes(args) => cli::changes::run(&args).into(),
        Command::Reload(args) => cli::reload::run(&args).into(),
        Command::Suspend(args) => cli::act::suspend(&args).into(),
        Command::Resume(args) => cli::act::resume(&args).into(),
        Command::Hold(args) => cli::act::hold(&args).into(),
        Command::Release(args) => cli::act::release(&args).into(),
        Command::Reroute(args) => cli::act::reroute(&args).into(),
        Command::Rebind(args) => cli::act::rebind(&args).into(),
        Command::Delay(args) => cli::act::delay(&args).into(),
        Command::Flush(args) => cli::act::flush(&args).into(),
        Command::Fail(args) => cli::act::fail(&args).into(),
        Command::Orders(args) => cli::act::orders(&args).into(),
        Command::Undo(args) => cli::act::undo(&args).into(),
        Command::Check(args) => {
            let environment = cli::config::detect_environment();
            printed(|out| cli::config::check(&args, &environment, out))
        }
        Command::Config(command) => {
            let environment = cli::config::detect_environment();
            printed(|out| cli::config::run(&command, &environment, out, &mut std::io::stderr()))
        }
    });
}

/// What a command that writes as it goes comes to. All of it is in one buffer, so that whoever
/// reads only the beginning ends it quietly.
fn printed(command: impl FnOnce(&mut dyn Write) -> io::Result<i32>) -> i32 {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = command(&mut out).and_then(|code| out.flush().map(|()| code));
    match (cli::output::exit_of_write(&done), done) {
        (Some(exit), _) => exit.into(),
        (None, code) => code.unwrap_or(cli::output::EXIT_FAILED.into()),
    }
}
