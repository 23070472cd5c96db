use super::{
    Exclusion, Standing, claim, difference, exclusion, refusal, replaced, standing,
    waits_for_existing,
};
use crate::node::cluster::judge::known;
use corelith_wire::peer::{
    Ballot, Charter, FormationAnswer, FormationReply, Introduction, Settings, Verdict,
};
use corelith_wire::{FullClusterId, Mark, NodeId, Start, StoreId};

fn start(incarnation: u64) -> Start {
    Start {
        incarnation,
        nonce: incarnation,
    }
}

fn node(id: u64, store: u128) -> Introduction {
    Introduction {
        cluster: FullClusterId(7),
        node: NodeId(id),
        store: StoreId(store),
        start: start(3),
        mark: Mark(4),
        port: 7411,
        cores: 1,
        settings: Settings::new(4, 3, 0),
    }
}

fn charter(cluster: u128, own: u128) -> Charter {
    Charter {
        cluster: FullClusterId(cluster),
        stores: [(1, own), (2, 22), (3, 33)]
            .map(|(node, store)| (NodeId(node), StoreId(store)))
            .into(),
    }
}

fn formed(verdict: Verdict) -> FormationAnswer {
    FormationAnswer::Formed {
        charter: charter(7, 11),
        verdict,
    }
}

fn elsewhere() -> FormationAnswer {
    FormationAnswer::Formed {
        charter: charter(8, 11),
        verdict: Verdict::OtherCluster,
    }
}

fn unformed() -> FormationAnswer {
    FormationAnswer::Unformed {
        promised: Ballot::default(),
        accepted: None,
    }
}

