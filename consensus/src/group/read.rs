//! Linearizable reads at the leader.

use super::Group;
use crate::error::GroupError;
use crate::limits::READERS_WAITING_MAX;
use crate::planted::{Bug, is_planted};
use crate::proposal;
use corelith_io::sync::oneshot;
use corelith_shards::{LogIndex, Term};
use openraft::LinearizerOption;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use std::cell::{Cell, RefCell};
use std::time::Duration;

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
        if inner.stores.voters() > 1 {
            let now = corelith_io::now();
            let holds = match is_planted(Bug::CreditLaterSends) {
                true => inner
                    .data
                    .borrow_watched()
                    .last_quorum_acked
                    .is_some_and(|acked| inner.lease.holds_from(leader, acked.into_inner().0, now)),
                false => inner.lease.holds(leader, now),
            };
            if !holds && !is_planted(Bug::ReadWithoutLease) {
                return None;
            }
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

    /// Has a majority confirm, after now, that this node still leads, and waits until everything
    /// that was committed by then is applied.
    async fn confirm(&self) -> Result<ReadPoint, GroupError> {
        let inner = &*self.inner;
        let began = corelith_io::now();
        // Age zero: an acknowledgement from before does not count.
        let age_max = match is_planted(Bug::ConfirmByOldAnswers) {
            true => inner.options.election_timeout_max * 4,
            false => Duration::ZERO,
        };
        let option = LinearizerOption::new(Some(age_max), true)
            .with_wait_timeout(inner.options.election_timeout_max);
        let linearizer = match inner.raft.get_read_linearizer(option).await {
            Ok(linearizer) => linearizer,
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                return Err(proposal::refusal(&forward));
            }
            Err(RaftError::APIError(_)) => return Err(GroupError::Unavailable),
            Err(RaftError::Fatal(_)) => return Err(inner.why_stopped()),
        };
        // openraft may have counted an answer to what was sent before: see `lease.rs`.
        let leader = inner.leading().ok_or_else(|| inner.not_leading())?;
        let limit = inner.options.election_timeout_max;
        let trusts_openraft =
            is_planted(Bug::CreditLaterSends) || is_planted(Bug::ConfirmByOldAnswers);
        if !trusts_openraft {
            let confirmed = inner.lease.confirmed_since(leader, began);
            let confirmed = corelith_io::timeout(limit, confirmed).await;
            confirmed.map_err(|_| GroupError::Unavailable)?;
        }
        let read = linearizer.read_log_id();
        let term = Term(read.committed_leader_id().term);
        // What followers were told they may have shown.
        let announced = inner.announced_beyond(LogIndex(read.index()));
        let index = announced.unwrap_or(LogIndex(read.index()));
        let mut closing = inner.closing.subscribe();
        let applied = std::pin::pin!(inner.applied.wait(index));
        let closed = std::pin::pin!(closing.wait_for(|closing| *closing));
        match futures_util::future::select(applied, closed).await {
            futures_util::future::Either::Left((true, _)) => Ok(ReadPoint {
                term,
                index: inner.applied_index().unwrap_or(index),
            }),
            _ => Err(inner.why_stopped()),
        }
    }
}
