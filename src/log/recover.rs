//! The reading side: what one segment still holds after whatever has happened to it.
//!
//! Segments of a folder are read from the newest to the oldest, because a newer one says how much
//! of the older ones counts ([`Evidence`]). Rules:
//!
//! * A frame counts if it is whole and its commit counts. A commit counts if its mark is whole, or
//!   if a later commit exists (it was begun after this one had succeeded), or if evidence says so.
//! * What lies beyond the point that evidence gives was refused, and does not count.
//! * Damage before a point that is known to have been synced is damage, reported piece by piece;
//!   all else is kept. After it nobody can tell a torn write from damage. A last commit without its
//!   mark was never acknowledged, and is cut silently.
//! * A file never changes its size, so one that is shorter than its header says has been damaged
//!   later. What it still holds was as good as acknowledged, and counts.

use super::disk::Fault;
use super::format;
use super::format::BadHeader;
use super::format::COMMIT_ALIGN;
use super::format::FRAME_ALIGN;
use super::format::FrameHeader;
use super::format::HEADER_BYTES;
use super::format::Header;
use super::format::Mark;
use super::format::Place;
use super::format::Position;
use super::format::TRAILER_BYTES;

/// What newer segments of the folder say about the older ones: the log counts up to this position,
/// and nothing counts between it and the segment that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Evidence {
    pub good: Option<Position>,
    /// The log is known to have been synced up to this position.
    pub synced: Position,
}

impl Evidence {
    /// Up to where a segment is known to have been synced, given how much of it counts.
    fn synced_of(self, segment: u64, good: u32) -> u32 {
        match segment.cmp(&self.synced.segment) {
            core::cmp::Ordering::Less => good,
            core::cmp::Ordering::Equal => self.synced.offset.min(good),
            core::cmp::Ordering::Greater => 0,
        }
    }

    /// Up to where a segment counts; nothing if there is no evidence about it.
    fn of(self, segment: u64) -> Option<u32> {
        let good = self.good?;
        match segment.cmp(&good.segment) {
            core::cmp::Ordering::Less => None,
            core::cmp::Ordering::Equal => {
                (good.offset != Position::UNKNOWN_OFFSET).then_some(good.offset)
            }
            core::cmp::Ordering::Greater => Some(0),
        }
    }
}

/// A frame that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRef {
    pub kind: u8,
    /// Where it stands in its segment.
    pub offset: u32,
    pub commit: u64,
    pub payload_bytes: u32,
    /// Where its payload begins in [`Recovered::buffer`].
    at: usize,
}

impl FrameRef {
    /// Bytes of the whole frame in its segment.
    pub fn frame_bytes(&self) -> u32 {
        format::frame_bytes(self.payload_bytes as usize) as u32
    }
}

/// How sure a report of damage is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Certainty {
    /// In the last commit that was not confirmed: a torn write or damage, nobody can tell.
    TornOrDamaged,
    /// It had been synced and is wrong now.
    Damaged,
}

/// A part of a segment that is not what it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    pub offset: u32,
    pub bytes: u32,
    pub certainty: Certainty,
}

/// What a segment's file lacks at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The size that the file has left.
    pub offset: u32,
    pub bytes: u32,
    /// Nothing of the log lay there.
    pub unused: bool,
}

impl Cut {
    fn damage(&self) -> Damage {
        Damage {
            offset: self.offset,
            bytes: self.bytes,
            certainty: Certainty::Damaged,
        }
    }
}

/// How the log ends in this segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    Clean,
    /// A commit had begun and was not finished; it was cut here.
    Torn {
        offset: u32,
    },
}

/// What a segment holds.
#[derive(Debug)]
pub struct Recovered {
    /// The start that wrote it; nothing if not even one frame is left.
    pub start: Option<u32>,
    /// Shards of that start, if header or trailer could be read.
    pub shards: Option<u16>,
    /// The frames that count, in order. Of a sealed segment only those of the footer.
    pub frames: Vec<FrameRef>,
    /// All frames are listed, not only those of the footer.
    pub complete: bool,
    pub damage: Vec<Damage>,
    /// The end of the file that is missing, if it is shorter than it was; it is among the damage.
    pub cut: Option<Cut>,
    pub tail: Tail,
    /// The log counts up to here in this segment.
    pub good_offset: u32,
    /// And is sure up to here: later commits, later segments or the trailer prove that the commits
    /// before it had succeeded. Of the last commit, which follows, nobody can tell: it may have
    /// failed, and after a failed sync the system may show bytes that never got to disk. This
    /// stays so for good, whatever is written elsewhere later.
    pub sure_offset: u32,
    /// For the older segments of the folder.
    pub evidence: Evidence,
    /// The part of the evidence that only this segment gives: while older segments that are not
    /// sealed exist, it must not be reclaimed.
    pub prior: Option<Position>,
    buffer: Vec<u8>,
}

