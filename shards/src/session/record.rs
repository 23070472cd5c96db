//! The stored form of a session, the value under `Space::Session` and the session id (big-endian).
//!
//! ```text
//! version u8 = 1 | last_used u64 | floor u64 | count u32 | count x ( len u8 | bytes )
//! ```
//! Little-endian; `len` is 255 for a number without a result, and then no bytes follow.

use super::{NOTHING, Recorded, SessionState, SessionTable};
use crate::ids::LogIndex;
use crate::length;
use crate::limits::{SESSION_WINDOW, SESSIONS_MAX};
use crate::planted::{Bug, is_planted};
use bytes::Buf;
use std::collections::VecDeque;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 8 + 8 + 4;

/// A change to make durable: the session's new record, or `None` if it has expired.
pub(crate) type Change = (u64, Option<Vec<u8>>);

impl SessionTable {
    /// The sessions that changed since the last call, and marks them as unchanged.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        let mut changes: Vec<Change> = self.expired.drain(..).map(|id| (id, None)).collect();
        for slot in std::mem::take(&mut self.dirty) {
            if let Some(session) = self.slot_mut(slot) {
                assert!(session.dirty, "a session is listed as dirty once");
                session.dirty = false;
                changes.push((session.id, Some(encode(session))));
            }
        }
        changes
    }

    /// The records of all sessions.
    #[cfg(any(test, feature = "planted"))]
    pub fn records(&self) -> std::collections::BTreeMap<u64, Vec<u8>> {
        let sessions = self.slots.iter().flatten();
        sessions
            .map(|session| (session.id, encode(session)))
            .collect()
    }

    /// Whether [`SessionTable::take_changes`] would return anything.
    #[cfg(test)]
    pub(crate) fn has_changes(&self) -> bool {
        !self.expired.is_empty() || !self.dirty.is_empty()
    }

    /// Rebuilds a table from its records.
    ///
    /// # Errors
    /// What is wrong with a record.
    pub(crate) fn from_records(
        records: impl IntoIterator<Item = (u64, impl AsRef<[u8]>)>,
    ) -> Result<Self, &'static str> {
        let mut sessions = Vec::new();
        for (id, record) in records {
            sessions.push(decode(id, record.as_ref())?);
        }
        if sessions.len() > SESSIONS_MAX {
            return Err("more sessions than there can be");
        }
        sessions.sort_by_key(|session| session.last_used);
        let mut table = Self::default();
        for session in sessions {
            if table.by_id.contains_key(&session.id) {
                return Err("a session is there twice");
            }
            table.insert(session);
        }
        Ok(table)
    }
}

fn encode(session: &SessionState) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_BYTES + session.window.len() * 12);
    record.push(VERSION);
    record.extend_from_slice(&session.last_used.0.to_le_bytes());
    record.extend_from_slice(&session.floor.to_le_bytes());
    let results = match is_planted(Bug::ForgetResults) {
        true => 0,
        false => session.window.len(),
    };
    assert!(
        results as u64 <= SESSION_WINDOW,
        "a window that would not be read"
    );
    let count = length::stored(results);
    record.extend_from_slice(&count.to_le_bytes());
    for recorded in session.window.iter().take(results) {
        record.push(recorded.len);
        record.extend_from_slice(recorded);
    }
    record
}

fn decode(id: u64, mut record: &[u8]) -> Result<SessionState, &'static str> {
    const SHORT: &str = "a session record is cut short";
    if record.try_get_u8().map_err(|_| SHORT)? != VERSION {
        return Err("a session record of an unknown version");
    }
    let last_used = LogIndex(record.try_get_u64_le().map_err(|_| SHORT)?);
    let floor = record.try_get_u64_le().map_err(|_| SHORT)?;
    let count = record.try_get_u32_le().map_err(|_| SHORT)?;
    if u64::from(count) > SESSION_WINDOW {
        return Err("a session record with too many results");
    }
    let mut window = VecDeque::new();
    for _ in 0..count {
        let len = record.try_get_u8().map_err(|_| SHORT)?;
        if len == NOTHING {
            window.push_back(Recorded::NOTHING);
            continue;
        }
        let (result, rest) = record.split_at_checked(usize::from(len)).ok_or(SHORT)?;
        window.push_back(Recorded::new(result).ok_or("a recorded result is too long")?);
        record = rest;
    }
    if !record.is_empty() {
        return Err("a session record with bytes after its end");
    }
    Ok(SessionState {
        id,
        last_used,
        floor,
        window,
        older: None,
        newer: None,
        dirty: false,
    })
}
