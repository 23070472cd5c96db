//! Groups whose members change: one thing at a time here, at random and with faults in `chaos`.

mod chaos;
mod recover;
mod world;

use super::cluster::{Cluster, put};
use super::scenarios::applied;
use crate::planted::{Bug, plant, planted};
use crate::{ChangeError, Decided, GroupMember, NodeStore, Options};
use corelith_io::sim::SimConfig;
use corelith_shards::{LogIndex, NodeId, ReplicaId, ShardId, Term};
use corelith_wire::StoreId;
use corelith_wire::peer::{PeerVote, VoteAsk};
use corelith_wire::request::Condition;
use std::collections::BTreeSet;
use std::time::Duration;
use world::World;

fn replica(node: u64, generation: u16) -> ReplicaId {
    ReplicaId::new(NodeId(node), generation)
}

fn voters(of: &[ReplicaId]) -> BTreeSet<ReplicaId> {
    of.iter().copied().collect()
}

/// Of that many nodes, of which the first three have formed the group.
fn of(seed: u64, count: usize) -> World {
    let cluster = Cluster::of(seed, SimConfig::default(), Options::default(), 1, count);
    cluster.start_all();
    cluster.wait_leader();
    World::of(cluster)
}

fn first_three() -> [ReplicaId; 3] {
    [replica(1, 0), replica(2, 0), replica(3, 0)]
}

#[test]
fn a_group_grows_and_shrinks_and_every_first_member_is_replaced() {
    let mut world = of(1, 7);
    let [one, two, three] = first_three();
    let session = world.session();
    let mut numbers = 1..;
    let mut write = |world: &World| {
        let number = numbers.next().unwrap();
        world.write(session, number, &format!("k{number}"));
    };
    write(&world);
    let (four, five) = (replica(4, 1), replica(5, 2));
    world.take_in(four);
    world.take_in(five);
    write(&world);
    world.vote(&[one, two, three, four, five]);
    write(&world);
    // The leader goes with the first ones.
    let (six, seven) = (replica(6, 3), replica(7, 4));
    world.take_in(six);
    world.take_in(seven);
    world.vote(&[four, five, six, seven]);
    write(&world);
    world.vote(&[five, six, seven]);
    for at in 0..4 {
        world.cluster.dismiss(at);
    }
    write(&world);
    world.check_equal();
}

#[test]
fn a_leader_that_is_to_leave_hands_its_lead_over_first() {
    let mut world = of(2, 4);
    let leader = world.cluster.wait_leader();
    let four = replica(4, 1);
    world.take_in(four);
    let mut stay = first_three().to_vec();
    stay.retain(|one| one.node().0 != leader as u64 + 1);
    stay.push(four);
    let group = world.group(leader);
    let wanted = voters(&stay);
    let asked = world
        .cluster
        .sim
        .block_on(world.cluster.nodes[leader], async move {
            group.set_voters(wanted).await
        });
    assert!(
        matches!(asked, Err(ChangeError::NotLeader { leader: Some(_) })),
        "{asked:?}"
    );
    let next = world.cluster.wait_leader();
    assert_ne!(next, leader);
    world.vote(&stay);
    world.check_equal();
}

#[test]
fn who_lags_or_is_nobody_becomes_no_voter() {
    let mut world = of(3, 4);
    let [one, two, three] = first_three();
    let four = replica(4, 1);
    let wanted = voters(&[one, two, three, four]);
    let unknown = world.try_vote(wanted.clone());
    assert!(
        matches!(unknown, Err(ChangeError::Refused(_))),
        "{unknown:?}"
    );
    // It is taken in, and its node has not heard of it.
    world.add_learner(four);
    let empty = world.try_vote(wanted.clone());
    assert!(
        matches!(empty, Err(ChangeError::Lags { .. })),
        "of a short log: {empty:?}"
    );
    let session = world.session();
    for number in 1..400 {
        world.write(session, number, "k");
    }
    let lags = world.try_vote(wanted.clone());
    let is_far = |entries: &u64| *entries > 400;
    assert!(
        matches!(&lags, Err(ChangeError::Lags { replica, entries }) if *replica == four && is_far(entries)),
        "{lags:?}"
    );
    world.cluster.admit(3, four, None);
    world.caught_up(four);
    world.vote(&[one, two, three, four]);
    let other = GroupMember {
        replica: four,
        store: StoreId(99),
    };
    let other = world.change(move |group| async move { group.add_learner(other).await });
    assert!(matches!(other, Err(ChangeError::Refused(_))), "{other:?}");
    world.check_equal();
}

