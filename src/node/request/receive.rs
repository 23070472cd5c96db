//! Reading frames from a client, within the budget.
//!
//! All connections of a core receive into one buffer. What is complete in it is copied out as one batch, and
//! what remains, the beginning of a frame, into memory of its connection:
//!
//! ```text
//! frame            memory of its own
//! up to 1 KiB      part of what a connection may have anyway
//! up to 64 KiB     a permit for all of it, of the share of frames
//! up to 128 KiB    a permit for all of it, of the share of starts; the rest is read into its place
//! longer           a permit for 128 KiB, of the share of starts; once these are there a permit for all of it, of
//!                  the share of uploads: its part for slow ones if they took long
//! ```
//! Invariants:
//! * A connection without a part of a frame holds no memory here.
//! * Without a permit for what one read can bring, so little is read that it needs none.
//! * A frame that has its permit for all of it is read to its end without waiting for another.
//! * What is read of a frame has its place: nothing grows while it is read.

use super::budget::Budget;
use super::connection::Connection;
use super::progress::Stage;
use crate::node::limits::{
    FRAME_BYTES_FREE, FRAME_BYTES_SMALL, READ_BYTES, REQUEST_BYTES, UPLOAD_START_BYTES,
    UPLOAD_START_WITHIN,
};
use bytes::BytesMut;
use corelith_io::sync::semaphore::Permit;
use corelith_io::{Instant, ReadHalf};
use corelith_wire::frame::{Accepts, Frames};
use corelith_wire::{FrameError, FrameParser, Header};
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

/// The buffer that the connections of a core receive into. Belongs to that core.
pub(crate) struct ReceiveBuffer {
    /// Room for the part of a frame that is there already, then for a read.
    bytes: RefCell<Vec<u8>>,
}

impl ReceiveBuffer {
    pub(crate) fn new() -> Rc<Self> {
        let bytes = RefCell::new(vec![0; FRAME_BYTES_SMALL + READ_BYTES]);
        Rc::new(Self { bytes })
    }
}

/// Complete frames, and what they hold until they are dispatched.
pub(super) struct Batch {
    pub(super) frames: Frames,
    /// Of the share of starts or uploads: the batch is this one frame.
    pub(super) upload: Option<Permit>,
    _held: Option<Permit>,
}

/// Why no more is read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] corelith_io::Error),
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// How the rest of a frame is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Nothing is there, or too little to know, or the frame is short enough for every connection.
    Free,
    /// Of that length.
    Small(usize),
    /// Of that length.
    Upload(usize),
}

fn class(header: Option<Header>) -> Class {
    match header.map_or(0, |header| header.frame_bytes()) {
        whole if whole <= FRAME_BYTES_FREE => Class::Free,
        whole if whole <= FRAME_BYTES_SMALL => Class::Small(whole),
        whole => Class::Upload(whole),
    }
}

/// Of the permit for a read, what the part of a frame needs that the read has left.
fn permit_of_part(part: &[u8], permit: &mut Option<Permit>) -> Option<Permit> {
    // What is no frame is refused before the next read.
    let header = Header::parse(part, Accepts::Requests).ok().flatten();
    let permit = permit.as_mut()?;
    match class(header) {
        Class::Free => None,
        Class::Small(whole) => Some(permit.split(whole)),
        Class::Upload(_) => Some(permit.split(part.len())),
    }
}

/// What a read has brought.
enum Read {
    /// Frames, and how many bytes.
    Frames(Batch, usize),
    /// So many bytes that complete no frame.
    Some(usize),
    /// The client has closed its side.
    End,
}

/// Reads the frames of one connection.
pub(super) struct Receiver {
    read: ReadHalf,
    shared: Rc<ReceiveBuffer>,
    budget: Budget,
    parser: FrameParser,
    /// The beginning of a frame.
    part: BytesMut,
    /// For `part`, of the share of frames.
    held: Option<Permit>,
    /// For a long frame.
    upload: Option<HalfReceived>,
}

