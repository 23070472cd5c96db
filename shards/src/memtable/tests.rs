use super::*;
use crate::pins::Pin;
use std::rc::Rc;

fn at(index: u64) -> LogIndex {
    LogIndex(index)
}

fn value(bytes: &'static [u8]) -> Value {
    Value::Inline(Bytes::from_static(bytes))
}

fn everything() -> (Bound<&'static [u8]>, Bound<&'static [u8]>) {
    (Bound::Unbounded, Bound::Unbounded)
}

#[test]
fn an_overwritten_version_stays_while_it_is_pinned() {
    let pins = Rc::new(Pins::default());
    let memtable = Memtable::default();
    assert!(!memtable.insert(Space::User, at(1), b"k", value(b"one"), &pins));
    let pin = Pin::new(&pins, at(1));
    assert!(!memtable.insert(Space::User, at(2), b"k", Value::Deleted, &pins));
    assert!(memtable.insert(Space::User, at(3), b"k", value(b"three"), &pins));
    drop(pin);
    assert_eq!(memtable.get(Space::User, b"k", at(0)), None);
    for (read_at, found_at) in [(1, 1), (2, 1), (3, 3), (9, 3)] {
        let version = memtable.get(Space::User, b"k", at(read_at)).unwrap();
        assert_eq!(version.at, at(found_at));
    }
    assert_eq!(memtable.versions(), 2);
    let all = memtable.all_versions(Space::User, everything(), 9);
    assert_eq!(all[0].1.len(), 2);
    assert!(memtable.insert(Space::User, at(4), b"k", Value::Deleted, &pins));
}

#[test]
fn spaces_are_apart_and_keys_in_order() {
    let pins = Pins::default();
    let memtable = Memtable::default();
    for (index, key) in [(1, "b"), (2, ""), (3, "ab"), (4, "a")] {
        memtable.insert(Space::User, at(index), key.as_bytes(), value(b"v"), &pins);
    }
    memtable.insert(Space::Session, at(5), b"aa", value(b"s"), &pins);
    let keys = |from: Bound<&[u8]>, to: Bound<&[u8]>, count| -> Vec<Bytes> {
        let found = memtable.visible(Space::User, (from, to), at(9), count);
        found.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(
        keys(Bound::Unbounded, Bound::Unbounded, 9),
        ["", "a", "ab", "b"]
    );
    assert_eq!(
        keys(Bound::Excluded(b"a"), Bound::Excluded(b"b"), 9),
        ["ab"]
    );
    assert_eq!(
        keys(Bound::Included(b"a"), Bound::Unbounded, 2),
        ["a", "ab"]
    );
    assert_eq!(memtable.get(Space::User, b"aa", at(9)), None);
}

#[test]
fn memory_is_accounted_for() {
    let pins = Pins::default();
    let memtable = Memtable::default();
    assert_eq!(memtable.bytes(), 0);
    memtable.insert(Space::User, at(1), &[1; 100], value(&[2; 1000]), &pins);
    assert!((1100..1400).contains(&memtable.bytes()));

    // A small value is copied, so that the buffer it is a slice of is not kept for it.
    let received = Bytes::from(vec![7; 200 << 10]);
    memtable.insert(
        Space::User,
        at(2),
        b"small",
        Value::Inline(received.slice(..100)),
        &pins,
    );
    assert!(received.is_unique());
    memtable.insert(
        Space::User,
        at(3),
        b"large",
        Value::Inline(received.clone()),
        &pins,
    );
    assert!(
        received.is_unique(),
        "a large one may be of a longer buffer"
    );
    assert!(memtable.bytes() > 200 << 10);
    memtable.insert(Space::User, at(4), b"large", Value::Deleted, &pins);
    assert!(memtable.bytes() < 3000, "{}", memtable.bytes());

    // Full chunks are followed by new ones.
    for index in 5..20 {
        let value = Value::Inline(Bytes::from(vec![3; 100 << 10]));
        memtable.insert(Space::User, at(index), &[index as u8], value, &pins);
    }
    assert!((1500 << 10..2100 << 10).contains(&memtable.bytes()));
    assert_eq!(
        memtable.get(Space::User, &[5], at(99)).unwrap().value,
        Value::Inline(vec![3; 100 << 10].into())
    );
}
