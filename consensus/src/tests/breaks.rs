//! Situations in which the rules of who leads and who may answer do not hold, or no one leads for long.

use super::cluster::{Cluster, PORT, put};
use super::scenarios::applied;
use super::tamper::port;
use crate::{LivenessOptions, NodeStore, Options};
use bytes::BytesMut;
use corelith_io::sim::SimConfig;
use corelith_io::{TcpListener, TcpStream};
use corelith_shards::{NodeId, ReplicaId, ShardId, Term};
use corelith_wire::StoreId;
use corelith_wire::handshake::{HELLO_BYTES, Hello, Role};
use corelith_wire::peer::{Health, PeerVote, Transfer};
use corelith_wire::request::Condition;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

fn lead_changes(
    cluster: &Cluster,
    during: Duration,
    mut each: impl FnMut(usize),
) -> (u32, Duration) {
    let until = cluster.sim.now() + during;
    let (mut last, mut changes, mut without) = (None, 0, Duration::ZERO);
    while cluster.sim.now() < until {
        cluster.sim.run_for(Duration::from_millis(10));
        match cluster.leader() {
            Some(leader) => {
                changes += u32::from(last.replace(leader).is_some_and(|before| before != leader));
                each(leader);
            }
            None => without += Duration::from_millis(10),
        }
    }
    (changes, without)
}

/// A peer asks whether this node leads in a term that it never reached.
#[test]
fn a_question_about_a_term_out_of_reach_takes_no_lead() {
    let cluster = Cluster::started(3);
    let leader = cluster.wait_leader();
    let group = cluster.groups(leader).unwrap().group(ShardId(0)).unwrap();
    let asked = group.clone();
    let vote = PeerVote {
        term: Term(u64::MAX),
        node: ReplicaId(leader as u64 + 1),
        committed: true,
    };
    let leads = cluster.sim.block_on(cluster.nodes[leader], async move {
        let other = leader as u64 % 3 + 1;
        let peer = NodeStore {
            node: NodeId(other),
            store: corelith_wire::StoreId(other.into()),
        };
        asked.take_lead_question(peer, vote).await
    });
    assert!(leads.is_err(), "{leads:?}");
    let (changes, without) = lead_changes(&cluster, Duration::from_secs(60), |_| ());
    let term = group.status().term;
    println!("{changes} changes, {without:?} without a leader, {term}");
    assert!(
        changes == 0 && without.is_zero(),
        "{changes} changes, {without:?} without a leader, {term}"
    );
}

/// A leader whose node stops finds no successor, and says to whoever asks that it does not lead.
#[test]
fn a_leader_that_closes_answers_nothing_old() {
    for seed in 1..10 {
        let cluster = Cluster::started(seed);
        let old = cluster.wait_leader();
        let session = cluster.open_session(old);
        let write = |at: usize, number, value: &str| {
            let command = put(session, number, Condition::Any, "k", value);
            applied(cluster.write(at, command).unwrap().outcome)
        };
        write(old, 1, "old");
        cluster.check_replicas_equal();
        let (voter, rival) = ((old + 1) % 3, (old + 2) % 3);
        let group = |at: usize| cluster.groups(at)?.group(ShardId(0));
        let full = Health {
            is_disk_full: true,
            ..Health::default()
        };
        cluster
            .sim
            .net()
            .cut(cluster.nodes[old], cluster.nodes[rival]);
        cluster.crash(rival);
        cluster.start(rival);
        cluster.wait("it is back", || group(rival).is_some());
        for at in [voter, rival] {
            group(at).unwrap().pretend(Some(full));
        }
        cluster.sim.run_for(Duration::from_secs(2));
        assert_eq!(cluster.leader(), Some(old));
        let groups = cluster.groups(old).unwrap();
        let closing = group(old).unwrap();
        // Flushing takes a while.
        cluster
            .sim
            .disk(cluster.nodes[old])
            .stall(Duration::from_secs(3));
        cluster.sim.enter(cluster.nodes[old], || {
            drop(corelith_io::spawn(async move { groups.shutdown().await }));
        });
        let next = || {
            [voter, rival].into_iter().find(|at| {
                group(*at).is_some_and(|group| {
                    let node = cluster.nodes[*at];
                    cluster.sim.enter(node, || group.try_read_point().is_some())
                })
            })
        };
        if !cluster
            .sim
            .run_until(|| next().is_some(), Duration::from_secs(2))
        {
            println!("seed {seed}: nobody leads");
            continue;
        }
        let version = write(next().unwrap(), 2, "new");
        let reader = closing.clone();
        let read = cluster
            .sim
            .enter(cluster.nodes[old], || reader.try_read_point());
        assert!(read.is_none(), "seed {seed}: {read:?} after {version:?}");
    }
}

