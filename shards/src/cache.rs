//! Blocks of tables kept in memory, up to a budget.
//!
//! Eviction is first-in first-out with a second chance: a block that was used since it came round
//! last goes to the end of the queue once more. A scan's read-ahead does not come here.

use crate::ids::TableId;
use bytes::Bytes;
use corelith_io::collections::HashMap;
use std::cell::RefCell;
use std::collections::VecDeque;

/// Memory of an entry beside its bytes.
const ENTRY_BYTES: usize = 128;

/// The table and the offset of a block.
type Place = (TableId, u64);

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

/// The block cache of one shard. Belongs to one core.
pub(crate) struct BlockCache {
    contents: RefCell<Contents>,
    budget_bytes: usize,
}

impl BlockCache {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Self {
            contents: RefCell::default(),
            budget_bytes,
        }
    }

    /// The payload of a block, if it is held.
    pub(crate) fn get(&self, table: TableId, offset: u64) -> Option<Bytes> {
        let mut contents = self.contents.borrow_mut();
        let cached = contents.blocks.get_mut(&(table, offset))?;
        cached.used = true;
        Some(cached.payload.clone())
    }

    /// Holds the payload of a block, and lets go of others beyond the budget.
    pub(crate) fn insert(&self, table: TableId, offset: u64, payload: Bytes) {
        let cost = payload.len() + ENTRY_BYTES;
        // One block must not push out most others.
        if cost > self.budget_bytes / 8 {
            return;
        }
        let contents = &mut *self.contents.borrow_mut();
        let place = (table, offset);
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
        while contents.bytes > self.budget_bytes {
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
