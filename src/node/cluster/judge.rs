//! Who may take part: what a node makes of another one that introduces itself.
//!
//! Invariants:
//! * Of a node only one store is known: the one that the newest map names, else the one that the charter names, or
//!   else the first that was met.
//! * Of a store only its highest start is known, and of two with that incarnation the first that was met.
//! * A start that finds a lower mark in its store than was met is not known. A store tells its mark only once that is
//!   durable, so an honest one, whenever it crashes, comes back with none that is lower.

use super::map::{Map, NodeState};
use corelith_wire::peer::{Charter, Introduction, Verdict};
use corelith_wire::{Mark, NodeId, Start, StoreId};

/// The store of a peer that was met, and what was met of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// Its store.
    pub store: StoreId,
    /// Its highest start.
    pub start: Start,
    /// Its highest mark.
    pub mark: Mark,
    /// It was found to lack entries that it had acknowledged.
    pub has_lost: bool,
}

/// What follows from an introduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It does not belong here.
    Refuse(Verdict),
    /// It is who was met last.
    Known,
    /// It is known once this is written down.
    Meet(Met),
    /// As [`Judgement::Meet`], unless this earlier start of the same store still runs: then it is a copy.
    Doubt(Start),
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownNode {
    /// The cluster has, or had, no such node.
    None,
    /// It was removed.
    Removed,
    /// Its store is that one, [`StoreId::UNCLAIMED`] or [`StoreId::ANY`].
    Store(StoreId),
}

/// What the map and the charter say of a node.
pub fn known(charter: &Charter, map: Option<&Map>, node: NodeId) -> KnownNode {
    let chartered = charter.store_of(node);
    let mapped = map.and_then(|map| map.nodes.get(&node));
    match (mapped, chartered) {
        (Some(mapped), _) if mapped.state == NodeState::Removed => KnownNode::Removed,
        (Some(mapped), Some(chartered)) => match mapped.store {
            StoreId::UNCLAIMED | StoreId::ANY => KnownNode::Store(chartered),
            store => KnownNode::Store(store),
        },
        (Some(mapped), None) => KnownNode::Store(mapped.store),
        (None, Some(chartered)) => KnownNode::Store(chartered),
        (None, None) => KnownNode::None,
    }
}

/// Judges `them`, of whose node `met` was met last. `is_alone`: it was looked whether the earlier start still
/// runs, and it does not.
pub fn judge(
    me: &Introduction,
    (charter, map): (&Charter, Option<&Map>),
    met: Option<Met>,
    is_alone: bool,
    them: &Introduction,
) -> Judgement {
    if them.cluster != charter.cluster {
        return Judgement::Refuse(Verdict::OtherCluster);
    }
    let named = match known(charter, map, them.node) {
        KnownNode::Store(named) if them.node != me.node => named,
        KnownNode::Removed => return Judgement::Refuse(Verdict::Removed),
        KnownNode::Store(_) | KnownNode::None => {
            return Judgement::Refuse(Verdict::NoSuchNode);
        }
    };
    if me.settings != them.settings {
        return Judgement::Refuse(Verdict::OtherSettings);
    }
    let known = match (named, met) {
        (StoreId::UNCLAIMED | StoreId::ANY, met) => met.map(|met| met.store),
        (named, _) => Some(named),
    };
    if let Some(known) = known.filter(|known| *known != them.store) {
        return Judgement::Refuse(Verdict::OtherStore(known));
    }
    let meet = Met {
        store: them.store,
        start: them.start,
        mark: them.mark,
        has_lost: false,
    };
    let Some(met) = met.filter(|met| met.store == them.store) else {
        return Judgement::Meet(meet);
    };
    let last = met.start;
    if met.has_lost {
        Judgement::Refuse(Verdict::LostEntries)
    } else if last == them.start {
        Judgement::Known
    } else if last.incarnation >= them.start.incarnation {
        Judgement::Refuse(Verdict::RolledBack(last))
    } else if met.mark > them.mark {
        Judgement::Refuse(Verdict::Behind(met.mark))
    } else if is_alone {
        Judgement::Meet(meet)
    } else {
        Judgement::Doubt(last)
    }
}

#[cfg(test)]
mod tests {
    use super::{Judgement, Map, Met, NodeState, judge};
    use corelith_wire::peer::{Charter, Introduction, Settings, Verdict};
    use corelith_wire::{FullClusterId, Mark, NodeId, Start, StoreId};

    const CLUSTER: FullClusterId = FullClusterId(7);

    fn start(incarnation: u64, nonce: u64) -> Start {
        Start { incarnation, nonce }
    }

    fn node(id: u64, store: u128, start: Start) -> Introduction {
        Introduction {
            cluster: CLUSTER,
            node: NodeId(id),
            store: StoreId(store),
            start,
            mark: Mark(start.incarnation),
            port: 7411,
            cores: 1,
            settings: Settings::new(4, 3, 0),
        }
    }

    fn met(store: u128, start: Start) -> Option<Met> {
        Some(Met {
            store: StoreId(store),
            start,
            mark: Mark(start.incarnation),
            has_lost: false,
        })
    }

