//! The body of a membership entry.
//!
//! ```text
//! offset  size
//!      0     2  number of configurations (2 while the members change, else 1)
//!              per configuration:
//!            2    number of voters
//!          8 n    their node ids, ascending
//!            2  number of nodes, voters and learners
//!          8 n  their node ids, ascending
//! ```
//! All little-endian.

use crate::limits::MEMBERS_MAX;
use crate::types::Membership;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use corelith_shards::NodeId;
use std::collections::BTreeSet;

/// Configurations of one membership.
const CONFIGS_MAX: usize = 8;

/// Encodes a membership.
pub(crate) fn encode(membership: &Membership) -> Bytes {
    let mut out = BytesMut::new();
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
    let nodes: Vec<u64> = membership.nodes().map(|(id, ())| *id).collect();
    put_ids(&mut out, nodes.into_iter());
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

/// Decodes what [`encode`] wrote; `None` if `body` is something else.
pub(crate) fn decode(body: &[u8]) -> Option<Membership> {
    let mut body = body;
    let count = get_len(&mut body, CONFIGS_MAX)?;
    let mut configs = Vec::with_capacity(count);
    for _ in 0..count {
        configs.push(get_ids(&mut body)?);
    }
    let nodes = get_ids(&mut body)?;
    if !body.is_empty() || configs.iter().any(|voters| !voters.is_subset(&nodes)) {
        return None;
    }
    let nodes: std::collections::BTreeMap<u64, ()> = nodes.into_iter().map(|id| (id, ())).collect();
    Some(Membership::new_with_defaults(configs, nodes.into_keys()))
}

/// Whether all of `members`, and nobody else, are voters, as in a group that nobody changes.
pub(crate) fn is_plain(membership: &Membership, members: &[NodeId]) -> bool {
    let expected: BTreeSet<u64> = members.iter().map(|member| member.0).collect();
    matches!(membership.get_joint_config().as_slice(), [voters] if *voters == expected)
        && membership.nodes().map(|(id, ())| *id).eq(expected)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(configs: &[&[u64]], nodes: &[u64]) -> Membership {
        let configs = configs
            .iter()
            .map(|voters| voters.iter().copied().collect())
            .collect();
        Membership::new_with_defaults(configs, nodes.iter().copied())
    }

    #[test]
    fn memberships_read_back() {
        let cases = [
            membership(&[], &[]),
            membership(&[&[1, 2, 3]], &[1, 2, 3]),
            membership(&[&[1, 2, 3], &[2, 3, 4]], &[1, 2, 3, 4, 9]),
        ];
        for membership in cases {
            assert_eq!(decode(&encode(&membership)), Some(membership));
        }
    }

    #[test]
    fn only_the_whole_group_is_plain() {
        let group = [NodeId(3), NodeId(1), NodeId(2)];
        let cases = [
            (membership(&[&[1, 2, 3]], &[1, 2, 3]), true),
            (membership(&[&[1, 2]], &[1, 2, 3]), false),
            (membership(&[&[1, 2]], &[1, 2]), false),
            (membership(&[&[1, 2, 3]], &[1, 2, 3, 4]), false),
            (membership(&[&[1, 2, 3], &[1, 2, 3]], &[1, 2, 3]), false),
            (membership(&[], &[]), false),
        ];
        for (membership, expected) in cases {
            assert_eq!(is_plain(&membership, &group), expected, "{membership}");
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
