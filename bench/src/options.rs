//! The command line.

use crate::failover::Fault;
use crate::workload::{Distribution, KEYS_MAX, ReadSource, WorkloadKind};
use clap::Parser;
use corelith_bench::quantity::{positive, seconds, size};
use std::path::PathBuf;
use std::time::Duration;

const NOTES: &str = "\
Units: latencies in milliseconds, CPU in microseconds per operation, sizes in bytes unless a K, M or G
(KiB, MiB, GiB) follows. With --connect, the run overwrites keys in that cluster, named k and a number,
and leaves them there.

Examples:
  corelith-bench
  corelith-bench --workload put --in-flight 64 --shards 1 --duration 5
  corelith-bench --connect 10.0.0.1:7411,10.0.0.2:7411 --workload mixed --rate 20000
  corelith-bench --workload abuse
  corelith-bench --workload failover --fault kill,stop,cut,stall,deaf --rounds 50 --json failover.json
  corelith-bench --workload failover --fault steady --seconds 600
  corelith-bench --workload idle --shards 1000 --duration 60
  corelith-bench --workload rebuild --bytes 10G --shards 8 --dir /data/rebuild
  corelith-bench --workload large --bytes 1G --streams 4 --shards 1 --dir /data/large --json large.json
  corelith-bench --workload large --bytes 2G --nodes 1
  corelith-bench --workload way --pictures .

Exit codes:
  0    done, no operation failed
  1    the benchmark could not run
  2    an operation failed, an abuse did harm, a fault, an idle node, a rebuilt one or large values cost more than
       allowed, or the arguments are wrong";

/// Most operations in flight.
const IN_FLIGHT_MAX: u64 = 100_000;
/// Longest key that a cluster takes.
const KEY_SIZE_MAX: u64 = 4096;

