//! The content of one simulated file: what reads see, and what would be left after a power loss.
//!
//! A page is shared, never changed in place: writing puts a new page in the place of the old one,
//! which stays behind as the durable one until a sync. So nothing is copied but the data written.
//!
//! Invariants:
//! * `unsynced` and `lost` have no page in common; both hold, for a page whose durable content
//!   differs from `pages`, that durable content (`None`: a hole).
//! * A page in `lost` was covered by a failed sync: only writing it again makes it durable.
//! * After a sync of all of it, and after a power loss, nothing is unsynced or lost.

use super::super::world::Rng;
use std::collections::BTreeMap;
use std::rc::Rc;

pub(super) const PAGE: usize = 4096;
/// What a device writes atomically.
pub(super) const SECTOR: usize = 512;

pub(super) type Page = Option<Rc<[u8]>>;

#[derive(Clone, Default)]
pub(super) struct Inode {
    /// A path it has had, for error messages and for faults chosen by path.
    pub(super) path: String,
    /// Removed or replaced, though perhaps not durably.
    pub(super) nameless: bool,
    pages: Vec<Page>,
    len: u64,
    durable_len: u64,
    unsynced: BTreeMap<usize, Page>,
    lost: BTreeMap<usize, Page>,
    allocated: u64,
}

/// What a sync covers: the pages written before it began, as they were then.
pub(super) struct SyncSet {
    pages: Vec<(usize, Page)>,
    len: u64,
}

/// How much of the unsynced data a power loss leaves.
#[derive(Clone, Copy)]
pub(super) enum Loss {
    All,
    Nothing,
    /// Page by page all, nothing or a random subset of its sectors.
    Mixed,
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn same(a: &Page, b: &Page) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Rc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

impl Inode {
    pub(super) fn new(path: String) -> Self {
        Self {
            path,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether a power loss would change nothing.
    pub(super) fn is_durable(&self) -> bool {
        self.unsynced.is_empty() && self.lost.is_empty() && self.len == self.durable_len
    }

    fn check_disjoint(&self) {
        debug_assert!(
            self.lost.keys().all(|at| !self.unsynced.contains_key(at)),
            "a page is unsynced or lost"
        );
    }

    /// Bytes of disk space that it takes.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.allocated * PAGE as u64
    }

    /// Bytes of disk space that a write would take beyond what the file has.
    pub(super) fn growth(&self, offset: u64, len: usize) -> u64 {
        let (first, count) = (index(offset) / PAGE, len.div_ceil(PAGE));
        let present = self.pages.iter().skip(first).take(count).flatten().count();
        ((count - present) * PAGE) as u64
    }

    /// Writes whole pages; `offset` and the length are multiples of the page size.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], durable: bool, zeros: &Rc<[u8]>) {
        assert!(
            offset.is_multiple_of(PAGE as u64) && data.len().is_multiple_of(PAGE),
            "whole pages are written"
        );
        let first = index(offset) / PAGE;
        for (at, bytes) in data.chunks(PAGE).enumerate() {
            // Files are made by writing zeros: those share one page.
            let page = if bytes == &zeros[..] {
                Rc::clone(zeros)
            } else {
                Rc::from(bytes)
            };
            self.put(first + at, Some(page), durable);
        }
        let end = offset + data.len() as u64;
        self.len = self.len.max(end);
        if durable {
            self.durable_len = self.durable_len.max(end);
        }
    }

    fn put(&mut self, at: usize, page: Page, durable: bool) {
        if self.pages.len() <= at {
            self.pages.resize(at + 1, None);
        }
        let new = page.is_some();
        let old = std::mem::replace(&mut self.pages[at], page);
        self.allocated += u64::from(new);
        self.allocated -= u64::from(old.is_some());
        if durable {
            self.unsynced.remove(&at);
            self.lost.remove(&at);
        } else if let Some(durable_page) = self.lost.remove(&at) {
            self.unsynced.insert(at, durable_page);
        } else {
            self.unsynced.entry(at).or_insert(old);
        }
        self.check_disjoint();
    }

    /// Copies from `offset` into `to`; returns how many bytes the file had there.
    pub(super) fn read(&self, offset: u64, to: &mut [u8]) -> usize {
        let available = index(self.len.saturating_sub(offset)).min(to.len());
        let mut done = 0;
        while done < available {
            let at = index(offset) + done;
            let within = at % PAGE;
            let count = (PAGE - within).min(available - done);
            let target = &mut to[done..done + count];
            match self.pages.get(at / PAGE) {
                Some(Some(page)) => target.copy_from_slice(&page[within..within + count]),
                _ => target.fill(0),
            }
            done += count;
        }
        available
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let pages = index(len).div_ceil(PAGE);
        for at in pages..self.pages.len() {
            self.put(at, None, false);
        }
        self.pages.truncate(pages);
        let within = index(len) % PAGE;
        if len < self.len
            && within > 0
            && let Some(Some(page)) = self.pages.get(pages - 1)
        {
            let mut cut = page.to_vec();
            cut[within..].fill(0);
            self.put(pages - 1, Some(Rc::from(cut)), false);
        }
        self.len = len;
    }

