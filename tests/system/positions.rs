//! How far each replica is, as the status tells.

use crate::waiting::{self, DEADLINE};
use corelith_client::{Client, ShardRole};
use std::collections::BTreeMap;
use std::time::Duration;

/// Applied index by (shard, node), and the leader of each shard, of all nodes that answer.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    applied: BTreeMap<u32, BTreeMap<u64, u64>>,
    /// Whether a replica has no vote yet: what it has would not count if another one went away.
    has_learners: bool,
    leaders: BTreeMap<u32, u64>,
}

impl Positions {
    /// Of now.
    pub(crate) async fn of(client: &Client) -> Self {
        let mut positions = Self::default();
        let Ok(status) = client.status().await else {
            return positions;
        };
        for node in status
            .nodes
            .iter()
            .filter_map(|node| node.reply.as_ref().ok())
        {
            for shard in &node.shards {
                let replicas = positions.applied.entry(shard.shard).or_default();
                replicas.insert(node.node, shard.applied);
                positions.has_learners |= shard.role == ShardRole::Learner;
                if shard.role == ShardRole::Leader {
                    positions.leaders.insert(shard.shard, node.node);
                }
            }
        }
        positions
    }

    /// Entries applied by the foremost replica of each shard, over all shards.
    pub(crate) fn entries(&self) -> u64 {
        self.applied
            .values()
            .filter_map(|replicas| replicas.values().max())
            .sum()
    }

    /// A node that leads at least one shard.
    pub(crate) fn any_leader(&self) -> Option<usize> {
        self.leaders
            .values()
            .next()
            .map(|node| usize::try_from(*node).unwrap())
    }

    /// The node that leads a shard.
    pub(crate) fn leader_of(&self, shard: u32) -> Option<usize> {
        let node = self.leaders.get(&shard)?;
        Some(usize::try_from(*node).unwrap())
    }

    fn equal_on(&self, nodes: usize, shards: u32) -> bool {
        self.applied.len() == usize::try_from(shards).unwrap()
            && !self.has_learners
            && self.applied.values().all(|replicas| {
                replicas.len() == nodes && replicas.values().min() == replicas.values().max()
            })
    }
}

/// Waits until every replica of every shard answers, votes and has applied the same entries; nobody may be writing.
pub(crate) async fn wait_until_equal(client: &Client, nodes: usize, shards: u32) {
    wait_until_equal_within(DEADLINE, client, nodes, shards).await;
}

/// As [`wait_until_equal`], with a deadline of its own.
pub(crate) async fn wait_until_equal_within(
    deadline: Duration,
    client: &Client,
    nodes: usize,
    shards: u32,
) {
    let what = "all replicas to be equally far";
    waiting::until_async_within(deadline, what, || async {
        let positions = Positions::of(client).await;
        if positions.equal_on(nodes, shards) {
            Ok(())
        } else {
            Err(positions)
        }
    })
    .await;
}
