//! `pelton spool verify`: reads every byte of the log that counts, bodies too. A start reads sealed
//! segments by their footers alone and would find out about a body only when it is to be sent.

use core::fmt::Write;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

use clap::Args;
use serde_json::json;

use crate::base::units;
use crate::base::units::counted;
use crate::cli::output::EXIT_DONE;
use crate::cli::output::EXIT_FAILED;
use crate::cli::output::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::output::Page;
use crate::cli::output::Style;
use crate::cli::output::clean;
use crate::cli::output::command;
use crate::cli::spool::damage;
use crate::cli::spool::damage::Cost;
use crate::cli::spool::damage::Piece;
use crate::cli::spool::place::SpoolArgs;
use crate::cli::spool::view;
use crate::cli::spool::view::Progress;
use crate::cli::spool::view::Reader;
use crate::cli::spool::view::View;
use crate::log::SegmentFile;
use crate::log::SegmentKind;
use crate::log::format;
use crate::log::recover;
use crate::log::recover::Certainty;
use crate::log::recover::Evidence;
use crate::log::recover::RecoverError;
use crate::log::recover::Recovered;
use crate::spool::inspect;
use crate::spool::inspect::MessageAt;
use crate::types::id::BatchId;

/// Places told as text; all of them are in the JSON.
const PLACES_TOLD_MAX: usize = 200;

/// Older segments whose trailer a recycled file may still hold, as far as is worth trying.
const TRAILERS_TRIED_MAX: u64 = 100_000;

const EXAMPLES: &str = "\
Examples:
  pelton spool verify                          the spool of /etc/pelton/pelton.conf
  pelton spool verify --spool /mnt/old-disk    before and after copying a disk
  pelton spool verify --json | jq '.data.damage[].messages[].id'

Reads all segments in full, and changes nothing. Beside a running engine a damaged place counts
only if it is found twice. Exit code 0: clean; 1: damage found; 2: usage, or no spool there.";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub place: SpoolArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What was read, and what was found.
#[derive(Default)]
struct Found {
    segments: u64,
    bytes: u64,
    records: inspect::Records,
    pieces: Vec<Piece>,
}

pub fn look(args: &VerifyArgs, style: &Style) -> Result<Page, Failure> {
    let place = args.place.place()?;
    let mut progress = Progress::new("reading the spool");
    let view = View::open(&place, &mut progress)?;
    progress.goes_on("verifying");
    let mut found = read_all(&view, &mut progress);
    add_what_a_look_finds(&view, &mut found);
    damage::assess(&view, &mut found.pieces);
    damage::sort(&mut found.pieces);
    Ok(page(&view, &found, style))
}

/// Every live segment in full, the newest of a folder first.
fn read_all(view: &View, progress: &mut Progress) -> Found {
    let mut found = Found::default();
    let mut reader = Reader::new(&view.base);
    let all = view.files.of_kind(SegmentKind::Live).count() as u64;
    for segments in view.files.segments.values() {
        let mut evidence = Evidence::default();
        let live = segments
            .iter()
            .filter(|(it, _)| it.kind == SegmentKind::Live);
        for (file, bytes) in live.rev() {
            progress.at(found.segments, all, "segments");
            found.segments += 1;
            found.bytes += bytes;
            let mut check = Check {
                view,
                reader: &mut reader,
                file: *file,
                bytes: *bytes,
                evidence,
            };
            let (pieces, records, next) = check.settled();
            evidence = next;
            found.pieces.extend(pieces);
            found.records.messages += records.messages;
            found.records.bodies += records.bodies;
            found.records.outcomes += records.outcomes;
            found.records.others += records.others;
        }
    }
    found
}

/// How a segment ends.
struct End {
    /// The messages that its index tells of, if it has one.
    indexed: Option<Vec<MessageAt>>,
    fault: Option<Piece>,
}

/// One segment.
struct Check<'a> {
    view: &'a View,
    reader: &'a mut Reader,
    file: SegmentFile,
    bytes: u64,
    evidence: Evidence,
}