#[test]
fn what_the_others_say_decides() {
    const MEMBER: &str = "member";
    let other = Verdict::OtherStore(StoreId(12));
    let rolled = Verdict::RolledBack(start(5));
    type Answers = [Option<FormationAnswer>; 2];
    // What nodes 2 and 3 answer, and what node 1 is.
    let table: [(u128, Answers, &str); 11] = [
        (11, [None, None], MEMBER),
        (0, [Some(formed(Verdict::Known)), None], MEMBER),
        (u128::MAX, [Some(unformed()), None], MEMBER),
        (
            11,
            [Some(formed(Verdict::Known)), Some(formed(Verdict::Known))],
            MEMBER,
        ),
        (12, [None, None], "OtherStore"),
        (
            11,
            [Some(formed(Verdict::Known)), Some(formed(rolled))],
            "RolledBack",
        ),
        (0, [Some(formed(other)), None], "OtherStore"),
        (11, [Some(elsewhere()), None], "another: of the cluster"),
        (
            11,
            [Some(elsewhere()), Some(formed(Verdict::Known))],
            MEMBER,
        ),
        (
            11,
            [Some(FormationAnswer::Refused(Verdict::OtherSettings)), None],
            "settings",
        ),
        (
            11,
            [
                Some(formed(Verdict::OtherSettings)),
                Some(formed(Verdict::Known)),
            ],
            MEMBER,
        ),
    ];
    for (own, answers, expected) in table {
        let replies = (2..).zip(answers).filter_map(|(id, answer)| {
            let by = Introduction {
                cluster: match &answer {
                    Some(FormationAnswer::Formed { charter, .. }) => charter.cluster,
                    _ => FullClusterId(0),
                },
                ..node(id, u128::from(id) * 11)
            };
            Some((
                NodeId(id),
                FormationReply {
                    by,
                    answer: answer?,
                },
            ))
        });
        let charter = charter(7, own);
        let named = known(&charter, None, NodeId(1));
        let replies = replies.collect();
        let found = standing(&node(1, 11), (&charter, named, None), &replies);
        let shown = match &found {
            Standing::Member => MEMBER.to_owned(),
            Standing::Excluded(exclusion) => format!("{exclusion:?}"),
            Standing::Waits(why) => why.replace("this node 1 is ", "another: "),
        };
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

/// A map that names the own store is old if most of its nodes know another one.
#[test]
fn a_map_that_most_know_better_is_not_believed() {
    let other = Verdict::OtherStore(StoreId(12));
    // The nodes of the map, who knows another store, and whether that is believed.
    let table: [(u64, &[u64], bool); 12] = [
        (1, &[], false),
        (2, &[], false),
        (2, &[2], true),
        (3, &[2], false),
        (3, &[2, 2], false),
        (3, &[2, 1], false),
        (3, &[2, 4], false),
        (3, &[2, 3], true),
        (4, &[2, 3], false),
        (4, &[2, 3, 4], true),
        (5, &[2, 3], false),
        (5, &[2, 4, 5], true),
    ];
    for (nodes, by, expected) in table {
        let nodes: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let said = by.iter().map(|node| (NodeId(*node), other));
        let found = replaced(NodeId(1), &nodes, said);
        let expected = expected.then_some(Exclusion::OtherStore(StoreId(12)));
        assert_eq!(found, expected, "{nodes:?} {by:?}");
    }
    let said = [(NodeId(2), other), (NodeId(3), Verdict::NoSuchNode)];
    let nodes = [1, 2, 3].map(NodeId);
    assert_eq!(replaced(NodeId(1), &nodes, said), None);
    // The same when it starts.
    let table = [
        ([Some(other), None], false),
        ([Some(other), Some(Verdict::Known)], false),
        ([Some(other), Some(other)], true),
    ];
    for (verdicts, is_excluded) in table {
        let replies = (2..).zip(verdicts).filter_map(|(id, verdict)| {
            let by = node(id, u128::from(id) * 11);
            let answer = formed(verdict?);
            Some((NodeId(id), FormationReply { by, answer }))
        });
        let charter = charter(7, 11);
        let named = known(&charter, None, NodeId(1));
        let all = (&charter, named, Some(&nodes[..]));
        let found = standing(&node(1, 11), all, &replies.collect());
        let expected = match is_excluded {
            true => Standing::Excluded(Exclusion::OtherStore(StoreId(12))),
            false => Standing::Member,
        };
        assert_eq!(found, expected, "{verdicts:?}");
    }
}

/// One sentence: who it is, whom the cluster knows, where the data is, and what not to do.
#[test]
fn a_stranger_is_told_what_it_is() {
    let me = node(1, 11);
    let table = [
        (Exclusion::OtherStore(StoreId(12)), "0000000c"),
        (
            Exclusion::RolledBack(start(5)),
            "start number 3, and other nodes have met number 5",
        ),
        (Exclusion::RolledBack(start(3)), "a copy"),
        (Exclusion::RolledBack(start(2)), "a copy"),
        (
            Exclusion::Behind(Mark(9)),
            "the mark of its store is 4, and other nodes have met mark 9",
        ),
        (
            Exclusion::LostEntries,
            "lacks writes that it had acknowledged",
        ),
        (Exclusion::Removed, "node 1 was removed from the cluster"),
        (Exclusion::Removed, "with `node.join` and without `node.id`"),
    ];
    for (excluded, expected) in table {
        let said = exclusion("/data", &me, excluded);
        for word in [
            expected,
            "/data",
            "node 1",
            "no vote",
            "on its other nodes",
            "takes part in nothing",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!said.contains(". ") && !said.contains('\n'), "{said}");
    }
}

/// Whoever reads what the others say of a node that was removed, or what they say to it, knows which one and what to do.
#[test]
fn of_a_removed_node_it_is_said_that_it_was() {
    let (me, them) = (node(1, 11), node(4, 44));
    let here = refusal(&me, &them, Verdict::Removed);
    let there = difference(&them, me.node, &me, Verdict::Removed);
    for (said, which) in [(here, "store 0000"), (there, "node 1 says")] {
        for words in [
            which,
            "node 4 was removed from the cluster",
            "`node.join`",
            "without `node.id`",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert!(!said.contains("ids and addresses"), "{said}");
    }
}

#[test]
fn a_new_directory_of_a_cluster_that_was_formed_waits() {
    let nodes = [1, 2, 3].map(NodeId);
    let table = [
        (&nodes[..1], "there is no other node that knows it"),
        (&nodes[..2], "this node waits for node 2"),
        (
            &nodes[..],
            "this node waits for one of the nodes 2, 3 that knows it",
        ),
    ];
    for (nodes, expected) in table {
        let said = waits_for_existing("/d", NodeId(1), nodes);
        assert!(said.contains(expected), "{said}");
        assert!(said.contains("none is formed"), "{said}");
    }
}

#[test]
fn a_new_directory_claims_no_slot_of_before() {
    let table = [
        (0, None),
        (11, None),
        (u128::MAX, Some(Exclusion::OtherStore(StoreId(u128::MAX)))),
    ];
    for (named, expected) in table {
        assert_eq!(claim(NodeId(1), &charter(7, named)), expected, "{named}");
    }
    let excluded = Exclusion::OtherStore(StoreId::ANY);
    let said = exclusion("/d", &node(1, 11), excluded);
    assert!(
        said.starts_with("the data directory /d is new, and the cluster knows node 1 from before")
    );
}
