//! Keeps what an open scan sees while its application is slow.
//!
//! A shard drops what has been overwritten unless somebody reads it, and forgets a reader that says
//! nothing for long. So the scan says something: for each shard whose next page may be wanted, an empty
//! request now and then, from a task that lives as long as the scan. A scan that is forgotten would hold
//! the shards' garbage for ever, so the task ends when the scan has not been polled for long.

use crate::client::Client;
use crate::limits::{
    SCAN_FETCHES_MAX, SCAN_IDLE_MAX, SCAN_PAGE_BYTES_MIN, SCAN_TOUCH_DEADLINE, SCAN_TOUCH_PAUSE,
};
use crate::operation::Request;
use bytes::Bytes;
use corelith_wire::ShardId;
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinHandle;

/// What a shard's next page would be asked for with.
#[derive(Clone, Debug)]
struct Place {
    start: Bytes,
    at_version: u64,
    /// Asked for a page since the last touch.
    fresh: bool,
}

#[derive(Debug, Default)]
struct Places {
    places: Mutex<BTreeMap<ShardId, Place>>,
    polled: AtomicBool,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keeper of one scan. Its task ends with it.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    places: Arc<Places>,
    task: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Notes that the application asks for more.
    pub(super) fn polled(&self) {
        if self.task.is_some() {
            self.places.polled.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that the next page of `shard` starts at `start`, as of `at_version`.
    pub(super) fn keep(&mut self, client: &Client, shard: ShardId, start: Bytes, at_version: u64) {
        let place = Place {
            start,
            at_version,
            fresh: true,
        };
        self.places.lock().insert(shard, place);
        if self.task.is_none() {
            let touching = touch(client.clone(), Arc::clone(&self.places));
            self.task = Some(tokio::spawn(touching));
        }
    }

    /// Notes that no page of `shard` is wanted any more.
    pub(super) fn forget(&mut self, shard: ShardId) {
        if self.task.is_some() {
            self.places.lock().remove(&shard);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn touch(client: Client, places: Arc<Places>) {
    let mut idle = std::time::Duration::ZERO;
    while idle < SCAN_IDLE_MAX {
        tokio::time::sleep(SCAN_TOUCH_PAUSE).await;
        idle = match places.polled.swap(false, Ordering::Relaxed) {
            true => SCAN_TOUCH_PAUSE,
            false => idle + SCAN_TOUCH_PAUSE,
        };
        let due = due(&mut places.lock());
        let touches = stream::iter(due).map(|(shard, place)| {
            let request = Request::Scan {
                shard,
                start: place.start.clone(),
                // Nothing lies between: the view alone is used.
                end: place.start,
                limit_items: 1,
                max_bytes: SCAN_PAGE_BYTES_MIN,
                at_version: place.at_version,
                keys_only: true,
            };
            client.run(request, Some(SCAN_TOUCH_DEADLINE))
        });
        // What does not succeed shows at the next page.
        touches
            .for_each_concurrent(
                SCAN_FETCHES_MAX,
                |touched| async move { drop(touched.await) },
            )
            .await;
    }
}

/// Those that no page has been asked for since the last time.
fn due(places: &mut BTreeMap<ShardId, Place>) -> Vec<(ShardId, Place)> {
    let due = places.iter_mut().filter_map(|(shard, place)| {
        let is_due = !std::mem::replace(&mut place.fresh, false);
        is_due.then(|| (*shard, place.clone()))
    });
    due.collect()
}
