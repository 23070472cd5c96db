//! A conditional write whose check meets damage: what it asks is asked of other replicas, so that this one goes on.
//!
//! All replicas decide an entry alike. So another one that has applied it can say what it decided, as long as it remembers; and
//! one that still has the state from before the entry can say which version the key had. Until one of them answers, or
//! the damage is healed, the entry waits, and what comes after it. The others go on.

use crate::fetch::{Decisions, Elsewhere, Outcome, WantedRange};
use crate::limits::{RELIEF_PAUSE, RELIEF_SAY_EVERY};
use bytes::Bytes;
use corelith_shards::{self as shards, Engine, FetchedEnd, LogIndex, Space};
use std::rc::Rc;
use std::time::Duration;

/// What a check has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// The key has this version, or none.
    Current(Option<LogIndex>),
    /// Another replica has decided the entry.
    Decided(Outcome),
}

/// See the module. Belongs to a state machine.
pub(crate) struct Relief {
    engine: Engine,
    elsewhere: Rc<Elsewhere>,
    decisions: Rc<Decisions>,
}

impl Relief {
    pub(crate) fn new(engine: Engine, elsewhere: Rc<Elsewhere>, decisions: Rc<Decisions>) -> Self {
        Self {
            engine,
            elsewhere,
            decisions,
        }
    }

    /// Remembers what became of the condition of the entry at `index`.
    pub(crate) fn note(&self, index: LogIndex, outcome: Outcome) {
        self.decisions.note(index, outcome);
    }

    /// Which version `key` has before the entry at `index`, or what another replica has made of that entry. Waits for at most
    /// `limit` if it is damaged.
    ///
    /// # Errors
    /// `Io`, `Closed`; `Corrupt` if it has waited in vain.
    pub(crate) async fn check(
        &self,
        key: &[u8],
        index: LogIndex,
        limit: Duration,
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
            if let Some(checked) = self.ask(key, index).await {
                return Ok(checked);
            }
            let now = corelith_io::now();
            if now - begun >= limit {
                return Err(error);
            }
            if said.is_none_or(|said| now - said >= RELIEF_SAY_EVERY) {
                said = Some(now);
                let index = index.0;
                tracing::warn!(%error, index, "the check of a conditional write waits: nobody answers for what is damaged");
            }
            let _ = corelith_io::timeout(RELIEF_PAUSE, changed).await;
        }
    }

    async fn ask(&self, key: &[u8], index: LogIndex) -> Option<Checked> {
        if let Some(outcome) = self.elsewhere.outcome(index).await {
            return Some(Checked::Decided(outcome));
        }
        let before = LogIndex(index.0.saturating_sub(1));
        let mut stored = Vec::with_capacity(key.len() + 1);
        stored.push(Space::User as u8);
        stored.extend_from_slice(key);
        let stored = Bytes::from(stored);
        let wanted = WantedRange {
            first: stored.clone(),
            last: stored,
            after: Bytes::new(),
            least: before,
            at: Some(before),
            bytes: 0,
        };
        let fetched = self.elsewhere.fetch(&wanted, |_| true).await?;
        let found = fetched.keys.first();
        (found.is_some() || fetched.end == FetchedEnd::Complete)
            .then(|| Checked::Current(found.map(|found| found.at)))
    }
}
