//! Stores that groups do not know: wiped, late, two in one place. They get no vote and give none, and no
//! write is lost.

use super::client::Client;
use super::cluster::{Cluster, put};
use super::history::History;
use super::scenarios::applied;
use crate::planted::{Bug, plant};
use crate::{GroupError, Judge, Options};
use corelith_io::sim::SimConfig;
use corelith_shards::{NodeId, ShardId};
use corelith_wire::StoreId;
use corelith_wire::peer::Verdict;
use corelith_wire::request::{Condition, WriteCommand};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

const ANY: u128 = u128::MAX;
/// Longer than any election takes.
const LONG: Duration = Duration::from_secs(10);

/// A cluster that is formed with `founding`, in which the nodes at `at` run.
fn formed_with(seed: u64, founding: [u128; 3], at: &[usize]) -> Cluster {
    let mut cluster = Cluster::new(seed, SimConfig::default(), Options::default(), 1);
    cluster.founding = founding;
    cluster.has_strangers = true;
    for at in at {
        cluster.start(*at);
    }
    cluster
}

fn write(cluster: &Cluster, at: usize, session: u64, number: u64, value: &str) {
    let command = put(session, number, Condition::Any, "k", value);
    applied(cluster.write(at, command).unwrap().outcome);
}

fn value(cluster: &Cluster, at: usize) -> String {
    let found = cluster.get(at, "k").unwrap().1.unwrap().value;
    String::from_utf8(found.to_vec()).unwrap()
}

/// Whether a write at a node is answered in time.
fn is_answered(cluster: &Cluster, at: usize, session: u64, number: u64) -> bool {
    let group = cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
    let command = put(session, number, Condition::Any, "k", "unanswered");
    let answered = Rc::new(Cell::new(None::<Result<(), GroupError>>));
    let answer = Rc::clone(&answered);
    cluster.sim.enter(cluster.nodes[at], || {
        let parsed = WriteCommand::parse(&command).unwrap();
        group.submit(command, &parsed, move |result| {
            answer.set(Some(result.map(drop)))
        });
    });
    let is_ok = || matches!(answered.take(), Some(Ok(())));
    cluster.sim.run_until(is_ok, LONG)
}

fn slots_are(cluster: &Cluster, at: &[usize], expected: [u128; 3]) {
    let name = format!("the slots are {expected:?}");
    cluster.wait(&name, || {
        at.iter().all(|at| cluster.slots(*at) == Some(expected))
    });
}

