//! The disk of a simulated node.
//!
//! An operation is submitted, is in flight for a while, and then takes effect and completes. Reads and
//! writes alone take effect sector by sector while they are in flight (`race`). A power loss lets each
//! operation in flight happen or not and then leaves a random part of what is not durable; the end of a
//! process only does the former.
//!
//! Invariants:
//! * Only a process that runs has files open, locks and operations in flight.
//! * `used_bytes` is the sum of what the files take.
//! * After a power loss, what reads see is what is durable.

pub(super) mod control;
mod execute;
pub(super) mod faults;
mod inode;
mod names;
mod race;

use crate::fs::Space;
pub(super) use faults::{Faults, IoKind, IoVerdict};
use inode::{Inode, Loss, PAGE, SyncSet};
use names::{Id, Names};

use super::config::SimConfig;
use super::world::Rng;
use crate::buf::Buf;
use crate::file::OpenOptions;
use crate::fs::DirEntry;
use crate::sync::oneshot;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// An open file. It dies with the process that opened it (`epoch`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHandle {
    file: Id,
    epoch: u64,
}

/// An operation as submitted.
pub(super) enum Op {
    Read {
        handle: FileHandle,
        offset: u64,
        len: usize,
    },
    Write {
        handle: FileHandle,
        offset: u64,
        data: Buf,
        durable: bool,
    },
    Sync {
        handle: FileHandle,
    },
    SetLen {
        handle: FileHandle,
        len: u64,
    },
    Allocate {
        handle: FileHandle,
        len: u64,
    },
    Open {
        path: PathBuf,
        options: OpenOptions,
    },
    CreateDirs {
        path: PathBuf,
    },
    List {
        path: PathBuf,
    },
    SyncDir {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    RemoveFile {
        path: PathBuf,
    },
    RemoveDir {
        path: PathBuf,
    },
    Lock {
        path: PathBuf,
    },
}

impl Op {
    /// The file or the path that it is about.
    fn target(&self) -> Result<FileHandle, &Path> {
        match self {
            Self::Read { handle, .. }
            | Self::Write { handle, .. }
            | Self::Sync { handle }
            | Self::SetLen { handle, .. }
            | Self::Allocate { handle, .. } => Ok(*handle),
            Self::Open { path, .. }
            | Self::CreateDirs { path }
            | Self::List { path }
            | Self::SyncDir { path }
            | Self::Rename { from: path, .. }
            | Self::RemoveFile { path }
            | Self::RemoveDir { path }
            | Self::Lock { path } => Err(path),
        }
    }
}

/// What an operation returns.
pub(super) enum OpOutput {
    Unit,
    Data(Buf),
    /// How much of a write was done, and its buffer if that is not all.
    Written(usize, Option<Buf>),
    Handle(FileHandle),
    Entries(Vec<DirEntry>),
}

/// What an operation in flight will do.
struct OpInFlight {
    op: Op,
    sync: Option<SyncSet>,
    latest_change: u64,
    verdict: IoVerdict,
    /// Of a read: see `race`.
    sampled: race::Sampled,
    done: oneshot::Sender<io::Result<OpOutput>>,
}

pub(crate) struct Disk {
    names: Names,
    inodes: BTreeMap<Id, Inode>,
    open: BTreeMap<Id, u32>,
    locks: BTreeSet<PathBuf>,
    in_flight: BTreeMap<u64, OpInFlight>,
    /// Operations in flight that would have completed if nothing held them.
    pub(super) held: Vec<(u64, IoKind)>,
    submitted: u64,
    epoch: u64,
    used_bytes: u64,
    /// Files that may be garbage since the last sweep.
    removals: usize,
    zeros: Rc<[u8]>,
    pub(super) capacity_bytes: u64,
    pub(super) faults: Faults,
}

/// A copy of everything on a disk, taken with [`super::SimDisk::image`].
#[derive(Clone)]
pub struct DiskImage {
    names: Names,
    inodes: BTreeMap<Id, Inode>,
}

impl Disk {
    pub(super) fn new(config: &SimConfig) -> Self {
        Self {
            names: Names::new(),
            inodes: BTreeMap::new(),
            open: BTreeMap::new(),
            locks: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            held: Vec::new(),
            submitted: 0,
            epoch: 0,
            used_bytes: 0,
            removals: 0,
            zeros: Rc::from([0; PAGE].as_slice()),
            capacity_bytes: config.disk_capacity_bytes,
            faults: Faults::new(config.disk_short_chance),
        }
    }

