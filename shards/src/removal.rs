//! Gives the space of files that are out of use back in steps.
//!
//! A file system that is mounted with `discard` tells the device of freed space at once, and many a device
//! serves nothing else meanwhile: with a segment of 256 MiB removed as a whole, reads and writes were measured
//! to wait for 75 ms. So the name goes first, while the file is held open, and then the file is shortened
//! step by step. After a crash the file system frees what is left of it by itself.

use crate::limits::{REMOVAL_BACKLOG_BYTES_MAX, REMOVAL_PAUSE};
use corelith_io::{ErrorKind, File, OpenOptions, Result, spawn_background};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// See the module. Belongs to one core; clones share it.
#[derive(Clone)]
pub struct Removals {
    inner: Rc<Inner>,
}

struct Inner {
    step_bytes: u64,
    nameless: RefCell<VecDeque<Nameless>>,
    /// What all of them hold.
    bytes: Cell<u64>,
    in_haste: Cell<bool>,
    is_running: Cell<bool>,
}

/// A file whose name is gone.
struct Nameless {
    file: File,
    len: u64,
}

impl Removals {
    /// Shortens files by so many bytes at a time; shorter ones are removed as a whole.
    pub fn new(step_bytes: u64) -> Self {
        Self {
            inner: Rc::new(Inner {
                step_bytes: step_bytes.max(1),
                nameless: RefCell::default(),
                bytes: Cell::new(0),
                in_haste: Cell::new(false),
                is_running: Cell::new(false),
            }),
        }
    }

    /// Removes the file at `path`, of at most `bytes`, if it is there. Its space comes back later.
    pub(crate) async fn remove(&self, path: &Path, bytes: u64) -> Result<()> {
        let is_long = bytes > self.inner.step_bytes && !self.inner.in_haste.get();
        let nameless = match is_long {
            true => hold(path).await.ok(),
            false => None,
        };
        match corelith_io::remove_file(path).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Some(nameless) = nameless {
            self.inner.add(nameless);
            self.start();
        }
        Ok(())
    }

    /// Bytes that are still to come back.
    pub(crate) fn bytes(&self) -> u64 {
        self.inner.bytes.get()
    }

    /// Whether all space is given back.
    pub(crate) fn is_idle(&self) -> bool {
        !self.inner.is_running.get()
    }

    /// Gives all space back at once, from now on or for the time being.
    pub(crate) fn set_haste(&self, in_haste: bool) {
        self.inner.in_haste.set(in_haste);
        if in_haste {
            self.inner.nameless.borrow_mut().clear();
            self.inner.bytes.set(0);
        }
    }

    fn start(&self) {
        if self.inner.is_running.replace(true) {
            return;
        }
        let weak = Rc::downgrade(&self.inner);
        drop(spawn_background(async move {
            while let Some(pause) = step(&weak).await {
                corelith_io::sleep(pause).await;
            }
        }));
    }
}

impl Inner {
    fn add(&self, nameless: Nameless) {
        self.bytes.set(self.bytes.get() + nameless.len);
        self.nameless.borrow_mut().push_back(nameless);
    }

    fn gave_back(&self, bytes: u64) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
    }

    /// Shorter the more there is to give back, so that it never becomes more than a bound.
    fn pause(&self) -> Duration {
        let left = REMOVAL_BACKLOG_BYTES_MAX.saturating_sub(self.bytes.get());
        REMOVAL_PAUSE.mul_f64(left as f64 / REMOVAL_BACKLOG_BYTES_MAX as f64)
    }
}

async fn hold(path: &Path) -> Result<Nameless> {
    let file = OpenOptions::new().write().open(path).await?;
    let len = file.len().await?;
    Ok(Nameless { file, len })
}

/// Gives back the next bytes and returns how long to wait before those after them, if there are any.
async fn step(weak: &Weak<Inner>) -> Option<Duration> {
    let inner = weak.upgrade()?;
    let next = inner.nameless.borrow_mut().pop_front();
    let Some(nameless) = next else {
        inner.is_running.set(false);
        return None;
    };
    let (before, left) = (nameless.len, nameless.len.saturating_sub(inner.step_bytes));
    match nameless.shorten(left).await {
        Ok(Some(nameless)) if !inner.in_haste.get() => {
            inner.nameless.borrow_mut().push_front(nameless);
            inner.gave_back(before - left);
        }
        Ok(_) => inner.gave_back(before),
        Err(error) => {
            tracing::warn!(%error, "the space of a removed file comes back at once");
            inner.gave_back(before);
        }
    }
    Some(inner.pause())
}

impl Nameless {
    /// Gives back all but `len` bytes. Closing the file gives back all.
    async fn shorten(self, len: u64) -> Result<Option<Self>> {
        if len == 0 {
            return Ok(None);
        }
        self.file.set_len(len).await?;
        // It makes the file system free them now, apart from those after them.
        self.file.sync().await?;
        Ok(Some(Self { len, ..self }))
    }
}

#[cfg(test)]
mod tests;
