use super::{read_failure, write_answer, write_failure};
use corelith_consensus::{Decided, GroupError, Outcome, WriteReply};
use corelith_shards::{LogIndex, NodeId, Term};
use corelith_wire::response::{Answer, Failure, Reason, ReplyMeta};

#[test]
fn outcomes_become_answers() {
    let at = Decided {
        term: Term(3),
        index: LogIndex(9),
    };
    let meta = ReplyMeta { term: 3, index: 9 };
    let failure = |failure| Answer::Failure { meta, failure };
    let table = [
        (
            Outcome::Applied {
                version: LogIndex(7),
            },
            Answer::Written { meta, version: 7 },
        ),
        (
            Outcome::Conflict { current: None },
            Answer::Conflict { meta, current: 0 },
        ),
        (
            Outcome::Conflict {
                current: Some(LogIndex(4)),
            },
            Answer::Conflict { meta, current: 4 },
        ),
        (
            Outcome::SessionOpened { session: 9 },
            Answer::SessionOpened { meta, session: 9 },
        ),
        (Outcome::SessionExpired, failure(Failure::SessionExpired)),
        (Outcome::Stale, failure(Failure::Stale)),
        (Outcome::WindowFull, failure(Failure::WindowFull)),
    ];
    for (outcome, expected) in table {
        assert_eq!(write_answer(Ok(WriteReply { at, outcome })), expected);
    }
}

#[test]
fn only_certain_failures_say_that_nothing_was_done() {
    let nothing_done = |failure| match failure {
        Failure::Unavailable { nothing_done, .. } => Some(nothing_done),
        _ => None,
    };
    let table = [
        (GroupError::NotLeader { leader: None }, None),
        (GroupError::LeadershipLost { leader: None }, Some(false)),
        (GroupError::Unavailable, Some(true)),
        (GroupError::Throttled, None),
        (GroupError::Storage, Some(false)),
        (GroupError::Shutdown, Some(false)),
    ];
    for (error, expected) in table {
        assert_eq!(nothing_done(write_failure(&error)), expected, "{error}");
        assert_ne!(nothing_done(read_failure(&error)), Some(false), "{error}");
    }
    for (error, failure) in [
        (GroupError::DiskFull, Failure::DiskFull),
        (GroupError::ShardFull, Failure::ShardFull),
        (GroupError::Malformed, Failure::Malformed),
    ] {
        assert_eq!(write_failure(&error), failure, "{error}");
    }
    let leader = Some(NodeId(5));
    assert_eq!(
        write_failure(&GroupError::NotLeader { leader }),
        Failure::NotLeader { leader: 5 }
    );
    assert!(matches!(
        write_failure(&GroupError::Unavailable),
        Failure::Unavailable {
            reason: Reason::NoQuorum,
            ..
        }
    ));
}
