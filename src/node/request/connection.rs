//! What reader, writer and answers of a client's connection share.
//!
//! Invariants:
//! * Every dispatched request gets exactly one answer, or its connection is closed.
//! * `in_flight` counts dispatched requests without an answer; while it or the waiting answers are
//!   at their bound, or a request waits for room for its answer, no further one is dispatched and the socket is
//!   not read: a client that sends too much or reads too slowly stops itself.
//! * What waits in `answers` holds its share of the core's budget.
//! * An idle connection holds no buffer.

use super::budget::{Budget, Claim, Grant, Held};
use super::progress::{ConnectionProgress, TooSlow};
use crate::node::cluster::map_watch::MapWatch;
use crate::node::limits;
use corelith_io::Instant;
use corelith_io::sync::notify::Notify;
use corelith_io::sync::semaphore::Semaphore;
use corelith_wire::response::{self, Answer, Failure, ReplyMeta};
use corelith_wire::{Epoch, Head, Kind, Outbox};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

/// What the connections of one core share. Belongs to that core.
pub(crate) struct Commons {
    map: Rc<MapWatch>,
    pub(super) budget: Budget,
    /// Idle answer buffers: a connection has one only while answers wait.
    outboxes: RefCell<Vec<Outbox>>,
}

impl Commons {
    pub(crate) fn new(map: Rc<MapWatch>, budget: Budget) -> Rc<Self> {
        Rc::new(Self {
            map,
            budget,
            outboxes: RefCell::default(),
        })
    }

    /// The epoch of the newest map.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.map.now().epoch)
    }

    fn outbox(&self) -> Outbox {
        let idle = self.outboxes.borrow_mut().pop();
        idle.unwrap_or_else(|| Outbox::with_capacity(limits::ANSWER_BUFFER_BYTES))
    }

    fn recycle(&self, mut outbox: Outbox) {
        let mut outboxes = self.outboxes.borrow_mut();
        let is_wanted = outbox.buffer().capacity() <= limits::ANSWER_BUFFER_BYTES_KEPT
            && outboxes.len() < limits::ANSWER_BUFFERS_KEPT;
        if is_wanted {
            outbox.clear();
            assert!(
                outbox.is_empty(),
                "an answer would be sent to somebody else"
            );
            outboxes.push(outbox);
        }
    }
}

/// Answers to be written, and what they hold until they are.
pub(super) struct Answers {
    pub(super) outbox: Outbox,
    held: Held,
}

/// What reader, writer and answers share of a connection. Belongs to one core.
pub(crate) struct Connection {
    pub(super) peer: SocketAddr,
    /// Of the protocol.
    version: u16,
    pub(super) commons: Rc<Commons>,
    /// Bytes of answers that this connection may have on their way.
    credit: Semaphore,
    answers: RefCell<Option<Answers>>,
    /// Bytes in `answers`, and in the batch that is being written.
    waiting_bytes: Cell<usize>,
    in_flight: Cell<u32>,
    /// Requests that wait for room for their answers.
    without_room: Cell<u32>,
    /// Set once: nothing is read any more, what is ready is written, then the socket is closed.
    pub(super) closing: Cell<bool>,
    pub(super) progress: ConnectionProgress,
    to_write: Notify,
    room: Notify,
    pub(super) cut: Notify,
    /// Nothing more is read: what comes is refused.
    pub(super) refused: Notify,
    /// The long request that is being received.
    pub(super) upload: Cell<Option<Head>>,
}

/// Counts a request that waits for room for its answer.
pub(super) struct WithoutRoom {
    connection: Rc<Connection>,
}

impl Drop for WithoutRoom {
    fn drop(&mut self) {
        let count = &self.connection.without_room;
        assert!(count.get() > 0, "nobody waits for room");
        count.set(count.get() - 1);
        self.connection.room.notify_one();
    }
}

impl Connection {
    /// A connection that speaks `version` of the protocol.
    pub(crate) fn new(peer: SocketAddr, version: u16, commons: Rc<Commons>) -> Rc<Self> {
        let credit = Semaphore::new(commons.budget.credit());
        Rc::new(Self {
            peer,
            version,
            commons,
            credit,
            answers: RefCell::default(),
            waiting_bytes: Cell::new(0),
            in_flight: Cell::new(0),
            without_room: Cell::new(0),
            closing: Cell::new(false),
            progress: ConnectionProgress::new(corelith_io::now()),
            to_write: Notify::new(),
            room: Notify::new(),
            cut: Notify::new(),
            refused: Notify::new(),
            upload: Cell::new(None),
        })
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.commons.budget
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

    /// Since when nothing has gone on here; `None` while something does.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.in_flight.get() == 0 && self.waiting_bytes.get() == 0;
        is_idle.then(|| self.progress.last())
    }

