//! The Sim world: any number of nodes on one thread, repeatable from a seed.

pub(crate) mod file;
pub(crate) mod net;
pub(crate) mod task;
pub(crate) mod time;

/// A core of a simulated node.
#[derive(Clone)]
pub(crate) struct Core {}
