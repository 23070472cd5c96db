//! A disk that stalls: the I/O controller of control groups lets one node write and read one byte a second.

use super::undo::{Undo, quoted};
use crate::cluster::NODES;
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// The control groups of a run, one for each node.
#[derive(Debug)]
pub(crate) struct Disks {
    groups: Vec<PathBuf>,
    /// Major and minor number of the disk of the data.
    device: String,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Disks {
    /// Makes the control groups for nodes whose data is in `data`.
    ///
    /// # Errors
    /// There is no I/O controller, or this user may not use it.
    pub(crate) fn make(data: &Path, undo: &mut Undo) -> io::Result<Self> {
        let first = Path::new(MOUNT).join("blkio");
        let (parent, version) = if first.is_dir() {
            (first, Version::One)
        } else {
            let root = PathBuf::from(MOUNT);
            let offered = std::fs::read_to_string(root.join("cgroup.controllers"))?;
            if !offered.split_whitespace().any(|name| name == "io") {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "no I/O controller of control groups is here",
                ));
            }
            std::fs::write(root.join("cgroup.subtree_control"), "+io")?;
            (root, Version::Two)
        };
        let mut disks = Self {
            groups: Vec::new(),
            device: whole_disk(std::fs::metadata(data)?.dev())?,
            version,
        };
        for node in 1..=NODES {
            let group = parent.join(format!("corelith-bench-{}-{node}", std::process::id()));
            std::fs::create_dir(&group)?;
            let name = quoted(&group.display().to_string());
            // Its processes have just been killed, and may take a moment to end.
            undo.later(&format!(
                "i=0; until rmdir {name} || [ $i = 100 ]; do i=$((i + 1)); sleep 0.1; done"
            ))?;
            for (file, text) in disks.limits(false) {
                let file = quoted(&group.join(file).display().to_string());
                undo.later(&format!("echo {} > {file}", quoted(&text)))?;
            }
            disks.groups.push(group);
        }
        Ok(disks)
    }

    fn group(&self, index: usize) -> io::Result<&Path> {
        let group = self.groups.get(index).ok_or(ErrorKind::NotFound)?;
        Ok(group)
    }

    /// Puts a node's process into its group.
    ///
    /// # Errors
    /// It could not be put there.
    pub(crate) fn place(&self, index: usize, pid: u32) -> io::Result<()> {
        std::fs::write(self.group(index)?.join("cgroup.procs"), pid.to_string())
    }

    /// Stalls the disk for node `index`, counted from 0, or lets it go on.
    ///
    /// # Errors
    /// The limit could not be set.
    pub(crate) fn stall(&self, index: usize, stalls: bool) -> io::Result<()> {
        let group = self.group(index)?;
        for (file, text) in self.limits(stalls) {
            std::fs::write(group.join(file), text)?;
        }
        Ok(())
    }

    /// Files of a group, and what to write to them.
    fn limits(&self, stalls: bool) -> Vec<(&'static str, String)> {
        let device = &self.device;
        match self.version {
            Version::One => [
                "blkio.throttle.write_bps_device",
                "blkio.throttle.read_bps_device",
            ]
            .map(|file| (file, format!("{device} {}", u8::from(stalls))))
            .to_vec(),
            Version::Two => {
                let limit = if stalls { "1" } else { "max" };
                vec![("io.max", format!("{device} rbps={limit} wbps={limit}"))]
            }
        }
    }
}

/// `major:minor` of the disk that holds the file system `device`: limits apply to whole disks.
fn whole_disk(device: u64) -> io::Result<String> {
    // As in the C library's `major` and `minor`.
    let major = (device >> 8) & 0xfff | (device >> 32) & !0xfff;
    let minor = device & 0xff | (device >> 12) & !0xff;
    let here = format!("{major}:{minor}");
    let entry = std::fs::canonicalize(format!("/sys/dev/block/{here}"))
        .map_err(|error| Error::other(format!("the data is on no block device: {error}")))?;
    if entry.join("partition").exists()
        && let Some(disk) = entry.parent()
    {
        return Ok(std::fs::read_to_string(disk.join("dev"))?.trim().to_owned());
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_and_taken_away() {
        let text = |version, stalls| {
            let disks = Disks {
                groups: Vec::new(),
                device: "254:0".to_owned(),
                version,
            };
            let each = disks.limits(stalls).into_iter();
            each.map(|(file, text)| format!("{file}={text}"))
                .collect::<Vec<_>>()
                .join("; ")
        };
        assert_eq!(
            text(Version::One, true),
            "blkio.throttle.write_bps_device=254:0 1; blkio.throttle.read_bps_device=254:0 1"
        );
        assert_eq!(
            text(Version::One, false),
            "blkio.throttle.write_bps_device=254:0 0; blkio.throttle.read_bps_device=254:0 0"
        );
        assert_eq!(text(Version::Two, true), "io.max=254:0 rbps=1 wbps=1");
        assert_eq!(text(Version::Two, false), "io.max=254:0 rbps=max wbps=max");
    }
}
