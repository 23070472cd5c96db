//! An executor on a ring of our own: one ring for everything, one system call for a turn.
//!
//! A turn runs the tasks that are ready, hands the kernel all that they asked for, and takes what is complete; with
//! nothing ready it sleeps in that same call until something completes, a timer is due or another thread wakes it.
//! Entries for files are handed over as soon as the task that made them has had its turn. The kernel works for the
//! ring only when it is entered (`IORING_SETUP_DEFER_TASKRUN`), and a flag in shared memory says when that is worth it.

mod driver;
mod executor;
mod pool;
mod remote;
mod schedule;
pub(super) mod socket;

pub(super) use self::driver::Driver;
pub(super) use self::executor::{Ring, yield_now};

/// Whether the kernel has all that this needs.
pub(crate) fn is_possible() -> bool {
    Driver::new().is_ok()
}
