//! Which tables are merged next.
//!
//! All of it is pure: a [`Shape`] goes in, a [`CompactionTask`] comes out, and the caller does the I/O.
//!
//! * `shape` is what a picker sees of a version: levels, runs, tables, and what running tasks claim.
//! * `task` is what a picker decides from and what it chooses.
//! * `picker` is the façade over the two policies, `leveled` and `tiered`; `draft` holds the choices
//!   that both make, `gain` how much space a merge frees.
//! * `mix` estimates from merges that were done how much of what is written replaces something.

mod draft;
mod gain;
mod leveled;
mod mix;
mod picker;
mod shape;
mod task;
#[cfg(test)]
mod tests;
mod tiered;

pub(crate) use gain::{InMemory, hidden_bytes};
pub(crate) use mix::WriteMix;
pub use picker::{Policy, UnknownPolicy};
pub(crate) use picker::{debt, pick, searches_due, settled};
pub(crate) use shape::{LevelShape, RunShape, Shape, TableShape};
pub(crate) use task::{CompactionTask, Debt, Input, PickerOptions};
