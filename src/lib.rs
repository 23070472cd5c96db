//! A node of Corelith: configuration, per-core main, request routing, and the command line.

pub mod config;
pub mod identity;
pub mod limits;
pub mod placement;