    /// Number of operations submitted since the disk was made.
    pub(super) fn submitted(&self) -> u64 {
        self.submitted
    }

    pub(super) fn space(&mut self) -> Space {
        Space {
            free: self.free_bytes(),
            total: self.capacity_bytes,
            device: 0,
        }
    }

    pub(super) fn free_bytes(&mut self) -> u64 {
        self.capacity_bytes.saturating_sub(self.used_bytes())
    }

    pub(super) fn used_bytes(&mut self) -> u64 {
        self.check_used();
        self.sweep(self.removals > 0);
        self.used_bytes
    }

    fn check_used(&self) {
        debug_assert_eq!(
            self.used_bytes,
            self.inodes
                .values()
                .map(Inode::allocated_bytes)
                .sum::<u64>(),
            "the space in use is the sum over all files"
        );
    }

    /// Whether no process uses it.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.locks.is_empty() && self.in_flight.is_empty()
    }

    /// The path that an operation is about, for errors and faults.
    pub(super) fn subject(&self, op: &Op) -> String {
        match op.target() {
            Ok(handle) => self.path(handle),
            Err(path) => path.display().to_string(),
        }
    }

    fn has_open(&self, handle: FileHandle) -> bool {
        handle.epoch == self.epoch && self.open.contains_key(&handle.file)
    }

    fn path(&self, handle: FileHandle) -> String {
        self.inodes
            .get(&handle.file)
            .map_or_else(String::new, |inode| inode.path.clone())
    }

    pub(super) fn file_len(&self, handle: FileHandle) -> u64 {
        self.inodes.get(&handle.file).map_or(0, Inode::len)
    }

