//! What is damaged in a spool: place by place, each with the messages that it costs, in the same
//! words whichever command tells it.

use core::fmt::Write;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::Value;
use serde_json::json;

use crate::base::units;
use crate::cli::spool::place::SPOOL_FILE;
use crate::cli::spool::view::View;
use crate::log::SegmentFile;
use crate::spool::Damaged;
use crate::spool::Problem;
use crate::spool::inspect;
use crate::types::id::BatchId;

/// What is damaged costs this message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cost {
    pub batch: BatchId,
    /// Recipients that wait for it; nothing if that cannot be told.
    pub waiting: Option<u64>,
}

/// One damaged place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Of the spool folder.
    pub file: String,
    pub segment: Option<SegmentFile>,
    pub offset: u32,
    /// Zero stands for the whole file.
    pub bytes: u32,
    pub what: Cow<'static, str>,
    pub messages: Vec<Cost>,
    /// The messages are all that lay there: nothing else is lost.
    pub complete: bool,
}

impl Piece {
    pub fn new(file: SegmentFile, (offset, bytes): (u32, u32), what: &'static str) -> Piece {
        Piece {
            segment: Some(file),
            offset,
            bytes,
            ..Piece::of_file(file.to_string(), what)
        }
    }

    fn of_file(file: String, what: impl Into<Cow<'static, str>>) -> Piece {
        Piece {
            file,
            segment: None,
            offset: 0,
            bytes: 0,
            what: what.into(),
            messages: Vec::new(),
            complete: false,
        }
    }

    fn found(damaged: &Damaged) -> Piece {
        let what = match damaged.problem {
            Problem::Missing => MESSAGE_MISSING,
            Problem::TornOrDamaged => TORN_OR_DAMAGED,
            Problem::Damaged => DAMAGED,
            Problem::Short { unused: false } => END_MISSING,
            Problem::Short { unused: true } => UNUSED_END_MISSING,
            Problem::Unreadable => UNREADABLE,
            Problem::Foreign => FOREIGN,
        };
        let cost = |batch| Cost {
            batch,
            waiting: None,
        };
        Piece {
            messages: damaged.batch.map(cost).into_iter().collect(),
            complete: damaged.problem == Problem::Short { unused: true },
            ..Piece::new(damaged.file, (damaged.offset, damaged.bytes), what)
        }
    }

    /// Whether the other one is a part of this.
    pub fn tells_of(&self, other: &Piece) -> bool {
        let ends = |it: &Piece| match it.bytes {
            0 => u32::MAX,
            bytes => it.offset.saturating_add(bytes),
        };
        let same = self.segment.is_some() && self.segment == other.segment;
        let overlap = other.offset < ends(self) && self.offset < ends(other);
        same && overlap && other.what != MESSAGE_MISSING
    }

    pub fn sentence(&self) -> String {
        let Piece {
            file,
            offset,
            bytes,
            what,
            ..
        } = self;
        let mut text = match bytes {
            0 => format!("{file}: {what}"),
            bytes => format!(
                "{file}: {} bytes at {offset}: {what}",
                units::grouped((*bytes).into())
            ),
        };
        for Cost { batch, waiting } in &self.messages {
            let told = match waiting {
                Some(0) => format!("message {batch} lay there, which nobody waits for any more"),
                Some(count) => format!(
                    "message {batch} is lost, {} for it",
                    match count {
                        1 => "1 recipient waits".to_owned(),
                        count => format!("{count} recipients wait"),
                    }
                ),
                None => format!("message {batch} is lost, if anybody still waits for it"),
            };
            // Writing to a string cannot fail.
            let _ = write!(text, "; {told}");
        }
        match (self.messages.is_empty(), self.complete) {
            (true, true) if *bytes > 0 => text.push_str("; nothing is lost"),
            (true, false) => text.push_str("; which messages lay there, if any, cannot be told"),
            _ => {}
        }
        text
    }

