//! Which tables are merged next, and how hard writers and background work are driven meanwhile.
//!
//! All of it is pure: a [`Shape`] goes in, a [`Task`] comes out, and whoever asked does the I/O.
//!
//! * `shape` is what a picker sees of a version: levels, runs, tables, and what running tasks claim.
//! * `picker` is the façade over the two policies, `leveled` and `tiered`; `draft` holds the choices
//!   that both make, `gain` what a merge is worth.
//! * `mix` estimates from merges that were done how much of what is written replaces something.
//! * `throttle` turns debt into a delay of writers, and into a share of the core and a rate for
//!   background work.

mod draft;
mod gain;
mod leveled;
mod mix;
mod picker;
mod shape;
#[cfg(test)]
mod tests;
mod throttle;
mod tiered;

pub(crate) use mix::WriteMix;
pub(crate) use picker::{Debt, Input, Options, Task, debt, pick, searches_due, settled};
pub use picker::{Policy, UnknownPolicy};
pub(crate) use shape::{LevelShape, RunShape, Shape, TableShape};
pub(crate) use throttle::{
    Incoming, Throttle, ThrottleLimits, background_share, collection_rate, compaction_rate,
    flush_allowance, flush_rate, throttle,
};
