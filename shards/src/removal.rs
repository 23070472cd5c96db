//! Gives the space of files that are out of use back in steps.
//!
//! A file system that is mounted with `discard` tells the device of freed space at once, and a device may
//! serve nothing else meanwhile: reads and writes waited for 75 ms when a segment of 256 MiB was removed as a
//! whole. So the name goes first, while the file is held open, and then the file is shortened step by step. After a crash the file system frees what is left of it by itself.
//!
//! Invariant: `held` is the sum over the files without a name, the one being shortened included.

use crate::limits::REMOVAL_HELD_BYTES_MAX;
use crate::pace::{Bucket, PaceLimits, Pressure, STEPS, judge};
use corelith_io::{ErrorKind, File, OpenOptions, Result, spawn_background};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// A compaction leaves a few files behind at once, each shorter than a step, which together are not.
const SHORT_FRACTION: u64 = 16;

/// See the module. Belongs to one core; clones share it.
#[derive(Clone)]
pub struct Removals {
    inner: Rc<RemovalsInner>,
}

struct RemovalsInner {
    step_bytes: u64,
    nameless: RefCell<VecDeque<Nameless>>,
    /// What all of them hold, one being shortened included.
    held: Cell<u64>,
    held_max: Cell<u64>,
    is_running: Cell<bool>,
    /// Steps per second, from the part of the space that may be held back that is.
    rate: Box<dyn Fn(f64) -> Option<u64>>,
    bucket: Bucket,
}

/// A file whose name is gone.
struct Nameless {
    file: File,
    len: u64,
}

impl Removals {
    /// Shortens files by `step_bytes` at a time, one after the other; those shorter than a
    /// [`SHORT_FRACTION`]th of it are removed as a whole.
    pub fn new(step_bytes: u64) -> Self {
        Self::with_rate(step_bytes, |removals| {
            let pressure = Pressure {
                is_busy: true,
                removals,
                ..Pressure::default()
            };
            judge(&pressure, &PaceLimits::default()).removal
        })
    }

    /// As [`Removals::new`]; `rate` gives the steps per second from the part, 0 to 1, of the space that may
    /// be held back that is.
    pub(crate) fn with_rate(step_bytes: u64, rate: impl Fn(f64) -> Option<u64> + 'static) -> Self {
        Self {
            inner: Rc::new(RemovalsInner {
                step_bytes: step_bytes.max(1),
                nameless: RefCell::default(),
                held: Cell::new(0),
                held_max: Cell::new(REMOVAL_HELD_BYTES_MAX),
                is_running: Cell::new(false),
                rate: Box::new(rate),
                bucket: Bucket::new(STEPS),
            }),
        }
    }

    /// Removes the file at `path`, of at most `bytes`, if it is there. Its space comes back later,
    /// or at once if that would hold back too much.
    pub(crate) async fn remove(&self, path: &Path, bytes: u64) -> Result<()> {
        let inner = &self.inner;
        let is_long = bytes > inner.step_bytes / SHORT_FRACTION && inner.held_max.get() > 0;
        let nameless = match is_long {
            // What cannot be opened goes as a whole.
            true => hold(path).await.ok(),
            false => None,
        };
        remove_if_there(path).await?;
        if let Some(nameless) = nameless
            && inner.held.get() + nameless.len <= inner.held_max.get()
        {
            inner.held.set(inner.held.get() + nameless.len);
            inner.nameless.borrow_mut().push_back(nameless);
            self.start();
        }
        Ok(())
    }

    /// Bytes of removed files that are not given back yet.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.inner.held.get()
    }

    /// Whether all space is given back.
    pub(crate) fn is_idle(&self) -> bool {
        !self.inner.is_running.get()
    }

    /// Holds back at most `bytes` from now on, and gives back at once what is beyond.
    pub(crate) fn set_held_max(&self, bytes: u64) {
        let inner = &self.inner;
        inner.held_max.set(bytes);
        while inner.held.get() > bytes
            && let Some(nameless) = inner.pop()
        {
            inner.gave_back(nameless.len);
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

impl RemovalsInner {
    fn pop(&self) -> Option<Nameless> {
        self.nameless.borrow_mut().pop_front()
    }

    fn gave_back(&self, bytes: u64) {
        assert!(self.held.get() >= bytes, "space is given back once");
        self.held.set(self.held.get() - bytes);
    }

    /// How long to wait after a step.
    fn wait(&self) -> Duration {
        let part = self.held.get() as f64 / self.held_max.get().max(1) as f64;
        let rate = (self.rate)(part.min(1.0));
        self.bucket.take(corelith_io::now(), 1, rate)
    }
}

/// Removes the file at `path` as a whole, if there is one.
pub(crate) async fn remove_if_there(path: &Path) -> Result<()> {
    match corelith_io::remove_file(path).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

async fn hold(path: &Path) -> Result<Nameless> {
    let file = OpenOptions::new().write().open(path).await?;
    let len = file.len().await?;
    Ok(Nameless { file, len })
}

/// Gives back the next bytes and returns how long to wait before those after them, if there are any.
async fn step(weak: &Weak<RemovalsInner>) -> Option<Duration> {
    let inner = weak.upgrade()?;
    let Some(nameless) = inner.pop() else {
        assert_eq!(
            inner.held.get(),
            0,
            "no file holds space that is still held"
        );
        inner.is_running.set(false);
        return None;
    };
    let (before, left) = (nameless.len, nameless.len.saturating_sub(inner.step_bytes));
    let shortened = nameless.shorten(left).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the space of a removed file comes back at once");
        None
    });
    inner.gave_back(before - left);
    match shortened {
        Some(nameless) if inner.held.get() <= inner.held_max.get() => {
            inner.nameless.borrow_mut().push_front(nameless);
        }
        // Closed, it gives back the rest.
        _ => inner.gave_back(left),
    }
    Some(inner.wait())
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
