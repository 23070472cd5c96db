//! Opening a shard: the façade over its log and its engine.

use crate::cache::BlockCache;
use crate::capacity::Capacity;
use crate::compaction::{self, Policy};
use crate::directory::Directory;
use crate::engine::{DamageHook, Engine, EngineOptions, EngineParts, LogHooks, ScrubOptions};
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{LogId, LogIndex, Owner, ShardId};
use crate::limits::{REMOVAL_STEP_BYTES, VALUE_THRESHOLD_BYTES, VLOG_SEGMENT_BYTES_DEFAULT};
use crate::log::{Log, LogOptions, Values};
use crate::pace::PaceLimits;
use crate::recovery;
use crate::reserve::Reserve;
use crate::rounds::Rounds;
use crate::sstable::Compression;
use crate::vlog::{ValueLog, ValueLogOptions};
use std::path::Path;

/// How to open a shard.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// The id of the store (drawn at its creation); every file carries it.
    pub store_id: u64,
    /// Which shard this is.
    pub shard: ShardId,
    /// A memtable of this many bytes is frozen and flushed.
    pub memtable_bytes: usize,
    /// Length of a log segment.
    pub segment_bytes: u64,
    /// Recent log entries kept in memory for slow followers, in bytes.
    pub log_cache_bytes: usize,
    /// Blocks of sstables kept in memory; one for all shards of a core.
    pub cache: BlockCache,
    /// What is looked at once a second; one for all shards of a core. `None`: one for this shard.
    pub rounds: Option<Rounds>,
    /// How tables are compacted. Another one than before rearranges them in the background.
    pub policy: Policy,
    /// How blocks of new tables are stored.
    pub compression: Compression,
    /// A value at least this long goes to the value log instead of the log and the tables; 0: none.
    pub value_threshold: usize,
    /// Length of a segment of the value log.
    pub value_segment_bytes: u64,
    /// How what is at rest is checked.
    pub scrub: ScrubOptions,
    /// Told once of each damaged block that is found; see [`Damage`](crate::Damage). It may ask
    /// another replica for the data.
    pub on_damage: Option<DamageHook>,
    /// Files out of use are given back to the file system in steps of this many bytes; see
    /// [`removal`](crate::removal).
    pub removal_step_bytes: u64,
    /// Space held back on the device for flushes, compactions, collections and the log when it is
    /// full; 0: none.
    pub reserve_bytes: u64,
    /// How much of what grows with its data a shard may have.
    pub capacity: Capacity,
    /// Whether the shard was created before: if it is missing, that is damage, and it is not created
    /// anew.
    pub is_known: bool,
}

impl ShardOptions {
    /// The defaults for a shard.
    pub fn new(store_id: u64, shard: ShardId) -> Self {
        Self {
            store_id,
            shard,
            memtable_bytes: 64 << 20,
            segment_bytes: 64 << 20,
            log_cache_bytes: 16 << 20,
            cache: BlockCache::new(32 << 20),
            rounds: None,
            policy: Policy::default(),
            compression: Compression::None,
            value_threshold: VALUE_THRESHOLD_BYTES,
            value_segment_bytes: VLOG_SEGMENT_BYTES_DEFAULT,
            scrub: ScrubOptions::default(),
            on_damage: None,
            removal_step_bytes: REMOVAL_STEP_BYTES,
            reserve_bytes: 0,
            capacity: Capacity::default(),
            is_known: false,
        }
    }
}

/// An open shard. Belongs to one core.
pub struct Shard {
    /// Its log.
    pub log: Log,
    /// Its state.
    pub engine: Engine,
}

impl Shard {
    /// Opens the shard in `dir`, creating it if `dir` is missing or empty and it is not a known one: reads the manifest,
    /// removes orphan files, scans the log. Entries after the checkpoint are not applied here: the
    /// consensus layer replays them.
    ///
    /// # Errors
    /// `Corrupt` with file and offset when acknowledged data is damaged; it never opens empty.
    pub async fn open(dir: &Path, options: ShardOptions) -> Result<Self> {
        Self::open_tuned(dir, options, compaction::PickerOptions::default()).await
    }

    /// As [`Shard::open`], with other bounds of compaction.
    async fn open_tuned(
        dir: &Path,
        options: ShardOptions,
        compaction: compaction::PickerOptions,
    ) -> Result<Self> {
        let owner = Owner {
            store_id: options.store_id,
            shard: options.shard,
        };
        let directory = Directory::from(dir);
        let recovered = recovery::recover(&directory, owner, options.is_known).await?;
        let log_options = LogOptions {
            store_id: options.store_id,
            shard: options.shard,
            segment_bytes: options.segment_bytes,
            cache_bytes: options.log_cache_bytes,
            separated_value_bytes: Some(options.value_threshold).filter(|bytes| *bytes > 0),
        };
        let (values, _) = ValueLog::open(
            &directory,
            owner,
            ValueLogOptions {
                segment_bytes: options.value_segment_bytes,
                series: recovered.manifest.series,
            },
            recovered.manifest.segments.clone(),
            recovered.manifest.next_segment,
        )
        .await?;
        recovery::refuse_missing_values(&directory, &recovered.manifest, &values.segments())?;
        let checkpoint = recovered.manifest.checkpoint.applied;
        let installed = recovered.manifest.installed;
        let covered = covered(checkpoint, installed);
        let reserve = Reserve::new(&directory, options.reserve_bytes);
        let open_log = async || {
            let values = Values::On(values.clone());
            Log::open(&directory, log_options.clone(), covered, values).await
        };
        let opened = open_log().await;
        let lacks_room = opened.as_ref().is_err_and(Error::is_no_space);
        // A node must start on a full device, so that what makes room can be done.
        let (log, _) = match lacks_room && reserve.give_up_left().await? {
            true => open_log().await?,
            false => opened?,
        };
        if recovered.creating {
            recovery::finish_creation(&directory, owner, &recovered.manifest).await?;
        }
        join(dir, &log, checkpoint, installed).await?;

        reserve.take().await?;
        let engine = Engine::open(EngineParts {
            dir: directory.clone(),
            owner,
            options: EngineOptions {
                memtable_bytes: options.memtable_bytes,
                policy: options.policy,
                compaction,
                limits: PaceLimits::default(),
                compression: options.compression,
                value_threshold: options.value_threshold,
                scrub: options.scrub,
                removal_step_bytes: options.removal_step_bytes,
                capacity: options.capacity,
            },
            cache: options.cache,
            rounds: options.rounds.unwrap_or_default(),
            values,
            manifest: recovered.manifest,
            lock: Some(recovered.lock),
            log: hooks_of(&log),
            reserve,
            on_damage: options.on_damage,
        })
        .await?;
        Ok(Self { log, engine })
    }

