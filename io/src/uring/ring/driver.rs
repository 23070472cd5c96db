//! The ring itself, and the operations that the kernel has been asked for.
//!
//! Invariants:
//! * What an entry refers to, its descriptor and its memory, is kept until the kernel has said that the operation is
//!   complete, whoever has lost interest in it meanwhile.
//! * A slot is free or belongs to one operation; it is given back by the last completion of that operation.

#![expect(unsafe_code, reason = "entries refer to memory that the kernel uses")]

use super::super::memory::DmaBlock;
use crate::limits::{RING_COMPLETIONS, RING_DEPTH};
use glommio::io::DmaBuffer;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Has the kernel do what it has put off, and show completions (`IORING_ENTER_GETEVENTS`).
const GET_EVENTS: u32 = 1;
/// Belongs to entries that nobody waits for.
const NOBODY: u64 = u64::MAX;

/// What is kept until an operation is complete.
enum KeptForKernel {
    Nothing,
    Block { _memory: Rc<DmaBuffer> },
    Read(DmaBlock),
    Event { _memory: Box<[u8; 8]> },
}

/// Who learns of a completion.
enum WaitsFor {
    /// A future that has not seen the result yet.
    Operation(Option<Waker>, Option<i32>),
    /// Nobody any more.
    Abandoned,
    /// A socket, which learns of it each time.
    Readiness(Rc<Readiness>),
    /// The core itself: another thread woke it.
    Event,
}

struct RingSlot {
    waiting: WaitsFor,
    kept: KeptForKernel,
    _file: Rc<OwnedFd>,
}

/// Whether a socket can be read from, or written to, as far as is known.
#[derive(Default)]
pub(super) struct Readiness {
    is_ready: Cell<bool>,
    /// The other side has ended or failed: it stays ready.
    is_over: Cell<bool>,
    /// The slot of the poll in the ring.
    slot: Cell<Option<usize>>,
    waker: RefCell<Option<Waker>>,
}

/// The ring of one core.
pub(crate) struct Driver {
    ring: RefCell<IoUring>,
    slots: RefCell<Vec<Option<RingSlot>>>,
    free: RefCell<Vec<usize>>,
    /// Operations that use memory of this process.
    in_flight: Cell<usize>,
    /// Whether entries for files wait to be handed over.
    is_pressing: Cell<bool>,
    /// Whether the descriptor by which other threads wake the core has been read, and is to be read again.
    woken_by_others: Cell<bool>,
}

