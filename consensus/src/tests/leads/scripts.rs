//! The situations. Each brings a group near to what one part of a rule prevents, with chance around it, and
//! returns what went wrong.

use super::stage::{DRIFT_PPM, PROMISE, Stage, millis};
use crate::{Options, Reads};
use corelith_io::sim::IoKind;
use std::time::Duration;

/// A rival loses the leader, who keeps the other follower.
pub(super) fn a_rival_loses_the_leader(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    let [kept, rival] = stage.followers();
    let net = stage.sim().net();
    net.cut(stage.node(stage.old), stage.node(rival));
    net.clog(stage.node(kept), stage.node(stage.old), stage.moment(0, 20));
    stage.contest(2 * PROMISE + stage.moment(0, 300));
    stage.end()
}

/// A rival loses the leader; the follower that the leader keeps has a clock that is too fast, and loses it a
/// little later. Promises are ten times as long, so that what clocks may differ by is long beside an election.
pub(super) fn a_rival_waits_for_a_fast_clock(seed: u64) -> Option<String> {
    let options = Options {
        candidate_step: millis(5),
        ..Options::default()
    };
    let promise = 10 * PROMISE;
    let stage = Stage::with(seed, options, promise);
    let [kept, rival] = stage.followers();
    stage
        .sim()
        .set_clock_drift(stage.node(stage.old), -DRIFT_PPM);
    stage.sim().set_clock_drift(stage.node(kept), DRIFT_PPM);
    let net = stage.sim().net();
    net.cut(stage.node(stage.old), stage.node(rival));
    stage.run(stage.moment(50, 300));
    net.cut(stage.node(stage.old), stage.node(kept));
    stage.run(promise - millis(100));
    stage.contest(PROMISE);
    stage.end()
}

/// Replies to the leader's beats are late when it loses both followers.
pub(super) fn promises_come_late(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    let [kept, rival] = stage.followers();
    let net = stage.sim().net();
    let own = stage.node(stage.old);
    net.cut(own, stage.node(rival));
    net.clog(stage.node(kept), own, stage.moment(50, 250));
    stage.run(stage.moment(150, 500));
    net.cut_one_way(own, stage.node(kept));
    stage.contest(PROMISE * 2);
    stage.end()
}

/// The connections of the leader to its last follower break.
pub(super) fn connections_break(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    let [kept, rival] = stage.followers();
    let net = stage.sim().net();
    let own = stage.node(stage.old);
    net.cut(own, stage.node(rival));
    stage.run(PROMISE + stage.moment(0, 300));
    net.reset(own, stage.node(kept));
    stage.run(stage.moment(0, 2));
    net.cut(own, stage.node(kept));
    stage.contest(PROMISE);
    stage.end()
}

/// The one follower that the leader has left restarts, and the leader is lost.
pub(super) fn a_rival_waits_for_a_restart(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    let [voter, rival] = stage.followers();
    let net = stage.sim().net();
    let own = stage.node(stage.old);
    net.cut(own, stage.node(rival));
    stage.run(PROMISE + stage.moment(0, 300));
    stage.cluster.crash(voter);
    net.cut(own, stage.node(voter));
    stage.run(stage.moment(0, 20));
    stage.cluster.start(voter);
    stage.contest(PROMISE);
    stage.end()
}

/// A leader is elected whose appends one node does not get, while it gets the beats; the leader then loses the
/// other one.
pub(super) fn a_node_hears_beats_but_no_leader(seed: u64) -> Option<String> {
    let mut stage = Stage::set(seed);
    let [next, deaf] = stage.followers();
    let before = stage.old;
    stage.shut_groups(next, deaf);
    stage.run(stage.moment(100, 300));
    let group = stage.group(before)?;
    let to = stage.id(next);
    stage
        .sim()
        .enter(stage.node(before), || group.start_hand_over(to));
    stage.next(PROMISE);
    if !stage.is_leader(next) {
        return stage.end();
    }
    stage.old = next;
    stage.run(stage.moment(20, 100));
    stage.write(next);
    stage.run(stage.moment(20, 100));
    let net = stage.sim().net();
    net.cut(stage.node(next), stage.node(before));
    stage.contest(2 * PROMISE + stage.moment(0, 300));
    stage.end()
}

