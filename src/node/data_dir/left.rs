//! A node that is left where a majority is gone for good, while it does not run: what its replicas have, and having them
//! go on. See [`corelith_consensus::recover`] for what that breaks. Must run on a core.
//!
//! Invariants:
//! * Nothing is done to a shard of which those that are left can elect a leader.
//! * What may be lost is written down by whoever goes on before anything is done.

use super::identity::{self, HeldShard, HeldState, Identity, IdentityError, shard_dir};
use super::map_file;
use super::opening::{block_cache, is_of_the_machine, shard_options};
use crate::node::cluster::judge::{KnownNode, Met, known};
use crate::node::config::NodeConfig;
use crate::node::limits;
use corelith_consensus::recover::{Course, GoingOn, LeftReplica, RecoverError, Unheard, course};
use corelith_io::{DirLock, ErrorKind};
use corelith_shards::{BlockCache, LogId, NodeId, ReplicaId, Shard, ShardId};
use corelith_wire::{FullClusterId, StoreId};
use std::collections::{BTreeMap, BTreeSet};

/// Why it is not done.
#[derive(Debug, thiserror::Error)]
pub enum LeftError {
    /// A node runs on the directory.
    #[error("{dir} is in use by another process: stop the node first")]
    InUse {
        /// The directory.
        dir: String,
    },
    /// It is no data directory of a node that has been in a cluster.
    #[error("{dir}: {why}")]
    NoNode {
        /// The directory.
        dir: String,
        /// What it is instead.
        why: &'static str,
    },
    /// Its identity cannot be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The device or file system failed.
    #[error(transparent)]
    Io(#[from] corelith_io::Error),
    /// A shard cannot be opened now, or did not go on.
    #[error("{shard} in {dir}: {why}")]
    Shard {
        /// The shard.
        shard: ShardId,
        /// Its directory.
        dir: String,
        /// What happened.
        why: String,
    },
}

/// What a node that is left has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftReport {
    /// Its cluster.
    pub cluster: FullClusterId,
    /// The node.
    pub node: NodeId,
    /// Its replicas; of one that cannot be read, why.
    pub shards: BTreeMap<ShardId, (ReplicaId, Result<LeftReplica, String>)>,
}

/// See the module. The directory is locked until this is dropped.
pub struct LeftNode {
    config: NodeConfig,
    identity: Identity,
    cluster: FullClusterId,
    cache: BlockCache,
    _lock: DirLock,
}

impl LeftNode {
    /// Opens the data directory of a node that does not run.
    ///
    /// # Errors
    /// See [`LeftError`].
    pub async fn open(config: NodeConfig) -> Result<Self, LeftError> {
        let dir = &config.data_dir;
        let shown = || dir.display().to_string();
        let none = |why| LeftError::NoNode { dir: shown(), why };
        // Before the lock, which would create a file in a directory that is none of a node.
        if identity::read(dir).await?.is_none() {
            return Err(none("it is no data directory of a node"));
        }
        let lock = corelith_io::lock_dir(dir).await;
        let lock = lock.map_err(|error| match error.kind() {
            ErrorKind::Locked => LeftError::InUse { dir: shown() },
            _ => error.into(),
        })?;
        let identity = identity::read(dir).await?;
        let identity = identity.ok_or_else(|| none("it is no data directory of a node"))?;
        if config.id.0 != 0 && config.id != identity.node {
            return Err(IdentityError::Differs {
                dir: shown(),
                what: "node id",
                stored: identity.node.0.to_string(),
                configured: config.id.0.to_string(),
            }
            .into());
        }
        let charter = identity.formation.charter.as_ref();
        let cluster = charter.map(|charter| charter.cluster);
        let cluster = cluster.ok_or_else(|| none("its node was never in a cluster"))?;
        if identity.excluded.is_some() {
            return Err(none(
                "the cluster has told its node that it takes part in nothing; go on with other nodes",
            ));
        }
        let cache = block_cache(&config.storage);
        Ok(Self {
            config,
            identity,
            cluster,
            cache,
            _lock: lock,
        })
    }

    /// What the node has.
    ///
    /// # Errors
    /// What concerns the whole machine.
    pub async fn look(&self) -> Result<LeftReport, LeftError> {
        let node = self.identity.node;
        let mut shards = BTreeMap::new();
        let held = self.identity.held.iter();
        for (id, held) in held.filter(|(_, held)| held.is_there()) {
            let replica = ReplicaId::new(node, held.generation);
            let found = self.look_at(*id, held, replica).await?;
            shards.insert(*id, (replica, found));
        }
        Ok(LeftReport {
            cluster: self.cluster,
            node,
            shards,
        })
    }

    async fn look_at(
        &self,
        id: ShardId,
        held: &HeldShard,
        replica: ReplicaId,
    ) -> Result<Result<LeftReplica, String>, LeftError> {
        if held.state != HeldState::Made {
            return Ok(Err("it was never used".to_owned()));
        }
        let shard = match self.open_shard(id).await {
            Ok(shard) => shard,
            Err(error) if is_of_the_machine(&error) => return Err(self.failed(id, &error)),
            Err(error) => return Ok(Err(error.to_string())),
        };
        let looked = LeftReplica::look(&shard, replica).await;
        shard
            .close()
            .await
            .map_err(|error| self.failed(id, &error))?;
        Ok(looked.map_err(|error| error.to_string()))
    }

