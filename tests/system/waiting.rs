//! Waiting for conditions: never for a time, always with a deadline.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Far above what anything here takes on two busy cores; only a test that fails waits so long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Looks until `condition` holds and returns what it found.
pub(crate) fn until<T, E: Debug>(what: &str, condition: impl FnMut() -> Result<T, E>) -> T {
    until_within(DEADLINE, what, condition)
}

/// As [`until`], with a deadline of its own.
pub(crate) fn until_within<T, E: Debug>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        match condition() {
            Ok(found) => return found,
            Err(state) if Instant::now() > end => {
                panic!("waited {deadline:?} for {what}; at the end: {state:?}")
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// As [`until`], on tokio.
pub(crate) async fn until_async<T, E: Debug, F>(what: &str, condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
{
    until_async_within(DEADLINE, what, condition).await
}

/// As [`until_async`], with a deadline of its own.
pub(crate) async fn until_async_within<T, E: Debug, F>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Result<T, E>>,
{
    let end = Instant::now() + deadline;
    loop {
        match condition().await {
            Ok(found) => return found,
            Err(state) if Instant::now() > end => {
                panic!("waited {deadline:?} for {what}; at the end: {state:?}")
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}
