//! `pelton reload`: read the configuration again and let it run.

use clap::Args;

use crate::cli::client;
use crate::cli::client::ServerArgs;
use crate::cli::output;
use crate::cli::output::EXIT_CONFIG;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::Style;
use crate::cli::output::clean;
use crate::cli::output::command;
use crate::control::management::protocol::Envelope;
use crate::control::management::protocol::Reply;
use crate::control::management::protocol::Request;

const EXAMPLES: &str = "\
Examples:
  pelton reload                        of the engine of /etc/pelton/pelton.conf
  pelton reload --config my.conf       of the engine of that file
  pelton check --config my.conf && pelton reload --config my.conf

A file with errors changes nothing: they are named, and the exit code is 2. Options that need a
restart are named too, and stay as they were until then.";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ReloadArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(args: &ReloadArgs) -> u8 {
    let style = Style::of_stdout(args.output.color);
    let page = act(args, &style).map(|page| page.about(&args.server));
    output::show(page, args.output, false)
}

fn act(args: &ReloadArgs, style: &Style) -> Result<Page, Failure> {
    let envelope = client::ask(&args.server.places()?, &Request::Reload)?;
    page(envelope, style)
}

/// The page for a reply.
pub fn page(envelope: Envelope, style: &Style) -> Result<Page, Failure> {
    let Envelope {
        node,
        at,
        notes,
        reply,
    } = envelope;
    let reloaded = match reply {
        Reply::Reloaded(reloaded) => reloaded,
        Reply::Refused(findings) => {
            let message = "reload refused, the running configuration stays:";
            return Err(Failure {
                findings,
                ..Failure::new(EXIT_CONFIG, "E414", message)
            });
        }
        _ => return Err(client::unexpected()),
    };
    let digest = style.strong(&clean(&reloaded.digest));
    let generation = reloaded.generation;
    let mut text = match reloaded.changed {
        true => format!("config {digest} runs now, generation {generation}\n"),
        false => format!("nothing has changed: config {digest} runs on, generation {generation}\n"),
    };
    for note in &reloaded.notes {
        text.push_str(&format!("{} {}\n", style.warn("WARN"), clean(note)));
    }
    let next = command(&["pelton", "changes", "--since", "1h"]);
    Ok(Page {
        schema: "pelton.reload/1",
        node,
        at,
        text,
        data: serde_json::to_value(&reloaded).unwrap_or_default(),
        records: None,
        warnings: notes,
        next: vec![next],
        exit: EXIT_DONE,
    })
}
