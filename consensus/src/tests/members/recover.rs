//! Groups of which a majority is gone for good, and that go on with the replicas that are left.

use super::world::{World, place};
use super::{first_three, of, replica};
use crate::Decided;
use crate::recover::{Course, LeftReplica, course};
use crate::tests::cluster::{Ask, put};
use corelith_io::channel;
use corelith_shards::{LogId, NodeId, ReplicaId, ShardId};
use corelith_wire::peer::Verdict;
use corelith_wire::request::Condition;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Asks whoever leads for a write, and does not wait.
fn write_unheard(world: &World, session: u64, number: u64) {
    let Some(leader) = world.cluster.leader() else {
        return;
    };
    let door = world.cluster.doors.borrow()[leader].clone().unwrap();
    let command = put(session, number, Condition::Any, &format!("k{number}"), "v");
    let (reply, _) = channel(1);
    let _ = door.try_send(Ask::Write(ShardId(0), command, reply));
}

/// What the replicas that are left say of themselves while their nodes are down.
fn looked(world: &World, left: &[ReplicaId]) -> Vec<LeftReplica> {
    let look = |replica: &ReplicaId| {
        let replica = *replica;
        world.cluster.offline(place(replica), async move |shard| {
            LeftReplica::look(shard, replica).await.unwrap()
        })
    };
    left.iter().map(look).collect()
}

fn nodes(replicas: &[ReplicaId]) -> BTreeSet<NodeId> {
    replicas.iter().map(|replica| replica.node()).collect()
}

/// Crashes all nodes, and has the group go on with those that are left, as an operator would: the last entry that the
/// longest log had, or `None` if they can elect a leader by themselves.
fn go_on(world: &mut World, left: &[ReplicaId], lost: &[ReplicaId]) -> Option<LogId> {
    for at in 0..world.cluster.nodes.len() {
        if world.cluster.is_up(at) {
            world.cluster.crash(at);
        }
    }
    let (heard, gone) = (nodes(left), nodes(lost));
    let found = looked(world, left);
    let going = match course(&found, &heard, &gone).unwrap() {
        Course::GoOn(going) => going,
        Course::Elects(_) => return None,
        Course::Nobody => panic!("{found:?} have votes"),
    };
    assert!(found.iter().all(|one| one.last <= going.last), "{found:?}");
    let (by, last) = (going.by, going.last);
    let taken = world.cluster.offline(place(by), async move |shard| {
        going.take(shard).await.unwrap()
    });
    assert!(Some(taken) > last);
    let again = looked(world, left);
    assert_eq!(
        course(&again, &heard, &gone),
        Ok(Course::Elects(by)),
        "a second time nothing is done"
    );
    // What their nodes write down of the others.
    let refused = gone.clone();
    world.cluster.has_strangers = true;
    world.cluster.judge = Rc::new(move |judging, theirs| {
        match refused.contains(&theirs.node) && !refused.contains(&judging) {
            true => Verdict::LostEntries,
            false => Verdict::Known,
        }
    });
    for replica in left {
        world.cluster.start(place(*replica));
    }
    last
}

/// The group has those that are left as its voters, has kept all that the longest log had, takes writes, and goes on
/// so when the lost ones come back.
fn check(world: &World, left: &[ReplicaId], lost: &[ReplicaId], last: LogId) {
    let leader = world.cluster.wait_leader();
    let group = world.group(leader);
    assert!(left.contains(&group.replica()), "{}", group.replica());
    assert!(group.status().last_log > Some(last), "{last} is kept");
    let session = world.session();
    world.write(session, 1, "after");
    let members = world.group(leader).members();
    assert_eq!(members.voters, [left.iter().copied().collect()]);
    assert_eq!(members.stores.len(), left.len(), "nobody learns");
    world.check_equal();
    // Each of them alone: what they are told keeps a whole node out, which is the node's business.
    for (number, replica) in (2..).zip(lost) {
        world.cluster.start(place(*replica));
        world.cluster.sim.run_for(Duration::from_secs(3));
        let leader = world.cluster.wait_leader();
        assert!(left.contains(&world.group(leader).replica()));
        world.write(session, number, "later");
        world.check_equal();
        world.cluster.crash(place(*replica));
    }
}

/// The writes that were answered, and are in the log of the one that goes on, can be read.
fn readable(world: &World, written: &[(u64, Decided)], last: LogId) {
    let leader = world.cluster.wait_leader();
    for (number, at) in written {
        if (at.term, at.index) <= (last.term, last.index) {
            let found = world.cluster.get(leader, &format!("k{number}")).unwrap();
            assert!(found.1.is_some(), "k{number} was written as {at:?}");
        }
    }
}

