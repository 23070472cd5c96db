//! The results of operations that nodes refuse.

use super::*;
use crate::error::Field;

/// A node that is full or damaged may not be the leader: the nodes that are asked, and the result.
#[test]
fn who_cannot_is_believed_after_the_others_were_asked() {
    let full = || failure(Failure::DiskFull);
    let leads = |leader| move || failure(Failure::NotLeader { leader });
    type Answers<'a> = [&'a dyn Fn() -> Event; 3];
    let table: [(&str, Answers<'_>, &[u64], bool); 5] = [
        // (case, answers of nodes 1 to 3, nodes asked starting at 1, whether it is written)
        (
            "it does not lead",
            [&full, &written, &leads(2)],
            &[1, 2],
            true,
        ),
        ("it leads", [&full, &leads(1), &leads(1)], &[1, 2, 1], false),
        ("all are full", [&full, &full, &full], &[1, 2, 3], false),
        (
            "nobody knows",
            [&full, &leads(0), &written],
            &[1, 2, 3],
            true,
        ),
        ("two are full", [&full, &full, &written], &[1, 2, 3], true),
    ];
    for (case, nodes, expected, is_written) in table {
        let (mut session, mut operation) = writing();
        let (mut asked, mut now) = (vec![1], START);
        let result = loop {
            let node = *asked.last().unwrap() as usize;
            match session.report(&mut operation, nodes[node - 1](), now) {
                Step::Done(result) => break result,
                step @ Step::Send { .. } => asked.push(node_of(&step)),
                Step::Pause { until } => {
                    now = until;
                    asked.push(node_of(&session.proceed(&mut operation, now)));
                }
                other => panic!("{case}: {other:?}"),
            }
        };
        assert_eq!(asked, expected, "{case}");
        assert_eq!(result.is_ok(), is_written, "{case}: {result:?}");
        if !is_written {
            assert_eq!(result, Err(Error::DiskFull), "{case}");
        }
        // The next write goes to a node that has room, if there is one.
        let mut next = put(&session);
        let first = node_of(&session.proceed(&mut next, now));
        assert!(!is_written || first == *asked.last().unwrap(), "{case}");
    }
}

/// The results of a write and a get if every attempt gets this answer.
#[test]
fn at_the_deadline_the_truth_is_told() {
    let lost = Event::Lost(Cause::Timeout);
    let unsure = Failure::Unavailable {
        reason: Reason::LeadershipLost,
        nothing_done: false,
    };
    let sure = Failure::Unavailable {
        reason: Reason::NoQuorum,
        nothing_done: true,
    };
    let unavailable = |cause| Error::Unavailable { cause };
    let indeterminate = |cause| Error::Indeterminate { cause };
    let throttled = Error::Throttled {
        retry_after: Duration::from_millis(70),
    };
    for (event, of_write, of_get) in [
        (
            lost,
            indeterminate(Cause::Timeout),
            unavailable(Cause::Timeout),
        ),
        (
            Event::NotSent(Cause::Closed),
            unavailable(Cause::Closed),
            unavailable(Cause::Closed),
        ),
        (
            failure(unsure),
            indeterminate(Cause::LeadershipLost),
            unavailable(Cause::LeadershipLost),
        ),
        (
            failure(sure),
            unavailable(Cause::NoQuorum),
            unavailable(Cause::NoQuorum),
        ),
        (
            failure(Failure::NotLeader { leader: 0 }),
            unavailable(Cause::NoLeader),
            unavailable(Cause::NoLeader),
        ),
        (
            failure(Failure::Throttled { retry_after_ms: 70 }),
            throttled.clone(),
            throttled,
        ),
        (failure(Failure::DiskFull), Error::DiskFull, Error::DiskFull),
        (
            failure(Failure::ShardFull),
            Error::ShardFull,
            Error::ShardFull,
        ),
        (failure(Failure::Corrupt), Error::Corrupt, Error::Corrupt),
        (
            failure(Failure::TooLarge { limit: 4 }),
            Error::TooLarge {
                what: Field::Value,
                len: 5,
                limit: 4,
            },
            Error::TooLarge {
                what: Field::Key,
                len: 3,
                limit: 4,
            },
        ),
    ] {
        let (mut session, write) = writing();
        let get = get(&session);
        for (mut operation, expected) in [(write, of_write), (get, of_get)] {
            let (mut now, mut steps) = (START, 0);
            session.proceed(&mut operation, now);
            let found = loop {
                match session.report(&mut operation, event.clone(), now) {
                    Step::Done(result) => break result,
                    Step::Send { .. } => {}
                    Step::Pause { until } => {
                        assert!(until <= DEADLINE);
                        now = until;
                        if let Step::Done(result) = session.proceed(&mut operation, now) {
                            break result;
                        }
                    }
                    other => panic!("{other:?}"),
                }
                steps += 1;
                assert!(steps < 1000, "retries are bounded by the deadline");
            };
            assert_eq!(found, Err(expected), "after {event:?}");
        }
    }
}

#[test]
fn what_says_nothing_about_earlier_attempts_does_not_end_a_doubtful_write() {
    for event in [Failure::DiskFull, Failure::ShardFull, Failure::Corrupt] {
        let (mut session, mut operation) = writing();
        let step = session.report(&mut operation, Event::Lost(Cause::Timeout), START);
        after_pause(&mut session, &mut operation, &step);
        // The other two in turn, since the first is silent.
        let (mut now, mut asked) = (START, Vec::new());
        for _ in 0..5 {
            let mut step = session.report(&mut operation, failure(event.clone()), now);
            if let Step::Pause { until } = step {
                now = until;
                step = session.proceed(&mut operation, now);
            }
            asked.push(node_of(&step));
        }
        assert_eq!(asked[..3], [3, 2, 3], "{asked:?}");
        let step = session.report(&mut operation, written(), now);
        assert!(matches!(step, Step::Done(Ok(_))));
    }
}
