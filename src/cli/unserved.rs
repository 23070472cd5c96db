//! Which shards of a cluster cannot serve requests now. Pure.

use corelith_client::{ClusterMap, MapShard, ShardRole, ShardStatus};
use std::collections::BTreeMap;

/// What keeps a shard from serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardLack {
    Majority,
    Leader,
}

/// The shards that cannot serve requests, as far as the nodes know: fewer than a majority of their replicas run, or no
/// replica of the highest term leads. A replica that is on its way is none yet.
pub(super) fn unserved<'a>(
    map: &ClusterMap,
    told: impl Iterator<Item = &'a ShardStatus>,
) -> Vec<(u32, ShardLack)> {
    let mut replicas: BTreeMap<u32, Vec<&ShardStatus>> = BTreeMap::new();
    for replica in told {
        replicas.entry(replica.shard).or_default().push(replica);
    }
    let lack = |(number, shard): (u32, &MapShard)| {
        let replicas = replicas.get(&number).map_or(&[][..], Vec::as_slice);
        let run = replicas
            .iter()
            .filter(|replica| !matches!(replica.role, ShardRole::Down | ShardRole::Learner));
        let term = run.clone().map(|replica| replica.term).max();
        let leads = |replica: &&ShardStatus| {
            replica.role == ShardRole::Leader && Some(replica.term) == term
        };
        if run.clone().count() <= shard.replicas.len() / 2 {
            Some((number, ShardLack::Majority))
        } else if !run.copied().any(|replica| leads(&replica)) {
            Some((number, ShardLack::Leader))
        } else {
            None
        }
    };
    (0..).zip(&map.shards).filter_map(lack).collect()
}
