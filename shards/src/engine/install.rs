//! Receives the state of another replica and installs it in the place of the own one.
//!
//! The received tables are files like any other that no manifest names: a crash leaves orphans. One
//! manifest edit makes them the state; only then do the old tables become obsolete.

use super::merge::{Merge, ScanSpan};
use super::piece::{self, PieceKind};
use super::run_writer::RunWriter;
use super::snapshot::{SnapshotRecord, take_record};
use super::{Engine, EngineState, ItemValue, ReadView, edit};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::ids::{LogId, LogIndex, RunId, Ticket, ValueSegmentId};
use crate::key::{Space, SpacedKey};
use crate::limits::{LEVELS_MAX, TABLE_BYTES};
use crate::manifest::PlacedTable;
use crate::session::SessionTable;
use crate::sstable::{Content, TableMeta};
use bytes::{Buf, Bytes, BytesMut};
use std::rc::Rc;

/// Where a received state goes: the last level.
const BOTTOM: usize = LEVELS_MAX - 1;
const BOTTOM_LEVEL: u8 = BOTTOM as u8;

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
    run: RunWriter,
    tables: Vec<TableMeta>,
    /// Up to here values must be durable before the tables may count.
    values: Ticket,
    _receiving: Reception,
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
            run: RunWriter::new(self, self.table_options(BOTTOM), TABLE_BYTES),
            tables: Vec::new(),
            values: Ticket::default(),
            _receiving: Reception::begin(self),
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
        let opened = self.open_tables(&received.tables).await?;
        let tables = received.tables.iter();
        let placed: Vec<PlacedTable> = tables
            .map(|meta| PlacedTable {
                level: BOTTOM_LEVEL,
                run: received
                    .tables
                    .first()
                    .map_or(RunId(0), |first| RunId(first.id.0)),
                meta: meta.clone(),
            })
            .collect();
        let by_id = opened
            .iter()
            .map(|table| (table.meta().id, Rc::clone(table)));
        let view = ReadView {
            memtables: Vec::new(),
            version: Rc::new(edit::version_of(&placed, &by_id.collect())),
            segments: self.inner.values.segments(),
            values: self.inner.values.clone(),
        };
        let sessions = load_sessions(&view).await?;
        drop(view);
        let installed = self
            .edit(
                &opened,
                |manifest, state| {
                    if checkpoint.index() <= state.applied.index() {
                        return false;
                    }
                    manifest.checkpoint = checkpoint.clone();
                    manifest.installed = checkpoint.applied;
                    manifest.tables = placed;
                    true
                },
                |state| {
                    self.replace_state(state, &checkpoint, sessions);
                },
            )
            .await;
        if matches!(installed, Ok(true)) || !self.is_unfenced() {
            received.run.keep();
        }
        match installed? {
            true => {
                self.remove_unused().await;
                Ok(())
            }
            false => Err(Error::OldSnapshot),
        }
    }
}

impl Engine {
    /// What else is replaced in the step in which the tables are: memtables, sessions and what is applied.
    pub(super) fn replace_state(
        &self,
        state: &mut EngineState,
        checkpoint: &Checkpoint,
        sessions: SessionTable,
    ) {
        assert!(
            state.applied.index() < checkpoint.index(),
            "nothing is applied while a snapshot is installed"
        );
        let index = checkpoint.index().unwrap_or_default();
        self.inner.pins.dropped(index);
        let active = std::mem::take(&mut state.active);
        let frozen = state.frozen.drain(..);
        let frozen = frozen.map(|frozen| Rc::clone(&frozen.memtable));
        for memtable in frozen.chain([active]) {
            self.retire_memtable(memtable);
        }
        state.applied = checkpoint.clone();
        state.unfrozen_since = None;
        *self.inner.sessions.borrow_mut() = sessions;
    }
}

