//! Situations in which a leader could answer reads with what is old. Each is drawn from a seed and finds
//! the bugs that it is made for; without a bug no seed finds anything.
//!
//! `CORELITH_PLANTED_SEEDS=1000 cargo test -p corelith-consensus leads -- --nocapture` looks for each bug
//! that long and says which seed found it.

use super::cluster::{Cluster, put};
use super::scenarios::applied;
use crate::planted::{Bug, plant};
use crate::{Group, ReadPoint, Role};
use corelith_shards::{LogIndex, NodeId, ShardId};
use corelith_wire::request::{Condition, WriteCommand};
use std::time::Duration;

/// As long as a node promises that its replicas do not vote for others.
const PROMISE: Duration = Duration::from_millis(300);
/// Two clocks, one too fast and one too slow by this, differ by what is allowed for.
const DRIFT_PPM: i32 = 5_000;

/// Three nodes of which one leads, and the one session that writes.
struct Stage {
    cluster: Cluster,
    old: usize,
    session: u64,
}

impl Stage {
    /// All nodes hold that the key is `old`.
    fn set(seed: u64) -> Self {
        let cluster = Cluster::started(seed);
        let old = cluster.wait_leader();
        let session = cluster.open_session(old);
        let stage = Self {
            cluster,
            old,
            session,
        };
        stage.write(old, 1, "old");
        stage.cluster.check_replicas_equal();
        stage
    }

    fn write(&self, at: usize, number: u64, value: &str) -> LogIndex {
        let command = put(self.session, number, Condition::Any, "k", value);
        applied(self.cluster.write(at, command).unwrap().outcome)
    }

    fn group(&self, at: usize) -> Option<Group> {
        self.cluster.groups(at)?.group(ShardId(0))
    }

    fn point(&self, at: usize) -> Option<ReadPoint> {
        let group = self.group(at)?;
        let node = self.cluster.nodes[at];
        self.cluster.sim.enter(node, || group.try_read_point())
    }

    /// The followers, in an order that the seed draws.
    fn followers(&self) -> [usize; 2] {
        let first = 1 + self.random(2) as usize;
        [(self.old + first) % 3, (self.old + 3 - first) % 3]
    }

    fn random(&self, bound: u64) -> u64 {
        self.cluster.sim.random_below(bound)
    }

    /// Up to `longest`, to the microsecond.
    fn moment(&self, longest: Duration) -> Duration {
        Duration::from_micros(self.random(longest.as_micros() as u64))
    }

    /// Which follower leads within `limit`, if one does.
    fn next(&self, limit: Duration) -> Option<usize> {
        let leading = || {
            self.followers_by_number()
                .find(|at| self.point(*at).is_some())
        };
        let sim = &self.cluster.sim;
        sim.run_until(|| leading().is_some(), limit).then(leading)?
    }

    fn followers_by_number(&self) -> impl Iterator<Item = usize> + '_ {
        (0..3).filter(|at| *at != self.old)
    }

    /// Whether the old leader answers with the old value after the next one has answered a write.
    fn answers_old(&self, limit: Duration) -> bool {
        let Some(next) = self.next(limit) else {
            return false;
        };
        self.write(next, 2, "new");
        let read = self.cluster.get(self.old, "k");
        read.is_ok_and(|(_, found)| found.unwrap().value == "old")
    }
}

/// A follower that hears nothing of the leader wants to lead for long; the other one, whose clock is faster
/// than the leader's, then loses the leader too.
fn a_rival_waits_for_the_promise_to_end(seed: u64) -> bool {
    let stage = Stage::set(seed);
    let [voter, rival] = stage.followers();
    let Cluster { sim, nodes, .. } = &stage.cluster;
    sim.set_clock_drift(nodes[stage.old], -DRIFT_PPM);
    sim.set_clock_drift(nodes[voter], DRIFT_PPM);
    sim.net().cut(nodes[stage.old], nodes[rival]);
    sim.run_for(2 * PROMISE + stage.moment(PROMISE));
    sim.net().cut(nodes[stage.old], nodes[voter]);
    stage.answers_old(2 * PROMISE)
}

/// As before, but the other follower loses the leader in a restart.
fn a_rival_waits_for_a_restart(seed: u64) -> bool {
    let stage = Stage::set(seed);
    let [voter, rival] = stage.followers();
    let Cluster { sim, nodes, .. } = &stage.cluster;
    sim.net().cut(nodes[stage.old], nodes[rival]);
    sim.run_for(2 * PROMISE + stage.moment(PROMISE));
    stage.cluster.crash(voter);
    sim.net().isolate(nodes[stage.old]);
    sim.net().heal(nodes[voter], nodes[rival]);
    stage.cluster.start(voter);
    stage.answers_old(PROMISE)
}