#[test]
fn a_learner_goes_and_comes_back_as_another_replica() {
    let mut world = of(4, 4);
    let (first, second) = (replica(4, 1), replica(4, 2));
    world.take_in(first);
    let removed = world.change(move |group| async move { group.remove_learner(first).await });
    assert!(removed.is_ok(), "{removed:?}");
    world.take_in(second);
    let [one, two, three] = first_three();
    world.vote(&[one, two, three, second]);
    let voter = world.change(move |group| async move { group.remove_learner(second).await });
    assert!(matches!(voter, Err(ChangeError::Refused(_))), "{voter:?}");
    world.check_equal();
}

#[test]
fn a_wiped_node_comes_back_with_a_new_store_as_another_replica() {
    let mut world = of(5, 3);
    let leader = world.cluster.wait_leader();
    let session = world.session();
    world.write(session, 1, "k");
    let at = (leader + 1) % 3;
    let (old, new) = (replica(at as u64 + 1, 0), replica(at as u64 + 1, 1));
    world.cluster.crash(at);
    world.cluster.start_wiped(at, 77);
    world.write(session, 2, "k");
    world.take_in(new);
    let mut wanted = first_three().to_vec();
    wanted.retain(|one| *one != old);
    wanted.push(new);
    world.vote(&wanted);
    world.write(session, 3, "k");
    world.check_equal();
}

/// The old leader is gone after it has proposed the joint membership, or the one after it.
#[test]
fn the_next_leader_finishes_a_change_of_voters_that_was_left_half_done() {
    let mut found_joint = false;
    for seed in 0..30 {
        let mut world = of(100 + seed, 5);
        let [one, two, three] = first_three();
        let (four, five) = (replica(4, 1), replica(5, 2));
        world.take_in(four);
        world.take_in(five);
        let leader = world.cluster.wait_leader();
        let mut stay = vec![one, two, three];
        stay.retain(|one| one.node().0 == leader as u64 + 1);
        let wanted = voters(&[stay[0], four, five]);
        let group = world.group(leader);
        world.cluster.sim.enter(world.cluster.nodes[leader], || {
            drop(corelith_io::spawn(async move {
                drop(group.set_voters(wanted).await)
            }));
        });
        let pause = world.cluster.sim.random_below(3_000);
        world.cluster.sim.run_for(Duration::from_micros(pause));
        world.cluster.crash(leader);
        let members = |world: &World| world.cluster.leader().map(|at| world.group(at).members());
        found_joint |= (0..5).filter(|at| world.cluster.is_up(*at)).any(|at| {
            let group = world
                .cluster
                .groups(at)
                .and_then(|groups| groups.group(ShardId(0)));
            group.is_some_and(|group| group.members().voters.len() > 1)
        });
        world.cluster.wait("the voters are settled", || {
            members(&world).is_some_and(|members| members.is_committed && members.voters.len() == 1)
        });
        world.cluster.start(leader);
        world.check_equal();
    }
    assert!(found_joint, "no leader was lost in between");
}

/// Nothing tells it that it was removed.
#[test]
fn a_replica_that_was_removed_does_no_harm() {
    for seed in 200..210 {
        let mut world = of(seed, 4);
        let leader = world.cluster.wait_leader();
        let out = (leader + 1) % 3;
        let four = replica(4, 1);
        world.take_in(four);
        let mut stay = first_three().to_vec();
        stay.retain(|one| one.node().0 != out as u64 + 1);
        stay.push(four);
        world.vote(&stay);
        let term = world.group(leader).status().term;
        if seed % 2 == 0 {
            // It starts anew, and follows nobody.
            world.cluster.crash(out);
            world.cluster.start(out);
        }
        world.cluster.sim.run_for(Duration::from_secs(30));
        assert_eq!(world.cluster.wait_leader(), leader, "it goes on to lead");
        assert_eq!(world.group(leader).status().term, term);
        // When the leader is gone another one of those that stay leads.
        world.cluster.crash(leader);
        let next = world.cluster.wait_leader();
        assert!(next != out && next != leader);
        world.cluster.start(leader);
        world.check_equal();
    }
}

