//! What a leader does for uploads and large values by itself: it ends uploads whose time has run out, and drops what is dead.
//!
//! A replaced value stays for those who read it. They say so to the leader again and again, so another leader, to which they
//! may have said so, waits as long as a reader is given. Where nothing is open or dead there is nothing to do.
//!
//! Invariants:
//! * All that a leader proposes here is decided when the entry is applied, by the table alone.
//! * Who is told that he holds a value finds all of it: nobody is told so once an entry that drops of it may be on its way,
//!   and none is proposed from then on until he has not asked for long.
//! * What is dead is dropped as fast as the log takes entries, so that those who overwrite values do not outrun it.

use super::holds::ValueHolds;
use super::{Group, GroupInner};
use crate::command::kind;
use crate::error::GroupError;
use crate::limits::{
    DEAD_LOOKED_AT_MAX, DROP_CHUNKS_IN_FLIGHT_MAX, DROP_CHUNKS_MAX, DROPS_IN_FLIGHT_MAX, HOLD_VALUE,
};
use crate::planted::{Bug, is_planted};
use crate::types::LeaderId;
use crate::uploads::entry::{self, DropChunks};
use bytes::Bytes;
use corelith_io::Instant;
use corelith_io::sync::semaphore::Semaphore;
use corelith_shards::Space;
use corelith_wire::{ChunkId, UploadId};
use futures_util::{StreamExt, stream};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// What the leader remembers of those who read, and of its work. Belongs to one group.
#[derive(Default)]
pub(super) struct UploadKeeper {
    held: RefCell<ValueHolds>,
    /// Whether a task is at work.
    works: Cell<bool>,
    /// What it drops now: entries that do so may be on their way.
    dropping: RefCell<BTreeSet<UploadId>>,
    /// Of what is dead the last one that was looked at.
    looked_at: Cell<UploadId>,
    /// The log's time when it was seen to change, and when that was.
    clock: Cell<Option<(u64, Instant)>>,
}

impl UploadKeeper {
    /// Somebody reads a value.
    pub(super) fn hold(&self, upload: UploadId, now: Instant) {
        self.held.borrow_mut().hold(upload, now);
    }

    /// Whether an entry that drops of it may be on its way: it is too late to hold it.
    pub(super) fn is_dropping(&self, upload: UploadId) -> bool {
        self.dropping.borrow().contains(&upload)
    }

    /// Whether somebody may still read a value at `now`, if this replica has led since then.
    fn may_be_read(&self, upload: UploadId, led_since: Option<Instant>, now: Instant) -> bool {
        let has_led_for_long = led_since.is_some_and(|since| now - since >= HOLD_VALUE);
        !has_led_for_long || self.held.borrow().is_held(upload, now)
    }
}

impl Group {
    /// Whether there are uploads that are open, or to be cleared away.
    pub(crate) fn has_uploads(&self) -> bool {
        !self.inner.uploads.borrow().is_at_rest()
    }

    /// Looks whether there is something to do for uploads, every half second, or every two seconds at rest.
    pub(super) fn keep_uploads(&self, now: Instant) {
        let inner = &self.inner;
        inner.keeper.held.borrow_mut().forget_old(now);
        let is_at_rest = inner.uploads.borrow().is_at_rest();
        if is_at_rest || inner.leading().is_none() || inner.keeper.works.get() {
            return;
        }
        // Its time is followed while anything may expire.
        let has_expired = inner.has_expired();
        let dead = inner.droppable(now);
        if !has_expired && dead.is_empty() {
            return;
        }
        inner.keeper.works.set(true);
        let group = self.clone();
        drop(corelith_io::spawn(async move {
            // The lead is lost, or the group is full: the next round goes on.
            if let Err(error) = group.clear_away(dead).await {
                tracing::debug!(shard = %group.shard(), %error, "uploads are cleared away later");
            }
            group.inner.keeper.works.set(false);
        }));
    }

