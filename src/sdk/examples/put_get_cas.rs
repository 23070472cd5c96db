//! Puts, gets and conditional writes.
//!
//! ```sh
//! corelith dev &
//! cargo run -p corelith-client --example put_get_cas
//! ```

use corelith_client::{Client, Error, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::connect(seeds()).await?;
    let key = "example/greeting";
    client.delete(key).await?;

    // Only if nobody has put it: one of several programs that start at once wins.
    let first = client.put(key, "hello").if_absent().await?;
    println!("put at version {} of shard {}", first.version, first.shard);

    let entry = client.get(key).await?;
    println!("it says {:?}", entry.value);

    // Only if nobody has changed it since it was read.
    let second = client
        .put(key, "hello, world")
        .if_version(entry.version)
        .await?;
    println!("changed at version {}", second.version);

    // This one has read what is no longer so.
    match client.put(key, "goodbye").if_version(entry.version).await {
        Err(Error::Conflict { current }) => println!("not changed: it is at {current:?} now"),
        other => println!("changed without being asked: {other:?}"),
    }

    // The version and the length alone, and what is not there.
    let head = client.get(key).head().await?;
    println!(
        "its value has {:?} bytes",
        head.entry.map(|head| head.value_len)
    );
    match client.get("example/nothing").await {
        Err(Error::NotFound) => println!("there is no example/nothing"),
        other => println!("{other:?}"),
    }

    client.delete(key).if_version(second.version).await?;
    println!("deleted");
    Ok(())
}

/// The nodes that `CORELITH_SEEDS` names, or those of `corelith dev`.
fn seeds() -> Vec<String> {
    let listed = std::env::var("CORELITH_SEEDS").unwrap_or("127.0.0.1:7411".into());
    listed.split(',').map(str::to_owned).collect()
}
