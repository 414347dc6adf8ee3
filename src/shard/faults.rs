//! Faults of the spool on purpose, so that the whole program can be tried on a disk that is slow or
//! fails: tools that stand between a program and its system calls do not see what goes through a
//! ring. `PELTON_SPOOL_FAULTS` says which; without it there is none of this. Every operation of
//! the spool passes here twice, when it begins and when it has ended. Time is an argument, and a
//! delay is a moment to come back, never a wait.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::io;

use crate::base::time::Mono;
use crate::base::units;
use crate::log::{DiskOp, SyncScope};
use crate::shard::disk::Purpose;
use crate::shard::ring::Finished;
use crate::types::id::ShardId;

/// The variable of the environment that holds a [`Plan`].
pub const VARIABLE: &str = "PELTON_SPOOL_FAULTS";

/// Longer delays than this are mistakes in writing.
const DELAY_MAX: Duration = Duration::from_secs(600);

/// What is counted, each by itself and from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A segment is opened that was not made by this process, or was closed since.
    Open,
    Commit,
    /// The sync that belongs to a commit, seal, preparation, rename or removal, or stands alone.
    /// What it should have made durable has been done, and may be durable.
    Sync,
    Seal,
    /// Of a message's body, or of a segment that is compacted.
    Read,
    Prepare,
    Rename,
    Remove,
    /// A read of a start, which finds out what the spool holds. Counted for all shards together.
    Recover,
}

const KINDS: [(&str, Kind); 9] = [
    ("open", Kind::Open),
    ("commit", Kind::Commit),
    ("sync", Kind::Sync),
    ("seal", Kind::Seal),
    ("read", Kind::Read),
    ("prepare", Kind::Prepare),
    ("rename", Kind::Rename),
    ("remove", Kind::Remove),
    ("recover", Kind::Recover),
];

const ERRORS: [(&str, i32); 6] = [
    ("EIO", libc::EIO),
    ("ENOSPC", libc::ENOSPC),
    ("EDQUOT", libc::EDQUOT),
    ("EROFS", libc::EROFS),
    ("EMFILE", libc::EMFILE),
    ("ENOENT", libc::ENOENT),
];

const FORM: &str = "expected sync-delay=20ms or fail=KIND:WHICH:ERROR, separated by commas, each \
                    with @SHARD behind it if it is for one shard; KIND is open, commit, sync, \
                    seal, read, prepare, rename, remove or recover; WHICH is 3, 3-5 or 3+; ERROR \
                    is EIO, ENOSPC, EDQUOT, EROFS, EMFILE or ENOENT";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// Every operation that syncs ends this much later.
    SyncDelay(Duration),
    /// Operations of a kind fail, from the first to the last of these numbers.
    Fail {
        kind: Kind,
        first: u64,
        last: u64,
        error: i32,
    },
}

/// Which faults there are to be, for all shards or for some.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan(Vec<(Rule, Option<ShardId>)>);

impl Plan {
    /// Reads the variable's value. The error is a sentence for whoever set it.
    pub fn parse(text: &str) -> Result<Plan, String> {
        let rule = |item: &str| {
            parse_rule(item).ok_or_else(|| format!("{VARIABLE}: `{item}` makes no sense: {FORM}"))
        };
        text.split(',').map(str::trim).map(rule).collect()
    }

    /// The faults of one shard, if it has any.
    pub fn of_shard(&self, shard: ShardId) -> Option<Faults> {
        let mine = |(rule, only): &(Rule, Option<ShardId>)| {
            only.is_none_or(|it| it == shard).then_some(*rule)
        };
        let rules: Vec<Rule> = self.0.iter().filter_map(mine).collect();
        (!rules.is_empty()).then(|| Faults {
            rules,
            begun: Cell::default(),
            fates: RefCell::default(),
            held: RefCell::default(),
            struck: RefCell::default(),
        })
    }
}

impl Plan {
    /// The faults of a start, if there are any: a call begins a read, and what it gives is how it
    /// ends, with nothing done, and a sentence for the log.
    pub fn of_start(&self) -> Option<impl Fn() -> Option<String> + Send + Sync + use<>> {
        let all = self.0.iter().map(|(rule, _)| *rule);
        let rules: Vec<Rule> = all.filter(|it| it.is_of(Kind::Recover)).collect();
        let begun = AtomicU64::new(0);
        (!rules.is_empty()).then_some(move || {
            let number = begun.fetch_add(1, Ordering::Relaxed) + 1;
            let error = hit(&rules, Kind::Recover, number)?;
            Some(sentence(Kind::Recover, number, &error))
        })
    }
}

impl FromIterator<(Rule, Option<ShardId>)> for Plan {
    fn from_iter<I: IntoIterator<Item = (Rule, Option<ShardId>)>>(rules: I) -> Plan {
        Plan(rules.into_iter().collect())
    }
}

