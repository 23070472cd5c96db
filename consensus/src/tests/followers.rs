//! Reads at followers.

use super::cluster::{Cluster, GetReply, put};
use super::scenarios::applied;
use super::tamper::{Tampering, stand_between};
use crate::planted::{Bug, plant};
use crate::{Group, GroupError, NodeStore, Options, ReadPoint};
use corelith_io::sim::SimConfig;
use corelith_shards::{LogIndex, NodeId, ShardId};
use corelith_wire::StoreId;
use corelith_wire::request::{Condition, WriteCommand};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

const PROMISE: Duration = Duration::from_millis(900);

/// A leader with its followers, and the one session that writes.
struct Stage {
    cluster: Cluster,
    leader: usize,
    session: u64,
    number: Cell<u64>,
}

impl Stage {
    /// All nodes have applied that the key "k" is "old".
    fn set(seed: u64) -> Self {
        Self::on(Cluster::started(seed))
    }

    fn on(cluster: Cluster) -> Self {
        let leader = cluster.wait_leader();
        cluster.wait("all nodes have their groups", || {
            (0..3).all(|at| cluster.groups(at).is_some())
        });
        let stage = Self {
            session: cluster.open_session(leader),
            cluster,
            leader,
            number: Cell::new(0),
        };
        stage.write("k", "old");
        stage.wait_equal();
        stage.cluster.wait("all replicas answer", || {
            (0..3).all(|at| stage.read(at).is_ok())
        });
        stage
    }

    fn wait_equal(&self) {
        self.cluster.wait("all replicas have applied the same", || {
            let of = |at| self.group(at).status().applied;
            of(0).is_some() && of(0) == of(1) && of(1) == of(2)
        });
    }

    fn group(&self, at: usize) -> Group {
        self.cluster.groups(at).unwrap().group(ShardId(0)).unwrap()
    }

    fn next_number(&self) -> u64 {
        self.number.set(self.number.get() + 1);
        self.number.get()
    }

    fn write(&self, key: &str, value: &str) -> LogIndex {
        self.write_at(self.leader, key, value)
    }

    fn write_at(&self, at: usize, key: &str, value: &str) -> LogIndex {
        let command = put(self.session, self.next_number(), Condition::Any, key, value);
        applied(self.cluster.write(at, command).unwrap().outcome)
    }

    /// Proposes a write at the leader and does not wait.
    fn propose(&self, condition: Condition, key: &str, value: &str) {
        let command = put(self.session, self.next_number(), condition, key, value);
        let group = self.group(self.leader);
        self.cluster.sim.enter(self.cluster.nodes[self.leader], || {
            let parsed = WriteCommand::parse(&command).unwrap();
            group.submit(command, &parsed, |_| ());
        });
    }

    fn followers(&self) -> [usize; 2] {
        [(self.leader + 1) % 3, (self.leader + 2) % 3]
    }

    /// Starts a read at a node; its point comes later.
    fn ask(&self, at: usize) -> Rc<RefCell<Option<Result<ReadPoint, GroupError>>>> {
        let answer = Rc::<RefCell<_>>::default();
        let (group, place) = (self.group(at), Rc::clone(&answer));
        self.cluster.sim.enter(self.cluster.nodes[at], || {
            group.on_replica_read_point(move |point| {
                let before = place.replace(Some(point));
                assert_eq!(before, None, "a read is answered twice");
            });
        });
        answer
    }

    fn read(&self, at: usize) -> Result<String, GroupError> {
        value(self.cluster.get_here(at, "k"))
    }
}

fn value(reply: GetReply) -> Result<String, GroupError> {
    let (point, found) = reply?;
    let found = found.unwrap();
    assert!(point.index >= found.version || point.index.0 > 0);
    Ok(String::from_utf8(found.value.to_vec()).unwrap())
}

