//! Whole nodes and clients in the Sim world: the code that ships, from the client's routing to the
//! disk, under crashes, partitions and stalls, and a check of everything the clients saw.
//!
//! `CORELITH_SIM_SEEDS=2000 cargo test --release --test simulation chaos` runs that many seeds
//! instead of a handful, on all processors; `CORELITH_SIM_FIRST=N` begins at seed N. A failure names
//! its seed, and `CORELITH_SIM_SEED=N` runs that one alone. Histories that fail are kept, all of them with
//! `CORELITH_HISTORY_DIR`. See docs/simulation.md.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests; seeds run beside each other on ordinary threads"
)]

mod chaos;
mod client;
mod cluster;
mod exam;
mod failover;
mod large;
mod link;
mod nemesis;
mod notes;
mod operator;
mod plan;
mod planted;
mod replicas;
mod scenarios;
mod seeds;
mod trial;
mod workload;
