//! A conditional write whose check meets damage: what it asks is asked of other replicas, so that this one goes on.
//!
//! All replicas decide an entry alike. So another one that has applied it can say what it decided, as long as it remembers; and
//! one that still has the state from before the entry can say which version the key had. Until one of them answers, or
//! the damage is healed, the entry waits, and what comes after it. The others go on.
//!
//! Where nobody can answer, since the key is damaged on all replicas, there is nothing that all of them would decide alike, now
//! and when a copy is put back: so they wait, for as long as it takes, and say so ([`ApplyWait`]). A start does not wait for it.

use crate::limits::{DECISIONS_KEPT_MAX, RELIEF_PAUSE, RELIEF_SAY_EVERY};
use bytes::Bytes;
use corelith_shards::{self as shards, Engine, LogIndex};
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// What became of a condition: it held, or the key had that version.
pub(crate) type Outcome = Result<(), Option<LogIndex>>;

/// Asks other replicas which version a key had before the entry at an index, or what they have made of that entry.
pub(crate) type AskOthers = Rc<dyn Fn(Bytes, LogIndex) -> LocalBoxFuture<'static, Option<Checked>>>;

/// What a check has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// The key has this version, or none.
    Current(Option<LogIndex>),
    /// Another replica has decided the entry.
    Decided(Outcome),
}

/// A conditional write that a replica cannot decide, so that it applies nothing more until it can: its key is damaged here, and no
/// other replica can say which version it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyWait {
    /// The entry.
    pub index: LogIndex,
    /// The key.
    pub key: Bytes,
    /// The damaged file.
    pub file: String,
    /// Where it is damaged, in bytes.
    pub offset: u64,
}

impl ApplyWait {
    fn of(index: LogIndex, key: &[u8], error: &shards::Error) -> Option<Self> {
        let shards::Error::Corrupt { file, offset, .. } = error else {
            return None;
        };
        Some(Self {
            index,
            key: Bytes::copy_from_slice(key),
            file: file.clone(),
            offset: *offset,
        })
    }
}

/// See the module. Belongs to a state machine.
pub(crate) struct Relief {
    engine: Engine,
    others: AskOthers,
    decisions: Rc<Decisions>,
}

impl Relief {
    pub(crate) fn new(engine: Engine, others: AskOthers, decisions: Rc<Decisions>) -> Self {
        Self {
            engine,
            others,
            decisions,
        }
    }

    /// Remembers what became of the condition of the entry at `index`.
    pub(crate) fn note(&self, index: LogIndex, outcome: Outcome) {
        self.decisions.note(index, outcome);
    }

    /// Which version `key` has before the entry at `index`, or what another replica has made of that entry. If it is damaged
    /// it waits, for at most `limit` if there is one.
    ///
    /// # Errors
    /// `Io`, `Closed`; `Corrupt` if it has waited in vain.
    pub(crate) async fn check(
        &self,
        key: &[u8],
        index: LogIndex,
        limit: Option<Duration>,
    ) -> shards::Result<Checked> {
        let checked = self.checked(key, index, limit).await;
        self.decisions.waits.replace(None);
        checked
    }

    async fn checked(
        &self,
        key: &[u8],
        index: LogIndex,
        limit: Option<Duration>,
    ) -> shards::Result<Checked> {
        let begun = corelith_io::now();
        let mut said = None;
        loop {
            let changed = self.engine.damage_changed();
            let error = match self.engine.version_of(key).await {
                Ok(current) => return Ok(Checked::Current(current)),
                Err(error) if error.is_corrupt() => error,
                Err(error) => return Err(error),
            };
            if let Some(checked) = (self.others)(Bytes::copy_from_slice(key), index).await {
                return Ok(checked);
            }
            let now = corelith_io::now();
            if limit.is_some_and(|limit| now - begun >= limit) {
                return Err(error);
            }
            if self.engine.is_stopping() {
                return Err(shards::Error::Closed);
            }
            self.decisions
                .waits
                .replace(ApplyWait::of(index, key, &error));
            if said.is_none_or(|said| now - said >= RELIEF_SAY_EVERY) {
                said = Some(now);
                let index = index.0;
                tracing::warn!(%error, index, "the check of a conditional write waits: nobody answers for what is damaged");
            }
            let _ = corelith_io::timeout(RELIEF_PAUSE, changed).await;
        }
    }
}

/// What became of the last conditional writes, for a replica that cannot decide them itself. All replicas decide
/// alike. Filled by the state machine; on the same core.
///
/// Invariant: indexes ascend.
#[derive(Default)]
pub(crate) struct Decisions {
    last: RefCell<VecDeque<(LogIndex, Outcome)>>,
    /// What applying waits for.
    waits: RefCell<Option<ApplyWait>>,
}

impl Decisions {
    /// Notes what was decided.
    pub(crate) fn note(&self, index: LogIndex, outcome: Outcome) {
        let mut decisions = self.last.borrow_mut();
        let last = decisions.back().map(|(last, _)| *last);
        assert!(last < Some(index), "entries are decided in order");
        if decisions.len() >= DECISIONS_KEPT_MAX {
            decisions.pop_front();
        }
        decisions.push_back((index, outcome));
    }

    /// What was decided at `index`, if that is remembered.
    pub(crate) fn at(&self, index: LogIndex) -> Option<Outcome> {
        let decisions = self.last.borrow();
        let place = decisions.binary_search_by_key(&index, |(at, _)| *at).ok()?;
        decisions.get(place).map(|(_, outcome)| *outcome)
    }

    /// What applying waits for.
    pub(crate) fn waits(&self) -> Option<ApplyWait> {
        self.waits.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_decisions_are_remembered() {
        let decisions = Decisions::default();
        for index in 1..=2 * DECISIONS_KEPT_MAX as u64 {
            decisions.note(LogIndex(2 * index), Err(Some(LogIndex(index))));
        }
        let last = 4 * DECISIONS_KEPT_MAX as u64;
        let outcome = decisions.at(LogIndex(last));
        assert_eq!(outcome, Some(Err(Some(LogIndex(last / 2)))));
        assert_eq!(decisions.at(LogIndex(last - 1)), None);
        assert_eq!(decisions.at(LogIndex(2)), None);
    }
}
