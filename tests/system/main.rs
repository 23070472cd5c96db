//! The whole system as its users meet it: real processes, real files, real sockets, the command line and
//! the SDK. What goes wrong only once in a thousand interleavings is the simulator's business; here the
//! kernel is real.
//!
//! The data lies under `target/tmp`, so that it is on a disk. Sizes and rounds fit a CI machine and grow
//! on demand:
//!
//! * `CORELITH_IMPORT_DIR=~/.cargo/registry/src cargo test --test system import` imports a tree of one's own;
//! * `CORELITH_ROUNDS=30 cargo test --test system rounds` kills and restarts more often;
//! * `CORELITH_LARGE_BYTES=2147483648 CORELITH_LARGE_ROUNDS=100 cargo test --release --test system large` has large
//!   values of that length, and more rounds of kills and races;
//! * `CORELITH_GROWING=10 cargo test --test system growing` changes a cluster under more load;
//! * `CORELITH_VALUE_MIB=2048 cargo test --release --test system large_cli` puts and gets longer values.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of ordinary processes from the outside"
)]

mod abuse;
mod check;
mod cluster;
mod commands;
mod dependencies;
mod dev;
mod examples;
mod full_disk;
mod growing;
mod heal;
mod identity;
mod import;
mod large;
mod large_cli;
mod load;
mod object_store;
mod positions;
mod recover;
mod refusals;
mod rounds;
mod seccomp;
mod smoke;
mod stopping;
mod transfer;
mod waiting;
