//! The memory that the clients of a core may take, in shares, so that one kind of them cannot starve the
//! others.
//!
//! ```text
//! socket -> frames -----------------------------> requests -> small or large answers -> socket
//!              \-> starts -> (slow) -> uploads -----/
//! ```
//! An upload shows in its start how fast its sender is. Nobody who sends slowly gets further while others wait,
//! except for a part of the share of uploads; and who has become slow goes, see `progress`.
//! Invariants:
//! * Whatever is held for clients has a permit of its share, taken before the memory is: a frame by the length
//!   in its header, an answer by the length that the index knows.
//! * Who holds permits of one share waits only for a later one in the order above, and who holds answers waits
//!   for a socket alone, which has a deadline. So nobody waits in a circle.
//! * Shares are handed out first come, first served.

use crate::node::limits;
use corelith_io::sync::semaphore::{Permit, Semaphore};

/// The budget of a core; clones share it. Belongs to one core.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// Bytes that were received and are not dispatched, of frames up to `FRAME_BYTES_SMALL`.
    pub(super) frames: Semaphore,
    /// The first `UPLOAD_START_BYTES` of longer frames, from their header until all of the frame has its permit.
    /// Frames that are no longer hold it until they are answered.
    pub(super) starts: Semaphore,
    /// Longer frames, from their start until they are answered.
    pub(super) uploads: Semaphore,
    /// What of `uploads` may be held by senders that are slow.
    pub(super) slow_uploads: Semaphore,
    /// Requests from their dispatch until they are answered, and short answers until they are written.
    pub(super) requests: Semaphore,
    small_answers: Semaphore,
    large_answers: Semaphore,
    connections_max: usize,
}

#[cfg(test)]
thread_local! {
    /// The budgets of this thread's tests: all cores of a simulation are on one thread.
    pub(crate) static MADE: std::cell::RefCell<Vec<Budget>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Budget {
    /// Divides `bytes`: a quarter each for connections and long answers, a quarter for uploads and their starts, an
    /// eighth for requests, a sixteenth each for short frames and short answers.
    pub(crate) fn new(bytes: usize) -> Self {
        let connections = bytes / 4 / limits::CONNECTION_BYTES;
        let uploads = bytes / 32 * 5;
        // A fast sender of the longest frame finds room beside all slow ones.
        let slow_uploads = (uploads / 2).min(uploads - limits::UPLOAD_BYTES_MAX);
        let budget = Self {
            frames: Semaphore::new(bytes / 16),
            starts: Semaphore::new(bytes / 32 * 3),
            uploads: Semaphore::new(uploads),
            slow_uploads: Semaphore::new(slow_uploads),
            requests: Semaphore::new(bytes / 8),
            small_answers: Semaphore::new(bytes / 16),
            large_answers: Semaphore::new(bytes / 4),
            connections_max: connections.min(limits::CONNECTIONS_PER_CORE_MAX),
        };
        assert!(
            uploads - slow_uploads >= limits::UPLOAD_BYTES_MAX,
            "a fast sender finds room"
        );
        assert!(
            budget.large_answers.capacity() >= limits::CLIENT_MEMORY_BYTES_MIN as usize / 4,
            "the longest answer has room: the configuration bounds the memory of clients"
        );
        #[cfg(test)]
        MADE.with_borrow_mut(|made| made.push(budget.clone()));
        budget
    }

    /// Clients that may be connected.
    pub(crate) fn connections_max(&self) -> usize {
        self.connections_max
    }

    /// Bytes of answers that one connection may have on their way.
    pub(super) fn credit(&self) -> usize {
        limits::CREDIT_PER_CONNECTION_BYTES.min(self.large_answers.capacity())
    }

    /// The share of an answer of `len` bytes.
    pub(super) fn answers(&self, len: usize) -> &Semaphore {
        if len <= limits::ANSWER_BYTES_SMALL {
            &self.small_answers
        } else {
            &self.large_answers
        }
    }

    /// Whether somebody waits for what connections hold that do not take their answers.
    pub(crate) fn waits_for_readers(&self) -> bool {
        self.requests.is_contended()
            || self.small_answers.is_contended()
            || self.large_answers.is_contended()
    }

    /// What somebody waits for.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            frames: self.frames.is_contended(),
            starts: self.starts.is_contended(),
            uploads: self.uploads.is_contended(),
            readers: self.waits_for_readers(),
        }
    }

    /// Bytes in use, connections aside.
    pub(crate) fn used(&self) -> usize {
        let shares = [
            &self.frames,
            &self.starts,
            &self.uploads,
            &self.requests,
            &self.small_answers,
            &self.large_answers,
        ];
        let used = shares.map(|share| share.capacity() - share.available());
        used.iter().sum()
    }
}

/// Which memory somebody waits for that connections may hold longer than they need to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) frames: bool,
    pub(super) starts: bool,
    pub(super) uploads: bool,
    /// What connections hold that do not take their answers.
    pub(super) readers: bool,
}

/// The right to put an answer of some length into memory: counted against its connection's credit and the
/// core's share.
#[derive(Debug)]
pub(super) struct Grant {
    credit: Permit,
    share: Permit,
}

