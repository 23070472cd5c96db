//! The segments of a shard that is not open, for checking them. Nothing is changed: a segment that a crash
//! left is looked at as it is.

use super::inspect::Verifier;
use super::reader::{Place, fixed_len};
use super::segments::{IndexCache, Segment, SegmentMeta, Segments};
use super::tear::{self, LoggedValue, ValueState};
use super::{ValuePointer, walk};
use crate::error::Result;
use crate::ids::{FileSeries, LogIndex, Owner, ValueSegmentId};
use crate::key::SpacedKey;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// See the module. Belongs to one check.
pub(crate) struct AtRest {
    dir: PathBuf,
    whose: (Owner, FileSeries),
    segments: Segments,
    index_cache: RefCell<IndexCache>,
}

impl AtRest {
    pub(crate) fn new(dir: &Path, whose: (Owner, FileSeries)) -> Self {
        Self {
            dir: dir.to_path_buf(),
            whose,
            segments: Segments::new(),
            index_cache: RefCell::default(),
        }
    }

    /// Opens a segment that the manifest names.
    ///
    /// # Errors
    /// `Corrupt` (also when it is missing), `NewerFormat`, `OtherStore`, `Io`.
    pub(crate) async fn open(&mut self, meta: SegmentMeta) -> Result<Verifier> {
        let segment = Rc::new(Segment::open(&self.dir, meta).await?);
        self.segments.insert(meta.id, Rc::clone(&segment));
        Verifier::start(&segment).await
    }

    /// Opens a segment begun since the manifest was written, and finds its end as a start does.
    ///
    /// # Errors
    /// As [`AtRest::open`].
    pub(crate) async fn open_begun(&mut self, id: ValueSegmentId) -> Result<Verifier> {
        let segment = Rc::new(Segment::open_begun(&self.dir, self.whose, id).await?);
        let scan = walk::scan(&segment).await?;
        segment.cut(scan.written_end, scan.totals);
        self.segments.insert(id, Rc::clone(&segment));
        Verifier::start(&segment).await
    }

    /// What is known of an open segment.
    pub(crate) fn meta(&self, id: ValueSegmentId) -> Option<SegmentMeta> {
        self.segments.get(&id).map(|segment| segment.meta())
    }

    /// Checks that the record that `pointer` names is there, and of that key and write. Its head says
    /// so, and has the checksums of the value, which are not looked at here.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(crate) async fn check_head(
        &self,
        pointer: ValuePointer,
        key: SpacedKey<'_>,
        at: LogIndex,
    ) -> Result<()> {
        let place = self.place(pointer).await?;
        let bytes = place.read_at(0, fixed_len(pointer) + key.key.len()).await?;
        let head = place.head(&bytes)?;
        if head.key() != key {
            return Err(place.corrupt(0, "the record is of another key"));
        }
        if head.header.at != at {
            return Err(place.corrupt(0, "the record is of another write"));
        }
        Ok(())
    }

    /// What is in the place of an entry's value.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) async fn is_whole(&self, value: LoggedValue) -> Result<ValueState> {
        let segment = self.segments.get(&value.place.segment).cloned();
        tear::state_in(&self.dir, segment, &self.index_cache, value).await
    }

    async fn place(&self, pointer: ValuePointer) -> Result<Place> {
        let segment = self.segments.get(&pointer.segment).cloned();
        Place::find(&self.dir, segment, &self.index_cache, pointer).await
    }
}
