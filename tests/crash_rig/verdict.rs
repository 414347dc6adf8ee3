//! Whether everything that was acknowledged arrived, and how old the outcomes were that a death
//! made the engine forget.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;

use pelton::rig::base64;
use pelton::rig::blast::content::BlastId;
use pelton::rig::blast::content::Checked;
use pelton::rig::blast::content::Content;
use pelton::rig::blast::verify;
use pelton::rig::blast::verify::Verification;
use pelton::rig::sink::capture::Record;

/// An outcome joins a commit at most this long after the receiver's final reply.
pub const OUTCOME_LAG_US_MAX: u64 = 50_000;

/// What that commit itself may take on a machine whose disk has other work.
pub const COMMIT_US_ALLOWED: u64 = 450_000;

/// How long the receiving host may still be reading what a dead engine had sent.
const IN_FLIGHT_US_MAX: u64 = 100_000;

/// What a run came to.
#[derive(Debug)]
pub struct Verdict {
    pub seen: Verification,
    /// For each repeated arrival the age of the arrival before it when the engine died, in
    /// microseconds, ascending.
    pub forgotten_us: Vec<u64>,
    /// Repeated arrivals with no death between them and the arrival before.
    pub unexplained: Vec<String>,
}

/// Reads both files. `deaths_us` are ascending.
pub fn judge(acked: &Path, capture: &Path, deaths_us: &[u64]) -> Verdict {
    let open = |path: &Path| BufReader::new(File::open(path).expect("the file is there"));
    let seen = verify::verify(open(acked), open(capture)).expect("both files are whole");
    let mut verdict = Verdict {
        seen,
        forgotten_us: Vec::new(),
        unexplained: Vec::new(),
    };
    if verdict.seen.duplicated > 0 {
        verdict.explain(&arrivals(open(capture)), deaths_us);
    }
    verdict
}

impl Verdict {
    fn explain(&mut self, arrivals: &BTreeMap<(BlastId, String), Vec<u64>>, deaths_us: &[u64]) {
        for ((id, recipient), times) in arrivals {
            for pair in times.windows(2) {
                let oldest = pair[0].saturating_sub(IN_FLIGHT_US_MAX);
                let death = deaths_us.partition_point(|death| *death < oldest);
                match deaths_us.get(death).filter(|death| **death <= pair[1]) {
                    Some(death) => self.forgotten_us.push(death.saturating_sub(pair[0])),
                    None => self.unexplained.push(format!("{id} to {recipient}")),
                }
            }
        }
        self.forgotten_us.sort_unstable();
    }

    /// Repeated arrivals whose outcome had had more time than promised.
    pub fn forgotten_late(&self) -> usize {
        let promised = self
            .forgotten_us
            .partition_point(|age| *age <= OUTCOME_LAG_US_MAX);
        self.forgotten_us.len() - promised
    }

    /// What must hold of every run but the control.
    pub fn assert_nothing_lost(&self) {
        let seen = &self.seen;
        assert!(
            seen.acknowledged > 0,
            "nothing was acknowledged: the run shows nothing"
        );
        assert_eq!(
            (seen.lost, seen.corrupt, seen.foreign),
            (0, 0, 0),
            "{self}\n{seen:?}"
        );
        assert!(
            self.unexplained.is_empty(),
            "doubled with no death between: {self:?}"
        );
        let oldest = self.forgotten_us.last().copied().unwrap_or(0);
        let allowed = OUTCOME_LAG_US_MAX + COMMIT_US_ALLOWED;
        assert!(
            oldest <= allowed,
            "an outcome {oldest} us old was forgotten: {self}"
        );
    }
}

impl core::fmt::Display for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let seen = &self.seen;
        let oldest = self.forgotten_us.last().copied().unwrap_or(0);
        writeln!(f, "acknowledged            {:>9}", seen.acknowledged)?;
        writeln!(f, "delivered, byte for byte {:>8}", seen.delivered)?;
        writeln!(f, "lost                    {:>9}", seen.lost)?;
        writeln!(f, "corrupt                 {:>9}", seen.corrupt)?;
        writeln!(
            f,
            "unacknowledged, arrived {:>9}",
            seen.unacknowledged_delivered
        )?;
        writeln!(f, "duplicated              {:>9}", seen.duplicated)?;
        writeln!(f, "  no death between      {:>9}", self.unexplained.len())?;
        writeln!(f, "  outcome over 50 ms old {:>8}", self.forgotten_late())?;
        write!(f, "  oldest outcome        {:>6.1} ms", oldest as f64 / 1e3)
    }
}

/// When each delivery arrived with a final reply, ascending.
fn arrivals(capture: impl BufRead) -> BTreeMap<(BlastId, String), Vec<u64>> {
    let (content, mut scratch) = (Content::new(), Vec::new());
    let mut arrivals: BTreeMap<(BlastId, String), Vec<u64>> = BTreeMap::new();
    for line in capture.split(b'\n') {
        let line = line.expect("the capture file is readable");
        let record: Record = serde_json::from_slice(&line).expect("a record, checked before");
        let message = base64::decode(record.body.as_bytes()).expect("base64, checked before");
        let Checked::Whole(id) = content.check(&message, &mut scratch) else {
            continue;
        };
        for recipient in record.rcpts.iter().filter(|_| record.final_reply) {
            let key = (id, recipient.to_ascii_lowercase());
            arrivals.entry(key).or_default().push(record.received_us);
        }
    }
    arrivals
        .values_mut()
        .for_each(|times| times.sort_unstable());
    arrivals
}
