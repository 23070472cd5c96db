use super::*;

fn at(index: u64) -> LogIndex {
    LogIndex(index)
}

fn repeated(result: &[u8]) -> Admission {
    Admission::Repeated(Recorded::new(result).unwrap())
}

/// (id, last used, floor, results)
pub(crate) type Content = (u64, u64, u64, Vec<Option<Vec<u8>>>);

/// Every session, oldest first.
pub(crate) fn contents(table: &SessionTable) -> Vec<Content> {
    let mut contents = Vec::new();
    let mut next = table.oldest;
    while let Some(session) = next.and_then(|slot| table.slots[slot].as_ref()) {
        let window = session
            .window
            .iter()
            .map(|recorded| (!recorded.is_nothing()).then(|| recorded.to_vec()))
            .collect();
        contents.push((session.id, session.last_used.0, session.floor, window));
        next = session.newer;
    }
    assert_eq!(contents.len(), table.len());
    contents
}

#[test]
fn a_write_is_admitted_once() {
    let mut table = SessionTable::default();
    assert_eq!(table.admit(at(4), 5, 1, 1), Admission::Unknown);
    table.open(at(5));
    assert_eq!(table.admit(at(6), 5, 1, 1), Admission::Fresh);
    table.record(5, 1, b"one");
    // (number, answered_below, what the table says)
    let cases = [
        (1, 1, repeated(b"one")),
        (0, 1, Admission::Stale),
        (3, 1, Admission::Fresh),
        (2, 1, Admission::Fresh),
        (SESSION_WINDOW, 1, Admission::Fresh),
        (SESSION_WINDOW + 1, 1, Admission::WindowFull),
        (SESSION_WINDOW + 1, 2, Admission::Fresh),
        (1, 1, Admission::Stale),
        (2, u64::MAX, Admission::Stale),
        (u64::MAX, u64::MAX, Admission::Fresh),
    ];
    for (index, (number, answered_below, admission)) in (7..).zip(cases) {
        assert_eq!(
            table.admit(at(index), 5, number, answered_below),
            admission,
            "{number} {answered_below}"
        );
    }
    assert_eq!(table.results, 0);
}

#[test]
fn results_out_of_order_are_all_kept_until_answered() {
    let mut table = SessionTable::default();
    table.open(at(1));
    for (index, number) in [(2, 4), (3, 2), (4, 3)] {
        assert_eq!(table.admit(at(index), 1, number, 1), Admission::Fresh);
        table.record(1, number, &[number as u8]);
    }
    assert_eq!(table.admit(at(5), 1, 1, 1), Admission::Fresh);
    assert_eq!(table.admit(at(6), 1, 4, 3), repeated(&[4]));
    assert_eq!(table.admit(at(7), 1, 3, 3), repeated(&[3]));
    assert_eq!(table.admit(at(8), 1, 2, 3), Admission::Stale);
    assert_eq!(table.results, 2);
}

#[test]
fn the_session_used_least_recently_expires() {
    let mut table = SessionTable::default();
    for id in 0..SESSIONS_MAX as u64 {
        table.open(at(id));
    }
    let now = SESSIONS_MAX as u64;
    assert_eq!(table.admit(at(now), 0, 1, 1), Admission::Fresh);
    table.open(at(now + 1));
    assert_eq!(table.len(), SESSIONS_MAX);
    assert_eq!(table.admit(at(now + 2), 1, 1, 1), Admission::Unknown);
    assert_eq!(table.admit(at(now + 3), 0, 2, 1), Admission::Fresh);
}

#[test]
fn sessions_expire_when_too_many_results_are_kept() {
    let mut table = SessionTable::default();
    let sessions = SESSION_RESULTS_MAX as u64 / SESSION_WINDOW + 1;
    for id in 1..=sessions {
        table.open(at(id));
    }
    for (index, id) in (sessions + 1..).zip(1..=sessions) {
        assert_eq!(
            table.admit(at(index), id, SESSION_WINDOW, 1),
            Admission::Fresh
        );
        table.record(id, SESSION_WINDOW, b"x");
    }
    assert_eq!(table.len() as u64, sessions - 1);
    assert!(table.results <= SESSION_RESULTS_MAX);
    assert_eq!(table.admit(at(1 << 30), 1, 1, 1), Admission::Unknown);
}

#[test]
fn changes_rebuild_an_equal_table() {
    let mut table = SessionTable::default();
    let mut stored = BTreeMap::new();
    let mut next = 1;
    for round in 0..40_u64 {
        for _ in 0..20 {
            next += 1;
            if next % 7 == 0 {
                table.open(at(next));
            } else {
                let id = (next * 31 % (next / 7).max(1)) * 7;
                let number = next % 13 + round;
                if table.admit(at(next), id, number, round) == Admission::Fresh {
                    table.record(id, number, &next.to_le_bytes());
                }
            }
            if next % 50 == 0 {
                table.expire_oldest();
            }
        }
        for (id, record) in table.take_changes() {
            match record {
                Some(record) => stored.insert(id, record),
                None => stored.remove(&id),
            };
        }
        assert!(!table.has_changes());
        let rebuilt = SessionTable::from_records(stored.clone()).unwrap();
        assert_eq!(contents(&rebuilt), contents(&table));
        assert_eq!(rebuilt.results, table.results);
        assert!(!rebuilt.has_changes());
    }
    assert!(table.len() > 50);
}

#[test]
fn a_damaged_record_is_an_error() {
    let mut table = SessionTable::default();
    table.open(at(9));
    table.admit(at(10), 9, 2, 1);
    table.record(9, 2, b"result");
    let (id, record) = table.take_changes().remove(0);
    let record = record.unwrap();
    for len in 0..record.len() {
        assert!(SessionTable::from_records([(id, &record[..len])]).is_err());
    }
    let mut longer = record.clone();
    longer.push(0);
    assert!(SessionTable::from_records([(id, longer)]).is_err());
    assert!(SessionTable::from_records([(id, &record), (id, &record)]).is_err());
    assert!(SessionTable::from_records([(id, &record)]).is_ok());
}
