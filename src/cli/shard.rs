//! `shard`: moves replicas and leads.

use super::args::ShardCommand;
use super::cluster::{Goal, give};
use super::failure::Failure;
use corelith_client::{Client, ClusterOrder};

/// Runs a command about a shard.
pub(super) async fn run(client: &Client, command: ShardCommand) -> Result<(), Failure> {
    match command {
        ShardCommand::Move(of) => {
            let (shard, from, to) = (of.command.shard, of.command.from, of.command.to);
            let order = ClusterOrder::MoveShard { shard, from, to };
            let goal = Goal::Moved { shard, from, to };
            give(client, order, of.command.options, goal).await
        }
        ShardCommand::Lead(of) => {
            let (shard, to) = (of.command.shard, of.command.to);
            let order = ClusterOrder::LeadShard { shard, to };
            give(client, order, of.command.options, Goal::Led { shard, to }).await
        }
    }
}
