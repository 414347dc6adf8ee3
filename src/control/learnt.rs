//! What adaptive delivery has learnt, on disk: a ledger beside the spool, written by a thread of
//! its own. Changes of a moment share one write, so that a kill loses no more than that moment.

use core::time::Duration;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::base::map::Map;
use crate::base::time::Wall;
use crate::base::warmup::Warmups;
use crate::engine::io::Adapted;
use crate::engine::owner::adaptive::Pair;
use crate::engine::owner::warmup::EVERY_DOMAIN;
use crate::engine::owner_of;
use crate::shape::Saved;
use crate::types::id::ShardId;

use super::journal::Journal;
use super::ledger::Ledger;
use super::startup::SpoolLock;

/// How long changes wait for others to share their write.
const GATHER: Duration = Duration::from_millis(500);

/// Pairs of one write: a line of the ledger has its bound.
const PAIRS_MAX: usize = 128;

/// Where goes what adaptive delivery learns.
pub type LearntSender = Sender<Box<Adapted>>;

/// What the last run has learnt, and where this one keeps what it learns.
pub struct Learnt {
    ledger: Ledger<Saved>,
}

impl Learnt {
    /// Opens the ledger in the spool folder. Tells the damage that it found.
    pub fn open(spool: &Path, lock: &SpoolLock) -> io::Result<(Learnt, Vec<String>)> {
        let (ledger, damage) = Ledger::open(&spool.join("adaptive.ledger"), lock)?;
        Ok((Learnt { ledger }, damage))
    }

    /// What a shard owns of it.
    pub fn of_shard(&self, shard: ShardId, shards: usize) -> Vec<(Pair, Saved)> {
        let all = self.ledger.all().into_iter();
        let named = all.filter_map(|(key, saved)| {
            let (binding, domain) = key.split_once(' ')?;
            let pair: Pair = (binding.into(), domain.into());
            Some((pair, saved))
        });
        let is_owner = |pair: &Pair| owner_of(shards, &pair.0, &pair.1) == shard;
        let of_pair = |(pair, _): &(Pair, Saved)| &*pair.1 != EVERY_DOMAIN && is_owner(pair);
        named.filter(of_pair).collect()
    }

    /// Gives how far bindings were warmed up to those that go on with it. Before the shards run.
    pub fn restore_warmups(&self, warmups: &Warmups) {
        for (key, saved) in self.ledger.all() {
            let of = key.split_once(' ').filter(|it| it.1 == EVERY_DOMAIN);
            if let (Some((binding, _)), Some(saved)) = (of, saved.warmup) {
                warmups.restore(binding, saved);
            }
        }
    }

    /// Starts the thread. It ends, with everything on disk, when the sender is gone.
    pub fn keep(
        self,
        journal: Arc<Journal>,
        clock: impl Fn() -> Wall + Send + 'static,
        complain: impl Fn(&str) + Send + 'static,
    ) -> io::Result<(LearntSender, JoinHandle<()>)> {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("learnt".to_string());
        let spawned = thread.spawn(move || {
            while let Ok(first) = receiver.recv() {
                let gathered = gather(first, &receiver);
                if let Err(error) = self.write(gathered, &journal, clock()) {
                    complain(&format!(
                        "what adaptive delivery has learnt is not kept: adaptive.ledger: {error}"
                    ));
                }
            }
        })?;
        Ok((sender, spawned))
    }

    fn write(&self, gathered: Vec<Adapted>, journal: &Journal, at: Wall) -> io::Result<()> {
        // The last state of a pair is the one.
        let mut states: Map<String, Option<Saved>> = Map::default();
        for adapted in gathered {
            for sentence in &adapted.journal {
                // The journal tells of the past; the engine runs without it.
                let _ = journal.append(at, "limit", "pelton", sentence);
            }
            let key = format!("{} {}", adapted.binding, adapted.domain);
            let version = |saved: &Option<Saved>| Some(saved.as_ref()?.warmup.as_ref()?.version);
            // Several shards tell of the warm-up of one binding.
            let known = match states.get(&key) {
                Some(state) => version(state),
                None => version(&self.ledger.get(&key)),
            };
            if version(&adapted.saved) >= known {
                states.insert(key, adapted.saved);
            }
        }
        let states: Vec<_> = states.into_iter().collect();
        states
            .chunks(PAIRS_MAX)
            .try_for_each(|pairs| self.ledger.apply(pairs.to_vec()))
    }
}

fn gather(first: Box<Adapted>, receiver: &Receiver<Box<Adapted>>) -> Vec<Adapted> {
    std::thread::sleep(GATHER);
    let more = receiver.try_iter().map(|it| *it);
    core::iter::once(*first).chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::super::startup::lock_spool;
    use super::*;
    use crate::shape::count::SavedCount;

    fn adapted(domain: &str, limit: Option<u32>) -> Box<Adapted> {
        let saved = limit.map(|limit| Saved {
            connections: Some(SavedCount {
                limit,
                known: limit,
            }),
            ..Saved::default()
        });
        Box::new(Adapted {
            shard: ShardId(0),
            binding: "b1".into(),
            domain: domain.into(),
            saved,
            journal: vec![format!("b1 to {domain} has changed")],
        })
    }

    #[test]
    fn what_was_learnt_is_there_after_a_start_for_whichever_shard_owns_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let lock = lock_spool(folder.path()).expect("a lock");
        let path = folder.path().join("journal.jsonl");
        let journal = Arc::new(Journal::open(&path, 1 << 20).expect("a journal"));
        let (learnt, damage) = Learnt::open(folder.path(), &lock).expect("a ledger");
        assert!(damage.is_empty());
        let kept = learnt.keep(journal.clone(), || Wall(7), |why| panic!("{why}"));
        let (sender, thread) = kept.expect("a thread");
        for number in 0..20 {
            sender
                .send(adapted(&format!("d{number}"), Some(3)))
                .unwrap();
        }
        sender.send(adapted("d7", None)).unwrap();
        sender.send(adapted("d8", Some(5))).unwrap();
        drop(sender);
        thread.join().expect("it ends");
        let changes = journal.read(Wall(0)).expect("read");
        assert_eq!(changes.len(), 22);
        assert_eq!((&*changes[0].kind, &*changes[0].by), ("limit", "pelton"));
        let (learnt, _) = Learnt::open(folder.path(), &lock).expect("a ledger");
        for shards in [1, 2, 5] {
            let all = (0..shards).flat_map(|it| learnt.of_shard(ShardId(it as u8), shards));
            let all: Vec<_> = all.collect();
            assert_eq!(all.len(), 19);
            let d8 = all.iter().find(|((_, domain), _)| &**domain == "d8");
            let limit = d8
                .and_then(|(_, saved)| saved.connections)
                .map(|it| it.limit);
            assert_eq!(limit, Some(5));
        }
    }
}
