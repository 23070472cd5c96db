//! The commands on single keys: put, cas, delete, get.

use super::args::{CasArguments, DeleteArguments, GetArguments, PutArguments, ValueArgument};
use super::connect::Reached;
use super::encoding::{from_printable, printable};
use super::entry::{EntryLine, KeyFields, ValueFields};
use super::failure::Failure;
use super::output;
use corelith_client::{Client, Error, Field, Written};
use serde::Serialize;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;

/// Sets a key's value.
pub(super) async fn put(reached: &Reached, put: PutArguments) -> Result<(), Failure> {
    // Taken before the value is read, perhaps from a terminal: that time does not count.
    let left = reached.left();
    let key = key(put.key, put.escaped)?;
    let (key, value) = checked(&reached.client, key, put.value)?;
    let request = reached.client.put(key.clone(), value);
    let written = request.deadline(left).await;
    print_written(&key, written, put.json)
}

/// Sets a key's value if the condition holds.
pub(super) async fn cas(reached: &Reached, cas: CasArguments) -> Result<(), Failure> {
    let left = reached.left();
    let key = key(cas.key, cas.escaped)?;
    let (key, value) = checked(&reached.client, key, cas.value)?;
    let request = reached.client.put(key.clone(), value);
    let request = match cas.expected.version {
        Some(version) => request.if_version(version),
        None => request.if_absent(),
    };
    let written = request.deadline(left).await;
    print_written(&key, written, cas.json)
}

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
    print_written(&key, deleted, delete.json)
}

/// Prints a key's value, or with `--meta` its version, length and shard.
pub(super) async fn get(reached: &Reached, get: GetArguments) -> Result<(), Failure> {
    let key = key(get.key, get.escaped)?;
    check_key(&reached.client, &key)?;
    let absent = || Failure::on_key(&key, Error::NotFound);
    let failed = |error| Failure::on_key(&key, error);
    let request = reached.client.get(key.clone()).deadline(reached.left());
    if get.meta {
        let found = request.head().await.map_err(failed)?;
        let head = found.entry.ok_or_else(absent)?;
        let (version, length, shard) = (head.version, head.value_len, found.shard);
        return output::text(&match get.json {
            true => output::json_line(&EntryLine {
                kind: "entry",
                key: KeyFields::of(&key),
                version,
                length,
                shard: Some(shard),
                value: None,
            })?,
            false => describe(&key, version, length, shard),
        });
    }
    let found = request.lookup().await.map_err(failed)?;
    let entry = found.entry.ok_or_else(absent)?;
    if get.json {
        return output::text(&output::json_line(&EntryLine {
            kind: "entry",
            key: KeyFields::of(&key),
            version: entry.version,
            length: entry.value.len() as u64,
            shard: Some(found.shard),
            value: Some(ValueFields::of(&entry.value)),
        })?);
    }
    match get.output {
        Some(path) => std::fs::write(&path, &entry.value)
            .map_err(|source| Failure::file("write", &path, source)),
        None => {
            if get.with_version {
                output::text(&format!("version {}\n", entry.version))?;
            }
            output::value(&entry.value)
        }
    }
}

/// The lines of `--meta`.
fn describe(key: &[u8], version: u64, length: u64, shard: u32) -> String {
    let key = printable(key);
    format!("key {key}\nversion {version}\nlength {length}\nshard {shard}\n")
}

#[derive(Serialize)]
struct WrittenLine<'a> {
    kind: &'static str,
    #[serde(flatten)]
    key: KeyFields<'a>,
    version: u64,
    shard: u32,
}

fn print_written(
    key: &[u8],
    written: corelith_client::Result<Written>,
    as_json: bool,
) -> Result<(), Failure> {
    let written = written.map_err(|error| Failure::on_key(key, error))?;
    let Written { version, shard, .. } = written;
    output::text(&match as_json {
        true => output::json_line(&WrittenLine {
            kind: "written",
            key: KeyFields::of(key),
            version,
            shard,
        })?,
        false => format!("version {version} (shard {shard})\n"),
    })
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

/// The key and the value, both within the cluster's limits.
fn checked(
    client: &Client,
    key: Vec<u8>,
    value: ValueArgument,
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    check_key(client, &key)?;
    Ok((key, read_value(value, client.limits().value_bytes_max)?))
}

fn check_key(client: &Client, key: &[u8]) -> Result<(), Failure> {
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

fn read_value(value: ValueArgument, limit: u64) -> Result<Vec<u8>, Failure> {
    match (value.file, value.value) {
        (Some(path), _) => {
            let failed = |source| Failure::file("read", &path, source);
            let file = File::open(&path).map_err(failed)?;
            // A pipe has no length before it is read.
            check_size(Field::Value, file.metadata().map_err(failed)?.len(), limit)?;
            read_limited(file, limit, failed)
        }
        (None, Some(text)) if text == *"-" => {
            let failed = |source| Failure::local("read standard input", "", source);
            read_limited(std::io::stdin().lock(), limit, failed)
        }
        (None, text) => {
            let value = text.unwrap_or_else(OsString::new).into_vec();
            check_size(Field::Value, value.len() as u64, limit)?;
            Ok(value)
        }
    }
}

/// Reads everything; bytes beyond `limit` are counted but not kept.
fn read_limited(
    mut from: impl Read,
    limit: u64,
    failed: impl Fn(std::io::Error) -> Failure,
) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    from.by_ref()
        .take(limit)
        .read_to_end(&mut value)
        .map_err(&failed)?;
    let beyond = std::io::copy(&mut from, &mut std::io::sink()).map_err(&failed)?;
    check_size(Field::Value, value.len() as u64 + beyond, limit)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_named_with_its_size() {
        let failed = |error| panic!("{error}");
        assert_eq!(read_limited(&b"12345"[..], 5, failed).unwrap(), b"12345");
        let error = read_limited(&b"1234567"[..], 5, failed).unwrap_err();
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
