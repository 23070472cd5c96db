//! What the map becomes when a node says where it is, or asks to be taken in: pure.
//!
//! Invariant: a store is one node's. A node that asks again, with the store that it asked with before, is the same.

use super::map::{Map, MapEdit, MapNode, NodePlace, NodeState, Rejoin};
use corelith_wire::peer::Registration;
use corelith_wire::{NodeId, StoreId};

/// The edits that have the map say what a node says of itself; none if it does.
///
/// # Errors
/// One sentence that says why it cannot, and what to do.
pub fn edits(map: &Map, registration: &Registration) -> Result<Vec<MapEdit>, String> {
    let (node, store) = (NodeId(registration.node), StoreId(registration.store));
    let place = NodePlace {
        host: registration.host.clone(),
        port: registration.port,
        cores: registration.cores,
        zone: registration.zone.clone(),
        region: registration.region.clone(),
    };
    let owner = map.live_nodes().find(|(_, known)| known.store == store);
    if let Some((owner, _)) = owner
        && node.0 != 0
        && owner != node
    {
        return Err(format!(
            "the store of node {} is that of node {}: each node has a data directory of its own",
            node.0, owner.0
        ));
    }
    let at_place = map.live_nodes().find(|(id, known)| {
        let is_other = *id != node && owner.is_none_or(|(owner, _)| owner != *id);
        is_other && known.host == place.host && overlaps(known, &place)
    });
    if let Some((other, known)) = at_place {
        return Err(format!(
            "node {0} is at {1}:{2}, in the way of {3}:{4}: if this is that machine with an empty disk, give it \
             `node.id = {0}`; otherwise choose other ports, or drain and remove node {0} first",
            other.0, known.host, known.port, place.host, place.port
        ));
    }
    let (id, known) = match owner {
        Some(found) => found,
        None if node.0 == 0 => return Ok(vec![MapEdit::Join { store, place }]),
        None => match map.nodes.get(&node) {
            Some(known) => (node, known),
            None => return Err(format!("there is no node {}: leave out `node.id`", node.0)),
        },
    };
    if known.state == NodeState::Removed {
        return Err(format!(
            "node {} was removed: leave out `node.id` to have the machine taken in as another node",
            id.0
        ));
    }
    let mut edits = Vec::new();
    let is_claimed = known.store == store || known.store == StoreId::ANY;
    if !is_claimed {
        let is_free = known.store == StoreId::UNCLAIMED;
        if !is_free && map.settings.rejoin == Rejoin::Manual {
            return Err(format!(
                "node {0} comes with another data directory, and by the setting `rejoin` an operator takes it in again: \
                 corelith cluster rejoin {0}",
                id.0
            ));
        }
        // What comes is bound to the store that it was begun with.
        let mut added = map.all_shards().filter_map(|(_, of)| of.change?.add);
        if !is_free && added.any(|add| add.node() == id) {
            return Err(format!(
                "node {} comes with another data directory, and a replica is on its way to its old one: it is taken in \
                 once that is given up",
                id.0
            ));
        }
        edits.push(MapEdit::Store { node: id, store });
    }
    if !is_at(known, &place) {
        edits.push(MapEdit::Place { node: id, place });
    }
    Ok(edits)
}

fn is_at(known: &MapNode, place: &NodePlace) -> bool {
    (&known.host, known.port, known.cores) == (&place.host, place.port, place.cores)
        && (&known.zone, &known.region) == (&place.zone, &place.region)
}

