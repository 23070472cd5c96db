mod refusals;
mod replicas;
mod scouts;
mod uploads;

use super::*;
use bytes::{Bytes, BytesMut};
use corelith_wire::frame::Accepts;
use corelith_wire::map::MapNode;
use corelith_wire::request::{Condition, Operation as WriteKind, WriteCommand};
use corelith_wire::response::ReplyMeta;
use corelith_wire::{ClusterId, Frame, FrameParser, Kind, Outbox, RequestId};

const META: ReplyMeta = ReplyMeta { term: 1, index: 50 };
const DEADLINE: Duration = Duration::from_secs(10);
const START: Duration = Duration::ZERO;

fn map(epoch: u32, shards: u32) -> ClusterMap {
    let node = |id| MapNode {
        id,
        host: format!("n{id}"),
        base_port: 7000,
        cores: 2,
    };
    ClusterMap::place(
        Epoch(epoch),
        ClusterId(9),
        vec![node(1), node(2), node(3)],
        shards,
        3,
    )
}

fn session() -> Session {
    Session::new(Arc::new(map(1, 1)), 4, 77)
}

fn put(session: &Session) -> Operation {
    let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(b"value"));
    let (condition, kind) = (Condition::Any, WriteKind::Put);
    session.operation(
        Request::Write {
            key,
            value,
            condition,
            kind,
        },
        DEADLINE,
    )
}

fn get(session: &Session) -> Operation {
    session.operation(
        Request::Get {
            key: Bytes::from_static(b"key"),
        },
        DEADLINE,
    )
}

fn frame(operation: &Operation) -> Frame {
    let mut out = Outbox::default();
    operation.encode(&mut out, RequestId(1));
    let mut bytes = BytesMut::new();
    out.slices()
        .for_each(|slice| bytes.extend_from_slice(slice));
    FrameParser::new(Accepts::Requests)
        .take(&mut bytes)
        .next()
        .unwrap()
        .unwrap()
}

fn command(operation: &Operation) -> WriteCommand {
    WriteCommand::parse(frame(operation).payload()).unwrap()
}

fn failure(failure: Failure) -> Event {
    Event::Answer(Answer::Failure {
        meta: META,
        failure,
    })
}

fn written() -> Event {
    Event::Answer(Answer::Written {
        meta: META,
        version: 50,
    })
}

fn opened(id: u64) -> Event {
    Event::Answer(Answer::SessionOpened {
        meta: META,
        session: id,
    })
}

fn node_of(step: &Step) -> u64 {
    match step {
        Step::Send { target, .. } => target.node.0,
        other => panic!("{other:?} is not a sending"),
    }
}

/// A session with one write in flight, under session 100 and number 1.
fn writing() -> (Session, Operation) {
    let mut session = session();
    let mut operation = put(&session);
    session.proceed(&mut operation, START);
    let step = session.report(&mut operation, opened(100), START);
    assert_eq!(node_of(&step), 1);
    assert_eq!(
        (command(&operation).session, command(&operation).number),
        (100, 1)
    );
    session.take_stirred();
    (session, operation)
}

/// Continues, after a pause if there is one.
fn after_pause(session: &mut Session, operation: &mut Operation, step: &Step) -> Step {
    match step {
        Step::Send { .. } => step.clone(),
        Step::Pause { until } | Step::Refresh { until } | Step::Seek { until, .. } => {
            session.proceed(operation, *until)
        }
        other => panic!("{other:?} is not a pause"),
    }
}

#[test]
fn one_write_opens_the_session_and_the_others_wait_for_it() {
    let mut session = session();
    let (mut first, mut second) = (put(&session), put(&session));
    assert_eq!(node_of(&session.proceed(&mut first, START)), 1);
    assert_eq!(frame(&first).header.head.kind, Kind::OPEN_SESSION);
    assert_eq!(
        session.proceed(&mut second, START),
        Step::Park { shard: ShardId(0) }
    );
    assert_eq!(session.take_stirred(), None);
    session.report(&mut first, opened(100), START);
    assert_eq!(session.take_stirred(), Some(ShardId(0)));
    session.proceed(&mut second, START);
    assert_eq!((command(&first).number, command(&second).number), (1, 2));
}

