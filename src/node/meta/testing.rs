//! A leader of the meta shard for tests: the map is kept in memory, and in what the nodes know of it. Tests edit it.

use crate::node::cluster::map::MapEdit;
use crate::node::cluster::registration::edits;
use crate::node::neighbours::Neighbours;
use corelith_shards::NodeId;
use corelith_wire::peer::{NodeAsk, NodeReply};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

thread_local! {
    /// The nodes that run, in the simulated world of this thread.
    static MET: RefCell<BTreeMap<NodeId, Weak<Neighbours>>> = RefCell::default();
}

pub(crate) fn meet(neighbours: &Rc<Neighbours>) {
    MET.with(|met| {
        let running = Rc::downgrade(neighbours);
        met.borrow_mut().insert(neighbours.me, running);
    });
}

/// The first core of a node that runs.
pub(crate) fn running(node: NodeId) -> Option<Rc<Neighbours>> {
    MET.with(|met| met.borrow().get(&node).and_then(Weak::upgrade))
}

/// The first core of the node that leads the meta shard.
pub(crate) fn leader() -> Option<Rc<Neighbours>> {
    let all: Vec<_> = MET.with(|met| met.borrow().values().filter_map(Weak::upgrade).collect());
    all.into_iter().find(|node| node.leads_meta())
}

/// Edits the map at its leader.
pub(crate) async fn edit(leader: &Neighbours, edits: &[MapEdit]) {
    let now = leader.map.now();
    let map = now.map().unwrap().apply_all(edits).unwrap();
    assert!(leader.news.take(map).await);
}

pub(crate) async fn answer(leader: &Neighbours, ask: NodeAsk) -> NodeReply {
    match ask {
        NodeAsk::Register(registration) => {
            let now = leader.map.now();
            let map = now.map().unwrap();
            match edits(map, &registration) {
                Ok(edits) if edits.is_empty() => {}
                Ok(edits) => edit(leader, &edits).await,
                Err(why) => return NodeReply::failed(why),
            }
            let bytes = leader.map.now().map().unwrap().encode();
            NodeReply::Map { bytes }
        }
        _ => NodeReply::Done { at: 0 },
    }
}
