//! What all nodes of a cluster agree on.

pub mod formation;
pub mod placement;
