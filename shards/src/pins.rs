//! Sequence numbers that readers have pinned: versions that they see are kept.
//!
//! Invariants: every number listed has a pin; the floor only rises.
//!
//! A range that was put in anew, from another replica, holds what was there at one moment: of it nobody sees an
//! earlier moment any more, pinned or not.

use crate::ids::LogIndex;
use crate::planted::{Bug, is_planted};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The pinned sequence numbers of an engine. Belongs to one core.
#[derive(Default)]
pub(crate) struct Pins {
    counts: RefCell<BTreeMap<LogIndex, usize>>,
    /// Everything below may be incomplete unless it is pinned: the highest sequence number at which
    /// a version was superseded and dropped.
    floor: Cell<LogIndex>,
    /// Ranges put in anew while earlier moments were pinned.
    renewed: RefCell<Vec<RenewedRange>>,
}

/// A range of stored keys, both ends included, of which nothing before a moment is left.
#[derive(Clone, Debug)]
pub(crate) struct RenewedRange {
    first: Bytes,
    last: Bytes,
    as_of: LogIndex,
}

impl RenewedRange {
    /// Whether the range has keys from `start` to before `end`.
    pub(crate) fn overlaps(&self, start: &[u8], end: &[u8]) -> bool {
        self.first[..] < *end && *start <= self.last[..]
    }
}

impl Pins {
    /// Whether a pin sees the version written at `version` and superseded at `superseded`.
    pub(crate) fn sees(&self, version: LogIndex, superseded: LogIndex) -> bool {
        let counts = self.counts.borrow();
        !counts.is_empty() && counts.range(version..superseded).next().is_some()
    }

    /// The lowest pinned sequence number, the highest possible one if there is none.
    pub(crate) fn oldest(&self) -> LogIndex {
        let counts = self.counts.borrow();
        counts
            .first_key_value()
            .map_or(LogIndex(u64::MAX), |(at, _)| *at)
    }

    /// Notes that a version superseded at `superseded` was dropped.
    pub(crate) fn dropped(&self, superseded: LogIndex) {
        self.floor.set(self.floor.get().max(superseded));
    }

    /// Notes that the stored keys from `first` to `last` were put in anew, as of `as_of`.
    pub(crate) fn renewed(&self, first: Bytes, last: Bytes, as_of: LogIndex) {
        assert!(first <= last, "a range of stored keys");
        self.dropped(as_of);
        let oldest = self.oldest();
        let mut renewed = self.renewed.borrow_mut();
        renewed.retain(|range| oldest < range.as_of);
        if oldest < as_of {
            renewed.push(RenewedRange { first, last, as_of });
        }
    }

    /// The ranges of which a read at `at` would not see what was there.
    pub(crate) fn renewed_after(&self, at: LogIndex) -> Vec<RenewedRange> {
        let renewed = self.renewed.borrow();
        let renewed = renewed.iter().filter(|range| at < range.as_of);
        renewed.cloned().collect()
    }

    /// Pins `at` if a read there finds everything.
    pub(crate) fn pin_at(self: &Rc<Self>, at: LogIndex) -> Option<Pin> {
        self.readable(at).then(|| Pin::new(self, at))
    }

    /// Whether a read at `at` finds everything.
    pub(crate) fn readable(&self, at: LogIndex) -> bool {
        let is_pinned = self.counts.borrow().contains_key(&at);
        at >= self.floor.get() || is_pinned || is_planted(Bug::ForgetPins)
    }
}

/// Keeps what a read at one sequence number sees, until it is dropped.
pub struct Pin {
    pins: Rc<Pins>,
    at: LogIndex,
}

impl Pin {
    pub(crate) fn new(pins: &Rc<Pins>, at: LogIndex) -> Self {
        if !is_planted(Bug::ForgetPins) {
            *pins.counts.borrow_mut().entry(at).or_insert(0) += 1;
        }
        Self {
            pins: Rc::clone(pins),
            at,
        }
    }

    /// The sequence number.
    pub fn at(&self) -> LogIndex {
        self.at
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut counts = self.pins.counts.borrow_mut();
        if let Some(count) = counts.get_mut(&self.at) {
            assert!(*count > 0, "a number listed has a pin");
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.at);
            }
        }
    }
}
