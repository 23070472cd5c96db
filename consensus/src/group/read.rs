//! Linearizable reads at the leader.

use super::{Group, GroupInner};
use crate::error::GroupError;
use crate::limits::READERS_WAITING_MAX;
use crate::options::Reads;
use crate::planted::{Bug, is_planted};
use crate::types::LeaderId;
use corelith_io::Instant;
use corelith_io::sync::oneshot;
use corelith_shards::{LogIndex, Term};
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::pin::pin;

/// How many lengths of a promise a reader waits at most.
const CONFIRM_PROMISES: u32 = 3;

/// A point of the shard's history that is safe to read from the local engine: the last entry applied here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPoint {
    /// Its term: at a leader its own, at a follower at least that of the leader that named a point.
    pub term: Term,
    /// Everything up to this log index is applied here, every answered write included.
    pub index: LogIndex,
}

pub(super) type Reply = Box<dyn FnOnce(Result<ReadPoint, GroupError>)>;

/// Readers that wait for a confirmation of the leadership to start after they came.
#[derive(Default)]
pub(super) struct Readers {
    waiting: RefCell<Vec<Reply>>,
    confirming: Cell<bool>,
}

impl Readers {
    pub(super) fn fail(&self, error: &GroupError) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for reply in waiting {
            reply(Err(error.clone()));
        }
    }
}

impl Group {
    /// A read point right now, if this replica leads under a valid lease and has applied an entry
    /// of its own term: what the local engine holds then is linearizable. No waiting, no
    /// allocation. `None`: ask [`Group::read_barrier`].
    pub fn try_read_point(&self) -> Option<ReadPoint> {
        let applied = self.under_lease()?;
        let is_behind = self.inner.announced_beyond(applied.index).is_some();
        (!is_behind).then_some(applied)
    }

    /// What is applied, if this replica leads under a valid lease and that is of its own term. Followers may have
    /// shown more.
    pub(super) fn under_lease(&self) -> Option<ReadPoint> {
        let inner = &*self.inner;
        let leader = inner.leading()?;
        let applied = inner.own_applied(leader)?;
        if !inner.stores.is_alone() && !inner.may_answer(leader) {
            return None;
        }
        Some(ReadPoint {
            term: applied.term,
            index: applied.index,
        })
    }

    /// A read point: at once under the lease, else after a majority has confirmed the leadership.
    /// Readers that arrive while a confirmation is on its way share the next one.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn read_barrier(&self) -> Result<ReadPoint, GroupError> {
        if let Some(point) = self.try_read_point() {
            return Ok(point);
        }
        let (sender, receiver) = oneshot::channel();
        self.on_read_point(move |point| {
            // The caller may have given up.
            let _ = sender.send(point);
        });
        receiver.await.unwrap_or(Err(GroupError::Shutdown))
    }

    /// [`Group::read_barrier`] with a callback; it is called exactly once, maybe before this
    /// returns.
    pub fn on_read_point(&self, reply: impl FnOnce(Result<ReadPoint, GroupError>) + 'static) {
        if let Some(point) = self.under_lease() {
            return match self.inner.announced_beyond(point.index) {
                Some(index) => self.answer_once_applied(index, Box::new(reply)),
                None => reply(Ok(point)),
            };
        }
        if *self.inner.closing.borrow() {
            return reply(Err(GroupError::Shutdown));
        }
        if self.inner.leading().is_none() {
            self.inner.doubt_now_and_then();
            return reply(Err(self.inner.not_leading()));
        }
        let readers = &self.inner.readers;
        if readers.waiting.borrow().len() >= READERS_WAITING_MAX {
            return reply(Err(GroupError::Throttled));
        }
        readers.waiting.borrow_mut().push(Box::new(reply));
        assert!(
            readers.waiting.borrow().len() <= READERS_WAITING_MAX,
            "too many readers wait"
        );
        if !readers.confirming.replace(true) {
            drop(corelith_io::spawn(self.clone().confirm_for_readers()));
        }
    }

    async fn confirm_for_readers(self) {
        loop {
            let readers = std::mem::take(&mut *self.inner.readers.waiting.borrow_mut());
            if readers.is_empty() {
                break;
            }
            self.inner.lease.set_reader_waits(true);
            let confirmed = self.confirm().await;
            self.inner.lease.set_reader_waits(false);
            for reply in readers {
                reply(confirmed.clone());
            }
        }
        self.inner.readers.confirming.set(false);
    }

    /// Waits until this node may answer reads that came before now: it holds its lease, or a majority has
    /// confirmed after now that it leads; and has applied an entry of its own.
    async fn confirm(&self) -> Result<ReadPoint, GroupError> {
        let inner = &*self.inner;
        let leader = inner.leading().ok_or_else(|| inner.not_leading())?;
        let limit = inner.liveness.options().promise * CONFIRM_PROMISES;
        let since = match is_planted(Bug::ConfirmByOldAnswers) {
            true => corelith_io::now() - limit,
            false => corelith_io::now(),
        };
        let mut closing = inner.closing.subscribe();
        let confirmed = pin!(corelith_io::timeout(limit, inner.confirmed(leader, since)));
        let closed = pin!(closing.wait_for(|closing| *closing));
        match select(confirmed, closed).await {
            Either::Left((Ok(()), _)) => {}
            Either::Left((Err(corelith_io::Elapsed), _)) => return Err(GroupError::Unavailable),
            Either::Right(_) => return Err(inner.why_stopped()),
        }
        let applied = inner.applied.last();
        match applied.filter(|_| inner.leading() == Some(leader)) {
            Some(applied) => Ok(ReadPoint {
                term: applied.term,
                index: applied.index,
            }),
            None => Err(inner.not_leading()),
        }
    }
}

impl GroupInner {
    /// Whether the lease allows this leader to answer a read that has come.
    fn may_answer(&self, leader: LeaderId) -> bool {
        if is_planted(Bug::ReadWithoutLease) {
            return true;
        }
        let now = match is_planted(Bug::CachedClock) {
            true => self.lead_seen_at(),
            false => corelith_io::now(),
        };
        self.options.reads == Reads::Lease && self.lease.holds(leader, now)
    }

    /// Waits until a majority has acknowledged what `leader` sent at `since` or later, or the lease holds; and an
    /// entry of the leader's own is applied.
    async fn confirmed(&self, leader: LeaderId, since: Instant) {
        let by_lease = async {
            while !self.may_answer(leader) {
                // Until the other way is gone.
                corelith_io::sleep(self.liveness.options().beat / 4).await;
            }
        };
        let by_majority = async {
            // Nothing else may be on its way that could be lost.
            loop {
                self.send_heartbeat();
                let confirmed = self.lease.confirmed_since(leader, since);
                let patience = self.liveness.options().promise;
                if corelith_io::timeout(patience, confirmed).await.is_ok() {
                    return;
                }
            }
        };
        select(pin!(by_majority), pin!(by_lease)).await;
        let first = LogIndex(self.applied.last().map_or(0, |id| id.index.0));
        let mut next = first;
        while !self.has_applied_own(leader) && self.is_leader(leader) {
            next = LogIndex(next.0 + 1);
            if !self.applied.wait(next).await {
                return;
            }
            next = self.applied_index().unwrap_or(next);
        }
        // What followers were told they may have shown.
        while self.is_leader(leader)
            && let Some(announced) = self.announced_beyond(self.applied_index().unwrap_or_default())
            && self.applied.wait(announced).await
        {}
    }
}
