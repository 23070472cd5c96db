//! openraft's settings.

use crate::error::OpenError;
use crate::limits::{APPEND_ENTRIES_MAX, APPLY_QUEUE_LEN_MAX, MAILBOX_LEN_MAX};
use crate::planted::{Bug, is_planted};
use corelith_shards::ShardId;
use openraft::SnapshotPolicy;
use std::sync::Arc;

/// How long openraft gives a request for a vote.
const REQUEST_MS: u64 = 1000;
/// What openraft takes for the length of a leader's lease: so long that it never looks whether one has run
/// out, since it would do that by a timer for each group.
const LEASE_MS: u64 = 3_600_000;

/// openraft's settings for a shard's group.
pub(crate) fn openraft(shard: ShardId) -> Result<Arc<openraft::Config>, OpenError> {
    let config = openraft::Config {
        cluster_name: shard.to_string(),
        // openraft's own timers are out of the way: promises between nodes say who may vote and when a
        // leader is gone (`lease.rs`, `group/door.rs`), and `group/election.rs` has replicas stand.
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        heartbeat_interval: REQUEST_MS / 10,
        election_timeout_min: REQUEST_MS,
        election_timeout_max: LEASE_MS,
        max_payload_entries: APPEND_ENTRIES_MAX as u64,
        max_append_entries: Some(APPEND_ENTRIES_MAX as u64),
        // The engine's checkpoints decide when the log is purged, see group/upkeep.rs.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        api_channel_size: Some(MAILBOX_LEN_MAX as u64),
        state_machine_channel_size: Some(APPLY_QUEUE_LEN_MAX as u64),
        // Replicas ask beforehand, at the doors of the others.
        enable_pre_vote: Some(false),
        // A leader that restarts stands for election like anybody else: it must not rely on a lease
        // from before.
        enable_leader_restore: Some(is_planted(Bug::RestoreLead)),
        // A leader that is a voter no more leaves by itself, see group/members.rs.
        removed_leader_step_down: openraft::StepDownPolicy::Never,
        ..openraft::Config::default()
    };
    let config = config
        .validate()
        .map_err(|error| OpenError::State(error.to_string()))?;
    Ok(Arc::new(config))
}