impl Grant {
    /// Takes it at once, or not at all.
    pub(super) fn now(credit: &Semaphore, budget: &Budget, len: usize) -> Option<Self> {
        let credit = credit.try_acquire(len)?;
        let share = budget.answers(len).try_acquire(len)?;
        Some(Self { credit, share })
    }

    /// Waits for it: first for the connection's credit, so that a connection that asks for much has few places
    /// among those that wait for the share.
    pub(super) async fn wait(credit: &Semaphore, budget: &Budget, len: usize) -> Self {
        let credit = credit.acquire(len).await;
        let share = budget.answers(len).acquire(len).await;
        Self { credit, share }
    }
}

/// What a request holds until it is answered.
#[derive(Debug)]
pub(super) struct Claim {
    /// Of the share of requests or uploads.
    pub(super) request: Permit,
    pub(super) grant: Option<Grant>,
    /// Length of the answer that may be sent.
    pub(super) covered: usize,
}

impl Claim {
    pub(super) fn new(request: Permit) -> Self {
        assert!(
            request.count() >= limits::ANSWER_BYTES_COVERED,
            "a request holds its short answer"
        );
        Self {
            request,
            grant: None,
            covered: limits::ANSWER_BYTES_COVERED,
        }
    }

    /// Gives back the right to a longer answer than every request has.
    pub(super) fn uncover(&mut self) {
        self.grant = None;
        self.covered = limits::ANSWER_BYTES_COVERED;
    }

    /// Adds the right to an answer of `len` bytes.
    pub(super) fn cover(&mut self, grant: Grant, len: usize) {
        assert!(len >= limits::ANSWER_HEAD_BYTES, "an answer has a head");
        self.grant = Some(grant);
        self.covered = len;
    }
}

/// What the answers of a connection hold until they are written.
#[derive(Debug, Default)]
pub(super) struct Held {
    permits: Vec<Permit>,
}

impl Held {
    /// Keeps of `claim` what an answer of `len` bytes needs.
    pub(super) fn keep(&mut self, claim: Claim, len: usize) {
        match claim.grant {
            Some(Grant { credit, share }) => {
                self.merge(credit, len);
                self.merge(share, len);
            }
            None => self.merge(claim.request, len),
        }
    }

    fn merge(&mut self, mut permit: Permit, len: usize) {
        let kept = permit.split(len);
        assert!(
            kept.count() <= len,
            "more is kept than the answer has bytes"
        );
        match self.permits.iter_mut().find(|held| held.is_of_same(&kept)) {
            Some(held) => held.merge(kept),
            None => self.permits.push(kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Claim, Grant, Held};
    use crate::node::limits;
    use corelith_io::sync::semaphore::Semaphore;

    const MIB: usize = 1 << 20;

    #[test]
    fn shares_add_up_to_the_budget() {
        for bytes in [64 * MIB, 256 * MIB, 1024 * MIB] {
            let budget = Budget::new(bytes);
            let shares = [
                budget.frames.capacity(),
                budget.starts.capacity(),
                budget.uploads.capacity(),
                budget.requests.capacity(),
                budget.small_answers.capacity(),
                budget.large_answers.capacity(),
                budget.connections_max() * limits::CONNECTION_BYTES,
            ];
            assert!(shares.iter().sum::<usize>() <= bytes, "{shares:?}");
            let fast = budget.uploads.capacity() - budget.slow_uploads.capacity();
            assert!(fast >= limits::UPLOAD_BYTES_MAX, "{fast}");
        }
    }

    #[test]
    fn an_answer_holds_what_it_has_until_it_is_written() {
        let budget = Budget::new(64 * MIB);
        let credit = Semaphore::new(budget.credit());
        let request = budget.requests.try_acquire(1000).unwrap();
        let mut claim = Claim::new(request);
        let reserved = 9 * MIB;
        claim.cover(Grant::now(&credit, &budget, reserved).unwrap(), reserved);
        assert_eq!(budget.used(), 1000 + reserved);
        assert!(Grant::now(&credit, &budget, reserved).is_none());
        let mut held = Held::default();
        held.keep(claim, MIB);
        assert_eq!(budget.used(), MIB);
        assert_eq!(credit.available(), budget.credit() - MIB);
        held.keep(Claim::new(budget.requests.try_acquire(1000).unwrap()), 50);
        held.keep(Claim::new(budget.requests.try_acquire(1000).unwrap()), 50);
        assert_eq!(budget.used(), MIB + 100);
        assert_eq!(held.permits.len(), 3);
        drop(held);
        assert_eq!(budget.used(), 0);
        assert_eq!(credit.available(), budget.credit());
    }

    #[test]
    fn long_answers_leave_room_for_short_ones() {
        let budget = Budget::new(64 * MIB);
        let all = budget.answers(9 * MIB).try_acquire(usize::MAX).unwrap();
        let credit = Semaphore::new(budget.credit());
        assert!(Grant::now(&credit, &budget, MIB).is_none());
        assert!(Grant::now(&credit, &budget, 10_000).is_some());
        drop(all);
        assert!(Grant::now(&credit, &budget, MIB).is_some());
    }
}
