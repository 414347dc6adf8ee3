//! What a run has done: how often each action was performed, each fault injected, each check
//! made. Over many seeds no count may stay zero, or the simulation does not reach that part.

/// One action of an engine, or one kind of operation inside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Send,
    SendShared,
    Resume,
    Close,
    Abort,
    Dial,
    SpoolCommit,
    SpoolSync,
    SpoolPrepare,
    SpoolRecycle,
    SpoolSeal,
    SpoolRename,
    SpoolRemove,
    SpoolRead,
    HoseWrite,
    HoseSync,
    HoseCut,
    HoseRemove,
    ReadBody,
    MeshArrivals,
    MeshSettled,
    MeshBarrier,
    MeshFetch,
    MeshBody,
    MeshPlaceFree,
    MeshGiveUp,
    Resolve,
    Answer,
    Notice,
    Adopted,
    Ordered,
    Quiet,
    Drained,
    StopListening,
}

/// Something that went wrong, or was out of the ordinary, because the simulation wanted it so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Kill,
    PowerCut,
    KillInRecovery,
    PowerCutInRecovery,
    GracefulRestart,
    OtherShardCount,
    LateRecovery,
    Reload,
    Order,
    MailRebound,
    WallForward,
    WallBack,
    SectorLost,
    WriteTorn,
    OperationCut,
    DiskFull,
    WriteFails,
    ShortWrite,
    SyncFails,
    ReadFails,
    SlowDisk,
    WriteFailsOnce,
    WriteFailsThrice,
    WriteFailsForGood,
    SyncFailsOnce,
    SyncFailsThrice,
    SyncFailsForGood,
    ReadOnly,
    OpenFails,
    PrepareFails,
    SealFails,
    RenameFails,
    RemoveFails,
    Sync4Ms,
    Sync20Ms,
    Sync1S,
    Sync30S,
    EventLogFull,
    EventLogFails,
    EventTailLost,
    FreeSpaceShort,
    MemoryShort,
    DialRefused,
    DialTimedOut,
    DialUnreachable,
    DialExhausted,
    Reset,
    Stall,
    HalfClose,
    TinySegments,
    SlowMesh,
    DnsFails,
    DnsSlow,
    DnsChanges,
    ClientGone,
    ClientNonsense,
    ClientSlow,
    HostBusy,
    HostRefusesSession,
    HostHangs,
    HostWithoutEhlo,
    HostDefers,
    HostRejects,
    HostGreylists,
    HostDropsReply,
    HostClosesInData,
    HostSlow,
    HostRate,
}

/// One kind of check, named after the invariant that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// 1: what came in is out or still there, at any moment.
    Conservation,
    /// 1: every accepted recipient has exactly one outcome at the end.
    OneOutcome,
    /// 1: what an event says has happened on the wire.
    EventIsTrue,
    /// 2: an open recipient is found again after a crash.
    Recovered,
    /// 2: a body that recovery found is the one that was accepted.
    BodyRecovered,
    /// 2: a body that a host got is the one that was accepted.
    BodyDelivered,
    /// 2: class, tenant and campaign are at the end what they were at reception.
    FlowKept,
    /// 2: rebound mail goes out from the binding it was given to, after a crash too.
    Rebound,
    /// 3: a second delivery has an excuse.
    Duplicate,
    /// 3: a second delivery after a lost reply was announced as possible.
    DuplicateCounted,
    /// 4: connections of the process, per host, per queue.
    OutgoingLimit,
    HostLimit,
    QueueLimit,
    /// 4: connections of a binding, to a domain and to all hosts.
    SharedLimit,
    /// 4: no window of a throttle carries more than it may, by the engines' own stamps; and no
    /// message begins that was not counted.
    Throttle,
    ThrottleCounts,
    /// 4: what adaptive delivery sets stays within its ranges.
    AdaptiveRange,
    /// 4: sessions of clients, per listener and per peer.
    SessionLimit,
    /// 4: recipients of a transaction, messages of a connection.
    BatchLimit,
    /// 4: mail leaves from the address of its binding.
    SourceAddress,
    /// 5: an attempt is not made before it is due, within one life and over a restart.
    NotBeforeDue,
    NotBeforeDueRestart,
    /// 5: none while adaptive delivery has suspended its pair.
    NotSuspended,
    /// 5: none after the message has expired.
    NotExpired,
    /// 5: not while an order of an operator is against it.
    Ordered,
    /// 6: a terminal event is the only one of its recipient.
    OneTerminalEvent,
    /// 6: the events fold to the counters.
    EventsFold,
    /// 7: everything drains in bounded time, and shuts down in bounded time.
    Drained,
    ShutDown,
    /// 7: who waits for a connection to end has one to wait for; no place is lost, or handed to or
    /// asked of somebody who does not hear of it.
    Waits,
    /// 7: no class is passed over for longer than its place and share allow.
    Turns,
    /// 7: after that a start finds nothing.
    NothingLeft,
    /// 8: no container over its bound.
    Bounds,
    /// 8: what an operator is told agrees with itself.
    Answers,
    /// 9: the same seed gives the same trace.
    SameTrace,
}

/// Names for the report, in the order of the variants.
pub const ACTS: [&str; 34] = [
    "send",
    "send shared",
    "resume",
    "close",
    "abort",
    "dial",
    "spool commit",
    "spool sync",
    "spool prepare",
    "spool recycle",
    "spool seal",
    "spool rename",
    "spool remove",
    "spool read",
    "hose write",
    "hose sync",
    "hose cut",
    "hose remove",
    "read body",
    "mesh arrivals",
    "mesh settled",
    "mesh barrier",
    "mesh fetch",
    "mesh body",
    "mesh place free",
    "mesh give up",
    "resolve",
    "answer",
    "notice",
    "adopted",
    "ordered",
    "quiet",
    "drained",
    "stop listening",
];

