//! Where chunks of uploads wait before they are proposed.
//!
//! Only so many bytes of chunks are proposed and not decided: a small write waits behind no more than those, and while such
//! writes come they are fewer, with pauses between them. The others wait here, in the order in which they came, and small
//! writes pass them.
//!
//! Invariant: `bytes` is what the [`LanePlace`]s that are alive add up to.

use super::Group;
use crate::error::GroupError;
use crate::limits::{
    UPLOAD_LANE_BYTES, UPLOAD_LANE_BYTES_BESIDE_WRITES, UPLOAD_LANE_REST_MAX,
    UPLOAD_LANE_WAITING_MAX, WRITES_COUNT_FOR,
};
use crate::types::Payload;
use crate::uploads::ChunkContent;
use bytes::Bytes;
use corelith_io::Instant;
use corelith_io::sync::notify::Notify;
use corelith_wire::ChunkId;
use corelith_wire::upload::UploadReply;
use futures_util::future::select;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;

type Reply = Box<dyn FnOnce(Result<UploadReply, GroupError>)>;

/// A chunk that came, and who is told what became of it.
pub(super) struct Arrived {
    pub(super) chunk: ChunkId,
    pub(super) content: ChunkContent,
    pub(super) payload: Bytes,
    pub(super) reply: Reply,
}

/// See the module. Belongs to one group.
#[derive(Default)]
pub(super) struct ChunkLane {
    /// Bytes that are proposed and not decided.
    bytes: Cell<usize>,
    /// Small writes that came so far.
    writes: Cell<u64>,
    /// How many there were when they were seen to have become more, and when that was.
    writes_seen: Cell<(u64, Option<Instant>)>,
    /// Nothing is proposed before then.
    rests_until: Cell<Option<Instant>>,
    waiting: RefCell<VecDeque<Arrived>>,
    /// Whether a task lets them on.
    attended: Cell<bool>,
    /// Told of each place that is given back, and when those that wait are gone.
    changed: Notify,
}

/// A chunk's place among those that are proposed, given back when dropped.
struct LanePlace {
    lane: Rc<ChunkLane>,
    bytes: usize,
    taken_at: Instant,
}

impl Drop for LanePlace {
    fn drop(&mut self) {
        let before = self.lane.bytes.get();
        assert!(before >= self.bytes, "a place is given back twice");
        self.lane.bytes.set(before - self.bytes);
        self.lane.rest_after(self.taken_at, corelith_io::now());
        self.lane.changed.notify_waiters();
    }
}

impl ChunkLane {
    /// Bytes of chunks that are proposed and not decided.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Notes a small write.
    pub(super) fn note_write(&self) {
        self.writes.set(self.writes.get() + 1);
    }

    /// How many bytes may be proposed and not decided at `now`.
    fn bytes_max(&self, now: Instant) -> usize {
        let (known, mut since) = self.writes_seen.get();
        let writes = self.writes.get();
        assert!(writes >= known, "writes are counted up");
        if writes > known {
            since = Some(now);
            self.writes_seen.set((writes, since));
        }
        match since.is_some_and(|since| now - since < WRITES_COUNT_FOR) {
            true => UPLOAD_LANE_BYTES_BESIDE_WRITES,
            false => UPLOAD_LANE_BYTES,
        }
    }

    /// Beside small writes the lane rests as long as the chunk took that was proposed at `taken_at` and is decided `now`.
    fn rest_after(&self, taken_at: Instant, now: Instant) {
        if self.bytes_max(now) == UPLOAD_LANE_BYTES_BESIDE_WRITES {
            let rest = (now - taken_at).min(UPLOAD_LANE_REST_MAX);
            self.rests_until.set(Some(now + rest));
        }
    }

    /// Until when it rests, if it does at `now`.
    fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.rests_until.get().filter(|until| now < *until)
    }

    /// A place for a chunk, of which a single one always passes while the lane does not rest.
    fn take(self: &Rc<Self>, bytes: usize) -> Option<LanePlace> {
        let (after, now) = (self.bytes.get() + bytes, corelith_io::now());
        let is_full = after > self.bytes_max(now) && self.bytes.get() > 0;
        if is_full || self.rests_until(now).is_some() {
            return None;
        }
        assert!(
            after <= UPLOAD_LANE_BYTES || after == bytes,
            "the lane is bounded"
        );
        self.bytes.set(after);
        Some(LanePlace {
            lane: Rc::clone(self),
            bytes,
            taken_at: now,
        })
    }

    /// Fails what waits.
    pub(super) fn fail(&self, error: &GroupError) {
        self.fail_if_any(|| error.clone());
    }

    /// The same, with an error that is only made if anything waits.
    pub(super) fn fail_if_any(&self, error: impl FnOnce() -> GroupError) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        if waiting.is_empty() {
            return;
        }
        let error = error();
        self.changed.notify_waiters();
        for arrived in waiting {
            (arrived.reply)(Err(error.clone()));
        }
    }
}

