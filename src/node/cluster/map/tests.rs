use super::{EditError, Map, MapEdit, MapError, NodePlace, NodeState, Why, meta_replicas};
use crate::node::config::NodeConfig;
use corelith_wire::peer::Charter;
use corelith_wire::{Epoch, FullClusterId, LogIndex, NodeId, ReplicaId, ShardId, StoreId};

/// The first map of so many nodes, each with the store of its number.
pub(crate) fn first(nodes: u64, shards: u32, replicas: u32) -> Map {
    let entries: Vec<String> = (1..=nodes)
        .map(|id| format!("{{ id = {id}, host = \"h{id}\", port = 7000, cores = 2 }}"))
        .collect();
    let text = format!(
        "node = {{ id = 1, data_dir = \"/d\" }}\n[cluster]\nname = \"c\"\nshards = {shards}\n\
         replicas = {replicas}\nnodes = [{}]",
        entries.join(",")
    );
    let config = NodeConfig::parse("t", &text).unwrap();
    let charter = Charter {
        cluster: FullClusterId(0xfeed),
        stores: (1..=nodes)
            .map(|id| (NodeId(id), StoreId(id.into())))
            .collect(),
    };
    Map::first(&config.cluster, &charter).unwrap()
}

pub(crate) fn place(host: &str, zone: &str) -> NodePlace {
    NodePlace {
        host: host.to_owned(),
        port: 7000,
        cores: 2,
        zone: zone.to_owned(),
        region: String::new(),
    }
}

fn begin(shard: u32, add: u64, remove: ReplicaId) -> MapEdit {
    MapEdit::Begin {
        shard: ShardId(shard),
        add: (add != 0).then_some(NodeId(add)),
        remove: Some(remove),
        why: Why::Operator,
    }
}

fn old(node: u64) -> ReplicaId {
    ReplicaId::new(NodeId(node), 0)
}

#[test]
fn the_first_map_is_todays_placement() {
    let map = first(4, 6, 3);
    let clients = map.for_clients();
    let nodes = clients.nodes.clone();
    let placed = corelith_wire::map::ClusterMap::place(Epoch(1), map.cluster.short(), nodes, 6, 3);
    assert_eq!(clients, placed);
    // An id of a first replica is its node's number.
    assert_eq!(map.shards[1].replicas, [2, 3, 4].map(ReplicaId));
    assert_eq!(map.meta.replicas, [1, 2, 3].map(ReplicaId));
    let table = [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (64, 5)];
    for (nodes, replicas) in table {
        assert_eq!(meta_replicas(nodes), replicas, "{nodes}");
    }
}

#[test]
fn a_change_takes_a_fresh_generation_and_ends_or_is_undone() {
    let map = first(4, 6, 3);
    let changing = map.apply(&begin(0, 4, old(1))).unwrap();
    let added = ReplicaId::new(NodeId(4), 1);
    assert_eq!(changing.epoch, Epoch(2));
    assert_eq!(changing.shards[0].epoch, Epoch(2));
    assert_eq!(changing.shards[1].epoch, Epoch(1));
    assert_eq!(changing.shards[0].change.unwrap().add, Some(added));
    assert_eq!(changing.shards[0].wanted(), [added, old(2), old(3)]);
    assert_eq!(
        changing.apply(&begin(0, 4, old(1))),
        Err(EditError::Changing(ShardId(0)))
    );
    let end = |membership| MapEdit::End {
        shard: ShardId(0),
        replicas: vec![added, old(2), old(3)],
        membership: LogIndex(membership),
    };
    let ended = changing.apply(&end(9)).unwrap();
    assert_eq!(ended.shards[0].change, None);
    assert_eq!(ended.apply(&end(8)), Err(EditError::Old(ShardId(0))));
    let undo = MapEdit::Undo {
        shard: ShardId(0),
        membership: LogIndex(7),
    };
    let undone = changing.apply(&undo).unwrap();
    assert_eq!(undone.shards[0].replicas, map.shards[0].replicas);
    let again = undone.apply(&begin(0, 4, old(1))).unwrap();
    let change = again.shards[0].change.unwrap();
    assert_eq!(change.add, Some(ReplicaId::new(NodeId(4), 2)));
    // The same node may get another replica in the place of the one that goes, and only so.
    assert!(map.apply(&begin(0, 1, old(1))).is_ok());
    assert!(matches!(
        map.apply(&begin(0, 2, old(1))),
        Err(EditError::Wrong(_))
    ));
    assert!(matches!(
        map.apply(&begin(0, 4, old(4))),
        Err(EditError::Wrong(_))
    ));
}

#[test]
fn nodes_come_and_go_and_no_id_is_given_twice() {
    let join = |store| MapEdit::Join {
        store: StoreId(store),
        place: place("new", "z"),
    };
    let state = |node, state| MapEdit::State {
        node: NodeId(node),
        state,
    };
    let map = first(3, 6, 3).apply(&join(9)).unwrap();
    assert_eq!(map.nodes[&NodeId(4)].zone, "z");
    assert!(map.apply(&join(9)).is_err(), "one store, two nodes");
    assert_eq!(
        map.apply(&state(1, NodeState::Removed)),
        Err(EditError::Holds(NodeId(1)))
    );
    let gone = map.apply(&state(4, NodeState::Removed)).unwrap();
    assert_eq!(gone.for_clients().nodes.len(), 3);
    assert_eq!(
        gone.apply(&state(4, NodeState::Active)),
        Err(EditError::NoNode(NodeId(4)))
    );
    assert!(gone.apply(&begin(0, 4, old(1))).is_err(), "it is refused");
    let back = gone.apply(&join(9)).unwrap();
    assert_eq!(back.nodes[&NodeId(5)].state, NodeState::Active);
}

