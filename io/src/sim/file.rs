//! Files and directories of a simulated node's disk, as tasks use them.

use super::disk::{FileHandle, IoKind, Op, OpOutput};
use super::events::SimEvent;
use super::world::{Core, Node, TraceStep, World, fingerprint};
use crate::buf::{BLOCK_SIZE, Buf};
use crate::error::{Error, ErrorKind, Result};
use crate::file::OpenOptions;
use crate::fs::DirEntry;
use crate::fs::Space;
use crate::sync::oneshot;
use crate::transfer::{self, Pieces};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub(crate) struct File {
    core: Core,
    handle: FileHandle,
    options: OpenOptions,
    path: PathBuf,
}

impl File {
    pub(crate) async fn open(core: Core, options: OpenOptions, path: &Path) -> Result<Self> {
        let op = Op::Open {
            path: path.to_owned(),
            options,
        };
        let operation = if options.create_new { "create" } else { "open" };
        match perform(&core, op).await {
            Ok(OpOutput::Handle(handle)) => Ok(Self {
                core,
                handle,
                options,
                path: path.to_owned(),
            }),
            Ok(_) => unreachable!("opening gives a handle"),
            Err(error) => Err(Error::at_path(operation, path, error)),
        }
    }

    pub(crate) async fn read_at(&self, offset: u64, len: usize) -> Result<Buf> {
        let (start, skip) = transfer::align(offset);
        let mut first = self.read_piece(start, skip.saturating_add(len)).await?;
        let present = first.len();
        if present < skip + len && self.goes_on(start.saturating_add(present as u64))? {
            return transfer::read_rest(self, start, skip, len, &first).await;
        }
        if skip > 0 {
            let bytes = first.get(skip..).unwrap_or_default();
            let mut buf = Buf::to_overwrite(bytes.len());
            buf.copy_from_slice(bytes);
            first = buf;
        }
        Ok(first)
    }

    pub(crate) async fn write_at(&self, offset: u64, buf: Buf) -> Result<()> {
        self.check_writable("write")?;
        let aligned =
            offset.is_multiple_of(BLOCK_SIZE as u64) && buf.len().is_multiple_of(BLOCK_SIZE);
        if !aligned {
            let why = io::Error::new(io::ErrorKind::InvalidInput, "not whole blocks");
            return Err(Error::at_path("write", &self.path, why));
        }
        match self.write_buf(offset, buf).await? {
            (done, Some(buf)) => transfer::write_rest(self, offset, &buf, done).await,
            (_, None) => Ok(()),
        }
    }

    async fn write_buf(&self, offset: u64, data: Buf) -> Result<(usize, Option<Buf>)> {
        let op = Op::Write {
            handle: self.handle,
            offset,
            data,
            durable: self.options.dsync,
        };
        match perform(&self.core, op).await {
            Ok(OpOutput::Written(done, buf)) => Ok((done, buf)),
            Ok(_) => unreachable!("writing gives a count"),
            Err(error) => Err(self.failed("write", error)),
        }
    }

    pub(crate) async fn sync(&self) -> Result<()> {
        self.unit(
            "sync",
            Op::Sync {
                handle: self.handle,
            },
        )
        .await
    }

    pub(crate) async fn len(&self) -> Result<u64> {
        Ok(self.core.node.disk.borrow().file_len(self.handle))
    }

    pub(crate) async fn set_len(&self, len: u64) -> Result<()> {
        self.check_writable("set the length of")?;
        self.unit(
            "set the length of",
            Op::SetLen {
                handle: self.handle,
                len,
            },
        )
        .await
    }

    pub(crate) async fn allocate(&self, len: u64) -> Result<()> {
        self.check_writable("allocate")?;
        if len == 0 {
            return Ok(());
        }
        self.unit(
            "allocate",
            Op::Allocate {
                handle: self.handle,
                len,
            },
        )
        .await
    }

    fn check_writable(&self, operation: &'static str) -> Result<()> {
        if self.options.write || self.options.create_new {
            return Ok(());
        }
        let why = io::Error::other("opened for reading only");
        let path = self.path.display().to_string();
        Err(Error::with_kind(ErrorKind::Invalid, operation, path, why))
    }

    async fn unit(&self, operation: &'static str, op: Op) -> Result<()> {
        match perform(&self.core, op).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::at_path(operation, &self.path, error)),
        }
    }
}

impl Pieces for File {
    type Bytes = Buf;

