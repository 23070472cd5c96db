//! What collection would do with the value log of a shard, computed from its manifest alone, so that it
//! works beside a running node.

use crate::error::Result;
use crate::filename::FileName;
use crate::ids::{LogIndex, ShardId, ValueSegmentId};
use crate::manifest::Manifest;
use crate::vlog::{GarbageReport, PlanInput, SegmentUse, plan};
use std::collections::BTreeMap;
use std::path::Path;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardPlan {
    /// The shard.
    pub shard: ShardId,
    /// Entries up to here are in tables. The plan takes the log to be purged as far; if the log still
    /// holds some of them, for replicas that are behind, their segments wait.
    pub checkpointed: Option<LogIndex>,
    /// Free part of the device, 0 to 1, which decides how much garbage is left alone.
    pub free_fraction: f64,
    /// Segment by segment. Those begun since the manifest was written are not among them.
    pub report: GarbageReport,
}

/// Reads the manifest of the shard in `dir` and plans.
///
/// # Errors
/// `Corrupt`, `NewerFormat`, `Io`.
pub async fn plan_shard(dir: &Path) -> Result<ShardPlan> {
    let (owner, manifest) = Manifest::load_path(&FileName::Manifest.path(dir)).await?;
    let space = corelith_io::space(dir).await?;
    let free_fraction = match space.total {
        0 => 1.0,
        total => space.free as f64 / total as f64,
    };
    let mut referenced: BTreeMap<ValueSegmentId, u64> = BTreeMap::new();
    let tables = manifest.tables.iter();
    for reference in tables.flat_map(|placed| placed.meta.referenced()) {
        *referenced.entry(reference.segment).or_default() += reference.bytes;
    }
    let segments = manifest.segments.iter().map(|meta| SegmentUse {
        id: meta.id,
        bytes: meta.bytes,
        referenced: referenced.get(&meta.id).copied().unwrap_or(0),
        in_memory: 0,
        records: meta.records,
        sealed: true,
        highest: meta.highest,
    });
    let segments: Vec<SegmentUse> = segments.collect();
    let checkpointed = manifest.checkpoint.index();
    Ok(ShardPlan {
        shard: owner.shard,
        checkpointed,
        free_fraction,
        report: plan(PlanInput {
            segments: &segments,
            purged: checkpointed,
            free_fraction,
            is_eager: false,
        }),
    })
}
