//! The cluster map where it is kept: one value of the shard that holds it, read and replaced by who leads that shard.
//!
//! Invariants:
//! * A map replaces the one that it was made from, or nothing: a write names the version that it read.
//! * After a write whose fate is not known nothing is written before the map was read again.

use crate::node::cluster::map::{Map, MapError};
use bytes::{Bytes, BytesMut};
use corelith_consensus::{Group, GroupError, Outcome};
use corelith_wire::limits::HEADER_BYTES;
use corelith_wire::request::{
    Condition, OpenSession, Operation, WriteRequest, encode_open_session, encode_write,
};
use corelith_wire::{Epoch, Head, Kind, LogIndex, Outbox, RequestId, ShardId};

/// The key of the map.
const KEY: &[u8] = b"map";

/// Why the map cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptError {
    /// The group does not answer, or another node leads it.
    #[error("the shard of the cluster map does not answer: {0}")]
    Group(#[from] GroupError),
    /// The storage does not.
    #[error("the shard of the cluster map cannot be read: {0}")]
    Storage(#[from] corelith_shards::Error),
    /// What is stored is no map.
    #[error("what is stored as the cluster map is none: {0}")]
    Map(#[from] MapError),
    /// Another map was written meanwhile, or this one may have been.
    #[error("the cluster map was written by another leader")]
    Overtaken,
}

impl KeptError {
    /// Whether it only says that the lead of the shard has moved, or moves.
    pub(super) fn is_for_another_lead(&self) -> bool {
        use GroupError::{LeadershipLost, NotLeader, Unavailable};
        match self {
            Self::Group(error) => {
                matches!(
                    error,
                    NotLeader { .. } | LeadershipLost { .. } | Unavailable
                )
            }
            Self::Overtaken => true,
            Self::Storage(_) | Self::Map(_) => false,
        }
    }
}

/// See the module. Belongs to one lead of the shard.
pub(super) struct KeptMap {
    group: Group,
    session: u64,
    /// Number of the next write.
    number: u64,
    /// The version that was read, or written, last.
    version: Option<LogIndex>,
}

impl KeptMap {
    /// Reads the map, if there is one.
    ///
    /// # Errors
    /// See [`KeptError`].
    pub(super) async fn read(group: Group) -> Result<(Self, Option<Map>), KeptError> {
        let opened = group.open_session(opening()).await?;
        let Outcome::SessionOpened { session } = opened.outcome else {
            return Err(KeptError::Overtaken);
        };
        group.read_barrier().await?;
        let found = group.engine().get(KEY).await?;
        let map = match &found {
            Some(found) => Some(Map::decode(&found.value)?),
            None => None,
        };
        let kept = Self {
            group,
            session,
            number: 1,
            version: found.map(|found| found.version),
        };
        Ok((kept, map))
    }

    /// Puts a map in the place of the one that was read or written last.
    ///
    /// # Errors
    /// See [`KeptError`]; the map must then be read again.
    pub(super) async fn write(&mut self, map: &Map) -> Result<(), KeptError> {
        let request = WriteRequest {
            session: self.session,
            number: self.number,
            answered_below: self.number,
            condition: match self.version {
                None => Condition::Absent,
                Some(version) => Condition::Version(version.0),
            },
            operation: Operation::Put,
            key: KEY,
        };
        let value = Bytes::from(map.encode());
        let written = self.group.write(writing(&request, &value)).await?;
        match written.outcome {
            Outcome::Applied { version } => {
                assert!(
                    self.version.is_none_or(|before| before < version),
                    "a map of version {version} replaces one of {:?}",
                    self.version
                );
                self.version = Some(version);
                self.number += 1;
                Ok(())
            }
            _ => Err(KeptError::Overtaken),
        }
    }
}

fn head(kind: Kind) -> Head {
    Head {
        kind,
        request_id: RequestId(0),
        shard: ShardId::META,
        epoch: Epoch(0),
    }
}

/// The payload of a frame that opens a session.
fn opening() -> Bytes {
    let mut out = Outbox::default();
    let client = corelith_io::random_u64();
    encode_open_session(&mut out, head(Kind::OPEN_SESSION), OpenSession { client });
    payload(&out)
}

/// The payload of a frame with a write.
fn writing(request: &WriteRequest<'_>, value: &Bytes) -> Bytes {
    let mut out = Outbox::default();
    encode_write(&mut out, head(Kind::WRITE), request, value);
    payload(&out)
}

fn payload(out: &Outbox) -> Bytes {
    let mut frame = BytesMut::with_capacity(out.len());
    for slice in out.slices() {
        frame.extend_from_slice(slice);
    }
    assert!(frame.len() >= HEADER_BYTES, "a frame has its header");
    frame.freeze().slice(HEADER_BYTES..)
}