#[test]
fn an_opening_that_is_given_up_is_taken_over() {
    let mut session = session();
    let (mut first, mut second) = (put(&session), put(&session));
    session.proceed(&mut first, START);
    session.proceed(&mut second, START);
    session.abandon(&mut first);
    assert_eq!(session.take_stirred(), Some(ShardId(0)));
    session.proceed(&mut second, START);
    assert_eq!(frame(&second).header.head.kind, Kind::OPEN_SESSION);
}

#[test]
fn hints_are_followed_at_once_but_not_forever() {
    let (mut session, mut operation) = writing();
    let hint = |leader| failure(Failure::NotLeader { leader });
    let mut follow = |leader| session.report(&mut operation, hint(leader), START);
    assert_eq!(node_of(&follow(3)), 3);
    assert_eq!(node_of(&follow(2)), 2);
    let step = follow(3);
    assert!(
        matches!(step, Step::Seek { .. }),
        "two nodes that name each other"
    );
    assert_eq!(
        node_of(&after_pause(&mut session, &mut operation, &step)),
        3
    );
    // Another operation goes to the leader that was learned.
    let mut other = get(&session);
    assert_eq!(node_of(&session.proceed(&mut other, START)), 3);
}

#[test]
fn without_a_hint_the_next_replica_is_asked_after_a_pause() {
    for hint in [0, 1, 99] {
        let (mut session, mut operation) = writing();
        let event = failure(Failure::NotLeader { leader: hint });
        let step = session.report(&mut operation, event, START);
        assert_eq!(
            node_of(&after_pause(&mut session, &mut operation, &step)),
            2,
            "hint {hint}"
        );
    }
}

#[test]
fn a_hint_to_a_node_that_just_failed_waits() {
    let (mut session, mut operation) = writing();
    let step = session.report(&mut operation, Event::Lost(Cause::Timeout), START);
    assert_eq!(
        node_of(&after_pause(&mut session, &mut operation, &step)),
        2
    );
    let event = failure(Failure::NotLeader { leader: 1 });
    let step = session.report(&mut operation, event, START);
    assert_eq!(
        node_of(&after_pause(&mut session, &mut operation, &step)),
        3
    );
}

#[test]
fn a_repeated_write_keeps_its_number() {
    let (mut session, mut operation) = writing();
    for event in [
        Event::Lost(Cause::Timeout),
        Event::NotSent(Cause::Closed),
        failure(Failure::NotLeader { leader: 0 }),
        failure(Failure::Throttled { retry_after_ms: 3 }),
        failure(Failure::WindowFull),
        failure(Failure::WrongNode),
    ] {
        let step = session.report(&mut operation, event, START);
        after_pause(&mut session, &mut operation, &step);
        assert_eq!(
            (command(&operation).session, command(&operation).number),
            (100, 1)
        );
    }
    let done = session.report(&mut operation, written(), START);
    assert!(matches!(
        done,
        Step::Done(Ok(Answer::Written { version: 50, .. }))
    ));
}

#[test]
fn an_expired_session_is_replaced_only_if_nothing_can_have_been_applied() {
    let (mut session, mut operation) = writing();
    session.report(&mut operation, failure(Failure::SessionExpired), START);
    assert_eq!(frame(&operation).header.head.kind, Kind::OPEN_SESSION);
    session.report(&mut operation, opened(200), START);
    assert_eq!(
        (command(&operation).session, command(&operation).number),
        (200, 1)
    );

    let (mut session, mut operation) = writing();
    let step = session.report(&mut operation, Event::Lost(Cause::Timeout), START);
    after_pause(&mut session, &mut operation, &step);
    let step = session.report(&mut operation, failure(Failure::SessionExpired), START);
    let cause = Cause::SessionExpired;
    assert_eq!(step, Step::Done(Err(Error::Indeterminate { cause })));
}

#[test]
fn the_window_holds_writes_back() {
    let (mut session, mut first) = writing();
    let mut more: Vec<_> = (0..4).map(|_| put(&session)).collect();
    let steps: Vec<_> = more
        .iter_mut()
        .map(|write| session.proceed(write, START))
        .collect();
    assert!(
        steps[..3]
            .iter()
            .all(|step| matches!(step, Step::Send { .. }))
    );
    assert_eq!(steps[3], Step::Park { shard: ShardId(0) });
    session.report(&mut more[0], written(), START);
    assert_eq!(
        session.take_stirred(),
        None,
        "number 1 still holds the window"
    );
    assert_eq!(
        session.proceed(&mut more[3], START),
        Step::Park { shard: ShardId(0) }
    );
    session.abandon(&mut first);
    assert_eq!(session.take_stirred(), Some(ShardId(0)));
    assert!(matches!(
        session.proceed(&mut more[3], START),
        Step::Send { .. }
    ));
    let sent = command(&more[3]);
    assert_eq!((sent.number, sent.answered_below), (5, 3));
    // A retry carries the newest `answered_below`.
    session.report(&mut more[1], written(), START);
    let step = session.report(&mut more[3], failure(Failure::WindowFull), START);
    after_pause(&mut session, &mut more[3], &step);
    assert_eq!(command(&more[3]).answered_below, 4);
}

