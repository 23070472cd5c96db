//! Commits of one upload by several processes.

use super::client::parts_of;
use super::cluster::{Cluster, UploadAsk, commit_of};
use super::uploads::{LONG, SHARD, ask, begins, takes};
use bytes::Bytes;
use corelith_wire::request::Condition;
use corelith_wire::upload::{UploadRefusal, UploadState};
use std::time::Duration;

/// Two processes commit one upload, each with its parts in another order: the first in the log makes the value, and the
/// other one is told.
fn one_upload_is_one_value(seed: u64) {
    let cluster = Cluster::started(seed);
    let parts = parts_of(LONG);
    begins(&cluster, LONG, "key");
    for (part, bytes) in (0..).zip(&parts) {
        takes(&cluster, LONG, part, bytes);
    }
    let leader = cluster.wait_leader();
    let group = cluster.groups(leader).unwrap().group(SHARD).unwrap();
    let mut order: Vec<(u32, Bytes)> = (0..).zip(parts).collect();
    let mut body = || {
        order.reverse();
        commit_of(LONG, Condition::Any, &order)
    };
    let bodies = [body(), body()];
    for body in bodies.clone() {
        let group = group.clone();
        cluster.sim.enter(cluster.nodes[leader], || {
            drop(corelith_io::spawn(async move {
                drop(group.commit_upload(body).await);
            }));
        });
    }
    cluster.sim.run_for(Duration::from_micros(100 * seed));
    drop(group);
    cluster.crash(leader);
    let states = bodies.map(|body| ask(&cluster, UploadAsk::Commit(body)));
    let lost = states.iter().find_map(|state| match state {
        UploadState::Committed { version } => {
            Some(UploadRefusal::CommittedOtherwise { version: *version })
        }
        _ => None,
    });
    let lost = lost.map(UploadState::Refused);
    let is_told = lost.is_some_and(|lost| states.contains(&lost));
    assert!(is_told, "seed {seed}: {states:?}");
    cluster.start(leader);
    cluster.check_replicas_equal();
}

#[test]
fn of_two_commits_of_an_upload_one_makes_the_value() {
    (0..12).for_each(one_upload_is_one_value);
}
