//! The body of a membership entry, version 2.
//!
//! ```text
//! offset  size
//!      0     2  0xffff, where version 1 has the number of configurations
//!      2     2  version, 2
//!      4     2  number of configurations (2 while the members change, else 1)
//!              per configuration:
//!            2    number of voters
//!          8 n    their replica ids, ascending
//!            2  number of nodes, voters and learners
//!              per node, by ascending id:
//!            8    replica id
//!           16    its store, see `stores.rs`: 0 for none yet, 2^128 - 1 for any
//! ```
//! All little-endian. Version 1 begins with the number of configurations and has no stores: any store of a
//! node counts.

use crate::limits::MEMBERS_MAX;
use crate::planted::{Bug, is_planted};
use crate::types::Membership;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use corelith_shards::{NodeId, ReplicaId};
use corelith_wire::StoreId;
use std::collections::{BTreeMap, BTreeSet};

/// Configurations of one membership.
const CONFIGS_MAX: usize = 8;
/// Where version 1 has the number of configurations, which is lower.
const VERSIONED: u16 = u16::MAX;
const VERSION: u16 = 2;

/// Encodes a membership.
pub(crate) fn encode(membership: &Membership) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u16_le(VERSIONED);
    out.put_u16_le(VERSION);
    let configs = membership.get_joint_config();
    assert!(
        configs.len() <= CONFIGS_MAX,
        "{} configurations in one membership",
        configs.len()
    );
    put_len(&mut out, configs.len());
    for voters in configs {
        put_ids(&mut out, voters.iter().copied());
    }
    put_len(&mut out, membership.nodes().count());
    for (id, store) in membership.nodes() {
        out.put_u64_le(*id);
        out.put_u128_le(store.0);
    }
    debug_assert!(
        !is_sound(membership) || decode(&out).as_ref() == Some(membership),
        "what is written is read again"
    );
    out.freeze()
}

fn put_ids(out: &mut BytesMut, ids: impl ExactSizeIterator<Item = u64>) {
    put_len(out, ids.len());
    for id in ids {
        out.put_u64_le(id);
    }
}

fn put_len(out: &mut BytesMut, len: usize) {
    assert!(len <= MEMBERS_MAX, "{len} ids in one membership");
    out.put_u16_le(len as u16);
}

/// Decodes what [`encode`] wrote, or did in version 1; `None` if `body` is something else.
pub(crate) fn decode(body: &[u8]) -> Option<Membership> {
    let mut body = body;
    let has_stores = body.starts_with(&VERSIONED.to_le_bytes());
    if has_stores {
        body.advance(size_of_val(&VERSIONED));
        if body.try_get_u16_le().ok()? != VERSION {
            return None;
        }
    }
    let count = get_len(&mut body, CONFIGS_MAX)?;
    let mut configs = Vec::with_capacity(count);
    for _ in 0..count {
        configs.push(get_ids(&mut body)?);
    }
    let nodes: BTreeMap<u64, StoreId> = match has_stores {
        true => get_nodes(&mut body)?,
        false => {
            let ids = get_ids(&mut body)?.into_iter();
            ids.map(|id| (id, StoreId::ANY)).collect()
        }
    };
    let known = |voters: &BTreeSet<u64>| voters.iter().all(|id| nodes.contains_key(id));
    if !body.is_empty() || !configs.iter().all(known) {
        return None;
    }
    // What openraft refuses beyond that is a membership without voters, which none is.
    Membership::new(configs, nodes).ok()
}

/// Whether those that count are a majority: of each configuration, if there are two. Learners have no vote.
pub(crate) fn is_majority(membership: &Membership, counts: impl Fn(ReplicaId) -> bool) -> bool {
    let configs = membership.get_joint_config();
    let looked_at = match is_planted(Bug::OneConfigurationCounts) {
        true => 1,
        false => configs.len(),
    };
    let has_one = |voters: &BTreeSet<u64>| {
        let mut counted = voters.iter().filter(|id| counts(ReplicaId(**id))).count();
        if is_planted(Bug::LearnersCount) {
            let mut learners = membership.learner_ids();
            counted += learners
                .by_ref()
                .filter(|id| counts(ReplicaId(*id)))
                .count();
        }
        counted > voters.len() / 2
    };
    !configs.is_empty() && configs.iter().rev().take(looked_at).all(has_one)
}

/// Whether it could be a group's: everybody is a replica of a node, and there are voters.
pub(crate) fn is_sound(membership: &Membership) -> bool {
    let configs = membership.get_joint_config();
    let are_replicas = membership
        .nodes()
        .all(|(id, _)| ReplicaId(*id).node() != NodeId(0));
    matches!(configs.len(), 1 | 2)
        && configs.iter().all(|voters| !voters.is_empty())
        && are_replicas
}

