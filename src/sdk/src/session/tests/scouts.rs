//! Who asks again while a shard has no leader, and when.

use super::*;
use crate::limits::SEEK_PAUSE_MIN;

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn refused() -> Event {
    failure(Failure::NotLeader { leader: 0 })
}

/// When an operation that waits for a leader asks again.
fn asks_at(step: &Step) -> Duration {
    match step {
        Step::Seek { until, .. } => *until,
        other => panic!("{other:?} is not a search"),
    }
}

/// A session with three writes in flight at node 1, of which the first two wait for a leader since `START`; and when
/// the first of them asks again.
fn seeking() -> (Session, [Operation; 3], Duration) {
    let (mut session, first) = writing();
    let mut operations = [first, put(&session), put(&session)];
    for operation in &mut operations[1..] {
        assert_eq!(node_of(&session.proceed(operation, START)), 1);
    }
    let [first, second, _] = &mut operations;
    let soon = asks_at(&session.report(first, refused(), START));
    let late = asks_at(&session.report(second, refused(), START));
    assert!(soon <= 2 * SEEK_PAUSE_MIN, "{soon:?}");
    assert!(late > 10 * soon, "only the first one asks soon");
    (session, operations, soon)
}

#[test]
fn those_who_were_woken_in_vain_ask_again_soon() {
    let (mut session, [mut first, mut second, mut third], _) = seeking();
    // A node that has refused others answers what it took before.
    session.report(&mut third, written(), at(1));
    assert_eq!(session.take_stirred(), Some(ShardId(0)));
    let woken = [&mut second, &mut first].map(|operation| {
        assert_eq!(node_of(&session.sought(operation, at(1))), 1);
        operation
    });
    let again = woken.map(|operation| asks_at(&session.report(operation, refused(), at(2))));
    let soonest = again.into_iter().min().unwrap();
    assert!(soonest <= at(2) + 2 * SEEK_PAUSE_MIN, "{soonest:?}");
}

#[test]
fn another_one_asks_soon_if_the_first_is_given_up() {
    let (mut session, [mut first, mut second, _], soon) = seeking();
    // Nothing has changed.
    assert!(asks_at(&session.sought(&mut second, at(1))) > 10 * soon);
    session.abandon(&mut first);
    assert_eq!(session.take_stirred(), Some(ShardId(0)));
    let again = asks_at(&session.sought(&mut second, at(2)));
    assert!(again <= at(2) + 2 * SEEK_PAUSE_MIN, "{again:?}");
}
