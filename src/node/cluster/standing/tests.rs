use super::{Exclusion, Standing, claim, exclusion, standing, waits_for_existing};
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
        let found = standing(&node(1, 11), (&charter, named, false), &replies);
        let shown = match &found {
            Standing::Member => MEMBER.to_owned(),
            Standing::Excluded(exclusion) => format!("{exclusion:?}"),
            Standing::Waits(why) => why.replace("this node 1 is ", "another: "),
        };
        assert!(shown.contains(expected), "{expected}: {shown}");
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
