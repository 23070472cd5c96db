//! Whole nodes and clients in the Sim world: the code that ships, from the client's routing to the
//! disk, under crashes, partitions and stalls, and a check of everything the clients saw.
//!
//! `CORELITH_SIM_SEEDS=2000 cargo test --release --test simulation` runs that many seeds
//! instead of a handful; `CORELITH_SIM_FIRST=N` begins at seed N. A failure prints its seed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod chaos;
mod client;
mod cluster;
mod history;
mod scenarios;

/// The seeds to run: `few` of them unless the environment asks for more.
fn seeds(few: u64) -> impl Iterator<Item = u64> {
    let number = |name, default| match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    };
    let first: u64 = number("CORELITH_SIM_FIRST", 1);
    first..first + number("CORELITH_SIM_SEEDS", few)
}
