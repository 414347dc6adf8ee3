//! Bugs that are put in on purpose, to see that the checks find them. None of them touches the
//! engine: each makes its surroundings do wrong what a bug in the engine would do wrong.
//!
//! Every invariant of section 10 of the design has a bug that stands for it, and so have the log
//! (`lying-sync`), the queues (`lost-arrival`, `second-end`) and delivery (`false-success`,
//! `changed-byte`).

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
    /// A start brings mail back under another binding than it was given to.
    ForgottenRebind,
    /// Queue: a recipient comes to its end twice.
    SecondEnd,
    /// The event log acknowledges a sync that has not happened.
    UnsyncedEvents,
    /// A shard is not told that a queue of it has got a place for a connection.
    LostWakeup,
    /// A shard is not told that others wait for a connection of it to end.
    UnaskedHolder,
    /// The budget for bodies in memory is ignored.
    ForgottenBudget,
    /// An order depends on hashes that differ from run to run.
    HashOrder,
    /// Delivery: a refusal is taken for success.
    FalseSuccess,
    /// Delivery: one byte of a body is changed on its way out.
    ChangedByte,
    /// Shards do not hear what operators order.
    DeafToOrders,
    /// The class, tenant and campaign of a message are lost on its way to the owner.
    LostFlow,
    /// Mail that somebody waits for goes last.
    ClassesReversed,
    /// What has started under a throttle is forgotten over a restart.
    ForgottenStarts,
}

impl Planted {
    pub const ALL: [Planted; 19] = [
        Planted::LostArrival,
        Planted::LostOutcome,
        Planted::LyingSync,
        Planted::LateOutcomes,
        Planted::PrivateLimits,
        Planted::ForgottenDue,
        Planted::ForgottenRebind,
        Planted::SecondEnd,
        Planted::UnsyncedEvents,
        Planted::LostWakeup,
        Planted::UnaskedHolder,
        Planted::ForgottenBudget,
        Planted::HashOrder,
        Planted::FalseSuccess,
        Planted::ChangedByte,
        Planted::DeafToOrders,
        Planted::LostFlow,
        Planted::ClassesReversed,
        Planted::ForgottenStarts,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Planted::LostArrival => "lost-arrival",
            Planted::LostOutcome => "lost-outcome",
            Planted::LyingSync => "lying-sync",
            Planted::LateOutcomes => "late-outcomes",
            Planted::PrivateLimits => "private-limits",
            Planted::ForgottenDue => "forgotten-due",
            Planted::ForgottenRebind => "forgotten-rebind",
            Planted::SecondEnd => "second-end",
            Planted::UnsyncedEvents => "unsynced-events",
            Planted::LostWakeup => "lost-wakeup",
            Planted::UnaskedHolder => "unasked-holder",
            Planted::ForgottenBudget => "forgotten-budget",
            Planted::HashOrder => "hash-order",
            Planted::FalseSuccess => "false-success",
            Planted::ChangedByte => "changed-byte",
            Planted::DeafToOrders => "deaf-to-orders",
            Planted::LostFlow => "lost-flow",
            Planted::ClassesReversed => "classes-reversed",
            Planted::ForgottenStarts => "forgotten-starts",
        }
    }

    /// The invariant of section 10 of the design that it stands for: some seed finds it as that.
    pub fn invariant(self) -> u8 {
        match self {
            Planted::LostArrival | Planted::FalseSuccess => 1,
            Planted::LyingSync | Planted::UnsyncedEvents => 2,
            Planted::ChangedByte | Planted::LostFlow | Planted::ForgottenRebind => 2,
            Planted::LateOutcomes => 3,
            Planted::PrivateLimits | Planted::ForgottenStarts => 4,
            Planted::ForgottenDue | Planted::DeafToOrders => 5,
            Planted::SecondEnd => 6,
            Planted::LostOutcome | Planted::LostWakeup => 7,
            Planted::UnaskedHolder | Planted::ClassesReversed => 7,
            Planted::ForgottenBudget => 8,
            Planted::HashOrder => 9,
        }
    }

    /// Other invariants that it breaks too, sooner in some seeds.
    pub fn breaks_also(self) -> &'static [u8] {
        match self {
            Planted::LostOutcome => &[1, 3, 6],
            Planted::LateOutcomes => &[6, 7],
            Planted::UnsyncedEvents => &[6, 7],
            _ => &[],
        }
    }

    pub fn parse(name: &str) -> Option<Planted> {
        Planted::ALL.into_iter().find(|it| it.name() == name)
    }
}
