//! Many operations at once. They are independent: some may fail while others succeed.
//!
//! ```sh
//! corelith dev &
//! cargo run -p corelith-client --example batch
//! ```

use corelith_client::{Client, Error, Result};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::connect(seeds()).await?;

    // By position: one result per operation, in the order in which they were added.
    let mut fill = client.batch();
    for number in 0..1000 {
        let key = format!("example/batch/{number:03}");
        fill = fill.put(key, number.to_string());
    }
    let results = fill.deadline(Duration::from_secs(10)).await;
    if let Some((position, error)) = results.first_error() {
        println!("operation {position} failed: {error}");
        return Err(error.clone());
    }
    println!("{} puts are durable", results.len());
    println!("the first one has version {}", results.written(0)?.version);

    // By handle: each handle returns its operation's result, with the right type.
    let mut mixed = client.batch();
    let read = mixed.add(client.get("example/batch/042"));
    let changed = mixed.add(client.put("example/batch/007", "seven"));
    let refused = mixed.add(client.put("example/batch/008", "eight").if_absent());
    let deleted = mixed.add(client.delete("example/batch/009"));
    let missing = mixed.add(client.get("example/batch/none"));
    let results = mixed.await;
    println!("042 says {:?}", results.of(read)?.value);
    println!("007 and 009 are changed: {}", {
        results.of(changed).is_ok() && results.of(deleted).is_ok()
    });
    match results.of(refused) {
        Err(Error::Conflict { .. }) => println!("008 was there already"),
        other => println!("{other:?}"),
    }
    match results.of(missing) {
        Err(Error::NotFound) => println!("none is not there"),
        other => println!("{other:?}"),
    }
    Ok(())
}

/// The addresses in `CORELITH_SEEDS`, or that of `corelith dev`.
fn seeds() -> Vec<String> {
    let listed = std::env::var("CORELITH_SEEDS").unwrap_or("127.0.0.1:7411".into());
    listed.split(',').map(str::to_owned).collect()
}
