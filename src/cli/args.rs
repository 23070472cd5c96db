//! The arguments of every command.

mod client;

pub(super) use client::{AddArguments, ClusterCommand, OrderOptions, ShardCommand};
pub(super) use client::{
    CasArguments, ClientCommand, Connection, DeleteArguments, ExportArguments, GetArguments,
    ImportArguments, PutArguments, ScanArguments, ValueArgument,
};
pub(super) use client::{
    DescribeOptions, TransferOptions, UploadAbortArguments, UploadCommand, UploadResumeArguments,
};

use super::dev::WantedShape;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use client::ConnectionOptions;
use std::path::PathBuf;

/// Scripts rely on these; `failure` returns the codes and docs/operations.md lists them too.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the key does not exist, or the condition of a conditional write does not hold
  2    the arguments, the configuration or the input are wrong: the same command fails again
  3    the cluster cannot be reached or cannot answer now: nothing was done; for `status`: a shard has
       no majority or no leader
  4    the outcome is unknown: the write may have been applied, or may be applied later
  5    something on this machine failed: a file, a limit, the kernel
  6    data is damaged: in the cluster, or in the files that the command read
  7    a disk or a shard of the cluster is full: nothing was written
  130  interrupted by Ctrl-C; `node` and `dev` stop in order on Ctrl-C and exit with 0";

const CLIENTS: &str = "\
put, get, delete, scan, cas, status, import, export, upload, cluster and shard are clients of a cluster. Without --connect
and CORELITH_SEEDS they connect to 127.0.0.1:7411, where `corelith dev` listens.

Examples:
  corelith dev                  # in one terminal
  corelith put greeting hello   # in another
  corelith get greeting";

/// A strongly consistent, sharded key-value store: append-only storage, keys that can be overwritten
/// and deleted, values up to 2 GiB.
#[derive(Debug, Parser)]
#[command(
    name = "corelith",
    version,
    after_help = format!("{CLIENTS}\n\n{EXIT_CODES}")
)]
pub struct Arguments {
    #[command(flatten)]
    before: BeforeCommand,
    /// What to log to standard error: off, error, warn, info, debug, trace, or a filter such as
    /// `corelith_consensus=debug` [default: warn]
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "CORELITH_LOG",
        help_heading = "Global"
    )]
    pub log: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The client options, accepted in front of the command too but hidden from its help.
#[derive(Debug, Args)]
struct BeforeCommand {
    #[command(flatten)]
    connection: ConnectionOptions,
}