/// A write is answered by two nodes, of which one is then wiped and the other one down: whether the wiped
/// one and the third, which knows nothing of the write, elect a leader.
fn a_wiped_store_votes(seed: u64) -> bool {
    let cluster = formed_with(seed, [1, 2, 3], &[0, 1, 2]);
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    write(&cluster, leader, session, 1, "old");
    cluster.check_replicas_equal();
    let (wiped, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.sim.net().isolate(cluster.nodes[other]);
    write(&cluster, leader, session, 2, "new");
    cluster.crash(leader);
    cluster.crash(wiped);
    cluster.sim.net().heal_all();
    cluster.start_with(wiped, 99);
    if cluster.sim.run_until(|| cluster.leader().is_some(), LONG) {
        return true;
    }
    // With the one that was down the group goes on as it was.
    cluster.start(leader);
    let leader = cluster.wait_leader();
    assert_eq!(value(&cluster, leader), "new");
    write(&cluster, leader, session, 3, "newer");
    cluster.sim.run_for(LONG);
    let blank = cluster.groups(wiped).unwrap().group(ShardId(0)).unwrap();
    assert_eq!(blank.status().last_log, None, "a stranger gets no entries");
    assert!(blank.waits_for().unwrap().contains("does not count"));
    false
}

/// Whether a leader and a wiped follower answer a write, the third node being down.
fn a_wiped_store_acknowledges(seed: u64) -> bool {
    let cluster = formed_with(seed, [1, 2, 3], &[0, 1, 2]);
    let first = cluster.wait_leader();
    let wiped = (first + 1) % 3;
    cluster.crash(wiped);
    // What a leader has never had acknowledged by the follower is no loss that it could see.
    cluster.crash(first);
    cluster.start(first);
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    cluster.crash(3 - wiped - leader);
    cluster.start_with(wiped, 99);
    cluster.sim.run_for(Duration::from_secs(2));
    let leads = || cluster.leader() == Some(leader);
    cluster.sim.run_until(leads, LONG) && is_answered(&cluster, leader, session, 1)
}

fn is_found(shows: fn(u64) -> bool) -> bool {
    let found = (1..=20).find(|seed| {
        plant(Some(Bug::TrustAnyStore));
        let found = shows(*seed);
        plant(None);
        found
    });
    println!("TrustAnyStore: seed {found:?}");
    found.is_some()
}

#[test]
fn a_wiped_store_gives_no_vote() {
    for seed in 1..=10 {
        assert!(!a_wiped_store_votes(seed), "seed {seed}");
    }
    assert!(is_found(a_wiped_store_votes));
}

#[test]
fn a_wiped_store_acknowledges_nothing() {
    for seed in 1..=10 {
        assert!(!a_wiped_store_acknowledges(seed), "seed {seed}");
    }
    assert!(is_found(a_wiped_store_acknowledges));
}

#[test]
fn a_late_first_node_is_bound_and_then_counts() {
    let cluster = formed_with(1, [1, 2, 0], &[0, 1]);
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    write(&cluster, leader, session, 1, "before");
    assert!(
        !cluster
            .sim
            .run_until(|| cluster.slots(0) != Some([1, 2, 0]), LONG),
        "bound to nobody"
    );
    cluster.start_with(2, 33);
    slots_are(&cluster, &[0, 1, 2], [1, 2, 33]);
    cluster.check_replicas_equal();
    let follower = 1 - leader;
    cluster.crash(follower);
    write(&cluster, leader, session, 2, "after");
    cluster.crash(leader);
    cluster.start(follower);
    // The one that was late has the last write: it alone can lead, and the other one must vote for it.
    assert_eq!(cluster.wait_leader(), 2);
    assert_eq!(value(&cluster, 2), "after");
    cluster.start(leader);
    // What is bound stays so, whatever the directory of another store says.
    cluster.crash(2);
    cluster.start_with(2, 44);
    cluster.wait_leader();
    cluster.sim.run_for(LONG);
    assert_eq!(cluster.slots(0), Some([1, 2, 33]));
    cluster.crash(follower);
    cluster.sim.run_for(Duration::from_secs(2));
    assert!(!cluster.sim.run_until(|| cluster.leader().is_some(), LONG));
    cluster.start(follower);
    cluster.crash(2);
    cluster.start_with(2, 33);
    cluster.check_replicas_equal();
}

#[test]
fn a_group_is_formed_without_its_preferred_node() {
    let cluster = formed_with(2, [0, 2, 3], &[1, 2]);
    let leader = cluster.wait_leader();
    assert!(cluster.sim.now() < Duration::from_secs(5));
    let session = cluster.open_session(leader);
    write(&cluster, leader, session, 1, "v");
    cluster.start_with(0, 77);
    slots_are(&cluster, &[0, 1, 2], [77, 2, 3]);
    cluster.wait("it leads", || cluster.leader() == Some(0));
    cluster.check_replicas_equal();
}

#[test]
fn groups_from_before_there_were_stores_bind_them() {
    let cluster = formed_with(3, [ANY, ANY, ANY], &[0, 1, 2]);
    slots_are(&cluster, &[0, 1, 2], [1, 2, 3]);
    cluster.wait_leader();
    cluster.check_replicas_equal();
}

/// The members that have nothing all form the group at once; one of them is elected, and the others take
/// its first entry for theirs.
#[test]
fn all_replicas_may_form_the_group() {
    for seed in 1..=10 {
        let cluster = formed_with(seed, [1, 2, 3], &[1, 2]);
        for at in [1, 2] {
            cluster.wait("it is open", || cluster.groups(at).is_some());
        }
        cluster.sim.net().cut(cluster.nodes[1], cluster.nodes[2]);
        cluster.sim.run_for(LONG);
        cluster.start(0);
        let isolated = cluster.nodes[0];
        cluster.sim.net().isolate(isolated);
        cluster.sim.run_for(LONG);
        let has_formed = |at: usize| {
            let group = cluster.groups(at)?.group(ShardId(0))?;
            group.status().last_log
        };
        assert!((0..3).all(|at| has_formed(at).is_some()), "seed {seed}");
        cluster.sim.net().heal_all();
        let leader = cluster.wait_leader();
        let session = cluster.open_session(leader);
        write(&cluster, leader, session, 1, "v");
        cluster.check_replicas_equal();
    }
}

/// The binder is lost while its binding is under way.
#[test]
fn the_crash_of_a_binder_leaves_one_binding() {
    for seed in 1..=20 {
        let cluster = formed_with(seed, [1, 2, 0], &[0, 1]);
        let leader = cluster.wait_leader();
        let session = cluster.open_session(leader);
        write(&cluster, leader, session, 1, "v");
        cluster.start_with(2, 33);
        let group = cluster.groups(leader).unwrap().group(ShardId(0)).unwrap();
        cluster.wait("a binding is under way", || {
            group.stores().has_open().then_some(()).is_none() && !group.stores().is_settled()
        });
        drop(group);
        let pause = Duration::from_micros(cluster.sim.random_below(3_000));
        cluster.sim.run_for(pause);
        cluster.crash(leader);
        // Another store of that node comes, and goes when the slot is not its.
        cluster.crash(2);
        cluster.start_with(2, 44);
        cluster.sim.run_for(Duration::from_secs(5));
        cluster.start(leader);
        cluster.wait("the slot is bound", || {
            let known = [cluster.slots(0), cluster.slots(1)];
            known[0] == known[1] && known[0].is_some_and(|slots| slots[2] != 0)
        });
        let bound = cluster.slots(0).unwrap()[2];
        cluster.crash(2);
        cluster.start_with(2, bound);
        let leader = cluster.wait_leader();
        assert_eq!(value(&cluster, leader), "v");
        cluster.check_replicas_equal();
        slots_are(&cluster, &[0, 1, 2], [1, 2, bound]);
    }
}

/// Does something bad to the cluster, or has the third node come with another store.
fn trouble(cluster: &Cluster) {
    let sim = &cluster.sim;
    let at = sim.random_below(2) as usize;
    let store = [33, 44][sim.random_below(2) as usize];
    match sim.random_below(8) {
        0 if cluster.is_up(at) => cluster.crash(at),
        1 => sim.net().isolate(cluster.nodes[at]),
        2 => sim.net().heal_all(),
        3 => {
            let leader = cluster.leader();
            leader.into_iter().for_each(|at| cluster.crash(at));
        }
        _ => {
            if cluster.is_up(2) {
                cluster.crash(2);
            }
            cluster.start_with(2, store);
        }
    }
    let pause = 100 + cluster.sim.random_below(1_500);
    cluster.sim.run_for(Duration::from_millis(pause));
    for at in [0, 1] {
        if !cluster.is_up(at) && cluster.sim.random_below(2) == 0 {
            cluster.start(at);
        }
    }
}

/// Clients work while the third node comes with one store and another, and nodes are lost.
fn is_linearizable(seed: u64) -> Result<(), String> {
    let mut cluster = Cluster::new(seed, SimConfig::rough(), Options::default(), 1);
    cluster.founding = [1, 2, 0];
    cluster.has_strangers = true;
    let history = Rc::new(RefCell::new(History::default()));
    let (stop, working) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(3)));
    for name in 0..3 {
        let (doors, history) = (Rc::clone(&cluster.doors), Rc::clone(&history));
        let client = Client::new(name, doors, history, Rc::clone(&stop), 3);
        let working = Rc::clone(&working);
        cluster.sim.start(cluster.outside, 0, move || async move {
            client.run().await;
            working.set(working.get() - 1);
        });
    }
    cluster.start(0);
    cluster.start(1);
    cluster.wait_leader();
    for _ in 0..14 {
        trouble(&cluster);
    }
    cluster.sim.net().heal_all();
    for at in 0..3 {
        if !cluster.is_up(at) {
            cluster.start(at);
        }
    }
    let is_bound = || {
        let known = [cluster.slots(0), cluster.slots(1)];
        known[0] == known[1] && known[0].is_some_and(|slots| slots[2] != 0)
    };
    if !cluster.sim.run_until(is_bound, 6 * LONG) {
        return Err(format!("{:?}, {:?}", cluster.slots(0), cluster.slots(1)));
    }
    let bound = cluster.slots(0).unwrap()[2];
    if cluster.stores.borrow()[2] != bound {
        cluster.crash(2);
        cluster.start_with(2, bound);
    }
    cluster.wait_leader();
    let before = history.borrow().operations.len();
    cluster.wait("operations succeed again", || {
        history.borrow().operations.len() > before + 10
    });
    stop.set(true);
    cluster.wait("the clients stop", || working.get() == 0);
    cluster.check_replicas_equal();
    history.borrow().check(&format!("stores-{seed}"))
}

