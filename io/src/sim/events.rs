//! What is to happen in a simulated world, by time.
//!
//! Most timers are taken back long before their time. Such an entry stays in the heap and is passed over, until
//! those are more than the others.
//!
//! Invariants:
//! * Events of one time happen in the order in which they were scheduled.
//! * An entry of the heap stands for an event exactly if its slot has the entry's number.
//! * `taken_back` entries of the heap stand for none.

use super::disk::IoKind;
use super::world::{Node, World};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::task::Waker;

type Action = dyn FnOnce(&Rc<World>);

pub(super) enum SimEvent {
    Wake(Waker),
    /// As `Wake`, at a time that the clock of this node shows.
    Timer(u32, Waker),
    /// A segment arrives that this side of a connection has sent.
    Arrival {
        connection: u64,
        side: usize,
    },
    /// A disk has done an operation, told by its number.
    DiskDone {
        node: Rc<Node>,
        number: u64,
        kind: IoKind,
    },
    Call(Box<Action>),
}

/// Names a scheduled event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventKey {
    number: u64,
    slot: u32,
}

/// No event has this number.
const NO_NUMBER: u64 = u64::MAX;
/// A heap with fewer entries is not worth cleaning.
const CLEANED_LEN_MIN: usize = 256;

/// An entry of the heap: when, and which event.
type HeapEntry = Reverse<(u64, u64, u32)>;

#[derive(Default)]
pub(super) struct EventQueue {
    heap: BinaryHeap<HeapEntry>,
    slots: Vec<EventSlot>,
    free: Vec<u32>,
    taken_back: usize,
    next_number: u64,
}

struct EventSlot {
    at: u64,
    number: u64,
    event: Option<SimEvent>,
}

impl EventQueue {
    pub(super) fn schedule(&mut self, at: u64, event: SimEvent) -> EventKey {
        let number = self.next_number;
        self.next_number += 1;
        let filled = EventSlot {
            at,
            number,
            event: Some(event),
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = filled;
                slot
            }
            None => {
                self.slots.push(filled);
                super::world::number(self.slots.len() - 1)
            }
        };
        self.heap.push(Reverse((at, number, slot)));
        EventKey { number, slot }
    }

    /// The event, if it has not happened.
    pub(super) fn get_mut(&mut self, key: EventKey) -> Option<&mut SimEvent> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        match slot.number == key.number {
            true => slot.event.as_mut(),
            false => None,
        }
    }

    /// Takes an event out that has not happened.
    fn take(&mut self, number: u64, slot: u32) -> Option<SimEvent> {
        let place = self.slots.get_mut(slot as usize)?;
        if place.number != number {
            return None;
        }
        place.number = NO_NUMBER;
        self.free.push(slot);
        place.event.take()
    }

    /// Takes an event back. The caller drops it when it has let go of the queue.
    pub(super) fn cancel(&mut self, key: EventKey) -> Option<SimEvent> {
        let event = self.take(key.number, key.slot)?;
        self.taken_back += 1;
        if self.taken_back > CLEANED_LEN_MIN.max(self.heap.len() / 2) {
            let mut entries = std::mem::take(&mut self.heap).into_vec();
            entries
                .retain(|Reverse((_, number, slot))| self.slots[*slot as usize].number == *number);
            self.heap = BinaryHeap::from(entries);
            self.taken_back = 0;
        }
        Some(event)
    }

    /// Takes the first event out, if its time is at most `until`.
    pub(super) fn pop(&mut self, until: u64) -> Option<(u64, SimEvent)> {
        while let Some(Reverse((at, number, slot))) = self.heap.peek().copied() {
            if at > until {
                return None;
            }
            self.heap.pop();
            if let Some(event) = self.take(number, slot) {
                return Some((at, event));
            }
            assert!(
                self.taken_back > 0,
                "an entry was taken back or stands for an event"
            );
            self.taken_back -= 1;
        }
        None
    }

    pub(super) fn is_empty(&self) -> bool {
        self.heap.len() == self.taken_back
    }

    /// All events, in the order in which they will happen.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &SimEvent> {
        let mut slots: Vec<&EventSlot> = self.slots.iter().collect();
        slots.sort_unstable_by_key(|slot| (slot.at, slot.number));
        slots.into_iter().filter_map(|slot| slot.event.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wake() -> SimEvent {
        SimEvent::Wake(Waker::noop().clone())
    }

    /// Against a sorted list, with events that are taken back before and after they happened.
    #[test]
    fn events_happen_by_time_and_then_in_order() {
        let rng = crate::sim::world::Rng::new(7);
        let mut queue = EventQueue::default();
        let mut model: Vec<(u64, u64, EventKey)> = Vec::new();
        let mut past = Vec::new();
        let mut now = 0;
        for number in 0..50_000 {
            match rng.below(10) {
                0..5 => {
                    let at = now + rng.below(200);
                    model.push((at, number, queue.schedule(at, wake())));
                }
                5..8 if !model.is_empty() => {
                    let at = usize::try_from(rng.below(model.len() as u64)).unwrap();
                    let (_, _, key) = model.swap_remove(at);
                    assert!(queue.get_mut(key).is_some());
                    assert!(queue.cancel(key).is_some());
                    past.push(key);
                }
                _ => {
                    let until = now + rng.below(20);
                    let first = model
                        .iter()
                        .enumerate()
                        .min_by_key(|(_, event)| (event.0, event.1));
                    let first = first.filter(|(_, event)| event.0 <= until);
                    let expected = first.map(|(place, event)| (place, event.0));
                    let found = queue.pop(until).map(|(at, _)| at);
                    assert_eq!(found, expected.map(|(_, at)| at));
                    match expected {
                        Some((place, at)) => {
                            now = at;
                            past.push(model.swap_remove(place).2);
                        }
                        None => now = until,
                    }
                }
            }
            if let Some(key) = past.pop() {
                assert!(queue.get_mut(key).is_none() && queue.cancel(key).is_none());
            }
            assert_eq!(queue.is_empty(), model.is_empty());
            assert_eq!(queue.in_order().count(), model.len());
        }
        assert!(queue.slots.len() < 5_000, "slots are used again");
    }
}