/// Whether anybody is answered in the name of the first replica of a node that has another one. A leader that is new sends
/// that one all that there is.
fn is_answered_for_an_earlier_replica(seed: u64) -> bool {
    let mut world = of(seed, 3);
    // With the bug answers come that fit nothing.
    world.cluster.has_strangers = planted().is_some();
    let leader = world.cluster.wait_leader();
    let at = (leader + 1) % 3;
    let (old, new) = (replica(at as u64 + 1, 0), replica(at as u64 + 1, 1));
    let session = world.session();
    world.write(session, 1, "k");
    world.cluster.admit(at, new, None);
    world.cluster.wait("the other replica is open", || {
        let group = world
            .cluster
            .groups(at)
            .and_then(|groups| groups.group(ShardId(0)));
        group.is_some_and(|group| group.replica() == new)
    });
    world.cluster.crash(leader);
    world.cluster.start(leader);
    let leader = world.cluster.wait_leader();
    let before = world.group(leader).status().last_log.unwrap().index;
    world.write(session, 2, "k");
    world.cluster.sim.run_for(Duration::from_secs(3));
    let leader = world.cluster.wait_leader();
    let progress = world.progress(leader).unwrap();
    let of_old = progress.others.iter().find(|one| one.replica == old);
    let is_matched = of_old.is_some_and(|one| one.matching > Some(before));
    let has_anything = world.group(at).status().last_log.is_some();
    is_matched || has_anything
}

#[test]
fn nobody_answers_for_an_earlier_replica() {
    for seed in 300..303 {
        assert!(!is_answered_for_an_earlier_replica(seed), "seed {seed}");
    }
    plant(Some(Bug::AnswerForEarlierReplicas));
    let found = is_answered_for_an_earlier_replica(300);
    plant(None);
    assert!(found);
}

/// Whether a replica grants a vote that was taken in, and whose log does not say so yet.
fn does_vote_too_early() -> bool {
    let world = of(6, 4);
    let leader = world.cluster.wait_leader();
    let four = replica(4, 1);
    world.cluster.admit(3, four, None);
    world.cluster.wait("it is open", || {
        world
            .cluster
            .groups(3)
            .is_some_and(|groups| groups.group(ShardId(0)).is_some())
    });
    let (group, status) = (world.group(3), world.group(leader).status());
    let candidate = (leader + 1) % 3;
    let node = NodeId(candidate as u64 + 1);
    let ask = VoteAsk {
        vote: PeerVote {
            term: Term(status.term.0 + 1),
            node: ReplicaId::first(node),
            committed: false,
        },
        last: status.last_log,
        handed_over_by: None,
    };
    let store = StoreId(candidate as u128 + 1);
    let peer = NodeStore { node, store };
    let asked = async move { group.take_vote(peer, false, ask).await };
    let answer = world.cluster.sim.block_on(world.cluster.nodes[3], asked);
    answer.unwrap().is_some_and(|answer| answer.granted)
}

#[test]
fn a_replica_that_is_taken_in_votes_for_nobody_before_its_log_says_that_it_is() {
    assert!(!does_vote_too_early());
    plant(Some(Bug::VoteBeforeMembership));
    let found = does_vote_too_early();
    plant(None);
    assert!(found);
}

#[test]
fn a_lead_goes_to_the_node_that_is_asked_for_and_stays_with_the_one_that_is_preferred() {
    let world = of(7, 3);
    let leader = world.cluster.wait_leader();
    let to = (leader + 2) % 3;
    let node = NodeId(to as u64 + 1);
    for at in 0..3 {
        world.group(at).prefer(node);
    }
    let session = world.session();
    world.write(session, 1, "k");
    let group = world.group(leader);
    let handed = world
        .cluster
        .sim
        .block_on(world.cluster.nodes[leader], async move {
            group.hand_lead_to(node).await
        });
    assert_eq!(handed, Ok(()));
    assert_eq!(world.cluster.wait_leader(), to);
    world.cluster.sim.run_for(Duration::from_secs(20));
    assert_eq!(world.cluster.wait_leader(), to);
    let unknown = world.group(to);
    let handed = world
        .cluster
        .sim
        .block_on(world.cluster.nodes[to], async move {
            unknown.hand_lead_to(NodeId(9)).await
        });
    assert!(matches!(handed, Err(ChangeError::Refused(_))), "{handed:?}");
}

