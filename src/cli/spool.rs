//! `pelton spool info | verify | list | show | export | import`: a spool without its engine. All
//! but import only read, and work beside a running engine too; import is a writer like an engine,
//! and needs the spool for itself.

mod damage;
mod export;
mod import;
mod info;
mod ledger;
mod list;
mod mbox;
pub(super) mod place;
mod sidecar;
mod source;
mod verify;
pub(super) mod view;
mod writer;

use clap::Args;
use clap::Subcommand;

use crate::cli::output;
use crate::cli::output::Style;

pub use crate::cli::spool::export::ExportArgs;
pub use crate::cli::spool::import::ImportArgs;
pub use crate::cli::spool::info::InfoArgs;
pub use crate::cli::spool::list::ListArgs;
pub use crate::cli::spool::list::ShowArgs;
pub use crate::cli::spool::place::SpoolArgs;
pub use crate::cli::spool::verify::VerifyArgs;

const EXAMPLES: &str = "\
A disk is dying, or an engine is to move:
  pelton spool verify --spool /var/spool/pelton        is all of it readable, and what is lost
  pelton spool export saved --spool /var/spool/pelton  all that waits, as .eml files
  pelton spool import saved --spool /srv/pelton        into the spool of another engine

Without --spool it is the spool of /etc/pelton/pelton.conf (--config FILE, PELTON_CONFIG). Only
import writes to the spool; the others may run beside the engine, and tell of one moment.

Exit codes: 0 done; 1 failed, or damage was met, so that what is told or taken out may not be all;
2 usage, or no spool there; 3 no such message; 5 the spool is another user's.";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SpoolToolArgs {
    #[command(subcommand)]
    pub command: SpoolCommand,
}

#[derive(Subcommand, Clone, Debug)]
pub enum SpoolCommand {
    /// What the spool is: id, shards, segments, how much waits, whether an engine runs there
    Info(InfoArgs),
    /// Read every record in full and report each damaged place and the messages that it costs
    Verify(VerifyArgs),
    /// The messages that wait, a line for each recipient
    List(ListArgs),
    /// One message: envelope, state of each recipient, headers; with --body the message itself
    Show(ShowArgs),
    /// Copy what waits to a folder of .eml files, or to one mbox
    Export(ExportArgs),
    /// Put messages into this spool: from an exported folder, an mbox, or another spool
    Import(ImportArgs),
}

pub fn run(args: &SpoolToolArgs) -> u8 {
    match &args.command {
        SpoolCommand::Info(args) => {
            let style = Style::of_stdout(args.output.color);
            output::show(info::look(args, &style), args.output, false)
        }
        SpoolCommand::Verify(args) => {
            let style = Style::of_stdout(args.output.color);
            output::show(verify::look(args, &style), args.output, false)
        }
        SpoolCommand::List(args) => list::run(args),
        SpoolCommand::Show(args) => list::show(args),
        SpoolCommand::Export(args) => output::show(export::run(args), args.output, false),
        SpoolCommand::Import(args) => output::show(import::run(args), args.output, false),
    }
}
