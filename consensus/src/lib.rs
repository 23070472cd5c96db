//! The Raft groups of one core: openraft over the shards' logs and engines, and over connections
//! between cores of different nodes.
//!
//! A [`Group`] is one shard's replica; [`Groups`] holds all groups of a core with their transport.

pub mod command;
pub mod error;
pub mod group;
pub mod groups;
pub mod limits;
pub mod options;

pub use command::{Outcome, WriteReply};
pub use error::{GroupError, OpenError};
pub use group::{Group, GroupStatus, ReadPoint, Role};
pub use groups::{Groups, Route};
pub use options::Options;