    pub(super) fn close(&mut self, handle: FileHandle) {
        if handle.epoch != self.epoch {
            return;
        }
        assert!(self.has_open(handle), "a file is closed once");
        if let Some(count) = self.open.get_mut(&handle.file) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&handle.file);
                let nameless = self
                    .inodes
                    .get(&handle.file)
                    .is_some_and(|inode| inode.nameless);
                self.removals += usize::from(nameless);
            }
        }
    }

    pub(super) fn unlock(&mut self, path: &Path, epoch: u64) {
        if epoch == self.epoch {
            let was_locked = self.locks.remove(path);
            assert!(was_locked, "a lock is given up once");
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes an operation; the returned number completes it.
    pub(super) fn submit(
        &mut self,
        op: Op,
        verdict: IoVerdict,
        done: oneshot::Sender<io::Result<OpOutput>>,
    ) -> u64 {
        if let Ok(handle) = op.target() {
            assert!(self.has_open(handle), "operations are on open files");
        }
        self.submitted += 1;
        let sync = match &op {
            Op::Sync { handle } => self.inodes.get(&handle.file).map(Inode::begin_sync),
            _ => None,
        };
        let latest_change = self.names.latest_change();
        let in_flight = OpInFlight {
            op,
            sync,
            latest_change,
            verdict,
            sampled: race::Sampled::default(),
            done,
        };
        self.in_flight.insert(self.submitted, in_flight);
        self.submitted
    }

    /// Lets an operation take effect and completes it; nothing if a crash came first.
    pub(super) fn complete(&mut self, number: u64, rng: &Rng) {
        if let Some(mut in_flight) = self.in_flight.remove(&number) {
            let result = self.execute(&mut in_flight, rng);
            let _ = in_flight.done.send(result);
        }
    }

    fn lost_its_name(&mut self, file: Id) {
        if let Some(inode) = self.inodes.get_mut(&file) {
            inode.nameless = true;
            self.removals += 1;
        }
        self.sweep(false);
    }

    /// Frees files that have no name and are not open. It walks over all files, so it waits until many of
    /// them may be garbage.
    fn sweep(&mut self, now: bool) {
        if self.removals < 64 + self.inodes.len() / 4 && !now {
            return;
        }
        self.removals = 0;
        let (_, files) = self.names.reachable();
        self.inodes
            .retain(|id, _| files.contains(id) || self.open.contains_key(id));
        self.used_bytes = self.inodes.values().map(Inode::allocated_bytes).sum();
    }

    /// Power is cut: operations in flight happen or not, then most of what is volatile is gone.
    pub(super) fn power_loss(&mut self, rng: &Rng) {
        self.end_process(rng);
        let loss = match rng.below(8) {
            0 => Loss::All,
            1 => Loss::Nothing,
            _ => Loss::Mixed,
        };
        for inode in self.inodes.values_mut() {
            inode.power_loss(loss, rng);
        }
        self.names.power_loss(loss, rng);
        self.sweep(true);
        assert!(
            self.inodes.values().all(Inode::is_durable),
            "reads after a power loss see what is durable"
        );
    }

    /// The process ends: operations in flight happen or not; what completed stays in the kernel.
    pub(super) fn end_process(&mut self, rng: &Rng) {
        self.held.clear();
        for (_, mut in_flight) in std::mem::take(&mut self.in_flight) {
            // A write in flight may be torn; without a sync behind it, a power loss sees to that.
            if let Op::Write { durable, .. } = &mut in_flight.op {
                *durable = false;
            }
            if rng.below(2) == 0 {
                let _ = self.execute(&mut in_flight, rng);
            }
        }
        self.check_used();
        self.open.clear();
        self.locks.clear();
        self.epoch += 1;
        self.sweep(true);
    }

    // What tests do to a disk from outside.

    pub(super) fn files(&self) -> BTreeMap<String, u64> {
        let len = |id| self.inodes.get(&id).map_or(0, Inode::len);
        self.names
            .files()
            .into_iter()
            .map(|(path, id)| (path, len(id)))
            .collect()
    }

    pub(super) fn read_file(&self, path: &Path) -> Option<Vec<u8>> {
        let inode = self.inodes.get(&self.names.lookup_file(path).ok()?)?;
        let mut bytes = vec![0; usize::try_from(inode.len()).unwrap_or(0)];
        inode.read(0, &mut bytes);
        Some(bytes)
    }

    pub(super) fn write_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.names
            .create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        let file = match self.names.lookup_file(path) {
            Ok(file) => file,
            Err(_) => self.names.create_file(path)?,
        };
        let mut inode = Inode::new(path.display().to_string());
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(PAGE), 0);
        inode.write(0, &padded, true, &self.zeros);
        inode.set_len(bytes.len() as u64);
        inode.sync_all();
        self.inodes.insert(file, inode);
        self.names.sync_all();
        self.sweep(true);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.names.remove_file(path)?;
        self.names.sync_all();
        self.sweep(true);
        Ok(())
    }

    pub(super) fn decay(&mut self, path: &Path, offset: u64, change: impl Fn(u8) -> u8) -> bool {
        let found = self.names.lookup_file(path).ok();
        match found.filter(|id| self.inodes.contains_key(id)) {
            Some(id) => {
                self.change_inode(id, |inode| inode.decay(offset, change));
                true
            }
            None => false,
        }
    }

    pub(super) fn image(&self) -> DiskImage {
        let mut image = DiskImage {
            names: self.names.clone(),
            inodes: self.inodes.clone(),
        };
        image.names.sync_all();
        image.inodes.values_mut().for_each(Inode::sync_all);
        image
    }

    pub(super) fn restore(&mut self, image: &DiskImage) {
        assert!(
            self.is_idle(),
            "a disk image was put back under a running process"
        );
        let image = image.clone();
        assert!(
            image.inodes.values().all(Inode::is_durable),
            "an image holds what is durable"
        );
        (self.names, self.inodes) = (image.names, image.inodes);
        self.sweep(true);
    }
}
