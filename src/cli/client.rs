//! The commands that act on single keys, and the scan.

use super::args::{Cas, ClientCommand, Connection, Delete, Get, Put, Scan, Value};
use super::failure::Failure;
use super::{connect, export, import, output, status, storage};
use corelith_client::{Client, Written};
use futures_util::StreamExt;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;

/// Runs one client command.
pub(super) async fn run(connection: Connection, command: ClientCommand) -> Result<(), Failure> {
    let client = connect(&connection).await?;
    match command {
        ClientCommand::Put(put) => run_put(&client, put).await,
        ClientCommand::Get(get) => run_get(&client, get).await,
        ClientCommand::Delete(delete) => run_delete(&client, delete).await,
        ClientCommand::Scan(scan) => run_scan(&client, scan).await,
        ClientCommand::Cas(cas) => run_cas(&client, cas).await,
        ClientCommand::Status(arguments) if arguments.storage => {
            storage::run(&client, arguments.json).await
        }
        ClientCommand::Status(arguments) => status::run(&client, arguments.json).await,
        ClientCommand::Import(arguments) => import::run(&client, arguments).await,
        ClientCommand::Export(arguments) => export::run(&client, arguments).await,
    }
}

async fn run_put(client: &Client, put: Put) -> Result<(), Failure> {
    let (key, value) = (put.key.into_vec(), read_value(put.value)?);
    let written = client
        .put(key.clone(), value)
        .await
        .map_err(|e| Failure::on_key(&key, e))?;
    print_written(&written)
}

async fn run_cas(client: &Client, cas: Cas) -> Result<(), Failure> {
    let (key, value) = (cas.key.into_vec(), read_value(cas.value)?);
    let put = client.put(key.clone(), value);
    let put = match cas.expected.version {
        Some(version) => put.if_version(version),
        None => put.if_absent(),
    };
    print_written(&put.await.map_err(|e| Failure::on_key(&key, e))?)
}

async fn run_delete(client: &Client, delete: Delete) -> Result<(), Failure> {
    let key = delete.key.into_vec();
    let request = client.delete(key.clone());
    let request = match delete.if_version {
        Some(version) => request.if_version(version),
        None => request,
    };
    print_written(&request.await.map_err(|e| Failure::on_key(&key, e))?)
}

async fn run_get(client: &Client, get: Get) -> Result<(), Failure> {
    let key = get.key.into_vec();
    let entry = client
        .get(key.clone())
        .await
        .map_err(|e| Failure::on_key(&key, e))?;
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

async fn run_scan(client: &Client, scan: Scan) -> Result<(), Failure> {
    let request = client.scan(scan.prefix.into_vec());
    let request = match scan.limit {
        Some(limit) => request.limit(limit),
        None => request,
    };
    let mut entries = std::pin::pin!(request);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        let key = output::printable(&entry.key);
        if scan.keys_only {
            writeln!(out, "{key}").map_err(output::closed)?;
        } else {
            let value = output::printable(&entry.value);
            writeln!(out, "{key}\t{value}").map_err(output::closed)?;
        }
    }
    out.flush().map_err(output::closed)
}

fn print_written(written: &Written) -> Result<(), Failure> {
    output::text(&format!(
        "version {} (shard {})\n",
        written.version, written.shard
    ))
}

fn read_value(value: Value) -> Result<Vec<u8>, Failure> {
    match (value.file, value.value) {
        (Some(path), _) => {
            std::fs::read(&path).map_err(|source| Failure::file("read", &path, source))
        }
        (None, Some(text)) if text == *"-" => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .map_err(|source| Failure::local("read standard input", "", source))?;
            Ok(bytes)
        }
        (None, text) => Ok(text.unwrap_or_else(OsString::new).into_vec()),
    }
}