#[test]
fn one_of_two_stores_is_bound_and_no_write_is_lost() {
    let number = |variable: &str| Some(std::env::var(variable).ok()?.parse::<u64>().unwrap());
    let one = number("CORELITH_SIM_SEED").map(|seed| seed..seed + 1);
    let seeds = one.unwrap_or(0..number("CORELITH_SIM_SEEDS").unwrap_or(20));
    for seed in seeds {
        println!("seed {seed}");
        assert_eq!(is_linearizable(seed), Ok(()), "seed {seed}");
    }
}

/// A node that the others do not take for what it says is told so, and heard by nobody.
#[test]
fn a_refused_node_is_told_why_and_takes_no_part() {
    let mut cluster = formed_with(4, [1, 2, 3], &[]);
    let verdict = Verdict::OtherStore(StoreId(3));
    cluster.judge = Rc::new(move |judge, theirs| {
        let is_strange = theirs.node == NodeId(3) && theirs.store != StoreId(3);
        match judge != NodeId(3) && is_strange {
            true => verdict,
            false => Verdict::Known,
        }
    });
    cluster.start(0);
    cluster.start(1);
    cluster.start_with(2, 33);
    cluster.wait_leader();
    let told = || {
        let groups = cluster.groups(2)?;
        let mut told = groups.strangers().into_iter();
        told.find(|one| one.judge == Judge::Them)
    };
    cluster.wait("it is told", || told().is_some());
    assert_eq!(told().unwrap().verdict, verdict);
    cluster.wait("the others see it", || {
        let strangers = cluster.groups(0).unwrap().strangers();
        strangers
            .iter()
            .any(|one| one.node == NodeId(3) && one.judge == Judge::Us && one.verdict == verdict)
    });
    let blank = cluster.groups(2).unwrap().group(ShardId(0)).unwrap();
    assert_eq!(blank.status().last_log, None);
    assert_eq!(talks_with(&cluster, 0, NodeId(3)), None);
}

