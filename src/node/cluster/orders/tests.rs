use super::{OrderRefusal, answer, decide, may_recover};
use crate::node::cluster::map::tests::{first, place};
use crate::node::cluster::map::{Map, MapEdit, NodeState, Rejoin, Why};
use crate::node::cluster::reports::{LeadReport, NodeReport, Reports};
use corelith_wire::cluster::{ClusterAnswer, ClusterAsk, ClusterOrder};
use corelith_wire::{NodeId, ReplicaId, ShardId, StoreId};

/// Four nodes of which the last has no replicas and the third is drained; a fifth is removed.
fn map() -> Map {
    let edits = [
        MapEdit::Join {
            store: StoreId(44),
            place: place("new", ""),
        },
        MapEdit::State {
            node: NodeId(3),
            state: NodeState::Draining,
        },
        MapEdit::Join {
            store: StoreId(55),
            place: place("gone", ""),
        },
        MapEdit::State {
            node: NodeId(5),
            state: NodeState::Removed,
        },
    ];
    first(3, 6, 2).apply_all(&edits).unwrap()
}

fn set(key: &str, value: &str) -> ClusterOrder {
    ClusterOrder::Set {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

fn shift(shard: u32, from: u64, to: u64) -> ClusterOrder {
    ClusterOrder::MoveShard { shard, from, to }
}

#[test]
fn refusals_say_why_and_what_to_do() {
    let table = [
        (
            ClusterOrder::Drain { node: 9 },
            "there is no node 9; the cluster has 1, 2, 3, 4",
        ),
        (
            ClusterOrder::Remove { node: 1 },
            "node 1 still has replicas of 5 shards: drain it first (corelith cluster drain 1 --wait)",
        ),
        (
            ClusterOrder::Replace { old: 1, new: 1 },
            "node 1 cannot replace itself: start it on its new disk, and it is made whole again by itself",
        ),
        (
            ClusterOrder::Replace { old: 1, new: 3 },
            "node 3 is drained itself",
        ),
        (
            shift(7, 1, 4),
            "there is no shard 7; the cluster has 0 to 5",
        ),
        (
            shift(0, 3, 4),
            "node 3 has no replica of shard 0; 1, 2 have",
        ),
        (shift(0, 1, 2), "node 2 has a replica of shard 0 already"),
        (shift(0, 1, 3), "node 3 is drained and gets no replicas"),
        (
            ClusterOrder::LeadShard { shard: 0, to: 4 },
            "node 4 has no replica of shard 0; 1, 2 have",
        ),
        (
            ClusterOrder::Rejoin { node: 1, store: 0 },
            "no other store comes as node 1",
        ),
        (
            ClusterOrder::Rejoin { node: 1, store: 2 },
            "that is not possible: two nodes have one store",
        ),
        (
            ClusterOrder::Recover { lost: vec![] },
            "name the nodes that are gone for good",
        ),
        (
            ClusterOrder::Recover { lost: vec![1, 9] },
            "there is no node 9; the cluster has 1, 2, 3, 4",
        ),
        (
            ClusterOrder::Recover {
                lost: vec![1, 2, 3, 4],
            },
            "no node would be left",
        ),
        (
            ClusterOrder::Recover { lost: vec![1, 2] },
            "no replica is left of shard 0, shard 3: bring back one of the nodes that had it",
        ),
        (
            set("replicas", "4"),
            "replicas: 4 need as many nodes, and there are 3 that are not drained: add nodes first",
        ),
        (
            set("replicas", "none"),
            "replicas: \"none\" is not allowed: 1 to 7",
        ),
        (
            set("copy_bytes_per_second", "7"),
            "copy_bytes_per_second: \"7\" is not allowed: 1048576 to 1099511627776, or 0 for no limit",
        ),
        (
            set("balance", "yes"),
            "balance: \"yes\" is not allowed: on or off",
        ),
        (
            set("color", "red"),
            "there is no setting \"color\"; there are replicas, reads, rebuild_after_s, moves_max, \
             moves_per_node_max, copy_bytes_per_second, rejoin, balance",
        ),
    ];
    for (order, why) in table {
        assert_eq!(
            decide(&map(), &order),
            Err(OrderRefusal(why.to_owned())),
            "{order:?}"
        );
    }
    let few = first(3, 6, 3);
    let why = "node 1 cannot be drained: 2 nodes would be left for 3 replicas of each shard; add a node first, \
               or have fewer replicas first (corelith cluster set replicas 2)";
    let order = ClusterOrder::Drain { node: 1 };
    assert_eq!(decide(&few, &order), Err(OrderRefusal(why.to_owned())));
    let removed = map().apply(&MapEdit::State {
        node: NodeId(4),
        state: NodeState::Removed,
    });
    let order = ClusterOrder::Undrain { node: 4 };
    let why = decide(&removed.unwrap(), &order).unwrap_err();
    assert!(why.0.starts_with("node 4 was removed"), "{why}");
}

#[test]
fn orders_take_edits_and_say_what_they_do() {
    let state = |node, state| MapEdit::State {
        node: NodeId(node),
        state,
    };
    let table = [
        (
            ClusterOrder::Drain { node: 1 },
            Some(state(1, NodeState::Draining)),
            "node 1 is drained: its replicas of 5 shards go to other nodes, and 2 leads",
        ),
        (
            ClusterOrder::Drain { node: 3 },
            None,
            "node 3 is drained already",
        ),
        (
            ClusterOrder::Undrain { node: 3 },
            Some(state(3, NodeState::Active)),
            "node 3 gets replicas again",
        ),
        (
            ClusterOrder::Undrain { node: 1 },
            None,
            "node 1 is not drained",
        ),
        (
            ClusterOrder::Remove { node: 4 },
            Some(state(4, NodeState::Removed)),
            "node 4 is removed: it can be stopped, and its id is not given again",
        ),
        (
            ClusterOrder::Remove { node: 5 },
            None,
            "node 5 is removed already",
        ),
        (
            ClusterOrder::Replace { old: 5, new: 4 },
            None,
            "node 5 is removed already",
        ),
        (
            ClusterOrder::Replace { old: 1, new: 4 },
            Some(state(1, NodeState::Draining)),
            "node 1 is drained: its replicas of 5 shards go to other nodes, and 2 leads",
        ),
        (
            ClusterOrder::LeadShard { shard: 0, to: 2 },
            Some(MapEdit::Prefer {
                shard: ShardId(0),
                leader: NodeId(2),
            }),
            "shard 0 is to be led by node 2",
        ),
        (
            ClusterOrder::Rejoin { node: 1, store: 99 },
            Some(MapEdit::Store {
                node: NodeId(1),
                store: StoreId(99),
            }),
            "store 00000000000000000000000000000063 is node 1 from now on, and its replicas of 5 shards are made anew",
        ),
    ];
    for (order, edit, line) in table {
        let decision = decide(&map(), &order).unwrap();
        assert_eq!(
            decision.edits,
            edit.into_iter().collect::<Vec<_>>(),
            "{order:?}"
        );
        assert_eq!(decision.lines[0], line);
    }
}

#[test]
fn a_move_is_begun_once_and_within_bounds() {
    let decision = decide(&map(), &shift(0, 1, 4)).unwrap();
    assert_eq!(decision.lines[0], "shard 0 moves from node 1 to node 4");
    let moving = map().apply_all(&decision.edits).unwrap();
    let why = decide(&moving, &shift(0, 1, 4)).unwrap_err();
    assert_eq!(why.0, "shard 0 is being moved: wait until that is done");
    let bounded = decide(&map(), &set("moves_max", "1")).unwrap();
    let bounded = moving.apply_all(&bounded.edits).unwrap();
    let why = decide(&bounded, &shift(1, 2, 4)).unwrap_err();
    assert_eq!(
        why.0,
        "1 moves are under way, as many as moves_max allows: wait, or raise it"
    );
}

#[test]
fn settings_are_set() {
    let mut map = map();
    for (key, value, line) in [
        ("replicas", "3", "replicas is 3; it was 2"),
        ("replicas", "3", "replicas is 3 already"),
        ("rebuild_after_s", "60", "rebuild_after_s is 60; it was 900"),
        (
            "copy_bytes_per_second",
            "1048576",
            "copy_bytes_per_second is 1048576; it was 0",
        ),
        ("rejoin", "manual", "rejoin is manual; it was auto"),
        ("balance", "off", "balance is off; it was on"),
    ] {
        let decision = decide(&map, &set(key, value)).unwrap();
        assert_eq!(decision.lines, [line]);
        map = map.apply_all(&decision.edits).unwrap();
    }
    assert_eq!(map.settings.rejoin, Rejoin::Manual);
    // Leaders go by their nodes' configurations.
    let why = decide(&map, &set("reads", "quorum")).unwrap_err();
    assert!(why.0.contains("cluster.reads"), "{why}");
}

#[test]
fn a_majority_that_is_gone_is_done_without() {
    let map = first(5, 5, 3);
    let decision = decide(&map, &ClusterOrder::Recover { lost: vec![1, 2] }).unwrap();
    let recovered = map.apply_all(&decision.edits).unwrap();
    // Shards 0 and 4 had two replicas there, shard 1 and 3 one.
    assert_eq!(recovered.shards[0].replicas, [ReplicaId(3)]);
    assert_eq!(recovered.shards[4].replicas, [ReplicaId(5)]);
    // Nobody is left on them, and a majority of shard 1 and 3 is.
    assert_eq!(recovered.shards[1].replicas, [ReplicaId(3), ReplicaId(4)]);
    assert_eq!(recovered.shards[2].replicas, map.shards[2].replicas);
    assert_eq!(recovered.shards[3].replicas, [ReplicaId(4), ReplicaId(5)]);
    for node in [1, 2] {
        assert_eq!(recovered.nodes[&NodeId(node)].state, NodeState::Removed);
    }
    assert!(recovered.epoch > map.epoch);
    assert_eq!(
        decision.lines,
        [
            "shard 0 goes on with node 3: writes that only the nodes lost had are lost",
            "shard 4 goes on with node 5: writes that only the nodes lost had are lost",
            "a majority is left of the shard of the map, shard 1, shard 3: nothing of them is lost",
            "node 1 is removed: it is refused if it comes back, and its id is not given again",
            "node 2 is removed: it is refused if it comes back, and its id is not given again",
        ]
    );
    let again = decide(&recovered, &ClusterOrder::Recover { lost: vec![1, 2] }).unwrap();
    assert_eq!(again.edits, []);
    assert_eq!(
        again.lines,
        ["node 1 is removed already", "node 2 is removed already"]
    );
}

#[test]
fn a_majority_is_done_without_once_what_is_left_of_it_leads() {
    let map = first(5, 5, 3);
    let lead = |voters: &[u64]| {
        let voters = voters.iter().map(|of| ReplicaId(*of)).collect();
        LeadReport {
            voters: vec![voters],
            ..LeadReport::default()
        }
    };
    // What nodes 3 and 5 report of shards 0 and 4, of which a majority is on nodes 1 and 2; what is refused.
    let table: [(&[u64], &[u64], Option<&str>); 4] = [
        (&[3], &[5], None),
        (&[3, 1], &[5], Some("shard 0 would")),
        (&[3], &[5, 1, 2], Some("shard 4 would")),
        (&[], &[], Some("shard 0, shard 4 would")),
    ];
    for (third, fifth, refused) in table {
        let mut reports = Reports::new(0);
        for (node, shard, voters) in [(3, 0, third), (5, 4, fifth)] {
            let leads = (!voters.is_empty()).then(|| (ShardId(shard), lead(voters)));
            let report = NodeReport {
                leads: leads.into_iter().collect(),
                ..NodeReport::default()
            };
            reports.take(NodeId(node), report);
        }
        let may = |lost: &[u64], up_ms| may_recover(&map, lost, &reports, up_ms);
        let found = may(&[1, 2], 1000).map_err(|refusal| refusal.0);
        match (&found, refused) {
            (Ok(()), None) => {}
            (Err(why), Some(refused)) => assert!(why.starts_with(refused), "{why}"),
            _ => panic!("{third:?} {fifth:?}: {found:?}"),
        }
        // A majority is left of every shard; and who was not heard lately leads nothing.
        assert_eq!(may(&[1], 1000), Ok(()));
        assert!(may(&[1, 2], 0).is_err());
    }
}

#[test]
fn a_move_ends_when_its_nodes_are_lost() {
    let begin = |add, remove| MapEdit::Begin {
        shard: ShardId(0),
        add: Some(NodeId(add)),
        remove: Some(ReplicaId(remove)),
        why: Why::Operator,
    };
    // (what moves where, the nodes lost, the replicas of shard 0 afterwards)
    let table: [(u64, u64, &[u64], &[ReplicaId]); 3] = [
        (4, 1, &[4], &[ReplicaId(1), ReplicaId(2), ReplicaId(3)]),
        (4, 1, &[1, 5], &[ReplicaId(2), ReplicaId(3)]),
        (4, 1, &[1, 2, 3], &[ReplicaId::new(NodeId(4), 1)]),
    ];
    for (add, remove, lost, expected) in table {
        let mut map = first(5, 5, 3).apply(&begin(add, remove)).unwrap();
        // Of the others nothing would be left.
        map.shards.truncate(1);
        map.meta.replicas = vec![ReplicaId(4), ReplicaId(5)];
        if lost.contains(&4) {
            map.meta.replicas = vec![ReplicaId(5)];
        }
        let lost = lost.to_vec();
        let decision = decide(&map, &ClusterOrder::Recover { lost }).unwrap();
        let recovered = map.apply_all(&decision.edits).unwrap();
        assert_eq!(recovered.shards[0].replicas, expected);
        assert_eq!(recovered.shards[0].change, None);
    }
}

#[test]
fn a_dry_run_edits_nothing() {
    let mut ask = ClusterAsk {
        order: ClusterOrder::Undrain { node: 3 },
        dry_run: true,
    };
    let lines = vec!["node 3 gets replicas again".to_owned()];
    let planned = ClusterAnswer::Planned {
        lines: lines.clone(),
    };
    assert_eq!(answer(&map(), &ask), Some((vec![], planned)));
    ask.dry_run = false;
    let (edits, done) = answer(&map(), &ask).unwrap();
    assert_eq!((edits.len(), done), (1, ClusterAnswer::Done { lines }));
    ask.order = ClusterOrder::Status;
    assert_eq!(answer(&map(), &ask), None);
}
