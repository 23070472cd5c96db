//! Which versions of a key a compaction keeps. Pure.

use crate::ids::LogIndex;
use crate::pins::Pins;

/// What becomes of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays, after the deletions held back before it ([`Versions::take_deletions`]).
    Keep,
    /// It goes.
    Drop,
}

/// Goes over the versions of one key after the other, newest first.
///
/// A version superseded within the compaction stays only if a pinned sequence number sees it. At the
/// bottom, where nothing older lies below, a deletion stays only if an older version does.
///
/// Invariant: the deletions held back are of the current key, newest first.
pub(super) struct Versions<'a> {
    pins: &'a Pins,
    is_bottom: bool,
    /// The version before this one, of the same key.
    newer: Option<LogIndex>,
    /// Deletions that go unless an older version stays.
    held_back: Vec<LogIndex>,
    superseded: u64,
}

impl<'a> Versions<'a> {
    pub(super) fn new(pins: &'a Pins, is_bottom: bool) -> Self {
        Self {
            pins,
            is_bottom,
            newer: None,
            held_back: Vec::new(),
            superseded: 0,
        }
    }

    /// Decides about the next version; `is_new_key`: it is the newest of its key.
    pub(super) fn next(&mut self, at: LogIndex, is_deleted: bool, is_new_key: bool) -> Fate {
        if is_new_key {
            self.newer = None;
            self.held_back.clear();
        }
        let newer = self.newer.replace(at);
        assert_eq!(newer.is_none(), is_new_key, "a key has a newest version");
        if let Some(newer) = newer
            && !self.pins.sees(at, newer)
        {
            self.pins.dropped(newer);
            self.superseded += 1;
            return Fate::Drop;
        }
        if is_deleted && self.is_bottom {
            debug_assert!(self.held_back.last().is_none_or(|newer| at < *newer));
            self.held_back.push(at);
            return Fate::Drop;
        }
        Fate::Keep
    }

    /// How many versions went because a newer one takes their place.
    pub(super) fn superseded(&self) -> u64 {
        self.superseded
    }

    /// The deletions that must come before a version that stays, newest first.
    pub(super) fn take_deletions(&mut self) -> Vec<LogIndex> {
        std::mem::take(&mut self.held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pins::Pin;
    use std::rc::Rc;

    /// The versions that stay of those given (sequence number, whether deleted), newest first.
    fn kept(pins: &[u64], is_bottom: bool, versions: &[(u64, bool)]) -> Vec<u64> {
        let shared = Rc::new(Pins::default());
        let _pins: Vec<Pin> = pins
            .iter()
            .map(|at| Pin::new(&shared, LogIndex(*at)))
            .collect();
        let mut rule = Versions::new(&shared, is_bottom);
        let mut kept = Vec::new();
        for (nth, (at, is_deleted)) in versions.iter().enumerate() {
            if rule.next(LogIndex(*at), *is_deleted, nth == 0) == Fate::Keep {
                kept.extend(rule.take_deletions().iter().map(|at| at.0));
                kept.push(*at);
            }
        }
        kept
    }

    #[test]
    fn only_what_somebody_can_see_stays() {
        const PUT: bool = false;
        const DELETED: bool = true;
        let history = [(9, PUT), (7, DELETED), (5, PUT), (3, PUT)];
        // (pins, bottom, versions, those that stay)
        type Case<'a> = (&'a [u64], bool, &'a [(u64, bool)], &'a [u64]);
        let cases: [Case<'_>; 11] = [
            (&[], false, &history, &[9]),
            (&[], true, &history, &[9]),
            (&[8], false, &history, &[9, 7]),
            (&[8], true, &history, &[9]),
            (&[6], true, &history, &[9, 5]),
            (&[8, 5], true, &history, &[9, 7, 5]),
            (&[4, 2], true, &history, &[9, 3]),
            (&[], false, &[(7, DELETED), (5, PUT)], &[7]),
            (&[], true, &[(7, DELETED), (5, PUT)], &[]),
            (&[5], true, &[(7, DELETED), (5, PUT)], &[7, 5]),
            (
                &[8, 5],
                true,
                &[(9, DELETED), (8, DELETED), (5, PUT)],
                &[9, 8, 5],
            ),
        ];
        for (pins, is_bottom, versions, expected) in cases {
            let kept = kept(pins, is_bottom, versions);
            assert_eq!(kept, expected, "{pins:?} {is_bottom} {versions:?}");
        }
    }

    #[test]
    fn what_is_dropped_can_no_longer_be_read() {
        let pins = Pins::default();
        let mut rule = Versions::new(&pins, true);
        assert_eq!(rule.next(LogIndex(9), false, true), Fate::Keep);
        assert_eq!(rule.next(LogIndex(4), false, false), Fate::Drop);
        assert!(!pins.readable(LogIndex(8)));
        assert!(pins.readable(LogIndex(9)));
    }
}
