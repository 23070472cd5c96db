//! A get whose value is not in memory, or for whose answer there was no room at once.
//!
//! Invariants:
//! * A value is read once there is room for the answer that carries it, and its length is known before that.
//! * Who waits for room neither has a turn at the disk nor holds a value.
//! * `seen` is what was applied when the search began that gave the answer.

use super::answers::Reply;
use crate::node::limits::{DISK_READS_PER_CORE_MAX, DISK_READS_WAITING_MAX};
use bytes::Bytes;
use corelith_io::sync::semaphore::{Permit, Semaphore};
use corelith_shards::{Engine, Found, FoundLarge, LogIndex, Lookup, Result, Sought};
use std::cell::Cell;
use std::rc::Rc;

/// Turns at the disk of one core. Belongs to that core.
pub(super) struct DiskTurns {
    turns: Semaphore,
    waiting: Cell<usize>,
}

impl DiskTurns {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            turns: Semaphore::new(DISK_READS_PER_CORE_MAX),
            waiting: Cell::new(0),
        })
    }

    /// The right to wait for a turn; `None`: too many wait already.
    pub(super) fn right(self: &Rc<Self>) -> Option<DiskTurn> {
        let turns = Rc::clone(self);
        (turns.waiting.get() < DISK_READS_WAITING_MAX).then_some(DiskTurn { turns })
    }

    /// Waits for a turn, however many do.
    pub(super) async fn take(&self) -> Permit {
        self.waiting.set(self.waiting.get() + 1);
        let permit = self.turns.acquire(1).await;
        assert!(self.waiting.get() > 0, "nobody waits for a turn");
        self.waiting.set(self.waiting.get() - 1);
        permit
    }
}

/// The right to wait for turns at the disk.
pub(super) struct DiskTurn {
    turns: Rc<DiskTurns>,
}

impl DiskTurn {
    /// Waits for a turn.
    pub(super) async fn take(&self) -> Permit {
        self.turns.take().await
    }
}

/// What a key has.
pub(super) enum KeyValue {
    Nothing,
    Bytes(Found),
    Large(FoundLarge),
}

/// See the module.
pub(super) struct SlowRead {
    pub(super) engine: Engine,
    pub(super) key: Bytes,
    pub(super) turn: DiskTurn,
    pub(super) seen: LogIndex,
}

impl SlowRead {
    /// Goes on from `lookup` until the value is there and `reply` has room for it; returns it with the last entry
    /// that the search saw applied. `None`: nobody wants it any more.
    pub(super) async fn run(
        mut self,
        mut lookup: Lookup,
        reply: &mut Reply,
    ) -> Option<Result<(KeyValue, LogIndex)>> {
        loop {
            let mut turn = None;
            let sought = match lookup {
                Lookup::Found(found) => Sought::Found(found),
                Lookup::Stored(stored) => Sought::Stored(stored),
                Lookup::Large(large) => Sought::Large(large),
                Lookup::Unknown(search) => {
                    turn = Some(self.turn.take().await);
                    match self.engine.search(&self.key, search).await {
                        Ok(sought) => sought,
                        Err(error) => return Some(Err(error)),
                    }
                }
            };
            let stored = match sought {
                Sought::Found(found) => {
                    let len = found.as_ref().map_or(0, |found| found.value.len());
                    if reply.try_reserve(len) {
                        return Some(Ok((found.into(), self.seen)));
                    }
                    drop((found, turn));
                    if !reply.reserve(len).await {
                        return None;
                    }
                    self.seen = applied(&self.engine);
                    lookup = self.engine.look_up(&self.key);
                    continue;
                }
                Sought::Stored(stored) => stored,
                // Its bytes are not read here.
                Sought::Large(found) => return Some(Ok((KeyValue::Large(found), self.seen))),
            };
            if !reply.try_reserve(stored.value_len()) {
                turn = None;
                if !reply.reserve(stored.value_len()).await {
                    return None;
                }
            }
            let _turn = match turn {
                Some(turn) => turn,
                None => self.turn.take().await,
            };
            let read = self.engine.read(&self.key, stored).await;
            return Some(read.map(|found| (KeyValue::Bytes(found), self.seen)));
        }
    }
}

impl From<Option<Found>> for KeyValue {
    fn from(found: Option<Found>) -> Self {
        found.map_or(Self::Nothing, Self::Bytes)
    }
}

/// The last entry that `engine` has applied, which a search that begins now sees.
pub(super) fn applied(engine: &Engine) -> LogIndex {
    engine.applied().0.map_or(LogIndex(0), |id| id.index)
}