impl Recovered {
    pub fn payload(&self, frame: &FrameRef) -> &[u8] {
        &self.buffer[frame.at..frame.at + frame.payload_bytes as usize]
    }

    /// The segment was made and nothing was ever written to it.
    pub fn is_blank(&self) -> bool {
        let nothing = self.frames.is_empty() && self.damage.is_empty() && self.tail == Tail::Clean;
        let unsealed = self.complete && self.prior.is_none();
        nothing && unsealed && self.good_offset as usize == format::HEADER_BYTES
    }
}

/// Why a start must not go on with this segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("log format {0} is newer than this program")]
    NewerFormat(u16),
    #[error("the segment belongs to another spool or is another segment than its name says")]
    Foreign,
    #[error("the segment cannot be read: {0:?}")]
    Unreadable(Fault),
}

/// Reads bytes at an offset: exactly as many as asked for.
pub type ReadFn<'a> = &'a mut dyn FnMut(u64, usize) -> Result<Vec<u8>, Fault>;

/// Reads a segment with as few reads as possible: header, trailer and footer if it was sealed,
/// otherwise all of it.
pub fn read_segment(
    place: Place,
    file_bytes: u64,
    evidence: Evidence,
    read: ReadFn<'_>,
) -> Result<Recovered, RecoverError> {
    let size = usize::try_from(file_bytes).unwrap_or(usize::MAX);
    if file_bytes > format::SEGMENT_BYTES_MAX {
        return Err(RecoverError::Foreign);
    }
    if size >= HEADER_BYTES + TRAILER_BYTES {
        let head = read(0, HEADER_BYTES).map_err(RecoverError::Unreadable)?;
        let header = matches!(read_header(place, &head)?, Head::Ours(_));
        let last = file_bytes - TRAILER_BYTES as u64;
        let tail = read(last, TRAILER_BYTES).map_err(RecoverError::Unreadable)?;
        if let Some(trailer) = format::decode_trailer(place, file_bytes, &tail) {
            let footer_at = last.checked_sub(u64::from(trailer.footer_bytes));
            let behind = |at: &u64| u64::from(trailer.good_offset) <= *at;
            if let (true, Some(at)) = (header, footer_at.filter(behind)) {
                let footer = read(at, trailer.footer_bytes as usize);
                let sealed = footer
                    .ok()
                    .and_then(|it| recover_footer(place, &trailer, it));
                if let Some(recovered) = sealed {
                    return Ok(recovered);
                }
            }
        }
    }
    let bytes = read(0, size).map_err(RecoverError::Unreadable)?;
    recover(place, bytes, evidence)
}

/// What stands where a header should.
enum Head {
    Ours(Header),
    Damaged,
    /// Of another segment or spool: all of the file is, unless something in it proves otherwise.
    Foreign,
}

impl Head {
    fn ours(&self) -> Option<&Header> {
        match self {
            Head::Ours(header) => Some(header),
            Head::Damaged | Head::Foreign => None,
        }
    }

    fn damage(&self, bytes: &[u8]) -> Option<Damage> {
        let wrong = self.ours().is_none() && bytes.len() >= HEADER_BYTES;
        wrong.then_some(Damage {
            offset: 0,
            bytes: HEADER_BYTES as u32,
            certainty: Certainty::Damaged,
        })
    }
}

fn read_header(place: Place, bytes: &[u8]) -> Result<Head, RecoverError> {
    match format::decode_header(bytes) {
        Ok(header) if header.place == place => Ok(Head::Ours(header)),
        Ok(_) => Ok(Head::Foreign),
        Err(BadHeader::NewerFormat(major)) => Err(RecoverError::NewerFormat(major)),
        Err(BadHeader::Damaged) => Ok(Head::Damaged),
    }
}

