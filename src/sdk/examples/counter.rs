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
    loop {
        let (count, put) = match client.get(KEY).lookup().await?.entry {
            Some(entry) => {
                let (count, last) = parse(&entry)?;
                if last == tag {
                    return Ok(count);
                }
                let value = format!("{} {tag}", count + 1);
                (count + 1, client.put(KEY, value).if_version(entry.version))
            }
            None => (1, client.put(KEY, format!("1 {tag}")).if_absent()),
        };
        match put.await {
            Ok(_) => return Ok(count),
            // Somebody else was faster: read what is there now.
            Err(Error::Conflict { .. }) => {}
            // Whether it was written is not known. If the value has our tag, it was; if it has the version
            // that we have read, we may write it again: only one of the two can apply. If somebody
            // else has written meanwhile, nobody can tell, and the caller must decide.
            Err(error @ Error::Indeterminate { .. }) => match client.get(KEY).lookup().await?.entry
            {
                Some(entry) if parse(&entry)?.1 == tag => return Ok(count),
                Some(entry) if parse(&entry)?.0 >= count => return Err(error.into()),
                _ => {}
            },
            Err(error) if error.is_retryable() => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
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