fn id(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

#[test]
fn any_replica_answers_what_was_written_before() {
    let stage = Stage::set(1);
    for round in 0..20 {
        let written = format!("v{round}");
        let version = stage.write("k", &written);
        for at in 0..3 {
            let (point, found) = stage.cluster.get_here(at, "k").unwrap();
            assert_eq!(found.unwrap().value, written.as_bytes(), "node {at}");
            assert!(point.index >= version);
        }
    }
}

#[test]
fn a_thousand_reads_that_wait_cost_a_handful_of_questions() {
    let stage = Stage::set(2);
    let [at, _] = stage.followers();
    let before = stage.group(at).questions();
    let reads: Vec<_> = (0..1_000)
        .map(|_| {
            stage.cluster.sim.run_for(Duration::from_micros(1));
            stage.ask(at)
        })
        .collect();
    stage.cluster.wait("all reads are answered", || {
        reads.iter().all(|read| read.borrow().is_some())
    });
    assert!(
        reads
            .iter()
            .all(|read| matches!(*read.borrow(), Some(Ok(_))))
    );
    let questions = stage.group(at).questions() - before;
    println!("1000 reads within a millisecond cost {questions} questions");
    assert!((2..=15).contains(&questions), "{questions} questions");
}

#[test]
fn no_more_reads_wait_than_may() {
    let stage = Stage::set(3);
    let [at, _] = stage.followers();
    stage
        .cluster
        .sim
        .net()
        .isolate(stage.cluster.nodes[stage.leader]);
    let many: Vec<_> = (0..crate::limits::READERS_WAITING_MAX + 5)
        .map(|_| stage.ask(at))
        .collect();
    let throttled = || {
        let is = |read: &&Rc<RefCell<Option<_>>>| {
            *read.borrow() == Some(Err::<ReadPoint, _>(GroupError::Throttled))
        };
        many.iter().filter(is).count()
    };
    assert_eq!(throttled(), 5);
    stage.cluster.wait("all reads end", || {
        many.iter().all(|read| read.borrow().is_some())
    });
    assert_eq!(throttled(), 5);
    stage.cluster.sim.net().heal_all();
    stage
        .cluster
        .wait("there is room again", || stage.read(at).is_ok());
}

#[test]
fn a_follower_that_is_cut_off_refuses_and_names_the_leader_it_knows() {
    let stage = Stage::set(4);
    let [at, other] = stage.followers();
    let sim = &stage.cluster.sim;
    sim.net().isolate(stage.cluster.nodes[at]);
    let began = sim.now();
    let read = stage.read(at);
    let waited = sim.now() - began;
    let leader = Some(id(stage.leader));
    assert_eq!(read, Err(GroupError::NotLeader { leader }));
    assert!(waited < Duration::from_millis(700), "{waited:?}");
    assert_eq!(stage.read(other), Ok("old".to_owned()));
    stage.write("k", "new");
    sim.net().heal_all();
    stage
        .cluster
        .wait("it answers again", || stage.read(at).is_ok());
    assert_eq!(stage.read(at), Ok("new".to_owned()));
}

#[test]
fn a_leader_that_was_deposed_gives_no_point() {
    let stage = Stage::set(5);
    let [follower, _] = stage.followers();
    let Cluster { sim, nodes, .. } = &stage.cluster;
    sim.net().isolate(nodes[stage.leader]);
    stage.cluster.wait("another leader", || {
        stage
            .cluster
            .leader()
            .is_some_and(|leader| leader != stage.leader)
    });
    let next = stage.cluster.leader().unwrap();
    stage.write_at(next, "k", "new");
    let old = stage.group(stage.leader);
    let asking = NodeStore {
        node: id(follower),
        store: StoreId(follower as u128 + 1),
    };
    let given = sim.block_on(nodes[stage.leader], async move {
        old.give_read_point(asking).await
    });
    assert_eq!(given, Ok(None));
    assert!(stage.read(stage.leader).is_err(), "nor reads by itself");
    sim.net().heal_all();
    stage.cluster.wait("it follows and answers", || {
        stage.read(stage.leader) == Ok("new".to_owned())
    });
}

#[test]
fn a_follower_that_restarts_answers_what_was_written_meanwhile() {
    let stage = Stage::set(6);
    let [at, _] = stage.followers();
    stage.cluster.crash(at);
    stage.write("k", "new");
    stage.cluster.start(at);
    stage.cluster.wait("it answers", || {
        stage.cluster.groups(at).is_some() && stage.read(at).is_ok()
    });
    assert_eq!(stage.read(at), Ok("new".to_owned()));
}

#[test]
fn a_replica_that_closes_ends_the_reads_that_wait() {
    let stage = Stage::set(7);
    let [at, _] = stage.followers();
    let Cluster { sim, nodes, .. } = &stage.cluster;
    sim.net().isolate(nodes[at]);
    let read = stage.ask(at);
    sim.run_for(Duration::from_millis(1));
    assert_eq!(*read.borrow(), None);
    let group = stage.group(at);
    sim.block_on(nodes[at], async move { group.close().await });
    assert_eq!(*read.borrow(), Some(Err(GroupError::Shutdown)));
}

#[test]
fn reads_on_their_way_outlive_a_change_of_leaders() {
    for seed in 0..20 {
        let options = Options {
            peer_timeout: Duration::from_secs(20),
            ..Options::default()
        };
        let stage = Stage::on(Cluster::started_with(100 + seed, options));
        let sim = &stage.cluster.sim;
        let [at, _] = stage.followers();
        let mut reads = Vec::new();
        for step in 0..40 {
            if step == 10 {
                stage.cluster.crash(stage.leader);
            }
            reads.push(stage.ask(at));
            sim.run_for(Duration::from_millis(sim.random_below(50)));
        }
        stage.cluster.wait("all reads end", || {
            reads.iter().all(|read| read.borrow().is_some())
        });
        let good = reads
            .iter()
            .filter(|read| matches!(*read.borrow(), Some(Ok(_))));
        let good = good.count();
        assert!(good > 10, "seed {seed}: {good} of 40 are answered");
        stage.cluster.wait("reads are answered again", || {
            stage.read(at) == Ok("old".to_owned())
        });
    }
}

#[test]
fn a_follower_that_lags_waits_until_it_has_caught_up() {
    let stage = Stage::set(8);
    let [at, _] = stage.followers();
    let Cluster { sim, nodes, .. } = &stage.cluster;
    sim.disk(nodes[at]).stall(Duration::from_millis(300));
    for round in 0..50 {
        stage.write("other", &format!("v{round}"));
    }
    let version = stage.write("k", "new");
    let began = sim.now();
    let (point, found) = stage.cluster.get_here(at, "k").unwrap();
    println!("it waited {:?}", sim.now() - began);
    assert_eq!(found.unwrap().value.as_ref(), b"new");
    assert!(point.index >= version);
}

/// A cluster whose nodes reach each other through somebody.
fn tampered(seed: u64, memtable_bytes: usize) -> (Cluster, Rc<Tampering>) {
    let mut cluster = Cluster::new(seed, SimConfig::default(), Options::default(), 1);
    cluster.tampered = true;
    cluster.memtable_bytes = memtable_bytes;
    let tampering = Rc::<Tampering>::default();
    stand_between(&cluster, &tampering);
    cluster.start_all();
    (cluster, tampering)
}

#[test]
fn a_follower_answers_although_the_news_of_a_commit_is_lost() {
    let (cluster, tampering) = tampered(9, 1 << 20);
    let stage = Stage::on(cluster);
    let [at, _] = stage.followers();
    tampering.keeps_from.set(Some(at));
    let version = stage.write("k", "new");
    stage.cluster.sim.run_for(Duration::from_millis(300));
    let behind = stage.group(at).status();
    assert!(behind.applied.unwrap().index < version, "{behind:?}");
    assert!(behind.last_log.unwrap().index >= version, "{behind:?}");
    let began = stage.cluster.sim.now();
    assert_eq!(stage.read(at), Ok("new".to_owned()));
    let waited = stage.cluster.sim.now() - began;
    println!("it waited {waited:?}");
    assert!(waited < Duration::from_millis(100), "{waited:?}");
    // Its log goes on as if nothing had been.
    tampering.keeps_from.set(None);
    stage.write("k", "newer");
    stage.wait_equal();
    assert_eq!(stage.read(at), Ok("newer".to_owned()));
}

/// The leader's disk stalls while it applies a conditional write, which one follower has applied and shown. Returns
/// whether the leader, or the follower that `asks`, then shows an older state.
fn shows_less_than_a_follower(seed: u64, at_leader: bool) -> bool {
    let (cluster, tampering) = tampered(seed, 16 << 10);
    let stage = Stage::on(cluster);
    let [ahead, asked] = stage.followers();
    let Cluster { sim, nodes, .. } = &stage.cluster;
    let version = stage.write("k", "old");
    let filler = "x".repeat(2_000);
    stage.cluster.wait("the key is flushed", || {
        stage.write("other", &filler);
        let checkpointed = stage.group(stage.leader).status().checkpointed;
        checkpointed.is_some_and(|id| id.index >= version)
    });
    stage.wait_equal();
    tampering.keeps_from.set(Some(asked));
    sim.disk(nodes[stage.leader])
        .stall(Duration::from_millis(200));
    stage.propose(Condition::Version(version.0), "k", "new");
    sim.run_for(Duration::from_micros(sim.random_below(2_000)));
    let shown = stage.cluster.get_here(ahead, "k").unwrap().0.index;
    let at = match at_leader {
        true => stage.leader,
        false => asked,
    };
    let point = stage.ask(at);
    stage.cluster.wait("an answer", || point.borrow().is_some());
    let point = point.take().unwrap();
    point.is_ok_and(|point| point.index < shown)
}

fn first_seed(bug: Option<Bug>, shows: impl Fn(u64) -> bool, seeds: u64) -> Option<u64> {
    (1..=seeds).find(|seed| {
        plant(bug);
        let found = shows(*seed);
        plant(None);
        found
    })
}

#[test]
fn nobody_shows_less_than_a_follower_has_shown() {
    for (bug, at_leader) in [
        (Bug::AnswerBehindFollowers, true),
        (Bug::PointBehindFollowers, false),
    ] {
        let shows = |seed| shows_less_than_a_follower(seed, at_leader);
        let found = first_seed(Some(bug), shows, 100);
        println!("{bug:?}: seed {found:?}");
        assert!(found.is_some(), "{bug:?} was not found");
        assert_eq!(first_seed(None, shows, 20), None, "an old read");
    }
}

/// A write is answered while a question of a follower is on its way; a read that comes then must see it.
fn a_read_shares_an_older_question(seed: u64) -> bool {
    let stage = Stage::set(seed);
    let [at, _] = stage.followers();
    let sim = &stage.cluster.sim;
    let (own, leader) = (stage.cluster.nodes[at], stage.cluster.nodes[stage.leader]);
    sim.net().clog(leader, own, PROMISE / 10);
    let first = stage.ask(at);
    sim.run_for(Duration::from_millis(1));
    let version = stage.write("k", "new");
    let second = stage.ask(at);
    stage.cluster.wait("both are answered", || {
        first.borrow().is_some() && second.borrow().is_some()
    });
    let point = second.take().unwrap();
    point.is_ok_and(|point| point.index < version)
}

#[test]
fn a_read_waits_for_a_question_that_left_after_it_came() {
    let bug = Some(Bug::ShareQuestionOnItsWay);
    let found = first_seed(bug, a_read_shares_an_older_question, 100);
    println!("{bug:?}: seed {found:?}");
    assert!(found.is_some(), "it was not found");
    assert_eq!(
        first_seed(None, a_read_shares_an_older_question, 20),
        None,
        "an old read"
    );
}