/// A follower turns from the leader when no beat reaches it, and then gets its beats again, but nothing of its
/// group.
pub(super) fn a_voter_is_promising_again(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    let [voter, rival] = stage.followers();
    let net = stage.sim().net();
    let own = stage.node(stage.old);
    stage.shut_groups(stage.old, voter);
    stage.shut_groups(voter, stage.old);
    net.cut(own, stage.node(rival));
    stage.run(stage.moment(150, 300));
    net.cut_one_way(own, stage.node(voter));
    if stage.next(3 * PROMISE).is_none() {
        return stage.end();
    }
    stage.run(stage.moment(0, 20));
    net.heal(own, stage.node(voter));
    stage.contest(PROMISE);
    stage.end()
}

/// A leader hands over the lead, and hears late of what came of it.
pub(super) fn the_old_leader_hears_late_of_the_new_one(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    let [to, other] = stage.followers();
    let own = stage.node(stage.old);
    for at in [to, other] {
        let delay = stage.moment(50, 350);
        stage.sim().net().clog(stage.node(at), own, delay);
    }
    hand_over(&stage, to);
    stage.contest(PROMISE);
    stage.end()
}

fn hand_over(stage: &Stage, to: usize) {
    let Some(group) = stage.group(stage.old) else {
        return;
    };
    let to = stage.id(to);
    stage
        .sim()
        .enter(stage.node(stage.old), || group.start_hand_over(to));
}

/// A hand-over reaches its successor when the leader has given up waiting for it, and the other follower never.
pub(super) fn a_hand_over_comes_late(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    let [to, other] = stage.followers();
    let net = stage.sim().net();
    let own = stage.node(stage.old);
    stage.shut_groups(stage.old, other);
    stage.run(stage.moment(100, 200));
    net.clog(own, stage.node(to), stage.moment(250, 700));
    net.clog(stage.node(to), own, stage.moment(100, 400));
    hand_over(&stage, to);
    stage.contest(millis(900));
    stage.end()
}

/// A hand-over reaches its successor when another node leads already.
pub(super) fn a_hand_over_comes_when_another_one_leads(seed: u64) -> Option<String> {
    let mut stage = Stage::set(seed);
    let [to, other] = stage.followers();
    let (before, net) = (stage.old, stage.sim().net());
    net.clog(stage.node(before), stage.node(to), stage.moment(500, 900));
    hand_over(&stage, to);
    stage.until(millis(400), || stage.is_leader(other));
    if !stage.is_leader(other) {
        return stage.end();
    }
    stage.old = other;
    // What is sent from now on is not late.
    net.clog(stage.node(before), stage.node(to), Duration::ZERO);
    net.clog(stage.node(to), stage.node(other), stage.moment(0, 150));
    stage.contest(millis(800));
    stage.end()
}

/// A leader restarts while the vote for its successor is on its way.
pub(super) fn a_leader_restarts_during_a_hand_over(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    let [to, voter] = stage.followers();
    let net = stage.sim().net();
    let own = stage.node(stage.old);
    stage.shut_groups(stage.old, voter);
    stage.run(stage.moment(100, 200));
    net.clog(stage.node(to), stage.node(voter), stage.moment(300, 700));
    let term = stage.term(stage.old);
    hand_over(&stage, to);
    stage.until(millis(50), || stage.term(to) > term);
    net.cut(own, stage.node(to));
    stage.cluster.crash(stage.old);
    stage.cluster.shut.borrow_mut().clear();
    stage.run(stage.moment(0, 20));
    stage.cluster.start(stage.old);
    stage.until(millis(700), || stage.term(voter) > term);
    net.clog(stage.node(to), stage.node(voter), Duration::ZERO);
    stage.contest(PROMISE);
    stage.end()
}

