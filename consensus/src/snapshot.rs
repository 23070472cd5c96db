//! Snapshots: the engine's own image of itself, never written anywhere just to be sent.

use crate::log_store::io_error;
use crate::state_machine::stored_membership;
use crate::types::{self, SnapshotMeta, Types};
use corelith_shards::{self as shards, Engine, SnapshotWriter};
use corelith_wire::StoreId;
use openraft::storage::RaftSnapshotBuilder;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

/// openraft's snapshot over our data.
pub(crate) type Snapshot = openraft::storage::Snapshot<types::LeaderId, u64, StoreId, SnapshotData>;

/// What openraft hands around as a snapshot.
pub(crate) enum SnapshotData {
    /// Of this replica's engine, to be sent.
    Local(Box<shards::Snapshot>),
    /// Received from a peer and finished, to be installed.
    Received(Box<SnapshotWriter>),
}

/// Takes a snapshot of the engine as of its last checkpoint, beyond which the log is not purged;
/// `None` if there is none yet.
///
/// # Errors
/// The engine's membership record is malformed.
pub(crate) fn take(engine: &Engine) -> io::Result<Option<Snapshot>> {
    let snapshot = engine.checkpoint_snapshot();
    let (applied, membership) = snapshot.applied();
    if applied.is_none() {
        return Ok(None);
    }
    Ok(Some(Snapshot {
        meta: SnapshotMeta {
            last_log_id: applied.map(types::log_id),
            last_membership: stored_membership(membership)?,
        },
        snapshot: SnapshotData::Local(Box::new(snapshot)),
    }))
}

/// Replaces the engine's state by a snapshot's, durably.
///
/// # Errors
/// The engine's storage failed.
pub(crate) async fn install(engine: &Engine, data: SnapshotData) -> io::Result<()> {
    let writer = match data {
        SnapshotData::Received(writer) => *writer,
        SnapshotData::Local(mut snapshot) => {
            let mut writer = engine.receive_snapshot().await.map_err(io_error)?;
            while let Some(piece) = snapshot.next_piece().await.map_err(io_error)? {
                writer.piece(piece).await.map_err(io_error)?;
            }
            writer.finish().await.map_err(io_error)?;
            writer
        }
    };
    engine.install(writer).await.map_err(io_error)
}

/// Makes snapshots for openraft, which only wants to know what the next one covers: it purges no
/// entry beyond that.
pub(crate) struct SnapshotSource {
    engine: Engine,
    checkpoint_first: bool,
}

impl SnapshotSource {
    /// Makes one for an engine, whose snapshot is of everything applied if `checkpoint_first`, else
    /// of the last checkpoint.
    pub(crate) fn new(engine: Engine, checkpoint_first: bool) -> Self {
        Self {
            engine,
            checkpoint_first,
        }
    }
}

impl RaftSnapshotBuilder<Types> for SnapshotSource {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        if self.checkpoint_first || self.engine.checkpointed().is_none() {
            self.engine.checkpoint().await.map_err(io_error)?;
        }
        match take(&self.engine)? {
            Some(snapshot) => Ok(snapshot),
            None => Ok(Snapshot {
                meta: SnapshotMeta::default(),
                snapshot: SnapshotData::Local(Box::new(self.engine.checkpoint_snapshot())),
            }),
        }
    }
}

/// Snapshots on their way to followers: the log after them must stay, or the follower would need
/// another snapshot as soon as it has this one.
#[derive(Default)]
pub(crate) struct Transfers {
    held: RefCell<Vec<u64>>,
}

/// Holds the log after a snapshot until dropped.
pub(crate) struct Hold {
    transfers: Rc<Transfers>,
    index: u64,
}

impl Transfers {
    /// Holds the log after `index`.
    pub(crate) fn hold(self: &Rc<Self>, index: u64) -> Hold {
        self.held.borrow_mut().push(index);
        Hold {
            transfers: Rc::clone(self),
            index,
        }
    }

    /// The lowest index held.
    pub(crate) fn lowest(&self) -> Option<u64> {
        self.held.borrow().iter().min().copied()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.transfers.held.borrow_mut();
        let at = held.iter().position(|index| *index == self.index);
        assert!(at.is_some(), "the log after {} is not held", self.index);
        if let Some(at) = at {
            held.swap_remove(at);
        }
    }
}
