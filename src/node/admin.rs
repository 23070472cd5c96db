//! What an operator asks of a whole node.

pub(crate) mod status;