#[test]
fn a_newer_map_is_used_at_once() {
    let (mut session, mut operation) = writing();
    let mut newer = map(2, 1);
    newer.shards[0].replicas = vec![3, 1];
    let event = failure(Failure::WrongEpoch { map: newer });
    assert_eq!(
        node_of(&session.report(&mut operation, event.clone(), START)),
        3
    );
    assert_eq!(frame(&operation).header.head.epoch, Epoch(2));
    let step = session.report(&mut operation, event, START);
    assert!(matches!(step, Step::Pause { .. }), "the same map again");
}

#[test]
fn pauses_grow_are_bounded_and_differ_between_clients() {
    let pauses = |seed| {
        let mut session = Session::new(Arc::new(map(1, 1)), 4, seed);
        let mut operation = get(&session);
        session.proceed(&mut operation, START);
        let mut pause = || match session.report(&mut operation, failure(Failure::WindowFull), START)
        {
            Step::Pause { until } => until,
            other => panic!("{other:?}"),
        };
        (0..12).map(|_| pause()).collect::<Vec<_>>()
    };
    let found = pauses(1);
    assert_eq!(found, pauses(1));
    assert_ne!(found, pauses(2));
    let mut longest = RETRY_PAUSE_MIN;
    for pause in found {
        assert!(
            longest / 2 <= pause && pause <= longest,
            "{pause:?} of {longest:?}"
        );
        longest = (longest * 2).min(RETRY_PAUSE_MAX);
    }
}

/// A shard without a leader: one of many operations asks, again and again, and all go on once it knows.
#[test]
fn one_operation_asks_for_a_leader_and_all_go_on_when_it_is_there() {
    let mut session = session();
    let mut operations: Vec<_> = (0..100).map(|_| get(&session)).collect();
    let mut steps: Vec<_> = operations
        .iter_mut()
        .map(|operation| session.proceed(operation, START))
        .collect();
    let elected = Duration::from_millis(400);
    let (mut now, mut asked) = (START, 0);
    let leader = loop {
        let due = |step: &Step| match step {
            Step::Send { .. } => START,
            Step::Seek { until, .. } => *until,
            other => panic!("{other:?}"),
        };
        let at = (0..steps.len()).min_by_key(|at| due(&steps[*at])).unwrap();
        now = now.max(due(&steps[at]));
        steps[at] = match steps[at] {
            Step::Send { .. } if now >= elected => break at,
            Step::Send { .. } => {
                asked += 1;
                let event = failure(Failure::NotLeader { leader: 0 });
                session.report(&mut operations[at], event, now)
            }
            _ => session.proceed(&mut operations[at], now),
        };
    };
    assert!(
        now < elected + Duration::from_millis(60),
        "found late, at {now:?}"
    );
    // Each at first, some more than once after a longer pause, and one often.
    assert!(asked < 100 + 100 + 20, "asked {asked} times");
    session.take_stirred();
    let value = Answer::NotFound { meta: META };
    session.report(&mut operations[leader], Event::Answer(value), now);
    assert_eq!(session.take_stirred(), Some(ShardId(0)));
    let found = operations[leader].asked;
    for (at, operation) in operations
        .iter_mut()
        .enumerate()
        .filter(|(at, _)| *at != leader)
    {
        let step = session.sought(operation, now);
        assert_eq!(Some(NodeId(node_of(&step))), found, "operation {at}");
    }
}

/// A leader that another node named is known for sure only when it has answered: the others go on then.
#[test]
fn all_go_on_when_a_named_leader_has_answered() {
    let (mut session, mut scout) = writing();
    let mut waiting = get(&session);
    for operation in [&mut scout, &mut waiting] {
        session.proceed(operation, START);
        let event = failure(Failure::NotLeader { leader: 0 });
        let step = session.report(operation, event, START);
        assert!(matches!(step, Step::Seek { .. }), "{step:?}");
    }
    session.take_stirred();
    session.proceed(&mut scout, START);
    let hint = failure(Failure::NotLeader { leader: 3 });
    assert_eq!(node_of(&session.report(&mut scout, hint, START)), 3);
    assert_eq!(session.take_stirred(), None, "it may not lead");
    session.report(&mut scout, written(), START);
    assert_eq!(session.take_stirred(), Some(ShardId(0)));
    assert_eq!(node_of(&session.sought(&mut waiting, START)), 3);
}

