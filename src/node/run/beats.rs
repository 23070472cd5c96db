//! The core of a node's beats. It does no I/O but theirs, so that no disk and no client keeps it from saying
//! that the node lives.
//!
//! Invariant: it begins when the other cores may open their shards, and ends after the first of them.

use super::core::BeatsSetup;
use super::entry;
use corelith_consensus::Beats;
use std::rc::Rc;
use std::sync::Arc;

/// Runs the core until the first core of the node has ended.
pub async fn run(setup: BeatsSetup) {
    let BeatsSetup {
        config,
        placement,
        store,
        inbound,
        asks,
    } = setup;
    // An error means that the first core has failed, and tells why.
    let Ok(store) = store.recv().await else {
        return;
    };
    let placement = Arc::new(placement.formed(store.me.cluster.short()));
    let desk = Rc::new(entry::desk(&config, &placement, asks, store.me));
    let (resolve, admit) = desk.as_consensus_asks();
    let beats = Beats {
        liveness: store.liveness,
        me: store.me,
        epoch: placement.epoch,
        peers: placement.members().iter().map(|member| member.id).collect(),
        resolve,
        admit,
        inbound,
    };
    beats.run().await;
}