    /// Has a shard go on, by this node's replica.
    ///
    /// # Errors
    /// See [`LeftError`].
    pub async fn go_on(&self, id: ShardId, going: &GoingOn) -> Result<LogId, LeftError> {
        assert_eq!(
            going.by.node(),
            self.identity.node,
            "the longest log is here"
        );
        let opened = self.open_shard(id).await;
        let shard = opened.map_err(|error| self.failed(id, &error))?;
        let taken = going.take(&shard).await;
        let closed = shard.close().await;
        let taken = taken.map_err(|error: RecoverError| self.failed(id, &error))?;
        closed.map_err(|error| self.failed(id, &error))?;
        Ok(taken)
    }

    /// Writes down that the stores of these nodes lack what they had acknowledged, as far as they are known: they are
    /// refused from the next start on, before the map says so.
    ///
    /// # Errors
    /// See [`LeftError`].
    pub async fn refuse(&mut self, lost: &BTreeSet<NodeId>) -> Result<(), LeftError> {
        let dir = &self.config.data_dir;
        let map = map_file::read(dir).await;
        let map = map.filter(|map| map.cluster == self.cluster);
        let mut next = self.identity.clone();
        for node in lost {
            if let Some(met) = next.met.get_mut(node) {
                met.has_lost = true;
                continue;
            }
            let charter = self.identity.formation.charter.as_ref();
            let named = charter.map(|charter| known(charter, map.as_ref(), *node));
            match named {
                Some(KnownNode::Store(store))
                    if ![StoreId::UNCLAIMED, StoreId::ANY].contains(&store)
                        && next.met.len() < limits::NODES_MET_MAX =>
                {
                    let met = Met {
                        store,
                        has_lost: true,
                        ..Met::default()
                    };
                    next.met.insert(*node, met);
                }
                // Removed, or never met by anybody: nothing of it counts.
                _ => {}
            }
        }
        if next != self.identity {
            identity::write(dir, &next).await?;
            self.identity = next;
        }
        Ok(())
    }

    async fn open_shard(&self, id: ShardId) -> Result<Shard, corelith_shards::Error> {
        let of = (self.identity.short_store(), id, true);
        let options = shard_options(&self.config.storage, of, self.cache.clone(), None);
        Shard::open(&shard_dir(&self.config.data_dir, id), options).await
    }

    fn failed(&self, shard: ShardId, error: &dyn std::fmt::Display) -> LeftError {
        LeftError::Shard {
            shard,
            dir: shard_dir(&self.config.data_dir, shard)
                .display()
                .to_string(),
            why: error.to_string(),
        }
    }
}

/// What is to be done with each shard that one of these nodes has. Pure.
///
/// # Errors
/// Nodes whose reports are needed, too.
pub fn courses(
    reports: &[LeftReport],
    lost: &BTreeSet<NodeId>,
) -> Result<BTreeMap<ShardId, Course>, Unheard> {
    let heard: BTreeSet<NodeId> = reports.iter().map(|report| report.node).collect();
    let ids: BTreeSet<ShardId> = reports
        .iter()
        .flat_map(|report| report.shards.keys().copied())
        .collect();
    let (mut courses, mut unheard) = (BTreeMap::new(), BTreeSet::new());
    for id in ids {
        let found = reports.iter().filter_map(|report| report.shards.get(&id));
        let readable = found.filter_map(|(_, found)| found.as_ref().ok());
        let replicas: Vec<LeftReplica> = readable.cloned().collect();
        match course(&replicas, &heard, lost) {
            Ok(course) => drop(courses.insert(id, course)),
            Err(Unheard(nodes)) => unheard.extend(nodes),
        }
    }
    match unheard.is_empty() {
        true => Ok(courses),
        false => Err(Unheard(unheard)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Course, LeftReplica, LeftReport, Unheard, courses};
    use corelith_shards::{LogId, LogIndex, NodeId, ReplicaId, ShardId, Term};
    use corelith_wire::FullClusterId;
    use std::collections::BTreeSet;

    /// A node with these shards: number, index of the last entry (0: unreadable), voters.
    fn report(node: u64, shards: &[(u32, u64, &[u64])]) -> LeftReport {
        let shards = shards.iter().map(|(shard, index, voters)| {
            let last = LogId {
                term: Term(1),
                node: ReplicaId(1),
                index: LogIndex(*index),
            };
            let found = LeftReplica {
                replica: ReplicaId(node),
                last: Some(last),
                vote: Term(1),
                voters: vec![voters.iter().copied().map(ReplicaId).collect()],
                is_named: true,
            };
            let found = match index {
                0 => Err("damaged".to_owned()),
                _ => Ok(found),
            };
            (ShardId(*shard), (ReplicaId(node), found))
        });
        LeftReport {
            cluster: FullClusterId(1),
            node: NodeId(node),
            shards: shards.collect(),
        }
    }

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn each_shard_has_its_course() {
        let one = report(1, &[(0, 9, &[1, 2, 3]), (1, 0, &[]), (2, 5, &[1, 4, 2])]);
        let four = report(4, &[(1, 7, &[4, 1, 3]), (2, 8, &[1, 4, 2])]);
        let alone = courses(std::slice::from_ref(&one), &nodes(&[2, 3]));
        assert_eq!(alone, Err(Unheard(nodes(&[4]))));
        let found = courses(&[one, four], &nodes(&[2, 3])).unwrap();
        let by = |shard| match &found[&ShardId(shard)] {
            Course::GoOn(going) => Some(going.by),
            _ => None,
        };
        assert_eq!(by(0), Some(ReplicaId(1)));
        // The other one is unreadable, and so is gone.
        assert_eq!(by(1), Some(ReplicaId(4)));
        assert_eq!(found[&ShardId(2)], Course::Elects(ReplicaId(4)));
    }
}
