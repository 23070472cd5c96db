//! How client commands connect to their cluster, in bounded time.

use super::args::Connection;
use super::encoding::shell_word;
use super::failure::Failure;
use corelith_client::Client;
use std::time::Duration;
use tokio::time::Instant;

/// A cluster that answers.
pub(super) struct Reached {
    /// The client; each of its operations has the whole `--timeout`.
    pub(super) client: Client,
    end: Instant,
    /// The seeds, if the user named them.
    given: Option<String>,
}

impl Reached {
    /// The time left of `--timeout`, for a command that is a single operation.
    pub(super) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// A command for the user to give, with the same cluster.
    pub(super) fn command(&self, words: &str) -> String {
        match &self.given {
            Some(seeds) => format!("corelith {words} --connect {}", shell_word(seeds.as_ref())),
            None => format!("corelith {words}"),
        }
    }
}

/// Runs `work` to its end. Does not wait for background work that still runs then, such as a name lookup.
pub(super) fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| Failure::local("start the client's threads", "", source))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

/// Finds the cluster within the time limit of one operation; the SDK bounds the search.
pub(super) async fn connect(connection: &Connection) -> Result<Reached, Failure> {
    let end = Instant::now() + connection.timeout;
    let client = Client::builder()
        .seeds(connection.seeds.clone())
        .deadline(connection.timeout)
        .connect()
        .await
        .map_err(|error| Failure::connecting(error, connection))?;
    let given = connection.is_given.then(|| connection.seeds.join(","));
    Ok(Reached { client, end, given })
}