    /// Node 1 (store 11) judges: node 2 is store 22, node 3 unclaimed, node 4 of any store.
    #[test]
    fn judgements() {
        use Judgement::{Doubt, Known, Meet, Refuse};
        let stores = [(1, 11), (2, 22), (3, 0), (4, u128::MAX)];
        let charter = Charter {
            cluster: CLUSTER,
            stores: stores.map(|(n, s)| (NodeId(n), StoreId(s))).into(),
        };
        let s5 = start(5, 55);
        let first = |store| Meet(met(store, s5).unwrap());
        let other = |store| Refuse(Verdict::OtherStore(StoreId(store)));
        let rolled = |start| Refuse(Verdict::RolledBack(start));
        let table = [
            ("never met", node(2, 22, s5), None, first(22)),
            ("met", node(2, 22, s5), met(22, s5), Known),
            ("wiped", node(2, 23, s5), met(22, s5), other(22)),
            ("wiped, never met", node(2, 23, s5), None, other(22)),
            (
                "met with what it is not",
                node(2, 22, s5),
                met(23, start(9, 9)),
                first(22),
            ),
            ("comes late", node(3, 33, s5), None, first(33)),
            ("came late", node(3, 33, s5), met(33, s5), Known),
            (
                "came late, wiped since",
                node(3, 34, s5),
                met(33, s5),
                other(33),
            ),
            ("of an older version", node(4, 44, s5), None, first(44)),
            (
                "of an older version, wiped",
                node(4, 45, s5),
                met(44, s5),
                other(44),
            ),
            (
                "rolled back",
                node(2, 22, start(4, 9)),
                met(22, s5),
                rolled(s5),
            ),
            (
                "a copy, started as often",
                node(2, 22, start(5, 9)),
                met(22, s5),
                rolled(s5),
            ),
            (
                "started again",
                node(2, 22, start(6, 9)),
                met(22, s5),
                Doubt(s5),
            ),
            (
                "no such node",
                node(9, 22, s5),
                None,
                Refuse(Verdict::NoSuchNode),
            ),
            (
                "this node",
                node(1, 11, s5),
                None,
                Refuse(Verdict::NoSuchNode),
            ),
        ];
        let me = node(1, 11, start(1, 1));
        for (what, them, met, expected) in table {
            let found = judge(&me, (&charter, None), met, false, &them);
            assert_eq!(found, expected, "{what}");
        }
        let mut again = node(2, 22, start(6, 9));
        let found = judge(&me, (&charter, None), met(22, s5), true, &again);
        let meet = met(22, again.start).unwrap();
        assert_eq!(found, Meet(meet), "started again, alone");
        let mut far = met(22, s5).unwrap();
        far.mark = Mark(7);
        let behind = Refuse(Verdict::Behind(Mark(7)));
        let found = judge(&me, (&charter, None), Some(far), true, &again);
        assert_eq!(found, behind, "an image of when it ran");
        let found = judge(&me, (&charter, None), Some(far), true, &node(2, 22, s5));
        assert_eq!(found, Known, "the start goes on that has raised its mark");
        again.mark = Mark(7);
        let found = judge(&me, (&charter, None), Some(far), false, &again);
        assert_eq!(found, Doubt(s5), "started again with the mark that was met");
        far.has_lost = true;
        let lost = Refuse(Verdict::LostEntries);
        for them in [again, node(2, 22, s5)] {
            assert_eq!(judge(&me, (&charter, None), Some(far), true, &them), lost);
        }
        let mut other = node(2, 22, s5);
        other.settings.reads = 1;
        let found = judge(&me, (&charter, None), None, false, &other);
        assert_eq!(found, Refuse(Verdict::OtherSettings));
        for cluster in [0, 8] {
            other.cluster = FullClusterId(cluster);
            let found = judge(&me, (&charter, None), None, false, &other);
            assert_eq!(found, Refuse(Verdict::OtherCluster));
        }
    }

    /// The map's word goes before the charter's.
    #[test]
    fn the_map_says_which_store_is_a_nodes() {
        let text = "node = { id = 1, data_dir = \"/d\" }\n\
             cluster = { name = \"c\", shards = 4, replicas = 2, nodes = [\
             {id=1,host=\"h\",port=1},{id=2,host=\"i\",port=1},{id=3,host=\"j\",port=1}] }";
        let config = crate::node::config::NodeConfig::parse("t", text).unwrap();
        let stores = [(1, 11), (2, 22), (3, 0)];
        let charter = Charter {
            cluster: CLUSTER,
            stores: stores.map(|(n, s)| (NodeId(n), StoreId(s))).into(),
        };
        let mut map = Map::first(&config.cluster, &charter).unwrap();
        let edited = map.nodes.get_mut(&NodeId(2)).unwrap();
        edited.store = StoreId(23);
        let mut joined = map.nodes[&NodeId(2)].clone();
        joined.store = StoreId(55);
        map.nodes.insert(NodeId(5), joined.clone());
        joined.state = NodeState::Removed;
        map.nodes.insert(NodeId(6), joined);
        let s5 = start(5, 55);
        let me = node(1, 11, s5);
        let table = [
            (
                "the store of the map",
                node(2, 23, s5),
                Judgement::Meet(met(23, s5).unwrap()),
            ),
            (
                "that of the charter",
                node(2, 22, s5),
                Judgement::Refuse(Verdict::OtherStore(StoreId(23))),
            ),
            (
                "claimed by whoever comes",
                node(3, 33, s5),
                Judgement::Meet(met(33, s5).unwrap()),
            ),
            (
                "a node that joined",
                node(5, 55, s5),
                Judgement::Meet(met(55, s5).unwrap()),
            ),
            (
                "one that was removed",
                node(6, 55, s5),
                Judgement::Refuse(Verdict::Removed),
            ),
            (
                "no node",
                node(7, 55, s5),
                Judgement::Refuse(Verdict::NoSuchNode),
            ),
        ];
        for (what, them, expected) in table {
            let found = judge(&me, (&charter, Some(&map)), None, false, &them);
            assert_eq!(found, expected, "{what}");
        }
        // What was met of the store before says nothing of the one that took its place.
        let found = judge(
            &me,
            (&charter, Some(&map)),
            met(22, start(90, 1)),
            false,
            &node(2, 23, s5),
        );
        assert_eq!(found, Judgement::Meet(met(23, s5).unwrap()));
    }
}
