//! What a cluster does, one thing at a time.

use super::cluster::{Cluster, put};
use crate::planted::{Bug, plant};
use crate::{GroupError, Outcome, Role};
use corelith_shards::{LogIndex, ShardId};
use corelith_wire::request::Condition;
use std::time::Duration;

fn applied(outcome: Outcome) -> LogIndex {
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

/// A leader hears from one follower only, the other from that follower only. The follower restarts
/// and the leader is cut off at the same time. Whether the old leader, still within its lease, then
/// answers a read with an old value after the others have elected a leader and written a new one.
fn reads_stale_after_a_restart(seed: u64, planted: bool) -> bool {
    plant(planted.then_some(Bug::VoteAfterRestart));
    let cluster = Cluster::started(seed);
    let leader = cluster.wait_leader();
    let (voter, rival) = ((leader + 1) % 3, (leader + 2) % 3);
    let session = cluster.open_session(leader);
    let write = |at, number, value| {
        let command = put(session, number, Condition::Any, "k", value);
        applied(cluster.write(at, command).unwrap().outcome)
    };
    write(leader, 1, "old");
    let net = cluster.sim.net();
    net.cut(cluster.nodes[leader], cluster.nodes[rival]);
    // Long enough that the rival wants to be elected, and that its log is as long as the voter's.
    cluster.sim.run_for(Duration::from_secs(3));
    cluster.crash(voter);
    net.isolate(cluster.nodes[leader]);
    net.heal(cluster.nodes[voter], cluster.nodes[rival]);
    cluster.start(voter);
    let limit = Duration::from_millis(900);
    let elected = |at| {
        let group = cluster.groups(at)?.group(ShardId(0))?;
        cluster
            .sim
            .enter(cluster.nodes[at], || group.try_read_point())
    };
    let soon = cluster.sim.run_until(
        || elected(rival).is_some() || elected(voter).is_some(),
        limit,
    );
    if !soon {
        return false;
    }
    let new = if elected(rival).is_some() {
        rival
    } else {
        voter
    };
    write(new, 2, "new");
    elected(leader).is_some()
}

#[test]
fn a_vote_right_after_a_restart_is_found() {
    let found = (0..20).any(|seed| reads_stale_after_a_restart(seed, true));
    assert!(found, "the planted bug was not found");
}

#[test]
fn a_restart_keeps_the_promise_to_the_leader() {
    for seed in 0..20 {
        assert!(!reads_stale_after_a_restart(seed, false), "seed {seed}");
    }
}

/// A leader is stopped (SIGSTOP) with answers unread, the others elect another one and write. Whether the
/// old leader answers a read when it goes on.
fn reads_stale_after_a_stop(seed: u64, planted: bool) -> bool {
    plant(planted.then_some(Bug::CreditLaterSends));
    let cluster = Cluster::started(seed);
    let old = cluster.wait_leader();
    let session = cluster.open_session(old);
    let write = |at, number, value| {
        let command = put(session, number, Condition::Any, "k", value);
        applied(cluster.write(at, command).unwrap().outcome)
    };
    write(old, 1, "old");
    let node = cluster.nodes[old];
    let group = cluster.groups(old).unwrap().group(ShardId(0)).unwrap();
    cluster.sim.enter(node, || {
        for number in 2..6 {
            group.submit(put(session, number, Condition::Any, "other", "x"), |_| ());
        }
    });
    let flying = Duration::from_micros(cluster.sim.random_below(1_500));
    cluster.sim.run_for(flying);
    cluster.sim.pause(node);
    let reads = |at: usize| {
        let group = cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
        cluster
            .sim
            .enter(cluster.nodes[at], || group.try_read_point())
    };
    let others = [(old + 1) % 3, (old + 2) % 3];
    cluster.wait("another leader", || {
        others.iter().any(|at| reads(*at).is_some())
    });
    let new = others.into_iter().find(|at| reads(*at).is_some()).unwrap();
    write(new, 6, "new");
    cluster.sim.resume(node);
    (0..1_000).any(|_| {
        cluster.sim.run_for(Duration::from_micros(2));
        reads(old).is_some()
    })
}

#[test]
fn an_answer_that_counts_from_a_later_request_is_found() {
    let found = (0..100).any(|seed| reads_stale_after_a_stop(seed, true));
    assert!(found, "the planted bug was not found");
}

#[test]
fn a_leader_that_was_stopped_answers_nothing_old() {
    for seed in 0..100 {
        assert!(!reads_stale_after_a_stop(seed, false), "seed {seed}");
    }
}
