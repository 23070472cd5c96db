//! What a key may be.

use crate::client::Client;
use crate::error::{Error, Field, Result};
use bytes::Bytes;

/// Refuses a key that is empty or too long.
pub(crate) fn check_key(client: &Client, key: &Bytes) -> Result<()> {
    if key.is_empty() {
        return Err(Error::Invalid {
            what: "key: it is empty",
        });
    }
    check_key_len(client, key)
}

/// Refuses a key, or an end of a range, that is longer than the cluster allows.
pub(crate) fn check_key_len(client: &Client, key: &Bytes) -> Result<()> {
    let (len, limit) = (key.len() as u64, client.limits().key_bytes_max as u64);
    if len > limit {
        let what = Field::Key;
        return Err(Error::TooLarge { what, len, limit });
    }
    Ok(())
}
