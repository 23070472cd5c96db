//! How the clients among the commands reach their cluster, in bounded time.

use super::args::Connection;
use super::failure::Failure;
use corelith_client::{Cause, Client, Error};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long addresses are asked again that refuse: a node that is being restarted listens soon.
const REFUSED_FOR: Duration = Duration::from_millis(600);

/// A cluster that answers.
pub(super) struct Reached {
    /// The client; its operations have the whole time of `--timeout` each.
    pub(super) client: Client,
    end: Instant,
}

impl Reached {
    /// What is left of `--timeout` for a command that is one operation.
    pub(super) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// What `work` gives if it ends in time.
    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = corelith_client::Result<T>>,
    ) -> Result<T, Failure> {
        let cause = Cause::Timeout;
        timeout_at(self.end, work)
            .await
            .unwrap_or(Err(Error::Unavailable { cause }))
            .map_err(Failure::Cluster)
    }
}

/// Runs `work` to its end. Nothing that still runs then, such as a question to a name service, is waited
/// for.
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

/// Finds the cluster within the time that an operation has. Where every address refuses, that is said
/// at once and not at its end.
pub(super) async fn connect(connection: &Connection) -> Result<Reached, Failure> {
    let end = Instant::now() + connection.timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let trying = Client::builder()
            .seeds(connection.seeds.clone())
            .deadline(connection.timeout)
            .connect_deadline(left.min(REFUSED_FOR))
            .connect();
        match timeout_at(end, trying).await {
            Ok(Ok(client)) => return Ok(Reached { client, end }),
            Ok(Err(Error::NoSeed { cause, .. })) if may_answer(cause) && Instant::now() < end => {}
            Ok(Err(error)) => return Err(Failure::connecting(connection, error)),
            Err(_) => {
                let seeds = connection.seeds.join(", ");
                let cause = Cause::Timeout;
                return Err(Failure::connecting(
                    connection,
                    Error::NoSeed { seeds, cause },
                ));
            }
        }
    }
}

/// Whether it is worth the whole time to ask again.
fn may_answer(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Timeout | Cause::Starting | Cause::NotTried | Cause::Connect(ErrorKind::TimedOut)
    )
}