/// A leader hands over the lead and hears late of what came of it.
fn the_old_leader_hears_late_of_the_new_one(seed: u64) -> bool {
    let stage = Stage::set(seed);
    let [to, _] = stage.followers();
    let Cluster { sim, nodes, .. } = &stage.cluster;
    let own = nodes[stage.old];
    for at in stage.followers_by_number() {
        let delay = Duration::from_millis(50) + stage.moment(PROMISE);
        sim.net().clog(nodes[at], own, delay);
    }
    let group = stage.group(stage.old).unwrap();
    sim.enter(own, || group.start_hand_over(NodeId(to as u64 + 1)));
    stage.answers_old(PROMISE)
}

/// A leader is stopped (SIGSTOP) with answers unread, the others elect another one and write. The old
/// leader then goes on.
fn a_leader_goes_on_after_a_stop(seed: u64) -> bool {
    let stage = Stage::set(seed);
    let sim = &stage.cluster.sim;
    let node = stage.cluster.nodes[stage.old];
    let group = stage.group(stage.old).unwrap();
    sim.enter(node, || {
        for number in 2..6 {
            let command = put(stage.session, number, Condition::Any, "other", "x");
            let parsed = WriteCommand::parse(&command).unwrap();
            group.submit(command, &parsed, |_| ());
        }
    });
    sim.run_for(stage.moment(Duration::from_micros(1_500)));
    sim.pause(node);
    let next = stage.next(Duration::from_secs(60)).unwrap();
    stage.write(next, 6, "new");
    sim.resume(node);
    (0..1_000).any(|_| {
        sim.run_for(Duration::from_micros(2));
        stage.point(stage.old).is_some()
    })
}

/// A leader is lost as soon as it has answered a write. The next one holds the write's entry, maybe without
/// knowing that it is committed, and all disks stall while its own first entry is on its way.
fn a_new_leader_does_not_know_what_is_committed(seed: u64) -> bool {
    let stage = Stage::set(seed);
    let version = stage.write(stage.old, 2, "new");
    let Cluster { sim, nodes, .. } = &stage.cluster;
    stage.cluster.crash(stage.old);
    let leading = || {
        let is_leader = |group: Group| group.status().role == Role::Leader;
        let mut followers = stage.followers_by_number();
        followers.find(|at| stage.group(*at).is_some_and(is_leader))
    };
    stage.cluster.wait("another leader", || leading().is_some());
    let next = leading().unwrap();
    for at in stage.followers_by_number() {
        sim.disk(nodes[at]).stall(stage.moment(PROMISE));
    }
    sim.run_until(|| stage.point(next).is_some(), 2 * PROMISE)
        && stage.point(next).unwrap().index < version
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The first seed at which the situation shows the bug.
fn first_seed(bug: Option<Bug>, shows: fn(u64) -> bool, seeds: u64) -> Option<u64> {
    (1..=seeds).find(|seed| {
        plant(bug);
        let found = shows(*seed);
        plant(None);
        found
    })
}

/// Looks for each bug, with the number of seeds that it took at the last count, and for none.
fn check(shows: fn(u64) -> bool, bugs: &[(Bug, u64)]) {
    let asked = number("CORELITH_PLANTED_SEEDS");
    for (bug, usual) in bugs {
        let found = first_seed(Some(*bug), shows, asked.unwrap_or(100 + 4 * usual));
        println!("{bug:?}: seed {found:?}");
        assert!(found.is_some(), "{bug:?} was not found");
    }
    let seeds = number("CORELITH_SIM_SEEDS").unwrap_or(50);
    assert_eq!(first_seed(None, shows, seeds), None, "a stale read");
}

#[test]
fn a_lease_ends_before_the_promise_whatever_clocks_do() {
    check(
        a_rival_waits_for_the_promise_to_end,
        &[
            (Bug::IgnoreDrift, 3),
            (Bug::LeaseOfDoubleLength, 1),
            (Bug::ConfirmByOldAnswers, 3),
        ],
    );
}

#[test]
fn a_restart_keeps_the_promise_to_the_leader() {
    check(a_rival_waits_for_a_restart, &[(Bug::VoteAfterRestart, 1)]);
}

#[test]
fn a_leader_that_hands_over_answers_nothing_more() {
    let bugs = [(Bug::KeepLeaseAtHandOver, 1)];
    check(the_old_leader_hears_late_of_the_new_one, &bugs);
}

#[test]
fn a_leader_that_was_stopped_answers_nothing_old() {
    check(a_leader_goes_on_after_a_stop, &[(Bug::CreditLaterSends, 3)]);
}

#[test]
fn a_new_leader_answers_nothing_before_its_first_entry() {
    let bugs = [(Bug::ReadBeforeOwnTerm, 2)];
    check(a_new_leader_does_not_know_what_is_committed, &bugs);
}
