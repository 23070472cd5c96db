//! The command line: arguments, and what each command does.
//!
//! `node`, `dev`, `inspect`, `check` and `gc` run on this machine; everything else is a client of a cluster and
//! uses nothing but the SDK.
#![expect(
    clippy::disallowed_methods,
    reason = "commands run on ordinary threads, outside of the cores"
)]

mod args;
mod client;
pub mod dev;
mod export;
mod failure;
mod import;
pub mod logging;
mod offline;
mod output;
mod status;
mod storage;
mod table;

#[cfg(test)]
mod tests;

pub use args::{Arguments, Command};
pub use failure::Failure;

use args::{Connection, GcCommand};
use corelith_client::Client;
use corelith_io::{CoreConfig, CoreHandle};
use std::future::Future;
use std::io::Write;
use std::path::Path;

/// Runs the command and returns the process's exit code.
pub fn run(arguments: Arguments) -> u8 {
    let outcome = match arguments.command {
        Command::Node(node) => crate::node::run::run(&node.config).map_err(Failure::node),
        Command::Dev(dev) => crate::cli::dev::run(dev.options()).map_err(Failure::node),
        Command::Inspect(inspect) => inspect_file(&inspect.file),
        Command::Check(check) => offline::check(&check.dir, check.json),
        Command::Gc(GcCommand::Plan(plan)) => offline::plan(&plan.dir, plan.json),
        Command::Client(command) => on_runtime(client::run(arguments.connection, command)),
    };
    match outcome {
        Ok(()) => 0,
        Err(Failure::OutputClosed) => 0,
        Err(failure) => {
            // Nobody is left to tell if standard error is gone too.
            let _ = writeln!(std::io::stderr(), "corelith: {failure}");
            failure.exit_code()
        }
    }
}

fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| Failure::local("start the client's threads", "", source))?
        .block_on(work)
}

async fn connect(connection: &Connection) -> Result<Client, Failure> {
    Client::builder()
        .seeds(connection.seeds())
        .deadline(connection.timeout())
        .connect()
        .await
        .map_err(|error| Failure::connecting(connection, error))
}

/// Prints a file of ours. It is read as a node reads it.
fn inspect_file(file: &Path) -> Result<(), Failure> {
    let path = file.to_owned();
    let found = on_core("inspect", move || async move {
        crate::node::data_dir::inspect::inspect(&path).await
    })?;
    output::text(&found.map_err(|source| Failure::Inspect { source })?)
}

/// Runs `work` on a core of its own.
fn on_core<T, F, Fut>(name: &str, work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let core_failed = |source| Failure::Core { source };
    let (done, result) = corelith_io::channel(1);
    CoreConfig::new(name)
        .start(move || async move {
            // The receiver waits below.
            let _ = done.send(work().await).await;
        })
        .and_then(CoreHandle::join)
        .map_err(core_failed)?;
    result.recv_blocking().map_err(Failure::node)
}