fn talks_with(cluster: &Cluster, at: usize, node: NodeId) -> Option<StoreId> {
    let groups = cluster.groups(at).unwrap();
    let known = cluster
        .sim
        .enter(cluster.nodes[at], || groups.talks_with(node));
    known.map(|(store, _)| store)
}

/// A node whose name leads nowhere is found where it came from.
#[test]
fn a_node_is_found_where_it_came_from() {
    let mut cluster = formed_with(5, [1, 2, 3], &[]);
    cluster.hidden = Some(NodeId(3));
    cluster.start_all();
    cluster.wait_leader();
    cluster.check_replicas_equal();
    assert_eq!(talks_with(&cluster, 0, NodeId(3)), Some(StoreId(3)));
}

/// The third member is bound while the second one is away, and has a write that the second one lacks when
/// the first one is lost. The second one knows nothing of the binding, and must let the third one lead.
#[test]
fn a_replica_follows_whom_it_does_not_know_to_be_bound() {
    for seed in 1..=10 {
        let cluster = formed_with(seed, [1, 2, 0], &[0, 1]);
        let leader = cluster.wait_leader();
        let behind = 1 - leader;
        let session = cluster.open_session(leader);
        write(&cluster, leader, session, 1, "old");
        cluster.sim.net().isolate(cluster.nodes[behind]);
        cluster.start_with(2, 33);
        slots_are(&cluster, &[leader, 2], [1, 2, 33]);
        write(&cluster, leader, session, 2, "new");
        assert_eq!(cluster.slots(behind), Some([1, 2, 0]));
        cluster.crash(leader);
        let (one, other) = (cluster.nodes[behind], cluster.nodes[2]);
        cluster.sim.net().heal(one, other);
        assert_eq!(cluster.wait_leader(), 2);
        assert_eq!(value(&cluster, 2), "new");
        slots_are(&cluster, &[behind], [1, 2, 33]);
        cluster.sim.net().heal_all();
        cluster.start(leader);
        cluster.check_replicas_equal();
    }
}

/// The third member is bound and does not hear of it before the binder is lost. It must vote for the second
/// one, which counts it.
#[test]
fn a_replica_votes_that_does_not_know_that_it_is_bound() {
    for seed in 1..=10 {
        let cluster = formed_with(seed, [1, 2, 0], &[0, 1]);
        let leader = cluster.wait_leader();
        let other = 1 - leader;
        let session = cluster.open_session(leader);
        write(&cluster, leader, session, 1, "v");
        cluster.start_with(2, 33);
        cluster.wait("the leader meets it", || {
            cluster.slots(leader) == Some([1, 2, 0])
                && talks_with(&cluster, leader, NodeId(3)).is_some()
        });
        let (from, to) = (cluster.nodes[leader], cluster.nodes[2]);
        cluster.sim.net().cut_one_way(from, to);
        cluster.wait("it is bound", || cluster.slots(other) == Some([1, 2, 33]));
        cluster.crash(leader);
        let late = cluster.groups(2).unwrap().group(ShardId(0)).unwrap();
        assert_eq!(late.status().last_log, None, "it has not heard of it");
        drop(late);
        cluster.sim.net().heal_all();
        assert_eq!(cluster.wait_leader(), other);
        assert_eq!(value(&cluster, other), "v");
        cluster.start(leader);
        cluster.check_replicas_equal();
    }
}
