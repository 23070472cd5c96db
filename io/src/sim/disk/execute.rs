//! What an operation does when it completes, or fails.

use super::inode::{Inode, PAGE, SECTOR};
use super::names::{Id, NameTarget};
use super::race::Sampled;
use super::{Disk, FileHandle, IoVerdict, Op, OpInFlight, OpOutput};
use crate::buf::Buf;
use crate::file::OpenOptions;
use crate::fs::DirEntry;
use crate::sim::world::Rng;
use std::io;
use std::path::Path;
use std::rc::Rc;

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

impl Disk {
    pub(super) fn execute(
        &mut self,
        in_flight: &mut OpInFlight,
        rng: &Rng,
    ) -> io::Result<OpOutput> {
        match in_flight.verdict {
            IoVerdict::Fail => {
                self.fail(in_flight, rng);
                return Err(io::Error::from_raw_os_error(EIO));
            }
            IoVerdict::NoSpace => {
                // What a sync could not bring to the device is as lost as with any other failure.
                if let (Op::Sync { handle }, Some(set)) = (&in_flight.op, in_flight.sync.take()) {
                    self.inode(*handle).fail_sync(set);
                }
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            _ => {}
        }
        let latest_change = in_flight.latest_change;
        match &mut in_flight.op {
            Op::Read {
                handle,
                offset,
                len,
            } => {
                let (verdict, sampled) = (in_flight.verdict, &in_flight.sampled);
                let buf = self.read(verdict, sampled, *handle, *offset, *len, rng);
                Ok(OpOutput::Data(buf))
            }
            Op::Write {
                handle,
                offset,
                data,
                durable,
            } => {
                let data = std::mem::replace(data, Buf::alloc(0));
                self.write_judged(in_flight.verdict, *handle, *offset, data, *durable, rng)
            }
            Op::Sync { handle } => {
                if let Some(set) = in_flight.sync.take() {
                    self.inode(*handle).finish_sync(set);
                }
                Ok(OpOutput::Unit)
            }
            Op::SetLen { handle, len } => {
                self.change_inode(handle.file, |inode| inode.set_len(*len));
                Ok(OpOutput::Unit)
            }
            Op::Allocate { handle, len } => {
                self.allocate(*handle, *len)?;
                Ok(OpOutput::Unit)
            }
            Op::Open { path, options } => self.open_file(path, *options).map(OpOutput::Handle),
            Op::List { path } => self.list(path).map(OpOutput::Entries),
            Op::SyncDir { path } => {
                let dir = self.names.lookup_dir(path)?;
                self.names.sync(dir, latest_change);
                self.sweep(false);
                Ok(OpOutput::Unit)
            }
            Op::Lock { path } => self.lock(path),
            change => self.change_names(change).map(|()| OpOutput::Unit),
        }
    }

    fn read(
        &mut self,
        verdict: IoVerdict,
        sampled: &Sampled,
        handle: FileHandle,
        offset: u64,
        len: usize,
        rng: &Rng,
    ) -> Buf {
        // As far as the file has bytes, they are read; the rest is cut off.
        let mut buf = Buf::to_overwrite(len);
        let (file, offset) = self.place_of(verdict, handle, offset, len, rng);
        let count = if file == handle.file && verdict != IoVerdict::Misdirect {
            self.reach_early(file, offset, len, rng);
            let count = self.inode_of(file).read(offset, &mut buf);
            sampled.restore(offset, &mut buf);
            count
        } else {
            self.inode_of(file).read(offset, &mut buf)
        };
        buf.truncate(match verdict {
            IoVerdict::Short => part_of(count, rng),
            _ => count,
        });
        buf
    }

    /// Writes as much of `data`, and to the place, that the verdict says.
    fn write_judged(
        &mut self,
        verdict: IoVerdict,
        handle: FileHandle,
        offset: u64,
        data: Buf,
        durable: bool,
        rng: &Rng,
    ) -> io::Result<OpOutput> {
        match verdict {
            IoVerdict::Drop => {
                // The file system thinks that it is written; the device kept what it had.
                let mut kept = Buf::zeroed(data.len());
                self.inode(handle).read(offset, &mut kept);
                self.write(handle.file, offset, &kept, durable, rng)?;
            }
            IoVerdict::Short => {
                let count = part_of(data.len(), rng);
                let blocks = count.next_multiple_of(PAGE).min(data.len());
                let blocks = data.get(..blocks).unwrap_or_default();
                self.write(handle.file, offset, blocks, durable, rng)?;
                return Ok(OpOutput::Written(count, Some(data)));
            }
            verdict => {
                let (file, offset) = self.place_of(verdict, handle, offset, data.len(), rng);
                self.write(file, offset, &data, durable, rng)?;
            }
        }
        Ok(OpOutput::Written(data.len(), None))
    }

    fn change_names(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::CreateDirs { path } => self.names.create_dir_all(path),
            Op::Rename { from, to } => {
                let replaced = self.names.lookup_file(to).ok();
                self.names.rename(from, to)?;
                let file = self.names.lookup_file(to)?;
                if let Some(replaced) = replaced.filter(|replaced| *replaced != file) {
                    self.lost_its_name(replaced);
                }
                if let Some(inode) = self.inodes.get_mut(&file) {
                    inode.path = to.display().to_string();
                }
                Ok(())
            }
            Op::RemoveFile { path } => {
                let file = self.names.lookup_file(path)?;
                self.names.remove_file(path)?;
                self.lost_its_name(file);
                Ok(())
            }
            Op::RemoveDir { path } => {
                self.names.remove_dir_all(path)?;
                self.sweep(true);
                Ok(())
            }
            _ => unreachable!("not a change of names"),
        }
    }