    async fn read_piece(&self, offset: u64, len: usize) -> Result<Buf> {
        let op = Op::Read {
            handle: self.handle,
            offset,
            len,
        };
        match perform(&self.core, op).await {
            Ok(OpOutput::Data(data)) => Ok(data),
            Ok(_) => unreachable!("reading gives data"),
            Err(error) => Err(self.failed("read", error)),
        }
    }

    async fn write_piece(&self, offset: u64, bytes: &[u8]) -> Result<usize> {
        let mut buf = Buf::to_overwrite(bytes.len());
        buf.copy_from_slice(bytes);
        Ok(self.write_buf(offset, buf).await?.0)
    }

    fn goes_on(&self, offset: u64) -> Result<bool> {
        Ok(offset < self.core.node.disk.borrow().file_len(self.handle))
    }

    fn failed(&self, operation: &'static str, error: io::Error) -> Error {
        Error::at_path(operation, &self.path, error)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.core.node.disk.borrow_mut().close(self.handle);
    }
}

pub(crate) struct DirLock {
    core: Core,
    path: PathBuf,
    epoch: u64,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        self.core
            .node
            .disk
            .borrow_mut()
            .unlock(&self.path, self.epoch);
    }
}

pub(crate) async fn lock_dir(core: Core, path: &Path) -> Result<DirLock> {
    match perform(
        &core,
        Op::Lock {
            path: path.to_owned(),
        },
    )
    .await
    {
        Ok(_) => {
            let epoch = core.node.disk.borrow().epoch();
            Ok(DirLock {
                core,
                path: path.to_owned(),
                epoch,
            })
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let path = path.display().to_string();
            Err(Error::with_kind(ErrorKind::Locked, "lock", path, error))
        }
        Err(error) => Err(Error::at_path("lock", path, error)),
    }
}

pub(crate) async fn create_dir_all(core: Core, path: &Path) -> Result<()> {
    at_path(
        &core,
        "create the directory",
        path,
        Op::CreateDirs {
            path: path.to_owned(),
        },
    )
    .await
}

pub(crate) async fn list_dir(core: Core, path: &Path) -> Result<Vec<DirEntry>> {
    match perform(
        &core,
        Op::List {
            path: path.to_owned(),
        },
    )
    .await
    {
        Ok(OpOutput::Entries(entries)) => Ok(entries),
        Ok(_) => unreachable!("listing gives entries"),
        Err(error) => Err(Error::at_path("list", path, error)),
    }
}

pub(crate) async fn sync_dir(core: Core, path: &Path) -> Result<()> {
    at_path(
        &core,
        "sync the directory",
        path,
        Op::SyncDir {
            path: path.to_owned(),
        },
    )
    .await
}

pub(crate) async fn rename(core: Core, from: &Path, to: &Path) -> Result<()> {
    let op = Op::Rename {
        from: from.to_owned(),
        to: to.to_owned(),
    };
    at_path(&core, "rename", from, op).await
}

pub(crate) async fn remove_file(core: Core, path: &Path) -> Result<()> {
    at_path(
        &core,
        "remove",
        path,
        Op::RemoveFile {
            path: path.to_owned(),
        },
    )
    .await
}

pub(crate) async fn remove_dir_all(core: Core, path: &Path) -> Result<()> {
    at_path(
        &core,
        "remove the directory",
        path,
        Op::RemoveDir {
            path: path.to_owned(),
        },
    )
    .await
}

pub(crate) async fn space(core: Core, _path: &Path) -> Result<Space> {
    Ok(core.node.disk.borrow_mut().space())
}

async fn at_path(core: &Core, operation: &'static str, path: &Path, op: Op) -> Result<()> {
    match perform(core, op).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::at_path(operation, path, error)),
    }
}

/// Submits an operation and waits for it; forever, if the process ends.
async fn perform(core: &Core, op: Op) -> io::Result<OpOutput> {
    let result = match submit(core, op) {
        Some(receiver) => receiver.await,
        None => Err(oneshot::Closed),
    };
    match result {
        Ok(result) => result,
        Err(oneshot::Closed) => std::future::pending().await,
    }
}

type Completion = oneshot::Receiver<io::Result<OpOutput>>;

