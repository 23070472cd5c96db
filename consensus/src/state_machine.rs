//! openraft's state machine: the shard's engine.
//!
//! Every replica decides each entry alone and alike: the outcome depends only on the entries before
//! it. Applying waits in two places: for a block of an sstable when a conditional write asks for the
//! version of a key that is not in memory (longer if it is damaged: `relief.rs`), and while all memtables are full. What piles up meanwhile
//! is in the log, and bounded: on a leader by the budget of proposals, which wait for room before
//! they are proposed (`group/entrance.rs`), on a follower by the door (`group/door.rs`).

use crate::ahead::ParsedAhead;
use crate::applied::Applied;
use crate::command::{Decided, Outcome, Parsed, WriteReply, kind};
use crate::limits::{APPLY_TURN_ENTRIES, RELIEF_LIMIT_AT_START};
use crate::log_store::io_error;
use crate::membership;
use crate::planted::{Bug, is_planted};
use crate::relief::{self, Checked, Relief};
use crate::snapshot::{self, SnapshotData, SnapshotSource};
use crate::types::{self, LogId, SnapshotMeta, StoredMembership, Types};
use crate::uploads::entry::{self, Step};
use crate::uploads::{self, Uploads};
use bytes::Bytes;
use corelith_shards::{self as shards, Admission, Engine, LogIndex, Space};
use corelith_wire::StoreId;
use corelith_wire::request::Condition;
use corelith_wire::upload::UploadState;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// The state of one shard, to openraft.
pub(crate) struct StateMachine {
    engine: Engine,
    applied: Rc<Applied>,
    ahead: Rc<ParsedAhead>,
    relief: Relief,
    uploads: Rc<RefCell<Uploads>>,
    /// How long a check waits for what is damaged; `None`: as long as it takes.
    patience: Cell<Option<Duration>>,
    /// Whether a check has waited in vain.
    is_undecided: Cell<bool>,
}

impl StateMachine {
    /// Makes a state machine over a shard's engine.
    pub(crate) fn new(
        engine: Engine,
        applied: Rc<Applied>,
        ahead: Rc<ParsedAhead>,
        relief: Relief,
        uploads: Rc<RefCell<Uploads>>,
    ) -> Self {
        Self {
            engine,
            applied,
            ahead,
            relief,
            uploads,
            patience: Cell::new(Some(RELIEF_LIMIT_AT_START)),
            is_undecided: Cell::new(false),
        }
    }

    /// The start is over.
    pub(crate) fn is_started(&self) {
        self.patience.set(None);
        self.is_undecided.set(false);
    }

    /// Whether the last entry was not applied since what its condition asks for is damaged: all that holds is in place, and
    /// it may be applied again.
    pub(crate) fn is_undecided(&self) -> bool {
        self.is_undecided.get()
    }

    /// Applies one entry and says what came of it.
    pub(crate) async fn apply_entry(&self, entry: &shards::Entry) -> io::Result<WriteReply> {
        let at = Decided::from(entry.id);
        let reply = match entry.kind {
            kind::WRITE => self.write(at, entry).await?,
            kind::UPLOAD_CHUNK => WriteReply {
                at,
                outcome: self.chunk(at.index, entry),
            },
            kind::UPLOAD_BEGIN..=kind::UPLOAD_DROP => WriteReply {
                at,
                outcome: self.step(at.index, entry).await?,
            },
            kind::OPEN_SESSION => {
                self.engine.sessions().open(entry.id.index);
                let session = entry.id.index.0;
                let outcome = Outcome::SessionOpened { session };
                WriteReply { at, outcome }
            }
            _ => WriteReply {
                at,
                outcome: Outcome::Internal,
            },
        };
        let membership = (entry.kind == kind::MEMBERSHIP).then(|| entry.body.clone());
        self.engine.set_applied(entry.id, membership);
        self.applied.advance(entry.id);
        Ok(reply)
    }

