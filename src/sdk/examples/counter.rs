//! A counter that many tasks increment at once: each reads it and writes it back with a condition.
//!
//! ```sh
//! corelith dev &
//! cargo run -p corelith-client --example counter
//! ```

use corelith_client::{Client, Entry, Error};
use std::time::Duration;

const KEY: &str = "example/counter";
const TASKS: u64 = 8;
const TIMES: u64 = 25;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let client = Client::connect(seeds()).await?;
    client.delete(KEY).await?;
    let tasks = (0..TASKS).map(|task| {
        let client = client.clone();
        tokio::spawn(async move {
            for time in 0..TIMES {
                increment(&client, &format!("{task}/{time}")).await?;
            }
            Ok::<_, Failure>(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    let (count, _) = parse(&client.get(KEY).await?)?;
    println!("{TASKS} tasks have counted to {count}");
    Ok(())
}

/// Increments the counter by one. `tag` differs each time. The value holds the tag of the increment that
/// wrote it, which shows whether a write without an answer was applied.
async fn increment(client: &Client, tag: &str) -> Result<u64, Failure> {
    // A write with an unknown outcome, and the version that it was to replace.
    let mut doubt: Option<(Error, Option<u64>)> = None;
    loop {
        let entry = match client.get(KEY).lookup().await {
            Ok(found) => found.entry,
            Err(error) => return Err(doubt.map_or(error, |(doubted, _)| doubted).into()),
        };
        let (count, last) = entry.as_ref().map_or(Ok((0, "")), parse)?;
        if last == tag {
            return Ok(count);
        }
        let version = entry.as_ref().map(|entry| entry.version);
        match doubt {
            // Another task has written since. It may have written on top of our write, so counting
            // again might count twice: the caller must decide.
            Some((doubted, replaced)) if replaced != version => return Err(doubted.into()),
            // While the version is unchanged we may write again: only one of the two writes can apply.
            _ => {}
        }
        let put = client.put(KEY, format!("{} {tag}", count + 1));
        let put = match version {
            Some(version) => put.if_version(version),
            None => put.if_absent(),
        };
        match put.await {
            Ok(_) => return Ok(count + 1),
            // Another task was faster, or our own write in doubt was: read the current value.
            Err(Error::Conflict { .. }) => {}
            Err(error @ Error::Indeterminate { .. }) => doubt = Some((error, version)),
            Err(error) if error.is_retryable() => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(doubt.map_or(error, |(doubted, _)| doubted).into()),
        }
    }
}

/// The count, and the tag of the increment that wrote it.
fn parse(entry: &Entry) -> Result<(u64, &str), Failure> {
    let text = std::str::from_utf8(&entry.value)?;
    let (count, tag) = text.split_once(' ').ok_or("no counter is there")?;
    Ok((count.parse()?, tag))
}

/// The addresses in `CORELITH_SEEDS`, or that of `corelith dev`.
fn seeds() -> Vec<String> {
    let listed = std::env::var("CORELITH_SEEDS").unwrap_or("127.0.0.1:7411".into());
    listed.split(',').map(str::to_owned).collect()
}