    pub fn json(&self) -> Value {
        let message = |it: &Cost| json!({ "id": it.batch.to_string(), "waiting": it.waiting });
        json!({
            "file": self.file,
            "offset": self.offset,
            "bytes": self.bytes,
            "what": self.what,
            "messages": self.messages.iter().map(message).collect::<Vec<_>>(),
        })
    }
}

pub const DAMAGED: &str = "damaged";
pub const TORN_OR_DAMAGED: &str = "torn or damaged, in a commit not confirmed";
pub const END_MISSING: &str = "the end of the file is missing";
pub const UNUSED_END_MISSING: &str = "the end of the file is missing, where nothing lay";
pub const UNREADABLE: &str = "the disk refuses to read it; left alone by every start";
pub const FOREIGN: &str = "belongs to another spool or has been renamed; left alone by every start";
const MESSAGE_MISSING: &str = "tells of a message whose own segment is missing";

/// What a look at a spool finds, as a start would; bodies and what else only `pelton spool verify`
/// reads are not in it. Who waits for the messages has yet to be found out, see [`assess`].
pub fn of(view: &View) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = view.damage.iter().map(Piece::found).collect();
    if let Some(fault) = &view.file_fault {
        pieces.push(Piece {
            complete: true,
            ..Piece::of_file(SPOOL_FILE.to_owned(), fault.clone())
        });
    }
    pieces.extend(view.gone.iter().map(|(name, bytes)| Piece {
        bytes: *bytes,
        ..Piece::of_file(
            name.clone(),
            "the file is missing; it was there at the end of the last run",
        )
    }));
    let strange = view.files.strange.iter();
    let like_live = |path: &&std::path::PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("seg-") && name.ends_with(".log")
    };
    pieces.extend(strange.filter(like_live).map(|path| {
        let name = path.strip_prefix(&view.base).unwrap_or(path);
        Piece::of_file(
            name.display().to_string(),
            "named like a segment, and no file that could be one",
        )
    }));
    sort(&mut pieces);
    pieces
}

pub fn sort(pieces: &mut [Piece]) {
    pieces.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
}

/// Finds out for each message named who still waits for it. One that lies whole elsewhere costs
/// nothing.
pub fn assess(view: &View, pieces: &mut [Piece]) {
    let named = pieces.iter().flat_map(|it| &it.messages);
    let named: BTreeSet<BatchId> = named.map(|it| it.batch).collect();
    if named.is_empty() {
        return;
    }
    let mut settled: BTreeMap<BatchId, BTreeSet<u16>> = BTreeMap::new();
    let mut open: BTreeMap<BatchId, Vec<u16>> = BTreeMap::new();
    view.segments(&mut |_, recovered| {
        for (_, outcome) in inspect::outcomes(recovered) {
            let id = outcome.message;
            if outcome.kind.is_terminal() && named.contains(&id.batch) {
                settled.entry(id.batch).or_default().insert(id.recipient);
            }
        }
        for message in inspect::messages(recovered) {
            if named.contains(&message.batch) {
                open.insert(message.batch, message.open);
            }
        }
    });
    let waits = |batch: BatchId| {
        let done = settled.get(&batch);
        let recipients = open.get(&batch)?.iter();
        let left = recipients.filter(|it| done.is_none_or(|done| !done.contains(it)));
        Some(left.count() as u64)
    };
    for piece in pieces {
        let (segment, offset, bytes) = (piece.segment, piece.offset, piece.bytes);
        for cost in &mut piece.messages {
            cost.waiting = match view.locate(cost.batch) {
                Some(at) => {
                    let begins = at.offset as u32;
                    let here = segment == Some(at.file)
                        && begins < offset.saturating_add(bytes.max(1))
                        && offset < begins.saturating_add(at.bytes);
                    let arrivals = view.arrivals.iter().filter(|it| it.batch == cost.batch);
                    Some(if here { arrivals.count() as u64 } else { 0 })
                }
                None => waits(cost.batch).or(cost.waiting),
            };
        }
    }
}
