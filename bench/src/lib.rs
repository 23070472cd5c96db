//! The code that both benchmarks share: latencies, resource usage, arrival times, random numbers, and quantities
//! on a command line. The program of this crate benchmarks a cluster; `bench/engines` benchmarks storage engines.

pub mod arrivals;
pub mod latencies;
pub mod quantity;
pub mod random;
pub mod usage;
