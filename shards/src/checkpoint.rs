//! How far the state has advanced: the last applied entry and the last membership record. It is stored
//! in the manifest and in the head of a snapshot.
//!
//! Invariant: the membership record is of an entry at or before the last applied one.
//!
//! ```text
//! applied option | membership option (log id | length u32 | bytes)
//! option = 0 u8 | 1 u8, content        log id = term u64 | node u64 | index u64
//! ```

use crate::ids::{LogId, LogIndex, ReplicaId, Term};
use crate::length;
use crate::limits::MEMBERSHIP_BYTES_MAX;
use bytes::{Buf, Bytes};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The last applied entry.
    pub(crate) applied: Option<LogId>,
    /// The last membership entry at or before it.
    pub(crate) membership: Option<(LogId, Bytes)>,
}

impl Checkpoint {
    /// Index of the last applied entry.
    pub(crate) fn index(&self) -> Option<LogIndex> {
        self.applied.map(|applied| applied.index)
    }

    fn is_ordered(&self) -> bool {
        let membership = self.membership.as_ref().map(|(id, _)| id.index);
        membership <= self.index()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.is_ordered(), "a membership record is applied");
        encode_log_id_option(self.applied, out);
        out.push(u8::from(self.membership.is_some()));
        if let Some((id, record)) = &self.membership {
            encode_log_id(*id, out);
            assert!(
                record.len() <= MEMBERSHIP_BYTES_MAX,
                "a membership record is bounded"
            );
            let len = length::stored(record.len());
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(record);
        }
    }

    pub(crate) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let applied = decode_log_id_option(bytes)?;
        let membership = match bytes.try_get_u8().ok()? {
            0 => None,
            1 => {
                let id = decode_log_id(bytes)?;
                let len = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
                let (record, rest) = bytes.split_at_checked(len)?;
                if len > MEMBERSHIP_BYTES_MAX {
                    return None;
                }
                *bytes = rest;
                Some((id, Bytes::copy_from_slice(record)))
            }
            _ => return None,
        };
        let checkpoint = Self {
            applied,
            membership,
        };
        checkpoint.is_ordered().then_some(checkpoint)
    }
}

pub(crate) fn encode_log_id_option(id: Option<LogId>, out: &mut Vec<u8>) {
    out.push(u8::from(id.is_some()));
    if let Some(id) = id {
        encode_log_id(id, out);
    }
}

pub(crate) fn decode_log_id_option(bytes: &mut &[u8]) -> Option<Option<LogId>> {
    match bytes.try_get_u8().ok()? {
        0 => Some(None),
        1 => Some(Some(decode_log_id(bytes)?)),
        _ => None,
    }
}

fn encode_log_id(id: LogId, out: &mut Vec<u8>) {
    for number in [id.term.0, id.node.0, id.index.0] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn decode_log_id(bytes: &mut &[u8]) -> Option<LogId> {
    Some(LogId {
        term: Term(bytes.try_get_u64_le().ok()?),
        node: ReplicaId(bytes.try_get_u64_le().ok()?),
        index: LogIndex(bytes.try_get_u64_le().ok()?),
    })
}
