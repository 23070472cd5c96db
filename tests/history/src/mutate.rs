//! Breaks histories: each way must be seen by both checks.

use crate::shards::{Past, by_shard};
use crate::{LogPoint, Observation, ValueId, What, WriteCondition};

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
    assert_ne!(mutated[at].what, what, "{mutation:?} changes nothing");
    mutated[at].what = what;
    Some(mutated)
}

/// What the observation says once it is changed.
fn changed(history: &[Observation], at: usize, mutation: Mutation) -> Option<What> {
    let here = Here {
        history,
        one: &history[at],
    };
    match (mutation, here.one.what.clone()) {
        (Mutation::IndexFalls, What::Read { found, at }) => here.fall(found, at),
        (_, What::Read { found, at }) => here.misread(mutation, found?, at),
        (
            Mutation::WrongCondition,
            What::Written {
                value,
                condition: WriteCondition::Any,
                at,
            },
        ) => {
            let (_, last) = *here.writes_before(at.index).first()?;
            let condition = WriteCondition::Absent;
            let is_violation = value_of(last).is_some() && here.is_certain();
            is_violation.then_some(What::Written {
                value,
                condition,
                at,
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
            let (index, _) = *here.writes_before(at.index).first()?;
            Some(What::Written {
                value,
                condition,
                at: LogPoint { index, ..at },
            })
        }
        (Mutation::WrongRefusal, What::Refused { current, at, .. }) => Some(What::Refused {
            condition: match current {
                0 => WriteCondition::Absent,
                version => WriteCondition::Version(version),
            },
            current,
            at,
        }),
        _ => None,
    }
}

/// What a write that was answered put.
fn value_of(write: &Observation) -> ValueId {
    match write.what {
        What::Written { value, .. } => value,
        _ => None,
    }
}

/// An observation that is to be changed.
struct Here<'a> {
    history: &'a [Observation],
    one: &'a Observation,
}

impl<'a> Here<'a> {
    fn of_the_key(&self) -> impl Iterator<Item = &'a Observation> + '_ {
        let same =
            |other: &&Observation| other.shard == self.one.shard && other.key == self.one.key;
        self.history.iter().filter(same)
    }

    /// Whether all outcomes of the key are known: next to everything could be explained otherwise.
    fn is_certain(&self) -> bool {
        let is_unknown = |other: &Observation| matches!(other.what, What::Unknown { .. });
        !self.of_the_key().any(is_unknown)
    }

    /// The writes of the key before an index, the last one first.
    fn writes_before(&self, index: u64) -> Vec<(u64, &'a Observation)> {
        let written = self.of_the_key().filter_map(|other| match other.what {
            What::Written { at, .. } if at.index < index => Some((at.index, other)),
            _ => None,
        });
        let mut writes: Vec<_> = written.collect();
        writes.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        writes
    }

    /// A read that found something finds something else.
    fn misread(&self, mutation: Mutation, found: (u64, u64), at: LogPoint) -> Option<What> {
        let (version, value) = found;
        let writes = self.writes_before(at.index + 1);
        let (last, write) = *writes.first()?;
        let is_known = last == version && value_of(write) == Some(value);
        let found = match mutation {
            Mutation::LostWrite => {
                let had_ended = write.end() < self.one.began;
                (had_ended && self.is_certain()).then_some(None)
            }
            Mutation::StaleRead => {
                let (before, write) = *writes.get(1)?;
                Some(Some((before, value_of(write)?)))
            }
            Mutation::AppliedTwice => {
                let index = at.index.max(version + 1);
                let at = LogPoint { index, ..at };
                let found = Some((index, value));
                return is_known.then_some(What::Read { found, at });
            }
            Mutation::ValueFromNowhere => Some(Some((version, NOWHERE))),
            _ => None,
        };
        let found = found.filter(|_| is_known)?;
        Some(What::Read { found, at })
    }

    /// A read tells an index below one that had been seen before it began, and nothing else is wrong with it.
    fn fall(&self, found: Option<(u64, u64)>, at: LogPoint) -> Option<What> {
        let shard = by_shard(self.history).remove(&self.one.shard)?;
        let index = Past::new(&shard).floor(self.one.began).checked_sub(1)?;
        let version = found.map_or(0, |(version, _)| version);
        (version <= index).then_some(What::Read {
            found,
            at: LogPoint { index, ..at },
        })
    }
}