/// The preferred leader's disk is slow, though it keeps up.
#[test]
fn a_lead_does_not_go_back_to_a_slow_disk() {
    let cluster = Cluster::started(5);
    assert_eq!(cluster.wait_leader(), 0);
    let session = cluster.open_session(0);
    let (mut number, mut due) = (0, Duration::ZERO);
    let slowness = std::env::var("SLOWNESS").map_or(200, |text| text.parse().unwrap());
    cluster.sim.disk(cluster.nodes[0]).set_slowness(slowness);
    let at = |node: usize| cluster.groups(node).unwrap().group(ShardId(0)).unwrap();
    let (changes, without) = lead_changes(&cluster, Duration::from_secs(60), |leader| {
        if cluster.sim.now() < due {
            return;
        }
        due = cluster.sim.now() + Duration::from_millis(100);
        number += 1;
        let command = put(session, number, Condition::Any, "k", "v");
        let group = at(leader);
        cluster.sim.enter(cluster.nodes[leader], || {
            drop(corelith_io::spawn(async move {
                drop(group.write(command).await)
            }));
        });
    });
    println!("{changes} changes, {without:?} without a leader");
    assert!(
        changes <= 2,
        "{changes} changes, {without:?} without a leader"
    );
}

/// Carries connections between all nodes, other than those for which `blocks` says so: these go on, and carry
/// nothing.
fn stand_between(cluster: &Cluster, blocks: &Rc<dyn Fn(usize, usize, Role) -> bool>) {
    for (from, to) in (0..9).map(|pair| (pair / 3, pair % 3)) {
        let here = cluster.outside.address(port(from, to));
        let there = cluster.nodes[to].address(PORT);
        let blocks = Rc::clone(blocks);
        cluster.sim.start(cluster.outside, 0, move || async move {
            let listener = TcpListener::bind(here).unwrap();
            while let Ok(asking) = listener.accept().await {
                let blocks = Rc::clone(&blocks);
                drop(corelith_io::spawn(async move {
                    let Ok(asked) = TcpStream::connect(there).await else {
                        return;
                    };
                    let (mut from_asking, mut to_asking) = asking.into_split();
                    let (mut from_asked, mut to_asked) = asked.into_split();
                    let role = Cell::new(Role::Peer);
                    let is_blocked = || blocks(from, to, role.get());
                    let wait = async || {
                        while is_blocked() {
                            corelith_io::sleep(Duration::from_millis(10)).await;
                        }
                    };
                    let forth = async {
                        let mut buffer = BytesMut::new();
                        while buffer.len() < HELLO_BYTES {
                            if from_asking.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                                return;
                            }
                        }
                        if let Ok(hello) = Hello::parse(buffer.first_chunk().unwrap()) {
                            role.set(hello.role);
                        }
                        loop {
                            wait().await;
                            if to_asked.write_all(&buffer.split()).await.is_err()
                                || from_asking.read_buf(&mut buffer).await.unwrap_or(0) == 0
                            {
                                return;
                            }
                        }
                    };
                    let back = async {
                        let mut buffer = BytesMut::new();
                        while from_asked.read_buf(&mut buffer).await.unwrap_or(0) > 0 {
                            wait().await;
                            if to_asking.write_all(&buffer.split()).await.is_err() {
                                return;
                            }
                        }
                    };
                    let (forth, back) = (std::pin::pin!(forth), std::pin::pin!(back));
                    futures_util::future::select(forth, back).await;
                }));
            }
        });
    }
}

