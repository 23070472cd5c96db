//! The requests in flight on one connection.
//!
//! Invariants: a request id names one request only (slot and generation), so a late answer never
//! reaches another caller; a slot whose answer is still owed by the server keeps its place in the
//! in-flight limit.

use crate::operation::Event;
use corelith_wire::RequestId;
use std::task::Waker;
use std::time::Duration;

#[derive(Debug)]
enum State {
    Free,
    /// A caller waits, at most until then.
    Waiting {
        until: Duration,
        waker: Option<Waker>,
    },
    /// The caller has not taken it yet; `owed` if the server may still answer.
    Done {
        event: Event,
        owed: bool,
    },
    /// No caller waits any more, but the server may still answer.
    Abandoned,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
}

/// The slots of one connection. Owned by it, behind its lock.
#[derive(Debug, Default)]
pub struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// What happened to the in-flight limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// One more request may be sent.
    Freed,
    /// Nothing changed.
    Same,
}

fn id(index: u32, generation: u32) -> RequestId {
    RequestId(u64::from(generation) << 32 | u64::from(index))
}

impl Slots {
    /// How many are in use.
    pub fn in_use(&self) -> usize {
        assert!(self.free.len() <= self.slots.len(), "a slot is free twice");
        self.slots.len() - self.free.len()
    }

    /// Takes a slot for a caller that waits until then.
    pub fn take(&mut self, until: Duration) -> RequestId {
        let state = State::Waiting { until, waker: None };
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            assert!(matches!(slot.state, State::Free), "slot {index} is in use");
            slot.state = state;
            return id(index, slot.generation);
        }
        let index = self.slots.len() as u32;
        self.slots.push(Slot {
            generation: 0,
            state,
        });
        id(index, 0)
    }

    fn slot(&mut self, id: RequestId) -> Option<&mut Slot> {
        // The halves of the id are the slot's place and its generation.
        let (index, generation) = (id.0 as u32, (id.0 >> 32) as u32);
        self.slots
            .get_mut(index as usize)
            .filter(|slot| slot.generation == generation)
    }

    fn release(&mut self, id: RequestId) {
        if let Some(slot) = self.slot(id) {
            assert!(
                !matches!(slot.state, State::Free),
                "{id:?} is given back twice"
            );
            slot.state = State::Free;
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(id.0 as u32);
        }
    }

    /// Hands an answer to its caller, whose waker is returned.
    pub fn answer(&mut self, id: RequestId, event: Event) -> (Room, Option<Waker>) {
        let Some(slot) = self.slot(id) else {
            return (Room::Same, None);
        };
        match &mut slot.state {
            State::Waiting { waker, .. } => {
                let waker = waker.take();
                slot.state = State::Done { event, owed: false };
                (Room::Freed, waker)
            }
            State::Done { owed, .. } if *owed => {
                *owed = false;
                (Room::Freed, None)
            }
            State::Abandoned => {
                self.release(id);
                (Room::Freed, None)
            }
            State::Done { .. } | State::Free => (Room::Same, None),
        }
    }

    /// Gives the caller what came of its request, or remembers whom to wake.
    pub fn poll(&mut self, id: RequestId, waker: &Waker) -> Option<Event> {
        let slot = self.slot(id)?;
        match &mut slot.state {
            State::Waiting { waker: place, .. } => {
                match place {
                    Some(known) => known.clone_from(waker),
                    None => *place = Some(waker.clone()),
                }
                None
            }
            State::Done { .. } => {
                let State::Done { event, owed } =
                    std::mem::replace(&mut slot.state, State::Abandoned)
                else {
                    return None;
                };
                if !owed {
                    self.release(id);
                }
                Some(event)
            }
            State::Free | State::Abandoned => None,
        }
    }

    /// Says that the caller does not wait any more.
    pub fn forget(&mut self, id: RequestId) {
        let Some(slot) = self.slot(id) else {
            return;
        };
        match slot.state {
            State::Waiting { .. } | State::Done { owed: true, .. } => {
                slot.state = State::Abandoned;
            }
            State::Done { .. } => self.release(id),
            State::Free | State::Abandoned => {}
        }
    }

    /// Tells the callers whose time is up by `now` that `event` happened. The answers stay owed.
    pub fn expire(&mut self, now: Duration, event: &Event, wake: &mut Vec<Waker>) {
        for slot in &mut self.slots {
            if let State::Waiting { until, waker } = &mut slot.state
                && *until <= now
            {
                wake.extend(waker.take());
                slot.state = State::Done {
                    event: event.clone(),
                    owed: true,
                };
            }
        }
    }

    /// Tells all callers that `event` happened. Nothing is owed any more.
    pub fn fail_all(&mut self, event: &Event, wake: &mut Vec<Waker>) {
        for index in 0..self.slots.len() as u32 {
            let Some(slot) = self.slots.get_mut(index as usize) else {
                return;
            };
            match &mut slot.state {
                State::Waiting { waker, .. } => {
                    wake.extend(waker.take());
                    slot.state = State::Done {
                        event: event.clone(),
                        owed: false,
                    };
                }
                State::Done { owed, .. } => *owed = false,
                State::Abandoned => {
                    let id = id(index, slot.generation);
                    self.release(id);
                }
                State::Free => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;

    const LOST: Event = Event::Lost(Cause::Timeout);
    const SENT: Event = Event::NotSent(Cause::Closed);
    const UNTIL: Duration = Duration::from_secs(1);

    #[test]
    fn an_answer_reaches_its_caller_and_no_other() {
        let (mut slots, waker) = (Slots::default(), Waker::noop());
        let first = slots.take(UNTIL);
        assert_eq!(slots.poll(first, waker), None);
        assert!(matches!(slots.answer(first, SENT), (Room::Freed, Some(_))));
        assert_eq!(slots.answer(first, LOST).0, Room::Same, "answered twice");
        assert_eq!(slots.poll(first, waker), Some(SENT));
        assert_eq!(slots.in_use(), 0);
        let second = slots.take(UNTIL);
        assert_ne!(first, second);
        assert_eq!(slots.answer(first, LOST).0, Room::Same, "a late answer");
        assert_eq!(slots.poll(second, waker), None);
    }

    #[test]
    fn what_the_server_owes_keeps_its_place() {
        let (mut slots, waker, mut wake) = (Slots::default(), Waker::noop(), Vec::new());
        let (late, dropped, patient) = (
            slots.take(UNTIL),
            slots.take(UNTIL * 2),
            slots.take(UNTIL * 2),
        );
        slots.expire(UNTIL, &LOST, &mut wake);
        assert_eq!(slots.poll(late, waker), Some(LOST));
        slots.forget(dropped);
        assert_eq!(slots.in_use(), 3);
        assert_eq!(slots.answer(late, SENT).0, Room::Freed);
        assert_eq!(slots.answer(dropped, SENT).0, Room::Freed);
        assert_eq!(slots.in_use(), 1);
        assert_eq!(slots.poll(patient, waker), None);
        slots.fail_all(&LOST, &mut wake);
        assert_eq!((slots.poll(patient, waker), wake.len()), (Some(LOST), 1));
        assert_eq!(slots.in_use(), 0);
    }
}
