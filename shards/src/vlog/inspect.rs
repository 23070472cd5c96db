//! A segment checked and printed.

use super::format::Head;
use super::segments::{Segment, SlotIndex, Totals};
use super::walk::{RecordWalk, Step};
use super::{RecordRef, SegmentMeta, ValuePointer, rewrite};
use crate::error::{Error, Result};
use crate::ids::LogIndex;
use crate::key::Space;
use crate::text::Text;
use bytes::Bytes;
use std::path::Path;
use std::rc::Rc;

/// What a [`Verifier`] has found at its next step.
#[derive(Debug)]
pub enum Verified {
    /// A record is intact.
    Intact,
    /// Something is damaged. The verifier goes on behind it.
    Damaged {
        /// `Corrupt`, with file and offset.
        error: Error,
        /// Stored key, log index and pointer of the record, if its head is intact. If nothing refers to it,
        /// it is one that a crash has torn before it was acknowledged, and no harm is done.
        record: Option<(Bytes, LogIndex, ValuePointer)>,
    },
}

/// Checks every byte of a sealed segment, of any generation, record by record.
pub struct Verifier {
    segment: Rc<Segment>,
    walk: RecordWalk,
    index: Option<IndexWalk>,
    seen: Totals,
    /// Of a segment that is written to: records and their bytes that were durable when the check began.
    begun_with: Option<(u64, u64)>,
    /// The first place without an intact head: a hole that a crash left, unless records are missing.
    hole: Option<(u64, &'static str)>,
    over: bool,
}

/// The slot index, gone through along with the records.
struct IndexWalk {
    index: Rc<SlotIndex>,
    page: u32,
    places: std::vec::IntoIter<super::format::SlotPlace>,
}

impl Verifier {
    /// Starts at the front of `segment`.
    ///
    /// # Errors
    /// `Corrupt` when the footer or the fence of the slot index is damaged, `Io`.
    ///
    /// # Panics
    /// If the segment is not sealed: a bug in the caller.
    pub async fn new(segment: &Rc<Segment>) -> Result<Self> {
        assert!(segment.is_sealed(), "only sealed segments are verified");
        Self::start(segment).await
    }

    /// Starts at the front of a segment that is written to: what is durable of it now is checked. `None` if a crash may
    /// have left holes in it.
    ///
    /// # Errors
    /// `Io`.
    pub async fn of_active(segment: &Rc<Segment>) -> Result<Option<Self>> {
        if segment.may_be_torn() || segment.generation() > 0 {
            return Ok(None);
        }
        let meta = segment.meta();
        let mut verifier = Self::start(segment).await?;
        verifier.begun_with = Some((meta.records, meta.bytes));
        Ok(Some(verifier))
    }

    /// As [`Verifier::new`]; of a segment that is not sealed, what is there is checked.
    pub(super) async fn start(segment: &Rc<Segment>) -> Result<Self> {
        let index = match segment.generation() {
            0 => None,
            _ => Some(IndexWalk {
                index: segment.slot_index().await?,
                page: 0,
                places: Vec::new().into_iter(),
            }),
        };
        Ok(Self {
            walk: RecordWalk::of_sealed(segment).await?,
            segment: Rc::clone(segment),
            index,
            seen: Totals::default(),
            begun_with: None,
            hole: None,
            over: false,
        })
    }

    /// Bytes of the file gone through.
    pub fn position(&self) -> u64 {
        self.walk.at()
    }

    /// Checks the next record; `None` at the end. The end also checks that as many records are
    /// there as the manifest says.
    ///
    /// # Errors
    /// `Io`, and `Corrupt` when a page of the slot index is damaged.
    pub async fn step(&mut self) -> Result<Option<Verified>> {
        Ok(self.advance().await?.map(|(verified, _)| verified))
    }

    async fn advance(&mut self) -> Result<Option<(Verified, Option<Head>)>> {
        corelith_io::yield_if_needed().await;
        if self.over {
            return Ok(None);
        }
        let record = loop {
            match self.walk.next().await? {
                Step::Damage(offset, what) => self.hole = self.hole.or(Some((offset, what))),
                Step::Record(offset, head) => break Some((offset, head)),
                Step::End => break None,
            }
        };
        let Some((offset, head)) = record else {
            self.over = true;
            let wrong = self.check_end().await?;
            return Ok(wrong.map(|verified| (verified, None)));
        };
        let header = head.header;
        self.seen
            .add(head.key().key.len(), header.value_len, header.at);
        let is_indexed = self.is_indexed(offset, header.slot).await?;
        let what = match self.walk.check_value(offset, &head).await? {
            false => Some("a page of a value is damaged"),
            true if !is_indexed => Some("the slot index has another place for a record"),
            true => None,
        };
        let verified = match what {
            Some(what) => self.damaged(offset, what, Some(&head)),
            None => Verified::Intact,
        };
        Ok(Some((verified, Some(head))))
    }

