//! A node of Corelith: configuration, per-core main, request routing.
//!
//! [`node`] and [`dev`] run on the process's first thread and start the cores; everything a request
//! meets runs on a core: [`server`](core) → connection → router → handler → group.

mod budget;
pub mod cli;
#[cfg(test)]
mod cluster_tests;

pub mod config;
mod connection;
pub mod core;
pub mod dev;
pub mod error;
mod forward;
mod handler;
pub mod identity;
pub mod inspect;
pub mod limits;
pub mod node;
pub mod offline;
pub mod placement;
mod router;
mod scan_views;
mod server;
mod status;
mod systemd;

pub use error::NodeError;

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