impl Arguments {
    /// Reads the arguments of this process. Exits the process if they are wrong or ask for help.
    pub fn from_process() -> Self {
        let matches = Self::hidden_before(Self::command()).get_matches();
        Self::from_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Reads arguments.
    ///
    /// # Errors
    /// What is wrong with them.
    #[cfg(test)]
    pub(super) fn read<'a>(
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, clap::Error> {
        let words = std::iter::once("corelith").chain(arguments);
        let matches = Self::hidden_before(Self::command()).try_get_matches_from(words)?;
        Self::from_matches(&matches)
    }

    /// The command with the client options in front of the command hidden.
    pub(super) fn hidden_before(command: clap::Command) -> clap::Command {
        ConnectionOptions::NAMES
            .iter()
            .fold(command, |command, name| {
                command.mut_arg(name, |arg| arg.hide(true))
            })
    }

    fn from_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut arguments = Self::from_arg_matches(matches)?;
        let before = arguments.before.connection.clone();
        match &mut arguments.command {
            Command::Client(command) => command.connection_mut().fall_back(before),
            _ => {
                if let Some(name) = before.first_given() {
                    let text = format!("--{name} is only for commands that connect to a cluster");
                    let kind = clap::error::ErrorKind::UnknownArgument;
                    return Err(Self::command().error(kind, text));
                }
            }
        }
        Ok(arguments)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a development cluster: several nodes in one process on this machine.
    #[command(after_help = "\
The nodes listen on the loopback interface. The data and its shape (nodes, shards, cores) survive
restarts. Ctrl-C or SIGTERM stops the cluster.

Examples:
  corelith dev
  corelith dev --data /var/tmp/dev --nodes 1 --port 9000")]
    Dev(DevArguments),
    /// Run one node of a cluster.
    #[command(after_help = "\
Ctrl-C or SIGTERM stops the node.

Example:
  corelith node --config /etc/corelith/corelith.toml")]
    Node(NodeArguments),
    /// Print what a file of a data directory holds.
    #[command(after_help = "\
Understands log segments, sstables, value log segments, manifests and node identities. Exit code 6:
the file is damaged.

Example:
  corelith inspect corelith-data/node-1/node")]
    Inspect(InspectArguments),
    /// Check all data of a stopped node.
    #[command(after_help = "\
Prints each problem, then a summary of each shard. Changes nothing. Exit code 6: there are problems.

Example:
  corelith check corelith-data")]
    Check(CheckArguments),
    /// Have the shards of a stopped node go on without nodes that are gone for good.
    #[command(after_help = "\
For shards of which a majority is gone. Run it on every machine that is left while no node runs: first
without --unsafe, which changes nothing, and with --json for the reports; then with --unsafe and the
reports of all others. Start the nodes after that, and give `corelith cluster recover`. What only
the lost nodes had is lost: writes that the cluster has acknowledged may be gone.

Examples:
  corelith recover --config corelith.toml --lost 2,3
  corelith recover --config corelith.toml --lost 2,3 --json > left-1.json
  corelith recover --config corelith.toml --lost 2,3 --unsafe \\
    --report left-4.json --report left-5.json")]
    Recover(RecoverLeftArguments),
    /// Show the garbage in the value log.
    #[command(subcommand)]
    Gc(GcCommand),
    /// A command that is a client of a cluster.
    #[command(flatten)]
    Client(ClientCommand),
}

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub struct DevArguments {
    /// Directory of the data; created if it does not exist.
    #[arg(long, value_name = "DIR", default_value = "corelith-data")]
    pub data: PathBuf,
    /// Number of nodes, 1 to 9. Fixed when the data is created [default: as created, 3 at first]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: Option<u16>,
    /// Number of shards, 1 to 4096. Fixed when the data is created [default: as created, 6 at first]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub shards: Option<u32>,
    /// Cores of each node, 1 to 64. Fixed when the data is created [default: as created, 1 at first]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub cores: Option<u16>,
    /// First port; the nodes take one port per core from here on [default: as at the last start, 7411
    /// at first]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
}

impl DevArguments {
    /// The parts of the shape that are given.
    pub(super) fn wanted(&self) -> WantedShape {
        WantedShape {
            nodes: self.nodes,
            shards: self.shards,
            cores: self.cores,
            port: self.port,
        }
    }
}

/// Arguments of `node`.
#[derive(Debug, Args)]
pub struct NodeArguments {
    /// The node's configuration, a TOML file; tuning/corelith.toml is a sample.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// A node of the cluster to join, in place of `node.join`; give it more than once for several.
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Vec<String>,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// The file to print.
    pub file: PathBuf,
    /// Print JSON, one object per line: the file, then each fact about it.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The data directory of a node or of `corelith dev`, or the directory of one shard.
    pub dir: PathBuf,
    /// Print JSON, one object per line: each problem, then a summary of each shard.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `recover`.
#[derive(Debug, Args)]
pub struct RecoverLeftArguments {
    /// The node's configuration.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The ids of all nodes that are gone for good.
    #[arg(long, value_name = "NODE,...", value_delimiter = ',', required = true)]
    pub lost: Vec<u64>,
    /// What another machine that is left has written with --json; give it once for each.
    #[arg(long, value_name = "FILE")]
    pub report: Vec<PathBuf>,
    /// Do it, and accept that acknowledged writes may be lost.
    #[arg(long)]
    pub r#unsafe: bool,
    /// Print JSON, one object per line: the report of this node, or with --unsafe each shard that goes on.
    #[arg(long)]
    pub json: bool,
}

/// The commands about garbage.
#[derive(Debug, Subcommand)]
pub enum GcCommand {
    /// Show how much of each value log segment is garbage, and what collection would do next.
    #[command(after_help = "\
Changes nothing. A node may be running on the data.

Example:
  corelith gc plan corelith-data")]
    Plan(GcPlanArguments),
}

/// Arguments of `gc plan`.
#[derive(Debug, Args)]
pub struct GcPlanArguments {
    /// The data directory of a node or of `corelith dev`, or the directory of one shard.
    pub dir: PathBuf,
    /// Print JSON, one object per line: each segment, then the totals of each shard.
    #[arg(long)]
    pub json: bool,
}