impl Group {
    /// Proposes a chunk when its turn has come.
    pub(super) fn queue_chunk(&self, arrived: Arrived) {
        let lane = &self.inner.lane;
        let arrived = match lane.attended.get() {
            false => match self.propose_chunk(arrived) {
                Ok(()) => return,
                Err(arrived) => arrived,
            },
            true => arrived,
        };
        if lane.waiting.borrow().len() >= UPLOAD_LANE_WAITING_MAX {
            return (arrived.reply)(Err(GroupError::Throttled));
        }
        lane.waiting.borrow_mut().push_back(arrived);
        if !lane.attended.replace(true) {
            drop(corelith_io::spawn(self.clone().attend_lane()));
        }
    }

    /// Proposes a chunk, or answers it. It comes back if there is no room for it now.
    fn propose_chunk(&self, arrived: Arrived) -> Result<(), Arrived> {
        let lane = &self.inner.lane;
        if let Some(state) = self.settled_chunk(arrived.chunk, arrived.content) {
            let reply = self.upload_answer(arrived.chunk.upload, state);
            (arrived.reply)(Ok(reply));
            return Ok(());
        }
        let Some(place) = lane.take(arrived.content.len as usize) else {
            return Err(arrived);
        };
        let share = match self.admit(&arrived.payload, true) {
            Ok(share) => share,
            Err(GroupError::Throttled) => return Err(arrived),
            Err(error) => {
                (arrived.reply)(Err(error));
                return Ok(());
            }
        };
        let Arrived {
            chunk,
            content,
            payload,
            reply,
        } = arrived;
        let group = self.clone();
        let payload = Payload::chunk(payload, content);
        self.propose_with(share, payload, move |decided| {
            drop(place);
            reply(decided.and_then(|decided| group.upload_reply(chunk.upload, decided)));
        });
        Ok(())
    }

    async fn attend_lane(self) {
        let inner = &self.inner;
        loop {
            let Some(first) = inner.lane.waiting.borrow_mut().pop_front() else {
                break;
            };
            let Err(first) = self.propose_chunk(first) else {
                continue;
            };
            inner.lane.waiting.borrow_mut().push_front(first);
            if let Some(until) = inner.lane.rests_until(corelith_io::now()) {
                corelith_io::sleep_until(until).await;
                continue;
            }
            let changed = pin!(inner.lane.changed.notified());
            let given_back = pin!(inner.budget.given_back());
            select(changed, given_back).await;
        }
        assert!(
            inner.lane.waiting.borrow().is_empty(),
            "who waits is let on"
        );
        inner.lane.attended.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_io::sim::Sim;
    use std::time::Duration;

    #[test]
    fn chunks_make_room_while_small_writes_come() {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async {
            let (lane, start) = (ChunkLane::default(), corelith_io::now());
            let at = |ms| lane.bytes_max(start + Duration::from_millis(ms));
            assert_eq!(at(0), UPLOAD_LANE_BYTES);
            lane.note_write();
            assert_eq!(at(10), UPLOAD_LANE_BYTES_BESIDE_WRITES);
            assert_eq!(at(1009), UPLOAD_LANE_BYTES_BESIDE_WRITES);
            assert_eq!(at(1010), UPLOAD_LANE_BYTES);
            lane.note_write();
            assert_eq!(at(1500), UPLOAD_LANE_BYTES_BESIDE_WRITES);
        });
    }

    #[test]
    fn the_lane_rests_beside_small_writes() {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async {
            let lane = Rc::new(ChunkLane::default());
            for (took_ms, rests) in [(3, false), (3, true), (40, true)] {
                let began = corelith_io::now();
                let place = lane.take(1000).unwrap();
                corelith_io::sleep(Duration::from_millis(took_ms)).await;
                drop(place);
                let now = corelith_io::now();
                let rest = rests.then(|| (now - began).min(UPLOAD_LANE_REST_MAX));
                let until = lane.rests_until(now);
                let off = until.zip(rest).map(|(until, rest)| (now + rest) - until);
                assert!(
                    off.is_none_or(|off| off < Duration::from_millis(1)),
                    "{off:?}"
                );
                assert_eq!(until.is_some(), rests);
                assert_eq!(lane.take(1000).is_none(), rests);
                corelith_io::sleep(rest.unwrap_or_default()).await;
                assert!(lane.rests_until(corelith_io::now()).is_none());
                lane.note_write();
            }
            assert_eq!(lane.bytes(), 0, "places are given back");
        });
    }
}
