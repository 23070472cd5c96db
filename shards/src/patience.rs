//! How long a stop waits for a device that has no room.

use crate::error::Result;
use crate::limits::{STOP_LOOK_PERIOD, STOP_LOOKS_MAX};
use corelith_io::ErrorKind;
use std::future::Future;
use std::pin::pin;

/// Waits for `work`, unless `is_stuck` at several looks in a row: it is not known when there will be room
/// again, if ever.
///
/// # Errors
/// Those of `work`; one of no space when it is given up.
pub(crate) async fn unless_stuck(
    work: impl Future<Output = Result<()>>,
    is_stuck: impl Fn() -> bool,
) -> Result<()> {
    let mut work = pin!(work);
    let mut looks = 0;
    while looks < STOP_LOOKS_MAX {
        if let Ok(result) = corelith_io::timeout(STOP_LOOK_PERIOD, &mut work).await {
            return result;
        }
        looks = if is_stuck() { looks + 1 } else { 0 };
    }
    let kind = ErrorKind::NoSpace;
    let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
    Err(corelith_io::Error::with_kind(kind, "stop", "the log", source).into())
}
