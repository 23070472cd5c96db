//! A lock with a fencing token. A lock alone protects nothing: its owner may pause (a slow disk, a
//! stopped virtual machine), be taken for dead, and go on when somebody else has the lock. So each
//! owner gets a number that is higher than all before, and what the lock protects refuses lower ones
//! than it has seen.
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

    // Ann is silent for so long that Bob takes her for dead. Nothing here can tell whether she is.
    let bob = take_over(&client, "bob", ann).await?;
    println!("bob has taken the lock over: {}", bob > ann);
    println!("bob writes: {}", write(&client, bob, "by bob").await?);

    // She was not. Her token is lower than the one that was seen.
    println!("ann writes: {}", write(&client, ann, "by ann again").await?);
    println!("ann releases: {}", release(&client, ann).await?);
    println!("bob releases: {}", release(&client, bob).await?);
    let entry = client.get(PROTECTED).await?;
    println!("what is protected says {:?}", entry.value);
    Ok(())
}

/// Takes the lock if it is free. The version of the lock's key is the token: versions of a key only
/// rise, also over its deletion. `owner` is a name that nobody else has.
async fn acquire(client: &Client, owner: &str) -> Result<Option<u64>> {
    loop {
        match client.put(LOCK, owner).if_absent().await {
            Ok(written) => return Ok(Some(written.version)),
            // Somebody has the lock, or may have it; that may be us, by a write whose answer was lost.
            Err(Error::Conflict { .. } | Error::Indeterminate { .. }) => {}
            Err(error) => return Err(error),
        }
        match client.get(LOCK).await {
            Ok(entry) => return Ok((entry.value == owner).then_some(entry.version)),
            // Not applied yet, but it may still be: ask again, only one of the two can take a free lock.
            // If the late one takes it after it was given back, its owner is silent, and somebody
            // takes the lock over. Or the same owner asks again, and finds that it has it.
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes the lock from the owner that has the token `from`.
async fn take_over(client: &Client, owner: &str, from: u64) -> Result<u64> {
    Ok(client.put(LOCK, owner).if_version(from).await?.version)
}

/// Gives the lock back; whether it was still ours.
async fn release(client: &Client, token: u64) -> Result<bool> {
    match client.delete(LOCK).if_version(token).await {
        Ok(_) => Ok(true),
        Err(Error::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes what the lock protects, as the owner that has `token`; whether that is allowed. The value
/// begins with the highest token that was seen. (This stands for any store that can keep a number
/// and compare it; it need not be Corelith.)
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
            // Changed meanwhile: look again whether the token is still good.
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The nodes that `CORELITH_SEEDS` names, or those of `corelith dev`.
fn seeds() -> Vec<String> {
    let listed = std::env::var("CORELITH_SEEDS").unwrap_or("127.0.0.1:7411".into());
    listed.split(',').map(str::to_owned).collect()
}
