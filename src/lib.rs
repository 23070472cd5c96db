//! Corelith: a node, and the command line.
//!
//! [`node`] is the server: configuration, data directory, cores, requests. [`cli`] is everything else that
//! the program does; it runs nodes, and is a client of a cluster through the SDK.

pub mod cli;
pub mod node;

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
