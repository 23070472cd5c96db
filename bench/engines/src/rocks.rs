//! RocksDB as it is measured.

use crate::error::Result;
use crate::plan::{Plan, Tuning};
use crate::subject::Statistics;
use crate::threads::Store;
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, FlushOptions, Options};
use rocksdb::{WriteOptions, properties};
use std::ffi::CStr;
use std::time::Duration;

/// As ours: one that is written and two that wait for their flush.
const MEMTABLES: i32 = 3;
/// RocksDB's own advice for a machine with two cores and an SSD; its default is 2.
const BACKGROUND_JOBS: i32 = 4;
const FILTER_BITS_PER_KEY: f64 = 10.0;
const BLOB_AGE_CUTOFF: f64 = 0.25;
/// How often it is asked whether anything is left to do, and how often the answer must be no in a row.
const POLL: Duration = Duration::from_millis(20);
const QUIET_POLLS: u32 = 10;

pub(crate) struct Rocks {
    db: DB,
}

impl Rocks {
    pub(crate) fn open(plan: &Plan) -> Result<Self> {
        let separates = plan.job.data().value_bytes_max() >= plan.tuning.separate_bytes;
        let options = options(&plan.tuning, separates)?;
        let db = DB::open(&options, &plan.dir)?;
        Ok(Self { db })
    }

    fn property(&self, name: &CStr) -> u64 {
        self.db.property_int_value(name).ok().flatten().unwrap_or(0)
    }

    fn is_busy(&self) -> bool {
        [
            properties::MEM_TABLE_FLUSH_PENDING,
            properties::NUM_RUNNING_FLUSHES,
            properties::COMPACTION_PENDING,
            properties::NUM_RUNNING_COMPACTIONS,
        ]
        .into_iter()
        .any(|name| self.property(name) > 0)
    }
}

fn options(tuning: &Tuning, separates: bool) -> Result<Options> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(tuning.cache_bytes)?);
    table.set_bloom_filter(FILTER_BITS_PER_KEY, false);
    table.set_format_version(5);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::None);
    options.set_use_direct_reads(true);
    options.set_use_direct_io_for_flush_and_compaction(true);
    options.set_write_buffer_size(tuning.memtable_bytes);
    options.set_max_write_buffer_number(MEMTABLES);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_level_compaction_dynamic_level_bytes(true);
    if separates {
        options.set_enable_blob_files(true);
        options.set_min_blob_size(tuning.separate_bytes as u64);
        options.set_blob_compression_type(DBCompressionType::None);
        options.set_enable_blob_gc(true);
        options.set_blob_gc_age_cutoff(BLOB_AGE_CUTOFF);
    }
    Ok(options)
}

impl Store for Rocks {
    fn put(&self, key: &[u8], value: &[u8], durable: bool) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(durable);
        Ok(self.db.put_opt(key, value, &options)?)
    }

    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        Ok(self.db.get_pinned(key)?.map(|value| value.len()))
    }

    fn settle(&self) -> Result<()> {
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        self.db.flush_opt(&flush)?;
        let mut quiet = 0;
        while quiet < QUIET_POLLS {
            quiet = if self.is_busy() { 0 } else { quiet + 1 };
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            flushes_running: self.property(properties::NUM_RUNNING_FLUSHES),
            compactions_running: self.property(properties::NUM_RUNNING_COMPACTIONS),
            ..Statistics::default()
        }
    }
}