/// Whether their cores would listen on the same ports.
fn overlaps(known: &MapNode, place: &NodePlace) -> bool {
    u32::from(known.port) < u32::from(place.port) + u32::from(place.cores)
        && u32::from(place.port) < u32::from(known.port) + u32::from(known.cores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::cluster::map::Why;
    use crate::node::config::NodeConfig;
    use corelith_wire::peer::Charter;
    use corelith_wire::{FullClusterId, ReplicaId, ShardId};

    fn map(rejoin: Rejoin) -> Map {
        let text = "node = { id = 1, data_dir = \"/d\" }\n\
             cluster = { name = \"c\", shards = 4, replicas = 2, nodes = [\
             {id=1,host=\"h\",port=1,cores=2},{id=2,host=\"i\",port=1},{id=3,host=\"j\",port=1}] }";
        let config = NodeConfig::parse("t", text).unwrap();
        let stores = [(1, 11), (2, 22), (3, 0)];
        let charter = Charter {
            cluster: FullClusterId(9),
            stores: stores.map(|(n, s)| (NodeId(n), StoreId(s))).into(),
        };
        let mut map = Map::first(&config.cluster, &charter).unwrap();
        map.settings.rejoin = rejoin;
        map
    }

    fn at(node: u64, store: u128, host: &str, port: u16, cores: u16) -> Registration {
        Registration {
            node,
            store,
            host: host.to_owned(),
            port,
            cores,
            ..Registration::default()
        }
    }

    #[test]
    fn registrations() {
        let table = [
            // (what, registration, setting, the edits or the refusal)
            ("as it is", at(1, 11, "h", 1, 2), Rejoin::Auto, Ok(vec![])),
            (
                "other cores",
                at(1, 11, "h", 1, 3),
                Rejoin::Auto,
                Ok(vec!["place 1"]),
            ),
            (
                "it moved",
                at(1, 11, "k", 1, 2),
                Rejoin::Auto,
                Ok(vec!["place 1"]),
            ),
            (
                "a late first node",
                at(3, 33, "j", 1, 1),
                Rejoin::Manual,
                Ok(vec!["store 3"]),
            ),
            (
                "wiped",
                at(2, 23, "i", 1, 1),
                Rejoin::Auto,
                Ok(vec!["store 2"]),
            ),
            (
                "wiped",
                at(2, 23, "i", 1, 1),
                Rejoin::Manual,
                Err("corelith cluster rejoin 2"),
            ),
            (
                "a new node",
                at(0, 44, "k", 1, 1),
                Rejoin::Manual,
                Ok(vec!["join"]),
            ),
            (
                "it asks again",
                at(0, 11, "h", 1, 2),
                Rejoin::Auto,
                Ok(vec![]),
            ),
            (
                "another's store",
                at(2, 11, "i", 1, 1),
                Rejoin::Auto,
                Err("that of node 1"),
            ),
            (
                "another's ports",
                at(0, 44, "h", 2, 1),
                Rejoin::Auto,
                Err("node 1 is at h:1, in the way of h:2: if this is"),
            ),
            (
                "behind them",
                at(0, 44, "h", 3, 1),
                Rejoin::Auto,
                Ok(vec!["join"]),
            ),
            (
                "unknown",
                at(9, 99, "k", 1, 1),
                Rejoin::Auto,
                Err("no node 9"),
            ),
        ];
        for (what, registration, rejoin, expected) in table {
            let map = map(rejoin);
            let found = edits(&map, &registration);
            if let Ok(edits) = &found {
                assert!(edits.is_empty() || map.apply_all(edits).is_ok(), "{what}");
            }
            let found = found.map(|edits| {
                let words = edits.iter().map(|edit| match edit {
                    MapEdit::Join { .. } => "join".to_owned(),
                    MapEdit::Place { node, .. } => format!("place {}", node.0),
                    MapEdit::Store { node, .. } => format!("store {}", node.0),
                    other => format!("{other:?}"),
                });
                words.collect::<Vec<_>>()
            });
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{what}"),
                (Err(why), Err(word)) => assert!(why.contains(word), "{what}: {why}"),
                (found, _) => panic!("{what}: {found:?}"),
            }
        }
        let begin = MapEdit::Begin {
            shard: ShardId(0),
            add: Some(NodeId(3)),
            remove: Some(ReplicaId::first(NodeId(1))),
            why: Why::Move,
        };
        let mut moving = map(Rejoin::Auto).apply(&begin).unwrap();
        let wiped = at(3, 34, "j", 1, 1);
        assert!(edits(&moving, &wiped).is_ok(), "it had no store yet");
        moving.nodes.get_mut(&NodeId(3)).unwrap().store = StoreId(33);
        let why = edits(&moving, &wiped).unwrap_err();
        assert!(why.contains("on its way"), "{why}");
        let mut removed = map(Rejoin::Auto);
        removed.nodes.get_mut(&NodeId(3)).unwrap().state = NodeState::Removed;
        let why = edits(&removed, &at(3, 33, "j", 1, 1)).unwrap_err();
        assert!(why.contains("was removed"), "{why}");
    }
}