/// A sealed segment from its footer; nothing if the footer is not what it should be.
pub fn recover_footer(
    place: Place,
    trailer: &format::Trailer,
    footer: Vec<u8>,
) -> Option<Recovered> {
    if !format::footer_matches(trailer, &footer) {
        return None;
    }
    let mut frames = Vec::new();
    let mut at = 0;
    let mut end = HEADER_BYTES;
    while at < footer.len() {
        let entry = footer.get(at..at + format::FOOTER_ENTRY_BYTES)?;
        let offset = format::u32_at(entry, 0);
        at += format::FOOTER_ENTRY_BYTES;
        let bytes = &footer[at..];
        let header = format::decode_frame_header(place, u64::from(offset), bytes)?;
        let payload = format::decode_payload(place, u64::from(offset), &header, bytes)?;
        // As a scan would have found them.
        if (offset as usize) < end || !offset.is_multiple_of(FRAME_ALIGN as u32) {
            return None;
        }
        end = offset as usize + header.frame_bytes();
        if end > trailer.good_offset as usize {
            return None;
        }
        frames.push(frame_ref(
            offset,
            &header,
            at + format::FRAME_HEADER_BYTES,
            payload.len(),
        ));
        at += header.frame_bytes();
    }
    Some(Recovered {
        start: Some(trailer.start),
        shards: Some(trailer.shards),
        frames,
        complete: false,
        damage: Vec::new(),
        tail: Tail::Clean,
        good_offset: trailer.good_offset,
        sure_offset: trailer.good_offset,
        evidence: trailer_evidence(trailer),
        prior: Some(trailer.prior),
        cut: None,
        buffer: footer,
    })
}

fn trailer_evidence(trailer: &format::Trailer) -> Evidence {
    Evidence {
        good: Some(trailer.prior),
        synced: trailer.prior_synced,
    }
}

fn frame_ref(offset: u32, header: &FrameHeader, at: usize, payload_bytes: usize) -> FrameRef {
    let payload_bytes = payload_bytes as u32;
    FrameRef {
        kind: header.kind,
        offset,
        commit: header.commit,
        payload_bytes,
        at,
    }
}

/// A frame found by the scan, whole or not.
struct Found {
    offset: usize,
    header: FrameHeader,
    whole: bool,
}

impl Found {
    fn end(&self) -> usize {
        self.offset + self.header.frame_bytes()
    }
}

/// All bytes of a segment, read from the front. The trailer is used if it is sound.
pub fn recover(
    place: Place,
    bytes: Vec<u8>,
    evidence: Evidence,
) -> Result<Recovered, RecoverError> {
    let head = read_header(place, &bytes)?;
    let mut damage: Vec<Damage> = head.damage(&bytes).into_iter().collect();
    let (header, foreign) = (head.ours(), matches!(head, Head::Foreign));
    let (mut start, mut shards) = header.map(|it| (it.start, it.shards)).unzip();
    let mut whole_bytes = header.map_or(0, |it| it.segment_bytes);
    // Nothing was ever made so short.
    if bytes.len() < HEADER_BYTES + TRAILER_BYTES {
        whole_bytes = whole_bytes.max(format::SEGMENT_BYTES_MIN);
    }
    let trailer_at = bytes.len().saturating_sub(TRAILER_BYTES);
    let trailer = format::decode_trailer(place, bytes.len() as u64, &bytes[trailer_at..]);
    if let Some(trailer) = &trailer {
        start = start.or(Some(trailer.start));
        shards = shards.or(Some(trailer.shards));
    }
    let known = match trailer {
        Some(trailer) => Some((trailer.good_offset, trailer.good_offset)),
        None => evidence
            .of(place.segment)
            .map(|good| (good, evidence.synced_of(place.segment, good))),
    };
    // Without a header it is what others say that tells.
    whole_bytes = whole_bytes.max(known.map_or(0, |it| u64::from(it.0)));
    whole_bytes = whole_bytes.min(format::SEGMENT_BYTES_MAX);
    let short = whole_bytes > bytes.len() as u64;
    let end = if trailer.is_none() {
        bytes.len()
    } else {
        trailer_at
    };
    let (found, gaps) = scan(place, &bytes[..end], &mut start);
    if foreign && found.is_empty() && trailer.is_none() {
        return Err(RecoverError::Foreign);
    }
    let verdict = Verdict::new(place, &bytes, &found, known, short);
    damage.extend(verdict.damage(&found, &gaps));
    let cut = short.then(|| Cut {
        offset: bytes.len() as u32,
        bytes: (whole_bytes - bytes.len() as u64) as u32,
        unused: known.is_some_and(|(good, _)| good as usize <= bytes.len()),
    });
    damage.extend(cut.map(|it| it.damage()));
    let frames = verdict.frames(&found);
    let prior = verdict.prior.or(trailer.as_ref().map(trailer_evidence));
    // A later start that found this segment followed by others has relied on all of it, even if
    // what followed has vanished since.
    let sure_offset = match evidence.synced.segment > place.segment {
        true => verdict.good_offset,
        false => verdict.sure_before(&damage),
    };
    Ok(Recovered {
        start,
        shards,
        frames,
        complete: true,
        damage,
        tail: verdict.tail,
        good_offset: verdict.good_offset,
        sure_offset,
        evidence: prior.unwrap_or(evidence),
        prior: prior.and_then(|it| it.good),
        cut,
        buffer: bytes,
    })
}