/// One of three is left, wherever it was: the leader with entries that nobody else has, or one that lags behind.
#[test]
fn one_of_three_goes_on() {
    for seed in 0..12 {
        let mut world = of(7_000 + seed, 3);
        let session = world.session();
        let mut written = Vec::new();
        for number in 1..=5 {
            written.push((
                number,
                world.write_at(session, number, &format!("k{number}")),
            ));
        }
        let leader = world.cluster.wait_leader();
        let stays = (leader + seed as usize) % 3;
        if stays != leader && seed % 2 == 0 {
            // It lags: it is down while others write.
            world.cluster.crash(stays);
            written.push((6, world.write_at(session, 6, "k6")));
        } else if stays == leader {
            // It has entries that nobody else has.
            for at in (0..3).filter(|at| *at != leader) {
                world.cluster.crash(at);
            }
            write_unheard(&world, session, 6);
            world.cluster.sim.run_for(Duration::from_millis(20));
        }
        let (left, lost): (Vec<_>, Vec<_>) = first_three()
            .into_iter()
            .partition(|one| place(*one) == stays);
        let last = go_on(&mut world, &left, &lost).unwrap();
        readable(&world, &written, last);
        check(&world, &left, &lost, last);
    }
}

/// Two of five are left, while one of them lags and some entries are on their way.
#[test]
fn two_of_five_go_on_with_the_longest_log() {
    for seed in 0..10 {
        let mut world = of(7_100 + seed, 5);
        let [one, two, three] = first_three();
        let (four, five) = (replica(4, 1), replica(5, 2));
        world.take_in(four);
        world.take_in(five);
        let all = [one, two, three, four, five];
        world.vote(&all);
        let session = world.session();
        let mut written = Vec::new();
        for number in 1..=3 {
            written.push((
                number,
                world.write_at(session, number, &format!("k{number}")),
            ));
        }
        let first = world.cluster.sim.random_below(5) as usize;
        let second = (first + 1 + world.cluster.sim.random_below(4) as usize) % 5;
        world.cluster.crash(first);
        written.push((4, world.write_at(session, 4, "k4")));
        for number in 5..9 {
            write_unheard(&world, session, number);
        }
        let pause = world.cluster.sim.random_below(2_000);
        world.cluster.sim.run_for(Duration::from_micros(pause));
        let (left, lost): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|one| [first, second].contains(&place(*one)));
        let last = go_on(&mut world, &left, &lost).unwrap();
        readable(&world, &written, last);
        check(&world, &left, &lost, last);
    }
}

/// Voters are being changed from the first three to two others and one of them when a majority goes.
#[test]
fn a_group_goes_on_from_the_middle_of_a_change_of_voters() {
    let (mut joint, mut elected) = (0, 0);
    for seed in 0..24 {
        let mut world = of(7_200 + seed, 5);
        let [one, two, three] = first_three();
        let (four, five) = (replica(4, 1), replica(5, 2));
        world.take_in(four);
        world.take_in(five);
        let session = world.session();
        world.write(session, 1, "k1");
        let wanted: BTreeSet<ReplicaId> = [one, four, five].into();
        world.start(move |group| async move { group.set_voters(wanted).await });
        let pause = world.cluster.sim.random_below(3_000);
        world.cluster.sim.run_for(Duration::from_micros(pause));
        let (left, lost) = match seed % 3 {
            0 => (vec![one, four], vec![two, three, five]),
            1 => (vec![two, five], vec![one, three, four]),
            _ => (vec![one], vec![two, three, four, five]),
        };
        for at in 0..5 {
            world.cluster.crash(at);
        }
        let found = looked(&world, &left);
        joint += usize::from(found.iter().any(|one| one.voters.len() > 1));
        let voters: BTreeSet<ReplicaId> = found
            .iter()
            .max_by_key(|one| one.last)
            .map(|one| one.voters.iter().flatten().copied().collect())
            .unwrap();
        let Ok(Course::GoOn(going)) = course(&found, &nodes(&left), &nodes(&lost)) else {
            elected += 1;
            continue;
        };
        assert!(
            going.left.is_subset(&voters) || going.by != left[0],
            "{going:?}"
        );
        let stay: Vec<ReplicaId> = going.left.iter().copied().collect();
        let last = go_on(&mut world, &left, &lost).unwrap();
        check(&world, &stay, &lost, last);
    }
    assert!(joint > 3, "{joint} were joint");
    assert!(elected < 20, "{elected} could elect a leader");
}
