//! Finding one entry of a block that is only borrowed, without putting keys together.
//!
//! Of the entry passed last it is known how many bytes its key has in common with the key that is looked
//! for. What the next entry shares with it says on which side of the target it is; only if the two numbers
//! are equal do bytes have to be compared to know. This needs `shared` to be exact. Restarts, which say that
//! they share nothing, are no exception: a search starts at the last one that is not after the target, so
//! another one that it comes to is after it.

use super::{Damage, DecodedEntry, HeldValue, Layout, SHORT, common_prefix, restart_before};
use crate::ids::LogIndex;
use std::cmp::Ordering;

/// An entry that was found.
pub(in crate::sstable) struct Hit {
    /// Whether its key is the one that was looked for.
    pub(in crate::sstable) is_key: bool,
    pub(in crate::sstable) at: LogIndex,
    pub(in crate::sstable) held: HeldValue,
}

/// Goes over entries until one is after a target.
struct Approach<'a> {
    entries: &'a [u8],
    next: usize,
    /// Length of the key passed last.
    key_len: usize,
    /// Bytes that the key passed last shares with the target; it is not after the target.
    matched: usize,
    target: (&'a [u8], LogIndex),
}

impl<'a> Approach<'a> {
    /// Starts at the last restart that is at or before the target, or at the first.
    fn new(payload: &'a [u8], key: &'a [u8], at: LogIndex) -> Result<Self, Damage> {
        let layout = Layout::of(payload)?;
        let next = restart_before(payload, layout, key, at)?;
        Ok(Self {
            entries: payload.get(..layout.entries_end).ok_or(SHORT)?,
            next,
            key_len: 0,
            matched: 0,
            target: (key, at),
        })
    }

    /// The next entry and its order to the target. There is no going on behind one that is after it.
    #[inline]
    fn advance(&mut self) -> Result<Option<(Ordering, Hit)>, Damage> {
        let Some(ahead) = DecodedEntry::decode(self.entries, self.next, self.key_len)? else {
            return Ok(None);
        };
        let (key, at) = self.target;
        let rest = ahead.key_rest(self.entries);
        debug_assert!(self.matched <= key.len() && self.matched <= self.key_len);
        let mut is_key = false;
        let order = match ahead.shared.cmp(&self.matched) {
            // It differs from the target where the one before, which is below the target, does.
            Ordering::Greater => Ordering::Less,
            Ordering::Less => {
                // A restart may hold an older version of the key.
                is_key = ahead.shared == 0 && rest == key;
                Ordering::Greater
            }
            Ordering::Equal => {
                let tail = key.get(self.matched..).unwrap_or_default();
                let common = common_prefix(rest, tail);
                let by_key = rest.get(common).cmp(&tail.get(common));
                is_key = by_key == Ordering::Equal;
                let order = by_key.then_with(|| at.cmp(&ahead.at));
                if order != Ordering::Greater {
                    self.matched += common;
                }
                order
            }
        };
        self.key_len = ahead.shared + ahead.rest;
        self.next = ahead.next;
        let hit = Hit {
            is_key,
            at: ahead.at,
            held: ahead.held,
        };
        Ok(Some((order, hit)))
    }
}

/// The first entry at or after (`key`, `at`).
pub(in crate::sstable) fn first_at_or_after(
    payload: &[u8],
    key: &[u8],
    at: LogIndex,
) -> Result<Option<Hit>, Damage> {
    let mut approach = Approach::new(payload, key, at)?;
    while let Some((order, hit)) = approach.advance()? {
        if order != Ordering::Less {
            return Ok(Some(hit));
        }
    }
    Ok(None)
}

/// Where an index leads.
pub(in crate::sstable) struct Led {
    /// The last entry at or before the target, or the first entry if there is none.
    pub(in crate::sstable) to: Hit,
    /// The first entry after the target, if `to` is not that one and another one follows.
    pub(in crate::sstable) beyond: Option<Hit>,
}

/// Finds the entry of an index that leads to the block that holds the place of (`key`, `at`).
pub(in crate::sstable) fn lead(payload: &[u8], key: &[u8], at: LogIndex) -> Result<Led, Damage> {
    let mut approach = Approach::new(payload, key, at)?;
    let (order, mut to) = approach.advance()?.ok_or("a block without entries")?;
    if order == Ordering::Greater {
        return Ok(Led { to, beyond: None });
    }
    while let Some((order, hit)) = approach.advance()? {
        if order == Ordering::Greater {
            let beyond = Some(hit);
            return Ok(Led { to, beyond });
        }
        to = hit;
    }
    Ok(Led { to, beyond: None })
}

#[cfg(test)]
mod tests {
    use super::super::{BlockBuilder, BlockCursor, EntryBlock, PutValue, common_prefix};
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    /// Keys of few different bytes, so that they share much, and several versions of some.
    fn entries() -> impl Strategy<Value = Vec<(Vec<u8>, u64)>> {
        let key = prop::collection::vec(0..3_u8, 0..12);
        prop::collection::btree_set((key, 0..4_u64), 1..60).prop_map(|entries| {
            let mut entries: Vec<_> = entries.into_iter().collect();
            entries.sort_by(|left, right| left.0.cmp(&right.0).then(right.1.cmp(&left.1)));
            entries
        })
    }

