//! How other threads wake a core.
//!
//! Invariant: a task that another thread has pushed is run: either the core sees it before it sleeps, or the thread
//! sees that the core sleeps, or is about to, and writes to its event.

#![expect(unsafe_code, reason = "makes an event")]

use super::schedule::Schedule;
use async_task::Runnable;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What other threads know of a core.
pub(super) struct Remote {
    /// Tasks that they have woken, with the places of their queues.
    tasks: Mutex<Pushed>,
    /// Whether the core sleeps, or is about to.
    sleeps: AtomicBool,
    /// The main future of the core was woken.
    is_main_woken: AtomicBool,
    event: File,
}

#[derive(Default)]
struct Pushed {
    tasks: Vec<(usize, Runnable)>,
    /// The core has ended.
    is_closed: bool,
}

thread_local! {
    /// The core of this thread.
    static HERE: RefCell<Option<(Arc<Remote>, Rc<Schedule>)>> = const { RefCell::new(None) };
}

impl Remote {
    pub(super) fn new() -> io::Result<(Arc<Self>, Rc<OwnedFd>)> {
        // SAFETY: the call has no memory arguments.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened it for us.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        let remote = Self {
            tasks: Mutex::default(),
            sleeps: AtomicBool::new(false),
            is_main_woken: AtomicBool::new(true),
            event: File::from(event.try_clone()?),
        };
        Ok((Arc::new(remote), Rc::new(event)))
    }

    fn tasks(&self) -> MutexGuard<'_, Pushed> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this thread the core's, or nobody's.
    pub(super) fn enter(here: Option<(Arc<Self>, Rc<Schedule>)>) {
        HERE.with(|of| *of.borrow_mut() = here);
    }

    /// Puts a task into its queue, from whatever thread.
    pub(super) fn schedule(self: &Arc<Self>, at: usize, task: Runnable) {
        let local = HERE.try_with(|here| {
            let here = here.borrow();
            let (remote, schedule) = here.as_ref()?;
            Arc::ptr_eq(remote, self).then(|| Rc::clone(schedule))
        });
        if let Ok(Some(schedule)) = local {
            return schedule.push(at, task);
        }
        let mut pushed = self.tasks();
        if pushed.is_closed {
            // Its future may be dropped on the core's thread only, which is no more.
            std::mem::forget(task);
            return;
        }
        pushed.tasks.push((at, task));
        drop(pushed);
        self.wake();
    }

    fn wake(&self) {
        if self.sleeps.swap(false, Ordering::SeqCst) {
            self.signal();
        }
    }

    /// Writes to the event.
    pub(super) fn signal(&self) {
        // The core sees that, whatever the value. A full counter has woken it already.
        let _ = (&self.event).write(&1_u64.to_ne_bytes());
    }

    pub(super) fn wake_main(&self) {
        self.is_main_woken.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether the main future was woken since this was asked last.
    pub(super) fn take_main(&self) -> bool {
        self.is_main_woken.load(Ordering::Relaxed)
            && self.is_main_woken.swap(false, Ordering::SeqCst)
    }

    /// Takes what other threads have pushed into the queues.
    pub(super) fn collect(&self, schedule: &Schedule) {
        for (at, task) in std::mem::take(&mut self.tasks().tasks) {
            schedule.push(at, task);
        }
    }

    /// Says that the core is about to sleep. Returns false if it must not.
    pub(super) fn fall_asleep(&self) -> bool {
        self.sleeps.store(true, Ordering::SeqCst);
        let may = self.tasks().tasks.is_empty() && !self.is_main_woken.load(Ordering::SeqCst);
        if !may {
            self.sleeps.store(false, Ordering::SeqCst);
        }
        may
    }

    pub(super) fn is_awake(&self) {
        self.sleeps.store(false, Ordering::SeqCst);
    }

    /// The core has ended: nothing is pushed any more.
    pub(super) fn close(&self) {
        let mut pushed = self.tasks();
        pushed.is_closed = true;
        for (_, task) in pushed.tasks.drain(..) {
            std::mem::forget(task);
        }
    }
}