#[test]
fn a_group_of_one_grows_to_three_and_back() {
    let mut world = of(8, 3);
    let session = world.session();
    world.write(session, 1, "k");
    let [one, two, three] = first_three();
    world.vote(&[two]);
    assert_eq!(world.cluster.wait_leader(), 1);
    world.write(session, 2, "k");
    // They are told nothing, and are not let in again under their numbers.
    let back = [replica(1, 1), replica(3, 2)];
    for new in back {
        world.take_in(new);
    }
    world.vote(&[back[0], two, back[1]]);
    world.write(session, 3, "k");
    assert!(![one, three].contains(&world.group(0).replica()));
    world.check_equal();
    // Nobody of those that stay votes before.
    world.vote(&[two]);
    let last = replica(1, 3);
    world.take_in(last);
    world.vote(&[last]);
    world.cluster.wait("the one that stays leads", || {
        world.cluster.leader() == Some(0)
    });
    world.write(session, 4, "k");
    world.check_equal();
}

/// A write of a session.
impl World {
    fn session(&self) -> u64 {
        let leader = self.cluster.wait_leader();
        self.cluster.open_session(leader)
    }

    fn write(&self, session: u64, number: u64, key: &str) -> LogIndex {
        self.write_at(session, number, key).index
    }

    /// The entry of a write.
    fn write_at(&self, session: u64, number: u64, key: &str) -> Decided {
        loop {
            let leader = self.cluster.wait_leader();
            let command = put(session, number, Condition::Any, key, "v");
            if let Ok(reply) = self.cluster.write(leader, command) {
                let version = applied(reply.outcome);
                assert_eq!(version, reply.at.index);
                return reply.at;
            }
            self.cluster.sim.run_for(Duration::from_millis(20));
        }
    }
}

/// Whether a script has two replicas hold the lease at once.
fn are_two_leases_held(world: &World, for_time: Duration) -> bool {
    let cluster = &world.cluster;
    let is_holding = |at: &usize| {
        let group = world.try_group(*at);
        group.is_some_and(|group| {
            let seen = || group.lease_seen().0;
            cluster.sim.enter(cluster.nodes[*at], seen)
        })
    };
    let holders = || (0..cluster.nodes.len()).filter(is_holding).count();
    cluster.sim.run_until(|| holders() > 1, for_time)
}

/// The leader of five nodes, of which two are learners, is cut off from all other voters, and with `change` is asked to
/// make the learners voters in their place.
fn a_leader_is_left_with_learners(seed: u64, change: bool) -> bool {
    let mut world = of(seed, 5);
    let (four, five) = (replica(4, 1), replica(5, 2));
    world.take_in(four);
    world.take_in(five);
    let leader = world.cluster.wait_leader();
    for at in (0..3).filter(|at| *at != leader) {
        for other in [leader, 3, 4] {
            world
                .cluster
                .sim
                .net()
                .cut(world.cluster.nodes[at], world.cluster.nodes[other]);
        }
    }
    if change {
        let wanted = voters(&[replica(leader as u64 + 1, 0), four, five]);
        world.start(move |group| async move { group.set_voters(wanted).await });
    }
    are_two_leases_held(&world, Duration::from_secs(3))
}

fn is_found(bug: Bug, mut script: impl FnMut(u64) -> bool) -> bool {
    let found = (0..100).find(|seed| {
        plant(Some(bug));
        let found = script(*seed);
        plant(None);
        found
    });
    println!("{bug:?}: {found:?}");
    found.is_some()
}

#[test]
fn learners_that_count_are_found() {
    for seed in 0..5 {
        assert!(!a_leader_is_left_with_learners(seed, false), "seed {seed}");
    }
    let script = |seed| a_leader_is_left_with_learners(seed, false);
    assert!(is_found(Bug::LearnersCount, script));
}

#[test]
fn a_configuration_that_counts_alone_is_found() {
    for seed in 0..5 {
        assert!(!a_leader_is_left_with_learners(seed, true), "seed {seed}");
    }
    let script = |seed| a_leader_is_left_with_learners(seed, true);
    assert!(is_found(Bug::OneConfigurationCounts, script));
}
