//! Applying again, after a start, what was committed when the process ended and no checkpoint covers.
//!
//! openraft would do it before it runs, but 64 entries at a time, each piece read by itself with its
//! values: every read of the log takes a MiB from the device, which was measured to apply 18,000 entries
//! of 256 bytes a second that had been written at 37,000. Here the log is read once, in long pieces, the
//! next one while one is applied, and without separated values. openraft then finds nothing left to do.
//!
//! Nobody waits for these writes, so they are not slowed: only the memory of the memtables bounds them.

use crate::error::OpenError;
use crate::limits::{APPLY_TURN_ENTRIES, REPLAY_BYTES};
use crate::state_machine::StateMachine;
use corelith_io::JoinHandle;
use corelith_shards::{self as shards, Engine, Entry, Log, LogIndex};

/// Applies the committed entries of `log` that `engine`, the state of `machine`, lacks. Returns whether it has come to the end:
/// it stops before an entry that it cannot decide until damage is healed.
///
/// # Errors
/// `Storage` or `State`: the shard cannot be used.
pub(crate) async fn replay(
    machine: &StateMachine,
    engine: &Engine,
    log: &Log,
) -> Result<bool, OpenError> {
    let Some(committed) = log.committed() else {
        return Ok(true);
    };
    let first = engine.applied().0.map_or(0, |id| id.index.0 + 1);
    let end = committed.index.0 + 1;
    if first >= end {
        return Ok(true);
    }
    let started = corelith_io::now();
    let mut ahead = read(log, first, end);
    loop {
        // Nobody aborts the task.
        let entries = ahead.await.unwrap_or_else(|| Ok(Vec::new()))?;
        let Some(last) = entries.last().map(|entry| entry.id.index.0) else {
            break;
        };
        ahead = read(log, last + 1, end);
        for (count, entry) in (1..).zip(&entries) {
            engine.wait_for_memory().await?;
            let applied = machine.apply_entry(entry).await;
            if applied.is_err() && machine.is_undecided() {
                let index = entry.id.index.0;
                tracing::warn!(
                    index,
                    "the log is replayed up to a conditional write whose key is damaged"
                );
                return Ok(false);
            }
            applied.map_err(|error| OpenError::State(error.to_string()))?;
            if count % APPLY_TURN_ENTRIES == 0 {
                corelith_io::yield_if_needed().await;
            }
        }
    }
    let applied = engine.applied().0.map_or(0, |id| id.index.0 + 1);
    if applied != end {
        let what = format!("entry {applied} is committed, and not in the log");
        return Err(OpenError::State(what));
    }
    tracing::info!(
        entries = end - first,
        ms = started.elapsed().as_millis() as u64,
        "the log is replayed"
    );
    Ok(true)
}

/// Reads a piece of the log in a task of its own.
fn read(log: &Log, from: u64, end: u64) -> JoinHandle<shards::Result<Vec<Entry>>> {
    let log = log.clone();
    corelith_io::spawn(async move {
        match from < end {
            true => {
                log.read_heads(LogIndex(from), LogIndex(end), REPLAY_BYTES)
                    .await
            }
            false => Ok(Vec::new()),
        }
    })
}

#[cfg(test)]
mod tests;
