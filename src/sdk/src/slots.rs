//! The requests in flight on one connection.
//!
//! Invariants: a request id (slot and generation) names one request only, so a late answer never reaches
//! another caller; a slot whose answer the server still owes counts toward the in-flight limit.

use crate::limits::{
    LONG_REQUEST_BYTES, SILENCE_DOUBT, TRAVEL_MAX, UPLINK_BYTES_PER_SECOND_MIN, WAIT_DOUBT,
};
use crate::operation::Event;
use corelith_wire::{RequestId, ShardId};
use std::collections::BTreeSet;
use std::task::Waker;
use std::time::Duration;

/// A request that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The shard that it is about, `None` if it is about the node.
    pub shard: Option<ShardId>,
    /// When it is sent.
    pub from: Duration,
    /// How long its caller waits.
    pub until: Duration,
}

#[derive(Debug)]
enum SlotState {
    Free,
    /// A caller waits, at most until its deadline.
    Waiting {
        call: Call,
        waker: Option<Waker>,
    },
    /// The caller has not taken the outcome yet; `owed` if the server may still answer.
    Done {
        event: Event,
        owed: bool,
    },
    /// The caller has gone, but the server may still answer.
    Abandoned,
}

#[derive(Debug)]
struct RequestSlot {
    generation: u32,
    state: SlotState,
    /// Its bytes, if they are many and the server owes the answer.
    bytes: usize,
}

/// The slots of one connection. Owned by it, behind its lock.
#[derive(Debug, Default)]
pub struct Slots {
    slots: Vec<RequestSlot>,
    free: Vec<u32>,
    /// Those of all slots: what may still be on its way to the server.
    bytes: usize,
}

/// The effect of an answer on the in-flight limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// One more request may be sent.
    Freed,
    /// Nothing changed.
    Same,
}

/// How long so many bytes travel on the slowest uplink that is fast enough.
fn travel(bytes: usize) -> Duration {
    let ms = bytes as u64 * 1000 / UPLINK_BYTES_PER_SECOND_MIN;
    Duration::from_millis(ms).min(TRAVEL_MAX)
}

fn id(index: u32, generation: u32) -> RequestId {
    RequestId(u64::from(generation) << 32 | u64::from(index))
}

impl Slots {
    /// Number of slots in use.
    pub fn in_use(&self) -> usize {
        assert!(self.free.len() <= self.slots.len(), "a slot is free twice");
        self.slots.len() - self.free.len()
    }

