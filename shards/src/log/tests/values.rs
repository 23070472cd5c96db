//! A value log that is right, but as late as a test wants, and that breaks as a disk does.
//!
//! ```text
//! record  = crc u32 (of all after, without the zeros) | value length u32 | log index u64 |
//!           key length u32 | key | value | zeros to 4 KiB
//! ```

use crate::error::{Error, Result};
use crate::ids::{LogIndex, Ticket, ValueSegmentId};
use crate::vlog::{ValuePointer, ValueState};
use bytes::{Buf as _, BufMut, Bytes};
use corelith_io::sync::notify::Notify;
use corelith_io::{BLOCK_SIZE, Buf, File, OpenOptions};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Values in a segment before the next one is begun.
const SEGMENT_VALUES: u32 = 8;
const RECORD_BYTES_MAX: usize = 1 << 20;
/// Two of three writes begin up to this long after their value was staged, and overtake each other.
const DELAY_US_MAX: u64 = 2000;
/// Segments made at the start; the last one takes all that is left.
const SEGMENTS: u64 = 3;

#[derive(Clone)]
pub(crate) struct FakeValues {
    inner: Rc<Inner>,
}

type Listener = Box<dyn Fn(Result<Ticket>)>;

struct Inner {
    dir: PathBuf,
    /// What writes and reads wait for.
    writes: Gate,
    reads: Gate,
    segments: RefCell<Vec<Segment>>,
    active: Cell<usize>,
    staged: Cell<u64>,
    written: RefCell<BTreeSet<u64>>,
    durable: Cell<u64>,
    listener: RefCell<Option<Listener>>,
}

#[derive(Default)]
struct Gate {
    is_closed: Cell<bool>,
    opened: Notify,
}

impl Gate {
    fn close(&self, close: bool) {
        self.is_closed.set(close);
        self.opened.notify_waiters();
    }

    async fn pass(&self) {
        loop {
            let opened = self.opened.notified();
            if !self.is_closed.get() {
                return;
            }
            opened.await;
        }
    }
}

struct Segment {
    id: u64,
    file: Rc<File>,
    end: u64,
    records: u32,
    highest: Option<LogIndex>,
    sealed: bool,
}

impl FakeValues {
    pub(crate) async fn open(dir: &Path) -> Result<Self> {
        corelith_io::create_dir_all(dir).await?;
        let mut ids: Vec<u64> = corelith_io::list_dir(dir)
            .await?
            .iter()
            .map(|entry| entry.name.parse().unwrap())
            .collect();
        ids.sort_unstable();
        let mut segments = Vec::new();
        for &id in &ids {
            segments.push(open_old(dir, id).await?);
        }
        let active = segments.len();
        let next = ids.last().map_or(1, |last| last + 1);
        for id in next..next + SEGMENTS {
            let path = dir.join(id.to_string());
            let options = OpenOptions::new().write().create_new().dsync();
            segments.push(Segment {
                id,
                file: Rc::new(options.open(&path).await?),
                end: 0,
                records: 0,
                highest: None,
                sealed: false,
            });
        }
        corelith_io::sync_dir(dir).await?;
        let inner = Rc::new(Inner {
            dir: dir.to_path_buf(),
            writes: Gate::default(),
            reads: Gate::default(),
            segments: RefCell::new(segments),
            active: Cell::new(active),
            staged: Cell::new(0),
            written: RefCell::default(),
            durable: Cell::new(0),
            listener: RefCell::default(),
        });
        Ok(Self { inner })
    }

    /// Values staged from now on are not written until `hold` is taken back.
    pub(super) fn hold_writes(&self, hold: bool) {
        self.inner.writes.close(hold);
    }

    /// As [`FakeValues::hold_writes`], for reads.
    pub(super) fn hold_reads(&self, hold: bool) {
        self.inner.reads.close(hold);
    }

    pub(super) fn staged(&self) -> u64 {
        self.inner.staged.get()
    }

    pub(crate) fn on_durable(&self, listener: impl Fn(Result<Ticket>) + 'static) {
        *self.inner.listener.borrow_mut() = Some(Box::new(listener));
    }

    pub(crate) fn stage(&self, at: LogIndex, key: &[u8], value: Bytes) -> (ValuePointer, Ticket) {
        let inner = &self.inner;
        let ticket = inner.staged.get() + 1;
        inner.staged.set(ticket);
        let mut record = vec![0; 4];
        record.put_u32_le(value.len() as u32);
        record.put_u64_le(at.0);
        record.put_u32_le(key.len() as u32);
        record.put_slice(key);
        record.put_slice(&value);
        let crc = crc32c::crc32c(&record[4..]);
        record[..4].copy_from_slice(&crc.to_le_bytes());
        let mut buf = Buf::alloc(record.len().next_multiple_of(BLOCK_SIZE));
        buf.fill(0);
        buf[..record.len()].copy_from_slice(&record);

        let mut segments = inner.segments.borrow_mut();
        let is_full = segments[inner.active.get()].records >= SEGMENT_VALUES;
        if is_full && inner.active.get() + 1 < segments.len() {
            segments[inner.active.get()].sealed = true;
            inner.active.set(inner.active.get() + 1);
        }
        let segment = &mut segments[inner.active.get()];
        let place = ValuePointer {
            segment: ValueSegmentId(segment.id),
            slot: segment.records,
            offset: segment.end,
            len: value.len() as u32,
            crc,
        };
        segment.records += 1;
        segment.end += buf.len() as u64;
        segment.highest = segment.highest.max(Some(at));
        let file = Rc::clone(&segment.file);
        drop(segments);
        drop(corelith_io::spawn(Rc::clone(inner).write(
            ticket,
            file,
            place.offset,
            buf,
        )));
        (place, Ticket(ticket))
    }

