//! Reads that other replicas than the leader may answer.

use super::*;
use crate::limits::REPLICA_ATTEMPT_TIMEOUT;
use corelith_wire::Flags;
use corelith_wire::response::Reason;

fn get_from(session: &Session, from: ReadFrom) -> Operation {
    get(session).read_from(Source::From(from))
}

fn value(index: u64) -> Event {
    Event::Answer(Answer::Value {
        meta: ReplyMeta { term: 1, index },
        version: index.min(5),
        value: Bytes::from_static(b"v"),
    })
}

fn may_follow(operation: &Operation) -> bool {
    let flags = frame(operation).header.flags;
    flags.contains(Flags::FOLLOWER_MAY_ANSWER)
}

/// Nodes that are asked for `count` reads that all are answered.
fn asked(session: &mut Session, from: ReadFrom, count: usize) -> Vec<u64> {
    let read = |_| {
        let mut operation = get_from(session, from);
        let node = node_of(&session.proceed(&mut operation, START));
        assert_eq!(may_follow(&operation), from != ReadFrom::Leader);
        session.report(&mut operation, value(50), START);
        node
    };
    (0..count).map(read).collect()
}

#[test]
fn reads_from_any_replica_go_round_and_say_nothing_of_the_leader() {
    let mut session = session();
    assert_eq!(asked(&mut session, ReadFrom::Leader, 3), [1, 1, 1]);
    let mut nodes = asked(&mut session, ReadFrom::Any, 6);
    nodes.sort_unstable();
    assert_eq!(nodes, [1, 1, 2, 2, 3, 3]);
    assert_eq!(asked(&mut session, ReadFrom::Leader, 1), [1]);
}

#[test]
fn writes_go_to_the_leader_whatever_is_asked_for() {
    let mut session = session();
    let mut operation = put(&session).read_from(Source::From(ReadFrom::Any));
    asked(&mut session, ReadFrom::Leader, 1);
    let mut other = get_from(&session, ReadFrom::Any);
    session.proceed(&mut other, START);
    for _ in 0..3 {
        assert_eq!(node_of(&session.proceed(&mut operation, START)), 1);
        assert!(!may_follow(&operation));
    }
}

#[test]
fn what_a_replica_fails_goes_on_to_the_leader_at_once() {
    let unavailable = |reason| {
        failure(Failure::Unavailable {
            reason,
            nothing_done: true,
        })
    };
    let cases = [
        failure(Failure::NotLeader { leader: 1 }),
        failure(Failure::NotLeader { leader: 0 }),
        failure(Failure::Corrupt),
        failure(Failure::Throttled { retry_after_ms: 9 }),
        unavailable(Reason::StorageFailed),
        unavailable(Reason::Stopping),
        unavailable(Reason::NoQuorum),
        Event::Lost(Cause::Timeout),
        Event::NotSent(Cause::Connect(ErrorKind::ConnectionRefused)),
    ];
    for event in cases {
        let mut session = session();
        asked(&mut session, ReadFrom::Leader, 1);
        let mut operation = get(&session).read_from(Source::At(NodeId(3)));
        let Step::Send { target, until } = session.proceed(&mut operation, START) else {
            panic!("not sent");
        };
        assert_eq!(target.node, NodeId(3));
        assert!(until < START + 2 * REPLICA_ATTEMPT_TIMEOUT);
        let step = session.report(&mut operation, event.clone(), START);
        assert_eq!(node_of(&step), 1, "{event:?}");
        assert!(!may_follow(&operation), "{event:?}");
        let step = session.report(&mut operation, value(50), START);
        assert!(matches!(step, Step::Done(Ok(_))), "{event:?}");
        // The next reads leave it out for a while.
        let nodes = asked(&mut session, ReadFrom::Any, 6);
        assert!(!nodes.contains(&3), "{event:?}: {nodes:?}");
    }
}

#[test]
fn a_replica_that_leads_and_fails_is_treated_as_a_leader() {
    let mut session = session();
    asked(&mut session, ReadFrom::Leader, 1);
    let mut operation = get(&session).read_from(Source::At(NodeId(1)));
    assert_eq!(node_of(&session.proceed(&mut operation, START)), 1);
    let step = session.report(&mut operation, Event::Lost(Cause::Timeout), START);
    let step = after_pause(&mut session, &mut operation, &step);
    assert_ne!(node_of(&step), 1);
    assert!(!may_follow(&operation));
}

#[test]
fn what_is_wrong_with_the_request_itself_is_told() {
    let mut session = session();
    let mut operation = get_from(&session, ReadFrom::Any);
    session.proceed(&mut operation, START);
    let step = session.report(&mut operation, failure(Failure::Malformed), START);
    assert!(matches!(step, Step::Done(Err(Error::Protocol { .. }))));
    let request = Request::Scan {
        shard: ShardId(0),
        start: Bytes::new(),
        end: Bytes::new(),
        limit_items: 1,
        max_bytes: 1,
        at_version: 4,
        keys_only: false,
    };
    let mut operation = session.operation(request, DEADLINE);
    operation = operation.read_from(Source::At(NodeId(2)));
    assert_eq!(node_of(&session.proceed(&mut operation, START)), 2);
    let step = session.report(&mut operation, failure(Failure::VersionGone), START);
    assert_eq!(step, Step::Done(Err(Error::ScanExpired)));
}

#[test]
fn an_answer_older_than_what_was_seen_before_the_read_began_is_an_error() {
    let mut session = session();
    let mut early = get_from(&session, ReadFrom::Any);
    session.proceed(&mut early, START);
    asked(&mut session, ReadFrom::Leader, 1);
    let mut late = get_from(&session, ReadFrom::Any);
    session.proceed(&mut late, START);
    // The early one began before 50 was seen, and may be older.
    let step = session.report(&mut early, value(40), START);
    assert!(matches!(step, Step::Done(Ok(_))), "{step:?}");
    let step = session.report(&mut late, value(49), START);
    assert!(matches!(step, Step::Done(Err(Error::Protocol { .. }))));
}

#[test]
fn own_writes_count_as_seen() {
    let (mut session, mut operation) = writing();
    session.report(&mut operation, written(), START);
    let mut read = get_from(&session, ReadFrom::Any);
    session.proceed(&mut read, START);
    let step = session.report(&mut read, value(49), START);
    assert!(matches!(step, Step::Done(Err(Error::Protocol { .. }))));
}
