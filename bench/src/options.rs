//! The command line.

use crate::workload::{Distribution, KEYS_MAX, Kind};
use clap::Parser;
use corelith_bench::quantity::{positive, seconds, size};
use std::path::PathBuf;
use std::time::Duration;

/// Most operations in flight.
const IN_FLIGHT_MAX: u64 = 100_000;
/// Longest key that a cluster takes.
const KEY_SIZE_MAX: u64 = 4096;

/// Measures puts and linearizable gets of a Corelith cluster: throughput, latency, CPU per operation.
///
/// Without --connect it starts three nodes on this machine in a temporary directory and stops them after
/// the run. One row is printed for each workload and each number of operations in flight.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// Addresses of a running cluster, host:port,...
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    pub(crate) connect: Vec<String>,
    /// Process ids of that cluster's nodes, to report their CPU time
    #[arg(long, value_delimiter = ',', requires = "connect", value_name = "PID")]
    pub(crate) server_pids: Vec<u32>,

    /// What to run, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "put,get")]
    pub(crate) workload: Vec<Kind>,
    /// Share of reads in a mixed workload
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) read_percent: u8,
    /// Operations in flight at once; a list gives a row each
    #[arg(long, value_delimiter = ',', default_value = "1,64,256,1000",
          value_parser = clap::value_parser!(u64).range(1..=IN_FLIGHT_MAX))]
    pub(crate) in_flight: Vec<u64>,
    /// Open loop: start this many operations a second, on average and at random times, whatever the
    /// cluster does; latency counts from the intended start
    #[arg(long, value_name = "OPS", value_parser = positive)]
    pub(crate) rate: Option<f64>,

    /// Number of keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    pub(crate) keys: u64,
    /// Bytes of a key
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(8..=KEY_SIZE_MAX))]
    pub(crate) key_size: u64,
    /// Bytes of a value, with K or M for KiB and MiB
    #[arg(long, default_value = "256", value_parser = size)]
    pub(crate) value_size: usize,
    /// How keys are chosen
    #[arg(long, value_enum, default_value = "uniform")]
    pub(crate) distribution: Distribution,
    /// Do not write every key once before reads
    #[arg(long)]
    pub(crate) no_load: bool,

    /// Seconds before measuring
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub(crate) warm_up: Duration,
    /// Seconds of each measurement
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub(crate) duration: Duration,
    /// Seconds until an operation counts as failed
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub(crate) deadline: Duration,
    /// Threads of the driver
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) threads: u64,
    /// SDK clients (each with its own connections) of each thread
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) clients: u64,
    /// Seed of keys and values
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Shards of the cluster that is started
    #[arg(long, default_value_t = 3, conflicts_with = "connect")]
    pub(crate) shards: u32,
    /// Cores of each node of the cluster that is started
    #[arg(long, default_value_t = 1, conflicts_with = "connect")]
    pub(crate) cores: u16,
    /// Directory of the cluster that is started [default: a new one in /var/tmp]
    #[arg(long, conflicts_with = "connect")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep that directory
    #[arg(long, conflicts_with = "connect")]
    pub(crate) keep: bool,
    /// The corelith program [default: the one next to this program]
    #[arg(long, conflicts_with = "connect")]
    pub(crate) program: Option<PathBuf>,

    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Options as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn lists_and_defaults_are_read() {
        let options = Options::parse_from(["bench", "--in-flight", "1,64", "--workload", "mixed"]);
        assert_eq!(options.in_flight, [1, 64]);
        assert_eq!(options.workload, [Kind::Mixed]);
        assert_eq!(options.duration, Duration::from_secs(10));
        assert!(Options::try_parse_from(["bench", "--in-flight", "0"]).is_err());
        assert!(Options::try_parse_from(["bench", "--rate", "0"]).is_err());
        assert!(Options::try_parse_from(["bench", "--connect", "a:1", "--keep"]).is_err());
    }
}