    async fn clear_away(&self, dead: Vec<UploadId>) -> Result<(), GroupError> {
        let inner = &self.inner;
        while inner.has_expired() {
            let body = entry::timed(inner.log_clock_us(), &[]);
            self.propose_step(kind::UPLOAD_EXPIRE, body, false).await?;
        }
        let failed = RefCell::new(None);
        let room = Semaphore::new(DROP_CHUNKS_IN_FLIGHT_MAX);
        let drop_one = |upload| {
            let (failed, room) = (&failed, &room);
            async move {
                if failed.borrow().is_some() {
                    return;
                }
                let dropped = self.drop_dead(upload, room).await;
                // An entry whose fate is lost was lost with the lead; the next one waits for readers anew.
                inner.keeper.dropping.borrow_mut().remove(&upload);
                if let Err(error) = dropped {
                    failed.borrow_mut().get_or_insert(error);
                }
            }
        };
        // To the end, also after a failure: what is on its way is known until its fate is.
        let drops = stream::iter(dead).for_each_concurrent(DROPS_IN_FLIGHT_MAX, drop_one);
        drops.await;
        failed.into_inner().map_or(Ok(()), Err)
    }

    /// Drops all chunks of what is dead, some at a time when there is `room` for them.
    async fn drop_dead(&self, upload: UploadId, room: &Semaphore) -> Result<(), GroupError> {
        let inner = &self.inner;
        let (prefix, mut after) = (upload.key(), Bytes::new());
        while inner.is_droppable(upload, corelith_io::now()) {
            let found = inner
                .engine
                .row_keys(Space::Chunk, &prefix, &after, DROP_CHUNKS_MAX);
            let Ok((keys, more)) = found.await else {
                // Damaged: once it is healed.
                return Ok(());
            };
            assert!(keys.len() <= DROP_CHUNKS_MAX, "an entry drops so many");
            if let Some(last) = keys.last() {
                after = last.clone();
            }
            let least = DROP_CHUNKS_IN_FLIGHT_MAX / DROPS_IN_FLIGHT_MAX;
            let _room = room.acquire(keys.len().max(least)).await;
            // Somebody may have asked for it meanwhile.
            if !inner.is_droppable(upload, corelith_io::now()) {
                break;
            }
            inner.keeper.dropping.borrow_mut().insert(upload);
            let chunks = keys.iter().filter_map(|key| ChunkId::of_key(key));
            let dropped = DropChunks::of(upload, chunks, !more);
            let body = entry::dropping(inner.log_clock_us(), &dropped);
            self.propose_step(kind::UPLOAD_DROP, body, false).await?;
        }
        Ok(())
    }
}

impl GroupInner {
    /// The time for the log: this node's wall clock, and no less than the log's own time and what has passed since.
    pub(super) fn log_clock_us(&self) -> u64 {
        let (time_us, now) = (self.uploads.borrow().time_us(), corelith_io::now());
        let since = match self.keeper.clock.get() {
            Some((known, since)) if known == time_us => since,
            _ => {
                self.keeper.clock.set(Some((time_us, now)));
                now
            }
        };
        let passed = u64::try_from((now - since).as_micros()).unwrap_or(u64::MAX);
        corelith_io::wall_clock().max(time_us.saturating_add(passed))
    }

    fn has_expired(&self) -> bool {
        let now_us = self.log_clock_us();
        let first = self.uploads.borrow().first_expiry_us();
        first.is_some_and(|first| first <= now_us)
    }

    /// What is dead and may be dropped, of those that are looked at in turn.
    fn droppable(&self, now: Instant) -> Vec<UploadId> {
        let Some(leader) = self.leading() else {
            return Vec::new();
        };
        let after = self.keeper.looked_at.get();
        let dead = self.uploads.borrow().dead_after(after, DEAD_LOOKED_AT_MAX);
        if let Some(last) = dead.last() {
            self.keeper.looked_at.set(*last);
        }
        let dead = dead.into_iter();
        dead.filter(|upload| self.may_drop(*upload, leader, now))
            .collect()
    }

    fn is_droppable(&self, upload: UploadId, now: Instant) -> bool {
        let leader = self.leading();
        leader.is_some_and(|leader| self.may_drop(upload, leader, now))
    }

    fn may_drop(&self, upload: UploadId, leader: LeaderId, now: Instant) -> bool {
        let uploads = self.uploads.borrow();
        if !uploads.is_dead(upload) {
            return false;
        }
        let is_value = uploads.is_readable(upload);
        let led_since = self.leads_since(leader);
        let may_be_read = is_value && self.keeper.may_be_read(upload, led_since, now);
        !may_be_read || is_planted(Bug::DropHeldValue)
    }
}
