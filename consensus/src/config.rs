//! openraft's settings.

use crate::error::OpenError;
use crate::limits::{APPEND_ENTRIES_MAX, APPLY_QUEUE_LEN_MAX, MAILBOX_LEN_MAX};
use crate::options::Options;
use corelith_shards::ShardId;
use openraft::SnapshotPolicy;
use std::sync::Arc;
use std::time::Duration;

/// openraft's settings for a shard's group.
pub(crate) fn openraft(
    shard: ShardId,
    options: &Options,
) -> Result<Arc<openraft::Config>, OpenError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = openraft::Config {
        cluster_name: shard.to_string(),
        heartbeat_interval: millis(options.heartbeat),
        election_timeout_min: millis(options.election_timeout_min),
        election_timeout_max: millis(options.election_timeout_max),
        max_payload_entries: APPEND_ENTRIES_MAX as u64,
        max_append_entries: Some(APPEND_ENTRIES_MAX as u64),
        // The engine's checkpoints decide when the log is purged, see group/upkeep.rs.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        api_channel_size: Some(MAILBOX_LEN_MAX as u64),
        state_machine_channel_size: Some(APPLY_QUEUE_LEN_MAX as u64),
        enable_pre_vote: Some(true),
        // A leader that restarts stands for election like anybody else: it must not rely on a lease
        // from before.
        enable_leader_restore: Some(false),
        ..openraft::Config::default()
    };
    let config = config
        .validate()
        .map_err(|error| OpenError::State(error.to_string()))?;
    Ok(Arc::new(config))
}