/// Beats come and go, and nothing else does between the leader and the others.
#[test]
fn a_leader_whose_appends_reach_nobody_is_replaced() {
    let mut cluster = Cluster::new(4, SimConfig::default(), Options::default(), 1);
    cluster.tampered = true;
    let cut = Rc::new(Cell::new(None::<usize>));
    let who = Rc::clone(&cut);
    let blocks: Rc<dyn Fn(usize, usize, Role) -> bool> = Rc::new(move |from, to, role| {
        role != Role::Beats && who.get().is_some_and(|at| at == from || at == to)
    });
    stand_between(&cluster, &blocks);
    cluster.start_all();
    let old = cluster.wait_leader();
    let session = cluster.open_session(old);
    let write = |at: usize, number| {
        let group = cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
        let command = put(session, number, Condition::Any, "k", "v");
        cluster.sim.block_on(cluster.nodes[at], async move {
            corelith_io::timeout(Duration::from_secs(1), group.write(command))
                .await
                .is_ok()
        })
    };
    assert!(write(old, 1));
    cut.set(Some(old));
    let before = cluster.sim.now();
    let answered = (0..30).any(|_| match cluster.leader() {
        Some(at) => write(at, 2),
        None => {
            cluster.sim.run_for(Duration::from_millis(500));
            false
        }
    });
    let took = cluster.sim.now() - before;
    assert!(
        answered,
        "no write is answered for {took:?}; the leader is still {:?}",
        cluster.leader()
    );
    println!("{took:?}");
}

/// Nodes whose beats and promises are as different as settings allow.
#[test]
fn a_node_whose_beats_are_rare_neither_keeps_nor_takes_the_lead_in_vain() {
    let mut cluster = Cluster::new(6, SimConfig::default(), Options::default(), 1);
    let timers = |beat, promise| LivenessOptions {
        beat: Duration::from_millis(beat),
        promise: Duration::from_millis(promise),
        promised_before: Duration::ZERO,
    };
    for (at, (beat, promise)) in [(100, 10_000), (10, 300), (10, 300)]
        .into_iter()
        .enumerate()
    {
        cluster.liveness = timers(beat, promise);
        cluster.start(at);
    }
    cluster.wait_leader();
    cluster.sim.run_for(Duration::from_secs(10));
    let (changes, without) = lead_changes(&cluster, Duration::from_secs(60), |_| ());
    let term = cluster
        .groups(1)
        .unwrap()
        .group(ShardId(0))
        .unwrap()
        .status()
        .term;
    println!("{changes} changes, {without:?} without a leader, {term}");
    assert!(
        changes <= 2 && without < Duration::from_secs(2) && term < Term(20),
        "{changes} changes, {without:?} without a leader, {term}"
    );
}

/// The replica with the longer log is a term behind the other one, which has stood in vain: the third is down.
#[test]
fn two_of_three_elect_a_leader_whoever_is_a_term_ahead() {
    let cluster = Cluster::started(7);
    let old = cluster.wait_leader();
    assert_eq!(old, 0);
    let session = cluster.open_session(old);
    let command = put(session, 1, Condition::Any, "k", "v");
    applied(cluster.write(old, command).unwrap().outcome);
    cluster.check_replicas_equal();
    let (ahead, behind) = (2, 1);
    let net = cluster.sim.net();
    net.cut(cluster.nodes[old], cluster.nodes[ahead]);
    let command = put(session, 2, Condition::Any, "k", "w");
    applied(cluster.write(old, command).unwrap().outcome);
    let group = |at: usize| cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
    let vote = PeerVote {
        term: group(old).status().term,
        node: ReplicaId(old as u64 + 1),
        committed: true,
    };
    cluster.crash(old);
    let transfer = Transfer {
        from: vote,
        to: ReplicaId(ahead as u64 + 1),
        last: None,
    };
    let from = NodeStore {
        node: vote.node.node(),
        store: StoreId(old as u128 + 1),
    };
    let stands = group(ahead);
    let stood = cluster.sim.block_on(cluster.nodes[ahead], async move {
        stands.take_transfer(from, transfer).await
    });
    assert_eq!(stood, Ok(true));
    let limit = Duration::from_secs(60);
    let found = cluster.sim.run_until(|| cluster.leader().is_some(), limit);
    let (ahead, behind) = (group(ahead).status(), group(behind).status());
    assert!(found, "no leader after {limit:?}: {ahead:#?} {behind:#?}");
}
