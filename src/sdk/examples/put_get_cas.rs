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

    // Only if the key does not exist: of several programs that start at once, one wins.
    let first = client.put(key, "hello").if_absent().await?;
    println!("put at version {} of shard {}", first.version, first.shard);

    let entry = client.get(key).await?;
    println!("it says {:?}", entry.value);

    // Only if the key has not changed since it was read.
    let second = client
        .put(key, "hello, world")
        .if_version(entry.version)
        .await?;
    println!("changed at version {}", second.version);

    // This write uses an outdated version.
    match client.put(key, "goodbye").if_version(entry.version).await {
        Err(Error::Conflict { current }) => println!("not changed: it is at {current:?} now"),
        other => println!("changed without being asked: {other:?}"),
    }

    // Only the version and the length; then a key that does not exist.
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

/// The addresses in `CORELITH_SEEDS`, or that of `corelith dev`.
fn seeds() -> Vec<String> {
    let listed = std::env::var("CORELITH_SEEDS").unwrap_or("127.0.0.1:7411".into());
    listed.split(',').map(str::to_owned).collect()
}