#[test]
fn the_preferred_leader_comes_first() {
    let prefer = |leader| MapEdit::Prefer {
        shard: ShardId(0),
        leader: NodeId(leader),
    };
    let map = first(4, 6, 3).apply(&prefer(3)).unwrap();
    assert_eq!(map.shards[0].replicas, [3, 1, 2].map(old));
    assert_eq!(map.apply(&prefer(4)), Err(EditError::NoNode(NodeId(4))));
}

/// A map with something of everything.
fn rich() -> Map {
    let edits = [
        MapEdit::Join {
            store: StoreId(u128::MAX - 1),
            place: place("new.example", "z-1"),
        },
        begin(0, 5, old(1)),
        begin(1, 1, old(2)),
        MapEdit::State {
            node: NodeId(2),
            state: NodeState::Draining,
        },
    ];
    let mut map = first(4, 6, 3).apply_all(&edits).unwrap();
    map.version = 4;
    map
}

#[test]
fn maps_are_read_as_written_and_kept_as_they_were_first_written() {
    for map in [first(1, 1, 1), first(64, 4096, 3), rich()] {
        assert_eq!(Map::decode(&map.encode()), Ok(map));
    }
    let bytes = rich().encode();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, include_str!("golden_1.hex").trim());
    let mut newer = bytes;
    newer[0] = 2;
    assert_eq!(Map::decode(&sealed(newer)), Err(MapError::Newer(2)));
}

/// The bytes with a checksum that matches.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 4);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// A generator of test cases: the same ones each time.
pub(crate) struct Cases(pub(crate) u64);

impl Cases {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[test]
fn hostile_bytes_are_refused_or_a_map() {
    let good = rich().encode();
    let mut cases = Cases(1);
    let mut maps = 0;
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=cases.below(3) {
            let at = cases.below(bytes.len() as u64) as usize;
            match cases.below(4) {
                0 => bytes[at] = cases.below(256) as u8,
                1 => bytes[at] ^= 1 << cases.below(8),
                2 => bytes.truncate(at.max(8)),
                _ => bytes.insert(at, cases.below(256) as u8),
            }
        }
        if cases.below(4) != 0 {
            bytes = sealed(bytes);
        }
        if let Ok(map) = Map::decode(&bytes) {
            maps += 1;
            // What is read can be used: nothing panics, and it is written as it was read.
            assert_eq!(map.encode(), bytes);
            map.for_clients();
        }
    }
    assert!(maps > 100, "{maps}");
    for len in 0..good.len() {
        assert!(Map::decode(&good[..len]).is_err(), "{len}");
    }
}

/// An edit of any sort, that may or may not fit.
fn any_edit(cases: &mut Cases, map: &Map) -> MapEdit {
    let shard = match cases.below(8) {
        0 => ShardId::META,
        number => ShardId(number as u32 - 1),
    };
    let node = NodeId(cases.below(8));
    let replicas = map.shard(shard).map_or(vec![], |shard| shard.wanted());
    let replica = replicas.get(cases.below(4) as usize).copied();
    let membership = LogIndex(cases.below(20) + u64::from(map.epoch.0));
    match cases.below(12) {
        0..=2 => MapEdit::Begin {
            shard,
            add: (cases.below(4) > 0).then_some(node),
            remove: replica,
            why: Why::Move,
        },
        3 | 4 => MapEdit::End {
            shard,
            replicas,
            membership,
        },
        5 => MapEdit::Undo { shard, membership },
        6 => MapEdit::Prefer {
            shard,
            leader: node,
        },
        7 => MapEdit::Join {
            store: StoreId(cases.below(20).into()),
            place: place("new", "z"),
        },
        8 => MapEdit::Store {
            node,
            store: StoreId(cases.below(20).into()),
        },
        9 => {
            let states = [NodeState::Active, NodeState::Draining, NodeState::Removed];
            let state = states[cases.below(3) as usize];
            MapEdit::State { node, state }
        }
        10 => MapEdit::Recover {
            shard,
            survivors: replica.into_iter().collect(),
        },
        _ => MapEdit::Place {
            node,
            place: place("", ""),
        },
    }
}

#[test]
fn edits_of_any_sort_are_refused_or_keep_the_invariants() {
    let mut done = 0;
    for seed in 0..200 {
        let mut cases = Cases(seed);
        let mut map = first(4, 6, 3);
        for _ in 0..50 {
            let edit = any_edit(&mut cases, &map);
            let Ok(next) = map.apply(&edit) else {
                continue;
            };
            done += 1;
            assert_eq!(next.check(), Ok(()), "{edit:?}");
            assert_eq!(next.epoch.0, map.epoch.0 + 1, "{edit:?}");
            for (id, shard) in next.all_shards() {
                let before = map.shard(id).unwrap();
                let is_changed = shard != before;
                assert!(!is_changed || shard.epoch == next.epoch, "{edit:?}");
                assert!(shard.next_generation >= before.next_generation);
            }
            map = next;
        }
    }
    assert!(done > 2000, "{done}");
}
