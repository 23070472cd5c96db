//! Keys as given, and `delete`.

use super::args::DeleteArguments;
use super::connect::Reached;
use super::encoding::from_printable;
use super::failure::Failure;
use super::stored::Stored;
use corelith_client::{Client, Error, Field};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Deletes a key.
pub(super) async fn delete(reached: &Reached, delete: DeleteArguments) -> Result<(), Failure> {
    let key = key(delete.key, delete.escaped)?;
    check_key(&reached.client, &key)?;
    let request = reached.client.delete(key.clone());
    let request = match delete.if_version {
        Some(version) => request.if_version(version),
        None => request,
    };
    let deleted = request.deadline(reached.left()).await;
    let deleted = deleted.map_err(|error| Failure::on_key(&key, error))?;
    Stored::from(deleted).print(&key, delete.json)
}

/// The key as given, decoded if it is `escaped`.
pub(super) fn key(given: OsString, escaped: bool) -> Result<Vec<u8>, Failure> {
    let given = given.into_vec();
    if !escaped {
        return Ok(given);
    }
    let wrong = "with --escaped, a backslash in a key must be followed by xNN (two hexadecimal digits), \\, \
                 t, r, n, ' or \"";
    from_printable(&given).ok_or(Failure::Argument(wrong))
}

/// Refuses a key that is longer than the cluster allows.
pub(super) fn check_key(client: &Client, key: &[u8]) -> Result<(), Failure> {
    check_size(
        Field::Key,
        key.len() as u64,
        client.limits().key_bytes_max as u64,
    )
}

/// Refuses a key or value that is longer than the cluster allows.
pub(super) fn check_size(what: Field, len: u64, limit: u64) -> Result<(), Failure> {
    match len <= limit {
        true => Ok(()),
        false => Err(Error::TooLarge { what, len, limit }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_named_with_its_size() {
        assert!(check_size(Field::Value, 5, 5).is_ok());
        let error = check_size(Field::Value, 7, 5).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the value is too large: it has 7 bytes, at most 5 are allowed"
        );
        let error = check_size(Field::Key, 5000, 4096).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the key is too large: it has 5000 bytes, at most 4096 are allowed"
        );
        assert_eq!(error.exit_code(), 2);
    }
}
