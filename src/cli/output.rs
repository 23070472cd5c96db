//! Printing to standard output.

use super::failure::Failure;
use std::io::{ErrorKind, IsTerminal, Write};

/// Prints text.
pub(super) fn text(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes())
}

/// One line of JSON. All JSON output is such lines: each is an object, and its `kind` names its other
/// fields (docs/operations.md lists them).
pub(super) fn json_line(document: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(document)
        .map(|text| text + "\n")
        .map_err(|error| Failure::local("write JSON", "", error.into()))
}

/// Ends a value: on a terminal by a line end.
pub(super) fn end_of_value() -> Result<(), Failure> {
    if std::io::stdout().is_terminal() {
        text("\n")
    } else {
        Ok(())
    }
}

/// Prints bytes as they are.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(closed)
}

/// The failure of a write to standard output.
pub(super) fn closed(source: std::io::Error) -> Failure {
    if source.kind() == ErrorKind::BrokenPipe {
        Failure::OutputClosed
    } else {
        Failure::local("write to standard output", "", source)
    }
}