    /// What a failed operation leaves behind.
    fn fail(&mut self, in_flight: &mut OpInFlight, rng: &Rng) {
        match &mut in_flight.op {
            Op::Sync { handle } => {
                if let Some(set) = in_flight.sync.take() {
                    self.inode(*handle).fail_sync(set);
                }
            }
            // A failed write may have reached the medium, the page cache or nothing.
            Op::Write {
                handle,
                offset,
                data,
                ..
            } => match rng.below(3) {
                0 => {}
                fate => {
                    let _ = self.write(handle.file, *offset, data, fate == 1, rng);
                }
            },
            // A failed sync is reported once: what it was to make durable counts as clean afterwards.
            Op::SyncDir { path } => {
                if let Ok(dir) = self.names.lookup_dir(path) {
                    self.names.fail_sync(dir, in_flight.latest_change, rng);
                }
            }
            _ => {}
        }
    }

    fn inode(&mut self, handle: FileHandle) -> &mut Inode {
        self.inode_of(handle.file)
    }

    fn inode_of(&mut self, file: Id) -> &mut Inode {
        self.inodes.entry(file).or_default()
    }

    pub(super) fn change_inode(&mut self, file: Id, change: impl FnOnce(&mut Inode)) {
        let inode = self.inodes.entry(file).or_default();
        let before = inode.allocated_bytes();
        assert!(
            before <= self.used_bytes,
            "a file takes more than all files together"
        );
        change(inode);
        self.used_bytes = self.used_bytes + inode.allocated_bytes() - before;
    }

    fn write(
        &mut self,
        file: Id,
        offset: u64,
        data: &[u8],
        durable: bool,
        rng: &Rng,
    ) -> io::Result<()> {
        let growth = self.inode_of(file).growth(offset, data.len());
        self.check_room(growth)?;
        self.sample_before(file, offset, data.len(), rng);
        let zeros = Rc::clone(&self.zeros);
        self.change_inode(file, |inode| inode.write(offset, data, durable, &zeros));
        Ok(())
    }

