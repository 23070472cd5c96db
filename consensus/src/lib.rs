//! The Raft groups of one core: openraft over the shards' logs and engines, and over connections
//! between cores of different nodes.
//!
//! A [`Group`] is one shard's replica; [`Groups`] holds all groups of a core with their transport.
//! A write goes `group` → openraft → `log_store` (durable) and `network` (to the followers) →
//! `state_machine` → the answer. A follower receives in `peer_server`.

mod activity;
mod admission;
mod ahead;
mod announced;
mod applied;
pub mod beats;
pub mod command;
mod config;
mod connection;
mod contradictions;
mod convert;
mod dial;
pub mod doubts;
mod error;
mod fetch;
mod files;
pub mod group;
pub mod groups;
mod introduction;
mod lease;
pub mod limits;
mod link;
pub mod liveness;
mod log_store;
pub mod logging;
mod membership;
mod neighbour;
mod network;
pub mod options;
mod pairs;
mod peer_server;
pub mod planted;
mod proposal;
mod receptions;
pub mod recover;
mod refusals;
mod relief;
mod replay;
mod retention;
mod route;
mod runtime;
mod snapshot;
mod state_machine;
mod steps;
mod stores;
#[cfg(test)]
mod tests;
mod types;
mod uploads;

pub use beats::{Beats, InboundBeats};
pub use command::{Decided, Outcome, WriteReply};
pub use error::{ChangeError, GroupError, OpenError};
pub use group::{Group, GroupProgress, GroupStatus, ReadPoint, ReplicaProgress, Role};
pub use groups::Groups;
pub use introduction::{Admit, Judge, Stranger};
pub use liveness::{Liveness, LivenessOptions, PeerState, ToldMark};
pub use options::{Options, Reads};
pub use relief::ApplyWait;
pub use route::{AnswerNode, GroupMember, NodeStore, Origin, Resolve, Route};
pub use stores::GroupMembers;
pub use uploads::UploadCounts;
