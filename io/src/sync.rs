//! Channels and signals between tasks of one core: single-threaded, no atomics.

pub mod mpsc;
pub mod notify;
pub mod oneshot;
pub mod semaphore;
pub mod watch;
