//! The Sim world: any number of nodes on one thread, repeatable from a seed.

/// A core of a simulated node.
#[derive(Clone)]
pub(crate) struct Core {}
