//! Keys in order: a prefix, a range, keys without values, and pages that separate processes could read.
//!
//! ```sh
//! corelith dev &
//! cargo run -p corelith-client --example scan
//! ```

use corelith_client::{Client, Result, ScanToken};
use futures_util::TryStreamExt as _;

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::connect(seeds()).await?;
    let mut batch = client.batch();
    for day in 1..=30 {
        let key = format!("example/days/{day:02}");
        batch = batch.put(key, format!("what happened on day {day}"));
    }
    if let Some((_, error)) = batch.await.first_error() {
        return Err(error.clone());
    }

    // A scan is a stream. It returns the entries of all shards in key order.
    let mut scan = client.scan("example/days/");
    let mut bytes = 0;
    while let Some(entry) = scan.try_next().await? {
        bytes += entry.value.len();
    }
    println!("the values have {bytes} bytes");

    // From the tenth day to the twelfth. The end is exclusive.
    let few = client.scan_range("example/days/10", "example/days/13");
    let few: Vec<_> = few.try_collect().await?;
    println!(
        "{} entries from {:?} on",
        few.len(),
        few.first().map(|entry| &entry.key)
    );

    // Without values, which are neither read from disk nor sent.
    let heads = client.scan("example/days/").keys_only();
    let longest = heads.try_fold(
        0,
        |longest, head| async move { Ok(longest.max(head.value_len)) },
    );
    println!("the longest value has {} bytes", longest.await?);

    // Pages of twelve. The token is text that can be stored, or sent to a browser and back.
    let mut token: Option<String> = None;
    for page in 1.. {
        let scan = match &token {
            None => client.scan("example/days/"),
            Some(text) => client.resume_scan(&text.parse::<ScanToken>()?)?,
        };
        let mut scan = scan.limit(12);
        let mut count = 0;
        while scan.try_next().await?.is_some() {
            count += 1;
        }
        println!("page {page} has {count} entries");
        token = scan.token().map(|token| token.to_string());
        if token.is_none() {
            break;
        }
    }
    Ok(())
}

/// The addresses in `CORELITH_SEEDS`, or that of `corelith dev`.
fn seeds() -> Vec<String> {
    let listed = std::env::var("CORELITH_SEEDS").unwrap_or("127.0.0.1:7411".into());
    listed.split(',').map(str::to_owned).collect()
}