    /// Fills the holes among the first `len` bytes with zeros, which take space.
    pub(super) fn allocate(&mut self, len: u64, zeros: &Rc<[u8]>) {
        for at in 0..index(len).div_ceil(PAGE) {
            if self.pages.get(at).is_none_or(Option::is_none) {
                self.put(at, Some(Rc::clone(zeros)), false);
            }
        }
        self.len = self.len.max(len);
    }

    pub(super) fn begin_sync(&self) -> SyncSet {
        let page = |at: &usize| (*at, self.pages.get(*at).cloned().flatten());
        SyncSet {
            pages: self.unsynced.keys().map(page).collect(),
            len: self.len,
        }
    }

    pub(super) fn finish_sync(&mut self, set: SyncSet) {
        for (at, synced) in set.pages {
            let now = self.pages.get(at).cloned().flatten();
            if let Some(durable) = self.unsynced.get_mut(&at) {
                if same(&now, &synced) {
                    self.unsynced.remove(&at);
                } else {
                    *durable = synced;
                }
            }
        }
        self.durable_len = set.len;
        self.check_disjoint();
    }

    /// The kernel reports the failure once and takes the pages for clean.
    pub(super) fn fail_sync(&mut self, set: SyncSet) {
        for (at, _) in set.pages {
            if let Some(durable) = self.unsynced.remove(&at) {
                let before = self.lost.insert(at, durable);
                debug_assert!(before.is_none(), "a page is unsynced or lost");
            }
        }
    }

    pub(super) fn sync_all(&mut self) {
        let set = self.begin_sync();
        self.finish_sync(set);
        self.lost.clear();
        assert!(self.is_durable(), "what is synced is durable");
        debug_assert_eq!(
            self.allocated,
            self.pages.iter().flatten().count() as u64,
            "the space of a file is that of its pages"
        );
    }

    pub(super) fn power_loss(&mut self, loss: Loss, rng: &Rng) {
        for (at, durable) in std::mem::take(&mut self.lost) {
            self.replace(at, durable);
        }
        for (at, durable) in std::mem::take(&mut self.unsynced) {
            let volatile = self.pages.get(at).cloned().flatten();
            let kept = match (loss, rng.below(3)) {
                (Loss::Nothing, _) | (Loss::Mixed, 0) => volatile,
                (Loss::All, _) | (Loss::Mixed, 1) => durable,
                (Loss::Mixed, _) => torn(&durable, &volatile, rng),
            };
            self.replace(at, kept);
        }
        if self.len != self.durable_len {
            let (low, high) = (
                self.len.min(self.durable_len),
                self.len.max(self.durable_len),
            );
            self.len = match (loss, rng.below(3)) {
                (Loss::Nothing, _) | (Loss::Mixed, 0) => self.len,
                (Loss::All, _) | (Loss::Mixed, 1) => self.durable_len,
                (Loss::Mixed, _) => (low + rng.below(high - low))
                    .next_multiple_of(PAGE as u64)
                    .min(high),
            };
        }
        self.pages.truncate(index(self.len).div_ceil(PAGE));
        self.durable_len = self.len;
        self.allocated = self.pages.iter().flatten().count() as u64;
        assert!(self.is_durable(), "what a power loss left is durable");
    }

    fn replace(&mut self, at: usize, page: Page) {
        if self.pages.len() <= at {
            self.pages.resize(at + 1, None);
        }
        self.pages[at] = page;
    }

    /// Changes a byte in the volatile and the durable image alike, as a decaying medium would.
    pub(super) fn decay(&mut self, offset: u64, change: impl Fn(u8) -> u8) {
        let at = index(offset) / PAGE;
        let within = index(offset) % PAGE;
        let decayed = |page: &mut Page| {
            let mut bytes = page
                .as_ref()
                .map_or_else(|| vec![0; PAGE], |page| page.to_vec());
            bytes[within] = change(bytes[within]);
            *page = Some(Rc::from(bytes));
        };
        assert!(offset < self.len, "{} has no byte {offset}", self.path);
        if self.pages.len() <= at {
            self.pages.resize(at + 1, None);
        }
        decayed(&mut self.pages[at]);
        self.allocated = self.pages.iter().flatten().count() as u64;
        if let Some(page) = self
            .unsynced
            .get_mut(&at)
            .or_else(|| self.lost.get_mut(&at))
        {
            decayed(page);
        }
    }
}

/// A page of which a random subset of the sectors was written.
fn torn(old: &Page, new: &Page, rng: &Rng) -> Page {
    let mut bytes = old
        .as_ref()
        .map_or_else(|| vec![0; PAGE], |page| page.to_vec());
    for sector in (0..PAGE).step_by(SECTOR) {
        if rng.below(2) == 0 {
            let to = &mut bytes[sector..sector + SECTOR];
            match new {
                Some(new) => to.copy_from_slice(&new[sector..sector + SECTOR]),
                None => to.fill(0),
            }
        }
    }
    Some(Rc::from(bytes))
}
