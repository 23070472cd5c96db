//! The next task, whatever the policy.

use super::shape::Shape;
use super::task::{CompactionTask, Debt, PickerOptions};
use super::{leveled, tiered};
use std::fmt;
use std::str::FromStr;

/// How a shard keeps its tables. It may be changed at any time: each policy starts from any shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Few runs, little space, more rewriting: for reads. The default.
    #[default]
    Leveled,
    /// More runs, more space, little rewriting: for writes.
    Tiered,
}

impl Policy {
    /// How the manifest stores it.
    pub(crate) fn tag(self) -> u8 {
        match self {
            Self::Leveled => 1,
            Self::Tiered => 2,
        }
    }

    /// The policy that is stored as `tag`, if there is one.
    pub(crate) fn of_tag(tag: u8) -> Option<Self> {
        [Self::Leveled, Self::Tiered]
            .into_iter()
            .find(|policy| policy.tag() == tag)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leveled => "leveled",
            Self::Tiered => "tiered",
        })
    }
}

/// Neither "leveled" nor "tiered".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the compaction policy is either \"leveled\" or \"tiered\"")]
pub struct UnknownPolicy;

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        match name {
            "leveled" => Ok(Self::Leveled),
            "tiered" => Ok(Self::Tiered),
            _ => Err(UnknownPolicy),
        }
    }
}

/// What to do next, beside what is running; `None` if there is nothing, or nothing that could run now.
pub(crate) fn pick(
    shape: &Shape,
    policy: Policy,
    options: &PickerOptions,
) -> Option<CompactionTask> {
    debug_assert!(shape.is_in_order(), "tables of a run are in order");
    match policy {
        Policy::Leveled => leveled::pick(shape, options),
        Policy::Tiered => tiered::pick(shape, options),
    }
}

/// The [`PickerOptions::searches`] from which on a merge pays for the sake of reads; `None` if none would.
pub(crate) fn searches_due(shape: &Shape, policy: Policy, options: &PickerOptions) -> Option<u64> {
    match policy {
        Policy::Leveled => leveled::searches_due(shape, options),
        // This policy is chosen for little rewriting.
        Policy::Tiered => None,
    }
}

/// How much there is to do.
pub(crate) fn debt(shape: &Shape, policy: Policy, options: &PickerOptions) -> Debt {
    let debt = match policy {
        Policy::Leveled => leveled::debt(shape, options),
        Policy::Tiered => tiered::debt(shape, options),
    };
    assert!(debt.score >= 0.0, "a score is a number: {debt:?}");
    debt
}

/// Whether nothing is running and nothing is left to do.
pub(crate) fn settled(shape: &Shape, policy: Policy, options: &PickerOptions) -> bool {
    !shape.busy() && pick(shape, policy, options).is_none()
}
