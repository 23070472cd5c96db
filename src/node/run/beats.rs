//! The core of a node's beats. It does no I/O but theirs, so that no disk and no client keeps it from saying
//! that the node lives.
//!
//! Invariant: it begins when the other cores may open their shards, and ends after the first of them.

use super::core::BeatsSetup;
use super::entry;
use crate::node::cluster::map_watch::MapWatch;
use crate::node::cluster::placement::Placement;
use corelith_consensus::Beats;
use corelith_wire::NodeId;
use std::rc::Rc;

/// Runs the core until the first core of the node has ended.
pub async fn run(setup: BeatsSetup) {
    let BeatsSetup {
        store,
        maps,
        inbound,
        asks,
    } = setup;
    // An error means that the first core has failed, and tells why.
    let Ok(store) = store.recv().await else {
        return;
    };
    let map = MapWatch::new(store.placement);
    let desk = Rc::new(entry::desk(store.name, &map, asks, store.me));
    let (resolve, admit) = desk.as_consensus_asks();
    let (news, changes) = corelith_io::channel(1);
    let beats = Beats {
        liveness: store.liveness,
        me: store.me,
        epoch: map.now().epoch,
        peers: peers(&map.now()),
        changes,
        resolve,
        admit,
        inbound,
    };
    let following = corelith_io::spawn(async move {
        while let Ok(placement) = maps.recv().await {
            let is_newer = map.take(placement);
            // An error means that the beats have ended.
            if is_newer && news.send(peers(&map.now())).await.is_err() {
                return;
            }
        }
    });
    beats.run().await;
    following.abort();
}

fn peers(placement: &Placement) -> Vec<NodeId> {
    placement.members().iter().map(|member| member.id).collect()
}
