//! The manifest of an export: which file holds which key.
//!
//! The manifest is the file `.corelith-export` in the directory: lines of JSON, appended as keys are
//! exported. The first line says what is exported; the last one says that the export is complete. An
//! incomplete line was being written when the export ended and counts as absent.
//!
//! ```text
//! {"kind":"export","format":2,"cluster":"00c0ffee00c0ffee","prefix":"a/"}
//! {"kind":"key","key":"a/b","file":"b","version":7,"length":5,"crc32c":"e3069283"}
//! {"kind":"key","key":"a/d","file":"d","version":8,"length":5,"crc32c":"e3069283","sha256":true,
//!  "attributes":[["content-type","text/plain"]]}
//! {"kind":"failed","key":"a/c","error":"..."}
//! {"kind":"end","keys":1,"bytes":5,"failed":1}
//! ```
//! What was told of an uploaded value is there too: its attributes, and whether it had a SHA-256, which the import
//! computes anew. Format 1, which ended at values of 8 MiB, knew nothing of that; it is read, and continued.
//!
//! A key (or prefix) that is not UTF-8 is written as `key_base64` (`prefix_base64`). Keys are in rising
//! order, except those that failed at first and that a later run exported.
//!
//! A file is named after its key, with `%XX` for bytes that a name cannot hold; see [`file_names`].

#[cfg(test)]
mod tests;

use super::encoding::{escape, from_base64, text_or_base64};
use super::failure::Failure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

/// Name of the manifest in the export's directory.
pub(super) const FILE_NAME: &str = ".corelith-export";
const FORMAT: u32 = 2;
/// Longest line. A key of 4 KiB, in base64 and as a file name, and 8 KiB of attributes, escaped, take less.
const LINE_BYTES_MAX: u64 = 256 << 10;
/// Longest file name that every Linux file system takes.
const NAME_BYTES_MAX: usize = 255;
/// Longest path below the export's directory; the kernel takes 4096 bytes in all.
const PATH_BYTES_MAX: usize = 2048;

/// A key as text, or as base64 if it is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeyText {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
}

impl KeyText {
    fn of(key: &[u8]) -> Self {
        let (text, base64) = text_or_base64(key);
        Self {
            key: text.map(str::to_owned),
            key_base64: base64,
        }
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        match (&self.key, &self.key_base64) {
            (Some(text), None) => Some(text.clone().into_bytes()),
            (None, Some(base64)) => from_base64(base64),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    Export {
        format: u32,
        cluster: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        prefix: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        prefix_base64: Option<String>,
    },
    Key {
        #[serde(flatten)]
        key: KeyText,
        file: String,
        version: u64,
        length: u64,
        crc32c: String,
        #[serde(default, skip_serializing_if = "is_false")]
        sha256: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attributes: Vec<(String, String)>,
    },
    Failed {
        #[serde(flatten)]
        key: KeyText,
        error: String,
    },
    End {
        keys: u64,
        bytes: u64,
        failed: u64,
    },
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(what: &bool) -> bool {
    !what
}

/// A key that was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExportRecord {
    pub(super) key: Vec<u8>,
    /// Its file, relative to the export's directory.
    pub(super) file: String,
    pub(super) version: u64,
    pub(super) length: u64,
    pub(super) crc32c: u32,
    /// Whether it had a SHA-256.
    pub(super) sha256: bool,
    pub(super) attributes: Vec<(String, String)>,
}

/// The content of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Key(ExportRecord),
    Failed(Vec<u8>),
    End,
}

/// What an export exports: the keys of a cluster with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) cluster: u64,
    /// The prefix of all its keys; file names omit it.
    pub(super) prefix: Vec<u8>,
}

impl Subject {
    fn line(&self) -> Line {
        self.line_of(FORMAT)
    }

    fn line_of(&self, format: u32) -> Line {
        let (prefix, prefix_base64) = text_or_base64(&self.prefix);
        Line::Export {
            format,
            cluster: format!("{:016x}", self.cluster),
            prefix: prefix.map(str::to_owned),
            prefix_base64,
        }
    }
}

/// Reads a manifest line by line.
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    number: u64,
    /// Bytes of the complete lines so far.
    read_bytes: u64,
}

impl Lines {
    fn open(path: PathBuf) -> Result<Self, Failure> {
        let file = File::open(&path).map_err(|error| Failure::file("read", &path, error))?;
        Ok(Self {
            path,
            reader: BufReader::new(file),
            number: 0,
            read_bytes: 0,
        })
    }

    fn wrong(&self, what: &str) -> Failure {
        Failure::unusable(&self.path, format!("line {}: {what}", self.number))
    }

