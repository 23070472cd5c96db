//! Histories that have an explanation, and some that have none.

use super::{Condition, Event, What, check};
use corelith_shards::ShardId;
use std::time::Duration;

fn event(began: u64, ended: u64, what: What) -> Event {
    let (began, ended) = (Duration::from_millis(began), Duration::from_millis(ended));
    Event {
        shard: ShardId(0),
        key: b"k".to_vec(),
        began,
        ended,
        what,
    }
}

fn written(value: u64, version: u64) -> What {
    What::Written {
        value: Some(value),
        condition: Condition::Any,
        version,
    }
}

fn read(found: Option<(u64, u64)>, index: u64) -> What {
    What::Read { found, index }
}

#[test]
fn good_histories_pass() {
    let unknown = What::Unknown {
        value: Some(9),
        condition: Condition::Any,
    };
    let cases = [
        vec![
            event(0, 1, written(1, 5)),
            event(2, 3, read(Some((5, 1)), 7)),
        ],
        vec![event(0, 9, written(1, 5)), event(2, 3, read(None, 4))],
        vec![
            event(0, 99, unknown.clone()),
            event(2, 3, read(Some((6, 9)), 6)),
        ],
        vec![event(0, 99, unknown), event(2, 3, read(None, 6))],
    ];
    for case in cases {
        assert_eq!(check(&case), Ok(()), "{case:?}");
    }
}

#[test]
fn bad_histories_are_found() {
    let over = |version, named| What::Written {
        value: Some(version),
        condition: Condition::Version(named),
        version,
    };
    let refused = What::Refused {
        condition: Condition::Version(5),
        current: 5,
        index: 6,
    };
    let cases = [
        // A stale read, by index and by content.
        vec![event(0, 1, written(1, 5)), event(2, 3, read(None, 4))],
        vec![event(0, 1, written(1, 5)), event(2, 3, read(None, 6))],
        // A lost update.
        vec![
            event(0, 1, written(1, 5)),
            event(2, 3, over(6, 5)),
            event(2, 4, over(7, 5)),
        ],
        // Applied twice.
        vec![
            event(0, 1, written(1, 5)),
            event(2, 3, read(Some((6, 1)), 7)),
        ],
        // Out of nowhere.
        vec![event(2, 3, read(Some((6, 1)), 7))],
        // Two writes at one index.
        vec![event(0, 5, written(1, 5)), event(0, 5, written(2, 5))],
        // Refused although the condition held.
        vec![event(0, 1, written(1, 5)), event(2, 3, refused)],
    ];
    for case in cases {
        assert!(check(&case).is_err(), "{case:?}");
    }
}

fn unknown_delete(condition: Condition) -> What {
    What::Unknown {
        value: None,
        condition,
    }
}

/// Histories with an unknown delete, and whether it excuses what they lack.
#[test]
fn an_unknown_delete_excuses_one_disappearance_after_it_began() {
    let forever = 99_999;
    let gone = |began, index| event(began, began + 1, read(None, index));
    let there = |began, index| event(began, began + 1, read(Some((5, 1)), index));
    let delete = |began, condition| event(began, forever, unknown_delete(condition));
    let put = || event(0, 1, written(1, 5));
    let cases = [
        (true, vec![put(), delete(2, Condition::Any), gone(4, 8)]),
        (
            true,
            vec![put(), delete(2, Condition::Version(5)), gone(4, 8)],
        ),
        (
            false,
            vec![put(), delete(2, Condition::Version(4)), gone(4, 8)],
        ),
        (false, vec![put(), delete(2, Condition::Absent), gone(4, 8)]),
        // It began after the reader had its answer.
        (false, vec![put(), gone(4, 8), delete(6, Condition::Any)]),
        // What it deleted was still there at that index.
        (
            false,
            vec![put(), delete(2, Condition::Any), there(6, 9), gone(4, 8)],
        ),
        // It comes after everything that had ended when it began.
        (
            false,
            vec![
                put(),
                there(2, 8),
                delete(4, Condition::Any),
                event(0, 9, read(None, 7)),
            ],
        ),
        // It applies once.
        (
            false,
            vec![
                put(),
                delete(2, Condition::Any),
                gone(4, 8),
                event(6, 7, written(2, 9)),
                gone(8, 10),
            ],
        ),
        (
            true,
            vec![
                put(),
                delete(2, Condition::Any),
                delete(2, Condition::Any),
                gone(4, 8),
                event(6, 7, written(2, 9)),
                gone(8, 10),
            ],
        ),
    ];
    for (is_good, case) in cases {
        assert_eq!(check(&case).is_ok(), is_good, "{case:?}");
    }
}

#[test]
fn a_version_that_nobody_wrote_needs_an_unknown_put() {
    let refused = |current| What::Refused {
        condition: Condition::Absent,
        current,
        index: 9,
    };
    let put = |began| {
        let what = What::Unknown {
            value: Some(3),
            condition: Condition::Any,
        };
        event(began, 99_999, what)
    };
    assert!(check(&[put(0), event(2, 3, refused(7))]).is_ok());
    assert!(check(&[event(2, 3, refused(7))]).is_err());
    assert!(check(&[event(2, 3, refused(7)), put(4)]).is_err());
    let two = [event(2, 3, refused(7)), event(4, 5, refused(8)), put(0)];
    assert!(check(&two).is_err(), "one put has one version");
}
