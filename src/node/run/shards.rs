//! Opening the shards of a core.
//!
//! Invariants:
//! * A shard is listed in the identity of the store once it is created, and before its replica votes or
//!   takes an entry.
//! * A shard that is damaged is down alone: the node and its other shards run without it. What goes away
//!   by itself, or concerns the whole machine (no space, no permission), stops the node instead, which
//!   whoever starts it tries again.

use crate::node::cluster::placement::Placement;
use crate::node::config::NodeConfig;
use crate::node::data_dir::identity::shard_dir;
use crate::node::data_dir::keeper::{KeeperAsk, Listing};
use crate::node::error::NodeError;
use crate::node::limits;
use crate::node::local::DownShard;
use corelith_consensus::{Group, GroupMember, Groups, Liveness, OpenError};
use corelith_io::{ErrorKind, Sender};
use corelith_shards::{
    self as shards, BlockCache, Rounds, ScrubOptions, Shard, ShardId, ShardOptions,
};
use corelith_wire::peer::{Charter, Introduction};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What every core must know of the store before it opens a shard.
#[derive(Clone)]
pub(super) struct Store {
    /// Who the node is.
    pub(super) me: Introduction,
    /// Who the cluster is.
    pub(super) charter: Arc<Charter>,
    /// The shards that it held when the node started.
    pub(super) held: Arc<BTreeSet<ShardId>>,
    /// Who lives, and what was promised.
    pub(super) liveness: Arc<Liveness>,
}

/// The shards of a core.
#[derive(Default)]
pub(super) struct Opened {
    pub(super) groups: Vec<Group>,
    pub(super) down: Vec<DownShard>,
}

/// Opens the shards of one core.
pub(super) struct Opener<'a> {
    pub(super) config: &'a NodeConfig,
    pub(super) placement: &'a Placement,
    pub(super) core: u16,
    pub(super) groups: &'a Groups,
    pub(super) store: Store,
    /// To the keeper of the store's identity.
    pub(super) asks: Sender<KeeperAsk>,
}