    /// The next complete line.
    fn next(&mut self) -> Result<Option<Line>, Failure> {
        let mut line = Vec::new();
        let limited = &mut self.reader.by_ref().take(LINE_BYTES_MAX);
        let read = limited.read_until(b'\n', &mut line);
        read.map_err(|error| Failure::file("read", &self.path, error))?;
        self.number += 1;
        if line.len() as u64 == LINE_BYTES_MAX {
            return Err(self.wrong("the line is too long"));
        }
        if line.pop() != Some(b'\n') {
            return Ok(None);
        }
        self.read_bytes += line.len() as u64 + 1;
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|error| self.wrong(&format!("not a line of a manifest: {error}")))
    }

    /// The first line.
    fn subject(&mut self) -> Result<Option<Line>, Failure> {
        match self.next()? {
            Some(
                line @ Line::Export {
                    format: 1..=FORMAT, ..
                },
            ) => Ok(Some(line)),
            Some(Line::Export { format, .. }) => Err(self.wrong(&format!(
                "the export has format {format}, but this release reads formats up to {FORMAT}: use a newer release"
            ))),
            Some(_) => Err(self.wrong("a manifest must start with a line of kind \"export\"")),
            None => Ok(None),
        }
    }

    /// The content of the next line after the first one.
    fn said(&mut self) -> Result<Option<Said>, Failure> {
        let Some(line) = self.next()? else {
            return Ok(None);
        };
        let said = match line {
            Line::Key {
                key,
                file,
                version,
                length,
                crc32c,
                sha256,
                attributes,
            } => key.bytes().and_then(|key| {
                let crc32c = u32::from_str_radix(&crc32c, 16).ok()?;
                stays_below(&file).then_some(Said::Key(ExportRecord {
                    key,
                    file,
                    version,
                    length,
                    crc32c,
                    sha256,
                    attributes,
                }))
            }),
            Line::Failed { key, .. } => key.bytes().map(Said::Failed),
            Line::End { .. } => Some(Said::End),
            Line::Export { .. } => None,
        };
        match said {
            Some(said) => Ok(Some(said)),
            None => Err(self.wrong("not a line of a manifest")),
        }
    }
}

/// Whether a relative path stays below its directory.
fn stays_below(file: &str) -> bool {
    let mut parts = Path::new(file).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// The content of a whole manifest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ManifestSummary {
    /// Keys with files.
    pub(super) keys: u64,
    /// Bytes of their values.
    pub(super) bytes: u64,
    /// Keys that could not be exported.
    pub(super) failed: BTreeSet<Vec<u8>>,
    /// The last key that was tried.
    pub(super) last: Option<Vec<u8>>,
    /// Lines of keys, exported or not.
    lines: u64,
    /// Whether all keys were tried.
    pub(super) is_ended: bool,
    /// Bytes of its complete lines.
    len: u64,
}

impl ManifestSummary {
    /// Reads the manifest in `dir`; `None` if there is none.
    pub(super) fn read(dir: &Path) -> Result<Option<(Self, bool)>, Failure> {
        Self::read_of(dir, None)
    }

    /// Reads the manifest in `dir`, and whether it is of `subject`.
    fn read_of(dir: &Path, subject: Option<&Subject>) -> Result<Option<(Self, bool)>, Failure> {
        let path = dir.join(FILE_NAME);
        if !path.exists() {
            return Ok(None);
        }
        let mut lines = Lines::open(path)?;
        let mut summary = Self::default();
        let Some(found) = lines.subject()? else {
            // The export ended before it wrote its first line.
            return Ok(Some((summary, true)));
        };
        let is_same = subject
            .is_none_or(|subject| (1..=FORMAT).any(|format| subject.line_of(format) == found));
        summary.len = lines.read_bytes;
        while let Some(said) = lines.said()? {
            summary.add(said);
            summary.len = lines.read_bytes;
        }
        Ok(Some((summary, is_same)))
    }

    fn add(&mut self, said: Said) {
        match said {
            Said::Key(record) => {
                self.keys += 1;
                self.bytes += record.length;
                self.failed.remove(&record.key);
                self.tried(record.key);
            }
            Said::Failed(key) => {
                self.failed.insert(key.clone());
                self.tried(key);
            }
            Said::End => self.is_ended = true,
        }
    }

    fn tried(&mut self, key: Vec<u8>) {
        self.lines += 1;
        if self.last.as_ref().is_none_or(|last| *last < key) {
            self.last = Some(key);
        }
    }
}

/// The exported keys of the manifest in `dir`, in the order of its lines.
pub(super) fn records(
    dir: &Path,
) -> Result<impl Iterator<Item = Result<ExportRecord, Failure>> + Send + use<>, Failure> {
    let mut lines = Lines::open(dir.join(FILE_NAME))?;
    lines.subject()?;
    Ok(std::iter::from_fn(move || {
        loop {
            match lines.said() {
                Ok(Some(Said::Key(record))) => return Some(Ok(record)),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(failure) => return Some(Err(failure)),
            }
        }
    }))
}

