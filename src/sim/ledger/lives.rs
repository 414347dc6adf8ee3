//! The processes of a run, one after the other, and what each may have forgotten when it was
//! killed: outcomes that were not yet on disk.

/// An outcome is on its way to disk at most this long if nothing is slow, microseconds: 50 ms
/// until its commit begins, and a little for timers.
const OUTCOME_US: u64 = 60_000;

/// A disk that fails again so soon may not have taken everything in between, microseconds.
const RELAPSE_US: u64 = 1_000_000;

/// Shards of a process at most.
const SHARDS_MAX: usize = 8;

/// One process.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// When it was killed; nothing if it runs or has shut down in order.
    killed_us: Option<u64>,
    /// Longest operation of its disk and longest way through its mesh.
    slowest_op_us: u64,
    slowest_mesh_us: u64,
    /// A commit has failed, and none has succeeded since on that shard.
    failing: u64,
    /// Shards whose next segment cannot be made: commits go on until this one is full.
    stuck: u64,
    /// The last commit of each shard that succeeded.
    committed_us: [u64; SHARDS_MAX],
    /// When that began, the last time.
    failing_from_us: u64,
    /// When the last shard whose disk had failed was well again.
    well_us: u64,
    /// A segment of an earlier life could not be synced.
    left_unsynced: bool,
    /// It ended with the power.
    lost_power: bool,
}

impl Life {
    /// From an outcome to its record on disk: the commit under way, the next one, and a read of
    /// the message for its event.
    fn window_us(&self) -> u64 {
        OUTCOME_US + self.slowest_mesh_us + 4 * self.slowest_op_us
    }

    /// Whether a shard without another segment has committed nothing since that could have held
    /// what was known then.
    fn is_held_up(&self, known_us: u64) -> bool {
        let stuck = (0..SHARDS_MAX).filter(|shard| self.stuck & 1 << shard != 0);
        stuck
            .map(|shard| self.committed_us[shard])
            .any(|committed_us| committed_us <= known_us + self.window_us())
    }
}

/// Numbers lives from 1.
#[derive(Default)]
pub struct Lives {
    all: Vec<Life>,
}

impl Lives {
    pub fn current(&self) -> u32 {
        self.all.len() as u32
    }

    pub fn begin(&mut self) {
        self.all.push(Life {
            killed_us: None,
            slowest_op_us: 0,
            slowest_mesh_us: 0,
            failing: 0,
            stuck: 0,
            committed_us: [0; SHARDS_MAX],
            failing_from_us: 0,
            well_us: 0,
            left_unsynced: false,
            lost_power: false,
        });
    }

    pub fn mesh_took(&mut self, took_us: u64) {
        if let Some(life) = self.all.last_mut() {
            life.slowest_mesh_us = life.slowest_mesh_us.max(took_us);
        }
    }

    /// How a commit on a shard ended.
    pub fn commit_ended(&mut self, now_us: u64, shard: usize, well: bool) {
        let Some(life) = self.all.last_mut() else {
            return;
        };
        let bit = 1 << shard;
        if well {
            life.committed_us[shard] = now_us;
        }
        if !well {
            let relapse = life.well_us > 0 && now_us < life.well_us + RELAPSE_US;
            if life.failing == 0 && !relapse {
                life.failing_from_us = now_us;
            }
            life.failing |= bit;
        } else if life.failing & bit != 0 {
            life.failing &= !bit;
            life.well_us = now_us;
        }
    }

    /// How making a segment for a shard ended.
    pub fn prepare_ended(&mut self, now_us: u64, shard: usize, well: bool) {
        let Some(life) = self.all.last_mut() else {
            return;
        };
        let bit = 1 << shard;
        if !well {
            life.stuck |= bit;
        } else if life.stuck & bit != 0 {
            life.stuck &= !bit;
            life.well_us = now_us;
        }
    }

    /// Whether the disk of the present process has failed at all.
    pub fn had_trouble(&self) -> bool {
        self.all
            .last()
            .is_some_and(|life| life.failing != 0 || life.well_us > 0)
    }

    pub fn killed(&mut self, now_us: u64, slowest_op_us: u64) {
        if let Some(life) = self.all.last_mut() {
            life.killed_us = Some(now_us);
            life.slowest_op_us = slowest_op_us;
        }
    }

    pub fn power_lost(&mut self) {
        if let Some(life) = self.all.last_mut() {
            life.lost_power = true;
        }
    }

    /// The sync of a segment that an earlier life has left has failed.
    pub fn sync_failed(&mut self) {
        if let Some(life) = self.all.last_mut() {
            life.left_unsynced = true;
        }
    }

    /// Whether what a life had found in the spool, and told, may be gone: it could not be synced
    /// then, and the power went. The engine cannot know which of it was on disk.
    pub fn may_have_lost_findings(&self, life: u32) -> bool {
        let life = self.all.get(life as usize - 1);
        life.is_some_and(|life| life.left_unsynced && life.lost_power)
    }

    /// Whether the disk of any process has failed.
    pub fn any_trouble(&self) -> bool {
        self.all
            .iter()
            .any(|life| life.failing != 0 || life.well_us > 0)
    }

    /// Whether any process was killed.
    pub fn any_killed(&self) -> bool {
        self.all.iter().any(|life| life.killed_us.is_some())
    }

    /// Whether every process from this one on ended in order, or still runs.
    pub fn in_order_since(&self, life: u32) -> bool {
        let since = (life as usize).saturating_sub(1);
        self.all[since..]
            .iter()
            .all(|life| life.killed_us.is_none())
    }

    /// Whether an outcome known at that moment of a life may have been lost with it.
    pub fn may_have_forgotten(&self, life: u32, known_us: u64) -> bool {
        let Some(life) = self.all.get(life as usize - 1) else {
            return false;
        };
        let Some(killed_us) = life.killed_us else {
            return false;
        };
        if life.failing != 0 || life.is_held_up(known_us) {
            return true;
        }
        killed_us <= known_us.max(life.well_us) + life.window_us()
    }

    /// Whether the record of an outcome may be lost although its event was in the event log at that
    /// moment of a life: the disk had refused it, which does not hold back the event, and the
    /// process was killed before the disk took it after all.
    pub fn may_have_lost_record(&self, life: u32, told_us: u64) -> bool {
        let Some(life) = self.all.get(life as usize - 1) else {
            return false;
        };
        let Some(killed_us) = life.killed_us else {
            return false;
        };
        let ends_us = match (life.failing, life.well_us) {
            (0, 0) => return false,
            (0, well_us) => well_us + life.window_us(),
            _ => u64::MAX,
        };
        told_us >= life.failing_from_us && killed_us <= ends_us
    }
}
