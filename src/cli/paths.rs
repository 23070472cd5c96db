//! Checks of paths given as arguments: a path of the wrong kind is a wrong argument, refused before the command does
//! anything.

use super::args::{ClientCommand, ValueArgument};
use super::failure::Failure;
use std::io::ErrorKind;
use std::path::Path;

/// Refuses a path that is not a directory.
pub(super) fn directory(path: &Path) -> Result<(), Failure> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Failure::unusable(path, "it is not a directory")),
        Err(error) => missing(path, error.kind(), "there is no such directory"),
    }
}

/// Refuses a path that is a directory or does not exist.
pub(super) fn file(path: &Path) -> Result<(), Failure> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(Failure::unusable(path, "it is not a file")),
        Ok(_) => Ok(()),
        Err(error) => missing(path, error.kind(), "there is no such file"),
    }
}

/// Refuses a path that does not exist. Other errors are reported by the code that opens it.
fn missing(path: &Path, kind: ErrorKind, problem: &str) -> Result<(), Failure> {
    match kind {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Err(Failure::unusable(path, problem)),
        _ => Ok(()),
    }
}

/// Checks the paths that a client command reads or writes.
pub(super) fn of_client(command: &ClientCommand) -> Result<(), Failure> {
    let of_value = |value: &ValueArgument| value.file.as_deref().map_or(Ok(()), file);
    match command {
        ClientCommand::Put(put) => of_value(&put.command.value),
        ClientCommand::Cas(cas) => of_value(&cas.command.value),
        ClientCommand::Import(import) => directory(&import.command.dir),
        // The export creates a directory that does not exist.
        ClientCommand::Export(export) if export.command.dir.exists() => {
            directory(&export.command.dir)
        }
        _ => Ok(()),
    }
}
