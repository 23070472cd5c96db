//! Saying that messages of peers were refused, without filling the log.

use crate::admission::Refusal;
use crate::limits::STRANGE_STORES_MAX;
use corelith_io::Instant;
use corelith_wire::{NodeId, ReplicaId, ShardId, StoreId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// Least time between two lines.
const QUIET: Duration = Duration::from_secs(1);

/// The refusals of one core: one line a second, with how many were passed over. That a store is not the
/// group's is said once of each store.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    said: Cell<Option<Instant>>,
    passed_over: Cell<u64>,
    /// The stores of which it was said.
    stores: RefCell<BTreeSet<(ReplicaId, StoreId)>>,
    #[cfg(test)]
    total: Cell<u64>,
}

impl Refusals {
    /// Says that a message about `shard` was refused, or counts it.
    pub(crate) fn note(
        &self,
        shard: ShardId,
        peer: NodeId,
        address: Option<SocketAddr>,
        refusal: &Refusal,
    ) {
        #[cfg(test)]
        self.total.set(self.total.get() + 1);
        if let Refusal::NotTheStore(replica, store) = *refusal {
            return self.note_store(shard, replica, store, address);
        }
        let now = corelith_io::now();
        if self.said.get().is_some_and(|said| now - said < QUIET) {
            self.passed_over.set(self.passed_over.get() + 1);
            return;
        }
        self.said.set(Some(now));
        let more = self.passed_over.replace(0);
        let address = address.map(tracing::field::display);
        tracing::warn!(%shard, %peer, address, %refusal, more, "refused a peer's message");
    }

    fn note_store(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        store: StoreId,
        address: Option<SocketAddr>,
    ) {
        let mut stores = self.stores.borrow_mut();
        if stores.len() < STRANGE_STORES_MAX && stores.insert((replica, store)) {
            let address = address.map(tracing::field::display);
            let refusal = Refusal::NotTheStore(replica, store);
            tracing::warn!(%shard, address, %refusal, "a store takes no part");
        }
    }

    /// How many were refused.
    #[cfg(test)]
    pub(crate) fn total(&self) -> u64 {
        self.total.get()
    }
}
