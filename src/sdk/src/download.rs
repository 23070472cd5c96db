//! Reads of large values, as streams.

pub(crate) mod chunks;
mod hold;
pub(crate) mod plan;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::head::{Description, EntryHead};
use crate::replicas::ReadFrom;
use crate::upload::of_task;
use bytes::{Buf as _, Bytes, BytesMut};
use chunks::ChunkReader;
use corelith_wire::upload::PartLength;
use futures_core::Stream;
use hold::Holder;
use plan::{ChunkLayout, ChunkPiece, DownloadPlan, ValueDamage};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, SeekFrom};
use std::ops::{Bound, Range, RangeBounds};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tokio::task::{AbortHandle, JoinSet};

/// Which bytes of a value are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum WantedBytes {
    #[default]
    All,
    /// From the first, to the second, exclusive.
    Range(u64, u64),
    /// So many at the end.
    Last(u64),
}

impl WantedBytes {
    pub(crate) fn of(range: impl RangeBounds<u64>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        Self::Range(start, end)
    }

    /// The range of a value of `len` bytes.
    pub(crate) fn within(self, len: u64) -> Range<u64> {
        match self {
            Self::All => 0..len,
            Self::Range(start, end) => start.min(len)..end.min(len).max(start.min(len)),
            Self::Last(count) => len.saturating_sub(count)..len,
        }
    }
}

/// A value that is read as a stream, made by [`Get::stream`]: an [`AsyncRead`] with [`AsyncSeek`], and a [`Stream`] of
/// [`Bytes`]. All bytes are of one version of the value, whatever becomes of the key meanwhile.
///
/// **Sources**: the bytes come from all replicas of the shard in turn, unless [`Get::from`] says otherwise. If a node fails,
/// the others go on.
///
/// **Memory**: the chunks that are read ahead ([`Get::ahead`]), of at most 512 KiB each: 2 MiB by default, and what the
/// connections buffer. When nobody takes them, no more are read. A value that fits in one frame, of at most 8 MiB, is
/// there as a whole.
///
/// **Checks**: the stream of a whole value that was not moved by a seek compares the crc32c of all bytes with that of the
/// value before it gives out the last of them, and fails with `Corrupt` if they differ. Stored bytes are checked by
/// their node in any case.
///
/// **Overwritten values** stay readable as long as the stream is polled at least every ten minutes. After that, a read
/// may fail with `ValueGone`.
///
/// **Positions** of a seek count from the start of the [`Get::range`] that is read.
///
/// After an error every further call returns the same error again. Cancel safe.
pub struct Download {
    head: EntryHead,
    plan: DownloadPlan,
    source: DownloadSource,
    reading: JoinSet<(u64, Result<Bytes>)>,
    /// The tasks of pieces on their way, by where these begin.
    tasks: BTreeMap<u64, AbortHandle>,
    failed: Option<Error>,
}

enum DownloadSource {
    /// It came as a whole.
    Memory(Bytes),
    Chunks {
        reader: ChunkReader,
        holder: Holder,
    },
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("head", &self.head)
            .field("range", &self.plan.range())
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}

/// How a value is downloaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DownloadOptions {
    pub(crate) wanted: WantedBytes,
    pub(crate) ahead: usize,
    pub(crate) from: Option<ReadFrom>,
    pub(crate) deadline: Option<std::time::Duration>,
}

impl Download {
    /// Of a value that came as a whole.
    pub(crate) fn of_bytes(head: EntryHead, value: Bytes, options: &DownloadOptions) -> Self {
        let len = value.len() as u64;
        let part = PartLength { part: 0, len };
        // Values that come as a whole have a few MiB.
        let chunk_bytes = (value.len() as u32).max(1);
        let layout = ChunkLayout::new(&[part], chunk_bytes, len);
        assert!(layout.is_some(), "one part is the value");
        let layout = layout.unwrap_or_default();
        let crc32c = crc32c::crc32c(&value);
        let range = options.wanted.within(len);
        Self {
            head,
            plan: DownloadPlan::new(layout, range, crc32c, 1),
            source: DownloadSource::Memory(value),
            reading: JoinSet::new(),
            tasks: BTreeMap::new(),
            failed: None,
        }
    }

    /// Of a large value, whose bytes have yet to be read.
    pub(crate) fn of_chunks(
        client: &Client,
        head: EntryHead,
        options: &DownloadOptions,
    ) -> Result<Self> {
        let wrong = Error::Protocol {
            what: "a large value whose parts do not make it",
        };
        let description = head.description().ok_or(wrong.clone())?;
        let layout = layout_of(description).ok_or(wrong)?;
        let shard = client.shard_of(&head.key);
        let reader = ChunkReader {
            client: client.clone(),
            shard,
            upload: description.upload,
            from: options.from.unwrap_or(ReadFrom::Any),
            deadline: options.deadline,
        };
        let range = options.wanted.within(layout.len());
        let plan = DownloadPlan::new(layout, range, description.crc32c, options.ahead);
        let holder = Holder::new(client.clone(), shard, description.upload);
        Ok(Self {
            head,
            plan,
            source: DownloadSource::Chunks { reader, holder },
            reading: JoinSet::new(),
            tasks: BTreeMap::new(),
            failed: None,
        })
    }

    /// Has the cluster keep the bytes while they are read. False if they are gone.
    pub(crate) async fn hold(&mut self) -> Result<bool> {
        match &mut self.source {
            DownloadSource::Memory(_) => Ok(true),
            DownloadSource::Chunks { holder, .. } => holder.begin().await,
        }
    }

