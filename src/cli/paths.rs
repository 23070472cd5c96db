//! Paths that are given as arguments. One that cannot be what the command needs is a wrong argument, and is told
//! before anything is done.

use super::args::{ClientCommand, Value};
use super::failure::Failure;
use std::io::ErrorKind;
use std::path::Path;

/// Refuses what is no directory.
pub(super) fn directory(path: &Path) -> Result<(), Failure> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Failure::unusable(path, "it is no directory")),
        Err(error) => missing(path, error.kind(), "there is no such directory"),
    }
}

/// Refuses what is a directory, or not there.
pub(super) fn file(path: &Path) -> Result<(), Failure> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(Failure::unusable(path, "it is no file")),
        Ok(_) => Ok(()),
        Err(error) => missing(path, error.kind(), "there is no such file"),
    }
}

/// Other errors than that it is not there are told by whoever opens it.
fn missing(path: &Path, kind: ErrorKind, problem: &str) -> Result<(), Failure> {
    match kind {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Err(Failure::unusable(path, problem)),
        _ => Ok(()),
    }
}

/// Refuses the paths of a client's command that cannot be read.
pub(super) fn of_client(command: &ClientCommand) -> Result<(), Failure> {
    let of_value = |value: &Value| value.file.as_deref().map_or(Ok(()), file);
    match command {
        ClientCommand::Put(put) => of_value(&put.command.value),
        ClientCommand::Cas(cas) => of_value(&cas.command.value),
        ClientCommand::Import(import) => directory(&import.command.dir),
        // It is made if it is not there.
        ClientCommand::Export(export) if export.command.dir.exists() => {
            directory(&export.command.dir)
        }
        _ => Ok(()),
    }
}