    /// Closes if a deadline has passed, or if others wait for what this connection does not give back.
    pub(crate) fn check_deadlines(&self, now: Instant) {
        let Some(why) = self.progress.check(now, self.budget().wanted()) else {
            return;
        };
        tracing::info!(peer = %self.peer, why = why.text(), "closing a connection that is too slow");
        match self.upload.take() {
            Some(request) if why == TooSlow::Uploads => self.refuse_upload(request),
            _ => self.cut(),
        }
    }

    /// Refuses the long request that is being received and closes, once answers that are ready are written.
    fn refuse_upload(&self, request: Head) {
        let head = Head {
            kind: Kind::FAILURE,
            ..request
        };
        let failure = Failure::Throttled {
            retry_after_ms: limits::SLOW_UPLOAD_RETRY_AFTER.as_millis() as u32,
        };
        let meta = ReplyMeta::default();
        self.refuse(head, &Answer::Failure { meta, failure });
        self.refused.notify_one();
    }

    /// Counts a request as in flight.
    pub(super) fn admit(&self) {
        assert!(
            self.in_flight.get() < limits::IN_FLIGHT_PER_CONNECTION_MAX,
            "a request was dispatched beyond the bound"
        );
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// Notes the part of a frame that is there, and the length of the whole frame if it is known.
    pub(super) fn expect_frame(&self, part: usize, whole: Option<usize>) {
        self.progress.expect_frame(part, whole, corelith_io::now());
    }

    /// Notes that bytes came.
    pub(super) fn received(&self, len: usize) {
        self.progress.received(len, corelith_io::now());
    }

    /// Takes the right to an answer of `len` bytes if there is room now and nobody waits for it.
    pub(super) fn grant_now(&self, len: usize) -> Option<Grant> {
        Grant::now(&self.credit, self.budget(), len)
    }

    /// Waits for the right to an answer of `len` bytes. `None`: the connection takes no answers any more.
    pub(super) async fn grant(&self, len: usize) -> Option<Grant> {
        let grant = Grant::wait(&self.credit, self.budget(), len).await;
        (!self.closing.get()).then_some(grant)
    }

    /// Notes that a request of this connection waits for room, for as long as the returned value lives.
    pub(super) fn without_room(self: &Rc<Self>) -> WithoutRoom {
        self.without_room.set(self.without_room.get() + 1);
        WithoutRoom {
            connection: Rc::clone(self),
        }
    }

    /// Appends the answer to a request that was admitted and holds `claim`.
    pub(super) fn answer(&self, head: Head, claim: Claim, answer: &Answer) {
        assert!(self.in_flight.get() > 0, "a request was answered twice");
        self.in_flight.set(self.in_flight.get() - 1);
        self.append(head, Some(claim), answer);
        self.room.notify_one();
    }

    /// Appends a last answer that belongs to no request.
    pub(super) fn refuse(&self, head: Head, answer: &Answer) {
        self.append(head, None, answer);
    }

    fn append(&self, head: Head, claim: Option<Claim>, answer: &Answer) {
        if self.closing.get() {
            return;
        }
        let mut answers = self.answers.borrow_mut();
        let answers = answers.get_or_insert_with(|| Answers {
            outbox: self.commons.outbox(),
            held: Held::default(),
        });
        let before = answers.outbox.len();
        let head = head.answer(head.kind, self.commons.epoch());
        response::encode_for(self.version, &mut answers.outbox, head, answer);
        let added = answers.outbox.len() - before;
        if let Some(claim) = claim {
            debug_assert!(
                added <= claim.covered,
                "{added} bytes of {claim:?}: {answer:?}"
            );
            answers.held.keep(claim, added);
        }
        self.waiting_bytes.set(self.waiting_bytes.get() + added);
        self.to_write.notify_one();
    }

    fn may_read(&self) -> bool {
        self.in_flight.get() < limits::IN_FLIGHT_PER_CONNECTION_MAX
            && self.waiting_bytes.get() < limits::ANSWERS_PER_CONNECTION_BYTES_MAX
            && self.without_room.get() == 0
    }

    /// Waits until more may be read and dispatched; returns whether the connection is still open.
    pub(super) async fn wait_for_room(&self) -> bool {
        while !self.closing.get() && !self.may_read() {
            self.room.notified().await;
        }
        !self.closing.get()
    }

    /// The answers that are ready, waiting for the first one; `None`: there are none and will be none.
    pub(super) async fn ready(&self) -> Option<Answers> {
        loop {
            if let Some(answers) = self.answers.borrow_mut().take() {
                return Some(answers);
            }
            if self.closing.get() {
                return None;
            }
            self.to_write.notified().await;
        }
    }

    /// Gives back what answers held that were written.
    pub(super) fn written(&self, answers: Answers) {
        let Answers { outbox, held } = answers;
        drop(held);
        let waiting = self.waiting_bytes.get();
        assert!(waiting >= outbox.len(), "more was written than waited");
        self.waiting_bytes.set(waiting - outbox.len());
        self.commons.recycle(outbox);
        self.room.notify_one();
    }

    /// Forgets the answers that will not be written.
    pub(super) fn forget_answers(&self) {
        self.closing.set(true);
        *self.answers.borrow_mut() = None;
    }
}
