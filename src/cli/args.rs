//! The arguments of every command.

use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Where `corelith dev` listens, and therefore where clients look if they are told nothing else.
pub(super) const DEV_SEED: &str = "127.0.0.1:7411";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the key does not exist, or the condition of a conditional write does not hold
  2  the arguments, the configuration file or a file's name or content are wrong
  3  the cluster cannot be reached, or cannot answer now: nothing was done
  4  the outcome is unknown: the write may have been applied or may still be
  5  something on this machine failed (a file, a limit, the kernel)

Without --connect and CORELITH_SEEDS, clients talk to the cluster of `corelith dev`.";

/// A strongly consistent, sharded key-value store.
#[derive(Debug, Parser)]
#[command(name = "corelith", version, about, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Where the cluster is.
    #[command(flatten)]
    pub connection: Connection,
    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as
    /// `corelith_consensus=debug`.
    #[arg(long, global = true, value_name = "FILTER", env = "CORELITH_LOG")]
    pub log: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the cluster is.
#[derive(Clone, Debug, Args)]
pub struct Connection {
    /// Addresses of nodes of the cluster, any of them will do: host:port,host:port,...
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT,...",
        env = "CORELITH_SEEDS",
        value_delimiter = ',',
        default_value = DEV_SEED
    )]
    connect: Vec<String>,
    /// Longest time for one operation, retries included, in seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    timeout: Duration,
}

impl Connection {
    /// The addresses, blanks around them removed.
    pub fn seeds(&self) -> Vec<String> {
        self.connect
            .iter()
            .map(|seed| seed.trim().to_owned())
            .collect()
    }

    /// Longest time for one operation.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a cluster on this machine, for development: three nodes in one process. Its data
    /// survives restarts.
    Dev(Dev),
    /// Run one node of a cluster.
    Node(Node),
    /// Print any file that Corelith has written: log segment, sstable, value log segment, manifest,
    /// node identity.
    Inspect(Inspect),
    /// Check all data of a node that does not run. Changes nothing.
    Check(Check),
    /// Look at the garbage of the value log.
    #[command(subcommand)]
    Gc(GcCommand),
    /// A client of a cluster.
    #[command(flatten)]
    Client(ClientCommand),
}

/// What a client can do.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Give a key a value.
    Put(Put),
    /// Print a key's value.
    Get(Get),
    /// Take a key's value away.
    Delete(Delete),
    /// Print keys and values in order of keys, as key, tab, value; unprintable bytes as \xNN.
    Scan(Scan),
    /// Give a key a value if its version is the expected one (compare and set).
    Cas(Cas),
    /// Show nodes, shards, leaders, terms and log positions.
    Status(Status),
    /// Put every file under a directory, its relative path as the key.
    Import(Import),
    /// Write every key as a file under a directory.
    Export(Export),
}

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub struct Dev {
    /// Where the data lives.
    #[arg(long, value_name = "DIR", default_value = "corelith-data")]
    pub data: PathBuf,
    /// Number of nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// Number of shards, fixed when the cluster is created.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub shards: u32,
    /// Cores of each node, fixed when the cluster is created.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub cores: u16,
    /// First port: each node takes one port per core from here on.
    #[arg(long, default_value_t = 7411, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
}

impl Dev {
    /// As the library takes them.
    pub fn options(self) -> crate::cli::dev::Options {
        crate::cli::dev::Options {
            data: self.data,
            nodes: self.nodes,
            shards: self.shards,
            cores: self.cores,
            port: self.port,
        }
    }
}

/// Arguments of `node`.
#[derive(Debug, Args)]
pub struct Node {
    /// The node's configuration, see tuning/corelith.toml for a sample.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The file.
    pub file: PathBuf,
}

/// Arguments of `put`.
#[derive(Debug, Args)]
pub struct Put {
    /// The key.
    pub key: OsString,
    /// Where the value comes from.
    #[command(flatten)]
    pub value: Value,
}

/// Where a value comes from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Value {
    /// The value, or - to read it from standard input.
    pub value: Option<OsString>,
    /// Take the value from a file.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct Get {
    /// The key.
    pub key: OsString,
    /// Write the value to a file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the version (the log index of the write) before the value.
    #[arg(long, conflicts_with = "output")]
    pub with_version: bool,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// The key.
    pub key: OsString,
    /// Only if the key's value has this version.
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
}

/// Arguments of `scan`.
#[derive(Debug, Args)]
pub struct Scan {
    /// Keys that begin with this; all keys if it is left out.
    #[arg(default_value = "")]
    pub prefix: OsString,
    /// Most keys to print.
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<u64>,
    /// Print the keys alone.
    #[arg(long)]
    pub keys_only: bool,
}

/// Arguments of `cas`.
#[derive(Debug, Args)]
pub struct Cas {
    /// The key.
    pub key: OsString,
    /// Where the value comes from.
    #[command(flatten)]
    pub value: Value,
    /// What must hold.
    #[command(flatten)]
    pub expected: Expected,
}

/// The condition of a conditional write.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Expected {
    /// The key's value must have this version.
    #[arg(long, value_name = "VERSION")]
    pub version: Option<u64>,
    /// The key must have no value.
    #[arg(long)]
    pub absent: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Show the storage of every shard instead: levels, value log, compaction debt, scrubbing,
    /// damage.
    #[arg(long)]
    pub storage: bool,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The data directory of a node or of `corelith dev`, or the directory of one shard.
    pub dir: PathBuf,
    /// As JSON, one object on each line: every problem, then a summary of each shard.
    #[arg(long)]
    pub json: bool,
}

/// What to do about garbage.
#[derive(Debug, Subcommand)]
pub enum GcCommand {
    /// Show what of the value log is garbage, and what collection would do next.
    Plan(GcPlan),
}

/// Arguments of `gc plan`.
#[derive(Debug, Args)]
pub struct GcPlan {
    /// The data directory of a node or of `corelith dev`, or the directory of one shard. A node may
    /// run on it.
    pub dir: PathBuf,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct Import {
    /// The directory.
    pub dir: PathBuf,
    /// Put this before every key.
    #[arg(long, default_value = "")]
    pub prefix: OsString,
    /// Files under way at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub in_flight: u16,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// The directory; it is created, and must be empty if it exists.
    pub dir: PathBuf,
    /// Only keys that begin with this; it is left out of the file names.
    #[arg(long, default_value = "")]
    pub prefix: OsString,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "give a number of seconds above 0 and up to 3600, such as 10 or 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if seconds > 0.0 && seconds <= 3600.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(wrong())
    }
}
