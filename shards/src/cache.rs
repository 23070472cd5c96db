//! Blocks of tables kept in memory, up to a budget.
//!
//! Eviction is first-in first-out with a second chance: a block that was used since it came round
//! last goes to the end of the queue once more. A scan's read-ahead does not come here.

use bytes::Bytes;
use corelith_io::collections::HashMap;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Memory of an entry beside its bytes.
const ENTRY_BYTES: usize = 128;

/// The number of a file and the offset of a block in it.
type Place = (u64, u64);

struct Cached {
    payload: Bytes,
    used: bool,
}

#[derive(Default)]
struct Contents {
    blocks: HashMap<Place, Cached>,
    queue: VecDeque<Place>,
    bytes: usize,
}

struct Inner {
    contents: RefCell<Contents>,
    budget_bytes: usize,
    next_file: Cell<u64>,
}

/// The block cache of one core, which all its shards share; clones share it.
#[derive(Clone)]
pub struct BlockCache {
    inner: Rc<Inner>,
}

impl BlockCache {
    /// A cache that holds up to `budget_bytes`.
    pub fn new(budget_bytes: usize) -> Self {
        Self {
            inner: Rc::new(Inner {
                contents: RefCell::default(),
                budget_bytes,
                next_file: Cell::new(0),
            }),
        }
    }

    /// A number that names a file here for as long as it is open. Not its table's id: a shard that
    /// is opened again may give the id of an orphan to another table, whose blocks would be mixed up.
    pub(crate) fn next_file_number(&self) -> u64 {
        let number = self.inner.next_file.get();
        self.inner.next_file.set(number + 1);
        number
    }

    /// The payload of a block, if it is held.
    pub(crate) fn get(&self, file: u64, offset: u64) -> Option<Bytes> {
        let mut contents = self.inner.contents.borrow_mut();
        let cached = contents.blocks.get_mut(&(file, offset))?;
        cached.used = true;
        Some(cached.payload.clone())
    }

    /// Holds the payload of a block, and lets go of others beyond the budget.
    pub(crate) fn insert(&self, file: u64, offset: u64, payload: Bytes) {
        let cost = payload.len() + ENTRY_BYTES;
        let budget_bytes = self.inner.budget_bytes;
        // One block must not push out most others.
        if cost > budget_bytes / 8 {
            return;
        }
        let contents = &mut *self.inner.contents.borrow_mut();
        let place = (file, offset);
        let cached = Cached {
            payload,
            used: false,
        };
        if contents.blocks.insert(place, cached).is_some() {
            // Two reads of the same block; it is queued and paid for.
            return;
        }
        contents.queue.push_back(place);
        contents.bytes += cost;
        while contents.bytes > budget_bytes {
            let Some(place) = contents.queue.pop_front() else {
                break;
            };
            match contents.blocks.get_mut(&place) {
                Some(cached) if cached.used => {
                    cached.used = false;
                    contents.queue.push_back(place);
                }
                _ => {
                    if let Some(evicted) = contents.blocks.remove(&place) {
                        contents.bytes -= evicted.payload.len() + ENTRY_BYTES;
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockCache").finish_non_exhaustive()
    }
}