    pub(crate) async fn read(&self, place: ValuePointer, key: &[u8]) -> Result<Bytes> {
        self.inner.reads.pass().await;
        match self.record(place).await? {
            Some((found, value)) if found == key => Ok(value),
            _ => Err(Error::corrupt(
                &self.inner.dir,
                place.offset,
                "no such value",
            )),
        }
    }

    pub(crate) async fn state_of(&self, place: ValuePointer) -> Result<ValueState> {
        Ok(match self.record(place).await? {
            Some(_) => ValueState::Whole,
            None => ValueState::Torn,
        })
    }

    async fn record(&self, place: ValuePointer) -> Result<Option<(Bytes, Bytes)>> {
        let file = {
            let segments = self.inner.segments.borrow();
            let of_place = segments
                .iter()
                .find(|segment| segment.id == place.segment.0);
            match of_place {
                Some(segment) => Rc::clone(&segment.file),
                None => return Ok(None),
            }
        };
        let bytes = file.read_at(place.offset, RECORD_BYTES_MAX).await?;
        let record = parse(&bytes);
        Ok(record
            .filter(|record| record.crc == place.crc && record.value.len() as u32 == place.len)
            .map(|record| (record.key, record.value)))
    }

    /// Removes the segments that hold nothing of entries after `purged`.
    pub(crate) async fn collect(&self, purged: Option<LogIndex>) {
        let inner = &self.inner;
        let mut removed = Vec::new();
        inner.segments.borrow_mut().retain(|segment| {
            let is_garbage = segment.sealed && segment.highest <= purged;
            if is_garbage {
                removed.push(segment.id);
            }
            !is_garbage
        });
        let active = inner.active.get() - removed.len();
        inner.active.set(active);
        for id in removed {
            let path = inner.dir.join(id.to_string());
            corelith_io::remove_file(&path).await.unwrap();
        }
    }
}

impl Inner {
    async fn write(self: Rc<Self>, ticket: u64, file: Rc<File>, offset: u64, buf: Buf) {
        self.writes.pass().await;
        if !corelith_io::random_u64().is_multiple_of(3) {
            let delay = corelith_io::random_u64() % DELAY_US_MAX;
            corelith_io::sleep(Duration::from_micros(delay)).await;
        }
        let result = file.write_at(offset, buf).await;
        let progress = match result {
            Ok(()) => {
                self.written.borrow_mut().insert(ticket);
                while self.written.borrow_mut().remove(&(self.durable.get() + 1)) {
                    self.durable.set(self.durable.get() + 1);
                }
                Ok(Ticket(self.durable.get()))
            }
            Err(error) => Err(error.into()),
        };
        if let Some(listener) = &*self.listener.borrow() {
            listener(progress);
        }
    }
}

/// Opens a segment of an earlier time, makes what can be read of it durable and finds its highest
/// index.
async fn open_old(dir: &Path, id: u64) -> Result<Segment> {
    let path = dir.join(id.to_string());
    OpenOptions::new().write().open(&path).await?.sync().await?;
    let file = File::open(&path).await?;
    let end = file.len().await?;
    let (mut offset, mut highest) = (0, None);
    while offset < end {
        let record = parse(&file.read_at(offset, RECORD_BYTES_MAX).await?);
        offset += record.as_ref().map_or(BLOCK_SIZE, Record::disk_len) as u64;
        highest = highest.max(record.map(|record| record.at));
    }
    Ok(Segment {
        id,
        file: Rc::new(file),
        end,
        records: 0,
        highest,
        sealed: true,
    })
}

struct Record {
    crc: u32,
    at: LogIndex,
    key: Bytes,
    value: Bytes,
}

impl Record {
    fn disk_len(&self) -> usize {
        (20 + self.key.len() + self.value.len()).next_multiple_of(BLOCK_SIZE)
    }
}

/// The record at the front of `bytes`, if it is whole.
fn parse(bytes: &[u8]) -> Option<Record> {
    let mut head = bytes.get(..20)?;
    let (crc, len) = (head.get_u32_le(), head.get_u32_le());
    let (at, key_len) = (LogIndex(head.get_u64_le()), head.get_u32_le());
    let key_end = 20_usize.checked_add(key_len as usize)?;
    let end = key_end.checked_add(len as usize)?;
    let is_sound = len > 0 && crc32c::crc32c(bytes.get(4..end)?) == crc;
    is_sound.then(|| Record {
        crc,
        at,
        key: Bytes::copy_from_slice(&bytes[20..key_end]),
        value: Bytes::copy_from_slice(&bytes[key_end..end]),
    })
}