    /// Says that the shard will be closed: waits for room in memory or on the device end with `Closed` from
    /// now on, so that a full device does not keep a task from ending.
    pub fn begin_stop(&self) {
        self.log.begin_stop();
        self.engine.begin_stop();
    }

    /// Flushes what can be flushed, waits for writes in flight and stops background work.
    ///
    /// # Errors
    /// What kept it from flushing, a full device among it, or kept entries from becoming durable.
    /// Everything acknowledged is in the log nevertheless.
    pub async fn close(self) -> Result<()> {
        self.begin_stop();
        let flushed = self.engine.close().await;
        let closed = self.log.close().await;
        self.engine.unlock();
        closed?;
        flushed
    }
}

/// What the engine asks of this log.
fn hooks_of(log: &Log) -> LogHooks {
    let barrier_log = log.clone();
    let (purged_log, full_log, stuck_log) = (log.clone(), log.clone(), log.clone());
    let (segments_log, named_log) = (log.clone(), log.clone());
    let (resting_log, checked_log) = (log.clone(), log.clone());
    LogHooks {
        barrier: Box::new(move || {
            let log = barrier_log.clone();
            Box::pin(async move { log.flush().await })
        }),
        purged: Box::new(move || purged_log.purged_durable()),
        is_disk_full: Box::new(move || full_log.is_disk_full()),
        is_stuck: Box::new(move || stuck_log.is_stuck()),
        segments: Box::new(move || segments_log.segments()),
        has_segment: Box::new(move |id| named_log.has_segment(id)),
        at_rest: Box::new(move || resting_log.at_rest()),
        check: Box::new(move |id, offset| {
            let log = checked_log.clone();
            Box::pin(async move { log.check(id, offset).await })
        }),
    }
}

/// How the log and the checkpoint fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The log goes on where the checkpoint ends, or before.
    Whole,
    /// A snapshot was installed, and a crash came before the log was purged up to it.
    PurgeTo(LogId),
    /// As before, and the log holds entries that the snapshot's log did not.
    Discard(LogId),
    /// Entries between the checkpoint and the log are missing, or are not those applied.
    Damaged(&'static str),
}

/// Up to which entry the log was durable before the checkpoint was. An installed snapshot does not wait
/// for the log.
fn covered(checkpoint: Option<LogId>, installed: Option<LogId>) -> Option<LogIndex> {
    let checkpoint = checkpoint.filter(|id| installed != Some(*id));
    checkpoint.map(|id| id.index)
}

/// Decides from the log's purge point, its last entry and its entry at the checkpoint.
pub(crate) fn fit(
    checkpoint: Option<LogId>,
    installed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    at_checkpoint: Option<LogId>,
) -> Fit {
    let purged_index = purged.map(|id| id.index);
    let Some(checkpoint) = checkpoint else {
        return match purged {
            None => Fit::Whole,
            Some(_) => Fit::Damaged("the log was purged beyond the checkpoint"),
        };
    };
    let from_snapshot = installed == Some(checkpoint);
    if purged_index > Some(checkpoint.index) {
        return Fit::Damaged("the log was purged beyond the checkpoint");
    }
    if purged_index == Some(checkpoint.index) {
        return Fit::Whole;
    }
    if last.map(|id| id.index) < Some(checkpoint.index) {
        return match from_snapshot {
            true => Fit::PurgeTo(checkpoint),
            false => Fit::Damaged("the log ends before the checkpoint"),
        };
    }
    match at_checkpoint {
        Some(id) if id == checkpoint => Fit::Whole,
        _ if from_snapshot => Fit::Discard(checkpoint),
        _ => Fit::Damaged("the log holds another entry at the checkpoint"),
    }
}

/// Checks the log against the checkpoint, and ends an installation that a crash interrupted.
async fn join(
    dir: &Path,
    log: &Log,
    checkpoint: Option<LogId>,
    installed: Option<LogId>,
) -> Result<()> {
    let range = log.range();
    let at_checkpoint = checkpoint.and_then(|id| log.id_at(id.index));
    match fit(
        checkpoint,
        installed,
        range.purged,
        range.last,
        at_checkpoint,
    ) {
        Fit::Whole => Ok(()),
        Fit::PurgeTo(id) => log.purge(id).await,
        Fit::Discard(id) => {
            log.truncate_after(range.purged).await?;
            log.purge(id).await
        }
        Fit::Damaged(what) => Err(Error::corrupt(&FileName::Manifest.path(dir), 0, what)),
    }
}

#[cfg(test)]
mod tests;
