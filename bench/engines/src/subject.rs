//! An engine under measurement, as the job sees it. [`crate::cores`] drives ours on its cores, and
//! [`crate::threads`] the others on threads.

use crate::data::{Choice, Part, Picker, Values};
use crate::error::Result;
use crate::plan::Data;
use crate::recorder::{Op, Recorder, Window};
use corelith_bench::random::{Random, scramble};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// Operations that wait for a lane; beyond it the pacer waits, and latencies count from when it should have
/// gone on.
pub(crate) const DUE_MAX: usize = 1 << 16;

/// One of the loads of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Role {
    pub(crate) op: Op,
    pub(crate) choice: Choice,
    /// Operations in flight: tasks of ours, threads of the others.
    pub(crate) lanes: usize,
    /// Operations a second at random times; as many as possible if `None`.
    pub(crate) rate: Option<f64>,
    /// Ends after so many instead of at the end of the window.
    pub(crate) count: Option<u64>,
    /// Whether a put is durable when it returns.
    pub(crate) durable: bool,
}

impl Role {
    /// What a get finds if the key's value has `len` bytes.
    pub(crate) fn must_find(&self, len: usize) -> Option<usize> {
        (self.choice != Choice::Absent).then_some(len)
    }
}

/// Loads that run at the same time.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) roles: Vec<Role>,
    pub(crate) data: Data,
    pub(crate) values: Values,
    pub(crate) window: Window,
    pub(crate) keep_samples: bool,
    pub(crate) seed: u64,
}

impl Step {
    /// The pickers of a role's lanes, for one part of the keys.
    pub(crate) fn pickers(&self, nth: usize, role: &Role, lanes: usize, part: Part) -> Vec<Picker> {
        let taken = Arc::new(AtomicU64::new(0));
        (0..lanes)
            .map(|lane| Picker {
                choice: role.choice,
                keys: self.data.keys,
                part,
                random: Random::new(scramble(
                    self.seed ^ (nth as u64) << 48 ^ (lane as u64) << 32 ^ part.rest,
                )),
                taken: Arc::clone(&taken),
                count: role.count.map_or(u64::MAX, |count| part.share(count)),
            })
            .collect()
    }

    pub(crate) fn recorder(&self) -> Recorder {
        Recorder::new(self.window, self.keep_samples)
    }

    /// Whether a role with a count is still to go on, or the window is not over.
    pub(crate) fn goes_on(&self, role: &Role) -> bool {
        role.count.is_some() || Instant::now() < self.window.end
    }
}

/// What an engine says about itself. What it does not tell stays 0 or `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Statistics {
    /// Flushes of memtables that run now, compactions, collections of value segments.
    pub(crate) flushes_running: u64,
    pub(crate) compactions_running: u64,
    pub(crate) collections_running: u64,
    /// And how many have ended since it was opened.
    pub(crate) flushes: u64,
    pub(crate) compactions: u64,
    pub(crate) collections: u64,
    /// Bytes that it wrote, by its own account.
    pub(crate) written_bytes: Option<u64>,
    /// Entries that were applied from the log when it was opened.
    pub(crate) replayed: u64,
    /// Blocks that had to be read, and searches of tables that filters let pass in vain.
    pub(crate) cache_misses: u64,
    pub(crate) false_positives: u64,
    /// Memory that the block cache holds.
    pub(crate) cache_bytes: u64,
}

impl Statistics {
    /// The figures of two shards together.
    pub(crate) fn and(self, other: Self) -> Self {
        let sum = |mine: Option<u64>, others: Option<u64>| match (mine, others) {
            (Some(mine), Some(others)) => Some(mine + others),
            (known, None) | (None, known) => known,
        };
        Self {
            flushes_running: self.flushes_running + other.flushes_running,
            compactions_running: self.compactions_running + other.compactions_running,
            collections_running: self.collections_running + other.collections_running,
            flushes: self.flushes + other.flushes,
            compactions: self.compactions + other.compactions,
            collections: self.collections + other.collections,
            written_bytes: sum(self.written_bytes, other.written_bytes),
            replayed: self.replayed + other.replayed,
            cache_misses: self.cache_misses + other.cache_misses,
            false_positives: self.false_positives + other.false_positives,
            cache_bytes: self.cache_bytes + other.cache_bytes,
        }
    }
}

/// An open engine with its load generator.
pub(crate) trait Subject: Sync {
    /// Runs the loads of a step until all have ended.
    fn run(&self, step: &Step) -> Result<Recorder>;

    /// Flushes everything and waits until no background work is left.
    fn settle(&self) -> Result<()>;

    /// How it is going.
    fn statistics(&self) -> Result<Statistics>;

    /// Closes the engine.
    fn close(self: Box<Self>) -> Result<()>;
}
