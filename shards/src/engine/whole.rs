//! Whether large values are whole: what a user's key says of one, its upload and its chunks.
//!
//! Memory is bounded: one value is looked at at a time.

use super::edit;
use super::merge::{Merge, Merged, ScanSpan};
use crate::error::Result;
use crate::ids::{LogIndex, TableId};
use crate::key::Space;
use crate::large::LargeRef;
use crate::manifest::PlacedTable;
use crate::sstable::Table;
use crate::version::Version;
use bytes::Bytes;
use corelith_io::collections::HashMap;
use std::rc::Rc;

/// What is wrong with a large value.
pub(crate) struct LargeProblem {
    /// As tables store it.
    pub(crate) key: Bytes,
    pub(crate) what: String,
}

/// Looks at every large value of a checkpoint, whose tables are all open; calls `told` with what is wrong. Returns how
/// many there are.
///
/// # Errors
/// `Io`, `Corrupt` of a table: what comes behind is not looked at.
pub(crate) async fn check_large(
    placed: &[PlacedTable],
    tables: &HashMap<TableId, Rc<Table>>,
    mut told: impl FnMut(LargeProblem),
) -> Result<u64> {
    let version = edit::version_of(placed, tables);
    let mut count = 0;
    let mut users = start(&version, Space::User, Bytes::new(), Bytes::new()).await?;
    while let Some(merged) = users.next().await? {
        corelith_io::yield_if_needed().await;
        let Some(large) = merged.large() else {
            continue;
        };
        count += 1;
        if let Some(what) = problem_of(&version, large).await? {
            told(LargeProblem {
                key: merged.spaced().stored().into(),
                what,
            });
        }
    }
    Ok(count)
}

/// What is wrong with a large value, if anything.
async fn problem_of(version: &Version, large: LargeRef) -> Result<Option<String>> {
    let upload = large.upload;
    let key = upload.key();
    let behind = |key: &[u8]| Bytes::from([key, &[0]].concat());
    let row = Bytes::copy_from_slice(&key);
    let mut rows = start(version, Space::Upload, row, behind(&key)).await?;
    if next_there(&mut rows).await?.is_none() {
        return Ok(Some(format!(
            "the upload {upload} of the large value is missing"
        )));
    }
    let first = Bytes::copy_from_slice(&key);
    let end = behind(&[&key[..], &[u8::MAX; 8]].concat());
    let mut chunks = start(version, Space::Chunk, first, end).await?;
    let mut bytes = 0_u64;
    while let Some(chunk) = next_there(&mut chunks).await? {
        bytes = bytes.saturating_add(chunk.value_len() as u64);
    }
    // There may be more: chunks of parts that the commit did not name go one by one.
    let len = large.len;
    let is_short = bytes < len;
    Ok(is_short
        .then(|| format!("{bytes} bytes of chunks of the upload {upload} are there, of {len}")))
}

async fn start(version: &Version, space: Space, start: Bytes, end: Bytes) -> Result<Merge> {
    let at = LogIndex(u64::MAX);
    let span = ScanSpan {
        space,
        start,
        end,
        at,
    };
    Merge::over(&[], version, span).await
}

/// The next one that is not deleted.
async fn next_there(merge: &mut Merge) -> Result<Option<Merged>> {
    loop {
        corelith_io::yield_if_needed().await;
        match merge.next().await? {
            Some(merged) if merged.is_deleted() => {}
            next => return Ok(next),
        }
    }
}