/// A leader sends an entry to one follower, and loses it in a restart. Then it may write another one.
pub(super) fn a_leader_loses_what_it_has_sent(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    let [has_it, other] = stage.followers();
    lose_the_last_entry(&stage, &[has_it], &[other]);
    stage.contest(millis(5));
    for _ in 0..20 {
        if stage.is_leader(stage.old) {
            stage.write(stage.old);
        }
        stage.contest(stage.moment(2, 40));
    }
    stage.end()
}

/// A leader loses its last entry in a restart, which its followers have.
pub(super) fn a_leader_restarts_with_less_than_its_followers(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    let followers = stage.followers();
    lose_the_last_entry(&stage, &followers, &[]);
    stage.contest(2 * PROMISE);
    stage.end()
}

/// The leader's last entry becomes durable at some, and not at itself; then it restarts.
fn lose_the_last_entry(stage: &Stage, at: &[usize], not_at: &[usize]) {
    let own = stage.node(stage.old);
    let net = stage.sim().net();
    not_at.iter().for_each(|at| net.cut(own, stage.node(*at)));
    stage.run(stage.moment(0, 100));
    stage.sim().disk(own).hold(&IoKind::WRITES_AND_SYNCS);
    let last = |at: usize| stage.group(at).and_then(|group| group.status().last_log);
    let before = at.first().and_then(|at| last(*at));
    stage.write(stage.old);
    let has_it = |at: &usize| last(*at) > before;
    stage.until(millis(100), || at.iter().all(has_it));
    stage.run(stage.moment(1, 20));
    stage.cluster.crash(stage.old);
    stage.sim().disk(own).heal();
    stage.run(stage.moment(0, 20));
    stage.cluster.start(stage.old);
}

/// A leader is stopped (SIGSTOP), or its machine sleeps, while another one is elected.
pub(super) fn a_leader_goes_on_after_a_stop(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    let own = stage.node(stage.old);
    stage.run(stage.moment(0, 60));
    match stage.random(2) {
        0 => stage.sim().pause(own),
        _ => stage.sim().suspend(own),
    }
    goes_on(stage)
}

/// The same, with clocks that stand still while machines sleep.
pub(super) fn a_clock_stands_still(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    stage.is_sound.set(false);
    stage.sim().set_clocks_stop_in_suspension(true);
    stage.run(stage.moment(0, 60));
    stage.sim().suspend(stage.node(stage.old));
    goes_on(stage)
}

fn goes_on(stage: Stage) -> Option<String> {
    if stage.next(5 * PROMISE).is_some() {
        let own = stage.node(stage.old);
        let net = stage.sim().net();
        stage.contest(stage.moment(5, 100));
        // The news of what has happened meanwhile may be late.
        for at in (0..3).filter(|at| *at != stage.old) {
            net.clog(stage.node(at), own, stage.moment(0, 50));
        }
        stage.sim().resume(own);
        stage.contest(PROMISE);
    }
    stage.end()
}

/// A leader is lost as soon as it has answered a write. The next one holds the write's entry, maybe without
/// knowing that it is committed, and all disks stall while its own first entry is on its way.
pub(super) fn a_new_leader_does_not_know_what_is_committed(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    let before = stage.last_answered();
    stage.write(stage.old);
    stage.until(millis(100), || stage.last_answered() > before);
    stage.cluster.crash(stage.old);
    if stage.next(4 * PROMISE).is_some() {
        for at in (0..3).filter(|at| *at != stage.old) {
            stage.sim().disk(stage.node(at)).stall(stage.moment(0, 300));
        }
        stage.run(2 * PROMISE);
    }
    stage.end()
}

/// A leader that nobody hears any more, while it hears the others, and another one is elected.
pub(super) fn nobody_hears_the_leader(seed: u64) -> Option<String> {
    nobody_hears(Stage::set(seed))
}

