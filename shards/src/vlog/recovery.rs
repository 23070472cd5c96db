//! What the value log holds after a start.

use super::format::RECORDS_START;
use super::segments::{Segment, SegmentMeta, Segments};
use super::walk;
use crate::directory::Directory;
use crate::error::Result;
use crate::filename::FileName;
use crate::ids::{FileSeries, Owner, ValueSegmentId};
use crate::limits::VALUE_SEGMENTS_RECEIVED;
use std::path::Path;
use std::rc::Rc;

/// What a recovery found and did.
pub(super) struct Recovered {
    pub(super) segments: Segments,
    /// Files that nothing refers to, which are removed.
    pub(super) removed: Vec<FileName>,
    /// Higher than any id found, but for those of received segments.
    pub(super) next: ValueSegmentId,
    /// Higher than that of any received segment found.
    pub(super) next_received: ValueSegmentId,
}

impl Recovered {
    /// Notes that the number is taken.
    fn pass(&mut self, id: ValueSegmentId) {
        let next = match id.is_received() {
            true => &mut self.next_received,
            false => &mut self.next,
        };
        *next = (*next).max(ValueSegmentId(id.0 + 1));
    }
}

/// Opens the segments that the manifest names, adopts those begun since, and removes the rest.
pub(super) async fn recover(
    dir: &Directory,
    (owner, series): (Owner, FileSeries),
    known: &[SegmentMeta],
    next: ValueSegmentId,
) -> Result<Recovered> {
    let mut found = Recovered {
        segments: Segments::new(),
        removed: Vec::new(),
        next,
        next_received: ValueSegmentId(VALUE_SEGMENTS_RECEIVED),
    };
    for meta in known {
        let segment = Segment::open(dir, *meta).await?;
        found.segments.insert(meta.id, Rc::new(segment));
        found.pass(meta.id);
    }
    for entry in corelith_io::list_dir(dir).await? {
        let name = match FileName::parse(&entry.name) {
            Some(name @ FileName::ValueSegment(id, generation)) => {
                found.pass(id);
                let named = found.segments.get(&id);
                if named.is_some_and(|segment| segment.generation() == generation) {
                    continue;
                }
                let is_new = named.is_none() && id >= next && generation == 0 && !id.is_received();
                if is_new && let Some(segment) = adopt(dir, (owner, series), id).await? {
                    found.segments.insert(id, segment);
                    continue;
                }
                name
            }
            Some(name @ FileName::ValueSegmentTemporary(_)) => name,
            _ => continue,
        };
        found.removed.push(name);
    }
    let mut begun = found.segments.keys().filter(|id| !id.is_received());
    assert!(begun.all(|id| *id < found.next), "an id is given once");
    for name in &found.removed {
        corelith_io::remove_file(&name.path(dir)).await?;
    }
    if !found.removed.is_empty() {
        dir.sync().await?;
    }
    Ok(found)
}

/// Seals a segment begun after the last edit of the manifest at what a scan finds in it; `None` if
/// that is nothing. What was written and is no record stays: it tells a damaged value from a torn one, until
/// the log has been recovered.
async fn adopt(
    dir: &Path,
    whose: (Owner, FileSeries),
    id: ValueSegmentId,
) -> Result<Option<Rc<Segment>>> {
    let segment = Rc::new(Segment::open_unnamed(dir, whose, id).await?);
    let scan = walk::scan(&segment).await?;
    if let Some(offset) = scan.first_gap {
        let file = segment.path.display();
        tracing::warn!(%file, offset, "a record is missing before later ones");
    }
    if scan.written_end == RECORDS_START {
        return Ok(None);
    }
    assert!(scan.end <= scan.written_end, "records are written");
    segment.cut(scan.written_end, scan.totals);
    segment.seal().await?;
    Ok(Some(segment))
}
