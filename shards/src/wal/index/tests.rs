use super::*;
use bytes::Bytes;

fn id(term: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        node: ReplicaId(1),
        index: LogIndex(index),
    }
}

fn slot(segment: u32) -> Slot {
    Slot {
        first: LogIndex(0),
        segment,
        offset_units: 1,
        len_units: 1,
        bytes_up_to: 0,
    }
}

/// An index of entries 0..10, two to a block, a block to a segment, term 1 up to 4, then 2.
fn index() -> Index {
    let mut index = Index::new(1000);
    for at in 0..10 {
        index.append(id(1 + at / 5, at));
        if at % 2 == 1 {
            index.add_block(held(at - 1, at), slot(at as u32 / 2));
        }
    }
    index
}

fn held(first: u64, last: u64) -> BlockEntries {
    BlockEntries {
        held: Some((LogIndex(first), LogIndex(last))),
        cut: None,
        bytes: 10,
    }
}

fn found(index: &Index, at: u64) -> Option<(u32, u64)> {
    let (slot, end) = index.slot_of(LogIndex(at))?;
    Some((slot.segment, end.0))
}

#[test]
fn ids_and_places_are_found() {
    let index = index();
    for at in 0..10 {
        assert_eq!(index.id_at(LogIndex(at)), Some(id(1 + at / 5, at)));
        assert_eq!(found(&index, at), Some((at as u32 / 2, at / 2 * 2 + 2)));
    }
    assert_eq!(index.id_at(LogIndex(10)), None);
    assert_eq!(index.first(), Some(LogIndex(0)));
}

#[test]
fn a_truncation_takes_effect_on_ids_at_once_and_on_places_when_submitted() {
    let mut index = index();
    index.truncate_after(Some(id(1, 2)));
    assert_eq!(index.range().last, Some(id(1, 2)));
    assert_eq!(index.id_at(LogIndex(3)), None);
    index.append(id(7, 3));
    let mut entries = BlockEntries::default();
    entries.truncate_after(Some(LogIndex(2)));
    entries.begin(LogIndex(3), 5);
    index.add_block(entries, slot(9));
    assert_eq!(index.id_at(LogIndex(3)), Some(id(7, 3)));
    assert_eq!(found(&index, 2), Some((1, 3)));
    assert_eq!(found(&index, 3), Some((9, 4)));
}

#[test]
fn the_last_bytes_are_found() {
    let mut index = index();
    // Five blocks of 10 bytes and two entries each.
    for (bytes, before) in [
        (0, Some(9)),
        (1, Some(7)),
        (10, Some(7)),
        (11, Some(5)),
        (40, Some(1)),
    ] {
        assert_eq!(
            index.before_last_bytes(bytes),
            before.map(LogIndex),
            "{bytes}"
        );
    }
    assert_eq!(index.before_last_bytes(41), None);
    index.purge(id(1, 3));
    index.release_slots(LogIndex(3));
    assert_eq!(index.before_last_bytes(11), Some(LogIndex(5)));
    assert_eq!(Index::new(1000).before_last_bytes(0), None);
}

#[test]
fn a_purge_releases_what_is_below_it() {
    for (upto, needed) in [(0, Some(0)), (1, Some(1)), (4, Some(2)), (8, Some(4))] {
        let mut index = index();
        index.purge(id(1, upto));
        assert_eq!(index.first(), Some(LogIndex(upto + 1)));
        assert_eq!(index.id_at(LogIndex(upto)), None);
        assert_eq!(
            index.release_slots(LogIndex(upto)),
            needed.map(SegmentId),
            "{upto}"
        );
    }
    for upto in [9, 20] {
        let mut index = index();
        index.purge(id(3, upto));
        assert_eq!(index.range().last, Some(id(3, upto)));
        assert_eq!(index.first(), None);
        assert_eq!(index.release_slots(LogIndex(upto)), None);
        assert!(index.takes(LogIndex(upto + 1)));
        assert!(!index.takes(LogIndex(upto + 2)));
    }
}

/// Appends entries of 100 bytes each, charge included, and keeps them.
fn keep(index: &mut Index, ids: std::ops::Range<u64>) {
    for at in ids {
        index.append(id(1, at));
        let entry = Entry::new(id(1, at), 0, Bytes::from_static(&[0; 36]));
        index.keep(entry, at);
    }
}

/// What the cache has of the held part of a range.
fn cached(index: &Index, from: u64, to: u64) -> Option<Vec<u64>> {
    let (from, to) = index.clip(LogIndex(from), LogIndex(to));
    let entries = index.cached(from, to, u64::MAX, Want::Bodies)?;
    Some(entries.iter().map(|entry| entry.id.index.0).collect())
}

#[test]
fn purged_entries_are_forgotten_bit_by_bit_and_never_given() {
    let mut index = Index::new(10_000);
    keep(&mut index, 0..10);
    index.purge(id(1, 6));
    for left in (0..=7).rev() {
        assert_eq!(index.first_cached(), Some(LogIndex(7)));
        assert_eq!(index.cached_one(LogIndex(6)), None);
        assert_eq!(index.cached_one(LogIndex(7)).unwrap().id, id(1, 7));
        assert_eq!(cached(&index, 0, 99), Some(vec![7, 8, 9]));
        assert_eq!(index.cache_bytes, 100 * (3 + left));
        assert_eq!(index.forget_purged(1), left > 0);
    }
    assert!(!index.forget_purged(5));
    assert_eq!(cached(&index, 0, 99), Some(vec![7, 8, 9]));
}