fn get_len(body: &mut &[u8], max: usize) -> Option<usize> {
    let len = usize::from(body.try_get_u16_le().ok()?);
    (len <= max).then_some(len)
}

fn get_ids(body: &mut &[u8]) -> Option<BTreeSet<u64>> {
    let count = get_len(body, MEMBERS_MAX)?;
    let mut ids = BTreeSet::new();
    for _ in 0..count {
        ids.insert(body.try_get_u64_le().ok()?);
    }
    (ids.len() == count).then_some(ids)
}

fn get_nodes(body: &mut &[u8]) -> Option<BTreeMap<u64, StoreId>> {
    let count = get_len(body, MEMBERS_MAX)?;
    let mut nodes = BTreeMap::new();
    for _ in 0..count {
        let id = body.try_get_u64_le().ok()?;
        nodes.insert(id, StoreId(body.try_get_u128_le().ok()?));
    }
    (nodes.len() == count).then_some(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Node `n` has store `100 + n`, node 9 none yet.
    fn membership(configs: &[&[u64]], nodes: &[u64]) -> Membership {
        let configs = configs
            .iter()
            .map(|voters| voters.iter().copied().collect())
            .collect();
        let store = |id: u64| match id {
            9 => StoreId::UNCLAIMED,
            id => StoreId(100 + u128::from(id)),
        };
        let nodes: BTreeMap<u64, StoreId> = nodes.iter().map(|id| (*id, store(*id))).collect();
        Membership::new(configs, nodes).unwrap()
    }

    #[test]
    fn bytes_of_both_versions_stay_readable() {
        let old = [
            &[1, 0, 2, 0][..],
            &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            &[2, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        let of_any: BTreeMap<u64, StoreId> = [(1, StoreId::ANY), (2, StoreId::ANY)].into();
        let of_any = Membership::new(vec![[1, 2].into()], of_any).unwrap();
        assert_eq!(decode(&old), Some(of_any));
        let new = [
            &[0xff, 0xff, 2, 0, 1, 0, 2, 0][..],
            &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            &[2, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[101, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[9, 0, 0, 0, 0, 0, 0, 0],
            &[0; 16],
        ]
        .concat();
        let bound = membership(&[&[1, 9]], &[1, 9]);
        assert_eq!(encode(&bound), new);
        assert_eq!(decode(&new), Some(bound));
    }

    #[test]
    fn memberships_read_back() {
        let cases = [
            membership(&[&[1, 2, 3]], &[1, 2, 3]),
            membership(&[&[1, 2, 3], &[2, 3, 4]], &[1, 2, 3, 4, 9]),
        ];
        for membership in cases {
            assert_eq!(decode(&encode(&membership)), Some(membership));
        }
    }

    #[test]
    fn a_majority_is_one_of_each_configuration_and_of_voters_alone() {
        let uniform = membership(&[&[1, 2, 3]], &[1, 2, 3, 4]);
        let joint = membership(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3, 4, 5, 6]);
        let cases: [(&Membership, &[u64], bool); 9] = [
            (&uniform, &[1, 2], true),
            (&uniform, &[1, 4], false),
            (&uniform, &[3], false),
            (&joint, &[1, 2, 3], false),
            (&joint, &[3, 4, 5], false),
            (&joint, &[1, 3, 4], true),
            (&joint, &[1, 2, 4, 5], true),
            (&joint, &[1, 3, 6], false),
            (&Membership::default(), &[1], false),
        ];
        for (membership, counted, expected) in cases {
            let found = is_majority(membership, |replica| counted.contains(&replica.0));
            assert_eq!(found, expected, "{membership} {counted:?}");
        }
    }

    #[test]
    fn a_group_has_voters_and_all_are_replicas() {
        let cases = [
            (membership(&[&[1, 2, 3]], &[1, 2, 3]), true),
            (membership(&[&[1, 2], &[1, 3]], &[1, 2, 3]), true),
            (membership(&[&[1, 2], &[1], &[2]], &[1, 2]), false),
            (membership(&[&[1, 7 << 48 | 2]], &[1, 7 << 48 | 2]), true),
            (membership(&[&[1, 7 << 48]], &[1, 7 << 48]), false),
        ];
        for (membership, expected) in cases {
            assert_eq!(is_sound(&membership), expected, "{membership}");
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = encode(&membership(&[&[1, 2, 3]], &[1, 2, 3]));
        for len in 0..good.len() {
            assert_eq!(decode(&good[..len]), None, "cut at {len}");
        }
        let mut long = good.to_vec();
        long.push(0);
        assert_eq!(decode(&long), None);
        assert_eq!(decode(&[0xff; 64]), None);
    }
}
