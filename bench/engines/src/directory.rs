//! Directories that engines write, seen from outside.

use crate::error::{BenchError, Result};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Allocated bytes of all files below `dir`. Files that go meanwhile count as nothing.
pub(crate) fn allocated_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => allocated_bytes(&entry.path()),
            // The kernel counts blocks of 512 bytes, whatever the file system's are.
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Copies all files below `from` into the new directory `to`.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(BenchError::file(to))?;
    for entry in std::fs::read_dir(from).map_err(BenchError::file(from))? {
        let entry = entry.map_err(BenchError::file(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            copy(&source, &target)?;
        } else {
            std::fs::copy(&source, &target).map_err(BenchError::file(source))?;
        }
    }
    Ok(())
}

/// Makes everything durable and empties the page cache, which only root may; returns whether it was.
pub(crate) fn drop_page_cache() -> bool {
    let synced = std::process::Command::new("sync").status();
    synced.is_ok_and(|status| status.success())
        && std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_same_files() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("below")).unwrap();
        std::fs::write(from.join("below/file"), vec![7; 100_000]).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(std::fs::read(to.join("below/file")).unwrap(), [7; 100_000]);
        assert!(allocated_bytes(&to) >= 100_000);
        assert_eq!(allocated_bytes(&dir.path().join("nothing")), 0);
    }
}