    fn damaged(&self, offset: u64, what: &'static str, head: Option<&Head>) -> Verified {
        let record = head.map(|head| {
            let record = rewrite::record_ref(&self.segment, head);
            (record.key.stored().into(), record.at, record.pointer)
        });
        Verified::Damaged {
            error: self.segment.corrupt(offset, what),
            record,
        }
    }

    /// Whether the next entry of the slot index is this record.
    async fn is_indexed(&mut self, offset: u64, slot: u32) -> Result<bool> {
        let Some(walk) = &mut self.index else {
            return Ok(true);
        };
        let place = walk.next(&self.segment).await?;
        Ok(place.is_some_and(|place| (place.slot, place.offset) == (slot, offset)))
    }

    async fn check_end(&mut self) -> Result<Option<Verified>> {
        let found = (self.seen.records, self.seen.bytes);
        if self.expected().is_some_and(|expected| expected != found) {
            let (at, what) = self.hole.unwrap_or((self.walk.at(), "records are missing"));
            return Ok(Some(self.damaged(at, what, None)));
        }
        if let Some(walk) = &mut self.index
            && walk.next(&self.segment).await?.is_some()
        {
            let what = "the slot index has more slots than there are records";
            let at = self.walk.at();
            return Ok(Some(self.damaged(at, what, None)));
        }
        Ok(None)
    }

    /// How many records there should be, and their bytes, if anything says so.
    fn expected(&self) -> Option<(u64, u64)> {
        if self.begun_with.is_some() {
            return self.begun_with;
        }
        if self.segment.is_sealed() {
            let meta = self.segment.meta();
            return Some((meta.records, meta.bytes));
        }
        let footer = self.index.as_ref().map(|walk| walk.index.footer);
        footer.map(|footer| (footer.records, footer.bytes))
    }
}

impl IndexWalk {
    async fn next(&mut self, segment: &Segment) -> Result<Option<super::format::SlotPlace>> {
        if let Some(place) = self.places.next() {
            return Ok(Some(place));
        }
        if self.page == self.index.page_count() {
            return Ok(None);
        }
        let places = self.index.page(segment, self.page).await?;
        if places.first().map(|place| place.slot) != self.index.first_slot(self.page) {
            return Err(segment.corrupt(segment.end(), "the fence does not match the slot index"));
        }
        self.page += 1;
        self.places = places.into_iter();
        Ok(self.places.next())
    }
}

/// Reads and checks the whole segment at `path`, and describes it: at most `records_max` records.
/// What of generation 0 is a hole or a torn end and what is damage cannot be told from one file alone:
/// it prints where the first place is that is not intact. If the segment is among those `named` by a
/// manifest, it is held against what that says.
///
/// # Errors
/// `Corrupt` with the offset of the damage, `NewerFormat`, `Io`.
pub(crate) async fn inspect(
    path: &Path,
    records_max: usize,
    named: &[SegmentMeta],
) -> Result<Text> {
    let segment = Rc::new(Segment::open_path(path).await?);
    let file = segment.header.file;
    if let Some(meta) = named.iter().find(|meta| meta.file == file) {
        segment.take_for_sealed(*meta)?;
    }
    let mut text = Text::default();
    text.line("kind", "value log segment");
    match segment.header.named {
        Some((owner, id)) => {
            text.line("owner", owner);
            text.line("segment", id);
        }
        None => text.line("file id", file),
    }
    text.line("generation", segment.generation());
    let mut verifier = Verifier::start(&segment).await?;
    let mut records = 0;
    while let Some((verified, head)) = verifier.advance().await? {
        if let Verified::Damaged { error, .. } = verified {
            return Err(error);
        }
        if let Some(head) = head.filter(|_| records < records_max) {
            describe(&mut text, &rewrite::record_ref(&segment, &head));
        }
        records += 1;
    }
    let SegmentMeta { file_bytes, .. } = segment.meta();
    text.line("records", verifier.seen.records);
    text.line("bytes of records", verifier.seen.bytes);
    text.line("highest log index", verifier.seen.highest);
    if let Some(walk) = &verifier.index {
        text.line("pages of the slot index", walk.index.page_count());
    }
    if let Some((offset, what)) = verifier.hole {
        text.line("not intact", format_args!("at {offset}: {what}"));
    }
    text.line("file length", file_bytes);
    Ok(text)
}

fn describe(text: &mut Text, record: &RecordRef<'_>) {
    let pointer = record.pointer;
    let key = match record.key.space {
        Space::User => format!("key {}", record.key.key.escape_ascii()),
        _ => format!("key {}", record.key),
    };
    text.line(
        "record",
        format_args!(
            "slot {} at {}, log index {}, {}, {} bytes, crc {:08x}",
            pointer.slot, pointer.offset, record.at, key, pointer.len, pointer.crc,
        ),
    );
}
