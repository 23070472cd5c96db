//! What a cluster does, one thing at a time.

use super::cluster::{Cluster, delete, put};
use crate::{GroupError, Outcome, Role};
use corelith_shards::{LogId, LogIndex, ShardId};
use corelith_wire::peer::Health;
use corelith_wire::request::{Condition, WriteCommand};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

pub(super) fn applied(outcome: Outcome) -> LogIndex {
    match outcome {
        Outcome::Applied { version } => version,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_cluster_elects_its_preferred_leader_and_keeps_what_is_written() {
    let cluster = Cluster::started(1);
    assert_eq!(cluster.wait_leader(), 0, "the preferred leader");
    assert!(
        cluster.sim.now() < Duration::from_secs(2),
        "{:?}",
        cluster.sim.now()
    );
    let session = cluster.open_session(0);
    let reply = cluster
        .write(0, put(session, 1, Condition::Any, "k", "v"))
        .unwrap();
    let version = applied(reply.outcome);
    assert_eq!(reply.at.index, version);
    let (point, found) = cluster.get(0, "k").unwrap();
    let found = found.unwrap();
    assert_eq!((found.value.as_ref(), found.version), (&b"v"[..], version));
    assert!(point.index >= version);
    assert_eq!(cluster.get(0, "other").unwrap().1, None);
    cluster.check_replicas_equal();
}

#[test]
fn a_long_value_of_the_empty_key_is_kept() {
    let cluster = Cluster::started(17);
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    let value = "v".repeat(5000);
    let command = put(session, 1, Condition::Any, "", &value);
    applied(cluster.write(leader, command).unwrap().outcome);
    let found = cluster.get(leader, "").unwrap().1.unwrap();
    assert_eq!(found.value, value.as_bytes());
    cluster.check_replicas_equal();
}

#[test]
fn followers_refuse_and_name_the_leader() {
    let cluster = Cluster::started(2);
    let leader = cluster.wait_leader();
    let follower = (leader + 1) % 3;
    cluster.wait("the follower knows the leader", || {
        let group = cluster.groups(follower).unwrap().group(ShardId(0));
        group.unwrap().leader().is_some()
    });
    let refused = GroupError::NotLeader {
        leader: Some(corelith_shards::NodeId(leader as u64 + 1)),
    };
    let write = cluster.write(follower, put(1, 1, Condition::Any, "k", "v"));
    assert_eq!(write, Err(refused.clone()));
    assert_eq!(cluster.get(follower, "k"), Err(refused));
}

#[test]
fn conditional_writes_are_decided_where_they_apply() {
    let cluster = Cluster::started(3);
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    let write = |number, condition| {
        let command = put(session, number, condition, "k", "v");
        cluster.write(leader, command).unwrap().outcome
    };
    let conflict = |current| Outcome::Conflict { current };
    assert_eq!(write(1, Condition::Version(7)), conflict(None));
    let first = applied(write(2, Condition::Absent));
    assert_eq!(write(3, Condition::Absent), conflict(Some(first)));
    let second = applied(write(4, Condition::Version(first.0)));
    assert_eq!(
        write(5, Condition::Version(first.0)),
        conflict(Some(second))
    );
}

#[test]
fn a_retry_gets_the_first_answer_over_failover_and_restart() {
    let cluster = Cluster::started(4);
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    let command = put(session, 1, Condition::Absent, "k", "v");
    let first = cluster.write(leader, command.clone()).unwrap();
    cluster.crash(leader);
    let next = cluster.wait_leader();
    assert_ne!(next, leader);
    let again = cluster.write(next, command.clone()).unwrap();
    assert_eq!(
        again, first,
        "the first answer, from the entry that gave it"
    );
    for at in 0..3 {
        cluster.crash(at);
    }
    cluster.start_all();
    let leader = cluster.wait_leader();
    let third = cluster.write(leader, command).unwrap();
    assert_eq!(third.outcome, first.outcome);
    let unknown = put(9999, 1, Condition::Any, "k", "w");
    assert_eq!(
        cluster.write(leader, unknown).unwrap().outcome,
        Outcome::SessionExpired
    );
}

#[test]
fn an_isolated_leader_serves_nothing_and_the_others_go_on() {
    let cluster = Cluster::started(5);
    let old = cluster.wait_leader();
    let session = cluster.open_session(old);
    let first = put(session, 1, Condition::Any, "k", "old");
    applied(cluster.write(old, first).unwrap().outcome);
    cluster.sim.net().isolate(cluster.nodes[old]);
    let others = || (0..3).filter(|at| *at != old);
    cluster.wait("another leader", || {
        cluster.leader().is_some_and(|leader| leader != old)
            && others().any(|at| Some(at) == cluster.leader())
    });
    let new = cluster.leader().unwrap();
    let second = put(session, 2, Condition::Any, "k", "new");
    applied(cluster.write(new, second).unwrap().outcome);
    let read = cluster.get(old, "k");
    assert!(read.is_err(), "the isolated leader answered {read:?}");
    let write = cluster.write(old, put(session, 3, Condition::Any, "k", "lost"));
    assert!(write.is_err(), "the isolated leader answered {write:?}");
    cluster.sim.net().heal_all();
    cluster.check_replicas_equal();
    let leader = cluster.wait_leader();
    let value = cluster.get(leader, "k").unwrap().1.unwrap().value;
    assert_eq!(value.as_ref(), b"new");
}

#[test]
fn the_lead_goes_back_to_the_preferred_node() {
    let cluster = Cluster::started(6);
    assert_eq!(cluster.wait_leader(), 0);
    cluster.crash(0);
    assert_ne!(cluster.wait_leader(), 0);
    cluster.start(0);
    cluster.wait("the preferred node leads again", || {
        cluster.leader() == Some(0)
    });
    // It stays so.
    cluster.sim.run_for(Duration::from_secs(10));
    assert_eq!(cluster.leader(), Some(0));
}

#[test]
fn a_whole_cluster_restarts_within_three_seconds() {
    let cluster = Cluster::started(7);
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    let command = put(session, 1, Condition::Any, "k", "v");
    applied(cluster.write(leader, command).unwrap().outcome);
    for at in 0..3 {
        cluster.crash(at);
    }
    cluster.start_all();
    let before = cluster.sim.now();
    let leader = cluster.wait_leader();
    let took = cluster.sim.now() - before;
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(cluster.get(leader, "k").unwrap().1.is_some());
}

#[test]
fn a_follower_that_lags_too_far_gets_a_snapshot() {
    let cluster = Cluster::new(
        8,
        corelith_io::sim::SimConfig::default(),
        crate::Options {
            catch_up_bytes: 1 << 20,
            catch_up_entries: 1000,
            ..crate::Options::default()
        },
        1,
    );
    cluster.start_all();
    let leader = cluster.wait_leader();
    let behind = (leader + 1) % 3;
    let session = cluster.open_session(leader);
    cluster.crash(behind);
    let value = "v".repeat(4000);
    for number in 1..3000 {
        let key = format!("key-{}", number % 700);
        let command = put(session, number, Condition::Any, &key, &value);
        applied(cluster.write(leader, command).unwrap().outcome);
    }
    let status = |at: usize| {
        let group = cluster.groups(at)?.group(ShardId(0))?;
        Some(group.status())
    };
    cluster.wait("the leader purges its log", || {
        status(leader).is_some_and(|status| status.purged.is_some())
    });
    cluster.start(behind);
    cluster.check_replicas_equal();
    let got_snapshot = status(behind).unwrap().purged;
    assert!(got_snapshot.is_some(), "it got entries, not a snapshot");
}

#[test]
fn a_group_says_whom_it_waits_for() {
    let cluster = Cluster::new(
        16,
        corelith_io::sim::SimConfig::default(),
        crate::Options::default(),
        1,
    );
    let waits_for = |at: usize| {
        let group = cluster.groups(at)?.group(ShardId(0))?;
        cluster.sim.enter(cluster.nodes[at], || group.waits_for())
    };
    cluster.start(0);
    cluster.sim.run_for(Duration::from_secs(3));
    let expected = "shard 0: no leader, node 2 has not been seen, node 3 has not been seen";
    assert_eq!(waits_for(0).as_deref(), Some(expected));
    cluster.start(1);
    let leader = cluster.wait_leader();
    assert_eq!(waits_for(leader), None);
    cluster.crash(leader);
    let other = 1 - leader;
    cluster.wait("it says who is gone", || {
        waits_for(other).is_some_and(|why| {
            why.contains(&format!("node {} was last seen", leader + 1))
                && why.contains("node 3 has not been seen")
        })
    });
}

#[test]
fn a_node_that_restarts_often_purges_its_log() {
    let mut cluster = Cluster::new(
        15,
        corelith_io::sim::SimConfig::default(),
        crate::Options {
            catch_up_bytes: 1 << 20,
            ..crate::Options::default()
        },
        1,
    );
    cluster.memtable_bytes = 64 << 10;
    cluster.start_all();
    let session = cluster.open_session(cluster.wait_leader());
    let value = "v".repeat(4000);
    let mut number = 0;
    // Each life sees less than what is kept, all of them five times as much.
    for _ in 0..10 {
        let leader = cluster.wait_leader();
        for _ in 0..130 {
            number += 1;
            let command = put(
                session,
                number,
                Condition::Any,
                &format!("k{number}"),
                &value,
            );
            applied(cluster.write(leader, command).unwrap().outcome);
        }
        for at in 0..3 {
            cluster.crash(at);
        }
        cluster.start_all();
    }
    cluster.wait_leader();
    cluster.wait("all nodes purge their logs", || {
        (0..3).all(|at| {
            let group = cluster
                .groups(at)
                .and_then(|groups| groups.group(ShardId(0)));
            let status = group.map(|group| group.status());
            status.is_some_and(|status| status.purged.is_some_and(|id| id.index.0 > 700))
        })
    });
}

#[test]
fn writes_one_by_one_wait_for_flushes_too() {
    let mut cluster = Cluster::new(
        9,
        corelith_io::sim::SimConfig::default(),
        crate::Options::default(),
        1,
    );
    cluster.memtable_bytes = 4 << 10;
    cluster.start_all();
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    // A flush is many operations of the disk, one after the other, a write is one.
    for node in &cluster.nodes {
        cluster.sim.disk(*node).set_slowness(5);
    }
    let value = "v".repeat(2000);
    for number in 1..200 {
        let key = format!("key-{number}");
        let command = put(session, number, Condition::Any, &key, &value);
        applied(cluster.write(leader, command).unwrap().outcome);
        for at in 0..3 {
            let group = cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
            let held = group.engine().memtable_bytes();
            assert!(held <= 3 * (4 << 10) + 3 * 2500, "{held} bytes at {at}");
        }
    }
}

/// Asks a leader whose flushes lag for `count` writes, one every 2 ms whatever was answered; calls `look`
/// after each.
fn write_faster_than_is_flushed(cluster: &Cluster, leader: usize, count: u64, look: impl Fn()) {
    let session = cluster.open_session(leader);
    let answered = Rc::new(Cell::new(0));
    let value = "v".repeat(2000);
    for number in 1..=count {
        let command = put(
            session,
            number,
            Condition::Any,
            &format!("key-{number}"),
            &value,
        );
        let group = cluster.groups(leader).unwrap().group(ShardId(0)).unwrap();
        let answered = Rc::clone(&answered);
        cluster.sim.enter(cluster.nodes[leader], || {
            let parsed = WriteCommand::parse(&command).unwrap();
            group.submit(command, &parsed, move |reply| {
                applied(reply.unwrap().outcome);
                answered.set(answered.get() + 1);
            });
        });
        cluster.sim.run_for(Duration::from_millis(2));
        look();
    }
    cluster.wait("all writes are answered", || {
        look();
        answered.get() == count
    });
}

/// Entries that a node has in its log and has not applied.
fn unapplied(cluster: &Cluster, at: usize) -> u64 {
    let group = cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
    let status = group.status();
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index.0);
    index(status.last_log) - index(status.applied)
}

#[test]
fn writes_wait_for_flushes_before_they_are_proposed() {
    let mut cluster = Cluster::new(
        11,
        corelith_io::sim::SimConfig::default(),
        crate::Options::default(),
        1,
    );
    cluster.memtable_bytes = 8 << 10;
    cluster.start_all();
    let leader = cluster.wait_leader();
    cluster.sim.disk(cluster.nodes[leader]).set_slowness(5);
    let most = Cell::new(0);
    write_faster_than_is_flushed(&cluster, leader, 400, || {
        most.set(most.get().max(unapplied(&cluster, leader)));
    });
    let most = most.get();
    assert!(most < 20, "{most} entries in the log waited to be applied");
    cluster.check_replicas_equal();
}

#[test]
fn a_follower_takes_no_more_than_it_applies() {
    let mut cluster = Cluster::new(
        12,
        corelith_io::sim::SimConfig::default(),
        crate::Options {
            applies_waiting: 8,
            ..crate::Options::default()
        },
        1,
    );
    cluster.memtable_bytes = 8 << 10;
    cluster.start_all();
    let leader = cluster.wait_leader();
    let slow = (leader + 1) % 3;
    cluster.sim.disk(cluster.nodes[slow]).set_slowness(20);
    let most = Cell::new(0);
    write_faster_than_is_flushed(&cluster, leader, 400, || {
        let group = cluster.groups(slow).unwrap().group(ShardId(0)).unwrap();
        most.set(most.get().max(group.applies_waiting()));
    });
    let most = most.get();
    assert!(
        (4..=10).contains(&most),
        "{most} batches waited to be applied"
    );
    cluster.check_replicas_equal();
}

#[test]
fn only_a_leader_says_that_its_disk_is_full() {
    let cluster = Cluster::started(13);
    let leader = cluster.wait_leader();
    let follower = (leader + 1) % 3;
    let session = cluster.open_session(leader);
    let mut number = 0;
    fill_disk(&cluster, follower, session, &mut number);
    let another = put(session, number + 1, Condition::Any, "k", "v");
    let refused = cluster.write(follower, another.clone());
    assert!(
        matches!(refused, Err(GroupError::NotLeader { .. })),
        "{refused:?}"
    );
    applied(cluster.write(leader, another).unwrap().outcome);
    number += 1;
    fill_disk(&cluster, leader, session, &mut number);
    let refused = cluster.write(leader, put(session, number + 1, Condition::Any, "k", "v"));
    assert_eq!(refused, Err(GroupError::DiskFull));
    let delete = delete(session, number + 2, "k");
    applied(cluster.write(leader, delete).unwrap().outcome);
}

/// Takes all free space of a node's disk and writes until its shard notices.
fn fill_disk(cluster: &Cluster, at: usize, session: u64, number: &mut u64) {
    let disk = cluster.sim.disk(cluster.nodes[at]);
    disk.set_capacity(disk.files().iter().map(|(_, len)| len).sum());
    let group = cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
    let value = "v".repeat(100_000);
    while !group.is_disk_full() {
        *number += 1;
        let leader = cluster.wait_leader();
        let command = put(session, *number, Condition::Any, "large", &value);
        let _ = cluster.write(leader, command);
        assert!(*number < 1000, "the disk does not get full");
    }
}

#[test]
fn the_lead_does_not_go_back_to_a_node_that_is_not_well() {
    let full = Health {
        is_disk_full: true,
        ..Health::default()
    };
    let damaged = Health {
        is_damaged: true,
        ..Health::default()
    };
    for ill in [full, damaged] {
        let cluster = Cluster::started(14);
        assert_eq!(cluster.wait_leader(), 0);
        cluster.crash(0);
        assert_ne!(cluster.wait_leader(), 0);
        cluster.start(0);
        let group = || {
            cluster
                .groups(0)
                .and_then(|groups| groups.group(ShardId(0)))
        };
        cluster.wait("it is back", || group().is_some());
        group().unwrap().pretend(Some(ill));
        cluster.sim.run_for(Duration::from_secs(20));
        assert_ne!(cluster.leader(), Some(0), "{ill:?}");
        group().unwrap().pretend(None);
        cluster.wait("the preferred node leads again", || {
            cluster.leader() == Some(0)
        });
    }
}

#[test]
fn a_replica_whose_log_fails_fences_itself_and_others_take_over() {
    let cluster = Cluster::started(9);
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    let disk = cluster.sim.disk(cluster.nodes[leader]);
    disk.fail(corelith_io::sim::IoKind::Write, "shard-0", 0);
    let answer = cluster.write(leader, put(session, 1, Condition::Any, "k", "v"));
    cluster.wait("the replica stops", || {
        let group = cluster.groups(leader).unwrap().group(ShardId(0)).unwrap();
        group.status().role == Role::Stopped
    });
    let again = cluster.write(leader, put(session, 1, Condition::Any, "k", "v"));
    assert_eq!(again, Err(GroupError::Storage), "first answer: {answer:?}");
    cluster.wait("another leader", || {
        cluster.leader().is_some_and(|at| at != leader)
    });
    let next = cluster.leader().unwrap();
    let reply = cluster.write(next, put(session, 1, Condition::Any, "k", "v"));
    applied(reply.unwrap().outcome);
    cluster.crash(leader);
    cluster.start(leader);
    cluster.check_replicas_equal();
}

#[test]
fn leaders_of_many_shards_are_spread() {
    let cluster = Cluster::new(
        10,
        corelith_io::sim::SimConfig::default(),
        crate::Options::default(),
        6,
    );
    cluster.start_all();
    cluster.wait("every shard has its preferred leader", || {
        (0..6).all(|shard| cluster.leader_of(ShardId(shard)) == Some(shard as usize % 3))
    });
}

/// Nobody has to wait for the end of the lease of a leader that stops in order.
#[test]
fn a_stop_hands_the_lead_over() {
    for seed in 40..50 {
        let cluster = Cluster::started(seed);
        let leader = cluster.wait_leader();
        let session = cluster.open_session(leader);
        let command = put(session, 1, Condition::Any, "k", "v");
        applied(cluster.write(leader, command).unwrap().outcome);
        let groups = cluster.groups(leader).unwrap();
        cluster.sim.block_on(
            cluster.nodes[leader],
            async move { groups.shutdown().await },
        );
        let is_taken = || cluster.leader().is_some_and(|now| now != leader);
        let soon = Duration::from_millis(50);
        let taken = cluster.sim.run_until(is_taken, soon);
        assert!(taken, "seed {seed}: {:#?}", cluster.stands());
    }
}
