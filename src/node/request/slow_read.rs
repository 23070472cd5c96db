//! A get whose value is not in memory, or for whose answer there was no room at once.
//!
//! Invariants:
//! * A value is read once there is room for the answer that carries it, and its length is known before that.
//! * Who waits for room neither has a turn at the disk nor holds a value.

use super::answers::Reply;
use super::handler::Handler;
use crate::node::limits::DISK_READS_WAITING_MAX;
use bytes::Bytes;
use corelith_io::sync::semaphore::Permit;
use corelith_shards::{Engine, Found, Lookup, Result, Sought};
use std::rc::Rc;

/// The right to wait for turns at the disk.
pub(super) struct DiskTurn {
    handler: Rc<Handler>,
}

impl DiskTurn {
    /// `None`: too many wait already.
    pub(super) fn new(handler: &Rc<Handler>) -> Option<Self> {
        let handler = Rc::clone(handler);
        (handler.waiting_for_disk.get() < DISK_READS_WAITING_MAX).then_some(Self { handler })
    }

    /// Waits for a turn.
    pub(super) async fn take(&self) -> Permit {
        let waiting = &self.handler.waiting_for_disk;
        waiting.set(waiting.get() + 1);
        let permit = self.handler.disk.acquire(1).await;
        waiting.set(waiting.get() - 1);
        permit
    }
}

/// See the module.
pub(super) struct SlowRead {
    pub(super) engine: Engine,
    pub(super) key: Bytes,
    pub(super) turn: DiskTurn,
}

impl SlowRead {
    /// Goes on from `lookup` until the value is there and `reply` has room for it. `None`: nobody wants it any
    /// more.
    pub(super) async fn run(
        self,
        mut lookup: Lookup,
        reply: &mut Reply,
    ) -> Option<Result<Option<Found>>> {
        loop {
            let mut turn = None;
            let sought = match lookup {
                Lookup::Found(found) => Sought::Found(found),
                Lookup::Stored(stored) => Sought::Stored(stored),
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
                        return Some(Ok(found));
                    }
                    drop((found, turn));
                    if !reply.reserve(len).await {
                        return None;
                    }
                    lookup = self.engine.look_up(&self.key);
                    continue;
                }
                Sought::Stored(stored) => stored,
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
            return Some(self.engine.read(&self.key, stored).await.map(Some));
        }
    }
}
