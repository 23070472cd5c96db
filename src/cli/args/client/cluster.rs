//! The arguments of the commands of operators.

use super::{ConnectionOptions, OfCluster};
use clap::{Args, Subcommand};

/// The commands about the cluster as a whole.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show nodes, zones, settings, moves that are under way and what is wrong.
    Status(OfCluster<ShowArguments>),
    /// Say how to start a node that joins the cluster, and wait for it.
    #[command(after_help = "\
Nodes add themselves: this command prints what to run on the new machine, and changes nothing.

Examples:
  corelith cluster add --zone b
  corelith cluster add --zone b --wait")]
    Add(OfCluster<AddArguments>),
    /// Move all replicas and leads off a node.
    #[command(after_help = "\
The node goes on serving until it has no more replicas. `corelith cluster remove` then takes it out.

Examples:
  corelith cluster drain 2 --wait
  corelith cluster drain 2 --undo")]
    Drain(OfCluster<DrainArguments>),
    /// Take a node that is drained out of the cluster for ever.
    Remove(OfCluster<NodeOrder>),
    /// Drain a node for which another has joined; with --wait also remove it.
    Replace(OfCluster<ReplaceArguments>),
    /// Set a setting of the cluster.
    #[command(after_help = "\
`corelith cluster status` lists the settings: replicas, reads, rebuild_after_s, moves_max,
moves_per_node_max, copy_bytes_per_second, rejoin and balance.

Examples:
  corelith cluster set replicas 5 --wait
  corelith cluster set copy_bytes_per_second 50000000")]
    Set(OfCluster<SetArguments>),
    /// Take the empty store that comes as a node in its place, where the setting rejoin is manual.
    Rejoin(OfCluster<NodeOrder>),
    /// Remove nodes that are gone for good, together with their replicas.
    #[command(after_help = "\
Where they were a majority of a shard, have it go on first, with `corelith recover` on the machines
that are left. What only the lost nodes had is lost: writes that the cluster has acknowledged may be
gone. The lost nodes are refused if they come back. --dry-run says which shards are affected.

Example:
  corelith cluster recover --unsafe --lost 2,3 --dry-run")]
    Recover(OfCluster<RecoverArguments>),
}

/// The commands about a shard.
#[derive(Debug, Subcommand)]
pub enum ShardCommand {
    /// Move a replica to another node.
    #[command(after_help = "\
Example:
  corelith shard move 12 --from 1 --to 4 --wait")]
    Move(OfCluster<MoveArguments>),
    /// Prefer a node as the leader.
    #[command(after_help = "\
Example:
  corelith shard lead 12 --to 4")]
    Lead(OfCluster<LeadArguments>),
}

impl ClusterCommand {
    pub(super) fn connection_mut(&mut self) -> &mut ConnectionOptions {
        match self {
            Self::Status(of) => &mut of.connection,
            Self::Add(of) => &mut of.connection,
            Self::Drain(of) => &mut of.connection,
            Self::Remove(of) | Self::Rejoin(of) => &mut of.connection,
            Self::Replace(of) => &mut of.connection,
            Self::Set(of) => &mut of.connection,
            Self::Recover(of) => &mut of.connection,
        }
    }
}

impl ShardCommand {
    pub(super) fn connection_mut(&mut self) -> &mut ConnectionOptions {
        match self {
            Self::Move(of) => &mut of.connection,
            Self::Lead(of) => &mut of.connection,
        }
    }
}

/// What all orders have.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct OrderOptions {
    /// Wait until it is done, with lines of progress and the time left on standard error. Ctrl-C ends
    /// the waiting, not what was ordered.
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON, one object per line.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `cluster status`.
#[derive(Debug, Args)]
pub struct ShowArguments {
    /// Print JSON, one object per line: the rows of the tables.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `cluster add`.
#[derive(Debug, Args)]
pub struct AddArguments {
    /// The new node's zone: what fails together.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub zone: String,
    /// The new node's region.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub region: String,
    #[command(flatten)]
    pub options: OrderOptions,
}

/// Arguments of orders about a node.
#[derive(Debug, Args)]
pub struct NodeOrder {
    /// The node's id.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub node: u64,
    #[command(flatten)]
    pub options: OrderOptions,
}

/// Arguments of `cluster drain`.
#[derive(Debug, Args)]
pub struct DrainArguments {
    /// The node's id.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub node: u64,
    /// Give the node replicas again instead.
    #[arg(long)]
    pub undo: bool,
    #[command(flatten)]
    pub options: OrderOptions,
}

/// Arguments of `cluster replace`.
#[derive(Debug, Args)]
pub struct ReplaceArguments {
    /// The id of the node that goes.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub old: u64,
    /// The id of the node that has joined for it.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub new: u64,
    #[command(flatten)]
    pub options: OrderOptions,
}

/// Arguments of `cluster set`.
#[derive(Debug, Args)]
pub struct SetArguments {
    /// The setting.
    pub key: String,
    /// Its value.
    pub value: String,
    #[command(flatten)]
    pub options: OrderOptions,
}

/// Arguments of `cluster recover`.
#[derive(Debug, Args)]
pub struct RecoverArguments {
    /// The ids of all nodes that are gone for good.
    #[arg(long, value_name = "NODE,...", value_delimiter = ',', required = true)]
    pub lost: Vec<u64>,
    /// Accept that acknowledged writes may be lost.
    #[arg(long, required = true)]
    pub r#unsafe: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON, one object per line.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `shard move`.
#[derive(Debug, Args)]
pub struct MoveArguments {
    /// The shard's number.
    pub shard: u32,
    /// The node that has a replica.
    #[arg(long, value_name = "NODE")]
    pub from: u64,
    /// The node that gets it.
    #[arg(long, value_name = "NODE")]
    pub to: u64,
    #[command(flatten)]
    pub options: OrderOptions,
}

/// Arguments of `shard lead`.
#[derive(Debug, Args)]
pub struct LeadArguments {
    /// The shard's number.
    pub shard: u32,
    /// A node that has a replica.
    #[arg(long, value_name = "NODE")]
    pub to: u64,
    #[command(flatten)]
    pub options: OrderOptions,
}