fn parse_rule(item: &str) -> Option<(Rule, Option<ShardId>)> {
    let (rule, shard) = match item.split_once('@') {
        None => (item, None),
        Some((rule, shard)) => (rule, Some(ShardId(shard.parse().ok()?))),
    };
    let rule = match rule.split_once('=')? {
        ("sync-delay", delay) => {
            let delay = units::parse_duration(delay)?;
            (delay <= DELAY_MAX).then_some(Rule::SyncDelay(delay))?
        }
        ("fail", what) => {
            let mut words = what.split(':');
            let (kind, which, error) = (words.next()?, words.next()?, words.next()?);
            let (first, last) = parse_which(which)?;
            words.next().is_none().then_some(Rule::Fail {
                kind: named(&KINDS, kind)?,
                first,
                last,
                error: named(&ERRORS, error)?,
            })?
        }
        _ => return None,
    };
    Some((rule, shard))
}

/// `3`, `3-5` or `3+`.
fn parse_which(text: &str) -> Option<(u64, u64)> {
    let (first, last) = match (text.strip_suffix('+'), text.split_once('-')) {
        (Some(first), _) => (first.parse().ok()?, u64::MAX),
        (None, Some((first, last))) => (first.parse().ok()?, last.parse().ok()?),
        (None, None) => (text.parse().ok()?, text.parse().ok()?),
    };
    (1 <= first && first <= last).then_some((first, last))
}

fn named<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    let found = table.iter().find(|(it, _)| *it == name);
    found.map(|(_, value)| *value)
}

impl Rule {
    fn is_of(&self, kind: Kind) -> bool {
        matches!(self, Rule::Fail { kind: it, .. } if *it == kind)
    }
}

/// What the operation of this kind and number is to fail with.
fn hit(rules: &[Rule], kind: Kind, number: u64) -> Option<io::Error> {
    let code = rules.iter().find_map(|rule| match *rule {
        Rule::Fail {
            kind: it,
            first,
            last,
            error,
        } if it == kind && (first..=last).contains(&number) => Some(error),
        _ => None,
    });
    code.map(io::Error::from_raw_os_error)
}

