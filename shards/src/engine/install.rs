//! Receiving the state of another replica, and putting it in the place of one's own.
//!
//! The received tables are files like any other that no manifest names: a crash leaves orphans. One
//! manifest edit makes them the state; only then do the old tables become obsolete.

use super::merge::{Merge, Span};
use super::piece::{self, Kind};
use super::snapshot::{Record, take_record};
use super::{Engine, Tables, View};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::ids::{LogId, LogIndex, TableId};
use crate::key::Space;
use crate::limits::TABLE_BYTES;
use crate::manifest::{Manifest, sync_dir};
use crate::session::SessionTable;
use crate::sstable::{Content, Table, TableMeta, TableOptions, TableWriter};
use bytes::{Buf, Bytes, BytesMut};
use std::rc::Rc;

/// See [`Engine::receive_snapshot`]. Belongs to one core.
pub struct SnapshotWriter {
    engine: Engine,
    /// Number of the piece that is expected.
    number: u64,
    checkpoint: Option<Checkpoint>,
    /// Received, but not a whole record yet.
    stream: BytesMut,
    crc: u32,
    records: u64,
    last_key: Bytes,
    writer: Option<TableWriter>,
    /// All tables begun, for removal if this comes to nothing.
    begun: Vec<TableId>,
    tables: Vec<TableMeta>,
    ended: bool,
    finished: bool,
}

impl Engine {
    /// Starts receiving a snapshot into files of their own; nothing changes until
    /// [`Engine::install`]. Dropped unfinished, its files are removed (at the latest at the next
    /// start).
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    #[expect(clippy::unused_async, reason = "creating files may become part of it")]
    pub async fn receive_snapshot(&self) -> Result<SnapshotWriter> {
        self.check_usable()?;
        Ok(SnapshotWriter {
            engine: self.clone(),
            number: 0,
            checkpoint: None,
            stream: BytesMut::new(),
            crc: 0,
            records: 0,
            last_key: Bytes::new(),
            writer: None,
            begun: Vec::new(),
            tables: Vec::new(),
            ended: false,
            finished: false,
        })
    }

    /// Replaces the whole state by a received snapshot, atomically and durably. `received` must be
    /// newer than the applied log id.
    ///
    /// # Errors
    /// `BadPiece` if it was not finished, `OldSnapshot`, `Fenced`, `Io`, `Corrupt`.
    pub async fn install(&self, mut received: SnapshotWriter) -> Result<()> {
        self.check_usable()?;
        let checkpoint = match (received.finished, received.checkpoint.take()) {
            (true, Some(checkpoint)) => checkpoint,
            _ => return Err(received.bad("the snapshot is not complete")),
        };
        let mut tables = Vec::new();
        for meta in &received.tables {
            let inner = &self.inner;
            let table = Table::open(&inner.dir, inner.owner, meta.clone(), &inner.cache);
            tables.push(Rc::new(table.await?));
        }
        let tables = Rc::new(tables);
        let sessions = load_sessions(&tables).await?;

        let edit = self.inner.manifest_edit.acquire(1).await;
        let manifest = {
            let state = self.inner.state.borrow();
            if checkpoint.index() <= state.applied.index() {
                return Err(Error::OldSnapshot);
            }
            Manifest {
                generation: state.manifest.generation + 1,
                next_table: state.next_table,
                checkpoint: checkpoint.clone(),
                installed: checkpoint.applied,
                tables: received.tables.clone(),
            }
        };
        manifest.prepare(&self.inner.dir, self.inner.owner).await?;
        // From here on the manifest may name the files, whatever the outcome.
        received.begun.clear();
        if let Err(error) = Manifest::commit(&self.inner.dir).await {
            self.fence(error.clone());
            return Err(error);
        }
        {
            let state = &mut *self.inner.state.borrow_mut();
            assert!(
                state.applied.index() < checkpoint.index(),
                "nothing is applied while a snapshot is installed"
            );
            self.inner
                .pins
                .dropped(checkpoint.index().unwrap_or_default());
            state.active = Rc::default();
            state.frozen.clear();
            state.obsolete.extend(state.tables.iter().cloned());
            state.tables = tables;
            state.applied = checkpoint;
            state.manifest = manifest;
        }
        *self.inner.sessions.borrow_mut() = sessions;
        drop(edit);
        self.inner.changed.notify_waiters();
        self.collect().await;
        Ok(())
    }
}