    fn allocate(&mut self, handle: FileHandle, len: u64) -> io::Result<()> {
        let bytes = usize::try_from(len).map_err(|_| io::Error::from_raw_os_error(ENOSPC))?;
        let growth = self.inode(handle).growth(0, bytes);
        self.check_room(growth)?;
        let zeros = Rc::clone(&self.zeros);
        self.change_inode(handle.file, |inode| inode.allocate(len, &zeros));
        Ok(())
    }

    fn check_room(&mut self, growth: u64) -> io::Result<()> {
        let seems_full = self.used_bytes + growth > self.capacity_bytes;
        if seems_full && growth > self.free_bytes() {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        Ok(())
    }

    /// The file and offset where an operation goes: its own place, or one that it is misdirected to.
    fn place_of(
        &mut self,
        verdict: IoVerdict,
        handle: FileHandle,
        offset: u64,
        len: usize,
        rng: &Rng,
    ) -> (Id, u64) {
        if verdict == IoVerdict::MisdirectAcross
            && let Some(other) = self.another_file(handle.file, offset, len, rng)
        {
            return (other, offset);
        }
        match verdict {
            IoVerdict::Misdirect | IoVerdict::MisdirectAcross => {
                (handle.file, self.elsewhere(handle, offset, rng))
            }
            _ => (handle.file, offset),
        }
    }

    /// Another block of the same file.
    fn elsewhere(&mut self, handle: FileHandle, offset: u64, rng: &Rng) -> u64 {
        let blocks = (self.inode(handle).len() / PAGE as u64).max(2);
        let block = offset / PAGE as u64;
        let other = (block + 1 + rng.below(blocks - 1)) % blocks;
        other * PAGE as u64 + offset % PAGE as u64
    }

    /// Another file that has such a place.
    fn another_file(&self, file: Id, offset: u64, len: usize, rng: &Rng) -> Option<Id> {
        let end = offset + len as u64;
        let has_place =
            |id: &Id| *id != file && self.inodes.get(id).is_some_and(|i| i.len() >= end);
        let others: Vec<Id> = self.names.files().into_values().filter(has_place).collect();
        let at = rng.below((others.len() as u64).max(1));
        others.into_iter().nth(usize::try_from(at).unwrap_or(0))
    }

    fn open_file(&mut self, path: &Path, options: OpenOptions) -> io::Result<FileHandle> {
        let file = if options.create_new {
            if self.used_bytes >= self.capacity_bytes && self.free_bytes() == 0 {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            let file = self.names.create_file(path)?;
            self.inodes
                .insert(file, Inode::new(path.display().to_string()));
            file
        } else {
            self.names.lookup_file(path)?
        };
        *self.open.entry(file).or_default() += 1;
        Ok(FileHandle {
            file,
            epoch: self.epoch,
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = self.names.lookup_dir(path)?;
        let entry = |(name, target)| match target {
            NameTarget::Dir(_) => DirEntry {
                name,
                is_dir: true,
                len: 0,
            },
            NameTarget::File(id) => {
                let len = self.inodes.get(&id).map_or(0, Inode::len);
                DirEntry {
                    name,
                    is_dir: false,
                    len,
                }
            }
        };
        Ok(self.names.list(dir).into_iter().map(entry).collect())
    }

    fn lock(&mut self, path: &Path) -> io::Result<OpOutput> {
        self.names.lookup_dir(path)?;
        if !self.locks.insert(path.to_owned()) {
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        let file = path.join("LOCK");
        if self.names.lookup(&file).is_err() {
            let id = self.names.create_file(&file)?;
            self.inodes
                .insert(id, Inode::new(file.display().to_string()));
        }
        Ok(OpOutput::Unit)
    }
}

/// How many of `len` bytes a short operation does: whole sectors, and at least one.
fn part_of(len: usize, rng: &Rng) -> usize {
    let sectors = len.div_ceil(SECTOR) as u64;
    let part = 1 + rng.below(sectors.max(2) - 1);
    (usize::try_from(part).unwrap_or(1) * SECTOR).min(len)
}
