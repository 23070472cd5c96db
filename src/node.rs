//! A node of Corelith.
//!
//! [`run`] goes from the configuration to the end of the last core. On a core a request goes through
//! `request/` (server, connection, router, handler) to the group of its shard; one that arrived at the
//! wrong core crosses the `mesh`. `admin/` asks all cores and puts together what they say. `cluster/` is
//! what all nodes agree on, `admission/` how a node comes to be one of them, `data_dir/` what one of them owns on disk.
//! `shards` opens and drops replicas; `neighbours` is what nodes ask each other about that, and about the map.

mod admin;
mod admission;
pub mod cluster;
pub mod config;
pub mod data_dir;
pub mod error;
pub mod limits;
mod local;
mod mesh;
mod meta;
mod neighbours;
mod request;
pub mod run;
mod shards;
#[cfg(test)]
mod tests;

pub use error::NodeError;
