//! Files that are written piece by piece.

use super::failure::Failure;
use super::manifest::sync_directory;
use bytes::Bytes;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writes a piece, without holding others up.
pub(super) async fn write(file: &Arc<File>, piece: Bytes) -> std::io::Result<()> {
    let file = file.clone();
    tokio::task::spawn_blocking(move || (&*file).write_all(&piece)).await?
}

/// A file that gets its name when it is complete: until then it has another one in the same directory, and what had the
/// name before stays as it is. One that is dropped before is removed. What is no regular file, such as a pipe or
/// a device, is written to at once.
pub(super) struct FileSink {
    path: PathBuf,
    file: Arc<File>,
    /// Its other name, and the file that had the name before.
    temporary: Option<(PathBuf, Option<Metadata>)>,
}

impl FileSink {
    /// Begins to write the file `path`.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::file("write", path, error);
        // A link stays one: what it points to is written.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let before = std::fs::metadata(&target).ok();
        if before.as_ref().is_some_and(|found| !found.is_file()) {
            let file = File::options().write(true).open(&target).map_err(failed)?;
            return Ok(Self {
                path: target,
                file: Arc::new(file),
                temporary: None,
            });
        }
        let name = target
            .file_name()
            .ok_or_else(|| Failure::unusable(path, "it is not a name of a file"))?;
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.corelith-get", std::process::id()));
        let temporary = target.with_file_name(temporary);
        let file = File::create(&temporary).map_err(failed)?;
        Ok(Self {
            path: target,
            file: Arc::new(file),
            temporary: Some((temporary, before)),
        })
    }

    /// Appends a piece.
    pub(super) async fn write(&self, piece: Bytes) -> Result<(), Failure> {
        let written = write(&self.file, piece).await;
        written.map_err(|error| Failure::file("write", &self.path, error))
    }

    /// Gives the file its name. It is durable then.
    pub(super) fn complete(mut self) -> Result<(), Failure> {
        let Some((temporary, before)) = self.temporary.take() else {
            return Ok(());
        };
        let name = || {
            if let Some(before) = before {
                self.file.set_permissions(before.permissions())?;
            }
            self.file.sync_all()?;
            std::fs::rename(&temporary, &self.path)?;
            match self.path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
                _ => sync_directory(Path::new(".")),
            }
        };
        name().map_err(|error| {
            // What could not be named is of no use.
            let _ = std::fs::remove_file(&temporary);
            Failure::file("write", &self.path, error)
        })
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.temporary {
            // One that stays is in nobody's way.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[tokio::test]
    async fn a_file_has_its_name_once_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, b"before").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("out", &link).unwrap();
        let output = FileSink::create(&link).unwrap();
        output.write(Bytes::from_static(b"af")).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        drop(output);
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        assert_eq!(names(dir.path()).len(), 2, "{:?}", names(dir.path()));

        let output = FileSink::create(&link).unwrap();
        output.write(Bytes::from_static(b"af")).await.unwrap();
        output.write(Bytes::from_static(b"ter")).await.unwrap();
        output.complete().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"after");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(link.is_symlink());
        assert_eq!(names(dir.path()).len(), 2, "{:?}", names(dir.path()));

        let output = FileSink::create(Path::new("/dev/null")).unwrap();
        output.write(Bytes::from_static(b"gone")).await.unwrap();
        output.complete().unwrap();
    }
}