impl Opener<'_> {
    /// Opens all shards of the core, creating those that the store has never held.
    ///
    /// # Errors
    /// What concerns the whole machine.
    pub(super) async fn open(&self) -> Result<Opened, NodeError> {
        let cache = BlockCache::new(length(self.config.storage.block_cache_bytes));
        let rounds = Rounds::default();
        let ids = self.placement.shards_of_core(self.core);
        let opened: Vec<(ShardId, Result<Shard, DownShard>)> = stream::iter(ids)
            .map(|id| self.open_storage(id, (cache.clone(), rounds.clone())))
            .buffer_unordered(limits::SHARDS_OPENED_AT_ONCE)
            .try_collect()
            .await?;
        self.list(&opened).await?;
        let joined: Vec<Result<Group, DownShard>> = stream::iter(opened)
            .map(|(id, shard)| self.join(id, shard))
            .buffer_unordered(limits::SHARDS_OPENED_AT_ONCE)
            .try_collect()
            .await?;
        let mut all = Opened::default();
        for shard in joined {
            match shard {
                Ok(group) => all.groups.push(group),
                Err(down) => all.down.push(down),
            }
        }
        let running = all.groups.len() + all.down.len();
        let ids = self.placement.shards_of_core(self.core);
        assert_eq!(running, ids.len(), "each shard of the core runs or is down");
        for down in &all.down {
            let dir = self.dir(down.shard).display().to_string();
            tracing::error!(shard = %down.shard, dir, "the shard is down, the node runs without it: {down}");
        }
        Ok(all)
    }

    fn dir(&self, id: ShardId) -> PathBuf {
        shard_dir(&self.config.data_dir, id)
    }

    async fn open_storage(
        &self,
        id: ShardId,
        (cache, rounds): (BlockCache, Rounds),
    ) -> Result<(ShardId, Result<Shard, DownShard>), NodeError> {
        let storage = &self.config.storage;
        let options = ShardOptions {
            memtable_bytes: length(storage.memtable_bytes),
            segment_bytes: storage.segment_bytes,
            log_cache_bytes: length(storage.log_cache_bytes),
            cache,
            rounds: Some(rounds),
            policy: storage.compaction,
            compression: storage.compression,
            value_threshold: length(storage.value_threshold_bytes),
            value_segment_bytes: storage.value_segment_bytes,
            reserve_bytes: storage.reserve(),
            scrub: ScrubOptions {
                bytes_per_second: storage.scrub_bytes_per_second,
                cycle_min: Duration::from_secs(storage.scrub_cycle_seconds),
            },
            is_known: self.store.held.contains(&id),
            ..ShardOptions::new(self.store.me.store.0 as u64, id)
        };
        match Shard::open(&self.dir(id), options).await {
            Ok(shard) => Ok((id, Ok(shard))),
            Err(error) => Ok((id, Err(self.down(id, error)?))),
        }
    }

    /// Has those listed that were created, or found, and are not listed yet.
    async fn list(&self, opened: &[(ShardId, Result<Shard, DownShard>)]) -> Result<(), NodeError> {
        let opened = opened.iter().filter(|(_, shard)| shard.is_ok());
        let new = opened.map(|(id, _)| *id);
        let new: Vec<ShardId> = new.filter(|id| !self.store.held.contains(id)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let (told, listed) = corelith_io::channel(1);
        let ended = || NodeError::Ended {
            node: self.placement.me.0,
            core: 0,
        };
        let listing = Listing { shards: new, told };
        self.asks
            .send(KeeperAsk::List(listing))
            .await
            .map_err(|_| ended())?;
        listed.recv().await.map_err(|_| ended())??;
        Ok(())
    }

    /// Has the replica take part in its group.
    async fn join(
        &self,
        id: ShardId,
        shard: Result<Shard, DownShard>,
    ) -> Result<Result<Group, DownShard>, NodeError> {
        let shard = match shard {
            Ok(shard) => shard,
            Err(down) => return Ok(Err(down)),
        };
        let nodes = self.placement.replicas_of(id);
        let preferred = nodes.first().copied().unwrap_or(self.placement.me);
        let member = |node| GroupMember {
            node,
            store: self.store.charter.store_of(node).unwrap_or_default(),
        };
        let members = nodes.into_iter().map(member).collect();
        match self.groups.open(shard, id, members, preferred).await {
            Ok(group) => Ok(Ok(group)),
            Err(OpenError::Storage(error)) => Ok(Err(self.down(id, error)?)),
            Err(OpenError::State(what)) => Ok(Err(DownShard {
                shard: id,
                core: self.core,
                file: self.dir(id).display().to_string(),
                offset: 0,
                what,
            })),
            Err(error) => Err(self.refused(id, &error)),
        }
    }

    /// A shard that cannot be opened, if that concerns this shard alone.
    fn down(&self, id: ShardId, error: shards::Error) -> Result<DownShard, NodeError> {
        let (file, offset, what) = match error {
            shards::Error::Corrupt { file, offset, what } => (file, offset, what.to_owned()),
            error if is_of_the_machine(&error) => return Err(self.refused(id, &error)),
            error => (self.dir(id).display().to_string(), 0, error.to_string()),
        };
        Ok(DownShard {
            shard: id,
            core: self.core,
            file,
            offset,
            what,
        })
    }

    fn refused(&self, id: ShardId, error: &dyn std::fmt::Display) -> NodeError {
        NodeError::Shard {
            shard: id,
            dir: self.dir(id).display().to_string(),
            reason: error.to_string(),
        }
    }
}

/// Whether an error may go away by itself, or would befall any shard.
fn is_of_the_machine(error: &shards::Error) -> bool {
    match error {
        shards::Error::Io(io) => matches!(
            io.kind(),
            ErrorKind::NoSpace | ErrorKind::Permission | ErrorKind::Locked
        ),
        shards::Error::Fenced(error) => is_of_the_machine(error),
        _ => false,
    }
}

/// A configured length in memory, whose bounds were checked.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