/// What a long frame holds that is being received.
struct HalfReceived {
    /// Of the share of starts, or for all of the frame of the share of uploads.
    permit: Permit,
    /// Bytes that have a place.
    place: usize,
    /// When the first place was there.
    began: Instant,
    /// Of the part for slow ones.
    _slow: Option<Permit>,
}

impl Receiver {
    /// Reads from `read`, after `leftover`.
    pub(super) fn new(
        read: ReadHalf,
        leftover: BytesMut,
        shared: Rc<ReceiveBuffer>,
        budget: Budget,
    ) -> Self {
        Self {
            read,
            shared,
            budget,
            parser: FrameParser::new(Accepts::Requests),
            part: leftover,
            held: None,
            upload: None,
        }
    }

    /// The next complete frames, at least one; `None` when the connection has ended.
    pub(super) async fn next(
        &mut self,
        connection: &Connection,
    ) -> Result<Option<Batch>, ReceiveError> {
        loop {
            let header = Header::parse(&self.part, Accepts::Requests)?;
            if header.is_some_and(|header| header.frame_bytes() <= self.part.len()) {
                return Ok(Some(self.take()));
            }
            let whole = header.map(|header| header.frame_bytes());
            connection.expect_frame(self.part.len(), whole);
            // A frame that has its memory is read to its end.
            let is_under_way = self.held.is_some() || self.upload.is_some();
            if !is_under_way && !connection.wait_for_room().await {
                return Ok(None);
            }
            let read = match class(header) {
                Class::Upload(whole) => {
                    let place = self.upload.as_ref().map(|upload| upload.place);
                    if place.is_none_or(|place| self.part.len() == place) {
                        connection.progress.hold_up(true, corelith_io::now());
                        match (self.upload.take(), header) {
                            (Some(upload), _) => self.go_on(upload, whole, connection).await,
                            (None, header) => {
                                connection.upload.set(header.map(|header| header.head));
                                self.begin_upload(whole, connection).await;
                            }
                        }
                        connection.progress.hold_up(false, corelith_io::now());
                    }
                    self.read_upload().await?
                }
                class => {
                    if let (Class::Small(whole), None) = (class, &self.held) {
                        connection.progress.hold_up(true, corelith_io::now());
                        self.held = Some(self.budget.frames.acquire(whole).await);
                        connection.progress.hold_up(false, corelith_io::now());
                    }
                    self.read_shared(class).await?
                }
            };
            match read {
                _ if connection.closing.get() => return Ok(None),
                Read::End => return Ok(None),
                Read::Some(len) => connection.received(len),
                Read::Frames(batch, len) => {
                    connection.received(len);
                    return Ok(Some(batch));
                }
            }
        }
    }

    /// The frames that are complete in `part`.
    fn take(&mut self) -> Batch {
        let frames = self.parser.take(&mut self.part);
        // What remains must not keep the frames' memory.
        self.part = BytesMut::from(&self.part[..]);
        Batch {
            frames,
            upload: self.upload.take().map(|upload| upload.permit),
            _held: self.held.take(),
        }
    }

    /// Waits for memory for the start of a long frame.
    async fn begin_upload(&mut self, whole: usize, connection: &Connection) {
        let place = whole.min(UPLOAD_START_BYTES);
        assert!(self.part.len() < place, "more is there than a read brings");
        let permit = self.budget.starts.acquire(place + REQUEST_BYTES).await;
        connection.progress.set_stage(Stage::Start);
        let began = corelith_io::now();
        self.move_part(place);
        self.upload = Some(HalfReceived {
            permit,
            place,
            began,
            _slow: None,
        });
        self.held = None;
    }

