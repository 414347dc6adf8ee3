//! Bugs that are put in on purpose, to see that the checks find them. None of them touches the
//! engine: each makes its surroundings do wrong what a bug in the engine would do wrong.

/// One planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// Queue: a new entry is lost on its way to the owner.
    LostArrival,
    /// An outcome is lost on its way to the home.
    LostOutcome,
    /// Log: a commit is acknowledged before it is synced.
    LyingSync,
    /// Outcomes take far longer to disk than they may.
    LateOutcomes,
    /// Every shard counts connections on its own.
    PrivateLimits,
    /// The retry time of a message is forgotten over a restart.
    ForgottenDue,
    /// The event log acknowledges a sync that has not happened.
    UnsyncedEvents,
    /// The budget for bodies in memory is ignored.
    ForgottenBudget,
    /// An order depends on hashes that differ from run to run.
    HashOrder,
    /// Delivery: a refusal is taken for success.
    FalseSuccess,
    /// Delivery: one byte of a body is changed on its way out.
    ChangedByte,
}

impl Planted {
    pub const ALL: [Planted; 11] = [
        Planted::LostArrival,
        Planted::LostOutcome,
        Planted::LyingSync,
        Planted::LateOutcomes,
        Planted::PrivateLimits,
        Planted::ForgottenDue,
        Planted::UnsyncedEvents,
        Planted::ForgottenBudget,
        Planted::HashOrder,
        Planted::FalseSuccess,
        Planted::ChangedByte,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Planted::LostArrival => "lost-arrival",
            Planted::LostOutcome => "lost-outcome",
            Planted::LyingSync => "lying-sync",
            Planted::LateOutcomes => "late-outcomes",
            Planted::PrivateLimits => "private-limits",
            Planted::ForgottenDue => "forgotten-due",
            Planted::UnsyncedEvents => "unsynced-events",
            Planted::ForgottenBudget => "forgotten-budget",
            Planted::HashOrder => "hash-order",
            Planted::FalseSuccess => "false-success",
            Planted::ChangedByte => "changed-byte",
        }
    }

    /// The invariants of section 10 of the design of which it may be reported as a violation.
    pub fn invariants(self) -> &'static [u8] {
        match self {
            Planted::LostArrival => &[1],
            Planted::LostOutcome => &[1, 3, 6, 7],
            Planted::LyingSync => &[2],
            Planted::LateOutcomes => &[3, 6],
            Planted::PrivateLimits => &[4],
            Planted::ForgottenDue => &[5],
            Planted::UnsyncedEvents => &[2, 6],
            Planted::ForgottenBudget => &[8],
            Planted::HashOrder => &[9],
            Planted::FalseSuccess => &[1],
            Planted::ChangedByte => &[2],
        }
    }

    pub fn parse(name: &str) -> Option<Planted> {
        Planted::ALL.into_iter().find(|it| it.name() == name)
    }
}
