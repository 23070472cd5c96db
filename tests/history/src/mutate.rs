//! Breaks histories: each way must be seen by both checks.

use crate::shards::{Past, by_shard};
use crate::{Condition, LogPoint, Observation, What};

/// A value that no history has.
const NOWHERE: u64 = u64::MAX;

/// A way in which a store can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A write that was answered is not there.
    LostWrite,
    /// A read finds the value before the last.
    StaleRead,
    /// A write applies again, after a retry.
    AppliedTwice,
    /// A conditional write applies although its condition does not hold.
    WrongCondition,
    /// A conditional write is refused although its condition holds.
    WrongRefusal,
    /// A read finds what nobody wrote.
    ValueFromNowhere,
    /// An answer names an index below one that was seen before.
    IndexFalls,
    /// Two writes have one index.
    IndexTwice,
}

/// All of them.
pub const MUTATIONS: [Mutation; 8] = [
    Mutation::LostWrite,
    Mutation::StaleRead,
    Mutation::AppliedTwice,
    Mutation::WrongCondition,
    Mutation::WrongRefusal,
    Mutation::ValueFromNowhere,
    Mutation::IndexFalls,
    Mutation::IndexTwice,
];

/// The history with one observation changed, if it has one in which the change is a violation for certain: the first
/// from place `pick` on.
pub fn mutate(history: &[Observation], mutation: Mutation, pick: u64) -> Option<Vec<Observation>> {
    let first = usize::try_from(pick % u64::try_from(history.len().max(1)).ok()?).ok()?;
    let mut places = (first..history.len()).chain(0..first);
    let (at, what) = places.find_map(|at| Some((at, changed(history, at, mutation)?)))?;
    let mut mutated = history.to_vec();
    mutated[at].what = what;
    Some(mutated)
}

/// What the observation says once it is changed.
fn changed(history: &[Observation], at: usize, mutation: Mutation) -> Option<What> {
    let one = &history[at];
    let others = || {
        let same = |other: &&Observation| other.shard == one.shard && other.key == one.key;
        history.iter().filter(same)
    };
    // With unknown outcomes, next to everything can be explained.
    let is_certain = || !others().any(|other| matches!(other.what, What::Unknown { .. }));
    // The writes of the key before an index, the last one first.
    let writes_before = |index: u64| {
        let mut writes: Vec<(u64, &Observation)> = others()
            .filter_map(|other| match other.what {
                What::Written { at, .. } if at.index < index => Some((at.index, other)),
                _ => None,
            })
            .collect();
        writes.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        writes
    };
    let value_of = |other: &Observation| match other.what {
        What::Written { value, .. } => value,
        _ => None,
    };
    match (mutation, &one.what) {
        (
            Mutation::LostWrite,
            What::Read {
                found: Some((version, _)),
                at,
            },
        ) => {
            let (written, write) = *writes_before(at.index + 1).first()?;
            let is_known = written == *version && write.end() < one.began;
            (is_known && is_certain()).then_some(What::Read {
                found: None,
                at: *at,
            })
        }
        (
            Mutation::StaleRead,
            What::Read {
                found: Some((version, _)),
                at,
            },
        ) => {
            let writes = writes_before(at.index + 1);
            let (last, before) = (*writes.first()?, *writes.get(1)?);
            let stale = (before.0, value_of(before.1)?);
            (last.0 == *version).then_some(What::Read {
                found: Some(stale),
                at: *at,
            })
        }
        (
            Mutation::AppliedTwice,
            What::Read {
                found: Some((version, value)),
                at,
            },
        ) => {
            let (written, write) = *writes_before(at.index + 1).first()?;
            let again = at.index.max(version + 1);
            let is_known = written == *version && value_of(write) == Some(*value);
            is_known.then_some(What::Read {
                found: Some((again, *value)),
                at: LogPoint {
                    index: again,
                    ..*at
                },
            })
        }
        (
            Mutation::WrongCondition,
            What::Written {
                value,
                condition: Condition::Any,
                at,
            },
        ) => {
            let (_, write) = *writes_before(at.index).first()?;
            (value_of(write).is_some() && is_certain()).then_some(What::Written {
                value: *value,
                condition: Condition::Absent,
                at: *at,
            })
        }
        (Mutation::WrongRefusal, What::Refused { current, at, .. }) => Some(What::Refused {
            condition: match current {
                0 => Condition::Absent,
                version => Condition::Version(*version),
            },
            current: *current,
            at: *at,
        }),
        (
            Mutation::ValueFromNowhere,
            What::Read {
                found: Some((version, _)),
                at,
            },
        ) => Some(What::Read {
            found: Some((*version, NOWHERE)),
            at: *at,
        }),
        (Mutation::IndexFalls, What::Read { found, at }) => {
            let shard = by_shard(history).remove(&one.shard)?;
            let fallen = Past::new(&shard).floor(one.began).checked_sub(1)?;
            // Only the index is wrong.
            let version = found.map_or(0, |(version, _)| version);
            (version <= fallen).then_some(What::Read {
                found: *found,
                at: LogPoint {
                    index: fallen,
                    ..*at
                },
            })
        }
        (
            Mutation::IndexTwice,
            What::Written {
                value,
                condition,
                at,
            },
        ) => {
            let (index, _) = *writes_before(at.index).first()?;
            Some(What::Written {
                value: *value,
                condition: *condition,
                at: LogPoint { index, ..*at },
            })
        }
        _ => None,
    }
}