/// A manifest that is being written.
pub(super) struct Writer {
    path: PathBuf,
    file: File,
    /// Its content so far.
    pub(super) summary: ManifestSummary,
}

impl Writer {
    /// Starts an export into `dir`, which is created if needed, or continues an unfinished one.
    pub(super) fn open(dir: &Path, subject: &Subject) -> Result<Self, Failure> {
        let failed = |what| move |error| Failure::file(what, dir, error);
        std::fs::create_dir_all(dir).map_err(failed("create"))?;
        let summary = match ManifestSummary::read_of(dir, Some(subject))? {
            Some((_, false)) => {
                return Err(Failure::unusable(
                    dir,
                    "it holds an export of another cluster or prefix: choose a new or empty directory",
                ));
            }
            Some((summary, true)) if summary.is_ended && summary.failed.is_empty() => {
                return Err(Failure::unusable(
                    dir,
                    "it already holds a complete export: choose a new or empty directory",
                ));
            }
            Some((summary, true)) => summary,
            None => {
                let mut names = std::fs::read_dir(dir).map_err(failed("list"))?;
                if names.next().is_some() {
                    return Err(Failure::unusable(
                        dir,
                        "it is not empty and holds no export: choose a new or empty directory",
                    ));
                }
                ManifestSummary::default()
            }
        };
        let path = dir.join(FILE_NAME);
        let opened = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let opened = opened.and_then(|mut file| {
            file.set_len(summary.len)?;
            file.seek(SeekFrom::End(0)).map(|_| file)
        });
        let file = opened.map_err(|error| Failure::file("write", &path, error))?;
        let mut writer = Self {
            path,
            file,
            summary,
        };
        if writer.summary.len == 0 {
            writer.write(&subject.line())?;
        }
        Ok(writer)
    }

    /// Number of key lines so far; numbers the files of keys that cannot be file names.
    pub(super) fn lines(&self) -> u64 {
        self.summary.lines
    }

    /// Records a key that was exported.
    pub(super) fn exported(&mut self, record: ExportRecord) -> Result<(), Failure> {
        assert!(
            stays_below(&record.file),
            "an import would refuse {}",
            record.file
        );
        self.write(&Line::Key {
            key: KeyText::of(&record.key),
            file: record.file.clone(),
            version: record.version,
            length: record.length,
            crc32c: format!("{:08x}", record.crc32c),
            sha256: record.sha256,
            attributes: record.attributes.clone(),
        })?;
        self.summary.add(Said::Key(record));
        Ok(())
    }

    /// Records a key that could not be exported.
    pub(super) fn failed(&mut self, key: Vec<u8>, error: &Failure) -> Result<(), Failure> {
        self.write(&Line::Failed {
            key: KeyText::of(&key),
            error: error.to_string(),
        })?;
        self.summary.add(Said::Failed(key));
        Ok(())
    }

    /// Records that all keys were tried, and makes the manifest durable.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        self.write(&Line::End {
            keys: self.summary.keys,
            bytes: self.summary.bytes,
            failed: self.summary.failed.len() as u64,
        })?;
        let synced = self.file.sync_all();
        let synced = synced.and_then(|()| self.path.parent().map_or(Ok(()), sync_directory));
        synced.map_err(|error| Failure::file("write", &self.path, error))
    }

    fn write(&mut self, line: &Line) -> Result<(), Failure> {
        let mut text = serde_json::to_vec(line)
            .map_err(|error| Failure::local("write JSON", "", error.into()))?;
        text.push(b'\n');
        self.file
            .write_all(&text)
            .map_err(|error| Failure::file("write", &self.path, error))
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Candidate names for a key's file, best first, relative to the export's directory. No two keys share a
/// name, and no name leaves the directory. An early name may collide with another key: `a` and `a/b`
/// cannot both be files. The last name never does, since `number` differs from key to key.
pub(super) fn file_names(key: &[u8], number: u64) -> Vec<String> {
    let mut names = Vec::new();
    let parts: Vec<String> = key
        .split(|byte| *byte == b'/')
        .map(|part| match part {
            b"." => "%2E".to_owned(),
            b".." => "%2E%2E".to_owned(),
            part => escape(part, |c| !c.is_control()),
        })
        .collect();
    let fits = |part: &String| !part.is_empty() && part.len() <= NAME_BYTES_MAX;
    let path = parts.join("/");
    let is_manifest = parts.first().is_some_and(|first| first == FILE_NAME);
    if parts.iter().all(fits) && path.len() <= PATH_BYTES_MAX && !is_manifest {
        names.push(path);
    }
    let flat = escape(key, |c| !c.is_control() && c != '/' && c != '.');
    if fits(&flat) && !names.contains(&flat) {
        names.push(flat);
    }
    // No escaped key starts like this.
    names.push(format!("%key-{number}"));
    let are_below = names.iter().all(|name| stays_below(name));
    assert!(are_below, "a name leads out of the directory: {names:?}");
    names
}
