//! Snapshots: the files of the engine's last checkpoint, as they are. `files.rs` is how they get to a follower.

use crate::log_store::io_error;
use crate::state_machine::stored_membership;
use crate::types::{self, SnapshotMeta, Types};
use bytes::Bytes;
use corelith_shards::{self as shards, Engine, FileId, Incoming, PinnedFiles};
use corelith_wire::peer::FileBytes;
use corelith_wire::{NodeId, StoreId};
use openraft::storage::RaftSnapshotBuilder;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// What a piece of the list of files has at most.
const LIST_PIECE_BYTES: usize = 1 << 20;

/// openraft's snapshot over our data.
pub(crate) type Snapshot = openraft::storage::Snapshot<types::LeaderId, u64, StoreId, SnapshotData>;

/// What openraft hands around as a snapshot.
pub(crate) enum SnapshotData {
    /// Of this replica's engine, to be sent.
    Local(Box<LocalSnapshot>),
    /// Received from a peer and finished, to be installed.
    Received(Rc<Incoming>),
}

/// Both forms of one checkpoint.
pub(crate) struct LocalSnapshot {
    stream: shards::Snapshot,
    /// What is sent, unless the engine has found damage.
    pub(crate) files: shards::Result<PinnedFiles>,
}

impl LocalSnapshot {
    fn of(engine: &Engine) -> Box<Self> {
        Box::new(Self {
            stream: engine.checkpoint_snapshot(),
            files: engine.pin_files(),
        })
    }
}

/// Takes a snapshot of the engine as of its last checkpoint, beyond which the log is not purged;
/// `None` if there is none yet.
///
/// # Errors
/// The engine's membership record is malformed.
pub(crate) fn take(engine: &Engine) -> io::Result<Option<Snapshot>> {
    let snapshot = LocalSnapshot::of(engine);
    let (applied, membership) = snapshot.stream.applied();
    if applied.is_none() {
        return Ok(None);
    }
    Ok(Some(Snapshot {
        meta: SnapshotMeta {
            last_log_id: applied.map(types::log_id),
            last_membership: stored_membership(membership)?,
        },
        snapshot: SnapshotData::Local(snapshot),
    }))
}

/// Replaces the engine's state by a snapshot's, durably.
///
/// # Errors
/// The engine's storage failed.
pub(crate) async fn install(engine: &Engine, data: SnapshotData) -> io::Result<()> {
    let writer = match data {
        SnapshotData::Received(incoming) => {
            return engine.install_files(&incoming).await.map_err(io_error);
        }
        SnapshotData::Local(local) => {
            let mut snapshot = local.stream;
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
                snapshot: SnapshotData::Local(LocalSnapshot::of(&self.engine)),
            }),
        }
    }
}

/// Snapshots on their way to followers: the log after them must stay, or the follower would need
/// another snapshot as soon as it has this one.
#[derive(Default)]
pub(crate) struct Transfers {
    held: RefCell<Vec<u64>>,
    offers: RefCell<BTreeMap<u64, Rc<Offer>>>,
}

/// Files that a follower may ask for.
pub(crate) struct Offer {
    to: NodeId,
    files: PinnedFiles,
    list: Bytes,
    sent: Cell<u64>,
}

impl Offer {
    /// For how long nothing was asked for.
    pub(crate) fn idle(&self) -> Duration {
        self.files.idle()
    }

    /// Bytes sent, and bytes of all files: some may be there already.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.sent.get(), self.files.list().bytes())
    }

    /// A piece of a file, or of the list; `None` if there is none like that.
    pub(crate) async fn read(
        &self,
        file: Option<u128>,
        offset: u64,
    ) -> io::Result<Option<FileBytes>> {
        let Some(id) = file.map(FileId) else {
            self.files.touch();
            return Ok(self.list_piece(offset));
        };
        let read = self.files.read(id, offset).await.map_err(io_error)?;
        Ok(read.map(|bytes| {
            self.sent.set(self.sent.get() + bytes.len() as u64);
            FileBytes {
                whole: 0,
                crc: crc32c::crc32c(&bytes),
                bytes,
            }
        }))
    }

    fn list_piece(&self, offset: u64) -> Option<FileBytes> {
        let start = usize::try_from(offset).ok()?;
        let end = start.saturating_add(LIST_PIECE_BYTES).min(self.list.len());
        let bytes = (start <= end).then(|| self.list.slice(start..end))?;
        Some(FileBytes {
            whole: self.list.len() as u64,
            crc: crc32c::crc32c(&bytes),
            bytes,
        })
    }
}

/// Withdraws an offer when dropped.
pub(crate) struct Offered {
    transfers: Rc<Transfers>,
    number: u64,
    pub(crate) offer: Rc<Offer>,
}

impl Drop for Offered {
    fn drop(&mut self) {
        self.transfers.offers.borrow_mut().remove(&self.number);
    }
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

    /// Offers files to a node under that number.
    pub(crate) fn offer(self: &Rc<Self>, number: u64, to: NodeId, files: PinnedFiles) -> Offered {
        let offer = Rc::new(Offer {
            to,
            list: files.encoded(),
            files,
            sent: Cell::new(0),
        });
        self.offers.borrow_mut().insert(number, Rc::clone(&offer));
        Offered {
            transfers: Rc::clone(self),
            number,
            offer,
        }
    }

    /// What is offered to a node under that number.
    pub(crate) fn offered(&self, number: u64, to: NodeId) -> Option<Rc<Offer>> {
        let offers = self.offers.borrow();
        offers.get(&number).filter(|offer| offer.to == to).cloned()
    }

    /// How far each offer is: to whom, bytes sent, bytes of all files.
    pub(crate) fn sending(&self) -> Vec<(NodeId, u64, u64)> {
        let offers = self.offers.borrow();
        let all = offers.values().map(|offer| (offer.to, offer.progress()));
        all.map(|(to, (sent, all))| (to, sent, all)).collect()
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
