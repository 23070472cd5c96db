//! A lock with a fencing token. A lock alone protects nothing: its owner may pause (a slow disk, a
//! stopped virtual machine), be taken for dead, and continue while another owner has the lock. So each
//! owner gets a token that is higher than all earlier ones, and the protected resource refuses tokens
//! lower than the highest it has seen.
//!
//! ```sh
//! corelith dev &
//! cargo run -p corelith-client --example lock
//! ```

use corelith_client::{Client, Error, Result};

const LOCK: &str = "example/lock";
const PROTECTED: &str = "example/protected";

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::connect(seeds()).await?;
    client.delete(LOCK).await?;
    client.delete(PROTECTED).await?;

    let Some(ann) = acquire(&client, "ann").await? else {
        println!("ann does not get the lock");
        return Ok(());
    };
    println!("ann has the lock");
    println!("bob gets it: {}", acquire(&client, "bob").await?.is_some());
    println!("ann writes: {}", write(&client, ann, "by ann").await?);

    // Ann has been silent for long, so Bob takes her for dead. He cannot know whether she is.
    let bob = take_over(&client, "bob", ann).await?;
    println!("bob has taken the lock over: {}", bob > ann);
    println!("bob writes: {}", write(&client, bob, "by bob").await?);

    // She was not. Her token is now lower than the highest token seen.
    println!("ann writes: {}", write(&client, ann, "by ann again").await?);
    println!("ann releases: {}", release(&client, ann).await?);
    println!("bob releases: {}", release(&client, bob).await?);
    let entry = client.get(PROTECTED).await?;
    println!("what is protected says {:?}", entry.value);
    Ok(())
}

/// Takes the lock if it is free. The token is the version of the lock's key: versions of a key only
/// rise, even across its deletion. `owner` must be a unique name.
async fn acquire(client: &Client, owner: &str) -> Result<Option<u64>> {
    loop {
        match client.put(LOCK, owner).if_absent().await {
            Ok(written) => return Ok(Some(written.version)),
            // Someone has the lock, or may have it. It may be us, through a write whose answer was lost.
            Err(Error::Conflict { .. } | Error::Indeterminate { .. }) => {}
            Err(error) => return Err(error),
        }
        match client.get(LOCK).await {
            Ok(entry) => return Ok((entry.value == owner).then_some(entry.version)),
            // Our write has not applied yet, but still may. Try again: only one of the two writes can
            // take a free lock. If the late write takes it after the lock was released, its owner is
            // silent, and someone takes the lock over, or the same owner asks again and finds it taken
            // by itself.
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes the lock over from the owner with the token `from`. Returns the new token.
async fn take_over(client: &Client, owner: &str, from: u64) -> Result<u64> {
    Ok(client.put(LOCK, owner).if_version(from).await?.version)
}

/// Releases the lock. Returns whether it was still ours.
async fn release(client: &Client, token: u64) -> Result<bool> {
    match client.delete(LOCK).if_version(token).await {
        Ok(_) => Ok(true),
        Err(Error::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the protected value as the owner of `token`. Returns whether that is allowed. The value starts
/// with the highest token seen. (Any store that can keep and compare a number works; it need not be
/// Corelith.)
async fn write(client: &Client, token: u64, text: &str) -> Result<bool> {
    loop {
        let value = format!("{token} {text}");
        let put = match client.get(PROTECTED).lookup().await?.entry {
            None => client.put(PROTECTED, value).if_absent(),
            Some(entry) => {
                let seen = entry.value.split(|byte| *byte == b' ').next();
                let seen = seen.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
                if seen.is_some_and(|seen: u64| seen > token) {
                    return Ok(false);
                }
                client.put(PROTECTED, value).if_version(entry.version)
            }
        };
        match put.await {
            Ok(_) => return Ok(true),
            // The value has changed: check again whether the token is still valid.
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The addresses in `CORELITH_SEEDS`, or that of `corelith dev`.
fn seeds() -> Vec<String> {
    let listed = std::env::var("CORELITH_SEEDS").unwrap_or("127.0.0.1:7411".into());
    listed.split(',').map(str::to_owned).collect()
}
