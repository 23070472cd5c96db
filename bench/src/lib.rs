//! What the harnesses share: latencies, what processes have used, arrival times, random numbers, and numbers
//! on a command line. The benchmark of a cluster is the program of this crate, the benchmark of storage engines
//! is `bench/engines`.

pub mod arrivals;
pub mod latencies;
pub mod quantity;
pub mod random;
pub mod usage;
