//! The arguments of every command.

mod client;

pub(super) use client::{
    Cas, ClientCommand, Connection, Delete, Export, Get, Import, Put, Scan, Value,
};

use super::dev::Wanted;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use client::ConnectionOptions;
use std::path::PathBuf;

/// What scripts may rely on; `failure` gives the codes, docs/operations.md lists them too.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the key does not exist, or the condition of a conditional write does not hold
  2    the arguments, the configuration or the input are wrong: the same command fails again
  3    the cluster cannot be reached, or cannot answer now: nothing was done; `status`: a shard has no
       majority or no leader
  4    the outcome is unknown: the write may have been applied or may still be
  5    something on this machine failed: a file, a limit, the kernel
  6    data is damaged: on the cluster, or in the files that were looked at
  7    the cluster is full, its disk or its shard: nothing was written
  130  interrupted by Ctrl-C; node and dev end with 0 then";

const CLIENTS: &str = "\
put, get, delete, scan, cas, status, import and export are clients of a cluster. Without --connect and
CORELITH_SEEDS they talk to the cluster of `corelith dev`.";

/// A strongly consistent, sharded key-value store: append-only storage, keys that can be overwritten
/// and deleted, values to 8 MiB.
#[derive(Debug, Parser)]
#[command(
    name = "corelith",
    version,
    after_help = format!("{CLIENTS}\n\n{EXIT_CODES}")
)]
pub struct Arguments {
    #[command(flatten)]
    before: BeforeCommand,
    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as
    /// `corelith_consensus=debug`.
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

/// The options of clients in front of the command, where they are understood but not shown.
#[derive(Debug, Args)]
struct BeforeCommand {
    #[command(flatten)]
    connection: ConnectionOptions,
}

impl Arguments {
    /// Reads the arguments of this process; it ends here if they are wrong, or ask for help.
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

    /// The command with everything as it is shown.
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
                    let text = format!("--{name} is an option of clients of a cluster only");
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
    /// Run a cluster on this machine, for development: several nodes in one process. Its data and
    /// its shape survive restarts.
    Dev(Dev),
    /// Run one node of a cluster.
    Node(Node),
    /// Print a file of a node's data directory: log segment, sstable, value log segment, manifest,
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

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub struct Dev {
    /// Where the data lives.
    #[arg(long, value_name = "DIR", default_value = "corelith-data")]
    pub data: PathBuf,
    /// Number of nodes, 1 to 9; fixed when the data is created, 3 then if it is not given.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: Option<u16>,
    /// Number of shards, 1 to 4096; fixed when the data is created, 6 then if it is not given.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub shards: Option<u32>,
    /// Cores of each node, 1 to 64; fixed when the data is created, 1 then if it is not given.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub cores: Option<u16>,
    /// First port: each node takes one port per core from here on. Without it the one of the last
    /// start, 7411 at the first.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
}

impl Dev {
    /// The shape, as far as it is given.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
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
    /// As JSON, one object a line: the file, then each line of what is printed without.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The data directory of a node or of `corelith dev`, or the directory of one shard.
    pub dir: PathBuf,
    /// As JSON, one object a line: every problem, then a summary of each shard.
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
    /// As JSON, one object a line: every segment, then the totals of each shard.
    #[arg(long)]
    pub json: bool,
}