impl Driver {
    /// Makes the ring. The thread that calls this is the only one that may use it.
    pub(super) fn new() -> io::Result<Self> {
        let depth = u32::try_from(RING_DEPTH).unwrap_or(u32::MAX);
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(RING_COMPLETIONS)
            .build(depth)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => too_old(),
                _ => error,
            })?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(too_old());
        }
        Ok(Self {
            ring: RefCell::new(ring),
            slots: RefCell::default(),
            free: RefCell::default(),
            in_flight: Cell::new(0),
            is_pressing: Cell::new(false),
            woken_by_others: Cell::new(true),
        })
    }

    fn take_slot(&self, slot: RingSlot) -> usize {
        if !matches!(slot.kept, KeptForKernel::Nothing) {
            self.in_flight.set(self.in_flight.get() + 1);
        }
        let mut slots = self.slots.borrow_mut();
        match self.free.borrow_mut().pop() {
            Some(at) => {
                if let Some(place) = slots.get_mut(at) {
                    assert!(place.is_none(), "slot {at} belongs to one operation");
                    *place = Some(slot);
                }
                at
            }
            None => {
                slots.push(Some(slot));
                slots.len() - 1
            }
        }
    }

    fn give_slot(&self, at: usize) -> Option<RingSlot> {
        let slot = self.slots.borrow_mut().get_mut(at).and_then(Option::take);
        let slot = slot?;
        if !matches!(slot.kept, KeptForKernel::Nothing) {
            assert!(self.in_flight.get() > 0, "slot {at} was not counted");
            self.in_flight.set(self.in_flight.get() - 1);
        }
        self.free.borrow_mut().push(at);
        Some(slot)
    }

    /// Puts an entry into the ring; what it refers to is in the slot that it names, or in no memory.
    fn push(&self, entry: &squeue::Entry) {
        let mut ring = self.ring.borrow_mut();
        loop {
            // SAFETY: the slot keeps the descriptor and the memory until the operation is complete.
            if unsafe { ring.submission().push(entry) }.is_ok() {
                return;
            }
            if let Err(error) = ring.submit() {
                // Full of completions: they are taken at the end of the turn; this entry has to go first.
                assert!(is_passing(&error), "the kernel takes no entries: {error}");
                drop(ring);
                self.reap();
                ring = self.ring.borrow_mut();
            }
        }
    }

    fn operation(
        self: &Rc<Self>,
        file: &Rc<OwnedFd>,
        kept: KeptForKernel,
        entry: impl FnOnce(types::Fd) -> squeue::Entry,
    ) -> RingOperation {
        let at = self.take_slot(RingSlot {
            waiting: WaitsFor::Operation(None, None),
            kept,
            _file: Rc::clone(file),
        });
        let entry = entry(types::Fd(file.as_raw_fd())).user_data(at as u64);
        self.push(&entry);
        self.is_pressing.set(true);
        RingOperation {
            driver: Rc::clone(self),
            slot: Some(at),
        }
    }

    /// Reads into `block`, which comes back with the number of bytes.
    pub(crate) async fn read(
        self: &Rc<Self>,
        file: &Rc<OwnedFd>,
        offset: u64,
        mut block: DmaBlock,
    ) -> io::Result<(DmaBlock, usize)> {
        let Some(bytes) = block.bytes_mut() else {
            return Err(io::Error::other("the memory of a read is shared"));
        };
        let (address, len) = (bytes.as_mut_ptr(), length(bytes.len())?);
        let operation = self.operation(file, KeptForKernel::Read(block), |fd| {
            opcode::Read::new(fd, address, len).offset(offset).build()
        });
        let (read, kept) = operation.await?;
        match kept {
            KeptForKernel::Read(block) => Ok((block, read)),
            _ => Err(io::Error::other("a read lost its memory")),
        }
    }

    /// Writes all of `block` that the kernel takes at once.
    pub(crate) async fn write(
        self: &Rc<Self>,
        file: &Rc<OwnedFd>,
        offset: u64,
        block: &DmaBlock,
    ) -> io::Result<usize> {
        let bytes = block.bytes();
        let (address, len) = (bytes.as_ptr(), length(bytes.len())?);
        let operation = self.operation(
            file,
            KeptForKernel::Block {
                _memory: block.share(),
            },
            |fd| opcode::Write::new(fd, address, len).offset(offset).build(),
        );
        Ok(operation.await?.0)
    }

    /// Makes what was written durable.
    pub(crate) async fn sync(self: &Rc<Self>, file: &Rc<OwnedFd>) -> io::Result<()> {
        let operation = self.operation(file, KeptForKernel::Nothing, |fd| {
            let sync = opcode::Fsync::new(fd);
            sync.flags(types::FsyncFlags::DATASYNC).build()
        });
        operation.await.map(drop)
    }

    /// Reserves space for the first `len` bytes.
    pub(crate) async fn allocate(self: &Rc<Self>, file: &Rc<OwnedFd>, len: u64) -> io::Result<()> {
        let operation = self.operation(file, KeptForKernel::Nothing, |fd| {
            opcode::Fallocate::new(fd, len).build()
        });
        operation.await.map(drop)
    }

    /// Has the core told when `event` is written to, once.
    pub(super) fn watch_event(&self, event: &Rc<OwnedFd>) {
        let mut memory = Box::new([0; 8]);
        let address = memory.as_mut_ptr();
        let at = self.take_slot(RingSlot {
            waiting: WaitsFor::Event,
            kept: KeptForKernel::Event { _memory: memory },
            _file: Rc::clone(event),
        });
        let read = opcode::Read::new(types::Fd(event.as_raw_fd()), address, 8);
        self.push(&read.build().user_data(at as u64));
        self.woken_by_others.set(false);
    }

    /// Whether that has happened since, so that it is to be watched again.
    pub(super) fn is_event_over(&self) -> bool {
        self.woken_by_others.get()
    }

    /// Has `readiness` learn of `events` at a socket until it is forgotten; of all of them, or of the next.
    fn poll(&self, file: &Rc<OwnedFd>, readiness: &Rc<Readiness>, events: u32, is_lasting: bool) {
        let at = self.take_slot(RingSlot {
            waiting: WaitsFor::Readiness(Rc::clone(readiness)),
            kept: KeptForKernel::Nothing,
            _file: Rc::clone(file),
        });
        readiness.slot.set(Some(at));
        let poll = opcode::PollAdd::new(types::Fd(file.as_raw_fd()), events).multi(is_lasting);
        self.push(&poll.build().user_data(at as u64));
    }

    /// Forgets what `readiness` learns from.
    pub(super) fn forget(&self, readiness: &Readiness) {
        if let Some(at) = readiness.slot.take() {
            if let Some(Some(slot)) = self.slots.borrow_mut().get_mut(at) {
                slot.waiting = WaitsFor::Abandoned;
            }
            let cancel = opcode::AsyncCancel::new(at as u64).build();
            self.push(&cancel.user_data(NOBODY));
        }
    }

    /// Whether entries for files wait to be handed over.
    pub(super) fn is_pressing(&self) -> bool {
        self.is_pressing.get()
    }

    /// Whether the kernel has something to tell, or something to do for that.
    pub(super) fn has_news(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        !ring.completion().is_empty() || ring.submission().taskrun()
    }

    /// Hands entries over without taking completions.
    pub(super) fn hand_over(&self) {
        self.is_pressing.set(false);
        self.passing(|ring| ring.submit());
    }

    /// Hands entries over, and waits for a completion, for at most `limit` if that is not 0.
    pub(super) fn turn(&self, limit: Duration) {
        self.is_pressing.set(false);
        if !limit.is_zero() {
            let timespec = types::Timespec::from(limit);
            let args = types::SubmitArgs::new().timespec(&timespec);
            self.passing(|ring| ring.submitter().submit_with_args(1, &args));
        } else if self.is_worth_entering() {
            let entries = self.ring.borrow_mut().submission().len();
            let entries = u32::try_from(entries).unwrap_or(u32::MAX);
            // SAFETY: as many entries are in the ring, and there is no argument.
            self.passing(|ring| unsafe {
                let submitter = ring.submitter();
                submitter.enter::<libc::sigset_t>(entries, 0, GET_EVENTS, None)
            });
        }
        self.reap();
    }

    /// Whether there are entries to hand over, or the kernel has put something off.
    fn is_worth_entering(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        let submission = ring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    fn passing(&self, enter: impl FnOnce(&IoUring) -> io::Result<usize>) {
        let ring = self.ring.borrow();
        if let Err(error) = enter(&ring) {
            assert!(is_passing(&error), "the ring of a core failed: {error}");
        }
    }

    /// Tells everybody what is complete.
    pub(super) fn reap(&self) {
        loop {
            let mut some: [Option<(u64, i32, u32)>; 32] = [None; 32];
            {
                let mut ring = self.ring.borrow_mut();
                let mut completions = ring.completion();
                for place in &mut some {
                    let next = completions.next();
                    *place =
                        next.map(|one: cqueue::Entry| (one.user_data(), one.result(), one.flags()));
                }
            }
            for (of, result, flags) in some.into_iter().flatten() {
                self.complete(of, result, flags);
            }
            if some.last().is_some_and(Option::is_none) {
                return;
            }
        }
    }

    fn complete(&self, of: u64, result: i32, flags: u32) {
        let Ok(at) = usize::try_from(of) else { return };
        if of == NOBODY {
            return;
        }
        let is_last = !cqueue::more(flags);
        let mut slots = self.slots.borrow_mut();
        let Some(Some(slot)) = slots.get_mut(at) else {
            panic!("the kernel completes slot {at}, which is free");
        };
        let woken = match &mut slot.waiting {
            WaitsFor::Operation(waker, outcome) => {
                assert!(outcome.is_none(), "slot {at} is complete twice");
                *outcome = Some(result);
                let waker = waker.take();
                drop(slots);
                waker
            }
            WaitsFor::Abandoned => {
                drop(slots);
                drop(is_last.then(|| self.give_slot(at)));
                None
            }
            WaitsFor::Readiness(readiness) => {
                let readiness = Rc::clone(readiness);
                drop(slots);
                if is_last {
                    readiness.slot.set(None);
                    drop(self.give_slot(at));
                }
                readiness.learn(result)
            }
            WaitsFor::Event => {
                drop(slots);
                drop(self.give_slot(at));
                self.woken_by_others.set(true);
                None
            }
        };
        if let Some(waker) = woken {
            waker.wake();
        }
    }

    /// Waits until no operation uses memory of this process any more; the event has been written to.
    pub(super) fn finish(&self) {
        while self.in_flight.get() > 0 {
            self.turn(Duration::from_millis(1));
        }
    }
}

