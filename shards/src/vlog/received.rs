//! Segments that came from another replica, as files.

use super::inspect::{Verified, Verifier};
use super::segments::{Segment, SegmentMeta};
use super::{ValueLog, ValuePointer};
use crate::error::Result;
use crate::ids::{LogIndex, ValueSegmentId};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Stored key, log index and pointer of a record whose value is not intact.
pub(crate) type TornRecord = (Bytes, LogIndex, ValuePointer);

/// Checks every byte of the segment at `path`, which a list of files describes. Returns the records whose values
/// are not intact: they do no harm if nothing refers to them.
///
/// # Errors
/// `Corrupt`, `NewerFormat`, `Io`.
pub(crate) async fn check_file(path: &Path, meta: SegmentMeta) -> Result<Vec<TornRecord>> {
    let segment = Rc::new(Segment::open_at(path.to_path_buf(), meta).await?);
    let mut verifier = Verifier::new(&segment).await?;
    let mut torn = Vec::new();
    while let Some(verified) = verifier.step().await? {
        match verified {
            Verified::Intact => {}
            Verified::Damaged {
                record: Some(record),
                ..
            } => torn.push(record),
            Verified::Damaged { error, .. } => return Err(error),
        }
    }
    Ok(torn)
}

impl ValueLog {
    /// A number that no received segment has had since the start.
    pub(crate) fn next_received(&self) -> ValueSegmentId {
        let next = &self.shared().next_received;
        let id = next.get();
        assert!(
            id.is_received(),
            "received segments have numbers of their own"
        );
        next.set(ValueSegmentId(id.0 + 1));
        id
    }

    /// Takes received files, which have their names, among the segments. The next edit of the manifest names them.
    ///
    /// # Errors
    /// `Corrupt`, `Io`: none of them is taken.
    pub(crate) async fn add_received(&self, metas: &[SegmentMeta]) -> Result<()> {
        let shared = self.shared();
        let mut opened = Vec::with_capacity(metas.len());
        for meta in metas {
            opened.push(Rc::new(Segment::open(&shared.dir, *meta).await?));
        }
        shared.change_segments(|segments| {
            for segment in opened {
                let before = segments.insert(segment.id(), segment);
                assert!(before.is_none(), "a number is given once");
            }
        });
        Ok(())
    }

    /// Has a file removed that was never in use.
    pub(crate) fn discard(&self, path: PathBuf) {
        self.shared().garbage.borrow_mut().push(path);
    }
}
