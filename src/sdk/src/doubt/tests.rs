use super::*;
use corelith_wire::map::{ClusterMap, MapNode};
use corelith_wire::status::ShardStatus;
use corelith_wire::{ClusterId, Epoch};
use std::sync::Arc;

const SILENT: NodeId = NodeId(1);

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Four nodes; shard 0 is on nodes 1 to 3, shard 1 on 2 to 4.
fn routes() -> Routes {
    let node = |id| MapNode {
        id,
        host: format!("n{id}"),
        base_port: 7000,
        cores: 2,
    };
    let nodes = (1..=4).map(node).collect();
    Routes::new(Arc::new(ClusterMap::place(
        Epoch(1),
        ClusterId(9),
        nodes,
        4,
        3,
    )))
}

fn shards(ids: &[u32]) -> BTreeSet<ShardId> {
    ids.iter().copied().map(ShardId).collect()
}

#[test]
fn the_other_replicas_are_asked_in_turn_and_suspects_last() {
    let mut routes = routes();
    let mut doubts = Doubts::default();
    assert!(doubts.begin(SILENT, at(1000)));
    assert!(!doubts.begin(SILENT, at(1001)), "one search a node");
    assert!(doubts.begin(NodeId(2), at(1001)), "of another node");
    // (shards that wait, suspected node, node and core asked)
    let mut now = at(1000);
    for (waiting, suspect, expected) in [
        (&[0][..], None, (2, 0)),
        (&[0], None, (3, 0)),
        (&[0], None, (2, 0)),
        (&[0], Some(3), (2, 0)),
        (&[0, 3], None, (3, 0)),
        (&[0, 3], None, (4, 1)),
        (&[3], Some(4), (2, 1)),
    ] {
        if let Some(suspect) = suspect {
            routes.suspect(NodeId(suspect), now + at(1));
        }
        let waiting = shards(waiting);
        let step = doubts.next(SILENT, &waiting, &routes, 7, now);
        let Question::Ask { target, until } = step else {
            panic!("{waiting:?}: {step:?}");
        };
        assert_eq!((target.node.0, target.core), expected, "{waiting:?}");
        assert!(until > now);
        let Question::Pause { until } = doubts.next(SILENT, &waiting, &routes, 7, now) else {
            panic!("no pause between two questions");
        };
        now = until;
    }
    let step = doubts.next(SILENT, &shards(&[]), &routes, 7, now);
    assert_eq!(step, Question::End);
    assert!(doubts.begin(SILENT, now), "the next search");
}

/// Questions until a leader is found after so long, and how much later than it is there.
#[test]
fn a_search_asks_seldom_and_adds_little() {
    for (missing, questions_max, late_max) in [(400, 20, 70), (3_000, 60, 330), (60_000, 520, 330)]
    {
        for random in [0, u64::MAX / 3, u64::MAX / 2] {
            let (routes, mut doubts) = (routes(), Doubts::default());
            // Nothing has arrived since 0.
            let mut now = SILENCE_DOUBT;
            doubts.begin(SILENT, now);
            let mut questions = 0;
            while now < at(missing) {
                match doubts.next(SILENT, &shards(&[0]), &routes, random, now) {
                    Question::Ask { .. } => questions += 1,
                    Question::Pause { until } => now = until,
                    Question::End => panic!("requests wait"),
                }
            }
            let late = now - at(missing);
            assert!(questions <= questions_max, "{questions} in {missing} ms");
            assert!(late <= at(late_max), "{late:?} after {missing} ms");
        }
    }
}

#[test]
fn a_single_replica_is_not_asked_about_itself() {
    let node = MapNode {
        id: 1,
        host: "n".into(),
        base_port: 7000,
        cores: 1,
    };
    let map = ClusterMap::place(Epoch(1), ClusterId(9), vec![node], 1, 1);
    let routes = Routes::new(Arc::new(map));
    let mut doubts = Doubts::default();
    doubts.begin(SILENT, at(0));
    let step = doubts.next(SILENT, &shards(&[0]), &routes, 0, at(0));
    assert!(matches!(step, Question::Pause { .. }), "{step:?}");
}

fn report(node: u64, of: &[(u32, ShardRole, u64, u64)]) -> Event {
    let status = |(shard, role, leader, term): &(u32, ShardRole, u64, u64)| ShardStatus {
        shard: *shard,
        role: *role,
        leader: *leader,
        term: *term,
        ..ShardStatus::default()
    };
    Event::Answer(Answer::Status(StatusReply {
        node,
        shards: of.iter().map(status).collect(),
        ..StatusReply::default()
    }))
}

#[test]
fn only_a_leader_of_the_known_term_or_a_later_one_is_believed() {
    use ShardRole::{Candidate, Follower, Leader};
    // (reports of node 2, shards that moved, leader of shard 0 then); node 1 led shard 0 in term 5.
    let table: [(&[_], &[u32], u64); 8] = [
        (&[(0, Follower, 1, 5)], &[], 1),
        (&[(0, Candidate, 0, 6)], &[], 1),
        (&[(0, Follower, 3, 4)], &[], 1),
        (&[(0, Leader, 2, 4)], &[], 1),
        (&[(0, Follower, 3, 6)], &[0], 3),
        (&[(0, Leader, 0, 6)], &[0], 2),
        (
            &[(0, Leader, 2, 6), (1, Follower, 3, 1), (3, Follower, 1, 9)],
            &[0, 1],
            2,
        ),
        (&[(0, Follower, 4, 6)], &[], 1),
    ];
    for (of, expected, leader) in table {
        let mut routes = routes();
        routes.leads(ShardId(0), SILENT, 5);
        let moved: Vec<u32> = learn(&mut routes, SILENT, &report(2, of))
            .iter()
            .map(|shard| shard.0)
            .collect();
        assert_eq!(moved, expected, "{of:?}");
        assert_eq!(routes.leader(ShardId(0)), Some(NodeId(leader)), "{of:?}");
    }
    let mut routes = routes();
    let lost = Event::Lost(crate::error::Cause::Timeout);
    assert!(learn(&mut routes, SILENT, &lost).is_empty());
}
