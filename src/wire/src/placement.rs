//! The placement of keys and shards. Node and SDK use the same functions.

use crate::ids::{NodeId, ShardId};
use crate::limits::REPLICAS_MAX;
use xxhash_rust::xxh3::xxh3_64;

/// The shard of `key` among `shard_count` shards (at least 1). The XXH3-64 hash is scaled, so that each
/// shard is a range of hash space.
pub fn shard_of(key: &[u8], shard_count: u32) -> ShardId {
    // The product of a u64 and a u32, shifted by 64, fits in a u32.
    let shard = ((u128::from(xxh3_64(key)) * u128::from(shard_count)) >> 64) as u32;
    debug_assert!(shard < shard_count.max(1), "shard {shard} of {shard_count}");
    ShardId(shard)
}

/// The core that owns the replica of `shard` on a node with `cores` cores (at least 1). That of the meta shard is
/// always the first.
pub fn core_of(shard: ShardId, cores: u16) -> u16 {
    if shard == ShardId::META {
        return 0;
    }
    // The remainder by a u16 fits in a u16.
    (shard.0 % u32::from(cores.max(1))) as u16
}

/// Number of replicas per shard in a cluster of `nodes` nodes.
pub fn replica_count(nodes: usize, wanted: usize) -> usize {
    wanted.min(nodes).min(REPLICAS_MAX)
}

/// The nodes that hold `shard`, the preferred leader first. `nodes` is sorted by id.
pub fn replicas_of(shard: ShardId, nodes: &[NodeId], replica_count: usize) -> Vec<NodeId> {
    nodes
        .iter()
        .cycle()
        .skip(shard.0 as usize % nodes.len().max(1))
        .take(replica_count.min(nodes.len()))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_over_all_shards_and_stay() {
        let mut count = [0u32; 6];
        for n in 0..6000u32 {
            count[shard_of(&n.to_be_bytes(), 6).0 as usize] += 1;
        }
        assert!(count.iter().all(|n| (850..1150).contains(n)), "{count:?}");
        // Placement is part of the stored data's meaning: these never change. The first two follow
        // from XXH3-64's published values 2d06800538d394c2 and e6c632b61e964e1f.
        assert_eq!(shard_of(b"", 1000), ShardId(175));
        assert_eq!(shard_of(b"a", 1000), ShardId(901));
        assert_eq!(shard_of(b"corelith", 1000), ShardId(340));
        assert_eq!(shard_of(b"anything", 1), ShardId(0));
    }

    #[test]
    fn replicas_rotate_over_the_nodes() {
        let nodes = [NodeId(1), NodeId(2), NodeId(3), NodeId(4)];
        for (shard, expected) in [
            (0, [1, 2, 3]),
            (1, [2, 3, 4]),
            (2, [3, 4, 1]),
            (7, [4, 1, 2]),
        ] {
            let found = replicas_of(ShardId(shard), &nodes, 3);
            assert_eq!(found, expected.map(NodeId), "shard {shard}");
        }
        assert_eq!(replicas_of(ShardId(5), &[], 3), []);
        assert_eq!(replica_count(1, 3), 1);
    }
}
