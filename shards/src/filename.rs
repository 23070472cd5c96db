//! Every file name of a shard's directory.

use crate::ids::{SegmentId, TableId, ValueSegmentId};
use std::fmt;
use std::path::{Path, PathBuf};

/// A file of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// Lock against other processes.
    Lock,
    /// Present while the shard is being created; nothing in the directory counts until it is gone.
    Creating,
    /// The manifest.
    Manifest,
    /// The next manifest, until it is renamed to [`FileName::Manifest`].
    ManifestTemporary,
    /// Space held back for when the device is full.
    Reserve,
    /// An sstable; it counts only if the manifest names it.
    Table(TableId),
    /// A segment of the log.
    Segment(SegmentId),
    /// A segment of the log that is being pre-written, until it is renamed to
    /// [`FileName::Segment`].
    SegmentTemporary(SegmentId),
    /// A segment of the value log and its generation.
    ValueSegment(ValueSegmentId, u32),
    /// A segment of the value log that is being prepared, until it is renamed to generation 0 of
    /// [`FileName::ValueSegment`].
    ValueSegmentTemporary(ValueSegmentId),
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock => f.write_str("LOCK"),
            Self::Creating => f.write_str("CREATING"),
            Self::Manifest => f.write_str("MANIFEST"),
            Self::ManifestTemporary => f.write_str("MANIFEST.tmp"),
            Self::Reserve => f.write_str("RESERVE"),
            Self::Table(id) => write!(f, "{:012}.sst", id.0),
            Self::Segment(id) => write!(f, "{:012}.log", id.0),
            Self::SegmentTemporary(id) => write!(f, "{:012}.log.tmp", id.0),
            Self::ValueSegment(id, generation) => write!(f, "{:012}.{generation:03}.vlog", id.0),
            Self::ValueSegmentTemporary(id) => write!(f, "{:012}.vlog.tmp", id.0),
        }
    }
}

impl FileName {
    /// Reads a file name; `None` if it is none of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let fixed = match name {
            "LOCK" => Some(Self::Lock),
            "CREATING" => Some(Self::Creating),
            "MANIFEST" => Some(Self::Manifest),
            "RESERVE" => Some(Self::Reserve),
            "MANIFEST.tmp" => Some(Self::ManifestTemporary),
            _ => None,
        };
        let parsed = fixed.or_else(|| {
            let (number, extension) = name.split_once('.')?;
            let number = number.parse().ok()?;
            match extension {
                "sst" => Some(Self::Table(TableId(number))),
                "log" => Some(Self::Segment(SegmentId(number))),
                "log.tmp" => Some(Self::SegmentTemporary(SegmentId(number))),
                "vlog.tmp" => Some(Self::ValueSegmentTemporary(ValueSegmentId(number))),
                _ => {
                    let generation = extension.strip_suffix(".vlog")?.parse().ok()?;
                    Some(Self::ValueSegment(ValueSegmentId(number), generation))
                }
            }
        })?;
        // "1.sst" would be a second name for table 1.
        (parsed.to_string() == name).then_some(parsed)
    }

    /// The path of this file in the directory `dir`.
    pub fn path(self, dir: &Path) -> PathBuf {
        let name = self.to_string();
        debug_assert_eq!(Self::parse(&name), Some(self), "a name says what it names");
        dir.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_refused() {
        for name in [
            FileName::Lock,
            FileName::Creating,
            FileName::Manifest,
            FileName::ManifestTemporary,
            FileName::Table(TableId(0)),
            FileName::Table(TableId(7)),
            FileName::Table(TableId(u64::MAX)),
            FileName::Segment(SegmentId(12)),
            FileName::SegmentTemporary(SegmentId(12)),
            FileName::ValueSegment(ValueSegmentId(0), 0),
            FileName::ValueSegment(ValueSegmentId(u64::MAX), u32::MAX),
            FileName::ValueSegmentTemporary(ValueSegmentId(12)),
        ] {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        for name in [
            "",
            "1.sst",
            "x.sst",
            "000000000001.sst.tmp",
            "+00000000001.sst",
            "manifest",
            "000000000001.vlog",
            "000000000001.0.vlog",
            "000000000001.0001.vlog",
            "000000000001.+01.vlog",
            "000000000001.000.vlog.tmp",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }
}
