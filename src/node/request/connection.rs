//! What reader, writer and answers of a client's connection share.
//!
//! Invariants:
//! * Every dispatched request gets exactly one answer, or its connection is closed.
//! * `in_flight` counts dispatched requests without an answer; while it or the waiting answers are
//!   at their bound the socket is not read, so a client that sends too much or reads too slowly
//!   stops itself.
//! * The core's budget counts the bytes of requests in flight and of waiting answers.

use super::budget::Budget;
use crate::node::limits;
use crate::node::mesh::ConnectionId;
use corelith_io::Instant;
use corelith_io::sync::notify::Notify;
use corelith_wire::response::{self, Answer};
use corelith_wire::{Epoch, Head, Outbox};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What reader, writer and answers share of a connection. Belongs to one core.
pub(crate) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) epoch: Epoch,
    pub(super) budget: Budget,
    pub(super) outbox: RefCell<Outbox>,
    /// Bytes in `outbox`, and in the batch that is being written.
    pub(super) waiting_bytes: Cell<usize>,
    pub(super) in_flight: Cell<u32>,
    /// Bytes of the requests in flight, as counted in the budget.
    pub(super) request_bytes: Cell<usize>,
    /// Set once: nothing is read any more, what is ready is written, then the socket is closed.
    pub(super) closing: Cell<bool>,
    /// When the frame that is half there must be complete.
    pub(super) frame_deadline: Cell<Option<Instant>>,
    /// When the write under way must have made progress.
    pub(super) write_deadline: Cell<Option<Instant>>,
    pub(super) to_write: Notify,
    pub(super) room: Notify,
    pub(super) cut: Notify,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, epoch: Epoch, budget: Budget) -> Rc<Self> {
        Rc::new(Self {
            id,
            epoch,
            budget,
            outbox: RefCell::new(Outbox::with_capacity(limits::ANSWER_BUFFER_BYTES)),
            waiting_bytes: Cell::new(0),
            in_flight: Cell::new(0),
            request_bytes: Cell::new(0),
            closing: Cell::new(false),
            frame_deadline: Cell::new(None),
            write_deadline: Cell::new(None),
            to_write: Notify::new(),
            room: Notify::new(),
            cut: Notify::new(),
        })
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// Stops reading; what is ready is still written.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.to_write.notify_one();
        self.room.notify_one();
    }

    /// Closes at once, whatever is under way.
    pub(crate) fn cut(&self) {
        self.closing.set(true);
        self.cut.notify_one();
    }

    /// Closes if a deadline has passed.
    pub(crate) fn check_deadlines(&self, now: Instant) {
        let passed = |deadline: &Cell<Option<Instant>>| deadline.get().is_some_and(|at| at < now);
        if passed(&self.frame_deadline) || passed(&self.write_deadline) {
            tracing::info!(
                connection = self.id.0,
                "closing a connection that is too slow"
            );
            self.cut();
        }
    }

    /// Counts a request as in flight if there is room for it in the core's memory.
    pub(crate) fn admit(&self, len: usize) -> bool {
        if !self.budget.has_room(len) {
            return false;
        }
        self.budget.add(len);
        self.request_bytes.set(self.request_bytes.get() + len);
        self.in_flight.set(self.in_flight.get() + 1);
        true
    }

    /// Appends the answer to a request of `request_len` bytes that was admitted.
    pub(crate) fn answer(&self, head: Head, request_len: usize, answer: &Answer) {
        self.budget.sub(request_len);
        self.request_bytes
            .set(self.request_bytes.get() - request_len);
        self.in_flight.set(self.in_flight.get() - 1);
        self.refuse(head, answer);
        self.room.notify_one();
    }

    /// Appends the answer to a request that was not admitted.
    pub(crate) fn refuse(&self, head: Head, answer: &Answer) {
        if self.closing.get() {
            return;
        }
        let mut outbox = self.outbox.borrow_mut();
        let before = outbox.len();
        response::encode(&mut outbox, head.answer(head.kind, self.epoch), answer);
        let added = outbox.len() - before;
        self.budget.add(added);
        self.waiting_bytes.set(self.waiting_bytes.get() + added);
        self.to_write.notify_one();
    }

    fn may_read(&self) -> bool {
        self.in_flight.get() < limits::IN_FLIGHT_PER_CONNECTION_MAX
            && self.waiting_bytes.get() < limits::ANSWERS_PER_CONNECTION_BYTES_MAX
    }

    /// Waits until more may be read; returns whether the connection is still open.
    pub(super) async fn wait_for_room(&self) -> bool {
        while !self.closing.get() && !self.may_read() {
            self.room.notified().await;
        }
        !self.closing.get()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.budget
            .sub(self.waiting_bytes.get() + self.request_bytes.get());
    }
}
