//! fjall as it is measured.

use crate::error::Result;
use crate::plan::{Plan, Tuning};
use crate::subject::Statistics;
use crate::threads::Store;
use fjall::config::{BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use std::time::Duration;

const FILTER_BITS_PER_KEY: f32 = 10.0;
/// How often it is asked whether anything is left to do, and how often the answer must be no in a row.
const POLL: Duration = Duration::from_millis(20);
const QUIET_POLLS: u32 = 10;

pub(crate) struct Fjall {
    database: Database,
    keyspace: Keyspace,
}

impl Fjall {
    pub(crate) fn open(plan: &Plan) -> Result<Self> {
        let separates = plan.job.data().value_bytes_max() >= plan.tuning.separate_bytes;
        let database = Database::builder(&plan.dir)
            .cache_size(plan.tuning.cache_bytes as u64)
            .open()?;
        let keyspace = database.keyspace("bench", || options(&plan.tuning, separates))?;
        Ok(Self { database, keyspace })
    }
}

/// Without the feature `lz4` nothing is compressed.
fn options(tuning: &Tuning, separates: bool) -> KeyspaceCreateOptions {
    let bloom = BloomConstructionPolicy::BitsPerKey(FILTER_BITS_PER_KEY);
    let threshold = u32::try_from(tuning.separate_bytes).unwrap_or(u32::MAX);
    KeyspaceCreateOptions::default()
        .max_memtable_size(tuning.memtable_bytes as u64)
        .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(bloom)))
        .with_kv_separation(
            separates.then(|| KvSeparationOptions::default().separation_threshold(threshold)),
        )
}

impl Store for Fjall {
    fn put(&self, key: &[u8], value: &[u8], durable: bool) -> Result<()> {
        self.keyspace.insert(key, value)?;
        if durable {
            self.database.persist(PersistMode::SyncAll)?;
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        Ok(self.keyspace.get(key)?.map(|value| value.len()))
    }

    fn settle(&self) -> Result<()> {
        self.keyspace.rotate_memtable_and_wait()?;
        let mut quiet = 0;
        let mut completed = self.database.compactions_completed();
        while quiet < QUIET_POLLS {
            std::thread::sleep(POLL);
            let now = self.database.compactions_completed();
            let idle = self.database.outstanding_flushes() == 0
                && self.database.active_compactions() == 0
                && now == completed;
            completed = now;
            quiet = if idle { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            flushes_running: self.keyspace.sealed_memtable_count() as u64,
            compactions_running: self.database.active_compactions() as u64,
            compactions: self.database.compactions_completed() as u64,
            ..Statistics::default()
        }
    }
}
