//! The timers of one core: many sleepers, one wake-up per tick.
//!
//! openraft makes and drops timers at the rate of messages, so that adding and removing one must be
//! cheap. Timers of one tick form a list through a slab; a map orders the ticks that have a list.
//!
//! Invariants: an entry is in the list of its tick exactly if it waits; a tick is in the map exactly
//! if its list has an entry.

use std::collections::BTreeMap;
use std::task::Waker;

/// A timer's place in the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerSlot(usize);

#[derive(Default)]
pub(crate) struct Timers {
    entries: Vec<Timer>,
    free: Vec<TimerSlot>,
    /// The first entry of each tick's list.
    ticks: BTreeMap<u64, TimerSlot>,
}

struct Timer {
    tick: u64,
    waker: Option<Waker>,
    previous: Option<TimerSlot>,
    next: Option<TimerSlot>,
}

impl Timer {
    fn waits_at(&self, tick: u64) -> bool {
        self.waker.is_some() && self.tick == tick
    }
}

impl Timers {
    /// Adds a timer. Returns its slot and whether its tick is the first now.
    pub(crate) fn insert(&mut self, tick: u64, waker: Waker) -> (TimerSlot, bool) {
        let is_first = self.first().is_none_or(|first| tick < first);
        let slot = self.free.pop().unwrap_or(TimerSlot(self.entries.len()));
        let next = self.ticks.insert(tick, slot);
        let entry = Timer {
            tick,
            waker: Some(waker),
            previous: None,
            next,
        };
        match self.entries.get_mut(slot.0) {
            Some(place) => *place = entry,
            None => self.entries.push(entry),
        }
        if let Some(next) = next.and_then(|next| self.entries.get_mut(next.0)) {
            debug_assert!(next.waits_at(tick), "a list has waiting timers only");
            next.previous = Some(slot);
        }
        (slot, is_first)
    }

    /// Has a waiting timer wake another task.
    pub(crate) fn update(&mut self, slot: TimerSlot, waker: &Waker) {
        if let Some(Some(present)) = self.entries.get_mut(slot.0).map(|entry| &mut entry.waker) {
            present.clone_from(waker);
        }
    }

    /// Whether the timer still waits.
    pub(crate) fn waits(&self, slot: TimerSlot) -> bool {
        self.entries
            .get(slot.0)
            .is_some_and(|entry| entry.waker.is_some())
    }

    /// Gives the slot back, whether its timer waits or has fired.
    pub(crate) fn remove(&mut self, slot: TimerSlot) {
        let Some(entry) = self.entries.get_mut(slot.0) else {
            return;
        };
        debug_assert!(!self.free.contains(&slot), "a slot is given back once");
        self.free.push(slot);
        if entry.waker.take().is_none() {
            return;
        }
        let (tick, previous, next) = (entry.tick, entry.previous.take(), entry.next.take());
        if let Some(next) = next.and_then(|next| self.entries.get_mut(next.0)) {
            next.previous = previous;
        }
        match (previous, next) {
            (Some(previous), _) => {
                if let Some(previous) = self.entries.get_mut(previous.0) {
                    previous.next = next;
                }
            }
            (None, Some(next)) => {
                let first = self.ticks.insert(tick, next);
                debug_assert_eq!(first, Some(slot), "a list begins with its first timer");
            }
            (None, None) => {
                let first = self.ticks.remove(&tick);
                debug_assert_eq!(first, Some(slot), "a list begins with its first timer");
            }
        }
    }

    /// The first tick at which a timer waits.
    pub(crate) fn first(&self) -> Option<u64> {
        self.ticks.first_key_value().map(|(tick, _)| *tick)
    }

    /// Takes the wakers of all timers whose tick is at most `now`. Their slots stay taken until
    /// they are removed.
    pub(crate) fn fire(&mut self, now: u64, woken: &mut Vec<Waker>) {
        while let Some(first) = self.ticks.first_entry() {
            if *first.key() > now {
                return;
            }
            let tick = *first.key();
            let mut at = Some(first.remove());
            while let Some(entry) = at.and_then(|slot| self.entries.get_mut(slot.0)) {
                debug_assert!(entry.waits_at(tick), "a list has waiting timers only");
                woken.extend(entry.waker.take());
                entry.previous = None;
                at = entry.next.take();
            }
        }
    }
}

#[cfg(test)]
mod tests;