/// A lead that moves while a request waits: it goes to the new leader at once, under the same number.
#[test]
fn a_request_follows_a_lead_that_moves_away_from_a_silent_node() {
    let (mut session, mut operation) = writing();
    assert!(session.doubt(NodeId(1), START));
    let waiting = std::collections::BTreeSet::from([ShardId(0)]);
    let Question::Ask { target, .. } = session.question(NodeId(1), &waiting, START) else {
        panic!("nobody is asked");
    };
    assert_eq!(target.node, NodeId(2));
    let mut status = corelith_wire::status::StatusReply {
        node: 2,
        ..Default::default()
    };
    status.shards = vec![corelith_wire::status::ShardStatus {
        leader: 3,
        term: META.term + 1,
        ..Default::default()
    }];
    let moved = session.learned(NodeId(1), &Event::Answer(Answer::Status(status)));
    assert_eq!(moved, [ShardId(0)]);
    assert_eq!(
        node_of(&session.report(&mut operation, Event::Moved, START)),
        3
    );
    assert_eq!(
        (command(&operation).session, command(&operation).number),
        (100, 1)
    );
    // The first attempt may have been applied.
    let expired = failure(Failure::SessionExpired);
    let step = session.report(&mut operation, expired, START);
    let cause = Cause::SessionExpired;
    assert_eq!(step, Step::Done(Err(Error::Indeterminate { cause })));
}

#[test]
fn a_node_that_refuses_is_left_at_once() {
    for cause in [
        Cause::Connect(std::io::ErrorKind::ConnectionRefused),
        Cause::Connect(std::io::ErrorKind::TimedOut),
    ] {
        let (mut session, mut operation) = writing();
        let broken = Cause::Broken(std::io::ErrorKind::ConnectionReset);
        let step = session.report(&mut operation, Event::Lost(broken), START);
        assert_eq!(
            node_of(&step),
            1,
            "only the connection broke, as far as is known"
        );
        let step = session.report(&mut operation, Event::NotSent(cause), START);
        assert_eq!(node_of(&step), 2);
    }
}

#[test]
fn answers_of_the_wrong_kind_break_the_protocol() {
    let (mut session, mut operation) = writing();
    let step = session.report(&mut operation, opened(5), START);
    assert!(matches!(step, Step::Done(Err(Error::Indeterminate { .. }))));
    let mut operation = get(&session);
    session.proceed(&mut operation, START);
    let step = session.report(&mut operation, written(), START);
    assert!(matches!(step, Step::Done(Err(Error::Protocol { .. }))));
}

/// A shard that applies writes once per session and number, and forgets sessions now and then.
#[derive(Default)]
struct Shard {
    index: u64,
    sessions: std::collections::BTreeMap<u64, std::collections::BTreeMap<u64, u64>>,
    below: std::collections::BTreeMap<u64, u64>,
    /// How often each write (named by its value) was applied.
    applied: std::collections::BTreeMap<Bytes, u32>,
}

impl Shard {
    fn serve(&mut self, frame: &Frame) -> Answer {
        self.index += 1;
        if frame.header.head.kind == Kind::OPEN_SESSION {
            self.sessions.insert(self.index, Default::default());
            return Answer::SessionOpened {
                meta: META,
                session: self.index,
            };
        }
        let command = WriteCommand::parse(frame.payload()).unwrap();
        let fail = |failure| Answer::Failure {
            meta: META,
            failure,
        };
        let Some(results) = self.sessions.get_mut(&command.session) else {
            return fail(Failure::SessionExpired);
        };
        let below = self.below.entry(command.session).or_default();
        *below = command.answered_below.max(*below);
        if command.number < *below {
            return fail(Failure::Stale);
        }
        let version = *results.entry(command.number).or_insert_with(|| {
            *self.applied.entry(command.value.clone()).or_default() += 1;
            self.index
        });
        Answer::Written {
            meta: META,
            version,
        }
    }
}