/// Every frame whose header is sound, and what lies between them. After a break it looks for the
/// next header at every multiple of 8: no frame passes in the wrong place.
fn scan(place: Place, bytes: &[u8], start: &mut Option<u32>) -> (Vec<Found>, Vec<(usize, usize)>) {
    let end = bytes.len();
    let mut found: Vec<Found> = Vec::new();
    let mut gaps = Vec::new();
    let mut expected = HEADER_BYTES;
    let mut at = HEADER_BYTES;
    while at + format::FRAME_HEADER_BYTES <= end {
        let header = format::decode_frame_header(place, at as u64, &bytes[at..end]);
        let last = found.last().map_or(0, |it| it.header.commit);
        let fits = |header: &FrameHeader| {
            header.frame_bytes() <= end - at
                && header.commit >= last
                && start.is_none_or(|start| start == format::start_of(header.commit))
        };
        let Some(header) = header.filter(fits) else {
            at += FRAME_ALIGN;
            continue;
        };
        if at > expected {
            gaps.push((expected, at));
        }
        *start = Some(format::start_of(header.commit));
        let whole = format::decode_payload(place, at as u64, &header, &bytes[at..end]).is_some();
        found.push(Found {
            offset: at,
            header,
            whole,
        });
        at += header.frame_bytes();
        expected = at;
    }
    (found, gaps)
}

/// The extent of one commit.
struct Span {
    commit: u64,
    begins: usize,
    ends: usize,
    ordered: bool,
    mark: Option<Mark>,
}

/// The commits of a segment, in order, as far as anything is left of them.
fn spans(place: Place, bytes: &[u8], found: &[Found]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for it in found {
        let commit = it.header.commit;
        if spans.last().is_none_or(|last| last.commit != commit) {
            // The first frame found need not be the first there was. Commits of a segment are
            // numbered without holes, and each begins where the last one ended.
            let begins = match spans.last() {
                None => HEADER_BYTES,
                Some(last) if last.mark.is_some() && last.commit + 1 == commit => last.ends,
                Some(_) => it.offset,
            };
            spans.push(Span {
                commit,
                begins,
                ends: it.end(),
                ordered: false,
                mark: None,
            });
        }
        let Some(span) = spans.last_mut() else {
            continue;
        };
        span.ordered |= it.header.ordered;
        span.ends = it.end();
        if it.whole && it.header.kind == format::KIND_MARK {
            let rest = &bytes[it.offset..it.end()];
            let payload = format::decode_payload(place, it.offset as u64, &it.header, rest);
            span.mark = payload.and_then(format::decode_mark);
            if let Some(mark) = &span.mark {
                span.begins = it.offset.saturating_sub(mark.batch_bytes as usize);
            }
        }
    }
    spans
}

/// What the frames found say about which of them count.
struct Verdict {
    /// The commit that was begun last, and where.
    top: u64,
    top_offset: usize,
    top_marked: bool,
    /// Known from outside: the segment counts exactly up to here.
    known: Option<usize>,
    /// Everything before this was synced.
    confirmed: usize,
    good_offset: u32,
    prior: Option<Evidence>,
    tail: Tail,
    spans: Vec<Span>,
}

