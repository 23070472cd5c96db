//! `scan`: keys in order, in pieces if wanted.

use super::args::Scan;
use super::encoding::{argument, text_or_base64, unescape};
use super::failure::Failure;
use super::output;
use corelith_client::{Client, Entry};
use futures_util::StreamExt;
use serde::Serialize;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;

/// Prints keys in order, and the token to go on with if there may be more of them.
pub(super) async fn run(client: &Client, scan: Scan) -> Result<(), Failure> {
    let range = Range::of(&scan)?;
    // One more than is printed tells whether there are more.
    let limit = scan.limit.map_or(u64::MAX, |limit| limit.saturating_add(1));
    let request = client.scan_range(range.start, range.end).limit(limit);
    let mut entries = std::pin::pin!(request);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut printed = 0;
    let mut last = None;
    let mut next = None;
    while let Some(entry) = entries.next().await {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                // What was read is shown before the failure.
                out.flush().map_err(output::closed)?;
                return Err(error.into());
            }
        };
        if scan.limit == Some(printed) {
            next = last.as_deref().map(argument);
            break;
        }
        let line = match scan.json {
            true => json_line(&entry, scan.keys_only)?,
            false => line(&entry, scan.keys_only),
        };
        out.write_all(line.as_bytes()).map_err(output::closed)?;
        printed += 1;
        last = Some(entry.key);
    }
    if scan.json {
        let end = output::json_line(&End {
            kind: "end",
            entries: printed,
            token: next.as_deref(),
        })?;
        out.write_all(end.as_bytes()).map_err(output::closed)?;
    }
    out.flush().map_err(output::closed)?;
    if let Some(token) = next
        && !scan.json
    {
        // Nobody is left to tell if standard error is gone.
        let _ = writeln!(
            std::io::stderr(),
            "there are more: go on with --token {token}"
        );
    }
    Ok(())
}

/// Keys from `start` up to the one before `end`; an empty end is the end of all keys.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    start: Vec<u8>,
    end: Vec<u8>,
}

impl Range {
    fn of(scan: &Scan) -> Result<Self, Failure> {
        let bytes = |key: &Option<OsString>| key.clone().unwrap_or_default().into_vec();
        let mut range = match &scan.prefix {
            Some(prefix) => {
                let start = prefix.clone().into_vec();
                let end = successor(&start);
                Self { start, end }
            }
            None => Self {
                start: bytes(&scan.start),
                end: bytes(&scan.end),
            },
        };
        if !range.end.is_empty() && range.end <= range.start && scan.prefix.is_none() {
            return Err(Failure::Argument("--end must come after --start"));
        }
        if let Some(token) = &scan.token {
            let mut after = unescape(token)
                .filter(|key| !key.is_empty())
                .ok_or(Failure::Argument("--token is none that a scan has told"))?;
            after.push(0);
            range.start = range.start.max(after);
        }
        Ok(range)
    }
}

/// The first key after all keys that begin with `prefix`; empty if there is none.
pub(super) fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    while let Some(last) = key.pop() {
        if let Some(next) = last.checked_add(1) {
            key.push(next);
            break;
        }
    }
    key
}

fn line(entry: &Entry, keys_only: bool) -> String {
    let key = output::printable(&entry.key);
    match keys_only {
        true => key + "\n",
        false => format!("{key}\t{}\n", output::printable(&entry.value)),
    }
}

#[derive(Serialize)]
struct EntryLine<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    version: u64,
    length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

#[derive(Serialize)]
struct End<'a> {
    kind: &'static str,
    entries: u64,
    token: Option<&'a str>,
}

fn json_line(entry: &Entry, keys_only: bool) -> Result<String, Failure> {
    let (key, key_base64) = text_or_base64(&entry.key);
    let (value, value_base64) = match keys_only {
        true => (None, None),
        false => text_or_base64(&entry.value),
    };
    output::json_line(&EntryLine {
        kind: "entry",
        key,
        key_base64,
        version: entry.version,
        length: entry.value.len() as u64,
        value,
        value_base64,
    })
}