    async fn write(&self, at: Decided, entry: &shards::Entry) -> io::Result<WriteReply> {
        let without_effect = |outcome| Ok(WriteReply { at, outcome });
        // After a restart, and of what came too far ahead, nothing is left. The head of a separated
        // entry parses as a put of an empty value.
        let parsed = self.ahead.take(entry.id);
        let Some(command) = parsed.or_else(|| Parsed::of(&entry.body)) else {
            return without_effect(Outcome::Malformed);
        };
        let Parsed {
            session,
            number,
            answered_below,
            ..
        } = command;
        let admission = self
            .engine
            .sessions()
            .admit(at.index, session, number, answered_below);
        match admission {
            Admission::Fresh => {}
            Admission::Repeated(record) => {
                return WriteReply::from_record(&record)
                    .ok_or_else(|| io::Error::other("a session holds a result of unknown form"));
            }
            Admission::Stale => return without_effect(Outcome::Stale),
            Admission::WindowFull => return without_effect(Outcome::WindowFull),
            Admission::Unknown => return without_effect(Outcome::SessionExpired),
        }
        let outcome = self.decide(at.index, &command, entry).await?;
        let reply = WriteReply { at, outcome };
        if let Some(record) = reply.record() {
            self.engine.sessions().record(session, number, &record);
        }
        Ok(reply)
    }

    /// Checks the condition and does the operation.
    async fn decide(
        &self,
        at: LogIndex,
        command: &Parsed,
        entry: &shards::Entry,
    ) -> io::Result<Outcome> {
        let key = command.key(&entry.body);
        if let Err(current) = self.check(at, key, command.condition).await? {
            return Ok(Outcome::Conflict { current });
        }
        match (command.is_put, entry.place) {
            (true, None) => self.engine.put(at, key, command.value(&entry.body)),
            (true, Some(place)) => self.engine.put_separated(at, key, place),
            (false, _) => self.engine.delete(at, key),
        }
        if !is_planted(Bug::ForgetReplaced) {
            let mut changes = Vec::new();
            self.uploads.borrow_mut().replaced(at, key, &mut changes);
            uploads::write(&self.engine, at, changes);
        }
        Ok(Outcome::Applied { version: at })
    }

    /// Whether a condition on `key` holds before the entry at `at`; if not, which version the key has.
    async fn check(
        &self,
        at: LogIndex,
        key: &[u8],
        condition: Condition,
    ) -> io::Result<relief::Outcome> {
        let Some(expected) = self::condition(condition) else {
            return Ok(Ok(()));
        };
        let checked = if is_planted(Bug::DecideFromMemory) {
            let found = self.engine.version_in_memory(key);
            Checked::Current(found.flatten())
        } else {
            let checked = self.relief.check(key, at, self.patience.get()).await;
            let is_corrupt = |error: &shards::Error| error.is_corrupt();
            self.is_undecided
                .set(checked.as_ref().is_err_and(is_corrupt));
            checked.map_err(io_error)?
        };
        let decided = match checked {
            Checked::Current(current) if current == expected => Ok(()),
            Checked::Current(current) => Err(current),
            Checked::Decided(decided) => decided,
        };
        self.relief.note(at, decided);
        Ok(decided)
    }

    /// Takes a chunk of an upload. Of an entry that was read from the log there may be only the head.
    fn chunk(&self, at: LogIndex, entry: &shards::Entry) -> Outcome {
        let Some((chunk, content)) = entry::chunk(&entry.body) else {
            return Outcome::Malformed;
        };
        let mut uploads = self.uploads.borrow_mut();
        if let Some(state) = uploads.settled(chunk, content) {
            return Outcome::Upload(state);
        }
        let (mut changes, key) = (Vec::new(), chunk.key());
        uploads.stage(chunk, content, &mut changes);
        match entry.place {
            Some(place) => self.engine.put_row_separated(at, Space::Chunk, &key, place),
            None => {
                let bytes = entry.body.slice(entry::CHUNK_AT..);
                assert_eq!(bytes.len(), content.len as usize, "{chunk} is whole");
                self.engine.put_row(at, Space::Chunk, &key, bytes);
            }
        }
        uploads::write(&self.engine, at, changes);
        Outcome::Upload(UploadState::Open)
    }