#[test]
fn entries_after_a_gap_follow_none_that_were_purged() {
    let mut index = Index::new(10_000);
    keep(&mut index, 0..10);
    index.purge(id(1, 19));
    assert_eq!(index.first_cached(), None);
    assert_eq!(index.cached_one(LogIndex(9)), None);
    keep(&mut index, 20..23);
    index.purge(id(1, 20));
    assert_eq!(cached(&index, 0, 99), Some(vec![21, 22]));
    index.purge(id(1, 29));
    keep(&mut index, 30..32);
    assert_eq!(cached(&index, 0, 99), Some(vec![30, 31]));
    assert_eq!(index.cache_bytes, 1500);
    assert!(index.forget_purged(13));
    assert!(!index.forget_purged(1));
    assert_eq!(index.cache_bytes, 200);
    assert_eq!(cached(&index, 0, 99), Some(vec![30, 31]));
    index.truncate_after(Some(id(1, 29)));
    assert_eq!(index.cache_bytes, 0);
}

#[test]
fn purged_entries_make_room_first() {
    let mut index = Index::new(1000);
    keep(&mut index, 0..10);
    index.purge(id(1, 5));
    keep(&mut index, 10..14);
    index.evict(0);
    assert_eq!(index.cache_bytes, 1000);
    assert_eq!(index.first_cached(), Some(LogIndex(6)));
    keep(&mut index, 14..18);
    index.evict(0);
    // None of the others is durable.
    assert_eq!(index.cache_bytes, 1200);
    assert_eq!(index.first_cached(), Some(LogIndex(6)));
}

#[test]
fn what_is_not_durable_stays_in_memory() {
    let mut index = Index::new(100);
    keep(&mut index, 0..10);
    index.evict(3);
    assert_eq!(index.first_cached(), Some(LogIndex(4)));
    index.evict(9);
    assert_eq!(index.first_cached(), Some(LogIndex(9)));
    let cached = index
        .cached(LogIndex(9), LogIndex(10), 0, Want::Bodies)
        .unwrap();
    assert_eq!(cached.len(), 1);
    assert_eq!(
        index.cached(LogIndex(8), LogIndex(10), 0, Want::Bodies),
        None
    );
}

#[test]
fn what_a_block_holds_at_its_end() {
    let mut entries = BlockEntries::default();
    for at in 7..10 {
        entries.begin(LogIndex(at), 5);
    }
    assert_eq!(entries.held, held(7, 9).held);
    assert_eq!(entries.bytes, 15);
    entries.purge(LogIndex(7));
    assert_eq!(entries.held, held(8, 9).held);
    entries.truncate_after(Some(LogIndex(8)));
    assert_eq!(entries.held, Some((LogIndex(8), LogIndex(8))));
    entries.truncate_after(Some(LogIndex(5)));
    assert_eq!(entries.held, None);
    entries.begin(LogIndex(6), 5);
    entries.truncate_after(Some(LogIndex(6)));
    assert_eq!(entries.cut, Some(Some(LogIndex(5))));
    assert_eq!(entries.held, Some((LogIndex(6), LogIndex(6))));
    entries.truncate_after(None);
    assert_eq!((entries.cut, entries.held), (Some(None), None));
}

impl Index {
    /// Bytes of bodies that were copied.
    fn copied_bytes(&self) -> usize {
        let lens = self.cache.iter().map(|cached| cached.entry.body.len());
        lens.filter(|len| *len < LOG_KEPT_BODY_BYTES_MIN).sum()
    }
}

/// Bodies are slices of the buffers that they were received into, which may hold much else.
#[test]
fn the_budget_bounds_the_buffers_that_cached_entries_hold() {
    const BUDGET: usize = 1 << 20;
    for len in [100, 3000, 20_000, 100_000, 200_000] {
        let mut index = Index::new(BUDGET);
        let mut received = Vec::new();
        for at in 0..100 {
            let buffer = Bytes::from(vec![at as u8; (256 << 10).max(2 * len)]);
            index.append(id(1, at));
            let body = buffer.slice(50..50 + len);
            index.keep(Entry::new(id(1, at), 0, body), at);
            received.push(buffer);
            index.evict(at);
        }
        let held = received.iter().filter(|buffer| !buffer.is_unique());
        let held: usize = held.map(Bytes::len).sum();
        assert!(held + index.copied_bytes() <= BUDGET, "{len}: {held}");
        let first = index.first_cached().unwrap();
        let cached = index.cached(first, LogIndex(100), u64::MAX, Want::Bodies);
        for entry in cached.unwrap() {
            assert_eq!(entry.body, vec![entry.id.index.0 as u8; len]);
        }
        drop(index);
        assert!(received.iter().all(Bytes::is_unique));
    }
}
