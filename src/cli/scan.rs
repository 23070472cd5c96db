//! `scan`: prints keys in order, page by page with `--limit` and `--token`.

use super::args::ScanArguments;
use super::encoding::printable;
use super::entry::{EntryLine, KeyFields, ValueFields};
use super::failure::Failure;
use super::keys;
use super::output;
use corelith_client::{Client, EntryHead, ScanEntry, ScanToken, Value};
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use std::ffi::OsString;
use std::io::Write;

/// Prints keys in order, and the token to continue with if there may be more.
pub(super) async fn run(client: &Client, scan: ScanArguments) -> Result<(), Failure> {
    let mut request = match (&scan.token, scan.prefix) {
        (Some(token), _) => client.resume_scan(&read_token(token)?)?,
        (None, Some(prefix)) => client.scan(keys::key(prefix, scan.escaped)?),
        (None, None) => {
            let bytes = |key: Option<OsString>| keys::key(key.unwrap_or_default(), scan.escaped);
            let (start, end) = (bytes(scan.start)?, bytes(scan.end)?);
            if !end.is_empty() && end <= start {
                return Err(Failure::Argument("--end must come after --start"));
            }
            client.scan_range(start, end)
        }
    };
    if let Some(limit) = scan.limit {
        request = request.limit(limit);
    }
    let (printed, outcome, token) = if scan.keys_only {
        let mut rows = request.keys_only();
        let (printed, outcome) = print(&mut rows, scan.json).await;
        (printed, outcome, rows.token())
    } else {
        let (printed, outcome) = print(&mut request, scan.json).await;
        (printed, outcome, request.token())
    };
    let token = token.map(|token| token.to_string());
    if scan.json && outcome.is_ok() {
        output::text(&output::json_line(&EndLine {
            kind: "end",
            entries: printed,
            token: token.as_deref(),
        })?)?;
    } else if let Some(token) = token
        && !matches!(outcome, Err(Failure::OutputClosed))
    {
        // A failed write to standard error cannot be reported.
        let _ = writeln!(std::io::stderr(), "to continue: --token {token}");
    }
    outcome
}

fn read_token(text: &str) -> Result<ScanToken, Failure> {
    let wrong = |_| Failure::Argument("--token is not a token that a scan printed");
    text.parse().map_err(wrong)
}

/// Prints rows as they arrive, also those before a failure. Returns how many were printed.
async fn print<T: Row>(
    rows: &mut (impl Stream<Item = corelith_client::Result<T>> + Unpin),
    as_json: bool,
) -> (u64, Result<(), Failure>) {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut printed = 0;
    let mut outcome = Ok(());
    while let Some(row) = rows.next().await {
        let line = row.map_err(Failure::Cluster).and_then(|row| match as_json {
            true => row.json_line(),
            false => Ok(row.line()),
        });
        let written = line.and_then(|line| out.write_all(line.as_bytes()).map_err(output::closed));
        match written {
            Ok(()) => printed += 1,
            Err(failure) => {
                outcome = Err(failure);
                break;
            }
        }
    }
    let flushed = out.flush().map_err(output::closed);
    (printed, outcome.and(flushed))
}

/// A row of a scan as a line of output.
trait Row {
    fn line(&self) -> String;
    fn json_line(&self) -> Result<String, Failure>;
}

impl Row for ScanEntry {
    fn line(&self) -> String {
        let value = match &self.value {
            Value::Bytes(bytes) => printable(bytes),
            Value::Large { len } => format!("(large value of {len} bytes)"),
        };
        format!("{}\t{value}\n", printable(&self.key))
    }

    fn json_line(&self) -> Result<String, Failure> {
        output::json_line(&EntryLine {
            kind: "entry",
            key: KeyFields::of(&self.key),
            version: self.version,
            length: self.value.len(),
            shard: None,
            value: self.value.bytes().map(|bytes| ValueFields::of(bytes)),
            large: self.value.bytes().is_none(),
            description: None,
        })
    }
}

impl Row for EntryHead {
    fn line(&self) -> String {
        printable(&self.key) + "\n"
    }

    fn json_line(&self) -> Result<String, Failure> {
        output::json_line(&EntryLine {
            kind: "entry",
            key: KeyFields::of(&self.key),
            version: self.version,
            length: self.value_len,
            shard: None,
            value: None,
            large: false,
            description: None,
        })
    }
}

#[derive(Serialize)]
struct EndLine<'a> {
    kind: &'static str,
    entries: u64,
    token: Option<&'a str>,
}