impl Verdict {
    fn new(
        place: Place,
        bytes: &[u8],
        found: &[Found],
        known: Option<(u32, u32)>,
        short: bool,
    ) -> Verdict {
        let top = found.last().map_or(0, |it| it.header.commit);
        let mut confirmed = known.map_or(0, |it| it.1 as usize);
        let known = known.map(|it| (it.0 as usize).min(bytes.len()));
        let mut prior = None;
        let spans = spans(place, bytes, found);
        for span in &spans {
            if span.ordered {
                confirmed = confirmed.max(span.begins);
            }
            let Some(mark) = span.mark else { continue };
            if mark.synced.segment == place.segment {
                confirmed = confirmed.max(mark.synced.offset as usize);
            }
            if mark.good.segment < place.segment {
                let synced = mark.synced;
                prior = prior.or(Some(Evidence {
                    good: Some(mark.good),
                    synced,
                }));
            }
        }
        let top_offset = spans.last().map_or(HEADER_BYTES, |it| it.begins);
        // With the rest of the file its mark is lost, too.
        let top_marked = short || spans.last().is_some_and(|it| it.mark.is_some());
        let marked_end = spans.last().map_or(HEADER_BYTES, |it| it.ends);
        let top_counts = top_marked || found.is_empty();
        let good_offset = match known {
            Some(known) => known,
            None if top_counts => marked_end,
            // A commit begins where the one before it ended.
            None => {
                let older = spans.iter().rev().nth(1).map_or(HEADER_BYTES, |it| it.ends);
                older.max(top_offset / COMMIT_ALIGN * COMMIT_ALIGN)
            }
        };
        let tail = match known {
            None if !top_counts => Tail::Torn {
                offset: good_offset as u32,
            },
            _ => Tail::Clean,
        };
        let good_offset = good_offset as u32;
        Verdict {
            top,
            top_offset,
            top_marked,
            known,
            confirmed,
            good_offset,
            prior,
            tail,
            spans,
        }
    }

    /// Everything before it belongs to commits that were followed by others, and of which nothing
    /// is doubtful.
    fn sure_before(&self, damage: &[Damage]) -> u32 {
        let unsure = damage
            .iter()
            .filter(|it| it.certainty == Certainty::TornOrDamaged);
        unsure
            .map(|it| self.commit_begins(it.offset))
            .fold(self.sure_offset(), u32::min)
    }

    /// Everything before it belongs to commits that were followed by others.
    fn sure_offset(&self) -> u32 {
        let followed = self.confirmed.max(self.top_offset) as u32;
        followed.min(self.good_offset)
    }

    /// Where the commit begins that these bytes belonged to.
    fn commit_begins(&self, offset: u32) -> u32 {
        let before = self
            .spans
            .iter()
            .rev()
            .find(|it| it.begins <= offset as usize);
        match before {
            None => HEADER_BYTES as u32,
            // After a whole commit: of this one nothing is left.
            Some(span) if span.mark.is_some() && span.ends <= offset as usize => offset,
            Some(span) => span.begins as u32,
        }
    }

    fn counts(&self, it: &Found) -> bool {
        match self.known {
            Some(known) => it.end() <= known,
            None => it.header.commit < self.top || self.top_marked,
        }
    }

    fn frames(&self, found: &[Found]) -> Vec<FrameRef> {
        let wanted =
            |it: &&Found| it.whole && it.header.kind != format::KIND_MARK && self.counts(it);
        let frame = |it: &Found| {
            let at = it.offset + format::FRAME_HEADER_BYTES;
            frame_ref(
                it.offset as u32,
                &it.header,
                at,
                it.header.payload_bytes as usize,
            )
        };
        found.iter().filter(wanted).map(frame).collect()
    }

    fn damage(&self, found: &[Found], gaps: &[(usize, usize)]) -> Vec<Damage> {
        let broken = found
            .iter()
            .filter(|it| !it.whole)
            .map(|it| (it.offset, it.end()));
        let mut pieces: Vec<_> = broken.chain(gaps.iter().copied()).collect();
        let end = found.last().map_or(HEADER_BYTES, Found::end);
        pieces.extend(
            self.known
                .filter(|known| *known > end)
                .map(|known| (end, known)),
        );
        pieces.sort_unstable();
        let reported = |(from, to): (usize, usize)| {
            let certain = from < self.confirmed;
            let refused = self.known.is_some_and(|known| from >= known);
            // In a last commit that is cut anyway, broken frames are part of the cut.
            let cut = self.known.is_none() && !self.top_marked && from >= self.top_offset;
            if refused || (cut && !certain) {
                return None;
            }
            let certainty = if certain {
                Certainty::Damaged
            } else {
                Certainty::TornOrDamaged
            };
            Some(Damage {
                offset: from as u32,
                bytes: (to - from) as u32,
                certainty,
            })
        };
        pieces.into_iter().filter_map(reported).collect()
    }
}