impl Check<'_> {
    /// Beside an engine only what is found twice counts: a commit that is just being written looks
    /// like damage, and a segment may be given free under the reader.
    fn settled(&mut self) -> (Vec<Piece>, inspect::Records, Evidence) {
        let first = self.once();
        if first.0.is_empty() || self.view.holder.is_none() {
            return first;
        }
        view::pause();
        *self.reader = Reader::new(&self.view.base);
        let mut second = self.once();
        let path = self.view.base.join(self.file.to_string());
        if !path.exists() {
            second.0.clear();
        }
        let found = |it: &Piece| {
            let mut before = first.0.iter();
            before.any(|was| was.offset == it.offset && was.what == it.what)
        };
        second.0.retain(found);
        second
    }

    fn once(&mut self) -> (Vec<Piece>, inspect::Records, Evidence) {
        let file = self.file;
        let whole = |what| {
            let piece = Piece::new(file, (0, 0), what);
            (vec![piece], inspect::Records::default(), self.evidence)
        };
        if self.bytes > format::SEGMENT_BYTES_MAX {
            return whole("larger than any segment of a spool; left alone by every start");
        }
        let Ok(bytes) = self.reader.read(file, 0, self.bytes as usize) else {
            return whole(damage::UNREADABLE);
        };
        let place = self.view.place(file);
        let end = self.end(&bytes);
        let recovered = match recover::recover(place, bytes, self.evidence) {
            Ok(recovered) => recovered,
            Err(RecoverError::NewerFormat(_)) => {
                return whole("of a newer log format: use a newer Pelton");
            }
            Err(RecoverError::Foreign) => {
                return whole(damage::FOREIGN);
            }
            Err(RecoverError::Unreadable(_)) => return whole(damage::UNREADABLE),
        };
        let mut pieces = pieces_of(file, &recovered);
        let mut known = inspect::messages(&recovered);
        known.extend(end.indexed.iter().flatten().cloned());
        pieces.extend(end.fault);
        let (records, broken) = inspect::check(&recovered);
        for it in broken {
            let at = (it.offset, it.bytes);
            let told = pieces
                .iter()
                .any(|piece| overlaps_message(piece, at, &known));
            if !told {
                pieces.push(Piece::new(file, at, "a record that cannot be understood"));
            }
        }
        for piece in pieces.iter_mut().filter(|it| !it.complete) {
            name_messages(piece, &known);
            // All that is not the body of a message has its copy in the index.
            piece.complete = end.indexed.is_some();
        }
        (pieces, records, recovered.evidence)
    }

    /// Index and trailer, if the segment was sealed.
    fn end(&self, bytes: &[u8]) -> End {
        let place = self.view.place(self.file);
        let tail = bytes.len().saturating_sub(format::TRAILER_BYTES);
        let fault = |(offset, bytes): (usize, usize), what| Piece {
            complete: true,
            ..Piece::new(self.file, (offset as u32, bytes as u32), what)
        };
        let Some(trailer) = format::decode_trailer(place, self.bytes, &bytes[tail..]) else {
            let what = "the end of a sealed segment, without which a start reads the whole segment";
            let lost = self.lost_trailer(&bytes[tail..]);
            return End {
                indexed: None,
                fault: lost.then(|| fault((tail, format::TRAILER_BYTES), what)),
            };
        };
        let footer_bytes = trailer.footer_bytes as usize;
        let begins = tail.saturating_sub(footer_bytes);
        let footer = bytes[begins..tail].to_vec();
        let footer = recover::recover_footer(place, &trailer, footer);
        let what = "the index of a sealed segment, without which a start reads the whole segment";
        End {
            fault: footer
                .is_none()
                .then(|| fault((begins, footer_bytes), what)),
            indexed: footer.as_ref().map(inspect::messages),
        }
    }

    /// A trailer that is none of this segment, nor what an older use of the file has left there.
    fn lost_trailer(&self, tail: &[u8]) -> bool {
        let spool_id = self.view.file.spool_id;
        let number = self.file.number;
        if !tail.starts_with(b"PELTONTR") {
            return false;
        }
        let oldest = number.saturating_sub(TRAILERS_TRIED_MAX);
        let mut older = (oldest..number).rev();
        !older.any(|segment| {
            let place = format::Place { spool_id, segment };
            format::decode_trailer(place, self.bytes, tail).is_some()
        })
    }
}

fn pieces_of(file: SegmentFile, recovered: &Recovered) -> Vec<Piece> {
    let piece = |it: &recover::Damage| {
        let cut = recovered.cut.filter(|cut| cut.offset == it.offset);
        let what = match (cut, it.certainty) {
            (Some(cut), _) if cut.unused => damage::UNUSED_END_MISSING,
            (Some(_), _) => damage::END_MISSING,
            (None, Certainty::Damaged) => damage::DAMAGED,
            (None, Certainty::TornOrDamaged) => damage::TORN_OR_DAMAGED,
        };
        let complete = cut.is_some_and(|cut| cut.unused);
        let mut piece = Piece::new(file, (it.offset, it.bytes), what);
        // Where a header stands no mail lies.
        let header = it.offset.saturating_add(it.bytes) as usize <= format::HEADER_BYTES;
        piece.complete = complete || (cut.is_none() && header);
        piece
    };
    recovered.damage.iter().map(piece).collect()
}

/// Whether the damage is told already that has left a message without its body.
fn overlaps_message(piece: &Piece, (offset, bytes): (u32, u32), known: &[MessageAt]) -> bool {
    let whole = known.iter().find(|it| it.offset == offset);
    let (offset, bytes) = whole.map_or((offset, bytes), |it| (it.offset, it.bytes));
    let ends = piece.offset.saturating_add(piece.bytes);
    piece.offset < offset.saturating_add(bytes) && offset < ends
}

