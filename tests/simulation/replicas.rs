//! The comparison of what the replicas hold.

use crate::cluster::Cluster;
use bytes::Bytes;
use corelith_consensus::Group;
use corelith_shards::{ItemValue, LargeRef, LogId, ScanRange, ShardId, Space};
use std::collections::BTreeMap;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PAGE_ITEMS: usize = 1000;

/// All that a shard's clients could tell of its state.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    /// Version and value, by key.
    keys: BTreeMap<Bytes, (u64, Bytes)>,
    /// What each large value is, by key.
    large: BTreeMap<Bytes, (u64, LargeRef)>,
    /// Uploads and chunks: the index and the bytes of each row.
    rows: BTreeMap<(u8, Bytes), (u64, Bytes)>,
    /// Records of the sessions.
    sessions: BTreeMap<u64, Vec<u8>>,
}

/// Waits until all replicas of each shard have applied the same, and compares what they hold. Nobody
/// may write meanwhile.
pub(crate) fn check_equal(cluster: &Cluster, shards: u32, replicas: u32) {
    for shard in (0..shards).map(ShardId) {
        let of_shard = || -> Vec<Group> {
            let groups = cluster.groups().into_iter();
            groups.filter(|group| group.shard() == shard).collect()
        };
        let applied = |group: &Group| -> Option<LogId> {
            let status = group.status();
            status.applied.filter(|id| Some(*id) == status.last_log)
        };
        let are_equal = || {
            let groups = of_shard();
            let first = groups.first().and_then(applied);
            let same = groups.iter().all(|group| applied(group) == first);
            groups.len() == replicas as usize && first.is_some() && same
        };
        let equal = cluster.sim.run_until(are_equal, LIMIT);
        let stand: Vec<String> = of_shard().iter().map(describe).collect();
        assert!(equal, "{shard} does not come to rest: {stand:?}");
        let mut first: Option<(Group, Content)> = None;
        for group in of_shard() {
            let content = content_of(cluster, &group);
            let Some((other, expected)) = &first else {
                first = Some((group, content));
                continue;
            };
            let difference = difference(expected, &content);
            assert_eq!(
                difference,
                None,
                "the replicas of {shard} at {} and {} differ",
                other.node(),
                group.node()
            );
        }
    }
}

/// Where each replica that is open stands.
pub(crate) fn describe_all(cluster: &Cluster) -> Vec<String> {
    let groups = cluster.groups();
    let describe = |group: &Group| format!("{}: {}", group.shard(), describe(group));
    groups.iter().map(describe).collect()
}

fn describe(group: &Group) -> String {
    let status = group.status();
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index.0);
    format!(
        "node {} {:?} of {:?} (leader {:?}): log {}, committed {}, applied {}, checkpoint {}, purged {}",
        group.node(),
        status.role,
        status.term,
        status.leader,
        index(status.last_log),
        index(status.committed),
        index(status.applied),
        index(status.checkpointed),
        index(status.purged),
    )
}

/// What differs, in a few words: values are long.
fn difference(one: &Content, other: &Content) -> Option<String> {
    if one == other {
        return None;
    }
    let keys = one.keys.keys().chain(other.keys.keys());
    let differing = keys.filter(|key| one.keys.get(*key) != other.keys.get(*key));
    let version = |content: &Content, key| content.keys.get(key).map(|(version, _)| *version);
    let named = differing.map(|key| {
        let versions = (version(one, key), version(other, key));
        format!("{}: {versions:?}", String::from_utf8_lossy(key))
    });
    let large = one.large != other.large;
    let named = named.chain(large.then(|| "other large values".to_owned()));
    let rows = one.rows.keys().chain(other.rows.keys());
    let rows = rows.filter(|row| one.rows.get(*row) != other.rows.get(*row));
    let named = named.chain(rows.map(|(space, key)| format!("row {space} {key:?}")));
    let sessions = match one.sessions == other.sessions {
        true => String::new(),
        false => format!("sessions {:?} and {:?}", one.sessions, other.sessions),
    };
    Some(named.chain([sessions]).collect::<Vec<_>>().join(", "))
}

fn content_of(cluster: &Cluster, group: &Group) -> Content {
    let engine = group.engine().clone();
    let node = cluster.node(cluster.place_of(group.node()));
    cluster.sim.block_on(node, async move {
        let (mut keys, mut large) = (BTreeMap::new(), BTreeMap::new());
        let mut range = ScanRange::default();
        let pin = engine.pin();
        loop {
            let page = engine.scan(&range, Some(pin.at()), PAGE_ITEMS, usize::MAX);
            let page = page.await.unwrap();
            for item in page.items {
                range.start = [item.key.as_ref(), &[0]].concat().into();
                match item.value {
                    ItemValue::Bytes(bytes) => {
                        keys.insert(item.key, (item.version.0, bytes));
                    }
                    ItemValue::Large(found) => {
                        large.insert(item.key, (item.version.0, found));
                    }
                }
            }
            if !page.more {
                break;
            }
        }
        let mut rows = BTreeMap::new();
        for (number, space) in [(0, Space::Upload), (1, Space::Staged), (2, Space::Chunk)] {
            let page = engine.rows(space, &[], &[], usize::MAX, usize::MAX);
            for row in page.await.unwrap().rows {
                rows.insert((number, row.key), (row.at.0, row.value));
            }
        }
        let sessions = engine.sessions().records();
        Content {
            keys,
            large,
            rows,
            sessions,
        }
    })
}