/// Measures puts and linearizable gets of a Corelith cluster: throughput, latency, CPU per operation.
///
/// Without --connect it starts nodes on this machine, three unless --nodes says otherwise, in a new directory, and stops them after the
/// run. It prints one row for each workload and each number of operations in flight.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = NOTES)]
pub(crate) struct BenchOptions {
    /// Addresses of a running cluster [default: start one]
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,...")]
    pub(crate) connect: Vec<String>,
    /// Process ids of that cluster's nodes on this machine, to report their CPU time
    #[arg(
        long,
        value_delimiter = ',',
        requires = "connect",
        value_name = "PID,..."
    )]
    pub(crate) server_pids: Vec<u32>,

    /// Workloads to run, in this order
    #[arg(
        long,
        value_name = "WORKLOAD,...",
        value_enum,
        value_delimiter = ',',
        default_value = "put,get"
    )]
    pub(crate) workload: Vec<WorkloadKind>,
    /// Percentage of reads in a mixed workload
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) read_percent: u8,
    /// Replicas that gets ask
    #[arg(long, value_name = "REPLICAS", value_enum, default_value = "leader")]
    pub(crate) read_from: ReadSource,
    /// Operations in flight at once, 1 to 100000; one run for each number of the list
    #[arg(long, value_name = "COUNT,...", value_delimiter = ',', default_value = "1,64,256,1000",
          value_parser = clap::value_parser!(u64).range(1..=IN_FLIGHT_MAX))]
    pub(crate) in_flight: Vec<u64>,
    /// Open loop: start this many operations per second on average, at random times that do not depend
    /// on the cluster; latency counts from the intended start [default: closed loop]
    #[arg(long, value_name = "OPS", value_parser = positive)]
    pub(crate) rate: Option<f64>,

    /// Number of keys, 1 to 10000000
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    pub(crate) keys: u64,
    /// Bytes of a key, 8 to 4096
    #[arg(long, value_name = "BYTES", default_value_t = 24, value_parser = clap::value_parser!(u64).range(8..=KEY_SIZE_MAX))]
    pub(crate) key_size: u64,
    /// Bytes of a value; K, M or G for KiB, MiB or GiB [default: 256, with `rebuild` 64K]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) value_size: Option<usize>,
    /// How keys are chosen
    #[arg(long, value_enum, default_value = "uniform")]
    pub(crate) distribution: Distribution,
    /// Skip the load that writes every key once before workloads with reads
    #[arg(long)]
    pub(crate) no_load: bool,

    /// Seconds of warm-up before each measurement
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub(crate) warm_up: Duration,
    /// Seconds of each measurement
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) duration: Duration,
    /// Seconds after which an operation fails
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) deadline: Duration,
    /// Threads of the driver, 1 to 256
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) threads: u64,
    /// SDK clients per thread, 1 to 1000; each has its own connections
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) clients: u64,
    /// Seed of the random operations: the same seed issues the same operations
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Nodes of the started cluster, 1 to 9
    #[arg(long, value_name = "COUNT", default_value_t = 3, conflicts_with = "connect", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) nodes: u8,
    /// Replicas of each of its shards [default: 3, or all nodes if there are fewer]
    #[arg(long, value_name = "COUNT", conflicts_with = "connect", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) replicas: Option<u8>,
    /// Shards of the started cluster
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 3,
        conflicts_with = "connect"
    )]
    pub(crate) shards: u32,
    /// Cores of each node of the started cluster
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        conflicts_with = "connect"
    )]
    pub(crate) cores: u16,
    /// What runs the cores of the started cluster's nodes: `glommio` or `ring` [default: the nodes' own]
    #[arg(long, value_name = "BACKEND", conflicts_with = "connect", value_parser = ["glommio", "ring"])]
    pub(crate) io_backend: Option<String>,
    /// Directory of the started cluster, removed after the run [default: a new one in /var/tmp]
    #[arg(long, conflicts_with = "connect")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the directory after the run
    #[arg(long, conflicts_with = "connect")]
    pub(crate) keep: bool,
    /// The corelith program to start [default: the one next to this program]
    #[arg(long, value_name = "FILE", conflicts_with = "connect")]
    pub(crate) program: Option<PathBuf>,

    /// Workload `failover`: what is done to a node, in this order. cut, partition and deaf need root, and
    /// stall needs the I/O controller of control groups
    #[arg(
        long,
        value_name = "FAULT,...",
        value_enum,
        value_delimiter = ',',
        default_value = "kill,stop,restart"
    )]
    pub(crate) fault: Vec<Fault>,
    /// Rounds of each fault, 1 to 1000
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds that a fault lasts
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    pub(crate) hold: Duration,
    /// Seconds that the fault `steady` lasts
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub(crate) seconds: Duration,

    /// Workload `rebuild`: bytes of all values together; K, M or G for KiB, MiB and GiB. With less than 256M for
    /// each shard its log is copied, not its files. Workload `large`: bytes of each value, up to 2G
    /// [default: 2G, with `large` 1G]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) bytes: Option<usize>,
    /// Workload `large`: values that are uploaded, and then read, at the same time, 1 to 64
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) streams: u64,

    /// Workload `way`: write put.svg and get.svg, drawings of one operation each, to this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) pictures: Option<PathBuf>,

    /// Write all measurements to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl BenchOptions {
    /// Bytes of all values of `rebuild`, or of each value of `large`.
    pub(crate) fn bytes(&self) -> usize {
        let default = match self.workload.contains(&WorkloadKind::Large) {
            true => 1 << 30,
            false => 2 << 30,
        };
        self.bytes.unwrap_or(default)
    }

    /// Bytes of a value.
    pub(crate) fn value_bytes(&self) -> usize {
        let default = match self.workload.contains(&WorkloadKind::Rebuild) {
            true => 64 << 10,
            false => 256,
        };
        self.value_size.unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <BenchOptions as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn lists_and_defaults_are_read() {
        let options =
            BenchOptions::parse_from(["bench", "--in-flight", "1,64", "--workload", "mixed"]);
        assert_eq!(options.in_flight, [1, 64]);
        assert_eq!(options.workload, [WorkloadKind::Mixed]);
        assert_eq!(options.duration, Duration::from_secs(10));
        assert_eq!(options.value_bytes(), 256);
        let options = BenchOptions::parse_from(["bench", "--workload", "rebuild"]);
        assert_eq!(
            (options.value_bytes(), options.bytes()),
            (64 << 10, 2 << 30)
        );
        let options = BenchOptions::parse_from(["bench", "--workload", "large", "--nodes", "1"]);
        assert_eq!((options.bytes(), options.nodes), (1 << 30, 1));
        assert!(BenchOptions::try_parse_from(["bench", "--in-flight", "0"]).is_err());
        assert!(BenchOptions::try_parse_from(["bench", "--rate", "0"]).is_err());
        assert!(BenchOptions::try_parse_from(["bench", "--connect", "a:1", "--keep"]).is_err());
    }
}
