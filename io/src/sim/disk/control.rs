//! What a test sees of a simulated disk and does to it.

use super::faults::{IoKind, IoVerdict};
use super::{Disk, DiskImage};
use crate::sim::file;
use crate::sim::world::{Node, TraceStep, World, nanos};
use std::cell::RefMut;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// The disk of a simulated node, from outside. What it does takes no time.
pub struct SimDisk {
    pub(in super::super) world: Rc<World>,
    pub(in super::super) node: Rc<Node>,
}

impl SimDisk {
    fn disk(&self) -> RefMut<'_, Disk> {
        self.node.disk.borrow_mut()
    }

    fn note(&self) {
        self.world.note(TraceStep::DiskFault, self.node.id, [0; 3]);
    }

    /// All files with their lengths, in order of paths.
    pub fn files(&self) -> Vec<(String, u64)> {
        self.disk().files().into_iter().collect()
    }

    /// The content of a file as reads see it; `None` if there is no such file.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.disk().read_file(path.as_ref())
    }

    /// Puts a file there, durably, in the place of one of that name.
    ///
    /// # Panics
    /// If there cannot be such a file.
    pub fn write(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        if let Err(error) = self.disk().write_file(path.as_ref(), bytes) {
            panic!("{}: {error}", path.as_ref().display());
        }
    }

    /// Takes a file away, durably.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn remove(&self, path: impl AsRef<Path>) {
        if let Err(error) = self.disk().remove(path.as_ref()) {
            panic!("{}: {error}", path.as_ref().display());
        }
    }

    /// Flips a bit on the medium.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn flip_bit(&self, path: impl AsRef<Path>, offset: u64) {
        self.corrupt(path, offset, |byte| byte ^ 0x10);
    }

    /// Changes a byte on the medium.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn corrupt(&self, path: impl AsRef<Path>, offset: u64, change: impl Fn(u8) -> u8) {
        self.note();
        let path = path.as_ref();
        assert!(
            self.disk().decay(path, offset, change),
            "no file {}",
            path.display()
        );
    }

    /// A copy of the disk as reads see it now.
    pub fn image(&self) -> DiskImage {
        self.disk().image()
    }

    /// Puts a copy of the disk in the place of its present content. The node must be down.
    pub fn restore(&self, image: &DiskImage) {
        self.note();
        self.disk().restore(image);
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> u64 {
        self.disk().used_bytes()
    }

    /// Changes the size of the disk; writes that need more than that fail with `NoSpace`.
    pub fn set_capacity(&self, bytes: u64) {
        self.note();
        self.disk().capacity_bytes = bytes;
    }

    /// Lets one operation fail with an I/O error: of this kind, on a path that contains `path_part`,
    /// after `pass` such operations have passed.
    pub fn fail(&self, kind: IoKind, path_part: &str, pass: u64) {
        self.trap(kind, path_part, pass, IoVerdict::Fail);
    }

    fn trap(&self, kind: IoKind, path_part: &str, pass: u64, verdict: IoVerdict) {
        self.note();
        self.disk().faults.add(kind, path_part, pass, verdict);
    }

    /// Lets one operation fail because the device is full, as with [`SimDisk::fail`].
    pub fn fail_for_space(&self, kind: IoKind, path_part: &str, pass: u64) {
        self.trap(kind, path_part, pass, IoVerdict::NoSpace);
    }

    /// Lets one read or write go to another block of its file, as with [`SimDisk::fail`].
    pub fn misdirect(&self, kind: IoKind, path_part: &str, pass: u64) {
        self.trap(kind, path_part, pass, IoVerdict::Misdirect);
    }

    /// Lets one read or write go to the same place of another file, if there is one that has it, as with
    /// [`SimDisk::fail`].
    pub fn misdirect_across(&self, kind: IoKind, path_part: &str, pass: u64) {
        self.trap(kind, path_part, pass, IoVerdict::MisdirectAcross);
    }

    /// Acknowledges one write that has no effect, as with [`SimDisk::fail`].
    pub fn drop_write(&self, path_part: &str, pass: u64) {
        self.trap(IoKind::Write, path_part, pass, IoVerdict::Drop);
    }

    /// Cuts reads and writes short at random, as the kernel may: files go on with them.
    pub fn set_short_rate(&self, rate: f64) {
        self.note();
        self.disk().faults.short_rate = rate;
    }

    /// How many of the faults set for a certain operation have not met it yet.
    pub fn pending_faults(&self) -> usize {
        self.disk().faults.pending()
    }

    /// Lets operations of a kind fail at random.
    pub fn set_failing_rate(&self, kind: IoKind, rate: f64) {
        self.note();
        self.disk().faults.set_failing_rate(kind, rate);
    }

    /// Makes all operations `factor` times slower.
    pub fn set_slowness(&self, factor: u32) {
        self.note();
        self.disk().faults.slowness = factor;
    }

    /// Lets no operation complete for `duration`.
    pub fn stall(&self, duration: Duration) {
        self.note();
        let until = self.world.now().saturating_add(nanos(duration));
        self.disk().faults.stalled_until = until;
    }

    /// Lets no operation of these kinds complete, those in flight included, until [`SimDisk::release`]: none at all
    /// with [`IoKind::ALL`], reads and names only with [`IoKind::WRITES_AND_SYNCS`]. Adds to what is held already.
    pub fn hold(&self, kinds: &[IoKind]) {
        self.note();
        self.disk().faults.hold(kinds);
    }

    /// Lets all operations complete that [`SimDisk::hold`] holds.
    pub fn release(&self) {
        self.note();
        self.disk().faults.release();
        file::release(&self.world, &self.node);
    }

    /// Ends all failures, slowness and stalls that were asked for (not the damage they did).
    pub fn heal(&self) {
        self.note();
        self.disk().faults.clear();
        file::release(&self.world, &self.node);
    }
}
