//! Where a leader's proposals wait while the engine has no room for more.
//!
//! Writes wait before they are proposed, not when they are applied: what is committed is answered
//! soon, and what waits is bounded by the budget of proposals. An applied entry finds room unless all
//! memtables are full (see `state_machine.rs`).
//!
//! The engine counts what is applied, not what comes. So no more is on its way to it than fits into a
//! memtable, and little while it slows writers, so that it can tell how fast they are.
//!
//! Invariant: proposals enter in the order in which they came.

use super::{Group, GroupInner};
use crate::limits::SLOWED_MEMTABLE_PARTS;
use crate::proposal::Responder;
use crate::types::{Payload, Types};
use futures_util::FutureExt;
use openraft::raft::ClientWriteResult;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// What openraft answers a proposal with.
type Answer = ClientWriteResult<Types>;

/// The proposals that wait. Belongs to one core.
#[derive(Default)]
pub(super) struct Entrance {
    waiting: RefCell<VecDeque<(Payload, Responder<Answer>)>>,
    /// Bytes of them.
    waiting_bytes: Cell<usize>,
    /// Whether a task lets them in.
    attended: Cell<bool>,
}

impl Entrance {
    fn push(&self, payload: Payload, responder: Responder<Answer>) {
        let bytes = self.waiting_bytes.get() + payload.body.len();
        self.waiting_bytes.set(bytes);
        self.waiting.borrow_mut().push_back((payload, responder));
    }

    fn pop(&self) -> Option<(Payload, Responder<Answer>)> {
        let (payload, responder) = self.waiting.borrow_mut().pop_front()?;
        let before = self.waiting_bytes.get();
        assert!(
            before >= payload.body.len(),
            "{before} bytes wait, among them one of {}",
            payload.body.len()
        );
        self.waiting_bytes.set(before - payload.body.len());
        Some((payload, responder))
    }

    /// Drops what waits, which answers it.
    pub(super) fn empty(&self) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        self.waiting_bytes.set(0);
        drop(waiting);
    }
}

impl Group {
    /// Hands a proposal to openraft, at once if there is room.
    pub(super) fn enter(&self, payload: Payload, responder: Responder<Answer>) {
        let inner = &self.inner;
        if !inner.entrance.attended.get()
            && inner.engine.has_room()
            && !inner.is_enough_on_its_way()
        {
            return inner.let_propose(payload, responder);
        }
        inner.entrance.push(payload, responder);
        if !inner.entrance.attended.replace(true) {
            drop(corelith_io::spawn(self.clone().attend()));
        }
    }

    async fn attend(self) {
        let inner = &self.inner;
        loop {
            // An error says that the replica has stopped, or is about to: openraft answers.
            let usable = inner.engine.wait_for_room().await.is_ok();
            if usable && inner.is_enough_on_its_way() {
                inner.budget.given_back().await;
                continue;
            }
            let Some((payload, responder)) = inner.entrance.pop() else {
                break;
            };
            inner.let_propose(payload, responder);
        }
        let left = inner.entrance.waiting_bytes.get();
        assert!(left == 0, "nothing waits, and {left} bytes of it");
        inner.entrance.attended.set(false);
    }
}

impl GroupInner {
    /// Whether no more need be on its way to the engine now.
    fn is_enough_on_its_way(&self) -> bool {
        let on_its_way = self
            .budget
            .bytes()
            .saturating_sub(self.entrance.waiting_bytes.get())
            // Chunks go to the value log.
            .saturating_sub(self.lane.bytes());
        let memtable = self.engine.memtable_bytes_max();
        let most = match self.engine.has_room() {
            true => memtable,
            false => memtable / SLOWED_MEMTABLE_PARTS,
        };
        on_its_way > most
    }

    fn let_propose(&self, payload: Payload, responder: Responder<Answer>) {
        if self.is_stopped() {
            // Dropped undecided, the responder answers.
            return drop(responder);
        }
        // Goes into the mailbox at once, where openraft gathers what has piled up: the budget is
        // smaller than the mailbox. If openraft has stopped it drops the responder, which answers, and
        // what it waits for then is that whoever stops it has seen its end.
        let proposing = self.raft.client_write_ff(payload, Some(responder));
        let sent = proposing.now_or_never();
        debug_assert!(
            sent.is_some() || *self.closing.borrow(),
            "the mailbox is larger than the budget"
        );
    }
}