pub const FAULTS: [&str; 68] = [
    "process killed",
    "power cut",
    "process killed in recovery",
    "power cut in recovery",
    "graceful restart",
    "other number of shards",
    "mail before recovery",
    "config reloaded",
    "operator orders",
    "mail rebound",
    "wall clock forward",
    "wall clock back",
    "sector lost",
    "write torn",
    "operation cut by a crash",
    "disk full",
    "write fails",
    "short write",
    "sync fails",
    "read fails",
    "slow disk",
    "write fails once",
    "write fails three times",
    "write fails for good",
    "sync fails once",
    "sync fails three times",
    "sync fails for good",
    "disk read-only (EROFS)",
    "open fails (EMFILE)",
    "prepare fails",
    "seal fails",
    "rename fails",
    "remove fails",
    "sync takes 4 ms",
    "sync takes 20 ms",
    "sync takes 1 s",
    "sync takes 30 s",
    "event log full",
    "event log fails",
    "event log tail lost",
    "free space short",
    "memory short",
    "dial refused",
    "dial timed out",
    "dial unreachable",
    "dial out of ports",
    "connection reset",
    "connection stalls",
    "half closed",
    "tiny segments",
    "slow mesh",
    "dns fails",
    "dns slow",
    "dns changes",
    "client gone",
    "client sends nonsense",
    "client slow",
    "host busy (421)",
    "host refuses session",
    "host does not greet",
    "host without EHLO",
    "host defers",
    "host rejects",
    "host greylists",
    "host drops the reply",
    "host closes in data",
    "host slow",
    "host rate",
];

pub const CHECKS: [&str; 35] = [
    "1 conservation at any moment",
    "1 one outcome per recipient",
    "1 events tell what happened",
    "2 open recipients recovered",
    "2 bodies recovered whole",
    "2 bodies delivered whole",
    "2 class, tenant and campaign kept",
    "2 rebound mail stays rebound",
    "3 second deliveries excused",
    "3 possible duplicates told",
    "4 outgoing connections",
    "4 connections per host",
    "4 connections per queue",
    "4 connections under shared limits",
    "4 windows of throttles",
    "4 starts under throttles",
    "4 adaptive limits in range",
    "4 sessions coming in",
    "4 batch and connection sizes",
    "4 source addresses",
    "5 not before due",
    "5 not before due after restart",
    "5 not while suspended",
    "5 not after expiry",
    "5 not against an order",
    "6 one terminal event",
    "6 events fold to counters",
    "7 drains in bounded time",
    "7 shuts down in bounded time",
    "7 waits have a cause",
    "7 classes have their turns",
    "7 nothing left after the end",
    "8 bounds of containers",
    "8 answers agree",
    "9 same seed, same trace",
];

const _: () = assert!(Act::StopListening as usize + 1 == ACTS.len());
const _: () = assert!(Fault::HostRate as usize + 1 == FAULTS.len());
const _: () = assert!(Check::SameTrace as usize + 1 == CHECKS.len());

impl Check {
    /// The number of the invariant in section 10 of the design.
    pub fn invariant(self) -> u8 {
        CHECKS[self as usize].as_bytes()[0] - b'0'
    }

    pub fn name(self) -> &'static str {
        CHECKS[self as usize]
    }
}

/// Counts of one run, or of many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counts {
    pub acts: [u64; ACTS.len()],
    pub faults: [u64; FAULTS.len()],
    pub checks: [u64; CHECKS.len()],
    /// Messages that clients handed over, and recipients of those that were acknowledged.
    pub messages: u64,
    pub recipients: u64,
    pub deliveries: u64,
    pub duplicates: u64,
    pub bounced: u64,
    pub expired: u64,
    pub virtual_s: u64,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            acts: [0; ACTS.len()],
            faults: [0; FAULTS.len()],
            checks: [0; CHECKS.len()],
            messages: 0,
            recipients: 0,
            deliveries: 0,
            duplicates: 0,
            bounced: 0,
            expired: 0,
            virtual_s: 0,
        }
    }
}

impl Counts {
    pub fn act(&mut self, act: Act) {
        self.acts[act as usize] += 1;
    }

    pub fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    pub fn check(&mut self, check: Check) {
        self.checks[check as usize] += 1;
    }

    pub fn add(&mut self, other: &Counts) {
        let pairs = [
            (&mut self.acts[..], &other.acts[..]),
            (&mut self.faults[..], &other.faults[..]),
            (&mut self.checks[..], &other.checks[..]),
        ];
        for (mine, theirs) in pairs {
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                *mine += theirs;
            }
        }
        self.messages += other.messages;
        self.recipients += other.recipients;
        self.deliveries += other.deliveries;
        self.duplicates += other.duplicates;
        self.bounced += other.bounced;
        self.expired += other.expired;
        self.virtual_s += other.virtual_s;
    }

    /// Every action, fault and check by name with its count.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        let of = |kind, names: &'static [&'static str], counts: &'_ [u64]| {
            let pairs: Vec<_> = names.iter().copied().zip(counts.iter().copied()).collect();
            pairs
                .into_iter()
                .map(move |(name, count)| (kind, name, count))
        };
        of("action", &ACTS, &self.acts)
            .chain(of("fault", &FAULTS, &self.faults))
            .chain(of("check", &CHECKS, &self.checks))
    }
}
