//! What clients of a cluster saw, and two checks that one order explains all of it. Code for tests: nothing
//! that ships depends on it.
//!
//! A history is a list of [`Observation`]s. [`witness`] goes by the log index that every answer names: the order is
//! given and only verified, in n log n time for a history of any size. [`search`] believes no answer about the
//! order of others: it looks for an order as Wing and Gong (1993) and Lowe (2017) do, key by key, and is slow
//! where many outcomes are unknown. [`check`] asks both. [`lines`] keeps histories in files, [`mutate`] breaks
//! histories in ways that both checks must see.
//!
//! `cargo run -p corelith-history -- FILE...` checks files again.

#![expect(
    clippy::indexing_slicing,
    reason = "code for tests: every index comes from the list that it points into"
)]

pub mod lines;
pub mod mutate;
mod observation;
pub mod positions;
pub mod search;
mod shards;
pub mod witness;

pub use observation::{LogPoint, Observation, ValueId, What, WriteCondition};
use search::SearchVerdict;

/// Steps that the search may take for one key before it gives up.
const SEARCH_STEPS_MAX: usize = 100_000;
/// Observations of one key beyond which the search is not tried: the witness is there for those.
const SEARCH_LEN_MAX: usize = 2_000;

/// What the checks say of a history that they accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Observations.
    pub observations: usize,
    /// Keys for which the search found an order too.
    pub searched: usize,
    /// Keys for which it gave up, or was not tried.
    pub undecided: usize,
}

/// Why a history is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// Terms or indexes run backwards.
    #[error("positions run backwards: {0}")]
    Positions(String),
    /// The witness check finds no explanation.
    #[error("the history has no explanation: {0}")]
    Witness(String),
    /// The search finds no order, although the witness check is content: a history that is wrong, or a check
    /// that is.
    #[error("no order explains the history, although the witness check found none wrong: {0}")]
    Search(String),
}

/// Checks a history in every way there is.
///
/// # Errors
/// What is wrong with it.
pub fn check(history: &[Observation]) -> Result<Accepted, Contradiction> {
    positions::check(history).map_err(Contradiction::Positions)?;
    witness::check(history).map_err(Contradiction::Witness)?;
    let mut accepted = Accepted {
        observations: history.len(),
        ..Accepted::default()
    };
    for verdict in search::check_keys(history, SEARCH_LEN_MAX, SEARCH_STEPS_MAX) {
        match verdict {
            SearchVerdict::Explained => accepted.searched += 1,
            SearchVerdict::Undecided => accepted.undecided += 1,
            SearchVerdict::Impossible(why) => return Err(Contradiction::Search(why)),
        }
    }
    assert!(
        accepted.searched + accepted.undecided <= history.len(),
        "more keys than observations"
    );
    Ok(accepted)
}

#[cfg(test)]
mod tests;