    /// The value that is read: key, version, length, and for a large one its description.
    pub fn head(&self) -> &EntryHead {
        &self.head
    }

    /// Which bytes of the value are read, clipped to its length.
    pub fn range(&self) -> Range<u64> {
        self.plan.range()
    }

    /// How many bytes are read, of the range.
    pub fn len(&self) -> u64 {
        let range = self.plan.range();
        range.end - range.start
    }

    /// Whether no bytes are read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the next byte lies, counted from the start of the range.
    pub fn position(&self) -> u64 {
        self.plan.position() - self.plan.range().start
    }

    /// Reads the rest into memory. Cancel safe: nothing is left to close.
    ///
    /// # Errors
    /// As [`Stream`]'s items: `Corrupt`, `ValueGone`, `Unavailable` or `Throttled`.
    pub async fn collect(mut self) -> Result<Bytes> {
        let left = self.len() - self.position();
        let first = std::future::poll_fn(|context| self.poll_bytes(context, usize::MAX)).await?;
        if first.len() as u64 == left {
            return Ok(first);
        }
        // Values have at most 2 GiB.
        let mut all = BytesMut::with_capacity(left as usize);
        let mut next = first;
        while !next.is_empty() {
            all.extend_from_slice(&next);
            drop(next);
            next = std::future::poll_fn(|context| self.poll_bytes(context, usize::MAX)).await?;
        }
        Ok(all.freeze())
    }

    /// Goes on at `position`, counted from the start of the range; one behind its end is its end.
    pub fn seek_to(&mut self, position: u64) {
        let to = self.plan.range().start.saturating_add(position);
        for at in self.plan.seek(to) {
            if let Some(task) = self.tasks.remove(&at) {
                task.abort();
            }
        }
    }

    /// Asks for the pieces that come next.
    fn launch(&mut self) -> Result<()> {
        while let Some(piece) = self.plan.next_piece() {
            match &self.source {
                DownloadSource::Memory(value) => {
                    // A value in memory has a few MiB.
                    let range = piece.at as usize..(piece.at + piece.len()) as usize;
                    let arrived = self.plan.arrived(piece.at, value.slice(range));
                    arrived.map_err(damaged)?;
                }
                DownloadSource::Chunks { reader, .. } => {
                    let (reader, at) = (reader.clone(), piece.at);
                    let task = self.reading.spawn(read(reader, piece));
                    self.tasks.insert(at, task);
                }
            }
        }
        Ok(())
    }

    /// The next bytes, at most so many; none at the end.
    fn poll_bytes(&mut self, context: &mut Context<'_>, bytes_max: usize) -> Poll<Result<Bytes>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        let bytes = ready!(self.poll_next_bytes(context, bytes_max));
        if let Err(error) = &bytes {
            self.failed = Some(error.clone());
            self.reading.abort_all();
            self.tasks.clear();
        }
        Poll::Ready(bytes)
    }

    fn poll_next_bytes(
        &mut self,
        context: &mut Context<'_>,
        bytes_max: usize,
    ) -> Poll<Result<Bytes>> {
        if let DownloadSource::Chunks { holder, .. } = &mut self.source {
            holder.polled();
        }
        loop {
            if self.plan.is_at_end() {
                return Poll::Ready(Ok(Bytes::new()));
            }
            self.launch()?;
            if let Some(bytes) = self.plan.take(bytes_max).map_err(damaged)? {
                // The next ones may be asked for already.
                self.launch()?;
                return Poll::Ready(Ok(bytes));
            }
            match ready!(self.reading.poll_join_next(context)) {
                Some(Ok((at, bytes))) => {
                    self.tasks.remove(&at);
                    self.plan.arrived(at, bytes?).map_err(damaged)?;
                }
                // One that a seek has made needless.
                Some(Err(error)) if error.is_cancelled() && !self.tasks.is_empty() => {}
                Some(Err(error)) => return Poll::Ready(Err(of_task(&error))),
                None => {
                    return Poll::Ready(Err(Error::Protocol {
                        what: "a value without its bytes",
                    }));
                }
            }
        }
    }
}

async fn read(reader: ChunkReader, piece: ChunkPiece) -> (u64, Result<Bytes>) {
    let at = piece.at;
    (at, reader.read(&piece).await)
}

fn damaged(_: ValueDamage) -> Error {
    Error::Corrupt
}

impl Stream for Download {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let bytes = ready!(self.poll_bytes(context, usize::MAX));
        Poll::Ready(match bytes {
            Ok(bytes) if bytes.is_empty() => None,
            bytes => Some(bytes),
        })
    }
}

impl AsyncRead for Download {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let bytes = ready!(self.poll_bytes(context, buffer.remaining()))?;
        buffer.put_slice(bytes.chunk());
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for Download {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position().checked_add_signed(by),
            SeekFrom::End(by) => self.len().checked_add_signed(by),
        };
        let before_start = || Error::Invalid {
            what: "seek: it goes before the start",
        };
        let position = position.ok_or_else(before_start)?;
        self.seek_to(position);
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position()))
    }
}

/// Where the chunks of a value are; `None` if they do not make up its length.
fn layout_of(description: &Description) -> Option<ChunkLayout> {
    let Description {
        parts,
        chunk_bytes,
        len,
        ..
    } = description;
    ChunkLayout::new(parts, (*chunk_bytes).max(1), *len)
}