fn too_old() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "the backend `ring` needs Linux 6.1: use `glommio`",
    )
}

/// Whether an error of the ring goes away by itself: time that ran out, a signal, or completions that wait.
fn is_passing(error: &io::Error) -> bool {
    let known = [libc::ETIME, libc::EINTR, libc::EBUSY, libc::EAGAIN];
    error
        .raw_os_error()
        .is_some_and(|code| known.contains(&code))
}

fn length(len: usize) -> io::Result<u32> {
    u32::try_from(len).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// One operation. Dropping it loses its result; the kernel goes on with it.
struct RingOperation {
    driver: Rc<Driver>,
    slot: Option<usize>,
}

impl Future for RingOperation {
    type Output = io::Result<(usize, KeptForKernel)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(at) = self.slot else {
            panic!("an operation is asked again after its end");
        };
        {
            let mut slots = self.driver.slots.borrow_mut();
            let Some(Some(slot)) = slots.get_mut(at) else {
                panic!("slot {at} of an operation is free");
            };
            let WaitsFor::Operation(waker, outcome) = &mut slot.waiting else {
                panic!("slot {at} belongs to somebody else");
            };
            if outcome.is_none() {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
        }
        self.slot = None;
        let slot = self.driver.give_slot(at);
        let Some(RingSlot {
            waiting: WaitsFor::Operation(_, Some(result)),
            kept,
            ..
        }) = slot
        else {
            panic!("slot {at} lost its result");
        };
        Poll::Ready(match usize::try_from(result) {
            Ok(count) => Ok((count, kept)),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        })
    }
}

impl Drop for RingOperation {
    fn drop(&mut self) {
        let Some(at) = self.slot.take() else { return };
        let mut slots = self.driver.slots.borrow_mut();
        let Some(Some(slot)) = slots.get_mut(at) else {
            return;
        };
        let is_complete = matches!(slot.waiting, WaitsFor::Operation(_, Some(_)));
        if !is_complete {
            slot.waiting = WaitsFor::Abandoned;
            return;
        }
        drop(slots);
        drop(self.driver.give_slot(at));
    }
}

impl Readiness {
    /// One that is tried first.
    pub(super) fn untried() -> Rc<Self> {
        let readiness = Self::default();
        readiness.is_ready.set(true);
        Rc::new(readiness)
    }

    fn learn(&self, result: i32) -> Option<Waker> {
        let over = i32::from(libc::POLLHUP | libc::POLLERR | libc::POLLRDHUP);
        if result < 0 || result & over != 0 {
            self.is_over.set(true);
        }
        self.is_ready.set(true);
        self.waker.borrow_mut().take()
    }

    /// Waits until it may be ready.
    pub(super) fn poll_ready(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        driver: &Driver,
        file: &Rc<OwnedFd>,
        direction: Direction,
    ) -> Poll<()> {
        if self.is_ready.get() || self.is_over.get() {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        if self.slot.get().is_none() {
            let (events, is_lasting) = direction.events();
            driver.poll(file, self, events, is_lasting);
        }
        Poll::Pending
    }

    /// Notes that there was nothing. What comes later is told by the kernel.
    pub(super) fn exhaust(&self) {
        self.is_ready.set(false);
        self.is_over.set(false);
    }

    /// Notes that all that there was is taken. That the other side has ended is known still.
    pub(super) fn drain(&self) {
        self.is_ready.set(false);
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Read,
    Write,
}

impl Direction {
    /// The events of poll(2), and whether to be told of all of them.
    fn events(self) -> (u32, bool) {
        let events = |events: libc::c_short| u32::from(events.unsigned_abs());
        match self {
            Self::Read => (events(libc::POLLIN | libc::POLLRDHUP), true),
            Self::Write => (events(libc::POLLOUT), false),
        }
    }
}