impl SnapshotWriter {
    /// Takes the next piece, in order.
    ///
    /// # Errors
    /// `BadPiece` if its checksum or its order is wrong: ask for it again. If its content is wrong,
    /// and after `Io`, start over.
    pub async fn piece(&mut self, piece: Bytes) -> Result<()> {
        let shard = self.engine.inner.owner.shard;
        let (kind, mut payload) =
            piece::decode(shard, self.number, &piece).map_err(|what| self.bad(what))?;
        match kind {
            Kind::Head if self.number == 0 => {
                let checkpoint = Checkpoint::decode(&mut payload.as_ref());
                self.checkpoint = Some(checkpoint.ok_or(self.bad("the head is malformed"))?);
            }
            Kind::Records if self.number > 0 && !self.ended => {
                self.crc = crc32c::crc32c_append(self.crc, &payload);
                self.stream.extend_from_slice(&payload);
                while let Some(record) =
                    take_record(&mut self.stream).map_err(|what| self.bad(what))?
                {
                    self.add(record).await?;
                }
            }
            Kind::End if self.number > 0 && !self.ended => {
                let records = payload.try_get_u64_le();
                let crc = payload.try_get_u32_le();
                let complete = self.stream.is_empty()
                    && payload.is_empty()
                    && records == Ok(self.records)
                    && crc == Ok(self.crc);
                if !complete {
                    return Err(self.bad("the end does not match what came before"));
                }
                self.ended = true;
            }
            _ => return Err(self.bad("out of order")),
        }
        self.number += 1;
        Ok(())
    }

    async fn add(&mut self, record: Record) -> Result<()> {
        let known_space = Space::of_stored(&record.stored_key).is_some();
        let in_order = self.last_key < record.stored_key;
        let applied = self.checkpoint.as_ref().and_then(Checkpoint::index);
        if !known_space || !in_order || Some(record.at) > applied {
            return Err(self.bad("a record that cannot be"));
        }
        let writer = self.writer.as_ref();
        let full =
            writer.is_some_and(|writer| writer.file_bytes() >= TABLE_BYTES || writer.is_full());
        if full {
            self.finish_table().await?;
        }
        if self.writer.is_none() {
            self.engine.check_usable()?;
            let inner = &self.engine.inner;
            let id = self.engine.new_table_id();
            self.begun.push(id);
            let options = TableOptions::default();
            let writer = TableWriter::create(&inner.dir, inner.owner, id, options).await?;
            self.writer = Some(writer);
        }
        if let Some(writer) = &mut self.writer {
            let content = Content::Inline(&record.value);
            writer.add(&record.stored_key, record.at, content).await?;
        }
        self.last_key = record.stored_key;
        self.records += 1;
        corelith_io::yield_if_needed().await;
        Ok(())
    }

    async fn finish_table(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            self.tables.push(writer.finish().await?);
        }
        Ok(())
    }

    /// Ends the reception: all files are durable, and the log id and membership are known.
    ///
    /// # Errors
    /// `BadPiece` if the end is missing, `Io`.
    pub async fn finish(&mut self) -> Result<(Option<LogId>, Option<(LogId, Bytes)>)> {
        if !self.ended {
            return Err(self.bad("the end is missing"));
        }
        self.finish_table().await?;
        sync_dir(&self.engine.inner.dir).await?;
        self.finished = true;
        let checkpoint = self.checkpoint.clone().unwrap_or_default();
        Ok((checkpoint.applied, checkpoint.membership))
    }

    fn bad(&self, what: &'static str) -> Error {
        Error::BadPiece {
            number: self.number,
            what,
        }
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        let state = &mut *self.engine.inner.state.borrow_mut();
        state.garbage.append(&mut self.begun);
    }
}

/// Reads all sessions that tables hold.
pub(super) async fn load_sessions(tables: &Rc<Tables>) -> Result<SessionTable> {
    let view = View {
        memtables: Vec::new(),
        tables: Rc::clone(tables),
    };
    let span = Span {
        space: Space::Session,
        start: Bytes::new(),
        end: Bytes::new(),
        at: LogIndex(u64::MAX),
    };
    let mut merge = Merge::start(&view, span).await?;
    let mut records = Vec::new();
    while let Some(merged) = merge.next().await? {
        if let Some(record) = merged.value().await? {
            let id = merged.key.first_chunk::<8>().copied();
            let id = id.filter(|_| merged.key.len() == 8);
            let id = id.ok_or_else(|| merged.damaged("a session's key is malformed"))?;
            records.push((u64::from_be_bytes(id), record));
        }
    }
    SessionTable::from_records(records).map_err(|what| Error::Corrupt {
        file: tables
            .first()
            .map_or_else(String::new, |table| table.name()),
        offset: 0,
        what,
    })
}