impl Engine {
    /// The key of a value that came from another replica, if the value goes to the value log.
    ///
    /// # Errors
    /// What is wrong, if there can be no such key or value.
    pub(super) fn separated_key<'a>(
        &self,
        stored_key: &'a [u8],
        value: &ItemValue,
    ) -> Result<Option<SpacedKey<'a>>, &'static str> {
        let key = SpacedKey::of_stored(stored_key).ok_or("a key of no space")?;
        if value.bytes().is_none() && key.space != Space::User {
            return Err("a large value that is no user's");
        }
        let from = self.inner.options.value_threshold;
        let is_long = value.bytes().is_some_and(|value| value.len() >= from);
        Ok(Some(key).filter(|key| from > 0 && is_long && key.space.is_separable()))
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
            PieceKind::Head if self.number == 0 => {
                let checkpoint = Checkpoint::decode(&mut payload.as_ref());
                self.checkpoint = Some(checkpoint.ok_or(self.bad("the head is malformed"))?);
            }
            PieceKind::Records if self.number > 0 && !self.ended => {
                self.crc = crc32c::crc32c_append(self.crc, &payload);
                self.stream.extend_from_slice(&payload);
                while let Some(record) =
                    take_record(&mut self.stream).map_err(|what| self.bad(what))?
                {
                    self.add(record).await?;
                }
            }
            PieceKind::End if self.number > 0 && !self.ended => {
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

    async fn add(&mut self, record: SnapshotRecord) -> Result<()> {
        let known_space = Space::of_stored(&record.stored_key).is_some();
        let in_order = self.last_key < record.stored_key;
        let applied = self.checkpoint.as_ref().and_then(Checkpoint::index);
        if !known_space || !in_order || Some(record.at) > applied {
            return Err(self.bad("a record that cannot be"));
        }
        let separated = self
            .engine
            .separated_key(&record.stored_key, &record.value)
            .map_err(|what| self.bad(what))?;
        let content = match (separated, &record.value) {
            (Some(key), ItemValue::Bytes(value)) => {
                let values = &self.engine.inner.values;
                values.wait_for_room().await?;
                let (pointer, ticket) = values.stage(record.at, key, value)?;
                self.values = ticket;
                Content::Separated(pointer)
            }
            (_, ItemValue::Bytes(value)) => Content::Inline(value),
            (_, ItemValue::Large(large)) => Content::Large((*large).into()),
        };
        self.run
            .add(&record.stored_key, record.at, content, true)
            .await?;
        self.last_key = record.stored_key;
        self.records += 1;
        corelith_io::yield_if_needed().await;
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
        assert!(
            self.stream.is_empty(),
            "every record is taken before the end"
        );
        self.tables = self.run.finish().await?;
        self.engine.inner.values.wait_durable(self.values).await?;
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

/// While it lives, no value-log segment that a reception may write to is collected.
pub(super) struct Reception {
    engine: Engine,
    from: ValueSegmentId,
}

impl Reception {
    pub(super) fn begin(engine: &Engine) -> Self {
        let (_, from) = engine.inner.values.sealed();
        engine.inner.state.borrow_mut().receiving.push(from);
        Self {
            engine: engine.clone(),
            from,
        }
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        let receiving = &mut self.engine.inner.state.borrow_mut().receiving;
        let at = receiving.iter().position(|from| *from == self.from);
        assert!(at.is_some(), "a reception ends once");
        if let Some(at) = at {
            receiving.swap_remove(at);
        }
    }
}

/// Reads all sessions that tables hold.
pub(super) async fn load_sessions(view: &ReadView) -> Result<SessionTable> {
    let span = ScanSpan {
        space: Space::Session,
        start: Bytes::new(),
        end: Bytes::new(),
        at: LogIndex(u64::MAX),
    };
    let damaged = |what| {
        let first = view.version.tables().next();
        Error::Corrupt {
            file: first.map_or_else(String::new, |table| table.name()),
            offset: 0,
            what,
        }
    };
    let mut merge = Merge::start(view, span).await?;
    let mut records = Vec::new();
    while let Some(merged) = merge.next().await? {
        if let Some(record) = merged.bytes(view).await? {
            let id = merged.key.first_chunk::<8>().copied();
            let id = id.filter(|_| merged.key.len() == 8);
            let id = id.ok_or_else(|| damaged("a session's key is malformed"))?;
            records.push((u64::from_be_bytes(id), record));
        }
    }
    SessionTable::from_records(records).map_err(damaged)
}
