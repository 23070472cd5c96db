//! The shards of a core: opened when it starts, and opened, changed and dropped while it runs.
//!
//! Invariants:
//! * What a start opens is what the identity of the store lists, whatever the configuration or the map says.
//! * A replica is listed before its directory is made, and listed as made before it votes or takes an entry.
//! * A replica that is dropped is closed first, then listed as dropped, then its directory goes, then it is listed
//!   as gone. Whatever of that a crash leaves undone, the next start does.
//! * Of a shard one thing is done at a time.
//! * A shard that is damaged is down alone: the node and its other shards run without it. What goes away
//!   by itself, or concerns the whole machine (no space, no permission), stops the node instead, which
//!   whoever starts it tries again; a shard that is opened while the node runs is not opened then.

mod orders;

pub(crate) use orders::ShardOrder;

use crate::node::cluster::map_watch::MapWatch;
use crate::node::cluster::placement::founders;
use crate::node::config::NodeConfig;
use crate::node::data_dir::identity::{HeldShard, HeldState, SHARDS_DIR, ShardNote, shard_dir};
use crate::node::data_dir::keeper::KeeperAsk;
use crate::node::data_dir::opening::{block_cache, is_of_the_machine, shard_options};
use crate::node::error::NodeError;
use crate::node::limits;
use crate::node::local::{DownShard, LocalGroups};
use bytes::Bytes;
use corelith_consensus::{Group, GroupMember, Groups, OpenError, Origin};
use corelith_io::{ErrorKind, Sender};
use corelith_shards::{self as shards, BlockCache, NodeId, Rounds, Shard, ShardId};
use corelith_wire::peer::{Charter, Introduction};
use corelith_wire::placement::core_of;
use corelith_wire::{LogId, ReplicaId};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// How a cluster was founded: who forms its groups.
#[derive(Clone, Debug)]
pub(crate) struct Founding {
    /// Who the cluster is.
    pub(crate) charter: Charter,
    /// The first nodes, ascending.
    pub(crate) nodes: Vec<NodeId>,
    /// Replicas of each shard.
    pub(crate) replicas: u32,
}

/// What the shards of a core need.
pub(crate) struct ShardSurroundings {
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) core: u16,
    /// Cores of the node, in this start.
    pub(crate) cores: u16,
    pub(crate) me: Introduction,
    pub(crate) founding: Arc<Founding>,
    pub(crate) map: Rc<MapWatch>,
    pub(crate) groups: Groups,
    /// To the keeper of the store's identity.
    pub(crate) asks: Sender<KeeperAsk>,
}

/// See the module. Belongs to that core.
pub(crate) struct CoreShards {
    around: ShardSurroundings,
    local: Rc<LocalGroups>,
    cache: BlockCache,
    rounds: Rounds,
    /// What the identity lists of the shards of this core.
    held: RefCell<BTreeMap<ShardId, HeldShard>>,
    /// Those of which something is being done.
    busy: RefCell<BTreeSet<ShardId>>,
}

impl CoreShards {
    /// Of a core of a store that has these shards.
    pub(crate) fn new(
        around: ShardSurroundings,
        held: &BTreeMap<ShardId, HeldShard>,
        local: Rc<LocalGroups>,
    ) -> Rc<Self> {
        let (core, cores) = (around.core, around.cores);
        let mine = held.iter();
        let mine = mine.filter(|(shard, _)| core_of(**shard, cores) == core);
        Rc::new(Self {
            cache: block_cache(&around.config.storage),
            rounds: Rounds::default(),
            held: RefCell::new(mine.map(|(shard, held)| (*shard, *held)).collect()),
            busy: RefCell::default(),
            around,
            local,
        })
    }

    /// Opens all shards of the core, making those that the store has never had, and removes what is left of those
    /// that it has dropped.
    ///
    /// # Errors
    /// What concerns the whole machine.
    pub(crate) async fn open_all(&self) -> Result<(), NodeError> {
        let listed = self.held.borrow().clone();
        for (shard, held) in &listed {
            if held.state == HeldState::Dropped {
                self.remove(*shard).await?;
            }
        }
        let there = listed.iter().filter(|(_, held)| held.is_there());
        let there: Vec<(ShardId, HeldShard)> = there.map(|(id, held)| (*id, *held)).collect();
        let opened: Vec<(ShardId, Result<Shard, DownShard>)> = stream::iter(there.clone())
            .map(|(id, held)| self.open_storage(id, held.state == HeldState::Made))
            .buffer_unordered(limits::SHARDS_OPENED_AT_ONCE)
            .try_collect()
            .await?;
        let made = opened.iter().filter(|(_, shard)| shard.is_ok());
        let made = made.map(|(id, _)| *id);
        let made: Vec<ShardId> = made
            .filter(|id| self.state(*id) == Some(HeldState::ToBeMade))
            .collect();
        if !made.is_empty() {
            self.note(ShardNote::Made(made)).await?;
        }
        let generation_of = |id: ShardId| listed.get(&id).map_or(0, |held| held.generation);
        let joined: Vec<()> = stream::iter(opened)
            .map(|(id, shard)| (id, generation_of(id), shard))
            .map(|(id, generation, shard)| async move {
                let joined = self.join(id, generation, shard, None).await?;
                self.add(generation, joined);
                Ok::<(), NodeError>(())
            })
            .buffer_unordered(limits::SHARDS_OPENED_AT_ONCE)
            .try_collect()
            .await?;
        assert_eq!(
            joined.len(),
            there.len(),
            "each shard of the core runs or is down"
        );
        Ok(())
    }