fn sentence(kind: Kind, number: u64, error: &io::Error) -> String {
    let name = |(name, it): &(&'static str, Kind)| (*it == kind).then_some(*name);
    let name = KINDS.iter().find_map(name).unwrap_or_default();
    format!("{VARIABLE}: {name} {number} fails: {error}")
}

/// How an operation that is under way is to end.
struct Fate {
    /// What its sync is said to have failed with, although it has not.
    late: Option<i32>,
    delay: Duration,
}

/// The faults of one shard, and what is under way with one.
pub struct Faults {
    rules: Vec<Rule>,
    /// Operations that have begun, by kind.
    begun: Cell<[u64; KINDS.len()]>,
    fates: RefCell<Vec<(Purpose, Fate)>>,
    /// What has ended and is told later.
    held: RefCell<Vec<(Mono, Finished<Purpose>)>>,
    /// What has been made to fail, one sentence each.
    struck: RefCell<Vec<String>>,
}

impl Faults {
    /// An operation of the spool begins. An error is how it ends, here and now, with nothing done.
    pub fn begins(&self, op: &DiskOp, tag: Purpose) -> Result<(), io::Error> {
        let (kind, syncs) = match op {
            DiskOp::Commit { sync, .. } => (Kind::Commit, *sync != SyncScope::Nothing),
            DiskOp::Sync { .. } => (Kind::Sync, true),
            DiskOp::Seal { .. } => (Kind::Seal, true),
            DiskOp::Read { .. } => (Kind::Read, false),
            DiskOp::Prepare { .. } => (Kind::Prepare, true),
            DiskOp::Rename { .. } => (Kind::Rename, true),
            DiskOp::Remove { .. } => (Kind::Remove, true),
        };
        if kind != Kind::Sync {
            self.strikes(kind)?;
        }
        if !syncs {
            return Ok(());
        }
        let late = self.strikes(Kind::Sync).err();
        let late = late.and_then(|error| error.raw_os_error());
        let delay = self.sync_delay();
        if late.is_some() || !delay.is_zero() {
            self.fates.borrow_mut().push((tag, Fate { late, delay }));
        }
        Ok(())
    }

    /// Counts something of this kind that begins; an error if it is to fail.
    pub fn strikes(&self, kind: Kind) -> Result<(), io::Error> {
        let mut begun = self.begun.get();
        let number = begun[kind as usize] + 1;
        begun[kind as usize] = number;
        self.begun.set(begun);
        let Some(error) = hit(&self.rules, kind, number) else {
            return Ok(());
        };
        let text = sentence(kind, number, &error);
        self.struck.borrow_mut().push(text);
        Err(error)
    }

    /// An operation has ended. Nothing if that is to be told later.
    pub fn ends(&self, now: Mono, finished: Finished<Purpose>) -> Option<Finished<Purpose>> {
        let mut fates = self.fates.borrow_mut();
        let Some(at) = fates.iter().position(|(tag, _)| *tag == finished.tag) else {
            return Some(finished);
        };
        let (_, fate) = fates.swap_remove(at);
        let result = match fate.late {
            Some(error) => finished
                .result
                .and(Err(io::Error::from_raw_os_error(error))),
            None => finished.result,
        };
        let finished = Finished { result, ..finished };
        if fate.delay.is_zero() {
            return Some(finished);
        }
        self.held.borrow_mut().push((now + fate.delay, finished));
        None
    }

    /// What is to be told now.
    pub fn due(&self, now: Mono) -> Vec<Finished<Purpose>> {
        let mut held = self.held.borrow_mut();
        let due = held.extract_if(.., |(at, _)| *at <= now);
        due.map(|(_, finished)| finished).collect()
    }

    /// When there will be something to tell.
    pub fn next_wakeup(&self) -> Option<Mono> {
        self.held.borrow().iter().map(|(at, _)| *at).min()
    }

    /// What has been made to fail since the last call, for the log.
    pub fn take_struck(&self) -> Vec<String> {
        self.struck.take()
    }

    fn sync_delay(&self) -> Duration {
        let delays = self.rules.iter().map(|rule| match rule {
            Rule::SyncDelay(delay) => *delay,
            Rule::Fail { .. } => Duration::ZERO,
        });
        delays.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{OpId, SegmentFile};

    fn faults(text: &str) -> Faults {
        let plan = Plan::parse(text).unwrap();
        plan.of_shard(ShardId(0)).expect("it is for every shard")
    }

    fn commit(op: u64) -> DiskOp {
        DiskOp::Commit {
            op: OpId(op),
            file: SegmentFile::live(ShardId(0), 1),
            offset: 0,
            bytes: Vec::new(),
            sync: SyncScope::Written,
        }
    }

    fn finished(op: u64) -> Finished<Purpose> {
        Finished {
            tag: Purpose::Spool(OpId(op)),
            bytes: vec![7],
            result: Ok(()),
        }
    }

    #[test]
    fn reads_of_a_start_are_counted_by_themselves() {
        let plan = Plan::parse("fail=recover:2:EIO,fail=read:1:EIO").unwrap();
        let begins = plan.of_start().unwrap();
        assert_eq!(begins(), None);
        let told = begins().unwrap();
        assert!(told.contains("recover 2 fails"), "{told}");
        assert_eq!(begins(), None);
        assert!(Plan::parse("fail=read:1:EIO").unwrap().of_start().is_none());
    }

    #[test]
    fn plans_are_read_and_nonsense_is_refused() {
        let many = "sync-delay=20ms, fail=commit:17:EIO,fail=prepare:1+:ENOSPC@1";
        assert_eq!(Plan::parse(many).unwrap().0.len(), 3);
        for nonsense in [
            "",
            "on",
            "sync-delay=",
            "sync-delay=1h",
            "fail=commit:17",
            "fail=commit:0:EIO",
            "fail=commit:5-3:EIO",
            "fail=fsync:1:EIO",
            "fail=commit:1:EWHAT",
            "fail=commit:1:EIO:2",
            "fail=commit:1:EIO@x",
            "sync-delay=1s,",
        ] {
            let refused = Plan::parse(nonsense).unwrap_err();
            assert!(refused.contains("expected sync-delay"), "{nonsense}");
        }
    }

    #[test]
    fn a_rule_for_one_shard_leaves_the_others_alone() {
        let plan = Plan::parse("sync-delay=1s@1").unwrap();
        assert!(plan.of_shard(ShardId(0)).is_none());
        assert!(plan.of_shard(ShardId(1)).is_some());
        assert!(Plan::default().of_shard(ShardId(0)).is_none());
    }

    #[test]
    fn each_kind_is_counted_by_itself() {
        let faults = faults("fail=commit:2-3:ENOSPC,fail=read:1:EIO");
        let ends: Vec<bool> = (1..=4)
            .map(|op| {
                faults
                    .begins(&commit(op), Purpose::Spool(OpId(op)))
                    .is_err()
            })
            .collect();
        assert_eq!(ends, [false, true, true, false]);
        assert_eq!(faults.take_struck().len(), 2);
        let error = faults.strikes(Kind::Read).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(faults.strikes(Kind::Read).is_ok());
    }

    #[test]
    fn a_slow_sync_is_told_when_its_time_has_come() {
        let faults = faults("sync-delay=20ms,fail=sync:2:EIO");
        let now = Mono(5);
        for op in [1, 2] {
            let tag = Purpose::Spool(OpId(op));
            faults.begins(&commit(op), tag).unwrap();
            assert!(faults.ends(now, finished(op)).is_none());
        }
        let at = now + Duration::from_millis(20);
        assert_eq!(faults.next_wakeup(), Some(at));
        assert!(faults.due(now).is_empty());
        let told = faults.due(at);
        assert!(told[0].result.is_ok() && told[1].result.is_err());
        assert_eq!(told[1].bytes, [7]);
        assert_eq!(faults.next_wakeup(), None);
    }
}