/// The result of a write is true despite random losses, failures, late duplicates and expiring sessions.
#[test]
fn results_are_true_whatever_happens_on_the_way() {
    let mut seen = std::collections::BTreeMap::<&str, u32>::new();
    for seed in 0..3000 {
        let mut dice = Session::new(Arc::new(map(1, 1)), 1, seed);
        let mut session = Session::new(Arc::new(map(1, 1)), 4, seed);
        let mut shard = Shard::default();
        let mut late: Vec<Frame> = Vec::new();
        let mut writes: Vec<(Operation, Step, Bytes)> = (0..6u64)
            .map(|n| {
                let value = Bytes::from(n.to_string());
                let request = Request::Write {
                    key: Bytes::from_static(b"key"),
                    value: value.clone(),
                    condition: Condition::Any,
                    kind: WriteKind::Put,
                };
                let deadline = Duration::from_millis(40);
                (
                    session.operation(request, deadline),
                    Step::Pause { until: START },
                    value,
                )
            })
            .collect();
        let mut now = START;
        let mut results = Vec::new();
        while !writes.is_empty() {
            let at = (dice.next_random() % writes.len() as u64) as usize;
            now += Duration::from_micros(dice.next_random() % 2000);
            if dice.next_random().is_multiple_of(40) {
                shard.sessions.clear();
            }
            if !late.is_empty() && dice.next_random().is_multiple_of(3) {
                let frame = late.swap_remove((dice.next_random() % late.len() as u64) as usize);
                shard.serve(&frame);
            }
            let (operation, step, value) = &mut writes[at];
            *step = match step {
                Step::Send { .. } => {
                    let frame = frame(operation);
                    let event = match dice.next_random() % 8 {
                        0 => Event::NotSent(Cause::Closed),
                        1 => {
                            late.push(frame);
                            Event::Lost(Cause::Timeout)
                        }
                        2 => {
                            shard.serve(&frame);
                            late.push(frame);
                            Event::Lost(Cause::Broken(std::io::ErrorKind::ConnectionReset))
                        }
                        3 => failure(Failure::NotLeader {
                            leader: dice.next_random() % 4,
                        }),
                        4 => failure(Failure::Throttled { retry_after_ms: 1 }),
                        5 => failure(Failure::DiskFull),
                        _ => Event::Answer(shard.serve(&frame)),
                    };
                    session.report(operation, event, now)
                }
                _ => session.proceed(operation, now),
            };
            if let Step::Done(result) = step {
                results.push((value.clone(), result.clone()));
                writes.swap_remove(at);
            }
        }
        for frame in late {
            shard.serve(&frame);
        }
        for (value, result) in results {
            let applied = shard.applied.get(&value).copied().unwrap_or_default();
            let (name, allowed) = match result {
                Ok(_) => ("ok", 1..=1),
                Err(Error::Indeterminate { .. }) => ("indeterminate", 0..=1),
                Err(Error::Unavailable { .. }) => ("unavailable", 0..=0),
                Err(Error::Throttled { .. }) => ("throttled", 0..=0),
                Err(Error::DiskFull) => ("disk full", 0..=0),
                Err(other) => panic!("seed {seed}: {other}"),
            };
            *seen.entry(name).or_default() += 1;
            assert!(
                allowed.contains(&applied),
                "seed {seed}: {name}, applied {applied} times"
            );
        }
    }
    assert!(
        seen.len() == 5 && seen.values().all(|count| *count > 20),
        "{seen:?}"
    );
}

#[test]
fn a_leader_that_is_gone_is_not_asked_for_ever() {
    let mut session = session();
    let mut operation = get(&session);
    let mut now = START;
    let mut asked = Vec::new();
    let mut step = session.proceed(&mut operation, now);
    for _ in 0..12 {
        let node = node_of(&step);
        asked.push(node);
        let event = match node {
            // The other nodes still name the dead leader.
            1 => Event::NotSent(Cause::Connect(std::io::ErrorKind::ConnectionRefused)),
            _ => failure(Failure::NotLeader { leader: 1 }),
        };
        step = session.report(&mut operation, event, now);
        while let Step::Pause { until } | Step::Seek { until, .. } = step {
            // Longer than any suspicion lasts.
            now = until.max(now + SILENT_SUSPICION / 2);
            step = session.proceed(&mut operation, now);
        }
    }
    for other in [2, 3] {
        assert!(
            asked.iter().filter(|node| **node == other).count() >= 2,
            "{asked:?}"
        );
    }
}