    /// Has a shard answered for.
    fn add(&self, generation: u16, joined: Result<Group, DownShard>) {
        if let Err(down) = &joined {
            let dir = self.dir(down.shard).display().to_string();
            tracing::error!(shard = %down.shard, dir, "the shard is down, the node runs without it: {down}");
        }
        self.local.add(generation, joined);
    }

    fn dir(&self, id: ShardId) -> PathBuf {
        shard_dir(&self.around.config.data_dir, id)
    }

    fn state(&self, id: ShardId) -> Option<HeldState> {
        self.held.borrow().get(&id).map(|held| held.state)
    }

    /// Has the identity of the store say so, durably.
    async fn note(&self, note: ShardNote) -> Result<(), NodeError> {
        let (told, noted) = corelith_io::channel(1);
        let ended = || NodeError::Ended {
            node: self.around.me.node.0,
            core: 0,
        };
        let ask = KeeperAsk::Note {
            note: note.clone(),
            told,
        };
        self.around.asks.send(ask).await.map_err(|_| ended())?;
        noted.recv().await.map_err(|_| ended())??;
        note.apply(&mut self.held.borrow_mut());
        Ok(())
    }

    /// Removes what is left of a dropped shard.
    async fn remove(&self, id: ShardId) -> Result<(), NodeError> {
        assert_eq!(self.state(id), Some(HeldState::Dropped), "{id} stays");
        let removed = async {
            match corelith_io::remove_dir_all(&self.dir(id)).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            corelith_io::sync_dir(&self.around.config.data_dir.join(SHARDS_DIR)).await
        };
        removed.await.map_err(|error| self.refused(id, &error))?;
        self.note(ShardNote::Gone(id)).await
    }

    async fn open_storage(
        &self,
        id: ShardId,
        is_known: bool,
    ) -> Result<(ShardId, Result<Shard, DownShard>), NodeError> {
        let store = self.around.me.store.0 as u64;
        let options = shard_options(
            &self.around.config.storage,
            (store, id, is_known),
            self.cache.clone(),
            Some(self.rounds.clone()),
        );
        match Shard::open(&self.dir(id), options).await {
            Ok(shard) => Ok((id, Ok(shard))),
            Err(error) => Ok((id, Err(self.down(id, error)?))),
        }
    }

    /// Has the replica take part in its group.
    async fn join(
        &self,
        id: ShardId,
        generation: u16,
        shard: Result<Shard, DownShard>,
        told: Option<(LogId, Bytes)>,
    ) -> Result<Result<Group, DownShard>, NodeError> {
        let shard = match shard {
            Ok(shard) => shard,
            Err(down) => return Ok(Err(down)),
        };
        let map = self.around.map.now();
        let origin = match generation {
            0 => Origin::Founding(self.founding_members(id)),
            _ => Origin::Admitted {
                replica: ReplicaId::new(self.around.me.node, generation),
                told,
            },
        };
        let preferred = map.replicas_of(id).first().copied();
        let preferred = preferred.unwrap_or(self.around.me.node);
        match self.around.groups.open(shard, id, origin, preferred).await {
            Ok(group) => Ok(Ok(group)),
            Err(OpenError::Storage(error)) => Ok(Err(self.down(id, error)?)),
            Err(OpenError::State(what)) => Ok(Err(DownShard {
                shard: id,
                core: self.around.core,
                file: self.dir(id).display().to_string(),
                offset: 0,
                what,
            })),
            Err(error) => Err(self.refused(id, &error)),
        }
    }

    /// Those that form the group of a shard.
    fn founding_members(&self, id: ShardId) -> Vec<GroupMember> {
        let founding = &self.around.founding;
        let nodes = founders(id, &founding.nodes, founding.replicas);
        let member = |node| GroupMember {
            replica: ReplicaId::first(node),
            store: founding.charter.store_of(node).unwrap_or_default(),
        };
        nodes.into_iter().map(member).collect()
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
            core: self.around.core,
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