    /// Takes any other step of an upload.
    async fn step(&self, at: LogIndex, entry: &shards::Entry) -> io::Result<Outcome> {
        let Some((time_us, step)) = entry::parse(entry.kind, &entry.body) else {
            return Ok(Outcome::Malformed);
        };
        let mut holds = Ok(());
        if let Step::Commit(commit) = &step {
            let (checked, key) = {
                let uploads = self.uploads.borrow();
                (uploads.check_commit(commit), uploads.key(commit.upload))
            };
            if let Err(state) = checked {
                return Ok(Outcome::Upload(state));
            }
            let condition = match is_planted(Bug::CommitWithoutCondition) {
                true => Condition::Any,
                false => commit.condition,
            };
            holds = self.check(at, &key.unwrap_or_default(), condition).await?;
        }
        // Nothing is awaited from here on.
        let (mut changes, mut uploads) = (Vec::new(), self.uploads.borrow_mut());
        let state = match &step {
            Step::Begin(begin) => uploads.begin(begin, time_us, &mut changes),
            Step::Commit(commit) => uploads.commit(at, commit, holds, time_us, &mut changes),
            Step::Abort(upload) => uploads.abort(*upload, time_us, &mut changes),
            Step::Expire => {
                uploads.expire(time_us, &mut changes);
                UploadState::Unknown
            }
            Step::Drop(dropped) => uploads.drop_chunks(at, dropped, time_us, &mut changes),
        };
        uploads::write(&self.engine, at, changes);
        Ok(Outcome::Upload(state))
    }
}

/// The version that the key must have, if that matters.
fn condition(condition: Condition) -> Option<Option<LogIndex>> {
    match condition {
        _ if is_planted(Bug::SkipConditions) => None,
        Condition::Any => None,
        Condition::Absent => Some(None),
        Condition::Version(version) => Some(Some(LogIndex(version))),
    }
}

/// The membership of a state, as openraft wants it.
///
/// # Errors
/// The record is none of ours.
pub(crate) fn stored_membership(
    record: Option<(shards::LogId, Bytes)>,
) -> io::Result<StoredMembership> {
    let Some((at, body)) = record else {
        return Ok(StoredMembership::default());
    };
    let membership = membership::decode(&body)
        .ok_or_else(|| io::Error::other("the stored membership is malformed"))?;
    Ok(StoredMembership::new(Some(types::log_id(at)), membership))
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotSource;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let (applied, membership) = self.engine.applied();
        Ok((applied.map(types::log_id), stored_membership(membership)?))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin,
    {
        let mut turn = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            if turn == APPLY_TURN_ENTRIES {
                turn = 0;
                corelith_io::yield_if_needed().await;
            }
            self.engine.wait_for_memory().await.map_err(io_error)?;
            turn += 1;
            let reply = self.apply_entry(&entry.into()).await?;
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        self.applied.announce();
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotSource> {
        Some(SnapshotSource::new(self.engine.clone(), force))
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotSource {
        SnapshotSource::new(self.engine.clone(), true)
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        snapshot::install(&self.engine, snapshot).await?;
        if !is_planted(Bug::KeepUploadsAtInstall) {
            let installed = uploads::load(&self.engine).await;
            let installed = installed.map_err(|error| io::Error::other(error.to_string()))?;
            self.uploads.replace(installed);
        }
        let (applied, _) = self.engine.applied();
        assert_eq!(
            applied.map(types::log_id),
            meta.last_log_id,
            "the snapshot is not what it says"
        );
        if let Some(applied) = applied {
            self.applied.advance(applied);
        }
        self.applied.announce();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<types::LeaderId, u64, StoreId, SnapshotData>>> {
        snapshot::take(&self.engine)
    }
}
