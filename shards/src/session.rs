//! Client sessions: the replicated table that makes retries apply once.
//!
//! A session is named by the log index of the entry that opened it, so an id is never used twice.
//! A write carries (session, number, answered_below): `number` counts the session's writes to this
//! shard from 1, every number below `answered_below` has been answered and will not be asked again.

use crate::ids::LogIndex;
use bytes::Bytes;

/// What the table says of a write before it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Not seen before: apply it, then [`SessionTable::record`] its result.
    Fresh,
    /// Applied before: answer this recorded result, do not apply again.
    Repeated(Bytes),
    /// Answered before and forgotten: a stray duplicate, drop it.
    Stale,
    /// Further ahead of `answered_below` than the window allows.
    WindowFull,
    /// No such session (never opened, or expired): not applied, and it never will be.
    Unknown,
}

/// The sessions of one shard. Changed only by applying log entries, so it is equal on all replicas
/// at equal log index.
pub struct SessionTable {}

impl SessionTable {
    /// Opens the session named `at` (the index of the entry that opens it); the session used least
    /// recently expires if there are too many.
    pub fn open(&mut self, at: LogIndex) {
        todo!("{at}")
    }

    /// Decides about write `number` of `session`, and forgets results below `answered_below`.
    pub fn admit(
        &mut self,
        at: LogIndex,
        session: u64,
        number: u64,
        answered_below: u64,
    ) -> Admission {
        todo!("{at}{session}{number}{answered_below}")
    }

    /// Records the result (at most 32 bytes) of a write that was admitted as `Fresh`.
    pub fn record(&mut self, session: u64, number: u64, result: Bytes) {
        todo!("{session}{number}{result:?}")
    }
}
