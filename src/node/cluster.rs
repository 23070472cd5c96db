//! What all nodes of a cluster agree on: who they are, and which of them holds what.

pub mod addresses;
pub mod formation;
pub mod judge;
pub mod map;
pub(crate) mod map_watch;
pub mod orders;
pub mod overview;
pub mod placement;
mod planted;
pub mod reconcile;
pub mod registration;
pub mod reports;
pub mod spread;
pub mod standing;
