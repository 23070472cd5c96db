//! Keeps a scan's state on the shards while the application polls slowly.
//!
//! A shard drops overwritten values unless a reader needs them, and forgets a reader that is silent for
//! long. So a task that lives as long as the scan sends touches: now and then an empty page request to
//! each shard that the scan still needs. An abandoned scan would hold garbage on the shards forever, so
//! the task ends if the scan is not polled for long.

use crate::client::Client;
use crate::limits::{
    SCAN_FETCHES_MAX, SCAN_IDLE_MAX, SCAN_PAGE_BYTES_MIN, SCAN_TOUCH_DEADLINE, SCAN_TOUCH_PAUSE,
};
use crate::operation::Request;
use crate::replicas::Source;
use bytes::Bytes;
use corelith_wire::ShardId;
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinHandle;

/// Where a shard's next page starts, and at which log index.
#[derive(Clone, Debug)]
struct KeptPlace {
    start: Bytes,
    at_version: u64,
    /// Where it is kept.
    source: Source,
    /// A page was requested since the last touch.
    fresh: bool,
}

#[derive(Debug, Default)]
struct KeptPlaces {
    places: Mutex<BTreeMap<ShardId, KeptPlace>>,
    polled: AtomicBool,
}

impl KeptPlaces {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, KeptPlace>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keeper of one scan. Dropping it ends its task.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    places: Arc<KeptPlaces>,
    task: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Notes that the application polled the scan.
    pub(super) fn polled(&self) {
        if self.task.is_some() {
            self.places.polled.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that the next page of `shard` starts at `start`, as of `at_version`, and comes from `source`.
    pub(super) fn keep(
        &mut self,
        client: &Client,
        shard: ShardId,
        start: Bytes,
        at_version: u64,
        source: Source,
    ) {
        let place = KeptPlace {
            start,
            at_version,
            source,
            fresh: true,
        };
        self.places.lock().insert(shard, place);
        if self.task.is_none() {
            let touching = touch(client.clone(), Arc::clone(&self.places));
            self.task = Some(tokio::spawn(touching));
        }
    }

    /// Notes that the scan needs no further page of `shard`.
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

async fn touch(client: Client, places: Arc<KeptPlaces>) {
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
                // An empty range: the request only touches the state.
                end: place.start,
                limit_items: 1,
                max_bytes: SCAN_PAGE_BYTES_MIN,
                at_version: place.at_version,
                keys_only: true,
            };
            client.run_from(request, Some(SCAN_TOUCH_DEADLINE), place.source)
        });
        // If a touch fails, the next page request reports the error.
        touches
            .for_each_concurrent(
                SCAN_FETCHES_MAX,
                |touched| async move { drop(touched.await) },
            )
            .await;
    }
}

/// The shards to touch: no page was requested from them since the last touch.
fn due(places: &mut BTreeMap<ShardId, KeptPlace>) -> Vec<(ShardId, KeptPlace)> {
    let due = places.iter_mut().filter_map(|(shard, place)| {
        let is_due = !std::mem::replace(&mut place.fresh, false);
        is_due.then(|| (*shard, place.clone()))
    });
    due.collect()
}
