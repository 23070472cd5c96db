//! A counter that many tasks raise at once, by reading it and writing it back if nobody was faster.
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

/// Raises the counter by one. `tag` is different each time: the value names the increment that wrote
/// it, which tells whether a write took place whose answer was lost.
async fn increment(client: &Client, tag: &str) -> Result<u64, Failure> {
    // A write of which is not known whether it took place or still will, and the version it was to replace.
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
            // Somebody else has written since. Whether that was on top of our write nobody can tell:
            // to count again might count twice, so the caller must decide.
            Some((doubted, replaced)) if replaced != version => return Err(doubted.into()),
            // As long as the version is the same, we may write again: only one of the two can apply.
            _ => {}
        }
        let put = client.put(KEY, format!("{} {tag}", count + 1));
        let put = match version {
            Some(version) => put.if_version(version),
            None => put.if_absent(),
        };
        match put.await {
            Ok(_) => return Ok(count + 1),
            // Somebody else was faster, or our own write in doubt was: see what is there now.
            Err(Error::Conflict { .. }) => {}
            Err(error @ Error::Indeterminate { .. }) => doubt = Some((error, version)),
            Err(error) if error.is_retryable() => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(doubt.map_or(error, |(doubted, _)| doubted).into()),
        }
    }
}

/// The count, and who wrote it.
fn parse(entry: &Entry) -> Result<(u64, &str), Failure> {
    let text = std::str::from_utf8(&entry.value)?;
    let (count, tag) = text.split_once(' ').ok_or("no counter is there")?;
    Ok((count.parse()?, tag))
}

/// The nodes that `CORELITH_SEEDS` names, or those of `corelith dev`.
fn seeds() -> Vec<String> {
    let listed = std::env::var("CORELITH_SEEDS").unwrap_or("127.0.0.1:7411".into());
    listed.split(',').map(str::to_owned).collect()
}