/// The same, where reads rely on no clock.
pub(super) fn nobody_hears_the_leader_of_quorums(seed: u64) -> Option<String> {
    nobody_hears(Stage::with(seed, quorums(), PROMISE))
}

fn quorums() -> Options {
    Options {
        reads: Reads::Quorum,
        ..Options::default()
    }
}

fn nobody_hears(stage: Stage) -> Option<String> {
    let followers = stage.followers();
    let own = stage.node(stage.old);
    for at in followers {
        stage.shut_groups(at, stage.old);
    }
    stage.run(stage.moment(150, 300));
    stage.write(stage.old);
    stage.run(stage.moment(2, 50));
    for at in followers {
        stage.sim().net().cut_one_way(own, stage.node(at));
    }
    if stage.next(4 * PROMISE).is_some() {
        stage.contest(PROMISE);
    }
    stage.end()
}

/// What followers answer to the leader comes later and later, until they lose the leader. Reads rely on no
/// clock.
pub(super) fn answers_come_later_and_later(seed: u64) -> Option<String> {
    let stage = Stage::with(seed, quorums(), PROMISE);
    let own = stage.node(stage.old);
    for step in 1..9 {
        for at in (0..3).filter(|at| *at != stage.old) {
            let delay = 90 * step + stage.random(20);
            stage.sim().net().clog(stage.node(at), own, millis(delay));
        }
        for _ in 0..5 {
            stage.write(stage.old);
            stage.contest(stage.moment(15, 25));
        }
    }
    stage.contest(4 * PROMISE);
    stage.end()
}

/// Everything at once, by chance.
pub(super) fn a_storm(seed: u64) -> Option<String> {
    let stage = Stage::set(seed);
    for _ in 0..8 + stage.random(24) {
        strike(&stage);
        let until = stage.sim().now() + stage.moment(5, 250);
        while stage.sim().now() < until && !stage.is_wrong() {
            for at in 0..3 {
                if stage.is_leader(at) {
                    stage.write(at);
                    stage.read(at);
                }
            }
            stage.run(stage.moment(2, 30));
        }
        if stage.is_wrong() {
            break;
        }
    }
    stage.end()
}

fn strike(stage: &Stage) {
    let sim = stage.sim();
    let net = sim.net();
    let at = stage.random(3) as usize;
    let other = (at + 1 + stage.random(2) as usize) % 3;
    let (one, two) = (stage.node(at), stage.node(other));
    match stage.random(18) {
        0 | 1 => net.cut(one, two),
        2 => net.cut_one_way(one, two),
        3 => net.heal(one, two),
        4 => net.heal_all(),
        5 => net.clog(one, two, stage.moment(0, 400)),
        6 => stage.shut_groups(at, other),
        7 => stage.cluster.shut.borrow_mut().clear(),
        8 if stage.cluster.is_up(at) => sim.pause(one),
        9 if stage.cluster.is_up(at) => sim.suspend(one),
        10 | 11 => (0..3).for_each(|at| sim.resume(stage.node(at))),
        12 if stage.cluster.is_up(at) => stage.cluster.crash(at),
        13 => {
            for at in (0..3).filter(|at| !stage.cluster.is_up(*at)) {
                stage.cluster.start(at);
            }
        }
        14 => sim.disk(one).stall(stage.moment(1, 400)),
        15 => sim.set_clock_drift(one, stage.random(2 * DRIFT_PPM as u64) as i32 - DRIFT_PPM),
        _ => {
            let leader = (0..3).find(|at| stage.is_leader(*at) && stage.cluster.is_up(*at));
            if let Some(leader) = leader
                && let Some(group) = stage.group(leader)
            {
                let to = stage.id((leader + 1 + stage.random(2) as usize) % 3);
                sim.enter(stage.node(leader), || group.start_hand_over(to));
            }
        }
    }
}