    /// Takes a slot for a caller.
    pub fn take(&mut self, call: Call) -> RequestId {
        let state = SlotState::Waiting { call, waker: None };
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            assert!(
                matches!(slot.state, SlotState::Free),
                "slot {index} is in use"
            );
            slot.state = state;
            return id(index, slot.generation);
        }
        let index = self.slots.len() as u32;
        self.slots.push(RequestSlot {
            generation: 0,
            state,
            bytes: 0,
        });
        id(index, 0)
    }

    /// Notes that a request which was just taken has so many bytes. Its caller waits longer by the time that they and those
    /// before them may travel, though not beyond `end` for that.
    pub fn carries(&mut self, id: RequestId, bytes: usize, end: Duration) {
        if bytes < LONG_REQUEST_BYTES {
            return;
        }
        let all = self.bytes + bytes;
        let Some(slot) = self.slot(id) else {
            return;
        };
        assert_eq!(slot.bytes, 0, "{id:?} is sent twice");
        slot.bytes = bytes;
        if let SlotState::Waiting { call, .. } = &mut slot.state {
            call.until = call.until.max(end.min(call.until + travel(all)));
        }
        self.bytes = all;
    }

    /// How long what is in flight may still travel, at most.
    pub fn travel(&self) -> Duration {
        travel(self.bytes)
    }

    fn slot(&mut self, id: RequestId) -> Option<&mut RequestSlot> {
        // The halves of the id are the slot's index and its generation.
        let (index, generation) = (id.0 as u32, (id.0 >> 32) as u32);
        self.slots
            .get_mut(index as usize)
            .filter(|slot| slot.generation == generation)
    }

    fn release(&mut self, id: RequestId) {
        if let Some(slot) = self.slot(id) {
            assert!(
                !matches!(slot.state, SlotState::Free),
                "{id:?} is given back twice"
            );
            assert_eq!(slot.bytes, 0, "the answer to {id:?} is owed");
            slot.state = SlotState::Free;
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(id.0 as u32);
        }
    }

    /// Stores an answer for its caller. Returns the caller's waker.
    pub fn answer(&mut self, id: RequestId, event: Event) -> (Room, Option<Waker>) {
        let Some(slot) = self.slot(id) else {
            return (Room::Same, None);
        };
        let arrived = std::mem::take(&mut slot.bytes);
        self.bytes -= arrived;
        let Some(slot) = self.slot(id) else {
            return (Room::Same, None);
        };
        match &mut slot.state {
            SlotState::Waiting { waker, .. } => {
                let waker = waker.take();
                slot.state = SlotState::Done { event, owed: false };
                (Room::Freed, waker)
            }
            SlotState::Done { owed, .. } if *owed => {
                *owed = false;
                (Room::Freed, None)
            }
            SlotState::Abandoned => {
                self.release(id);
                (Room::Freed, None)
            }
            SlotState::Done { .. } | SlotState::Free => (Room::Same, None),
        }
    }

    /// The outcome of the caller's request; `None` if there is none yet, and then `waker` is woken later.
    pub fn poll(&mut self, id: RequestId, waker: &Waker) -> Option<Event> {
        let slot = self.slot(id)?;
        match &mut slot.state {
            SlotState::Waiting { waker: place, .. } => {
                match place {
                    Some(known) => known.clone_from(waker),
                    None => *place = Some(waker.clone()),
                }
                None
            }
            SlotState::Done { .. } => {
                let SlotState::Done { event, owed } =
                    std::mem::replace(&mut slot.state, SlotState::Abandoned)
                else {
                    return None;
                };
                if !owed {
                    self.release(id);
                }
                Some(event)
            }
            SlotState::Free | SlotState::Abandoned => None,
        }
    }

    /// Gives up a slot whose caller no longer waits.
    pub fn forget(&mut self, id: RequestId) {
        let Some(slot) = self.slot(id) else {
            return;
        };
        match slot.state {
            SlotState::Waiting { .. } | SlotState::Done { owed: true, .. } => {
                slot.state = SlotState::Abandoned;
            }
            SlotState::Done { .. } => self.release(id),
            SlotState::Free | SlotState::Abandoned => {}
        }
    }

    /// Ends the requests whose deadline is past at `now` with `event`. The server still owes the answers.
    pub fn expire(&mut self, now: Duration, event: &Event, wake: &mut Vec<Waker>) {
        for slot in &mut self.slots {
            if let SlotState::Waiting { call, waker } = &mut slot.state
                && call.until <= now
            {
                wake.extend(waker.take());
                slot.state = SlotState::Done {
                    event: event.clone(),
                    owed: true,
                };
            }
        }
    }

    /// Shards with requests that have waited so long that their leader is in doubt. Bytes arrived last at `heard`.
    pub fn in_doubt(&self, heard: Duration, now: Duration) -> BTreeSet<ShardId> {
        let silent = now.saturating_sub(heard) >= SILENCE_DOUBT;
        let patience = if silent { SILENCE_DOUBT } else { WAIT_DOUBT };
        let late = self.slots.iter().filter_map(|slot| match &slot.state {
            SlotState::Waiting { call, .. } if now.saturating_sub(call.from) >= patience => {
                call.shard
            }
            _ => None,
        });
        late.collect()
    }

    /// Ends the requests to these shards, since another node leads them. The server still owes the answers.
    pub fn moved(&mut self, shards: &[ShardId], wake: &mut Vec<Waker>) {
        for slot in &mut self.slots {
            if let SlotState::Waiting { call, waker } = &mut slot.state
                && call.shard.is_some_and(|shard| shards.contains(&shard))
            {
                wake.extend(waker.take());
                let event = Event::Moved;
                slot.state = SlotState::Done { event, owed: true };
            }
        }
    }

    /// Ends all requests with `event`. The server owes no answers any more.
    pub fn fail_all(&mut self, event: &Event, wake: &mut Vec<Waker>) {
        self.bytes = 0;
        for index in 0..self.slots.len() as u32 {
            let Some(slot) = self.slots.get_mut(index as usize) else {
                return;
            };
            slot.bytes = 0;
            match &mut slot.state {
                SlotState::Waiting { waker, .. } => {
                    wake.extend(waker.take());
                    slot.state = SlotState::Done {
                        event: event.clone(),
                        owed: false,
                    };
                }
                SlotState::Done { owed, .. } => *owed = false,
                SlotState::Abandoned => {
                    let id = id(index, slot.generation);
                    self.release(id);
                }
                SlotState::Free => {}
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

    fn call(until: Duration) -> Call {
        Call {
            shard: Some(ShardId(1)),
            from: Duration::ZERO,
            until,
        }
    }

    #[test]
    fn an_answer_reaches_its_caller_and_no_other() {
        let (mut slots, waker) = (Slots::default(), Waker::noop());
        let first = slots.take(call(UNTIL));
        assert_eq!(slots.poll(first, waker), None);
        assert!(matches!(slots.answer(first, SENT), (Room::Freed, Some(_))));
        assert_eq!(slots.answer(first, LOST).0, Room::Same, "answered twice");
        assert_eq!(slots.poll(first, waker), Some(SENT));
        assert_eq!(slots.in_use(), 0);
        let second = slots.take(call(UNTIL));
        assert_ne!(first, second);
        assert_eq!(slots.answer(first, LOST).0, Room::Same, "a late answer");
        assert_eq!(slots.poll(second, waker), None);
    }

    #[test]
    fn what_the_server_owes_keeps_its_place() {
        let (mut slots, waker, mut wake) = (Slots::default(), Waker::noop(), Vec::new());
        let (late, dropped, patient) = (
            slots.take(call(UNTIL)),
            slots.take(call(UNTIL * 2)),
            slots.take(call(UNTIL * 2)),
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

    #[test]
    fn long_requests_have_the_time_that_they_and_those_before_them_travel() {
        let mut slots = Slots::default();
        let second = UPLINK_BYTES_PER_SECOND_MIN as usize;
        let mut wake = Vec::new();
        // (bytes, the end of what is allowed, when it expires, how long all may travel)
        let at = Duration::from_secs;
        let taken: Vec<_> = [
            (LONG_REQUEST_BYTES - 1, at(99), at(1), at(0)),
            (4 * second, at(99), at(5), at(4)),
            (4 * second, at(99), at(9), at(8)),
            (second, at(7), at(7), at(9)),
            (second, at(0), at(1), at(10)),
            (1000 * second, at(999), at(1) + TRAVEL_MAX, TRAVEL_MAX),
        ]
        .into_iter()
        .map(|(bytes, end, expires, travel)| {
            let id = slots.take(call(UNTIL));
            slots.carries(id, bytes, end);
            assert_eq!(slots.travel(), travel, "{bytes}");
            (id, expires)
        })
        .collect();
        let mut expired = Vec::new();
        for tick in 0..=130 {
            slots.expire(at(tick), &LOST, &mut wake);
            for (id, expires) in &taken {
                if slots.poll(*id, Waker::noop()).is_some() {
                    assert_eq!(*expires, at(tick));
                    expired.push(*id);
                }
            }
        }
        assert_eq!(expired.len(), taken.len());
        // What the server owes may be on its way still.
        assert_eq!(slots.travel(), TRAVEL_MAX);
        slots.answer(taken[5].0, SENT);
        assert_eq!(slots.travel(), at(10));
        slots.fail_all(&LOST, &mut wake);
        assert_eq!((slots.travel(), slots.in_use()), (at(0), 0));
    }

    #[test]
    fn requests_are_in_doubt_after_silence_or_after_a_longer_wait() {
        let at = Duration::from_millis;
        let mut slots = Slots::default();
        let mut take = |shard, from| {
            slots.take(Call {
                shard,
                from: at(from),
                until: UNTIL,
            })
        };
        take(Some(ShardId(1)), 1000);
        take(Some(ShardId(2)), 1050);
        take(None, 0);
        // (bytes arrived last, now, shards in doubt)
        for (heard, now, expected) in [
            (1000, 1119, &[][..]),
            (1000, 1120, &[1]),
            (1000, 1170, &[1, 2]),
            (1100, 1219, &[]),
            (1390, 1399, &[]),
            (1390, 1400, &[1]),
            (1449, 1450, &[1, 2]),
        ] {
            let found: Vec<u32> = slots
                .in_doubt(at(heard), at(now))
                .iter()
                .map(|s| s.0)
                .collect();
            assert_eq!(found, expected, "heard at {heard}, now {now}");
        }
    }

    #[test]
    fn requests_move_with_the_lead_of_their_shard() {
        let (mut slots, waker, mut wake) = (Slots::default(), Waker::noop(), Vec::new());
        let mut take = |shard| {
            let shard = Some(ShardId(shard));
            slots.take(Call {
                shard,
                ..call(UNTIL)
            })
        };
        let (moves, stays) = (take(1), take(2));
        slots.moved(&[ShardId(1), ShardId(7)], &mut wake);
        assert_eq!(slots.poll(moves, waker), Some(Event::Moved));
        assert_eq!(slots.poll(stays, waker), None);
        assert_eq!(slots.in_use(), 2, "its answer may still come");
        assert_eq!(slots.answer(moves, SENT).0, Room::Freed);
    }
}