/// Names the messages whose envelope or body a piece has hit.
fn name_messages(piece: &mut Piece, known: &[MessageAt]) {
    let hit: BTreeMap<BatchId, u64> = known
        .iter()
        .filter(|it| it.overlaps(piece.offset, piece.bytes))
        .map(|it| (it.batch, it.open.len() as u64))
        .collect();
    let cost = |(batch, waiting): (BatchId, u64)| Cost {
        batch,
        waiting: Some(waiting),
    };
    piece.messages = hit.into_iter().map(cost).collect();
}

/// Damage that shows only when the whole spool is put together, as a message that no segment holds,
/// and what a look at the folder shows.
fn add_what_a_look_finds(view: &View, found: &mut Found) {
    for piece in damage::of(view) {
        if !found.pieces.iter().any(|it| it.tells_of(&piece)) {
            found.pieces.push(piece);
        }
    }
}

fn page(view: &View, found: &Found, style: &Style) -> Page {
    let base = view.base.display().to_string();
    let clean_spool = found.pieces.is_empty();
    let next = match clean_spool {
        true => command(&["pelton", "spool", "info", "--spool", &base]),
        false => command(&["pelton", "spool", "export", "FOLDER", "--spool", &base]),
    };
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut text, view, found, style);
    let lost: BTreeSet<BatchId> = lost(found);
    let aside = view.files.of_kind(SegmentKind::Damaged);
    let aside: Vec<String> = aside.map(|(file, _)| file.to_string()).collect();
    Page {
        schema: "pelton.spool-verify/1",
        at: style.now.rfc3339().to_string(),
        text,
        data: json!({
            "path": base,
            "clean": clean_spool,
            "segments": found.segments,
            "bytes": found.bytes,
            "records": {
                "messages": found.records.messages,
                "bodies": found.records.bodies,
                "outcomes": found.records.outcomes,
                "others": found.records.others,
            },
            "messages_lost": lost.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "damage": found.pieces.iter().map(Piece::json).collect::<Vec<_>>(),
            "unfinished_commits": view.torn_tails,
            "set_aside": aside,
            "strange": view.files.strange.iter().map(|it| it.display().to_string())
                .collect::<Vec<_>>(),
        }),
        warnings: view.notes.clone(),
        next: vec![next],
        exit: if clean_spool { EXIT_DONE } else { EXIT_FAILED },
        ..Page::default()
    }
}

/// Messages that somebody waits for, or may.
fn lost(found: &Found) -> BTreeSet<BatchId> {
    let costs = found.pieces.iter().flat_map(|it| &it.messages);
    let lost = costs.filter(|it| it.waiting != Some(0));
    lost.map(|it| it.batch).collect()
}

fn lost_in_words(found: &Found) -> String {
    let untold = |it: &Piece| it.messages.is_empty() && !it.complete;
    let untold = found.pieces.iter().any(untold);
    match (lost(found).len(), untold) {
        (0, false) => "no message is lost".to_owned(),
        (0, true) => "perhaps with messages that nobody can name".to_owned(),
        (count, untold) => {
            let more = if untold { ", perhaps more" } else { "" };
            format!("{} lost{more}", counted(count as u64, "message"))
        }
    }
}

fn write_text(text: &mut String, view: &View, found: &Found, style: &Style) -> core::fmt::Result {
    let base = clean(&view.base.display().to_string());
    let segments = counted(found.segments, "segment");
    let size = units::size(found.bytes);
    let messages = counted(found.records.messages, "message");
    let outcomes = counted(found.records.outcomes, "outcome");
    let read = format!("{segments}, {size}: {messages} and {outcomes} read in full");
    match found.pieces.len() {
        0 => writeln!(text, "{base}: {}. {read}", style.good("clean"))?,
        count => {
            let places = counted(count as u64, "damaged place");
            let lost = lost_in_words(found);
            writeln!(text, "{base}: {}, {lost}. {read}", style.fail(&places))?;
        }
    }
    for piece in found.pieces.iter().take(PLACES_TOLD_MAX) {
        writeln!(text, "  {}", clean(&piece.sentence()))?;
    }
    let left = found.pieces.len().saturating_sub(PLACES_TOLD_MAX);
    if left > 0 {
        writeln!(text, "  and {}: --json", counted(left as u64, "more place"))?;
    }
    text.push_str(&view.torn_line());
    for (file, bytes) in view.files.of_kind(SegmentKind::Damaged) {
        let size = units::size(bytes);
        writeln!(
            text,
            "Aside     {file}, {size}: found damaged by an earlier start and kept; nobody waits \
             for anything in it"
        )?;
    }
    for path in &view.files.strange {
        let path = path.display().to_string();
        writeln!(text, "Strange   {}: no segment, left alone", clean(&path))?;
    }
    Ok(())
}
