//! Histories as JSON lines.
//!
//! The first line says what the file is: `{"schema":"corelith-history","version":1,"origin":"..."}`. Every other
//! line is one [`Observation`], in any order:
//!
//! ```text
//! {"client":1,"shard":0,"key":"k","began":10,"ended":25,"node":2,"what":"written","value":7,"condition":"any","at":{"term":3,"index":12}}
//! {"client":1,"shard":0,"key":"k","began":30,"ended":41,"what":"read","found":[12,7],"at":{"index":12}}
//! {"client":2,"shard":0,"key":"k","began":30,"ended":42,"what":"refused","condition":"absent","current":12,"at":{"index":13}}
//! {"client":2,"shard":0,"key":"k","began":50,"ended":null,"what":"unknown","value":null,"condition":{"version":12}}
//! ```

use crate::Observation;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

const SCHEMA: &str = "corelith-history";
const VERSION: u32 = 1;
/// Names the directory that histories are written to.
const DIRECTORY: &str = "CORELITH_HISTORY_DIR";

#[derive(Serialize, Deserialize)]
struct FirstLine {
    schema: String,
    version: u32,
    /// Where the history is from, in words.
    origin: String,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// A line is not what it should be.
    #[error("line {line} is not as the schema says")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file is not a history, or of another version.
    #[error("it does not begin as a history of version {VERSION} does")]
    FirstLine,
}

/// Writes a history.
///
/// # Errors
/// Those of the writer.
pub fn write(origin: &str, history: &[Observation], to: impl Write) -> io::Result<()> {
    let mut to = BufWriter::new(to);
    let header = FirstLine {
        schema: SCHEMA.to_owned(),
        version: VERSION,
        origin: origin.to_owned(),
    };
    serde_json::to_writer(&mut to, &header)?;
    for observation in history {
        to.write_all(b"\n")?;
        serde_json::to_writer(&mut to, observation)?;
    }
    to.write_all(b"\n")?;
    to.flush()
}

/// Reads a history; returns where it is from, too.
///
/// # Errors
/// See [`LinesError`].
pub fn read(from: impl BufRead) -> Result<(String, Vec<Observation>), LinesError> {
    let mut lines = from.lines().enumerate();
    let parse_header = |text: String| serde_json::from_str::<FirstLine>(&text).ok();
    let header = lines.next().map(|(_, line)| line).transpose()?;
    let header = header
        .and_then(parse_header)
        .filter(|header| header.schema == SCHEMA && header.version == VERSION)
        .ok_or(LinesError::FirstLine)?;
    let mut history = Vec::new();
    for (number, line) in lines {
        let line = line?;
        if !line.trim().is_empty() {
            let parsed = serde_json::from_str(&line);
            history.push(parsed.map_err(|source| LinesError::Line {
                line: number + 1,
                source,
            })?);
        }
    }
    Ok((header.origin, history))
}

/// Reads the history in a file.
///
/// # Errors
/// See [`LinesError`].
pub fn load(path: &Path) -> Result<(String, Vec<Observation>), LinesError> {
    read(BufReader::new(File::open(path)?))
}

/// Writes the history to a file of that name in the directory `CORELITH_HISTORY_DIR`, or in `otherwise` if there is one and the variable
/// names none. Returns the file's path.
///
/// # Errors
/// Those of the file system.
pub fn save(
    origin: &str,
    name: &str,
    history: &[Observation],
    otherwise: Option<&Path>,
) -> io::Result<Option<PathBuf>> {
    let named = std::env::var_os(DIRECTORY).map(PathBuf::from);
    let Some(directory) = named.or_else(|| otherwise.map(Path::to_owned)) else {
        return Ok(None);
    };
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{name}.jsonl"));
    write(origin, history, File::create(&path)?)?;
    Ok(Some(path))
}

#[cfg(test)]
mod tests;
