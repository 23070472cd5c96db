//! The commands that are clients of a cluster.

use super::args::ClientCommand;
use super::connect::connect;
use super::failure::Failure;
use super::{
    cluster, export, get, import, keys, paths, put, scan, shard, status, storage, uploads,
};

/// Runs one client command.
pub(super) async fn run(mut command: ClientCommand) -> Result<(), Failure> {
    paths::of_client(&command)?;
    match &command {
        ClientCommand::Import(import) => import::refuse_other_after(&import.command)?,
        ClientCommand::Upload(upload) => uploads::check(upload)?,
        _ => {}
    }
    let mut connection = command.connection();
    if matches!(command, ClientCommand::Status(_)) {
        // Finding the cluster and each of two rounds of questions get a third of the time, so that the
        // command can list a node that does not answer.
        connection.timeout /= 3;
    }
    let reached = connect(&connection).await?;
    match command {
        ClientCommand::Put(put) => put::put(&reached, put.command).await,
        ClientCommand::Get(get) => get::run(&reached, get.command).await,
        ClientCommand::Delete(delete) => keys::delete(&reached, delete.command).await,
        ClientCommand::Cas(cas) => put::cas(&reached, cas.command).await,
        ClientCommand::Scan(scan) => scan::run(&reached.client, scan.command).await,
        ClientCommand::Status(status) if status.command.storage => {
            storage::run(&reached.client, status.command.json).await
        }
        ClientCommand::Status(status) => status::run(&reached.client, status.command.json).await,
        ClientCommand::Import(import) => import::run(&reached.client, import.command).await,
        ClientCommand::Export(export) => export::run(&reached.client, export.command).await,
        ClientCommand::Upload(command) => uploads::run(&reached, command).await,
        ClientCommand::Cluster(command) => cluster::run(&reached.client, command).await,
        ClientCommand::Shard(command) => shard::run(&reached.client, command).await,
    }
}