    /// Waits for memory for all of a long frame whose start is there.
    async fn go_on(&mut self, start: HalfReceived, whole: usize, connection: &Connection) {
        assert!(start.place < whole, "the frame is complete");
        let is_slow = corelith_io::now() - start.began > UPLOAD_START_WITHIN;
        let mut stage = Stage::Whole;
        let mut slow = None;
        if is_slow {
            connection.progress.set_stage(Stage::Waiting);
            let part = &self.budget.slow_uploads;
            slow = Some(part.acquire(whole + REQUEST_BYTES).await);
            // One that is longer than the part for slow ones has to be fast when others wait.
            if whole + REQUEST_BYTES <= part.capacity() {
                stage = Stage::Slow;
            }
        }
        let permit = self.budget.uploads.acquire(whole + REQUEST_BYTES).await;
        connection.progress.set_stage(stage);
        self.move_part(whole);
        self.upload = Some(HalfReceived {
            permit,
            place: whole,
            began: start.began,
            _slow: slow,
        });
    }

    /// Moves the part that is there to a place of `bytes`.
    fn move_part(&mut self, bytes: usize) {
        let mut place = BytesMut::with_capacity(bytes);
        place.extend_from_slice(&self.part);
        self.part = place;
    }

    /// Reads more of a long frame, not beyond its end.
    async fn read_upload(&mut self) -> Result<Read, ReceiveError> {
        let place = self.upload.as_ref().map_or(0, |upload| upload.place);
        assert!(
            self.part.len() < place,
            "what is read of a frame has its place"
        );
        match self.read.read_buf(&mut self.part).await? {
            0 => Ok(Read::End),
            len => Ok(Read::Some(len)),
        }
    }

    /// Reads into the shared buffer.
    async fn read_shared(&mut self, class: Class) -> Result<Read, ReceiveError> {
        corelith_io::yield_if_needed().await;
        let len = self.part.len();
        let without_permit = match class {
            Class::Small(whole) => {
                assert!(
                    len < whole && self.held.is_some(),
                    "{len} of {whole} bytes, unpaid"
                );
                whole - len
            }
            _ => {
                assert!(len <= FRAME_BYTES_FREE, "{len} bytes need a permit");
                FRAME_BYTES_FREE - len
            }
        };
        let (read, mut permit) = poll_fn(|cx| {
            let permit = self.permit_to_read();
            let limit = permit.as_ref().map_or(without_permit, |_| READ_BYTES);
            let mut bytes = self.shared.bytes.borrow_mut();
            let place = bytes.get_mut(FRAME_BYTES_SMALL..FRAME_BYTES_SMALL + limit);
            match self.read.poll_read(cx, place.unwrap_or_default()) {
                Poll::Ready(read) => Poll::Ready(read.map(|read| (read, permit))),
                Poll::Pending => Poll::Pending,
            }
        })
        .await?;
        if read == 0 {
            return Ok(Read::End);
        }
        let mut batch = {
            let mut bytes = self.shared.bytes.borrow_mut();
            let start = FRAME_BYTES_SMALL - len;
            if let Some(place) = bytes.get_mut(start..FRAME_BYTES_SMALL) {
                place.copy_from_slice(&self.part);
            }
            let there = bytes.get(start..FRAME_BYTES_SMALL + read);
            BytesMut::from(there.unwrap_or_default())
        };
        let before = batch.len();
        let frames = self.parser.take(&mut batch);
        let former = self.held.take();
        let is_more_of_the_same = batch.len() == before;
        // What remains must not keep the frames' memory.
        self.part = BytesMut::from(&batch[..]);
        if is_more_of_the_same {
            self.held = former.or_else(|| permit_of_part(&self.part, &mut permit));
            return Ok(Read::Some(read));
        }
        self.held = permit_of_part(&self.part, &mut permit);
        let batch = Batch {
            frames,
            upload: None,
            _held: permit.or(former),
        };
        Ok(Read::Frames(batch, read))
    }

    /// A permit for what a read can bring.
    fn permit_to_read(&self) -> Option<Permit> {
        let frames = &self.budget.frames;
        // Uploads that wait keep what one read brought: they must not fill the share.
        let is_half_used = frames.available() < frames.capacity() / 2;
        if is_half_used && self.budget.starts.is_contended() {
            return None;
        }
        frames.try_acquire(READ_BYTES)
    }
}
