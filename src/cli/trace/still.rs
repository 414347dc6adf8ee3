//! What waits while no engine runs, read from the spool as a start would find it.

use std::path::Path;

use crate::base::units::counted;
use crate::cli::output::wall_now;
use crate::cli::spool::place::SpoolPlace;
use crate::cli::spool::view::{Progress, View};
use crate::engine::query::{MessageSummary, MessageTrace, TraceTarget};
use crate::types::flow::{CLASS_DEFAULT, FlowNames};
use crate::types::id::MessageId;
use crate::types::message::Arrival;

/// What waits in a spool of what was asked for, the oldest first, and what the spool warns of.
/// Nothing if there is no spool, or it cannot be read: the note says why.
pub fn waiting(base: &Path, target: &TraceTarget) -> (Vec<MessageTrace>, Vec<String>) {
    let place = SpoolPlace::of_folder(base);
    let mut view = match View::open(&place, &mut Progress::new("reading the spool")) {
        Ok(view) => view,
        Err(failure) => {
            let note = format!("what waits in the spool is not told: {}", failure.message);
            return (Vec::new(), vec![note]);
        }
    };
    let mut arrivals = core::mem::take(&mut view.arrivals);
    arrivals.retain(|arrival| is_meant(target, arrival));
    let told = arrivals.iter().map(|arrival| trace(&mut view, arrival));
    (told.collect(), view.warnings())
}

fn is_meant(target: &TraceTarget, arrival: &Arrival) -> bool {
    match target {
        TraceTarget::Message(id) => id_of(arrival).to_string() == *id,
        TraceTarget::Batch(id) => arrival.batch.to_string() == *id,
        TraceTarget::Recipient(address) => {
            arrival.address.to_string().eq_ignore_ascii_case(address)
        }
    }
}

fn id_of(arrival: &Arrival) -> MessageId {
    MessageId {
        batch: arrival.batch,
        recipient: arrival.recipient,
    }
}

fn trace(view: &mut View, arrival: &Arrival) -> MessageTrace {
    let envelope = view.envelope(arrival).map(|it| it.content);
    let names = arrival.flow.as_ref().map(|flow| flow.names());
    let names = names.unwrap_or(FlowNames {
        class: CLASS_DEFAULT,
        ..FlowNames::default()
    });
    let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    let (now, due, attempts) = (wall_now(), arrival.progress.due, arrival.progress.attempts);
    let tried = match attempts {
        0 => "not tried yet".to_owned(),
        more => format!("{} failed", counted(more.into(), "attempt")),
    };
    let message = MessageSummary {
        id: id_of(arrival).to_string(),
        recipient: arrival.address.to_string(),
        binding: arrival.binding.to_string(),
        domain: arrival.address.domain().to_string(),
        shard: arrival.home.0,
        home: arrival.home.0,
        state: super::STORED.to_owned(),
        size_bytes: arrival.size.into(),
        age_seconds: now.since(arrival.received).as_secs(),
        attempts: attempts.into(),
        due: (due > now).then(|| due.rfc3339().to_string()),
        // That is for the settings to say, by which no engine runs.
        expires: None,
        body_in_memory: false,
        class: names.class.to_owned(),
        tenant: named(names.tenant),
        campaign: named(names.campaign),
        order: None,
    };
    MessageTrace {
        sender: envelope.as_ref().map(|it| {
            let sender = it.sender.as_ref();
            sender.map_or(String::new(), ToString::to_string)
        }),
        subject: envelope.as_ref().map(|it| it.subject.to_string()),
        received_from: envelope
            .as_ref()
            .map(|it| format!("{} [{}]", it.origin.helo, it.origin.peer)),
        last_reply: None,
        transcripts: Vec::new(),
        sentence: format!("waits in the spool for an engine to start, {tried}"),
        message,
    }
}