    fn block_of(entries: &[(Vec<u8>, u64)], interval: usize) -> Bytes {
        let mut builder = BlockBuilder::with_interval(interval);
        let mut last: &[u8] = &[];
        for (number, (key, at)) in entries.iter().enumerate() {
            let value = u32::try_from(number).unwrap().to_le_bytes();
            let shared = common_prefix(last, key);
            builder.add(key, shared, LogIndex(*at), PutValue::Inline(&value));
            last = key;
        }
        builder.finish().into()
    }

    fn value(payload: &[u8], held: HeldValue) -> usize {
        let HeldValue::Inline { start, len } = held else {
            panic!("all values are inline");
        };
        let bytes = payload[start..start + len].try_into().unwrap();
        u32::from_le_bytes(bytes) as usize
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn finds_what_a_search_of_the_entries_finds(
            entries in entries(),
            interval in 1..20_usize,
            wanted in prop::collection::vec((prop::collection::vec(0..3_u8, 0..13), 0..5_u64), 1..40),
        ) {
            let payload = block_of(&entries, interval);
            prop_assert!(EntryBlock::new(payload.clone()).unwrap().check().is_ok());
            let all = entries.iter().cloned().chain(wanted);
            for (key, at) in all {
                let place = entries.partition_point(|(other, other_at)| {
                    other.cmp(&key).then(at.cmp(other_at)) == Ordering::Less
                });
                let hit = first_at_or_after(&payload, &key, LogIndex(at)).unwrap();
                match (entries.get(place), hit) {
                    (None, None) => {}
                    (Some(entry), Some(hit)) => {
                        prop_assert_eq!(value(&payload, hit.held), place);
                        prop_assert_eq!(hit.at.0, entry.1);
                        prop_assert_eq!(hit.is_key, entry.0 == key);
                    }
                    _ => prop_assert!(false, "only one of them found something"),
                }

                let behind = entries.partition_point(|(other, other_at)| {
                    other.cmp(&key).then(at.cmp(other_at)) != Ordering::Greater
                });
                let led = lead(&payload, &key, LogIndex(at)).unwrap();
                prop_assert_eq!(value(&payload, led.to.held), behind.saturating_sub(1));
                let beyond = entries.get(behind).filter(|_| behind > 0);
                prop_assert_eq!(led.beyond.is_some(), beyond.is_some());
                if let (Some(hit), Some(entry)) = (led.beyond, beyond) {
                    prop_assert_eq!(value(&payload, hit.held), behind);
                    prop_assert_eq!(hit.is_key, entry.0 == key);
                }
            }
        }

        #[test]
        fn damaged_blocks_do_not_lead_out_of_them(
            entries in entries(),
            interval in 1..20_usize,
            place in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            key in prop::collection::vec(0..3_u8, 0..13),
        ) {
            let mut payload = block_of(&entries, interval).to_vec();
            let place = place.index(payload.len());
            payload[place] = byte;
            for at in 0..4 {
                let first = first_at_or_after(&payload, &key, LogIndex(at));
                let led = lead(&payload, &key, LogIndex(at)).ok();
                let led = led.into_iter().flat_map(|led| led.beyond.into_iter().chain([led.to]));
                let hits = first.ok().flatten().into_iter().chain(led);
                for hit in hits {
                    if let HeldValue::Inline { start, len } = hit.held {
                        prop_assert!(start + len <= payload.len());
                    }
                }
            }
        }
    }

    #[test]
    fn an_older_version_at_a_restart_is_of_the_key() {
        let keys: [&[u8]; 4] = [b"a", b"b", b"bb", b"bbb"];
        let entries: Vec<_> = keys.iter().map(|key| (key.to_vec(), 5)).collect();
        let payload = block_of(&entries, 3);
        let hit = first_at_or_after(&payload, b"bbb", LogIndex(9)).unwrap();
        assert!(hit.is_some_and(|hit| hit.is_key && hit.at == LogIndex(5)));
    }

    #[test]
    fn a_block_that_a_search_would_err_in_is_noticed() {
        let keys: [&[u8]; 5] = [b"ab", b"ac", b"ad", b"ae", b"af"];
        let build = |shared: [usize; 5]| {
            let mut builder = BlockBuilder::with_interval(4);
            for (key, shared) in keys.iter().zip(shared) {
                builder.add(key, shared, LogIndex(5), PutValue::Deleted);
            }
            builder.finish()
        };
        let check = |payload: Vec<u8>| EntryBlock::new(payload.into()).unwrap().check();
        let payload = build([0, 1, 1, 1, 1]);
        assert_eq!(check(payload.clone()), Ok(()));
        assert!(check(build([0, 1, 0, 1, 1])).is_err());
        // The second of two restarts, before their count.
        let place = payload.len() - 8;
        for offset in 0..=u8::try_from(place).unwrap() {
            let mut other = payload.clone();
            other[place] = offset;
            assert_eq!(check(other.clone()).is_ok(), other == payload, "{offset}");
        }
    }

    #[test]
    fn a_cursor_comes_to_the_same_place() {
        let entries: Vec<_> = (0..500_u64)
            .map(|number| {
                (
                    format!("key {:04}", number / 3).into_bytes(),
                    9 - number % 3,
                )
            })
            .collect();
        let payload = block_of(&entries, 16);
        for (key, at) in &entries {
            let mut cursor = BlockCursor::new(EntryBlock::new(payload.clone()).unwrap());
            assert!(cursor.seek(key, LogIndex(*at)).unwrap());
            let hit = first_at_or_after(&payload, key, LogIndex(*at)).unwrap();
            let hit = hit.expect("it is there");
            assert_eq!((cursor.at(), cursor.key()), (hit.at, key.as_slice()));
            assert!(hit.is_key);
        }
    }
}
