//! The results of operations that nodes refuse.

use super::*;
use crate::error::Field;
use corelith_wire::response::Reason;

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
                Step::Pause { until } | Step::Seek { until, .. } => {
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
                    Step::Pause { until } | Step::Seek { until, .. } => {
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
            if let Step::Pause { until } | Step::Seek { until, .. } = step {
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

/// A shard whose leader, node 1, has damaged data: the deadline of a read, when node 2 takes the lead, and the read's
/// result and the time of it, at least and at most.
#[test]
fn reads_of_damaged_data_are_repeated_for_a_while() {
    let ms = Duration::from_millis;
    let never = ms(u64::MAX);
    let value = || {
        Event::Answer(Answer::Value {
            meta: META,
            version: 7,
            value: Bytes::from_static(b"value"),
        })
    };
    let table = [
        (10_000, ms(0), true, (0, 20)),
        (10_000, ms(1000), true, (1000, 2000)),
        (10_000, ms(4000), true, (4000, 5000)),
        (10_000, never, false, (5000, 5600)),
        (2000, never, false, (2000, 2000)),
    ];
    for (deadline, handover, is_read, (at_least, at_most)) in table {
        let case = format!("{deadline} {handover:?}");
        let mut session = session();
        let key = Bytes::from_static(b"key");
        let mut operation = session.operation(Request::Get { key }, ms(deadline));
        let (mut now, mut attempts) = (START, 0);
        let mut step = session.proceed(&mut operation, now);
        let result = loop {
            step = match step {
                Step::Done(result) => break result,
                Step::Pause { until } | Step::Seek { until, .. } => {
                    now = until;
                    session.proceed(&mut operation, now)
                }
                step => {
                    attempts += 1;
                    let has_handed_over = attempts > 1 && now >= handover;
                    let answer = match (node_of(&step), has_handed_over) {
                        (1, false) => failure(Failure::Corrupt),
                        (2, true) => value(),
                        (_, over) => failure(Failure::NotLeader {
                            leader: 1 + u64::from(over),
                        }),
                    };
                    session.report(&mut operation, answer, now)
                }
            };
        };
        assert!(
            (ms(at_least)..=ms(at_most)).contains(&now),
            "{case}: {now:?}"
        );
        assert!(attempts < 100, "{case}: {attempts} attempts");
        assert_eq!(result.is_ok(), is_read, "{case}: {result:?}");
        if !is_read {
            assert_eq!(result, Err(Error::Corrupt), "{case}");
        }
    }
}

#[test]
fn damaged_data_without_another_replica_is_reported_at_once() {
    let mut alone = map(1, 1);
    alone.shards[0].replicas = vec![2];
    let mut session = Session::new(Arc::new(alone), 4, 77);
    let mut operation = get(&session);
    session.proceed(&mut operation, START);
    let step = session.report(&mut operation, failure(Failure::Corrupt), START);
    assert_eq!(step, Step::Done(Err(Error::Corrupt)));
}

/// A cluster of four nodes whose one shard is on the first three of them.
fn session_of_four() -> Session {
    let mut map = map(1, 1);
    map.nodes.push(MapNode {
        id: 4,
        host: "n4".into(),
        base_port: 7000,
        cores: 2,
    });
    Session::new(Arc::new(map), 4, 77)
}

/// While replicas move, the leader may be one that the client's map does not show there, or at all.
#[test]
fn a_leader_that_the_map_does_not_show_is_found() {
    let mut session = session_of_four();
    let mut operation = get(&session);
    session.proceed(&mut operation, START);
    let named = |leader| failure(Failure::NotLeader { leader });
    let step = session.report(&mut operation, named(4), START);
    assert_eq!(
        node_of(&step),
        4,
        "a node without a replica, as far as is known"
    );
    let step = session.report(&mut operation, failure(Failure::WrongNode), START);
    let Step::Refresh { until } = step else {
        panic!("{step:?}");
    };
    // It has moved on.
    session.proceed(&mut operation, until);
    let step = session.report(&mut operation, named(9), until);
    let Step::Refresh { until } = step else {
        panic!("a node that the map does not have: {step:?}");
    };
    let mut newer = map(2, 1);
    newer.nodes.push(MapNode {
        id: 9,
        host: "n9".into(),
        base_port: 7000,
        cores: 2,
    });
    newer.shards[0].replicas = vec![9, 2, 3];
    assert!(session.adopt(newer));
    assert_eq!(node_of(&session.proceed(&mut operation, until)), 9);
}

/// All nodes that the client knows may be gone: it asks for a newer map, at most once a second.
#[test]
fn a_client_that_finds_no_leader_asks_for_a_newer_map() {
    let mut session = session();
    let mut operation = get(&session);
    let mut step = session.proceed(&mut operation, START);
    let (mut now, mut wishes) = (START, Vec::new());
    while now < Duration::from_secs(6) {
        step = match step {
            Step::Send { .. } => {
                let refused = Cause::Connect(ErrorKind::ConnectionRefused);
                session.report(&mut operation, Event::NotSent(refused), now)
            }
            Step::Pause { until } | Step::Seek { until, .. } => {
                now = until;
                session.proceed(&mut operation, now)
            }
            other => panic!("{other:?}"),
        };
        wishes.extend(session.take_wish_for_map().then_some(now));
    }
    assert!((4..=6).contains(&wishes.len()), "{wishes:?}");
    assert!(wishes[0] >= Duration::from_secs(1));
}