fn submit(core: &Core, op: Op) -> Option<Completion> {
    if !core.is_alive() {
        return None;
    }
    let (world, node) = (&core.world, &core.node);
    let (kind, bytes) = weigh(&op);
    let (done, receiver) = oneshot::channel();
    let crash = node
        .crash_at_io
        .get()
        .is_some_and(|n| n <= node.disk.borrow().submitted() + 1);
    let fate = if crash { world.rng.below(3) } else { u64::MAX };
    node.crash_at_io
        .set(node.crash_at_io.get().filter(|_| !crash));
    if fate == 0 {
        world.crash(node);
        return None;
    }
    let number = {
        let mut disk = node.disk.borrow_mut();
        let subject = match disk.faults.goes_by_path() {
            true => disk.subject(&op),
            false => String::new(),
        };
        let verdict = disk.faults.judge(kind, &subject, &world.rng);
        note(world, node, kind, &op, bytes, verdict as u64);
        disk.submit(op, verdict, done)
    };
    match fate {
        1 => {
            node.disk.borrow_mut().complete(number, &world.rng);
            world.crash(node);
            None
        }
        2 => {
            world.crash(node);
            None
        }
        _ => {
            let delay = latency(world, node, kind, bytes);
            schedule(world, node, (number, kind), world.now() + delay);
            Some(receiver)
        }
    }
}

fn weigh(op: &Op) -> (IoKind, usize) {
    match op {
        Op::Read { len, .. } => (IoKind::Read, *len),
        Op::Write { data, .. } => (IoKind::Write, data.len()),
        Op::Allocate { .. } => (IoKind::Write, 0),
        Op::SetLen { .. } => (IoKind::SetLen, 0),
        Op::Sync { .. } => (IoKind::Sync, 0),
        Op::SyncDir { .. } => (IoKind::SyncDir, 0),
        Op::Rename { .. } => (IoKind::Rename, 0),
        _ => (IoKind::Name, 0),
    }
}

fn note(world: &World, node: &Node, kind: IoKind, op: &Op, bytes: usize, verdict: u64) {
    let (step, detail) = match (kind, op) {
        (IoKind::Write, Op::Write { offset, data, .. }) => {
            (TraceStep::Write, offset.rotate_left(32) ^ fingerprint(data))
        }
        (IoKind::Write | IoKind::SetLen, _) => (TraceStep::Write, 0),
        (IoKind::Read, Op::Read { offset, .. }) => (TraceStep::Read, *offset),
        (IoKind::Sync | IoKind::SyncDir, _) => (TraceStep::Sync, 0),
        _ => (TraceStep::Name, 0),
    };
    world.note(step, node.id, [bytes as u64, detail, verdict]);
}

fn latency(world: &World, node: &Node, kind: IoKind, bytes: usize) -> u64 {
    let config = &world.config;
    let range = match kind {
        IoKind::Read => &config.read_latency,
        IoKind::Write | IoKind::SetLen => &config.write_latency,
        IoKind::Sync | IoKind::SyncDir => &config.sync_latency,
        IoKind::Rename | IoKind::Name => &config.name_latency,
    };
    let tail = if world.rng.chance(config.disk_tail_chance) {
        10
    } else {
        1
    };
    let transfer = bytes as u64 * 1_000_000_000 / config.disk_bytes_per_second.max(1);
    let slowness = node.disk.borrow().faults.slowness.max(1);
    (world.draw(range) * tail + transfer) * u64::from(slowness)
}

/// The time of an operation has come: it completes, unless something keeps it.
pub(super) fn done(world: &World, node: &Rc<Node>, number: u64, kind: IoKind) {
    let (stalled_until, held) = {
        let disk = node.disk.borrow();
        (disk.faults.stalled_until, disk.faults.holds(kind))
    };
    if stalled_until > world.now() {
        let jitter = world.rng.below(100_000);
        let at = stalled_until.saturating_add(jitter);
        schedule(world, node, (number, kind), at);
    } else if held || !node.is_awake() {
        node.disk.borrow_mut().held.push((number, kind));
    } else {
        world.note(TraceStep::DiskDone, node.id, [number, 0, 0]);
        node.disk.borrow_mut().complete(number, &world.rng);
    }
}

fn schedule(world: &World, node: &Rc<Node>, (number, kind): (u64, IoKind), at: u64) {
    let node = Rc::clone(node);
    let done = SimEvent::DiskDone { node, number, kind };
    world.executor.schedule(at, done);
}

/// Lets operations complete that were held, but for those that still are.
pub(super) fn release(world: &World, node: &Rc<Node>) {
    let held = std::mem::take(&mut node.disk.borrow_mut().held);
    for operation in held {
        let at = world.now() + world.rng.below(100_000);
        schedule(world, node, operation, at);
    }
}
