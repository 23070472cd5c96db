//! Sending the state to another replica.

use super::merge::{Merge, ScanSpan};
use super::piece::{self, PAYLOAD_BYTES_MAX, PieceKind};
use super::{Engine, ItemValue, ReadView};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::ids::{LogId, LogIndex, ShardId};
use crate::key::Space;
use crate::large::LargeRef;
use crate::planted::{Bug, is_planted};
use crate::varint;
use bytes::{Buf, Bytes, BytesMut};

/// In the space of a record's key: what comes behind the key stands for a large value.
const LARGE_TAG: u8 = 0x80;

/// See [`Engine::snapshot`]. Sent as a sequence of opaque pieces, each at most
/// `limits::SNAPSHOT_PIECE_BYTES_MAX` long and with a checksum of its own. Belongs to one core.
pub struct Snapshot {
    shard: ShardId,
    checkpoint: Checkpoint,
    view: ReadView,
    /// Number of the next piece.
    number: u64,
    /// Spaces not yet begun.
    spaces: std::vec::IntoIter<Space>,
    merge: Option<Merge>,
    /// Records not yet in a piece.
    pending: BytesMut,
    records: u64,
    crc: u32,
    ended: bool,
}

impl Engine {
    /// A consistent, complete image of the state as of the last applied entry; it pins what it
    /// needs until dropped. Ends the active memtable, so it is not for frequent use.
    pub fn snapshot(&self) -> Snapshot {
        // Everything applied is then in memtables and tables that no longer change.
        self.freeze();
        let mut view = self.view();
        let active = view.memtables.remove(0);
        debug_assert!(
            active.is_empty() || self.check_usable().is_err(),
            "a snapshot has everything applied"
        );
        let checkpoint = self.inner.state.borrow().applied.clone();
        self.image(checkpoint, view)
    }

    /// A consistent, complete image of the state as of the last durable checkpoint; it pins the
    /// tables until dropped. Costs nothing to take.
    pub fn checkpoint_snapshot(&self) -> Snapshot {
        let mut view = self.view();
        view.memtables.clear();
        let checkpoint = self.inner.state.borrow().manifest.checkpoint.clone();
        self.image(checkpoint, view)
    }

    fn image(&self, checkpoint: Checkpoint, view: ReadView) -> Snapshot {
        Snapshot {
            shard: self.inner.owner.shard,
            checkpoint,
            view,
            number: 0,
            spaces: spaces().into_iter(),
            merge: None,
            pending: BytesMut::new(),
            records: 0,
            crc: 0,
            ended: false,
        }
    }
}

impl Snapshot {
    /// The log id and membership record it holds.
    pub fn applied(&self) -> (Option<LogId>, Option<(LogId, Bytes)>) {
        (self.checkpoint.applied, self.checkpoint.membership.clone())
    }

    /// The next piece, `None` at the end.
    ///
    /// # Errors
    /// `Io` or `Corrupt` of a table: the snapshot cannot be sent from here.
    pub async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        if self.number == 0 {
            let mut head = Vec::new();
            self.checkpoint.encode(&mut head);
            return Ok(Some(self.piece(PieceKind::Head, &head)));
        }
        while self.pending.len() < PAYLOAD_BYTES_MAX && self.gather().await? {
            corelith_io::yield_if_needed().await;
        }
        let len = self.pending.len().min(PAYLOAD_BYTES_MAX);
        if len > 0 {
            let payload = self.pending.split_to(len);
            self.crc = crc32c::crc32c_append(self.crc, &payload);
            return Ok(Some(self.piece(PieceKind::Records, &payload)));
        }
        self.ended = true;
        let mut end = self.records.to_le_bytes().to_vec();
        end.extend_from_slice(&self.crc.to_le_bytes());
        Ok(Some(self.piece(PieceKind::End, &end)))
    }

    fn piece(&mut self, kind: PieceKind, payload: &[u8]) -> Bytes {
        let piece = piece::encode(self.shard, self.number, kind, payload);
        self.number += 1;
        piece
    }

    /// Adds the next record to those pending; `false` after the last.
    async fn gather(&mut self) -> Result<bool> {
        let merge = match &mut self.merge {
            Some(merge) => merge,
            None => {
                let Some(space) = self.spaces.next() else {
                    return Ok(false);
                };
                let span = ScanSpan {
                    space,
                    start: Bytes::new(),
                    end: Bytes::new(),
                    at: LogIndex(u64::MAX),
                };
                self.merge.insert(Merge::start(&self.view, span).await?)
            }
        };
        let space = merge.space();
        let Some(merged) = merge.next().await? else {
            self.merge = None;
            return Ok(true);
        };
        if let Some(value) = merged.value(&self.view).await? {
            let mut head = Vec::with_capacity(32 + merged.key.len());
            varint::put(&mut head, merged.key.len() as u64 + 1);
            varint::put(&mut head, merged.at.0);
            varint::put(&mut head, value.held_len() as u64);
            let mark = value.bytes().map_or(LARGE_TAG, |_| 0);
            head.push(space.tag() | mark);
            head.extend_from_slice(&merged.key);
            self.pending.extend_from_slice(&head);
            match &value {
                ItemValue::Bytes(value) => self.pending.extend_from_slice(value),
                ItemValue::Large(large) => self.pending.extend_from_slice(&large.encode()),
            }
            self.records += 1;
        }
        Ok(true)
    }
}

/// The spaces that a snapshot holds.
fn spaces() -> Vec<Space> {
    let mut spaces = Space::ALL.to_vec();
    if is_planted(Bug::SnapshotWithoutSessions) {
        spaces.retain(|space| *space != Space::Session);
    }
    spaces
}

/// A record taken from a stream of records.
pub(super) struct SnapshotRecord {
    pub(super) stored_key: Bytes,
    pub(super) at: LogIndex,
    pub(super) value: ItemValue,
}

/// Takes a record from the front of `stream`; `None` if it is not all there yet.
///
/// # Errors
/// What is wrong, if no record can begin like this.
pub(super) fn take_record(stream: &mut BytesMut) -> Result<Option<SnapshotRecord>, &'static str> {
    use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
    const VARINT_BYTES_MAX: usize = 10;
    let mut rest = stream.as_ref();
    let head = |rest: &mut &[u8]| {
        let key_len = varint::take_len(rest)?;
        let at = varint::take(rest)?;
        let value_len = varint::take_len(rest)?;
        Some((key_len, LogIndex(at), value_len))
    };
    let Some((key_len, at, value_len)) = head(&mut rest) else {
        return if stream.len() >= 3 * VARINT_BYTES_MAX {
            Err("a record's lengths are malformed")
        } else {
            Ok(None)
        };
    };
    if key_len == 0 || key_len > KEY_BYTES_MAX + 1 || value_len > VALUE_BYTES_MAX {
        return Err("a record is longer than any can be");
    }
    if rest.len() < key_len + value_len {
        return Ok(None);
    }
    let head_len = stream.len() - rest.len();
    stream.advance(head_len);
    let mut stored_key = stream.split_to(key_len);
    let value = stream.split_to(value_len).freeze();
    let value = match stored_key.first_mut() {
        Some(tag) if *tag & LARGE_TAG != 0 => {
            *tag &= !LARGE_TAG;
            let large = LargeRef::decode(&value);
            ItemValue::Large(large.ok_or("what stands for a large value is malformed")?)
        }
        _ => ItemValue::Bytes(value),
    };
    Ok(Some(SnapshotRecord {
        stored_key: stored_key.freeze(),
        at,
        value,
    }))
}
