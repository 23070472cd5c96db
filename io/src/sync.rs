//! Channels and signals between tasks of one core: single-threaded, no atomics.
//!
//! Every type here belongs to the core that made it (they are `Rc`s, so the compiler holds them
//! there). None of them knows about an executor: they work in both worlds and under any `block_on`.
//! A waker is always called with no borrow held.

pub mod mpsc;
pub mod notify;
pub mod oneshot;
pub mod semaphore;
#[cfg(test)]
pub(crate) mod testing;
mod wait_list;
pub mod watch;
