//! What the write-ahead log and the value log share: writes in flight, the fence, and who waits.
//!
//! Invariants:
//! * Writes are numbered without a gap, in the order in which they are submitted.
//! * The durable prefix is contiguous: a write leaves [`WritesInFlight`] only when all before it have left, and it has
//!   completed itself.
//! * Each write completes once.
//! * The first failure stays, and nothing is taken after it, nor after the close.

use crate::error::{Error, Result};
use crate::planted::{Bug, is_planted};
use corelith_io::sync::notify::Notify;
use corelith_io::{BLOCK_SIZE, Buf};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// A write that is submitted and not durable.
struct Submitted<T> {
    number: u64,
    is_done: bool,
    about: T,
}

/// The writes in flight of one log, oldest first, each with what its owner must know of it then.
pub(crate) struct WritesInFlight<T> {
    /// The number of the next write.
    next: u64,
    writes: VecDeque<Submitted<T>>,
    /// Writes that have not completed.
    uncompleted: usize,
    max: usize,
}

impl<T> WritesInFlight<T> {
    /// None are in flight; the first one gets the number `first`, and there are never more than `max`.
    pub(crate) fn new(first: u64, max: usize) -> Self {
        Self {
            next: first,
            writes: VecDeque::new(),
            uncompleted: 0,
            max,
        }
    }

    /// The number of the next write.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Whether one must become durable before another is submitted.
    pub(crate) fn is_full(&self) -> bool {
        self.writes.len() >= self.max
    }

    /// Whether everything submitted is durable.
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Writes that have not completed.
    pub(crate) fn uncompleted(&self) -> usize {
        self.uncompleted
    }

    /// The oldest write that is not durable.
    pub(crate) fn oldest(&self) -> Option<&T> {
        self.writes.front().map(|write| &write.about)
    }

    /// Notes a write, and returns its number.
    pub(crate) fn submit(&mut self, about: T) -> u64 {
        let last = self.writes.back().map(|write| write.number + 1);
        assert!(last.is_none_or(|last| last == self.next), "a gap in flight");
        let number = self.next;
        self.next += 1;
        self.uncompleted += 1;
        self.writes.push_back(Submitted {
            number,
            is_done: false,
            about,
        });
        self.check();
        number
    }

    /// Notes that a write has completed, well or not.
    pub(crate) fn complete(&mut self, number: u64) {
        assert!(self.uncompleted > 0, "write {number} completed twice");
        self.uncompleted -= 1;
        let write = self.writes.iter_mut().find(|write| write.number == number);
        match write {
            Some(write) => {
                assert!(!write.is_done, "write {number} completed twice");
                write.is_done = true;
            }
            None => assert!(
                is_planted(Bug::IgnoreGaps),
                "write {number} is not in flight"
            ),
        }
        self.check();
    }

    /// Takes the oldest write out if it has completed and `is_ready` says that nothing else is missing: it is
    /// durable.
    pub(crate) fn pop_durable(&mut self, is_ready: impl Fn(&T) -> bool) -> Option<(u64, T)> {
        let skips_gaps = is_planted(Bug::IgnoreGaps) && self.writes.iter().any(|at| at.is_done);
        let write = self
            .writes
            .pop_front_if(|write| (write.is_done || skips_gaps) && is_ready(&write.about))?;
        self.check();
        Some((write.number, write.about))
    }

    fn check(&self) {
        debug_assert!(
            self.uncompleted <= self.writes.len() || is_planted(Bug::IgnoreGaps),
            "{} writes of {} have not completed",
            self.uncompleted,
            self.writes.len()
        );
        debug_assert!(
            self.writes.len() <= self.max,
            "more are in flight than may be"
        );
        debug_assert!(
            self.writes
                .front()
                .is_none_or(|oldest| oldest.number + self.writes.len() as u64 == self.next),
            "a gap in flight"
        );
    }
}

/// Whether a log still takes anything.
#[derive(Default)]
pub(crate) struct Fence {
    failed: Option<Error>,
    is_closed: bool,
}

impl Fence {
    /// Whether the log takes anything.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.is_closed => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// Why the log is fenced, if it is.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failed.clone()
    }

    /// Fences the log. Returns what everybody is told: the first failure.
    pub(crate) fn fail(&mut self, error: Error) -> Error {
        let fenced = match error {
            Error::Fenced(_) | Error::Closed => error,
            other => Error::Fenced(Box::new(other)),
        };
        let first = self.failed.get_or_insert(fenced).clone();
        assert!(self.check().is_err(), "a fenced log takes nothing");
        first
    }

    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        assert!(self.check().is_err(), "a closed log takes nothing");
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Whether nothing new will be written.
    pub(crate) fn is_over(&self) -> bool {
        self.is_closed || self.is_failed()
    }
}

/// Waits until `look` finds something; it looks again whenever there is `progress`.
pub(crate) async fn until<R>(progress: &Notify, mut look: impl FnMut() -> Option<R>) -> R {
    loop {
        let woken = progress.notified();
        if let Some(found) = look() {
            return found;
        }
        woken.await;
    }
}

/// Whether someone who waits for room may go on, with `outstanding` bytes staged that are not durable; `None` while
/// that is not so. At a stop there may never be room.
pub(crate) fn room(
    fence: &Fence,
    outstanding: usize,
    max: usize,
    is_stopping: bool,
) -> Option<Result<()>> {
    match fence.check() {
        Err(error) => Some(Err(error)),
        Ok(()) if outstanding <= max => Some(Ok(())),
        Ok(()) if is_stopping => Some(Err(Error::Closed)),
        Ok(()) => None,
    }
}

/// Whether the task that writes goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    GoesOn,
    IsOver,
}

/// Runs writes, until `submit` says that it is over: it adds those to be begun, and is called again when one was
/// `complete`d or there is more to do, as `woken` tells.
pub(crate) async fn run_writes<W: Future<Output = (u64, Result<()>)>>(
    woken: &Notify,
    mut submit: impl FnMut(&mut FuturesUnordered<W>) -> Writing,
    complete: impl Fn(u64, Result<()>),
) {
    let mut writes = FuturesUnordered::new();
    while submit(&mut writes) == Writing::GoesOn {
        let mut woken = pin!(woken.notified());
        poll_fn(|cx| {
            let mut is_ready = woken.as_mut().poll(cx).is_ready();
            while let Poll::Ready(Some((number, result))) = writes.poll_next_unpin(cx) {
                complete(number, result);
                is_ready = true;
            }
            match is_ready {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
    assert!(writes.is_empty(), "a write is given up");
}

/// The first `len` bytes of `buf`, padded with zeros to whole blocks.
pub(crate) fn padded(mut buf: Buf, len: usize) -> Buf {
    let disk_len = len.next_multiple_of(BLOCK_SIZE);
    assert!(disk_len <= buf.len(), "a buffer is a multiple of a block");
    buf.get_mut(len..disk_len).unwrap_or_default().fill(0);
    if disk_len == buf.len() {
        return buf;
    }
    // A buffer is recycled at the length it was written with. A copy of that length leaves the longest
    // one for the next write; making a new one of 256 KiB costs far more than the copy.
    let mut exact = Buf::alloc(disk_len);
    exact.copy_from_slice(buf.get(..disk_len).unwrap_or_default());
    exact
}

#[cfg(test)]
mod tests;
