//! openraft's runtime over a core: tasks, timers, channels and randomness of `corelith_io`.
//!
//! openraft calls these functions without a `self`; the core whose task is being polled stands
//! behind them, in either world.

mod channels;
mod clock;

pub(crate) use clock::Instant;

use corelith_io as io;
use openraft::AsyncRuntime;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// The runtime.
#[derive(Debug)]
pub(crate) struct Runtime {
    /// How a test wants `block_on` to run; openraft itself never calls it.
    #[cfg(test)]
    world: tests::World,
}

/// The task was aborted, or its core has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task was aborted")]
pub(crate) struct Aborted;

/// A spawned task; dropping the handle lets the task run on.
pub(crate) struct JoinHandle<T>(io::JoinHandle<T>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Aborted>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|output| output.ok_or(Aborted))
    }
}

/// A future with a deadline.
pub(crate) struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Pin<Box<io::Sleep>>,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, io::Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        self.sleep.as_mut().poll(cx).map(|()| Err(io::Elapsed))
    }
}

/// Randomness of the core.
pub(crate) struct CoreRng;

impl rand::TryRng for CoreRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let [a, b, c, d, ..] = io::random_u64().to_le_bytes();
        Ok(u32::from_le_bytes([a, b, c, d]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(io::random_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        io::fill_random(bytes);
        Ok(())
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = Aborted;
    type JoinHandle<T: 'static> = JoinHandle<T>;
    type Sleep = io::Sleep;
    type Instant = Instant;
    type TimeoutError = io::Elapsed;
    type Timeout<R, T: Future<Output = R>> = Timeout<T>;
    type ThreadLocalRng = CoreRng;
    type Mpsc = channels::Mpsc;
    type Watch = channels::Watch;
    type Oneshot = channels::Oneshot;
    type Mutex<T: 'static> = channels::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + 'static,
        T::Output: 'static,
    {
        JoinHandle(io::spawn(future))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        io::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        io::sleep_until(deadline.0)
    }

    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Timeout {
            future: Box::pin(future),
            sleep: Box::pin(io::sleep(duration)),
        }
    }

    fn timeout_at<R, F: Future<Output = R>>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Timeout {
            future: Box::pin(future),
            sleep: Box::pin(io::sleep_until(deadline.0)),
        }
    }

    fn is_panic(_: &Self::JoinError) -> bool {
        // A panic in a task ends the process (Uring) or the simulation (Sim).
        false
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        CoreRng
    }

    fn new(_threads: usize) -> Self {
        Self {
            #[cfg(test)]
            world: tests::world(),
        }
    }

    #[cfg(test)]
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.world.block_on(future)
    }

    #[cfg(not(test))]
    fn block_on<F, T>(&mut self, _future: F) -> T
    where
        F: Future<Output = T>,
    {
        unreachable!("a core runs its tasks itself; only openraft's test suites call this")
    }
}

#[cfg(test)]
mod tests;
